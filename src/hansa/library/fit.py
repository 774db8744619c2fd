"""Training from Python: every party's rows are in this process, which plays all members. What a notebook calls.

The members are the real ones (`roles`), their frames too; what is missing is the network, and the point of hiding anything. To train
over a network each member calls `join`.
"""

from __future__ import annotations

import contextlib
import hashlib
import html
import inspect
import os
import textwrap
import time
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import narwhals as nw
import numpy as np
import numpy.typing as npt

from hansa.callbacks import Callback, Callbacks, check_callbacks
from hansa.data.coding import CodedTable, read_coded
from hansa.data.frames import columns_of, is_missing, open_columns, plain
from hansa.data.holdout import held_out
from hansa.data.schema import date_rule
from hansa.errors import DataError, HansaError, PlanError
from hansa.exposure import exposure, openings_under
from hansa.model import Model
from hansa.mpc.openings import Opening
from hansa.node import kernels
from hansa.node.cores import useful_threads
from hansa.node.in_process import policy_of_holder, share_in_process, train_in_process
from hansa.node.warm_up import warm_up, warm_up_shares
from hansa.plan import (
    COOPETITIVE,
    DEFAULT_MIN_CELL_ROWS,
    MODES,
    CustomObjective,
    Plan,
    checked_classes,
    parameters_of,
)
from hansa.progress import COMPILING, Bar, bar, metrics_text
from hansa.roles.batches import hold_out, repeated_rows
from hansa.roles.run import Progress
from hansa.roles.summed.custom import Functions, GradientFunction, MetricFunction
from hansa.simulation.comparison import PairedLoss, advice
from hansa.simulation.evaluation import model_views, shap_view, training_views
from hansa.simulation.run import (
    OwnMetric,
    SimulationSettings,
    compare_alone,
    make_plan,
    member_names,
    predictions_of,
    refusal_of_members,
    told_of_names,
)
from hansa.simulation.scores import score_table
from hansa.simulation.summary import values_alone
from hansa.simulation.tables import Table
from hansa.trees.parameters import Parameters, with_labels
from hansa.views.chart import View
from hansa.views.html import notebook_html

if TYPE_CHECKING:
    from hansa.node.events import OnEvent
    from hansa.node.record import Record

LABEL, WEIGHT, BASE_MARGIN = "label", "weight", "base_margin"
"""What the columns are called where they are given as arrays."""

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Member:
    """What one party brought, and what came of it.

    Attributes
    ----------
    rows : int
        Of the party, held-out ones included.
    bytes_up, bytes_down : int
        What it would have sent and received over a network.
    together, alone : mapping of str to float or None
        Metrics of the common model, and of one trained on this party's rows only, on its own held-out rows; empty without any, None
        for a metric without a value.
    paired : PairedLoss or None
        The loss of its held-out rows under the common model and its own, row by row; None where there are not both.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2
    >>> run = fit({"aurora": (X, y), "borealis": (X + 1, y)}, rounds=1, progress=False)
    >>> run.members["aurora"].rows
    40
    """

    rows: int
    bytes_up: int
    bytes_down: int
    together: Scores = field(default_factory=dict)
    alone: Scores = field(default_factory=dict)
    paired: PairedLoss | None = None


