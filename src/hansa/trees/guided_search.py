"""The search of a node whose splits must heed more than gain: categories, constraints, drawn columns, dominance.

Categories (XGBoost's `EnumerateOneHot` and `EnumeratePart`): with fewer than `max_cat_to_onehot` of them a split tells one category,
which goes right, from all others. With more they are sorted by the weight of a leaf that each would have alone, and the first k
of them go right (Fisher 1958: for squared error the best partition is among these): k, or the number of those that go left, is below
`max_cat_threshold`. Missing values go left, or right, whichever gains more.

Monotone constraints (XGBoost's `TreeEvaluator`): a split by a feature that predictions must rise with is refused where the left child's
weight is above the right one's; below it, no weight of the left side may exceed the mean of both, and none of the right side be less.
Each node has bounds on its weight, and gains are those of the bounded weights.

Dominance: `trees.dominance`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.trees.splitting import _column, _highest, _score_column, _sums_at, leaf_weight, node_totals, score
from hansa.trees.worker_pool import StartSignal, WorkerPool, no_start_signal

FEW_CATEGORIES = 64
"""Up to so many are sorted by moving each to its place, which takes less time than to part them and put the parts together."""

_SURELY_BELOW = 1 - 1e-9
"""Times the best score: scores below it are lower, however they were rounded."""


@dataclass(frozen=True)
class FeatureRules:
    """What the plan says of single features. Public.

    Attributes:
        n_categories: int32 (n_features,): of a categorical feature, 0 of another.
        monotone: int8 (n_features,): 1 where predictions may only rise with the feature, -1 where they may only fall, else 0.
        interactions: bool (sets, n_features): which features may meet in a tree; (0, n_features) where all may.
        max_cat_to_onehot, max_cat_threshold: XGBoost's.
    """

    n_categories: npt.NDArray[np.int32]
    monotone: npt.NDArray[np.int8]
    interactions: npt.NDArray[np.bool_]
    max_cat_to_onehot: int
    max_cat_threshold: int

    @cached_property
    def bounded(self) -> bool:
        """Whether weights have bounds."""
        return bool(self.monotone.any())

    @cached_property
    def guided(self) -> bool:
        """Whether there is anything to heed in the search itself."""
        return self.bounded or bool(self.n_categories.any())

    @cached_property
    def category_bytes(self) -> int:
        """Bytes of the bits of the feature with the most categories."""
        return (int(self.n_categories.max(initial=0)) + 7) // 8


@njit(cache=True, nogil=True, error_model="numpy")
def bounded_weight(gradient, hessian, rule, low, high):  # type: ignore[no-untyped-def]
    """The leaf's weight, within bounds."""
    return min(max(leaf_weight(gradient, hessian, rule[0], rule[1], rule[2]), low), high)


@njit(cache=True, nogil=True, error_model="numpy")
def _score_given(gradient, hessian, weight, lambda_):  # type: ignore[no-untyped-def]
    """A node's part of the gain at a given weight: -(2 G w + (H + lambda) w^2)."""
    if hessian <= 0.0:
        return 0.0
    return -(2.0 * gradient * weight + (hessian + lambda_) * weight * weight)


@njit(cache=True, nogil=True, error_model="numpy")
def node_score(gradient, hessian, rule, is_bounded, low, high):  # type: ignore[no-untyped-def]
    """A node's part of the gain; of its bounded weight where weights have bounds."""
    if not is_bounded:
        return score(gradient, hessian, rule[0], rule[1], rule[2])
    return _score_given(gradient, hessian, bounded_weight(gradient, hessian, rule, low, high), rule[0])


@njit(cache=True, nogil=True, error_model="numpy")
def _both(g_left, h_left, g_right, h_right, rule, is_bounded, low, high, direction):  # type: ignore[no-untyped-def]
    """Both sides' part of the gain; minus infinity where a side is too light or the direction is broken. Arguments in whole units."""
    if h_left < rule[3] or h_right < rule[3]:
        return -np.inf
    a, b, c, d = g_left * rule[4], h_left * rule[5], g_right * rule[4], h_right * rule[5]
    if not is_bounded:
        return score(a, b, rule[0], rule[1], rule[2]) + score(c, d, rule[0], rule[1], rule[2])
    left, right = bounded_weight(a, b, rule, low, high), bounded_weight(c, d, rule, low, high)
    if (direction > 0 and left > right) or (direction < 0 and left < right):
        return -np.inf
    return _score_given(a, b, left, rule[0]) + _score_given(c, d, right, rule[0])


