"""Dictionaries that a run finds: unions of the parties' levels, and rare levels that become one. The law holds for both."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversation import Conversation
from hansa.data.schema import OTHER, Schema
from hansa.data.source import Rows
from hansa.errors import DataError, PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan, parse_plan, write_plan
from hansa.protocol.messages import Contribution, CountCells, KeepLevels, SumLabels, TellLevels, UseLevels, to_tensor
from hansa.roles.summed.levels import count_levels, dictionary_of, level_counts, levels_to_keep
from hansa.trees.parameters import parse_parameters
from hansa.trees.xgboost_json import from_json
from made_tables import NAMES, OPEN

LEVELS = ("apple", "birch", "cedar", "dill", "elder", "fig")
N_ROWS = 240
LEAST = 15


def made(seed: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A number, a text or None, and a label of each row; dill and fig are rare."""
    draw = np.random.default_rng(seed)
    load = draw.normal(size=N_ROWS).astype(np.float32)
    band = np.array([*LEVELS, None], object)[draw.choice(7, N_ROWS, p=[0.3, 0.2, 0.2, 0.03, 0.15, 0.02, 0.1])]
    label = ((load > 0) ^ np.isin(band, ["apple", "fig"])).astype(np.float32)
    return load, band, label


def plan(
    parties: tuple[str, ...], mode: str = "federated", *, union: bool = False, rare: bool = True, **more: object
) -> Plan:
    levels = () if union else ((), LEVELS)
    schema = Schema(
        ("load", "band"),
        "fault",
        categories=levels,
        union=("band",) if union else (),
        rare_levels=(("band", LEAST),) if rare else (),
    )
    given = {"rounds": 4, "max_depth": 3, "max_bin": 16, "subsample": 0.8} | more
    return Plan("test", mode, "hub", parties, parties, len(parties), schema, parse_parameters(given), min_cell_rows=2,
                evaluation_fraction=0.2, min_party_rows=0)  # fmt: skip


def spread(owners: np.ndarray, union: bool) -> dict[str, Rows]:
    """Each party's rows; with a union its codes are those of its own sorted levels."""
    load, band, label = made()
    tables = {}
    for owner in np.unique(owners):
        own = owners == owner
        present = sorted({level for level in band[own] if level is not None})
        levels = tuple(present) if union else LEVELS
        codes = np.array([np.nan if level is None else levels.index(level) for level in band[own]], np.float32)
        dictionaries = {"band": levels} if union else {}
        tables[NAMES[len(tables)]] = Rows(np.stack([load[own], codes]), label[own], None, dictionaries=dictionaries)
    return tables


def model(owners: np.ndarray, mode: str = "federated", *, union: bool = False, rare: bool = True) -> bytes:
    tables = spread(owners, union)
    run = train_in_process(plan(tuple(tables), mode, union=union, rare=rare), tables, policy=OPEN)
    return run.outcome.model


def owners_of(seed: int, parties: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    return np.concatenate([np.arange(parties), draw.integers(0, parties, N_ROWS - parties)])


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**16), parties=st.integers(1, 5), union=st.booleans())
def test_the_model_does_not_depend_on_who_holds_the_rows(seed, parties, union):
    alone = model(np.zeros(N_ROWS, int), union=union)
    assert model(owners_of(seed, parties), union=union) == alone


def test_rare_levels_give_the_same_model_in_both_modes():
    owners = owners_of(1, 3)
    assert model(owners, "secure-aggregation") == model(owners)


def test_a_union_gives_the_model_of_a_plan_that_lists_it():
    owners = owners_of(2, 3)
    assert from_json(model(owners, union=True, rare=False)).categories == (None, LEVELS)
    ensemble = from_json(model(owners, union=True))
    assert ensemble.categories == (None, ("apple", "birch", "cedar", "elder", OTHER))
    assert ensemble.reading.other == ("band",)


