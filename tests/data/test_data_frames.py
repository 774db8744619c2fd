"""Frames in memory mean what the same table means in a file."""

from __future__ import annotations

import datetime

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data.coding import read_coded
from hansa.data.frames import columns_of, open_columns
from hansa.errors import DataError

CELLS = st.one_of(
    st.none(),
    st.sampled_from(["", "NA", "null", "nan", "true", "FALSE", " 7", "1e3", "-0", "0.1", "x", "1_000", "3,5"]),
    st.floats(-1e6, 1e6, width=32).map(str),
)


def read(frame: object, **options: object):  # type: ignore[no-untyped-def]
    return read_coded(open_columns(columns_of(frame, "the frame"), "the frame"), **options)  # type: ignore[arg-type]


@settings(deadline=None, max_examples=60)
@given(cells=st.lists(CELLS, min_size=1, max_size=8))
def test_a_column_of_texts_is_read_as_a_csv_file_of_the_same_cells(cells, tmp_path_factory):
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_text("a,b\n" + "".join(f'1,"{cell}"\n' if cell is not None else "1,\n" for cell in cells))
    frame = pd.DataFrame({"a": np.ones(len(cells)), "b": np.array([cell or None for cell in cells], object)})
    refused = None
    try:
        expected = read_coded(path)
    except DataError as error:
        refused = str(error)
    if refused is not None:
        with pytest.raises(DataError) as found:
            read(frame)
        assert str(found.value).replace("the frame", str(path)) == refused
        return
    got = read(frame)
    assert np.array_equal(got.features, expected.features, equal_nan=True)
    assert got.levels == expected.levels


NUMBERS = {
    "small": [1, 2, 3],
    "truth": [True, False, True],
    "half": [0.5, float("nan"), 2.0],
    "gap": [1, None, 3],
    "text": ["a", None, "b"],
}


@pytest.mark.parametrize(
    "make",
    [
        pd.DataFrame,
        lambda columns: pd.DataFrame(columns).convert_dtypes(),
        lambda columns: pd.DataFrame(columns).astype({"text": "category"}),
        pl.DataFrame,
        lambda columns: pl.DataFrame(columns).with_columns(pl.col("text").cast(pl.Categorical)),
        pa.table,
        lambda columns: nw.from_native(pl.DataFrame(columns)),
    ],
    ids=["pandas", "pandas nullable", "pandas category", "polars", "polars category", "arrow", "narwhals"],
)
def test_frames_of_every_library_give_the_same_numbers(make):
    got = read(make(NUMBERS))
    expected = [[1, 2, 3], [1, 0, 1], [0.5, np.nan, 2], [1, np.nan, 3], [0, np.nan, 1]]
    assert got.names == tuple(NUMBERS)
    assert np.array_equal(got.features, np.array(expected, np.float32), equal_nan=True)
    assert got.levels == {"text": ("a", "b")}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint64", "bool", "object"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_are_rows_by_features(dtype, order):
    array = np.array([[1, 0], [0, 1], [1, 1]], dtype, order=order)
    got = read(array)
    assert got.names == ("f0", "f1")
    assert got.features.tolist() == [[1, 0, 1], [0, 1, 1]]


def test_numbers_that_float32_cannot_hold_apart_are_warned_of_by_name():
    got = read(pd.DataFrame({"id": np.arange(2**24, 2**24 + 10)}))
    assert "'id'" in got.warnings[0]


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (
            pd.DataFrame({"t": pd.to_datetime(["2026-11-30"])}),
            "column 't': expected numbers or texts, found dates or times",
        ),
        (pl.DataFrame({"t": [datetime.timedelta(1)]}), "column 't': expected numbers or texts, found dates or times"),
        (np.array([["2026-11-30"]], "datetime64[D]"), "column 'f0': expected numbers or texts, found dates"),
        (pl.DataFrame({"l": [[1, 2]]}), "column 'l': expected numbers or texts, found List"),
        (pd.DataFrame({"o": [{1: 2}]}), "row 1, column 'o': expected a number or a text, found dict"),
        (np.zeros((2, 2), complex), "column 'f0': expected numbers or texts, found complex"),
        (np.zeros(3), r"expected an array of shape \(rows, features\), found shape \(3,\); reshape\(-1, 1\)"),
        (np.zeros((1, 2, 3)), r"found shape \(1, 2, 3\)"),
        (pd.DataFrame(np.zeros((1, 2))), "expected column names that are texts, found 0"),
        (pd.DataFrame(np.zeros((1, 2)), columns=["a", "a"]), "expected one column of each name, found 2 of name 'a'"),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), "expected one column of each name"),
        ([[1, 2]], "expected a data frame .* found list"),
        (pl.LazyFrame({"a": [1]}), r"found LazyFrame \(a lazy frame: call its collect"),
        (pd.Series([1.0]), "expected a data frame .* found Series"),
        (None, "expected a data frame .* found NoneType"),
    ],
)
def test_what_is_no_table_is_refused_with_the_cure(frame, said):
    with pytest.raises(DataError, match=f"the frame.*{said}"):
        read(frame)


def test_the_frame_is_not_changed():
    frame = pd.DataFrame(NUMBERS)
    before = frame.copy(deep=True)
    read(frame)
    pd.testing.assert_frame_equal(frame, before)
