"""Cuts from counts alone: keys, counting, the search, the guard, and the laws that quantiles.py states."""

from __future__ import annotations

import os
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_data as naive
from hansa.data.quantiles import (
    CutGuard,
    CutRequest,
    Cuts,
    CutSearch,
    SortedKeys,
    count_cells,
    first_cells_of_bins,
    keys_from_values,
    roundest_key,
    values_from_keys,
    weigh_cells,
)
from hansa.errors import DataError, PlanError, ProtocolError

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)
# Values that crowd: small integers, near neighbours, both zeros, ends of the range.
CROWDED = st.one_of(
    st.integers(-3, 3).map(float),
    st.integers(0, 40).map(lambda i: float(np.float32(1) + np.float32(i) * np.finfo(np.float32).eps)),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 3.4028234663852886e38, -3.4028234663852886e38]),
    FLOATS,
)
SHORT_COLUMN = st.lists(st.one_of(CROWDED, st.just(float("nan"))), min_size=1, max_size=120)


def long_column(seed: int) -> list[float]:
    """Hundreds of values over many cells, some heavy, some missing: more cells than may be split."""
    rng = np.random.default_rng(seed)
    n_rows = int(rng.integers(100, 500))
    column = rng.normal(scale=10.0 ** rng.integers(-2, 4), size=n_rows) ** rng.integers(1, 4)
    column = np.round(column, int(rng.integers(0, 5)))
    column[rng.random(n_rows) < rng.choice([0, 0.3])] = rng.choice(column)
    column[rng.random(n_rows) < rng.choice([0, 0.2])] = np.nan
    return column.astype(np.float32).tolist()


COLUMN = st.one_of(SHORT_COLUMN, st.integers(0, 2**32 - 1).map(long_column))
SHARED = Path(os.environ.get("HANSA_DATA", Path(__file__).parents[2].parent / "shared" / "data"))
NO_DEADLINE = settings(deadline=None, max_examples=60)


def search_cuts(
    parties: list[np.ndarray], max_bin: int, min_cell_rows: int, weights: list[np.ndarray] | None = None
) -> CutSearch:
    """The whole search, each party behind its guard; summed in uint32 as masked sums are, weights in int64."""
    n_features, n_rows = len(parties[0]), sum(p.shape[1] for p in parties)
    guard = CutGuard(n_features, n_rows, max_bin, min_cell_rows)
    search = CutSearch(n_features, n_rows, max_bin, min_cell_rows)
    while not search.done:
        request = search.request()
        guard = guard.check(request)
        answers = [count_cells(p, request) for p in parties]
        heavy = (
            None
            if weights is None
            else np.sum([weigh_cells(p, w, request) for p, w in zip(parties, weights, strict=True)], axis=0)
        )
        search = search.answer(np.sum(answers, axis=0, dtype=np.uint32), heavy)
    return search


def table(*columns: list[float]) -> np.ndarray:
    return np.array(columns, dtype=np.float32)


def same_cuts(one: Cuts, other: Cuts) -> bool:
    return all(
        getattr(one, name).tobytes() == getattr(other, name).tobytes() for name in ("offsets", "values", "has_missing")
    )


# --- keys -------------------------------------------------------------------------------------------------


@NO_DEADLINE
@given(st.lists(st.one_of(CROWDED, st.sampled_from([np.inf, -np.inf])), min_size=1))
def test_keys_keep_the_order_and_come_back(values):
    array = np.array(values, dtype=np.float32)
    keys = keys_from_values(array)
    assert keys.dtype == np.uint32
    assert keys.tolist() == [naive.key_of(v) for v in values]
    back = values_from_keys(keys)
    np.testing.assert_array_equal(back, array)
    assert not np.any(np.signbit(back) & (back == 0))
    order = np.argsort(keys, kind="stable")
    np.testing.assert_array_equal(array[order], np.sort(array))
    for i, j in pairwise(order):
        assert (keys[i] == keys[j]) == (array[i] == array[j])


def test_cells_of_finite_values_begin_at_finite_values():
    lows = values_from_keys(np.arange(0x008, 0xFF8, dtype=np.uint32) << np.uint32(20))
    assert np.isfinite(lows).all()
    assert lows[0] == np.finfo(np.float32).min
    assert np.isposinf(values_from_keys(np.array([0xFF8 << 20])))[0]


