"""Growing one tree, level by level: the side that holds rows, and the side that sees sums.

Both sides know the same shape. The *active* nodes of a level are the children of the nodes that split in the level above, left
before right, in their parents' order: so pair p of siblings stands at 2 p and 2 p + 1. Rows' side (`RowPartition`): which rows stand in
which node. Sums' side (`Grower`): histograms, splits, leaf weights. Between them pass histograms of one child of each
pair (the lighter by hessian; the other is its parent minus it) and `Level`s of splits: an exchange a level, as long as the scales of a
tree go out with the last splits of the tree before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.errors import DataError
from hansa.trees import histogram, splitting
from hansa.trees.dominance import Contributors
from hansa.trees.ensemble import ROOT_PARENT, Tree
from hansa.trees.histogram import Codes, Int64, Layout
from hansa.trees.objective import Scales
from hansa.trees.parameters import Parameters
from hansa.trees.worker_pool import ALONE, WorkerPool

PARALLEL_CELLS = 40_000
"""Cells of a level below which one thread searches as fast as several."""

ABOVE_ALL = np.float32(3.4028235e38)
"""Threshold of a split that parts present values from missing ones."""


class Level(NamedTuple):
    """What happens to the active nodes of one level.

    Attributes:
        feature: int32 (active,), -1 where the node becomes a leaf.
        bin: int32 (active,): codes up to this one go left.
        missing_left: uint8 (active,).
        leaf: float32 (active,): the leaf's value where feature is -1, else 0.
        build_left: uint8 (splits,): which child of each split is to be built next; empty where the tree ends here.
        child_leaf: float32 (2 splits,): values of the children where they are all leaves, else empty.
    """

    feature: npt.NDArray[np.int32]
    bin: npt.NDArray[np.int32]
    missing_left: npt.NDArray[np.uint8]
    leaf: npt.NDArray[np.float32]
    build_left: npt.NDArray[np.uint8]
    child_leaf: npt.NDArray[np.float32]

    def copy(self) -> Level:
        """The same in arrays of its own."""
        return Level(
            self.feature.copy(),
            self.bin.copy(),
            self.missing_left.copy(),
            self.leaf.copy(),
            self.build_left.copy(),
            self.child_leaf.copy(),
        )

    @property
    def last(self) -> bool:
        """Whether the tree ends with this level."""
        return len(self.build_left) == 0


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
def _advance(  # type: ignore[no-untyped-def]
    codes, missing_code, rows, scratch, starts, ends, feature, bins, missing_left, leaf, child_leaf, last, margins
):  # fmt: skip
    """Part the rows of nodes that split; rows of nodes, and of children, that are leaves get their value.

    Returns:
        Where the children's rows start and end, int64 (2 splits,) each. Where they are leaves (`last`) rows are not parted, and these
        tell no more than how many each has.
    """
    splits = 0
    for node in range(feature.shape[0]):
        splits += feature[node] >= 0
    child_starts, child_ends = np.empty(2 * splits, np.int64), np.empty(2 * splits, np.int64)
    left = 0
    for node in range(feature.shape[0]):
        begin, end = starts[node], ends[node]
        if feature[node] < 0:
            _add_leaf(margins, rows[begin:end], leaf[node])
            continue
        split = feature[node]
        if last:
            lefts = _add_leaves(
                margins, codes[split], rows[begin:end], bins[node], missing_code[split], missing_left[node] != 0,
                child_leaf[left], child_leaf[left + 1],
            )  # fmt: skip
            child_starts[left], child_ends[left] = begin, begin + lefts
            child_starts[left + 1], child_ends[left + 1] = begin + lefts, end
            left += 2
            continue
        middle = histogram.partition_rows(
            codes[split], rows, scratch, begin, end, bins[node], missing_code[split], missing_left[node] != 0
        )
        child_starts[left], child_ends[left] = begin, middle
        child_starts[left + 1], child_ends[left + 1] = middle, end
        left += 2
    return child_starts, child_ends


class RowPartition:
    """Which of a party's rows stand in which active node, and their margins.

    Args:
        codes_by_feature: uint8 or uint16 (n_features, n_rows).
        missing_code: int32 (n_features,): the code that means missing, or -1.
        rows: uint32 (m,): the rows to follow; taken over and reordered.
        margins: float32 (n_rows,): increased by the leaf values as leaves appear.
    """

    def __init__(
        self,
        codes_by_feature: Codes,
        missing_code: npt.NDArray[np.int32],
        rows: npt.NDArray[np.uint32],
        margins: npt.NDArray[np.float32],
    ) -> None:
        self._codes = codes_by_feature
        self._missing_code = missing_code
        self.rows = rows
        self._scratch = np.empty_like(rows)
        self._margins = margins
        self.starts = np.zeros(1, np.int64)
        self.ends = np.full(1, len(rows), np.int64)

    def apply(self, level: Level) -> None:
        """Move rows to the next level's nodes; rows that reach a leaf get its value.

        After a tree's last level `ends - starts` still counts each child's rows.
        """
        self.starts, self.ends = _advance(
            self._codes,
            self._missing_code,
            self.rows,
            self._scratch,
            self.starts,
            self.ends,
            level.feature,
            level.bin,
            level.missing_left,
            level.leaf,
            level.child_leaf,
            level.last,
            self._margins,
        )


LEVEL_RULES = (
    "",
    "a node is split by a feature that this tree may not use",
    "a node is split at a bin that its feature does not have",
    "a leaf value is not finite",
    "the number of nodes that split is not the number of children announced",
    "a flag is neither 0 nor 1",
)


@njit(cache=True, nogil=True, error_model="numpy")
def _broken_rule(feature, bins, missing_left, leaf, build_left, child_leaf, allowed, sizes, splits):  # type: ignore[no-untyped-def]
    found = 0
    for node in range(feature.shape[0]):
        f = feature[node]
        if f < -1 or f >= allowed.shape[0] or (f >= 0 and not allowed[f]):
            return 1
        if f >= 0:
            found += 1
            if bins[node] < 0 or bins[node] >= sizes[f]:
                return 2
        if missing_left[node] > 1:
            return 5
        if not np.isfinite(leaf[node]):
            return 3
    for split in range(build_left.shape[0]):
        if build_left[split] > 1:
            return 5
    for child in range(child_leaf.shape[0]):
        if not np.isfinite(child_leaf[child]):
            return 3
    return 0 if found == splits else 4


def check_level(level: Level, allowed: npt.NDArray[np.bool_], sizes: Int64, splits: int) -> str:
    """The rule that a level breaks, or "".

    Args:
        allowed: bool (n_features,): features that the tree may use. sizes: int64 (n_features,): codes of each, missing not counted.
        splits: how many nodes must split.
    """
    rule = _broken_rule(
        level.feature,
        level.bin,
        level.missing_left,
        level.leaf,
        level.build_left,
        level.child_leaf,
        allowed,
        sizes,
        splits,
    )
    return LEVEL_RULES[rule]


def rounded(values: npt.NDArray[np.float32], bits: int) -> npt.NDArray[np.float32]:
    """Leaf values as the nearest multiples of 2^-bits, ties to even; float32, exact for values whose size is below 2^(24 - bits)."""
    unit = np.float32(2.0**bits)
    nearest: npt.NDArray[np.float32] = np.rint(values * unit) / unit + np.float32(0)  # -0 becomes 0
    return nearest


@njit(cache=True, nogil=True, error_model="numpy")
def nodes_to_build(build_left):  # type: ignore[no-untyped-def]
    """Positions, among the next level's active nodes, of the children that are built: int64 (splits,); build_left uint8 (splits,)."""
    positions = np.empty(build_left.shape[0], np.int64)
    for pair in range(build_left.shape[0]):
        positions[pair] = 2 * pair + (build_left[pair] == 0)
    return positions


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


