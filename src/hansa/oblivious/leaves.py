"""Leaf values from a tree's last level, clamped and rounded on shares, and what they add to each row."""

from __future__ import annotations

import numpy as np

from hansa.mpc.comparison import extend, signs, truncate
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.reciprocal import NORMAL_BITS, mantissa, normaliser, threshold_parts
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    product_part,
    reshare,
    together,
)
from hansa.mpc.ring import RING32, RING64, ShareArray
from hansa.oblivious.node_sums import from_counts, sum_parts
from hansa.oblivious.paths import add_dot_parts, weighted_part
from hansa.oblivious.split_finding import LEAST_UNITS
from hansa.oblivious.tree_constants import ETA_BITS, Kind, TreeConstants
from hansa.oblivious.weight_bounds import beyond_parts, soft_part

ROUNDING_UNITS = 16
"""Units of a sum by which two sums of the same rows may differ: groups of rows are rounded apart, parents and left children too."""


def leaves(
    server: Server,
    vectors: ShareArray,
    left_bit: ShareArray,
    parents: ShareArray | None,
    kind: Kind,
    growth: TreeConstants,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray | None]]:
    """Leaf values from the last level's vectors: totals left are dots with the left bits, output-sized messages.

    And covers, where they are part of the model: sums of hessians rounded at random to cover_bits, (2, leaves) in Z_2^32.
    """
    assert parents is not None
    nodes, rows = vectors.shape[1], vectors.shape[3]
    edges = range(0, rows, growth.rows_per_sum)
    parts = np.zeros((len(edges), nodes * 2, 1), np.uint32)
    flat = vectors.reshape(2, nodes * 2, rows)
    for group, start in enumerate(edges):
        rest = slice(start, start + growth.rows_per_sum)
        add_dot_parts(flat[:, :, rest], left_bit[:, None, rest], parts[group])
    shaped = parts.reshape(len(edges), nodes, 2, 1)
    if kind == "gradients":
        left = yield from sum_parts(server, shaped, growth, address.named("totals"))
    else:
        wide = yield from extend(server, shaped, address.named("totals"))
        wide = wide.sum(axis=1, dtype=np.uint64)
        if kind == "counts":
            left, _ = yield from from_counts(server, wide, growth, address.named("counts"))
        else:
            left = wide
            left[:, :, 1] <<= np.uint64(growth.scoring.fraction_bits)
            shift = growth.row_bits - growth.scoring.fraction_bits
            if shift:
                left[:, :, 0] = yield from truncate(server, RING64, left[0, :, 0], shift, address.named("gradient"))
    totals = np.concatenate([left, parents[..., -1:] - left], axis=1)
    g, h = totals[:, :, 0, 0], totals[:, :, 1, 0]
    values = leaf_values(server, g, h, growth, address)
    if growth.cover_bits is None:
        return (yield from values), None
    both = yield from together(values, _covers(server, h, growth, growth.cover_bits, address.named("covers")))
    return both[0], both[1]


def _covers(server: Server, h: ShareArray, growth: TreeConstants, bits: int, address: Address) -> Program[ShareArray]:
    shift = growth.scoring.fraction_bits - bits
    if shift == 0:
        return (yield from reshare(server, RING32, h[0].astype(np.uint32), address))
    return (yield from truncate(server, RING64, h[0], shift, address, RING32))


def leaf_values(
    server: Server, g: ShareArray, h: ShareArray, growth: TreeConstants, address: Address
) -> Program[ShareArray]:
    """-eta T(G) / (H + lambda) [H >= m'], clamped, rounded at random to leaf_bits fraction bits; T(G) is G, or with alpha less.

    m' is less here than for a split by what rounding can make of H: a leaf that a split took for a child keeps its value.

    (Chen & Guestrin 2016, eq. 5.) With t = eta alpha and b = leaf_limit (H + lambda), eta T(G) clamped to +-b is
    soft_t(eta G) - soft_(t + b)(eta G) (`weight_bounds`). That is done first, with 20 fraction bits more. With c, y from
    `reciprocal`, what is left of eta G, times c, is at most leaf_limit 2^51, is brought below 2^30, then multiplied by y.
    Rounded before any row uses it, so that the opened tree and the shared margins agree to the last bit. Twenty
    rounds of single words.

    Args:
        g, h: shared in Z_2^64, (2, leaves).

    Returns:
        (2, leaves) in Z_2^32 with 26 fraction bits.
    """
    ring, constants = RING64, growth.scoring
    x = add_public(server, ring, h, constants.reg_lambda)
    g = g * np.uint64(round(growth.eta * 2**ETA_BITS))
    alpha = constants.alpha * round(growth.eta * 2**ETA_BITS)
    limit = add_public(server, ring, x * np.uint64(round(growth.leaf_limit * 2**ETA_BITS)), alpha)
    least = add_public(server, ring, np.zeros_like(x), alpha)
    parts = [
        threshold_parts(server, x, 0),
        add_to_part(server, ring, h[0], -max(LEAST_UNITS, constants.least_hessian - ROUNDING_UNITS))[None],
        beyond_parts(g, limit),
        *([beyond_parts(g, least)] if alpha else []),
    ]
    stacked = np.concatenate(parts)
    flat = yield from signs(server, ring, stacked.reshape(-1), address.named("conditions"))
    bits = flat.reshape(2, *stacked.shape)
    levels = len(parts[0])
    c = normaliser(server, bits[:, :levels], 0)
    small, beyond = bits[:, levels], bits[:, levels + 1 : levels + 3]
    kept = soft_part(g, least, bits[:, levels + 3 :]) if alpha else g[0]
    clamped = kept - soft_part(g, limit, beyond)
    keep = add_public(server, ring, np.zeros_like(small) - small, 1)
    g, scale, y = yield from together(
        reshare(server, ring, clamped, address.named("clamped")),
        multiply(server, ring, c, keep, address.named("kept")),
        mantissa(server, x, c, address.named("mantissa")),
    )
    # |eta G c| <= 2^(20 + 31) leaf_limit is brought below 2^30.
    shift = ETA_BITS + NORMAL_BITS + int(growth.leaf_limit).bit_length() - 30
    scaled = yield from truncate(server, ring, product_part(ring, g, scale), shift, address.named("scaled"))
    rest = ETA_BITS + NORMAL_BITS + 30 - shift - growth.leaf_bits
    value = yield from truncate(server, ring, product_part(ring, scaled, y), rest, address.named("value"), RING32)
    return (np.zeros_like(value) - value) << np.uint32(MARGIN_BITS - growth.leaf_bits)


def leaf_of_vectors(
    server: Server, vectors: ShareArray, left_bit: ShareArray, leaves: ShareArray, address: Address
) -> Program[ShareArray]:
    """Each row's leaf value where the vectors' second row is membership m of the last level's nodes:

        sum_n m[n] leaf_right[n] + left_bit sum_n m[n] (leaf_left[n] - leaf_right[n])

    Two rounds, three words a row.
    """
    nodes = vectors.shape[1]
    left, right = leaves[:, :nodes], leaves[:, nodes:]
    members = np.ascontiguousarray(vectors[:, :, 1])
    part = weighted_part(np.stack([right, left - right], axis=1), members)
    both = yield from reshare(server, RING32, part, address.named("sides"))
    extra = both[0, 0] + product_part(RING32, both[:, 1], left_bit)
    return (yield from reshare(server, RING32, extra, address))
