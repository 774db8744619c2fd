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
from typing import Any, Literal

import numpy as np

from hansa.mpc.candidates import Candidates
from hansa.mpc.comparison import bits_to_arithmetic, extend, signs, truncate
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.reciprocal import mantissa, normaliser, threshold_parts
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    pass_on,
    product_part,
    public,
    reshare,
    together,
)
from hansa.mpc.ring import (
    BITS,
    BYTES,
    RING32,
    RING64,
    Words,
    add_combinations,
    and_parities,
    cross_dots,
    masked_products,
    pack_bits,
    unpack_bits,
)
from hansa.mpc.shared_rows import Block, routing_part, sums_part
from hansa.mpc.split_finding import Scoring, find_splits

CHUNK_ROWS = 16384
"""Rows of a vector that are masked and multiplied at a time: the working set stays in the cache."""

COUNT_BITS = 26
"""Fraction bits of the public factors of counts."""

CLAMP_BITS = 6
"""Fraction bits of the bound that G is clamped to, relative to H + lambda."""

ETA_BITS = 20

Kind = Literal["gradients", "counts", "residuals"]


@dataclass(frozen=True)
class CountFactors:
    """Public factors that turn counts into sums where all rows of a class have one gradient.

    G = gradient[0] (W - Y) + gradient[1] Y, and so on; Y counts positive rows, W all. Integers times 2^26.
    """

    gradient: tuple[int, int]
    hessian: tuple[int, int]
    absolute: tuple[int, int]


@dataclass(frozen=True)
class Growth:
    """Public constants of one tree.

    Attributes:
        depth: levels of splits.
        scoring: of the splits.
        row_bits: fraction bits of the vectors; at least scoring.fraction_bits.
        rows_per_sum: rows whose sum is known to fit Z_2^32.
        scale_floor: A, in units of 2^-fraction_bits.
        eta: learning rate.
        leaf_limit: leaf values, eta included, are clamped to +-leaf_limit; at most 16.
        leaf_bits: fraction bits that a leaf value keeps.
        chosen: the candidates of this tree, ascending; None for all.
        counts: for the kind "counts".
    """

    depth: int
    scoring: Scoring
    row_bits: int
    rows_per_sum: int
    scale_floor: int
    eta: float
    leaf_limit: float
    leaf_bits: int
    chosen: Any = None
    counts: CountFactors | None = None


@dataclass(frozen=True)
class TreeShares:
    """A grown tree as one server's shares.

    Attributes:
        splits: by level, XOR-shared one-hots over "none" and all candidates, uint8 (2, nodes, candidates +
        1). leaves: values with 26 fraction bits, multiples of 2^-leaf_bits, shared in Z_2^32, (2, leaves).
    """

    splits: tuple[Words, ...]
    leaves: Words


@dataclass
class _Paths:
    """Shared one-hots of the two halves of each row's path, in Z_2^32; None before their first level."""

    split_at: int
    upper: Words | None = None
    lower: Words | None = None
    weighted: Words | None = None


def upper_levels(depth: int, weighted: bool) -> int:
    """How many levels the upper half-path takes, so that the fewest words a row travel."""

    def words(upper: int) -> int:
        lower = depth - upper
        weight = (2 ** (lower - 1) - 1 if lower else 0) * weighted
        return int(2**upper - 2 + (2 * 2**lower - 2 if lower else 0) + weight)

    return min(range(1, depth + 1), key=words)


