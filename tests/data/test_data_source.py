"""Tables in, float32 rows out; schema violations name file, row, column, expected, found, cure."""

from __future__ import annotations

import datetime
import gzip
import os
import sys
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from hansa.data.schema import Schema
from hansa.data.source import check_rows, read_rows
from hansa.data.streamed import open_rows
from hansa.errors import DataError, PlanError

AB = Schema(("a", "b"), "y")
SHARED = Path(os.environ.get("HANSA_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def csv_file(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def arrow_file(folder: Path, table: pa.Table, ending: str) -> Path:
    path = folder / f"t{ending}"
    if ending in (".parquet", ".pq"):
        pq.write_table(table, path)
    elif ending == ".feather":
        feather.write_feather(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return path


# --- what is read -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "odd [1]*?.csv", "a=1.csv", "'; DROP.csv"])
def test_csv(tmp_path, name):
    text = 'y,b,a\n0,1.5,-2\n1,,1e3\ntrue,NA,"7"\nFALSE, nan ,NULL\n'
    rows = read_rows(csv_file(tmp_path, text, name), AB, label_kind="binary")
    assert rows.features.dtype == rows.label.dtype == np.float32
    assert rows.features.flags.c_contiguous
    nan = np.nan
    np.testing.assert_array_equal(rows.features, [[-2, 1000, 7, nan], [1.5, nan, nan, nan]])
    np.testing.assert_array_equal(rows.label, [0, 1, 1, 0])
    assert rows.weight is None
    assert rows.n_rows == 4


def test_pattern_characters_open_only_the_file_named(tmp_path):
    csv_file(tmp_path, "a,b,y\n1,1,1\n", "x1.csv")
    csv_file(tmp_path, "a,b,y\n2,2,2\n", "x?.csv")
    rows = read_rows(tmp_path / "x?.csv", AB, label_kind="numeric")
    assert rows.label.tolist() == [2]


def test_a_folder_named_like_a_partition_adds_no_column(tmp_path):
    folder = tmp_path / "b=9"
    folder.mkdir()
    table = pa.table({"a": [1.0], "b": [2.0], "y": [3.0]})
    rows = read_rows(arrow_file(folder, table, ".parquet"), AB, label_kind="numeric")
    assert rows.features.tolist() == [[1], [2]]


@pytest.mark.parametrize("delimiter", [";", "\t", "|"])
def test_csv_delimiters_byte_order_mark_and_quoted_names(tmp_path, delimiter):
    text = "\ufeff" + delimiter.join(['"a,x"', "b", "y"]) + "\r\n" + delimiter.join("123") + "\r\n"
    rows = read_rows(csv_file(tmp_path, text), Schema(("a,x", "b"), "y"), label_kind="numeric")
    assert rows.features.tolist() == [[1], [2]]


def test_names_are_never_sql(tmp_path):
    name = 'a") FROM x; --'
    table = pa.table({name: [1], "A": [2], "a": [3], "y": [4]})
    schema = Schema((name, "A", "a"), "y")
    for ending in (".parquet", ".feather"):
        path = arrow_file(tmp_path, table, ending)
        assert read_rows(path, schema, label_kind="numeric").features.tolist() == [[1], [2], [3]]


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow"])
def test_numeric_types(tmp_path, ending):
    table = pa.table(
        {
            "i8": pa.array([1, None], pa.int8()),
            "u64": pa.array([2**64 - 1, 0], pa.uint64()),
            "f64": pa.array([0.1, float("nan")], pa.float64()),
            "dec": pa.array([Decimal("1.25"), None], pa.decimal128(20, 2)),
            "bool": pa.array([True, False]),
            "y": pa.array([1.0, 2.0], pa.float32()),
            "w": pa.array([0, 3], pa.int32()),
        }
        | ({} if ending == ".parquet" else {"f16": pa.array([np.float16(1.5), None], pa.float16())})
    )
    schema = Schema(tuple(n for n in table.column_names if n not in "yw"), "y", "w")
    rows = read_rows(arrow_file(tmp_path, table, ending), schema, label_kind="numeric")
    nan = np.nan
    expected = np.array([[1, nan], [2**64, 0], [0.1, nan], [1.25, nan], [1, 0], [1.5, nan]], dtype=np.float32)
    np.testing.assert_array_equal(rows.features, expected[: len(schema.features)])
    assert rows.weight is not None
    assert rows.weight.tolist() == [0, 3]


def test_an_all_missing_column_of_any_type_is_all_missing(tmp_path):
    table = pa.table({"a": pa.nulls(2), "b": pa.array([None, None], pa.string()), "y": [0, 1]})
    for ending in (".parquet", ".arrow"):
        rows = read_rows(arrow_file(tmp_path, table, ending), AB, label_kind="binary")
        assert np.isnan(rows.features).all()


def test_values_round_through_double_like_other_readers(tmp_path):
    text = "1.00000005960464477539062500001"  # just above the middle of two floats; its double is the middle
    rows = read_rows(csv_file(tmp_path, f"a,b,y\n{text},0.1,0\n"), AB, label_kind="numeric")
    np.testing.assert_array_equal(rows.features[:, 0], np.array([float(text), 0.1]).astype(np.float32))


def test_many_rows_keep_their_order(tmp_path):
    path = tmp_path / "many.csv"
    with path.open("w") as file:
        file.write("a,b,y\n")
        file.writelines(f"{i},,{i % 2}\n" for i in range(300_000))
    rows = read_rows(path, AB, label_kind="binary")
    np.testing.assert_array_equal(rows.features[0], np.arange(300_000, dtype=np.float32))


# --- what is refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        (
            "a,b,y\n1,1,0\n1,red,0\n2,blue,1\n",
            "binary",
            r"row 2, column 'b': expected a number.*found 'red' \(and 1 more",
        ),
        ("a,b,y\n1,1,0\n1,red,0\n", "binary", "write numbers in place of texts"),
        ("a,b,y\n1,1,0\n-inf,1,0\n", "binary", "row 2, column 'a': expected a finite number, found '-inf'"),
        ("a,b,y\n1e39,1,0\n", "binary", "row 1, column 'a': expected a number.*found '1e39'"),
        (
            "a,b,y\n1,1,0\n1,1,\n",
            "binary",
            "row 2, column 'y': expected a label in every row, found a missing",
        ),
        ("a,b,y\n1,1,nan\n", "numeric", "row 1, column 'y': expected a label in every row, found 'nan'"),
        ("a,b,y\n1,1,inf\n", "numeric", "row 1, column 'y': expected a finite number, found 'inf'"),
        (
            "a,b,y\n1,1,0\n1,1,1\n1,1,2\n",
            "binary",
            "row 3, column 'y': expected label 0 or 1, found '2'; code",
        ),
        (
            "a,b,y\n1,1,0\n1,1,-2\n",
            "not negative",
            "row 2, column 'y': expected a label of 0 or more, found '-2'; write a count or an amount of 0 or more, drop the row",
        ),
        ("a,b,y\n1,1,0.5\n", "binary", "row 1, column 'y': expected label 0 or 1, found '0.5'"),
        (
            "a,b,y\n1,1,0\n1,1,2\n1,1,3\n1,1,-1\n",
            3,
            "row 3, column 'y': expected a class, a whole number from 0 to 2, found '3' .and 1 more rows.; code the 3 classes",
        ),
        ("a,b,y\n1,1,1\n1,1,1.5\n", 3, "row 2, column 'y': expected a class, .*found '1.5'"),
        ("a,b,y\n1,1,1\n1,1,\n", 3, "row 2, column 'y': expected a label in every row, found a missing"),
        ("a,b,y\n1,1,yes\n", "binary", "row 1, column 'y': expected a number.*found 'yes'"),
        ("a,y\n1,0\n", "binary", "column 'b': expected a column of this name, found columns 'a', 'y'; add"),
        ("a,b,c,y\n1,1,1,0\n", "binary", "column 'c': expected only the schema's columns 'a', 'b', 'y'"),
        ("a,b,a,y\n1,1,1,0\n", "binary", "column 'a': expected one column of this name, found 2 columns"),
        ("A,b,y\n1,1,0\n", "binary", "column 'a': expected a column of this name"),
        ("a,b,y\n", "binary", "expected at least one row, found no rows"),
        ("", "binary", "expected a header line"),
        (
            "a,b,y\n1,1,0\n1,1\n",
            "binary",
            "expected a readable table, found: row 2 has 2 cells, where the header names 3",
        ),
        ("a,b,y\n1,1,0\n1,1,0,9\n", "binary", "expected a readable table, found: row 2 has 4 cells, where the header"),
    ],
)
def test_refuses_csv(tmp_path, text, kind, message):
    path = csv_file(tmp_path, text)
    with pytest.raises(DataError, match=message) as error:
        read_rows(path, AB, label_kind=kind)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1, -0.5], "row 2, column 'w': expected a weight of 0 or more, found '-0.5'"),
        ([1, float("nan")], "row 2, column 'w': expected a weight in every row, found 'nan'"),
        ([None, 1], "row 1, column 'w': expected a weight in every row, found a missing value"),
        ([1, float("inf")], "row 2, column 'w': expected a finite number, found 'inf'"),
        ([1, float("-inf")], "row 2, column 'w': expected a finite number, found '-inf'"),
        ([0.0, 0.0], "column 'w': expected a positive weight in some row, found only zeros"),
    ],
)
@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow"])
def test_refuses_weights(tmp_path, weights, message, ending):
    table = pa.table({"a": [1, 2], "y": [0, 1], "w": pa.array(weights, pa.float64())})
    with pytest.raises(DataError, match=message):
        read_rows(arrow_file(tmp_path, table, ending), Schema(("a",), "y", "w"), label_kind="binary")


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow"])
@pytest.mark.parametrize(
    "column",
    [
        pa.array([None, "seven"]),
        pa.array([None, "seven"]).dictionary_encode(),
        pa.array([None, datetime.date(2020, 1, 1)]),
        pa.array([None, datetime.datetime(2020, 1, 1, 12)]),
        pa.array([None, datetime.time(12, 30)]),
        pa.array([None, b"7"]),
        pa.array([None, [1.0]]),
    ],
    ids=["text", "dictionary", "date", "time stamp", "time", "bytes", "list"],
)
def test_refuses_types_that_are_no_numbers(tmp_path, column, ending):
    table = pa.table({"a": column, "b": [1, 2], "y": [0, 1]})
    with pytest.raises(DataError, match="row 2, column 'a': expected a number") as caught:
        read_rows(arrow_file(tmp_path, table, ending), AB, label_kind="binary")
    if not pa.types.is_string(column.type) and not pa.types.is_dictionary(column.type):
        assert "(of type " in str(caught.value)
        assert "cast the column to numbers" in str(caught.value)


