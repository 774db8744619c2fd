"""The best split of each node, as a shared one-hot: scores without a division each, then a tournament.

With u = H_L + lambda, v = H_R + lambda, U = u + v, rho = u / U and e = G_L - G rho, the gain of XGBoost
(Chen & Guestrin 2016, eq. 7, without its factor 1/2) is

    G_L^2/u + G_R^2/v - G^2/(H + lambda) = e^2 / (U rho (1 - rho)) - G^2 lambda / ((H + lambda) U)

so within a node candidates are ordered by e^2 / q, q = rho (1 - rho), and a split beats none where

    e^2 / q > G^2 lambda / (H + lambda) + gamma U.

"No split" is candidate 0, with q = 1/4 and a quarter of the right side as numerator. Two candidates are
compared by e_a^2 q_b < e_b^2 q_a; ties go to the lower one. Nothing is opened but masked values.

Why the first equation holds: G_L = e + G rho and G_R = G (1 - rho) - e, and u = U rho, v = U (1 - rho). So the two fractions on the
left add up to e^2 / (U q) + G^2 / U, and G^2 / U - G^2 / (H + lambda) = -G^2 lambda / ((H + lambda) U), since U = H + 2 lambda.

An example, lambda = 1: rows with (G_L, H_L) = (-3, 2) go left, those with (G_R, H_R) = (5, 3) right.

>>> from fractions import Fraction
>>> lam, g_left, h_left, g_right, h_right = 1, -3, 2, 5, 3
>>> g, h = g_left + g_right, h_left + h_right
>>> u, v, upper = h_left + lam, h_right + lam, h + 2 * lam
>>> Fraction(g_left**2, u) + Fraction(g_right**2, v) - Fraction(g**2, h + lam)
Fraction(103, 12)
>>> rho = Fraction(u, upper)
>>> e, q = g_left - g * rho, rho * (1 - rho)
>>> rho, e, q
(Fraction(3, 7), Fraction(-27, 7), Fraction(12, 49))
>>> e**2 / (upper * q) - Fraction(g**2 * lam, (h + lam) * upper)
Fraction(103, 12)
>>> e**2 / q, Fraction(g**2 * lam, h + lam)  # it splits where gamma U, 7 gamma, is below 60 3/4 - 2/3
(Fraction(243, 4), Fraction(2, 3))

Formats. Sums have f fraction bits and lie within +-2^30. A node's e is scaled by a secret power of two, k = 2^(30 - floor(log2 S)),
where S = sum |g| + A of the node, in units of 2^-f. So S k is in [2^30, 2^31). As rho is in [0, 1] and e = (1 - rho) G_L - rho G_R,
|e| <= S. With SCORE_BITS = 38 for the numerator n and RATIO_BITS = 26 for q:

    |e k| < 2^31                          so e^2 k^2 < 2^62, below which `truncate` needs it
    n = e^2 k^2 2^(38 - 62)               at most 2^38
    q 2^26 + 2                            from 1 to 2^24 + 2, since 0 < q <= 1/4
    n_a q_b and n_b q_a                   from 0 to 2^38 (2^24 + 2) = 2^62 + 2^39: their difference is within +-2^63

So 38 and 26 are all the bits that there are: one more for either, and the difference could wrap. The numerator of "no split" is at
most 2^38 too; that is what A is for (`training._bounds`). Two units are added to q because a ratio must be positive: where rho is
nearly 1 its error, below 2^-26, can bring q down to -2^-26, which is -1 unit once rounded.

What is lost, by `reciprocal.inverse` (a part 2^-26.5 of 1 / U) and by rounding each result at random to one of its two neighbours:

    q             at most 4 2^-26 off: a part 2^-24 / q of the score
    e k           at most 2^-26.5 rho |G| k + 3 off: twice the part of it that this is
    n             at most 1 more off: a part 2^-36 (S / e)^2

The example with f = 13, where the left rows' g are -3 and the right rows' add up to 5, and A = 1: S = (3 + 5 + 1) 2^13.

>>> scale = 9 * 2**13
>>> k = 2 ** (30 - (scale.bit_length() - 1))
>>> k, scale * k / 2**30
(16384, 1.125)
>>> e_k = e * 2**13 * k  # -27/7 2^27
>>> n, ratio = int(e_k**2 / 2**24), int(q * 2**26) + 2
>>> round(n / 2**38, 6), round(ratio / 2**24, 6)
(0.058115, 0.979592)
>>> round(n / 2**38 * (2**31 / (2**13 * k)) ** 2 / (ratio / 2**26), 4)  # e^2 / q = 60 3/4
60.75
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb
from typing import Any

import numpy as np

from hansa.mpc.comparison import Products, bit_products, sign_part, signs, truncate
from hansa.mpc.reciprocal import NORMAL_BITS, inverse, normaliser, threshold_parts
from hansa.mpc.replicated import (
    Address,
    Program,
    Server,
    add_public,
    add_to_part,
    multiply,
    product_part,
    public,
    reshare,
    reshare_of_evaluators,
    together,
)
from hansa.mpc.ring import BITS, BYTES, RING64, ShareArray, pack_bits, unpack_bits
from hansa.oblivious.weight_bounds import ROUNDED_UNITS, STEP_BITS, BoundedSums, bounded_terms

SCORE_BITS = 38
RATIO_BITS = 26
QUARTER = 1 << (RATIO_BITS - 2)
"""The greatest rho (1 - rho), and the ratio of what is no candidate: a greater one, times e^2, would wrap."""
RHO_BITS = 30
LEAST_UNITS = 8

NOISE_BITS, LEAST_GAMMA = 4, -34
"""A gain is at least the square of some units of the sums, which rounding alone gives to a node of rows that are all alike, and at
least 2^-34, which numerators still hold."""


@dataclass(frozen=True)
class Scoring:
    """Public integers of the score, all with `fraction_bits` fraction bits but gamma.

    Attributes:
        fraction_bits: f of the sums of gradients and hessians.
        reg_lambda: lambda 2^f.
        least_hessian: m' 2^f, m' = max(min_child_weight, 8 2^-f): sums of no rows come out as a few units, because a parent's
            sum and its left child's are rounded apart, and must not pass for a child.
        least_scale_bit: S >= 2^least_scale_bit in every node.
        gamma: gamma 2^(f + gamma_bits). k <= 2^(30 - least_scale_bit), and gamma_bits is the largest with which gamma k <= 2^30:
            so this is in [2^(least_scale_bit - 1), 2^least_scale_bit], rounded by less than one part in 2^least_scale_bit.
        gamma_bits: may be negative.
        ratio_shift: U k 2^-ratio_shift stays below 2^30. As H <= S - A (`training._bounds`), U k = (H + 2 lambda) k is below
            S k (1 + 2 lambda / S) < 2^31 (1 + 2 lambda / A).
        alpha: alpha 2^f. step: max_delta_step 2^STEP_BITS. Both 0 where weights are not bounded (`weight_bounds`).

    An example: f = 13, lambda = 1, gamma = 1/2, A = 1.

    >>> scoring(13, 1.0, 0.5, 1.0, 1.0)
    Scoring(fraction_bits=13, reg_lambda=8192, least_hessian=8192, least_scale_bit=13, gamma=8192, gamma_bits=1, ratio_shift=3, \
alpha=0, step=0)
    >>> k = 2 ** (30 - 13)  # the largest, where S = A
    >>> 8192 * k == 2**30, (1 + 2) * 2**13 * k / 2**3 < 2**30  # gamma k, and (S + 2 lambda) k 2^-ratio_shift
    (True, True)
    """

    fraction_bits: int
    reg_lambda: int
    least_hessian: int
    least_scale_bit: int
    gamma: int
    gamma_bits: int
    ratio_shift: int
    alpha: int = 0
    step: int = 0

    @property
    def bounded(self) -> bool:
        """Whether alpha or max_delta_step bounds weights."""
        return bool(self.alpha or self.step)

    @property
    def score_bits(self) -> int:
        """Fraction bits of numerators: one is the sign's where they may be negative."""
        return SCORE_BITS - self.bounded


