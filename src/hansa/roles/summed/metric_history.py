"""The metrics of a run after each round, on all parties' held-out rows, and whether they say that it ends."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from hansa.plan import Plan
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.statistics import MagnitudeBounds, metric_scale
from hansa.trees.metrics import NO_ROWS, mean_value, metric_value, stops_early, sums_length, why_no_value

IsBehind = Callable[[Sequence[float | None]], bool]
"""The values of a trial's last metric after each round -> whether it is not worth going on."""


class MetricHistory:
    """The metrics so far.

    Args:
        behind: of a trial: whether one whose last metric had these values is behind others; then its run ends.

    Attributes:
        values: metric -> its value after 1, 2, ... rounds; None where it has none. without_value: metric -> why it has none.
    """

    def __init__(self, plan: Plan, behind: IsBehind | None) -> None:
        self.values: dict[str, list[float | None]] = {}
        self.without_value: dict[str, str] = {}
        self._plan = plan
        self._behind = behind

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of the sums that the metrics are worked out from."""
        shapes: dict[str, tuple[int, ...]] = {
            f"metric/{name}": (sums_length(name),) for name in self._plan.parameters.metrics
        }
        if self._plan.custom_metric is not None:
            shapes[f"metric/{self._plan.custom_metric.name}"] = (2,)
        return shapes

    def evaluate(
        self, sums: Mapping[str, Int64], held_out: int, bounds: MagnitudeBounds, gradient_bound: float
    ) -> dict[str, float | None]:
        """The metrics after another round; None for one that has no value.

        Args:
            sums: over all parties' rows held out, of which there are so many. bounds: of labels and weights.
        """
        if self._plan.evaluation_fraction == 0:
            return {}
        values: dict[str, float | None] = {}
        for name in self._plan.metrics:
            values[name], why = self._metric(name, sums, held_out, bounds, gradient_bound)
            if why:
                self.without_value[name] = why
            self.values.setdefault(name, []).append(values[name])
        return values

    def _metric(
        self, name: str, sums: Mapping[str, Int64], held_out: int, bounds: MagnitudeBounds, gradient_bound: float
    ) -> tuple[float | None, str]:
        """A metric's value, or None and why."""
        if not held_out:
            return None, NO_ROWS
        summed = sums[f"metric/{name}"]
        parameters = self._plan.parameters
        # Of a custom objective gradients say nothing of errors.
        tells = gradient_bound if self._plan.custom_objective is None else 0.0
        scale = metric_scale(parameters, held_out, bounds, tells)
        own = self._plan.custom_metric
        if own is not None and name == own.name:
            value = mean_value(summed, own.bound, scale)
        else:
            value = metric_value(name, parameters.objective, summed, scale)
        return (None, why_no_value(name, summed)) if math.isnan(value) else (value, "")

    def stops_early(self) -> bool:
        """Whether the last rounds say that more are not worth while."""
        plan, stopping_rounds = self._plan, self._plan.parameters.early_stopping_rounds
        history = self.values.get(plan.metrics[-1], ())
        if self._behind is not None and self._behind(history):
            return True
        return stopping_rounds is not None and stops_early(plan.maximizes, history, stopping_rounds)
