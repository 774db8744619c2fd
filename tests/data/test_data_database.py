"""A query to a database: the rows that a file of the same table gives, errors in our words, and no password anywhere."""

from __future__ import annotations

import importlib
import sys
import tempfile
import traceback
import types

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import csv

import telstra
from hansa.data import database
from hansa.data.columns import whole
from hansa.data.query import DatabaseQuery, fault_of_url
from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.data.streamed import open_rows
from hansa.errors import DataError
from hansa.node.check import check_own_table
from hansa.plan import parse_plan
from made_consortium import PLAN
from postgresql import Server

WHERE = "north.toml, source.query"
AY = Schema(("a",), "y")
PLANTED = "plan/ted pass:w@rd%"


def asked(server: Server, sql: str) -> DatabaseQuery:
    return DatabaseQuery(server.url, sql, server.password, None, WHERE)


def refused(query: DatabaseQuery, schema: Schema = AY) -> str:
    """What the error says. No traceback shows a password, nor an error of a driver."""
    with pytest.raises(DataError) as error:
        read_rows(query, schema, label_kind="numeric")
    whole = "".join(traceback.format_exception(error.value)) + repr(query)
    assert query.password == "" or query.password not in whole
    assert "adbc_driver_manager" not in whole
    assert error.value.__context__ is None
    return str(error.value)


# --- types -------------------------------------------------------------------------------------------------

NUMBERS = {
    "smallint": ["-32768", "7", None, "32767"],
    "integer": ["-2147483648", "16777217", None, "2147483647"],
    "bigint": ["-9223372036854775808", "9007199254740993", None, "9223372036854775807"],
    "real": ["0.1", "-3.25e-20", None, "1e30"],
    "double precision": ["0.1", "16777217.0000001", None, "1e-300"],
    "numeric": ["123456789012345678901234567890.123456789012345678901", "0.1", None, "-0.00000000000000000000001"],
    "numeric(40, 20)": ["1.00000005960464477540", "99999999999999999999.5", None, "NaN"],
    "boolean": ["true", "false", None, "true"],
    "text": ["12.5", " 3 ", None, "NA"],
    "varchar(10)": ["1e3", "0", "", "null"],
    "char(6)": ["1.5", "2", None, "3"],
}
"""Cells of a column of each type that is read as numbers."""


def test_every_type_of_numbers_is_read_as_a_csv_file_of_the_same_table_is(postgresql, tmp_path):
    names = tuple(f"f{place}" for place in range(len(NUMBERS)))
    columns = ", ".join(f"{name} {kind}" for name, kind in zip(names, NUMBERS, strict=True))
    rows = list(zip(*NUMBERS.values(), strict=True))
    cells = [", ".join("NULL" if cell is None else f"'{cell}'" for cell in row) for row in rows]
    postgresql.run(
        f"CREATE TABLE numbers (place integer, {columns}, y integer)",
        *(f"INSERT INTO numbers VALUES ({place}, {row}, {place % 2})" for place, row in enumerate(cells)),
    )
    path = tmp_path / "numbers.csv"
    lines = [",".join("" if cell is None else cell for cell in row) for row in rows]
    path.write_text(
        "\n".join([",".join((*names, "y")), *(f"{line},{place % 2}" for place, line in enumerate(lines))]) + "\n"
    )
    schema = Schema(names, "y")
    found = read_rows(
        asked(postgresql, f"SELECT {', '.join(names)}, y FROM numbers ORDER BY place"), schema, label_kind="binary"
    )
    wanted = read_rows(path, schema, label_kind="binary")
    np.testing.assert_array_equal(found.features.view(np.uint32), wanted.features.view(np.uint32))
    np.testing.assert_array_equal(found.label, wanted.label)
    assert np.isnan(found.features).sum() == 14
    report = check_rows(asked(postgresql, "SELECT f2 AS a, y FROM numbers ORDER BY place"), AY, label_kind="binary")
    assert report.ok
    assert "column 'a': float32 cannot hold its values apart" in report.warnings[0]


def test_a_decimal_comma_of_the_plan_is_for_texts_and_leaves_numeric_alone(postgresql):
    query = asked(postgresql, "SELECT 1.5::numeric AS a, 1 AS y, '2,5' AS b")
    rows = read_rows(query, Schema(("a", "b"), "y", decimal=","), label_kind="numeric")
    assert rows.features.tolist() == [[1.5], [2.5]]


