"""A party's rows, read from its own file and held to the schema.

`files` opens a table, `cells` says which texts are numbers. Columns are addressed by position: names and paths from outside never
become part of a statement. Rows are numbered from 1, the header not counted. The number of scans does not grow with the columns.

Missing: an empty cell, or NA, NaN or null in any case (texts); null or NaN (other types). true and false are 1 and 0. Texts that mean
a number are numbers in every file.

A categorical column is read as its levels, and becomes codes: texts are compared letter by letter, numbers as numbers. Texts that
mean a missing value do so in every file.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hansa.data.cells import SPACES, disguise, is_numeric, is_text, number, plain_form, truth_in_words, with_unit, word
from hansa.data.columns import LARGE_CELLS
from hansa.data.dates import date_number
from hansa.data.facts import FactsReader, Merged, TableFacts, listed
from hansa.data.facts import Role as FactsRole
from hansa.data.files import OpenTable, open_table
from hansa.data.query import Source
from hansa.data.schema import MISSING_WORDS, Level, Schema
from hansa.errors import DataError, PlanError

Array = NDArray[Any]
LabelKind = Literal["binary", "numeric", "not negative", "positive", "above -1"] | int
"""Labels 0 and 1; any finite number; or, as a number K, the classes 0 to K - 1."""

SHOWN_LEVELS = 5
"""Levels that an error lists."""

SHOWN_CHARACTERS = 60
"""Of a cell that an error quotes."""

A_NUMBER = "a number (at most 3.4e38, or empty for missing)"


WHOLE_TYPES = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
"""DuckDB's types of ids that are numbers: one id has one text."""

A_DATE = "a date such as 2024-03-01 or 2024-03-01T12:30+02:00, of the years 1 to 9999"


NO_FACTS = TableFacts()


@dataclass(frozen=True, eq=False)
class Rows:
    """One party's rows. Never leaves the party.

    Attributes
    ----------
    features : float32 (n_features, n_rows)
        C-contiguous, finite or NaN for missing; codes of a categorical feature.
    label : float32 (n_rows,) or (labels, n_rows)
        Finite; of several labels a row for each.
    weight : float32 (n_rows,) or None
        Finite, not negative, not all zero; None where the schema names none.
    warnings : tuple of str
        What is allowed but probably not meant, in sentences for the party's own eyes.
    base_margin : float32 (outputs, n_rows) or None
        Each row's margin before the first tree; None where the schema names none.
    dictionaries : mapping of str to tuple of str
        The party's own levels, sorted, of the features of `Schema.union`: what their codes stand for.
    subject : uint64 (n_rows,) or None
        A hash of whom or what each row is of; None where the schema names no id.
    facts : TableFacts
        What the warnings were made of, as far as the rows were read from a table.

    Examples
    --------
    >>> import numpy as np, hansa
    >>> hansa.Rows(np.zeros((2, 3), np.float32), np.array([0, 1, 0], np.float32), None).n_rows
    3
    """

    features: Array
    label: Array
    weight: Array | None
    warnings: tuple[str, ...] = ()
    base_margin: Array | None = None
    dictionaries: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    subject: Array | None = None
    facts: TableFacts = field(default=NO_FACTS, compare=False, repr=False)

    @property
    def n_rows(self) -> int:
        return int(self.label.shape[-1])

    @property
    def n_labels(self) -> int:
        """Numbers to predict for a row."""
        return 1 if self.label.ndim < 2 else len(self.label)

    @property
    def each_label(self) -> tuple[Array, ...]:
        """The labels one by one, float32 (n_rows,)."""
        return tuple(self.label) if self.label.ndim > 1 else (self.label,)

    @property
    def n_features(self) -> int:
        return len(self.features)

    @property
    def large(self) -> bool:
        """As `columns.Columns`."""
        return self.features.size >= LARGE_CELLS

    def groups(self) -> Iterator[tuple[int, Array]]:
        """As `columns.Columns`: all features at once."""
        yield 0, np.ascontiguousarray(self.features)

    def close(self) -> None:
        """As `columns.Columns`: nothing is open."""


@dataclass(frozen=True)
class SchemaViolation:
    """One way in which a table departs from its schema.

    Attributes:
        file: the table's path.
        row: first row concerned, from 1; None where the whole table or column is.
        column: column concerned; None where the whole table is.
        expected, found, cure: in plain words.
        n_rows: rows that depart in this way; 0 where the whole table or column does.
    """

    file: str
    row: int | None
    column: str | None
    expected: str
    found: str
    cure: str
    n_rows: int = 0

    def __str__(self) -> str:
        where = [self.file]
        where += [f"row {self.row}"] if self.row is not None else []
        where += [f"column {self.column!r}"] if self.column is not None else []
        others = f" (and {self.n_rows - 1} more rows)" if self.n_rows > 1 else ""
        return f"{', '.join(where)}: expected {self.expected}, found {self.found}{others}; {self.cure}"


