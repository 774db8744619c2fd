"""A party's rows, read from its own file and held to the schema.

DuckDB reads CSV (plain or .gz) and Parquet; pyarrow reads Arrow IPC and Feather. `_OPENERS` maps a file's
ending to the function that opens it; a source that a party describes in SQL will be one more way to make a
`_Table`.

Every cell of a CSV file is read as text and cast here, so that its meaning never depends on which rows were
sampled to guess a type. Columns are addressed by position: names and paths from outside never become part of
a statement. Rows are numbered from 1, the header not counted.

Missing: an empty cell, or NA, NaN or null in any case (CSV); null or NaN (Parquet, Arrow). true and false
are 1 and 0.

A categorical column is read as its levels, and becomes codes: texts are compared letter by letter, numbers as numbers. Texts that
mean a missing value in a CSV file do so in every file.
"""

from __future__ import annotations

import csv
import gzip
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import duckdb
import numpy as np
from numpy.typing import NDArray

from hansa.data.schema import MISSING_WORDS, Level, Schema
from hansa.errors import DataError, PlanError

Array = NDArray[Any]
LabelKind = Literal["binary", "numeric"] | int
"""Labels 0 and 1; any finite number; or, as a number K, the classes 0 to K - 1."""

_NUMERIC = re.compile(r"U?(TINYINT|SMALLINT|INTEGER|BIGINT|HUGEINT)|FLOAT|DOUBLE|BOOLEAN|DECIMAL\(.*\)")
_DELIMITERS = ",;\t|"

SHOWN_LEVELS = 5
"""Levels that an error lists."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One party's rows. Never leaves the party.

    Attributes:
        features: float32 (n_features, n_rows), C-contiguous, finite or NaN for missing; codes of a categorical feature.
        label: float32 (n_rows,), finite.
        weight: float32 (n_rows,), finite, not negative, not all zero; None where the schema names none.
    """

    features: Array
    label: Array
    weight: Array | None

    @property
    def n_rows(self) -> int:
        return len(self.label)