def test_numbers_that_no_double_holds_are_refused_and_not_called_missing(postgresql):
    for cell, said in (("1e400", "a finite number"), ("Infinity", "a finite number"), ("1e300", "a number (at most")):
        assert f"row 1, column 'a': expected {said}" in refused(
            asked(postgresql, f"SELECT '{cell}'::numeric AS a, 1 AS y")
        )


def test_categories_are_texts_enums_and_whole_numbers(postgresql):
    postgresql.run("CREATE TYPE band AS ENUM ('low', 'high')")
    sql = "SELECT b::band AS b, n::numeric AS n, 1 AS y FROM (VALUES ('low', 3), ('high', 5), (NULL, NULL)) AS t(b, n)"
    rows = read_rows(
        asked(postgresql, sql), Schema(("b", "n"), "y", categories=(("high", "low"), (3, 5))), label_kind="numeric"
    )
    np.testing.assert_array_equal(rows.features, np.array([[1, 0, np.nan], [0, 1, np.nan]], np.float32))


@pytest.mark.parametrize(
    "cell",
    [
        "date '2026-01-02'",
        "timestamp '2026-01-02 03:04:05'",
        "timestamptz '2026-01-02 03:04:05+01'",
        "time '03:04'",
        "interval '1 day'",
        "date 'infinity'",
    ],
)
def test_dates_and_times_are_refused_where_they_are_read_and_pass_where_they_are_not(postgresql, cell):
    sql = f"SELECT {cell} AS d, 1.5 AS a, 1 AS y"
    schema = Schema(("d", "a"), "y")
    assert "column 'd': expected a number" in refused(asked(postgresql, sql), schema)
    rows = read_rows(asked(postgresql, sql), Schema(("a",), "y", ignore=("d",)), label_kind="binary")
    assert rows.features.tolist() == [[1.5]]


@pytest.mark.parametrize(
    ("cell", "hour"),
    [
        ("date '2026-01-02'", 0),
        ("timestamp '2026-01-02 03:04:05'", 3),
        ("timestamptz '2026-01-02 03:04:05+01'", 2),
        ("'2026-01-02T03:04'", 3),
        ("NULL::date", np.nan),
    ],
)
def test_dates_become_numbers_by_the_schemas_rules(postgresql, cell, hour):
    schema = Schema(("days", "hour"), "y", dates=(("days", "days of d"), ("hour", "hour of d")))
    rows = read_rows(asked(postgresql, f"SELECT {cell} AS d, 1 AS y"), schema, label_kind="binary")
    np.testing.assert_array_equal(rows.features, [[np.nan if np.isnan(hour) else 20455], [hour]])
    assert "expected a date" in refused(asked(postgresql, "SELECT date 'infinity' AS d, 1 AS y"), schema)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        ("array[1, 2]", "_int4"),
        (r"'\x00ff'::bytea", "bytea"),
        ("1::money", "money"),
        ("4000000000::oid", "oid"),
        ("gen_random_uuid()", "uuid"),
        ("inet '10.0.0.1'", "inet"),
        ("'[1,2)'::int4range", "unnamed<oid:3904>"),
        ("point(1, 2)", "point"),
        ("b'101'", "bit"),
    ],
)
def test_a_type_that_is_not_read_is_refused_with_the_columns_name(postgresql, cell, kind):
    assert refused(asked(postgresql, f"SELECT 1 AS y, {cell} AS a")) == (
        f"the result of {WHERE}, column 'a': expected numbers, truth values, texts, dates or times, found the type {kind}, which is "
        "not read; cast it in the query (to double precision, or to text), or leave it out"
    )


def test_rows_of_the_result_are_held_to_the_schema_as_those_of_a_file(postgresql):
    sql = "SELECT unnest(array['1', NULL, 'x']) AS a, 1 AS y;  "
    assert refused(asked(postgresql, sql)) == (
        f"the result of {WHERE}, row 3, column 'a': expected a number (at most 3.4e38, or empty for missing), found 'x'; "
        "leave the cell empty where the value is missing; write numbers in place of texts, or list the texts as levels "
        "([categories] in the plan)"
    )
    assert "expected at least one row, found no rows" in refused(
        asked(postgresql, "SELECT 1 AS a, 1 AS y WHERE false -- none")
    )
    assert "2 columns, numbers 1, 2; rename" in refused(asked(postgresql, "SELECT 1 AS a, 2 AS a, 1 AS y"))
    assert "expected a query that finds columns, found none" in refused(asked(postgresql, "SELECT"))


