"""Runs and models in MLflow: what is logged is what the run gave, and the signed files stay as they are."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hansa as library
from hansa.errors import HansaError
from hansa.trees.xgboost_json import from_model_file
from made_consortium import FEATURES, PLAN, assert_refused, cells, hansa

mlflow = pytest.importorskip("mlflow")
pytest.importorskip("mlflow.xgboost")


@pytest.fixture
def tracking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A store in a folder of its own."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    uri = (tmp_path / "store").as_uri()
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield uri
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def run():
    parties = {name: pd.DataFrame(cells(120, seed)) for seed, name in enumerate(("aurora", "borealis"))}
    return library.fit(
        parties,
        label="fault",
        rounds=3,
        max_depth=2,
        evaluation_fraction=0.3,
        eval_metric=["logloss", "auc"],
        progress=False,
    )


def logged(experiment="0"):
    (found,) = mlflow.MlflowClient().search_runs([experiment])
    return found


def test_a_run_is_logged_with_its_metrics_and_its_model(tracking, run):
    uri = library.log_run(run)
    found = logged()
    assert found.info.status == "FINISHED"
    assert found.data.params["max_depth"] == "2"
    assert found.data.params["mode"] == "federated"
    assert found.data.tags["hansa.plan"] == run.plan.digest().hex()
    client = mlflow.MlflowClient()
    for metric, values in run.history.items():
        points = client.get_metric_history(found.info.run_id, f"held_out.{metric}")
        assert [(point.step, point.value) for point in points] == [
            (k, pytest.approx(v)) for k, v in enumerate(values, 1)
        ]
    assert found.data.metrics["aurora.alone.auc"] == pytest.approx(run.members["aurora"].alone["auc"])
    model = mlflow.xgboost.load_model(uri)
    import xgboost

    table = pd.DataFrame(cells(50, 9))[list(FEATURES)]
    predicted = model.predict(xgboost.DMatrix(table.to_numpy(np.float32), feature_names=list(FEATURES)))
    np.testing.assert_allclose(predicted, run.model.predict_proba(table)[:, 1], atol=1e-6)
    signature = mlflow.models.get_model_info(uri).signature
    assert signature.inputs.input_names() == list(FEATURES)


def test_what_is_active_is_logged_into_and_stays_open(tracking, run):
    with mlflow.start_run() as outer:
        library.log_run(run)
        assert mlflow.active_run().info.run_id == outer.info.run_id
    assert logged().data.params["rounds"] == "3"


def test_a_member_logs_its_files_as_they_are(tracking, run, tmp_path):
    model, plan, provenance = tmp_path / "model.json", tmp_path / "plan.toml", tmp_path / "provenance.json"
    run.model.save(model)
    plan.write_text(PLAN)
    provenance.write_text('{"payload": "signed"}')
    options = (
        "--plan",
        plan,
        "--provenance",
        provenance,
        "--tracking-uri",
        tracking,
        "--experiment",
        "cells",
        "--json",
    )
    result = hansa("mlflow", model, *options)
    assert result.exit_code == 0, result.output
    uri = json.loads(result.stdout.splitlines()[-1])["model_uri"]
    assert uri.startswith("models:/")
    client = mlflow.MlflowClient()
    found = logged(client.get_experiment_by_name("cells").experiment_id)
    assert found.data.params["max_bin"] == "16"
    folder = Path(client.download_artifacts(found.info.run_id, "hansa/model"))
    assert hashlib.sha256((folder / "model.json").read_bytes()).digest() == hashlib.sha256(model.read_bytes()).digest()
    assert (folder / "provenance.json").read_bytes() == provenance.read_bytes()
    assert from_model_file((folder / "model.json").read_bytes()) == run.model.ensemble


def test_a_file_that_is_no_record_is_refused(tracking, run, tmp_path):
    model, record = tmp_path / "model.json", tmp_path / "record.json"
    run.model.save(model)
    record.write_text("{}")
    assert_refused(hansa("mlflow", model, "--record", record), "record.json: is no record of a run")


def test_without_mlflow_it_says_what_to_install(run, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(HansaError, match=r"needs mlflow-skinny and XGBoost: pip install 'hansa\[mlflow\]'"):
        library.log_run(run)
