"""What sums give away: how much of the rows an aggregator can put together that sees nothing but sums.

    python -m benchmarks.bench_reconstruction [--quick] [--json]

The attack needs no keys and no lies: it reads one honest training. A histogram cell with one row holds that
row's g and h, and of the logistic loss h = |g| (1 - |g|), which sums of several rows do not satisfy: so cells
with one row are known by it. The same g in cells of several features of one node is the same row: the row's
bins are linked, and the sign of g is its label. Whose row it is stays hidden.

The sums of a federated run of one party that holds all rows are, to the bit, what an aggregator sees of any
number of parties in secure-aggregation mode. The benchmark knows the rows and counts a link only where one
row has exactly these bins and this label; each row is linked within one tree. Following rows from tree to
tree, by the leaf they fall into, would link more: the figures are a lower bound.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.contestants import N_FEATURES, Job, dealt, made_rows, plan_of
from benchmarks.machine import console, described, machine
from hansa.data.binning import bin_rows
from hansa.data.quantiles import Cuts
from hansa.data.source import Rows
from hansa.node.cores import cores
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import Contribution, QuantiseGradients, SplitNodes, UseCuts, decode
from hansa.roles.summed.margin_bounds import TOTALS
from hansa.transport.channel import Frame, Hub, Traffic
from hansa.trees import objective
from hansa.trees.ensemble import base_margin

Int64 = npt.NDArray[np.int64]

BINS = (32, 256)
LEAVES = (1.0, 20.0, 100.0)
TREES = (10, 100)
QUICK_LEAVES, QUICK_TREES = (1.0, 20.0), (5, 10)
ENOUGH = 10
"""Binned values of a row, of N_FEATURES, that count as having linked it."""

SLACK_UNITS = 2.0
"""How far h may be from |g| (1 - |g|), in units of their rounding."""


@dataclass(frozen=True)
class Singles:
    """Cells of one row, as the attack found them; one entry a cell.

    Attributes:
        node, feature, bin: where the cell stands. g: its sum of gradients, in units of the tree's scale.
    """

    node: Int64
    feature: Int64
    bin: Int64
    g: Int64


def find_singles(histograms: Int64, bins: Int64, scale_g: float, scale_h: float) -> Singles:
    """Cells whose sums satisfy h = |g| (1 - |g|) to within rounding.

    Args:
        histograms: int64 (nodes, cells), g in the high 32 bits and h in the low ones.
        bins: int64 (features + 1,), the first cell of each feature.
        scale_g, scale_h: units per unit of g and h, which the aggregator chose.
    """
    g, h = histograms >> 32, histograms & 0xFFFFFFFF
    size = np.abs(g) / scale_g
    rounding = 0.5 + 0.5 * scale_h / scale_g
    alike = np.abs(h - size * (1 - size) * scale_h) <= SLACK_UNITS * rounding
    node, cell = np.nonzero(alike & (g != 0) & (size < 1))
    feature = np.searchsorted(bins, cell, side="right") - 1
    return Singles(node, feature, cell - bins[feature], g[node, cell])


@dataclass(frozen=True)
class Links:
    """Rows as the attack puts them together: entries of `singles`, grouped.

    Attributes:
        singles: the entries kept, sorted by group. group: int64, of each entry. sizes: entries of each group.
        node, g: of each group.
    """

    singles: Singles
    group: Int64
    sizes: Int64
    node: Int64
    g: Int64


def key_of(node: Int64, g: Int64) -> Int64:
    """One number for a node and a g."""
    return (node << 33) + g + (1 << 32)


def link(singles: Singles) -> Links:
    """Cells of one node with the same g, if no feature has two: those of one row, it seems."""
    order = np.lexsort((singles.feature, key_of(singles.node, singles.g)))
    node, feature, bin_, g = (column[order] for column in (singles.node, singles.feature, singles.bin, singles.g))
    key = key_of(node, g)
    twice = np.zeros(len(key), bool)
    twice[1:] = (key[1:] == key[:-1]) & (feature[1:] == feature[:-1])
    kept = ~np.isin(key, key[twice])
    firsts, group, sizes = np.unique(key[kept], return_inverse=True, return_counts=True)
    singles = Singles(node[kept], feature[kept], bin_[kept], g[kept])
    return Links(singles, group, sizes, firsts >> 33, (firsts & ((1 << 33) - 1)) - (1 << 32))


@dataclass(frozen=True)
class Truth:
    """What the benchmark knows and the aggregator does not: each row's codes (rows, features), label, node and g."""

    codes: npt.NDArray[Any]
    label: npt.NDArray[np.float32]
    node: Int64
    g: Int64


