"""The best split of a node, from its histogram alone.

    gain = score(G_L, H_L) + score(G_R, H_R) - score(G, H),   score(G, H) = T(G)^2 / (H + lambda),
    T(G) = sign(G) max(|G| - alpha, 0);  with max_delta_step: score = -(2 G w + (H + lambda) w^2), w the bounded weight

(Chen & Guestrin 2016, eq. 7; XGBoost's `split_evaluator.h`). Candidates are the cuts of each feature, in order, with missing values
going right, then again with them going left. Ties go to the lower feature, then to missing values going right, then to the lower bin.
What more a search may have to heed (`FeatureRules`, columns of a node, bounds on its weights) stands in `guided_search`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from hansa.trees.histogram import Layout
from hansa.trees.objective import Scales
from hansa.trees.parameters import Parameters
from hansa.trees.worker_pool import StartSignal, WorkerPool, no_start_signal

LEAST_GAIN = 1e-6
"""XGBoost's kRtEps: a split must gain more than this."""

LOWEST = np.int64(-(2**63))

SCORED_TOGETHER = 512
"""Cells of columns side by side that are scored in one loop: one of a few cells costs more to begin than to run. Their scores stay in
the first-level cache."""


def scratch_cells(layout: Layout) -> int:
    """Scores that a thread's search keeps."""
    return max(int(np.diff(layout.offsets.astype(np.int64)).max(initial=1)), SCORED_TOGETHER)


@dataclass(frozen=True)
class SplitRule:
    """What the search needs of the parameters and scales, as plain numbers.

    Attributes:
        lambda_, alpha, max_delta_step: as in `Parameters`.
        least_hessian: least sum of integer hessians of a child.
        gradient_unit, hessian_unit: what one integer counts (0 gradient unit where all gradients are 0).
    """

    lambda_: float
    alpha: float
    max_delta_step: float
    least_hessian: float
    gradient_unit: float
    hessian_unit: float