def scoring(
    fraction_bits: int,
    reg_lambda: float,
    gamma: float,
    min_child_weight: float,
    scale_floor: float,
    reg_alpha: float = 0.0,
    max_delta_step: float = 0.0,
) -> Scoring:
    """The integers for public parameters; `scale_floor` is A, at least 1."""
    unit = 2.0**fraction_bits
    least_scale_bit = int(scale_floor * unit).bit_length() - 1
    gamma = max(gamma, 2.0 ** max(LEAST_GAMMA, NOISE_BITS - 2 * fraction_bits))
    largest_k = 2 ** (NORMAL_BITS - 1 - least_scale_bit)
    gamma_bits = 30 - _log2_ceil(gamma * unit * largest_k)
    # U k <= (S + 2 lambda 2^f) k < 2^31 (1 + 2 lambda / A).
    ratio_shift = 1 + _log2_ceil(1 + 2 * reg_lambda / scale_floor)
    return Scoring(
        fraction_bits=fraction_bits,
        reg_lambda=round(reg_lambda * unit),
        least_hessian=max(LEAST_UNITS, round(min_child_weight * unit)),
        least_scale_bit=least_scale_bit,
        gamma=round(gamma * 2.0 ** (fraction_bits + gamma_bits)),
        gamma_bits=gamma_bits,
        ratio_shift=ratio_shift,
        # No sum exceeds 2^30 units.
        alpha=min(round(reg_alpha * unit), 1 << 30),
        step=round(max_delta_step * 2**STEP_BITS),
    )


