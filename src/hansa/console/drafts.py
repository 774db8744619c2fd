"""New plans: a form that writes one from the columns of this member's own table, a draft that is read and changed, and its proposal."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hansa.console.actions import Done, Form
from hansa.console.member import Asked, Member, NotThere
from hansa.console.plans import LEARNS, Learnt, keep
from hansa.console.signing import asks_passphrase, signer
from hansa.consortium.approvals import DEFAULT_DAYS, propose
from hansa.data.schema import DECIMAL_SIGNS
from hansa.errors import PlanError
from hansa.exposure import exposure, released
from hansa.files import make_folder, read_text, write_whole
from hansa.node.plan_draft import Roles, draft
from hansa.node.schema_proposal import propose_schema
from hansa.plan import MODES, parse_plan
from hansa.trees.losses import OBJECTIVES

MOST_DRAFTS = 100
MOST_TEXT = 5 * 2**20
"""Bytes of a draft."""

_DRAFT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the service's file from which columns are read: its place in [[sources]], and its name."""

    place: int
    table: str


class DraftShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft in the list: its name, and when it was changed."""

    name: str
    changed: datetime


class NewPlanView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the form for a new plan offers: members by consortium, tables, modes and objectives; and drafts that are there."""

    consortia: dict[str, tuple[str, ...]]
    sources: tuple[Source, ...]
    modes: tuple[str, ...]
    objectives: tuple[str, ...]
    decimals: tuple[str, ...]
    drafts: tuple[DraftShown, ...]


class DraftView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft of a plan.

    Attributes:
        name, text: of it. shown: the text in short; forms send it back. fault: why it is no plan; empty where it is one.
        digest, mode: of the plan. learns, exposure, release: who learns what. consortia: that a proposal may go to.
        passphrase: whether one is asked for to sign. days: of a proposal.
    """

    name: str
    text: str
    shown: str
    fault: str
    digest: str
    mode: str
    learns: tuple[Learnt, ...]
    exposure: tuple[str, ...]
    release: tuple[str, ...]
    consortia: tuple[str, ...]
    passphrase: bool
    days: int


def new_plan(member: Member, _: Asked) -> NewPlanView:
    """What the form offers."""
    folder = _folder(member)
    paths = sorted(folder.glob("*.toml")) if folder.is_dir() else []
    return NewPlanView(
        consortia={own.name: tuple(own.members) for own in member.service.consortia},
        sources=tuple(
            Source(place=place, table=own.table)
            for place, own in enumerate(member.service.document.sources)
            if own.table is not None
        ),
        modes=MODES,
        objectives=OBJECTIVES,
        decimals=DECIMAL_SIGNS,
        drafts=tuple(
            DraftShown(name=path.stem, changed=datetime.fromtimestamp(path.stat().st_mtime, UTC)) for path in paths
        ),
    )


def draft_page(member: Member, asked: Asked) -> DraftView:
    """One draft. Raises NotThere."""
    name = asked.get("draft")
    text = read_text(_path(member, name))
    fault = digest = mode = ""
    learns: tuple[Learnt, ...] = ()
    shown: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    try:
        plan = parse_plan(text, name)
    except PlanError as error:
        fault = str(error)
    else:
        digest, mode = plan.digest().hex(), plan.mode
        learns, shown, leaves = LEARNS[mode], exposure(plan), released(plan)
    consortia = member.service.consortia
    return DraftView(
        name=name,
        text=text,
        shown=_stamp(text),
        fault=fault,
        digest=digest,
        mode=mode,
        learns=learns,
        exposure=shown,
        release=leaves,
        consortia=tuple(own.name for own in consortia),
        passphrase=any(asks_passphrase(own) for own in consortia),
        days=DEFAULT_DAYS,
    )


def write_draft(member: Member, form: Form) -> Done:
    """Write a draft of a plan from the columns of this member's table and the members of its consortium."""
    name = form.get("name").strip()
    _check_name(name)
    consortium = member.service.consortium(form.get("consortium"))
    rounds = form.get("rounds") or "100"
    if not rounds.isascii() or not rounds.isdigit() or not 0 < len(rounds) < 7:
        raise PlanError("rounds: write a whole number above 0")
    schema = propose_schema(
        [_table(member, form.get("source"))],
        [],
        labels=[label] if (label := form.get("label").strip()) else [],
        decimal=form.get("decimal") or ".",
        ranges=False,
    )
    roles = Roles(
        hub=form.get("hub") or None,
        servers=form.all("servers") or None,
        parties=form.all("parties") or None,
        receivers=form.all("receivers") or None,
    )
    objective, union = form.get("objective") or None, bool(form.get("union"))
    made = draft(name, form.get("mode"), consortium.members, roles, schema, objective, int(rounds), union)
    folder = _folder(member)
    make_folder(folder)
    if sum(1 for _ in folder.glob("*.toml")) >= MOST_DRAFTS:
        raise PlanError(f"{MOST_DRAFTS} drafts are kept here already; take old ones away first")
    if (folder / f"{name}.toml").exists():
        raise PlanError(f"there is a draft {name!r} already; take it away, or choose another name")
    write_whole(folder / f"{name}.toml", made.text.encode("utf-8"))
    return Done(
        text="; ".join((*made.notes, f"{name} is written; read it and change it")), to=f"/drafts/{name}", about=name
    )