@njit(cache=True, nogil=True, error_model="numpy")
def child_bounds(found, totals, bounds, monotone, rule):  # type: ignore[no-untyped-def]
    """Bounds on the weights of both children of nodes that split.

    Args:
        found: int64 (splits, 5), totals: int64 (splits, 2), bounds: float64 (splits, 2), of the nodes. monotone: of `FeatureRules`.

    Returns:
        float64 (2 splits, 2).
    """
    children = np.empty((2 * found.shape[0], 2))
    for i in range(found.shape[0]):
        low, high = bounds[i]
        g_left, h_left = found[i, 3], found[i, 4]
        left = bounded_weight(g_left * rule[4], h_left * rule[5], rule, low, high)
        right = bounded_weight((totals[i, 0] - g_left) * rule[4], (totals[i, 1] - h_left) * rule[5], rule, low, high)
        children[2 * i] = children[2 * i + 1] = bounds[i]
        middle = (left + right) / 2
        direction = monotone[found[i, 0]]
        if direction > 0:
            children[2 * i, 1] = children[2 * i + 1, 0] = middle
        elif direction < 0:
            children[2 * i, 0] = children[2 * i + 1, 1] = middle
    return children


@njit(cache=True, nogil=True, error_model="numpy")
def _is_dominated(own_right, total, least, h_left, h_right):  # type: ignore[no-untyped-def]
    """Whether a side is below the least hessian without its largest contributor; own_right, total: int64 (parties,), empty for none."""
    most_left, most_right = np.int64(0), np.int64(0)
    for party in range(own_right.shape[0]):
        most_right = max(most_right, own_right[party])
        most_left = max(most_left, total[party] - own_right[party])
    return h_left - most_left < least or h_right - most_right < least


@njit(cache=True, nogil=True, error_model="numpy")
def best_of_node(  # type: ignore[no-untyped-def]
    sums, own, columns, offsets, has_missing, usable, n_categories, monotone, is_bounded, max_cat_to_onehot, max_cat_threshold,
    total_g, total_h, low, high, rule, found, chosen,
):  # fmt: skip
    """Write (feature, bin or number of categories that go right, missing goes left, G_L, H_L) into found, feature -1 if none.

    Args:
        sums: int64 (planes, cells), running within each column. own: int64 (parties, cells), each party's running hessians where the
            rule of dominance holds, else (0, 0).
        columns, offsets, has_missing: as for `splitting.finish_nodes`. usable: bool (k,), columns of this node; (0,) for all.
        n_categories, monotone: by feature (`FeatureRules`). total_g, total_h: of the node. low, high: bounds on its weight.
        found: int64 (5,), written. chosen: uint8 (category bytes,), written: a bit for each category that goes right.

    Returns:
        The gain.
    """
    best = -np.inf
    found[:] = 0
    found[0] = -1
    parties = own.shape[0]
    right, total = np.zeros(parties, np.int64), np.zeros(parties, np.int64)
    most_cells = np.int64(0)
    for j in range(columns.shape[0]):
        most_cells = max(most_cells, np.int64(offsets[j + 1]) - np.int64(offsets[j]))
    scratch, limit = np.empty(most_cells), np.empty(1)
    room, order = np.empty((2, most_cells), np.int64), np.empty(most_cells, np.int64)
    for j in range(columns.shape[0]):
        if usable.shape[0] and not usable[j]:
            continue
        feature = columns[j]
        missing = has_missing[feature]
        begin, end, missing_g, missing_h = _column(sums, offsets, missing, j, total_g, total_h)
        for party in range(parties):
            total[party] = own[party, np.int64(offsets[j + 1]) - 1]
        if n_categories[feature]:
            best = _best_categories(
                sums, own, begin, n_categories[feature], max_cat_to_onehot, max_cat_threshold, missing_g, missing_h,
                total_g, total_h, rule, is_bounded, low, high, feature, right, total, best, room, scratch, order, found, chosen,
            )  # fmt: skip
            continue
        for side in range(2 if missing_h > 0 else 1):
            if not is_bounded:
                _score_column(
                    sums, begin, end, np.float64(side * missing_g), np.float64(side * missing_h), np.float64(total_g),
                    np.float64(total_h), rule[0], rule[1], rule[2], rule[3], rule[4], rule[5], scratch,
                )  # fmt: skip
                # Most columns have no candidate that comes near the best one: one look at all of theirs together says so.
                limit[0] = max(best * _SURELY_BELOW, 0.0)
                if monotone[feature] == 0 and _highest(scratch[: end - begin]) < limit.view(np.int64)[0]:
                    continue
            # Of present values all may go right, which is the other way round of all going left: one of the two may be forbidden.
            for cell in range(begin - 1 if side == 1 and monotone[feature] else begin, end):
                # The fast scores differ from `_both` by roundings: what is clearly no better is passed over.
                if not is_bounded and cell >= begin and scratch[cell - begin] < best * _SURELY_BELOW:
                    continue
                g, h = _sums_at(sums, cell) if cell >= begin else (np.int64(0), np.int64(0))
                g_left, h_left = g + side * missing_g, h + side * missing_h
                both = _both(
                    g_left, h_left, total_g - g_left, total_h - h_left, rule, is_bounded, low, high, monotone[feature]
                )
                if not both > best:
                    continue
                for party in range(parties):
                    left = own[party, cell] if cell >= begin else np.int64(0)
                    if missing and side == 1:
                        left += total[party] - own[party, end - 1]
                    right[party] = total[party] - left
                if parties and _is_dominated(right, total, rule[3], h_left, total_h - h_left):
                    continue
                best = both
                found[0], found[1], found[2], found[3], found[4] = feature, cell - begin, side, g_left, h_left
    if found[0] < 0:
        return 0.0
    return best - node_score(total_g * rule[4], total_h * rule[5], rule, is_bounded, low, high)


