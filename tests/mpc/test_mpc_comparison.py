"""Signs, conversions and truncation at the edges of their ranges, and in other rings."""

from __future__ import annotations

import doctest
from itertools import combinations
from itertools import product as cartesian
from math import prod

import numpy as np
import pytest

from hansa.mpc import comparison as cmp
from hansa.mpc.replicated import reshare
from hansa.mpc.ring import BITS, RING32, RING64, Ring, pack_bits, unpack_bits
from lockstep import LockstepRecord, run_three
from three_servers import reveal, share

EDGES = [0, 1, -1, 2**20, -(2**20), 2**62 - 1, -(2**62), 2**61, 2**63 - 1, -(2**63)]


@pytest.mark.parametrize("digit_bits", [1, 2, 4])
@pytest.mark.parametrize("bits", [3, 5, 32, 64])
def test_sign_in_any_ring(bits, digit_bits, servers, place):
    ring = Ring(f"Z{bits}", bits, np.uint64)
    values = np.arange(2**bits) if bits < 10 else np.random.default_rng(bits).integers(-(2**62), 2**62, 777)
    values = np.concatenate([values, EDGES]).astype(np.int64).astype(np.uint64) & np.uint64(ring.mask)
    shares = share(ring, values)

    def program(server):
        part = yield from cmp.sign_part(server, ring, shares[server.index][0], place, digit_bits)
        return (yield from reshare(server, BITS, part, place.named("result")))

    signs = unpack_bits(reveal(BITS, run_three([program(s) for s in servers])), len(values))
    assert np.array_equal(signs, values >> np.uint64(bits - 1))


def test_signs_are_arithmetic_and_cost_what_they_say(servers, place):
    values = np.random.default_rng(1).integers(-(2**62), 2**62, 6400)
    shares = share(RING64, values)
    record = LockstepRecord()
    bits = run_three([cmp.signs(s, RING64, shares[s.index][0], place) for s in servers], record)
    assert np.array_equal(reveal(RING64, bits), values < 0)
    assert record.rounds == 5
    # 8 to open, 4 times 7 and 6 bits of digits, 1 to open the sign, 8 for its word.
    assert record.sent[0] == record.sent[1] == 6400 * (8 + 28 / 8 + 6 / 8 + 1 / 8 + 8)
    # The digits' tables, the products of the masks of 4 times 7 and 6 bits, the sign's word.
    assert record.sent[2] == 6400 * (32 + 4 * 29 / 8 + 21 / 8 + 8)


PRODUCTS = ((0, 1), (~0, 2, 3), (1, ~2, ~3), (3,), (0, 1, 2, 3))


@pytest.mark.parametrize("ring", [None, RING32, RING64], ids=str)
def test_products_of_bits_are_those_of_the_bits(ring, servers, place):
    values = np.random.default_rng(6).integers(0, 2, (4, 3, 200), dtype=np.uint8)
    packed = pack_bits(values)
    # Any parts will do, S_2's too.
    shares = share(BITS, packed)
    expected = [np.prod([values[k] if k >= 0 else 1 - values[~k] for k in product], axis=0) for product in PRODUCTS]
    record = LockstepRecord()

    def program(server, own, count):
        bits, words = yield from cmp.bit_products(server, own, PRODUCTS, place, ring, count)
        again = yield from reshare(server, BITS, bits, place.named("bits"))
        if ring is None:
            return again, None
        return again, (yield from reshare(server, ring, words, place.named("words")))

    if ring is None:
        found = run_three([program(s, shares[s.index][0], 0) for s in servers], record)
        # A word for each bit that is opened, and for each of the subsets of the products; then the reshare.
        assert record.sent[0] == packed.nbytes + 5 * packed.nbytes // 4
        assert record.sent[2] == 15 * packed.nbytes // 4 + 5 * packed.nbytes // 4
    else:
        found = run_three([program(s, shares[s.index][0][:, 0], 200) for s in servers], record)
        expected = [own[0] for own in expected]
        assert np.array_equal(reveal(ring, [words for _, words in found]), expected)
    assert np.array_equal(unpack_bits(reveal(BITS, [bits for bits, _ in found]), 200), expected)
    assert record.rounds == 2 + (ring is not None)


def test_the_examples_of_products_run():
    failed, tried = doctest.testmod(cmp)
    assert failed == 0
    assert tried >= 5


