"""A party: holds rows, answers the aggregator's requests with sums over them. No I/O: frames in, frames out.

What it sends is `Join`, `Contribution`s (in a `VouchRows` where row counts go with them), `Received` and `Abort`, nothing else; every
`Contribution` leaves through `Party._contribute`, the one place that a mode which protects sums has to change.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.consortium.policy import Policy
from hansa.data.columns import Columns
from hansa.data.description import Description
from hansa.data.quantiles import CutGuard, CutRequest
from hansa.data.residuals import Grid
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
    QuantiseGradients,
    Received,
    SetLeaves,
    ShowRows,
    SplitNodes,
    SumLabels,
    TellLevels,
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
)
from hansa.roles.summed import describing
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.custom import (
    NO_FUNCTIONS,
    Functions,
)
from hansa.roles.summed.features import feature_rules, with_categories
from hansa.roles.summed.levels import (
    check_levels,
    dictionary_of,
    level_counts,
    with_union,
)
from hansa.roles.summed.party_rows import HoldRows, TrainingStart
from hansa.roles.summed.received_model import ReceivedModel
from hansa.roles.summed.rows_in_memory import RowsInMemory
from hansa.roles.summed.side_by_side import trees_at_once
from hansa.roles.summed.start_model import start_model
from hansa.roles.summed.statistics import (
    rounded_leaf_bits,
    shap_unit,
)
from hansa.roles.summed.sum_masking import MaskingNotReady, NoMasking, Signer, SumMasking
from hansa.roles.summed.told_description import ToldDescription
from hansa.roles.summed.told_residuals import ToldResiduals
from hansa.roles.summed.told_start import check_start, check_welcome, cuts_told
from hansa.roles.summed.told_trees import Asked, ToldTree, ToldTrees, some_of
from hansa.roles.summed.verified_counts import CountChecker, Evidence, Named
from hansa.secure.keys import RunNames
from hansa.trees import objective
from hansa.trees.growth import Buffers, nodes_to_build
from hansa.trees.level import Level, filled
from hansa.trees.losses import LOSSES, is_exponential
from hansa.trees.worker_pool import ALONE, WorkerPool

FRAMES_PER_LEVEL = 2
"""Frames that the histograms of a level are sent in: enough that the aggregator adds some while others are built."""

ONE_FRAME_VALUES = 1_500_000
"""Rows times columns of a tree up to which a level is one frame: it is built in less time than a second frame costs."""

NOT_BROADCAST = (Welcome, KeysConfirmed, ShowRows, Finish, Abort)
"""What differs from party to party, or comes before there is a transcript to bind it to (the run's id binds `Welcome`); of a `ShowRows`
the part that all see alike is absorbed on its own."""

DEFAULT_POLICY = Policy()

_ROOT = np.zeros(1, np.int64)
"""Where a tree's root stands among the active nodes."""


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
        self.run = b""
        self._report = report
        self._plan = plan
        self._name = name
        self._asker = Asker(plan, name)
        self._result = ReceivedModel(self._asker, plan, name, self._before)
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
        self._stops_early = plan.parameters.early_stopping_rounds is not None or plan.trial is not None
        self._buffers = Buffers()
        self._with_root = False
        self._levels_due = not self._describes and bool(plan.schema.rare_levels)
        self._grown = 0

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
            if isinstance(error, ProtocolError):
                self._asker.name_way(error)
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
                with self._asker.blaming():
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
            raise self._asker.broken("row counts are shown that the plan does not ask for")
        with self._asker.blaming():
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
            raise self._asker.broken(f"{type(message).__name__} came before the row counts of what was named before it")
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
                with self._asker.blaming():
                    announced = self._masking.committed(message)
                yield messages.encode(announced)
            case ExchangeKeys() if isinstance(self._masking, SumMasking):
                self._session.go(message, "keyed")
                with self._asker.blaming():
                    answer = self._masking.exchange(message)
                yield messages.encode(answer)
            case KeysConfirmed() if isinstance(self._masking, SumMasking):
                self._session.go(message, "confirmed")
                with self._asker.blaming():
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
                raise self._asker.broken("labels are summed before all parties' levels were told")
            case SumLabels():
                self._session.go(message, "labelled")
                yield self._sum_labels(message)
                if self._levels_due:
                    yield self._contribute("levels", self._rows.count_levels())
            case KeepLevels():
                self._session.go(message, "labelled")
                self._keep_levels(message)
            case CountCells() | UseCuts() if self._levels_due:
                raise self._asker.broken("cuts are searched before it was said which levels are kept")
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
                vouched = None if self._counts is None else self._counts.naming.pooled_bins
                self.description = self._bins.accept(message, vouched, self._name, self.run, self._roster)
                self._masking.erase()
                yield messages.encode(Received(hashlib.sha256(frame).digest()))
                self.done = True
                self._note(TableDescribed, 0)
            case QuantiseGradients():
                self._session.go(message, "growing")
                self._quantise(message)
                yield from self._histograms([(tree, _ROOT) for tree in self._told.trees])
            case SplitNodes():
                yield from self._split(message)
            case CountResiduals():
                yield from self._count_residuals(message)
            case SetLeaves():
                yield from self._set_leaves(message)
            case ShowRows():
                yield from self._see_counts(message)
            case Explain() | Finish() if self._session.state == "growing" and (
                self._told.level or not self._stops_early
            ):
                raise self._asker.broken("the run is said to be over in the middle of a tree")
            case Explain():
                self._session.go(message, "explaining")
                yield self._explain(message)
            case Finish():
                explained = self._session.state == "explaining"
                self._session.go(message, "finished")
                if explained:
                    self._result.see_summary(message)
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
    def model(self) -> bytes | None:
        """The XGBoost JSON, once received."""
        return self._result.model

    @property
    def withheld(self) -> bool:
        """Whether the run is over and nobody gets the model, since the metric of the plan's release is not reached."""
        return self._result.withheld

    @property
    def shap(self) -> dict[str, float]:
        """By feature the mean size of SHAP values, where the plan has them, once told."""
        return self._result.shap

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
        zero = self._masking.mask(self._asker.tree, self._asker.step, quantity, values, first == 0, whole)
        part = Contribution(self._asker.tree, self._asker.step, quantity, first, messages.to_tensor(values), zero)
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
        with self._asker.blaming():
            self._counts.open(message)
        if self._counts.first != (len(message.frame) == 0):
            raise self._asker.broken(
                "row counts are shown with a broadcast where they come first, or alone where they come with one"
            )
        held, self._held = self._held, iter(())
        yield from self._answer(message.frame) if len(message.frame) else held

    def _welcome(self, message: Welcome) -> None:
        plan = self._plan
        names = tuple(name for name, *_ in message.roster)
        check_welcome(self._asker, plan, self._name, self._join, message)
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
        self._asker.step += 1
        self._weight_unit = message.weight_unit
        if self._plan.parameters.quantiles:
            # Both bounds are powers of two: so far apart are the units of a label times its weight and of the weight.
            with self._asker.blaming():
                grid = Grid(message.label_unit - message.weight_unit)
            self._residuals = ToldResiduals(self._asker, self._plan, grid, self._n_rows)
        if self._replaying:
            return b""
        with self._asker.fitting():
            sums = self._rows.sum_labels(message.label_unit, message.weight_unit)
        return self._contribute("labels", sums)

    def _use_union(self, message: UseLevels) -> None:
        """Go on with all parties' levels."""
        if not self._plan.schema.union:
            raise self._asker.broken("levels of all parties are told, and the plan has them, or it was said before")
        with self._asker.blaming():
            check_levels(self._plan, message.levels)
        self._plan = with_union(self._plan, message.levels)
        with self._asker.fitting():
            self._rows.unite(self._plan, message.levels)
        self._rules = feature_rules(self._plan)

    def _keep_levels(self, message: KeepLevels) -> None:
        """Go on with the levels that are said to be kept."""
        if not self._levels_due:
            raise self._asker.broken("levels are kept, and none are rare, or it was said before")
        kept = self._asker.array(message, "kept", np.uint8, level_counts(self._plan))
        with self._asker.blaming():
            dictionary = dictionary_of(self._plan, kept)
        self._plan = dictionary.plan
        self._rows.recode(self._plan, dictionary.codes)
        self._rules = feature_rules(self._plan)
        self._levels_due = False

    def _count_cells(self, message: CountCells) -> Iterator[bytes]:
        self._asker.step += 1
        request = CutRequest(
            message.bits,
            self._asker.array(message, "offsets", np.int64, self._n_columns + 1),
            self._asker.array(message, "prefixes", np.uint32, None),
        )
        with self._asker.blaming():
            self._guard = self._guard.check(request)
        named = None if self._counts is None else self._counts.naming.cells(self._asker.step, request)
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
        self._asker.step += 1
        self._bins = ToldDescription(self._asker, self._plan, self._guard, self._rows, self._n_rows, message)
        self._guard = self._guard.close()
        named = None if self._counts is None else self._counts.naming.bins(self._asker.step, self._bins.layout)
        yield from self._with_counts(named, self._bins.in_bins, self._own_bins())

    def _own_bins(self) -> Iterator[bytes]:
        yield self._contribute("bins", self._bins.own.copy())

    # --- quantiles of residuals ---------------------------------------------------------------------------------------

    def _count_residuals(self, message: CountResiduals) -> Iterator[bytes]:
        """Rows in the parts of cells that hold quantiles: of labels before the first tree, then of residuals in a tree's leaves."""
        first = self._session.state == "cutting"
        self._residuals.check_tree(message, first=first)
        self._session.go(message, "locating" if self._asker.tree == SETUP else "refitting")
        self._asker.step += 1
        yield from self._rows_by_residual(self._residuals.check(message, first=first))

    def _refit(self, message: SplitNodes, level: Level) -> Iterator[bytes]:
        """The tree ends: rows by leaf and cell of residuals."""
        if message.then is not None:
            raise self._asker.broken("the next tree's scales come before the values of this one's leaves")
        self._rows.follow(0, level)
        self._session.go(message, "refitting")
        self._asker.step = self._told.level + 2
        yield from self._rows_by_residual(self._residuals.of_leaves(self._told.trees[0].found))

    def _rows_by_residual(self, request: CutRequest) -> Iterator[bytes]:
        named = (
            None if self._counts is None else self._counts.naming.residuals(self._asker.tree, self._asker.step, request)
        )
        if self._replaying:
            yield from self._with_counts(named, None, iter(()))
            return
        counts, sums = self._rows.count_residuals(request, self._residuals.grid, self._weight_unit)
        own_rows = None if named is None else counts.reshape(-1, request.split).sum(axis=1)
        yield from self._with_counts(named, own_rows, self._residual_sums(counts, sums))

    def _residual_sums(self, counts: npt.NDArray[np.uint32], sums: npt.NDArray[np.int64]) -> Iterator[bytes]:
        yield self._contribute("residuals", counts)
        if self._plan.weighted:
            yield self._contribute("residual-weights", sums)

    def _set_leaves(self, message: SetLeaves) -> Iterator[bytes]:
        """The tree's leaves have their values: rows move by them, and what comes next begins."""
        tree = self._told.trees[0]
        values = self._residuals.leaf_values(message, tree.found)
        self._rows.set_leaves(values)
        if self._name in self._plan.receivers:
            self._result.trees.append(filled(tree.levels, values))
        self._grown += 1
        yield from self._go_on(message)

    def _use_cuts(self, message: UseCuts) -> None:
        plan, scores = self._plan, tuple(message.base_scores)
        grid = self._residuals.grid if plan.parameters.quantiles else None
        with self._asker.blaming():
            check_start(self._asker, plan, self._before, self._n_evaluation, grid, message)
            if self._counts is not None:
                if not plan.weighted and message.weight_exponent != 0:
                    raise self._asker.broken("weights are said to exceed 1, and the plan has none")
                scale = max(1.0, message.scale_pos_weight)
                self._counts.naming.start(math.ldexp(1.0, message.weight_exponent) * scale)
            told = cuts_told(self._asker, plan, self._rules, self._guard, message)
        cuts = with_categories(told, self._rules)
        self._planes = 1 if message.histogram_bits == 32 else 2
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
        with self._asker.fitting():
            self._rows.start(start)
        self._guard = self._guard.close()
        self._bounds = message
        leaf_bits = rounded_leaf_bits(plan, self._n_rows, scores[0], message.scale_pos_weight)
        at_once = trees_at_once(plan, int(cuts.n_codes.sum()), self._planes, self._most_rows)
        self._told = ToldTrees(self._asker, plan, self._rules, cuts, self._planes, at_once, leaf_bits)
        self._result.begin(plan, cuts, self._rules, scores)

    def _start_round(self, gradient_bound: float) -> Iterator[bytes]:
        """Gradients at the margins so far; their totals, and the metrics that the rounds so far reach."""
        self._asker.tree += max(len(self._told.trees), 1)
        self._asker.step = 0
        if self._asker.tree > 0 and self._n_evaluation and not self._replaying:
            for name, sums in self._rows.metrics(gradient_bound):
                yield self._contribute(f"metric/{name}", sums)
        custom = self._plan.custom_objective
        if custom is not None and gradient_bound != custom.gradient_bound:
            raise self._asker.broken(f"the gradient_bound is {gradient_bound}; the plan says {custom.gradient_bound}")
        self._gradient_bound = gradient_bound
        bound = self._hessian_bound(gradient_bound)
        with self._asker.fitting():
            self._totals = self._rows.start_round(self._asker.tree, gradient_bound, bound)
        with self._asker.blaming():
            self._units = (
                objective.unit_exponent(gradient_bound, self._n_rows),
                objective.unit_exponent(bound, self._n_rows),
            )
        if not self._with_root:
            yield self._contribute("totals", np.array(self._totals, np.int64))
        self._told.start(self._rows)

    def _hessian_bound(self, gradient_bound: float) -> float:
        """The bound on h of any row in a tree: the first tree's, or where h grows with margins, what the bound on |g| says."""
        parameters = self._plan.parameters
        if not is_exponential(parameters.objective):  # of a custom objective `check_start` held it to the plan's
            return self._bounds.hessian_bound
        return objective.hessian_bound(parameters.objective, 0.0, gradient_bound, parameters.shape)

    def _quantise(self, message: QuantiseGradients) -> None:
        """Scales of the trees that are at their roots."""
        trees, scales = self._told.trees, self._told.scales(message, self._totals, self._units)
        if self._counts is not None:
            self._counts.naming.start_trees(self._asker.tree, scales, self._gradient_bound)
        if not self._replaying:  # then no histogram is built of them
            for tree, own in zip(trees, scales, strict=True):
                self._rows.quantise(tree.place, tree.output, own)
        self._told.level = 0

    def _split(self, message: SplitNodes) -> Iterator[bytes]:
        told = self._told.levels_told(message)
        for tree, level in told:
            if self._name in self._plan.receivers:
                tree.levels.append(level.copy())  # frames are not kept
            self._result.count(level, root=self._told.level == 0)
        named = None
        if self._counts is not None:
            with self._asker.blaming():
                by_tree = {tree.number: level for tree, level in told}
                named = self._counts.naming.nodes(self._told.level, by_tree)
        if self._plan.parameters.quantiles:
            ((tree, level),) = told
            numbers = np.arange(tree.found, tree.found + level.leaves, dtype=np.float32)
            told, tree.found = [(tree, level.with_leaves(numbers))], tree.found + level.leaves
        for tree, level in told:
            children = self._rows.move(tree.place, level)
            tree.active, tree.ended = level.active_below(tree.active), level.last
            if self._counts is not None:
                self._counts.count(tree.number, children)
        self.trees_ended = ended = not self._told.growing
        if message.then is not None and not ended:
            raise self._asker.broken("scales of the next tree in the middle of this one")
        if not ended:
            answer = self._next_level(message, told)
        elif self._plan.parameters.quantiles:
            answer = self._refit(message, told[0][1])
        else:
            self._grown += len(self._told.trees)
            if self._name in self._plan.receivers:
                self._result.trees.extend(tuple(tree.levels) for tree in self._told.trees)
            answer = self._next_trees(message, told)
        yield from self._with_counts(named, None, answer)

    def _next_level(self, message: SplitNodes, moved: Sequence[tuple[ToldTree, Level]]) -> Iterator[bytes]:
        """Histograms of the nodes that a level of splits makes."""
        self._session.go(message, "growing")
        self._told.level += 1
        asked = []
        for tree, level in moved:
            if not level.last:
                tree.node_columns.advance(level)
                asked.append((tree, nodes_to_build(level.build_left)))
        yield from self._histograms(asked)
        for tree, level in moved:
            self._rows.follow(tree.place, level)  # nothing that is sent waits for these rows

    def _next_trees(self, message: SplitNodes, moved: Sequence[tuple[ToldTree, Level]]) -> Iterator[bytes]:
        """Begin the trees after those that end here."""
        for tree, level in moved:
            self._rows.follow(tree.place, level)
        yield from self._go_on(message)

    def _go_on(self, message: SplitNodes | SetLeaves) -> Iterator[bytes]:
        """Begin what comes after trees: the roots too, where their scales suit bounds that the leaves gave."""
        parameters = self._plan.parameters
        following = self._asker.tree + len(self._told.trees)
        in_round = following % self._per_round > 0
        at_once = (
            self._foreseen and self._per_round == 1 and self._asker.tree < self._last_tree and parameters.subsample == 1
        )
        if (message.then is not None) != (in_round or at_once):
            raise self._asker.broken(
                f"the next tree's scales {'do not come' if in_round or at_once else 'come'} with the last splits"
            )
        self._session.go(message, "growing" if in_round or at_once else "scaling")
        if in_round:
            self._asker.tree = following
            self._told.start(self._rows)
        else:
            self._with_root = at_once
            self._note(TreeGrown, following // self._per_round)
            yield from self._start_round(message.gradient_bound)
        if message.then is not None:
            self._quantise(message.then)
            yield from self._histograms([(tree, _ROOT) for tree in self._told.trees])

    def _histograms(self, asked: Asked) -> Iterator[bytes]:
        """Histograms of these nodes, all trees' one behind the other, as frames of some nodes each."""
        self._asker.step = self._told.level + 1
        if self._replaying:
            self._with_root = False
            return
        # Both depend on the number of rows alone, which is public.
        values = sum(tree.rows * len(tree.layout.columns) for tree, _ in asked)
        frames = 1 if values <= ONE_FRAME_VALUES else FRAMES_PER_LEVEL
        nodes = sum(len(positions) for _, positions in asked)
        per_frame = self._nodes_per_frame or -(-nodes // frames)
        words = sum(self._told.words(*own) for own in asked)
        for first in range(0, nodes, per_frame):
            some = some_of(asked, first, per_frame)
            size = sum(self._told.words(*own) for own in some)
            room = self._buffers.get("histograms", (size + len(self._totals),))
            begin = 0
            for tree, positions in some:
                end = begin + self._told.words(tree, positions)
                out = room[begin:end].reshape(len(positions), self._planes, tree.layout.cells)
                self._rows.histograms(tree.place, tree.layout, positions, out)
                begin = end
            if self._with_root:
                self._with_root = False
                room[size:] = self._totals
                yield self._contribute("root", room)
            else:
                yield self._contribute("histograms", room[:size], first, words)

    def _finish(self, message: Finish) -> Received:
        self._result.finish(message)
        if not self.withheld:
            return Received(message.model_sha256)
        rounds = message.trees // self._per_round
        metrics = {self._plan.release.metric: message.metric}
        self._report(Withheld(trees=rounds, rounds=self._plan.parameters.rounds, metrics=metrics))
        return Received(b"")

    def _explain(self, message: Explain) -> bytes:
        """The sizes of this party's SHAP values under the model, by feature."""
        ensemble, most = self._result.explain(message)
        self._asker.step = 0
        unit = shap_unit(self._plan, most, self._n_rows, self._n_evaluation)
        with self._asker.fitting():
            sums = self._rows.shap(ensemble, unit)
        return self._contribute("shap", sums)
