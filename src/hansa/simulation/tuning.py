"""The search for parameters, by Optuna: trials of one training, each scored on held-out rows of all parties or by folds.

What is searched are XGBoost's parameters under its names. Rounds need no search: a trial's value is that of its best round.
"""

from __future__ import annotations

import html
import importlib.util
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hansa.errors import HansaError, PlanError
from hansa.node.cores import useful_threads
from hansa.node.in_process import policy_of_holder, share_in_process, train_in_process
from hansa.plan import parameters_of
from hansa.roles.batches import repeated_rows
from hansa.roles.run import Progress, TreeGrown
from hansa.simulation.cross_validation import cross_validate, plan_of, warm_up_for
from hansa.simulation.run import SimulationSettings, check_labels, member_names, split_parties
from hansa.simulation.tables import Table
from hansa.trees.losses import is_logistic
from hansa.trees.metrics import best_round
from hansa.trees.parameters import ALIASES, Parameters, parse_parameters

if TYPE_CHECKING:
    import optuna

Value = int | float | str | None
"""A parameter's value in a trial."""

Given = Value | bool | list[Value]
"""A parameter's value as it was given."""

Space = Mapping[str, Sequence[Value]]
"""Parameter -> (lowest, highest), or (lowest, highest, "log"), as a tuple; or a list of choices."""

COMPARABLE = ("objective", "num_class", "quantile_alpha", "eval_metric", "seed", "early_stopping_rounds", "rounds")
"""Parameters that are not searched: with another one values could not be compared, or the best round says it."""

EVALUATION_FRACTION = 0.2
"""Of each party's rows, where no folds are given."""


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One choice of parameters.

    Attributes:
        number: from 0. parameters: those that were searched. state: whether all its rounds were trained.
        value: of the metric after `best_round` rounds; of a pruned trial among those that were trained; None where it has none.
        std: over folds; None without folds. seconds: of its training.
    """

    number: int
    state: Literal["complete", "pruned"]
    parameters: dict[str, Value]
    value: float | None
    std: float | None
    best_round: int | None
    seconds: float


class Trials(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All trials, in the order in which they were tried; what `hansa tune --json` prints.

    Attributes:
        mode, objective: of the training. metric: what was made better, and direction: which way. rows: of all parties.
        best: number of the best trial. best_parameters: all parameters to train with, rounds among them. seconds: in all.
    """

    mode: str
    objective: str
    metric: str
    direction: Literal["maximize", "minimize"]
    rows: int
    trials: tuple[Trial, ...]
    best: int
    best_parameters: dict[str, Given]
    seconds: float
    warnings: tuple[str, ...] = ()

    def facts(self) -> str:
        """One line."""
        return (
            f"{self.mode}, {self.objective}: {len(self.trials)} trials on {self.rows:,} rows in {self.seconds:.1f} s; "
            f"{self.direction} {self.metric}; best trial {self.best}: "
            + ", ".join(f"{name} = {value!r}" for name, value in self.best_parameters.items())
        )

    def tables(self) -> list[list[list[str]]]:
        """The trials, the best first and those that were pruned last, as rows of texts; the first row is the head."""
        names = list(dict.fromkeys(name for trial in self.trials for name in trial.parameters))
        sign = -1 if self.direction == "maximize" else 1

        def rank(trial: Trial) -> tuple[bool, float]:
            return trial.state == "pruned", math.inf if trial.value is None else sign * trial.value

        rows = [["trial", self.metric, "rounds", *names, "state"]]
        for trial in sorted(self.trials, key=rank):
            value = "-" if trial.value is None else f"{trial.value:.4f}"
            value += "" if trial.std is None else f" ± {trial.std:.4f}"
            given = [_shown(trial.parameters.get(name)) for name in names]
            rows.append([str(trial.number), value, str(trial.best_round or "-"), *given, trial.state])
        return [rows]