# --- faults ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT * FROM nowhere", 'found: ERROR: relation "nowhere" does not exist; mend the query'),
        ("SELEC 1", 'found: ERROR: syntax error at or near "SELEC"; mend'),
        ("SELECT 1; SELECT 2", "found: ERROR: cannot insert multiple commands into a prepared statement"),
        ("SELECT 1 / 0 AS a", "found: ERROR: division by zero; mend"),
        ("", "mend the query"),
        ("CREATE TABLE made (a integer)", "cannot execute CREATE TABLE in a read-only transaction"),
        ("INSERT INTO kept VALUES (2) RETURNING a", "cannot execute INSERT in a read-only transaction"),
        ("WITH x AS (DELETE FROM kept RETURNING a) SELECT a FROM x", "in a read-only transaction"),
        (
            "SELECT set_config('transaction_read_only', 'off', true) AS a",
            "read-write mode must be set before any query",
        ),
        ("SET TRANSACTION READ WRITE", "found none; name some behind SELECT"),
    ],
)
def test_what_the_database_refuses_is_an_error_with_its_words_and_writes_nothing(postgresql, sql, said):
    postgresql.run("DROP TABLE IF EXISTS kept", "CREATE TABLE kept AS SELECT 1 AS a")
    text = refused(asked(postgresql, sql))
    assert text.startswith((f"{WHERE}: expected one SELECT statement that the database answers, found: ", WHERE))
    assert said in text
    assert read_rows(asked(postgresql, "SELECT a, 1 AS y FROM kept"), AY, label_kind="numeric").features.tolist() == [
        [1]
    ]


def test_a_database_that_is_not_there_or_lets_nobody_in_is_an_error_in_words(postgresql, monkeypatch):
    sql = "SELECT 1 AS a, 1 AS y"
    for url, said in (
        ("postgresql://hansa@127.0.0.1:1/postgres", "Connection refused"),
        (postgresql.url.replace("/postgres", "/nothing"), 'database "nothing" does not exist'),
        (f"{postgresql.url}?nonsense=1", 'invalid URI query parameter: "nonsense"'),
    ):
        text = refused(DatabaseQuery(url, sql, postgresql.password, None, WHERE))
        assert text.startswith(f"{WHERE}: expected a database that lets this member in, found: ")
        assert said in text
    monkeypatch.setenv("PGPASSWORD", "")
    assert "no password supplied" in refused(DatabaseQuery(postgresql.url, sql, "", None, WHERE))
    assert 'password authentication failed for user "hansa"' in refused(
        DatabaseQuery(postgresql.url, sql, PLANTED, None, WHERE)
    )


def test_user_and_password_come_from_the_environment_too(postgresql, monkeypatch):
    monkeypatch.setenv("PGUSER", "hansa")
    monkeypatch.setenv("PGPASSWORD", postgresql.password)
    query = DatabaseQuery(postgresql.url.replace("hansa@", ""), "SELECT 2 AS a, 1 AS y", "", None, WHERE)
    assert read_rows(query, AY, label_kind="numeric").features.tolist() == [[2]]


def test_a_password_of_any_signs_is_given_as_it_is(postgresql):
    odd = "ä/b c:d@e%f?g#h&i=j'k\"l\\m"
    doubled = odd.replace("'", "''")
    postgresql.run("DROP ROLE IF EXISTS odd", f"CREATE ROLE odd LOGIN PASSWORD '{doubled}'")
    for options in ("", "?application_name=x"):
        url = postgresql.url.replace("hansa@", "odd@") + options
        query = DatabaseQuery(url, "SELECT 2 AS a, 1 AS y", odd, None, WHERE)
        assert read_rows(query, AY, label_kind="numeric").features.tolist() == [[2]]


