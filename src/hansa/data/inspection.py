"""What the columns of a table are, as the one reader sees them, where no schema says yet what they are to be.

Nothing here is refused for what a cell holds: a column that could not be read says why. That sentence quotes no cell.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hansa.data.cells import disguise, is_numeric, is_text, measured, truth_in_words
from hansa.data.coding import texts_of
from hansa.data.dates import is_date
from hansa.data.facts import Merged
from hansa.data.files import OpenTable, open_table
from hansa.data.query import Source
from hansa.data.source import Column, ColumnSummary, load_columns, merged_values, no_rows, repeated_columns, summarize
from hansa.errors import DataError

Kind = Literal["numbers", "texts", "dates", "missing", "unread"]
"""What all cells of a column are, those without a value left out; "missing" where none has one, "unread" where they are neither."""


_DAY = re.compile(r"\s*[0-9]{4}-[0-9]{2}-[0-9]{2}")


@dataclass(frozen=True)
class ColumnKind:
    """One column.

    Attributes:
        name: the column. type: DuckDB's; of a CSV file VARCHAR.
        kind: what its cells are. why: of "unread": the reason, with its cure; else empty.
        counts: of a column of texts, how many rows have each text; else empty.
        whole, different: whether all values are whole numbers; whether no two rows have the same, and at least two have one.
        summary: counts and range. Of a column that is no numbers, the range is that of nothing (NaN).
        merged: whether they are numbers that float32 cannot hold apart.
    """

    name: str
    type: str
    kind: Kind
    why: str
    counts: dict[str, int]
    whole: bool
    different: bool
    summary: ColumnSummary
    merged: bool = False


@dataclass(frozen=True)
class TableKind:
    """A table's columns in their order.

    Attributes:
        file: what errors call the table. n_rows: its rows.
    """

    file: str
    n_rows: int
    columns: tuple[ColumnKind, ...]


def inspect_table(source: Source | OpenTable, decimal: str = ".", without: Collection[str] = ()) -> TableKind:
    """Say of every column but those `without` what it is. A table that is open already stays open.

    Raises DataError: as `open_table`; two columns of one name; no rows.
    """
    with nullcontext(source) if isinstance(source, OpenTable) else open_table(source) as table:
        for violation in repeated_columns(table):
            raise DataError(str(violation))
        names = [name for name in table.names if name not in without]
        columns = load_columns(table, dict.fromkeys(names, ()), decimal)
        if not columns or not len(next(iter(columns.values())).values):
            raise DataError(str(no_rows(table)))
        types = {name: table.types[table.places[name]] for name in names}
        stray = [name for name in names if columns[name].bad.any() and is_text(types[name])]
        texts = texts_of(table, stray)
        likely = {
            name: ("days", name) for name in names if columns[name].bad.any() and name in _may_be_dates(types, texts)
        }
        dates = {
            name: days
            for name, days in load_columns(table, dict.fromkeys(likely, ()), decimal, (), likely).items()
            if not days.bad.any()
        }
        numbers = [name for name in names if name not in texts and name not in dates and not columns[name].bad.any()]
        merged = {own.name: own for own in merged_values(table, columns, numbers, decimal)}
        kinds = tuple(
            _dates(name, types[name], dates[name])
            if name in dates
            else _texts(name, types[name], columns[name], texts[name].tolist(), decimal)
            if name in texts
            else _numbers(name, types[name], columns[name], merged.get(name))
            for name in names
        )
        return TableKind(table.file, len(next(iter(columns.values())).values), kinds)


def _may_be_dates(types: dict[str, str], texts: Mapping[str, npt.NDArray[np.object_]]) -> list[str]:
    """The columns of dates by type, and those whose first text is one."""
    first = {name: next((text for text in own if text is not None), "") for name, own in texts.items()}
    return [name for name, kind in types.items() if is_date(kind) or _DAY.match(first.get(name, ""))]


def _dates(name: str, kind: str, days: Column) -> ColumnKind:
    """A column of dates; its range is that of days since 1970-01-01."""
    summary = summarize(name, days)
    present = int(np.count_nonzero(~np.isnan(days.values)))
    return ColumnKind(name, kind, "dates", "", {}, True, 1 < present == summary.distinct, summary)


def _numbers(name: str, kind: str, column: Column, merged: Merged | None) -> ColumnKind:
    """A column whose cells are numbers, or of a type that is neither numbers nor texts."""
    summary = summarize(name, column)
    if column.bad.any():
        why = (
            "a number beyond float32; write smaller numbers"
            if is_numeric(kind)
            else f"of type {kind:.60}; cast it to numbers"
        )
        return ColumnKind(name, kind, "unread", why, {}, False, False, summary)
    values = column.values[~np.isnan(column.values)]
    distinct = summary.distinct if merged is None else merged.distinct
    return ColumnKind(
        name,
        kind,
        "numbers" if len(values) else "missing",
        "",
        {},
        bool(len(values)) and bool(np.all(values == np.floor(values))),
        len(values) > 1 and distinct == len(values),
        summary,
        merged is not None,
    )


def _texts(name: str, kind: str, column: Column, cells: list[str | None], decimal: str) -> ColumnKind:
    """A column with texts that are no numbers."""
    counts: dict[str, int] = {}
    for cell in cells:
        if cell is not None:
            counts[cell] = counts.get(cell, 0) + 1
    present = sum(counts.values())
    missing = len(cells) - present
    summary = ColumnSummary(name, missing, len(counts), min(counts.values()), np.nan, np.nan, np.nan)
    stray = [text for text, bad in zip(cells, column.bad, strict=True) if bad and text is not None]
    masked = next((found for text in dict.fromkeys(stray) if (found := disguise(text, decimal))), None)
    if masked is None and len(stray) == present:
        masked = measured(stray)
    if masked is not None:
        return ColumnKind(name, kind, "unread", f"{masked.what}; {masked.cure}", {}, False, False, summary)
    if len(stray) < present and all(truth_in_words(text) for text in set(stray)):
        found = truth_in_words(stray[0])
        assert found is not None
        return ColumnKind(name, kind, "unread", f"{found.what}; {found.cure}", {}, False, False, summary)
    if 2 * len(stray) < present:
        why = "texts among numbers; leave the cell empty where the value is missing"
        return ColumnKind(name, kind, "unread", why, {}, False, False, summary)
    return ColumnKind(name, kind, "texts", "", counts, False, present > 1 and len(counts) == present, summary)
