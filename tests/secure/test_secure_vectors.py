"""Known-answer vectors: byte for byte as generated, confirmed by the naive twins; refusals stay refusals.

The twins themselves answer to published vectors, so that no error can be made twice.
"""

from __future__ import annotations

import base64
import hashlib
import json

import pytest

import naive_secure as naive
from hansa.errors import ProtocolError
from hansa.secure.keys import RunNames, fresh_key_pair
from hansa.secure.masking import Label
from hansa.secure.prg import Algorithm
from hansa.secure.sealing import Opener


@pytest.fixture(scope="module")
def stored(vectors):
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in vectors.FOLDER.glob("*.json")}


def unhex(values: dict[str, str]) -> dict[str, bytes]:
    return {name: bytes.fromhex(value) for name, value in values.items()}


@pytest.mark.parametrize("name", ["keys.json", "masks.json", "sealing.json", "frames.json"])
def test_vectors_are_as_generated(vectors, name):
    assert (vectors.FOLDER / name).read_bytes() == vectors.generate()[name].encode()


def test_key_vectors_follow_from_the_naive_twins(stored):
    known = stored["keys"]["accepted"]
    private, public = (unhex(known[name]) for name in ("private", "public"))
    plan, run, epoch = bytes.fromhex(known["plan_hash"]), bytes.fromhex(known["run_id"]), known["epoch"]
    based = [
        [name, *(base64.b64encode(bytes.fromhex(text)).decode() if isinstance(text, str) else text for text in rest)]
        for name, *rest in known["roster"]
    ]
    roster_text = json.dumps(based, separators=(",", ":")).encode()
    assert hashlib.sha256(b"hansa run\x00" + plan + roster_text).digest() == run
    roster = [field for member in sorted(public) for field in (member, public[member], "aes-256-ctr")]
    roster_hash = hashlib.sha256(naive.fields("hansa roster v1", plan, run, epoch, *roster)).digest()
    assert roster_hash.hex() == known["roster_hash"]
    encoded = naive.fields("purpose", b"\x00\xff", "é", 2**64 - 1, b"", "", 0)
    assert encoded.hex() == known["encoded_fields"]
    for member, secret in private.items():
        assert naive.x25519(secret, (9).to_bytes(32, "little")) == public[member]
        signed = naive.fields("hansa run key v1", plan, run, epoch, member, public[member], "aes-256-ctr")
        assert signed.hex() == known["announced_bytes"][member]
        for peer in private.keys() - {member}:
            key = naive.pair_key(secret, public, member, peer, plan, run, epoch)
            assert naive.hkdf_expand(key, b"info").hex() == known["expanded"][f"{member} {peer}"]
            tag = naive.confirmation(key, member, peer, roster_hash)
            assert tag.hex() == known["confirmation"][f"{member} {peer}"]


def test_refused_public_keys_are_refused(stored):
    refused = unhex(stored["keys"]["refused_public_keys"])
    assert len(refused) == 9
    for key in refused.values():
        assert naive.x25519(bytes(range(32)), key) == bytes(32)
        with pytest.raises(ProtocolError, match="all-zero"):
            fresh_key_pair().exchange("brix", key)


def test_mask_vectors_follow_from_the_naive_twins(stored):
    masks, known = stored["masks"], stored["keys"]["accepted"]
    private, public = unhex(known["private"]), unhex(known["public"])
    run = bytes.fromhex(known["plan_hash"]), bytes.fromhex(known["run_id"]), known["epoch"]
    for algorithm, words in masks["streams"].items():
        assert naive.stream_words(algorithm, bytes.fromhex(masks["stream_key"]), 9, 64) == words
    assert len(masks["cases"]) == 4
    for case in masks["cases"]:
        fields = [
            bytes.fromhex(v) if k in ("run", "roster_hash", "transcript_hash") else v for k, v in case["label"].items()
        ]
        label = naive.fields("hansa label v1", *fields)
        assert label.hex() == case["encoded_label"]
        for member, values in case["values"].items():
            keys = {p: naive.pair_key(private[member], public, member, p, *run) for p in private if p != member}
            assert naive.mask(values, member, keys, label, case["ring"], case["algorithm"]) == case["masked"][member]
        sums = [sum(column) % 2 ** case["ring"] for column in zip(*case["masked"].values(), strict=True)]
        true = [sum(column) % 2 ** case["ring"] for column in zip(*case["values"].values(), strict=True)]
        assert sums == [*true, 0]


def test_refused_labels_are_refused(stored):
    refused = stored["masks"]["refused_labels"]
    assert len(refused) == 11
    for plain in refused.values():
        with pytest.raises(ProtocolError, match="label"):
            Label(
                **{
                    k: bytes.fromhex(v) if k in ("run", "roster_hash", "transcript_hash") else v
                    for k, v in plain.items()
                }
            )


def test_sealing_vectors_follow_from_the_naive_twins_and_open(stored, vectors):
    known = stored["keys"]["accepted"]
    private, public = unhex(known["private"]), unhex(known["public"])
    run = bytes.fromhex(known["plan_hash"]), bytes.fromhex(known["run_id"]), known["epoch"]
    key = naive.pair_key(private["alba"], public, "alba", "brix", *run)
    for case in stored["sealing"]["cases"]:
        algorithm = Algorithm(case["algorithm"])
        opener = Opener(vectors.pair_keys("brix", algorithm)["alba"], RunNames(*run), algorithm)
        for counter, (plain, sealed) in enumerate(zip(case["messages"], case["sealed"], strict=True)):
            message = bytes.fromhex(plain["message"])
            twin = naive.seal(key, "alba", "brix", plain["kind"], counter, message, run, algorithm.value)
            assert twin.hex() == sealed
            assert opener.open(plain["kind"], bytes.fromhex(sealed)) == message


def test_refused_sealed_messages_are_refused(stored, vectors):
    for case in stored["sealing"]["cases"]:
        algorithm = Algorithm(case["algorithm"])
        opener = Opener(vectors.pair_keys("brix", algorithm)["alba"], vectors.run(), algorithm)
        assert len(case["refused_as_first_share"]) == 11
        for sealed in case["refused_as_first_share"].values():
            with pytest.raises(ProtocolError, match="alba"):
                opener.open("share", bytes.fromhex(sealed))
        assert opener.open("share", bytes.fromhex(case["sealed"][0])) == b"first"


def test_twins_give_published_answers():
    nine = (9).to_bytes(32, "little")
    assert naive.x25519(nine, nine).hex() == (
        "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    )  # RFC 7748, section 5.2
    extracted = naive.hkdf_extract(bytes(range(13)), b"\x0b" * 22)
    assert naive.hkdf_expand(extracted, bytes(range(0xF0, 0xFA)), 42).hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )  # RFC 5869, appendix A.1
    assert naive.gcm_seal(bytes(32), bytes(12), bytes(16), b"").hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    )  # test case 14 of McGrew and Viega's GCM specification
    key, nonce = bytes(range(0x80, 0xA0)), bytes.fromhex("070000004041424344454647")
    context = bytes.fromhex("50515253c0c1c2c3c4c5c6c7")
    message = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
    sealed = naive.chacha20_poly1305_seal(key, nonce, message + b"sunscreen would be it.", context)
    assert sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"  # RFC 8439, section 2.8.2
