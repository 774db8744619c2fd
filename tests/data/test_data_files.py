"""A table's file, opened: endings, encodings, delimiters; what is no table; and what DuckDB may reach."""

from __future__ import annotations

import ast
import gzip
import io
import itertools
import os
import resource
import tracemalloc
from decimal import Decimal
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from hansa.data import files, parts
from hansa.data.files import connect, open_table, writing_table
from hansa.data.schema import Schema
from hansa.data.source import read_rows
from hansa.errors import DataError
from hansa.files import writing

TEXT = "a,y\n1,2\n3,4\n"
ENDINGS = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet", ".pq", ".arrow", ".feather")


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def rows_of(path: Path) -> list[tuple[str, ...]]:
    with open_table(path) as table:
        return [table.names, *zip(*table.fetch([f"c{i}" for i in range(len(table.names))]), strict=True)]


@pytest.mark.parametrize("ending", [*ENDINGS, ".CSV", ".Csv.GZ"])
def test_every_ending_is_read(tmp_path, ending):
    path, table = tmp_path / f"t{ending}", pa.table({"a": ["1", "3"], "y": ["2", "4"]})
    if ending in (".parquet", ".pq"):
        pq.write_table(table, path)
    elif ending in (".arrow", ".feather"):
        feather.write_feather(table, path)
    else:
        text = TEXT.replace(",", "\t") if "tsv" in ending else TEXT
        write(path, gzip.compress(text.encode()) if ending.lower().endswith("gz") else text.encode())
    assert rows_of(path) == [("a", "y"), ("1", "2"), ("3", "4")]


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_and_a_byte_order_mark_do_not_matter(tmp_path, ends, mark, last):
    text = mark + TEXT.replace("\n", ends)
    path = write(tmp_path / "t.csv", (text if last else text[: -len(ends)]).encode())
    assert rows_of(path) == [("a", "y"), ("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("0,1,2\n1,2,3\n", ("0", "1", "2")),
        ("RSRP,rsrp,Rsrp\n1,2,3\n", ("RSRP", "rsrp", "Rsrp")),
        ('"a,b";c;d\n1;2;3\n', ("a,b", "c", "d")),
        ('"two\nlines",c,d\n1,2,3\n', ("two\nlines", "c", "d")),
        ('a,"a",A\n1,2,3\n', ("a", "a", "A")),
        (" a, b ,c\n1,2,3\n", (" a", " b ", "c")),
        ("true,NA,1e3\n1,2,3\n", ("true", "NA", "1e3")),
    ],
)
def test_the_first_line_names_the_columns_whatever_it_holds(tmp_path, text, names):
    assert rows_of(write(tmp_path / "t.csv", text.encode())) == [names, ("1", "2", "3")]


def test_a_tsv_file_with_as_many_commas_is_cut_at_tabs(tmp_path):
    assert rows_of(write(tmp_path / "t.tsv", b"a,x\tb\n1\t2\n")) == [("a,x", "b"), ("1", "2")]


