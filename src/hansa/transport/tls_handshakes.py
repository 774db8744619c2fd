"""The connections at a hub whose other ends have not proved yet who they are: whom it lets in, and whom it turns away."""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from hansa.errors import TransportError, in_words
from hansa.transport.credentials import Credentials
from hansa.transport.frames import FrameReader
from hansa.transport.notices import Notice, Notify
from hansa.transport.tcp import Listener, place, tune
from hansa.transport.tls_links import HubLimits, Links
from hansa.transport.tls_stream import TlsError, TlsStream
from hansa.transport.welcome import GREETING_LIMIT, REFUSED, WELCOME, greet

_LOG = logging.getLogger(__name__)
_ACCEPTS_AT_ONCE = 32


class Admission(Protocol):
    """Who decides whether a member that proved who it is may have a session at the hub."""

    def admit(self, member: str, hello: bytes, vacant: bool) -> bytes:
        """What to answer a member's greeting. Raises TransportError, whose text the member is told, to refuse it.

        Args:
            vacant: whether no earlier connection of the member is known to live.
        """

    def admitted(self, member: str, hello: bytes) -> None:
        """The member, admitted with `hello`, has its session; an earlier connection of it is closed. Never raises."""


@dataclass(frozen=True)
class PendingHandshake:
    """A connection whose other end has not proved yet who it is."""

    stream: TlsStream
    address: str
    deadline: float
    hello: FrameReader = field(default_factory=lambda: FrameReader(GREETING_LIMIT))