@dataclass(frozen=True)
class ColumnSummary:
    """What one column holds; of a categorical one, its codes.

    Attributes:
        name: the column.
        missing: rows without a value.
        distinct: different values, missing not counted.
        rarest: rows of the value that the fewest rows share; 0 where no row has a value. 1 means that counts
            of single values, were they asked, would be counts of single rows.
        minimum, mean, maximum: of the values; NaN where there is none.
    """

    name: str
    missing: int
    distinct: int
    rarest: int
    minimum: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class CheckReport:
    """What `hansa check` says of a table. Made for the party's own eyes; nothing of it is sent.

    Attributes:
        file: the table's path.
        n_rows: its rows; 0 where it could not be read.
        violations: everything that `read_rows` would refuse, at most one for each column and rule.
        warnings: what is allowed but probably not meant.
        features: one summary for each feature that could be read.
        labels: summaries of the labels that could be read.
        label_kind: as asked.
        facts: what the warnings were made of.
    """

    file: str
    n_rows: int
    violations: tuple[SchemaViolation, ...]
    warnings: tuple[str, ...]
    features: tuple[ColumnSummary, ...]
    labels: tuple[ColumnSummary, ...]
    label_kind: LabelKind
    facts: TableFacts = field(default=NO_FACTS, compare=False, repr=False)

    @property
    def ok(self) -> bool:
        """Whether `read_rows` takes the table."""
        return not self.violations

    def text(self) -> str:
        """The report for a person to read."""
        violations = len(self.violations)
        refused = f"refused for {violations} schema violation{'s' if violations > 1 else ''}"
        outcome = "fits the schema" if self.ok else refused
        lines = [f"{self.file}: {self.n_rows} rows, {outcome}"]
        lines += [f"  refused: {violation}" for violation in self.violations]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        wrong = {violation.column for violation in self.violations}
        lines += [_label_line(label, self.label_kind) for label in self.labels if label.name not in wrong]
        if self.features and self.n_rows:
            lines.append(f"  {'feature':<28} {'missing':>8} {'distinct':>9} {'rarest value':>13}")
            lines += [
                f"  {f.name:<28} {f.missing / self.n_rows:>8.1%} {f.distinct:>9} {f'{f.rarest} rows':>13}"
                for f in self.features
            ]
        return "\n".join(lines)


def _label_line(label: ColumnSummary, kind: LabelKind) -> str:
    if kind == "binary":
        return f"  label {label.name!r}: {label.mean:.2%} ones"
    return f"  label {label.name!r}: {label.minimum:g} to {label.maximum:g}, mean {label.mean:g}"


def read_rows(path: Source, schema: Schema, *, label_kind: LabelKind) -> Rows:
    """Read a table that must have exactly the schema's columns, in any order, beside those that the schema ignores.

    Parameters
    ----------
    path : path
        A CSV, Parquet or Arrow file; or a folder of Parquet files, or a pattern such as "parts/*.parquet"; or a query over files
        or to a database (`hansa.data.query`).
    schema : Schema
    label_kind : {"binary", "numeric", "not negative", "positive", "above -1"} or int
        "binary" takes labels 0 and 1 (true and false) only, "numeric" any finite number, K whole numbers below K.

    Returns
    -------
    Rows

    Raises
    ------
    DataError
        Names file, row, column, what was expected and found, and the cure: unreadable or unknown file; no rows; missing, extra or
        repeated columns; text in a numeric column, or an unknown level in a categorical one; infinite or out of float32's range;
        missing or NaN label, weight or base margin; negative weight; all weights zero; a base margin beyond its limit; a row without
        the id that the schema names, or an id of another type than texts and whole numbers.

    Examples
    --------
    >>> import hansa, pathlib, tempfile
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "north.csv"
    >>> _ = table.write_text("load,fault\\n1.5,0\\n2.5,1\\n")
    >>> hansa.read_rows(table, hansa.Schema(("load",), "fault"), label_kind="binary").n_rows
    2
    """
    return read_part(path, schema, label_kind, in_part=False)