def grow_tree(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    vectors: Words,
    absolute: Words | None,
    kind: Kind,
    growth: Growth,
    with_paths: bool,
    address: Address,
) -> Program[tuple[TreeShares, Words]]:
    """Grow one tree; its shares, and each row's leaf value.

    Args:
        blocks: this server's rows.
        vectors: shared in Z_2^32, (2, 1, 2, rows): gradients and hessians with row_bits, or (label, 1) as
            integers ("counts"), or gradients and 1 ("residuals").
        absolute: |g| of the rows with row_bits, (2, rows), for "gradients"; else None.
        with_paths: leaf values by half-path one-hots; else by the vectors' second row, which must then be 1
        for
            every row.
        address: of the tree; steps are the levels.

    Returns:
        The tree, and the rows' leaf values (2, rows) in Z_2^32 with 26 fraction bits.
    """
    rows = vectors.shape[3]
    members = np.zeros((2, rows, 1), np.uint8)
    paths = _Paths(upper_levels(growth.depth, absolute is not None), weighted=absolute)
    splits: list[Words] = []
    sums: Words | None = None
    scale: Words | None = None
    beta = np.zeros((2, rows), np.uint32)
    for level in range(growth.depth):
        place = address._replace(step=level)
        sums, scale = yield from _level_sums(
            server, candidates, blocks, vectors, paths, sums, scale, kind, growth, level, place.named("sums")
        )
        one_hots = yield from _choose(server, candidates, sums, scale, growth, place.named("split"))
        splits.append(one_hots)
        last = level == growth.depth - 1
        beta, members = yield from _route(
            server, candidates, blocks, one_hots, members, level, last, place.named("route")
        )
        programs: list[Program[Any]] = []
        if with_paths:
            programs.append(_extend_paths(server, paths, beta, level, growth.depth, place.named("paths")))
        if not last:
            programs.append(_descend(server, vectors, beta, place.named("vectors")))
        results = yield from together(*programs)
        if not last:
            vectors = results[-1]
    place = address._replace(step=growth.depth)
    leaves = yield from _leaves(server, vectors, beta, sums, kind, growth, place)
    margins = yield from (
        _leaf_of_paths(server, paths, leaves, place.named("margins"))
        if with_paths
        else _leaf_of_vectors(server, vectors, beta, leaves, place.named("margins"))
    )
    return TreeShares(tuple(splits), leaves), margins


