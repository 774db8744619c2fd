"""`hansa.describe`: frames and arrays, real rows against pandas, and what is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.errors import DataError, PlanError

REAL = Path(__file__).parents[3] / "shared" / "data" / "heart_disease.csv.gz"
RNG = np.random.default_rng(8)
X = RNG.normal(size=(300, 2)).astype(np.float32)
Y = (X[:, 0] > 0).astype(int)
PARTIES = {"aurora": (X[:100], Y[:100]), "borealis": (X[100:180], Y[100:180]), "cirrus": (X[180:], Y[180:])}


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_arrays_are_described(mode):
    found = hansa.describe(PARTIES, mode=mode)
    assert found.parties == {"aurora": 100, "borealis": 80, "cirrus": 120}
    assert {each.level: each.rows for each in found.label.categories} == {0: (Y == 0).sum(), 1: (Y == 1).sum()}
    assert bool(found.label.shifts) == (mode == "federated")
    assert found.mode == mode


def test_texts_as_classes_and_categories_keep_their_names():
    frame = pd.DataFrame({"site": ["north", "south", "west"] * 40, "risk": ["no", "no", "yes"] * 40})
    parties = {"aurora": frame[:60], "borealis": frame[60:]}
    found = hansa.describe(parties, label="risk", classes=["no", "yes"])
    assert {each.level: each.rows for each in found.label.categories} == {"no": 80, "yes": 40}
    assert {each.level: each.rows for each in found.features[0].categories} == dict.fromkeys(
        ("north", "south", "west"), 40
    )


def test_a_minimum_of_rows_holds_for_every_cell_that_is_told():
    found = hansa.describe(PARTIES, min_cell_rows=60)
    counts = [each.rows for own in found.columns for each in (*own.bins, *own.categories)]
    assert min(counts) >= 60
    assert found.min_cell_rows == 60


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mode": "coopetitive"}, r"mode 'coopetitive' opens cuts.*no counts of rows"),
        ({"mode": "open"}, "expected one of federated"),
        ({"colour": 3}, "colour"),
        ({"max_bin": 1}, "max_bin"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(PlanError, match=said):
        hansa.describe(PARTIES, **given)


def test_a_party_whose_labels_are_no_classes_is_named():
    with pytest.raises(DataError, match="party 'borealis'"):
        hansa.describe(PARTIES | {"borealis": (X[:50], np.full(50, 7.5))})


@pytest.mark.skipif(not REAL.exists(), reason="the real tables are not here")
@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_four_hospitals_are_described_as_pandas_has_them_pooled(mode):
    with gzip.open(REAL, "rt") as file:
        rows = pd.read_csv(file)
    found = hansa.describe(hansa.split(rows, by="hospital"), label="disease", mode=mode)
    assert found.rows == len(rows)
    for own in found.columns:
        values = rows[own.name].astype(np.float32)
        missing = int(values.isna().sum())
        assert own.missing == (missing if missing == 0 or missing >= 10 else None)
        if own.levels:
            assert {each.level: each.rows for each in own.categories} == values.value_counts().to_dict()
            continue
        edges = [-np.inf, *own.cuts.tolist(), np.inf]
        counts = pd.cut(values, edges, right=False).value_counts(sort=False).tolist()
        counts[-1] += missing if own.missing is None else 0
        assert [each.rows for each in own.bins] == counts
        for each in own.quantiles:
            exact = np.quantile(values.dropna(), each.percent / 100, method="inverted_cdf")
            assert (-np.inf if each.low is None else each.low) <= exact < (np.inf if each.high is None else each.high)
