"""A hub over TLS 1.3: many members' connections at one end. How a connection begins is in `transport.tls`."""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Collection, Iterable, Mapping

from hansa.errors import IdentityError, TransportError
from hansa.transport.channel import Frame, Traffic
from hansa.transport.credentials import Credentials
from hansa.transport.frames import checked
from hansa.transport.notices import Notify, Waiting, silent
from hansa.transport.proxy import Proxy
from hansa.transport.tcp import LOOK_S, Listener, Lookout, OpenListener, listen
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_handshakes import Admission, Handshakes
from hansa.transport.tls_links import HubLimits, Links


class TlsHub:
    """One end of many members' connections: those that dial it, and those that it dials. See `hansa.transport.channel.Hub`."""

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
        self._listener = listener
        self._allowed = allowed
        self._limits = limits
        self._notify = notify
        self._owed = owed
        self._waiting = Waiting(silent if admission else notify)
        self._lookout = Lookout(limits.spin_s)
        self._poll = select.poll()
        self._links = Links(limits, self._poll, notify)
        self._handshakes = Handshakes(
            credentials, allowed, limits, admission, listener, self._poll, self._links, notify
        )
        self._closed = False

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
        if member in self._links.by_member:
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
        self._links.adopt(member, channel.give_up())

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
        return frozenset(self._links.by_member)

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """Bytes and frames so far, by member; kept when a member leaves and comes back."""
        return self._links.traffic

    @property
    def rejected(self) -> int:
        """Connections so far that did not prove to be an expected member."""
        return self._handshakes.rejected

    def wait_for(self, members: Collection[str], timeout: float | None = None) -> None:
        """Wait until all of `members` are connected. What they send meanwhile waits for `receive`.

        Raises:
            TransportError: names those who are missing after `timeout` seconds.
        """
        self._check_open()
        deadline = _deadline(timeout)
        if rejected := sorted(set(members) - self._allowed):
            raise TransportError(f"the hub does not expect {', '.join(rejected)}, so it cannot wait for them")
        self._handshakes.awaited = frozenset(members)
        joined = self._links.by_member
        self._waiting.over()
        while not joined.keys() >= set(members):
            admission = select.poll()
            for descriptor in self._handshakes.descriptors:
                admission.register(descriptor, select.POLLIN)
            self._handshakes.go_on(
                [fd for fd, _ in admission.poll(min(1000 * LOOK_S, self._timeout_ms(deadline) or 1000 * LOOK_S))]
            )
            missing = sorted(set(members) - joined.keys())
            if missing:
                self._waiting.go_on(lambda: set(members) - joined.keys(), timeout)
            if missing and deadline is not None and time.monotonic() >= deadline:
                raise TransportError(self.missing(members, timeout))

    def missing(self, members: Iterable[str], seconds: float | None) -> str:
        """What to say of those of `members` who are not connected after so long."""
        former = "".join(f"; one showed the certificate {each}" for each in sorted(self._handshakes.former))
        return (
            f"not connected after {seconds or 0:g} s: {', '.join(sorted(set(members) - self._links.by_member.keys()))} "
            f"({self.rejected} connections of others were refused{former}); start them, or look there why they cannot reach the hub"
        )

    def send(self, member: str, frame: Frame, head: bytes = b"") -> None:
        """Send one frame, `head` before it, to one member; returns when the system, or its backlog, has taken it.

        Raises:
            MemberLost: the member's connection ended, or it took nothing for too long.
            TransportError: the member is not connected.
        """
        view = checked(frame, self._limits.frame_bytes)
        self._check_open()
        self._links.send(member, view, head)

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
            if (found := self._links.next_frame()) is not None:
                self._lookout.end()
                self._waiting.over()
                return found
            # Whoever trickles bytes must not stretch the deadline.
            if looked and deadline is not None and time.monotonic() >= deadline:
                raise TransportError(f"no frame from any member in {timeout:g} s")
            self._wait(deadline)
            looked = True
            if timeout != 0:
                self._waiting.go_on(self._owed, timeout)

    def pin_frame(self, member: str) -> None:
        """Keep the frame that was received last from this member valid for good."""
        if link := self._links.by_member.get(member):
            link.reader.pin_frame()

    def drop(self, member: str, reason: str) -> None:
        """End one member's connection; others go on. It may connect anew. Nothing is raised for it later."""
        self._links.drop(member, reason)

    def close(self) -> None:
        """Send what still waits (at most `send_s` seconds), end all connections, stop listening.

        Safe to call twice.
        """
        if self._closed:
            return
        self._closed = True
        self._links.close()
        self._handshakes.close()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError("this hub is closed")

    def _wait(self, deadline: float | None) -> None:
        """Wait until some socket is ready or something is due, and do what is to be done."""
        links, handshakes = self._links, self._handshakes
        others = [descriptor for descriptor, event in self._events(deadline) if not links.note(descriptor, event)]
        if others or handshakes.pending:
            handshakes.go_on(others)
        links.drop_overdue()

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
        due = [*([] if deadline is None else [deadline]), *self._handshakes.dues(), *self._links.dues()]
        return max(0.0, 1000 * (min(due) - time.monotonic())) if due else None


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout
