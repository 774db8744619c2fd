"""Tables in memory, opened as files are: data frames of pandas, polars, Arrow and others (through narwhals), NumPy arrays.

What a cell means is what it means in a file (`cells`, `source`): there is one reader. Frames are looked at through narwhals, so that
none of their libraries is needed but the one whose frame is given.
"""

from __future__ import annotations

import datetime as dt
import decimal
import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import narwhals as nw
import numpy as np
import numpy.typing as npt

from hansa.data.files import OpenTable, connect
from hansa.errors import DataError

ANY_FRAME = "a data frame (pandas, polars, Arrow or another that narwhals knows) or a NumPy array (rows, features)"

_MOMENTS = (nw.Datetime, nw.Date, nw.Duration, nw.Time)
_TEXTS = (nw.String, nw.Categorical, nw.Enum)
_NUMBERS = (bool, int, float, decimal.Decimal, np.number, np.bool_)


def columns_of(
    frame: Any, where: str, names: Sequence[str] | None = None, dates: Collection[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """The columns of a frame, or of an array, by name: numbers, object arrays of texts and None, or moments.

    Args:
        frame: not changed. where: what errors call it. names: of an array's columns; None calls them f0, f1, ...
        dates: columns that may hold dates: datetime64[us] in UTC, NaT where missing.

    Raises DataError naming the column: no frame; names that are no texts or repeated; other dates, or what is neither numbers nor
    texts.
    """
    if isinstance(frame, np.ndarray):
        return _columns_of_array(plain(frame), where, names, dates)
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
    return {name: _column(table[name], where, name, name in dates) for name in table.columns}


def plain(values: Any) -> npt.NDArray[Any]:
    """An array, or what NumPy makes one of, as every reader here takes it: a bare array, in this machine's order of bytes.

    Masked cells are missing: NaN among numbers, None among texts and objects, NaT among moments; a bare `np.asarray` would give the
    numbers that the mask hides. Long doubles are rounded to float64.
    """
    array = np.asarray(values)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.longdouble:
        with np.errstate(over="ignore"):  # infinity is refused with its row, where it is read
            array = array.astype(np.float64)
    mask = np.ma.getmask(values)
    if mask is np.ma.nomask or array.dtype.names is not None:
        return array
    kind = array.dtype.kind
    if kind in "OUST":
        cells = array.astype(object)
        cells[mask] = None
        return cells
    if kind in "Mm":
        return np.where(mask, np.array("NaT", array.dtype), array)
    return np.where(mask, np.nan, array)


def margins_of(values: Any, where: str) -> npt.NDArray[np.float32]:
    """Base margins given as an array, or as what NumPy makes one of: float32 of the same shape.

    Raises DataError naming the row: a cell is no finite number.
    """
    array = plain(values)
    if array.ndim not in (1, 2):
        raise DataError(f"{where}: expected shape (rows,) or (rows, outputs), found shape {array.shape}")
    cells = array if array.ndim == 2 else array[:, None]
    given = np.empty(cells.shape, np.float32)
    for output in range(cells.shape[1]):
        column = _values(cells[:, output], where, f"output {output}", date=False)
        if column.dtype == object:
            row = next(row for row, value in enumerate(column) if value is not None)
            raise DataError(f"{where}, row {row + 1}: expected a finite number, found {column[row][:60]!r}; convert it")
        with np.errstate(over="ignore"):
            given[:, output] = column
    wrong = ~np.isfinite(given)
    if wrong.any():
        row, output = np.argwhere(wrong)[0].tolist()
        found = "a missing value" if np.isnan(given[row, output]) else f"{cells[row, output]}"
        raise DataError(
            f"{where}, row {row + 1}: expected a finite number in every row, found {found}; fill it in, or leave base_margin out for "
            "the base score"
        )
    return given.reshape(array.shape)


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


def _columns_of_array(
    array: npt.NDArray[Any], where: str, names: Sequence[str] | None, dates: Collection[str]
) -> dict[str, npt.NDArray[Any]]:
    if array.dtype.names is not None:
        raise DataError(
            f"{where}: expected an array of shape (rows, features), found a structured one; pandas.DataFrame(X) makes a frame of it"
        )
    if array.ndim != 2:
        cure = "reshape(-1, 1) makes one feature of it" if array.ndim == 1 else "give one row for each example"
        raise DataError(f"{where}: expected an array of shape (rows, features), found shape {array.shape}; {cure}")
    names = [f"f{i}" for i in range(array.shape[1])] if names is None else list(names)
    if len(names) != array.shape[1]:
        raise DataError(f"{where}: expected an array of {len(names)} features, found shape {array.shape}")
    return {name: _values(array[:, i], where, name, name in dates) for i, name in enumerate(names)}


def _values(values: npt.NDArray[Any], where: str, name: str, date: bool) -> npt.NDArray[Any]:
    if values.dtype.kind in "biuf":
        return np.ascontiguousarray(values.astype(np.float32) if values.dtype == np.float16 else values)
    if values.dtype.kind in "OUST":
        return _texts(values.tolist(), where, name, date)
    if values.dtype.kind == "M" and date:
        return _microseconds(values)
    if values.dtype.kind in "Mm":
        raise _no_moment(where, name, str(values.dtype))
    raise DataError(f"{where}, column {name!r}: expected numbers or texts, found {values.dtype}; convert the column")


def _microseconds(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Moments in a unit that DuckDB takes, rounded down."""
    if np.datetime_data(values.dtype)[0] not in ("ns", "ps", "fs", "as"):
        return values.astype("datetime64[us]")
    finer = values.astype("datetime64[ns]")
    whole = np.where(np.isnat(finer), 0, finer.view(np.int64)) // 1000
    return np.where(np.isnat(finer), np.datetime64("NaT"), whole.astype("datetime64[us]"))


def _column(series: nw.Series[Any], where: str, name: str, date: bool) -> npt.NDArray[Any]:
    kind = series.dtype
    if date and isinstance(kind, nw.Datetime | nw.Date):
        if isinstance(kind, nw.Datetime) and kind.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        moments = series.to_numpy()
        # pandas keeps dates of Arrow as objects.
        return _microseconds(moments if moments.dtype.kind == "M" else moments.astype("datetime64[us]"))
    if isinstance(kind, _MOMENTS):
        raise _no_moment(where, name, str(kind))
    if isinstance(kind, nw.Decimal):
        series, kind = series.cast(nw.Float64()), nw.Float64()
    if isinstance(kind, _TEXTS):
        return _texts(series.to_list(), where, name, date)
    if kind.is_numeric() or isinstance(kind, nw.Boolean):
        # Whole numbers and truth values without a missing one keep their type, so that none is rounded before it is looked at.
        if series.null_count() and not kind.is_float():
            series = series.cast(nw.Float64())
        return np.ascontiguousarray(plain(series.to_numpy()))
    if isinstance(kind, nw.Object | nw.Unknown):
        return _texts(series.to_list(), where, name, date)
    raise DataError(f"{where}, column {name!r}: expected numbers or texts, found {kind}; convert the column")


def _no_moment(where: str, name: str, kind: str) -> DataError:
    return DataError(
        f"{where}, column {name!r}: expected numbers or texts, found dates or times ({kind}); name a rule that makes numbers of "
        f"dates (dates={{{name!r}: 'days'}}, in a plan schema.dates), or write a number in their place, such as days or hours since a "
        f"moment that all parties agree on"
    )


def _texts(values: list[Any], where: str, name: str, date: bool) -> npt.NDArray[Any]:
    """Cells as the texts that a CSV file would hold, or numbers where all are; `date`: whether they may be dates."""
    present = [value for value in values if not is_missing(value)]
    if all(isinstance(value, _NUMBERS) for value in present):
        missing = len(present) < len(values)
        numbers = [np.nan if is_missing(value) else _number(value) for value in values]
        return np.asarray(numbers, np.float64) if missing or not present else plain(numbers)
    cells = np.empty(len(values), object)
    for row, value in enumerate(values):
        if is_missing(value):
            continue
        if date and isinstance(value, dt.date):
            zoned = isinstance(value, dt.datetime) and value.tzinfo is not None
            cells[row] = (value.astimezone(dt.UTC) if zoned else value).isoformat()  # type: ignore[attr-defined]
            continue
        if not isinstance(value, (str, *_NUMBERS)):
            raise DataError(
                f"{where}, row {row + 1}, column {name!r}: expected a number or a text, found {type(value).__name__}; convert it"
            )
        cells[row] = str(value)
    return cells


def _number(value: Any) -> Any:
    """A number as NumPy knows it: of a decimal the nearest float64."""
    return float(value) if isinstance(value, decimal.Decimal) else value


def is_missing(value: Any) -> bool:
    """Whether a cell has no value: None, NaN, a masked cell, or what pandas writes for them."""
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(value, decimal.Decimal):
        return value.is_nan()
    differs = value != value
    return isinstance(differs, bool | np.bool_) and bool(differs)  # of an array in a cell it is an array


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
