"""Where training starts: pooled sums of labels and weights, from which the model's base score follows. Opened, as part of it.

Owners share whole numbers (rows with label 1, or fixed-point labels), so that the sum is exact and does not depend on how the
rows are spread.
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.replicated import Address, Program, Server, open_to_all
from hansa.mpc.ring import RING64, Words


def pooled_sums(server: Server, shares: Words, address: Address) -> Program[list[int]]:
    """Open sums over owners of shared whole numbers. One round.

    Args:
        shares: in Z_2^64, (2, count): the sum of the owners' shares.
    """
    opened = yield from open_to_all(server, RING64, shares, address)
    return [int(number) for number in opened.view(np.int64)]
