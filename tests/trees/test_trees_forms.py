"""Real XGBoost as the oracle of how trees grow: whole models of small tables, whose values are as many as bins."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost

from hansa.data.holdout import hash_rows
from hansa.data.schema import Schema
from hansa.data.source import Rows
from hansa.node.in_process import train_in_process
from hansa.plan import Plan
from hansa.trees.ensemble import NO_NODE, add_margins
from hansa.trees.parameters import parse_parameters
from hansa.trees.sampling import draw_by_contents
from hansa.trees.xgboost_json import from_json, to_json

N_ROWS, NUMBERS, LEVELS = 1800, 4, (3, 9, 40)
NAMES = tuple(f"f{f}" for f in range(NUMBERS + len(LEVELS)))
NEAR = 2e-4

WEIGHTS = np.random.default_rng(99).uniform(0.5, 2, N_ROWS).astype(np.float32)
"""Without weights many categories of two classes have leaves of one weight, and any order of them is right."""


def made_table(seed, classes=0, categories=True):
    """float32 (features, rows), numbers first; labels: classes, or numbers where there are none."""
    rng = np.random.default_rng(seed)
    numbers = rng.integers(0, 30, (NUMBERS, N_ROWS)).astype(np.float32)
    numbers[1][rng.random(N_ROWS) < 0.2] = np.nan
    signal = numbers[0] / 8 + np.nan_to_num(numbers[1]) / 15 * np.sin(numbers[2])
    columns = list(numbers)
    if categories:
        for levels in LEVELS:
            codes = rng.integers(0, levels, N_ROWS)
            signal = signal + rng.normal(size=levels)[codes]
            column = codes.astype(np.float32)
            column[rng.random(N_ROWS) < 0.1] = np.nan
            columns.append(column)
    noisy = signal + rng.logistic(size=N_ROWS)
    if classes:
        labels = np.digitize(noisy, np.quantile(noisy, np.linspace(0, 1, classes + 1)[1:-1]))
    else:
        labels = noisy
    return np.stack(columns), labels.astype(np.float32)


def made_labels(seed, objective):
    """The features of `made_table`, and two labels (2, rows) that the objective takes, the second of which is larger."""
    features, first = made_table(seed, categories=False)
    second = features[2] / 6 + np.nan_to_num(features[1]) / 20 + np.random.default_rng(seed).logistic(size=N_ROWS)
    labels = np.stack([first, 40 * second.astype(np.float32)])
    if objective.startswith("binary:"):
        labels = np.stack([own > np.quantile(own, share) for own, share in zip(labels, (0.4, 0.7), strict=True)])
    elif objective == "count:poisson":
        labels = np.floor(np.exp(np.clip(labels / [[2], [80]], -3, 3)))
    elif objective not in ("reg:squarederror", "reg:pseudohubererror", "reg:absoluteerror"):
        labels = np.exp(np.clip(labels / [[4], [100]], -3, 3)) + 0.1
    return features, labels.astype(np.float32)


def trained_here(features, labels, parties=2, mode="federated", **given):
    names = NAMES[: len(features)]
    members = tuple("abcd"[:parties])
    plan = Plan(
        name="forms",
        mode=mode,
        aggregator="hub",
        parties=members,
        receivers=members,
        minimum_parties=parties,
        schema=Schema(
            names,
            "y" if labels.ndim == 1 else tuple(f"y{k}" for k in range(len(labels))),
            "w",
            categories=tuple(() if f < NUMBERS else tuple(range(LEVELS[f - NUMBERS])) for f in range(len(names))),
        ),
        parameters=parse_parameters({"rounds": 4, "max_bin": 2000, **given}),
        min_cell_rows=2,
        min_party_rows=0,
    )
    tables = {
        name: Rows(np.ascontiguousarray(features[:, at::parties]), labels[..., at::parties], WEIGHTS[at::parties])
        for at, name in enumerate(members)
    }
    return train_in_process(plan, tables).outcome.ensemble


def trained_there(features, labels, **given):
    types = ["q" if f < NUMBERS else "c" for f in range(len(features))]
    matrix = xgboost.DMatrix(
        features.T, labels.T, weight=WEIGHTS, feature_types=types, feature_names=list(NAMES[: len(features)])
    )
    given = {"tree_method": "hist", "max_bin": 2000, "nthread": 1, **given}
    rounds = given.pop("rounds", 4)
    booster = xgboost.train(given, matrix, rounds)
    return from_json(bytes(booster.save_raw("json"))).with_one_base_score(), matrix


def goes_left(tree, node, rows):
    values = rows[tree.split_indices[node]]
    if tree.split_type[node]:
        left = ~np.isin(values, tree.categories[node])
    else:
        left = values < tree.split_conditions[node]
    return np.where(np.isnan(values), tree.default_left[node] == 1, left)


def same(mine, other, features, numbered=True):
    """Whether two trees part the rows alike, node by node under the same numbers, with the same leaves; "tie" where gains are."""
    assert mine.num_nodes == other.num_nodes
    waiting = [(0, 0, np.arange(features.shape[1]))]
    while waiting:
        a, b, own = waiting.pop()
        if numbered:
            assert a == b
        assert (mine.left_children[a] == NO_NODE) == (other.left_children[b] == NO_NODE)
        assert mine.sum_hessian[a] == pytest.approx(other.sum_hessian[b], rel=NEAR, abs=NEAR)
        if mine.left_children[a] == NO_NODE:
            assert mine.split_conditions[a] == pytest.approx(other.split_conditions[b], rel=NEAR, abs=NEAR)
            continue
        assert mine.loss_changes[a] == pytest.approx(other.loss_changes[b], rel=NEAR, abs=1e-3)
        left = goes_left(mine, a, features[:, own])
        if not np.array_equal(left, goes_left(other, b, features[:, own])):
            return False
        waiting.append((mine.left_children[a], other.left_children[b], own[left]))
        waiting.append((mine.right_children[a], other.right_children[b], own[~left]))
    return True


CASES = {
    "lossguide": {"grow_policy": "lossguide", "max_depth": 4},
    "lossguide without a depth": {"grow_policy": "lossguide", "max_depth": 0, "max_leaves": 13},
    "lossguide with both": {"grow_policy": "lossguide", "max_depth": 5, "max_leaves": 9, "gamma": 0.5},
    "leaves in levels": {"max_depth": 5, "max_leaves": 11},
    "levels without a depth": {"max_depth": 0, "max_leaves": 20},
    "rising and falling": {"monotone_constraints": {"f0": 1, "f2": -1}, "max_depth": 4},
    "rising, as few leaves": {"monotone_constraints": {"f0": -1, "f1": 1}, "grow_policy": "lossguide", "max_leaves": 12},
    "rising, bounded": {"monotone_constraints": {"f0": 1}, "max_delta_step": 0.4, "alpha": 0.3},
    "few may meet": {"interaction_constraints": [["f0", "f1"], ["f1", "f2"]], "max_depth": 4},
    "few may meet, best first": {
        "interaction_constraints": [["f0", "f3"], ["f1", "f2"]], "grow_policy": "lossguide", "max_leaves": 10,
    },
    "a forest": {"num_parallel_tree": 3, "rounds": 2},
}  # fmt: skip

OF_CATEGORIES = {
    "all kinds": {"max_depth": 4},
    "one-hot": {"max_cat_to_onehot": 100, "max_depth": 4},
    "partition": {"max_cat_to_onehot": 1, "max_depth": 4},
    "a low threshold": {"max_cat_threshold": 5},
    "best first": {"grow_policy": "lossguide", "max_leaves": 15, "max_depth": 0},
    "rising beside them": {"monotone_constraints": {"f0": 1}},
    "few may meet": {"interaction_constraints": [["f0", "f5"], ["f6", "f2", "f4"]]},
    "alpha": {"alpha": 1.0, "max_delta_step": 0.5},
}


def check_model(features, labels, given, exact=2):
    ours = trained_here(features, labels, **given)
    count = len(features)
    there = dict(given)
    if "monotone_constraints" in there:
        signs = given["monotone_constraints"]
        there["monotone_constraints"] = "(" + ",".join(str(signs.get(one, 0)) for one in NAMES[:count]) + ")"
    theirs, matrix = trained_there(features, labels, **there)
    assert np.allclose(ours.base_scores, theirs.base_scores, rtol=1e-4, atol=1e-6)
    assert len(ours.trees) == len(theirs.trees)
    alike = 0
    for mine, other in zip(ours.trees, theirs.trees, strict=True):
        if not same(mine, other, features):
            break
        alike += 1
    assert alike >= exact
    loaded = xgboost.Booster()
    loaded.load_model(bytearray(to_json(ours)))
    assert np.allclose(loaded.predict(matrix), ours.predict(features), atol=1e-6)
    return alike


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_trees_grow_as_xgboosts_do(name, objective):
    features, labels = made_table(1, 2 if objective == "binary:logistic" else 0, categories=False)
    check_model(features, labels, {"objective": objective, **CASES[name]})


@pytest.mark.parametrize("name", OF_CATEGORIES)
@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_categories_are_split_as_xgboost_does(name, objective):
    features, labels = made_table(2, 2 if objective == "binary:logistic" else 0)
    # Later trees may differ by a tie: of two sets of categories that part the rows alike, or of a split and its mirror image.
    check_model(features, labels, {"objective": objective, **OF_CATEGORIES[name]}, exact=1)


@pytest.mark.parametrize("classes", [3, 5])
@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_classes_are_learnt_as_xgboost_does(objective, classes):
    features, labels = made_table(3, classes)
    check_model(features, labels, {"objective": objective, "num_class": classes, "max_depth": 3}, exact=4)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
def test_trees_of_drawn_rows_are_xgboosts_trees_of_these_rows(objective):
    features, labels = made_table(4, 2 if objective == "binary:logistic" else 0, categories=False)
    base, seed = 0.5, 7
    ours = trained_here(features, labels, objective=objective, subsample=0.6, max_depth=3, base_score=base, seed=seed)
    hashes = hash_rows(features, labels, seed)
    margins = np.full(N_ROWS, 0.0 if objective == "binary:logistic" else base, np.float32)
    for number, mine in enumerate(ours.trees):
        drawn = draw_by_contents(hashes, 0.6, seed, number)
        assert 0.5 < drawn.mean() < 0.7
        matrix = xgboost.DMatrix(
            features[:, drawn].T,
            labels[drawn],
            weight=WEIGHTS[drawn],
            base_margin=margins[drawn],
            feature_names=NAMES[:NUMBERS],
        )
        given = {
            "objective": objective,
            "max_depth": 3,
            "tree_method": "hist",
            "max_bin": 2000,
            "base_score": base,
            "nthread": 1,
        }
        other = from_json(bytes(xgboost.train(given, matrix, 1).save_raw("json"))).trees[0]
        assert same(mine, other, features[:, drawn])
        add_margins([mine], features, margins)


@pytest.mark.parametrize("classes", [0, 3])
def test_shap_reads_sets_of_categories_and_classes(classes):
    """Its values and expected value, which it has once it gave values, add up to the margins."""
    shap = pytest.importorskip("shap")
    features, labels = made_table(4, classes)
    given = {"objective": "multi:softprob", "num_class": classes} if classes else {"objective": "reg:squarederror"}
    ours = trained_here(features, labels, max_depth=3, **given)
    assert any(len(own) > 1 for tree in ours.trees for own in tree.categories.values())
    booster = xgboost.Booster()
    booster.load_model(bytearray(to_json(ours)))
    matrix = xgboost.DMatrix(features.T, feature_types=booster.feature_types, feature_names=booster.feature_names)
    explainer = shap.TreeExplainer(booster)
    values = explainer.shap_values(matrix)
    assert np.allclose(values.sum(axis=1) + explainer.expected_value, ours.predict_margin(features), atol=1e-4)


LABELLED = {
    "binary:logistic": {},
    "binary:logitraw": {"max_depth": 4},
    "binary:hinge": {},
    "reg:squarederror": {"num_parallel_tree": 2, "rounds": 2},
    "reg:pseudohubererror": {"huber_slope": 5.0, "base_score": 2.0},
    "reg:squaredlogerror": {"min_child_weight": 0.1},
    "reg:absoluteerror": {"rounds": 1},
    "count:poisson": {"monotone_constraints": {"f0": 1}},
    "reg:gamma": {"grow_policy": "lossguide", "max_leaves": 9},
    "reg:tweedie": {"tweedie_variance_power": 1.3},
}


@pytest.mark.parametrize("objective", [own for own in LABELLED if own != "reg:absoluteerror"])
def test_several_labels_are_learnt_as_xgboost_does(objective):
    """A tree for each label and round, base scores of their own, and a model that XGBoost predicts alike with."""
    features, labels = made_labels(5, objective)
    check_model(features, labels, {"objective": objective, "max_depth": 3, **LABELLED[objective]}, exact=2)


def test_medians_of_several_labels_are_xgboosts_but_for_their_cells():
    """A quantile is known to a cell of residuals, an eighth of its size."""
    features, labels = made_labels(5, "reg:absoluteerror")
    given = {"objective": "reg:absoluteerror", "max_depth": 3, "rounds": 3}
    ours = trained_here(features, labels, **given)
    theirs, matrix = trained_there(features, labels, **given)
    losses = [np.abs(model.predict(features).T - labels).mean(axis=1) for model in (ours, theirs)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert losses[0][1] > 20 * losses[0][0]
    loaded = xgboost.Booster(model_file=bytearray(to_json(ours)))
    assert np.allclose(loaded.predict(matrix), ours.predict(features), rtol=1e-6, atol=1e-6)


def test_a_model_of_xgboosts_of_several_labels_is_read_with_its_base_scores_and_as_labels():
    features, labels = made_labels(6, "binary:logistic")
    matrix = xgboost.DMatrix(features.T, labels.T, feature_names=list(NAMES[:NUMBERS]))
    booster = xgboost.train({"objective": "binary:logistic", "max_depth": 3}, matrix, 3)
    read = from_json(bytes(booster.save_raw("json")))
    assert read.reading.labels == ("0", "1")
    assert len(set(read.base_scores)) == 2
    assert np.allclose(read.predict(features), booster.predict(matrix), atol=1e-6)
    again = from_json(to_json(read))
    assert again == read
    loaded = xgboost.Booster(model_file=bytearray(to_json(read.with_one_base_score())))
    assert np.allclose(loaded.predict(matrix), booster.predict(matrix), atol=1e-6)
