"""`hansa schema`: the tables [schema] and [categories] of a plan, proposed from parties' tables.

Levels of texts are written, since a plan has to list them. Of a column of numbers no value is, unless ranges are asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hansa.data.facts import ALIKE, listed, told_of_levels
from hansa.data.inspection import ColumnKind, TableKind, inspect_table
from hansa.data.query import Source
from hansa.data.schema import DATE_RULES, name_fault
from hansa.errors import DataError, PlanError
from hansa.node.config import read_rows_source
from hansa.printable import printable
from hansa.toml import write_toml

Role = Literal["feature", "label", "ignore"]

MOST_LEVELS = 200
"""Different texts of a column that is proposed as categorical; a plan may list more."""

MOST_WHOLE_CLASSES = 10
"""Different whole numbers of a label that are taken for classes; more are taken for amounts."""

WIDTH = 136
"""Signs of a line of names or levels, where several lines hold them."""


DEFAULT_RULE = "days"
"""The rule that is proposed for dates."""


class ColumnRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a column holds in one table: private, and given only where it was asked for.

    Attributes:
        file: the table. rows, missing, distinct: counts. minimum, maximum: of numbers, else None. counts: rows
            of each text of a column that is not ignored.
    """

    file: str
    rows: int
    missing: int
    distinct: int
    minimum: float | None
    maximum: float | None
    counts: dict[str, int]


class ProposedColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One column of the proposal.

    Attributes:
        name: the column. role: in the schema. types: DuckDB's types, of a CSV file VARCHAR.
        why: what the column is, and why it is to be ignored. noted: whether whoever agrees on the plan has to know why; of a label:
            that it cannot be learnt as it is.
        levels: of a categorical feature or a label of texts, sorted.
        date: the rule that makes a number of a date, or "".
        classes: of a label: how many classes its values look like, texts or the whole numbers from 0; 0 where they look like amounts.
        ranges: a table each where they were asked for, else empty.
    """

    name: str
    role: Role
    types: tuple[str, ...]
    why: str
    levels: tuple[str, ...] = ()
    ranges: tuple[ColumnRange, ...] = ()
    date: str = ""
    noted: bool = False
    classes: int = 0


class SchemaProposal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa schema --json` prints.

    Attributes:
        files: the tables. decimal: the decimal sign that they were read with. columns: in the order of the tables.
    """

    files: tuple[str, ...]
    decimal: str
    columns: tuple[ProposedColumn, ...]

    def text(self) -> str:
        """TOML for a plan, with comments."""
        features = [column for column in self.columns if column.role == "feature"]
        labels = [column for column in self.columns if column.role == "label"]
        ignored = [column for column in self.columns if column.role == "ignore"]
        lines = [
            f"# Proposed by `hansa schema` from {', '.join(map(printable, self.files))}.",
            "# Every party's table has these columns. Agree on them, and on units and meaning, before you write a plan.",
            "[schema]",
            *_list("features", features),
        ]
        if not labels:
            lines.append('# label = "..."  # the column to predict: take it out of the features')
        elif len(labels) > 1:
            lines += _list("label", labels)
        else:
            lines += _comments(labels[0], "")
            lines.append(f"label = {_toml(labels[0].name)}")
        classes = sorted({level for label in labels for level in label.levels})
        if classes:
            lines.append("# The texts of the label: their order says which is class 0, 1, ...")
            lines.append(write_toml({"classes": classes}).rstrip("\n"))
        if ignored:
            lines += _list("ignore", ignored)
        if self.decimal != ".":
            lines.append(f"decimal = {_toml(self.decimal)}")
        dates = {column.name: column.date for column in features if column.date}
        if dates:
            lines.append(
                "# Numbers are made of these dates; other rules: "
                + ", ".join(rule for rule in DATE_RULES if rule != DEFAULT_RULE)
            )
            lines.append(_dates(dates))
        levels = {column.name: list(column.levels) for column in features if column.levels}
        if levels:
            lines += [
                "",
                "# Every text that a column holds. They are values of these tables: look through them before you share them.",
                write_toml({"categories": levels}).rstrip("\n"),
            ]
        return "\n".join(lines)

    def short(self, union: bool) -> str:
        """The same TOML in few lines and without comments, for a plan with a label; `notes` says what has to be known of it.

        union: whether texts are the union of all parties' levels, in place of those of the tables.
        """
        features = [column for column in self.columns if column.role == "feature"]
        labels = [column for column in self.columns if column.role == "label"]
        ignored = [column.name for column in self.columns if column.role == "ignore"]
        texts = {column.name: column.levels for column in features if column.levels}
        classes = sorted({level for label in labels for level in label.levels})
        dates = {column.name: column.date for column in features if column.date}
        lines = [
            "[schema]",
            array_line("features", [column.name for column in features]),
            *([array_line("union", list(texts))] if union and texts else []),
            f"label = {_toml(labels[0].name)}"
            if len(labels) == 1
            else array_line("label", [own.name for own in labels]),
            *([array_line("classes", classes)] if classes else []),
            *([array_line("ignore", ignored)] if ignored else []),
            *([f"decimal = {_toml(self.decimal)}"] if self.decimal != "." else []),
            *([_dates(dates)] if dates else []),
        ]
        if texts and not union:
            lines += ["", "[categories]", *(array_line(_key(name), levels) for name, levels in texts.items())]
        return "\n".join(lines)

    def notes(self) -> tuple[str, ...]:
        """Sentences on columns that are ignored, and on others that are perhaps not what they seem. They quote no cell."""
        return tuple(
            f"{column.name!r} is ignored: {column.why}"
            if column.role == "ignore"
            else f"{column.name!r}: {f'some of its texts {ALIKE}; `hansa schema` says which' if column.levels else column.why}"
            for column in self.columns
            if column.noted
        )


