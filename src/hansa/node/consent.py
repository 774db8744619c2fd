"""What a member reads before it approves a plan: who has approved, who learns what, its own conditions, and what is new."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec

from hansa.consortium.approvals import Proposal, RejectionPredicate
from hansa.consortium.identity import fingerprint
from hansa.consortium.policy import PolicyRule
from hansa.exposure import exposure, exposure_lines, released
from hansa.node.sent import BESIDE, SentKind, sent_under
from hansa.plan import Plan
from hansa.printable import printable, size


class Change(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan key whose value differs between two plans; None where a plan has no such key."""

    key: str
    before: Any
    after: Any


class Changes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa plan diff --json` prints."""

    changes: tuple[Change, ...]


class Approval(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member with a role: its roles, its identity key as people compare it, and whether it has approved."""

    member: str
    roles: tuple[str, ...]
    fingerprint: str
    approved: bool


class Review(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa plan review --json` prints.

    Attributes:
        plan: the digest. proposal: what tells this proposal from all others. mode, proposer, created, expires: of it.
        approvals: of every member with a role. rejections: that were given. sent: what a party sends. exposure: who can read
            what. release: what the model tells of leaves. rules: this member's own conditions; None where its file was not given.
        changes: against the plan that it was held against; None where there was none.
    """

    plan: str
    proposal: str
    mode: str
    proposer: str
    created: datetime
    expires: datetime
    approvals: tuple[Approval, ...]
    sent: tuple[SentKind, ...]
    exposure: tuple[str, ...]
    release: tuple[str, ...]
    rejections: tuple[RejectionPredicate, ...]
    rules: tuple[PolicyRule, ...] | None
    changes: tuple[Change, ...] | None


def changes_of(before: Plan, after: Plan) -> tuple[Change, ...]:
    """The keys in which two plans differ, in the order of a plan's keys."""
    old, new = before.by_key(), after.by_key()
    keys = [*new, *(key for key in old if key not in new)]
    return tuple(Change(key, old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key))


def roles_of(plan: Plan, name: str) -> tuple[str, ...]:
    """What a member does under a plan."""
    first = "hub" if plan.coopetitive is not None else "aggregator"
    held = (
        (first, (plan.hub,)),
        ("collector", dict(plan.collectors)),
        ("party", plan.parties),
        ("server", plan.servers),
        ("receiver", plan.receivers),
    )
    return tuple(role for role, names in held if name in names)


def review(
    proposal: Proposal,
    rejections: Sequence[RejectionPredicate],
    rules: tuple[PolicyRule, ...] | None,
    before: Plan | None,
) -> Review:
    """For programs."""
    plan, predicate = proposal.plan, proposal.predicate
    return Review(
        plan=plan.digest().hex(),
        proposal=proposal.digest.hex(),
        mode=plan.mode,
        proposer=predicate.proposer,
        created=predicate.created,
        expires=predicate.expires,
        approvals=tuple(
            Approval(
                name,
                roles_of(plan, name),
                fingerprint(bytes.fromhex(predicate.members[name])),
                name in proposal.signatures,
            )
            for name in plan.members
        ),
        sent=sent_under(plan),
        exposure=exposure(plan),
        release=released(plan),
        rejections=tuple(rejections),
        rules=rules,
        changes=None if before is None else changes_of(before, plan),
    )


def text(found: Review, plan: Plan) -> str:
    """For people."""
    lines = [
        f"plan {plan.name}, mode {plan.mode}, digest {found.plan}",
        f"proposal {found.proposal}",
        f"by {found.proposer}, {found.created:%Y-%m-%d %H:%M} UTC; may be approved and run until {found.expires:%Y-%m-%d %H:%M} UTC",
        "",
        "Members with a role:",
        *(
            f"  {own.member:<20} {'approved' if own.approved else 'NOT YET':<10} {', '.join(own.roles):<28} {own.fingerprint}"
            for own in found.approvals
        ),
        *(f"Rejected by {own.member}, {own.created:%Y-%m-%d %H:%M} UTC: {own.reason}" for own in found.rejections),
        "",
        "A party would send of its rows:",
        *(f"  {sent.what}: at most {size(sent.bytes_at_most)} {sent.often}" for sent in found.sent),
        f"  {BESIDE}",
        *exposure_lines(plan),
    ]
    if found.changes is not None:
        lines += ["", "Against the plan that you named:" if found.changes else "The plan that you named says the same."]
        lines += [f"  {own.key}: {own.before} -> {own.after}" for own in found.changes]
    if found.rules is not None:
        lines += ["", "This member's own conditions (its file):"]
        lines += [f"  {'met' if rule.met else 'NOT MET'}: {rule.text} ({rule.key})" for rule in found.rules]
    return "\n".join(printable(line) for line in lines)


def changes_text(changes: tuple[Change, ...]) -> str:
    """For people: a line for each key."""
    return "\n".join(printable(f"{own.key}: {own.before} -> {own.after}") for own in changes)