def read_part(path: Source, schema: Schema, label_kind: LabelKind, *, in_part: bool) -> Rows:
    """As `read_rows`. in_part: whether these are some rows of a table, to whose other rows `check_whole` holds them."""
    check_label_kind(label_kind)
    with open_table(path) as table:
        for violation in column_violations(table, schema):
            raise DataError(str(violation))
        dictionaries = dictionaries_of(table, schema, in_part=in_part)
        columns = load(table, schema, schema.values, dictionaries)
        for violation in value_violations(table, schema, columns, label_kind, 1, in_part=in_part):
            raise DataError(str(violation))
        facts = FactsReader(len(columns[schema.labels[0]].values))
        note_columns(facts, schema, columns, dictionaries)
        facts.take_merged(merged_values(table, columns, numeric(schema, columns), schema.decimal))
        subjects, of_ids = subjects_of(table, schema)
        if of_ids is not None:
            raise DataError(str(of_ids))
    n_rows = len(columns[schema.labels[0]].values)
    features = np.empty((len(schema.features), n_rows), dtype=np.float32)
    for index, name in enumerate(schema.features):
        features[index] = columns.pop(name).values  # let go of each column as soon as it is copied
    weight = None if schema.weight is None else columns[schema.weight].values
    margins = base_margin_of(columns, schema.base_margin)
    found = facts.facts()
    texts = found.texts(are_classes(label_kind))
    return Rows(features, label_of(columns, schema), weight, texts, margins, dictionaries, subjects, found)


def note_columns(
    facts: FactsReader,
    schema: Schema,
    columns: Mapping[str, Column],
    dictionaries: Mapping[str, Sequence[str]],
    first: int = 0,
) -> None:
    """Note the features, labels and weights among these columns, or blocks of them that begin at row `first`, from 0."""
    roles: dict[str | None, FactsRole] = {schema.weight: "weight"}
    roles |= dict.fromkeys(schema.features, "feature")
    roles |= dict.fromkeys(schema.labels, "label")
    for name in schema.values:
        if name in columns and name in roles:
            facts.take(name, columns[name].values, role=roles[name], first=first, levels=dictionaries.get(name))
            listed_levels = schema.classes if name in schema.labels else schema.levels.get(name, ())
            facts.note_levels(name, dictionaries.get(name, listed_levels), own=name in dictionaries)


def are_classes(label_kind: LabelKind) -> bool:
    """Whether labels of this kind are classes."""
    return label_kind == "binary" or isinstance(label_kind, int)


def subjects_of(table: OpenTable, schema: Schema) -> tuple[Array | None, SchemaViolation | None]:
    """The hashes of the rows' ids (`holdout.hash_subjects`), uint64 (n_rows,), where the schema names an id and the table has it; and
    what is wrong with it, or None. Ids are compared as texts, letter by letter; the database hashes them, so that none is kept.
    """
    if schema.id is None or schema.id not in table.places:
        return None, None
    place = table.places[schema.id]
    kind = table.types[place]
    if not is_text(kind) and kind not in WHOLE_TYPES:
        cure = "cast the column to texts or whole numbers, alike at every party: ids are compared letter by letter"
        found = f"the type {kind:.{SHOWN_CHARACTERS}}"
        return None, SchemaViolation(table.file, None, schema.id, "texts or whole numbers", found, cure)
    text = f"c{place}::VARCHAR"
    digits = f"('0x' || left(sha256({text}), 16))::UBIGINT"
    missing = f"{text} IS NULL OR {word(f'c{place}')} IN {MISSING_WORDS}"
    hashes = np.ma.asarray(table.fetch([f"CASE WHEN {missing} THEN NULL ELSE {digits} END"])[0])
    empty = np.ma.getmaskarray(hashes)
    if empty.any():
        row, count = int(empty.argmax()), int(np.count_nonzero(empty))
        cure = "fill it in, or drop the row: rows of one id are held out together"
        return None, SchemaViolation(*table.place(row), schema.id, "an id in every row", "a missing value", cure, count)
    return np.asarray(hashes.data, np.uint64), None


def label_of(columns: Mapping[str, Column], schema: Schema) -> Array:
    """The labels in these columns, float32 (n_rows,), or (labels, n_rows) of several."""
    found = [columns[name].values for name in schema.labels]
    return found[0] if len(found) == 1 else np.stack(found)


def base_margin_of(columns: Mapping[str, Column], names: Sequence[str]) -> Array | None:
    """The base margins in these columns, float32 (outputs, n_rows); None where there are none."""
    return np.stack([columns[name].values for name in names]) if names else None


def _levels(schema: Schema) -> dict[str, tuple[Level, ...]]:
    """The levels of every column that is read as codes: of features the categorical ones, and a label of texts."""
    return {**schema.levels, **(dict.fromkeys(schema.labels, schema.classes) if schema.classes else {})}


def load(
    table: OpenTable, schema: Schema, names: Sequence[str], dictionaries: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Column]:
    """These columns of the schema, as far as the table has them once.

    dictionaries: as `dictionaries_of` finds them, where the table is a block of a larger one.
    """
    levels = {**_levels(schema), **(dictionaries_of(table, schema, names) if dictionaries is None else dictionaries)}
    wanted = {name: levels.get(name, ()) for name in names}
    return load_columns(table, wanted, schema.decimal, schema.labels, schema.date_columns)


