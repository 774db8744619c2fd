"""Faults of declared types name the key, what was found and what was expected; what has none is decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from declared_keys import required_keys
from hansa.declared import decode, expected, fault_of_fields, first_fault, keys_of, one_of, shown, unknown_keys
from hansa.errors import IdentityError, PlanError

Count = Annotated[int, Meta(ge=1, le=9, description="a whole number from 1 to 9")]


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    colour: Annotated[str, one_of("red", "green")] = "red"


class Outer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    count: Count
    share: float = 0.0
    names: tuple[str, ...] = ()
    inner: Inner = Inner()
    by_name: dict[str, Count] = {}
    flag: bool | None = None


def read(document: Any) -> Outer:
    return decode(document, Outer, "f.toml", PlanError, {"number": "count"})


def test_what_is_of_its_type_is_decoded():
    assert read({"count": 3}) == Outer(count=3)
    given = {"count": 9, "share": 1, "names": ["a"], "inner": {"colour": "green"}, "by_name": {"x": 1}, "flag": False}
    assert read(given) == Outer(count=9, share=1.0, names=("a",), inner=Inner("green"), by_name={"x": 1}, flag=False)
    assert isinstance(read(given).share, float)


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({}, "f.toml: count is missing; add it (a whole number from 1 to 9)"),
        ({"count": 0}, "f.toml: count is 0; expected a whole number from 1 to 9"),
        ({"count": True}, "f.toml: count is True; expected a whole number from 1 to 9"),
        ({"count": 2.0}, "f.toml: count is 2.0; expected a whole number from 1 to 9"),
        ({"count": 1, "share": "1"}, "f.toml: share is '1'; expected a number"),
        ({"count": 1, "share": True}, "f.toml: share is True; expected a number"),
        ({"count": 1, "names": [1]}, "f.toml: names is [1]; expected a list of texts"),
        ({"count": 1, "flag": 0}, "f.toml: flag is 0; expected true or false"),
        ({"count": 1, "inner": 1}, "f.toml: inner is 1; expected a table [inner]"),
        ({"count": 1, "inner": {"colour": "gren"}},
         "f.toml: inner.colour is 'gren'; expected one of red, green; did you mean 'green'?"),
        ({"count": 1, "inner": {"shade": 1}}, "f.toml: [inner]: key 'shade' is not known; expected one of colour"),
        ({"count": 1, "by_name": {"x": 1, "y": 10}}, "f.toml: by_name.y is 10; expected a whole number from 1 to 9"),
        ({"count": 1, "by_name": []}, "f.toml: by_name is []; expected a table [by_name]"),
        ({"number": 1}, "f.toml: key 'number' is called 'count' now; rename it"),
        ({"cuont": 1}, "f.toml: key 'cuont' is not known; expected one of count, share, names, inner, by_name, flag"),
        ({"coun": 1}, "f.toml: key 'coun' (did you mean 'count'?) is not known; expected one of count, share"),
    ],
)  # fmt: skip
def test_a_fault_is_one_sentence(document, text):
    with pytest.raises(PlanError) as caught:
        read(document)
    assert str(caught.value).startswith(text)


def test_the_kind_of_error_is_the_callers():
    with pytest.raises(IdentityError, match=r"f\.toml: \[inner\]: key"):
        decode({"shade": 1}, Inner, "f.toml", IdentityError, within="inner")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*keys_of(Outer), "x"]), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(keys_of(Outer)), json_like) | st.just({"count": 1}))
def test_a_document_has_a_fault_exactly_where_msgspec_refuses_it(document):
    try:
        converted = msgspec.convert(document, Outer, strict=True)
    except msgspec.ValidationError:
        assert first_fault(document, Outer, "") is not None
    else:
        assert first_fault(document, Outer, "") is None
        assert repr(read(document)) == repr(converted)


def test_keys_are_those_of_the_declaration():
    assert keys_of(Outer) == ("count", "share", "names", "inner", "by_name", "flag")
    assert required_keys(Outer) == ("count",)
    assert unknown_keys(["a"], []) == "key 'a' is not known; expected none"


def test_objects_made_in_python_are_held_to_their_types():
    @dataclass
    class Made:
        count: Annotated[int, Meta(ge=1)]
        names: tuple[str, ...] | None

    Made.__annotations__ = {"count": Annotated[int, Meta(ge=1)], "names": tuple[str, ...] | None}
    keys = {"count": "a.count", "names": "b"}
    assert fault_of_fields(Made(1, None), keys) is None
    assert fault_of_fields(Made(1, ("x",)), keys) is None
    assert fault_of_fields(Made(0, None), keys) == "a.count is 0; expected a whole number"
    assert fault_of_fields(Made(1, (1,)), keys) == "b is (1,); expected a list of texts"


def test_long_values_are_shortened():
    assert shown("a" * 1000) == "'" + "a" * 196 + "..."
    assert expected(tuple[float, ...]) == "a list of numbers"
