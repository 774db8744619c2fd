"""The project of three hospitals: its README is followed, and it prints every opening of the run."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from walkthrough import Walkthrough, follow

import hansa
from hansa.exposure import openings_under


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Walkthrough:
    return follow("hospitals", tmp_path_factory.mktemp("hospitals"))


def test_every_opening_of_the_plan_is_printed_and_no_other(walk):
    plan = hansa.read_plan(walk.folder / "plan.toml")
    printed = walk.printed["python train.py"].partition("everything that was opened:\n")[2].splitlines()
    assert printed == [f"  to {opening.to}: {opening.what}" for opening in openings_under(plan)]


def test_without_a_base_score_the_sum_of_labels_is_opened_too(walk):
    run = walk.names["run"]
    plan = hansa.read_plan(walk.folder / "plan.toml")
    more = set(run.openings) - set(openings_under(plan))
    assert [opening.function for opening in more] == ["pooled_sums"]


def test_every_tumour_is_dealt_once(walk):
    patients, later = (pd.read_csv(walk.folder / f"{name}.csv") for name in ("patients", "later"))
    assert len(patients) + len(later) == 569
    own = {name: pd.read_csv(walk.folder / f"{name}.csv") for name in ("riverside", "hillcrest", "lakeside")}
    assert {name: len(part) for name, part in own.items()} == patients["hospital"].value_counts().to_dict()


def test_the_model_that_was_saved_predicts_as_xgboost_does(walk):
    xgboost = pytest.importorskip("xgboost")
    model = hansa.Model.load(walk.folder / "model.json")
    later = pd.read_csv(walk.folder / "later.csv")[list(model.feature_names)]
    theirs = xgboost.Booster(model_file=walk.folder / "model.json").predict(xgboost.DMatrix(later))
    assert np.abs(theirs - model.predict_proba(later)[:, 1]).max() < 1e-6
