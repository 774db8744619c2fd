"""Real XGBoost as the oracle: on its path, margins and cuts, our kernels choose as float64 does."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.data.binning import bin_rows
from hansa.data.holdout import HoldOut, held_out
from hansa.data.quantiles import Cuts
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import HansaError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.roles.summed.statistics import bounds_of, count_magnitudes, label_units, start_of, sum_labels, sum_steps
from hansa.trees.ensemble import base_margin
from hansa.trees.growth import ABOVE_ALL
from hansa.trees.histogram import build_histograms, layout_of
from hansa.trees.losses import HIGHER_IS_BETTER, LOSSES, is_logistic, is_quantile, measures
from hansa.trees.metrics import best_round
from hansa.trees.objective import (
    gradient_bound,
    gradients,
    hessian_bound,
    pack,
    scales,
    sum_magnitudes,
    unit_exponent,
)
from hansa.trees.parameters import Parameters, parse_parameters
from hansa.trees.splitting import add_part, finish_nodes, leaf_weights, rule_of, scratch_cells
from hansa.trees.worker_pool import WorkerPool
from hansa.trees.xgboost_json import from_json

TWO_CLASSES = [name for name, loss in LOSSES.items() if loss.labels == "binary"]
ONE_OUTPUT = [name for name, loss in LOSSES.items() if loss.labels != "classes" and not is_quantile(name)]
OTHERS = [name for name in ONE_OUTPUT if name not in ("binary:logistic", "reg:squarederror")]
"""Objectives whose whole space of parameters is not gone through: what differs is the gradient alone."""

ARGMAX_SHARE = 0.995
MOST_REGRET = 1e-3
LEAF_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """Rows and what XGBoost made of them. features float32 (n_features, n_rows)."""

    features: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None
    parameters: Parameters
    booster: xgboost.Booster
    cuts: Cuts
    base_score: float


def made_rows(n_rows, n_features, objective, positives, seed):
    """A signal with interactions, steps and missing values; the share of positives as told."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_features, n_rows)).astype(np.float32)
    features[1] = rng.integers(0, 12, n_rows)
    features[2] = rng.gamma(0.5, size=n_rows)
    signal = features[0] * features[3] + np.sin(features[1]) + 1.5 * (features[2] > 0.7) + 0.5 * features[4]
    for feature in (3, 5, n_features - 1):
        features[feature, rng.random(n_rows) < 0.15] = np.nan
    noisy = signal + rng.logistic(size=n_rows)
    return features, labels_of(objective, noisy, positives)


def labels_of(objective, noisy, positives=0.5):
    """What the objective takes as labels, out of any numbers; float32."""
    if objective.startswith("binary:"):
        return (noisy > np.quantile(noisy, 1 - positives)).astype(np.float32)
    if LOSSES[objective].labels == "classes":
        return np.digitize(noisy, np.quantile(noisy, (0.4, 0.75))).astype(np.float32)
    if objective == "count:poisson":
        return np.floor(np.exp(0.5 * noisy)).astype(np.float32)
    if LOSSES[objective].labels == "not negative":
        return np.where(noisy > 0, np.exp(0.5 * noisy), 0).astype(np.float32)
    if LOSSES[objective].labels in ("positive", "above -1"):
        return np.exp(0.5 * noisy).astype(np.float32)
    return noisy.astype(np.float32)


def xgboost_names(parameters):
    return {
        "objective": parameters.objective,
        "eta": parameters.eta,
        "max_depth": parameters.max_depth,
        "lambda": parameters.lambda_,
        "alpha": parameters.alpha,
        "gamma": parameters.gamma,
        "min_child_weight": parameters.min_child_weight,
        "max_delta_step": parameters.max_delta_step,
        "max_bin": parameters.max_bin,
        **({"scale_pos_weight": parameters.scale_pos_weight} if is_logistic(parameters.objective) else {}),
        **({LOSSES[parameters.objective].shape: parameters.shape} if LOSSES[parameters.objective].shape else {}),
        **({"num_class": parameters.num_class} if parameters.num_class else {}),
        "tree_method": "hist",
        "nthread": 1,
    }


