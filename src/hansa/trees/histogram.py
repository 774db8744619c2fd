"""Histograms of gradients: integer sums per (feature, bin), the same for any order of the rows.

A *cell* is one bin of one column; the cells of all columns stand one after the other (`offsets`). A histogram is int64 of shape
(planes, cells). One plane (*narrow*): the sum of g in the high 32 bits, of h in the low 32. Two planes (*wide*): g, then h. Either way
histograms add and subtract as plain integers, because the scales (`objective.scales`) bound every sum by its field:
`(g1 << 32 | h1) + (g2 << 32 | h2) = (g1 + g2) << 32 | (h1 + h2)` as long as h1 + h2 < 2^32.

Rows come chunk by chunk (`row_chunks`): a node has a span of `rows` in each chunk of the table.

Codes are read row-major, so that one cache line holds a row. Where columns have about as many codes as the largest the sums are first
made at a fixed stride of cells a column, which saves a load per cell: 256 where codes are bytes, more where they are not (a column
with 256 bins and missing values).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.trees.prefetch import prefetch
from hansa.trees.row_chunks import CHUNK_ROWS
from hansa.trees.worker_pool import StartSignal, WorkerPool

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Int64 = npt.NDArray[np.int64]

STRIDE = 256
"""The least stride, and the one that is compiled in."""

AHEAD = 12
"""Rows of a scattered node that are fetched before their turn."""

SCATTERED = 4
"""A node's rows are scattered where they are fewer than one in so many of those they lie among."""


@dataclass(frozen=True)
class Layout:
    """Where the cells of the columns of one tree stand.

    Attributes:
        columns: uint32 (k,), ascending: the features that the tree may use.
        offsets: uint64 (k + 1,): the first cell of each column; the last entry is the number of cells.
        stride: cells from one column to the next where sums are made at a fixed stride first, else 0.
    """

    columns: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint64]
    stride: int

    @cached_property
    def cells(self) -> int:
        return int(self.offsets[-1])

    @property
    def scratch(self) -> int:
        """Cells of the scratch that a thread needs."""
        return self.stride * len(self.columns)


def layout_of(bin_offsets: npt.NDArray[np.int64], columns: npt.NDArray[np.uint32]) -> Layout:
    """The layout of `columns` of a binned table whose feature f has `bin_offsets[f + 1] - bin_offsets[f]` codes."""
    sizes = np.diff(bin_offsets)[columns]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.uint64)
    stride = max(int(sizes.max(initial=0)), STRIDE)
    dense = 2 * int(sizes.sum()) >= stride * len(columns) > 0
    return Layout(columns=columns.astype(np.uint32), offsets=offsets, stride=stride if dense else 0)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_strided(codes, columns, rows, packed, sums):  # type: ignore[no-untyped-def]
    """sums[256 j + code] += packed, for column j; codes, rows and packed are one chunk's. Rows ascend."""
    n = rows.shape[0]
    if columns.shape[0] < codes.shape[1]:
        for i in range(n):
            row = rows[i]
            value = packed[row]
            for j in range(columns.shape[0]):
                code = np.uint64(codes[row, columns[j]])
                sums[np.uint64(j) * np.uint64(STRIDE) + code] += value
    elif n and rows[n - 1] - rows[0] < SCATTERED * n:
        for i in range(n):
            row = rows[i]
            value = packed[row]
            for j in range(codes.shape[1]):
                sums[np.uint64(j) * np.uint64(STRIDE) + np.uint64(codes[row, j])] += value
    else:
        for i in range(n):
            row = rows[i]
            value = packed[row]
            ahead = np.uint64(rows[min(i + AHEAD, n - 1)])
            prefetch(codes, ahead)
            prefetch(packed, ahead)
            for j in range(codes.shape[1]):
                sums[np.uint64(j) * np.uint64(STRIDE) + np.uint64(codes[row, j])] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _add_wider(codes, columns, rows, packed, sums, stride):  # type: ignore[no-untyped-def]
    """`_add_strided` at a stride that is not compiled in."""
    n = rows.shape[0]
    all_columns = columns.shape[0] == codes.shape[1]
    scattered = n > 0 and rows[n - 1] - rows[0] >= SCATTERED * n
    for i in range(n):
        row = rows[i]
        value = packed[row]
        if scattered:
            ahead = np.uint64(rows[min(i + AHEAD, n - 1)])
            prefetch(codes, ahead)
            prefetch(packed, ahead)
        if all_columns:
            for j in range(codes.shape[1]):
                sums[np.uint64(j) * stride + np.uint64(codes[row, j])] += value
        else:
            for j in range(columns.shape[0]):
                sums[np.uint64(j) * stride + np.uint64(codes[row, columns[j]])] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _add_ragged(codes, offsets, rows, packed, sums):  # type: ignore[no-untyped-def]
    """sums[offsets[j] + code] += packed, for every column j; codes, rows and packed are one chunk's."""
    for i in range(rows.shape[0]):
        row = rows[i]
        value = packed[row]
        for j in range(codes.shape[1]):
            sums[offsets[j] + np.uint64(codes[row, j])] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _build_node(codes, columns, offsets, stride, rows, starts, ends, packed, sums, out):  # type: ignore[no-untyped-def]
    """Histogram of one node, int64 (planes, cells); its rows of chunk c are rows[starts[c] : ends[c]]. `sums` is scratch of stride k
    cells.
    """
    k = columns.shape[0]
    if stride > 0 and out.shape[0] == 1:
        direct = out.shape[1] == stride * k
        target = out[0] if direct else sums
        target[: stride * k] = 0
        for chunk in range(starts.shape[0]):
            own = rows[starts[chunk] : ends[chunk]]
            if own.shape[0] == 0:
                continue
            first = chunk * CHUNK_ROWS
            of_chunk = codes[first : first + CHUNK_ROWS]
            values = packed[0][first : first + CHUNK_ROWS]
            if stride == STRIDE:
                _add_strided(of_chunk, columns, own, values, target)
            else:
                _add_wider(of_chunk, columns, own, values, target, np.uint64(stride))
        if direct:
            return
        for j in range(k):
            cell = np.int64(offsets[j])
            for code in range(np.int64(offsets[j + 1]) - cell):
                out[0, cell + code] = sums[stride * j + code]
        return
    out[:] = 0
    if out.shape[0] == 1 and k == codes.shape[1]:
        for chunk in range(starts.shape[0]):
            first = chunk * CHUNK_ROWS
            own, of_chunk = rows[starts[chunk] : ends[chunk]], codes[first : first + CHUNK_ROWS]
            _add_ragged(of_chunk, offsets, own, packed[0][first : first + CHUNK_ROWS], out[0])
        return
    for chunk in range(starts.shape[0]):
        before = np.uint64(chunk * CHUNK_ROWS)
        for i in range(starts[chunk], ends[chunk]):
            row = before + np.uint64(rows[i])
            for plane in range(out.shape[0]):
                value = packed[plane, row]
                for j in range(k):
                    out[plane, offsets[j] + np.uint64(codes[row, columns[j]])] += value


