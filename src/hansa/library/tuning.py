"""`hansa.tune`: the search for parameters from Python, all members in this process. It needs the package optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hansa.errors import PlanError
from hansa.library.fit import own_metric, read_parties
from hansa.plan import DEFAULT_MIN_CELL_ROWS, MODES, parameters_of
from hansa.progress import bar, metrics_text
from hansa.roles.summed.custom import MetricFunction
from hansa.simulation.run import SimulationSettings
from hansa.simulation.tuning import EVALUATION_FRACTION, Space, Tuning, default_space, search


def tune(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None = None,
    *,
    space: Space | None = None,
    trials: int = 50,
    folds: int | None = None,
    evaluation_fraction: float = EVALUATION_FRACTION,
    mode: str = "federated",
    id: str | None = None,
    weight: str | None = None,
    base_margin: str | Sequence[str] | None = None,
    member_feature: str | None = None,
    classes: Sequence[str] = (),
    categorical: Sequence[str] = (),
    dates: Mapping[str, str] = MappingProxyType({}),
    rare_levels: Mapping[str, int] = MappingProxyType({}),
    seed: int = 0,
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS,
    label_range: tuple[float, float] | None = None,
    custom_metric: MetricFunction | None = None,
    metric_bound: float | None = None,
    maximize: bool = False,
    threads: int | None = None,
    progress: bool | None = None,
    **parameters: Any,
) -> Tuning:
    """Search for parameters with Optuna, all members in this process: pip install 'hansa[tune]'.

    Each trial trains the parties together. Its value is the last of `eval_metric` after its best round, on held-out rows of all
    parties or over folds. The same seed tries the same parameters, but in coopetitive mode, whose rounding is random. What is
    searched on everybody's rows in one process shows everything to that process; members of a real run agree on a plan instead.

    Parameters
    ----------
    parties : mapping of str to frame or tuple
        Each party's rows, as for `fit`.
    label : str or sequence of str, optional
        The column to predict; left out where parties give (X, y).
    space : mapping, optional
        XGBoost's parameters -> (lowest, highest) or (lowest, highest, "log") as a tuple, or a list of choices, in which None leaves
        the parameter at its default. By default eta, max_depth, min_child_weight, lambda, subsample and colsample_bytree; for two
        classes also base_score = .5 and max_delta_step = 1, which can help where label 1 is rare.
    trials : int
        How many.
    folds : int, optional
        Cross-validate each trial with so many folds (`cv`). None scores it on `evaluation_fraction` of the rows, which takes a
        fraction of the time, and stops a trial early whose metric is below the median of the trials before, in the rounds after which
        the mode opens it.
    evaluation_fraction : float
        Share of each party's rows held out in trials without folds; the same rows in each.
    mode, id, weight, base_margin, member_feature, classes, categorical, dates, rare_levels, min_cell_rows, label_range
        As for `cv`. `id` goes with folds.
    custom_metric, metric_bound, maximize
        As for `cv`: a trial's value is then that of this metric.
    seed : int
        Of the trials, of folds and of held-out rows, and XGBoost's.
    threads : int, optional
        Compute threads.
    progress : bool, optional
        Whether a bar shows how many trials are over; by default in a notebook and on a terminal only.
    **parameters
        XGBoost's, of every trial. `rounds` is how many are trained; the best round is found beside.

    Returns
    -------
    Tuning

    Raises
    ------
    DataError
        As `fit`.
    PlanError
        The space names what is no parameter, or a value that it cannot have.
    HansaError
        The package optuna is missing.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i * 7 % 300) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 180).astype(int)
    >>> parties = hansa.split(rows, by="operator")
    >>> found = hansa.tune(parties, "fault", space={"eta": (0.1, 0.9, "log"), "max_depth": [1, 2]}, trials=3, rounds=4)
    >>> run = hansa.fit(parties, "fault", **found.best_parameters)
    >>> len(found.trials.trials)
    3
    """
    if mode not in MODES:
        raise PlanError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    fixed = {"seed": seed, **parameters}
    trained = parameters_of(mode, fixed)
    read = read_parties(
        parties,
        label,
        weight,
        trained,
        classes=classes,
        categorical=categorical,
        subject=id,
        base_margin=base_margin,
        member_feature=member_feature,
        dates=dates,
    )
    settings = SimulationSettings(
        parameters=trained,
        label=read.label,
        mode=mode,
        weight=read.weight,
        base_margin=read.base_margin,
        min_cell_rows=min_cell_rows,
        evaluation_fraction=evaluation_fraction,
        label_range=label_range,
        threads=threads,
        dates=tuple(dates.items()),
        rare_levels=tuple(rare_levels.items()),
        own_metric=own_metric(custom_metric, metric_bound, maximize),
    )
    chosen = default_space(trained.objective, fixed) if space is None else space
    with bar(progress) as shown:
        found = search(
            read.table,
            settings,
            fixed,
            chosen,
            trials,
            folds,
            lambda event: shown.show("trials", event.trees, event.rounds, metrics_text(event.metrics)),
        )
    for text in found.trials.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    return found