def test_the_model_is_that_of_rows_with_other_written_in_them():
    """An independent way to the same trees: the rare levels are overwritten before training, and the plan lists what is left."""
    load, band, label = made()
    kept = ("apple", "birch", "cedar", "elder", OTHER)
    codes = [np.nan if level is None else kept.index(level if level in kept else OTHER) for level in band]
    tables = {"aurora": Rows(np.stack([load, np.array(codes, np.float32)]), label, None)}
    listed = replace(
        plan(("aurora",), subsample=1.0),
        schema=Schema(("load", "band"), "fault", categories=((), kept)),
        evaluation_fraction=0.0,
    )
    rare = replace(plan(("aurora",), subsample=1.0), evaluation_fraction=0.0)
    found = [
        train_in_process(each, rows, policy=OPEN).outcome.ensemble
        for each, rows in ((listed, tables), (rare, spread(np.zeros(N_ROWS, int), False)))
    ]
    assert found[0].trees == found[1].trees
    assert found[0].categories == found[1].categories


def test_levels_are_counted_and_kept_as_a_counter_would():
    owners = np.zeros(N_ROWS, int)
    one = plan(("aurora",))
    rows = spread(owners, False)["aurora"]
    counted = np.arange(N_ROWS) % 3 > 0
    counts = count_levels(one, rows, counted)
    band = made()[1][counted]
    assert counts.tolist() == [int(np.sum(band == level)) for level in LEVELS]
    assert level_counts(one) == len(LEVELS)
    kept = levels_to_keep(one, counts)
    assert kept.tolist() == [int(count >= LEAST) for count in counts]
    found = dictionary_of(one, kept)
    assert found.plan.schema.levels["band"] == (
        *(level for level, n in zip(LEVELS, counts, strict=True) if n >= LEAST),
        OTHER,
    )


def test_a_level_that_is_called_other_is_the_other_one():
    schema = Schema(("band",), "y", categories=(("a", OTHER, "b"),), rare_levels=(("band", 10),))
    one = replace(plan(("aurora",)), schema=schema)
    kept = levels_to_keep(one, np.array([20, 30, 1]))
    assert kept.tolist() == [1, 0, 0]
    found = dictionary_of(one, kept)
    assert found.plan.schema.levels == {"band": ("a", OTHER)}
    assert found.codes[0].tolist() == [0, 1, 1, 1]
    with pytest.raises(ProtocolError, match="'other' is kept"):
        dictionary_of(one, np.array([1, 1, 0], np.uint8))


def talk(union: bool, mode: str = "federated") -> Conversation:
    tables = spread(owners_of(3, 3), union)
    return Conversation(plan(tuple(tables), mode, union=union), tables)


def test_parties_are_told_which_levels_are_kept_and_no_count():
    conversation = talk(False)
    conversation.until_up(Contribution, "cirrus", lambda _, message: message.quantity == "levels")
    again = talk(False)
    told = again.until(KeepLevels, "aurora")
    assert bytes(told.kept.data) == bytes([1, 1, 1, 0, 1, 0])


@pytest.mark.parametrize(
    ("kind", "message", "rule"),
    [
        (KeepLevels, KeepLevels(to_tensor(np.ones(5, np.uint8))), "KeepLevels.kept"),
        (KeepLevels, KeepLevels(to_tensor(np.full(6, 2, np.uint8))), "neither kept nor rare"),
        (UseLevels, UseLevels({}), r"expected those of \['band'\]"),
        (UseLevels, UseLevels({"band": ("birch", "apple")}), "not sorted"),
        (UseLevels, UseLevels({"band": ("apple", "na")}), "not sorted, different texts with a value"),
        (UseLevels, UseLevels({"band": ("apple",)}), "that this party told is not in the union"),
        (UseLevels, SumLabels(0, 0), "before all parties' levels were told"),
        (
            KeepLevels,
            CountCells(1, to_tensor(np.zeros(3, np.int64)), to_tensor(np.zeros(0, np.uint32))),
            "which levels are kept",
        ),
    ],
)
def test_a_party_refuses_levels_that_do_not_fit(kind, message, rule):
    conversation = talk(kind is UseLevels)
    conversation.until(kind, "aurora")
    with pytest.raises(ProtocolError, match=rule) as caught:
        conversation.tell("aurora", message)
    assert caught.value.member == "hub"


