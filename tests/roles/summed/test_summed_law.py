"""The law: the model file is the same to the byte, however rows are spread and whoever answers first."""

from __future__ import annotations

import functools
import hashlib

import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

import hansa.roles.summed.row_codes
import hansa.trees.growth
from hansa.data.holdout import HoldOut, held_out
from hansa.node.in_process import train_in_process
from hansa.trees.ensemble import Ensemble
from hansa.trees.xgboost_json import from_json
from made_tables import NAMES, OPEN, coded, plan, spread, table, take
from quick import quick

SETTINGS: dict[str, dict[str, object]] = {
    "logistic": {},
    "squared error": {"objective": "reg:squarederror"},
    "wide sums": {"histogram_bits": 64},
    "wide sums, squared error": {"histogram_bits": 64, "objective": "reg:squarederror"},
    "weights": {"weighted": True},
    "weights, squared error": {"weighted": True, "objective": "reg:squarederror"},
    "some columns": {"colsample_bytree": 0.6, "seed": 3},
    "balanced": {"scale_pos_weight": "auto"},
    "positives count a hundred thousand times": {"scale_pos_weight": 1e5, "min_child_weight": 0},
    "balanced by hand": {"scale_pos_weight": 3.5, "weighted": True},
    "regularised": {"alpha": 0.5, "max_delta_step": 0.4, "gamma": 0.2, "lambda": 0.0, "min_child_weight": 3},
    "log-odds": {"objective": "binary:logitraw", "weighted": True, "evaluation": 0.2},
    "counts": {"objective": "count:poisson", "evaluation": 0.2, "eval_metric": ["rmse", "mae", "poisson-nloglik"]},
    "counts, no bound on leaves": {
        "objective": "count:poisson",
        "weighted": True,
        "max_delta_step": 0,
        "histogram_bits": 64,
    },
    "amounts": {
        "objective": "reg:gamma",
        "weighted": True,
        "evaluation": 0.2,
        "eval_metric": ["gamma-deviance", "gamma-nloglik", "mape", "tweedie-nloglik@1.9"],
    },
    "amounts and zeros": {"objective": "reg:tweedie", "tweedie_variance_power": 1.3, "evaluation": 0.2},
    "few far errors": {
        "objective": "reg:pseudohubererror",
        "huber_slope": 9.0,
        "weighted": True,
        "evaluation": 0.2,
        "eval_metric": ["mape", "mphe"],
    },
    "ratios": {
        "objective": "reg:squaredlogerror",
        "evaluation": 0.2,
        "eval_metric": ["mae", "rmsle"],
        "min_child_weight": 0.1,
        "histogram_bits": 64,
    },
    "medians": {"objective": "reg:absoluteerror", "evaluation": 0.2, "eval_metric": ["rmse", "mae"], "subsample": 0.7},
    "quantiles": {
        "objective": "reg:quantileerror",
        "quantile_alpha": [0.2, 0.9],
        "weighted": True,
        "evaluation": 0.2,
        "num_parallel_tree": 2,
    },
    "medians, best first": {
        "objective": "reg:absoluteerror",
        "categories": True,
        "weighted": True,
        "grow_policy": "lossguide",
        "max_leaves": 9,
        "max_depth": 0,
    },
    "stops early, a quantile": {
        "objective": "reg:quantileerror",
        "quantile_alpha": 0.7,
        "rounds": 8,
        "eta": 1.0,
        "evaluation": 0.3,
        "early_stopping_rounds": 1,
    },
    "sides": {"objective": "binary:hinge", "evaluation": 0.2, "eval_metric": ["auc", "error@0.4"], "weighted": True},
    "stops early, amounts": {
        "objective": "reg:gamma",
        "rounds": 8,
        "eta": 1.0,
        "evaluation": 0.3,
        "early_stopping_rounds": 1,
        "eval_metric": ["gamma-nloglik"],
    },
    "categories": {"categories": True, "max_depth": 4},
    "categories, weights, squared error": {
        "categories": True,
        "weighted": True,
        "objective": "reg:squarederror",
        "max_cat_threshold": 5,
        "grow_policy": "lossguide",
        "max_leaves": 9,
        "max_depth": 0,
    },
    "classes": {"objective": "multi:softprob", "evaluation": 0.2, "weighted": True, "num_parallel_tree": 2},
    "stops early, classes": {
        "objective": "multi:softmax",
        "rounds": 8,
        "eta": 1.0,
        "evaluation": 0.3,
        "early_stopping_rounds": 1,
        "eval_metric": ["merror", "mlogloss"],
    },
    "best first": {"grow_policy": "lossguide", "max_depth": 5, "max_leaves": 8, "gamma": 0.1},
    "few leaves": {"max_leaves": 6, "max_depth": 5},
    "rises, falls, meets": {
        "monotone_constraints": {"a": 1, "d": -1},
        "interaction_constraints": [["a", "b"], ["b", "d", "e"]],
        "max_depth": 4,
    },
    "columns of levels and nodes": {"colsample_bytree": 0.8, "colsample_bylevel": 0.8, "colsample_bynode": 0.7},
    "forests": {"num_parallel_tree": 3, "colsample_bynode": 0.6, "seed": 5},
    "given start": {"base_score": 0.3, "max_depth": 1},
    "stops early": {
        "rounds": 8,
        "eta": 1.0,
        "evaluation": 0.3,
        "early_stopping_rounds": 1,
        "eval_metric": ["auc", "logloss"],
    },
    "stops early, squared error": {
        "objective": "reg:squarederror",
        "rounds": 8,
        "eta": 1.0,
        "evaluation": 0.3,
        "early_stopping_rounds": 1,
        "eval_metric": ["mae", "rmse"],
        "weighted": True,
    },
    "all metrics": {"evaluation": 0.2, "eval_metric": ["logloss", "error", "auc", "aucpr", "rmse", "mae"]},
    "more bins than a byte holds": {"max_bin": 400},
    "two bins": {"max_bin": 2},
}


