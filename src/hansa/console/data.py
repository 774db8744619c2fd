"""Data: this member's own tables, what their columns hold, and how they fit a plan. Counts and shapes, never a row."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hansa.console.member import LEAST_ROWS, Asked, Member, NotThere, warning_without_cells, without_cells
from hansa.console.models import MOST_TABLE_BYTES, Stamp
from hansa.console.plans import kept_proposal, plans
from hansa.data.files import OpenTable, open_by_column, open_sample, open_table
from hansa.data.inspection import ColumnKind, inspect_table
from hansa.data.parts import parts_of
from hansa.data.query import Query
from hansa.data.source import CheckReport, load_columns
from hansa.errors import DataError
from hansa.node.check import TableCheck, TableReport, check_own_table
from hansa.service.config import SourcesDocument
from hansa.views.chart import Bar, Bars, Chart, Shape, Shapes, View

MOST_PICTURES = 24
MOST_CATEGORIES = 12
BINS = 20

SAMPLED_ROWS = 100_000
"""Of a table of more than `MOST_TABLE_BYTES` that are looked at."""

SAMPLE_S = 120.0
"""Seconds that it may take to draw them."""

WAIT_S = 10.0
"""Seconds that a page waits until another table was looked at."""

Numbers = NDArray[np.floating[Any]]
"""Of one column, (n_rows,)."""


class ShownSource(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of [[sources]].

    Attributes:
        place: in the service's file, from 1. plans: patterns of the names of plans that it is for.
        kind: "table", "query" or "database". name: of the file, or the query.
        bytes: of the file, or of a folder's files together; None where it is none, or is not there. changed: when, in UTC.
        drawn: whether a page shows its columns.
    """

    place: int
    plans: tuple[str, ...]
    kind: str
    name: str
    bytes: int | None
    changed: str
    drawn: bool


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
        low, mean, high: of numbers; `LEAST_ROWS` rows at least are at or below `low`, and as many at or above `high`, which are told in
            three digits. None where so few rows have a number. why: why it cannot be read; else empty.
    """

    name: str
    kind: str
    missing: int
    distinct: int
    low: float | None
    mean: float | None
    high: float | None
    why: str


class SourceView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One of this member's tables: its columns, and pictures of the first ones.

    Attributes:
        rows: that were looked at. sample: whether these are some of the table's rows, which chance chose.
    """

    source: ShownSource
    rows: int
    sample: bool
    columns: tuple[ColumnFacts, ...]
    views: tuple[View, ...]


class TableFits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How this member's table fits a plan: what `hansa check` says, without cells and without the ends of columns. memory: in words."""

    plan: Fitting
    report: TableReport
    memory: tuple[str, ...]


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
    looked = _Looked.of(member, sources[place - 1])
    rows, columns, views = _inspected(looked)
    return SourceView(source=shown, rows=rows, sample=looked.sampled, columns=columns, views=views)


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
    report = found.report()
    return TableFits(plan=fitting, report=report, memory=tuple(report.memory.lines() if report.memory else ()))


# What they are made of


def _shown(member: Member, place: int, source: SourcesDocument) -> ShownSource:
    size, changed = None, ""
    if source.table is not None:
        kind, name = "table", source.table
        path = member.service.path.parent.absolute() / source.table
        try:
            states = [part.stat() for part in parts_of(path) or (path,)]
        except (OSError, DataError):
            states = []  # its page says what is wrong
        if states:
            size = sum(state.st_size for state in states)
            changed = f"{datetime.fromtimestamp(max(state.st_mtime for state in states), UTC):%Y-%m-%d %H:%M:%S}"
    elif source.source is not None:
        kind, name = ("query" if source.source.database is None else "database"), source.source.query
    else:
        kind, name = "none", ""
    drawn = size is not None or kind == "query"
    return ShownSource(place=place, plans=source.plans, kind=kind, name=name, bytes=size, changed=changed, drawn=drawn)


def _shown_report(report: CheckReport, name: str) -> CheckReport:
    """A report without the cells that it quotes and the ends of its columns, and with the table's name as its owner wrote it, not its
    place on this machine."""
    quoted = "a value that `hansa check` says on this member's machine"
    violations = (
        replace(each, file=name, found=each.found if each.row is None else quoted) for each in report.violations
    )
    return replace(
        report,
        file=name,
        violations=tuple(violations),
        warnings=tuple(map(warning_without_cells, report.warnings)),
        features=tuple(replace(own, minimum=math.nan, mean=math.nan, maximum=math.nan) for own in report.features),
        labels=(),
    )


def _file_of(member: Member, source: SourcesDocument) -> Path:
    """The file of a source that a page can be made of. Raises NotThere."""
    if source.table is None:
        raise NotThere("pages are made of sources that are files; use `hansa schema --member` and `hansa check`")
    path = member.service.path.parent.absolute() / source.table
    if not path.is_file() or path.stat().st_size > MOST_TABLE_BYTES:
        raise NotThere(f"{source.table} is no single file of at most {MOST_TABLE_BYTES:,} bytes; use `hansa check`")
    return path


