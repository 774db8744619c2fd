"""TOML is read with its faults named and its size bounded, and written so that it reads back."""

from __future__ import annotations

import math
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import IdentityError, PlanError
from hansa.toml import parse_toml, read_toml, write_toml

text = st.text(st.characters(codec="utf-8"), max_size=8)
value = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(text, value, max_size=5))
def test_what_is_written_reads_back(document):
    assert parse_toml(write_toml(document, "a file\nfor people"), "here", PlanError) == document


def test_a_heading_is_a_comment():
    assert write_toml({"a": 1}, "first\n\nsecond") == "# first\n#\n# second\na = 1\n"
    assert tomllib.loads(write_toml({"a": (math.inf, -0.0)}, "x")) == {"a": [math.inf, 0.0]}


@pytest.mark.parametrize(
    "content",
    ["a = ", "a = 1\na = 2", "[a]\n[a]", "a = " + "[" * 100_000, "a = " + "9" * 10_000],
    ids=["no value", "a key twice", "a table twice", "arrays in arrays", "endless digits"],
)
def test_what_is_not_toml_is_refused_with_where_it_stands(content):
    with pytest.raises(PlanError, match=r"^here: not TOML: "):
        parse_toml(content, "here", PlanError)


def test_a_file_that_cannot_be_read_is_named_with_the_cure(tmp_path):
    with pytest.raises(IdentityError, match=r"none\.toml: cannot be read: No such file or directory; look again"):
        read_toml(tmp_path / "none.toml", IdentityError, "look again")
    (tmp_path / "noise.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=r"noise\.toml: cannot be read: .*utf-8.*; look again"):
        read_toml(tmp_path / "noise.toml", PlanError, "look again")
    with pytest.raises(PlanError, match=r"cannot be read: embedded null byte; look again"):
        read_toml(tmp_path / "a\0b", PlanError, "look again")


@pytest.mark.parametrize("content", ["a." * 5000 + "a = 1", "a = " + "[" * 50 + "]" * 50])
def test_what_is_nested_without_end_is_refused_in_words(content):
    with pytest.raises(PlanError, match="here: tables or lists stand in each other more than 16 deep"):
        parse_toml(content, "here", PlanError)
