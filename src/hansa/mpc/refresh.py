"""Shares that outlive a process: whether both holders of each part keep the same one, and new parts for old values.

Part x_j lies at S_{j-1} and S_j. A *commitment* to it is a hash with 32 bytes of stream j in front, which the third server lacks: it
learns nothing of the part, and cannot try parts out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from hansa.errors import ServersDisagree
from hansa.mpc.replicated import Address, Program, Server, reshare, tell_others, together
from hansa.mpc.ring import BITS, Ring, ShareArray
from hansa.secure.keys import encode_fields

DIFFERENT = "the copies of a part that two servers keep differ"

Commitments = tuple[bytes, bytes, bytes]
"""To x_0, x_1 and x_2, 32 bytes each: the same at all three servers."""


def compare_copies(server: Server, arrays: Sequence[ShareArray], address: Address) -> Program[Commitments]:
    """Commitments to the three parts of all arrays, once both holders of each showed the same. One round, 64 bytes to each other.

    Each server shows both others its two commitments. So it gets that to the part that it lacks from both who hold it, and each of its
    own from the other holder.

    Args:
        arrays: shared, (2, ...), in the same order, of the same shapes at all servers.

    Raises:
        ServersDisagree: naming the two others where one server's copy differs from another's, or the one whose copy differs from this
            server's.
    """
    own = np.stack([_commitment(server, half, arrays, address) for half in range(2)])
    told = yield from tell_others(server, own, address.tensor)
    after, before = told[server.following], told[server.previous]
    for who, theirs, mine in ((server.following, after[0], own[1]), (server.previous, before[1], own[0])):
        if not np.array_equal(theirs, mine):
            raise ServersDisagree((who,), DIFFERENT, address.tensor)
    if not np.array_equal(after[1], before[0]):
        raise ServersDisagree((server.following, server.previous), DIFFERENT, address.tensor)
    by_part = {server.index: own[0], server.following: own[1], server.previous: after[1]}
    first, second, third = (by_part[part].tobytes() for part in range(3))
    return first, second, third


def _commitment(server: Server, half: int, arrays: Sequence[ShareArray], address: Address) -> ShareArray:
    """To this server's own (0) or next (1) part of all arrays, uint8 (32,)."""
    number = (server.index + half) % 3
    salt = server.source.draw(number, address, "commitment", BITS, (4,)).astype("<u8").tobytes()
    digest = hashlib.sha256(encode_fields("hansa share commitment v1", salt, len(arrays)))
    for array in arrays:
        part = np.ascontiguousarray(array[half])
        digest.update(encode_fields(part.dtype.str, *part.shape))
        digest.update(part.reshape(-1).view(np.uint8).data)
    return np.frombuffer(digest.digest(), np.uint8)


def refresh(
    server: Server, arrays: Mapping[Ring, Sequence[ShareArray]], address: Address
) -> Program[dict[Ring, list[ShareArray]]]:
    """The same values in new parts, which depend on nothing that was there before: x_i + a_i, a fresh sharing of zero. One round.

    A part that was read from one server's disk before, and another part from another's after, add up to nothing.

    Args:
        arrays: by ring, shared, (2, ...); of bits as `ring.BYTES` or `ring.BITS`.
    """
    programs = [
        reshare(server, ring, np.concatenate([array[0].reshape(-1) for array in own]), address.named(ring.name))
        for ring, own in arrays.items()
        if own
    ]
    fresh = yield from together(*programs)
    found: dict[Ring, list[ShareArray]] = {}
    for ring, own in arrays.items():
        edges = np.cumsum([array[0].size for array in own])
        parts_of = np.split(fresh.pop(0), edges[:-1], axis=1) if own else []
        found[ring] = [part.reshape(array.shape).copy() for part, array in zip(parts_of, own, strict=True)]
    return found
