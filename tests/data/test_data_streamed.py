"""Rows read column by column are those read into memory: the same values, errors and models; files that change are refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import duckdb
import numpy as np
import pytest

from hansa.data import columns, source, streamed
from hansa.data.columns import each, whole
from hansa.data.files import open_table
from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.data.streamed import StreamedRows, open_rows
from hansa.errors import DataError
from hansa.node.in_process import train_in_process
from made_tables import plan as made_plan

LEVELS = ("coast", "hill", "plain")
SCHEMA = Schema(("load", "site", "age", "count"), "label", "weight", categories=((), LEVELS, (), ()), ignore=("cell",))
N = 500


def write(path, rows=N, seed=0, label="numbers", change=""):
    """A Parquet file of made-up rows with missing values, a category of texts, whole numbers, weights."""
    path.parent.mkdir(exist_ok=True, parents=True)
    labels = {
        "numbers": "(u + v > 1)::INTEGER",
        "classes": "CASE WHEN u < .3 THEN 'a' WHEN v < .5 THEN 'b' ELSE 'c' END",
        "amounts": "u * 10 - v",
    }
    with duckdb.connect() as connection:
        connection.execute(f"SELECT setseed({seed / 100})")
        connection.execute(
            f"CREATE TABLE made AS SELECT i, random() AS u, random() AS v, random() AS w, random() AS x FROM range({rows}) r(i)"
        )
        connection.execute(
            f"""CREATE TABLE cells AS SELECT 'c' || i AS cell, {labels[label]} AS label,
            CASE WHEN w < .1 THEN NULL ELSE u END AS load,
            CASE WHEN x < .05 THEN '' ELSE ['plain', 'hill', 'coast'][1 + (w * 3)::INTEGER % 3] END AS site,
            (v * 90)::INTEGER AS age, CASE WHEN x < .2 THEN 'nan'::FLOAT ELSE (x * 7)::FLOAT END AS count,
            .5 + (x * 3)::INTEGER AS weight FROM made ORDER BY i"""
        )
        if change:
            connection.execute(change)
        connection.execute(f"COPY cells TO '{path}' (FORMAT parquet, ROW_GROUP_SIZE 2048)")
    return path


def by_column(path, schema=SCHEMA, kind="binary"):
    return open_rows(path, schema, label_kind=kind, by_column=True)


@pytest.fixture(params=[41, streamed.BLOCK_ROWS], ids=["small blocks", "one block"])
def blocks(request, monkeypatch):
    """Rows are read so many at a time."""
    monkeypatch.setattr(streamed, "BLOCK_ROWS", request.param)


def equal(one, other):
    return one is other is None or np.array_equal(one, other, equal_nan=True)


@pytest.mark.usefixtures("blocks")
def test_the_columns_are_those_in_memory(tmp_path):
    folder = tmp_path / "parts"
    for part in range(3):
        write(folder / f"{part}.parquet", 40 * part, part)
    for given in (folder, write(tmp_path / "one.parquet", 5000), str(folder / "*.parquet")):
        rows = read_rows(given, SCHEMA, label_kind="binary")
        with by_column(given) as found:
            assert isinstance(found, StreamedRows)
            assert (found.n_rows, found.n_features, found.large) == (rows.n_rows, 4, True)
            assert equal(found.label, rows.label)
            assert equal(found.weight, rows.weight)
            for _ in range(2):
                assert equal(np.stack(list(each(found))), rows.features)
            assert equal(whole(found), whole(rows))
            assert [(first, group.shape) for first, group in found.groups()] == [
                (f, (1, rows.n_rows)) for f in range(4)
            ]


@pytest.mark.parametrize("name", ["number", "File_Row_Number"])
def test_blocks_are_the_rows_in_their_order(tmp_path, name):
    """Small files come together, and a large one in parts, but where its own column is called as DuckDB's numbers of rows are."""
    sizes = (5, 3, 0, 5000, 1, 1, 7)
    with duckdb.connect() as connection:
        for number, size in enumerate(sizes):
            (tmp_path / "rows").mkdir(exist_ok=True)
            cells = f'SELECT {sum(sizes[:number])} + i AS "{name}" FROM range({size}) r(i)'
            connection.execute(
                f"COPY ({cells}) TO '{tmp_path}/rows/{number}.parquet' (FORMAT parquet, ROW_GROUP_SIZE 2048)"
            )
    with open_table(tmp_path / "rows") as table:
        found = [(first, block.fetch(["c0"])[0]) for first, block in table.blocks(2000)]
        parts = [2000, 2000, 1000] if name == "number" else [5000]
        assert [len(values) for _, values in found] == [8, *parts, 9]
        assert [first for first, _ in found] == [values[0] for _, values in found]
        assert np.concatenate([values for _, values in found]).tolist() == list(range(sum(sizes)))


