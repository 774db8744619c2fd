"""A search for parameters over the network: one run a trial, of which nobody receives a model.

What a trial tries follows from the plan (`plan.search`), and every member computes it by itself: the digest of a trial's plan is among
what members agree on as they join. In the modes with an aggregator a trial that is behind those before it is ended early.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hansa.node.config import MemberFile
from hansa.node.events import OnEvent, TrialBegan
from hansa.node.measured_runs import (
    MeasuredRun,
    Play,
    bytes_of_runs,
    facts_on_shares,
    opened_history,
    party_of_runs,
    play_all,
)
from hansa.node.record import AggregatorRecord, HubRecord, Record, SharedRecord, first_record, keeping, known
from hansa.node.trial_scores import History, is_behind, search_scores
from hansa.plan import Plan
from hansa.roles.summed.metric_history import IsBehind

PlayTrial = Callable[[MemberFile, OnEvent, IsBehind | None], Record]
"""Plays a member's part in one run; with what says that a trial is behind, at an aggregator."""


def search(member: MemberFile, play: PlayTrial, on_event: OnEvent) -> Record:
    """Play this member's part in the run of each trial; the record of all, which is also written where the file says.

    Each trial's own record stands beside it. Raises HansaError and its kinds: a trial was refused or stopped, and so all are; PlanError
    before the first one where this member's policy refuses any.
    """
    plan, name = member.plan, member.identity.name
    member.policy.check_plan(plan, has_rows=name in plan.parties)  # of all trials
    plans = plan.of_trials()
    drawn = () if plan.search is None else plan.search.drawn(plan.parameters.seed)
    runs = [
        MeasuredRun(
            own,
            f"trial-{number}",
            TrialBegan(member=name, trial=number, trials=len(plans), parameters=dict(drawn[number - 1])),
        )
        for number, own in enumerate(plans, 1)
    ]
    if plan.coopetitive is not None:
        kind = HubRecord if name == plan.hub else SharedRecord
        with keeping(member.record, first_record(kind, member, roles=())) as shared_record:
            ended = play_all(member, runs, _unjudged(play), on_event)
            shared = [own for own in ended if isinstance(own, SharedRecord)]
            shared_record.count(lambda: bytes_of_runs(shared))
            facts = facts_on_shares(member, "trial", shared)
            if name in plan.servers:
                histories = [opened_history(plan, own)[plan.metrics[-1]] for own in shared]
                pruned = [False] * len(histories)
                facts["search"] = search_scores(plan.metrics[-1], plan.maximizes, drawn, histories, pruned)
            return shared_record.end("finished", **facts)
    if name != plan.aggregator:
        return party_of_runs(member, runs, _unjudged(play), on_event)
    with keeping(member.record, first_record(AggregatorRecord, member)) as record:
        judge = _Judge(plan)
        trials = [
            own for own in play_all(member, runs, judge.playing(play), on_event) if isinstance(own, AggregatorRecord)
        ]
        record.count(lambda: bytes_of_runs(trials))
        found = search_scores(plan.metrics[-1], plan.maximizes, drawn, judge.histories, judge.pruned)
        return record.end("finished", search=found, roster=trials[-1].roster, clear=trials[-1].clear)


def _unjudged(play: PlayTrial) -> Play:
    return lambda member, on_event: play(member, on_event, None)


class _Judge:
    """Which trials were behind those before them.

    Attributes:
        histories: of each trial so far, the last metric after each round. pruned: whether it was ended for being behind.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.histories: list[History] = []
        self.pruned: list[bool] = []

    def playing(self, play: PlayTrial) -> Play:
        """Plays trials, and takes down what came of them."""

        def one(member: MemberFile, on_event: OnEvent) -> Record:
            self.pruned.append(False)
            ended = play(member, on_event, self._is_behind)
            if isinstance(ended, AggregatorRecord):
                self.histories.append(known(ended.history)[self._plan.metrics[-1]])
            return ended

        return one

    def _is_behind(self, history: Sequence[float | None]) -> bool:
        before = [own for own, ended in zip(self.histories, self.pruned, strict=False) if not ended]
        self.pruned[-1] = is_behind(self._plan.maximizes, history, before, self._plan.parameters.rounds)
        return self.pruned[-1]
