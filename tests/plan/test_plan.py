"""A plan means the same however it is written, and says by name what is wrong with it."""

from __future__ import annotations

import re
import tomllib
from dataclasses import fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from declared_keys import PLAN_KEYS
from hansa.data.schema import Schema
from hansa.errors import PlanError
from hansa.plan import (
    COOPETITIVE,
    MODES,
    Coopetitive,
    CustomMetric,
    CustomObjective,
    Plan,
    Release,
    Search,
    parse_plan,
    read_plan,
    write_plan,
)
from hansa.trees.losses import is_exponential, is_logistic, is_quantile, is_softmax
from hansa.trees.parameters import METRICS, NAMES, Parameters, parse_parameters

TEXT = """
name = "dropped-calls"
mode = "federated"

[members]
aggregator = "hub"
parties = ["aurora", "borealis", "cirrus"]
receivers = ["aurora"]
minimum_parties = 2

[schema]
features = ["traffic", "temperature"]
label = "fault"
weight = "importance"

[privacy]
min_cell_rows = 20

[evaluation]
fraction = 0.2

[parameters]
objective = "binary:logistic"
rounds = 50
eta = 0.1
"""

PLAN = parse_plan(TEXT)

TEXT_ON_SHARES = """
mode = "coopetitive"

[members]
hub = "post"
servers = ["cirrus", "aurora", "vault"]
parties = ["aurora", "borealis", "cirrus"]
receivers = ["reader"]

[schema]
features = ["traffic", "temperature"]
label = "fault"
weight = "importance"
weight_limit = 4
decimal = ","
missing = ["temperature"]

[evaluation]
fraction = 0.1
steps = [10, 50]

[labels]
range = [0, 100]

[cuts]
traffic = [1, 10]
temperature = [-0.5]

[monotone]
temperature = -1

[release]
statistics = true

[parameters]
objective = "reg:squarederror"
rounds = 50
"""

ON_SHARES = parse_plan(TEXT_ON_SHARES)

TEXT_OF_CATEGORIES = TEXT_ON_SHARES.replace('"temperature"]\nlabel', '"temperature", "kind", "site"]\nlabel').replace(
    "[monotone]", '[categories]\nsite = [7, -3, 12]\nkind = ["old", "new \'7", "naïve"]\n\n[monotone]'
)

OF_CATEGORIES = parse_plan(TEXT_OF_CATEGORIES)

CHOICES = replace(PLAN, release=Release(statistics=False, least_choices=500))
BITS = replace(PLAN, release=Release(leaf_bits=9))

COUNTED = replace(PLAN, mode="secure-aggregation", verify_counts="before", min_child_rows=5)

member = st.from_regex(r"[a-z0-9][a-z0-9-]{0,62}", fullmatch=True)
column = st.text(st.characters(codec="utf-8", exclude_characters="[]<\0"), min_size=1, max_size=12)
number = st.just(0.0) | st.floats(1e-37, 1e9)
share = st.floats(1e-6, 1)


@st.composite
def parameter_sets(draw):
    objective = draw(st.sampled_from(sorted(METRICS)))
    logistic = is_logistic(objective)
    start = st.floats(1e-6, 1 - 1e-6) if logistic or is_exponential(objective) else st.floats(-1e9, 1e9)
    start = st.floats(-0.9, 1e9) if objective == "reg:squaredlogerror" else start
    shapes = {
        "reg:pseudohubererror": ("huber_slope", 1e-6, 1e6),
        "reg:tweedie": ("tweedie_variance_power", 1.001, 1.999),
    }
    name, *ends = shapes.get(objective, ("huber_slope", 1.0, 1.0))
    depth = draw(st.integers(0, 16))
    classes = {"num_class": draw(st.integers(2, 50))} if is_softmax(objective) else {}
    return parse_parameters(
        {
            "objective": objective,
            "rounds": draw(st.integers(1, 1000)),
            "eta": draw(share),
            "max_depth": depth,
            "max_leaves": draw(st.integers(0 if depth else 1, 2**16)),
            "grow_policy": draw(st.sampled_from(["depthwise", "lossguide"])),
            "num_parallel_tree": draw(st.integers(1, 20)),
            # By position: every plan has a feature.
            "monotone_constraints": draw(
                st.just(()) if is_quantile(objective) else st.just(()) | st.tuples(st.integers(-1, 1))
            ),
            "quantile_alpha": draw(st.lists(st.floats(0.01, 1), min_size=1, max_size=3))
            if objective == "reg:quantileerror"
            else (),
            "interaction_constraints": draw(st.sampled_from([(), [[0]]])),
            "max_cat_to_onehot": draw(st.none() | st.integers(1, 2**31 - 1)),
            "max_cat_threshold": draw(st.none() | st.integers(1, 2**31 - 1)),
            "lambda": draw(number),
            "alpha": draw(number),
            "gamma": draw(number),
            "min_child_weight": draw(number),
            "max_delta_step": draw(st.floats(0.1, 20) if objective == "count:poisson" else number),
            "subsample": draw(share),
            "colsample_bytree": draw(share),
            "colsample_bylevel": draw(share),
            "colsample_bynode": draw(share),
            "max_bin": draw(st.integers(2, 65_535)),
            "scale_pos_weight": draw(st.just("auto") | st.floats(1e-6, 1e6)) if logistic else 1,
            "base_score": draw(st.none() | start),
            "early_stopping_rounds": draw(st.none() | st.integers(1, 1000)),
            # Of several quantiles there is the metric quantile alone.
            "eval_metric": draw(st.lists(st.sampled_from(METRICS[objective]), unique=True, max_size=3))
            if objective != "reg:quantileerror"
            else "quantile",
            "seed": draw(st.integers(0, 2**63 - 1)),
            "histogram_bits": draw(st.sampled_from(["auto", 32, 64])),
            name: draw(st.floats(*ends)),
        }
        | classes
    )