class Grower:
    """One tree on the side that sees sums: takes the sum of all parties' histograms, finds splits.

    For each level, `add` every party's histograms of the nodes `to_build`, in any order; when `add` says that all are there,
    `decide`, tell the parties, and `go_on` to the next level while they are at work. With one thread each pair of siblings is
    searched as soon as it is complete.

    Args:
        parameters, scales, layout: of this tree.
        has_missing: bool (n_features,).
        buffers: kept from tree to tree.
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
        pool: WorkerPool = ALONE,
        least_hessian: int = 1,
        contributors: int = 0,
        leaf_bits: int | None = None,
    ) -> None:
        self._leaf_bits = leaf_bits
        self._contributors = Contributors(contributors, layout) if contributors else None
        self._pool = pool
        self._parameters = parameters
        self._layout = layout
        self._has_missing = has_missing
        self._buffers = buffers
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
        codes = int(np.diff(layout.offsets.astype(np.int64)).max()) if len(layout.columns) else 1
        self._scratch = np.empty((pool.threads, codes))
        self._planes = scales.planes
        self._depth = 0
        self._parents = np.empty((0, self._planes, layout.cells), np.int64)
        self._parent_of = np.zeros(0, np.int64)
        self._build_left = np.zeros(0, np.uint8)
        self._levels: list[tuple[Level, npt.NDArray[np.float64], Int64]] = []
        self._start_level(np.zeros((1, 2), np.int64))

    def _start_level(self, totals: Int64) -> None:
        active = len(totals)
        self.nodes = self._buffers.get(self._depth, (active, self._planes, self._layout.cells))
        self.to_build = nodes_to_build(self._build_left) if self._depth else np.zeros(1, np.int64)
        self._totals = totals
        self._gains = np.zeros(active)
        self._found = np.full((active, 5), -1, np.int64)
        self._taken = np.zeros(len(self.to_build), np.int64)
        self._complete = 0

    def add(self, first: int, part: Int64, parties: int, party: int = 0) -> bool:
        """Add one party's histograms of the built nodes first, first + 1, ...; int64 (m, planes, cells).

        Args:
            parties: how many there are. party: which of them this is; told apart only under the rule of dominance.

        Returns:
            Whether all parties' parts of all built nodes are there, and `next_level` may be called.
        """
        if self._contributors is not None:
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
        if self._complete < len(self.to_build):
            return False
        if not at_once:
            self._finish(0, len(self.to_build), self._pool)
        return True

    def _finish(self, first: int, last: int, pool: WorkerPool) -> None:
        """Search the built children first to last, and their siblings."""
        splitting.finish_nodes(
            first,
            last,
            self.nodes,
            self.to_build,
            self._parents,
            self._parent_of,
            self._layout.columns,
            self._layout.offsets,
            self._has_missing,
            self._totals,
            self._rule_array,
            self._scratch,
            self._gains,
            self._found,
            pool=pool,
        )
        if self._contributors is not None:
            built = self.to_build[first:last]
            parents = self._parent_of[first:last] if self._depth else np.zeros_like(built)
            found = (self.nodes, self._totals, self._has_missing, self._rule_array, self._gains, self._found)
            self._contributors.search(built, parents, *found)

    def decide(self) -> Level:
        """Decide the level whose nodes are all finished."""
        gains, found, totals = self._gains, self._found, self._totals
        deepest = self._depth + 1 == self._parameters.max_depth
        feature, bins, missing_left, where, children, leaf, build_left, child_leaf = splitting.decide_level(
            gains, found, totals, self._parameters.gamma, self._rule_array, self._parameters.eta, deepest
        )
        if self._leaf_bits is not None:
            leaf, child_leaf = rounded(leaf, self._leaf_bits), rounded(child_leaf, self._leaf_bits)
            build_left[:] = 1
        level = Level(feature, bins, missing_left, leaf, build_left, child_leaf)
        self._levels.append((level, gains, totals))
        if level.last:
            if len(where):
                self._levels.append((_all_leaves(level.child_leaf), np.zeros(len(children)), children))
        else:
            self._next = where, level.build_left, children
        return level

    def go_on(self) -> None:
        """Go to the level below the one that was decided, which was not the last."""
        self._parents = self.nodes
        self._parent_of, self._build_left, children = self._next
        self._depth += 1
        if self._contributors is not None:
            self._contributors.start_level(len(children))
        self._start_level(children)

    def leaves(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Of a tree that is decided to its last level: sizes of its leaves' values, and sums of h of their rows, float64 (leaves,).

        A row's h counts with an error of at most one unit of its scale.
        """
        where = np.concatenate([level.feature for level, _, _ in self._levels]) < 0
        values = np.concatenate([level.leaf for level, _, _ in self._levels])[where]
        totals = np.concatenate([totals for _, _, totals in self._levels])[where, 1]
        return np.abs(values.astype(np.float64)), totals * self._rule.hessian_unit

    def highest_leaf(self) -> float:
        """Of a tree that is decided to its last level: the largest value of a leaf."""
        return max(float(level.leaf[level.feature < 0].max(initial=-np.inf)) for level, _, _ in self._levels)

    def tree(self, cut_offsets: Int64, cut_values: npt.NDArray[np.float32]) -> Tree:
        """The finished tree, nodes numbered as XGBoost does, thresholds taken from the cuts of each feature."""
        levels = [level for level, _, _ in self._levels]
        totals = np.concatenate([totals for _, _, totals in self._levels])
        base = np.empty(len(totals), np.float32)
        splitting.leaf_weights(totals, self._rule_array, base)
        return Tree(
            *_assemble(
                np.array([len(level.feature) for level in levels]),
                np.concatenate([level.feature for level in levels]),
                np.concatenate([level.bin for level in levels]),
                np.concatenate([level.missing_left for level in levels]),
                np.concatenate([level.leaf for level in levels]),
                np.concatenate([gains for _, gains, _ in self._levels]),
                totals,
                base,
                self._rule.hessian_unit,
                cut_offsets,
                cut_values,
            )
        )


