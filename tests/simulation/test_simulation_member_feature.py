"""A feature that says whose a row is."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import hansa
from made_consortium import hansa as command


def rows(n_rows=600):
    """The label rises with load at operators a and b, and falls at c."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"load": np.round(rng.normal(size=n_rows), 1), "operator": rng.choice(list("abc"), n_rows)})
    signal = np.where(frame["operator"] == "c", -1, 1) * frame["load"]
    frame["fault"] = (signal + 0.3 * rng.normal(size=n_rows) > 0).astype(int)
    return frame


FRAME = rows()


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_members_that_differ_are_told_apart(mode):
    parties = hansa.split(FRAME, by="operator")
    given = {"mode": mode, "rounds": 5, "max_depth": 3}
    plain = hansa.fit(parties, "fault", **given)
    run = hansa.fit(parties, "fault", member_feature="operator", **given)
    written = hansa.fit({name: own.assign(operator=name) for name, own in FRAME.groupby("operator")}, "fault", **given)
    assert run.model == written.model
    assert run.model.feature_names == ("load", "operator")
    labels = FRAME["fault"].to_numpy()
    right = (run.model.predict(FRAME) == labels).mean()
    assert right > 0.85 > (plain.model.predict(FRAME) == labels).mean() + 0.05


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(
        hansa.DataError, match="a member feature 'load' is asked for, and the table has a column of this name"
    ):
        hansa.fit(hansa.split(FRAME, by="operator"), "fault", member_feature="load", rounds=1)


def test_cross_validation_and_search_take_it():
    parties = hansa.split(FRAME, by="operator")
    given = {"rounds": 4, "max_depth": 3, "eval_metric": "error"}
    found, plain = (
        hansa.cv(parties, "fault", folds=3, member_feature=name, **given).history["error"].mean[-1]
        for name in ("who", None)
    )
    assert found < plain


@pytest.mark.parametrize("held", [(), ("--test", "test.csv")])
def test_the_command_trains_and_tests_with_it(tmp_path, held):
    FRAME.to_csv(tmp_path / "t.csv", index=False)
    rows(200).to_csv(tmp_path / "test.csv", index=False)
    more = [tmp_path / one if one.endswith("csv") else one for one in held]
    result = command(
        "simulate", tmp_path / "t.csv", "--label", "fault", "--party-column", "operator", "--in-process", "--rounds", 4,
        "--member-feature", "who", "--save", tmp_path / "m.json", "--json", *more,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["categories"] == {"who": 3}
    assert summary["metrics"]["error"] < 0.15


def test_the_command_takes_base_margins(tmp_path):
    FRAME.assign(start=np.where(FRAME["fault"] == 1, 5, -5)).to_csv(tmp_path / "t.csv", index=False)
    result = command(
        "simulate", tmp_path / "t.csv", "--label", "fault", "--party-column", "operator", "--in-process", "--rounds", 1,
        "--base-margin", "start", "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["error"] == 0
