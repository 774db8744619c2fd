"""Where training starts: the pooled sum of labels, from which the model's base score follows. Opened, as part of the model.

Owners share whole numbers (rows with label 1, or fixed-point labels), so that the sum is exact and does not depend on how the
rows are spread.
"""

from __future__ import annotations

from hansa.mpc.replicated import Address, Program, Server, open_to_all
from hansa.mpc.ring import RING64, Words


def pooled_sum(server: Server, shares: Words, address: Address) -> Program[int]:
    """Open the sum over owners of a shared whole number. One round.

    Args:
        shares: in Z_2^64, (2, 1): the sum of the owners' shares.
    """
    opened = yield from open_to_all(server, RING64, shares, address)
    return int(opened[0].astype("int64"))
