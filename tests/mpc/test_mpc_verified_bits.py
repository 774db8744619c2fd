"""Products and signs of bits that no server can make wrong; triples by cut and choose."""

from __future__ import annotations

from math import comb, log2

import numpy as np
import pytest

from hansa.errors import ServersDisagree
from hansa.mpc import verified_bits as vb
from hansa.mpc.replicated import Address, check_copies, check_zero, open_to_all
from hansa.mpc.ring import BITS, BYTES, RING64, pack_bits, unpack_bits
from lockstep import LockstepRecord, run_three
from lying_servers import changed, run_with_liar
from three_servers import make_servers, reveal, share

PLACE = Address(0, 0, 0, "verified")


def on_all(program, *shares):
    """Run program(server, triples, its shares) at three servers; what is behind the shares that come out."""
    servers = make_servers()
    return run_three([program(s, vb.Triples(), *(own[s.index] for own in shares)) for s in servers])


def test_products_are_right_and_take_a_round():
    rng = np.random.default_rng(1)
    x, y = (rng.integers(0, 2**64, (3, 50), dtype=np.uint64) for _ in range(2))
    record = LockstepRecord()
    xs, ys, servers = share(BITS, x, 1), share(BITS, y, 2), make_servers()

    def program(server):
        triples = vb.Triples()
        yield from triples.make(server, 300, PLACE)
        rounds = record.rounds
        found = yield from vb.products(server, triples, xs[server.index], ys[server.index], PLACE)
        return found, record.rounds - rounds, triples.left

    results = run_three([program(s) for s in servers], record)
    assert np.array_equal(reveal(BITS, [found for found, _, _ in results]), x & y)
    assert [(rounds, left) for _, rounds, left in results] == [(1, 150)] * 3


def test_products_of_bytes_broadcast():
    rng = np.random.default_rng(2)
    x, y, z = (rng.integers(0, 2, shape).astype(np.uint8) for shape in ((5, 1), (5, 7), (3, 2)))
    xs, ys, zs = (share(BYTES, own, seed) for seed, own in enumerate((x, y, z)))

    def program(server, triples, *own):
        bits = [pair & np.uint8(1) for pair in own]
        return (yield from vb.products_of_bytes(server, triples, [(bits[0], bits[1]), (bits[2], bits[2])], PLACE))

    found = on_all(program, xs, ys, zs)
    assert np.array_equal(reveal(BYTES, [own[0] for own in found]), x & y)
    assert np.array_equal(reveal(BYTES, [own[1] for own in found]), z)


@pytest.mark.parametrize("bits", [3, 4, 5, 16, 17, 25, 63, 64])
def test_signs_of_all_sizes(bits):
    rng = np.random.default_rng(bits)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    numbers = [low, high, 0, -1, 1, low + 1, high - 1, *rng.integers(low, high, 200, endpoint=True).tolist()]
    values = np.array(numbers, np.int64)

    def program(server, triples, own):
        return (yield from vb.negative(server, triples, own, bits, PLACE))

    found = on_all(program, share(RING64, values.view(np.uint64), bits))
    assert np.array_equal(unpack_bits(reveal(BITS, found), len(values)), values < 0)


@pytest.mark.parametrize("bits", [3, 8, 25, 64])
@pytest.mark.parametrize("count", [1, 64, 1000])
def test_signs_take_as_many_triples_as_said(bits, count):
    words = vb.words_of_signs(bits, count)

    def program(server, triples, own):
        yield from triples.make(server, words, PLACE)
        before = triples.left
        yield from vb.negative(server, triples, own, bits, PLACE)
        return before - triples.left

    assert on_all(program, share(RING64, np.zeros(count))) == [words] * 3


# --- cut and choose ---------------------------------------------------------------------------------------------------


def log2_passes(buckets, size, bad):
    """log2 of the chance that `bad` whole buckets of wrong triples pass, exactly: the opened ones are right, and the rest is apart."""
    return log2(comb(buckets, bad)) - log2(comb((buckets + 1) * size, bad * size))


@pytest.mark.parametrize("buckets", [256, 257, 300, 451, 700, 1500])
def test_wrong_triples_pass_once_in_2_to_the_40_at_most(buckets):
    size = vb.bucket_size(buckets)
    chances = [log2_passes(buckets, size, bad) for bad in range(1, buckets + 1)]
    assert max(chances) == chances[0] <= -40
    # And with one triple less a bucket it would be more.
    assert log2_passes(buckets, size - 1, 1) > -40


def test_buckets_of_many_triples_are_small():
    assert [vb.bucket_size(count) for count in (256, 1000, 5000, 100_000)] == [6, 5, 4, 4]


def wrong_triples(words, lane):
    """The liar's messages, with one bit of some of its parts of the products changed."""

    def meddle(_, step):
        if not step.step.endswith("products"):
            return step.send

        def change(arrays):
            arrays[0].reshape(-1)[words] ^= np.uint64(1) << np.uint64(lane)

        return changed(step, change)

    return meddle


def test_the_chance_that_wrong_triples_pass_is_the_one_computed(monkeypatch):
    """With buckets so few and small that it happens: 4 / C(10, 2)."""
    monkeypatch.setattr(vb, "LEAST_TRIPLES", 4)
    monkeypatch.setattr(vb, "bucket_size", lambda _: 2)
    monkeypatch.setattr(vb, "WIDTHS", (1,))
    rng, passed, tries = np.random.default_rng(0), 0, 600
    for attempt in range(tries):
        liar, servers = attempt % 3, make_servers()
        meddle = wrong_triples(rng.choice(10, 2, replace=False), rng.integers(64))
        outcome = run_with_liar([vb.Triples().make(s, 4, PLACE) for s in servers], liar, meddle)
        passed += not outcome.errors
    expected = 2 ** log2_passes(4, 2, 1)
    assert abs(passed / tries - expected) < 4 * np.sqrt(expected / tries)


