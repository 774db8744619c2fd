"""The split found is the naive twin's best candidate; scores and weights are XGBoost's formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_trees as naive
from hansa.trees.histogram import layout_of
from hansa.trees.objective import Scales
from hansa.trees.parameters import Parameters
from hansa.trees.splitting import (
    SCORED_TOGETHER,
    add_part,
    finish_nodes,
    leaf_weight,
    leaf_weights,
    node_totals,
    rule_of,
    score,
    scratch_cells,
)
from hansa.trees.worker_pool import WorkerPool

RULES = {
    "plain": Parameters(),
    "lambda 0": Parameters(lambda_=0.0, min_child_weight=0.0),
    "alpha": Parameters(alpha=3.0),
    "max_delta_step": Parameters(max_delta_step=0.1),
    "all": Parameters(alpha=2.0, max_delta_step=0.2, lambda_=0.5, min_child_weight=5.0),
    "heavy children": Parameters(min_child_weight=40.0),
}
SCALES = {1: Scales(512.0, 256.0, 1), 2: Scales(1000.0, 4096.0, 2)}


def histogram_of(sizes, has_missing, planes, n_rows, seed, columns=None):
    """A node's histogram (planes, cells) over `columns`, and sums[j] = [(g, h) per code], of made-up rows."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n_rows) for size in sizes], axis=1)
    for feature, absent in enumerate(has_missing):
        if absent and seed % 3 == 0:  # a feature that pooled rows lack, but none of this node
            codes[:, feature] %= max(sizes[feature] - 1, 1)
    scales = SCALES[planes]
    h = rng.random(n_rows) + 0.01
    g = rng.normal(size=n_rows) * 2 + 0.5 * (codes[:, 0] > sizes[0] // 2)
    packed = np.array(naive.pack(g, h, scales))
    columns = np.arange(len(sizes)) if columns is None else columns
    cells = naive.build_histogram(codes, columns.tolist(), sizes, range(n_rows), packed)
    return cells, columns, scales


def sums_of(cells, columns, sizes):
    g, h = naive.unpack(cells)
    ends = np.cumsum([sizes[f] for f in columns])
    return [
        list(zip(g[end - sizes[f] : end], h[end - sizes[f] : end], strict=True))
        for f, end in zip(columns, ends, strict=True)
    ]


def rule_array(parameters, scales):
    rule = rule_of(parameters, scales)
    return np.array(
        [
            rule.lambda_,
            rule.alpha,
            rule.max_delta_step,
            rule.least_hessian,
            rule.gradient_unit,
            rule.hessian_unit,
        ]
    )


def search(cells, columns, sizes, has_missing, parameters, scales):
    """What the kernel finds for one node: (gain, found, totals)."""
    layout = layout_of(np.concatenate([[0], np.cumsum(sizes)]), columns.astype(np.uint32))
    totals, gains, found = np.zeros((1, 2), np.int64), np.zeros(1), np.zeros((1, 5), np.int64)
    nobody, taken, root = np.zeros(0, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64)
    nodes = np.full((1, *cells.shape), 77)
    assert add_part(cells[None], 0, taken, 1, nodes, root, layout.offsets) == 1
    finish_nodes(
        0, 1, nodes, root, np.empty((0, *cells.shape), np.int64), nobody, layout.columns, layout.offsets,
        np.array(has_missing), totals, rule_array(parameters, scales), np.empty((1, scratch_cells(layout))), gains, found,
        pool=WorkerPool(1),
    )  # fmt: skip
    return gains[0], found[0], totals[0]


def naive_best(cells, columns, sizes, has_missing, parameters, scales):
    return naive.best_split(
        sums_of(cells, columns, sizes),
        columns,
        has_missing,
        parameters,
        1 / scales.gradient,
        1 / scales.hessian,
        max(math.ceil(parameters.min_child_weight * scales.hessian), 1),
    )


def check(cells, columns, sizes, has_missing, parameters, scales):
    gain, found, totals = search(cells, columns, sizes, has_missing, parameters, scales)
    g, h = naive.unpack(cells[:, : sizes[columns[0]]])
    assert totals.tolist() == [sum(g), sum(h)]
    best = naive_best(cells, columns, sizes, has_missing, parameters, scales)
    if best is None:
        assert (gain, found[0]) == (0.0, -1)
        return
    assert gain == pytest.approx(best.gain, rel=1e-9, abs=1e-9)
    exact = (best.feature, best.bin, int(best.missing_left), best.g, best.h)
    if tuple(found) == exact:
        return
    # Candidates that part the same rows tie to rounding; then the one found must be as good, with exact sums.
    tied = [
        split
        for split in naive.candidates(
            sums_of(cells, columns, sizes), columns, has_missing, parameters,
            1 / scales.gradient, 1 / scales.hessian,
            max(math.ceil(parameters.min_child_weight * scales.hessian), 1),
        )
        if split.gain == pytest.approx(best.gain, rel=1e-12, abs=1e-12)
    ]  # fmt: skip
    assert tuple(found) in {(s.feature, s.bin, int(s.missing_left), s.g, s.h) for s in tied}


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", range(6))
def test_the_best_split_is_the_naive_one(name, planes, seed):
    sizes, has_missing = [8, 5, 17, 1, 3], [False, True, True, False, True]
    columns = np.arange(5) if seed % 2 else np.array([1, 2, 4])
    cells, columns, scales = histogram_of(sizes, has_missing, planes, 300, seed, columns)
    check(cells, columns, sizes, has_missing, RULES[name], scales)


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("seed", range(4))
def test_columns_that_are_scored_together_and_apart_are_searched_alike(planes, seed):
    """Columns of few cells, of more than are scored together, and of as many as end a loop exactly."""
    few = SCORED_TOGETHER // 4
    sizes = [few, few, few, few, 3, SCORED_TOGETHER + 9, 2, SCORED_TOGETHER, 5, 300, 300]
    order = np.random.default_rng(seed).permutation(len(sizes))
    sizes, has_missing = [sizes[i] for i in order], [bool(i % 2) for i in order]
    cells, columns, scales = histogram_of(sizes, has_missing, planes, 900, seed)
    check(cells, columns, sizes, has_missing, RULES["plain"], scales)


def parted_alike(first_lacks):
    """A histogram of two features that part the rows alike: one with missing values going left, and one without any."""
    apart, lacks = [(-90, 60), (80, 50)], [(-40, 30), (80, 50), (-50, 30)]
    pairs = [*lacks, *apart] if first_lacks else [*apart, *lacks]
    sizes, has_missing = ([3, 2], [True, False]) if first_lacks else ([2, 3], [False, True])
    return np.array([[g * 2**32 + h for g, h in pairs]], np.int64), sizes, has_missing


@pytest.mark.parametrize("first_lacks", [True, False], ids=["missing left first", "missing left last"])
def test_of_two_features_that_part_rows_alike_the_first_is_taken(first_lacks):
    cells, sizes, has_missing = parted_alike(first_lacks)
    _, found, _ = search(cells, np.arange(2), sizes, has_missing, RULES["lambda 0"], Scales(1.0, 1.0, 1))
    assert found.tolist() == [0, 0, int(first_lacks), -90, 60]


def test_missing_values_are_no_place_to_split_at_even_where_columns_disagree():
    """Sums that a party made up; a party that is told of such a split refuses it, and would blame who found it."""
    cells = np.array(
        [[0 * 2**32 + 100, 0 * 2**32 + 100, -90 * 2**32 + 20, 10 * 2**32 + 30, -90 * 2**32 + 50]], np.int64
    )
    _, found, _ = search(cells, np.arange(2), [2, 3], [False, True], RULES["lambda 0"], Scales(1.0, 1.0, 1))
    assert (found[0], found[1] < 2) == (1, True)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.booleans()), min_size=1, max_size=4),
    st.integers(1, 40),
    st.sampled_from([1, 2]),
    st.sampled_from(sorted(RULES)),
    st.integers(0, 2**20),
)
def test_the_best_split_of_any_node_is_the_naive_one(shape, n_rows, planes, name, seed):
    sizes, has_missing = [size + absent for size, absent in shape], [absent for _, absent in shape]
    cells, columns, scales = histogram_of(sizes, has_missing, planes, n_rows, seed)
    check(cells, columns, sizes, has_missing, RULES[name], scales)


