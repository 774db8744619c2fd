"""Cuts between histogram bins, found from counts of rows alone.

A float32 value (with -0 made +0) maps to a uint32 *key* of the same order. A *cell* is the set of keys that
share a prefix of `bits` bits. Everyone counts rows per cell; the coordinator sees (or holds in another form)
only the sums:

    round 0      every feature's 4096 cells of 12 bits
    rounds 1-4   the cells that still hold too many rows, each split into 32 (17, 22, 27, 32 bits)

A cell of at most `min_cell_rows` pooled rows is never split, so no cut is finer than such a cell. The
party's side is `count_cells` and `CutGuard`, and in coopetitive mode `SortedKeys`; the coordinator's is `CutSearch`. All are pure:
each step returns the next state. What parties send is counts, never a value; what comes back is prefixes of
keys, and at the end `Cuts`.

Where rows have weights, parties sum these over the same cells too (`weigh_cells`), as whole numbers of a
public unit, and cuts share weight, as XGBoost's do: read "weight" for "rows" below, but for min_cell_rows,
which bounds rows. A row of integer weight w counts as w rows would.

Exact statement, for a feature with N pooled non-missing rows and E = max(N / (4 max_bin), min_cell_rows):

1. Each final cell holds one value only, or at most E rows. So every threshold t has a cell boundary b with
   |#{x < b} - #{x < t}| <= E.
2. Where the non-empty cells fit into the allowed bins, each gets its own. Elsewhere no other grouping of
   those cells has a smaller largest mixed bin (one with more than one cell).
3. Where no cut is left out (see `CutSearch.cuts`), let M be the rows of the largest bin that holds more than one value
   (0 where there is none). Then M <= max(C_opt + E, 2E), where C_opt is the least M that as many bins allow on the raw
   values themselves. So a value with more than M rows has a bin of its own, and every threshold is within M rows of a
   cut or of an end.

(For 3: move each cut of the best bins on raw values down to its cell's boundary: at most E rows pass each
cut, and none next to a value of more than E rows, since such a value is a cell by itself.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hansa.errors import DataError, PlanError, ProtocolError

Array = NDArray[Any]

FIRST_BITS = 12
"""Bits of the key that round 0 counts."""

STEP_BITS = 5
"""Bits that each later round adds."""

KEY_BITS = 32

REFINEMENTS = (KEY_BITS - FIRST_BITS) // STEP_BITS
"""Rounds after the first, at most."""

MAX_MAX_BIN = 65_535
"""Codes of one feature, the one of missing values included, must fit uint16."""

MOST_WEIGHT = 2**62
"""The sum of all weights, in their unit, is at most this: `objective.unit_exponent` sees to it."""

# Keys of finite values: -FLT_MAX is the lowest key of cell 0x008, +inf the lowest of cell 0xFF8. Both are
# 12-bit cell boundaries, so that no cell mixes finite values with infinities or NaN.
_LOWEST_FINITE_KEY = 0x0080_0000
_INFINITY_KEY = 0xFF80_0000
_NEGATIVE_ZERO_KEY = 0x7FFF_FFFF


def keys_from_values(values: Array) -> Array:
    """Map float32 values to uint32 keys of the same order; -0 and +0 share a key. NaN is not allowed in.

    key = bits ^ 0x80000000 for a clear sign bit, ~bits for a set one.
    """
    bits = (np.asarray(values, dtype=np.float32) + np.float32(0)).view(np.uint32)  # -0 + 0 = +0
    return np.where(bits >> 31, ~bits, bits ^ np.uint32(0x8000_0000)).astype(np.uint32)


def values_from_keys(keys: Array) -> Array:
    """Inverse of `keys_from_values`: float32 values of uint32 keys."""
    keys = np.asarray(keys, dtype=np.uint32)
    bits = np.where(keys >> 31, keys ^ np.uint32(0x8000_0000), ~keys).astype(np.uint32)
    return bits.view(np.float32)


# --- the party's side --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SortedKeys:
    """One party's feature values as sorted keys, missing ones left out. Never leaves the party.

    Attributes:
        keys: uint32, all features one after the other, sorted within each.
        offsets: int64 (n_features + 1): feature f's keys are keys[offsets[f]:offsets[f + 1]].
        n_rows: rows of the party, missing values included.
        weights: int64, of the row of each key, in units that are the same at all parties; None where rows have no weights.
    """

    keys: Array
    offsets: Array
    n_rows: int
    weights: Array | None = None

    @property
    def n_features(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_features(cls, features: Array, weights: Array | None = None) -> SortedKeys:
        """Sort the keys of float32 `features` (n_features, n_rows), NaN = missing; weights int64 (n_rows,) or None.

        Raises DataError where a value is infinite.
        """
        features = np.asarray(features)
        if features.ndim != 2 or features.dtype != np.float32:
            raise DataError(
                f"features: expected float32 of shape (n_features, n_rows), "
                f"found {features.dtype} of shape {features.shape}"
            )
        present = np.array([len(row) - np.count_nonzero(np.isnan(row)) for row in features], dtype=np.int64)
        offsets = _offsets(present)
        keys = np.empty(offsets[-1], dtype=np.uint32)
        sorted_weights = None if weights is None else np.empty(offsets[-1], dtype=np.int64)
        for feature, row in enumerate(features):
            part = slice(offsets[feature], offsets[feature + 1])
            _sort_into(keys[part], row, feature)
            if weights is not None and sorted_weights is not None:
                held = ~np.isnan(row)
                sorted_weights[part] = weights[held][np.argsort(keys_from_values(row[held]), kind="stable")]
        return cls(keys, offsets, features.shape[1], sorted_weights)


def _sort_into(keys: Array, row: Array, feature: int) -> None:
    keys[:] = keys_from_values(row[~np.isnan(row)])
    keys.sort()
    if len(keys) and (keys[0] < _LOWEST_FINITE_KEY or keys[-1] >= _INFINITY_KEY):
        raise DataError(f"features: feature {feature} holds an infinite value; write a number or leave it empty")


@dataclass(frozen=True, eq=False)
class CutRequest:
    """Which cells to split and count, asked of every party alike.

    Attributes:
        bits: prefix length of the cells named: 0 (round 0, the whole range of each feature), 12, 17, 22 or
            27.
        offsets: int64 (n_features + 1): feature f's cells are prefixes[offsets[f]:offsets[f + 1]].
        prefixes: uint32, sorted and unique within a feature.
    """

    bits: int
    offsets: Array
    prefixes: Array

    @property
    def split(self) -> int:
        """Parts that each cell named is split into: 4096 in round 0, then 32."""
        return 1 << (FIRST_BITS if self.bits == 0 else STEP_BITS)

    @property
    def n_counts(self) -> int:
        """Length of an answer."""
        return len(self.prefixes) * self.split

    def of(self, first: int, end: int) -> CutRequest:
        """What is asked of the features from `first` to before `end`."""
        offsets = self.offsets[first : end + 1]
        return CutRequest(self.bits, offsets - offsets[0], self.prefixes[offsets[0] : offsets[-1]])


ALL_ROWS = np.zeros(0, np.bool_)
"""Says that all rows are counted."""

_NO_WEIGHTS = np.zeros(0, np.int64)


def count_cells(features: Array, request: CutRequest, counted: Array = ALL_ROWS) -> Array:
    """One party's answer: rows in each part of each cell named, as uint32 (request.n_counts,).

    Args:
        features: float32 (n_features, n_rows), NaN = missing, which is in no cell.
        counted: bool (n_rows,): the rows that count.

    Raises ProtocolError where the request is for another number of features (its other rules are `CutGuard`'s to check), DataError
    where a value that counts is infinite.
    """
    counts = np.zeros(request.n_counts, dtype=np.uint32)
    _sum_cells(features, counted, _NO_WEIGHTS, request, counts)
    return counts


def weigh_cells(features: Array, weights: Array, request: CutRequest, counted: Array = ALL_ROWS) -> Array:
    """The sums of weights over the same parts, int64 (request.n_counts,); errors as `count_cells`.

    Args:
        weights: int64, of each row that counts, in units that are the same at all parties.
    """
    sums = np.zeros(request.n_counts, dtype=np.int64)
    _sum_cells(features, counted, weights, request, sums)
    return sums


def _sum_cells(features: Array, counted: Array, weights: Array, request: CutRequest, sums: Array) -> None:
    if len(request.offsets) != len(features) + 1:
        raise ProtocolError(
            f"cut request: expected {len(features)} features as in the plan's schema, found {len(request.offsets) - 1}"
        )
    bits = np.ascontiguousarray(features).view(np.uint32)
    infinite = _count(bits, counted, weights, request.prefixes, request.offsets, request.bits, request.split, sums)
    if infinite >= 0:
        raise DataError(f"features: feature {infinite} holds an infinite value; write a number or leave it empty")


@njit(cache=True, nogil=True, error_model="numpy")
def _count(bits, counted, weights, prefixes, offsets, prefix_bits, split, sums):  # type: ignore[no-untyped-def]
    """Add the weight, or 1, of every row in each part of each cell named. Returns a feature that has an infinite value, or -1."""
    shift = KEY_BITS - FIRST_BITS if prefix_bits == 0 else KEY_BITS - prefix_bits - STEP_BITS
    step = 0 if prefix_bits == 0 else STEP_BITS
    below = np.empty((1 << FIRST_BITS) + 1, np.int64)
    weighted = weights.shape[0] > 0
    for feature in range(offsets.shape[0] - 1):
        begin, end = offsets[feature], offsets[feature + 1]
        if begin == end:
            continue
        if prefix_bits:
            # The cells whose first 12 bits are t stand from below[t] to below[t + 1].
            behind = begin
            for top in range(below.shape[0]):
                while behind < end and np.int64(prefixes[behind]) >> (prefix_bits - FIRST_BITS) < top:
                    behind += 1
                below[top] = behind
        at = -1
        for row in range(bits.shape[1]):
            if counted.shape[0] and not counted[row]:
                continue
            at += 1
            own = bits[feature, row]
            size = own & np.uint32(0x7FFFFFFF)
            if size >= np.uint32(0x7F800000):
                if size == np.uint32(0x7F800000):
                    return feature
                continue
            if own >> np.uint32(31):  # `keys_from_values`
                key = np.int64(np.uint32(~own)) if size else np.int64(0x80000000)
            else:
                key = np.int64(own ^ np.uint32(0x80000000))
            cell = begin
            child = key >> shift
            if prefix_bits:
                start = key >> (KEY_BITS - FIRST_BITS)
                low, high = below[start], below[start + 1]
                prefix = child >> step
                while low < high:
                    middle = (low + high) >> 1
                    if np.int64(prefixes[middle]) < prefix:
                        low = middle + 1
                    else:
                        high = middle
                if low == below[start + 1] or np.int64(prefixes[low]) != prefix:
                    continue
                cell = low
                child &= split - 1
            sums[cell * split + child] += weights[at] if weighted else 1
    return -1


@dataclass(frozen=True, eq=False)
class CutGuard:
    """What a party allows itself to be asked: each request a nested split of the last, never too many cells.

    A party sees no sums, so it cannot check that a cell holds more than `min_cell_rows` pooled rows. It can
    check that
    no more cells are split than could hold that many: min(4 max_bin, n_rows_total // (min_cell_rows + 1)).

    Attributes:
        n_features: features of the plan's schema.
        n_rows_total: pooled rows of all parties.
        max_bin, min_cell_rows: as in the plan.
        asked: the requests allowed so far.
        closed: no request is allowed any more.
    """

    n_features: int
    n_rows_total: int
    max_bin: int
    min_cell_rows: int
    asked: tuple[CutRequest, ...] = ()
    closed: bool = False

    def __post_init__(self) -> None:
        _check_settings(self.n_features, self.n_rows_total, self.max_bin, self.min_cell_rows)

    @property
    def cell_limit(self) -> int:
        """Cells of one feature that one request may split."""
        return min(4 * self.max_bin, self.n_rows_total // (self.min_cell_rows + 1))

    def check(self, request: CutRequest) -> CutGuard:
        """Allow the request and return the guard for the next. Raises ProtocolError naming the rule."""
        if self.closed:
            raise ProtocolError("cut request: refused, since the cuts are settled; rounds end with the cuts")
        self._check_round(request.bits)
        _check_form(request, self.n_features)
        if self.last is None:
            _check_first(request)
        else:
            self._check_cells(request, self.last)
        return replace(self, asked=(*self.asked, request))

    @property
    def last(self) -> CutRequest | None:
        """The last request allowed; None before round 0."""
        return self.asked[-1] if self.asked else None

    def check_cuts(self, cuts: Cuts) -> None:
        """Refuse cuts finer than what was counted: each must bound a part of a cell that some request split.

        Raises ProtocolError naming the feature.
        """
        for feature in range(self.n_features):
            keys = keys_from_values(cuts.of(feature))
            counted = np.zeros(len(keys), dtype=bool)
            for request in self.asked:
                child_bits = FIRST_BITS if request.bits == 0 else request.bits + STEP_BITS
                bounds_part = keys & np.uint32((1 << (KEY_BITS - child_bits)) - 1) == 0
                if request.bits:
                    cells = request.prefixes[request.offsets[feature] : request.offsets[feature + 1]]
                    bounds_part &= np.isin(keys >> np.uint32(KEY_BITS - request.bits), cells)
                counted |= bounds_part
            if not counted.all():
                raise ProtocolError(
                    f"cuts: feature {feature}: cut {cuts.of(feature)[~counted][0]!r} is finer than the cells that were counted"
                )

    def close(self) -> CutGuard:
        """The guard once the cuts have come: it refuses every request."""
        return replace(self, closed=True)

    def _check_round(self, bits: int) -> None:
        if self.last is None:
            expected = 0
        else:
            expected = FIRST_BITS if self.last.bits == 0 else self.last.bits + STEP_BITS
        if expected >= KEY_BITS:
            raise ProtocolError(
                f"cut request: a round after the last; the plan allows one round and {REFINEMENTS} splits"
            )
        if bits != expected:
            raise ProtocolError(
                f"cut request: expected the round that splits cells of {expected} bits, "
                f"found one of {bits} bits; rounds come once and in order"
            )

    def _check_cells(self, request: CutRequest, last: CutRequest) -> None:
        if not len(request.prefixes):
            raise ProtocolError("cut request: names no cell; a round without cells must not be asked")
        for feature in range(self.n_features):
            cells = request.prefixes[request.offsets[feature] : request.offsets[feature + 1]]
            if len(cells) > self.cell_limit:
                raise ProtocolError(
                    f"cut request: feature {feature}: at most {self.cell_limit} cells may be split "
                    f"(4 max_bin, and rows / (min_cell_rows + 1)), found {len(cells)}"
                )
            if last.bits == 0:
                nested = bool(np.all(cells < (1 << FIRST_BITS)))
            else:
                parents = last.prefixes[last.offsets[feature] : last.offsets[feature + 1]]
                nested = bool(np.all(np.isin(cells >> STEP_BITS, parents)))
            if not nested:
                raise ProtocolError(
                    f"cut request: feature {feature}: names a cell that is no part of a cell split in the last round"
                )


def _check_form(request: CutRequest, n_features: int) -> None:
    offsets, prefixes = request.offsets, request.prefixes
    if (
        offsets.dtype != np.int64
        or offsets.shape != (n_features + 1,)
        or prefixes.dtype != np.uint32
        or prefixes.ndim != 1
    ):
        raise ProtocolError(
            f"cut request: expected int64 offsets ({n_features + 1},) and uint32 prefixes, "
            f"found {offsets.dtype} {offsets.shape} and {prefixes.dtype} {prefixes.shape}"
        )
    if offsets[0] != 0 or offsets[-1] != len(prefixes) or np.any(offsets[1:] < offsets[:-1]):
        raise ProtocolError("cut request: offsets must rise from 0 to the number of prefixes")
    rises = np.ones(len(prefixes), dtype=bool)
    rises[1:] = prefixes[1:] > prefixes[:-1]
    rises[offsets[:-1][offsets[:-1] < len(prefixes)]] = True  # a feature's first cell has no cell before it
    if not rises.all():
        raise ProtocolError("cut request: prefixes must be sorted and unique within a feature")


def _check_first(request: CutRequest) -> None:
    if np.any(np.diff(request.offsets) != 1) or np.any(request.prefixes != 0):
        raise ProtocolError("cut request: round 0 must ask for the whole range of every feature, once")


# --- the cuts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cuts:
    """Where the bins of every feature end. The same at every member.

    A value x is in bin #{cuts <= x}, so that x < cut goes left (XGBoost's rule). A missing value has the
    code behind the last bin where any pooled row lacks the feature.

    Attributes:
        offsets: int64 (n_features + 1): feature f's cuts are values[offsets[f]:offsets[f + 1]].
        values: float32, finite, strictly rising within a feature, never -0.
        has_missing: bool (n_features,): some pooled row lacks the feature.

    Raises DataError where the arrays break these rules.
    """

    offsets: Array
    values: Array
    has_missing: Array

    def __post_init__(self) -> None:
        _check_cut_arrays(self.offsets, self.values, self.has_missing)

    @classmethod
    def from_arrays(cls, cuts: Sequence[Array], has_missing: Sequence[bool] | Array) -> Cuts:
        """Cuts from one array of inner cuts per feature, such as a plan's or XGBoost's own."""
        arrays = [np.asarray(feature_cuts, dtype=np.float32) for feature_cuts in cuts]
        values = np.concatenate([np.empty(0, dtype=np.float32), *arrays])
        offsets = _offsets(np.array([len(array) for array in arrays], dtype=np.int64))
        return cls(offsets, values, np.asarray(has_missing, dtype=bool))

    @property
    def n_features(self) -> int:
        return len(self.offsets) - 1

    @property
    def n_bins(self) -> Array:
        """int64 (n_features,): bins of each feature's values: at most max_bin."""
        return np.diff(self.offsets) + 1

    @property
    def n_codes(self) -> Array:
        """int64 (n_features,): codes of each feature, the one for missing included."""
        return self.n_bins + self.has_missing

    @property
    def code_offsets(self) -> Array:
        """int64 (n_features + 1,): feature f has offsets[f + 1] - offsets[f] codes."""
        return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(self.n_codes, dtype=np.int64)])

    def of(self, feature: int) -> Array:
        """Inner cuts of one feature, float32."""
        cuts: Array = self.values[self.offsets[feature] : self.offsets[feature + 1]]
        return cuts

    def some(self, first: int, end: int) -> Cuts:
        """The cuts of the features from `first` to before `end`."""
        offsets = self.offsets[first : end + 1]
        return Cuts(offsets - offsets[0], self.values[offsets[0] : offsets[-1]], self.has_missing[first:end])


