"""A hub with a member in its own process, the *local member*: no second connection, identity or thread.

The local member's frames stay in memory. To whoever drives the hub they come and go like any other member's. `receive` does the
local member's work too: it lets the local member send one frame, then looks at the network, in turns while both have something.
So neither waits for the other longer than one frame takes to make. Only the local member's own computing holds up what others
send through the hub.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Protocol

from hansa.errors import MemberLost, TransportError
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Frame, Hub, Traffic
from hansa.transport.frames import PREFIX_BYTES, checked

BACKLOG_BYTES = 256 * 2**20
"""What may wait for the local member, unless told otherwise, before the network waits for it."""


class LocalMember(Protocol):
    """What the member does; each answer is made when it is asked for."""

    def opening(self) -> Iterator[Frame]:
        """What it says before it has received anything."""

    def handle(self, frame: memoryview) -> Iterator[Frame]:
        """Its answer to a frame of the hub."""

    def waited(self, seconds: float) -> Iterator[Frame]:
        """What it says after it has waited in vain for so long."""


class HubWithLocalMember:
    """See `hansa.transport.channel.Hub`. What the local member raises passes through `receive` and `settle`.

    Args:
        hub: to all other members; closed with this one. member: the local member's name, which nobody may have there.
        local_member: what it does.
        answer_s: seconds that the local member waits for each frame; None waits for ever.
        backlog_bytes: what may wait for it before `receive` looks at the network no more.
        frame_limit: bytes that one frame may hold, either way.
    """

    def __init__(
        self,
        hub: Hub,
        member: str,
        local_member: LocalMember,
        *,
        answer_s: float | None = None,
        backlog_bytes: int = BACKLOG_BYTES,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
    ) -> None:
        self._hub = hub
        self._member = member
        self._local_member = local_member
        self._answer_s = answer_s
        self._backlog_bytes = backlog_bytes
        self._frame_limit = frame_limit
        self._own = Traffic()
        self._answers: Iterator[Frame] | None = iter(local_member.opening())
        self._inbox: deque[bytes] = deque()
        self._waiting = 0  # bytes in the inbox
        self._its_turn = True
        self._idle_since = time.monotonic()

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes and frames so far, by member; the local member's counted as a network would count them."""
        return {**self._hub.traffic, self._member: self._own}

    def send(self, member: str, frame: Frame) -> None:
        """Send one frame to one member; a copy waits for the local member. Raises as the inner hub does."""
        if member != self._member:
            self._hub.send(member, frame)
            return
        view = checked(frame, self._frame_limit)
        self._inbox.append(bytes(view))
        self._waiting += len(view)
        self._own.frames_down += 1
        self._own.bytes_down += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Wait for a frame from any member, the local member too: (member, frame).

        Raises:
            MemberLost: one of the others is lost, or the local member gave a frame that no transport would carry.
            TransportError: no frame came in `timeout` seconds, or somebody else uses the local member's name.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._at_work() and (self._its_turn or self._waiting > self._backlog_bytes):
                self._its_turn = False
                if (frame := self._advance()) is not None:
                    return self._member, frame
                continue
            self._its_turn = True
            try:
                sender, frame = self._hub.receive(0.0 if self._at_work() else self._left(deadline))
            except MemberLost:
                raise
            except TransportError:
                if self._at_work():
                    continue
                if not self._is_tired():
                    raise
                self._answers = iter(self._local_member.waited(self._answer_s or 0.0))
                continue
            if sender == self._member:
                raise TransportError(f"another end uses the name {sender!r} of this hub's own member")
            return sender, frame

    def settle(self) -> None:
        """The run is over: let the local member take the hub's last word. Earlier ones that it did not get to, and what it still has
        to say, are left.
        """
        self._answers = None
        for frame in self._local_member.handle(memoryview(self._inbox[-1])) if self._inbox else ():
            del frame
        self._inbox.clear()
        self._waiting = 0

    def drop(self, member: str, reason: str) -> None:
        """End one member's connection; the local member is left out from now on."""
        if member != self._member:
            self._hub.drop(member, reason)
            return
        self._answers, self._waiting, self._answer_s = None, 0, None
        self._inbox.clear()

    def close(self) -> None:
        """Close the inner hub. Safe to call twice."""
        self._hub.close()

    def _at_work(self) -> bool:
        return self._answers is not None or bool(self._inbox)

    def _advance(self) -> memoryview | None:
        """The local member's next frame; None where it had none left in answer to the one it was at."""
        if self._answers is None:
            received = self._inbox.popleft()
            self._waiting -= len(received)
            self._answers = iter(self._local_member.handle(memoryview(received)))
        frame = next(self._answers, None)
        if frame is None:
            self._answers = None
            self._idle_since = time.monotonic()
            return None
        view = memoryview(frame).cast("B")
        if not 0 < len(view) <= self._frame_limit:
            reason = f"gave a frame of {len(view)} bytes, expected 1 to {self._frame_limit}"
            self.drop(self._member, reason)
            raise MemberLost(self._member, reason)
        self._own.frames_up += 1
        self._own.bytes_up += PREFIX_BYTES + len(view)
        return view.toreadonly()

    def _left(self, deadline: float | None) -> float | None:
        """Seconds until whoever waits, the driver or the idle local member, has waited long enough; None where nobody minds."""
        due = [] if deadline is None else [deadline]
        if self._answer_s is not None:
            due.append(self._idle_since + self._answer_s)
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _is_tired(self) -> bool:
        return self._answer_s is not None and time.monotonic() >= self._idle_since + self._answer_s
