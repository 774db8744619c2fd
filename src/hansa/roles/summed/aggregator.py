"""The aggregator: sums what parties contribute, finds splits, and says what comes next. No I/O: frames in, frames out.

Every part is added on arrival, and a pair of siblings is searched as soon as the last party's histogram of it is there, so that
the search overlaps with the network. Integer sums have no order: the model does not depend on who answers first.
"""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.data.description import Description
from hansa.data.quantiles import CutRequest, Cuts, CutSearch
from hansa.data.residuals import Grid, QuantileSearch, first_request, n_counts
from hansa.errors import HansaError, IdentityError, ProtocolError, RunStopped, blaming
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    SETUP,
    Abort,
    AnnounceKey,
    Awaited,
    Collect,
    CommitKey,
    ConfirmKeys,
    Contribution,
    CountBins,
    CountCells,
    CountMagnitudes,
    CountResiduals,
    Described,
    Explain,
    Finish,
    Join,
    KeepLevels,
    Message,
    QuantiseGradients,
    Received,
    SetLeaves,
    SplitNodes,
    SumLabels,
    TellLevels,
    TreeScales,
    TreeSplits,
    UseCuts,
    UseLevels,
    VouchRows,
    Welcome,
)
from hansa.protocol.session import (
    AGGREGATOR,
    AGGREGATOR_MASKED,
    AGGREGATOR_VERIFYING,
    DESCRIBING_AGGREGATOR,
    DESCRIBING_AGGREGATOR_MASKED,
    DESCRIBING_AGGREGATOR_VERIFYING,
    Session,
)
from hansa.roles.key_setup import Signer
from hansa.roles.reading import reading_of
from hansa.roles.registration import Registration
from hansa.roles.run import (
    Binned,
    Progress,
    Purpose,
    Registered,
    Roster,
    TableDescribed,
    Trained,
    TreeGrown,
    Withheld,
    agreement,
    agreement_parts,
    run_id,
)
from hansa.roles.summed import describing, snapshots
from hansa.roles.summed.custom import hessian_bound, most_hessian
from hansa.roles.summed.features import feature_rules, node_columns, with_categories
from hansa.roles.summed.levels import (
    check_levels,
    dictionary_of,
    level_counts,
    levels_to_keep,
    union_of,
    with_union,
)
from hansa.roles.summed.release import kept_rounds, released_value
from hansa.roles.summed.row_bounds import COUNTS, counted_rows, fault_of, most_of, most_of_histograms
from hansa.roles.summed.side_by_side import Shape, nodes_expected, trees_at_once, whole_nodes
from hansa.roles.summed.start_model import start_model
from hansa.roles.summed.statistics import (
    EXPONENTS,
    BaseScore,
    MagnitudeBounds,
    base_is_quantile,
    bounds_of,
    check_label_size,
    histogram_bits_of,
    label_sums,
    label_units,
    metric_scale,
    rounded_leaf_bits,
    shap_rows,
    shap_unit,
    start_of,
)
from hansa.roles.summed.verified_counts import CountRelay
from hansa.secure.mask_graph import is_drawn
from hansa.trees import histogram, objective
from hansa.trees.contributions import most_contribution
from hansa.trees.ensemble import OF_MARGIN_0, Ensemble, Tree, base_margin, without_statistics
from hansa.trees.growth import Buffers, Grower
from hansa.trees.least_rows import heaviest_row, hessian_of
from hansa.trees.level import Level
from hansa.trees.losses import LOSSES, is_exponential
from hansa.trees.metrics import NO_ROWS, mean_value, metric_value, stops_early, sums_length, why_no_value
from hansa.trees.sampling import draw_columns
from hansa.trees.worker_pool import ALONE, WorkerPool
from hansa.trees.xgboost_json import to_json

Int64 = npt.NDArray[np.int64]
Outgoing = Iterator[tuple[str, bytes]]

MARGIN_SLACK = 1.001
"""Margins are summed in float32; the bound on them is widened by this factor."""

MARGIN_ERROR = 2.0**-23
"""More than the rounding error of a margin that a leaf's value is added to, as a part of the bound on it."""


COARSEST = 2.0**-6
"""Where each row's rounding of the totals adds more than this part of them in all, scales would be too coarse."""

TOTALS = 2
"""Of a tree: sum |g| and sum h."""

SUMMED_STATES = ("measuring", "labelling", "cutting", "locating", "totalling", "growing", "refitting", "explaining")
"""States in which sums are awaited."""


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        ensemble: the model. model: its XGBoost JSON.
        history: metric -> its value after 1, 2, ... trees, on all parties' held-out rows; None where it has none.
        without_value: metric -> why it has no value, of those that have none.
        trees_grown: trees grown before early stopping cut the model back.
        exchanges: requests that every party answered between the first tree's start and the end of the last.
        roster: who took part. shap: by feature the mean size of SHAP values, where the plan has them.
    """

    ensemble: Ensemble
    model: bytes
    history: dict[str, list[float | None]]
    trees_grown: int
    exchanges: int
    roster: Roster
    without_value: dict[str, str] = field(default_factory=dict)
    shap: dict[str, float] = field(default_factory=dict)


class _Sum:
    """A sum over parties that is filled as parts arrive, in Z_2^64 (int64) or Z_2^32 (uint32)."""

    def __init__(self, parties: tuple[str, ...], shape: tuple[int, ...], dtype: type[np.generic]) -> None:
        self.values = np.zeros(shape, dtype)
        self.largest = np.zeros(shape, dtype)
        self.zero = 0
        self.waiting = set(parties)

    @property
    def cancels(self) -> bool:
        """Whether the masks, if any, cancelled: the parts' zero words sum to zero in the ring."""
        modulus: int = 1 << 8 * self.values.dtype.itemsize
        return self.zero % modulus == 0

    @property
    def complete(self) -> bool:
        return not self.waiting

    def add(self, member: str, part: npt.NDArray[Any], zero: int) -> bool:
        """Add a member's part and its zero word; False where it has given one before."""
        if member not in self.waiting:
            return False
        self.waiting.remove(member)
        self.values += part
        np.maximum(self.largest, part, out=self.largest)
        self.zero += zero
        return True


IsBehind = Callable[[Sequence[float | None]], bool]
"""The values of a trial's last metric after each round -> whether it is not worth going on."""


@dataclass
class _Tree:
    """A tree that grows: its number, of all trees of the run, and the output whose margins it moves; the scales of its sums, and its
    columns, uint32; whether its last level was decided. grower: from when its root is asked for.
    """

    number: int
    output: int
    scales: objective.Scales
    columns: npt.NDArray[np.uint32]
    ended: bool = False

    grower: Grower = field(init=False)


