"""Monotone constraints on shares: which splits may be taken, and bounds that leaves keep to.

Under an increasing constraint a split is a candidate only where its left value is at most its right one, which is
e >= 0 (`split_finding.score`). That alone says nothing of the nodes below, so every node has bounds, as in XGBoost: below
a split on a constrained feature left and right stay on their sides of the middle of the two children's values

    m = (v_left + v_right) / 2;   increasing: high_left = low_right = m;   decreasing: low_left = high_right = m.

Unlike XGBoost, a candidate's gain is that of unbounded values. Values are words of the grid that leaves are rounded to, and
are bounded after rounding, so that the opened trees are monotone to the last bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.mpc.comparison import bits_to_arithmetic, sign_part, truncate
from hansa.mpc.replicated import Address, Program, Server, product_part, public, reshare
from hansa.mpc.ring import RING32, ShareArray, pack_bits

INCREASING, DECREASING = 1, -1


@dataclass(frozen=True)
class LeafBounds:
    """Least and greatest value of each node of a level, shared in Z_2^32 with 26 fraction bits, (2, nodes)."""

    low: ShareArray
    high: ShareArray


def first_bounds(server: Server, limit: int) -> LeafBounds:
    """The root's: a public limit either way, as a word; local."""
    return LeafBounds(
        *(public(server, RING32, np.array([RING32.constant(value)], np.uint32)) for value in (-limit, limit))
    )


def narrowed(
    server: Server,
    values: ShareArray,
    one_hots: ShareArray,
    directions: npt.NDArray[Any],
    bounds: LeafBounds,
    address: Address,
) -> Program[tuple[ShareArray, LeafBounds]]:
    """The children's values within their bounds, and these bounds. Eighteen rounds.

    Args:
        values: of the children, left ones first, shared in Z_2^32, (2, 2 nodes); even words.
        one_hots: the parents' splits, XOR-shared uint8 (2, nodes, candidates + 1).
        directions: of each candidate: 1 increasing, -1 decreasing, 0 free.
        bounds: of the parents.
    """
    nodes = one_hots.shape[1]
    inherited = LeafBounds(*(np.concatenate([b, b], axis=1) for b in (bounds.low, bounds.high)))
    values = yield from clamped(server, values, inherited, address.named("inherited"))
    left, right = values[:, :nodes], values[:, nodes:]
    # An even word halves exactly.
    middle = yield from truncate(server, RING32, left[0] + right[0], 1, address.named("middle"))
    chosen = [
        np.bitwise_xor.reduce(one_hots[0][:, 1 + np.flatnonzero(directions == direction)], axis=1)
        for direction in (INCREASING, DECREASING)
    ]
    part = pack_bits(np.concatenate(chosen).astype(np.uint8))
    taken = yield from bits_to_arithmetic(server, part, 2 * nodes, RING32, address.named("direction"))
    up, down = taken[:, :nodes], taken[:, nodes:]
    to_low, to_high = middle - bounds.low, middle - bounds.high
    parts = np.stack(
        [
            np.concatenate([product_part(RING32, down, to_low), product_part(RING32, up, to_low)]),
            np.concatenate([product_part(RING32, up, to_high), product_part(RING32, down, to_high)]),
        ]
    )
    moves = yield from reshare(server, RING32, parts, address.named("moves"))
    below = LeafBounds(inherited.low + moves[:, 0], inherited.high + moves[:, 1])
    return (yield from clamped(server, values, below, address.named("own"))), below


def clamped(server: Server, values: ShareArray, bounds: LeafBounds, address: Address) -> Program[ShareArray]:
    """Values brought within bounds: v + [v < low] (low - v) + [v > high] (high - v). At most 7 rounds and 2."""
    count = values.shape[1]
    parts = np.concatenate([values[0] - bounds.low[0], bounds.high[0] - values[0]])
    bits = yield from sign_part(server, RING32, parts, address.named("sign"))
    beyond = yield from bits_to_arithmetic(server, bits, 2 * count, RING32, address.named("beyond"))
    part = values[0] + product_part(RING32, beyond[:, :count], bounds.low - values)
    part = part + product_part(RING32, beyond[:, count:], bounds.high - values)
    return (yield from reshare(server, RING32, part, address.named("clamped")))
