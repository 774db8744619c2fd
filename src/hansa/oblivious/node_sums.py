"""Sums of gradients and hessians left of every candidate, for all nodes of a level at once: C^T V on shares.

Only left children are summed; a right child is its parent minus its sibling. Messages have the size of the sums,
whatever the number of rows.
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.comparison import extend, truncate
from hansa.mpc.replicated import Address, Program, Server, add_public, together
from hansa.mpc.ring import RING64, ShareArray
from hansa.oblivious.candidates import Candidates
from hansa.oblivious.paths import Paths, absolute_sums
from hansa.oblivious.shared_rows import Block, sums_part
from hansa.oblivious.tree_constants import COUNT_BITS, Kind, TreeConstants


def level_sums(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    vectors: ShareArray,
    paths: Paths,
    parents: ShareArray | None,
    parent_scale: ShareArray | None,
    kind: Kind,
    growth: TreeConstants,
    level: int,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray]]:
    """Sums left of every column, totals behind them, and S = sum |g| + A, of a level's nodes.

    Only left children are summed; a right child is its parent minus its sibling.

    Returns:
        (2, nodes, 2, columns + 1) and (2, nodes), shared in Z_2^64 with the scoring's fraction bits.
    """
    left = vectors if level == 0 else vectors[:, : vectors.shape[1] // 2]
    parts = _column_sums(server, candidates, blocks, left, growth.rows_per_sum)
    if kind == "gradients":
        programs: list[Program[ShareArray]] = [
            sum_parts(server, parts, growth, address.named("columns")),
            sum_parts(server, absolute_sums(paths, level, growth.rows_per_sum), growth, address.named("absolute")),
        ]
        sums, scale = yield from together(*programs)
        scale = add_public(server, RING64, scale, growth.scale_floor)
        return _with_siblings(sums, parents), scale
    wide = yield from extend(server, parts, address.named("columns"))
    wide = wide.sum(axis=1, dtype=np.uint64)
    if kind == "residuals":
        gradient = wide[:, :, :1]
        shift = growth.row_bits - growth.scoring.fraction_bits
        if shift:
            gradient = yield from truncate(server, RING64, gradient[0], shift, address.named("gradient"))
        sums = np.concatenate([gradient, wide[:, :, 1:] << np.uint64(growth.scoring.fraction_bits)], axis=2)
        sums = _with_siblings(sums, parents)
        return sums, add_public(server, RING64, sums[:, :, 1, -1].copy(), growth.scale_floor)
    sums, scale = yield from from_counts(server, wide, growth, address.named("counts"))
    if parent_scale is not None:
        # A is in the parent's S already; S of the sibling is S - A of the parent, less ours, plus A.
        parent = add_public(server, RING64, parent_scale, -growth.scale_floor)
        scale = np.concatenate([scale, parent - scale], axis=1)
    return _with_siblings(sums, parents), add_public(server, RING64, scale, growth.scale_floor)


def _with_siblings(left: ShareArray, parents: ShareArray | None) -> ShareArray:
    return left if parents is None else np.concatenate([left, parents - left], axis=1)


def _column_sums(
    server: Server, candidates: Candidates, blocks: list[Block], vectors: ShareArray, rows_per_sum: int
) -> ShareArray:
    """Additive parts in Z_2^32 of all sums, by group of at most rows_per_sum rows; local.

    Returns uint32 (groups, nodes, 2, columns + 1).
    """
    nodes, rows = vectors.shape[1], vectors.shape[3]
    flat = vectors.reshape(2, nodes * 2, rows)
    groups = -(-rows // rows_per_sum)
    total = np.zeros((groups, nodes * 2, candidates.n_columns + 1), np.uint32)
    start = 0
    for block in blocks:
        offset = 0
        while offset < block.rows:
            place = start + offset
            size = min(block.rows - offset, rows_per_sum - place % rows_per_sum)
            fragment = block if size == block.rows else block[offset : offset + size]
            part = sums_part(candidates, fragment, flat[:, :, place : place + size], server.threads)
            total[place // rows_per_sum, :, :-1] += part
            offset += size
        start += block.rows
    edges = np.arange(0, rows, rows_per_sum)
    total[:, :, -1] = np.add.reduceat(flat[0], edges, axis=1, dtype=np.uint32).T
    return total.reshape(groups, nodes, 2, -1)


def sum_parts(server: Server, parts: ShareArray, growth: TreeConstants, address: Address) -> Program[ShareArray]:
    """Groups' sums (groups, ...) extended to Z_2^64, added up, truncated to the scoring's fraction bits."""
    wide = yield from extend(server, parts, address)
    total = wide.sum(axis=1, dtype=np.uint64)
    shift = growth.row_bits - growth.scoring.fraction_bits
    if shift == 0:
        return np.asarray(total)
    return (yield from truncate(server, RING64, total[0], shift, address.named("total")))


def from_counts(
    server: Server, wide: ShareArray, growth: TreeConstants, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """Exact sums from counts: every row of a class has the same public gradient and hessian.

        G = g_0 (W - Y) + g_1 Y,   H = h_0 (W - Y) + h_1 Y,   S = |g|_0 (W - Y) + |g|_1 Y

    with 26 fraction bits (and those of the rows' weights, where W and Y are sums of weights), truncated as sums. Two
    rounds.
    """
    assert growth.counts is not None
    positive, negative = wide[0, :, 0], wide[0, :, 1] - wide[0, :, 0]

    def weigh(pair: tuple[int, int], columns: slice) -> ShareArray:
        first, second = (RING64.constant(factor) for factor in pair)
        return np.asarray(negative[:, columns] * first + positive[:, columns] * second)

    parts = np.stack([weigh(growth.counts.gradient, slice(None)), weigh(growth.counts.hessian, slice(None))], axis=1)
    shift = COUNT_BITS + growth.weight_bits - growth.scoring.fraction_bits
    sums, scale = yield from together(
        truncate(server, RING64, parts, shift, address.named("sums")),
        truncate(
            server,
            RING64,
            weigh(growth.counts.absolute, slice(-1, None))[:, 0],
            shift,
            address.named("scale"),
        ),
    )
    return sums, scale