class Aggregator:
    """The aggregator's side of a run.

    Args:
        plan: as every member holds it.
        worker pool: compute threads for the search; with one, pairs are searched one by one as they arrive.
        report: called with `Progress` as the run goes on.
        identities: every member's pinned identity, as the parties hold them.
        signer: this member's signature; needed where the plan has parties verify row counts.
        start: the model file that the plan goes on from, where it names one; a description needs none.
        purpose: whether the run trains a model, or describes the pooled table.
        behind: of a trial: whether one whose last metric had these values is behind others; then its run ends.

    Attributes:
        description: of the pooled table, once the counts are there, with the shifts of the members whose counts are in the clear; None
            where the run trains.
        masked_bytes, clear_bytes: bytes of sums that came in masked, and as they are.
        done: whether the run is over. outcome: what it gave, once done. run: the run's id, once all have joined.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        pool: WorkerPool = ALONE,
        report: Callable[[Progress], None] | None = None,
        identities: Mapping[str, bytes] = MappingProxyType({}),
        signer: Signer | None = None,
        start: bytes | None = None,
        purpose: Purpose = "train",
        behind: IsBehind | None = None,
    ) -> None:
        self._describes = purpose == "describe"
        self._behind = behind
        self.description: Description | None = None
        if self._describes:
            describing.check_describable(plan)
        self._before = None if self._describes else start_model(plan, start, plan.aggregator)
        if plan.verify_counts != "off" and signer is None:
            raise IdentityError(
                f"aggregator {plan.aggregator!r}: privacy.verify_counts = {plan.verify_counts!r} needs this member's identity: "
                "it signs what it tells the parties"
            )
        self._signer = signer
        self._counts: CountRelay | None = None
        self.done = False
        self.masked_bytes = 0
        self.clear_bytes = 0
        self._masked = plan.mode == "secure-aggregation"
        self.run = b""
        self._agreement = agreement(plan, identities, purpose)
        self._registration = Registration(
            plan.parties,
            plan.parties,
            self._agreement,
            agreement_parts(plan, identities, purpose),
            with_some=is_drawn(len(plan.parties)) and plan.verify_counts == "off",
        )
        self.outcome: Outcome | None = None
        self._plan = plan
        self._parties = plan.parties
        self._collectors = dict(plan.collectors)
        self._branches = plan.branches
        self._asked: tuple[int, int, str] | None = None
        self._awaited: dict[str, list[Awaited]] = {}
        self._pool = pool
        self._report = report or (lambda _: None)
        tables = (AGGREGATOR, AGGREGATOR_MASKED, AGGREGATOR_VERIFYING)
        if self._describes:
            tables = (DESCRIBING_AGGREGATOR, DESCRIBING_AGGREGATOR_MASKED, DESCRIBING_AGGREGATOR_VERIFYING)
        table = tables[2 if plan.verify_counts != "off" else int(self._masked)]
        self._session = Session("aggregator", table, "registering")
        self._rules = feature_rules(plan)
        self._per_round = plan.parameters.trees_per_round
        self._last_tree = plan.parameters.rounds * self._per_round - 1
        self._tree = SETUP
        self._step = 0
        self._sums: dict[str, _Sum] = {}
        self._trees: list[Tree] = []
        self._history: dict[str, list[float | None]] = {}
        self._without_value: dict[str, str] = {}
        self._exchanges = 0
        self._buffers: list[Buffers] = []
        self._growing: list[_Tree] = []
        self._level_asked_for: tuple[list[Grower], list[Shape]] | None = None
        self._layout: histogram.Layout | None = None
        self._received: set[str] = set()
        self._stopping = False
        self._with_root = False
        self._moved = [0.0] * plan.parameters.outputs
        self._told: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._foreseen = LOSSES[plan.parameters.objective].foreseen and plan.custom_objective is None

    @property
    def parties(self) -> tuple[str, ...]:
        """Whose sums come: the parties, but for those that have a collector; and collectors."""
        return self._branches if self._collectors else self._parties

    @property
    def _suspects(self) -> tuple[str, ...]:
        """Of whom one gave what makes a pooled sum wrong."""
        return (*self._parties, *self._collectors)

    @property
    def roster(self) -> tuple[tuple[str, int, int], ...]:
        """(party, training rows, rows held out), once all have joined."""
        return tuple((name, rows, held) for name, _, rows, held, _ in self._roster)

    def waiting_for(self) -> list[str]:
        """The parties whose part is missing before the run can go on."""
        if self._counts is not None and self._counts.waiting:
            return self._counts.waiting
        match self._session.state:
            case "registering":
                done = set(self._registration.joins)
            case "committing":
                done = set(self._registration.commitments)
            case "keying":
                done = set(self._registration.keys)
            case "confirming":
                done = set(self._registration.tags)
            case "growing":
                built = self._built
                done = {party for party, count in self._next_node.items() if count == built}
                return sorted(set(self.parties) - done)
            case "finishing":
                done = self._received
            case _:
                return sorted(set().union(*(sums.waiting for sums in self._sums.values())))
        return sorted(set(self._parties) - done)

    def has_left(self, member: str) -> bool:
        """Whether this party, or all parties of this collector, have acknowledged the end of the run."""
        return self._received.issuperset(self._collectors.get(member, (member,)))

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Take one frame of a party; yields (member, frame) to send.

        Raises:
            ProtocolError: the member broke a rule. HansaError: the run cannot go on.
        """
        if self._collectors:
            self._check_collected(member, messages.kind_of(member, frame))
        if member not in self._parties and member not in self._collectors:
            kind = messages.kind_of(member, frame).__name__
            raise ProtocolError(f"member {member!r} is not a party of the plan, yet sent {kind}", member=member)
        message = self._session.decode(member, frame)
        match message:
            case VouchRows() if self._counts is not None:
                self._session.go(message, self._session.state)
                for party, shown in self._counts.take(member, message):
                    yield party, messages.encode(shown)
                if message.then is not None:
                    yield from self._take(member, message.then)
            case Contribution() if self._counts is not None and self._counts.owes(member):
                raise self._broken(member, message, "expected its row counts before or with this")
            case Contribution():
                yield from self._take(member, message)
            case TellLevels():
                self._take_levels(member, message)
            case Join():
                yield from self._join(member, message)
            case CommitKey():
                yield from self._committed(member, message)
            case AnnounceKey():
                yield from self._announced(member, message)
            case ConfirmKeys():
                yield from self._confirmed(member, message)
            case Received():
                self._acknowledge(member, message)
            case Abort():
                self._session.go(message, "aborted")
                raise self._stopped(member, message)
            case _:
                raise ProtocolError(
                    f"member {member!r} sent {type(message).__name__}, which no aggregator takes", member=member
                )
        if self._collectors:
            yield from self._ask_collectors()

    # --- collectors -----------------------------------------------------------------------------------------------------------

    def _check_collected(self, member: str, kind: type[Message]) -> None:
        """Refuse what a collector says in its own name beside sums and why it stops, and sums of a party that has a collector."""
        if member in self._collectors and kind not in (Contribution, Abort):
            raise ProtocolError(
                f"collector {member!r} sent {kind.__name__} in its own name, which only parties send", member=member
            )
        if kind is Contribution and member in self._parties and member not in self._branches:
            raise ProtocolError(
                f"member {member!r} sent {kind.__name__}; its collector {self._plan.above(member)!r} adds up what it sends",
                member=member,
            )

    def _stopped(self, member: str, message: Abort) -> RunStopped:
        """Why a party, or a collector because of one of its parties, stopped the run."""
        if member not in self._collectors:
            return RunStopped(member, f"party {member!r} stopped the run: {message.reason}", retry=message.retry)
        blamed = message.member if message.member in self._collectors[member] else ""
        who = f" because of party {blamed!r}" if blamed else ""
        text = f"collector {member!r} stopped the run{who}: {message.reason}"
        return RunStopped(member, text, retry=message.retry, member=blamed)

    def _ask_collectors(self) -> Outgoing:
        """Tell collectors which sums are awaited of their parties, where that is news."""
        now = self._tree, self._step, self._session.state
        if now == self._asked or self._session.state not in SUMMED_STATES:
            return
        self._asked = now
        awaited = tuple(self._awaited_sums())
        self._awaited = {own.quantity: [each for each in awaited if each.quantity == own.quantity] for own in awaited}
        frame = messages.encode(Collect(self._tree, awaited))
        yield from ((collector, frame) for collector in self._collectors)

    def _awaited_sums(self) -> Iterator[Awaited]:
        """The sums of the step at hand, in the order in which a party sends them."""
        growing = self._session.state == "growing"
        for quantity, sums in self._sums.items():
            if sums.waiting and not (self._with_root and quantity == "totals"):
                step = 0 if growing else self._step
                most = self._most_of_row(quantity)
                yield Awaited(quantity, step, sums.values.dtype.str, sums.values.shape, 0, most)
        if not growing:
            return
        bounds = self._gradient_bound, self._hessian_bound
        trees = [tree for tree in self._growing if not tree.ended]
        for tree, shape in zip(trees, self._asked_for[1], strict=True):
            most = most_of_histograms(*bounds, tree.scales)
            if self._with_root:
                words = (math.prod(shape) + TOTALS,)
                yield Awaited("root", self._step, "<i8", words, shape[1], most + self._most_of_row("totals"))
            else:
                yield Awaited("histograms", self._step, "<i8", shape, shape[1], most)

    def _most_of_row(self, quantity: str) -> tuple[int, ...]:
        """What one row adds at most to each number of a sum; empty where that is not asked for."""
        if quantity in COUNTS:
            return (1,)
        if quantity in ("weights", "residual-weights"):
            return (most_of(self._bounds.weight, math.ldexp(1.0, -self._label_units[1])),)
        if quantity == "totals":
            bounds = zip((self._gradient_bound, self._hessian_bound), self._units, strict=True)
            return tuple(most_of(bound, math.ldexp(1.0, -unit)) for bound, unit in bounds)
        return ()

    def _check_rows(self, collector: str, message: Contribution, part: npt.NDArray[Any], place: int = 0) -> None:
        """Refuse sums of a collector that its parties' rows cannot have. place: of the tree among those awaited."""
        if message.quantity not in self._awaited or message.zero:
            raise self._broken(collector, message, f"expected {', '.join(self._awaited)}, without a zero word")
        awaited = self._awaited[message.quantity][place]
        rows = counted_rows(message.quantity, *self._rows_of[collector])
        if fault := fault_of(part, awaited.planes, awaited.most, rows):
            raise self._broken(collector, message, f"{fault}; the sums of a collector are of its parties' rows")

    # --- going on after this process, or another one, ended ----------------------------------------------------------------

    def snapshot(self) -> snapshots.Snapshot:
        """What `resume` needs, right after the cuts or the last splits of a tree were told."""
        counts = self._counts
        named = None if counts is None or counts.named is None else snapshots.NamedChildren.of(counts.named)
        growing = self._session.state == "growing"
        return snapshots.Snapshot(
            tree=self._tree,
            exchanges=self._exchanges,
            gradient_bound=self._gradient_bound,
            margin_bounds=tuple(self._margin_bounds),
            highest_margins=tuple(self._highest_margins),
            moved=tuple(self._moved),
            totals=tuple(self._totals) if growing and not self._with_root else (),
            most=tuple(self._most) if self._with_root else (),
            growing=growing,
            history={name: tuple(values) for name, values in self._history.items()},
            without_value=self._without_value,
            named=named,
        )

    def setup(self) -> snapshots.Setup:
        """What `resume` needs of the set-up, once the cuts were told."""
        return snapshots.Setup(
            self._magnitudes.astype(np.int64).tobytes(),
            self._label_sums.astype(np.int64).tobytes(),
            self._start.base_scores,
            self._given_cuts.offsets.astype(np.int64).tobytes(),
            self._given_cuts.values.astype(np.float32).tobytes(),
            self._given_cuts.has_missing.astype(np.uint8).tobytes(),
        )

    @property
    def trees(self) -> list[Tree]:
        """The trees so far."""
        return self._trees

    def start_over(self, roster: Roster, start: bytes) -> Outgoing:
        """Begin the set-up of a run whose members registered elsewhere; `start` as in `resume`."""
        self._begin(roster)
        self._relay_counts(start)
        self._session.state = "measuring"
        yield from self._start_counting()

    def resume(
        self,
        roster: Roster,
        setup: snapshots.Setup,
        state: snapshots.Snapshot,
        trees: list[Tree],
        last: tuple[str, bytes],
        start: bytes,
        parties: tuple[str, ...],
    ) -> None:
        """Stand where an aggregator of this run stood; the parties answer the last broadcast by themselves.

        Args:
            roster: of the run. setup, state, trees: what was kept. last: kind and frame of the broadcast that the checkpoint ends with.
            start: 32 bytes that the transcript of this epoch begins from. parties: who takes part in it.
        """
        self._parties = parties
        self._begin(roster)
        self._relay_counts(start)
        self._bound(snapshots.int64(setup.magnitudes).reshape(-1, EXPONENTS))
        self._score(snapshots.int64(setup.label_sums))
        self._start_at(setup.base_scores)
        self._take_cuts(
            Cuts(
                snapshots.int64(setup.offsets),
                np.frombuffer(setup.values, np.float32),
                np.frombuffer(setup.has_missing, np.uint8).astype(np.bool_),
            )
        )
        self._trees = list(trees)
        self._tree, self._exchanges = state.tree, state.exchanges
        self._margin_bounds, self._highest_margins = list(state.margin_bounds), list(state.highest_margins)
        self._moved = list(state.moved)
        self._history = {name: list(values) for name, values in state.history.items()}
        self._without_value = dict(state.without_value)
        self._bound_gradients(state.gradient_bound)
        self._session.state = "growing" if state.growing else "totalling"
        if not state.growing or state.most:
            self._expect_totals()
        if self._counts is not None:
            self._counts.absorb(*last)
        if state.growing:
            self._totals, self._most, self._with_root = list(state.totals), list(state.most), bool(state.most)
            self._scale_trees(self._most if state.most else self._totals)
            self._start_trees()
        if self._counts is not None and state.named is not None:
            self._counts.name(state.named.named())

    def finish_again(self, outcome: Outcome, received: set[str], parties: tuple[str, ...]) -> None:
        """Stand where an aggregator of this run stood that had told the model to `parties`, of which some had acknowledged it."""
        self._parties = parties
        self._begin(outcome.roster)
        self.outcome = outcome
        self._digest = self._told_digest()
        self._received = set(received)
        self._session.state = "finishing"

    def finish_for(self, party: str) -> bytes:
        """The frame that tells one party that the run is over."""
        assert self.outcome is not None  # `finish_again`
        before = 0 if self._before is None else len(self._before.ensemble.trees)
        packed = b"" if self.withheld else zlib.compress(self.outcome.model, 6)
        return self._finished(len(self.outcome.ensemble.trees) - before, party, packed)

    # --- registration ---------------------------------------------------------------------------------------------------

    def _join(self, member: str, message: Join) -> Outgoing:
        if not self._registration.join(member, message):
            self._session.go(message, "registering")
            return
        keying = "committing" if is_drawn(len(self._parties)) else "keying"
        self._session.go(message, keying if self._masked else "measuring")
        self._begin(self._registration.roster)
        self._report(Registered(trees=0, rounds=self._plan.parameters.rounds))
        yield from self._broadcast(Welcome(self.run, self._roster))
        self._relay_counts(b"")
        if not self._masked:
            yield from self._start_counting()

    def _begin(self, roster: Roster) -> None:
        self._roster: Roster = roster
        self._n_rows = sum(rows for _, _, rows, _, _ in roster)
        self._n_evaluation = sum(held for _, _, _, held, _ in roster)
        counts = {name: (rows, held) for name, _, rows, held, _ in roster}
        self._rows_of = {
            collector: (sum(counts[party][0] for party in own), sum(counts[party][1] for party in own))
            for collector, own in self._collectors.items()
        }
        if not self._n_rows:
            raise HansaError("all rows of all parties fall to evaluation; lower evaluation.fraction in the plan")
        self.run = run_id(self._agreement, roster)

    def _relay_counts(self, start: bytes) -> None:
        """Make the relay of row counts, where the plan has parties verify them; `start` as for `CountRelay`."""
        if self._signer is not None and self._plan.verify_counts != "off":
            names = describing.columns_of(self._plan).names if self._describes else ()
            self._counts = CountRelay(self._plan, self.run, self._signer.sign, self._n_rows, names, start)

    def _committed(self, member: str, message: CommitKey) -> Outgoing:
        bound = self._registration.committed(member, message)
        self._session.go(message, "committing" if bound is None else "keying")
        if bound is not None:
            yield from self._broadcast(bound)

    def _announced(self, member: str, message: AnnounceKey) -> Outgoing:
        exchange = self._registration.announced(member, message)
        self._session.go(message, "keying" if exchange is None else "confirming")
        if exchange is not None:
            yield from self._broadcast(exchange)

    def _confirmed(self, member: str, message: ConfirmKeys) -> Outgoing:
        told = self._registration.confirmed(member, message)
        self._session.go(message, "measuring" if told else "confirming")
        for party, tags in told.items():
            yield party, messages.encode(tags)
        if told:
            yield from self._start_counting()

    def _start_counting(self) -> Outgoing:
        self._expect({"magnitudes": (self._plan.parameters.num_target + 1, EXPONENTS)})
        yield from self._broadcast(CountMagnitudes())

    def _broadcast(self, message: Message) -> Outgoing:
        frame = messages.encode(message)
        yield from self._tell(dict.fromkeys(self.parties, frame))
        if self._counts is not None:
            self._counts.absorb(type(message).__name__, frame)

    def _tell(self, frames: dict[str, bytes]) -> Outgoing:
        """Frames for parties, behind the row counts that are due."""
        if self._counts is None or not self._counts.due:
            yield from frames.items()
            return
        for party, shown in self._counts.show(frames):
            yield party, messages.encode(shown)

    def _expect(self, shapes: dict[str, tuple[int, ...]], dtype: type[np.generic] = np.int64) -> None:
        self._sums = {quantity: _Sum(self.parties, shape, dtype) for quantity, shape in shapes.items()}

    # --- sums ---------------------------------------------------------------------------------------------------------

    def _take(self, member: str, message: Contribution) -> Outgoing:
        growing = self._session.state == "growing"
        histograms = growing and message.quantity in ("histograms", "root")
        step = 0 if growing and not histograms else self._step  # a tree's metrics come while its root is being built
        if (message.tree, message.step) != (self._tree, step):
            raise self._broken(member, message, f"expected step {step} of tree {self._tree}")
        if histograms:
            yield from self._take_histograms(member, message)
            return
        sums = self._sums.get(message.quantity)
        if sums is None or message.first != 0:
            raise self._broken(member, message, f"expected {', '.join(self._sums)}, whole")
        part = messages.to_array(member, message.quantity, message.values, sums.values.dtype.type, sums.values.shape)
        if member in self._collectors:
            self._check_rows(member, message, part)
        if not sums.add(member, part, message.zero):
            raise self._broken(member, message, "that part was given before")
        self._count_bytes(message)
        if message.quantity == "bins" and not self._masked:
            self._cells_of_members[member] = part.copy()
        if sums.complete and not sums.cancels:
            raise self._noise(message)
        if not all(s.complete for s in self._sums.values()):
            self._session.go(message, self._session.state)
            return
        totals = {quantity: s.values for quantity, s in self._sums.items()}
        match self._session.state:
            case "measuring":
                yield from self._measured(message, totals["magnitudes"])
            case "labelling":
                yield from self._labelled(message, totals["labels"], totals.get("levels"))
            case "cutting":
                yield from self._counted(message, totals["cells"], totals.get("weights"))
            case "describing":
                yield from self._describe(message, totals["bins"])
            case "locating" | "refitting":
                yield from self._take_residuals(message, totals["residuals"], totals.get("residual-weights"))
            case "explaining":
                yield from self._explained(message, totals["shap"])
            case _:
                yield from self._totalled(message, totals)

    def _count_bytes(self, message: Contribution) -> None:
        if self._masked:
            self.masked_bytes += len(message.values.data)
        else:
            self.clear_bytes += len(message.values.data)

    def _noise(self, message: Contribution) -> ProtocolError:
        return ProtocolError(
            f"{message.quantity!r} of tree {message.tree}, step {message.step}: the masks of {', '.join(self._parties)} do "
            "not cancel: the zero words do not sum to zero. A member saw other keys or broadcasts, or sent a wrong vector",
            suspects=self._suspects,
            rule="the masks of all parties cancel",
        )

    def _broken(self, member: str, message: Contribution, rule: str) -> ProtocolError:
        return ProtocolError(
            f"member {member!r} sent {message.quantity[:40]!r} of tree {message.tree}, step {message.step}, "
            f"while the aggregator was {self._session.state!r}: {rule}",
            member=member,
            rule=rule,
        )

    def _take_levels(self, member: str, message: TellLevels) -> None:
        if not self._plan.schema.union or member in self._told:
            raise ProtocolError(f"member {member!r} told levels that nobody asked for, or twice", member=member)
        with blaming(member):
            check_levels(self._plan, message.levels)
        self._session.go(message, "measuring")
        self._told[member] = message.levels

    def _measured(self, message: Contribution, magnitudes: Int64) -> Outgoing:
        self._session.go(message, "labelling")
        self._bound(magnitudes)
        if self._plan.schema.union:
            yield from self._use_union()
        self._step = 1
        self._expect({"labels": (label_sums(self._plan.parameters),)})
        levels = 0 if self._describes else level_counts(self._plan)
        if levels:
            self._sums["levels"] = _Sum(self.parties, (levels,), np.int64)
        yield from self._broadcast(SumLabels(*self._label_units))

    def _bound(self, magnitudes: Int64) -> None:
        self._magnitudes = magnitudes
        self._bounds: MagnitudeBounds = bounds_of(magnitudes, self._plan.weighted)
        check_label_size(self._bounds)
        self._label_units = label_units(self._bounds, self._n_rows)
        if self._plan.parameters.quantiles:
            self._grid = Grid(self._bounds.label_exponent)

    def _labelled(self, message: Contribution, sums: Int64, levels: Int64 | None) -> Outgoing:
        plan = self._plan
        if self._describes:
            weight = math.ldexp(float(sums[1]), self._label_units[1])
            if weight <= 0:
                raise HansaError("all rows of all parties have weight 0; there is nothing to describe")
            self._label_mean = math.ldexp(float(sums[0]), self._label_units[0]) / weight
            n_columns = len(plan.schema.features) + 1
            self._search = CutSearch(n_columns, self._n_rows, plan.parameters.max_bin, plan.min_cell_rows)
            self._session.go(message, "cutting")
            yield from self._count()
            return
        self._score(sums)
        n_features = len(plan.schema.features)
        self._search = CutSearch(n_features, self._n_rows, plan.parameters.max_bin, plan.min_cell_rows)
        self._session.go(message, "cutting")
        if levels is not None:
            yield from self._keep_levels(levels)
        yield from self._count()

    def _score(self, sums: Int64) -> None:
        """Base scores, and what else follows from the sums of labels and weights."""
        plan = self._plan
        self._label_sums = sums
        self._start: BaseScore = start_of(plan, sums, *self._label_units)
        if self._before is not None:
            self._start = replace(self._start, base_scores=self._before.ensemble.base_scores)
        elif plan.schema.base_margin and plan.parameters.outputs > 1:
            # Scores of outputs stand in the leaves of the first trees, and base margins take their place, not come on top.
            start = OF_MARGIN_0[LOSSES[plan.parameters.objective].base]
            self._start = replace(self._start, base_scores=(start,) * plan.parameters.outputs)
        self._histogram_bits = histogram_bits_of(plan, self._magnitudes, sums, self._start)
        self._leaf_bits = rounded_leaf_bits(
            plan, self._n_rows, self._start.base_scores[0], self._start.scale_pos_weight
        )

    def _start_at(self, base_scores: tuple[float, ...]) -> None:
        """Base scores that were found otherwise than from sums of labels."""
        self._start = replace(self._start, base_scores=base_scores)

    def _use_union(self) -> Outgoing:
        """Go on with the levels of all parties."""
        silent = sorted(set(self._parties) - set(self._told))
        if silent:
            raise ProtocolError(f"member {silent[0]!r} told no levels before its magnitudes", member=silent[0])
        union = union_of(self._plan, self._told)
        self._plan = with_union(self._plan, union)
        self._rules = feature_rules(self._plan)
        yield from self._broadcast(UseLevels(union))

    def _keep_levels(self, counts: Int64) -> Outgoing:
        """Go on with the levels that enough pooled rows have."""
        with blaming(*self._suspects):
            if (counts < 0).any() or counts.sum() > self._n_rows * len(self._plan.schema.rare_levels):
                raise HansaError("rows by level do not add up to at most the rows that there are")
        kept = levels_to_keep(self._plan, counts)
        self._plan = dictionary_of(self._plan, kept).plan
        self._rules = feature_rules(self._plan)
        yield from self._broadcast(KeepLevels(messages.to_tensor(kept)))

    def _count(self) -> Outgoing:
        request = self._search.request()
        self._step += 1
        self._expect({"cells": (request.n_counts,)}, np.uint32)
        if self._plan.weighted and not self._describes:
            self._sums["weights"] = _Sum(self.parties, (request.n_counts,), np.int64)
        yield from self._broadcast(
            CountCells(request.bits, messages.to_tensor(request.offsets), messages.to_tensor(request.prefixes))
        )
        if self._counts is not None:
            self._counts.name(self._counts.naming.cells(self._step, request))

    def _counted(self, message: Contribution, counts: Int64, weights: Int64 | None) -> Outgoing:
        largest = self._sums["cells"].largest if self._plan.dominance else None
        with blaming(*self._suspects):  # of pooled counts that do not fit nobody can tell whose are wrong
            self._search = self._search.answer(counts, weights, largest)
        if not self._search.done:
            self._session.go(message, "cutting")
            yield from self._count()
            return
        if self._describes:
            self._session.go(message, "describing")
            yield from self._count_bins()
            return
        if base_is_quantile(plan := self._plan):
            self._session.go(message, "locating")
            labels, quantiles = plan.parameters.num_target, plan.parameters.quantiles_of_label
            self._quantiles = QuantileSearch(self._grid, labels, quantiles, plan.min_cell_rows)
            yield from self._count_residuals(first_request(labels))
            return
        self._session.go(message, "totalling")
        yield from self._start_training(self._search.cuts())

    # --- quantiles of residuals ---------------------------------------------------------------------------------------

    def _count_residuals(self, request: CutRequest) -> Outgoing:
        """Ask for rows, and weights, by cells of residuals."""
        self._step += 1
        self._expect_residuals(request)
        told = messages.to_tensor(request.offsets), messages.to_tensor(request.prefixes)
        yield from self._broadcast(CountResiduals(self._tree, request.bits, *told))
        if self._counts is not None:
            self._counts.name(self._counts.naming.residuals(self._tree, self._step, request))

    def _expect_residuals(self, request: CutRequest) -> None:
        count = n_counts(request)
        self._expect({"residuals": (count,)}, np.uint32)
        if self._plan.weighted:
            self._sums["residual-weights"] = _Sum(self.parties, (count,), np.int64)

    def _take_residuals(self, message: Contribution, counts: Int64, weights: Int64 | None) -> Outgoing:
        """The rows by cells of residuals are there: part the cells further, or go on with the quantiles that were found."""
        largest = self._sums["residuals"].largest if self._plan.dominance else None
        search = self._quantiles
        with blaming(*self._suspects):  # of pooled counts that do not fit nobody can tell whose are wrong
            search = search.answer(counts, weights, largest) if search.bits else search.begin(counts, weights, largest)
        self._quantiles = search
        if not search.done:
            self._session.go(message, self._session.state)
            self._exchanges += self._tree != SETUP
            yield from self._count_residuals(search.request())
            return
        self._expect({})
        if self._tree == SETUP:
            self._start_at(tuple(search.values().ravel().tolist()))
            self._session.go(message, "totalling")
            yield from self._start_training(self._search.cuts())
            return
        trees, tree = self._growing, self._tree
        values = trees[0].grower.fill(search.values()[:, 0])
        following = self._following(message)
        yield from self._broadcast(SetLeaves(tree, messages.to_tensor(values), self._gradient_bound, following))
        self._keep_trees(trees, following)

    # --- describing ---------------------------------------------------------------------------------------------------

    def _count_bins(self) -> Outgoing:
        """Ask for the rows of every bin and category, once."""
        plan = self._plan
        self._cells_layout, self._pooled_bins = describing.layout_of(
            describing.columns_of(plan), self._search, plan.min_cell_rows
        )
        edges = Cuts.from_arrays(self._cells_layout.cuts, np.zeros(len(self._cells_layout.cuts), np.bool_))
        self._step += 1
        self._cells_of_members: dict[str, Int64] = {}
        self._expect({"bins": (int(self._cells_layout.offsets[-1]),)})
        yield from self._broadcast(
            CountBins(
                messages.to_tensor(edges.offsets),
                messages.to_tensor(edges.values),
                messages.to_tensor(self._pooled_bins),
            )
        )
        if self._counts is not None:
            self._counts.name(self._counts.naming.bins(self._step, self._cells_layout))

    def _describe(self, message: Contribution, pooled: Int64) -> Outgoing:
        """Tell all parties what may be told of the counts; the run is over once they say that they have it."""
        plan, layout = self._plan, self._cells_layout
        with blaming(*self._suspects):  # of pooled counts that do not fit nobody can tell whose are wrong
            told, other = describing.tell(layout, self._pooled_bins, self._n_rows, pooled, plan.min_cell_rows)
        self.description = describing.description_of(
            plan, self.run, self._roster, layout, told, other, self._label_mean, self._cells_of_members
        )
        self._report(TableDescribed(trees=0, rounds=plan.parameters.rounds))
        self._session.go(message, "finishing")
        mean = self._label_mean if describing.tells_mean(layout) else 0.0
        described = Described(messages.to_tensor(told), messages.to_tensor(other), mean)
        self._digest = hashlib.sha256(messages.encode(described)).digest()
        yield from self._broadcast(described)

    # --- training -----------------------------------------------------------------------------------------------------

    def _start_training(self, cuts: Cuts) -> Outgoing:
        self._take_cuts(cuts)
        bound = self._start_totals()
        yield from self._broadcast(
            UseCuts(
                offsets=messages.to_tensor(cuts.offsets),
                values=messages.to_tensor(cuts.values),
                has_missing=messages.to_tensor(cuts.has_missing.astype(np.uint8)),
                base_scores=self._start.base_scores,
                scale_pos_weight=self._start.scale_pos_weight,
                weight_exponent=self._bounds.weight_exponent,
                label_exponent=self._bounds.label_exponent,
                gradient_bound=bound,
                hessian_bound=self._hessian_bound,
                histogram_bits=self._histogram_bits,
            )
        )

    def _take_cuts(self, cuts: Cuts) -> None:
        plan = self._plan
        self._given_cuts = cuts
        self._cuts = with_categories(cuts, self._rules)
        self._bin_offsets = np.concatenate([[0], np.cumsum(self._cuts.n_codes)]).astype(np.int64)
        planes = 1 if self._histogram_bits == 32 else 2
        most_rows = max(rows + held for _, _, rows, held, _ in self._roster)
        self._at_once = trees_at_once(plan, int(self._bin_offsets[-1]), planes, most_rows)
        outputs, limit = plan.parameters.outputs, plan.schema.base_margin_limit
        self._base_margins = [float(base_margin(plan.parameters.objective, score)) for score in self._start.base_scores]
        self._highest_margins = list(self._base_margins)
        self._margin_bounds = [abs(margin) for margin in self._base_margins]
        if plan.schema.base_margin:
            self._base_margins = [-limit] * outputs
            self._highest_margins = [limit] * outputs
            self._margin_bounds = [limit] * outputs
        if self._before is not None:
            # Base margins take the place of the base score, which the bounds of a start model leave out then.
            self._highest_margins = [self._before.highest_margin + limit] * outputs
            self._margin_bounds = [self._before.margin_bound + limit] * outputs
        if self._counts is not None:
            self._counts.naming.start(self._weight_bound())

    def _weight_bound(self) -> float:
        return self._bounds.weight * max(1.0, self._start.scale_pos_weight)

    def _public_bounds(self) -> tuple[Plan, float, float]:
        """What bounds on a row's hessian follow from (`custom.most_hessian`)."""
        return self._plan, self._weight_bound(), self._gradient_bound

    def _start_totals(self, hessian_sums: Sequence[float] | None = None) -> float:
        """Expect the totals of the next round, and the metrics of the rounds so far; returns the bound on |g|.

        Args:
            hessian_sums: by output, an upper bound on the sum of h over all rows that may be drawn; None where none is known.
        """
        self._tree += max(len(self._growing), 1)
        self._step = 0
        self._exchanges += 1
        self._expect_totals()
        own = self._plan.custom_objective
        known = hessian_sums or [math.inf] * len(self._margin_bounds)
        bound = max(map(self._most_gradient, range(len(known)), known)) if own is None else own.gradient_bound
        self._bound_gradients(bound)
        return bound

    def _most_gradient(self, output: int, hessian_sum: float) -> float:
        """The bound on |g| of any row at one output."""
        base, most = self._base_margins[output], self._margin_bounds[output]
        return objective.gradient_bound(
            self._plan.parameters.objective,
            self._weight_bound(),
            self._bounds.label,
            most * MARGIN_SLACK,
            self._highest_margins[output] + most * (MARGIN_SLACK - 1),
            hessian_sum,
            self._plan.parameters.shape,
            base - (most * MARGIN_SLACK - abs(base)),
        )

    def _expect_totals(self) -> None:
        shapes: dict[str, tuple[int, ...]] = {"totals": (TOTALS * self._plan.parameters.outputs,)}
        if self._tree > 0 and self._n_evaluation:
            shapes |= {f"metric/{name}": (sums_length(name),) for name in self._plan.parameters.metrics}
            if self._plan.custom_metric is not None:
                shapes[f"metric/{self._plan.custom_metric.name}"] = (2,)
        self._expect(shapes)

    def _bound_gradients(self, bound: float) -> None:
        """No row's |g| exceeds `bound` in this round; the units of its totals follow."""
        self._gradient_bound = bound
        self._hessian_bound = hessian_bound(*self._public_bounds())
        self._units = (
            objective.unit_exponent(self._gradient_bound, self._n_rows),
            objective.unit_exponent(self._hessian_bound, self._n_rows),
        )

    def _totalled(self, message: Contribution, sums: dict[str, Int64]) -> Outgoing:
        """The totals of a tree, maybe with its root's histogram, and the metrics of those before it are there."""
        parameters = self._plan.parameters
        self._totals = sums["totals"].tolist()
        rounds = self._tree // self._per_round
        if rounds == 0:
            self._report(Binned(trees=0, rounds=parameters.rounds))
        else:
            metrics = self._evaluate(sums)
            self._report(
                TreeGrown(
                    trees=rounds,
                    rounds=parameters.rounds,
                    metrics=metrics,
                    without_value=self._without_value,
                )
            )
            self._stopping = rounds == parameters.rounds or self._stops_early()
        if self._session.state == "growing":
            if any(total > most for total, most in zip(self._totals, self._most, strict=True)):
                raise HansaError(
                    f"the gradients of tree {self._tree} sum to more than the leaves of the tree before it allow, so a party's "
                    "'totals' are wrong; training stops rather than overflow. Check that all members run the same release of Hansa"
                )
            self._session.go(message, "growing")
        elif self._stopping:
            yield from self._finish(message)
        else:
            self._session.go(message, "growing")
            self._exchanges += 1
            yield from self._broadcast(self._scale_trees(self._totals))
            # The parties are at work again.
            self._start_trees()

    def _scale_trees(self, totals: list[int]) -> QuantiseGradients:
        """Ask for the roots' histograms of the trees that come next, at scales that suit these totals of the round, by output, or upper
        bounds of them; `_start_trees` then takes them.
        """
        parameters, of_round = self._plan.parameters, self._tree % self._per_round
        if self._leaf_bits is not None:  # the scales say no more of the leaves' sums than a power of two
            totals = [1 << (total - 1).bit_length() if total > 0 else total for total in totals]
        short = LOSSES[parameters.objective].gradients == "hinge" or parameters.objective == "reg:absoluteerror"
        n_features = len(self._plan.schema.features)
        self._growing = []
        for place in range(min(self._at_once, self._per_round - of_round)):
            number, output = self._tree + place, (of_round + place) // parameters.num_parallel_tree
            gradient_sum, hessian_sum = totals[TOTALS * output : TOTALS * (output + 1)]
            scales = objective.scales(
                gradient_sum, hessian_sum, *self._units, self._n_rows, self._histogram_bits, short
            )
            columns = draw_columns(n_features, parameters.colsample_bytree, parameters.seed, number)
            self._growing.append(_Tree(number, output, scales, columns))
        self._level = -1
        self._start_level()
        first, *beside = (
            TreeScales(tree.number, tree.scales.gradient, tree.scales.hessian, messages.to_tensor(tree.columns))
            for tree in self._growing
        )
        return QuantiseGradients(first.tree, first.gradient_scale, first.hessian_scale, first.columns, tuple(beside))

    def _start_trees(self) -> None:
        plan, parameters = self._plan, self._plan.parameters
        for place, tree in enumerate(self._growing):
            if self._layout is None or not np.array_equal(tree.columns, self._layout.columns):
                self._layout = histogram.layout_of(self._bin_offsets, tree.columns)
            if place == len(self._buffers):
                self._buffers.append(Buffers())
            tree.grower = Grower(
                parameters,
                tree.scales,
                self._layout,
                self._cuts.has_missing,
                self._buffers[place],
                self._rules,
                node_columns(plan, self._rules, tree.columns, tree.number),
                self._pool,
                self._least_hessian(tree.scales),
                len(self._parties) if plan.dominance else 0,
                self._leaf_bits,
            )
        self._level_asked_for = None
        if self._counts is not None:
            scales = [tree.scales for tree in self._growing]
            self._counts.naming.start_trees(self._tree, scales, self._gradient_bound)

    def _least_hessian(self, scales: objective.Scales) -> int:
        """What every child of a tree has, as a whole sum at these scales, beside what `min_child_weight` says."""
        heaviest = heaviest_row(most_hessian(*self._public_bounds()), scales)
        return hessian_of(self._plan.min_child_rows, heaviest)

    def _start_level(self) -> None:
        self._level += 1
        self._step = self._level + 1
        self._next_node = dict.fromkeys(self.parties, 0)
        self._zero = 0

    @property
    def _asked_for(self) -> tuple[list[Grower], list[Shape]]:
        """The trees whose histograms are asked for, in their order, and the shapes of these; worked out once a level."""
        if self._level_asked_for is None:
            growers = [tree.grower for tree in self._growing if not tree.ended]
            shapes = [(len(grower.to_build), *grower.node_shape) for grower in growers]
            self._level_asked_for = growers, shapes
        return self._level_asked_for

    @property
    def _built(self) -> int:
        """Nodes whose histograms are asked for, of all trees."""
        return sum(nodes for nodes, *_ in self._asked_for[1])

    def _take_histograms(self, member: str, message: Contribution) -> Outgoing:
        quantity = "root" if self._with_root else "histograms"
        owed = [name for name, sums in self._sums.items() if name != "totals" and member in sums.waiting]
        if owed or message.quantity != quantity:
            raise self._broken(member, message, f"expected {', '.join([*owed, quantity])}")
        values = self._root(member, message) if self._with_root else self._words(member, message)
        parts = self._nodes_of(member, message, values)
        self._next_node[member] += sum(len(part) for _, _, part in parts)
        self._zero += message.zero
        self._count_bytes(message)
        party = self.parties.index(member)
        for grower, first, part in parts:
            grower.add(first, part, len(self.parties), party)
        if all(grower.complete for grower in self._asked_for[0]):
            if self._zero % 2**64:
                raise self._noise(message)
            if self._with_root:
                self._with_root = False
                yield from self._totalled(message, {quantity: sums.values for quantity, sums in self._sums.items()})
            yield from self._decide(message)

    def _nodes_of(self, member: str, message: Contribution, values: Int64) -> list[tuple[Grower, int, Int64]]:
        """The histograms of whole nodes that a fragment holds: by tree, the first node of it and int64 (m, planes, cells)."""
        growers, shapes = self._asked_for
        first = self._next_node[member]
        nodes = whole_nodes(shapes, first, len(values))
        if message.first != first or not nodes:
            raise self._broken(member, message, nodes_expected(shapes, first, message.first, len(values)))
        parts, begin = [], 0
        for place, at, count in nodes:
            _, planes, cells = shapes[place]
            end = begin + count * planes * cells
            part = values[begin:end].reshape(count, planes, cells)
            if member in self._collectors and not self._with_root:
                self._check_rows(member, message, part, place)
            parts.append((growers[place], at, part))
            begin = end
        return parts

    def _words(self, member: str, message: Contribution) -> Int64:
        """Histograms of some nodes, one behind the other."""
        return messages.to_array(member, "histograms", message.values, np.int64, (None,))

    def _root(self, member: str, message: Contribution) -> Int64:
        """The root's histogram; the member's totals behind it are added to the others'."""
        words = math.prod(self._growing[0].grower.node_shape)
        values = messages.to_array(member, "root", message.values, np.int64, (words + TOTALS,))
        if member in self._collectors:
            self._check_rows(member, message, values)
        if not self._sums["totals"].add(member, values[words:], 0):
            raise self._broken(member, message, "that part was given before")
        return values[:words]

    def _decide(self, message: Contribution) -> Outgoing:
        if self._stopping:  # the metrics said so while the root was being built
            yield from self._finish(message)
            return
        trees, level_number = self._growing, self._level
        decided = [(tree, tree.grower.decide()) for tree in trees if not tree.ended]
        for tree, level in decided:
            tree.ended = level.last
        if not all(tree.ended for tree in trees):
            self._session.go(message, "growing")
            self._exchanges += 1
            self._start_level()
            yield from self._split(decided, level_number)
            # The parties are at work again.
            for tree in trees:
                if not tree.ended:
                    tree.grower.go_on()
            self._level_asked_for = None
            return
        if quantiles := self._plan.parameters.quantiles:
            self._session.go(message, "refitting")
            self._exchanges += 1
            self._step = level_number + 2
            tree = trees[0]
            groups = tree.grower.n_leaves
            self._quantiles = QuantileSearch(self._grid, groups, (quantiles[tree.output],), self._plan.min_cell_rows)
            self._expect_residuals(first_request(groups))
            yield from self._split(decided, level_number)
            return
        following = self._following(message)
        yield from self._split(decided, level_number, following)
        self._keep_trees(trees, following)

    def _following(self, message: Contribution) -> QuantiseGradients | None:
        """Go on behind the trees that grew, whose leaves have their values; the next trees' scales where they are known."""
        for tree in self._growing:
            self._widen_margins(tree)
        if (self._tree + len(self._growing)) % self._per_round:
            self._tree += len(self._growing)
            self._exchanges += 1
            following = self._scale_trees(self._totals)
            self._session.go(message, "growing")
            return following
        return self._next_round(message, self._growing[0].grower)

    def _keep_trees(self, trees: Sequence[_Tree], following: QuantiseGradients | None) -> None:
        """Put the trees together, and start the next ones where their scales are out; the parties are at work again."""
        self._trees += [tree.grower.tree(self._cuts.offsets, self._cuts.values) for tree in trees]
        if following is not None:
            self._start_trees()

    def _next_round(self, message: Contribution, grower: Grower) -> QuantiseGradients | None:
        """Expect what a round begins with; the scales of its first trees where they are known. grower: of the tree before, or of one of
        several that grew side by side.
        """
        parameters = self._plan.parameters
        all_drawn = parameters.subsample == 1
        sums = self._sums_after(grower)
        hessian_sums = [own[1] for own in sums]
        self._start_totals(hessian_sums if all_drawn else None)
        if not all_drawn and math.ldexp(self._n_rows, self._units[1]) > min(hessian_sums) * COARSEST:
            raise HansaError(
                f"after {self._tree} trees the bound on a row's gradient is so far above the rows' own that sums would be too coarse "
                "where rows are drawn: set subsample = 1 in the plan, or a smaller eta or rounds"
            )
        # Rows that another draw brings in had no part in the leaves' sums, nor had one tree of several all that moved the margins.
        at_once = self._tree <= self._last_tree and all_drawn and self._foreseen and self._per_round == 1
        self._session.go(message, "growing" if at_once else "totalling")
        if not at_once:
            return None
        self._with_root = True
        self._most = [
            math.ceil(math.ldexp(most, -unit)) + self._n_rows for most, unit in zip(sums[0], self._units, strict=True)
        ]
        return self._scale_trees(self._most)

    def _split(
        self, decided: Sequence[tuple[_Tree, Level]], number: int, then: QuantiseGradients | None = None
    ) -> Outgoing:
        yield from self._broadcast(_split_nodes(decided, number, self._gradient_bound, then))
        if self._counts is not None:
            self._counts.name(self._counts.naming.nodes(number, {tree.number: level for tree, level in decided}))

    def _widen_margins(self, tree: _Tree) -> None:
        """Widen the bounds on margins by the leaves of a tree."""
        values, output = tree.grower.leaves.values, tree.output
        highest = max(float(values.max()), 0.0)
        self._margin_bounds[output] += float(np.abs(values).max())
        self._highest_margins[output] += highest
        self._moved[output] += highest

    def _sums_after(self, grower: Grower) -> list[tuple[float, float]]:
        """By output, upper bounds of sum |g| and sum h once rows have the leaves of this round; infinite where only those of totals are
        known.
        """
        totals = np.array(self._totals, object).reshape(-1, TOTALS)
        sums = [(math.ldexp(g, self._units[0]), math.ldexp(h, self._units[1])) for g, h in totals]
        moved, self._moved = self._moved, [0.0] * len(self._moved)
        if self._per_round > 1:
            growing = is_exponential(self._plan.parameters.objective)
            return [(math.inf, h * math.exp(by) if growing else h) for (_, h), by in zip(sums, moved, strict=True)]
        values, hessians = grower.leaves
        return [
            objective.sums_after(
                self._plan.parameters.objective,
                *sums[0],
                np.abs(values) + self._margin_bounds[0] * MARGIN_ERROR,
                hessians,
                self._n_rows / self._growing[0].scales.hessian,
                self._start.weight,
                self._plan.parameters.shape,
            )
        ]

    def _evaluate(self, sums: dict[str, Int64]) -> dict[str, float | None]:
        """The metrics after `self._tree` trees; None for one that has no value."""
        if self._plan.evaluation_fraction == 0:
            return {}
        values: dict[str, float | None] = {}
        for name in self._plan.metrics:
            values[name], why = self._metric(name, sums)
            if why:
                self._without_value[name] = why
            self._history.setdefault(name, []).append(values[name])
        return values

    def _metric(self, name: str, sums: dict[str, Int64]) -> tuple[float | None, str]:
        """A metric's value, or None and why."""
        if not self._n_evaluation:
            return None, NO_ROWS
        summed = sums[f"metric/{name}"]
        parameters = self._plan.parameters
        # Of a custom objective gradients say nothing of errors.
        tells = self._gradient_bound if self._plan.custom_objective is None else 0.0
        scale = metric_scale(parameters, self._n_evaluation, self._bounds, tells)
        own = self._plan.custom_metric
        if own is not None and name == own.name:
            value = mean_value(summed, own.bound, scale)
        else:
            value = metric_value(name, parameters.objective, summed, scale)
        return (None, why_no_value(name, summed)) if math.isnan(value) else (value, "")

    def _stops_early(self) -> bool:
        plan, stopping_rounds = self._plan, self._plan.parameters.early_stopping_rounds
        history = self._history.get(plan.metrics[-1], ())
        if self._behind is not None and self._behind(history):
            return True
        return stopping_rounds is not None and stops_early(plan.maximizes, history, stopping_rounds)

    def _finish(self, message: Contribution) -> Outgoing:
        plan = self._plan
        grown = len(self._trees)
        rounds = kept_rounds(plan, self._history, grown)
        keep = rounds * self._per_round
        scores = self._start.base_scores
        ensemble = Ensemble(
            objective=plan.parameters.objective,
            base_score=scores if len(scores) > 1 else scores[0],
            feature_names=plan.schema.features,
            trees=(
                *(() if self._before is None else self._before.ensemble.trees),
                *(tree if plan.statistics else without_statistics(tree) for tree in self._trees[:keep]),
            ),
            categories=tuple(plan.schema.levels.get(name) for name in plan.schema.features),
            num_parallel_tree=plan.parameters.num_parallel_tree,
            quantile_alpha=plan.parameters.quantile_alpha,
            reading=reading_of(plan),
        ).with_one_base_score()
        self._report(Trained(trees=rounds, rounds=plan.parameters.rounds, without_value=self._without_value))
        model = to_json(ensemble)
        self.outcome = Outcome(
            ensemble, model, self._history, grown, self._exchanges, self._roster, self._without_value
        )
        self._digest = self._told_digest()
        if self.withheld:
            metrics = {plan.release.metric: self._released_value}
            self._report(Withheld(trees=rounds, rounds=plan.parameters.rounds, metrics=metrics))
        packed = b"" if self.withheld else zlib.compress(model, 6)
        if plan.shap and not self.withheld:
            self._session.go(message, "explaining")
            self._step, self._explained_trees = 0, keep
            self._expect({"shap": (len(plan.schema.features),)})
            yield from self._broadcast(Explain(keep, self._digest, packed))
            return
        self._session.go(message, "finishing")
        yield from self._tell({member: self._finished(keep, member, packed) for member in self.parties})

    def _explained(self, message: Contribution, sums: Int64) -> Outgoing:
        """The pooled sizes of SHAP values are there: tell everybody their means, and the end of the run."""
        plan, outcome = self._plan, self.outcome
        assert outcome is not None  # `_finish`
        unit = shap_unit(plan, most_contribution(outcome.ensemble), self._n_rows, self._n_evaluation)
        rows = shap_rows(plan, self._n_rows, self._n_evaluation)
        with blaming(*self._suspects):
            if (sums < 0).any():
                raise HansaError("sizes of SHAP values do not add up to a number of at least 0")
        means = tuple(math.ldexp(int(own) / max(rows, 1), unit) for own in sums)
        self.outcome = replace(outcome, shap=dict(zip(plan.schema.features, means, strict=True)))
        self._session.go(message, "finishing")
        told = messages.encode(Finish(self._explained_trees, self._digest, b"", self._released_value, means))
        yield from self._tell(dict.fromkeys(self.parties, told))

    @property
    def withheld(self) -> bool:
        """Whether the run is over and nobody gets the model, since the metric of the plan's release is not reached."""
        return self.outcome is not None and not self._plan.release.is_reached(self._released_value)

    @property
    def _released_value(self) -> float | None:
        outcome = self.outcome
        if outcome is None or not self._plan.release.metric:
            return None
        return released_value(self._plan, outcome.history, outcome.trees_grown)

    def _told_digest(self) -> bytes:
        assert self.outcome is not None  # its callers
        return b"" if self.withheld else hashlib.sha256(self.outcome.model).digest()

    def _finished(self, trees: int, member: str, packed: bytes) -> bytes:
        """The end of the run as a party is told; a collector as one of its parties that receives the model, where there is one."""
        receives = {*self._collectors.get(member, (member,))} & {*self._plan.receivers}
        model = packed if receives else b""
        return messages.encode(Finish(trees, self._digest, model, self._released_value))

    def _acknowledge(self, member: str, message: Received) -> None:
        if message.model_sha256 != self._digest or member in self._received:
            raise ProtocolError(
                f"member {member!r} acknowledged another model than it was told of, or twice", member=member
            )
        self._received.add(member)
        self.done = len(self._received) == len(self._parties)
        self._session.go(message, "finished" if self.done else "finishing")


def _split_nodes(
    decided: Sequence[tuple[_Tree, Level]], number: int, gradient_bound: float, then: QuantiseGradients | None
) -> SplitNodes:
    first, *beside = (
        TreeSplits(
            tree=tree.number,
            feature=messages.to_tensor(level.feature),
            bin=messages.to_tensor(level.bin),
            missing_left=messages.to_tensor(level.missing_left),
            leaf=messages.to_tensor(level.leaf),
            build_left=messages.to_tensor(level.build_left),
            child_leaf=messages.to_tensor(level.child_leaf),
            nodes=messages.to_tensor(level.nodes),
            categories=messages.to_tensor(level.categories),
        )
        for tree, level in decided
    )
    return SplitNodes(
        level=number, gradient_bound=gradient_bound, then=then, beside=tuple(beside), **msgspec.structs.asdict(first)
    )
