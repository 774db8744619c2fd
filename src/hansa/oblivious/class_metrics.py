"""mlogloss and merror of held-out rows on shares, from the margins of all classes. Names and formulas are XGBoost's:

mlogloss  mean of L - m_y, L = log(e^(m_1) + ... + e^(m_K)): no probability is clipped
merror    share of rows where y is not the first of the classes with the highest margin
"""

from __future__ import annotations

import numpy as np

from hansa.mpc.comparison import bits_to_arithmetic, extend, sign_part
from hansa.mpc.fourier import MARGIN_BITS
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    product_part,
    reshare,
    together,
)
from hansa.mpc.ring import BITS, RING32, RING64, ShareArray
from hansa.oblivious.softmax import log_sum_exp

MOST_LOSS = 28
"""Of a row: losses up to this, less `MIDDLE`, fit +-16."""

MIDDLE = MOST_LOSS - 16


def class_losses(
    server: Server, margins: ShareArray, labels: ShareArray, address: Address
) -> Program[tuple[ShareArray, int, int]]:
    """L - m_y of every row, shared in Z_2^64 (2, rows); its fraction bits; and v where no value exceeds 2^v.

    Args:
        margins: shared in Z_2^32 with 26 fraction bits, (2, K, rows), in range (`rows_beyond`). labels: 0 or 1, shared in Z_2^32,
            (2, K, rows).
    """
    whole, _ = yield from log_sum_exp(server, margins, address.named("sum"))
    part = whole[0] - product_part(RING32, labels, margins).sum(axis=0, dtype=np.uint32)
    wide = yield from extend(server, add_to_part(server, RING32, part, -MIDDLE << MARGIN_BITS), address.named("wide"))
    return add_public(server, RING64, wide, MIDDLE << MARGIN_BITS), MARGIN_BITS, 5


def right_classes(server: Server, margins: ShareArray, labels: ShareArray, address: Address) -> Program[ShareArray]:
    """1 where y is the first of the classes with the highest margin, else 0; shared in Z_2^32, (2, rows).

    It is where m_y - m_k - [k < y] is never negative, in units of 2^-26. [k < y] is the sum of the labels of the classes behind k.

    Args:
        margins, labels: as `class_losses`.
    """
    _, classes, rows = margins.shape
    own = product_part(RING32, labels, margins).sum(axis=0, dtype=np.uint32)
    behind = [labels[0, k + 1 :].sum(axis=0, dtype=np.uint32) for k in range(classes)]
    signs = yield from together(
        *(
            sign_part(server, RING32, own - margins[0, k] - behind[k], address.named(f"sign {k}"))
            for k in range(classes)
        )
    )
    below = yield from together(
        *(reshare(server, BITS, bits, address.named(f"bits {k}")) for k, bits in enumerate(signs))
    )
    good = [add_public(server, BITS, bits, np.uint64(2**64 - 1)) for bits in below]
    halving = 0
    while len(good) > 1:
        half = len(good) // 2
        place = address.named(f"all {halving}")
        both = yield from multiply(
            server, BITS, np.stack(good[:half], axis=1), np.stack(good[half : 2 * half], axis=1), place
        )
        good = [both[:, number] for number in range(half)] + good[2 * half :]
        halving += 1
    return (yield from bits_to_arithmetic(server, good[0][0], rows, RING32, address.named("right")))


def rows_beyond(server: Server, margins: ShareArray, address: Address) -> Program[list[ShareArray]]:
    """XOR-shared packed bits (2, ceil(rows / 64)) of rows where a difference of `log_sum_exp` leaves +-16, or a class has m < L - 28.

    Args:
        margins: as `class_losses`.
    """
    whole, outside = yield from log_sum_exp(server, margins, address.named("sum"), check_range=True)
    low = yield from together(
        *(
            sign_part(
                server,
                RING32,
                add_to_part(server, RING32, margins[0, k] - whole[0], MOST_LOSS << MARGIN_BITS),
                address.named(f"low {k}"),
            )
            for k in range(margins.shape[1])
        )
    )
    beyond = yield from together(
        *(reshare(server, BITS, bits, address.named(f"beyond {k}")) for k, bits in enumerate(low))
    )
    return outside + beyond
