"""A party's rows in this process: their labels, gradients and margins; their codes stand beside (`row_codes`). See `party_rows`."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hansa.data.bin_counts import Layout
from hansa.data.columns import Columns, StoredColumn, each, whole
from hansa.data.holdout import hash_rows, held_out
from hansa.data.quantiles import ALL_ROWS, CutRequest, Cuts, count_cells, weigh_cells
from hansa.data.residuals import Grid, count_residuals, n_counts, weigh_residuals
from hansa.data.rows import check_arrays
from hansa.data.source import Rows
from hansa.errors import DataError, HansaError, RowsLost
from hansa.plan import Plan
from hansa.roles.batches import LabelCounts, hold_out, label_counts
from hansa.roles.summed import describing
from hansa.roles.summed.custom import (
    Functions,
    check_functions,
    check_rows_apart,
    custom_gradients,
    custom_metric_sums,
)
from hansa.roles.summed.features import feature_rules, without_categories
from hansa.roles.summed.levels import RecodedColumns, content_codes, count_levels, own_codes, told_levels
from hansa.roles.summed.party_rows import Counts, DoesNotFit, Int64, TrainingStart
from hansa.roles.summed.row_codes import CodeRows, PackedRows, RowCodes, RowsInTree, code_in_memory
from hansa.roles.summed.statistics import (
    EXPONENTS,
    MagnitudeBounds,
    balanced,
    check_own_size,
    count_magnitudes,
    label_sums,
    metric_scale,
    sum_classes,
    sum_labels,
    sum_steps,
)
from hansa.trees import histogram, objective
from hansa.trees.contributions import Contributions, check_installed
from hansa.trees.ensemble import Ensemble, base_margin, predictions_from_margins
from hansa.trees.level import Level
from hansa.trees.losses import is_softmax
from hansa.trees.metrics import metric_sums
from hansa.trees.row_chunks import ChunkedRows, part, spans
from hansa.trees.sampling import draw_by_contents
from hansa.trees.worker_pool import WorkerPool

BLOCK_ROWS = 2**20
"""Rows whose labels are looked at together before training: a multiple of 8."""

EXPLAINED_AT_ONCE = 16_384
"""Rows whose SHAP values are in memory together."""

_Residuals: TypeAlias = tuple[
    npt.NDArray[np.float32],
    npt.NDArray[np.float32],
    npt.NDArray[np.unsignedinteger[Any]],
    npt.NDArray[np.float32] | None,
]


@contextmanager
def _told() -> Iterator[None]:
    """What fails here is what the party was told of the run."""
    try:
        yield
    except HansaError as error:
        raise DoesNotFit(str(error)) from error


def _values_of_codes(cuts: Cuts, n_categories: npt.NDArray[np.int32], feature: int) -> npt.NDArray[np.float32]:
    """A value of each code of a feature, float32 (codes,): trees that split at these cuts tell no two values of a code apart."""
    inner = cuts.of(feature)
    if n_categories[feature]:
        values = np.arange(len(inner) + 1, dtype=np.float32)
    else:
        lowest = np.nextafter(inner[:1], np.float32(-np.inf)) if len(inner) else np.zeros(1, np.float32)
        values = np.concatenate([lowest, inner])
    return np.append(values, np.float32(np.nan)) if cuts.has_missing[feature] else values


class _Place:
    """One of the trees that grow side by side.

    Args:
        rows: uint16 (n_rows,), of which `drawn` takes spans.

    Attributes:
        drawn: the rows that the tree trains on, and all others. tree: where they stand in it. output: whose margins it moves, -1
            before it begins. gained: float32 (n_rows,), what margins gain once the trees before it have ended; None where they gain it
            at once.
        packed: gradients as whole numbers, None before there are any; trees of one forest share it. packs: output and scales of them.
    """

    drawn: tuple[ChunkedRows, ChunkedRows]
    tree: RowsInTree

    def __init__(self, rows: npt.NDArray[np.uint16]) -> None:
        self.rows = rows
        self.output = -1
        self.gained: npt.NDArray[np.float32] | None = None
        self.packed: PackedRows | None = None
        self.packs: tuple[int, objective.Scales] | None = None


class RowsInMemory:
    """One party's rows, held by this process. See `party_rows.PartyRows` for its methods.

    Args:
        plan: as every member holds it. owner: the party. rows: its table; never leaves this object, and is let go once it is coded.
        pool: compute threads. functions: of the plan's custom objective and metric. describes: whether the run trains nothing.
        code: makes the codes of the rows, and holds them.

    Raises DataError where the table is not as the plan's schema says.
    """

    def __init__(
        self,
        plan: Plan,
        owner: str,
        rows: Columns | None,
        pool: WorkerPool,
        functions: Functions,
        describes: bool,
        code: CodeRows = code_in_memory,
    ) -> None:
        if rows is None:
            raise DataError(f"party {owner!r} has no rows; give it its table")
        if isinstance(rows, Rows):
            check_arrays(rows, plan.schema, plan.parameters.label_kind, owner)
        self.own_levels: Mapping[str, tuple[str, ...]] = told_levels(plan, rows, owner)
        self._functions = functions
        self._describes = describes
        if plan.shap and not describes:
            check_installed(owner)
        if not describes:
            check_functions(plan, functions, owner)
            check_rows_apart(plan, functions, np.atleast_2d(rows.label)[0], rows.weight)
        self._plan = plan
        self._owner = owner
        self._pool = pool
        self._code = code
        self._rows: Columns | None = rows
        self._large = rows.large
        self.n_rows = rows.n_rows
        self._labels = np.ascontiguousarray(np.atleast_2d(rows.label))
        self._weights = None if rows.weight is None else np.ascontiguousarray(rows.weight)
        self._base_margin = rows.base_margin
        held, held_rule = np.zeros(rows.n_rows, np.bool_), hold_out(plan)
        self._hashes = np.zeros(0, np.uint64)
        hashed = RecodedColumns(rows, content_codes(plan, rows)) if plan.schema.union else rows
        if held_rule.any:
            held = held_out(each(hashed), self._labels, held_rule, rows.subject)
        if plan.parameters.subsample < 1:
            self._hashes = hash_rows(each(hashed), self._labels, plan.parameters.seed)
        self._evaluation = np.flatnonzero(held).astype(np.uint32)
        self._held_bits = np.packbits(held) if len(self._evaluation) else np.zeros(0, np.uint8)
        self._fixed_weights: npt.NDArray[np.int64] | None = None

    @property
    def evaluation_rows(self) -> int:
        return len(self._evaluation)

    def label_counts(self) -> tuple[LabelCounts, LabelCounts]:
        trained: LabelCounts = {}
        held: LabelCounts = {}
        for first, end in self._blocks():
            out = self._held_out(first, end) if len(self._evaluation) else np.zeros(end - first, np.bool_)
            for counts, own in zip((trained, held), label_counts(self._labels[:, first:end], out), strict=True):
                for label, count in own.items():
                    counts[label] = counts.get(label, 0) + count
        return trained, held

    def _blocks(self) -> Iterator[tuple[int, int]]:
        """All rows, some at a time: (the first, the one behind the last)."""
        for first in range(0, self.n_rows, BLOCK_ROWS):
            yield first, min(first + BLOCK_ROWS, self.n_rows)

    def join(self, n_rows: int, n_evaluation: int, n_parties: int, own: int) -> None:
        self._all_rows, self._all_evaluation = n_rows, n_evaluation
        if self._plan.parameters.balance == "parties":
            self._weights = balanced(self._weights, self.n_rows, n_rows, n_parties, own)

    def unite(self, plan: Plan, levels: Mapping[str, tuple[str, ...]]) -> None:
        with _told():
            codes = own_codes(self._plan, self.own_levels, levels)
        self.recode(plan, codes)

    def recode(self, plan: Plan, codes: Mapping[int, npt.NDArray[np.float32]]) -> None:
        self._plan, self._rows = plan, RecodedColumns(self._table, dict(codes))

    # --- before the cuts are known ------------------------------------------------------------------------------------

    @property
    def _table(self) -> Columns:
        assert self._rows is not None  # it is let go where training begins
        return self._rows

    def _held_out(self, first: int, end: int) -> npt.NDArray[np.bool_]:
        """Whether each row from first, a multiple of 8, to end is held out; some rows are."""
        return np.unpackbits(self._held_bits[first // 8 : -(-end // 8)], count=end - first).view(np.bool_)

    def _counted(self) -> npt.NDArray[np.bool_]:
        """The rows trained on, bool (rows,), or `ALL_ROWS`."""
        if not len(self._evaluation):
            return ALL_ROWS
        held = self._held_out(0, self.n_rows)
        return np.logical_not(held, out=held)

    def count_magnitudes(self) -> Int64:
        weights = self._weights
        found = np.zeros((len(self._labels) + 1, EXPONENTS), np.int64)
        for first, end in self._blocks():
            found += count_magnitudes(self._labels[:, first:end], None if weights is None else weights[first:end])
        check_own_size(found, weights is not None, self._owner)
        return found

    def count_levels(self) -> Int64:
        return count_levels(self._plan, self._table, self._counted())

    def sum_labels(self, label_unit: int, weight_unit: int) -> Int64:
        parameters = self._plan.parameters
        totals = [0] * label_sums(parameters)
        fixed = []
        with _told():
            for first, end in self._blocks():
                labels = self._labels[:, first:end]
                weights = None if self._weights is None else self._weights[first:end]
                if len(self._evaluation):
                    counted = ~self._held_out(first, end)
                    labels, weights = labels[:, counted], None if weights is None else weights[counted]
                parts = []
                for own in labels:
                    given = (own, weights, label_unit, weight_unit)
                    parts += [sum_labels(*given), sum_steps(parameters, *given), sum_classes(parameters, *given)]
                totals = [total + own for total, own in zip(totals, np.concatenate(parts).tolist(), strict=True)]
                if weights is not None and not self._describes:  # a description counts rows
                    fixed.append(objective.fixed_weights(weights, weight_unit))
            if max(map(abs, totals)) > 2**objective.SUM_BITS:
                raise HansaError(f"sums of labels and weights do not fit {objective.SUM_BITS} bits in the units told")
        self._fixed_weights = np.concatenate(fixed) if fixed else None
        return np.array(totals, np.int64)

    def count_cells(self, request: CutRequest) -> tuple[Counts, Int64 | None]:
        counted, weights = self._counted(), self._fixed_weights
        counts, sums = [], []
        rules = feature_rules(self._plan)
        groups = self._table.groups()
        if self._describes:
            groups = itertools.chain(groups, [(self._table.n_features, self._labels)])
        for first, group in groups:
            asked = request.of(first, first + len(group))
            if not asked.n_counts:
                continue
            of_group, weighed, used = np.zeros(asked.n_counts, np.uint32), np.zeros(asked.n_counts, np.int64), 0
            # Of features that come one by one a block is no copy.
            for begin, end in self._blocks() if len(group) == 1 else ((0, self.n_rows),):
                block, own = group[:, begin:end], counted[begin:end]
                if self._describes:
                    values = describing.searched_values(block, describing.columns_of(self._plan), first)
                else:
                    values = without_categories(block, rules, first)
                of_group += count_cells(values, asked, own)
                if weights is not None:
                    n_rows = int(np.count_nonzero(own)) if len(own) else end - begin
                    weighed += weigh_cells(values, weights[used : used + n_rows], asked, own)
                    used += n_rows
                del block, values
            counts.append(of_group)
            if weights is not None:
                sums.append(weighed)
            del group  # before the next ones are read
        return np.concatenate(counts), np.concatenate(sums) if sums else None

    def count_bins(self, layout: Layout) -> Int64:
        counted = self._counted()
        parts = []
        for first, group in itertools.chain(self._table.groups(), [(self._table.n_features, self._labels)]):
            with _told():
                parts.append(describing.count_columns(layout, first, group[:, counted] if len(counted) else group))
        return np.concatenate(parts)

    # --- rounds and trees ---------------------------------------------------------------------------------------------

    def start(self, start: TrainingStart) -> None:
        self._start = start
        parameters = self._plan.parameters
        self._codes = self._bin(start.cuts)
        self._fixed_weights = None
        self._per_round = parameters.trees_per_round
        n_rows = self.n_rows
        first = [base_margin(parameters.objective, score) for score in start.base_scores]
        if start.before is not None:
            self._margins = start.before.margins(whole(self._table), self._pool.threads, self._base_margin)
        elif self._base_margin is not None:
            self._margins = self._base_margin.copy()
        else:
            self._margins = np.repeat(np.array(first, np.float32)[:, None], n_rows, axis=1)
        self._table.close()
        self._rows = self._base_margin = None
        held = self._evaluation
        self._held_labels = self._labels[:, held]
        self._held_weights = None if self._weights is None else self._weights[held]
        self._kept_labels = [StoredColumn.of(own, self._large) for own in self._labels]
        self._kept_weights = None if self._weights is None else StoredColumn.of(self._weights, self._large)
        self._labels, self._weights = np.zeros((0, 0), np.float32), None
        # Trees of one round all take the gradients at its start.
        kept = n_rows if not self._large or self._per_round > 1 else 0
        self._gradient = np.empty((len(first), kept))
        self._hessian = np.empty((len(first), kept))
        self._places: list[_Place] = []
        self._unused = [self._codes.pack(start.planes)]  # of the first place, so that a want of room is told now

    def _bin(self, cuts: Cuts) -> RowCodes:
        """Codes of all rows. A held-out row may lack a feature that no training row lacks: it goes right, as the model has it."""
        held = self._held_out(0, self.n_rows) if len(self._evaluation) else ALL_ROWS
        try:
            categories = self._start.rules.n_categories
            return self._code(self._table.groups(), self.n_rows, cuts, categories, held, self._large, self._pool)
        except RowsLost:
            raise
        except DataError as error:
            # Its text names a row of this party.
            raise DoesNotFit("the cuts have no place for a missing value that this party's rows hold") from error

    def start_round(self, tree: int, gradient_bound: float, hessian_bound: float) -> list[int]:
        parameters = self._plan.parameters
        self._end_trees()
        if parameters.quantiles:  # trees of one round all refit to the residuals at its start
            self._starts = self._margins.copy() if parameters.num_parallel_tree > 1 else self._margins
        whole_table = self._gradient.shape[1] > 0
        if whole_table:
            self._derive(0, self.n_rows, self._gradient, self._hessian)
        self.draw(0, tree)
        # Where a round has several trees, each draws rows of its own: its sums are at most those of all rows.
        rows = self._places[0].drawn[0] if self._per_round == 1 else self._undrawn()
        totals = [0] * (2 * parameters.outputs)
        for chunk, first, end in spans(self.n_rows):
            own = rows.of_chunk(chunk)
            for margins in self._margins:
                objective.check_margins(parameters.objective, margins[first:end], own)
            if whole_table:
                gradient, hessian = self._gradient[:, first:end], self._hessian[:, first:end]
            else:
                gradient, hessian = self._derived(first, end)
            with _told():
                for output in range(parameters.outputs):
                    for place, values, most in ((0, gradient, gradient_bound), (1, hessian, hessian_bound)):
                        own_sum = objective.sum_magnitudes(values[output], own, most, self._all_rows)
                        totals[2 * output + place] += own_sum
        return totals

    def _derive(
        self, first: int, end: int, gradient: npt.NDArray[np.float64], hessian: npt.NDArray[np.float64]
    ) -> None:
        """Write the first and second derivatives of the loss of the rows from first to end, float64 (outputs, end - first) each."""
        parameters = self._plan.parameters
        each = [own.part(first, end) for own in self._kept_labels]
        labels = each[0]
        weights = None if self._kept_weights is None else self._kept_weights.part(first, end)
        if self._functions.objective is not None and self._plan.custom_objective is not None:
            bounds, margins = self._plan.custom_objective, self._margins[0, first:end]
            gradient[0], hessian[0] = custom_gradients(
                self._functions.objective, bounds, first, margins, labels, weights
            )
            return
        if is_softmax(parameters.objective):
            margins = np.ascontiguousarray(self._margins[:, first:end])
            objective.softmax_gradients(margins, labels, weights, gradient, hessian)
            return
        for output, shape in enumerate(parameters.quantiles or (parameters.shape,) * parameters.outputs):
            objective.gradients(
                parameters.objective,
                self._margins[output, first:end],
                labels if len(each) == 1 else each[output],
                weights,
                self._start.scale_pos_weight,
                gradient[output],
                hessian[output],
                shape,
            )

    def _derived(self, first: int, end: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """`_derive` into arrays of its own."""
        shape = self._plan.parameters.outputs, end - first
        gradient, hessian = np.empty(shape), np.empty(shape)
        self._derive(first, end, gradient, hessian)
        return gradient, hessian

    def draw(self, place: int, tree: int) -> None:
        parameters = self._plan.parameters
        if place == 0:
            self._end_trees()
        if place == len(self._places):
            self._places.append(_Place(np.empty(self.n_rows, np.uint16)))
        own = self._places[place]
        if parameters.subsample == 1:
            own.drawn = part(self.n_rows, self._undrawn_of_chunk, own.rows)
            return

        def chosen(first: int, end: int) -> npt.NDArray[np.bool_]:
            drawn = draw_by_contents(self._hashes[first:end], parameters.subsample, parameters.seed, tree)
            return drawn & ~self._held_out(first, end) if len(self._evaluation) else drawn

        own.drawn = part(self.n_rows, chosen, own.rows)

    def _undrawn(self) -> ChunkedRows:
        """All rows trained on."""
        return part(self.n_rows, self._undrawn_of_chunk, np.empty(self.n_rows, np.uint16))[0]

    @property
    def _undrawn_of_chunk(self) -> Callable[[int, int], npt.NDArray[np.bool_]] | None:
        """Which rows of a chunk are trained on; None for all."""
        return (lambda first, end: ~self._held_out(first, end)) if len(self._evaluation) else None

    def metrics(self, gradient_bound: float) -> list[tuple[str, Int64]]:
        parameters, start = self._plan.parameters, self._start
        self._end_trees()
        rows = self._evaluation
        bounds = MagnitudeBounds(start.label_exponent, start.weight_exponent)
        # Of a custom objective gradients say nothing of errors.
        tells = gradient_bound if self._functions.objective is None else 0.0
        scale = metric_scale(parameters, self._all_evaluation, bounds, tells)
        labels, weights = self._held_labels, self._held_weights
        labels = labels if len(labels) > 1 else labels[0]
        margins = self._margins[:, rows] if parameters.outputs > 1 else self._margins[0, rows]
        found = [
            (name, metric_sums(name, parameters.objective, margins, labels, weights, scale))
            for name in parameters.metrics
        ]
        own, function = self._plan.custom_metric, self._functions.metric
        if own is not None and function is not None:
            predictions = predictions_from_margins(parameters.objective, np.ascontiguousarray(margins.T))
            found.append((own.name, custom_metric_sums(function, own, predictions, labels, weights, scale)))
        return found

    def shap(self, model: Ensemble, unit: int) -> Int64:
        explainer = Contributions(model, self._owner, self._pool.threads)
        representatives = [
            _values_of_codes(self._start.cuts, self._start.rules.n_categories, number)
            for number in range(self._start.cuts.n_features)
        ]
        rows = self._evaluation if self._plan.shap == "held-out" else np.arange(self.n_rows)
        total = np.zeros(len(representatives), np.int64)
        for first in range(0, len(rows), EXPLAINED_AT_ONCE):
            codes = self._codes.of_rows(rows[first : first + EXPLAINED_AT_ONCE])
            values = np.stack([own[column] for own, column in zip(representatives, codes.T, strict=True)])
            sizes = explainer.sizes(values)
            with _told():
                total += np.array([objective.sum_fixed(own, None, unit) for own in sizes.T], np.int64)
        return total

    def start_tree(self, place: int, output: int) -> int:
        self._output = output
        own, margins = self._places[place], self._margins[output]
        if self._plan.parameters.quantiles:  # rows get the number of their leaf first, and its value once that is known
            margins = self._leaf_of = np.zeros(self.n_rows, np.float32)
        elif any(before.output == output for before in self._places[:place]):
            # Sums of float32 have an order: this tree's leaves wait for those of the trees before it.
            margins = own.gained = np.zeros(self.n_rows, np.float32)
        own.output = output
        own.tree = self._codes.start_tree(*own.drawn, margins)
        return own.tree.n_rows

    def _end_trees(self) -> None:
        """All trees side by side have ended: margins gain what waited."""
        for own in self._places:
            if own.gained is not None:
                self._margins[own.output] += own.gained
            own.output, own.gained = -1, None

    def quantise(self, place: int, output: int, scales: objective.Scales) -> None:
        own = self._places[place]
        if place and self._places[place - 1].packs == (
            output,
            scales,
        ):  # of trees of one forest all gradients are the same
            own.packed, own.packs = self._places[place - 1].packed, (output, scales)
            return
        own.packs = output, scales
        shared = any(own.packed is other.packed for other in self._places if other is not own)
        if shared or own.packed is None:
            own.packed = self._unused.pop() if self._unused else self._codes.pack(self._start.planes)
        for _, first, end in spans(self.n_rows):
            if self._gradient.shape[1]:
                gradient, hessian = self._gradient[:, first:end], self._hessian[:, first:end]
            else:
                gradient, hessian = self._derived(first, end)
            own.packed.write(first, end, partial(objective.pack, gradient[output], hessian[output], scales))

    def histograms(self, place: int, layout: histogram.Layout, positions: Int64, out: Int64) -> None:
        own = self._places[place]
        own.tree.histograms(layout, positions, own.packed, out)

    def move(self, place: int, level: Level) -> Int64:
        return self._places[place].tree.move(level)

    def follow(self, place: int, level: Level) -> None:
        self._places[place].tree.follow(level)

    # --- quantiles of residuals ---------------------------------------------------------------------------------------

    def count_residuals(self, request: CutRequest, grid: Grid, weight_unit: int) -> tuple[Counts, Int64]:
        counts = np.zeros(n_counts(request), np.uint32)
        sums = np.zeros(n_counts(request) if self._plan.weighted else 0, np.int64)
        for residuals, groups, rows, weights in self._residuals_of_chunks():
            own = residuals, groups, rows
            count_residuals(*own, grid, request, counts)
            if weights is not None:
                fixed = objective.fixed_weights(weights, weight_unit)
                weigh_residuals(*own, fixed, grid, request, sums)
        return counts, sums

    def _residuals_of_chunks(self) -> Iterator[_Residuals]:
        """Of each chunk: residuals and groups of its rows, float32, which of them count, and the weights, float32, or None."""
        if self._rows is not None:  # training did not begin
            counted = self._counted()
            rows = np.flatnonzero(counted) if len(counted) else np.arange(self.n_rows)
            for number, own in enumerate(self._labels):
                groups = np.full(self.n_rows, number, np.float32)
                yield own, groups, rows.astype(np.uint32), self._weights
            return
        starts = self._starts[self._output]
        labels = self._kept_labels[self._output if len(self._kept_labels) > 1 else 0]
        for chunk, first, end in spans(self.n_rows):
            residuals = labels.part(first, end) - starts[first:end]
            weights = None if self._kept_weights is None else self._kept_weights.part(first, end)
            yield residuals, self._leaf_of[first:end], self._places[0].drawn[0].of_chunk(chunk), weights

    def set_leaves(self, values: npt.NDArray[np.float32]) -> None:
        margins = self._margins[self._output]
        for _, first, end in spans(self.n_rows):
            margins[first:end] += values[self._leaf_of[first:end].astype(np.int64)]

    def checksum(self) -> int:
        """Of all rows as they are held now, in their order: who reads the same rows again finds the same."""
        held: list[npt.NDArray[Any] | None] = [self._held_bits, self._hashes]
        if self._rows is not None:
            held += [self._labels, self._weights, self._base_margin]
        else:
            weights = None if self._kept_weights is None else self._kept_weights.values
            held += [*(own.values for own in self._kept_labels), weights, self._margins]
        found = 0
        for array in itertools.chain(held, () if self._rows is not None else self._codes.arrays()):
            if array is not None:
                found = zlib.crc32(np.ascontiguousarray(array).view(np.uint8).data, found)
        return found
