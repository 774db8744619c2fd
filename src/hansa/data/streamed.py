"""Rows of Parquet files that are read column by column, each time that training needs them: tables larger than memory.

Each column is read several times, so the files must stay as they are: their sizes, their times of change and a checksum of each column
are compared at every reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from hansa.data.columns import LARGE_CELLS, Array, Columns
from hansa.data.files import Mark, OpenTable, is_parquet, open_by_column, open_table
from hansa.data.query import DatabaseQuery, Query, Source
from hansa.data.schema import Schema
from hansa.data.source import (
    Column,
    LabelKind,
    base_margin_of,
    check_label_kind,
    column_violations,
    dictionaries_of,
    label_of,
    load,
    no_rows,
    numeric,
    read_rows,
    subjects_of,
    value_violations,
)
from hansa.data.source import coarse_warnings as coarse
from hansa.errors import DataError, RowsLost


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """One party's rows in Parquet files that stay open, as `columns.Columns`; only label, weight, base margins and hashes of ids are in
    memory.

    Attributes:
        warnings, dictionaries, subject: as `source.Rows`.
        table, schema: where the features are. marks, checksums: what the files, and each feature's values, were like when they were
            checked.
    """

    label: Array
    weight: Array | None
    base_margin: Array | None
    warnings: tuple[str, ...]
    table: OpenTable
    schema: Schema
    marks: tuple[Mark, ...]
    checksums: tuple[int, ...]
    dictionaries: Mapping[str, tuple[str, ...]]
    subject: Array | None

    @property
    def n_rows(self) -> int:
        return int(self.label.shape[-1])

    @property
    def n_features(self) -> int:
        return len(self.schema.features)

    @property
    def large(self) -> bool:
        """Always: whoever reads by column spares memory."""
        return True

    def groups(self) -> Iterator[tuple[int, Array]]:
        """One feature at a time. Raises RowsLost where a file cannot be read, or is not what it was when it was checked."""
        for number, name in enumerate(self.schema.features):
            try:
                values = self._read(number, name)
            except DataError as error:
                raise RowsLost(str(error)) from error
            yield number, values[None]

    def close(self) -> None:
        """Close the files, and with them the reader's own buffers."""
        self.table.close()

    def _read(self, number: int, name: str) -> Array:
        self.table.check_marks(self.marks)
        column = load(self.table, self.schema, [name])[name]
        self.table.check_marks(self.marks)
        if len(column.values) != self.n_rows or zlib.crc32(column.values.data) != self.checksums[number]:
            raise DataError(self.table.changed(self.table.file, f"other values in column {name!r}"))
        return column.values


@contextmanager
def open_rows(
    source: Source, schema: Schema, *, label_kind: LabelKind, by_column: bool | None = None
) -> Iterator[Columns]:
    """A party's rows for training, checked as `read_rows` checks them, with the same errors.

    Args:
        source, schema, label_kind: as for `read_rows`.
        by_column: whether they are read column by column, each time anew, and not into memory; None does so for Parquet files of
            `LARGE_CELLS` cells or more. What a query finds is kept in a file meanwhile (`files.open_by_column`).

    Raises DataError: as `read_rows`; or rows that come neither from Parquet files nor from a query are to be read by column.
    """
    check_label_kind(label_kind)
    if is_parquet(source) and by_column is not False:
        with open_table(source) as table:
            if by_column or table.count_rows() * len(schema.features) >= LARGE_CELLS:
                yield _checked(table, schema, label_kind)
                return
    elif by_column and isinstance(source, Query | DatabaseQuery):
        with open_by_column(source) as table:
            yield _checked(table, schema, label_kind)
            return
    elif by_column:
        raise DataError(
            "by_column = true: expected rows in Parquet files, or a query, found another file; write the table as Parquet, or leave "
            "by_column out"
        )
    yield read_rows(source, schema, label_kind=label_kind)


def _checked(table: OpenTable, schema: Schema, label_kind: LabelKind) -> StreamedRows:
    """Check each column as it is read for the first time. Raises DataError: the first of what `read_rows` would raise."""
    marks = table.marks()
    for violation in column_violations(table, schema):
        raise DataError(str(violation))
    if not table.count_rows():
        raise DataError(str(no_rows(table)))
    kept: dict[str, Column] = {}
    warnings: list[str] = []
    checksums: list[int] = []
    for name in schema.values:
        columns: dict[str, Column] = load(table, schema, [name])
        for violation in value_violations(table, schema, columns, label_kind, 1):
            raise DataError(str(violation))
        warnings += coarse(table, columns, numeric(schema, columns), schema.decimal)
        if name not in schema.features:
            kept[name] = columns[name]
        else:
            checksums.append(zlib.crc32(columns[name].values.data))
    subjects, of_ids = subjects_of(table, schema)
    if of_ids is not None:
        raise DataError(str(of_ids))
    table.check_marks(marks)
    weight = None if schema.weight is None else kept[schema.weight].values
    starts = base_margin_of(kept, schema.base_margin)
    return StreamedRows(
        label_of(kept, schema),
        weight,
        starts,
        tuple(warnings),
        table,
        schema,
        marks,
        tuple(checksums),
        dictionaries_of(table, schema),
        subjects,
    )
