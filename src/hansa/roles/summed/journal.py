"""What members of the modes with an aggregator keep beside a run, so that it survives their processes. No I/O: what a journal must do.

A journal is on disk (`node.state`). Each method returns once what it was given would survive the end of the process, and raises
`OutputError` where it cannot: so nothing leaves a member that its journal does not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from hansa.plan import Plan
from hansa.protocol.messages import (
    Claim,
    CountCells,
    CountMagnitudes,
    CountResiduals,
    Mark,
    Message,
    QuantiseGradients,
    SetLeaves,
    SplitNodes,
    SumLabels,
    UseCuts,
    decode,
    kind_of,
)
from hansa.roles.run import Roster
from hansa.roles.summed.checkpoints import SignedCheckpoint
from hansa.roles.summed.outcome import Outcome
from hansa.roles.summed.snapshots import Setup, Snapshot
from hansa.trees.ensemble import Tree

BROADCASTS: tuple[type[Message], ...] = (
    CountMagnitudes,
    SumLabels,
    CountCells,
    CountResiduals,
    UseCuts,
    QuantiseGradients,
    SplitNodes,
    SetLeaves,
)
"""What a run's state follows from: requests that all parties receive alike, in every epoch."""


def is_checkpoint(plan: Plan, kind: type[Message], ends_trees: bool) -> bool:
    """Whether a checkpoint ends with a broadcast of this kind: the cuts, the last splits of trees that grew side by side, or a tree's
    leaves where they are told apart.

    Args:
        ends_trees: of splits, whether they are the last of all these trees.
    """
    if plan.parameters.quantiles:
        return kind in (UseCuts, SetLeaves)
    return kind is UseCuts or (kind is SplitNodes and ends_trees)


class Broadcast:
    """A frame of the aggregator, as journals look at it.

    Args:
        kind, frame: a broadcast, not that of a `ShowRows`. checkpoint: see `is_checkpoint`.
    """

    __slots__ = ("checkpoint", "frame", "kind")

    def __init__(self, kind: type[Message], frame: bytes, checkpoint: bool) -> None:
        self.kind = kind.__name__
        self.frame = frame
        self.checkpoint = checkpoint


def broadcast_in(plan: Plan, frame: bytes | memoryview) -> Broadcast | None:
    """The broadcast that a frame is, or None where it is none that a state follows from."""
    kind = kind_of(plan.hub, frame)
    if kind not in BROADCASTS:
        return None
    ends_trees = False
    if kind is SplitNodes:
        message = decode(plan.hub, frame)
        assert isinstance(message, SplitNodes)  # its kind
        ends_trees = not any(len(own.build_left.data) for own in message.trees)
    return Broadcast(kind, bytes(frame), is_checkpoint(plan, kind, ends_trees))


class Journal(Protocol):
    """What both sides keep."""

    @property
    def claim(self) -> Claim | None:
        """How far the run is; None before there is one."""

    @property
    def signed(self) -> SignedCheckpoint | None:
        """The last epoch's start; None in the first epoch."""

    @property
    def remaining(self) -> tuple[str, ...]:
        """The parties that are left, where some were left out; else empty."""

    def take_epoch(self, epoch: int) -> None:
        """Note that this member takes part in an epoch."""

    def begin_epoch(self, signed: SignedCheckpoint) -> None:
        """Keep what all members signed."""


class PartyJournal(Journal, Protocol):
    """A party's."""

    @property
    def nonce(self) -> bytes:
        """32 bytes, drawn once for the run, and kept before anything was sent."""

    @property
    def welcome(self) -> bytes:
        """The frame that the run began with."""

    def begin(self, run: bytes, welcome: bytes) -> None:
        """Keep how the run began."""

    def broadcast(self, number: int) -> tuple[str, bytes] | None:
        """Kind and frame of a broadcast that was answered, counted from 1; None where there is none."""

    def broadcasts(self, last: int) -> Iterator[tuple[bytes, bytes | None]]:
        """The frames 1 to `last`, each with the row counts that were shown after it."""

    def answer(self, mark: Mark, broadcast: Broadcast | None, shown: tuple[int, bytes] | None) -> None:
        """Keep a broadcast, whose answer is about to leave, where it is new; and the row counts shown after another."""

    def leave_out(self, remaining: tuple[str, ...], number: int) -> None:
        """Keep that the run goes on with these parties at most, and let broadcasts after this one go: a tree that was begun with a
        party that is left out is grown anew without it. One without the other would let a tree be asked for twice.
        """

    def refuse(self, number: int, frame: bytes) -> None:
        """Keep a broadcast that came in place of another one."""

    def finish(self, model: bytes | None) -> None:
        """Keep that the run is over, and the model of a receiver."""


class AggregatorJournal(Journal, Protocol):
    """An aggregator's."""

    @property
    def roster(self) -> Roster:
        """Of the run."""

    @property
    def setup(self) -> Setup:
        """Of the run, from checkpoint 1 on."""

    @property
    def outcome(self) -> tuple[Outcome, bytes, set[str]] | None:
        """What the run gave, the last row counts, and who has it; None before the end."""

    def begin(self, run: bytes, roster: Roster) -> None:
        """Keep how the run began; what an earlier run left goes."""

    def checkpoint(
        self, mark: Mark, broadcast: Broadcast, snapshot: Snapshot, setup: Setup | None, trees: Sequence[Tree]
    ) -> None:
        """Keep a checkpoint that was just told, with the set-up or the trees that it ends."""

    def keep_remaining(self, remaining: tuple[str, ...]) -> None:
        """Keep that the run goes on with these parties at most, before they are told."""

    def forget_after(self, checkpoint: int) -> None:
        """Let later checkpoints go."""

    def kept(self, checkpoint: int) -> tuple[Snapshot, list[Tree], tuple[str, bytes]]:
        """What was kept of the last checkpoint: the state, the trees, the last broadcast. Raises StateError."""

    def finish(self, outcome: Outcome, counts: bytes) -> None:
        """Keep the model, which is about to be told, and the last row counts."""

    def received(self, party: str) -> None:
        """Keep that a party has the end of the run."""
