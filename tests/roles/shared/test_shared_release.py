"""A release on shares that depends on a metric: servers compare it, or open one bit of it, and below the bound nobody has a model."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hansa.errors import ModelWithheld, ProtocolError
from hansa.exposure import openings_under
from hansa.node.in_process import share_in_process
from hansa.oblivious.evaluation import VALUE_BITS
from hansa.oblivious.release import TreeMessage, open_tree
from hansa.plan import Release
from hansa.protocol.messages import Close, DecideRelease, ReleaseTree, encode, to_array
from hansa.roles.run import Withheld
from hansa.roles.shared.checkpoints import last_checkpoint
from hansa.roles.shared.compute_server import ComputeServer
from hansa.roles.shared.sharing import Counts, given_start
from hansa.roles.shared.snapshots import KeptModel, decode
from shares import SharedTalk, nth, shared_plan, shared_tables
from sharing_survivors import SharingSurvivors
from surviving import Crash, crash_at


def demanding(metric="auc", **given):
    """A plan whose release depends on a metric: `at_least` or `at_most` is given."""
    bound = {name: given.pop(name) for name in ("at_least", "at_most") if name in given}
    plan = shared_plan(**({"held": 0.3, "eval_metric": [metric], "max_depth": 2} | given))
    return replace(plan, release=Release(least_choices=0, metric=metric, **bound))


def opened(talk, name):
    """What a server learnt of held-out rows."""
    found = [opening.split(":")[0] for opening in talk.members[name].openings]
    return [opening for opening in found if opening.startswith("evaluation")]


@pytest.mark.parametrize("steps", [(), (1, 2)], ids=["one bit", "opened"])
@pytest.mark.parametrize(
    ("bound", "released"),
    [({"at_least": 0.5}, True), ({"at_least": 0.999}, False), ({"at_most": 0.999}, True), ({"at_most": 0.5}, False)],
)
def test_the_model_goes_to_all_receivers_or_to_nobody(bound, released, steps):
    plan = demanding(steps=steps, **bound)
    talk = SharedTalk(plan, shared_tables(200)).run()
    assert talk.error is None
    assert talk.hub.done
    assert all(member.done for member in talk.members.values())
    assert set(talk.models) == (set(plan.receivers) if released else set())
    for name, member in talk.members.items():
        assert member.withheld == (not released and name in {*plan.servers, *plan.receivers})
        assert bool(member.history) == (bool(steps) and name in plan.servers)
    for name in plan.servers:
        assert opened(talk, name)[-1] == ("evaluation.open_metric" if steps else "evaluation.reached")
    shown = [opening.function for opening in openings_under(plan)]
    assert "reached" in shown
    assert ("open_metric" in shown) == bool(steps)


SHAPES = {
    "a server receives": {"receivers": ("borealis",)},
    "a receiver without rows": {"receivers": ("reader",)},
    "servers without rows": {"servers": ("vault", "safe", "chest"), "receivers": ("dune", "reader")},
    "the hub is a server": {"hub": "borealis"},
    "the hub receives": {"hub": "reader", "receivers": ("reader",)},
    "numbers": {"objective": "reg:squarederror", "metric": "rmse", "at_least": 599.0},
    "means": {"objective": "reg:squarederror", "metric": "mae", "at_least": 599.0, "given": False},
    "one class against the rest": {"num_class": 3, "metric": "logloss", "at_most": 0.001},
    "several classes": {"num_class": 3, "objective": "multi:softprob", "metric": "merror", "at_least": 1.5},
    "early stopping": {"metric": "logloss", "early_stopping_rounds": 1, "rounds": 3, "at_most": 0.001},
    "the metric of an earlier round": {
        "metric": "logloss", "early_stopping_rounds": 1, "rounds": 3, "at_most": 0.001, "eta": 1.0, "max_depth": 3,
        "eval_metric": ["logloss", "error"],
    },
    "a metric that was opened at another round": {"steps": (1,), "at_least": 0.9999},
    "margins that leave the range": {"eta": 1.0, "rounds": 5, "lambda": 0.1, "min_child_weight": 0.1, "at_least": 0.9999},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_plan_withholds(shape):
    given = SHAPES[shape]
    plan = demanding(**(given if {"at_least", "at_most"} & {*given} else {"at_least": 0.9999, **given}))
    objective = plan.parameters.objective
    tables = shared_tables(200, objective=objective if objective == "reg:squarederror" else "binary:logistic")
    reports = []
    talk = SharedTalk(plan, tables, report=reports.append).run()
    assert talk.error is None
    assert talk.models == {}
    told = {*plan.servers, *plan.receivers}
    assert {name for name, member in talk.members.items() if member.withheld} == told
    assert sum(isinstance(each, Withheld) for each in reports) == len(told)
    if shape == "a server receives":
        with pytest.raises(ModelWithheld, match=f"demands {plan.release.condition}"):
            share_in_process(plan, tables)


def test_the_metric_is_that_of_the_models_last_round():
    """Where training went on behind the model's last round, held-out rows go down the model's trees anew."""
    given = {"eval_metric": ["logloss", "error"], "early_stopping_rounds": 1, "rounds": 8, "eta": 1.0, "max_depth": 3}
    tables = shared_tables(300)
    free = SharedTalk(shared_plan(held=0.3, steps=tuple(range(1, 9)), **given), tables).run()
    history = dict(free.members["aurora"].history["logloss"])
    kept = int(np.argmin([value for _, value in free.members["aurora"].history["error"]])) + 1
    assert kept < len(history)
    others = [value for after, value in history.items() if after != kept]
    gap = min(abs(history[kept] - other) for other in others) / 3
    assert gap > 1e-4
    for bound in (history[kept] - gap, history[kept] + gap):
        talk = SharedTalk(demanding("logloss", at_most=bound, **given), tables).run()
        assert talk.error is None
        assert opened(talk, "aurora")[-1] == "evaluation.reached"
        assert set(talk.models) == (set(talk.plan.receivers) if bound > history[kept] else set())


def test_a_metric_without_a_value_is_not_reached():
    tables = {name: replace(rows, label=np.zeros_like(rows.label)) for name, rows in shared_tables(200).items()}
    talk = SharedTalk(demanding(at_most=1.0), tables).run()
    assert talk.error is None
    assert talk.models == {}
    assert opened(talk, "aurora") == ["evaluation.has_value"]


# --- those who do otherwise ------------------------------------------------------------------------------------------------


def says(change):
    return nth(DecideRelease, 0, change, to="dune")


@pytest.mark.parametrize("bound", [0.5, 0.999], ids=["reached", "not reached"])
def test_a_server_that_decides_otherwise_is_named_and_nobody_has_the_model(bound):
    plan = demanding(at_least=bound)
    twist = says(lambda said: msgspec.structs.replace(said, reached=not said.reached))
    talk = SharedTalk(plan, shared_tables(200), twists={"borealis": twist}).run()
    assert isinstance(talk.error, ProtocolError)
    assert (talk.raised_by, talk.error.member) == ("dune", "borealis")
    assert "decision on the release" in str(talk.error) or "sent shares of a tree, and did not say" in str(talk.error)
    assert "dune" not in talk.models


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (DecideRelease(True, 0.4), "says that auc at least 0.999 is reached, and that the value is 0.4"),
        (DecideRelease(False, 1.0), "says that auc at least 0.999 is not reached, and that the value is 1.0"),
        (DecideRelease(False, 0.5), "another decision on the release than the others"),
    ],
)
def test_a_receiver_holds_a_decision_to_the_plan(said, text):
    talk = SharedTalk(
        demanding(at_least=0.999, steps=(2,)), shared_tables(200), twists={"cirrus": says(lambda _: said)}
    ).run()
    assert isinstance(talk.error, ProtocolError)
    assert text in str(talk.error)
    assert talk.error.member == "cirrus"


def sends_trees_all_the_same(monkeypatch, liar):
    """A server that releases its shares below the bound too."""
    decide = ComputeServer._decide

    def lying(self, start, metric):
        yield from decide(self, start, metric)
        self.withheld = self.withheld and self._name != liar

    monkeypatch.setattr(ComputeServer, "_decide", lying)


@pytest.mark.parametrize("liar", ["aurora", "borealis", "cirrus"])
@pytest.mark.parametrize("reached", [False, True])
def test_one_servers_shares_are_refused_and_fit_every_tree(monkeypatch, liar, reached):
    """A server releases below the bound, whatever it says of it. The receiver refuses; and what it has is one part too few."""
    plan, tables = demanding(at_least=0.999, receivers=("dune",), rounds=1, max_depth=1), shared_tables(120)
    sends_trees_all_the_same(monkeypatch, liar)
    sent = []

    def twist(_, said):
        if isinstance(said, ReleaseTree):
            sent.append(said)
        return DecideRelease(reached, None) if isinstance(said, DecideRelease) else said

    talk = SharedTalk(plan, tables, twists={liar: twist}).run()
    assert isinstance(talk.error, ProtocolError)
    assert talk.raised_by == "dune"
    assert liar in {talk.error.member, *talk.error.suspects}
    assert talk.models == {}
    assert len(sent) == 1
    counts = Counts({name: rows.n_rows for name, rows in tables.items()}, dict.fromkeys(tables, 0))
    candidates = given_start(plan, counts).candidates
    index = plan.servers.index(liar)
    splits = to_array(liar, "splits", sent[0].splits[0], np.uint64, (2, 1, sent[0].splits[0].shape[-1]))
    leaves = to_array(liar, "leaves", sent[0].leaves, np.uint32, (2, 2))
    for candidate, wish in ((1, (5, 7)), (4, (1 << 25, 3))):
        one_hot = np.zeros_like(splits[0])
        one_hot[0, candidate // 64] = np.uint64(1) << np.uint64(candidate % 64)
        parts = {index: (splits[0], leaves[0]), (index + 1) % 3: (splits[1], leaves[1])}
        parts[(index + 2) % 3] = splits[0] ^ splits[1] ^ one_hot, np.array(wish, np.uint32) - leaves[0] - leaves[1]
        shares = {
            i: TreeMessage(
                (np.stack([parts[i][0], parts[(i + 1) % 3][0]]),), np.stack([parts[i][1], parts[(i + 1) % 3][1]])
            )
            for i in range(3)
        }
        tree = open_tree(candidates, 1, shares)
        assert tree.candidates[0] == candidates.all[candidate - 1]
        assert sorted(tree.values[1:] * 2.0**26) == sorted(wish)


def test_trees_before_a_decision_and_decisions_of_another_plan_are_refused():
    plan = demanding(at_least=0.5)
    early = SharedTalk(
        plan, shared_tables(200), twists={"aurora": nth(DecideRelease, 0, lambda _: None, to="dune")}
    ).run()
    assert "did not say that auc at least 0.5 is reached" in str(early.error)
    assert early.error.member == "aurora"
    free = shared_plan(held=0.3, receivers=("dune",))
    twist = nth(ReleaseTree, 0, lambda _: DecideRelease(True, None))
    other = SharedTalk(free, shared_tables(200), twists={"aurora": twist}).run()
    assert "a decision on the release that receiver 'dune' does not expect" in str(other.error)
    assert other.error.member == "aurora"


# --- processes that end ----------------------------------------------------------------------------------------------------


def surviving(folder, **given):
    plan = demanding(**({"receivers": ("aurora", "dune", "reader"), "eval_metric": ["auc"]} | given))
    return SharingSurvivors(folder, plan, shared_tables(160))


@pytest.mark.parametrize("bound", [0.5, 0.999], ids=["reached", "not reached"])
def test_a_process_that_ends_around_the_decision_changes_nothing(tmp_path, bound):
    calm = surviving(tmp_path / "calm", at_least=bound)
    calm.finish()
    withheld = bound > 0.9
    told = {*calm.plan.servers, *calm.plan.receivers}
    for back in range(2, 40, 9):
        run = surviving(tmp_path / f"{back}", at_least=bound)
        run.finish(crash_at(calm.messages - back))
        assert run.epochs == 2
        assert set(run.models) == (set() if withheld else set(run.plan.receivers))
        assert {name for name, member in run.members.items() if member.withheld} == (told if withheld else set())


def test_the_metric_is_kept_by_all_before_the_bit_is_opened(tmp_path):
    """All processes end right before it: nobody shares rows again, and the bit is that of the number that was kept."""
    run = surviving(tmp_path, at_least=0.999)

    def before(*_):
        keepers = [run.members[name]._server and run.members[name]._server._keeper for name in run.plan.servers]
        if all(keeper is not None and keeper.over for keeper in keepers):
            raise Crash

    assert not run.epoch(before)
    assert not any(member.withheld for member in run.members.values())
    total = 0
    for name in run.plan.servers:
        with run.state_of(name) as state:
            content = decode(state.kept(last_checkpoint(run.plan))[0], KeptModel)
            total += int(content.metric_share.array()[0, 0])
    assert 0.6 < total % 2**64 * 2.0**-VALUE_BITS < 0.999
    run.finish()
    assert run.epochs == 2
    assert all(member._owner is None for member in run.members.values())
    assert all(run.members[name].withheld for name in (*run.plan.servers, *run.plan.receivers))


@pytest.mark.parametrize("name", ["reader", "borealis", "dune"])
def test_who_was_away_at_the_end_is_told_it_and_knows_that_nobody_has_the_model(tmp_path, name):
    """Its process ended behind its last word: the hub says no more than that the run is over."""
    run = surviving(tmp_path, at_least=0.999)
    run.finish()
    with run.state_of(name) as state:
        member = run.member(name, state)
        assert list(member.opening())
        assert list(member.handle(memoryview(encode(Close())))) == []
        assert member.done
        assert member.withheld
        assert member.model is None
