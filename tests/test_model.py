"""A model in a data scientist's hands."""

from __future__ import annotations

import pickle
import stat

import numpy as np
import pandas as pd
import pytest
import xgboost

import hansa
from hansa.errors import DataError, HansaError, PlanError


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    return pd.DataFrame({"a": rng.normal(size=200), "b": rng.normal(size=200)})


@pytest.fixture(scope="module")
def theirs(frame):
    labels = (frame["a"] > frame["b"]).astype(int)
    return xgboost.XGBClassifier(n_estimators=4, max_depth=3).fit(frame, labels)


def test_a_model_of_xgboost_predicts_what_xgboost_predicts(frame, theirs, tmp_path):
    theirs.save_model(tmp_path / "theirs.ubj")
    model = hansa.Model.load(tmp_path / "theirs.ubj")
    assert np.array_equal(model.predict(frame), theirs.predict(frame))
    assert model.predict_proba(frame) == pytest.approx(theirs.predict_proba(frame), abs=1e-6)
    assert np.array_equal(model.predict_margin(frame), theirs.predict(frame, output_margin=True))
    back = model.to_xgboost().predict(xgboost.DMatrix(frame))
    assert np.array_equal(back, theirs.predict_proba(frame)[:, 1])
    assert model.importance("weight") == theirs.get_booster().get_score(importance_type="weight")
    assert (model.rounds, model.feature_names, model.objective) == (4, ("a", "b"), "binary:logistic")


def test_columns_are_taken_by_name_and_arrays_by_place(frame, theirs):
    model = hansa.Model(theirs.get_booster().save_raw("json"))
    assert np.array_equal(model.predict(frame[["b", "a"]].assign(c=1)), model.predict(frame.to_numpy()))
    assert np.array_equal(model.predict(frame.to_numpy(np.float32)), model.predict(frame.astype(np.float32)))
    with pytest.raises(DataError, match="X: no column 'b', which the model needs; found 'a'"):
        model.predict(frame[["a"]])
    with pytest.raises(DataError, match=r"X: expected an array of 2 features, found shape \(200, 1\)"):
        model.predict(frame[["a"]].to_numpy())
    with pytest.raises(DataError, match=r"X, row 1, column 'a'"):
        model.predict(frame.assign(a="x"))


def test_a_model_is_kept_and_read_again(frame, theirs, tmp_path):
    model = hansa.Model(theirs.get_booster().save_raw("json"))
    model.save(tmp_path / "model.json")
    assert stat.S_IMODE((tmp_path / "model.json").stat().st_mode) == 0o600
    assert hansa.Model.load(tmp_path / "model.json") == model == pickle.loads(pickle.dumps(model))
    assert hash(model) == hash(hansa.Model.load(tmp_path / "model.json"))
    assert repr(model) == "hansa.Model(binary:logistic, 4 rounds, 2 features)"
    with pytest.raises(DataError, match=r"model.ubj: expected a name that ends in .json"):
        model.save(tmp_path / "model.ubj")
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(DataError, match=r"broken.json"):
        hansa.Model.load(tmp_path / "broken.json")


def test_a_regression_has_values_and_no_probabilities(frame):
    theirs = xgboost.XGBRegressor(n_estimators=3).fit(frame, frame["a"])
    model = hansa.Model(theirs.get_booster().save_raw("json"))
    assert np.array_equal(model.predict(frame), theirs.predict(frame))
    with pytest.raises(HansaError, match="has no probabilities; call predict"):
        model.predict_proba(frame)


@pytest.fixture(scope="module")
def dated() -> pd.DataFrame:
    rng = np.random.default_rng(9)
    opened = pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, 300), "D")
    band = np.array(["low", "mid", "high"])[rng.integers(0, 3, 300)]
    fault = ((opened.month > 6) ^ (band == "low")).astype(int)
    return pd.DataFrame(
        {"opened": opened, "band": band, "fault": fault, "party": np.array(["a", "b", "c"])[np.arange(300) % 3]}
    )


