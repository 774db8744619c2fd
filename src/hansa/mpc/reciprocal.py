"""Reciprocals and scales of secret positive numbers, by a secret power of two.

An integer x in [1, 2^31) is brought to nu = x c / 2^31 in [1/2, 1) by c = 2^(30 - floor(log2 x)), which is
linear in the bits [x >= 2^j]; 1 / nu then comes from three steps of Goldschmidt's iteration.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hansa.mpc.comparison import truncate
from hansa.mpc.replicated import Address, Program, Server, add_public, multiply, product_part
from hansa.mpc.ring import RING64, ShareArray

NORMAL_BITS = 31
"""Numbers lie below 2^31."""

SEED = round(2.9142 * 2**30)
"""|1 - nu (2.9142 - 2 nu)| <= .0858 on [1/2, 1] (Catrina & Saxena, FC 2010, section 3.4)."""


def threshold_parts(server: Server, x: ShareArray, lowest: int) -> ShareArray:
    """Additive parts of x - 2^j for j = lowest .. 30, stacked: (31 - lowest, ...); negative where x < 2^j.

    Args:
        x: shared in Z_2^64, (2, ...).
    """
    parts = np.repeat(x[:1], NORMAL_BITS - lowest, axis=0)
    if server.index == 0:
        for row in range(len(parts)):
            parts[row] -= np.uint64(1 << (lowest + row))
    return parts


def normaliser(server: Server, below: ShareArray, lowest: int) -> ShareArray:
    """c = 2^(30 - floor(log2 x)), and 0 where x < 1, from below_j = [x < 2^j]; local.

        c = sum_j [x >= 2^j] (2^(30-j) - 2^(31-j) [j > lowest])

    Where `lowest` > 0, x >= 2^lowest is taken for granted and below_lowest is not read.

    Args:
        below: shared 0 or 1 in Z_2^64, (2, 31 - lowest, ...).
    """
    at_least = add_public(server, RING64, RING64.subtract(np.zeros_like(below), below), 1)
    total: Any = at_least[:, 0] << np.uint64(30)
    if lowest > 0:
        total = add_public(server, RING64, np.zeros_like(below[:, 0]), 1 << (30 - lowest))
    for row in range(1, below.shape[1]):
        total = total - at_least[:, row] * np.uint64(1 << (30 - lowest - row))
    return np.asarray(total)


def inverse(server: Server, x: ShareArray, c: ShareArray, address: Address) -> Program[ShareArray]:
    """2^61 / x = c y, within a relative 2^-26.5 where 1 <= x < 2^31, and 0 where x = 0.

    Ten rounds. Arguments as `mantissa`.
    """
    y = yield from mantissa(server, x, c, address)
    return (yield from multiply(server, RING64, c, y, address.named("c y")))


def mantissa(server: Server, x: ShareArray, c: ShareArray, address: Address) -> Program[ShareArray]:
    """y = 2^30 / nu, nu = x c / 2^31 in [1/2, 1).

        y_0 = 2.9142 - 2 nu,  e_0 = 1 - nu y_0,  y_{k+1} = y_k (1 + e_k),  e_{k+1} = e_k^2,  y = y_3

    (Goldschmidt 1964; Catrina & Saxena, FC 2010, section 3.4.) nu has 31 fraction bits, y and e have 30.
    Nine rounds.

    Args:
        x, c: shared in Z_2^64, (2, ...); c from `normaliser`.
    """
    nu = yield from multiply(server, RING64, x, c, address.named("nu"))
    y = add_public(server, RING64, np.zeros_like(nu) - nu, SEED)
    short = yield from truncate(server, RING64, product_part(RING64, nu, y), 31, address.named("nu y"))
    e = add_public(server, RING64, np.zeros_like(short) - short, 1 << 30)
    for step in range(3):
        parts = product_part(RING64, np.stack([y, e], axis=1)[:, : 2 if step < 2 else 1], e[:, None])
        both = yield from truncate(server, RING64, parts, 30, address.named(f"step {step}"))
        y = y + both[:, 0]
        if step < 2:
            e = both[:, 1]
    return y
