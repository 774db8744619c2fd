"""The real tables `telstra_raw` (five) and `telstra_faults` (the same, joined), and the join in SQL."""

from __future__ import annotations

import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np

from hansa.data.query import Query, Source
from hansa.data.schema import Schema
from hansa.data.source import read_rows

TABLES = ("train", "event_type", "log_feature", "resource_type", "severity_type")
CLASSES = 3

_SOURCES = {
    "event": ("event_type", "count(*)", "event_type"),
    "resource": ("resource_type", "count(*)", "resource_type"),
    "log": ("log_feature", "sum(CAST(volume AS INTEGER))", "feature"),
}


def folder() -> Path | None:
    """Where the real tables lie: where HANSA_DATA says, or in a folder `shared` above the checkout; None if nowhere."""
    if "HANSA_DATA" in os.environ:
        return Path(os.environ["HANSA_DATA"])
    for above in Path(__file__).resolve().parents:
        if (above / "shared" / "data" / "README.md").is_file():
            return above / "shared" / "data"
    return None


def raw() -> dict[str, Path]:
    """The five tables."""
    data = folder()
    assert data is not None
    return {name: data / "telstra_raw" / f"{name}.csv.gz" for name in TABLES}


def schema() -> Schema:
    """Of the joined table, without its region."""
    data = folder()
    assert data is not None
    with gzip.open(data / "telstra_faults.csv.gz", "rt") as file:
        names = file.readline().strip().split(",")
    return Schema(tuple(names[1:-1]), "fault_severity")


def joined() -> str:
    """The query that joins the five tables, in words that DuckDB and PostgreSQL both take."""
    parts, joins, columns = [], [], []
    names = schema().features
    for kind, (table, value, word) in _SOURCES.items():
        own = [name for name in names if name.startswith(f"{kind}_")]
        chosen = [
            f"coalesce({value} FILTER (WHERE {table} = '{word} {name.removeprefix(f'{kind}_')}'), 0) AS {name}"
            for name in own
        ]
        parts.append(f"{kind} AS (SELECT id, {', '.join(chosen)} FROM {table} GROUP BY id)")
        joins.append(f"JOIN {kind} USING (id)")
        columns += own
    return f"""
        WITH {", ".join(parts)}
        SELECT CAST(replace(location, 'location ', '') AS INTEGER) AS location,
               CAST(replace(severity_type, 'severity_type ', '') AS INTEGER) AS severity_type,
               {", ".join(columns)}, fault_severity
        FROM train JOIN severity_type USING (id) {" ".join(joins)}
        """


def assert_same_rows(source: Source) -> None:
    """Every row and every column that the source gives is of `telstra_faults`, and the other way."""
    data = folder()
    assert data is not None
    whole = Query("SELECT * EXCLUDE (region) FROM t", {"t": data / "telstra_faults.csv.gz"})
    wanted = read_rows(whole, schema(), label_kind=CLASSES)
    found = read_rows(source, schema(), label_kind=CLASSES)
    assert found.n_rows == wanted.n_rows == 7381
    assert Counter(found.label.tolist()) == Counter(wanted.label.tolist())
    np.testing.assert_array_equal(found.features.sum(axis=1), wanted.features.sum(axis=1))
    width = 4 * (len(schema().features) + 1)
    rows = [
        np.sort(np.ascontiguousarray(np.vstack([read.features, read.label]).T).view(f"V{width}").ravel())
        for read in (found, wanted)
    ]
    assert (rows[0] == rows[1]).all()
