"""A channel and a hub that outlast their connections: a link that breaks is a pause, not an end.

A member whose connection broke dials again, with growing pauses, for as long as its reconnect timeout lasts. It proves who it is
as at first, by TLS, and shows the *session token* that it drew at random when its process first connected. The hub gives it its
session back if the token is that of the session, and both send again what the other has not received, the very bytes. Meanwhile
the hub keeps what is to be sent to it, and serves others. What both ends remember stands in `delivery`; a process that ended has
forgotten
it, so it is refused: under the keys of a run there is no going back.

Guarantees beside those of `channel`, whose first, "whole, once, unchanged, in the order sent", now holds across connections:

6. A frame is sent again only from the bytes that were sent first, and only while the other end has not acknowledged it.
7. A session belongs to one process of one member: to who holds the member's key *and* the token. While nothing has been sent yet,
   a process that is gone may be replaced by another. Later, where the hub says that `processes_change`, another process of a
   member that is away, or silent, ends its session: that is `MemberLost` at once, and the new process is told to come again.
8. A member that is away for longer than the reconnect timeout is `MemberLost`, for good; one that closes or breaks a rule is at once.

A line that carries nothing any more, and does not say so, counts as broken after two thirds of the reconnect timeout, 40 seconds
at most (`tcp.SilenceWatch`). Who joins, is away, is back or is waited for is told as a `Notice`, and by the hub to every member that it
serves.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from hansa.errors import LinkLost, MemberLost, SessionRefused, TransportError
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Frame, Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.delivery import (
    ACKNOWLEDGE,
    CLOSE,
    FLUSH,
    HEAD,
    HELLO,
    KEPT_BYTES,
    TOKEN_BYTES,
    UNKNOWN,
    WELCOME,
    DeliveryState,
    notice_signal,
    read_hello,
    read_notice,
    read_welcome,
)
from hansa.transport.frames import PREFIX_BYTES, checked
from hansa.transport.notices import EVERY_S, Kind, Notice, Notify, Waiting, silent
from hansa.transport.proxy import Proxy
from hansa.transport.tcp import LOOK_S, OpenListener, listen, silence_for
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_handshakes import Admission
from hansa.transport.tls_hub import TlsHub
from hansa.transport.tls_links import HubLimits

_LOG = logging.getLogger(__name__)

RECONNECT_TIMEOUT_S = 60.0
"""Seconds that an end waits for a broken connection to be made anew, unless told otherwise."""

LINGER_S = 5.0
"""Seconds at most that an end which leaves waits until the other has received its last words."""

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_HANDSHAKE_S = 30.0

_MOST_NOTICES, _NOTICES_A_SECOND = 64.0, 4.0
"""What a member passes on of the hub's notices; one that sends more is ignored."""

Dial = Callable[[bytes, float], TlsChannel]
"""(this member's greeting, seconds for the handshake) -> a connection to the hub."""


