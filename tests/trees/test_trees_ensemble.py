"""The ensemble predicts as its naive twin and as real XGBoost, to the bit; inconsistent trees are refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_model as naive
from hansa.errors import DataError, PlanError
from hansa.trees.ensemble import (
    OBJECTIVES,
    ROOT_PARENT,
    ROWS_PER_BLOCK,
    TREE_DTYPES,
    Ensemble,
    Tree,
    add_margins,
    base_margin,
    check_tree,
    predictions_from_margins,
)
from hansa.trees.xgboost_json import to_json

NAMES = tuple("abcdef")


def table(n_rows=3000, seed=0):
    """Rows (n_rows, 6) float32 with a tenth missing and some infinite, and a target."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, 6)).astype(np.float32)
    target = rows[:, 0] + rows[:, 1] * rows[:, 2] + rng.normal(size=n_rows)
    rows[rng.random(rows.shape) < 0.1] = np.nan
    rows[::97, 3] = np.inf
    rows[::89, 3] = -np.inf
    return rows, target


def matrix(rows, target=None):
    # XGBoost refuses infinity unless told that it is data: a quantile sketch of it is fine once clipped.
    return xgboost.DMatrix(np.clip(rows, -1e30, 1e30), target, feature_names=list(NAMES))


def features_of(rows):
    return np.ascontiguousarray(np.clip(rows, -1e30, 1e30).T)


def trained(objective, rounds=20, **parameters):
    """A real XGBoost booster, and its trees taken over field by field."""
    rows, target = table()
    labels = target > 0.5 if objective == "binary:logistic" else 3 * target
    parameters = {"objective": objective, "max_depth": 5, "nthread": 1, **parameters}
    booster = xgboost.train(parameters, matrix(rows, labels), rounds)
    learner = json.loads(booster.save_raw("json"))["learner"]
    trees = [
        Tree(**{name: tree[name] for name in TREE_DTYPES}) for tree in learner["gradient_booster"]["model"]["trees"]
    ]
    base_score = float(learner["learner_model_param"]["base_score"].strip("[]"))
    return booster, Ensemble(objective, base_score, NAMES, tuple(trees))


def random_tree(seed, n_splits=20, n_features=6):
    """A tree of random shape: leaves are split one after another, as lossguide growth would number them."""
    rng = np.random.default_rng(seed)
    left, right, parents, leaves = [-1], [-1], [ROOT_PARENT], [0]
    for _ in range(n_splits):
        # Mostly the newest leaf, so that some trees are deep and thin.
        node = leaves.pop(-1 if rng.random() < 0.7 else int(rng.integers(len(leaves))))
        left[node], right[node] = len(left), len(left) + 1
        left += [-1, -1]
        right += [-1, -1]
        parents += [node, node]
        leaves += [left[node], right[node]]
    size = len(left)
    return Tree(
        left_children=left,
        right_children=right,
        parents=parents,
        split_indices=np.where(np.array(left) < 0, 0, rng.integers(n_features, size=size)),
        split_conditions=rng.normal(size=size).astype(np.float32),
        default_left=rng.integers(2, size=size),
        base_weights=rng.normal(size=size),
        loss_changes=rng.random(size),
        sum_hessian=rng.random(size),
    )


def some_categorical(tree, seed, features=(4, 5)):
    """The tree with one-hot splits wherever it splits on these features."""
    rng = np.random.default_rng(seed)
    kinds = (tree.left_children >= 0) & np.isin(tree.split_indices, features)
    categories = rng.integers(4, size=tree.num_nodes)
    return replace(tree, split_conditions=np.where(kinds, categories, tree.split_conditions), split_type=kinds)


def stump():
    return Tree([1, -1, -1], [2, -1, -1], [ROOT_PARENT, 0, 0], [0, 0, 0], [0.5, -1, 2], [1, 0, 0], *[[0.0] * 3] * 3)


@pytest.mark.parametrize("objective", ["binary:logistic", "reg:squarederror"])
@pytest.mark.parametrize("base_score", [None, 0.5, 0.3, 0.0123, 0.987654321])
def test_margins_have_xgboosts_bits(objective, base_score):
    parameters = {} if base_score is None else {"base_score": base_score}
    booster, ensemble = trained(objective, **parameters)
    rows, _ = table(seed=1)
    margins = ensemble.predict_margin(features_of(rows))
    expected = booster.predict(matrix(rows), output_margin=True)
    assert margins.tobytes() == expected.tobytes()
    np.testing.assert_allclose(ensemble.predict(features_of(rows)), booster.predict(matrix(rows)), rtol=0, atol=1e-6)


