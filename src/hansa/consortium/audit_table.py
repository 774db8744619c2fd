"""Entries of an audit log for people: what happened, and what is told of it."""

from __future__ import annotations

from collections import defaultdict

from hansa.consortium.audit_entries import (
    CheckpointCountersigned,
    CheckpointRefused,
    CheckpointsSeen,
    Counted,
    Entry,
    IdentityReplaced,
    LogBegun,
    LogReplaced,
    MessagesCounted,
    ModelReleased,
    RunBegun,
    RunOver,
    RunRefused,
)

DIGITS = 16
"""Of a hash that are shown: enough to find it again."""


def told(entry: Entry) -> tuple[str, str]:
    """What happened, and of what, in words."""
    match entry:
        case LogBegun():
            return "log begun", f"by {entry.member}, identity {entry.identity[:DIGITS]}"
        case IdentityReplaced():
            return "identity replaced", f"{entry.identity[:DIGITS]} signs from here on"
        case RunBegun():
            rows = "; ".join(f"{name} {own} rows, {held} held out" for name, own, held in entry.roster)
            approved = (
                f"; approved by {', '.join(entry.approved_by)}" if entry.approved_by else "; plan not signed before"
            )
            what = "run begun" if entry.epoch == 0 else f"run goes on, epoch {entry.epoch}"
            return (
                what,
                f"{entry.run[:DIGITS]}: {entry.purpose}, {entry.mode}, plan {entry.plan[:DIGITS]}{approved}. {rows}",
            )
        case MessagesCounted():
            return "messages", _counts(entry.counts)
        case CheckpointsSeen():
            logs = ", ".join(f"{name} at {shown.size}" for name, shown in entry.shown.items())
            return f"logs shown, {entry.phase}", logs
        case CheckpointCountersigned():
            return "logs countersigned", f"by {', '.join(entry.signatures)}"
        case CheckpointRefused():
            return "log refused", f"{entry.member} showed {entry.shown.size} entries, after {entry.before.size} before"
        case LogReplaced():
            return "log replaced", f"{entry.member}: {entry.after[:DIGITS]} in place of {entry.before[:DIGITS]}"
        case RunRefused():
            who = entry.member or ", ".join(entry.suspects)
            return "refused", "; ".join(filter(None, [entry.kind, entry.rule, who and f"by {who}"]))
        case ModelReleased():
            return "model released", f"{entry.model[:DIGITS]} to {', '.join(entry.receivers)}"
        case RunOver():
            return "run over", f"{entry.run[:DIGITS]}: {entry.state}"


def _counts(counts: tuple[Counted, ...]) -> str:
    """Messages by sender and receiver, all kinds together."""
    total: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for each in counts:
        total[each.sender, each.receiver][0] += each.messages
        total[each.sender, each.receiver][1] += each.bytes
    return "; ".join(
        f"{sender} to {receiver}: {messages}, {size:,} bytes" for (sender, receiver), (messages, size) in total.items()
    )