class ResumableChannel:
    """A member's side. See `hansa.transport.channel.Channel`.

    `traffic` counts each frame once with its length, as the role sent it; what this module and TLS add is not counted.

    Args:
        dial: makes a connection.
        reconnect_timeout_s: seconds to go on dialling after a loss; 0 gives up at once. Losses that follow each other without anything
            new said between them share one reconnect timeout.
        frame_limit: bytes that one frame may hold.
        send_timeout_s: seconds to wait for acknowledgements where very much was sent and none came.
        hub: its name. members: all whom the hub may speak of. notify: told of the hub's connection, and what the hub tells of
            others'.
    """

    def __init__(
        self,
        dial: Dial,
        reconnect_timeout_s: float,
        frame_limit: int,
        send_timeout_s: float,
        *,
        hub: str = "hub",
        members: Collection[str] = (),
        notify: Notify = silent,
    ) -> None:
        self._dial = dial
        self._reconnect_timeout_s = reconnect_timeout_s
        self._frame_limit = frame_limit
        self._send_timeout_s = send_timeout_s
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._hub_session = UNKNOWN
        self._delivery = DeliveryState(takes_notices=True)
        self._hub = hub
        self._members = frozenset(members)
        self._notify = notify
        self._waiting = Waiting(notify)
        self._notices = _MOST_NOTICES
        self._noticed_at = time.monotonic()
        self._deferred: deque[bytes] = deque()
        self._lost_at: float | None = None
        self._linked_at = 0.0
        self._leaving_until: float | None = None
        self._link: TlsChannel | None = None
        self.traffic = Traffic()
        self.notify: Notify = silent
        self.reconnections = 0

    @classmethod
    def connect(
        cls,
        credentials: Credentials,
        hub: str,
        host: str,
        port: int,
        *,
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        retry_for_s: float = 0.0,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
        send_timeout_s: float = 300.0,
        spin_s: float = 0.0,
        most_bytes_per_s: int = 0,
        proxy: Proxy | None = None,
        notify: Notify = silent,
    ) -> ResumableChannel:
        """Dial the hub and be welcomed by it. See `TlsChannel.connect` for the arguments and errors.

        `retry_for_s` is for the first connection: how long to go on dialling while nobody listens there yet.
        """

        def dial(hello: bytes, timeout_s: float) -> TlsChannel:
            return TlsChannel.connect(
                credentials,
                hub,
                host,
                port,
                timeout_s=timeout_s,
                retry_for_s=0.0 if channel.reconnections else retry_for_s,
                frame_limit=frame_limit + HEAD.size,
                send_timeout_s=send_timeout_s,
                hello=hello,
                spin_s=spin_s,
                silence_s=silence_for(reconnect_timeout_s),
                most_bytes_per_s=most_bytes_per_s,
                proxy=proxy,
                notify=notify,
            )

        members = credentials.certificates.keys()
        channel = cls(dial, reconnect_timeout_s, frame_limit, send_timeout_s, hub=hub, members=members, notify=notify)
        channel._join(_HANDSHAKE_S)
        return channel

    def send(self, frame: Frame) -> None:
        """Send one frame; returns when the transport has taken it.

        Raises:
            TransportError: the hub is gone and did not come back, or refuses this member.
        """
        self._open()
        view = checked(frame, self._frame_limit)
        if self._delivery.kept_bytes > KEPT_BYTES:
            self._make_room()
        head, kept = self._delivery.keep(frame)
        try:
            self._open().send(kept, head)
        except LinkLost as loss:
            self._resume(loss)
        self.traffic.frames_up += 1
        self.traffic.bytes_up += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Wait for the next frame from the hub; a loss of the connection may stretch `timeout` by the reconnect timeout.

        Raises:
            TransportError: nothing came in time (a later call goes on), or the hub is gone for good.
        """
        self._open()
        deadline = None if timeout is None else time.monotonic() + timeout
        frame: memoryview | None = None
        while frame is None:
            # Looked at each time: a loss that `_next` mends may defer frames, which come before all later ones.
            frame = memoryview(self._deferred.popleft()) if self._deferred else self._next(deadline, timeout)
        self._waiting.over()
        self.traffic.frames_down += 1
        self.traffic.bytes_down += PREFIX_BYTES + len(frame)
        return frame

    def leave_within(self, seconds: float) -> None:
        """This member has nothing left to lose: from now on a loss of the connection is mended for so long at most."""
        self._leaving_until = time.monotonic() + seconds

    def close(self) -> None:
        """Make sure, for some seconds, that the hub has received all; then leave for good. Safe to call twice."""
        if self._link is None:
            return
        # Whatever fails here concerns a hub that this member is leaving anyway.
        with contextlib.suppress(TransportError):
            self._linger(min(LINGER_S, self._reconnect_timeout_s))
        if self._link is not None:
            with contextlib.suppress(TransportError):
                self._link.send(self._delivery.signal(CLOSE))
            self._hang_up()

    def _open(self) -> TlsChannel:
        if self._link is None:
            raise TransportError("this connection to the hub is closed; connect anew")
        return self._link

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _next(self, deadline: float | None, timeout: float | None) -> memoryview | None:
        """What comes next over the connection: a frame, or None where it was something else, or a loss that was mended.

        Raises TransportError at the deadline, which names the `timeout` that it stands for.
        """
        delivery = self._delivery
        try:
            frame = self._taken(self._received(deadline, timeout))
        except LinkLost as loss:
            self._resume(loss)
            return None
        if frame is not None:
            self._lost_at = None
        if delivery.left:
            self._hang_up()
            raise TransportError("the hub is gone: it ended the connection")
        if delivery.notice:
            self._take_notice(delivery)
        if delivery.asked or delivery.owes:
            delivery.asked = False
            self._signal(ACKNOWLEDGE)
        return frame

    def _take_notice(self, delivery: DeliveryState) -> None:
        """Pass the hub's notice on. Raises TransportError where it is none."""
        signal, delivery.notice = delivery.notice, b""
        try:
            notice = read_notice(signal, self._members)
        except TransportError as error:
            self._hang_up()
            raise TransportError(f"the hub is gone: it broke a rule of the connection: {error}") from error
        now = time.monotonic()
        self._notices = min(_MOST_NOTICES, self._notices + _NOTICES_A_SECOND * (now - self._noticed_at))
        self._noticed_at = now
        if self._notices >= 1:
            self._notices -= 1
            self._notify(notice)
            if notice.kind == "waiting":
                self._waiting.told()

    def _taken(self, frame: memoryview) -> memoryview | None:
        try:
            return self._delivery.take(frame)
        except TransportError as error:
            self._hang_up()
            raise TransportError(f"the hub is gone: it broke a rule of the connection: {error}") from error

    def _received(self, deadline: float | None, timeout: float | None) -> memoryview:
        link = self._open()
        while True:
            left = LOOK_S if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                return link.receive(min(LOOK_S, left))
            except LinkLost:
                raise
            except TransportError as error:
                if not link.is_open:
                    self._hang_up()
                    raise
                if deadline is not None and time.monotonic() >= deadline:
                    raise TransportError(f"no frame from the hub in {timeout or 0:g} s") from error
            self._waiting.go_on(lambda: (self._hub,), timeout)

    def _signal(self, kind: bytes) -> None:
        try:
            self._open().send(self._delivery.signal(kind))
        except LinkLost as loss:
            self._resume(loss)

    def _make_room(self) -> None:
        """Wait until the hub has acknowledged enough; what it says meanwhile is deferred."""
        give_up = time.monotonic() + self._send_timeout_s
        self._open().pin_frame()
        while self._delivery.kept_bytes > KEPT_BYTES:
            self._signal(FLUSH)
            if (frame := self._next(give_up, self._send_timeout_s)) is not None:
                self._put_deferred(frame)

    def _put_deferred(self, frame: memoryview) -> None:
        """Keep a frame for `receive`. Raises TransportError where the hub floods this member."""
        if sum(map(len, self._deferred)) + len(frame) > KEPT_BYTES:
            self._hang_up()
            raise TransportError(f"the hub is gone: it sent more than {KEPT_BYTES} bytes that nobody asked for")
        self._deferred.append(bytes(frame))

    def _linger(self, seconds: float) -> None:
        """Wait until the hub has acknowledged all; over each new connection it is asked to."""
        self.leave_within(seconds)
        until = time.monotonic() + seconds
        asked_over = -1
        while self._delivery.acknowledged < self._delivery.sent and time.monotonic() < until:
            if asked_over != self.reconnections:
                asked_over = self.reconnections
                self._signal(FLUSH)
            else:
                self._next(until, seconds)

    def _join(self, timeout_s: float) -> None:
        """Make a connection, and send over it what the hub has not received."""
        link = self._dial(HELLO.pack(self._token, self._hub_session, self._delivery.received), timeout_s)
        try:
            token, received = read_welcome(link.greeting)
            if self._hub_session not in (UNKNOWN, token):
                raise TransportError("another process answers, which lost the state of this run; start a new run")
            self._delivery.check(received)
        except TransportError as error:
            link.close()
            raise SessionRefused(f"the hub {error}") from error
        self._hub_session = token
        if received > self._delivery.acknowledged:
            self._lost_at = None
        try:
            for head, kept in self._delivery.again(received):
                link.send(kept, head)
        except TransportError:
            link.close()
            raise
        self._link, self._linked_at = link, time.monotonic()

    def _resume(self, loss: LinkLost) -> None:
        """Dial until the hub is there again. Raises TransportError where that takes too long, it refuses, or it left."""
        self._receive_last()
        now = time.monotonic()
        if self._lost_at is None or now - self._linked_at > self._reconnect_timeout_s:
            self._lost_at = now
        give_up, pause = self._lost_at + self._reconnect_timeout_s, _FIRST_PAUSE_S
        if self._leaving_until is not None:
            give_up = min(give_up, self._leaving_until)
        self.reconnections += 1
        failure: TransportError = loss
        told = 0.0
        if give_up > now and self._leaving_until is None and self._notify is silent:
            _LOG.warning("%s; dialling again for up to %g s", loss, give_up - now)
        while (left := give_up - time.monotonic()) > 0:
            if time.monotonic() - told >= EVERY_S:
                told = time.monotonic()
                self._tell("away", told - self._lost_at, self._reconnect_timeout_s, str(loss))
            try:
                self._join(min(_HANDSHAKE_S, left))
            except SessionRefused as refusal:
                self._tell("lost", time.monotonic() - self._lost_at, None, str(refusal))
                raise TransportError(f"the hub is gone: {refusal}") from refusal
            except TransportError as error:
                failure = error
                time.sleep(max(0.0, min(pause, give_up - time.monotonic())))
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                if self._notify is silent:
                    _LOG.warning("the hub is there again")
                self._tell("back", time.monotonic() - now)
                self._waiting.over()
                return
        self._tell("lost", time.monotonic() - self._lost_at, self._reconnect_timeout_s, str(failure))
        raise TransportError(self._parting(loss, failure, give_up - self._lost_at)) from failure

    def _tell(self, kind: Kind, seconds: float, limit_s: float | None = None, text: str = "") -> None:
        waiting_for = (self._hub,) if kind == "away" else ()
        self._notify(Notice(kind, self._hub, waiting_for, max(0.0, seconds), limit_s, text))

    def _receive_last(self) -> None:
        """Take what the hub sent before the connection broke, its close above all; then close what is left of it."""
        link, self._link = self._link, None
        if link is not None:
            link.pin_frame()  # this may be in the middle of `send`, where the caller still reads it
        while link is not None and link.is_open:
            try:
                frame = link.receive(0)
            except TransportError:
                link.close()  # there is no more
            else:
                if (content := self._taken(frame)) is not None:
                    self._put_deferred(content)
        if self._delivery.left:
            raise TransportError("the hub is gone: it ended the connection")

    def _parting(self, loss: LinkLost, failure: TransportError, waited_s: float) -> str:
        if failure is loss:
            return str(loss)
        return f"{loss}; it could not be reached again in {waited_s:.4g} s ({failure})"


