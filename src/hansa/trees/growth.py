"""Growing one tree, level by level: the side that holds rows, and the side that sees sums.

Both sides know the same shape. A `Level` decides *active* nodes: each splits or becomes a leaf. Active in the level below are the
children whose histograms are asked for, left before right, in the order in which their parents split: so pair p of siblings stands at
2 p and 2 p + 1; behind them stand the nodes that wait. No node waits where a tree grows depthwise; where the node of the largest gain
is split first (`loss_guide`) all others do. Rows' side (`RowPartition`): which rows stand in which node. Sums' side (`Grower`):
histograms, splits, leaf weights. Between them pass histograms of one child of each pair (the lighter by hessian; the other is its
parent minus it) and `Level`s: an exchange each, as long as the scales of a tree go out with the last splits of the tree before.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.errors import DataError, HansaError
from hansa.trees import guided_search, histogram, splitting
from hansa.trees.dominance import Contributors
from hansa.trees.ensemble import ROOT_PARENT, Tree
from hansa.trees.guided_search import FeatureRules
from hansa.trees.histogram import Codes, Int64, Layout
from hansa.trees.level import BOTH_LEAVES, NO_CATEGORIES, NO_CHILD_LEAVES, NOTHING_BUILT, Level, filled
from hansa.trees.node_columns import NodeColumns
from hansa.trees.objective import Scales
from hansa.trees.parameters import Parameters
from hansa.trees.row_chunks import CHUNK_ROWS, ChunkedRows
from hansa.trees.worker_pool import ALONE, WorkerPool

PARALLEL_CELLS = 40_000
"""Cells of a level below which one thread searches as fast as several."""

ABOVE_ALL = np.float32(3.4028235e38)
"""Threshold of a split that parts present values from missing ones; negative where the present ones go right."""


@njit(cache=True, nogil=True, error_model="numpy")
def _add_leaf(margins, rows, value):  # type: ignore[no-untyped-def]
    for i in range(rows.shape[0]):
        margins[rows[i]] += value


@njit(cache=True, nogil=True, error_model="numpy")
def _add_leaves(margins, codes, rows, threshold, missing, missing_left, left, right):  # type: ignore[no-untyped-def]
    """Rows of a node that splits into two leaves; returns how many go left."""
    lefts = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        goes_left = histogram.goes_left(np.int32(codes[row]), threshold, missing, missing_left)
        margins[row] += left if goes_left else right
        lefts += goes_left
    return lefts


@njit(cache=True, nogil=True, error_model="numpy")
def _sides_of_categories(bits, first, categories, missing, missing_left, sides):  # type: ignore[no-untyped-def]
    """sides[code] = whether a row with this code goes left at a categorical split, whose bits begin at byte `first`."""
    for code in range(categories):
        sides[code] = 1 - (bits[first + (code >> 3)] >> np.uint8(code & 7)) & 1
    if missing >= 0:
        sides[missing] = missing_left


@njit(cache=True, nogil=True, error_model="numpy")
def _add_category_leaves(margins, codes, rows, sides, left, right):  # type: ignore[no-untyped-def]
    """`_add_leaves` of a categorical split."""
    lefts = 0
    for i in range(rows.shape[0]):
        row = rows[i]
        goes_left = sides[codes[row]]
        margins[row] += left if goes_left else right
        lefts += goes_left
    return lefts


@njit(cache=True, nogil=True, error_model="numpy")
def _partition_categories(codes, rows, scratch, begin, end, sides):  # type: ignore[no-untyped-def]
    """`histogram.partition_rows` of a categorical split: without a branch, whose way nobody can foresee."""
    own = rows[begin:end]
    others = scratch[: end - begin]
    left = np.uint64(0)
    for i in range(own.shape[0]):
        row = own[i]
        own[left] = row
        others[np.uint64(i) - left] = row
        left += np.uint64(sides[codes[row]])
    own[left:] = others[: np.uint64(own.shape[0]) - left]
    return begin + np.int64(left)


@njit(cache=True, nogil=True, error_model="numpy")
def bytes_of(categories):  # type: ignore[no-untyped-def]
    """Bytes that the bits of so many categories take."""
    return (categories + 7) >> 3


@njit(cache=True, nogil=True, error_model="numpy")
def advance(  # type: ignore[no-untyped-def]
    codes, missing_code, n_categories, rows, scratch, starts, ends,
    feature, bins, missing_left, leaf, build_left, child_leaf, nodes, categories, margins,
):  # fmt: skip
    """Part the rows of nodes that split; rows of nodes, and of children, that are leaves get their value.

    Args:
        codes: uint8 or uint16 (n_features, n_rows). missing_code, n_categories: int32 (n_features,), as `RowPartition` has them.
        rows: uint16, of which node i's of chunk c are rows[starts[i, c] : ends[i, c]]; reordered. scratch: uint16 (rows of a chunk,).
        feature to categories: the fields of `Level`. margins: float32 (n_rows,), increased.

    Returns:
        Where the rows of the next active nodes start and end, int64 (active, chunks) each; and how many rows each child has, int64
        (2 splits,).
    """
    decided, chunks = feature.shape[0], starts.shape[1]
    splits, built = 0, 0
    last = build_left.shape[0] == 0
    for i in range(decided):
        if feature[i] >= 0:
            built += not last and build_left[splits] != BOTH_LEAVES
            splits += 1
    waiting = starts.shape[0] - nodes.shape[0] if nodes.shape[0] else 0
    next_starts = np.empty((2 * built + waiting, chunks), np.int64)
    next_ends = np.empty((2 * built + waiting, chunks), np.int64)
    counts = np.empty(2 * splits, np.int64)
    most = 0
    for f in range(n_categories.shape[0] if categories.shape[0] else 0):
        most = max(most, n_categories[f])
    sides = np.empty(most + 1, np.uint8)
    split, at, leaves, first = 0, 0, 0, 0
    for i in range(decided):
        node = nodes[i] if nodes.shape[0] else i
        if feature[i] < 0:
            for chunk in range(chunks):
                own = rows[starts[node, chunk] : ends[node, chunk]]
                _add_leaf(margins[chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS], own, leaf[i])
            continue
        f = feature[i]
        to_left = missing_left[i] != 0
        ends_here = last or build_left[split] == BOTH_LEAVES
        if n_categories[f]:
            _sides_of_categories(categories, first, n_categories[f], missing_code[f], to_left, sides)
        counts[2 * split], counts[2 * split + 1] = 0, 0
        for chunk in range(chunks):
            begin, end = starts[node, chunk], ends[node, chunk]
            of_chunk = codes[f][chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS]
            if ends_here:
                left, right = child_leaf[leaves], child_leaf[leaves + 1]
                moved = margins[chunk * CHUNK_ROWS : (chunk + 1) * CHUNK_ROWS]
                if n_categories[f]:
                    lefts = _add_category_leaves(moved, of_chunk, rows[begin:end], sides, left, right)
                else:
                    lefts = _add_leaves(
                        moved, of_chunk, rows[begin:end], bins[i], missing_code[f], to_left, left, right
                    )
                middle = begin + lefts
            else:
                if n_categories[f]:
                    middle = _partition_categories(of_chunk, rows, scratch, begin, end, sides)
                else:
                    middle = histogram.partition_rows(
                        of_chunk, rows, scratch, begin, end, bins[i], missing_code[f], to_left
                    )
                next_starts[at, chunk], next_ends[at, chunk] = begin, middle
                next_starts[at + 1, chunk], next_ends[at + 1, chunk] = middle, end
            counts[2 * split] += middle - begin
            counts[2 * split + 1] += end - middle
        leaves += 2 * ends_here
        at += 2 * (not ends_here)
        first += bytes_of(n_categories[f])
        split += 1
    if waiting:
        waits = np.ones(starts.shape[0], np.bool_)
        for i in range(nodes.shape[0]):
            waits[nodes[i]] = False
        for node in range(starts.shape[0]):
            if waits[node]:
                next_starts[at], next_ends[at] = starts[node], ends[node]
                at += 1
    return next_starts, next_ends, counts


class RowPartition:
    """Which of a party's rows stand in which active node, and their margins.

    Args:
        codes_by_feature: uint8 or uint16 (n_features, n_rows).
        missing_code: int32 (n_features,): the code that means missing, or -1.
        n_categories: int32 (n_features,): of a categorical feature, 0 of another.
        rows: the rows to follow; their spans of the array are taken over and reordered.
        margins: float32 (n_rows,): increased by the leaf values as leaves appear.

    Attributes:
        rows: uint16. starts, ends: int64 (active, chunks): where the rows of each active node stand in `rows`.
        n_rows: rows that are followed.
        child_rows: int64 (2 splits,): rows of the children that the last `Level` made.
    """

    def __init__(
        self,
        codes_by_feature: Codes,
        missing_code: npt.NDArray[np.int32],
        n_categories: npt.NDArray[np.int32],
        rows: ChunkedRows,
        margins: npt.NDArray[np.float32],
    ) -> None:
        self._codes = codes_by_feature
        self._missing_code = missing_code
        self._n_categories = n_categories
        self.rows = rows.rows
        self.n_rows = rows.n_rows
        self._scratch = np.empty(min(len(rows.rows), CHUNK_ROWS), np.uint16)
        self._margins = margins
        self.starts = rows.starts[None]
        self.ends = rows.ends[None]
        self.child_rows = np.zeros(0, np.int64)

    def apply(self, level: Level) -> None:
        """Move rows to the next level's nodes; rows that reach a leaf get its value."""
        self.starts, self.ends, self.child_rows = advance(
            self._codes,
            self._missing_code,
            self._n_categories,
            self.rows,
            self._scratch,
            self.starts,
            self.ends,
            *level,
            self._margins,
        )


