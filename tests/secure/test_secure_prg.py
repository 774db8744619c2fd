"""Key streams: published answers, the naive twin, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import naive_secure as naive
from hansa.errors import ProtocolError
from hansa.secure import prg
from hansa.secure.prg import Algorithm, KeyStream, NamedStreams

PUBLISHED = {
    # AES-256 of a block of number 2 under a zero key: the ciphertext of 16 zeros in NIST's GCM test case 14.
    Algorithm.AES_256_CTR: "cea7403d4d606b6e074ec5d3baf39d18",
    # RFC 8439, appendix A.1, test vector 1.
    Algorithm.CHACHA20: "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
}


@pytest.mark.parametrize("algorithm", Algorithm)
def test_stream_starts_with_the_published_answer(algorithm):
    answer = bytes.fromhex(PUBLISHED[algorithm])
    words = KeyStream(bytes(32), algorithm).words32(len(answer) // 4)
    assert words.astype("<u4").tobytes() == answer


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("ring", [32, 64])
@given(key=st.binary(min_size=32, max_size=32), pieces=st.lists(st.integers(0, 90), max_size=6))
@settings(max_examples=25, deadline=None)
def test_stream_equals_the_naive_twin_however_it_is_read(algorithm, ring, key, pieces):
    stream = KeyStream(bytearray(key), algorithm)
    take = stream.words32 if ring == 32 else stream.words64
    words = [int(word) for count in pieces for word in take(count)]
    assert words == naive.stream_words(algorithm.value, key, sum(pieces), ring)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_chunks_join_without_a_seam(algorithm):
    count = 2 * prg.CHUNK_BYTES // 8 + 5
    whole = KeyStream(bytes(32), algorithm).words64(count)
    stream = KeyStream(bytes(32), algorithm)
    parts = [stream.words64(n) for n in (1, prg.CHUNK_BYTES // 8, count - 1 - prg.CHUNK_BYTES // 8)]
    assert np.array_equal(whole, np.concatenate(parts))
    assert len(np.unique(whole)) == count


def test_words_go_to_the_buffer_given():
    buffer = np.full(10, 7, np.uint32)
    words = KeyStream(bytes(32), Algorithm.AES_256_CTR).words32(4, buffer)
    assert np.shares_memory(words, buffer)
    assert not np.array_equal(buffer[:4], np.full(4, 7))
    assert np.array_equal(buffer[4:], np.full(6, 7))


@pytest.mark.parametrize(
    "out",
    [np.zeros(3, np.uint64), np.zeros(8, np.uint64)[::2], np.zeros(4, np.int64), np.zeros((4, 1), np.uint64)],
    ids=["too short", "strided", "signed", "two axes"],
)
def test_other_buffers_are_refused(out):
    with pytest.raises(ProtocolError, match="contiguous vector of at least 4"):
        KeyStream(bytes(32), Algorithm.AES_256_CTR).words64(4, out)


def test_an_erased_stream_is_refused():
    stream = KeyStream(bytes(32), Algorithm.AES_256_CTR)
    stream.words32(1)
    stream.erase()
    with pytest.raises(ProtocolError, match="erased"):
        stream.words32(1)


def test_a_stream_ends_before_its_counter_does(monkeypatch):
    monkeypatch.setattr(prg, "STREAM_LIMIT_BYTES", 64)
    stream = KeyStream(bytes(32), Algorithm.CHACHA20)
    stream.words32(16)
    with pytest.raises(ProtocolError, match="at most 64 bytes"):
        stream.words32(1)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_keys_of_another_length_are_refused(length):
    with pytest.raises(ProtocolError, match="32 bytes"):
        KeyStream(bytes(length), Algorithm.AES_256_CTR)


def test_fresh_keys_differ():
    assert len({bytes(prg.fresh_key()) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu sse2 aes avx2\n", True),
        ("Features\t: fp asimd aes pmull sha1\n", True),
        ("flags : fpu sse2 avx2 vaes_like\nmodel name : aes maker\n", False),
        ("", False),
    ],
)
def test_aes_is_found_in_the_processor_description(text, expected, tmp_path):
    description = tmp_path / "cpuinfo"
    description.write_text(text)
    assert prg.has_aes(text) is expected
    assert (prg.preferred_algorithm(description) is Algorithm.AES_256_CTR) is expected


def test_vector_aes_is_found_only_whole():
    flags = "flags : aes avx512f avx512bw avx512dq avx512vl vaes vpclmulqdq"
    assert prg.has_vector_aes(flags)
    assert not any(prg.has_vector_aes(flags.replace(f" {flag}", "")) for flag in flags.split()[3:])


def test_a_machine_that_does_not_describe_itself_prefers_chacha20(tmp_path):
    assert prg.preferred_algorithm(tmp_path / "absent") is Algorithm.CHACHA20


def test_aes_is_agreed_only_where_all_have_it():
    aes, chacha = Algorithm.AES_256_CTR, Algorithm.CHACHA20
    assert prg.agreed_algorithm([aes, aes]) is aes
    assert prg.agreed_algorithm([aes, chacha, aes]) is chacha
    assert prg.agreed_algorithm([]) is chacha
    with pytest.raises(ValueError, match="rot13"):
        prg.agreed_algorithm([aes, "rot13"])


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64])
def test_named_streams_equal_the_naive_twin_in_any_order(algorithm, dtype):
    key = bytes(range(32))
    family = NamedStreams(bytearray(key), algorithm)
    for number, shape in enumerate([(5,), (3, 7), (0,), (2, 1, 40)]):
        name = bytes([9 - number]) * 8
        out = np.empty(shape, dtype)
        family.fill(name, out)
        assert out.tobytes() == naive.named_stream(algorithm.value, key, name, out.nbytes)
    whole = family.stream(b"in parts", 132)
    words = np.concatenate([whole.words32(3), whole.words32(30)])
    assert words.tobytes() == naive.named_stream(algorithm.value, key, b"in parts", 132)


def test_a_family_goes_on_past_a_chunk():
    out = np.empty(2 * prg.CHUNK_BYTES // 8 + 5, np.uint64)
    NamedStreams(bytes(32), Algorithm.AES_256_CTR).fill(b"a stream", out)
    same = KeyStream(bytes(32), Algorithm.AES_256_CTR, b"a stream").words64(out.size)
    assert np.array_equal(out, same)
    assert len(np.unique(out)) == out.size


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_begun_stream_goes_on_fragment_by_fragment(algorithm):
    family = NamedStreams(bytes(32), algorithm)
    pieces = [np.empty(shape, np.uint32) for shape in (3, 0, (2, 5), 100)]
    family.begin(b"in parts", 4 * 113)
    for piece in pieces:
        family.go_on(piece)
    joined = b"".join(piece.tobytes() for piece in pieces)
    assert joined == naive.named_stream(algorithm.value, bytes(32), b"in parts", 4 * 113)
    family.begin(b"the next", 8)
    family.go_on(pieces[0])
    assert pieces[0].tobytes() == naive.named_stream(algorithm.value, bytes(32), b"the next", 12)
    with pytest.raises(ProtocolError, match="used once"):
        family.begin(b"in parts", 8)


def test_what_going_on_refuses(monkeypatch):
    family = NamedStreams(bytes(32), Algorithm.AES_256_CTR)
    with pytest.raises(ProtocolError, match="no stream of these was begun"):
        family.go_on(np.empty(4, np.uint32))
    monkeypatch.setattr(prg, "STREAM_LIMIT_BYTES", 64)
    family.begin(b"the name", 64)
    with pytest.raises(ProtocolError, match="contiguous"):
        family.go_on(np.empty((4, 2), np.uint32)[:, 0])
    family.go_on(np.empty(16, np.uint32))
    with pytest.raises(ProtocolError, match="at most 64 bytes"):
        family.go_on(np.empty(1, np.uint32))
    family.erase()
    with pytest.raises(ProtocolError, match="erased"):
        family.go_on(np.empty(0, np.uint32))


@pytest.mark.parametrize("name", [prg.NO_NAME, b"the name"])
def test_gcm_makes_the_bytes_of_counter_mode(name, monkeypatch):
    streams = []
    for faster in (False, True):
        monkeypatch.setattr(prg, "_gcm_is_faster", lambda faster=faster: faster)
        out = np.empty(3 * prg.CHUNK_BYTES // 8 + 3, np.uint64)
        stream = KeyStream(bytes(range(32)), Algorithm.AES_256_CTR, name, out.nbytes)
        for part in (out[:1], out[1:4], out[4:]):
            stream.words64(len(part), part)
        mode = type(stream._encryptor).__name__
        named = np.empty_like(out)
        NamedStreams(bytes(range(32)), Algorithm.AES_256_CTR).fill(name, named)
        assert np.array_equal(out, named)
        streams.append((mode, out))
    (plain, first), (gcm, second) = streams
    assert plain != gcm  # another kind of cipher made them
    assert np.array_equal(first, second)
    twin = naive.named_stream(Algorithm.AES_256_CTR.value, bytes(range(32)), name, 4096)
    assert second.tobytes()[:4096] == twin


@pytest.mark.parametrize("algorithm", Algorithm)
@pytest.mark.parametrize("faster", [False, True])
def test_filled_room_equals_the_naive_twin(algorithm, faster, monkeypatch):
    monkeypatch.setattr(prg, "_gcm_is_faster", lambda: faster)
    family = NamedStreams(bytes(range(32)), algorithm)
    for number, size in enumerate((8, 16, 24, 4096, prg.CHUNK_BYTES, prg.ROOM_BYTES)):
        room, name = np.full(size + prg.TAG_BYTES, 7, np.uint8), bytes([number]) * 8
        family.fill_room(name, room)
        assert room[:size].tobytes() == naive.named_stream(algorithm.value, bytes(range(32)), name, size)
        for again in (lambda: family.fill_room(name, room), lambda: family.begin(name, size)):  # noqa: B023
            with pytest.raises(ProtocolError, match="used once"):
                again()
    with pytest.raises(ProtocolError, match="8 bytes"):
        family.fill_room(b"short", room)
    with pytest.raises(ProtocolError, match="no stream of these was begun"):
        family.go_on(np.empty(4, np.uint32))
    family.erase()
    with pytest.raises(ProtocolError, match="erased"):
        family.fill_room(b"the name", room)


@pytest.mark.parametrize("algorithm", Algorithm)
def test_a_name_is_used_once(algorithm):
    family = NamedStreams(bytes(32), algorithm)
    family.fill(b"the name", np.empty(4, np.uint32))
    with pytest.raises(ProtocolError, match="used once"):
        family.fill(b"the name", np.empty(4, np.uint32))
    with pytest.raises(ProtocolError, match="used once"):
        family.stream(b"the name", 4)
    family.stream(b"another.", 4)
    with pytest.raises(ProtocolError, match="used once"):
        family.fill(b"another.", np.empty(4, np.uint32))


def test_what_a_family_refuses():
    with pytest.raises(ProtocolError, match="32 bytes"):
        NamedStreams(bytes(31), Algorithm.AES_256_CTR)
    family = NamedStreams(bytes(32), Algorithm.AES_256_CTR)
    with pytest.raises(ProtocolError, match="8 bytes"):
        family.fill(b"short", np.empty(4, np.uint32))
    with pytest.raises(ProtocolError, match="contiguous"):
        family.fill(b"a column", np.empty((4, 2), np.uint32)[:, 0])
    family.erase()
    assert bytes(family._key) == bytes(32)
    with pytest.raises(ProtocolError, match="erased"):
        family.fill(b"the name", np.empty(4, np.uint32))


def test_no_stream_outlives_its_ciphers_block_counter():
    """NIST SP 800-38D, section 5.2.1.1: 2^32 - 2 blocks of 16 bytes under one nonce; RFC 8439: 2^32 blocks of 64."""
    assert prg.STREAM_LIMIT_BYTES <= (2**32 - 2) * 16
    assert prg.STREAM_LIMIT_BYTES <= 2**32 * 64
    assert prg.STREAM_LIMIT_BYTES >= 2**34