def _level_sums(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    vectors: Words,
    paths: _Paths,
    parents: Words | None,
    parent_scale: Words | None,
    kind: Kind,
    growth: Growth,
    level: int,
    address: Address,
) -> Program[tuple[Words, Words]]:
    """Sums left of every column, and totals behind them, of a level's nodes; and S = sum |g| + A of the
    nodes.

    Only left children are summed; a right child is its parent minus its sibling.

    Returns:
        (2, nodes, 2, columns + 1) and (2, nodes), shared in Z_2^64 with the scoring's fraction bits.
    """
    left = vectors if level == 0 else vectors[:, : vectors.shape[1] // 2]
    parts = _column_sums(candidates, blocks, left, growth.rows_per_sum)
    if kind == "gradients":
        programs: list[Program[Words]] = [
            _sum_parts(server, parts, growth, address.named("columns")),
            _sum_parts(server, _absolute_sums(paths, level, growth.rows_per_sum), growth, address.named("absolute")),
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
    sums, scale = yield from _from_counts(server, wide, growth, address.named("counts"))
    if parent_scale is not None:
        # A is in the parent's S already; S of the sibling is S - A of the parent, less ours, plus A.
        parent = add_public(server, RING64, parent_scale, -growth.scale_floor)
        scale = np.concatenate([scale, parent - scale], axis=1)
    return _with_siblings(sums, parents), add_public(server, RING64, scale, growth.scale_floor)


def _with_siblings(left: Words, parents: Words | None) -> Words:
    return left if parents is None else np.concatenate([left, parents - left], axis=1)


def _column_sums(candidates: Candidates, blocks: list[Block], vectors: Words, rows_per_sum: int) -> Words:
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
            piece = block if size == block.rows else _piece(block, offset, offset + size)
            part = sums_part(candidates, piece, flat[:, :, place : place + size])
            total[place // rows_per_sum, :, :-1] += part
            offset += size
        start += block.rows
    edges = np.arange(0, rows, rows_per_sum)
    total[:, :, -1] = np.add.reduceat(flat[0], edges, axis=1, dtype=np.uint32).T
    return total.reshape(groups, nodes, 2, -1)


def _piece(block: Block, start: int, stop: int) -> Block:
    return Block(
        None if block.own is None else block.own[start:stop],
        None if block.following is None else block.following[start:stop],
        block.bits[:, start:stop],
        block.labels[:, start:stop],
        None if block.codes is None else block.codes[start:stop],
    )


def _sum_parts(server: Server, parts: Words, growth: Growth, address: Address) -> Program[Words]:
    """Groups' sums (groups, ...) extended to Z_2^64, added up, truncated to the scoring's fraction bits."""
    wide = yield from extend(server, parts, address)
    total = wide.sum(axis=1, dtype=np.uint64)
    shift = growth.row_bits - growth.scoring.fraction_bits
    if shift == 0:
        return np.asarray(total)
    return (yield from truncate(server, RING64, total[0], shift, address.named("total")))


def _absolute_sums(paths: _Paths, level: int, rows_per_sum: int) -> Words:
    """Additive parts of sum |g_i| [row i in node n] of a level's nodes: uint32 (groups, nodes); local.

    sum_i U[a, i] (|g_i| L[b, i]),  n = a + 2^upper b
    """
    assert paths.weighted is not None
    weighted = paths.weighted if paths.weighted.ndim == 3 else paths.weighted[:, None]
    rows = weighted.shape[2]
    edges = range(0, rows, rows_per_sum)
    if level == 0:
        return np.add.reduceat(weighted[0, 0], list(edges), dtype=np.uint32)[:, None]
    assert paths.upper is not None
    upper = paths.upper
    out = np.zeros((len(edges), weighted.shape[1], upper.shape[1]), np.uint32)
    for group, start in enumerate(edges):
        rest = slice(start, start + rows_per_sum)
        add_dot_parts(weighted[:, :, rest], upper[:, :, rest], out[group])
    return out.reshape(len(edges), -1)


def add_dot_parts(x: Words, y: Words, out: Words) -> None:
    """out[a, b] += this server's additive part of sum_i x[a, i] y[b, i]; shared (2, ., rows); local."""
    cross_dots(np.ascontiguousarray(x[0]), y[0] + y[1], out)
    cross_dots(np.ascontiguousarray(x[1]), np.ascontiguousarray(y[0]), out)


def _from_counts(server: Server, wide: Words, growth: Growth, address: Address) -> Program[tuple[Words, Words]]:
    """Exact sums from counts: every row of a class has the same public gradient and hessian.

        G = g_0 (W - Y) + g_1 Y,   H = h_0 (W - Y) + h_1 Y,   S = |g|_0 (W - Y) + |g|_1 Y

    with 26 fraction bits, truncated as sums. Two rounds.
    """
    assert growth.counts is not None
    positive, negative = wide[0, :, 0], wide[0, :, 1] - wide[0, :, 0]

    def weigh(pair: tuple[int, int], columns: slice) -> Words:
        first, second = (RING64.constant(factor) for factor in pair)
        return np.asarray(negative[:, columns] * first + positive[:, columns] * second)

    parts = np.stack([weigh(growth.counts.gradient, slice(None)), weigh(growth.counts.hessian, slice(None))], axis=1)
    shift = COUNT_BITS - growth.scoring.fraction_bits
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


def _choose(
    server: Server, candidates: Candidates, sums: Words, scale: Words, growth: Growth, address: Address
) -> Program[Words]:
    """XOR-shared one-hots over "none" and all candidates; candidates that were not drawn get zeros."""
    by_candidate = candidates.sums_by_candidate(sums[..., :-1])
    totals = sums[..., -1].transpose(0, 2, 1)
    count = by_candidate.shape[-1]
    if growth.chosen is not None:
        by_candidate = by_candidate[..., growth.chosen]
    left = np.ascontiguousarray(by_candidate.transpose(0, 2, 1, 3))
    bits = yield from find_splits(server, left, totals, scale, growth.scoring, address)
    if growth.chosen is None:
        return bits
    one_hots = np.zeros((*bits.shape[:2], count + 1), np.uint8)
    one_hots[..., 0] = bits[..., 0]
    one_hots[..., 1 + growth.chosen] = bits[..., 1:]
    return one_hots


def _route(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    one_hots: Words,
    members: Words,
    level: int,
    last: bool,
    address: Address,
) -> Program[tuple[Words, Words]]:
    """Which rows go left, as shared 0 or 1 of Z_2^32, and the next level's membership bits.

        bit_i = XOR_n member[i, n] AND (XOR_t C[i, t] AND onehot[n, t])

    Rounds: three (two at level 0). About 2^d / 4 bits a row of bits, and a word of arithmetic.

    Returns:
        (2, rows) in Z_2^32, and XOR-shared uint8 (2, rows, bytes), bit n for node n; unchanged where `last`.
    """
    rows = members.shape[1]
    packed = pack_bits(candidates.bits_by_column(one_hots[:, :, 1:]))
    inner = np.zeros((rows, -(-one_hots.shape[1] // 8)), np.uint8)
    start = 0
    for block in blocks:
        routing_part(block, packed, inner[start : start + block.rows])
        start += block.rows
    if level == 0:
        bits_part = inner[:, 0]
    else:
        products = yield from reshare(server, BYTES, inner, address.named("products"))
        products &= _node_mask(level)
        bits_part = np.empty(rows, np.uint8)
        and_parities(members[0], members[1], products[0], products[1], bits_part)
    part = pack_bits(bits_part)
    arithmetic = bits_to_arithmetic(server, part, rows, RING32, address.named("beta"))
    if last:
        return (yield from arithmetic), members
    beta, members = yield from together(
        arithmetic, _next_members(server, part, members, level, address.named("members"))
    )
    return beta, members


def _node_mask(level: int) -> Any:
    """Bits of a byte that stand for nodes of a level: shares carry noise in the others."""
    return np.uint8(255 if level >= 3 else (1 << (1 << level)) - 1)


def _next_members(server: Server, part: Words, members: Words, level: int, address: Address) -> Program[Words]:
    """left = member AND bit, right = member XOR left, at bits n and n + 2^level."""
    rows = members.shape[1]
    packed = yield from reshare(server, BITS, part, address.named("bits"))
    bits = unpack_bits(packed, rows)
    if level == 0:
        left = bits[:, :, None]
        everyone = public(server, BYTES, np.ones((rows, 1), np.uint8))
        return left | ((left ^ everyone) << np.uint8(1))
    product = product_part(BYTES, members, (bits * np.uint8(255))[:, :, None])
    left = yield from reshare(server, BYTES, product, address.named("left"))
    left &= _node_mask(level)
    right = members ^ left
    if level < 3:
        return left | (right << np.uint8(1 << level))
    return np.concatenate([left, right], axis=2)


def _descend(server: Server, vectors: Words, beta: Words, address: Address) -> Program[Words]:
    """V_left = V beta, V_right = V - V_left: the next level's vectors. One round, a word an element.

    The masks are drawn, and the products taken, in chunks of rows.
    """
    nodes, rows = vectors.shape[1], vectors.shape[3]
    below = np.empty((2, 2 * nodes, 2, rows), np.uint32)
    out = below[0, :nodes].reshape(nodes * 2, rows)
    flat = vectors.reshape(2, nodes * 2, rows)
    own = server.source.stream(server.index, address, "reshare")
    after = server.source.stream(server.following, address, "reshare")
    scratch = np.empty((2, 1, min(rows, CHUNK_ROWS)), np.uint32)
    for j in range(nodes * 2):
        for start in range(0, rows, CHUNK_ROWS):
            chunk = slice(start, min(start + CHUNK_ROWS, rows))
            size = chunk.stop - start
            own.words32(size, scratch[0, 0])
            after.words32(size, scratch[1, 0])
            x = flat[:, j : j + 1, chunk]
            y = beta[:, chunk]
            masked_products(x[0], x[1], y[0], y[1], scratch[0, :, :size], scratch[1, :, :size], out[j : j + 1, chunk])
    yield from pass_on(server, below[:, :nodes], address)
    np.subtract(vectors, below[:, :nodes], out=below[:, nodes:])
    return below


def _extend_paths(
    server: Server, paths: _Paths, beta: Words, level: int, depth: int, address: Address
) -> Program[None]:
    """Add a level to the half-path one-hots, and to |g| times the lower one. At most one round."""
    names: list[str] = []
    programs: list[Program[Words]] = []
    in_upper = level < paths.split_at
    current = paths.upper if in_upper else paths.lower
    name = "upper" if in_upper else "lower"
    if current is None:
        other = add_public(server, RING32, np.zeros_like(beta) - beta, 1)
        setattr(paths, name, np.stack([beta, other], axis=1))
    else:
        names.append(name)
        programs.append(_doubled(server, current, beta, address.named(name)))
    if not in_upper and paths.weighted is not None and level < depth - 1:
        weighted = paths.weighted if paths.weighted.ndim == 3 else paths.weighted[:, None]
        names.append("weighted")
        programs.append(_doubled(server, weighted, beta, address.named("weighted")))
    results = yield from together(*programs)
    for name, result in zip(names, results, strict=True):
        setattr(paths, name, result)


def _doubled(server: Server, x: Words, beta: Words, address: Address) -> Program[Words]:
    """(2, n, rows) to (2, 2 n, rows): x beta, then x - x beta."""
    left = yield from multiply(server, RING32, x, beta[:, None], address)
    return np.concatenate([left, x - left], axis=1)


def _leaves(
    server: Server,
    vectors: Words,
    beta: Words,
    parents: Words | None,
    kind: Kind,
    growth: Growth,
    address: Address,
) -> Program[Words]:
    """Leaf values from the last level's vectors: totals left are dots with beta, output-sized messages."""
    assert parents is not None
    nodes, rows = vectors.shape[1], vectors.shape[3]
    edges = range(0, rows, growth.rows_per_sum)
    parts = np.zeros((len(edges), nodes * 2, 1), np.uint32)
    flat = vectors.reshape(2, nodes * 2, rows)
    for group, start in enumerate(edges):
        rest = slice(start, start + growth.rows_per_sum)
        add_dot_parts(flat[:, :, rest], beta[:, None, rest], parts[group])
    shaped = parts.reshape(len(edges), nodes, 2, 1)
    if kind == "gradients":
        left = yield from _sum_parts(server, shaped, growth, address.named("totals"))
    else:
        wide = yield from extend(server, shaped, address.named("totals"))
        wide = wide.sum(axis=1, dtype=np.uint64)
        if kind == "counts":
            left, _ = yield from _from_counts(server, wide, growth, address.named("counts"))
        else:
            left = wide
            left[:, :, 1] <<= np.uint64(growth.scoring.fraction_bits)
            shift = growth.row_bits - growth.scoring.fraction_bits
            if shift:
                left[:, :, 0] = yield from truncate(server, RING64, left[0, :, 0], shift, address.named("gradient"))
    totals = np.concatenate([left, parents[..., -1:] - left], axis=1)
    return (yield from leaf_values(server, totals[:, :, 0, 0], totals[:, :, 1, 0], growth, address))


def leaf_values(server: Server, g: Words, h: Words, growth: Growth, address: Address) -> Program[Words]:
    """-eta G / (H + lambda) [H >= m'], clamped, rounded at random to leaf_bits fraction bits.

    (Chen & Guestrin 2016, eq. 5.) G is clamped to +-W (H + lambda) first, W = leaf_limit / eta, with 6
    fraction bits more. With c, y from `reciprocal`, eta 2^20 G c <= leaf_limit 2^57 is brought below 2^30,
    then multiplied by y. Rounded before any row uses it, so that the opened tree and the shared margins
    agree to the last bit. Twenty rounds of single words.

    Args:
        g, h: shared in Z_2^64, (2, leaves).

    Returns:
        (2, leaves) in Z_2^32 with 26 fraction bits.
    """
    ring, constants = RING64, growth.scoring
    x = add_public(server, ring, h, constants.reg_lambda)
    g = g << np.uint64(CLAMP_BITS)
    limit = x * np.uint64(round(growth.leaf_limit / growth.eta * 2**CLAMP_BITS))
    parts = [
        threshold_parts(server, x, 0),
        add_to_part(server, ring, h[0], -constants.least_hessian)[None],
        (g + limit)[:1],
        (limit - g)[:1],
    ]
    stacked = np.concatenate(parts)
    flat = yield from signs(server, ring, stacked.reshape(-1), address.named("conditions"))
    bits = flat.reshape(2, *stacked.shape)
    c = normaliser(server, bits[:, : len(parts[0])], 0)
    small, low, high = bits[:, -3], bits[:, -2], bits[:, -1]
    clamped = g[0] + product_part(ring, low, np.zeros_like(g) - limit - g)
    clamped += product_part(ring, high, limit - g)
    keep = add_public(server, ring, np.zeros_like(small) - small, 1)
    g, kept, y = yield from together(
        reshare(server, ring, clamped, address.named("clamped")),
        multiply(server, ring, c, keep, address.named("kept")),
        mantissa(server, x, c, address.named("mantissa")),
    )
    eta = round(growth.eta * 2**ETA_BITS)
    # |eta G c| <= 2^(51 + CLAMP_BITS) leaf_limit is brought below 2^30.
    shift = ETA_BITS + CLAMP_BITS + 31 + int(growth.leaf_limit).bit_length() - 30
    product = product_part(ring, g, kept) * np.uint64(eta)
    scaled = yield from truncate(server, ring, product, shift, address.named("scaled"))
    rest = ETA_BITS + CLAMP_BITS + 31 + 30 - shift - growth.leaf_bits
    value = yield from truncate(server, ring, product_part(ring, scaled, y), rest, address.named("value"), RING32)
    return (np.zeros_like(value) - value) << np.uint32(MARGIN_BITS - growth.leaf_bits)


def _leaf_of_paths(server: Server, paths: _Paths, leaves: Words, address: Address) -> Program[Words]:
    """Each row's leaf value: sum_a U[a, i] sum_b L[b, i] leaf[a + 2^upper b]. At most two rounds."""
    assert paths.upper is not None
    upper = paths.upper
    rows = upper.shape[2]
    if paths.lower is None:
        return (yield from reshare(server, RING32, _weighted_part(leaves[:, None], upper)[0], address))
    table = leaves.reshape(2, -1, upper.shape[1])
    inner = _weighted_part(table, upper)
    inner_shared = yield from reshare(server, RING32, inner, address.named("upper"))
    total = np.zeros(rows, np.uint32)
    for b in range(inner.shape[0]):
        total += product_part(RING32, inner_shared[:, b], paths.lower[:, b])
    return (yield from reshare(server, RING32, total, address))


def _weighted_part(weights: Words, x: Words) -> Words:
    """Additive parts of sum_b weights[a, b] x[b, i], (a, rows) in Z_2^32; local."""
    out = np.zeros((weights.shape[1], x.shape[2]), np.uint32)
    add_combinations(weights[0] + weights[1], np.ascontiguousarray(x[0]), out)
    add_combinations(np.ascontiguousarray(weights[0]), np.ascontiguousarray(x[1]), out)
    return out


def _leaf_of_vectors(server: Server, vectors: Words, beta: Words, leaves: Words, address: Address) -> Program[Words]:
    """Each row's leaf value where the vectors' second row is membership m of the last level's nodes:

        sum_n m[n] leaf_right[n] + beta sum_n m[n] (leaf_left[n] - leaf_right[n])

    Two rounds, three words a row.
    """
    nodes = vectors.shape[1]
    left, right = leaves[:, :nodes], leaves[:, nodes:]
    members = np.ascontiguousarray(vectors[:, :, 1])
    part = _weighted_part(np.stack([right, left - right], axis=1), members)
    both = yield from reshare(server, RING32, part, address.named("sides"))
    extra = both[0, 0] + product_part(RING32, both[:, 1], beta)
    return (yield from reshare(server, RING32, extra, address))
