"""Frames on a byte stream: a length of four bytes, big-endian, then that many bytes; never none.

Nothing here knows about TLS. A stream is anything with `read`, which returns 0 where the stream has
ended and raises what it likes where there is nothing to read yet: the reader keeps what it has and goes on at
the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from hansa.errors import TransportError
from hansa.transport.channel import Frame

PREFIX_BYTES = 4
RECORD_BYTES = 2**14
"""Bytes that one TLS record holds."""

_FIRST_BYTES = RECORD_BYTES - PREFIX_BYTES
_FRAGMENT_BYTES = 2**17
_SMALLEST_BUFFER = 2**16


class Stream(Protocol):
    """What a `FrameReader` reads from."""

    def read(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes of one TLS record into `buffer`; 0 where the stream has ended."""

    def read_on(self, size: int, buffer: memoryview) -> int:
        """Read at most `size` bytes, of as many records as are here; otherwise as `read`."""


def checked(frame: Frame, limit: int) -> memoryview:
    """The frame's bytes as a flat view; raises TransportError where no receiver would take them."""
    view = memoryview(frame).cast("B")
    if not 0 < len(view) <= limit:
        raise TransportError(
            f"cannot send a frame of {len(view)} bytes: a frame has 1 to {limit}; "
            "split the message, or raise the frame limit at both ends"
        )
    return view


class FrameRefused(TransportError):
    """A frame was announced that no sender who keeps to the rules announces."""

    follows = False


def fragments(frame: memoryview, head: bytes = b"") -> Iterator[bytes | memoryview]:
    """What to write, in order: the prefix with the first bytes, then views of the rest.

    What is sent is one frame: `head` (short), then `frame`.

    A TLS record holds 16 KiB: the first fragment fills one, so a small frame is one record and a large one is
    not copied.
    """
    first = _FIRST_BYTES - len(head)
    yield (len(head) + len(frame)).to_bytes(PREFIX_BYTES, "big") + head + frame[:first]
    for start in range(first, len(frame), _FRAGMENT_BYTES):
        yield frame[start : start + _FRAGMENT_BYTES]


class FrameReader:
    """Puts frames together, however the stream cuts them, in one buffer that it uses again and again.

    The buffer grows with the bytes that came, never with the bytes that were announced.
    """

    __slots__ = ("_buffer", "_end", "_have", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = memoryview(bytearray(min(PREFIX_BYTES + limit, _SMALLEST_BUFFER)))
        self._have = 0  # bytes at the start of the buffer
        self._end = 0  # where, among them, the frame ends that was handed out last

    def pin_frame(self) -> None:
        """Leave the frame that was read last as it is for good: what is read next goes into another buffer."""
        fresh = memoryview(bytearray(len(self._buffer)))
        fresh[self._end : self._have] = self._buffer[self._end : self._have]
        self._buffer = fresh

    @property
    def ahead(self) -> bool:
        """Whether bytes are here that came behind the last frame."""
        return self._end < self._have

    def read(self, stream: Stream) -> memoryview:
        """The next frame, a view that is valid until the next call.

        Raises:
            TransportError: the stream ended.
            FrameRefused: it announced a frame that is empty or over the limit.
        """
        if self._end:  # what came behind the last frame moves to the front
            if behind := bytes(self._buffer[self._end : self._have]):
                self._buffer[: len(behind)] = behind
            self._have, self._end = len(behind), 0
        while self._have < PREFIX_BYTES:
            # As much as a record holds, so that one call gets a small frame whole; a record holds parts of one frame only.
            self._have += self._taken(stream.read, self._buffer[self._have : RECORD_BYTES])
        length = int.from_bytes(self._buffer[:PREFIX_BYTES], "big")
        if not 0 < length <= self._limit:
            raise FrameRefused(f"announced a frame of {length} bytes, expected 1 to {self._limit}")
        end = PREFIX_BYTES + length
        while self._have < end:
            if self._have == len(self._buffer):
                self._grow(end)
            self._have += self._taken(stream.read_on, self._buffer[self._have : end])
        self._end = end
        return self._buffer[PREFIX_BYTES:end].toreadonly()

    def _taken(self, read: Callable[[int, memoryview], int], into: memoryview) -> int:
        if taken := read(len(into), into):
            return taken
        raise TransportError(self._ending())

    def _ending(self) -> str:
        if self._have >= PREFIX_BYTES:
            length = int.from_bytes(self._buffer[:PREFIX_BYTES], "big")
            return f"the connection ended inside a frame, after {self._have - PREFIX_BYTES} of {length} bytes"
        if self._have:
            return f"the connection ended inside a frame's length, after {self._have} of {PREFIX_BYTES} bytes"
        return "the connection was closed"

    def _grow(self, end: int) -> None:
        larger = memoryview(bytearray(min(end, 4 * len(self._buffer))))
        larger[: self._have] = self._buffer[: self._have]
        self._buffer = larger
