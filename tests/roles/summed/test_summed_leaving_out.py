"""A party that does not come back is left out, where the plan says so: the run goes on with the others, under keys of their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from msgspec.structs import replace as replace_struct

from hansa import parse_plan, write_plan
from hansa.errors import PlanError, ProtocolError
from hansa.node.state import AggregatorState
from hansa.protocol.messages import AnnounceKey, Contribution, ExchangeKeys, SignCheckpoint, SplitNodes, decode, encode
from hansa.roles.summed import surviving_aggregator
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.surviving_aggregator import SurvivingAggregator
from hansa.trees.xgboost_json import from_json
from made_tables import plan as made_plan
from made_tables import spread, table
from surviving import Crash, Survivors, quietly

NAMES = ("aurora", "borealis", "cirrus", "dune")
MODES = ("federated", "secure-aggregation")


def leaving(mode, least=None, **given):
    plan = made_plan(NAMES, mode=mode, **({"rounds": 4, "max_depth": 2} | given))
    least = least or (3 if mode == "secure-aggregation" else 2)
    return replace(plan, on_dropout="continue", continue_after_s=5.0, minimum_parties=least, verify_counts="off")


def run_of(folder, mode, owner=None, plan=None, objective="binary:logistic"):
    """400 rows; `owner` says whose each is, cirrus's being always the same."""
    whole = table(400, objective)
    owner = np.arange(400) % 4 if owner is None else owner
    return Survivors(folder, plan or leaving(mode), spread(whole, owner))


def in_tree(number, level=0):
    """Processes end once the splits of this level of a tree are told."""

    def before(_number, sender, _to, frame):
        if sender == "hub":
            message = decode("hub", frame)
            trees = [own.tree for own in message.trees] if isinstance(message, SplitNodes) else []
            if number in trees and message.level == level:
                raise Crash

    return before


def left_by_cirrus(folder, mode, tree=2, owner=None, **given):
    """A run that began a tree with cirrus."""
    run = run_of(folder, mode, owner, **given)
    assert not run.epoch(in_tree(tree))
    run.gone = ("cirrus",)
    return run


def the_model(run, *receivers):
    assert set(run.models) == set(receivers)
    assert len(set(run.models.values())) == 1
    return run.models[receivers[0]]


@pytest.mark.parametrize("mode", MODES)
def test_finished_trees_stay_and_the_others_grow_the_rest(tmp_path, mode):
    calm = run_of(tmp_path / "calm", mode)
    calm.finish()
    run = left_by_cirrus(tmp_path / "run", mode)
    run.finish()
    assert run.epochs == 2
    model = from_json(the_model(run, "aurora", "borealis", "dune"))
    whole = from_json(calm.models["aurora"])
    assert len(model.trees) == 4
    for number, (tree, other) in enumerate(zip(model.trees, whole.trees, strict=True)):
        same = np.array_equal(tree.split_conditions, other.split_conditions)
        assert same == (number < 2), number
        rows = tree.sum_hessian[0] / other.sum_hessian[0]
        assert rows == pytest.approx(1 if number < 2 else 0.75, abs=0.08)
    assert [own[0] for own in run.role.outcome.roster] == list(NAMES), "who joined at the beginning"
    assert run.admitted == [run.admitted[0]] * 4, "the ledger has the run once"


def test_the_model_is_the_same_in_both_modes_and_whoever_of_the_others_has_which_row(tmp_path):
    models = []
    others = np.arange(400) % 4
    rest = np.flatnonzero(others != 2)
    dealt = others.copy()
    dealt[rest] = np.where(np.arange(len(rest)) < 150, 0, np.where(np.arange(len(rest)) < 200, 1, 3))
    for number, (mode, owner) in enumerate(
        (("federated", others), ("secure-aggregation", others), ("federated", dealt))
    ):
        run = left_by_cirrus(tmp_path / str(number), mode, owner=owner)
        run.finish()
        models.append(the_model(run, "aurora", "borealis", "dune"))
    assert models[0] == models[1] == models[2]