def propose_schema(
    tables: Sequence[Path], members: Sequence[Path], *, labels: Sequence[str], decimal: str, ranges: bool
) -> SchemaProposal:
    """Propose a schema from tables, and from those of members' own files.

    Args:
        tables: files, folders or patterns. members: members' own files; their plan need not be there.
        labels: the columns to predict. decimal: as in `data.schema.Schema`. ranges: whether to give ranges and counts.

    Raises PlanError where no table is named, DataError where one cannot be read or lacks the label.
    """
    sources: list[tuple[Source, str | None]] = [(path, None) for path in tables]
    sources += [read_rows_source(path) for path in members]
    if not sources:
        raise PlanError("no table is named; name one, or give --member a party's own file with table or source")
    found = [inspect_table(source, decimal, () if own is None else (own,)) for source, own in sources]
    names = list(dict.fromkeys(column.name for table in found for column in table.columns))
    for table in found:
        has = [column.name for column in table.columns]
        for label in labels:
            if label not in has:
                raise DataError(f"{table.file}: no column {label!r}, which is to be the label; found {listed(has)}")
    columns = tuple(_propose(name, found, labels, ranges) for name in names)
    return SchemaProposal(tuple(table.file for table in found), decimal, columns)


def _propose(name: str, tables: Sequence[TableKind], labels: Sequence[str], ranges: bool) -> ProposedColumn:
    """What a column is to be, by what it is in every table."""
    kinds = {table.file: column for table in tables for column in table.columns if column.name == name}
    types = tuple(dict.fromkeys(column.type for column in kinds.values()))
    role, why, noted = _role(name, kinds, [table.file for table in tables])
    levels: tuple[str, ...] = ()
    classes = 0
    if name in labels:
        texts = all(column.kind in ("texts", "missing") for column in kinds.values())
        levels = tuple(sorted({text for column in kinds.values() for text in column.counts})) if texts else ()
        role = "label"
        noted = not texts and any(column.kind not in ("numbers", "missing") for column in kinds.values())
        if levels and len(levels) <= MOST_LEVELS:
            why = "texts: classes lists them"
        elif levels:
            levels, why, noted = (), f"texts, more than {MOST_LEVELS} different ones: too many for classes", True
        classes = len(levels) if texts else _whole_classes(list(kinds.values()))
    elif role == "feature":
        levels = tuple(sorted({text for column in kinds.values() for text in column.counts}))
    shown = tuple(_range(table, kinds[table.file], role) for table in tables if table.file in kinds) if ranges else ()
    dated = role == "feature" and any(column.kind == "dates" for column in kinds.values())
    date = DEFAULT_RULE if dated else ""
    return ProposedColumn(name, role, types, why, levels, shown, date, noted, classes)


def _whole_classes(columns: Sequence[ColumnKind]) -> int:
    """How many classes a label of numbers looks like: 0 to some number, whole, and each of them there; else 0."""
    present = [column.summary for column in columns if column.kind == "numbers"]
    if not present or not all(column.whole for column in columns if column.kind == "numbers"):
        return 0
    if min(own.minimum for own in present) < 0:
        return 0
    classes = max(2, int(max(own.maximum for own in present)) + 1)
    return classes if classes <= max(2, min(MOST_WHOLE_CLASSES, max(own.distinct for own in present))) else 0


