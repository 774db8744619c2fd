"""The parameters that XGBoost draws in its own tests: each draw is refused by name, or trains the model that XGBoost trains.

What is refused of a draw is left out until the rest is accepted, so that every draw trains something. Both learners get the same bins:
XGBoost's, of the drawn `max_bin`, as the values of the table.
"""

from __future__ import annotations

import ast
import collections
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
from hansa.trees.losses import is_quantile
from hansa.trees.parameters import ALIASES, parse_parameters
from hansa.trees.xgboost_json import from_json, to_json

space = pytest.importorskip("xgboost.testing.params")

STRATEGIES = {name: own for name, own in vars(space).items() if isinstance(own, SearchStrategy)}
ROUNDS, N_ROWS, N_FEATURES = 6, 1500, 6
TIE, LEAF = 1e-4, 1e-4
"""Gains nearer than this, relative, are a tie, of which either split may be taken; and by how much leaves may differ."""

LOSS_TOLERANCE = 0.03
"""What ties may do to the loss: later splits follow other ones."""

REFITTED_LOSS = 0.1
"""The same where leaves of few rows are quantiles of rows counted in cells: the loss is that of the training rows."""

UNUSED = ("nthread", "seed", "max_cached_hist_node")
"""Drawn parameters that change no model without draws."""

OF_CATEGORIES = ("max_cat_to_onehot", "max_cat_threshold")
DRAWS_COLUMNS = ("colsample_bytree", "colsample_bylevel", "colsample_bynode")

LEVELS = {1: 12, 2: 5}
"""Where a draw speaks of categories: feature -> how many it has."""

CLASSES = 3

LABELS = {
    "binary:logistic": lambda noisy: noisy > 0.5,
    "reg:squarederror": lambda noisy: noisy,
    "multi:softprob": lambda noisy: np.digitize(noisy, [0, 1.5]),
    "reg:absoluteerror": lambda noisy: noisy,
    "reg:quantileerror": lambda noisy: noisy,
}
ALPHA = 0.7
"""quantile_alpha of reg:quantileerror."""

REFITTED_LEAF = 0.25
"""By how much leaves may differ that are quantiles of rows counted in cells: the spread of labels is 2."""

NEVER = ("rank:", "lambdarank")
"""What says that a draw cannot be had: pairs of rows of a query."""

OF_ONE_LABEL = ("multi:softprob", "reg:quantileerror")

FIXED = [
    {"tree_method": "hist", "grow_policy": "lossguide", "max_depth": 3, "max_leaves": 0},
    {"tree_method": "hist", "grow_policy": "lossguide", "max_depth": 0, "max_leaves": 8},
    {"grow_policy": "lossguide", "max_leaves": 5, "max_bin": 16},
    {"max_leaves": 4, "max_depth": 0, "grow_policy": "lossguide", "verbosity": 0},
    {"max_depth": 2, "eta": 1, "silent": 1},
    {"learning_rate": 0.1, "reg_lambda": 0, "reg_alpha": 1, "min_split_loss": 0.1, "random_state": 3},
    {"max_delta_step": 0.3, "lambda": 10},
    {"num_parallel_tree": 4, "max_depth": 3},
    {"num_parallel_tree": 3, "subsample": 0.5, "colsample_bynode": 0.5, "eta": 1},
    {"colsample_bylevel": 0.5, "colsample_bynode": 0.5, "colsample_bytree": 0.8, "max_depth": 4},
    {"monotone_constraints": "(1,0,-1,0,0,0)", "max_depth": 4},
    {"monotone_constraints": {"f0": -1, "f2": 1}, "grow_policy": "lossguide", "max_leaves": 10},
    {"monotone_constraints": (1, -1), "tree_method": "hist"},
    {"interaction_constraints": "[[0, 1], [2, 3, 4]]", "max_depth": 4},
    {"interaction_constraints": [["f0", "f3"], ["f1", "f2"]], "monotone_constraints": (1,)},
    {"enable_categorical": True, "max_cat_to_onehot": 1},
    {"max_cat_to_onehot": 100, "max_cat_threshold": 2},
    {"base_score": 0.4, "min_child_weight": 3, "gamma": 0.5, "n_jobs": 2},
    {"tree_method": "auto", "booster": "gbtree", "process_type": "default", "sampling_method": "uniform", "device": "cpu"},
]  # fmt: skip
"""Parameters in the forms that XGBoost's users and tests write."""


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


