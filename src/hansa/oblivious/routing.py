"""Which rows go left: membership bits under XOR, and the vectors of the next level."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from hansa.mpc.comparison import bits_to_arithmetic
from hansa.mpc.replicated import Address, Program, Server, pass_on, product_part, public, reshare, together
from hansa.mpc.ring import BITS, BYTES, RING32, ShareArray, and_parities, masked_products, pack_bits, unpack_bits
from hansa.mpc.threads import ALONE, LEAST_ROWS
from hansa.oblivious.candidates import Candidates
from hansa.oblivious.shared_rows import Block, routing_part
from hansa.secure.prg import KeyStream

CHUNK_ROWS = 16384
"""Rows of a vector that are masked and multiplied at a time: the working set stays in the cache."""

THREADS_ROWS = 16 * CHUNK_ROWS
"""The same of several threads, which first draw a mask each and then multiply: handing work over costs more than the cache gives."""


def route(
    server: Server,
    candidates: Candidates,
    blocks: list[Block],
    one_hots: ShareArray,
    members: ShareArray,
    level: int,
    last: bool,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray]]:
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
        routing_part(block, packed, inner[start : start + block.rows], server.threads)
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
    left_bit, members = yield from together(
        arithmetic, _next_members(server, part, members, level, address.named("members"))
    )
    return left_bit, members


def _node_mask(level: int) -> Any:
    """Bits of a byte that stand for nodes of a level: shares carry noise in the others."""
    return np.uint8(255 if level >= 3 else (1 << (1 << level)) - 1)


def _next_members(
    server: Server, part: ShareArray, members: ShareArray, level: int, address: Address
) -> Program[ShareArray]:
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


def _draw(streams: Sequence[KeyStream], out: ShareArray, first: int, last: int) -> None:
    """The next words of some of the streams, each its row of `out`."""
    for place in range(first, last):
        streams[place].words32(out.shape[1], out[place])


def _multiply(x: ShareArray, y: ShareArray, masks: ShareArray, out: ShareArray, first: int, last: int) -> None:
    """`masked_products` of one vector: of rows first to last."""
    own, after = (pair[:, None, first:last] for pair in (x, masks))
    masked_products(own[0], own[1], y[0, first:last], y[1, first:last], after[0], after[1], out[None, first:last])


def descend(server: Server, vectors: ShareArray, left_bit: ShareArray, address: Address) -> Program[ShareArray]:
    """V_left = V left_bit, V_right = V - V_left: the next level's vectors. One round, a word an element.

    The masks are drawn, and the products taken, in chunks of rows.
    """
    nodes, rows = vectors.shape[1], vectors.shape[3]
    below = np.empty((2, 2 * nodes, 2, rows), np.uint32)
    out = below[0, :nodes].reshape(nodes * 2, rows)
    flat = vectors.reshape(2, nodes * 2, rows)
    own = server.source.stream(server.index, address, "reshare", out.nbytes)
    after = server.source.stream(server.following, address, "reshare", out.nbytes)
    at_once = CHUNK_ROWS if server.threads is ALONE else THREADS_ROWS
    scratch = np.empty((2, min(rows, at_once)), np.uint32)
    for j in range(nodes * 2):
        for start in range(0, rows, at_once):
            size = min(at_once, rows - start)
            threads = server.threads if size >= LEAST_ROWS else ALONE
            threads.share(partial(_draw, (own, after), scratch[:, :size]), 2)
            chunk = slice(start, start + size)
            of_chunk = flat[:, j, chunk], left_bit[:, chunk], scratch[:, :size], out[j, chunk]
            threads.share(partial(_multiply, *of_chunk), size)
    yield from pass_on(server, below[:, :nodes], address)
    np.subtract(vectors, below[:, :nodes], out=below[:, nodes:])
    return below
