"""`hansa evaluate`: a model on labelled rows, on the terminal, as JSON and as a page."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from made_consortium import FEATURES, assert_refused, cells, hansa, write_table

xgboost = pytest.importorskip("xgboost")

PLAN = """
name = "test"
mode = "federated"
[members]
aggregator = "hub"
parties = ["aurora", "borealis"]
[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"
[evaluation]
fraction = 0.25
[parameters]
objective = "binary:logistic"
rounds = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two models that XGBoost made, and a table of other rows."""
    folder = tmp_path_factory.mktemp("evaluate")
    columns = cells(300, 2)
    matrix = xgboost.DMatrix(
        np.stack([columns[n] for n in FEATURES], 1), columns["fault"], feature_names=list(FEATURES)
    )
    options = {"objective": "binary:logistic", "max_depth": 3, "nthread": 1}
    for rounds in (1, 8):
        xgboost.train(options, matrix, rounds).save_model(folder / f"model{rounds}.json")
    write_table(folder / "cells.csv", cells(200, 3))
    (folder / "plan.toml").write_text(PLAN)
    return folder


def test_what_is_found_is_xgboosts(folder):
    result = hansa("evaluate", folder / "model8.json", folder / "cells.csv", "--label", "fault", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    columns = cells(200, 3)
    matrix = xgboost.DMatrix(
        np.stack([columns[n] for n in FEATURES], 1), columns["fault"], feature_names=list(FEATURES)
    )
    booster = xgboost.Booster(model_file=str(folder / "model8.json"))
    probabilities, labels = booster.predict(matrix).astype(np.float64), columns["fault"]
    assert found["metrics"]["auc"] == pytest.approx(roc_auc_score(labels, probabilities))
    assert found["metrics"]["logloss"] == pytest.approx(log_loss(labels, probabilities), rel=1e-5)
    assert sum(map(sum, found["confusion"]["counts"])) == 200
    assert sum(own["rows"] for own in found["calibration"][0]["bins"]) == 200


def test_people_read_tables_and_a_page(folder, tmp_path):
    report = tmp_path / "model.html"
    given = (folder / "model8.json", folder / "cells.csv", "--label", "fault", "--report", report, "--bins", "4")
    result = hansa("evaluate", *given)
    assert result.exit_code == 0, result.output
    for expected in ("binary:logistic, 8 rounds", "200 rows", "auc", "0.75 to 1", "predicted 1", "recall"):
        assert expected in result.stdout, expected
    page = report.read_text(encoding="utf-8")
    assert page.count("<svg") == 4
    assert "Model model8.json" in page


def test_two_models_are_compared(folder):
    given = (folder / "model1.json", folder / "cells.csv", "--label", "fault", "--against", folder / "model8.json")
    result = hansa("evaluate", *given, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["second_loss"] < found["first_loss"]
    shown = hansa("evaluate", *given)
    assert "no difference beyond chance" in shown.stdout
    assert "predicted 1" in shown.stdout


def test_with_a_plan_the_rows_are_those_that_it_held_out(folder):
    result = hansa("evaluate", folder / "model8.json", folder / "cells.csv", "--plan", folder / "plan.toml", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["held_out"]
    assert 25 < found["rows"] < 80
    # The run's own rule, said in other words: the same rows whatever their order.
    table = duckdb.sql(f"SELECT * FROM '{folder / 'cells.csv'}' ORDER BY load").fetchnumpy()
    write_table(folder / "sorted.csv", {n: np.ma.filled(table[n].astype(float), np.nan) for n in (*FEATURES, "fault")})
    again = hansa("evaluate", folder / "model8.json", folder / "sorted.csv", "--plan", folder / "plan.toml", "--json")
    assert json.loads(again.stdout)["rows"] == found["rows"]
    assert json.loads(again.stdout)["metrics"] == pytest.approx(found["metrics"])


def test_what_cannot_be_is_refused(folder, tmp_path):
    model, table, plan = folder / "model8.json", folder / "cells.csv", folder / "plan.toml"
    assert_refused(hansa("evaluate", model, table), "no label is named; give --label, or --plan")
    named = hansa("evaluate", model, table, "--label", "load", "--plan", plan)
    assert_refused(named, "--label is 'load', and the plan's label 'fault'")
    none_out = tmp_path / "plan.toml"
    none_out.write_text(PLAN.replace("fraction = 0.25", "fraction = 0.0"))
    assert_refused(hansa("evaluate", model, table, "--plan", none_out), "the plan holds no rows out: training saw all")
    assert_refused(hansa("evaluate", model, table, "--label", "alarms"), "alarms")
    assert_refused(hansa("evaluate", table, table, "--label", "fault"), "cells.csv")


def test_a_model_beside_one_of_the_own_rows_alone(folder):
    given = (folder / "model8.json", folder / "cells.csv", "--plan", folder / "plan.toml", "--alone")
    found = json.loads(hansa("evaluate", *given, "--json").stdout)
    assert found["names"] == ["common", "own"]
    assert (found["first"]["rounds"], found["second"]["rounds"], found["second"]["held_out"]) == (8, 3, True)
    shown = hansa("evaluate", *given)
    assert "of the common model" in shown.stdout
    for lacking in (given[:2] + given[4:], (*given, "--against", folder / "model1.json")):
        refused = hansa("evaluate", *lacking, "--label", "fault")
        assert refused.exit_code == 2
        assert "--alone needs --plan, and does not go with --against" in refused.stderr