@pytest.mark.parametrize("max_bin", [4, 16])
@pytest.mark.parametrize("rows", [1, 5, 30])
def test_the_ends_of_float32_and_the_numbers_next_to_0_have_bins(rows, max_bin):
    """Both ends, the numbers next to them and to 0, and both zeros, which are one; min_cell_rows rows of each and one more."""
    largest, tiny = np.finfo(np.float32).max, np.finfo(np.float32).smallest_subnormal
    below = np.nextafter(largest, np.float32(0))
    values = np.array([-largest, -below, -1, -tiny, -0.0, 0, tiny, 1, below, largest], dtype=np.float32)
    column = np.repeat(values, rows + 1)
    cuts = search_cuts([column[None]], max_bin, rows).cuts().of(0)
    codes = np.searchsorted(cuts, column, side="right")
    assert len(cuts) == min(max_bin, 9) - 1
    assert len(set(codes.tolist())) == len(cuts) + 1
    if max_bin == 16:
        assert cuts.tolist() == [*values[1:4].tolist(), 0.0, *values[6:].tolist()]


def test_infinite_values_are_refused():
    for value in (np.inf, -np.inf):
        with pytest.raises(DataError, match="feature 1 holds an infinite value"):
            SortedKeys.from_features(table([1, 2], [3, value]))
        request = CutRequest(0, np.arange(3, dtype=np.int64), np.zeros(2, dtype=np.uint32))
        with pytest.raises(DataError, match="feature 1 holds an infinite value"):
            count_cells(table([1, 2], [3, value]), request)
        count_cells(table([1, 2], [3, value]), request, np.array([True, False]))
    with pytest.raises(DataError, match="expected float32"):
        SortedKeys.from_features(np.zeros((2, 2)))


# --- counting ---------------------------------------------------------------------------------------------


@NO_DEADLINE
@given(st.data())
def test_counts_are_the_naive_counts(data):
    n_rows = data.draw(st.integers(1, 30))
    features = table(*[[data.draw(CROWDED) for _ in range(n_rows)] for _ in range(2)])
    features[0, :: data.draw(st.integers(1, 5))] = np.nan
    weights = np.array([data.draw(st.integers(0, 2**55)) for _ in range(n_rows)], dtype=np.int64)
    bits = data.draw(st.sampled_from([12, 17, 22, 27]))
    cells = []
    for row in features:
        held = [naive.key_of(v) >> (32 - bits) for v in row if not np.isnan(v)]
        wild = st.integers(0, 2**bits - 1)
        chosen = data.draw(st.lists(st.one_of(st.sampled_from(held), wild) if held else wild, max_size=6))
        cells.append(sorted(set(chosen)))
    offsets = np.array([0, len(cells[0]), len(cells[0]) + len(cells[1])], dtype=np.int64)
    later = CutRequest(bits, offsets, np.array(cells[0] + cells[1], dtype=np.uint32))
    first = CutRequest(0, np.arange(3, dtype=np.int64), np.zeros(2, dtype=np.uint32))
    for request in (first, later):
        counts = count_cells(features, request)
        assert counts.dtype == np.uint32
        np.testing.assert_array_equal(counts, naive.count_cells(features, request))
        sums = weigh_cells(features, weights, request)
        assert sums.dtype == np.int64
        assert sums.tolist() == naive.weigh_cells(features, weights.tolist(), request)


def test_an_answer_is_counts_only():
    # A sentinel moved within its cell leaves no trace: the answer depends on counts alone.
    request = CutRequest(0, np.arange(2, dtype=np.int64), np.zeros(1, dtype=np.uint32))
    one = count_cells(table([1234.5678, 2.0]), request)
    other = count_cells(table([1233.4321, 2.0]), request)
    assert one.tobytes() == other.tobytes()
    assert set(one.tolist()) == {0, 1}
    assert one.shape == (4096,)


