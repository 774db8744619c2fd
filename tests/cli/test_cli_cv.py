"""`hansa cv`: the table and the JSON object, which are those of the library."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

import hansa
from made_consortium import assert_refused, cells, write_table
from made_consortium import hansa as command

GIVEN = ("--label", "fault", "--party-column", "operator", "--folds", "3", "--rounds", "2", "--set", "max_depth=2")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    columns = cells(240, 5)
    operator = np.array(["aurora", "borealis"], object)[np.arange(240) % 2]
    return write_table(
        tmp_path_factory.mktemp("tables") / "cells.csv", {"operator": operator, "site": np.arange(240) // 4, **columns}
    )


def test_the_object_is_that_of_the_library(table):
    done = command("cv", table, *GIVEN, "--id", "site", "--seed", "3", "--alone", "--json")
    assert done.exit_code == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=hansa.CV)
    parties = hansa.split(pd.read_csv(table), by="operator")
    given = {"folds": 3, "rounds": 2, "max_depth": 2, "id": "site", "seed": 3, "alone": True}
    ours = hansa.cv(parties, label="fault", progress=False, **given)
    assert (found.history, found.members) == (ours.history, ours.members)
    assert json.loads(done.stdout)["metric"] == "logloss"


def test_the_table_has_the_metrics_and_the_parties(table):
    done = command("cv", table, *GIVEN, "--set", "eval_metric=auc")
    assert done.exit_code == 0, done.stderr
    assert "3 folds of 240 rows, 2 parties" in done.stdout
    assert all(word in done.stdout for word in ("auc", "±", "borealis", "logloss together"))


def test_an_id_that_is_not_there_is_refused(table):
    assert_refused(command("cv", table, *GIVEN, "--id", "patient"), "no column 'patient'")


METRIC = "import numpy as np\n\n\ndef miss(predictions, labels, weights):\n    return np.abs(predictions - labels)\n"


def test_dates_rare_levels_and_a_metric_of_ones_own_are_those_of_the_library(table, tmp_path):
    frame = pd.read_csv(table)
    frame["opened"] = (pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(240) * 5 % 365, "D")).astype(str)
    frame["kind"] = np.where(np.arange(240) % 60 == 0, "odd", np.array(["a", "b"])[np.arange(240) % 2])
    frame.to_csv(tmp_path / "dated.csv", index=False)
    (tmp_path / "miss.py").write_text(METRIC)
    options = ("--date", "month=month of opened", "--rare-levels", "kind=20", "--custom-metric", tmp_path / "miss.py")
    done = command("cv", tmp_path / "dated.csv", *GIVEN, *options, "--metric-bound", "1", "--seed", "3", "--json")
    assert done.exit_code == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=hansa.CV)
    ours = hansa.cv(
        hansa.split(pd.read_csv(tmp_path / "dated.csv"), by="operator"), "fault", folds=3, rounds=2, max_depth=2, seed=3,
        dates={"month": "month of opened"}, rare_levels={"kind": 20}, progress=False,
        custom_metric=lambda p, y, w: np.abs(p - y), metric_bound=1.0,
    )  # fmt: skip
    assert found.metric == "miss"
    assert found.history["miss"] == ours.history["custom"]
    assert found.history["logloss"] == ours.history["logloss"]
    refused = command("cv", table, *GIVEN, "--custom-metric", tmp_path / "miss.py")
    assert_refused(refused, "--custom-metric needs --metric-bound")
    assert_refused(command("cv", table, *GIVEN, "--maximize"), "go with --custom-metric")