def dictionaries_of(
    table: OpenTable, schema: Schema, names: Sequence[str] | None = None, *, in_part: bool = False
) -> dict[str, tuple[str, ...]]:
    """The table's own levels, sorted, of the features whose levels no plan lists, of those among `names`.

    in_part: whether this is a part of a table, in which such a column may hold no text.

    Raises DataError where such a column holds no texts, or no text at all.
    """
    found = {}
    for name in schema.union:
        if (names is not None and name not in names) or name not in table.places:
            continue
        place = table.places[name]
        kind = table.types[place]
        if not is_text(kind):
            expected, cure = (
                "texts, whose union all parties take",
                "cast the column to texts, or list its levels in the plan",
            )
            raise DataError(str(SchemaViolation(table.file, None, name, expected, f"the type {kind:.60}", cure)))
        cells = np.ma.asarray(table.fetch([f"DISTINCT c{place}::VARCHAR"])[0])
        texts = {str(text) for text in set(cells.compressed().tolist()) if text is not None}
        levels = tuple(sorted(text for text in texts if text.strip(SPACES).lower() not in MISSING_WORDS))
        if not levels and not in_part:
            raise DataError(str(_no_text(table.file, name)))
        found[name] = levels
    return found


def numeric(schema: Schema, columns: Mapping[str, Column]) -> list[str]:
    """The columns of numbers among those that were loaded; numbers made of dates are small."""
    levels = _levels(schema)
    return [
        name for name in schema.values if name in columns and name not in {*levels, *dict(schema.dates), *schema.union}
    ]


def check_rows(path: Source, schema: Schema, *, label_kind: LabelKind) -> CheckReport:
    """Say where a table violates the schema, and what it holds. Never raises for what is in the file.

    Parameters
    ----------
    path : path
    schema : Schema
    label_kind : {"binary", "numeric", "not negative", "positive", "above -1"} or int
        As for `read_rows`.

    Returns
    -------
    CheckReport
        `ok`, and `text()` with one line for each violation.

    Raises
    ------
    DataError
        The file cannot be read as a table at all.

    Examples
    --------
    >>> import hansa, pathlib, tempfile
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "north.csv"
    >>> _ = table.write_text("load,fault\\n1.5,maybe\\n")
    >>> hansa.check_rows(table, hansa.Schema(("load",), "fault"), label_kind="binary").ok
    False
    """
    check_label_kind(label_kind)
    return report_of(open_table(path), schema, label_kind)


def report_of(table: OpenTable, schema: Schema, label_kind: LabelKind) -> CheckReport:
    """`check_rows` of an open table, which is closed."""
    with table:
        violations = list(column_violations(table, schema))
        of_ids = subjects_of(table, schema)[1]
        violations += [] if of_ids is None else [of_ids]
        names = [name for name in schema.values if schema.date_columns.get(name, ("", name))[1] in table.places]
        # A large table is looked at one column at a time; of other files that would be many scans.
        by_column = table.is_parquet and table.count_rows() * len(names) >= LARGE_CELLS
        facts: FactsReader | None = None
        summaries: dict[str, ColumnSummary] = {}
        n_rows = 0
        for batch in [[name] for name in names] if by_column else [names]:
            own_levels = dictionaries_of(table, schema, batch)
            columns = load(table, schema, batch, own_levels)
            violations += value_violations(table, schema, columns, label_kind)
            n_rows = len(next(iter(columns.values())).values) if columns else 0
            facts = FactsReader(n_rows) if facts is None else facts
            sound = {name: column for name, column in columns.items() if not column.bad.any()}
            note_columns(facts, schema, sound, own_levels)
            facts.take_merged(merged_values(table, columns, numeric(schema, columns), schema.decimal))
            summaries |= {
                name: summarize(name, columns[name]) for name in columns if name in (*schema.features, *schema.labels)
            }
    features = tuple(summaries[name] for name in schema.features if name in summaries)
    labels = tuple(summaries[name] for name in schema.labels if name in summaries)
    found = NO_FACTS if facts is None else facts.facts()
    texts = found.texts(are_classes(label_kind))
    return CheckReport(table.file, n_rows, tuple(violations), texts, features, labels, label_kind, found)


def check_label_kind(label_kind: LabelKind) -> None:
    """Refuse a kind of label that there is not. Raises PlanError."""
    words = ("binary", "numeric", "not negative", "positive", "above -1")
    if label_kind not in words and not (isinstance(label_kind, int) and label_kind > 1):
        raise PlanError(
            f"label_kind: expected {', '.join(map(repr, words))} or a number of classes, found {label_kind!r}"
        )