def test_counting_refuses_another_number_of_features():
    request = CutRequest(0, np.arange(3, dtype=np.int64), np.zeros(2, dtype=np.uint32))
    with pytest.raises(ProtocolError, match="expected 1 features as in the plan's schema, found 2"):
        count_cells(table([1]), request)


# --- weights ----------------------------------------------------------------------------------------------


def codes_by(cuts: Cuts, values: np.ndarray) -> list[int]:
    return np.searchsorted(cuts.of(0), values, side="right").tolist()


WEIGHTS = st.integers(1, 4).flatmap(lambda most: st.lists(st.integers(1, most * most), min_size=500, max_size=500))


@NO_DEADLINE
@given(st.integers(0, 2**32 - 1).map(long_column), st.integers(2, 12), WEIGHTS, st.integers(0, 2**32 - 1))
def test_a_row_of_integer_weight_counts_as_so_many_rows(column, max_bin, given_weights, seed):
    """min_cell_rows aside, which counts rows: so it is 1 here. Where cuts part rows is the same; they may stand elsewhere between."""
    features = table(column)
    weights = np.array(given_weights[: len(column)], dtype=np.int64)
    if seed % 2:
        weights[np.random.default_rng(seed).integers(len(weights))] = 1000
    weighted = search_cuts([features], max_bin, 1, [weights]).cuts()
    copies = search_cuts([np.repeat(features, weights, axis=1)], max_bin, 1).cuts()
    assert codes_by(weighted, features[0]) == codes_by(copies, features[0])


@NO_DEADLINE
@given(COLUMN, st.integers(2, 12), st.integers(1, 9), st.integers(0, 2**62 // 600))
def test_equal_weights_change_no_cut(column, max_bin, min_cell_rows, weight):
    features = table(column)
    plain = search_cuts([features], max_bin, min_cell_rows).cuts()
    if weight:
        weights = np.full(len(column), weight, dtype=np.int64)
        assert same_cuts(search_cuts([features], max_bin, min_cell_rows, [weights]).cuts(), plain)


@NO_DEADLINE
@given(COLUMN, st.integers(2, 12), st.integers(1, 9), st.data())
def test_weighted_cuts_do_not_depend_on_the_split_of_rows(column, max_bin, min_cell_rows, data):
    features = table(column, column[::-1])
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 2 ** rng.integers(1, 50), len(column))
    whole = search_cuts([features], max_bin, min_cell_rows, [weights]).cuts()
    owner = rng.integers(0, 3, len(column))
    parties = [np.flatnonzero(owner == p) for p in range(3) if np.any(owner == p)]
    apart = search_cuts([features[:, p] for p in parties], max_bin, min_cell_rows, [weights[p] for p in parties])
    assert same_cuts(apart.cuts(), whole)


def test_cuts_share_weight():
    """XGBoost's cuts of the same rows share it too: the heaviest bins of both are within a quarter of each other."""
    rng = np.random.default_rng(3)
    column = rng.random(20_000).astype(np.float32)
    weights = np.where(column < 0.03, 1000, rng.integers(1, 3, 20_000))
    cuts = search_cuts([column[None]], 16, 10, [weights]).cuts().of(0)
    matrix = xgboost.QuantileDMatrix(column[:, None], weight=weights, max_bin=16)
    theirs = matrix.get_quantile_cut()[1][1:-1]  # without both ends
    heaviest = [np.bincount(np.searchsorted(c, column, side="right"), weights).max() for c in (cuts, theirs)]
    assert len(cuts) == len(theirs) == 15
    assert heaviest[0] <= weights.sum() / 16 * 1.1
    assert heaviest[0] <= 1.25 * heaviest[1]


def test_a_cell_of_few_rows_is_never_split_however_heavy():
    column = [1.0 + i / 128 for i in range(9)]
    weights = [np.array([2**50] * 9 + [1])]
    assert len(search_cuts([table([*column, 50.0])], 64, 9, weights).cuts().of(0)) == 1
    assert len(search_cuts([table([*column, 50.0])], 64, 8, weights).cuts().of(0)) == 9


def test_weights_without_rows_or_that_do_not_add_up_are_refused():
    features, weights = table([1, 2, 3, 4]), np.array([5, 6, 7, 8])
    search = CutSearch(1, 4, 4, 1)
    counts, sums = count_cells(features, search.request()), weigh_cells(features, weights, search.request())
    for wrong in (np.roll(sums, 1), sums - 9, sums[:-1], sums.astype(np.float64)):
        with pytest.raises(ProtocolError, match="cut answers"):
            search.answer(counts, wrong)
    with pytest.raises(ProtocolError, match="do not add up"):
        search.answer(counts, sums + np.where(counts, 2**61, 0))
    crowded = table([1, 1.0625, 3, 3.125])
    after = search.answer(count_cells(crowded, search.request()), weigh_cells(crowded, weights, search.request()))
    request = after.request()
    with pytest.raises(ProtocolError, match="do not add up"):
        after.answer(count_cells(crowded, request), 2 * weigh_cells(crowded, weights, request))


# --- laws of the cuts -------------------------------------------------------------------------------------


@NO_DEADLINE
@given(SHORT_COLUMN, st.integers(2, 12), st.integers(1, 9), st.data())
def test_cuts_do_not_depend_on_the_split_or_order_of_rows(column, max_bin, min_cell_rows, data):
    features = table(column, column[::-1])
    n_rows = len(column)
    whole = search_cuts([features], max_bin, min_cell_rows).cuts()
    order = np.array(data.draw(st.permutations(range(n_rows))))
    owner = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n_rows, max_size=n_rows)))
    parties = [features[:, order[owner == p]] for p in range(4) if np.any(owner == p)]
    assert same_cuts(search_cuts(parties, max_bin, min_cell_rows).cuts(), whole)
    single_rows = [features[:, [row]] for row in range(n_rows)]
    assert same_cuts(search_cuts(single_rows, max_bin, min_cell_rows).cuts(), whole)


