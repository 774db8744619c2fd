"""`hansa.contributions`: what each member's rows are worth to the common model, all members in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hansa.errors import PlanError
from hansa.library.fit import read_parties
from hansa.plan import DEFAULT_MIN_CELL_ROWS, MODES, parameters_of
from hansa.progress import bar
from hansa.simulation.contributions import Contributions, Method, measure_contributions
from hansa.simulation.run import SimulationSettings


def contributions(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None = None,
    *,
    method: Method = "leave-one-out",
    metric: str | None = None,
    folds: int = 5,
    mode: str = "federated",
    id: str | None = None,
    weight: str | None = None,
    base_margin: str | Sequence[str] | None = None,
    classes: Sequence[str] = (),
    categorical: Sequence[str] = (),
    dates: Mapping[str, str] = MappingProxyType({}),
    rare_levels: Mapping[str, int] = MappingProxyType({}),
    seed: int = 0,
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS,
    progress: bool | None = None,
    **parameters: Any,
) -> Contributions:
    """Measure what each member's rows contribute to the common model, on rows of all members, all in this process.

    For each fold of all rows, models are trained on the other folds' rows of sets of members, and compared on the fold's rows. Models
    are those of the modes with an aggregator.

    Parameters
    ----------
    parties : mapping of str to frame or tuple
        Each party's rows, as for `fit`.
    label : str or sequence of str, optional
        The column to predict; left out where parties give (X, y).
    method : {"leave-one-out", "shapley"}
        The metric of everybody's model less that without the member; or its Shapley value, the mean over all orders of joining, which
        trains a model for each set of at most 8 members.
    metric : str, optional
        Such as "auc", "logloss", "rmse" or "mlogloss"; by default the objective's first.
    folds : int
        2 or more.
    mode, id, weight, base_margin, classes, categorical, dates, rare_levels, seed, min_cell_rows
        As for `cv`.
    progress : bool, optional
        Whether a bar shows how many models are trained; by default in a notebook and on a terminal only.
    **parameters
        XGBoost's, under its names, as for `fit`.

    Returns
    -------
    Contributions
        With standard errors over folds. A contribution within two of them says nothing.

    Raises
    ------
    DataError
        Names party, row and column, what was expected and found, and the cure; or a fold that cannot be used.
    PlanError
        A parameter or setting that Hansa does not have.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i * 7 % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> found = hansa.contributions(hansa.split(rows, by="operator"), label="fault", folds=3, rounds=3)
    >>> sorted(found.members), found.metric, found.nobody
    (['a', 'b', 'c'], 'auc', 0.5)
    """
    if mode not in MODES:
        raise PlanError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
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
        dates=dates,
    )
    settings = SimulationSettings(
        parameters=trained,
        label=read.label,
        mode="federated",
        weight=read.weight,
        base_margin=read.base_margin,
        min_cell_rows=min_cell_rows,
        dates=tuple(dates.items()),
        rare_levels=tuple(rare_levels.items()),
    )
    with bar(progress) as shown:
        return measure_contributions(
            read.table, settings, method, folds, metric, lambda event: shown.show("models", event.trees, event.rounds)
        )