@dataclass(frozen=True)
class Departure:
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
        departures: everything that `read_rows` would refuse, at most one for each column and rule.
        warnings: what is allowed but probably not meant.
        features: one summary for each feature that could be read.
        label: summary of the label, or None where it could not be read.
        label_kind: as asked.
    """

    file: str
    n_rows: int
    departures: tuple[Departure, ...]
    warnings: tuple[str, ...]
    features: tuple[ColumnSummary, ...]
    label: ColumnSummary | None
    label_kind: LabelKind

    @property
    def ok(self) -> bool:
        """Whether `read_rows` takes the table."""
        return not self.departures

    def text(self) -> str:
        """The report for a person to read."""
        departures = len(self.departures)
        refused = f"refused for {departures} departure{'s' if departures > 1 else ''} from the schema"
        verdict = "fits the schema" if self.ok else refused
        lines = [f"{self.file}: {self.n_rows} rows, {verdict}"]
        lines += [f"  refused: {departure}" for departure in self.departures]
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [_label_line(self.label, self.label_kind)] if self.label is not None else []
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


def read_rows(path: str | Path, schema: Schema, *, label_kind: LabelKind) -> Rows:
    """Read a table that must have exactly the schema's columns, in any order.

    `label_kind` "binary" takes labels 0 and 1 (true and false) only, "numeric" any finite number, K whole numbers below K.

    Raises DataError naming file, row, column, what was expected and found, and the cure: unreadable or
        unknown file; no rows;
    missing, extra or repeated columns; text in a numeric column, or what is no level in a categorical one; infinite or out of
    float32's range; missing or NaN label or weight; negative weight; all weights zero.
    """
    _check_label_kind(label_kind)
    table = _open(Path(path))
    for departure in _column_departures(table, schema):
        raise DataError(str(departure))
    columns = _load(table, schema)
    for departure in _value_departures(table, schema, columns, label_kind):
        raise DataError(str(departure))
    n_rows = len(columns[schema.label].values)
    features = np.empty((len(schema.features), n_rows), dtype=np.float32)
    for index, name in enumerate(schema.features):
        features[index] = columns.pop(name).values  # let go of each column as soon as it is copied
    weight = None if schema.weight is None else columns[schema.weight].values
    return Rows(features, columns[schema.label].values, weight)


def check_rows(path: str | Path, schema: Schema, *, label_kind: LabelKind) -> CheckReport:
    """Say where a table departs from the schema, and what it holds. Never raises for what is in the file.

    Raises DataError only where the file cannot be read as a table at all.
    """
    _check_label_kind(label_kind)
    table = _open(Path(path))
    departures = list(_column_departures(table, schema))
    columns = _load(table, schema)
    departures += _value_departures(table, schema, columns, label_kind)
    features = tuple(_summary(name, columns[name]) for name in schema.features if name in columns)
    label = _summary(schema.label, columns[schema.label]) if schema.label in columns else None
    n_rows = len(next(iter(columns.values())).values) if columns else 0
    warnings = tuple(_warnings(features, label, n_rows, label_kind))
    return CheckReport(table.file, n_rows, tuple(departures), warnings, features, label, label_kind)


def _check_label_kind(label_kind: LabelKind) -> None:
    if label_kind not in ("binary", "numeric") and not (isinstance(label_kind, int) and label_kind > 1):
        raise PlanError(f"label_kind: expected 'binary', 'numeric' or a number of classes, found {label_kind!r}")


# --- opening -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Table:
    """An open table. `relation` stands after FROM, has columns c0, c1, ...; `parameters` fill its marks."""

    file: str
    names: tuple[str, ...]
    types: tuple[str, ...]
    is_text: bool
    connection: duckdb.DuckDBPyConnection
    relation: str
    parameters: tuple[str, ...]

    def fetch(
        self, selection: str, end: str = "", parameters: Sequence[Sequence[Level]] = ()
    ) -> duckdb.DuckDBPyConnection:
        """`parameters` fill the marks of the selection."""
        filled = [*map(list, parameters), *self.parameters]
        try:
            return self.connection.execute(f"SELECT {selection} FROM {self.relation} {end}", filled)
        except duckdb.Error as error:
            raise _unreadable(self.file, error) from error


def _open(path: Path) -> _Table:
    if not path.is_file():
        raise DataError(f"{path}: expected a file, found none; check the path")
    for ending, opener in _OPENERS.items():
        if path.name.lower().endswith(ending):
            try:
                return opener(path)
            except (duckdb.Error, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
                raise _unreadable(str(path), error) from error
    raise DataError(
        f"{path}: expected a file ending in one of {', '.join(_OPENERS)}, "
        f"found {path.suffix or 'no ending'!r}; write the table in one of these formats"
    )


def _unreadable(file: str, error: Exception) -> DataError:
    reason = " ".join(str(error).split("Possible fixes")[0].split())
    return DataError(f"{file}: expected a readable table, found: {reason}; repair the file or write it again")


def _connect() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(
        ":memory:", config={"autoinstall_known_extensions": False, "autoload_known_extensions": False}
    )


def _literal(path: Path) -> str:
    # DuckDB takes * ? [ in a path for patterns; in brackets they stand for themselves.
    return re.sub(r"[*?\[]", lambda match: f"[{match.group()}]", str(path.resolve()))


def _aliases(n_columns: int) -> str:
    return ", ".join(f"c{index}" for index in range(n_columns))


def _open_csv(path: Path) -> _Table:
    names, delimiter = _read_header(path)
    columns = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(len(names)))
    compression = "gzip" if path.name.lower().endswith(".gz") else "none"
    relation = (
        f"read_csv(?, delim = '{delimiter}', quote = '\"', escape = '\"', header = true, "
        f"auto_detect = false, columns = {{{columns}}}, compression = '{compression}', "
        "hive_partitioning = false)"
    )
    types = ("VARCHAR",) * len(names)
    return _Table(str(path), names, types, True, _connect(), relation, (_literal(path),))


def _read_header(path: Path) -> tuple[tuple[str, ...], str]:
    opened = gzip.open if path.name.lower().endswith(".gz") else open
    with opened(path, "rt", encoding="utf-8-sig", newline="") as lines:
        first = lines.readline()
    unquoted = re.sub(r'"[^"]*"', "", first)
    delimiter = max(_DELIMITERS, key=unquoted.count)
    names = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    if not names:
        raise DataError(f"{path}: expected a header line with column names, found none; write one")
    return tuple(names), delimiter


def _open_parquet(path: Path) -> _Table:
    connection, literal = _connect(), _literal(path)
    names = _parquet_names(connection, literal)
    relation = f"read_parquet(?, hive_partitioning = false) AS t({_aliases(len(names))})"
    described = connection.execute(f"DESCRIBE SELECT * FROM {relation}", [literal]).fetchall()
    types = tuple(str(row[1]) for row in described)
    return _Table(str(path), names, types, False, connection, relation, (literal,))


def _parquet_names(connection: duckdb.DuckDBPyConnection, literal: str) -> tuple[str, ...]:
    # The schema as written, depth first: DuckDB's own listing would rename repeated columns.
    elements = connection.execute("SELECT name, num_children FROM parquet_schema(?)", [literal]).fetchall()
    names, nested = [], 0
    for name, children in elements[1:]:
        if nested == 0:
            names.append(str(name))
        nested = max(nested - 1, 0) + (children or 0)
    return tuple(names)


def _open_arrow(path: Path) -> _Table:
    try:
        import pyarrow as pa
        from pyarrow import feather, ipc
    except ImportError as error:
        raise DataError(
            f"{path}: reading Arrow files needs the package pyarrow, which is missing; "
            "install it with: pip install 'hansa[arrow]'"
        ) from error
    try:
        with path.open("rb") as file:
            # Arrow streams begin without the magic bytes of Arrow and Feather files.
            is_file = file.read(4) in (b"ARRO", b"FEA1")
            file.seek(0)
            table = feather.read_table(path) if is_file else ipc.open_stream(file).read_all()
        names = tuple(table.column_names)
        table = table.rename_columns([f"c{index}" for index in range(len(names))])
        halves = [pa.float32() if pa.types.is_float16(field.type) else field.type for field in table.schema]
        table = table.cast(
            pa.schema([pa.field(field.name, to) for field, to in zip(table.schema, halves, strict=True)])
        )
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(str(path), error) from error
    connection = _connect()
    connection.register("arrow_table", table)
    described = connection.execute("DESCRIBE SELECT * FROM arrow_table").fetchall()
    types = tuple(str(row[1]) for row in described)
    return _Table(str(path), names, types, False, connection, "arrow_table", ())


_OPENERS: dict[str, Callable[[Path], _Table]] = {
    ".csv": _open_csv,
    ".csv.gz": _open_csv,
    ".parquet": _open_parquet,
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
}


# --- loading -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Column:
    """A column as float32 (n_rows,), NaN = missing. `bad` marks cells that are no float32 number, or none of the levels."""

    values: Array
    bad: Array


def _load(table: _Table, schema: Schema) -> dict[str, _Column]:
    """The schema's columns that the table has exactly once."""
    wanted = [name for name in schema.columns if table.names.count(name) == 1]
    if not wanted:
        return {}
    levels = [schema.levels.get(name, ()) for name in wanted]
    expressions = [
        _as_code(table, table.names.index(name), own) if own else _as_number(table, table.names.index(name), "FLOAT")
        for name, own in zip(wanted, levels, strict=True)
    ]
    selection = ", ".join(f"{e} AS v{i}" for i, e in enumerate(expressions))
    fetched = table.fetch(selection, parameters=[own for own in levels if own]).fetchnumpy()
    columns = {}
    for index, name in enumerate(wanted):
        values = fetched.pop(f"v{index}")
        bad = np.ma.getmaskarray(values)
        columns[name] = _Column(np.ma.filled(values, np.nan).astype(np.float32, copy=False), bad)
    return columns


