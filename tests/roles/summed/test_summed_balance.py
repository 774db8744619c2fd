"""Parties that count alike, however many rows they have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import hansa
from hansa.errors import PlanError
from hansa.node.in_process import train_in_process
from hansa.plan.values import COOPETITIVE
from hansa.roles.summed.statistics import balanced
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json
from made_tables import NAMES, plan, spread, table

OWNERS = np.repeat([0, 1, 2], [600, 210, 90])


def weights_of(owners, own):
    """The weights that make the three owners alike, times the rows' own."""
    sizes = np.bincount(owners)
    given = np.ones(len(owners), np.float32) if own is None else own
    return (given * (len(owners) / (3 * sizes[owners])).astype(np.float32)).astype(np.float32)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror", "multi:softprob"])
@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_the_model_is_that_of_the_weights_written_out(objective, weighted, mode):
    rows = table(900, objective, weighted=weighted, seed=5)
    given = plan(NAMES[:3], objective=objective, weighted=weighted, balance="parties", mode=mode)
    found = train_in_process(given, spread(rows, OWNERS)).outcome
    written = plan(NAMES[:3], objective=objective, weighted=True)
    weighed = replace(rows, weight=weights_of(OWNERS, rows.weight))
    expected = train_in_process(written, spread(weighed, OWNERS)).outcome
    assert found.model == expected.model
    plain = plan(NAMES[:3], objective=objective, weighted=weighted)
    assert found.model != train_in_process(plain, spread(rows, OWNERS)).outcome.model


def test_metrics_of_held_out_rows_weigh_parties_too():
    rows = table(900, seed=5)
    given = plan(NAMES[:3], balance="parties", evaluation=0.4, rounds=1)
    other = plan(NAMES[:3], evaluation=0.4, rounds=1)
    found, plain = (train_in_process(one, spread(rows, OWNERS)).outcome for one in (given, other))
    assert found.history["logloss"] != plain.history["logloss"]
    assert len(from_json(found.model).trees) == 1


def test_what_cannot_be_had_is_refused():
    with pytest.raises(PlanError, match="balance"):
        parse_parameters({"balance": "members"})
    given = plan(NAMES[:3], balance="parties")
    assert given.digest() != plan(NAMES[:3]).digest()
    parties = dict.fromkeys("abc", (np.arange(90.0)[:, None], np.arange(90) % 2))
    with pytest.raises(PlanError, match=f"balance.*{COOPETITIVE}"):
        hansa.fit(parties, mode=COOPETITIVE, rounds=1, balance="parties")


def test_held_out_rows_of_a_party_that_trains_on_none_keep_their_weights():
    labels = np.ones(5, np.float32)
    assert balanced(None, len(labels), 100, 2, 0).tolist() == [1] * 5
    assert balanced(labels * 3, len(labels), 100, 2, 5).tolist() == [30] * 5
