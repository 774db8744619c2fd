"""Sums over labels and weights: they add up over parties, and give bounds and base scores."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import naive_trees as naive
from hansa.errors import DataError, HansaError
from hansa.roles.summed.statistics import (
    EXPONENTS,
    LABEL_SUMS,
    MagnitudeBounds,
    bounds_of,
    check_label_size,
    check_own_size,
    count_magnitudes,
    histogram_bits_of,
    label_sums,
    label_units,
    newton_step,
    start_of,
    sum_labels,
    sum_steps,
)
from hansa.trees.parameters import parse_parameters
from made_tables import plan

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
positive = st.floats(0, width=32, allow_nan=False, allow_infinity=False)


@st.composite
def labels_and_weights(draw):
    n = draw(st.integers(1, 30))
    labels = draw(hnp.arrays(np.float32, n, elements=floats))
    weights = draw(st.none() | hnp.arrays(np.float32, n, elements=positive))
    return labels, weights


def part(array, which):
    return None if array is None else array[which]


@settings(deadline=None)
@given(labels_and_weights(), st.data())
def test_magnitudes_add_up_and_bound_every_row(rows, data):
    labels, weights = rows
    counts = count_magnitudes(labels, weights)
    assert counts.shape == (2, EXPONENTS)
    assert counts.dtype == np.int64
    assert counts.sum(axis=1).tolist() == [len(labels)] * 2
    cut = data.draw(st.integers(0, len(labels)))
    both = [count_magnitudes(labels[s], part(weights, s)) for s in (slice(0, cut), slice(cut, None))]
    assert np.array_equal(both[0] + both[1], counts)
    bounds = bounds_of(counts, weights is not None)
    assert np.all(np.abs(labels.astype(np.float64)) <= bounds.label)
    heaviest = 1.0 if weights is None else float(weights.max())
    assert heaviest <= bounds.weight
    # No more than twice too large, where anything is large enough to tell.
    if np.abs(labels).max() > 1e-37:
        assert bounds.label <= 2 * np.abs(labels.astype(np.float64)).max()


def test_no_weights_bound_nothing_away():
    counts = count_magnitudes(np.array([1, 0], np.float32), None)
    assert bounds_of(counts, False) == MagnitudeBounds(label_exponent=1, weight_exponent=0)
    assert bounds_of(np.zeros((2, EXPONENTS), np.int64), True) == MagnitudeBounds(0, 0)


@settings(deadline=None)
@given(labels_and_weights(), st.integers(0, 10**6))
def test_label_sums_fit_and_are_close(rows, others):
    labels, weights = rows
    bounds = bounds_of(count_magnitudes(labels, weights), weights is not None)
    units = label_units(bounds, len(labels) + others)
    sums = sum_labels(labels, weights, *units)
    assert sums.shape == (LABEL_SUMS,)
    exact = naive.exact_sum(labels, weights) / Fraction(2) ** units[0]
    assert abs(exact) + len(labels) <= 2**62
    assert abs(int(sums[0]) - exact) <= len(labels)
    total = naive.exact_sum(np.ones_like(labels), weights) / Fraction(2) ** units[1]
    assert abs(int(sums[1]) - total) <= len(labels)
    assert sums[2:].tolist() == [np.count_nonzero(labels == 1), len(labels)]


@settings(deadline=None)
@given(labels_and_weights(), st.data())
def test_label_sums_add_up(rows, data):
    labels, weights = rows
    bounds = bounds_of(count_magnitudes(labels, weights), weights is not None)
    units = label_units(bounds, len(labels))
    order = np.array(data.draw(st.permutations(range(len(labels)))))
    cut = data.draw(st.integers(0, len(labels)))
    parts = [sum_labels(labels[s], part(weights, s), *units) for s in (order[:cut], order[cut:])]
    assert np.array_equal(parts[0] + parts[1], sum_labels(labels, weights, *units))


@pytest.mark.parametrize("units", [(-80, 0), (0, -80), (5000, 0), (0, -5000)])
def test_units_that_do_not_fit_are_refused(units):
    with pytest.raises(HansaError, match="does not fit"):
        sum_labels(np.ones(4, np.float32), None, *units)


def start(labels, weights=None, **given):
    labels = np.array(labels, np.float32)
    weights = None if weights is None else np.array(weights, np.float32)
    bounds = bounds_of(count_magnitudes(labels, weights), weights is not None)
    units = label_units(bounds, len(labels))
    chosen = plan(("a",), weighted=weights is not None, **given)
    given = (labels, weights, *units)
    return start_of(chosen, np.concatenate([sum_labels(*given), sum_steps(chosen.parameters, *given)]), *units)


def test_the_start_is_the_mean():
    assert start([1, 0, 0, 0]).base_scores == (0.25,)
    assert start([1, 0, 0, 0], [3, 1, 1, 1]).base_scores == (0.5,)
    assert start([1, 2, 6], objective="reg:squarederror").base_scores == (3.0,)
    assert start([-1, 0, 0], objective="reg:squarederror").base_scores[0] == pytest.approx(-1 / 3)
    assert start([1, 0], base_score=0.125).base_scores == (0.125,)
    assert start([7, 9], base_score=-4, objective="reg:squarederror").base_scores == (-4.0,)


def test_the_start_is_a_float32():
    value = start([1, 0, 0]).base_scores[0]
    assert value == float(np.float32(1 / 3))


def test_balance_is_counted_over_all_rows():
    assert start([1, 0, 0, 0], scale_pos_weight="auto").scale_pos_weight == 3.0
    assert start([1, 1, 1, 0], [1, 1, 1, 9], scale_pos_weight="auto").scale_pos_weight == pytest.approx(1 / 3)
    assert start([1, 0], scale_pos_weight=2.5).scale_pos_weight == 2.5
    assert start([1, 0, 0, 0], scale_pos_weight="auto").base_scores == (0.5,)


def test_a_mean_next_to_0_or_1_is_kept_a_millionth_away():
    """As XGBoost keeps it: a mean of 1e-9 is a base score of 1e-6."""
    assert start([1, 0], [1e-9, 1]).base_scores == (float(np.float32(1e-6)),)
    assert start([1, 0], [1, 1e-7]).base_scores == (float(np.float32(1 - 1e-6)),)


@pytest.mark.parametrize(
    ("label", "weight", "rule"),
    [
        (2.0**44, None, None),
        (2.0**45, None, "labels reach 2^46 and weights 2^0; .* divide the labels"),
        (2.0**40, 2.0**3, None),
        (2.0**40, 2.0**4, "labels reach 2^41 and weights 2^5; .* divide the labels"),
        (2.0**44, 2.0**-20, None),
        (2.0**45, 2.0**-20, "labels reach 2^46 and weights 2^0"),
        (1.0, 2.0**43, None),
        (1.0, 2.0**44, "labels reach 2^1 and weights 2^45; .* divide the weights"),
        (0.0, 2.0**63, None),
        (0.0, 2.0**64, "weights reach 2^65; .* divide the weights"),
    ],
)
def test_labels_whose_gains_would_overflow_are_refused(label, weight, rule):
    """rows times (weight times label)^2 must fit float32: with 2^31 rows that is 2^(31 + 2 * 45), well below 2^127."""
    labels = np.array([label, -label], np.float32)
    weights = None if weight is None else np.full(2, weight, np.float32)
    magnitudes = count_magnitudes(labels, weights)
    bounds = bounds_of(magnitudes, weights is not None)
    if rule is None:
        check_label_size(bounds)
        check_own_size(magnitudes, weights is not None, "aurora")
        return
    with pytest.raises(DataError, match="^party 'aurora': " + rule.replace("^", r"\^")) as caught:
        check_own_size(magnitudes, weights is not None, "aurora")
    assert caught.value.member == "aurora"
    with pytest.raises(HansaError, match=rule.replace("^", r"\^")):
        check_label_size(bounds)


def bits(labels, weights=None, **given):
    labels = np.asarray(labels, np.float32)
    weights = None if weights is None else np.asarray(weights, np.float32)
    magnitudes = count_magnitudes(labels, weights)
    units = label_units(bounds_of(magnitudes, weights is not None), len(labels))
    chosen = plan(("a",), weighted=weights is not None, **given)
    sums = sum_labels(labels, weights, *units)
    return histogram_bits_of(chosen, magnitudes, sums, start_of(chosen, sums, *units))


N = 20_000
CLASSES = np.arange(N) % 50 == 0
NORMAL = np.random.default_rng(0).normal(size=N)
UNIFORM = np.random.default_rng(1).random(N)
ORDINARY = {
    "plain": (CLASSES, None, {}),
    "balanced": (CLASSES, None, {"scale_pos_weight": "auto"}),
    "balanced and rare": (np.arange(N) < 4, None, {"scale_pos_weight": "auto"}),
    "positives count 20 times": (CLASSES, None, {"scale_pos_weight": 20}),
    "positives count 20 times, half of the rows": (UNIFORM > 0.5, None, {"scale_pos_weight": 20}),
    "gamma weights": (CLASSES, np.random.default_rng(2).gamma(2, size=N), {}),
    "weights of two orders": (CLASSES, 10 ** (2 * UNIFORM), {}),
    "all weights large": (CLASSES, np.full(N, 1e9), {}),
    "all weights tiny": (CLASSES, np.full(N, 1e-42), {}),
    "half of the weights 0": (CLASSES, UNIFORM > 0.5, {}),
    "normal labels": (NORMAL, None, {"objective": "reg:squarederror"}),
    "labels far from 0": (NORMAL + 1e6, None, {"objective": "reg:squarederror"}),
    "mostly zeros": (np.where(UNIFORM > 0.9, NORMAL, 0), None, {"objective": "reg:squarederror"}),
    "lognormal labels": (np.exp(1.5 * NORMAL), None, {"objective": "reg:squarederror"}),
    "all labels 0": (np.zeros(N), None, {"objective": "reg:squarederror"}),
}
UNLIKE = {
    "positives count a lot": (CLASSES, None, {"scale_pos_weight": 1e5}),
    "positives count little": (UNIFORM > 0.5, None, {"scale_pos_weight": 1e-5}),
    "weights of six orders": (CLASSES, 10 ** (6 * UNIFORM), {}),
    "weights of six orders, tiny": (NORMAL, 10 ** (6 * UNIFORM - 30), {"objective": "reg:squarederror"}),
    "one heavy row": (CLASSES, np.where(np.arange(N) == 7, 1e9, 1), {}),
    "one heavy row among light ones": (CLASSES, np.where(np.arange(N) == 7, 1, 1e-9), {}),
    "one label far out": (np.where(np.arange(N) == 7, 1e9, NORMAL), None, {"objective": "reg:squarederror"}),
    "labels of many orders": (np.exp(4 * NORMAL), None, {"objective": "reg:squarederror"}),
}


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_rows_take_32_bits(name):
    labels, weights, given = ORDINARY[name]
    assert bits(labels, weights, **given) == 32
    assert bits(labels, weights, **given, histogram_bits=64) == 64


@pytest.mark.parametrize("name", UNLIKE)
def test_rows_of_very_unlike_weights_or_labels_take_64_bits(name):
    labels, weights, given = UNLIKE[name]
    assert bits(labels, weights, **given) == 64
    assert bits(labels, weights, **given, histogram_bits=32) == 32


def test_more_rows_than_32_bits_hold_take_64():
    chosen = plan(("a",))
    for rows, expected in ((2**29 - 1, 32), (2**29, 64)):
        magnitudes = np.zeros((2, EXPONENTS), np.int64)
        magnitudes[:, 127] = rows
        sums = np.array([rows // 2, rows, rows // 2, rows])
        assert histogram_bits_of(chosen, magnitudes, sums, start_of(chosen, sums, 0, 0)) == expected


def test_one_newton_step_where_positives_count_more():
    """margin = 2 (s P - N) / (s P + N), with P = 1, N = 3 and s = 5."""
    margin = 2 * (5 - 3) / (5 + 3)
    assert start([1, 0, 0, 0], scale_pos_weight=5).base_scores[0] == pytest.approx(1 / (1 + math.exp(-margin)))


@pytest.mark.parametrize(
    ("labels", "weights", "rule"),
    [
        ([1, 1, 1], None, "same label 1"),
        ([0, 0], None, "same label 0"),
        ([1, 0, 0], [0, 1, 1], "needs rows of both classes"),
        ([1, 0, 0], [1, 0, 0], "needs rows of both classes"),
        ([1, 0], [0, 0], "weight 0"),
    ],
)
def test_nothing_to_learn_is_said(labels, weights, rule):
    with pytest.raises(HansaError, match=rule):
        start(labels, weights)


def test_counts_that_are_all_zero_are_refused_with_the_cure():
    assert start([0, 3], objective="count:poisson").base_scores == (1.5,)
    for labels, weights in (([0, 0], None), ([0, 3], [1, 0])):
        with pytest.raises(
            HansaError, match="all have label 0, or nearly; count:poisson needs rows with a label above 0"
        ):
            start(labels, weights, objective="count:poisson")


def test_a_newton_step_is_xgboosts_and_does_not_depend_on_who_holds_the_rows():
    draw = np.random.default_rng(5)
    labels = (3 * draw.gamma(2, size=400) - 0.9).astype(np.float32)
    weights = draw.gamma(2, size=400).astype(np.float32)
    units = label_units(bounds_of(count_magnitudes(labels, weights), True), 400)
    for objective, shape in (("reg:pseudohubererror", {"huber_slope": 0.5}), ("reg:squaredlogerror", {})):
        parameters = parse_parameters({"objective": objective, "base_score": None} | shape)
        whole = sum_steps(parameters, labels, weights, *units)
        order = draw.permutation(400)
        parts = [sum_steps(parameters, labels[rows], weights[rows], *units) for rows in np.split(order, [3, 170])]
        assert np.array_equal(sum(parts), whole)
        matrix = xgboost.DMatrix(np.zeros((400, 1)), labels, weight=weights)
        booster = xgboost.train({"objective": objective, "nthread": 1} | shape, matrix, 1)
        text = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
        assert newton_step(objective, whole, *units) == pytest.approx(float(text.strip("[]")), rel=1e-6)
    assert len(sum_steps(parse_parameters({}), labels, weights, *units)) == 0
    assert [
        label_sums(parse_parameters({"objective": name})) for name in ("binary:logistic", "reg:pseudohubererror")
    ] == [4, 6]


@settings(deadline=None)
@given(
    st.sampled_from(["reg:pseudohubererror", "reg:squaredlogerror"]),
    st.lists(st.floats(-1 + 2.0**-24, 2.0**45, width=32), min_size=1, max_size=20),
    st.sampled_from([1e-3, 1.0, 1e4]),
)
def test_sums_of_a_newton_step_never_overflow(objective, labels, slope):
    """Units are such that sum_fixed refuses nothing, whatever the labels."""
    labels = np.array(labels, np.float32)
    parameters = parse_parameters(
        {"objective": objective} | ({"huber_slope": slope} if objective == "reg:pseudohubererror" else {})
    )
    units = label_units(bounds_of(count_magnitudes(labels, None), False), len(labels))
    sum_steps(parameters, labels, None, *units)


def test_a_start_from_where_nothing_can_be_trained_is_refused_with_the_cure():
    with pytest.raises(HansaError, match=r"base score of reg:squaredlogerror.*would be -.*give base_score in the plan"):
        start([-0.9, -0.9], objective="reg:squaredlogerror")


def test_sides_start_from_0_as_xgboosts_do():
    assert start([1, 0, 0, 0], objective="binary:hinge").base_scores == (0.0,)
    with pytest.raises(HansaError, match="binary:hinge needs rows of both classes"):
        start([1, 1], objective="binary:hinge")


def test_log_odds_start_from_the_share_of_label_1_as_xgboosts_do():
    assert start([1, 0, 0, 0], objective="binary:logitraw").base_scores == (0.25,)
    step = start([1, 0, 0, 0], objective="binary:logitraw", scale_pos_weight=5).base_scores[0]
    assert step == pytest.approx(2 * (5 - 3) / (5 + 3))