def rule_of(parameters: Parameters, scales: Scales) -> SplitRule:
    """The rule for one tree."""
    return SplitRule(
        lambda_=parameters.lambda_,
        alpha=parameters.alpha,
        max_delta_step=parameters.max_delta_step,
        least_hessian=max(float(np.ceil(parameters.min_child_weight * scales.hessian)), 1.0),
        gradient_unit=1.0 / scales.gradient if scales.gradient > 0 else 0.0,
        hessian_unit=1.0 / scales.hessian,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def leaf_weight(gradient, hessian, lambda_, alpha, max_delta_step):  # type: ignore[no-untyped-def]
    """-T(G) / (H + lambda), bounded by max_delta_step where that is not 0 (eq. 5); 0 where H <= 0. float64."""
    if hessian <= 0.0:
        return 0.0
    thresholded = gradient - alpha if gradient > alpha else (gradient + alpha if gradient < -alpha else 0.0)
    weight = -thresholded / (hessian + lambda_)
    if max_delta_step != 0.0 and abs(weight) > max_delta_step:
        weight = math.copysign(max_delta_step, weight)
    return weight


@njit(cache=True, nogil=True, error_model="numpy")
def score(gradient, hessian, lambda_, alpha, max_delta_step):  # type: ignore[no-untyped-def]
    """A node's part of the gain (twice the loss that its best leaf removes). float64."""
    if hessian <= 0.0:
        return 0.0
    if max_delta_step == 0.0:
        size = max(abs(gradient) - alpha, 0.0)
        return size * size / (hessian + lambda_)
    weight = leaf_weight(gradient, hessian, lambda_, alpha, max_delta_step)
    return -(2.0 * gradient * weight + (hessian + lambda_) * weight * weight)


@njit(cache=True, nogil=True, error_model="numpy")
def _score_simple(sums, extra_g, extra_h, total_g, total_h, lambda_, least, unit_g, unit_h, scores):  # type: ignore[no-untyped-def]
    """`_score_column` of one plane without alpha and max_delta_step: one loop, compiled to vectors.

    Its arguments are slices, since an index that might be negative keeps a loop from that. Both fields of a sum fit 32 bits, and
    whole numbers of 32 bits are made floats several at a time.
    """
    for b in range(sums.shape[0]):
        g_left = np.float64(np.int32(sums[b] >> 32)) + extra_g
        h_left = np.float64(np.uint32(sums[b])) + extra_h
        h_right = total_h - h_left
        a = g_left * unit_g
        c = (total_g - g_left) * unit_g
        u = h_left * unit_h + lambda_
        v = h_right * unit_h + lambda_
        both = (a * a * v + c * c * u) / (u * v)
        scores[b] = both if (h_left >= least) & (h_right >= least) else -1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _score_column(  # type: ignore[no-untyped-def]
    sums, begin, end, extra_g, extra_h, total_g, total_h, lambda_, alpha, max_delta_step, least, unit_g, unit_h, scores
):  # fmt: skip
    """scores[b] = score of both sides of candidate b of one column, -1 where a side is too light.

    Args:
        sums: int64 (planes, cells), running within the column, whose candidates are cells begin to end. extra_g, extra_h: added to
            the left side. All sums are whole numbers; those given as float64 and those made here are exact.
    """
    simple = alpha == 0.0 and max_delta_step == 0.0
    if simple and sums.shape[0] == 1:
        _score_simple(sums[0, begin:end], extra_g, extra_h, total_g, total_h, lambda_, least, unit_g, unit_h, scores)
        return
    for b in range(end - begin):
        whole_g, whole_h = _sums_at(sums, begin + b)
        g_left = np.float64(whole_g) + extra_g
        h_left = np.float64(whole_h) + extra_h
        g_right = total_g - g_left
        h_right = total_h - h_left
        if h_left < least or h_right < least:
            scores[b] = -1.0
        elif simple:
            a = g_left * unit_g
            c = g_right * unit_g
            u = h_left * unit_h + lambda_
            v = h_right * unit_h + lambda_
            scores[b] = (a * a * v + c * c * u) / (u * v)
        else:
            both = score(g_left * unit_g, h_left * unit_h, lambda_, alpha, max_delta_step) + score(
                g_right * unit_g, h_right * unit_h, lambda_, alpha, max_delta_step
            )
            scores[b] = both + 0.0  # -0 becomes +0: see `_highest`


@njit(cache=True, nogil=True, error_model="numpy")
def _highest(scores):  # type: ignore[no-untyped-def]
    """The highest score, as the whole number that its bits spell; LOWEST of none.

    Scores are at least 0 or exactly -1: such floats keep their order as whole numbers, and only of whole numbers is a maximum
    found several at a time.
    """
    bits = scores.view(np.int64)
    most = LOWEST
    for b in range(bits.shape[0]):
        most = max(most, bits[b])
    return most


@njit(cache=True, nogil=True, error_model="numpy")
def _best_of_node(  # type: ignore[no-untyped-def]
    sums,
    columns,
    offsets,
    has_missing,
    total_g,
    total_h,
    lambda_,
    alpha,
    max_delta_step,
    least,
    unit_g,
    unit_h,
    scratch,
    found,
):
    """Write (column's feature, bin, missing goes left, G_L, H_L) into found, feature -1 if none; return the gain.

    sums: int64 (planes, cells), running within each column (`accumulate`). scratch: float64 (`scratch_cells`,).
    """
    best = LOWEST
    column, at, missing_left = -1, np.int64(0), 0
    found[:] = 0
    found[0] = -1
    sum_g = np.float64(total_g)
    sum_h = np.float64(total_h)
    first = 0
    while first < columns.shape[0]:
        # Columns of few cells are scored together. The cells of missing values, which lie between, are no candidates.
        begin, last = np.int64(offsets[first]), first + 1
        while last < columns.shape[0] and np.int64(offsets[last + 1]) - begin <= SCORED_TOGETHER:
            last += 1
        end = np.int64(offsets[last])
        scores = scratch[: end - begin]
        _score_column(
            sums, begin, end, 0.0, 0.0, sum_g, sum_h, lambda_, alpha, max_delta_step, least, unit_g, unit_h, scores
        )
        for j in range(first, last):
            if has_missing[columns[j]]:
                scores[np.int64(offsets[j + 1]) - 1 - begin] = -1.0
        highest = _highest(scores)
        if highest > best:
            best, missing_left = highest, 0
            at = begin + _position(scores, highest)
            column = first
            while np.int64(offsets[column + 1]) <= at:
                column += 1
        for j in range(first, last):
            if not has_missing[columns[j]]:
                continue
            begin, end, missing_g, missing_h = _column(sums, offsets, True, j, total_g, total_h)
            if missing_h <= 0:
                continue
            scores = scratch[: end - begin]
            _score_column(
                sums, begin, end, np.float64(missing_g), np.float64(missing_h), sum_g, sum_h,
                lambda_, alpha, max_delta_step, least, unit_g, unit_h, scores,
            )  # fmt: skip
            highest = _highest(scores)
            # As if it had been searched before the columns behind it: among equals the lower feature is taken.
            if highest > best or (highest == best and j < column):
                best, column, missing_left = highest, j, 1
                at = begin + _position(scores, highest)
        first = last
    if best < 0:  # the bits of -1, or LOWEST
        return 0.0
    begin, end, missing_g, missing_h = _column(sums, offsets, has_missing[columns[column]], column, total_g, total_h)
    missing_g, missing_h = missing_g * missing_left, missing_h * missing_left
    left_g, left_h = _sums_at(sums, at)
    found[0] = columns[column]
    found[1] = at - begin
    found[2] = missing_left
    found[3] = left_g + missing_g
    found[4] = left_h + missing_h
    scores = scratch[:1]
    _score_column(
        sums, at, at + 1, np.float64(missing_g), np.float64(missing_h), sum_g, sum_h,
        lambda_, alpha, max_delta_step, least, unit_g, unit_h, scores,
    )  # fmt: skip
    return scores[0] - score(sum_g * unit_g, sum_h * unit_h, lambda_, alpha, max_delta_step)


@njit(cache=True, nogil=True, error_model="numpy")
def _position(scores, bits):  # type: ignore[no-untyped-def]
    """Where the first of the scores whose bits spell this stands."""
    at = 0
    while scores.view(np.int64)[at] != bits:
        at += 1
    return at


@njit(cache=True, nogil=True, error_model="numpy")
def _column(sums, offsets, has_missing, j, total_g, total_h):  # type: ignore[no-untyped-def]
    """(first cell, cell behind the last candidate, sum of g and of h over missing values) of column j. Whole numbers."""
    begin, end = np.int64(offsets[j]), np.int64(offsets[j + 1])
    if not has_missing:
        return begin, end, np.int64(0), np.int64(0)
    if end - begin == 1:
        return begin, begin, total_g, total_h
    present_g, present_h = _sums_at(sums, end - 2)
    return begin, end - 1, total_g - present_g, total_h - present_h


@njit(cache=True, nogil=True, error_model="numpy")
def _sums_at(sums, cell):  # type: ignore[no-untyped-def]
    """(G, H) of one cell. Whole numbers."""
    if sums.shape[0] == 1:
        return sums[0, cell] >> 32, sums[0, cell] & np.int64(0xFFFFFFFF)
    return sums[0, cell], sums[1, cell]


@njit(cache=True, nogil=True, error_model="numpy")
def accumulate(node, part, add, offsets):  # type: ignore[no-untyped-def]
    """node = node + part (or part alone unless `add`), summed up from the start of each column; int64 (planes, cells).

    Nodes are kept in this form once complete: it is what the search reads, and it subtracts like the histogram itself.
    """
    for plane in range(node.shape[0]):
        for j in range(offsets.shape[0] - 1):
            running = np.int64(0)
            given = part[plane, offsets[j] : offsets[j + 1]]
            column = node[plane, offsets[j] : offsets[j + 1]]
            if add:
                for b in range(column.shape[0]):
                    running += given[b] + column[b]
                    column[b] = running
            else:
                for b in range(column.shape[0]):
                    running += given[b]
                    column[b] = running


@njit(cache=True, nogil=True, error_model="numpy")
def node_totals(sums, end):  # type: ignore[no-untyped-def]
    """(G, H) of a node: the running sums at the end of its first column, whose cells end at `end`. Whole numbers."""
    if end == 0:
        return np.int64(0), np.int64(0)
    return _sums_at(sums, end - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def add_part(part, first, taken, parties, nodes, to_build, offsets):  # type: ignore[no-untyped-def]
    """Add one party's histograms; those that are thereby complete become running sums (`accumulate`).

    Args:
        part: int64 (m, planes, cells): of the built nodes first, first + 1, ...
        taken: int64 (built,): parties added so far, updated. parties: how many there are.
        nodes: int64 (active, planes, cells). to_build: int64 (built,): positions of the built nodes.
        offsets: of the `Layout`.

    Returns:
        How many built nodes this completed.
    """
    complete = 0
    for i in range(part.shape[0]):
        node = nodes[to_build[first + i]]
        taken[first + i] += 1
        if taken[first + i] == parties:
            accumulate(node, part[i], parties > 1, offsets)
            complete += 1
        elif taken[first + i] == 1:
            node[:] = part[i]
        else:
            for plane in range(node.shape[0]):
                for cell in range(node.shape[1]):
                    node[plane, cell] += part[i, plane, cell]
    return complete


@njit(cache=True, nogil=True, error_model="numpy")
def _finish_range(  # type: ignore[no-untyped-def]
    start_signal, first, last, nodes, to_build, parents, parent_of, columns, offsets, has_missing, totals, rule, scratch, gains, found
):  # fmt: skip
    """Search the built nodes first to last and their siblings, each the parent minus the built one; the root has none."""
    start_signal[0] += 1
    for child in range(first, last):
        begin = to_build[child] & ~1
        if nodes.shape[0] == 1:
            totals[0, 0], totals[0, 1] = node_totals(nodes[0], np.int64(offsets[1]))
        else:
            built, other, parent = nodes[to_build[child]], nodes[to_build[child] ^ 1], parents[parent_of[child]]
            for plane in range(nodes.shape[1]):
                for cell in range(nodes.shape[2]):
                    other[plane, cell] = parent[plane, cell] - built[plane, cell]
        for node in range(begin, min(begin + 2, nodes.shape[0])):
            gains[node] = _best_of_node(
                nodes[node], columns, offsets, has_missing, totals[node, 0], totals[node, 1],
                rule[0], rule[1], rule[2], rule[3], rule[4], rule[5], scratch, found[node],
            )  # fmt: skip


def finish_nodes(first: int, last: int, *arguments: Any, pool: WorkerPool) -> None:
    """Subtract and search the pairs of built nodes first to last, shared out over a worker pool.

    Args, after first and last:
        nodes: int64 (active, planes, cells), running sums where complete: pair p stands at 2 p (left) and 2 p + 1 (right); alone
            at 0 stands the root. Siblings of built nodes are written.
        to_build: int64 (built,): positions of the built nodes.
        parents: int64 (active nodes of the level above, planes, cells), running sums; parent_of: int64 (pairs,).
        columns, offsets: of the `Layout`; has_missing: bool (n_features,).
        totals: int64 (active, 2): G and H of each node; the root's is written.
        rule: float64 (6,): the fields of `SplitRule` in order.
        scratch: float64 (threads, `scratch_cells`).
        gains: float64 (active,), written; found: int64 (active, 5), written: feature or -1, bin, missing left, G_L, H_L.
    """
    *family, scratch, gains, found = arguments
    if pool.threads == 1:
        _finish_range(no_start_signal(), first, last, *family, scratch[0], gains, found)
        return

    def finish(thread: int, begin: int, end: int, start_signal: StartSignal) -> None:
        _finish_range(start_signal, first + begin, first + end, *family, scratch[thread], gains, found)

    pool.share(finish, last - first)


@njit(cache=True, nogil=True, error_model="numpy")
def leaf_weights(totals, rule, bounds, weights):  # type: ignore[no-untyped-def]
    """weights[i] = `leaf_weight` of totals[i] = (G, H) in whole numbers; 0 where H is below the least hessian.

    bounds: float64 (n, 2), the lowest and highest weight of each node; (0, 2) for none.
    """
    for i in range(totals.shape[0]):
        weights[i] = 0.0
        if totals[i, 1] >= rule[3]:
            weight = leaf_weight(totals[i, 0] * rule[4], totals[i, 1] * rule[5], rule[0], rule[1], rule[2])
            if bounds.shape[0]:
                weight = min(max(weight, bounds[i, 0]), bounds[i, 1])
            weights[i] = weight


@njit(cache=True, nogil=True, error_model="numpy")
def decide_level(gains, found, totals, bounds, gamma, rule, eta, deepest, leaves, max_leaves):  # type: ignore[no-untyped-def]
    """Which active nodes split, and what becomes of the others and of the children.

    Args:
        gains: float64 (active,); found: int64 (active, 5), of the search. totals: int64 (active, 2). bounds: of `leaf_weights`.
        gamma, eta: of the parameters. rule: float64 (6,). deepest: whether children cannot split.
        leaves: of the tree, active nodes included. max_leaves: of the parameters, 0 for no limit.

    Returns:
        The first four fields of `growth.Level`, with int64 `where` (splits,), the nodes that split, and int64 `children`
        (2 splits, 2), their totals, after missing_left; and whether the children are leaves.
    """
    active = gains.shape[0]
    feature = np.full(active, -1, np.int32)
    bins = np.zeros(active, np.int32)
    missing_left = np.zeros(active, np.uint8)
    splits = 0
    for node in range(active):
        is_full = max_leaves > 0 and leaves + splits >= max_leaves
        if found[node, 0] >= 0 and gains[node] > LEAST_GAIN and gains[node] >= gamma and not is_full:
            feature[node] = found[node, 0]
            bins[node] = found[node, 1]
            missing_left[node] = found[node, 2]
            splits += 1
    leaf = np.zeros(active, np.float32)
    leaf_weights(totals, rule, bounds, leaf)
    where = np.empty(splits, np.int64)
    children = np.empty((2 * splits, 2), np.int64)
    at = 0
    for node in range(active):
        if feature[node] < 0:
            leaf[node] *= np.float32(eta)
            continue
        leaf[node] = 0.0
        where[at] = node
        for side in range(2):
            children[2 * at, side] = found[node, 3 + side]
            children[2 * at + 1, side] = totals[node, side] - found[node, 3 + side]
        at += 1
    last = deepest or splits == 0 or (max_leaves > 0 and leaves + splits >= max_leaves)
    return feature, bins, missing_left, where, children, leaf, last


@njit(cache=True, nogil=True, error_model="numpy")
def lighter_left(children):  # type: ignore[no-untyped-def]
    """uint8 (splits,): whether the left child of each split is the lighter one, or as heavy. children: int64 (2 splits, 2)."""
    build_left = np.empty(children.shape[0] // 2, np.uint8)
    for split in range(build_left.shape[0]):
        build_left[split] = children[2 * split, 1] <= children[2 * split + 1, 1]
    return build_left
