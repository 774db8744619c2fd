"""The search under rules of single features, against one that writes out every candidate."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.trees.guided_search import FEW_CATEGORIES, FeatureRules, best_of_node, child_bounds, finish_nodes
from hansa.trees.parameters import Parameters
from hansa.trees.worker_pool import WorkerPool
from made_tables import no_rules

COLUMNS = np.array([0, 1, 3, 4], np.uint32)
N_CATEGORIES = np.array([0, 3, 0, 0, 7], np.int32)
HAS_MISSING = np.array([False, True, False, True, True])
SIZES = [4, 4, 5, 8]
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)]).astype(np.int64)


def sums_of_parties(rng, parties, rows, empty):
    """(parties, cells, 2): each party's sums of g and h; with `empty`, no row lacks a value."""
    parts = np.zeros((parties, OFFSETS[-1], 2), np.int64)
    for part in parts:
        count = int(rng.integers(1, rows))
        g, h = rng.integers(-9, 10, count), rng.integers(1, 4, count)
        for j, size in enumerate(SIZES):
            codes = rng.integers(0, size - (empty and HAS_MISSING[COLUMNS[j]]), count)
            np.add.at(part, OFFSETS[j] + codes, np.stack([g, h], 1))
    return parts


def running(parts):
    """The same, summed up within each column."""
    return np.concatenate([np.cumsum(parts[:, a:b], axis=1) for a, b in itertools.pairwise(OFFSETS)], axis=1)


def cells_of(parts, planes):
    """int64 (planes, cells) of running sums over parties."""
    whole = running(parts).sum(axis=0)
    return whole.T.copy() if planes == 2 else (whole[:, 0] * 2**32 + whole[:, 1])[None]


def searched(parts, planes, rules, limits, usable, bounds, dominated, rule):
    own = running(parts)[:, :, 1] if dominated else np.zeros((0, OFFSETS[-1]), np.int64)
    total = parts[:, : SIZES[0]].sum(axis=(0, 1))
    found, chosen = np.zeros(5, np.int64), np.zeros(1, np.uint8)
    gain = best_of_node(
        cells_of(parts, planes), own, COLUMNS, OFFSETS, HAS_MISSING, usable, rules.n_categories, rules.monotone, rules.bounded,
        *limits, total[0], total[1], *bounds, rule, found, chosen,
    )  # fmt: skip
    return gain, found, chosen


