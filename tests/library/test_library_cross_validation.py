"""`hansa.cv`: what it takes from frames, and what it refuses."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest

import hansa
from hansa.errors import DataError, PlanError

N = 240
QUICK = {"rounds": 3, "max_depth": 2, "progress": False}


def cells() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "operator": np.array(["aurora", "Borealis AG"])[np.arange(N) % 2],
            "site": np.arange(N) // 3,
            "load": rng.normal(size=N).astype(np.float32),
            "vendor": np.array(["north", "south"])[rng.integers(0, 2, N)],
        }
    )
    frame["fault"] = np.where(frame["load"] + rng.logistic(size=N) > 1, "yes", "no")
    return frame


def test_frames_texts_classes_and_subjects():
    parties = hansa.split(cells(), by="operator")
    given = {"label": "fault", "classes": ["no", "yes"], "folds": 3, "categorical": ["vendor"], **QUICK}
    found = hansa.cv(parties, id="site", alone=True, eval_metric=["error", "logloss"], **given)
    assert list(found.members) == ["Borealis AG", "aurora"]
    assert list(found.history) == ["error", "logloss"]
    assert found.metric == "logloss"
    assert found.at_best("error") == (found.history["error"].mean[2], found.history["error"].std[2])
    for backend in ("pandas", "polars", "pyarrow"):
        frame = found.to_frame(backend)
        assert frame.shape == (3, 4)
    in_polars = {name: pl.from_pandas(part) for name, part in parties.items()}
    assert hansa.cv(in_polars, id="site", eval_metric=["error", "logloss"], **given).history == found.history
    other = hansa.cv(parties, id="site", seed=1, eval_metric=["error", "logloss"], **given)
    assert other.history != found.history


def test_what_is_refused():
    parties = hansa.split(cells().assign(fault=np.arange(N) % 2), by="operator")
    with pytest.raises(PlanError, match="mode is 'plain'"):
        hansa.cv(parties, label="fault", mode="plain", **QUICK)
    with pytest.raises(PlanError, match="evaluation_fraction: cross-validation tests on folds"):
        hansa.cv(parties, label="fault", evaluation_fraction=0.2, **QUICK)
    with pytest.raises(DataError, match="no column 'patient'"):
        hansa.cv(parties, label="fault", id="patient", **QUICK)
    with pytest.raises(DataError, match="column 'fault' is to be two of label, weight, party and id"):
        hansa.cv(parties, label="fault", id="fault", **QUICK)
    parties["aurora"] = parties["aurora"].assign(site=[None, *range(119)])
    with pytest.raises(DataError, match="row 1, column 'site': says no id; fill it in"):
        hansa.cv(parties, label="fault", id="site", **QUICK)


def dated() -> pd.DataFrame:
    rng = np.random.default_rng(8)
    frame = cells().assign(fault=np.arange(N) % 2)
    frame["opened"] = pd.Timestamp("2023-06-01") + pd.to_timedelta(rng.integers(0, 500, N), "D")
    return frame


def test_dates_are_the_numbers_that_their_rules_make():
    frame = dated()
    given = {"label": "fault", "folds": 3, "eval_metric": "auc", **QUICK}
    rules = {"opened": "days", "month": "month of opened"}
    found = hansa.cv(hansa.split(frame, by="operator"), dates=rules, **given)
    days = (frame["opened"] - pd.Timestamp("1970-01-01")).dt.days
    by_hand = frame.assign(opened=days, month=frame["opened"].dt.month)
    assert found.history == hansa.cv(hansa.split(by_hand, by="operator"), **given).history


def test_rare_levels_are_those_that_are_joined_by_hand():
    frame = cells().assign(fault=np.arange(N) % 2)
    frame["vendor"] = np.where(
        np.arange(N) % 40 == 0, np.array(["east", "west"])[np.arange(N) // 40 % 2], frame["vendor"]
    )
    joined = frame.assign(vendor=frame["vendor"].replace({"east": "zz", "west": "zz"}))
    given = {"label": "fault", "folds": 3, "id": "site", "alone": True, **QUICK}
    found = hansa.cv(hansa.split(frame, by="operator"), rare_levels={"vendor": 10}, **given)
    by_hand = hansa.cv(hansa.split(joined, by="operator"), **given)
    assert found.history == by_hand.history
    assert found.members["aurora"].together == by_hand.members["aurora"].together
    with pytest.raises(PlanError, match=r"schema\.rare_levels goes with the modes that have an aggregator"):
        hansa.cv(hansa.split(frame, by="operator"), rare_levels={"vendor": 10}, mode="coopetitive", **given)


def miss(predictions, labels, weights):
    return abs(predictions - labels)


@pytest.mark.parametrize("weight", [None, "heavy"])
def test_a_metric_of_ones_own_is_the_last_and_chooses_the_round(weight):
    """Of an objective of numbers this one is mae, which Hansa has too."""
    frame = cells().drop(columns="fault").assign(heavy=1.0 + np.arange(N) % 3)
    parties = hansa.split(frame, by="operator")
    given = {
        "label": "load",
        "weight": weight,
        "folds": 3,
        "objective": "reg:squarederror",
        "eval_metric": "mae",
        **QUICK,
    }
    found = hansa.cv(parties, custom_metric=miss, metric_bound=8.0, early_stopping_rounds=1, **given)
    assert (list(found.history), found.metric) == (["mae", "miss"], "miss")
    assert found.history["miss"].mean == pytest.approx(found.history["mae"].mean, rel=1e-6)
    upside = hansa.cv(parties, custom_metric=miss, metric_bound=8.0, maximize=True, **given)
    assert upside.best_round == int(np.argmax(upside.history["miss"].mean)) + 1
    with pytest.raises(PlanError, match="custom_metric needs metric_bound"):
        hansa.cv(parties, custom_metric=miss, **given)
    with pytest.raises(PlanError, match="custom_metric goes with the modes that have an aggregator"):
        hansa.cv(parties, custom_metric=miss, metric_bound=8.0, mode="coopetitive", **given)
    with pytest.raises(DataError, match="are no numbers from 0 to 1e-06"):
        hansa.cv(parties, custom_metric=miss, metric_bound=1e-6, **given)