# --- loading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Column:
    """A column as float32 (n_rows,), NaN = missing. `bad` marks cells that are no float32 number, or none of the levels."""

    values: Array
    bad: Array


def load_columns(
    table: OpenTable,
    levels: Mapping[str, tuple[Level, ...]],
    decimal: str,
    labels: Sequence[str] = (),
    dates: Mapping[str, tuple[str, str]] = MappingProxyType({}),
) -> dict[str, Column]:
    """The columns that `levels` names and the table has exactly once: of a column without levels its numbers, of
    another its codes. `labels` are the columns whose levels are classes, which truth values may stand for.

    Args:
        dates: by name, the rule and the column of what is made of a date.
    """
    places = table.places
    wanted = [name for name in levels if (dates[name][1] if name in dates else name) in places]
    if not wanted:
        return {}
    expressions: list[str] = []
    marks: list[tuple[Level, ...] | None] = []
    for name in wanted:
        if name in dates:
            rule, source = dates[name]
            expressions.append(date_number(f"c{places[source]}", table.types[places[source]], rule))
            marks.append(None)
            continue
        column, kind, own = f"c{places[name]}", table.types[places[name]], levels[name]
        typed_class = name in labels and kind == "BOOLEAN"
        marks.append(None if typed_class or not own else own)
        if typed_class and own:
            expressions.append(_truth_as_code(column, own))
        elif own:
            expressions.append(_as_code(table, places[name], own, decimal))
        else:
            expressions.append(number(column, kind, "FLOAT", decimal, table.odd))
    fetched = table.fetch(expressions, marks)
    columns = {}
    for index, name in enumerate(wanted):
        values, fetched[index] = fetched[index], None
        bad = np.ma.getmaskarray(values)
        columns[name] = Column(np.ma.filled(values, np.nan).astype(np.float32, copy=False), bad)
    return columns


def load_doubles(table: OpenTable, names: Sequence[str], decimal: str) -> dict[str, np.ma.MaskedArray[Any, Any]]:
    """The numbers of these columns as float64 (n_rows,), NaN = missing, masked where a cell is none."""
    if not names:
        return {}
    places = table.places
    numbers = [number(f"c{places[name]}", table.types[places[name]], "DOUBLE", decimal, table.odd) for name in names]
    return {name: np.ma.asarray(values) for name, values in zip(names, table.fetch(numbers), strict=True)}


def _as_code(table: OpenTable, index: int, levels: tuple[Level, ...], decimal: str) -> str:
    """SQL for column `index` with one mark, which the levels fill: a level's place, NaN where missing, NULL where the cell is none."""
    column = f"c{index}"
    if isinstance(levels[0], int):
        value = number(column, table.types[index], "DOUBLE", decimal, table.odd)
        return f"CASE WHEN isnan({value}) THEN 'nan'::FLOAT ELSE (NULLIF(list_position(?::DOUBLE[], {value}), 0) - 1)::FLOAT END"
    text = f"{column}::VARCHAR"
    return (
        f"COALESCE((NULLIF(list_position(?::VARCHAR[], {text}), 0) - 1)::FLOAT, "
        f"CASE WHEN {text} IS NULL OR {word(column)} IN {MISSING_WORDS} THEN 'nan'::FLOAT END)"
    )


def _truth_as_code(column: str, classes: tuple[Level, ...]) -> str:
    """SQL for a column of truth values that is a label of these classes: NaN where missing, NULL where no class is meant.

    Classes that are called true and false say which is which. Of two others false is the first one, as 0 is.
    """
    names = [str(name).lower() for name in classes]
    places = {truth: names.index(truth) for truth in ("false", "true") if names.count(truth) == 1}
    if not {"false", "true"} & {*names} and len(names) == 2:
        places = {"false": 0, "true": 1}
    cases = "".join(f" WHEN {column} = {truth} THEN {place}::FLOAT" for truth, place in places.items())
    return f"CASE WHEN {column} IS NULL THEN 'nan'::FLOAT{cases} END"


# --- rules -------------------------------------------------------------------------------------------------

Role = Literal["feature", "label", "weight", "base margin"]


@dataclass(frozen=True)
class Broken:
    """A rule that a column breaks: the first row (from 0), how many rows, what was expected, the cure."""

    name: str
    row: int
    n_rows: int
    expected: str
    cure: str
    is_number: bool = False
    """Whether a number was expected: then the cure depends on the cell."""
    rule: int = 0
    """Of a column's rules, in their order."""


