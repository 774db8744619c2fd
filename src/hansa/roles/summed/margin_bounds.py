"""How far rows' margins may have moved, by public numbers alone, and what that says of gradients and of their sums."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hansa.plan import Plan
from hansa.roles.summed.setup_sums import SetupSums
from hansa.roles.summed.start_model import StartModel
from hansa.trees import objective
from hansa.trees.ensemble import base_margin
from hansa.trees.growth import Grower
from hansa.trees.losses import is_exponential

MARGIN_SLACK = 1.001
"""Margins are summed in float32; the bound on them is widened by this factor."""

MARGIN_ERROR = 2.0**-23
"""More than the rounding error of a margin that a leaf's value is added to, as a part of the bound on it."""

TOTALS = 2
"""Of a tree: sum |g| and sum h."""


class MarginBounds:
    """Bounds on the margins of any row, by output.

    Args:
        setup: with base scores. before: the model that training goes on from, or None.

    Attributes:
        most: of |margin|. highest: of the margin. moved: by the leaves of this round, upwards.
    """

    def __init__(self, plan: Plan, setup: SetupSums, before: StartModel | None) -> None:
        self._plan = plan
        self._setup = setup
        outputs, limit = plan.parameters.outputs, plan.schema.base_margin_limit
        self._base = [float(base_margin(plan.parameters.objective, score)) for score in setup.start.base_scores]
        self.highest = list(self._base)
        self.most = [abs(margin) for margin in self._base]
        if plan.schema.base_margin:
            self._base = [-limit] * outputs
            self.highest = [limit] * outputs
            self.most = [limit] * outputs
        if before is not None:
            # Base margins take the place of the base score, which the bounds of a start model leave out then.
            self.highest = [before.highest_margin + limit] * outputs
            self.most = [before.margin_bound + limit] * outputs
        self.moved = [0.0] * outputs

    def gradient_bound(self, hessian_sums: Sequence[float] | None) -> float:
        """The bound on |g| of any row in the next round.

        Args:
            hessian_sums: by output, an upper bound on the sum of h over all rows that may be drawn; None where none is known.
        """
        if (own := self._plan.custom_objective) is not None:
            return own.gradient_bound
        known = hessian_sums or [math.inf] * len(self.most)
        return max(map(self._most_gradient, range(len(known)), known))

    def _most_gradient(self, output: int, hessian_sum: float) -> float:
        """The bound on |g| of any row at one output."""
        base, most = self._base[output], self.most[output]
        return objective.gradient_bound(
            self._plan.parameters.objective,
            self._setup.weight_bound,
            self._setup.bounds.label,
            most * MARGIN_SLACK,
            self.highest[output] + most * (MARGIN_SLACK - 1),
            hessian_sum,
            self._plan.parameters.shape,
            base - (most * MARGIN_SLACK - abs(base)),
        )

    def widen(self, values: npt.NDArray[np.float64], output: int) -> None:
        """Widen them by the leaves of a tree."""
        highest = max(float(values.max()), 0.0)
        self.most[output] += float(np.abs(values).max())
        self.highest[output] += highest
        self.moved[output] += highest

    def sums_after(
        self, totals: Sequence[int], units: tuple[int, int], grower: Grower, hessian_error: float
    ) -> list[tuple[float, float]]:
        """By output, upper bounds of sum |g| and sum h once rows have the leaves of this round; infinite where only those of totals are
        known.

        Args:
            totals: of the round, by output; units: of these. grower: of a tree of the round. hessian_error: of the rounding of h in
                all its histograms.
        """
        pairs = np.array(totals, object).reshape(-1, TOTALS)
        sums = [(math.ldexp(g, units[0]), math.ldexp(h, units[1])) for g, h in pairs]
        moved, self.moved = self.moved, [0.0] * len(self.moved)
        if self._plan.parameters.trees_per_round > 1:
            growing = is_exponential(self._plan.parameters.objective)
            return [(math.inf, h * math.exp(by) if growing else h) for (_, h), by in zip(sums, moved, strict=True)]
        values, hessians = grower.leaves
        return [
            objective.sums_after(
                self._plan.parameters.objective,
                *sums[0],
                np.abs(values) + self.most[0] * MARGIN_ERROR,
                hessians,
                hessian_error,
                self._setup.start.weight,
                self._plan.parameters.shape,
            )
        ]