@st.composite
def plans(draw):
    mode = draw(st.sampled_from([mode for mode in MODES if mode != COOPETITIVE]))
    least = 2 if mode == "secure-aggregation" else 1
    names = draw(st.lists(member, min_size=1 + least, max_size=6, unique=True))
    hub, parties = names[0], names[1:]
    columns = draw(st.lists(column, min_size=3, max_size=6, unique=True))
    weighted = draw(st.booleans())
    parameters = draw(parameter_sets())
    fraction = draw(st.floats(0, 0.99))
    if parameters.early_stopping_rounds is not None and fraction == 0:
        fraction = 0.25
    return Plan(
        name=draw(st.text(st.characters(codec="utf-8"), max_size=12)),
        mode=mode,
        aggregator=hub,
        parties=tuple(draw(st.permutations(parties))),
        receivers=tuple(draw(st.lists(st.sampled_from(names), unique=True))),
        minimum_parties=draw(st.integers(least, len(parties))),
        schema=Schema(tuple(columns[2:]), columns[0], columns[1] if weighted else None),
        parameters=parameters,
        min_cell_rows=draw(st.integers(2, 10**6)),
        evaluation_fraction=fraction,
    )


@settings(max_examples=150, deadline=None)
@given(plans())
def test_a_plan_survives_being_written(plan):
    again = parse_plan(write_plan(plan))
    assert again == plan
    assert again.canonical() == plan.canonical()
    assert again.digest() == plan.digest()


def test_a_plan_is_read_as_it_says():
    assert PLAN.name == "dropped-calls"
    assert PLAN.parties == ("aurora", "borealis", "cirrus")
    assert PLAN.receivers == ("aurora",)
    assert PLAN.members == ("aurora", "borealis", "cirrus", "hub")
    assert PLAN.minimum_parties == 2
    assert PLAN.schema == Schema(("traffic", "temperature"), "fault", "importance")
    assert PLAN.min_cell_rows == 20
    assert PLAN.evaluation_fraction == 0.2
    assert PLAN.parameters == Parameters(rounds=50, eta=0.1)


def test_defaults_are_the_stated_ones():
    short = parse_plan(
        'mode = "federated"\n[members]\naggregator = "h"\nparties = ["b", "a"]\n'
        '[schema]\nfeatures = ["x"]\nlabel = "y"\n'
    )
    assert short.receivers == short.parties == ("a", "b")
    assert short.minimum_parties == 2
    assert short.evaluation_fraction == 0
    assert short.min_cell_rows == 10
    assert short.parameters == Parameters()
    written_out = write_plan(short)
    assert parse_plan(written_out).digest() == short.digest()


@pytest.mark.parametrize(
    "text",
    [
        "# a comment\n" + TEXT,
        TEXT.replace("\n", "\r\n"),
        TEXT.replace(" = ", "   =  "),
        TEXT.replace("0.1", "1e-1").replace("0.2", "2.0e-1"),
        TEXT.replace('"aurora", "borealis", "cirrus"', '"cirrus", "aurora",\n  "borealis",'),
        TEXT.replace("eta = 0.1", "learning_rate = 0.1"),
        TEXT.replace("rounds = 50\neta = 0.1", "eta = 0.1\nrounds = 50\nmax_depth = 6\ntree_method = 'hist'"),
        TEXT.replace("[members]", "[privacy]\nmin_cell_rows = 20\n[members]").replace(
            "[privacy]\nmin_cell_rows = 20\n\n[evaluation]", "[evaluation]"
        ),
    ],
)
def test_the_digest_is_of_the_meaning(text):
    assert tomllib.loads(text)
    assert parse_plan(text).digest() == PLAN.digest()


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"aggregator": "hub2"},
        {"parties": ("aurora", "borealis", "dune")},
        {"receivers": ("aurora", "borealis")},
        {"receivers": ()},
        {"minimum_parties": 3},
        {"schema": Schema(("temperature", "traffic"), "fault", "importance")},
        {"schema": Schema(("traffic", "temperature"), "fault")},
        {"min_cell_rows": 21},
        {"evaluation_fraction": 0.21},
        {"release": Release(statistics=False)},
        {"release": Release(statistics=False, least_choices=500)},
        {"release": Release(leaf_bits=9)},
        *({"parameters": replace(PLAN.parameters, **p)} for p in ({"eta": 0.2}, {"seed": 1}, {"lambda_": 0.5})),
    ],
    ids=str,
)
def test_the_digest_changes_with_the_meaning(change):
    assert replace(PLAN, **change).digest() != PLAN.digest()


RELEASED_ON_SHARES = TEXT_ON_SHARES.replace("reg:squarederror", "binary:logistic").replace(
    "[labels]\nrange = [0, 100]\n", ""
)


@pytest.mark.parametrize(
    ("text", "statistics", "choices"),
    [
        (TEXT, True, 0),
        (TEXT + "[release]\nstatistics = false", False, 0),
        (TEXT + "[release]\nstatistics = false\nleast_choices = 50", False, 50),
        (TEXT + "[release]\nleaf_bits = 9", True, 0),
        (RELEASED_ON_SHARES, True, 0),
        (RELEASED_ON_SHARES.replace("statistics = true", ""), False, 1000),
        (RELEASED_ON_SHARES.replace("statistics = true", "least_choices = 0"), False, 0),
        (RELEASED_ON_SHARES.replace("statistics = true", "leaf_bits = 14"), False, 0),
        (TEXT_ON_SHARES.replace("statistics = true", ""), False, 0),
    ],
)
def test_a_plan_says_what_its_model_tells_of_leaves(text, statistics, choices):
    plan = parse_plan(text)
    assert (plan.statistics, plan.least_choices) == (statistics, choices)
    assert parse_plan(write_plan(plan)) == plan
    assert plan.by_key()["release.statistics"] is statistics
    assert plan.by_key()["release.least_choices"] == choices


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ("statistics = 1", "release.statistics is 1; expected true or false"),
        ("stats = true", "key 'stats' is not known"),
        ("leaf_bits = 3", "release.leaf_bits is 3; expected a whole number from 4 to 24"),
        ("leaf_bits = 25", "release.leaf_bits is 25; expected a whole number from 4 to 24"),
        ("leaf_bits = 9.0", "release.leaf_bits is 9.0; expected a whole number"),
        ("leaf_bits = true", "release.leaf_bits is True; expected a whole number"),
        ("deadline_s = 10", "release.deadline_s goes with mode 'coopetitive' only"),
        ("deadline_s = 0", "release.deadline_s is 0"),
        ("statistics = false\nleast_choices = -1", "release.least_choices is -1; expected a whole number: 0"),
        ("statistics = false\nleast_choices = 9\nleaf_bits = 9", "least_choices is 9, and leaf_bits 9 is given too"),
        ("least_choices = 9", "a leaf's cover tells its number of rows: set release.statistics = false"),
    ],
)
def test_what_is_wrong_with_a_release_is_named(more, named):
    with pytest.raises(PlanError, match=re.escape(named)):
        parse_plan(f"{TEXT}[release]\n{more}\n")


