"""Digests of plans are for ever: two releases that read one file must find the same digest, or members refuse each other."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_plan import ON_SHARES, PLAN, TEXT

from hansa.plan import Plan, Release, parse_plan, write_plan

KNOWN: list[dict[str, str]] = json.loads(Path(__file__).with_name("known_digests.json").read_text(encoding="utf-8"))
"""Plans of every mode, and what `Plan.digest` was when `plan` was one module. Never made anew: whoever must change a digest changes
`format` in `Plan.canonical` too, and says so in CHANGELOG.md."""


def test_there_are_plans_of_every_mode_and_kind():
    plans = [parse_plan(known["plan"]) for known in KNOWN]
    assert len(plans) == 100
    assert {plan.mode for plan in plans} == {"federated", "secure-aggregation", "coopetitive"}
    assert {plan.verify_counts for plan in plans} == {"off", "tree", "after", "before"}
    assert {plan.parameters.objective for plan in plans} == {"binary:logistic", "reg:squarederror"}
    shared = [plan.coopetitive for plan in plans if plan.coopetitive is not None]
    for attribute in ("label_range", "cuts", "missing", "weight_limit", "steps", "monotone", "statistics"):
        assert len({bool(getattr(more, attribute)) for more in shared}) == 2, attribute


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known["name"])
def test_the_digest_of_a_plan_file_is_what_it_was(known):
    plan = parse_plan(known["plan"])
    assert plan.digest().hex() == known["digest"]
    assert hashlib.sha256(b"hansa plan\0" + plan.canonical()).hexdigest() == known["digest"]
    assert parse_plan(write_plan(plan)) == plan


@pytest.mark.parametrize(
    ("base", "change", "begins"),
    [
        (PLAN, {}, "89dd660b50670b91"),
        (PLAN, {"name": "other"}, "852fb0ce6069727e"),
        (PLAN, {"receivers": ()}, "708292883b3e22f7"),
        (PLAN, {"minimum_parties": 3}, "05670c141dd01352"),
        (PLAN, {"evaluation_fraction": 0}, "bc36455f28a288db"),
        (PLAN, {"min_cell_rows": 21}, "36ec6847b03b2bdf"),
        (PLAN, {"min_child_rows": 4}, "14c246e279389fcf"),
        (PLAN, {"min_party_rows": 0}, "6ebf54cf1edeaf29"),
        (PLAN, {"dominance": True}, "35f0a9de1fd7c6a3"),
        (PLAN, {"release": Release(statistics=False)}, "a0985e652487cbaa"),
        (PLAN, {"release": Release(statistics=False, least_choices=500)}, "76ed2e3342025f88"),
        (PLAN, {"release": Release(leaf_bits=9)}, "366b12d5b0554faa"),
        (PLAN, {"mode": "secure-aggregation"}, "f6569d6eb4a0c2a4"),
        (PLAN, {"mode": "secure-aggregation", "verify_counts": "before"}, "70fdc365187e33de"),
        (PLAN, {"parameters": replace(PLAN.parameters, eta=1, lambda_=2)}, "3d8b12acab0602f5"),
        (ON_SHARES, {"coopetitive": replace(ON_SHARES.coopetitive, weight_limit=4)}, "c50880f34f2bdd8a"),
        (ON_SHARES, {"release": Release(statistics=False)}, "bfd583f85b815c4c"),
    ],
)
def test_the_digest_of_a_plan_made_in_python_is_what_it_was(base: Plan, change: dict[str, Any], begins: str):
    assert replace(base, **change).digest().hex()[:16] == begins


def test_ignored_columns_change_the_digest_only_where_they_are_given_and_not_by_their_order():
    def digest(line: str) -> bytes:
        return parse_plan(TEXT.replace("[schema]\n", f"[schema]\n{line}\n")).digest()

    without = parse_plan(TEXT).digest()
    assert digest("ignore = []") == without
    assert digest('ignore = ["x1", "x2"]') == digest('ignore = ["x2", "x1"]') != without


@pytest.mark.parametrize("plan", [PLAN, ON_SHARES])
def test_ignored_columns_are_written_and_read_back(plan):
    ignoring = replace(plan, schema=replace(plan.schema, ignore=("x2", "x1")))
    read = parse_plan(write_plan(ignoring))
    assert read == ignoring
    assert read.by_key()["schema.ignore"] == ("x1", "x2")


@pytest.mark.parametrize("plan", [PLAN, ON_SHARES])
def test_classes_change_the_digest_by_their_order_too_and_are_written_and_read_back(plan):
    if plan.coopetitive is not None:
        more = replace(plan.coopetitive, label_range=None)
        plan = replace(plan, coopetitive=more, parameters=replace(plan.parameters, objective="binary:logistic"))
    named, other = (
        replace(plan, schema=replace(plan.schema, classes=classes)) for classes in (("no", "yes"), ("yes", "no"))
    )
    assert len({plan.digest(), named.digest(), other.digest()}) == 3
    assert b"classes" not in plan.canonical()
    assert parse_plan(write_plan(named)) == named
    assert named.by_key()["schema.classes"] == ("no", "yes")