def test_a_party_refuses_to_be_told_twice():
    conversation = talk(True)
    said = conversation.until(KeepLevels, "aurora")
    conversation.tell("aurora", said)
    with pytest.raises(ProtocolError, match="it was said before"):
        conversation.tell("aurora", said)


@pytest.mark.parametrize(
    ("levels", "rule"),
    [
        ({"band": ("b", "a")}, "not sorted"),
        ({}, "expected those of"),
        ({"band": ()}, "not sorted"),
        ({"odd": ("a",)}, "expected those of"),
    ],
)
def test_the_aggregator_refuses_levels_that_are_no_dictionary(levels, rule):
    conversation = talk(True)
    conversation.until_up(TellLevels, "borealis")
    with pytest.raises(ProtocolError, match=rule) as caught:
        conversation.say("borealis", TellLevels(levels))
    assert caught.value.member == "borealis"


def test_levels_that_nobody_asked_for_are_refused():
    conversation = talk(False)
    conversation.until_up(Contribution, "borealis")
    with pytest.raises(ProtocolError, match="told levels that nobody asked for"):
        conversation.say("borealis", TellLevels({"band": ("a",)}))


def test_rows_of_a_union_need_a_dictionary():
    tables = spread(np.zeros(N_ROWS, int), False)
    with pytest.raises(DataError, match="column 'band': expected a dictionary of its levels"):
        Conversation(plan(("aurora",), union=True), tables)


def test_levels_that_no_message_holds_are_refused_before_anything_leaves():
    tables = spread(np.zeros(N_ROWS, int), True)
    tables["aurora"] = replace(
        tables["aurora"], dictionaries={"band": tuple(f"{i:06}" + "x" * 100 for i in range(10_000))}
    )
    with pytest.raises(DataError, match="the levels of band take 1,140,000 bytes"):
        Conversation(plan(("aurora",), union=True), tables)


@pytest.mark.parametrize("mode", ["secure-aggregation", "coopetitive"])
def test_what_a_mode_does_not_have_is_refused_by_name(mode):
    head = write_plan(plan(("aurora", "borealis", "cirrus"), union=True, rare=False))
    if mode == "coopetitive":
        head = head.replace('aggregator = "hub"', 'hub = "hub"\nservers = ["aurora", "borealis", "cirrus"]')
        head = "\n".join(
            line for line in head.splitlines() if not line.startswith(("dominance", "verify_counts", "subsample"))
        )
    with pytest.raises(
        PlanError,
        match=r"schema\.union names 'band', whose levels are those of all parties, which each tells in the clear",
    ):
        parse_plan(head.replace('"federated"', f'"{mode}"'))


def test_plans_of_both_are_written_and_read():
    for union in (False, True):
        made_plan = plan(("aurora", "borealis"), union=union)
        assert parse_plan(write_plan(made_plan)) == made_plan
        assert (
            parse_plan(write_plan(made_plan)).digest()
            == made_plan.digest()
            != plan(("aurora", "borealis"), union=union, rare=False).digest()
        )


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"rare_levels": (("load", 20),)}, "'load' is no categorical feature"),
        ({"rare_levels": (("band", 0),)}, r"schema\.rare_levels\.band: expected a whole number of rows"),
        ({"union": ("band",)}, r"schema\.union: 'band' has levels"),
        ({"union": ("odd",)}, r"schema\.union: 'odd' is no feature"),
        ({"categories": ((), (1, 2))}, "are whole numbers, and 'other' is a text"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes, fault):
    with pytest.raises(PlanError, match=fault):
        replace(plan(("aurora",)).schema, **changes)
    with pytest.raises(PlanError, match=r"band is 1, fewer than privacy\.min_cell_rows = 2"):
        replace(plan(("aurora",)), schema=replace(plan(("aurora",)).schema, rare_levels=(("band", 1),)))
