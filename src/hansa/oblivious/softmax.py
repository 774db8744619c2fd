"""Probabilities of several classes on shares: p_k = e^(m_k - L), L = log(e^(m_1) + ... + e^(m_K)), without a maximum or a division.

L is put together by halves, from functions of one number each:

    log(e^a + e^b) = b + log(1 + e^(a - b)),      |a - b| <= 16

so K - 1 series of `fourier.softplus_part` give L in ceil(log2 K) steps, and K - 1 of `fourier.exponential_part` all probabilities but
the last, which is what they leave of 1.

>>> from math import exp, log
>>> margins = [0.5, -1.0, 2.0]
>>> first = margins[1] + log(1 + exp(margins[0] - margins[1]))
>>> whole = margins[2] + log(1 + exp(first - margins[2]))
>>> [round(exp(m - whole), 4) for m in margins]
[0.1753, 0.0391, 0.7856]

Only differences of margins matter. Where one leaves the range of its series (+-16, or 32 below L), the row's probabilities are wrong:
`check_range` tells, as for one margin.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hansa.mpc.comparison import truncate
from hansa.mpc.fourier import EXPONENTIAL_FRACTION, MARGIN_BITS, exponential_part, softplus_part
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_to_part,
    multiply,
    product_part,
    together,
)
from hansa.mpc.ring import RING32, RING64, ShareArray

SLACK = 2**6
"""Units of 2^-26 that exponents are taken below m - L, which noise may bring above 0, where e^t has no series: 1e-6 of each p."""

WIDE_BITS = 24
"""Fraction bits of p in Z_2^64."""


def log_sum_exp(
    server: Server, margins: ShareArray, address: Address, check_range: bool = False
) -> Program[tuple[ShareArray, list[ShareArray]]]:
    """L of every row, shared in Z_2^32 with 26 fraction bits, (2, rows); and bits of rows out of range.

    Three rounds a halving, with the check four. Noise: sd 2e-7 a halving.

    Args:
        margins: shared in Z_2^32 with 26 fraction bits, (2, K, rows).

    Returns:
        L, and with the check XOR-shared packed bits (2, ceil(rows / 64)) of each of the K - 1 differences.
    """
    nodes = [margins[:, k] for k in range(margins.shape[1])]
    outside: list[ShareArray] = []
    halving = 0
    while len(nodes) > 1:
        pairs = list(zip(nodes[0::2], nodes[1::2], strict=False))
        programs = [
            _joined(server, a, b, address.named(f"halving {halving} pair {number}"), check_range)
            for number, (a, b) in enumerate(pairs)
        ]
        found = yield from together(*programs)
        nodes = [whole for whole, _ in found] + nodes[2 * len(pairs) :]
        outside += [bits for _, own in found for bits in own]
        halving += 1
    return nodes[0], outside


def _joined(
    server: Server, a: ShareArray, b: ShareArray, address: Address, check_range: bool
) -> Program[tuple[ShareArray, list[ShareArray]]]:
    """log(e^a + e^b), and bits of rows where |a - b| > 16."""
    part, checks = yield from softplus_part(server, a[0] - b[0], address, check_range)
    shift = EXPONENTIAL_FRACTION - MARGIN_BITS
    added, *outside = yield from together(
        truncate(server, RING64, part, shift, address.named("softplus"), RING32), *checks
    )
    return b + added, outside


def probability_parts(
    server: Server, margins: ShareArray, address: Address, check_range: bool = False
) -> Program[tuple[list[ShareArray], list[ShareArray], list[Program[ShareArray]]]]:
    """p of every class and row as additive parts in Z_2^64 with 56 fraction bits, uint64 (rows,) each; they add up to exactly 1.

    Args:
        margins: as `log_sum_exp`.

    Returns:
        The parts; bits as `log_sum_exp`; and, with the check, programs of more such bits for the caller to run beside others.
    """
    whole, outside = yield from log_sum_exp(server, margins, address.named("sum"), check_range)
    classes = margins.shape[1]
    found = yield from together(
        *(
            exponential_part(
                server,
                add_to_part(server, RING32, margins[0, k] - whole[0], -SLACK),
                address.named(f"class {k}"),
                check_range,
            )
            for k in range(classes - 1)
        )
    )
    parts = [part for part, _ in found]
    rest = np.zeros_like(parts[0]) - np.add.reduce(parts)
    parts.append(add_to_part(server, RING64, rest, 1 << EXPONENTIAL_FRACTION))
    return parts, outside, [program for _, checks in found for program in checks]


def softmax_gradients(
    server: Server,
    margins: ShareArray,
    labels: Sequence[ShareArray],
    weights: Sequence[ShareArray] | None,
    row_bits: Sequence[int],
    weight_bits: Sequence[int],
    address: Address,
    check_range: bool = False,
) -> Program[tuple[list[tuple[ShareArray, ShareArray]], list[ShareArray]]]:
    """Of every class g and h as vectors (2, 1, 2, rows), and |g| (2, rows), with its row_bits fraction bits; and bits of rows out of
    range.

        g = w (p - y),  h = w p (1 - p),  |g| = w (p + y - 2 y p)

    h is half of XGBoost's.

    Args:
        margins: as `log_sum_exp`. labels: of each class, shared in Z_2^32, (2, rows), 0 or 1.
        weights: of each class as `training.Output.weights`, or None.
        row_bits, weight_bits: of each class, of results and of weights' words.
    """
    parts, outside, checks = yield from probability_parts(server, margins, address.named("p"), check_range)
    programs: list[Program[tuple[ShareArray, ShareArray]]] = []
    for k, part in enumerate(parts):
        place = address.named(f"gradients {k}")
        if weights is None:
            programs.append(_plain(server, part, labels[k], row_bits[k], place))
        else:
            programs.append(_weighted(server, part, weights[k], row_bits[k], weight_bits[k], place))
    results = yield from together(*programs, *checks)
    return results[: len(parts)], outside + results[len(parts) :]


def _plain(
    server: Server, part: ShareArray, labels: ShareArray, bits: int, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """Four rounds."""
    wide, p = yield from together(
        truncate(server, RING64, part, EXPONENTIAL_FRACTION - WIDE_BITS, address.named("wide")),
        truncate(server, RING64, part, EXPONENTIAL_FRACTION - bits, address.named("p"), RING32),
    )
    h, product = yield from together(
        truncate(server, RING64, _spread(wide), 2 * WIDE_BITS - bits, address.named("h"), RING32),
        multiply(server, RING32, labels, p, address.named("y p")),
    )
    ones = labels << np.uint32(bits)
    return _vectors(p - ones, h), p + ones - product - product


def _weighted(
    server: Server, part: ShareArray, weights: ShareArray, bits: int, weight_bits: int, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """Six rounds."""
    p = yield from truncate(server, RING64, part, EXPONENTIAL_FRACTION - WIDE_BITS, address.named("wide"))
    h = yield from truncate(server, RING64, _spread(p), WIDE_BITS, address.named("h"))
    return (yield from weighted_gradients(server, weights, p, h, weight_bits + WIDE_BITS - bits, address))


def weighted_gradients(
    server: Server, weights: ShareArray, p: ShareArray, h: ShareArray, shift: int, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """Vectors of g = w p - w y and w h, and |g| = w p + w y - 2 (w y) p, in Z_2^32. Two rounds.

    Args:
        weights: w and w y, shared in Z_2^64, (2, 2, rows). p, h: shared in Z_2^64 with WIDE_BITS fraction bits, (2, rows).
        shift: fraction bits that products have more than results.
    """
    w, w_y = weights[:, 0], weights[:, 1]
    w_p = product_part(RING64, w, p)
    ones = w_y[0] << np.uint64(WIDE_BITS)
    cross = product_part(RING64, w_y, p)
    parts = np.stack([w_p - ones, product_part(RING64, w, h), w_p + ones - cross - cross])
    words = yield from truncate(server, RING64, parts, shift, address.named("weighted"), RING32)
    return _vectors(words[:, 0], words[:, 1]), words[:, 2]


def _spread(p: ShareArray) -> ShareArray:
    """p (1 - p) as additive parts with twice the fraction bits."""
    return np.asarray((p[0] << np.uint64(WIDE_BITS)) - product_part(RING64, p, p))


def _vectors(first: ShareArray, second: ShareArray) -> ShareArray:
    return np.ascontiguousarray(np.stack([first, second], axis=1)[:, None])
