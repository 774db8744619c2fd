"""A coopetitive run whose processes end, at any message: started again it gives the same model, but for rounding at random."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace

import numpy as np
import pytest
from msgspec import structs

from hansa.errors import IdentityError, MemberLost, ProtocolError, StateError
from hansa.mpc.ring import RING32
from hansa.node.shared_state import SharedState
from hansa.protocol.messages import CheckpointSigned, Close, CountProbes, Done, Join, Relay, Resume, decode, encode
from hansa.roles.shared.compute_server import RoundMessage, step_name
from hansa.roles.shared.relay import Closing
from hansa.roles.shared.snapshots import KeptArray, KeptMargins, KeptRound
from hansa.roles.shared.snapshots import decode as decode_kept
from hansa.roles.shared.snapshots import encode as encode_kept
from hansa.roles.summed.checkpoints import SIGNING_PURPOSE
from hansa.trees.xgboost_json import from_json
from made_tables import table
from shares import SharedTalk, shared_plan, shared_tables, with_cuts
from sharing_survivors import SharingSurvivors
from surviving import Crash, crash_at, quietly

SMALL = {"rounds": 2, "max_depth": 2, "receivers": ("aurora", "dune", "reader")}


def run_of(folder, rows=200, **given):
    changes = dict(given)
    statistics = changes.pop("statistics", False)
    plan = with_cuts(shared_plan(**(SMALL | changes)), statistics=statistics)
    objective = plan.parameters.objective
    tables = shared_tables(rows, objective=objective if objective == "reg:squarederror" else "binary:logistic")
    return SharingSurvivors(folder, plan, tables)


def the_model(run):
    """What all receivers have, once the run is over."""
    assert set(run.models) == set(run.plan.receivers)
    assert len(set(run.models.values())) == 1
    return from_json(run.models["dune"])


def assert_alike(ensemble, other, rows=200):
    """As many trees, the same first splits, and predictions that agree but for rounding; a near tie may move some."""
    assert len(ensemble.trees) == len(other.trees)
    assert np.array_equal(ensemble.trees[0].split_indices, other.trees[0].split_indices)
    predicted, theirs = (own.predict(table(rows).features) for own in (ensemble, other))
    assert np.quantile(np.abs(predicted - theirs), 0.5) < 0.02
    assert np.corrcoef(predicted, theirs)[0, 1] > 0.97


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Model and number of messages of an undisturbed run, with given cuts and with found ones."""
    found = {}
    for given in (True, False):
        run = run_of(tmp_path_factory.mktemp("calm"), given=given)
        run.finish()
        found[given] = the_model(run), run.messages
    return found


def test_a_run_with_state_folders_leaves_what_it_needs_and_takes_one_epoch(tmp_path):
    run = run_of(tmp_path)
    run.finish()
    assert run.epochs == 1
    the_model(run)


FAST = (0.04, 0.3, 0.62, 0.9, 0.949, 0.995)  # .949: between the last round and the end of training


@pytest.mark.parametrize("place", [pytest.param(n / 61, marks=pytest.mark.slow) for n in range(61)] + list(FAST))
@pytest.mark.parametrize("given", [True, False], ids=["given cuts", "found cuts"])
def test_all_processes_end_at_a_message(tmp_path, undisturbed, place, given):
    expected, messages = undisturbed[given]
    run = run_of(tmp_path, given=given)
    run.finish(crash_at(max(1, round(place * messages))))
    assert run.epochs == 2
    assert_alike(the_model(run), expected)


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, 12))])
def test_processes_end_again_and_again(tmp_path, undisturbed, seed):
    expected, messages = undisturbed[False]
    draw = np.random.Generator(np.random.PCG64(seed))
    run = run_of(tmp_path, given=False)
    places = [int(draw.integers(1, messages)) for _ in range(5)]
    run.finish(*(crash_at(place) for place in places))
    assert_alike(the_model(run), expected)


