"""Gradients are XGBoost's; their integers are exact, never overflow, and say so where they would."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import naive_trees as naive
from hansa.errors import HansaError
from hansa.trees.losses import LEAST_POWER, LEAST_SHIFTED, LOSSES, MOST_POWER, is_exponential, is_quantile
from hansa.trees.objective import (
    LEAST_HESSIAN,
    Scales,
    bits_of_count,
    check_margins,
    check_scales,
    gradient_bound,
    gradients,
    hessian_bound,
    most_hessian,
    pack,
    scales,
    softmax_gradients,
    sum_fixed,
    sum_magnitudes,
    sums_after,
    unit_exponent,
)

OBJECTIVES = tuple(LOSSES)


def rows_of(objective, n=1000, seed=0):
    rng = np.random.default_rng(seed)
    margins = (4 * rng.normal(size=n)).astype(np.float32)
    labels = rng.normal(size=n) if not objective.startswith("binary:") else rng.integers(0, 2, n)
    match LOSSES[objective].labels:
        case "not negative":
            labels = rng.poisson(2, n)
        case "positive":
            labels = rng.gamma(2, size=n)
        case "above -1":
            labels, margins = rng.gamma(2, size=n) - 0.9, np.abs(margins) - np.float32(0.9)
    weights = rng.gamma(1, size=n)
    weights[::11] = 0
    return margins, labels.astype(np.float32), weights.astype(np.float32)


ONE_OUTPUT = [name for name in OBJECTIVES if LOSSES[name].labels != "classes"]

SHAPES = {"count:poisson": 0.7, "reg:tweedie": 1.3, "reg:pseudohubererror": 2.5, "reg:quantileerror": 0.3}
"""The parameter that the loss depends on."""


def shape_of(objective):
    return SHAPES.get(objective, 0.0)


def compute(objective, margins, labels, weights, positive_weight=1.0, shape=None):
    g, h = np.full((2, len(margins)), np.nan)
    shape = shape_of(objective) if shape is None else shape
    gradients(objective, margins, labels, weights, positive_weight, g, h, shape)
    return g, h


@pytest.mark.parametrize("objective", ONE_OUTPUT)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positive_weight", [1.0, 7.5])
def test_gradients_are_the_naive_ones(objective, weighted, positive_weight):
    margins, labels, weights = rows_of(objective)
    weights = weights if weighted else None
    got = compute(objective, margins, labels, weights, positive_weight)
    expected = naive.gradients(objective, margins, labels, weights, positive_weight, shape_of(objective))
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("objective", ONE_OUTPUT)
@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_are_the_derivatives_of_the_loss(objective, weighted):
    margins, labels, weights = rows_of(objective, 200)
    weights = weights if weighted else None

    def loss(m):
        w = 1 if weights is None else weights.astype(np.float64)
        return w * losses[objective](m, labels.astype(np.float64))

    r, s = shape_of("reg:tweedie"), shape_of("reg:pseudohubererror")
    losses = {
        "binary:logistic": lambda m, y: np.logaddexp(0, m) - y * m,
        "binary:logitraw": lambda m, y: np.logaddexp(0, m) - y * m,
        "binary:hinge": lambda m, y: np.maximum(0, 1 - (2 * y - 1) * m),
        "reg:squarederror": lambda m, y: (m - y) ** 2 / 2,
        "reg:pseudohubererror": lambda m, y: s**2 * np.sqrt(1 + ((m - y) / s) ** 2),
        "reg:absoluteerror": lambda m, y: np.abs(m - y),
        "reg:quantileerror": lambda m, y: np.where(m >= y, 0.7 * (m - y), 0.3 * (y - m)),
        "reg:squaredlogerror": lambda m, y: (np.log1p(m) - np.log1p(y)) ** 2 / 2,
        "count:poisson": lambda m, y: np.exp(m) - y * m,
        "reg:gamma": lambda m, y: y * np.exp(-m) + m,
        "reg:tweedie": lambda m, y: y * np.exp((1 - r) * m) / (r - 1) + np.exp((2 - r) * m) / (2 - r),
    }
    if is_exponential(objective):
        margins = margins / 4
    if objective == "reg:squaredlogerror":
        margins = margins + 1  # where the second derivative is above XGBoost's floor
        labels = labels + 20
    m, step = margins.astype(np.float64), 1e-4
    g, h = compute(objective, margins, labels, weights, shape=0.0 if objective == "count:poisson" else None)
    np.testing.assert_allclose(g, (loss(m + step) - loss(m - step)) / (2 * step), atol=1e-5, rtol=1e-6)
    if objective != "binary:hinge" and not is_quantile(objective):  # second derivatives of 0: XGBoost takes 1
        np.testing.assert_allclose(h, (loss(m + step) - 2 * loss(m) + loss(m - step)) / step**2, atol=1e-4)


@pytest.mark.parametrize("weighted", [False, True])
def test_gradients_of_classes_are_those_of_the_softmax(weighted):
    """XGBoost takes 2 p (1 - p) as the hessian, twice the second derivative."""
    rng = np.random.default_rng(4)
    margins = (4 * rng.normal(size=(5, 300))).astype(np.float32)
    margins[:, 0], margins[2, 1] = -3e38, 3e38
    labels = rng.integers(0, 5, 300).astype(np.float32)
    weights = rng.gamma(1, size=300).astype(np.float32) if weighted else None
    g, h = np.full((2, 5, 300), np.nan)
    softmax_gradients(margins, labels, weights, g, h)
    w = 1.0 if weights is None else weights.astype(np.float64)
    shifted = margins.astype(np.float64) - margins.max(axis=0)
    p = np.exp(shifted) / np.exp(shifted).sum(axis=0)
    np.testing.assert_allclose(g, (p - (labels == np.arange(5)[:, None])) * w, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(h, np.maximum(2 * p * (1 - p), 1e-16) * w, rtol=1e-9, atol=1e-15)
    most = 1.0 if weights is None else float(weights.max())
    assert np.abs(g).max() <= gradient_bound("multi:softprob", most, 4.0, 9.0, 9.0)
    assert h.max() <= hessian_bound("multi:softprob", most, most, 0.0)
    alone = np.empty((2, 5, 40))
    part = slice(100, 140)
    softmax_gradients(
        np.ascontiguousarray(margins[:, part]), labels[part], None if weights is None else weights[part], *alone
    )
    assert np.array_equal(alone, [g[:, part], h[:, part]])


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(0, 1000), st.sampled_from(ONE_OUTPUT), st.booleans())
def test_a_rows_gradient_does_not_depend_on_where_it_stands(n, offset, objective, weighted):
    margins, labels, weights = rows_of(objective, 1100)
    weights = weights if weighted else None
    whole = compute(objective, margins, labels, weights, 3.0)
    part = slice(offset, offset + n)
    alone = compute(objective, margins[part], labels[part], weights[part] if weighted else None, 3.0)
    assert np.array_equal(np.array(whole)[:, part], alone)


def test_far_margins_are_finite_and_within_the_bounds():
    margins = np.array([-1e30, -800, -40, 0, 40, 800, 3e38], np.float32)
    for label in (0, 1):
        g, h = compute("binary:logistic", margins, np.full(7, label, np.float32), None, 5.0)
        assert np.all(np.abs(g) <= gradient_bound("binary:logistic", 5.0, 1.0, 9.0, 9.0))
        assert np.all(h <= hessian_bound("binary:logistic", 5.0, 5.0, 0.0))
        assert h.min() == LEAST_HESSIAN * (5 if label else 1)


@settings(deadline=None)
@given(st.floats(-80, 60, width=32), st.floats(0, 2**45, width=32), st.floats(0, 4, width=32), st.floats(0, 20))
def test_gradients_of_counts_are_within_their_bounds_up_to_the_highest_margin(margin, label, weight, step):
    """Whatever the row, at the very margin, label and weight that the bounds are of."""
    row = [np.array([value], np.float32) for value in (margin, label, weight)]
    g, h = compute("count:poisson", *row, shape=step)
    bound = gradient_bound("count:poisson", weight, label, abs(margin), margin)
    assert abs(g[0]) <= bound
    assert (
        h[0]
        <= most_hessian("count:poisson", weight, bound, step)
        <= hessian_bound("count:poisson", weight, bound, step)
    )


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["reg:gamma", "reg:tweedie", "reg:pseudohubererror", "reg:squaredlogerror", "binary:hinge"]),
    st.floats(-60, 60, width=32),
    st.floats(0, 2**45, width=32),
    st.floats(2**-20, 4, width=32),
    st.floats(LEAST_POWER, MOST_POWER) | st.sampled_from([LEAST_POWER, MOST_POWER]),
    st.booleans(),
)
@example("reg:squaredlogerror", LEAST_SHIFTED - 1, 2.0**45, 1.0, 1.5, False)
@example("reg:squaredlogerror", LEAST_SHIFTED - 1, -1 + 2.0**-24, 1.0, 1.5, False)
@example("reg:squaredlogerror", 3e38, -1 + 2.0**-24, 1.0, 1.5, False)
@example("reg:pseudohubererror", 3e38, -(2.0**45), 1.0, 1.001, False)
def test_gradients_of_other_losses_are_within_their_bounds(objective, margin, label, weight, shape, known):
    """Whatever the row, at the very margin, label and weight that the bounds are of; with the sum of h known or not."""
    if objective == "reg:squaredlogerror":
        margin = max(margin, LEAST_SHIFTED - 1)
    if objective == "binary:hinge":
        label = float(label > 1)
    margins, labels, weights = [np.array([value], np.float32) for value in (margin, label, weight)]
    check_margins(objective, margins, np.zeros(1, np.uint32))
    g, h = compute(objective, margins, labels, weights, shape=shape)
    size = abs(float(margins[0]))
    total = float(h[0]) if known else math.inf
    public = (weight, abs(label), size, margin, total, shape, margin)
    bound = gradient_bound(objective, *public)
    assert abs(g[0]) <= bound
    assert h[0] <= most_hessian(objective, weight, bound, shape)
    assert most_hessian(objective, weight, bound, shape) <= hessian_bound(objective, weight, bound, shape)
    if (
        is_exponential(objective) and known
    ):  # no more than what its own row makes of it, but for the weight that g holds
        nearest = 1.0 if objective == "reg:gamma" else min(shape - 1, 2 - shape)
        assert bound <= 1.01 * max(total / nearest, weight)


def test_amounts_that_would_leave_float32_are_refused_with_the_cure():
    assert gradient_bound("reg:gamma", 1.0, 8.0, 50.0, 0.0, lowest_margin=-50.0) > math.exp(50)
    with pytest.raises(HansaError, match=r"predict e\^-61 for a row, so little that its gradient of reg:gamma"):
        gradient_bound("reg:gamma", 1.0, 8.0, 61.0, 0.0, lowest_margin=-61.0)
    # A sum of hessians that is known bounds them better.
    assert gradient_bound("reg:gamma", 1.0, 8.0, 61.0, 0.0, 100.0, lowest_margin=-61.0) < 101


def test_margins_near_minus_one_are_refused_with_the_cure():
    margins = np.array([LEAST_SHIFTED - 1, -1, 3], np.float32)
    check_margins("reg:squaredlogerror", margins, np.array([0, 2], np.uint32))
    check_margins("reg:squarederror", margins, np.arange(3, dtype=np.uint32))
    with pytest.raises(HansaError, match="add a constant to the labels at every party, or set base_score"):
        check_margins("reg:squaredlogerror", margins, np.arange(3, dtype=np.uint32))


@given(st.integers(1, 10**6), st.sampled_from([32, 64]))
def test_gradients_of_one_size_stay_exact_where_asked(rows, bits):
    unit = unit_exponent(1.0, rows)
    total = rows * math.ceil(math.ldexp(1.0, -unit)) + rows
    plain, short = (scales(total, total, unit, unit, rows, bits, kind) for kind in (False, True))
    assert math.frexp(short.gradient)[0] == 0.5
    assert plain.gradient / 2 < short.gradient <= plain.gradient
    check_scales(short, total, total, unit, unit)


def test_counts_that_would_leave_float32_are_refused_with_the_cure():
    with pytest.raises(
        HansaError, match=r"predict e\^61 for a row; count:poisson can be trained up to e\^60: divide the labels"
    ):
        gradient_bound("count:poisson", 1.0, 8.0, 61.0, 61.0)


@given(st.integers(0, 2**40))
def test_bits_of_count_is_the_least(count):
    bits = bits_of_count(count)
    assert 2**bits >= count
    assert bits == 0 or 2 ** (bits - 1) < count


bounds = st.floats(1e-60, 1e60)


@given(bounds, st.integers(1, 2**40))
def test_units_leave_room_and_not_too_much(bound, n_rows):
    unit = Fraction(2) ** unit_exponent(bound, n_rows)
    assert n_rows * (Fraction(bound) / unit + 1) <= 2**62
    assert Fraction(bound) / unit * n_rows >= 2**59 or n_rows == 1


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan, 1e-300, 5e-324, 1e300])
def test_a_bound_must_be_positive_and_in_range(bound):
    with pytest.raises(HansaError, match="bound of a fixed-point sum is"):
        unit_exponent(bound, 10)


sizes = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-8, 8, allow_subnormal=False))


@settings(deadline=None)
@given(sizes, st.integers(1, 10**9))
def test_sums_of_magnitudes_are_upper_bounds_and_close(values, others):
    n_total = len(values) + others
    total = sum_magnitudes(values, np.arange(len(values), dtype=np.uint32), 8.0, n_total)
    unit = Fraction(2) ** unit_exponent(8.0, n_total)
    exact = sum(abs(Fraction(v)) for v in values.tolist()) / unit
    assert exact <= total <= exact + len(values)


def test_only_the_rows_given_are_summed():
    values = np.array([1.0, 5.0, -2.0, 7.0])
    whole = sum_magnitudes(values, np.array([2, 0], np.uint32), 8.0, 4)
    assert whole == sum_magnitudes(np.array([1.0, 2.0]), np.arange(2, dtype=np.uint32), 8.0, 4)


@pytest.mark.parametrize("value", [8.0000001, -9.0, 1e300, math.inf])
def test_a_row_beyond_the_public_bound_stops_training(value):
    with pytest.raises(HansaError, match="exceeds the bound 8"):
        sum_magnitudes(np.array([1.0, value]), np.arange(2, dtype=np.uint32), 8.0, 2)


@pytest.mark.parametrize("rows", [1, 2, 3, 16])
def test_rows_that_are_not_numbers_stop_training(rows):
    with pytest.raises(HansaError, match="exceeds the bound 8"):
        sum_magnitudes(np.full(rows, math.nan), np.arange(rows, dtype=np.uint32), 8.0, rows)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 300),
    st.sampled_from([32, 64]),
    st.floats(-60, 60),
    st.floats(0, 12),
    st.integers(0, 2**32),
)
def test_no_sum_of_any_rows_can_overflow_and_precision_is_used(n, bits, size, spread, seed):
    """Whatever the gradients, the fields of a histogram hold every sum of every subset of rows."""
    rng = np.random.default_rng(seed)
    g = rng.normal(size=n) * np.exp(spread * rng.normal(size=n) + size)
    h = np.abs(g) * rng.random(n)
    rows = np.arange(n, dtype=np.uint32)
    g_bound, h_bound = float(np.abs(g).max()), float(max(h.max(), 1e-300))
    chosen = scales(
        sum_magnitudes(g, rows, g_bound, n),
        sum_magnitudes(h, rows, h_bound, n),
        unit_exponent(g_bound, n),
        unit_exponent(h_bound, n),
        n,
        bits,
    )
    packed = np.empty((chosen.planes, n), np.int64)
    pack(g, h, chosen, packed)
    q_g, q_h = naive.unpack(packed)
    g_room, h_room = (31, 32) if bits == 32 else (63, 63)
    assert sum(abs(q) for q in q_g) < 2**g_room
    assert sum(q_h) < 2**h_room
    assert sum(abs(q) for q in q_g) >= 2 ** (g_room - 2) - n
    assert sum(q_h) >= 2 ** (h_room - 3) - 2 * n
    assert math.frexp(chosen.hessian)[0] == 0.5, "a power of two"


# Found by chance: here the quotient is rounded up past 2^62.
@example(13334868975272935, 236357536515620926, -42, -51, 100, 64)
@given(
    st.integers(1, 2**60),
    st.integers(1, 2**60),
    st.integers(-80, 10),
    st.integers(-80, 10),
    st.integers(1, 10**6),
    st.sampled_from([32, 64]),
)
def test_a_party_that_has_all_of_the_sums_takes_the_scales(gradient, hessian, gradient_unit, hessian_unit, n, bits):
    sums = gradient, hessian, gradient_unit, hessian_unit
    chosen = scales(*sums, n, bits)
    check_scales(chosen, *sums)
    too_fine = Scales(chosen.gradient * 1.01, chosen.hessian, chosen.planes)
    with pytest.raises(HansaError, match=r"gradient scale .* sums would overflow"):
        check_scales(too_fine, *sums)


@settings(deadline=None)
@given(
    hnp.arrays(np.float64, st.integers(1, 20), elements=st.floats(-3, 3)),
    st.floats(0.1, 1e6),
    st.integers(-4, 20),
    st.sampled_from([1, 2]),
)
def test_packing_is_the_naive_packing(values, gradient, exponent, planes):
    chosen = Scales(gradient, 2.0**exponent, planes)
    packed = np.empty((planes, len(values)), np.int64)
    pack(values, np.abs(values), chosen, packed)
    assert np.array_equal(packed, naive.pack(values, np.abs(values), chosen))


def test_a_positive_hessian_never_vanishes():
    packed = np.empty((1, 3), np.int64)
    pack(np.zeros(3), np.array([0.0, 1e-16, 1e-300]), Scales(1.0, 1.0, 1), packed)
    assert packed.tolist() == [[0, 1, 1]]


def test_too_many_rows_are_refused_with_the_cure():
    scales(1, 1, 0, 0, 2**29 - 1, 32)
    with pytest.raises(HansaError, match="set histogram_bits = 64"):
        scales(1, 1, 0, 0, 2**29, 32)
    scales(1, 1, 0, 0, 2**29, 64)


def test_nothing_to_count_gives_scales_that_count_nothing():
    chosen = scales(0, 0, 0, 0, 10, 32)
    packed = np.ones((1, 2), np.int64)
    pack(np.zeros(2), np.zeros(2), chosen, packed)
    assert packed.tolist() == [[0, 0]]


def test_unit_hessians_stay_exact():
    chosen = scales(10, 1000 * 2**40, 0, -40, 1000, 32)
    packed = np.empty((1, 5), np.int64)
    pack(np.zeros(5), np.ones(5), chosen, packed)
    assert np.all((packed & 0xFFFFFFFF) / chosen.hessian == 1.0)


small = st.floats(-1000, 1000, width=32)


@settings(deadline=None)
@given(hnp.arrays(np.float32, st.integers(1, 30), elements=small), st.integers(-30, 4), st.data())
def test_fixed_sums_are_exact_to_half_a_unit_a_row(values, unit, data):
    weights = data.draw(
        st.none() | hnp.arrays(np.float32, len(values), elements=st.floats(0, 8, width=32, allow_subnormal=False))
    )
    got = sum_fixed(values, weights, unit)
    exact = naive.exact_sum(values, weights) / Fraction(2) ** unit
    assert abs(got - exact) <= Fraction(len(values), 2)
    cut = data.draw(st.integers(0, len(values)))
    parts = [
        sum_fixed(values[part], None if weights is None else weights[part], unit)
        for part in (slice(0, cut), slice(cut, None))
    ]
    assert sum(parts) == got


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(OBJECTIVES),
    st.integers(1, 60),
    st.sampled_from([0.01, 0.5, 3.0, 30.0, 1e4]),
    st.sampled_from([1.0, 7.5]),
    st.integers(0, 2**32),
)
def test_sums_after_a_tree_are_at_most_their_bounds(objective, n, size, positive_weight, seed):
    """Whatever the leaves and the rows in them; close where leaves are small."""
    draw = np.random.default_rng(seed)
    margins, labels, weights = rows_of(objective, n, seed)
    # Larger leaves are refused: e^m would not be a number.
    size = min(size, 30.0) if is_exponential(objective) else size
    positive_weight = positive_weight if objective.startswith("binary:") else 1.0
    before = compute(objective, margins, labels, weights, positive_weight)
    leaf_of = draw.integers(0, 5, n)
    values = (size * draw.standard_normal(5)).astype(np.float32)
    hessians = np.bincount(leaf_of, before[1], 5)
    weight = float((weights * (1.0 + labels * (positive_weight - 1.0))).sum())
    margin_bound = float(np.abs(margins).max() + np.abs(values).max())
    bounds = sums_after(
        objective,
        float(np.abs(before[0]).sum()),
        float(before[1].sum()),
        np.abs(values.astype(np.float64)) + margin_bound * 2.0**-23,
        hessians,
        1e-12,
        weight,
        shape_of(objective),
    )
    if not LOSSES[objective].foreseen:
        assert bounds == (math.inf, math.inf)
        return
    after = compute(objective, margins + values[leaf_of], labels, weights, positive_weight)
    assert np.abs(after[0]).sum() <= bounds[0]
    assert after[1].sum() <= bounds[1]
    if size == 0.01:
        moved = 0.05 * hessians.sum() + 1e-9
        if objective != "reg:quantileerror":  # a row's |g| is alpha, or as much as 1 - alpha
            assert bounds[0] <= np.abs(before[0]).sum() * 1.001 + moved
        assert bounds[1] <= before[1].sum() * 1.001 + moved
