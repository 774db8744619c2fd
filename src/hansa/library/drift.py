"""`hansa.drift`: a table against the description of the one that a model was trained on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from hansa.data.description import Description
from hansa.data.drift import Drift, drift_of, read_described
from hansa.data.frames import columns_of, open_columns
from hansa.simulation.description import read_description


def drift(description: Description | str | Path, table: Any, *, decimal: str = ".") -> Drift:
    """How far the features of a table are from those that were described before training. Nothing leaves this process.

    Parameters
    ----------
    description : Description or path
        What `hansa.describe` found, or the file that `hansa describe` saved.
    table : frame or path
        This member's rows now, with the features of the description; other columns are not read.
    decimal : {".", ","}
        The decimal sign of numbers that are texts, in a file.

    Returns
    -------
    Drift
        Every feature, the farthest first.

    Raises
    ------
    DataError
        Names the file or column, what was expected and found, and the cure.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> then = hansa.describe(hansa.split(rows, by="operator"), label="fault")
    >>> now = rows[rows["load"] > 40]
    >>> round(hansa.drift(then, now).features[0].moved, 2)
    0.78
    """
    known = description if isinstance(description, Description) else read_description(Path(description))
    source = table if isinstance(table, str | Path) else open_columns(columns_of(table, "the table"), "the table")
    found = drift_of(known, read_described(source, known, decimal))
    for text in found.warnings:
        warnings.warn(text, UserWarning, stacklevel=2)
    return found
