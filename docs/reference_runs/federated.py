"""Federated mode on one page: the steps of a run in order, as the aggregator and the parties take them. No network, no checks.

A party's rows stay in `tables`. What leaves a party is what `add_up` is given; what the aggregator knows is what `add_up` returns.
"""

import math
from collections.abc import Callable, Mapping

import numpy as np

from hansa.data.binning import bin_rows
from hansa.data.quantiles import CutSearch, count_cells
from hansa.data.source import Rows
from hansa.plan import Plan
from hansa.roles.summed.features import feature_rules, node_columns
from hansa.roles.summed.margin_bounds import MARGIN_ERROR, MARGIN_SLACK
from hansa.roles.summed.statistics import (
    bounds_of,
    count_magnitudes,
    histogram_bits_of,
    label_units,
    start_of,
    sum_labels,
)
from hansa.trees import histogram, objective
from hansa.trees.ensemble import Ensemble, base_margin
from hansa.trees.growth import Buffers, Grower, RowPartition
from hansa.trees.row_chunks import part
from hansa.trees.sampling import draw_columns
from hansa.trees.xgboost_json import to_json

AddUp = Callable[[str, Mapping[str, np.ndarray]], np.ndarray]
"""(what is summed, each party's integers) -> the sum over all parties: all that the aggregator uses."""


def add_in_the_clear(_quantity: str, parts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Federated mode: the aggregator reads each party's part, and adds."""
    return np.sum(list(parts.values()), axis=0, dtype=next(iter(parts.values())).dtype)


def train(plan: Plan, tables: Mapping[str, Rows], add_up: AddUp = add_in_the_clear) -> bytes:
    """The model's file. Without weights, held-out rows, subsampling, the options of [privacy], and counts as labels."""
    p, n, names = plan.parameters, sum(rows.n_rows for rows in tables.values()), plan.schema.features

    # 1. How large are labels? Then their sum, in units that no sum of them overflows: the base score.
    magnitudes = add_up("magnitudes", {k: count_magnitudes(t.label, None) for k, t in tables.items()})
    bounds = bounds_of(magnitudes, has_weights=False)
    sums = add_up("labels", {k: sum_labels(t.label, None, *label_units(bounds, n)) for k, t in tables.items()})
    start = start_of(plan, sums, *label_units(bounds, n))
    bits = histogram_bits_of(plan, magnitudes, sums, start)

    # 2. Cuts: counts in coarse cells of each feature, then in parts of the cells that hold a cut.
    search = CutSearch(len(names), n, p.max_bin, plan.min_cell_rows)
    while not search.done:
        request = search.request()
        search = search.answer(
            add_up("cells", {k: count_cells(t.features, request) for k, t in tables.items()}).astype(np.int64)
        )
    cuts = search.cuts()

    # 3. Each party codes its rows; all start at the base score.
    binned = {k: bin_rows(t.features, cuts) for k, t in tables.items()}
    base = base_margin(p.objective, start.base_scores[0])
    margins = {k: np.full(t.n_rows, base, np.float32) for k, t in tables.items()}
    weight = bounds.weight * max(1.0, start.scale_pos_weight)
    offsets = next(iter(binned.values())).offsets
    absent = np.where(cuts.has_missing, np.diff(offsets) - 1, -1).astype(np.int32)

    def limits(margin: float) -> tuple[list[float], list[int]]:
        """No row's |gradient| and hessian exceed these while no margin exceeds `margin`; the units to sum them in."""
        steepest = objective.gradient_bound(p.objective, weight, bounds.label, margin * MARGIN_SLACK, margin)
        most = [steepest, objective.hessian_bound(p.objective, weight, steepest, p.shape)]
        return most, [objective.unit_exponent(one, n) for one in most]

    rules = feature_rules(plan)
    margin, trees, buffers, largest = abs(float(base)), [], Buffers(), None
    bound, units = limits(margin)
    for number in range(p.rounds):
        # 4. Gradients and hessians, the sums of their sizes, and the finest scale under which no sum of them overflows.
        slopes = {k: (np.empty(t.n_rows), np.empty(t.n_rows)) for k, t in tables.items()}
        everything = {k: part(t.n_rows, None, np.empty(t.n_rows, np.uint16))[0] for k, t in tables.items()}
        sizes = {}
        for k, t in tables.items():
            objective.gradients(p.objective, margins[k], t.label, None, start.scale_pos_weight, *slopes[k], p.shape)
            own = [objective.sum_magnitudes(s, everything[k].rows, bound[i], n) for i, s in enumerate(slopes[k])]
            sizes[k] = np.array(own, np.int64)
        totals = add_up("totals", sizes)
        scales = objective.scales(*(totals.tolist() if largest is None else largest), *units, n, bits)
        packed = {k: np.empty((scales.planes, t.n_rows), np.int64) for k, t in tables.items()}
        for k in tables:
            objective.pack(*slopes[k], scales, packed[k])  # a row's g and h are whole numbers from here on

        # 5. Level by level: histograms up, splits down. The last level's leaf values move the margins.
        columns = draw_columns(len(names), p.colsample_bytree, p.seed, number)
        layout = histogram.layout_of(offsets, columns)
        usable = node_columns(plan, rules, columns, number)
        grower = Grower(p, scales, layout, cuts.has_missing, buffers, rules, usable)
        rows = {
            k: RowPartition(binned[k].codes_by_feature, absent, rules.n_categories, everything[k], margins[k])
            for k in tables
        }
        while True:
            built = {k: histograms(binned[k].codes, layout, rows[k], grower.to_build, packed[k]) for k in tables}
            grower.add(0, add_up("histograms", built), parties=1)
            level = grower.decide()
            for k in tables:
                rows[k].apply(level)
            if level.last:
                break
            grower.go_on()
        trees.append(grower.tree(cuts.offsets, cuts.values))

        # 6. The leaves bound the next tree's sums: its scale goes out with this tree's last splits, and saves a round trip.
        sums_now = [math.ldexp(int(total), unit) for total, unit in zip(totals, units, strict=True)]
        leaves, hessians = np.abs(grower.leaves.values), grower.leaves.hessians
        margin += float(leaves.max())
        moves = leaves + margin * MARGIN_ERROR
        after = objective.sums_after(p.objective, *sums_now, moves, hessians, n / scales.hessian, start.weight)
        bound, units = limits(margin)
        largest = [math.ceil(math.ldexp(size, -unit)) + n for size, unit in zip(after, units, strict=True)]
    return to_json(Ensemble(p.objective, start.base_scores[0], names, tuple(trees)))


def histograms(codes, layout, partition, nodes, packed) -> np.ndarray:
    """A party's sums of gradients and hessians by node, feature and bin: int64 (nodes, planes, cells)."""
    out = np.empty((len(nodes), len(packed), layout.cells), np.int64)
    starts, ends = partition.starts[nodes], partition.ends[nodes]
    scratch = np.empty((1, layout.scratch), np.int64)
    histogram.build_histograms(
        codes, layout.columns, layout.offsets, layout.stride, partition.rows, starts, ends, packed, scratch, out
    )
    return out
