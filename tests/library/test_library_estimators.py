"""The estimators against scikit-learn's own checks, and in the tools that people put estimators into."""

from __future__ import annotations

import pickle
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import sklearn
import xgboost
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import hansa
from hansa.errors import PlanError

NOT_MET: dict[str, str] = {
    "check_sample_weight_equivalence_on_dense_data": "min_cell_rows counts rows: a row twice is two, a row of weight 2 is one",
}
"""Checks of scikit-learn that do not hold, and why."""


@parametrize_with_checks(
    [hansa.HansaClassifier(n_estimators=5, max_depth=3), hansa.HansaRegressor(n_estimators=15, max_depth=4)],
    expected_failed_checks=lambda _: NOT_MET,
)
def test_scikit_learns_own_checks_hold(estimator, check):
    check(estimator)


def rows(n: int = 240) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"load": rng.normal(size=n), "alarms": rng.integers(0, 5, n)})
    labels = np.where(frame["load"] + frame["alarms"] / 3 + rng.normal(size=n) / 4 > 1, "fault", "fine")
    return frame, labels, np.arange(n) % 3


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_parties_change_nothing_of_the_model(mode):
    frame, labels, groups = rows()
    one = hansa.HansaClassifier(n_estimators=4, max_depth=3).fit(frame, labels)
    several = hansa.HansaClassifier(n_estimators=4, max_depth=3, mode=mode).fit(frame, labels, groups=groups)
    assert several.model_ == one.model_
    assert list(several.run_.members) == ["0", "1", "2"]
    assert several.score(frame, labels) > 0.9
    assert several.feature_importances_.sum() == pytest.approx(1)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_several_classes_and_texts_in_the_modes_of_sums(mode):
    frame, _, groups = rows(300)
    frame["kind"] = np.array(["a", "b", "c", "d", None])[np.arange(300) % 5]
    labels = np.array(["low", "middle", "high"])[np.arange(300) % 3]
    labels[frame["kind"] == "d"] = "middle"
    fitted = hansa.HansaClassifier(n_estimators=3, max_depth=2, mode=mode).fit(frame, labels, groups=groups)
    assert fitted.model_.objective == "multi:softprob"
    assert fitted.run_.plan.schema.levels == {"kind": ("a", "b", "c", "d")}
    assert np.allclose(fitted.predict_proba(frame).sum(axis=1), 1, atol=1e-6)
    assert (fitted.predict(frame[frame["kind"] == "d"]) == "middle").mean() > 0.9


def test_parameters_are_xgboosts():
    frame, labels, _ = rows()
    fitted = hansa.HansaClassifier(
        n_estimators=3, max_depth=0, max_leaves=5, grow_policy="lossguide", reg_alpha=0.1, colsample_bynode=0.5, num_parallel_tree=2,
        monotone_constraints={"load": 1}, interaction_constraints=[["load"], ["alarms"]], scale_pos_weight="auto", eval_metric="auc",
        evaluation_fraction=0.3,
    ).fit(frame, labels)  # fmt: skip
    assert len(fitted.model_.ensemble.trees) == 6
    assert all(tree.num_nodes <= 9 for tree in fitted.model_.ensemble.trees)
    assert set(fitted.run_.metrics) == {"auc"}
    scores = fitted.model_.predict_margin(pd.DataFrame({"load": np.linspace(-3, 3, 50), "alarms": 2}))
    assert (np.diff(scores) <= 1e-6).all() or (np.diff(scores) >= -1e-6).all()


def test_several_classes_and_texts_in_coopetitive_mode():
    frame, _, groups = rows(300)
    frame["kind"] = np.array(["a", "b", "c"])[np.arange(300) % 3]
    labels = np.array(["low", "middle", "high"])[np.arange(300) % 3]
    fitted = hansa.HansaClassifier(n_estimators=2, max_depth=2, mode="coopetitive").fit(frame, labels, groups=groups)
    assert fitted.classes_.tolist() == ["high", "low", "middle"]
    assert (fitted.predict(frame) == labels).all()
    assert fitted.predict_proba(frame).shape == (300, 3)
    assert fitted.run_.plan.parameters.max_bin == 32


