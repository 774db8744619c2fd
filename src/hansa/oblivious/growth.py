"""One tree, grown obliviously: sums, splits, routing and leaves, all on shares, level by level.

Node n of a level has the children n (left) and n + 2^d (right) at the next, so that bit d of a leaf's number
says which way was taken at level d. Rows keep three shared things:

* vectors V[n, i] = [row i in node n] times its gradient and hessian, in Z_2^32, for C^T V;
* membership, one bit a node, under XOR, for routing;
* where needed, one-hots of the upper and of the lower half of the path, whose products tell the leaf.

A node that does not split sends all its rows right.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.replicated import Address, Program, Server, together
from hansa.mpc.ring import ShareArray
from hansa.oblivious.candidates import Candidates
from hansa.oblivious.leaves import leaf_of_vectors, leaf_values, leaves
from hansa.oblivious.monotone import first_bounds, narrowed
from hansa.oblivious.node_sums import level_sums
from hansa.oblivious.paths import Paths, extend_paths, leaf_of_paths, upper_levels
from hansa.oblivious.routing import descend, route
from hansa.oblivious.shared_rows import Block
from hansa.oblivious.split_finding import find_splits
from hansa.oblivious.tree_constants import Kind, TreeConstants


@dataclass(frozen=True)
class TreeShares:
    """A grown tree as one server's shares.

    Attributes:
        splits: by level, XOR-shared one-hots over "none" and all candidates, uint8 (2, nodes, candidates +
        1). leaves: values with 26 fraction bits, multiples of 2^-leaf_bits, shared in Z_2^32, (2, leaves).
        covers: sums of hessians of the leaves with cover_bits, shared in Z_2^32, (2, leaves); None unless statistics are
            part of the model.
    """

    splits: tuple[ShareArray, ...]
    leaves: ShareArray
    covers: ShareArray | None = None


def grow_tree(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    vectors: ShareArray,
    absolute: ShareArray | None,
    kind: Kind,
    growth: TreeConstants,
    with_paths: bool,
    address: Address,
) -> Program[tuple[TreeShares, ShareArray]]:
    """Grow one tree; its shares, and each row's leaf value.

    Args:
        blocks: this server's rows.
        vectors: shared in Z_2^32, (2, 1, 2, rows): gradients and hessians with row_bits, or (label, 1) as
            integers ("counts"), or gradients and 1 ("residuals").
        absolute: |g| of the rows with row_bits, (2, rows), for "gradients"; else None.
        with_paths: leaf values by half-path one-hots; else by the vectors' second row, which must then be 1
            for every row.
        address: of the tree; steps are the levels.

    Returns:
        The tree, and the rows' leaf values (2, rows) in Z_2^32 with 26 fraction bits.
    """
    rows = vectors.shape[3]
    members = np.zeros((2, rows, 1), np.uint8)
    paths = Paths(upper_levels(growth.depth, absolute is not None), weighted=absolute)
    splits: list[ShareArray] = []
    sums: ShareArray | None = None
    scale: ShareArray | None = None
    left_bit = np.zeros((2, rows), np.uint32)
    bounds = None
    if growth.directions is not None:
        bounds = first_bounds(server, int(growth.leaf_limit * 2**MARGIN_BITS))
    for level in range(growth.depth):
        place = address._replace(step=level)
        sums, scale = yield from level_sums(
            server, candidates, blocks, vectors, paths, sums, scale, kind, growth, level, place.named("sums")
        )
        if bounds is not None and level > 0:
            g, h = sums[:, :, 0, -1], sums[:, :, 1, -1]
            values = yield from leaf_values(server, g, h, growth, place.named("values"))
            _, bounds = yield from narrowed(
                server, values, splits[-1], growth.directions, bounds, place.named("bounds")
            )
        one_hots = yield from _choose(server, candidates, sums, scale, growth, place.named("split"))
        splits.append(one_hots)
        last = level == growth.depth - 1
        left_bit, members = yield from route(
            server, candidates, blocks, one_hots, members, level, last, place.named("route")
        )
        programs: list[Program[Any]] = []
        if with_paths:
            programs.append(extend_paths(server, paths, left_bit, level, growth.depth, place.named("paths")))
        if not last:
            programs.append(descend(server, vectors, left_bit, place.named("vectors")))
        results = yield from together(*programs)
        if not last:
            vectors = results[-1]
    place = address._replace(step=growth.depth)
    values, covers = yield from leaves(server, vectors, left_bit, sums, kind, growth, place)
    if bounds is not None:
        values, _ = yield from narrowed(server, values, splits[-1], growth.directions, bounds, place.named("bounds"))
    margins = yield from (
        leaf_of_paths(server, paths, values, place.named("margins"))
        if with_paths
        else leaf_of_vectors(server, vectors, left_bit, values, place.named("margins"))
    )
    return TreeShares(tuple(splits), values, covers), margins


def _choose(
    server: Server, candidates: Candidates, sums: ShareArray, scale: ShareArray, growth: TreeConstants, address: Address
) -> Program[ShareArray]:
    """XOR-shared one-hots over "none" and all candidates; candidates that were not drawn get zeros."""
    by_candidate = candidates.sums_by_candidate(sums[..., :-1])
    totals = sums[..., -1].transpose(0, 2, 1)
    count = by_candidate.shape[-1]
    if growth.chosen is not None:
        by_candidate = by_candidate[..., growth.chosen]
    left = np.ascontiguousarray(by_candidate.transpose(0, 2, 1, 3))
    directions = growth.directions
    if directions is not None and growth.chosen is not None:
        directions = directions[growth.chosen]
    bits = yield from find_splits(server, left, totals, scale, growth.scoring, address, directions)
    if growth.chosen is None:
        return bits
    one_hots = np.zeros((*bits.shape[:2], count + 1), np.uint8)
    one_hots[..., 0] = bits[..., 0]
    one_hots[..., 1 + growth.chosen] = bits[..., 1:]
    return one_hots
