"""Plans: proposals that were brought here, what each would mean, and this member's word on it.

Members exchange proposals as files, by any way, or their services do over the hub (`exchange` in the service's file): a person reads
here what came, and signs. What is approved is the statement that was shown, told by its digest: a plan that was changed is another
one, and a file whose bytes were changed is refused by its signatures.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from hansa.console.actions import Done, Form, Offered
from hansa.console.member import Asked, Member, NotThere, shown_run
from hansa.console.signing import asks_passphrase, signer
from hansa.consortium.approvals import (
    PROPOSAL_TYPE,
    REJECTION_TYPE,
    Proposal,
    approve,
    proposal_digest_of,
    proposal_of,
    read_rejection,
    reject,
    rejection_of,
    withdraw,
)
from hansa.consortium.envelopes import envelope_of, read_envelope, written
from hansa.errors import HansaError, PlanError
from hansa.node.consent import Review, review
from hansa.node.plan_report import Opened, opened_under
from hansa.node.proposals import Listed, kind_of
from hansa.plan import COOPETITIVE, MASKED, Plan, write_plan
from hansa.service.config import Consortium
from hansa.service.inbox import proposal_in, submit
from hansa.service.plan_list import ListedPlan, PlansView, checked_proposal, listed_in, plans_of
from hansa.service.proposals import forget_proposal, keep_proposal, keep_rejection

FAILED = ("failed", "refused", "lost")
"""States of runs that somebody has to look at."""

LAST_RUNS = 200
"""Of which one is looked for, whose plan a new one is held against."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FILE = "the file"

Learnt = tuple[str, str]
"""Who, and what."""

_AT_END = ("at the end", "model file to the receivers")
_ALL = "cuts, base score"
LEARNS: dict[str, tuple[Learnt, ...]] = {
    "federated": (
        ("aggregator or hub", "each party's sums; the model"),
        ("party or server", "the model as it grows"),
        ("everybody", f"{_ALL}, scales"),
        _AT_END,
        ("how", "sums in the clear inside TLS"),
    ),
    MASKED: (
        ("aggregator or hub", "sums over all parties; the model"),
        ("party or server", "the model as it grows"),
        ("everybody", f"{_ALL}, scales"),
        _AT_END,
        ("how", "pairwise masks on every sum"),
    ),
    COOPETITIVE: (
        ("aggregator or hub", "sizes and timing"),
        ("party or server", "sizes and timing, and the openings"),
        ("everybody", f"{_ALL}, the plan's metrics or bit"),
        ("at the end", "only receivers can open the model"),
        ("how", "replicated secret sharing, three servers"),
    ),
}
"""Who learns what in each mode: the table of SECURITY.md, which a test holds this to."""


