"""Several runs behind one port: which run a connection is for, and how a service hands it to the process of that run.

Whoever dials for a plan that all have approved says so in the first message of TLS, in the clear, as the server's name (RFC 6066). The
service looks at that message without taking it, and hands the whole connection, untouched, to the process of that run, which then
shakes hands and checks who is there, as if it listened itself. The service holds no key, decrypts nothing and trusts nothing that it
reads: a wrong name leads to a process that refuses whoever it does not expect. A name that no process here has is answered by TLS's
own alert, "unrecognized name".
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from hansa.errors import in_words
from hansa.transport.tcp import Listener, listen, place

_LOG = logging.getLogger(__name__)

_SUFFIX: Final = ".run.hansa"
_ROUTE_DIGITS = 32
_MOST_HELLO = 2**14
"""Bytes that a first message may have: a record of TLS."""

_HELLO_S = 10.0
"""Seconds in which it must be there."""

_LINGER_S = 2.0
"""Seconds that a connection which is refused stays open, so that the alert can be read."""

_MOST_PENDING = 256
_LOOK_S, _PAUSE_S = 0.25, 0.05
_UNRECOGNIZED = bytes((21, 3, 3, 0, 2, 2, 112))
"""A record of TLS with the fatal alert unrecognized_name."""

_HANDSHAKE, _CLIENT_HELLO, _SERVER_NAME = 22, 1, 0


def route_of(proposal: bytes) -> str:
    """The name by which connections of a proposal's run are known in the clear: the first half of its digest, which has a nonce."""
    return f"{proposal.hex()[:_ROUTE_DIGITS]}{_SUFFIX}"


class NotYet(Exception):
    """The rest of the first message is still on its way."""


class _Fields:
    """A message of TLS, read from its beginning; what it does not hold is a ValueError."""

    def __init__(self, content: bytes) -> None:
        self._left = content

    def __bool__(self) -> bool:
        return bool(self._left)

    def take(self, size: int) -> bytes:
        if len(self._left) < size:
            raise ValueError("it ends too early")
        found, self._left = self._left[:size], self._left[size:]
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def block(self, size: int) -> bytes:
        """What stands behind its length, of so many bytes."""
        return self.take(self.number(size))


def server_name(start: bytes) -> str:
    """The server name in the first message of a TLS connection; empty where it has none.

    Args:
        start: all bytes that have come.

    Raises:
        NotYet: more must come first. ValueError: it is no such message.
    """
    if start[:1] and start[0] != _HANDSHAKE:
        raise ValueError("no handshake of TLS")
    if len(start) < 5 or len(start) < 5 + int.from_bytes(start[3:5], "big"):
        if len(start) >= _MOST_HELLO:
            raise ValueError("a first message that is too long")
        raise NotYet
    record = _Fields(start[5 : 5 + int.from_bytes(start[3:5], "big")])
    if record.number(1) != _CLIENT_HELLO:
        raise ValueError("no first message of TLS")
    hello = _Fields(record.block(3))
    hello.take(2 + 32)  # version, random
    hello.block(1)  # session
    hello.block(2)  # cipher suites
    hello.block(1)  # compression
    extensions = _Fields(hello.block(2) if hello else b"")
    while extensions:
        kind, content = extensions.number(2), extensions.block(2)
        if kind == _SERVER_NAME:
            names = _Fields(_Fields(content).block(2))
            while names:
                of, name = names.number(1), names.block(2)
                if of == 0:
                    return name.decode("ascii")
    return ""


class HandedListener:
    """What a run's process takes connections from: a service that hands them over a local socket. See `tcp.Listener`.

    Args:
        channel: the local socket, which stays open when this is closed. host, port: where the service listens.
    """

    def __init__(self, channel: socket.socket, host: str, port: int) -> None:
        self._channel = channel
        self._address = (host, port)

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """The next connection. Raises BlockingIOError; OSError where the service is gone."""
        told, descriptors, _, _ = socket.recv_fds(self._channel, 256, 1)
        if not told or not descriptors:
            raise ConnectionAbortedError("the service is gone")
        host, _, port = told.decode("ascii", "replace").rpartition(" ")
        return socket.socket(fileno=descriptors[0]), (host, int(port))

    def fileno(self) -> int:
        """The local socket's descriptor."""
        return self._channel.fileno()

    def getsockname(self) -> tuple[str, int]:
        """Where the service listens."""
        return self._address

    def setblocking(self, flag: bool, /) -> None:
        """As `socket.setblocking`."""
        self._channel.setblocking(flag)

    def close(self) -> None:
        """Take no more connections; what comes meanwhile waits for the next listener of this process."""


@dataclass
class _Pending:
    """A connection that did not say yet what it is for (`refused` is False), or whose refusal is on its way.

    Attributes:
        until: when it is closed. paused: whether only a part of its first message is there, so that nobody waits for more at once.
    """

    plain: socket.socket
    address: str
    until: float
    refused: bool = False
    paused: bool = False


