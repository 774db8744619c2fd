"""A whole table on one machine: what `hansa simulate` splits into parties and `hansa predict` scores.

Text columns become codes here, the same for everybody because one process holds every row. (In a real run each party brings
numbers, or in coopetitive mode the levels that the plan names.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt

from hansa.data.schema import MISSING_WORDS, Level
from hansa.data.source import Rows
from hansa.errors import DataError

NUMERIC = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN", "UTINYINT",
           "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")  # fmt: skip

LARGEST = float(np.finfo(np.float32).max)

SPLIT_STREAM = 0x73706C6974
"""Keeps the draws of `split_table` apart from other uses of the same seed."""


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of several parties.

    Attributes:
        names: of the features.
        features: float32 (n_features, n_rows), NaN missing.
        label: float32 (n_rows,). weight: float32 (n_rows,) or None.
        party: object (n_rows,): each row's value of the party column, as text.
        categories: text columns -> their values; a value's place is its code. So for the columns in `categorical`, which may hold
            whole numbers too.
        categorical: the features whose codes are categories, in no order.
    """

    names: tuple[str, ...]
    features: npt.NDArray[np.float32]
    label: npt.NDArray[np.float32]
    weight: npt.NDArray[np.float32] | None
    party: npt.NDArray[np.object_]
    categories: Mapping[str, tuple[Level, ...]]
    categorical: tuple[str, ...] = ()

    @property
    def n_rows(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[Any]) -> Table:
        """The same table with these rows only (indices or a mask)."""
        return replace(
            self,
            features=np.ascontiguousarray(self.features[:, rows]),
            label=self.label[rows],
            weight=None if self.weight is None else self.weight[rows],
            party=self.party[rows],
        )

    def rows(self) -> Rows:
        """The numbers, as one party's rows."""
        return Rows(self.features, self.label, self.weight)


def open_relation(path: Path) -> duckdb.DuckDBPyRelation:
    """The table in a CSV (.csv, .csv.gz), Parquet (.parquet, .pq) or Arrow (.arrow, .feather) file. Raises DataError."""
    connection = duckdb.connect(":memory:")
    suffixes = [s.lower() for s in path.suffixes]
    kind = next((s for s in reversed(suffixes) if s != ".gz"), "")
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a CSV, Parquet or Arrow file")
    try:
        if kind in (".csv", ".tsv", ".txt"):
            return connection.read_csv(str(path), sample_size=-1, na_values=["", "NA", "NaN", "nan", "null"])
        if kind in (".parquet", ".pq"):
            return connection.read_parquet(str(path))
        if kind in (".arrow", ".feather"):
            return connection.from_arrow(_read_arrow(path))
    except duckdb.Error as error:
        raise DataError(f"{path}: cannot be read as a table: {error}") from error
    raise DataError(f"{path}: ends in {kind or 'nothing'!r}; expected .csv, .csv.gz, .parquet or .arrow")


def _read_arrow(path: Path) -> Any:
    try:
        from pyarrow import feather
    except ImportError as error:
        raise DataError(f"{path}: Arrow files need pyarrow; install hansa[arrow]") from error
    return feather.read_table(path)


def read_table(
    path: Path,
    label: str,
    party_column: str | None,
    weight: str | None = None,
    like: Table | None = None,
    categorical: tuple[str, ...] = (),
) -> Table:
    """Read a table with a column that says whose each row is.

    Args:
        party_column: left out of the features; None puts all rows to one party, "all".
        like: takes features, their order and the codes of text columns from that table; an unknown text is a missing value, or
            in a categorical column of no category.
        categorical: columns of text or whole numbers whose values are categories; their levels are all values, sorted.

    Raises:
        DataError: naming file, row and column.
    """
    relation = open_relation(path)
    special = [name for name in (label, party_column, weight) if name is not None]
    for name in special:
        _require_column(path, relation.columns, name)
    names = like.names if like else tuple(name for name in relation.columns if name not in special)
    for name in names:
        _require_column(path, relation.columns, name)
    if not names:
        raise DataError(f"{path}: no column is left as a feature; found {', '.join(relation.columns)}")
    categorical = like.categorical if like else categorical
    for name in categorical:
        if name not in names:
            raise DataError(
                f"{path}: {name!r} is to be categorical, and is no feature; expected one of {', '.join(names)}"
            )
    features, categories = read_features(path, relation, names, like.categories if like else None, categorical)
    label_values = _numbers(path, relation, label)
    if np.isnan(label_values).any():
        row = int(np.flatnonzero(np.isnan(label_values))[0]) + 1
        raise DataError(f"{path}, row {row}, column {label!r}: the label is missing; fill it in or leave the row out")
    party = np.full(len(label_values), "all", object) if party_column is None else _texts(relation, party_column)
    lacking = [i for i, value in enumerate(party) if value is None]
    if lacking:
        raise DataError(f"{path}, row {lacking[0] + 1}, column {party_column!r}: says no party; fill it in")
    return Table(
        names=names,
        features=features,
        label=label_values,
        weight=None if weight is None else _numbers(path, relation, weight),
        party=party,
        categories=categories,
        categorical=categorical,
    )