@pytest.fixture(autouse=True, scope="module")
def _small_tables_use_threads_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hansa.roles.summed.row_codes, "PARALLEL_VALUES", 0)
        patch.setattr(hansa.trees.growth, "PARALLEL_CELLS", 0)
        yield


@functools.cache
def rows_of(name, n_rows=300):
    given = SETTINGS[name]
    objective = given.get("objective", "binary:logistic")
    rows = table(n_rows, objective, weighted=bool(given.get("weighted")), seed=len(name))
    return coded(rows) if given.get("categories") else rows


def run(name, tables, **options):
    return train_in_process(plan(tuple(tables), **SETTINGS[name]), tables, **options)


@functools.cache
def alone(name):
    """The run of one party that holds all rows."""
    return run(name, {NAMES[0]: rows_of(name)})


def same_run(first, second):
    assert hashlib.sha256(first.outcome.model).digest() == hashlib.sha256(second.outcome.model).digest()
    assert first.outcome.model == second.outcome.model
    assert first.outcome.history == second.outcome.history
    assert first.outcome.exchanges == second.outcome.exchanges


@pytest.mark.parametrize("name", SETTINGS)
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_the_model_does_not_depend_on_who_holds_the_rows(name, data):
    rows = rows_of(name)
    n_parties = data.draw(st.integers(1, 6), "parties")
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed of the spread"))
    owners = rng.choice(n_parties, rows.n_rows, p=rng.dirichlet(np.full(n_parties, 0.5)))
    owners[rng.permutation(rows.n_rows)[:n_parties]] = np.arange(n_parties)
    order = np.concatenate([np.flatnonzero(owners == i) for i in range(n_parties)])
    tables = spread(take(rows, order), owners[order])
    fraction = SETTINGS[name].get("evaluation", 0)
    for held in tables.values():
        assume(not fraction or not held_out(held.features, held.label, HoldOut(fraction, 0)).all())
    turns = data.draw(st.randoms(use_true_random=False), "who is received next")
    threads = data.draw(st.sampled_from([1, 2]), "threads")
    nodes = data.draw(st.sampled_from([0, 1, 3]), "nodes per frame")
    run_again = run(name, tables, threads=threads, nodes_per_frame=nodes, order=turns.choice)
    same_run(alone(name), run_again)
    assert {party.model for party in run_again.parties.values()} == {alone(name).outcome.model}


