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
import time
from collections.abc import Callable, Iterable

from hansa.errors import LinkLost, NotTrusted, OtherVersion, RunUnknown, TransportError, in_words
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Frame, Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.frames import PREFIX_BYTES, FrameReader, FrameRefused, checked, fragments
from hansa.transport.notices import EVERY_S, Notice, Notify, Waiting, silent
from hansa.transport.proxy import Proxy
from hansa.transport.tcp import SILENCE_S, SilenceWatch, dial, place, tune
from hansa.transport.tls_stream import TlsError, TlsStream, Until
from hansa.transport.welcome import ALERTS, UNKNOWN_RUN, await_welcome, explained, greet, other_version

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 1.0
"""Between two dials of a hub whose service does not know the run yet."""


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
            spin_s, silence_s, most_bytes_per_s: as in `tls_links.HubLimits`.
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
                raise OtherVersion(other_version(stream, give_up, where, credentials))
            if hello:
                with contextlib.suppress(BrokenPipeError):  # what is read next says why
                    greet(stream, hello)
            greeting = await_welcome(stream, give_up, where)
            if greeting and not hello:
                raise TransportError(f"{where}: answered the handshake with something else than a welcome")
        except TlsError as error:
            stream.close()
            if error.reason.endswith(UNKNOWN_RUN):
                raise RunUnknown(
                    f"{where}: its service does not take part in this run, or not yet; give it the approved plan there (`hansa run`)"
                ) from error
            meant = error.verification or error.reason.endswith(tuple(ALERTS))
            raise (NotTrusted if meant else TransportError)(f"{where}: {explained(error, credentials, hub)}") from error
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
                frame = self._reader.read(Until(stream, time.monotonic() + timeout))
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
