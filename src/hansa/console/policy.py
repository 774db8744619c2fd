"""Settings: this member's policy, what each of its rules would have refused, and how it is changed.

A policy is held to every plan that this member knows: proposals that were brought here, and plans of its runs. What is saved goes into
the service's own file, in place of its table of the policy, and all else in that file stays as it is written.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from hansa.console.actions import Done, Form
from hansa.console.member import Asked, Member
from hansa.consortium.approvals import proposal_of
from hansa.consortium.envelopes import read_envelope
from hansa.consortium.policy import STRENGTH, Policy
from hansa.declared import decode
from hansa.errors import HansaError, OutputError, PlanError
from hansa.files import read_text, write_whole
from hansa.plan import Plan
from hansa.service.config import Consortium, ServiceDocument
from hansa.toml import read_toml, write_toml

MOST_PLANS = 200
"""Plans that a policy is held to: the newest."""

MEANINGS: dict[str, str] = {
    "least_mode": "Plans of a weaker mode are refused.",
    "allow_two_parties": "Sums with only one other party may be formed: each then knows the other's part.",
    "allow_other_rosters": "Rows that were trained with one set of members may be trained with another.",
    "least_party_rows": "The least privacy.min_party_rows of a plan in a protected mode.",
    "aggregators": "Who may be the aggregator or the hub; empty: anybody.",
    "servers": "Who may be a compute server; empty: anybody.",
    "receivers": "Who may get the model; empty: anybody.",
    "features": "Columns that may be features; empty: any.",
    "labels": "Columns that may be the label; empty: any.",
    "least_min_cell_rows": "The least min_cell_rows of a plan.",
    "least_min_child_weight": "The least min_child_weight of a plan.",
    "least_rows_of_others": "Training rows that all other parties together must have.",
    "most_rows_of_others": "Training rows that another party may say it has; empty: no limit.",
    "most_max_bin": "The greatest max_bin; empty: no limit.",
    "most_max_depth": "The greatest depth of trees; empty: no limit.",
    "most_rounds": "The most rounds; empty: no limit.",
    "most_runs": "Runs on the same rows, by the ledger; empty: no limit.",
    "most_trees": "Trees of all runs on the same rows, by the ledger; empty: no limit.",
    "most_leaves": "Leaves of all runs on the same rows, by the ledger; empty: no limit.",
    "plans": "Digests of the plans that may run; empty: any.",
    "approved_plans_only": "A plan runs only where every member with a role has signed it.",
    "signed_members_only": "Members must stand in a consortium's file, which every member signed.",
    "functions": "SHA-256 of files whose functions may run on this party's rows.",
    "new_logs": "Names of audit logs that others may show in place of the one before.",
}
"""What each rule means, in the words of the page; a test holds that none is missing."""


class RuleShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule of the policy that is shown.

    Attributes:
        key, meaning: of it. kind: "mode", "box", "number" or "names": how it is written. value: as a form has it. changed: whether it
            differs from the one in the service's file. refuses: what it would have refused: the plan, and what that has.
    """

    key: str
    meaning: str
    kind: str
    value: str
    changed: bool
    refuses: tuple[tuple[str, str], ...]


