"""The logistic function and its derivative of shared margins, in one evaluation of a Fourier series.

A margin x has 26 fraction bits in Z_2^32, so the ring's own wrap is the series' period, exactly 64. With k = 1, 3, ..., 47

    p(x) - 1/2 ~ sum_k b_k sin(2 pi k x / 64),      h(x) = p (1 - p) ~ sum_k a_k cos(2 pi k x / 64),      |x| <= 16

Why odd k alone: they are the functions with f(x + 32) = -f(x). So the series continues p - 1/2 beyond 16 as its mirror image,
f(16 + y) = f(16 - y), and h as f(16 + y) = -f(16 - y). Both continuations are nearly smooth at 16, where p is nearly 1 and h nearly
0, and 24 terms suffice: p within 5e-7 and h within 2.5e-6, and beyond |x| = 6, where h itself is small, within 7e-8 and 4e-7. Beyond
16 the series is wrong and says nothing: `sign_part` of x + 16 tells.

The sum of the first terms at x = 2, where p - 1/2 = 0.380797:

>>> from math import sin, pi
>>> terms = [b / 2**40 * sin(2 * pi * (2 * m + 1) * 2 / 64) for m, b in enumerate(SINES)]
>>> [round(term, 4) for term in terms[:5]]
[0.1223, 0.1026, 0.0732, 0.0451, 0.0241]
>>> [round(sum(terms[:n]), 6) for n in (1, 2, 4, 8, 24)]
[0.122251, 0.224865, 0.343129, 0.382916, 0.380797]

On shares no server knows x. S_0 and S_1 know w, S_2 knows r, and x = w - r:

    sin(k x) = sin(k w) cos(k r) - cos(k w) sin(k r),      cos(k x) = cos(k w) cos(k r) + sin(k w) sin(k r)

are linear in the waves of r, which S_2 deals as shares (`logistic`).

Trigonometry is done in integers: S_0 and S_1 must compute the same words on every host.
"""

from __future__ import annotations

from functools import cache
from math import pi

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.mpc.comparison import sign_of_masked, table_deal, truncate
from hansa.mpc.replicated import (
    Address,
    Deal,
    MaskedValue,
    Program,
    Server,
    add_to_part,
    open_and_deal,
    reshare,
    together,
)
from hansa.mpc.ring import BITS, RING32, RING64, Ring, ShareArray
from hansa.mpc.threads import by_rows

MARGIN_BITS = 26
"""Fraction bits of a margin."""

TERMS = 24

# Times 2^40. Fitted by `benchmarks/fit_fourier.py`: reweighted least squares (Lawson 1961) to p - 1/2 and p (1 - p) on [0, 16], with
# errors weighted by 1 / (sqrt(h) + 1/50): sums over rows with a small h stand a small error only.
SINES = (
    688995217153, 203080246914, 96798231858, 50519040523, 27003660139, 14532151579, 7835878000, 4227569573,
    2281224327, 1231012534, 664307116, 358482079, 193455949, 104392547, 56337677, 30397700, 16405219,
    8846355, 4770481, 2559795, 1363913, 699141, 329251, 113806,
)  # fmt: skip
COSINES = (
    67641947419, 59812069581, 47515721534, 34717865715, 23859704264, 15693595871, 10000713392, 6225608269,
    3807299676, 2296230538, 1369585123, 809456105, 474816149, 276710461, 160401902, 92505984, 53154191,
    30386247, 17332027, 9781327, 5485775, 2914536, 1439138, 482066,
)  # fmt: skip
COEFFICIENT_BITS = 40

PRODUCT_BITS = 30
"""Fraction bits of p - 1/2 before truncation; h has one more."""

