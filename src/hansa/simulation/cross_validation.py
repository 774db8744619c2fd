"""k-fold cross-validation over every party's rows: each fold is scored by a model that the parties trained on the other folds.

Which fold a row is in follows from the row alone (`data.holdout`), so scores do not depend on who holds which row. Metrics are the
pooled sums of a run (`trees.metrics`), computed here in the clear.
"""

from __future__ import annotations

import html
import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import narwhals as nw
import numpy as np
import numpy.typing as npt

from hansa.data.holdout import equal_pairs, folds_by_contents, folds_by_subject
from hansa.errors import DataError, HansaError, PlanError
from hansa.node.cores import useful_threads
from hansa.node.fold_scores import RoundScores, fold_scores, number_text, scores_table
from hansa.node.in_process import share_in_process, train_in_process
from hansa.node.warm_up import warm_up, warm_up_shares
from hansa.plan import MOST_FOLDS, Plan
from hansa.roles.batches import MOST_EQUAL_PAIRS
from hansa.roles.run import Progress, TreeGrown
from hansa.roles.summed.custom import check_rows_apart, custom_metric_sums
from hansa.simulation.run import (
    OwnMetric,
    SimulationSettings,
    check_labels,
    make_plan,
    member_names,
    refusal_of_members,
    score_model,
    split_parties,
    train_alone,
)
from hansa.simulation.summary import Metrics
from hansa.simulation.tables import Table
from hansa.trees.ensemble import Ensemble, add_margins, predictions_from_margins
from hansa.trees.losses import is_softmax
from hansa.trees.metrics import MetricScale, mean_value, metric_sums, metric_value
from hansa.trees.parameters import Parameters
from hansa.trees.xgboost_json import from_json

LEAST_FOLDS = 2

Scores = dict[str, list[float | None]]
"""Metric -> its value after each round; None where it has none."""