@pytest.mark.parametrize(
    ("name", "data", "fragments"),
    [
        ("t.csv", TEXT.encode("utf-16"), ("UTF-16", "save the table as UTF-8")),
        ("t.csv", TEXT.encode("utf-16-le"), ("UTF-16", "save the table as UTF-8")),
        ("t.csv", b"a,y\n1,2\n\xe9,3\n", ("line 3", "not UTF-8", "save the table as UTF-8")),
        ("t.csv", b"\xe9,y\n1,2\n", ("line 1", "not UTF-8")),
        ("t.csv", b"PK\x03\x04rest", ("ZIP archive", "Excel")),
        ("t.csv", gzip.compress(TEXT.encode(), mtime=0), ("gzip data", ".csv.gz")),
        ("t.txt", b"PAR1rest", ("Parquet data",)),
        ("t.csv", b"", ("expected a header line",)),
        ("t.csv", b"\n\n", ("expected a header line",)),
        ("t.csv.gz", b"", ("expected a header line",)),
        ("t.csv.gz", TEXT.encode(), ("broken gzip data",)),
        ("t.csv.gz", gzip.compress(b"PK\x03\x04rest", mtime=0), ("ZIP archive",)),
        ("t.csv", b'"a,y\n1,2\n', ("quoted name in the header",)),
        ("t.csv", b'a,y\n1,2\n3,"4\n5,6\n', ("row 2", "closing quote")),
        ("t.csv", b'a,y\n1,2\n3,"4"x\n', ("row 2", "closing quote")),
        ("t.csv", b"a,y\n1,2\n3\n", ("row 2 has 1 cells", "names 2 columns")),
        ("t.csv", b'a,y\n"1\n",2\n3,4,5\n', ("row 2 has 3 cells",)),
        ("t.csv", b"a,y\n" + b"1" * 3_000_000 + b",2\n", ("readable table", "repair")),
        ("t.parquet", b"", ("readable table",)),
        ("t.pq", b"PAR1" + b"x" * 99 + b"PAR1", ("readable table",)),
        ("t.arrow", b"ARROW1" + b"x" * 99, ("readable table",)),
        ("t.feather", b"", ("readable table",)),
        ("t.json", b"{}", ("ending in one of .csv", "'.json'")),
        ("t.parquet.gz", b"", ("ending in one of .csv", "'.gz'")),
    ],
)
def test_what_is_no_table_is_one_clear_sentence(tmp_path, name, data, fragments):
    path = write(tmp_path / name, data)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "/proc/" not in message
    assert len(message) < len(str(path)) + 500
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 2**20])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", ""])
@pytest.mark.parametrize("sign", [",", ";", "\t", "|"])
@pytest.mark.parametrize("row", ["3,4,", "3,4,,", '3,4,""', '"3",4,', ",,", '"3,3",4,'])
def test_a_cell_too_many_is_refused_though_it_is_empty(tmp_path, monkeypatch, row, sign, end, size):
    """However the file is cut into chunks."""
    monkeypatch.setattr(files, "CHUNK", size)
    lines = [line.replace(",", sign) for line in ("a,y", "1,2", "5,", row)]
    path = write(tmp_path / "t.csv", ((end or "\n").join(lines) + end).encode())
    with pytest.raises(DataError, match=r"row 3 has [34] cells, where the header names 2 columns"):
        rows_of(path)


def test_a_cell_too_many_is_refused_in_a_packed_file_and_beside_one_column(tmp_path):
    for name, data in (("t.csv.gz", gzip.compress(b"a,y\n1,2,\n")), ("t.csv", b"a\n1,\n")):
        with pytest.raises(DataError, match=r"row 1 has [23] cells"), open_table(write(tmp_path / name, data)):
            pass


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_only_other_programs_read_as_a_number_is_seen_whatever_ends_the_lines(tmp_path, end):
    with open_table(write(tmp_path / "t.csv", end.join(["a,y", "1,2", "1_000,2", ""]).encode())) as table:
        assert table.odd
    with open_table(write(tmp_path / "u.csv", end.join(["a_b,y", "1,2", ""]).encode())) as table:
        assert not table.odd


def test_empty_last_cells_that_are_not_too_many_are_missing_values(tmp_path):
    lines = ["y,a", "1,", '2,""', '"3\n,,\n",', '4,"x,y,"']
    with open_table(write(tmp_path / "t.csv", "\n".join(lines).encode())) as table:
        assert table.cells([(1, row) for row in range(4)]) == [None, None, None, "x,y,"]


def packed(n_rows: int) -> bytes:
    return gzip.compress("".join(["a,y\n", *(f"{i * 7919 % 9973},{i}\n" for i in range(n_rows))]).encode())


@pytest.mark.parametrize("cut", [1, 4, 8, 9, 100, 5000])
def test_a_gzip_file_that_was_cut_off_is_never_a_shorter_table(tmp_path, cut):
    path = write(tmp_path / "t.csv.gz", packed(5000)[:-cut])
    with pytest.raises(DataError, match="broken gzip data"):
        rows_of(path)


