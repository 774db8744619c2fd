"""Sums over too few rows or parties are refused before anything leaves; an honest aggregator that is curious gets nothing."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from conversation import Conversation
from hansa.consortium.policy import Policy
from hansa.data.holdout import HoldOut, held_out
from hansa.data.source import Rows
from hansa.errors import PlanError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.plan import Plan, Search
from hansa.protocol.messages import Contribution, Join, Welcome, decode, encode
from hansa.roles.batches import enough_rows, label_counts, repeated_rows
from hansa.roles.run import run_id
from made_tables import plan as made_plan
from made_tables import spread, table, take
from shares import SharedTalk, shared_plan, shared_tables

PARTIES = ("aurora", "borealis", "cirrus")
ROWS = table(600)
TABLES = spread(ROWS, np.arange(600) % 3)


def plan(parties=PARTIES, **given: object) -> Plan:
    return replace(made_plan(parties, mode="secure-aggregation", **given), min_party_rows=20)


def refused_before_anything_left(talk: Conversation, *words: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        talk.until_up(Contribution, "")
    assert not any(isinstance(decode(name, frame), Contribution) for name, frame in talk.up)
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_a_run_over_enough_rows_of_three_parties_goes_through():
    Conversation(plan(evaluation=0.3), TABLES, policy=Policy()).finish()


def test_a_metric_over_the_held_out_rows_of_one_party_is_refused():
    """One party alone holds out a row: the sums of the metric were its own, and told its score and label."""
    seed = next(
        seed
        for seed in range(2000)
        if sum(held_out(own.features, own.label, HoldOut(0.004, seed)).any() for own in TABLES.values()) == 1
    )
    talk = Conversation(plan(evaluation=0.004, seed=seed, eval_metric=["auc"]), TABLES, policy=Policy())
    refused_before_anything_left(talk, "held-out rows", "at least 3 must")


def test_a_roster_whose_training_rows_are_one_partys_is_refused():
    """Two parties whose rows all fall to evaluation: the sum over three parties would be the third's part."""
    held = held_out(ROWS.features, ROWS.label, HoldOut(0.3, 0))
    few = {name: take(ROWS, np.flatnonzero(held)[i : i + 1]) for i, name in enumerate(PARTIES[1:])}
    tables = {PARTIES[0]: take(ROWS, np.flatnonzero(~held)), **few}
    refused_before_anything_left(
        Conversation(plan(evaluation=0.3), tables, policy=Policy()), "only 1 of 3", "training rows", "borealis, cirrus"
    )


def test_a_class_that_one_party_alone_has_is_refused():
    """The pooled number of positives would be that party's."""
    tables = dict(TABLES)
    for name in PARTIES[1:]:
        tables[name] = take(tables[name], np.flatnonzero(tables[name].label == 0))
    refused_before_anything_left(Conversation(plan(), tables, policy=Policy()), "class 1", "only 1 of 3")


def test_a_fold_of_few_rows_of_a_class_is_refused():
    """Sums of two folds differ by the rows that they hold out: the base scores alone told how many positives each fold has."""
    few = {name: take(own, few_positives(own)) for name, own in TABLES.items()}
    chosen = plan(eval_metric=["logloss"])
    Conversation(chosen, few, policy=Policy()).finish()
    for fold in replace(chosen, folds=4).of_folds():
        refused_before_anything_left(
            Conversation(fold, few, policy=Policy()), "held-out rows of class 1", "only 0 of 3"
        )
    for fold in replace(plan(objective="reg:squarederror"), folds=4).of_folds():
        Conversation(fold, few, policy=Policy()).finish()


def few_positives(rows: Rows) -> np.ndarray:
    """Places of 40 rows of class 1, of which each of four folds has fewer than 20, and all of class 0."""
    return np.sort(np.concatenate([np.flatnonzero(rows.label == 1)[:40], np.flatnonzero(rows.label == 0)]))


@pytest.mark.parametrize(
    ("share", "refused"),
    [
        (0.001, "only 0 of 3 parties have 20 training rows in a share of 0.001"),
        (0.999, "in a share of 0.001"),
        (0.9, None),
        (0.2, "of class"),
    ],
)
def test_trees_that_draw_or_leave_out_few_rows_are_refused(share, refused):
    """One row that a tree draws alone is its root's sum, bins and label; one that it leaves out is the difference of two trees."""
    chosen = plan(subsample=share, num_parallel_tree=2)
    if refused is None:
        Conversation(chosen, TABLES, policy=Policy()).finish()
    else:
        refused_before_anything_left(Conversation(chosen, TABLES, policy=Policy()), refused, "subsample")


def test_trials_that_draw_few_rows_are_refused_before_the_first_one():
    search = Search(2, (("subsample", (0.999, 0.5)),))
    chosen = replace(plan(evaluation=0.3, eval_metric=["logloss"]), search=search)
    for trial in chosen.of_trials():
        refused_before_anything_left(Conversation(trial, TABLES, policy=Policy()), "in a share of 0.001", "subsample")
    enough = replace(chosen, search=Search(2, (("subsample", (0.7, 0.5)),)))
    Conversation(enough.of_trials()[0], TABLES, policy=Policy()).finish()


