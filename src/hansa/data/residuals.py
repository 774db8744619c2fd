"""Quantiles of residuals in groups of rows, such as the leaves of a tree, found from counts alone.

A residual is label minus margin, as float32. What is known of residuals is how many rows of a group have one in each *cell*, a set
of neighbouring float32 numbers:

    round 0      cells that are public from the start (`Grid`): 8 to each doubling of the size, of either sign
    rounds 1-4   a cell that holds a quantile of its group, parted into 32, as the cells of features are (`data.quantiles`)

A cell of at most `min_cell_rows` rows is never parted. The party's side is `count_residuals`, `weigh_residuals` and `ResidualGuard`,
the coordinator's `QuantileSearch`. All but the counting is pure: each step returns the next state.

Exact statement. Without weights XGBoost's quantile a of n residuals stands between two of them, the k-th and the one behind it, at
x = a (n + 1) - k of the way, k the whole part. Here each of the two is estimated inside the last cell that holds it, and the quantile
follows from both estimates: it differs from XGBoost's by no more than the wider of these two cells. With weights it is the least
residual up to which rows have a share a of the group's weight: one row, estimated alike. A residual of the size 2^(b - 38) or less
counts as 0, one of more than 2^(b + 2) as that, where no label exceeds 2^b.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hansa.data.quantiles import FIRST_BITS, KEY_BITS, STEP_BITS, CutRequest, values_from_keys
from hansa.errors import ProtocolError

Array = NDArray[Any]

OCTAVES = 40
"""Doublings of the size that have cells of their own."""

SIDE_CELLS = OCTAVES << (FIRST_BITS - 9)
"""Cells of one sign: of the 12 bits of a key that round 0 tells apart, one is the sign and 8 are the exponent."""

FIRST_CELLS = 2 * SIDE_CELLS + 1
"""Cells of round 0: those of negative residuals, from the lowest, one of those that count as 0, those of positive ones."""

LEAST_EXPONENT, MOST_EXPONENT = -149, 64
"""Of a label bound that a grid takes."""

CELL_BITS = KEY_BITS - FIRST_BITS
ZERO_KEY = 0x8000_0000


@dataclass(frozen=True)
class Grid:
    """The cells of round 0; public, the same at every member.

    Attributes:
        label_exponent: no label exceeds 2^label_exponent in size.

    Raises ProtocolError where no float32 labels have this bound.
    """

    label_exponent: int

    def __post_init__(self) -> None:
        if not LEAST_EXPONENT <= self.label_exponent <= MOST_EXPONENT:
            raise ProtocolError(
                f"labels are said to reach 2^{self.label_exponent}; expected an exponent from {LEAST_EXPONENT} to {MOST_EXPONENT}"
            )

    @property
    def _exponent(self) -> int:
        """Of the least residual that does not count as 0."""
        return max(self.label_exponent + 2 - OCTAVES, -126)

    @property
    def lowest(self) -> int:
        """The bits of the least size that does not count as 0."""
        return (self._exponent + 127) << 23

    @property
    def highest(self) -> int:
        """The bits of the largest size that does not count as another."""
        return self.lowest + (SIDE_CELLS << CELL_BITS) - 1

    @property
    def largest(self) -> float:
        """No quantile exceeds this in size."""
        return 2.0 ** (self._exponent + OCTAVES)

    def bounds(self, cells: Array) -> tuple[Array, Array]:
        """Lowest and highest keys, int64, of cells of round 0."""
        away = np.abs(cells - SIDE_CELLS) - 1
        near = self.lowest + (away << CELL_BITS)
        far = near + (1 << CELL_BITS) - 1
        zero, positive = cells == SIDE_CELLS, cells > SIDE_CELLS
        low = np.where(positive, ZERO_KEY + near, ZERO_KEY - 1 - far)
        high = np.where(positive, ZERO_KEY + far, ZERO_KEY - 1 - near)
        return np.where(zero, ZERO_KEY, low), np.where(zero, ZERO_KEY, high)


# --- the party's side --------------------------------------------------------------------------------------


def first_request(groups: int) -> CutRequest:
    """What round 0 asks of so many groups."""
    return CutRequest(0, np.arange(groups + 1, dtype=np.int64), np.zeros(groups, np.uint32))


def n_counts(request: CutRequest) -> int:
    """Length of an answer to a request whose features are groups."""
    return len(request.prefixes) * (request.split if request.bits else FIRST_CELLS)


_NO_WEIGHTS = np.zeros(0, np.int64)


def count_residuals(
    residuals: Array, groups: Array, rows: Array, grid: Grid, request: CutRequest, counts: Array
) -> None:
    """Add rows of a party to the parts that a request names.

    Args:
        residuals: float32 (n,). groups: float32 (n,), which group each row is in. rows: of any unsigned dtype, those that count.
        request: round 0, or one that a `ResidualGuard` let pass. counts: uint32 (n_counts(request),), added to.
    """
    _add(residuals, groups, rows, _NO_WEIGHTS, grid, request, counts)


def weigh_residuals(
    residuals: Array, groups: Array, rows: Array, weights: Array, grid: Grid, request: CutRequest, sums: Array
) -> None:
    """The same of weights, int64 (n,), in units that are the same at all parties; sums: int64."""
    _add(residuals, groups, rows, weights, grid, request, sums)


def _add(
    residuals: Array, groups: Array, rows: Array, weights: Array, grid: Grid, request: CutRequest, sums: Array
) -> None:
    bits = np.ascontiguousarray(residuals).view(np.uint32)
    public = grid.lowest, grid.highest, request.bits, request.offsets, request.prefixes
    _count(bits, groups, rows, weights, *public, sums)


@njit(cache=True, nogil=True, error_model="numpy")
def _count(bits, groups, rows, weights, lowest, highest, prefix_bits, offsets, prefixes, sums):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        row = rows[i]
        group = np.int64(groups[row])
        size = np.int64(bits[row] & np.uint32(0x7FFFFFFF))
        negative = bits[row] >> np.uint32(31) != 0
        weight = weights[row] if weights.shape[0] else 1
        if size < lowest:
            if prefix_bits == 0:
                sums[group * FIRST_CELLS + SIDE_CELLS] += weight
            continue  # the cell of 0 is not parted
        size = min(size, highest)
        if prefix_bits == 0:
            away = 1 + ((size - lowest) >> CELL_BITS)
            sums[group * FIRST_CELLS + SIDE_CELLS + (-away if negative else away)] += weight
            continue
        key = ZERO_KEY - 1 - size if negative else ZERO_KEY + size
        part = key >> (KEY_BITS - prefix_bits - STEP_BITS)
        for cell in range(offsets[group], offsets[group + 1]):
            if np.int64(prefixes[cell]) == part >> STEP_BITS:
                sums[(cell << STEP_BITS) + (part & ((1 << STEP_BITS) - 1))] += weight


@dataclass(frozen=True, eq=False)
class ResidualGuard:
    """What a party allows itself to be asked after round 0: each request a nested part of the last, never too many cells.

    A party sees no sums, so it cannot check that a cell holds more than `min_cell_rows` pooled rows. It can check that no group has
    more cells parted than its quantiles stand in, and that no more are parted than could hold so many rows.

    Attributes:
        grid, groups: of round 0. quantiles: how many are looked for in each group.
        n_rows: pooled rows of all parties. min_cell_rows: as in the plan.
        last: the last request allowed; None where round 0 was.
    """

    grid: Grid
    groups: int
    quantiles: int
    n_rows: int
    min_cell_rows: int
    last: CutRequest | None = None

    def check(self, request: CutRequest) -> ResidualGuard:
        """Allow the request and return the guard for the next. Raises ProtocolError naming the rule."""
        bits = FIRST_BITS if self.last is None else self.last.bits + STEP_BITS
        if request.bits != bits or bits >= KEY_BITS:
            raise ProtocolError(
                f"residual request: found a round that parts cells of {request.bits} bits; expected "
                + (f"one of {bits}: rounds come once and in order" if bits < KEY_BITS else "none after the last round")
            )
        offsets, prefixes = request.offsets, request.prefixes
        if len(offsets) != self.groups + 1 or offsets[0] != 0 or offsets[-1] != len(prefixes) or not len(prefixes):
            raise ProtocolError(
                f"residual request: offsets must rise from 0 to the number of cells, which is not 0, over {self.groups} groups"
            )
        sizes = np.diff(offsets)
        if sizes.min() < 0 or sizes.max() > 2 * self.quantiles:
            raise ProtocolError(
                f"residual request: names {sizes.max()} cells of a group; {self.quantiles} quantiles stand in {2 * self.quantiles} "
                "cells at most"
            )
        if len(prefixes) > self.n_rows // (self.min_cell_rows + 1):
            raise ProtocolError(
                f"residual request: names {len(prefixes)} cells; {self.n_rows} rows fill no more than "
                f"{self.n_rows // (self.min_cell_rows + 1)} with more than {self.min_cell_rows} each"
            )
        named = _places(request)
        if (named[1:] <= named[:-1]).any():
            raise ProtocolError("residual request: cells must be sorted and unique within a group")
        if not self._nested(request):
            raise ProtocolError("residual request: names a cell that is no part of a cell counted in the last round")
        return replace(self, last=request)

    def _nested(self, request: CutRequest) -> bool:
        if self.last is None:
            size = request.prefixes.astype(np.int64)
            size = np.where(size >= ZERO_KEY >> CELL_BITS, size, (1 << FIRST_BITS) - 1 - size) - (ZERO_KEY >> CELL_BITS)
            first = self.grid.lowest >> CELL_BITS
            return bool(((size >= first) & (size < first + SIDE_CELLS)).all())
        parents = _group_of_cells(request) << KEY_BITS | (request.prefixes >> np.uint32(STEP_BITS)).astype(np.int64)
        return bool(np.isin(parents, _places(self.last)).all())


def _group_of_cells(request: CutRequest) -> Array:
    return np.repeat(np.arange(len(request.offsets) - 1), np.diff(request.offsets))


def _places(request: CutRequest) -> Array:
    """One number for each cell named, int64, that no cell of another group shares; rising in an allowed request."""
    return _group_of_cells(request) << KEY_BITS | request.prefixes.astype(np.int64)


# --- the coordinator's side --------------------------------------------------------------------------------


class _Targets(NamedTuple):
    """Rows that quantiles are made of, (targets,) each: for each group and quantile in turn two, lower and upper.

    group: int64. share: float64, by which the row's residual counts in its quantile. at: int64, the row's place among the rows (or
    units of weight) of its cell, from 0. low, high: int64, the keys of its cell. mass: int64, rows (or weight) of the cell. rows,
    rest: int64, its rows, in all and without the largest party's. open: bool, whether it was a part of a cell in the last round.
    """

    group: Array
    share: Array
    at: Array
    low: Array
    high: Array
    mass: Array
    rows: Array
    rest: Array
    open: Array


@dataclass(frozen=True, eq=False)
class QuantileSearch:
    """The coordinator's side: from pooled counts to a value for each group and quantile.

        search = QuantileSearch(grid, groups, quantiles, min_cell_rows).begin(sums of every party's answers to round 0)
        while not search.done:
            search = search.answer(sums of every party's answers to search.request())
        search.values()

    Attributes:
        grid: of round 0. groups: how many. quantiles: the same for each group, from 0 to 1.
        min_cell_rows: a cell of this many rows or fewer is never parted.
        bits: prefix length of the cells that were counted last; 0 before round 0.
    """

    grid: Grid
    groups: int
    quantiles: tuple[float, ...]
    min_cell_rows: int
    bits: int = 0
    targets: _Targets | None = None

    def begin(self, counts: Array, weights: Array | None = None, largest: Array | None = None) -> QuantileSearch:
        """The state after round 0, from the sums over parties of `count_residuals`, and of `weigh_residuals` where rows have weights.

        Args:
            counts: integers (groups x FIRST_CELLS,), and so are weights, None for a weight of 1 a row, and largest, the largest of the
                parties' counts, where a cell must hold more than min_cell_rows rows without it to be parted (dominance).

        Raises ProtocolError where rows without weight have some.
        """
        counts = counts.astype(np.int64).reshape(self.groups, FIRST_CELLS)
        mass = counts if weights is None else weights.reshape(self.groups, FIRST_CELLS)
        rest = counts if largest is None else counts - largest.astype(np.int64).reshape(self.groups, FIRST_CELLS)
        if (mass < 0).any() or mass[counts == 0].any():
            raise ProtocolError("residual answers: weight is counted where no rows are, or less than none")
        below = np.cumsum(mass, axis=1)
        places, shares = _places_of_quantiles(below[:, -1], self.quantiles, weights is None)
        cell = np.stack([(below <= place[:, None]).sum(axis=1) for place in places.T], axis=1)
        cell = np.where(below[:, -1:] > 0, cell, SIDE_CELLS)  # a group without weight has the value 0
        group = np.repeat(np.arange(self.groups), places.shape[1])
        cell, at = cell.ravel(), places.ravel()
        low, high = self.grid.bounds(cell)
        found = mass[group, cell]
        targets = _Targets(
            group=group,
            share=shares.ravel(),
            at=at - (below[group, cell] - found),
            low=low,
            high=high,
            mass=found,
            rows=counts[group, cell],
            rest=rest[group, cell],
            open=cell != SIDE_CELLS,
        )
        return replace(self, bits=FIRST_BITS, targets=targets)

    @property
    def _known(self) -> _Targets:
        if self.targets is None:
            raise ProtocolError("residual search: round 0 was not answered")
        return self.targets

    @property
    def _parted(self) -> Array:
        """Which targets stand in a cell that is parted next."""
        known = self._known
        if self.bits >= KEY_BITS:
            return np.zeros(len(known.open), np.bool_)
        return np.asarray(known.open & (known.rest > self.min_cell_rows))

    @property
    def done(self) -> bool:
        """Whether no cell is left to part."""
        return not self._parted.any()

    def request(self) -> CutRequest:
        """What to ask every party next."""
        places = np.unique(self._cells())
        offsets = np.searchsorted(places >> KEY_BITS, np.arange(self.groups + 1)).astype(np.int64)
        return CutRequest(self.bits, offsets, (places & (2**KEY_BITS - 1)).astype(np.uint32))

    def _cells(self) -> Array:
        """The cell of each target that is parted next, as `_places`."""
        known, parted = self._known, self._parted
        return np.asarray(known.group[parted] << KEY_BITS | known.low[parted] >> (KEY_BITS - self.bits))

    def answer(self, counts: Array, weights: Array | None = None, largest: Array | None = None) -> QuantileSearch:
        """The next state; arguments as `begin`, of the parts that `request` names.

        Raises ProtocolError where counts or weights do not add up to the cells parted.
        """
        known, parted, cells = self._known, self._parted, self._cells()
        of_parts = -1, 1 << STEP_BITS
        counts = counts.astype(np.int64).reshape(of_parts)
        mass = counts if weights is None else weights.reshape(of_parts)
        rest = counts if largest is None else counts - largest.astype(np.int64).reshape(of_parts)
        row = np.searchsorted(np.unique(cells), cells)
        fits = np.array_equal(counts.sum(axis=1)[row], known.rows[parted])
        fits &= np.array_equal(mass.sum(axis=1)[row], known.mass[parted]) and not (mass < 0).any()
        if not fits or mass[counts == 0].any():
            raise ProtocolError(
                "residual answers: the parts of a cell do not add up to the cell; a party counted other rows, or answered another "
                "request, than in the round before"
            )
        bits = self.bits + STEP_BITS
        below = np.cumsum(mass, axis=1)[row]
        part = (below <= known.at[parted][:, None]).sum(axis=1)
        found = mass[row, part]
        low = known.low[parted] + (part << (KEY_BITS - bits))
        changed = {
            "at": known.at[parted] - (np.take_along_axis(below, part[:, None], 1)[:, 0] - found),
            "low": low,
            "high": low + (1 << (KEY_BITS - bits)) - 1,
            "mass": found,
            "rows": counts[row, part],
            "rest": rest[row, part],
        }
        targets = known._replace(
            open=parted, **{name: _with(getattr(known, name), parted, new) for name, new in changed.items()}
        )
        return replace(self, bits=bits, targets=targets)

    def values(self) -> Array:
        """The quantiles, float32 (groups, quantiles), once done: 0 of a group without weight.

        Rows of a cell are taken to stand evenly from its lowest to its highest number.
        """
        known = self._known
        low, high = (values_from_keys(keys.astype(np.uint32)).astype(np.float64) for keys in (known.low, known.high))
        inside = (known.at + 0.5) / np.maximum(known.mass, 1)
        rows = np.where(known.low == ZERO_KEY, 0.0, low + inside * (high - low))
        shared = (rows * known.share).reshape(self.groups, len(self.quantiles), 2)
        return np.asarray(shared.sum(axis=2), np.float32)


def _with(array: Array, where: Array, values: Array) -> Array:
    changed = array.copy()
    changed[where] = values
    return changed


def _places_of_quantiles(masses: Array, quantiles: Sequence[float], rows: bool) -> tuple[Array, Array]:
    """The places, from 0, among so many rows or units of weight that quantiles are made of: int64 (groups, 2 quantiles), and float64
    shares of both (`common::Quantile` and `common::WeightedQuantile` of XGBoost, which rounds the share of the weight to float32).
    """
    places = np.zeros((len(masses), 2 * len(quantiles)), np.int64)
    shares = np.tile([1.0, 0.0], (len(masses), len(quantiles)))
    for number, alpha in enumerate(quantiles):
        both = slice(2 * number, 2 * number + 2)
        if rows:
            x = np.clip(alpha * (masses + 1.0), 1.0, np.maximum(masses, 1))
            lower = np.floor(x).astype(np.int64) - 1
            places[:, both] = np.stack([lower, np.minimum(lower + 1, np.maximum(masses - 1, 0))], axis=1)
            shares[:, both] = np.stack([1.0 - (x - 1.0 - lower), x - 1.0 - lower], axis=1)
            continue
        reached = np.ceil((alpha * masses.astype(np.float64)).astype(np.float32)).astype(np.int64) - 1
        places[:, both] = np.clip(reached, 0, np.maximum(masses - 1, 0))[:, None]
    return places, shares
