"""Dates as numbers: each rule against Python's own calendar, every reader against every other, and what is no date."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data.coding import read_coded
from hansa.data.frames import columns_of, open_columns
from hansa.data.query import Query
from hansa.data.schema import DATE_RULES, Schema
from hansa.data.source import read_rows
from hansa.data.streamed import open_rows
from hansa.errors import DataError, PlanError

FEATURES = tuple(f"f_{rule}" for rule in DATE_RULES)
DATES = tuple((f"f_{rule}", f"{rule} of t") for rule in DATE_RULES)
SCHEMA = Schema(FEATURES, "y", dates=DATES)
MOMENTS = [
    dt.datetime(2024, 2, 29, 23, 30, 5),
    None,
    dt.datetime(1969, 12, 31, 23, 59, 59, 999999),
    dt.datetime(1970, 1, 1),
    dt.datetime(1, 1, 1),
    dt.datetime(9999, 12, 31, 23, 59),
    dt.datetime(1900, 3, 1, 12),
]


def by_calendar(moments: list[Any]) -> npt.NDArray[np.float32]:
    """Every rule's number by Python's calendar, float32 (rules, moments)."""
    rows = [
        [np.nan] * len(DATE_RULES)
        if m is None
        else [(m.date() - dt.date(1970, 1, 1)).days, m.year, m.month, m.day, m.isoweekday(), m.hour]
        for m in moments
    ]
    return np.array(rows, np.float32).T


def read(path: Path | Query) -> npt.NDArray[np.float32]:
    return read_rows(path, SCHEMA, label_kind="numeric").features


def csv(folder: Path, cells: list[str]) -> Path:
    path = folder / "t.csv"
    path.write_text("t,y\n" + "".join(f"{cell},{row % 2}\n" for row, cell in enumerate(cells)))
    return path


def test_every_rule_is_the_calendars(tmp_path):
    path = csv(tmp_path, ["" if m is None else m.isoformat() for m in MOMENTS])
    np.testing.assert_array_equal(read(path), by_calendar(MOMENTS))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30)), min_size=1, max_size=20))
def test_texts_and_types_give_the_same_numbers(moments):
    frame = pl.DataFrame({"typed": moments, "written": [moment.isoformat(" ") for moment in moments]})
    for name in frame.columns:
        rules = {f"f_{rule}": f"{rule} of {name}" for rule in DATE_RULES}
        columns = open_columns(columns_of(frame, "frame", None, frame.columns), "frame")
        found = read_coded(columns, FEATURES, known={}, dates=rules).features
        np.testing.assert_array_equal(found, by_calendar(moments))


def table(kind: pa.DataType) -> pa.Table:
    values = pa.array(MOMENTS, pa.timestamp("us"))
    whole = [None if m is None else m.replace(microsecond=0) for m in MOMENTS]
    values = values if kind == pa.timestamp("us", "Asia/Tokyo") else pa.array(whole, pa.timestamp("us"))
    return pa.table({"t": values.cast(kind), "y": [0, 1, 0, 1, 0, 1, 0]})


@pytest.mark.parametrize(
    "kind", [pa.timestamp("s"), pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us", "Asia/Tokyo")], ids=str
)
def test_files_of_every_kind_give_the_same_numbers(tmp_path, kind):
    pq.write_table(table(kind), tmp_path / "t.parquet")
    feather.write_feather(table(kind), str(tmp_path / "t.arrow"))
    query = Query("SELECT * FROM rows", {"rows": tmp_path / "t.parquet"}, "test")
    for source in (tmp_path / "t.parquet", tmp_path / "t.arrow", query):
        np.testing.assert_array_equal(read(source), by_calendar(MOMENTS))
    with open_rows(tmp_path / "t.parquet", SCHEMA, label_kind="numeric", by_column=True) as streamed:
        found = np.concatenate([group for _, group in streamed.groups()])
        np.testing.assert_array_equal(found, by_calendar(MOMENTS))


def test_days_and_nanoseconds_are_rounded_down(tmp_path):
    days = [dt.date(1969, 12, 31), dt.date(2024, 2, 29)]
    pq.write_table(pa.table({"t": pa.array(days), "y": [0, 1]}), tmp_path / "t.parquet")
    at_midnight = [dt.datetime.combine(day, dt.time()) for day in days]
    np.testing.assert_array_equal(read(tmp_path / "t.parquet"), by_calendar(at_midnight))
    last = pa.array([-1, 1_709_251_199_999_999_999], pa.timestamp("ns"))
    pq.write_table(pa.table({"t": last, "y": [0, 1]}), tmp_path / "t.parquet")
    expected = by_calendar([dt.datetime(1969, 12, 31, 23), dt.datetime(2024, 2, 29, 23)])
    np.testing.assert_array_equal(read(tmp_path / "t.parquet"), expected)
    frame = pd.DataFrame({"t": last.to_pandas()})
    found = read_coded(open_columns(columns_of(frame, "f", None, ["t"]), "f"), FEATURES, known={}, dates=dict(DATES))
    np.testing.assert_array_equal(found.features, expected)


@pytest.mark.parametrize(
    "frame",
    [
        pd.DataFrame({"t": np.array(MOMENTS, "datetime64[us]")}),
        pd.DataFrame({"t": pd.Series(MOMENTS, dtype=object)}),
        pd.DataFrame(
            {"t": pd.Series(np.array(MOMENTS, "datetime64[us]")).dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")}
        ),
        pl.DataFrame({"t": MOMENTS}),
        pl.DataFrame({"t": pl.Series(MOMENTS).dt.replace_time_zone("UTC")}),
        pa.table({"t": pa.array(MOMENTS, pa.timestamp("us"))}),
    ],
    ids=["pandas", "pandas objects", "pandas zoned", "polars", "polars zoned", "arrow"],
)
def test_frames_of_every_library_give_the_same_numbers(frame):
    found = read_coded(open_columns(columns_of(frame, "f", None, ["t"]), "f"), FEATURES, known={}, dates=dict(DATES))
    np.testing.assert_array_equal(found.features, by_calendar(MOMENTS))
    with pytest.raises(DataError, match=r"column 't': expected (a number or a text|numbers or texts), found "):
        columns_of(frame, "f")


def test_offsets_are_taken_to_utc(tmp_path):
    path = csv(
        tmp_path,
        ["2024-03-01T00:30+02:00", "2024-03-01 23:30:01.5-0130", "2024-03-01T10:00Z", " na ", "2024-03-01T10:00+02"],
    )
    days = [
        dt.datetime(2024, 2, 29, 22),
        dt.datetime(2024, 3, 2, 1),
        dt.datetime(2024, 3, 1, 10),
        None,
        dt.datetime(2024, 3, 1, 8),
    ]
    np.testing.assert_array_equal(read(path), by_calendar(days))


@pytest.mark.parametrize(
    "cell",
    [
        "2024-02-30",
        "2024-3-1",
        "20240301",
        "5",
        "01.03.2024",
        "2024-03-01T24:00",
        "2024-03-01T10:00+15:00",
        "2024-03-01T10",
        "0000-01-01",
    ],
)
def test_what_is_no_date_is_refused_with_row_and_column(tmp_path, cell):
    path = csv(tmp_path, ["2024-01-01", cell, cell])
    with pytest.raises(DataError) as caught:
        read(path)
    text = f"{path}, row 2, column 't': expected a date such as 2024-03-01 or 2024-03-01T12:30+02:00, of the years 1 to 9999, found "
    assert str(caught.value).startswith(f"{text}{cell!r} (and 1 more rows); write it so")


@pytest.mark.parametrize("kind", [pa.int64(), pa.time64("us"), pa.duration("us")], ids=str)
def test_a_column_of_another_type_holds_no_dates(tmp_path, kind):
    pq.write_table(pa.table({"t": pa.array([1, 2]).cast(kind), "y": [0, 1]}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 1, column 't': expected a date"):
        read(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    ("dates", "fault"),
    [
        ((("x", "weeks"),), "schema.dates.x: expected one of 'days', 'year'"),
        ((("x", "days of "),), "schema.dates.x: expected one of"),
        ((("z", "days"),), "schema.dates: 'z' is no feature"),
        ((("x", "month of y"),), "schema.dates.x: column 'y' is read as it is, too"),
        ((("c", "days"),), "schema.dates: 'c' is a categorical feature"),
    ],
)
def test_rules_that_make_no_sense_are_refused(dates, fault):
    with pytest.raises(PlanError, match=f"^{fault}"):
        Schema(("x", "c"), "y", categories=((), ("a",)), dates=dates)


def test_a_date_may_give_several_features_and_is_no_feature_itself(tmp_path):
    path = csv(tmp_path, ["2024-01-31", "2024-02-01"])
    found = read_coded(path, label="y", dates={"month": "month of t", "t": "days"})
    assert found.names == ("t", "month")
    alone = read_coded(path, label="y", dates={"month": "month of t"})
    assert alone.names == ("month",)
    np.testing.assert_array_equal(alone.features, [[1, 2]])