def test_a_gzip_file_whose_checksum_or_data_are_wrong_is_refused(tmp_path):
    good = packed(5000)
    for place in (*range(-8, 0), len(good) // 2, 12):
        data = bytearray(good)
        data[place] ^= 1
        with pytest.raises(DataError):
            rows_of(write(tmp_path / "t.csv.gz", bytes(data)))


def test_gzip_members_end_to_end_are_one_table(tmp_path):
    data = gzip.compress(b"a,y\n1,2\n", mtime=0) + gzip.compress(b"3,4\n")
    assert rows_of(write(tmp_path / "t.csv.gz", data)) == [("a", "y"), ("1", "2"), ("3", "4")]


@pytest.mark.parametrize("sign", ["_", "+-"])
@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
def test_signs_that_duckdb_takes_into_numbers_are_found_wherever_they_stand(tmp_path, sign, ending):
    """Also where a chunk of the file ends between the two."""
    head = "a,y\n"
    for size in (0, (1 << 20) - 1, (1 << 20) - 2):
        filler = "".join(itertools.islice(itertools.cycle(["1,2\n"]), size // 4)) if size else ""
        filler = filler[: len(filler) - 4] + " " * (size - len(filler)) + "1,2\n" if size else ""
        data = f"{head}{filler}{sign}5,2\n".encode()
        path = write(tmp_path / f"t{ending}", gzip.compress(data, mtime=0) if ending.endswith("gz") else data)
        with pytest.raises(DataError, match="column 'a': expected a number"):
            read_rows(path, Schema(("a",), "y"), label_kind="numeric")


# --- names and what DuckDB may reach ------------------------------------------------------------------------

ODD_NAMES = (
    "it's.csv", 'a"b.csv', "a; DROP TABLE t.csv", "*.csv", "[1].csv", "?.csv", "{a,b}.csv", "new\nline.csv", "a=1.csv", "$HOME.csv",
    "%s.csv",
    "naïve.csv", "-.csv",
)  # fmt: skip


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_never_a_pattern_or_a_statement(tmp_path, name):
    for other in ("b.csv", "1.csv", "z.csv"):
        write(tmp_path / other, b"a,y\n8,8\n")
    path = write(tmp_path / name, TEXT.encode())
    assert rows_of(path) == [("a", "y"), ("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("http://127.0.0.1/t.csv", "expected a file, found none"),
        ("s3://bucket/t.parquet", "expected a file, found none"),
        ("s3://bucket/*.parquet", "expected a file, found none"),
        ("zero\0byte.csv", "expected a file, found none"),
        ("zero\0byte*.csv", "expected a file, found none"),
        ("", "expected a folder of Parquet files only, found 't1.csv'"),
        (".", "expected a folder of Parquet files only, found 't1.csv'"),
        ("*.csv", "expected a pattern that names Parquet files only, found 't1.csv'"),
        ("t?.csv", "expected a pattern that names Parquet files only, found 't1.csv'"),
        ("u?.csv", "expected a file, found none, and no file that this pattern names"),
    ],
)
def test_addresses_zero_bytes_and_patterns_of_other_files_name_no_table(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t1.csv", TEXT.encode())
    with pytest.raises(DataError, match=expected):
        open_table(name)


def test_duckdb_loads_no_extension_and_its_settings_are_locked(tmp_path):
    with open_table(write(tmp_path / "t.csv", TEXT.encode())) as table:
        settings = dict(
            table.connection.execute(
                "SELECT name, value FROM duckdb_settings() WHERE name IN ('autoload_known_extensions', 'autoinstall_known_extensions', "
                "'lock_configuration')"
            ).fetchall()
        )
        assert settings == {
            "autoload_known_extensions": "false",
            "autoinstall_known_extensions": "false",
            "lock_configuration": "true",
        }
        with pytest.raises(duckdb.Error, match="locked"):
            table.connection.execute("SET autoload_known_extensions = true")


@pytest.mark.skipif(duckdb.__version__.startswith("1.1."), reason="DuckDB 1.1 cannot be kept from other files")
def test_duckdb_reaches_no_file_but_the_table(tmp_path):
    other = write(tmp_path / "other.csv", TEXT.encode())
    with open_table(write(tmp_path / "t.csv", TEXT.encode())) as table:
        for statement in (
            f"SELECT * FROM read_csv('{other}')",
            f"SELECT * FROM read_text('{other}')",
            f"COPY (SELECT 1) TO '{tmp_path / 'out.csv'}'",
            "SELECT * FROM read_csv('http://127.0.0.1:9/t.csv')",
            "INSTALL httpfs",
            "LOAD httpfs",
        ):
            with pytest.raises(duckdb.Error):
                table.connection.execute(statement)
        assert not (tmp_path / "out.csv").exists()
    with pytest.raises(duckdb.Error):
        connect().execute(f"SELECT * FROM read_csv('{other}')")


@pytest.mark.parametrize("name", [*ODD_NAMES, "t.parquet"])
def test_a_table_is_written_under_the_very_name_also_over_an_old_file(tmp_path, name):
    path = tmp_path / name
    for value in (1, 2):
        kind = "parquet" if name.endswith(".parquet") else "csv"
        with writing(path) as partial, writing_table(partial, kind) as (_, write_query):
            write_query(f"SELECT {value} AS a, 3 AS y")
        assert [tuple(map(float, row)) for row in rows_of(path)[1:]] == [(value, 3)]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_a_pipe_and_a_path_that_cannot_be_opened_are_told_apart(tmp_path):
    (tmp_path / "spark.parquet").mkdir()
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "loop.csv").symlink_to("loop.csv")
    for name, found in (
        ("spark.parquet", "found a folder without Parquet files; name a file, or a folder that holds some"),
        ("pipe.csv", "found a pipe or a device; write the table into a file first"),
        ("loop.csv", "found none that can be opened (Too many levels of symbolic links)"),
        ("a" * 300 + ".csv", "found none that can be opened (File name too long)"),
        ("none.csv", "found none; check the path"),
        ("zero\0.csv", "found none; a path holds no zero byte"),
    ):
        with pytest.raises(DataError) as refused:
            open_table(tmp_path / name)
        assert found in str(refused.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused_by_its_permissions(tmp_path):
    path = write(tmp_path / "t.csv", TEXT.encode())
    path.chmod(0)
    with pytest.raises(DataError, match=r"Permission denied.*permissions"):
        open_table(path)


def test_a_wide_decimal_is_a_number_in_arrow_as_in_parquet(tmp_path):
    wide = pa.array([Decimal("1.25"), None, Decimal("-3")], pa.decimal256(50, 4))
    feather.write_feather(pa.table({"a": wide, "y": [0, 1, 0]}), tmp_path / "t.feather")
    pq.write_table(pa.table({"a": wide, "y": [0, 1, 0]}), tmp_path / "t.parquet")
    for ending in (".feather", ".parquet"):
        if ending == ".parquet" and int(duckdb.__version__.split(".")[0]) < 2:  # it would read 20971520 for 1.25
            with pytest.raises(DataError, match=r"t.parquet.*column 'a' of decimals with 50 digits.*cast it to DOUBLE"):
                read_rows(tmp_path / f"t{ending}", Schema(("a",), "y"), label_kind="binary")
            continue
        rows = read_rows(tmp_path / f"t{ending}", Schema(("a",), "y"), label_kind="binary")
        np.testing.assert_array_equal(rows.features, [[1.25, np.nan, -3]])


@pytest.mark.parametrize("ending", [".csv", ".csv.gz"])
@pytest.mark.parametrize("head", ["", "a,y\n1,2\n", "a,y\n" + "1,2\n" * 1_000_000])
def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch, ending, head):
    monkeypatch.setattr(files, "LONGEST_HEADER", 1 << 16)
    data = head.encode() + b"0" * (64 << 20)
    path = write(tmp_path / f"t{ending}", gzip.compress(data) if ending.endswith(".gz") else data)
    tracemalloc.start()
    with pytest.raises(DataError, match="line"):
        read_rows(path, Schema(("a",), "y"), label_kind="numeric")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 16 << 20


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_are_the_same_wherever_a_file_is_cut_into_fragments(monkeypatch, end):
    text = end.join(["a,y", "1,2", "", "3,4"])
    for size in range(5, 12):
        monkeypatch.setattr(files, "LONGEST_HEADER", size)
        for given in (text, text + end):
            assert list(files._lines(io.BytesIO(given.encode()))) == given.encode().splitlines(keepends=True)


MANY = b"1,0\n" * 3_000_000
"""More than DuckDB reads before it gives the first rows out."""


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        pytest.param(b"\xff,1\n", "not UTF-8", marks=pytest.mark.slow),
        (b"1\n", "row 3000001 has 1 cells"),
        pytest.param(b"1,2,3\n", "row 3000001 has 3 cells", marks=pytest.mark.slow),
        (b'"1,1\n', "closing quote"),
        pytest.param(b"1,1\r\n", "end in different ways", marks=pytest.mark.slow),
        (b'x"1,1\n1_000,1\n', "row 3000001"),
    ],
)
def test_a_fault_far_behind_is_refused_like_one_in_the_first_rows(tmp_path, fault, said):
    path = write(tmp_path / "t.csv", b"a,y\n" + MANY + fault)
    if said == "end in different ways" and duckdb.__version__.startswith("1.1."):
        assert read_rows(path, Schema(("a",), "y"), label_kind="numeric").label[-2:].tolist() == [
            0,
            1,
        ]  # it takes them, and rightly
        return
    with pytest.raises(DataError) as refused:
        read_rows(path, Schema(("a",), "y"), label_kind="numeric")
    assert said in str(refused.value)
    assert "traceback" not in str(refused.value).lower()


def test_no_call_of_duckdb_stands_outside_of_what_turns_its_errors_into_ours():
    """Its answers are lazy: an error may come from `fetchnumpy` as well as from `execute`."""
    source = Path(files.__file__).read_text()
    methods = ast.parse(source)
    for node in ast.walk(methods):
        if isinstance(node, ast.Attribute) and node.attr in ("fetchnumpy", "fetchone", "fetchmany", "df", "arrow"):
            assert "_ask(" in ast.get_source_segment(source, _statement(methods, node)), node.lineno


def _statement(tree: ast.Module, node: ast.AST) -> ast.stmt:
    """The innermost statement around a node."""
    around = [s for s in ast.walk(tree) if isinstance(s, ast.stmt) and node in ast.walk(s)]
    return min(around, key=lambda s: s.end_lineno - s.lineno)


# --- a table in several files -------------------------------------------------------------------------------


def in_parts(folder: Path, tables: dict[str, pa.Table]) -> Path:
    """A folder of Parquet files."""
    folder.mkdir()
    for name, table in tables.items():
        pq.write_table(table, folder / name, row_group_size=1000)
    return folder


def test_a_folder_and_a_pattern_are_read_in_the_order_of_the_names_whatever_the_number_of_threads(tmp_path):
    sizes = [3000, 0, 1, 2500, 1, 7000, 0]
    ends = np.cumsum(sizes)
    names = [f"part-{place:02}.{'pq' if place % 2 else 'parquet'}" for place in range(len(sizes))]
    tables = {
        name: pa.table({"a": np.arange(end - size, end), "y": np.arange(end - size, end) % 2})
        for name, size, end in zip(names, sizes, ends, strict=True)
    }
    # Written last to first: neither times nor the order in the folder may count.
    folder = in_parts(tmp_path / "t.parquet", dict(reversed(tables.items())))
    (folder / "_SUCCESS").write_bytes(b"")
    (folder / ".part-00.parquet.crc").write_bytes(b"x")
    for path in (folder, tmp_path / "*" / "part-*", tmp_path / "t.parquet" / "part-0[0-6].p*"):
        with open_table(path) as table:
            table.connection.execute("SELECT 1")
            found = table.fetch(["c0"])[0]
            assert found.tolist() == list(range(ends[-1]))
            assert table.cells([(0, 3001)]) == ["3001"]
            for row in (0, 2999, 3000, 3001, 5500, 5501, 5502, 12501):
                file, number = table.place(row)
                assert pq.read_table(file)["a"][number - 1].as_py() == row


def test_a_fault_in_a_folder_is_told_with_its_file_and_the_row_there(tmp_path):
    good = pa.table({"a": ["1", "2"], "y": [0, 1]})
    bad = pa.table({"a": ["3", "x"], "y": [0, 1]})
    folder = in_parts(tmp_path / "parts", {"1.parquet": good, "2.parquet": bad, "3.parquet": good})
    with pytest.raises(DataError, match=r"parts/2\.parquet, row 2, column 'a': expected a number .* found 'x'"):
        read_rows(folder, Schema(("a",), "y"), label_kind="binary")
    large = pa.table({"a": [2**24 + 1, 1], "y": [0, 1]})
    folder = in_parts(
        tmp_path / "large", {"1.parquet": large.slice(1), "2.parquet": large.slice(1), "3.parquet": large}
    )
    (warning,) = read_rows(folder, Schema(("a",), "y"), label_kind="binary").warnings
    assert "16777217 in row 1 of" in warning
    assert "large/3.parquet" in warning


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": [1.5], "b": [1], "y": [1]}, "column 'b': expected only the columns of .*1.parquet, found one more"),
        ({"a": [1.5]}, "expected the column 'y', as in .*1.parquet, found none of this name"),
        ({"y": [1], "a": [1.5]}, "column 1: expected 'a', as in .*1.parquet, found 'y'; write the columns of all"),
        ({"a": ["1"], "y": [1]}, "column 'a': expected the type DOUBLE, as in .*1.parquet, found VARCHAR; write all"),
        ({"A": [1.5], "y": [1]}, "expected the column 'a', as in .*1.parquet, found none"),
    ],
)
def test_files_of_a_table_that_are_not_alike_are_refused_by_file_and_column(tmp_path, other, said):
    folder = in_parts(tmp_path / "t", {"1.parquet": pa.table({"a": [0.5], "y": [0]}), "2.parquet": pa.table(other)})
    with pytest.raises(DataError, match=f"2.parquet.*{said}"):
        open_table(folder)


