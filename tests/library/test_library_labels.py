"""Several labels from Python and on the command line: frames, arrays, estimators, scores, predictions."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xgboost
from click.testing import CliRunner

import hansa
from hansa.cli.main import main
from hansa.errors import DataError, HansaError, PlanError

N = 600


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"a": rng.integers(0, 30, N), "b": rng.normal(size=N).round(2)})
    frame["operator"] = rng.choice(list("xyz"), N)
    frame["churn"] = (frame.a / 30 + rng.normal(size=N) * 0.3 > 0.5).astype(int)
    frame["fraud"] = (frame.b + rng.normal(size=N) > 1).astype(int)
    return frame


BOTH = ["churn", "fraud"]
GIVEN = {"rounds": 5, "max_depth": 3}


@pytest.fixture(scope="module")
def run(cells):
    return hansa.fit(
        hansa.split(cells, by="operator"), label=BOTH, mode="secure-aggregation", evaluation_fraction=0.3, **GIVEN
    )


def test_a_model_of_frames_knows_its_labels_and_predicts_each(cells, run):
    model = run.model
    assert model.label_names == ("churn", "fraud")
    shares = model.predict_proba(cells)
    assert shares.shape == (N, 2)
    assert (model.predict(cells) == (shares > 0.5)).all()
    loaded = model.to_xgboost()
    matrix = xgboost.DMatrix(cells[["a", "b"]].astype(float))
    np.testing.assert_allclose(loaded.predict(matrix), shares, atol=1e-6)
    assert all(set(own.together) == {"logloss", "error"} == set(own.alone) for own in run.members.values())


def test_arrays_and_frames_give_the_same_trees(cells, run):
    parties = {
        name: (part[["a", "b"]].to_numpy(float), part[BOTH].to_numpy())
        for name, part in hansa.split(cells, by="operator").items()
    }
    arrays = hansa.fit(parties, mode="secure-aggregation", evaluation_fraction=0.3, **GIVEN).model
    assert arrays.label_names == ("label_0", "label_1")
    X = cells[["a", "b"]].to_numpy(float)
    np.testing.assert_array_equal(arrays.predict_margin(X), run.model.predict_margin(X))
    parties["x"] = (parties["x"][0], parties["x"][1][:, :1])
    with pytest.raises(DataError, match=r"party 'x': the label has shape \(\d+, 1\)|expected \(rows,\)"):
        hansa.fit({name: parties[name] for name in ("y", "x")}, **GIVEN)


def test_folds_and_scores_are_over_labels(cells, run):
    found = hansa.cv(hansa.split(cells, by="operator"), label=BOTH, folds=3, **GIVEN)
    assert found.metric == "logloss"
    scored = hansa.evaluate(run.model, cells, label=BOTH)
    assert set(scored.metrics) == {"logloss", "error"}
    wrong = (run.model.predict(cells) != cells[BOTH].to_numpy()).mean()
    assert scored.metrics["error"] == pytest.approx(wrong)
    assert [own.of for own in scored.calibration] == BOTH
    assert scored.confusion is None
    with pytest.raises(PlanError, match="the model predicts 2 labels: churn, fraud; name a column for each, found 1"):
        hansa.evaluate(run.model, cells, label="churn")


def test_estimators_take_y_of_several_columns_as_xgboosts_do(cells):
    X, Y = cells[["a", "b"]].to_numpy(float), cells[BOTH].to_numpy()
    given = {"n_estimators": 4, "max_depth": 3}
    mine = hansa.HansaClassifier(**given).fit(X, Y, groups=cells.operator)
    theirs = xgboost.XGBClassifier(**given, tree_method="hist").fit(X, Y)
    assert mine.predict(X).shape == theirs.predict(X).shape == (N, 2)
    assert mine.predict_proba(X).shape == theirs.predict_proba(X).shape
    assert np.abs(mine.predict_proba(X) - theirs.predict_proba(X)).mean() < 0.01
    assert mine.score(X, Y) == pytest.approx(theirs.score(X, Y), abs=0.02)
    values = np.stack([X[:, 0], 100 * X[:, 1]], axis=1)
    regressor = hansa.HansaRegressor(n_estimators=20).fit(X, values, groups=cells.operator)
    assert regressor.predict(X).shape == (N, 2)
    assert regressor.score(X, values) > 0.95


def test_commands_take_labels_one_after_another(cells, run, tmp_path):
    table, model, scores = tmp_path / "cells.csv", tmp_path / "m.json", tmp_path / "p.csv"
    cells.to_csv(table, index=False)
    run.model.save(model)
    labels = ["--label", "churn", "--label", "fraud"]

    def called(*arguments):
        done = CliRunner().invoke(main, [*map(str, arguments)])
        assert done.exit_code == 0, done.output
        return done.output

    called("predict", model, table, "--save", scores)
    assert pd.read_csv(scores).columns.tolist() == ["prediction_churn", "prediction_fraud"]
    told = json.loads(called("evaluate", model, table, *labels, "--json"))
    assert [own["of"] for own in told["calibration"]] == BOTH
    assert "label = [" in called("schema", table, *labels)
    more = ["--party-column", "operator", "--rounds", 3, "--in-process", "--json", "--alone"]
    found = json.loads(called("simulate", table, *labels, *more))
    assert set(found["metrics"]) == {"logloss", "error"}
    assert found["trees"] == 6


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (["churn", "churn"], "column 'churn' is named twice as a label; name each once"),
        (["churn", "no"], "no column 'no'"),
    ],
)
def test_labels_that_cannot_be_are_refused(cells, label, words):
    with pytest.raises(HansaError, match=words):
        hansa.fit(hansa.split(cells, by="operator"), label=label, **GIVEN)


def test_a_description_is_of_one_label(cells):
    with pytest.raises(PlanError, match="a description has one label; agree on a plan that names one"):
        hansa.describe(hansa.split(cells, by="operator"), label=BOTH)
