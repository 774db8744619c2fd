"""Runs of one plan that only measures, one after another, each with keys of its own: the folds of a cross-validation, or trials.

Every member plays them in one order, and nobody receives a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from msgspec import UnsetType

from hansa.node.config import MemberFile
from hansa.node.events import Event, Listening, OnEvent
from hansa.node.fold_scores import FoldScores
from hansa.node.record import HubRecord, PartyRecord, Record, SharedRecord, first_record, keeping, known
from hansa.node.trial_scores import SearchScores
from hansa.plan import Plan

Play = Callable[[MemberFile, OnEvent], Record]
"""Plays a member's part in one run."""

History = Mapping[str, Sequence[float | None]]
"""Metric -> its value after each round; None where it has none, or was not opened."""


@dataclass(frozen=True)
class MeasuredRun:
    """One of them: its plan, what its record's name has behind the plan's, and the event that it begins."""

    plan: Plan
    suffix: str
    began: Event


def play_all(member: MemberFile, runs: Sequence[MeasuredRun], play: Play, on_event: OnEvent) -> list[Record]:
    """The records of the runs, each of which also stands beside that of all."""
    ended, port = [], member.port

    def event(what: Event) -> None:
        nonlocal port
        if isinstance(what, Listening):  # where the others find the hub again, also where the system chose the port
            port = what.port
        on_event(what)

    for run in runs:
        event(run.began)
        path = None if member.record is None else beside(member.record, run.suffix)
        one = replace(member, plan=run.plan, record=path, port=port, provenance=None, model_signature=None)
        ended.append(play(one, event))
    return ended


def beside(record: Path, suffix: str) -> Path:
    """Where the record of one of the runs is, beside that of all."""
    return record.with_name(f"{record.stem}.{suffix}{record.suffix}")


def bytes_of_runs(runs: Sequence[Record]) -> dict[str, int]:
    """What passed in all of them."""
    return {
        "bytes_up": sum(known(own.bytes_up) for own in runs),
        "bytes_down": sum(known(own.bytes_down) for own in runs),
    }


class SharedFacts(TypedDict, total=False):
    """What the record of all runs of a coopetitive plan ends with: fields of `HubRecord`."""

    roles: tuple[str, ...]
    rows: int | UnsetType
    warnings: tuple[str, ...] | UnsetType
    model_sha256: None
    sealed_bytes: int
    openings: tuple[str, ...]
    roster: tuple[tuple[str, int, int], ...] | UnsetType
    relayed: tuple[tuple[str, str, int], ...]
    cross_validation: FoldScores
    search: SearchScores


def facts_on_shares(member: MemberFile, what: str, runs: Sequence[SharedRecord]) -> SharedFacts:
    """What the record of all says of a coopetitive plan's runs, each of which `what` names in a word."""
    plan, name, last = member.plan, member.identity.name, runs[-1]
    facts: SharedFacts = {"roles": last.roles, "rows": last.rows, "warnings": last.warnings, "model_sha256": None}
    if name in plan.participants:
        facts["sealed_bytes"] = sum(known(own.sealed_bytes) for own in runs)
        facts["openings"] = tuple(
            f"{what} {number}: {text}" for number, own in enumerate(runs, 1) for text in known(own.openings)
        )
    if isinstance(last, HubRecord):
        relayed: Counter[tuple[str, str]] = Counter()
        for own in runs:
            if isinstance(own, HubRecord):
                relayed.update({(sender, to): count for sender, to, count in known(own.relayed)})
        facts["roster"] = last.roster
        facts["relayed"] = tuple((*ends, count) for ends, count in sorted(relayed.items()))
    return facts


def opened_history(plan: Plan, run: SharedRecord) -> History:
    """What was opened to a server of one run, by round; one that stopped early has no value from there on."""
    opened = known(run.history)
    rounds = range(1, plan.parameters.rounds + 1)
    return {name: [dict(opened.get(name, ())).get(after) for after in rounds] for name in plan.metrics}


def party_of_runs(member: MemberFile, runs: Sequence[MeasuredRun], play: Play, on_event: OnEvent) -> PartyRecord:
    """A party's part in all of them."""
    with keeping(member.record, first_record(PartyRecord, member)) as record:
        played = [own for own in play_all(member, runs, play, on_event) if isinstance(own, PartyRecord)]
        record.count(lambda: bytes_of_runs(played))
        last = played[-1]
        return record.end("finished", rows=last.rows, warnings=last.warnings, clear=last.clear)
