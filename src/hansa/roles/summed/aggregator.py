"""The aggregator: sums what parties contribute, finds splits, and says what comes next. No I/O: frames in, frames out.

Every part is added on arrival, and a pair of siblings is searched as soon as the last party's histogram of it is there, so that
the search overlaps with the network. Integer sums have no order: the model does not depend on who answers first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.data.description import Description
from hansa.data.quantiles import CutRequest, Cuts, CutSearch
from hansa.data.residuals import QuantileSearch, first_request, n_counts
from hansa.errors import HansaError, IdentityError, ProtocolError, blaming
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
    CountCells,
    CountMagnitudes,
    CountResiduals,
    Explain,
    Join,
    KeepLevels,
    Message,
    QuantiseGradients,
    Received,
    SetLeaves,
    SumLabels,
    TellLevels,
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
from hansa.roles.summed.collected import Collected
from hansa.roles.summed.custom import hessian_bound, most_hessian
from hansa.roles.summed.features import feature_rules, with_categories
from hansa.roles.summed.growing_trees import Decided, GrowingTree, GrowingTrees, split_nodes
from hansa.roles.summed.levels import (
    check_levels,
    dictionary_of,
    level_counts,
    levels_to_keep,
    union_of,
    with_union,
)
from hansa.roles.summed.margin_bounds import TOTALS, MarginBounds
from hansa.roles.summed.metric_history import IsBehind, MetricHistory
from hansa.roles.summed.outcome import Outcome, RunEnd, model_of
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.pooled_description import PooledDescription
from hansa.roles.summed.pooled_sums import PooledSums
from hansa.roles.summed.release import kept_rounds
from hansa.roles.summed.row_bounds import COUNTS, most_of, most_of_histograms
from hansa.roles.summed.setup_sums import SetupSums
from hansa.roles.summed.start_model import start_model
from hansa.roles.summed.statistics import (
    EXPONENTS,
    base_is_quantile,
    label_sums,
)
from hansa.roles.summed.verified_counts import CountRelay
from hansa.secure.mask_graph import is_drawn
from hansa.trees import objective
from hansa.trees.ensemble import Tree
from hansa.trees.losses import LOSSES
from hansa.trees.worker_pool import ALONE, WorkerPool
from hansa.trees.xgboost_json import to_json

Outgoing = Iterator[tuple[str, bytes]]

COARSEST = 2.0**-6
"""Where each row's rounding of the totals adds more than this part of them in all, scales would be too coarse."""

