"""What a plan file may hold is declared; whatever else it holds is refused by file, key, what was found and what was expected."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_plan import COUNTED, ON_SHARES, PLAN, TEXT, TEXT_OF_CATEGORIES, TEXT_ON_SHARES, column, member, parameter_sets

from declared_keys import PLAN_KEYS, TABLES
from hansa.data.schema import Schema
from hansa.errors import PlanError
from hansa.plan import (
    COOPETITIVE,
    MASKED,
    VERIFY_COUNTS,
    Coopetitive,
    CustomMetric,
    CustomObjective,
    Plan,
    Release,
    parse_plan,
    read_plan,
    write_plan,
)
from hansa.plan.plan import KEYS_OF_COOPETITIVE, KEYS_OF_CUSTOM, KEYS_OF_METRIC, KEYS_OF_PLAN, KEYS_OF_RELEASE
from hansa.plan.reading import PlanDocument
from hansa.toml import write_toml
from hansa.trees.losses import tells_rows
from hansa.trees.parameters import parse_parameters

level_lists = st.just(()) | st.lists(st.integers(-(2**53) + 1, 2**53 - 1), min_size=1, max_size=4, unique=True).map(
    tuple
)
cut = st.floats(-(2.0**99), 2.0**99, width=32)
cut_lists = st.lists(cut, min_size=1, max_size=4, unique_by=abs).map(lambda cuts: tuple(sorted(cuts)))


@st.composite
def shared_plans(draw):
    """Coopetitive plans, with every key that only they have."""
    names = draw(st.lists(member, min_size=4, max_size=7, unique=True))
    columns = draw(st.lists(column, min_size=3, max_size=6, unique=True))
    features, weighted, squared = tuple(columns[2:]), draw(st.booleans()), draw(st.booleans())
    levels = draw(st.just(()) | st.tuples(*(level_lists for _ in features)))
    ordered = [not (levels and levels[place]) for place in range(len(features))]
    rounds, fraction = draw(st.integers(1, 500)), draw(st.just(0.0) | st.floats(0.01, 0.99))
    cuts = tuple(draw(cut_lists) if plain else () for plain in ordered)
    signs = tuple(draw(st.sampled_from([-1, 0, 1])) if plain else 0 for plain in ordered)
    steps = st.lists(st.integers(1, rounds), unique=True, max_size=4).map(lambda given: tuple(sorted(given)))
    statistics = draw(st.booleans())
    low = draw(st.floats(-1e6, 1e6))
    return Plan(
        name=draw(st.text(st.characters(codec="utf-8"), max_size=12)),
        mode=COOPETITIVE,
        aggregator="",
        parties=tuple(names[1:]),
        receivers=tuple(draw(st.lists(st.sampled_from(names), unique=True, min_size=1))),
        minimum_parties=len(names) - 1,
        schema=Schema(features, columns[0], columns[1] if weighted else None, levels, draw(st.sampled_from(".,"))),
        parameters=parse_parameters(
            {"objective": "reg:squarederror" if squared else "binary:logistic", "rounds": rounds, "max_bin": 32}
        ),
        min_cell_rows=draw(st.integers(2, 10**6)),
        min_party_rows=draw(st.integers(0, 10**6)),
        evaluation_fraction=fraction,
        release=Release(leaf_bits=None if squared else draw(st.none() | st.integers(4, 24))),
        coopetitive=Coopetitive(
            hub=draw(st.sampled_from(names)),
            servers=tuple(draw(st.permutations(names))[:3]),
            server_links=draw(st.sampled_from(["hub", "direct"])),
            statistics=statistics,
            label_range=(low, low + draw(st.floats(1, 1e6))) if squared else None,
            cuts=draw(st.just(cuts) | st.none()) if any(cuts) else None,
            missing=draw(st.none() | st.lists(st.sampled_from(features), unique=True).map(tuple)),
            weight_limit=draw(st.floats(1e-300, 1e300)) if weighted else None,
            steps=draw(steps) if fraction else (),
            monotone=draw(st.just(signs) | st.just(())) if any(signs) else (),
            deadline_s=draw(st.none() | st.floats(1e-3, 1e7)),
        ),
    )


@settings(max_examples=100, deadline=None)
@given(shared_plans())
def test_a_coopetitive_plan_survives_being_written(plan):
    again = parse_plan(write_plan(plan))
    assert again == plan
    assert again.digest() == plan.digest()


@settings(max_examples=40, deadline=None)
@given(parameter_sets(), st.sampled_from(VERIFY_COUNTS), st.integers(1, 99), st.integers(0, 99))
def test_what_masked_plans_add_survives_being_written(parameters, when, child, party):
    changes = {"parameters": replace(parameters, early_stopping_rounds=None), "verify_counts": when}
    assume(tells_rows(parameters.objective) or child == 1)  # whose sums say nothing of rows
    plan = replace(PLAN, mode=MASKED, min_child_rows=child, min_party_rows=party, **changes)
    assert parse_plan(write_plan(plan)) == plan


BAD = {
    "text": "aurora",
    "true": True,
    "whole number": 7,
    "number": 0.5,
    "huge": 10**400,
    "negative": -(10**400),
    "not a number": float("nan"),
    "infinite": float("inf"),
    "list": [1, "a", True],
    "lists in lists": [[1], [2]],
    "table": {"a": {"b": 1}},
    "tables": [{"a": 1}],
    "time": datetime(2026, 12, 1, tzinfo=UTC),
}


def full_document():
    """All keys, of three plans: no plan has all."""
    documents = [tomllib.loads(write_plan(plan)) for plan in (PLAN, ON_SHARES, COUNTED, parse_plan(TEXT_OF_CATEGORIES))]
    return [(document, table, key) for document in documents for table in document for key in _keys(document[table])]


def _keys(value):
    return list(value) if isinstance(value, dict) else [None]


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_value_of_another_type_is_refused_by_its_key_or_means_what_it_says(bad):
    """Whatever stands at a key: the plan that is read is that of the value, or the error names the key and what was found."""
    for document, table, key in full_document():
        changed = dict(document)
        changed[table] = bad if key is None else {**document[table], key: bad}
        try:
            plan = parse_plan(write_toml(changed), "north.toml")
        except PlanError as error:
            text = str(error)
            assert text.startswith("north.toml: ")
            assert table in text or (key is not None and key in text), (table, key, text)
            assert len(text) < 2_000
        else:
            assert plan.by_key()[table if key is None else f"{table}.{key}"] == bad


@pytest.mark.parametrize(
    ("table", "key", "value", "text"),
    [
        ("members", "minimum_parties", True, "members.minimum_parties is True; expected a whole number"),
        ("members", "parties", ["a", 1], "members.parties is ['a', 1]; expected a list of names"),
        (
            "members",
            "partie",
            ["a"],
            "[members]: key 'partie' (did you mean 'parties'?) is not known; expected one of ",
        ),
        ("privacy", "dominance", 1, "privacy.dominance is 1; expected true or false"),
        (
            "privacy",
            "min_cell_rows",
            1,
            "privacy.min_cell_rows is 1; expected a whole number of at least 2: a cell of one row",
        ),
        ("privacy", "min_cell_rows", -(10**400), "privacy.min_cell_rows is -1000"),
        (
            "privacy",
            "verify_counts",
            "befor",
            "privacy.verify_counts is 'befor'; expected one of off, tree, after, before; did you mean 'before'?",
        ),
        (
            "evaluation",
            "fraction",
            float("nan"),
            "evaluation.fraction is nan; expected a number of at least 0 and below 1",
        ),
        ("evaluation", "fraction", 10**400, "evaluation.fraction is 1000"),
        ("schema", "features", "traffic", "schema.features is 'traffic'; expected a list of names"),
        ("schema", "decimal", ";", 'schema.decimal is \';\'; expected "." or ","'),
        ("schema", "label", "traffic", "schema: column 'traffic' is named more than once"),
        ("parameters", "max_depth", 99, "[parameters]: parameter max_depth = 99: expected a whole number from 0 to 16"),
        ("parameters", "max_dept", 9, "did you mean 'max_depth'?"),
        ("", "mode", "secure-agregation", "did you mean 'secure-aggregation'?"),
        (
            "",
            "privcy",
            {},
            "key 'privcy' (did you mean 'privacy'?) is not known; expected one of name, mode, start_model, members, ",
        ),
        ("", "members", [{"parties": []}], "members is [{'parties': []}]; expected a table [members]"),
    ],
)
def test_a_fault_names_file_key_found_and_expected(tmp_path, table, key, value, text):
    document = tomllib.loads(TEXT)
    (document.setdefault(table, {}) if table else document)[key] = value
    path = tmp_path / "plan.toml"
    path.write_text(write_toml(document), encoding="utf-8")
    with pytest.raises(PlanError, match=re.escape(f"{path}: ")) as caught:
        read_plan(path)
    assert text in str(caught.value)


def test_all_unknown_keys_of_a_table_are_named_at_once():
    with pytest.raises(
        PlanError, match=r"\[release\]: keys 'colour', 'taste' are not known; expected one of statistics"
    ):
        parse_plan(TEXT + "[release]\ncolour = 1\ntaste = 2\n")


def test_a_key_given_twice_is_refused_with_its_line():
    with pytest.raises(PlanError, match=r"plan: not TOML: Cannot overwrite a value \(at line"):
        parse_plan(TEXT.replace('label = "fault"', 'label = "fault"\nlabel = "other"'))


def test_a_name_may_hold_what_toml_can_escape_and_a_feature_may_not_hold_zero():
    assert parse_plan(TEXT.replace('"dropped-calls"', '"a\\u0000\\u007f"')).name == "a\0\x7f"
    with pytest.raises(PlanError, match=r"schema\.features: feature name 'a\\x00'"):
        parse_plan(TEXT.replace('"traffic", ', '"a\\u0000", '))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"min_cell_rows": 1}, "privacy.min_cell_rows is 1; expected a whole number of at least 2"),
        ({"min_cell_rows": 2.0}, "privacy.min_cell_rows is 2.0; expected a whole number"),
        ({"minimum_parties": True}, "members.minimum_parties is True; expected a whole number"),
        ({"parties": "aurora"}, "members.parties is 'aurora'; expected a list of names"),
        ({"evaluation_fraction": "0.2"}, "evaluation.fraction is '0.2'; expected a number"),
        ({"dominance": 1}, "privacy.dominance is 1; expected true or false"),
        ({"mode": None}, "mode is None; expected one of federated, secure-aggregation, coopetitive"),
    ],
)
def test_a_plan_made_in_python_is_held_to_the_same_types(change, text):
    with pytest.raises(PlanError, match=re.escape(text)):
        replace(PLAN, **change)


def test_parts_of_a_plan_made_in_python_are_held_to_the_same_types():
    with pytest.raises(PlanError, match=r"release\.leaf_bits is 3; expected a whole number from 4 to 24"):
        Release(leaf_bits=3)
    with pytest.raises(
        PlanError, match=r"members\.server_links is 'hob'; expected one of hub, direct; did you mean 'hub'\?"
    ):
        replace(ON_SHARES.coopetitive, server_links="hob")
    with pytest.raises(PlanError, match=r"schema\.weight_limit is inf; expected a positive number"):
        replace(ON_SHARES.coopetitive, weight_limit=float("inf"))


def test_every_attribute_with_a_declared_type_has_a_key():
    for owner, keys, rest in (
        (
            Plan,
            KEYS_OF_PLAN,
            {
                *("schema", "parameters", "coopetitive", "release", "custom_objective", "custom_metric"),
                *("search", "fold", "trial", "part_of"),
            },
        ),
        (Coopetitive, KEYS_OF_COOPETITIVE, set()),
        (Release, KEYS_OF_RELEASE, set()),
        (CustomObjective, KEYS_OF_CUSTOM, set()),
        (CustomMetric, KEYS_OF_METRIC, set()),
    ):
        assert {*keys} | rest == {*owner.__dataclass_fields__}
        for key in keys.values():
            table, _, name = key.rpartition(".")
            assert name in PLAN_KEYS[table]


def test_tables_are_strict_structs():
    assert set(TABLES) == set(PLAN_KEYS)
    assert all(issubclass(table, msgspec.Struct) for table in TABLES.values())
    assert all(table.__struct_config__.forbid_unknown_fields for table in TABLES.values())
    assert {"", *PlanDocument.__struct_fields__} >= set(TABLES)


def test_a_written_plan_is_plain_toml_with_its_tables_in_order():
    lines = write_plan(parse_plan(TEXT_ON_SHARES)).splitlines()
    assert [line for line in lines if line.startswith("[")][:4] == [
        "[members]",
        "[schema]",
        "[privacy]",
        "[evaluation]",
    ]
    assert lines[:2] == ['name = "run"', 'mode = "coopetitive"']