@dataclass(frozen=True, repr=False)
class Run:
    """What a run gave; a notebook shows it as tables.

    Attributes
    ----------
    model : Model
        What every receiver has.
    plan : Plan
        What all members agreed on.
    members : mapping of str to Member
        By party, under the names that were given.
    metrics : mapping of str to float or None
        Of the held-out rows of all parties, as the mode opened them last; empty without any.
    history : mapping of str to list
        The same after every round that opened them.
    shap : mapping of str to float
        By feature the mean size of SHAP values of all parties' rows, or of those held out; empty where none was asked for.
    seconds : float
        Of training, set-up and binning included.
    exposure : tuple of str
        Who could read what, in sentences.
    openings : tuple of Opening
        Everything that a coopetitive run revealed, and to whom; none in the other modes.
    warnings : tuple of str
        What the rows hold that is allowed but probably not meant.

    Examples
    --------
    >>> import numpy as np
    >>> X, y = np.arange(80.0).reshape(40, 2), np.arange(40) % 2
    >>> run = fit({"aurora": (X, y), "borealis": (X + 1, y)}, rounds=2, progress=False)
    >>> run.model.rounds, sorted(run.members)
    (2, ['aurora', 'borealis'])
    """

    model: Model
    plan: Plan
    members: Mapping[str, Member]
    metrics: Scores
    history: Mapping[str, Sequence[float | None]]
    seconds: float
    exposure: tuple[str, ...]
    openings: tuple[Opening, ...]
    warnings: tuple[str, ...] = ()
    shap: Mapping[str, float] = field(default_factory=dict)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        names = list(next(iter(self.members.values())).together) if self.members else []
        scored = [name for name in names if any(member.alone for member in self.members.values())]
        head = [
            "party",
            "rows",
            "kB sent",
            "kB received",
            *(f"{name} together" for name in names),
            *(f"{n} alone" for n in scored),
        ]
        rows = []
        for name, member in self.members.items():
            row = [name, f"{member.rows:,}", f"{member.bytes_up / 1e3:,.0f}", f"{member.bytes_down / 1e3:,.0f}"]
            row += [_number(member.together.get(metric)) for metric in names]
            row += [_number(member.alone.get(metric)) for metric in scored]
            rows.append(row)
        return head, rows

    def _facts(self) -> str:
        held = ", ".join(f"{name} {_number(value)}" for name, value in self.metrics.items())
        return f"{self.plan.mode}: {len(self.members)} parties, {self.model.rounds} rounds in {self.seconds:.1f} s" + (
            f"; held-out rows: {held}" if held else ""
        )

    def __repr__(self) -> str:
        head, rows = self._table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = [
            "  ".join(
                cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
            )
            for row in (head, *rows)
        ]
        return "\n".join([self._facts(), *lines, *self.advice, *self.exposure])

    @property
    def advice(self) -> tuple[str, ...]:
        """A sentence on each party whose own model predicts its held-out rows better than the common one, by more than chance may."""
        return tuple(text for name, member in self.members.items() if (text := advice(name, member.paired)))

    def views(self) -> tuple[View, ...]:
        """What a notebook shows, part by part: numbers as tables, and as charts that `hansa.views.drawing.draw` draws."""
        head, rows = self._table()
        parties = View(
            name="parties", title="Parties", table=(tuple(head), *map(tuple, rows)), note=" ".join(self.advice)
        )
        together = {name: member.together for name, member in self.members.items() if member.together}
        metric = next(iter(next(iter(together.values()))), "") if together else ""
        alone = {name: self.members[name].alone.get(metric) for name in together}
        return (
            parties,
            *training_views(
                metric,
                alone,
                {self.plan.mode: {name: values.get(metric) for name, values in together.items()}},
                self.history,
                self.plan.opened_steps,
            ),
            *model_views(self.model.ensemble),
            *((shap_view(self.shap, "all parties' rows"),) if self.shap else ()),
        )

    def _repr_html_(self) -> str:
        seen = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in self.exposure)
        opened = "".join(f"<li>to {html.escape(each.to)}: {html.escape(each.what)}</li>" for each in self.openings)
        return (
            notebook_html(self._facts(), self.views())
            + f"<details><summary>Who could read what</summary><ul>{seen}{opened}</ul></details>"
        )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def split(frame: Any, by: str) -> dict[str, Any]:
    """Part a frame into the rows of each party.

    Parameters
    ----------
    frame : pandas, polars, Arrow or another frame
    by : str
        The column that says whose each row is; it is left out of the parts.

    Returns
    -------
    dict of str to frame
        By party, in sorted order; frames of the kind that was given.

    Raises
    ------
    DataError
        There is no such column, or a row has no value there.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> cells = pd.DataFrame({"operator": ["b", "a", "b"], "load": [1.0, 2.0, 3.0]})
    >>> {name: part["load"].tolist() for name, part in hansa.split(cells, by="operator").items()}
    {'a': [2.0], 'b': [1.0, 3.0]}
    """
    columns = columns_of(frame, "the frame", dates=getattr(frame, "column_names", getattr(frame, "columns", ())))
    if by not in columns:
        raise DataError(f"the frame: no column {by!r}; found {', '.join(map(repr, columns))[:200]}")
    table = nw.from_native(frame, eager_only=True)
    values = ["" if is_missing(value) else str(value) for value in table[by].to_list()]
    if "" in values:
        raise DataError(f"the frame, row {values.index('') + 1}, column {by!r}: says no party; fill it in")
    rows = np.array(values, object)
    rest = table.drop(by)
    return {name: rest[np.flatnonzero(rows == name).tolist()].to_native() for name in sorted(set(values))}