KINDS = {
    "metrics and early stopping": {
        "held": 0.3, "steps": (1, 3), "rounds": 3, "eval_metric": ["auc", "logloss"], "early_stopping_rounds": 2,
    },
    "numbers": {"objective": "reg:squarederror", "given": False},
    "weights of classes, bounded leaves": {"alpha": 0.5, "max_delta_step": 1.2, "scale_pos_weight": 700.0},
    "a range that is checked": {"eta": 1.0, "rounds": 5, "lambda": 0.1, "min_child_weight": 0.1},
    "sampling": {"subsample": 0.6, "colsample_bytree": 0.6},
    "several classes": {"objective": "multi:softprob", "num_class": 3, "given": False},
    "one class against the rest": {"num_class": 3},
    "a table of covers": {"statistics": True},
    "servers without rows": {"servers": ("vault", "safe", "chest")},
    "the hub is a server": {"hub": "borealis"},
}  # fmt: skip


@pytest.mark.parametrize(
    "kind", [kind if number < 1 else pytest.param(kind, marks=pytest.mark.slow) for number, kind in enumerate(KINDS)]
)
def test_every_kind_of_plan_goes_on(tmp_path, kind):
    calm = run_of(tmp_path / "calm", **KINDS[kind])
    calm.finish()
    for place in (0.5, 0.75):
        run = run_of(tmp_path / f"{place}", **KINDS[kind])
        run.finish(crash_at(round(place * calm.messages)))
        assert run.epochs == 2
        ensemble = the_model(run)
        assert len(ensemble.trees) <= run.plan.parameters.rounds * ensemble.outputs
        if not run.plan.parameters.early_stopping_rounds:
            assert len(ensemble.trees) == len(the_model(calm).trees)
        first, *others = run.histories.values()
        assert others == [first] * 2, "servers opened the same metrics"
        for name, values in first.items():
            rounds = [after for after, _ in values]
            assert rounds == sorted(set(rounds)), f"{name} stands once for each of its steps"


# --- what is asked again, and what is not ----------------------------------------------------------------------------------


def stop_after(kind, count, receiver=None):
    """A process ends once so many messages of a kind were delivered."""
    seen = 0

    def before(_number, _sender, to, frame):
        nonlocal seen
        if isinstance(decode("x", frame), kind) and receiver in (None, to):
            seen += 1
            if seen > count:
                raise Crash

    return before


def test_rounds_that_all_have_are_not_grown_again_and_keys_are_new(tmp_path, undisturbed):
    _, messages = undisturbed[True]
    run = run_of(tmp_path, rounds=4)
    run.epoch(crash_at(round(1.6 * messages)))
    first = run.members["aurora"]
    at = {name: member._server._keeper.checkpoint for name, member in run.members.items() if member._server}
    assert min(at.values()) >= 2, "a round is over"
    keys = {name: member._keys.run for name, member in run.members.items()}
    run.epoch(quietly)
    the_model(run)
    second = run.members["aurora"]
    assert second._server.rounds < first._server.rounds * 4 / (min(at.values()) - 1)
    for name, member in run.members.items():
        before, now = keys[name], member._keys.run
        assert (before.epoch, now.epoch) == (0, 1)
        assert before.plan_hash != now.plan_hash, "keys are bound to what all signed"
        assert before.run_id == now.run_id


def test_after_training_nobody_shares_rows_again(tmp_path):
    run = run_of(tmp_path)
    run.epoch(stop_after(Done, 0, run.plan.hub))
    assert not run.models
    at = {n: m._server._keeper for n, m in run.members.items() if m._server}
    assert all(keeper.over for keeper in at.values())
    run.epoch(quietly)
    the_model(run)
    assert all(member._owner is None for member in run.members.values())
    assert run.messages < 200


def test_shares_on_disk_are_not_those_that_are_computed_with_later(tmp_path):
    run = run_of(tmp_path, rounds=3)
    calm = run_of(tmp_path / "calm", rounds=3)
    calm.finish()
    run.epoch(crash_at(round(0.7 * calm.messages)))
    before = kept_of(run, "aurora")
    run.epoch(crash_at(round(0.65 * calm.messages)))
    after = kept_of(run, "aurora")
    shared = set(before) & set(after)
    assert shared, "the first trees are kept in both"
    assert all(before[number] != after[number] for number in shared)
    run.finish()
    the_model(run)


