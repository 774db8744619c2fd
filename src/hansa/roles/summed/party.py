"""A party: holds rows, answers the aggregator's requests with sums over them. No I/O: frames in, frames out.

What it sends is `Join`, `Contribution`s (in a `VouchRows` where row counts go with them), `Received` and `Abort`, nothing else; every
`Contribution` leaves through `Party._contribute`, the one place that a mode which protects sums has to change.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy
from hansa.data.bin_counts import Layout
from hansa.data.columns import Columns
from hansa.data.description import Description
from hansa.data.quantiles import CutGuard, CutRequest, Cuts
from hansa.data.residuals import Grid, ResidualGuard, first_request
from hansa.errors import HansaError, IdentityError, ProtocolError, RunStopped
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    SETUP,
    Abort,
    Contribution,
    CountBins,
    CountCells,
    CountMagnitudes,
    CountResiduals,
    Described,
    ExchangeKeys,
    Explain,
    Finish,
    Join,
    KeepLevels,
    KeysCommitted,
    KeysConfirmed,
    Message,
    QuantiseGradients,
    Received,
    SetLeaves,
    ShowRows,
    SplitNodes,
    SumLabels,
    TellLevels,
    Tensor,
    TreeScales,
    TreeSplits,
    UseCuts,
    UseLevels,
    Welcome,
)
from hansa.protocol.session import (
    DESCRIBING_PARTY,
    DESCRIBING_PARTY_MASKED,
    DESCRIBING_PARTY_VERIFYING,
    PARTY,
    PARTY_MASKED,
    PARTY_VERIFYING,
    Session,
)
from hansa.roles.batches import Admit, admit_all, check_roster, enough_rows
from hansa.roles.reading import reading_of
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
from hansa.roles.summed import describing
from hansa.roles.summed.custom import (
    NO_FUNCTIONS,
    Functions,
)
from hansa.roles.summed.features import feature_rules, node_columns, with_categories
from hansa.roles.summed.levels import (
    check_levels,
    dictionary_of,
    level_counts,
    with_union,
)
from hansa.roles.summed.party_rows import DoesNotFit, HoldRows, TrainingStart
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.roles.summed.side_by_side import trees_at_once
from hansa.roles.summed.start_model import start_model
from hansa.roles.summed.statistics import (
    base_is_quantile,
    rounded_leaf_bits,
    shap_unit,
)
from hansa.roles.summed.sum_masking import MaskingNotReady, NoMasking, Signer, SumMasking
from hansa.roles.summed.verified_counts import CountChecker, Evidence, Named
from hansa.secure.keys import RunNames
from hansa.trees import histogram, objective
from hansa.trees.contributions import most_contribution
from hansa.trees.ensemble import Ensemble, base_margin
from hansa.trees.growth import Buffers, check_level, nodes_to_build, rounded, tree_received
from hansa.trees.level import ALL_NODES, NO_CATEGORIES, Level, filled
from hansa.trees.losses import LOSSES, is_exponential
from hansa.trees.metrics import MetricScale
from hansa.trees.node_columns import NodeColumns
from hansa.trees.sampling import draw_columns
from hansa.trees.worker_pool import ALONE, WorkerPool
from hansa.trees.xgboost_json import from_json, to_json

NODE_BYTES, CATEGORY_BYTES, TREE_BYTES, HEAD_BYTES = 256, 9, 1024, 2**16
"""More than a node, a category of its split, a tree without its nodes, and a model without its trees and names take in a model file."""

FRAMES_PER_LEVEL = 2
"""Frames that the histograms of a level are sent in: enough that the aggregator adds some while others are built."""

ONE_FRAME_VALUES = 1_500_000
"""Rows times columns of a tree up to which a level is one frame: it is built in less time than a second frame costs."""

NOT_BROADCAST = (Welcome, KeysConfirmed, ShowRows, Finish, Abort)
"""What differs from party to party, or comes before there is a transcript to bind it to (the run's id binds `Welcome`); of a `ShowRows`
the part that all see alike is absorbed on its own."""

LEAF_SLACK = 1 + 2.0**-20
"""Leaf values are rounded to float32: what none exceeds is widened by this factor."""

DEFAULT_POLICY = Policy()

_ROOT = np.zeros(1, np.int64)
"""Where a tree's root stands among the active nodes."""


@dataclass
class _Tree:
    """A tree that grows, as far as this party was told of it.

    Attributes:
        number: of all trees of the run. place: among those that grow side by side. output: whose margins it moves.
        rows: of this party that it trains on.
        layout, allowed: of its columns; bool (n_features,). node_columns: of its nodes.
        active: nodes whose splits come next. depths: int64 (active,), of these. leaves: so far, those counted that may be split.
        found: leaves that were told. levels: of a receiver, what was told. ended: whether its last level was.
    """

    number: int
    place: int
    output: int
    rows: int
    layout: histogram.Layout
    allowed: npt.NDArray[np.bool_]
    node_columns: NodeColumns
    active: int = 1
    depths: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, np.int64))
    leaves: int = 1
    found: int = 0
    levels: list[Level] = field(default_factory=list)
    ended: bool = False


Asked = list[tuple[_Tree, npt.NDArray[np.int64]]]
"""Trees, and the positions of active nodes whose histograms are asked for."""


def _some_of(asked: Asked, first: int, count: int) -> Asked:
    """Of all these nodes, one tree's behind the other's, `count` from `first` on, or those that there are."""
    found = []
    for tree, positions in asked:
        own = positions[max(first, 0) : max(first + count, 0)]
        if len(own):
            found.append((tree, own))
        first -= len(positions)
    return found


