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
