"""Histograms of gradients: integer sums per (feature, bin), the same for any order of the rows.

A *cell* is one bin of one column; the cells of all columns stand one after the other (`offsets`). A histogram is int64 of shape
(planes, cells). One plane (*narrow*): the sum of g in the high 32 bits, of h in the low 32. Two planes (*wide*): g, then h. Either way
histograms add and subtract as plain integers, because the scales (`objective.scales`) bound every sum by its field:
`(g1 << 32 | h1) + (g2 << 32 | h2) = (g1 + g2) << 32 | (h1 + h2)` as long as h1 + h2 < 2^32.

Codes are read row-major, so that one cache line holds a row. Where columns have about 256 bins the sums are first made at a fixed
stride of 256 cells a column, which saves a load per cell (.42 against .68 ns a row and column, one thread).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.trees.crew import Crew

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]

STRIDE = 256


@dataclass(frozen=True)
class Layout:
    """Where the cells of the columns of one tree stand.

    Attributes:
        columns: uint32 (k,), ascending: the features that the tree may use.
        offsets: uint64 (k + 1,): the first cell of each column; the last entry is the number of cells.
        strided: whether sums are made at a stride of 256 cells first.
    """

    columns: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint64]
    strided: bool

    @property
    def cells(self) -> int:
        return int(self.offsets[-1])


def layout_of(bin_offsets: npt.NDArray[np.int64], columns: npt.NDArray[np.uint32]) -> Layout:
    """The layout of `columns` of a binned table whose feature f has `bin_offsets[f + 1] - bin_offsets[f]` codes."""
    sizes = np.diff(bin_offsets)[columns]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    strided = bool(len(columns)) and int(sizes.max()) <= STRIDE and 2 * int(sizes.sum()) >= STRIDE * len(columns)
    return Layout(columns=columns.astype(np.uint32), offsets=offsets, strided=strided)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_strided(codes, columns, first, last, rows, packed, sums):  # type: ignore[no-untyped-def]
    """sums[256 (j - first) + code] += packed, for columns first <= j < last."""
    if columns.shape[0] == codes.shape[1]:
        for i in range(rows.shape[0]):
            row = rows[i]
            value = packed[0, row]
            for j in range(last - first):
                sums[np.uint64(j) * np.uint64(STRIDE) + np.uint64(codes[row, first + j])] += value
    else:
        for i in range(rows.shape[0]):
            row = rows[i]
            value = packed[0, row]
            for j in range(last - first):
                code = np.uint64(codes[row, columns[first + j]])
                sums[np.uint64(j) * np.uint64(STRIDE) + code] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _build_block(codes, columns, offsets, strided, first, last, rows, packed, sums, out):  # type: ignore[no-untyped-def]
    """Histogram of columns first <= j < last; `sums` is scratch of 256 (last - first) cells."""
    begin = np.int64(offsets[first])
    end = np.int64(offsets[last])
    if strided and out.shape[0] == 1:
        if end - begin == STRIDE * (last - first):
            direct = out[0, begin:end]
            direct[:] = 0
            _add_strided(codes, columns, first, last, rows, packed, direct)
            return
        sums[: STRIDE * (last - first)] = 0
        _add_strided(codes, columns, first, last, rows, packed, sums)
        for j in range(first, last):
            cell = np.int64(offsets[j])
            for code in range(np.int64(offsets[j + 1]) - cell):
                out[0, cell + code] = sums[STRIDE * (j - first) + code]
        return
    out[:, begin:end] = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        for plane in range(out.shape[0]):
            value = packed[plane, row]
            for j in range(first, last):
                out[plane, offsets[j] + np.uint64(codes[row, columns[j]])] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _build_nodes(codes, columns, offsets, strided, first, last, rows, starts, ends, packed, sums, out):  # type: ignore[no-untyped-def]
    for node in range(starts.shape[0]):
        part = rows[starts[node] : ends[node]]
        _build_block(codes, columns, offsets, strided, first, last, part, packed, sums, out[node])


@njit(cache=True, nogil=True, error_model="numpy")
def build_histograms(codes, columns, offsets, strided, rows, starts, ends, packed, sums, out):  # type: ignore[no-untyped-def]
    """Histograms of several nodes, by one thread.

    Args:
        codes: uint8 or uint16 (n_rows, n_features), row-major.
        columns, offsets, strided: the fields of `Layout`, k columns.
        rows: uint32 (n,); starts, ends: int64 (nodes,): node i has rows[starts[i]:ends[i]].
        packed: int64 (planes, n_rows): gradients as integers (`objective.pack`).
        sums: int64 (threads, 256 k): scratch.
        out: int64 (nodes, planes, cells), overwritten.
    """
    _build_nodes(codes, columns, offsets, strided, 0, columns.shape[0], rows, starts, ends, packed, sums[0], out)


def build_histograms_parallel(
    codes: Codes,
    columns: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.uint64],
    strided: bool,
    rows: npt.NDArray[np.uint32],
    starts: Int64,
    ends: Int64,
    packed: Int64,
    sums: Int64,
    out: Int64,
    crew: Crew,
) -> None:
    """`build_histograms` with the columns shared out over a crew; `sums` has a row for each thread."""

    def build(thread: int, first: int, last: int) -> None:
        _build_nodes(codes, columns, offsets, strided, first, last, rows, starts, ends, packed, sums[thread], out)

    crew.share(build, len(columns))


@njit(cache=True, nogil=True, error_model="numpy")
def partition_rows(codes, rows, scratch, begin, end, threshold, missing, missing_left):  # type: ignore[no-untyped-def]
    """Sort one node's rows into those that go left, then those that go right; within a side the order stays.

    Args:
        codes: uint8 or uint16 (n_rows,): of the feature that the node splits on.
        rows: uint32 (n,): the node's are rows[begin:end], reordered in place. scratch: uint32 (n,), overwritten at the same places.
        threshold: codes up to this one go left. missing: the code that means missing, or -1, and missing_left its side.

    Returns:
        The position where the right side begins.
    """
    left = np.uint64(begin)
    right = np.uint64(begin)
    for i in range(begin, end):
        row = rows[i]
        code = np.int32(codes[row])
        goes_left = ((code <= threshold) & (code != missing)) | (missing_left & (code == missing))
        rows[left] = row
        scratch[right] = row
        left += np.uint64(goes_left)
        right += np.uint64(not goes_left)
    for i in range(right - np.uint64(begin)):
        rows[left + np.uint64(i)] = scratch[begin + i]
    return np.int64(left)
