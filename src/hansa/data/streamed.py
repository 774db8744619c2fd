"""Rows of Parquet files that are read column by column, each time that training needs them: tables larger than memory.

Each column is read several times, so the files must stay as they are: their sizes, their times of change and a checksum of each column
are compared at every reading.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from hansa.data.columns import LARGE_CELLS, Array
from hansa.data.facts import FactsReader, TableFacts
from hansa.data.files import Mark, OpenTable, is_parquet, open_by_column, open_table
from hansa.data.query import DatabaseQuery, Query, Source
from hansa.data.schema import Schema
from hansa.data.source import (
    Broken,
    Column,
    LabelKind,
    Rows,
    are_classes,
    base_margin_of,
    broken_of,
    check_label_kind,
    column_violations,
    describe,
    dictionaries_of,
    joined,
    label_of,
    load,
    merged_values,
    no_rows,
    note_columns,
    numeric,
    only_zeros,
    read_part,
    subjects_of,
)
from hansa.errors import DataError, RowsLost

BLOCK_ROWS = 2**22
"""Rows of a column that DuckDB hands over at a time: it takes about 24 bytes of memory for each."""


@dataclass(frozen=True, eq=False)
class StreamedRows:
    """One party's rows in Parquet files that stay open, as `columns.Columns`; only label, weight, base margins and hashes of ids are in
    memory.

    Attributes:
        warnings, dictionaries, subject, facts: as `source.Rows`.
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
    facts: TableFacts

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
                group = number, self._read(number, name)[None]
            except DataError as error:
                raise RowsLost(str(error)) from error
            yield group
            del group  # before the next one is read

    def close(self) -> None:
        """Close the files, and with them the reader's own buffers."""
        self.table.close()

    def _read(self, number: int, name: str) -> Array:
        self.table.check_marks(self.marks)
        values, crc, found = np.empty(self.n_rows, np.float32), 0, 0
        for first, block in self.table.blocks(BLOCK_ROWS):
            own = load(block, self.schema, [name], self.dictionaries)[name].values
            found = first + len(own)
            if found > self.n_rows:
                break
            values[first:found] = own
            crc = zlib.crc32(own.data, crc)
        self.table.check_marks(self.marks)
        if found != self.n_rows or crc != self.checksums[number]:
            raise DataError(self.table.changed(self.table.file, f"other values in column {name!r}"))
        return values


@contextmanager
def open_rows(
    source: Source, schema: Schema, *, label_kind: LabelKind, by_column: bool | None = None, in_part: bool = False
) -> Iterator[Rows | StreamedRows]:
    """A party's rows for training, checked as `read_rows` checks them, with the same errors.

    Args:
        source, schema, label_kind: as for `read_rows`.
        by_column: whether they are read column by column, each time anew, and not into memory; None does so for Parquet files of
            `LARGE_CELLS` cells or more. What a query finds is kept in a file meanwhile (`files.open_by_column`).
        in_part: whether these are some rows of a table, to whose other rows `source.check_whole` holds them.

    Raises DataError: as `read_rows`; or rows that come neither from Parquet files nor from a query are to be read by column.
    """
    check_label_kind(label_kind)
    if is_parquet(source) and by_column is not False:
        with open_table(source) as table:
            if by_column or table.count_rows() * len(schema.features) >= LARGE_CELLS:
                yield _checked(table, schema, label_kind, in_part)
                return
    elif by_column and isinstance(source, Query | DatabaseQuery):
        with open_by_column(source) as table:
            yield _checked(table, schema, label_kind, in_part)
            return
    elif by_column:
        raise DataError(
            "by_column = true: expected rows in Parquet files, or a query, found another file; write the table as Parquet, or leave "
            "by_column out"
        )
    yield read_part(source, schema, label_kind, in_part=in_part)


def _checked(table: OpenTable, schema: Schema, label_kind: LabelKind, in_part: bool) -> StreamedRows:
    """Check each column as it is read for the first time. Raises DataError: the first of what `read_rows` would raise."""
    marks = table.marks()
    for violation in column_violations(table, schema):
        raise DataError(str(violation))
    if not table.count_rows():
        raise DataError(str(no_rows(table)))
    dictionaries = dictionaries_of(table, schema, in_part=in_part)
    kept: dict[str, Column] = {}
    facts = FactsReader(table.count_rows())
    checksums: list[int] = []
    for name in schema.values:
        column = _ColumnRead(table, schema, name, label_kind, dictionaries, facts)
        if name == schema.weight and not in_part:
            for violation in only_zeros(table, name, column.values):
                raise DataError(str(violation))
        if name in schema.features:
            checksums.append(column.checksum)
        else:
            kept[name] = Column(column.values, np.zeros(0, np.bool_))
    subjects, of_ids = subjects_of(table, schema)
    if of_ids is not None:
        raise DataError(str(of_ids))
    table.check_marks(marks)
    weight = None if schema.weight is None else kept[schema.weight].values
    starts = base_margin_of(kept, schema.base_margin)
    found = facts.facts()
    return StreamedRows(
        label_of(kept, schema),
        weight,
        starts,
        found.texts(are_classes(label_kind)),
        table,
        schema,
        marks,
        tuple(checksums),
        dictionaries,
        subjects,
        found,
    )


class _ColumnRead:
    """A column that is read for the first time, block by block, and held to the schema.

    Args:
        dictionaries: of the whole table. facts: take what is told of the column; of values that float32 cannot hold apart, those of
            the first block with such values.

    Attributes:
        values: float32 (n_rows,); of a feature empty. checksum: of a feature's values.

    Raises DataError: the first of what `read_rows` would raise.
    """

    def __init__(
        self,
        table: OpenTable,
        schema: Schema,
        name: str,
        label_kind: LabelKind,
        dictionaries: Mapping[str, tuple[str, ...]],
        facts: FactsReader,
    ) -> None:
        keeps = name not in schema.features
        self.values = np.empty(table.count_rows() if keeps else 0, np.float32)
        self.checksum = 0
        looks = True
        broken: list[tuple[int, list[Broken]]] = []
        for first, block in table.blocks(BLOCK_ROWS):
            columns = load(block, schema, [name], dictionaries)
            broken.append((first, broken_of(schema, columns, label_kind)))
            note_columns(facts, schema, columns, dictionaries, first)
            if looks:
                numbers = numeric(schema, columns)
                merged = merged_values(block, columns, numbers, schema.decimal, table, first)
                facts.take_merged(merged)
                looks = not merged
            own = columns[name].values
            if keeps:
                self.values[first : first + len(own)] = own
            else:
                self.checksum = zlib.crc32(own.data, self.checksum)
        for violation in describe(table, joined(broken)[:1], schema.decimal):
            raise DataError(str(violation))
