"""Draws are fixed by seed and tree alone, and fair."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.trees.sampling import draw_by_contents, draw_columns, draw_of, draw_rows

seeds = st.integers(0, 2**63 - 1)


@settings(deadline=None)
@given(st.integers(1, 40), st.floats(0.01, 0.99), seeds, st.integers(0, 10**6))
def test_columns_are_the_naive_ones(n_features, share, seed, tree):
    drawn = draw_columns(n_features, share, seed, tree)
    values = naive.draw(n_features, "columns", seed, tree)
    count = max(1, int(share * n_features))
    expected = sorted(sorted(range(n_features), key=lambda f: (values[f], f))[:count])
    assert drawn.dtype == np.uint32
    assert drawn.tolist() == expected


@settings(deadline=None)
@given(st.integers(1, 50), st.floats(0.01, 0.99), seeds, st.integers(0, 10**6), st.sampled_from("abc"))
def test_rows_are_the_naive_ones(rows, share, seed, tree, member):
    drawn = draw_rows(rows, share, seed, tree, member)
    assert drawn.dtype == np.bool_
    assert drawn.tolist() == [value < share for value in naive.draw(rows, "rows", seed, tree, member)]


def test_all_columns_are_all_columns():
    assert draw_columns(5, 1.0, 3, 9).tolist() == [0, 1, 2, 3, 4]


def test_draws_are_known():
    """Fixed for good: another order would change every model with colsample_bytree below 1."""
    assert draw_columns(10, 0.5, 7, 3).tolist() == [0, 1, 3, 5, 8]
    assert np.flatnonzero(draw_rows(20, 0.5, 7, 3, "aurora")).tolist() == [
        3,
        4,
        6,
        7,
        8,
        9,
        11,
        12,
        13,
        14,
        15,
        16,
        17,
        18,
    ]


def test_draws_differ_between_trees_seeds_and_members():
    rows = {draw_rows(200, 0.5, *key).tobytes() for key in ((0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"))}
    assert len(rows) == 4
    columns = {draw_columns(30, 0.5, *key).tobytes() for key in ((0, 0), (0, 1), (1, 0))}
    assert len(columns) == 3


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_rows_are_drawn_fairly(share):
    n = 50_000
    drawn = draw_rows(n, share, 1, 0, "a")
    assert abs(drawn.mean() - share) < 5 * np.sqrt(share * (1 - share) / n)
    together = (drawn[1:] & drawn[:-1]).mean()
    assert abs(together - share**2) < 5 / np.sqrt(n)


def test_columns_are_drawn_fairly():
    counts = np.zeros(10)
    trees = 2000
    for tree in range(trees):
        counts[draw_columns(10, 0.3, 5, tree)] += 1
    assert np.all(np.abs(counts - 0.3 * trees) < 5 * np.sqrt(trees * 0.3 * 0.7))


def test_equal_rows_are_drawn_together_and_others_each_for_itself():
    hashes = np.arange(20_000, dtype=np.uint64) // np.uint64(2)
    for tree in range(3):
        drawn = draw_by_contents(hashes, 0.3, 1, tree)
        assert np.array_equal(drawn[::2], drawn[1::2])
        assert abs(drawn.mean() - 0.3) < 0.03
    few = draw_by_contents(hashes, 0.5, 0, 0) & ~draw_by_contents(hashes, 0.5001, 0, 0)
    assert few.mean() > 0.2  # the sums of two shares differ by many rows, however near they are
    assert len({draw_by_contents(hashes, 0.5, *key).tobytes() for key in ((0, 0), (0, 1), (1, 0))}) == 3
    order = np.random.default_rng(0).permutation(len(hashes))
    assert np.array_equal(draw_by_contents(hashes[order], 0.3, 1, 0), draw_by_contents(hashes, 0.3, 1, 0)[order])


@pytest.mark.parametrize(("share", "count"), [(1.0, 7), (0.5, 3), (0.01, 1)])
def test_columns_are_drawn_of_columns(share, count):
    columns = np.array([1, 4, 5, 8, 9, 11, 30], np.uint32)
    drawn = draw_of(columns, share, "columns of a level", 3, 1, 2)
    assert len(drawn) == count
    assert np.isin(drawn, columns).all()
    assert (np.diff(drawn) > 0).all()