def of_classes(objective):
    """What the objective needs beside its name."""
    if objective == "reg:quantileerror":
        return {"quantile_alpha": 0.3}
    return {"num_class": 3} if LOSSES[objective].labels == "classes" else {}


def estimated_base_score(booster):
    text = json.loads(booster.save_config())["learner"]["learner_model_param"]["base_score"]
    return float(text.strip("[]"))


def trained(n_rows, n_features, rounds, positives=0.5, weighted=False, seed=0, **given):
    """Rows, XGBoost's model of them and its cuts."""
    parameters = parse_parameters({"rounds": rounds, "eta": 0.2} | given)
    features, labels = made_rows(n_rows, n_features, parameters.objective, positives, seed)
    weights = np.random.default_rng(seed).gamma(2, size=n_rows).astype(np.float32) if weighted else None
    matrix = xgboost.QuantileDMatrix(
        np.ascontiguousarray(features.T), labels, weight=weights, max_bin=parameters.max_bin
    )
    booster = xgboost.train(xgboost_names(parameters), matrix, rounds)
    begins, values = matrix.get_quantile_cut()
    begins = begins.astype(np.int64)  # floats, from XGBoost 3.0
    inner = [values[begin : end - 1] for begin, end in pairwise(begins)]
    cuts = Cuts.from_arrays(inner, np.isnan(features).any(axis=1))
    return Case(features, labels, weights, parameters, booster, cuts, estimated_base_score(booster))


def rows_by_node(tree, features):
    """Row numbers of every node of one of XGBoost's trees, by its own rule on the raw values."""
    rows = {0: np.arange(features.shape[1], dtype=np.uint32)}
    for node, left in enumerate(tree.left_children):
        if left < 0:
            continue
        values = features[tree.split_indices[node], rows[node]]
        goes_left = np.where(np.isnan(values), tree.default_left[node] == 1, values < tree.split_conditions[node])
        rows[int(left)] = rows[node][goes_left]
        rows[int(tree.right_children[node])] = rows[node][~goes_left]
    return rows


def float_gains(codes, cuts, rows, g, h, parameters):
    """float64 gains (n_features, 2, most bins) of every candidate, -inf where there is none."""
    most = int(cuts.n_codes.max())
    gains = np.full((cuts.n_features, 2, most), -np.inf)
    node_g, node_h = g[rows], h[rows]
    total_g, total_h = node_g.sum(), node_h.sum()

    def score(a, b):
        if parameters.max_delta_step:
            thresholded = np.sign(a) * np.maximum(np.abs(a) - parameters.alpha, 0)
            w = np.clip(-thresholded / (b + parameters.lambda_), -parameters.max_delta_step, parameters.max_delta_step)
            return -(2 * a * w + (b + parameters.lambda_) * w * w)
        return np.maximum(np.abs(a) - parameters.alpha, 0) ** 2 / (b + parameters.lambda_)

    for feature in range(cuts.n_features):
        bins = int(cuts.n_codes[feature] - cuts.has_missing[feature])
        of_node = codes[feature, rows]
        sum_g = np.bincount(of_node, node_g, minlength=bins + 1)
        sum_h = np.bincount(of_node, node_h, minlength=bins + 1)
        for side in (0, 1) if cuts.has_missing[feature] and sum_h[bins] > 0 else (0,):
            left_g = np.cumsum(sum_g[:bins]) + side * sum_g[bins]
            left_h = np.cumsum(sum_h[:bins]) + side * sum_h[bins]
            right_g, right_h = total_g - left_g, total_h - left_h
            # To rounding: a side that weighs exactly min_child_weight is allowed either way.
            least = max(parameters.min_child_weight * (1 - 1e-7), 1e-12)
            allowed = (left_h >= least) & (right_h >= least)
            with np.errstate(divide="ignore", invalid="ignore"):
                both = score(left_g, left_h) + score(right_g, right_h)
            gains[feature, side, :bins] = np.where(allowed, both, -np.inf)
    return gains - score(total_g, total_h)


