"""The trees that grow side by side at the aggregator: what is asked for, what came of it, and the splits that are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import QuantiseGradients, SplitNodes, TreeScales, TreeSplits
from hansa.roles.summed.features import node_columns
from hansa.roles.summed.margin_bounds import TOTALS
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.setup_sums import SetupSums
from hansa.roles.summed.side_by_side import Shape, nodes_expected, trees_at_once, whole_nodes
from hansa.trees import histogram, objective
from hansa.trees.growth import Buffers, Grower
from hansa.trees.guided_search import FeatureRules
from hansa.trees.least_rows import heaviest_row, hessian_of
from hansa.trees.level import Level
from hansa.trees.losses import LOSSES
from hansa.trees.sampling import draw_columns
from hansa.trees.worker_pool import WorkerPool

Decided = list[tuple["GrowingTree", Level]]
"""Trees, and the level of splits that was decided of each."""


@dataclass
class GrowingTree:
    """A tree that grows: its number, of all trees of the run, and the output whose margins it moves; the scales of its sums, and its
    columns, uint32; whether its last level was decided. grower: from when its root is asked for.
    """

    number: int
    output: int
    scales: objective.Scales
    columns: npt.NDArray[np.uint32]
    ended: bool = False

    grower: Grower = field(init=False)


class GrowingTrees:
    """The trees that grow side by side.

    Args:
        rules, cuts: of the features, with categories. setup: what was found before. n_rows: that all parties train on; most_rows: of
            the party that has the most, held-out ones included. parties: whose rows they are; senders: whose sums come.

    Attributes:
        trees: all of them. level: that is asked for.
    """

    def __init__(
        self,
        plan: Plan,
        rules: FeatureRules,
        cuts: Cuts,
        setup: SetupSums,
        pool: WorkerPool,
        n_rows: int,
        most_rows: int,
        parties: int,
        senders: tuple[str, ...],
    ) -> None:
        self.trees: list[GrowingTree] = []
        self.level = 0
        self._plan = plan
        self._rules = rules
        self._cuts = cuts
        self._histogram_bits = setup.histogram_bits
        self._leaf_bits = setup.leaf_bits
        self._pool = pool
        self._n_rows = n_rows
        self._parties = parties
        self._senders = senders
        self._bin_offsets = np.concatenate([[0], np.cumsum(cuts.n_codes)]).astype(np.int64)
        planes = 1 if self._histogram_bits == 32 else 2
        self._at_once = trees_at_once(plan, int(self._bin_offsets[-1]), planes, most_rows)
        self._buffers: list[Buffers] = []
        self._layout: histogram.Layout | None = None
        self._level_asked_for: tuple[list[Grower], list[Shape]] | None = None
        self._next_node: dict[str, int] = {}
        self._zero = 0

    def scale(self, first: int, totals: list[int], units: tuple[int, int]) -> QuantiseGradients:
        """Ask for the roots' histograms of the trees that come next, from number `first` on, at scales that suit these totals of the
        round, by output and in these units, or upper bounds of them; `start` then takes them.
        """
        parameters = self._plan.parameters
        per_round = parameters.trees_per_round
        of_round = first % per_round
        if self._leaf_bits is not None:  # the scales say no more of the leaves' sums than a power of two
            totals = [1 << (total - 1).bit_length() if total > 0 else total for total in totals]
        short = LOSSES[parameters.objective].gradients == "hinge" or parameters.objective == "reg:absoluteerror"
        n_features = len(self._plan.schema.features)
        self.trees = []
        for place in range(min(self._at_once, per_round - of_round)):
            number, output = first + place, (of_round + place) // parameters.num_parallel_tree
            gradient_sum, hessian_sum = totals[TOTALS * output : TOTALS * (output + 1)]
            scales = objective.scales(gradient_sum, hessian_sum, *units, self._n_rows, self._histogram_bits, short)
            columns = draw_columns(n_features, parameters.colsample_bytree, parameters.seed, number)
            self.trees.append(GrowingTree(number, output, scales, columns))
        self.level = -1
        self.start_level()
        root, *beside = (
            TreeScales(tree.number, tree.scales.gradient, tree.scales.hessian, messages.to_tensor(tree.columns))
            for tree in self.trees
        )
        return QuantiseGradients(root.tree, root.gradient_scale, root.hessian_scale, root.columns, tuple(beside))

    def start(self, heaviest: float) -> None:
        """The scales are out: await the roots. heaviest: what no row's hessian exceeds."""
        plan, parameters = self._plan, self._plan.parameters
        for place, tree in enumerate(self.trees):
            if self._layout is None or not np.array_equal(tree.columns, self._layout.columns):
                self._layout = histogram.layout_of(self._bin_offsets, tree.columns)
            if place == len(self._buffers):
                self._buffers.append(Buffers())
            tree.grower = Grower(
                parameters,
                tree.scales,
                self._layout,
                self._cuts.has_missing,
                self._buffers[place],
                self._rules,
                node_columns(plan, self._rules, tree.columns, tree.number),
                self._pool,
                hessian_of(plan.min_child_rows, heaviest_row(heaviest, tree.scales)),
                self._parties if plan.dominance else 0,
                self._leaf_bits,
            )
        self._level_asked_for = None

    def start_level(self) -> None:
        """Histograms of the next level are asked for."""
        self.level += 1
        self._next_node = dict.fromkeys(self._senders, 0)
        self._zero = 0

    @property
    def asked_for(self) -> tuple[list[Grower], list[Shape]]:
        """The trees whose histograms are asked for, in their order, and the shapes of these; worked out once a level."""
        if self._level_asked_for is None:
            growers = [tree.grower for tree in self.trees if not tree.ended]
            shapes = [(len(grower.to_build), *grower.node_shape) for grower in growers]
            self._level_asked_for = growers, shapes
        return self._level_asked_for

    @property
    def growing(self) -> list[GrowingTree]:
        """Those whose last level was not decided yet."""
        return [tree for tree in self.trees if not tree.ended]

    @property
    def complete(self) -> bool:
        """Whether all histograms are there."""
        return all(grower.complete for grower in self.asked_for[0])

    @property
    def cancels(self) -> bool:
        """Whether the masks of them, if any, cancelled."""
        return self._zero % 2**64 == 0

    def waiting(self) -> list[str]:
        """Whose histograms are missing."""
        built = sum(nodes for nodes, *_ in self.asked_for[1])
        return sorted(member for member, count in self._next_node.items() if count != built)

    def nodes_of(self, member: str, first: int, values: Int64) -> list[tuple[int, int, Int64]]:
        """The histograms of whole nodes that a member's fragment from node `first` on holds: by tree its place, its first node and
        int64 (m, planes, cells). Empty where the fragment is another than the one that comes next.
        """
        _, shapes = self.asked_for
        nodes = whole_nodes(shapes, self._next_node[member], len(values))
        if first != self._next_node[member]:
            return []
        parts, begin = [], 0
        for place, at, count in nodes:
            _, planes, cells = shapes[place]
            end = begin + count * planes * cells
            parts.append((place, at, values[begin:end].reshape(count, planes, cells)))
            begin = end
        return parts

    def expected_of(self, member: str, first: int, values: Int64) -> str:
        """Why `nodes_of` gave nothing."""
        return nodes_expected(self.asked_for[1], self._next_node[member], first, len(values))

    def add(self, member: str, parts: Sequence[tuple[int, int, Int64]], zero: int) -> None:
        """Add a member's parts, and their zero word."""
        self._next_node[member] += sum(len(part) for _, _, part in parts)
        self._zero += zero
        party = self._senders.index(member)
        for place, at, part in parts:
            self.asked_for[0][place].add(at, part, len(self._senders), party)

    def decide(self) -> Decided:
        """The splits of the level that is there."""
        decided = [(tree, tree.grower.decide()) for tree in self.growing]
        for tree, level in decided:
            tree.ended = level.last
        return decided

    def go_on(self) -> None:
        """The splits are out: prepare for the next level, while the parties are at work."""
        for tree in self.growing:
            tree.grower.go_on()
        self._level_asked_for = None


def split_nodes(decided: Decided, number: int, gradient_bound: float, then: QuantiseGradients | None) -> SplitNodes:
    """These levels of number `number` as they are told."""
    first, *beside = (
        TreeSplits(
            tree=tree.number,
            feature=messages.to_tensor(level.feature),
            bin=messages.to_tensor(level.bin),
            missing_left=messages.to_tensor(level.missing_left),
            leaf=messages.to_tensor(level.leaf),
            build_left=messages.to_tensor(level.build_left),
            child_leaf=messages.to_tensor(level.child_leaf),
            nodes=messages.to_tensor(level.nodes),
            categories=messages.to_tensor(level.categories),
        )
        for tree, level in decided
    )
    return SplitNodes(
        level=number, gradient_bound=gradient_bound, then=then, beside=tuple(beside), **msgspec.structs.asdict(first)
    )