@pytest.mark.parametrize("liar", [0, 1, 2])
def test_a_wrong_triple_stops_an_honest_server_and_the_other_cannot_go_on(liar):
    rng = np.random.default_rng(liar)
    x = share(BITS, np.arange(5, dtype=np.uint64), 1)

    def program(server):
        triples = vb.Triples()
        yield from triples.make(server, 256, PLACE)
        return (yield from vb.products(server, triples, x[server.index], x[server.index], PLACE))

    for _ in range(20):
        words = rng.choice(257 * 6, rng.integers(1, 30), replace=False)
        outcome = run_with_liar([program(s) for s in make_servers()], liar, wrong_triples(words, rng.integers(64)))
        errors = [own for index, own in outcome.errors.items() if index != liar]
        assert errors
        assert all(isinstance(error, ServersDisagree) and liar in error.servers for error in errors)
        assert not set(outcome.results) - {liar}


def test_many_triples_are_made_in_parts(monkeypatch):
    monkeypatch.setattr(vb, "MOST_TRIPLES", 300)
    stocks, record = [vb.Triples() for _ in range(3)], LockstepRecord()
    run_three([stocks[s.index].make(s, 1000, PLACE) for s in make_servers()], record)
    assert record.rounds == 4 * 4
    assert [own.left for own in stocks] == [3 * 300 + 256] * 3


def test_packs_of_many_words_are_checked_as_well():
    """At 12,000 words two are shuffled as one, in buckets of 4 packs."""
    rng = np.random.default_rng(5)
    for attempt in range(6):
        words = rng.choice(12_000 * 4, 4, replace=False)
        stocks = [vb.Triples() for _ in range(3)]
        programs = [stocks[s.index].make(s, 12_000, PLACE) for s in make_servers()]
        outcome = run_with_liar(programs, attempt % 3, wrong_triples(words, rng.integers(64)))
        assert set(outcome.errors) - {attempt % 3}


def test_the_coin_is_tossed_after_the_triples_are_fixed():
    """A liar sees the coin's third part in the round after the one in which its parts of the products left."""
    told = []

    def meddle(number, step):
        told.append((number, step.step.rsplit("/", 1)[1]))
        return step.send

    run_with_liar([vb.Triples().make(s, 256, PLACE) for s in make_servers()], 1, meddle)
    assert [step for _, step in told] == ["products", "coin", "buckets", "zero"]


# --- openings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("liar", [0, 1, 2])
@pytest.mark.parametrize("message", [0, 1])
def test_a_changed_opening_stops_who_gets_it(liar, message):
    x = share(RING64, np.arange(100), 1)

    def meddle(_, step):
        def change(arrays):
            arrays[message][0] += arrays[message].dtype.type(1)

        return changed(step, change)

    programs = [open_to_all(s, RING64, x[s.index], PLACE) for s in make_servers()]
    outcome = run_with_liar(programs, liar, meddle)
    (cheated,) = outcome.errors
    assert cheated != liar
    assert set(outcome.errors[cheated].servers) == {0, 1, 2} - {cheated}
    assert all(np.array_equal(opened, np.arange(100)) for opened in outcome.results.values())


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_what_is_not_zero_stops_an_honest_server_whatever_the_third_says(wrong):
    """Part `wrong` is another at its two holders, of which the first is the liar: it shows what the next server expects."""
    right, zero = share(BITS, np.zeros(9), 3), share(BITS, np.zeros(9), 3)
    for pair, half in ((wrong, 0), ((wrong + 2) % 3, 1)):
        zero[pair][half][4] ^= np.uint64(8)
    servers = make_servers()
    programs = [check_zero(s, right[wrong] if s.index == wrong else zero[s.index], PLACE) for s in servers]
    assert set(run_with_liar(programs, wrong).errors) - {wrong} == {(wrong + 2) % 3}
    honest = [check_zero(s, right[s.index], PLACE) for s in make_servers()]
    assert not run_with_liar(honest, None).errors


@pytest.mark.parametrize("part", [0, 1, 2])
def test_an_owner_that_gives_two_servers_different_copies_is_named(part):
    vectors = {name: share(RING64, np.arange(20), seed) for seed, name in enumerate(("anna", "bob"))}
    vectors["bob"][part][0][7] += np.uint64(1)
    programs = [check_copies(s, {name: own[s.index] for name, own in vectors.items()}, PLACE) for s in make_servers()]
    outcome = run_with_liar(programs, None)
    assert list(outcome.errors) == [part]
    assert outcome.errors[part].owner == "bob"
    assert outcome.errors[part].servers == ((part + 2) % 3,)
    assert "owner 'bob'" in str(outcome.errors[part])


def test_packed_bits_of_parts():
    x = np.array([[5, 2**40 + 1], [2, 3]], np.uint64)
    planes = vb._planes(x, 3)
    assert planes.tolist() == [[[3], [0], [1]], [[2], [3], [0]]]
    assert np.array_equal(pack_bits(np.array([1, 1], np.uint8)), planes[0, 0])
