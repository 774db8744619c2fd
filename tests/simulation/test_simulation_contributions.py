"""Contributions of members: laws of Shapley's value, a member of noise and one that all depend on, and trained models as they are."""

from __future__ import annotations

import json
from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hansa
from hansa.errors import DataError, PlanError
from hansa.simulation.contributions import sets_of, shapley
from made_consortium import hansa as command


def calls(rows=900, seed=3):
    """Three operators: aurora and borealis have the pattern, cirrus has labels of chance."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"load": rng.normal(size=rows), "alarms": rng.integers(0, 5, rows) * 1.0})
    frame["operator"] = np.array(["aurora", "borealis", "cirrus"])[rng.integers(0, 3, rows)]
    frame["fault"] = (frame["load"] + frame["alarms"] / 2 + rng.normal(0, 0.3, rows) > 1).astype(int)
    chance = frame["operator"] == "cirrus"
    frame.loc[chance, "fault"] = rng.integers(0, 2, chance.sum())
    return frame


GIVEN = {"label": "fault", "folds": 3, "rounds": 5, "max_depth": 3, "progress": False}


@given(st.lists(st.floats(-1, 1), min_size=8, max_size=8))
def test_shapley_values_are_means_over_all_orders(drawn):
    members = ("a", "b", "c")
    values = dict(zip([frozenset(), *sets_of(members, "shapley")], drawn, strict=True))
    whole = frozenset(members)
    for party in members:
        gains = []
        for order in permutations(members):
            before = frozenset(order[: order.index(party)])
            gains.append(values[before | {party}] - values[before])
        assert shapley(party, whole, values) == pytest.approx(np.mean(gains), abs=1e-12)
    total = sum(shapley(party, whole, values) for party in members)
    assert total == pytest.approx(values[whole] - values[frozenset()], abs=1e-12)


@settings(max_examples=20)
@given(st.integers(2, 8))
def test_the_sets_that_are_trained(count):
    members = [f"m{number}" for number in range(count)]
    assert len(set(sets_of(members, "shapley"))) == 2**count - 1
    one_out = sets_of(members, "leave-one-out")
    assert len(one_out) == count + 1
    assert sorted(map(len, one_out)) == [count - 1] * count + [count]


def test_a_member_of_noise_contributes_less_than_nothing():
    parties = hansa.split(calls(), by="operator")
    found = hansa.contributions(parties, **GIVEN)
    assert found.metric == "auc"
    assert found.nobody == 0.5
    assert found.members["cirrus"].contribution < found.members["aurora"].contribution
    assert found.everybody > 0.6
    every = hansa.contributions(parties, method="shapley", **GIVEN)
    assert every.everybody == found.everybody
    total = sum(own.contribution for own in every.members.values())
    assert total == pytest.approx(every.everybody - every.nobody, abs=1e-9)
    assert every.members["aurora"].without == found.members["aurora"].without


def test_less_is_better_for_losses():
    parties = hansa.split(calls(), by="operator")
    by_loss = hansa.contributions(parties, metric="logloss", **GIVEN)
    assert by_loss.members["aurora"].contribution > by_loss.members["cirrus"].contribution
    assert by_loss.everybody < by_loss.nobody
    assert "less is better" in by_loss.facts()
    assert "aurora" in by_loss._repr_html_()
    assert repr(by_loss).splitlines()[1].split() == ["party", "rows", "logloss", "without", "contribution"]


def test_it_does_not_matter_who_holds_which_row_of_the_others():
    """Cirrus's contribution, where aurora and borealis share their rows otherwise."""
    frame = calls(450)
    other = frame.copy()
    theirs = other["operator"] != "cirrus"
    other.loc[theirs, "operator"] = np.where(np.arange(theirs.sum()) % 3 == 0, "aurora", "borealis")
    found, again = (hansa.contributions(hansa.split(own, by="operator"), **GIVEN) for own in (frame, other))
    assert found.members["cirrus"] == again.members["cirrus"]
    assert found.everybody == again.everybody


def test_values_are_those_of_models_that_are_trained():
    frame = calls(450)
    found = hansa.contributions(hansa.split(frame, by="operator"), **GIVEN | {"folds": 2})
    by_cv = hansa.cv(
        hansa.split(frame, by="operator"),
        label="fault",
        folds=2,
        rounds=5,
        max_depth=3,
        eval_metric="auc",
        progress=False,
    )
    # The exact area against the one of pooled sums, of rows of both folds.
    assert found.everybody == pytest.approx(by_cv.history["auc"].mean[-1], abs=2e-3)


def test_a_set_that_cannot_be_trained_is_nobody():
    frame = calls(450)
    frame.loc[frame["operator"] == "aurora", "fault"] = 1
    found = hansa.contributions(hansa.split(frame, by="operator"), method="shapley", **GIVEN)
    assert np.isfinite(found.members["aurora"].contribution)


REFUSED = [
    ({"method": "banzhaf"}, PlanError, "expected one of leave-one-out, shapley"),
    ({"metric": "rmse"}, PlanError, "expected one of auc"),
    ({"folds": 1}, PlanError, "folds is 1"),
    ({"mode": "open"}, PlanError, "mode is 'open'"),
    ({"evaluation_fraction": 0.2}, PlanError, "evaluation_fraction"),
]


@pytest.mark.parametrize(("change", "kind", "said"), REFUSED, ids=str)
def test_what_cannot_be_is_refused(change, kind, said):
    with pytest.raises((kind, DataError), match=said):
        hansa.contributions(hansa.split(calls(200), by="operator"), **GIVEN | change)


def test_too_many_members_for_shapley_and_too_few_for_any():
    frame = calls(300)
    frame["operator"] = [f"o{number % 9}" for number in range(300)]
    with pytest.raises(PlanError, match="2\\^9"):
        hansa.contributions(hansa.split(frame, by="operator"), method="shapley", **GIVEN)
    frame["operator"] = "one"
    with pytest.raises(PlanError, match="two parties or more"):
        hansa.contributions(hansa.split(frame, by="operator"), **GIVEN)


def test_several_classes_have_contributions():
    frame = calls(450)
    frame["fault"] = frame["alarms"].clip(0, 2).astype(int)
    given = GIVEN | {"objective": "multi:softprob", "num_class": 3}
    found = hansa.contributions(hansa.split(frame, by="operator"), **given)
    assert found.metric == "mlogloss"
    assert found.everybody < found.nobody


def test_the_command_prints_a_table_or_json(tmp_path):
    path = tmp_path / "calls.csv"
    calls(300).to_csv(path, index=False)
    options = ("--label", "fault", "--party-column", "operator", "--folds", "2", "--rounds", "3")
    shown = command("contributions", path, *options)
    assert shown.exit_code == 0, shown.output
    assert "cirrus" in shown.stdout
    told = json.loads(command("contributions", path, *options, "--json", "--method", "shapley").stdout)
    assert set(told["members"]) == {"aurora", "borealis", "cirrus"}
    assert told["method"] == "shapley"
