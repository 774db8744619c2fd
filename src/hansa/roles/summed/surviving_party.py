"""A party with a state folder: `Party`, and what makes a run survive the end of any process. No I/O: frames in, frames out.

Everything that a party knows follows from its rows and from the broadcasts of the aggregator. So the journal keeps the broadcasts, each
before its answer leaves, and a process that starts again takes them in again, up to the checkpoint that all members sign
(`checkpoints`). Only the answer to the last of them is made anew, and leaves under the keys of the new epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from hansa.errors import ProtocolError, StateError, blaming
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    Abort,
    CheckpointSigned,
    ExchangeKeys,
    Finish,
    KeysCommitted,
    KeysConfirmed,
    Mark,
    Resume,
    ShowRows,
    SignCheckpoint,
    Welcome,
)
from hansa.protocol.session import RESUMING_PARTY, Session
from hansa.roles.key_setup import Signer
from hansa.roles.run import Progress, Resumed
from hansa.roles.summed.checkpoints import (
    RESTORE,
    SIGNING_PURPOSE,
    Agreed,
    Promises,
    agree,
    check_before,
    check_signatures,
    left_out,
    link,
    rewound,
    signers_of,
    start_of_chain,
)
from hansa.roles.summed.journal import BROADCASTS, Broadcast, PartyJournal, is_checkpoint
from hansa.roles.summed.party import Party
from hansa.roles.summed.sum_masking import SumMasking
from hansa.roles.summed.verified_counts import Evidence
from hansa.secure.keys import RunNames


class SurvivingParty:
    """One party's side of a run that survives its process.

    Args:
        plan: as every member holds it. name: this party. party: its role, made with the journal's nonce.
        journal: what was kept of the run, if it began. signer: as for `Party`. report: told of a later epoch.

    Attributes:
        left_out: the plan's parties that the run goes on without.
        began: whether an epoch began in this process. done, run, model, evidence, masked_bytes: those of `Party`.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        party: Party,
        journal: PartyJournal,
        signer: Signer,
        report: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.began = False
        self._plan = plan
        self._name = name
        self._party = party
        self._journal = journal
        self._signer = signer
        self._report = report
        self._claim = journal.claim
        self._session = Session("party", RESUMING_PARTY, "joining")
        self._agreed: Agreed | None = None
        self._promises: Promises | None = None
        self._masking: SumMasking | None = None
        self._at = Mark(0, b"")
        self._promised = True
        self.left_out = tuple(own for own in plan.parties if own not in (journal.remaining or plan.parties))

    @property
    def done(self) -> bool:
        """Whether the run is over."""
        return self._party.done

    @property
    def run(self) -> bytes:
        """The run's id, once known."""
        return self._party.run or (b"" if self._claim is None else self._claim.run)

    @property
    def model(self) -> bytes | None:
        """The XGBoost JSON, once received."""
        return self._party.model

    @property
    def withheld(self) -> bool:
        """See `Party`."""
        return self._party.withheld

    @property
    def shap(self) -> dict[str, float]:
        """See `Party`."""
        return self._party.shap

    @property
    def evidence(self) -> Evidence | None:
        """See `Party`."""
        return self._party.evidence

    @property
    def masked_bytes(self) -> int:
        """See `Party`."""
        return self._party.masked_bytes

    def opening(self) -> Iterator[bytes]:
        """The frames that a party sends before it is asked anything."""
        join = self._party.join
        yield messages.encode(replace(join, claim=self._claim))

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """Answer one frame of the aggregator, as `Party.handle`; nothing leaves that the journal does not know.

        Raises:
            StateError: a state folder was put back, or is of another run. OutputError: the journal cannot be written.
            ProtocolError, HansaError: as `Party.handle`.
        """
        try:
            yield from self._take(frame) if self._session.state == "resumed" else self._begin(frame)
        except Exception:
            self.erase()
            raise

    def erase(self) -> None:
        """Zero all keys. Safe to call twice."""
        self._party.erase()
        if self._masking is not None:
            self._masking.erase()

    def _begin(self, frame: memoryview) -> Iterator[bytes]:
        """The first frames of an epoch."""
        aggregator = self._plan.aggregator
        message = self._session.decode(aggregator, frame)
        match message:
            case Abort():
                yield from self._party.handle(frame)
            case Welcome():
                self._session.go(message, "resumed")
                yield from self._welcome(frame)
            case Resume():
                self._session.go(message, "resuming")
                yield self._resume(message)
            case CheckpointSigned():
                yield from self._signed(message)
            case KeysCommitted() if self._masking is not None:
                self._session.go(message, "committed")
                with blaming(aggregator):
                    announced = self._masking.committed(message)
                yield messages.encode(announced)
            case ExchangeKeys() if self._masking is not None:
                self._session.go(message, "keyed")
                with blaming(aggregator):
                    confirmed = self._masking.exchange(message)
                yield messages.encode(confirmed)
            case KeysConfirmed() if self._masking is not None:
                self._session.go(message, "resumed")
                with blaming(aggregator):
                    self._masking.confirm(message)
                yield from self._go_on()
            case Finish() | ShowRows():
                self._session.go(message, "resumed")
                yield from self._released(message, frame)
            case _:
                raise self._broken(f"{type(message).__name__} came at the start of an epoch")

    def _welcome(self, frame: memoryview) -> Iterator[bytes]:
        """The run begins: for the first time, or again where nobody has gone further than to join."""
        claim = self._claim
        if claim is not None:
            answered = 1 if self._plan.mode == "federated" else 0
            if claim.checkpoint > 0 or claim.now.number > answered or bytes(frame) != self._journal.welcome:
                raise StateError(
                    f"member {self._plan.aggregator!r} begins a run, and this party's state folder has run {claim.run.hex()[:8]} at "
                    f"checkpoint {claim.checkpoint}, which is not over: {RESTORE}",
                    member=self._plan.aggregator,
                    cure=RESTORE,
                )
        answers = self._party.handle(frame)
        first = next(answers, None)
        if claim is None:
            self._journal.begin(self._party.run, bytes(frame))
        self._at = start_of_chain(self._party.run)
        self.began = True
        if first is not None:
            yield first
        yield from answers

    def _resume(self, message: Resume) -> bytes:
        """Check everybody's claims, and sign what follows from them."""
        claim, claims = self._claim, dict(message.claims)
        if claim is None:
            raise self._broken(f"run {message.run.hex()[:8]} is to go on, of which this party has no state")
        if len(claims) != len(message.claims) or self._name not in claims:
            raise self._broken(f"claims came of {sorted(claims)[:8]}; expected those of all members, once each")
        with blaming(self._plan.aggregator):
            known = self._journal.remaining or self._plan.parties
            self.left_out = left_out(self._plan, tuple(claims), known)
        if claims[self._name] != claim or message.run != claim.run:
            raise self._broken("this party's claim is shown as another one than it sent")
        with blaming(self._plan.aggregator):
            agreed = agree(self._party.join.plan, claim.run, message.epoch, claims)
        check_before(agreed, self._journal.signed)
        self._agreed = agreed
        signed = self._journal.signed
        before = signers_of(self._plan) if signed is None else tuple(name for name, _ in signed.agreed.claims)
        # Of other sums other splits come: what was answered with those who are left out is not asked again word for word.
        self._promised = tuple(claims) == before
        if self.left_out:
            if not agreed.checkpoint:
                raise self._broken("a party is left out before the cuts are known")
            welcome = messages.decode(self._plan.aggregator, self._journal.welcome)
            assert isinstance(welcome, Welcome)  # `begin`
            self._party.check_remaining(tuple(own for own in welcome.roster if own[0] not in self.left_out))
        if any(name in known for name in self.left_out):
            remaining = tuple(name for name in self._plan.parties if name in claims)
            self._journal.leave_out(remaining, agreed.mark.number)
        self._journal.take_epoch(agreed.epoch)
        return messages.encode(SignCheckpoint(self._signer.sign(SIGNING_PURPOSE, agreed.signed_bytes())))

    def _signed(self, message: CheckpointSigned) -> Iterator[bytes]:
        """All signed: the epoch begins, with keys of its own where sums are masked."""
        agreed = self._agreed
        assert agreed is not None  # the session's table
        masked = self._plan.mode != "federated"
        self._session.go(message, "agreed" if masked else "resumed")
        with blaming(self._plan.aggregator):
            self._journal.begin_epoch(check_signatures(agreed, message.signatures, self._signer))
        if not masked:
            yield from self._go_on()
            return
        names = RunNames(agreed.agreement, agreed.run, agreed.epoch)
        peers = tuple(name for name, _ in agreed.claims if name in self._plan.parties)
        vouches = self._plan.verify_counts != "off"
        self._masking = SumMasking(self._name, names, self._signer, peers, vouches, agreed.start())
        yield messages.encode(self._masking.opening())

    def _go_on(self) -> Iterator[bytes]:
        """Take in what was broadcast up to the checkpoint, and answer the last of it."""
        agreed = self._agreed
        assert agreed is not None  # `_signed`
        self._promises, self._at, self.began = Promises(agreed) if self._promised else None, agreed.mark, True
        number = agreed.mark.number
        last = self._journal.broadcast(number)
        before = self._journal.broadcasts(number - 1) if last else iter(())
        answers = self._party.resume(self._journal.welcome, before, last[1] if last else None, self._masking)
        first = next(answers, None)
        rounds = self._plan.parameters.rounds
        self._report(Resumed(trees=self._party.rounds_grown, rounds=rounds, epoch=agreed.epoch, left_out=self.left_out))
        if first is not None:
            yield first
        yield from answers

    def _released(self, message: Finish | ShowRows, frame: memoryview) -> Iterator[bytes]:
        """The run ended while this party was away: the model must be that of the broadcasts that it has."""
        if self._claim is None:
            raise self._broken("a run is said to be over that this party knows nothing of")
        self.began, self._at = True, self._claim.now
        kept = frame if isinstance(message, Finish) else memoryview(bytes(message.frame))
        for _ in self._party.resume(
            self._journal.welcome, self._journal.broadcasts(self._claim.head.number), None, None
        ):
            pass
        if isinstance(message, ShowRows):
            self._party.see_last_counts(bytes(message.words), bytes(message.signature))
        yield from self._take(kept)

    def _take(self, frame: memoryview) -> Iterator[bytes]:
        """A frame of an epoch that began: kept before its answer leaves, and refused where another one was answered in its place."""
        aggregator = self._plan.aggregator
        kind = messages.kind_of(aggregator, frame)
        inner: bytes | memoryview = frame
        shown: tuple[int, bytes] | None = None
        if kind is ShowRows:
            message = messages.decode(aggregator, frame)
            assert isinstance(message, ShowRows)  # its kind
            inner, shown = bytes(message.frame), (self._at.number, bytes(message.words))
            kind = messages.kind_of(aggregator, inner) if inner else ShowRows
        mark = self._at
        is_new = kind in BROADCASTS
        if is_new:
            mark = link(mark, kind.__name__, inner)
            # Behind what was answered before this process, nothing can be there.
            kept = self._claim is not None and mark.number <= self._claim.now.number
            before = self._journal.broadcast(mark.number) if kept else None
            is_new = before is None
            if before is not None and before != (kind.__name__, bytes(inner)):
                self._journal.refuse(mark.number, bytes(inner))
                raise rewound(aggregator, mark.number, "this party")
            if self._promises is not None:
                self._promises.check(mark, aggregator)
        answers = self._party.handle(frame)
        first = next(answers, None)
        if self._party.done or kind is Finish:
            self._journal.finish(self._party.model)
        elif is_new:
            # The party has read the broadcast by now, and need not be asked to do so again.
            checkpoint = is_checkpoint(self._plan, kind, self._party.trees_ended)
            self._journal.answer(mark, Broadcast(kind, bytes(inner), checkpoint), shown)
        elif shown is not None:
            self._journal.answer(mark, None, shown)
        self._at = mark
        if first is not None:
            yield first
        yield from answers

    def _broken(self, rule: str) -> ProtocolError:
        return ProtocolError(
            f"member {self._plan.aggregator!r} (aggregator) to {self._name!r}: {rule}",
            member=self._plan.aggregator,
            rule=rule,
        )