@dataclass(frozen=True)
class _Looked:
    """What is looked at, told apart by its files as they are now, and by its query.

    Attributes:
        stamps: of its files. query: in SQL, or empty. source: to be opened. sampled: whether chance chooses the rows.
    """

    stamps: tuple[Stamp, ...]
    query: str
    source: Path | Query = field(compare=False)

    @classmethod
    def of(cls, member: Member, source: SourcesDocument) -> _Looked:
        """A table of [[sources]]. Raises NotThere, DataError."""
        here = member.service.path.parent.absolute()
        if source.table is not None:
            path = here / source.table
            return cls(tuple(map(Stamp.of, parts_of(path) or (path,))), "", path)
        if source.source is None or source.source.database is not None:
            raise NotThere("a database is not asked for a page; use `hansa schema --member` and `hansa check`")
        files = {name: here / file for name, file in source.source.files.items()}
        stamps = [Stamp.of(part) for path in files.values() for part in parts_of(path) or (path,)]
        made = cls(tuple(stamps), source.source.query, Query(source.source.query, files, "source.query"))
        if made.bytes > MOST_TABLE_BYTES:
            raise NotThere(f"the query's files have more than {MOST_TABLE_BYTES:,} bytes; use `hansa schema --member`")
        return made

    @property
    def bytes(self) -> int:
        return sum(stamp.bytes for stamp in self.stamps)

    @property
    def sampled(self) -> bool:
        return self.bytes > MOST_TABLE_BYTES

    @contextmanager
    def opened(self) -> Iterator[OpenTable]:
        """Open it; what a query finds lies in a file meanwhile. Raises DataError."""
        if isinstance(self.source, Query):
            table = open_by_column(self.source)
        elif self.sampled:
            table = open_sample(self.source, SAMPLED_ROWS, SAMPLE_S)
        else:
            table = open_table(self.source)
        with table:
            yield table


_looking = threading.Lock()
"""Held while a table is looked at: one at a time, of which each takes memory."""


def _inspected(looked: _Looked) -> _Found:
    """What was found of a table, which is kept until it changes. Raises NotThere where another one is looked at."""
    if not _looking.acquire(timeout=WAIT_S):
        raise NotThere("another table is being looked at here; load this page again when that is done")
    try:
        return _look(looked)
    finally:
        _looking.release()


_Found = tuple[int, tuple[ColumnFacts, ...], tuple[View, ...]]
"""Rows that were looked at, columns, and pictures of the first ones."""


@functools.lru_cache(maxsize=8)
def _look(looked: _Looked) -> _Found:
    with looked.opened() as table:
        found = inspect_table(table)
        numbers = [own.name for own in found.columns if own.kind == "numbers"]
        columns = load_columns(table, dict.fromkeys(numbers, ()), ".")
    facts: list[ColumnFacts] = []
    views: list[View] = []
    for place, own in enumerate(found.columns):
        known = _known(columns.pop(own.name).values) if own.name in columns else None
        facts.append(_facts(own, known))
        chart = None
        if len(views) < MOST_PICTURES:
            chart = _categories(own.counts) if known is None else _shape(own.name, known)
        if chart is not None:
            alt = f"Distribution of {own.name}, {own.summary.missing:,} of {found.n_rows:,} rows without a value"
            views.append(View(name=f"column-{place}", title=own.name, chart=chart, alt=alt))
    return found.n_rows, tuple(facts), tuple(views)


def _known(values: Numbers) -> Numbers:
    """The finite ones in their order, float64."""
    return np.sort(values[np.isfinite(values)].astype(np.float64))


def _facts(column: ColumnKind, known: Numbers | None) -> ColumnFacts:
    """known: the column's numbers in their order, or None where it has none."""
    low = mean = high = None
    if known is not None and len(known) >= LEAST_ROWS:
        ends = known[LEAST_ROWS - 1], known[-LEAST_ROWS]
        low, high = (float(f"{end:.3g}") for end in ends) if ends[0] <= ends[1] else (None, None)
        mean = float(known.mean())
    return ColumnFacts(
        name=column.name,
        kind=column.kind,
        missing=column.summary.missing,
        distinct=len(column.counts) or column.summary.distinct,
        low=low,
        mean=mean,
        high=high,
        why=without_cells(column.why),
    )


def _shape(name: str, known: Numbers) -> Chart | None:
    """Rows by width between the first and the last percent, `LEAST_ROWS` rows at least beyond each; bars of fewer rows are empty."""
    if len(known) < 20 * LEAST_ROWS:
        return None
    low, high = np.quantile(known, [0.01, 0.99])
    low, high = max(low, known[LEAST_ROWS - 1]), min(high, known[-LEAST_ROWS])
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
