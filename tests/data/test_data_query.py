"""A query over a party's own files: what it finds is held to the schema, and it reaches nothing but these files."""

from __future__ import annotations

import gzip
import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

import telstra
from hansa.data.columns import whole
from hansa.data.files import open_table
from hansa.data.query import Query
from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.data.streamed import open_rows
from hansa.errors import DataError

AY = Schema(("a",), "y")
SECRET = "nobody-may-read-this"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def cells(tmp_path) -> dict[str, Path]:
    """Two tables; some cells of the first one are no numbers."""
    return {
        "cells": write(tmp_path / "cells.csv", "cell;load\nn1;1.5\nn2;\nn3;NA\nn4;x\n"),
        "faults": write(tmp_path / "faults.csv", "cell,fault\nn4,0\nn1,1\nn2,0\nn3,1\n"),
    }


JOINED = "SELECT load AS a, fault AS y FROM cells JOIN faults USING (cell) {} ORDER BY cell"


def test_cells_of_a_csv_file_are_texts_and_the_result_is_read_as_a_file_is(cells):
    query = Query(JOINED.format("WHERE load IS DISTINCT FROM 'x'"), cells, "north.toml, source.query")
    with open_table(query) as table:
        assert table.names == ("a", "y")
        assert table.types == ("VARCHAR", "VARCHAR")
    rows = read_rows(query, AY, label_kind="binary")
    np.testing.assert_array_equal(rows.features, np.array([[1.5, np.nan, np.nan]], np.float32))
    assert rows.label.tolist() == [1, 0, 1]


def test_a_fault_of_the_result_names_query_row_and_column(cells):
    with pytest.raises(DataError) as refused:
        read_rows(Query(JOINED.format(""), cells, "north.toml, source.query"), AY, label_kind="binary")
    assert str(refused.value) == (
        "the result of north.toml, source.query, row 4, column 'a': expected a number (at most 3.4e38, or empty for missing), "
        "found 'x'; leave the cell empty where the value is missing; write numbers in place of texts, or list the "
        "texts as levels ([categories] in the plan)"
    )
    report = check_rows(Query("SELECT 1 AS a, 2 AS a, 3 AS b", {}, "q"), AY, label_kind="binary")
    assert [(v.column, v.expected, v.found) for v in report.violations] == [
        ("y", "a column of this name", "columns 'a', 'a', 'b'"),
        ("a", "one column of this name", "2 columns, numbers 1, 2"),
        ("b", "only the schema's columns 'a', 'y'", "one more"),
    ]
    with pytest.raises(DataError, match=r"column 'a': expected a number .* \(of type DATE\); cast the column"):
        read_rows(Query("SELECT DATE '2026-01-01' AS a, 1 AS y"), AY, label_kind="binary")
    with pytest.raises(DataError, match="the result of the query: expected at least one row, found no rows"):
        read_rows(Query("SELECT 1 AS a, 1 AS y WHERE false"), AY, label_kind="binary")


def test_every_kind_of_file_and_a_folder_is_a_table_of_a_query(tmp_path):
    table = pa.table({"id": [1, 2, 3], "v": pa.array(["1", None, "3"]).dictionary_encode()})
    (tmp_path / "folder").mkdir()
    for place in range(3):
        pq.write_table(table.slice(place, 1), tmp_path / "folder" / f"{place}.parquet")
    pq.write_table(table, tmp_path / "t.parquet")
    feather.write_feather(table, tmp_path / "t.feather")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"id,v\n1,1\n2,\n3,3\n"))
    wide = ",".join(["id", "v", *(f"w{i}" for i in range(300))])
    write(tmp_path / "wide.csv", f"{wide}\n" + "".join(f"{i},{v}{',0' * 300}\n" for i, v in ((1, 1), (2, ""), (3, 3))))
    for name in ("t.parquet", "t.feather", "t.csv.gz", "wide.csv", "folder", "folder/*.parquet"):
        for called in ("t", 'odd "name; x', "arrow_table", "cells"):
            quoted = '"' + called.replace('"', '""') + '"'
            sql = f"SELECT TRY_CAST(v AS DOUBLE) AS a, TRY_CAST(id AS INTEGER) AS y FROM {quoted} ORDER BY y;"
            rows = read_rows(Query(sql, {called: tmp_path / name}), AY, label_kind="numeric")
            np.testing.assert_array_equal(rows.features[0], np.array([1, np.nan, 3], np.float32))
            assert rows.label.tolist() == [1, 2, 3]


