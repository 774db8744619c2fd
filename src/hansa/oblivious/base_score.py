"""Where training starts: pooled sums of labels and weights, from which the model's base score follows. Opened, as part of it.

Owners share whole numbers (rows with label 1, or fixed-point labels), so that the sum is exact and does not depend on how the
rows are spread. Labels of squared error get their unit from their pooled variance, of which only the size is opened.
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.comparison import sign_part
from hansa.mpc.replicated import Address, Program, Server, add_to_part, open_to_all, reshare
from hansa.mpc.ring import BITS, RING64, ShareArray

MOST_EXPONENT = 30
"""Of the spread of numbers below 2^31."""

LEAST_EXPONENT = 3
"""A smaller spread is within the rounding of `squares`."""


def pooled_sums(server: Server, shares: ShareArray, address: Address) -> Program[list[int]]:
    """Open sums over owners of shared whole numbers. One round.

    Args:
        shares: in Z_2^64, (2, count): the sum of the owners' shares.
    """
    opened = yield from open_to_all(server, RING64, shares, address)
    return [int(number) for number in opened.view(np.int64)]


def spread_exponent(server: Server, squares: ShareArray, square_of_mean: int, address: Address) -> Program[int]:
    """e where 4^e <= mean of squares - square of the mean < 4^(e + 1), or `LEAST_EXPONENT` where that is less; opened. Eight rounds.

    Of all signs of variance - 4^e only one is news: they are ordered.

    Args:
        squares: mean of the squares of numbers below 2^31, rounded; shared in Z_2^64, (2,). square_of_mean: public.
    """
    levels = range(LEAST_EXPONENT + 1, MOST_EXPONENT + 1)
    parts = np.concatenate([add_to_part(server, RING64, squares[:1], -square_of_mean - 4**e) for e in levels])
    signs = yield from sign_part(server, RING64, parts, address.named("signs"))
    keep = np.uint64((1 << len(parts)) - 1)
    below = yield from reshare(server, BITS, signs & keep, address.named("bits"))
    opened = yield from open_to_all(server, BITS, below & keep, address.named("spread"))
    return MOST_EXPONENT - int(opened[0]).bit_count()