class Party:
    """One party's side of a run.

    Args:
        plan: as every member holds it.
        name: this party.
        rows: its table, which never leaves this object; None where an engine has it (`hold`).
        nonce: 32 bytes nobody else can foresee.
        worker pool: compute threads.
        nodes_per_frame: histograms that are sent together; 0 makes `FRAMES_PER_LEVEL` frames of a level, or one where that is soon
            built.
        signer: this party's signature and everybody's pinned identity; needed in secure-aggregation mode.
        policy: this party's own conditions.
        admit: called with the run's id and roster before anything of the rows leaves; raises PlanError where they may not meet.
        report: called with `Progress` as the run goes on, without metrics: a party does not learn them.
        start: the model file that the plan goes on from, where it names one; a description needs none.
        purpose: whether the run trains a model, or describes the pooled table.
        functions: of the plan's custom objective and metric, where it has them; the policy must allow them.
        hold: takes the rows over: this process, or an engine.

    Attributes:
        done: whether the run is over. run: the run's id, once known.
        trees_ended: whether the splits that were told last ended all trees that they were for.
        description: of the pooled table, once told, with this party's own shifts; None where the run trains.
        masked_bytes: bytes of sums that left masked so far.
        model: the XGBoost JSON, once received; None for a member that the plan does not name a receiver.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        rows: Columns | None,
        *,
        nonce: bytes,
        pool: WorkerPool = ALONE,
        nodes_per_frame: int = 0,
        signer: Signer | None = None,
        policy: Policy = DEFAULT_POLICY,
        admit: Admit = admit_all,
        report: Callable[[Progress], None] = lambda _: None,
        start: bytes | None = None,
        purpose: Purpose = "train",
        functions: Functions = NO_FUNCTIONS,
        hold: HoldRows = RowsInMemory,
    ) -> None:
        policy.check_plan(plan)
        self._describes = purpose == "describe"
        self.description: Description | None = None
        if self._describes:
            describing.check_describable(plan)
        self._before = None if self._describes else start_model(plan, start, name)
        if plan.mode != "federated" and signer is None:
            raise IdentityError(f"party {name!r}: mode {plan.mode!r} needs this member's identity and the members file")
        self._rows = hold(plan, name, rows, pool, functions, self._describes)
        self._foreseen = functions.objective is None and LOSSES[plan.parameters.objective].foreseen
        self.done = self.trees_ended = False
        self._policy = policy
        self._admit = admit
        self._signer = signer
        self._masking: NoMasking | SumMasking = NoMasking() if plan.mode == "federated" else MaskingNotReady()
        self.model: bytes | None = None
        self.withheld = False
        self.shap: dict[str, float] = {}
        self.run = b""
        self._report = report
        self._plan = plan
        self._name = name
        self._above = plan.above(name)
        self._nodes_per_frame = nodes_per_frame
        tables = (PARTY, PARTY_MASKED, PARTY_VERIFYING)
        if self._describes:
            tables = (DESCRIBING_PARTY, DESCRIBING_PARTY_MASKED, DESCRIBING_PARTY_VERIFYING)
        table = tables[2 if plan.verify_counts != "off" else int(plan.mode != "federated")]
        self._counts: CountChecker | None = None
        self._held: Iterator[bytes] = iter(())
        self._session = Session("party", table, "joining")
        self._replaying = False
        self._resumed: SumMasking | None = None
        n_held = self._rows.evaluation_rows
        identities = {} if signer is None else signer.identities
        agreed, parts = agreement(plan, identities, purpose), agreement_parts(plan, identities, purpose)
        enough = b"" if plan.mode == "federated" else enough_rows(plan, *self._rows.label_counts())
        self._join = Join(PROTOCOL_VERSION, agreed, nonce, self._rows.n_rows - n_held, n_held, enough, parts)
        self._rules = feature_rules(plan)
        self._per_round = plan.parameters.trees_per_round
        self._last_tree = plan.parameters.rounds * self._per_round - 1
        self._tree = SETUP
        self._step = 0
        self._stops_early = plan.parameters.early_stopping_rounds is not None or plan.trial is not None
        self._buffers = Buffers()
        self._with_root = False
        self._levels_due = not self._describes and bool(plan.schema.rare_levels)
        self._trees: list[_Tree] = []
        self._grown = 0
        self._received: list[tuple[Level, ...]] = []
        self._nodes = 0  # of all trees that grew here
        self._categories = 0  # that go right, of all their splits

    def opening(self) -> Iterator[bytes]:
        """The frames that a party sends before it is asked anything."""
        yield messages.encode(self._join)

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """Answer one frame of the aggregator; answers are made one by one, so that each can leave as soon as it is there.

        A party that refused once is done: its keys are erased and it takes nothing more, not even what would be right.

        Raises:
            ProtocolError: the aggregator broke a rule. HansaError: it stopped the run.
        """
        try:
            yield from self._answer(frame)
        except Exception as error:
            self.erase()
            if isinstance(error, ProtocolError) and error.member == self._plan.aggregator != self._above:
                error.member, error.suspects = "", (self._plan.aggregator, self._above)
            raise

    def resume(
        self,
        welcome: bytes,
        broadcasts: Iterable[tuple[bytes, bytes | None]],
        last: bytes | None,
        masking: SumMasking | None,
    ) -> Iterator[bytes]:
        """Go on from a checkpoint of this run: take again what was broadcast before it, and answer the last broadcast anew.

        Args:
            welcome: the frame that the run began with. broadcasts: those before the last one, each with the row counts
                (`ShowRows.words`) that were shown after it, or None. last: the one that the checkpoint ends with, which alone is
                answered; None where nothing is to be answered. masking: of the new epoch, its keys confirmed; None in federated mode.

        Raises:
            HansaError: what was kept is not what this party's rows and plan gave; or sums would leave without the masks of the plan.
        """
        if last is not None and masking is None and self._plan.mode != "federated":
            raise HansaError(f"party {self._name!r} would answer without the masks that its plan asks for")
        self._replaying, self._resumed = True, masking
        for frame, shown in itertools.chain([(welcome, None)], broadcasts):
            for _ in self._answer(memoryview(frame)):
                pass
            if shown is not None and self._counts is not None:
                with self._blaming():
                    self._counts.recall_counts(shown)
        self._replaying = False
        if masking is not None:
            self._masking = masking
        if last is not None:
            yield from self._answer(memoryview(last))

    def check_remaining(self, roster: Roster) -> None:
        """Hold those who are left, where others are left out, to the plan's minimum and this party's policy. Raises ProtocolError."""
        check_roster(self._policy, self._plan, self._name, roster)

    def see_last_counts(self, words: bytes, signature: bytes) -> None:
        """Check the row counts that are still due of a run whose keys are gone, by the aggregator's signature. Raises HansaError."""
        if self._counts is None:
            raise self._broken("row counts are shown that the plan does not ask for")
        with self._blaming():
            self._counts.open_signed(words, signature)

    def erase(self) -> None:
        """Zero all keys: nothing is answered after this. Safe to call twice, at whatever end."""
        if not self.done:
            self._session.state = "aborted"
        self._masking.erase()

    def _answer(self, frame: memoryview) -> Iterator[bytes]:
        if self._counts is not None and self._counts.first:
            frame = memoryview(bytes(frame))  # the answer waits for row counts, whose frame overwrites this one
        message = self._session.decode(self._plan.aggregator, frame)
        if self._counts is not None and self._counts.due and not isinstance(message, ShowRows | Abort):
            raise self._broken(f"{type(message).__name__} came before the row counts of what was named before it")
        if not isinstance(message, NOT_BROADCAST) and not self._replaying:
            self._masking.absorb(type(message).__name__, frame)
            if self._counts is not None:
                self._counts.absorb(type(message).__name__, frame)
        match message:
            case Welcome():
                self._welcome(message)
                if isinstance(self._masking, SumMasking):
                    yield messages.encode(self._masking.opening())
            case KeysCommitted() if isinstance(self._masking, SumMasking):
                self._session.go(message, "committed")
                with self._blaming():
                    announced = self._masking.committed(message)
                yield messages.encode(announced)
            case ExchangeKeys() if isinstance(self._masking, SumMasking):
                self._session.go(message, "keyed")
                with self._blaming():
                    answer = self._masking.exchange(message)
                yield messages.encode(answer)
            case KeysConfirmed() if isinstance(self._masking, SumMasking):
                self._session.go(message, "confirmed")
                with self._blaming():
                    self._masking.confirm(message)
            case CountMagnitudes():
                self._session.go(message, "measured")
                if self._plan.schema.union:
                    yield messages.encode(TellLevels(dict(self._rows.own_levels)))
                yield self._contribute("magnitudes", self._rows.count_magnitudes())
            case UseLevels():
                self._session.go(message, "measured")
                self._use_union(message)
            case SumLabels() if self._plan.schema.union:
                raise self._broken("labels are summed before all parties' levels were told")
            case SumLabels():
                self._session.go(message, "labelled")
                yield self._sum_labels(message)
                if self._levels_due:
                    yield self._contribute("levels", self._rows.count_levels())
            case KeepLevels():
                self._session.go(message, "labelled")
                self._keep_levels(message)
            case CountCells() | UseCuts() if self._levels_due:
                raise self._broken("cuts are searched before it was said which levels are kept")
            case CountCells():
                self._session.go(message, "cutting")
                yield from self._count_cells(message)
            case UseCuts():
                self._session.go(message, "scaling")
                self._use_cuts(message)
                self._note(Binned, 0)
                yield from self._start_round(message.gradient_bound)
            case CountBins():
                self._session.go(message, "describing")
                yield from self._count_bins(message)
            case Described():
                self._session.go(message, "finished")
                self._read_description(message)
                self._masking.erase()
                yield messages.encode(Received(hashlib.sha256(frame).digest()))
                self.done = True
                self._note(TableDescribed, 0)
            case QuantiseGradients():
                self._session.go(message, "growing")
                self._quantise(message)
                yield from self._histograms([(tree, _ROOT) for tree in self._trees])
            case SplitNodes():
                yield from self._split(message)
            case CountResiduals():
                yield from self._count_residuals(message)
            case SetLeaves():
                yield from self._set_leaves(message)
            case ShowRows():
                yield from self._see_counts(message)
            case Explain() | Finish() if self._session.state == "growing" and (self._level or not self._stops_early):
                raise self._broken("the run is said to be over in the middle of a tree")
            case Explain():
                self._session.go(message, "explaining")
                yield self._explain(message)
            case Finish():
                explained = self._session.state == "explaining"
                self._session.go(message, "finished")
                if explained:
                    self._see_summary(message)
                self._masking.erase()
                yield messages.encode(self._finish(message))
                self.done = True
                self._note(Trained, message.trees)
            case Abort():
                self._session.go(message, "aborted")
                who = f" because of member {message.member!r}" if message.member else ""
                raise RunStopped(
                    self._plan.aggregator,
                    f"member {self._plan.aggregator!r} stopped the run{who}: {message.reason}",
                    retry=message.retry,
                    member=message.member,
                )
            case _:
                raise ProtocolError(
                    f"member {self._plan.aggregator!r} sent {type(message).__name__}, which no party takes",
                    member=self._plan.aggregator,
                )

    def _note(self, stage: type[Progress], trees: int) -> None:
        if self._replaying:
            return
        self._report(stage(trees=trees, rounds=self._plan.parameters.rounds))

    @property
    def rounds_grown(self) -> int:
        """Rounds whose trees have all ended here."""
        return self._grown // self._per_round

    @property
    def join(self) -> Join:
        """This party's first word."""
        return self._join

    @property
    def evidence(self) -> Evidence | None:
        """What the aggregator signed last; None where row counts are not verified."""
        return None if self._counts is None else self._counts.evidence

    @property
    def masked_bytes(self) -> int:
        """Bytes of sums that left masked so far."""
        return self._masking.masked_bytes

    def _contribute(self, quantity: str, values: npt.NDArray[Any], first: int = 0, words: int | None = None) -> bytes:
        """The frame with this party's part of a sum, protected as the mode says; `values` may be overwritten.

        Args:
            values: int64 or uint32. first: position of its first item; words: of the whole vector, where this is a fragment.
        """
        if self._replaying:
            return b""
        whole = values.size if words is None else words
        zero = self._masking.mask(self._tree, self._step, quantity, values, first == 0, whole)
        part = Contribution(self._tree, self._step, quantity, first, messages.to_tensor(values), zero)
        return messages.encode(part if self._counts is None else self._counts.carry(part))

    def _with_counts(
        self, named: Named | None, own: npt.NDArray[np.integer[Any]] | None, answer: Iterator[bytes]
    ) -> Iterator[bytes]:
        """An answer, with this party's row counts of what was named; or the counts alone, and the answer once all were shown."""
        if self._counts is None or named is None:
            yield from answer
            return
        if self._replaying:
            self._counts.recall(named)
            yield from answer
            return
        self._counts.vouch(named, own)
        if not self._counts.first:
            yield from answer
            return
        self._held = answer
        yield messages.encode(self._counts.message())

    def _see_counts(self, message: ShowRows) -> Iterator[bytes]:
        """Check what all parties vouched for; then comes the broadcast that it stands before, or the answer that waits for it."""
        self._session.go(message, self._session.state)
        assert self._counts is not None  # the session's table
        with self._blaming():
            self._counts.open(message)
        if self._counts.first != (len(message.frame) == 0):
            raise self._broken(
                "row counts are shown with a broadcast where they come first, or alone where they come with one"
            )
        held, self._held = self._held, iter(())
        yield from self._answer(message.frame) if len(message.frame) else held

    def _array(
        self, message: msgspec.Struct, name: str, dtype: type[np.generic], *shape: int | None
    ) -> npt.NDArray[np.generic]:
        """A copy of a tensor of the aggregator's message, held to its dtype and shape."""
        tensor: Tensor = getattr(message, name)
        what = f"{type(message).__name__}.{name}"
        return messages.to_array(self._plan.aggregator, what, tensor, dtype, shape).copy()

    def _whole(self, message: Message, name: str, length: int | None) -> npt.NDArray[np.int64]:
        """The same of whole numbers, (length,)."""
        return self._array(message, name, np.int64, length).astype(np.int64)

    def _broken(self, rule: str) -> ProtocolError:
        through = "" if self._above == self._plan.aggregator else f", through collector {self._above!r},"
        return ProtocolError(
            f"member {self._plan.aggregator!r} (aggregator){through} to {self._name!r}, tree {self._tree}, step {self._step}: {rule}",
            member=self._plan.aggregator,
            rule=rule,
        )

    @contextmanager
    def _blaming(self) -> Iterator[None]:
        """What is wrong with something the aggregator sent is its fault, or that of the party whose words it passed on."""
        try:
            yield
        except HansaError as error:
            if isinstance(error, ProtocolError) and error.member == self._plan.aggregator:
                raise
            broken = self._broken(str(error))
            if others := (error.member,) if error.member else error.suspects:
                broken.member, broken.suspects = "", (self._plan.aggregator, *others)
            raise broken from error

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the aggregator told does not fit this party's rows: its fault."""
        try:
            yield
        except DoesNotFit as error:
            raise self._broken(str(error)) from error

    def _welcome(self, message: Welcome) -> None:
        plan = self._plan
        names = tuple(name for name, *_ in message.roster)
        if tuple(sorted(set(names))) != names or not set(names) <= set(plan.parties) or self._name not in names:
            raise self._broken(f"roster {names} is not a sorted part of the plan's parties that includes this one")
        if plan.mode != "federated" and names != plan.parties:
            # Fewer parties now and all of them in another run of the same plan: the difference is one party's part.
            left_out = ", ".join(sorted(set(plan.parties) - set(names)))
            raise self._broken(
                f"the roster leaves out {left_out}; in mode {plan.mode!r} every party of the plan takes part, or nobody does"
            )
        if len(names) < plan.minimum_parties:
            raise self._broken(f"{len(names)} parties take part; the plan asks for at least {plan.minimum_parties}")
        mine = (self._name, self._join.nonce, self._join.rows, self._join.evaluation_rows, self._join.enough)
        if mine not in message.roster:
            raise self._broken("the roster gives this party another nonce or other numbers of rows than it sent")
        if any(min(rows, held) < 0 or rows + held < 1 for _, _, rows, held, _ in message.roster):
            raise self._broken("the roster gives a party no rows")
        if message.run != run_id(self._join.plan, message.roster):
            raise self._broken("the run's id is not the hash of plan and roster")
        check_roster(self._policy, plan, self._name, message.roster)
        if not self._replaying:
            self._admit(message.run, message.roster)
        self._session.go(message, "welcomed")
        self.run = message.run
        self._note(Registered, 0)
        if self._signer is not None and plan.mode == "secure-aggregation":
            masked = self._resumed or SumMasking(
                self._name,
                RunNames(self._join.plan, message.run),
                self._signer,
                names,
                vouches=plan.verify_counts != "off",
            )
            if self._replaying:  # the keys of the new epoch are confirmed already
                self._session.state, self._masking = "confirmed", NoMasking()
            else:
                self._masking = masked
            if plan.verify_counts != "off":
                trained = sum(rows for _, _, rows, _, _ in message.roster)
                names_of_columns = describing.columns_of(plan).names if self._describes else ()
                identity = self._signer.identities[plan.aggregator]
                self._counts = CountChecker(plan, self._name, masked, trained, identity, names_of_columns)
        self._roster: Roster = message.roster
        self._n_rows = sum(rows for _, _, rows, _, _ in message.roster)
        self._most_rows = max(rows + held for _, _, rows, held, _ in message.roster)
        self._n_evaluation = sum(held for _, _, _, held, _ in message.roster)
        self._rows.join(self._n_rows, self._n_evaluation, len(names), self._join.rows)
        self._n_columns = len(plan.schema.features) + self._describes
        self._guard = CutGuard(self._n_columns, self._n_rows, plan.parameters.max_bin, plan.min_cell_rows)

    def _sum_labels(self, message: SumLabels) -> bytes:
        self._step += 1
        self._weight_unit = message.weight_unit
        if self._plan.parameters.quantiles:
            # Both bounds are powers of two: so far apart are the units of a label times its weight and of the weight.
            with self._blaming():
                self._grid = Grid(message.label_unit - message.weight_unit)
        if self._replaying:
            return b""
        with self._asking():
            sums = self._rows.sum_labels(message.label_unit, message.weight_unit)
        return self._contribute("labels", sums)

    def _use_union(self, message: UseLevels) -> None:
        """Go on with all parties' levels."""
        if not self._plan.schema.union:
            raise self._broken("levels of all parties are told, and the plan has them, or it was said before")
        with self._blaming():
            check_levels(self._plan, message.levels)
        self._plan = with_union(self._plan, message.levels)
        with self._asking():
            self._rows.unite(self._plan, message.levels)
        self._rules = feature_rules(self._plan)

    def _keep_levels(self, message: KeepLevels) -> None:
        """Go on with the levels that are said to be kept."""
        if not self._levels_due:
            raise self._broken("levels are kept, and none are rare, or it was said before")
        kept = self._array(message, "kept", np.uint8, level_counts(self._plan))
        with self._blaming():
            dictionary = dictionary_of(self._plan, kept)
        self._plan = dictionary.plan
        self._rows.recode(self._plan, dictionary.codes)
        self._rules = feature_rules(self._plan)
        self._levels_due = False

    def _count_cells(self, message: CountCells) -> Iterator[bytes]:
        self._step += 1
        request = CutRequest(
            message.bits,
            self._array(message, "offsets", np.int64, self._n_columns + 1),
            self._array(message, "prefixes", np.uint32, None),
        )
        with self._blaming():
            self._guard = self._guard.check(request)
        named = None if self._counts is None else self._counts.naming.cells(self._step, request)
        if self._replaying:
            yield from self._with_counts(named, None, iter(()))
            return
        counts, sums = self._rows.count_cells(request)
        own = counts.reshape(-1, request.split).sum(axis=1)
        yield from self._with_counts(named, own, self._cells(counts, sums))

    def _cells(self, counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.int64] | None) -> Iterator[bytes]:
        yield self._contribute("cells", counts)
        if sums is not None:
            yield self._contribute("weights", sums)

    def _count_bins(self, message: CountBins) -> Iterator[bytes]:
        """This party's rows by bin and category of every column, where what is asked for may be asked."""
        self._step += 1
        with self._blaming():
            cuts = Cuts(
                self._array(message, "offsets", np.int64, self._n_columns + 1),
                self._array(message, "values", np.float32, None),
                np.zeros(self._n_columns, np.bool_),
            )
            rows = self._whole(message, "rows", None)
            columns = describing.columns_of(self._plan)
            layout = describing.check_request(self._plan, columns, self._guard, cuts, rows)
        with self._asking():
            own = self._rows.count_bins(layout)
        with self._blaming():
            describing.check_own(layout, own, rows, self._n_rows)
        self._guard = self._guard.close()
        self._layout_of_cells: Layout = layout
        self._pooled_bins, self._own_cells = rows, own.copy()
        named = None if self._counts is None else self._counts.naming.bins(self._step, layout)
        in_bins = describing.bins_of(layout, own, rows, self._n_rows)
        yield from self._with_counts(named, in_bins, self._bins(own))

    def _bins(self, own: npt.NDArray[np.int64]) -> Iterator[bytes]:
        yield self._contribute("bins", own)

    def _read_description(self, message: Described) -> None:
        """Keep what is told of the pooled table, where it is what the plan allows, with this party's own shifts."""
        plan, layout, rows = self._plan, self._layout_of_cells, self._pooled_bins
        told = self._whole(message, "counts", int(layout.offsets[-1]))
        other = self._whole(message, "other", self._n_columns)
        with self._blaming():
            columns = describing.columns_of(plan)
            describing.check_told(plan, columns, layout, rows, self._n_rows, told, other)
            if self._counts is not None and not np.array_equal(self._counts.naming.pooled_bins, rows):
                raise self._broken("bins were said to hold other rows than the parties vouched for")
            if not math.isfinite(message.label_mean) or (message.label_mean and not describing.tells_mean(layout)):
                raise self._broken(f"the mean of the labels is said to be {message.label_mean}")
        own = {self._name: self._own_cells}
        self.description = describing.description_of(
            plan, self.run, self._roster, layout, told, other, message.label_mean, own
        )

    # --- quantiles of residuals ---------------------------------------------------------------------------------------

    def _start_guard(self, groups: int, quantiles: int, rows: int) -> None:
        least = self._plan.min_cell_rows
        self._residual_guard = ResidualGuard(self._grid, groups, quantiles, rows, least)

    def _count_residuals(self, message: CountResiduals) -> Iterator[bytes]:
        """Rows in the parts of cells that hold quantiles: of labels before the first tree, then of residuals in a tree's leaves."""
        first = self._session.state == "cutting"
        if message.tree != self._tree:
            raise self._broken(f"residuals of tree {message.tree} are asked for; expected tree {self._tree}")
        if first and not base_is_quantile(self._plan):
            raise self._broken("labels are asked for by cells; the plan starts from no quantile of them")
        self._session.go(message, "locating" if self._tree == SETUP else "refitting")
        self._step += 1
        prefixes = self._array(message, "prefixes", np.uint32, None).astype(np.uint32)
        request = CutRequest(message.bits, self._whole(message, "offsets", None), prefixes)
        if first:
            labels = self._plan.parameters.num_target
            asked = first_request(labels)
            if (
                message.bits
                or not np.array_equal(prefixes, asked.prefixes)
                or not np.array_equal(request.offsets, asked.offsets)
            ):
                raise self._broken("the first cells of all labels are asked for first, and nothing else with them")
            self._start_guard(labels, len(self._plan.parameters.quantiles_of_label), labels * self._n_rows)
        else:
            with self._blaming():
                self._residual_guard = self._residual_guard.check(request)
        yield from self._residuals(request)

    def _refit(self, message: SplitNodes, level: Level) -> Iterator[bytes]:
        """The tree ends: rows by leaf and cell of residuals."""
        if message.then is not None:
            raise self._broken("the next tree's scales come before the values of this one's leaves")
        found = self._trees[0].found
        self._rows.follow(0, level)
        self._session.go(message, "refitting")
        self._step = self._level + 2
        self._start_guard(found, 1, self._n_rows)
        yield from self._residuals(first_request(found))

    def _residuals(self, request: CutRequest) -> Iterator[bytes]:
        named = None if self._counts is None else self._counts.naming.residuals(self._tree, self._step, request)
        if self._replaying:
            yield from self._with_counts(named, None, iter(()))
            return
        counts, sums = self._rows.count_residuals(request, self._grid, self._weight_unit)
        own_rows = None if named is None else counts.reshape(-1, request.split).sum(axis=1)
        yield from self._with_counts(named, own_rows, self._residual_sums(counts, sums))

    def _residual_sums(self, counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.int64]) -> Iterator[bytes]:
        yield self._contribute("residuals", counts)
        if self._plan.weighted:
            yield self._contribute("residual-weights", sums)

    def _set_leaves(self, message: SetLeaves) -> Iterator[bytes]:
        """The tree's leaves have their values: rows move by them, and what comes next begins."""
        if message.tree != self._tree:
            raise self._broken(f"leaves of tree {message.tree} are told; expected tree {self._tree}")
        tree = self._trees[0]
        values = self._array(message, "values", np.float32, tree.found).astype(np.float32)
        most = self._grid.largest * self._plan.parameters.tree_eta * LEAF_SLACK
        if not (np.abs(values) <= most).all():  # nor NaN
            raise self._broken(f"a leaf value is not within {most:.4g} of 0, which no residual times eta exceeds")
        self._rows.set_leaves(values)
        if self._name in self._plan.receivers:
            self._received.append(filled(tree.levels, values))
        self._grown += 1
        yield from self._go_on(message)

    def _use_cuts(self, message: UseCuts) -> None:
        n_features = len(self._plan.schema.features)
        with self._blaming():
            self._check_start(message)
            cuts = Cuts(
                self._array(message, "offsets", np.int64, n_features + 1),
                self._array(message, "values", np.float32, None),
                self._array(message, "has_missing", np.uint8, n_features).astype(np.bool_),
            )
            if cuts.n_bins.max() > self._plan.parameters.max_bin:
                raise self._broken(f"a feature has more bins than max_bin {self._plan.parameters.max_bin}")
            self._guard.check_cuts(cuts)
            if cuts.n_bins[self._rules.n_categories > 0].max(initial=1) > 1:
                raise self._broken("a categorical feature is given cuts, which it has none of")
        cuts = self._cuts = with_categories(cuts, self._rules)
        self._planes = 1 if message.histogram_bits == 32 else 2
        scores = tuple(message.base_scores)
        start = TrainingStart(
            cuts,
            self._rules,
            scores,
            self._before,
            message.scale_pos_weight,
            message.hessian_bound,
            message.label_exponent,
            message.weight_exponent,
            self._planes,
        )
        with self._asking():
            self._rows.start(start)
        self._guard = self._guard.close()
        self._bounds = message
        self._leaf_bits = rounded_leaf_bits(self._plan, self._n_rows, scores[0], message.scale_pos_weight)
        self._sizes = cuts.n_codes
        self._present = self._sizes - cuts.has_missing
        self._layout = histogram.layout_of(cuts.code_offsets, np.zeros(0, np.uint32))
        self._allowed = np.zeros(n_features, np.bool_)
        self._at_once = trees_at_once(self._plan, int(self._sizes.sum()), self._planes, self._most_rows)

    def _check_start(self, message: UseCuts) -> None:
        """Refuse base scores that are not numbers, and others than the plan's where it names them."""
        parameters = self._plan.parameters
        scores = message.base_scores
        outputs = parameters.outputs
        if len(scores) != outputs:
            raise self._broken(f"{len(scores)} base scores; the model has {outputs} outputs")
        for score in scores:
            base_margin(parameters.objective, score)
        if self._before is not None and scores != self._before.ensemble.base_scores:
            raise self._broken(f"base_scores are {scores}; start_model has {self._before.ensemble.base_scores}")
        given = parameters.base_score
        if given is not None and any(score != float(np.float32(given)) for score in scores):
            raise self._broken(f"base_scores are {scores}; the plan says {given}")
        own = self._plan.custom_objective
        if own is not None and message.hessian_bound != own.hessian_bound:
            raise self._broken(f"the hessian_bound is {message.hessian_bound}; the plan says {own.hessian_bound}")
        scale = message.scale_pos_weight
        if not (math.isfinite(scale) and scale > 0) or parameters.scale_pos_weight not in ("auto", scale):
            raise self._broken(f"scale_pos_weight is {scale}; the plan says {parameters.scale_pos_weight}")
        bits = message.histogram_bits
        if bits not in (32, 64) or parameters.histogram_bits not in ("auto", bits):
            raise self._broken(f"histogram_bits is {bits}; the plan says {parameters.histogram_bits}")
        MetricScale(max(self._n_evaluation, 1), message.weight_exponent, message.label_exponent)
        if parameters.quantiles and message.label_exponent != self._grid.label_exponent:
            raise self._broken(
                f"labels are said to reach 2^{message.label_exponent}, and were to be summed by another bound"
            )
        if self._counts is not None:
            if not self._plan.weighted and message.weight_exponent != 0:
                raise self._broken("weights are said to exceed 1, and the plan has none")
            self._counts.naming.start(math.ldexp(1.0, message.weight_exponent) * max(1.0, scale))

    def _start_round(self, gradient_bound: float) -> Iterator[bytes]:
        """Gradients at the margins so far; their totals, and the metrics that the rounds so far reach."""
        self._tree += max(len(self._trees), 1)
        self._step = 0
        if self._tree > 0 and self._n_evaluation and not self._replaying:
            for name, sums in self._rows.metrics(gradient_bound):
                yield self._contribute(f"metric/{name}", sums)
        custom = self._plan.custom_objective
        if custom is not None and gradient_bound != custom.gradient_bound:
            raise self._broken(f"the gradient_bound is {gradient_bound}; the plan says {custom.gradient_bound}")
        self._gradient_bound = gradient_bound
        bound = self._hessian_bound(gradient_bound)
        with self._asking():
            self._totals = self._rows.start_round(self._tree, gradient_bound, bound)
        with self._blaming():
            self._units = (
                objective.unit_exponent(gradient_bound, self._n_rows),
                objective.unit_exponent(bound, self._n_rows),
            )
        if not self._with_root:
            yield self._contribute("totals", np.array(self._totals, np.int64))
        self._start_trees()

    def _start_trees(self) -> None:
        """All drawn rows at the roots of the trees that grow side by side."""
        parameters, of_round = self._plan.parameters, self._tree % self._per_round
        n_features = len(self._plan.schema.features)
        self._trees = []
        for place in range(min(self._at_once, self._per_round - of_round)):
            number, output = self._tree + place, (of_round + place) // parameters.num_parallel_tree
            columns = draw_columns(n_features, parameters.colsample_bytree, parameters.seed, number)
            if not np.array_equal(columns, self._layout.columns):
                self._layout = histogram.layout_of(self._cuts.code_offsets, columns)
                self._allowed = np.isin(np.arange(n_features), columns)
            if place or of_round:
                self._rows.draw(place, number)
            rows = self._rows.start_tree(place, output)
            of_nodes = node_columns(self._plan, self._rules, columns, number)
            self._trees.append(_Tree(number, place, output, rows, self._layout, self._allowed, of_nodes))

    def _hessian_bound(self, gradient_bound: float) -> float:
        """The bound on h of any row in a tree: the first tree's, or where h grows with margins, what the bound on |g| says."""
        parameters = self._plan.parameters
        if not is_exponential(parameters.objective):  # of a custom objective `_check_start` held it to the plan's
            return self._bounds.hessian_bound
        return objective.hessian_bound(parameters.objective, 0.0, gradient_bound, parameters.shape)

    def _quantise(self, message: QuantiseGradients) -> None:
        """Scales of the trees that are at their roots."""
        self._expect_trees("scales for", message, self._trees)
        if message.tree > self._last_tree:
            raise self._broken(f"a tree after the plan's {self._plan.parameters.rounds} rounds")
        scales = [self._scales_of(tree, own) for tree, own in zip(self._trees, message.trees, strict=True)]
        if self._counts is not None:
            self._counts.naming.start_trees(self._tree, scales, self._gradient_bound)
        if not self._replaying:  # then no histogram is built of them
            for tree, own in zip(self._trees, scales, strict=True):
                self._rows.quantise(tree.place, tree.output, own)
        self._level = 0

    def _scales_of(self, tree: _Tree, message: QuantiseGradients | TreeScales) -> objective.Scales:
        """What is told of a tree at its root."""
        columns = self._array(message, "columns", np.uint32, None)
        if not np.array_equal(columns, tree.layout.columns):
            raise self._broken("columns are not those that the plan's seed draws for this tree")
        scales = objective.Scales(message.gradient_scale, message.hessian_scale, self._planes)
        with self._blaming():
            gradient_sum, hessian_sum = self._totals[2 * tree.output : 2 * tree.output + 2]
            objective.check_scales(scales, gradient_sum, hessian_sum, *self._units)
        return scales

    def _expect_trees(self, what: str, message: QuantiseGradients | SplitNodes, trees: Sequence[_Tree]) -> None:
        """Refuse what is told of other trees than these."""
        told = [own.tree for own in message.trees]
        if told != [tree.number for tree in trees]:
            which, expected = (", ".join(map(str, numbers)) for numbers in (told, [tree.number for tree in trees]))
            raise self._broken(f"{what} tree {which}; expected tree {expected}")

    def _split(self, message: SplitNodes) -> Iterator[bytes]:
        growing = [tree for tree in self._trees if not tree.ended]
        self._expect_trees("splits for", message, growing)
        if message.level != self._level:
            raise self._broken(f"splits for level {message.level}; expected level {self._level} of tree {self._tree}")
        levels = [self._read_level(own, tree) for own, tree in zip(message.trees, growing, strict=True)]
        for tree, level in zip(growing, levels, strict=True):
            if self._name in self._plan.receivers:
                tree.levels.append(level.copy())  # frames are not kept
            self._nodes += 2 * int(np.count_nonzero(level.feature >= 0)) + (self._level == 0)
            if len(level.categories):
                unordered = (level.feature >= 0) & (self._rules.n_categories[level.feature] > 0)
                self._categories += int(level.bin[unordered].sum())
        named = None
        if self._counts is not None:
            with self._blaming():
                by_tree = {tree.number: level for tree, level in zip(growing, levels, strict=True)}
                named = self._counts.naming.nodes(self._level, by_tree)
        if self._plan.parameters.quantiles:
            (tree,), (level,) = growing, levels
            numbers = np.arange(tree.found, tree.found + level.leaves, dtype=np.float32)
            levels, tree.found = [level.with_leaves(numbers)], tree.found + level.leaves
        for tree, level in zip(growing, levels, strict=True):
            children = self._rows.move(tree.place, level)
            tree.active, tree.ended = level.active_below(tree.active), level.last
            if self._counts is not None:
                self._counts.count(tree.number, children)
        self.trees_ended = ended = all(tree.ended for tree in growing)
        if message.then is not None and not ended:
            raise self._broken("scales of the next tree in the middle of this one")
        moved = list(zip(growing, levels, strict=True))
        if not ended:
            answer = self._next_level(message, moved)
        elif self._plan.parameters.quantiles:
            answer = self._refit(message, levels[0])
        else:
            self._grown += len(self._trees)
            if self._name in self._plan.receivers:
                self._received.extend(tuple(tree.levels) for tree in self._trees)
            answer = self._next_trees(message, moved)
        yield from self._with_counts(named, None, answer)

    def _next_level(self, message: SplitNodes, moved: Sequence[tuple[_Tree, Level]]) -> Iterator[bytes]:
        """Histograms of the nodes that a level of splits makes."""
        self._session.go(message, "growing")
        self._level += 1
        asked = []
        for tree, level in moved:
            if not level.last:
                tree.node_columns.advance(level)
                asked.append((tree, nodes_to_build(level.build_left)))
        yield from self._histograms(asked)
        for tree, level in moved:
            self._rows.follow(tree.place, level)  # nothing that is sent waits for these rows

    def _next_trees(self, message: SplitNodes, moved: Sequence[tuple[_Tree, Level]]) -> Iterator[bytes]:
        """Begin the trees after those that end here."""
        for tree, level in moved:
            self._rows.follow(tree.place, level)
        yield from self._go_on(message)

    def _go_on(self, message: SplitNodes | SetLeaves) -> Iterator[bytes]:
        """Begin what comes after trees: the roots too, where their scales suit bounds that the leaves gave."""
        parameters = self._plan.parameters
        following = self._tree + len(self._trees)
        in_round = following % self._per_round > 0
        at_once = self._foreseen and self._per_round == 1 and self._tree < self._last_tree and parameters.subsample == 1
        if (message.then is not None) != (in_round or at_once):
            raise self._broken(
                f"the next tree's scales {'do not come' if in_round or at_once else 'come'} with the last splits"
            )
        self._session.go(message, "growing" if in_round or at_once else "scaling")
        if in_round:
            self._tree = following
            self._start_trees()
        else:
            self._with_root = at_once
            self._note(TreeGrown, following // self._per_round)
            yield from self._start_round(message.gradient_bound)
        if message.then is not None:
            self._quantise(message.then)
            yield from self._histograms([(tree, _ROOT) for tree in self._trees])

    def _read_level(self, message: SplitNodes | TreeSplits, tree: _Tree) -> Level:
        """What is told of a tree as a `Level` of views into the frame, refused unless it fits the nodes that are there."""
        active = tree.active
        sender = self._plan.aggregator
        guided = self._plan.parameters.grow_policy == "lossguide"

        def read(name: str, dtype: type[np.generic], count: int | None) -> Any:
            return messages.to_array(sender, f"SplitNodes.{name}", getattr(message, name), dtype, (count,))

        # Where levels are whole and no feature is categorical both are empty, and not read: this is done at every level.
        nodes = read("nodes", np.int32, None if guided else 0) if guided or len(message.nodes.data) else ALL_NODES
        unordered = len(message.categories.data) > 0
        decided = len(nodes) if guided else active
        level = Level(
            feature=read("feature", np.int32, decided),
            bin=read("bin", np.int32, decided),
            missing_left=read("missing_left", np.uint8, decided),
            leaf=read("leaf", np.float32, decided),
            build_left=read("build_left", np.uint8, None),
            child_leaf=read("child_leaf", np.float32, None),
            nodes=nodes,
            categories=read("categories", np.uint8, None) if unordered else NO_CATEGORIES,
        )
        broken = check_level(
            level, tree.allowed, self._present, self._rules.n_categories, active
        ) or self._grown_wrongly(level, tree)
        if broken:
            raise self._broken(broken)
        if self._plan.parameters.quantiles and (level.leaf.any() or level.child_leaf.any()):
            raise self._broken("a leaf has a value before the residuals in it were counted")
        bits = self._leaf_bits
        if bits is not None and any(
            (rounded(values, bits) != values).any() for values in (level.leaf, level.child_leaf)
        ):
            raise self._broken(f"a leaf value is finer than the {bits} fraction bits that the plan leaves to it")
        return level

    def _grown_wrongly(self, level: Level, tree: _Tree) -> str:
        """The rule of the plan's limits on trees that a level breaks, or ""; the depths of the nodes that are active below it."""
        parameters = self._plan.parameters
        if parameters.grow_policy == "depthwise" and not parameters.max_leaves and not tree.node_columns.restricted:
            if not level.last and self._level + 1 >= parameters.max_depth:
                return f"the tree grows beyond max_depth {parameters.max_depth}"
            both = len(level.child_leaf) > 0 and not level.last
            return "children of one level are leaves and are built" if both else ""
        depths, built = tree.depths[level.splits] + 1, level.built
        tree.leaves += len(depths)
        if parameters.max_depth and (depths + built).max(initial=0) > parameters.max_depth:
            return f"the tree grows beyond max_depth {parameters.max_depth}"
        if 0 < parameters.max_leaves < tree.leaves + bool(built.any()):
            return f"the tree grows beyond max_leaves {parameters.max_leaves}"
        if parameters.grow_policy == "depthwise" and not (level.last or built.all()):
            return "children of one level are leaves and are built"
        if not tree.node_columns.allow(level):
            return "a node is split by a feature that was not drawn for it, or may not meet those above it"
        tree.depths = np.concatenate([np.repeat(depths[built], 2), tree.depths[level.waiting(len(tree.depths))]])
        return ""

    def _histograms(self, asked: Asked) -> Iterator[bytes]:
        """Histograms of these nodes, all trees' one behind the other, as frames of some nodes each."""
        self._step = self._level + 1
        if self._replaying:
            self._with_root = False
            return
        # Both depend on the number of rows alone, which is public.
        values = sum(tree.rows * len(tree.layout.columns) for tree, _ in asked)
        frames = 1 if values <= ONE_FRAME_VALUES else FRAMES_PER_LEVEL
        nodes = sum(len(positions) for _, positions in asked)
        per_frame = self._nodes_per_frame or -(-nodes // frames)
        words = sum(self._words(*own) for own in asked)
        for first in range(0, nodes, per_frame):
            some = _some_of(asked, first, per_frame)
            size = sum(self._words(*own) for own in some)
            room = self._buffers.get("histograms", (size + len(self._totals),))
            begin = 0
            for tree, positions in some:
                end = begin + self._words(tree, positions)
                out = room[begin:end].reshape(len(positions), self._planes, tree.layout.cells)
                self._rows.histograms(tree.place, tree.layout, positions, out)
                begin = end
            if self._with_root:
                self._with_root = False
                room[size:] = self._totals
                yield self._contribute("root", room)
            else:
                yield self._contribute("histograms", room[:size], first, words)

    def _words(self, tree: _Tree, positions: npt.NDArray[np.int64]) -> int:
        """Of the histograms of so many nodes of a tree."""
        return len(positions) * self._planes * tree.layout.cells

    def _finish(self, message: Finish) -> Received:
        condition = self._plan.release
        if not condition.metric and message.metric is not None:
            raise self._broken("a metric is told of a release that depends on none")
        if not condition.is_reached(message.metric):
            if message.model or message.model_sha256:
                raise self._broken(
                    f"a model is told of whose {condition.metric} is {message.metric}; the plan's release demands {condition.condition}"
                )
            if self._name in self._plan.receivers:  # others keep no trees
                self._check_length(message.trees)
            self.withheld = True
            rounds = message.trees // self._per_round
            metrics = {condition.metric: message.metric}
            self._report(Withheld(trees=rounds, rounds=self._plan.parameters.rounds, metrics=metrics))
            return Received(b"")
        if self.shap:
            return Received(message.model_sha256)
        if self._plan.shap or message.shap:
            raise self._broken("the run ends without SHAP values that the plan has, or with others")
        receiver = self._name in self._plan.receivers
        if receiver != bool(message.model):
            raise self._broken(
                f"this party is {'' if receiver else 'not '}a receiver of the plan; the model says otherwise"
            )
        if receiver:
            self.model = self._open_model(message)
        return Received(message.model_sha256)

    def _explain(self, message: Explain) -> bytes:
        """The sizes of this party's SHAP values under the model, by feature."""
        if not self._plan.shap:
            raise self._broken("SHAP values are asked for, and the plan has no evaluation.shap")
        self._explained = message.trees, message.model_sha256, self._open_model(message)
        self._step = 0
        ensemble = from_json(self._explained[2])
        self._most_shap = most_contribution(ensemble)
        unit = shap_unit(self._plan, self._most_shap, self._n_rows, self._n_evaluation)
        with self._asking():
            sums = self._rows.shap(ensemble, unit)
        return self._contribute("shap", sums)

    def _see_summary(self, message: Finish) -> None:
        """Keep what is told of all parties' SHAP values, and the model that they are of."""
        trees, digest, model = self._explained
        features = self._plan.schema.features
        if (message.trees, message.model_sha256, message.model) != (trees, digest, b""):
            raise self._broken("the run ends with another model than SHAP values were asked of")
        if len(message.shap) != len(features) or not all(0 <= own <= self._most_shap * 2 for own in message.shap):
            raise self._broken(
                f"mean sizes of SHAP values are {message.shap!r:.200}; expected one for each feature, none too large"
            )
        self.model = model
        self.shap = dict(zip(features, message.shap, strict=True))

    def _open_model(self, message: Explain | Finish) -> bytes:
        """The model file, which must be the one that the splits and leaves of this run make, to the byte."""
        self._check_length(message.trees)
        received = self._received[: message.trees]
        inflate = zlib.decompressobj()
        most = self._model_bytes()
        try:
            model = inflate.decompress(message.model, most)
        except zlib.error as error:
            raise self._broken(f"the model cannot be decompressed: {error}") from error
        if not inflate.eof and len(model) == most:
            raise self._broken(f"the model has more than the {most} bytes that the trees of this run can take")
        if not inflate.eof or inflate.unused_data or hashlib.sha256(model).digest() != message.model_sha256:
            raise self._broken("the model is cut short or does not have the hash that was announced")
        with self._blaming():
            if model != to_json(self._rebuilt(from_json(model), received)):
                raise self._broken("the model is not the one that the splits and leaves of this run make")
        return model

    def _check_length(self, trees: int) -> None:
        """Refuse another number of trees than training to the end, or early stopping as the plan says, can leave."""
        parameters, grown = self._plan.parameters, len(self._received) // self._per_round
        stopping_rounds = parameters.early_stopping_rounds
        trees, rest = divmod(trees, self._per_round)
        if rest:
            raise self._broken(f"the model is said to end within a round of {self._per_round} trees")
        whole = grown == parameters.rounds and (trees == grown or (stopping_rounds is not None and 1 <= trees <= grown))
        stopped = stopping_rounds is not None and 1 <= trees <= grown - stopping_rounds
        ended = self._plan.trial is not None and 1 <= trees <= grown  # a trial that is behind others
        if not whole and not stopped and not ended:
            raise self._broken(
                f"the model is said to have {trees} rounds of {grown} that were grown; the plan's rounds are {parameters.rounds}, its "
                f"early_stopping_rounds {stopping_rounds}"
            )

    def _rebuilt(self, told: Ensemble, received: list[tuple[Level, ...]]) -> Ensemble:
        """The model as this party received it. Gains, covers and inner weights, which no party receives, are the file's, or 0 where
        the plan releases none.
        """
        before = () if self._before is None else self._before.ensemble.trees
        if len(told.trees) != len(before) + len(received):
            raise self._broken(
                f"the model has {len(told.trees)} trees; {len(received)} were announced"
                + (f", behind {len(before)} of start_model" if before else "")
            )
        public = self._cuts.offsets, self._cuts.values, self._rules.n_categories
        scores = tuple(self._bounds.base_scores)
        return Ensemble(
            objective=self._plan.parameters.objective,
            base_score=scores if len(scores) > 1 else scores[0],
            feature_names=self._plan.schema.features,
            trees=(
                *before,
                *(
                    tree_received(levels, *public, theirs if self._plan.statistics else None)
                    for levels, theirs in zip(received, told.trees[len(before) :], strict=True)
                ),
            ),
            categories=tuple(self._plan.schema.levels.get(name) for name in self._plan.schema.features),
            num_parallel_tree=self._plan.parameters.num_parallel_tree,
            quantile_alpha=self._plan.parameters.quantile_alpha,
            reading=reading_of(self._plan),
        ).with_one_base_score()

    def _model_bytes(self) -> int:
        """More bytes than a model file of the trees that grew here has, names and levels included."""
        trees = self._tree + 1
        of_trees = NODE_BYTES * self._nodes + CATEGORY_BYTES * self._categories + TREE_BYTES * trees
        before = 0 if self._before is None else self._before.size + TREE_BYTES * len(self._before.ensemble.trees)
        return of_trees + 4 * before + 8 * len(self._plan.canonical()) + HEAD_BYTES