def _check_cut_arrays(offsets: Array, values: Array, has_missing: Array) -> None:
    if offsets.dtype != np.int64 or values.dtype != np.float32 or has_missing.dtype != np.bool_:
        raise DataError(
            "cuts: expected int64 offsets, float32 values and bool has_missing, "
            f"found {offsets.dtype}, {values.dtype}, {has_missing.dtype}"
        )
    if offsets.ndim != 1 or values.ndim != 1 or has_missing.shape != (len(offsets) - 1,):
        raise DataError(
            f"cuts: shapes disagree: offsets {offsets.shape}, values {values.shape}, has_missing {has_missing.shape}"
        )
    if offsets[0] != 0 or offsets[-1] != len(values) or np.any(np.diff(offsets) < 0):
        raise DataError("cuts: offsets must rise from 0 to the number of values")
    if not np.isfinite(values).all() or np.any((values == 0) & np.signbit(values)):
        raise DataError("cuts: every cut must be finite and not -0")
    for feature in range(len(offsets) - 1):
        if np.any(np.diff(values[offsets[feature] : offsets[feature + 1]]) <= 0):
            raise DataError(f"cuts: feature {feature}: cuts must rise strictly")


# --- the coordinator's side --------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cells:
    """Non-empty cells of one feature, known so far from pooled counts.

    Attributes:
        settled_lows, settled_highs, settled_counts, settled_weights: lowest and highest key (uint32), rows and weight (int64)
            of cells that will not be split.
        open_lows, open_counts, open_weights: the same of the cells that the last answer counted. open_rest: rows of these that count
            towards `min_cell_rows`: all, or all but the largest contributor's.
    """

    settled_lows: Array
    settled_highs: Array
    settled_counts: Array
    settled_weights: Array
    open_lows: Array
    open_counts: Array
    open_weights: Array
    open_rest: Array


