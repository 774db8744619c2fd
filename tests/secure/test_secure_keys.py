"""Run keys: attacks first, then derivation against the naive twin, confirmation and erasing."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import naive_secure as naive
from hansa.errors import IdentityError, ProtocolError
from hansa.secure.keys import (
    PairKey,
    RunKeyPair,
    RunNames,
    announce,
    check_announcements,
    check_confirmation,
    confirmation,
    derive_pair_keys,
    encode_fields,
    fresh_key_pair,
    roster_hash,
)
from hansa.secure.prg import Algorithm

AES = Algorithm.AES_256_CTR


def check(group, announcements, verify, run=None):
    return check_announcements(announcements, run or group.run, group.publics, verify)


def test_attack_a_hub_that_swaps_a_key_is_refused(three, check_signature):
    swapped = replace(three.announcements["party-01"], public_key=fresh_key_pair().public_key)
    with pytest.raises(IdentityError, match=r"party-01.*keys are signed"):
        check(three, [three.announcements["party-00"], swapped], check_signature)


@pytest.mark.parametrize("field", ["run_id", "plan_hash", "epoch"])
def test_attack_a_key_of_another_run_plan_or_epoch_is_refused(field, three, check_signature):
    other = replace(three.run, **{field: 7 if field == "epoch" else b"x" * 32})
    with pytest.raises(IdentityError, match="party-00"):
        check(three, three.announcements.values(), check_signature, other)


def test_attack_a_member_that_takes_anothers_name_is_refused(three, check_signature):
    forged = announce(fresh_key_pair(), three.run, "party-00", AES, three.sign("party-01"))
    with pytest.raises(IdentityError, match="party-00"):
        check(three, [forged], check_signature)


def test_attack_a_weakened_cipher_is_refused(three, check_signature):
    changed = replace(three.announcements["party-02"], algorithm=Algorithm.CHACHA20)
    with pytest.raises(IdentityError, match="party-02"):
        check(three, [changed], check_signature)


def test_attack_an_unknown_cipher_is_refused(three, check_signature):
    with pytest.raises(ProtocolError, match=r"party-02.*rot13"):
        check(three, [replace(three.announcements["party-02"], algorithm="rot13")], check_signature)


def test_attack_small_order_keys_are_refused_by_name(three, check_signature, vectors):
    for number in vectors.SMALL_ORDER.values():
        pair = fresh_key_pair()
        pair.public_key = number.to_bytes(32, "little")
        bad = announce(pair, three.run, "party-01", AES, three.sign("party-01"))
        with pytest.raises(ProtocolError, match=r"party-01.*all-zero"):
            check(three, [bad], check_signature)
        with pytest.raises(ProtocolError, match=r"party-01.*all-zero"):
            fresh_key_pair().exchange("party-01", pair.public_key)


@pytest.mark.parametrize("length", [0, 31, 33])
def test_attack_keys_of_another_length_are_refused(length, three, check_signature):
    pair = fresh_key_pair()
    pair.public_key = b"\x09" * length
    bad = announce(pair, three.run, "party-01", AES, three.sign("party-01"))
    with pytest.raises(ProtocolError, match=r"party-01.*32 bytes"):
        check(three, [bad], check_signature)


def test_attack_a_roster_that_omits_repeats_or_adds_a_member_is_refused(three, check_signature):
    keys = list(three.announcements.values())
    with pytest.raises(ProtocolError, match=r"no run key of .*party-02"):
        check(three, keys[:2], check_signature)
    with pytest.raises(ProtocolError, match=r"party-00.*two run keys"):
        check(three, [*keys, keys[0]], check_signature)
    with pytest.raises(IdentityError, match="'stranger'"):
        check(three, [*keys, replace(keys[0], member="stranger")], check_signature)


def test_attack_one_key_for_two_members_is_refused(three, check_signature):
    pair = three.pairs["party-00"]
    copied = announce(pair, three.run, "party-01", AES, three.sign("party-01"))
    keys = [three.announcements["party-00"], copied, three.announcements["party-02"]]
    with pytest.raises(ProtocolError, match=r"party-00.*party-01.*same run key"):
        check(three, keys, check_signature)


def test_attack_a_roster_without_my_own_key_is_refused(three):
    with pytest.raises(ProtocolError, match="party-00"):
        derive_pair_keys(fresh_key_pair(), "party-00", three.announcements, three.run)


def test_attack_confirmations_are_not_reflected_forged_or_of_another_roster(three):
    mine, yours = three.pair_keys("party-00")["party-01"], three.pair_keys("party-01")["party-00"]
    roster = roster_hash(three.run, three.announcements)
    check_confirmation(mine, roster, confirmation(yours, roster))
    check_confirmation(yours, roster, confirmation(mine, roster))
    third = three.pair_keys("party-02")["party-00"]
    for wrong in (
        confirmation(mine, roster),
        confirmation(yours, b"o" * 32),
        confirmation(third, roster),
        b"",
        bytes(32),
    ):
        with pytest.raises(ProtocolError, match=r"party-01.*key confirmation"):
            check_confirmation(mine, roster, wrong)


def test_both_ends_and_the_naive_twin_derive_the_same_key(make_consortium):
    group = make_consortium(4, epoch=5)
    publics = {member: one.public_key for member, one in group.announcements.items()}
    run = (group.run.plan_hash, group.run.run_id, group.run.epoch)
    for low, high in itertools.combinations(group.pairs, 2):
        here, there = group.pair_keys(low)[high], group.pair_keys(high)[low]
        key = naive.pair_key(bytes(group.pairs[low]._private), publics, low, high, *run)
        assert here.expand(b"x") == there.expand(b"x") == naive.hkdf_expand(key, b"x")


def test_every_pair_run_plan_and_epoch_has_another_key(make_consortium):
    group = make_consortium(4)
    runs = [
        group.run,
        replace(group.run, epoch=1),
        replace(group.run, run_id=b"x" * 32),
        replace(group.run, plan_hash=b"x" * 32),
    ]
    seen = set()
    for run in runs:
        for member in group.pairs:
            keys = derive_pair_keys(group.pairs[member], member, group.announcements, run)
            seen |= {bytes(key.expand(b"")) for key in keys.values()}
    assert len(seen) == len(runs) * 6


def test_the_roster_hash_names_members_keys_and_run(three):
    changed = dict(three.announcements)
    changed["party-01"] = replace(changed["party-01"], public_key=b"k" * 32)
    slower = {m: replace(one, algorithm=Algorithm.CHACHA20) for m, one in three.announcements.items()}
    fewer = {m: three.announcements[m] for m in ("party-00", "party-01")}
    rosters = [three.announcements, changed, slower, fewer]
    assert len({roster_hash(three.run, roster) for roster in rosters}) == 4
    assert roster_hash(replace(three.run, epoch=1), changed) != roster_hash(three.run, changed)
    assert roster_hash(three.run, dict(reversed(three.announcements.items()))) == roster_hash(
        three.run, three.announcements
    )


def test_erased_keys_are_zero_and_refuse_use(three):
    pair = three.pairs["party-00"]
    shared = three.pair_keys("party-00")["party-01"]
    private, key = pair._private, shared._key
    assert any(private)
    assert any(key)
    pair.erase()
    shared.erase()
    assert not any(private)
    assert not any(key)
    with pytest.raises(ProtocolError, match="erased"):
        pair.exchange("party-01", three.pairs["party-01"].public_key)
    with pytest.raises(ProtocolError, match=r"party-01.*erased"):
        shared.expand(b"")
    pair.erase()
    shared.erase()


FIELDS = st.lists(st.one_of(st.binary(max_size=4), st.text(max_size=4), st.integers(0, 300)), max_size=4)


@given(st.tuples(st.text(max_size=3), FIELDS), st.tuples(st.text(max_size=3), FIELDS))
def test_encoding_is_injective_and_equals_the_twin(first, second):
    def tagged(one):
        return [one[0], *((type(field), field) for field in one[1])]

    assert (encode_fields(first[0], *first[1]) == encode_fields(second[0], *second[1])) == (
        tagged(first) == tagged(second)
    )
    assert encode_fields(first[0], *first[1]) == naive.fields(first[0], *first[1])


@pytest.mark.parametrize("bad", [{"plan_hash": b""}, {"run_id": b"r" * 31}, {"epoch": -1}, {"run_id": "r" * 32}])
def test_malformed_runs_and_keys_are_refused(bad):
    with pytest.raises(ProtocolError):
        RunNames(**({"plan_hash": b"p" * 32, "run_id": b"r" * 32} | bad))
    with pytest.raises(ProtocolError):
        RunKeyPair(b"short")
    with pytest.raises(ProtocolError):
        PairKey(bytes(32), "me", "me")
