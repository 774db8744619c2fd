"""Frames over TLS 1.3, each end proving which member it is. There is no other way onto the network.

The hub listens; every other member dials out and keeps one connection. Both ends show the self-signed
certificate that stands in the members file. A peer *is* the member whose exact certificate it holds the key
of: no authority, no host name and no claim inside a frame takes part in that decision. Sessions are never
resumed, because resumption skips the check of certificates and their dates.

A TLS 1.3 client believes itself connected before the server has looked at its certificate. So a connection
begins with one frame from the hub: a byte 1 where the member is welcome, or a byte 0 and the reason in UTF-8
where it is not. A hub with an *admission* reads a greeting of the member before it answers, and the admission says whether the
member is welcome and what stands behind the byte 1: so a member whose connection broke comes back to its session.

TLS on plain sockets has the shortest round trip of what was measured (docs/explanation/benchmarks.md). Nothing here is safe to
call from two threads at once, and nothing here starts a thread.
"""

from __future__ import annotations

import contextlib
import logging
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cryptography import x509

from hansa.errors import (
    IdentityError,
    LinkLost,
    MemberLost,
    NotTrusted,
    OtherVersion,
    RunUnknown,
    SessionRefused,
    TransportError,
    in_words,
)
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Frame, Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.frames import PREFIX_BYTES, FrameReader, FrameRefused, checked, fragments
from hansa.transport.notices import EVERY_S, Notice, Notify, Waiting, silent
from hansa.transport.proxy import Proxy
from hansa.transport.tcp import (
    LOOK_S,
    SILENCE_S,
    Listener,
    Lookout,
    OpenListener,
    SilenceWatch,
    dial,
    listen,
    place,
    tune,
)
from hansa.transport.tls_stream import TlsError, TlsStream

_LOG = logging.getLogger(__name__)
_WELCOME, _REFUSED = 1, 0
_GREETING_LIMIT = 1024
_ACCEPTS_AT_ONCE = 32

_FAILED = select.POLLERR | select.POLLHUP | getattr(select, "POLLRDHUP", 0)

_ALERTS = {
    "unknown ca": "it does not know this member's certificate; compare both members files",
    "certificate expired": "this member's certificate has expired; renew it and send the new card to all",
    "bad certificate": "it finds this member's certificate not valid (not yet?); check the clocks of both machines",
    "certificate required": "it was shown no certificate; every member must show its own",
}
"""What the other end's refusals mean, by the last words of OpenSSL's name for them."""

_OF_DATES = ("certificate expired", "bad certificate")

_UNKNOWN_RUN = "unrecognized name"
"""The same of a hub's service that does not know the run a connection is for (`routing`)."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between two dials of a hub whose service does not know the run yet."""


@dataclass(frozen=True)
class HubLimits:
    """What the hub bears from others before it drops them.

    Attributes:
        frame_bytes: largest frame, either way.
        handshake_s: seconds that a pending handshake has to prove who it is.
        pending handshakes: handshakes under way at once; above that the oldest is given up.
        send_s: seconds that a member may take nothing of what waits for it.
        backlog_bytes: what may wait for one member before `send` blocks.
        spin_s: seconds to look for a frame again and again before sleeping, where the last came fast (`tcp.Lookout`). Never past
            the moment at which something is due.
        silence_s: seconds that a member's system may acknowledge nothing of what was sent to it (`tcp.SilenceWatch`).
        most_bytes_per_s: what the system may send over each connection, evenly; 0 has no limit. Linux only.
    """

    frame_bytes: int = DEFAULT_FRAME_LIMIT
    handshake_s: float = 10.0
    pending_handshakes: int = 256
    send_s: float = 60.0
    backlog_bytes: int = 256 * 2**20
    spin_s: float = 0.0
    silence_s: float = SILENCE_S
    most_bytes_per_s: int = 0


class Admission(Protocol):
    """Who decides whether a member that proved who it is may have a session at the hub."""

    def admit(self, member: str, hello: bytes, vacant: bool) -> bytes:
        """What to answer a member's greeting. Raises TransportError, whose text the member is told, to refuse it.

        Args:
            vacant: whether no earlier connection of the member is known to live.
        """

    def admitted(self, member: str, hello: bytes) -> None:
        """The member, admitted with `hello`, has its session; an earlier connection of it is closed. Never raises."""