def _log2_ceil(value: float) -> int:
    mantissa, exponent = np.frexp(value)
    return int(exponent) - int(mantissa == 0.5)


def find_splits(
    server: Server,
    left: ShareArray,
    totals: ShareArray,
    scale: ShareArray,
    constants: Scoring,
    address: Address,
    directions: Any = None,
) -> Program[ShareArray]:
    """The best candidate of each node, index 0 meaning none.

    Args:
        left: sums of gradient and hessian left of each candidate, shared in Z_2^64, (2, 2, nodes,
        candidates). totals: G and H of the nodes, (2, 2, nodes).
        scale: S = sum |g| + A of the nodes, (2, nodes).
        directions: of monotone constraints, by candidate: 1, -1 or 0; None for none.

    Returns:
        XOR-shared bits, uint8 (2, nodes, candidates + 1), one of which is 1 in each node.
    """
    numerators, ratios = yield from score(server, left, totals, scale, constants, address.named("score"), directions)
    return (yield from tournament(server, numerators, ratios, address.named("tournament")))


def score(
    server: Server,
    left: ShareArray,
    totals: ShareArray,
    scale: ShareArray,
    constants: Scoring,
    address: Address,
    directions: Any = None,
) -> Program[tuple[ShareArray, ShareArray]]:
    """Numerators (38 bits behind the node's scale) and q (26 bits) of "no split" and of each candidate.

    Every product that is truncated is at most 2^62. G, H, S, lambda are in units of 2^-f; ^ marks numbers that have fraction bits:

        c          2^(30 - floor(log2 U)),  k likewise of S, 0 where H < 2 m'
        inverse    2^61 / U
        rho^       u (2^61 / U) 2^-31                        u <= U:               2^61   -> 30 bits
        tau^       lambda (2^61 / (H + lambda)) 2^-31        H >= 0:               2^61   -> 30 bits
        e^         (G_L k 2^30 - rho^ G k) 2^-30             |e k| < 2^31:         2^61   -> e k
        (G tau)^   G k tau^ 2^-30                            |G k| < 2^31:         2^61   -> G k tau
        n          e^ e^ 2^(38 - 62)                                               2^62   -> 38 bits
        q          rho^ (2^30 - rho^) 2^(26 - 60)            rho (1 - rho) <= 1/4: 2^58   -> 26 bits
        n of none  G k (G tau)^ 2^(38 - 64)                  a quarter of G^2 tau: 2^62   -> 36 bits
                   and a quarter of gamma U (`_scaled_totals`)

    Of the product that tells validity, (H_L - m') (H_R - m'), below 2^60, the sign counts. Where both factors are negative it is
    positive, but then H < 2 m', and k = 0 makes all numerators 0: candidate 0 wins.

    With alpha or max_delta_step numerators are those of `weight_bounds`, with 37 bits and a sign. They take no more rounds, because
    all that they need is computed beside the inverses, rho and e.

    Arguments as `find_splits`. Returns two arrays (2, nodes, candidates + 1), shared in Z_2^64. Twenty-two
    rounds; per candidate about 100 bytes from S_0 and S_1 and 130 from S_2 (with one of the two bounds about 300 and 450).
    """
    ring, lam = RING64, constants.reg_lambda
    nodes = left.shape[2]
    g_left, u_left = left[:, 0], add_public(server, ring, left[:, 1], lam)
    g, h = totals[:, 0], totals[:, 1]
    upper = np.stack([add_public(server, ring, h, 2 * lam), add_public(server, ring, h, lam)], axis=1)
    bounded = None
    if constants.bounded:
        own = (g_left, u_left), (g, upper[:, 1])
        bounded = BoundedSums.of(server, *own, upper[:, 0], constants.alpha, constants.step)
    valid, node_valid, below_upper, below_scale, beyond = yield from _conditions(
        server, left[:, 1], h, upper, scale, bounded, constants, address.named("conditions")
    )
    c = normaliser(server, below_upper, 0)
    k = normaliser(server, below_scale, constants.least_scale_bit)
    kept = [] if bounded is None else [bounded.kept(server, beyond, address.named("kept"))]
    inverses, (k, g_scaled, numerator_gamma), *kept_sums = yield from together(
        inverse(server, upper, c, address.named("inverse")),
        _scaled_totals(server, g, upper[:, 0], k, node_valid, constants, address.named("scaled")),
        *kept,
    )
    inverse_u = inverses[:, 0][:, :, None]
    # rho 2^61 = u (2^61 / U); tau 2^61 = lambda (2^61 / (H + lambda)).
    scaled = [] if bounded is None else [bounded.scaled(server, kept_sums[0], k, address.named("bounded"))]
    rho, tau, *kept_scaled = yield from together(
        truncate(server, ring, product_part(ring, u_left, inverse_u), 31, address.named("rho")),
        truncate(server, ring, inverses[0, 1] * np.uint64(lam), 31, address.named("tau")),
        *scaled,
    )
    other = add_public(server, ring, np.zeros_like(rho) - rho, 1 << RHO_BITS)
    if bounded is None:
        e, square, none_square = yield from _squares(server, g_left, g_scaled, k, rho, tau, address)
    else:
        y, z = kept_scaled[0]
        terms = yield from bounded_terms(server, bounded, y, z, rho, other, tau, RHO_BITS, address.named("terms"))
        e = terms.e_y
        square, none_square = terms.parts()
    if directions is not None:
        units = 0 if bounded is None else ROUNDED_UNITS
        valid = yield from _on_the_right_side(server, e, valid, directions, units, address.named("monotone"))
    # Of bounded weights these are half the numerators, which have one bit less.
    shift = 62 - SCORE_BITS
    squares, ratios, numerator_lambda = yield from together(
        truncate(server, ring, square, shift, address.named("e e")),
        truncate(server, ring, product_part(ring, rho, other), 2 * RHO_BITS - RATIO_BITS, address.named("q")),
        truncate(server, ring, none_square, shift + 2, address.named("g g tau")),
    )
    # Valid candidates keep (e^2, q + 2 ulp), others become (0, 1/4), or where numerators may be negative what "no split" is.
    none = (numerator_lambda + numerator_gamma)[:, :, None]
    nothing = np.zeros_like(none) if bounded is None else none
    first, second = yield from together(
        multiply(server, ring, squares - nothing, valid, address.named("numerators")),
        multiply(server, ring, add_public(server, ring, ratios, 2 - QUARTER), valid, address.named("ratios")),
    )
    quarter = public(server, ring, np.full((nodes, 1), QUARTER, np.uint64))
    return np.concatenate([none, first + nothing], axis=2), np.concatenate(
        [quarter, add_public(server, ring, second, QUARTER)], axis=2
    )