def owners_by(condition):
    """Three parties: the rows where the condition holds at the first, the others shared by two."""
    owners = np.where(condition, 0, 1 + np.arange(len(condition)) % 2)
    assert set(owners.tolist()) == {0, 1, 2}
    return owners


SPREADS = {
    "a party with one row": lambda rows: owners_by(np.arange(rows.n_rows) == 7),
    "a party with all but two rows": lambda rows: owners_by(np.arange(rows.n_rows) >= 2),
    "a party without label 1": lambda rows: owners_by(rows.label <= np.median(rows.label)),
    "a party that lacks a feature": lambda rows: owners_by(np.isnan(rows.features[4])),
    "a party where a feature is constant": lambda rows: owners_by(rows.features[1] == 1),
    "a party with the lowest values": lambda rows: owners_by(rows.features[0] < -0.5),
    "a party with a feature nobody else has": lambda rows: owners_by(~np.isnan(rows.features[4])),
}


@pytest.mark.parametrize("how", SPREADS)
@pytest.mark.parametrize("name", ["logistic", "squared error", "wide sums", "weights"])
def test_odd_parties_change_nothing(how, name):
    rows = rows_of(name)
    same_run(alone(name), run(name, spread(rows, SPREADS[how](rows)), nodes_per_frame=1))


def test_the_order_of_a_partys_rows_changes_nothing():
    rows = rows_of("weights")
    shuffled = take(rows, np.random.default_rng(5).permutation(rows.n_rows))
    same_run(alone("weights"), run("weights", {NAMES[0]: shuffled}))


def test_a_run_repeated_gives_the_same_bytes():
    for name in ("logistic", "some columns"):
        same_run(alone(name), run(name, {NAMES[0]: rows_of(name)}))


def test_names_of_parties_change_nothing():
    rows = rows_of("logistic")
    halves = [take(rows, np.arange(half, rows.n_rows, 2)) for half in (0, 1)]
    first = train_in_process(plan(("x", "y")), {"x": halves[0], "y": halves[1]})
    second = train_in_process(plan(("x", "y")), {"x": halves[1], "y": halves[0]})
    same_run(first, second)
    same_run(alone("logistic"), first)


@pytest.mark.parametrize("name", SETTINGS)
def test_the_settings_are_not_idle(name):
    """Each set of parameters grows a forest that splits and, but for the plain one, is not the plain one."""
    outcome = alone(name).outcome
    assert any(tree.num_nodes > 1 for tree in outcome.ensemble.trees)
    plain = "squared error" if outcome.ensemble.objective == "reg:squarederror" else "logistic"
    if "wide" not in name and name not in (plain, "all metrics"):
        assert outcome.model != alone(plain).outcome.model
    if "stops early" in name:
        a_round = outcome.ensemble.trees_per_round
        assert outcome.trees_grown < SETTINGS[name]["rounds"] * a_round
        assert len(outcome.ensemble.trees) < outcome.trees_grown
    assert isinstance(outcome.ensemble, Ensemble)
    assert from_json(outcome.model) == outcome.ensemble


FORMS = st.fixed_dictionaries(
    {
        "objective": st.sampled_from(["binary:logistic", "reg:squarederror", "multi:softprob", "multi:softmax"]),
        "grow_policy": st.sampled_from(["depthwise", "lossguide"]),
        "max_depth": st.sampled_from([2, 4]),
        "max_leaves": st.sampled_from([0, 5]),
        "num_parallel_tree": st.sampled_from([1, 2]),
        "subsample": st.sampled_from([0.7, 1.0]),
        "colsample_bylevel": st.sampled_from([0.6, 1.0]),
        "colsample_bynode": st.sampled_from([0.6, 1.0]),
        "monotone_constraints": st.sampled_from([(), {"a": 1, "e": -1}]),
        "interaction_constraints": st.sampled_from([(), [["a", "c"], ["b", "c", "d"]]]),
        "max_cat_to_onehot": st.sampled_from([None, 1, 30]),
        "categories": st.booleans(),
        "weighted": st.booleans(),
        "evaluation": st.sampled_from([0.0, 0.25]),
        "histogram_bits": st.sampled_from([32, 64]),
    }
)


