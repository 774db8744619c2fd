"""Rows that a sum of hessians implies, against rows drawn as badly as they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.errors import HansaError
from hansa.trees.least_rows import check_scale, heaviest_row, hessian_of, rows_of
from hansa.trees.objective import (
    Scales,
    gradients,
    hessian_bound,
    most_hessian,
    pack,
    scales,
    sum_magnitudes,
    unit_exponent,
)

OBJECTIVES = ("binary:logistic", "reg:squarederror")


def of_scale(exponent: int, planes: int = 1) -> Scales:
    return Scales(1.0, math.ldexp(1.0, exponent), planes)


@settings(deadline=None)
@given(st.sampled_from(OBJECTIVES), st.integers(-3, 40), st.floats(0.01, 1e3), st.integers(0, 2**32 - 1))
def test_no_row_counts_more_than_the_heaviest(objective, exponent, weight_bound, seed):
    rng = np.random.default_rng(seed)
    n = 64
    most = np.float32(weight_bound)
    weights = np.minimum((most * rng.random(n)).astype(np.float32), most)
    weights[0] = most
    margins = rng.normal(size=n).astype(np.float32) * np.float32(rng.choice([1e-8, 1e-3, 1.0]))
    margins[:2] = 0
    gradient, hessian = np.empty(n), np.empty(n)
    gradients(objective, margins, np.ones(n, np.float32), weights, 1.0, gradient, hessian)
    packed = np.empty((2, n), np.int64)
    chosen = of_scale(exponent, 2)
    pack(gradient, hessian, chosen, packed)
    assert packed[1].max() <= heaviest_row(most_hessian(objective, float(most), 0.0, 0.0), chosen)


def test_margins_next_to_zero_weigh_a_quarter_at_most():
    """Where p is a half give or take a rounding, p (1 - p) must not be rounded above the bound."""
    margins = np.float32(1e-9) * np.arange(-2000, 2000, dtype=np.float32)
    gradient, hessian = np.empty(len(margins)), np.empty(len(margins))
    gradients("binary:logistic", margins, np.zeros_like(margins), None, 1.0, gradient, hessian)
    packed = np.empty((2, len(margins)), np.int64)
    chosen = of_scale(59, 2)
    pack(gradient, hessian, chosen, packed)
    assert packed[1].max() <= heaviest_row(most_hessian("binary:logistic", 1.0, 1.0, 0.0), chosen)


@settings(deadline=None)
@given(st.integers(1, 1000), st.integers(1, 2**40), st.data())
def test_fewer_rows_never_reach_the_hessian_of_so_many(rows, heaviest, data):
    fewer = data.draw(st.integers(0, rows - 1))
    assert fewer * heaviest < hessian_of(rows, heaviest) <= rows * heaviest


@settings(deadline=None)
@given(st.floats(0, 1e4), st.integers(1, 50), st.integers(1, 2**31), st.integers(-4, 31))
def test_a_child_that_the_search_allows_has_the_rows_that_parties_demand(weight, rows, heaviest, exponent):
    chosen = of_scale(exponent)
    demanded = rows_of(weight, rows, heaviest, chosen)
    allowed = max(math.ceil(weight * chosen.hessian), 1, hessian_of(rows, heaviest))
    assert (demanded - 1) * heaviest < allowed  # demanded - 1 rows never reach it


@pytest.mark.parametrize(
    ("objective", "weight", "rows"),
    [("binary:logistic", 1.0, 4), ("binary:logistic", 20.0, 80), ("reg:squarederror", 1.0, 1)],
)
def test_min_child_weight_implies_so_many_rows(objective, weight, rows):
    chosen = of_scale(20)
    assert rows_of(weight, 1, heaviest_row(most_hessian(objective, 1.0, 0.0, 0.0), chosen), chosen) == rows


@settings(deadline=None)
@given(
    st.sampled_from(OBJECTIVES),
    st.integers(1, 3000),
    st.sampled_from([32, 64]),
    st.floats(1e-3, 1e3),
    st.integers(0, 2**32 - 1),
)
def test_scales_that_an_honest_aggregator_makes_are_fine_enough(objective, n, bits, weight_bound, seed):
    rng = np.random.default_rng(seed)
    hessian = np.full(n, weight_bound / 4 if objective == "binary:logistic" else weight_bound)
    hessian *= rng.choice([1.0, 1e-3, 1e-12])
    bound = hessian_bound(objective, weight_bound, 0.0, 0.0)
    unit = unit_exponent(bound, n)
    total = sum_magnitudes(hessian, np.arange(n, dtype=np.uint32), bound, n)
    check_scale(bound, n, scales(total, total, unit, unit, n, bits))


def test_a_scale_too_coarse_to_tell_rows_is_refused():
    with pytest.raises(HansaError, match="coarser than 1000 rows need"):
        check_scale(0.5, 1000, of_scale(10))
