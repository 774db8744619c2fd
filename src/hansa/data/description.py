"""A description of the pooled table, as it is told, saved and shown; and how far a member's rows are from it.

Made of pooled counts by cell alone (`bin_counts`): both sides of a run make it from the same message, and find the same. Sums of
fewer rows than `min_cell_rows` do not stand in it.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import narwhals as nw
import numpy as np
from numpy.typing import NDArray

from hansa.data.bin_counts import (
    QUANTILES,
    UNTOLD,
    Layout,
    as_told,
    distance,
    quantile_bin,
)
from hansa.data.schema import Level
from hansa.errors import DataError
from hansa.views.html import html_table

Array = NDArray[Any]

FORMAT: Literal[1] = 1


class Bin(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows with low <= value < high; None where the bin has no end on that side."""

    low: float | None
    high: float | None
    rows: int


class Category(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rows with this level, or of this class."""

    level: Level
    rows: int


class Quantile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The least value that `percent` of the rows with a value do not exceed lies in low <= value < high; None: no end there."""

    percent: int
    low: float | None
    high: float | None


class Shift(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far one member's rows are from those of all members, this one included, over the told cells.

    Attributes:
        psi: population stability index. moved: the share of rows that would have to change their cell.
    """

    psi: float
    moved: float


class ColumnDescription(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column of the pooled table.

    Attributes
    ----------
    name : str
    missing : int or None
        Rows without a value; None where they are some, but too few to be told: then they are among the rows of the last bin, or
        of `other`.
    bins : tuple of Bin
        Of ordered values, rising; empty for categories.
    quantiles : tuple of Quantile
        Of ordered values; those that can be told.
    categories : tuple of Category
        By code; those with too few rows are left out, and counted in `other`.
    other : int
        Rows of the categories that are too small to be told, together.
    levels : tuple
        All levels of the plan (of a label, its classes); empty for ordered values.
    mean : float or None
        Of a label that is a number, by the rows' weights.
    shifts : dict of str to Shift
        By member; of whom it can be known to whoever made the description.
    """

    name: str
    missing: int | None
    bins: tuple[Bin, ...] = ()
    quantiles: tuple[Quantile, ...] = ()
    categories: tuple[Category, ...] = ()
    other: int = 0
    levels: tuple[Level, ...] = ()
    mean: float | None = None
    shifts: dict[str, Shift] = {}

    @property
    def cuts(self) -> Array:
        """Inner edges of the bins, float32."""
        return np.array([own.high for own in self.bins[:-1]], np.float32)

    @property
    def rows(self) -> int:
        """All rows, with a value or without."""
        counted = sum(own.rows for own in self.bins) + sum(own.rows for own in self.categories)
        return counted + self.other + (self.missing or 0)

    @property
    def told(self) -> Array:
        """int64: the rows of its cells, `UNTOLD` for those that have too few (`bin_counts.told_counts`)."""
        missing = UNTOLD if self.missing is None else self.missing
        if not self.levels:
            return np.array([*(own.rows for own in self.bins), missing], np.int64)
        rows = {own.level: own.rows for own in self.categories}
        return np.array([*(rows.get(level, UNTOLD) for level in self.levels), missing], np.int64)

    @property
    def layout(self) -> Layout:
        """Which cells it has."""
        return Layout((self.cuts,), np.array([len(self.levels)], np.int64))


class Description(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pooled table of a run's parties, in sums alone; a notebook shows it as tables.

    Attributes
    ----------
    mode : str
        How the parties' counts were protected.
    plan, run : str
        The plan's digest, and the run's id.
    rows, held_out : int
        Of all parties: those that training would use, which are described, and those that it would hold out.
    parties : dict of str to int
        The described rows of each.
    min_cell_rows : int
        No cell of fewer rows is told, but an empty one.
    features : tuple of ColumnDescription
        In the order of the plan.
    label : ColumnDescription
        Its bins, or its classes.

    Examples
    --------
    >>> import pandas as pd, hansa
    >>> rows = pd.DataFrame({"load": [float(i % 50) for i in range(300)], "operator": ["a", "b", "c"] * 100})
    >>> rows["fault"] = (rows["load"] > 30).astype(int)
    >>> found = hansa.describe(hansa.split(rows, by="operator"), label="fault")
    >>> found.rows, [(own.level, own.rows) for own in found.label.categories]
    (300, [(0, 186), (1, 114)])
    >>> found.to_frame()["feature"].tolist()
    ['load', 'fault']
    """

    format: Literal[1] = FORMAT
    mode: str
    plan: str
    run: str
    rows: int
    held_out: int
    parties: dict[str, int]
    min_cell_rows: int
    features: tuple[ColumnDescription, ...]
    label: ColumnDescription

    @property
    def columns(self) -> tuple[ColumnDescription, ...]:
        """The features, and the label last."""
        return (*self.features, self.label)

    def to_json(self) -> bytes:
        """As it is saved: JSON, to read with `from_json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_json(cls, content: bytes) -> Description:
        """A description that was saved. Raises DataError saying what is wrong with it."""
        try:
            found = msgspec.json.decode(content, type=cls, strict=True)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"no description of a table: {error}; {_SAVED}") from error
        for own in found.columns:
            if fault := _fault(own):
                raise DataError(f"no description of a table: column {own.name!r}: {fault}; {_SAVED}")
        return found

    def to_frame(self, backend: Literal["pandas", "polars", "pyarrow"] = "pandas") -> Any:
        """A row for each column: its share without a value, the bounds of its quantiles, its largest category, and largest shift."""
        found: dict[str, list[Any]] = {"feature": [], "missing": [], "categories": [], "largest_category": []}
        found |= {f"{percent}%{end}": [] for percent in QUANTILES for end in ("_low", "_high")}
        found |= {"psi": [], "psi_of": []}
        for own in self.columns:
            largest = _by_size(own)[:1]
            farthest = max(((shift.psi, name) for name, shift in own.shifts.items()), default=None)
            known = {each.percent: each for each in own.quantiles}
            found["feature"].append(own.name)
            found["missing"].append(None if own.missing is None else own.missing / own.rows)
            found["categories"].append(len(own.levels) or None)
            found["largest_category"].append(str(largest[0].level) if largest else None)
            for percent in QUANTILES:
                found[f"{percent}%_low"].append(known[percent].low if percent in known else None)
                found[f"{percent}%_high"].append(known[percent].high if percent in known else None)
            found["psi"].append(None if farthest is None else farthest[0])
            found["psi_of"].append(None if farthest is None else farthest[1])
        return nw.from_dict(found, backend=backend).to_native()

    def facts(self) -> str:
        """One sentence on all of it."""
        held = f", and {self.held_out:,} held out that are not described" if self.held_out else ""
        return (
            f"{self.rows:,} rows of {len(self.parties)} parties in mode {self.mode}{held}; {len(self.features)} features; "
            f"no cell of fewer than {self.min_cell_rows} rows is told"
        )

    def tables(self) -> list[list[list[str]]]:
        """The same as tables of texts, the first row of each its head."""
        head = ["feature", "without value", *(f"{percent} %" for percent in QUANTILES), "shape"]
        ordered = [
            [own.name, self._missing(own), *_quantiles(own), _sparks(own)] for own in self.columns if not own.levels
        ]
        unordered = [
            [own.name, self._missing(own), str(len(own.levels)), _largest(own), f"{own.other / own.rows:.1%}"]
            for own in self.columns
            if own.levels
        ]
        names = sorted({name for own in self.columns for name in own.shifts})
        shifted = [
            [own.name, *(f"{own.shifts[name].psi:.3f}" if name in own.shifts else "–" for name in names)]
            for own in self.columns
        ]
        parties = [["party", "rows"], *([name, f"{rows:,}"] for name, rows in self.parties.items())]
        return [
            parties,
            *([[head, *ordered]] if ordered else []),
            *([[["categories", "without value", "levels", "largest", "other"], *unordered]] if unordered else []),
            *([[["PSI to all rows", *names], *shifted]] if names else []),
        ]

    def _missing(self, own: ColumnDescription) -> str:
        return f"below {self.min_cell_rows} rows" if own.missing is None else f"{own.missing / own.rows:.1%}"

    def __repr__(self) -> str:
        return f"<Description: {self.facts()}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self.facts())}</p>" + "".join(html_table(rows) for rows in self.tables())


_SAVED = "give the file that `hansa describe` saved"


def _fault(own: ColumnDescription) -> str:
    """What a column of a file says that no description does; "" where there is nothing."""
    rows = [own.other, own.missing or 0, *(each.rows for each in own.bins), *(each.rows for each in own.categories)]
    if min(rows) < 0 or not own.rows:
        return "it has no rows, or fewer than none"
    if bool(own.bins) == bool(own.levels) or not {each.level for each in own.categories} <= set(own.levels):
        return "it has both bins and levels, or neither, or a category that is no level"
    edges = [each.high for each in own.bins[:-1]]
    if any(edge is None for edge in edges) or not bool(np.all(np.diff(own.cuts) > 0)):
        return "its bins do not rise"
    return ""


TINY = 1e-12
"""An edge so near to 0 stands for the gap beside it: it is the roundest number there, and no row's."""


def short(value: float) -> str:
    """A number in four digits; 0+ or 0- for one beside 0."""
    if 0 < abs(value) < TINY:
        return "0+" if value > 0 else "0-"
    return f"{value:.4g}"


def _quantiles(own: ColumnDescription) -> Iterator[str]:
    known = {each.percent: each for each in own.quantiles}
    for percent in QUANTILES:
        each = known.get(percent)
        yield "–" if each is None else ends(each.low, each.high)


def ends(low: float | None, high: float | None) -> str:
    """Where a bin lies, in words."""
    if low is None:
        return "any" if high is None else f"below {short(high)}"
    return f"from {short(low)}" if high is None else f"{short(low)} to {short(high)}"


def _by_size(own: ColumnDescription) -> list[Category]:
    """The categories, the largest first."""
    return sorted(own.categories, key=lambda each: (-each.rows, str(each.level)))


def _largest(own: ColumnDescription) -> str:
    return ", ".join(f"{each.level} {each.rows / own.rows:.1%}" for each in _by_size(own)[:3] if each.rows)


_SPARKS = "▁▂▃▄▅▆▇█"


FINE, COARSE = 0.025, 0.08
"""Shares of all rows that a bar of a picture, and a sign of a table, stands for at least."""

MOST_BARS = 60
"""Bars of equal width that a picture has at most: a single value, whose bin is narrow, has no bar of its own."""


def densities(own: ColumnDescription, share: float) -> list[tuple[float, float, float]]:
    """(low, high, rows by width against the densest, 0 to 1) of the bins that have two ends; what is narrow, or has a smaller share of
    all rows than `share`, is joined with the next.
    """
    inner = [(each.low, each.high, each.rows) for each in own.bins if each.low is not None and each.high is not None]
    if not inner:
        return []
    least, width = share * sum(each.rows for each in own.bins), (inner[-1][1] - inner[0][0]) / MOST_BARS
    found: list[tuple[float, float, float]] = []
    start, rows = None, 0
    for place, (low, high, count) in enumerate(inner):
        start, rows = (low if start is None else start), rows + count
        if (rows >= least and high - start >= width) or place == len(inner) - 1:
            found.append((start, high, rows / (high - start)))
            start, rows = None, 0
    most = max(each for _, _, each in found)
    return [(low, high, each / most) for low, high, each in found] if most > 0 else []


def _sparks(own: ColumnDescription) -> str:
    return "".join(_SPARKS[min(int(each * len(_SPARKS)), len(_SPARKS) - 1)] for _, _, each in densities(own, COARSE))


# --- made of counts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Columns:
    """The columns of a description, as the plan has them.

    Attributes:
        names: of the features, and of the label. levels: by column, its levels or classes; () for ordered values.
    """

    names: tuple[str, ...]
    levels: tuple[tuple[Level, ...], ...]

    @property
    def n_categories(self) -> Array:
        """int64 (n_columns,): how many levels each has; 0 for ordered values."""
        return np.array([len(own) for own in self.levels], np.int64)


def describe_columns(
    columns: Columns,
    layout: Layout,
    told: Array,
    other: Array,
    label_mean: float | None,
    members: Mapping[str, Array] | None = None,
) -> tuple[ColumnDescription, ...]:
    """Every column, from what is told of its counts.

    Args:
        told, other: as `bin_counts.told_counts`. label_mean: None where it is not told.
        members: by member, its own rows by cell, where they are known here.
    """
    shifts = shifts_of(layout, told, other, members or {})
    found = []
    for number, (name, levels) in enumerate(zip(columns.names, columns.levels, strict=True)):
        own = layout.of(number, told).tolist()
        missing = None if own[-1] == UNTOLD else own[-1]
        label = number == len(columns.names) - 1
        if levels:
            found.append(
                ColumnDescription(
                    name=name,
                    missing=missing,
                    categories=tuple(
                        Category(level=level, rows=rows)
                        for level, rows in zip(levels, own, strict=False)
                        if rows != UNTOLD
                    ),
                    other=int(other[number]),
                    levels=levels,
                    shifts=shifts[number],
                )
            )
            continue
        edges = [None, *layout.cuts[number].tolist(), None]
        bins = tuple(Bin(low=low, high=high, rows=rows) for low, high, rows in zip(edges, edges[1:], own, strict=False))
        exact = missing is not None and sum(own[:-1]) > 0
        at = [(percent, bins[quantile_bin(own[:-1], percent)]) for percent in QUANTILES if exact]
        found.append(
            ColumnDescription(
                name=name,
                missing=missing,
                bins=bins,
                quantiles=tuple(Quantile(percent=percent, low=each.low, high=each.high) for percent, each in at),
                mean=label_mean if label else None,
                shifts=shifts[number],
            )
        )
    return tuple(found)


def shifts_of(layout: Layout, told: Array, other: Array, members: Mapping[str, Array]) -> list[dict[str, Shift]]:
    """How far each member's rows are from all, by column. `members`: rows by cell; all columns one behind the other."""
    found: list[dict[str, Shift]] = [{} for _ in layout.cuts]
    for member, counts in members.items():
        for number, own in enumerate(as_told(counts, told, layout)):
            if own.sum():
                apart = distance(own, _pooled(layout, number, told, other), not layout.n_categories[number])
                found[number][member] = Shift(psi=apart.psi, moved=apart.moved)
    return found


def _pooled(layout: Layout, number: int, told: Array, other: Array) -> Array:
    """Rows of all parties by told cell of one column, as `as_told` has one party's."""
    return np.append(np.maximum(layout.of(number, told), 0), other[number])
