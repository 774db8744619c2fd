"""Data: this member's own tables, what their columns hold, and how they fit a plan. Counts and shapes, never a row."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import numpy as np

from hansa.console.member import Asked, Member, NotThere, without_cells
from hansa.console.models import MOST_TABLE_BYTES, Stamp
from hansa.console.plans import kept_proposal, plans
from hansa.data.coding import read_coded
from hansa.data.inspection import ColumnKind, TableKind, inspect_table
from hansa.data.source import CheckReport
from hansa.errors import DataError
from hansa.node.check import TableCheck, TableReport, check_own_table
from hansa.service.config import SourcesDocument
from hansa.views.chart import Bar, Bars, Chart, Shape, Shapes, View

LEAST_ROWS = 5
"""Rows of a bar or a category that is shown; fewer are left out or joined."""

MOST_PICTURES = 24
MOST_CATEGORIES = 12
BINS = 20


class ShownSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of [[sources]].

    Attributes:
        place: in the service's file, from 1. plans: patterns of the names of plans that it is for.
        kind: "table", "query" or "database". name: of the file, or the query.
        bytes: of the file; None where it is none, or is not there. changed: when, in UTC.
    """

    place: int
    plans: tuple[str, ...]
    kind: str
    name: str
    bytes: int | None
    changed: str