class MemberScores(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A party: its rows, and means over folds of the metrics of its own test rows, of `CV.best_round` rounds together and alone."""

    rows: int
    together: Metrics
    alone: Metrics


class CV(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What cross-validation found; a notebook shows it as tables.

    Attributes
    ----------
    mode, objective : str
        Of the training.
    folds, rows : int
        How many there are.
    metric : str
        The last of the metrics, which chose the best round.
    best_round : int
        The number of rounds with the best mean of `metric`; with early stopping, among those until it stopped.
    history : dict of str to RoundScores
        By metric, its `mean` and `std` over folds after each round, on rows that the fold's model was not trained on; with early
        stopping only up to the best round. None where no fold has a value.
    members : dict of str to MemberScores
        By party: its `rows`, and metrics of its own test rows, `together` and `alone`; the latter is empty unless asked for.
    seconds : float
        In all.
    warnings : tuple of str
        What is allowed but probably not meant, and folds that differ from the others.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
    >>> y = (X[:, 0] > 0).astype(int)
    >>> found = hansa.cv({"aurora": (X[:150], y[:150]), "borealis": (X[150:], y[150:])}, folds=3, rounds=4, progress=False)
    >>> found.best_round, len(found.history["logloss"].mean)
    (4, 4)
    """

    mode: str
    objective: str
    folds: int
    rows: int
    metric: str
    best_round: int
    history: dict[str, RoundScores]
    members: dict[str, MemberScores]
    seconds: float
    warnings: tuple[str, ...] = ()

    def at_best(self, metric: str) -> tuple[float | None, float | None]:
        """Mean and standard deviation of a metric after the best round."""
        own = self.history[metric]
        return own.mean[self.best_round - 1], own.std[self.best_round - 1]

    def to_frame(self, backend: Literal["pandas", "polars", "pyarrow"] = "pandas") -> Any:
        """The history as a frame, a row for each round, with XGBoost's columns test-METRIC-mean and test-METRIC-std."""
        columns: dict[str, Sequence[float | None]] = {}
        for name, own in self.history.items():
            columns |= {f"test-{name}-mean": _as_floats(own.mean), f"test-{name}-std": _as_floats(own.std)}
        return nw.from_dict(columns, backend=backend).to_native()

    def tables(self) -> list[list[list[str]]]:
        """The metrics after the best and the last round, and the members, as rows of texts; the first row is the head."""
        scores = scores_table(self.best_round, self.history)
        names = list(next(iter(self.members.values())).together)
        alone = [name for name in names if any(own.alone for own in self.members.values())]
        members = [["party", "rows", *(f"{name} together" for name in names), *(f"{name} alone" for name in alone)]]
        for party, scored in self.members.items():
            values = [scored.together.get(name) for name in names] + [scored.alone.get(name) for name in alone]
            members.append([party, f"{scored.rows:,}", *map(number_text, values)])
        return [scores, members]

    def facts(self) -> str:
        """One line."""
        return (
            f"{self.mode}, {self.objective}: {self.folds} folds of {self.rows:,} rows, {len(self.members)} parties, in "
            f"{self.seconds:.1f} s; best round {self.best_round}, by {self.metric}"
        )

    def __repr__(self) -> str:
        lines = [self.facts()]
        for table in self.tables():
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            for row in table:
                first, *others = (cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in _places(row, widths))
                lines.append("  ".join([first, *others]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        shown = [f"<p>{html.escape(self.facts())}</p>"]
        for head, *rows in self.tables():
            title = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
            body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
            shown.append(f"<table><thead><tr>{title}</tr></thead><tbody>{body}</tbody></table>")
        return "".join(shown)


def _places(row: list[str], widths: list[int]) -> enumerate[tuple[str, int]]:
    return enumerate(zip(row, widths, strict=True))


def _as_floats(values: Sequence[float | None]) -> list[float]:
    return [math.nan if value is None else value for value in values]


@dataclass(frozen=True)
class _Fold:
    """A fold's parties' rows, and the plan of the training on the other folds' rows; `parts` are by member."""

    number: int
    plan: Plan
    parts: dict[str, Table]
    test: Table


def cross_validate(
    table: Table,
    settings: SimulationSettings,
    folds: int,
    report: Callable[[Progress], None] = lambda _: None,
) -> CV:
    """Train on all folds but one, score that one, for each fold in turn or as many at once as there are threads.

    Args:
        table: all parties' rows; rows of one `subject`, where there are any, stay in one fold.
        settings: of the training, without held-out rows. `parameters.early_stopping_rounds` looks at means over folds, after all
            rounds are trained. `parameters.seed` draws the folds too. `alone`: whether each party is trained alone too.
        folds: 2 or more.
        report: called with a `TreeGrown` after each round of each fold, which counts those of all folds.

    Raises:
        PlanError: `folds` or a setting is wrong. DataError: a fold has no rows, or the others have one label only.
    """
    started = time.perf_counter()
    parameters = settings.parameters
    check_folds(folds)
    if settings.evaluation_fraction:
        raise PlanError(
            "evaluation_fraction: cross-validation tests on folds, and holds out no other rows; leave it out"
        )
    check_labels(parameters, table)
    names = member_names(sorted(set(table.party)))
    _check_own_metric(settings, table, names)
    # A fold's rows are scored here: its training measures nothing.
    trained = replace(settings, parameters=replace(parameters, early_stopping_rounds=None), own_metric=None)
    told: list[str] = [*table.warnings]
    prepared = _prepare(table, trained, folds, names, told)
    if table.subject is None and equal_pairs(table.features, table.label) > MOST_EQUAL_PAIRS:
        told.append(
            "many rows are equal, label included, and equal rows are in one fold: folds may be of other labels than the rest; name a "
            "column of ids (id), by which rows are put into folds then"
        )
    threads = settings.threads or useful_threads()
    workers = min(folds, threads)
    warm_up_for(prepared[0].plan)
    count = _Counter(report, folds * parameters.rounds)

    def train(fold: _Fold) -> tuple[Ensemble, Scores]:
        ensemble = from_json(_model_of(fold, max(1, threads // workers), count.note))
        return ensemble, _staged_scores(ensemble, fold, settings.own_metric)

    ensembles, scores = zip(*_side_by_side(train, prepared, workers, count.stop), strict=True)
    found = fold_scores(scores, settings.maximizes, parameters.early_stopping_rounds)
    best = found.best_round
    told += [
        f"{name} has no value in some folds after round {best}; its mean is over the others"
        for name in found.history
        if len({own[name][best - 1] is None for own in scores}) > 1
    ]

    def score(pair: tuple[_Fold, Ensemble]) -> dict[str, tuple[Metrics, Metrics]]:
        fold, ensemble = pair
        kept = ensemble.truncate(best * ensemble.trees_per_round)
        return _members_scores(fold, kept, names, best, settings.alone)

    by_fold = _side_by_side(score, list(zip(prepared, ensembles, strict=True)), workers, count.stop)
    members = {
        party: MemberScores(
            rows=int(np.count_nonzero(table.party == party)),
            together=_mean_metrics([own[name][0] for own in by_fold if name in own]),
            alone=_mean_metrics([own[name][1] for own in by_fold if name in own]),
        )
        for party, name in names.items()
    }
    return CV(
        mode=settings.mode,
        objective=parameters.objective,
        folds=folds,
        rows=table.n_rows,
        metric=found.metric,
        best_round=best,
        history=found.history,
        members=members,
        seconds=time.perf_counter() - started,
        warnings=tuple(dict.fromkeys(told)),
    )


def _prepare(
    table: Table, settings: SimulationSettings, folds: int, names: dict[str, str], told: list[str]
) -> list[_Fold]:
    """All folds, checked before any is trained; `told` takes warnings."""
    places = folds_of(table, folds, settings.parameters.seed)
    found = []
    for fold in range(folds):
        train, test = table.take(places != fold), table.take(places == fold)
        where = f"fold {fold + 1} of {folds}"
        counted = train.each_label if train.weight is None else [own[train.weight > 0] for own in train.each_label]
        if settings.parameters.has_classes and any(len(np.unique(own)) < 2 for own in counted):
            raise DataError(f"{where}: all rows outside it have one label; choose fewer folds or another seed")
        parts = split_parties(train, names)
        told += [
            f"{where}: party {party!r} has all its rows in it, and does not take part in its training"
            for party, name in names.items()
            if name not in parts
        ]
        plan, refusal = plan_of(settings, table, parts)
        told += [] if refusal is None else [refusal]
        found.append(_Fold(fold, plan, parts, test))
    return found


def check_folds(folds: int) -> None:
    """Raise PlanError where this is no number of folds."""
    if isinstance(folds, bool) or not isinstance(folds, int) or not LEAST_FOLDS <= folds <= MOST_FOLDS:
        raise PlanError(f"folds is {folds!r}; expected a whole number from {LEAST_FOLDS} to {MOST_FOLDS}")


def folds_of(table: Table, folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Which fold each row is in, int64 (n_rows,); rows of one subject are in one. Raises PlanError; DataError where a fold has no rows,
    or all."""
    check_folds(folds)
    if table.subject is None:
        places = folds_by_contents(table.features, table.label, folds, seed)
    else:
        places = folds_by_subject(table.subject.tolist(), folds, seed)
    for fold in range(folds):
        inside = int(np.count_nonzero(places == fold))
        if inside in (0, table.n_rows):
            raise DataError(
                f"fold {fold + 1} of {folds}: {inside} of {table.n_rows} rows are in it; choose fewer folds"
                + (
                    ""
                    if table.subject is not None
                    else " (equal rows are in one fold; a column of ids, id, tells them apart)"
                )
            )
    return places


def plan_of(settings: SimulationSettings, table: Table, parts: dict[str, Table]) -> tuple[Plan, str | None]:
    """The plan of a training on some rows of a table, by member, and why members with the default policy would refuse it."""
    labels = float(table.label.min()), float(table.label.max())
    heaviest = 1.0 if table.weight is None else float(table.weight.max())
    categories = dict(table.categories)
    plan = make_plan(settings, table.names, tuple(parts), labels, heaviest, categories, table.farthest)
    refusal = refusal_of_members(plan, parts)
    return (plan if refusal is None else replace(plan, min_party_rows=0)), refusal


def warm_up_for(plan: Plan) -> None:
    """Compile the kernels of a plan's mode, or load them."""
    if plan.coopetitive is None:
        warm_up(plan.parameters, bool(plan.schema.categories))
    else:
        warm_up_shares(plan.parameters)


class _Counter:
    """Counts the rounds of all folds, from several threads, and ends folds that nobody waits for any more."""

    def __init__(self, report: Callable[[Progress], None], rounds: int) -> None:
        self._report, self._rounds = report, rounds
        self._done, self._stopped = 0, False
        self._lock = threading.Lock()

    def note(self, event: Progress) -> None:
        """Something happened in a fold. Raises HansaError where another fold has failed."""
        if self._stopped:
            raise HansaError("another fold failed")
        if event.stage == "tree":
            with self._lock:
                self._done += 1
                self._report(TreeGrown(trees=self._done, rounds=self._rounds))

    def stop(self) -> None:
        """No fold's result is needed any more."""
        self._stopped = True


def _side_by_side(
    work: Callable[[Any], Any], items: Sequence[Any], workers: int, stop: Callable[[], None]
) -> list[Any]:
    """What `work` gives for each item, so many at a time. Where one fails, `stop` is called and its error is raised."""
    with ThreadPoolExecutor(workers) as pool:
        jobs = [pool.submit(work, item) for item in items]
        try:
            ended, _ = wait(jobs, return_when=FIRST_EXCEPTION)
            for job in jobs:
                if job in ended:
                    job.result()  # raises what ended it, and not what ends the others, which are stopped below
            return [job.result() for job in jobs]
        except BaseException:
            stop()
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _model_of(fold: _Fold, threads: int, report: Callable[[Progress], None]) -> bytes:
    rows = {name: part.rows() for name, part in fold.parts.items()}
    if fold.plan.coopetitive is None:
        return train_in_process(fold.plan, rows, threads=threads, report=report).outcome.model
    model = share_in_process(fold.plan, rows, threads=threads, report=report).members[fold.plan.receivers[0]].model
    if model is None:
        raise HansaError("the run ended without a model")
    return model


def _check_own_metric(settings: SimulationSettings, table: Table, names: dict[str, str]) -> None:
    """Refuse a metric of the members' own that a run would refuse. Raises PlanError, and DataError of the function."""
    if settings.own_metric is None:
        return
    plan, _ = plan_of(replace(settings, evaluation_fraction=1 / LEAST_FOLDS), table, split_parties(table, names))
    check_rows_apart(plan, settings.functions, table.label, table.weight)


def _staged_scores(ensemble: Ensemble, fold: _Fold, own: OwnMetric | None) -> Scores:
    """Metrics of the fold's rows after each round of a model, from its trees; the members' own is the last."""
    test, parameters = fold.test, fold.plan.parameters
    features = test.codes_of(ensemble)
    outputs, parallel = ensemble.outputs, ensemble.num_parallel_tree
    margins = ensemble.start_margins(test.n_rows, test.base_margin)
    found: Scores = {name: [] for name in (*parameters.metrics, *([own.agreed.name] if own else []))}
    for number in range(ensemble.rounds):
        for output in range(outputs):
            first = number * ensemble.trees_per_round + output * parallel
            add_margins(ensemble.trees[first : first + parallel], features, margins[output])
        for name in parameters.metrics:
            value = _metric(name, parameters, margins, test)
            found[name].append(None if math.isnan(value) else value)
        if own is not None:
            value = _own_metric(own, parameters, margins, test)
            found[own.agreed.name].append(None if math.isnan(value) else value)
    return found


def _own_metric(own: OwnMetric, parameters: Parameters, margins: npt.NDArray[np.float32], test: Table) -> float:
    """The mean of what the members' function makes of rows, as a run pools it."""
    given = np.ascontiguousarray(margins.T) if len(margins) > 1 else margins[0]
    predictions = predictions_from_margins(parameters.objective, given)
    heaviest = 0.0 if test.weight is None else float(test.weight.max())
    scale = MetricScale(test.n_rows, _exponent(heaviest), 0, parameters.huber_slope, parameters.quantiles)
    summed = custom_metric_sums(own.function, own.agreed, predictions, test.label, test.weight, scale)
    return mean_value(summed, own.agreed.bound, scale)


def _metric(name: str, parameters: Parameters, margins: npt.NDArray[np.float32], test: Table) -> float:
    """A metric of rows in this process, as `trees.metrics` pools it; of one model a class, over rows and classes."""
    objective = parameters.objective
    at_once = is_softmax(objective) or len(parameters.quantiles) > 1 or parameters.num_target > 1
    classes = 0 if at_once or len(margins) == 1 else len(margins)
    labels = [(test.label == k).astype(np.float32) for k in range(classes)] or [test.label]
    each = [margins] if at_once else list(margins)
    farthest = float(np.abs(test.label).max())
    if objective == "reg:squarederror":
        given = margins if test.label.ndim == 2 else margins[0]
        farthest = max(farthest, float(np.abs(given.astype(np.float64) - test.label).max()) / 4)
    heaviest = 0.0 if test.weight is None else float(test.weight.max())
    more = parameters.huber_slope, parameters.quantiles
    scale = MetricScale(
        test.n_rows * parameters.num_target * len(labels), _exponent(heaviest), _exponent(farthest), *more
    )
    rows = zip(each, labels, strict=True)
    summed = sum(metric_sums(name, objective, own, label, test.weight, scale) for own, label in rows)
    return metric_value(name, objective, np.asarray(summed), scale)


def _exponent(most: float) -> int:
    """Of a power of two that is not below `most`."""
    return math.frexp(most)[1] if most > 0 else 0


def _members_scores(
    fold: _Fold, ensemble: Ensemble, names: dict[str, str], rounds: int, alone: bool
) -> dict[str, tuple[Metrics, Metrics]]:
    """By member with test rows in this fold: metrics of the common model and of its own, which is none where it cannot train one."""
    plan = replace(fold.plan, parameters=replace(fold.plan.parameters, rounds=rounds))
    found: dict[str, tuple[Metrics, Metrics]] = {}
    for name, test in split_parties(fold.test, names).items():
        together = score_model(ensemble, test)
        own: Metrics = {}
        if alone:
            trained = train_alone(plan, fold.parts[name], test) if name in fold.parts else {}
            own = dict(trained) or dict.fromkeys(together)
        found[name] = together, own
    return found


def _mean_metrics(folds: Sequence[Metrics]) -> Metrics:
    """Means over the folds that have a value."""
    names = dict.fromkeys(name for own in folds for name in own)
    values = {name: [value for own in folds if (value := own.get(name)) is not None] for name in names}
    return {name: statistics.fmean(own) if own else None for name, own in values.items()}