def _shown(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, repr=False)
class Tuning:
    """What a search for parameters found; a notebook shows it as a table.

    Attributes
    ----------
    trials : Trials
        Every trial with its parameters and value, the metric, and what is allowed but probably not meant.
    study : optuna.Study
        Optuna's own record, for its plots and importances.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> X = np.random.default_rng(1).normal(size=(300, 2)).astype(np.float32)
    >>> y = (X[:, 0] > 0).astype(int)
    >>> parties = {"aurora": (X[:150], y[:150]), "borealis": (X[150:], y[150:])}
    >>> found = hansa.tune(parties, space={"max_depth": (1, 3)}, trials=2, rounds=3, progress=False)
    >>> sorted(found.best_parameters), len(found.trials.trials), found.study.direction.name
    (['max_depth', 'rounds', 'seed'], 2, 'MINIMIZE')
    """

    trials: Trials
    study: optuna.Study

    @property
    def best_parameters(self) -> dict[str, Given]:
        """What to give `fit` or `cv`: given and searched parameters, and the best round as rounds."""
        return dict(self.trials.best_parameters)

    @property
    def best_value(self) -> float:
        """The metric of the best trial after its best round."""
        return float(self.study.best_value)

    def __repr__(self) -> str:
        lines = [self.trials.facts()]
        for table in self.trials.tables():
            widths = [max(map(len, column)) for column in zip(*table, strict=True)]
            lines += ["  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in table]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        rows = self.trials.tables()[0]
        cells = ["".join(f"<td>{html.escape(cell)}</td>" for cell in row) for row in rows]
        return f"<p>{html.escape(self.trials.facts())}</p><table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def default_space(objective: str, fixed: Mapping[str, object]) -> Space:
    """What is searched where nobody says it, but for parameters that are given; for two classes also what can help where label 1 is
    rare."""
    space: dict[str, Sequence[Value]] = {
        "eta": (0.03, 0.3, "log"),
        "max_depth": (2, 8),
        "min_child_weight": (1.0, 20.0, "log"),
        "lambda": (0.5, 20.0, "log"),
        "subsample": (0.6, 1.0),
        "colsample_bytree": (0.6, 1.0),
    }
    if is_logistic(objective):
        space["base_score"] = [None, 0.5]
        space["max_delta_step"] = [0, 1]
    given = {ALIASES.get(name, name) for name in fixed}
    return {name: values for name, values in space.items() if name not in given}


def check_space(space: Space, fixed: Mapping[str, object]) -> None:
    """Refuse a space with a parameter or value that no training takes. Raises PlanError naming the parameter."""
    if not space:
        raise PlanError("space: expected at least one parameter to search, found none")
    taken = {ALIASES.get(name, name) for name in fixed}
    for name, values in space.items():
        target = ALIASES.get(name, name)
        if target in COMPARABLE:
            raise PlanError(f"space: parameter {name!r} is not searched; give it beside the space, for all trials")
        if target in taken:
            raise PlanError(
                f"space: parameter {name!r} is given twice: leave it out of the space, or of the parameters"
            )
        taken.add(target)
        ends = values
        if isinstance(values, tuple):
            numbers = [value for value in values[:2] if isinstance(value, int | float) and not isinstance(value, bool)]
            if len(numbers) != 2 or not numbers[0] < numbers[1] or values[2:] not in ((), ("log",)):
                raise PlanError(
                    f"space: parameter {name!r} is {values!r:.80}; expected (lowest, highest) or (lowest, highest, 'log'), or a list "
                    "of choices"
                )
            if values[2:] and numbers[0] <= 0:
                raise PlanError(
                    f"space: parameter {name!r} is {values!r:.80}; a logarithm needs a lowest value above 0"
                )
            ends = numbers
        elif not isinstance(values, list) or not values:
            raise PlanError(
                f"space: parameter {name!r} is {values!r:.80}; expected a tuple of a range, or a list of choices"
            )
        for value in ends:
            if value is not None:
                parse_parameters({name: value})


def _draw(trial: optuna.Trial, space: Space) -> dict[str, Value]:
    found: dict[str, Value] = {}
    kinds = {field.name.rstrip("_"): str(field.type) for field in fields(Parameters)}
    for name, values in space.items():
        if not isinstance(values, tuple):
            found[name] = trial.suggest_categorical(name, list(values))
            continue
        low, high, log = values[0], values[1], len(values) == 3
        whole = kinds[ALIASES.get(name, name)].startswith("int")
        found[name] = (trial.suggest_int if whole else trial.suggest_float)(name, low, high, log=log)
    return found


def search(
    table: Table,
    settings: SimulationSettings,
    fixed: Mapping[str, object],
    space: Space,
    trials: int,
    folds: int | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Tuning:
    """Try so many choices of parameters, each as well as the ones before suggest.

    Args:
        table: all parties' rows. settings: of the training; its `evaluation_fraction` is for trials without folds, and its
            `parameters.seed` draws the trials too.
        fixed: the parameters of every trial, as they were given. space: what is searched.
        trials: how many. folds: each trial is cross-validated with so many; None scores it on held-out rows, where a trial whose
            metric falls behind the median of the trials before is pruned.
        report: called with a `TreeGrown` after each trial, which counts them.

    Raises:
        PlanError: the space, or a trial's parameters together. HansaError: the package optuna is missing; what ended a trial.
    """
    if importlib.util.find_spec("optuna") is None:
        cure = "pip install 'hansa[tune]'"
        raise HansaError(f"a search for parameters needs the package optuna: {cure}", cure=cure)
    import optuna

    check_space(space, fixed)
    check_labels(settings.parameters, table)
    if table.subject is not None and folds is None:
        raise PlanError("id: goes with folds; give folds, or leave it out")
    if isinstance(trials, bool) or not isinstance(trials, int) or trials < 1:
        raise PlanError(f"trials is {trials!r}; expected a whole number from 1")
    started = time.perf_counter()
    metric = settings.last_metric
    direction: Literal["maximize", "minimize"] = "maximize" if settings.maximizes else "minimize"
    told = [*table.warnings]
    done: list[Trial] = []

    def attempt(trial: optuna.Trial) -> float:
        began = time.perf_counter()
        drawn = _draw(trial, space)
        given = {name: value for name, value in {**fixed, **drawn}.items() if value is not None}
        chosen = replace(settings, parameters=parameters_of(settings.mode, given))
        std: float | None = None
        pruned = False
        history: dict[int, float | None]
        if folds is None:
            history, pruned, texts = _on_held_out(table, chosen, metric, trial)
        else:
            found = cross_validate(table, replace(chosen, evaluation_fraction=0.0), folds)
            history, texts = dict(enumerate(found.history[metric].mean, 1)), list(found.warnings)
            std = found.history[metric].std[found.best_round - 1]
        told.extend(texts)
        place = best_round(settings.maximizes, list(history.values()))
        at, value = (None, None) if place is None else list(history.items())[place - 1]
        state: Literal["complete", "pruned"] = "pruned" if pruned else "complete"
        seconds = time.perf_counter() - began
        done.append(
            Trial(
                number=trial.number, state=state, parameters=drawn, value=value, std=std, best_round=at, seconds=seconds
            )
        )
        report(TreeGrown(trees=len(done), rounds=trials, metrics={metric: value}))
        if pruned:
            raise optuna.TrialPruned
        return math.nan if value is None else value

    sampler = optuna.samplers.TPESampler(seed=settings.parameters.seed % 2**32)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=settings.parameters.rounds // 5)
    with _quiet(optuna):
        study = optuna.create_study(sampler=sampler, pruner=pruner, direction=direction)
        study.optimize(attempt, n_trials=trials)
    if not any(trial.state == "complete" and trial.value is not None for trial in done):
        raise HansaError(f"{metric} has no value in any trial; give more rows, or another eval_metric")
    best = done[study.best_trial.number]
    best_parameters = {**fixed, **{name: value for name, value in best.parameters.items() if value is not None}}
    # The best round stands in place of those that were asked for.
    replaced = ("rounds", "early_stopping_rounds")
    best_parameters = {
        name: value for name, value in best_parameters.items() if ALIASES.get(name, name) not in replaced
    }
    return Tuning(
        Trials(
            mode=settings.mode,
            objective=settings.parameters.objective,
            metric=metric,
            direction=direction,
            rows=table.n_rows,
            trials=tuple(done),
            best=best.number,
            best_parameters={**best_parameters, "rounds": best.best_round},
            seconds=time.perf_counter() - started,
            warnings=tuple(dict.fromkeys(told)),
        ),
        study,
    )


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Optuna writes a line for every trial; here a bar says as much."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


class _Pruned(Exception):
    """Ends the training of a trial that is behind."""


def _on_held_out(
    table: Table, settings: SimulationSettings, metric: str, trial: optuna.Trial
) -> tuple[dict[int, float | None], bool, list[str]]:
    """The metric of the held-out rows by round, as the mode opens it; whether the trial was pruned; and warnings."""
    parts = split_parties(table, member_names(sorted(set(table.party))))
    plan, refusal = plan_of(settings, table, parts)
    warm_up_for(plan)
    rows = {name: part.rows() for name, part in parts.items()}
    history: dict[int, float | None] = {}

    def note(event: Progress) -> None:
        if event.stage != "tree" or metric not in event.metrics:
            return
        value = history[event.trees] = event.metrics[metric]
        if value is not None:
            trial.report(value, event.trees)
            if trial.should_prune():
                raise _Pruned

    try:
        if plan.coopetitive is None:
            train_in_process(
                plan,
                rows,
                threads=settings.threads or useful_threads(),
                report=note,
                policy=policy_of_holder(plan),
                functions=settings.functions,
            )
        else:
            share_in_process(plan, rows, threads=settings.threads or useful_threads(), report=note)
    except _Pruned:
        return history, True, []
    told = [] if refusal is None else [refusal]
    return history, False, [*told, *repeated_rows(plan, table.features, table.label)]