def test_where_parties_learn_the_rows_of_leaves_no_choices_can_be_promised():
    text = (TEXT + "[release]\nstatistics = false\nleast_choices = 9\n").replace("federated", "secure-aggregation")
    text = text.replace("minimum_parties = 2", "minimum_parties = 3")
    assert parse_plan(text.replace("[privacy]", '[privacy]\nverify_counts = "off"')).least_choices == 9
    for asked, when in (("", "tree"), ('\nverify_counts = "after"', "after")):
        with pytest.raises(
            PlanError, match=rf"privacy\.verify_counts = '{when}' tells every party the rows of each leaf"
        ):
            parse_plan(text.replace("[privacy]", f"[privacy]{asked}"))


def test_row_counts_are_verified_by_default_where_three_parties_take_part():
    masked = TEXT.replace("federated", "secure-aggregation").replace("minimum_parties = 2", "minimum_parties = 3")
    assert parse_plan(masked).verify_counts == "tree"
    two = masked.replace('"borealis", "cirrus"]', '"borealis"]').replace("minimum_parties = 3", "minimum_parties = 2")
    assert (
        parse_plan(two).verify_counts
        == parse_plan(TEXT).verify_counts
        == parse_plan(TEXT_ON_SHARES).verify_counts
        == "off"
    )


@pytest.mark.parametrize("key", ["least_choices", "leaf_bits"])
def test_leaves_of_squared_error_are_not_rounded(key):
    text = (TEXT + f"[release]\nstatistics = false\n{key} = 9\n").replace("binary:logistic", "reg:squarederror")
    with pytest.raises(PlanError, match=f"release.{key} goes with binary:logistic only"):
        parse_plan(text)


def test_the_digest_is_known():
    """Another release must not read another meaning into the same digest unnoticed."""
    assert len(PLAN.digest()) == 32
    assert PLAN.canonical().startswith(b'{"aggregator":"hub","evaluation_fraction":0.2,"format":1,')


def edited(old: str, new: str) -> str:
    assert TEXT.count(old) == 1, old
    return TEXT.replace(old, new)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('mode = "federated"', 'mode = "federate"', "mode is 'federate'"),
        ('mode = "federated"', "mode = 3", "mode is 3"),
        ('mode = "federated"', "", "mode is missing"),
        ('name = "dropped-calls"', "name = 3", "name is 3"),
        ('name = "dropped-calls"', 'nome = "dropped-calls"', "key 'nome'"),
        ('aggregator = "hub"', "", "members.aggregator is missing"),
        ('aggregator = "hub"', 'aggregator = ["hub"]', "members.aggregator is ['hub']"),
        ('aggregator = "hub"', 'aggregator = "Hub"', "member name 'Hub'"),
        ('aggregator = "hub"', 'aggregator = "aurora"', "'aurora' is both the aggregator and a party"),
        ('aggregator = "hub"', 'aggregator = "hub"\nservers = []', "members.servers goes with mode"),
        ('parties = ["aurora", "borealis", "cirrus"]', "", "members.parties is missing"),
        ('parties = ["aurora", "borealis", "cirrus"]', 'parties = "aurora"', "members.parties is 'aurora'"),
        ('parties = ["aurora", "borealis", "cirrus"]', "parties = [1, 2]", "members.parties is [1, 2]"),
        ('parties = ["aurora", "borealis", "cirrus"]', "parties = []", "members.parties is empty"),
        (
            'parties = ["aurora", "borealis", "cirrus"]',
            'parties = ["aurora", "aurora"]',
            "members.parties names a member twice",
        ),
        ('receivers = ["aurora"]', 'receivers = ["dune"]', "receiver 'dune'"),
        (
            'receivers = ["aurora"]',
            'receivers = ["aurora", "aurora"]',
            "members.receivers names a member twice",
        ),
        ("minimum_parties = 2", "minimum_parties = 4", "members.minimum_parties is 4"),
        ("minimum_parties = 2", "minimum_parties = 0", "members.minimum_parties is 0"),
        ("minimum_parties = 2", "minimum_parties = true", "members.minimum_parties is True"),
        ("minimum_parties = 2", "minimum_parties = 2.0", "members.minimum_parties is 2.0"),
        ('features = ["traffic", "temperature"]', "features = []", "schema.features"),
        ('features = ["traffic", "temperature"]', "", "schema.features is missing"),
        ('label = "fault"', "", "schema.label is missing"),
        ('label = "fault"', 'label = "traffic"', "'traffic' is named more than once"),
        ('label = "fault"', "label = 1", "schema.label is 1"),
        ('weight = "importance"', "weight = 1", "schema.weight is 1"),
        ('weight = "importance"', 'weights = "importance"', "key 'weights'"),
        ("min_cell_rows = 20", "min_cell_rows = 1", "privacy.min_cell_rows is 1"),
        ("min_cell_rows = 20", 'min_cell_rows = "20"', "privacy.min_cell_rows is '20'"),
        ("min_cell_rows = 20", "cells = 1", "key 'cells'"),
        ("fraction = 0.2", "fraction = 1.0", "evaluation.fraction is 1.0"),
        ("fraction = 0.2", "fraction = -0.1", "evaluation.fraction is -0.1"),
        ("fraction = 0.2", "fraction = nan", "evaluation.fraction is nan"),
        ("fraction = 0.2", "fraction = true", "evaluation.fraction is True"),
        ("fraction = 0.2", "part = 0.2", "key 'part'"),
        ("[privacy]\nmin_cell_rows = 20", "privacy = 3", "key"),
        ("eta = 0.1", "eta = 2", "eta = 2"),
        ("eta = 0.1", "etta = 0.1", "'eta'"),
        ("eta = 0.1", "booster = 'dart'", "booster = 'dart'"),
        ("eta = 0.1", "early_stopping_rounds = 5.0", "early_stopping_rounds = 5.0"),
        ("[parameters]", "[parametres]", "'parametres'"),
    ],
)
def test_what_is_wrong_is_named(old, new, named):
    with pytest.raises(PlanError, match=re.escape(named)):
        parse_plan(edited(old, new))