class PlanView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One proposal, as somebody reads it before it is approved.

    Attributes:
        listed: as in the list. review: roles and approvals, what would be sent, who can read what, this member's own rules, and what
            differs from the last plan. learns: who learns what in this mode. openings: what a coopetitive run opens. text: the plan.
        against: the run whose plan it is held against; empty where there is none. passphrase: whether one is asked for to sign.
        allowed: whether this member's policy allows it. open: whether it may still be approved.
    """

    listed: ListedPlan
    review: Review
    learns: tuple[Learnt, ...]
    openings: tuple[Opened, ...]
    text: str
    against: str
    passphrase: bool
    allowed: bool
    open: bool


def plans(member: Member, _: Asked) -> PlansView:
    """All proposals that were brought here."""
    found = plans_of(member.service, member.store, lambda consortium, folder: _list(member, consortium, folder))
    listed = (own if own.run is None else msgspec.structs.replace(own, run=shown_run(own.run)) for own in found.plans)
    return msgspec.structs.replace(found, plans=tuple(listed))


def waiting_plans(member: Member) -> Iterator[tuple[str, str]]:
    """What waits for a person: a sentence and a page for each."""
    for own in plans(member, Asked()).plans:
        page = f"/plans/{own.proposal.proposal}"
        if own.proposal.state == "open" and own.mine == "waits":
            yield f"{own.proposal.name}: read it, and approve or reject it", page
        elif own.proposal.state == "open" and own.mine == "approved":
            yield f"{own.proposal.name}: bring the approval of {', '.join(own.proposal.missing)}", page
        elif own.proposal.state == "approved" and own.run is None:
            yield f"{own.proposal.name}: all have approved; give it to the service", page
        elif own.proposal.state in ("rejected", "withdrawn") and own.mine == "approved" and own.run is None:
            who = ", ".join(own.proposal.rejected)
            yield f"{own.proposal.name}: {who} does not approve it; read why, and take it away", page
        elif own.run is not None and own.run.state in FAILED and own.proposal.expires >= datetime.now(UTC):
            yield f"{own.proposal.name}: its run ended, {own.run.state}; read why", f"/runs/{own.run.run}"


def plan(member: Member, asked: Asked) -> PlanView:
    """One proposal. Raises NotThere."""
    consortium, proposal = kept_proposal(member, asked.get("proposal"))
    folder = member.proposals(consortium)
    listed = next(
        own
        for own in plans(member, Asked()).plans
        if own.proposal.proposal == proposal.digest.hex() and own.consortium == consortium.name
    )
    against, before = _last(member, consortium, proposal)
    rejections = [read_rejection(path, proposal) for path in _rejections(folder, proposal)]
    rules = consortium.policy.rules(proposal.plan, consortium.identity.name in proposal.plan.parties)
    return PlanView(
        listed=listed,
        review=review(proposal, rejections, rules, before),
        learns=LEARNS[proposal.plan.mode],
        openings=opened_under(proposal.plan),
        text=write_plan(proposal.plan),
        against=against,
        passphrase=asks_passphrase(consortium),
        allowed=all(rule.met for rule in rules),
        open=listed.proposal.state == "open" and datetime.now(UTC) <= proposal.predicate.expires,
    )


# Actions


def bring(member: Member, form: Form) -> Done:
    """Take in a file that another member sent: a proposal, a copy with more approvals, or a rejection. Every signature is checked."""
    if not form.file:
        raise PlanError("no file came; choose the proposal that a member sent, and send it again")
    kind = kind_of(form.file)
    if kind == REJECTION_TYPE:
        return _bring_rejection(member, form.file)
    if kind != PROPOSAL_TYPE:
        raise PlanError(
            "the file is no proposal and no rejection of one; ask the member that sent it for the file anew"
        )
    proposal, consortium = proposal_in(form.file, _FILE, member.service)
    return keep(member, consortium, proposal, "is here")


def keep(member: Member, consortium: Consortium, proposal: Proposal, told: str) -> Done:
    """Keep a proposal here, joined with the copy that is there."""
    proposal = keep_proposal(member.proposals(consortium), consortium, proposal)
    left = f"; still to approve: {', '.join(proposal.missing)}" if proposal.missing else "; all have approved it"
    digest = proposal.digest.hex()
    return Done(text=f"{proposal.plan.name} {told}{left}", to=f"/plans/{digest}", about=digest)


def _bring_rejection(member: Member, content: bytes) -> Done:
    envelope = envelope_of(content, _FILE)
    consortium, proposal = kept_proposal(member, proposal_digest_of(envelope, _FILE))
    rejection = rejection_of(envelope, _FILE, proposal)
    keep_rejection(member.proposals(consortium), consortium, proposal, rejection, content)
    digest = proposal.digest.hex()
    text = f"{rejection.member} does not approve {proposal.plan.name}: {rejection.reason}"
    return Done(text=text, to=f"/plans/{digest}", about=digest)


def approve_plan(member: Member, form: Form) -> Done:
    """Sign a proposal for this member, where its policy allows the plan."""
    consortium, proposal = kept_proposal(member, form.get("proposal"))
    name = consortium.identity.name
    broken = [rule for rule in consortium.policy.rules(proposal.plan, name in proposal.plan.parties) if not rule.met]
    if broken:
        raise PlanError(
            f"this member's policy does not allow this plan: {broken[0].text} ({broken[0].key}); reject it, or change the policy",
            rule=broken[0].key,
        )
    if _rejections(member.proposals(consortium), proposal):
        raise PlanError("a member rejected this plan; it is to be proposed anew")
    if name in proposal.signatures:
        raise PlanError(f"{name} has approved this plan already")
    signed = approve(proposal, signer(consortium, form.get("passphrase")))
    return keep(member, consortium, signed, f"is approved by {name}")


def reject_plan(member: Member, form: Form) -> Done:
    """Write a signed statement that this member does not approve a proposal; where it had approved, that it takes that back."""
    consortium, proposal = kept_proposal(member, form.get("proposal"))
    reason = form.get("reason").strip()
    if not reason:
        raise PlanError("give a reason, for the others to read")
    identity = signer(consortium, form.get("passphrase"))
    taken_back = identity.name in proposal.signatures
    content = (withdraw if taken_back else reject)(proposal, identity, reason)
    rejection = rejection_of(envelope_of(content, _FILE), _FILE, proposal)
    keep_rejection(member.proposals(consortium), consortium, proposal, rejection, content)
    digest = proposal.digest.hex()
    what = "the approval is taken back" if taken_back else "rejected"
    return Done(text=f"{proposal.plan.name}: {what}: {reason}", to=f"/plans/{digest}", about=digest)


def give(member: Member, form: Form) -> Done:
    """Give a proposal that all have approved to this member's service."""
    consortium, proposal = kept_proposal(member, form.get("proposal"))
    folder = member.proposals(consortium)
    if rejections := _rejections(folder, proposal):
        who = read_rejection(rejections[0], proposal).member
        raise PlanError(f"{who} does not approve this plan any more; it is to be proposed anew")
    run = submit(member.service, folder / f"{proposal.digest.hex()}.json")
    digest = proposal.digest.hex()
    text = f"{proposal.plan.name} is given to the service; the run {run.run} begins once every member has done so"
    return Done(text=text, to=f"/plans/{digest}", about=digest)


