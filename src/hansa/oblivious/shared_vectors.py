"""Vectors of whole numbers as shares: what an owner sends to the three servers when it is asked for counts.

x = x_0 + x_1 + x_2 in Z_2^64 (Araki et al., CCS 2016). x_0 and x_1 are key streams, so that only x_2 travels: S_0
gets two keys, S_1 and S_2 a key and x_2. Shares of several owners are added by their receivers, locally.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.mpc.ring import ShareArray
from hansa.secure.prg import Algorithm, KeyStream, fresh_key

EXPLICIT = 2
"""The part that travels."""


@dataclass(frozen=True)
class VectorShares:
    """What an owner sends to one server. Secret to that server.

    Attributes:
        count: entries of the vector.
        keys: for own and following part: 32 bytes where that part is a key stream, else None.
        part: the part that travels, uint64 (count,), where this server holds it, else None.
    """

    count: int
    keys: tuple[bytes | None, bytes | None]
    part: ShareArray | None


def share_vector(values: npt.NDArray[Any], algorithm: Algorithm) -> list[VectorShares]:
    """Share a vector of whole numbers: one message for each server.

    Args:
        values: any integers (count,), secret; taken mod 2^64.
    """
    rest = np.ascontiguousarray(values).astype(np.uint64)
    count = len(rest)
    keys = {number: bytes(fresh_key()) for number in range(3) if number != EXPLICIT}
    for key in keys.values():
        rest = rest - _stream(key, count, algorithm)
    return [
        VectorShares(
            count,
            (keys.get(server), keys.get((server + 1) % 3)),
            rest if EXPLICIT in (server, (server + 1) % 3) else None,
        )
        for server in range(3)
    ]


def receive_vector(server: int, message: VectorShares, count: int, algorithm: Algorithm) -> ShareArray:
    """A server's pair (2, count) in Z_2^64 from an owner's message.

    Raises:
        ProtocolError: the message is for another server, or of another size than asked.
    """
    numbers = (server, (server + 1) % 3)
    explicit = EXPLICIT in numbers
    fits = message.count == count and [key is None for key in message.keys] == [n == EXPLICIT for n in numbers]
    fits = fits and all(key is None or len(key) == 32 for key in message.keys)
    if explicit:
        fits = fits and message.part is not None and message.part.dtype == np.uint64 and message.part.shape == (count,)
    if not fits or (not explicit and message.part is not None):
        raise ProtocolError(f"server {server}: an owner's shares are not those of {count} numbers for this server")
    halves = [message.part if key is None else _stream(key, count, algorithm) for key in message.keys]
    return np.stack([np.asarray(half) for half in halves])


def _stream(key: bytes, count: int, algorithm: Algorithm) -> ShareArray:
    return KeyStream(key, algorithm, size=8 * count).words64(count)