KINDS = {
    "early stopping": {"evaluation": 0.3, "early_stopping_rounds": 2, "eval_metric": ["logloss", "auc"]},
    "several classes": {"objective": "multi:softprob"},
    "quantiles": {"objective": "reg:quantileerror"},
    "sampling and forests": {"subsample": 0.7, "num_parallel_tree": 2, "rounds": 3},
    "leaf-wise": {"grow_policy": "lossguide", "max_leaves": 4},
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_plan_goes_on_without(tmp_path, kind):
    models = []
    for mode in MODES:
        plan = leaving(mode, **KINDS[kind])
        per_round = plan.parameters.trees_per_round
        run = run_of(tmp_path / mode, mode, plan=plan, objective=plan.parameters.objective)
        assert not run.epoch(in_tree(2))
        run.gone = ("cirrus",)
        run.finish()
        models.append(the_model(run, "aurora", "borealis", "dune"))
        assert 2 < len(from_json(models[-1]).trees) <= plan.parameters.rounds * per_round
    assert models[0] == models[1]


def test_keys_are_new_and_only_those_who_are_left_have_them(tmp_path):
    run = run_of(tmp_path, "secure-aggregation")
    assert not run.epoch(in_tree(2))
    before = [decode(sender, frame) for sender, to, frame in run.frames if to == "hub"]
    first = {message.public_key for message in before if isinstance(message, AnnounceKey)}
    run.gone = ("cirrus",)
    assert run.epoch(quietly)
    after = [decode(sender, frame) for sender, to, frame in run.frames if to == "hub"]
    assert not first & {message.public_key for message in after if isinstance(message, AnnounceKey)}
    (keys,) = {
        frame for sender, _, frame in run.frames if sender == "hub" and isinstance(decode("hub", frame), ExchangeKeys)
    }
    assert [name for name, *_ in decode("hub", keys).keys] == ["aurora", "borealis", "dune"]
    assert not any("cirrus" in (sender, to) for sender, to, _ in run.frames)
    sums = {bytes(m.values.data) for m in before if isinstance(m, Contribution) and m.tree == 2}
    assert not sums & {bytes(m.values.data) for m in after if isinstance(m, Contribution)}


def test_who_was_left_out_stays_so_and_the_run_survives_further_ends(tmp_path):
    run = left_by_cirrus(tmp_path, "secure-aggregation", tree=1)
    assert not run.epoch(in_tree(3))
    with run.hub_state() as state:
        role = SurvivingAggregator(run.plan, Aggregator(run.plan), state, run.signers["hub"])
        assert (role.left_out, role.parties) == (("cirrus",), ("aurora", "borealis", "dune"))
    run.finish()
    assert run.epochs == 3
    assert len(from_json(the_model(run, "aurora", "borealis", "dune")).trees) == 4


def test_no_more_than_the_plans_minimum_may_be_left(tmp_path):
    run = left_by_cirrus(tmp_path, "secure-aggregation")
    run.gone = ("borealis", "cirrus")
    with pytest.raises(
        ProtocolError, match="without borealis, cirrus; the plan has on_dropout = 'continue' and at least 3"
    ):
        run.finish()
    run = left_by_cirrus(tmp_path / "two", "federated")
    run.gone = ("borealis", "cirrus")
    run.finish()
    the_model(run, "aurora", "dune")


def lying(monkeypatch):
    """An aggregator that does not ask what its plan allows."""
    monkeypatch.setattr(surviving_aggregator, "left_out", lambda *_: ())
    monkeypatch.setattr(surviving_aggregator, "check_before", lambda *_: None)


def test_parties_refuse_an_aggregator_that_leaves_somebody_out_against_the_plan(tmp_path, monkeypatch):
    lying(monkeypatch)
    plan = replace(leaving("federated"), on_dropout="wait", continue_after_s=None)
    run = left_by_cirrus(tmp_path, "federated", plan=plan)
    with pytest.raises(ProtocolError, match="without cirrus; the plan has on_dropout = 'wait'") as caught:
        run.finish()
    assert caught.value.member == "hub"


def test_parties_hold_those_who_are_left_to_the_minimum_of_rows(tmp_path):
    plan = replace(leaving("secure-aggregation"), min_party_rows=10)
    owner = np.repeat([0, 1, 2, 3], [120, 120, 150, 10])
    run = left_by_cirrus(tmp_path, "secure-aggregation", owner=owner, plan=plan)
    with pytest.raises(ProtocolError, match="only 2 of 3 parties have 10 training rows"):
        run.finish()


def test_who_was_left_out_is_not_taken_back(tmp_path, monkeypatch):
    run = left_by_cirrus(tmp_path, "federated")
    assert not run.epoch(in_tree(2))
    takes_back(run, monkeypatch)
    with pytest.raises(ProtocolError, match="claims came of") as caught:
        run.finish()
    assert caught.value.member == "hub"


def takes_back(run, monkeypatch):
    """An aggregator that would have everybody again."""
    lying(monkeypatch)
    monkeypatch.setattr(AggregatorState, "remaining", ())
    run.gone = ()


@pytest.mark.parametrize("honest", [True, False])
def test_an_epoch_that_did_not_begin_gives_no_tree_to_ask_for_twice(tmp_path, monkeypatch, honest):
    """Parties let go what they answered with cirrus: from then on none of them goes on with it, also where that epoch ends at once."""
    run = left_by_cirrus(tmp_path, "secure-aggregation")

    def signing(_number, _sender, _to, frame):
        if isinstance(decode("x", frame), SignCheckpoint):
            raise Crash

    assert not run.epoch(signing)
    if not honest:
        takes_back(run, monkeypatch)
        with pytest.raises(ProtocolError, match="claims came of"):
            run.finish()
        return
    run.finish()
    assert run.epochs == 3
    the_model(run, "aurora", "borealis", "dune")


def test_what_was_answered_without_cirrus_is_asked_again_word_for_word(tmp_path, monkeypatch):
    run = left_by_cirrus(tmp_path, "federated", tree=1)
    assert not run.epoch(in_tree(3, level=1))
    note = SurvivingAggregator._watched

    def other(self, outgoing):
        to, frame = outgoing
        message = decode("hub", frame)
        if isinstance(message, SplitNodes) and message.tree == 3:
            frame = encode(replace_struct(message, gradient_bound=message.gradient_bound * 1.5))
        return note(self, (to, frame))

    monkeypatch.setattr(SurvivingAggregator, "_watched", other)
    with pytest.raises(ProtocolError, match="what was answered is asked for again word for word") as caught:
        run.finish()
    assert caught.value.member == "hub"


def test_nobody_is_left_out_before_the_cuts_are_known(tmp_path):
    run = run_of(tmp_path, "federated")

    def before(number, *_):
        if number == 14:
            raise Crash

    assert not run.epoch(before)
    run.gone = ("cirrus",)
    with pytest.raises(ProtocolError, match="a party is left out before the cuts are known"):
        run.finish()


@pytest.mark.parametrize(
    ("mode", "changes", "text"),
    [
        ("federated", {"continue_after_s": None}, "say members.continue_after_s"),
        (
            "federated",
            {"minimum_parties": 4},
            "minimum_parties is 4 of 4 parties; expected fewer than all, and at least 2",
        ),
        ("secure-aggregation", {"minimum_parties": 2}, "expected fewer than all, and at least 3"),
        ("secure-aggregation", {"verify_counts": "tree"}, "would owe the rows of the last tree"),
        ("federated", {"on_dropout": "wait"}, "continue_after_s goes with on_dropout = 'continue'"),
    ],
)
def test_a_plan_that_cannot_go_on_without_is_refused(mode, changes, text):
    with pytest.raises(PlanError, match=text):
        replace(leaving(mode), **changes)


def test_the_plan_says_so_in_its_file_and_digest():
    plan = leaving("secure-aggregation")
    assert parse_plan(write_plan(plan)) == plan
    waits = replace(plan, on_dropout="wait", continue_after_s=None)
    later = replace(plan, continue_after_s=6.0)
    assert len({plan.digest(), waits.digest(), later.digest()}) == 3
    assert plan.by_key()["members.continue_after_s"] == 5.0
