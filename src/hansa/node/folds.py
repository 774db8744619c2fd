"""Cross-validation over the network: one run a fold, each with keys of its own, of which nobody receives a model.

Which fold a row is in follows from the row alone (`data.holdout`), and every member plays the folds in one order. So a fold's scores
are those of `simulation.cross_validation` over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from hansa.node.config import MemberFile
from hansa.node.events import Event, FoldBegan, Listening, OnEvent
from hansa.node.fold_scores import fold_scores
from hansa.node.record import AggregatorRecord, PartyRecord, Record, first_record, keeping, known

Play = Callable[[MemberFile, OnEvent], Record]
"""Plays a member's part in one run."""


def cross_validate(member: MemberFile, play: Play, on_event: OnEvent) -> AggregatorRecord | PartyRecord:
    """Play this member's part in the run of each fold; the record of all, which is also written where the file says.

    Each fold's own record stands beside it. Raises HansaError and its kinds: a fold was refused or stopped, and so all are.
    """
    plan = member.plan
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