def take_away(member: Member, form: Form) -> Done:
    """Forget a proposal, and its rejections, here. What the service has of it stays."""
    consortium, proposal = kept_proposal(member, form.get("proposal"))
    forget_proposal(member.proposals(consortium), proposal.digest.hex())
    return Done(text=f"{proposal.plan.name} is taken away here", to="/plans", about=proposal.digest.hex())


# Files for the others


def proposal_file(member: Member, asked: Asked) -> Offered:
    """A proposal with its approvals, to be sent to the others."""
    _, proposal = kept_proposal(member, asked.get("proposal"))
    name = f"{proposal.plan.name}-{proposal.digest.hex()[:8]}.json"
    return Offered(name=_plain(name), kind="application/json", content=written(proposal.envelope))


def rejection_file(member: Member, asked: Asked) -> Offered:
    """A member's rejection, to be sent to the others."""
    consortium, proposal = kept_proposal(member, asked.get("proposal"))
    for path in _rejections(member.proposals(consortium), proposal):
        if read_rejection(path, proposal).member == asked.get("member"):
            name = f"{proposal.plan.name}-{proposal.digest.hex()[:8]}-{asked.get('member')}.json"
            return Offered(name=_plain(name), kind="application/json", content=written(read_envelope(path)))
    raise NotThere(f"{asked.get('member')!r:.80} did not reject this plan")


# What is kept


def _plain(name: str) -> str:
    """A name for a file, of plain characters alone."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", name)


def kept_proposal(member: Member, digest: str) -> tuple[Consortium, Proposal]:
    """The proposal of this digest, its signatures checked. Raises NotThere."""
    if _DIGEST.fullmatch(digest):
        for consortium in member.service.consortia:
            path = member.proposals(consortium) / f"{digest}.json"
            if path.is_file():
                return consortium, checked_proposal(path, consortium, member.store)
    raise NotThere("this proposal was not brought here; bring its file first")


def _rejections(folder: Path, proposal: Proposal) -> list[Path]:
    return sorted(folder.glob(f"{proposal.digest.hex()}-*.json"))


def _list(member: Member, consortium: Consortium, folder: Path) -> Listed:
    """The proposals in a folder. They are read anew, and their signatures checked, where a file or a member is another, or a minute has
    passed."""
    files = sorted((path.name, path.stat().st_mtime_ns) for path in folder.glob("*.json"))
    members, standing = consortium.members.digest(), consortium.members.standing
    state = (f"{datetime.now(UTC):%Y-%m-%d %H:%M}", members, "" if standing is None else standing.digest, *files)
    known = member.listed.get(consortium.name)
    if known is None or known[0] != state:
        known = (state, listed_in(consortium, folder, member.store))
        member.listed[consortium.name] = known
    return known[1]


def _last(member: Member, consortium: Consortium, proposal: Proposal) -> tuple[str, Plan | None]:
    """The newest run of a plan of this name, or of any, and its plan."""
    known = [
        run
        for run in member.store.page(0, LAST_RUNS)
        if run.folder and run.consortium == consortium.name and run.proposal != proposal.digest.hex()
    ]
    for run in sorted(known, key=lambda run: run.plan != proposal.plan.name):
        path = member.service.runs / run.folder / "plan.json"
        try:
            return run.run, proposal_of(read_envelope(path), str(path)).plan
        except HansaError:
            continue  # taken away since
    return "", None
