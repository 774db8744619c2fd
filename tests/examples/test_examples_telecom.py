"""The project of three operators: its README is followed, and what comes out agrees between the ways to run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from walkthrough import Walkthrough, follow, headings

import hansa
from hansa.node.in_process import train_in_process

FAST = ("Tables", "Five lines of Python", "Keys", "Federated, by hand")
SLOW = (
    "Tables",
    "All modes from Python",
    "Keys",
    "Secure aggregation, by hand",
    "Coopetitive, by hand, three processes",
)


def test_every_section_is_followed():
    assert {*FAST, *SLOW} == set(headings("telecom"))


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walkthrough:
    return follow("telecom", tmp_path_factory.mktemp("telecom"), FAST)


def same_run_in_one_process(folder: Path, mode: str) -> bytes:
    plan = hansa.read_plan(folder / mode / "plan.toml")
    kind = plan.parameters.label_kind
    tables = {name: hansa.read_rows(folder / f"{name}.csv", plan.schema, label_kind=kind) for name in plan.parties}
    return train_in_process(plan, tables).outcome.model


def test_processes_by_hand_give_the_model_of_one_process_and_only_to_receivers(walk):
    model = (walk.folder / "federated" / "aurora-model.json").read_bytes()
    assert model == same_run_in_one_process(walk.folder, "federated")
    assert model == (walk.folder / "federated" / "borealis-model.json").read_bytes()
    assert not (walk.folder / "federated" / "cirrus-model.json").exists()


def test_the_predictions_are_those_of_the_model(walk):
    model = hansa.Model.load(walk.folder / "federated" / "aurora-model.json")
    written = pd.read_csv(walk.folder / "scores.csv")["prediction"]
    expected = model.predict_proba(pd.read_csv(walk.folder / "new-cells.csv"))[:, 1]
    assert np.abs(written - expected).max() < 1e-6


def test_the_lines_of_python_find_sleeping_cells(walk):
    run, scores = walk.names["run"], walk.names["scores"]
    assert list(run.members) == ["aurora", "borealis", "cirrus"]
    asleep = pd.read_csv(walk.folder / "sleeping.csv")["sleeping_cell"] == 1
    assert scores[asleep].mean() > 10 * scores[~asleep].mean()


@pytest.mark.slow
def test_the_protected_modes_run_from_python_and_by_hand(tmp_path):
    walk = follow("telecom", tmp_path, SLOW)
    model = (tmp_path / "secure-aggregation" / "aurora-model.json").read_bytes()
    assert model == same_run_in_one_process(tmp_path, "secure-aggregation")
    record = json.loads((tmp_path / "secure-aggregation" / "hub-record.json").read_text())
    assert record["masked_bytes"] > 0
    assert "opened to it: release.open_tree" in walk.printed["hansa party coopetitive/borealis.toml"]
    assert "opened to it: release.open_tree" not in walk.printed["hansa party coopetitive/cirrus.toml"]
    assert (tmp_path / "coopetitive" / "aurora-model.json").read_bytes() == (
        tmp_path / "coopetitive" / "borealis-model.json"
    ).read_bytes()