@njit(cache=True, nogil=True, error_model="numpy")
def build_histograms(codes, columns, offsets, stride, rows, starts, ends, packed, sums, out):  # type: ignore[no-untyped-def]
    """Histograms of several nodes, by one thread.

    Args:
        codes: uint8 or uint16 (n_rows, n_features), row-major.
        columns, offsets, stride: the fields of `Layout`, k columns.
        rows: uint16 (n,); starts, ends: int64 (nodes, chunks): node i's rows of chunk c are rows[starts[i, c] : ends[i, c]].
        packed: int64 (planes, n_rows): gradients as integers (`objective.pack`).
        sums: int64 (threads, stride k): scratch.
        out: int64 (nodes, planes, cells), overwritten.
    """
    for node in range(starts.shape[0]):
        _build_node(codes, columns, offsets, stride, rows, starts[node], ends[node], packed, sums[0], out[node])


@njit(cache=True, nogil=True, error_model="numpy")
def _build_share(  # type: ignore[no-untyped-def]
    start_signal, first, last, codes, columns, offsets, stride, rows, starts, ends, packed, sums, out, spill
):  # fmt: skip
    """One thread's share of `build_histograms`: of all nodes' rows, one node behind the other, those from first to last.

    Returns:
        The node whose first rows are another thread's, and whose others went into `spill`, int64 (planes, cells); -1 if none.
    """
    start_signal[0] += 1
    spilt, before = -1, 0
    chunks = starts.shape[1]
    own_starts, own_ends = np.empty(chunks, np.int64), np.empty(chunks, np.int64)
    for node in range(starts.shape[0]):
        size = 0
        for chunk in range(chunks):
            size += ends[node, chunk] - starts[node, chunk]
        begin, end = max(first - before, 0), min(last - before, size)
        before += size
        if size == 0 and first == 0:
            out[node] = 0
        if begin >= end:
            continue
        at = 0
        for chunk in range(chunks):
            start, count = starts[node, chunk], ends[node, chunk] - starts[node, chunk]
            own_starts[chunk] = start + min(max(begin - at, 0), count)
            own_ends[chunk] = start + min(max(end - at, 0), count)
            at += count
        if begin == 0:
            _build_node(codes, columns, offsets, stride, rows, own_starts, own_ends, packed, sums, out[node])
        else:
            _build_node(codes, columns, offsets, stride, rows, own_starts, own_ends, packed, sums, spill)
            spilt = node
    return spilt


@njit(cache=True, nogil=True, error_model="numpy")
def _add_spills(spilt, spills, out):  # type: ignore[no-untyped-def]
    for thread in range(spilt.shape[0]):
        if spilt[thread] >= 0:
            node = out[spilt[thread]]
            for plane in range(node.shape[0]):
                for cell in range(node.shape[1]):
                    node[plane, cell] += spills[thread, plane, cell]


def build_histograms_parallel(
    codes: Codes,
    columns: npt.NDArray[np.uint32],
    offsets: npt.NDArray[np.uint64],
    stride: int,
    rows: npt.NDArray[np.uint16],
    starts: Int64,
    ends: Int64,
    packed: Int64,
    sums: Int64,
    out: Int64,
    pool: WorkerPool,
) -> None:
    """`build_histograms` with the rows shared out evenly over a worker pool; `sums` has a row for each thread.

    A node whose rows fall to several threads is built in parts, which are then added: integers have no order.
    """
    spills = np.empty((pool.threads, *out.shape[1:]), np.int64)
    spilt = np.full(pool.threads, -1, np.int64)

    def build(thread: int, first: int, last: int, start_signal: StartSignal) -> None:
        spilt[thread] = _build_share(
            start_signal, first, last, codes, columns, offsets, stride, rows, starts, ends, packed, sums[thread], out, spills[thread]
        )  # fmt: skip

    total = int((ends - starts).sum())
    if not total:
        out[:] = 0
        return
    pool.share(build, total)
    _add_spills(spilt, spills, out)


@njit(cache=True, nogil=True, error_model="numpy")
def add_chunk(codes, columns, offsets, rows, starts, ends, packed, before, in_order, out):  # type: ignore[no-untyped-def]
    """Add one chunk's rows to the histograms of several nodes; codes stand feature by feature, so that only those used are read.

    Args:
        codes: uint8 or uint16 (n_features, rows of the chunk), C-contiguous.
        columns, offsets: the fields of `Layout`.
        rows: uint16 (n,); starts, ends: int64 (nodes,): node i's rows are rows[starts[i] : ends[i]].
        packed: int64 (planes, n_rows); `before` of the table's rows stand before this chunk. in_order: int64 (rows of the chunk or
            more,): scratch.
        out: int64 (nodes, planes, cells), added to.
    """
    for plane in range(packed.shape[0]):
        values, at = packed[plane][before:], 0
        for node in range(starts.shape[0]):
            for i in range(starts[node], ends[node]):
                in_order[at] = values[rows[i]]
                at += 1
        for j in range(columns.shape[0]):
            of_column, at = codes[columns[j]], 0
            for node in range(starts.shape[0]):
                own, first = rows[starts[node] : ends[node]], np.uint64(at)
                cells = out[node, plane, offsets[j] : offsets[j + 1]]
                for i in range(own.shape[0]):
                    cells[np.uint64(of_column[np.uint64(own[i])])] += in_order[first + np.uint64(i)]
                at += own.shape[0]


@njit(cache=True, nogil=True, error_model="numpy")
def goes_left(code, threshold, missing, missing_left):  # type: ignore[no-untyped-def]
    """Whether a row with this code goes left. `missing` is the feature's last code or -1, so it is above every threshold."""
    return (code <= threshold) | (missing_left & (code == missing))


@njit(cache=True, nogil=True, error_model="numpy")
def partition_rows(codes, rows, scratch, begin, end, threshold, missing, missing_left):  # type: ignore[no-untyped-def]
    """Sort one node's rows into those that go left, then those that go right; within a side the order stays.

    Args:
        codes: uint8 or uint16 (rows of the chunk,): of the feature that the node splits on.
        rows: uint16 (n,): the node's, of one chunk, are rows[begin:end], reordered in place. scratch: uint16 (end - begin or more,),
            overwritten.
        threshold: codes up to this one go left; below `missing` where that is a code. missing: the feature's last code where it means
            missing, else -1, and missing_left its side.

    Returns:
        The position where the right side begins.
    """
    own = rows[begin:end]
    others = scratch[: end - begin]
    left = np.uint64(0)
    if missing_left and missing >= 0:
        for i in range(own.shape[0]):
            row = own[i]
            own[left] = row
            others[np.uint64(i) - left] = row
            left += np.uint64(goes_left(np.int32(codes[row]), threshold, missing, True))
    else:
        for i in range(own.shape[0]):
            row = own[i]
            own[left] = row
            others[np.uint64(i) - left] = row
            left += np.uint64(np.int32(codes[row]) <= threshold)
    own[left:] = others[: np.uint64(own.shape[0]) - left]
    return begin + np.int64(left)