def test_early_stopping_needs_held_out_rows():
    text = edited("fraction = 0.2", "fraction = 0").replace("eta = 0.1", "early_stopping_rounds = 5")
    with pytest.raises(PlanError, match="early_stopping_rounds needs held-out rows"):
        parse_plan(text)


@pytest.mark.parametrize("mode", ["open", "", "Federated", "coopetitive ", "secure"])
def test_an_unknown_mode_is_refused_and_never_run_as_another(mode):
    with pytest.raises(PlanError, match=f"mode is '{mode}'; expected one of"):
        parse_plan(edited('mode = "federated"', f'mode = "{mode}"'))
    with pytest.raises(PlanError, match="expected one of"):
        replace(PLAN, mode=mode)


def test_a_plan_of_one_mode_is_never_run_as_another():
    for mode in MODES:
        if mode != COOPETITIVE:
            with pytest.raises(PlanError, match="go with 'coopetitive' only"):
                replace(ON_SHARES, mode=mode)
    with pytest.raises(PlanError, match=r"members\.hub is missing"):
        parse_plan(edited('mode = "federated"', 'mode = "coopetitive"'))
    with pytest.raises(PlanError, match="go with 'coopetitive' only"):
        replace(PLAN, mode=COOPETITIVE)


def test_a_coopetitive_plan_is_read_as_it_says():
    assert ON_SHARES.hub == "post"
    assert ON_SHARES.servers == ("cirrus", "aurora", "vault")
    assert ON_SHARES.members == ("aurora", "borealis", "cirrus", "post", "reader", "vault")
    assert ON_SHARES.aggregator == ""
    assert ON_SHARES.parameters.max_bin == 32
    assert ON_SHARES.coopetitive == Coopetitive(
        "post",
        ("cirrus", "aurora", "vault"),
        True,
        (0.0, 100.0),
        ((1.0, 10.0), (-0.5,)),
        ("temperature",),
        4.0,
        (10, 50),
        (0, -1),
    )
    assert parse_plan(write_plan(ON_SHARES)) == ON_SHARES
    bare = parse_plan(re.sub(r"\[(cuts|release)\]\n(?:[^\[\n][^\n]*\n)*", "", TEXT_ON_SHARES))
    assert bare.coopetitive is not None
    assert bare.coopetitive.cuts is None
    assert not bare.coopetitive.statistics
    assert parse_plan(write_plan(bare)) == bare
    assert len({plan.digest() for plan in (ON_SHARES, bare, replace(ON_SHARES, name="x"))}) == 3


def test_the_order_of_servers_counts():
    more = replace(ON_SHARES.coopetitive, servers=("aurora", "cirrus", "vault"))
    assert replace(ON_SHARES, coopetitive=more).digest() != ON_SHARES.digest()


@pytest.mark.parametrize(
    ("hub", "members"),
    [
        ("post", ("aurora", "borealis", "cirrus", "post", "reader", "vault")),
        ("aurora", ("aurora", "borealis", "cirrus", "reader", "vault")),
        ("vault", ("aurora", "borealis", "cirrus", "reader", "vault")),
        ("borealis", ("aurora", "borealis", "cirrus", "reader", "vault")),
        ("reader", ("aurora", "borealis", "cirrus", "reader", "vault")),
    ],
    ids=["alone", "server and owner", "server", "owner", "receiver"],
)
def test_the_hub_may_have_any_other_roles(hub, members):
    plan = parse_plan(TEXT_ON_SHARES.replace('hub = "post"', f'hub = "{hub}"'))
    assert plan.hub == hub
    assert plan.members == members
    assert plan.participants == ("aurora", "borealis", "cirrus", "reader", "vault")
    assert parse_plan(write_plan(plan)) == plan
    assert (plan.digest() == ON_SHARES.digest()) == (hub == "post")


def test_three_members_and_nobody_else():
    text = TEXT_ON_SHARES.replace('"vault"', '"borealis"').replace('hub = "post"', 'hub = "borealis"')
    plan = parse_plan(text.replace('receivers = ["reader"]', ""))
    assert plan.members == plan.participants == plan.receivers == ("aurora", "borealis", "cirrus")


