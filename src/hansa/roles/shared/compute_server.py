"""A compute server: gets shares of rows, trains on shares with the two other servers, and releases the trees. No I/O.

It drives one program of `oblivious` (a generator of rounds). What a round sends leaves as a sealed message to each other server. The
program goes on once both messages of the round are here. A message of a round bears the name of its step: servers that are not at
the same step notice. Sizes are public and checked. What it opens stands in `mpc.openings`.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from hansa.data.quantiles import Cuts
from hansa.errors import ProtocolError, ServersDisagree
from hansa.mpc.replicated import Address, PairStreams, Program, Round, RoundArrays, Server, Shape, tell_others
from hansa.mpc.ring import ShareArray, words_for
from hansa.oblivious.base_score import pooled_sums, spread_exponent
from hansa.oblivious.growth import TreeShares
from hansa.oblivious.quantile_search import CutSearchOnShares
from hansa.oblivious.release import release
from hansa.oblivious.shared_rows import Block, RowShares, receive_rows
from hansa.oblivious.shared_vectors import VectorShares, receive_vector
from hansa.oblivious.training import SAFE_MARGIN, Halfway, train
from hansa.plan import Plan
from hansa.protocol.messages import (
    CountProbes,
    DecideRelease,
    Message,
    ReleaseTree,
    ShareCounts,
    ShareRows,
    TakeRows,
    to_array,
    to_tensor,
)
from hansa.roles.secure_channel import NAME_BYTES, SealedMessage
from hansa.roles.shared.checkpoints import STARTED
from hansa.roles.shared.evaluation import Evaluation, History, ReleaseMetric, reaches
from hansa.roles.shared.round_keeper import GoneBack, RoundKeeper, frozen
from hansa.roles.shared.server_threads import threads_of
from hansa.roles.shared.sharing import (
    Counts,
    TrainingStart,
    Values,
    categorical,
    coopetitive,
    declared_missing,
    given_start,
    given_values,
    has_spread,
    label_rows,
    n_label_sums,
    plan_cuts,
    square_of_mean,
    start_of,
    values_of,
)
from hansa.roles.shared.snapshots import KeptArray, KeptModel
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm
from hansa.trees.worker_pool import ALONE, WorkerPool

MOST_AHEAD = 8
"""Rounds that another server may be ahead: the dealer waits for nobody in up to five running."""

ALIGNMENT = 8
"""Every array of a round begins at a multiple of so many bytes."""


@dataclass(frozen=True)
class RoundMessage:
    """What a server says in one round to another: the step's name in 8 bytes, and the arrays' bytes."""

    name: bytes
    body: tuple[memoryview, ...]


Outgoing = Iterator[tuple[str, Message | RoundMessage]]

Keep = Callable[[Server], RoundKeeper]


def no_time() -> float:
    """The clock of a run without a deadline."""
    return 0.0


class Wait(Enum):
    """What a server may wait for beside the other servers' parts of a round."""

    COUNTS = "counts of every owner"
    ROWS = "rows of every owner"


T = TypeVar("T")
Trained = tuple[tuple[TreeShares, ...], ReleaseMetric | None]
"""The model's trees, and the metric that its release depends on, where it depends on one."""

Steps = Generator["Round | Wait | tuple[str, Message]", Any, T]
"""Part of a server's protocol, in the order of its steps. It yields a message to send; a round, which is answered with what the other
servers sent in it; or what it waits for, which is answered once it is all here."""


