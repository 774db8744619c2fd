"""A run whose processes end at any message gives the bytes of the undisturbed run (in one process, with real state folders)."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.errors import HansaError, IdentityError, OutputError, ProtocolError, StateError
from hansa.node.in_process import policy_of_holder, train_in_process
from hansa.node.state import PartyState
from hansa.plan import CustomMetric, CustomObjective
from hansa.protocol import messages
from hansa.protocol.messages import CheckpointSigned, Contribution, Finish, Received, Resume, SplitNodes, Welcome
from hansa.roles.summed import side_by_side
from hansa.roles.summed.custom import Functions
from made_tables import NAMES, coded, plan, spread, table
from surviving import Crash, Survivors, crash_at

PARTIES = NAMES[:3]
OWNERS = np.arange(90) % 3


def tables_of(objective: str = "binary:logistic", **kind):
    return spread(table(90, objective, **kind), OWNERS)


def masked(when: str, **parameters: object):
    given = {"rounds": 2, "max_depth": 2, "max_bin": 8, "evaluation": 0.2} | parameters
    return replace(plan(PARTIES, mode="secure-aggregation", **given), verify_counts=when)


SMALL = {"rounds": 2, "max_depth": 2, "max_bin": 8}
CASES = {
    "federated": lambda: (plan(PARTIES, **SMALL), tables_of()),
    "early stopping": lambda: (
        plan(PARTIES, **{**SMALL, "rounds": 8}, evaluation=0.3, early_stopping_rounds=1),
        tables_of(),
    ),
    "draws": lambda: (
        plan(PARTIES, **SMALL, evaluation=0.2, subsample=0.7, colsample_bytree=0.6, colsample_bynode=0.7),
        tables_of(),
    ),
    "classes": lambda: (plan(PARTIES, **SMALL, objective="multi:softprob"), tables_of("multi:softprob")),
    "forest": lambda: (plan(PARTIES, **SMALL, num_parallel_tree=2, subsample=0.7), tables_of()),
    "lossguide": lambda: (
        plan(PARTIES, **{**SMALL, "max_depth": 0}, max_leaves=4, grow_policy="lossguide"),
        tables_of(),
    ),
    "weights": lambda: (
        plan(PARTIES, **SMALL, objective="count:poisson", weighted=True),
        tables_of("count:poisson", weighted=True),
    ),
    "quantiles": lambda: (
        plan(PARTIES, **SMALL, evaluation=0.2, objective="reg:absoluteerror"),
        tables_of("reg:absoluteerror"),
    ),
    "masked quantiles": lambda: (
        masked("tree", objective="reg:quantileerror", quantile_alpha=0.3),
        tables_of("reg:quantileerror"),
    ),
    "categories": lambda: (plan(PARTIES, **SMALL, categories=True), spread(coded(table(90)), OWNERS)),
    "balance": lambda: (plan(PARTIES, **SMALL, balance="parties"), tables_of()),
    "masked": lambda: (masked("off"), tables_of()),
    "counts by tree": lambda: (masked("tree"), tables_of()),
    "counts after": lambda: (masked("after"), tables_of()),
    "counts before": lambda: (masked("before"), tables_of()),
    "masked classes": lambda: (masked("tree", objective="multi:softprob"), tables_of("multi:softprob")),
    "masked forest": lambda: (masked("after", num_parallel_tree=3, subsample=0.7), tables_of()),
}


@pytest.fixture
def small(tmp_path):
    """A federated run of three parties."""
    return Survivors(tmp_path, plan(PARTIES, **{**SMALL, "rounds": 5}), tables_of())


@pytest.fixture
def small_masked(tmp_path):
    return Survivors(tmp_path, masked("tree", rounds=3), tables_of())


def check_all_crashes(folder: Path, case: str, step: int) -> None:
    """End every process before message 1, 1 + step, ... of a run, and start all again: the same model, history and numbers of trees."""
    given, tables = CASES[case]()
    expected = train_in_process(given, tables).outcome
    place = 1
    while True:
        run = Survivors(folder / "run", given, tables)
        run.finish(crash_at(place))
        assert set(run.models.values()) == {expected.model}, place
        assert set(run.models) == set(PARTIES), place
        assert run.outcome.history == expected.history, place
        assert run.outcome.trees_grown == expected.trees_grown, place
        shutil.rmtree(folder / "run")
        if run.epochs == 1:  # the run was over before that message
            return
        place += step


@pytest.mark.parametrize("case", ["federated", "counts by tree"])
def test_processes_that_end_at_any_message_change_nothing(tmp_path, case):
    check_all_crashes(tmp_path, case, 17)


@pytest.mark.parametrize("case", ["classes", "masked classes"])
def test_checkpoints_stand_between_trees_that_do_not_grow_side_by_side(tmp_path, monkeypatch, case):
    """Three trees a round, two and then one: a round has two checkpoints."""
    monkeypatch.setattr(side_by_side, "MOST_TREES", 2)
    check_all_crashes(tmp_path, case, 41)


def test_no_answer_leaves_a_masked_run_without_masks(small_masked):
    state = small_masked.state_of("aurora")
    try:
        role = small_masked.party("aurora", state)
        with pytest.raises(HansaError, match="without the masks"):
            next(role._party.resume(b"", [], b"frame", None))
    finally:
        state.close()


def doubled(margins, labels, weights):
    return 2 * (margins - labels) * weights, 2 * weights


def squares(predictions, labels, weights):
    return np.minimum((predictions - labels) * (predictions - labels), np.float32(64))


def test_a_run_with_functions_of_its_own_survives_too(tmp_path):
    given = plan(PARTIES, **SMALL, evaluation=0.2, objective="reg:squarederror", base_score=0.5)
    given = replace(given, custom_objective=CustomObjective("ab" * 32, 2.0**12, 4.0))
    given = replace(given, custom_metric=CustomMetric("cd" * 32, "squares", 64.0))
    tables, functions = tables_of("reg:squarederror"), Functions(doubled, squares)
    own = {"policy": policy_of_holder(given), "functions": functions}
    expected = train_in_process(given, tables, **own).outcome.model
    for place in range(1, 90, 11):
        run = Survivors(tmp_path / str(place), given, tables, functions=functions)
        run.finish(crash_at(place))
        assert set(run.models.values()) == {expected}, place


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_processes_that_end_at_any_message_change_nothing_whatever_the_plan(tmp_path, case):
    check_all_crashes(tmp_path, case, 3)


@settings(max_examples=6, deadline=None)
@given(places=st.lists(st.integers(1, 130), min_size=2, max_size=4))
def test_processes_that_end_again_and_again_change_nothing(tmp_path_factory, places):
    """Also while an epoch begins, and while a tree is grown anew."""
    given, tables = CASES["masked"]()
    expected = train_in_process(given, tables).outcome.model
    folder = tmp_path_factory.mktemp("again")
    run = Survivors(folder, given, tables)
    run.finish(*(crash_at(place) for place in places))
    assert set(run.models.values()) == {expected}


def test_a_start_model_is_gone_on_from(tmp_path):
    given, tables = CASES["federated"]()
    before = train_in_process(given, tables).outcome.model
    going_on = replace(given, start_model=hashlib.sha256(before).hexdigest())
    expected = train_in_process(going_on, tables, start=before).outcome.model
    run = Survivors(tmp_path, going_on, tables, before)
    run.finish(crash_at(75))
    assert run.epochs == 2
    assert set(run.models.values()) == {expected}


def test_a_run_is_admitted_once_and_leaves_as_few_requests_as_one_tree_takes(small):
    asked: list[int] = []

    def count(number: int, sender: str, receiver: str, frame: bytes) -> None:
        if receiver == "aurora":
            asked.append(number)

    small.finish(in_tree(1), count)
    assert len(set(small.admitted)) == 1
    assert len(small.admitted) == len(PARTIES)  # none for the second epoch


# --- what is refused -------------------------------------------------------------------------------------------------


def changing(kind, change, times=1):
    """Changes the first `times` frames of a kind that the aggregator sends to aurora; ends the run once it goes wrong."""
    left = [times]

    def change_frame(recipient: str, frame: bytes) -> bytes:
        message = messages.decode("hub", frame)
        if recipient == "aurora" and isinstance(message, kind) and left[0]:
            left[0] -= 1
            return messages.encode(change(message))
        return frame

    return change_frame


def in_tree(tree: int, also=lambda *_: None):
    """A crash in the middle of a tree: all parties were told the splits of its root, cirrus' answer is lost."""

    def before(number: int, sender: str, receiver: str, frame: bytes) -> None:
        also(number, sender, receiver, frame)
        message = messages.decode(sender, frame)
        if isinstance(message, messages.VouchRows) and message.then is not None:
            message = message.then
        if sender == "cirrus" and isinstance(message, Contribution) and (message.tree, message.step) == (tree, 2):
            raise Crash

    return before