def test_other_modes_know_nothing_of_servers():
    assert b"coopetitive" not in PLAN.canonical()
    assert PLAN.servers == ()
    assert PLAN.hub == "hub"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('servers = ["cirrus", "aurora", "vault"]', 'servers = ["cirrus", "aurora"]', "three different members"),
        ('servers = ["cirrus", "aurora", "vault"]', 'servers = ["cirrus", "aurora", "aurora"]', "three different"),
        ('servers = ["cirrus", "aurora", "vault"]', "", "three different members"),
        ('hub = "post"', 'hub = ["post"]', "members.hub is ['post']; expected a member's name"),
        ('hub = "post"', 'hub = "Post"', "member name 'Post'"),
        ('hub = "post"', "", "members.hub is missing"),
        ('hub = "post"', 'hub = "post"\naggregator = "x"', "there is a hub instead"),
        ('receivers = ["reader"]', "receivers = []", "nobody would ever see the model"),
        ('receivers = ["reader"]', "minimum_parties = 2", "every party takes part"),
        ("weight_limit = 4\n", "", "schema.weight and schema.weight_limit go together"),
        ('weight = "importance"\n', "", "schema.weight and schema.weight_limit go together"),
        ("weight_limit = 4", "weight_limit = 0", "schema.weight_limit is 0; expected a positive number"),
        ("weight_limit = 4", 'weight_limit = "x"', "schema.weight_limit is 'x'"),
        ("steps = [10, 50]", "steps = [50, 10]", "evaluation.steps is [50, 10]"),
        ("steps = [10, 50]", "steps = [51]", "rising numbers of rounds up to 50"),
        ("steps = [10, 50]", "steps = [1.5]", "a list of whole numbers"),
        ("fraction = 0.1", "", "and an evaluation.fraction"),
        ("range = [0, 100]", "range = [100, 0]", "labels.range is [100.0, 0.0]"),
        ("range = [0, 100]", "range = [1]", "expected [lowest, highest]"),
        (
            "range = [0, 100]",
            'range = ["a", "b"]',
            "labels.range is ['a', 'b']; expected [lowest, highest], two numbers",
        ),
        ("[labels]\nrange = [0, 100]", "", "needs labels.range"),
        ('objective = "reg:squarederror"', "", "has no use for labels.range"),
        ("rounds = 50", "rounds = 50\nalpha = 1", "release.statistics goes with alpha = 0 only"),
        ("rounds = 50", "rounds = 50\nmax_leaves = 4", "max_leaves = 4 is not supported in coopetitive mode"),
        ("rounds = 50", "rounds = 50\nhistogram_bits = 64", "histogram_bits = 64 is not supported"),
        ("rounds = 50", "rounds = 50\nmax_depth = 9", "max_depth = 9 is too much"),
        ("rounds = 50", "rounds = 50\nmax_bin = 257", "max_bin = 257 is too much"),
        ("rounds = 50", "rounds = 50\nmax_bin = 2", "cuts.traffic has 2 cuts"),
        ("rounds = 50", "rounds = 50\nbase_score = 101", "lies outside labels.range"),
        ("traffic = [1, 10]", "traffic = [10, 1]", "cuts.traffic is [10.0, 1.0]"),
        ("traffic = [1, 10]", "traffic = [1, 1.00000000001]", "float32 numbers that rise strictly"),
        ("traffic = [1, 10]", "traffic = [1e39]", "finite float32"),
        (
            "traffic = [1, 10]",
            "trafic = [1, 10]",
            "[cuts]: key 'trafic' (did you mean 'traffic'?) is not known; expected one of traffic, temperature",
        ),
        ('missing = ["temperature"]', 'missing = ["humidity"]', "schema.missing names 'humidity'"),
        ("temperature = -1", "temperature = 2", "monotone.temperature is 2; expected 1, -1 or 0"),
        ("temperature = -1", "humidity = 1", "'humidity' is not known"),
        ("temperature = -1", "temperature = 0.5", "monotone.temperature is 0.5"),
        ("statistics = true", "statistics = 1", "expected true or false"),
        ("statistics = true", "stats = true", "'stats' is not known"),
    ],
)
def test_what_is_wrong_with_a_coopetitive_plan_is_named(old, new, named):
    assert old in TEXT_ON_SHARES
    with pytest.raises(PlanError, match=re.escape(named)):
        parse_plan(TEXT_ON_SHARES.replace(old, new))


def test_categories_are_read_as_they_say():
    assert OF_CATEGORIES.schema.categories == ((), (), ("old", "new '7", "naïve"), (7, -3, 12))
    assert OF_CATEGORIES.schema.levels == {"kind": ("old", "new '7", "naïve"), "site": (7, -3, 12)}
    assert OF_CATEGORIES.coopetitive.cuts == ((1.0, 10.0), (-0.5,), (), ())
    assert parse_plan(write_plan(OF_CATEGORIES)) == OF_CATEGORIES
    assert ON_SHARES.schema.categories == ()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("7, -3", "-3, 7"),
        ("7, -3", "8, -3"),
        ("7, -3, 12", '"7", "-3", "12"'),
        ('"old", ', ""),
        ("site = [7, -3, 12]", ""),
    ],
)
def test_the_digest_covers_levels_and_their_order(old, new):
    assert parse_plan(TEXT_OF_CATEGORIES.replace(old, new)).digest() != OF_CATEGORIES.digest()


