"""What an aggregator keeps to go on after its process ended: its state between two trees, as structs of plain bytes and numbers.

Nothing here is any single party's: sums over all parties, trees, and bounds that everybody is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import StateError
from hansa.roles.summed.verified_counts import Named
from hansa.trees.ensemble import TREE_DTYPES, Tree


class Setup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known once the cuts are found.

    Attributes:
        magnitudes, label_sums: int64, the pooled sums of the set-up. offsets: int64, values: float32, has_missing: uint8: the cuts.
        base_scores: of each output.
    """

    magnitudes: bytes
    label_sums: bytes
    base_scores: tuple[float, ...]
    offsets: bytes
    values: bytes
    has_missing: bytes


class NamedChildren(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Children whose rows were asked for with the last splits of trees: the fields of `verified_counts.Named`."""

    tree: int
    step: int
    size: int
    least: bytes
    most: int
    whole: bytes
    within: bytes
    signed: bool
    where: tuple[tuple[int, int, bytes], ...]

    @classmethod
    def of(cls, named: Named) -> NamedChildren:
        """The same as plain numbers and bytes."""
        return cls(
            named.tree,
            named.step,
            named.size,
            named.least.astype(np.int64).tobytes(),
            named.most,
            named.whole.astype(np.int64).tobytes(),
            named.within.astype(np.int64).tobytes(),
            named.signed,
            tuple((tree, level, nodes.astype(np.int64).tobytes()) for tree, level, nodes in named.where),
        )

    def named(self) -> Named:
        """As it was."""
        return Named(
            self.tree,
            self.step,
            self.size,
            int64(self.least),
            self.most,
            int64(self.whole),
            int64(self.within),
            None,
            True,
            self.signed,
            [(tree, level, int64(nodes)) for tree, level, nodes in self.where],
        )


class Snapshot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An aggregator right after it told the cuts, or the last splits of the trees that grew side by side.

    Attributes:
        tree: the first one that comes next. exchanges: so far. gradient_bound: on |g| of any row in it.
        margin_bounds, highest_margins, moved: as the aggregator's, by output. totals: of the round that the tree is in, where it
            began before.
        most: bounds of its totals, where the root came with them; else empty. growing: whether scales went out with the splits.
        history, without_value: of the metrics so far. named: row counts that are owed.
    """

    tree: int
    exchanges: int
    gradient_bound: float
    margin_bounds: tuple[float, ...]
    highest_margins: tuple[float, ...]
    moved: tuple[float, ...]
    totals: tuple[int, ...]
    most: tuple[int, ...]
    growing: bool
    history: dict[str, tuple[float | None, ...]]
    without_value: dict[str, str]
    named: NamedChildren | None


class KeptTrees(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The trees that a checkpoint ends, in their order."""

    trees: tuple[KeptTree, ...]

    @classmethod
    def of(cls, trees: Sequence[Tree]) -> KeptTrees:
        """Trees as plain bytes."""
        return cls(tuple(map(KeptTree.of, trees)))


class KeptTree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tree: its arrays by name, little-endian, and the categories that go right at a node."""

    arrays: dict[str, bytes]
    categories: dict[int, tuple[int, ...]]

    @classmethod
    def of(cls, tree: Tree) -> KeptTree:
        """A tree as plain bytes."""
        names = [field.name for field in fields(Tree) if field.name in TREE_DTYPES]
        return cls({name: getattr(tree, name).tobytes() for name in names}, dict(tree.categories))

    def tree(self) -> Tree:
        """As it was, to the bit. Raises StateError where it is no tree."""
        try:
            arrays: dict[str, Any] = {
                name: np.frombuffer(content, TREE_DTYPES[name]) for name, content in self.arrays.items()
            }
            return Tree(**arrays, categories=self.categories)
        except (KeyError, TypeError, ValueError) as error:
            raise StateError(f"a tree of the state folder is none: {error}") from error


def int64(content: bytes) -> npt.NDArray[np.int64]:
    """An array as it was kept."""
    return np.frombuffer(content, np.int64)


def encode(kept: msgspec.Struct) -> bytes:
    """A struct of this module as bytes."""
    return msgspec.msgpack.encode(kept)