def save_draft(member: Member, form: Form) -> Done:
    """Keep a draft as it was changed. One that is no plan is kept too, and its page says why."""
    name = form.get("draft")
    _as_shown(member, name, form)
    _keep_text(member, name, form.get("text"))
    return Done(text=f"{name} is saved", to=f"/drafts/{name}", about=name)


def propose_draft(member: Member, form: Form) -> Done:
    """Make a proposal of a draft as it is shown, signed by this member, and keep it among the plans."""
    name = form.get("draft")
    text = _as_shown(member, name, form)
    days = form.get("days") or str(DEFAULT_DAYS)
    if not days.isascii() or not days.isdigit() or len(days) > 3:
        raise PlanError("days: write a whole number")
    plan = parse_plan(text, name)
    consortium = member.service.consortium(form.get("consortium"))
    broken = [rule for rule in consortium.policy.rules(plan, consortium.identity.name in plan.parties) if not rule.met]
    if broken:
        raise PlanError(
            f"this member's own policy does not allow this plan: {broken[0].text} ({broken[0].key}); change one of them"
        )
    made = propose(plan, consortium.members, signer(consortium, form.get("passphrase")), int(days))
    return keep(member, consortium, made, f"is proposed by {consortium.identity.name}")


def take_draft_away(member: Member, form: Form) -> Done:
    """Forget a draft."""
    name = form.get("draft")
    _path(member, name).unlink(missing_ok=True)
    return Done(text=f"the draft {name} is taken away", to="/new-plan", about=name)


def _as_shown(member: Member, name: str, form: Form) -> str:
    """A draft's text. Raises PlanError where it was changed since it was shown: nobody signs what they did not read."""
    text = read_text(_path(member, name))
    if form.get("shown") != _stamp(text):
        raise PlanError(f"the draft {name} was changed since this page was loaded; load it again and read it")
    return text


def _stamp(text: str) -> str:
    """A draft's text in short."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _keep_text(member: Member, name: str, text: str) -> None:
    content = text.replace("\r\n", "\n").encode("utf-8")
    if len(content) > MOST_TEXT:
        raise PlanError(f"the draft has {len(content)} bytes; at most {MOST_TEXT} are kept")
    write_whole(_path(member, name), content)


def _table(member: Member, source: str) -> Path:
    """The table of this place in the service's file. Raises PlanError."""
    sources = member.service.document.sources
    if source.isascii() and source.isdigit() and len(source) < 5 and int(source) < len(sources):
        table = sources[int(source)].table
        if table is not None:
            return member.service.path.parent / table
    raise PlanError("choose a table of this member; [[sources]] of the service's file names them")


def _check_name(name: str) -> None:
    if not _DRAFT.fullmatch(name):
        raise PlanError(f"{name!r:.80} cannot name a plan here: write 1 to 63 of a-z, A-Z, 0-9, dashes and underscores")


def _path(member: Member, name: str) -> Path:
    """The file of a draft that is there. Raises NotThere."""
    path = _folder(member) / f"{name}.toml"
    if not _DRAFT.fullmatch(name) or not path.is_file():
        raise NotThere(f"there is no draft {name!r:.80}")
    return path


def _folder(member: Member) -> Path:
    return member.service.state / "drafts"