@njit(cache=True, nogil=True, error_model="numpy")
def _assemble(  # type: ignore[no-untyped-def]
    sizes, feature, bins, missing_left, leaf, gains, totals, base, hessian_unit, cut_offsets, cut_values
):  # fmt: skip
    """The fields of `ensemble.Tree`, in its order, from all levels' nodes one level after the other.

    sizes: int64 (levels,): nodes of each. base: float32 (nodes,): weights of the nodes that split; written for leaves.
    """
    count = feature.shape[0]
    left = np.full(count, -1, np.int32)
    right = np.full(count, -1, np.int32)
    parents = np.full(count, ROOT_PARENT, np.int32)
    indices = np.zeros(count, np.int32)
    conditions = leaf.copy()
    default_left = np.zeros(count, np.uint8)
    gain = np.zeros(count, np.float32)
    cover = np.empty(count, np.float32)
    node = 0
    begin = 0
    for level in range(sizes.shape[0]):
        child = begin + sizes[level]
        begin = child
        while node < begin:
            cover[node] = totals[node, 1] * hessian_unit
            split = feature[node]
            if split < 0:
                base[node] = leaf[node]
            else:
                left[node], right[node] = child, child + 1
                parents[child] = parents[child + 1] = node
                child += 2
                indices[node] = split
                default_left[node] = missing_left[node]
                gain[node] = gains[node]
                cut = cut_offsets[split] + bins[node]
                conditions[node] = cut_values[cut] if cut < cut_offsets[split + 1] else ABOVE_ALL
            node += 1
    return left, right, parents, indices, conditions, default_left, base, gain, cover


