"""Drift of a table from a description: against pandas on the rows themselves."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import hansa
from hansa.data.drift import FAR, STEADY
from hansa.errors import DataError

RNG = np.random.default_rng(3)
N_ROWS = 900


def rows(shift: float = 0.0, missing: float = 0.1) -> pd.DataFrame:
    found = pd.DataFrame(
        {
            "load": RNG.normal(shift, size=N_ROWS),
            "site": RNG.choice(["north", "south", "west"], N_ROWS, p=[0.6, 0.3, 0.1]),
            "operator": RNG.choice(["aurora", "borealis", "cirrus"], N_ROWS),
        }
    )
    found["fault"] = (found["load"] > shift).astype(int)
    found.loc[RNG.random(N_ROWS) < missing, "load"] = np.nan
    return found


THEN = rows()


@pytest.fixture(scope="module", params=["federated", "secure-aggregation"])
def described(request):
    return hansa.describe(hansa.split(THEN, by="operator"), label="fault", mode=request.param)


def of(found: hansa.Drift, name: str):
    return next(own for own in found.features if own.name == name)


def test_the_same_rows_have_not_moved(described):
    found = hansa.drift(described, THEN)
    assert [(own.psi, own.moved, own.unknown) for own in found.features] == [(0.0, 0.0, 0)] * 2
    assert all(own.missing_then == own.missing_now for own in found.features)
    assert {own.rating for own in found.features} == {"steady"}


def test_the_share_in_the_end_bins_and_of_missing_values_is_that_of_pandas(described):
    now = rows(1.5, 0.3)
    load = of(hansa.drift(described, now), "load")
    low, high = described.features[0].bins[0].high, described.features[0].bins[-1].low
    for table, ends, missing in ((THEN, load.ends_then, load.missing_then), (now, load.ends_now, load.missing_now)):
        values = table["load"].astype(np.float32)
        assert ends == pytest.approx(((values < low) | (values >= high)).mean())
        assert missing == pytest.approx(values.isna().mean())
    assert load.psi > FAR
    assert load.rating == "far"


def test_a_small_shift_is_rated_between(described):
    ratings = [of(hansa.drift(described, rows(shift)), "load").psi for shift in (0.0, 0.4, 2.0)]
    assert ratings[0] < STEADY < ratings[1] < FAR < ratings[2]


def test_levels_that_the_plan_does_not_list_are_counted(described):
    now = THEN.assign(site=THEN["site"].replace("south", "elsewhere"))
    site = of(hansa.drift(described, now), "site")
    assert site.unknown == (THEN["site"] == "south").sum()
    assert site.psi > FAR


def test_a_saved_description_is_the_same_and_a_column_that_lacks_is_named(described, tmp_path):
    saved, table = tmp_path / "then.json", tmp_path / "now.csv"
    saved.write_bytes(described.to_json())
    now = rows(0.5)
    now.to_csv(table, index=False)
    assert hansa.drift(saved, table).features == hansa.drift(described, now).features
    with pytest.raises(DataError, match="'load'"):
        hansa.drift(described, now.drop(columns="load"))
    with pytest.raises(DataError, match="no description"):
        hansa.drift(table, now)
    with pytest.raises(DataError, match="gone"):
        hansa.drift(tmp_path / "gone.json", now)


def test_the_frame_and_the_table_have_the_farthest_first(described):
    found = hansa.drift(described, rows(2.0))
    assert found.to_frame()["name"].tolist() == ["load", "site"]
    assert found.tables()[0][1][0] == "load"
    assert "1 are far" in repr(found)
    assert "<table" in found._repr_html_()
