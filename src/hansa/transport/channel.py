"""What a transport is: send and receive frames. Everything else about a network stays behind this seam.

A *frame* is one encoded message. Guarantees that every transport gives:

1. Frames between two ends arrive whole, once, unchanged, in the order sent.
2. `receive` returns a view that stays valid until the next `receive` on the same end, no longer.
3. The name that `Hub.receive` gives with a frame is the authenticated sender, never a claim inside the frame.
4. One member's failure reaches the hub as `MemberLost`, once, and leaves other members' connections as they were.
5. A frame over `limit` bytes is never read into memory: the sender is dropped, by name.

`resumable` adds 6 to 8: there, a connection that breaks is made anew, and is no failure until that has taken too long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

Frame = bytes | bytearray | memoryview

DEFAULT_FRAME_LIMIT = 64 * 2**20
"""Bytes that one frame may hold unless an end is told otherwise."""


@dataclass
class Traffic:
    """Bytes and frames that crossed one member's connection, seen from the member. Length prefixes count."""

    bytes_up: int = 0
    bytes_down: int = 0
    frames_up: int = 0
    frames_down: int = 0


class Channel(Protocol):
    """A member's one connection to the hub."""

    def send(self, frame: Frame) -> None:
        """Send one frame; returns when the transport has taken it. Raises TransportError."""

    def receive(self, timeout: float | None = None) -> memoryview:
        """Wait for the next frame from the hub (at most `timeout` seconds). Raises TransportError."""

    def close(self) -> None:
        """End the connection. Safe to call twice."""


class Hub(Protocol):
    """The hub's end of all members' connections."""

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes and frames so far, by member."""

    def send(self, member: str, frame: Frame) -> None:
        """Send one frame to one member. Raises MemberLost."""

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Wait for a frame from any member: (member, frame).

        Raises MemberLost, or TransportError on timeout.
        """

    def drop(self, member: str, reason: str) -> None:
        """End one member's connection because of `reason`; others go on."""

    def close(self) -> None:
        """End all connections and stop listening. Safe to call twice."""
