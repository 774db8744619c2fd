"""A query of a party, in place of a table's file: over its own files, or to its own database; and the names of the files in it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Query:
    """One SELECT statement in DuckDB's SQL.

    Attributes:
        sql: the statement.
        files: by name of a table in it, the file, folder or pattern with its rows.
        where: what errors call the statement, such as "north.toml, source.query".
    """

    sql: str
    files: Mapping[str, Path] = field(default_factory=dict)
    where: str = "the query"


@dataclass(frozen=True)
class DatabaseQuery:
    """One SELECT statement in the SQL of a database.

    Attributes:
        url: of the database, without a password (`fault_of_url`).
        sql: the statement.
        password: what the file of it holds, or empty: then the driver finds one (as in PGPASSWORD). Never shown.
        password_file: where it stands, or None.
        where: what errors call the statement, such as "north.toml, source.query".
    """

    url: str
    sql: str
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    where: str = "the query"


@dataclass(frozen=True)
class Parts:
    """Some Parquet files of a table that has several.

    Attributes:
        table: the folder or pattern, for errors. files: in their order, at least one.
    """

    table: Path
    files: tuple[Path, ...]


Source = str | Path | Query | DatabaseQuery | Parts
"""Where a table's rows are: a path (of a file, a folder or a pattern), a query, or some files of a table."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+_.\-]*://\S*")
_SECRET_KEY = re.compile(r"passw|pwd|secret|token", re.IGNORECASE)


def fault_of_url(url: str) -> str | None:
    """Why a database's URL is refused, and the cure; None where it is not. Never quotes the URL, which may hold a password."""
    cure = "take it out, and write it in a file of mode 0600 that source.password_file names, or set PGPASSWORD for PostgreSQL"
    if _URL.fullmatch(url) is None:
        return (
            'expected a URL such as "postgresql://user@host:5432/database" (it is not shown, as it may hold a password)'
        )
    # Not by urlsplit: it ends the user's part at signs that drivers take for signs of a password.
    before, at, _ = url.split("://", 1)[1].rpartition("@")
    if at and ":" in before:
        return f"expected a URL without a password, found one with `:` before `@`; {cure} (an `@` elsewhere is written %40)"
    try:
        options = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return "expected a URL, found one that cannot be taken apart; check its brackets (it is not shown, as it may hold a password)"
    if any(_SECRET_KEY.search(key) for key, _ in options):
        return f"expected a URL without a password, found one among the options behind `?`; {cure}"
    return None


def paths_of(source: Source | None) -> dict[str, Path]:
    """What each file of a source is called in a member's file, and its path."""
    if source is None:
        return {}
    if isinstance(source, Query):
        return {f"source.files.{name}": path for name, path in source.files.items()}
    if isinstance(source, DatabaseQuery):
        return {} if source.password_file is None else {"source.password_file": source.password_file}
    if isinstance(source, Parts):
        return {"table": source.table}
    return {"table": Path(source)}