@njit(cache=True, nogil=True, error_model="numpy")
def _cell_of(running, cell, begin):  # type: ignore[no-untyped-def]
    return running[cell] - (running[cell - 1] if cell > begin else np.int64(0))


@njit(cache=True, nogil=True, error_model="numpy")
def _clearly_below(best, total_g, total_h, g_right, h_right, rule):  # type: ignore[no-untyped-def]
    """Whether `_both` of a split without alpha, max_delta_step and bounds is below `best`, by more than roundings; without a division,
    which takes most of the time of `_both`."""
    a, u = (total_g - g_right) * rule[4], (total_h - h_right) * rule[5] + rule[0]
    c, v = g_right * rule[4], h_right * rule[5] + rule[0]
    return a * a * v + c * c * u < best * _SURELY_BELOW * (u * v)


@njit(cache=True, nogil=True, error_model="numpy")
def _sort(weights, order):  # type: ignore[no-untyped-def]
    """Write the positions of weights into order, ascending; of equal ones the first stands first."""
    if weights.shape[0] > FEW_CATEGORIES:
        order[:] = np.argsort(weights, kind="mergesort")
        return
    for i in range(weights.shape[0]):
        own, at = weights[i], i
        while at > 0 and own < weights[order[at - 1]]:
            order[at] = order[at - 1]
            at -= 1
        order[at] = i


