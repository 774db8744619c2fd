"""A party that chooses its rows: what it reads of a known person, with and without the rule of dominance."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.errors import PlanError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.trees.ensemble import Tree
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json

FEATURES = ("x1", "x2", "x3", "x4")
N, COPIES = 3000, 60
_DRAW = np.random.default_rng(2)
X = _DRAW.normal(size=(4, N)).astype(np.float32)
Y = (X[0] + X[1] * X[2] + _DRAW.logistic(size=N) > 0).astype(np.float32)
TARGETS = _DRAW.choice(N, 6, replace=False)


def around(target: int) -> Rows:
    """Rows that look like one person in three features, next to rows that differ in the last bit of one of them."""
    known = X[:3, target]
    groups = [(known, 1.0)]
    for feature in range(3):
        for end in (-np.inf, np.inf):
            other = known.copy()
            other[feature] = np.nextafter(other[feature], np.float32(end))
            groups.append((other, 0.0))
    features = np.concatenate([np.repeat(g[:, None], 6 * COPIES if label else COPIES, 1) for g, label in groups], 1)
    labels = np.concatenate([np.full(6 * COPIES if label else COPIES, label) for _, label in groups])
    features = np.concatenate([features, np.zeros((1, features.shape[1]))])
    return Rows(features.astype(np.float32), labels.astype(np.float32), None)


def tables_of(target: int) -> dict[str, Rows]:
    own = np.arange(N) % 2
    return {
        "aurora": Rows(np.ascontiguousarray(X[:, own == 0]), Y[own == 0], None),
        "borealis": Rows(np.ascontiguousarray(X[:, own == 1]), Y[own == 1], None),
        "mallory": around(target),
    }


def plan_of(**given: object) -> Plan:
    parties = ("aurora", "borealis", "mallory")
    parameters = parse_parameters({"rounds": 1, "max_depth": 8, "eta": 0.3, "max_bin": 32, "min_child_weight": 20})
    fixed = Plan("attack", "federated", "hub", parties, parties, 3, Schema(FEATURES, "y"), parameters)
    return replace(fixed, **given)


def leaf_of(tree: Tree, row: np.ndarray) -> int:
    node = 0
    while tree.left_children[node] >= 0:
        left = row[tree.split_indices[node]] < tree.split_conditions[node]
        node = int((tree.left_children if left else tree.right_children)[node])
    return node


def read_label(plan: Plan, target: int) -> float | None:
    """The label that the leaf gives away, from what the attacker has: its rows and the model. None where it fits no single stranger."""
    tables = tables_of(target)
    model = from_json(train_in_process(plan, tables).parties["mallory"].model)
    tree, mine = model.trees[0], tables["mallory"]
    leaf = leaf_of(tree, mine.features[:, 0])
    inside = np.array([leaf_of(tree, mine.features[:, i]) == leaf for i in range(mine.n_rows)])
    ones, zeros = int((inside & (mine.label == 1)).sum()), int((inside & (mine.label == 0)).sum())
    p, value = float(model.base_score), float(tree.split_conditions[leaf])
    fits = []
    for rejected in itertools.product(range(8), repeat=2):  # with label 0, with label 1
        a, b = ones + rejected[1], zeros + rejected[0]
        implied = -0.3 * (a * (p - 1) + b * p) / ((a + b) * p * (1 - p) + 1)
        error = abs(implied - value) / max(abs(value), 1e-3)
        fits.append((error > 2e-6, sum(rejected) if error <= 2e-6 else 0, error, rejected))
    return {(1, 0): 0.0, (0, 1): 1.0}.get(min(fits)[3])


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
def test_copies_around_a_person_make_a_leaf_tell_its_label(mode):
    """Neither `min_child_weight`, nor masks, nor verified counts stop it: the rows are there."""
    read = [read_label(plan_of(mode=mode), target) for target in TARGETS]
    assert sum(label == Y[target] for label, target in zip(read, TARGETS, strict=True)) >= 5


def test_under_the_rule_of_dominance_no_leaf_tells():
    assert [read_label(plan_of(dominance=True), target) for target in TARGETS] == [None] * len(TARGETS)


def test_every_leaf_holds_the_minimum_without_its_largest_party():
    target = int(TARGETS[0])
    chosen = plan_of(dominance=True, min_child_rows=30)
    tables = tables_of(target)
    tree = train_in_process(chosen, tables).outcome.ensemble.trees[0]
    counts = np.zeros((3, len(tree.left_children)), np.int64)
    for party, rows in enumerate(tables.values()):
        for i in range(rows.n_rows):
            counts[party, leaf_of(tree, rows.features[:, i])] += 1
    leaves = counts[:, tree.left_children < 0]
    assert leaves.shape[1] > 1
    assert (leaves.sum(axis=0) - leaves.max(axis=0)).min() >= 30


def test_a_cell_is_not_refined_for_one_party_alone():
    """Of a feature that one party alone has close together, no cut stands inside its cell."""
    tables = tables_of(int(TARGETS[0]))
    fine, coarse = (
        train_in_process(plan_of(dominance=rule), tables).outcome.ensemble.trees[0] for rule in (False, True)
    )
    known = X[:3, TARGETS[0]]

    def near(tree: Tree) -> bool:
        inner = tree.left_children >= 0
        cuts, features = tree.split_conditions[inner], tree.split_indices[inner]
        return any(
            abs(cut - known[f]) <= 4 * np.spacing(abs(known[f])) for cut, f in zip(cuts, features, strict=True) if f < 3
        )

    assert near(fine)
    assert not near(coarse)


@pytest.mark.parametrize("mode", ["secure-aggregation"])
def test_where_nobody_sees_parts_the_rule_is_refused_by_name(mode):
    with pytest.raises(PlanError, match=r"privacy.dominance goes with mode 'federated' only"):
        plan_of(mode=mode, dominance=True)


def test_of_one_party_nothing_is_left():
    with pytest.raises(PlanError, match="at least two parties"):
        replace(plan_of(), parties=("aurora",), receivers=("aurora",), minimum_parties=1, dominance=True)
