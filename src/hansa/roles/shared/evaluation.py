"""What a compute server does with held-out rows: metrics at the plan's steps, early stopping, and the metric that the release depends
on. A program of `mpc`'s steps.

Held-out rows go down every tree on shares. After the numbers of rounds that the plan names its metrics are opened; with early
stopping one bit a round is: whether the last metric improved. Where the plan's release depends on a metric that was not opened after
the model's last round, one bit is: whether it is reached (`of_model`, `reaches`). One class against the rest, a metric is the mean over
rows and classes: each class's margins and labels count as rows. A metric without a value (one bit tells) is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hansa.mpc.replicated import Address, Program, Server, together
from hansa.mpc.ring import ShareArray
from hansa.oblivious.evaluation import (
    CountTerms,
    all_in_range,
    has_value,
    improved,
    metric_of_word,
    metric_share,
    open_metric,
    reached,
    tree_margins,
)
from hansa.oblivious.growth import TreeShares
from hansa.oblivious.shared_rows import Block, label_words, weights_of
from hansa.oblivious.training import SOFTPROB, may_leave_range, start_margins
from hansa.roles.shared.sharing import TrainingStart, has_factorials
from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.metrics import NO_ROWS, NO_WEIGHT, ONE_LABEL

History = dict[str, list[tuple[int, float | None]]]
"""Metric -> (rounds, value) wherever it was opened."""

IN_LABEL_UNITS = ("rmse", "mae", "poisson-nloglik")


def count_terms(start: TrainingStart, blocks: list[Block]) -> CountTerms | None:
    """Of held-out rows, what poisson-nloglik needs; None where the plan does not ask for it."""
    scale = start.label_scale
    if scale is None or not has_factorials(start.plan):
        return None
    return CountTerms(label_words(blocks, len(start.output_settings)), scale.scale)


@dataclass(frozen=True)
class Judged:
    """What evaluation has come to after some rounds, at one server.

    Attributes:
        margins, best: shares: of held-out rows' margins, and of the best metric so far, or None.
        best_rounds, without_value, openings: as `Evaluation`'s. asked: which questions of `has_value` have which answer.
    """

    margins: ShareArray
    best: ShareArray | None
    best_rounds: int | None
    asked: dict[str, bool]
    without_value: dict[str, str]
    openings: list[str]


@dataclass(frozen=True)
class ReleaseMetric:
    """The metric, at the model's last round, that the plan's release depends on; neither where it has no value.

    Attributes:
        value: where it was opened. share: this server's shares of it, where not.
    """

    value: float | None
    share: ShareArray | None


def reaches(server: Server, start: TrainingStart, metric: ReleaseMetric, epoch: int) -> Program[bool]:
    """Whether the plan lets anybody have a model with this metric; opens one bit where the metric is shared."""
    condition = start.plan.release
    if metric.share is None:
        return condition.is_reached(metric.value)
    name, scale, below = condition.metric, metric_scale(start, condition.metric), condition.at_most is not None
    return (
        yield from reached(
            server,
            metric.share,
            lambda word: condition.is_reached(metric_of_word(name, word) * scale) != below,
            below,
            Address(epoch, start.settings.rounds, 0, "release"),
        )
    )


def metric_scale(start: TrainingStart, name: str) -> float:
    """By what a metric on shares is multiplied to be one of the labels' own units."""
    return 1.0 if start.label_scale is None or name not in IN_LABEL_UNITS else start.label_scale.scale


def _of_rows(arrays: Sequence[ShareArray]) -> ShareArray:
    return np.concatenate(arrays, axis=1)


def _of_classes(arrays: Sequence[ShareArray]) -> ShareArray:
    return np.stack(arrays, axis=1)