class Follower:
    """Our kernels on the rows of XGBoost's nodes, one tree after another."""

    def __init__(self, case: Case) -> None:
        self.case = case
        binned = bin_rows(case.features, case.cuts)
        self.codes, self.by_feature = binned.codes, binned.codes_by_feature
        self.layout = layout_of(binned.offsets, np.arange(case.cuts.n_features, dtype=np.uint32))
        self.scratch = np.empty((1, self.layout.scratch), np.int64)

    def start_tree(self, margins):
        case, n = self.case, len(margins)
        p = case.parameters
        g, h = np.empty((2, n))
        gradients(p.objective, margins, case.labels, case.weights, p.scale_pos_weight, g, h, p.shape)
        bounds = bounds_of(count_magnitudes(case.labels, case.weights), case.weights is not None)
        heaviest = bounds.weight * max(1.0, p.scale_pos_weight)
        bound_g = gradient_bound(
            p.objective, heaviest, bounds.label, float(np.abs(margins).max()), float(margins.max()), shape=p.shape
        )
        bound_h = hessian_bound(p.objective, heaviest, bound_g, p.shape)
        rows = np.arange(n, dtype=np.uint32)
        self.scales = scales(
            sum_magnitudes(g, rows, bound_g, n),
            sum_magnitudes(h, rows, bound_h, n),
            unit_exponent(bound_g, n),
            unit_exponent(bound_h, n),
            n,
            64 if p.histogram_bits == 64 else 32,
            p.objective == "binary:hinge",
        )
        self.packed = np.empty((self.scales.planes, n), np.int64)
        pack(g, h, self.scales, self.packed)
        rule = rule_of(p, self.scales)
        self.rule = np.array(
            [
                rule.lambda_,
                rule.alpha,
                rule.max_delta_step,
                rule.least_hessian,
                rule.gradient_unit,
                rule.hessian_unit,
            ]
        )

    def node(self, rows):
        """(gain, feature, bin, missing left, value): our split of a node, and its value were it a leaf."""
        layout = self.layout
        cells = np.empty((1, self.scales.planes, layout.cells), np.int64)
        begin, nobody = np.zeros(1, np.int64), np.zeros(0, np.int64)
        build_histograms(
            self.codes,
            layout.columns,
            layout.offsets,
            layout.stride,
            rows.astype(np.uint16),
            begin[None],
            np.array([[len(rows)]]),
            self.packed,
            self.scratch,
            cells,
        )
        totals, gains, found = np.zeros((1, 2), np.int64), np.zeros(1), np.zeros((1, 5), np.int64)
        sums = np.empty_like(cells)
        add_part(cells, 0, np.zeros(1, np.int64), 1, sums, begin, layout.offsets)
        finish_nodes(
            0, 1, sums, begin, cells[:0], nobody, layout.columns, layout.offsets, self.case.cuts.has_missing, totals,
            self.rule, np.empty((1, scratch_cells(layout))), gains, found, pool=WorkerPool(1),
        )  # fmt: skip
        value = np.empty(1, np.float32)
        leaf_weights(totals, self.rule, np.zeros((0, 2)), value)
        feature, bin_, side = found[0, :3].tolist()
        return gains[0], feature, bin_, side, value[0] * np.float32(self.case.parameters.eta)


@dataclass
class Verdict:
    """How our splits compare with float64's and XGBoost's."""

    splits: int = 0
    argmax: int = 0
    regret: float = 0.0
    leaf_error: float = 0.0
    leaves: int = 0
    other_leaves: int = 0
    same_as_xgboost: int = 0

    def check(self) -> None:
        assert self.splits > 0
        assert self.argmax >= ARGMAX_SHARE * self.splits, self
        assert self.regret <= MOST_REGRET, self
        assert self.leaf_error <= LEAF_TOLERANCE, self
        assert self.other_leaves <= 0.002 * self.leaves, self