class Fitting(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plan that a source is for: its proposal's digest, and its name."""

    proposal: str
    name: str


class DataView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What Data shows: this member's sources, and plans that were brought here which make it a party."""

    sources: tuple[ShownSource, ...]
    plans: tuple[Fitting, ...]


class ColumnFacts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a column holds.

    Attributes:
        kind: "numbers", "texts", "dates", "missing" or "unread". missing, distinct: rows without a value, and different values.
        minimum, mean, maximum: of numbers, else None. why: why it cannot be read; else empty.
    """

    name: str
    kind: str
    missing: int
    distinct: int
    minimum: float | None
    mean: float | None
    maximum: float | None
    why: str


class SourceView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of this member's tables: its columns, and pictures of the first ones."""

    source: ShownSource
    rows: int
    columns: tuple[ColumnFacts, ...]
    views: tuple[View, ...]


class TableFits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this member's table fits a plan: what `hansa check` says."""

    plan: Fitting
    report: TableReport
    text: str


def data(member: Member, _: Asked) -> DataView:
    """This member's sources."""
    sources = member.service.document.sources
    listed = (
        own.proposal
        for own in plans(member, Asked()).plans
        if member.name in (*own.proposal.approved, *own.proposal.missing)
    )
    return DataView(
        sources=tuple(_shown(member, place, source) for place, source in enumerate(sources, 1)),
        plans=tuple(Fitting(proposal=own.proposal, name=own.name) for own in listed),
    )


def source(member: Member, asked: Asked) -> SourceView:
    """One table's columns. Raises NotThere, DataError where it cannot be read."""
    text, sources = asked.get("place"), member.service.document.sources
    place = int(text) if text.isascii() and text.isdigit() and len(text) < 5 else 0
    if not 1 <= place <= len(sources):
        raise NotThere(f"this member has no source {text!r:.20}; it has {len(sources)}")
    shown = _shown(member, place, sources[place - 1])
    path = _file_of(member, sources[place - 1])
    found, views = _inspected(Stamp.of(path))
    return SourceView(source=shown, rows=found.n_rows, columns=tuple(map(_facts, found.columns)), views=views)


def check(member: Member, asked: Asked) -> TableFits:
    """How this member's table fits a plan that was brought here. Raises NotThere, DataError where the table cannot be read."""
    _, proposal = kept_proposal(member, asked.get("proposal"))
    plan = proposal.plan
    own = member.service.source_of(plan)
    if member.name not in plan.parties or own is None:
        raise NotThere(f"plan {plan.name!r} asks for no rows of {member.name}, or no source is for it")
    schema = (
        plan.schema if own.id in (None, plan.schema.id) else replace(plan.schema, ignore=(*plan.schema.ignore, own.id))
    )
    path = _file_of(member, own)
    found: TableCheck = check_own_table(plan, path, schema)
    fitting = Fitting(proposal=proposal.digest.hex(), name=plan.name)
    found = replace(found, table=_shown_report(found.table, str(own.table)))
    return TableFits(plan=fitting, report=found.report(), text=found.text())


# What they are made of


def _shown(member: Member, place: int, source: SourcesDocument) -> ShownSource:
    size, changed = None, ""
    if source.table is not None:
        kind, name = "table", source.table
        path = member.service.path.parent / source.table
        if path.is_file():
            state = path.stat()
            size, changed = state.st_size, f"{datetime.fromtimestamp(state.st_mtime, UTC):%Y-%m-%d %H:%M:%S}"
    elif source.source is not None:
        kind, name = ("query" if source.source.database is None else "database"), source.source.query
    else:
        kind, name = "none", ""
    return ShownSource(place=place, plans=source.plans, kind=kind, name=name, bytes=size, changed=changed)


def _shown_report(report: CheckReport, name: str) -> CheckReport:
    """A report without the cells that it quotes, and with the table's name as its owner wrote it, not its place on this machine."""
    quoted = "a value that `hansa check` says on this member's machine"
    violations = (
        replace(each, file=name, found=each.found if each.row is None else quoted) for each in report.violations
    )
    return replace(report, file=name, violations=tuple(violations))


def _file_of(member: Member, source: SourcesDocument) -> Path:
    """The file of a source that a page can be made of. Raises NotThere."""
    if source.table is None:
        raise NotThere("pages are made of sources that are files; use `hansa schema --member` and `hansa check`")
    path = member.service.path.parent.absolute() / source.table
    if not path.is_file() or path.stat().st_size > MOST_TABLE_BYTES:
        raise NotThere(f"{source.table} is no single file of at most {MOST_TABLE_BYTES:,} bytes; use `hansa check`")
    return path


def _facts(column: ColumnKind) -> ColumnFacts:
    summary = column.summary
    least, mean, most = (
        None if math.isnan(value) else value for value in (summary.minimum, summary.mean, summary.maximum)
    )
    return ColumnFacts(
        name=column.name,
        kind=column.kind,
        missing=summary.missing,
        distinct=len(column.counts) or summary.distinct,
        minimum=least,
        mean=mean,
        maximum=most,
        why=without_cells(column.why),
    )


@functools.lru_cache(maxsize=8)
def _inspected(table: Stamp) -> tuple[TableKind, tuple[View, ...]]:
    found = inspect_table(Path(table.path), ".", ())
    drawn = [own for own in found.columns if own.kind in ("numbers", "texts")][:MOST_PICTURES]
    numbers = [own.name for own in drawn if own.kind == "numbers"]
    values: dict[str, Chart | None] = {}
    if numbers:
        try:
            read = read_coded(table.path, numbers, known={})
        except DataError:
            read = None  # a column says above why it cannot be read
        if read is not None:
            values = {name: _shape(name, column) for name, column in zip(numbers, read.features, strict=True)}
    views = []
    for place, own in enumerate(drawn):
        chart = values.get(own.name) if own.kind == "numbers" else _categories(own.counts)
        if chart is not None:
            alt = f"Distribution of {own.name}, {own.summary.missing:,} of {found.n_rows:,} rows without a value"
            views.append(View(name=f"column-{place}", title=own.name, chart=chart, alt=alt))
    return found, tuple(views)


def _shape(name: str, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> Chart | None:
    """Rows by width between the first and the last percent; bars of fewer than `LEAST_ROWS` rows are empty."""
    known = values[np.isfinite(values)].astype(np.float64)
    if len(known) < 20 * LEAST_ROWS:
        return None
    low, high = np.quantile(known, [0.01, 0.99])
    if not low < high:
        return None
    counts, edges = np.histogram(known, BINS, (float(low), float(high)))
    counts[counts < LEAST_ROWS] = 0
    most = counts.max() or 1
    bins = tuple(
        (float(f"{edges[k]:.4g}"), float(f"{edges[k + 1]:.4g}"), float(count / most)) for k, count in enumerate(counts)
    )
    return Shapes(x=name, shapes=(Shape(name=name, bins=bins),))


def _categories(counts: dict[str, int]) -> Chart | None:
    """Rows of the texts that the most rows have; the others together."""
    ranked = sorted(((rows, text) for text, rows in counts.items() if rows >= LEAST_ROWS), reverse=True)
    shown = ranked[:MOST_CATEGORIES]
    rest = sum(counts.values()) - sum(rows for rows, _ in shown)
    bars = [Bar(name=text, value=float(rows), text=f"{rows:,}") for rows, text in shown]
    if rest:
        bars.append(Bar(name="others", value=float(rest), text=f"{rest:,}"))
    return Bars(x="rows", bars=tuple(bars)) if bars else None
