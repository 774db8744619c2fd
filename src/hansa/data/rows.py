"""Rows that come as arrays and not from a file: held to the same rules, in the same words, before any work is done with them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hansa.data.schema import Schema
from hansa.data.source import Array, Column, LabelKind, Role, Rows, Rule, SchemaViolation, role_rules
from hansa.errors import DataError

ABOVE_ALL = np.finfo(np.float32).max


def check_arrays(rows: Rows, schema: Schema, label_kind: LabelKind, owner: str) -> None:
    """Refuse labels, weights and shapes that no table of this schema gives. (Features' values are checked where
    they become bins; that some row of some party has a weight, where these are summed.)

    Args:
        label_kind: as for `read_rows`. owner: whose rows they are, for the error.

    Raises:
        DataError: naming the owner, the first row (from 1) and the column, what was expected and found, and the cure.
    """
    for violation in _violations(rows, schema, label_kind, f"party {owner!r}"):
        raise DataError(str(violation))


def _violations(rows: Rows, schema: Schema, label_kind: LabelKind, owner: str) -> Iterator[SchemaViolation]:
    if (rows.weight is None) != (schema.weight is None):
        expected, found = ("no weights", "some") if schema.weight is None else ("weights", "none")
        yield SchemaViolation(
            owner, None, schema.weight, expected, found, "give the rows as the plan's schema names them"
        )
    if (rows.subject is None) != (schema.id is None):
        expected, found = ("no ids", "some") if schema.id is None else ("the hash of each row's id", "none")
        cure = "give the rows as the plan's schema names them: subject is uint64 (n_rows,), as read_rows gives it"
        yield SchemaViolation(owner, None, schema.id, expected, found, cure)
    elif rows.subject is not None and (rows.subject.dtype != np.uint64 or rows.subject.shape != (rows.n_rows,)):
        cure = "give what read_rows gives"
        yield SchemaViolation(owner, None, schema.id, "uint64 of shape (n_rows,)", _kind_of(rows.subject), cure)
    margins = () if rows.base_margin is None else tuple(rows.base_margin)
    if len(margins) != len(schema.base_margin):
        expected = f"base margins for {len(schema.base_margin)} columns"
        yield SchemaViolation(
            owner,
            None,
            None,
            expected,
            str(len(margins)),
            "give base_margin (outputs, n_rows) as the plan's schema names it",
        )
    for name, values in (
        (None, rows.features),
        (schema.labels[0], rows.label),
        (schema.weight, rows.weight),
        (None, rows.base_margin),
    ):
        if isinstance(values, np.ma.MaskedArray):
            cure = "write NaN where a value is missing: values.astype(np.float32).filled(np.nan)"
            yield SchemaViolation(owner, None, name, "a bare array", "a masked array", cure)
    labels = len(schema.labels)
    if not isinstance(rows.label, np.ndarray) or rows.label.ndim != 1 + (labels > 1) or rows.n_labels != labels:
        expected = "float32 of shape (n_rows,)" if labels == 1 else f"float32 of shape ({labels}, n_rows)"
        cure = "convert them by np.asarray(values, np.float32), a row for each label where the schema names several"
        yield SchemaViolation(owner, None, schema.labels[0], expected, _kind_of(rows.label), cure)
    columns: dict[str | None, Array] = dict(zip(schema.labels, rows.each_label, strict=True))
    columns |= {} if rows.weight is None else {schema.weight: rows.weight}
    columns |= dict(zip(schema.base_margin, margins, strict=False))
    for name, values in columns.items():
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.ndim != 1:
            cure = "convert them by np.asarray(values, np.float32)"
            yield SchemaViolation(owner, None, name, "float32 of shape (n_rows,)", _kind_of(values), cure)
    n_rows = rows.n_rows
    if not n_rows:
        yield SchemaViolation(owner, None, None, "at least one row", "no rows", "give a table with rows")
    shapes = (rows.features.shape, *(values.shape for values in columns.values()))
    if shapes != ((len(schema.features), n_rows), *((n_rows,),) * len(columns)):
        expected = (
            f"{len(schema.features)} features of {n_rows} rows, and a label (and weight, and base margins) for each row"
        )
        yield SchemaViolation(
            owner,
            None,
            None,
            expected,
            f"shapes {', '.join(map(str, shapes))}",
            "give features as (n_features, n_rows)",
        )
    for name, values in columns.items():
        for broken, expected, cure in _rules(name, schema, values, label_kind):
            if broken.any():
                row = int(broken.argmax())
                found = "a missing value" if np.isnan(values[row]) else repr(f"{values[row]:g}")
                yield SchemaViolation(owner, row + 1, name, expected, found, cure, int(np.count_nonzero(broken)))


def _kind_of(values: object) -> str:
    return f"{values.dtype}{values.shape}" if isinstance(values, np.ndarray) else type(values).__name__


def _rules(name: str | None, schema: Schema, values: Array, label_kind: LabelKind) -> Iterator[Rule]:
    yield np.abs(values) >= ABOVE_ALL, "a number below 3.4028235e38", "write a smaller number"
    column = Column(values, np.zeros(len(values), np.bool_))
    roles: dict[str | None, Role] = {**dict.fromkeys(schema.labels, "label"), schema.weight: "weight"}
    yield from role_rules(roles.get(name, "base margin"), column, label_kind, schema.base_margin_limit)