@NO_DEADLINE
@given(COLUMN, st.integers(2, 12), st.integers(1, 9))
def test_cells_obey_the_rank_error_and_the_minimum(column, max_bin, min_cell_rows):
    values = np.array([v for v in column if not np.isnan(v)], dtype=np.float32)
    search = search_cuts([table(column)], max_bin, min_cell_rows)
    lows, counts = search.final_cells(0)
    error = max(len(values) / (4 * max_bin), min_cell_rows)
    cell_of = np.searchsorted(lows, keys_from_values(values), side="right") - 1
    assert np.bincount(cell_of, minlength=len(counts)).tolist() == counts.tolist()
    boundaries = [*values_from_keys(lows), np.inf]
    for cell, count in enumerate(counts):
        held = set(values[cell_of == cell].tolist())
        assert len(held) == 1 or count <= error  # statement 1
    for threshold in values:
        below = np.sum(values < threshold)
        assert min(abs(int(np.sum(values < b)) - below) for b in boundaries) <= error


@NO_DEADLINE
@given(COLUMN, st.integers(2, 12), st.integers(1, 9))
def test_bins_obey_the_stated_bounds(column, max_bin, min_cell_rows):
    values = np.array([v for v in column if not np.isnan(v)], dtype=np.float32)
    search = search_cuts([table(column)], max_bin, min_cell_rows)
    cuts = search.cuts()
    missing = len(values) < len(column)
    assert cuts.has_missing.tolist() == [missing]
    n_bins = max_bin
    inner = cuts.of(0)
    assert len(inner) + 1 <= n_bins
    assert cuts.n_bins[0] == len(inner) + 1
    assert cuts.n_codes[0] == len(inner) + 1 + missing
    code = np.searchsorted(inner, values, side="right")
    assert set(code.tolist()) == set(range(len(inner) + 1)) or not len(values)  # no bin is empty
    distinct, counts = np.unique(values + np.float32(0), return_counts=True)
    mixed = [np.sum(code == b) for b in set(code.tolist()) if len(set(values[code == b].tolist())) > 1]
    largest = max(mixed, default=0)
    error = max(len(values) / (4 * max_bin), min_cell_rows)
    best = naive.smallest_mixed_bin(counts.tolist(), n_bins)
    all_cuts = len(first_cells_of_bins(search.final_cells(0)[1], n_bins)) - 1
    if len(inner) == all_cuts:  # none was left out
        assert largest <= max(best + error, 2 * error)  # statement 3
    for value, count in zip(distinct, counts, strict=True):
        if count > largest:  # a heavy value is alone
            assert set(values[code == np.searchsorted(inner, value, side="right")].tolist()) == {value}


