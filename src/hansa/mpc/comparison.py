"""What rests on open-and-deal: comparison with 0, ring extension, truncation, bits to arithmetic.

In all of them z = w - r, where S_0 and S_1 know w, S_2 knows r, and both look uniform to who sees them
(`replicated.open_and_deal`). S_2 deals shares of functions of r, and S_0 and S_1 evaluate something that is
linear in them with coefficients that depend on w.
"""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import numpy.typing as npt

from hansa.mpc.replicated import (
    Address,
    Deal,
    Program,
    Server,
    add_to_part,
    open_and_deal,
    reshare,
    reshare_of_evaluators,
)
from hansa.mpc.ring import (
    BITS,
    RING32,
    RING64,
    Ring,
    ShareArray,
    and_chains,
    digit_one_hots,
    fold_bits,
    fold_words,
    look_up_planes,
    unpack_bits,
    words_for,
)
from hansa.mpc.threads import ALONE, LEAST_ROWS, Threads, by_rows

TABLES = Ring("tables", 16, np.uint16, xor=True)
"""One-hot tables of a digit, one bit an entry."""

DIGIT_BITS = 4

DIGITS_A_ROUND = 4
"""Digits that one round of a comparison combines: their masks have 29 products."""


def sign_part(
    server: Server, ring: Ring, part: ShareArray, address: Address, digit_bits: int = DIGIT_BITS
) -> Program[ShareArray]:
    """The most significant bit of additive values, as XOR parts of packed bits.

        msb(w - r) = [w' < r'] XOR msb(w) XOR msb(r),      w', r' = w, r without their highest bit

    w and r are cut into digits of 4 bits. S_2 deals an XOR-shared one-hot table of each digit of r; any
    function of (digit of w, digit of r) is then the parity of the table under a mask that w picks. So S_0 and
    S_1 look up `greater` (the digit of r is larger) and `equal`, and combine four digits a round
    (`bit_products`), the highest, 3, first:

        greater = greater_3 XOR equal_3 greater_2 XOR equal_3 equal_2 greater_1 XOR equal_3 equal_2 equal_1 greater_0

    Source: the table look-up is in the spirit of Ishai, Kushilevitz, Meldgaard, Orlandi & Paskin-Cherniavsky,
    TCC 2013. For k = 64: 1 + 2 rounds; 12 bytes a value from S_0 and S_1, 49 from S_2.

    Args:
        part: this server's additive part, (count,).

    Returns:
        uint64 (ceil(count / 64),): XOR parts, not yet masked, zero at S_2; bits past `count` mean nothing.
    """
    deal = table_deal(ring, part.shape[0], digit_bits, server.threads)
    opened = yield from open_and_deal(server, ring, part, address.named("open"), [deal])
    return (yield from sign_of_masked(server, ring, opened.value, opened.dealt[0], address, digit_bits))


