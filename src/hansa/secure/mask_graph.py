"""Who masks with whom: every other party, or from `LEAST_PARTIES` parties up the neighbours in a drawn graph.

"Secure Single-Server Aggregation with (Poly)Logarithmic Overhead" (CCS 2020), section 3: the parties stand on a ring in random order,
and each masks with the k / 2 before it and the k / 2 behind it (a Harary graph with its nodes renamed at random). Nobody is missing
inside an epoch, so no shares of keys are kept, and one condition is left: without the corrupt parties the graph must stay connected.
Then the others' uploads are uniform vectors of which only the sum means anything.

    n parties, c of them corrupt, h = n - c honest, m = k / 2. Between one honest party and the next on the ring stand g corrupt ones.
    Where g < m the two are neighbours; where g >= m no edge passes. So the honest parties fall apart if and only if two of the h gaps
    have m or more. All (g_1, ..., g_h) with sum c are equally likely, so by the union bound over pairs of gaps

    P(apart) <= C(h, 2) * C(c - 2 m + h - 1, h - 1) / C(c + h - 1, h - 1)

The paper asks for less than one gap so long, which also suffices, and so for about twice the neighbours. The order on the ring is that
of hashes over the seed. The seed is the hash of the roster with all keys (`keys.roster_hash`), and every party had seen commitments to
all others' keys before it showed its own (`keys.commitment`): to each party it is drawn after all others had chosen.
"""

from __future__ import annotations

import functools
import hashlib
from fractions import Fraction
from math import comb

from hansa.errors import ProtocolError
from hansa.secure.keys import HASH_BYTES, encode_fields

LEAST_PARTIES = 64
"""Parties from which on the graph is drawn; fewer mask with every other one."""

SECURITY_BITS = 40
"""The honest parties of a run fall apart with a chance of at most 2^-40 ..."""

CORRUPT = Fraction(1, 3)
"""... as long as no more than this part of all parties is corrupt."""


def is_drawn(parties: int) -> bool:
    """Whether so many parties mask with neighbours alone."""
    return parties >= LEAST_PARTIES


def chance_apart(parties: int, corrupt: int, neighbours: int) -> Fraction:
    """A bound on the chance that the honest parties fall apart (the equation above); `neighbours` is k, even."""
    honest, free = parties - corrupt, corrupt - neighbours
    if free < 0 or honest < 2:
        return Fraction(0)
    return Fraction(comb(honest, 2) * comb(free + honest - 1, honest - 1), comb(corrupt + honest - 1, honest - 1))


@functools.lru_cache(maxsize=64)
def neighbours_needed(parties: int) -> int:
    """k, even: the fewest neighbours with which the honest of so many parties stay connected, but for a chance of 2^-40.

    A lying aggregator may tell every party other keys, and so have a graph drawn for each: the bound holds for all of them together.
    """
    corrupt = int(parties * CORRUPT)
    allowed = Fraction(1, parties << SECURITY_BITS)
    return next(k for k in range(2, parties + 2, 2) if chance_apart(parties, corrupt, k) <= allowed)


def ring(members: tuple[str, ...], seed: bytes) -> tuple[str, ...]:
    """The members in the order that the seed (32 bytes) draws."""
    if len(seed) != HASH_BYTES:
        raise ProtocolError(f"a graph's seed has {HASH_BYTES} bytes, not {len(seed)}")
    return tuple(
        sorted(members, key=lambda name: hashlib.sha256(encode_fields("hansa mask ring v1", seed, name)).digest())
    )


def neighbours(member: str, members: tuple[str, ...], seed: bytes) -> tuple[str, ...]:
    """With whom `member` masks, sorted by name: all others, or `neighbours_needed` of them where there are many."""
    needed = neighbours_needed(len(members)) if is_drawn(len(members)) else len(members)
    if needed >= len(members) - 1:
        return tuple(sorted(name for name in members if name != member))
    order = ring(members, seed)
    at = order.index(member)
    return tuple(
        sorted(order[(at + sign * step) % len(order)] for step in range(1, needed // 2 + 1) for sign in (-1, 1))
    )
