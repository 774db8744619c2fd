"""A description of the pooled table as a page: its tables, and a picture of each column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from hansa.data.description import FINE, ColumnDescription, Description, densities, ends
from hansa.files import write_whole
from hansa.views.chart import Bar, Bars, Chart, Shape, Shapes, View
from hansa.views.html import page_html

MOST_CATEGORIES = 12
"""Categories that are drawn; the table has them all."""

MOST_PICTURES = 100
"""Columns that are drawn, the first ones."""

TITLES = {
    "party": "Rows of each party",
    "feature": "Ordered columns",
    "categories": "Columns of categories",
    "PSI to all rows": "How far each party's rows are from all rows",
}
"""What stands above a table, by the first word of its head."""


def write_page(path: Path, description: Description) -> None:
    """Write the page to `path` (UTF-8, one file). Raises OutputError."""
    write_whole(path, page(description).encode(), private=False)


def page(description: Description) -> str:
    """The page as text. Every name in it is escaped."""
    facts = f"{description.facts()}. Plan {description.plan}, run {description.run}."
    return page_html("The pooled table", facts, (*_tables(description), *_pictures(description)))


def _tables(description: Description) -> Iterator[View]:
    for place, rows in enumerate(description.tables()):
        yield View(name=f"table-{place}", title=TITLES[rows[0][0]], table=tuple(map(tuple, rows)))


def _pictures(description: Description) -> Iterator[View]:
    for place, own in enumerate(description.columns[:MOST_PICTURES]):
        few = f"fewer than {description.min_cell_rows}" if own.missing is None else f"{own.missing:,}"
        note = f"{few} of {own.rows:,} rows without a value"
        chart = _categories(own) if own.levels else _shape(own)
        yield View(
            name=f"column-{place}",
            title=own.name,
            note=f"{note}.",
            chart=chart,
            alt=f"Distribution of {own.name}, {note}",
        )


def _shape(column: ColumnDescription) -> Chart:
    """Rows by width over the bins that have two ends; where there are too few of these, rows of each bin."""
    drawn = densities(column, FINE)
    if not drawn:
        return _bars([(ends(own.low, own.high), own.rows) for own in column.bins], sum(own.rows for own in column.bins))
    return Shapes(x=column.name, shapes=(Shape(name=column.name, bins=tuple(drawn)),))


def _categories(column: ColumnDescription) -> Chart:
    """Rows of the largest categories, and of the others."""
    ranked = sorted(column.categories, key=lambda own: (-own.rows, str(own.level)))
    drawn = [(str(own.level), own.rows) for own in ranked[:MOST_CATEGORIES]]
    rest = column.other + sum(own.rows for own in ranked[MOST_CATEGORIES:])
    return _bars([*drawn, *([("other", rest)] if rest else [])], column.rows)


def _bars(named: Sequence[tuple[str, int]], total: int) -> Chart:
    bars = (Bar(name=name, value=float(rows), text=f"{rows / max(total, 1):.1%}") for name, rows in named)
    return Bars(x="rows", bars=tuple(bars))
