"""The trees that grow side by side, as a party is told of them: each message is held to the plan and to what came before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import QuantiseGradients, SplitNodes, TreeScales, TreeSplits
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.features import node_columns
from hansa.roles.summed.party_rows import Int64, PartyRows
from hansa.trees import histogram, objective
from hansa.trees.growth import check_level, rounded
from hansa.trees.guided_search import FeatureRules
from hansa.trees.level import ALL_NODES, NO_CATEGORIES, Level
from hansa.trees.node_columns import NodeColumns
from hansa.trees.sampling import draw_columns


@dataclass
class ToldTree:
    """A tree that grows, as far as this party was told of it.

    Attributes:
        number: of all trees of the run. place: among those that grow side by side. output: whose margins it moves.
        rows: of this party that it trains on.
        layout, allowed: of its columns; bool (n_features,). node_columns: of its nodes.
        active: nodes whose splits come next. depths: int64 (active,), of these. leaves: so far, those counted that may be split.
        found: leaves that were told. levels: of a receiver, what was told. ended: whether its last level was.
    """

    number: int
    place: int
    output: int
    rows: int
    layout: histogram.Layout
    allowed: npt.NDArray[np.bool_]
    node_columns: NodeColumns
    active: int = 1
    depths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    leaves: int = 1
    found: int = 0
    levels: list[Level] = field(default_factory=list)
    ended: bool = False


Asked = list[tuple[ToldTree, Int64]]
"""Trees, and the positions of active nodes whose histograms are asked for."""


def some_of(asked: Asked, first: int, count: int) -> Asked:
    """Of all these nodes, one tree's behind the other's, `count` from `first` on, or those that there are."""
    found = []
    for tree, positions in asked:
        own = positions[max(first, 0) : max(first + count, 0)]
        if len(own):
            found.append((tree, own))
        first -= len(positions)
    return found


class ToldTrees:
    """The trees that grow side by side.

    Args:
        rules, cuts: of the features, with categories. planes: int64 words of a row's gradient and hessian. at_once: how many trees
            grow side by side at most. leaf_bits: fraction bits of leaf values, where the plan rounds them.

    Attributes:
        trees: all of them. level: that is told next.
    """

    def __init__(
        self,
        asker: Asker,
        plan: Plan,
        rules: FeatureRules,
        cuts: Cuts,
        planes: int,
        at_once: int,
        leaf_bits: int | None,
    ) -> None:
        self.trees: list[ToldTree] = []
        self.level = 0
        self._asker = asker
        self._plan = plan
        self._rules = rules
        self._cuts = cuts
        self._planes = planes
        self._at_once = at_once
        self._leaf_bits = leaf_bits
        self._present = cuts.n_codes - cuts.has_missing
        self._layout = histogram.layout_of(cuts.code_offsets, np.zeros(0, np.uint32))
        self._allowed = np.zeros(len(plan.schema.features), np.bool_)

    @property
    def growing(self) -> list[ToldTree]:
        """Those whose last level was not told yet."""
        return [tree for tree in self.trees if not tree.ended]

    def start(self, rows: PartyRows) -> None:
        """All drawn rows at the roots of the trees that grow side by side."""
        parameters = self._plan.parameters
        per_round = parameters.trees_per_round
        of_round = self._asker.tree % per_round
        n_features = len(self._plan.schema.features)
        self.trees = []
        for place in range(min(self._at_once, per_round - of_round)):
            number, output = self._asker.tree + place, (of_round + place) // parameters.num_parallel_tree
            columns = draw_columns(n_features, parameters.colsample_bytree, parameters.seed, number)
            if not np.array_equal(columns, self._layout.columns):
                self._layout = histogram.layout_of(self._cuts.code_offsets, columns)
                self._allowed = np.isin(np.arange(n_features), columns)
            if place or of_round:
                rows.draw(place, number)
            of_tree = rows.start_tree(place, output)
            of_nodes = node_columns(self._plan, self._rules, columns, number)
            self.trees.append(ToldTree(number, place, output, of_tree, self._layout, self._allowed, of_nodes))

    def scales(
        self, message: QuantiseGradients, totals: Sequence[int], units: tuple[int, int]
    ) -> list[objective.Scales]:
        """What is told of all trees at their roots. totals: of the round, by output; units: of these. Raises ProtocolError."""
        self._expect("scales for", message, self.trees)
        if message.tree >= self._plan.parameters.rounds * self._plan.parameters.trees_per_round:
            raise self._asker.broken(f"a tree after the plan's {self._plan.parameters.rounds} rounds")
        return [self._scales_of(tree, own, totals, units) for tree, own in zip(self.trees, message.trees, strict=True)]

    def _scales_of(
        self, tree: ToldTree, message: QuantiseGradients | TreeScales, totals: Sequence[int], units: tuple[int, int]
    ) -> objective.Scales:
        """What is told of a tree at its root."""
        columns = self._asker.array(message, "columns", np.uint32, None)
        if not np.array_equal(columns, tree.layout.columns):
            raise self._asker.broken("columns are not those that the plan's seed draws for this tree")
        scales = objective.Scales(message.gradient_scale, message.hessian_scale, self._planes)
        with self._asker.blaming():
            gradient_sum, hessian_sum = totals[2 * tree.output : 2 * tree.output + 2]
            objective.check_scales(scales, gradient_sum, hessian_sum, *units)
        return scales

    def _expect(self, what: str, message: QuantiseGradients | SplitNodes, trees: Sequence[ToldTree]) -> None:
        """Refuse what is told of other trees than these."""
        told = [own.tree for own in message.trees]
        if told != [tree.number for tree in trees]:
            which, expected = (", ".join(map(str, numbers)) for numbers in (told, [tree.number for tree in trees]))
            raise self._asker.broken(f"{what} tree {which}; expected tree {expected}")

    def levels_told(self, message: SplitNodes) -> list[tuple[ToldTree, Level]]:
        """The trees that grow, and what is told of each as views into the frame. Raises ProtocolError."""
        growing = self.growing
        self._expect("splits for", message, growing)
        if message.level != self.level:
            raise self._asker.broken(
                f"splits for level {message.level}; expected level {self.level} of tree {self._asker.tree}"
            )
        return [(tree, self._read_level(own, tree)) for tree, own in zip(growing, message.trees, strict=True)]

    def _read_level(self, message: SplitNodes | TreeSplits, tree: ToldTree) -> Level:
        """What is told of a tree as a `Level` of views into the frame, refused unless it fits the nodes that are there."""
        active = tree.active
        sender = self._plan.aggregator
        guided = self._plan.parameters.grow_policy == "lossguide"

        def read(name: str, dtype: type[np.generic], count: int | None) -> Any:
            return messages.to_array(sender, f"SplitNodes.{name}", getattr(message, name), dtype, (count,))

        # Where levels are whole and no feature is categorical both are empty, and not read: this is done at every level.
        nodes = read("nodes", np.int32, None if guided else 0) if guided or len(message.nodes.data) else ALL_NODES
        unordered = len(message.categories.data) > 0
        decided = len(nodes) if guided else active
        level = Level(
            feature=read("feature", np.int32, decided),
            bin=read("bin", np.int32, decided),
            missing_left=read("missing_left", np.uint8, decided),
            leaf=read("leaf", np.float32, decided),
            build_left=read("build_left", np.uint8, None),
            child_leaf=read("child_leaf", np.float32, None),
            nodes=nodes,
            categories=read("categories", np.uint8, None) if unordered else NO_CATEGORIES,
        )
        broken = check_level(
            level, tree.allowed, self._present, self._rules.n_categories, active
        ) or self._grown_wrongly(level, tree)
        if broken:
            raise self._asker.broken(broken)
        if self._plan.parameters.quantiles and (level.leaf.any() or level.child_leaf.any()):
            raise self._asker.broken("a leaf has a value before the residuals in it were counted")
        bits = self._leaf_bits
        if bits is not None and any(
            (rounded(values, bits) != values).any() for values in (level.leaf, level.child_leaf)
        ):
            raise self._asker.broken(f"a leaf value is finer than the {bits} fraction bits that the plan leaves to it")
        return level

    def _grown_wrongly(self, level: Level, tree: ToldTree) -> str:
        """The rule of the plan's limits on trees that a level breaks, or ""; the depths of the nodes that are active below it."""
        parameters = self._plan.parameters
        if parameters.grow_policy == "depthwise" and not parameters.max_leaves and not tree.node_columns.restricted:
            if not level.last and self.level + 1 >= parameters.max_depth:
                return f"the tree grows beyond max_depth {parameters.max_depth}"
            both = len(level.child_leaf) > 0 and not level.last
            return "children of one level are leaves and are built" if both else ""
        depths, built = tree.depths[level.splits] + 1, level.built
        tree.leaves += len(depths)
        if parameters.max_depth and (depths + built).max(initial=0) > parameters.max_depth:
            return f"the tree grows beyond max_depth {parameters.max_depth}"
        if 0 < parameters.max_leaves < tree.leaves + bool(built.any()):
            return f"the tree grows beyond max_leaves {parameters.max_leaves}"
        if parameters.grow_policy == "depthwise" and not (level.last or built.all()):
            return "children of one level are leaves and are built"
        if not tree.node_columns.allow(level):
            return "a node is split by a feature that was not drawn for it, or may not meet those above it"
        tree.depths = np.concatenate([np.repeat(depths[built], 2), tree.depths[level.waiting(len(tree.depths))]])
        return ""

    def words(self, tree: ToldTree, positions: npt.NDArray[np.int64]) -> int:
        """Of the histograms of so many nodes of a tree."""
        return len(positions) * self._planes * tree.layout.cells
