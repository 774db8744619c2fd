"""A server's part in surviving: keeps every round of boosting, and puts a run back where all three servers have it. No I/O.

After a round the servers show each other commitments to what they hold (`mpc.refresh.compare_copies`), keep it, and only then go on. On
return they compare what their folders gave, and give each other new parts of the same values: nothing is computed with parts that were
on a disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hansa.errors import StateError
from hansa.mpc.refresh import compare_copies
from hansa.mpc.replicated import Address, Program, Server, tell_others
from hansa.mpc.ring import ShareArray
from hansa.oblivious.growth import TreeShares
from hansa.oblivious.training import Halfway
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import Mark, TrainingSetup
from hansa.roles.shared.checkpoints import STARTED, last_checkpoint, round_kept, started, trained
from hansa.roles.shared.evaluation import History, Judged
from hansa.roles.shared.journal import SharedJournal
from hansa.roles.shared.snapshots import KeptArray, KeptMargins, KeptModel, KeptRound, RoundShares, decode, encode
from hansa.roles.summed.checkpoints import Agreed


@dataclass(frozen=True)
class GoneBack:
    """A checkpoint behind the start, with the shares in new parts.

    Attributes:
        rounds: of boosting that are done. shares: of them. content: what else was kept there.
    """

    rounds: int
    shares: RoundShares
    content: KeptMargins | KeptModel

    @property
    def halfway(self) -> Halfway:
        """Where training goes on."""
        return self.shares.halfway()

    @property
    def judged(self) -> Judged:
        """What evaluation had come to before the last round."""
        assert isinstance(self.content, KeptMargins)  # training goes on
        return self.shares.judged(self.content)

    @property
    def history(self) -> History:
        """The metrics that were opened before the last round."""
        return {name: list(values) for name, values in self.content.history.items()}


class RoundKeeper:
    """What one server keeps in one epoch.

    Args:
        plan: as every member holds it. run: its id. server: whose shares. journal: where they are kept.
        agreed: from where the epoch goes on; None in the first one.
    """

    def __init__(self, plan: Plan, run: bytes, server: Server, journal: SharedJournal, agreed: Agreed | None) -> None:
        self.epoch = 0 if agreed is None else agreed.epoch
        self._plan = plan
        self._run = run
        self._server = server
        self._journal = journal
        self._mark = Mark(0, run) if agreed is None else agreed.mark
        self._rewrites = False
        """Whether the next checkpoint is the first with this epoch's parts of earlier trees."""
        self._settled = True
        """Whether all servers have kept the last checkpoint, as far as this one was told."""
        if agreed is not None:
            journal.forget_after(agreed.checkpoint)

    @property
    def checkpoint(self) -> int:
        """The last one."""
        return self._mark.number

    @property
    def over(self) -> bool:
        """Whether training is over."""
        return self.checkpoint == last_checkpoint(self._plan)

    @property
    def setup(self) -> TrainingSetup:
        """The start, which was found in an earlier epoch. Raises StateError."""
        if started(self._run, self._journal.setup).chain != self._mark.chain and self.checkpoint == STARTED:
            raise StateError("the state folder has another start of training than all signed; restore it")
        message = messages.decode("the state folder", self._journal.setup)
        if not isinstance(message, TrainingSetup):
            raise StateError("the state folder lacks the start of training; restore it")
        return message

    def start(self, setup: TrainingSetup, now: float) -> None:
        """Training may begin, and does `now`."""
        content = messages.encode(setup)
        self._mark = started(self._run, content)
        self._journal.start(self._mark, content, now)

    @property
    def began(self) -> float:
        """When training began in its first epoch."""
        return self._journal.began

    def keep(self, halfway: Halfway, judged: Judged, history: History) -> Program[None]:
        """A round is over: compare its shares with the other servers' copies, and keep them. One round of messages."""
        outputs, number = len(halfway.margins), len(halfway.flags) - 1
        grown, flags = halfway.trees[-outputs:], halfway.flags[-1]
        address = Address(self.epoch, number, 0, "kept")
        held = [judged.margins] if judged.margins.size else []
        best = [] if judged.best is None else [judged.best]
        shares = [*halfway.margins, *held, *best, *flags, *(array for tree in grown for array in _arrays(tree))]
        commitments = yield from compare_copies(self._server, shares, address)
        self._mark = round_kept(self._mark, commitments)
        content = KeptMargins(
            tuple(KeptArray.of(own) for own in halfway.margins),
            KeptArray.of(judged.margins),
            None if judged.best is None else KeptArray.of(judged.best),
            judged.best_rounds,
            judged.asked,
            judged.without_value,
            tuple(judged.openings),
            frozen(history),
        )
        self._journal.keep(self.epoch, self._mark, encode(content), self._rounds(halfway, outputs))
        self._settled = False

    def settle(self) -> Program[None]:
        """Wait until all servers have kept the last round: then something of it may be opened. One round, a byte to each other."""
        yield from tell_others(self._server, np.ones(1, np.uint8), f"kept by all {self.checkpoint}")
        self._journal.settle(self._mark)
        self._settled = True

    def end(self, model: KeptModel, trees: Sequence[TreeShares], outputs: int) -> Program[None]:
        """Training is over, as all servers found alike; keep it, and wait until all have. One round of messages, or two.

        A server keeps two checkpoints, so none may be two ahead of another: all have kept the last round first.

        Args:
            trees: of all rounds, which have `outputs` each.
        """
        if not self._settled:
            yield from self.settle()
        self._mark = trained(self._plan, self._mark, model.rounds)
        grown: dict[int, bytes] = {}
        if self._rewrites:  # no round came in this epoch: nothing of it is kept yet
            grown = {n: _kept(trees[n * outputs :][:outputs], ()) for n in range(len(trees) // outputs)}
        self._rewrites = False
        self._journal.keep(self.epoch, self._mark, encode(model), grown)
        yield from self.settle()

    def _rounds(self, halfway: Halfway, outputs: int) -> dict[int, bytes]:
        """The trees to write: of the last round, or in the first checkpoint of an epoch of all."""
        last = len(halfway.flags) - 1
        first = 0 if self._rewrites else last
        self._rewrites = False
        return {
            number: _kept(halfway.trees[number * outputs :][:outputs], halfway.flags[number])
            for number in range(first, last + 1)
        }

    def go_back(self) -> Program[GoneBack]:
        """What was kept at the checkpoint, in new parts. Two rounds of messages.

        Raises:
            ServersDisagree: a server brought back something else than it shared with another. StateError: see `SharedJournal.kept`.
        """
        raw, rounds = self._journal.kept(self.checkpoint)
        content: KeptMargins | KeptModel = decode(raw, KeptModel) if self.over else decode(raw, KeptMargins)
        if len(rounds) != self.checkpoint - STARTED and not self.over:
            raise StateError(f"the state folder has {len(rounds)} rounds at checkpoint {self.checkpoint}; restore it")
        trees: list[TreeShares] = []
        flags = []
        for own in rounds:
            grown, beyond = decode(own, KeptRound).shares()
            trees += grown
            flags.append(beyond)
        if isinstance(content, KeptMargins):
            held = content.held.array()
            best = None if content.best is None else content.best.array()
            margins = [array.array() for array in content.margins]
            shares = RoundShares(trees, flags, margins, held if held.size else None, best)
        else:
            metric = None if content.metric_share is None else content.metric_share.array()
            shares = RoundShares(trees, flags, [], None, metric)
        address = Address(self.epoch, 0, 0, "gone back")
        arrays = [array for of_ring in shares.arrays().values() for array in of_ring]
        yield from compare_copies(self._server, arrays, address)
        fresh = yield from shares.refreshed(self._server, address.named("refreshed"))
        self._rewrites = True
        return GoneBack(len(rounds), fresh, content)


def _kept(trees: Sequence[TreeShares], flags: Sequence[ShareArray]) -> bytes:
    return encode(KeptRound.of(trees, flags))


def _arrays(tree: TreeShares) -> list[ShareArray]:
    return [*tree.splits, tree.leaves, *(() if tree.covers is None else (tree.covers,))]


def frozen(history: History) -> dict[str, tuple[tuple[int, float | None], ...]]:
    """A history as snapshots have it."""
    return {name: tuple(values) for name, values in history.items()}
