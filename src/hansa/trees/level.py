"""What happens to active nodes of a growing tree, as the side that sees sums tells it to those that hold rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BOTH_LEAVES = 2
"""In `Level.build_left`, of a split whose children are both leaves."""

ALL_NODES = np.zeros(0, np.int32)
"""`Level.nodes` where every active node is decided, in their order."""


NO_CATEGORIES = np.zeros(0, np.uint8)
"""`Level.categories` where no node is split by a categorical feature."""

NOTHING_BUILT = np.zeros(0, np.uint8)
"""`Level.build_left` where the tree ends."""

NO_CHILD_LEAVES = np.zeros(0, np.float32)
"""`Level.child_leaf` where no child is a leaf."""


class Level(NamedTuple):
    """What happens to active nodes: n of them are decided, the others wait.

    Attributes:
        feature: int32 (n,), -1 where the node becomes a leaf.
        bin: int32 (n,): codes up to this one go left, with -1 missing values alone; of a categorical feature how many categories go
            right.
        missing_left: uint8 (n,).
        leaf: float32 (n,): the leaf's value where feature is -1, else 0.
        build_left: uint8 (splits,): which child of each split is to be built next, or `BOTH_LEAVES`; empty where the tree ends here,
            and all children are leaves.
        child_leaf: float32 (2 m,): values of the children of the m splits whose children are leaves.
        nodes: int32 (n,): positions of the decided nodes among the active ones, those that split in the order in which they do;
            empty where all are decided, in their order.
        categories: uint8: for each split of a categorical feature in turn, a bit for each of its categories, eight a byte, the lowest
            bit first: whether it goes right.
    """

    feature: npt.NDArray[np.int32]
    bin: npt.NDArray[np.int32]
    missing_left: npt.NDArray[np.uint8]
    leaf: npt.NDArray[np.float32]
    build_left: npt.NDArray[np.uint8]
    child_leaf: npt.NDArray[np.float32]
    nodes: npt.NDArray[np.int32] = ALL_NODES
    categories: npt.NDArray[np.uint8] = NO_CATEGORIES

    def copy(self) -> Level:
        """The same in arrays of its own."""
        return Level._make(array.copy() for array in self)

    @property
    def last(self) -> bool:
        """Whether the tree ends with this level."""
        return len(self.build_left) == 0

    @property
    def splits(self) -> npt.NDArray[np.int64]:
        """Positions, among the active nodes, of those that split, in the order in which they do: int64 (splits,)."""
        where = np.flatnonzero(self.feature >= 0)
        return self.nodes[where].astype(np.int64) if len(self.nodes) else where

    @property
    def built(self) -> npt.NDArray[np.bool_]:
        """Whether a child of each split is built next: bool (splits,)."""
        if self.last:
            return np.zeros(int(np.count_nonzero(self.feature >= 0)), np.bool_)
        return np.not_equal(self.build_left, BOTH_LEAVES)

    @property
    def leaves(self) -> int:
        """How many leaves appear."""
        return int(np.count_nonzero(self.feature < 0)) + len(self.child_leaf)

    def active_below(self, active: int) -> int:
        """How many nodes are active once this level is applied to so many."""
        waiting = active - len(self.nodes) if len(self.nodes) else 0
        return 2 * int(np.count_nonzero(self.built)) + waiting

    def with_leaves(self, values: npt.NDArray[np.float32]) -> Level:
        """The same with these values of its leaves, float32 (leaves,): first of nodes that are decided, in their order, then of
        children."""
        decided = self.feature < 0
        leaf = np.zeros(len(self.feature), np.float32)
        first = int(np.count_nonzero(decided))
        leaf[decided] = values[:first]
        return self._replace(leaf=leaf, child_leaf=np.asarray(values[first:], np.float32))

    def waiting(self, active: int) -> npt.NDArray[np.int64]:
        """Positions of the active nodes that are not decided, int64."""
        if not len(self.nodes):
            return np.zeros(0, np.int64)
        waits = np.ones(active, np.bool_)
        waits[self.nodes] = False
        return np.flatnonzero(waits)


def filled(levels: Sequence[Level], values: npt.NDArray[np.float32]) -> tuple[Level, ...]:
    """A tree's levels with these values of its leaves, float32 (all leaves,), level after level."""
    ends = np.cumsum([level.leaves for level in levels])
    return tuple(
        level.with_leaves(values[end - level.leaves : end]) for level, end in zip(levels, ends.tolist(), strict=True)
    )