def running(cells, offsets):
    """Histograms (..., cells) summed up from the start of each column: how complete nodes are kept."""
    columns = np.split(cells, offsets[1:-1].astype(np.int64), axis=-1)
    return np.concatenate([np.cumsum(column, axis=-1) for column in columns], axis=-1)


def pair_inputs(planes, seed):
    """Running sums of three parents (of four nodes), and histograms of both children of each."""
    sizes, has_missing = [6, 9, 4], np.array([False, True, False])
    made = [histogram_of(sizes, has_missing, planes, 200, 10 * seed + i) for i in range(6)]
    children = np.stack([cells for cells, _, _ in made])
    parents = np.zeros((4, *children.shape[1:]), np.int64)
    parent_of = np.array([3, 0, 2])
    for pair in range(3):
        parents[parent_of[pair]] = running(children[2 * pair] + children[2 * pair + 1], np.array([0, 6, 15, 19]))
    layout = layout_of(np.array([0, 6, 15, 19]), np.arange(3, dtype=np.uint32))
    totals = np.array([node_totals(cells, 6) for cells in running(children, layout.offsets)])
    return children, parents, parent_of, layout, has_missing, totals, made[0][2], sizes


@pytest.mark.parametrize("planes", [1, 2], ids=["narrow", "wide"])
@pytest.mark.parametrize("threads", [0, 1, 2, 4], ids=lambda n: f"{n} threads" if n else "on arrival")
@pytest.mark.parametrize("parties", [1, 3])
def test_parts_are_added_siblings_subtracted_and_searched(planes, threads, parties):
    """Whatever the order of parts, every node ends as the sum over parties, searched as if it were alone."""
    children, parents, parent_of, layout, has_missing, totals, scales, sizes = pair_inputs(planes, 1)
    to_build = np.array([0, 3, 4])
    nodes = np.full_like(children, 123456789)
    gains, found = np.full(6, np.nan), np.full((6, 5), 77, np.int64)
    tree = (layout.columns, layout.offsets, has_missing, totals, rule_array(Parameters(), scales))
    family = (nodes, to_build, parents, parent_of)
    rng = np.random.default_rng(planes)
    shares = rng.integers(-(2**20), 2**20, (parties, *children[to_build].shape))
    shares[0] = children[to_build] - shares[1:].sum(axis=0)
    taken, complete = np.zeros(3, np.int64), 0
    pieces = [(party, first, last) for party in range(parties) for first, last in ((0, 2), (2, 3))]
    for party, first, last in [pieces[i] for i in rng.permutation(len(pieces))]:
        completed = add_part(shares[party, first:last], first, taken, parties, nodes, to_build, layout.offsets)
        complete += completed
        if not threads and completed:  # on arrival
            finish_nodes(
                first, last, *family, *tree, np.empty((1, scratch_cells(layout))), gains, found, pool=WorkerPool(1)
            )
    assert complete == 3
    assert taken.tolist() == [parties] * 3
    if threads:
        assert np.isnan(gains).all()
        finish_nodes(
            0, 3, *family, *tree, np.empty((threads, scratch_cells(layout))), gains, found, pool=WorkerPool(threads)
        )
    assert np.array_equal(nodes, running(children, layout.offsets))
    for node, cells in enumerate(children):
        gain, best, _ = search(cells, np.arange(3), sizes, has_missing, Parameters(), scales)
        assert gains[node] == gain
        assert found[node].tolist() == best.tolist()