class Handshakes:
    """The handshakes under way at a hub.

    Args:
        credentials: who the hub is. allowed: the members that are wanted. limits: what the hub bears.
        admission: who says whether a member that greets it may have a session; None: whoever has none may.
        listener: where connections come from, if anywhere. poll: what the hub sleeps on. links: takes those who are let in.
        notify: told who joined, where there is no admission.

    Attributes:
        pending: by file descriptor, oldest first. rejected: connections so far that did not prove to be an expected member.
        former: certificates that others showed which are none of today's. awaited: the members that the hub waits for.
    """

    def __init__(
        self,
        credentials: Credentials,
        allowed: frozenset[str],
        limits: HubLimits,
        admission: Admission | None,
        listener: Listener | None,
        poll: select.poll,
        links: Links,
        notify: Notify,
    ) -> None:
        self.pending: dict[int, PendingHandshake] = {}
        self.rejected = 0
        self.former: set[str] = set()
        self.awaited: frozenset[str] = frozenset()
        self._credentials = credentials
        self._context = credentials.server_context()
        self._member_of = {certificate: name for name, certificate in credentials.certificates.items()}
        self._allowed = allowed
        self._limits = limits
        self._admission = admission
        self._listener = listener
        self._poll = poll
        self._links = links
        self._notify = notify
        if listener is not None:
            poll.register(listener.fileno(), select.POLLIN)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """Where new connections, and what pending handshakes wait for, come in."""
        entrance = () if self._listener is None else (self._listener.fileno(),)
        return (*entrance, *self.pending)

    def dues(self) -> list[float]:
        """When the oldest handshake is given up."""
        return [next(iter(self.pending.values())).deadline] if self.pending else []

    def close(self) -> None:
        """Hang up on all of them, and stop listening."""
        for pending in self.pending.values():
            pending.stream.hang_up()
        self.pending.clear()
        if self._listener is not None:
            self._listener.close()

    def go_on(self, descriptors: Iterable[int]) -> None:
        """Take new connections and go on with the handshakes of those whose descriptors are ready."""
        for descriptor in descriptors:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._accept(self._listener)
            elif pending := self.pending.get(descriptor):
                self._shake_hands(pending)
        now = time.monotonic()
        for pending in [each for each in self.pending.values() if each.deadline <= now]:
            self._turn_away(pending, f"no handshake in {self._limits.handshake_s:g} s")

    def _accept(self, listener: Listener) -> None:
        for _ in range(_ACCEPTS_AT_ONCE):
            try:
                plain, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                self._accept_failed(error)
                return
            if len(self.pending) >= self._limits.pending_handshakes:
                self._turn_away(next(iter(self.pending.values())), "too many handshakes at once")
            self._start_handshake(plain, place(address[0], address[1]))

    def _accept_failed(self, error: OSError) -> None:
        """Make room where the system has run out of descriptors; otherwise the peer gave up itself."""
        _LOG.warning("a connection could not be accepted: %s", error)
        if self.pending:
            self._turn_away(next(iter(self.pending.values())), "the system has no room")

    def _start_handshake(self, plain: socket.socket, address: str) -> None:
        try:
            plain.setblocking(False)
            tune(plain, self._limits.silence_s, self._limits.most_bytes_per_s)
            stream = TlsStream(plain, self._context, server_side=True)
        except OSError as error:
            plain.close()
            self._count_rejected(address, in_words(error))
            return
        pending = PendingHandshake(stream, address, time.monotonic() + self._limits.handshake_s)
        self.pending[stream.fileno()] = pending
        self._poll.register(stream.fileno(), select.POLLIN)

    def _shake_hands(self, pending: PendingHandshake) -> None:
        try:
            pending.stream.do_handshake()
        except BlockingIOError:
            return
        except OSError as error:
            former = self._credentials.former.get(error.certificate) if isinstance(error, TlsError) else None
            if former is None:
                self._turn_away(pending, in_words(error))
            else:
                self.former.add(former)
                self._turn_away(pending, f"shows the certificate {former}")
            return
        certificate = pending.stream.certificate()
        member = self._member_of.get(certificate) if certificate else None
        if member is None:
            self._turn_away(pending, "shows no member's certificate")
        elif self._credentials.protocols and pending.stream.protocol not in self._credentials.protocols:
            theirs = ", ".join(pending.stream.offered) or "no version that it names: an older release"
            own = ", ".join(self._credentials.protocols)
            self._refuse(pending, member, f"speaks {theirs}, and this hub {own}; bring the older release up to date")
        elif member not in self._allowed:
            self._refuse(pending, member, "is not expected in this run; compare the plans of both members")
        elif self._admission is not None:
            self._receive(pending, member, self._admission)
        elif not self._links.is_vacant(member):
            self._refuse(pending, member, "is connected already; stop its other process, or wait until it is gone")
        else:
            self._open_session(pending, member)

    def _receive(self, pending: PendingHandshake, member: str, admission: Admission) -> None:
        """Take a pending handshake's greeting once it is all there, and do what the admission says."""
        try:
            hello = bytes(pending.hello.read(pending.stream))
        except BlockingIOError:
            return
        except (OSError, TransportError) as error:
            self._turn_away(pending, in_words(error))
            return
        try:
            answer = admission.admit(member, hello, self._links.is_vacant(member))
        except TransportError as refusal:
            self._refuse(pending, member, str(refusal))
            return
        came_back = self._links.make_way(member)
        self._open_session(pending, member, answer)
        if member in self._links.by_member:
            admission.admitted(member, hello)
        elif came_back:
            self._links.lose(member, "gone while it came back")

    def _open_session(self, pending: PendingHandshake, member: str, answer: bytes = b"") -> None:
        if member in self._links.by_member:
            self._links.lose(member, "the connection was closed, and a new one made")
        descriptor = pending.stream.fileno()
        try:
            greet(pending.stream, bytes([WELCOME]) + answer)
        except OSError as error:
            self._turn_away(pending, in_words(error))
            return
        del self.pending[descriptor]
        self._links.add(member, pending.stream)
        _LOG.info("member %r connected from %s", member, pending.address)
        if self._admission is None:
            missing = tuple(sorted(self.awaited - self._links.by_member.keys()))
            self._notify(Notice("joined", member, missing, text=f"from {pending.address}"))

    def _refuse(self, pending: PendingHandshake, member: str, reason: str) -> None:
        with contextlib.suppress(OSError):  # it is turned away whether it reads the reason or not
            greet(pending.stream, bytes([REFUSED]) + f"member {member!r} {reason}".encode())
        self._turn_away(pending, f"{member!r} {reason}")

    def _turn_away(self, pending: PendingHandshake, reason: str) -> None:
        descriptor = pending.stream.fileno()
        del self.pending[descriptor]
        self._poll.unregister(descriptor)
        pending.stream.hang_up()
        self._count_rejected(pending.address, reason)

    def _count_rejected(self, address: str, reason: str) -> None:
        self.rejected += 1
        # A flood of rejected peers must not become a flood of log lines.
        if self.rejected <= 20 or self.rejected % 100 == 0:
            _LOG.warning("rejected peer %d, at %s: %s", self.rejected, address, reason)
