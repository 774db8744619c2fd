"""Histograms of sparse codes are the naive twin's, and those of the kernel that reads every code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.trees.histogram import build_histograms, layout_of
from hansa.trees.row_chunks import CHUNK_ROWS, part
from hansa.trees.sparse_codes import SPARSE, build_sparse_histograms, sparse_codes

SIZES = [2, 3, 40, 1, 7]


def made(sizes, n_rows, others, dtype, seed=0):
    """Codes (n_rows, features) of which so many are not 1 or, of a feature of one code, 0; and the features' offsets."""
    rng = np.random.default_rng(seed)
    codes = np.tile([min(1, size - 1) for size in sizes], (n_rows, 1)).astype(dtype)
    for row, feature in zip(rng.integers(0, n_rows, others), rng.integers(0, len(sizes), others), strict=True):
        codes[row, feature] = rng.integers(0, sizes[feature])
    return codes, np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def packed_rows(n_rows, planes, seed=0):
    rng = np.random.default_rng(seed)
    if planes == 2:
        return rng.integers(-(2**50), 2**50, (2, n_rows))
    return rng.integers(-(2**20), 2**20, (1, n_rows)) * 2**32 + rng.integers(0, 2**20, (1, n_rows))


def build(codes, offsets, rows, starts, ends, packed):
    """Histograms from the sparse form, in memory that begins dirty."""
    sparse = sparse_codes(np.ascontiguousarray(codes.T), offsets)
    assert sparse is not None
    layout = layout_of(offsets, np.arange(codes.shape[1], dtype=np.uint32))
    out = np.full((len(starts), len(packed), layout.cells), 77, np.int64)
    given_codes = sparse.starts, sparse.cells, sparse.frequent, layout.offsets
    build_sparse_histograms(*given_codes, rows, starts, ends, packed, out)
    return out


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_histogram_of_sparse_codes_is_the_naive_one(planes, dtype):
    codes, offsets = made(SIZES, 300, 80, dtype)
    packed = packed_rows(300, planes)
    rows = np.random.default_rng(1).permutation(300).astype(np.uint16)
    starts, ends = [0, 90, 90, 200], [90, 90, 200, 300]
    found = build(codes, offsets, rows, np.array(starts)[:, None], np.array(ends)[:, None], packed)
    for node, (start, end) in enumerate(zip(starts, ends, strict=True)):
        expected = naive.build_histogram(codes, range(len(SIZES)), SIZES, rows[start:end].tolist(), packed)
        np.testing.assert_array_equal(found[node], expected)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4),
    st.integers(1, 200),
    st.sampled_from([1, 2]),
    st.integers(0, 2**32 - 1),
)
def test_any_sparse_table_gives_the_naive_histogram(sizes, n_rows, planes, seed):
    codes, offsets = made(sizes, n_rows, n_rows * len(sizes) // SPARSE, np.uint8, seed)
    packed = packed_rows(n_rows, planes, seed)
    rows = np.flatnonzero(np.random.default_rng(seed).random(n_rows) < 0.7).astype(np.uint16)
    found = build(codes, offsets, rows, np.zeros((1, 1), np.int64), np.full((1, 1), len(rows)), packed)
    expected = naive.build_histogram(codes, range(len(sizes)), sizes, rows.tolist(), packed)
    np.testing.assert_array_equal(found[0], expected)


def test_rows_of_several_chunks_are_counted_once():
    n_rows = CHUNK_ROWS + 500
    codes, offsets = made(SIZES, n_rows, n_rows // 4, np.uint8)
    packed = packed_rows(n_rows, 1)
    whole, _ = part(n_rows, None, np.empty(n_rows, np.uint16))
    given_rows = whole.rows, whole.starts[None], whole.ends[None]
    layout = layout_of(offsets, np.arange(len(SIZES), dtype=np.uint32))
    expected, scratch = np.empty((1, 1, layout.cells), np.int64), np.empty((1, layout.scratch), np.int64)
    build_histograms(codes, layout.columns, layout.offsets, layout.stride, *given_rows, packed, scratch, expected)
    np.testing.assert_array_equal(build(codes, offsets, *given_rows, packed), expected)


def test_only_codes_that_are_rarely_others_are_kept_sparse():
    """One more than the limit, and none are."""
    n_rows = 16 * SPARSE
    codes, offsets = np.zeros((n_rows, 1), np.uint8), np.array([0, 2], np.int64)
    codes[:16] = 1
    sparse = sparse_codes(np.ascontiguousarray(codes.T), offsets)
    assert sparse is not None
    assert (len(sparse.cells), sparse.frequent.tolist()) == (16, [0])
    codes[16] = 1
    assert sparse_codes(np.ascontiguousarray(codes.T), offsets) is None