def follow(case: Case) -> Verdict:
    """Compare at every node of every tree of XGBoost's model."""
    parameters, abort_reason = case.parameters, Verdict()
    follower = Follower(case)
    ensemble = from_json(case.booster.save_raw("json"))
    matrix = xgboost.DMatrix(np.ascontiguousarray(case.features.T))
    start = base_margin(parameters.objective, case.base_score)
    for number, tree in enumerate(ensemble.trees):
        margins = np.full(len(case.labels), start, np.float32)
        if number:
            margins = case.booster.predict(matrix, output_margin=True, iteration_range=(0, number))
        follower.start_tree(margins)
        g, h = naive.gradients(
            parameters.objective, margins, case.labels, case.weights, parameters.scale_pos_weight, parameters.shape
        )
        depth = {0: 0}
        for node, rows in rows_by_node(tree, case.features).items():
            gain, feature, bin_, side, value = follower.node(rows)
            left = int(tree.left_children[node])
            if left >= 0:
                depth[left] = depth[int(tree.right_children[node])] = depth[node] + 1
                gains = float_gains(follower.by_feature, case.cuts, rows, g, h, parameters)
                compare_split(abort_reason, gains, (feature, side, bin_))
                chosen = int(np.searchsorted(case.cuts.of(feature), tree.split_conditions[node]))
                abort_reason.same_as_xgboost += (feature, bin_) == (int(tree.split_indices[node]), chosen)
                continue
            abort_reason.leaves += 1
            error = abs(float(value) - float(tree.split_conditions[node])) / max(1.0, abs(float(value)))
            abort_reason.leaf_error = max(abort_reason.leaf_error, error)
            if depth[node] < parameters.max_depth:
                # XGBoost rounds gains to float32: a hair above its threshold may be a hair below.
                abort_reason.other_leaves += bool(gain > 1.001 * max(parameters.gamma, 1e-6) + 1e-3)
    return abort_reason


def compare_split(abort_reason, gains, ours):
    """Count one split: `ours` is (feature, missing left, bin), -1 where we would not split."""
    abort_reason.splits += 1
    best = gains.max()
    mine = gains[ours] if ours[0] >= 0 else 0.0
    abort_reason.argmax += bool(mine >= best * (1 - 1e-12))
    abort_reason.regret = max(abort_reason.regret, float((best - mine) / best))


SIZES = {
    "small": pytest.param(6000, 8, 6, id="6k rows"),
    "large": pytest.param(30_000, 12, 25, id="30k rows"),
}
sizes = pytest.mark.parametrize(("n_rows", "n_features", "rounds"), SIZES.values())


@sizes
@pytest.mark.parametrize("positives", [0.5, 0.01, 0.002])
def test_splits_of_a_classifier_are_the_float64_argmax(n_rows, n_features, rounds, positives):
    abort_reason = follow(trained(n_rows, n_features, rounds, positives))
    abort_reason.check()
    assert abort_reason.splits > 10 * rounds or positives < 0.5


@sizes
def test_splits_of_a_regression_are_the_float64_argmax(n_rows, n_features, rounds):
    abort_reason = follow(trained(n_rows, n_features, rounds, objective="reg:squarederror"))
    abort_reason.check()
    assert abort_reason.splits > 30 * rounds


@pytest.mark.parametrize("objective", OTHERS)
@pytest.mark.parametrize("weighted", [False, True])
def test_splits_of_other_objectives_are_the_float64_argmax(objective, weighted):
    abort_reason = follow(trained(6000, 8, 8, 0.2, weighted, objective=objective))
    abort_reason.check()
    assert abort_reason.splits > 80


VARIANTS = {
    "alpha": {"alpha": 3.0},
    "max_delta_step": {"max_delta_step": 0.5},
    "gamma": {"gamma": 2.0},
    "heavy children": {"min_child_weight": 20.0},
    "lambda 0": {"lambda": 0.0},
    "light children": {"min_child_weight": 0.0},
    "weights": {"weighted": True},
    "positives count more": {"scale_pos_weight": 9.0, "positives": 0.1},
    "all": {"alpha": 1.0, "max_delta_step": 0.3, "gamma": 0.5, "min_child_weight": 5.0, "lambda": 0.5},
    "few bins": {"max_bin": 16},
    "two bins": {"max_bin": 2},
    "three bins": {"max_bin": 3},
    "all bytes": {"max_bin": 256},
    "wide sums": {"histogram_bits": 64},
}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_splits_are_the_float64_argmax_under_every_parameter(name, objective):
    if not is_logistic(objective) and name == "positives count more":
        pytest.skip("no such weight of positives")
    abort_reason = follow(trained(3000, 8, 4, objective=objective, **VARIANTS[name]))
    abort_reason.check()


