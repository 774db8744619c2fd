"""Rows that start at margins of their own."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import xgboost

from hansa.data.source import Rows
from hansa.errors import DataError, HansaError, PlanError
from hansa.node.in_process import train_in_process
from hansa.plan import parse_plan, write_plan
from hansa.plan.values import COOPETITIVE
from hansa.trees.growth import NEARER
from hansa.trees.xgboost_json import from_json, to_json
from made_tables import NAMES, plan, spread, table

OBJECTIVES = ["binary:logistic", "reg:squarederror", "count:poisson", "reg:gamma", "multi:softprob"]


def columns_of(outputs):
    return tuple(f"start{output}" for output in range(outputs))


def margins_of(rows, outputs, seed=0):
    """float32 (outputs, rows), that the label does not depend on."""
    return np.random.default_rng(seed).normal(0.2, 0.7, (outputs, rows.n_rows)).astype(np.float32)


def started(given, limit=8.0):
    """The plan with columns of base margins."""
    schema = replace(given.schema, base_margin=columns_of(given.parameters.outputs), base_margin_limit=limit)
    return replace(given, schema=schema)


def made(objective, parties=NAMES[:3], **given):
    """A plan whose bins are all values of the table, and the rows."""
    rows = table(900, objective, seed=3)
    features = np.round(rows.features, 1) + np.float32(0)
    own = started(plan(parties, objective=objective, max_bin=2000, **given))
    return own, Rows(features, rows.label, None, base_margin=margins_of(rows, own.parameters.outputs))


def holders(rows, seed=1):
    return np.random.default_rng(seed).integers(0, 3, rows.n_rows)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_models_are_those_of_xgboost(objective):
    own, rows = made(objective)
    found = train_in_process(own, spread(rows, holders(rows))).outcome.ensemble
    starts = np.ascontiguousarray(rows.base_margin.T) if len(rows.base_margin) > 1 else rows.base_margin[0]
    matrix = xgboost.DMatrix(rows.features.T, rows.label, base_margin=starts, feature_names=list(found.feature_names))
    parameters = {"objective": objective, "max_depth": 3, "tree_method": "hist", "max_bin": 2000}
    if own.parameters.outputs > 1:
        parameters["num_class"] = own.parameters.outputs
    theirs = xgboost.train(parameters, matrix, 3)
    if own.parameters.outputs > 1:
        assert found.base_scores == (0, 0, 0)
    else:
        assert found.base_score == pytest.approx(from_json(bytes(theirs.save_raw("json"))).base_score, rel=1e-4)
    mine = found.predict(rows.features, base_margin=rows.base_margin)
    np.testing.assert_allclose(mine, theirs.predict(matrix), rtol=2e-4, atol=2e-4)
    loaded = xgboost.Booster(model_file=bytearray(to_json(found)))
    np.testing.assert_allclose(mine, loaded.predict(matrix), rtol=1e-6, atol=1e-6)
    # What the margins say is left out of the trees.
    without = train_in_process(
        plan(NAMES[:1], objective=objective, max_bin=2000), {NAMES[0]: replace(rows, base_margin=None)}
    )
    assert without.outcome.ensemble.trees != found.trees


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_who_holds_which_rows_changes_nothing(objective, mode):
    own, rows = made(objective, evaluation=0.2)
    several = train_in_process(replace(own, mode=mode), spread(rows, holders(rows))).outcome
    alone = replace(own, parties=NAMES[:1], receivers=NAMES[:1], minimum_parties=1)
    one = train_in_process(alone, {NAMES[0]: rows}).outcome
    assert several.model == one.model
    assert several.history == one.history


def test_held_out_rows_start_at_their_margins_too():
    own, rows = made("binary:logistic", evaluation=0.3, rounds=1)
    near = replace(rows, base_margin=np.where(rows.label > 0, 6, -6).astype(np.float32)[None])
    value = train_in_process(own, spread(near, holders(rows))).outcome.history["logloss"][-1]
    assert value < 0.01


def test_trees_of_a_start_model_are_added_to_the_margins():
    own, rows = made("count:poisson", rounds=2)
    first = train_in_process(own, spread(rows, holders(rows))).outcome
    going_on = replace(own, start_model=hashlib.sha256(first.model).hexdigest())
    both = train_in_process(going_on, spread(rows, holders(rows)), start=first.model).outcome.ensemble
    straight, _ = made("count:poisson", rounds=4)
    expected = train_in_process(straight, spread(rows, holders(rows))).outcome.ensemble
    found = [one.predict(rows.features, base_margin=rows.base_margin) for one in (both, expected)]
    np.testing.assert_allclose(*found, rtol=1e-3)


def test_a_start_model_whose_base_score_is_low_bounds_no_margins():
    """Base margins take the place of a base score of which the margin is below 0: the bound on rates is that of the margins alone."""
    own, rows = made("count:poisson", rounds=2)
    rare = replace(rows, label=(np.arange(rows.n_rows) % 20 == 0).astype(np.float32))
    far = replace(rare, base_margin=np.full((1, rows.n_rows), 2.9, np.float32))
    own = replace(own, schema=replace(own.schema, base_margin_limit=3.0))
    plain = replace(own, schema=replace(own.schema, base_margin=(), base_margin_limit=0.0))
    first = train_in_process(plain, spread(replace(rare, base_margin=None), holders(rows))).outcome
    assert first.ensemble.base_score < 0.1
    going_on = replace(own, start_model=hashlib.sha256(first.model).hexdigest())
    found = train_in_process(going_on, spread(far, holders(rows)), start=first.model).outcome.ensemble
    assert len(found.trees) == 4


def test_a_gain_that_is_no_float32_is_refused_with_a_cure():
    """The error was of a model's file, and said nothing of where rows start.

    From a base score alone rows may start as far as float32 goes (`test_trees_oracle.py`): gradients are equal, unless weights differ.
    """
    own, rows = made("reg:squarederror")
    plain = replace(own, schema=replace(own.schema, base_margin=(), base_margin_limit=0.0))
    near = replace(rows, base_margin=None)
    weighted = replace(near, weight=np.linspace(0.01, 9, rows.n_rows, dtype=np.float32))
    far = replace(rows, base_margin=np.where(np.arange(rows.n_rows) == 5, np.float32(1e30), rows.base_margin))
    first = train_in_process(plain, spread(near, holders(rows))).outcome.ensemble
    [tree, *_] = first.trees
    leaves = np.where(
        tree.left_children < 0, np.float32(1e30) * np.arange(len(tree.left_children)), tree.split_conditions
    )
    document = to_json(replace(first, trees=(replace(tree, split_conditions=leaves.astype(np.float32)),)))
    high = replace(plain.parameters, base_score=1e30, lambda_=0.0)
    for asked, table_of, start in (
        (replace(own, schema=replace(own.schema, base_margin_limit=2.0**100)), far, None),
        (replace(plain, parameters=high, schema=replace(plain.schema, weight="weight")), weighted, None),
        (replace(plain, start_model=hashlib.sha256(document).hexdigest()), near, document),
    ):
        with pytest.raises(
            HansaError, match=r"a split gains \d.*beyond float32.*give a lower base_score or base_margin"
        ) as refused:
            train_in_process(asked, spread(table_of, holders(rows)), start=start)
        assert refused.value.cure == NEARER


def test_margins_that_break_the_rules_are_refused_at_their_owner():
    own, rows = made("binary:logistic")
    far = rows.base_margin.copy()
    far[0, 4] = 8.5
    with pytest.raises(DataError, match=r"'start0': expected a base margin of at most 8 in size, found '8\.5'"):
        train_in_process(own, spread(replace(rows, base_margin=far), np.zeros(rows.n_rows, int) + np.arange(900) % 3))
    far[0, 4] = np.nan
    with pytest.raises(DataError, match="'start0': expected a base margin in every row"):
        train_in_process(own, spread(replace(rows, base_margin=far), np.arange(900) % 3))
    with pytest.raises(DataError, match="expected base margins for 1 columns, found 0"):
        train_in_process(own, spread(replace(rows, base_margin=None), np.arange(900) % 3))


def test_plans_are_written_and_read_and_differ_by_it():
    given = plan(NAMES[:3])
    own = started(given)
    assert parse_plan(write_plan(own)) == own
    assert own.digest() != given.digest()
    single = write_plan(own).replace('["start0"]', '"start0"')
    assert parse_plan(single) == own


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": COOPETITIVE}, "goes with the modes that have an aggregator"),
        ({"least": 100}, "speak of a first tree whose rows all start at the base score"),
        ({"columns": ("p", "q")}, "names 2 columns; expected one for each of the 1 outputs"),
        ({"limit": 0.0}, "they go together"),
        ({"columns": ("a",)}, "a column is one feature"),
    ],
)
def test_plans_that_cannot_have_them_are_refused(change, said):
    text = write_plan(started(plan(NAMES[:3])))
    if "mode" in change:
        text = text.replace('mode = "federated"', f'mode = "{COOPETITIVE}"')
        text = text.replace('aggregator = "hub"', 'hub = "hub"\nservers = ["aurora", "borealis", "cirrus"]')
        text = "\n".join(
            line
            for line in text.splitlines()
            if not line.startswith(("dominance", "verify_counts", "statistics", "on_dropout"))
        )
    if "least" in change:
        text = text.replace("statistics = true", "statistics = false\nleast_choices = 100")
    if "columns" in change:
        text = text.replace('"start0",', "".join(f'"{name}",' for name in change["columns"]))
    if "limit" in change:
        text = "\n".join(line for line in text.splitlines() if not line.startswith("base_margin_limit"))
    with pytest.raises(PlanError, match=said):
        parse_plan(text)
