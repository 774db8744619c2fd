"""`hansa.cv`: cross-validation from Python, all members in this process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hansa.errors import PlanError
from hansa.library.fit import own_metric, read_parties
from hansa.plan import DEFAULT_MIN_CELL_ROWS, MODES, parameters_of
from hansa.progress import bar
from hansa.roles.summed.custom import MetricFunction
from hansa.simulation.cross_validation import CV, cross_validate
from hansa.simulation.run import SimulationSettings


def cv(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None = None,
    *,
    folds: int = 5,
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
    least_choices: int | None = None,
    leaf_bits: int | None = None,
    alone: bool = False,
    custom_metric: MetricFunction | None = None,
    metric_bound: float | None = None,
    maximize: bool = False,
    threads: int | None = None,
    progress: bool | None = None,
    **parameters: Any,
) -> CV:
    """Cross-validate over all parties' rows, as `xgboost.cv` does over one table, all members in this process.

    For each fold the parties train a model on the rows of the other folds, and it is scored on the fold's rows after every round, in
    every mode. A row's fold follows from a keyed hash of its contents, so a row is in the same fold whoever holds it, and equal rows
    are in one fold. In the first two modes scores are the same for any split of the rows over parties (with `subsample` 1). Folds are
    trained side by side where threads allow.

    Parameters
    ----------
    parties : mapping of str to frame or tuple
        Each party's rows, as for `fit`.
    label : str or sequence of str, optional
        The column to predict; left out where parties give (X, y).
    folds : int
        How many, 2 or more.
    mode : {"federated", "secure-aggregation", "coopetitive"}
        How the parties' sums or rows are protected.
    id : str, optional
        The column that says whom or what a row is of, such as a patient, who may be known to several parties: all rows of one value
        are in one fold. It is no feature.
    weight, base_margin, member_feature, classes, categorical, dates, rare_levels, min_cell_rows, label_range, least_choices, \
    leaf_bits
        As for `fit`. Weights count in metrics too. Each fold's training finds its own rare levels.
    custom_metric, metric_bound, maximize
        As for `fit`: a metric by a function, of each fold's rows; it is the last one, so it chooses the best round.
    seed : int
        Of the folds, and XGBoost's.
    alone : bool
        Train each party alone in each fold too, to compare.
    threads : int, optional
        Compute threads of all folds together.
    progress : bool, optional
        Whether a bar shows how far all folds are; by default in a notebook and on a terminal only.
    **parameters
        XGBoost's, under its names, as for `fit`. `eval_metric` names the metrics; the last one chooses the best round. With
        `early_stopping_rounds` the history ends at the best round before the mean over folds got no better for so many rounds; all
        rounds are trained before anybody looks.

    Returns
    -------
    CV

    Raises
    ------
    DataError
        Names party, row and column, what was expected and found, and the cure; or a fold that cannot be used.
    PlanError
        A parameter or setting that Hansa does not have, or not in this mode.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i * 7 % 300) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 180).astype(int)
    >>> found = hansa.cv(hansa.split(rows, by="operator"), label="fault", folds=3, rounds=3, eval_metric="auc")
    >>> [round(mean, 3) for mean in found.history["auc"].mean]
    [0.995, 0.995, 0.995]
    >>> found.to_frame().columns.tolist()
    ['test-auc-mean', 'test-auc-std']
    """
    if mode not in MODES:
        raise PlanError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    if "evaluation_fraction" in parameters:
        raise PlanError(
            "evaluation_fraction: cross-validation tests on folds, and holds out no other rows; leave it out"
        )
    trained = parameters_of(mode, {"seed": seed, **parameters})
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
        label_range=label_range,
        least_choices=least_choices,
        leaf_bits=leaf_bits,
        alone=alone,
        threads=threads,
        dates=tuple(dates.items()),
        rare_levels=tuple(rare_levels.items()),
        own_metric=own_metric(custom_metric, metric_bound, maximize),
    )
    with bar(progress) as shown:
        found = cross_validate(
            read.table, settings, folds, lambda event: shown.show("cross-validation", event.trees, event.rounds)
        )
    for text in found.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    return found