def test_lossguide_trees_have_xgboosts_bits():
    booster, ensemble = trained("reg:squarederror", grow_policy="lossguide", max_leaves=60, max_depth=0)
    rows, _ = table(seed=2)
    expected = booster.predict(matrix(rows), output_margin=True)
    assert ensemble.predict_margin(features_of(rows)).tobytes() == expected.tobytes()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n_splits=st.integers(0, 40), n_rows=st.integers(0, 40))
def test_margins_are_those_of_the_naive_twin(seed, n_splits, n_rows):
    rng = np.random.default_rng(seed)
    trees = [random_tree(seed + i, n_splits) for i in range(3)]
    # Ties with split conditions, both infinities and missing values are what could go the wrong way.
    values = np.concatenate([trees[0].split_conditions, [np.nan, np.inf, -np.inf, 0.0]])
    features = rng.choice(values, size=(6, n_rows)).astype(np.float32)
    fast = Ensemble("reg:squarederror", 0.25, NAMES, tuple(trees)).predict_margin(features)
    assert fast.tobytes() == naive.margins(trees, features, np.float32(0.25)).tobytes()


CATEGORICAL = (None, None, None, None, (), ("x", "y", "z", "w"))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), n_splits=st.integers(0, 40), n_rows=st.integers(0, 40))
def test_margins_of_categorical_splits_are_those_of_the_naive_twin(seed, n_splits, n_rows):
    rng = np.random.default_rng(seed)
    trees = [some_categorical(random_tree(seed + i, n_splits), seed + i) for i in range(3)]
    values = [0, 1, 2, 3, 4, 2.5, 0.999, -0.0, -0.5, -1, 2**24 - 1, 2**24, 1e30, -1e30, np.inf, -np.inf, np.nan, np.nan]
    features = rng.choice(values, size=(6, n_rows)).astype(np.float32)
    fast = Ensemble("reg:squarederror", 0.25, NAMES, tuple(trees), CATEGORICAL).predict_margin(features)
    assert fast.tobytes() == naive.margins(trees, features, np.float32(0.25)).tobytes()


def categorical_stump(**changes):
    return replace(stump(), **{"split_type": [1, 0, 0], "split_conditions": [2.0, -1, 2], **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"split_conditions": [-1.0, -1, 2]}, r"split_conditions\[0\] is wrong; expected a category"),
        ({"split_conditions": [1.5, -1, 2]}, r"split_conditions\[0\] is wrong; expected a category"),
        ({"split_conditions": [2.0**24, -1, 2]}, r"split_conditions\[0\] is wrong; expected a category"),
        ({"split_type": [2, 0, 0]}, r"split_type\[0\] is wrong"),
        ({"split_type": [1, 0, 1]}, r"split_type\[2\] is wrong"),
        ({"split_type": [1]}, "split_type has shape"),
    ],
)
def test_categorical_splits_that_are_none_are_refused(changes, named):
    assert categorical_stump().split_type.tolist() == [1, 0, 0]
    with pytest.raises(DataError, match=named):
        categorical_stump(**changes)


def test_features_are_split_as_what_they_are():
    trees = (stump(), categorical_stump())
    ok = Ensemble("reg:squarederror", 0.5, ("a", "b"), trees[1:], (("x", "y", "z"), None))
    assert ok.importance("weight") == {"a": 1.0}
    assert Ensemble("reg:squarederror", 0.5, ("a", "b"), trees[:1], (None, None)).categories == ()
    for chosen, categories, named in (
        (trees, (("x", "y", "z"), None), "tree 0 splits 'a' by a comparison; expected a category"),
        (trees, (), "tree 1 splits 'a' by a category; expected a comparison"),
        (trees[1:], (("x", "y"), None), "tree 0 splits 'a' by category 2; expected less than 2"),
        (trees[1:], (("x", "x", "y"), None), "category of 'a' occurs twice"),
        (trees[1:], (("x", "y", "z"),), "categories of 1 features; expected 2"),
    ):
        with pytest.raises(DataError, match=named):
            Ensemble("reg:squarederror", 0.5, ("a", "b"), chosen, categories)