@pytest.mark.parametrize("ending", [".parquet", ".pq", ".feather", ".arrow"])
@pytest.mark.parametrize("as_dictionary", [False, True])
def test_digits_that_are_texts_are_numbers_in_typed_files_too(tmp_path, ending, as_dictionary):
    digits = pa.array(["7", None, " -1.5e1 ", "NA", "true"])
    table = pa.table(
        {"a": digits.dictionary_encode() if as_dictionary else digits, "b": [1] * 5, "y": [0, 1] * 2 + [1]}
    )
    rows = read_rows(arrow_file(tmp_path, table, ending), AB, label_kind="binary")
    np.testing.assert_array_equal(rows.features[0], [7, np.nan, -15, np.nan, 1])


def test_a_dictionary_of_numbers_is_read_as_numbers(tmp_path):
    table = pa.table({"a": pa.array([7, 9, 7]).dictionary_encode(), "b": [1, 2, 3], "y": [0, 1, 0]})
    rows = read_rows(arrow_file(tmp_path, table, ".arrow"), AB, label_kind="binary")
    assert rows.features[0].tolist() == [7, 9, 7]


@pytest.mark.parametrize("ending", [".parquet", ".feather"])
def test_refuses_doubles_outside_float32(tmp_path, ending):
    table = pa.table({"a": [1.0, -1e300], "b": [1, 2], "y": [0, 1]})
    with pytest.raises(DataError, match=r"row 2, column 'a': .*float32"):
        read_rows(arrow_file(tmp_path, table, ending), AB, label_kind="binary")