def stop(run: Survivors, tree: int = 1) -> None:
    assert not run.epoch(in_tree(tree))


def epoch_with(run: Survivors, change) -> None:
    """An epoch in which the aggregator's frames are changed on their way."""
    made = run.aggregator

    def lying(state):
        role = made(state)
        handle = role.handle

        def lie(member, frame):
            for recipient, out in handle(member, frame):
                yield recipient, change(recipient, out)

        role.handle = lie
        return role

    run.aggregator = lying
    try:
        run.epoch()
    finally:
        run.aggregator = made


def test_another_request_in_place_of_an_answered_one_is_refused_and_kept(small):
    stop(small)
    bound = changing(SplitNodes, lambda m: msgspec.structs.replace(m, gradient_bound=m.gradient_bound * 2))
    with pytest.raises(
        ProtocolError, match=r"sent another broadcast \d+ than the one that this party answered"
    ) as refused:
        epoch_with(small, bound)
    assert refused.value.member == "hub"
    state = small.state_of("aurora")
    assert state._run("SELECT count(*) FROM refused").fetchone()[0] == 1
    state.close()


def test_what_another_member_answered_binds_too(small):
    """A party whose folder lost what it had answered is protected by the others' claims."""
    stop(small)
    state = small.state_of("aurora")
    number = state.claim.head.number
    assert state.claim.now.number > number
    state._run("DELETE FROM broadcasts WHERE number > ?", number)
    state.close()
    bound = changing(SplitNodes, lambda m: msgspec.structs.replace(m, gradient_bound=m.gradient_bound * 2))
    with pytest.raises(ProtocolError, match=r"sent another broadcast \d+ than the one that member 'borealis' answered"):
        epoch_with(small, bound)


