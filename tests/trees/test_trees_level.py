"""What a side that holds rows refuses of a `Level`; who waits, and who is built."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.trees.growth import LEVEL_RULES, RowPartition, check_level, tree_received
from hansa.trees.level import BOTH_LEAVES, Level
from hansa.trees.row_chunks import part

ALLOWED = np.array([True, True, False, True])
SIZES = np.array([5, 1, 5, 11])
N_CATEGORIES = np.array([0, 0, 0, 11], np.int32)
"""Feature 0 has 5 bins, 1 one, 2 may not be used, 3 has 11 categories."""

FEATURE, BIN, FLAG, NUMBER, COUNT, OTHER, NODES, SETS = (LEVEL_RULES[i] for i in (1, 2, 5, 3, 4, 5, 6, 7))


def level(feature, bins=None, missing=None, built=(), child=(), nodes=(), categories=(), leaf=None):
    n = len(feature)
    return Level(
        np.array(feature, np.int32),
        np.array([0] * n if bins is None else bins, np.int32),
        np.array([0] * n if missing is None else missing, np.uint8),
        np.array([0] * n if leaf is None else leaf, np.float32),
        np.array(built, np.uint8),
        np.array(child, np.float32),
        np.array(nodes, np.int32),
        np.array(categories, np.uint8),
    )


GOOD = {
    "a leaf": (level([-1], leaf=[0.5]), 1),
    "a split whose children are leaves": (level([0], child=[1, 2]), 1),
    "a split that goes on": (level([0], built=[1]), 1),
    "the last bin": (level([0], [4], built=[0]), 1),
    "missing values alone to the left": (level([0], [-1], [1], built=[0]), 1),
    "the same of the one bin": (level([1], [-1], [1], built=[0]), 1),
    "one category": (level([3], [1], built=[0], categories=[1, 0]), 1),
    "the last category": (level([3], [1], built=[0], categories=[0, 4]), 1),
    "all categories": (level([3], [11], built=[0], categories=[255, 7]), 1),
    "two sets": (level([3, -1, 3], [2, 0, 1], built=[0, 1], categories=[3, 0, 0, 1]), 3),
    "one of three is decided": (level([0], built=[1], nodes=[2]), 3),
    "one goes on behind two that do not": (
        level([0, 0, 1], built=[2, 2, 1], child=[1, 2, 3, 4], nodes=[2, 0, 1]),
        4,
    ),
    "a leaf beside": (level([0, -1], built=[1], nodes=[3, 1], leaf=[0, 9]), 4),
    "the end, in another order": (level([1, 0, -1], child=[1, 2, 3, 4], nodes=[2, 0, 1]), 3),
}

BAD = {
    "a feature that is not there": (level([4], built=[1]), 1, FEATURE),
    "a feature below none": (level([-2], leaf=[1]), 1, FEATURE),
    "a feature that may not be used": (level([2], built=[1]), 1, FEATURE),
    "a bin too high": (level([0], [5], built=[1]), 1, BIN),
    "a bin too low": (level([0], [-2], [1], built=[1]), 1, BIN),
    "no present value to the left, no missing one either": (level([0], [-1], [0], built=[1]), 1, BIN),
    "more categories than there are": (level([3], [12], built=[0], categories=[255, 15]), 1, BIN),
    "a category that is not there": (level([3], [1], built=[0], categories=[0, 8]), 1, SETS),
    "the highest bit": (level([3], [1], built=[0], categories=[0, 128]), 1, SETS),
    "no category": (level([3], [0], built=[0], categories=[0, 0]), 1, SETS),
    "another number of categories": (level([3], [2], built=[0], categories=[1, 0]), 1, SETS),
    "too few bytes": (level([3], [1], built=[0], categories=[1]), 1, SETS),
    "no bytes": (level([3], [1], built=[0]), 1, SETS),
    "too many bytes": (level([3], [1], built=[0], categories=[1, 0, 0]), 1, SETS),
    "bytes of nobody": (level([0], built=[1], categories=[0]), 1, SETS),
    "a set of categories of the second split is missing": (
        level([3, 3], [1, 1], built=[0, 1], categories=[1, 0]),
        2,
        SETS,
    ),
    "missing values go nowhere": (level([0], missing=[2], built=[1]), 1, FLAG),
    "a child that is no child": (level([0], built=[3]), 1, FLAG),
    "no number as a leaf": (level([-1], leaf=[np.nan]), 1, NUMBER),
    "no number as a child": (level([0], child=[1, np.inf]), 1, NUMBER),
    "more children built than nodes split": (level([0], built=[1, 1]), 1, COUNT),
    "fewer": (level([0, 0], built=[1]), 2, COUNT),
    "all are leaves and the tree goes on": (level([0], built=[2], child=[1, 2]), 1, COUNT),
    "leaves of a split that goes on": (level([0], built=[1], child=[1, 2]), 1, COUNT),
    "no leaves of one that ends": (level([0, 0], built=[2, 1]), 2, COUNT),
    "one leaf of two": (level([0], child=[1]), 1, COUNT),
    "the tree ends and somebody waits": (level([0], child=[1, 2], nodes=[0]), 2, COUNT),
    "a node that is not active": (level([0], built=[1], nodes=[3]), 3, NODES),
    "a node below none": (level([0], built=[1], nodes=[-1]), 3, NODES),
    "a node twice": (level([0, 1], built=[1, 1], nodes=[1, 1]), 3, NODES),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_levels_break_no_rule(name):
    good, active = GOOD[name]
    assert check_level(good, ALLOWED, SIZES, N_CATEGORIES, active) == ""
    copied = good.copy()
    assert all(np.array_equal(a, b) for a, b in zip(good, copied, strict=True))
    assert not np.shares_memory(good.feature, copied.feature)


@pytest.mark.parametrize("name", BAD)
def test_bad_levels_break_theirs(name):
    bad, active, rule = BAD[name]
    assert check_level(bad, ALLOWED, SIZES, N_CATEGORIES, active) == rule


def test_every_rule_has_a_bad_level():
    assert {rule for _, _, rule in BAD.values()} == set(LEVEL_RULES[1:])


bytes_ = st.lists(st.integers(0, 255), max_size=5)
small = st.lists(st.integers(-3, 6), max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_whatever_breaks_no_rule_can_be_applied(data):
    """Rows of every node stand in the next level's or at a leaf, and each row gets one leaf at most."""
    active, n = data.draw(st.integers(1, 4)), data.draw(st.integers(0, 4))
    of_nodes = st.lists(st.integers(-1, 4), min_size=n, max_size=n)
    feature = data.draw(st.lists(st.sampled_from([-1, -1, 0, 0, 1, 3, 2, 4]), min_size=n, max_size=n))
    splits = sum(f >= 0 for f in feature)
    drawn = level(
        feature,
        data.draw(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=n, max_size=n)),
        data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)),
        data.draw(st.just([]) | st.lists(st.integers(0, 3), min_size=splits, max_size=splits)),
        data.draw(st.lists(st.floats(-9, 9, width=32), max_size=8)),
        data.draw(st.just([]) | st.permutations(range(active)).map(lambda own: own[:n]) | of_nodes),
        data.draw(st.just([]) | st.sampled_from([[1, 0], [3, 0], [1, 0, 0, 2]]) | bytes_),
    )
    if n != active and not len(drawn.nodes):
        return  # whose shape the party refuses
    if check_level(drawn, ALLOWED, SIZES, N_CATEGORIES, active):
        return
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 20 * active) for size in (5, 1, 5, 11)]).astype(np.uint8)
    margins = np.zeros(20 * active, np.float32)
    missing = np.full(4, -1, np.int32)
    rows = RowPartition(
        codes, missing, N_CATEGORIES, part(20 * active, None, np.empty(20 * active, np.uint16))[0], margins
    )
    rows.starts = (np.arange(active) * 20)[:, None]
    rows.ends = rows.starts + 20
    rows.apply(drawn)
    waits, built = drawn.waiting(active), drawn.built
    assert len(rows.starts) == 2 * built.sum() + len(waits)
    assert rows.starts[2 * built.sum() :, 0].tolist() == (20 * waits).tolist()
    assert rows.child_rows.reshape(-1, 2).sum(axis=1).tolist() == [20] * splits
    assert sorted(rows.rows.tolist()) == list(range(20 * active))
    if drawn.last:
        assert len(rows.starts) == 0