def kept_of(run, name):
    """The trees that a server's folder has at its last checkpoint: round -> leaves."""
    with run.state_of(name) as state:
        _, rounds = state.kept(state.claim.checkpoint)
        return {n: decode_kept(own, KeptRound).trees[0][2].content for n, own in enumerate(rounds)}


def test_an_owner_refuses_another_question_than_the_one_that_it_answered(tmp_path):
    run = run_of(tmp_path, given=False, servers=("vault", "safe", "chest"))
    run.epoch(stop_after(Relay, 8, "dune"))

    def ask_otherwise(_to, said):
        return replace_probes(said) if isinstance(said, CountProbes) else said

    run.twists = dict.fromkeys(run.plan.servers, ask_otherwise)
    with pytest.raises(ProtocolError, match=r"another question .* earlier epoch.*word for word") as error:
        run.epoch(quietly)
    assert set(error.value.suspects) == set(run.plan.servers)


def replace_probes(said):
    """The same question but for one start, which stays a start."""
    starts = np.frombuffer(said.starts.data, "<u4").copy()
    starts[0] ^= np.uint32(1 << 31)
    return CountProbes(
        said.offsets, type(said.starts)(said.starts.dtype, said.starts.shape, memoryview(starts.tobytes())), said.depths, said.bits
    )  # fmt: skip


# --- folders that were put back, lost or changed -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of four rounds that was stopped in its third, in a second epoch; and what the folders were in its second round."""
    folder = tmp_path_factory.mktemp("stopped")
    calm = run_of(folder / "calm", rounds=4)
    calm.finish()
    run = run_of(folder / "run", rounds=4)
    run.epoch(crash_at(round(0.4 * calm.messages)))
    shutil.copytree(folder / "run", folder / "earlier")
    run.epoch(crash_at(round(0.7 * calm.messages)))
    return run, folder


@pytest.fixture
def halfway(stopped, tmp_path):
    """The same with folders of its own."""
    made, folder = stopped
    run = copy.copy(made)
    run.folder = tmp_path / "run"
    run.models, run.twists, run.tables = {}, {}, dict(made.tables)
    shutil.copytree(folder / "run", run.folder)
    return run, folder / "earlier"


def put_back(run, earlier, name):
    shutil.rmtree(run.folder / name)
    shutil.copytree(earlier / name, run.folder / name)


def test_a_server_that_puts_its_folder_back_is_refused_by_name(halfway):
    run, earlier = halfway
    put_back(run, earlier, "borealis")
    with pytest.raises(StateError, match=r"'borealis'.*put back to an earlier state") as error:
        run.epoch(quietly)
    assert error.value.member == "borealis"
    with pytest.raises(StateError):
        run.epoch(quietly)
    assert not run.models


def test_a_lying_hub_cannot_have_members_accept_a_folder_that_was_put_back(halfway, monkeypatch):
    """Members check all claims by themselves."""
    run, earlier = halfway
    put_back(run, earlier, "borealis")
    monkeypatch.setattr("hansa.roles.shared.relay.agree", lambda *_: None)
    with pytest.raises(StateError, match=r"'borealis'.*put back to an earlier state"):
        run.epoch(quietly)


def test_all_servers_together_cannot_go_behind_what_owners_and_they_signed(halfway):
    run, earlier = halfway
    for name in run.plan.servers:
        put_back(run, earlier, name)
    with pytest.raises(StateError, match=r"claims epoch 0 .*but signed epoch 1.*put back"):
        run.epoch(quietly)


def test_a_member_without_its_folder_is_named(halfway):
    run, _ = halfway
    shutil.rmtree(run.folder / "cirrus")
    with pytest.raises(StateError, match=r"'cirrus' has no state of run"):
        run.epoch(quietly)


