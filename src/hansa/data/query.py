"""A query of a party over its own files, in place of a table's file: what it is, and which name may stand for a file in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


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


Source = str | Path | Query
"""Where a table's rows are: a path (of a file, a folder or a pattern), or a query."""


def paths_of(source: Source | None) -> dict[str, Path]:
    """What each file of a source is called in a member's file, and its path."""
    if source is None:
        return {}
    if isinstance(source, Query):
        return {f"source.files.{name}": path for name, path in source.files.items()}
    return {"table": Path(source)}