def _as_number(table: _Table, index: int, kind: Literal["FLOAT", "DOUBLE"]) -> str:
    """SQL for column `index`: a number, NaN where missing, NULL where the cell is no float32 number (or double).

    Through double, since that is what other readers round from.
    """
    column = f"c{index}"
    number = f"TRY_CAST(TRY_CAST({column} AS DOUBLE) AS {kind})"
    if table.is_text:
        return (
            f"COALESCE({number}, CASE WHEN {column} IS NULL THEN 'nan'::{kind} ELSE "
            f"CASE lower(trim({column})) WHEN '' THEN 'nan'::{kind} WHEN 'na' THEN 'nan'::{kind} "
            f"WHEN 'null' THEN 'nan'::{kind} WHEN 'true' THEN 1::{kind} WHEN 'false' THEN 0::{kind} END END)"
        )
    missing = f"CASE WHEN {column} IS NULL THEN 'nan'::{kind} END"
    return f"COALESCE({number}, {missing})" if _NUMERIC.fullmatch(table.types[index]) else missing


def _as_code(table: _Table, index: int, levels: tuple[Level, ...]) -> str:
    """SQL for column `index` with one mark, which the levels fill: a level's place, NaN where missing, NULL where the cell is none."""
    if isinstance(levels[0], int):
        value = _as_number(table, index, "DOUBLE")
        return f"CASE WHEN isnan({value}) THEN 'nan'::FLOAT ELSE (NULLIF(list_position(?::DOUBLE[], {value}), 0) - 1)::FLOAT END"
    text = f"c{index}::VARCHAR"
    return (
        f"COALESCE((NULLIF(list_position(?::VARCHAR[], {text}), 0) - 1)::FLOAT, "
        f"CASE WHEN {text} IS NULL OR lower(trim({text})) IN {MISSING_WORDS} THEN 'nan'::FLOAT END)"
    )


# --- rules -------------------------------------------------------------------------------------------------


def _column_departures(table: _Table, schema: Schema) -> Iterator[Departure]:
    for name in schema.columns:
        if name not in table.names:
            found = f"columns {', '.join(map(repr, table.names))}"
            cure = "add the column, or leave it out of every member's schema"
            yield Departure(table.file, None, name, "a column of this name", found, cure)
    for name in dict.fromkeys(table.names):
        if table.names.count(name) > 1:
            found = f"{table.names.count(name)} columns"
            yield Departure(table.file, None, name, "one column of this name", found, "rename or drop the others")
        elif name not in schema.columns:
            expected = f"only the schema's columns {', '.join(map(repr, schema.columns))}"
            yield Departure(table.file, None, name, expected, "one more", "drop the column, or name it in the schema")


