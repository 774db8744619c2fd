"""Masks: attacks first, then the laws (they cancel, they are uniform, no two alike) and the naive twin."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields, replace
from scipy.stats import chi2

import naive_secure as naive
from hansa.errors import ProtocolError
from hansa.secure.keys import PairKey
from hansa.secure.masking import Label, Masker, Transcript, _chunk_name
from hansa.secure.prg import ROOM_BYTES, Algorithm

AES = Algorithm.AES_256_CTR
DTYPES = {32: np.uint32, 64: np.uint64}


def make_label(length: int, ring: int = 32, **changes) -> Label:
    return replace(Label(b"r" * 32, 0, 0, 0, "histogram", b"o" * 32, b"t" * 32, length, ring), **changes)


def names(parties: int) -> list[str]:
    return [f"party-{index}" for index in range(parties)]


def raw_key(low: str, high: str) -> bytes:
    return (low + high).encode().ljust(32, b"k")


def raw_keys(member: str, parties: int) -> dict[str, bytes]:
    return {peer: raw_key(min(member, peer), max(member, peer)) for peer in names(parties) if peer != member}


def make_masker(member: str, parties: int = 3, algorithm: Algorithm = AES) -> Masker:
    keys = {peer: PairKey(key, member, peer) for peer, key in raw_keys(member, parties).items()}
    return Masker(member, keys, algorithm)


def masked(masker: Masker, label: Label, values: np.ndarray) -> np.ndarray:
    out = values.copy()
    zero = masker.mask(label, out)
    return np.array([*out, zero], DTYPES[label.ring])


def zeros(label: Label) -> np.ndarray:
    return np.zeros(label.length - 1, DTYPES[label.ring])


def test_attack_a_label_asked_twice_is_refused():
    masker, label = make_masker("party-0"), make_label(5)
    masked(masker, label, zeros(label))
    with pytest.raises(ProtocolError, match="a mask is used once"):
        masker.open(label)
    assert len(masker._used) == 1


def test_attack_a_label_whose_vector_was_never_finished_is_refused():
    masker, label = make_masker("party-0"), make_label(5)
    masker.open(label)
    with pytest.raises(ProtocolError, match="a mask is used once"):
        masker.open(label)


@pytest.mark.parametrize(
    "change", [{"transcript_hash": b"x" * 32}, {"length": 6}, {"ring": 64}, {"roster_hash": b"x" * 32}]
)
def test_attack_the_same_step_asked_again_after_another_story_is_refused(change):
    masker, label = make_masker("party-0"), make_label(5)
    masked(masker, label, zeros(label))
    with pytest.raises(ProtocolError, match="after other broadcasts or with another size"):
        masker.open(replace(label, **change))


def test_attack_a_second_masker_on_the_same_keys_is_refused():
    keys = {peer: PairKey(key, "party-0", peer) for peer, key in raw_keys("party-0", 3).items()}
    Masker("party-0", keys, AES)
    with pytest.raises(ProtocolError, match=r"party-1.*masking already"):
        Masker("party-0", keys, AES)


def test_attack_a_party_alone_gets_no_masker():
    with pytest.raises(ProtocolError, match="no vector goes out unmasked"):
        Masker("party-0", {}, AES)


def test_attack_another_members_keys_are_refused():
    with pytest.raises(ProtocolError, match="'party-1'"):
        Masker("party-0", {"party-1": PairKey(bytes(32), "party-2", "party-1")}, AES)


def test_attack_two_stories_give_noise_and_the_zero_word_tells():
    told = {"party-0": b"left", "party-1": b"left", "party-2": b"right"}
    total = np.zeros(1001, np.uint32)
    for member, story in told.items():
        transcript = Transcript(b"run")
        transcript.absorb("splits", story)
        label = make_label(1001, transcript_hash=transcript.digest())
        total += masked(make_masker(member), label, np.full(1000, 5, np.uint32))
    assert np.count_nonzero(total == 15) <= 1
    assert naive.without_zero_word(total) is None


def test_attack_a_vector_left_out_or_counted_twice_gives_noise():
    label = make_label(9, 64)
    uploads = [masked(make_masker(member), label, zeros(label)) for member in names(3)]
    for chosen in (uploads[:2], uploads[1:], [*uploads, uploads[0]]):
        assert naive.without_zero_word(np.sum(chosen, axis=0, dtype=np.uint64)) is None


def test_attack_more_or_fewer_words_than_the_label_says_are_refused():
    vector = make_masker("party-0").open(make_label(5))
    with pytest.raises(ProtocolError, match="5 words to mask but 4 left"):
        vector.mask_into(np.zeros(5, np.uint32), np.zeros(5, np.uint32))
    vector.mask_into(np.zeros(3, np.uint32), np.zeros(3, np.uint32))
    with pytest.raises(ProtocolError, match="1 of 4 are left"):
        vector.finish()
    with pytest.raises(ProtocolError, match="2 words to mask but 1 left"):
        vector.mask_into(np.zeros(2, np.uint32), np.zeros(2, np.uint32))
    vector.mask_into(np.zeros(1, np.uint32), np.zeros(1, np.uint32))
    vector.finish()
    with pytest.raises(ProtocolError, match="finished once"):
        vector.finish()
    with pytest.raises(ProtocolError, match="1 words to mask but 0 left"):
        vector.mask_into(np.zeros(1, np.uint32), np.zeros(1, np.uint32))


def test_a_refused_fragment_consumes_nothing():
    refused, smooth = make_masker("party-0").open(make_label(3)), make_masker("party-0").open(make_label(3))
    with pytest.raises(ProtocolError):
        refused.mask_into(np.zeros(2, np.int32), np.zeros(2, np.uint32))
    outs = [np.zeros(2, np.uint32), np.zeros(2, np.uint32)]
    for vector, out in zip((refused, smooth), outs, strict=True):
        vector.mask_into(np.zeros(2, np.uint32), out)
    assert np.array_equal(*outs)


@pytest.mark.parametrize(
    ("values", "out"),
    [
        (np.zeros(2, np.uint64), np.zeros(2, np.uint32)),
        (np.zeros(2, np.int32), np.zeros(2, np.uint32)),
        (np.zeros(2, np.uint32), np.zeros(3, np.uint32)),
        (np.zeros((2, 1), np.uint32), np.zeros((2, 1), np.uint32)),
    ],
    ids=["wide", "signed", "lengths", "axes"],
)
def test_fragments_of_another_kind_are_refused(values, out):
    with pytest.raises(ProtocolError, match="2 words of uint32"):
        make_masker("party-0").open(make_label(9)).mask_into(values, out)


@pytest.mark.parametrize(
    "words", [np.zeros(3, np.uint32), np.zeros((4, 1), np.uint32), np.zeros(4, np.uint64), np.zeros(4, np.int32)]
)
def test_a_whole_vector_of_another_kind_is_refused_and_consumes_nothing(words):
    masker, label = make_masker("party-0"), make_label(5)
    with pytest.raises(ProtocolError, match="4 words of uint32 expected"):
        masker.mask(label, words)
    assert not words.any()
    assert not masker._used


@pytest.mark.parametrize("ring", [32, 64])
def test_a_whole_vector_equals_its_fragments_and_ends_the_vector_before(ring):
    masker, label = make_masker("party-1"), make_label(301, ring)
    early = masker.open(make_label(5, ring, step=1))
    values = np.arange(300, dtype=DTYPES[ring])
    whole = masked(masker, label, values)
    vector, out = make_masker("party-1").open(label), np.empty_like(values)
    for start, stop in ((0, 100), (100, 300)):
        vector.mask_into(values[start:stop], out[start:stop])
    assert whole.tolist() == [*out.tolist(), vector.finish()]
    with pytest.raises(ProtocolError, match="another vector was begun"):
        early.mask_into(values[:1], out[:1])


def test_words_may_be_masked_in_place_but_not_shifted():
    values = np.arange(8, dtype=np.uint32)
    vector, other = make_masker("party-0").open(make_label(9)), make_masker("party-0").open(make_label(9))
    out = np.empty(8, np.uint32)
    other.mask_into(values, out)
    for piece in (values[:5], values[5:]):
        vector.mask_into(piece, piece)
    assert np.array_equal(values, out)
    late = make_masker("party-0").open(make_label(9))
    for source, target in ((values[:4], values[1:5]), (values[:8:2], values[:4])):
        with pytest.raises(ProtocolError, match="overlap"):
            late.mask_into(source, target)


@given(
    parties=st.integers(2, 8),
    ring=st.sampled_from([32, 64]),
    algorithm=st.sampled_from(Algorithm),
    pieces=st.lists(st.integers(0, 300), min_size=1, max_size=5),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_masks_cancel_and_equal_the_naive_twin(parties, ring, algorithm, pieces, seed):
    label = make_label(sum(pieces) + 1, ring)
    values = np.random.default_rng(seed).integers(0, 2**ring, (parties, sum(pieces)), DTYPES[ring])
    total = np.zeros(label.length, DTYPES[ring])
    for member, own in zip(names(parties), values, strict=True):
        vector, out, at = make_masker(member, parties, algorithm).open(label), [], 0
        for count in pieces:
            out.append(np.empty(count, DTYPES[ring]))
            vector.mask_into(own[at : at + count], out[-1])
            at += count
        upload = np.array([*np.concatenate(out), vector.finish()], DTYPES[ring])
        total += upload
    assert np.array_equal(naive.without_zero_word(total), values.sum(axis=0, dtype=DTYPES[ring]))
    twin = naive.mask(own.tolist(), member, raw_keys(member, parties), label.encode(), ring, algorithm.value)
    assert upload.tolist() == twin


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("over", [-1, 0, 1, 14])
def test_vectors_longer_than_a_chunk_equal_their_fragments_and_the_naive_twin(ring, over):
    """Also where the zero word ends a chunk, or has one to itself, and where fragments meet between chunks."""
    chunk = ROOM_BYTES * 8 // ring
    length = 2 * chunk + over
    label = make_label(length, ring)
    values = np.arange(length - 1, dtype=DTYPES[ring])
    uploads = [masked(make_masker(member), label, values) for member in names(3)]
    total = np.sum(uploads, axis=0, dtype=DTYPES[ring])
    assert np.array_equal(naive.without_zero_word(total), values * DTYPES[ring](3))
    for stops in ((0, 7, length - 9, length - 1), (0, chunk, length - 1), (0, 0, chunk - 1, chunk + 1, length - 1)):
        vector, out = make_masker("party-1").open(label), np.empty(length - 1, DTYPES[ring])
        for start, stop in pairwise(stops):
            vector.mask_into(values[start:stop], out[start:stop])
        assert np.array_equal(out, uploads[1][:-1])
        assert vector.finish() == uploads[1][-1]
    twin = naive.mask(values.tolist(), "party-1", raw_keys("party-1", 3), label.encode(), ring, AES.value)
    assert uploads[1].tolist() == twin


def test_names_of_chunks_differ_and_wrap_around():
    first = (2**64 - 2).to_bytes(8, "little")
    assert [_chunk_name(first, number)[0] for number in range(4)] == [254, 255, 0, 1]
    assert _chunk_name(first, 0) == first
    assert _chunk_name(first, 2) == bytes(8)


@pytest.mark.parametrize("ring", [32, 64])
@pytest.mark.parametrize("algorithm", Algorithm)
def test_uploads_are_uniform_whatever_the_rows(ring, algorithm):
    label = make_label(100_001, ring)
    for values in (zeros(label), np.full(100_000, 2**ring - 1, DTYPES[ring])):
        for member in names(3):
            octets = masked(make_masker(member, 3, algorithm), label, values).view(np.uint8)
            counts = np.bincount(octets, minlength=256)
            statistic = ((counts - len(octets) / 256) ** 2).sum() / (len(octets) / 256)
            assert chi2.sf(statistic, 255) > 1e-6


def test_any_two_uploads_of_three_look_like_noise():
    label = make_label(100_001)
    uploads = [masked(make_masker(member), label, zeros(label)) for member in names(3)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        octets = (uploads[first] + uploads[second]).view(np.uint8)
        expected = len(octets) / 256
        assert chi2.sf(((np.bincount(octets, minlength=256) - expected) ** 2).sum() / expected, 255) > 1e-6


def test_every_field_of_a_label_changes_every_stream():
    base = make_label(2001, 64)
    changes = {
        "run": b"x" * 32, "epoch": 1, "tree": 1, "step": 1, "tensor": "metric", "roster_hash": b"x" * 32,
        "transcript_hash": b"x" * 32, "length": 2002, "ring": 32,
    }  # fmt: skip
    assert set(changes) == {field.name for field in fields(Label)}
    labels = [base] + [replace(base, **{name: value}) for name, value in changes.items()]
    uploads = [masked(make_masker("party-0", 2), label, zeros(label)).view(np.uint8)[:8000] for label in labels]
    uploads.append(masked(make_masker("party-0", 2, Algorithm.CHACHA20), base, zeros(base)).view(np.uint8)[:8000])
    assert len({label.encode() for label in labels}) == len(labels)
    for index, first in enumerate(uploads):
        for second in uploads[:index]:
            equal = np.count_nonzero(first == second)
            assert 8000 / 256 - 45 < equal < 8000 / 256 + 45


TENSORS = st.text(min_size=1, max_size=4)
NUMBERS = st.integers(0, 300)
LABELS = st.builds(
    make_label,
    length=st.integers(1, 300),
    ring=st.sampled_from([32, 64]),
    epoch=NUMBERS,
    tree=NUMBERS,
    step=NUMBERS,
    tensor=TENSORS,
)


@given(LABELS, LABELS)
def test_label_encoding_is_injective(first, second):
    assert (first.encode() == second.encode()) == (first == second)


def test_the_lower_name_adds_and_the_higher_subtracts():
    label = make_label(50, 64)
    low, high = (
        masked(make_masker("party-0", 2), label, zeros(label)),
        masked(make_masker("party-1", 2), label, zeros(label)),
    )
    key = raw_key("party-0", "party-1")
    name = naive.hkdf_expand(key, naive.fields("hansa mask name v3", AES.value) + label.encode())[:8]
    stream = naive.named_stream(
        AES.value, naive.hkdf_expand(key, naive.fields("hansa mask key v3", AES.value)), name, 400
    )
    assert low.astype("<u8").tobytes() == stream
    assert np.array_equal(low + high, np.zeros(50, np.uint64))


def test_attack_a_vector_goes_on_after_another_was_begun():
    first, second = make_label(7), make_label(7, step=1)
    masker, out = make_masker("party-0"), np.empty(6, np.uint32)
    early = masker.open(first)
    early.mask_into(np.zeros(2, np.uint32), out[:2])
    late = masker.open(second)
    for refused in (lambda: early.mask_into(np.zeros(4, np.uint32), out[2:]), lambda: masker.open(first)):
        with pytest.raises(ProtocolError, match=r"another vector was begun|used once"):
            refused()
    late.mask_into(np.zeros(6, np.uint32), out)
    alone = make_masker("party-0")
    assert np.array_equal(out, masked(alone, second, zeros(second))[:-1])


def test_labels_may_be_masked_in_any_order():
    labels = [make_label(300, 64, tree=tree, step=step) for tree in (3, 0, 2) for step in (1, 0)]
    forth, back = make_masker("party-0"), make_masker("party-0")
    uploads = [masked(forth, label, zeros(label)) for label in labels]
    for label, upload in zip(reversed(labels), reversed(uploads), strict=True):
        assert np.array_equal(masked(back, label, zeros(label)), upload)


@pytest.mark.parametrize("name", ["run", "roster_hash", "transcript_hash"])
@pytest.mark.parametrize(
    "value",
    [b"", b"x" * 31, b"x" * 33, bytearray(32), memoryview(bytes(32)), "x" * 32, None],
    ids=lambda value: f"{type(value).__name__} {0 if value is None else len(value)}",
)
def test_a_labels_hash_has_32_bytes(name, value):
    with pytest.raises(ProtocolError, match=f"label: {name} has 32 bytes"):
        make_label(5, **{name: value})


@pytest.mark.parametrize(("name", "least"), [("epoch", 0), ("tree", 0), ("step", 0), ("length", 1)])
def test_a_labels_numbers_have_63_bits(name, least):
    for value in (least, least + 1, 2**63 - 1):
        assert getattr(replace(make_label(5), **{name: value}), name) == value
    for value in (least - 1, -1, -(2**63), 2**63, 2**64, True, 1.0, np.int64(3), "3", None):
        with pytest.raises(ProtocolError, match=f"label: {name} is a whole number from {least} to"):
            replace(make_label(5), **{name: value})


@pytest.mark.parametrize(
    "changes", [{"tensor": ""}, {"ring": 0}, {"ring": 31}, {"ring": 33}, {"ring": 63}, {"ring": 128}]
)
def test_a_label_has_a_tensor_and_a_ring(changes):
    assert {make_label(5, ring=ring).ring for ring in (32, 64)} == {32, 64}
    with pytest.raises(ProtocolError, match="label: a tensor's name and ring 32 or 64 expected"):
        make_label(5, **changes)


def test_erasing_zeroes_keys_and_scratch_and_ends_open_vectors():
    keys = {"party-1": PairKey(raw_key("party-0", "party-1"), "party-0", "party-1")}
    secret = keys["party-1"]._key
    masker = Masker("party-0", keys, AES)
    vector = masker.open(make_label(5))
    vector.mask_into(np.zeros(2, np.uint32), np.zeros(2, np.uint32))
    assert any(secret)
    assert masker._room.any()
    masker.erase()
    assert not any(secret)
    assert not masker._room.any()
    with pytest.raises(ProtocolError, match="erased"):
        vector.mask_into(np.zeros(2, np.uint32), np.zeros(2, np.uint32))
    with pytest.raises(ProtocolError, match="erased"):
        masker.open(make_label(5, step=1))


BROADCASTS = st.lists(st.tuples(st.text(max_size=3), st.binary(max_size=4)), max_size=4)


@given(BROADCASTS, BROADCASTS)
def test_transcripts_are_equal_only_for_equal_broadcasts(first, second):
    digests = []
    for broadcasts in (first, second):
        transcript = Transcript(b"start")
        for kind, frame in broadcasts:
            transcript.absorb(kind, memoryview(frame))
            transcript.digest()
        digests.append(transcript.digest())
    assert (digests[0] == digests[1]) == (first == second)


def test_transcripts_of_different_starts_differ():
    assert Transcript(b"one").digest() != Transcript(b"two").digest()