MANY = str([f"level {number}" for number in range(1025)]).replace("'", '"')


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("site = [7, -3, 12]", "sight = [7, -3, 12]", "'sight' is not known"),
        ("site = [7, -3, 12]", "site = 7", "categories.site is 7; expected a list of levels"),
        ("site = [7, -3, 12]", "site = []", "categories.site is []"),
        ("site = [7, -3, 12]", 'site = [7, "a"]', "categories.site: expected texts"),
        ("site = [7, -3, 12]", "site = [7, 7]", "level 7 is named more than once"),
        ("site = [7, -3, 12]", "site = [7, 1.5]", "whole numbers below 2^53"),
        ("site = [7, -3, 12]", "site = [7, true]", "whole numbers below 2^53"),
        ("site = [7, -3, 12]", "site = [9007199254740992]", "whole numbers below 2^53"),
        ("site = [7, -3, 12]", 'site = ["a", " "]', "which mean a missing value"),
        ("site = [7, -3, 12]", 'site = ["a", "Na"]', "which mean a missing value"),
        ("site = [7, -3, 12]", f"site = {MANY}", "categories.site has 1025 levels; at most 1024 are taken: join rare ones"),
        ("temperature = -1", "site = 1", "monotone.site constrains a categorical feature"),
        ("temperature = [-0.5]", "temperature = [-0.5]\nkind = [1]", "cuts.kind gives cuts of a categorical feature"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_categories_is_named(old, new, named):
    assert old in TEXT_OF_CATEGORIES
    with pytest.raises(PlanError, match=re.escape(named)):
        parse_plan(TEXT_OF_CATEGORIES.replace(old, new))


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != COOPETITIVE])
def test_other_modes_have_categories_too(mode):
    text = edited('mode = "federated"', f'mode = "{mode}"')
    categories = '\n[categories]\ntraffic = ["low", "high"]\n'
    plan = parse_plan(text + categories)
    assert plan.schema.levels == {"traffic": ("low", "high")}
    assert parse_plan(write_plan(plan)) == plan
    assert plan.digest() != parse_plan(text).digest()
    with pytest.raises(PlanError, match=r"monotone\.traffic constrains a categorical feature"):
        parse_plan(text + categories + "[monotone]\ntraffic = 1\n")
    many = str([f"level {number}" for number in range(65_535)]).replace("'", '"')
    with pytest.raises(
        PlanError, match=r"categories\.traffic has 65535 levels; at most 65534 are taken: join rare ones"
    ):
        parse_plan(f"{text}\n[categories]\ntraffic = {many}\n")


FEATURES_OF_PLAN = PLAN.schema.features


@pytest.mark.parametrize(
    ("given", "signs"),
    [
        ({FEATURES_OF_PLAN[0]: 1, FEATURES_OF_PLAN[1]: -1}, (1, -1)),
        ((1, -1), (1, -1)),
        ([1, -1], (1, -1)),
        ("(1,-1)", (1, -1)),
        (" ( 1 , -1 ) ", (1, -1)),
        (str({FEATURES_OF_PLAN[1]: -1, FEATURES_OF_PLAN[0]: 1}), (1, -1)),
        ((0, 1), (0, 1)),
        ("(1)", (1, 0)),
        ("1", (1, 0)),
        ((), (0, 0)),
        ("()", (0, 0)),
        ("", (0, 0)),
        (None, (0, 0)),
        ({FEATURES_OF_PLAN[0]: 0}, (0, 0)),
    ],
    ids=str,
)
def test_monotone_constraints_in_any_form_of_xgboosts_are_one_plan(given, signs):
    expected = tuple(sorted((name, sign) for name, sign in zip(FEATURES_OF_PLAN, signs, strict=False) if sign))
    plan = replace(PLAN, parameters=parse_parameters({"monotone_constraints": given}))
    assert plan.parameters.monotone_constraints == expected
    same = replace(PLAN, parameters=parse_parameters({"monotone_constraints": dict(expected)}))
    assert plan.digest() == same.digest()
    assert (plan.digest() == replace(PLAN, parameters=parse_parameters({})).digest()) == (not expected)
    table = "".join(f"{name} = {sign}\n" for name, sign in zip(FEATURES_OF_PLAN, signs, strict=False))
    assert parse_plan(f"{TEXT}\n[monotone]\n{table}").parameters.monotone_constraints == expected
    assert parse_plan(write_plan(plan)) == plan


@pytest.mark.parametrize(
    "given",
    [
        [[0, 1]],
        ((1, 0),),
        [list(FEATURES_OF_PLAN[1::-1])],
        [[FEATURES_OF_PLAN[0], 1, 0], [], [1, 0]],
        "[[0, 1]]",
        str([list(FEATURES_OF_PLAN[:2])]),
    ],
    ids=str,
)
def test_interaction_constraints_in_any_form_of_xgboosts_are_one_plan(given):
    plan = replace(PLAN, parameters=parse_parameters({"interaction_constraints": given}))
    assert plan.parameters.interaction_constraints == (tuple(sorted(FEATURES_OF_PLAN[:2])),)
    assert plan.digest() == replace(PLAN, parameters=parse_parameters({"interaction_constraints": [[1, 0]]})).digest()
    assert plan.digest() != replace(PLAN, parameters=parse_parameters({})).digest()
    assert parse_plan(write_plan(plan)) == plan


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"monotone_constraints": {"traffik": 1}}, "monotone_constraints = 'traffik': expected a feature's name"),
        ({"monotone_constraints": (1,) * 99}, "at most one for each of"),
        ({"interaction_constraints": [["traffik"]]}, "interaction_constraints = 'traffik': expected a feature's name"),
        ({"interaction_constraints": [[0, 99]]}, "interaction_constraints = 99: expected a position from 0 to"),
        ({"interaction_constraints": [[-1]]}, "interaction_constraints = -1: expected a position from 0 to"),
    ],
)
def test_constraints_of_no_feature_are_refused(given, said):
    with pytest.raises(PlanError, match=re.escape(said)):
        replace(PLAN, parameters=parse_parameters(given))


def test_constraints_are_said_once():
    with pytest.raises(PlanError, match=r"\[monotone\] and parameters\.monotone_constraints say the same"):
        parse_plan(edited("[parameters]", '[parameters]\nmonotone_constraints = "(1)"') + "\n[monotone]\ntraffic = 1\n")


def test_constraints_of_a_coopetitive_plan_are_those_of_monotone():
    """Whatever form they have."""
    plans = [
        replace(ON_SHARES, coopetitive=replace(ON_SHARES.coopetitive, monotone=monotone), parameters=parameters)
        for monotone, parameters in (
            (
                (1,) + (0,) * (len(ON_SHARES.schema.features) - 1),
                replace(ON_SHARES.parameters, monotone_constraints=()),
            ),
            ((), replace(ON_SHARES.parameters, monotone_constraints=(1,))),
        )
    ]
    assert plans[0] == plans[1]
    assert plans[0].digest() == plans[1].digest()