class ComputeServer:
    """One server's side of a run. `_protocol` has the order of its steps.

    Args:
        plan: as every member holds it. name: this member. counts: of every owner's rows.
        keys: the pair keys with the two other servers, by member. algorithm: of key streams.
        progress: called with the number of rounds that are over, the metrics that were opened after them (None for one that has no
            value), and why these have none.
        observe: called with the step of every round that is over, and the bytes that it sent.
        keep: makes what keeps the rounds of boosting, where the run survives its processes.
        clock: seconds, which go on while no process runs; asked where the plan has a deadline.
        pool: compute threads.

    Attributes:
        history: metric -> (rounds, value) wherever it was opened to this server; None for a value that it does not have.
        through: whether the trees were released, or it is decided that nobody gets them.
        withheld: whether nobody gets them. metric: of the plan's release, where its value decided.
        openings: what was opened to this server, in words: see `mpc.openings`.
        rounds: rounds of messages so far.
        cut: why fewer rounds are released than the plan says, where a margin left the range; else empty.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        counts: Counts,
        keys: Mapping[str, PairKey],
        algorithm: Algorithm,
        progress: Callable[[int, dict[str, float | None], dict[str, str]], None] = lambda _, __, ___: None,
        observe: Callable[[str, int], None] = lambda _, __: None,
        keep: Keep | None = None,
        clock: Callable[[], float] = no_time,
        pool: WorkerPool = ALONE,
    ) -> None:
        self.through = self.withheld = False
        self.metric: float | None = None
        self.openings: list[str] = []
        self.rounds = 0
        self.cut = ""
        self.index = plan.servers.index(name)
        self._plan = plan
        self._name = name
        self._servers = plan.servers
        self._counts = counts
        self._algorithm = algorithm
        self._progress = progress
        self._observe = observe
        self._bytes = 0
        by_index = {plan.servers.index(peer): key for peer, key in keys.items()}
        self._streams = PairStreams(self.index, by_index, algorithm)
        self._server = Server(self.index, self._streams, threads_of(pool))
        self.history: History = {}
        self._clock = clock
        self._late = False
        self._keeper = None if keep is None else keep(self._server)
        self._epoch = 0 if self._keeper is None else self._keeper.epoch
        self._inbox: dict[int, deque[SealedMessage]] = {i: deque() for i in range(3) if i != self.index}
        self._start: TrainingStart | None = None
        self._began = 0.0
        self._step = 0
        self._expected = 0
        self._vectors: dict[str, ShareArray] = {}
        self._blocks: dict[str, list[tuple[bool, Block]]] = {}
        self._steps = self._protocol()
        self._round: Round | None = None
        self._wait: Wait | None = None

    def _protocol(self) -> Steps[None]:
        """All steps of a run, in order. What the plan gives is not searched for, nor what an earlier epoch found."""
        keeper = self._keeper
        if keeper is not None and keeper.checkpoint >= STARTED:
            start = start_of((self._name,), keeper.setup, self._plan, self._counts)
            self.openings += [] if given_values(self._plan) else opened_for_values(self._plan)
            self.openings += [] if plan_cuts(self._plan) else [OPENED_FOR_CUTS]
        else:
            values = given_values(self._plan) or (yield from self._find_values())
            cuts = plan_cuts(self._plan) or (yield from self._find_cuts())
            start = TrainingStart(self._plan, self._counts, cuts, values).check()
            if keeper is not None:
                keeper.start(start.message(), self._clock())
        self._began = self._clock() if keeper is None else keeper.began
        self._start = start
        over = keeper is not None and keeper.over
        yield from self._announce(
            start, self._plan.receivers if over else (*self._counts.training, *self._plan.receivers)
        )
        if not over:
            yield Wait.ROWS
        back: GoneBack | None = None
        if keeper is not None and keeper.checkpoint > STARTED:
            back = yield from keeper.go_back()
            self.history = back.history
        trees, metric = yield from self._train(start, back) if back is None or not over else self._trained(back)
        yield from self._decide(start, metric)
        if not self.withheld:
            yield from self._release(trees)

    def erase(self) -> None:
        """Zero the key streams."""
        self._streams.erase()

    def waiting_for(self) -> list[str]:
        """The members whose next sealed message is owed."""
        if self._round is not None:
            return [self._servers[i] for i, shapes in self._round.expect.items() if shapes and not self._inbox[i]]
        if self._wait is Wait.COUNTS:
            return sorted(set(self._counts.training) - set(self._vectors))
        return [owner for owner in self._counts.training if not self._has_all(owner)]

    def begin(self) -> Outgoing:
        """The keys are confirmed: take the first steps."""
        yield from self._advance()

    def handle(self, sender: str, message: Message, codes: npt.NDArray[np.uint16] | None = None) -> Outgoing:
        """Take a sealed message: an owner's counts, or a batch of its rows.

        Args:
            codes: of all rows of the sender, where the sender is this member itself.

        Raises:
            ProtocolError: naming the sender and the rule it broke.
        """
        if sender not in self._counts.training:
            raise ProtocolError(
                f"member {sender!r} sent {type(message).__name__} to server {self._name!r}, and owns no rows",
                member=sender,
            )
        match message:
            case ShareCounts() if self._wait is Wait.COUNTS:
                self._take_counts(sender, message)
            case ShareRows() if self._wait is Wait.ROWS:
                self._take_rows(sender, message, codes)
                yield sender, TakeRows(sum(block.rows for _, block in self._blocks[sender]))
            case _:
                raise ProtocolError(
                    f"member {sender!r} sent {type(message).__name__}, which server {self._name!r} does not expect now",
                    member=sender,
                )
        if not self.waiting_for():
            yield from self._advance()

    def handle_round(self, sealed: SealedMessage) -> Outgoing:
        """Take another server's part of a round, this one or a later one. Raises ProtocolError."""
        if sealed.sender not in self._servers:
            raise ProtocolError(
                f"member {sealed.sender!r} sent numbers of a round, and is no server", member=sealed.sender
            )
        waiting = self._inbox[self._servers.index(sealed.sender)]
        if len(waiting) == MOST_AHEAD:
            raise ProtocolError(
                f"server {sealed.sender!r} is {MOST_AHEAD} rounds ahead; rule: servers go in step",
                member=sealed.sender,
                rule="servers go in step",
            )
        waiting.append(sealed)
        if self._round is not None and not self.waiting_for():
            yield from self._advance()

    def _advance(self) -> Outgoing:
        """Take steps for as long as what they wait for is here; what they send."""
        while True:
            answer = self._answer()
            try:
                step = self._steps.send(answer)
            except StopIteration:
                self.through = True
                return
            except ServersDisagree as error:
                raise self._blamed(error) from error
            if isinstance(step, tuple):
                yield step
                continue
            if isinstance(step, Wait):
                self._wait = step
            else:
                yield from self._send_round(step)
            if self.waiting_for():
                return

    def _answer(self) -> RoundArrays | None:
        """What the step that was waited for has brought; nothing is waited for any more."""
        done, self._round, self._wait = self._round, None, None
        if done is None:
            return None
        received = self._received(done)
        self._observe(done.step, self._bytes)
        return received

    def _send_round(self, step: Round) -> Outgoing:
        self._round = step
        self.rounds += 1
        self._bytes = sum(array.nbytes for arrays in step.send.values() for array in arrays)
        name = step_name(step.step)
        for index, arrays in step.send.items():
            if arrays:
                yield self._servers[index], RoundMessage(name, tuple(_padded(arrays)))

    # --- cuts and base score ------------------------------------------------------------------------------------------

    def _take_counts(self, sender: str, message: ShareCounts) -> None:
        if message.step != self._step or sender in self._vectors:
            raise ProtocolError(
                f"owner {sender!r} shared counts of step {message.step}; expected step {self._step}, once",
                member=sender,
            )
        if len(message.part) > 1:
            raise ProtocolError(
                f"owner {sender!r} shared {len(message.part)} arrays of counts; expected one at most", member=sender
            )
        part = to_array(sender, "counts", message.part[0], np.uint64, (self._expected,)) if message.part else None
        shares = VectorShares(message.count, (message.keys[0] or None, message.keys[1] or None), part)
        try:
            self._vectors[sender] = receive_vector(self.index, shares, self._expected, self._algorithm)
        except ProtocolError as error:
            raise ProtocolError(f"owner {sender!r}: {error}", member=sender) from error

    def _count(self, expected: int) -> Steps[dict[str, ShareArray]]:
        """Wait for so many shared counts of every owner."""
        self._expected = expected
        yield Wait.COUNTS
        vectors, self._vectors = dict(sorted(self._vectors.items())), {}
        self._step += 1
        return vectors

    def _find_values(self) -> Steps[Values]:
        """From the owners' shared sums; of squared error their last one, of squares, stays shared."""
        vectors = yield from self._count(n_label_sums(self._plan))
        self.openings += opened_for_values(self._plan)
        total = np.stack(list(vectors.values())).sum(axis=0, dtype=np.uint64)
        address, rows = Address(self._epoch, 0, 0, "labels"), self._counts.total
        if not has_spread(self._plan):
            sums = yield from pooled_sums(self._server, total, address)
            return values_of(sums, rows, self._plan)
        sums = yield from pooled_sums(self._server, total[:, :-1], address)
        place = address.named("spread")
        exponent = yield from spread_exponent(self._server, total[:, -1], square_of_mean(sums, rows), place)
        return values_of(sums, rows, self._plan, exponent)

    def _find_cuts(self) -> Steps[Cuts]:
        """Ask owners for counts, compare their sums on shares, and ask again where that leads, until every cut is known."""
        search = CutSearchOnShares(
            len(self._plan.schema.features),
            self._counts.total,
            self._plan.parameters.max_bin,
            self._plan.min_cell_rows,
            declared_missing(self._plan),
            categorical(self._plan),
            self._plan.schema.weight is not None,
        )
        self.openings.append(OPENED_FOR_CUTS)
        while not search.done:
            request = search.request()
            message = CountProbes(
                to_tensor(request.offsets), to_tensor(request.starts), to_tensor(request.depths), request.bits
            )
            for owner in sorted(self._counts.training):
                yield owner, message
            vectors = yield from self._count(search.n_answers)
            search = yield from search.answer(self._server, vectors, Address(self._epoch, 0, 0, "cuts"))
        return search.cuts()

    def _announce(self, start: TrainingStart, members: Iterable[str]) -> Steps[None]:
        """Tell members what training starts from, unless the plan said all of it."""
        if given_start(self._plan, self._counts) is not None:
            return
        message = start.message()
        for member in sorted(set(members)):
            yield member, message

    # --- rows ---------------------------------------------------------------------------------------------------------

    def _has_all(self, owner: str) -> bool:
        return len(self._blocks.get(owner, [])) == len(self._counts.batches(owner))

    def _started(self) -> TrainingStart:
        if self._start is None:
            raise ProtocolError(f"server {self._name!r}: rows came before the cuts were known")
        return self._start

    def _take_rows(self, sender: str, message: ShareRows, codes: npt.NDArray[np.uint16] | None) -> None:
        start = self._started()
        blocks = self._blocks.setdefault(sender, [])
        expected = self._counts.batches(sender)
        if len(blocks) == len(expected):
            raise ProtocolError(f"member {sender!r} shared more rows than it announced", member=sender)
        if (message.held, message.first, message.rows) != expected[len(blocks)]:
            raise ProtocolError(
                f"member {sender!r} shared {message.rows} rows from {message.first} (held out: {message.held}); expected "
                f"{expected[len(blocks)]}",
                member=sender,
            )
        shares = self._row_shares(sender, message)
        own = None if codes is None else codes[message.first : message.first + message.rows]
        if message.held:
            # Held-out rows are routed and scored, never summed by candidate: of their columns only the bits are kept.
            own = np.zeros((message.rows, len(start.candidates.features)), np.uint16) if codes is not None else None
        block = receive_rows(start.candidates, self.index, shares, self._algorithm, own, regenerate=message.held)
        blocks.append((message.held, block.without_columns() if message.held else block))

    def _row_shares(self, sender: str, message: ShareRows) -> RowShares:
        """The message, held to what an owner gives to this server: which parts are keys, which travels."""
        assisted = self._servers.index(sender) if sender in self._servers else None
        streams = (0, 1) if assisted is None else (assisted,)
        explicit = 2 if assisted is None else (assisted + 1) % 3
        halves = (self.index, (self.index + 1) % 3)
        for key, number in zip(message.keys, halves, strict=True):
            if len(key) != (32 if number in streams else 0):
                raise ProtocolError(
                    f"member {sender!r} gave a key of {len(key)} bytes for part {number} of its rows", member=sender
                )
        travels = explicit in halves
        weighted, outputs = self._started().weighted, label_rows(self._plan)
        arrays = (4 if weighted else 3) if travels else 0
        if len(message.parts) != arrays:
            raise ProtocolError(
                f"member {sender!r} sent {len(message.parts)} arrays of row shares; expected {arrays}", member=sender
            )
        part: tuple[ShareArray, ...] | None = None
        if travels:
            columns, rows = self._started().candidates.n_columns, message.rows
            shapes: list[tuple[str, Any, tuple[int, ...]]] = [
                ("columns", np.uint32, (rows, columns)),
                ("bits", np.uint64, (rows, words_for(columns))),
                ("labels", np.uint32, (outputs, rows)),
                ("weights", np.uint32, (outputs, 2, rows)),
            ]
            part = tuple(
                to_array(sender, name, tensor, dtype, shape)
                for (name, dtype, shape), tensor in zip(shapes, message.parts, strict=False)
            )
        return RowShares(
            message.rows,
            (message.keys[0] or None, message.keys[1] or None),
            (part if explicit == halves[0] else None, part if explicit == halves[1] else None),
            assisted,
            weighted,
            outputs,
        )

    # --- rounds -------------------------------------------------------------------------------------------------------

    def _blamed(self, error: ServersDisagree) -> ProtocolError:
        suspects = (*(self._servers[number] for number in error.servers), *((error.owner,) if error.owner else ()))
        who = [f"server {self._servers[number]!r}" for number in error.servers]
        who += [f"owner {error.owner!r}"] if error.owner else []
        told = ProtocolError(
            f"{' or '.join(who)} departed from the protocol at step {error.step!r}: {error.found}. Server {self._name!r} stopped and "
            "opened nothing more. The other honest server stops too: the member that both name is at fault, by a lie or a broken "
            "machine; do not run with it again before that is explained",
            rule=error.found,
            cure="the member that both honest servers name is at fault; do not run with it before that is explained",
        )
        told.blame(*suspects)
        return told

    def _received(self, step: Round) -> dict[int, list[ShareArray]]:
        """What the other servers sent for this round, as arrays, taken from the inbox."""
        received: dict[int, list[ShareArray]] = {}
        for index, shapes in step.expect.items():
            if not shapes:
                received[index] = []
                continue
            sealed = self._inbox[index].popleft()
            if sealed.name != step_name(step.step):
                raise ProtocolError(
                    f"member {sealed.sender!r} sent the numbers of another step than {step.step!r}; rule: servers go in step",
                    member=sealed.sender,
                    rule="servers go in step",
                )
            received[index] = _arrays(sealed, step.step, shapes)
        return received

    def _train(self, start: TrainingStart, back: GoneBack | None) -> Steps[Trained]:
        """All rounds of boosting, or those that are left, with progress and evaluation."""
        server, rounds, keeper = self._server, start.settings.rounds, self._keeper
        in_order = [block for _, of_owner in sorted(self._blocks.items()) for block in of_owner]
        blocks = [block for held, block in in_order if not held]
        self._blocks = {}
        evaluation = Evaluation(server, start, [block for held, block in in_order if held], self._epoch)
        if back is not None:
            evaluation.go_on(back.judged)

        def keep(halfway: Halfway) -> Program[None]:
            if keeper is not None:
                yield from keeper.keep(halfway, evaluation.judged, self.history)
                if evaluation.opens(len(halfway.flags)):
                    yield from keeper.settle()

        def after(number: int, grown: list[TreeShares]) -> Program[bool]:
            metrics = yield from evaluation.after(number, grown)
            for name, value in metrics.items():
                self.history.setdefault(name, []).append((number + 1, value))
            self._progress(number + 1, metrics, evaluation.without_value)
            return (yield from self._is_late(number)) or evaluation.stops

        trained = yield from train(
            server,
            start.candidates,
            blocks,
            start.output_settings,
            epoch=self._epoch,
            sampling=start.sampling,
            begun=lambda: self._progress(0, {}, {}),
            keep=keep,
            after=after,
            since=None if back is None else back.halfway,
        )
        kept = min(trained.good, evaluation.best_rounds or trained.good)
        metric = None
        if self._plan.release.metric:
            if keeper is not None:
                yield from keeper.settle()
            metric = yield from evaluation.of_model(kept, trained.trees, self.history)
        self.openings += evaluation.openings
        if trained.checked:
            self.openings.append(
                f"training.rounds_in_range: every margin stayed within +-16 for {trained.good} of {trained.rounds} rounds"
            )
        if trained.good < trained.rounds or evaluation.left_range:
            self.cut = (
                f"a margin left +-{SAFE_MARGIN}, beyond which shares hold no log-odds, nor means of counts: of {rounds} rounds "
                f"the first {kept} are released. Lower eta or rounds, or raise lambda"
            )
        elif self._late and trained.rounds < rounds:
            self.cut = (
                f"the plan's deadline of {coopetitive(self._plan).deadline_s:g} s was over: of {rounds} rounds the first {kept} are "
                "released. Raise release.deadline_s, or lower rounds"
            )
        outputs = len(start.output_settings)
        if keeper is not None:
            openings = tuple(self.openings)
            share = None if metric is None or metric.share is None else KeptArray.of(metric.share)
            value = None if metric is None else metric.value
            model = KeptModel(kept, self.cut, openings, frozen(self.history), evaluation.without_value, value, share)
            yield from keeper.end(model, trained.trees, outputs)
        return trained.trees[: kept * outputs], metric

    def _is_late(self, number: int) -> Program[bool]:
        """Whether the plan's deadline is over by the clock of any server: each tells the others so after every round."""
        limit = coopetitive(self._plan).deadline_s
        if limit is None:
            return False
        own = np.array([self._clock() >= self._began + limit], np.uint8)
        told = yield from tell_others(self._server, own, f"deadline {number}")
        self._late = bool(own[0]) or any(bool(other[0]) for other in told.values())
        return self._late

    def _trained(self, back: GoneBack) -> Steps[Trained]:
        """Training was over in an earlier epoch."""
        model = back.content
        assert isinstance(model, KeptModel)  # training is over
        self.openings, self.cut = list(model.openings), model.cut
        self._progress(0, {}, {})
        self._progress(back.rounds, {}, model.without_value)
        metric = ReleaseMetric(model.metric, back.shares.best) if self._plan.release.metric else None
        return tuple(back.shares.trees[: model.rounds * self._plan.parameters.outputs]), metric
        yield  # a program of no round

    def _decide(self, start: TrainingStart, metric: ReleaseMetric | None) -> Steps[None]:
        """Whether anybody gets the model; where that depends on a metric, receivers are told before the first tree.

        What decides was kept by all servers before: whoever comes back finds the same.
        """
        if metric is None:
            return
        reached = yield from reaches(self._server, start, metric, self._epoch)
        if metric.share is not None:
            self.openings.append(
                f"evaluation.reached: one bit, whether {self._plan.release.condition} of held-out rows"
            )
        self.withheld, self.metric = not reached, metric.value
        for receiver in self._plan.receivers:
            yield receiver, DecideRelease(reached, metric.value)

    def _release(self, trees: tuple[TreeShares, ...]) -> Steps[None]:
        for number, tree in enumerate(trees):
            parts = release(tree)
            splits = tuple(to_tensor(np.ascontiguousarray(level)) for level in parts.splits)
            covers = () if parts.covers is None else (to_tensor(np.ascontiguousarray(parts.covers)),)
            message = ReleaseTree(number, len(trees), splits, to_tensor(np.ascontiguousarray(parts.leaves)), covers)
            for receiver in self._plan.receivers:
                yield receiver, message


