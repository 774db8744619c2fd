"""What a search tries follows from the plan, and every range is covered."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.consortium.policy import Policy
from hansa.errors import PlanError
from hansa.plan import Interval, Plan, Search, parse_plan, write_plan
from made_consortium import PLAN

SEARCH = """
[evaluation]
fraction = 0.3

[search]
trials = 6

[search.space]
eta = { low = 0.03, high = 0.3, log = true }
max_depth = { low = 1, high = 3 }
min_child_weight = { low = 0.5, high = 8 }
max_delta_step = [0, 1]
"""


KNOWN_ETA = [0.0473, 0.1676, 0.03952, 0.2854, 0.1025, 0.07022]
KNOWN_DEPTH = [1, 2, 3, 2, 1, 3]


def of_text(search: str = SEARCH) -> Plan:
    return parse_plan(PLAN + search)


def test_a_plan_of_trials_is_written_and_read_back():
    one = of_text()
    assert parse_plan(write_plan(one)) == one
    assert (one.receivers, one.on_dropout) == ((), "abort")
    tried = ("eta: 0.03 to 0.3, evenly in the logarithm", "max_delta_step: 0, 1", "max_depth: 1 to 3")
    assert one.by_key()["search.space"] == (*tried, "min_child_weight: 0.5 to 8")
    plans = one.of_trials()
    assert len({one.digest(), *(own.digest() for own in plans)}) == 7
    assert {own.part_of for own in plans} == {one.digest().hex()}
    for own, drawn in zip(plans, one.search.drawn(0), strict=True):
        assert own.parameters == replace(one.parameters, **drawn)
    assert one.digest() != of_text(SEARCH.replace("0.03", "0.04")).digest()


def test_known_trials():
    """These numbers are the same on every machine and in every release: members must agree on them."""
    drawn = of_text().search.drawn(0)
    assert [own["eta"] for own in drawn] == KNOWN_ETA
    assert [own["max_depth"] for own in drawn] == KNOWN_DEPTH


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(0, 2**63 - 1), st.booleans(), st.integers(0, 9))
def test_every_part_of_a_range_is_tried_once(trials, seed, log, low):
    low = low + 1 if log else low
    space = (
        ("eta", Interval(0.05, 0.9, log)),
        ("max_leaves", Interval(low, low + 10, log)),
        ("grow_policy", ("depthwise", "lossguide")),
    )
    drawn = Search(trials, space).drawn(seed)
    assert len(drawn) == trials
    ends = (math.log(0.05), math.log(0.9)) if log else (0.05, 0.9)
    found = sorted((math.log(own["eta"]) if log else own["eta"]) for own in drawn)
    for part, value in enumerate(found):
        share = (value - ends[0]) / (ends[1] - ends[0])
        assert part / trials - 2e-3 <= share <= (part + 1) / trials + 2e-3
    assert all(isinstance(own["max_leaves"], int) and low <= own["max_leaves"] <= low + 10 for own in drawn)
    counts = [sum(own["grow_policy"] == choice for own in drawn) for choice in ("depthwise", "lossguide")]
    assert abs(counts[0] - counts[1]) <= 1


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ("eta = { low = 0.3, high = 0.03 }", r"search.space.eta: expected numbers, low below high"),
        ("eta = { low = 0, high = 0.3, log = true }", r"a logarithm needs a low above 0"),
        ("eta = []", r"search.space.eta: expected different choices"),
        ("eta = [0.1, 0.1]", r"search.space.eta: expected different choices"),
        (
            f"eta = {[0.1 + n / 1e4 for n in range(501)]}",
            r"search.space.eta: expected at most 500 choices, .* found 501",
        ),
        ("eta = { low = -1, high = 0.3 }", r"search.space.eta: .*eta"),
        ("max_depth = { low = 1.5, high = 3 }", r"search.space.max_depth: expected whole numbers"),
        ("max_bin = [16, 32]", r"search.space.max_bin: this parameter is not searched; expected one of eta"),
        ("eta = [0.1]\nlearning_rate = [0.2]", r"eta is named more than once"),
        ("eta = { low = 0.1 }", r"search.space.eta"),
    ],
)
def test_spaces_that_nobody_can_search_are_refused(changed, fault):
    with pytest.raises(PlanError, match=fault):
        of_text(SEARCH[: SEARCH.index("eta =")] + changed)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("fraction = 0.3", "folds = 3", r"leave \[search\] or folds out"),
        ("fraction = 0.3", "", r"set evaluation.fraction"),
        ("trials = 6", "trials = 0", r"search.trials is 0; expected a whole number from 1 to 500"),
        ("trials = 6", "trials = 501", r"search.trials is 501; expected a whole number from 1 to 500"),
        ("max_depth = { low = 1, high = 3 }", "colsample_bynode = [1.0]\nmax_leaves = [0, 4]\n", r"trial \d of 6"),
        (
            "[search]",
            '[release]\nmetric = "auc"\nat_least = 0.5\n\n[search]',
            r"a search releases no model|does not measure",
        ),
    ],
)
def test_what_does_not_go_with_a_search_is_refused(old, new, fault):
    with pytest.raises(PlanError, match=fault):
        parse_plan(
            (PLAN + SEARCH.replace(old, new)).replace(
                "max_depth = 2", "max_depth = 2" if "_leaves" not in new else "max_depth = 0\nmax_leaves = 8"
            )
        )


def test_receivers_and_waiting_do_not_go_with_a_search():
    with pytest.raises(
        PlanError, match=r"a search for parameters \(\[search\]\) releases no model; leave receivers out"
    ):
        parse_plan(PLAN.replace('"borealis"]', '"borealis"]\nreceivers = ["aurora"]', 1) + SEARCH)
    with pytest.raises(PlanError, match=r"a search for parameters \(\[search\]\) begins anew after a process ended"):
        parse_plan(PLAN.replace('"borealis"]', '"borealis"]\non_dropout = "wait"', 1) + SEARCH)
    start = f'start_model = "{"ab" * 32}"\nmode ='
    with pytest.raises(PlanError, match="start_model may have seen them"):
        parse_plan(PLAN.replace("mode =", start, 1) + SEARCH)


def test_a_policy_is_held_to_what_any_trial_does():
    one = of_text()
    deepest = max(own["max_depth"] for own in one.search.drawn(0))
    Policy(most_max_depth=deepest).check_plan(one)
    with pytest.raises(PlanError, match=rf"max_depth {deepest} \(allowed: at most {deepest - 1}\)"):
        Policy(most_max_depth=deepest - 1).check_plan(one)
    with pytest.raises(PlanError, match="min_child_weight"):
        Policy(least_min_child_weight=4.0).check_plan(one)
    for own in one.of_trials():
        Policy(plans=(one.digest().hex(),)).check_plan(own)
    with pytest.raises(PlanError, match="the digest"):
        Policy(plans=("0" * 64,)).check_plan(one.of_trials()[0])