def _squares(
    server: Server,
    g_left: ShareArray,
    g_scaled: ShareArray,
    k: ShareArray,
    rho: ShareArray,
    tau: ShareArray,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray, ShareArray]]:
    """e k, and additive parts of its square and of G^2 tau k^2. Two rounds."""
    e_part = product_part(RING64, g_left, (k << np.uint64(RHO_BITS))[:, :, None])
    e_part -= product_part(RING64, rho, g_scaled[:, :, None])
    e, g_tau = yield from together(
        truncate(server, RING64, e_part, RHO_BITS, address.named("e")),
        truncate(server, RING64, product_part(RING64, g_scaled, tau), RHO_BITS, address.named("g tau")),
    )
    return e, product_part(RING64, e, e), product_part(RING64, g_scaled, g_tau)


def _on_the_right_side(
    server: Server, e: ShareArray, valid: ShareArray, directions: Any, units: int, address: Address
) -> Program[ShareArray]:
    """valid [e >= -units] under an increasing constraint, valid [e <= units] under a decreasing one. Six rounds.

    e (u + v) = G_L v - G_R u, so e >= 0 is -G_L / u <= -G_R / v: the left value is at most the right one.
    """
    bound = np.flatnonzero(directions)
    if not bound.size:
        return valid
    part = e[0][:, bound] * np.asarray(directions)[bound].astype(np.uint64)
    part = add_to_part(server, RING64, np.ascontiguousarray(part).reshape(-1), units)
    wrong = yield from signs(server, RING64, part, address.named("sign"))
    own = valid[:, :, bound]
    lost = yield from multiply(server, RING64, own, wrong.reshape(own.shape), address.named("lost"))
    kept = valid.copy()
    kept[:, :, bound] = own - lost
    return kept