numbers = st.floats(-1e4, 1e4)


@settings(deadline=None)
@given(numbers, st.floats(0, 1e4), st.floats(0, 10), st.floats(0, 10), st.floats(0, 2))
def test_scores_and_weights_are_the_naive_ones(g, h, lambda_, alpha, max_delta_step):
    parameters = Parameters(lambda_=lambda_, alpha=alpha, max_delta_step=max_delta_step)
    with np.errstate(over="ignore"):
        assert leaf_weight(g, h, lambda_, alpha, max_delta_step) == pytest.approx(naive.weight(g, h, parameters))
        assert score(g, h, lambda_, alpha, max_delta_step) == pytest.approx(naive.score(g, h, parameters))


@settings(deadline=None)
@given(numbers, st.floats(0.1, 1e4), st.floats(0, 10), st.floats(0, 10), st.floats(0, 2), st.floats(-3, 3))
def test_no_leaf_value_is_better(g, h, lambda_, alpha, max_delta_step, other):
    """The weight minimises g w + (h + lambda) w^2 / 2 + alpha |w| over |w| <= max_delta_step (eq. 5)."""
    best = leaf_weight(g, h, lambda_, alpha, max_delta_step)
    if max_delta_step:
        other = min(max(other, -max_delta_step), max_delta_step)

    def loss(w):
        return g * w + (h + lambda_) * w * w / 2 + alpha * abs(w)

    assert loss(best) <= loss(other) + 1e-9 * (1 + abs(loss(other)))


