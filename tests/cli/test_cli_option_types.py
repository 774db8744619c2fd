"""What an option takes is declared: click refuses the rest with what was expected, and exit status 2, before anything is read."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hansa.cli.main import main
from hansa.cli.option_types import Names, Objective, Range, RisingNumbers, Setting
from hansa.plan import MODES, SERVER_LINKS
from hansa.trees.losses import OBJECTIVES
from made_consortium import hansa, write_table


@pytest.fixture
def table(tmp_path):
    return write_table(tmp_path / "cells.csv", {"load": [1, 2], "fault": [0, 1], "operator": ["a", "b"]})


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        (("--mode", "open"), ("--mode", "'open' is not one of", *MODES)),
        (("--server-links", "both"), ("--server-links", "'both' is not one of", *SERVER_LINKS)),
        (("--objective", "squared"), ("--objective", "'squared' is not one of", *OBJECTIVES)),
        (("--decimal", ";"), ("--decimal", "';' is not one of")),
        (("--set", "max_depth"), ("--set", "'max_depth': expected name=value, such as eta=0.1")),
        (("--set", "=3"), ("--set", "'=3': expected name=value")),
        (("--label-range", "low"), ("--label-range", "'low': expected two finite numbers, the lower first")),
        (("--label-range", "1,0"), ("'1,0': expected two finite numbers",)),
        (("--label-range", "0,inf"), ("'0,inf': expected two finite numbers",)),
        (("--label-range", "0,1,2"), ("'0,1,2': expected two finite numbers",)),
        (("--evaluation-steps", "5,x"), ("--evaluation-steps", "'5,x': expected rising whole numbers above 0")),
        (("--evaluation-steps", "5,5"), ("'5,5': expected rising",)),
        (("--evaluation-steps", "0,5"), ("'0,5': expected rising",)),
        (("--servers", "a,,c"), ("--servers", "'a,,c': expected names between commas")),
        (("--receivers", "a,b,a"), ("--receivers", "'a,b,a' names one twice")),
        (("--leaf-bits", "3"), ("--leaf-bits", "3 is not in the range 4<=x<=24")),
        (("--min-cell-rows", "1"), ("--min-cell-rows", "1 is not in the range x>=2")),
        (("--date", "month"), ("--date", "'month': expected FEATURE=RULE")),
        (("--rare-levels", "kind=0"), ("--rare-levels", "'kind=0': expected FEATURE=ROWS with a whole number above 0")),
        (("--rare-levels", "kind=x"), ("'kind=x': expected FEATURE=ROWS",)),
        (("--rounds", "0"), ("--rounds", "0 is not in the range x>=1")),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_was_expected(table, options, fragments):
    result = hansa("simulate", table, "--label", "fault", "--party-column", "operator", "--in-process", *options)
    assert result.exit_code == 2
    said = " ".join(result.stderr.split())
    assert "Usage: " in said
    for fragment in fragments:
        assert fragment in said
    assert "Traceback" not in result.output


def converted(kind: click.ParamType, text: str) -> object:
    return kind.convert(text, None, None)


@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=5, unique=True).map(sorted))
def test_numbers_are_read_as_they_are_written(numbers):
    assert converted(RisingNumbers(), ",".join(map(str, numbers))) == tuple(numbers)


@given(st.floats(-1e9, 1e9), st.floats(1, 1e9))
def test_a_range_is_read_as_it_is_written(low, width):
    assert converted(Range(), f"{low!r},{low + width!r}") == (low, low + width)


def test_names_lose_the_spaces_around_them():
    assert converted(Names(), "aurora, borealis ,cirrus") == ("aurora", "borealis", "cirrus")


@pytest.mark.parametrize(
    ("text", "setting"),
    [
        ("eta=0.1", ("eta", 0.1)),
        ("rounds=3", ("rounds", 3)),
        ("objective=reg:squarederror", ("objective", "reg:squarederror")),
        ("eval_metric=auc,logloss", ("eval_metric", ["auc", "logloss"])),
        ('eval_metric=["auc"]', ("eval_metric", ["auc"])),
        ("missing=nan", ("missing", "nan")),
        ("a=b=c", ("a", "b=c")),
        ("base_score=", ("base_score", "")),
        ("seed=" + "[" * 100_000, ("seed", "[" * 100_000)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_setting_is_json_or_text(text, setting):
    assert converted(Setting(), text) == setting


def test_what_was_converted_already_stays():
    for kind, text in (
        (Names(), "a,b"),
        (RisingNumbers(), "1,2"),
        (Range(), "0,1"),
        (Setting(), "eta=1"),
        (Objective(), OBJECTIVES[1]),
    ):
        value = converted(kind, text)
        assert kind.convert(value, None, None) == value


def test_no_option_with_fixed_choices_is_plain_text():
    """Options whose values are few are choices, so that the list stands in the help and in the refusal."""
    shown = CliRunner().invoke(main, ["simulate", "--help"]).output
    for choices in (MODES, OBJECTIVES, SERVER_LINKS):
        assert "|".join(choices) in "".join(shown.split())