def test_a_folder_that_was_put_back_is_found(small, tmp_path):
    stop(small)
    shutil.copytree(tmp_path / "borealis", tmp_path / "old")
    stop(small, 4)
    shutil.rmtree(tmp_path / "borealis")
    shutil.copytree(tmp_path / "old", tmp_path / "borealis")
    with pytest.raises(StateError, match="put back to an earlier state") as refused:
        small.epoch()
    assert refused.value.member == "borealis"


def test_a_folder_that_was_put_back_within_a_tree_is_found_by_the_epoch_that_its_owner_signed(small, tmp_path):
    stop(small)
    shutil.copytree(tmp_path / "borealis", tmp_path / "old")
    stop(small, 1)
    shutil.rmtree(tmp_path / "borealis")
    shutil.copytree(tmp_path / "old", tmp_path / "borealis")
    with pytest.raises(StateError, match=r"'borealis' claims epoch 0 .* but signed epoch 1"):
        small.epoch()


def test_a_folder_that_is_gone_is_found(small, tmp_path):
    stop(small)
    shutil.rmtree(tmp_path / "borealis")
    with pytest.raises(StateError, match="'borealis' has no state of run") as refused:
        small.epoch()
    assert refused.value.member == "borealis"


def test_an_aggregator_whose_folder_is_gone_is_found(small, tmp_path):
    stop(small)
    shutil.rmtree(tmp_path / "hub")
    with pytest.raises(StateError, match="this aggregator has no state of run"):
        small.epoch()


def test_an_aggregator_that_begins_anew_is_refused(small):
    """Two runs over the same rows at once are what a rewound one is."""
    stop(small)
    (path,) = (small.folder / "aurora").glob("*.sqlite")
    database = sqlite3.connect(path)
    (welcome,) = database.execute("SELECT value FROM meta WHERE name = 'welcome'").fetchone()
    database.close()
    with pytest.raises(StateError, match="begins a run, and this party's state folder has run"):
        epoch_with(small, lambda recipient, frame: welcome if recipient == "aurora" else frame)


@pytest.mark.parametrize("member", ["hub", "borealis"])
def test_a_wrong_signature_is_refused(small_masked, member):
    stop(small_masked)

    def change(message: CheckpointSigned) -> CheckpointSigned:
        return CheckpointSigned({**message.signatures, member: bytes(64)})

    with pytest.raises(IdentityError, match=f"'{member}': its pinned identity did not sign this checkpoint"):
        epoch_with(small_masked, changing(CheckpointSigned, change))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: msgspec.structs.replace(m, claims=m.claims[1:]), "expected those of all members"),
        (lambda m: msgspec.structs.replace(m, epoch=m.epoch + 1), "epoch 2 is begun; expected 1"),
        (lambda m: msgspec.structs.replace(m, epoch=0), "epoch 0 is begun; expected 1"),
        (lambda m: msgspec.structs.replace(m, run=bytes(32)), "shown as another one than it sent"),
        (
            lambda m: msgspec.structs.replace(
                m,
                claims=tuple((name, msgspec.structs.replace(claim, epoch=3)) for name, claim in m.claims),
            ),
            "shown as another one than it sent",
        ),
    ],
)
def test_a_resume_that_is_not_what_members_claimed_is_refused(small, change, said):
    stop(small)
    with pytest.raises(ProtocolError, match=said) as refused:
        epoch_with(small, changing(Resume, change))
    assert refused.value.member == "hub"