@pytest.mark.parametrize("product", [(0, 1, 2), (~0, 1, ~2), (0, 2), (~1,)], ids=str)
def test_a_product_is_the_sum_over_subsets_of_opened_and_dealt_bits(product):
    """The equation of `bit_products` over bits and over whole numbers, for all w and r of three bits."""
    places = [k if k >= 0 else ~k for k in product]
    dealt = [own for size in range(1, len(places) + 1) for own in combinations(sorted(places), size)]
    assert list(cmp._subsets((product,))) == dealt
    for bits in range(64):
        w, r = [bits >> k & 1 for k in range(3)], [bits >> k & 1 for k in range(3, 6)]
        expected = prod((w[k] ^ r[k]) if k >= 0 else 1 - (w[~k] ^ r[~k]) for k in product)
        opened = {k if k >= 0 else ~k: w[k] if k >= 0 else 1 - w[~k] for k in product}
        exclusive, whole = 0, 0
        for own in [(), *dealt]:
            of_masks = prod(r[k] for k in own)
            exclusive ^= of_masks * prod(opened[k] for k in places if k not in own)
            whole += of_masks * prod(1 - 2 * opened[k] if k in own else opened[k] for k in places)
        assert exclusive == whole == expected


def test_three_bits_are_multiplied_in_one_round(servers, place):
    """And so are all products of them that there are, negated factors too."""
    values = np.array([[x >> k & 1 for x in range(8)] for k in range(3)], np.uint8)
    literals = [[k, ~k] for k in range(3)]
    products = tuple(own for size in (2, 3) for some in combinations(literals, size) for own in cartesian(*some))
    assert len(products) == 3 * 4 + 8
    shares = share(BITS, pack_bits(values))
    record = LockstepRecord()
    found = run_three([cmp.bit_products(s, shares[s.index][0], products, place, RING32, 8) for s in servers], record)
    expected = [np.prod([values[k] if k >= 0 else 1 - values[~k] for k in own], axis=0) for own in products]
    bits = np.bitwise_xor.reduce([own for own, _ in found])
    assert np.array_equal(unpack_bits(bits, 8), expected)
    assert np.array_equal(sum(own for _, own in found), expected)
    assert record.rounds == 1


@pytest.mark.parametrize(("shift", "target"), [(1, None), (31, None), (34, None), (20, RING32), (45, RING32)])
def test_truncation_rounds_to_a_neighbour_without_bias(shift, target, servers, place):
    low = -(2 ** min(62, shift + 30))
    values = np.random.default_rng(shift).integers(low, -low, 20000)
    values[:4] = [0, low, -low - 1, 1]
    shares = share(RING64, values)
    record = LockstepRecord()
    out = run_three([cmp.truncate(s, RING64, shares[s.index][0], shift, place, target) for s in servers], record)
    signed = np.int32 if target == RING32 else np.int64
    found = reveal(target or RING64, out).view(signed)
    rest = (values & (2**shift - 1)) / 2.0**shift
    above = found - (values >> shift)
    assert set(above.tolist()) <= {0, 1}
    assert abs((above - rest).mean()) < 4 * 0.5 / np.sqrt(len(values))
    assert record.rounds == 2


def test_truncation_in_32_bits(servers, place):
    values = np.random.default_rng(4).integers(-(2**30), 2**30, 5000)
    shares = share(RING32, values)
    out = run_three([cmp.truncate(s, RING32, shares[s.index][0], 17, place) for s in servers])
    above = reveal(RING32, out).view(np.int32) - (values >> 17)
    assert set(above.tolist()) <= {0, 1}


def test_extension_is_exact_over_its_whole_range(servers, place):
    values = np.concatenate([[-(2**30), 2**30 - 1, 0, -1], np.random.default_rng(5).integers(-(2**30), 2**30, 5000)])
    shares = share(RING32, values)
    record = LockstepRecord()
    out = run_three([cmp.extend(s, shares[s.index][0], place) for s in servers], record)
    assert np.array_equal(reveal(RING64, out).view(np.int64), values)
    assert record.sent == [12 * len(values)] * 3
    assert record.rounds == 2


@pytest.mark.parametrize("ring", [RING32, RING64], ids=lambda ring: ring.name)
def test_bits_become_numbers(ring, servers, place):
    bits = np.random.default_rng(6).integers(0, 2**64, 3, dtype=np.uint64)
    shares = share(BITS, bits)
    out = run_three([cmp.bits_to_arithmetic(s, shares[s.index][0], 150, ring, place) for s in servers])
    assert np.array_equal(reveal(ring, out), unpack_bits(bits, 150))