def repeated_columns(table: OpenTable) -> Iterator[SchemaViolation]:
    """Every name that more than one column has."""
    for name, count in Counter(table.names).items():
        if count > 1:
            places = [place for place, own in enumerate(table.names, 1) if own == name]
            found = f"{count} columns, numbers {listed(places)}"
            cure = "rename or drop the others" if name else "name them or drop them"
            yield SchemaViolation(table.file, None, name, "one column of this name", found, cure)


def nearly(name: str, names: Iterable[str]) -> str | None:
    """The name among `names` that differs by spaces or capitals only; None where there is none."""
    return next((own for own in names if own != name and plain_form(own) == plain_form(name)), None)


def column_violations(table: OpenTable, schema: Schema) -> Iterator[SchemaViolation]:
    """Columns that the schema has and the table has not, or the other way round, or twice."""
    has, wanted = set(table.names), set(schema.columns)
    for name in schema.columns:
        if name not in has:
            near = nearly(name, (own for own in table.names if own not in wanted))
            cure = "add the column, or leave it out of every member's schema"
            if near is not None:
                cure = f"rename the column {near!r}, which differs by spaces or capitals only"
            yield SchemaViolation(
                table.file, None, name, "a column of this name", f"columns {listed(table.names)}", cure
            )
    repeated = {violation.column: violation for violation in repeated_columns(table)}
    for name in dict.fromkeys(table.names):
        if name in repeated:
            yield repeated[name]
        elif name not in wanted and name not in schema.ignore:
            expected = f"only the schema's columns {listed(schema.columns)}"
            near = nearly(name, (own for own in schema.columns if own not in has))
            cure = "drop the column, or name it in the schema (in `ignore` where it is not to be read)"
            if near is not None:
                cure = f"rename it to {near!r}, which differs by spaces or capitals only"
            yield SchemaViolation(table.file, None, name, expected, "one more", cure)


def value_violations(
    table: OpenTable,
    schema: Schema,
    columns: dict[str, Column],
    label_kind: LabelKind,
    most: int | None = None,
    *,
    in_part: bool = False,
) -> list[SchemaViolation]:
    """At most `most` schema violations, in the schema's order. in_part: as for `read_part`."""
    if columns and not len(next(iter(columns.values())).values):
        return [no_rows(table)]
    found = describe(table, broken_of(schema, columns, label_kind)[:most], schema.decimal)
    if schema.weight in columns and len(found) != most and not in_part:
        found += only_zeros(table, schema.weight, columns[schema.weight].values)
    return found


def broken_of(schema: Schema, columns: Mapping[str, Column], label_kind: LabelKind) -> list[Broken]:
    """The rules that these columns break, in the schema's order."""
    roles: dict[str | None, Role] = dict.fromkeys(schema.base_margin, "base margin")
    roles |= dict.fromkeys(schema.labels, "label")
    roles[schema.weight] = "weight"
    levels = _levels(schema)
    broken: list[Broken] = []
    dates = schema.date_columns
    for name in schema.values:
        if name in dates and name in columns:
            broken += broken_dates(dates[name][1], columns[name])
        elif name in columns:
            broken += broken_rules(
                name, columns[name], roles.get(name, "feature"), label_kind, levels.get(name), schema.base_margin_limit
            )
    return list(dict.fromkeys(broken))


def joined(blocks: Iterable[tuple[int, Sequence[Broken]]]) -> list[Broken]:
    """The rules that one column breaks, in their order, from those that its blocks break; of each block its first row too."""
    found: dict[int, Broken] = {}
    for first, broken in blocks:
        for own in broken:
            before = found.get(own.rule, replace(own, row=first + own.row, n_rows=0))
            found[own.rule] = replace(before, n_rows=before.n_rows + own.n_rows)
    return [found[rule] for rule in sorted(found)]


def no_rows(table: OpenTable) -> SchemaViolation:
    """The schema violation of a table that has none."""
    return SchemaViolation(table.file, None, None, "at least one row", "no rows", "give a table with rows")


def only_zeros(table: OpenTable, name: str, weights: Array) -> list[SchemaViolation]:
    """The schema violation of weights, float32 (n_rows,), that are all 0."""
    return [] if weights.any() else [_zeros(table.file, name)]


def _zeros(file: str, name: str) -> SchemaViolation:
    expected, cure = "a positive weight in some row", "write weights, or name no weight column"
    return SchemaViolation(file, None, name, expected, "only zeros", cure)


def _no_text(file: str, name: str) -> SchemaViolation:
    cure = "leave the feature out of the plan, or list its levels there"
    return SchemaViolation(file, None, name, "a text in some row", "none", cure)


def check_whole(file: str, schema: Schema, facts: TableFacts, levels: Mapping[str, Sequence[str]]) -> None:
    """Hold a table that was read in parts to what only all its rows together tell.

    Args:
        file: the table, for the error. facts, levels: of all its parts; levels of the features of `Schema.union`.

    Raises DataError: as `read_rows`.
    """
    for name in schema.union:
        if not levels[name]:
            raise DataError(str(_no_text(file, name)))
    if schema.weight is not None and facts.lacks_weights:
        raise DataError(str(_zeros(file, schema.weight)))


