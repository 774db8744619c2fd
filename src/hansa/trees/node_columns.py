"""Which columns each node of a growing tree may be split by: those drawn for it, and those that may meet the ones above it.

Columns are drawn as XGBoost does: `colsample_bytree` of all, `colsample_bylevel` of these for each depth, `colsample_bynode` of these
for each node; by public counters (`sampling`), so that every member can check them. With interaction constraints a node may be split by
what was split above it, and by each set that has all of that in it; at the root by anything (XGBoost's
`FeatureInteractionConstraintHost`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hansa.trees.level import Level
from hansa.trees.sampling import draw_of

Columns = npt.NDArray[np.uint32]


class NodeColumns:
    """The columns of the active nodes, in their order. Both sides keep one.

    Args:
        columns: uint32 (k,), of the tree. tree: its number.
        seed, bylevel, bynode: of the parameters. interactions: bool (sets, n_features), as in `FeatureRules`.
    """

    def __init__(
        self,
        columns: Columns,
        tree: int,
        seed: int,
        bylevel: float,
        bynode: float,
        interactions: npt.NDArray[np.bool_],
    ) -> None:
        self._columns = columns
        self._tree = tree
        self._seed = seed
        self._bylevel = bylevel
        self._bynode = bynode
        self._sets = interactions
        self.restricted = bylevel < 1 or bynode < 1 or len(interactions) > 0
        self._numbers = np.zeros(1, np.int64)
        self._depths = np.zeros(1, np.int64)
        self._above = np.zeros((1, interactions.shape[1]), np.bool_)
        self._grown = 1
        self._of_depth: dict[int, Columns] = {}

    def usable(self, nodes: int) -> npt.NDArray[np.bool_]:
        """Which of the tree's columns the first `nodes` active nodes may be split by: bool (nodes, k); (0, k) where all may."""
        if not self.restricted:
            return np.zeros((0, len(self._columns)), np.bool_)
        found = np.zeros((nodes, len(self._columns)), np.bool_)
        for node in range(nodes):
            found[node] = np.isin(self._columns, self._drawn(int(self._numbers[node]), int(self._depths[node])))
            above = self._above[node]
            if above.any():
                meets = above | self._sets[(self._sets >= above).all(axis=1)].any(axis=0)
                found[node] &= meets[self._columns]
        return found

    def _drawn(self, number: int, depth: int) -> Columns:
        if depth not in self._of_depth:
            key = ("columns of a level", self._seed, self._tree, depth)
            self._of_depth[depth] = draw_of(self._columns, self._bylevel, *key)
        return draw_of(self._of_depth[depth], self._bynode, "columns of a node", self._seed, self._tree, number)

    def advance(self, level: Level) -> None:
        """Go to the nodes that are active below this level."""
        if not self.restricted:
            return
        where = np.flatnonzero(level.feature >= 0)
        splits, built = level.splits, level.built
        left = self._grown + 2 * np.arange(len(splits))
        self._grown += 2 * len(splits)
        waits = level.waiting(len(self._numbers))
        features, parents, left = level.feature[where][built], splits[built], left[built]
        above = self._above[parents]
        if len(self._sets):
            above[np.arange(len(parents)), features] = True
        self._numbers = np.concatenate([np.stack([left, left + 1], 1).ravel(), self._numbers[waits]])
        self._depths = np.concatenate([np.repeat(self._depths[parents] + 1, 2), self._depths[waits]])
        self._above = np.concatenate([np.repeat(above, 2, axis=0), self._above[waits]])

    def allow(self, level: Level) -> bool:
        """Whether each node that splits may be split by its feature, which is one of the tree's."""
        usable = self.usable(len(self._numbers))
        if not len(usable):
            return True
        at = np.searchsorted(self._columns, level.feature[level.feature >= 0])
        return bool(usable[level.splits, at].all())