def test_a_fault_in_two_blocks_is_told_with_its_first_row_and_all_rows(tmp_path, monkeypatch):
    """The first rule of a column that is broken counts, though a later one is broken in an earlier row."""
    change = "UPDATE cells SET label = 2 WHERE cell IN ('c1', 'c8'); UPDATE cells SET label = NULL WHERE cell IN ('c20', 'c33')"
    path = write(tmp_path / "rows.parquet", 50, change=change)
    monkeypatch.setattr(streamed, "BLOCK_ROWS", 10)
    with pytest.raises(DataError, match=r"row 21, column 'label': expected a label in every row.*\(and 1 more rows\)"):
        by_column(path).__enter__()


FORMS = {
    "weights and held-out rows": ("numbers", {"evaluation": 0.2}),
    "subsample": ("numbers", {"evaluation": 0.2, "subsample": 0.6, "colsample_bytree": 0.7}),
    "forest": ("numbers", {"subsample": 0.7, "num_parallel_tree": 2}),
    "classes": ("classes", {"objective": "multi:softprob", "num_class": 3, "evaluation": 0.2}),
    "amounts, wide sums": ("amounts", {"objective": "reg:squarederror", "histogram_bits": 64}),
}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("form", FORMS)
def test_the_model_is_the_one_of_rows_in_memory(tmp_path, form, mode):
    label, given = FORMS[form]
    paths = {"north": tmp_path / "north", "south": tmp_path / "south.parquet"}
    for part in range(3):
        write(paths["north"] / f"{part}.parquet", 150, part, label)
    write(paths["south"], 300, 7, label)
    schema = replace(SCHEMA, classes=("a", "b", "c")) if label == "classes" else SCHEMA
    plan = replace(made_plan(tuple(paths), rounds=4, max_depth=3, max_bin=32, mode=mode, **given), schema=schema)
    kind = plan.parameters.label_kind
    tables = {name: read_rows(path, schema, label_kind=kind) for name, path in paths.items()}
    expected = train_in_process(plan, tables).outcome
    with by_column(paths["north"], schema, kind) as north, by_column(paths["south"], schema, kind) as south:
        found = train_in_process(plan, {"north": north, "south": south}).outcome
    assert found.model == expected.model
    assert found.history == expected.history