def test_a_round_that_something_was_opened_of_is_not_grown_again(tmp_path):
    """A server one checkpoint behind is believed to have crashed, unless the others know that it had kept that checkpoint."""
    changes = {"held": 0.3, "rounds": 3, "eval_metric": ["logloss"], "steps": (1, 2, 3)}
    calm = run_of(tmp_path / "calm", **changes)
    calm.finish()
    folder = tmp_path / "run"
    run = run_of(folder, **changes)
    before = {}

    def keep_copies(number, _sender, _to, _frame):
        keeper = run.members["borealis"]._server and run.members["borealis"]._server._keeper
        if keeper and keeper.checkpoint == 2 and 2 not in before:
            shutil.copytree(folder / "borealis", tmp_path / "at 2")
            before[2] = number
        settled = [m._server._keeper._journal.claim.now.number for m in run.members.values() if m._server]
        if min(settled, default=0) == 3:
            raise Crash

    run.epoch(keep_copies)
    shutil.rmtree(folder / "borealis")
    shutil.copytree(tmp_path / "at 2", folder / "borealis")
    with pytest.raises(StateError, match=r"'borealis' is at checkpoint 2.*knows that all servers kept a later one"):
        run.epoch(quietly)


def test_a_server_that_crashed_one_round_behind_goes_on(tmp_path):
    run = run_of(tmp_path, rounds=3)
    calm = run_of(tmp_path / "calm", rounds=3)
    calm.finish()

    def one_behind(_number, _sender, _to, _frame):
        at = [m._server._keeper.checkpoint for m in run.members.values() if m._server]
        if at and max(at) == 3 and min(at) == 2:
            raise Crash

    run.finish(one_behind)
    assert run.epochs == 2
    assert_alike(the_model(run), the_model(calm))


@pytest.mark.parametrize("what", ["margins", "leaves"])
def test_a_server_that_brings_back_another_share_is_found_by_the_copies(halfway, what):
    run, _ = halfway
    change_share(run, "aurora", what)
    with pytest.raises(ProtocolError, match="copies of a part that two servers keep differ") as error:
        run.epoch(quietly)
    assert "aurora" in (error.value.member, *error.value.suspects)
    assert not run.models


def change_share(run, name, what):
    """Add one to a share of one row, or of one leaf, and seal it again, as its owner can."""
    with run.state_of(name) as state:
        checkpoint = state.claim.checkpoint
        content, rounds = state.kept(checkpoint)
        epoch = state._run("SELECT epoch FROM margins WHERE checkpoint = ?", checkpoint).fetchone()[0]
        if what == "margins":
            kept = decode_kept(content, KeptMargins)
            margins = kept.margins[0].array()
            margins[0, 5] = RING32.reduce(margins[0, 5] + np.uint32(1))
            changed = KeptMargins(
                (KeptArray.of(margins), *kept.margins[1:]), kept.held, kept.best, kept.best_rounds, kept.asked, kept.without_value,
                kept.openings, kept.history,
            )  # fmt: skip
            sealed = state._sealing().seal(epoch, checkpoint, "margins", encode_kept(changed))
            state._run("UPDATE margins SET sealed = ? WHERE checkpoint = ?", sealed, checkpoint)
        else:
            kept = decode_kept(rounds[0], KeptRound)
            levels, width, leaves, covers = kept.trees[0]
            values = leaves.array()
            values[1, 0] += np.uint32(1)
            changed = KeptRound(((levels, width, KeptArray.of(values), covers), *kept.trees[1:]), kept.flags)
            sealed = state._sealing().seal(epoch, 0, "trees", encode_kept(changed))
            state._run("UPDATE rounds SET sealed = ? WHERE number = 0 AND epoch = ?", sealed, epoch)


def test_other_rows_or_another_order_of_rows_are_refused(halfway):
    run, _ = halfway
    rows = run.tables["dune"]
    run.tables["dune"] = replace(rows, features=rows.features[:, ::-1].copy(), label=rows.label[::-1].copy())
    with pytest.raises(StateError, match="the rows of 'dune' are not those that the run began with, in their order"):
        run.epoch(quietly)