def test_threads_and_blocks_do_not_change_bits():
    _, ensemble = trained("binary:logistic")
    rows, _ = table(n_rows=3 * ROWS_PER_BLOCK + 17, seed=3)
    features = features_of(rows)
    whole = ensemble.predict_margin(features)
    for threads in (2, 3, 2000):
        assert ensemble.predict_margin(features, threads).tobytes() == whole.tobytes()
    parts = [ensemble.predict_margin(features[:, i : i + 100]) for i in range(0, features.shape[1], 100)]
    assert np.concatenate(parts).tobytes() == whole.tobytes()


def test_adding_trees_one_by_one_or_at_once_is_the_same():
    _, ensemble = trained("binary:logistic")
    features = features_of(table(seed=4)[0])
    margins = np.full(features.shape[1], base_margin("binary:logistic", ensemble.base_score), np.float32)
    for tree in ensemble.trees:
        add_margins([tree], features, margins)
    assert margins.tobytes() == ensemble.predict_margin(features).tobytes()
    add_margins([], features, margins)
    assert margins.tobytes() == ensemble.predict_margin(features).tobytes()


def test_missing_and_equal_values_take_the_stated_side():
    features = np.array([[0.4, 0.5, np.nan, np.inf, -np.inf]], dtype=np.float32)
    ensemble = Ensemble("reg:squarederror", 0.0, ("a",), (stump(),))
    np.testing.assert_array_equal(ensemble.predict(features), [-1, 2, -1, 2, -1])
    to_right = Ensemble("reg:squarederror", 0.0, ("a",), (replace(stump(), default_left=[0, 0, 0]),))
    np.testing.assert_array_equal(to_right.predict(features), [-1, 2, 2, 2, -1])


@pytest.mark.parametrize("kind", ["weight", "gain", "cover", "total_gain", "total_cover"])
def test_importance_is_xgboosts(kind):
    booster, ensemble = trained("binary:logistic", rounds=3)
    expected = booster.get_score(importance_type=kind)
    assert ensemble.importance(kind) == pytest.approx(expected, rel=1e-6)
    # A feature without a split is left out.
    assert set(Ensemble("reg:squarederror", 0, ("a", "b"), (stump(),)).importance(kind)) == {"a"}


def test_importance_of_an_unknown_kind_is_refused():
    with pytest.raises(PlanError, match="shap"):
        Ensemble("reg:squarederror", 0, ("a",), ()).importance("shap")


def test_truncate_keeps_the_first_trees():
    booster, ensemble = trained("binary:logistic")
    features = features_of(table()[0])
    expected = booster.predict(matrix(table()[0]), output_margin=True, iteration_range=(0, 7))
    assert ensemble.truncate(7).predict_margin(features).tobytes() == expected.tobytes()
    assert (ensemble.truncate(0).predict_margin(features) == base_margin("binary:logistic", ensemble.base_score)).all()
    for wrong in (-1, 21):
        with pytest.raises(PlanError, match="0 to 20"):
            ensemble.truncate(wrong)


def test_arrays_are_read_only_copies():
    conditions = np.array([0.5, -1, 2], dtype=np.float32)
    tree = replace(stump(), split_conditions=conditions)
    conditions[0] = 9
    assert tree.split_conditions[0] == 0.5
    with pytest.raises(ValueError):
        tree.split_conditions[0] = 1
    assert all(getattr(tree, name).dtype == dtype for name, dtype in TREE_DTYPES.items())
    with pytest.raises(TypeError):
        tree.categories[0] = (1,)


def test_the_sets_of_a_tree_are_checked():
    one = replace(stump(), split_type=[1, 0, 0], split_conditions=[3, -1, 2])
    assert dict(one.categories) == {0: (3,)}
    several = replace(stump(), split_type=[], categories={0: (1, 4, 5)})
    assert several.split_type.tolist() == [1, 0, 0]
    assert several.split_conditions[0] == 1
    assert several != replace(stump(), split_type=[], categories={0: (1, 4)})
    for wrong in ({0: (4, 1)}, {0: (1, 1)}, {0: ()}, {0: (-1,)}, {0: (1, 2**24)}, {1: (1,)}):
        with pytest.raises(DataError, match="tree"):
            replace(stump(), split_type=[1, 0, 0], categories=wrong)
    with pytest.raises(DataError, match="category 4; expected less than 4"):
        Ensemble("reg:squarederror", 0.1, ("a",), (replace(several, categories={0: (1, 4)}),), (("p", "q", "r", "s"),))


