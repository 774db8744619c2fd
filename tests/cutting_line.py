"""A line between a member and the hub's port that is cut, again and again, at bytes that a seed chooses."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

HANDSHAKE_BYTES = 5_000
"""More than a handshake with both greetings takes, either way."""


@dataclass(frozen=True)
class Cut:
    """Where a connection ends: after so many bytes up (member to hub) or down; by a reset or an end of file."""

    direction: str
    at: int
    reset: bool


def drawn_cuts(seed: int, count: int, most: int) -> list[Cut]:
    """Cuts of `count` connections, at most `most` bytes up, or a tenth of it down, after each began.

    The first lets the handshake pass.
    """
    draw = np.random.Generator(np.random.PCG64(seed))
    cuts = []
    for place in range(count):
        direction = str(draw.choice(["up", "down"])) if place else "up"
        at = int(draw.integers(1, most if direction == "up" else most // 10))
        cuts.append(Cut(direction, at + (0 if place else HANDSHAKE_BYTES), bool(draw.integers(2))))
    return cuts


class CuttingLine:
    """Listens at `port` and passes bytes on to the hub's port, but for the cuts, one a connection; later ones stay, or
    are refused where the line `breaks`.

    Attributes:
        connections: how many were made. cuts: how many were cut.
        upward: what the member said over each connection, as it stood on the line.
        down: while true, whoever dials is hung up on.
    """

    def __init__(self, hub_port: int, cuts: Sequence[Cut] = (), *, breaks: bool = False) -> None:
        self._hub_port = hub_port
        self._todo = list(cuts)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connections = self.cuts = 0
        self.upward: list[bytearray] = []
        self.down = False
        self._breaks = breaks
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._kept_open: list[socket.socket] = []
        self._lock = threading.Lock()
        threading.Thread(target=self._serve, daemon=True).start()

    def sever(self, *, reset: bool = True) -> None:
        """Cut what is connected now."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            for each in pair:
                hang_up(each, reset)

    def abandon(self) -> None:
        """Cut the members' side only: the hub's side stays open, and silent for ever."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for member_side, hub_side in pairs:
            self._kept_open.append(hub_side.dup())
            hang_up(member_side, True)

    def close(self) -> None:
        self.down = True
        self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._listener.close()
        self.sever(reset=False)
        for each in self._kept_open:
            each.close()

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                hang_up(near, True)
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self._hub_port))
            except OSError:
                hang_up(near, True)
                continue
            with self._lock:
                self.connections += 1
                cut = self._todo.pop(0) if self._todo else None
                received = bytearray()
                self.upward.append(received)
                self._pairs.append((near, far))
            for direction, source, sink in (("up", near, far), ("down", far, near)):
                mine = cut if cut is not None and cut.direction == direction else None
                arguments = (source, sink, mine, received if direction == "up" else None)
                threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, cut: Cut | None, received: bytearray | None) -> None:
        passed = 0
        with contextlib.suppress(OSError):  # either end hung up, which is what this line is for
            while data := source.recv(2**16):
                if received is not None:
                    received += data
                if cut is not None and passed + len(data) >= cut.at:
                    sink.sendall(data[: cut.at - passed])
                    self.cuts += 1
                    self.down = self.down or self._breaks
                    hang_up(source, cut.reset)
                    hang_up(sink, cut.reset)
                    return
                sink.sendall(data)
                passed += len(data)
        if not self._kept_open:  # an end that was killed resets its connection, which must not keep the other side open
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)


def hang_up(end: socket.socket, reset: bool) -> None:
    with contextlib.suppress(OSError):
        if reset:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.shutdown(socket.SHUT_RD)  # wakes the thread that reads here; the reset leaves with the close
        else:
            end.shutdown(socket.SHUT_RDWR)
    end.close()
