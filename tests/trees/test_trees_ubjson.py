"""UBJSON is read as XGBoost writes it, and other bytes end in one sentence."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import xgboost
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import DataError
from hansa.trees.ubjson import MOST_NESTED, decode


def counted(number):
    return b"L" + struct.pack(">q", number)


def text(value):
    octets = value.encode()
    return counted(len(octets)) + octets


def written(value, typed=False):
    """A naive writer of the same format."""
    if isinstance(value, bool) or value is None:
        return {True: b"T", False: b"F", None: b"Z"}[value]
    if isinstance(value, int):
        for marker, dtype in (("i", "b"), ("U", "B"), ("I", "h"), ("l", "i"), ("L", "q")):
            try:
                return marker.encode() + struct.pack(">" + dtype, value)
            except struct.error:
                continue
        raise AssertionError("beyond int64")
    if isinstance(value, float):
        return b"D" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"S" + text(value)
    if isinstance(value, dict):
        return b"{" + b"".join(text(key) + written(item, typed) for key, item in value.items()) + b"}"
    if typed:
        return b"[#" + counted(len(value)) + b"".join(written(item, typed) for item in value)
    return b"[" + b"".join(written(item) for item in value) + b"]"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(VALUES, st.booleans())
def test_what_is_written_is_read(value, typed):
    assert repr(decode(written(value, typed))) == repr(value)


@pytest.mark.parametrize(
    ("marker", "dtype", "values"),
    [
        ("i", ">i1", [-128, 127]),
        ("U", ">u1", [0, 255]),
        ("I", ">i2", [-(2**15), 2**15 - 1]),
        ("l", ">i4", [-(2**31), 2**31 - 1]),
        ("L", ">i8", [-(2**63), 2**63 - 1]),
        ("d", ">f4", [1.5, -(2.0**-149)]),
        ("D", ">f8", [1.1, -(2.0**-1074)]),
    ],
)
def test_arrays_of_one_type_are_big_endian(marker, dtype, values):
    for some in (values, []):
        octets = np.array(some, dtype).tobytes()
        read = decode(b"[$" + marker.encode() + b"#" + counted(len(some)) + octets)
        assert read == some
        assert [type(item) for item in read] == [type(item) for item in some]


def test_a_booster_of_real_xgboost_is_read_as_its_json():
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    booster = xgboost.train({"nthread": 1, "max_depth": 3}, xgboost.DMatrix(rows, rows[:, 0] > rows[:, 1]), 3)
    booster.set_attr(note="näïve", **{"empty": ""})
    plain = json.loads(bytes(booster.save_raw("json")))
    read = decode(bytes(booster.save_raw("ubj")))

    def rounded(value):
        """JSON's decimals as float32, which UBJSON has bit by bit."""
        if isinstance(value, float):
            return float(np.float32(value))
        if isinstance(value, list):
            return [rounded(item) for item in value]
        return {key: rounded(item) for key, item in value.items()} if isinstance(value, dict) else value

    assert read == rounded(plain)


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        (b"", "byte 0: expected 1 bytes of a marker"),
        (b"{", "byte 1"),
        (b"x", "byte 0: expected a marker, one of"),
        (b"{}x", "byte 2: expected the end of the file"),
        (b"{i\x01aZ}", "byte 1: expected a length"),
        (b"S" + counted(-1), "-1 bytes of text"),
        (b"S" + counted(2**62) + b"a", "4611686018427387904 bytes of text"),
        (b"S" + counted(1) + b"\xff", "UTF-8"),
        (b"[$d#" + counted(2**60), "4611686018427387904 bytes of numbers"),
        (b"[$d#" + counted(-1), "-4 bytes of numbers"),
        (b"[$d#" + counted(2) + b"\0" * 7, "8 bytes of numbers"),
        (b"[$T#" + counted(2**40), "an array's type"),
        (b"[$di", "an array's type"),
        (b"[#" + counted(2**62) + b"T", "4611686018427387904 values"),
        (b"[#" + counted(-1), "-1 values"),
        (b"[T", "a marker"),
        (b"{" + text("a") + b"Z" + text("a") + b"Z}", "'a'"),
        (b"[" * (MOST_NESTED + 1), "within each other"),
        (b"[" * 10**6, "within each other"),
    ],
)
def test_other_bytes_are_refused_at_their_place(document, expected):
    with pytest.raises(DataError, match="not a UBJSON document: byte ") as caught:
        decode(document)
    assert expected in str(caught.value)


@given(st.binary(max_size=200))
def test_no_bytes_end_in_a_traceback(document):
    try:
        decode(document)
    except DataError:
        return
