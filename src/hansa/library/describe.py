"""`hansa.describe`: the pooled table before training, all members in this process."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from hansa.data.description import Description
from hansa.errors import PlanError
from hansa.library.fit import read_parties
from hansa.plan import DEFAULT_MIN_CELL_ROWS, MODES
from hansa.simulation.description import describe_table
from hansa.simulation.run import SimulationSettings
from hansa.trees.parameters import parse_parameters


def describe(
    parties: Mapping[str, Any],
    label: str | Sequence[str] | None = None,
    *,
    mode: str = "federated",
    weight: str | None = None,
    classes: Sequence[str] = (),
    categorical: Sequence[str] = (),
    min_cell_rows: int = DEFAULT_MIN_CELL_ROWS,
    **parameters: Any,
) -> Description:
    """Describe the rows of all parties together, as they would see them before training, all members in this process.

    Parties count rows by bin and by category; only sums over all of them are told, and none of fewer than `min_cell_rows` rows. The
    description does not depend on who holds which row, and is the same in both modes but for the shifts between members, which only
    mode "federated" tells.

    Parameters
    ----------
    parties : mapping of str to frame or tuple
        Each party's rows, as for `fit`.
    label : str or sequence of str, optional
        The column to predict; left out where parties give (X, y).
    mode : {"federated", "secure-aggregation"}
        How the parties' counts are protected. Mode "coopetitive" opens no counts, so it is refused.
    weight, classes, categorical, min_cell_rows
        As for `fit`. Rows are counted, whatever they weigh.
    **parameters
        XGBoost's, as for `fit`: `objective` says what the label is, and `max_bin` how finely cells are counted.

    Returns
    -------
    Description
        A notebook shows it as tables; `to_frame` and `to_json` give it to others, and `hansa.drift` compares with it later.

    Raises
    ------
    DataError
        Names party, row and column, what was expected and found, and the cure.
    PlanError
        A parameter or setting that Hansa does not have, or a mode that opens no counts.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> found = hansa.describe(hansa.split(rows, by="operator"), label="fault", mode="secure-aggregation")
    >>> found.features[0].quantiles[2]
    Quantile(percent=50, low=24.0, high=26.0)
    """
    if mode not in MODES:
        raise PlanError(f"mode is {mode!r}; expected one of {', '.join(MODES)}")
    trained = parse_parameters(parameters)
    read = read_parties(parties, label, weight, trained, classes=classes, categorical=categorical)
    settings = SimulationSettings(
        parameters=trained, label=read.label, mode=mode, weight=read.weight, min_cell_rows=min_cell_rows
    )
    found, told = describe_table(read.table, settings, tuple(classes))
    for text in told:
        warnings.warn(text, UserWarning, stacklevel=2)
    return found