@NO_DEADLINE
@given(st.lists(st.integers(1, 9) | st.integers(1, 60), min_size=1, max_size=24), st.integers(1, 12))
def test_no_grouping_has_a_smaller_largest_mixed_bin(counts, n_bins):
    firsts = first_cells_of_bins(np.array(counts, dtype=np.int64), n_bins)
    assert firsts[0] == 0
    assert np.all(np.diff(firsts) > 0)
    assert len(firsts) == min(n_bins, len(counts))
    groups = [counts[a:b] for a, b in zip(firsts, [*firsts[1:], len(counts)], strict=True)]
    largest = max([sum(g) for g in groups if len(g) > 1], default=0)
    assert largest == naive.smallest_mixed_bin(counts, n_bins)


def test_equal_cells_share_the_bins_equally():
    sizes = np.diff([*first_cells_of_bins(np.ones(1000, dtype=np.int64), 256), 1000])
    assert len(sizes) == 256
    assert sizes.min() >= 3
    assert sizes.max() == 4


def test_a_heavy_value_has_its_own_bin_among_many_light_ones():
    rng = np.random.default_rng(5)
    column = np.concatenate([rng.normal(size=9000), np.zeros(3000), np.full(900, 0.5)]).astype(np.float32)
    cuts = search_cuts([column[None]], 64, 5).cuts()
    code = np.searchsorted(cuts.of(0), column, side="right")
    for value in (0.0, 0.5):
        at = np.searchsorted(cuts.of(0), np.float32(value), side="right")
        assert set(column[code == at].tolist()) == {value}
    light = [np.sum(code == b) for b in range(64) if len(np.unique(column[code == b])) > 1]
    assert max(light) <= 1.25 * 9000 / 62


def test_few_values_get_a_bin_each_and_cuts_are_the_values():
    column = [3.0, -1.0, 7.5, 3.0, -1.0, 7.5, 0.0, -0.0] * 5
    cuts = search_cuts([table(column)], 256, 1).cuts()
    assert cuts.of(0).tolist() == [0.0, 3.0, 7.5]
    assert not np.signbit(cuts.of(0)).any()


@pytest.mark.parametrize("column", [[4.0] * 9, [np.nan] * 9, [-0.0, 0.0, 0.0], [7.0]])
def test_constant_and_all_missing_features_have_no_cut(column):
    cuts = search_cuts([table(column, list(range(len(column))))], 16, 1).cuts()
    assert len(cuts.of(0)) == 0
    assert cuts.has_missing.tolist() == [bool(np.isnan(column[0])), False]
    assert len(cuts.of(1)) == len(column) - 1


def test_constant_or_missing_at_one_party_is_the_same_as_pooled():
    parts = [table([5.0] * 6, [np.nan] * 6), table([1, 2, 3.5], [9, 8, np.nan]), table([2.0], [3.0])]
    pooled = search_cuts([np.concatenate(parts, axis=1)], 8, 1).cuts()
    assert same_cuts(search_cuts(parts, 8, 1).cuts(), pooled)
    assert pooled.has_missing.tolist() == [False, True]
    # 3.5 is one row's value: the cut below it is the roundest number in the gap.
    assert pooled.of(0).tolist() == [2.0, 3.0, 5.0]


@pytest.mark.parametrize("max_bin", [2, 3, 256])
def test_missing_values_take_none_of_the_bins(max_bin):
    column = [float(i) for i in range(300)]
    complete = search_cuts([table(column)], max_bin, 1).cuts()
    assert complete.n_codes.tolist() == [max_bin]
    with_missing = search_cuts([table([*column, np.nan])], max_bin, 1).cuts()
    assert with_missing.values.tolist() == complete.values.tolist()
    assert with_missing.n_bins.tolist() == [max_bin]
    assert with_missing.n_codes.tolist() == [max_bin + 1]


def test_a_cell_of_few_rows_is_never_split():
    # Nine rows lie within one 12-bit cell: min_cell_rows 9 leaves them together, 8 tells them all apart.
    column = [1.0 + i / 128 for i in range(9)]
    assert len(search_cuts([table([*column, 50.0])], 64, 9).cuts().of(0)) == 1
    assert len(search_cuts([table([*column, 50.0])], 64, 8).cuts().of(0)) == 9


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real tables not found at {SHARED}")
@pytest.mark.parametrize(("name", "least"), [("adult", 4), ("heart_disease", 12)])
def test_every_value_of_real_columns_with_few_values_has_its_own_bin(name, least):
    pandas = pytest.importorskip("pandas")
    frame = pandas.read_csv(SHARED / f"{name}.csv.gz").iloc[:, 1:-1].select_dtypes("number")
    few = frame[[column for column in frame if frame[column].nunique() <= 250]]
    assert few.shape[1] >= least
    features = np.ascontiguousarray(few.to_numpy(dtype=np.float32).T)
    cuts = search_cuts([features[:, ::2], features[:, 1::2]], 256, 1).cuts()
    assert cuts.has_missing.tolist() == few.isna().any().tolist()
    for feature, row in enumerate(features):
        values = np.unique(row[~np.isnan(row)])
        assert np.searchsorted(cuts.of(feature), values, side="right").tolist() == list(range(len(values)))


# --- the coordinator refuses wrong answers ----------------------------------------------------------------


def after_first_round() -> tuple[CutSearch, np.ndarray]:
    keys = table([1.0, 1.001, 1.002, 8.0])
    search = CutSearch(1, 4, 4, 1)
    return search.answer(count_cells(keys, search.request())), keys


def test_search_steps_are_pure():
    search, keys = after_first_round()
    counts = count_cells(keys, search.request())
    assert search.answer(counts).final_cells(0)[0].tolist() == search.answer(counts).final_cells(0)[0].tolist()
    assert search.bits == 12


def test_search_refuses_answers_that_do_not_add_up():
    search, keys = after_first_round()
    counts = count_cells(keys, search.request())
    counts[3] += 1
    with pytest.raises(ProtocolError, match="feature 0: the parts of a cell do not add up"):
        search.answer(counts)
    too_many = np.zeros(4096, dtype=np.uint32)
    too_many[0x900] = 5
    with pytest.raises(ProtocolError, match="do not add up"):
        CutSearch(1, 4, 4, 1).answer(too_many)


@pytest.mark.parametrize("cell", [0x000, 0x007, 0xFF8, 0xFFF])
def test_search_refuses_rows_where_no_finite_value_lies(cell):
    counts = np.zeros(4096, dtype=np.uint32)
    counts[cell] = 1
    with pytest.raises(ProtocolError, match="only infinities, NaN or -0"):
        CutSearch(1, 4, 4, 1).answer(counts)


@pytest.mark.parametrize("counts", [np.zeros(4095, np.uint32), np.zeros(4096), np.full(4096, -1), np.full(4096, 2**32)])
def test_search_refuses_malformed_answers(counts):
    with pytest.raises(ProtocolError, match="cut answers: expected"):
        CutSearch(1, 4, 4, 1).answer(counts)


def test_search_refuses_use_out_of_order():
    with pytest.raises(ProtocolError, match="not done"):
        CutSearch(1, 4, 4, 1).cuts()
    done = search_cuts([table([1, 2])], 4, 1)
    with pytest.raises(ProtocolError, match="nothing to ask"):
        done.request()


@pytest.mark.parametrize(
    ("settings_", "text"),
    [
        ((0, 4, 4, 1), "at least 1 feature"),
        ((1, 0, 4, 1), "pooled rows"),
        ((1, 2**32, 4, 1), "pooled rows"),
        ((1, 4, 1, 1), "max_bin: expected 2 to 65535, found 1"),
        ((1, 4, 65536, 1), "max_bin"),
        ((1, 4, 4, 0), "min_cell_rows: expected at least 1, found 0"),
    ],
)
def test_settings_are_checked(settings_, text):
    for kind in (CutSearch, CutGuard):
        with pytest.raises(PlanError, match=text):
            kind(*settings_)


# --- the party's guard ------------------------------------------------------------------------------------