def few_valued(n_rows, objective, seed=1, values=25):
    """Features with few values, some missing: every cut that separates two of them parts the same rows."""
    rng = np.random.default_rng(seed)
    features = rng.integers(0, values, (5, n_rows)).astype(np.float32)
    features[4, rng.random(n_rows) < 0.3] = np.nan
    signal = np.sin(features[0]) + 5 / values * features[1] * (features[2] > (values - 3) / 2) - np.isnan(features[4])
    noisy = signal + rng.logistic(size=n_rows)
    labels = noisy > 1.5 if objective in TWO_CLASSES else labels_of(objective, noisy)
    return features, labels.astype(np.float32)


def ours(features, labels, weights, parameters, evaluation=0.0):
    names = tuple(f"f{i}" for i in range(len(features)))
    plan = Plan(
        name="oracle",
        mode="federated",
        aggregator="hub",
        parties=("a", "b"),
        receivers=("a", "b"),
        minimum_parties=2,
        schema=Schema(names, "y", None if weights is None else "w"),
        parameters=parameters,
        min_cell_rows=2,
        evaluation_fraction=evaluation,
    )
    tables = {
        party: Rows(
            np.ascontiguousarray(features[:, half::2]),
            labels[half::2],
            None if weights is None else weights[half::2],
        )
        for half, party in enumerate(plan.parties)
    }
    return train_in_process(plan, tables).outcome


def both_models(objective, weighted=False, values=25, **given):
    parameters = parse_parameters(
        {"rounds": 6, "eta": 0.3, "max_depth": 3, "objective": objective} | of_classes(objective) | given
    )
    features, labels = few_valued(3000, objective, values=values)
    weights = np.random.default_rng(2).gamma(2, size=3000).astype(np.float32) if weighted else None
    matrix = xgboost.DMatrix(np.ascontiguousarray(features.T), labels, weight=weights)
    booster = xgboost.train(xgboost_names(parameters), matrix, parameters.rounds)
    return ours(features, labels, weights, parameters), booster, features, matrix


WHOLE = {
    name: given for name, given in VARIANTS.items() if name != "positives count more" and "max_bin" not in given
} | {"positives count more": {"scale_pos_weight": 4.0}}


@pytest.mark.parametrize("name", ["plain", *WHOLE])
@pytest.mark.parametrize("objective", [name for name in LOSSES if not is_quantile(name)])
def test_whole_models_agree_with_xgboosts(name, objective):
    """Without luck: gains here are well apart, so that trees coincide and only rounding is left."""
    if not is_logistic(objective) and name == "positives count more":
        pytest.skip("no such weight of positives")
    same_model(objective, **WHOLE.get(name, {}))


@pytest.mark.parametrize("values", [2, 3, 4, 256])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_as_many_values_as_bins_and_missing_ones_are_xgboosts_model(objective, values):
    """Missing values take none of the bins: with `max_bin` values and missing ones both learners see every value."""
    same_model(objective, values=values, max_bin=values)


def same_model(objective, **given):
    outcome, booster, features, matrix = both_models(objective, **given)
    theirs = from_json(booster.save_raw("json")).with_one_base_score()
    assert len(theirs.trees) == len(outcome.ensemble.trees)
    for mine, other in zip(outcome.ensemble.trees, theirs.trees, strict=True):
        assert mine.num_nodes == other.num_nodes
        assert np.array_equal(mine.left_children, other.left_children)
        assert np.array_equal(mine.split_indices, other.split_indices)
        np.testing.assert_allclose(mine.sum_hessian, other.sum_hessian, rtol=1e-4)
        np.testing.assert_allclose(mine.loss_changes, other.loss_changes, rtol=2e-3, atol=1e-2)
        if mine.num_nodes > 1:  # XGBoost's root has its weight without eta, even where it is a leaf
            np.testing.assert_allclose(mine.base_weights, other.base_weights, rtol=1e-4, atol=1e-5)
        # Above all values stands what parts present ones from missing ones: any number does.
        endless = mine.split_conditions == ABOVE_ALL
        assert (other.split_conditions[endless] > np.nanmax(features)).all()
        conditions = np.where(endless, other.split_conditions, mine.split_conditions)
        np.testing.assert_allclose(conditions, other.split_conditions, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        outcome.ensemble.predict_margin(features), booster.predict(matrix, output_margin=True), atol=2e-5
    )


