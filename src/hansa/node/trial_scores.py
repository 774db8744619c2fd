"""What the trials of a search found: which are behind, which is the best, their table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from hansa.node.fold_scores import number_text
from hansa.plan import Value
from hansa.trees.metrics import best_round, is_improvement

LEAST_BEFORE = 5
"""Trials that were trained to their end before one is ended for being behind them."""

WARM_UP = 5
"""The first round of so many of the plan's says nothing yet."""

History = Sequence[float | None]


class TrialScore(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One trial.

    Attributes:
        trial: from 1. parameters: those that were searched. state: whether it was trained to its end.
        value: of the metric after `best_round` rounds, the best of those that were trained; None where it has none.
    """

    trial: int
    parameters: dict[str, Value]
    state: Literal["complete", "pruned"]
    value: float | None
    best_round: int | None


class SearchScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All trials.

    Attributes:
        metric: what chose the best, and direction: which way. best: number of the best trial that was trained to its end, from 1;
            None where none has a value. best_parameters: what it has, and rounds: how many to train with.
    """

    metric: str
    direction: Literal["maximize", "minimize"]
    trials: tuple[TrialScore, ...]
    best: int | None
    best_parameters: dict[str, Value]

    def table(self) -> list[list[str]]:
        """The trials in order, as rows of texts; the first row is the head."""
        names = list(self.trials[0].parameters)
        rows = [["trial", self.metric, "rounds", *names, "state"]]
        for own in self.trials:
            given = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in own.parameters.values()]
            state = "best" if own.trial == self.best else own.state
            rows.append([str(own.trial), number_text(own.value), str(own.best_round or "-"), *given, state])
        return rows


def is_behind(maximizes: bool, history: History, before: Sequence[History], rounds: int) -> bool:
    """Whether a trial's best value so far is worse than the median of what trials before it had after so many rounds (the median rule
    of Golovin et al. 2017, "Google Vizier", section 3.2.2).

    Args:
        history: the metric after each round. before: the same of trials that were trained to their end. rounds: of the plan.
    """
    after = len(history)
    if len(before) < LEAST_BEFORE or after < rounds // WARM_UP or history[-1] is None:
        return False
    others = [own[after - 1] for own in before if len(own) >= after]
    there = [value for value in others if value is not None]
    place = best_round(maximizes, history)
    own_best = None if place is None else history[place - 1]
    if not there or own_best is None:
        return False
    return is_improvement(maximizes, statistics.median(there), own_best)


def search_scores(
    metric: str,
    maximizes: bool,
    parameters: Sequence[Mapping[str, Value]],
    histories: Sequence[History],
    pruned: Sequence[bool],
) -> SearchScores:
    """The trials put together: what was searched in each, its metric after each round, and whether it was ended for being behind."""
    found = []
    best: TrialScore | None = None
    for number, (given, history, behind) in enumerate(zip(parameters, histories, pruned, strict=True), 1):
        place = best_round(maximizes, history)
        value = None if place is None else history[place - 1]
        own = TrialScore(
            trial=number,
            parameters=dict(given),
            state="pruned" if behind else "complete",
            value=value,
            best_round=place,
        )
        found.append(own)
        if not behind and value is not None and is_improvement(maximizes, value, None if best is None else best.value):
            best = own
    chosen: dict[str, Value] = {}
    if best is not None and best.best_round is not None:
        chosen = {**best.parameters, "rounds": best.best_round}
    return SearchScores(
        metric=metric,
        direction="maximize" if maximizes else "minimize",
        trials=tuple(found),
        best=None if best is None else best.trial,
        best_parameters=chosen,
    )
