"""Cross-validation over the network: one run a fold, of which nobody receives a model.

Which fold a row is in follows from the row, or its id, alone (`data.holdout`). So a fold's scores are those of
`simulation.cross_validation` over the same rows.
"""

from __future__ import annotations

from hansa.node.config import MemberFile
from hansa.node.events import FoldBegan, OnEvent
from hansa.node.fold_scores import fold_scores
from hansa.node.measured_runs import (
    MeasuredRun,
    Play,
    bytes_of_runs,
    facts_on_shares,
    opened_history,
    party_of_runs,
    play_all,
)
from hansa.node.record import (
    AggregatorRecord,
    HubRecord,
    Record,
    SharedRecord,
    first_record,
    keeping,
    known,
)


def cross_validate(member: MemberFile, play: Play, on_event: OnEvent) -> Record:
    """Play this member's part in the run of each fold; the record of all, which is also written where the file says.

    Each fold's own record stands beside it. Raises HansaError and its kinds: a fold was refused or stopped, and so all are.
    """
    plan, name = member.plan, member.identity.name
    runs = [
        MeasuredRun(own, f"fold-{number}", FoldBegan(member=name, fold=number, folds=plan.folds))
        for number, own in enumerate(plan.of_folds(), 1)
    ]
    score = plan.maximizes, plan.parameters.early_stopping_rounds
    if plan.coopetitive is not None:
        kind = HubRecord if name == plan.hub else SharedRecord
        with keeping(member.record, first_record(kind, member, roles=())) as shared_record:
            shared = [own for own in play_all(member, runs, play, on_event) if isinstance(own, SharedRecord)]
            shared_record.count(lambda: bytes_of_runs(shared))
            facts = facts_on_shares(member, "fold", shared)
            if name in plan.servers:
                facts["cross_validation"] = fold_scores([opened_history(plan, own) for own in shared], *score)
            return shared_record.end("finished", **facts)
    if name == plan.aggregator:
        with keeping(member.record, first_record(AggregatorRecord, member)) as record:
            folds = [own for own in play_all(member, runs, play, on_event) if isinstance(own, AggregatorRecord)]
            record.count(lambda: bytes_of_runs(folds))
            scores = fold_scores([known(own.history) for own in folds], *score)
            return record.end("finished", cross_validation=scores, roster=folds[-1].roster, clear=folds[-1].clear)
    return party_of_runs(member, runs, play, on_event)
