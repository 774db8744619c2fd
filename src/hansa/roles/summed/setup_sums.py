"""What the sums before the first tree give: bounds of labels and weights, base scores, and what follows from them."""

from __future__ import annotations

import math
from dataclasses import replace

from hansa.data.residuals import Grid
from hansa.errors import HansaError
from hansa.plan import Plan
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.start_model import StartModel
from hansa.roles.summed.statistics import (
    BaseScore,
    MagnitudeBounds,
    bounds_of,
    check_label_size,
    histogram_bits_of,
    label_units,
    rounded_leaf_bits,
    start_of,
)
from hansa.trees.ensemble import OF_MARGIN_0
from hansa.trees.losses import LOSSES


class SetupSums:
    """The pooled sums of the set-up.

    Args:
        n_rows: that all parties train on. before: the model that training goes on from, or None.

    Attributes:
        magnitudes, label_sums: as they were pooled. bounds, label_units: of labels and weights. grid: of residuals, where leaves are
            quantiles. start: base scores, and the weight of positive rows. histogram_bits, leaf_bits: that follow.
    """

    def __init__(self, n_rows: int, before: StartModel | None) -> None:
        self._n_rows = n_rows
        self._before = before

    def bound(self, plan: Plan, magnitudes: Int64) -> None:
        """How large labels and weights are. Raises HansaError."""
        self.magnitudes = magnitudes
        self.bounds: MagnitudeBounds = bounds_of(magnitudes, plan.weighted)
        check_label_size(self.bounds)
        self.label_units = label_units(self.bounds, self._n_rows)
        if plan.parameters.quantiles:
            self.grid = Grid(self.bounds.label_exponent)

    def score(self, plan: Plan, sums: Int64) -> None:
        """Base scores, and what else follows from the sums of labels and weights."""
        self.label_sums = sums
        self.start: BaseScore = start_of(plan, sums, *self.label_units)
        if self._before is not None:
            self.start = replace(self.start, base_scores=self._before.ensemble.base_scores)
        elif plan.schema.base_margin and plan.parameters.outputs > 1:
            # Scores of outputs stand in the leaves of the first trees, and base margins take their place, not come on top.
            start = OF_MARGIN_0[LOSSES[plan.parameters.objective].base]
            self.start = replace(self.start, base_scores=(start,) * plan.parameters.outputs)
        self.histogram_bits = histogram_bits_of(plan, self.magnitudes, sums, self.start)
        self.leaf_bits = rounded_leaf_bits(plan, self._n_rows, self.start.base_scores[0], self.start.scale_pos_weight)

    def start_at(self, base_scores: tuple[float, ...]) -> None:
        """Base scores that were found otherwise than from sums of labels."""
        self.start = replace(self.start, base_scores=base_scores)

    def label_mean(self, sums: Int64) -> float:
        """The mean of the labels, where a run describes. Raises HansaError."""
        weight = math.ldexp(float(sums[1]), self.label_units[1])
        if weight <= 0:
            raise HansaError("all rows of all parties have weight 0; there is nothing to describe")
        return math.ldexp(float(sums[0]), self.label_units[0]) / weight

    @property
    def weight_bound(self) -> float:
        """No row weighs more in its gradient."""
        return self.bounds.weight * max(1.0, self.start.scale_pos_weight)