@pytest.mark.parametrize(
    "more",
    ["[labels]\nrange = [0, 1]", "[cuts]\ntraffic = [1]"],
)
def test_tables_of_coopetitive_plans_are_refused_in_others(more):
    with pytest.raises(PlanError, match="goes with mode 'coopetitive' only"):
        parse_plan(TEXT + "\n" + more + "\n")
    for key in ('hub = "x"', 'servers = ["x"]'):
        with pytest.raises(PlanError, match=r"members\.\w+ goes with mode 'coopetitive' only"):
            parse_plan(edited("[members]", f"[members]\n{key}"))
    with pytest.raises(PlanError, match=r"schema\.missing goes with"):
        parse_plan(edited("[schema]", '[schema]\nmissing = ["traffic"]'))


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_classes_of_other_modes_are_those_of_a_softmax(mode, objective):
    text = TEXT.replace("federated", mode).replace("[parameters]", "[parameters]\nnum_class = 3")
    with pytest.raises(
        PlanError,
        match=rf"num_class = 3 .* goes with mode 'coopetitive' only; in mode '{mode}' write objective = 'multi:",
    ):
        parse_plan(text)
    chosen = replace(parse_plan(TEXT.replace("federated", mode)), evaluation_fraction=0.0)
    plan = replace(chosen, parameters=parse_parameters({"objective": objective, "num_class": 3}))
    assert plan.parameters.outputs == 3
    assert parse_plan(write_plan(plan)) == plan


@pytest.mark.parametrize("objective", ["multi:softprob", "multi:softmax"])
def test_the_softmax_goes_with_shares(objective):
    text = TEXT_ON_SHARES.replace('"reg:squarederror"', f'"{objective}"\nnum_class = 3')
    text = text.replace("[labels]\nrange = [0, 100]\n", "")
    plan = parse_plan(text)
    assert plan.parameters.outputs == 3
    assert parse_plan(write_plan(plan)) == plan
    for wrong, said in (("eta = 0.0003", "eta = 0.0003 is too little"), ("scale_pos_weight = 2", "no positive class")):
        with pytest.raises(PlanError, match=said):
            parse_plan(text.replace("num_class = 3", f"num_class = 3\n{wrong}"))


@pytest.mark.parametrize(
    "given",
    [
        {"max_leaves": 8},
        {"grow_policy": "lossguide"},
        {"colsample_bylevel": 0.5},
        {"colsample_bynode": 0.5},
        {"num_parallel_tree": 2},
        {"interaction_constraints": ((0,),)},
        {"max_cat_threshold": 9},
    ],
    ids=str,
)
def test_what_is_not_computed_on_shares_is_refused_by_name(given):
    with pytest.raises(PlanError, match=next(iter(given))):
        replace(ON_SHARES, parameters=replace(ON_SHARES.parameters, **given))


def test_a_plan_of_classes_survives_being_written():
    text = TEXT_ON_SHARES.replace('"reg:squarederror"', '"binary:logistic"\nnum_class = 4')
    text = text.replace("[labels]\nrange = [0, 100]\n", "")
    plan = parse_plan(text)
    assert (plan.parameters.num_class, plan.parameters.outputs) == (4, 4)
    assert parse_plan(write_plan(plan)) == plan
    assert plan.digest() != parse_plan(text.replace("num_class = 4", "num_class = 3")).digest()


def test_automatic_weights_need_the_pooled_mean():
    text = TEXT.replace("federated", "coopetitive").replace(
        'aggregator = "hub"', 'hub = "post"\nservers = ["a", "b", "c"]'
    )
    text = (
        text.replace('weight = "importance"\n', "").replace("fraction = 0.2", "").replace("minimum_parties = 2\n", "")
    )
    assert parse_plan(text + 'scale_pos_weight = "auto"\n').parameters.scale_pos_weight == "auto"
    with pytest.raises(PlanError, match="leave base_score out"):
        parse_plan(text + 'scale_pos_weight = "auto"\nbase_score = 0.5\n')


@pytest.mark.parametrize("table", ["members", "schema", "privacy", "evaluation", "parameters"])
def test_a_table_must_be_a_table(table):
    text = re.sub(rf"\[{table}\]\n(?:[^\[\n][^\n]*\n)*", "", TEXT)
    with pytest.raises(PlanError, match=table):
        parse_plan(f"{table} = 3\n" + text)


def test_what_is_not_toml_is_refused_with_its_place():
    with pytest.raises(PlanError, match=r"plan: not TOML: .*line 2"):
        parse_plan("mode = 1\nname = \n")


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b"a = \0",
        b"a = " + b"[" * 100_000,
        b"a = " + b"9" * 10_000,
        b"a = 0x" + b"f" * 10_000,
        b"a." * 5000 + b"a = 1",
    ],
    ids=["no UTF-8", "NUL", "arrays in arrays", "endless digits", "endless hex", "a long key"],
)
def test_whatever_is_no_plan_is_refused_in_words(tmp_path, content):
    path = tmp_path / "plan.toml"
    path.write_bytes(content)
    with pytest.raises(PlanError, match=r"plan\.toml"):
        read_plan(path)
    with pytest.raises(PlanError, match="cannot be read: embedded null byte"):
        read_plan(tmp_path / "a\0b.toml")


def test_a_file_is_named_in_errors(tmp_path):
    path = tmp_path / "plan.toml"
    path.write_text(TEXT)
    assert read_plan(path) == PLAN
    path.write_text(TEXT + "\nbogus = 1\n")
    with pytest.raises(PlanError, match="bogus"):
        read_plan(path)
    path.write_text("nonsense")
    with pytest.raises(PlanError, match=r"plan\.toml"):
        read_plan(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match=r"plan\.toml: cannot be read"):
        read_plan(path)
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "none.toml")


