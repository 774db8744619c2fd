"""What a first tree's leaf values tell, counted choice by choice, and how few bits of them leave enough choices."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xgboost as xgb

import naive_trees as naive
from hansa.trees.leaf_choices import enough_rows, leaf_bits_for, log_choices
from hansa.trees.parameters import Parameters

ETA, LAMBDA = 0.3, 1.0


def made_leaves(rows: int, leaves: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and positives of a made first tree's leaves."""
    rng = np.random.default_rng(seed)
    cuts = np.sort(rng.choice(np.arange(10, rows - 10), leaves - 1, replace=False))
    n = np.diff(np.r_[0, cuts, rows])
    return n, rng.binomial(n, rng.beta(1, 2, leaves))


def grown_leaves(
    rows: int, depth: int, eta: float, seed: int, rare: float = 0.8, lambda_: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """The same of a first tree that XGBoost grows."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(rows, 8)).astype(np.float32)
    label = features[:, 0] + features[:, 1] * features[:, 2] + rng.logistic(size=rows) > rare
    data = xgb.DMatrix(features, label)
    given = {
        "objective": "binary:logistic",
        "base_score": float(label.mean()),
        "eta": eta,
        "max_depth": depth,
        "lambda": lambda_,
        "nthread": 1,
    }
    leaf = xgb.train(given, data, 1).predict(data, pred_leaf=True).ravel()
    _, number = np.unique(leaf, return_inverse=True)
    return np.bincount(number), np.bincount(number, weights=label).astype(int)


def test_at_fourteen_bits_a_small_tables_first_tree_tells_every_number():
    """The attack: 614 rows, 8 leaves. One choice fits 14 bits; a thousand and more fit 10."""
    leaves = made_leaves(614, 8, 0)
    assert naive.choices_of_rows(*leaves, 14, ETA, LAMBDA)[0] == 1
    assert naive.choices_of_rows(*leaves, 10, ETA, LAMBDA)[0] > 1000


@pytest.mark.parametrize("rows", [300, 600])
@pytest.mark.parametrize("bits", [6, 8])
def test_pairs_that_fit_one_leaf_grow_with_rows_squared_and_a_bit_less(rows, bits):
    """About 2^-bits N^2 h / (2 eta) where neither class runs out: here for a leaf near the mean."""
    n = np.array([rows // 2, rows - rows // 2])
    leaf = n, np.array([rows // 4, rows // 4])
    _, pairs = naive.choices_of_rows(*leaf, bits, ETA, 0.0)
    expected = 2.0**-bits * rows**2 * 0.25 / (2 * ETA)
    assert pairs[0] == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("rows", "depth", "bits"), [(200, 2, 6), (200, 3, 6), (614, 2, 8), (614, 3, 8), (614, 3, 10)])
def test_the_mean_of_choices_is_right_within_a_factor_of_six(rows, depth, bits):
    for seed in range(3):
        n, positives = grown_leaves(rows, depth, ETA, seed)
        found = math.log(naive.choices_of_rows(n, positives, bits, ETA, LAMBDA)[0])
        p = positives.sum() / rows
        told = log_choices(rows, len(n), bits, Parameters(eta=ETA, max_depth=depth), p, 1.0)
        assert abs(found - told) < math.log(6), (seed, len(n))


@pytest.mark.parametrize("eta", [0.3, 0.1])
@pytest.mark.parametrize("depth", [2, 3, 6])
@pytest.mark.parametrize("choices", [100, 1000])
def test_under_the_bits_of_the_rule_so_many_choices_fit_trees_that_xgboost_grows(eta, depth, choices):
    rows = 500
    for seed in range(2):
        n, positives = grown_leaves(rows, depth, eta, seed)
        given = Parameters(eta=eta, max_depth=depth)
        bits = leaf_bits_for(choices, rows, given, positives.sum() / rows, 1.0)
        assert enough_rows(choices, rows, given, positives.sum() / rows, 1.0)
        assert naive.choices_of_rows(n, positives, bits, eta, LAMBDA)[0] >= choices, (seed, bits)


def test_under_the_bits_of_the_rule_so_many_choices_fit_made_trees_of_eight_leaves():
    given = Parameters(eta=ETA, max_depth=3)
    for rows in (300, 614, 900):
        for seed in range(5):
            n, positives = made_leaves(rows, 8, seed)
            bits = leaf_bits_for(1000, rows, given, positives.sum() / rows, 1.0)
            assert naive.choices_of_rows(n, positives, bits, ETA, LAMBDA)[0] >= 1000, (rows, seed, bits)


def test_a_start_value_of_the_plan_hides_the_number_of_positives_and_leaves_more_choices():
    """One that is not the pooled mean: then nothing says what the positives add up to."""
    n, positives = made_leaves(300, 4, 1)
    known = naive.choices_of_rows(n, positives, 8, ETA, LAMBDA)[0]
    hidden = naive.choices_of_rows(n, positives, 8, ETA, LAMBDA, p=0.4)[0]
    assert hidden > 10 * known
    assert naive.choices_of_rows(*made_leaves(614, 8, 0), 14, ETA, LAMBDA, p=0.4)[0] == 1, (
        "fine leaves tell all the same"
    )


def test_two_leaves_tell_almost_all_whatever_the_rule():
    """So the rule means trees of four leaves or more; of two leaves 4 bits of 614 rows leave some hundred choices."""
    leaves = made_leaves(614, 2, 0)
    assert naive.choices_of_rows(*leaves, 10, ETA, LAMBDA)[0] <= 2
    assert naive.choices_of_rows(*leaves, 4, ETA, LAMBDA)[0] > 100


def test_small_leaves_beside_a_large_one_with_lambda_0_leave_fewer_than_the_rule_says():
    """A limit of the rule: it is a mean, with one bit to spare."""
    n, positives = grown_leaves(800, 2, ETA, 1, rare=-3, lambda_=0.0)
    assert n.max() > 30 * n.min()
    bits = leaf_bits_for(1000, 800, Parameters(eta=ETA, max_depth=2, lambda_=0.0), positives.sum() / 800, 1.0)
    assert 100 < naive.choices_of_rows(n, positives, bits, ETA, 0.0)[0] < 1000


@pytest.mark.parametrize("rare", [-3.0, 3.5])
def test_with_rare_labels_and_the_usual_lambda_so_many_fit(rare):
    for seed in range(2):
        n, positives = grown_leaves(800, 3, ETA, seed, rare=rare)
        given = Parameters(eta=ETA, max_depth=3)
        bits = leaf_bits_for(1000, 800, given, positives.sum() / 800, 1.0)
        assert naive.choices_of_rows(n, positives, bits, ETA, LAMBDA)[0] >= 1000, seed


def test_more_rows_and_fewer_choices_leave_more_bits():
    def bits(rows: int = 614, choices: int = 1000, **given: float) -> int:
        return leaf_bits_for(choices, rows, Parameters(**given), 1 / 3, 1.0)

    assert bits(rows=200) < bits() < bits(rows=5000) < bits(rows=60_000)
    assert bits(choices=10**6) < bits(choices=10)
    assert bits(eta=0.1) > bits()
    assert bits(rows=10**9) == 24
    assert bits(rows=1) == math.ceil(math.log2(8 / 0.3)), "a step is never more than eta / 8"
    assert not enough_rows(1000, 100, Parameters(), 1 / 3, 1.0)
    assert enough_rows(1000, 614, Parameters(), 1 / 3, 1.0)
    assert bits(max_depth=1) >= 1
    assert bits(lambda_=0.0, min_child_weight=0.0) >= 1
