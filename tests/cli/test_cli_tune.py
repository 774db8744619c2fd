"""`hansa tune`: the trials of the library, from options."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.simulation.tuning import Trials
from made_consortium import assert_refused, cells, write_table
from made_consortium import hansa as command

GIVEN = ("--label", "fault", "--party-column", "operator", "--trials", "3", "--rounds", "3", "--set", "max_depth=2")
SEARCH = ("--search", "eta=0.1,0.9,log", "--search", "max_delta_step=[0,1]", "--search", "lambda=1,4")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    operator = np.array(["aurora", "borealis", "cirrus"], object)[np.arange(240) % 3]
    return write_table(
        tmp_path_factory.mktemp("tables") / "cells.csv", {"operator": operator, **cells(240, 5), "site": np.arange(240)}
    )


def test_the_object_is_that_of_the_library(table):
    done = command("tune", table, *GIVEN, *SEARCH, "--seed", "3", "--json")
    assert done.exit_code == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=Trials)
    space = {"eta": (0.1, 0.9, "log"), "max_delta_step": [0, 1], "lambda": (1, 4)}
    parties = hansa.split(pd.read_csv(table), by="operator")
    ours = hansa.tune(
        parties,
        "fault",
        space=space,
        trials=3,
        seed=3,
        rounds=3,
        max_depth=2,
        objective="binary:logistic",
        progress=False,
    )
    assert [(t.parameters, t.value) for t in found.trials] == [(t.parameters, t.value) for t in ours.trials.trials]
    assert found.best_parameters == ours.best_parameters


def test_the_table_has_every_trial_the_best_first(table):
    done = command("tune", table, *GIVEN, "--search", "eta=[0.000001,0.5]", "--folds", "2")
    assert done.exit_code == 0, done.stderr
    assert "3 trials on 240 rows" in done.stdout
    rows = [line for line in done.stdout.splitlines() if "complete" in line]
    assert len(rows) == 3
    assert "±" in rows[0]


@pytest.mark.parametrize(
    ("options", "status", "fragments"),
    [
        (("--search", "eta=0.1"), 1, ("parameter 'eta' is 0.1", "list of choices")),
        (("--search", "eta=low,high"), 2, ("'eta=low,high'", "LOWEST,HIGHEST")),
        (("--search", "depth=1,2"), 1, ("parameter 'depth' is unknown",)),
        (("--search", "max_depth=1,2"), 1, ("parameter 'max_depth' is given twice",)),
        (("--trials", "0"), 2, ("--trials",)),
    ],
)
def test_what_cannot_be_searched_is_refused(table, options, status, fragments):
    done = command("tune", table, *GIVEN, *options)
    assert done.exit_code == status
    assert all(fragment in done.stderr for fragment in fragments), done.stderr


def test_an_id_without_folds_is_refused(table):
    assert_refused(command("tune", table, *GIVEN, "--search", "eta=[0.1]", "--id", "site"), "id: goes with folds")
