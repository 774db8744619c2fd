"""What a picture shows, as numbers: structs that `drawing` draws, and that JSON has beside the tables. No drawing here."""

from __future__ import annotations

import msgspec

from hansa.printable import printable


class Series(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line: y at each x; None where there is no value."""

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]


class Lines(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="lines"):
    """Lines over one axis, such as learning curves.

    Attributes:
        x, y: what the axes mean. series: in the order to show. diagonal: whether y = x is drawn, where a perfect model lies.
        low: whether lines end low, so that the legend is better above.
    """

    x: str
    y: str
    series: tuple[Series, ...]
    diagonal: bool = False
    low: bool = False


class Bar(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A bar and its length; text: what stands beside it."""

    name: str
    value: float
    text: str


class Bars(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="bars"):
    """Lying bars from 0, one below the other; x: what their length means."""

    x: str
    bars: tuple[Bar, ...]


class Dot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One member: its own model's metric, and the common model's in each run; None where there is none."""

    name: str
    alone: float | None
    together: tuple[float | None, ...]


class Dots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="dots"):
    """Each member alone (a ring) against together (a filled mark for each run).

    Attributes:
        x: what is measured. runs: what the entries of `together` are called, such as modes. dots: by member.
    """

    x: str
    runs: tuple[str, ...]
    dots: tuple[Dot, ...]


class Grid(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="grid"):
    """Counts by row and column; a cell is the darker the larger its share of its row.

    Attributes:
        x, y: what columns and rows mean. columns, rows: their names. counts: by row, by column.
    """

    x: str
    y: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows by width over bins: low, high and height of each, 1 the highest."""

    name: str
    bins: tuple[tuple[float, float, float], ...]


class Shapes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="shapes"):
    """Distributions of one quantity over each other; x: which."""

    x: str
    shapes: tuple[Shape, ...]


Chart = Lines | Bars | Dots | Grid | Shapes


class View(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One part of a page.

    Attributes:
        name: in the address of its picture; small letters, digits and hyphens. title, note: for people.
        table: the numbers as texts, the first row the head; may be empty. chart: the same as a picture; None for none.
        alt: what the picture shows, for whoever does not see it.
    """

    name: str
    title: str
    note: str = ""
    table: tuple[tuple[str, ...], ...] = ()
    chart: Chart | None = None
    alt: str = ""


def short_name(name: str, limit: int = 28) -> str:
    """A name that has room beside an axis, and is plainly visible."""
    name = printable(name)
    return name if len(name) <= limit else name[: limit - 1] + "…"


def number(value: float | None) -> str:
    """A metric for people: four digits after the point, or four in all where it is large; a dash for none."""
    if value is None:
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.6g}"