def _require_column(path: Path, columns: list[str], name: str) -> None:
    if name not in columns:
        raise DataError(f"{path}: no column {name!r}; found {', '.join(columns)}")


def read_features(
    path: Path,
    relation: duckdb.DuckDBPyRelation,
    names: tuple[str, ...],
    known: Mapping[str, tuple[Level, ...]] | None,
    categorical: tuple[str, ...] = (),
) -> tuple[npt.NDArray[np.float32], dict[str, tuple[Level, ...]]]:
    """Feature columns as float32 (n_features, n_rows), and the codes given to text and categorical columns.

    Args:
        known: the codes to give; None finds them in the table.
        categorical: columns in which a value that is not known gets the code behind the last one, which is no category; in other
            text columns it is missing.
    """
    types = _types(relation)
    features = []
    categories: dict[str, tuple[Level, ...]] = {}
    for name in names:
        if name in categorical:
            codes, categories[name] = _category_codes(path, relation, name, None if known is None else known[name])
            features.append(codes)
            continue
        coded = name in known if known is not None else not types[name].startswith(NUMERIC)
        if not coded:
            features.append(_numbers(path, relation, name))
            continue
        texts = _texts(relation, name)
        _refuse_stray_text(path, name, texts)
        values: tuple[Level, ...]
        values = known[name] if known is not None else tuple(sorted({text for text in texts if text is not None}))
        code = {value: float(i) for i, value in enumerate(values)}
        categories[name] = values
        features.append(np.array([code.get(text, np.nan) for text in texts], np.float32))
    return np.stack(features), categories


def _category_codes(
    path: Path, relation: duckdb.DuckDBPyRelation, name: str, known: tuple[Level, ...] | None
) -> tuple[npt.NDArray[np.float32], tuple[Level, ...]]:
    """A categorical column's codes, float32 (n_rows,), NaN missing, and its levels: those known, or all that it holds, sorted."""
    are_numbers = isinstance(known[0], int) if known else _types(relation)[name].startswith(NUMERIC)
    values: list[Any]
    if are_numbers:
        values = [None if math.isnan(number) else number for number in _doubles(path, relation, name).tolist()]
        row = next((row for row, value in enumerate(values, 1) if value is not None and not value.is_integer()), None)
        if row is not None and known is None:
            raise DataError(
                f"{path}, row {row}, column {name!r}: found {values[row - 1]:g}; expected whole numbers, or texts, as categories"
            )
    else:
        texts = _texts(relation, name)
        values = [None if text is None or text.strip().lower() in MISSING_WORDS else text for text in texts]
    levels = known
    if levels is None:
        found = {value for value in values if value is not None}
        levels = tuple(sorted(map(int, found) if are_numbers else found))
        if not levels:
            raise DataError(
                f"{path}, column {name!r}: no row has a value; a categorical feature needs some, leave it out"
            )
    # A number's code is found whether it is written 2 or 2.0.
    code: dict[Any, float] = {level: float(place) for place, level in enumerate(levels)} | {None: math.nan}
    return np.array([code.get(value, float(len(levels))) for value in values], np.float32), levels


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _refuse_stray_text(path: Path, name: str, texts: npt.NDArray[np.object_]) -> None:
    """Refuse a column that is text because of a few cells only: these are mistakes, not categories."""
    kinds = {text: _is_number(text) for text in set(texts) if text is not None}
    stray = np.array([not kinds.get(text, True) for text in texts])
    numbers = sum(kinds.get(text, False) for text in texts)
    if numbers > stray.sum() > 0:
        row = int(np.flatnonzero(stray)[0])
        raise DataError(
            f"{path}, row {row + 1}, column {name!r}: found {texts[row]!r} (and {stray.sum() - 1} more texts) among {numbers} "
            "numbers; expected a number, or nothing where it is missing"
        )