# --- a hub that lies -----------------------------------------------------------------------------------------------------------


def resumption(run):
    """The `Resume` that the members of a run would be told, and a member to tell it."""
    states = {name: run.state_of(name) for name in run.plan.participants}
    run.members = {name: run.member(name, state) for name, state in states.items()}
    hub, told = run.new_hub(), []
    for name, member in run.members.items():
        for frame in member.opening():
            told += [bytes(answer) for _, answer in hub.handle(name, memoryview(frame))]
    message = decode("hub", told[0])
    assert isinstance(message, Resume)
    return message, states


def close_all(states):
    for state in states.values():
        state.close()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda m: structs.replace(m, epoch=m.epoch + 1), "epoch 3 is begun; expected 2"),
        (lambda m: structs.replace(m, claims=m.claims[1:]), "claims came of"),
        (lambda m: structs.replace(m, roster=m.roster[1:]), "the roster is"),
        (lambda m: structs.replace(m, run=bytes(32)), "run's id is not the hash"),
        (
            lambda m: structs.replace(m, claims=tuple((n, structs.replace(c, epoch=0)) for n, c in m.claims)),
            "claim is shown as another one",
        ),
    ],
)
def test_a_resumption_that_is_none_is_refused(halfway, change, text):
    run, _ = halfway
    message, states = resumption(run)
    try:
        with pytest.raises((ProtocolError, StateError), match=text):
            list(run.members["dune"].handle(memoryview(encode(change(message)))))
    finally:
        close_all(states)


def test_no_epoch_begins_without_everybodys_signature(halfway):
    run, _ = halfway
    message, states = resumption(run)
    try:
        signatures = {}
        for name, member in run.members.items():
            (frame,) = member.handle(memoryview(encode(message)))
            signatures[name] = decode(name, frame).signature
        signatures["cirrus"] = run.signers["cirrus"].sign(SIGNING_PURPOSE, b"something else")
        with pytest.raises(IdentityError, match=r"'cirrus'.*did not sign this checkpoint"):
            list(run.members["dune"].handle(memoryview(encode(CheckpointSigned(signatures)))))
    finally:
        close_all(states)


def test_a_hub_cannot_say_that_a_run_is_over_which_is_not(halfway):
    run, _ = halfway
    message, states = resumption(run)
    assert message.epoch == 2
    try:
        with pytest.raises(ProtocolError, match="says that the run is over, of which this member has not all"):
            list(run.members["reader"].handle(memoryview(encode(Close()))))
    finally:
        close_all(states)


def test_a_plan_that_aborts_has_no_second_epoch(tmp_path):
    run = run_of(tmp_path)
    with SharedState(tmp_path / "x", run.agreement, "dune", b"") as state:
        member = run.member("dune", state)
        member._resumption = None
        list(member.opening())
        with pytest.raises(ProtocolError, match="the plan has end with the first process that does"):
            list(member.handle(memoryview(encode(Resume(bytes(32), 1, ())))))


def test_servers_show_each_other_commitments_after_every_round(tmp_path):
    run = run_of(tmp_path)
    said = []

    def note(_to, what):
        if isinstance(what, RoundMessage):
            said.append(what.name)
        return what

    run.twists = {"aurora": note}
    run.finish()
    assert said.count(step_name("kept")) == 2 * run.plan.parameters.rounds


# --- a deadline ------------------------------------------------------------------------------------------------------------------


def test_finished_trees_are_released_once_the_deadline_of_one_server_is_over():
    plan = shared_plan(**(SMALL | {"rounds": 5}))
    plan = replace(plan, coopetitive=replace(plan.coopetitive, deadline_s=100.0))
    talk = SharedTalk(plan, shared_tables(200), clock=lambda: 0.0)
    times = iter([1000.0, 1040.0, 1080.0, 1100.0])
    talk.members["borealis"]._clock = lambda: next(times)
    talk.run()
    assert talk.error is None
    (model,) = set(talk.models.values())
    assert len(from_json(model).trees) == 3
    for name in plan.servers:
        assert "deadline of 100 s was over: of 5 rounds the first 3 are released" in talk.members[name].cut


