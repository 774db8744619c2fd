"""A tree grown from sums is the naive twin's, and its margins are those of the rows that were followed."""

from __future__ import annotations

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.data.binning import bin_rows
from hansa.data.quantiles import Cuts
from hansa.trees.ensemble import ROOT_PARENT, Ensemble
from hansa.trees.growth import Buffers, Grower, RowPartition, nodes_to_build
from hansa.trees.histogram import build_histograms, layout_of
from hansa.trees.level import BOTH_LEAVES, Level
from hansa.trees.node_columns import NodeColumns
from hansa.trees.objective import gradients, pack, scales, sum_magnitudes, unit_exponent
from hansa.trees.parameters import Parameters
from hansa.trees.row_chunks import part
from hansa.trees.worker_pool import WorkerPool
from made_tables import no_rules

NO_BITS = np.zeros(0, np.uint8)


def made_rows(n, seed=0, n_features=4):
    """Features float32 (n_features, n) with missing values, a target, and cuts of the features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n_features, n)).astype(np.float32)
    features[1] = np.round(features[1]) + np.float32(0)
    features[2, rng.random(n) < 0.3] = np.nan
    features[2, 0] = np.nan
    target = features[0] + 2 * (features[1] > 0) - np.isnan(features[2]) + 0.3 * rng.normal(size=n)
    inner = [np.unique(row[~np.isnan(row)])[1:][:: 1 if f == 1 else max(n // 40, 1)] for f, row in enumerate(features)]
    return features, target, Cuts.from_arrays(inner, np.isnan(features).any(axis=1))


def integers(g, h, bits):
    rows = np.arange(len(g), dtype=np.uint32)
    bound_g, bound_h = float(np.abs(g).max()) or 1.0, float(h.max())
    chosen = scales(
        sum_magnitudes(g, rows, bound_g, len(g)),
        sum_magnitudes(h, rows, bound_h, len(h)),
        unit_exponent(bound_g, len(g)),
        unit_exponent(bound_h, len(h)),
        len(g),
        bits,
    )
    packed = np.empty((chosen.planes, len(g)), np.int64)
    pack(g, h, chosen, packed)
    return chosen, packed


def grow(features, cuts, g, h, parameters, *, parties=1, threads=1, columns=None, piecewise=False, buffers=None):
    """Grow one tree as the roles do, rows dealt to `parties`; returns (tree, margins, levels)."""
    binned = bin_rows(features, cuts)
    chosen, packed = integers(g, h, 64 if parameters.histogram_bits == 64 else 32)
    columns = np.arange(len(features), dtype=np.uint32) if columns is None else columns
    layout = layout_of(binned.offsets, columns)
    missing = np.where(cuts.has_missing, cuts.n_codes - 1, -1).astype(np.int32)
    margins = np.zeros(len(g), np.float32)
    rules = no_rules(len(features))
    followed = [
        RowPartition(
            binned.codes_by_feature,
            missing,
            rules.n_categories,
            part(len(g), lambda first, end, i=i: np.arange(first, end) % parties == i, np.empty(len(g), np.uint16))[0],
            margins,
        )
        for i in range(parties)
    ]
    node_columns = NodeColumns(columns, 0, 0, 1.0, 1.0, rules.interactions)
    grower = Grower(
        parameters,
        chosen,
        layout,
        cuts.has_missing,
        buffers or Buffers(),
        rules,
        node_columns,
        WorkerPool(threads),
    )
    levels: list[Level] = []
    while not levels or not levels[-1].last:
        built = len(grower.to_build)
        assert len(grower.nodes) == (2 * built if levels else 1)
        for party, rows in enumerate(followed):
            out = np.empty((built, chosen.planes, layout.cells), np.int64)
            build_histograms(
                binned.codes, layout.columns, layout.offsets, layout.stride, rows.rows,
                rows.starts[grower.to_build], rows.ends[grower.to_build], packed,
                np.empty((1, layout.scratch), np.int64), out,
            )  # fmt: skip
            for first in range(0, built, 1 if piecewise else built):
                complete = grower.add(first, out[first : first + 1] if piecewise else out, parties)
                assert complete == (party == parties - 1 and (not piecewise or first == built - 1))
        levels.append(grower.decide())
        if not levels[-1].last:
            grower.go_on()
        for rows in followed:
            rows.apply(levels[-1])
    return grower.tree(cuts.offsets, cuts.values), margins, levels


def paths_of(tree, cuts):
    """{path: (feature, bin, missing left) or None, value} of a grown tree."""
    nodes, waiting = {}, [("", 0)]
    while waiting:
        path, node = waiting.pop()
        left = tree.left_children[node]
        if left < 0:
            nodes[path] = (None, float(tree.split_conditions[node]))
            continue
        feature = int(tree.split_indices[node])
        inner = cuts.of(feature)
        bin_ = int(np.searchsorted(inner, tree.split_conditions[node]))
        nodes[path] = ((feature, bin_, bool(tree.default_left[node])), 0.0)
        waiting += [(path + "L", left), (path + "R", tree.right_children[node])]
    return nodes


SETTINGS = {
    "plain": Parameters(eta=0.3, max_depth=4),
    "wide": Parameters(eta=0.3, max_depth=4, histogram_bits=64),
    "shallow": Parameters(eta=1.0, max_depth=1),
    "gamma": Parameters(max_depth=5, gamma=12.0),
    "alpha": Parameters(max_depth=3, alpha=2.0),
    "max_delta_step": Parameters(max_depth=3, max_delta_step=0.3),
    "lambda 0": Parameters(max_depth=3, lambda_=0.0),
    "heavy children": Parameters(max_depth=6, min_child_weight=30.0),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("objective", ["reg:squarederror", "binary:logistic"])
def test_a_tree_is_the_naive_one(name, objective):
    parameters = replace(SETTINGS[name], objective=objective)
    features, target, cuts = made_rows(500, seed=5)
    logistic = objective == "binary:logistic"
    labels = (target > 1).astype(np.float32) if logistic else target.astype(np.float32)
    g, h = np.empty((2, 500))
    gradients(objective, np.zeros(500, np.float32), labels, None, 1.0, g, h)
    tree, _, _ = grow(features, cuts, g, h, parameters)
    codes = bin_rows(features, cuts).codes
    expected = naive.grow_tree(codes, cuts.n_codes, cuts.has_missing, g, h, parameters)
    found = paths_of(tree, cuts)
    assert found.keys() == expected.keys()
    assert len(found) > 1
    for path, (split, value) in expected.items():
        if split is None:
            assert found[path][0] is None
            assert found[path][1] == pytest.approx(value, rel=1e-5, abs=1e-6)
        else:
            assert found[path][0] == (split.feature, split.bin, split.missing_left), path


@pytest.mark.parametrize("name", SETTINGS)
def test_margins_are_the_trees_own(name):
    features, target, cuts = made_rows(700, seed=2)
    g, h = -target, np.ones(700)
    tree, margins, _ = grow(features, cuts, g, h, SETTINGS[name])
    names = tuple(f"f{i}" for i in range(len(features)))
    ensemble = Ensemble("reg:squarederror", 0.0, names, (tree,))
    assert np.array_equal(ensemble.predict_margin(features), margins)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 200),
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.sampled_from(sorted(SETTINGS)),
    st.integers(0, 50),
)
def test_parties_threads_and_fragments_do_not_matter(n, parties, threads, piecewise, name, seed):
    features, target, cuts = made_rows(n, seed)
    g, h = -target, np.ones(n)
    parameters = replace(SETTINGS[name], min_child_weight=1.0)
    one, margins, _ = grow(features, cuts, g, h, parameters)
    with mock.patch("hansa.trees.growth.PARALLEL_CELLS", 0):
        other, same, _ = grow(features, cuts, g, h, parameters, parties=parties, threads=threads, piecewise=piecewise)
    assert one == other
    assert np.array_equal(margins, same)


def test_buffers_are_used_again_without_a_trace():
    features, target, cuts = made_rows(300)
    kept = Buffers()
    g, h = -target, np.ones(300)
    deep, shallow = Parameters(max_depth=6), Parameters(max_depth=2)
    wide = Parameters(max_depth=5, histogram_bits=64)
    for parameters in (deep, shallow, wide, deep):
        columns = np.array([0, 2], np.uint32) if parameters is shallow else None
        again = grow(features, cuts, g, h, parameters, columns=columns, buffers=kept)[0]
        assert again == grow(features, cuts, g, h, parameters, columns=columns)[0]
    assert kept.get("a", (3, 4)).shape == (3, 4)
    assert np.shares_memory(kept.get("a", (2, 2)), kept.get("a", (12,)))
    assert not np.shares_memory(kept.get("a", (2,)), kept.get("b", (2,)))


def test_only_drawn_columns_are_split_on():
    features, target, cuts = made_rows(400)
    tree, _, _ = grow(features, cuts, -target, np.ones(400), Parameters(), columns=np.array([1, 3], np.uint32))
    assert set(tree.split_indices[tree.left_children >= 0].tolist()) == {1, 3}


def test_a_tree_without_a_split_is_one_leaf():
    features, _, cuts = made_rows(50)
    g, h = np.full(50, 0.5), np.ones(50)
    tree, margins, levels = grow(features, cuts, g, h, Parameters(eta=0.5))
    assert tree.num_nodes == 1
    assert len(levels) == 1
    assert levels[0].last
    expected = -0.5 * 25 / 51
    assert tree.split_conditions[0] == pytest.approx(expected, rel=1e-6)
    assert tree.base_weights[0] == tree.split_conditions[0]
    assert np.all(margins == tree.split_conditions[0])
    assert tree.sum_hessian[0] == 50


def test_gradients_that_are_all_zero_give_a_leaf_of_zero():
    features, _, cuts = made_rows(50)
    tree, margins, _ = grow(features, cuts, np.zeros(50), np.ones(50), Parameters())
    assert tree.num_nodes == 1
    assert np.all(margins == 0)


def test_features_without_cuts_cannot_be_split():
    features = np.ones((2, 20), np.float32)
    cuts = Cuts.from_arrays([[], []], [False, False])
    tree, _, _ = grow(features, cuts, np.linspace(-1, 1, 20), np.ones(20), Parameters())
    assert tree.num_nodes == 1


def test_a_feature_without_cuts_can_part_present_from_missing():
    features = np.ones((1, 20), np.float32)
    features[0, :8] = np.nan
    cuts = Cuts.from_arrays([[]], [True])
    g = np.where(np.isnan(features[0]), 1.0, -1.0)
    tree, margins, _ = grow(features, cuts, g, np.ones(20), Parameters(max_depth=1))
    assert tree.num_nodes == 3
    ensemble = Ensemble("reg:squarederror", 0.0, ("x",), (tree,))
    assert np.array_equal(ensemble.predict_margin(features), margins)
    assert np.unique(margins).size == 2


def test_statistics_of_nodes_are_sums_and_gains():
    features, target, cuts = made_rows(600, seed=3)
    g, h = -target, np.full(600, 0.5)
    parameters = Parameters(max_depth=3, eta=0.1)
    tree, _, levels = grow(features, cuts, g, h, parameters)
    left, right = tree.left_children, tree.right_children
    internal = np.flatnonzero(left >= 0)
    np.testing.assert_allclose(
        tree.sum_hessian[internal], tree.sum_hessian[left[internal]] + tree.sum_hessian[right[internal]]
    )
    assert tree.sum_hessian[0] == 300
    assert np.all(tree.loss_changes[internal] > 0)
    assert np.all(tree.loss_changes[left < 0] == 0)
    assert tree.base_weights[0] == pytest.approx(-g.sum() / 301, rel=1e-5)
    assert np.array_equal(tree.base_weights[left < 0], tree.split_conditions[left < 0])
    assert tree.parents[0] == ROOT_PARENT
    # Breadth first, as XGBoost numbers nodes.
    assert np.array_equal(np.sort(np.concatenate([left[internal], right[internal]])), np.arange(1, tree.num_nodes))
    assert np.all(np.diff(left[internal]) > 0)
    assert [len(level.feature) for level in levels] == [1, 2, 4]
    assert len(levels[-1].child_leaf) == 8


def test_the_lighter_child_is_built():
    features, target, cuts = made_rows(500, seed=9)
    _, _, levels = grow(features, cuts, -target, np.ones(500), Parameters(max_depth=4))
    tree, _, _ = grow(features, cuts, -target, np.ones(500), Parameters(max_depth=1))
    light_left = tree.sum_hessian[1] <= tree.sum_hessian[2]
    assert bool(levels[0].build_left[0]) == light_left
    assert nodes_to_build(levels[0].build_left).tolist() == [0 if light_left else 1]


def test_which_children_to_build():
    assert nodes_to_build(np.array([1, 0, 0, 1], np.uint8)).tolist() == [0, 3, 5, 6]
    assert nodes_to_build(np.array([BOTH_LEAVES, 0, BOTH_LEAVES, 1], np.uint8)).tolist() == [1, 2]
    assert nodes_to_build(NO_BITS).tolist() == []
