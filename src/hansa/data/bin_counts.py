"""What a description of the pooled table counts: rows by bin, by category, and without a value. Pure; both sides of a run use it.

A *column* is a feature, or the label, which comes last. Its *cells* are its bins (or categories), in order, and then the rows
without a value. Parties count rows by cell; only sums over parties are told, and of these no cell of fewer than `least` rows but
an empty one:

    bins          are asked for with so many rows each (`choose_cuts`), where more than one is
    categories    of fewer rows are told as one, "other", joined by the next smallest until that has enough (`told_counts`)
    no value      of fewer rows are told with the last bin, or with "other"

What rows of one member differ in from those of all is measured on the told cells, small ones joined (`coarse_groups`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hansa.errors import DataError

Array = NDArray[Any]

QUANTILES = (5, 25, 50, 75, 95)
"""The quantiles, in per cent, that bins are chosen to tell closely."""

DECILES = 10
"""Bins of about equal rows, beside those that quantiles need."""

MOST_BINS = 32
"""Bins of one column at most: where so few hold all that can be told apart, each value has its own."""

LEAST_SHARE = 0.05
"""Cells of a smaller share of all rows are joined before two distributions are compared: noise in small cells is no difference."""

UNTOLD = -1
"""Stands for the rows of a cell that has too few."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Which cells each column has. The same at every member.

    Attributes:
        cuts: by column, the inner edges of its bins, float32, rising; empty for categories.
        n_categories: int64 (n_columns,), 0 for columns with bins.
    """

    cuts: tuple[Array, ...]
    n_categories: Array

    @property
    def n_cells(self) -> Array:
        """int64 (n_columns,): bins or categories of each column, and one for rows without a value."""
        bins = np.array([len(own) + 1 for own in self.cuts], np.int64)
        return np.where(self.n_categories > 0, self.n_categories, bins) + 1

    @property
    def offsets(self) -> Array:
        """int64 (n_columns + 1,): where each column's cells begin in a vector of all."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.n_cells)])

    def of(self, column: int, cells: Array) -> Array:
        """One column's part of a vector of all cells."""
        first, end = self.offsets[column : column + 2]
        return cells[first:end]


def choose_cuts(cuts: Array, below: Array, rows: int, least: int) -> Array:
    """Indices of the cuts that make the bins of a description, rising; between any two, and beyond the ends, lie `least` rows or more.

    Where all bins that can be are few, all are taken, from the left. Elsewhere two cuts stand around each of `QUANTILES`, as close as
    `least` allows, and further ones where deciles are.

    Args:
        cuts: the possible ones, rising. below: int64, rows below each, rising. rows: with a value.
    """
    if len(cuts) < MOST_BINS:
        taken, last = [], 0
        for place, count in enumerate(below.tolist()):
            if count - last >= least and rows - count >= least:
                taken.append(place)
                last = count
        return np.array(taken, np.int64)
    chosen: dict[int, int] = {}

    def take(place: int, gap: float) -> None:
        if 0 <= place < len(below):
            count = int(below[place])
            if min(count, rows - count, *(abs(count - other) for other in chosen)) >= gap:
                chosen[count] = place

    for percent in QUANTILES:
        rank = _rank(rows, percent)
        under = int(np.searchsorted(below, rank, side="left")) - 1
        reached = int(below[under]) if under >= 0 else 0
        take(under, least)
        take(int(np.searchsorted(below, max(rank, reached + least), side="left")), least)
    for number in range(1, DECILES):
        take(int(np.abs(below - number * rows / DECILES).argmin()), max(least, rows / (4 * DECILES)))
    return np.array(sorted(chosen.values()), np.int64)


def count_bins(values: Array, layout: Layout) -> Array:
    """One party's rows by cell, all columns one behind the other: int64 (layout.offsets[-1],).

    Args:
        values: float32 (n_columns, n_rows), NaN = missing. Raises DataError where a category is none of the column's.
    """
    parts: list[Array] = []
    for own, cuts, categories in zip(values, layout.cuts, layout.n_categories.tolist(), strict=True):
        present = own[~np.isnan(own)]
        codes = present.astype(np.int64) if categories else np.searchsorted(cuts, present, side="right")
        if categories and len(codes) and not (codes.min() >= 0 and codes.max() < categories):
            raise DataError(f"a category is none of the {categories} of its column")
        parts += [np.bincount(codes, minlength=categories or len(cuts) + 1), np.array([len(own) - len(present)])]
    return np.concatenate(parts).astype(np.int64)