def test_names_that_differ_in_case_or_not_at_all_stay_apart_in_every_file(tmp_path):
    names = ["a", "A", "a", "y"]
    tables = {f"{i}.parquet": pa.table([[i], [10 + i], [20 + i], [i % 2]], names=names) for i in range(3)}
    with open_table(in_parts(tmp_path / "t", tables)) as table:
        assert table.names == tuple(names)
        assert [values.tolist() for values in table.fetch(["c0", "c1", "c2"])] == [
            [0, 1, 2],
            [10, 11, 12],
            [20, 21, 22],
        ]


def test_what_is_no_part_of_a_table_is_refused_by_name(tmp_path, monkeypatch):
    folder = in_parts(tmp_path / "t", {"1.parquet": pa.table({"a": [0.5], "y": [0]})})
    (folder / "year=2026").mkdir()
    with pytest.raises(DataError, match="found the folder 'year=2026'; put all files into one folder"):
        open_table(folder)
    (folder / "year=2026").rmdir()
    write(folder / "2.csv", TEXT.encode())
    with pytest.raises(DataError, match=r"expected a folder of Parquet files only, found '2\.csv'; take it away"):
        open_table(folder)
    (folder / "2.csv").unlink()
    write(folder / "2.parquet", b"no Parquet")
    with pytest.raises(DataError, match=r"t/2\.parquet: expected a readable table, found: "):
        open_table(folder)
    monkeypatch.setattr(parts, "MOST_PARTS", 1)
    with pytest.raises(DataError, match="expected at most 1 files, found 2; write the table into fewer files"):
        open_table(folder)


