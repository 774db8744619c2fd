"""Rows in chunks are the rows that were chosen, and those that were not."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.trees.growth import RowPartition
from hansa.trees.level import Level
from hansa.trees.row_chunks import CHUNK_ROWS, part, spans


def table_rows(rows):
    """The rows of a table, ascending chunk by chunk."""
    return np.concatenate(
        [chunk * CHUNK_ROWS + rows.of_chunk(chunk).astype(np.int64) for chunk in range(len(rows.starts))]
    )


@pytest.mark.parametrize("n_rows", [1, 5, CHUNK_ROWS - 1, CHUNK_ROWS, CHUNK_ROWS + 1, 2 * CHUNK_ROWS + 7])
def test_every_row_is_in_one_of_both(n_rows):
    chosen = np.random.default_rng(0).random(n_rows) < 0.4
    inside, outside = part(n_rows, lambda first, end: chosen[first:end], np.empty(n_rows, np.uint16))
    assert np.array_equal(table_rows(inside), np.flatnonzero(chosen))
    assert np.array_equal(table_rows(outside), np.flatnonzero(~chosen))
    assert (inside.n_rows, outside.n_rows) == (chosen.sum(), n_rows - chosen.sum())
    everything, nothing = part(n_rows, None, np.empty(n_rows, np.uint16))
    assert np.array_equal(table_rows(everything), np.arange(n_rows))
    assert (everything.n_rows, nothing.n_rows) == (n_rows, 0)
    assert [first for _, first, _ in spans(n_rows)] == list(range(0, n_rows, CHUNK_ROWS))
    assert sum(end - first for _, first, end in spans(n_rows)) == n_rows


@pytest.mark.parametrize("transposed", [False, True], ids=["codes by feature", "codes by row"])
def test_rows_of_several_chunks_go_where_their_codes_say(transposed):
    """Two levels: an ordered split and one of categories, with missing values; then leaves."""
    n_rows = 2 * CHUNK_ROWS + 99
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 6, (2, n_rows)).astype(np.uint8)
    codes = np.ascontiguousarray(codes.T).T if transposed else codes
    margins = np.zeros(n_rows, np.float32)
    chosen = rng.random(n_rows) < 0.7
    rows, _ = part(n_rows, lambda first, end: chosen[first:end], np.empty(n_rows, np.uint16))
    followed = RowPartition(codes, np.array([5, 5], np.int32), np.array([0, 5], np.int32), rows, margins)
    none = np.zeros(0, np.uint8)
    followed.apply(level([0], [2], [1], [1], [], none))
    left = (codes[0] <= 2) | (codes[0] == 5)
    assert followed.child_rows.tolist() == [(chosen & left).sum(), (chosen & ~left).sum()]
    followed.apply(level([1, -1], [2, 0], [0, 0], [], [1.0, 2.0], np.array([0b01010], np.uint8), leaf=[0, 4]))
    right = np.isin(codes[1], (1, 3)) | (codes[1] == 5)
    expected = np.where(left, np.where(right, 2.0, 1.0), 4.0) * chosen
    assert np.array_equal(margins, expected.astype(np.float32))
    assert len(followed.starts) == 0


def level(feature, bins, missing_left, build_left, child_leaf, categories, leaf=None):
    return Level(
        np.array(feature, np.int32),
        np.array(bins, np.int32),
        np.array(missing_left, np.uint8),
        np.array([0] * len(feature) if leaf is None else leaf, np.float32),
        np.array(build_left, np.uint8),
        np.array(child_leaf, np.float32),
        np.zeros(0, np.int32),
        categories,
    )
