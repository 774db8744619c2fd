"""A party's own conditions, and what they say of a plan and of a roster."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from declared_keys import read_policy
from hansa.consortium.policy import KEYS, LEAST_PARTIES, STRENGTH, Policy, batches_of, enough_of
from hansa.errors import PlanError, ProtocolError
from hansa.plan import Plan, parse_plan

THREE = ("aurora", "borealis", "cirrus")


def plan_of(mode: str = "secure-aggregation", parties: tuple[str, ...] = THREE, **parameters: object) -> Plan:
    members = f'aggregator = "hub"\nparties = {list(parties)}'
    if mode == "coopetitive":
        members = f'hub = "hub"\nservers = ["s", "t", "u"]\nparties = {list(parties)}'
    rest = "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in parameters.items())
    return parse_plan(
        f'mode = "{mode}"\n[members]\n{members}\n[schema]\nfeatures = ["load", "age"]\nlabel = "fault"\n[parameters]\n{rest}'
    )


# --- the plan ---------------------------------------------------------------------------------------------------------


@given(st.sampled_from(STRENGTH), st.sampled_from(STRENGTH), st.booleans(), st.integers(2, 5))
def test_a_policy_takes_its_mode_or_a_stronger_one_with_enough_parties(least, mode, two, parties):
    policy = Policy(least_mode=least, allow_two_parties=two)
    plan = plan_of(mode, tuple(f"p{i}" for i in range(parties)))
    weaker = STRENGTH.index(mode) < STRENGTH.index(least)
    few = mode != "federated" and parties < (2 if two else LEAST_PARTIES)
    if not weaker and not few:
        policy.check_plan(plan)
        return
    with pytest.raises(PlanError, match="least_mode" if weaker else "allow_two_parties"):
        policy.check_plan(plan)


@pytest.mark.parametrize("mode", ["secure-aggregation", "coopetitive"])
def test_one_party_is_never_enough_for_a_protected_mode(mode):
    plan = plan_of(mode) if mode == "secure-aggregation" else plan_of(mode, ("aurora",))
    one = (
        plan
        if mode == "coopetitive"
        else replace(plan, parties=("aurora", "borealis"), receivers=(), minimum_parties=2)
    )
    with pytest.raises(PlanError, match="allow_two_parties"):
        Policy(allow_two_parties=mode == "coopetitive").check_plan(one)


def test_the_default_is_the_careful_one_but_for_the_mode():
    policy = Policy()
    assert (policy.least_mode, policy.allow_two_parties, policy.allow_other_rosters) == ("federated", False, False)
    assert policy.least_party_rows == 20
    policy.check_plan(plan_of("federated", ("aurora",)))


NARROW = {
    "least_mode": ("coopetitive", {}),
    "least_party_rows": (21, {}),
    "aggregators": (("other",), {}),
    "receivers": (("aurora", "borealis"), {}),
    "features": (("load",), {}),
    "labels": (("other",), {}),
    "least_min_cell_rows": (11, {}),
    "least_min_child_weight": (1.5, {}),
    "most_max_bin": (255, {}),
    "most_max_depth": (5, {}),
    "most_rounds": (99, {}),
    "plans": (("0" * 64,), {}),
}


@pytest.mark.parametrize("key", NARROW)
def test_each_rule_refuses_a_plan_beyond_it_and_names_the_key(key):
    value, parameters = NARROW[key]
    plan = plan_of(**parameters)
    with pytest.raises(PlanError, match=key):
        Policy(**{key: value}).check_plan(plan)


def test_a_member_without_rows_asks_for_no_minimum_of_them():
    few = replace(plan_of("coopetitive"), min_party_rows=1)
    Policy().check_plan(few, has_rows=False)
    with pytest.raises(PlanError, match="least_party_rows"):
        Policy().check_plan(few)


def test_rules_at_the_plans_own_values_refuse_nothing():
    plan = plan_of()
    Policy(
        least_mode="secure-aggregation",
        least_party_rows=20,
        aggregators=("hub",),
        receivers=THREE,
        features=("age", "load", "more"),
        labels=("fault",),
        least_min_cell_rows=10,
        least_min_child_weight=1.0,
        most_max_bin=256,
        most_max_depth=6,
        most_rounds=100,
        plans=(plan.digest().hex(),),
    ).check_plan(plan)


def test_servers_and_the_hub_of_a_coopetitive_plan_are_held_to_their_lists():
    plan = plan_of("coopetitive")
    Policy(servers=("s", "t", "u"), aggregators=("hub",)).check_plan(plan)
    with pytest.raises(PlanError, match=r"server 'u'.*servers"):
        Policy(servers=("s", "t")).check_plan(plan)
    with pytest.raises(PlanError, match=r"hub 'hub'.*aggregators"):
        Policy(aggregators=("s",)).check_plan(plan)


def test_a_weight_column_counts_as_a_feature():
    text = 'mode = "federated"\n[members]\naggregator = "hub"\nparties = ["a"]\n[schema]\nfeatures = ["x"]\nlabel = "y"\nweight = "w"\n'
    with pytest.raises(PlanError, match="feature 'w'"):
        Policy(features=("x",)).check_plan(parse_plan(text))


# --- reading ----------------------------------------------------------------------------------------------------------


def test_every_unknown_key_is_named():
    with pytest.raises(
        PlanError, match=r"north.toml: \[policy\]: keys 'colour', 'taste' are not known; expected one of least_mode"
    ):
        read_policy({"colour": 1, "taste": 2, "least_mode": "federated"}, "north.toml")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"least_mode": "secure"}, "expected one of federated"),
        ({"least_mode": 3}, "least_mode"),
        ({"allow_two_parties": "yes"}, "allow_two_parties"),
        ({"most_rounds": 0}, "most_rounds"),
        ({"most_rounds": 2.5}, "most_rounds"),
        ({"least_party_rows": -1}, r"policy\.least_party_rows is -1; expected a whole number of at least 0"),
        ({"least_min_cell_rows": -1}, r"policy\.least_min_cell_rows is -1; expected a whole number of at least 0"),
        (
            {"most_runs": True},
            r"policy\.most_runs is True; expected a whole number of at least 1; leave it out for no limit",
        ),
        ({"least_mode": "federate"}, r"policy\.least_mode is 'federate'; .* did you mean 'federated'\?"),
        ({"plans": ["abc"]}, "64 hex digits"),
        ({"features": "load"}, "features"),
        ({"least_min_child_weight": float("nan")}, "least_min_child_weight"),
    ],
)
def test_a_value_that_no_plan_could_meet_is_refused_and_the_key_named(given, words):
    with pytest.raises(PlanError, match=words):
        read_policy(given, "north.toml")


def test_a_policy_reads_back_every_key():
    assert read_policy({"most_runs": 3, "aggregators": ["hub"]}, "x") == Policy(most_runs=3, aggregators=("hub",))
    assert set(KEYS) == set(Policy.__struct_fields__)


# --- batches ----------------------------------------------------------------------------------------------------------

LABELLED = plan_of()
NUMBERS = plan_of(objective="reg:squarederror")
HELD = replace(LABELLED, evaluation_fraction=0.2)
RANKED = replace(plan_of(eval_metric=["auc"]), evaluation_fraction=0.2)


def everybody(plan: Plan) -> int:
    return (1 << len(batches_of(plan))) - 1


def roster(*counts: tuple[int, int]) -> list[tuple[str, int, int]]:
    return [(name, *own) for name, own in zip((*THREE, "dune", "echo"), counts, strict=False)]


def check(
    plan: Plan, counted: list[tuple[str, int, int]], enough: dict[str, int] | None = None, **policy: object
) -> None:
    names = tuple(name for name, _, _ in counted)
    plan = replace(plan, parties=names, receivers=(), minimum_parties=len(names))
    Policy(**policy).check_roster(
        plan, names[0], counted, dict.fromkeys(names, everybody(plan)) if enough is None else enough
    )


def test_three_parties_with_k_training_rows_each_are_enough_and_two_are_not():
    check(NUMBERS, roster((20, 0), (20, 0), (20, 0)))
    check(NUMBERS, roster((20, 0), (20, 0), (20, 0), (1, 0)))
    for few in ((20, 0), (20, 0), (19, 0)), ((200, 0), (0, 5), (0, 5)), ((900, 0), (1, 0), (1, 0), (30, 0)):
        with pytest.raises(ProtocolError, match="training rows each"):
            check(NUMBERS, roster(*few))


def test_held_out_rows_are_a_batch_of_their_own():
    check(HELD, roster((90, 20), (90, 20), (90, 20)))
    check(HELD, roster((90, 0), (90, 0), (90, 0)))  # then there is no metric
    for held in ((1, 0, 0), (20, 20, 19), (50, 50, 0)):
        with pytest.raises(ProtocolError, match="held-out rows each"):
            check(HELD, roster(*((90, own) for own in held)))


def test_each_class_is_a_batch_where_sums_count_it():
    counted = roster((90, 30), (90, 30), (90, 30))
    place = {str(batch): place for place, batch in enumerate(batches_of(RANKED))}
    assert list(place) == [
        "training rows", "training rows of class 0", "training rows of class 1",
        "held-out rows", "held-out rows of class 0", "held-out rows of class 1",
    ]  # fmt: skip
    for words in ("training rows of class 1", "training rows of class 0", "held-out rows of class 1"):
        lacking = everybody(RANKED) & ~(1 << place[words])
        with pytest.raises(ProtocolError, match=f"only 2 of 3 parties have 20 {words} each.*too few: cirrus"):
            check(RANKED, counted, {"aurora": everybody(RANKED), "borealis": everybody(RANKED), "cirrus": lacking})
    with pytest.raises(ProtocolError, match="of class 0 each"):
        check(RANKED, counted, {})


def test_labels_that_are_numbers_have_no_classes_and_a_loss_ranks_none():
    assert [str(batch) for batch in batches_of(NUMBERS)] == ["training rows"]
    assert [str(batch) for batch in batches_of(HELD)][3:] == ["held-out rows"]
    assert len(batches_of(plan_of("coopetitive", num_class=4))) == 5


CLASS_COUNTS = st.dictionaries(st.tuples(st.just(0), st.integers(0, 1)), st.integers(0, 40))


@given(CLASS_COUNTS, CLASS_COUNTS)
def test_a_party_tells_of_each_class_whether_it_has_k_rows_and_no_more(training, held):
    bits = enough_of(RANKED, training, held)
    assert bits == sum(
        1 << place
        for place, (counts, label) in {1: (training, 0), 2: (training, 1), 4: (held, 0), 5: (held, 1)}.items()
        if counts.get((0, label), 0) >= 20
    )


def test_two_parties_are_enough_only_where_the_policy_says_so():
    with pytest.raises(ProtocolError, match="at least 3 must"):
        check(NUMBERS, roster((90, 0), (90, 0)))
    check(NUMBERS, roster((90, 0), (90, 0)), allow_two_parties=True)
    with pytest.raises(ProtocolError, match="at least 2 must"):
        check(NUMBERS, roster((90, 0), (1, 0)), allow_two_parties=True)


def test_in_federated_mode_sums_are_a_partys_own_and_no_batch_is_asked_for():
    federated = plan_of("federated")
    check(federated, roster((1, 0), (1, 0), (1, 0)))


def test_rows_of_the_others_are_held_to_the_policy():
    counted = roster((90, 0), (90, 0), (1000, 0))
    check(NUMBERS, counted, least_rows_of_others=1090, most_rows_of_others=1000)
    with pytest.raises(ProtocolError, match="least_rows_of_others"):
        check(NUMBERS, counted, least_rows_of_others=1091)
    with pytest.raises(ProtocolError, match=r"member 'cirrus' says that it has 1000.*most_rows_of_others"):
        check(NUMBERS, counted, most_rows_of_others=999)
    # This party's own rows are not the others'.
    check(NUMBERS, roster((5000, 0), (90, 0), (90, 0)), most_rows_of_others=999)
