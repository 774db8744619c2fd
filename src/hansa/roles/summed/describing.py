"""What a run does that describes the pooled table in place of training: which columns it counts, and both sides' rules for its bins.

Such a run goes as training does until the cells of all columns are counted; the label is counted among the columns, in bins where it
is a number. Then, once:

    CountBins    the aggregator asks for rows by bin and by category; it says how many rows of all parties each bin holds
    "bins"       parties count them, as one vector that is masked where the mode masks sums
    Described    the aggregator tells all what `data.bin_counts.told_counts` leaves of the sums, and the run is over

Bins are unions of cells that were counted before: of these the aggregator learns nothing more. It does learn the rows of each
category, and of each cell of a label that is a number.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hansa.data.bin_counts import MOST_BINS, UNTOLD, Layout, choose_cuts, count_bins, told_counts
from hansa.data.description import Columns, Description, describe_columns
from hansa.data.quantiles import CutGuard, Cuts, CutSearch
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.plan import Plan
from hansa.roles.run import Roster

Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def check_describable(plan: Plan) -> None:
    """Raise PlanError where a plan's pooled table cannot be described, saying why."""
    if plan.coopetitive is not None:
        raise PlanError(
            "mode 'coopetitive' opens cuts, base scores and the model, and no counts of rows: a description would open what the plan "
            "keeps closed. Agree on mode federated or secure-aggregation for a description",
            cure="agree on mode federated or secure-aggregation for a description",
        )
    if len(plan.schema.labels) > 1:
        raise PlanError(
            f"schema.label names {len(plan.schema.labels)} columns, and a description has one label; agree on a plan that names one of "
            "them, and the others in schema.ignore, for a description",
            cure="agree on a plan of one label for a description",
        )
    if plan.schema.union:
        raise PlanError(
            f"schema.union: levels of {plan.schema.union[0]!r} are known once training begins; for a description list them in the plan",
            cure="agree on a plan that lists the levels for a description",
        )
    if plan.collectors:
        raise PlanError(
            "members.collectors: a description holds each party's own counts to pooled ones, and collectors add them up; agree on a "
            "plan without collectors for a description",
            cure="agree on a plan without members.collectors for a description",
        )
    if plan.dominance:
        raise PlanError(
            "privacy.dominance = true: a description holds its cells to min_cell_rows rows of all parties, not of all but the largest "
            "one; agree on a plan without it for a description",
            cure="agree on a plan without privacy.dominance for a description",
        )


def columns_of(plan: Plan) -> Columns:
    """The columns that are described: the features, and the label last."""
    schema, parameters = plan.schema, plan.parameters
    classes: tuple[str, ...] | tuple[int, ...] = ()
    if parameters.has_classes:
        classes = schema.classes or tuple(range(parameters.num_class or 2))
    return Columns(
        (*schema.features, *schema.labels),
        (*(schema.categories or ((),) * len(schema.features)), classes),
    )


def searched_values(values: Floats, columns: Columns, first: int = 0) -> Floats:
    """Values of columns from number `first` on, float32 (some, n_rows), with 0 for every category: counts of cells then tell who has a
    value, no more."""
    categories = columns.n_categories[first : first + len(values)]
    unordered = (categories > 0)[:, None] & ~np.isnan(values)
    return np.where(unordered, np.float32(0), values)


def layout_of(columns: Columns, search: CutSearch, least: int) -> tuple[Layout, Int64]:
    """The bins that are asked for once the cells are counted, and the rows of all parties in those of columns that have several.

    Rows without a value that are too few to be told are among those of the last bin.
    """
    cuts, rows = [], [np.zeros(0, np.int64)]
    for number, levels in enumerate(columns.levels):
        values, below = (np.zeros(0, np.float32), np.zeros(0, np.int64)) if levels else search.possible_cuts(number)
        present = int(search.final_cells(number)[1].sum())
        chosen = choose_cuts(values, below, present, least)
        cuts.append(values[chosen].astype(np.float32))
        if len(chosen):
            few = 0 < search.n_rows - present < least
            end = search.n_rows if few else present
            rows.append(np.diff(np.concatenate([[0], below[chosen], [end]])).astype(np.int64))
    return Layout(tuple(cuts), columns.n_categories), np.concatenate(rows)


def bins_of(layout: Layout, counts: Int64, rows: Int64, n_rows: int) -> Int64:
    """Somebody's rows in the bins of columns that have several, as long as `rows` (`layout_of`) and counted as there.

    Args:
        counts: by cell, all columns one behind the other. n_rows: of all parties.
    """
    found, at = [np.zeros(0, np.int64)], 0
    for number, cuts in enumerate(layout.cuts):
        if len(cuts):
            own = layout.of(number, counts)[:-1].copy()
            with_missing = int(rows[at : at + len(own)].sum()) == n_rows
            own[-1] += layout.of(number, counts)[-1] if with_missing else 0
            found.append(own)
            at += len(own)
    return np.concatenate(found)


# --- a party's rules ---------------------------------------------------------------------------------------------------------


