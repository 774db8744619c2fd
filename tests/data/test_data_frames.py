"""Frames in memory mean what the same table means in a file."""

from __future__ import annotations

import datetime
from decimal import Decimal

import narwhals as nw
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.data.coding import read_coded
from hansa.data.frames import columns_of, margins_of, open_columns, plain
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


DECIMALS = [Decimal("1.25"), None, Decimal("-2")]
KINDS_OF_NUMBERS = {
    "masked floats": np.ma.masked_array([[1.25], [7.0], [-2.0]], mask=[[0], [1], [0]]),
    "masked whole numbers": np.ma.masked_array([[5], [7], [-8]], mask=[[0], [1], [0]]) / 4,
    "masked objects": np.ma.masked_array(np.array([[1.25], ["x"], [-2.0]], object), mask=[[0], [1], [0]]),
    "masked cells of objects": np.array([[1.25], [np.ma.masked], [-2.0]], object),
    "masked long doubles": np.ma.masked_array(np.array([[1.25], [7], [-2]], np.longdouble), mask=[[0], [1], [0]]),
    "long doubles": np.array([[1.25], [np.nan], [-2]], np.longdouble),
    "long doubles in a frame": pd.DataFrame({"f0": np.array([1.25, np.nan, -2], np.longdouble)}),
    "half floats": np.array([[1.25], [np.nan], [-2]], np.float16),
    "half floats of Arrow": pa.table({"f0": pa.array([1.25, None, -2], pa.float16())}),
    "the other order of bytes": np.array([[1.25], [np.nan], [-2]], ">f8"),
    "decimals": pd.DataFrame({"f0": DECIMALS}),
    "decimals, NaN": np.array([[Decimal("1.25")], [Decimal("sNaN")], [Decimal("-2")]], object),
    "decimals as categories": pd.DataFrame({"f0": pd.Categorical(DECIMALS)}),
    "decimals of polars": pl.DataFrame({"f0": pl.Series(DECIMALS, dtype=pl.Decimal(10, 2))}),
    "nullable of pandas": pd.DataFrame({"f0": pd.array([1.25, None, -2], "Float32")}),
    "of Arrow in pandas": pd.DataFrame({"f0": pd.array([1.25, None, -2], "double[pyarrow]")}),
} | {
    str(kind): pa.table({"f0": pa.array(DECIMALS, kind)})
    for kind in (pa.decimal32(5, 2), pa.decimal64(12, 2), pa.decimal128(38, 10), pa.decimal256(76, 20))
} | {
    f"{kind} in pandas": pd.DataFrame({"f0": pd.Series(DECIMALS, dtype=pd.ArrowDtype(kind))})
    for kind in (pa.decimal128(10, 2), pa.decimal256(50, 2))
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS_OF_NUMBERS)
def test_every_kind_of_number_is_read_and_what_is_masked_or_null_is_missing(kind):
    got = read(KINDS_OF_NUMBERS[kind])
    assert np.array_equal(got.features, np.array([[1.25, np.nan, -2]], np.float32), equal_nan=True)


def test_a_mask_hides_texts_and_truth_values_too():
    masked = [[0, 1], [0, 0]]
    texts = read(np.ma.masked_array([["a", "b"], ["c", "d"]], mask=masked))
    assert texts.levels == {"f0": ("a", "c"), "f1": ("d",)}
    assert np.isnan(texts.features[1, 0])
    truth = read(np.ma.masked_array([[True, False], [False, True]], mask=masked))
    assert np.array_equal(truth.features, np.array([[1, 0], [np.nan, 1]], np.float32), equal_nan=True)
    moments = plain(np.ma.masked_array(np.array(["2026-12-03", "2026-12-04"], "datetime64[D]"), mask=[1, 0]))
    assert np.isnat(moments).tolist() == [True, False]


def test_a_category_of_identifiers_is_told():
    def told(cells):
        return list(read(pd.DataFrame({"id": cells, "x": range(len(cells))}), label=("x",)).warnings)

    names = [f"cell {row}" for row in range(60)]
    assert "'id' is a category with 60 different values in 60 rows, as identifiers have" in told(names)[0]
    assert "with 55 different values in 60 rows" in told([*names[:55], *names[:5]])[0]
    assert told([*names[:53], *names[:7]]) == []
    assert told(names[:49]) == []


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
        (np.array([[1.5], [np.longdouble("1e4000")]]), "row 2, column 'f0': expected a finite number, found 'inf'"),
        (pd.DataFrame({"d": [Decimal(1), Decimal("1e400")]}), "row 2, column 'd': expected a finite number"),
        (pd.DataFrame({"o": [np.ones(2), None]}), "row 1, column 'o': expected a number or a text, found ndarray"),
        (np.zeros(2, [("a", float)]), r"found a structured one; pandas\.DataFrame\(X\)"),
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


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            np.ma.masked_array([0.5, 1.0], mask=[0, 1]),
            "row 2: expected a finite number in every row, found a missing value",
        ),
        ([0.5, None], "row 2: expected a finite number in every row, found a missing value"),
        (pd.array([0.5, None], "Float64"), "row 2: .* found a missing value"),
        ([[0.5, 1.0], [1.0, np.inf]], "row 2: .* found inf"),
        ([0.5, 1e39], r"row 2: .* found 1e\+39"),
        (["a", "b"], "row 1: expected a finite number, found 'a'"),
        (np.zeros((1, 1, 1)), r"found shape \(1, 1, 1\)"),
    ],
)
def test_base_margins_are_refused_with_their_row(given, said):
    with pytest.raises(DataError, match=f"^base_margin.*{said}"):
        margins_of(given, "base_margin")


def test_base_margins_of_every_kind_are_float32():
    for kind in (np.array([1.5, -2], np.longdouble), [Decimal("1.5"), -2], pd.array([1.5, -2], "Float64")):
        got = margins_of(kind, "base_margin")
        assert got.dtype == np.float32
        assert got.tolist() == [1.5, -2]