def told_counts(counts: Array, layout: Layout, least: int) -> tuple[Array, Array]:
    """What is told of pooled counts by cell: the counts with `UNTOLD` for cells of too few rows, and the rows of these by column.

    Rows without a value that are too few are in the last bin of a column with bins; then it has no untold rows.
    """
    told, other = counts.copy(), np.zeros(len(layout.cuts), np.int64)
    for column, categories in enumerate(layout.n_categories.tolist()):
        own = layout.of(column, told)
        if not categories:
            # Bins have enough rows, or there is one: then few rows with a value are told with those that have none.
            if 0 < (own[-1] if len(own) > 2 else min(own)) < least:
                own[-2] += own[-1]
                own[-1] = UNTOLD
            continue
        few = (own > 0) & (own < least)
        order = np.argsort(np.where(own > 0, own, np.iinfo(np.int64).max), kind="stable")
        for place in order[int(few.sum()) : int(np.count_nonzero(own))]:
            if not 0 < own[few].sum() < least:
                break
            few[place] = True
        other[column] = own[few].sum()
        own[few] = UNTOLD
    return told, other


def as_told(counts: Array, told: Array, layout: Layout) -> list[Array]:
    """Rows by told cell, of each column: int64 (told bins or categories, then no value, then other), untold ones joined.

    Args:
        counts: of one party or of all, by cell. told: as `told_counts`.
    """
    found = []
    for column, categories in enumerate(layout.n_categories.tolist()):
        own, shown = layout.of(column, counts).copy(), layout.of(column, told) != UNTOLD
        other = 0
        if categories:
            other = own[~shown].sum()
            own[~shown] = 0
        elif not shown[-1]:
            own[-2] += own[-1]
            own[-1] = 0
        found.append(np.append(own, other).astype(np.int64))
    return found


def coarse_groups(rows: Array, ordered: bool) -> Array:
    """For each told cell of a column the group it is compared in: int64, from 0 on. Groups hold `LEAST_SHARE` of all rows or more.

    Neighbours are joined in a column with bins, and rows without a value stay apart; small categories are one group.

    Args:
        rows: of all parties, as `as_told` has them.
    """
    total = rows.sum()
    if not ordered:
        large = rows >= LEAST_SHARE * total
        return np.where(large, np.cumsum(large) - 1, large.sum()).astype(np.int64)
    groups = np.zeros(len(rows), np.int64)
    number, held = 0, 0
    bins = len(rows) - 2
    for place in range(bins):
        groups[place] = number
        held += rows[place]
        if held >= LEAST_SHARE * total and rows[place + 1 : bins].sum() >= LEAST_SHARE * total:
            number, held = number + 1, 0
    groups[bins:] = number + 1
    return groups


@dataclass(frozen=True)
class Distance:
    """How far apart two distributions over the same cells are.

    Attributes:
        psi: the population stability index, sum of (p - q) ln(p / q), each count raised by 1/2 so that empty groups have a share.
        moved: half the sum of |p - q|: the share of rows that would have to change their group.
    """

    psi: float
    moved: float


def distance(own: Array, others: Array, ordered: bool) -> Distance:
    """How far `own` is from `others`, both rows by told cell (`as_told`); groups are made by the latter.

    Raises DataError where one has no rows.
    """
    if not own.sum() or not others.sum():
        raise DataError("rows: one of two distributions has none, so they cannot be compared")
    groups = coarse_groups(others, ordered)
    used = np.unique(groups[(own > 0) | (others > 0)])
    counts = [np.bincount(groups, each, int(groups.max()) + 1)[used] for each in (own, others)]
    p, q = ((each + 0.5) / (each.sum() + 0.5 * len(each)) for each in counts)
    shares = [each / each.sum() for each in counts]
    return Distance(float(((p - q) * np.log(p / q)).sum()), float(np.abs(shares[0] - shares[1]).sum() / 2))


def quantile_bin(rows: Sequence[int], percent: int) -> int:
    """The bin that holds the least value which `percent` of the rows do not exceed; `rows` by bin, some above 0."""
    return int(np.searchsorted(np.cumsum(rows), _rank(sum(rows), percent), side="left"))


def _rank(rows: int, percent: int) -> int:
    """Which of so many rows, in the order of their values and counted from 1, a quantile is."""
    return max(1, -(-rows * percent // 100))