def test_a_file_of_a_folder_whose_cells_are_damaged_is_named(tmp_path):
    table = pa.table({"a": np.random.default_rng(1).random(5000), "y": np.zeros(5000)})
    folder = in_parts(tmp_path / "t", {f"{i}.parquet": table for i in range(3)})
    content = bytearray((folder / "1.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    (folder / "1.parquet").write_bytes(content)
    with pytest.raises(DataError, match=r"t: expected a readable table, found: 1\.parquet: "):
        read_rows(folder, Schema(("a",), "y"), label_kind="numeric")


def test_as_many_files_as_a_table_may_have_are_read_by_a_process_with_a_common_limit(tmp_path):
    table = pa.table({"a": [1.0, 2.0], "y": [0, 1]})
    folder = in_parts(tmp_path / "t", {f"{i:04}.parquet": table for i in range(parts.MOST_PARTS)})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, hard), hard))
    try:
        assert read_rows(folder, Schema(("a",), "y"), label_kind="binary").n_rows == 2 * parts.MOST_PARTS
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(duckdb.__version__.startswith("1.1."), reason="DuckDB 1.1 cannot be kept from other files")
def test_duckdb_reaches_no_file_but_those_of_the_folder(tmp_path):
    good = pa.table({"a": [1.0], "y": [0]})
    folder = in_parts(tmp_path / "t", {"1.parquet": good, "2.parquet": good})
    other = in_parts(tmp_path / "other", {"3.parquet": good}) / "3.parquet"
    with open_table(folder) as table, pytest.raises(duckdb.Error):
        table.connection.execute(f"SELECT * FROM read_parquet('{other}')")