def score(links: Links, truth: Truth) -> tuple[Int64, Int64]:
    """(row, values linked) of every link that is right in all its values and in the label.

    A link whose node and g several rows share counts as wrong, whatever its values.
    """
    keys = key_of(truth.node, truth.g)
    order = np.argsort(keys, kind="stable")
    wanted = key_of(links.node, links.g)
    at = np.searchsorted(keys[order], wanted)
    alone = np.searchsorted(keys[order], wanted, side="right") - at == 1
    row = np.where(alone, order[np.minimum(at, len(order) - 1)], -1)
    entries = row[links.group]
    right = truth.codes[entries, links.singles.feature] == links.singles.bin
    all_right = np.bincount(links.group, weights=~right, minlength=len(row)) == 0
    label = (links.g < 0) == (truth.label[row] == 1)
    good = alone & all_right & label
    return row[good], links.sizes[good]


class Onlooker:
    """A hub that hands over what passes, to whoever reads it. See `hansa.transport.channel.Hub`."""

    def __init__(self, hub: Hub, reader: Reader) -> None:
        self._hub = hub
        self._reader = reader

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        self._reader.hear(bytes(frame))
        self._hub.send(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        member, frame = self._hub.receive(timeout)
        self._reader.take(bytes(frame))
        return member, frame

    def drop(self, member: str, reason: str) -> None:
        self._hub.drop(member, reason)

    def close(self) -> None:
        self._hub.close()


class Reader:
    """Reads one training's sums tree by tree, links, and compares with the rows.

    Attributes:
        best: int64 (rows,): most values of each row that one tree linked rightly.
        after: trees -> `best` after so many. right, made: links of ENOUGH values that were right, and all of them.
    """

    def __init__(self, rows: Rows, snapshots: tuple[int, ...]) -> None:
        self.best = np.zeros(rows.n_rows, np.int64)
        self.after: dict[int, dict[str, float]] = {}
        self.right = self.made = 0
        self._rows = rows
        self._snapshots = snapshots
        self._fragments: list[Int64] = []

    def take(self, frame: bytes) -> None:
        """A part: with one party, the sum."""
        message = decode("party", frame)
        if isinstance(message, Contribution) and message.quantity in ("histograms", "root"):
            part = np.frombuffer(message.values.data, np.int64).reshape(message.values.shape)
            self._fragments.append(part[None, :-TOTALS] if message.quantity == "root" else part[:, 0, :])

    def hear(self, frame: bytes) -> None:
        """A decision of the aggregator."""
        message = decode("hub", frame)
        match message:
            case UseCuts():
                self._start(message)
            case QuantiseGradients():
                self._start_tree(message)
            case SplitNodes():
                self._split(message)
                if message.then is not None:
                    self._start_tree(message.then)

    def _start(self, message: UseCuts) -> None:
        cuts = Cuts(
            np.frombuffer(message.offsets.data, np.int64),
            np.frombuffer(message.values.data, np.float32),
            np.frombuffer(message.has_missing.data, np.uint8).astype(bool),
        )
        binned = bin_rows(self._rows.features, cuts)
        self._codes, self._bins = binned.codes, binned.offsets
        self._margins = np.full(binned.n_rows, base_margin("binary:logistic", message.base_score), np.float32)

    def _start_tree(self, message: QuantiseGradients) -> None:
        self._tree = message.tree
        self._scales = message.gradient_scale, message.hessian_scale
        gradient, hessian = np.empty((2, len(self._margins)))
        packed = np.empty((1, len(self._margins)), np.int64)
        objective.gradients("binary:logistic", self._margins, self._rows.label, None, 1.0, gradient, hessian)
        objective.pack(gradient, hessian, objective.Scales(*self._scales, planes=1), packed)
        self._g = packed[0] >> 32
        self._node = np.zeros(len(self._margins), np.int64)
        self._parents: Int64 | None = None
        self._build_left = np.ones(0, np.uint8)

    def _split(self, message: SplitNodes) -> None:
        histograms = self._active()
        feature, bin_, leaf, child_leaf, build_left = (
            np.frombuffer(tensor.data, tensor.dtype)
            for tensor in (message.feature, message.bin, message.leaf, message.child_leaf, message.build_left)
        )
        last = not len(build_left)
        # What a node's children show holds all that the node shows: only the deepest histograms are read.
        deepest = np.ones(len(feature), bool) if last else feature < 0
        self._attack(histograms, deepest)
        active = np.flatnonzero(self._node >= 0)
        node = self._node[active]
        split = feature[node] >= 0
        self._margins[active[~split]] += leaf[node[~split]]
        right = self._codes[active, np.maximum(feature[node], 0)] > bin_[node]
        child = 2 * (np.cumsum(feature >= 0) - 1)[node] + right
        self._node[active] = np.where(split, child, -1)
        if last:
            ended = active[split]
            self._margins[ended] += child_leaf[self._node[ended]]
            self._end_tree()
        self._parents, self._build_left = histograms[feature >= 0], build_left

    def _active(self) -> Int64:
        """Histograms of all active nodes: those that came, and parents less those."""
        built = np.concatenate(self._fragments)
        self._fragments = []
        if self._parents is None:
            return built
        other = self._parents - built
        left = self._build_left[:, None] == 1
        pairs = np.stack([np.where(left, built, other), np.where(left, other, built)], axis=1)
        return pairs.reshape(-1, built.shape[1])

    def _attack(self, histograms: Int64, which: npt.NDArray[np.bool_]) -> None:
        singles = find_singles(histograms[which], self._bins, *self._scales)
        singles = replace(singles, node=np.flatnonzero(which)[singles.node])
        if not len(singles.g):
            return
        links = link(singles)
        truth = Truth(self._codes, self._rows.label, self._node, self._g)
        row, values = score(links, truth)
        self.best[row] = np.maximum(self.best[row], values)
        self.made += int((links.sizes >= ENOUGH).sum())
        self.right += int((values >= ENOUGH).sum())

    def _end_tree(self) -> None:
        trees = self._tree + 1
        if trees in self._snapshots:
            self.after[trees] = {
                "linked": float((self.best >= ENOUGH).mean()),
                "linked_20": float((self.best >= 2 * ENOUGH).mean()),
                "any": float((self.best >= 3).mean()),
                "mean_values": float(self.best.mean()),
                "links_right": self.right / self.made if self.made else float("nan"),
            }


def measure(rows: int, leaves: tuple[float, ...], trees: tuple[int, ...]) -> dict[str, Any]:
    """One training for each number of bins and least leaf; the fewer trees are the first of the more."""
    made = made_rows(rows)
    lines = []
    for max_bin in BINS:
        for leaf in leaves:
            job = Job(rows=rows, parties=1, trees=max(trees), max_bin=max_bin)
            party = dealt(made, 1)
            plan = plan_of(job, party)
            plan = replace(plan, parameters=replace(plan.parameters, min_child_weight=leaf))
            reader = Reader(made, trees)
            train_in_process(plan, party, threads=cores(), wrap=lambda hub, reader=reader: Onlooker(hub, reader))
            lines += [
                {"max_bin": max_bin, "min_child_weight": leaf, "trees": n, **after} for n, after in reader.after.items()
            ]
    return {"machine": machine(), "rows": rows, "features": N_FEATURES, "enough": ENOUGH, "lines": lines}


def show(result: dict[str, Any]) -> None:
    """Print one table."""
    table = Table(
        "bins",
        "least leaf",
        "trees",
        f"rows with {ENOUGH}+ values",
        f"{2 * ENOUGH}+",
        "3+",
        "mean",
        "links right",
        title=f"Binned values (of {result['features']}) and label that an aggregator links from sums; {result['rows']:,} rows, "
        f"depth 6\n{described(result['machine'])}",
        caption=f"share of rows of which one tree's sums give so many binned values and the label, all right; least leaf: "
        f"min_child_weight; links right: of the attack's links of {ENOUGH} values or more. A lower bound.",
        title_justify="left",
    )
    for line in result["lines"]:
        table.add_row(
            str(line["max_bin"]),
            f"{line['min_child_weight']:g}",
            str(line["trees"]),
            f"{line['linked']:.1%}",
            f"{line['linked_20']:.1%}",
            f"{line['any']:.1%}",
            f"{line['mean_values']:.1f}",
            f"{line['links_right']:.1%}",
        )
    console().print(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, help="rows of the table (default 60000; 6000 with --quick)")
    parser.add_argument("--quick", action="store_true", help="fewer rows, leaves and trees: does it work?")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    rows = options.rows or (6_000 if options.quick else 60_000)
    result = measure(rows, QUICK_LEAVES, QUICK_TREES) if options.quick else measure(rows, LEAVES, TREES)
    if options.json:
        print(json.dumps(result))
    else:
        show(result)


if __name__ == "__main__":
    main()