def test_they_work_in_pipelines_grids_and_cross_validation():
    frame, labels, groups = rows()
    grid = GridSearchCV(
        make_pipeline(StandardScaler(), hansa.HansaClassifier(n_estimators=3)),
        {"hansaclassifier__max_depth": [1, 3]},
        cv=3,
    )
    assert grid.fit(frame, labels).best_score_ > 0.85
    scores = cross_val_score(hansa.HansaClassifier(n_estimators=3), frame, labels, cv=GroupKFold(3), groups=groups)
    assert scores.min() > 0.8
    fitted = hansa.HansaRegressor(n_estimators=3).fit(frame, frame["load"])
    again = pickle.loads(pickle.dumps(fitted))
    assert np.array_equal(again.predict(frame), fitted.predict(frame))
    assert clone(fitted).get_params() == fitted.get_params()


def test_all_threads_are_said_as_scikit_learn_says_it():
    frame, labels, _ = rows()
    models = [hansa.HansaClassifier(n_estimators=2, n_jobs=jobs).fit(frame, labels).model_ for jobs in (None, -1, 1)]
    assert models[0] == models[1] == models[2]


def test_what_they_do_not_take_is_said():
    frame, labels, groups = rows()
    with pytest.raises(PlanError, match="max_depth"):
        hansa.HansaClassifier(max_depth=-1).fit(frame, labels)
    with pytest.raises(PlanError, match="secure-aggregation"):
        hansa.HansaClassifier(mode="secure-aggregation").fit(frame, labels)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        hansa.HansaClassifier().fit(frame, labels, groups=groups[:-1])
    dates = frame.assign(load=pd.Timestamp("2026-11-30"))
    with pytest.raises(ValueError, match=r"party 'rows', column 'load': expected numbers or texts, found dates"):
        hansa.HansaClassifier().fit(dates, labels)


def test_this_release_of_scikit_learn_was_checked():
    assert tuple(map(int, sklearn.__version__.split(".")[:2])) >= (1, 6)


