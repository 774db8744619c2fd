"""Cross-validation over the network: one run a fold, each with keys of its own, of which nobody receives a model.

Which fold a row is in follows from the row alone (`data.holdout`), and every member plays the folds in one order. So a fold's scores
are those of `simulation.cross_validation` over the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hansa.node.config import MemberFile
from hansa.node.events import Event, FoldBegan, Listening, OnEvent
from hansa.node.fold_scores import FoldScores, fold_scores
from hansa.node.record import (
    AggregatorRecord,
    HubRecord,
    PartyRecord,
    Record,
    SharedRecord,
    first_record,
    keeping,
    known,
)
from hansa.plan import Plan

Play = Callable[[MemberFile, OnEvent], Record]
"""Plays a member's part in one run."""


def cross_validate(member: MemberFile, play: Play, on_event: OnEvent) -> Record:
    """Play this member's part in the run of each fold; the record of all, which is also written where the file says.

    Each fold's own record stands beside it. Raises HansaError and its kinds: a fold was refused or stopped, and so all are.
    """
    plan = member.plan
    if plan.coopetitive is not None:
        return _cross_validate_on_shares(member, play, on_event)
    if member.identity.name == plan.aggregator:
        with keeping(member.record, first_record(AggregatorRecord, member)) as record:
            folds = [own for own in _played(member, play, on_event) if isinstance(own, AggregatorRecord)]
            record.count(lambda: _bytes(folds))
            histories = [known(own.history) for own in folds]
            scores = fold_scores(histories, plan.maximizes, plan.parameters.early_stopping_rounds)
            return record.end("finished", cross_validation=scores, roster=folds[-1].roster, clear=folds[-1].clear)
    with keeping(member.record, first_record(PartyRecord, member)) as own_record:
        played = [own for own in _played(member, play, on_event) if isinstance(own, PartyRecord)]
        own_record.count(lambda: _bytes(played))
        last = played[-1]
        return own_record.end("finished", rows=last.rows, warnings=last.warnings, clear=last.clear)


def _cross_validate_on_shares(member: MemberFile, play: Play, on_event: OnEvent) -> SharedRecord | HubRecord:
    """`cross_validate` of a coopetitive plan, whose servers have the scores."""
    plan, name = member.plan, member.identity.name
    kind = HubRecord if name == plan.hub else SharedRecord
    with keeping(member.record, first_record(kind, member, roles=())) as record:
        folds = [own for own in _played(member, play, on_event) if isinstance(own, SharedRecord)]
        record.count(lambda: _bytes(folds))
        last = folds[-1]
        facts: dict[str, Any] = {
            "roles": last.roles,
            "rows": last.rows,
            "warnings": last.warnings,
            "model_sha256": None,
        }
        if name in plan.participants:
            facts["sealed_bytes"] = sum(known(own.sealed_bytes) for own in folds)
            facts["openings"] = tuple(
                f"fold {number}: {text}" for number, own in enumerate(folds, 1) for text in known(own.openings)
            )
        if name in plan.servers:
            facts["cross_validation"] = _opened_scores(plan, [known(own.history) for own in folds])
        if isinstance(last, HubRecord):
            relayed: Counter[tuple[str, str]] = Counter()
            for own in folds:
                if isinstance(own, HubRecord):
                    relayed.update({(sender, to): count for sender, to, count in known(own.relayed)})
            facts |= {
                "roster": last.roster,
                "relayed": tuple((*ends, count) for ends, count in sorted(relayed.items())),
            }
        return record.end("finished", **facts)


def _opened_scores(plan: Plan, folds: Sequence[Mapping[str, Sequence[tuple[int, float | None]]]]) -> FoldScores:
    """Scores of what was opened to a server after each round; a fold that stopped early has no value from there on."""
    rounds = range(1, plan.parameters.rounds + 1)
    histories = [
        {name: [dict(own.get(name, ())).get(after) for after in rounds] for name in plan.metrics} for own in folds
    ]
    return fold_scores(histories, plan.maximizes, plan.parameters.early_stopping_rounds)


def _played(member: MemberFile, play: Play, on_event: OnEvent) -> list[Record]:
    """The records of the folds' runs."""
    ended, port = [], member.port

    def event(what: Event) -> None:
        nonlocal port
        if isinstance(what, Listening):  # where the others find the hub again, also where the system chose the port
            port = what.port
        on_event(what)

    for fold, plan in enumerate(member.plan.of_folds()):
        event(FoldBegan(member=member.identity.name, fold=fold + 1, folds=member.plan.folds))
        path = None if member.record is None else fold_record(member.record, fold)
        ended.append(
            play(replace(member, plan=plan, record=path, port=port, provenance=None, model_signature=None), event)
        )
    return ended


def _bytes(folds: Sequence[Record]) -> dict[str, int]:
    """What passed in all of them."""
    return {
        "bytes_up": sum(known(own.bytes_up) for own in folds),
        "bytes_down": sum(known(own.bytes_down) for own in folds),
    }


def fold_record(record: Path, fold: int) -> Path:
    """Where the record of a fold's run is, from 0, beside that of all."""
    return record.with_name(f"{record.stem}.fold-{fold + 1}{record.suffix}")