def test_who_splits_waits_and_is_built():
    drawn = GOOD["one goes on behind two that do not"][0]
    assert drawn.splits.tolist() == [2, 0, 1]
    assert drawn.waiting(4).tolist() == [3]
    assert drawn.built.tolist() == [False, False, True]
    assert drawn.built.sum() == (drawn.build_left != BOTH_LEAVES).sum()
    last = GOOD["the end, in another order"][0]
    assert last.last
    assert last.built.tolist() == [False, False]
    assert level([0, -1, 0], built=[1, 0]).splits.tolist() == [0, 2]
    assert level([0, -1, 0], built=[1, 0]).waiting(3).tolist() == []


def test_nodes_are_numbered_in_the_order_in_which_they_are_made():
    """Root, then its left child, whose children are leaves, then the right one."""
    levels = [
        level([0], [2], built=[1]),
        level([3], [2], [1], built=[1], nodes=[1], categories=[5, 0]),
        level([1, -1, -1], [-1, 0, 0], [1, 0, 0], child=[7, 8], nodes=[2, 0, 1], leaf=[0, 5, 6]),
    ]
    offsets = np.array([0, 4, 4, 8, 18])
    tree = tree_received(levels, offsets, np.arange(18, dtype=np.float32), N_CATEGORIES)
    assert tree.left_children.tolist() == [1, 5, 3, -1, -1, -1, -1]
    assert tree.right_children.tolist() == [2, 6, 4, -1, -1, -1, -1]
    assert tree.split_indices.tolist() == [0, 1, 3, 0, 0, 0, 0]
    assert tree.split_conditions[[0, 3, 4, 5, 6]].tolist() == [2, 5, 6, 7, 8]
    assert tree.split_conditions[1] < -3e38  # missing values alone go left
    assert dict(tree.categories) == {2: (0, 2)}
    assert tree.default_left.tolist() == [0, 1, 1, 0, 0, 0, 0]