class Evaluation:
    """The state of evaluation at one server; does nothing where the plan holds no rows out.

    Attributes:
        stops: whether training stops early. best_rounds: how many rounds the model keeps; None for all.
        without_value: metric -> why it has no value, of those that have none.
        left_range: whether held-out rows' margins left +-16, where metrics on shares end; training stops there.
        openings: what was opened, in words.
    """

    def __init__(self, server: Server, start: TrainingStart, blocks: list[Block], epoch: int = 0) -> None:
        self._epoch = epoch
        self.stops = self.left_range = False
        self.best_rounds: int | None = None
        self.without_value: dict[str, str] = {}
        self.openings: list[str] = []
        self._server = server
        self._start = start
        self._blocks = blocks
        self._stopping_rounds = start.plan.parameters.early_stopping_rounds
        self._best: ShareArray | None = None
        self._asked: dict[str, bool] = {}
        self._margins = np.zeros((2, 0), np.uint32)
        self._counts: CountTerms | None = None
        # One against the rest, every class's margins count as rows; of a softmax a row has those of all classes.
        self._put_together = _of_classes if start.settings.objective == SOFTPROB else _of_rows
        self._rows = sum(block.rows for block in blocks)
        if blocks:
            outputs = range(len(start.output_settings))
            # Words that only carry scale_pos_weight are no weights of metrics.
            weighted = start.plan.schema.weight is not None
            weights = [own for output in outputs if weighted and (own := weights_of(blocks, output)) is not None]
            self._labels = self._put_together([label_words(blocks, output) for output in outputs])
            if start.settings.objective == SOFTPROB:
                weights = weights[:1]
            self._weights = np.concatenate(weights, axis=2) if weights else None
            self._counts = count_terms(start, blocks)
            self._margins = self._start_margins()

    @property
    def judged(self) -> Judged:
        """What it has come to so far."""
        return Judged(
            self._margins,
            self._best,
            self.best_rounds,
            dict(self._asked),
            dict(self.without_value),
            list(self.openings),
        )

    def go_on(self, judged: Judged) -> None:
        """Stand where another process, or this one in an earlier epoch, had come to."""
        self._margins, self._best, self.best_rounds = judged.margins, judged.best, judged.best_rounds
        self._asked, self.without_value = dict(judged.asked), dict(judged.without_value)
        self.openings = list(judged.openings)

    def opens(self, rounds: int) -> bool:
        """Whether anything may be opened after so many rounds."""
        return bool(self._blocks) and (self._start.evaluated_after(rounds) or self._stopping_rounds is not None)

    def after(self, number: int, trees: list[TreeShares]) -> Program[dict[str, float | None]]:
        """Route the held-out rows down the trees of round `number`; the metrics that the plan has opened after it, by name.

        None for one that has no value.
        """
        start, server = self._start, self._server
        if not self._blocks:
            return self._without_rows(start.evaluated_after(number + 1))
        address = Address(self._epoch, number, 0, "evaluation")
        self._margins = self._margins + (yield from self._added(trees, address))
        names = start.plan.parameters.metrics
        opened = start.evaluated_after(number + 1)
        values: dict[str, float | None] = {}
        # The range is checked once a round: it is the same for every metric.
        if opened or self._stopping_rounds is not None:
            fits = yield from self._in_range(self._margins, number + 1, address)
            if not fits:
                self.stops = self.left_range = True
                self.best_rounds = min(max(1, number), self.best_rounds or number)
                return {}
        for name in names:
            judge = name == names[-1] and self._stopping_rounds is not None
            if not opened and not judge:
                continue
            place = address.named(name)
            if not (yield from self._has_value(name, place)):
                if opened:
                    values[name] = None
                continue
            share = yield from metric_share(
                server, name, start.metric_settings, self._margins, self._labels, self._weights, place, self._counts
            )
            if opened:
                value = yield from open_metric(server, name, share, place)
                values[name] = value * metric_scale(start, name)
                self.openings.append(f"evaluation.open_metric: {name} of held-out rows after {number + 1} rounds")
            if judge:
                yield from self._judge(name, share, number, place)
        return values

    def of_model(self, rounds: int, trees: Sequence[TreeShares], history: History) -> Program[ReleaseMetric]:
        """The metric that the release depends on, of a model of so many rounds; opens whether it has a value, where that is not known.

        Held-out rows go down the trees anew where their margins are those of other rounds.

        Args:
            trees: of all rounds that there were. history: metric -> (rounds, value) wherever it was opened.
        """
        start, server, name = self._start, self._server, self._start.plan.release.metric
        opened = [value for after, value in history.get(name, ()) if after == rounds]
        if opened or not self._blocks:
            return ReleaseMetric(opened[-1] if opened else None, None)
        if self._best is not None and rounds == self.best_rounds and name == start.plan.parameters.metrics[-1]:
            return ReleaseMetric(None, self._best)
        outputs, margins = len(start.output_settings), self._margins
        # All rounds of boosting are behind: their draws are over.
        behind = Address(self._epoch, start.settings.rounds, 0, "model")
        if rounds * outputs < len(trees):
            margins = self._start_margins()
            for number in range(rounds):
                grown = trees[number * outputs : (number + 1) * outputs]
                margins = margins + (yield from self._added(grown, behind.named(f"round {number}")))
        place = behind.named("metric")
        fits = yield from self._in_range(margins, rounds, place)
        if not fits or not (yield from self._has_value(name, place)):
            return ReleaseMetric(None, None)
        share = yield from metric_share(
            server, name, start.metric_settings, margins, self._labels, self._weights, place, self._counts
        )
        return ReleaseMetric(None, share)

    def _start_margins(self) -> ShareArray:
        """Of all held-out rows, before the first tree."""
        return self._put_together(
            [start_margins(self._server, self._rows, settings) for settings in self._start.output_settings]
        )

    def _added(self, trees: Sequence[TreeShares], address: Address) -> Program[ShareArray]:
        """What the trees of one round add to the margins."""
        added = yield from together(
            *(
                tree_margins(
                    self._server, self._start.candidates, self._blocks, tree, address.named(f"output {output}")
                )
                for output, tree in enumerate(trees)
            )
        )
        return self._put_together(added)

    def _in_range(self, margins: ShareArray, rounds: int, address: Address) -> Program[bool]:
        """Whether margins of so many rounds are such as metrics take; opens that where it is no public fact."""
        if not any(may_leave_range(settings, rounds) for settings in self._start.output_settings):
            return True
        fits = yield from all_in_range(self._server, margins, address.named("range"))
        if not fits:
            self.openings.append(
                f"training.rounds_in_range: one bit, that a held-out margin left +-16 in round {rounds}"
            )
        return fits

    def _without_rows(self, opened: bool) -> dict[str, float | None]:
        names = self._start.plan.parameters.metrics if self._start.plan.evaluation_fraction > 0 else ()
        self.without_value = dict.fromkeys(names, NO_ROWS)
        return dict.fromkeys(names) if opened else {}

    def _has_value(self, name: str, place: Address) -> Program[bool]:
        """Whether a metric has a value, which is asked once a run: held-out rows keep their labels and weights."""
        if self._weights is None and name not in HIGHER_IS_BETTER:
            return True
        question, why = ("both labels", ONE_LABEL) if name in HIGHER_IS_BETTER else ("some weight", NO_WEIGHT)
        if question not in self._asked:
            answer = yield from has_value(self._server, name, self._labels, self._weights, place.named(question))
            self._asked[question] = answer
            self.openings.append(f"evaluation.has_value: one bit, whether held-out rows have {question}")
        if not self._asked[question]:
            self.without_value[name] = why
        return self._asked[question]

    def _judge(self, name: str, share: ShareArray, number: int, place: Address) -> Program[None]:
        """Early stopping: open whether the metric is better than the best so far."""
        better = True
        if self._best is not None:
            better = yield from improved(self._server, name, share, self._best, place)
            self.openings.append(f"evaluation.improved: one bit, whether {name} improved with round {number + 1}")
        if better:
            self._best, self.best_rounds = share, number + 1
        self.stops = number + 1 - (self.best_rounds or 0) >= (self._stopping_rounds or 0)