def fit(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None = None,
    *,
    mode: str = "federated",
    weight: str | None = None,
    base_margin: str | Sequence[str] | None = None,
    member_feature: str | None = None,
    classes: Sequence[str] = (),
    categorical: Sequence[str] = (),
    dates: Mapping[str, str] = MappingProxyType({}),
    unseen: str = "missing",
    rare_levels: Mapping[str, int] = MappingProxyType({}),
    evaluation_fraction: float = 0.0,
    evaluation_steps: Sequence[int] = (),
    shap: str = "",
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS,
    label_range: tuple[float, float] | None = None,
    statistics: bool | None = None,
    least_choices: int | None = None,
    leaf_bits: int | None = None,
    alone: bool = True,
    threads: int | None = None,
    on_event: Callable[[Progress], None] | None = None,
    xgb_model: Any = None,
    obj: GradientFunction | None = None,
    gradient_bound: float | None = None,
    hessian_bound: float | None = None,
    custom_metric: MetricFunction | None = None,
    metric_bound: float | None = None,
    maximize: bool = False,
    collectors: int | Mapping[str, Sequence[str]] = 0,
    callbacks: Sequence[Callback] = (),
    progress: bool | None = None,
    **parameters: Any,
) -> Run:
    """Train one model on the rows of several parties, all members in this process.

    Parameters
    ----------
    parties : mapping of str to frame or tuple
        Each party's rows: a frame with the features, the label, the weight and the base margin as columns; or (X, y), (X, y, weight)
        or (X, y, weight, base_margin), where X is a frame or an array (rows, features). All parties have the same columns.
    label : str or sequence of str, optional
        The column to predict, or several: the model has an output for each. Left out where parties give (X, y), y (rows,) or
        (rows, labels).
    mode : {"federated", "secure-aggregation", "coopetitive"}
        How the parties' sums or rows are protected.
    weight : str, optional
        The column of row weights.
    base_margin : str or sequence of str, optional
        The column of each row's margin before the first tree, in place of the base score, such as the log of an exposure; of a model of
        several outputs a column for each. The model does not hold it: give it to `Model.predict` too. Not in coopetitive mode.
    member_feature : str, optional
        One more feature of this name, categorical: whose each row is. Trees then can treat members apart; a table to predict needs the
        column.
    classes : sequence of str
        Where the label is texts: what it says, in the order of the classes 0, 1, ...; truth values may stand for two classes.
    categorical : sequence of str
        Features of numbers whose values are categories; features of texts are categories anyway.
    dates : mapping of str to str
        By feature, the rule that makes its number of a date, as in a plan's schema.dates: {"opened": "days", "opened_month": "month of
        opened"}. The model holds it, so that `Model.predict` takes the dates again.
    unseen : {"missing", "error"}
        Whether `Model.predict` takes levels that no row of training had for no category, or refuses them.
    rare_levels : mapping of str to int
        By categorical feature, how many rows of all parties a level needs; all others become the level "other", which also takes levels
        that no row of training had. Not in coopetitive mode.
    evaluation_fraction : float
        Share of each party's rows held out for metrics and early stopping.
    evaluation_steps : sequence of int
        Coopetitive: rounds after which metrics are opened; the last one by default.
    shap : {"", "all", "held-out"}
        Whose rows the mean size of SHAP values by feature is of: nobody's, all parties', or those held out. Needs `hansa[xgboost]`; not
        in coopetitive mode.
    min_cell_rows : int
        Cuts stop at cells of so many pooled rows.
    label_range : (float, float), optional
        Coopetitive regression: lowest and highest label, which is public; that of the rows by default, of counts from 0.
    statistics : bool, optional
        Whether the model has gain and cover; by default not in coopetitive mode, and in the others it has.
    least_choices, leaf_bits : int, optional
        How far leaf values are rounded, as in a plan's [release].
    alone : bool
        Train each party alone too, where rows are held out, to compare.
    threads : int, optional
        Compute threads.
    on_event : callable, optional
        Called with every `Progress`.
    xgb_model : Model, xgboost.Booster, bytes or path, optional
        Train on from this model, whose trees come first in the new one; not in coopetitive mode.
    obj : callable, optional
        A function (margins, labels, weights) -> (gradients, hessians), arrays of one number a row, in place of the objective, which
        stays reg:squarederror: predictions are margins. A row's results must depend on its own values alone, to the bit. Needs
        `base_score` and the two bounds; not in coopetitive mode. The plan has the hash of its source.
    gradient_bound, hessian_bound : float, optional
        With `obj`: no row's gradient exceeds the one in size, no row's hessian, which is at least 0, the other.
    custom_metric : callable, optional
        A function (predictions, labels, weights) -> values, arrays of one number a row, of which the mean over all parties' held-out
        rows is a metric, told last, after each round; it says when training stops early. Predictions are the model's, with `obj`
        margins. A row's value must depend on its own numbers alone, to the bit. Needs `metric_bound`; not in coopetitive mode.
    metric_bound : float, optional
        With `custom_metric`: no row's value, which is at least 0, exceeds it.
    maximize : bool
        With `custom_metric`: whether a greater mean is better.
    collectors : int or mapping of str to sequence of str
        Federated: how many members without rows add up the sums of some parties for the aggregator, or by collector's name the parties
        that it stands for. The model is the same.
    callbacks : sequence of objects
        As XGBoost's. After each round `after_iteration(model, epoch, evals_log)` is called. `model` is None, for nobody
        has it before the end. `epoch` counts rounds from 0. `evals_log` is {"evaluation": {metric: [value, ...]}} with the
        metrics that the mode has opened so far: a federated or secure-aggregation run opens them after every round, a
        coopetitive one after its `evaluation_steps`. Methods `before_training(None)` and `after_training(model)` are
        called where there are any; what they return is not used. No mode can stop on a callback's request, because the
        number of rounds is part of the plan that all members agreed on: a callback that returns True ends the run with
        PlanError. Set `early_stopping_rounds` to stop early.
    progress : bool, optional
        Whether a bar shows how far the run is, and how many kernels the first run on a machine has compiled. By default
        it does in a notebook (tqdm) and on a terminal (rich) only.
    **parameters
        XGBoost's, under its names: rounds (or n_estimators), max_depth, eta (or learning_rate), objective, seed, ...
        The defaults are XGBoost's, but `max_bin` is 32 in coopetitive mode, as in its plans.

    Returns
    -------
    Run

    Raises
    ------
    DataError
        Names party, row and column, what was expected and found, and the cure.
    PlanError
        A parameter or setting that Hansa does not have, or not in this mode; or a callback asked to stop.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> run = hansa.fit(hansa.split(rows, by="operator"), label="fault", rounds=5, mode="secure-aggregation")
    >>> run.model
    hansa.Model(binary:logistic, 5 rounds, 1 features)
    """
    if mode not in MODES:
        raise PlanError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    given = {
        "evaluation_steps": evaluation_steps,
        "label_range": label_range,
    }
    if mode != COOPETITIVE and (wrong := [name for name, value in given.items() if value]):
        raise PlanError(f"{wrong[0]} goes with mode={COOPETITIVE!r} only; leave it out, or choose that mode")
    check_callbacks(callbacks)
    # What XGBoost, too, writes where a function takes the objective's place.
    trained = parameters_of(mode, parameters if obj is None else {"objective": "reg:squarederror", **parameters})
    read = read_parties(
        parties,
        label,
        weight,
        trained,
        classes=classes,
        categorical=categorical,
        base_margin=base_margin,
        member_feature=member_feature,
        dates=dates,
    )
    table, sizes = read.table, read.sizes
    members = dict(zip(sizes, member_names(list(sizes)).values(), strict=True))
    parts = {members[name]: table.take(table.party == name) for name in sizes}
    settings = SimulationSettings(
        parameters=trained,
        label=read.label,
        mode=mode,
        weight=read.weight,
        base_margin=read.base_margin,
        min_cell_rows=min_cell_rows,
        evaluation_fraction=evaluation_fraction,
        label_range=label_range,
        steps=tuple(evaluation_steps),
        statistics=statistics,
        least_choices=least_choices,
        leaf_bits=leaf_bits,
        dates=tuple(dates.items()),
        unseen=unseen,
        rare_levels=tuple(rare_levels.items()),
        own_metric=own_metric(custom_metric, metric_bound, maximize),
        collectors=_collectors(collectors, members),
    )
    heaviest = 1.0 if table.weight is None else float(table.weight.max())
    levels = dict(table.categories)
    labels = float(table.label.min()), float(table.label.max())
    plan = make_plan(settings, table.names, tuple(parts), labels, heaviest, levels, table.farthest)
    plan = replace(plan, custom_objective=_custom_objective(obj, gradient_bound, hessian_bound))
    plan = replace(plan, shap=shap)
    functions = Functions(obj, custom_metric)
    start = _start_model(xgb_model)
    if start is not None:
        plan = replace(plan, start_model=hashlib.sha256(start).hexdigest())
    told = [*told_of_names(members), *table.warnings]
    if (refusal := refusal_of_members(plan, parts)) is not None:
        plan = replace(plan, min_party_rows=0)
        told.append(refusal)
    told += repeated_rows(plan, table.features, table.label)
    for text in told:
        warnings.warn(text, UserWarning, stacklevel=2)
    calls = Callbacks(callbacks)
    calls.before_training()
    started = time.perf_counter()
    with bar(progress) as shown, _compiling_on(shown, plan):
        report = _reporting(on_event, calls, shown)
        model, history, traffic, sizes_of = _train(plan, parts, threads or useful_threads(), report, start, functions)
    seconds = time.perf_counter() - started
    ready = Model(model)
    calls.after_training(ready)
    return Run(
        model=ready,
        plan=plan,
        members={
            name: _member(plan, ready, parts[members[name]], traffic[members[name]], alone, functions) for name in sizes
        },
        metrics={name: values[-1] for name, values in history.items() if values},
        history=history,
        shap=sizes_of,
        seconds=seconds,
        exposure=exposure(plan),
        openings=openings_under(plan),
        warnings=tuple(told),
    )


