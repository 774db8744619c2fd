"""The schema refuses what cannot be meant."""

from __future__ import annotations

import dataclasses

import pytest

from hansa.data.schema import Schema
from hansa.errors import PlanError


def test_columns_are_features_label_weight():
    assert Schema(("a", "b"), "y").columns == ("a", "b", "y")
    assert Schema(("a",), "y", "w").columns == ("a", "y", "w")


def test_a_list_of_features_becomes_a_tuple():
    assert Schema(["a", "b"], "y").features == ("a", "b")  # type: ignore[arg-type]


def test_levels_go_with_their_features():
    schema = Schema(("a", "b", "c"), "y", categories=[[], ["x", "y"], [2, 1]])  # type: ignore[arg-type]
    assert schema.categories == ((), ("x", "y"), (2, 1))
    assert schema.levels == {"b": ("x", "y"), "c": (2, 1)}
    assert Schema(("a",), "y", categories=((),)) == Schema(("a",), "y")
    with pytest.raises(PlanError, match="for each of 2 features, found 1"):
        Schema(("a", "b"), "y", categories=(("x",),))


def test_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Schema(("a",), "y").label = "a"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("features", "label", "weight", "text"),
    [
        ((), "y", None, r"schema\.features: no feature"),
        ("abc", "y", None, "expected a list of column names, found 'abc'"),
        (("a", ""), "y", None, "'' is no column name"),
        (("a", 3), "y", None, "3 is no column name"),
        (("a",), "", None, r"schema\.label: ''"),
        (("a",), "y", "", r"schema\.weight: ''"),
        (("a", "b", "a"), "y", None, "column 'a' is named more than once"),
        (("a", "y"), "y", None, "column 'y' is named more than once"),
        (("a", "w"), "y", "w", "column 'w' is named more than once"),
        (("a",), "y", "y", "column 'y' is named more than once"),
    ],
)
def test_refuses(features, label, weight, text):
    with pytest.raises(PlanError, match=text):
        Schema(features, label, weight)
