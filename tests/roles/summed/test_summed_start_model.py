"""Runs that go on from a model."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from test_summed_law import NAMES, plan, rows_of, spread

from hansa.errors import PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import parse_plan, write_plan
from hansa.roles.summed.start_model import start_model
from hansa.trees.ensemble import add_margins
from hansa.trees.xgboost_json import from_json, to_json

ROWS = rows_of("logistic")
TABLES = spread(ROWS, np.arange(ROWS.n_rows) % 3)
FIRST = train_in_process(plan(tuple(TABLES), rounds=3), TABLES).outcome


def after(document: bytes, **given):
    return replace(plan(tuple(TABLES), **given), start_model=hashlib.sha256(document).hexdigest())


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_old_trees_come_first_and_new_ones_start_at_their_margins(mode):
    going_on = replace(after(FIRST.model, rounds=2), mode=mode, min_party_rows=0)
    found = train_in_process(going_on, TABLES, start=FIRST.model).outcome.ensemble
    assert found.trees[:3] == FIRST.ensemble.trees
    assert found.base_score == FIRST.ensemble.base_score
    assert len(found.trees) == 5
    straight = train_in_process(plan(tuple(TABLES), rounds=5), TABLES).outcome.ensemble
    # The scales of a run's first tree come from its own sums, and those of later ones from bounds.
    np.testing.assert_allclose(found.predict(ROWS.features), straight.predict(ROWS.features), atol=1e-4)


def test_who_holds_which_rows_changes_nothing():
    going_on = after(FIRST.model, rounds=2)
    three = train_in_process(going_on, TABLES, start=FIRST.model).outcome.model
    one = replace(going_on, parties=NAMES[:1], receivers=NAMES[:1], minimum_parties=1)
    assert train_in_process(one, {NAMES[0]: ROWS}, start=FIRST.model).outcome.model == three


@pytest.mark.parametrize("form", ["json", "ubj"])
def test_a_model_of_xgboost_is_gone_on_with(form):
    names = list(FIRST.ensemble.feature_names)
    matrix = xgboost.DMatrix(ROWS.features.T, ROWS.label, feature_names=names)
    given = {"objective": "binary:logistic", "max_depth": 3, "tree_method": "hist", "max_bin": 2000}
    theirs = xgboost.train(given, matrix, 2)
    document = bytes(theirs.save_raw(form))
    found = train_in_process(after(document, rounds=1, max_bin=2000, max_depth=3), TABLES, start=document).outcome
    further = xgboost.train(given, matrix, 1, xgb_model=theirs)
    assert found.ensemble.trees[:2] == from_json(bytes(theirs.save_raw("json"))).trees
    np.testing.assert_allclose(found.ensemble.predict(ROWS.features), further.predict(matrix), atol=0.02)


@pytest.mark.parametrize(
    ("document", "given", "said"),
    [
        (None, {}, "gives none: name the file as start_model"),
        (b"{}", {}, "ask for the file that the plan means"),
        (FIRST.model, {"objective": "reg:squarederror"}, "its objective 'binary:logistic' is not the plan's"),
        (FIRST.model, {"num_parallel_tree": 2}, "its num_parallel_tree 1 is not the plan's 2"),
    ],
)
def test_a_start_that_does_not_fit_is_refused_before_anything_leaves(document, given, said):
    going_on = after(FIRST.model, **given)
    with pytest.raises(PlanError, match=said):
        train_in_process(going_on, TABLES, start=document)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_a_start_whose_leaves_no_margin_can_hold_is_refused_by_name(objective):
    """Margins were infinite, and the error named the aggregator."""
    [tree] = FIRST.ensemble.trees[:1]
    weights = np.where(tree.left_children < 0, np.float32(3e38), tree.base_weights)
    huge = replace(
        tree, base_weights=weights, split_conditions=np.where(tree.left_children < 0, weights, tree.split_conditions)
    )
    document = to_json(replace(FIRST.ensemble, objective=objective, trees=(huge, huge)))
    with pytest.raises(PlanError, match=r"start_model: its leaves may add up to 6e\+38 for a row, beyond float32"):
        train_in_process(after(document, objective=objective), TABLES, start=document)


def test_a_model_that_the_plan_does_not_name_is_refused():
    with pytest.raises(PlanError, match="the plan has none; leave it out"):
        train_in_process(plan(tuple(TABLES)), TABLES, start=FIRST.model)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"base_score": 0.4}, "leave base_score out")],
)
def test_a_plan_says_where_training_starts_once(change, said):
    with pytest.raises(PlanError, match=said):
        after(FIRST.model, **change)


def test_the_plan_file_keeps_it():
    going_on = after(FIRST.model)
    assert parse_plan(write_plan(going_on)) == going_on
    assert going_on.digest() != plan(tuple(TABLES)).digest()
    with pytest.raises(PlanError, match="64 hexadecimal digits"):
        parse_plan(write_plan(going_on).replace(going_on.start_model, "abc"))


def test_bounds_hold_for_every_row():
    start = start_model(after(FIRST.model), FIRST.model, "aurora")
    margins = start.margins(ROWS.features, 1, None)
    assert np.abs(margins).max() <= start.margin_bound * (1 + 1e-6)
    assert margins.max() <= start.highest_margin + 1e-6
    expected = np.full(ROWS.n_rows, FIRST.ensemble.predict_margin(ROWS.features) * 0)
    add_margins(FIRST.ensemble.trees, ROWS.features, expected)
    assert np.allclose(margins[0] - margins[0][0], expected - expected[0], atol=1e-5)


def test_a_party_refuses_a_model_whose_old_trees_are_others():
    going_on = after(FIRST.model, rounds=1)
    run = train_in_process(going_on, TABLES, start=FIRST.model)
    party = run.parties[NAMES[0]]
    told = run.outcome.ensemble
    changed = replace(told, trees=(told.trees[1], *told.trees[1:]))
    assert to_json(party._result.rebuilt(told, party._result.trees)) == run.outcome.model
    assert to_json(party._result.rebuilt(changed, party._result.trees)) == run.outcome.model
    with pytest.raises(ProtocolError, match="behind 3 of start_model"):
        party._result.rebuilt(told.truncate(2), party._result.trees)