@pytest.mark.parametrize("max_bin", [4, 16, 64])
def test_cuts_share_weight_as_xgboosts_do(max_bin):
    """Most of the weight is in a hundredth of a feature's range, where labels turn often: cuts by rows would all miss it."""
    rng = np.random.default_rng(0)
    features = rng.random((2, 6000)).astype(np.float32)
    weights = np.where(features[0] < 0.03, 100, 0.1).astype(np.float32)
    signal = np.sin(400 * features[0]) + features[1] + 0.3 * rng.normal(size=6000)
    labels = (signal > 0.5).astype(np.float32)
    parameters = parse_parameters({"rounds": 30, "max_depth": 4, "max_bin": max_bin})
    matrix = xgboost.QuantileDMatrix(features.T, labels, weight=weights, max_bin=max_bin)
    theirs = xgboost.train(xgboost_names(parameters), matrix, 30).predict(matrix)
    mine = ours(features, labels, weights, parameters).ensemble.predict(features)
    losses = [
        np.average(-np.log(np.where(labels == 1, p, 1 - p.astype(np.float64))), weights=weights) for p in (mine, theirs)
    ]
    unweighted = xgboost.QuantileDMatrix(features.T, labels, max_bin=max_bin)
    unweighted.set_weight(weights)
    by_rows = xgboost.train(xgboost_names(parameters), unweighted, 30).predict(unweighted)
    loss_by_rows = np.average(-np.log(np.where(labels == 1, by_rows, 1 - by_rows.astype(np.float64))), weights=weights)
    assert losses[0] <= losses[1] + 0.05 * (loss_by_rows - losses[1])


EXTREMES = [1e-37, 1e-20, 1e-9, 1e-4, 1e4, 1e6, 1e9, 1e11, 1e15, 1e20, 1e30, 3e38]
UNBOUNDED = ("min_child_weight", "lambda", "alpha", "gamma", "max_delta_step")


def in_xgboosts_words(parameters):
    named = xgboost_names(parameters)
    return named if parameters.base_score is None else named | {"base_score": parameters.base_score}


@pytest.mark.parametrize("name", [*UNBOUNDED, "eta", "scale_pos_weight", "base_score"])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_extreme_parameters_give_xgboosts_model(objective, name):
    """Over all of float32's range, wherever both learners take the value."""
    features, labels = few_valued(600, objective)
    matrix = xgboost.DMatrix(np.ascontiguousarray(features.T), labels)
    values = EXTREMES if name in UNBOUNDED else [value for value in EXTREMES if value <= 1e6]
    if name == "base_score":
        values = [1e-6, 1e-4, 1 - 1e-4, 1 - 1e-6] if objective == "binary:logistic" else [-1e30, -1e9, *EXTREMES]
    if name == "eta":
        values = [value for value in EXTREMES if value <= 1]
    if name == "scale_pos_weight" and objective == "reg:squarederror":
        values = []
    for value in values:
        parameters = parse_parameters({"rounds": 4, "max_depth": 3, "objective": objective, name: value})
        mine = ours(features, labels, None, parameters).ensemble.predict_margin(features)
        booster = xgboost.train(in_xgboosts_words(parameters), matrix, 4)
        theirs = booster.predict(matrix, output_margin=True)
        tolerance = max(1e-3 * np.ptp(theirs), 1e-6 * np.abs(theirs).max())
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=tolerance, err_msg=f"{name} = {value}")