SUMMED_STATES = ("measuring", "labelling", "cutting", "locating", "totalling", "growing", "refitting", "explaining")
"""States in which sums are awaited."""


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
        self._end = RunEnd(plan)
        self._plan = plan
        self._parties = plan.parties
        self._collectors = Collected(plan)
        self._asked: tuple[int, int, str] | None = None
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
        self._sums = PooledSums(masked=self._masked)
        self._trees: list[Tree] = []
        self._history = MetricHistory(plan, behind)
        self._exchanges = 0
        self._stopping = False
        self._with_root = False
        self._told: dict[str, Mapping[str, tuple[str, ...]]] = {}
        self._foreseen = LOSSES[plan.parameters.objective].foreseen and plan.custom_objective is None

    @property
    def parties(self) -> tuple[str, ...]:
        """Whose sums come: the parties, but for those that have a collector; and collectors."""
        return self._plan.branches if self._collectors.parties else self._parties

    @property
    def masked_bytes(self) -> int:
        """Bytes of sums that came in masked."""
        return self._sums.masked_bytes

    @property
    def clear_bytes(self) -> int:
        """Bytes of sums that came in as they are."""
        return self._sums.clear_bytes

    @property
    def outcome(self) -> Outcome | None:
        """What the run gave, once it is over."""
        return self._end.outcome

    @property
    def withheld(self) -> bool:
        """Whether the run is over and nobody gets the model, since the metric of the plan's release is not reached."""
        return self._end.withheld

    @property
    def _suspects(self) -> tuple[str, ...]:
        """Of whom one gave what makes a pooled sum wrong."""
        return (*self._parties, *self._collectors.parties)

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
                return self._growth.waiting()
            case "finishing":
                done = self._end.received
            case _:
                return sorted(self._sums.waiting)
        return sorted(set(self._parties) - done)

    def has_left(self, member: str) -> bool:
        """Whether this party, or all parties of this collector, have acknowledged the end of the run."""
        return self._end.received.issuperset(self._collectors.of(member))

    def handle(self, member: str, frame: memoryview) -> Outgoing:
        """Take one frame of a party; yields (member, frame) to send.

        Raises:
            ProtocolError: the member broke a rule. HansaError: the run cannot go on.
        """
        if self._collectors.parties:
            self._collectors.check_sender(member, messages.kind_of(member, frame))
        if member not in self._parties and member not in self._collectors.parties:
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
                raise self._collectors.stopped(member, message)
            case _:
                raise ProtocolError(
                    f"member {member!r} sent {type(message).__name__}, which no aggregator takes", member=member
                )
        if self._collectors.parties:
            yield from self._ask_collectors()

    # --- collectors -----------------------------------------------------------------------------------------------------------

    def _ask_collectors(self) -> Outgoing:
        """Tell collectors which sums are awaited of their parties, where that is news."""
        now = self._tree, self._step, self._session.state
        if now == self._asked or self._session.state not in SUMMED_STATES:
            return
        self._asked = now
        frame = messages.encode(Collect(self._tree, self._collectors.expect(self._awaited_sums())))
        yield from ((collector, frame) for collector in self._collectors.parties)

    def _awaited_sums(self) -> Iterator[Awaited]:
        """The sums of the step at hand, in the order in which a party sends them."""
        growing = self._session.state == "growing"
        for quantity, sums in self._sums.awaited.items():
            if sums.waiting and not (self._with_root and quantity == "totals"):
                step = 0 if growing else self._step
                most = self._most_of_row(quantity)
                yield Awaited(quantity, step, sums.values.dtype.str, sums.values.shape, 0, most)
        if not growing:
            return
        bounds = self._gradient_bound, self._hessian_bound
        for tree, shape in zip(self._growth.growing, self._growth.asked_for[1], strict=True):
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
            return (most_of(self._setup.bounds.weight, math.ldexp(1.0, -self._setup.label_units[1])),)
        if quantity == "totals":
            bounds = zip((self._gradient_bound, self._hessian_bound), self._units, strict=True)
            return tuple(most_of(bound, math.ldexp(1.0, -unit)) for bound, unit in bounds)
        return ()

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
            margin_bounds=tuple(self._margins.most),
            highest_margins=tuple(self._margins.highest),
            moved=tuple(self._margins.moved),
            totals=tuple(self._totals) if growing and not self._with_root else (),
            most=tuple(self._most) if self._with_root else (),
            growing=growing,
            history={name: tuple(values) for name, values in self._history.values.items()},
            without_value=self._history.without_value,
            named=named,
        )

    def setup(self) -> snapshots.Setup:
        """What `resume` needs of the set-up, once the cuts were told."""
        return snapshots.Setup(
            self._setup.magnitudes.astype(np.int64).tobytes(),
            self._setup.label_sums.astype(np.int64).tobytes(),
            self._setup.start.base_scores,
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
        self._setup.bound(self._plan, snapshots.int64(setup.magnitudes).reshape(-1, EXPONENTS))
        self._setup.score(self._plan, snapshots.int64(setup.label_sums))
        self._setup.start_at(setup.base_scores)
        self._take_cuts(
            Cuts(
                snapshots.int64(setup.offsets),
                np.frombuffer(setup.values, np.float32),
                np.frombuffer(setup.has_missing, np.uint8).astype(np.bool_),
            )
        )
        self._trees = list(trees)
        self._tree, self._exchanges = state.tree, state.exchanges
        self._margins.most, self._margins.highest = list(state.margin_bounds), list(state.highest_margins)
        self._margins.moved = list(state.moved)
        self._history.values = {name: list(values) for name, values in state.history.items()}
        self._history.without_value = dict(state.without_value)
        self._bound_gradients(state.gradient_bound)
        self._session.state = "growing" if state.growing else "totalling"
        if not state.growing or state.most:
            self._expect_totals()
        if self._counts is not None:
            self._counts.absorb(*last)
        if state.growing:
            self._totals, self._most, self._with_root = list(state.totals), list(state.most), bool(state.most)
            self._scale(self._most if state.most else self._totals)
            self._start_trees()
        if self._counts is not None and state.named is not None:
            self._counts.name(state.named.named())

    def finish_again(self, outcome: Outcome, received: set[str], parties: tuple[str, ...]) -> None:
        """Stand where an aggregator of this run stood that had told the model to `parties`, of which some had acknowledged it."""
        self._parties = parties
        self._begin(outcome.roster)
        self._end.reach(outcome)
        self._end.received = set(received)
        self._session.state = "finishing"

    def finish_for(self, party: str) -> bytes:
        """The frame that tells one party that the run is over."""
        assert self.outcome is not None  # `finish_again`
        before = 0 if self._before is None else len(self._before.ensemble.trees)
        trees = len(self.outcome.ensemble.trees) - before
        return self._end.message(trees, self._collectors.of(party), self._end.packed)

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
        self._collectors.begin(roster)
        if not self._n_rows:
            raise HansaError("all rows of all parties fall to evaluation; lower evaluation.fraction in the plan")
        self.run = run_id(self._agreement, roster)
        self._setup = SetupSums(self._n_rows, self._before)

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
        self._sums.expect(self.parties, shapes, dtype)

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
        sums = self._sums.awaited.get(message.quantity)
        if sums is None or message.first != 0:
            raise self._broken(member, message, f"expected {', '.join(self._sums.awaited)}, whole")
        part = messages.to_array(member, message.quantity, message.values, sums.values.dtype.type, sums.values.shape)
        self._check_rows(member, message, part)
        if not sums.add(member, part, message.zero):
            raise self._broken(member, message, "that part was given before")
        self._sums.count_bytes(len(message.values.data))
        if message.quantity == "bins" and not self._masked:
            self._bins.own[member] = part.copy()
        if sums.complete and not sums.cancels:
            raise self._noise(message)
        if not self._sums.complete:
            self._session.go(message, self._session.state)
            return
        totals = self._sums.totals
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

    def _check_rows(self, member: str, message: Contribution, part: npt.NDArray[Any], place: int = 0) -> None:
        """Refuse sums of a collector that its parties' rows cannot have. place: of the tree among those awaited."""
        if member in self._collectors.parties and (fault := self._collectors.fault_of(member, message, part, place)):
            raise self._broken(member, message, fault)

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
        self._setup.bound(self._plan, magnitudes)
        if self._plan.schema.union:
            yield from self._use_union()
        self._step = 1
        self._expect({"labels": (label_sums(self._plan.parameters),)})
        levels = 0 if self._describes else level_counts(self._plan)
        if levels:
            self._sums.expect_too(self.parties, {"levels": (levels,)})
        yield from self._broadcast(SumLabels(*self._setup.label_units))

    def _labelled(self, message: Contribution, sums: Int64, levels: Int64 | None) -> Outgoing:
        plan = self._plan
        if self._describes:
            self._label_mean = self._setup.label_mean(sums)
            n_columns = len(plan.schema.features) + 1
            self._search = CutSearch(n_columns, self._n_rows, plan.parameters.max_bin, plan.min_cell_rows)
            self._session.go(message, "cutting")
            yield from self._count()
            return
        self._setup.score(plan, sums)
        n_features = len(plan.schema.features)
        self._search = CutSearch(n_features, self._n_rows, plan.parameters.max_bin, plan.min_cell_rows)
        self._session.go(message, "cutting")
        if levels is not None:
            yield from self._keep_levels(levels)
        yield from self._count()

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
            self._sums.expect_too(self.parties, {"weights": (request.n_counts,)})
        yield from self._broadcast(
            CountCells(request.bits, messages.to_tensor(request.offsets), messages.to_tensor(request.prefixes))
        )
        if self._counts is not None:
            self._counts.name(self._counts.naming.cells(self._step, request))

    def _counted(self, message: Contribution, counts: Int64, weights: Int64 | None) -> Outgoing:
        largest = self._sums.awaited["cells"].largest if self._plan.dominance else None
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
            self._quantiles = QuantileSearch(self._setup.grid, labels, quantiles, plan.min_cell_rows)
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
            self._sums.expect_too(self.parties, {"residual-weights": (count,)})

    def _take_residuals(self, message: Contribution, counts: Int64, weights: Int64 | None) -> Outgoing:
        """The rows by cells of residuals are there: part the cells further, or go on with the quantiles that were found."""
        largest = self._sums.awaited["residuals"].largest if self._plan.dominance else None
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
            self._setup.start_at(tuple(search.values().ravel().tolist()))
            self._session.go(message, "totalling")
            yield from self._start_training(self._search.cuts())
            return
        trees, tree = self._growth.trees, self._tree
        values = trees[0].grower.fill(search.values()[:, 0])
        following = self._following(message)
        yield from self._broadcast(SetLeaves(tree, messages.to_tensor(values), self._gradient_bound, following))
        self._keep_trees(trees, following)

    # --- describing ---------------------------------------------------------------------------------------------------

    def _count_bins(self) -> Outgoing:
        """Ask for the rows of every bin and category, once."""
        self._bins = PooledDescription(self._plan, self._search, self._n_rows, self._label_mean)
        self._step += 1
        self._expect({"bins": (int(self._bins.layout.offsets[-1]),)})
        yield from self._broadcast(self._bins.request())
        if self._counts is not None:
            self._counts.name(self._counts.naming.bins(self._step, self._bins.layout))

    def _describe(self, message: Contribution, pooled: Int64) -> Outgoing:
        """Tell all parties what may be told of the counts; the run is over once they say that they have it."""
        with blaming(*self._suspects):  # of pooled counts that do not fit nobody can tell whose are wrong
            self.description, described = self._bins.tell(pooled, self.run, self._roster)
        self._report(TableDescribed(trees=0, rounds=self._plan.parameters.rounds))
        self._session.go(message, "finishing")
        self._end.digest = hashlib.sha256(messages.encode(described)).digest()
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
                base_scores=self._setup.start.base_scores,
                scale_pos_weight=self._setup.start.scale_pos_weight,
                weight_exponent=self._setup.bounds.weight_exponent,
                label_exponent=self._setup.bounds.label_exponent,
                gradient_bound=bound,
                hessian_bound=self._hessian_bound,
                histogram_bits=self._setup.histogram_bits,
            )
        )

    def _take_cuts(self, cuts: Cuts) -> None:
        plan = self._plan
        self._given_cuts = cuts
        self._cuts = with_categories(cuts, self._rules)
        self._margins = MarginBounds(plan, self._setup, self._before)
        self._growth = GrowingTrees(
            plan,
            self._rules,
            self._cuts,
            self._setup,
            self._pool,
            self._n_rows,
            max(rows + held for _, _, rows, held, _ in self._roster),
            len(self._parties),
            self.parties,
        )
        if self._counts is not None:
            self._counts.naming.start(self._setup.weight_bound)

    def _public_bounds(self) -> tuple[Plan, float, float]:
        """What bounds on a row's hessian follow from (`custom.most_hessian`)."""
        return self._plan, self._setup.weight_bound, self._gradient_bound

    def _start_totals(self, hessian_sums: Sequence[float] | None = None) -> float:
        """Expect the totals of the next round, and the metrics of the rounds so far; returns the bound on |g|.

        Args:
            hessian_sums: by output, an upper bound on the sum of h over all rows that may be drawn; None where none is known.
        """
        self._tree += max(len(self._growth.trees), 1)
        self._step = 0
        self._exchanges += 1
        self._expect_totals()
        bound = self._margins.gradient_bound(hessian_sums)
        self._bound_gradients(bound)
        return bound

    def _expect_totals(self) -> None:
        shapes: dict[str, tuple[int, ...]] = {"totals": (TOTALS * self._plan.parameters.outputs,)}
        if self._tree > 0 and self._n_evaluation:
            shapes |= self._history.shapes()
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
            metrics = self._history.evaluate(sums, self._n_evaluation, self._setup.bounds, self._gradient_bound)
            self._report(
                TreeGrown(
                    trees=rounds,
                    rounds=parameters.rounds,
                    metrics=metrics,
                    without_value=self._history.without_value,
                )
            )
            self._stopping = rounds == parameters.rounds or self._history.stops_early()
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
            yield from self._broadcast(self._scale(self._totals))
            # The parties are at work again.
            self._start_trees()

    def _scale(self, totals: list[int]) -> QuantiseGradients:
        """Ask for the roots' histograms of the trees that come next; `_start_trees` then takes them."""
        scales = self._growth.scale(self._tree, totals, self._units)
        self._step = 1
        return scales

    def _start_trees(self) -> None:
        self._growth.start(most_hessian(*self._public_bounds()))
        if self._counts is not None:
            scales = [tree.scales for tree in self._growth.trees]
            self._counts.naming.start_trees(self._tree, scales, self._gradient_bound)

    def _take_histograms(self, member: str, message: Contribution) -> Outgoing:
        quantity = "root" if self._with_root else "histograms"
        owed = [name for name in self._sums.owed(member) if name != "totals"]
        if owed or message.quantity != quantity:
            raise self._broken(member, message, f"expected {', '.join([*owed, quantity])}")
        values = self._root(member, message) if self._with_root else self._words(member, message)
        parts = self._growth.nodes_of(member, message.first, values)
        if not parts:
            raise self._broken(member, message, self._growth.expected_of(member, message.first, values))
        if not self._with_root:
            for place, _, part in parts:
                self._check_rows(member, message, part, place)
        self._sums.count_bytes(len(message.values.data))
        self._growth.add(member, parts, message.zero)
        if self._growth.complete:
            if not self._growth.cancels:
                raise self._noise(message)
            if self._with_root:
                self._with_root = False
                yield from self._totalled(message, self._sums.totals)
            yield from self._decide(message)

    def _words(self, member: str, message: Contribution) -> Int64:
        """Histograms of some nodes, one behind the other."""
        return messages.to_array(member, "histograms", message.values, np.int64, (None,))

    def _root(self, member: str, message: Contribution) -> Int64:
        """The root's histogram; the member's totals behind it are added to the others'."""
        words = math.prod(self._growth.trees[0].grower.node_shape)
        values = messages.to_array(member, "root", message.values, np.int64, (words + TOTALS,))
        self._check_rows(member, message, values)
        if not self._sums.awaited["totals"].add(member, values[words:], 0):
            raise self._broken(member, message, "that part was given before")
        return values[:words]

    def _decide(self, message: Contribution) -> Outgoing:
        if self._stopping:  # the metrics said so while the root was being built
            yield from self._finish(message)
            return
        growth, trees, level_number = self._growth, self._growth.trees, self._growth.level
        decided = growth.decide()
        if growth.growing:
            self._session.go(message, "growing")
            self._exchanges += 1
            growth.start_level()
            self._step = growth.level + 1
            yield from self._split(decided, level_number)
            # The parties are at work again.
            growth.go_on()
            return
        if quantiles := self._plan.parameters.quantiles:
            self._session.go(message, "refitting")
            self._exchanges += 1
            self._step = level_number + 2
            tree = trees[0]
            groups = tree.grower.n_leaves
            self._quantiles = QuantileSearch(
                self._setup.grid, groups, (quantiles[tree.output],), self._plan.min_cell_rows
            )
            self._expect_residuals(first_request(groups))
            yield from self._split(decided, level_number)
            return
        following = self._following(message)
        yield from self._split(decided, level_number, following)
        self._keep_trees(trees, following)

    def _following(self, message: Contribution) -> QuantiseGradients | None:
        """Go on behind the trees that grew, whose leaves have their values; the next trees' scales where they are known."""
        trees = self._growth.trees
        for tree in trees:
            self._margins.widen(tree.grower.leaves.values, tree.output)
        if (self._tree + len(trees)) % self._per_round:
            self._tree += len(trees)
            self._exchanges += 1
            following = self._scale(self._totals)
            self._session.go(message, "growing")
            return following
        return self._next_round(message, trees[0])

    def _keep_trees(self, trees: Sequence[GrowingTree], following: QuantiseGradients | None) -> None:
        """Put the trees together, and start the next ones where their scales are out; the parties are at work again."""
        self._trees += [tree.grower.tree(self._cuts.offsets, self._cuts.values) for tree in trees]
        if following is not None:
            self._start_trees()

    def _next_round(self, message: Contribution, tree: GrowingTree) -> QuantiseGradients | None:
        """Expect what a round begins with; the scales of its first trees where they are known. tree: the one before, or one of several
        that grew side by side.
        """
        parameters = self._plan.parameters
        all_drawn = parameters.subsample == 1
        rounding = self._n_rows / tree.scales.hessian
        sums = self._margins.sums_after(self._totals, self._units, tree.grower, rounding)
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
        return self._scale(self._most)

    def _split(self, decided: Decided, number: int, then: QuantiseGradients | None = None) -> Outgoing:
        yield from self._broadcast(split_nodes(decided, number, self._gradient_bound, then))
        if self._counts is not None:
            self._counts.name(self._counts.naming.nodes(number, {tree.number: level for tree, level in decided}))

    def _finish(self, message: Contribution) -> Outgoing:
        plan = self._plan
        grown = len(self._trees)
        rounds = kept_rounds(plan, self._history.values, grown)
        keep = rounds * self._per_round
        ensemble = model_of(plan, self._before, self._setup.start.base_scores, self._trees[:keep])
        without_value = self._history.without_value
        self._report(Trained(trees=rounds, rounds=plan.parameters.rounds, without_value=without_value))
        model = to_json(ensemble)
        history = self._history.values
        self._end.reach(Outcome(ensemble, model, history, grown, self._exchanges, self._roster, without_value))
        if self.withheld:
            metrics = {plan.release.metric: self._end.released_value}
            self._report(Withheld(trees=rounds, rounds=plan.parameters.rounds, metrics=metrics))
        packed = self._end.packed
        if plan.shap and not self.withheld:
            self._session.go(message, "explaining")
            self._step, self._explained_trees = 0, keep
            self._expect({"shap": (len(plan.schema.features),)})
            yield from self._broadcast(Explain(keep, self._end.digest, packed))
            return
        self._session.go(message, "finishing")
        told = {member: self._end.message(keep, self._collectors.of(member), packed) for member in self.parties}
        yield from self._tell(told)

    def _explained(self, message: Contribution, sums: Int64) -> Outgoing:
        """The pooled sizes of SHAP values are there: tell everybody their means, and the end of the run."""
        with blaming(*self._suspects):
            told = self._end.explained(self._explained_trees, sums, self._n_rows, self._n_evaluation)
        self._session.go(message, "finishing")
        yield from self._tell(dict.fromkeys(self.parties, told))

    def _acknowledge(self, member: str, message: Received) -> None:
        self._end.acknowledge(member, message)
        self.done = len(self._end.received) == len(self._parties)
        self._session.go(message, "finished" if self.done else "finishing")
