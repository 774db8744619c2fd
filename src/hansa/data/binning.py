"""Codes: which bin each value of a party's rows falls in.

    code(x) = #{cuts <= x}, and the feature's last code where x is missing

Codes are stored row-major for histograms (one cache line holds a row), and feature-major beside for partitioning, where memory does not
count more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hansa.data.quantiles import ALL_ROWS, Cuts
from hansa.errors import DataError, PlanError

Array = NDArray[Any]

_BLOCK_ROWS = 512
"""Rows coded together, so that the row-major writes of all features stay in the first-level cache."""


@dataclass(frozen=True, eq=False)
class BinnedRows:
    """One party's rows as codes. Never leaves the party.

    Attributes:
        codes: uint8 or uint16 (n_rows, n_features), C-contiguous.
        codes_by_feature: the same, (n_features, n_rows): C-contiguous, or a view of `codes`.
        offsets: int64 (n_features + 1): feature f has offsets[f + 1] - offsets[f] codes, the one for missing
            included.
        has_missing: bool (n_features,): the feature's last code means missing.
    """

    codes: Array
    codes_by_feature: Array
    offsets: Array
    has_missing: Array

    @property
    def n_rows(self) -> int:
        return len(self.codes)

    @property
    def n_features(self) -> int:
        return len(self.codes_by_feature)


def bin_rows(features: Array, cuts: Cuts, threads: int = 1) -> BinnedRows:
    """Code float32 `features` (n_features, n_rows), NaN = missing, by the pooled cuts.

    Codes are uint8 where every feature has at most 256, else uint16. The result does not depend on `threads`.
    Raises DataError where a value is missing in a feature that no pooled row lacked when the cuts were made,
    and where shapes or dtypes do not match the cuts.
    """
    if features.ndim != 2 or features.dtype != np.float32 or len(features) != cuts.n_features:
        raise DataError(
            f"features: expected float32 of shape ({cuts.n_features}, n_rows) as in the cuts, "
            f"found {features.dtype} of shape {features.shape}"
        )
    return bin_groups([(0, features)], features.shape[1], cuts, threads)


def bin_groups(
    groups: Iterable[tuple[int, Array]],
    n_rows: int,
    cuts: Cuts,
    threads: int = 1,
    held: Array = ALL_ROWS,
    twice: bool = True,
) -> BinnedRows:
    """`bin_rows` of features that come some at a time, as `columns.Columns.groups` gives them.

    Args:
        held: bool (n_rows,), or empty for none: held-out rows. Where they lack a feature that no training row lacks, they go right, as
            the model has it.
        twice: whether `codes_by_feature` has memory of its own.
    """
    if threads < 1:
        raise PlanError(f"threads: expected at least 1, found {threads}")
    dtype = code_type(cuts)
    by_row = np.empty((n_rows, cuts.n_features), dtype=dtype)
    by_feature = np.empty((cuts.n_features if twice else 0, n_rows), dtype=dtype)
    for first, group in groups:
        own = cuts.some(first, first + len(group))
        known = with_known_missing(group, own, held) if len(held) else group
        _code_blocks(np.ascontiguousarray(known), first, own, by_row, by_feature, threads)
        del group, known  # before the next ones are read
    return BinnedRows(by_row, by_feature if twice else by_row.T, cuts.code_offsets, cuts.has_missing.copy())


def code_type(cuts: Cuts) -> type[np.uint8] | type[np.uint16]:
    """The type of codes by these cuts. Raises DataError where none holds them."""
    largest = int(cuts.n_codes.max())
    if largest > 65_536:
        raise DataError(f"cuts: a feature has {largest} codes, at most 65536 fit; lower max_bin")
    return np.uint8 if largest <= 256 else np.uint16


def bin_columns(
    groups: Iterable[tuple[int, Array]], cuts: Cuts, rows: int, threads: int = 1, held: Array = ALL_ROWS
) -> Iterator[tuple[int, int, Array]]:
    """The codes of `bin_groups` feature by feature, and of each `rows` rows at a time: (the feature, the first row, codes).

    Each is to be used before the next one is asked for: they share memory.
    """
    dtype = code_type(cuts)
    no_rows = by_feature = np.empty((0, 0), dtype)
    for first, group in groups:
        for place in range(len(group)):
            own = cuts.some(first + place, first + place + 1)
            for begin in range(0, group.shape[1], rows):
                values = group[place : place + 1, begin : begin + rows]
                if len(held):
                    values = with_known_missing(values, own, held[begin : begin + rows])
                if by_feature.shape != values.shape:
                    by_feature = np.empty(values.shape, dtype)
                _code_blocks(np.ascontiguousarray(values), 0, own, no_rows, by_feature, threads, begin)
                yield first + place, begin, by_feature[0]
        del group, values  # before the next ones are read


def with_known_missing(features: Array, cuts: Cuts, held: Array) -> Array:
    """`features` with a missing value of a held-out row sent right where no training row lacked the feature, as the model does.

    Args:
        features: float32 (n_features, n_rows). held: bool (n_rows,), the held-out rows. Other rows keep what they lack, so that
            `bin_rows` refuses it.
    """
    unknown = np.isnan(features) & ~cuts.has_missing[:, None] & held
    return np.where(unknown, np.finfo(np.float32).max, features) if unknown.any() else features


def category_codes(values: Array, n_categories: int, name: str) -> Array:
    """Codes of a categorical feature, uint16 (n_rows,), from float32 values (n_rows,): the same numbers, `n_categories` where missing.

    Raises DataError naming the feature and the row of a value that is no category.
    """
    missing = np.isnan(values)
    wrong = np.flatnonzero(~missing & ~((values >= 0) & (values < n_categories) & (values == np.floor(values))))
    if wrong.size:
        raise DataError(
            f"feature {name!r}, row {int(wrong[0]) + 1}: expected the code of one of {n_categories} categories, "
            f"found {values[wrong[0]]:g}; give codes from 0 on, or NaN for missing"
        )
    codes: Array = np.where(missing, np.float32(n_categories), values).astype(np.uint16)
    return codes


def _code_blocks(
    features: Array, begin: int, cuts: Cuts, by_row: Array, by_feature: Array, threads: int, first_row: int = 0
) -> None:
    """Write the codes of the features from `begin` on. `first_row`: of these rows in the table, for errors."""
    tables, table_offsets = _search_tables(cuts)
    # A missing value where none is known gets an impossible marker, which the kernel reports.
    missing_code = np.where(cuts.has_missing, cuts.n_codes - 1, -1).astype(np.int64)

    def code(first: int, end: int) -> bool:
        return bool(_code(features, begin, tables, table_offsets, missing_code, by_row, by_feature, first, end))

    # The kernel releases the interpreter lock; plain threads leave numba's global thread settings alone.
    edges = np.linspace(0, features.shape[1], threads + 1).astype(np.int64)
    if threads == 1:
        complete = code(0, features.shape[1])
    else:
        with ThreadPoolExecutor(threads) as pool:
            complete = all(list(pool.map(code, edges[:-1].tolist(), edges[1:].tolist())))
    if not complete:
        _refuse_missing(features, begin, cuts, first_row)


def _search_tables(cuts: Cuts) -> tuple[Array, Array]:
    """Each feature's cuts padded with NaN to 2^k - 1 entries, so that every search takes k steps and no
    branch.

    NaN <= x is false for every x, so padding is never passed.
    """
    padded = []
    for feature in range(cuts.n_features):
        inner = cuts.of(feature)
        table = np.full((1 << len(inner).bit_length()) - 1, np.nan, dtype=np.float32)
        table[: len(inner)] = inner
        padded.append(table)
    lengths = np.array([0, *(len(table) for table in padded)], dtype=np.int64)
    return np.concatenate(padded), np.cumsum(lengths)


def _refuse_missing(features: Array, begin: int, cuts: Cuts, first_row: int) -> None:
    for feature in np.flatnonzero(~cuts.has_missing):
        missing = np.isnan(features[feature])
        if missing.any():
            raise DataError(
                f"features: feature {begin + feature}, row {first_row + int(missing.argmax()) + 1}: expected a number, "
                "since no row lacked this feature when the cuts were made, found a missing value; "
                "make the cuts from these rows too"
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _code(  # type: ignore[no-untyped-def]
    features, begin, tables, table_offsets, missing_code, by_row, by_feature, first, end
):
    complete = True
    codes = np.empty(_BLOCK_ROWS, dtype=np.uint32)
    for block in range(first, end, _BLOCK_ROWS):
        block_end = min(block + _BLOCK_ROWS, end)
        for feature in range(features.shape[0]):
            values = features[feature, block:block_end]
            _search(tables[table_offsets[feature] : table_offsets[feature + 1]], values, codes)
            missing = missing_code[feature]
            for row in range(len(values)):
                if values[row] != values[row]:
                    codes[row] = np.uint32(max(missing, 0))
                    complete &= missing >= 0
            if by_row.shape[1]:
                for row in range(len(values)):
                    by_row[block + row, begin + feature] = codes[row]
            if by_feature.shape[0]:
                for row in range(len(values)):
                    by_feature[begin + feature, block + row] = codes[row]
    return complete


@njit(cache=True, nogil=True, error_model="numpy")
def _search(table, values, codes):  # type: ignore[no-untyped-def]
    """codes[i] = #{table <= values[i]}. All values take a step together, so that the compiler vectorises it.

    Unsigned indices spare the test for negative ones: 5.4 against 7.7 ns a value, and 37 with the loops
    exchanged.
    """
    codes[: len(values)] = 0
    step = np.uint32((len(table) + 1) >> 1)
    while step > 0:
        for row in range(len(values)):
            middle = np.uint64(codes[row] + step - np.uint32(1))
            codes[row] += step if table[middle] <= values[row] else np.uint32(0)
        step >>= np.uint32(1)