def _role(name: str, kinds: dict[str, ColumnKind], files: Sequence[str]) -> tuple[Role, str, bool]:
    """Feature or ignored, why, and whether that has to be known."""
    absent = next((file for file in files if file not in kinds), None)
    if absent is not None:
        return "ignore", f"not in {absent}", True
    fault = name_fault(name)
    if not name or fault is not None:
        return "ignore", fault or "it has no name; name it", True
    for file, column in kinds.items():
        if column.kind == "unread":
            return "ignore", f"not read, in {file}: {column.why}", True
    columns = list(kinds.values())
    texts = [file for file, column in kinds.items() if column.kind == "texts"]
    numbers = [file for file, column in kinds.items() if column.kind == "numbers"]
    dates = [file for file, column in kinds.items() if column.kind == "dates"]
    if dates and (texts or numbers):
        return "ignore", f"dates in {dates[0]}, none in {(texts + numbers)[0]}: write them alike", True
    if dates:
        return "feature", "dates: schema.dates makes numbers of them", False
    if texts and numbers:
        return "ignore", f"texts in {texts[0]}, numbers in {numbers[0]}: write them alike", True
    if texts:
        present = [column for column in columns if column.kind == "texts"]
        count = len({text for column in present for text in column.counts})
        if all(column.different for column in present):
            return "ignore", "texts, all different: it looks like an id", True
        if count > MOST_LEVELS:
            return "ignore", f"texts, more than {MOST_LEVELS} different ones: too many for categories", True
        told = next(told_of_levels({name: sorted({text for column in present for text in column.counts})}), "")
        return "feature", "texts: [categories] lists them" + (f"; {told}" if told else ""), bool(told)
    if not numbers:
        return "feature", "missing in every row", True
    whole = all(column.whole for column in columns if column.kind == "numbers")
    different = all(column.different for column in columns if column.kind == "numbers")
    what = "whole numbers" if whole else "numbers"
    missing = ", some missing" if any(column.summary.missing for column in columns) else ""
    merged = any(column.merged for column in columns)
    if merged and whole and different:
        return "ignore", "whole numbers, all different, which float32 cannot hold apart: it looks like an id", True
    beyond = (
        "; float32 cannot hold them apart: subtract a number that all parties agree on, or leave it out"
        if merged
        else ""
    )
    perhaps = ", all different (is it an id?)" if whole and different else ""
    return "feature", what + missing + perhaps + beyond, merged or bool(perhaps)


def _range(table: TableKind, column: ColumnKind, role: Role) -> ColumnRange:
    summary = column.summary
    least, greatest = (None if math.isnan(end) else end for end in (summary.minimum, summary.maximum))
    counts = {} if role == "ignore" else dict(sorted(column.counts.items()))
    return ColumnRange(table.file, table.n_rows, summary.missing, summary.distinct, least, greatest, counts)


# --- TOML --------------------------------------------------------------------------------------------------


def _toml(text: str) -> str:
    """A text as TOML writes it."""
    return write_toml({"x": text}).removeprefix("x = ").rstrip("\n")


def _key(name: str) -> str:
    """A key as TOML writes it."""
    return write_toml({name: 0}).removesuffix(" = 0\n")


def _dates(rules: Mapping[str, str]) -> str:
    return "dates = { " + ", ".join(f"{_key(name)} = {_toml(rule)}" for name, rule in rules.items()) + " }"


def array_line(key: str, values: Sequence[str]) -> str:
    """Texts under a key, as few lines of TOML as hold them. key: as TOML writes it."""
    lines = [f"{key} = ["]
    for place, value in enumerate(values):
        item = _toml(value) + ("]" if place + 1 == len(values) else ",")
        opened = lines[-1].endswith("[")
        if not opened and len(lines[-1]) + 1 + len(item) > WIDTH:
            lines.append("    " + item)
        else:
            lines[-1] += item if opened else f" {item}"
    return "\n".join(lines) if values else f"{key} = []"


def _list(key: str, columns: Sequence[ProposedColumn]) -> list[str]:
    lines = [f"{key} = ["]
    for column in columns:
        lines += _comments(column, "    ")
        lines.append(f"    {_toml(column.name)},")
    return [*lines, "]"]


def _comments(column: ProposedColumn, indent: str) -> list[str]:
    """What stands above a column's name."""
    kinds = " and ".join(column.types)
    lines = [f"{column.why} ({kinds})"]
    for shown in column.ranges:
        between = "" if shown.minimum is None else f"{shown.minimum:g} to {shown.maximum:g}, "
        lines.append(
            f"  {shown.file}: {between}{shown.distinct} different, {shown.missing} of {shown.rows} rows missing"
        )
        lines += [f"    {text!r}: {count} rows" for text, count in shown.counts.items()]
    return [f"{indent}# {printable(line)}" for line in lines]
