"""Splits whose children hold the minimum without their largest contributor: the dominance rule of statistical offices.

(Hundepool et al., "Statistical Disclosure Control", 2012, section 4.2: a cell is sensitive where one respondent dominates it.) A
party that only chooses its rows can put copies of a known person around that person: a node of the two then has the hessian that
`min_child_weight` asks for, though nobody else is in it. Here a child counts only if

    H - max over parties p of H_p  >=  the least hessian of a child

It needs every party's own sums, so it can be had where the aggregator sees them: in federated mode. `guided_search` asks it of each
split that is better than the best before.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from hansa.trees.histogram import Int64, Layout
from hansa.trees.splitting import _sums_at


class Contributors:
    """Every party's running sums of hessians in the nodes of one level, beside the sums over parties that a `Grower` keeps.

    Args:
        parties: how many, or 0 where the rule does not hold. layout: of the tree's columns.

    Attributes:
        nodes, parents: int64 (parties, active, cells), of this level and the one above.
    """

    def __init__(self, parties: int, layout: Layout) -> None:
        self._layout = layout
        self.parents = np.empty((parties, 0, layout.cells), np.int64)
        self.nodes = np.empty((parties, 1, layout.cells), np.int64)

    def start_level(self, active: int, parents: Int64) -> None:
        """Go to a level of so many nodes, below `parents`, int64 (parties, nodes, cells)."""
        self.parents = parents
        self.nodes = np.empty((len(self.nodes), active, self._layout.cells), np.int64)

    def add(self, party: int, positions: Int64, part: Int64) -> None:
        """Keep a party's histograms, int64 (m, planes, cells), of the nodes at `positions`."""
        if len(self.nodes):
            for position, histogram in zip(positions, part, strict=True):
                _running(histogram, self._layout.offsets, self.nodes[party, position])


@njit(cache=True, nogil=True, error_model="numpy")
def _running(histogram, offsets, out):  # type: ignore[no-untyped-def]
    """out = hessians of one node's histogram, int64 (planes, cells), summed up from the start of each column."""
    for j in range(offsets.shape[0] - 1):
        total = np.int64(0)
        for cell in range(offsets[j], offsets[j + 1]):
            total += _sums_at(histogram, cell)[1]
            out[cell] = total
