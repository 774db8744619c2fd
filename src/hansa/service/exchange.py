"""Proposals, approvals and rejections between the services of one consortium, over the hub's port.

Each service keeps them in a folder (`proposals`). A process of its own holds the connection, with this member's TLS key, which the
service itself does not read: the hub's service takes what members send and passes on what is new to those with a role in the plan.
A plan that gives the hub's member no role is not sent to it, and so goes by files. A frame is one signed statement, as its file has
it, so the hub can neither change one nor make one; it can keep one back, as whoever carries files can. Every receiver checks it as a
file that a person brought. Frames and bytes of each peer are bounded; what is more is not taken, for a while.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from hansa.consortium.approvals import proposal_of
from hansa.consortium.envelopes import envelope_of
from hansa.consortium.identity import Identity
from hansa.errors import HansaError, MemberLost, TransportError
from hansa.files import read_whole
from hansa.node import logs
from hansa.service.config import Consortium
from hansa.service.proposals import take
from hansa.transport.credentials import Credentials
from hansa.transport.proxy import Proxy
from hansa.transport.tcp import OpenListener
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from hansa.transport.tls_links import HubLimits

VERSION: Final = "hansa-exchange-1"
MOST_STATEMENT_BYTES = 8 * 2**20
"""Of one frame: a plan with cuts for a thousand features has 5 MB, in base64 7 MB."""

MOST_FRAMES, MOST_BYTES, WINDOW_S = 2000, 512 * 2**20, 3600.0
"""That are taken from one peer in so many seconds."""

LOOK_S = 1.0
"""Seconds between two looks at the folder."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Between two dials of a hub that is not there, or refuses."""

SENT_S = 10.0
"""Seconds that a member may take nothing of what is sent to it."""

_ROUTE_DIGITS = 32
_SUFFIX = ".exchange.hansa"


def route_of_exchange(consortium: Consortium) -> str:
    """The name by which a consortium's exchange is known in the clear at the hub's port."""
    standing = consortium.members.standing
    told = bytes.fromhex(standing.founded) if standing is not None else consortium.members.digest()
    return hashlib.sha256(b"hansa exchange\0" + told).hexdigest()[:_ROUTE_DIGITS] + _SUFFIX


@dataclass
class Budget:
    """What is still taken from one peer; `clock` gives seconds."""

    clock: Callable[[], float] = time.monotonic
    _since: float = field(default=float("-inf"), init=False)
    _frames: int = field(default=0, init=False)
    _bytes: int = field(default=0, init=False)

    def takes(self, size: int) -> bool:
        """Whether one more frame of this size is taken; it counts."""
        if self.clock() - self._since >= WINDOW_S:
            self._since, self._frames, self._bytes = self.clock(), 0, 0
        self._frames += 1
        self._bytes += size
        return not self.spent

    @property
    def spent(self) -> bool:
        """Whether the peer has sent all that it may for now."""
        within = self.clock() - self._since < WINDOW_S
        return within and (self._frames > MOST_FRAMES or self._bytes > MOST_BYTES)


@dataclass
class Outbox:
    """What of a folder goes to others: each file once to each peer, and again once it is another.

    Args:
        folder: of proposals.
    """

    folder: Path
    _sent: dict[str, dict[str, tuple[int, int, int]]] = field(default_factory=dict)
    _roles: dict[str, frozenset[str]] = field(default_factory=dict)

    def due(self, peer: str) -> list[bytes]:
        """Statements that this peer has not got yet, on plans that give it a role, proposals before their rejections."""
        sent = self._sent.setdefault(peer, {})
        found = []
        for path in sorted(self.folder.glob("*.json"), key=lambda path: (len(path.name), path.name)):
            try:
                state = path.stat()
                changed = (state.st_mtime_ns, state.st_ino, state.st_size)  # two writes may have one time
                if sent.get(path.name) == changed:
                    continue
                content = read_whole(path, MOST_STATEMENT_BYTES)
            except (OSError, ValueError):
                continue  # taken away, or too large to be carried
            sent[path.name] = changed
            if peer in self._members(path.name[:64], path, content):
                found.append(content)
        return found

    def forget(self, peer: str) -> None:
        """The peer is gone: at its next connection it gets all again."""
        self._sent.pop(peer, None)

    def _members(self, digest: str, path: Path, content: bytes) -> frozenset[str]:
        """Who has a role in the plan that a file is about; nobody where that cannot be told."""
        if digest not in self._roles and path.name == f"{digest}.json":
            try:
                proposal = proposal_of(envelope_of(content, str(path)), str(path))
            except HansaError:
                return frozenset()
            self._roles[digest] = frozenset(proposal.predicate.members)
        return self._roles.get(digest, frozenset())


