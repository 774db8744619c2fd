"""From shares to a plain model: what servers send to a receiver, and what the receiver makes of it.

Each server sends its pair of parts, so every part arrives twice; a receiver compares both copies. What is
opened is the splits (one-hots) and the leaf values, rounded on shares during training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.ring import BYTES, RING32, Ring, ShareArray, pack_bits, unpack_bits
from hansa.oblivious.candidates import Candidate, Candidates
from hansa.oblivious.growth import TreeShares

LEAF = -1


@dataclass(frozen=True)
class TreeMessage:
    """One tree's parts from one server. Secret to the receiver that it is sealed to.

    Attributes:
        splits: by level, XOR parts of one-hots over "none" and all candidates, packed, uint64 (2, nodes,
        words). leaves: parts of leaf values, uint32 (2, leaves).
        covers: parts of the leaves' covers, uint32 (2, leaves), where statistics are part of the model, else None.
    """

    splits: tuple[ShareArray, ...]
    leaves: ShareArray
    covers: ShareArray | None = None


@dataclass(frozen=True)
class Statistics:
    """What a receiver needs to make covers and gains of what is released. Public.

    Attributes:
        cover_bits: `tree_constants.TreeConstants.cover_bits`.
        eta, reg_lambda: as in `training.BoostingSettings`.
        unit: the weight that covers and gains are counted in.
    """

    cover_bits: int
    eta: float
    reg_lambda: float
    unit: float = 1.0


@dataclass(frozen=True)
class PlainTree:
    """An opened tree; node 0 is the root. Nodes that did not split are collapsed.

    Attributes:
        left, right: int32 children, LEAF at a leaf. The left one has the lower number, but below a categorical split: the rows of
            its category go left here, and right in XGBoost's trees.
        candidates: the split of each node, None at a leaf.
        values: float64, leaf values with eta; 0 elsewhere. Exact in float32 for up to 24 bits.
        covers: float64, sums of hessians, rounded; None where the model has no statistics.
        gains: float64, of the splits, 0 at leaves: as good as the rounded leaf values and covers that they come from. None
            likewise.
    """

    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    candidates: tuple[Candidate | None, ...]
    values: npt.NDArray[np.float64]
    covers: npt.NDArray[np.float64] | None = None
    gains: npt.NDArray[np.float64] | None = None


def release(tree: TreeShares) -> TreeMessage:
    """What a server sends of one tree to each receiver that the plan names: its two parts of everything."""
    return TreeMessage(tuple(pack_bits(level) for level in tree.splits), tree.leaves, tree.covers)


def open_tree(
    candidates: Candidates, depth: int, messages: Mapping[int, TreeMessage], statistics: Statistics | None = None
) -> PlainTree:
    """A receiver's plain tree from the three servers' messages; with covers and gains where the plan says so.

    Raises:
        ProtocolError: two copies of a part differ, a size is wrong, a node has not exactly one choice, or covers come or
            lack against the plan.
    """
    if set(messages) != {0, 1, 2}:
        raise ProtocolError(f"a release needs all three servers' shares, not those of {sorted(messages)}")
    count = len(candidates.all) + 1
    choices: list[npt.NDArray[np.intp]] = []
    for level in range(depth):
        shape = (2, 1 << level, -(-count // 64))
        packed = {
            s: _checked(s, f"splits of level {level}", _at(m.splits, level), np.uint64, shape)
            for s, m in messages.items()
        }
        bits = {s: unpack_bits(words, count) for s, words in packed.items()}
        one_hots = reconstruct(BYTES, bits, f"splits of level {level}")
        if not (one_hots.sum(axis=1) == 1).all():
            raise ProtocolError(f"level {level}: a node has not exactly one split; the shares do not fit")
        choices.append(one_hots.argmax(axis=1))
    leaves = {s: _checked(s, "leaves", m.leaves, np.uint32, (2, 1 << depth)) for s, m in messages.items()}
    values = reconstruct(RING32, leaves, "leaves").view(np.int32) / 2.0**MARGIN_BITS
    if any((m.covers is None) != (statistics is None) for m in messages.values()):
        raise ProtocolError("servers sent covers, or left them out, against what the plan says of statistics")
    covers = None if statistics is None else _open_covers(messages, depth, statistics)
    return _collapsed(candidates, choices, values, covers, statistics)


def _open_covers(messages: Mapping[int, TreeMessage], depth: int, statistics: Statistics) -> npt.NDArray[np.float64]:
    """The leaves' covers, float64 (leaves,); rounding may leave one just below 0."""
    parts = {
        s: _checked(s, "covers", m.covers if m.covers is not None else np.zeros(0), np.uint32, (2, 1 << depth))
        for s, m in messages.items()
    }
    opened = reconstruct(RING32, parts, "covers").view(np.int32)
    covers: npt.NDArray[np.float64] = np.maximum(opened, 0) * 2.0**-statistics.cover_bits
    return covers