Rule = tuple[Array, str, str]
"""Rows that break it (bool), what was expected, the cure."""


def broken_rules(
    name: str,
    column: Column,
    role: Role,
    label_kind: LabelKind,
    levels: tuple[Level, ...] | None = None,
    limit: float = math.inf,
) -> Iterator[Broken]:
    """The rules that a column breaks, one for each rule. `limit`: of base margins."""
    rules = list(_number_rules(column, role)) if levels is None else [_level_rule(column, levels, role)]
    rules += role_rules(role, column, label_kind, limit)
    for place, (rows, expected, cure) in enumerate(rules):
        if rows.any():
            yield Broken(
                name,
                int(rows.argmax()),
                int(np.count_nonzero(rows)),
                expected,
                cure,
                levels is None and place == 0,
                place,
            )


def broken_dates(name: str, column: Column) -> Iterator[Broken]:
    """The rule that a column `name` of dates breaks, if it does; `column` is what was made of it."""
    if column.bad.any():
        rows = int(column.bad.argmax()), int(np.count_nonzero(column.bad))
        yield Broken(name, *rows, A_DATE, "write it so, or leave the cell empty where the value is missing")


def _number_rules(column: Column, role: Role) -> Iterator[Rule]:
    cure = "write a number"
    if role == "feature":
        cure = (
            "leave the cell empty where the value is missing; write numbers in place of texts, or list the texts as levels "
            "([categories] in the plan)"
        )
    if role == "label":
        cure = "write the label as a number; two classes such as yes and no as 1 and 0, or name them as schema.classes in the plan"
    yield column.bad, A_NUMBER if role == "feature" else "a number in every row", cure
    yield np.isinf(column.values), "a finite number", "write a finite number, or leave a feature empty"
    yield (
        np.abs(column.values) == np.finfo(np.float32).max,
        "a number below 3.4028235e38 (which means `above all` in a model)",
        "write a smaller number, or leave a feature empty",
    )


def _level_rule(column: Column, levels: tuple[Level, ...], role: Role) -> Rule:
    some = ", ".join(map(repr, levels[:SHOWN_LEVELS])) + (", ..." if len(levels) > SHOWN_LEVELS else "")
    if role == "label":
        cure = (
            "write one of them, letter by letter, or change schema.classes in the plan, which all members must agree on"
        )
        return column.bad, f"one of the {len(levels)} classes {some}", cure
    cure = "mend the cell, or add its value to [categories] in the plan, which all members must agree on"
    return column.bad, f"one of the plan's {len(levels)} levels {some}, or empty for missing", cure


def role_rules(role: Role, column: Column, label_kind: LabelKind, limit: float = math.inf) -> Iterator[Rule]:
    """What a column of labels, weights or base margins must keep to beside being numbers. `limit`: of base margins."""
    if role == "feature":
        return
    values = column.values
    yield np.isnan(values) & ~column.bad, f"a {role} in every row", f"drop the rows without {role}"
    if role == "weight":
        yield (values < 0) & np.isfinite(values), "a weight of 0 or more", "write a weight of 0 or more"
    elif role == "base margin":
        yield (
            np.isfinite(values) & (np.abs(values) > limit),
            f"a base margin of at most {limit:g} in size",
            "mend the cell, or give a higher schema.base_margin_limit in the plan, which all members must agree on",
        )
    elif label_kind == "binary":
        yield (
            np.isfinite(values) & (values != 0) & (values != 1),
            "label 0 or 1",
            "code the two classes as 0 and 1 (for other numbers take objective reg:squarederror, for classes 0, 1, 2, ... "
            "multi:softprob and num_class)",
        )
    elif label_kind == "not negative":
        yield (
            np.isfinite(values) & (values < 0),
            "a label of 0 or more",
            "write a count or an amount of 0 or more, drop the row, or take objective reg:squarederror",
        )
    elif label_kind == "positive":
        yield (
            np.isfinite(values) & (values <= 0),
            "a label above 0",
            "write an amount above 0, drop the row, or take objective reg:tweedie, which takes 0 too",
        )
    elif label_kind == "above -1":
        yield (
            np.isfinite(values) & (values <= -1),
            "a label above -1",
            "write a number above -1, drop the row, or take objective reg:squarederror",
        )
    elif isinstance(label_kind, int):
        yield (
            np.isfinite(values) & ~np.isin(values, np.arange(label_kind)),
            f"a class, a whole number from 0 to {label_kind - 1}",
            f"code the {label_kind} classes as 0 to {label_kind - 1}",
        )