class PolicyShown(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The policy of one consortium, or one that somebody tries.

    Attributes:
        consortium: its name in the service's file; empty where it has one alone. rules: of it. plans: how many it was held to.
        refused: how many of these some rule refuses. tried: whether it is another than the service's file has. fault: why what somebody
            tried is no policy; then the rules are those of the file. shown: the file's policy in short; forms send it back.
    """

    consortium: str
    rules: tuple[RuleShown, ...]
    plans: int
    refused: int
    tried: bool
    fault: str
    shown: str


class SettingsView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Settings shows. modes: that a rule may name. file: the service's."""

    policies: tuple[PolicyShown, ...]
    modes: tuple[str, ...]
    file: str


def settings(member: Member, asked: Asked) -> SettingsView:
    """The policies; of the consortium that `try` names, the one that was asked for."""
    shown = []
    for consortium in member.service.consortia:
        policy, fault, held = consortium.policy, "", _stamp(consortium.policy)
        if asked.get("try") == (consortium.name or "only"):
            try:
                policy = policy_of(asked.values)
                # Where another was saved in between, what the form left as it was is not as it is.
                if asked.get("shown") != held:
                    policy, fault = consortium.policy, _CHANGED
            except PlanError as error:
                fault = str(error)
        shown.append(_shown(member, consortium, policy, fault))
    return SettingsView(policies=tuple(shown), modes=STRENGTH, file=member.service.path.name)


def _shown(member: Member, consortium: Consortium, policy: Policy, fault: str) -> PolicyShown:
    refuses: dict[str, list[tuple[str, str]]] = {}
    count = refused = 0
    for name, plan in _plans(member, consortium):
        count += 1
        broken = [rule for rule in policy.rules(plan, consortium.identity.name in plan.parties) if not rule.met]
        refused += bool(broken)
        for rule in broken:
            refuses.setdefault(rule.key, []).append((name, rule.text))
    own, tried = (msgspec.to_builtins(each) for each in (consortium.policy, policy))
    return PolicyShown(
        consortium=consortium.name,
        rules=tuple(
            RuleShown(
                key=key,
                meaning=meaning,
                kind=_kind(key),
                value=_text(tried[key]),
                changed=own[key] != tried[key],
                refuses=tuple(refuses.get(key, ())),
            )
            for key, meaning in MEANINGS.items()
        ),
        plans=count,
        refused=refused,
        tried=own != tried,
        fault=fault,
        shown=_stamp(consortium.policy),
    )


def _plans(member: Member, consortium: Consortium) -> Iterator[tuple[str, Plan]]:
    """Plans that this member knows of a consortium, each once, by name and the first digits of the proposal."""
    runs = [
        member.service.runs / run.folder / "plan.json"
        for run in member.store.page(0, MOST_PLANS)
        if run.folder and run.consortium == consortium.name
    ]
    seen: set[str] = set()
    for path in (*sorted(member.proposals(consortium).glob("*.json")), *runs):
        try:
            proposal = proposal_of(read_envelope(path), path.name)
        except HansaError:
            continue  # a rejection, or taken away since
        digest = proposal.digest.hex()
        if digest not in seen and len(seen) < MOST_PLANS:
            seen.add(digest)
            yield f"{proposal.plan.name} ({digest[:8]})", proposal.plan


def policy_of(values: Mapping[str, str]) -> Policy:
    """The policy that a form describes. Raises PlanError naming the key."""
    return decode(_document(values), Policy, "policy", PlanError, {})


def _document(values: Mapping[str, str]) -> dict[str, Any]:
    """The same as a table of TOML; what is empty is left out."""
    found: dict[str, Any] = {}
    for key in MEANINGS:
        text = values.get(key, "").strip()
        kind = _kind(key)
        if kind == "box":
            found[key] = text == "yes"
        elif kind == "mode" and text:
            found[key] = text
        elif kind == "number" and text:
            found[key] = _number(key, text)
        elif kind == "names" and text:
            found[key] = [part for part in re.split(r"[,\s]+", text) if part]
    return found


_CHANGED = "the policy was changed since this page was loaded; load Settings again, and change what it has now"


def _stamp(policy: Policy) -> str:
    """A policy in short."""
    return hashlib.sha256(msgspec.json.encode(policy, order="deterministic")).hexdigest()


def _number(key: str, text: str) -> int | float:
    try:
        return float(text) if key == "least_min_child_weight" else int(text)
    except ValueError:
        raise PlanError(f"{key} is {text!r:.80}; write a number, or leave it empty") from None


def _kind(key: str) -> str:
    if key == "least_mode":
        return "mode"
    if key.startswith(("least_", "most_")):
        return "number"
    return "box" if isinstance(getattr(Policy(), key), bool) else "names"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    if isinstance(value, list | tuple):
        return ", ".join(value)
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def save(member: Member, form: Form) -> Done:
    """Write a policy into the service's file."""
    name = form.get("consortium")
    consortium = member.service.consortium(name)
    if form.get("shown") != _stamp(consortium.policy):
        raise PlanError(_CHANGED)
    policy = policy_of(form.values)
    path = member.service.path
    before = read_text(path)
    table = f"consortia.{name}.policy" if name else "policy"
    after = with_table(before, table, policy)
    _check_saved(member, consortium, policy, after)
    write_whole(path, after.encode("utf-8"))
    changed = [
        f"{key} = {_text(value) or 'none'}"
        for key, value in msgspec.to_builtins(policy).items()
        if value != msgspec.to_builtins(consortium.policy)[key]
    ]
    return Done(
        text=f"the policy is saved ({'; '.join(changed) or 'as it was'}); it counts for new plans and for runs that start",
        to="/settings",
        about=name,
    )


def with_table(text: str, table: str, policy: Policy) -> str:
    """A file of TOML with a policy as the table of that name; all else stays as it is written."""
    given = {key: value for key, value in msgspec.structs.asdict(policy).items() if value != getattr(Policy(), key)}
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in given.items()}
    header = f"[{table}]\n"
    written = header + write_toml(values) if values else header
    found = re.search(rf"(?m)^\[{re.escape(table)}\][ \t]*(#.*)?$\n?", text)
    if found is None:
        return text.rstrip("\n") + "\n\n" + written
    rest = text[found.end() :]
    following = re.search(r"(?m)^\[", rest)
    left = rest[following.start() :] if following else ""
    return text[: found.start()] + written + ("\n" if left else "") + left


def _check_saved(member: Member, consortium: Consortium, policy: Policy, text: str) -> None:
    """Raise OutputError unless a file's text says the same as the service's file, but for this policy."""
    path = member.service.path
    try:
        read = decode(tomllib.loads(text), ServiceDocument, path.name, PlanError, {})
        before = decode(read_toml(path, PlanError, "restore it"), ServiceDocument, path.name, PlanError, {})
    except (tomllib.TOMLDecodeError, PlanError) as error:
        raise OutputError(
            f"{path.name}: the policy is written there in a way that this page does not change; edit it: {error}"
        ) from error
    if consortium.name:
        own = msgspec.structs.replace(before.consortia[consortium.name], policy=policy)
        expected = msgspec.structs.replace(before, consortia={**before.consortia, consortium.name: own})
    else:
        expected = msgspec.structs.replace(before, policy=policy)
    if read != expected:
        raise OutputError(f"{path.name}: the policy is written there in a way that this page does not change; edit it")