def test_a_driver_that_says_the_password_is_not_quoted(postgresql, monkeypatch):
    """libpq shows an address whose bracket is not closed as a whole, with the password that was added to it."""
    broken = DatabaseQuery("postgresql://hansa@[::1", "SELECT 1", PLANTED, None, WHERE)
    assert "OperationalError (its words are not shown, as they hold the password)" in refused(broken)
    monkeypatch.setenv("PGPASSWORD", PLANTED)
    postgresql.run("CREATE TABLE IF NOT EXISTS words (a text)")
    said = refused(DatabaseQuery(postgresql.url, f"SELECT '{PLANTED}'::integer", postgresql.password, None, WHERE))
    assert PLANTED not in said


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://hansa:planted@host/db", "found one with `:` before `@`; take it out"),
        ("postgresql://hansa:pl#nted@host/db", "found one with `:` before `@`"),
        ("postgresql://hansa:pl/nted@host/db", "found one with `:` before `@`"),
        ("postgresql://hansa:pl@nted@host/db", "found one with `:` before `@`"),
        ("postgresql://host/db?password=planted", "found one among the options behind `?`; take it out"),
        ("postgresql://host/db?sslmode=require&sslPassword=planted", "found one among the options behind `?`"),
        ("host=planted password=planted", "expected a URL such as"),
        ("postgresql://hansa:planted@[::1/db", "found one with `:` before `@`"),
        ("postgresql://[::1planted/db", "expected a URL, found one that cannot be taken apart"),
        ("planted", "expected a URL such as"),
    ],
)
def test_a_url_with_a_password_or_none_at_all_is_refused_and_not_shown(url, said):
    fault = fault_of_url(url)
    assert fault is not None
    assert said in fault
    assert "nted" not in fault


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db",
        "postgres://user@host:5432/db?sslmode=verify-full&sslrootcert=/etc/ca.pem&connect_timeout=10",
        "postgresql://user@[::1]:5432/db",
        "postgresql://a:1,b:2/db",
        "sqlite:////tmp/cells.db",
        "mysql+pymysql://user@host/db",
    ],
)
def test_a_url_without_a_password_is_taken(url):
    assert fault_of_url(url) is None