@dataclass(frozen=True)
class Parties:
    """All parties' rows as one table, whose `party` holds the names that were given.

    Attributes:
        sizes: rows of each party, in the order in which they were given. label, weight, base_margin: the columns' names; several labels
            are a tuple.
    """

    table: Table
    sizes: Mapping[str, int]
    label: str | tuple[str, ...]
    weight: str | None
    base_margin: tuple[str, ...] = ()


def read_parties(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None,
    weight: str | None,
    parameters: Parameters,
    *,
    classes: Sequence[str] = (),
    categorical: Sequence[str] = (),
    subject: str | None = None,
    base_margin: str | Sequence[str] | None = None,
    member_feature: str | None = None,
    dates: Mapping[str, str] = MappingProxyType({}),
) -> Parties:
    """Read what `fit` takes as parties; arguments are those of `fit`, and `subject` is a column of theirs that is no feature.

    Raises DataError and PlanError as `fit` does.
    """
    named = checked_classes(list(classes) if not isinstance(classes, str) else classes, parameters)
    starts = (base_margin,) if isinstance(base_margin, str) else tuple(base_margin or ())
    sources = {date_rule(name, rule)[1] for name, rule in dates.items()}
    given = () if label is None else (label,) if isinstance(label, str) else tuple(label)
    labels = given or _label_names(_named(parties))
    trained = with_labels(parameters, max(len(labels), 1))
    names = {LABEL: list(labels), WEIGHT: [WEIGHT], BASE_MARGIN: _margin_names(trained.outputs)}
    tables = {
        str(name): _columns(value, bool(given), weight, starts, names, f"party {str(name)!r}", sources)
        for name, value in _named(parties).items()
    }
    if not given:
        # What stands in the tuples, not what X calls its columns: a feature may be named weight.
        weight = WEIGHT if _all_give(parties, 2, WEIGHT) else None
        starts = tuple(names[BASE_MARGIN]) if _all_give(parties, 3, BASE_MARGIN) else ()
    table, sizes = _joined(tables, labels, weight, starts, named, tuple(categorical), trained, subject, dates)
    one = labels if len(labels) > 1 else labels[0]
    return Parties(table.with_member_feature(member_feature), sizes, one, weight, starts)