@njit(cache=True, nogil=True, error_model="numpy")
def _best_categories(  # type: ignore[no-untyped-def]
    sums, own, begin, count, max_cat_to_onehot, max_cat_threshold, missing_g, missing_h,
    total_g, total_h, rule, is_bounded, low, high, feature, right, total, best, room, scratch, order, found, chosen,
):  # fmt: skip
    """The best split of a categorical feature, if it is better than `best`; the best of both. Arguments of `best_of_node`.

    room: int64 (2, cells), scratch: float64 (cells,), order: int64 (cells,), overwritten, with at least as many cells as categories.
    """
    g_of, h_of, order = room[0], room[1], order[:count]
    before_g, before_h = np.int64(0), np.int64(0)
    for c in range(count):
        g, h = _sums_at(sums, begin + c)
        g_of[c], h_of[c] = g - before_g, h - before_h
        before_g, before_h = g, h
    parties = own.shape[0]
    one_hot = count < max_cat_to_onehot
    if one_hot:
        for c in range(count):
            order[c] = c
    else:
        weights = scratch[:count]
        for c in range(count):
            weights[c] = 0.0
            if h_of[c] >= rule[3]:  # as XGBoost, which trusts no weight of a lighter one
                weights[c] = leaf_weight(g_of[c] * rule[4], h_of[c] * rule[5], rule[0], rule[1], rule[2])
        _sort(weights, order)
    is_simple = not is_bounded and rule[1] == 0.0 and rule[2] == 0.0
    most = count if one_hot else min(count, max_cat_threshold) - 1
    first, last, is_right = -1, -1, True
    for way in range(
        2
    ):  # one-hot: missing values left, right. Partition: the right side from the front, the left from the end
        if one_hot and way == 1 and missing_h == 0:
            break
        side_g, side_h = np.int64(0), np.int64(0)
        right[:] = 0
        for k in range(most):
            c = order[k] if one_hot or way == 0 else order[count - 1 - k]
            if one_hot:
                side_g, side_h = np.int64(0), np.int64(0)
                right[:] = 0
            side_g += g_of[c]
            side_h += h_of[c]
            for party in range(parties):
                right[party] += _cell_of(own[party], begin + c, begin)
            if one_hot:
                g_right, h_right = side_g + way * missing_g, side_h + way * missing_h
            elif way == 0:
                g_right, h_right = side_g, side_h
            else:
                g_right, h_right = total_g - side_g, total_h - side_h
            if is_simple and _clearly_below(best, total_g, total_h, g_right, h_right, rule):
                continue
            both = _both(total_g - g_right, total_h - h_right, g_right, h_right, rule, is_bounded, low, high, 0)
            if not both > best:
                continue
            if parties:
                held = right.copy()
                for party in range(parties):
                    if one_hot and way == 1:
                        held[party] += total[party] - own[party, begin + count - 1]
                    elif not one_hot and way == 1:
                        held[party] = total[party] - right[party]
                if _is_dominated(held, total, rule[3], total_h - h_right, h_right):
                    continue
            best = both
            is_right = one_hot or way == 0
            first = k if one_hot else 0
            last = k + 1 if is_right else count - 1 - k
            found[0], found[1], found[2] = feature, last - first, 1 - way
            found[3], found[4] = total_g - g_right, total_h - h_right
    if last >= 0:
        chosen[:] = 0
        for k in range(first, last):
            chosen[order[k] >> 3] |= np.uint8(1 << (order[k] & 7))
    return best


@njit(cache=True, nogil=True, error_model="numpy")
def _finish_range(  # type: ignore[no-untyped-def]
    start_signal, first, last, nodes, to_build, parents, parent_of, columns, offsets, has_missing, totals, rule, gains, found,
    own, own_parents, usable, n_categories, monotone, is_bounded, max_cat_to_onehot, max_cat_threshold, bounds, chosen,
):  # fmt: skip
    """`splitting._finish_range`, heeding what there is to heed."""
    start_signal[0] += 1
    parties = own.shape[0]
    for child in range(first, last):
        begin = to_build[child] & ~1
        if nodes.shape[0] == 1:
            totals[0, 0], totals[0, 1] = node_totals(nodes[0], np.int64(offsets[1]))
        else:
            here, there, above = to_build[child], to_build[child] ^ 1, parent_of[child]
            nodes[there] = parents[above] - nodes[here]
            for party in range(parties):
                own[party, there] = own_parents[party, above] - own[party, here]
        for node in range(begin, min(begin + 2, nodes.shape[0])):
            low, high = -np.inf, np.inf
            if is_bounded:
                low, high = bounds[node, 0], bounds[node, 1]
            gains[node] = best_of_node(
                nodes[node], own[:, node], columns, offsets, has_missing, usable[node] if usable.shape[0] else usable_all(),
                n_categories, monotone, is_bounded, max_cat_to_onehot, max_cat_threshold,
                totals[node, 0], totals[node, 1], low, high, rule, found[node], chosen[node],
            )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def usable_all():  # type: ignore[no-untyped-def]
    """What `best_of_node` takes where all columns are usable."""
    return np.ones(0, np.bool_)


def finish_nodes(first: int, last: int, *arguments: Any, pool: WorkerPool) -> None:
    """Subtract and search the pairs of built nodes first to last, shared out over a worker pool.

    Args, after first and last: nodes, to_build, parents, parent_of, columns, offsets, has_missing, totals, rule, gains and found of
    `splitting.finish_nodes`, then
        own, own_parents: int64 (parties, active, cells), running hessians of each party, and of the level above; (0, active, cells)
            where dominance is no rule.
        usable: bool (active, k): columns of each node; (0, k) where all are.
        n_categories, monotone, is_bounded, max_cat_to_onehot, max_cat_threshold: of `FeatureRules`.
        bounds: float64 (active, 2), read where `is_bounded`. chosen: uint8 (active, category bytes), written.
    """
    if pool.threads == 1:
        _finish_range(no_start_signal(), first, last, *arguments)
        return

    def finish(_: int, begin: int, end: int, start_signal: StartSignal) -> None:
        _finish_range(start_signal, first + begin, first + end, *arguments)

    pool.share(finish, last - first)