def test_refuses_repeated_columns_in_parquet_and_feather(tmp_path):
    table = pa.table([[1], [2], [3], [4]], names=["a", "a", "b", "y"])
    for ending in (".parquet", ".arrow"):
        with pytest.raises(DataError, match="column 'a': expected one column of this name, found 2"):
            read_rows(arrow_file(tmp_path, table, ending), AB, label_kind="binary")


def test_refuses_no_file_a_folder_and_an_unknown_ending(tmp_path):
    with pytest.raises(DataError, match="expected a file, found none; check the path"):
        read_rows(tmp_path / "none.csv", AB, label_kind="binary")
    with pytest.raises(DataError, match="expected a file, found none"):
        read_rows("https://example.org/t.csv", AB, label_kind="binary")
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(DataError, match="expected a file, found a folder"):
        read_rows(tmp_path / "d.csv", AB, label_kind="binary")
    with pytest.raises(DataError, match=r"ending in one of .csv, .*found '.xlsx'"):
        read_rows(csv_file(tmp_path, "a", "t.xlsx"), AB, label_kind="binary")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.arrow", "t.feather"])
def test_refuses_unreadable_bytes(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\xff\xfe\x00garbage\x80" * 20)
    with pytest.raises(DataError, match="expected a readable table, found") as error:
        read_rows(path, AB, label_kind="binary")
    assert str(path) in str(error.value)


def test_refuses_broken_text_in_a_later_row(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,b,y\n1,1,0\n1,\xff\xfe,0\n")
    with pytest.raises(DataError, match=r"t\.csv"):
        read_rows(path, AB, label_kind="binary")


def test_truncated_gzip_is_refused(tmp_path):
    path = csv_file(tmp_path, "a,b,y\n" + "".join(f"{i * 7919 % 9973},{i},1\n" for i in range(20_000)), "t.csv.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match="expected a readable table"):
        read_rows(path, AB, label_kind="binary")


def test_arrow_without_pyarrow_names_the_extra(tmp_path, monkeypatch):
    path = arrow_file(tmp_path, pa.table({"a": [1], "b": [1], "y": [1]}), ".arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"pip install 'hansa\[arrow\]'"):
        read_rows(path, AB, label_kind="binary")


def test_unknown_label_kind_is_refused(tmp_path):
    for kind in ("multi", 1):
        with pytest.raises(
            PlanError,
            match="label_kind: expected 'binary', 'numeric', 'not negative', 'positive', 'above -1' or a number of "
            f"classes, found {kind!r}",
        ):
            read_rows(csv_file(tmp_path, "a,b,y\n1,1,1\n"), AB, label_kind=kind)  # type: ignore[arg-type]


# --- the report -------------------------------------------------------------------------------------------


def test_check_of_a_good_table(tmp_path):
    path = csv_file(tmp_path, "a,b,y\n1,,0\n2,5,1\n2,5,1\n,6,1\n")
    report = check_rows(path, AB, label_kind="binary")
    assert report.ok
    assert report.n_rows == 4
    a, b = report.features
    assert (a.name, a.missing, a.distinct, a.rarest, a.minimum, a.maximum) == ("a", 1, 2, 1, 1, 2)
    assert (b.missing, b.distinct, b.rarest) == (1, 2, 1)
    assert [label.mean for label in report.labels] == [0.75]
    assert report.warnings == ()
    text = report.text()
    assert "4 rows, fits the schema" in text
    assert "label 'y': 75.00% ones" in text
    assert "25.0%" in text


def test_check_lists_every_violation_and_does_not_raise(tmp_path):
    path = csv_file(tmp_path, "a,c,y\n1,1,0\nx,1,2\ninf,1,\nz,2,1\n")
    report = check_rows(path, AB, label_kind="binary")
    assert not report.ok
    assert [(d.column, d.row, d.n_rows) for d in report.violations] == [
        ("b", None, 0),
        ("c", None, 0),
        ("a", 2, 2),
        ("a", 3, 1),
        ("y", 3, 1),
        ("y", 2, 1),
    ]
    assert all(d.file == str(path) and d.expected and d.found and d.cure for d in report.violations)
    assert "refused" in report.text()
    with pytest.raises(DataError) as error:
        read_rows(path, AB, label_kind="binary")
    assert str(error.value) == str(report.violations[0])


def test_check_warns_of_constant_and_missing_columns_and_one_class(tmp_path):
    report = check_rows(csv_file(tmp_path, "a,b,y\n1,,1\n1,,1\n"), AB, label_kind="binary")
    assert report.ok
    assert [w.split(";")[0] for w in report.warnings] == [
        "feature 'a' is constant",
        "feature 'b' is missing in every row",
        "label 'y' has one class only",
    ]


def test_check_of_an_empty_table_and_of_no_schema_column(tmp_path):
    report = check_rows(csv_file(tmp_path, "a,b,y\n"), AB, label_kind="numeric")
    assert [d.found for d in report.violations] == ["no rows"]
    assert "0 rows" in report.text()
    assert not check_rows(csv_file(tmp_path, "p,q\n1,2\n"), AB, label_kind="numeric").ok


@pytest.mark.parametrize("labels", [("yes", "no"), ("2", "1"), ("", "1"), ("0.5", "1")])
def test_check_says_no_share_of_ones_of_labels_that_it_refuses(tmp_path, labels):
    report = check_rows(csv_file(tmp_path, f"a,b,y\n1,2,{labels[0]}\n2,1,{labels[1]}\n"), AB, label_kind="binary")
    assert not report.ok
    assert "ones" not in report.text()


def test_numbers_beyond_2_to_53_are_warned_of_in_true_words(tmp_path):
    path = arrow_file(
        tmp_path, pa.table({"a": pa.array([2**63, 2**63 + 1], pa.uint64()), "b": [0, 1], "y": [0, 1]}), ".parquet"
    )
    (warning,) = read_rows(path, AB, label_kind="binary").warnings
    assert "in row 1 lies beyond 2^53" in warning
    assert "becomes 9" not in warning


def test_a_label_of_texts_is_refused_with_a_cure_for_labels(tmp_path):
    with pytest.raises(
        DataError,
        match=r"expected a number in every row, found 'yes' .*as 1 and 0, or name them as schema\.classes in the plan",
    ):
        read_rows(csv_file(tmp_path, "a,b,y\n1,2,yes\n2,1,no\n"), AB, label_kind="binary")


NO_YES = Schema(("a",), "y", classes=("no", "yes"))


def test_a_label_of_texts_is_the_place_of_its_class(tmp_path):
    path = csv_file(tmp_path, "a,y\n1,yes\n2,no\n3,yes\n")
    assert read_rows(path, NO_YES, label_kind="binary").label.tolist() == [1, 0, 1]
    turned = Schema(("a",), "y", classes=("yes", "no"))
    assert read_rows(path, turned, label_kind="binary").label.tolist() == [0, 1, 0]
    three = Schema(("a",), "y", classes=("low", "mid", "high"))
    path = csv_file(tmp_path, "a,y\n1,high\n2,low\n3,mid\n")
    assert read_rows(path, three, label_kind=3).label.tolist() == [2, 0, 1]
    assert check_rows(path, three, label_kind=3).ok


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("Yes", "found 'Yes'; write one of them, letter by letter, or change schema.classes in the plan"),
        ("1", "found '1'"),
        ("true", "found 'true'"),
        (" yes", "found ' yes'"),
    ],
)
def test_a_label_that_is_none_of_the_classes_is_refused(tmp_path, cell, said):
    with pytest.raises(DataError, match=r"row 2, column 'y': expected one of the 2 classes 'no', 'yes', ") as refused:
        read_rows(csv_file(tmp_path, f"a,y\n1,yes\n2,{cell}\n"), NO_YES, label_kind="binary")
    assert said in str(refused.value)


@pytest.mark.parametrize("cell", ["", "NA", '" "'])
def test_a_label_of_texts_may_not_be_missing(tmp_path, cell):
    with pytest.raises(DataError, match=r"row 1, column 'y': expected a label in every row"):
        read_rows(csv_file(tmp_path, f"a,y\n1,{cell}\n2,no\n"), NO_YES, label_kind="binary")


@pytest.mark.parametrize(
    ("classes", "codes"),
    [
        ((), [1, 0]),
        (("no", "yes"), [1, 0]),
        (("False", "True"), [1, 0]),
        (("true", "false"), [0, 1]),
        (("x", "y", "z"), None),
        (("x", "false"), None),
    ],
)
def test_truth_values_stand_for_two_classes(tmp_path, classes, codes):
    """By their names where the classes are called true and false, else false is class 0."""
    path = arrow_file(tmp_path, pa.table({"a": [True, None], "y": [True, False]}), ".parquet")
    schema, kind = Schema(("a",), "y", classes=classes), len(classes) if len(classes) > 2 else "binary"
    if codes is None:
        with pytest.raises(DataError, match=r"row 1, column 'y': expected one of the \d classes .*, found 'true'"):
            read_rows(path, schema, label_kind=kind)
        return
    rows = read_rows(path, schema, label_kind=kind)
    assert rows.label.tolist() == codes
    np.testing.assert_array_equal(rows.features, np.array([[1, np.nan]], np.float32))


def test_a_truth_value_that_is_missing_is_no_class(tmp_path):
    path = arrow_file(tmp_path, pa.table({"a": [1, 2], "y": [True, None]}), ".parquet")
    with pytest.raises(DataError, match=r"row 2, column 'y': expected a label in every row"):
        read_rows(path, NO_YES, label_kind="binary")


# --- real tables ------------------------------------------------------------------------------------------


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"real tables not found at {SHARED}")
@pytest.mark.parametrize("name", ["heart_disease", "credit_default", "cell_anomaly_4g", "higgs"])
def test_real_tables_read_as_pandas_reads_them(name):
    pandas = pytest.importorskip("pandas")
    path = SHARED / f"{name}.csv.gz"
    frame = pandas.read_csv(path)
    text_columns = [c for c in frame.columns if not pandas.api.types.is_numeric_dtype(frame[c])]
    keep = [c for c in frame.columns if c not in text_columns]
    schema = Schema(tuple(keep[:-1]), keep[-1])
    report = check_rows(path, schema, label_kind="binary")
    assert [d.column for d in report.violations] == text_columns
    assert report.n_rows == len(frame)
    for summary in report.features:
        values = frame[summary.name].to_numpy(dtype=np.float64)
        assert summary.missing == np.isnan(values).sum()
        assert summary.mean == pytest.approx(np.nanmean(values.astype(np.float32).astype(np.float64)))


# --- categories -------------------------------------------------------------------------------------------

LEVELS = Schema(("a", "k", "x"), "y", categories=(("bl,ue", "red", "naïve"), (7, 1, 2**52), ()))


CODES = np.array([[1, 0, np.nan, 2, np.nan], [1, 0, np.nan, 2, np.nan], [0.5, np.nan, 1, 2, 3]], np.float32)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
def test_levels_of_a_csv_file_become_codes(tmp_path, name):
    text = f'x,y,k,a\n.5,1,1,red\n,0,7.0,"bl,ue"\n1,0,,\n2,1,{2**52},naïve\n3,1,NaN, Null\n'
    rows = read_rows(csv_file(tmp_path, text, name), LEVELS, label_kind="binary")
    np.testing.assert_array_equal(rows.features, CODES)
    assert rows.features.dtype == np.float32


@pytest.mark.parametrize("ending", [".parquet", ".feather", ".arrow"])
@pytest.mark.parametrize("as_dictionary", [False, True])
@pytest.mark.parametrize("number", [pa.int64(), pa.float64()])
def test_levels_of_typed_files_become_codes(tmp_path, ending, as_dictionary, number):
    texts = pa.array(["red", "bl,ue", None, "naïve", ""])
    columns = {
        "a": texts.dictionary_encode() if as_dictionary else texts,
        "k": pa.array([1, 7, None, 2**52, None], number),
        "x": [0.5, None, 1, 2, 3],
        "y": [1, 0, 0, 1, 1],
    }
    rows = read_rows(arrow_file(tmp_path, pa.table(columns), ending), LEVELS, label_kind="binary")
    np.testing.assert_array_equal(rows.features, CODES)


@pytest.mark.parametrize(
    ("cells", "row", "column", "found"),
    [
        (("green", "1"), 2, "a", "'green'"),
        (("Red", "1"), 2, "a", "'Red'"),
        (("red ", "1"), 2, "a", "'red '"),
        (("1", "1"), 2, "a", "'1'"),
        (("red", "1.5"), 2, "k", "'1.5'"),
        (("red", "2"), 2, "k", "'2'"),
        (("red", "x"), 2, "k", "'x'"),
        (("red", "inf"), 2, "k", "'inf'"),
        (("red", str(2**52 + 1)), 2, "k", f"'{2**52 + 1}'"),
    ],
)
def test_what_is_no_level_is_refused_with_its_place_and_the_cure(tmp_path, cells, row, column, found):
    path = csv_file(tmp_path, f"a,k,x,y\nred,1,1,1\n{','.join(cells)},1,0\n")
    with pytest.raises(DataError) as caught:
        read_rows(path, LEVELS, label_kind="binary")
    for part in (
        str(path),
        f"row {row}",
        f"column {column!r}",
        f"found {found}",
        "3 levels",
        "[categories] in the plan",
    ):
        assert part in str(caught.value)
    report = check_rows(path, LEVELS, label_kind="binary")
    assert [str(violation) for violation in report.violations] == [str(caught.value)]
    assert not report.ok


def test_a_report_counts_categories(tmp_path):
    path = csv_file(tmp_path, "a,k,x,y\nred,1,1,1\nred,7,2,0\n,1,3,0\n")
    report = check_rows(path, LEVELS, label_kind="binary")
    assert report.ok
    assert [(f.name, f.missing, f.distinct, f.rarest) for f in report.features[:2]] == [("a", 1, 1, 2), ("k", 0, 2, 1)]


# --- cells in the report, warnings ------------------------------------------------------------------------


def test_violations_quote_the_right_cells_of_many_columns_and_rows(tmp_path):
    """All quoted cells come from one statement; rows are the file's, also far down."""
    n_rows, bad = 200_000, {"a": 3, "b": 150_001, "c": 199_999}
    path = tmp_path / "t.csv"
    with path.open("w") as file:
        file.write("a,b,c,y\n")
        for row in range(n_rows):
            file.write(",".join(f"bad-{name}-{row}" if bad[name] == row else "1" for name in "abc") + f",{row % 2}\n")
    report = check_rows(path, Schema(("a", "b", "c"), "y"), label_kind="binary")
    assert [(d.column, d.row, d.found) for d in report.violations] == [
        (name, row + 1, f"'bad-{name}-{row}'") for name, row in bad.items()
    ]


@pytest.mark.parametrize("kind", ["binary", 3])
def test_check_holds_labels_to_their_kind(tmp_path, kind):
    report = check_rows(csv_file(tmp_path, "a,b,y\n1,1,0\n1,1,7\n"), AB, label_kind=kind)
    assert [(d.column, d.row, d.found) for d in report.violations] == [("y", 2, "'7'")]
    assert not report.ok


@pytest.mark.parametrize(
    ("cells", "warned"),
    [
        (["16777217", "3"], True),
        (["1700000000.5", "1700000001"], True),
        (["-20260131001", "1"], True),
        (["9007199254740993", "1"], True),
        ([f"45000.{i:04}" for i in range(100)], True),
        (["16777216", "16777218"], False),
        ([repr(2.0**70), "0.1"], True),  # beyond 2^53 doubles do not tell whole numbers apart either
        (["0.1", "0.2"], False),
        (["5.1", "5.1"], False),
        (["", ""], False),
        (["true", "false"], False),
    ],
)
@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_values_that_float32_merges_bring_a_warning_that_names_the_column(tmp_path, cells, warned, ending):
    labels = [str(row % 2) for row in range(len(cells))]
    if ending == ".parquet":
        path = arrow_file(tmp_path, pa.table({"a": cells, "b": ["1"] * len(cells), "y": labels}), ".parquet")
    else:
        path = csv_file(
            tmp_path, "a,b,y\n" + "".join(f"{cell},1,{label}\n" for cell, label in zip(cells, labels, strict=True))
        )
    rows = read_rows(path, AB, label_kind="binary")
    assert [text.split(":")[0] for text in rows.warnings if "float32" in text] == ["column 'a'"] * warned
    assert check_rows(path, AB, label_kind="binary").warnings == rows.warnings


def test_random_measurements_bring_no_warning(tmp_path):
    draw = np.random.Generator(np.random.PCG64(3))
    table = pa.table({"a": draw.normal(size=20_000), "b": 1e6 * draw.random(20_000), "y": draw.integers(0, 2, 20_000)})
    assert read_rows(arrow_file(tmp_path, table, ".parquet"), AB, label_kind="binary").warnings == ()


@pytest.mark.parametrize("ending", [".csv", ".parquet"])
def test_a_decimal_comma_is_read_where_the_schema_says_it(tmp_path, ending):
    schema = Schema(("a", "b"), "y", decimal=",")
    if ending == ".csv":
        path = csv_file(tmp_path, "a;b;y\n1,5;2;0\n-,25;NA;1\n")
    else:
        path = arrow_file(tmp_path, pa.table({"a": ["1,5", "-,25"], "b": [2.0, None], "y": [0, 1]}), ".parquet")
    rows = read_rows(path, schema, label_kind="binary")
    np.testing.assert_array_equal(rows.features, [[1.5, -0.25], [2, np.nan]])
    with pytest.raises(DataError, match=r'a decimal comma.*say decimal = ","'):
        read_rows(path, AB, label_kind="binary")


def test_columns_that_the_schema_ignores_may_be_there_and_are_not_read(tmp_path):
    schema = Schema(("a",), "y", ignore=("id", "comment"))
    path = tmp_path / "t.csv"
    path.write_text("id,a,y,comment\nx,1,0,not a number\ny,2,1,\n")
    rows = read_rows(path, schema, label_kind="binary")
    assert rows.features.tolist() == [[1, 2]]
    assert [feature.name for feature in check_rows(path, schema, label_kind="binary").features] == ["a"]
    path.write_text("a,y\n1,0\n2,1\n")  # they need not be there
    assert read_rows(path, schema, label_kind="binary").n_rows == 2
    path.write_text("a,y,other\n1,0,3\n2,1,3\n")
    with pytest.raises(
        DataError, match=r"column 'other': expected only the schema's columns .*in `ignore` where it is"
    ):
        read_rows(path, schema, label_kind="binary")


def test_a_union_reads_a_tables_own_levels(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("band,y\nlow,0\nNA,1\nhigh,1\nlow,0\n")
    schema = Schema(("band",), "y", union=("band",))
    rows = read_rows(path, schema, label_kind="binary")
    assert rows.dictionaries == {"band": ("high", "low")}
    np.testing.assert_array_equal(rows.features, [[1, np.nan, 0, 1]])
    assert check_rows(path, schema, label_kind="binary").ok
    path.write_text("band,y\n,0\nNA,1\n")
    with pytest.raises(DataError, match="column 'band': expected a text in some row, found none"):
        read_rows(path, schema, label_kind="binary")
    pq.write_table(pa.table({"band": [1, 2], "y": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(
        DataError, match="column 'band': expected texts, whose union all parties take, found the type BIGINT"
    ):
        read_rows(tmp_path / "t.parquet", schema, label_kind="binary")
    pq.write_table(pa.table({"band": ["b", "a"], "y": [0, 1]}), tmp_path / "t.parquet")
    with open_rows(tmp_path / "t.parquet", schema, label_kind="binary", by_column=True) as streamed:
        assert streamed.dictionaries == {"band": ("a", "b")}
        assert [group.tolist() for _, group in streamed.groups()] == [[[1, 0]]]
