"""The connections that a hub has: frames in and out, what waits to leave, and whose line is lost.

Sockets never block. What a member does not take at once waits in its backlog and goes out during later calls, so that two members who
send each other large frames through the hub cannot lock up.
"""

from __future__ import annotations

import contextlib
import logging
import select
import time
from collections import deque
from dataclasses import dataclass

from hansa.errors import MemberLost, TransportError, in_words
from hansa.transport.channel import DEFAULT_FRAME_LIMIT, Traffic
from hansa.transport.frames import PREFIX_BYTES, FrameReader, FrameRefused, fragments
from hansa.transport.notices import Notify
from hansa.transport.tcp import LOOK_S, SILENCE_S, SilenceWatch
from hansa.transport.tls_stream import TlsStream

_LOG = logging.getLogger(__name__)

_FAILED = select.POLLERR | select.POLLHUP | getattr(select, "POLLRDHUP", 0)


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


@dataclass(eq=False)
class Link:
    """The hub's end of one member's connection."""

    member: str
    stream: TlsStream
    reader: FrameReader
    watch: SilenceWatch
    progress_at: float = 0.0


class Links:
    """The connections of members that proved who they are.

    Args:
        limits: what the hub bears. poll: what it sleeps on; every connection is registered there. notify: told of a line that carries
            nothing.

    Attributes:
        by_member: the connections that are open. traffic: bytes and frames so far, by member; kept when a member leaves and comes back.
    """

    def __init__(self, limits: HubLimits, poll: select.poll, notify: Notify) -> None:
        self.by_member: dict[str, Link] = {}
        self.traffic: dict[str, Traffic] = {}
        self._limits = limits
        self._poll = poll
        self._notify = notify
        self._by_descriptor: dict[int, Link] = {}
        self._ready: deque[Link] = deque()
        self._behind: set[Link] = set()  # those with a backlog
        self._losses: deque[MemberLost] = deque()
        self._look_at = 0.0

    # Coming and going

    def is_vacant(self, member: str) -> bool:
        """Whether no connection of the member is known to live."""
        return member not in self.by_member or _is_over(self.by_member[member].stream)

    def add(self, member: str, stream: TlsStream) -> Link:
        """Keep a connection, whose descriptor is registered."""
        watch = SilenceWatch(stream.socket, self._limits.silence_s, member, self._notify)
        link = Link(member, stream, FrameReader(self._limits.frame_bytes), watch)
        self.by_member[member] = self._by_descriptor[stream.fileno()] = link
        self.traffic.setdefault(member, Traffic())
        return link

    def adopt(self, member: str, stream: TlsStream) -> None:
        """Keep a connection that the hub dialled itself."""
        stream.settimeout(0)
        self._poll.register(stream.fileno(), select.POLLIN)
        link = self.add(member, stream)
        if stream.pending():
            self._ready.append(link)

    def make_way(self, member: str) -> bool:
        """End a member's earlier connection, of which nothing is told any more; False where there is none."""
        earlier = self.by_member.get(member)
        if earlier:
            self._forget(earlier)
        self._forget_losses(member)
        return earlier is not None

    def lose(self, member: str, reason: str) -> None:
        """End a member's connection, if there is one, and tell its loss."""
        if link := self.by_member.get(member):
            self._forget(link)
        self._losses.append(MemberLost(member, reason, broken=True))

    def drop(self, member: str, reason: str) -> None:
        """End one member's connection. Nothing is raised for it later."""
        self._forget_losses(member)
        if link := self.by_member.get(member):
            _LOG.warning("member %r is dropped: %s", member, reason)
            self._forget(link)

    def close(self) -> None:
        """Send what still waits (at most `send_s` seconds), and end all connections."""
        deadline = time.monotonic() + self._limits.send_s
        for link in list(self.by_member.values()):
            # Each failure here concerns a member that the hub is leaving anyway.
            with contextlib.suppress(OSError, TransportError):
                self._flush_until(link, 0, deadline)
            self._forget(link)

    # Receiving

    def next_frame(self) -> tuple[str, memoryview] | None:
        """A frame that is there, and whose it is; None where there is none. Raises MemberLost, once for each loss."""
        if self._losses:
            raise self._losses.popleft()
        while self._ready:
            link = self._ready.popleft()
            if (frame := self._read(link)) is not None:
                return link.member, frame
        return None

    def note(self, descriptor: int, event: int) -> bool:
        """Something happened at a descriptor; False where it is no connection's."""
        link = self._by_descriptor.get(descriptor)
        if link is None:
            return False
        if event & ~select.POLLOUT:
            self._ready.append(link)
        if event & select.POLLOUT:
            self._advance(link)
        return True

    def dues(self) -> list[float]:
        """When members must have taken something of what waits for them."""
        return [link.progress_at + self._limits.send_s for link in self._behind]

    def drop_overdue(self) -> None:
        """Drop those who take nothing, and, once in a while, those whose systems acknowledge nothing."""
        if self._behind:
            self._drop_stalled()
        if (now := time.monotonic()) >= self._look_at:
            self._look_at = now + LOOK_S
            self._drop_silent()

    def _read(self, link: Link) -> memoryview | None:
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
        traffic = self.traffic[link.member]
        traffic.frames_up += 1
        traffic.bytes_up += PREFIX_BYTES + len(frame)
        return frame

    # Sending

    def send(self, member: str, frame: memoryview, head: bytes) -> None:
        """Send one frame, `head` before it; returns when the system, or its backlog, has it. Raises MemberLost, TransportError."""
        link = self._link(member)
        try:
            self._write(link, frame, head)
            if link.stream.unsent > self._limits.backlog_bytes:
                self._flush_until(link, self._limits.backlog_bytes, None)
        except OSError as error:
            raise self._lost_sending(link, error) from error
        except TransportError as error:
            raise self._lost(link, in_words(error), broken=True) from error
        traffic = self.traffic[member]
        traffic.frames_down += 1
        traffic.bytes_down += PREFIX_BYTES + len(frame)

    def _link(self, member: str) -> Link:
        for loss in self._losses:
            if loss.member == member:
                self._losses.remove(loss)
                raise loss
        if member not in self.by_member:
            raise TransportError(f"member {member!r} is not connected")
        return self.by_member[member]

    def _write(self, link: Link, frame: memoryview, head: bytes) -> None:
        """Encrypt the frame and send as much as the system takes now; the rest waits."""
        waited = link.stream.unsent
        link.stream.write_run(fragments(frame, head), PREFIX_BYTES + len(head) + len(frame))
        link.stream.flush()
        if link.stream.unsent and not waited:
            link.progress_at = time.monotonic()
            self._poll.modify(link.stream.fileno(), select.POLLIN | select.POLLOUT)
            self._behind.add(link)

    def _flush(self, link: Link) -> None:
        """Send as much of what waits as the system takes now."""
        if link.stream.flush():
            link.progress_at = time.monotonic()
        if not link.stream.unsent:
            self._poll.modify(link.stream.fileno(), select.POLLIN)
            self._behind.discard(link)

    def _flush_until(self, link: Link, size: int, deadline: float | None) -> None:
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

    def _advance(self, link: Link) -> None:
        try:
            self._flush(link)
        except OSError as error:
            self._losses.append(self._lost_sending(link, error))

    def _drop_stalled(self) -> None:
        latest = time.monotonic() - self._limits.send_s
        for link in [link for link in self._behind if link.progress_at <= latest]:
            self._losses.append(self._lost(link, self._stalled(link), broken=True))

    def _drop_silent(self) -> None:
        for link in list(self.by_member.values()):
            try:
                link.watch.look()
            except OSError as error:
                self._losses.append(self._lost(link, in_words(error), broken=True))

    def _stalled(self, link: Link) -> str:
        return f"took nothing for {self._limits.send_s:g} s of {link.stream.unsent} bytes that wait for it"

    def _lost_sending(self, link: Link, error: OSError) -> MemberLost:
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

    def _lost(self, link: Link, reason: str, *, broken: bool) -> MemberLost:
        self._forget(link)
        return MemberLost(link.member, reason, broken=broken)

    def _forget_losses(self, member: str) -> None:
        self._losses = deque(loss for loss in self._losses if loss.member != member)

    def _forget(self, link: Link) -> None:
        descriptor = link.stream.fileno()
        self._poll.unregister(descriptor)
        del self.by_member[link.member], self._by_descriptor[descriptor]
        self._behind.discard(link)
        if link in self._ready:
            self._ready = deque(each for each in self._ready if each is not link)
        link.stream.hang_up()


def _is_over(stream: TlsStream) -> bool:
    """Whether the other end has hung up already, though nobody has read so far yet."""
    probe = select.poll()
    probe.register(stream.fileno(), _FAILED)
    return bool(probe.poll(0))