def honest_rounds() -> tuple[CutGuard, list[CutRequest]]:
    """The guard before round 0, and all requests of an honest search over values that need every round."""
    near = np.float32(1) + np.arange(40, dtype=np.float32) * np.finfo(np.float32).eps
    features = np.stack([near, np.linspace(-5, 5, 40, dtype=np.float32)])
    keys, search, requests = features, CutSearch(2, 40, 8, 1), []
    while not search.done:
        requests.append(search.request())
        search = search.answer(count_cells(keys, requests[-1]))
    assert [r.bits for r in requests] == [0, 12, 17, 22, 27]
    return CutGuard(2, 40, 8, 1), requests


def request_of(bits: int, *cells: list[int]) -> CutRequest:
    offsets = np.cumsum([0, *(len(c) for c in cells)], dtype=np.int64)
    return CutRequest(bits, offsets, np.array([p for c in cells for p in c], dtype=np.uint32))


def test_guard_allows_the_honest_search_and_nothing_after_it():
    guard, requests = honest_rounds()
    for request in requests:
        guard = guard.check(request)
    for request in (*requests, replace(requests[-1], bits=32)):
        with pytest.raises(ProtocolError, match="a round after the last"):
            guard.check(request)


def test_guard_refuses_repeated_skipped_and_earlier_rounds():
    guard, requests = honest_rounds()
    with pytest.raises(ProtocolError, match=r"expected the round that splits cells of 0 bits, found one of 12"):
        guard.check(requests[1])
    for at, request in enumerate(requests[:-1]):
        guard = guard.check(request)
        for other in (o for o in range(len(requests)) if o != at + 1):
            with pytest.raises(ProtocolError, match="rounds come once and in order"):
                guard.check(requests[other])


def test_guard_refuses_everything_once_closed():
    guard, requests = honest_rounds()
    for at in range(len(requests)):
        for request in requests:
            with pytest.raises(ProtocolError, match="the cuts are settled"):
                guard.close().check(request)
        guard = guard.check(requests[at])


def test_guard_refuses_cells_that_are_not_nested():
    guard, requests = honest_rounds()
    guard = guard.check(requests[0]).check(requests[1])
    parent = int(requests[1].prefixes[0])
    other = int(requests[1].prefixes[requests[1].offsets[1]])
    guard.check(request_of(17, [parent * 32 + 31], []))
    for rejected_peer in (parent * 32 - 1, parent * 32 + 32, other * 32, 2**32 - 1):
        with pytest.raises(ProtocolError, match="feature 0: names a cell that is no part of a cell split"):
            guard.check(request_of(17, [rejected_peer], []))
    with pytest.raises(ProtocolError, match="feature 1: names a cell that is no part"):
        guard.check(request_of(17, [], [parent * 32]))
    with pytest.raises(ProtocolError, match="no part"):
        honest_rounds()[0].check(requests[0]).check(request_of(12, [4096], []))


def test_guard_limits_the_cells():
    guard, requests = honest_rounds()
    guard = guard.check(requests[0])
    assert guard.cell_limit == 20  # 40 rows hold at most 20 cells of two rows
    guard.check(request_of(12, list(range(20)), list(range(20))))
    with pytest.raises(ProtocolError, match=r"feature 1: at most 20 cells may be split .* found 21"):
        guard.check(request_of(12, [], list(range(21))))
    assert CutGuard(1, 10**6, 8, 1).cell_limit == 32  # 4 max_bin
    assert CutGuard(1, 10**6, 256, 9999).cell_limit == 100


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (request_of(12, [5, 4], []), "sorted and unique"),
        (request_of(12, [4, 4], []), "sorted and unique"),
        (request_of(12, [1], [7, 7]), "sorted and unique"),
        (request_of(12, [], []), "names no cell"),
        (request_of(12, [1]), r"expected int64 offsets \(3,\)"),
        (CutRequest(12, np.array([0, 1, 1]), np.array([1.0])), "uint32 prefixes"),
        (CutRequest(12, np.array([0, 2, 1]), np.array([1], np.uint32)), "offsets must rise"),
        (CutRequest(12, np.array([0, 0, 0]), np.array([1], np.uint32)), "offsets must rise"),
        (CutRequest(12, np.array([1, 1, 1]), np.array([1], np.uint32)), "offsets must rise"),
    ],
)
def test_guard_refuses_malformed_requests(request_, text):
    guard, requests = honest_rounds()
    with pytest.raises(ProtocolError, match=text):
        guard.check(requests[0]).check(request_)