LEVEL_RULES = (
    "",
    "a node is split by a feature that this tree may not use",
    "a node is split at a bin that its feature does not have",
    "a leaf value is not finite",
    "the number of nodes that split is not the number of children announced",
    "a flag is none of those allowed",
    "the nodes that are decided are not different active ones",
    "the categories of the splits are not as many as their features have, or none of them goes right",
)


@njit(cache=True, nogil=True, error_model="numpy")
def _broken_rule(  # type: ignore[no-untyped-def]
    feature, bins, missing_left, leaf, build_left, child_leaf, nodes, categories, allowed, sizes, n_categories, active
):  # fmt: skip
    found, first = 0, 0
    seen = np.zeros(active, np.bool_)
    for i in range(feature.shape[0]):
        if nodes.shape[0]:
            if nodes[i] < 0 or nodes[i] >= active or seen[nodes[i]]:
                return 6
            seen[nodes[i]] = True
        f = feature[i]
        if f < -1 or f >= allowed.shape[0] or (f >= 0 and not allowed[f]):
            return 1
        if f >= 0:
            found += 1
            if bins[i] < -np.int32(missing_left[i] == 1) or bins[i] >= sizes[f] + (n_categories[f] > 0):
                return 2
            if n_categories[f]:
                end = first + bytes_of(n_categories[f])
                if end > categories.shape[0]:
                    return 7
                right = 0
                for category in range(8 * (end - first)):
                    is_right = categories[first + (category >> 3)] >> np.uint8(category & 7) & 1
                    if is_right and category >= n_categories[f]:
                        return 7
                    right += is_right
                if right == 0 or right != bins[i]:
                    return 7
                first = end
        if missing_left[i] > 1:
            return 5
        if not np.isfinite(leaf[i]):
            return 3
    if first != categories.shape[0]:
        return 7
    leaves = 0
    for split in range(build_left.shape[0]):
        if build_left[split] > BOTH_LEAVES:
            return 5
        leaves += build_left[split] == BOTH_LEAVES
    for child in range(child_leaf.shape[0]):
        if not np.isfinite(child_leaf[child]):
            return 3
    if build_left.shape[0] and (found != build_left.shape[0] or leaves == found or child_leaf.shape[0] != 2 * leaves):
        return 4
    if not build_left.shape[0] and (child_leaf.shape[0] != 2 * found or feature.shape[0] != active):
        return 4
    return 0