def _conditions(
    server: Server,
    h_left: ShareArray,
    h: ShareArray,
    upper: ShareArray,
    scale: ShareArray,
    bounded: BoundedSums | None,
    constants: Scoring,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray, ShareArray, ShareArray, list[ShareArray]]]:
    """[(H_L - m')(H_R - m') >= 0], [H >= 2 m'], the thresholds of the normalisers and of bounded weights, all in one batch."""
    ring, least = RING64, constants.least_hessian
    x = add_public(server, ring, h_left, -least)
    y = add_public(server, ring, h[:, :, None] - h_left, -least)
    parts = [
        product_part(ring, x, y),
        add_to_part(server, ring, h[0], -2 * least),
        threshold_parts(server, upper, 0),
        threshold_parts(server, scale, constants.least_scale_bit),
        *([] if bounded is None else bounded.parts()),
    ]
    sizes = np.cumsum([part.size for part in parts])[:-1]
    negative = yield from signs(server, ring, np.concatenate([part.reshape(-1) for part in parts]), address)
    valid, node_valid, below_upper, below_scale, *beyond = (
        bits.reshape(2, *part.shape) for bits, part in zip(np.split(negative, sizes, axis=1), parts, strict=True)
    )
    return (
        add_public(server, ring, np.zeros_like(valid) - valid, 1),
        add_public(server, ring, np.zeros_like(node_valid) - node_valid, 1),
        below_upper,
        below_scale,
        beyond,
    )


def _scaled_totals(
    server: Server,
    g: ShareArray,
    u: ShareArray,
    k: ShareArray,
    node_valid: ShareArray,
    constants: Scoring,
    address: Address,
) -> Program[tuple[ShareArray, ShareArray, ShareArray]]:
    """k [H >= 2 m'], then with this k: G k, and a quarter of gamma U in the units of e^2 k^2.

    A node that is too small gets k = 0, so that all its numerators are 0 and "no split" wins the tie. (There
    both sides of a candidate can be below m', and the product that tells validity positive.)
    The last result has `score_bits` where |e k| = 2^31.
    """
    ring = RING64
    k = yield from multiply(server, ring, k, node_valid, address.named("k"))
    g_scaled, ratio = yield from together(
        multiply(server, ring, g, k, address.named("g")),
        truncate(server, ring, product_part(ring, u, k), constants.ratio_shift, address.named("u")),
    )
    # gamma U 2^2f k^2 / 2^62, times 2^score_bits / 4.
    shift = 64 - constants.score_bits + constants.gamma_bits - constants.ratio_shift
    part = product_part(ring, ratio, k * np.uint64(constants.gamma))
    if shift <= 0:
        grown = yield from reshare(server, ring, part << np.uint64(-shift), address.named("gamma"))
        return k, g_scaled, grown
    return k, g_scaled, (yield from truncate(server, ring, part, shift, address.named("gamma")))


