"""Transports that are slow or that break their promises on purpose, for tests and measurements.

A *fault* is a function of a frame's place among the frames of its member and direction (0, 1, 2, ...) and of
the frame; it returns the frames to hand over in its stead: none drops it, two duplicate it, another's bytes
replace it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hansa.errors import MemberLost, TransportError
from hansa.transport.channel import Channel, Frame, Hub, Traffic

Fault = Callable[[int, bytes], Sequence[bytes]]
_DRAINED_AT_ONCE = 1024


def dropping(place: int) -> Fault:
    """Lose the frame at `place`."""
    return lambda index, frame: [] if index == place else [frame]


def duplicating(place: int) -> Fault:
    """Hand over the frame at `place` twice."""
    return lambda index, frame: [frame, frame] if index == place else [frame]


def truncating(place: int, size: int) -> Fault:
    """Hand over only the first `size` bytes of the frame at `place`."""
    return lambda index, frame: [frame[:size]] if index == place else [frame]


def flipping(place: int, bit: int) -> Fault:
    """Flip one bit (counted from the first byte's lowest) of the frame at `place`."""

    def fault(index: int, frame: bytes) -> Sequence[bytes]:
        if index != place:
            return [frame]
        changed = bytearray(frame)
        changed[bit // 8 % len(frame)] ^= 1 << bit % 8
        return [bytes(changed)]

    return fault


def swapping(place: int) -> Fault:
    """Hand over the frame at `place` after the one that follows it."""
    held: list[bytes] = []

    def fault(index: int, frame: bytes) -> Sequence[bytes]:
        if index == place:
            held.append(frame)
            return []
        return [frame, held.pop()] if held else [frame]

    return fault


def replacing(place: int, other: bytes) -> Fault:
    """Hand over `other` in place of the frame at `place`."""
    return lambda index, frame: [other] if index == place else [frame]


class _Faults:
    """Counts the frames of each (member, direction) and applies the fault set for it."""

    def __init__(self, faults: Mapping[str, Fault]) -> None:
        self._faults = faults
        self._counts: dict[str, int] = {}

    def apply(self, key: str, frame: Frame) -> Sequence[bytes]:
        index = self._counts.get(key, 0)
        self._counts[key] = index + 1
        fault = self._faults.get(key)
        return fault(index, bytes(frame)) if fault else [bytes(frame)]


class FaultyChannel:
    """A channel that mistreats what a member sends or receives. See `channel.Channel`."""

    def __init__(self, channel: Channel, *, sending: Fault | None = None, receiving: Fault | None = None) -> None:
        self._channel = channel
        self._sending = _Faults({"": sending} if sending else {})
        self._receiving = _Faults({"": receiving} if receiving else {})
        self._waiting: deque[bytes] = deque()

    def send(self, frame: Frame) -> None:
        """Send what the fault makes of the frame."""
        for each in self._sending.apply("", frame):
            self._channel.send(each)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Hand over what the fault makes of the next frame."""
        while not self._waiting:
            self._waiting.extend(self._receiving.apply("", self._channel.receive(timeout)))
        return memoryview(self._waiting.popleft())

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


class FaultyHub:
    """A hub that mistreats what passes between it and the members named. See `channel.Hub`."""

    def __init__(
        self,
        hub: Hub,
        *,
        sending: Mapping[str, Fault] | None = None,
        receiving: Mapping[str, Fault] | None = None,
    ) -> None:
        self._hub = hub
        self._sending = _Faults(sending or {})
        self._receiving = _Faults(receiving or {})
        self._waiting: deque[tuple[str, bytes]] = deque()

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """The inner hub's: what really passed."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """Send what the member's fault makes of the frame."""
        for each in self._sending.apply(member, frame):
            self._hub.send(member, each)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Hand over what the sender's fault makes of the next frame."""
        while not self._waiting:
            member, frame = self._hub.receive(timeout)
            self._waiting.extend((member, each) for each in self._receiving.apply(member, frame))
        member, kept = self._waiting.popleft()
        return member, memoryview(kept)

    def drop(self, member: str, reason: str) -> None:
        """Drop a member, and what waits from it."""
        self._waiting = deque(each for each in self._waiting if each[0] != member)
        self._hub.drop(member, reason)

    def close(self) -> None:
        """Close the hub."""
        self._hub.close()


@dataclass(frozen=True)
class _Arrival:
    """A frame, or the loss of a member, on its way through the delay."""

    due: float
    member: str
    content: bytes | MemberLost


class DelayingHub:
    """A hub that hands over every frame `round_trip_s` seconds after it arrived. See `channel.Hub`.

    The whole round trip is spent on the way up, so one question and its answer take `round_trip_s` longer.
    Frames that follow each other closely arrive as closely: the delay is of the line, not of each frame.
    Frames that arrive while the hub computes count from its next `receive`, so times measured are never
    better than the line's.
    """

    def __init__(self, hub: Hub, round_trip_s: float) -> None:
        if round_trip_s < 0:
            raise TransportError(f"a round trip of {round_trip_s:g} s is not possible; write 0 or more")
        self._hub = hub
        self._round_trip_s = round_trip_s
        self._line: deque[_Arrival] = deque()

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """The inner hub's."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """Send at once; the way back is the slow one."""
        self._hub.send(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Hand over the next frame, or loss of a member, whose time has come.

        Raises:
            MemberLost: as the inner hub raised it, `round_trip_s` ago.
            TransportError: nothing became due in `timeout` seconds, or the inner hub cannot receive.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for _ in range(_DRAINED_AT_ONCE):
            if not self._take_in(0.0):
                break
        while not self._line or self._line[0].due > time.monotonic():
            moments = ([] if deadline is None else [deadline]) + [each.due for each in list(self._line)[:1]]
            if deadline is not None and time.monotonic() >= deadline:
                raise TransportError(f"no frame from any member in {timeout:g} s")
            if not self._line:
                self._line.append(self._arrival(None if deadline is None else deadline - time.monotonic()))
            elif not self._take_in(max(0.0, min(moments) - time.monotonic())):
                # The inner hub has nothing now, and perhaps never will before we hand over what it gave.
                time.sleep(max(0.0, min(moments) - time.monotonic()))
        arrival = self._line.popleft()
        if isinstance(arrival.content, MemberLost):
            raise arrival.content
        return arrival.member, memoryview(arrival.content)

    def drop(self, member: str, reason: str) -> None:
        """Drop a member, and what is on its way from it."""
        self._line = deque(each for each in self._line if each.member != member)
        self._hub.drop(member, reason)

    def close(self) -> None:
        """Close the hub."""
        self._hub.close()

    def _take_in(self, timeout: float) -> bool:
        """Put what arrives within `timeout` seconds on the line; False where nothing does."""
        try:
            self._line.append(self._arrival(timeout))
        except TransportError:
            # Only that nothing came: an inner hub that cannot receive at all says so again when the line is
            # empty.
            return False
        return True

    def _arrival(self, timeout: float | None) -> _Arrival:
        try:
            member, frame = self._hub.receive(timeout)
        except MemberLost as loss:
            return _Arrival(time.monotonic() + self._round_trip_s, loss.member, loss)
        return _Arrival(time.monotonic() + self._round_trip_s, member, bytes(frame))
