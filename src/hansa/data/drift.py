"""How far a table is from a description of the table that a model was trained on. No network: both are this member's own."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any, Literal

import msgspec
import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from hansa.data.bin_counts import Distance, as_told, count_bins, distance
from hansa.data.coding import CodedTable, read_coded
from hansa.data.description import ColumnDescription, Description
from hansa.data.files import OpenTable
from hansa.errors import DataError
from hansa.views.html import html_table

Array = NDArray[Any]

STEADY, FAR = 0.1, 0.25
"""Credit scoring's rule of thumb: a PSI below the first is no drift to speak of, above the second a model should be looked at."""


class ColumnDrift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One feature, as it is now against as it was.

    Attributes
    ----------
    name : str
    psi, moved : float
        Population stability index, and the share of rows that would have to change their cell.
    missing_then, missing_now : float or None
        Share of rows without a value; None where the description does not tell it.
    ends_then, ends_now : float or None
        Share of all rows below the lowest edge of the description's bins, or from the highest on; None for categories and where there
        is one bin.
    unknown : int
        Rows whose level the plan does not list.
    """

    name: str
    psi: float
    moved: float
    missing_then: float | None
    missing_now: float
    ends_then: float | None
    ends_now: float | None
    unknown: int

    @property
    def rating(self) -> str:
        """ "steady", "moved" or "far", by the rule of thumb."""
        return "steady" if self.psi < STEADY else "moved" if self.psi <= FAR else "far"


class Drift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far a table is from a described one; a notebook shows it as a table.

    Attributes
    ----------
    rows, described : int
        Of the table, and of the description.
    features : tuple of ColumnDrift
        Those that are farthest first.
    warnings : tuple of str
        What the table holds that is allowed but probably not meant.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> then = hansa.describe(hansa.split(rows, by="operator"), label="fault")
    >>> hansa.drift(then, rows).features[0].rating
    'steady'
    >>> hansa.drift(then, rows.assign(load=rows["load"] + 40)).features[0].rating
    'far'
    """

    rows: int
    described: int
    features: tuple[ColumnDrift, ...]
    warnings: tuple[str, ...] = ()

    def to_frame(self, backend: Literal["pandas", "polars", "pyarrow"] = "pandas") -> Any:
        """A row for each feature, the farthest first; its columns are the attributes of `ColumnDrift`."""
        names = ColumnDrift.__struct_fields__
        return nw.from_dict(
            {name: [getattr(own, name) for own in self.features] for name in names}, backend=backend
        ).to_native()

    def facts(self) -> str:
        """One sentence on all of it."""
        far = sum(own.rating == "far" for own in self.features)
        moved = sum(own.rating == "moved" for own in self.features)
        return (
            f"{self.rows:,} rows against {self.described:,} described ones: of {len(self.features)} features {far} are far "
            f"(PSI above {FAR}), {moved} moved (from {STEADY} on)"
        )

    def tables(self) -> list[list[list[str]]]:
        """The same as one table of texts, its first row the head."""
        head = ["feature", "PSI", "", "moved", "missing then", "now", "in end bins then", "now", "unknown levels"]
        return [
            [
                head,
                *(
                    [
                        own.name,
                        f"{own.psi:.3f}",
                        own.rating,
                        f"{own.moved:.1%}",
                        *map(_percent, (own.missing_then, own.missing_now, own.ends_then, own.ends_now)),
                        str(own.unknown),
                    ]
                    for own in self.features
                ),
            ]
        ]

    def __repr__(self) -> str:
        return f"<Drift: {self.facts()}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.facts())}</p>" + "".join(html_table(rows) for rows in self.tables())


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def read_described(source: str | Path | OpenTable, description: Description, decimal: str = ".") -> CodedTable:
    """A table with the features of a description, its levels as codes. Raises DataError naming file, row and column."""
    levels = {own.name: own.levels for own in description.features if own.levels}
    return read_coded(
        source,
        tuple(own.name for own in description.features),
        known=levels,
        needs="which the description has",
        decimal=decimal,
    )


def drift_of(description: Description, table: CodedTable) -> Drift:
    """How far the features of a table are from the described ones. Raises DataError where it has no rows."""
    n_rows = table.features.shape[1]
    if not n_rows:
        raise DataError("the table has no rows; there is nothing to compare")
    found = [_drift_of_column(own, values) for own, values in zip(description.features, table.features, strict=True)]
    return Drift(
        rows=n_rows,
        described=description.rows,
        features=tuple(sorted(found, key=lambda own: -own.psi)),
        warnings=tuple(table.warnings),
    )


def _drift_of_column(column: ColumnDescription, values: Array) -> ColumnDrift:
    """values: float32 (n_rows,), codes for categories (beyond the levels: of none), NaN missing."""
    n_levels, n_rows = len(column.levels), len(values)
    known = np.where(values < n_levels, values, np.float32(np.nan)) if n_levels else values
    unknown = int(np.count_nonzero(np.isnan(known) & ~np.isnan(values)))
    own = count_bins(known[None].astype(np.float32), column.layout)
    own[-1] -= unknown
    ends: tuple[float | None, float | None] = (None, None)
    if len(column.bins) > 1:
        then = [each.rows for each in column.bins]
        ends = (then[0] + then[-1]) / column.rows, int(own[0] + own[-2]) / n_rows
    apart = _distance(column, own, unknown)
    return ColumnDrift(
        name=column.name,
        psi=apart.psi,
        moved=apart.moved,
        missing_then=None if column.missing is None else column.missing / column.rows,
        missing_now=int(own[-1]) / n_rows,
        ends_then=ends[0],
        ends_now=ends[1],
        unknown=unknown,
    )


def _distance(column: ColumnDescription, own: Array, unknown: int) -> Distance:
    """How far rows by cell are from the described ones; rows of unknown levels count among the categories that are too small."""
    told = as_told(own, column.told, column.layout)[0]
    told[-1] += unknown
    then = np.append(np.maximum(column.told, 0), column.other)
    return distance(told, then, not column.levels)
