"""An aggregator with a state folder: `Aggregator`, and what makes a run survive the end of any process. No I/O: frames in, frames out.

It keeps its state at every checkpoint (`snapshots`), after that was told: an aggregator that ended in between is one checkpoint behind,
as a party may be. The model is kept before it is told, so that whoever was away then can still get it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from hansa.errors import ProtocolError, RunStopped, StateError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    Abort,
    AnnounceKey,
    CheckpointSigned,
    Claim,
    CommitKey,
    ConfirmKeys,
    Finish,
    Join,
    Mark,
    Message,
    Received,
    Resume,
    ShowRows,
    SignCheckpoint,
)
from hansa.protocol.session import RELEASING_AGGREGATOR, RESUMING_AGGREGATOR, Session
from hansa.roles.key_setup import Signer
from hansa.roles.registration import Registration
from hansa.roles.run import Progress, Resumed, agreement, agreement_parts, run_id
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.checkpoints import (
    RESTORE,
    SIGNING_PURPOSE,
    Agreed,
    agree,
    check_before,
    check_signature,
    check_signatures,
    left_out,
    link,
    start_of_chain,
)
from hansa.roles.summed.journal import AggregatorJournal, Broadcast, broadcast_in
from hansa.roles.summed.verified_counts import SIGNING_PURPOSE as BROADCASTS_PURPOSE
from hansa.roles.summed.verified_counts import last_counts_bytes
from hansa.secure.mask_graph import is_drawn

Outgoing = Iterator[tuple[str, bytes]]


class SurvivingAggregator:
    """The aggregator's side of a run that survives its process.

    Args:
        plan: as every member holds it. aggregator: its role. journal: what was kept of the run, if it began.
        signer: this member's signature, and everybody's identity. report: told of a later epoch.
        present: the parties that the next epoch has, where others are left out; empty for those of the last one.

    Attributes:
        left_out: the plan's parties that the run goes on without.
        began: whether an epoch began in this process. done, run: as `Aggregator`'s.
        releasing: whether nothing is left to do but to tell the model to those who have not said that they have it.
    """

    def __init__(
        self,
        plan: Plan,
        aggregator: Aggregator,
        journal: AggregatorJournal,
        signer: Signer,
        report: Callable[[Progress], None] = lambda _: None,
        present: tuple[str, ...] = (),
    ) -> None:
        self.began = False
        self._plan = plan
        self._parties = present or journal.remaining or plan.parties
        self.left_out = tuple(name for name in plan.parties if name not in self._parties)
        self._aggregator = aggregator
        self._journal = journal
        self._signer = signer
        self._report = report
        self._drawn = is_drawn(len(self._parties))
        self._agreement = agreement(plan, signer.identities)
        parts = agreement_parts(plan, signer.identities)
        self._registration = Registration(
            self._parties, self._parties, self._agreement, parts, self._drawn and plan.verify_counts == "off"
        )
        self._frames: list[tuple[str, bytes]] = []
        self._signatures: dict[str, bytes] = {}
        self._agreed: Agreed | None = None
        self._mark = Mark(0, b"")
        self._told: tuple[Mark, Broadcast] | None = None
        self._last_counts = b""
        self._kept = 0  # trees that the journal has
        self._left: set[str] = set()
        kept = journal.outcome
        self.releasing = kept is not None
        if kept is not None:
            outcome, self._last_counts, received = kept
            aggregator.finish_again(outcome, received, self._parties)
            self._left = set(received)
        table, state = (RELEASING_AGGREGATOR, "releasing") if self.releasing else (RESUMING_AGGREGATOR, "registering")
        self._session = Session("aggregator", table, state)

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self._aggregator.done or self._left >= {*self._parties}

    @property
    def run(self) -> bytes:
        """The run's id, once known."""
        return self._aggregator.run

    @property
    def parties(self) -> tuple[str, ...]:
        """Who takes part."""
        return self._parties

    def waiting_for(self) -> list[str]:
        """The parties whose part is missing before the run can go on."""
        match self._session.state:
            case "registering":
                there = set(self._registration.joins)
            case "signing":
                there = set(self._signatures)
            case "committing":
                there = set(self._registration.commitments)
            case "keying":
                there = set(self._registration.keys)
            case "confirming":
                there = set(self._registration.tags)
            case "releasing":
                there = self._left
            case _:
                return self._aggregator.waiting_for()
        return sorted({*self._parties} - there)

    def has_left(self, member: str) -> bool:
        """Whether this party has acknowledged the end of the run."""
        return member in self._left or self._aggregator.has_left(member)

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Take one frame of a party; yields (member, frame) to send.

        Raises:
            StateError: a state folder was put back, is of another run, or is missing. OutputError: the journal cannot be written.
            ProtocolError, HansaError: as `Aggregator.handle`.
        """
        if self._session.state == "resumed":
            yield from self._pass(member, frame)
            return
        if member not in self._parties:
            raise ProtocolError(f"member {member!r} is not a party of the plan", member=member)
        message = self._session.decode(member, frame)
        match message:
            case Join() if self.releasing:
                self._session.go(message, "releasing")
                yield from self._release(member, message)
            case Received():
                self._session.go(message, "releasing")
                yield from self._pass(member, frame)
            case Join():
                yield from self._join(member, message, bytes(frame))
            case SignCheckpoint():
                yield from self._sign(member, message)
            case CommitKey():
                bound = self._registration.committed(member, message)
                self._session.go(message, "committing" if bound is None else "keying")
                if bound is not None:
                    yield from self._broadcast(bound)
            case AnnounceKey():
                exchange = self._registration.announced(member, message)
                self._session.go(message, "keying" if exchange is None else "confirming")
                if exchange is not None:
                    yield from self._broadcast(exchange)
            case ConfirmKeys():
                told = self._registration.confirmed(member, message)
                self._session.go(message, "resumed" if told else "confirming")
                for party, tags in told.items():
                    yield party, messages.encode(tags)
                if told:
                    yield from self._go_on()
            case Abort():
                raise RunStopped(member, f"party {member!r} stopped the run: {message.reason}", retry=message.retry)
            case _:
                raise ProtocolError(f"member {member!r} sent {type(message).__name__}", member=member)

    def _broadcast(self, message: Message) -> Outgoing:
        frame = messages.encode(message)
        yield from ((party, frame) for party in self._parties)

    # --- how an epoch begins ---------------------------------------------------------------------------------------------

    def _join(self, member: str, message: Join, frame: bytes) -> Outgoing:
        complete = self._registration.join(member, message)
        self._frames.append((member, frame))
        if not complete:
            self._session.go(message, "registering")
            return
        joins = self._registration.joins
        claims = {name: join.claim for name, join in sorted(joins.items()) if join.claim is not None}
        if self._begins_anew(claims):
            self._session.go(message, "resumed")
            yield from self._begin()
            return
        self._session.go(message, "signing")
        yield from self._resume(claims)

    def _begins_anew(self, claims: dict[str, Claim]) -> bool:
        """Whether the run begins with its first step: no party has gone further than to join. Raises StateError."""
        without = sorted({*self._parties} - set(claims))
        if not claims or not without:
            return not claims
        run = run_id(self._agreement, self._registration.roster)
        answered = 1 if self._plan.mode == "federated" else 0
        if all(c.run == run and c.checkpoint == 0 and c.now.number <= answered for c in claims.values()):
            return True
        known = next(iter(claims.values())).run.hex()[:8]
        raise StateError(
            f"member {without[0]!r} has no state of run {known}, which {', '.join(claims)} would go on with; {RESTORE}",
            member=without[0],
            rule="all members go on with one run",
            cure=RESTORE,
        )

    def _begin(self) -> Outgoing:
        for number, (member, frame) in enumerate(self._frames, 1):
            answers = self._aggregator.handle(member, memoryview(frame))
            first = next(answers, None)
            if number == len(self._frames):
                self._journal.begin(self._aggregator.run, self._registration.roster)
                self._mark, self.began = start_of_chain(self._aggregator.run), True
            if first is not None:
                yield from self._watched(first)
                for each in answers:
                    yield from self._watched(each)
        self._frames = []

    def _resume(self, claims: dict[str, Claim]) -> Outgoing:
        own, journal = self._journal.claim, self._journal
        run = next(iter(claims.values())).run
        if own is None or own.run != run:
            has = "no state" if own is None else f"the state of run {own.run.hex()[:8]}, and none"
            raise StateError(
                f"this aggregator has {has} of run {run.hex()[:8]}, which the parties would go on with; {RESTORE}",
                member=self._plan.aggregator,
                rule="all members go on with one run",
                cure=RESTORE,
            )
        if tuple(own for own in journal.roster if own[0] in self._parties) != self._registration.roster:
            raise StateError(
                f"the parties joined with other rows or nonces than run {run.hex()[:8]} began with; give the same tables, or have "
                "every member remove its state folder and begin a new run",
                suspects=self._parties,
                rule="a run goes on with the rows that it began with",
            )
        everybody = dict(sorted({**claims, self._plan.aggregator: own}.items()))
        epoch = 1 + max(claim.epoch for claim in everybody.values())
        if left_out(self._plan, tuple(everybody), journal.remaining or self._plan.parties):
            journal.keep_remaining(self._parties)
        agreed = agree(self._agreement, run, epoch, everybody)
        check_before(agreed, journal.signed)
        journal.take_epoch(epoch)
        self._agreed = agreed
        yield from self._broadcast(Resume(run, epoch, agreed.claims))

    def _sign(self, member: str, message: SignCheckpoint) -> Outgoing:
        agreed = self._agreed
        assert agreed is not None  # the session's table
        if member in self._signatures:
            raise ProtocolError(f"member {member!r} signed the checkpoint twice", member=member)
        check_signature(agreed, member, message.signature, self._signer)
        self._signatures[member] = message.signature
        if self._signatures.keys() < {*self._parties}:
            self._session.go(message, "signing")
            return
        masked = self._plan.mode != "federated"
        keying = "committing" if self._drawn else "keying"
        self._session.go(message, keying if masked else "resumed")
        own = self._signer.sign(SIGNING_PURPOSE, agreed.signed_bytes())
        signatures = dict(sorted({**self._signatures, self._plan.aggregator: own}.items()))
        self._journal.begin_epoch(check_signatures(agreed, signatures, self._signer))
        yield from self._broadcast(CheckpointSigned(signatures))
        if not masked:
            yield from self._go_on()

    def _go_on(self) -> Outgoing:
        """Stand where the checkpoint left the aggregator; the parties answer its last broadcast by themselves."""
        agreed = self._agreed
        assert agreed is not None  # `_sign`
        journal, self.began, self._mark = self._journal, True, agreed.mark
        journal.forget_after(agreed.checkpoint)
        if agreed.checkpoint > 0:
            snapshot, grown, last = journal.kept(agreed.checkpoint)
            self._aggregator.resume(journal.roster, journal.setup, snapshot, grown, last, agreed.start(), self._parties)
        rounds, per_round = self._plan.parameters.rounds, self._plan.parameters.trees_per_round
        self._kept = len(self._aggregator.trees)
        self._report(Resumed(trees=self._kept // per_round, rounds=rounds, epoch=agreed.epoch, left_out=self.left_out))
        if agreed.checkpoint == 0:
            for each in self._aggregator.start_over(journal.roster, agreed.start()):
                yield from self._watched(each)

    # --- an epoch --------------------------------------------------------------------------------------------------------

    def _pass(self, member: str, frame: memoryview) -> Outgoing:
        for each in self._aggregator.handle(member, frame):
            yield from self._watched(each)
        self._keep()
        if self._aggregator.has_left(member) and member not in self._left:
            self._left.add(member)
            self._journal.received(member)

    def _watched(self, outgoing: tuple[str, bytes]) -> Outgoing:
        """Note what is told to all, once: what the first party is told is what all are."""
        recipient, frame = outgoing
        if recipient == self._parties[0]:
            self._note(frame)
        yield outgoing

    def _note(self, frame: bytes) -> None:
        name = self._plan.aggregator
        inner: bytes = frame
        counts = b""
        if messages.kind_of(name, frame) is ShowRows:
            message = messages.decode(name, frame)
            assert isinstance(message, ShowRows)  # its kind
            inner, counts = bytes(message.frame), bytes(message.words)
        if not inner:
            return
        if messages.kind_of(name, inner) is Finish:
            outcome = self._aggregator.outcome
            assert outcome is not None  # it tells of the end
            self._journal.finish(outcome, counts)
            return
        broadcast = broadcast_in(self._plan, inner)
        if broadcast is None:
            return
        self._mark = link(self._mark, broadcast.kind, broadcast.frame)
        if broadcast.checkpoint:
            self._told = self._mark, broadcast

    def _keep(self) -> None:
        """Keep the checkpoint that was just told, where one was."""
        if self._told is None:
            return
        (mark, broadcast), self._told = self._told, None
        trees, before = self._aggregator.trees, self._kept
        setup = None if trees else self._aggregator.setup()
        self._journal.checkpoint(mark, broadcast, self._aggregator.snapshot(), setup, trees[before:])
        self._kept = len(trees)

    # --- after the end ---------------------------------------------------------------------------------------------------

    def _release(self, member: str, message: Join) -> Outgoing:
        """Tell a party that was away how the run ended; one that comes without a state of it has been told before."""
        claim = message.claim
        if claim is None or member in self._left:
            self._left.add(member)
            return
        if message.plan != self._agreement or claim.run != self.run:
            raise StateError(
                f"member {member!r} would go on with run {claim.run.hex()[:8]}; the last one here is {self.run.hex()[:8]}, which is "
                f"over; {RESTORE}",
                member=member,
                cure=RESTORE,
            )
        frame = self._aggregator.finish_for(member)
        if self._last_counts:
            signature = self._signer.sign(BROADCASTS_PURPOSE, last_counts_bytes(self.run, self._last_counts))
            shown = ShowRows(memoryview(self._last_counts), memoryview(b""), signature, memoryview(frame))
            frame = messages.encode(shown)
        yield member, frame