def _label_names(parties: Mapping[Any, Any]) -> tuple[str, ...]:
    """The columns of labels that were given as arrays, as many as the first party's has."""
    first = next(iter(parties.values()))
    shape = np.shape(first[1]) if isinstance(first, tuple) and len(first) > 1 else ()
    if len(shape) < 2 or shape[1] == 1:
        return (LABEL,)
    return tuple(f"{LABEL}_{number}" for number in range(shape[1]))


def _all_give(parties: Mapping[str, Any], place: int, what: str) -> bool:
    """Whether the parties' tuples have something at this place. Raises DataError where some have and others have not."""
    having = [name for name, given in parties.items() if len(given) > place and given[place] is not None]
    if 0 < len(having) < len(parties):
        lacking = next(name for name in parties if name not in having)
        raise DataError(
            f"party {having[0]!r} gives a {what}, and party {lacking!r} none; give it for all parties, or for none"
        )
    return bool(having)


def _margin_names(outputs: int) -> list[str]:
    """The columns of base margins that were given as an array."""
    return [BASE_MARGIN] if outputs == 1 else [f"{BASE_MARGIN}_{output}" for output in range(outputs)]


def _named(parties: object) -> Mapping[Any, Any]:
    if not isinstance(parties, Mapping) or not parties:
        raise DataError(
            f"parties: expected a mapping of names to rows, found {type(parties).__name__}; hansa.split(frame, by=COLUMN) makes "
            "one of a frame"
        )
    return parties


