"""Sealed messages: what a hub may try, then round trips, limits and erasing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_secure as naive
from hansa.errors import ProtocolError
from hansa.secure.keys import PairKey, RunNames
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener, Sealer

AES = Algorithm.AES_256_CTR
RUN = RunNames(b"p" * 32, b"r" * 32, 1)
KEY = b"k" * 32


def ends(algorithm=AES, run=RUN) -> tuple[Sealer, Opener]:
    return Sealer(PairKey(KEY, "alba", "brix"), run, algorithm), Opener(PairKey(KEY, "brix", "alba"), run, algorithm)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_attack_every_flipped_bit_is_refused(algorithm):
    sealer, opener = ends(algorithm)
    sealed = sealer.seal("share", b"hidden")
    for bit in range(8 * len(sealed)):
        bent = bytearray(sealed)
        bent[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ProtocolError, match=r"'share'.*'alba'.*rule"):
            opener.open("share", bent)
    assert opener.open("share", sealed) == b"hidden"


def test_attack_replay_is_refused():
    sealer, opener = ends()
    sealed = [sealer.seal("share", b"%d" % number) for number in range(3)]
    for one in sealed:
        opener.open("share", one)
    for one in sealed:
        with pytest.raises(ProtocolError, match=r"'alba'.*taken once"):
            opener.open("share", one)


def test_attack_a_dropped_or_overtaken_message_is_refused():
    sealer, opener = ends()
    first, second = sealer.seal("share", b"1"), sealer.seal("share", b"2")
    with pytest.raises(ProtocolError, match=r"'alba'.*come in order"):
        opener.open("share", second)
    assert opener.open("share", first) == b"1"
    assert opener.open("share", second) == b"2"


def test_attack_another_kind_is_refused():
    sealer, opener = ends()
    with pytest.raises(ProtocolError, match=r"'checkpoint'.*'alba'.*seal is broken"):
        opener.open("checkpoint", sealer.seal("share", b"1"))


@pytest.mark.parametrize("change", [{"plan_hash": b"x" * 32}, {"run_id": b"x" * 32}, {"epoch": 2}])
def test_attack_a_message_of_another_plan_run_or_epoch_is_refused(change):
    sealed = ends(run=replace(RUN, **change))[0].seal("share", b"1")
    with pytest.raises(ProtocolError, match="seal is broken"):
        ends()[1].open("share", sealed)


def test_attack_a_message_sent_back_or_on_is_refused():
    sealed = ends()[0].seal("share", b"1")
    with pytest.raises(ProtocolError, match=r"name of member 'brix'.*seal is broken"):
        Opener(PairKey(KEY, "alba", "brix"), RUN, AES).open("share", sealed)
    with pytest.raises(ProtocolError, match=r"name of member 'alba' to 'cova'.*seal is broken"):
        Opener(PairKey(KEY, "cova", "alba"), RUN, AES).open("share", sealed)


def test_attack_a_second_sealer_would_repeat_nonces_and_is_refused():
    pair = PairKey(KEY, "alba", "brix")
    Sealer(pair, RUN, AES)
    Opener(pair, RUN, AES)
    with pytest.raises(ProtocolError, match="sealing already"):
        Sealer(pair, RUN, AES)
    with pytest.raises(ProtocolError, match="opening already"):
        Opener(pair, RUN, AES)


@pytest.mark.parametrize("length", [0, 1, 8, 23])
def test_attack_messages_too_short_for_a_seal_are_refused(length):
    with pytest.raises(ProtocolError, match="is whole"):
        ends()[1].open("share", bytes(length))


def test_spent_counters_are_refused():
    sealer = Sealer(PairKey(KEY, "alba", "brix"), RUN, AES, limit=2)
    sealer.seal("share", b"1")
    sealer.seal("share", b"2")
    with pytest.raises(ProtocolError, match=r"2 messages.*'brix'.*used once"):
        sealer.seal("share", b"3")


@pytest.mark.parametrize("algorithm", Algorithm)
@given(messages=st.lists(st.tuples(st.text(max_size=5), st.binary(max_size=100)), max_size=6))
@settings(max_examples=30, deadline=None)
def test_messages_arrive_as_sent_and_equal_the_naive_twin(algorithm, messages):
    sealer, opener = ends(algorithm)
    run = (RUN.plan_hash, RUN.run_id, RUN.epoch)
    for counter, (kind, message) in enumerate(messages):
        sealed = sealer.seal(kind, memoryview(message))
        assert sealed == naive.seal(KEY, "alba", "brix", kind, counter, message, run, algorithm.value)
        assert opener.open(kind, memoryview(sealed)) == message


def test_the_two_directions_have_different_keys():
    there = Sealer(PairKey(KEY, "alba", "brix"), RUN, AES).seal("share", bytes(64))
    back = Sealer(PairKey(KEY, "brix", "alba"), RUN, AES).seal("share", bytes(64))
    assert sum(x == y for x, y in zip(there[8:], back[8:], strict=True)) < 10


def test_erased_ends_refuse_use():
    sealer, opener = ends()
    sealed = sealer.seal("share", b"1")
    keys = sealer._key, opener._key
    sealer.erase()
    opener.erase()
    assert not any(keys[0] + keys[1])
    with pytest.raises(ProtocolError, match=r"'brix'.*erased"):
        sealer.seal("share", b"2")
    with pytest.raises(ProtocolError, match=r"'alba'.*erased"):
        opener.open("share", sealed)