@pytest.mark.parametrize("classes", [2, 3])
def test_base_margins_are_those_of_xgboost(classes):
    rng = np.random.default_rng(6)
    X = np.round(rng.normal(size=(900, 3)), 1)
    y = np.digitize(X[:, 0] + rng.logistic(size=900), [0, 1][: classes - 1])
    starts = rng.normal(size=900 if classes == 2 else (900, classes)).astype(np.float32)
    given = {"n_estimators": 4, "max_depth": 3, "learning_rate": 0.3}
    ours = hansa.HansaClassifier(min_cell_rows=2, max_bin=2000, **given).fit(
        X, y, groups=np.arange(900) % 3, base_margin=starts
    )
    theirs = xgboost.XGBClassifier(tree_method="hist", max_bin=2000, **given).fit(X, y, base_margin=starts)
    found, expected = (one.predict_proba(X, base_margin=starts) for one in (ours, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert (ours.predict(X, base_margin=starts) == found.argmax(axis=1)).all()
    assert np.abs(ours.predict_proba(X) - found).max() > 0.1
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        hansa.HansaClassifier().fit(X, y, base_margin=starts[:-1])


def test_exposures_of_counts():
    rng = np.random.default_rng(7)
    X = np.round(rng.normal(size=(900, 2)), 1)
    exposure = rng.uniform(0.1, 2, 900)
    counts = rng.poisson(exposure * np.exp(0.5 * X[:, 0]))
    regressor = hansa.HansaRegressor(n_estimators=30, objective="count:poisson").fit(
        X, counts, base_margin=np.log(exposure)
    )
    rates = regressor.predict(X, base_margin=np.zeros(900))
    assert np.corrcoef(rates, np.exp(0.5 * X[:, 0]))[0, 1] > 0.7
    np.testing.assert_allclose(regressor.predict(X, base_margin=np.log(exposure)), rates * exposure, rtol=1e-4)


def miss(predictions, labels, weights):
    return abs(predictions - labels)


def test_dates_rare_levels_and_a_metric_of_ones_own_are_those_of_fit():
    frame, labels, groups = rows()
    n = len(frame)
    frame["opened"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n) * 7 % 365, "D")
    frame["kind"] = np.where(np.arange(n) % 60 == 0, "odd", np.array(["a", "b"])[np.arange(n) % 2])
    given = {
        "dates": {"opened": "days", "month": "month of opened"},
        "rare_levels": {"kind": 20},
        "unseen": "error",
        "evaluation_fraction": 0.3,
        "custom_metric": miss,
        "metric_bound": 1.0,
        "max_depth": 3,
    }
    estimator = clone(hansa.HansaClassifier(n_estimators=3, **given)).fit(frame, labels, groups=groups)
    assert list(estimator.run_.history) == ["logloss", "miss"]
    whole = frame.assign(y=(labels == "fine").astype(int), who=groups)
    run = hansa.fit(hansa.split(whole, by="who"), "y", rounds=3, alone=False, progress=False, **given)
    assert estimator.model_ == run.model
    assert estimator.predict_proba(frame).shape == (n, 2)
    assert "other" in estimator.model_.ensemble.categories[estimator.model_.feature_names.index("kind")]


MASK = np.arange(60) == 3
NULLS = {
    "masked": lambda values: np.ma.masked_array(values, mask=MASK),
    "nan": lambda values: np.where(MASK, np.nan, values),
    "nullable": lambda values: pd.Series(values).astype("Int64").mask(MASK),
}


@pytest.mark.parametrize("kind", NULLS)
@pytest.mark.parametrize("estimator", [hansa.HansaClassifier, hansa.HansaRegressor])
def test_a_row_without_label_weight_or_party_is_named(kind, estimator):
    X, y = np.arange(60.0).reshape(-1, 1), np.arange(60) % 2
    null = NULLS[kind]
    for name, says, given in (
        ("y", "a label", {"y": null(y)}),
        ("sample_weight", "a weight", {"y": y, "sample_weight": null(np.ones(60))}),
        ("groups", "a party", {"y": y, "groups": null(y)}),
        ("base_margin", "a finite number", {"y": y, "base_margin": null(np.zeros(60))}),
    ):
        with pytest.raises(ValueError, match=rf"^{name}, row 4: expected {says} in every row, found a missing value"):
            estimator(n_estimators=1).fit(X, **given)


def test_masked_cells_of_features_are_missing():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(300, 2)), np.arange(300) % 2
    X[:, 0] += 3 * y
    mask = rng.random((300, 2)) < 0.4
    masked, missing = np.ma.masked_array(X, mask=mask), np.where(mask, np.nan, X)
    one, other = (hansa.HansaClassifier(n_estimators=3).fit(given, y) for given in (masked, missing))
    assert one.model_ == other.model_
    assert one.model_ != hansa.HansaClassifier(n_estimators=3).fit(X, y).model_
    for scores in (one.predict_proba(masked), one.model_.predict_proba(masked)):
        np.testing.assert_array_equal(scores, other.predict_proba(missing))
    assert (one.predict_proba(X) != other.predict_proba(missing)).any()


@pytest.mark.parametrize(
    "of", [lambda v: np.array([Decimal(int(x)) for x in v], object), lambda v: v.astype(np.longdouble), lambda v: v.astype(">f8")],
    ids=["decimals", "long doubles", "the other order of bytes"],
)  # fmt: skip
def test_labels_and_features_of_every_kind_of_number_give_the_same_model(of):
    X, y = np.arange(60.0).reshape(-1, 1), np.arange(60) // 30
    cells = of(X.ravel()).reshape(-1, 1)
    for estimator in (hansa.HansaClassifier, hansa.HansaRegressor):
        plain = estimator(n_estimators=2).fit(X, y, sample_weight=1 + y).model_
        assert estimator(n_estimators=2).fit(cells, of(y), sample_weight=of(1 + y)).model_ == plain
