"""Which texts are numbers, and which only mean one."""

from __future__ import annotations

import duckdb
import numpy as np
import pytest

from hansa.data.cells import disguise, measured, number

NUMBERS = {
    "5": 5, "+5": 5, "-5": -5, " 5 ": 5, "\t5\n": 5, "1e3": 1000, "1E+3": 1000, "5.": 5, ".5": 0.5, "007": 7, "1.25e-1": 0.125,
    "true": 1, "FALSE": 0, " True ": 1,
}  # fmt: skip
MISSING = ("", " ", "\t", "NA", "na", "NaN", " nan ", "null", "NULL")

DISGUISED = {
    "thousands separator": ("1,234.50", "12,345,678", "12,34,567", "1.234.567", "1.234,50", "1 234", "1\u00a0234", "1\u202f234,5",
         "1'234", "1’234.5"),
    "decimal comma": ("1,5", "-0,25", "1,234", ",5"),
    "currency sign": ("$5", "€ 1.234,00", "5 €", "USD 5", "5 kr", "R$ 5", "-$5", "£1,000.00", "5zł"),
    "percent sign": ("5%", "5.5 %", "-1,5%", "3‰"),
    "underscores": ("1_000", "1_0.5"),
    "no hyphen": ("−5", "–5", "+-5", "--5", "- 5"),
    "another form": ("5-", "(5)", "(1,234.00)", "1×10^5"),
    "other digits": ("١٢", "１２", "१०"),
    "not decimal": ("0x1F", "0b11", "0o7"),
    "one sign": ("½", "Ⅷ"),
    "infinite": ("∞", "-∞"),
    "no number": ("-nan", "+NaN", "#N/A", "#DIV/0!", "1.#QNAN"),
    "beyond float32": ("1e39", "-4e38"),
    "not seen": ("\u00a05", "5\u202f", "\ufeff1.5", "1\u200b2", "\u2066-3\u2069", "1\u00ad000"),
    "date or time": (
        "2026-01-31", "31.01.2026", "1/31/26", "2026/1/31", "2026-01", "01/2026", "2026-01-31T10:00:00Z", "2026-01-31 10:00:00.5+02:00",
        "10:30", "10:30:15", "100:30:15", "10:30 pm", "31 Jan 2026", "Jan 31, 2026", "March 2026", "Jan-26",
        "Sat, 31 Jan 2026 10:00:00 GMT",
        "Sat Jan 31 10:00:00 2026", "2026-Q1", "2026-W05", "20260131T101500Z", "PT5M",
    ),
}  # fmt: skip
TEXTS = (
    "red",
    "A1",
    "4G",
    "10.0.0.1",
    "1.2.3",
    "18-25",
    "24/7",
    "May",
    "March",
    "Junior 3",
    "5 GB",
    "+49 30 1234",
    "kr",
    "e5",
    "north-2",
    "?",
)


def read(text: str | None, kind: str, decimal: str = ".") -> float | None:
    """What the reader makes of a cell: NaN where missing, None where it is no number."""
    connection = duckdb.connect()
    statement = f"SELECT {number('c', kind, 'FLOAT', decimal)} FROM (SELECT ?::{kind} AS c)"
    (value,) = connection.execute(statement, [text]).fetchone() or (None,)
    return value


@pytest.mark.parametrize("text", NUMBERS)
def test_what_is_a_number_is_read_as_python_reads_it(text):
    assert read(text, "VARCHAR") == NUMBERS[text]


@pytest.mark.parametrize("text", [*MISSING, None])
def test_what_is_missing_is_nan(text):
    value = read(text, "VARCHAR")
    assert value is not None
    assert np.isnan(value)


@pytest.mark.parametrize(("what", "text"), [(what, text) for what, texts in DISGUISED.items() for text in texts])
def test_what_means_a_number_or_a_date_is_not_read_and_named(what, text):
    assert read(text, "VARCHAR") is None
    found = disguise(text)
    assert found is not None
    assert what in found.what
    assert found.cure


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("1,234.50", "a number with thousands separators"),
        ("1,5", "a number with a decimal comma"),
        ("1,234", "a number with a thousands separator or a decimal comma"),
        ("$5", "a number with a currency sign"),
        ("5%", "a number with a percent sign"),
        ("−5", "a number with a sign that is no hyphen"),
    ],
)
def test_the_kind_is_named(text, what):
    found = disguise(text)
    assert found is not None
    assert found.what == what


@pytest.mark.parametrize("text", TEXTS)
def test_other_texts_are_neither_numbers_nor_disguised(text):
    assert read(text, "VARCHAR") is None
    assert disguise(text) is None


def test_a_decimal_comma_is_read_where_it_is_said_and_then_no_point_is():
    assert read("1,5", "VARCHAR", ",") == 1.5
    assert read(" -,25 ", "VARCHAR", ",") == -0.25
    assert read("1e3", "VARCHAR", ",") == 1000
    for text in ("1.5", "1.234", "1.234,5", "1,2,3"):
        assert read(text, "VARCHAR", ",") is None
    point, both = disguise("1.5", ","), disguise("1.234,5", ",")
    assert point is not None
    assert both is not None
    assert (point.what, both.what) == (
        'a number with a point, where decimal is ","',
        "a number with thousands separators",
    )


@pytest.mark.parametrize(
    ("kind", "cell"), [("DATE", "2026-01-31"), ("TIMESTAMP", "2026-01-31 10:00:00"), ("TIME", "10:00:00")]
)
def test_typed_dates_and_times_are_no_numbers(kind, cell):
    assert read(cell, kind) is None
    missing = read(None, kind)
    assert missing is not None
    assert np.isnan(missing)


def test_typed_numbers_do_not_ask_for_the_decimal_sign():
    assert read("1.5", "DOUBLE", ",") == 1.5
    assert read("true", "BOOLEAN", ",") == 1


def units(*names: str, most: int = 40) -> list[str]:
    return [f"{step / 4:g}{names[step % len(names)]}" for step in range(1, most)]


@pytest.mark.parametrize("names", [("ms",), (" ms",), ("k", "M"), (" °C",), ("f",), (" Mbit/s",), (" dBm",)], ids=str)
def test_many_numbers_before_few_units_mean_numbers(names):
    texts = units(*names)
    assert all(disguise(text) is None for text in texts)
    found = measured(texts)
    assert found is not None
    assert found.what == "a number with a unit"


@pytest.mark.parametrize(
    "texts",
    [
        ["2G", "3G", "4G", "5G"],
        [*units("ms"), "unknown"],
        [f"{step % 30}{chr(65 + step % 26)}" for step in range(60)],  # house numbers
        [f"10.0.0.{step}" for step in range(40)],
        [f"v{step}" for step in range(40)],
        [f"{step}-{step + 5}" for step in range(40)],
        [f"{step}a{step}" for step in range(40)],
        [],
    ],
    ids=lambda texts: str(texts[:2]),
)
def test_other_texts_are_no_numbers_with_units(texts):
    assert measured(texts) is None