DATES = {"opened": "days", "opened_month": "month of opened"}


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation", "coopetitive"])
def test_the_model_holds_the_rules_by_which_its_plan_reads_cells(dated, tmp_path, mode):
    """Dates as numbers, and what becomes of levels that are not known; also behind XGBoost's own save."""
    rounds = 4 if mode == "coopetitive" else 6
    run = hansa.fit(
        hansa.split(dated, by="party"),
        "fault",
        mode=mode,
        dates=DATES,
        unseen="error",
        rounds=rounds,
        alone=False,
        max_depth=3,
    )
    assert run.model.feature_names == ("opened", "band", "opened_month") or run.model.feature_names == (
        "band",
        "opened",
        "opened_month",
    )
    run.model.to_xgboost().save_model(tmp_path / "again.ubj")
    for model in (run.model, hansa.Model(run.model.to_json()), hansa.Model.load(tmp_path / "again.ubj")):
        assert model.ensemble.reading == run.model.ensemble.reading
        assert np.mean(model.predict(dated) == dated["fault"]) > 0.95
        other = dated.assign(band=["low", "odd", "odd", *dated["band"][3:]])
        with pytest.raises(
            DataError, match=r"X, row 2, column 'band': expected one of the 3 levels.*found 'odd' \(and 1 more rows"
        ):
            model.predict(other)
        assert np.array_equal(model.predict(other, unseen="missing")[3:], model.predict(dated)[3:])
    plain = dated.assign(opened=(dated["opened"] - pd.Timestamp(0)).dt.days, opened_month=dated["opened"].dt.month)
    same = hansa.fit(hansa.split(plain, by="party"), "fault", mode=mode, rounds=rounds, alone=False, max_depth=3)
    noise = 0.1 if mode == "coopetitive" else 0  # masks leave rounding errors in sums
    np.testing.assert_allclose(same.model.predict_margin(plain), run.model.predict_margin(dated), atol=noise, rtol=0)


def test_the_choice_at_prediction_is_checked(frame, theirs):
    model = hansa.Model(theirs.get_booster().save_raw("json"))
    with pytest.raises(PlanError, match="unseen is 'other'; expected 'missing' or 'error'"):
        model.predict(frame, unseen="other")


def test_other_takes_rare_and_unseen_levels_at_prediction(dated, tmp_path):
    band = dated["band"].where(np.arange(300) % 50 > 0, "odd")
    rows = dated.drop(columns="opened").assign(band=band, load=np.arange(300) % 17)
    run = hansa.fit(
        hansa.split(rows, by="party"),
        "fault",
        rare_levels={"band": 20},
        unseen="error",
        rounds=3,
        evaluation_fraction=0.2,
    )
    run.model.to_xgboost().save_model(tmp_path / "again.json")
    assert run.members["a"].alone
    for model in (run.model, hansa.Model.load(tmp_path / "again.json")):
        assert model.ensemble.categories[0] == ("high", "low", "mid", "other")
        scores = [model.predict_margin(rows.assign(band=level)) for level in ("odd", "never seen", "other")]
        assert np.array_equal(scores[0], scores[1])
        assert np.array_equal(scores[0], scores[2])
    with pytest.raises(PlanError, match="goes with the modes that have an aggregator"):
        hansa.fit(hansa.split(rows, by="party"), "fault", rare_levels={"band": 20}, mode="coopetitive")


def test_levels_that_a_model_does_not_know_are_told():
    draw = np.random.default_rng(6)
    frame = pd.DataFrame({"load": draw.uniform(size=300), "vendor": draw.choice(["x", "y", "z"], 300)})
    frame["fault"] = ((frame.load > 0.5) ^ (frame.vendor == "x")).astype(int)
    parties = hansa.split(frame.assign(operator=list("abc") * 100), by="operator")
    model = hansa.fit(parties, label="fault", mode="federated", rounds=3).model
    some = frame.assign(vendor=frame.vendor.where(frame.index > 9, "q"))
    with pytest.warns(UserWarning, match=r"X, column 'vendor': 10 cells hold levels that .* of no category$"):
        given = model.predict_proba(some)
    np.testing.assert_array_equal(given, model.predict_proba(some, unseen="missing"))
    codes = frame.assign(vendor=frame.vendor.astype("category").cat.codes)
    for X in (codes, codes[["load", "vendor"]].to_numpy()):
        with pytest.warns(UserWarning, match="300 cells .* None holds one that it knows: expected 'x', 'y', 'z'"):
            model.predict(X)
    with pytest.raises(DataError, match="row 1, column 'vendor'"):
        model.predict(codes, unseen="error")
