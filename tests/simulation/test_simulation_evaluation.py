"""What is said of a model on labelled rows: against scikit-learn, XGBoost and slow twins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

import hansa
from hansa.errors import DataError, PlanError
from hansa.simulation.evaluation import Question, calibration_of, check_question, confusion_of
from naive_model import naive_calibration, naive_confusion


def table(n_rows=400, seed=0):
    draw = np.random.default_rng(seed)
    rows = pd.DataFrame(
        {
            "load": draw.normal(size=n_rows).astype(np.float32),
            "vendor": draw.choice(["x", "y", "z"], n_rows),
            "alarms": draw.integers(0, 4, n_rows).astype(np.float32),
        }
    )
    margin = rows["load"] + rows["alarms"] + (rows["vendor"] == "y") + draw.logistic(size=n_rows)
    rows["fault"] = (margin > 2).astype(int)
    rows["rate"] = np.exp(0.3 * rows["load"]) + draw.random(n_rows)
    rows["kind"] = np.digitize(margin, [0.0, 2.0])
    rows["operator"] = np.where(np.arange(n_rows) % 2, "aurora", "borealis")
    return rows


FEATURES = ["load", "vendor", "alarms"]


def trained(label, **parameters):
    rows = table()
    parties = hansa.split(rows[[*FEATURES, label, "operator"]], by="operator")
    return hansa.fit(parties, label=label, rounds=5, max_depth=3, alone=False, progress=False, **parameters).model


@pytest.fixture(scope="module")
def binary():
    return trained("fault")


probabilities = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.999, 1.0]) | st.floats(0, 1, width=32), st.booleans()),
    min_size=1,
    max_size=40,
)


@settings(deadline=None)
@given(rows=probabilities, bins=st.integers(2, 12))
def test_calibration_is_that_of_its_slow_twin_and_of_scikit_learn(rows, bins):
    p = np.array([value for value, _ in rows], np.float32)
    y = np.array([label for _, label in rows], np.float32)
    edges = np.linspace(0, 1, bins + 1)
    found = calibration_of(p, y, edges, "1")
    assert [(own.rows, own.predicted, own.found) for own in found.bins] == [
        (count, pytest.approx(mean), pytest.approx(share)) for count, mean, share in naive_calibration(p, y, edges)
    ]
    assert sum(own.rows for own in found.bins) == len(rows)
    true, predicted = calibration_curve(y, p.astype(np.float64), n_bins=bins)
    np.testing.assert_allclose([own.found for own in found.bins if own.rows], true)
    np.testing.assert_allclose([own.predicted for own in found.bins if own.rows], predicted)
    assert found.error == pytest.approx(
        sum(own.rows * abs(own.found - own.predicted) for own in found.bins if own.rows) / len(rows)
    )


@settings(deadline=None)
@given(rows=probabilities, threshold=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_confusion_is_that_of_its_slow_twin_and_of_scikit_learn(rows, threshold):
    p = np.array([value for value, _ in rows], np.float32)
    y = np.array([label for _, label in rows], np.float32)
    found = confusion_of(p, y, ("no", "yes"), threshold)
    guesses = p > np.float32(threshold)
    assert found.counts == naive_confusion(y, guesses, 2)
    np.testing.assert_array_equal(found.counts, sklearn_metrics.confusion_matrix(y, guesses, labels=[0, 1]))
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        y, guesses, labels=[0, 1], zero_division=np.nan
    )
    for k, own in enumerate(found.rates):
        assert own.rows == support[k]
        for value, theirs in ((own.precision, precision[k]), (own.recall, recall[k])):
            assert (value is None) == bool(np.isnan(theirs))
            assert value is None or value == pytest.approx(theirs)
        if own.precision is not None and own.recall is not None:
            assert own.f1 == pytest.approx(f1[k])


def test_a_binary_model_is_said_as_scikit_learn_says_it(binary):
    fresh = table(300, 7)
    found = hansa.evaluate(binary, fresh, label="fault", threshold=0.4)
    p, y = binary.predict_proba(fresh)[:, 1], fresh["fault"]
    assert found.rows == 300
    assert found.metrics["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, p))
    assert found.metrics["logloss"] == pytest.approx(sklearn_metrics.log_loss(y, p.astype(np.float64)), rel=1e-6)
    np.testing.assert_array_equal(found.confusion.counts, sklearn_metrics.confusion_matrix(y, p > 0.4))
    assert found.confusion.threshold == 0.4
    assert sum(found.importance.values()) == pytest.approx(1)
    assert found.importance_of == "gain"
    gains = binary.importance("total_gain")
    assert found.importance["alarms"] == pytest.approx(gains["alarms"] / sum(gains.values()))
    assert list(found.importance.values()) == sorted(found.importance.values(), reverse=True)


def test_shap_values_are_xgboosts_and_add_up(binary):
    xgboost = pytest.importorskip("xgboost")
    fresh = table(50, 8)
    found = hansa.evaluate(binary, fresh, label="fault")
    codes = np.stack(
        [fresh["load"], fresh["vendor"].map({"x": 0, "y": 1, "z": 2}), fresh["alarms"]], axis=1, dtype=np.float32
    )
    matrix = xgboost.DMatrix(codes, feature_names=FEATURES, feature_types=["q", "c", "q"], enable_categorical=True)
    values = binary.to_xgboost().predict(matrix, pred_contribs=True)
    np.testing.assert_allclose(values.sum(axis=1), binary.predict_margin(fresh), atol=1e-4)
    expected = dict(zip(FEATURES, np.abs(values[:, :-1]).mean(axis=0), strict=True))
    assert found.shap == pytest.approx(expected, rel=1e-5)


def test_a_level_that_the_model_does_not_know_does_not_stop_shap_values(binary):
    fresh = table(50, 8)
    fresh.loc[0, "vendor"] = "new"
    with pytest.warns(UserWarning, match="1 cells hold levels that the model does not know"):
        assert hansa.evaluate(binary, fresh, label="fault").shap


def test_a_model_without_statistics_tells_splits_and_no_shap_values():
    model = trained("fault", statistics=False)
    found = hansa.evaluate(model, table(60, 9), label="fault")
    assert found.importance_of == "splits"
    weights = model.importance("weight")
    assert found.importance["load"] == pytest.approx(weights["load"] / sum(weights.values()))
    assert found.shap == {}
    assert "shap" not in {view.name for view in found.views()}


def test_classes_each_have_a_calibration_and_a_row():
    model = trained("kind", objective="multi:softprob", num_class=3)
    fresh = table(200, 3)
    found = hansa.evaluate(model, fresh, label="kind")
    p, y = model.predict_proba(fresh), fresh["kind"]
    np.testing.assert_array_equal(found.confusion.counts, sklearn_metrics.confusion_matrix(y, p.argmax(axis=1)))
    assert found.confusion.threshold is None
    assert [own.of for own in found.calibration] == ["0", "1", "2"]
    true, _ = calibration_curve(y == 2, p[:, 2].astype(np.float64), n_bins=10)
    np.testing.assert_allclose([own.found for own in found.calibration[2].bins if own.rows], true)
    named = table(100, 4)
    named["kind"] = named["kind"].map({0: "low", 1: "middle", 2: "high"})
    with_names = hansa.evaluate(model, named, label="kind", classes=("low", "middle", "high"))
    assert with_names.confusion.classes == ("low", "middle", "high")


def test_a_mean_is_calibrated_over_bins_of_as_many_rows():
    model = trained("rate", objective="reg:squarederror")
    fresh = table(200, 5)
    found = hansa.evaluate(model, fresh, label="rate", bins=4)
    (calibration,) = found.calibration
    assert found.confusion is None
    assert sum(own.rows for own in calibration.bins) == 200
    total = sum(own.rows * own.predicted for own in calibration.bins)
    assert total == pytest.approx(float(model.predict(fresh).sum(dtype=np.float64)))
    total = sum(own.rows * own.found for own in calibration.bins)
    assert total == pytest.approx(float(fresh["rate"].to_numpy(np.float32).sum(dtype=np.float64)))
    quantile = trained("rate", objective="reg:quantileerror", quantile_alpha=[0.2, 0.8])
    assert hansa.evaluate(quantile, fresh, label="rate").calibration == ()


def test_log_odds_are_scored_as_probabilities():
    raw = trained("fault", objective="binary:logitraw")
    fresh = table(100, 6)
    found = hansa.evaluate(raw, fresh, label="fault", threshold=0.4)
    p, y = 1 / (1 + np.exp(-raw.predict(fresh).astype(np.float64))), fresh["fault"]
    assert found.metrics["logloss"] == pytest.approx(sklearn_metrics.log_loss(y, p), rel=1e-5)
    assert found.metrics["auc"] == pytest.approx(sklearn_metrics.roc_auc_score(y, p))
    np.testing.assert_array_equal(found.confusion.counts, sklearn_metrics.confusion_matrix(y, p > 0.4))
    true, _ = calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose([own.found for own in found.calibration[0].bins if own.rows], true)


def test_two_models_are_compared_row_by_row(binary):
    fresh = table(300, 10)
    small = hansa.Model(hansa.to_json(binary.ensemble.truncate(1)))
    found = hansa.evaluate(small, fresh, label="fault", against=binary)
    y = fresh["fault"].to_numpy()
    losses = []
    for model in (small, binary):
        p = model.predict_proba(fresh)[:, 1].astype(np.float64)
        losses.append(-np.where(y > 0, np.log(p), np.log(1 - p)))
    assert found.first_loss == pytest.approx(losses[0].mean())
    assert found.second_loss == pytest.approx(losses[1].mean())
    assert found.standard_error == pytest.approx(np.std(losses[0] - losses[1], ddof=1) / np.sqrt(300))
    assert found.better == "second"
    assert "the second model is better" in found.facts()
    same = hansa.evaluate(binary, fresh, label="fault", against=binary)
    assert same.better == ""
    assert same.first == same.second == hansa.evaluate(binary, fresh, label="fault")


def test_models_that_predict_different_things_are_not_compared(binary):
    other = trained("rate", objective="reg:squarederror")
    with pytest.raises(DataError, match="the models predict different things: binary:logistic with 1 outputs"):
        hansa.evaluate(binary, table(50), label="fault", against=other)
    raw = trained("fault", objective="binary:hinge")
    with pytest.raises(DataError, match="have the losses of binary:logistic and binary:hinge"):
        hansa.evaluate(binary, table(50), label="fault", against=raw)


def test_rows_of_one_label_have_no_auc_and_it_is_said_why(binary):
    fresh = table(100, 11)
    fresh = fresh[fresh["fault"] == 0]
    found = hansa.evaluate(binary, fresh, label="fault")
    assert found.metrics["auc"] is None
    assert "the test rows all have label 0" in found.without_value["auc"]
    assert "the test rows all have label 0" in found.views()[0].note
    assert found.confusion.rates[1].recall is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"threshold": 1.5}, "threshold is 1.5"), ({"bins": 1}, "bins is 1; expected 2 to 100")],
)
def test_a_question_that_cannot_be_is_refused(changes, message):
    with pytest.raises(PlanError, match=message):
        check_question(Question("fault", **changes))


def test_classes_that_are_not_the_models_are_refused(binary):
    with pytest.raises(PlanError, match="3 classes are named, and the model knows 2"):
        hansa.evaluate(binary, table(20), label="fault", classes=("a", "b", "c"))
    with pytest.raises(DataError, match=r"'label' cells? .*|row \d+"):
        hansa.evaluate(binary, table(20), label="kind")


def test_a_notebook_shows_tables_and_pictures(binary):
    found = hansa.evaluate(binary, table(100, 12), label="fault")
    html = found._repr_html_()
    assert html.count("<svg") == 4  # calibration, confusion, importance, SHAP values
    assert f"<td>{found.metrics['auc']:.4f}</td>" in html
    assert {view.name for view in found.views()} == {
        "metrics",
        "calibration",
        "confusion",
        "rates",
        "importance",
        "shap",
    }
    compared = hansa.evaluate(binary, table(100, 12), label="fault", against=binary)
    assert {"confusion-first", "confusion-second"} <= {view.name for view in compared.views()}
    assert "<svg" in compared._repr_html_()
