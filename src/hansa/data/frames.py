"""Tables in memory, opened as files are: data frames of pandas, polars, Arrow and others (through narwhals), NumPy arrays.

What a cell means is what it means in a file (`cells`, `source`): there is one reader. Frames are looked at through narwhals, so that
none of their libraries is needed but the one whose frame is given.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import numpy.typing as npt

from hansa.data.files import OpenTable, connect
from hansa.errors import DataError

ANY_FRAME = "a data frame (pandas, polars, Arrow or another that narwhals knows) or a NumPy array (rows, features)"

_MOMENTS = (nw.Datetime, nw.Date, nw.Duration, nw.Time)
_TEXTS = (nw.String, nw.Categorical, nw.Enum)


def columns_of(frame: Any, where: str, names: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """The columns of a frame, or of an array, by name: numbers, or object arrays of texts and None.

    Args:
        frame: not changed. where: what errors call it. names: of an array's columns; None calls them f0, f1, ...

    Raises DataError naming the column: no frame; names that are no texts or repeated; dates, or what is neither numbers nor texts.
    """
    if isinstance(frame, np.ndarray):
        return _columns_of_array(frame, where, names)
    found = f"{where}: expected {ANY_FRAME}, found {type(frame).__name__}"
    if hasattr(frame, "collect"):
        raise DataError(f"{found} (a lazy frame: call its collect() first)")
    given = getattr(frame, "column_names", getattr(frame, "columns", None))
    if given is not None and not callable(given):
        _check_names(list(given), where)
    try:
        table = nw.from_native(frame, eager_only=True)
    except TypeError as error:
        raise DataError(found) from error
    _check_names(table.columns, where)
    return {name: _column(table[name], where, name) for name in table.columns}


def _check_names(names: Sequence[object], where: str) -> None:
    for shown, count in Counter(map(repr, names)).items():
        if count > 1:
            raise DataError(
                f"{where}: expected one column of each name, found {count} of name {shown}; rename or drop the others"
            )
    for name in names:
        if not isinstance(name, str):
            raise DataError(
                f"{where}: expected column names that are texts, found {name!r}; rename the columns, such as by str(name)"
            )


def _columns_of_array(array: npt.NDArray[Any], where: str, names: Sequence[str] | None) -> dict[str, npt.NDArray[Any]]:
    if array.ndim != 2:
        cure = "reshape(-1, 1) makes one feature of it" if array.ndim == 1 else "give one row for each example"
        raise DataError(f"{where}: expected an array of shape (rows, features), found shape {array.shape}; {cure}")
    names = [f"f{i}" for i in range(array.shape[1])] if names is None else list(names)
    if len(names) != array.shape[1]:
        raise DataError(f"{where}: expected an array of {len(names)} features, found shape {array.shape}")
    return {name: _values(array[:, i], where, name) for i, name in enumerate(names)}


def _values(values: npt.NDArray[Any], where: str, name: str) -> npt.NDArray[Any]:
    if values.dtype.kind in "biuf":
        return np.ascontiguousarray(values.astype(np.float32) if values.dtype == np.float16 else values)
    if values.dtype.kind in "OUST":
        return _texts(values.tolist(), where, name)
    if values.dtype.kind in "Mm":
        raise _no_moment(where, name, str(values.dtype))
    raise DataError(f"{where}, column {name!r}: expected numbers or texts, found {values.dtype}; convert the column")


def _column(series: nw.Series[Any], where: str, name: str) -> npt.NDArray[Any]:
    kind = series.dtype
    if isinstance(kind, _MOMENTS):
        raise _no_moment(where, name, str(kind))
    if isinstance(kind, nw.Decimal):
        series, kind = series.cast(nw.Float64()), nw.Float64()
    if isinstance(kind, _TEXTS):
        return _texts(series.to_list(), where, name)
    if kind.is_numeric() or isinstance(kind, nw.Boolean):
        # Whole numbers and truth values without a missing one keep their type, so that none is rounded before it is looked at.
        if series.null_count() and not kind.is_float():
            series = series.cast(nw.Float64())
        return np.ascontiguousarray(series.to_numpy())
    if isinstance(kind, nw.Object | nw.Unknown):
        return _texts(series.to_list(), where, name)
    raise DataError(f"{where}, column {name!r}: expected numbers or texts, found {kind}; convert the column")


def _no_moment(where: str, name: str, kind: str) -> DataError:
    return DataError(
        f"{where}, column {name!r}: expected numbers or texts, found dates or times ({kind}); write a number in their place, such as "
        f"days or hours since a moment that all parties agree on"
    )


def _texts(values: list[Any], where: str, name: str) -> npt.NDArray[Any]:
    """Cells as the texts that a CSV file would hold, or numbers where all are."""
    present = [value for value in values if not is_missing(value)]
    if all(isinstance(value, bool | int | float | np.number | np.bool_) for value in present):
        missing = len(present) < len(values)
        numbers = [np.nan if is_missing(value) else value for value in values]
        return np.asarray(numbers, np.float64) if missing or not present else np.asarray(numbers)
    cells = np.empty(len(values), object)
    for row, value in enumerate(values):
        if is_missing(value):
            continue
        if not isinstance(value, str | bool | int | float | np.number | np.bool_):
            raise DataError(
                f"{where}, row {row + 1}, column {name!r}: expected a number or a text, found {type(value).__name__}; convert it"
            )
        cells[row] = str(value)
    return cells


def is_missing(value: Any) -> bool:
    """Whether a cell has no value: None, NaN, or what pandas writes for them."""
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def open_columns(columns: Mapping[str, npt.NDArray[Any]], where: str) -> OpenTable:
    """Open columns, as `columns_of` gives them, like a file of this name. Raises DataError where they are of different lengths."""
    lengths = {len(values) for values in columns.values()}
    if not columns or len(lengths) > 1:
        raise DataError(
            f"{where}: expected columns of one length, found {sorted(lengths) if columns else 'no columns'}"
        )
    connection = connect()
    connection.register("given", {f"c{i}": values for i, values in enumerate(columns.values())})
    described = connection.execute("DESCRIBE SELECT * FROM given").fetchall()
    types = tuple(str(row[1]) for row in described)
    return OpenTable(where, tuple(columns), types, connection, "given", (), io.BytesIO())
