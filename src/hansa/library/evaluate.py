"""`hansa.evaluate`: a model on labelled rows of one's own, and two models against each other."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

from hansa.data.files import OpenTable
from hansa.data.frames import columns_of, open_columns
from hansa.model import Model
from hansa.simulation.evaluation import (
    BINS,
    THRESHOLD,
    Comparison,
    Evaluation,
    Question,
    compare_models,
    evaluate_model,
)


@overload
def evaluate(
    model: Model,
    table: Any,
    label: str | Sequence[str],
    *,
    classes: Sequence[str] = (),
    base_margin: Sequence[str] = (),
    threshold: float = THRESHOLD,
    bins: int = BINS,
    against: None = None,
) -> Evaluation: ...
@overload
def evaluate(
    model: Model,
    table: Any,
    label: str | Sequence[str],
    *,
    classes: Sequence[str] = (),
    base_margin: Sequence[str] = (),
    threshold: float = THRESHOLD,
    bins: int = BINS,
    against: Model,
) -> Comparison: ...
def evaluate(
    model: Model,
    table: Any,
    label: str | Sequence[str],
    *,
    classes: Sequence[str] = (),
    base_margin: Sequence[str] = (),
    threshold: float = THRESHOLD,
    bins: int = BINS,
    against: Model | None = None,
) -> Evaluation | Comparison:
    """Hold a model to labelled rows that it was not trained on. Nothing leaves this process.

    Parameters
    ----------
    model : Model
    table : frame or path
        Rows with the model's features and the label; other columns are not read.
    label : str or sequence of str
        The column that the model predicts; of several labels the columns in the order of `model.label_names`.
    classes : sequence of str
        Where the label is texts: what it says, in the order of the classes 0, 1, ...
    base_margin : sequence of str
        Columns of each row's margin before the first tree, where the model was trained with one.
    threshold : float
        Of two classes, 1 is predicted where its probability is above.
    bins : int
        Of the calibration, from 2.
    against : Model, optional
        Another model, to compare on the same rows.

    Returns
    -------
    Evaluation or, with `against`, Comparison

    Raises
    ------
    DataError
        Names the file or column, what was expected and found, and the cure; or the two models predict different things.
    PlanError
        A threshold, number of bins or list of classes that cannot be.

    Examples
    --------
    >>> import numpy as np, pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": np.arange(200.0) % 50, "operator": ["a", "b"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> run = hansa.fit(hansa.split(rows, by="operator"), label="fault", rounds=20, eta=1.0, alone=False)
    >>> hansa.evaluate(run.model, rows, label="fault", bins=5).confusion.rates[1].recall
    1.0
    """
    question = Question(
        label if isinstance(label, str) else tuple(label),
        tuple(classes),
        base_margin=tuple(base_margin),
        threshold=threshold,
        bins=bins,
    )
    if against is None:
        found: Evaluation | Comparison = evaluate_model(model.ensemble, _source(table), question)
        told = found.warnings if isinstance(found, Evaluation) else ()
    else:
        found = compare_models(model.ensemble, against.ensemble, (_source(table), _source(table)), question)
        told = found.first.warnings
    for text in told:
        warnings.warn(text, UserWarning, stacklevel=2)
    return found


def _source(table: Any) -> str | Path | OpenTable:
    return table if isinstance(table, str | Path) else open_columns(columns_of(table, "the table"), "the table")
