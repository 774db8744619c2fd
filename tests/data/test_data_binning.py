"""Codes agree with counting cuts, for any number of threads, and with XGBoost on real tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_data as naive
from hansa.data.binning import bin_rows, category_codes
from hansa.data.quantiles import Cuts
from hansa.errors import DataError, PlanError

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_codes_are_the_naive_codes(data):
    columns = []
    for _ in range(data.draw(st.integers(1, 3))):
        drawn = data.draw(st.lists(FLOATS, max_size=12))
        columns.append(np.unique(np.array(drawn, dtype=np.float32) + np.float32(0)))
    cuts = Cuts.from_arrays(columns, [True] * len(columns))
    n_rows = data.draw(st.integers(1, 20))
    pick = [
        st.one_of(FLOATS, st.sampled_from([*c.tolist(), -0.0, 0.0, float("nan"), float("inf"), -float("inf")]))
        for c in columns
    ]
    features = np.array([[data.draw(p) for _ in range(n_rows)] for p in pick], dtype=np.float32)
    binned = bin_rows(features, cuts)
    np.testing.assert_array_equal(binned.codes, naive.code_rows(features, cuts))
    np.testing.assert_array_equal(binned.codes_by_feature, binned.codes.T)


@pytest.mark.parametrize("n_rows", [1, 511, 512, 513, 5000])
def test_any_number_of_threads_gives_the_same_codes(n_rows):
    rng = np.random.default_rng(1)
    features = rng.normal(size=(5, n_rows)).astype(np.float32)
    features[1, ::3] = np.nan
    cuts = Cuts.from_arrays(
        [np.sort(rng.normal(size=k)) for k in (0, 1, 2, 31, 200)], [False, True, False, False, False]
    )
    serial = bin_rows(features, cuts)
    assert serial.codes.flags.c_contiguous
    assert serial.codes_by_feature.flags.c_contiguous
    for feature in range(5):
        expected = np.searchsorted(cuts.of(feature), features[feature], side="right")
        expected[np.isnan(features[feature])] = cuts.n_codes[feature] - 1
        np.testing.assert_array_equal(serial.codes[:, feature], expected)
    for threads in (2, 3, 7):
        parallel = bin_rows(features, cuts, threads=threads)
        assert parallel.codes.tobytes() == serial.codes.tobytes()
        assert parallel.codes_by_feature.tobytes() == serial.codes_by_feature.tobytes()


@pytest.mark.parametrize(
    ("n_cuts", "missing", "dtype"),
    [(254, True, np.uint8), (255, False, np.uint8), (255, True, np.uint16), (256, False, np.uint16)],
)
def test_codes_take_one_byte_while_they_fit(n_cuts, missing, dtype):
    cuts = Cuts.from_arrays([np.arange(n_cuts), np.arange(3)], [missing, False])
    features = np.array([[-1.0, 1e9], [0.0, 5.0]], dtype=np.float32)
    binned = bin_rows(features, cuts)
    assert binned.codes.dtype == binned.codes_by_feature.dtype == dtype
    assert binned.codes.tolist() == [[0, 1], [n_cuts, 3]]
    assert binned.offsets.tolist() == [0, n_cuts + 1 + missing, n_cuts + 1 + missing + 4]
    assert binned.has_missing.tolist() == [missing, False]
    assert (binned.n_rows, binned.n_features) == (2, 2)
    if missing:
        features[0, 0] = np.nan
        assert bin_rows(features, cuts).codes[0, 0] == n_cuts + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_an_unknown_missing_value_is_refused(threads):
    features = np.ones((2, 1000), dtype=np.float32)
    features[1, 700] = np.nan
    cuts = Cuts.from_arrays([np.array([1.0]), np.array([1.0])], [True, False])
    with pytest.raises(DataError, match="feature 1, row 701: expected a number"):
        bin_rows(features, cuts, threads=threads)


def test_shapes_dtypes_and_threads_are_checked():
    cuts = Cuts.from_arrays([np.array([1.0])], [False])
    with pytest.raises(DataError, match=r"expected float32 of shape \(1, n_rows\)"):
        bin_rows(np.ones((2, 3), dtype=np.float32), cuts)
    with pytest.raises(DataError, match="found float64"):
        bin_rows(np.ones((1, 3)), cuts)
    with pytest.raises(PlanError, match="threads: expected at least 1, found 0"):
        bin_rows(np.ones((1, 3), dtype=np.float32), cuts, threads=0)


def test_more_codes_than_fit_are_refused():
    cuts = Cuts.from_arrays([np.arange(65_536)], [False])
    with pytest.raises(DataError, match="65537 codes"):
        bin_rows(np.ones((1, 3), dtype=np.float32), cuts)


def test_codes_are_those_of_xgboost_for_its_own_cuts():
    xgboost = pytest.importorskip("xgboost")
    rng = np.random.default_rng(3)
    features = rng.normal(size=(4, 3000)).astype(np.float32)
    features[2] = rng.integers(0, 9, 3000)
    matrix = xgboost.QuantileDMatrix(features.T, features[0] * features[2], max_bin=64)
    indptr, values = matrix.get_quantile_cut()
    indptr = indptr.astype(np.int64)  # floats, from XGBoost 3.0
    # It lists each feature's lowest value, then its inner cuts, then an upper end above every value.
    inner = [values[indptr[f] + 1 : indptr[f + 1] - 1] for f in range(4)]
    binned = bin_rows(features, Cuts.from_arrays(inner, [False] * 4))
    booster = xgboost.train({"max_depth": 4, "tree_method": "hist", "max_bin": 64}, matrix, 3)
    splits = booster.trees_to_dataframe().query("Feature != 'Leaf'")
    assert len(splits) > 20
    for line in splits.itertuples():
        feature, split = int(line.Feature[1:]), np.float32(line.Split)
        assert split in inner[feature]
        code = int(np.searchsorted(inner[feature], split))
        np.testing.assert_array_equal(binned.codes[:, feature] <= code, features[feature] < split)


def test_codes_of_categories_are_their_numbers():
    codes = category_codes(np.array([2, 0, np.nan, -0.0, 1], np.float32), 3, "kind")
    assert codes.dtype == np.uint16
    assert codes.tolist() == [2, 0, 3, 0, 1]


@pytest.mark.parametrize("wrong", [3, -1, 0.5, np.inf])
def test_what_is_no_category_is_refused(wrong):
    with pytest.raises(DataError, match=rf"feature 'kind', row 2: .* one of 3 categories, found {wrong:g}"):
        category_codes(np.array([2, wrong, 9], np.float32), 3, "kind")