def _columns(
    value: Any,
    labelled: bool,
    weight: str | None,
    starts: tuple[str, ...],
    names_of: Mapping[str, list[str]],
    where: str,
    dates: Collection[str],
) -> dict[str, npt.NDArray[Any]]:
    """A party's columns; labels, weight and base margins among them. labelled: whether names of labels were given. names_of: by what a
    tuple holds, the names of its columns."""
    if not isinstance(value, tuple):
        if not labelled:
            raise DataError(f"{where}: expected a label: say label=COLUMN, or give the party as a tuple (X, y)")
        return columns_of(value, where, dates=dates)
    if not 2 <= len(value) <= 4:
        raise DataError(
            f"{where}: expected (X, y), (X, y, weight) or (X, y, weight, base_margin), found a tuple of {len(value)}"
        )
    if labelled or weight is not None or starts:
        raise DataError(
            f"{where}: the label is given twice: leave out label=, weight= and base_margin=, or give one frame for each party"
        )
    columns = columns_of(value[0], where, dates=dates)
    rows = len(next(iter(columns.values()), ()))
    for what, given in zip((LABEL, WEIGHT, BASE_MARGIN), value[1:], strict=False):
        if given is None:
            continue
        array, names = plain(given), names_of[what]
        array = array.reshape(-1, 1) if array.ndim < 2 or what == WEIGHT else array
        if array.ndim != 2 or array.shape[1] != len(names):
            raise DataError(
                f"{where}: the {what} has shape {array.shape}; expected (rows,)"
                + (f" or (rows, {len(names)})" if len(names) > 1 else "")
            )
        for name in names:
            if name in columns:
                raise DataError(f"{where}: X has a column {name!r} beside the {what} that is given; rename the column")
        if len(array) != rows:
            raise DataError(f"{where}: X has {rows} rows, and the {what} {len(array)}")
        columns |= columns_of(array, f"{where}, {what}", names)
    return columns