def describe(table: OpenTable, broken: Sequence[Broken], decimal: str) -> list[SchemaViolation]:
    """The schema violations with their cells, which are fetched together."""
    places = table.places
    cells = table.cells([(places[rule.name], rule.row) for rule in broken])
    violations = []
    for rule, cell in zip(broken, cells, strict=True):
        found, cure = "a missing value" if cell is None else repr(cell[:SHOWN_CHARACTERS]), rule.cure
        kind = table.types[places[rule.name]]
        if rule.is_number and cell is not None and (is_text(kind) or is_numeric(kind)):
            masked = disguise(cell, decimal) or with_unit(cell)
            if masked is None and rule.expected == A_NUMBER:  # a label has a cure of its own
                masked = truth_in_words(cell)
            if masked is not None:
                found, cure = f"{found} ({masked.what})", masked.cure
        elif rule.is_number:
            found, cure = f"{found} (of type {kind[:SHOWN_CHARACTERS]})", "cast the column to numbers"
        violations.append(SchemaViolation(*table.place(rule.row), rule.name, rule.expected, found, cure, rule.n_rows))
    return violations


# --- what float32 cannot hold ------------------------------------------------------------------------------

_EXACT_TYPES = ("BOOLEAN", "TINYINT", "SMALLINT", "UTINYINT", "USMALLINT", "FLOAT")
_EXACT_END = 2.0**24
_FEW_STEPS = 2.0**16
_MOST_MERGED = 0.1


def merged_values(
    table: OpenTable,
    columns: Mapping[str, Column],
    names: Iterable[str],
    decimal: str,
    whole: OpenTable | None = None,
    first: int = 0,
) -> list[Merged]:
    """Those of these columns of numbers whose values float32 cannot hold apart; at most one scan more.

    These are columns with numbers beyond 2^24 that float32 rounds, such as identifiers and time stamps, and columns whose range is
    so narrow beside their size that a tenth of their different values become equal.

    Args:
        whole: where the table is a block of a larger one, that one; the block begins at its row `first`, from 0.
    """
    places = table.places
    suspects = [
        name for name in names if table.types[places[name]] not in _EXACT_TYPES and _may_be_coarse(columns[name].values)
    ]
    doubles = load_doubles(table, suspects, decimal)
    found = []
    for name in suspects:
        own = _merged(whole or table, name, np.ma.filled(doubles[name], np.nan), first)
        found += [] if own is None else [own]
    return found


def _may_be_coarse(values: Array) -> bool:
    if not len(values):
        return False
    low, high = float(np.fmin.reduce(values)), float(np.fmax.reduce(values))
    if not (np.isfinite(low) and np.isfinite(high)):
        return bool(np.isfinite(values).any())
    largest = max(abs(low), abs(high))
    return bool(largest >= _EXACT_END or high - low < _FEW_STEPS * np.spacing(np.float32(largest)))


def _merged(table: OpenTable, name: str, values: Array, begins: int) -> Merged | None:
    with np.errstate(over="ignore", under="ignore"):
        finite = np.abs(values) < np.finfo(np.float32).max
        exact = values[finite]
        rounded = exact.astype(np.float32)
    # float64 itself holds whole numbers up to 2^53 only.
    changed = (rounded != exact) | (np.abs(exact) >= 2.0**53)
    distinct = len(np.unique(exact))
    merged = distinct - len(np.unique(rounded))
    if not (changed & (np.abs(exact) > _EXACT_END)).any() and merged <= _MOST_MERGED * distinct:
        return None
    first = int(changed.argmax())
    beyond = "lies beyond 2^53, where float64 skips whole numbers too"
    became = f"becomes {_shortest(rounded[first])}" if rounded[first] != exact[first] else beyond
    file, row = table.place(begins + int(np.flatnonzero(finite)[first]))
    where = f"row {row} of {file}" if table.parts else f"row {row}"
    return Merged(name, f"{_shortest(exact[first])} in {where} {became}", merged, distinct, len(values))


def _shortest(value: Any) -> str:
    """A float in as few digits as give it back, without an exponent where it is whole."""
    return repr(float(value)).removesuffix(".0")


# --- the report --------------------------------------------------------------------------------------------


def summarize(name: str, column: Column) -> ColumnSummary:
    values = column.values[np.isfinite(column.values)].astype(np.float64)
    missing = int(np.count_nonzero(np.isnan(column.values) & ~column.bad))
    if not len(values):
        return ColumnSummary(name, missing, 0, 0, np.nan, np.nan, np.nan)
    counts = np.unique(values, return_counts=True)[1]
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    return ColumnSummary(name, missing, len(counts), int(counts.min()), low, mean, high)