def test_a_resume_of_an_earlier_epoch_is_refused(small):
    """The aggregator replays what it sent before: the claim in it is not today's."""
    stop(small)
    heard: list[bytes] = []

    def listen(number: int, sender: str, receiver: str, frame: bytes) -> None:
        if receiver == "aurora" and isinstance(messages.decode("hub", frame), Resume):
            heard.append(frame)

    assert not small.epoch(in_tree(1, listen))
    old = messages.decode("hub", heard[0])
    with pytest.raises(ProtocolError, match="shown as another one than it sent"):
        epoch_with(small, changing(Resume, lambda _: old))


def test_other_rows_are_refused(small):
    stop(small)
    small.tables = {**small.tables, "aurora": small.tables["borealis"]}
    with pytest.raises(StateError, match="the rows of 'aurora' are not those that the run began with"):
        small.epoch()


def test_rows_in_another_order_are_the_same_rows(small):
    expected = train_in_process(small.plan, small.tables).outcome.model
    stop(small)
    rows = small.tables["aurora"]
    turned = replace(rows, features=np.ascontiguousarray(rows.features[:, ::-1]), label=rows.label[::-1].copy())
    small.tables = {**small.tables, "aurora": turned}
    small.finish()
    assert set(small.models.values()) == {expected}


def test_a_journal_that_cannot_be_written_keeps_the_answer_back(small, monkeypatch):
    """A full disk: the party stops with an error of its own, nothing left it, and it can be started again."""
    expected = train_in_process(small.plan, small.tables).outcome.model
    answer = PartyState.answer
    asked: list[int] = []
    left: list[int] = []

    def full(self, mark, broadcast, shown):
        if self._member == "aurora" and mark.number == 9:
            asked.append(mark.number)
            raise OutputError("no space is left", retry=True)
        answer(self, mark, broadcast, shown)

    def count(number: int, sender: str, receiver: str, frame: bytes) -> None:
        if sender == "aurora" and asked:
            left.append(number)

    monkeypatch.setattr(PartyState, "answer", full)
    with pytest.raises(OutputError):
        small.epoch(count)
    assert asked == [9]
    assert not left
    monkeypatch.setattr(PartyState, "answer", answer)
    small.finish()
    assert set(small.models.values()) == {expected}


def test_a_party_that_missed_the_end_gets_the_model_and_nobody_else_need_be_there(small_masked):
    """The other two acknowledged and left; row counts that were due are checked by the aggregator's signature."""
    expected = train_in_process(small_masked.plan, small_masked.tables).outcome.model

    def lost(number: int, sender: str, receiver: str, frame: bytes) -> None:
        if sender == "borealis" and isinstance(messages.decode(sender, frame), Received):
            raise Crash

    assert not small_masked.epoch(lost)
    small_masked.finish()
    assert set(small_masked.models.values()) == {expected}


def test_counts_that_the_aggregator_did_not_sign_do_not_end_a_run(small_masked):
    def lost(number: int, sender: str, receiver: str, frame: bytes) -> None:
        message = messages.decode(sender, frame)
        shown = isinstance(message, messages.ShowRows) and len(message.frame) > 0
        if receiver == "cirrus" and shown and isinstance(messages.decode(sender, message.frame), Finish):
            raise Crash

    assert not small_masked.epoch(lost)
    with pytest.raises(ProtocolError, match="the signature over the last row counts is wrong"):
        epoch_with(
            small_masked,
            lambda recipient, frame: (
                messages.encode(msgspec.structs.replace(m, signature=bytes(64)))
                if isinstance(m := messages.decode("hub", frame), messages.ShowRows)
                else frame
            ),
        )


def test_masks_of_two_epochs_differ(small_masked):
    """The same numbers leave under other keys: no two frames of sums are the same."""
    sums: list[bytes] = []

    def listen(number: int, sender: str, receiver: str, frame: bytes) -> None:
        message = messages.decode("x", frame)
        if isinstance(message, messages.VouchRows) and message.then is not None:
            message = message.then
        if isinstance(message, Contribution):
            sums.append(bytes(message.values.data))

    small_masked.finish(in_tree(1, listen), listen)
    assert small_masked.epochs == 2
    assert len(set(sums)) == len(sums)


def test_a_welcome_is_never_a_resumption(small):
    stop(small)
    with pytest.raises(HansaError):
        epoch_with(small, changing(Resume, lambda m: Welcome(m.run, ())))
