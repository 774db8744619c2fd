"""The parameters that XGBoost draws in its own tests: each draw is refused by name, or trains the model that XGBoost trains.

What is refused of a draw is left out until the rest is accepted, so that every draw trains something. Both learners get the same bins:
XGBoost's, of the drawn `max_bin`, as the values of the table.
"""

from __future__ import annotations

import functools
import re
from itertools import pairwise

import numpy as np
import pytest
import xgboost
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import PlanError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json

space = pytest.importorskip("xgboost.testing.params")

STRATEGIES = {name: own for name, own in vars(space).items() if isinstance(own, SearchStrategy)}
ROUNDS, N_ROWS, N_FEATURES = 6, 1500, 6
TIE, LEAF = 1e-4, 1e-4
"""Gains nearer than this, relative, are a tie, of which either split may be taken; and by how much leaves may differ."""

LOSS_TOLERANCE = 0.03
"""What ties may do to the loss: later splits follow other ones."""

UNUSED = ("nthread", "seed", "max_cat_to_onehot", "max_cat_threshold", "max_cached_hist_node")
"""Drawn parameters that change no model of numbers without draws."""


def accepted_part(drawn):
    """The draw without what is refused; each refusal names one parameter of the draw."""
    left = dict(drawn)
    while said := refusal(left):
        named = re.match(r"parameter '?(\w+)'? ", said)
        assert named, said
        assert named[1] in left, (said, left)
        del left[named[1]]
    return left


def refusal(drawn):
    try:
        parse_parameters(drawn)
    except PlanError as error:
        return str(error)
    return ""


def made_table(objective, seed):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    rows[:, 1] = rng.integers(0, 12, N_ROWS)
    rows[:, 2] = rng.gamma(0.5, size=N_ROWS)
    signal = rows[:, 0] * rows[:, 3] + np.sin(rows[:, 1]) + 1.5 * (rows[:, 2] > 0.7)
    rows[:, 4:][rng.random((N_ROWS, N_FEATURES - 4)) < 0.2] = np.nan
    noisy = signal + rng.logistic(size=N_ROWS)
    return rows, (noisy > 0.5 if objective == "binary:logistic" else noisy).astype(np.float32)


def binned(rows, labels, max_bin):
    """The rows with the number of XGBoost's bin for each value."""
    matrix = xgboost.QuantileDMatrix(rows, labels, max_bin=max_bin)
    begins, values = matrix.get_quantile_cut()
    codes = np.stack(
        [np.searchsorted(values[a : b - 1], rows[:, f], "right") for f, (a, b) in enumerate(pairwise(begins))], axis=1
    )
    return np.where(np.isnan(rows), np.nan, codes).astype(np.float32)


def loss(objective, predictions, labels):
    p, y = np.asarray(predictions, np.float64), labels.astype(np.float64)
    if objective == "reg:squarederror":
        return float(np.mean((p - y) ** 2))
    return float(-np.mean(np.log(np.where(y == 1, p, 1 - p))))


def trained_here(rows, labels, given):
    names = tuple(f"f{f}" for f in range(N_FEATURES))
    plan = Plan(
        name="space",
        mode="federated",
        aggregator="hub",
        parties=("a", "b"),
        receivers=("a",),
        minimum_parties=2,
        schema=Schema(names, "y"),
        # The table has no more values than bins were drawn.
        parameters=parse_parameters({**given, "rounds": ROUNDS, "max_bin": 2000}),
        min_cell_rows=2,
    )
    tables = {p: Rows(np.ascontiguousarray(rows[half::2].T), labels[half::2], None) for half, p in enumerate("ab")}
    return train_in_process(plan, tables).outcome.ensemble


def check(drawn, objective, seed):
    rest = {"objective": objective} | accepted_part(drawn)
    compare(tuple(sorted((name, value) for name, value in rest.items() if name not in UNUSED)), seed)


