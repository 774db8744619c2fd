"""The project of four banks: its README is followed, only receivers have the model, and banks gain."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from walkthrough import Walkthrough, follow

import hansa

BANKS = ("harbour", "meadow", "orchard", "summit")


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walkthrough:
    return follow("laundering", tmp_path_factory.mktemp("laundering"))


def test_only_the_receivers_that_the_plan_names_have_the_model(walk):
    plan = hansa.read_plan(walk.folder / "plan.toml")
    have = {bank for bank in BANKS if (walk.folder / f"{bank}-model.json").exists()}
    assert have == set(plan.receivers) == {"harbour", "meadow", "orchard"}
    assert len({(walk.folder / f"{bank}-model.json").read_bytes() for bank in have}) == 1


def test_laundering_is_rare_at_every_bank(walk):
    transfers = pd.read_csv(walk.folder / "transfers.csv")
    shares = transfers.groupby("bank")["laundering"].mean()
    assert set(shares.index) == set(BANKS)
    assert shares.between(0.005, 0.02).all()


def test_the_receivers_find_more_together_than_alone(walk):
    rows = [line.split() for line in walk.printed["python alerts.py"].splitlines() if line.startswith(BANKS)]
    alone, together = (sum(int(row[column]) for row in rows) for column in (3, 4))
    assert len(rows) == 3
    assert together > alone


def test_no_leaf_of_the_model_holds_fewer_rows_than_the_plan_says(walk):
    plan = hansa.read_plan(walk.folder / "plan.toml")
    model = json.loads((walk.folder / "harbour-model.json").read_text())
    first = model["learner"]["gradient_booster"]["model"]["trees"][0]
    leaves = np.array(first["left_children"]) == -1
    # In the first tree all rows have the same hessian, p (1 - p) of the base score.
    share = float(model["learner"]["learner_model_param"]["base_score"].strip("[]"))
    rows = np.array(first["sum_hessian"])[leaves] / (share * (1 - share))
    assert rows.min() >= plan.min_child_rows * 0.99
    assert walk.names["gains"].keys() <= set(plan.schema.features)
