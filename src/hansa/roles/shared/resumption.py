"""How a member of a coopetitive run gets into a later epoch: what it claims, checks, signs and keeps. No I/O."""

from __future__ import annotations

import hashlib

from hansa.errors import ProtocolError, StateError
from hansa.mpc.replicated import Server
from hansa.plan import Plan
from hansa.protocol.messages import Claim, CountProbes, Resume, TrainingSetup, encode
from hansa.roles.key_setup import Signer
from hansa.roles.run import Resumed
from hansa.roles.shared.checkpoints import (
    STARTED,
    agree,
    check_before,
    first_claim,
    started,
)
from hansa.roles.shared.journal import SharedJournal
from hansa.roles.shared.round_keeper import RoundKeeper
from hansa.roles.summed.checkpoints import RESTORE, SIGNING_PURPOSE, Agreed, check_signatures
from hansa.secure.keys import RunNames

ANOTHER = "what was answered is asked for again word for word"


class Resumption:
    """One member's part in the beginning of an epoch.

    Args:
        plan: as every member holds it. name: this member. agreement: what all hold alike. signer: see `Signer`.
        journal: what was kept.
    """

    def __init__(self, plan: Plan, name: str, agreement: bytes, signer: Signer, journal: SharedJournal) -> None:
        self._plan = plan
        self._name = name
        self._agreement = agreement
        self._signer = signer
        self._journal = journal
        self._agreed: Agreed | None = None

    @property
    def epoch(self) -> int:
        """Of this process; 0 where the run begins."""
        return 0 if self._agreed is None else self._agreed.epoch

    @property
    def checkpoint(self) -> int:
        """From which the epoch goes on."""
        return 0 if self._agreed is None else self._agreed.checkpoint

    def resumed(self) -> Resumed:
        """What is told of the epoch."""
        rounds = self._plan.parameters.rounds
        return Resumed(trees=min(max(0, self.checkpoint - STARTED), rounds), rounds=rounds, epoch=self.epoch)

    def sign(self, message: Resume, claim: Claim | None) -> bytes:
        """Check everybody's claims; this member's signature over what follows from them.

        Args:
            claim: this member's own, as it sent it.

        Raises:
            StateError: a folder was put back, or is of another run. ProtocolError: the claims are none.
        """
        claims, journal = dict(message.claims), self._journal
        names = self._plan.participants
        if tuple(claims) != names or len(claims) != len(message.claims):
            raise ProtocolError(f"claims came of {sorted(claims)[:8]}; expected those of all members, sorted")
        if claims[self._name] != (claim or first_claim(message.run)):
            raise ProtocolError("this member's claim is shown as another one than it sent")
        if journal.roster != message.roster:
            raise StateError(
                "members joined with other rows or nonces than the run began with; give the same tables, or have every member remove "
                "its state folder and begin a new run",
                rule="a run goes on with the rows that it began with",
                cure=RESTORE,
            )
        agreed = agree(self._plan, self._agreement, message.run, message.epoch, claims)
        check_before(self._plan, agreed, journal.signed)
        self._agreed = agreed
        journal.take_epoch(agreed.epoch)
        return self._signer.sign(SIGNING_PURPOSE, agreed.signed_bytes())

    def begin(self, signatures: dict[str, bytes]) -> RunNames:
        """All signed: what the keys of the epoch are bound to, H(checkpoint | epoch) in place of the plan's hash, which it covers."""
        agreed = self._agreed
        assert agreed is not None  # `sign`
        self._journal.begin_epoch(check_signatures(agreed, signatures, self._signer))
        return RunNames(agreed.start(), agreed.run, agreed.epoch)

    def keeper(self, run: bytes, server: Server) -> RoundKeeper:
        """What keeps this server's rounds."""
        return RoundKeeper(self._plan, run, server, self._journal, self._agreed)

    def memory(self, run: bytes) -> Memory:
        """What this owner was asked before."""
        return Memory(run, self._journal, self._name in self._plan.servers)


class Memory:
    """See `roles.shared.owner.OwnerMemory`.

    Args:
        run: its id. journal: where it is kept. serves: this member is a server too, which keeps the start itself.
    """

    def __init__(self, run: bytes, journal: SharedJournal, serves: bool) -> None:
        self._run = run
        self._journal = journal
        self._serves = serves

    def take(self, step: int, message: CountProbes | TrainingSetup) -> None:
        """See `OwnerMemory`."""
        content = encode(message)
        if isinstance(message, TrainingSetup):
            step = -1
        digest = hashlib.sha256(content).digest()
        before = self._journal.asked(step)
        if before is None:
            self._journal.answer(step, digest)
            if step < 0 and not self._serves:
                self._journal.start(started(self._run, content), b"")
        elif before != digest:
            what = "start of training" if step < 0 else f"question {step} of the search for cuts"
            raise ProtocolError(
                f"the servers told another {what} than the one that was answered in an earlier epoch; rule: {ANOTHER}, since "
                "answers to two questions show more than one",
                rule=ANOTHER,
            )
