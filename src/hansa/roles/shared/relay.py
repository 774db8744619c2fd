"""The hub of a coopetitive run: coordinates the set-up of keys, then passes sealed messages on. No I/O: frames in, frames out.

It holds no key of the run. It learns who takes part with how many rows, and who writes to whom, when, and how much: all of which
follows from the plan and the roster. Where the plan gives the hub's member other roles too, they are to it a member like any other
(`roles.shared.member`), whose sealed messages it can read no more than others'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from hansa.errors import MemberLost, ProtocolError, RunStopped, StateError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    Abort,
    AnnounceKey,
    CheckpointSigned,
    Close,
    ConfirmKeys,
    Done,
    Join,
    Message,
    Relay,
    Resume,
    SignCheckpoint,
    Welcome,
)
from hansa.protocol.session import HUB, Session
from hansa.roles.registration import Registration
from hansa.roles.run import Progress, Registered, Roster, agreement, agreement_parts, run_id
from hansa.roles.shared.checkpoints import agree, first_claim
from hansa.roles.summed.checkpoints import RESTORE
from hansa.transport.channel import Frame

Outgoing = Iterator[tuple[str, Frame]]


class RelayHub:
    """The hub's side of a run.

    Args:
        plan: as every member holds it. identities: every member's pinned identity, as the members hold them.
        report: called with the run's progress, as far as the hub knows it.

    Attributes:
        done: whether every member is through. roster: who takes part, once all have joined. run: the run's id.
        began: whether an epoch began: all keys were confirmed. away: members that left and that the run goes on without for now.
        relayed: bytes of sealed messages passed on, by (sender, receiver).
    """

    def __init__(
        self, plan: Plan, identities: Mapping[str, bytes], report: Callable[[Progress], None] = lambda _: None
    ) -> None:
        self.done = self.began = False
        self.away: set[str] = set()
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
        self._beginning = Beginning(plan, self._members, self._agreement)
        self._survives = plan.on_dropout == "wait"

    @property
    def parties(self) -> tuple[str, ...]:
        """Who takes part."""
        return self._members

    def waiting_for(self) -> list[str]:
        """The members whose next frame is owed."""
        match self._session.state:
            case "registering":
                done = set(self._registration.joins)
            case "signing":
                done = set(self._beginning.signatures)
            case "keying":
                done = set(self._registration.keys)
            case "confirming":
                done = set(self._registration.tags)
            case _:
                done = self._through
        return sorted(set(self._members) - done)

    def has_left(self, member: str) -> bool:
        """Whether the run goes on without a member whose connection ended: where it survives, and the member may have nothing to do.

        Whoever is through has not. Nor has who is no server, until something is to be told to it: then the run pauses. It is `away`
        from here on.
        """
        idle = member in self._through or member not in self._plan.servers
        if not (self._survives and self.began and idle):
            return False
        self.away.add(member)
        return True

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
            case Join() if self._session.state == "registering":
                yield from self._join(member, message)
            case Join():
                self._back(member, message)
            case SignCheckpoint():
                signed = self._beginning.sign(member, message)
                self._session.go(message, "signing" if signed is None else "keying")
                if signed is not None:
                    yield from self._broadcast(signed)
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
        if message.receiver in self.away:
            raise MemberLost(message.receiver, "is not here, and something is to be told to it")
        self._session.go(message, "relaying")
        ends = (member, message.receiver)
        self.relayed[ends] = self.relayed.get(ends, 0) + len(message.sealed)
        return message.receiver

    def _join(self, member: str, message: Join) -> Outgoing:
        complete = self._registration.join(member, message)
        if not complete:
            self._session.go(message, "registering")
            return
        self.roster = self._registration.roster
        run = run_id(self._agreement, self.roster)
        resume = self._beginning.resume(run, self.roster, self._registration.joins)
        self.run = run
        self._session.go(message, "keying" if resume is None else "signing")
        self._report(Registered(trees=0, rounds=self._plan.parameters.rounds))
        yield from self._broadcast(Welcome(run, self.roster) if resume is None else resume)

    def _back(self, member: str, message: Join) -> None:
        """A member that left is here again: one that is through waits for the end, another one is to get keys of a new epoch."""
        if member not in self.away:
            raise ProtocolError(f"member {member!r} joined twice", member=member)
        self._session.go(message, self._session.state)
        self.away.discard(member)
        if member not in self._through:
            raise MemberLost(member, "is here again, and has no keys of this epoch")

    def _announced(self, member: str, message: AnnounceKey) -> Outgoing:
        exchange = self._registration.announced(member, message)
        self._session.go(message, "keying" if exchange is None else "confirming")
        if exchange is not None:
            yield from self._broadcast(exchange)

    def _confirmed(self, member: str, message: ConfirmKeys) -> Outgoing:
        told = self._registration.confirmed(member, message)
        self._session.go(message, "relaying" if told else "confirming")
        self.began = bool(told)
        for name, tags in told.items():
            yield name, messages.encode(tags)

    def _closed(self, member: str, message: Done) -> Outgoing:
        if member in self._through:
            raise ProtocolError(f"member {member!r} sent its last message twice", member=member)
        self._through.add(member)
        complete = len(self._through) == len(self._members)
        self._session.go(message, "finished" if complete else "relaying")
        if complete:
            self.done = True
            yield from self._broadcast(Close())

    def _broadcast(self, message: Message) -> Outgoing:
        frame = messages.encode(message)
        for name in self._members:
            if name not in self.away:
                yield name, frame


class Beginning:
    """How a later epoch of a run begins at the hub, which passes on what members claim and sign, and checks it first.

    Args:
        plan: as every member holds it. members: who takes part. agreement: what all hold alike.

    Attributes:
        signatures: what has come, by member.
    """

    def __init__(self, plan: Plan, members: tuple[str, ...], agreement: bytes) -> None:
        self.signatures: dict[str, bytes] = {}
        self._plan = plan
        self._members = members
        self._agreement = agreement

    def resume(self, run: bytes, roster: Roster, joins: Mapping[str, Join]) -> Resume | None:
        """What all are told where a run goes on; None where it begins: nobody has a state of it. Raises StateError naming a member."""
        kept = {name: join.claim for name, join in sorted(joins.items()) if join.claim is not None}
        if not kept:
            return None
        without = [name for name in self._members if name not in kept]
        other = next((claim.run for claim in kept.values() if claim.run != run), None)
        if other is not None and without:
            raise StateError(
                f"member {without[0]!r} has no state of run {other.hex()[:8]}, which {', '.join(kept)} would go on with; {RESTORE}",
                member=without[0],
                rule="all members go on with one run",
                cure=RESTORE,
            )
        claims = {name: kept.get(name) or first_claim(run) for name in self._members}
        epoch = 1 + max(claim.epoch for claim in claims.values())
        agree(self._plan, self._agreement, run, epoch, claims)
        return Resume(run, epoch, tuple(claims.items()), roster)

    def sign(self, member: str, message: SignCheckpoint) -> CheckpointSigned | None:
        """Take a member's signature, which every member checks; all of them, once they are here."""
        if member in self.signatures:
            raise ProtocolError(f"member {member!r} signed the checkpoint twice", member=member)
        self.signatures[member] = message.signature
        complete = len(self.signatures) == len(self._members)
        return CheckpointSigned(dict(sorted(self.signatures.items()))) if complete else None


class Closing:
    """The hub's role once all members are through: to tell those who were away that the run is over.

    Args:
        run: its id. away: who was not told yet.
    """

    def __init__(self, run: bytes, away: Iterable[str]) -> None:
        self.run = run
        self.parties: tuple[str, ...] = ()
        self._away = set(away)

    @property
    def done(self) -> bool:
        """Whether all were told."""
        return not self._away

    def waiting_for(self) -> list[str]:
        """Who was not told yet."""
        return sorted(self._away)

    def has_left(self, member: str) -> bool:  # noqa: ARG002
        """Whoever was told hangs up."""
        return True

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Answer a member that joins again."""
        if messages.kind_of(member, frame) is Join:
            yield member, messages.encode(Close())
            self._away.discard(member)