def _all_leaves(values: npt.NDArray[np.float32]) -> Level:
    """A level of leaves only."""
    count = len(values)
    return Level(
        feature=np.full(count, -1, np.int32),
        bin=np.zeros(count, np.int32),
        missing_left=np.zeros(count, np.uint8),
        leaf=values,
        build_left=np.zeros(0, np.uint8),
        child_leaf=np.zeros(0, np.float32),
    )


def tree_received(
    levels: Sequence[Level], cut_offsets: Int64, cut_values: npt.NDArray[np.float32], statistics: Tree | None = None
) -> Tree:
    """The tree that a party was told, level by level: splits and leaves as they were applied to its rows.

    Args:
        levels: of the whole tree, the last one with its leaves.
        cut_offsets, cut_values: as for `Grower.tree`.
        statistics: a tree of as many nodes whose gains, covers and inner nodes' weights are taken over, which no party receives;
            None for none (0).

    Raises:
        DataError: `statistics` has another number of nodes.
    """
    levels = [*levels, _all_leaves(levels[-1].child_leaf)] if len(levels[-1].child_leaf) else list(levels)
    nodes = sum(len(level.feature) for level in levels)
    if statistics is not None and statistics.num_nodes != nodes:
        raise DataError(f"a tree has {statistics.num_nodes} nodes; the splits and leaves of this run made {nodes}")
    tree = Tree(
        *_assemble(
            np.array([len(level.feature) for level in levels]),
            np.concatenate([level.feature for level in levels]),
            np.concatenate([level.bin for level in levels]),
            np.concatenate([level.missing_left for level in levels]),
            np.concatenate([level.leaf for level in levels]),
            np.zeros(nodes),
            np.zeros((nodes, 2), np.int64),
            np.zeros(nodes, np.float32),
            1.0,
            cut_offsets,
            cut_values,
        )
    )
    if statistics is None:
        return tree
    splits = tree.left_children >= 0
    return replace(
        tree,
        base_weights=np.where(splits, statistics.base_weights, tree.base_weights),
        loss_changes=np.where(splits, statistics.loss_changes, tree.loss_changes),
        sum_hessian=statistics.sum_hessian,
    )