def made_table(objective, seed, categories, n_labels):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(N_ROWS, N_FEATURES)).astype(np.float32)
    for feature, levels in LEVELS.items():
        rows[:, feature] = (
            rng.integers(0, levels, N_ROWS) if categories or feature == 1 else rng.gamma(0.5, size=N_ROWS)
        )
    signal = rows[:, 0] * rows[:, 3] + np.sin(rows[:, 1]) + 1.5 * (rows[:, 2] > 0.7)
    rows[:, 4:][rng.random((N_ROWS, N_FEATURES - 4)) < 0.2] = np.nan
    noisy = signal + rng.logistic(size=N_ROWS)
    labels = LABELS[objective](noisy)
    if n_labels > 1:  # columns, as XGBoost has them
        more = [np.nan_to_num(rows[:, 3]) - signal / 2 + rng.logistic(size=N_ROWS) for _ in range(n_labels - 1)]
        labels = np.stack([LABELS[objective](own) for own in (noisy, *more)], axis=1)
    # Without weights many categories of few rows have leaves of one weight, and any order of them is right.
    return rows, labels.astype(np.float32), rng.uniform(0.5, 2, N_ROWS).astype(np.float32) if categories else None


def binned(rows, labels, max_bin, categories):
    """The rows with the number of XGBoost's bin for each value of an ordered feature."""
    matrix = xgboost.QuantileDMatrix(rows, labels, max_bin=max_bin)
    begins, values = matrix.get_quantile_cut()
    codes = np.stack(
        [
            rows[:, f] if categories and f in LEVELS else np.searchsorted(values[a : b - 1], rows[:, f], "right")
            for f, (a, b) in enumerate(pairwise(begins))
        ],
        axis=1,
    )
    return np.where(np.isnan(rows), np.nan, codes).astype(np.float32)


def loss(objective, predictions, labels):
    p, y = np.asarray(predictions, np.float64), labels.astype(np.float64)
    if labels.ndim == 2:
        return float(np.mean([loss(objective, *own) for own in zip(p.T, labels.T, strict=True)]))
    if objective == "reg:squarederror":
        return float(np.mean((p - y) ** 2))
    if is_quantile(objective):
        alpha = ALPHA if objective == "reg:quantileerror" else 0.5
        return float(np.mean(np.where(y >= p, alpha * (y - p), (alpha - 1) * (y - p))))
    chosen = p[np.arange(len(y)), labels.astype(int)] if p.ndim == 2 else np.where(y == 1, p, 1 - p)
    return float(-np.mean(np.log(chosen)))


def trained_here(table, given, seed):
    """The model of three parties that hold the rows at random."""
    rows, labels, weights = table
    categories = weights is not None
    names = tuple(f"f{f}" for f in range(N_FEATURES))
    plan = Plan(
        name="space",
        mode="federated",
        aggregator="hub",
        parties=("a", "b", "c"),
        receivers=("a",),
        minimum_parties=3,
        schema=Schema(
            names,
            "y" if labels.ndim == 1 else tuple(f"y{k}" for k in range(labels.shape[1])),
            "w" if categories else None,
            tuple(tuple(range(LEVELS.get(f, 0))) if categories else () for f in range(N_FEATURES)),
        ),
        # The table has no more values than bins were drawn.
        parameters=parse_parameters({**given, "rounds": ROUNDS, "max_bin": 2000}),
        min_cell_rows=2,
    )
    holders = np.random.default_rng(seed).integers(0, 3, len(rows))
    tables = {
        name: Rows(
            np.ascontiguousarray(rows[holders == at].T),
            np.ascontiguousarray(labels[holders == at].T),
            weights[holders == at] if categories else None,
        )
        for at, name in enumerate("abc")
    }
    return train_in_process(plan, tables).outcome.ensemble