DEALT_BITS = tuple(15 - (COEFFICIENT_BITS - sine.bit_length()) // 2 for sine in SINES)
"""Fraction bits d of the dealt waves, by term. A term's product has 30 in all (31 for h), so 30 - d are left for b_k sin(k w). Rounding
the dealt wave errs by up to b_k 2^-d / 2, rounding b_k sin(k w) by up to 2^(d - 30) / 2. The sum is least where both are equal:

    b_k 2^-d = 2^(d - 30),      d = 15 + log2(b_k) / 2

>>> SINES[0] / 2**40, DEALT_BITS[0]  # 15 + log2(0.63) / 2 = 14.7
(0.6266432570037068, 15)
>>> SINES[23] / 2**40, DEALT_BITS[23]  # 15 + log2(1.0e-7) / 2 = 3.4
(1.0350549928261898e-07, 4)
"""

GUARD_BITS = 14
"""Fraction bits that coefficients keep until they are multiplied: rounded before, each would err for good."""

LOSS_BITS = 26
"""Fraction bits of `loss_part`."""

LOSS_AT_16 = 8
"""log(2 cosh(16 / 2)), but for e^-16."""

LOSS_COSINES = tuple(round(-sine * 32 / (pi * (2 * m + 1))) for m, sine in enumerate(SINES))
"""log(2 cosh(x / 2)) - 8 is the integral of p - 1/2 from 16 to x: its series, times 2^40, is the sines' integrated. With
K = 2 pi k / 64, the integral of b_k sin(K x) is -(b_k / K) cos(K x), and 1 / K = 32 / (pi k).

>>> from math import cos, cosh, log
>>> round(sum(c / 2**40 * cos(2 * pi * (2 * m + 1) * 2 / 64) for m, c in enumerate(LOSS_COSINES)), 6)
-6.873072
>>> round(log(2 * cosh(2 / 2)) - 8, 6)
-6.873072
"""

LOSS_DEALT_BITS = tuple(max(1, 13 + (abs(c).bit_length() - COEFFICIENT_BITS) // 2) for c in LOSS_COSINES)

HARMONICS = 24
EXPONENTIAL_BITS = 28

# 1, cosines, sines of k = 1 .. HARMONICS, times 2^28. Fitted by `benchmarks/fit_fourier.py`.
EXPONENTIAL = (
    1295745817, 2159492788, 1004393962, 226690043, -888374607, -1801712609, -1803419690, -1864268152,
    -735126215, 179865615, 1015756482, 1814866182, 964302420, 413995121, -744065022, -1815330978, -128750676,
    1050141727, 200325622, -254756609, -50517815, 26018255, 3997812, -783657, -50362, 1360968006, 1999749256,
    2048935598, 2111914047, 1053108815, 202160679, -835375768, -1750424301, -1500104262, -1400808615,
    -103323171, 961567849, 1127859891, 1469909072, -223193445, -1561616951, -241337908, 572319384, 115925067,
    -91741263, -16653944, 5511764, 632949, -56708,
)  # fmt: skip

EXPONENTIAL_FRACTION = 56
"""Fraction bits of `exponential_part`."""

TABLE_BITS = 12
SINE_BITS = 28


@cache
def sine_table() -> npt.NDArray[np.int64]:
    """round(2^28 sin(2 pi j / 4096)) for j = 0 .. 4096, from integers alone."""
    scale = 100
    one = 1 << scale
    # pi by Machin's formula, sines by Taylor's series: Python's integers have no rounding modes.
    pi = 4 * (4 * _arctangent(5, one) - _arctangent(239, one))
    size = 1 << TABLE_BITS
    quarter = [_rounded(_sine(2 * pi * j // size, scale), scale - SINE_BITS) for j in range(size // 4 + 1)]
    half = quarter + quarter[-2::-1]
    table = np.array(half + [-value for value in half[1:]], dtype=np.int64)
    table.setflags(write=False)
    return table


def _arctangent(inverse: int, one: int) -> int:
    total, power, n = 0, one // inverse, 0
    while power:
        total += power // (2 * n + 1) * (-1) ** n
        power //= inverse * inverse
        n += 1
    return total


def _sine(x: int, scale: int) -> int:
    total, term, n = 0, x, 1
    while term:
        total += term
        term = -(((term * x) >> scale) * x >> scale) // ((n + 1) * (n + 2))
        n += 2
        if term == -1:
            break
    return total


def _rounded(value: int, shift: int) -> int:
    """value / 2^shift, to nearest."""
    return (value + (1 << (shift - 1))) >> shift if shift > 0 else value << -shift


@njit(inline="always", error_model="numpy")
def _sine_of(angle, table):  # type: ignore[no-untyped-def]
    """2^28 sin(2 pi angle / 2^32) of a uint32, by linear interpolation: within 2^-21 of it."""
    index = np.int64(angle >> np.uint32(20))
    rest = np.int64(angle & np.uint32(0xFFFFF))
    return table[index] + (((table[index + 1] - table[index]) * rest) >> np.int64(20))


@njit(cache=True, nogil=True, error_model="numpy")
def dealt_waves(r, table, shifts, out):  # type: ignore[no-untyped-def]
    """out[i, 2m], out[i, 2m + 1] = cos(k r_i), sin(k r_i), k = 2m + 1, as words of Z_2^32.

    Args:
        r: uint32 (rows,), 2^32 a full turn. shifts: int64 (TERMS,), 28 less a term's fraction bits.
        out: uint32 (rows, 2 TERMS), overwritten.
    """
    for i in range(r.shape[0]):
        for m in range(TERMS):
            angle = np.uint32(r[i] * np.uint32(2 * m + 1))
            cosine = _sine_of(np.uint32(angle + np.uint32(1 << 30)), table)
            sine = _sine_of(angle, table)
            half = np.int64(1) << (shifts[m] - np.int64(1))
            out[i, 2 * m] = np.uint32((cosine + half) >> shifts[m])
            out[i, 2 * m + 1] = np.uint32((sine + half) >> shifts[m])


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_series(w, dealt, table, sines, cosines, odd, even):  # type: ignore[no-untyped-def]
    """Linear combinations of the dealt waves: an additive part of p - 1/2 and of h, in Z_2^32.

        odd  = sum_k b_k (sin(k w) cos(k r) - cos(k w) sin(k r))
        even = sum_k a_k (cos(k w) cos(k r) + sin(k w) sin(k r))

    Args:
        w: uint32 (rows,). dealt: uint32 (rows, 2 TERMS), this server's part.
        sines, cosines: int64 (TERMS,), at scales that bring all products to one after >> 42.
        odd, even: uint32 (rows,), overwritten.
    """
    half = np.int64(1 << (SINE_BITS + GUARD_BITS - 1))
    shift = np.int64(SINE_BITS + GUARD_BITS)
    for i in range(w.shape[0]):
        p = np.uint32(0)
        h = np.uint32(0)
        for m in range(TERMS):
            angle = np.uint32(w[i] * np.uint32(2 * m + 1))
            c = _sine_of(np.uint32(angle + np.uint32(1 << 30)), table)
            s = _sine_of(angle, table)
            cos_r = dealt[i, 2 * m]
            sin_r = dealt[i, 2 * m + 1]
            p += np.uint32((sines[m] * s + half) >> shift) * cos_r
            p -= np.uint32((sines[m] * c + half) >> shift) * sin_r
            h += np.uint32((cosines[m] * c + half) >> shift) * cos_r
            h += np.uint32((cosines[m] * s + half) >> shift) * sin_r
        odd[i] = p
        even[i] = h


def _scaled(
    coefficients: tuple[int, ...],
    bits: int,
    weight: int = 1,
    weight_bits: int = 0,
    dealt_bits: tuple[int, ...] = DEALT_BITS,
) -> npt.NDArray[np.int64]:
    """Coefficients times a weight, each with `bits` fraction bits less its wave's, and the guard bits."""
    return np.array(
        [
            _rounded(coefficient * weight, COEFFICIENT_BITS + weight_bits - bits + dealt - GUARD_BITS)
            for coefficient, dealt in zip(coefficients, dealt_bits, strict=True)
        ],
        dtype=np.int64,
    )


def logistic(
    server: Server,
    margins: ShareArray,
    fraction_bits: int,
    address: Address,
    weight: int = 1,
    weight_bits: int = 0,
    check_range: bool = False,
    ring: Ring = RING32,
) -> Program[tuple[list[ShareArray], ShareArray | None]]:
    """p(x) and h(x) = p (1 - p), and both times a public weight, of shared margins.

    S_2 deals shares of sin(k r) and cos(k r) for the 24 odd k, and S_0 and S_1 combine them with the sines
    and cosines of k w:

        p - 1/2 = sum_k b_k sin(k (w - r)),    h = sum_k a_k cos(k (w - r))

    then all is truncated to `fraction_bits` (p - 1/2 before the 1/2 is added: p would not fit) and rounded
    without bias. Noise before that: sd 1.3e-5 in p, 6e-6 in h. Three rounds; a row costs S_0 and
    S_1 4 bytes and 8 for each result, S_2 192 bytes and 8 for each result.

    Args:
        margins: shared in Z_2^32 with 26 fraction bits, (2, rows), |x| < 16.
        weight, weight_bits: the weight times 2^weight_bits; 1 and 0 for none. Below 2^8.
        check_range: find out also which rows lie outside +-16, from the same open.
        ring: of the results, Z_2^32 or Z_2^64.

    Returns:
        [p, h] or [p, h, weight p, weight h], each (2, rows) shared in `ring`; and XOR-shared packed bits
        (2, ceil(rows / 64)) of the rows outside, meaningless past the last row, or None.
    """
    rows = margins.shape[1]
    table = sine_table()
    shifts = SINE_BITS - np.array(DEALT_BITS, dtype=np.int64)

    def waves(r: ShareArray) -> ShareArray:
        out = np.empty((rows, 2 * TERMS), np.uint32)
        by_rows(server.threads, lambda a, b: dealt_waves(r[a:b], table, shifts, out[a:b]), rows)
        return out

    deals = [Deal(RING32, (rows, 2 * TERMS), waves)] + [table_deal(RING32, rows, threads=server.threads)] * check_range
    opened = yield from open_and_deal(server, RING32, margins[0], address.named("margins"), deals)
    weights = [(1, 0)] if (weight, weight_bits) == (1, 0) else [(1, 0), (weight, weight_bits)]
    programs: list[Program[ShareArray]] = []
    if check_range:
        programs.append(_outside(server, opened.value, opened.dealt[1], address.named("outside")))
    for number, (factor, factor_bits) in enumerate(weights):
        headroom = max(0, (factor - 1).bit_length() - factor_bits)
        parts = np.zeros((2, rows), np.uint32)
        if server.index != 2:
            bits = PRODUCT_BITS - headroom
            sines, cosines = (
                _scaled(SINES, bits, factor, factor_bits),
                _scaled(COSINES, bits + 1, factor, factor_bits),
            )
            _evaluate(server, opened, table, sines, cosines, parts)
        for part, extra, name in ((parts[0], 0, "p"), (parts[1], 1, "h")):
            shift = PRODUCT_BITS - headroom + extra - fraction_bits
            programs.append(truncate(server, RING32, part, shift, address.named(f"{name} {number}"), ring))
    results = yield from together(*programs)
    outside = results.pop(0) if check_range else None
    for number, (factor, factor_bits) in enumerate(weights):
        half = (factor << fraction_bits) >> (factor_bits + 1)
        if server.index in (0, 2):
            results[2 * number][0 if server.index == 0 else 1] += ring.dtype(half)
    return results, outside


def _evaluate(
    server: Server, opened: MaskedValue, table: ShareArray, sines: ShareArray, cosines: ShareArray, parts: ShareArray
) -> None:
    """`evaluate_series` of the first deal by the server's threads; `parts`: odd and even, (2, rows)."""

    def evaluate(a: int, b: int) -> None:
        evaluate_series(opened.value[a:b], opened.dealt[0][a:b], table, sines, cosines, parts[0, a:b], parts[1, a:b])

    by_rows(server.threads, evaluate, parts.shape[1])


def _evaluate_fine(
    server: Server,
    w: ShareArray,
    dealt: ShareArray,
    cosines: ShareArray,
    sines: ShareArray,
    step: int,
    out: ShareArray,
) -> None:
    """`evaluate_fine` by the server's threads."""
    table = sine_table()

    def evaluate(a: int, b: int) -> None:
        evaluate_fine(w[a:b], dealt[a:b], table, cosines, sines, step, out[a:b])

    by_rows(server.threads, evaluate, len(out))


def loss_part(server: Server, margins: ShareArray, address: Address) -> Program[ShareArray]:
    """log(2 cosh(x / 2)) - 8 of shared margins, as additive parts: the even half of log(1 + e^x).

    Continued antiperiodically about 16, where it is nearly (x - 16) / 2, so that its series converges as that of p does:
    within 2e-6. Noise: sd 4e-4 a row, without bias. One round; dealt as in `logistic`.

    Args:
        margins: shared in Z_2^32 with 26 fraction bits, (2, rows), |x| < 16.

    Returns:
        uint32 (rows,), this server's additive part with 26 fraction bits.
    """
    rows = margins.shape[1]
    table = sine_table()
    shifts = SINE_BITS - np.array(LOSS_DEALT_BITS, dtype=np.int64)

    def waves(r: ShareArray) -> ShareArray:
        out = np.empty((rows, 2 * TERMS), np.uint32)
        by_rows(server.threads, lambda a, b: dealt_waves(r[a:b], table, shifts, out[a:b]), rows)
        return out

    deals = [Deal(RING32, (rows, 2 * TERMS), waves)]
    opened = yield from open_and_deal(server, RING32, margins[0], address.named("margins"), deals)
    parts = np.zeros((2, rows), np.uint32)
    if server.index != 2:
        cosines = _scaled(LOSS_COSINES, LOSS_BITS, dealt_bits=LOSS_DEALT_BITS)
        _evaluate(server, opened, table, np.zeros_like(cosines), cosines, parts)
    return np.asarray(parts[1])


RADIANS = round(2 * pi * 2**24)
"""Of the rest of an angle behind the table, a part of 2^32 of a turn, to 2^-36 of a radian: times this, by 2^20."""


@njit(inline="always", error_model="numpy")
def _fine_wave(angle, table):  # type: ignore[no-untyped-def]
    """2^28 sine and cosine of 2 pi angle / 2^32 of a uint32, within 2 2^-28: the nearest table entry, turned by the rest.

    sin(a + d) = sin a + d cos a - d^2 / 2 sin a,      |d| <= 2^-10.3, d^3 / 6 <= 2^-33
    """
    near = np.uint32(angle + np.uint32(1 << 19))
    index = np.int64(near >> np.uint32(20))
    rest = np.int64(near & np.uint32(0xFFFFF)) - np.int64(1 << 19)
    d = (rest * np.int64(RADIANS)) >> np.int64(20)
    half = (d * d) >> np.int64(37)
    sine, cosine = table[index], table[(index + np.int64(1024)) & np.int64(4095)]
    return (
        sine + ((d * cosine) >> np.int64(36)) - ((half * sine) >> np.int64(36)),
        cosine - ((d * sine) >> np.int64(36)) - ((half * cosine) >> np.int64(36)),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def fine_waves(r, table, step, out):  # type: ignore[no-untyped-def]
    """out[i, 2m], out[i, 2m + 1] = cos(k r_i), sin(k r_i), k = 1 + m step, with 28 fraction bits, as words of Z_2^64.

    Args:
        r: uint32 (rows,), 2^32 a full turn. step: 1, or 2 for odd k alone. out: uint64 (rows, 2 HARMONICS), overwritten.
    """
    for i in range(r.shape[0]):
        for m in range(HARMONICS):
            sine, cosine = _fine_wave(np.uint32(r[i] * np.uint32(1 + m * step)), table)
            out[i, 2 * m] = np.uint64(cosine)
            out[i, 2 * m + 1] = np.uint64(sine)


@njit(cache=True, nogil=True, error_model="numpy")
def evaluate_fine(w, dealt, table, cosines, sines, step, out):  # type: ignore[no-untyped-def]
    """out = sum_k c_k cos(k (w - r)) + s_k sin(k (w - r)), linear in the dealt `fine_waves` of r; an additive part in Z_2^64.

    Args:
        w: uint32 (rows,). dealt: uint64 (rows, 2 HARMONICS), this server's part. cosines, sines: int64, times 2^28. step: of k.
        out: uint64 (rows,) with 56 fraction bits, overwritten.
    """
    half = np.int64(1 << (SINE_BITS - 1))
    for i in range(w.shape[0]):
        total = np.uint64(0)
        for m in range(HARMONICS):
            s, c = _fine_wave(np.uint32(w[i] * np.uint32(1 + m * step)), table)
            total += np.uint64((cosines[m] * c + sines[m] * s + half) >> np.int64(SINE_BITS)) * dealt[i, 2 * m]
            total += np.uint64((cosines[m] * s - sines[m] * c + half) >> np.int64(SINE_BITS)) * dealt[i, 2 * m + 1]
        out[i] = total


def exponential_part(
    server: Server, part: ShareArray, address: Address, check_range: bool = False
) -> Program[tuple[ShareArray, list[Program[ShareArray]]]]:
    """e^t of additive values t in [-32, 0], as additive parts in Z_2^64 with 56 fraction bits.

        e^t ~ c_0 + sum_k c_k cos(2 pi k t / 64) + s_k sin(2 pi k t / 64),      k = 1 .. 24

    The other half of the period is free for the series to bend back in. So it needs harmonics of both kinds, and its coefficients are
    up to 8 in size; waves have 28 fraction bits and words of Z_2^64 for that. Within 3e-8; noise: sd 1.3e-7 a row. One round; a row
    costs S_0 and S_1 4 bytes, S_2 384 bytes.

    Args:
        part: in Z_2^32 with 26 fraction bits, (rows,).
        check_range: find out also which t lie outside [-32, 0), from the same open.

    Returns:
        uint64 (rows,), and with the check a program of three rounds for the caller to run beside others: XOR-shared packed bits
        (2, ceil(rows / 64)) of the rows outside.
    """
    rows, table = part.shape[0], sine_table()

    def waves(r: ShareArray) -> ShareArray:
        out = np.empty((rows, 2 * HARMONICS), np.uint64)
        by_rows(server.threads, lambda a, b: fine_waves(r[a:b], table, 1, out[a:b]), rows)
        return out

    deals = [Deal(RING64, (rows, 2 * HARMONICS), waves)] + [
        table_deal(RING32, rows, threads=server.threads)
    ] * check_range
    opened = yield from open_and_deal(server, RING32, part, address.named("margins"), deals)
    found = np.zeros(rows, np.uint64)
    if server.index != 2:
        numbers = np.array(EXPONENTIAL, np.int64)
        cosines, sines = numbers[1 : HARMONICS + 1], numbers[HARMONICS + 1 :]
        _evaluate_fine(server, opened.value, opened.dealt[0], cosines, sines, 1, found)
    if server.index == 0:
        found += np.uint64((EXPONENTIAL[0] << (EXPONENTIAL_FRACTION - EXPONENTIAL_BITS)) % 2**64)
    checks = [_beyond(server, opened.value, opened.dealt[1], address.named("beyond"))] if check_range else []
    return found, checks


def softplus_part(
    server: Server, part: ShareArray, address: Address, check_range: bool = False
) -> Program[tuple[ShareArray, list[Program[ShareArray]]]]:
    """log(1 + e^x) of additive values x in [-16, 16), as additive parts in Z_2^64 with 56 fraction bits.

        log(1 + e^x) = 8 + x / 2 + c(x),      c(x) = log(2 cosh(x / 2)) - 8

    c by the series of `loss_part`, in `fine_waves`. x / 2 has no place in Z_2^32, where half of the period is as good as none: x is
    taken to Z_2^64 as `comparison.extend` does, out of the same open. Within 2e-6; noise: sd 2e-7 a row. One round; a row
    costs S_0 and S_1 4 bytes, S_2 388 bytes.

    Args:
        part: in Z_2^32 with 26 fraction bits, (rows,).
        check_range: find out also which x lie outside, from the same open.

    Returns:
        As `exponential_part`.
    """
    rows, table, offset = part.shape[0], sine_table(), 1 << (MARGIN_BITS + 4)

    def waves(r: ShareArray) -> ShareArray:
        out = np.empty((rows, 2 * HARMONICS), np.uint64)
        by_rows(server.threads, lambda a, b: fine_waves(r[a:b], table, 2, out[a:b]), rows)
        return out

    deals = [Deal(RING64, (rows, 2 * HARMONICS), waves), Deal(RING32, (rows,), lambda r: r >> np.uint32(31))]
    deals += [table_deal(RING32, rows, threads=server.threads)] * check_range
    # x + 16 is below 2^31, so that only the highest bits of w and r tell whether w - r wrapped.
    shifted = add_to_part(server, RING32, part, offset)
    opened = yield from open_and_deal(server, RING32, shifted, address.named("margins"), deals)
    wide, even = opened.value.astype(np.uint64), np.zeros(rows, np.uint64)
    if server.index == 2:
        half = np.zeros_like(wide) - wide
    else:
        cosines = np.array([_rounded(c, COEFFICIENT_BITS - EXPONENTIAL_BITS) for c in LOSS_COSINES], np.int64)
        turns = opened.value - np.uint32(offset)
        _evaluate_fine(server, turns, opened.dealt[0], cosines, np.zeros_like(cosines), 2, even)
        below = (opened.value >> np.uint32(31) ^ np.uint32(1)).astype(np.uint64)
        half = below * (opened.dealt[1].astype(np.uint64) << np.uint64(32))
        half = half + wide if server.index == 0 else half
    found = even + (half << np.uint64(EXPONENTIAL_FRACTION - MARGIN_BITS - 1))
    # 8 less half of the offset is 0.
    assert offset == LOSS_AT_16 << (MARGIN_BITS + 1)
    turns = opened.value - np.uint32(offset)
    return found, [_outside(server, turns, own, address.named("outside")) for own in opened.dealt[2:]]


def _beyond(server: Server, value: ShareArray, tables: ShareArray, address: Address) -> Program[ShareArray]:
    """[t outside [-32, 0)] as XOR-shared bits: the sign of t + 32, with w already open and r's tables dealt."""
    shifted = value + np.uint32(1 << (MARGIN_BITS + 5))
    bits = yield from sign_of_masked(server, RING32, shifted, tables, address.named("sign"))
    return (yield from reshare(server, BITS, bits, address.named("bits")))


def _outside(server: Server, value: ShareArray, tables: ShareArray, address: Address) -> Program[ShareArray]:
    """[x outside +-16] as XOR-shared bits: the sign of x + 16, with w already open and r's tables dealt."""
    part = yield from sign_of_masked(
        server, RING32, value + np.uint32(1 << (MARGIN_BITS + 4)), tables, address.named("sign")
    )
    return (yield from reshare(server, BITS, part, address.named("bits")))