magnitudes = st.one_of(st.just(0.0), st.floats(-37, 38.4).map(lambda exponent: 10.0**exponent))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(sorted(LOSSES)),
    st.dictionaries(st.sampled_from(UNBOUNDED), magnitudes, max_size=3),
    st.floats(1e-37, 1),
    st.one_of(st.none(), magnitudes),
    st.one_of(st.just(1.0), magnitudes),
    st.sampled_from([32, 64]),
    magnitudes,
)
def test_any_numbers_give_a_finite_model_or_a_refusal(objective, parameters, eta, weight, label, histogram_bits, slope):
    features, labels = few_valued(200, objective)
    if LOSSES[objective].labels not in ("binary", "classes"):
        labels = np.minimum(labels * np.float64(label), 3e38).astype(np.float32)
    weights = None
    if weight is not None:
        weights = np.random.default_rng(2).gamma(2, size=200) * weight
        weights = np.minimum(weights, 3e38).astype(np.float32)
    given = {"rounds": 3, "max_depth": 3, "objective": objective, "eta": eta, "histogram_bits": histogram_bits}
    given |= of_classes(objective)
    if objective == "reg:pseudohubererror" and slope:
        given["huber_slope"] = slope
    try:
        outcome = ours(features, labels, weights, parse_parameters(given | parameters))
    except HansaError as error:
        refusal = str(error)
    else:
        refusal = None
    if refusal is not None:
        assert re.search("at every party|nothing to learn|both classes|a smaller number|a label above 0", refusal), (
            refusal
        )
        return
    assert np.isfinite(outcome.ensemble.predict_margin(features)).all()
    assert from_json(outcome.model) == outcome.ensemble


@pytest.mark.parametrize("objective", LOSSES)
@pytest.mark.parametrize("histogram_bits", [32, 64])
def test_xgboost_loads_our_model_and_predicts_the_same(objective, histogram_bits):
    features, labels = made_rows(3000, 6, objective, 0.3, seed=4)
    outcome = ours(
        features,
        labels,
        None,
        parse_parameters(
            {"rounds": 12, "objective": objective, "histogram_bits": histogram_bits} | of_classes(objective)
        ),
    )
    booster = xgboost.Booster()
    booster.load_model(bytearray(outcome.model))
    unseen, _ = made_rows(2000, 6, objective, 0.3, seed=5)
    unseen[:, :50] = np.nan
    names = list(outcome.ensemble.feature_names)
    theirs = booster.predict(xgboost.DMatrix(np.ascontiguousarray(unseen.T), feature_names=names))
    assert np.isnan(unseen).any(axis=1).all()
    np.testing.assert_allclose(outcome.ensemble.predict(unseen), theirs, atol=1e-6, rtol=1e-6)
    assert from_json(outcome.model) == outcome.ensemble
    assert from_json(booster.save_raw("json")).trees == outcome.ensemble.trees


@pytest.mark.parametrize("objective", ONE_OUTPUT)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale_pos_weight", [1.0, 4.0])
def test_the_start_is_the_one_that_xgboost_estimates(objective, weighted, scale_pos_weight):
    if not is_logistic(objective) and scale_pos_weight != 1:
        pytest.skip("no such weight of positives")
    case = trained(2000, 6, 1, 0.3, weighted=weighted, objective=objective, scale_pos_weight=scale_pos_weight)
    bounds = bounds_of(count_magnitudes(case.labels, case.weights), weighted)
    units = label_units(bounds, 2000)
    plan = Plan(
        name="start",
        mode="federated",
        aggregator="hub",
        parties=("a",),
        receivers=("a",),
        minimum_parties=1,
        schema=Schema(("x",), "y", "w" if weighted else None),
        parameters=case.parameters,
    )
    given = (case.labels, case.weights, *units)
    start = start_of(plan, np.concatenate([sum_labels(*given), sum_steps(case.parameters, *given)]), *units)
    assert start.base_scores == (pytest.approx(case.base_score, rel=1e-6),)
    assert start.scale_pos_weight == scale_pos_weight
    weights = np.ones(2000) if case.weights is None else case.weights.astype(np.float64)
    positive = case.labels == 1 if objective in TWO_CLASSES else np.zeros(2000)
    whole = float((weights * (1 + (scale_pos_weight - 1) * positive)).sum())
    assert whole <= start.weight <= whole * (1 + 1e-9)