def check(drawn, objective, seed):
    rest = accepted_part(drawn)
    objective = rest.pop("objective", objective)
    of_classes = {"num_class": CLASSES} if objective == "multi:softprob" else {}
    if of_classes:  # several outputs, whose trees with vectors in leaves are refused
        rest.pop("multi_strategy", None)
    of_classes |= {"quantile_alpha": ALPHA} if objective == "reg:quantileerror" else {}
    rest = {"objective": objective, **of_classes} | rest
    several = rest.get("multi_strategy") == "one_output_per_tree" and objective not in OF_ONE_LABEL
    compare(repr(sorted((name, value) for name, value in rest.items() if name not in UNUSED)), seed, 1 + several)


@functools.cache
def compare(given, seed, n_labels):
    """Hansa's model of made rows against XGBoost's, once for each case: many draws differ in what changes no model."""
    rest = dict(ast.literal_eval(given))
    objective, names = rest["objective"], {ALIASES.get(name, name) for name in rest}
    categories = bool({*OF_CATEGORIES, "enable_categorical"} & names)
    rows, labels, weights = made_table(objective, seed, categories, n_labels)
    rows = binned(rows, labels, rest.pop("max_bin", 256), categories)
    table = rows, labels, weights
    if {*DRAWS_COLUMNS, "subsample"} & names:
        check_drawn(table, rest, seed)
        rest = {name: value for name, value in rest.items() if name not in (*DRAWS_COLUMNS, "subsample")}
    types = ["c" if categories and f in LEVELS else "q" for f in range(N_FEATURES)]
    matrix = xgboost.DMatrix(
        rows, labels, weight=weights, feature_types=types, feature_names=[f"f{f}" for f in range(N_FEATURES)]
    )
    booster = xgboost.train(
        {"tree_method": "hist", **in_its_forms(rest), "max_bin": 2000, "nthread": 1}, matrix, ROUNDS
    )
    theirs = from_json(bytes(booster.save_raw("json"))).with_one_base_score()
    refitted = is_quantile(objective)
    # A quantile of the labels is known to a cell; rows in it would have another sign of their gradient.
    known = refitted and len(set(theirs.base_scores)) == 1 and n_labels == 1
    start = {"base_score": theirs.base_scores[0]} if known else {}
    ensemble = trained_here(table, start | rest, seed)
    assert ensemble.base_scores == pytest.approx(theirs.base_scores, rel=1e-5, abs=1e-6)
    # Where leaves differ a little, a few rows of later trees have another sign of their gradient.
    for mine, other in zip(ensemble.trees[: 1 if refitted else None], theirs.trees, strict=not refitted):
        if not same_but_for_a_tie(mine, other, rows, REFITTED_LEAF if refitted else LEAF):
            break
    predictions = ensemble.predict(np.ascontiguousarray(rows.T))
    losses = [loss(objective, found, labels) for found in (predictions, booster.predict(matrix))]
    tolerance = REFITTED_LOSS if refitted else LOSS_TOLERANCE
    assert losses[0] == pytest.approx(losses[1], rel=tolerance), (given, losses)
    loaded = xgboost.Booster(model_file=bytearray(to_json(ensemble)))
    np.testing.assert_allclose(loaded.predict(matrix), predictions, rtol=1e-6, atol=1e-6)


def in_its_forms(given):
    """XGBoost's native interface takes constraints of all features, in its own texts."""
    if "monotone_constraints" not in given:
        return given
    named = parse_parameters({"monotone_constraints": given["monotone_constraints"]})
    names = [f"f{f}" for f in range(N_FEATURES)]
    signs = dict(named.for_features(names).monotone_constraints)
    return given | {"monotone_constraints": tuple(signs.get(name, 0) for name in names)}