class TlsChannel:
    """A member's connection to the hub. See `hansa.transport.channel.Channel`.

    Attributes:
        greeting: what the hub's admission answered this member's greeting.
    """

    def __init__(
        self,
        stream: TlsStream,
        frame_limit: int,
        send_timeout_s: float,
        greeting: bytes = b"",
        *,
        watch: SilenceWatch | None = None,
        waiting: Waiting | None = None,
        owed: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self.greeting = greeting
        self._watch = watch
        self._waiting = waiting or Waiting(silent)
        self._owed = owed
        self._timeout: float | None = None
        stream.meanwhile = self._meanwhile
        self._stream: TlsStream | None = stream
        self._reader = FrameReader(frame_limit)
        self._frame_limit = frame_limit
        self._send_timeout_s = send_timeout_s
        self.traffic = Traffic()

    @classmethod
    def connect(
        cls,
        credentials: Credentials,
        hub: str,
        host: str,
        port: int,
        *,
        timeout_s: float = 30.0,
        retry_for_s: float = 0.0,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        send_timeout_s: float = 300.0,
        hello: bytes = b"",
        spin_s: float = 0.0,
        silence_s: float = SILENCE_S,
        most_bytes_per_s: int = 0,
        proxy: Proxy | None = None,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] | None = None,
    ) -> TlsChannel:
        """Dial the hub and be welcomed by it.

        Args:
            credentials: who this member is.
            hub: name of the member that is the hub.
            host: its host name or address.
            port: its TCP port.
            timeout_s: seconds for one connection: TCP's, a proxy's answer, the handshake and the hub's welcome together.
            retry_for_s: seconds to go on dialling while nobody listens there yet, or the hub's service does not know the run yet. A
                refusal is never retried.
            frame_limit: bytes that one frame may hold, either way.
            send_timeout_s: seconds after which a send that the hub does not take is given up.
            hello: this member's greeting, for a hub that has an admission.
            spin_s, silence_s, most_bytes_per_s: as in `HubLimits`.
            proxy: dial through it. notify: told that nobody listens yet, of a line that carries nothing, and of waiting for those
                whom `owed` names, where it is given.

        Raises:
            IdentityError: `hub` is not another member.
            SessionRefused: the hub refused this member and said why. OtherVersion: the same, as there is no common version of the
                protocol. RunUnknown: the hub's service does not take part in the run.
            TransportError: nobody listens, or somebody else does.
        """
        began = told = time.monotonic()
        pause = _FIRST_PAUSE_S
        while True:
            left = began + retry_for_s - time.monotonic()
            try:
                return cls._connect(
                    credentials,
                    hub,
                    host,
                    port,
                    timeout_s=timeout_s,
                    retry_for_s=max(0.0, left),
                    frame_limit=frame_limit,
                    send_timeout_s=send_timeout_s,
                    hello=hello,
                    spin_s=spin_s,
                    silence_s=silence_s,
                    most_bytes_per_s=most_bytes_per_s,
                    proxy=proxy,
                    notify=notify,
                    owed=owed,
                )
            except RunUnknown as error:
                now = time.monotonic()
                if now + pause >= began + retry_for_s:
                    raise
                if now - told >= EVERY_S:
                    told = now
                    notify(Notice("dialling", hub, (hub,), now - began, retry_for_s, str(error)))
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    @classmethod
    def _connect(
        cls,
        credentials: Credentials,
        hub: str,
        host: str,
        port: int,
        *,
        timeout_s: float,
        retry_for_s: float,
        frame_limit: int,
        send_timeout_s: float,
        hello: bytes,
        spin_s: float,
        silence_s: float,
        most_bytes_per_s: int,
        proxy: Proxy | None,
        notify: Notify,
        owed: Callable[[], Iterable[str]] | None,
    ) -> TlsChannel:
        """`connect`, until somebody listens there."""
        context = credentials.client_context(hub)
        where = f"member {hub!r} at {place(host, port)}"
        give_up = 0.0

        def deadline() -> float:
            nonlocal give_up
            give_up = time.monotonic() + timeout_s
            return give_up

        def dialling(seconds: float) -> None:
            notify(Notice("dialling", hub, (hub,), seconds, retry_for_s, f"nobody listens at {place(host, port)} yet"))

        plain = dial(host, port, where, deadline, retry_for_s, proxy=proxy, tell=dialling)
        tune(plain, silence_s, most_bytes_per_s)
        stream = TlsStream(plain, context, spin_s=spin_s, route=credentials.route)
        try:
            stream.settimeout(max(0.001, give_up - time.monotonic()))
            stream.do_handshake()
            if stream.certificate() != credentials.certificates[hub]:
                raise NotTrusted(f"{where}: showed another certificate than the members file's")
            if credentials.protocols and stream.protocol not in credentials.protocols:
                raise OtherVersion(_other_version(stream, give_up, where, credentials))
            if hello:
                with contextlib.suppress(BrokenPipeError):  # what is read next says why
                    _greet(stream, hello)
            greeting = _await_welcome(stream, give_up, where)
            if greeting and not hello:
                raise TransportError(f"{where}: answered the handshake with something else than a welcome")
        except TlsError as error:
            stream.close()
            if error.reason.endswith(_UNKNOWN_RUN):
                raise RunUnknown(
                    f"{where}: its service does not take part in this run, or not yet; give it the approved plan there (`hansa run`)"
                ) from error
            meant = error.verification or error.reason.endswith(tuple(_ALERTS))
            raise (NotTrusted if meant else TransportError)(
                f"{where}: {_explained(error, credentials, hub)}"
            ) from error
        except TimeoutError as error:
            stream.close()
            raise TransportError(
                f"{where}: no answer to the handshake in {timeout_s:g} s; is it Hansa that listens there?"
            ) from error
        except OSError as error:
            stream.close()
            raise TransportError(f"{where}: hung up during the handshake ({in_words(error)})") from error
        except TransportError:
            stream.close()
            raise
        watch = SilenceWatch(plain, silence_s, hub, notify)
        waiting = Waiting(silent if owed is None else notify)
        return cls(stream, frame_limit, send_timeout_s, greeting, watch=watch, waiting=waiting, owed=owed or tuple)

    def give_up(self) -> TlsStream:
        """The connection, for somebody else to go on with; this channel, which must not have received yet, is closed."""
        stream, self._stream = self._open(), None
        stream.meanwhile = lambda: None
        return stream

    def send(self, frame: Frame, head: bytes = b"") -> None:
        """Send one frame, `head` before it; returns when the system has taken it.

        Raises:
            LinkLost: the hub is gone, or took nothing for too long. What it sent before may still be received.
        """
        view = checked(frame, self._frame_limit)
        stream = self._open()
        try:
            stream.settimeout(self._send_timeout_s)
            stream.write_run(fragments(view, head), PREFIX_BYTES + len(head) + len(view))
        except OSError as error:
            raise LinkLost(f"the hub is gone while a frame of {len(view)} bytes was sent: {in_words(error)}") from error
        self.traffic.frames_up += 1
        self.traffic.bytes_up += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Wait for the next frame from the hub.

        Raises:
            TransportError: nothing came in `timeout` seconds (a later call goes on where this one stopped),
                or the hub broke the rules (the connection is closed).
            LinkLost: the connection ended (it is closed).
        """
        stream = self._open()
        stream.lookout.begin()
        self._timeout = timeout
        try:
            if timeout is None:
                stream.settimeout(None)
                frame = self._reader.read(stream)
            else:
                frame = self._reader.read(_Until(stream, time.monotonic() + timeout))
        except (OSError, TransportError) as error:
            # A connection that keepalive gave up is a TimeoutError as well, but has a number.
            if isinstance(error, TimeoutError) and error.errno is None:
                raise TransportError(f"no frame from the hub in {timeout or 0:g} s") from error
            self.close()
            kind = TransportError if isinstance(error, FrameRefused) else LinkLost
            raise kind(f"the hub is gone: {in_words(error)}") from error
        stream.lookout.end()
        self._waiting.over()
        self.traffic.frames_down += 1
        self.traffic.bytes_down += PREFIX_BYTES + len(frame)
        return frame

    def pin_frame(self) -> None:
        """Keep the frame that was received last valid for good."""
        self._reader.pin_frame()

    def close(self) -> None:
        """End the connection. Safe to call twice."""
        if self._stream is not None:
            self._stream.hang_up()
            self._stream = None

    @property
    def is_open(self) -> bool:
        """Whether the connection is not known to have ended."""
        return self._stream is not None

    def _meanwhile(self) -> None:
        """A second of waiting is over. Raises LineSilent."""
        if self._watch is not None:
            self._watch.look()
        self._waiting.go_on(self._owed, self._timeout)

    def _open(self) -> TlsStream:
        if self._stream is None:
            raise TransportError("this connection to the hub is closed; connect anew")
        return self._stream


@dataclass(eq=False)
class _Link:
    """The hub's end of one member's connection."""

    member: str
    stream: TlsStream
    reader: FrameReader
    watch: SilenceWatch
    progress_at: float = 0.0


@dataclass(frozen=True)
class _PendingHandshake:
    """A connection whose other end has not proved yet who it is."""

    stream: TlsStream
    address: str
    deadline: float
    hello: FrameReader = field(default_factory=lambda: FrameReader(_GREETING_LIMIT))


class TlsHub:
    """One end of many members' connections: those that dial it, and those that it dials. See `hansa.transport.channel.Hub`.

    Sockets never block. What a member does not take at once waits in its backlog and goes out during later
    calls, so that two members who send each other large frames through the hub cannot lock up.
    """

    def __init__(
        self,
        credentials: Credentials,
        listener: Listener | None,
        allowed: frozenset[str],
        limits: HubLimits,
        admission: Admission | None = None,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] = tuple,
    ) -> None:
        self._credentials = credentials
        self._context = credentials.server_context()
        self._listener = listener
        self._allowed = allowed
        self._limits = limits
        self._admission = admission
        self._notify = notify
        self._owed = owed
        self._waiting = Waiting(silent if admission else notify)
        self._lookout = Lookout(limits.spin_s)
        self._look_at = 0.0
        self._awaited: frozenset[str] = frozenset()
        self._member_of = {certificate: name for name, certificate in credentials.certificates.items()}
        self._pending: dict[int, _PendingHandshake] = {}  # by file descriptor, oldest first
        self._links: dict[str, _Link] = {}
        self._links_by_fd: dict[int, _Link] = {}
        self._ready: deque[_Link] = deque()
        self._behind: set[_Link] = set()  # those with a backlog
        self._losses: deque[MemberLost] = deque()
        self._traffic: dict[str, Traffic] = {}
        self._poll = select.poll()
        if listener is not None:
            self._poll.register(listener.fileno(), select.POLLIN)
        self._closed = False
        self._former: set[str] = set()
        self.rejected = 0
        """Connections so far that did not prove to be an expected member."""

    @classmethod
    def listen(
        cls,
        credentials: Credentials,
        host: str,
        port: int,
        *,
        allowed: Collection[str] | None = None,
        limits: HubLimits | None = None,
        admission: Admission | None = None,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] = tuple,
        open_listener: OpenListener = listen,
    ) -> TlsHub:
        """Listen for members.

        Args:
            credentials: who this hub is.
            host: address to listen at, or a name of this machine; "::" listens on IPv6 and IPv4.
            port: TCP port; 0 lets the system choose (see `port`).
            allowed: the members that are wanted; default: all but the hub itself. Others are told that they
                are not.
            limits: what the hub bears.
            admission: who says whether a member that greets it may have a session; default: whoever has none may.
            notify: told who joined, who is waited for, and whose line carries nothing; with an admission, the last of these only.
            owed: names the members whose word is waited for.
            open_listener: what gives connections: a port of this process, or a service that hands them on (`routing`).

        Raises:
            IdentityError: an allowed peer is not in the members file.
            TransportError: the address is taken or is not this machine's.
        """
        others = frozenset(credentials.certificates) - {credentials.member}
        wanted = others if allowed is None else frozenset(allowed)
        if not wanted or wanted - others:
            unknown = ", ".join(sorted(wanted - others)) or "nobody"
            raise IdentityError(f"the hub expects {unknown}; it can expect other members of the members file only")
        listener = open_listener(host, port)
        listener.setblocking(False)
        return cls(credentials, listener, wanted, limits or HubLimits(), admission, notify, owed)

    @classmethod
    def without_listener(
        cls,
        credentials: Credentials,
        limits: HubLimits | None = None,
        *,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] = tuple,
    ) -> TlsHub:
        """An end that nobody dials: it has the connections that it dials itself."""
        return cls(credentials, None, frozenset(), limits or HubLimits(), None, notify, owed)

    def dial(self, member: str, host: str, port: int, *, retry_for_s: float = 0.0, proxy: Proxy | None = None) -> None:
        """Connect to a member that listens, as `TlsChannel.connect`, and keep the connection beside the others.

        Raises:
            IdentityError: it is not another member. TransportError: nobody listens there, somebody else does, it refuses this
                member, or there is a connection to it already.
        """
        self._check_open()
        if member in self._links:
            raise TransportError(f"member {member!r} is connected already")
        limit = self._limits.frame_bytes
        channel = TlsChannel.connect(
            self._credentials,
            member,
            host,
            port,
            retry_for_s=retry_for_s,
            frame_limit=limit,
            silence_s=self._limits.silence_s,
            most_bytes_per_s=self._limits.most_bytes_per_s,
            proxy=proxy,
            notify=self._notify,
        )
        stream = channel.give_up()
        stream.settimeout(0)
        self._poll.register(stream.fileno(), select.POLLIN)
        link = self._new_link(member, stream)
        self._links[member] = self._links_by_fd[stream.fileno()] = link
        self._traffic.setdefault(member, Traffic())
        if stream.pending():
            self._ready.append(link)

    @property
    def port(self) -> int:
        """The TCP port that the hub listens at; 0 where it does not listen."""
        return 0 if self._listener is None else int(self._listener.getsockname()[1])

    @property
    def allowed(self) -> frozenset[str]:
        """Names of the members that may connect."""
        return self._allowed

    @property
    def joined(self) -> frozenset[str]:
        """Names of the members that are connected."""
        return frozenset(self._links)

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes and frames so far, by member; kept when a member leaves and comes back."""
        return self._traffic

    def wait_for(self, members: Collection[str], timeout: float | None = None) -> None:
        """Wait until all of `members` are connected. What they send meanwhile waits for `receive`.

        Raises:
            TransportError: names those who are missing after `timeout` seconds.
        """
        self._check_open()
        deadline = _deadline(timeout)
        if rejected := sorted(set(members) - self._allowed):
            raise TransportError(f"the hub does not expect {', '.join(rejected)}, so it cannot wait for them")
        self._awaited = frozenset(members)
        self._waiting.over()
        while not self._links.keys() >= set(members):
            admission = select.poll()
            entrance = () if self._listener is None else (self._listener.fileno(),)
            for descriptor in (*entrance, *self._pending):
                admission.register(descriptor, select.POLLIN)
            self._admit(
                [fd for fd, _ in admission.poll(min(1000 * LOOK_S, self._timeout_ms(deadline) or 1000 * LOOK_S))]
            )
            missing = sorted(set(members) - self._links.keys())
            if missing:
                self._waiting.go_on(lambda: set(members) - self._links.keys(), timeout)
            if missing and deadline is not None and time.monotonic() >= deadline:
                raise TransportError(self.missing(members, timeout))

    def missing(self, members: Iterable[str], seconds: float | None) -> str:
        """What to say of those of `members` who are not connected after so long."""
        former = "".join(f"; one showed the certificate {each}" for each in sorted(self._former))
        return (
            f"not connected after {seconds or 0:g} s: {', '.join(sorted(set(members) - self._links.keys()))} "
            f"({self.rejected} connections of others were refused{former}); start them, or look there why they cannot reach the hub"
        )

    def send(self, member: str, frame: Frame, head: bytes = b"") -> None:
        """Send one frame, `head` before it, to one member; returns when the system, or its backlog, has taken it.

        Raises:
            MemberLost: the member's connection ended, or it took nothing for too long.
            TransportError: the member is not connected.
        """
        view = checked(frame, self._limits.frame_bytes)
        link = self._link(member)
        try:
            self._write(link, view, head)
            if link.stream.unsent > self._limits.backlog_bytes:
                self._flush_until(link, self._limits.backlog_bytes, None)
        except OSError as error:
            raise self._lost_sending(link, error) from error
        except TransportError as error:
            raise self._lost(link, in_words(error), broken=True) from error
        traffic = self._traffic[member]
        traffic.frames_down += 1
        traffic.bytes_down += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Wait for a frame from any member, and let pending handshakes in meanwhile.

        Returns:
            The member that sent it, and the frame: a view valid until the next call.

        Raises:
            MemberLost: one member's connection ended or broke the rules. Raised once; call again for the
                others.
            TransportError: no frame came in `timeout` seconds.
        """
        self._check_open()
        deadline = _deadline(timeout)
        looked = False
        self._lookout.begin()
        while True:
            if self._losses:
                raise self._losses.popleft()
            while self._ready:
                link = self._ready.popleft()
                if (frame := self._read(link)) is not None:
                    self._lookout.end()
                    self._waiting.over()
                    return link.member, frame
            # Whoever trickles bytes must not stretch the deadline.
            if looked and deadline is not None and time.monotonic() >= deadline:
                raise TransportError(f"no frame from any member in {timeout:g} s")
            self._wait(deadline)
            looked = True
            if timeout != 0:
                self._waiting.go_on(self._owed, timeout)

    def pin_frame(self, member: str) -> None:
        """Keep the frame that was received last from this member valid for good."""
        if link := self._links.get(member):
            link.reader.pin_frame()

    def drop(self, member: str, reason: str) -> None:
        """End one member's connection; others go on. It may connect anew. Nothing is raised for it later."""
        self._losses = deque(loss for loss in self._losses if loss.member != member)
        if link := self._links.get(member):
            _LOG.warning("member %r is dropped: %s", member, reason)
            self._forget(link)

    def close(self) -> None:
        """Send what still waits (at most `send_s` seconds), end all connections, stop listening.

        Safe to call twice.
        """
        if self._closed:
            return
        self._closed = True
        deadline = time.monotonic() + self._limits.send_s
        for link in list(self._links.values()):
            # Each failure here concerns a member that the hub is leaving anyway.
            with contextlib.suppress(OSError, TransportError):
                self._flush_until(link, 0, deadline)
            self._forget(link)
        for pending in self._pending.values():
            pending.stream.hang_up()
        self._pending.clear()
        if self._listener is not None:
            self._listener.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("this hub is closed")

    def _link(self, member: str) -> _Link:
        self._check_open()
        for loss in self._losses:
            if loss.member == member:
                self._losses.remove(loss)
                raise loss
        if member not in self._links:
            raise TransportError(f"member {member!r} is not connected")
        return self._links[member]

    def _read(self, link: _Link) -> memoryview | None:
        """The member's next frame, or None where the rest of it is still on its way."""
        try:
            frame = link.reader.read(link.stream)
        except BlockingIOError:
            return None
        except (OSError, TransportError) as error:
            raise self._lost(link, in_words(error), broken=not isinstance(error, FrameRefused)) from error
        # What TLS or the reader holds already is invisible to `poll`.
        if link.reader.ahead or link.stream.pending():
            self._ready.append(link)
        traffic = self._traffic[link.member]
        traffic.frames_up += 1
        traffic.bytes_up += PREFIX_BYTES + len(frame)
        return frame

    def _wait(self, deadline: float | None) -> None:
        """Wait until some socket is ready or something is due, and do what is to be done."""
        admission = []
        for descriptor, event in self._events(deadline):
            link = self._links_by_fd.get(descriptor)
            if link is None:
                admission.append(descriptor)
                continue
            if event & ~select.POLLOUT:
                self._ready.append(link)
            if event & select.POLLOUT:
                self._advance(link)
        if admission or self._pending:
            self._admit(admission)
        if self._behind:
            self._drop_stalled()
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_S
            self._drop_silent()

    def _events(self, deadline: float | None) -> list[tuple[int, int]]:
        """What is ready; looked for without sleeping first, where that is worth while."""
        if self._limits.spin_s:
            timeout_ms = self._timeout_ms(deadline)
            if events := self._lookout.sees(self._poll, None if timeout_ms is None else timeout_ms / 1000):
                return events
        timeout_ms = self._timeout_ms(deadline)
        return self._poll.poll(1000 * LOOK_S if timeout_ms is None else min(1000 * LOOK_S, timeout_ms))

    def _timeout_ms(self, deadline: float | None) -> float | None:
        """Milliseconds until the next moment at which something is due; None: nothing is."""
        due = [] if deadline is None else [deadline]
        if self._pending:
            due.append(next(iter(self._pending.values())).deadline)
        due += [link.progress_at + self._limits.send_s for link in self._behind]
        return max(0.0, 1000 * (min(due) - time.monotonic())) if due else None

    # Sending

    def _write(self, link: _Link, frame: memoryview, head: bytes) -> None:
        """Encrypt the frame and send as much as the system takes now; the rest waits."""
        waited = link.stream.unsent
        link.stream.write_run(fragments(frame, head), PREFIX_BYTES + len(head) + len(frame))
        link.stream.flush()
        if link.stream.unsent and not waited:
            link.progress_at = time.monotonic()
            self._poll.modify(link.stream.fileno(), select.POLLIN | select.POLLOUT)
            self._behind.add(link)

    def _flush(self, link: _Link) -> None:
        """Send as much of what waits as the system takes now."""
        if link.stream.flush():
            link.progress_at = time.monotonic()
        if not link.stream.unsent:
            self._poll.modify(link.stream.fileno(), select.POLLIN)
            self._behind.discard(link)

    def _flush_until(self, link: _Link, size: int, deadline: float | None) -> None:
        """Write until at most `size` bytes wait; TransportError where the member takes too long."""
        writable = select.poll()
        writable.register(link.stream.fileno(), select.POLLOUT)
        while link.stream.unsent > size:
            due = link.progress_at + self._limits.send_s
            due = due if deadline is None else min(due, deadline)
            left = max(0.0, due - time.monotonic())
            if writable.poll(1000 * min(LOOK_S, left)):
                self._flush(link)
            elif left <= LOOK_S:
                raise TransportError(self._stalled(link))
            else:
                link.watch.look()

    def _advance(self, link: _Link) -> None:
        try:
            self._flush(link)
        except OSError as error:
            self._losses.append(self._lost_sending(link, error))

    def _drop_stalled(self) -> None:
        latest = time.monotonic() - self._limits.send_s
        for link in [link for link in self._behind if link.progress_at <= latest]:
            self._losses.append(self._lost(link, self._stalled(link), broken=True))

    def _drop_silent(self) -> None:
        for link in list(self._links.values()):
            try:
                link.watch.look()
            except OSError as error:
                self._losses.append(self._lost(link, in_words(error), broken=True))

    def _stalled(self, link: _Link) -> str:
        return f"took nothing for {self._limits.send_s:g} s of {link.stream.unsent} bytes that wait for it"

    # Coming and going

    def _admit(self, descriptors: Iterable[int]) -> None:
        """Take new connections and go on with the handshakes of those whose descriptors are ready."""
        for descriptor in descriptors:
            if self._listener is not None and descriptor == self._listener.fileno():
                self._accept(self._listener)
            elif pending := self._pending.get(descriptor):
                self._shake_hands(pending)
        now = time.monotonic()
        for pending in [each for each in self._pending.values() if each.deadline <= now]:
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
            if len(self._pending) >= self._limits.pending_handshakes:
                self._turn_away(next(iter(self._pending.values())), "too many handshakes at once")
            self._start_handshake(plain, place(address[0], address[1]))

    def _accept_failed(self, error: OSError) -> None:
        """Make room where the system has run out of descriptors; otherwise the peer gave up itself."""
        _LOG.warning("a connection could not be accepted: %s", error)
        if self._pending:
            self._turn_away(next(iter(self._pending.values())), "the system has no room")

    def _start_handshake(self, plain: socket.socket, address: str) -> None:
        try:
            plain.setblocking(False)
            tune(plain, self._limits.silence_s, self._limits.most_bytes_per_s)
            stream = TlsStream(plain, self._context, server_side=True)
        except OSError as error:
            plain.close()
            self._count_rejected(address, in_words(error))
            return
        pending = _PendingHandshake(stream, address, time.monotonic() + self._limits.handshake_s)
        self._pending[stream.fileno()] = pending
        self._poll.register(stream.fileno(), select.POLLIN)

    def _shake_hands(self, pending: _PendingHandshake) -> None:
        try:
            pending.stream.do_handshake()
        except BlockingIOError:
            return
        except OSError as error:
            former = self._credentials.former.get(error.certificate) if isinstance(error, TlsError) else None
            if former is None:
                self._turn_away(pending, in_words(error))
            else:
                self._former.add(former)
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
        elif member in self._links and not _is_over(self._links[member].stream):
            self._refuse(pending, member, "is connected already; stop its other process, or wait until it is gone")
        else:
            self._open_session(pending, member)

    def _receive(self, pending: _PendingHandshake, member: str, admission: Admission) -> None:
        """Take a pending handshake's greeting once it is all there, and do what the admission says."""
        try:
            hello = bytes(pending.hello.read(pending.stream))
        except BlockingIOError:
            return
        except (OSError, TransportError) as error:
            self._turn_away(pending, in_words(error))
            return
        vacant = member not in self._links or _is_over(self._links[member].stream)
        try:
            answer = admission.admit(member, hello, vacant)
        except TransportError as refusal:
            self._refuse(pending, member, str(refusal))
            return
        if earlier := self._links.get(member):
            self._forget(earlier)
        self._losses = deque(loss for loss in self._losses if loss.member != member)
        self._open_session(pending, member, answer)
        if member in self._links:
            admission.admitted(member, hello)
        elif earlier:
            self._losses.append(MemberLost(member, "gone while it came back", broken=True))

    def _open_session(self, pending: _PendingHandshake, member: str, answer: bytes = b"") -> None:
        if member in self._links:
            lost = self._lost(self._links[member], "the connection was closed, and a new one made", broken=True)
            self._losses.append(lost)
        descriptor = pending.stream.fileno()
        try:
            _greet(pending.stream, bytes([_WELCOME]) + answer)
        except OSError as error:
            self._turn_away(pending, in_words(error))
            return
        del self._pending[descriptor]
        link = self._new_link(member, pending.stream)
        self._links[member] = self._links_by_fd[descriptor] = link
        self._traffic.setdefault(member, Traffic())
        _LOG.info("member %r connected from %s", member, pending.address)
        if self._admission is None:
            missing = tuple(sorted(self._awaited - self._links.keys()))
            self._notify(Notice("joined", member, missing, text=f"from {pending.address}"))

    def _new_link(self, member: str, stream: TlsStream) -> _Link:
        watch = SilenceWatch(stream.socket, self._limits.silence_s, member, self._notify)
        return _Link(member, stream, FrameReader(self._limits.frame_bytes), watch)

    def _refuse(self, pending: _PendingHandshake, member: str, reason: str) -> None:
        with contextlib.suppress(OSError):  # it is turned away whether it reads the reason or not
            _greet(pending.stream, bytes([_REFUSED]) + f"member {member!r} {reason}".encode())
        self._turn_away(pending, f"{member!r} {reason}")

    def _turn_away(self, pending: _PendingHandshake, reason: str) -> None:
        descriptor = pending.stream.fileno()
        del self._pending[descriptor]
        self._poll.unregister(descriptor)
        pending.stream.hang_up()
        self._count_rejected(pending.address, reason)

    def _count_rejected(self, address: str, reason: str) -> None:
        self.rejected += 1
        # A flood of rejected peers must not become a flood of log lines.
        if self.rejected <= 20 or self.rejected % 100 == 0:
            _LOG.warning("rejected peer %d, at %s: %s", self.rejected, address, reason)

    def _lost_sending(self, link: _Link, error: OSError) -> MemberLost:
        """The loss of a member that hung up on what is sent to it; it may have said why before."""
        unread: list[bytes] = []
        link.reader.pin_frame()  # somebody may be at it still
        with contextlib.suppress(OSError, TransportError):
            while True:
                unread.append(bytes(link.reader.read(link.stream)))
        self._forget(link)
        return MemberLost(
            link.member, f"gone while a frame was sent to it: {in_words(error)}", broken=True, unread=tuple(unread)
        )

    def _lost(self, link: _Link, reason: str, *, broken: bool) -> MemberLost:
        self._forget(link)
        return MemberLost(link.member, reason, broken=broken)

    def _forget(self, link: _Link) -> None:
        descriptor = link.stream.fileno()
        self._poll.unregister(descriptor)
        del self._links[link.member], self._links_by_fd[descriptor]
        self._behind.discard(link)
        if link in self._ready:
            self._ready = deque(each for each in self._ready if each is not link)
        link.stream.hang_up()


