"""The hub of a coopetitive run: coordinates the set-up of keys, then passes sealed messages on. No I/O: frames in, frames out.

It holds no key of the run. It learns who takes part with how many rows, and who writes to whom, when, and how much: all of which
follows from the plan and the roster. Where the plan gives the hub's member other roles too, they are to it a member like any other
(`roles.shared.member`), whose sealed messages it can read no more than others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from hansa.errors import ProtocolError, RunStopped
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    Abort,
    AnnounceKey,
    Close,
    ConfirmKeys,
    Done,
    Join,
    Message,
    Relay,
    Welcome,
)
from hansa.protocol.session import HUB, Session
from hansa.roles.registration import Registration
from hansa.roles.run import Progress, Registered, Roster, agreement, agreement_parts, run_id
from hansa.transport.channel import Frame

Outgoing = Iterator[tuple[str, Frame]]


class RelayHub:
    """The hub's side of a run.

    Args:
        plan: as every member holds it. identities: every member's pinned identity, as the members hold them.
        report: called with the run's progress, as far as the hub knows it.

    Attributes:
        done: whether every member is through. roster: who takes part, once all have joined. run: the run's id.
        relayed: bytes of sealed messages passed on, by (sender, receiver).
    """

    def __init__(
        self, plan: Plan, identities: Mapping[str, bytes], report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        self.done = False
        self.roster: Roster = ()
        self.run = b""
        self.relayed: dict[tuple[str, str], int] = {}
        self._plan = plan
        self._report = report
        self._members = plan.participants
        self._agreement = agreement(plan, identities)
        self._session = Session("hub", HUB, "registering")
        self._registration = Registration(
            self._members, plan.parties, self._agreement, agreement_parts(plan, identities)
        )
        self._through: set[str] = set()

    @property
    def parties(self) -> tuple[str, ...]:
        """Who takes part."""
        return self._members

    def waiting_for(self) -> list[str]:
        """The members whose next frame is owed."""
        match self._session.state:
            case "registering":
                done = set(self._registration.joins)
            case "keying":
                done = set(self._registration.keys)
            case "confirming":
                done = set(self._registration.tags)
            case _:
                done = self._through
        return sorted(set(self._members) - done)

    def has_left(self, member: str) -> bool:  # noqa: ARG002
        """Nobody may hang up before the run is closed."""
        return False

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Take one frame of a member; yields (member, frame) to send.

        Raises:
            ProtocolError: the member broke a rule. HansaError: it stopped the run.
        """
        if member not in self._members:
            kind = messages.kind_of(member, frame).__name__
            raise ProtocolError(f"member {member!r} has no role in the plan, yet sent {kind}", member=member)
        message = self._session.decode(member, frame)
        match message:
            case Relay():
                yield self._relay(member, message), frame
            case Join():
                yield from self._join(member, message)
            case AnnounceKey():
                yield from self._announced(member, message)
            case ConfirmKeys():
                yield from self._confirmed(member, message)
            case Done():
                yield from self._closed(member, message)
            case Abort():
                self._session.go(message, "aborted")
                raise RunStopped(member, f"member {member!r} stopped the run: {message.reason}", retry=message.retry)
            case _:
                raise ProtocolError(
                    f"member {member!r} sent {type(message).__name__}, which no hub takes", member=member
                )

    def _relay(self, member: str, message: Relay) -> str:
        """Whom a sealed message goes to; the frame is passed on as it is, so the sender in it must be the one who sent it."""
        if message.sender != member:
            raise ProtocolError(
                f"member {member!r} sent a sealed message in the name of {message.sender[:63]!r}; rule: one's own name",
                member=member,
                rule="one's own name",
            )
        if message.receiver not in self._members or message.receiver == member or member in self._through:
            raise ProtocolError(
                f"member {member!r} sent a sealed message to {message.receiver[:63]!r}; expected another member, before its last word",
                member=member,
            )
        self._session.go(message, "relaying")
        ends = (member, message.receiver)
        self.relayed[ends] = self.relayed.get(ends, 0) + len(message.sealed)
        return message.receiver

    def _join(self, member: str, message: Join) -> Outgoing:
        complete = self._registration.join(member, message)
        self._session.go(message, "keying" if complete else "registering")
        if complete:
            self.roster = self._registration.roster
            self.run = run_id(self._agreement, self.roster)
            self._report(Registered(trees=0, rounds=self._plan.parameters.rounds))
            yield from self._broadcast(Welcome(self.run, self.roster))

    def _announced(self, member: str, message: AnnounceKey) -> Outgoing:
        exchange = self._registration.announced(member, message)
        self._session.go(message, "keying" if exchange is None else "confirming")
        if exchange is not None:
            yield from self._broadcast(exchange)

    def _confirmed(self, member: str, message: ConfirmKeys) -> Outgoing:
        told = self._registration.confirmed(member, message)
        self._session.go(message, "relaying" if told else "confirming")
        for name, tags in told.items():
            yield name, messages.encode(tags)

    def _closed(self, member: str, message: Done) -> Outgoing:
        if member in self._through:
            raise ProtocolError(f"member {member!r} sent its last message twice", member=member)
        self._through.add(member)
        complete = len(self._through) == len(self._members)
        self._session.go(message, "finished" if complete else "relaying")
        if complete:
            yield from self._broadcast(Close())
            self.done = True

    def _broadcast(self, message: Message) -> Outgoing:
        frame = messages.encode(message)
        for name in self._members:
            yield name, frame