@pytest.mark.parametrize("cells", [([0], []), ([0, 1], [0]), ([1], [0])])
def test_guard_refuses_a_first_round_for_less_or_more_than_everything(cells):
    with pytest.raises(ProtocolError, match=r"round 0 must ask for the whole range|sorted"):
        honest_rounds()[0].check(request_of(0, *cells))


# --- cuts as data -----------------------------------------------------------------------------------------


def test_cuts_from_arrays():
    cuts = Cuts.from_arrays([np.array([1, 2.5]), np.array([]), np.array([-3])], [True, False, True])
    assert cuts.offsets.tolist() == [0, 2, 2, 3]
    assert cuts.values.dtype == np.float32
    assert cuts.n_codes.tolist() == [4, 1, 3]
    assert cuts.n_features == 3
    assert cuts.of(2).tolist() == [-3]


@pytest.mark.parametrize(
    ("arrays", "missing", "text"),
    [
        ([[1.0, 1.0]], [False], "feature 0: cuts must rise strictly"),
        ([[2.0, 1.0]], [False], "rise strictly"),
        ([[np.nan]], [False], "finite"),
        ([[np.inf]], [False], "finite"),
        ([[-0.0]], [False], "not -0"),
        ([[1.0]], [False, True], "shapes disagree"),
    ],
)
def test_cuts_refuse_what_no_search_makes(arrays, missing, text):
    with pytest.raises(DataError, match=text):
        Cuts.from_arrays([np.array(a) for a in arrays], missing)


def test_cuts_refuse_wrong_offsets_and_dtypes():
    values = np.array([1, 2], dtype=np.float32)
    with pytest.raises(DataError, match="offsets must rise"):
        Cuts(np.array([0, 1]), values, np.array([False]))
    with pytest.raises(DataError, match="expected int64 offsets, float32 values"):
        Cuts(np.array([0, 2]), values.astype(np.float64), np.array([False]))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 2), st.integers(1, 2**20), st.booleans())
def test_the_roundest_key_lies_in_the_gap_and_no_other_is_rounder(below, width, single):
    above = min(below + width, 2**32 - 1)
    key = roundest_key(below, above, single)
    gap = range(below + 1, above if single else above + 1)
    if not gap:
        assert key is None
        return
    if key == 2**31:  # +0 stands for -0, which is no cut
        return
    assert key in gap
    zeros = (key & -key).bit_length() - 1 if key else 32
    step = 2 << zeros
    assert not any(multiple in gap for multiple in range(-(-(below + 1) // step) * step, above + 1, step))


def test_no_cut_is_a_value_that_few_rows_have():
    rng = np.random.default_rng(8)
    column = np.concatenate(
        [np.full(400, 0.1), np.full(400, 0.2), rng.normal(0.1, 1e-8, 60), rng.normal(0.2, 1e-8, 60)]
    )
    column = column.astype(np.float32)
    for least in (1, 2, 10, 30):
        cuts = search_cuts([column[None]], 256, least).cuts().of(0)
        values, counts = np.unique(column, return_counts=True)
        assert not set(cuts.tolist()) & set(values[counts <= least].tolist())


def test_cuts_finer_than_what_was_counted_are_refused():
    rng = np.random.default_rng(9)
    column = rng.normal(size=(2, 3000)).astype(np.float32)
    search = CutSearch(2, 3000, 16, 20)
    guard = CutGuard(2, 3000, 16, 20)
    keys = column
    while not search.done:
        guard = guard.check(search.request())
        search = search.answer(count_cells(keys, search.request()))
    cuts = search.cuts()
    guard.check_cuts(cuts)
    finer = Cuts.from_arrays([cuts.of(0), np.sort(column[1])[:3]], [False, False])
    with pytest.raises(ProtocolError, match=r"feature 1.*finer"):
        guard.check_cuts(finer)