def test_the_deadline_counts_from_the_first_epoch_and_pauses_count_too(tmp_path):
    run = run_of(tmp_path, rounds=5)
    run.plan = replace(run.plan, coopetitive=replace(run.plan.coopetitive, deadline_s=100.0))
    now = [1000.0]
    run.clock = lambda: now[0]

    def after_a_round(_number, _sender, _to, _frame):
        at = [m._server._keeper.checkpoint for m in run.members.values() if m._server]
        if at and min(at) == 3:
            now[0] = 1200.0
            raise Crash

    run.finish(after_a_round)
    assert run.epochs == 2
    assert len(the_model(run).trees) == 2
    assert all("deadline" in run.members[name].cut for name in run.plan.servers)


# --- members that leave, and return ------------------------------------------------------------------------------------------------


def started_hub(run):
    """A hub whose keys are confirmed, and what it last told members."""
    hub = run.new_hub()
    hub.began = True
    hub._session.state = "relaying"
    return hub


@pytest.mark.parametrize(("member", "goes_on"), [("dune", True), ("reader", True), ("aurora", False)])
def test_the_run_goes_on_without_who_is_no_server_until_something_is_to_be_told_to_it(tmp_path, member, goes_on):
    run = run_of(tmp_path)
    hub = started_hub(run)
    assert hub.has_left(member) is goes_on
    if goes_on:
        with pytest.raises(MemberLost, match=f"'{member}': is not here, and something is to be told to it"):
            list(hub.handle("aurora", memoryview(encode(Relay("aurora", member, "message", memoryview(b"x"))))))


def test_before_an_epoch_began_and_where_the_plan_aborts_nobody_may_leave(tmp_path):
    run = run_of(tmp_path)
    assert not run.new_hub().has_left("reader")
    run.plan = replace(run.plan, on_dropout="abort")
    assert not started_hub(run).has_left("reader")


def test_who_returns_gets_keys_of_a_new_epoch_and_who_is_through_waits_for_the_end(tmp_path):
    run = run_of(tmp_path, receivers=("aurora", "reader"))
    hub = started_hub(run)
    join = encode(Join(7, bytes(32), bytes(32), 0, 0, b""))
    with pytest.raises(ProtocolError, match="'reader' joined twice"):
        list(hub.handle("reader", memoryview(join)))
    hub = started_hub(run)
    assert hub.has_left("reader")
    with pytest.raises(MemberLost, match="'reader': is here again, and has no keys of this epoch"):
        list(hub.handle("reader", memoryview(join)))
    hub = started_hub(run)
    assert list(hub.handle("dune", memoryview(encode(Done())))) == []
    assert hub.has_left("dune")
    assert list(hub.handle("dune", memoryview(join))) == []
    assert not hub.away
    told = ("aurora", "borealis", "cirrus", "reader")
    closed = [pair for name in told for pair in hub.handle(name, memoryview(encode(Done())))]
    assert {to for to, _ in closed} == {*told, "dune"}
    assert hub.done


def test_who_was_away_at_the_end_is_told_it_when_it_returns(tmp_path):
    run = run_of(tmp_path, receivers=("aurora", "reader"))
    hub = started_hub(run)
    list(hub.handle("dune", memoryview(encode(Done()))))
    assert hub.has_left("dune")
    closed = [
        pair for n in ("aurora", "borealis", "cirrus", "reader") for pair in hub.handle(n, memoryview(encode(Done())))
    ]
    assert "dune" not in {to for to, _ in closed}
    closing = Closing(hub.run, hub.away)
    assert not closing.done
    assert closing.waiting_for() == ["dune"]
    ((to, frame),) = closing.handle("dune", memoryview(encode(Join(7, bytes(32), bytes(32), 0, 0, b""))))
    assert (to, type(decode("post", frame))) == ("dune", Close)
    assert closing.done
    assert closing.has_left("dune")