@settings(max_examples=300, deadline=None)
@given(
    parties=st.integers(1, 4),
    rows=st.integers(2, 60),
    empty=st.booleans(),
    planes=st.sampled_from([1, 2]),
    limits=st.tuples(st.sampled_from([1, 4, 8]), st.sampled_from([1, 3, 64])),
    signs=st.tuples(st.integers(-1, 1), st.integers(-1, 1)),
    usable=st.one_of(st.none(), st.lists(st.booleans(), min_size=4, max_size=4)),
    dominated=st.booleans(),
    least=st.integers(1, 25),
    parameters=st.builds(
        Parameters,
        lambda_=st.sampled_from([0.0, 1.0, 7.5]),
        alpha=st.sampled_from([0.0, 2.5]),
        max_delta_step=st.sampled_from([0.0, 0.4]),
    ),
    edges=st.tuples(st.sampled_from([-np.inf, -0.6, 0.2]), st.sampled_from([0.3, 0.8, np.inf])),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_best_split_of_a_node_is_the_naive_one(
    parties, rows, empty, planes, limits, signs, usable, dominated, least, parameters, edges, seed
):
    parts = sums_of_parties(np.random.default_rng(seed), parties, rows, empty)
    monotone = np.array([signs[0], 0, 0, signs[1], 0], np.int8)
    rules = FeatureRules(N_CATEGORIES, monotone, np.zeros((0, 5), np.bool_), *limits)
    bounds = edges if rules.bounded else (-np.inf, np.inf)
    rule = np.array([parameters.lambda_, parameters.alpha, parameters.max_delta_step, least, 1.0, 1.0])
    mask = np.zeros(0, np.bool_) if usable is None else np.array(usable)
    gain, found, chosen = searched(parts, planes, rules, limits, mask, bounds, dominated, rule)
    by_column = [[part[a:b].tolist() for a, b in itertools.pairwise(OFFSETS)] for part in parts]
    expected = naive.guided_candidates(
        by_column, COLUMNS.tolist(), HAS_MISSING, N_CATEGORIES, monotone.tolist(), [True] * 4 if usable is None else usable,
        limits, parameters, least, bounds if rules.bounded else None, dominated,
    )  # fmt: skip
    if not expected:
        assert (gain, found[0]) == (0.0, -1)
        return
    assert gain == pytest.approx(max(one for one, _, _ in expected.values()), abs=1e-9)
    feature, cut, missing_left, g, h = found.tolist()
    if N_CATEGORIES[feature]:
        right = frozenset(np.flatnonzero(np.unpackbits(chosen, bitorder="little")).tolist())
    else:
        column = COLUMNS.tolist().index(feature)
        right = frozenset(range(cut + 1, SIZES[column] - HAS_MISSING[feature]))
    assert expected[feature, cut, bool(missing_left), right] == (pytest.approx(gain, abs=1e-9), g, h)


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("categories", [2, FEW_CATEGORIES, FEW_CATEGORIES + 1, 3 * FEW_CATEGORIES])
def test_few_and_many_categories_are_sorted_alike(categories, planes):
    """By weight, those of equal weights in their order: many weigh alike here."""
    rng, limits = np.random.default_rng(categories), (1, 3 * FEW_CATEGORIES)
    part = np.stack([rng.integers(-2, 3, categories), np.full(categories, 2)], 1)
    sums = np.cumsum(part, axis=0)
    cells = sums.T.copy() if planes == 2 else (sums[:, 0] * 2**32 + sums[:, 1])[None]
    found, chosen = np.zeros(5, np.int64), np.zeros((categories + 7) // 8, np.uint8)
    gain = best_of_node(
        cells, np.zeros((0, categories), np.int64), np.zeros(1, np.uint32), np.array([0, categories]), np.zeros(1, np.bool_),
        np.zeros(0, np.bool_), np.array([categories], np.int32), np.zeros(1, np.int8), False, *limits, *sums[-1], -np.inf, np.inf,
        np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0]), found, chosen,
    )  # fmt: skip
    order = sorted(range(categories), key=lambda own: -part[own, 0] / (part[own, 1] + 1.0))
    right = [order[:count] for count in range(1, categories)]
    left = [sums[-1] - part[own].sum(axis=0) for own in right]
    scores = [
        sum(float(g) ** 2 / (h + 1.0) for g, h in (own, sums[-1] - own)) - float(sums[-1, 0]) ** 2 / (sums[-1, 1] + 1.0)
        for own in left
    ]
    best = int(np.argmax(scores))
    assert gain == pytest.approx(scores[best])
    assert set(np.flatnonzero(np.unpackbits(chosen, bitorder="little"))) == set(right[best])
    assert found.tolist() == [0, best + 1, 1, *left[best]]