@dataclass(frozen=True, eq=False)
class CutSearch:
    """The coordinator's state between two rounds: made of sums over parties, and of nothing else.

        search = CutSearch(n_features, n_rows, max_bin, min_cell_rows)
        while not search.done:
            search = search.answer(sum of every party's count_cells(keys, search.request()))
        search.cuts()

    With weights, `answer` also takes the sum of every party's weigh_cells(keys, search.request()).

    Attributes:
        n_features, n_rows: features and pooled rows (all parties, missing values included).
        max_bin: bins of a feature's values at most, 2 to 65535; missing values have a code beyond them.
        min_cell_rows: a cell of this many rows or fewer is never split; at least 1.
        bits: prefix length of the cells counted so far: 0, 12, 17, 22, 27 or 32.
        cells: what is known of each feature; empty before the first answer.
    """

    n_features: int
    n_rows: int
    max_bin: int
    min_cell_rows: int
    bits: int = 0
    cells: tuple[Cells, ...] = ()

    def __post_init__(self) -> None:
        _check_settings(self.n_features, self.n_rows, self.max_bin, self.min_cell_rows)

    @property
    def done(self) -> bool:
        """Whether no cell is left to split."""
        if self.bits == 0:
            return False
        return not any(self._to_split(cells).any() for cells in self.cells)

    def request(self) -> CutRequest:
        """What to ask every party next. Raises ProtocolError once done."""
        if self.bits == 0:
            offsets = np.arange(self.n_features + 1, dtype=np.int64)
            return CutRequest(0, offsets, np.zeros(self.n_features, dtype=np.uint32))
        shift = np.uint32(KEY_BITS - self.bits)
        chosen = [cells.open_lows[self._to_split(cells)] >> shift for cells in self.cells]
        prefixes = np.concatenate(chosen)
        if not len(prefixes):
            raise ProtocolError("cut search: it is done, there is nothing to ask; read the cuts")
        return CutRequest(self.bits, _offsets(np.array([len(c) for c in chosen], dtype=np.int64)), prefixes)

    def answer(self, counts: Array, weights: Array | None = None, largest: Array | None = None) -> CutSearch:
        """The next state, from the sum over parties of `count_cells` for `request()`, and of `weigh_cells` where rows have weights.

        `counts` is integer (request.n_counts,), and so are `weights`, None for a weight of 1 a row, and `largest`, the largest of the
        parties' counts of each part, where a cell must hold more than `min_cell_rows` rows without it to be split (the rule of
        dominance). Raises ProtocolError where counts or weights do not add up to the cells split (somebody answered another request,
        or wrongly), or where rows are counted that no finite value can be.
        """
        request = self.request()
        shape = len(request.prefixes), request.split
        counts = _as_counts(counts, request.n_counts, 2**32).reshape(shape)
        weights = counts if weights is None else _as_counts(weights, request.n_counts, MOST_WEIGHT).reshape(shape)
        rest = counts if largest is None else counts - _as_counts(largest, request.n_counts, 2**32).reshape(shape)
        child_bits = FIRST_BITS if self.bits == 0 else self.bits + STEP_BITS
        shift = KEY_BITS - child_bits
        first = request.prefixes.astype(np.int64)[:, None] * request.split
        lows = ((first + np.arange(request.split)) << shift).astype(np.uint32)
        before = self.cells or (_no_cells(),) * self.n_features
        cells = []
        for feature, known in enumerate(before):
            part = slice(request.offsets[feature], request.offsets[feature + 1])
            self._check_sums(feature, known, counts[part], weights[part])
            inside = lows[part].ravel(), counts[part].ravel(), weights[part].ravel(), rest[part].ravel()
            cells.append(self._split(known, *inside))
            _check_finite(feature, cells[-1].open_lows)
        return replace(self, bits=child_bits, cells=tuple(cells))

    def final_cells(self, feature: int) -> tuple[Array, Array]:
        """Non-empty cells of one feature so far: lowest keys (uint32, sorted) and pooled rows (int64)."""
        cells = self.cells[feature]
        lows = np.concatenate([cells.settled_lows, cells.open_lows])
        counts = np.concatenate([cells.settled_counts, cells.open_counts])
        order = np.argsort(lows)
        return lows[order], counts[order]

    def final_weights(self, feature: int) -> Array:
        """Weights (int64) of the cells of `final_cells`."""
        cells = self.cells[feature]
        order = np.argsort(np.concatenate([cells.settled_lows, cells.open_lows]))
        weights: Array = np.concatenate([cells.settled_weights, cells.open_weights])[order]
        return weights

    def cuts(self) -> Cuts:
        """The cuts, once done. Raises ProtocolError before.

        A cut stands at the first value of the cell to its right, as XGBoost's does, where more than min_cell_rows rows are in
        that cell. Elsewhere it is the roundest number in the gap between the two cells, and where the gap holds nothing but a
        value that so few rows have, there is no cut. So the value of min_cell_rows rows or fewer is a cut only where it happens
        to be the boundary of a cell that was not split for it.
        """
        if not self.done:
            raise ProtocolError("cut search: it is not done, there are cells to split; answer its requests first")
        values, has_missing = [], []
        for feature in range(self.n_features):
            lows, counts = self.final_cells(feature)
            highs = self._highs(feature)
            missing = int(counts.sum()) < self.n_rows
            firsts = first_cells_of_bins(self.final_weights(feature), self.max_bin)[1:]
            keys = [self._cut_before(first, lows, highs, counts) for first in firsts.tolist()]
            values.append(values_from_keys(np.array([key for key in keys if key is not None], dtype=np.uint32)))
            has_missing.append(missing)
        return Cuts.from_arrays(values, has_missing)

    def possible_cuts(self, feature: int) -> tuple[Array, Array]:
        """All cuts that `cuts` may choose from, once done: float32, rising; and the pooled rows below each, int64.

        Raises ProtocolError before.
        """
        if not self.done:
            raise ProtocolError("cut search: it is not done, there are cells to split; answer its requests first")
        lows, counts = self.final_cells(feature)
        highs = self._highs(feature)
        keys = [self._cut_before(first, lows, highs, counts) for first in range(1, len(lows))]
        held = np.array([key is not None for key in keys], dtype=bool)
        found = np.array([key for key in keys if key is not None], dtype=np.uint32)
        return values_from_keys(found), np.cumsum(counts)[:-1][held]

    def _cut_before(self, first: int, lows: Array, highs: Array, counts: Array) -> int | None:
        """The key of the cut between the cell `first` of `final_cells` and the one before; None where there is none."""
        if counts[first] > self.min_cell_rows:
            return int(lows[first])
        return roundest_key(int(highs[first - 1]), int(lows[first]), single=bool(lows[first] == highs[first]))

    def _highs(self, feature: int) -> Array:
        """Highest keys (uint32) of the cells of `final_cells`."""
        cells = self.cells[feature]
        width = np.uint32((1 << (KEY_BITS - self.bits)) - 1)
        highs = np.concatenate([cells.settled_highs, cells.open_lows + width])
        order = np.argsort(np.concatenate([cells.settled_lows, cells.open_lows]))
        return np.asarray(highs[order])

    def _to_split(self, cells: Cells) -> Array:
        """bool over the open cells: those that the next round splits.

        At most 4 max_bin are chosen: while fewer cells than that are known, or else only cells above N / (4 max_bin), where N is
        the sum of all weights.
        """
        if self.bits == KEY_BITS:
            return np.zeros(len(cells.open_counts), dtype=bool)
        enough = 4 * self.max_bin
        splittable = cells.open_rest > self.min_cell_rows
        if len(cells.settled_counts) + len(cells.open_counts) < enough:
            return splittable
        n = int(cells.settled_weights.sum() + cells.open_weights.sum())
        return splittable & (cells.open_weights > n // enough)

    def _split(self, known: Cells, lows: Array, counts: Array, weights: Array, rest: Array) -> Cells:
        stay = ~self._to_split(known)
        held = counts > 0
        width = np.uint32((1 << (KEY_BITS - self.bits)) - 1) if self.bits else np.uint32(0)
        return Cells(
            np.concatenate([known.settled_lows, known.open_lows[stay]]),
            np.concatenate([known.settled_highs, known.open_lows[stay] + width]),
            np.concatenate([known.settled_counts, known.open_counts[stay]]),
            np.concatenate([known.settled_weights, known.open_weights[stay]]),
            lows[held],
            counts[held],
            weights[held],
            rest[held],
        )

    def _check_sums(self, feature: int, known: Cells, counts: Array, weights: Array) -> None:
        if self.bits == 0:
            right = int(counts.sum()) <= self.n_rows and int(weights.sum(dtype=np.float64)) <= MOST_WEIGHT
        else:
            chosen = self._to_split(known)
            right = np.array_equal(counts.sum(axis=1), known.open_counts[chosen])
            right &= np.array_equal(weights.sum(axis=1), known.open_weights[chosen])
        right &= not np.any(weights[counts == 0])
        if not right:
            raise ProtocolError(
                f"cut answers: feature {feature}: the parts of a cell do not add up to the cell; "
                "a party counted other rows, or answered another request, than in the round before"
            )


def _check_finite(feature: int, lows: Array) -> None:
    if np.any((lows < _LOWEST_FINITE_KEY) | (lows >= _INFINITY_KEY) | (lows == _NEGATIVE_ZERO_KEY)):
        raise ProtocolError(
            f"cut answers: feature {feature}: rows are counted where only infinities, NaN or -0 lie; "
            "a party's answer is wrong"
        )


def roundest_key(below: int, above: int, single: bool) -> int | None:
    """The key k with most trailing zero bits, below < k <= above; < above where `single`. None where there is none.

    With t the highest bit in which `below` and the end differ, k is the end with all bits under t cleared.
    """
    end = above - 1 if single else above
    if end <= below:
        return None
    t = (below ^ end).bit_length() - 1
    key = end >> t << t
    return key if key != _NEGATIVE_ZERO_KEY else key + 1  # -0 is not used: x < -0 is x < 0


def first_cells_of_bins(counts: Array, n_bins: int) -> Array:
    """Group consecutive cells into at most `n_bins` bins: int64 index of each bin's first cell.

    counts: int64 (n_cells,), rows or weights of the cells, which sum to at most `MOST_WEIGHT`. Where the cells fit, each is a bin.
    Elsewhere the largest bin of more than one cell is as small as any grouping can make it, heavier cells are bins by themselves,
    and within that bound the light cells share the bins left equally.
    """
    if len(counts) <= n_bins:
        return np.arange(len(counts), dtype=np.int64)
    firsts: Array = _group_cells(np.asarray(counts, dtype=np.int64), n_bins)
    return firsts


@njit(cache=True, nogil=True, error_model="numpy")
def _group_cells(counts, n_bins):  # type: ignore[no-untyped-def]
    capacity = _smallest_capacity(counts, n_bins)
    need = _bins_needed(counts, capacity)
    light_rows, heavy_bins = np.int64(0), 0
    for count in counts:
        if count > capacity:
            heavy_bins += 1
        else:
            light_rows += count
    firsts = np.empty(n_bins, dtype=np.int64)
    used, at, n_cells = 0, 0, len(counts)
    while at < n_cells:
        firsts[used] = at
        used += 1
        left = n_bins - used  # bins for the cells after this one
        rows = counts[at]
        at += 1
        if rows > capacity:
            heavy_bins -= 1
            continue
        # Close at an equal share, rows >= light rows left / bins, if the rest can do with the bins left.
        share_bins = max(1, left + 1 - heavy_bins)
        while at < n_cells and rows + counts[at] <= capacity:
            if n_cells - at <= left or (rows >= (light_rows + share_bins - 1) // share_bins and need[at] <= left):
                break
            rows += counts[at]
            at += 1
        light_rows -= rows
    return firsts[:used]


@njit(cache=True, nogil=True, error_model="numpy")
def _smallest_capacity(counts, n_bins):  # type: ignore[no-untyped-def]
    # The bins needed never grow with the capacity, so bisection finds the smallest that suffices.
    low, high = np.int64(0), counts.sum()
    while low < high:
        middle = (low + high) // 2
        if _bins_needed(counts, middle)[0] <= n_bins:
            high = middle
        else:
            low = middle + 1
    return low


@njit(cache=True, nogil=True, error_model="numpy")
def _bins_needed(counts, capacity):  # type: ignore[no-untyped-def]
    """Per cell, the fewest bins for it and all after it; a bin is one cell or at most `capacity` rows."""
    n_cells = len(counts)
    need = np.zeros(n_cells + 1, dtype=np.int64)
    end, rows = n_cells, np.int64(0)  # cells at..end-1 are the longest bin that starts at `at`
    for at in range(n_cells - 1, -1, -1):
        rows += counts[at]
        while rows > capacity and end > at + 1:
            end -= 1
            rows -= counts[end]
        need[at] = 1 + need[end]
    return need


def _check_settings(n_features: int, n_rows: int, max_bin: int, min_cell_rows: int) -> None:
    if n_features < 1 or not 1 <= n_rows < 2**32:
        raise PlanError(
            f"cuts: expected at least 1 feature and 1 to 2^32 - 1 pooled rows, found {n_features} and {n_rows}"
        )
    if not 2 <= max_bin <= MAX_MAX_BIN:
        raise PlanError(f"max_bin: expected 2 to {MAX_MAX_BIN}, found {max_bin}")
    if min_cell_rows < 1:
        raise PlanError(f"min_cell_rows: expected at least 1, found {min_cell_rows}")


def _as_counts(counts: Array, length: int, end: int) -> Array:
    counts = np.asarray(counts)
    if counts.shape != (length,) or not np.issubdtype(counts.dtype, np.integer):
        raise ProtocolError(
            f"cut answers: expected {length} whole counts, found {counts.dtype} of shape {counts.shape}"
        )
    counts = counts.astype(np.int64)
    if np.any((counts < 0) | (counts >= end)):
        raise ProtocolError(f"cut answers: expected counts of 0 to 2^{end.bit_length() - 1} - 1, found one outside")
    return counts


def _offsets(lengths: Array) -> Array:
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _no_cells() -> Cells:
    lows, counts = np.empty(0, dtype=np.uint32), np.empty(0, dtype=np.int64)
    return Cells(lows, lows, counts, counts, lows, counts, counts, counts)
