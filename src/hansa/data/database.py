"""What a query to a database finds, as an Arrow table. Here alone a database is spoken to.

By a driver of ADBC, which gives Arrow, and where none is installed by SQLAlchemy. Neither is needed before a source asks for it.

Whatever a driver says may hold a password: its words are looked through before they are shown, and its error is never the cause of
ours, so that no traceback shows it. A password reaches the driver and nothing else.

What is read is what a CSV file of the same result would give, or it is refused: NUMERIC comes as its digits, which become a double
in one rounding. Types that are neither numbers, truth values, texts, dates nor times are refused with the column's name.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from hansa.data.query import DatabaseQuery
from hansa.errors import DataError

POSTGRESQL = "postgresql"
ALSO_POSTGRESQL = "postgres"

LONGEST_REASON = 300
"""Characters of a driver's own words in an error."""

READ_WRONGLY = ("money", "oid")
"""Types of PostgreSQL that its ADBC driver gives as other numbers: money in cents, and large oids below 0."""

_TYPE = b"POSTGRESQL:type"
"""Where the driver says a column's type in PostgreSQL (since 1.13)."""

_BEHIND_REASON = re.compile(r"\s*(?:LINE \d+:|Query was:|\. SQLSTATE:|\[SQL:|\(Background on this error)")
_BEFORE_REASON = re.compile(r"^(?:.*?(?=ERROR: )|[A-Z_]+: (?:\[\w+\] )?|\([\w.]+\) )", re.DOTALL)


@dataclass(frozen=True)
class _Found:
    """What a driver said in place of an answer: our sentence, kept outside the handler so that its error is no cause of ours."""

    text: str


def read_table(query: DatabaseQuery) -> Any:
    """Run a query, and read all that it finds into an Arrow table (pyarrow.Table) of types that DuckDB reads.

    A transaction that only reads, where the database is PostgreSQL; nothing is committed in any.

    Raises DataError: no driver is installed; the database is not reached, or refuses the user or the query; a column is of a type that
    is not read. No text of it holds a password.
    """
    name, adbc, pa = _driver(query)
    # Plain PostgreSQL only by ADBC, so that its transaction always is one that only reads.
    sqlalchemy = _module("sqlalchemy") if adbc is None and name != POSTGRESQL else None
    if adbc is None and sqlalchemy is None:
        raise DataError(_missing(query, name))
    outcome: Any = None
    try:
        outcome = _ask_adbc(query, adbc, name) if adbc is not None else _ask_sqlalchemy(query, sqlalchemy, pa)
    except Exception as error:  # whatever a driver raises: its kinds are its own
        outcome = _Found(_bad_query(query, error))
    if isinstance(outcome, _Found):
        raise DataError(outcome.text)
    return _readable(query, outcome, pa)


def read_parts(query: DatabaseQuery) -> Iterator[Any]:
    """The same in parts, as the driver gives them, each an Arrow table; the first one has no rows. By a driver of ADBC alone.

    Raises DataError: as `read_table`; no driver of ADBC is installed.
    """
    name, adbc, pa = _driver(query)
    if adbc is None:
        raise DataError(
            _missing(query, name)
            if name == POSTGRESQL
            else f"{query.where}: by_column = true reads {name}:// by a driver of ADBC, and none is installed; install "
            f"adbc-driver-{name}, or leave by_column out"
        )
    parts = _ask_for_parts(query, adbc, name, pa)
    try:
        while True:
            outcome: Any = None
            try:
                outcome = next(parts, None)
            except Exception as error:  # whatever a driver raises: its kinds are its own
                outcome = _Found(_bad_query(query, error))
            if isinstance(outcome, _Found):
                raise DataError(outcome.text)
            if outcome is None:
                return
            yield _readable(query, outcome, pa)
    finally:
        parts.close()


def _driver(query: DatabaseQuery) -> tuple[str, Any, Any]:
    """The database's kind, the module of its ADBC driver or None, and pyarrow. Raises DataError."""
    scheme = query.url.split("://", 1)[0].lower()
    name = POSTGRESQL if scheme == ALSO_POSTGRESQL else scheme
    try:
        import pyarrow as pa
    except ImportError as error:
        raise DataError(_missing(query, name)) from error
    return name, None if name == "manager" else _module(f"adbc_driver_{name}", "dbapi"), pa


def _module(name: str, part: str = "") -> Any:
    """A module that may not be installed; None where it, or what it needs, is not."""
    if not name.isidentifier():
        return None
    try:
        return importlib.import_module(f"{name}.{part}" if part else name)
    except ImportError:
        return None


def _missing(query: DatabaseQuery, name: str) -> str:
    if name == POSTGRESQL:
        return (
            f"{query.where}: reading from PostgreSQL needs the packages adbc-driver-postgresql, adbc-driver-manager and pyarrow; "
            "install them with: pip install 'hansa[postgresql]'"
        )
    return (
        f"{query.where}: reading from {name}:// needs pyarrow and a driver, of which one is missing; install pyarrow and "
        f"adbc-driver-{name}, or SQLAlchemy with what it needs for this database"
    )


# --- asking ------------------------------------------------------------------------------------------------


def _ask_adbc(query: DatabaseQuery, driver: Any, name: str) -> Any:
    connected = _connected_by_adbc(query, driver, name)
    if isinstance(connected, _Found):
        return connected
    with connected as connection, connection.cursor() as cursor:
        _execute(query, cursor, name)
        return cursor.fetch_arrow_table()