def _column(relation: duckdb.DuckDBPyRelation, name: str, kind: str) -> npt.NDArray[Any]:
    quoted = '"' + name.replace('"', '""') + '"'
    fetched = relation.project(f"CAST({quoted} AS {kind}) AS v").fetchnumpy()["v"]
    return np.asarray(fetched) if not np.ma.isMaskedArray(fetched) else fetched


def _numbers(path: Path, relation: duckdb.DuckDBPyRelation, name: str) -> npt.NDArray[np.float32]:
    return _doubles(path, relation, name).astype(np.float32)


def _doubles(path: Path, relation: duckdb.DuckDBPyRelation, name: str) -> npt.NDArray[np.float64]:
    """A column's numbers, float64 (n_rows,), NaN missing, each finite as a float32. Raises DataError naming the row."""
    try:
        values = np.ma.filled(np.ma.asarray(_column(relation, name, "DOUBLE")), np.nan).astype(np.float64)
    except duckdb.ConversionException as error:
        raise DataError(_not_a_number(path, relation, name)) from error
    broken = np.abs(values) >= LARGEST
    if broken.any():
        row = int(np.flatnonzero(broken)[0])
        raise DataError(
            f"{path}, row {row + 1}, column {name!r}: found {values[row]:g}; expected a finite number that float32 holds, "
            "or nothing where it is missing"
        )
    return np.asarray(values, np.float64)


def _not_a_number(path: Path, relation: duckdb.DuckDBPyRelation, name: str) -> str:
    for row, text in enumerate(_texts(relation, name), 1):
        try:
            float(text or "nan")
        except ValueError:
            return f"{path}, row {row}, column {name!r}: expected a number, found {text[:40]!r}"
    return f"{path}, column {name!r}: expected numbers, found {_types(relation)[name]}"


def _types(relation: duckdb.DuckDBPyRelation) -> dict[str, str]:
    return dict(zip(relation.columns, map(str, relation.types), strict=True))


def _texts(relation: duckdb.DuckDBPyRelation, name: str) -> npt.NDArray[np.object_]:
    values = np.ma.asarray(_column(relation, name, "VARCHAR"))
    texts = np.array(values.data, object)
    texts[np.ma.getmaskarray(values)] = None  # np.ma.filled would write its own default, "?"
    return texts


def split_table(table: Table, fraction: float, seed: int, stratified: bool) -> tuple[Table, Table]:
    """Split rows at random into (train, test), class by class where `stratified`; the same for a seed everywhere."""
    # A stream of its own: whoever gave the rows to parties with PCG64(seed) would otherwise get splits that follow the parties.
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([SPLIT_STREAM, seed])))
    groups = [np.flatnonzero(table.label == value) for value in np.unique(table.label)] if stratified else None
    test = np.zeros(table.n_rows, np.bool_)
    for group in groups or [np.arange(table.n_rows)]:
        order = draw.permutation(group)
        test[order[: round(fraction * len(order))]] = True
    if test.all() or not test.any():
        raise DataError(f"a test fraction of {fraction:g} leaves no rows on one side of {table.n_rows}; choose another")
    return table.take(~test), table.take(test)


def write_party_table(path: Path, table: Table, label: str, weight: str | None) -> None:
    """Write a party's rows as Parquet, features and label under their own names; float32 values stay exact, categories are levels."""
    names = [*table.names, label, *([weight] if weight else [])]
    arrays = [*table.features, table.label, *([table.weight] if table.weight is not None else [])]
    columns = {f"c{i}": np.ascontiguousarray(values) for i, values in enumerate(arrays)}
    connection = duckdb.connect(":memory:")
    connection.register("given", columns)
    chosen = []
    for i, name in enumerate(names):
        value = f"c{i}"
        if name in table.categorical:
            # Lists count from 1.
            kind = "BIGINT" if isinstance(table.categories[name][0], int) else "VARCHAR"
            connection.execute(f"CREATE TABLE levels{i} AS SELECT ?::{kind}[] AS l", [list(table.categories[name])])
            value = f"(SELECT l FROM levels{i})[TRY_CAST(c{i} AS INTEGER) + 1]"
        chosen.append(f"CASE WHEN isnan(c{i}) THEN NULL ELSE {value} END AS " + '"' + name.replace('"', '""') + '"')
    connection.sql(f"SELECT {', '.join(chosen)} FROM given").write_parquet(str(path))
    connection.close()