def gains_of(
    left: npt.NDArray[np.int32],
    right: npt.NDArray[np.int32],
    values: npt.NDArray[np.float64],
    covers: npt.NDArray[np.float64],
    statistics: Statistics,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Covers and gains of all nodes, from the leaves' values and covers (children come after their parent).

    A leaf's gradient is G = -value (H + lambda) / eta; sums go up the tree; then Chen & Guestrin 2016, eq. 7 times two.
    """
    h, gains = covers.copy(), np.zeros(len(values))
    g = -values * (h + statistics.reg_lambda) / statistics.eta

    def term(node: int) -> float:
        below = h[node] + statistics.reg_lambda
        return float(g[node] ** 2 / below) if below > 0 else 0.0

    for node in range(len(values) - 1, -1, -1):
        if left[node] != LEAF:
            a, b = int(left[node]), int(right[node])
            g[node], h[node] = g[a] + g[b], h[a] + h[b]
            gains[node] = max(0.0, term(a) + term(b) - term(node))
    return h, gains


def _at(levels: tuple[ShareArray, ...], level: int) -> ShareArray:
    return levels[level] if level < len(levels) else np.zeros(0)


def _checked(server: int, name: str, array: ShareArray, dtype: type, shape: tuple[int, ...]) -> ShareArray:
    if array.dtype != dtype or array.shape != shape:
        raise ProtocolError(
            f"server {server}: {name} are {array.dtype}{array.shape}; expected {np.dtype(dtype)}{shape}"
        )
    return array


def reconstruct(ring: Ring, shares: Mapping[int, ShareArray], name: str) -> ShareArray:
    """x_0 + x_1 + x_2 from three servers' pairs, both copies of each part compared.

    Raises:
        ProtocolError: naming the two servers whose copies differ.
    """
    for server in range(3):
        after = (server + 1) % 3
        if not np.array_equal(shares[server][1], shares[after][0]):
            raise ProtocolError(f"servers {server} and {after} sent different copies of one part of {name}")
    return ring.add(ring.add(shares[0][0], shares[1][0]), shares[2][0])


def _collapsed(
    candidates: Candidates,
    choices: list[npt.NDArray[np.intp]],
    values: npt.NDArray[np.float64],
    covers: npt.NDArray[np.float64] | None,
    statistics: Statistics | None,
) -> PlainTree:
    """Number the splitting nodes and the leaves, breadth first; a node without a split is its right child."""
    depth = len(choices)
    left: list[int] = []
    right: list[int] = []
    splits: list[Candidate | None] = []
    weights: list[float] = []
    own_covers: list[float] = []
    queue = [(0, 0)]
    position = 0
    while position < len(queue):
        level, node = queue[position]
        while level < depth and choices[level][node] == 0:
            level, node = level + 1, node + (1 << level)
        queue[position] = (level, node)
        position += 1
        if level == depth:
            left.append(LEAF)
            right.append(LEAF)
            splits.append(None)
            weights.append(float(values[node]))
            own_covers.append(0.0 if covers is None else float(covers[node]))
            continue
        split = candidates.all[choices[level][node] - 1]
        children = [(level + 1, node), (level + 1, node + (1 << level))]
        swapped = candidates.features[split.feature].categorical
        left.append(len(queue) + swapped)
        right.append(len(queue) + (not swapped))
        splits.append(split)
        weights.append(0.0)
        own_covers.append(0.0)
        queue += reversed(children) if swapped else children
    sides = np.array(left, np.int32), np.array(right, np.int32)
    if statistics is None:
        return PlainTree(*sides, tuple(splits), np.array(weights))
    covers, gains = gains_of(*sides, np.array(weights), np.array(own_covers), statistics)
    unit = statistics.unit
    return PlainTree(*sides, tuple(splits), np.array(weights), covers * unit, gains * unit)