@functools.cache
def compare(given, seed):
    """Hansa's model of made rows against XGBoost's, once for each case: many draws differ in what changes no model."""
    rest = dict(given)
    objective = rest["objective"]
    rows, labels = made_table(objective, seed)
    rows = binned(rows, labels, rest.pop("max_bin", 256))
    share = rest.pop("colsample_bytree", 1.0)
    if share < 1:
        most = max(1, int(share * N_FEATURES))
        for tree in trained_here(rows, labels, {**rest, "colsample_bytree": share}).trees:
            assert len(set(tree.split_indices[tree.left_children >= 0])) <= most
    ensemble = trained_here(rows, labels, rest)
    matrix = xgboost.DMatrix(rows, labels)
    booster = xgboost.train({"tree_method": "hist", **rest, "max_bin": 2000, "nthread": 1}, matrix, ROUNDS)
    theirs = from_json(bytes(booster.save_raw("json")))
    assert ensemble.base_score == pytest.approx(theirs.base_score, rel=1e-5)
    for mine, other in zip(ensemble.trees, theirs.trees, strict=True):
        if not same_but_for_a_tie(mine, other, rows):
            break
    losses = [
        loss(objective, predictions, labels)
        for predictions in (ensemble.predict(np.ascontiguousarray(rows.T)), booster.predict(matrix))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=LOSS_TOLERANCE), (given, losses)


def goes_left(tree, node, rows):
    values = rows[:, tree.split_indices[node]]
    return np.where(np.isnan(values), tree.default_left[node] == 1, values < tree.split_conditions[node])


def same_but_for_a_tie(mine, other, rows):
    """Whether two trees part the rows alike, with the same leaves; where they do not, the gains must be a tie."""
    waiting, alike = [(0, 0, np.arange(len(rows)))], True
    while waiting:
        a, b, own = waiting.pop()
        assert (mine.left_children[a] < 0) == (other.left_children[b] < 0), (a, b)
        if mine.left_children[a] < 0:
            assert mine.split_conditions[a] == pytest.approx(other.split_conditions[b], rel=LEAF, abs=LEAF)
            continue
        assert mine.loss_changes[a] == pytest.approx(other.loss_changes[b], rel=TIE, abs=TIE), (a, b)
        left = goes_left(mine, a, rows[own])
        if not np.array_equal(left, goes_left(other, b, rows[own])):
            alike = False
            continue
        waiting.append((mine.left_children[a], other.left_children[b], own[left]))
        waiting.append((mine.right_children[a], other.right_children[b], own[~left]))
    return alike


draws = pytest.mark.parametrize("name", STRATEGIES)
objectives = st.sampled_from(["binary:logistic", "reg:squarederror"])
bounded = settings(
    deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate]
)


def test_the_strategies_are_there():
    assert {"exact_parameter_strategy", "hist_parameter_strategy", "cat_parameter_strategy"} <= set(STRATEGIES)


@draws
@settings(bounded, max_examples=6)
@given(data=st.data())
def test_a_draw_of_xgboosts_is_refused_by_name_or_gives_its_model(name, data):
    check(data.draw(STRATEGIES[name]), data.draw(objectives), data.draw(st.integers(0, 2)))


@pytest.mark.slow
@draws
@settings(bounded, max_examples=80)
@given(data=st.data())
def test_many_draws_of_xgboosts_are_refused_by_name_or_give_its_model(name, data):
    check(data.draw(STRATEGIES[name]), data.draw(objectives), data.draw(st.integers(0, 2)))


def test_whole_draws_are_accepted_where_they_ask_for_what_hansa_does():
    drawn = {"max_depth": 3, "max_leaves": 0, "max_bin": 7, "grow_policy": "depthwise", "min_child_weight": 0.75}
    drawn |= {"colsample_bytree": 1.0, "colsample_bylevel": 1.0, "nthread": 2, "seed": 4, "max_cat_threshold": 3}
    assert accepted_part(drawn) == drawn
    check(drawn, "binary:logistic", 0)