def _ask_for_parts(query: DatabaseQuery, driver: Any, name: str, pa: Any) -> Generator[Any]:
    """As `_ask_adbc`, in parts; the first one has no rows."""
    connected = _connected_by_adbc(query, driver, name)
    if isinstance(connected, _Found):
        yield connected
        return
    with connected as connection, connection.cursor() as cursor:
        _execute(query, cursor, name)
        reader = cursor.fetch_record_batch()
        yield reader.schema.empty_table()
        for batch in reader:
            yield pa.Table.from_batches([batch])


def _connected_by_adbc(query: DatabaseQuery, driver: Any, name: str) -> Any:
    arguments: tuple[Any, ...] = (query.url,)
    if query.password and name == POSTGRESQL:
        sign = "&" if "?" in query.url else "?"
        arguments = (f"{query.url}{sign}password={quote(query.password, safe='')}",)
    elif query.password:
        arguments = (query.url, {"password": query.password})  # ADBC's own name for it
    return _connected(query, lambda: driver.connect(*arguments))


def _execute(query: DatabaseQuery, cursor: Any, name: str) -> None:
    if name == POSTGRESQL:
        cursor.execute("SET TRANSACTION READ ONLY")
    cursor.execute(_statement(query.sql))


def _ask_sqlalchemy(query: DatabaseQuery, sqlalchemy: Any, pa: Any) -> Any:
    def connect() -> Any:
        url = sqlalchemy.engine.make_url(query.url)
        url = url.set(password=query.password) if query.password else url
        return sqlalchemy.create_engine(url, poolclass=sqlalchemy.pool.NullPool).connect()

    connected = _connected(query, connect)
    if isinstance(connected, _Found):
        return connected
    with connected as connection:
        found = connection.exec_driver_sql(_statement(query.sql))
        names = list(found.keys())
        rows = found.fetchall()
    columns = []
    for place, column in enumerate(names):
        values = [float(row[place]) if isinstance(row[place], Decimal) else row[place] for row in rows]
        try:
            columns.append(pa.array(values))
        except (pa.ArrowException, TypeError, OverflowError):
            return _Found(_bad_type(query, str(column), "several types, or one that Arrow has not"))
    return pa.Table.from_arrays(columns, names=names)


def _connected(query: DatabaseQuery, connect: Callable[[], Any]) -> Any:
    try:
        return connect()
    except Exception as error:  # whatever a driver raises
        return _Found(
            f"{query.where}: expected a database that lets this member in, found: {_reason(query, error)}; check the URL, that the "
            "server runs, and user and password (the user in the URL; the password in source.password_file, or for PostgreSQL in "
            "PGPASSWORD)"
        )


def _statement(sql: str) -> str:
    """A statement as a driver may put it into another one: without the closing semicolon, and behind a comment a new line."""
    return sql.strip().rstrip(";") + "\n"


# --- what a driver says ------------------------------------------------------------------------------------


def _bad_query(query: DatabaseQuery, error: Exception) -> str:
    return (
        f"{query.where}: expected one SELECT statement that the database answers, found: {_reason(query, error)}; "
        "mend the query"
    )


def _reason(query: DatabaseQuery, error: Exception) -> str:
    """A driver's own words, in one line; none of them where they hold a password."""
    text = str(error)
    if any(secret in text for secret in _secrets(query)):
        return f"{type(error).__name__} (its words are not shown, as they hold the password)"
    first = _BEHIND_REASON.split(text)[0]
    return " ".join(_BEFORE_REASON.sub("", first).split())[:LONGEST_REASON] or type(error).__name__


def _secrets(query: DatabaseQuery) -> Iterator[str]:
    for secret in (query.password, os.environ.get("PGPASSWORD", "")):
        if secret:
            yield from (secret, quote(secret, safe=""), repr(secret)[1:-1])


# --- types -------------------------------------------------------------------------------------------------


def _readable(query: DatabaseQuery, table: Any, pa: Any) -> Any:
    """The table with plain types only. Raises DataError naming the column whose values are not read."""
    if not table.num_columns:
        raise DataError(f"{query.where}: expected a query that finds columns, found none; name some behind SELECT")
    columns = []
    for place, field in enumerate(table.schema):
        metadata = field.metadata or {}
        kind = metadata.get(_TYPE, b"").decode("utf-8", "replace")
        column = table.column(place)
        plain = getattr(field.type, "storage_type", field.type)
        opaque = isinstance(field.type, pa.BaseExtensionType) or b"ARROW:extension:name" in metadata
        if kind in READ_WRONGLY or not _is_plain(plain, pa):
            raise DataError(_bad_type(query, field.name, kind or str(plain)))
        if opaque:
            column = pa.chunked_array([getattr(chunk, "storage", chunk) for chunk in column.chunks], plain)
        if kind == "numeric":
            column = column.cast(pa.float64())
        columns.append(column)
    return pa.Table.from_arrays(columns, names=table.column_names)


def _is_plain(kind: Any, pa: Any) -> bool:
    types = pa.types
    if types.is_dictionary(kind):
        return _is_plain(kind.value_type, pa)
    return any(
        check(kind)
        for check in (
            types.is_null,
            types.is_boolean,
            types.is_integer,
            types.is_floating,
            types.is_decimal,
            types.is_string,
            types.is_large_string,
            types.is_temporal,
        )
    )


def _bad_type(query: DatabaseQuery, column: str, kind: str) -> str:
    return (
        f"the result of {query.where}, column {column!r}: expected numbers, truth values, texts, dates or times, found the type "
        f"{kind:.60}, which is not read; cast it in the query (to double precision, or to text), or leave it out"
    )