class _Until:
    """A stream that raises TimeoutError once a moment has passed, however the bytes trickle."""

    def __init__(self, stream: TlsStream, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def read(self, size: int, buffer: memoryview) -> int:
        self._set_timeout()
        return self._stream.read(size, buffer)

    def read_on(self, size: int, buffer: memoryview) -> int:
        self._set_timeout()
        return self._stream.read_on(size, buffer)

    def _set_timeout(self) -> None:
        # Timeout 0 would mean "do not block", which raises another error.
        self._stream.settimeout(max(1e-6, self._deadline - time.monotonic()))


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _await_welcome(stream: TlsStream, deadline: float, where: str) -> bytes:
    """What stands behind the hub's byte of welcome."""
    try:
        greeting = bytes(FrameReader(_GREETING_LIMIT).read(_Until(stream, deadline)))
    except TransportError as error:
        raise TransportError(f"{where}: no welcome: {in_words(error)}") from error
    if greeting[0] == _REFUSED:
        reason = "".join(c for c in greeting[1:].decode("utf-8", "replace") if c.isprintable())
        raise SessionRefused(f"{where}: refused this member: {reason}")
    if greeting[0] != _WELCOME:
        raise TransportError(f"{where}: answered the handshake with something else than a welcome")
    return greeting[1:]


def _other_version(stream: TlsStream, deadline: float, where: str, credentials: Credentials) -> str:
    """What to say of a hub that speaks none of this member's versions: its own words, where it has some."""
    try:
        _await_welcome(stream, deadline, where)
    except TransportError as refusal:
        if isinstance(refusal, SessionRefused):
            return str(refusal)
    return (
        f"{where}: speaks no version of the protocol that this member does ({', '.join(credentials.protocols)}); bring the older "
        "release up to date"
    )


def _greet(stream: TlsStream, greeting: bytes) -> None:
    for fragment in fragments(memoryview(greeting)):
        stream.write(fragment)
    stream.flush()


def _explained(error: TlsError, credentials: Credentials, hub: str) -> str:
    if (former := credentials.former.get(error.certificate)) is not None:
        return f"it shows the certificate {former}; ask the hub's member which keys it starts with"
    if error.verification:
        return (
            f"its certificate is not the valid one of the members file ({error.verification}); "
            "either somebody else answers there, or its certificate was renewed or expired: ask for its present card"
            f"{_dated(credentials.certificates[hub]) if error.of_dates else ''}"
        )
    for alert, meaning in _ALERTS.items():
        if error.reason.endswith(alert):
            return meaning + (_dated(credentials.certificates[credentials.member]) if alert in _OF_DATES else "")
    return f"the handshake failed ({error}); is it Hansa that listens there?"


def _dated(certificate: bytes) -> str:
    """What a wrong clock can be told by, behind an error that a certificate's dates gave."""
    parsed, form = x509.load_der_x509_certificate(certificate), "%Y-%m-%d %H:%M"
    first, last = parsed.not_valid_before_utc.strftime(form), parsed.not_valid_after_utc.strftime(form)
    return (
        f". It is valid from {first} to {last} UTC, and this machine's clock says {datetime.now(UTC).strftime(form)} UTC: "
        "where that is between the two, the other machine's clock may be wrong, and else perhaps this one's"
    )


def _is_over(stream: TlsStream) -> bool:
    """Whether the other end has hung up already, though nobody has read so far yet."""
    probe = select.poll()
    probe.register(stream.fileno(), _FAILED)
    return bool(probe.poll(0))
