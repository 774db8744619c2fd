"""A server's channel with connections of its own to the other two servers: their sealed messages need not pass the hub.

The messages and their seals are the same; only the way is shorter. All sealed messages between two servers take it, so they stay
in order. With a server that is the hub, the connection to the hub is the direct one. A hub that is no server then sees nothing of
the computation but its beginning and its end. No I/O of its own: it chooses among connections.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection

from hansa.errors import MemberLost, ProtocolError, TransportError
from hansa.protocol import messages
from hansa.protocol.messages import Abort, Done, KeysConfirmed, Relay
from hansa.transport.channel import Frame, Hub, Traffic

HELD_BYTES = 256 * 2**20
"""Of sealed messages that other servers may send before the hub's word that the keys are confirmed is here."""

ABORT_REASON_S = 5.0
"""Seconds that the hub has to say who ended the run, once a server hung up: that server may itself have lost another first."""


class DirectChannel:
    """A server's one channel, over its connections to the hub and to other servers. See `hansa.transport.channel.Channel`.

    Args:
        member: this server. hub: name of the hub. peers: the other servers, but for one that is the hub.
        links: connections to all of them; closed with this channel.
        clock: seconds that only ever rise, such as `time.monotonic`.
    """

    def __init__(self, member: str, hub: str, peers: Collection[str], links: Hub, clock: Callable[[], float]) -> None:
        self._member = member
        self._hub = hub
        self._peers = frozenset(peers)
        self._links = links
        self._clock = clock
        self._confirmed = False
        self._through = False
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._gone: set[str] = set()
        self._loss: MemberLost | None = None
        self._abort_reason_by = 0.0
        self._abort_reason: bytes | None = None

    @property
    def traffic(self) -> Traffic:
        """Bytes and frames of all connections, seen from this member."""
        total = Traffic()
        for traffic in self._links.traffic.values():
            total.bytes_up += traffic.bytes_down
            total.bytes_down += traffic.bytes_up
            total.frames_up += traffic.frames_down
            total.frames_down += traffic.frames_up
        return total

    def send(self, frame: Frame) -> None:
        """Send one frame: a sealed message to another server to that server, all else to the hub.

        A sealed message to a server that hung up goes nowhere; `receive` then says who ended the run.

        Raises:
            MemberLost: the hub is lost, and had not said that it stops the run: if it had, `receive` says so.
        """
        if self._abort_reason is not None:
            return
        message = messages.decode(self._member, frame)
        self._through = self._through or isinstance(message, Done)
        to = message.receiver if isinstance(message, Relay) and message.receiver in self._peers else self._hub
        if to in self._gone:
            return
        try:
            self._links.send(to, frame)
        except MemberLost as loss:
            self._note(loss)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Wait for the next frame.

        Sealed messages of other servers that overtake the hub's word that the keys are confirmed are kept until it is here.

        Raises:
            MemberLost: a connection ended before the run did, and the hub did not say in `ABORT_REASON_S` seconds who ended the run.
            TransportError: nothing came in `timeout` seconds.
            ProtocolError: another server sent what is no sealed message of its own to this one, or too much too early.
        """
        while True:
            if self._abort_reason is not None:
                return memoryview(self._abort_reason)
            if self._confirmed and self._held:
                return memoryview(self._held.popleft())
            try:
                sender, frame = self._links.receive(timeout if self._loss is None else self._left())
            except MemberLost as loss:
                # Whoever hangs up once this member is through has been told that all are.
                if not self._through:
                    self._note(loss)
                elif loss.member not in self._peers:
                    raise
                continue
            except TransportError:
                if self._loss is not None:
                    raise self._loss from None
                raise
            message = messages.decode(sender, frame)
            if sender == self._hub:
                self._confirmed = self._confirmed or isinstance(message, KeysConfirmed)
                return frame
            if not isinstance(message, Relay) or message.sender != sender or message.receiver != self._member:
                raise ProtocolError(
                    f"server {sender!r} sent {type(message).__name__} on its own connection to {self._member!r}; "
                    "rule: nothing but its own sealed messages to it",
                    member=sender,
                    rule="nothing but its own sealed messages to it",
                )
            if self._confirmed:
                return frame
            self._held_bytes += len(frame)
            if self._held_bytes > HELD_BYTES:
                raise ProtocolError(
                    f"server {sender!r} sent sealed messages before the keys were confirmed; {HELD_BYTES} bytes of them may wait",
                    member=sender,
                )
            self._held.append(bytes(frame))

    def _note(self, loss: MemberLost) -> None:
        """Keep the first loss of a server's connection; that of the hub, and of one who broke a rule, is raised.

        The hub may have stopped the run and hung up while this member was sending: its word is kept in place of the loss.
        """
        if loss.member == self._hub:
            stops = [frame for frame in loss.unread if isinstance(messages.decode(self._hub, frame), Abort)]
            self._abort_reason = stops[-1] if stops else None
        if self._abort_reason is not None:
            return
        if loss.member not in self._peers or not loss.broken:
            raise loss
        self._gone.add(loss.member)
        if self._loss is None:
            self._loss, self._abort_reason_by = loss, self._clock() + ABORT_REASON_S

    def _left(self) -> float:
        return max(0.0, self._abort_reason_by - self._clock())

    def close(self) -> None:
        """End all connections. Safe to call twice."""
        self._links.close()
