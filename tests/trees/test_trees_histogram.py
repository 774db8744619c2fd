"""Every histogram kernel gives its naive twin's integers; rows are parted as the naive twin parts them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.trees.histogram import (
    STRIDE,
    build_histograms,
    build_histograms_parallel,
    layout_of,
    partition_rows,
)
from hansa.trees.row_chunks import CHUNK_ROWS, part
from hansa.trees.worker_pool import WorkerPool


@dataclass(frozen=True)
class Table:
    """Codes of made-up rows, and their gradients as integers."""

    codes: np.ndarray
    sizes: np.ndarray
    packed: np.ndarray

    @property
    def offsets(self):
        return np.concatenate([[0], np.cumsum(self.sizes)]).astype(np.int64)


def table(sizes, n_rows, planes, dtype, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n_rows) for size in sizes], axis=1).astype(dtype)
    if planes == 1:
        packed = rng.integers(-(2**20), 2**20, (1, n_rows)) * 2**32 + rng.integers(0, 2**20, (1, n_rows))
    else:
        packed = rng.integers(-(2**50), 2**50, (2, n_rows))
    return Table(codes, np.array(sizes), packed.astype(np.int64))


SHAPES = {
    "full stride": ([STRIDE] * 5, np.uint8),
    "nearly full stride": ([STRIDE, 250, 255, 200, 17], np.uint8),
    "ragged": ([2, 3, 40, 1, 7], np.uint8),
    "one code": ([1, 1], np.uint8),
    "missing beyond a byte": ([STRIDE + 1, STRIDE, 20, STRIDE + 1], np.uint16),
    "sixteen bits, few codes": ([200, 256, 190], np.uint16),
    "many codes": ([3000, 5], np.uint16),
    "one column": ([STRIDE], np.uint8),
}


def build_nodes(data, columns, rows, starts, ends, threads=0):
    """Histograms of nodes, by the serial kernel or (threads > 0) the parallel one; memory begins dirty."""
    layout = layout_of(data.offsets, columns)
    out = np.full((len(starts), len(data.packed), layout.cells), 77, np.int64)
    scratch = np.full((max(threads, 1), layout.scratch), 99, np.int64)
    pool = [WorkerPool(threads)] if threads else []
    kernel = build_histograms_parallel if threads else build_histograms
    spans = np.array(starts)[:, None], np.array(ends)[:, None]
    kernel(
        data.codes, layout.columns, layout.offsets, layout.stride, rows.astype(np.uint16), *spans, data.packed, scratch, out, *pool
    )  # fmt: skip
    return out


def build(data, columns, rows):
    return build_nodes(data, columns, rows, [0], [len(rows)])[0]


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("subset", [False, True], ids=["all columns", "some columns"])
def test_a_histogram_is_the_naive_one(shape, planes, subset):
    sizes, dtype = SHAPES[shape]
    data = table(sizes, 300, planes, dtype)
    columns = np.arange(0, len(sizes), 2 if subset else 1, dtype=np.uint32)
    for rows in (np.arange(300), np.arange(299, 0, -3), np.array([5]), np.zeros(0)):
        rows = rows.astype(np.uint32)
        expected = naive.build_histogram(data.codes, columns.tolist(), sizes, rows.tolist(), data.packed)
        np.testing.assert_array_equal(build(data, columns, rows), expected)


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [0, 1, 2, 3], ids=lambda n: f"{n} threads" if n else "serial")
def test_histograms_of_many_nodes_are_the_single_ones(shape, planes, threads):
    sizes, dtype = SHAPES[shape]
    data = table(sizes, 400, planes, dtype)
    order = np.random.default_rng(1).permutation(400).astype(np.uint32)
    starts, ends = [0, 90, 90, 200], [90, 90, 200, 390]
    for columns in (np.arange(len(sizes), dtype=np.uint32), np.array([len(sizes) - 1], np.uint32)):
        out = build_nodes(data, columns, order, starts, ends, threads)
        for node in range(4):
            np.testing.assert_array_equal(out[node], build(data, columns, order[starts[node] : ends[node]]))


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [0, 1, 2, 3], ids=lambda n: f"{n} threads" if n else "serial")
@pytest.mark.parametrize(
    ("starts", "ends"),
    [([0], [0]), ([0, 0, 5], [0, 0, 5]), ([0, 0, 60, 60], [0, 60, 60, 60]), ([3, 3, 5, 5, 9], [3, 5, 5, 9, 9])],
    ids=["one", "all", "first and last", "between"],
)
def test_histograms_of_nodes_without_rows_are_zeros(shape, planes, threads, starts, ends):
    """Whatever was in the memory before; a party may hold no row of a node that others do."""
    sizes, dtype = SHAPES[shape]
    data = table(sizes, 60, planes, dtype)
    columns, rows = np.arange(len(sizes), dtype=np.uint32), np.arange(60, dtype=np.uint32)
    out = build_nodes(data, columns, rows, starts, ends, threads)
    for node, (start, end) in enumerate(zip(starts, ends, strict=True)):
        own = rows[start:end].tolist()
        expected = naive.build_histogram(data.codes, columns.tolist(), sizes, own, data.packed)
        np.testing.assert_array_equal(out[node], expected)
        assert out[node].any() == bool(own)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from([1, 2]),
    st.sampled_from([np.uint8, np.uint16]),
    st.integers(0, 2**32),
    st.data(),
)
def test_histograms_add_and_subtract_in_any_order(sizes, n_rows, planes, dtype, seed, data):
    made = table(sizes, n_rows, planes, dtype, seed)
    columns = np.arange(len(sizes), dtype=np.uint32)
    order = np.array(data.draw(st.permutations(range(n_rows))), np.uint32)
    cut = data.draw(st.integers(0, n_rows))
    whole = build(made, columns, np.arange(n_rows, dtype=np.uint32))
    first, second = build(made, columns, order[:cut]), build(made, columns, order[cut:])
    assert np.array_equal(first + second, whole)
    assert np.array_equal(whole - first, second)
    g, h = naive.unpack(whole)
    all_g, all_h = naive.unpack(made.packed)
    for begin, end in zip(made.offsets[:-1], made.offsets[1:], strict=True):
        assert sum(g[begin:end]) == sum(all_g)
        assert sum(h[begin:end]) == sum(all_h)


def test_sums_of_negative_gradients_leave_the_hessians_alone():
    data = Table(np.zeros((3, 1), np.uint8), np.array([1]), np.array([[-(2**32) + 1, -5 * 2**32 + 2, 3 * 2**32 + 4]]))
    out = build(data, np.zeros(1, np.uint32), np.arange(3, dtype=np.uint32))
    assert naive.unpack(out) == ([-3], [7])


def test_a_layout_places_the_columns_drawn():
    layout = layout_of(np.array([0, 4, 10, 11, 20]), np.array([1, 3], np.uint32))
    assert layout.offsets.tolist() == [0, 6, 15]
    assert layout.cells == 15
    assert layout.stride == 0
    five = np.arange(5, dtype=np.uint32)
    assert layout_of(np.arange(6) * STRIDE, five).stride == STRIDE
    assert layout_of(np.arange(6) * 200, five).stride == STRIDE
    assert layout_of(np.arange(6) * (STRIDE + 1), five).stride == STRIDE + 1
    assert layout_of(np.array([0, 1000, 1100]), np.arange(2, dtype=np.uint32)).stride == 1000
    assert layout_of(np.array([0, 3000, 3005, 3010]), np.arange(3, dtype=np.uint32)).stride == 0


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 60),
    st.integers(2, 6),
    st.sampled_from([np.uint8, np.uint16]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32),
    st.data(),
)
def test_rows_are_parted_as_the_naive_twin_parts_them(n, size, dtype, absent, missing_left, seed, data):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, size, max(n, 1)).astype(dtype)
    rows = rng.permutation(max(n, 1)).astype(np.uint16)[:n]
    begin, end = sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))
    cut = data.draw(st.integers(0, size - 1 - absent))
    missing = size - 1 if absent else -1
    moved = rows.copy()
    middle = partition_rows(codes, moved, np.empty_like(rows[begin:end]), begin, end, cut, missing, missing_left)
    left, right = naive.partition(codes[None], rows[begin:end].tolist(), 0, cut, missing, missing_left)
    assert moved[begin:middle].tolist() == left
    assert moved[middle:end].tolist() == right
    assert np.array_equal(moved[:begin], rows[:begin])
    assert np.array_equal(moved[end:], rows[end:])


@pytest.mark.parametrize("threads", [0, 1, 3], ids=lambda n: f"{n} threads" if n else "serial")
@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("shape", ["full stride", "ragged", "missing beyond a byte"])
def test_histograms_of_rows_of_several_chunks_are_the_naive_ones(shape, planes, threads):
    sizes, dtype = SHAPES[shape]
    n_rows = 2 * CHUNK_ROWS + 300
    data = table(sizes, n_rows, planes, dtype)
    columns = np.arange(len(sizes), dtype=np.uint32)
    few = np.random.default_rng(2).random(n_rows) < 0.002
    few[CHUNK_ROWS - 1 : CHUNK_ROWS + 1] = few[[0, -1]] = True
    own, others = part(n_rows, lambda first, end: few[first:end], np.empty(n_rows, np.uint16))
    layout = layout_of(data.offsets, columns)
    out = np.full((2, planes, layout.cells), 77, np.int64)
    scratch = np.full((max(threads, 1), layout.scratch), 99, np.int64)
    starts, ends = np.stack([own.starts, others.starts]), np.stack([own.ends, others.ends])
    work = (
        data.codes,
        layout.columns,
        layout.offsets,
        layout.stride,
        own.rows,
        starts,
        ends,
        data.packed,
        scratch,
        out,
    )
    if threads:
        build_histograms_parallel(*work, WorkerPool(threads))
    else:
        build_histograms(*work)
    expected = naive.build_histogram(data.codes, columns.tolist(), sizes, np.flatnonzero(few).tolist(), data.packed)
    np.testing.assert_array_equal(out[0], expected)
    whole = [np.zeros(layout.cells, np.int64) for _ in range(planes)]
    for plane, sums in enumerate(whole):
        for column in range(len(sizes)):
            cells = data.offsets[column] + data.codes[:, column].astype(np.int64)
            np.add.at(sums, cells, data.packed[plane])
    np.testing.assert_array_equal(out[0] + out[1], whole)