def _joined(
    tables: Mapping[str, Mapping[str, npt.NDArray[Any]]],
    labels: tuple[str, ...],
    weight: str | None,
    starts: tuple[str, ...],
    classes: tuple[str, ...],
    categorical: tuple[str, ...],
    parameters: Parameters,
    subject: str | None,
    dates: Mapping[str, str],
) -> tuple[Table, dict[str, int]]:
    """All parties' rows as one table, and how many each has."""
    first_name, first = next(iter(tables.items()))
    for name, columns in tables.items():
        if set(columns) != set(first):
            odd = sorted(set(columns) ^ set(first))[0]
            has, lacks = (name, first_name) if odd in columns else (first_name, name)
            raise DataError(
                f"column {odd!r}: party {has!r} has it and party {lacks!r} has not; give all parties the same columns"
            )
    sizes = {name: len(next(iter(columns.values()), ())) for name, columns in tables.items()}
    joined = {column: _stacked([columns[column] for columns in tables.values()]) for column in first}
    kind = parameters.label_kind

    def read(columns: Mapping[str, npt.NDArray[Any]], where: str) -> CodedTable:
        return read_coded(
            open_columns(columns, where),
            label=labels,
            weight=weight,
            base_margin=starts,
            subject=subject,
            categorical=categorical,
            label_kind=kind,
            classes=classes,
            dates=dates,
        )

    try:
        coded = read(joined, "the parties' rows")
    except DataError:
        for name, columns in tables.items():
            read(columns, f"party {name!r}")  # says whose row it is
        raise
    party = np.repeat(np.array(list(sizes), object), list(sizes.values()))
    return Table.of(coded, party, coded.warnings, dates), sizes


def _stacked(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """One column of several: of texts where any is."""
    if any(array.dtype == object for array in arrays):
        arrays = [
            array
            if array.dtype == object
            else np.array([None if is_missing(v) else str(v) for v in array.tolist()], object)
            for array in arrays
        ]
    return np.concatenate(arrays)


def _compiling_on(shown: Bar, plan: Plan) -> contextlib.AbstractContextManager[None]:
    """Kernels that are compiled from now on are counted on the bar."""
    most = kernels.MOST[plan.coopetitive is not None]
    return kernels.counted(lambda compiled: shown.show(COMPILING, compiled, most))


def _reporting(
    on_event: Callable[[Progress], None] | None, callbacks: Callbacks, shown: Bar
) -> Callable[[Progress], None]:
    """What takes a run's events, and hands them on. Nothing else here knows what an event looks like."""

    def report(event: Progress) -> None:
        shown.show("training", event.trees, event.rounds, metrics_text(event.metrics))
        if on_event is not None:
            on_event(event)
        if event.stage == "tree":
            callbacks.after_round(event.trees, event.metrics)

    return report


def _collectors(
    given: int | Mapping[str, Sequence[str]], members: Mapping[str, str]
) -> int | Mapping[str, Sequence[str]]:
    """How many collectors, or each with its parties' member names; `members` has them by party. Raises PlanError."""
    if isinstance(given, bool) or not isinstance(given, int | Mapping):
        raise PlanError(
            f"collectors: expected a number, or a mapping of names to parties, found {type(given).__name__}"
        )
    if isinstance(given, int):
        return given
    unknown = [party for own in given.values() for party in own if party not in members]
    if unknown:
        raise PlanError(f"collectors: {unknown[0]!r} is none of the parties {', '.join(members)}")
    return {name: [members[party] for party in own] for name, own in given.items()}


Traffic = Mapping[str, tuple[int, int]]


def _start_model(given: Any) -> bytes | None:
    """The file of a model to train on from."""
    if given is None or isinstance(given, bytes):
        return given
    if isinstance(given, bytearray):
        return bytes(given)
    if isinstance(given, Model):
        return given.to_json()
    if isinstance(given, str | os.PathLike):
        return Model.load(given).to_json()
    booster = getattr(given, "get_booster", lambda: given)()
    if hasattr(booster, "save_raw"):
        return bytes(booster.save_raw("json"))
    raise DataError(
        f"xgb_model: expected a hansa.Model, a Booster, bytes or a path, found {type(given).__name__}; give one of them"
    )


def _custom_objective(
    obj: GradientFunction | None, gradient_bound: float | None, hessian_bound: float | None
) -> CustomObjective | None:
    """What the plan says of a function. Raises PlanError."""
    if obj is None:
        if gradient_bound is not None or hessian_bound is not None:
            raise PlanError("gradient_bound and hessian_bound go with obj; leave them out, or give a function")
        return None
    if not callable(obj):
        raise PlanError(f"obj: expected a function (margins, labels, weights), found {type(obj).__name__}")
    if gradient_bound is None or hessian_bound is None:
        raise PlanError(
            "obj needs gradient_bound and hessian_bound, which no row's gradient and hessian exceed: sums are scaled by them"
        )
    return CustomObjective(_source_digest("obj", obj), float(gradient_bound), float(hessian_bound))


def own_metric(function: MetricFunction | None, bound: float | None, maximize: bool) -> OwnMetric | None:
    """A metric's function, and what the plan says of it; arguments are those of `fit`. Raises PlanError."""
    if function is None:
        if bound is not None or maximize:
            raise PlanError("metric_bound and maximize go with custom_metric; leave them out, or give a function")
        return None
    if not callable(function):
        raise PlanError(
            f"custom_metric: expected a function (predictions, labels, weights), found {type(function).__name__}"
        )
    if bound is None:
        raise PlanError("custom_metric needs metric_bound, which no row's value exceeds: sums are scaled by it")
    return OwnMetric.of(function, _source_digest("custom_metric", function), bound, maximize)


def _source_digest(what: str, function: Callable[..., Any]) -> str:
    """SHA-256 of a function's source. Raises PlanError where there is none."""
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError) as error:
        raise PlanError(
            f"{what}: its source cannot be found; define it in a file or in a cell of a notebook"
        ) from error
    return hashlib.sha256(source.encode()).hexdigest()


