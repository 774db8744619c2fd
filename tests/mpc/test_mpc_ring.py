"""Kernels against their naive twins, at sizes that end in the middle of every block."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive_mpc as naive
from hansa.mpc import ring


def words(rng, shape, dtype=np.uint32):
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


def test_code_sums_are_the_naive_sums():
    rng = np.random.default_rng(1)
    codes, v = rng.integers(0, 7, (300, 4)).astype(np.uint16), words(rng, (3, 300))
    out = np.zeros((4, 7, 3), np.uint32)
    ring.add_code_sums(codes, v, out, 0, 4)
    assert np.array_equal(out, naive.naive_code_sums(codes, v, 7))


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64])
def test_cross_dots_and_combinations(dtype):
    rng = np.random.default_rng(2)
    x, y = words(rng, (3, 5000), dtype), words(rng, (4, 5000), dtype)
    out = np.zeros((3, 4), dtype)
    ring.cross_dots(x, y, out)
    assert np.array_equal(out.astype(object), naive.naive_dots(x, y, np.dtype(dtype).itemsize * 8))
    if dtype == np.uint32:
        weights, rows = words(rng, (2, 4)), np.zeros((2, 5000), np.uint32)
        ring.add_combinations(weights, y, rows)
        assert np.array_equal(rows, naive.naive_gemm(y, weights))


def test_masked_products():
    rng = np.random.default_rng(3)
    x, masks, y = words(rng, (2, 3, 100)), words(rng, (2, 3, 100)), words(rng, (2, 100))
    out = np.empty((3, 100), np.uint32)
    ring.masked_products(x[0], x[1], y[0], y[1], masks[0], masks[1], out)
    assert np.array_equal(out, x[0] * (y[0] + y[1]) + x[1] * y[0] + masks[0] - masks[1])


@pytest.mark.parametrize("rows", [50, 128, 300])
@pytest.mark.parametrize("nodes", [1, 8, 13, 32])
def test_gf2_product(nodes, rows):
    rng = np.random.default_rng(nodes)
    c, s = rng.integers(0, 2, (rows, 130), np.uint8), rng.integers(0, 2, (nodes, 130), np.uint8)
    out = np.zeros((rows, -(-nodes // 8)), np.uint8)
    columns = np.ascontiguousarray(ring.pack_bits(c).T)
    ring.add_gf2_product(columns, ring.pack_bits(s), out, 0, rows)
    bits = np.unpackbits(out, axis=1, bitorder="little")[:, :nodes]
    assert np.array_equal(bits, naive.naive_gf2_products(c, s))
    ring.add_gf2_product(columns, ring.pack_bits(s), out, 0, rows)
    assert not out.any()


def test_and_parities():
    rng = np.random.default_rng(5)
    m, p = words(rng, (2, 90, 3), np.uint8), words(rng, (2, 90, 3), np.uint8)
    out = np.empty(90, np.uint8)
    ring.and_parities(m[0], m[1], p[0], p[1], out)
    product = (m[0] & p[0]) ^ (m[0] & p[1]) ^ (m[1] & p[0])
    assert np.array_equal(out, np.unpackbits(product, axis=1).sum(axis=1) % 2)


@pytest.mark.parametrize(("digits", "digit_bits"), [(16, 4), (3, 1), (8, 4)])
def test_digit_tables_and_look_ups(digits, digit_bits):
    rng = np.random.default_rng(digits)
    values = words(rng, 75, np.uint64) & np.uint64(2 ** (digits * digit_bits) - 1)
    tables = np.zeros((75, digits), np.uint16)
    ring.digit_one_hots(values, digits, digit_bits, tables)
    for m, value in enumerate(values):
        for d in range(digits):
            assert tables[m, d] == 1 << ((int(value) >> (d * digit_bits)) % (1 << digit_bits))
    tables = words(rng, (75, digits), np.uint16)
    masks = words(rng, (2 * digits, 1 << digit_bits), np.uint16)
    out = np.empty((2 * digits, 2), np.uint64)
    ring.look_up_planes(values, tables, masks, digit_bits, out, 0, out.shape[1])
    expected = naive.naive_look_up(values, tables, masks, digit_bits)
    assert np.array_equal(ring.unpack_bits(out, 75), expected)


@given(st.lists(st.integers(0, 1), min_size=1, max_size=200))
def test_packing_is_undone_by_unpacking(bits):
    array = np.array(bits, np.uint8)
    packed = ring.pack_bits(array)
    assert packed.shape == (ring.words_for(len(bits)),)
    assert np.array_equal(ring.unpack_bits(packed, len(bits)), array)
    assert sum(int(word).bit_count() for word in packed) == sum(bits)


def test_and_chains():
    bits = np.random.default_rng(5).integers(0, 2**64, (3, 7), dtype=np.uint64)
    out = np.empty((5, 7), np.uint64)
    ring.and_chains(bits, np.array([-1, -1, 0, 1, 2]), np.array([0, 2, 1, 1, 2]), out)
    assert np.array_equal(out, [bits[0], bits[2], bits[0] & bits[1], bits[2] & bits[1], bits[0] & bits[1] & bits[2]])


@pytest.mark.parametrize("product", [(0,), (~1,), (0, ~3, 2), (3, 1, ~0, 2)])
def test_folds_are_sums_over_all_subsets(product):
    rng = np.random.default_rng(len(product))
    n = len(product)
    w, terms = rng.integers(0, 2**64, (4, 3), dtype=np.uint64), rng.integers(0, 2**64, (2**n + 1, 3), dtype=np.uint64)
    bits, words = rng.integers(0, 2, (4, 50), np.uint8), rng.integers(0, 2**64, (2**n + 1, 50), dtype=np.uint64)
    rows = rng.permutation(2**n + 1)[: 2**n]
    for_bits, for_words = np.zeros(3, np.uint64), np.zeros(50, np.uint64)
    for subset in range(2**n):
        part, weight = terms[rows[subset]], words[rows[subset]]
        for place, k in enumerate(product):
            chosen = w[k] if k >= 0 else ~w[~k]
            bit = (bits[k] if k >= 0 else 1 - bits[~k]).astype(np.uint64)
            if subset >> place & 1:
                weight = weight * (np.uint64(1) - bit - bit)
            else:
                part, weight = part & chosen, weight * bit
        for_bits ^= part
        for_words += weight
    out = np.empty(3, np.uint64)
    ring.fold_bits(terms, rows, np.array(product), w, out)
    assert np.array_equal(out, for_bits)
    out = np.empty(50, np.uint64)
    ring.fold_words(words, rows, np.array(product), bits, out)
    assert np.array_equal(out, for_words)