def _value_departures(
    table: _Table, schema: Schema, columns: dict[str, _Column], label_kind: LabelKind
) -> Iterator[Departure]:
    if columns and not len(next(iter(columns.values())).values):
        yield Departure(table.file, None, None, "at least one row", "no rows", "give a table with rows")
        return
    for name in schema.columns:
        if name in columns:
            column = columns[name]
            levels = schema.levels.get(name)
            rules = list(_number_rules(column)) if levels is None else [_level_rule(column, levels)]
            rules += _role_rules(name, schema, column, label_kind)
            for broken, expected, cure in rules:
                if broken.any():
                    yield _departure(table, name, broken, expected, cure)
    if schema.weight in columns and not np.any(columns[schema.weight].values != 0):
        expected, cure = "a positive weight in some row", "write weights, or name no weight column"
        yield Departure(table.file, None, schema.weight, expected, "only zeros", cure)


_Rule = tuple[Array, str, str]
"""Rows that break it (bool), what was expected, the cure."""


def _number_rules(column: _Column) -> Iterator[_Rule]:
    expected = "a number (at most 3.4e38, or empty for missing)"
    yield column.bad, expected, "write codes (numbers) in place of text, dates and values outside float32"
    yield np.isinf(column.values), "a finite number", "write a finite number, or leave a feature empty"
    yield (
        np.abs(column.values) == np.finfo(np.float32).max,
        "a number below 3.4028235e38 (which means `above all` in a model)",
        "write a smaller number, or leave a feature empty",
    )


def _level_rule(column: _Column, levels: tuple[Level, ...]) -> _Rule:
    some = ", ".join(map(repr, levels[:SHOWN_LEVELS])) + (", ..." if len(levels) > SHOWN_LEVELS else "")
    cure = "mend the cell, or add its value to [categories] in the plan, which all members must agree on"
    return column.bad, f"one of the plan's {len(levels)} levels {some}, or empty for missing", cure


def _role_rules(name: str, schema: Schema, column: _Column, label_kind: LabelKind) -> Iterator[_Rule]:
    if name not in (schema.label, schema.weight):
        return
    role = "label" if name == schema.label else "weight"
    values = column.values
    yield np.isnan(values) & ~column.bad, f"a {role} in every row", f"drop the rows without {role}"
    if role == "weight":
        yield (values < 0) & np.isfinite(values), "a weight of 0 or more", "write a weight of 0 or more"
    elif label_kind == "binary":
        yield (
            np.isfinite(values) & (values != 0) & (values != 1),
            "label 0 or 1",
            "code the two classes as 0 and 1",
        )
    elif isinstance(label_kind, int):
        yield (
            np.isfinite(values) & ~np.isin(values, np.arange(label_kind)),
            f"a class, a whole number from 0 to {label_kind - 1}",
            f"code the {label_kind} classes as 0 to {label_kind - 1}",
        )


def _departure(table: _Table, name: str, broken: Array, expected: str, cure: str) -> Departure:
    row = int(broken.argmax())
    cell = table.fetch(f"c{table.names.index(name)}::VARCHAR", f"LIMIT 1 OFFSET {row}").fetchone()
    found = "a missing value" if cell is None or cell[0] is None else repr(cell[0])
    return Departure(table.file, row + 1, name, expected, found, cure, int(np.count_nonzero(broken)))


# --- the report --------------------------------------------------------------------------------------------


def _summary(name: str, column: _Column) -> ColumnSummary:
    values = column.values[np.isfinite(column.values)].astype(np.float64)
    missing = int(np.count_nonzero(np.isnan(column.values) & ~column.bad))
    if not len(values):
        return ColumnSummary(name, missing, 0, 0, np.nan, np.nan, np.nan)
    counts = np.unique(values, return_counts=True)[1]
    low, mean, high = float(values.min()), float(values.mean()), float(values.max())
    return ColumnSummary(name, missing, len(counts), int(counts.min()), low, mean, high)


def _warnings(
    features: tuple[ColumnSummary, ...], label: ColumnSummary | None, n_rows: int, label_kind: LabelKind
) -> Iterator[str]:
    for feature in features:
        if n_rows and feature.missing == n_rows:
            yield f"feature {feature.name!r} is missing in every row; it helps only if other parties have it"
        elif feature.distinct == 1 and not feature.missing:
            yield f"feature {feature.name!r} is constant; it helps only if it differs at other parties"
    if label is not None and label.distinct == 1:
        kind = "one value only" if label_kind == "numeric" else "one class only"
        yield f"label {label.name!r} has {kind}; this party has no metric of its own"
