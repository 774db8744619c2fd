"""What a column is where no schema says so: as the one reader sees it, without a cell in any reason."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hansa.data.inspection import inspect_table
from hansa.errors import DataError

COLUMNS = {
    "load": (["1.5", "NA", "", "-3e2"], "numbers", ""),
    "whole": (["1", "2", "2", "true"], "numbers", ""),
    "band": (["low", "high", "low", ""], "texts", ""),
    "codes": (["A1", "7", "B", "A1"], "texts", ""),
    "id": (["n1", "n2", "n3", "n4"], "texts", ""),
    "empty": (["", "NaN", "null", ""], "missing", ""),
    "day": (["2026-01-31", "", "2026-02-01", ""], "dates", ""),
    "spell": (["2026-02-30", "2026-01-01", "", ""], "unread", "a date or time; "),
    "money": (["1", "2", "€ 3", "4"], "unread", "a number with a currency sign; "),
    "stray": (["1", "2", "n/a", "4"], "unread", "texts among numbers; "),
    "vip": (["WAHR", "1", "Falsch", ""], "unread", "a truth value in other words; "),
    "large": (["100000000001", "100000000002", "100000000003", "100000000004"], "numbers", ""),
    "far": (["1e300", "2", "3", "4"], "unread", "a number beyond float32; "),
}


def test_columns_of_a_file_of_texts(tmp_path):
    path = tmp_path / "t.csv"
    rows = zip(*(cells for cells, _, _ in COLUMNS.values()), strict=True)
    path.write_text("\n".join([",".join(COLUMNS), *map(",".join, rows)]) + "\n")
    found = inspect_table(path)
    assert (found.file, found.n_rows) == (str(path), 4)
    for column, (name, (cells, kind, why)) in zip(found.columns, COLUMNS.items(), strict=True):
        assert (column.name, column.type, column.kind) == (name, "VARCHAR", kind)
        assert column.why.startswith(why)
        assert not any(cell in column.why for cell in cells if len(cell) > 2)
    by_name = {column.name: column for column in found.columns}
    assert {name for name, column in by_name.items() if column.different} == {"load", "id", "day", "large"}
    assert {name for name, column in by_name.items() if column.whole} == {"whole", "day", "large"}
    assert {name for name, column in by_name.items() if column.merged} == {"large"}
    assert by_name["band"].counts == {"low": 2, "high": 1}
    assert by_name["band"].summary.missing == 1
    assert (by_name["load"].summary.minimum, by_name["load"].summary.maximum) == (-300, 1.5)


def test_typed_columns_and_a_decimal_comma(tmp_path):
    table = pa.table(
        {
            "flag": [True, False],
            "when": pa.array([0, 1], pa.timestamp("us")),
            "text": pa.array(["x", "x"]).dictionary_encode(),
            "comma": ["1,5", "2"],
            "far": [1e300, 1.0],
            "clock": pa.array([0, 1], pa.time64("us")),
        }
    )
    pq.write_table(table, tmp_path / "t.parquet")
    found = inspect_table(tmp_path / "t.parquet", ",", without=("text",))
    assert [(column.name, column.type, column.kind) for column in found.columns] == [
        ("flag", "BOOLEAN", "numbers"),
        ("when", "TIMESTAMP", "dates"),
        ("comma", "VARCHAR", "numbers"),
        ("far", "DOUBLE", "unread"),
        ("clock", "TIME", "unread"),
    ]
    assert found.columns[4].why == "of type TIME; cast it to numbers"


def test_numbers_with_units_are_no_categories_of_a_schema(tmp_path):
    (tmp_path / "t.csv").write_text("delay\n" + "".join(f"{row / 4} ms\n" for row in range(30)))
    (delay,) = inspect_table(tmp_path / "t.csv").columns
    assert (delay.kind, delay.why[:22]) == ("unread", "a number with a unit; ")


def test_a_table_that_has_no_rows_or_two_columns_of_one_name_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,a\n1,2\n")
    with pytest.raises(DataError, match="expected one column of this name"):
        inspect_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("a,b\n")
    with pytest.raises(DataError, match="expected at least one row"):
        inspect_table(tmp_path / "t.csv")