def _train(
    plan: Plan,
    parts: Mapping[str, Table],
    threads: int,
    report: Callable[[Progress], None],
    start: bytes | None,
    functions: Functions,
) -> tuple[bytes, Mapping[str, Sequence[float | None]], Traffic, Mapping[str, float]]:
    rows = {name: part.rows() for name, part in parts.items()}
    if plan.coopetitive is None:
        warm_up(plan.parameters, bool(plan.schema.categories))
        policy = policy_of_holder(plan)
        run = train_in_process(
            plan, rows, threads=threads, report=report, policy=policy, start=start, functions=functions
        )
        told = run.outcome
        return told.model, told.history, {n: (t.bytes_up, t.bytes_down) for n, t in run.traffic.items()}, told.shap
    warm_up_shares(plan.parameters)
    shared = share_in_process(plan, rows, threads=threads, report=report)
    model = shared.members[plan.receivers[0]].model
    if model is None:
        raise HansaError("the run ended without a model")
    history = values_alone(shared.members[plan.servers[0]].history)
    return model, history, {n: (t.bytes_up, t.bytes_down) for n, t in shared.traffic.items()}, {}


def _member(
    plan: Plan,
    model: Model,
    part: Table,
    traffic: tuple[int, int],
    alone: bool,
    functions: Functions,
) -> Member:
    held = held_out(part.features, part.label, hold_out(plan))
    together: Scores = {}
    by_itself: Scores = {}
    paired = None
    if held.any():
        test = part.take(held)
        predictions = predictions_of(model.ensemble, test)
        values = score_table(plan.parameters.objective, predictions, test.label, plan.parameters.quantiles)
        together = {name: None if np.isnan(value) else value for name, value in values.items()}
        if alone:
            alone_scores, paired = compare_alone(plan, model.ensemble, part, test, functions)
            by_itself = alone_scores or dict.fromkeys(together)
    return Member(part.n_rows, *traffic, together, by_itself, paired)


def join(member_file: str | Path, on_event: OnEvent | None = None) -> Record:
    """Take part in a run over the network, as the member that a file describes; `hansa party` and its like do the same.

    Parameters
    ----------
    member_file : path
        The member's own file; the plan that it names says which roles the member plays.
    on_event : callable, optional
        Called with each event (`hansa.node.events`): progress, and what happens to connections. They are what `--json` prints as lines.

    Returns
    -------
    Record
        The member's record (`hansa.node.record`), which is also written where the file says.

    Raises
    ------
    HansaError
        And its kinds: the run was refused or stopped; says by whom, why and what to do.

    Examples
    --------
    A member whose file is not there is told so before anything is connected.

    >>> join("aurora.toml", on_event=print)
    Traceback (most recent call last):
        ...
    hansa.errors.PlanError: aurora.toml: cannot be read...
    """
    from hansa.node.config import read_member_file
    from hansa.node.run import run as run_member

    return run_member(read_member_file(Path(member_file)), on_event or (lambda _: None))