BROKEN = {
    "text": "ALTER TABLE cells ALTER age TYPE VARCHAR; UPDATE cells SET age = 'old' WHERE cell IN ('c3', 'c9')",
    "level": "UPDATE cells SET site = 'sea' WHERE cell = 'c7'",
    "infinite": "UPDATE cells SET load = 'inf'::DOUBLE WHERE cell = 'c5'",
    "too large": "UPDATE cells SET load = 1e300 WHERE cell = 'c5'",
    "date": "ALTER TABLE cells ALTER age TYPE DATE USING DATE '2020-01-01'",
    "label": "UPDATE cells SET label = 2 WHERE cell = 'c1'",
    "no label": "UPDATE cells SET label = NULL WHERE cell = 'c1'",
    "negative weight": "UPDATE cells SET weight = -1 WHERE cell = 'c1'",
    "no weight": "UPDATE cells SET weight = 0",
    "two faults": "UPDATE cells SET site = 'sea', weight = -1, count = 'inf' WHERE cell = 'c7'",
    "no rows": "DELETE FROM cells",
    "a column too many": "ALTER TABLE cells ADD COLUMN more INTEGER",
    "a column too few": "ALTER TABLE cells DROP COLUMN age",
}


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("fault", BROKEN)
def test_a_fault_has_the_same_words_both_ways(tmp_path, fault):
    write(
        tmp_path / "rows" / "0.parquet",
        30,
        1,
        change=BROKEN[fault] if fault in ("a column too many", "a column too few", "date", "text") else "",
    )
    write(tmp_path / "rows" / "1.parquet", 30, 2, change=BROKEN[fault])
    if fault == "no rows":
        (tmp_path / "rows" / "0.parquet").unlink()
    if fault == "no weight":
        write(tmp_path / "rows" / "0.parquet", 30, 1, change=BROKEN[fault])
    texts = []
    for read in (
        lambda: read_rows(tmp_path / "rows", SCHEMA, label_kind="binary"),
        lambda: by_column(tmp_path / "rows").__enter__(),
    ):
        with pytest.raises(DataError) as caught:
            read()
        texts.append(str(caught.value))
    assert texts[0] == texts[1]


@pytest.mark.usefixtures("blocks")
def test_warnings_are_the_same_both_ways(tmp_path):
    path = write(
        tmp_path / "rows.parquet",
        change="ALTER TABLE cells ALTER age TYPE BIGINT; UPDATE cells SET age = age + 2000000001",
    )
    rows = read_rows(path, SCHEMA, label_kind="binary")
    assert len(rows.warnings) == 1
    with by_column(path) as found:
        part = f" of the {streamed.BLOCK_ROWS} rows looked at" if streamed.BLOCK_ROWS < N else ""
        (own,), (expected,) = found.warnings, rows.warnings
        assert own.split(", and")[0] == expected.split(", and")[0]
        assert f"different values{part} become equal" in own
        assert part or own == expected


@pytest.mark.parametrize("fault", ["", "level", "two faults", "no weight", "a column too few", "text"])
def test_the_report_of_a_large_table_is_that_of_a_small_one(tmp_path, monkeypatch, fault):
    path = write(tmp_path / "rows.parquet", change=BROKEN.get(fault, ""))
    expected = check_rows(path, SCHEMA, label_kind="binary")
    assert expected.ok == (not fault)
    fetched = []
    monkeypatch.setattr(source, "LARGE_CELLS", 10)
    monkeypatch.setattr(
        source,
        "load",
        lambda table, schema, names, levels, load=source.load: (
            fetched.append(names) or load(table, schema, names, levels)
        ),
    )
    assert repr(check_rows(path, SCHEMA, label_kind="binary")) == repr(expected)
    assert max(map(len, fetched)) == 1


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("how", ["other values", "other size", "touched", "cut off"])
def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path, how):
    path, other = write(tmp_path / "rows" / "0.parquet", seed=1), write(tmp_path / "other.parquet", seed=2)
    write(tmp_path / "rows" / "1.parquet", seed=3)
    before = path.stat()
    with by_column(tmp_path / "rows") as found:
        next(found.groups())
        content = other.read_bytes()
        if how == "cut off":
            os.truncate(path, 100)
        elif how == "touched":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        else:
            with path.open("r+b") as file:
                file.write(content)
                file.truncate(len(content))
            if how == "other values":
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        with pytest.raises(DataError, match=r"0\.parquet: expected the rows that were checked when the run began"):
            list(found.groups())


def test_values_that_change_in_a_file_of_the_same_size_and_time_are_refused(tmp_path):
    path = write(tmp_path / "rows.parquet", seed=1)
    with by_column(path) as found:
        spoilt = replace(found, checksums=(found.checksums[0], found.checksums[1] ^ 1, *found.checksums[2:]))
        with pytest.raises(
            DataError,
            match=r"expected the rows that were checked when the run began, found other values in column 'site'",
        ):
            list(spoilt.groups())


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_loses_its_name_is_refused(tmp_path, how):
    path, other = write(tmp_path / "rows.parquet", seed=1), write(tmp_path / "other.parquet", seed=2)
    with by_column(path) as found:
        if how == "removed":
            path.unlink()
        else:
            other.replace(path)
        with pytest.raises(DataError, match=r"rows\.parquet: expected the rows.*written to, replaced or removed"):
            list(found.groups())


