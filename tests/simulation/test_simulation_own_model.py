"""A member's own answer: the common model beside one of its rows alone, on rows that the plan held out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss

import hansa
from hansa.data.holdout import HoldOut, held_out
from hansa.errors import DataError, HansaError, PlanError
from hansa.plan import parse_plan
from hansa.simulation.evaluation import question_of
from hansa.simulation.own_model import advice_of, compare_with_own
from made_consortium import FEATURES, cells, write_table

PLAN = """
name = "test"
mode = "{mode}"
[members]
{members}
parties = ["aurora", "borealis", "cirrus"]
[schema]
features = ["load", "rsrp", "alarms"]
label = "fault"
[evaluation]
fraction = 0.25
[parameters]
objective = "binary:logistic"
rounds = 4
max_depth = 3
max_bin = 16
"""
SUMS, SHARES = 'aggregator = "hub"', 'hub = "hub"\nservers = ["aurora", "borealis", "cirrus"]'


def plan_of(mode: str = "federated"):
    return parse_plan(PLAN.format(mode=mode, members=SHARES if mode == "coopetitive" else SUMS))


def asked(plan):
    return question_of((), None, plan, decimal=".", base_margin=(), threshold=0.5, bins=10)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    write_table(tmp_path / "cells.csv", cells(400, 3))
    return tmp_path / "cells.csv"


def common(flipped: bool = False) -> hansa.Model:
    """Of other rows; flipped: its labels are the opposite."""
    rows = pd.DataFrame(cells(600, 8))[[*FEATURES, "fault"]]
    if flipped:
        rows["fault"] = 1 - rows["fault"]
    parties = {name: rows[at::3] for at, name in enumerate(("aurora", "borealis", "cirrus"))}
    return hansa.fit(parties, label="fault", rounds=4, max_depth=3, alone=False, progress=False).model


def held(frame: pd.DataFrame) -> np.ndarray:
    features = np.ascontiguousarray(frame[list(FEATURES)].to_numpy(np.float32).T)
    return held_out(features, frame["fault"].to_numpy(np.float32), HoldOut(0.25, plan_of().parameters.seed), None)


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation", "coopetitive"])
def test_the_own_model_is_that_of_a_run_of_its_rows_alone(table: Path, mode: str):
    """Of the plan's parameters, on the rows that the plan does not hold out; both losses are scikit-learn's."""
    model, plan = common(), plan_of(mode)
    found = compare_with_own(model.ensemble, table, asked(plan))
    rows = pd.read_csv(table)[[*FEATURES, "fault"]]
    out = held(rows)
    alone = hansa.fit(
        {"aurora": rows[~out]},
        label="fault",
        rounds=4,
        max_depth=3,
        max_bin=16,
        min_cell_rows=plan.min_cell_rows,
        alone=False,
        progress=False,
    ).model
    test = rows[out]
    losses = [log_loss(test["fault"], each.predict_proba(test[list(FEATURES)])[:, 1]) for each in (model, alone)]
    assert found.names == ("common", "own")
    assert (found.first.rows, found.second.rows, found.first.held_out) == (out.sum(), out.sum(), True)
    assert (found.first_loss, found.second_loss) == pytest.approx(losses, rel=1e-5)
    assert "of the common model" in found.facts()
    assert "of the own" in found.facts()
    assert found.views()[0].table[0] == ("metric", "common", "own")


def test_a_member_whose_own_model_is_better_is_told(table: Path):
    found = compare_with_own(common(flipped=True).ensemble, table, asked(plan_of()))
    assert found.better == "own"
    assert "the own model is better" in found.facts()
    assert "this member: its own model predicts its rows better than the common one" in advice_of(found)
    assert advice_of(compare_with_own(common().ensemble, table, asked(plan_of()))) == ""


def test_what_gives_no_model_of_own_rows_is_said(table: Path, tmp_path: Path):
    model = common().ensemble
    with pytest.raises(PlanError, match=r"it holds none out \(evaluation.fraction\)"):
        compare_with_own(model, table, asked(replace(plan_of(), evaluation_fraction=0.0)))
    columns = cells(400, 3)
    write_table(tmp_path / "healthy.csv", columns | {"fault": np.zeros(400)})
    with pytest.raises(HansaError, match=r"healthy\.csv: its rows alone give no model: .* the same label 0"):
        compare_with_own(model, tmp_path / "healthy.csv", asked(plan_of()))
    write_table(tmp_path / "short.csv", {name: columns[name] for name in ("load", "rsrp", "fault")})
    with pytest.raises(DataError, match="alarms"):
        compare_with_own(model, tmp_path / "short.csv", asked(plan_of()))