@pytest.mark.parametrize("missing_left", [0, 1])
def test_a_set_is_found_whatever_its_gaps(missing_left):
    """Every subset of ten categories, against membership."""
    values = np.array([*range(-2, 12), 3.5, np.nan], np.float32)
    for bits in range(1, 2**10):
        own = tuple(np.flatnonzero([bits >> c & 1 for c in range(10)]).tolist())
        tree = replace(stump(), split_type=[], categories={0: own}, default_left=[missing_left, 0, 0])
        margins = np.zeros(len(values), np.float32)
        add_margins((tree,), values[None], margins)
        right = np.isin(np.trunc(values), own) | (np.isnan(values) & (missing_left == 0))
        assert np.array_equal(margins, tree.split_conditions[np.where(right, 2, 1)])


def test_equality_is_by_value():
    assert stump() == stump()
    assert stump() != replace(stump(), default_left=[0, 0, 0])
    assert stump() != 3
    one = Ensemble("reg:squarederror", 0.1, ("a",), (stump(),))
    assert one == Ensemble("reg:squarederror", float(np.float32(0.1)), ["a"], [stump()])
    assert one != one.truncate(0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("left_children", [1, -1]),
        ("left_children", [3, -1, -1]),
        ("left_children", [-2, -1, -1]),
        ("left_children", [0, -1, -1]),
        ("left_children", [2, -1, -1]),
        ("left_children", [1, 2, -1]),
        ("left_children", []),
        ("right_children", [-1, -1, -1]),
        ("right_children", [1, -1, -1]),
        ("right_children", [99, -1, -1]),
        ("parents", [0, 0, 0]),
        ("parents", [ROOT_PARENT, 0, 1]),
        ("parents", [ROOT_PARENT, 0, ROOT_PARENT]),
        ("split_indices", [-1, 0, 0]),
        ("default_left", [2, 0, 0]),
        ("split_conditions", [np.nan, 0, 0]),
        ("split_conditions", [0, np.inf, 0]),
        ("base_weights", [0, 0, -np.inf]),
        ("loss_changes", [np.nan, 0, 0]),
        ("sum_hessian", [0, 0]),
    ],
)
def test_inconsistent_trees_are_refused(name, value):
    with pytest.raises(DataError, match="tree:"):
        replace(stump(), **{name: value})


def test_a_cycle_apart_from_the_root_is_refused():
    # Nodes 3 and 4 are each other's parents: every link agrees, but the root does not reach them.
    with pytest.raises(DataError, match="reaches 3"):
        Tree(
            left_children=[1, -1, -1, 4, 3, -1, -1],
            right_children=[2, -1, -1, 5, 6, -1, -1],
            parents=[ROOT_PARENT, 0, 0, 4, 3, 3, 4],
            split_indices=[0] * 7,
            split_conditions=[0.0] * 7,
            default_left=[0] * 7,
            base_weights=[0.0] * 7,
            loss_changes=[0.0] * 7,
            sum_hessian=[0.0] * 7,
        )


@given(seed=st.integers(0, 2**32), n_splits=st.integers(0, 30))
def test_grown_trees_pass(seed, n_splits):
    check_tree(random_tree(seed, n_splits))


@settings(max_examples=200)
@given(data=st.data())
def test_a_tree_with_one_damaged_link_is_refused(data):
    """The kernel follows links without a check: no damaged one may pass."""
    tree = random_tree(data.draw(st.integers(0, 1000)), 6)
    name = data.draw(st.sampled_from(["left_children", "right_children", "parents"]))
    damaged = getattr(tree, name).copy()
    damaged[data.draw(st.integers(0, tree.num_nodes - 1))] = data.draw(st.integers(-3, 15))
    try:
        passed = replace(tree, **{name: damaged})
    except DataError:
        return
    assert passed == tree


def test_wrong_ensembles_are_refused():
    with pytest.raises(DataError, match="feature 1"):
        Ensemble("reg:squarederror", 0, ("a",), (replace(stump(), split_indices=[1, 0, 0]),))
    with pytest.raises(DataError, match="feature 0"):
        Ensemble("reg:squarederror", 0, (), (stump(),))
    with pytest.raises(DataError, match="twice"):
        Ensemble("reg:squarederror", 0, ("a", "a"), ())
    for objective, base_score in (
        ("binary:logistic", 0),
        ("binary:logistic", 1),
        ("binary:logistic", 1 - 1e-9),
        ("reg:squarederror", np.nan),
        ("reg:squarederror", 1e39),
    ):
        with pytest.raises(DataError, match="base_score"):
            Ensemble(objective, base_score, ("a",), ())
    for ask in (
        base_margin,
        lambda objective, _: predictions_from_margins(objective, np.zeros(1, np.float32)),
    ):
        with pytest.raises(PlanError, match="rank:ndcg"):
            ask("rank:ndcg", 0.5)


