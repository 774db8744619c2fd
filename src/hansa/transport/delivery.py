"""What one end remembers of its conversation with another, so that a link that breaks loses nothing. No I/O.

A *delivery state* outlives the connections, one after another, that carry it. Each frame gets a number, counted from
1 in each direction, and is kept, the very bytes, until the other end acknowledges it. On the wire stand, before each
frame, two big-endian words of 32 bits: its number, and the number of the last frame that came from the other end, which
acknowledges all up to it. Number 0 is a signal: one byte that says which, and no frame of anybody. One signal goes on: the hub's
*notice* to a member of another member's connection, which is for people only and changes nothing of a run.

A connection begins with one greeting each way, which says how far the speaker has received; what the other end kept
beyond that is sent again. What an end acknowledged once it may not ask for again, and there is nothing else to ask for: a
frame that is sent again has the bytes it had.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Collection, Iterator

from hansa.errors import TransportError
from hansa.transport.channel import Frame
from hansa.transport.notices import Kind, Notice

TOKEN_BYTES = 16
UNKNOWN = bytes(TOKEN_BYTES)
"""What stands for the other end's session before one is known."""

HEAD = struct.Struct(">II")
HELLO = struct.Struct(">16s16sI")
WELCOME = struct.Struct(">16sI")

ACKNOWLEDGE, FLUSH, CLOSE = b"a", b"f", b"g"
"""Signals: only the acknowledgement in its head; "acknowledge at once"; "I leave for good"."""

NOTICE = b"n"
"""A signal of the hub alone, with a notice behind it: see `notice_signal`."""

NOTICE_BYTES = 2**14
"""Of a notice, at most."""

_NOTICE = struct.Struct(">BII")
_KINDS: tuple[Kind, ...] = ("joined", "waiting", "away", "back", "lost", "left")
_LONGEST_MS = _NEVER_MS = 2**32 - 1

ACKNOWLEDGE_BYTES = 2**24
ACKNOWLEDGE_FRAMES = 1024
"""An end that answers acknowledges with its answers; one that only listens does so after so much."""

KEPT_BYTES = 2**28
"""What an end keeps for another before it waits for acknowledgements."""

_LAST_NUMBER = 2**32 - 1


class DeliveryState:
    """One end's side of a conversation.

    Attributes:
        sent, acknowledged: number of the last frame that was sent, and that the other end has.
        received: number of the last frame that came.
        kept_bytes: of the frames that are kept.
        repeated: frames that came twice and were dropped.
        asked: whether the other end waits for an acknowledgement. left: whether it closed.
        notice: bytes of the notice that came last, until somebody takes it; only where this end `takes_notices`.
    """

    __slots__ = (
        "_kept",
        "_owed_bytes",
        "_owed_frames",
        "acknowledged",
        "asked",
        "kept_bytes",
        "left",
        "notice",
        "received",
        "repeated",
        "sent",
        "takes_notices",
    )

    def __init__(self, *, takes_notices: bool = False) -> None:
        self.takes_notices = takes_notices
        self.notice = b""
        self.sent = self.acknowledged = self.received = self.repeated = 0
        self.kept_bytes = 0
        self.asked = self.left = False
        self._kept: deque[bytes] = deque()
        self._owed_frames = self._owed_bytes = 0

    @property
    def untouched(self) -> bool:
        """Whether no frame passed yet, either way."""
        return not self.sent and not self.received

    @property
    def owes(self) -> bool:
        """Whether so much came since this end last wrote anything that it should acknowledge without being asked."""
        return self._owed_bytes > ACKNOWLEDGE_BYTES or self._owed_frames > ACKNOWLEDGE_FRAMES

    def keep(self, frame: Frame) -> tuple[bytes, bytes]:
        """Number a frame that is to be sent and keep it.

        Returns:
            Its head, and the bytes that are kept: the frame itself where it cannot change, else a copy.
        """
        if self.sent == _LAST_NUMBER:
            raise TransportError(
                f"{_LAST_NUMBER} frames were sent in one conversation, which is all that it can number"
            )
        kept = frame if type(frame) is bytes else bytes(frame)
        self.sent += 1
        self._kept.append(kept)
        self.kept_bytes += len(kept)
        return self._head(self.sent), kept

    def signal(self, kind: bytes) -> bytes:
        """What to write for a signal."""
        return self._head(0) + kind

    def take(self, frame: memoryview) -> memoryview | None:
        """The frame in what came over the connection; None where it was a signal, or came before.

        Raises:
            TransportError: says which rule of this module the other end broke.
        """
        if len(frame) <= HEAD.size:
            raise TransportError(f"{len(frame)} bytes came, too few for a numbered frame")
        number, acknowledged = HEAD.unpack_from(frame)
        if acknowledged != self.acknowledged:
            self._forget(acknowledged)
        content = frame[HEAD.size :]
        if number == self.received + 1:
            self.received = number
            self._owed_frames += 1
            self._owed_bytes += len(content)
            return content
        if number > self.received:
            raise TransportError(f"frame {number} came, expected frame {self.received + 1}; rule: none is left out")
        if number:
            self.repeated += 1
        elif content == FLUSH:
            self.asked = True
        elif content == CLOSE:
            self.left = True
        elif self.takes_notices and content[:1] == NOTICE:
            self.notice = bytes(content)
        elif content != ACKNOWLEDGE:
            raise TransportError(f"a signal of {len(content)} bytes came that is none of the known ones")
        return None

    def check(self, received: int) -> None:
        """Refuse a greeting that says how far the other end has received and cannot be true.

        Raises:
            TransportError: it acknowledged more before, or speaks of a frame that was never sent.
        """
        if not self.acknowledged <= received <= self.sent:
            raise TransportError(
                f"says it has received {received} frames; it acknowledged {self.acknowledged} of {self.sent} that were sent. "
                "It lost its state, or rewinds the run; start a new run"
            )

    def again(self, received: int) -> Iterator[tuple[bytes, bytes]]:
        """Heads and bytes of all frames after the `received` ones, in order. Raises TransportError, as `check`."""
        self.check(received)
        self._forget(received)
        for place, kept in enumerate(tuple(self._kept), self.acknowledged + 1):
            yield self._head(place), kept

    def _head(self, number: int) -> bytes:
        self._owed_frames = self._owed_bytes = 0
        return HEAD.pack(number, self.received)

    def _forget(self, acknowledged: int) -> None:
        """Let go of the frames that the other end has."""
        if not self.acknowledged <= acknowledged <= self.sent:
            raise TransportError(
                f"frame {acknowledged} was acknowledged after {self.acknowledged}, of {self.sent} that were sent"
            )
        for _ in range(acknowledged - self.acknowledged):
            self.kept_bytes -= len(self._kept.popleft())
        self.acknowledged = acknowledged


