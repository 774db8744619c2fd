"""Bins, told counts and distances, against numpy and pandas on the rows themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data.bin_counts import (
    MOST_BINS,
    QUANTILES,
    UNTOLD,
    Layout,
    as_told,
    choose_cuts,
    coarse_groups,
    count_bins,
    distance,
    quantile_bin,
    told_counts,
)
from hansa.errors import DataError

MISSING = np.float32(np.nan)


def layout_of(*columns: list[float] | int) -> Layout:
    """Columns by their cuts, or by how many categories they have."""
    cuts = tuple(np.array([] if isinstance(own, int) else own, np.float32) for own in columns)
    return Layout(cuts, np.array([own if isinstance(own, int) else 0 for own in columns], np.int64))


counts_of_categories = st.lists(st.integers(0, 40), min_size=2, max_size=9)
rising = st.lists(st.integers(1, 60), min_size=1, max_size=90)


@given(values=st.lists(st.sampled_from([*np.arange(-3, 4, 0.5), np.nan]), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_rows_are_counted_as_pandas_counts_them(values):
    cuts = [-2.0, 0.5, 1.0]
    counts = count_bins(np.array([values], np.float32), layout_of(cuts))
    series = pd.Series(values, dtype=float)
    expected = pd.cut(series, [-np.inf, *cuts, np.inf], right=False).value_counts(sort=False).tolist()
    assert counts.tolist() == [*expected, int(series.isna().sum())]


def test_categories_are_counted_by_code_and_a_code_of_none_is_refused():
    values = np.array([[0, 2, 2, MISSING]], np.float32)
    assert count_bins(values, layout_of(3)).tolist() == [1, 0, 2, 1]
    for wrong in (3, -1):
        with pytest.raises(DataError, match="none of the 3"):
            count_bins(np.array([[wrong]], np.float32), layout_of(3))


@given(gaps=rising, least=st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_every_bin_has_enough_rows_and_there_are_not_too_many(gaps, least):
    below = np.cumsum(gaps)
    rows = int(below[-1]) + 7
    chosen = choose_cuts(below.astype(np.float32), below, rows, least)
    assert np.all(np.diff(chosen) > 0)
    bins = np.diff(np.concatenate([[0], below[chosen], [rows]]))
    assert len(bins) <= MOST_BINS
    assert len(bins) == 1 or bins.min() >= least


def test_values_that_few_can_tell_apart_have_bins_of_their_own():
    below = np.array([100, 103, 200])
    assert choose_cuts(np.arange(3, dtype=np.float32), below, 300, 10).tolist() == [0, 2]


def test_quantiles_of_many_values_are_told_closely():
    below = np.arange(1, 10_000)
    chosen = choose_cuts(below.astype(np.float32), below, 10_000, 10)
    bins = np.diff(np.concatenate([[0], below[chosen], [10_000]])).tolist()
    for percent in QUANTILES:
        assert bins[quantile_bin(bins, percent)] == 10


@given(values=st.lists(st.integers(0, 6), min_size=1, max_size=60), percent=st.integers(1, 99))
@settings(max_examples=100, deadline=None)
def test_a_quantile_is_in_the_bin_that_numpy_finds(values, percent):
    rows = np.bincount(values, minlength=7).tolist()
    expected = np.quantile(values, percent / 100, method="inverted_cdf")
    exact = np.sort(values)[
        max(1, -(-len(values) * percent // 100)) - 1
    ]  # numpy's product of floats may be above a whole number
    assert quantile_bin(rows, percent) == exact
    assert abs(expected - exact) == 0 or percent * len(values) % 100 == 0


@given(rows=counts_of_categories, missing=st.integers(0, 30), least=st.integers(1, 20))
@settings(max_examples=200, deadline=None)
def test_no_cell_that_is_told_has_too_few_rows_nor_follows_from_the_others(rows, missing, least):
    counts = np.array([*rows, missing], np.int64)
    told, other = told_counts(counts, layout_of(len(rows)), least)
    shown = told[told != UNTOLD]
    assert not ((shown > 0) & (shown < least)).any()
    assert shown.sum() + other[0] == counts.sum()
    # What is left over is as large as a told cell, or is all there is.
    assert other[0] == 0 or other[0] >= least or not shown.any()
    assert np.array_equal(told[told != UNTOLD], counts[told != UNTOLD])


@given(bins=st.lists(st.integers(20, 90), min_size=2, max_size=6), missing=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_few_rows_without_a_value_are_told_with_the_last_bin(bins, missing):
    counts = np.array([*bins, missing], np.int64)
    told, other = told_counts(counts, layout_of(list(range(len(bins) - 1))), 20)
    assert other.tolist() == [0]
    if 0 < missing < 20:
        assert told.tolist() == [*bins[:-1], bins[-1] + missing, UNTOLD]
    else:
        assert told.tolist() == counts.tolist()


@pytest.mark.parametrize("own", [[3, 50], [50, 3]])
def test_a_column_in_one_bin_tells_neither_few_values_nor_few_gaps(own):
    told, _ = told_counts(np.array(own), layout_of([]), 10)
    assert told.tolist() == [53, UNTOLD]


@given(
    parts=st.lists(st.lists(st.integers(0, 30), min_size=5, max_size=5), min_size=1, max_size=4),
    least=st.integers(1, 30),
)
@settings(max_examples=100, deadline=None)
def test_parts_joined_as_told_add_up_to_what_is_told(parts, least):
    layout = layout_of(4)
    pooled = np.array(parts, np.int64).sum(axis=0)
    told, other = told_counts(pooled, layout, least)
    joined = sum(as_told(np.array(part, np.int64), told, layout)[0] for part in parts)
    assert joined.tolist() == [*np.maximum(told, 0), other[0]]


def test_the_stability_index_is_that_of_its_definition():
    own, others = np.array([30, 50, 20, 0, 0]), np.array([100, 100, 200, 0, 0])
    p, q = (
        np.array([each + 0.5 for each in counts]) / (sum(counts) + 1.5) for counts in ([30, 50, 20], [100, 100, 200])
    )
    found = distance(own, others, ordered=True)
    assert found.psi == pytest.approx(sum((p - q) * np.log(p / q)))
    assert found.moved == pytest.approx(0.5 * (abs(0.3 - 0.25) + abs(0.5 - 0.25) + abs(0.2 - 0.5)))
    assert distance(others, others, ordered=True).psi == 0


def test_small_cells_are_joined_before_they_are_compared():
    assert coarse_groups(np.array([1, 1, 98, 1, 99, 0, 0]), ordered=True).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert coarse_groups(np.array([50, 1, 48, 1, 0, 0]), ordered=False).tolist() == [0, 2, 1, 2, 2, 2]


def test_nothing_is_compared_with_no_rows():
    with pytest.raises(DataError, match="none"):
        distance(np.zeros(3, np.int64), np.ones(3, np.int64), ordered=True)
