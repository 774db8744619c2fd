"""Whole tables: which columns are numbers, which become codes or categories, and which are refused."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hansa.data import files
from hansa.data.coding import read_coded
from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.errors import DataError


def csv(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def column_of(cells: list[str]) -> str:
    return "x,y\n" + "".join(f'"{cell}",{row % 2}\n' for row, cell in enumerate(cells))


def test_texts_are_categories_in_sorted_order(tmp_path):
    read = read_coded(csv(tmp_path, column_of(["south", "", "north", "east", "NA", "south"])), label="y")
    assert read.levels == {"x": ("east", "north", "south")}
    np.testing.assert_array_equal(read.features, np.array([[2, np.nan, 1, 0, np.nan, 2]], np.float32))


def test_numbers_with_units_are_refused_and_categories_where_they_are_named(tmp_path):
    path = csv(tmp_path, column_of([f"{row / 4}ms" for row in range(30)]))
    with pytest.raises(
        DataError, match=r"row 1, column 'x': .* found '0.0ms' \(a number with a unit\) \(and 29 more texts\)"
    ):
        read_coded(path, label="y")
    assert len(read_coded(path, label="y", categorical=["x"]).levels["x"]) == 30


def test_numbers_are_categories_where_they_are_named(tmp_path):
    path = csv(tmp_path, "v,n,w,y\na,1,b,0\nc,2,d,1\n")
    assert list(read_coded(path, label="y").levels) == ["v", "w"]
    assert list(read_coded(path, label="y", categorical=["n"]).levels) == ["v", "n", "w"]


@pytest.mark.parametrize(
    ("cells", "row", "found"),
    [
        (["1", "2", "x", "4"], 3, "'x' among 3 numbers"),
        (["a", "b", "7", "c"], 1, "'a' (and 2 more texts) among 1 numbers"),
        (["true", "false", "unknown"], 3, "'unknown' among 2 numbers"),
        (["1.5", "2", "1,234.5"], 3, "'1,234.5' (a number with thousands separators)"),
        (["1,5", "2,5", "3,5"], 1, "'1,5' (a number with a decimal comma) (and 2 more texts)"),
        (["x", "y", "01.02.2026"], 3, "'01.02.2026' (a date or time)"),
        (["10:30", "", "11:30"], 1, "'10:30' (a date or time)"),
        (["5%", "6%"], 1, "'5%' (a number with a percent sign)"),
        (["1", "1e39"], 2, "'1e39' (a number beyond float32)"),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_what_is_neither_numbers_nor_plain_texts_is_refused(tmp_path, cells, row, found, ending):
    path = tmp_path / f"t{ending}"
    if ending == ".csv":
        path.write_text(column_of(cells))
    else:
        pq.write_table(pa.table({"x": cells, "y": [row % 2 for row in range(len(cells))]}), path)
    with pytest.raises(DataError) as caught:
        read_coded(path, label="y")
    assert f"{path}, row {row}, column 'x': expected a number" in str(caught.value)
    assert f"found {found}" in str(caught.value)
    # A party's own reader says the same of the cell.
    with pytest.raises(DataError) as other:
        read_rows(path, Schema(("x",), "y"), label_kind="binary")
    assert "column 'x': expected a number" in str(other.value)


def test_a_column_that_is_named_categorical_may_mix_numbers_and_texts(tmp_path):
    path = csv(tmp_path, column_of(["428", "V57", "250.01", "428"]))
    assert read_coded(path, label="y", categorical=["x"]).levels == {"x": ("250.01", "428", "V57")}


def test_numbers_with_leading_zeros_are_texts_as_categories(tmp_path):
    assert read_coded(csv(tmp_path, column_of(["007", "7", "07"])), label="y", categorical=["x"]).levels["x"] == (
        "007",
        "07",
        "7",
    )
    assert read_coded(csv(tmp_path, column_of(["10", "7.0", "-3"])), label="y", categorical=["x"]).levels["x"] == (
        -3,
        7,
        10,
    )


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us"), pa.time64("us"), pa.binary(), pa.list_(pa.int64())])
def test_typed_columns_that_are_neither_numbers_nor_texts_are_refused(tmp_path, kind):
    cells = {"list": [[1], [2]], "fixe": None}.get(str(kind)[:4])
    values = pa.array(
        [b"1", b"2"] if kind == pa.binary() else cells or [1, 2], None if cells or kind == pa.binary() else pa.int64()
    )
    if not cells and kind != pa.binary():
        values = (values.cast(pa.int32()) if kind == pa.date32() else values).cast(kind)
    pq.write_table(pa.table({"x": values, "y": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match=r"row 1, column 'x': expected a number.*\(of type .*cast the column to numbers"
    ):
        read_coded(tmp_path / "t.parquet", label="y")


def test_unseen_levels_may_be_refused_with_row_column_and_count(tmp_path):
    path = csv(tmp_path, "v,w,y\na,2,0\nz,9,1\n,,1\nq,2,0\n")
    with pytest.raises(DataError) as caught:
        read_coded(path, ["v", "w"], known={"v": ("a", "b"), "w": (2, 3, 4)}, label="y", unseen="error")
    text = f"{path}, row 2, column 'v': expected one of the 2 levels that the model knows, or empty for missing, found 'z' "
    assert str(caught.value).startswith(f"{text}(and 1 more rows)")
    read_coded(csv(tmp_path, "v\na\n\n", "n.csv"), ["v"], known={"v": ("a", "b")}, unseen="error")


def test_unknown_levels_are_of_no_category_and_counted(tmp_path):
    path = csv(tmp_path, "v,w,y\na,2,0\nz,9,1\n,,1\n")
    read = read_coded(path, ["v", "w"], known={"v": ("a", "b"), "w": (2, 3, 4)}, label="y")
    np.testing.assert_array_equal(read.features, np.array([[0, 2, np.nan], [0, 3, np.nan]], np.float32))
    assert read.unknown == {"v": 1, "w": 1}


@pytest.mark.parametrize(
    ("text", "options", "fragment"),
    [
        ("v,v,y\n1,2,0\n", {}, "column 'v': expected one column of this name, found 2 columns, numbers 1, 2"),
        ("v,y,y\n1,2,0\n", {}, "column 'y': expected one column of this name, found 2 columns"),
        ("a[0],y\n1,0\n", {}, "XGBoost takes no [, ] or < in a name"),
        ("a],y\n1,0\n", {}, "XGBoost takes no [, ] or < in a name"),
        ("a<1,y\n1,0\n", {}, "XGBoost takes no [, ] or < in a name"),
        (",a,y\n0,1,0\n", {}, "column 1 has no name"),
        (
            "a,,,y\n0,1,1,0\n",
            {},
            "column '': expected one column of this name, found 2 columns, numbers 2, 3; name them or",
        ),
        ("sep=;\na;y\n1;0\n", {}, "a first line 'sep=;', which spreadsheets alone read; delete that line"),
        (
            "a,Y\n1,0\n",
            {},
            "no column 'y'; found 'a', 'Y'; rename 'Y', which differs by spaces or capitals only",
        ),
        ("a,y\n1,0\nJa,1\n", {}, "found 'Ja' (a truth value in other words) among 1 numbers; write true and false"),
        ("a,y\n", {}, "expected at least one row"),
        ("a,y\n1,\n", {}, "row 1, column 'y': expected a label in every row, found a missing value"),
        ("a,y\n1,inf\n", {}, "row 1, column 'y': expected a finite number, found 'inf'"),
        ("a,y\n1,yes\n", {}, "row 1, column 'y': expected a number"),
        ("a,y\n1,0\n1,2\n", {"label_kind": "binary"}, "row 2, column 'y': expected label 0 or 1, found '2'"),
        ("a,y,w\n1,0,1\n1,1,\n", {"weight": "w"}, "row 2, column 'w': expected a weight in every row"),
        ("a,y,w\n1,0,1\n1,1,-1\n", {"weight": "w"}, "row 2, column 'w': expected a weight of 0 or more, found '-1'"),
        ("a,y,w\n1,0,1\n1,1,inf\n", {"weight": "w"}, "row 2, column 'w': expected a finite number"),
        ("a,y,w\n1,0,0\n1,1,0\n", {"weight": "w"}, "column 'w': expected a positive weight in some row"),
        ("a,y\n1,0\n", {"weight": "y"}, "column 'y' is to be two of label, weight and party"),
    ],
)
def test_names_labels_and_weights_are_held_to_a_partys_rules(tmp_path, text, options, fragment):
    with pytest.raises(DataError) as caught:
        read_coded(csv(tmp_path, text), label="y", **options)
    assert fragment in str(caught.value)


# --- scans ---------------------------------------------------------------------------------------------------


class Counting:
    """A connection that counts the statements over a table."""

    def __init__(self, inner: duckdb.DuckDBPyConnection, scans: list[str]) -> None:
        self._inner, self._scans = inner, scans

    def execute(self, statement: str, *rest: object) -> object:
        if "FROM" in statement and "DESCRIBE" not in statement and "parquet_schema" not in statement:
            self._scans.append(statement)
        return self._inner.execute(statement, *rest)

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
@pytest.mark.parametrize("n_columns", [3, 600, pytest.param(5000, marks=pytest.mark.slow)])
def test_scans_do_not_grow_with_the_columns(tmp_path, monkeypatch, ending, n_columns):
    """Numbers, texts, large whole numbers and constants, each in many columns."""
    kinds = ([0.5, 1.5, 2.5], ["x", "y", "z"], [2**24 + 1, 2**25 + 1, 5], [1, 1, 1])
    table = pa.table({f"c{i}": kinds[i % 4] for i in range(n_columns)} | {"y": [0, 1, 0], "who": ["p", "q", "p"]})
    path = tmp_path / f"t{ending}"
    if ending == ".parquet":
        pq.write_table(table, path)
    else:
        columns = [column.to_pylist() for column in table.columns]
        path.write_text(
            "\n".join(",".join(map(str, row)) for row in [table.column_names, *zip(*columns, strict=True)]) + "\n"
        )
    scans: list[str] = []
    plain = files.connect
    monkeypatch.setattr(files, "connect", lambda *given: Counting(plain(*given), scans))
    read = read_coded(path, label="y", party="who")
    assert len([text for text in read.warnings if "float32" in text]) == len(
        [i for i in range(n_columns) if i % 4 == 2]
    )
    assert len([text for text in read.warnings if "constant" in text]) == (n_columns > 3)
    assert len(read.levels) == len([i for i in range(n_columns) if i % 4 == 1])
    assert_linear(scans, n_columns)
    scans.clear()
    names = tuple(name for name in table.column_names if name not in ("y", "who"))
    report = check_rows(path, Schema(names, "y"), label_kind="binary")
    # Each column of texts departs, and so does the one that the schema does not name.
    assert len(report.violations) == len(read.levels) + 1
    assert_linear(scans, n_columns)


def assert_linear(statements: list[str], n_columns: int) -> None:
    """A CSV file is read a few times, a wide one once; statements over what is in memory, or in Parquet, name few columns each."""
    reads = [statement for statement in statements if "read_csv" in statement]
    assert len(reads) <= (1 if n_columns > files.WIDE else 4)
    # A Parquet statement names all columns once more behind FROM.
    others = [statement.split(" FROM read_parquet")[0] for statement in statements if statement not in reads]
    assert sum(len(set(re.findall(r"\bc\d+\b", statement))) for statement in others) <= 5 * (n_columns + 2)


@pytest.mark.parametrize("index", [["k", "l", "m"], [4, 7, 9]])
def test_an_index_that_pandas_wrote_is_no_feature(tmp_path, index):
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1.0, 2.0, 3.0], "y": [0, 1, 0]}, index=index).to_parquet(path)
    with pytest.raises(DataError, match=r"column '__index_level_0__' is the index of a data frame.*drop it"):
        read_coded(path, label="y")
    assert read_coded(path, ["a"], label="y").names == ("a",)


def test_rows_without_any_feature_are_told(tmp_path):
    """A spreadsheet writes its empty lines at the end; a prediction of each was made without a word."""
    known = {"v": ("a", "b")}
    read = read_coded(csv(tmp_path, "v;w\na;1\n\n;2\n;\n;\n\n"), ["v", "w"], known=known)
    (told,) = read.warnings
    assert "row 3 (and in 1 more rows): no feature has a value" in told
    assert read.features.shape == (2, 4)
    assert read_coded(csv(tmp_path, "w\n1\nNA\n"), ["w"], known={}).warnings == ()


def test_levels_that_are_probably_one_are_told(tmp_path):
    told = read_coded(csv(tmp_path, "v,w,y\nA,x,0\n a,y,1\nB,x,1\n"), label="y").warnings
    assert [text for text in told if "levels" in text] == [
        "column 'v': ' a', 'A' differ by spaces or capitals only, and are different levels; write them alike, at all parties"
    ]
