"""Which cells of residuals a party is asked for, and the values that leaves get from them: held to what it was told before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import CutRequest
from hansa.data.residuals import Grid, ResidualGuard, first_request
from hansa.plan import Plan
from hansa.protocol.messages import CountResiduals, SetLeaves
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.statistics import base_is_quantile

LEAF_SLACK = 1 + 2.0**-20
"""Leaf values are rounded to float32: what none exceeds is widened by this factor."""


class ToldResiduals:
    """The cells of residuals that were asked for so far.

    Args:
        n_rows: that all parties train on.

    Attributes:
        grid: of the cells.
    """

    def __init__(self, asker: Asker, plan: Plan, grid: Grid, n_rows: int) -> None:
        self.grid = grid
        self._asker = asker
        self._plan = plan
        self._n_rows = n_rows
        self._guard: ResidualGuard

    def of_leaves(self, leaves: int) -> CutRequest:
        """The first cells of a tree that ended with so many leaves."""
        self._start_guard(leaves, 1, self._n_rows)
        return first_request(leaves)

    def check(self, message: CountResiduals, *, first: bool) -> CutRequest:
        """The cells that are asked for. first: whether of labels, before anything was asked of them. Raises ProtocolError."""
        prefixes = self._asker.array(message, "prefixes", np.uint32, None).astype(np.uint32)
        request = CutRequest(message.bits, self._asker.whole(message, "offsets", None), prefixes)
        if first:
            labels = self._plan.parameters.num_target
            asked = first_request(labels)
            if (
                message.bits
                or not np.array_equal(prefixes, asked.prefixes)
                or not np.array_equal(request.offsets, asked.offsets)
            ):
                raise self._asker.broken(
                    "the first cells of all labels are asked for first, and nothing else with them"
                )
            self._start_guard(labels, len(self._plan.parameters.quantiles_of_label), labels * self._n_rows)
        else:
            with self._asker.blaming():
                self._guard = self._guard.check(request)
        return request

    def check_tree(self, message: CountResiduals, *, first: bool) -> None:
        """Refuse cells of another tree, or labels by cells where the model starts from no quantile of them. Raises ProtocolError."""
        if message.tree != self._asker.tree:
            raise self._asker.broken(
                f"residuals of tree {message.tree} are asked for; expected tree {self._asker.tree}"
            )
        if first and not base_is_quantile(self._plan):
            raise self._asker.broken("labels are asked for by cells; the plan starts from no quantile of them")

    def leaf_values(self, message: SetLeaves, found: int) -> npt.NDArray[np.float32]:
        """The values of so many leaves, none larger than a residual can be. Raises ProtocolError."""
        if message.tree != self._asker.tree:
            raise self._asker.broken(f"leaves of tree {message.tree} are told; expected tree {self._asker.tree}")
        values = self._asker.array(message, "values", np.float32, found).astype(np.float32)
        most = self.grid.largest * self._plan.parameters.tree_eta * LEAF_SLACK
        if not (np.abs(values) <= most).all():  # nor NaN
            raise self._asker.broken(f"a leaf value is not within {most:.4g} of 0, which no residual times eta exceeds")
        return values

    def _start_guard(self, groups: int, quantiles: int, rows: int) -> None:
        least = self._plan.min_cell_rows
        self._guard = ResidualGuard(self.grid, groups, quantiles, rows, least)