def test_every_key_is_listed():
    """The list of keys, from which the documentation is checked, is what a written plan has."""
    ignoring = replace(PLAN, schema=replace(PLAN.schema, ignore=("site",), classes=("no", "yes")))
    starting = replace(PLAN, schema=replace(PLAN.schema, base_margin=("tariff",), base_margin_limit=3.0))
    plans = (
        PLAN,
        ON_SHARES,
        replace(ON_SHARES, coopetitive=replace(ON_SHARES.coopetitive, deadline_s=60.0)),
        OF_CATEGORIES,
        COUNTED,
        CHOICES,
        BITS,
        ignoring,
        starting,
        replace(PLAN, start_model="0" * 64),
    )
    told = {"unseen": "error", "dates": ((PLAN.schema.features[0], "days"),)}
    squares = replace(PLAN.parameters, objective="reg:squarederror", base_score=0.0)
    plans += (
        replace(PLAN, schema=replace(PLAN.schema, **told)),
        replace(PLAN, parameters=squares, custom_objective=CustomObjective("0" * 64, 1.0, 1.0)),
        replace(PLAN, evaluation_fraction=0.2, custom_metric=CustomMetric("0" * 64, "cost", 1.0)),
        replace(PLAN, evaluation_fraction=0.5, shap="held-out", receivers=PLAN.parties, on_dropout="abort"),
        replace(PLAN, evaluation_fraction=0.5, search=Search(2, (("eta", (0.1, 0.2)),)), on_dropout="abort"),
        replace(PLAN, folds=5, on_dropout="abort", schema=replace(PLAN.schema, id="patient")),
        replace(
            PLAN,
            parties=("a", "b", "c"),
            receivers=("a",),
            minimum_parties=2,
            on_dropout="continue",
            continue_after_s=60.0,
        ),
        replace(PLAN, mode="federated", on_dropout="abort", collectors=(("west", PLAN.parties[:1]),)),
        *(
            replace(PLAN, evaluation_fraction=0.5, parameters=measured, release=Release(metric="auc", **bound))
            for measured in [replace(PLAN.parameters, eval_metric=("auc",))]
            for bound in ({"at_least": 0.5}, {"at_most": 0.5})
        ),
        replace(
            PLAN, schema=Schema(("load", "band"), "fault", categories=((), ("a", "b")), rare_levels=(("band", 20),))
        ),
        replace(PLAN, mode="federated", on_dropout="abort", schema=Schema(("load", "band"), "fault", union=("band",))),
    )
    documents = [tomllib.loads(write_plan(plan)) for plan in plans]
    assert {key for document in documents for key in document} == set(PLAN_KEYS[""])
    for table in ("members", "schema", "privacy", "evaluation", "labels", "release", "search"):
        assert {key for document in documents for key in document.get(table, ())} == set(PLAN_KEYS[table])
    assert all(set(document["parameters"]) <= set(NAMES) for document in documents)
    assert {f.name for f in fields(Plan)} == {
        "custom_metric",
        "custom_objective",
        "fold",
        "folds",
        "part_of",
        "search",
        "shap",
        "trial",
        "name",
        "mode",
        "aggregator",
        "parties",
        "receivers",
        "minimum_parties",
        "schema",
        "parameters",
        "min_cell_rows",
        "min_child_rows",
        "dominance",
        "verify_counts",
        "min_party_rows",
        "evaluation_fraction",
        "coopetitive",
        "release",
        "start_model",
        "on_dropout",
        "continue_after_s",
        "collectors",
    }


@pytest.mark.parametrize(
    ("classes", "parameters", "said"),
    [
        (
            '["a", "b", "c"]',
            "",
            "names 3 classes, where the parameters have 2; name both, or set num_class (mode 'coopetitive')",
        ),
        ('["a", "b"]', "num_class = 3", "names 2 classes, where the parameters have 3; name one for each"),
        ('["a"]', "", "schema.classes: expected two or more different texts"),
        ('["a", ""]', "", "schema.classes: expected texts other than "),
    ],
)
def test_classes_are_as_many_as_the_label_has(classes, parameters, said):
    text = TEXT_ON_SHARES.replace('"reg:squarederror"', f'"binary:logistic"\n{parameters}')
    text = text.replace("[schema]\n", f"[schema]\nclasses = {classes}\n")
    text = re.sub(r"\[labels\]\nrange = .*\n", "", text)
    with pytest.raises(PlanError) as refused:
        parse_plan(text)
    assert said in str(refused.value)


def test_classes_go_with_labels_that_are_classes():
    text = TEXT_ON_SHARES.replace("[schema]\n", '[schema]\nclasses = ["no", "yes"]\n')
    with pytest.raises(
        PlanError, match=r"objective reg:squarederror takes numbers: leave classes out, or take binary:logistic"
    ):
        parse_plan(text)


def test_a_run_that_finds_levels_cannot_wait():
    for more in ("[schema]\nrare_levels = { cell = 20 }",):
        text = TEXT.replace("[schema]", more, 1)
        text += '\n[categories]\ncell = ["a", "b"]\n'
        text = text.replace("features = [", 'features = ["cell", ', 1)
        plan = parse_plan(text)
        assert plan.on_dropout == "abort"
        assert parse_plan(write_plan(plan)) == plan
        with pytest.raises(PlanError, match="a run that finds levels"):
            parse_plan(text.replace("[members]", '[members]\non_dropout = "wait"', 1))


def test_a_coopetitive_run_waits_for_its_members_unless_the_plan_says_otherwise():
    plan = parse_plan(TEXT_ON_SHARES)
    assert plan.on_dropout == "wait"
    waiting, aborting = (
        parse_plan(TEXT_ON_SHARES.replace("[members]", f'[members]\non_dropout = "{word}"', 1))
        for word in ("wait", "abort")
    )
    assert waiting == plan
    assert aborting.on_dropout == "abort"
    assert aborting.digest() != plan.digest()