def test_dominance_looks_at_categories_too():
    """Whoever holds a category alone cannot have it told from all others."""
    parts = np.zeros((2, OFFSETS[-1], 2), np.int64)
    column = OFFSETS[1]
    parts[0, column : column + 3] = [[90, 9], [-30, 9], [0, 9]]
    parts[1, column : column + 3] = [[0, 0], [-30, 9], [0, 9]]
    rule = np.array([1.0, 0.0, 0.0, 5.0, 1.0, 1.0])
    only = np.arange(4) == 1
    limits, nowhere = (4, 64), (-np.inf, np.inf)
    rules = FeatureRules(N_CATEGORIES, np.zeros(5, np.int8), np.zeros((0, 5), np.bool_), *limits)
    parts[:, OFFSETS[0]] = parts[:, column : column + 3].sum(axis=1)  # the first column tells the totals
    for dominated, category in ((False, 0), (True, 1)):
        _, found, chosen = searched(parts, 2, rules, limits, only, nowhere, dominated, rule)
        assert found[:2].tolist() == [1, 1]
        assert chosen.tolist() == [1 << category]


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("dominated", [False, True])
def test_siblings_are_subtracted_and_searched_as_if_they_were_alone(threads, dominated):
    rng, limits = np.random.default_rng(threads), (4, 64)
    monotone = np.array([1, 0, 0, -1, 0], np.int8)
    rules = FeatureRules(N_CATEGORIES, monotone, np.zeros((0, 5), np.bool_), *limits)
    rule = np.array([1.0, 0.5, 0.0, 3.0, 1.0, 1.0])
    children = [sums_of_parties(rng, 3, 60, False) for _ in range(6)]
    to_build, parent_of = np.array([1, 2, 5]), np.array([2, 0, 1])
    above = {above: cells_of(children[2 * pair] + children[2 * pair + 1], 2) for pair, above in enumerate(parent_of)}
    nodes = np.stack([cells_of(one, 2) for one in children])
    expected_nodes = nodes.copy()
    nodes[to_build ^ 1] = 77
    totals = np.array([one[:, : SIZES[0]].sum(axis=(0, 1)) for one in children])
    usable = rng.random((6, 4)) < 0.7
    bounds = np.stack([rng.uniform(-1, 0, 6), rng.uniform(0, 1, 6)], 1)
    parties = 3 if dominated else 0
    own = np.stack([running(one)[:parties, :, 1] for one in children], axis=1)
    own_above = np.stack([own[:, 2 * pair] + own[:, 2 * pair + 1] for pair in np.argsort(parent_of)], axis=1)
    expected_own = own.copy()
    own[:, to_build ^ 1] = 77
    gains, found, chosen = np.zeros(6), np.zeros((6, 5), np.int64), np.zeros((6, 1), np.uint8)
    finish_nodes(
        0, 3, nodes, to_build, np.stack([above[i] for i in range(3)]), parent_of, COLUMNS, OFFSETS, HAS_MISSING, totals, rule, gains,
        found, own, own_above, usable, rules.n_categories, rules.monotone, True, *limits, bounds, chosen, pool=WorkerPool(threads),
    )  # fmt: skip
    assert np.array_equal(nodes, expected_nodes)
    assert np.array_equal(own, expected_own)
    for node, parts in enumerate(children):
        gain, best, bits = searched(parts, 2, rules, limits, usable[node], bounds[node], dominated, rule)
        assert (gains[node], found[node].tolist(), chosen[node].tolist()) == (gain, best.tolist(), bits.tolist())


def test_bounds_of_children_meet_in_the_middle_of_their_weights():
    """Weights are -G / (H + 1): 0.5 to the left and 2 to the right, or as the node's own bounds have it."""
    found = np.array([[0, 0, 0, -5, 9], [1, 0, 0, -5, 9], [2, 0, 0, -5, 9], [0, 0, 0, -5, 9]])
    totals = np.tile([-25, 18], (4, 1))
    bounds = np.array([[-9.0, 9.0], [-9.0, 9.0], [-9.0, 9.0], [0.0, 1.0]])
    rule = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    monotone = np.array([1, 0, -1], np.int8)
    assert child_bounds(found, totals, bounds, monotone, rule).tolist() == [
        *([-9.0, 1.25], [1.25, 9.0]),
        *([-9.0, 9.0], [-9.0, 9.0]),
        *([1.25, 9.0], [-9.0, 1.25]),
        *([0.0, 0.75], [0.75, 1.0]),
    ]


def test_rules_that_say_nothing_guide_nothing():
    assert not no_rules(3).guided
    assert not no_rules(3).bounded
    assert no_rules(3).category_bytes == 0
    assert FeatureRules(N_CATEGORIES, np.zeros(5, np.int8), np.zeros((0, 5), np.bool_), 4, 64).guided
