"""Histograms of rows that nearly always have a feature's most frequent code: only their other codes are kept and added.

    sum over rows of the most frequent code's cell  =  sum over all rows of the node  -  sum of the column's other cells

(LightGBM leaves its `most_freq_bin` out for the same reason.) Sums are whole numbers, so the difference is exact: histograms are those
of `histogram.build_histograms` to the bit. Of 392 features a row of such a table may have ten codes that are to be added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.trees.histogram import Codes, Int64
from hansa.trees.row_chunks import CHUNK_ROWS

SPARSE = 16
"""Codes are kept this way where at most one in so many is not its feature's most frequent one: there is memory for no more, and with
some times as many a row's codes are added as fast one by one."""


@dataclass(frozen=True, eq=False)
class SparseCodes:
    """The codes of one party's rows that are not their feature's most frequent one. They never leave the party.

    Attributes:
        starts: int64 (n_rows + 1,). cells: uint32: cells[starts[r] : starts[r + 1]] are those of row r, in a layout of all features.
        frequent: uint32 (n_features,): the cell of each feature's most frequent code.
    """

    starts: Int64
    cells: npt.NDArray[np.uint32]
    frequent: npt.NDArray[np.uint32]


def sparse_codes(codes_by_feature: Codes, offsets: Int64) -> SparseCodes | None:
    """The sparse form of codes, uint8 or uint16 (n_features, n_rows), that have as many as `offsets` says, int64 (n_features + 1,).

    None where more than one in `SPARSE` codes is not its feature's most frequent one.
    """
    n_features, n_rows = codes_by_feature.shape
    frequent, others = _most_frequent(codes_by_feature, offsets, n_features * n_rows // SPARSE)
    if others < 0:
        return None
    starts, cells = _others_of_rows(codes_by_feature, offsets, frequent, others)
    return SparseCodes(starts, cells, frequent)


@njit(cache=True, nogil=True, error_model="numpy")
def _most_frequent(codes_by_feature, offsets, most):  # type: ignore[no-untyped-def]
    """The cell of each feature's most frequent code, uint32 (n_features,), and how many codes are others; -1 for more than `most`."""
    frequent = np.zeros(codes_by_feature.shape[0], np.uint32)
    others = 0
    for feature in range(codes_by_feature.shape[0]):
        codes = codes_by_feature[feature]
        counts = np.zeros(offsets[feature + 1] - offsets[feature], np.int64)
        for row in range(codes.shape[0]):
            counts[codes[row]] += 1
        code = np.argmax(counts)
        frequent[feature] = offsets[feature] + code
        others += codes.shape[0] - counts[code]
        if others > most:
            return frequent, -1
    return frequent, others


@njit(cache=True, nogil=True, error_model="numpy")
def _others_of_rows(codes_by_feature, offsets, frequent, others):  # type: ignore[no-untyped-def]
    """`starts` and `cells` of `SparseCodes`; others: how many cells there are."""
    n_rows = codes_by_feature.shape[1]
    starts = np.zeros(n_rows + 1, np.int64)
    for feature in range(codes_by_feature.shape[0]):
        usual = frequent[feature] - offsets[feature]
        for row in range(n_rows):
            starts[row + 1] += codes_by_feature[feature, row] != usual
    for row in range(n_rows):
        starts[row + 1] += starts[row]
    cells, ends = np.empty(others, np.uint32), starts[:-1].copy()
    for feature in range(codes_by_feature.shape[0]):
        usual = frequent[feature] - offsets[feature]
        for row in range(n_rows):
            if codes_by_feature[feature, row] != usual:
                cells[ends[row]] = offsets[feature] + codes_by_feature[feature, row]
                ends[row] += 1
    return starts, cells


@njit(cache=True, nogil=True, error_model="numpy")
def build_sparse_histograms(  # type: ignore[no-untyped-def]
    sparse_starts, cells, frequent, offsets, rows, starts, ends, packed, out
):  # fmt: skip
    """`histogram.build_histograms` of a tree that may use all features.

    Args:
        sparse_starts, cells, frequent: the fields of `SparseCodes`. offsets: uint64 (n_features + 1,), of the `Layout`.
        rows, starts, ends, packed, out: as there.
    """
    for node in range(starts.shape[0]):
        for plane in range(packed.shape[0]):
            sums, total = out[node, plane], np.int64(0)
            sums[:] = 0
            for chunk in range(starts.shape[1]):
                before = np.uint64(chunk * CHUNK_ROWS)
                for i in range(starts[node, chunk], ends[node, chunk]):
                    row = before + np.uint64(rows[i])
                    value = packed[plane, row]
                    total += value
                    first, end = np.uint64(sparse_starts[row]), np.uint64(sparse_starts[row + np.uint64(1)])
                    for own in cells[first:end]:
                        sums[own] += value
            for feature in range(frequent.shape[0]):
                others = np.int64(0)
                for cell in range(offsets[feature], offsets[feature + 1]):
                    others += sums[cell]
                sums[frequent[feature]] = total - others