class Router:
    """One port of a service, in a thread of its own: takes connections, and hands each to the process of its run.

    Args:
        host, port: where to listen; port 0 lets the system choose.

    Attributes:
        address: where it listens. handed, refused: connections so far.

    Raises TransportError where nobody can listen there.
    """

    def __init__(self, host: str, port: int) -> None:
        self._listener: Listener = listen(host, port)
        self._listener.setblocking(False)
        self.address: tuple[str, int] = (host, self._listener.getsockname()[1])
        self.handed = self.refused = 0
        self._routes: Mapping[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._pending: dict[int, _Pending] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener.fileno(), selectors.EVENT_READ)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="router", daemon=True)
        self._thread.start()

    def serve(self, routes: Mapping[str, socket.socket]) -> None:
        """From now on hand connections to these processes: route -> local socket (SOCK_SEQPACKET)."""
        with self._lock:
            self._routes = dict(routes)

    def close(self) -> None:
        """Stop listening; connections that were handed on go on."""
        self._closing.set()
        self._thread.join()
        for pending in list(self._pending.values()):
            self._drop(pending)
        self._selector.close()
        self._listener.close()

    def _work(self) -> None:
        while not self._closing.is_set():
            paused = [each for each in self._pending.values() if each.paused]
            for key, _ in self._selector.select(_PAUSE_S if paused else _LOOK_S):
                if key.fd == self._listener.fileno():
                    self._accept()
                elif pending := self._pending.get(key.fd):
                    self._look(pending)
            for pending in paused:
                if pending.plain.fileno() < 0:
                    continue  # dropped above, in favour of a newer one
                pending.paused = False
                self._selector.register(pending.plain.fileno(), selectors.EVENT_READ)
            now = time.monotonic()
            for pending in [each for each in self._pending.values() if each.until <= now]:
                self._drop(pending)

    def _accept(self) -> None:
        try:
            plain, address = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            _LOG.warning("a connection could not be accepted: %s", error)
            if self._pending:
                self._drop(next(iter(self._pending.values())))
            else:
                time.sleep(_LOOK_S)  # descriptors may be free again then
            return
        if len(self._pending) >= _MOST_PENDING:
            self._drop(next(iter(self._pending.values())))
        plain.setblocking(False)
        pending = _Pending(plain, f"{address[0]} {address[1]}", time.monotonic() + _HELLO_S)
        self._pending[plain.fileno()] = pending
        self._selector.register(plain.fileno(), selectors.EVENT_READ)

    def _look(self, pending: _Pending) -> None:
        """What has come of the first message; taken by nobody but the run's process."""
        try:
            if pending.refused:
                if not pending.plain.recv(_MOST_HELLO):
                    self._drop(pending)
                return
            start = pending.plain.recv(_MOST_HELLO, socket.MSG_PEEK)
            if not start:
                self._drop(pending)
                return
            name = server_name(start)
        except BlockingIOError:
            return
        except NotYet:
            # What is peeked stays readable: without a pause this would look again and again.
            self._selector.unregister(pending.plain.fileno())
            pending.paused = True
            return
        except (OSError, ValueError) as error:
            self._refuse(pending, in_words(error))
            return
        with self._lock:
            channel = self._routes.get(name)
            try:
                if channel is not None:
                    socket.send_fds(channel, [pending.address.encode("ascii")], [pending.plain.fileno()])
            except OSError as error:
                _LOG.warning("a connection could not be handed to its run: %s", in_words(error))
                channel = None
        if channel is None:
            self._refuse(pending, "it names no run of this service")
            return
        self.handed += 1
        self._drop(pending)

    def _refuse(self, pending: _Pending, reason: str) -> None:
        """Say no in TLS's words. What the other end sent is read first: bytes left unread would overtake them by a reset."""
        self.refused += 1
        if self.refused <= 20 or self.refused % 100 == 0:  # a flood must not become one of log lines
            host, _, port = pending.address.rpartition(" ")
            _LOG.info("connection %d that is refused, from %s: %s", self.refused, place(host, int(port)), reason)
        pending.refused, pending.until = True, time.monotonic() + _LINGER_S
        with contextlib.suppress(OSError):
            pending.plain.recv(_MOST_HELLO)
            pending.plain.send(_UNRECOGNIZED)
            pending.plain.shutdown(socket.SHUT_WR)

    def _drop(self, pending: _Pending) -> None:
        del self._pending[pending.plain.fileno()]
        if not pending.paused:
            self._selector.unregister(pending.plain.fileno())
        pending.plain.close()


def local_pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a local socket, over which a service hands connections to a run's process; neither waits."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    return ours, theirs


def when_gone(channel: socket.socket, signal_number: int) -> None:
    """Have this process sent a signal once the service at the other end of its local socket is gone, however it went."""

    def watch() -> None:
        poll = select.poll()
        poll.register(channel.fileno(), 0)  # only hang-ups
        poll.poll()
        os.kill(os.getpid(), signal_number)

    threading.Thread(target=watch, name="service", daemon=True).start()
