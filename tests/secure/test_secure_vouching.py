"""Proofs that the hub passes on between two members and cannot make."""

from __future__ import annotations

import hashlib
import hmac
import itertools

import pytest

from hansa.errors import ProtocolError
from hansa.secure.keys import PairKey, encode_fields
from hansa.secure.vouching import VOUCH_BYTES, Vouching

NAMES = ("aurora", "borealis", "cirrus")
CONTENT = b"row counts"


def keys(member: str) -> dict[str, PairKey]:
    """One key a pair, the same at both ends."""
    return {
        peer: PairKey(hashlib.sha256("|".join(sorted((member, peer))).encode()).digest(), member, peer)
        for peer in NAMES
        if peer != member
    }


def tag_for(sender: str, receiver: str, content: bytes = CONTENT) -> bytes:
    others = [name for name in NAMES if name != sender]
    tags = Vouching(keys(sender)).make(content)
    at = VOUCH_BYTES * others.index(receiver)
    return tags[at : at + VOUCH_BYTES]


def test_a_tag_is_hmac_under_a_key_of_the_direction():
    """Known answer, from the standard library alone."""
    pair = hashlib.sha256(b"aurora|borealis").digest()
    info = encode_fields("hansa vouching v1", "aurora", "borealis")
    key = hmac.digest(pair, info + b"\x01", "sha256")
    expected = hmac.digest(key, hashlib.sha256(CONTENT).digest(), "sha256")[:16]
    assert tag_for("aurora", "borealis") == expected


def test_every_other_member_can_check_its_own_tag():
    for sender, receiver in itertools.permutations(NAMES, 2):
        assert Vouching(keys(receiver)).check(sender, CONTENT, tag_for(sender, receiver))


@pytest.mark.parametrize(
    "tag",
    [
        tag_for("aurora", "cirrus"),
        tag_for("borealis", "aurora"),
        tag_for("aurora", "borealis", b"other counts"),
        tag_for("aurora", "borealis")[:-1],
        b"",
        bytes(VOUCH_BYTES),
    ],
    ids=["for another", "sent back", "over other bytes", "cut short", "none", "zeros"],
)
def test_any_other_tag_is_wrong(tag):
    assert not Vouching(keys("borealis")).check("aurora", CONTENT, tag)


def test_a_pair_key_is_used_for_vouching_once():
    held = keys("aurora")
    Vouching(held)
    with pytest.raises(ProtocolError, match="in use for vouching"):
        Vouching(held)


def test_erased_keys_are_not_used_again():
    vouching = Vouching(keys("aurora"))
    kept = [*vouching._makes.values(), *vouching._checks.values()]
    vouching.erase()
    vouching.erase()
    assert all(not any(key) for key in kept)
    with pytest.raises(ProtocolError, match="erased"):
        vouching.make(CONTENT)
    with pytest.raises(ProtocolError, match="erased"):
        vouching.check("borealis", CONTENT, bytes(VOUCH_BYTES))