def check_request(plan: Plan, columns: Columns, guard: CutGuard, cuts: Cuts, rows: Int64) -> Layout:
    """The cells that an aggregator asks for, where a party answers. Raises ProtocolError naming column and rule.

    Args:
        guard: after the counting of cells. cuts: the inner edges of bins. rows: of all parties in these bins, as it says.
    """
    guard.check_cuts(cuts)
    layout = Layout(tuple(cuts.of(number) for number in range(cuts.n_features)), columns.n_categories)
    several = [number for number, own in enumerate(layout.cuts) if len(own)]
    if len(rows) != sum(len(layout.cuts[number]) + 1 for number in several):
        raise ProtocolError(
            f"rows of {len(rows)} bins are told; expected one number for each bin where a column has several"
        )
    at = 0
    for number in several:
        name, bins = columns.names[number], len(layout.cuts[number]) + 1
        if columns.levels[number]:
            raise ProtocolError(f"column {name!r} holds categories, and is asked for in bins")
        if bins > MOST_BINS:
            raise ProtocolError(f"column {name!r} is asked for in {bins} bins; a description has at most {MOST_BINS}")
        told = rows[at : at + bins]
        at += bins
        if told.min() < plan.min_cell_rows:
            raise ProtocolError(
                f"column {name!r}: a bin of {told.min()} rows of all parties is asked for; the plan allows no fewer than "
                f"{plan.min_cell_rows}"
            )
        if told.max() > guard.n_rows_total or int(told.sum()) > guard.n_rows_total:
            raise ProtocolError(
                f"column {name!r}: bins are said to hold {told.sum()} rows; all parties have {guard.n_rows_total}"
            )
    return layout


def count_columns(layout: Layout, first: int, values: Floats) -> Int64:
    """A party's rows by cell, int64, of the columns from number `first` on; values: float32 (some, n_rows).

    Raises ProtocolError where they have no place for a value.
    """
    end = first + len(values)
    try:
        return count_bins(values, Layout(layout.cuts[first:end], layout.n_categories[first:end]))
    except DataError as error:
        raise ProtocolError("the columns have no place for a category that this party's rows hold") from error


def check_own(layout: Layout, own: Int64, rows: Int64, n_rows: int) -> None:
    """Raise ProtocolError where a party has more rows of a bin than all are said to have. own: by cell, of all columns."""
    if np.any(bins_of(layout, own, rows, n_rows) > rows):
        raise ProtocolError("a bin is said to hold fewer rows of all parties than this party alone has in it")


def tells_mean(layout: Layout) -> bool:
    """Whether the mean of the labels is told: of numbers in several bins. Elsewhere it would tell the rows of a cell that is not."""
    return len(layout.cuts[-1]) > 0


def check_told(
    plan: Plan, columns: Columns, layout: Layout, rows: Int64, n_rows: int, told: Int64, other: Int64
) -> None:
    """Refuse what an aggregator tells of the pooled counts where it is not what the plan allows. Raises ProtocolError.

    Args:
        rows: of all parties by bin, as it said before. told, other: as `told_counts`.
    """
    for number, name in enumerate(columns.names):
        own = layout.of(number, told)
        cells = np.append(own, other[number])
        few = (cells != UNTOLD) & (cells != 0) & (cells < plan.min_cell_rows) & (cells != n_rows)
        if few.any():
            raise ProtocolError(
                f"column {name!r}: a cell of {cells[few][0]} rows is told; the plan allows no fewer than {plan.min_cell_rows}"
            )
        total = int(cells[cells != UNTOLD].sum(dtype=np.int64))
        if total != n_rows or cells.max() > n_rows:
            raise ProtocolError(f"column {name!r}: its cells hold {total} rows; all parties have {n_rows}")
    if not np.array_equal(_told_bins(layout, told), rows):
        raise ProtocolError("other rows are told of the bins than when they were asked for")


def _told_bins(layout: Layout, told: Int64) -> Int64:
    parts = [layout.of(number, told)[:-1] for number, cuts in enumerate(layout.cuts) if len(cuts)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


# --- the aggregator ---------------------------------------------------------------------------------------------------------------


def tell(layout: Layout, rows: Int64, n_rows: int, pooled: Int64, least: int) -> tuple[Int64, Int64]:
    """What is told of pooled counts by cell (`told_counts`). Raises ProtocolError where parties counted other rows than before."""
    for number in range(len(layout.cuts)):
        own = layout.of(number, pooled)
        if own.min() < 0 or own.max() > n_rows or int(own.sum()) != n_rows:
            raise ProtocolError(f"column {number}: the cells do not add up to the {n_rows} rows of all parties")
    if not np.array_equal(bins_of(layout, pooled, rows, n_rows), rows):
        raise ProtocolError("bins hold other rows than the cells that they are made of")
    return told_counts(pooled, layout, least)


def description_of(
    plan: Plan,
    run: bytes,
    roster: Roster,
    layout: Layout,
    told: Int64,
    other: Int64,
    label_mean: float,
    members: dict[str, Int64],
) -> Description:
    """The description, as whoever knows the rows by cell of `members` makes it."""
    mean = label_mean if tells_mean(layout) else None
    described = describe_columns(columns_of(plan), layout, told, other, mean, members)
    return Description(
        mode=plan.mode,
        plan=plan.digest().hex(),
        run=run.hex(),
        rows=sum(rows for _, _, rows, _, _ in roster),
        held_out=sum(held for _, _, _, held, _ in roster),
        parties={name: rows for name, _, rows, _, _ in roster},
        min_cell_rows=plan.min_cell_rows,
        features=described[:-1],
        label=described[-1],
    )