def test_a_file_of_a_query_that_is_no_table_is_refused_as_any_file(tmp_path, cells):
    torn = write(tmp_path / "torn.csv", "a,y\n1,2\n1,2,3\n")
    for path, said in (
        (tmp_path / "none.csv", "none.csv: expected a file, found none"),
        (torn, "torn.csv: expected a readable table, found: row 2 has 3 cells, where the header names 2 columns"),
        (
            write(tmp_path / "case.csv", "a,A\n1,2\n"),
            "case.csv, column 'A': expected names that SQL tells apart .*'a' too",
        ),
        (write(tmp_path / "nameless.csv", "a,\n1,2\n"), "nameless.csv: column 2 has no name that SQL takes"),
    ):
        with pytest.raises(DataError, match=said):
            open_table(Query("SELECT * FROM t", {"t": path}))
    with pytest.raises(DataError, match=r"'cells' and 'Cells' in source\.files are one name in SQL"):
        open_table(Query("SELECT * FROM cells", {**cells, "Cells": cells["cells"]}))


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("", "found: 0 statements"),
        ("SELECT 1; SELECT 2", "found: 2 statements"),
        ("SELECT * FROM cells; DROP TABLE cells", "found: 2 statements"),
        ("SELEC 1", "found: Parser Error"),
        ("SELECT 1) AS x; --", "found: Parser Error"),
        ("SELECT * FROM nowhere", "found: Catalog Error: Table with name nowhere does not exist"),
        ("SELECT nothing FROM cells", "found: Binder Error"),
        ("SELECT CAST(load AS DOUBLE) AS a FROM cells", "found: Conversion Error: Could not convert string 'NA'"),
        pytest.param(
            "PIVOT cells ON cell USING count(load)",
            "a PIVOT without the list of its columns",
            marks=pytest.mark.skipif(duckdb.__version__.startswith("1.1."), reason="DuckDB 1.1 takes it, and rightly"),
        ),
        ("COPY cells TO 'OUT'", "a statement of the kind COPY"),
        ("COPY (SELECT 1) TO 'OUT'", "a statement of the kind COPY"),
        ("EXPORT DATABASE 'OUT'", "a statement of the kind "),
        ("ATTACH 'OUT' AS x", "a statement of the kind ATTACH"),
        ("INSTALL httpfs", "a statement of the kind LOAD"),
        ("SET lock_configuration = false", "a statement of the kind SET"),
        ("CREATE TABLE x AS SELECT 1", "a statement of the kind CREATE"),
        ("CALL range(3)", "a statement of the kind CALL"),
        ("EXPLAIN ANALYZE SELECT 1", "a statement of the kind EXPLAIN"),
        ("SELECT * FROM query('COPY cells TO ''OUT''')", "Expected a single SELECT statement"),
    ],
)
def test_what_is_not_one_select_statement_is_refused_and_writes_nothing(tmp_path, monkeypatch, cells, sql, said):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(DataError) as refused:
        open_table(Query(sql, cells, "north.toml, source.query"))
    assert str(refused.value).startswith(
        "north.toml, source.query: expected one SELECT statement of DuckDB's SQL that reads "
    )
    assert said in str(refused.value)
    assert "'cells', 'faults' only" in str(refused.value)
    assert sorted(tmp_path.iterdir()) == before


READERS = (
    "SELECT * FROM read_csv('{}')",
    "SELECT * FROM read_csv_auto(['{}'])",
    "SELECT * FROM read_text('{}')",
    "SELECT * FROM read_blob('{}')",
    "SELECT * FROM read_parquet('{}')",
    "SELECT * FROM parquet_metadata('{}')",
    "SELECT * FROM glob('{}')",
    "SELECT * FROM sniff_csv('{}')",
    "WITH x AS (SELECT * FROM read_text('{}')) SELECT * FROM x, cells",
    "SELECT (SELECT content FROM read_text('{}')) AS a",
    "SELECT * FROM query('SELECT * FROM read_text(''{}'')')",
    "SELECT * FROM query_table('{}')",
    "SELECT * FROM '{}'",
)


