"""Frames come out as they went in, however the stream cuts them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import TransportError
from hansa.transport.frames import FrameReader, checked, fragments


class Cut:
    """A stream that hands out its bytes in fragments of given sizes; 0 stands for "nothing to read yet"."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self.content, self.sizes, self.turn = content, sizes, 0

    def read(self, size: int, buffer: memoryview) -> int:
        size = self.sizes[self.turn % len(self.sizes)]
        self.turn += 1
        if size == 0:
            raise BlockingIOError
        taken = self.content[: min(size, len(buffer))]
        buffer[: len(taken)] = taken
        self.content = self.content[len(taken) :]
        return len(taken)

    read_on = read


def encoded(frame: bytes) -> bytes:
    return b"".join(fragments(memoryview(frame)))


def read_one(reader: FrameReader, stream: Cut) -> bytes:
    while True:
        try:
            return bytes(reader.read(stream))
        except BlockingIOError:
            continue


@given(
    st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any),
)
def test_any_cut_of_the_stream_gives_the_same_frames(frames, sizes):
    stream = Cut(b"".join(map(encoded, frames)), sizes)
    reader = FrameReader(300)
    assert [read_one(reader, stream) for _ in frames] == frames
    with pytest.raises(TransportError, match=r"^the connection was closed$"):
        read_one(reader, stream)


@pytest.mark.parametrize("size", [1, 2**14 - 5, 2**14 - 4, 2**14 - 3, 2**14 + 2**18 - 4, 2**20 + 1])
def test_fragments_are_the_prefix_and_the_frame(size):
    frame = bytes(i % 251 for i in range(size))
    assert encoded(frame) == size.to_bytes(4, "big") + frame
    assert len(next(fragments(memoryview(frame)))) == min(2**14, size + 4)


def test_a_large_frame_grows_the_buffer_and_small_ones_use_it_again():
    large, small = bytes(range(256)) * 4000, b"small"
    reader = FrameReader(2**21)
    stream = Cut(encoded(large) + encoded(small) + encoded(large), [16384])
    assert bytes(reader.read(stream)) == large
    buffer = reader._buffer
    assert bytes(reader.read(stream)) == small
    assert bytes(reader.read(stream)) == large
    assert reader._buffer is buffer


def test_frames_are_handed_out_read_only():
    with pytest.raises(TypeError, match="read-only"):
        FrameReader(10).read(Cut(encoded(b"frame"), [99]))[0] = 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "^the connection was closed$"),
        (b"\0", "after 1 of 4 bytes"),
        (b"\0\0\0\5abc", "inside a frame, after 3 of 5 bytes"),
        (b"\0\0\0\0", "announced a frame of 0 bytes, expected 1 to 10"),
        (b"\0\0\0\x0b" + bytes(11), "announced a frame of 11 bytes, expected 1 to 10"),
        (b"\xff\xff\xff\xff", "announced a frame of 4294967295 bytes"),
    ],
)
def test_what_is_no_frame_is_refused(content, message):
    with pytest.raises(TransportError, match=message):
        FrameReader(10).read(Cut(content, [99]))


def test_frames_without_a_receiver_are_refused():
    assert checked(memoryview(b"abcd").cast("H"), 4) == b"abcd"
    for frame in (b"", b"12345"):
        with pytest.raises(TransportError, match=f"cannot send a frame of {len(frame)} bytes: a frame has 1 to 4"):
            checked(frame, 4)


def test_a_frame_that_is_spared_is_not_written_over_and_a_half_read_one_is_not_lost():
    stream = Cut(encoded(b"first") + encoded(b"second") + encoded(b"third"), [4, 5, 4, 3, 0, 99])
    reader = FrameReader(100)
    first = reader.read(stream)
    reader.pin_frame()
    with pytest.raises(BlockingIOError):
        reader.read(stream)
    reader.pin_frame()
    second = reader.read(stream)
    assert (first, second) == (b"first", b"second")
    reader.pin_frame()
    assert reader.read(stream) == b"third"
    assert (first, second) == (b"first", b"second")