def test_ties_go_to_the_lower_feature_then_right_then_to_the_lower_bin():
    """Two equal features, an empty bin between values, and no missing value in this node."""
    column = [(-50, 100), (0, 0), (50, 100)]
    cells = np.array([[g * 2**32 + h for g, h in (*column, *column, (0, 0))]])
    parameters, scales = Parameters(min_child_weight=0.0), Scales(1.0, 1.0, 1)
    for columns in (np.array([0, 1]), np.array([1])):
        part = cells if len(columns) == 2 else cells[:, 3:]
        _, found, _ = search(part, columns, [3, 4], [False, True], parameters, scales)
        assert found.tolist() == [columns[0], 0, 0, -50, 100]


def test_missing_values_go_where_they_gain_more():
    cells = np.array([[-50 * 2**32 + 100, 50 * 2**32 + 100, -40 * 2**32 + 100]])
    _, found, _ = search(cells, np.array([0]), [3], [True], Parameters(), Scales(1.0, 1.0, 1))
    assert found.tolist() == [0, 0, 1, -90, 200]
    cells[0, 2] = 40 * 2**32 + 100
    _, found, _ = search(cells, np.array([0]), [3], [True], Parameters(), Scales(1.0, 1.0, 1))
    assert found.tolist() == [0, 0, 0, -50, 100]


def test_present_values_can_be_parted_from_missing_ones():
    cells = np.array([[-50 * 2**32 + 100, -50 * 2**32 + 100, 90 * 2**32 + 100]])
    _, found, _ = search(cells, np.array([0]), [3], [True], Parameters(), Scales(1.0, 1.0, 1))
    assert found.tolist() == [0, 1, 0, -100, 200]


def test_a_child_must_be_heavy_enough():
    cells = np.array([[-50 * 2**32 + 9, 50 * 2**32 + 100]])
    for least, expected in ((9.0, 0), (9.01, -1), (10.0, -1)):
        gain, found, _ = search(
            cells, np.array([0]), [2], [False], Parameters(min_child_weight=least), Scales(1.0, 1.0, 1)
        )
        assert found[0] == expected
        assert (gain > 0) == (expected == 0)


def test_leaf_weights_are_zero_where_too_light():
    rule = rule_array(Parameters(min_child_weight=10.0), Scales(2.0, 1.0, 1))
    weights = np.full(3, np.nan, np.float32)
    totals = np.array([[-22, 10], [-22, 9], [0, 50]])
    leaf_weights(totals, rule, np.zeros((0, 2)), weights)
    assert weights.tolist() == [1.0, 0.0, 0.0]
    leaf_weights(totals, rule, np.array([[-1, 0.25], [0.5, 1], [0.5, np.inf]]), weights)
    assert weights.tolist() == [0.25, 0.0, 0.5]


def test_the_rule_counts_in_whole_numbers():
    rule = rule_of(Parameters(min_child_weight=1.3), Scales(4.0, 8.0, 1))
    assert rule.least_hessian == 11.0
    assert (rule.gradient_unit, rule.hessian_unit) == (0.25, 0.125)
    empty = rule_of(Parameters(min_child_weight=0.0), Scales(0.0, 8.0, 1))
    assert (empty.least_hessian, empty.gradient_unit) == (1.0, 0.0)