def check_level(
    level: Level,
    allowed: npt.NDArray[np.bool_],
    sizes: Int64,
    n_categories: npt.NDArray[np.int32],
    active: int,
) -> str:
    """The rule that a level breaks, or "".

    Args:
        allowed: bool (n_features,): features that the tree may use. sizes: int64 (n_features,): codes of each, missing not counted.
        n_categories: int32 (n_features,): of a categorical feature, 0 of another. active: how many nodes are active.
    """
    return LEVEL_RULES[_broken_rule(*level, allowed, sizes, n_categories, active)]


def rounded(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Leaf values as the nearest multiples of 2^-bits, ties to even; float32, exact for values whose size is below 2^(24 - bits)."""
    unit = np.float32(2.0**bits)
    nearest: npt.NDArray[np.float32] = np.rint(values * unit) / unit + np.float32(0)  # -0 becomes 0
    return nearest


@njit(cache=True, nogil=True, error_model="numpy")
def _packed_bits(features, chosen, n_categories):  # type: ignore[no-untyped-def]
    """The bits of each split's categories, one split's behind the other's: uint8.

    features: of the splits, integers (splits,). chosen: uint8 (splits, bytes of the most categories). n_categories: by feature.
    """
    packed, at = np.empty(chosen.size, np.uint8), 0
    for split in range(chosen.shape[0]):
        for byte in range(bytes_of(n_categories[features[split]])):
            packed[at] = chosen[split, byte]
            at += 1
    return packed[:at]


@njit(cache=True, nogil=True, error_model="numpy")
def nodes_to_build(build_left):  # type: ignore[no-untyped-def]
    """Positions, among the next level's active nodes, of the children that are built: int64 (built,); build_left uint8 (splits,)."""
    positions = np.empty(build_left.shape[0], np.int64)
    pair = 0
    for split in range(build_left.shape[0]):
        if build_left[split] != BOTH_LEAVES:
            positions[pair] = 2 * pair + (build_left[split] == 0)
            pair += 1
    return positions[:pair]


class Buffers:
    """Arrays of histograms, kept from tree to tree so that memory is not returned and faulted in again."""

    def __init__(self) -> None:
        self._arrays: dict[object, Int64] = {}

    def get(self, key: object, shape: tuple[int, ...]) -> Int64:
        """An int64 array of `shape` with unspecified contents; the same memory for the same key."""
        size = math.prod(shape)
        kept = self._arrays.get(key)
        if kept is None or kept.size < size:
            kept = np.empty(size, np.int64)
            self._arrays[key] = kept
        return kept[:size].reshape(shape)


_NO_BOUNDS = np.zeros((0, 2))


class _Waiting(NamedTuple):
    """A node that may be split later, where the largest gain goes first.

    number: as XGBoost numbers nodes, in the order in which they are made. found, totals, chosen: int64 (5,), int64 (2,) and uint8
    (category bytes,), of the search. bounds: float64 (1, 2), or (0, 2) for none. histogram: int64 (planes, cells), running sums. own:
    int64 (parties, cells).
    """

    number: int
    depth: int
    gain: float
    found: Int64
    totals: Int64
    chosen: npt.NDArray[np.uint8]
    bounds: npt.NDArray[np.float64]
    histogram: Int64
    own: Int64


class _Decided(NamedTuple):
    """A level, with what the model tells of its nodes: float64 gains (n,), int64 totals (n, 2) and float64 bounds (n, 2), or (0, 2) for
    none, of the decided ones, in its order; int64 children (2 splits, 2), totals."""

    level: Level
    gains: npt.NDArray[np.float64]
    totals: Int64
    bounds: npt.NDArray[np.float64]
    children: Int64


class _Below(NamedTuple):
    """What the nodes below a level begin with: int64 where (pairs,), their parents' positions; `Level.build_left`; int64 totals
    (2 pairs, 2); float64 bounds (2 pairs, 2), or (0, 2) for none."""

    where: Int64
    build_left: npt.NDArray[np.uint8]
    totals: Int64
    bounds: npt.NDArray[np.float64]


class Leaves(NamedTuple):
    """Leaves of a tree: float64 values, and float64 hessians, the sums of h of their rows; both (leaves,).

    A row's h counts with an error of at most one unit of its scale.
    """

    values: npt.NDArray[np.float64]
    hessians: npt.NDArray[np.float64]


class Grower:
    """One tree on the side that sees sums: takes the sum of all parties' histograms, finds splits.

    For each level, `add` every party's histograms of the nodes `to_build`, in any order; when `add` says that all are there,
    `decide`, tell the parties, and `go_on` to the next level while they are at work. With one thread each pair of siblings is
    searched as soon as it is complete.

    Args:
        parameters, scales, layout: of this tree.
        has_missing: bool (n_features,).
        buffers: kept from tree to tree.
        rules: of single features. node_columns: of this tree.
        worker pool: for the search of levels that are large enough.
        least_hessian: whole sum of hessians that every child has at least, beside what `min_child_weight` says.
        contributors: parties, where a child must hold its least hessian without the largest of them (`dominance`); 0 elsewhere.
        leaf_bits: fraction bits that leaf values are rounded to; None for values as they are. With it, which child is built says
            nothing of their sums either: it is the left one.
    """

    def __init__(
        self,
        parameters: Parameters,
        scales: Scales,
        layout: Layout,
        has_missing: npt.NDArray[np.bool_],
        buffers: Buffers,
        rules: FeatureRules,
        node_columns: NodeColumns,
        pool: WorkerPool = ALONE,
        least_hessian: int = 1,
        contributors: int = 0,
        leaf_bits: int | None = None,
    ) -> None:
        self._leaf_bits = leaf_bits
        self._contributors = Contributors(contributors, layout)
        self._pool = pool
        self._parameters = parameters
        self._layout = layout
        self._has_missing = has_missing
        self._buffers = buffers
        self._rules = rules
        self._node_columns = node_columns
        self._guided = bool(contributors) or rules.guided or node_columns.restricted
        self._eta = parameters.tree_eta
        rule = splitting.rule_of(parameters, scales)
        self._rule = rule
        self._rule_array = np.array(
            [
                rule.lambda_,
                rule.alpha,
                rule.max_delta_step,
                max(rule.least_hessian, least_hessian),
                rule.gradient_unit,
                rule.hessian_unit,
            ]
        )
        self._scratch = np.empty((pool.threads, splitting.scratch_cells(layout)))
        self._planes = scales.planes
        self._steps = 0
        self._depth = 0
        self._leaves = 1
        self._grown = 1
        self._parents = np.empty((0, self._planes, layout.cells), np.int64)
        self._parent_of = np.zeros(0, np.int64)
        self._build_left = np.zeros(0, np.uint8)
        self._waiting: list[_Waiting] = []
        self._numbers = [0]
        self._decided: list[_Decided] = []
        self._start_level(np.zeros((1, 2), np.int64), np.array([[-np.inf, np.inf]]) if rules.bounded else _NO_BOUNDS)

    def _start_level(self, totals: Int64, bounds: npt.NDArray[np.float64]) -> None:
        active = len(totals)
        self.nodes = self._buffers.get(self._steps, (active, self._planes, self._layout.cells))
        self.to_build = nodes_to_build(self._build_left) if self._steps else np.zeros(1, np.int64)
        self._totals = totals
        self._bounds = bounds
        self._gains = np.zeros(active)
        self._found = np.full((active, 5), -1, np.int64)
        self._chosen = np.zeros((active, self._rules.category_bytes), np.uint8)
        self._taken = np.zeros(len(self.to_build), np.int64)
        self._complete = 0
        self._usable = self._node_columns.usable(active)

    @property
    def node_shape(self) -> tuple[int, int]:
        """(planes, cells) of a node's histogram."""
        return self._planes, self._layout.cells

    @property
    def complete(self) -> bool:
        """Whether all parties' parts of all built nodes of the level are there."""
        return self._complete == len(self.to_build)

    def add(self, first: int, part: Int64, parties: int, party: int = 0) -> bool:
        """Add one party's histograms of the built nodes first, first + 1, ...; int64 (m, planes, cells).

        Args:
            parties: how many there are. party: which of them this is; told apart only under the rule of dominance.

        Returns:
            Whether all parties' parts of all built nodes are there, and `next_level` may be called.
        """
        self._contributors.add(party, self.to_build[first : first + len(part)], part)
        at_once = self._pool.threads == 1 or len(self.nodes) == 1 or self.nodes.size < PARALLEL_CELLS
        taken, offsets = self._taken, self._layout.offsets
        complete = splitting.add_part(part, first, taken, parties, self.nodes, self.to_build, offsets)
        self._complete += complete
        if at_once and complete == len(part):
            self._finish(first, first + complete, ALONE)
        elif at_once and complete:
            for node in first + np.flatnonzero(taken[first : first + len(part)] == parties):
                self._finish(int(node), int(node) + 1, ALONE)
        if not self.complete:
            return False
        if not at_once:
            self._finish(0, len(self.to_build), self._pool)
        return True

    def _finish(self, first: int, last: int, pool: WorkerPool) -> None:
        """Search the built children first to last, and their siblings."""
        family = (self.nodes, self.to_build, self._parents, self._parent_of)
        columns = (self._layout.columns, self._layout.offsets, self._has_missing)
        if not self._guided:
            found = (self._totals, self._rule_array, self._scratch, self._gains, self._found)
            splitting.finish_nodes(first, last, *family, *columns, *found, pool=pool)
            return
        rules, own = self._rules, self._contributors
        guided_search.finish_nodes(
            first,
            last,
            *family,
            *columns,
            self._totals,
            self._rule_array,
            self._gains,
            self._found,
            own.nodes,
            own.parents,
            self._usable,
            rules.n_categories,
            rules.monotone,
            rules.bounded,
            rules.max_cat_to_onehot,
            rules.max_cat_threshold,
            self._bounds,
            self._chosen,
            pool=pool,
        )

    def decide(self) -> Level:
        """Decide the level whose nodes are all finished."""
        return self._decide_depthwise() if self._parameters.grow_policy == "depthwise" else self._decide_best_first()

    def _decide_depthwise(self) -> Level:
        gains, found, totals, bounds, parameters = (
            self._gains,
            self._found,
            self._totals,
            self._bounds,
            self._parameters,
        )
        deepest = self._depth + 1 == parameters.max_depth
        feature, bins, missing_left, where, children, leaf, last = splitting.decide_level(
            gains, found, totals, bounds, parameters.gamma, self._rule_array, self._eta, deepest,
            self._leaves, parameters.max_leaves,
        )  # fmt: skip
        self._leaves += len(where)
        child_bounds = self._child_bounds(found, totals, bounds, where)
        categories = (
            self._category_bits(feature[where], self._chosen[where]) if self._rules.category_bytes else NO_CATEGORIES
        )
        if last:
            level = Level(
                feature,
                bins,
                missing_left,
                leaf,
                NOTHING_BUILT,
                self._leaf_values(children, child_bounds),
                categories=categories,
            )
            return self._keep(level, gains, totals, bounds, children)
        build_left = splitting.lighter_left(children)
        level = self._keep(
            Level(feature, bins, missing_left, leaf, build_left, NO_CHILD_LEAVES, categories=categories),
            gains,
            totals,
            bounds,
            children,
        )
        self._below = _Below(where, level.build_left, children, child_bounds)
        return level

    def _decide_best_first(self) -> Level:
        """Split the node of the largest gain, and more where the children of each are leaves (XGBoost's `Driver`).

        Ties go to the node that was made first.
        """
        parameters, active = self._parameters, self._candidates()
        queue = [(-node.gain, node.number, at) for at, node in enumerate(active) if node.gain > splitting.LEAST_GAIN]
        queue = [entry for entry in queue if active[entry[2]].found[0] >= 0 and -entry[0] >= parameters.gamma]
        heapq.heapify(queue)
        splits: list[int] = []
        goes_on = False
        while queue and not goes_on and not 0 < parameters.max_leaves <= self._leaves:
            *_, at = heapq.heappop(queue)
            splits.append(at)
            self._leaves += 1
            full = 0 < parameters.max_leaves <= self._leaves
            goes_on = not full and active[at].depth + 1 != parameters.max_depth
        decided = splits if goes_on else [*splits, *(at for at in range(len(active)) if at not in set(splits))]
        nodes = [active[at] for at in decided]
        count, total = len(splits), len(decided)
        found = np.array([node.found for node in nodes], np.int64).reshape(total, 5)
        totals = np.array([node.totals for node in nodes], np.int64).reshape(total, 2)
        bounds = np.array([node.bounds for node in nodes]).reshape(-1, 2)
        is_split = np.arange(total) < count
        children = np.stack([found[:count, 3:], totals[:count] - found[:count, 3:]], 1).reshape(2 * count, 2)
        child_bounds = self._child_bounds(found, totals, bounds, np.arange(count))
        build_left = np.full(count if goes_on else 0, BOTH_LEAVES, np.uint8)
        if goes_on:
            build_left[-1:] = splitting.lighter_left(children[-2:])
        leaves = 2 * (count - goes_on)
        level = Level(
            feature=np.where(is_split, found[:, 0], -1).astype(np.int32),
            bin=np.where(is_split, found[:, 1], 0).astype(np.int32),
            missing_left=np.where(is_split, found[:, 2], 0).astype(np.uint8),
            leaf=np.where(is_split, np.float32(0), self._leaf_values(totals, bounds)).astype(np.float32),
            build_left=build_left,
            child_leaf=self._leaf_values(children[:leaves], child_bounds[:leaves]),
            nodes=np.array(decided, np.int32),
            categories=self._category_bits(
                found[:count, 0],
                np.array([node.chosen for node in nodes[:count]], np.uint8).reshape(count, self._rules.category_bytes),
            ),
        )
        self._numbers = [self._grown + 2 * (count - 1), self._grown + 2 * (count - 1) + 1]
        self._grown += 2 * count
        if goes_on:
            best = active[decided[-1]]
            self._depth = best.depth + 1
            self._parents = best.histogram[None]
            self._own_parents = best.own[:, None]
        self._waiting = [node for at, node in enumerate(active) if at not in set(decided)]
        level = self._keep(level, np.array([node.gain for node in nodes]), totals, bounds, children)
        self._below = _Below(np.zeros(1, np.int64), level.build_left, children[-2:], child_bounds[-2:])
        return level

    def _candidates(self) -> list[_Waiting]:
        """All active nodes: those of this level, whose histograms are copied, and those that wait."""
        new = [
            _Waiting(
                self._numbers[at],
                self._depth,
                float(self._gains[at]),
                self._found[at],
                self._totals[at],
                self._chosen[at],
                self._bounds[at : at + 1],
                self.nodes[at].copy(),
                self._contributors.nodes[:, at],
            )
            for at in range(len(self.nodes))
        ]
        return [*new, *self._waiting]

    def _keep(
        self,
        level: Level,
        gains: npt.NDArray[np.float64],
        totals: Int64,
        bounds: npt.NDArray[np.float64],
        children: Int64,
    ) -> Level:
        """Round what is to be rounded, and keep the level for the tree; leaves that `fill` gives a value have 0 until then."""
        if self._parameters.quantiles:
            level = level.with_leaves(np.zeros(level.leaves, np.float32))
        if self._leaf_bits is not None:
            leaf, child_leaf = rounded(level.leaf, self._leaf_bits), rounded(level.child_leaf, self._leaf_bits)
            build_left = np.where(level.build_left == BOTH_LEAVES, level.build_left, 1).astype(np.uint8)
            level = level._replace(leaf=leaf, child_leaf=child_leaf, build_left=build_left)
        self._decided.append(_Decided(level, gains, totals, bounds, children))
        return level

    def _leaf_values(self, totals: Int64, bounds: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """Values of leaves with these totals, int64 (n, 2), and bounds, float64 (n, 2) or (0, 2) for none."""
        values = np.empty(len(totals), np.float32)
        splitting.leaf_weights(totals, self._rule_array, bounds, values)
        return values * np.float32(self._eta)

    def _category_bits(
        self, features: npt.NDArray[np.integer[Any]], chosen: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """`Level.categories` of the splits of these features; chosen: uint8 (splits, category bytes)."""
        return (
            NO_CATEGORIES if not chosen.size else np.asarray(_packed_bits(features, chosen, self._rules.n_categories))
        )

    def _child_bounds(
        self, found: Int64, totals: Int64, bounds: npt.NDArray[np.float64], where: Int64
    ) -> npt.NDArray[np.float64]:
        """Bounds on the weights of the children of the nodes at `where`: float64 (2 splits, 2), or (0, 2) for none."""
        if not self._rules.bounded:
            return _NO_BOUNDS
        of_splits = found[where], totals[where], bounds[where]
        return np.asarray(guided_search.child_bounds(*of_splits, self._rules.monotone, self._rule_array))

    def go_on(self) -> None:
        """Go to the level below the one that was decided, which was not the last."""
        where, self._build_left, children, bounds = self._below
        self._steps += 1
        if self._parameters.grow_policy == "depthwise":
            self._depth += 1
            self._parents, self._parent_of = self.nodes, where
            own = self._contributors.nodes
        else:
            self._steps = 1  # its nodes were copied: the same memory serves every pair
            self._parent_of, own = np.zeros(1, np.int64), self._own_parents
        self._contributors.start_level(len(children), own)
        self._node_columns.advance(self._decided[-1].level)
        self._start_level(children, bounds)

    @property
    def n_leaves(self) -> int:
        """Leaves of a tree that is decided to its last level."""
        return sum(decided.level.leaves for decided in self._decided)

    def fill(self, quantiles: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Give the leaves of such a tree these quantiles, times eta, as values; float32 (leaves,), both."""
        values: npt.NDArray[np.float32] = quantiles * np.float32(self._eta)
        levels = filled([decided.level for decided in self._decided], values)
        self._decided = [decided._replace(level=level) for decided, level in zip(self._decided, levels, strict=True)]
        return values

    @cached_property
    def leaves(self) -> Leaves:
        """Of a tree that is decided to its last level."""
        values, hessians = [], []
        for level, _, totals, _, children in self._decided:
            where = level.feature < 0
            values.append(level.leaf[where])
            hessians.append(totals[where, 1])
            if len(level.child_leaf):
                values.append(level.child_leaf)
                hessians.append(children[np.repeat(~level.built, 2), 1])
        return Leaves(np.concatenate(values).astype(np.float64), np.concatenate(hessians) * self._rule.hessian_unit)

    def tree(self, cut_offsets: Int64, cut_values: npt.NDArray[np.float32]) -> Tree:
        """The finished tree, nodes numbered as XGBoost does, thresholds taken from the cuts of each feature."""
        totals = np.concatenate([decided.totals for decided in self._decided])
        inner = np.zeros(len(totals), np.float32)
        bounds = np.concatenate([decided.bounds for decided in self._decided])
        splitting.leaf_weights(totals, self._rule_array, bounds, inner)
        return _assembled(
            [decided.level for decided in self._decided],
            cut_offsets,
            cut_values,
            self._rules.n_categories,
            np.concatenate([decided.gains for decided in self._decided]),
            totals,
            np.concatenate([decided.children for decided in self._decided]),
            inner,
            self._rule.hessian_unit,
        )


NEARER = "give a lower base_score or base_margin_limit, or divide labels and margins by a constant at every party"


def _assembled(
    levels: Sequence[Level],
    cut_offsets: Int64,
    cut_values: npt.NDArray[np.float32],
    n_categories: npt.NDArray[np.int32],
    gains: npt.NDArray[np.float64],
    totals: Int64,
    children: Int64,
    inner: npt.NDArray[np.float32],
    hessian_unit: float,
) -> Tree:
    """The tree of these levels.

    gains, totals, children: as in `_Decided`, all levels' one after the other. inner: float32 (n,), weights of the nodes that split.

    Raises HansaError where a gain is no float32.
    """
    *arrays, firsts = _assemble(
        np.array([len(level.feature) for level in levels]),
        np.array([len(level.build_left) for level in levels]),
        np.array([len(level.nodes) for level in levels]),
        np.concatenate([level.feature for level in levels]),
        np.concatenate([level.bin for level in levels]),
        np.concatenate([level.missing_left for level in levels]),
        np.concatenate([level.leaf for level in levels]),
        np.concatenate([level.build_left for level in levels]),
        np.concatenate([level.child_leaf for level in levels]),
        np.concatenate([level.nodes for level in levels]),
        gains,
        totals,
        children,
        inner,
        hessian_unit,
        cut_offsets,
        cut_values,
        n_categories,
    )
    left, right, parents, indices, conditions, default_left, base, gain, cover = arrays
    if not np.isfinite(gain).all():
        raise HansaError(
            f"a split gains {gains.max():.4g}, beyond float32: margins of some rows (base_score, base margins or start_model) or their "
            f"labels are too far from 0 for their weights; {NEARER}",
            cure=NEARER,
        )
    bits = np.concatenate([level.categories for level in levels])
    categories = {}
    if len(bits):
        nodes, counts, right_ones = (own.tolist() for own in _chosen_categories(bits, firsts, indices, n_categories))
        end = 0
        for node, count in zip(nodes, counts, strict=True):
            categories[node] = tuple(right_ones[end : end + count])
            end += count
    return Tree(left, right, parents, indices, conditions, default_left, base, gain, cover, categories=categories)


@njit(cache=True, nogil=True, error_model="numpy")
def _chosen_categories(bits, firsts, indices, n_categories):  # type: ignore[no-untyped-def]
    """The nodes with a set of categories, how many go right at each, and which, node after node: int64 arrays.

    bits: `Level.categories` of all levels. firsts, indices: of `_assemble`, by node.
    """
    nodes, counts, chosen = (
        np.empty(len(firsts), np.int64),
        np.empty(len(firsts), np.int64),
        np.empty(8 * len(bits), np.int64),
    )
    found, at = 0, 0
    for node in range(len(firsts)):
        if firsts[node] < 0:
            continue
        begin = at
        for category in range(n_categories[indices[node]]):
            if bits[firsts[node] + (category >> 3)] >> np.uint8(category & 7) & 1:
                chosen[at] = category
                at += 1
        nodes[found], counts[found] = node, at - begin
        found += 1
    return nodes[:found], counts[:found], chosen[:at]


@njit(cache=True, nogil=True, error_model="numpy")
def _assemble(  # type: ignore[no-untyped-def]
    sizes, build_sizes, node_sizes, feature, bins, missing_left, leaf, build_left, child_leaf, nodes, gains, totals, children, inner,
    hessian_unit, cut_offsets, cut_values, n_categories,
):  # fmt: skip
    """The first nine fields of `ensemble.Tree`, in its order, and the byte of all levels' `categories` where a node's begin, else -1.

    Nodes are numbered in the order in which they are made, as XGBoost does.

    sizes, build_sizes, node_sizes: int64 (levels,): lengths of each level's feature, build_left and nodes.
    """
    count = 1 + children.shape[0]
    left = np.full(count, -1, np.int32)
    right = np.full(count, -1, np.int32)
    parents = np.full(count, ROOT_PARENT, np.int32)
    indices = np.zeros(count, np.int32)
    conditions = np.zeros(count, np.float32)
    default_left = np.zeros(count, np.uint8)
    base = np.zeros(count, np.float32)
    gain = np.zeros(count, np.float32)
    cover = np.zeros(count, np.float32)
    firsts = np.full(count, -1, np.int64)
    active, following = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    n_active, grown = 1, 1
    at, split, leaves, first, builds, named = 0, 0, 0, 0, 0, 0
    for level in range(sizes.shape[0]):
        last = build_sizes[level] == 0
        waits = np.zeros(n_active, np.bool_)
        if node_sizes[level]:
            waits[:] = True
        n_following = 0
        for i in range(sizes[level]):
            position = i
            if node_sizes[level]:
                position = nodes[named + i]
                waits[position] = False
            node = active[position]
            cover[node] = totals[at, 1] * hessian_unit
            f = feature[at]
            if f < 0:
                conditions[node] = base[node] = leaf[at]
                at += 1
                continue
            base[node] = inner[at]
            left[node], right[node] = grown, grown + 1
            parents[grown] = parents[grown + 1] = node
            indices[node] = f
            default_left[node] = missing_left[at]
            gain[node] = gains[at]
            if n_categories[f]:
                firsts[node] = first
                first += bytes_of(n_categories[f])
            else:
                cut = cut_offsets[f] + bins[at]
                conditions[node] = cut_values[cut] if cut < cut_offsets[f + 1] else ABOVE_ALL
                if bins[at] < 0:
                    conditions[node] = -ABOVE_ALL
            if last or build_left[builds] == BOTH_LEAVES:
                for side in range(2):
                    conditions[grown + side] = base[grown + side] = child_leaf[leaves]
                    cover[grown + side] = children[2 * split + side, 1] * hessian_unit
                    leaves += 1
            else:
                following[n_following], following[n_following + 1] = grown, grown + 1
                n_following += 2
            if not last:
                builds += 1
            grown += 2
            split += 1
            at += 1
        named += node_sizes[level]
        for position in range(n_active):
            if waits[position]:
                following[n_following] = active[position]
                n_following += 1
        n_active = n_following
        active, following = following, active
    return left, right, parents, indices, conditions, default_left, base, gain, cover, firsts


def tree_received(
    levels: Sequence[Level],
    cut_offsets: Int64,
    cut_values: npt.NDArray[np.float32],
    n_categories: npt.NDArray[np.int32],
    statistics: Tree | None = None,
) -> Tree:
    """The tree that a party was told, level by level: splits and leaves as they were applied to its rows.

    Args:
        levels: of the whole tree.
        cut_offsets, cut_values: as for `Grower.tree`. n_categories: int32 (n_features,), of a categorical feature, 0 of another.
        statistics: a tree of as many nodes whose gains, covers and inner nodes' weights are taken over, which no party receives;
            None for none (0).

    Raises:
        DataError: `statistics` has another number of nodes.
    """
    decided = sum(len(level.feature) for level in levels)
    splits = sum(int(np.count_nonzero(level.feature >= 0)) for level in levels)
    if statistics is not None and statistics.num_nodes != 1 + 2 * splits:
        raise DataError(
            f"a tree has {statistics.num_nodes} nodes; the splits and leaves of this run made {1 + 2 * splits}"
        )
    tree = _assembled(
        levels,
        cut_offsets,
        cut_values,
        n_categories,
        np.zeros(decided),
        np.zeros((decided, 2), np.int64),
        np.zeros((2 * splits, 2), np.int64),
        np.zeros(decided, np.float32),
        1.0,
    )
    if statistics is None:
        return tree
    is_split = tree.left_children >= 0
    return replace(
        tree,
        base_weights=np.where(is_split, statistics.base_weights, tree.base_weights),
        loss_changes=np.where(is_split, statistics.loss_changes, tree.loss_changes),
        sum_hessian=statistics.sum_hessian,
    )
