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
        (("a[0]",), "y", None, r"'a\[0\]': XGBoost takes no"),
        (("a]",), "y", None, "XGBoost takes no"),
        (("a<b",), "y", None, "XGBoost takes no"),
        (("a\0b",), "y", None, "XGBoost takes no"),
        (("\ud800",), "y", None, "cannot be written as UTF-8"),
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


def test_xgboost_refuses_the_names_that_the_schema_refuses_and_takes_the_others():
    xgboost = pytest.importorskip("xgboost")
    for sign in map(chr, range(1, 0x250)):
        name = f"a{sign}b"
        try:
            xgboost.DMatrix([[1.0]], feature_names=[name])
            taken = True
        except ValueError:
            taken = False
        try:
            Schema((name,), "y")
        except PlanError:
            assert not taken, name
        else:
            assert taken, name
    assert Schema(("a",), "label [0] < 1", "w<").label == "label [0] < 1"


@pytest.mark.parametrize("sign", ["", ";", "..", "\u066b"])
def test_the_decimal_sign_is_a_point_or_a_comma(sign):
    assert Schema(("a",), "y", decimal=",").decimal == ","
    with pytest.raises(PlanError, match=r'schema\.decimal: expected "\." or ","'):
        Schema(("a",), "y", decimal=sign)


def test_ignored_columns_are_a_list_of_other_columns_in_no_order():
    assert Schema(("a",), "y", ignore=("z", "b")) == Schema(("a",), "y", ignore=["b", "z"])
    for ignore, said in (
        (("a",), "schema.ignore: column 'a' is a feature, the label, the weight, a base margin or the id too"),
        (("y",), "schema.ignore: column 'y' is a feature, the label, the weight, a base margin or the id too"),
        (("b", "b"), "schema.ignore: column 'b' is named more than once; name it once"),
        ("bc", "schema.ignore: expected a list of column names, found 'bc'"),
        (("",), "schema.ignore: '' is no column name"),
    ):
        with pytest.raises(PlanError, match=said):
            Schema(("a",), "y", ignore=ignore)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (("one",), "expected two or more different texts, found ['one']"),
        (("a", "a"), "expected two or more different texts"),
        ("ab", "expected a list of texts, found 'ab'"),
        ((0, 1), "expected texts other than '', 'na', 'nan', 'null' (which mean a missing value), found 0"),
        (("no", " NA "), "found ' NA '"),
    ],
)
def test_classes_are_different_texts(classes, said):
    with pytest.raises(PlanError) as refused:
        Schema(("a",), "y", classes=classes)
    assert str(refused.value).startswith("schema.classes: ")
    assert said in str(refused.value)
