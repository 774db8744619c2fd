"""Scores of cross-validation: metrics after each round, over folds."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import msgspec

from hansa.trees.metrics import best_round, stops_early


class RoundScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A metric after each round: its mean over folds and its standard deviation (of all folds, as NumPy's), over those with a value."""

    mean: list[float | None]
    std: list[float | None]


class FoldScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a cross-validation over the network found.

    Attributes:
        folds: how many. metric: the last of the metrics, which chose the best round. best_round: the number of rounds with its
            best mean; with early stopping, among those until it stopped.
        history: by metric, after each round, on rows that the fold's model was not trained on; with early stopping up to the best
            round.
    """

    folds: int
    metric: str
    best_round: int
    history: dict[str, RoundScores]


def over_folds(folds: Sequence[Sequence[float | None]]) -> RoundScores:
    """Mean and standard deviation after each round, over the folds that have a value."""
    mean: list[float | None] = []
    std: list[float | None] = []
    for values in zip(*folds, strict=True):
        there = [value for value in values if value is not None]
        mean.append(statistics.fmean(there) if there else None)
        std.append(statistics.pstdev(there) if there else None)
    return RoundScores(mean=mean, std=std)


def best_of_folds(maximizes: bool, means: Sequence[float | None], stopping_rounds: int | None) -> tuple[int, int]:
    """The best round, and the last one of the history."""
    if stopping_rounds is None:
        return best_round(maximizes, means) or len(means), len(means)
    stopped = (at for at in range(1, len(means) + 1) if stops_early(maximizes, means[:at], stopping_rounds))
    best = best_round(maximizes, means[: next(stopped, len(means))]) or len(means)
    return best, best


def fold_scores(
    folds: Sequence[Mapping[str, Sequence[float | None]]], maximizes: bool, stopping_rounds: int | None
) -> FoldScores:
    """The folds' histories put together; the last metric chooses the best round."""
    history = {name: over_folds([own[name] for own in folds]) for name in folds[0]}
    metric = list(history)[-1]
    best, end = best_of_folds(maximizes, history[metric].mean, stopping_rounds)
    return FoldScores(
        folds=len(folds),
        metric=metric,
        best_round=best,
        history={name: RoundScores(mean=own.mean[:end], std=own.std[:end]) for name, own in history.items()},
    )


def scores_table(best_round: int, history: Mapping[str, RoundScores]) -> list[list[str]]:
    """The metrics after the best and the last round, as rows of texts; the first row is the head."""
    last = len(next(iter(history.values())).mean)
    rows = [["metric", f"after {best_round} rounds", *([f"after {last}"] if last != best_round else [])]]
    for name, own in history.items():
        rounds = dict.fromkeys((best_round, last))
        rows.append([name, *(f"{number_text(own.mean[at - 1])} ± {number_text(own.std[at - 1])}" for at in rounds)])
    return rows


def number_text(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