OPENED_FOR_CUTS = "quantile_search: the path of the search to every cut, and which features lack values"


def opened_for_values(plan: Plan) -> list[str]:
    """What is opened to servers where the plan gives no base score, in words."""
    sums = "base_score.pooled_sums: the sums of labels and weights that the base score follows from"
    spread = "base_score.spread_exponent: the power of four below the variance of all labels"
    return [sums, spread] if has_spread(plan) else [sums]


@functools.lru_cache(maxsize=2**14)
def step_name(step: str) -> bytes:
    """Eight bytes that name a step in a sealed message."""
    return hashlib.sha256(b"hansa step\x00" + step.encode()).digest()[:NAME_BYTES]


def _padded(arrays: Sequence[ShareArray]) -> Iterator[memoryview]:
    for array in arrays:
        if array.nbytes:
            yield np.ascontiguousarray(array).data.cast("B")
        if rest := -array.nbytes % ALIGNMENT:
            yield memoryview(bytes(rest))


def _arrays(sealed: SealedMessage, step: str, shapes: Sequence[Shape]) -> list[ShareArray]:
    """The arrays in a sealed message, as views of it. Raises ProtocolError where its length is another than theirs."""
    dtypes = [np.dtype(shape.dtype) for shape in shapes]
    sizes = [dtype.itemsize * math.prod(shape.shape) for dtype, shape in zip(dtypes, shapes, strict=True)]
    total = sum(size + -size % ALIGNMENT for size in sizes)
    if len(sealed.body) != total:
        raise ProtocolError(
            f"member {sealed.sender!r} sent {len(sealed.body)} bytes for step {step!r}; expected {total}: sizes are public",
            member=sealed.sender,
        )
    arrays: list[Any] = []
    offset = 0
    for dtype, shape, size in zip(dtypes, shapes, sizes, strict=True):
        arrays.append(np.frombuffer(sealed.body[offset : offset + size], dtype).reshape(shape.shape))
        offset += size + -size % ALIGNMENT
    return arrays
