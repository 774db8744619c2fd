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
