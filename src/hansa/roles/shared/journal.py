"""What members of a coopetitive run keep beside it, so that it survives their processes. No I/O: what a journal must do.

A journal is on disk (`node.shared_state`). Each method returns once what it was given would survive the end of the process, and raises
`OutputError` where it cannot: so nothing leaves a member that its journal does not know. What is secret to a server goes in as bytes,
and is sealed before it is written.
"""

from __future__ import annotations

from typing import Protocol

from hansa.protocol.messages import Claim, Mark
from hansa.roles.run import Roster
from hansa.roles.summed.checkpoints import SignedCheckpoint


class SharedJournal(Protocol):
    """Of a member, whatever its roles."""

    @property
    def nonce(self) -> bytes:
        """32 bytes, drawn once for the run, and kept before anything was sent."""

    @property
    def claim(self) -> Claim | None:
        """How far this member is; None before all members joined."""

    @property
    def roster(self) -> Roster:
        """Of the run; empty before all members joined."""

    @property
    def signed(self) -> SignedCheckpoint | None:
        """The last epoch's start; None in the first epoch."""

    def begin(self, run: bytes, roster: Roster) -> None:
        """Keep how the run began."""

    def take_epoch(self, epoch: int) -> None:
        """Note that this member takes part in an epoch."""

    def begin_epoch(self, signed: SignedCheckpoint) -> None:
        """Keep what all members signed."""

    def asked(self, step: int) -> bytes | None:
        """The digest of the servers' question that this owner answered in a step of the search for cuts; None where it has not."""

    def answer(self, step: int, digest: bytes) -> None:
        """Keep the digest of a question whose answer is about to leave."""

    def start(self, mark: Mark, setup: bytes, now: float = 0.0) -> None:
        """Keep the start of training: checkpoint 1. `now`: when it began."""

    def finish(self, model: bytes) -> None:
        """Keep the model of a receiver, which all receivers have."""

    @property
    def model(self) -> bytes | None:
        """The model of a receiver, once all receivers have it."""

    def withhold(self) -> None:
        """Keep that nobody gets the model, at a server and a receiver."""

    @property
    def withheld(self) -> bool:
        """Whether that was decided."""

    # --- of a server -----------------------------------------------------------------------------------------------------

    @property
    def setup(self) -> bytes:
        """The encoded `TrainingSetup`, from checkpoint 1 on; empty before."""

    @property
    def began(self) -> float:
        """When training began in its first epoch, in seconds of the clock that the server has, from checkpoint 1 on."""

    def keep(self, epoch: int, mark: Mark, content: bytes, grown: dict[int, bytes]) -> None:
        """Keep a checkpoint behind a round of boosting, or behind the last one; the one before it stays, earlier ones go.

        Args:
            content: what stands there but for trees. grown: round, from 0 -> its trees: the new ones, and in the first checkpoint of an
                epoch those of all rounds, whose shares are new.
        """

    def settle(self, mark: Mark) -> None:
        """Note that all servers have kept this checkpoint, which is this server's last one."""

    def kept(self, checkpoint: int) -> tuple[bytes, list[bytes]]:
        """What was kept at a checkpoint behind the start: its content, and every round's trees.

        Raises StateError where parts are missing or broken.
        """

    def forget_after(self, checkpoint: int) -> None:
        """Let later checkpoints go."""
