"""Splits whose children hold the minimum without their largest contributor: the dominance rule of statistical offices.

(Hundepool et al., "Statistical Disclosure Control", 2012, section 4.2: a cell is sensitive where one respondent dominates it.) A
party that only chooses its rows can put copies of a known person around that person: a node of the two then has the hessian that
`min_child_weight` asks for, though nobody else is in it. Here a child counts only if

    H - max over parties p of H_p  >=  the least hessian of a child

It needs every party's own sums, so it can be had where the aggregator sees them: in federated mode.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from hansa.trees.histogram import Int64, Layout
from hansa.trees.splitting import _column, _sums_at, score


class Contributors:
    """Every party's running sums of hessians in the nodes of one level, beside the sums over parties that a `Grower` keeps.

    Args:
        parties: how many. layout: of the tree's columns.
    """

    def __init__(self, parties: int, layout: Layout) -> None:
        self._layout = layout
        self._parties = parties
        self._parents = np.empty((parties, 0, layout.cells), np.int64)
        self._nodes = np.empty((parties, 1, layout.cells), np.int64)

    def start_level(self, active: int) -> None:
        """Go to a level of so many nodes."""
        self._parents = self._nodes
        self._nodes = np.empty((self._parties, active, self._layout.cells), np.int64)

    def add(self, party: int, positions: Int64, part: Int64) -> None:
        """Keep a party's histograms, int64 (m, planes, cells), of the nodes at `positions`."""
        for position, histogram in zip(positions, part, strict=True):
            _running(histogram, self._layout.offsets, self._nodes[party, position])

    def search(
        self,
        built: Int64,
        parents: Int64,
        nodes: Int64,
        totals: Int64,
        has_missing: Any,
        rule: Any,
        gains: Any,
        found: Int64,
    ) -> None:
        """Search these pairs again, under the rule.

        Args:
            built: int64 (m,): positions of the built children. parents: int64 (m,): positions of their parents in the level above.
            nodes, totals, gains, found: of the level, as for `splitting.finish_nodes`; gains and found are written.
            rule: float64 (6,), the fields of `splitting.SplitRule`.
        """
        for child, parent in zip(built, parents, strict=True):
            pair = [int(child)]
            if len(nodes) > 1:
                other = int(child) ^ 1
                self._nodes[:, other] = self._parents[:, parent] - self._nodes[:, child]
                pair.append(other)
            for node in pair:
                gains[node] = _best_without_largest(
                    nodes[node], self._nodes[:, node], self._layout.columns, self._layout.offsets, has_missing,
                    totals[node, 0], totals[node, 1], rule, found[node],
                )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def _running(histogram, offsets, out):  # type: ignore[no-untyped-def]
    """out = hessians of one node's histogram, int64 (planes, cells), summed up from the start of each column."""
    for j in range(offsets.shape[0] - 1):
        total = np.int64(0)
        for cell in range(offsets[j], offsets[j + 1]):
            total += _sums_at(histogram, cell)[1]
            out[cell] = total


@njit(cache=True, nogil=True, error_model="numpy")
def _largest_shares(own, cell, end, last, side, has_missing):  # type: ignore[no-untyped-def]
    """The largest hessian that one party has to the left and to the right of a cut behind `cell`."""
    left, right = np.int64(0), np.int64(0)
    for party in range(own.shape[0]):
        total = own[party, last]
        share = own[party, cell]
        if has_missing and side == 1:
            share += total - own[party, end - 1]
        left, right = max(left, share), max(right, total - share)
    return left, right


@njit(cache=True, nogil=True, error_model="numpy")
def _best_without_largest(  # type: ignore[no-untyped-def]
    sums, own, columns, offsets, has_missing, total_g, total_h, rule, found
):  # fmt: skip
    """As `splitting._best_of_node`, of candidates whose sides both hold the least hessian without their largest contributor.

    own: int64 (parties, cells), running hessians of each party.
    """
    lambda_, alpha, max_delta_step, least, unit_g, unit_h = rule
    best = -1.0
    found[:] = 0
    found[0] = -1
    for j in range(columns.shape[0]):
        missing = has_missing[columns[j]]
        begin, end, missing_g, missing_h = _column(sums, offsets, missing, j, total_g, total_h)
        last = np.int64(offsets[j + 1]) - 1
        for side in range(2 if missing_h > 0 else 1):
            for cell in range(begin, end):
                g, h = _sums_at(sums, cell)
                g_left, h_left = g + side * missing_g, h + side * missing_h
                h_right = total_h - h_left
                if h_left < least or h_right < least:
                    continue
                most_left, most_right = _largest_shares(own, cell, end, last, side, missing)
                if h_left - most_left < least or h_right - most_right < least:
                    continue
                both = score(g_left * unit_g, h_left * unit_h, lambda_, alpha, max_delta_step) + score(
                    (total_g - g_left) * unit_g, h_right * unit_h, lambda_, alpha, max_delta_step
                )
                if both > best:
                    best = both
                    found[0], found[1], found[2], found[3], found[4] = columns[j], cell - begin, side, g_left, h_left
    if best < 0:
        return 0.0
    return best - score(total_g * unit_g, total_h * unit_h, lambda_, alpha, max_delta_step)