MOST_ITEMS = (10, 6)
"""Items of a group in the last round of a tournament, and in the round before. In a group of k the bit of a winner is a
product over its k - 1 matches: S_2 deals some k 2^(k-1) products of masks, which is little only where few groups are left."""

EARLY_ITEMS = 4


@cache
def group_sizes(items: int) -> tuple[int, ...]:
    """Items of a group, round by round, in a tournament of `items`: as few rounds as can be, then as few matches."""
    last, before = MOST_ITEMS
    if items <= last:
        return (items,) if items > 1 else ()
    if items > last * before:
        return (EARLY_ITEMS, *group_sizes(-(-items // EARLY_ITEMS)))

    def matches(size: int) -> int:
        groups = -(-items // size)
        return groups * comb(size, 2) + comb(groups, 2)

    size = min((size for size in range(2, before + 1) if -(-items // size) <= last), key=matches)
    return (size, -(-items // size))


@cache
def _pairs(size: int) -> tuple[tuple[int, int], ...]:
    """The matches of a group."""
    return tuple(combinations(range(size), 2))


@cache
def _wins(size: int) -> Products:
    """Which matches slots 1, 2, ... must win and, negated, not lose to a later slot: together they win the group."""
    match = {pair: row for row, pair in enumerate(_pairs(size))}
    return tuple(
        tuple(
            [match[before, slot] for before in range(slot)] + [~match[slot, after] for after in range(slot + 1, size)]
        )
        for slot in range(1, size)
    )


def tournament(server: Server, numerators: ShareArray, ratios: ShareArray, address: Address) -> Program[ShareArray]:
    """Who has the greatest numerator / ratio; ties go to the lower index.

    Neighbours play all matches of their group. The winners' values go up, and meanwhile the one-hot of each group's winner is joined to
    those of the groups below. Six rounds for each of `group_sizes`; per item about 40 bytes from S_0 and S_1 and 170 from S_2.

    Args:
        numerators, ratios: shared in Z_2^64, (2, nodes, items); every ratio is positive.

    Returns:
        XOR-shared one-hots, uint8 (2, nodes, items).
    """
    items, nodes = numerators.shape[2], numerators.shape[1]
    won = add_public(server, BYTES, np.zeros((2, nodes, items, 1), np.uint8), 1)
    for level, size in enumerate(group_sizes(items)):
        place = address.named(str(level))
        first, second = _grouped(numerators, ratios, size)
        slots, weights = yield from _matches(server, first, second, place)
        joined = _joined(server, won, slots, level == 0, place)
        if weights is None:
            won = yield from joined
            break
        won, (numerators, ratios) = yield from together(joined, _winners(server, first, second, weights, place))
    return np.ascontiguousarray(won.reshape(2, nodes, -1)[:, :, :items])


def _grouped(numerators: ShareArray, ratios: ShareArray, size: int) -> tuple[ShareArray, ShareArray]:
    """As (2, nodes, groups, size), with copies of the last item behind it where its group is not full: they lose the tie with it."""
    nodes = numerators.shape[1]
    short = -numerators.shape[2] % size

    def full(items: ShareArray) -> ShareArray:
        copies = np.repeat(items[:, :, -1:], short, axis=2)
        return np.concatenate([items, copies], axis=2).reshape(2, nodes, -1, size)

    return full(numerators), full(ratios)


def _matches(
    server: Server, numerators: ShareArray, ratios: ShareArray, address: Address
) -> Program[tuple[ShareArray, ShareArray | None]]:
    """The winners of groups: XOR-shared bits and arithmetic 0 or 1 for slots 1, 2, ... Five rounds.

        b beats a < b where n_a q_b - n_b q_a < 0;  slot j wins where it beats all before and none after beat it

    Args:
        numerators, ratios: (2, nodes, groups, size).

    Returns:
        Bits uint8 (2, size - 1, nodes, groups) and words of Z_2^64 of the same shape; of the last group bits only.
    """
    nodes, groups, size = numerators.shape[1:]
    count, pairs, wins = nodes * groups, _pairs(size), _wins(size)
    parts = np.empty((len(pairs), count), np.uint64)
    slots = [
        (
            np.ascontiguousarray(numerators[..., s]).reshape(2, -1),
            np.ascontiguousarray(ratios[..., s]).reshape(2, -1),
        )
        for s in range(size)
    ]
    for row, (a, b) in enumerate(pairs):
        parts[row] = product_part(RING64, slots[a][0], slots[b][1])
        parts[row] -= product_part(RING64, slots[b][0], slots[a][1])
    flat = yield from sign_part(server, RING64, parts.reshape(-1), address.named("sign"))
    # Each match on words of its own: products are taken word by word.
    beats = pack_bits(unpack_bits(flat, parts.size).reshape(parts.shape))
    ring = RING64 if groups > 1 else None
    parts_of_bits, parts_of_words = yield from bit_products(server, beats, wins, address.named("beats"), ring, count)
    programs = [reshare_of_evaluators(server, BITS, parts_of_bits, address.named("wins"))]
    if ring is not None:
        programs.append(reshare_of_evaluators(server, RING64, parts_of_words, address.named("weights")))
    bits, *weights = yield from together(*programs)
    shape = (2, len(wins), nodes, groups)
    return unpack_bits(bits, count).reshape(shape), weights[0].reshape(shape) if weights else None


def _joined(server: Server, won: ShareArray, slots: ShareArray, lowest: bool, address: Address) -> Program[ShareArray]:
    """Which item won, of the groups' one-hots: the slot won AND the item won below it. One round, none at the lowest.

    Args:
        won: XOR-shared, uint8 (2, nodes, groups below, items of one); slots: of their winners, (2, size - 1, nodes, groups).

    Returns:
        XOR-shared, uint8 (2, nodes, groups, size x items of one below).
    """
    nodes, groups = slots.shape[2:]
    size = slots.shape[1] + 1
    first = add_public(server, BYTES, np.bitwise_xor.reduce(slots, axis=1), 1)
    of_slots = np.concatenate([first[:, None], slots], axis=1).transpose(0, 2, 3, 1)
    if lowest:
        return np.ascontiguousarray(of_slots)
    items = won.shape[3]
    short = size * groups - won.shape[2]
    own = np.concatenate([won, np.zeros((2, nodes, short, items), np.uint8)], axis=2)
    own = own.reshape(2, nodes, groups, size, items)
    over = np.broadcast_to(of_slots[..., None], own.shape)
    count = nodes * groups * size * items
    part = product_part(BITS, pack_bits(own.reshape(2, count)), pack_bits(over.reshape(2, count)))
    packed = yield from reshare(server, BITS, part, address.named("joined"))
    return unpack_bits(packed, count).reshape(2, nodes, groups, size * items)


def _winners(
    server: Server, numerators: ShareArray, ratios: ShareArray, weights: ShareArray, address: Address
) -> Program[tuple[ShareArray, ShareArray]]:
    """x_0 + sum_j w_j (x_j - x_0) for numerators and ratios: (2, nodes, groups) each. One round."""
    values = np.stack([numerators, ratios], axis=1)
    part = values[0, ..., 0].copy()
    for slot in range(weights.shape[1]):
        part += product_part(RING64, values[..., slot + 1] - values[..., 0], weights[:, slot][:, None])
    both = yield from reshare(server, RING64, part, address.named("winners"))
    return both[:, 0], both[:, 1]
