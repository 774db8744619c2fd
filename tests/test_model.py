"""A model in a data scientist's hands."""

from __future__ import annotations

import pickle
import stat

import numpy as np
import pandas as pd
import pytest
import xgboost

import hansa
from hansa.errors import DataError, HansaError


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
