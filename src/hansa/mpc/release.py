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
from hansa.mpc.candidates import Candidate, Candidates
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.oblivious_growth import TreeShares
from hansa.mpc.ring import BYTES, RING32, Ring, Words, pack_bits, unpack_bits

LEAF = -1


@dataclass(frozen=True)
class TreeMessage:
    """One tree's parts from one server. Secret to the receiver that it is sealed to.

    Attributes:
        splits: by level, XOR parts of one-hots over "none" and all candidates, packed, uint64 (2, nodes,
        words). leaves: parts of leaf values, uint32 (2, leaves).
    """

    splits: tuple[Words, ...]
    leaves: Words


@dataclass(frozen=True)
class PlainTree:
    """An opened tree; node 0 is the root. Nodes that did not split are collapsed.

    Attributes:
        left, right: int32 children, LEAF at a leaf.
        candidates: the split of each node, None at a leaf.
        values: float64, leaf values with eta; 0 elsewhere. Exact in float32 for up to 24 bits.
    """

    left: npt.NDArray[np.int32]
    right: npt.NDArray[np.int32]
    candidates: tuple[Candidate | None, ...]
    values: npt.NDArray[np.float64]


def release(tree: TreeShares) -> TreeMessage:
    """What a server sends of one tree to each receiver that the plan names: its two parts of everything."""
    return TreeMessage(tuple(pack_bits(level) for level in tree.splits), tree.leaves)


def open_tree(candidates: Candidates, depth: int, messages: Mapping[int, TreeMessage]) -> PlainTree:
    """A receiver's plain tree from the three servers' messages.

    Raises:
        ProtocolError: two copies of a part differ, a size is wrong, or a node has not exactly one choice.
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
    return _collapsed(candidates, choices, values)


def _at(levels: tuple[Words, ...], level: int) -> Words:
    return levels[level] if level < len(levels) else np.zeros(0)


def _checked(server: int, name: str, array: Words, dtype: type, shape: tuple[int, ...]) -> Words:
    if array.dtype != dtype or array.shape != shape:
        raise ProtocolError(
            f"server {server}: {name} are {array.dtype}{array.shape}; expected {np.dtype(dtype)}{shape}"
        )
    return array


def reconstruct(ring: Ring, shares: Mapping[int, Words], name: str) -> Words:
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
    candidates: Candidates, choices: list[npt.NDArray[np.intp]], values: npt.NDArray[np.float64]
) -> PlainTree:
    """Number the splitting nodes and the leaves, breadth first; a node without a split is its right child."""
    depth = len(choices)
    left: list[int] = []
    right: list[int] = []
    splits: list[Candidate | None] = []
    weights: list[float] = []
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
            continue
        left.append(len(queue))
        right.append(len(queue) + 1)
        splits.append(candidates.all[choices[level][node] - 1])
        weights.append(0.0)
        queue += [(level + 1, node), (level + 1, node + (1 << level))]
    return PlainTree(np.array(left, np.int32), np.array(right, np.int32), tuple(splits), np.array(weights))


def leaf_of_codes(candidates: Candidates, tree: PlainTree, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.float64]:
    """Each row's leaf value in a plain tree, float64 (rows,), from codes uint16 (rows, features)."""
    node = np.zeros(codes.shape[0], np.int64)
    for number, split in enumerate(tree.candidates):
        if split is None:
            continue
        here = np.flatnonzero(node == number)
        goes_left = left_of(candidates, split, codes[here])
        node[here] = np.where(goes_left, tree.left[number], tree.right[number])
    return tree.values[node]


def left_of(candidates: Candidates, split: Candidate, codes: npt.NDArray[np.uint16]) -> npt.NDArray[np.bool_]:
    """Which rows a split sends left, bool (rows,)."""
    feature = candidates.features[split.feature]
    own = codes[:, split.feature].astype(np.int64)
    missing = (own == feature.missing_code) & feature.has_missing
    chosen = own == split.cut if feature.categorical else own <= split.cut
    return np.asarray(np.where(missing, split.missing_left, chosen))
