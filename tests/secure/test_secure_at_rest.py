"""Records at rest open as what they were sealed as, under the key of their folder, and as nothing else."""

from __future__ import annotations

import hmac

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hansa.errors import StateError
from hansa.secure.at_rest import SALT_BYTES, StateSealer
from hansa.secure.keys import encode_fields

KEY, AGREEMENT, RUN = bytes(range(32)), bytes(32), bytes([1]) * 32
RECORD = b"shares of margins" * 50


def sealer(key=KEY, agreement=AGREEMENT, run=RUN, member="aurora"):
    return StateSealer(key, agreement, run, member)


def test_a_record_opens_as_what_it_was():
    sealed = sealer().seal(2, 7, "margins", RECORD)
    assert sealer().open(2, 7, "margins", sealed) == RECORD
    assert RECORD[:16] not in sealed


def test_the_same_record_is_sealed_otherwise_each_time():
    """No nonce serves twice under a key, however often a round is written anew."""
    sealed = {sealer().seal(0, 3, "margins", RECORD) for _ in range(20)}
    assert len({own[:SALT_BYTES] for own in sealed}) == len({own[SALT_BYTES:] for own in sealed}) == 20


@pytest.mark.parametrize(
    ("other", "place"),
    [
        (sealer(key=bytes(31) + b"\x01"), (2, 7, "margins")),
        (sealer(agreement=b"\x02" * 32), (2, 7, "margins")),
        (sealer(run=bytes(32)), (2, 7, "margins")),
        (sealer(member="borealis"), (2, 7, "margins")),
        (sealer(), (3, 7, "margins")),
        (sealer(), (2, 6, "margins")),
        (sealer(), (2, 7, "trees")),
    ],
    ids=["key", "agreement", "run", "member", "epoch", "checkpoint", "kind"],
)
def test_a_record_passes_for_no_other_one(other, place):
    sealed = sealer().seal(2, 7, "margins", RECORD)
    with pytest.raises(StateError, match=f"no {place[2]} of checkpoint {place[1]} in epoch {place[0]}"):
        other.open(*place, sealed)


@pytest.mark.parametrize("place", [0, SALT_BYTES, -1])
def test_a_changed_byte_is_noticed(place):
    sealed = bytearray(sealer().seal(2, 7, "margins", RECORD))
    sealed[place] ^= 1
    with pytest.raises(StateError, match="it was changed"):
        sealer().open(2, 7, "margins", bytes(sealed))
    with pytest.raises(StateError, match="is cut off"):
        sealer().open(2, 7, "margins", bytes(sealed[:40]))


def test_an_erased_key_and_one_that_is_none_are_refused():
    own = sealer()
    own.erase()
    with pytest.raises(StateError, match="erased"):
        own.seal(0, 1, "margins", RECORD)
    with pytest.raises(StateError, match="has 3 bytes; expected 32"):
        sealer(key=b"abc")


def test_the_format_is_the_documented_one():
    """By other primitives: one block of HKDF-Expand is one HMAC (RFC 5869, section 2.3)."""
    sealed = sealer().seal(2, 7, "margins", RECORD)
    info = encode_fields("hansa state record v1", sealed[:32])
    key = hmac.digest(KEY, info + b"\x01", "sha256")
    context = encode_fields("hansa state v1", AGREEMENT, RUN, "aurora", 2, 7, "margins")
    assert AESGCM(key).decrypt(bytes(12), sealed[32:], context) == RECORD
