"""Rings of shares, and the kernels that do the heavy work on them. Nothing here is secret-dependent in time.

A ring is Z_2^k under addition (k = 32 and 64 in training, 3 in the exhaustive tests), or words of bits under
exclusive or. All kernels wrap around; none allocates in its inner loop. Each has a naive twin in
`tests/naive_mpc.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

ShareArray = npt.NDArray[Any]
"""An array of ring elements: uint8, uint32 or uint64."""

WORD_BITS = 64
"""Bits that one word of packed bits holds."""


@dataclass(frozen=True)
class Ring:
    """Z_2^bits, kept in the low bits of `dtype`; where `xor`, vectors over GF(2) instead.

    Attributes:
        name: for addresses and messages.
        bits: k of Z_2^k; all bits of the word where `xor`.
        dtype: the unsigned integer that holds one element.
        xor: addition is exclusive or, multiplication is and.
    """

    name: str
    bits: int
    dtype: type[np.unsignedinteger[Any]]
    xor: bool = False

    @property
    def mask(self) -> int:
        """The largest element."""
        return (1 << self.bits) - 1

    @property
    def is_full(self) -> bool:
        """Does an element fill its word, so that machine arithmetic wraps by itself?"""
        return self.bits == np.dtype(self.dtype).itemsize * 8

    def reduce(self, words: ShareArray) -> ShareArray:
        """The representative of each word in [0, 2^bits)."""
        return words if self.is_full else words & self.dtype(self.mask)

    def add(self, x: ShareArray, y: ShareArray) -> ShareArray:
        """x + y."""
        return x ^ y if self.xor else self.reduce(x + y)

    def subtract(self, x: ShareArray, y: ShareArray) -> ShareArray:
        """x - y."""
        return x ^ y if self.xor else self.reduce(x - y)

    def constant(self, value: int) -> Any:
        """A public integer as a scalar of this ring."""
        return self.dtype(value & self.mask)


RING32 = Ring("Z32", 32, np.uint32)
RING64 = Ring("Z64", 64, np.uint64)
BITS = Ring("bits", 64, np.uint64, xor=True)
"""Bits packed 64 to a word, bit j of word w standing for element 64 w + j."""
BYTES = Ring("bytes", 8, np.uint8, xor=True)
"""Bits packed 8 to a byte."""


def words_for(count: int) -> int:
    """Words that `count` packed bits take."""
    return -(-count // WORD_BITS)


def pack_bits(bits: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """uint8 (..., n) of zeros and ones -> uint64 (..., ceil(n / 64)), lowest bit first, zeros behind."""
    packed = np.packbits(bits, axis=-1, bitorder="little")
    short = -packed.shape[-1] % 8
    if short:
        packed = np.concatenate([packed, np.zeros((*packed.shape[:-1], short), np.uint8)], axis=-1)
    return np.ascontiguousarray(packed).view("<u8").astype(np.uint64, copy=False)


def unpack_bits(words: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.uint8]:
    """The inverse of `pack_bits`: uint8 (..., count)."""
    octets = np.ascontiguousarray(words).astype("<u8", copy=False).view(np.uint8)
    return np.unpackbits(octets, axis=-1, count=count, bitorder="little")


@njit(cache=True, nogil=True, error_model="numpy")
def add_code_sums(codes, v, out, first, last):  # type: ignore[no-untyped-def]
    """out[f, codes[i, f], j] += v[j, i] in Z_2^32, first <= f < last: sums by code, for rows known in the clear.

    Args:
        codes: uint16 (rows, features). v: uint32 (vectors, rows).
        out: uint32 (features, codes, vectors), changed.
    """
    rows, vectors = v.shape[1], v.shape[0]
    block = np.empty((256, vectors), np.uint32)
    for start in range(0, rows, 256):
        size = min(256, rows - start)
        for j in range(vectors):
            for i in range(size):
                block[i, j] = v[j, start + i]
        for i in range(size):
            for f in range(first, last):
                target = out[f, codes[start + i, f]]
                for j in range(vectors):
                    target[j] += block[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def masked_products(x_own, x_next, y_own, y_next, mask_own, mask_next, out):  # type: ignore[no-untyped-def]
    """out[j, i] = x_own (y_own + y_next) + x_next y_own + mask_own - mask_next, y broadcast over j, in
    Z_2^32.

    Args:
        x_own, x_next, mask_own, mask_next, out: uint32 (vectors, rows). y_own, y_next: uint32 (rows,).
    """
    vectors, rows = x_own.shape
    for j in range(vectors):
        for i in range(rows):
            product = x_own[j, i] * (y_own[i] + y_next[i]) + x_next[j, i] * y_own[i]
            out[j, i] = product + mask_own[j, i] - mask_next[j, i]


@njit(cache=True, nogil=True, error_model="numpy")
def cross_dots(x, y, out):  # type: ignore[no-untyped-def]
    """out[a, b] += sum_i x[a, i] * y[b, i] in the ring of the arrays (uint32 or uint64)."""
    rows = x.shape[1]
    for start in range(0, rows, 4096):
        stop = min(start + 4096, rows)
        for a in range(x.shape[0]):
            for b in range(y.shape[0]):
                total = out[a, b]
                for i in range(start, stop):
                    total += x[a, i] * y[b, i]
                out[a, b] = total


@njit(cache=True, nogil=True, error_model="numpy")
def add_combinations(weights, v, out):  # type: ignore[no-untyped-def]
    """out[a, i] += sum_b weights[a, b] * v[b, i] in Z_2^32."""
    for start in range(0, v.shape[1], 4096):
        stop = min(start + 4096, v.shape[1])
        for a in range(weights.shape[0]):
            for b in range(weights.shape[1]):
                w = weights[a, b]
                for i in range(start, stop):
                    out[a, i] += w * v[b, i]


GF2_ROWS = 128
"""Rows that `add_gf2_product` takes at a time: their bits stay in the first cache for all nodes."""


@njit(cache=True, nogil=True, error_model="numpy")
def _halves(x, y, shift, low):  # type: ignore[no-untyped-def]
    """Fields of twice `shift` bits folded to `shift`: those of x in the bits of `low`, those of y in the others."""
    return ((x ^ (x >> shift)) & low) | ((y ^ (y << shift)) & ~low)


@njit(cache=True, nogil=True, error_model="numpy")
def add_gf2_product(c, s, out, begin, end):  # type: ignore[no-untyped-def]
    """Bit n of out[i] ^= XOR_t (c[t, i] AND s[n, t]), begin <= i < end.

    Args:
        c: uint64 (words, rows), each row's bits packed over columns. s: uint64 (nodes, words).
        out: uint8 (rows, ceil(nodes / 8)), changed.

    Eight words of a row at a time, so that one store is made for eight products; then the parities of eight nodes are folded
    together, each half as wide after every step, into one byte.
    """
    words, nodes = c.shape[0], s.shape[0]
    last = words - 1
    chosen = np.zeros((nodes, words + 7), np.uint64)
    chosen[:, :words] = s
    fold = np.empty((8, GF2_ROWS), np.uint64)
    for start in range(begin, end, GF2_ROWS):
        size = min(GF2_ROWS, end - start)
        stop = start + size
        for first in range(0, nodes, 8):
            fold[:] = 0
            for n in range(first, min(first + 8, nodes)):
                f = fold[n - first]
                for t in range(0, words, 8):
                    s0, s1, s2, s3 = chosen[n, t], chosen[n, t + 1], chosen[n, t + 2], chosen[n, t + 3]
                    s4, s5, s6, s7 = chosen[n, t + 4], chosen[n, t + 5], chosen[n, t + 6], chosen[n, t + 7]
                    c0, c1 = c[t, start:stop], c[min(t + 1, last), start:stop]
                    c2, c3 = c[min(t + 2, last), start:stop], c[min(t + 3, last), start:stop]
                    c4, c5 = c[min(t + 4, last), start:stop], c[min(t + 5, last), start:stop]
                    c6, c7 = c[min(t + 6, last), start:stop], c[min(t + 7, last), start:stop]
                    for i in range(size):
                        f[i] ^= (
                            (c0[i] & s0) ^ (c1[i] & s1) ^ (c2[i] & s2) ^ (c3[i] & s3)
                            ^ (c4[i] & s4) ^ (c5[i] & s5) ^ (c6[i] & s6) ^ (c7[i] & s7)
                        )  # fmt: skip
            f0, f1, f2, f3, f4, f5, f6, f7 = fold[0], fold[1], fold[2], fold[3], fold[4], fold[5], fold[6], fold[7]
            for i in range(size):
                x04 = _halves(f0[i], f4[i], np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                x15 = _halves(f1[i], f5[i], np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                x26 = _halves(f2[i], f6[i], np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                x37 = _halves(f3[i], f7[i], np.uint64(32), np.uint64(0x00000000FFFFFFFF))
                even = _halves(x04, x26, np.uint64(16), np.uint64(0x0000FFFF0000FFFF))
                odd = _halves(x15, x37, np.uint64(16), np.uint64(0x0000FFFF0000FFFF))
                x = _halves(even, odd, np.uint64(8), np.uint64(0x00FF00FF00FF00FF))  # byte n: node first + n
                x ^= x >> np.uint64(4)
                x ^= x >> np.uint64(2)
                x ^= x >> np.uint64(1)
                x &= np.uint64(0x0101010101010101)
                # The product brings bit 0 of byte n to bit 56 + n.
                out[start + i, first >> 3] ^= np.uint8((x * np.uint64(0x0102040810204080)) >> np.uint64(56))


@njit(cache=True, nogil=True, error_model="numpy")
def and_parities(m_own, m_next, p_own, p_next, out):  # type: ignore[no-untyped-def]
    """out[i] = parity of (m_own AND (p_own XOR p_next)) XOR (m_next AND p_own) over a row's bytes.

    Args:
        m_own, m_next, p_own, p_next: uint8 (rows, bytes). out: uint8 (rows,) of zeros and ones.
    """
    rows, size = m_own.shape
    for i in range(rows):
        fold = np.uint8(0)
        for b in range(size):
            fold ^= (m_own[i, b] & (p_own[i, b] ^ p_next[i, b])) ^ (m_next[i, b] & p_own[i, b])
        fold ^= fold >> np.uint8(4)
        out[i] = (np.uint32(0x6996) >> np.uint32(fold & np.uint8(15))) & np.uint32(1)


@njit(cache=True, nogil=True, error_model="numpy")
def and_chains(bits, before, last, out):  # type: ignore[no-untyped-def]
    """out[s] = out[before[s]] AND bits[last[s]], or bits[last[s]] alone where before[s] < 0.

    Args:
        bits: uint64 (bits, words). before, last: int64 (chains,); before[s] < s. out: uint64 (chains, words), overwritten.
    """
    for s in range(before.shape[0]):
        for w in range(bits.shape[1]):
            out[s, w] = bits[last[s], w] if before[s] < 0 else out[before[s], w] & bits[last[s], w]


@njit(cache=True, nogil=True, error_model="numpy")
def fold_bits(terms, rows, factors, w, out):  # type: ignore[no-untyped-def]
    """out = XOR over subsets S of the factors of terms[rows[S]] AND of all w_k, k not in S.

    Args:
        terms: uint64 (terms, words). rows: int64 (2^n,): by subset as a binary number over `factors`.
        factors: int64 (n,): k, or ~k for the complement of w_k. w: uint64 (bits, words). out: uint64 (words,), overwritten.
    """
    words = terms.shape[1]
    sums = terms[rows]
    left = rows.shape[0]
    for k in factors:
        left //= 2
        flip = np.uint64(0) if k >= 0 else ~np.uint64(0)
        chosen = w[k if k >= 0 else ~k]
        for s in range(left):
            without, with_it, to = sums[2 * s], sums[2 * s + 1], sums[s]
            for i in range(words):
                to[i] = (without[i] & (chosen[i] ^ flip)) ^ with_it[i]
    out[:] = sums[0]


@njit(cache=True, nogil=True, error_model="numpy")
def fold_words(terms, rows, factors, w, out):  # type: ignore[no-untyped-def]
    """As `fold_bits` with elements of a ring: x_k = w_k + (1 - 2 w_k) r_k. Not reduced.

    Args:
        terms: (terms, count), out: (count,), overwritten; unsigned. rows, factors: as there. w: uint8 (bits, count) of zeros and ones.
    """
    count = terms.shape[1]
    sums = terms[rows]
    left = rows.shape[0]
    for k in factors:
        left //= 2
        flip = np.uint8(0) if k >= 0 else np.uint8(1)
        chosen = w[k if k >= 0 else ~k]
        for s in range(left):
            without, with_it, to = sums[2 * s], sums[2 * s + 1], sums[s]
            for i in range(count):
                to[i] = without[i] - with_it[i] if chosen[i] ^ flip else with_it[i]
    out[:] = sums[0]


@njit(cache=True, nogil=True, error_model="numpy")
def digit_one_hots(values, digits, digit_bits, out):  # type: ignore[no-untyped-def]
    """out[m, d] ^= 1 << (digit d of values[m]).

    Args:
        values: uint64 (count,). out: uint16 (count, digits), changed; digit 0 is the lowest.
    """
    low = np.uint64((1 << digit_bits) - 1)
    for m in range(values.shape[0]):
        for d in range(digits):
            digit = (values[m] >> np.uint64(d * digit_bits)) & low
            out[m, d] ^= np.uint16(np.uint64(1) << digit)


@njit(cache=True, nogil=True, error_model="numpy")
def look_up_planes(values, tables, masks, digit_bits, out, first, last):  # type: ignore[no-untyped-def]
    """Bit m of out[p] = parity of tables[m, d] AND masks[p, digit d of values[m]], d = masks' digit p // 2; words first to last of it.

    Args:
        values: uint64 (count,). tables: uint16 (count, digits). masks: uint16 (2 digits, 2^digit_bits).
        out: uint64 (2 digits, ceil(count / 64)), overwritten.
    """
    low = np.uint64((1 << digit_bits) - 1)
    count, digits = tables.shape
    one = np.uint64(1)
    for word in range(first, last):
        start = word * 64
        size = min(64, count - start)
        for d in range(digits):
            greater = np.uint64(0)
            equal = np.uint64(0)
            for b in range(size):
                digit = (values[start + b] >> np.uint64(d * digit_bits)) & low
                table = np.uint64(tables[start + b, d])
                g = table & np.uint64(masks[2 * d, digit])
                e = table & np.uint64(masks[2 * d + 1, digit])
                g ^= g >> np.uint64(8)
                e ^= e >> np.uint64(8)
                g ^= g >> np.uint64(4)
                e ^= e >> np.uint64(4)
                greater |= ((np.uint64(0x6996) >> (g & np.uint64(15))) & one) << np.uint64(b)
                equal |= ((np.uint64(0x6996) >> (e & np.uint64(15))) & one) << np.uint64(b)
            out[2 * d, word] = greater
            out[2 * d + 1, word] = equal
