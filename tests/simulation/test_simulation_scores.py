"""Metrics of the command line against scikit-learn's, ties and single classes included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_model as naive
from hansa.simulation.scores import METRICS, auc, aucpr, score_table, without_value
from hansa.trees.ensemble import predictions_from_margins
from hansa.trees.losses import LOSSES
from hansa.trees.metrics import ROOTS

metrics = pytest.importorskip("sklearn.metrics")

ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=40)


@settings(deadline=None)
@given(ROWS)
def test_auc_and_aucpr_are_scikit_learns(rows):
    predictions = np.array([score / 8 for score, _ in rows])
    labels = np.array([float(label) for _, label in rows])
    if labels.any() and not labels.all():
        assert aucpr(predictions, labels) == pytest.approx(metrics.average_precision_score(labels, predictions))
        assert auc(predictions, labels) == pytest.approx(metrics.roc_auc_score(labels, predictions))
    else:
        assert np.isnan([auc(predictions, labels), aucpr(predictions, labels)]).all()


def test_the_other_metrics_are_scikit_learns():
    draw = np.random.Generator(np.random.PCG64(1))
    predictions = draw.random(200).astype(np.float32)
    labels = (draw.random(200) < predictions).astype(np.float32)
    scores = score_table("binary:logistic", predictions, labels)
    assert next(iter(scores)) == "auc"
    assert scores["logloss"] == pytest.approx(metrics.log_loss(labels, predictions.astype(float)))
    assert scores["error"] == pytest.approx(1 - metrics.accuracy_score(labels, predictions > 0.5))
    values = draw.normal(size=200).astype(np.float32)
    scores = score_table("reg:squarederror", predictions, values)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(values, predictions), rel=1e-6)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(values, predictions), rel=1e-6)


def test_scores_of_several_classes_are_scikit_learns():
    draw = np.random.Generator(np.random.PCG64(3))
    labels = draw.integers(0, 4, 300).astype(np.float32)
    predictions = draw.dirichlet(np.ones(4), 300).astype(np.float32)
    scores = score_table("multi:softprob", predictions, labels)
    assert tuple(scores) == METRICS["multi:softprob"]
    assert scores["mlogloss"] == pytest.approx(metrics.log_loss(labels, predictions), rel=1e-5)
    assert scores["merror"] == pytest.approx(1 - metrics.accuracy_score(labels, predictions.argmax(axis=1)))
    p = predictions.astype(np.float64)
    one_to_rest = metrics.roc_auc_score(labels, p / p.sum(axis=1, keepdims=True), multi_class="ovr")
    assert scores["auc_ovr"] == pytest.approx(one_to_rest, rel=1e-6)


OTHERS = [name for name, loss in LOSSES.items() if loss.gradients not in ("logistic", "softmax")]


@pytest.mark.parametrize("objective", OTHERS)
def test_scores_of_losses_are_means_over_rows(objective):
    draw = np.random.Generator(np.random.PCG64(2))
    margins, labels = draw.normal(size=200), draw.gamma(2, size=200).astype(np.float32)
    if objective == "reg:squaredlogerror":
        margins = np.abs(margins) - 0.9
    if objective == "binary:hinge":
        labels = (labels > 1.5).astype(np.float32)
    predictions = predictions_from_margins(objective, margins.astype(np.float32))
    scores = score_table(objective, predictions, labels, (naive.ALPHA,))
    assert tuple(scores) == METRICS[objective]
    for name, value in scores.items():
        mean = np.mean(naive.metric_rows(name, objective, margins, labels))
        assert value == pytest.approx(np.sqrt(mean) if name in ROOTS else mean, rel=1e-5), name


def test_a_prediction_below_minus_one_leaves_no_rmsle_and_says_so():
    predictions, labels = np.array([-2, 1], np.float32), np.array([1, 2], np.float32)
    scores = score_table("reg:squaredlogerror", predictions, labels)
    assert without_value(scores, labels) == {"rmsle": "the prediction of a test row is -1 or less"}


def test_certain_and_wrong_predictions_have_a_finite_logloss():
    scores = score_table("binary:logistic", np.array([0, 1], np.float32), np.array([1, 0], np.float32))
    assert 30 < scores["logloss"] < 40


def test_metrics_of_several_classes_are_scikit_learns():
    draw = np.random.Generator(np.random.PCG64(2))
    labels = draw.integers(0, 3, 300).astype(np.float32)
    one_hot = labels[:, None] == np.arange(3)
    predictions = np.clip(0.4 * one_hot + 0.6 * draw.random((300, 3)), 0.01, 0.99).astype(np.float32)
    scores = score_table("binary:logistic", predictions, labels)
    assert list(scores) == ["auc_ovr", "merror", "logloss", "error"]
    p = predictions.astype(float)
    assert scores["auc_ovr"] == pytest.approx(metrics.roc_auc_score(one_hot, p, average="macro"))
    assert scores["merror"] == pytest.approx(1 - metrics.accuracy_score(labels, p.argmax(axis=1)))
    assert scores["logloss"] == pytest.approx(np.mean([metrics.log_loss(one_hot[:, k], p[:, k]) for k in range(3)]))
    assert scores["error"] == pytest.approx(np.mean((p > 0.5) != one_hot))
    # A class that no row has counts for nothing in the mean.
    two = labels < 2
    scores = score_table("binary:logistic", predictions[two], labels[two])
    assert scores["auc_ovr"] == pytest.approx(
        metrics.roc_auc_score(one_hot[two][:, :2], p[two][:, :2], average="macro")
    )
    assert np.isnan(score_table("binary:logistic", predictions[:1], labels[:1])["auc_ovr"])


def test_what_has_no_value_has_a_reason_and_nothing_else_has_one():
    ones = np.ones(3, np.float32)
    scores = score_table("binary:logistic", ones / 2, ones)
    assert without_value(scores, ones) == dict.fromkeys(("auc", "aucpr"), "the test rows all have label 1")
    nothing = np.zeros(0, np.float32)
    for objective in ("binary:logistic", "reg:squarederror"):
        scores = score_table(objective, nothing, nothing)
        assert scores.keys() == score_table(objective, ones / 2, ones).keys()
        assert without_value(scores, nothing) == dict.fromkeys(scores, "there are no test rows")
    three = np.full((4, 3), 1 / 3, np.float32)
    labels = np.array([0, 1, 1, 0], np.float32)
    assert without_value(score_table("binary:logistic", three, labels), labels, 3) == {
        "auc_ovr of class 2": "no test row is of this class"
    }
    scores = score_table("binary:logistic", three, labels * 0 + 2)
    assert without_value(scores, labels * 0 + 2, 3) == {"auc_ovr": "the test rows all have label 2"}
    assert score_table("binary:logistic", three[:0], nothing).keys() == scores.keys()
    assert without_value(score_table("binary:logistic", ones / 2, np.array([0, 1, 1], np.float32)), ones) == {}


def test_log_odds_have_the_scores_of_their_probabilities():
    draw = np.random.Generator(np.random.PCG64(3))
    margins, labels = draw.normal(size=200), draw.integers(0, 2, 200).astype(np.float32)
    raw = score_table("binary:logitraw", margins.astype(np.float32), labels)
    probabilities = score_table("binary:logistic", (1 / (1 + np.exp(-margins))).astype(np.float32), labels)
    assert raw == pytest.approx(probabilities, abs=1e-6)