def read_hello(hello: bytes) -> tuple[bytes, bytes, int]:
    """(the member's session, the hub's session as it knows it, frames received). Raises TransportError."""
    if len(hello) != HELLO.size:
        raise TransportError(f"sent a greeting of {len(hello)} bytes, expected {HELLO.size}")
    token, other, received = HELLO.unpack(hello)
    return token, other, received


def read_welcome(welcome: bytes) -> tuple[bytes, int]:
    """(the hub's session, frames received). Raises TransportError."""
    if len(welcome) != WELCOME.size:
        raise TransportError(f"welcomed this member with {len(welcome)} bytes, expected {WELCOME.size}")
    token, received = WELCOME.unpack(welcome)
    return token, received


def notice_signal(notice: Notice) -> bytes:
    """A notice as a signal: kind, milliseconds, milliseconds of the limit, then the member and all who are waited for, in ASCII.

    Empty where there are too many names to send.
    """
    limit = _NEVER_MS if notice.limit_s is None else min(_LONGEST_MS - 1, round(1000 * notice.limit_s))
    head = _NOTICE.pack(_KINDS.index(notice.kind), min(_LONGEST_MS, round(1000 * notice.seconds)), limit)
    signal = NOTICE + head + ",".join((notice.member, *notice.waiting_for)).encode("ascii")
    return signal if len(signal) <= NOTICE_BYTES else b""


def read_notice(signal: bytes, members: Collection[str]) -> Notice:
    """The hub's notice, which is its claim.

    Args:
        members: all whom it may speak of.

    Raises:
        TransportError: it is no notice, or speaks of somebody else.
    """
    if not _NOTICE.size < len(signal) <= NOTICE_BYTES:
        raise TransportError(f"a notice of {len(signal)} bytes came, expected {_NOTICE.size + 1} to {NOTICE_BYTES}")
    kind, milliseconds, limit = _NOTICE.unpack_from(signal, 1)
    if kind >= len(_KINDS):
        raise TransportError(f"a notice of kind {kind} came, expected 0 to {len(_KINDS) - 1}")
    member, *waiting_for = signal[1 + _NOTICE.size :].decode("ascii", "replace").split(",")
    known = set(waiting_for) <= set(members) and (member in members or (not member and _KINDS[kind] == "waiting"))
    if not known or sorted(set(waiting_for)) != waiting_for:
        raise TransportError("a notice speaks of others than members, or of one twice")
    return Notice(
        _KINDS[kind],
        member,
        tuple(waiting_for),
        milliseconds / 1000,
        None if limit == _NEVER_MS else limit / 1000,
        "says the hub",
    )