def check_drawn(table, given, seed):
    """A model of drawn rows or columns uses no more columns than drawn, and learns; XGBoost draws other ones."""
    ensemble = trained_here(table, given, seed)
    rows, labels, _ = table
    most = max(1, int(given.get("colsample_bytree", 1) * N_FEATURES))
    each = max(1, int(given.get("colsample_bynode", 1) * max(1, int(given.get("colsample_bylevel", 1) * most))))
    for tree in ensemble.trees:
        used = tree.split_indices[tree.left_children >= 0]
        assert len(set(used)) <= most
        if "colsample_bynode" not in given and given.get("grow_policy") != "lossguide":
            for depth in set(depths := depths_of(tree)):
                here = tree.split_indices[(depths == depth) & (tree.left_children >= 0)]
                assert len(set(here)) <= each
    features = np.ascontiguousarray(rows.T)
    per_round = ensemble.trees_per_round
    found = [
        loss(ensemble.objective, ensemble.truncate(kept * per_round).predict(features), labels)
        for kept in range(ROUNDS + 1)
    ]
    if given.get("max_leaves") == 1:  # a leaf alone is at the base score's own best
        assert {tree.num_nodes for tree in ensemble.trees} == {1}
        assert found[-1] <= found[0] + 1e-6
    else:
        assert found[-1] < found[0]
    if "subsample" not in given and given.get("eta", 0.3) <= 0.5 and table[2] is None:
        assert all(after <= before + 1e-4 for before, after in pairwise(found)), found


def depths_of(tree):
    depths = np.zeros(tree.num_nodes, int)
    for node in range(1, tree.num_nodes):
        depths[node] = depths[tree.parents[node]] + 1
    return depths


def goes_left(tree, node, rows):
    values = rows[:, tree.split_indices[node]]
    left = values < tree.split_conditions[node]
    if tree.split_type[node]:
        left = ~np.isin(values, tree.categories[node])
    return np.where(np.isnan(values), tree.default_left[node] == 1, left)


def same_but_for_a_tie(mine, other, rows, leaf):
    """Whether two trees part the rows alike, with the same leaves; where they do not, the gains must be a tie."""
    waiting, alike = [(0, 0, np.arange(len(rows)))], True
    while waiting:
        a, b, own = waiting.pop()
        assert (mine.left_children[a] < 0) == (other.left_children[b] < 0), (a, b)
        if mine.left_children[a] < 0:
            assert mine.split_conditions[a] == pytest.approx(other.split_conditions[b], rel=leaf, abs=leaf)
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
objectives = st.sampled_from(list(LABELS))
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


def draws_of(strategy, most):
    found = []

    @settings(bounded, max_examples=most, phases=[Phase.generate])
    @given(strategy)
    def keep(drawn):
        found.append(drawn)

    keep()
    return found


@pytest.mark.parametrize("given", FIXED, ids=repr)
def test_parameters_that_users_write_are_taken_and_give_xgboosts_model(given):
    assert accepted_part(given) == given
    check(given, "binary:logistic", 0)


@pytest.mark.parametrize("given", [own for own in FIXED if "monotone_constraints" not in own][::3], ids=repr)
@pytest.mark.parametrize("objective", ["reg:absoluteerror", "reg:quantileerror"])
def test_parameters_that_users_write_go_with_leaves_that_are_quantiles(given, objective):
    check(given, objective, 0)


def test_a_draw_is_refused_where_it_asks_for_what_cannot_be_had_and_nowhere_else():
    """Several hundred draws under one seed: the share that is accepted whole."""
    accepted, refused = collections.Counter(), collections.Counter()
    for name, strategy in STRATEGIES.items():
        for own in draws_of(strategy, 60):
            said = refusal(own)
            (refused if said else accepted)[name] += 1
            assert not said or any(word in said or word in repr(own) for word in NEVER), (own, said)
    total = sum((accepted + refused).values())
    assert total > 250
    assert accepted.total() > 235