def test_large_parquet_files_are_read_by_column_and_nothing_else_is(tmp_path, monkeypatch):
    path = write(tmp_path / "rows.parquet", 100)
    table = tmp_path / "rows.csv"
    table.write_text("cell,label,load,site,age,count,weight\nc,1,2,hill,3,4,1\n")

    def kind(path, **given):
        with open_rows(path, SCHEMA, label_kind="binary", **given) as rows:
            return type(rows).__name__

    assert kind(path) == "Rows"
    monkeypatch.setattr(streamed, "LARGE_CELLS", 400)
    assert kind(path) == "StreamedRows"
    assert kind(path, by_column=False) == "Rows"
    assert kind(table) == "Rows"
    monkeypatch.setattr(streamed, "LARGE_CELLS", 401)
    assert kind(path) == "Rows"
    assert kind(path, by_column=True) == "StreamedRows"
    with pytest.raises(DataError, match="by_column = true: expected rows in Parquet files"):
        kind(table, by_column=True)


@pytest.mark.parametrize(
    "values", [[0, 1, 1, 0, 1, 0, 0, 1, 1, 1], [3, 255, 0], [256, 0], [0.5, 1], [-1, 1], [-0.0, 1], [], [1e30]]
)
def test_a_stored_column_gives_its_values_back(values):
    given = np.array(values, np.float32)
    for small in (False, True):
        stored = columns.StoredColumn.of(given, small)
        assert stored.part(0, len(given)).tobytes() == given.tobytes()
        assert stored.part(8, len(given)).tobytes() == given[8:].tobytes() if len(given) > 8 else True
    assert columns.StoredColumn.of(np.array([0, 1] * 8, np.float32), True).values.nbytes == 2
    assert columns.StoredColumn.of(np.arange(16, dtype=np.float32), True).values.nbytes == 16


CAPPED = """
import resource, sys
import numpy as np
from hansa.data import streamed
from hansa.data.columns import each

from hansa.data.schema import Schema
from hansa.data.streamed import open_rows

few, many, room = sys.argv[1], sys.argv[2], int(sys.argv[3])
streamed.BLOCK_ROWS = 2**18


def read(path):
    with open_rows(path, Schema(("a", "b"), "y"), label_kind="binary", by_column=True) as rows:
        sums = []
        for values in each(rows):
            sums.append(float(values.sum(dtype=np.float64)))
            del values
        return rows.n_rows, sums


read(few)
held = int(next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()[1]) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (held + room, held + room))
print(*read(many))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts data as this test needs it")
def test_memory_is_a_label_and_one_column_whatever_duckdb_takes(tmp_path):
    """16,000,000 rows with 208 MiB more than few rows take: 8 bytes a row, and what a block takes. Columns that are read whole
    take 17 bytes a row, and do not fit."""
    for name, rows in (("few", 2**18), ("many", 16_000_000)):
        cells = f"SELECT i::FLOAT AS a, (i % 1000)::FLOAT AS b, (i % 2)::TINYINT AS y FROM range({rows}) r(i)"
        duckdb.sql(f"COPY ({cells}) TO '{tmp_path / name}.parquet' (FORMAT parquet)")
    given = [f"{tmp_path}/few.parquet", f"{tmp_path}/many.parquet", str(208 << 20)]
    ended = subprocess.run([sys.executable, "-c", CAPPED, *given], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    sums = float(np.arange(16_000_000, dtype=np.float32).sum(dtype=np.float64)), 1000 * 999 / 2 * 16000
    assert ended.stdout.split() == ["16000000", f"[{sums[0]},", f"{sums[1]}]"]
