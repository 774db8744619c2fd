"""Pooled metrics are XGBoost's within the stated resolution, and never depend on how rows are spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xgboost
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss, mean_absolute_error, roc_auc_score

import naive_model as naive
from hansa.errors import DataError, PlanError
from hansa.trees.losses import HIGHER_IS_BETTER, LOSSES, is_softmax
from hansa.trees.metrics import (
    CLASSIFICATION_METRICS,
    LOGLOSS_LIMIT,
    NO_LOGARITHM,
    NO_SHARE,
    NO_WEIGHT,
    ONE_LABEL,
    SCORE_BUCKETS,
    MetricScale,
    best_round,
    check_metric,
    is_improvement,
    log_gamma,
    mean_value,
    metric_sums,
    metric_value,
    stops_early,
    sums_length,
    value_sums,
    why_no_value,
)
from hansa.trees.parameters import DEFAULT_METRIC
from metric_resolution import auc_resolution, aucpr_resolution, metric_resolution

LOGISTIC, SQUARED = "binary:logistic", "reg:squarederror"
COUNTS = "count:poisson"
MEASURED = [name for name in LOSSES if name != "binary:logitraw"]
EXAMPLES = {"error": ("error@0.3", "error@0.75"), "tweedie-nloglik": ("tweedie-nloglik@1.2", "tweedie-nloglik@1.85")}
PAIRS = [
    (name, objective)
    for objective in MEASURED
    for name in (*LOSSES[objective].metrics, *(name for kind in LOSSES[objective].numbered for name in EXAMPLES[kind]))
]
CLASSES = 4
SLOPE = 2.5
"""huber_slope of mphe."""

QUANTILES = (naive.ALPHA,)
"""quantile_alpha of the metric quantile."""


def rows(objective, n_rows=4000, seed=0, positives=0.3, weighted=True, spread=1.5):
    """(margins, labels, weights): float32, scores that tell something of the labels."""
    rng = np.random.default_rng(seed)
    if objective.startswith("binary:"):
        labels = (rng.random(n_rows) < positives).astype(np.float32)
        margins = spread * rng.normal(size=n_rows) + 2 * labels - 2
    elif objective in ("reg:gamma", "reg:tweedie"):
        labels = rng.gamma(1.5, 2, n_rows).astype(np.float32)
        if objective == "reg:tweedie":
            labels[rng.random(n_rows) < 0.3] = 0
        margins = 1 + rng.normal(size=n_rows)
    elif objective == "reg:squaredlogerror":
        labels = (rng.gamma(1.5, 2, n_rows) - 0.9).astype(np.float32)
        margins = rng.gamma(1.5, 2, n_rows) - 0.9
    elif objective == COUNTS:
        labels = rng.poisson(3, n_rows).astype(np.float32)
        labels[::50] *= np.float32(10.3)
        margins = rng.normal(size=n_rows)
    elif LOSSES[objective].labels == "classes":
        labels = rng.integers(0, CLASSES, n_rows).astype(np.float32)
        margins = spread * rng.normal(size=(CLASSES, n_rows)) + 2 * (labels == np.arange(CLASSES)[:, None])
    else:
        labels = (10 * rng.normal(size=n_rows)).astype(np.float32)
        margins = labels + 3 * rng.normal(size=n_rows)
    weights = rng.uniform(0, 3, n_rows).astype(np.float32) if weighted else None
    return margins.astype(np.float32), labels, weights


def rows_for(name, objective, *given, **named):
    """As `rows`; without label 0 where no error of it is a share."""
    margins, labels, weights = rows(objective, *given, **named)
    return margins, np.where(labels == 0, np.float32(1), labels) if name == "mape" else labels, weights


def scale_for(n_rows, objective):
    exponent = 0 if objective.startswith("binary:") else 7
    return MetricScale(n_rows, weight_exponent=2, label_exponent=exponent, slope=SLOPE, quantiles=QUANTILES)


def xgboosts(name, objective, margins, labels, weights):
    """The metric as real XGBoost evaluates it on given margins."""
    if name in HIGHER_IS_BETTER and objective != "binary:hinge":
        # Ranks of the margins themselves: float32 sigmoids of large margins would fall together.
        objective = SQUARED
    matrix = xgboost.DMatrix(np.zeros((len(labels), 1)), labels, weight=weights, base_margin=margins.T, nthread=1)
    parameters = {"objective": objective, "eval_metric": name, "eta": 0, "nthread": 1} | (
        {"huber_slope": SLOPE} if name == "mphe" else {"num_class": CLASSES} if is_softmax(objective) else {}
    )
    parameters |= {"quantile_alpha": QUANTILES[0]} if objective == "reg:quantileerror" else {}
    result = {}
    xgboost.train(parameters, matrix, 1, evals=[(matrix, "rows")], evals_result=result, verbose_eval=False)
    return result["rows"][name][0]


def ours(name, objective, margins, labels, weights, scale=None):
    """(value, resolution)"""
    scale = scale or scale_for(len(labels), objective)
    summed = metric_sums(name, objective, margins, labels, weights, scale)
    return metric_value(name, objective, summed, scale), metric_resolution(name, objective, summed, scale)


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("positives", [0.5, 0.01])
def test_value_is_xgboosts_within_the_resolution(name, objective, weighted, positives):
    sample = rows_for(name, objective, positives=positives, weighted=weighted)
    value, resolution = ours(name, objective, *sample)
    expected = xgboosts(name, objective, *sample)
    # XGBoost itself works on float32 predictions: 1e-7 of a prediction, hence 2e-7 relative here; and in float32, where parts of a
    # row's value cancel.
    float32 = 5e-7 if name in ("gamma-nloglik", "gamma-deviance", "mphe", "rmsle") or "@" in name else 0
    assert abs(value - expected) <= resolution + 2e-7 * abs(expected) + float32
    if objective == "binary:hinge" and name in HIGHER_IS_BETTER:  # predictions of 0 and 1 are ties
        assert abs(value - expected) <= 1e-6
    else:
        assert resolution < (2e-3 if name in HIGHER_IS_BETTER else 1e-6 if "@" in name or name == "mape" else 1e-9)


@pytest.mark.parametrize("name", HIGHER_IS_BETTER)
@pytest.mark.parametrize("spread", [0.001, 0.02, 0.3, 20.0])
def test_resolution_holds_where_buckets_are_coarse_or_scores_lie_beyond(name, spread):
    sample = rows(LOGISTIC, spread=spread, n_rows=1000)
    sample = (sample[0] - sample[1] * 2 + sample[1] * np.float32(spread / 2), *sample[1:])
    value, resolution = ours(name, LOGISTIC, *sample)
    expected = xgboosts(name, LOGISTIC, *sample)
    assert abs(value - expected) <= resolution + 1e-6
    if name == "auc":
        exact = roc_auc_score(sample[1], sample[0], sample_weight=sample[2])
        assert abs(value - exact) <= resolution + 1e-12


def test_resolution_is_zero_without_mixed_buckets_and_large_in_one_bucket():
    margins = np.array([-3, -1, -1, 1, 2], np.float32)
    scale = MetricScale(5)
    for name, resolution in (("auc", auc_resolution), ("aucpr", aucpr_resolution)):
        split = metric_sums(name, LOGISTIC, margins, np.array([0, 0, 0, 1, 1], np.float32), None, scale)
        assert metric_value(name, LOGISTIC, split, scale) == 1.0
        assert resolution(split) == 0.0
        one = metric_sums(name, LOGISTIC, np.zeros(5, np.float32), np.array([0, 0, 0, 1, 1], np.float32), None, scale)
        assert metric_value(name, LOGISTIC, one, scale) == pytest.approx({"auc": 0.5, "aucpr": 0.4}[name])
        assert resolution(one) >= 0.5
        # Scores within a bucket in the best order: the exact value is 1, and the bound covers it.
        assert metric_value(name, LOGISTIC, one, scale) + resolution(one) >= 1 - 1e-12


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_auc_resolution_covers_any_order_inside_buckets(data):
    n_rows = data.draw(st.integers(4, 40))
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    # A few buckets, each with scores inside it in random order.
    margins = (rng.integers(0, 4, n_rows) / 256 + rng.random(n_rows) / 257).astype(np.float32)
    labels = (rng.random(n_rows) < 0.5).astype(np.float32)
    labels[:2] = [0, 1]
    weights = rng.uniform(0.1, 2, n_rows).astype(np.float32)
    value, resolution = ours("auc", LOGISTIC, margins, labels, weights)
    assert abs(value - naive.auc(margins, labels, weights.astype(np.float64))) <= resolution + 1e-12
    value, resolution = ours("aucpr", LOGISTIC, margins, labels, weights)
    assert abs(value - xgboosts("aucpr", LOGISTIC, margins, labels, weights)) <= resolution + 1e-6


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_sums_do_not_depend_on_how_rows_are_spread(name, objective, data):
    margins, labels, weights = rows_for(name, objective, 300, data.draw(st.integers(0, 999)))
    scale = scale_for(300, objective)
    order = np.random.default_rng(data.draw(st.integers(0, 999))).permutation(300)
    cuts = sorted(data.draw(st.lists(st.integers(0, 300), max_size=5)))
    parties = np.split(order, cuts)
    summed = sum(
        metric_sums(name, objective, margins[..., party], labels[party], weights[party], scale) for party in parties
    )
    pooled = metric_sums(name, objective, margins, labels, weights, scale)
    assert summed.dtype == np.int64
    assert summed.shape == (sums_length(name),)
    np.testing.assert_array_equal(summed, pooled)


@pytest.mark.parametrize(("name", "objective"), [pair for pair in PAIRS if pair[0] not in HIGHER_IS_BETTER])
def test_sums_are_the_naive_ones_in_fixed_point(name, objective):
    margins, labels, weights = rows_for(name, objective, 500)
    scale = scale_for(500, objective)
    total, weight, *failed = metric_sums(name, objective, margins, labels, weights, scale)
    assert failed in ([], [0])
    values = naive.metric_rows(name, objective, margins, labels, SLOPE)
    values = values + (14 if name == "gamma-nloglik" else 0)
    # Labels up to 2^7: predictions depart by up to 2^9, by which slope 2.5 < 2^2 and ratios of Tweedie's terms are multiplied.
    bits = {
        "rmse": 18,
        "mae": 9,
        "quantile": 9,
        "poisson-nloglik": 15,
        "mape": 20,
        "rmsle": 14,
        "mphe": 11,
        "gamma-nloglik": 16,
    }
    bits |= {
        "mlogloss": 6,
        "gamma-deviance": 16,
        "tweedie-nloglik@1.5": 22,
        "tweedie-nloglik@1.2": 27,
        "tweedie-nloglik@1.85": 21,
    }
    value_bits = 6 if name == "logloss" else 0 if objective.startswith("binary:") or name == "merror" else bits[name]
    # 500 rows take 9 bits, weights up to 4 take 2.
    assert total == pytest.approx(np.sum(values * weights) * 2.0 ** (62 - 9 - 2 - value_bits), rel=1e-12, abs=500)
    assert weight == pytest.approx(np.sum(weights.astype(np.float64)) * 2.0 ** (62 - 9 - 2), rel=1e-12)


def test_histogram_is_the_naive_one():
    margins, labels, weights = rows(LOGISTIC, 500, spread=6)
    margins[:4] = [-8, np.nextafter(np.float32(8), np.float32(0)), 8, -1e30]
    histogram = metric_sums("auc", LOGISTIC, margins, labels, weights, MetricScale(500, 2)).reshape(2, SCORE_BUCKETS)
    np.testing.assert_allclose(histogram * 2.0**-51, naive.score_histogram(margins, labels, weights), rtol=1e-12)
    same = metric_sums("aucpr", LOGISTIC, margins, labels, weights, MetricScale(500, 2))
    np.testing.assert_array_equal(same.reshape(2, -1), histogram)


def test_unit_weights_are_no_weights():
    margins, labels, _ = rows(LOGISTIC, weighted=False)
    for name in LOSSES[LOGISTIC].metrics:
        plain = metric_sums(name, LOGISTIC, margins, labels, None, MetricScale(4000))
        weighted = metric_sums(name, LOGISTIC, margins, labels, np.ones(4000, np.float32), MetricScale(4000))
        np.testing.assert_array_equal(plain, weighted)


def test_scikit_learn_agrees():
    margins, labels, weights = rows(LOGISTIC)
    probabilities = 1 / (1 + np.exp(-margins.astype(np.float64)))
    value, _ = ours("logloss", LOGISTIC, margins, labels, weights)
    assert value == pytest.approx(log_loss(labels, probabilities, sample_weight=weights), rel=1e-9)
    margins, labels, weights = rows(SQUARED)
    value, _ = ours("mae", SQUARED, margins, labels, weights)
    assert value == pytest.approx(mean_absolute_error(labels, margins, sample_weight=weights), rel=1e-6)


def test_fractional_labels_are_weighed_as_in_xgboost():
    rng = np.random.default_rng(3)
    labels = rng.random(2000).astype(np.float32)
    margins = rng.normal(size=2000).astype(np.float32)
    for name in ("logloss", "rmse", "mae"):
        value, resolution = ours(name, LOGISTIC, margins, labels, None)
        assert abs(value - xgboosts(name, LOGISTIC, margins, labels, None)) <= resolution + 1e-6


def test_extreme_margins_stay_within_the_limit_of_a_row():
    margins = np.array([-1e30, 1e30, -3e38, 3e38, 0], np.float32)
    labels = np.array([1, 0, 0, 1, 1], np.float32)
    scale = MetricScale(5)
    value = metric_value("logloss", LOGISTIC, metric_sums("logloss", LOGISTIC, margins, labels, None, scale), scale)
    assert value == pytest.approx((2 * LOGLOSS_LIMIT + math.log(2)) / 5, rel=1e-12)
    assert pytest.approx(-math.log(1e-16), rel=1e-15) == LOGLOSS_LIMIT


@pytest.mark.parametrize(("name", "objective"), PAIRS)
@pytest.mark.parametrize("n_rows_total", [7, 8, 2**20, 2**40])
def test_totals_never_overflow_at_the_bounds(name, objective, n_rows_total):
    scale = MetricScale(n_rows_total, weight_exponent=5, label_exponent=10)
    weights = np.full(7, 32, np.float32)
    if objective.startswith("binary:"):
        margins, labels = np.full(7, 3e38, np.float32), np.zeros(7, np.float32)
    elif is_softmax(objective):
        margins, labels = np.full((2, 7), 3e38, np.float32), np.ones(7, np.float32)
        margins[1] = -3e38
    else:
        margins, labels = np.full(7, -3 * 1024, np.float32), np.full(7, 1024, np.float32)
    seven = metric_sums(name, objective, margins, labels, weights, scale)
    assert (seven >= 0).all()
    # What all rows would sum to, in Python's integers.
    assert sum(int(entry) for entry in seven[:1]) * n_rows_total // 7 <= 2**62
    assert int(seven[-1]) * n_rows_total // 7 <= 2**62
    assert int(seven.max()) * n_rows_total // 7 >= 2**60


@pytest.mark.parametrize("name", LOSSES[LOGISTIC].metrics)
def test_without_meaning_is_nan(name):
    scale = MetricScale(4)
    empty = metric_sums(name, LOGISTIC, *(np.zeros(0, np.float32),) * 2, None, scale)
    assert not empty.any()
    assert math.isnan(metric_value(name, LOGISTIC, empty, scale))
    assert math.isnan(metric_resolution(name, LOGISTIC, empty, scale))
    for label in (0, 1):
        one_class = metric_sums(name, LOGISTIC, np.zeros(4, np.float32), np.full(4, label, np.float32), None, scale)
        assert math.isnan(metric_value(name, LOGISTIC, one_class, scale)) == (name in HIGHER_IS_BETTER)


def test_values_beyond_the_public_bounds_are_refused():
    good = np.array([0, 1, 1], np.float32)
    scale = MetricScale(3, weight_exponent=0, label_exponent=2)

    def ask(objective=LOGISTIC, margins=good, labels=good, weights=good, scale=scale):
        return metric_sums("rmse", objective, margins, labels, weights, scale)

    ask()
    ask(SQUARED)
    for wrong, text in (
        ({"margins": np.array([0, np.nan, 0], np.float32)}, "margins: row 1"),
        ({"labels": np.array([0, 0, np.inf], np.float32)}, "labels: row 2"),
        ({"labels": np.array([0, 0, 1.5], np.float32)}, "labels: row 2"),
        ({"labels": np.array([-1, 0, 1], np.float32)}, "labels: row 0"),
        ({"weights": np.array([0, 1.01, 0], np.float32)}, "weights: row 1"),
        ({"weights": np.array([0, 0, -1], np.float32)}, "weights: row 2"),
        ({"weights": np.ones(2, np.float32)}, "weights are"),
        ({"labels": good.astype(np.float64)}, "labels are float64"),
        ({"margins": good.reshape(1, 3)}, "margins are"),
        ({"scale": MetricScale(2)}, "3 rows"),
        ({"objective": SQUARED, "labels": np.array([0, 0, 5], np.float32)}, "labels: row 2"),
        (
            {"objective": SQUARED, "margins": np.array([0, 0, 18], np.float32)},
            "prediction minus label: row 2",
        ),
    ):
        with pytest.raises(DataError, match=text):
            ask(**wrong)
    for wrong_bounds in ((0,), (2**41,), (1, 200), (1, 0, -200)):
        with pytest.raises(PlanError, match="expected"):
            MetricScale(*wrong_bounds)


def test_impossible_sums_are_refused():
    scale = MetricScale(3)
    for name, wrong in (
        ("rmse", np.array([-1, 1])),
        ("rmse", np.array([1, 2**62 + 2**60])),
        ("rmse", np.array([1.0, 2.0])),
        ("rmse", np.array([1, 2, 3])),
        ("auc", np.full(2 * SCORE_BUCKETS, 2**55)),
        ("auc", np.zeros(2, np.int64)),
    ):
        with pytest.raises(DataError, match="sums of"):
            metric_value(name, LOGISTIC, wrong, scale)


def test_names_are_checked():
    for objective in LOSSES:
        check_metric(DEFAULT_METRIC[objective], objective)
        with pytest.raises(PlanError, match="ndcg"):
            check_metric("ndcg", objective)
    for name in CLASSIFICATION_METRICS:
        with pytest.raises(
            PlanError, match="does not go with the objective reg:squarederror; expected one of rmse, mae"
        ):
            check_metric(name, SQUARED)


@pytest.mark.parametrize("objective", LOSSES)
def test_the_default_metric_is_xgboosts(objective):
    matrix = xgboost.DMatrix(np.zeros((4, 1)), np.array([0, 1, 1, 1]) + (LOSSES[objective].labels == "positive"))
    classes = {"num_class": 2} if is_softmax(objective) else {}
    classes |= {"quantile_alpha": 0.3} if objective == "reg:quantileerror" else {}
    said = xgboost.train({"objective": objective, "nthread": 1} | classes, matrix, 1).eval(matrix)
    assert said.split("-", 1)[1].rsplit(":", 1)[0] == DEFAULT_METRIC[objective]


@given(st.floats(1, 2.0**50))
@example(1.0)
@example(2.0)
def test_log_gamma_is_the_librarys(x):
    assert log_gamma(x) == pytest.approx(math.lgamma(x), rel=1e-14, abs=1e-14)


def test_counts_beyond_the_public_bounds_are_refused():
    good, scale = np.array([0, 1, 1], np.float32), MetricScale(3, label_exponent=0)
    metric_sums("poisson-nloglik", COUNTS, good, good, None, scale)
    with pytest.raises(DataError, match="labels: row 0"):
        metric_sums("poisson-nloglik", COUNTS, good, good - 1, None, scale)
    far, most = good + 90, np.full(3, math.log(4), np.float32)
    for name in LOSSES[COUNTS].metrics:
        sums = [metric_sums(name, COUNTS, margins, good, None, scale) for margins in (far, most)]
        assert sums[0] == pytest.approx(sums[1], rel=1e-6)


@settings(deadline=None)
@given(st.integers(-20, 126), st.floats(0, 1), st.floats(-40, 0))
def test_no_count_measures_more_than_its_bound(exponent, share, below):
    """At the largest label and mean, and at small means of large labels."""
    scale = MetricScale(1, label_exponent=exponent)
    label = np.array([np.float32(min(share * 2.0**exponent, 3e38))])
    for margin in (math.log(4) + exponent * math.log(2) - 1e-5, below + min(exponent, 0)):
        summed = metric_sums("poisson-nloglik", COUNTS, np.array([margin], np.float32), label, None, scale)
        assert 0 <= summed[0] <= 2**62


@settings(deadline=None, max_examples=200)
@given(
    st.sampled_from([pair for pair in PAIRS if LOSSES[pair[1]].labels not in ("binary", "classes")]),
    st.integers(-20, 45),
    st.floats(-1, 1),
    st.floats(-(2.0**127), 2.0**127, width=32) | st.floats(-120, 120, width=32),
)
def test_no_row_measures_more_than_its_bound(pair, exponent, share, margin):
    """Whatever the label within its bound, and whatever the margin where no gradient bounds it."""
    name, objective = pair
    scale = MetricScale(1, label_exponent=exponent, slope=SLOPE, quantiles=QUANTILES)
    label = np.float32(share * 2.0**exponent)
    if LOSSES[objective].labels != "numeric":
        label = abs(label)
    margin = np.float32(margin)
    if objective == SQUARED:
        margin = np.clip(margin, label - np.float32(2.0**exponent), label + np.float32(2.0**exponent))
    margins, labels = np.array([margin], np.float32), np.array([label], np.float32)
    summed = metric_sums(name, objective, margins, labels, None, scale)
    assert 0 <= summed[0] <= 2**62
    assert math.isnan(metric_value(name, objective, summed, scale)) == bool(summed[2:].any())


def test_a_row_without_a_value_leaves_none_and_says_so():
    weights, scale = np.array([1, 1, 0], np.float32), MetricScale(3, label_exponent=3)

    def ask(name, objective, margins, labels, weights=weights):
        given = [np.array(values, np.float32) for values in (margins, labels)]
        summed = metric_sums(name, objective, *given, weights, scale)
        assert math.isnan(metric_value(name, objective, summed, scale)) == bool(why_no_value(name, summed))
        return why_no_value(name, summed)

    assert ask("mape", SQUARED, [1, 2, 3], [1, 2, 0]) == ""
    assert ask("mape", SQUARED, [1, 2, 3], [1, 0, 3]) == NO_SHARE
    assert ask("rmsle", "reg:squaredlogerror", [1, -0.99, -1], [1, 2, 3]) == ""
    assert ask("rmsle", "reg:squaredlogerror", [1, -1, 2], [1, 2, 3]) == NO_LOGARITHM
    assert ask("rmsle", COUNTS, [1, -80, 2], [0, 2, 3]) == ""
    assert ask("mape", SQUARED, [1, 2, 3], [1, 0, 3], np.zeros(3, np.float32)) == NO_WEIGHT


@pytest.mark.parametrize(
    "name", ["error@", "error@1.5", "error@-1", "error@x", "error@0.3@", "rmse@1", "tweedie-nloglik", "tweedie-nloglik@1",
             "tweedie-nloglik@2", "tweedie-nloglik@1.5e0", "auc@.5", "error@" + "1" * 60]
)  # fmt: skip
def test_numbers_behind_metrics_are_checked(name):
    for objective in ("reg:tweedie", LOGISTIC):
        with pytest.raises(PlanError, match="is unknown"):
            check_metric(name, objective)


def test_log_odds_are_measured_as_the_probabilities_that_they_stand_for():
    margins, labels, weights = rows(LOGISTIC)
    for name in LOSSES["binary:logitraw"].metrics:
        raw = metric_sums(name, "binary:logitraw", margins, labels, weights, scale_for(4000, LOGISTIC))
        assert np.array_equal(raw, metric_sums(name, LOGISTIC, margins, labels, weights, scale_for(4000, LOGISTIC)))


def test_direction_of_improvement():
    for maximizes in (True, False):
        better, worse = (0.9, 0.8) if maximizes else (0.8, 0.9)
        assert is_improvement(maximizes, better, worse)
        assert not is_improvement(maximizes, worse, better)
        assert not is_improvement(maximizes, worse, worse)
        assert is_improvement(maximizes, worse, None)
        assert not is_improvement(maximizes, math.nan, None)
        assert not is_improvement(maximizes, math.nan, worse)


@pytest.mark.parametrize("most", [1.0, 1.5, 7.0, 2.0**-20, 1e9])
def test_a_mean_of_given_values_is_the_weighted_mean_for_any_split_of_the_rows(most):
    draw = np.random.default_rng(3)
    values, weights = draw.random(900) * most, (draw.random(900) * 4).astype(np.float32)
    values[:2] = 0.0, most
    scale = MetricScale(1000, 2)
    parts = [np.arange(900) % 3 == part for part in range(3)]
    summed = value_sums(values, weights, most, scale)
    assert np.array_equal(summed, sum(value_sums(values[own], weights[own], most, scale) for own in parts))
    assert mean_value(summed, most, scale) == pytest.approx(np.average(values, weights=weights), rel=1e-12)
    assert mean_value(value_sums(values, None, most, scale), most, scale) == pytest.approx(values.mean(), rel=1e-12)
    assert math.isnan(mean_value(value_sums(values, weights * 0, most, scale), most, scale))


def test_sums_of_given_values_are_held_to_their_bounds():
    ones = np.ones(5)
    with pytest.raises(DataError, match="weights"):
        value_sums(ones, np.full(5, 3.0, np.float32), 1.0, MetricScale(5, 1))
    with pytest.raises(DataError, match="n_rows_total"):
        value_sums(ones, None, 1.0, MetricScale(4))
    assert (value_sums(np.full(2**10, 1e9), None, 1e9, MetricScale(2**10)) <= 2**62).all()
    for wrong in (np.array([-1, 5]), np.array([1]), np.array([1.0, 1.0])):
        with pytest.raises(DataError, match="sums"):
            mean_value(wrong, 1.0, MetricScale(5))


def test_rounds_without_a_value_neither_count_nor_stop():
    assert best_round(True, []) is None
    assert best_round(True, [None] * 9) is None
    assert not stops_early(True, [None] * 9, 1)
    assert best_round(True, [None, None, 0.6, 0.5]) == 3
    assert not stops_early(True, [None, None, 0.6], 1)
    assert stops_early(True, [None, None, 0.6, 0.5], 1)
    assert not stops_early(True, [0.6, None, None, 0.5], 2)
    assert best_round(False, [0.6, None, 0.5, 0.5]) == 3
    assert stops_early(False, [0.6, 0.7, None, 0.6], 2)


@pytest.mark.parametrize("name", LOSSES[LOGISTIC].metrics)
def test_what_has_no_value_says_why(name):
    scale = MetricScale(4)
    ranks = name in HIGHER_IS_BETTER

    def why(labels, weights):
        labels, weights = (np.array(given, np.float32) for given in (labels, weights))
        summed = metric_sums(name, LOGISTIC, np.zeros(len(labels), np.float32), labels, weights, scale)
        assert (why_no_value(name, summed) == "") == (not math.isnan(metric_value(name, LOGISTIC, summed, scale)))
        return why_no_value(name, summed)

    assert why([0, 1], [1, 1]) == ""
    assert why([0, 1], [0, 0]) == NO_WEIGHT
    assert why([1, 1], [1, 1]) == why([0, 0], [1, 0]) == why([0, 1], [1, 0]) == (ONE_LABEL if ranks else "")