@pytest.mark.parametrize("reader", READERS)
def test_a_query_reaches_no_file_by_itself_not_even_one_of_its_own(tmp_path, cells, reader):
    other = write(tmp_path / "other.csv", f"a,y\n{SECRET},1\n")
    with open_table(cells["cells"]) as table:
        opened = f"/proc/self/fd/{table.handle.fileno()}"
        for path in (other, cells["cells"], opened):
            with pytest.raises(DataError) as refused:
                open_table(Query(reader.format(path), cells, "q"))
            assert SECRET not in str(refused.value)
            if " '" not in reader and "query_table" not in reader:
                assert "found one that reads files by itself; name each file in source.files" in str(refused.value)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM secret_frame",
        "SELECT getenv('HANSA_TEST_SECRET')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/t.csv')",
        "SELECT * FROM postgres_scan('', 'public', 't')",
        "SELECT * FROM sqlite_scan('t.db', 't')",
    ],
)
def test_a_query_reaches_no_variable_environment_network_or_extension(cells, monkeypatch, sql):
    secret_frame = {"c0": np.arange(3)}  # found by DuckDB's own search in the caller's variables, were it not off
    monkeypatch.setenv("HANSA_TEST_SECRET", SECRET)
    with pytest.raises(DataError) as refused:
        open_table(Query(sql, cells))
    assert SECRET not in str(refused.value)
    assert len(secret_frame) == 1


def test_behind_the_query_duckdb_stays_locked(tmp_path, cells):
    with open_table(Query("SELECT * FROM cells", cells)) as table:
        for statement in (
            "SET enable_external_access = true",
            "SET python_enable_replacements = true",
            f"COPY cells TO '{tmp_path / 'out.csv'}'",
            f"SELECT * FROM read_text('{cells['cells']}')",
            f"ATTACH '{tmp_path / 'x.db'}' AS x",
        ):
            with pytest.raises(duckdb.Error):
                table.connection.execute(statement)
    assert not (tmp_path / "out.csv").exists()


def test_a_result_that_differs_from_run_to_run_is_one_table_for_all_scans(tmp_path):
    n = 20_000
    write(tmp_path / "n.csv", "i\n" + "".join(f"{i}\n" for i in range(n)))
    query = Query("SELECT i, random() AS r FROM n ORDER BY random()", {"n": tmp_path / "n.csv"})
    with open_table(query) as table:
        first, second = table.fetch(["c0", "c1"]), table.fetch(["c0", "c1"])
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)
        assert table.cells([(0, 777)]) == [first[0][777]]
        assert sorted(map(int, first[0])) == list(range(n))


# --- real tables --------------------------------------------------------------------------------------------


@pytest.mark.skipif(telstra.folder() is None, reason="the real tables are not here")
def test_five_tables_joined_in_sql_hold_what_the_joined_table_holds():
    """`telstra_raw` as five tables, and as one: every row and every column of it, not only counts."""
    telstra.assert_same_rows(Query(telstra.joined(), telstra.raw()))


# --- column by column --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files for a time go; it is empty again at the end."""
    made = tmp_path / "for a time"
    made.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(made))
    yield made
    assert list(made.iterdir()) == []


def test_columns_read_one_by_one_are_those_read_at_once(cells, folder):
    joined = JOINED.format("WHERE load IS DISTINCT FROM 'x'")
    kinds = (
        "SELECT sum(n) AS a, n % 2 AS y FROM range(5) AS t(n) GROUP BY n ORDER BY n",
        "SELECT 0.1::DECIMAL(9, 3) AS a, true AS y",
        "SELECT 'NA' AS a, 1 AS y UNION ALL SELECT '2.5', 0",
        "SELECT NULL AS a, 1 AS y",
    )
    for sql in (joined, *kinds):
        query = Query(sql, cells, "q")
        expected = read_rows(query, AY, label_kind="binary")
        with open_rows(query, AY, label_kind="binary", by_column=True) as rows:
            assert list(folder.iterdir()) == []  # the file has no name any more
            assert rows.large
            for _ in range(2):
                np.testing.assert_array_equal(whole(rows), expected.features)
            assert rows.label.tolist() == expected.label.tolist()
            assert rows.warnings == expected.warnings


@pytest.mark.parametrize(
    "sql",
    [
        JOINED.format(""),
        "SELECT 1 AS a, 2 AS a, 3 AS b",
        "SELECT 1 AS a, 0 AS y WHERE false",
        "SELECT nothing",
        "SELECT 1; SELECT 2",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT (CASE WHEN n = 250000 THEN 'x' ELSE '1' END)::INTEGER AS a, 0 AS y FROM range(300000) AS t(n)",
    ],
)
def test_faults_have_the_same_words_column_by_column(cells, folder, sql):
    query = Query(sql, cells, "q")
    with pytest.raises(DataError) as at_once:
        read_rows(query, AY, label_kind="binary")
    with pytest.raises(DataError) as one_by_one, open_rows(query, AY, label_kind="binary", by_column=True):
        pass
    assert str(one_by_one.value) == str(at_once.value)