@dataclass
class Exchange:
    """One consortium's exchange at this member, from its start until its members file is another.

    Args:
        consortium: whose; `exchange` names the hub. identity: this member's. folder: of proposals.
    """

    consortium: Consortium
    identity: Identity
    folder: Path
    _budgets: dict[str, Budget] = field(default_factory=dict)
    _refused: int = 0

    def __post_init__(self) -> None:
        self._outbox = Outbox(self.folder)
        self._read = self._changed()

    @property
    def credentials(self) -> Credentials:
        """What TLS needs. Raises IdentityError where the members file has another certificate of this member."""
        own = self.identity
        certificates = self.consortium.members.certificates()
        route, former = route_of_exchange(self.consortium), self.consortium.members.former_certificates()
        return Credentials(own.name, own.certificate, own.tls_key, certificates, (VERSION,), route, former)

    def serve(self, host: str, port: int, open_listener: OpenListener) -> None:
        """Be the hub, until the members file changes."""
        limits = HubLimits(frame_bytes=MOST_STATEMENT_BYTES, backlog_bytes=2 * MOST_STATEMENT_BYTES, send_s=SENT_S)
        hub = TlsHub.listen(self.credentials, host, port, limits=limits, open_listener=open_listener)
        try:
            while self._changed() == self._read:
                self.turn(hub, LOOK_S)
        finally:
            hub.close()

    def turn(self, hub: TlsHub, timeout_s: float) -> None:
        """One turn of the hub: what is new goes to members, and what they send is taken in."""
        for member in sorted(hub.joined):
            if self._budget(member).spent:
                hub.drop(member, "sent more statements than one member may; it may come back within the hour")
                self._outbox.forget(member)
                continue
            try:
                for content in self._outbox.due(member):
                    hub.send(member, content)
            except TransportError:
                self._outbox.forget(member)
        try:
            member, frame = hub.receive(timeout_s)
        except MemberLost as lost:
            self._outbox.forget(lost.member)
        except TransportError:
            return  # nobody said anything
        else:
            self._take(member, bytes(frame))

    def dial(self, host: str, port: int, proxy: Proxy | None) -> None:
        """Be a member that dials, until the members file changes; a hub that is away is dialled again."""
        hub, pause, told = self.consortium.exchange, FIRST_PAUSE_S, ""
        while self._changed() == self._read:
            try:
                channel = TlsChannel.connect(
                    self.credentials, hub, host, port, frame_limit=MOST_STATEMENT_BYTES, proxy=proxy
                )
                if told:
                    logs.note(logging.INFO, f"proposals go over {hub} again")
                pause, told = FIRST_PAUSE_S, ""
                self._talk(channel, hub)
            except TransportError as error:
                if str(error) != told:
                    logs.note(logging.WARNING, f"proposals cannot go over {hub}: {error}")
                told = str(error)
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    def _talk(self, channel: TlsChannel, hub: str) -> None:
        """Send and take until the connection ends. Raises TransportError."""
        try:
            while self._changed() == self._read and not self._budget(hub).spent:
                for content in self._outbox.due(hub):
                    channel.send(content)
                try:
                    frame = channel.receive(LOOK_S)
                except TransportError:
                    if not channel.is_open:
                        raise
                    continue  # nothing came
                self._take(hub, bytes(frame))
        finally:
            self._outbox.forget(hub)
            channel.close()

    def _budget(self, peer: str) -> Budget:
        return self._budgets.setdefault(peer, Budget())

    def _take(self, peer: str, content: bytes) -> None:
        """Take in what a peer sent; what is refused is told, and changes nothing."""
        if not self._budget(peer).takes(len(content)):
            return
        try:
            told = take(self.folder, self.consortium, content, f"a statement that {peer} sent")
        except HansaError as error:
            self._refused += 1
            if self._refused <= 20 or self._refused % 100 == 0:  # a flood must not become one of log lines
                logs.note(logging.WARNING, f"refused, {self._refused} so far: {error}")
        else:
            if told:
                logs.note(logging.INFO, told)

    def _changed(self) -> int:
        """When the members file was changed; 0 while it is away."""
        try:
            return self.consortium.members_path.stat().st_mtime_ns
        except OSError:
            return 0