# --- drivers -----------------------------------------------------------------------------------------------


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these packages were not installed."""
    there = importlib.import_module

    def import_module(name: str) -> types.ModuleType:
        if name.split(".")[0] in names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return there(name)

    monkeypatch.setattr(database.importlib, "import_module", import_module)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://host/db", "pip install 'hansa[postgresql]'"),
        ("mysql://host/db", "install pyarrow and adbc-driver-mysql, or SQLAlchemy"),
        ("manager://host/db", "adbc-driver-manager"),
    ],
)
def test_a_missing_driver_is_named(monkeypatch, url, said):
    without(monkeypatch, "adbc_driver_postgresql", "sqlalchemy")
    assert said in refused(DatabaseQuery(url, "SELECT 1", "", None, WHERE))


def test_any_adbc_driver_that_is_installed_is_used_and_given_the_password_apart(monkeypatch):
    calls = []

    class Cursor:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            calls.append("closed")

        def cursor(self):
            return self

        def execute(self, sql):
            calls.append(sql)

        def fetch_arrow_table(self):
            return pa.table({"a": pa.array([1, 2]).dictionary_encode(), "y": [0, 1]})

    def connect(*arguments):
        calls.append(arguments)
        return Cursor()

    driver = types.ModuleType("adbc_driver_rows")
    driver.dbapi = types.ModuleType("adbc_driver_rows.dbapi")
    driver.dbapi.connect = connect
    monkeypatch.setitem(sys.modules, "adbc_driver_rows", driver)
    monkeypatch.setitem(sys.modules, "adbc_driver_rows.dbapi", driver.dbapi)
    query = DatabaseQuery("rows://there", "SELECT a, y FROM t;", PLANTED, None, WHERE)
    assert read_rows(query, AY, label_kind="binary").features.tolist() == [[1, 2]]
    assert calls == [("rows://there", {"password": PLANTED}), "SELECT a, y FROM t\n", "closed", "closed"]


def test_other_databases_are_read_by_sqlalchemy(tmp_path):
    sqlalchemy = pytest.importorskip("sqlalchemy")
    url = f"sqlite:///{tmp_path / 'cells.db'}"
    engine = sqlalchemy.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE cells (a real, b text, y integer)")
        connection.exec_driver_sql("INSERT INTO cells VALUES (1.5, 'x', 0), (NULL, NULL, 1)")
    engine.dispose()
    schema = Schema(("a", "b"), "y", categories=((), ("w", "x")))
    rows = read_rows(DatabaseQuery(url, "SELECT a, b, y FROM cells"), schema, label_kind="binary")
    np.testing.assert_array_equal(rows.features, np.array([[1.5, np.nan], [1, np.nan]], np.float32))
    assert "no such table: nowhere" in refused(DatabaseQuery(url, "SELECT * FROM nowhere", "", None, WHERE))
    mixed = DatabaseQuery(url, "SELECT 1 AS a UNION ALL SELECT 'x'", "", None, WHERE)
    assert "column 'a': expected numbers, truth values, texts" in refused(mixed)
    assert "found: unable to open database file; check the URL" in refused(
        DatabaseQuery("sqlite:////nowhere/x.db", "SELECT 1", "", None, WHERE)
    )


def test_plain_postgresql_is_not_read_by_sqlalchemy_whose_transaction_could_write(monkeypatch):
    pytest.importorskip("sqlalchemy")
    without(monkeypatch, "adbc_driver_postgresql")
    assert "pip install 'hansa[postgresql]'" in refused(
        DatabaseQuery("postgres://host/db", "SELECT 1", "", None, WHERE)
    )


# --- real tables --------------------------------------------------------------------------------------------


@pytest.mark.skipif(telstra.folder() is None, reason="the real tables are not here")
def test_five_tables_in_a_server_joined_there_hold_what_the_joined_table_holds(postgresql):
    for name, path in telstra.raw().items():
        postgresql.load(name, csv.read_csv(path))
    telstra.assert_same_rows(asked(postgresql, telstra.joined()))


# --- column by column --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where files for a time go; it is empty again at the end."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", NUMBERS)
def test_columns_read_one_by_one_are_those_read_at_once(postgresql, folder, kind):
    cells = ", ".join(
        f"({'NULL' if cell is None else repr(cell)}::{kind}, {n % 2}, {n})" for n, cell in enumerate(NUMBERS[kind])
    )
    query = asked(postgresql, f"SELECT a, y, w FROM (VALUES {cells}) AS t(a, y, w)")
    schema = Schema(("a",), "y", id="w")
    expected = read_rows(query, schema, label_kind="binary")
    with open_rows(query, schema, label_kind="binary", by_column=True) as rows:
        assert list(folder.iterdir()) == []  # the file has no name any more
        assert rows.large
        for _ in range(2):
            np.testing.assert_array_equal(whole(rows), expected.features)
        assert rows.subject.tolist() == expected.subject.tolist()
        assert rows.warnings == expected.warnings
    with open_rows(query, schema, label_kind="binary") as rows:
        assert not rows.large


def test_faults_have_the_same_words_column_by_column(postgresql, folder):
    for sql in (
        "SELECT 1 AS a, 2 AS b, 0 AS y",
        "SELECT a, 0 AS y FROM (VALUES ('x'), ('1')) AS t(a)",
        "SELECT 1 AS a, 0 AS y WHERE false",
        "SELECT 1 / (n - 150000) AS a, 0 AS y FROM generate_series(1, 200000) AS n",
        "SELECT nothing",
        "SELECT '{1}'::integer[] AS a, 0 AS y",
    ):
        query = asked(postgresql, sql)
        with (
            pytest.raises(DataError) as error,
            open_rows(query, AY, label_kind="numeric", by_column=True),
        ):
            pass
        assert str(error.value) == refused(query)
        assert error.value.__context__ is None
        assert postgresql.password not in "".join(traceback.format_exception(error.value))


def test_parts_come_one_after_another(postgresql, folder):
    """The result is never whole in this process."""
    query = asked(
        postgresql,
        "SELECT n::double precision AS a, n % 2 AS y, repeat('x', 500) AS t FROM generate_series(1, 100000) AS n",
    )
    sizes = [part.num_rows for part in database.read_parts(query)]
    assert sizes[0] == 0
    assert sum(sizes) == 100_000
    assert max(sizes) <= 50_000
    schema = Schema(("a",), "y", ignore=("t",))
    with open_rows(query, schema, label_kind="binary", by_column=True) as rows:
        assert rows.n_rows == 100_000
        assert whole(rows).sum(dtype=np.float64) == 100_000 * 100_001 / 2


def test_a_folder_without_room_is_an_error_with_the_cure(postgresql, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    query = asked(postgresql, "SELECT 1 AS a, 0 AS y")
    with (
        pytest.raises(
            DataError, match=r"expected room for it as a file in TMPDIR, .*nowhere, found: .*No such file.*; make room"
        ),
        open_rows(query, AY, label_kind="numeric", by_column=True),
    ):
        pass


def test_a_database_without_a_driver_of_adbc_is_not_read_by_column(tmp_path):
    pytest.importorskip("sqlalchemy")
    query = DatabaseQuery(f"sqlite:///{tmp_path / 'cells.db'}", "SELECT 1 AS a, 0 AS y", "", None, WHERE)
    with (
        pytest.raises(DataError, match=r"by_column = true reads sqlite:// by a driver of ADBC, and none is installed"),
        open_rows(query, AY, label_kind="numeric", by_column=True),
    ):
        pass


def test_a_check_reads_by_column_too(postgresql, folder):
    query = asked(
        postgresql, "SELECT n AS load, n AS rsrp, n AS alarms, n % 2 AS fault FROM generate_series(1, 100) AS n"
    )
    plan = parse_plan(PLAN)
    found = check_own_table(plan, query, plan.schema, True)
    assert found.ok
    assert found.memory.chosen == "by column"
    assert found.table == check_own_table(plan, query, plan.schema).table