@dataclass(eq=False)
class _Session:
    """The hub's memory of one member.

    Attributes:
        token: of the process that holds the session.
        linked: whether a connection of it is known to live. linked_at: since when.
        lost_at: of the first loss since anything new was received. reason: of the last.
        over: whether the member left, or was lost or dropped, for good.
        received_at: when anything came last. asked_at: when another process of the member came, and this one was asked for a word.
    """

    token: bytes
    delivery: DeliveryState = field(default_factory=DeliveryState)
    linked: bool = True
    linked_at: float = field(default_factory=time.monotonic)
    lost_at: float | None = None
    reason: str = ""
    over: bool = False
    received_at: float = field(default_factory=time.monotonic)
    asked_at: float | None = None


class ResumableHub:
    """The hub's side. See `hansa.transport.channel.Hub`, and `hansa.transport.tls_handshakes.Admission`.

    `traffic` counts as `ResumableChannel.traffic`.

    Args:
        opened: opens a hub with this admission.
        reconnect_timeout_s: seconds that a member may be away; 0 waits for nobody.
        limits: what the hub bears.
        notify: told who joins, is away, is back, is lost, and who is waited for; so is every member that is connected.
        owed: names the members whose word is waited for.
        processes_change: whether another process of a member that is away ends its session at once, because the run goes on with that
            process later.
    """

    def __init__(
        self,
        opened: Callable[[Admission], TlsHub],
        reconnect_timeout_s: float,
        limits: HubLimits,
        *,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] = tuple,
        processes_change: bool = False,
    ) -> None:
        self._processes_change = processes_change
        self._reconnect_timeout_s = reconnect_timeout_s
        self._limits = limits
        self._token = secrets.token_bytes(TOKEN_BYTES)
        self._sessions: dict[str, _Session] = {}
        self._away: dict[str, float] = {}  # member -> when it is given up
        self._losses: deque[MemberLost] = deque()
        self._deferred: deque[tuple[str, bytes]] = deque()
        self._traffic: dict[str, Traffic] = {}
        self._received_last = ""
        self._closing = False
        self._notify = notify
        self._owed = owed
        self._waiting = Waiting(silent)
        self._awaited: frozenset[str] = frozenset()
        self._away_told: dict[str, float] = {}
        self.reconnections = 0
        self._inner = opened(self)

    @classmethod
    def listen(
        cls,
        credentials: Credentials,
        host: str,
        port: int,
        *,
        allowed: Collection[str] | None = None,
        limits: HubLimits | None = None,
        reconnect_timeout_s: float = RECONNECT_TIMEOUT_S,
        notify: Notify = silent,
        owed: Callable[[], Iterable[str]] = tuple,
        processes_change: bool = False,
        open_listener: OpenListener = listen,
    ) -> ResumableHub:
        """Listen for members. See `TlsHub.listen` for the arguments and errors."""
        given = limits or HubLimits()
        silence_s = min(given.silence_s, silence_for(reconnect_timeout_s))
        inner = replace(given, frame_bytes=given.frame_bytes + HEAD.size, silence_s=silence_s)
        return cls(
            lambda admission: TlsHub.listen(
                credentials,
                host,
                port,
                allowed=allowed,
                limits=inner,
                admission=admission,
                notify=notify,
                open_listener=open_listener,
            ),
            reconnect_timeout_s,
            given,
            notify=notify,
            owed=owed,
            processes_change=processes_change,
        )

    @property
    def port(self) -> int:
        """The TCP port that the hub listens at."""
        return self._inner.port

    @property
    def joined(self) -> frozenset[str]:
        """Names of the members that are connected."""
        return self._inner.joined

    @property
    def rejected(self) -> int:
        """Connections so far that did not prove to be an expected member, or were refused a session."""
        return self._inner.rejected

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Frames so far, by member."""
        return self._traffic

    def wait_for(self, members: Collection[str], timeout: float | None = None) -> None:
        """Wait until all of `members` are connected. See `TlsHub.wait_for`."""
        self._awaited = frozenset(members)
        self._waiting.over()
        give_up = None if timeout is None else time.monotonic() + timeout
        while True:
            left = LOOK_S if give_up is None else max(0.0, give_up - time.monotonic())
            try:
                self._inner.wait_for(members, min(LOOK_S, left))
            except TransportError as error:
                if self._closing or not set(members) <= self._inner.allowed:
                    raise
                if give_up is not None and left <= LOOK_S:
                    raise TransportError(self._inner.missing(members, timeout)) from error
            else:
                return
            self._tell_waiting(lambda: self._awaited - self._inner.joined, timeout)

    def send(self, member: str, frame: Frame) -> None:
        """Send one frame to one member, or keep it where the member is away.

        Raises:
            MemberLost: the member left, broke a rule, or acknowledged nothing for too long. What it said before may still be received.
            TransportError: there is no such member.
        """
        session = self._sessions.get(member)
        if session is not None and session.over and not self._closing:
            raise MemberLost(member, "it is not connected any more")
        if session is None or self._closing:
            raise TransportError(f"member {member!r} is not connected")
        view = checked(frame, self._limits.frame_bytes)
        if session.delivery.kept_bytes > KEPT_BYTES:
            self._make_room(member, session)
        head, kept = session.delivery.keep(frame)
        if session.linked:
            try:
                self._inner.send(member, kept, head)
            except MemberLost as loss:
                self._cut(loss)
        traffic = self._traffic[member]
        traffic.frames_down += 1
        traffic.bytes_down += PREFIX_BYTES + len(view)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Wait for a frame from any member: (member, frame). Members come, go and come back meanwhile.

        Raises:
            MemberLost: one member left, broke a rule, or was away for too long. Raised once.
            TransportError: no frame came in `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            if self._deferred:  # looked at each time: a loss may defer a member's last words
                member, kept = self._deferred.popleft()
                return self._counted(member, memoryview(kept))
            if (received := self._next(deadline)) is not None:
                break
            if deadline is not None and time.monotonic() >= deadline:
                raise TransportError(f"no frame from any member in {timeout:g} s")
            if timeout != 0:
                self._tell_waiting(self._owed, timeout)
        self._waiting.over()
        return self._counted(*received)

    def drop(self, member: str, reason: str) -> None:
        """End one member's part because of `reason`, for good; others go on. Nothing is raised for it later."""
        session = self._sessions.get(member)
        if session is not None and not session.over:
            self._signal(member, session, CLOSE)
            self._end(member, session)
        self._deferred = deque(each for each in self._deferred if each[0] != member)
        self._inner.drop(member, reason)

    def close(self) -> None:
        """Make sure, for some seconds, that all have received the last words; then end all connections. Safe to call twice."""
        if self._closing:
            return
        self._closing = True
        until = time.monotonic() + min(LINGER_S, self._reconnect_timeout_s)
        for member, session in self._sessions.items():
            if session.delivery.acknowledged < session.delivery.sent:
                self._signal(member, session, FLUSH)
        while self._unreceived() and time.monotonic() < until:
            # Each failure here concerns a member that the hub is leaving anyway.
            with contextlib.suppress(MemberLost):
                self._next(until)
        for member, session in self._sessions.items():
            self._signal(member, session, CLOSE)
        self._inner.close()

    # Admission

    def admit(self, member: str, hello: bytes, vacant: bool) -> bytes:
        """Let in a member that is new, or comes back to its session. See `tls.Admission`."""
        token, known, _ = self._read(member, hello)
        session = self._sessions.get(member)
        if session is None or self._replaceable(session, token, vacant):
            if known != UNKNOWN:
                raise TransportError("speaks of another process of this hub, which lost its state; start a new run")
            return WELCOME.pack(self._token, 0)
        if session.over:
            raise TransportError("has left this run, or came back too late; start a new run")
        if not hmac.compare_digest(token, session.token):
            if self._processes_change and (vacant or self._is_gone(member, session)):  # by its key it is the member
                self._losses.append(MemberLost(member, "its process ended, and another one was started"))
                raise TransportError("was in this run by a process that ended; dial again when the run goes on")
            raise TransportError(
                "has a session by another process: either a second one was started (stop it), "
                "or this one lost its state (start a new run)"
            )
        return WELCOME.pack(self._token, session.delivery.received)

    def _is_gone(self, member: str, session: _Session) -> bool:
        """Whether the process that holds a session is gone, of which another one says so by coming.

        Its connection may look alive, where something in between (a proxy) keeps it: so it is asked for a word, and has the reconnect
        timeout to give it.
        """
        if not session.linked:
            return True
        now = time.monotonic()
        if session.asked_at is None or session.received_at > session.asked_at:
            session.asked_at = now
            self._signal(member, session, FLUSH)
        return session.linked and now - session.asked_at >= self._reconnect_timeout_s > 0

    def admitted(self, member: str, hello: bytes) -> None:
        """Send a member that is back what it has not received. See `tls.Admission`."""
        token, _, received = self._read(member, hello)
        session = self._sessions.get(member)
        self._away.pop(member, None)
        self._losses = deque(loss for loss in self._losses if loss.member != member)
        if session is None or session.token != token:
            self._sessions[member] = _Session(token)
            self._traffic[member] = Traffic()
            self._tell(Notice("joined", member, tuple(sorted(self._awaited - self._inner.joined))))
            return
        self.reconnections += 1
        session.linked, session.linked_at = True, time.monotonic()
        away_s = 0.0 if session.lost_at is None else time.monotonic() - session.lost_at
        if received > session.delivery.acknowledged:
            session.lost_at = None
        if self._notify is silent:
            _LOG.warning("member %r is back; it has received %d of %d frames", member, received, session.delivery.sent)
        try:
            for head, kept in session.delivery.again(received):
                self._inner.send(member, kept, head)
            if self._closing:
                self._inner.send(member, session.delivery.signal(FLUSH))
        except MemberLost as loss:
            self._note(session, loss)
        self._tell(Notice("back", member, tuple(sorted(self._away)), away_s))

    def _read(self, member: str, hello: bytes) -> tuple[bytes, bytes, int]:
        """A greeting, refused where it cannot be of this conversation."""
        token, known, received = read_hello(hello)
        if known not in (UNKNOWN, self._token):
            raise TransportError("speaks of another process of this hub, which lost its state; start a new run")
        session = self._sessions.get(member)
        (session.delivery if session and session.token == token else DeliveryState()).check(received)
        return token, known, received

    @staticmethod
    def _replaceable(session: _Session, token: bytes, vacant: bool) -> bool:
        """Whether another process may have the session: nothing was sent yet, and the one that had it is gone."""
        gone = vacant or not session.linked
        return session.token != token and session.delivery.untouched and gone and not session.over

    # What comes

    def _counted(self, member: str, frame: memoryview) -> tuple[str, memoryview]:
        traffic = self._traffic[member]
        traffic.frames_up += 1
        traffic.bytes_up += PREFIX_BYTES + len(frame)
        self._received_last = member
        return member, frame

    def _next(self, deadline: float | None) -> tuple[str, memoryview] | None:
        """The next frame of any member; None where something else came, or the deadline or somebody's reconnect timeout."""
        if self._losses:
            self._cut(self._losses.popleft())
            if self._deferred:
                return None  # a member's last words come before what it says now, as it may be back already
        soon = time.monotonic() + LOOK_S
        due = soon if deadline is None else min(deadline, soon)
        if self._away:
            self._give_up()
            due = min(due, *self._away.values())
        try:
            member, frame = self._inner.receive(max(0.0, due - time.monotonic()))
        except MemberLost as loss:
            self._cut(loss)
            return None
        except TransportError:
            if time.monotonic() < due:
                raise
            return None
        session = self._sessions[member]
        return None if session.over else self._taken(member, session, frame)

    def _taken(self, member: str, session: _Session, frame: memoryview) -> tuple[str, memoryview] | None:
        delivery = session.delivery
        session.received_at = time.monotonic()
        try:
            content = delivery.take(frame)
        except TransportError as error:
            self._end(member, session)
            self._inner.drop(member, str(error))
            raise MemberLost(member, str(error)) from error
        if content is not None:
            session.lost_at = None
        elif delivery.left:
            self._end(member, session)
            self._tell(Notice("left", member))
            raise MemberLost(member, "the connection was closed")
        if delivery.asked or delivery.owes:
            delivery.asked = False
            self._signal(member, session, ACKNOWLEDGE)
        return None if content is None else (member, content)

    def _signal(self, member: str, session: _Session, kind: bytes) -> None:
        if session.linked and not session.over:
            try:
                self._inner.send(member, session.delivery.signal(kind))
            except MemberLost as loss:
                self._note(session, loss)

    def _make_room(self, member: str, session: _Session) -> None:
        """Wait until a member has acknowledged enough; what others say meanwhile is deferred."""
        give_up = time.monotonic() + self._limits.send_s + self._reconnect_timeout_s
        self._inner.pin_frame(self._received_last)
        self._signal(member, session, FLUSH)
        while session.delivery.kept_bytes > KEPT_BYTES:
            if (received := self._next(give_up)) is not None:
                self._put_deferred(*received)
            if time.monotonic() >= give_up:
                self._end(member, session)
                raise MemberLost(
                    member, f"acknowledged nothing of {session.delivery.kept_bytes} bytes that were sent to it"
                )

    def _put_deferred(self, member: str, frame: memoryview) -> None:
        """Keep a frame for `receive`. Raises MemberLost where its sender floods the hub."""
        waiting = sum(len(kept) for name, kept in self._deferred if name == member)
        if waiting + len(frame) > KEPT_BYTES:
            self.drop(member, reason := f"sent more than {KEPT_BYTES} bytes that nobody asked for")
            raise MemberLost(member, reason)
        self._deferred.append((member, bytes(frame)))

    # Who goes

    def _note(self, session: _Session, loss: MemberLost) -> None:
        """Keep a loss for where it can be raised."""
        session.linked = False
        self._losses.append(loss)

    def _cut(self, loss: MemberLost) -> None:
        """Begin to wait for a member whose connection broke. Raises MemberLost where that is of no use."""
        session = self._sessions[loss.member]
        if session.over:
            return  # it was reported, or left
        session.linked = False  # before its last words, which nothing answers on a line that is gone
        for frame in loss.unread:  # its last words, which a send that failed found before `receive` did
            if (received := self._taken(loss.member, session, memoryview(frame))) is not None:
                self._put_deferred(*received)
        if not loss.broken or not self._reconnect_timeout_s:
            self._end(loss.member, session)
            self._tell(Notice("lost", loss.member, text=loss.reason))
            raise loss
        now = time.monotonic()
        if session.lost_at is None or now - session.linked_at > self._reconnect_timeout_s:
            session.lost_at = now
        session.linked, session.reason = False, loss.reason
        give_up = self._away[loss.member] = session.lost_at + self._reconnect_timeout_s
        if self._notify is silent:
            _LOG.warning("%s; waiting for it for up to %g s", loss, max(0.0, give_up - now))
        self._tell_away(loss.member, session)

    def _give_up(self) -> None:
        now = time.monotonic()
        for member, moment in tuple(self._away.items()):
            session = self._sessions[member]
            if moment <= now:
                reason = f"{session.reason}; it did not come back in {self._reconnect_timeout_s:g} s"
                self._end(member, session)
                self._tell(
                    Notice(
                        "lost",
                        member,
                        seconds=self._reconnect_timeout_s,
                        limit_s=self._reconnect_timeout_s,
                        text=reason,
                    )
                )
                raise MemberLost(member, reason)
            if now - self._away_told.get(member, 0.0) >= EVERY_S:
                self._tell_away(member, session)

    def _end(self, member: str, session: _Session) -> None:
        session.over, session.linked = True, False
        self._away.pop(member, None)

    # What is told

    def _tell(self, notice: Notice) -> None:
        """Tell this process, and all members that are connected; one that is back knows of itself."""
        self._notify(notice)
        signal = notice_signal(notice)
        for member, session in tuple(self._sessions.items()) if signal else ():
            if member != notice.member or notice.kind == "joined":
                self._signal(member, session, signal)

    def _tell_away(self, member: str, session: _Session) -> None:
        now = self._away_told[member] = time.monotonic()
        seconds = 0.0 if session.lost_at is None else now - session.lost_at
        self._tell(
            Notice("away", member, tuple(sorted(self._away)), seconds, self._reconnect_timeout_s, session.reason)
        )

    def _tell_waiting(self, names: Callable[[], Iterable[str]], limit_s: float | None) -> None:
        if notice := self._waiting.go_on(names, limit_s):
            self._tell(notice)

    def _unreceived(self) -> list[str]:
        """Members that have not acknowledged all, and may yet."""
        return [name for name, s in self._sessions.items() if not s.over and s.delivery.acknowledged < s.delivery.sent]