def table_deal(ring: Ring, count: int, digit_bits: int = DIGIT_BITS, threads: Threads = ALONE) -> Deal:
    """The one-hot tables of the digits of r that `sign_of_masked` reads."""
    digits = -(-ring.bits // digit_bits)
    return Deal(TABLES, (count, digits), lambda r: _one_hot_tables(r, digits, digit_bits, threads))


def sign_of_masked(
    server: Server, ring: Ring, value: ShareArray, tables: ShareArray, address: Address, digit_bits: int = DIGIT_BITS
) -> Program[ShareArray]:
    """`sign_part` behind its open: `value` is w at S_0 and S_1 (not read at S_2), `tables` its part."""
    count, digits = tables.shape
    planes = np.zeros((2 * digits, words_for(count)), np.uint64)
    if server.index != 2:
        masks = _digit_masks(ring.bits, digit_bits)
        values = value.astype(np.uint64, copy=False)

        def look_up(first: int, last: int) -> None:
            look_up_planes(values, tables, masks, digit_bits, planes, first, last)

        (server.threads if count >= LEAST_ROWS else ALONE).share(look_up, planes.shape[1])
    return (yield from _combine_digits(server, planes[0::2], planes[1::2], address))


def _combine_digits(server: Server, greater: ShareArray, equal: ShareArray, address: Address) -> Program[ShareArray]:
    """[w' < r'] from XOR parts of `greater` and `equal` of all digits, (digits, words), lowest first; zero at S_2."""
    layer = 0
    while len(greater) > 1:
        size = min(DIGITS_A_ROUND, len(greater))
        short = -len(greater) % size
        # Digits that are equal, above all others.
        equal = np.concatenate([equal, np.full((short, equal.shape[1]), _ones_at_first(server), np.uint64)])
        greater = np.concatenate([greater, np.zeros((short, greater.shape[1]), np.uint64)])
        g = greater.reshape(-1, size, greater.shape[1]).swapaxes(0, 1)
        e = equal.reshape(-1, size, equal.shape[1]).swapaxes(0, 1)
        last = g.shape[1] == 1
        products = _digit_products(size, not last)
        variables = np.concatenate([g[:-1], e[1:] if last else e])
        parts, _ = yield from bit_products(server, variables, products, address.named(f"and {layer}"))
        greater = g[-1] ^ np.bitwise_xor.reduce(parts[: size - 1], axis=0)
        equal = parts[-1]
        layer += 1
    return np.asarray(greater[0])


def _ones_at_first(server: Server) -> np.uint64:
    return np.uint64(2**64 - 1 if server.index == 0 else 0)


@cache
def _digit_products(size: int, with_equal: bool) -> Products:
    """Products over greater_0 .. greater_(size - 2), then equal of the digits, from 0 or, without, from 1."""
    first = size - 1 if with_equal else size - 2

    def equal(lowest: int) -> tuple[int, ...]:
        return tuple(first + digit for digit in range(lowest, size))

    products = tuple((digit, *equal(digit + 1)) for digit in range(size - 1))
    return (*products, equal(0)) if with_equal else products


def _one_hot_tables(r: ShareArray, digits: int, digit_bits: int, threads: Threads) -> ShareArray:
    tables, values = np.zeros((r.shape[0], digits), np.uint16), r.astype(np.uint64, copy=False)
    by_rows(threads, lambda a, b: digit_one_hots(values[a:b], digits, digit_bits, tables[a:b]), len(values))
    return tables


@cache
def _digit_masks(bits: int, digit_bits: int) -> ShareArray:
    """Row 2d: which digits of r make `greater`, for each digit of w; row 2d + 1: which make `equal`.

    At the highest digit the sign bits are left out of the comparison and folded into `greater`.
    """
    digits = -(-bits // digit_bits)
    masks = np.zeros((2 * digits, 1 << digit_bits), np.uint16)
    for d in range(digits):
        width = min(digit_bits, bits - d * digit_bits)
        sign = 1 << (width - 1) if d == digits - 1 else 0
        for w in range(1 << width):
            for r in range(1 << width):
                low_w, low_r = w & ~sign, r & ~sign
                greater = (low_w < low_r) != ((w & sign) != (r & sign))
                masks[2 * d, w] |= int(greater) << r
                masks[2 * d + 1, w] |= int(low_w == low_r) << r
    masks.setflags(write=False)
    return masks


Products = tuple[tuple[int, ...], ...]
"""Products of bits by their places; ~k, below 0, is the bit at k negated."""


def bit_products(
    server: Server, part: ShareArray, products: Products, address: Address, ring: Ring | None = None, count: int = 0
) -> Program[tuple[ShareArray, ShareArray]]:
    """Parts of products of shared bits, in one round.

    With x_k = w_k XOR r_k, where S_0 and S_1 know w and S_2 knows r, a product P multiplied out has a term for every subset S of P:

        prod_(k in P) x_k = XOR_(S in P) prod_(k in P - S) w_k prod_(k in S) r_k

    The second factor is a number of S_2's alone: S_2 deals shares of it for every S but the empty one. The first is a number of
    S_0's and S_1's, so the sum is linear in what was dealt. One round is enough for any number of factors, since S_2 deals before
    it knows w, in the round that opens w; a tree of products of two takes log2 of the factors rounds. The price are 2^n - 1 dealt
    products of n factors.

    Three bits, x = (1, 1, 1), with r = (1, 0, 1) and so w = (0, 1, 0). S_2 deals seven products:

        r_0   r_1   r_2   r_0 r_1   r_0 r_2   r_1 r_2   r_0 r_1 r_2
         1     0     1       0         1         0           0

    Only w_1 is 1, so of the eight terms only those of subsets that contain 0 and 2 are left: w_1 r_0 r_2 XOR r_0 r_1 r_2 = 1 XOR 0 = 1.

    >>> _subsets(((0, 1, 2),))
    ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
    >>> _products_of_masks(np.array([[1], [0], [1]], np.uint64), ((0, 1, 2),)).ravel().tolist()
    [1, 0, 1, 0, 1, 0, 0]

    Several products share what is dealt, and NOT x_k = (NOT w_k) XOR r_k needs nothing of its own. Four digits of a comparison are
    4 products of 7 bits, of at most 4 factors each, with 29 subsets:

    >>> products = _digit_products(4, True)
    >>> products
    ((0, 4, 5, 6), (1, 5, 6), (2, 6), (3, 4, 5, 6))
    >>> len(_subsets(products))
    29

    In a ring x_k = w_k + (1 - 2 w_k) r_k, so a factor with w_k = 0 is r_k and one with w_k = 1 is 1 - r_k; there too the sum is
    linear in the dealt products. Source: multiplication with dealt products (Beaver, CRYPTO 1991) of more than two factors (Couteau,
    EUROCRYPT 2019). S_0 and S_1 send a bit for each x_k, S_2 a bit or word for each subset.

    Args:
        part: XOR parts of packed bits, uint64 (bits, ..., words).
        products: of few bits each: 2^bits subsets are dealt.
        ring: where given, the products also as elements of it.
        count: of the bits that become elements of `ring`.

    Returns:
        XOR parts uint64 (products, ..., words) and, with a ring, additive parts (products, count); zero at S_2.
    """
    subsets = _subsets(products)
    shape = (len(subsets), *part.shape[1:])
    deals = [Deal(BITS, shape, lambda r: _products_of_masks(r, products))]
    if ring is not None:
        word = ring.dtype
        deals.append(
            Deal(
                ring, (len(subsets), count), lambda r: unpack_bits(_products_of_masks(r, products), count).astype(word)
            )
        )
    opened = yield from open_and_deal(server, BITS, part, address, deals)
    nothing = np.zeros((len(products), count), np.uint64 if ring is None else ring.dtype)
    if server.index == 2:
        return np.zeros((len(products), *part.shape[1:]), np.uint64), nothing
    bits = _folded(server, BITS, opened.value, opened.dealt[0], products)
    if ring is None:
        return bits, nothing
    return bits, _folded(server, ring, unpack_bits(opened.value, count), opened.dealt[1], products)


@cache
def _subsets(products: Products) -> Products:
    """Every subset, but the empty one, of every product's places, each once; the smaller ones first."""
    places = [tuple(sorted(k if k >= 0 else ~k for k in product)) for product in products]
    found = {subset for own in places for size in range(1, len(own) + 1) for subset in combinations(own, size)}
    return tuple(sorted(found, key=lambda subset: (len(subset), subset)))


@cache
def _built_from(products: Products) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of each subset: the row of the one without its last place, or -1 where there is none; and that place."""
    subsets = _subsets(products)
    row_of = {subset: row for row, subset in enumerate(subsets)}
    return (
        np.array([row_of.get(subset[:-1], -1) for subset in subsets], np.int64),
        np.array([subset[-1] for subset in subsets], np.int64),
    )


def _products_of_masks(r: ShareArray, products: Products) -> ShareArray:
    """Of every subset, in its order: the products of its masks, uint64 (subsets, ...); r: uint64 (bits, ...)."""
    before, last = _built_from(products)
    out = np.empty((len(last), *r.shape[1:]), np.uint64)
    and_chains(np.ascontiguousarray(r).reshape(len(r), -1), before, last, out.reshape(len(last), -1))
    return out


@cache
def _rows_of_subsets(products: Products) -> tuple[npt.NDArray[np.intp], ...]:
    """Of each product, by subset as a binary number over its literals: the dealt row, counted from 1; 0 for the empty one.

    >>> _rows_of_subsets(((0, 1, 2),))[0].tolist()  # {}, {0}, {1}, {0, 1}, {2}, {0, 2}, {1, 2}, {0, 1, 2}
    [0, 1, 2, 4, 3, 5, 6, 7]
    """
    row_of = {subset: 1 + row for row, subset in enumerate(_subsets(products))}

    def rows(product: tuple[int, ...]) -> npt.NDArray[np.intp]:
        chosen = [[k for bit, k in enumerate(product) if number >> bit & 1] for number in range(2 ** len(product))]
        return np.array([row_of.get(tuple(sorted(k if k >= 0 else ~k for k in own)), 0) for own in chosen])

    return tuple(rows(product) for product in products)


def _folded(server: Server, ring: Ring, w: ShareArray, dealt: ShareArray, products: Products) -> ShareArray:
    """The sums over subsets, one factor at a time: of those without it, times w_k, and those with it.

    With F_T = XOR_(S in T) prod_(k in T - S) w_k D_(S + rest), D being the dealt products, taking factor k into T halves the terms:

        new = old without k AND w_k XOR old with k            (ring: old without - old with where w_k = 1, else old with)

    The example of `bit_products`, w = (0, 1, 0), by subset: factor 0 makes 8 terms 4, and so on. At S_0 and S_1 these are shares,
    and the empty subset's product, 1, is S_0's.

        {} {0} {1} {01} {2} {02} {12} {012}     1 1 0 0 1 1 0 0
        factor 0, w_0 = 0: the second of each two                      1 0 1 0
        factor 1, w_1 = 1: their XOR                                   1 1
        factor 2, w_2 = 0: the second                                  1
    """
    first = server.index == 0
    empty = np.full((1, *dealt.shape[1:]), (2**64 - 1 if ring.xor else 1) if first else 0, ring.dtype)
    terms = np.concatenate([empty, dealt]).reshape(len(dealt) + 1, -1)
    out = np.empty((len(products), terms.shape[1]), ring.dtype)
    chosen = w.reshape(len(w), -1)
    fold = fold_bits if ring.xor else fold_words
    for product, rows, result in zip(products, _rows_of_subsets(products), out, strict=True):
        fold(terms, rows, np.array(product), chosen, result)
    return ring.reduce(out).reshape(len(products), *dealt.shape[1:])


def bits_to_arithmetic(
    server: Server, part: ShareArray, count: int, ring: Ring, address: Address
) -> Program[ShareArray]:
    """XOR parts of packed bits to shared ring elements: b = w XOR r = w + (1 - 2w) r.

    Source: Mohassel & Rindal, ABY3 (CCS 2018), section 5.4.1, with r dealt by S_2. Two rounds; a bit and a
    word from S_0 and S_1, a word from S_2.

    Returns:
        (2, count), shared in `ring`.
    """
    deal = Deal(ring, (count,), lambda r: unpack_bits(r, count).astype(ring.dtype))
    opened = yield from open_and_deal(server, BITS, part, address.named("bits"), [deal])
    result = np.zeros(count, ring.dtype)
    if server.index != 2:
        w = unpack_bits(opened.value, count).astype(ring.dtype)
        result = ring.reduce((ring.dtype(1) - w - w) * opened.dealt[0])
        if server.index == 0:
            result = ring.add(result, w)
    return (yield from reshare_of_evaluators(server, ring, result, address.named("words")))


def signs(server: Server, ring: Ring, part: ShareArray, address: Address) -> Program[ShareArray]:
    """msb of additive values as shared 0 or 1 of `RING64`, (2, count). Five rounds for k = 64."""
    bits = yield from sign_part(server, ring, part, address)
    return (yield from bits_to_arithmetic(server, bits, part.shape[0], RING64, address.named("arithmetic")))


def extend(
    server: Server, part: ShareArray, address: Address, source: Ring = RING32, target: Ring = RING64
) -> Program[ShareArray]:
    """Additive values in [-2^(k-2), 2^(k-2)) of Z_2^k to shared values of a larger ring.

    With z + 2^(k-2) in [0, 2^(k-1)) the wrap of w - r is the product of a bit that S_2 knows and one that
    S_0 and S_1 know:

        z = w - r + 2^k msb(r) (1 - msb(w)).

    S_2 deals msb(r), which only the upper bits of the target need. Two rounds; for 32 to 64 bits 12 bytes a
    value and server.
    """
    offset = 1 << (source.bits - 2)
    part = add_to_part(server, source, part, offset)
    narrow = RING32 if target == RING64 and source == RING32 else target
    deal = Deal(narrow, part.shape, lambda r: _top_bit(source, r).astype(narrow.dtype))
    opened = yield from open_and_deal(server, source, part, address.named("open"), [deal])
    wide = opened.value.astype(target.dtype)
    if server.index == 2:
        result = target.subtract(np.zeros_like(wide), wide)
    else:
        below = (_top_bit(source, opened.value) ^ 1).astype(target.dtype)
        carry = below * (opened.dealt[0].astype(target.dtype) << target.dtype(source.bits))
        result = target.reduce(carry + wide) if server.index == 0 else target.reduce(carry)
    result = add_to_part(server, target, result, -offset)
    return (yield from reshare(server, target, result, address.named("words")))


def truncate(
    server: Server, ring: Ring, part: ShareArray, shift: int, address: Address, target: Ring | None = None
) -> Program[ShareArray]:
    """z / 2^s of additive values in [-2^(k-2), 2^(k-1) - 2^(k-2)), rounded at random without bias.

    With z + 2^(k-2) in [0, 2^(k-1)), and floors written >>,

        z / 2^s ~ (w >> s) - (r >> s) + 2^(k-s) msb(r) (1 - msb(w)).

    The wrap is exact; the borrow of the low s bits is left out, which adds one with probability (z mod 2^s)
    / 2^s: the mean is z / 2^s. (The shares' local truncation of ABY3 fails with probability |z| / 2^k, which
    for values of 2^60 is not small.) What the rounding did follows from w and r, so a server that is later
    given the result learns where in a window of width 2^s around it z may lie, and nothing else.

    Two rounds; S_0 and S_1 send an element of `ring` and one of the target, S_2 msb(r) and one of the target.
    Where all of the wrap lies above the target ring nothing is dealt.

    Args:
        part: additive parts in `ring`.
        target: the ring of the result, `ring` itself unless given.
    """
    target = target or ring
    offset = 1 << (ring.bits - 2)
    part = add_to_part(server, ring, part, offset)
    wrap = ring.bits - shift
    # msb(r) counts from bit `wrap` of the target on.
    narrow = RING32 if target == RING64 and wrap >= 32 else target
    deals = [Deal(narrow, part.shape, lambda r: _top_bit(ring, r).astype(narrow.dtype))]
    deals = deals if wrap < target.bits else []
    opened = yield from open_and_deal(server, ring, part, address.named("open"), deals)
    high = (opened.value >> ring.dtype(shift)).astype(target.dtype)
    if server.index == 2:
        result = target.subtract(np.zeros_like(high), high)
    else:
        result = high if server.index == 0 else np.zeros_like(high)
        if deals:
            below = (_top_bit(ring, opened.value) ^ 1).astype(target.dtype)
            result = target.reduce(result + below * (opened.dealt[0].astype(target.dtype) << target.dtype(wrap)))
    result = add_to_part(server, target, result, -(offset >> shift))
    return (yield from reshare(server, target, result, address.named("words")))


def _top_bit(ring: Ring, words: ShareArray) -> ShareArray:
    return np.asarray(words >> ring.dtype(ring.bits - 1))