@settings(max_examples=25, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(given_=FORMS, seed=st.integers(0, 2**32), nodes=st.sampled_from([0, 1, 3]))
def test_the_law_holds_in_both_modes_whatever_form_trees_take(given_, seed, nodes):
    rng = np.random.default_rng(seed)
    rows = table(150, given_["objective"], weighted=given_["weighted"], seed=seed % 97)
    rows = coded(rows) if given_["categories"] else rows
    owners = rng.choice(3, 150, p=rng.dirichlet(np.full(3, 0.5)))
    owners[rng.permutation(150)[:3]] = np.arange(3)
    tables = spread(rows, owners)
    assume(
        not given_["evaluation"]
        or not any(held_out(t.features, t.label, HoldOut(0.25, 0)).all() for t in tables.values())
    )
    given_ = given_ | {"rounds": 2, "max_bin": 16}
    whole = train_in_process(plan(NAMES[:1], **given_), {NAMES[0]: rows})
    assert from_json(whole.outcome.model) == whole.outcome.ensemble
    for mode in ("federated", "secure-aggregation"):
        spread_out = train_in_process(
            plan(tuple(tables), mode=mode, **given_), tables, policy=OPEN, nodes_per_frame=nodes
        )
        assert spread_out.outcome.model == whole.outcome.model
        assert spread_out.outcome.history == whole.outcome.history
        assert {party.model for party in spread_out.parties.values()} == {whole.outcome.model}


@pytest.mark.parametrize("num_parallel_tree", [1, 3])
def test_drawn_rows_are_the_same_whoever_holds_them(num_parallel_tree):
    rows = rows_of("logistic")
    tables = spread(rows, np.arange(rows.n_rows) % 3)
    given = {"subsample": 0.5, "num_parallel_tree": num_parallel_tree}
    sampled = plan(tuple(tables), **given)
    first, again = (train_in_process(sampled, tables, nodes_per_frame=n) for n in (0, 1))
    same_run(first, again)
    pooled = train_in_process(plan(NAMES[:1], **given), {NAMES[0]: rows})
    assert pooled.outcome.model == first.outcome.model
    whole = train_in_process(plan(NAMES[:1], num_parallel_tree=num_parallel_tree), {NAMES[0]: rows})
    assert whole.outcome.model != first.outcome.model


@pytest.mark.parametrize(
    ("subsample", "exchanges"),
    [
        # The first tree's totals come alone, and the last ones, which nobody needs, carry the metrics of the last tree.
        (1.0, 4 * 3 + 2),
        (0.5, 4 * (3 + 1) + 1),
    ],
)
def test_a_tree_takes_an_exchange_a_level(subsample, exchanges):
    given = plan(NAMES[:3], rounds=4, max_depth=3, min_child_weight=0, subsample=subsample)
    rows = rows_of("logistic")
    outcome = train_in_process(given, spread(rows, np.arange(rows.n_rows) % 3)).outcome
    assert all(tree.num_nodes > 7 for tree in outcome.ensemble.trees)
    assert outcome.exchanges == exchanges


def test_a_party_may_hold_held_out_rows_only():
    rows = rows_of("stops early")
    held = held_out(rows.features, rows.label, HoldOut(0.3, 0))
    owners = np.where(np.arange(rows.n_rows) == np.flatnonzero(held)[0], 0, 1)
    apart, whole = run("stops early", spread(rows, owners)), run("stops early", {NAMES[0]: rows})
    assert apart.outcome.model == whole.outcome.model


@pytest.mark.parametrize(
    "name",
    quick(
        ["logistic", "weights, squared error", "stops early", "wide sums", "amounts and zeros", "sides", "quantiles"],
        "logistic",
        "wide sums",
    ),
)
def test_the_law_holds_on_many_more_rows_and_trees(name):
    given = SETTINGS[name] | {"rounds": 30, "max_depth": 6, "max_bin": 256}
    objective = str(given.get("objective", "binary:logistic"))
    rows = table(20_000, objective, weighted=bool(given.get("weighted")))
    whole = train_in_process(plan(NAMES[:1], **given), {NAMES[0]: rows}, threads=2)
    owners = np.random.default_rng(0).choice(6, rows.n_rows, p=[0.5, 0.3, 0.1, 0.05, 0.04, 0.01])
    spread_out = train_in_process(plan(NAMES, **given), spread(rows, owners), nodes_per_frame=1)
    same_run(whole, spread_out)