def measured_rows(objective):
    """Rows, and every metric that can be computed of the objective's."""
    features, labels = made_rows(900, 6, objective, 0.4, seed=6)
    if objective in ("count:poisson", "reg:tweedie"):
        labels = np.where(labels == 0, np.float32(0.5), labels)  # mape has no value where a label is 0
    numbered = [name for name in ("error@0.35", "tweedie-nloglik@1.7") if measures(name, objective)]
    return features, labels, [*LOSSES[objective].metrics, *numbered]


@pytest.mark.parametrize("objective", [name for name in LOSSES if name != "binary:logitraw"])
def test_metrics_of_a_run_are_those_that_xgboost_finds_of_its_model(objective):
    features, labels, names = measured_rows(objective)
    held = held_out(features, labels, HoldOut(0.3, 0))
    given = {"objective": objective, "rounds": 4, "max_depth": 3, "eta": 0.5, "eval_metric": names} | of_classes(
        objective
    )
    slope = {"huber_slope": 1.5} if "mphe" in names else {}
    outcome = ours(features, labels, None, parse_parameters(given | slope), 0.3)
    booster = xgboost.Booster()
    booster.load_model(bytearray(outcome.model))
    features = np.ascontiguousarray(features.T[held])
    matrix = xgboost.DMatrix(features, labels[held], feature_names=list(outcome.ensemble.feature_names))
    for name in names:
        for trees in range(1, 5):
            part = booster[:trees]
            part.set_param(
                {"objective": objective, "eval_metric": name}
                | of_classes(objective)
                | (slope if name == "mphe" else {})
            )
            theirs = float(part.eval(matrix).rsplit(f"{name}:", 1)[1].split("\t")[0])
            mine = outcome.history[name][trees - 1]
            if mine is None:
                assert outcome.without_value[name]
                assert not np.isfinite(theirs)
            else:
                loose = 5e-3 if name in ("auc", "aucpr") else 1e-5
                assert mine == pytest.approx(theirs, abs=loose, rel=loose), (name, trees)


@pytest.mark.parametrize("objective", [name for name in LOSSES if name != "binary:logitraw"])
def test_any_metric_stops_the_training_where_it_is_the_last(objective):
    features, labels, names = measured_rows(objective)
    given = {"objective": objective, "rounds": 6, "max_depth": 2, "eta": 1.0, "early_stopping_rounds": 1}
    given |= of_classes(objective)
    stopped = 0
    for name in names:
        outcome = ours(features, labels, None, parse_parameters(given | {"eval_metric": name}), 0.3)
        values = outcome.history[name]
        kept = best_round(name in HIGHER_IS_BETTER, values)
        grown = outcome.trees_grown // outcome.ensemble.trees_per_round
        assert outcome.ensemble.rounds == (kept or 6)
        assert grown == (6 if kept is None else min(kept + 1, 6))
        stopped += grown < 6
    assert stopped


def test_counts_go_on_learning_where_leaves_are_large():
    """Large leaves of many trees, added up, bound margins far too widely: the sum of hessians bounds them better."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 3000)).astype(np.float32)
    labels = rng.poisson(np.exp(0.5 * features[0] + 0.4 * np.sin(features[1]) - 0.5)).astype(np.float32)
    parameters = parse_parameters({"objective": "count:poisson", "rounds": 70, "eta": 1.0, "max_delta_step": 0})
    ensemble = ours(features, labels, None, parameters).ensemble
    matrix = xgboost.DMatrix(np.ascontiguousarray(features.T), labels)
    booster = xgboost.train(xgboost_names(parameters), matrix, parameters.rounds)
    assert all(tree.num_nodes > 20 for tree in ensemble.trees)
    losses = [
        float(np.mean(np.exp(margins) - labels * margins))
        for margins in (
            ensemble.predict_margin(features).astype(np.float64),
            booster.predict(matrix, output_margin=True).astype(np.float64),
        )
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