def test_a_plan_below_the_partys_own_minimum_is_refused_before_it_joins():
    with pytest.raises(PlanError, match=r"min_party_rows 20 .*at least 21.*least_party_rows"):
        Conversation(plan(), TABLES, policy=Policy(least_party_rows=21))


def test_in_one_process_the_plans_minimum_holds_too():
    small = spread(take(ROWS, np.arange(30)), np.arange(30) % 3)
    with pytest.raises(ProtocolError, match="only 0 of 3 parties have 20 training rows"):
        train_in_process(plan(), small)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: (*entry[:2], entry[2] + 1000, *entry[3:]),
        lambda entry: (*entry[:4], bytes([0xFF])),
        lambda entry: (*entry[:4], b""),
    ],
    ids=["rows", "all classes", "no classes"],
)
def test_an_aggregator_that_says_other_counts_for_a_party_is_refused_by_it(change):
    talk = Conversation(plan(), TABLES, policy=Policy())
    welcome = talk.until(Welcome, "borealis")
    roster = tuple(change(entry) if entry[0] == "borealis" else entry for entry in welcome.roster)
    lie = Welcome(run_id(talk.parties["borealis"]._join.plan, roster), roster)
    with pytest.raises(ProtocolError, match="another nonce or other numbers of rows"):
        talk.deliver("borealis", encode(lie))


def test_what_a_party_tells_of_its_classes_is_a_bit_each():
    label = np.array([1] * 25 + [0] * 19, np.float32)
    held = np.zeros(44, np.bool_)
    assert enough_rows(plan(), *label_counts(label, held)) == bytes([0b100])
    assert enough_rows(plan(), *label_counts(1 - label, held)) == bytes([0b010])
    assert enough_rows(made_plan(PARTIES), *label_counts(label, held)) == b""
    assert enough_rows(plan(objective="reg:squarederror"), *label_counts(label, held)) == b""


@pytest.mark.parametrize("enough", [bytes(400), b"\x06"])
def test_a_hub_refuses_batches_that_no_member_can_have(enough):
    chosen = shared_plan(parties=PARTIES, receivers=("aurora",), servers=("x-ray", *PARTIES[:2]))
    member = "x-ray" if enough == b"\x06" else "aurora"

    def more(sender: str, frame: bytes) -> list[bytes]:
        message = decode(sender, frame)
        if sender != member or not isinstance(message, Join):
            return [frame]
        return [encode(msgspec.structs.replace(message, enough=enough))]

    run = SharedTalk(chosen, shared_tables(parties=3), up=more).run()
    assert "bytes of batches" in str(run.error)


def test_owners_of_a_coopetitive_run_hold_the_roster_to_the_plan_too():
    chosen = replace(shared_plan(held=0.2, eval_metric=["auc"]), min_party_rows=20)
    assert SharedTalk(chosen, shared_tables(rows=1600)).run().error is None
    one = {name: own if name == "aurora" else take(own, np.arange(3)) for name, own in shared_tables(rows=1600).items()}
    assert "training rows" in str(SharedTalk(chosen, one).run().error)
    ranked = {
        name: own if name == "aurora" else take(own, np.flatnonzero(own.label == 0))
        for name, own in shared_tables(rows=1600).items()
    }
    assert "of class 1" in str(SharedTalk(chosen, ranked).run().error)


def test_two_owners_need_both_policies():
    two = shared_plan(parties=PARTIES[:2], receivers=("aurora",))
    with pytest.raises(PlanError, match="allow_two_parties"):
        SharedTalk(two, shared_tables(parties=2), policy=Policy(least_party_rows=0))
    assert (
        SharedTalk(two, shared_tables(parties=2), policy=Policy(least_party_rows=0, allow_two_parties=True)).run().error
        is None
    )


def test_draws_by_contents_of_rows_that_repeat_are_told():
    few = (np.arange(600) % 4).astype(np.float32)[None]
    label = (np.arange(600) % 2).astype(np.float32)
    held = replace(made_plan(PARTIES), evaluation_fraction=0.2)
    drawn = replace(held, parameters=replace(held.parameters, subsample=0.5))
    (told,) = repeated_rows(held, few, label)
    assert "25% of all pairs" in told
    assert "held out together" in told
    with_ids = replace(held.schema, id="who")
    assert repeated_rows(replace(held, schema=with_ids), few, label) == []
    assert ["held out" in text for text in repeated_rows(drawn, few, label)] == [True, False]
    assert ["held out" in text for text in repeated_rows(replace(drawn, schema=with_ids), few, label)] == [False]
    assert repeated_rows(made_plan(PARTIES), few, label) == []
    assert repeated_rows(drawn, np.arange(600, dtype=np.float32)[None], label) == []
