"""A hub with neither sockets nor threads: every party is a function in this process.

A handler gets one frame from the hub and yields the frames it answers, lazily: it is advanced by one frame
whenever the hub receives. So a whole run is one loop, the same every time, and a test may choose the order in
which frames arrive.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from hansa.errors import MemberLost, TransportError
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Frame, Traffic
from hansa.transport.frames import PREFIX_BYTES, checked

Handler = Callable[[memoryview], Iterable[Frame]]
Order = Callable[[Sequence[str]], str]


class _Party:
    """What one party has to do: the frames it has not seen, and the answer it is giving."""

    def __init__(self, handler: Handler, opening: Iterable[Frame]) -> None:
        self._handler = handler
        self._answers: Iterator[Frame] | None = iter(opening)
        self._lent = bytearray()
        self.inbox: deque[bytearray] = deque()

    def has_work(self) -> bool:
        return self._answers is not None or bool(self.inbox)

    def advance(self) -> Frame | None:
        """The party's next frame; None where it had none to give in answer to the frame it was at."""
        if self._answers is None:
            self._lent[:] = bytes(len(self._lent))  # as the next frame of a network overwrites it
            self._lent = self.inbox.popleft()
            self._answers = iter(self._handler(memoryview(self._lent).toreadonly()))
        frame = next(self._answers, None)
        if frame is None:
            self._answers = None
        return frame


class InProcessHub:
    """See `hansa.transport.channel.Hub`. Frames are copied on their way to a party, and overwritten when its next one comes.

    Args:
        handlers: member name -> what the member does with a frame from the hub.
        order: chooses, among the names that have work, whose turn it is; default: round robin.
        opening: what members say before they have received anything.
        frame_limit: bytes that one frame may hold, either way.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        order: Order | None = None,
        *,
        opening: Mapping[str, Iterable[Frame]] | None = None,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
    ) -> None:
        opening = opening or {}
        if unknown := sorted(opening.keys() - handlers.keys()):
            raise TransportError(f"opening frames of {', '.join(unknown)}, who have no handler")
        self._parties = {name: _Party(handler, opening.get(name, ())) for name, handler in handlers.items()}
        self._traffic = {name: Traffic() for name in handlers}
        self._order = order
        self._turns = deque(handlers)
        self._frame_limit = frame_limit

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes and frames so far, by member, counted as the network would count them."""
        return self._traffic

    def send(self, member: str, frame: Frame) -> None:
        """Put a copy of the frame in the member's inbox.

        Raises TransportError where there is no such member.
        """
        view = checked(frame, self._frame_limit)
        if member not in self._parties:
            raise TransportError(f"member {member!r} is not connected")
        self._parties[member].inbox.append(bytearray(view))
        self._traffic[member].frames_down += 1
        self._traffic[member].bytes_down += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:  # noqa: ARG002
        """Let parties work until one of them gives a frame: (member, frame). What a handler raises, passes
        through.

        Raises:
            MemberLost: a party gave a frame that no transport would carry; it is dropped.
            TransportError: no party has anything to do, so waiting longer would be waiting for ever.
        """
        while busy := [name for name, party in self._parties.items() if party.has_work()]:
            name = self._order(busy) if self._order else self._next_turn(busy)
            frame = self._parties[name].advance()
            if frame is not None:
                return name, self._arrived(name, frame)
        raise TransportError("deadlock: the hub waits for a frame, and every party waits for the hub")

    def has_work(self) -> bool:
        """Whether a party has something to do, so that `receive` may give a frame."""
        return any(party.has_work() for party in self._parties.values())

    def settle(self) -> None:
        """Let parties take the frames that are left, to which they have nothing to say. Raises TransportError where one has."""
        for name, party in self._parties.items():
            while party.has_work():
                if party.advance() is not None:
                    raise TransportError(f"member {name!r} gave a frame after the hub's last")

    def drop(self, member: str, reason: str) -> None:  # noqa: ARG002
        """Leave one member out from now on; others go on."""
        self._parties.pop(member, None)

    def close(self) -> None:
        """Leave everybody out."""
        self._parties.clear()

    def _arrived(self, name: str, frame: Frame) -> memoryview:
        view = memoryview(frame).cast("B")
        if not 0 < len(view) <= self._frame_limit:
            reason = f"announced a frame of {len(view)} bytes, expected 1 to {self._frame_limit}"
            self.drop(name, reason)
            raise MemberLost(name, reason)
        self._traffic[name].frames_up += 1
        self._traffic[name].bytes_up += PREFIX_BYTES + len(view)
        return view.toreadonly()

    def _next_turn(self, busy: Sequence[str]) -> str:
        while True:
            self._turns.rotate(-1)
            if self._turns[-1] in busy:
                return self._turns[-1]