def test_wrong_features_are_refused():
    ensemble = Ensemble("reg:squarederror", 0, ("a", "b"), (stump(),))
    for features in (np.zeros((3, 2), np.float32), np.zeros(2, np.float32), np.zeros((2, 3), np.float64)):
        with pytest.raises(DataError, match="expected"):
            ensemble.predict_margin(features)
    with pytest.raises(DataError, match="feature 0"):
        add_margins([stump()], np.zeros((0, 2), np.float32), np.zeros(2, np.float32))
    # A tree that is one leaf needs no feature.
    leaf = Tree([-1], [-1], [ROOT_PARENT], [0], [1.5], [0], [1.5], [0], [3])
    margins = np.zeros(2, np.float32)
    add_margins([leaf], np.zeros((0, 2), np.float32), margins)
    assert margins.tolist() == [1.5, 1.5]


@pytest.mark.parametrize("base_score", [1e-45, 1e-30, 1e-7, 9e-7, 1e-6, 1.1e-6, 0.999998, 0.999999, 0.9999999])
def test_base_scores_next_to_0_and_1_are_taken_as_xgboost_takes_them(base_score):
    ensemble = Ensemble("binary:logistic", base_score, ("a", "b"), (stump(),))
    booster = xgboost.Booster()
    booster.load_model(bytearray(to_json(ensemble)))
    features = np.array([[0.2, 7], [0, 0]], np.float32)
    theirs = booster.predict(xgboost.DMatrix(features.T, feature_names=["a", "b"]), output_margin=True)
    assert ensemble.predict_margin(features).tobytes() == theirs.tobytes()


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_has_a_margin_and_predictions(objective):
    margin = base_margin(objective, 0.25)
    if objective in ("multi:softprob", "multi:softmax"):
        margins = np.array([[margin, 0, -1], [-3e38, 3e38, 3e38]], np.float32)
        shares = np.exp([0.25, 0, -1]) / np.exp([0.25, 0, -1]).sum()
        expected = [shares, [0, 0.5, 0.5]] if objective == "multi:softprob" else [0, 1]  # the first of the largest
        np.testing.assert_allclose(predictions_from_margins(objective, margins), expected, rtol=1e-6)
        return
    expected = 1.0 if objective == "binary:hinge" else 0.25  # a margin above 0
    assert predictions_from_margins(objective, np.full(3, margin)) == pytest.approx([expected] * 3, abs=1e-7)
    if objective == "binary:hinge":
        assert predictions_from_margins(objective, np.array([0, -1, 1e-9], np.float32)).tolist() == [0, 0, 1]


def test_several_outputs_are_models_side_by_side():
    trees = [random_tree(seed) for seed in range(6)]
    both = Ensemble("binary:logistic", (0.2, 0.6), NAMES, tuple(trees))
    features = features_of(table(500)[0])
    for output, score in enumerate((0.2, 0.6)):
        alone = Ensemble("binary:logistic", score, NAMES, tuple(trees[output::2]))
        assert both.predict_margin(features)[:, output].tobytes() == alone.predict_margin(features).tobytes()
        assert both.predict(features)[:, output].tobytes() == alone.predict(features).tobytes()
    assert (both.outputs, both.rounds) == (2, 3)
    assert both.truncate(4).rounds == 2


def test_outputs_with_more_trees_than_others_are_refused():
    tree = random_tree(0)
    with pytest.raises(DataError, match="3 trees"):
        Ensemble("binary:logistic", (0.2, 0.6), NAMES, (tree,) * 3)
    for scores in ((), (0.5,)):
        with pytest.raises(DataError, match="base_score"):
            Ensemble("binary:logistic", scores, NAMES, ())
    with pytest.raises(DataError, match="base_score"):
        Ensemble("binary:logistic", (0.5, 1.0), NAMES, ())
    with pytest.raises(PlanError, match="whole rounds of 2 trees"):
        Ensemble("binary:logistic", (0.2, 0.6), NAMES, (tree,) * 4).truncate(3)
