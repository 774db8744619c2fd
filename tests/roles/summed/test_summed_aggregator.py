"""The aggregator against hostile parties: whatever breaks a rule is refused, by the name of who broke it."""

from __future__ import annotations

import functools
import re
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import faults
from conversation import OF_COOPETITIVE_RUNS, Conversation, drawn_graph
from hansa.errors import HansaError, ProtocolError
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import (
    MESSAGES,
    PROTOCOL_VERSION,
    SETUP,
    Abort,
    AnnounceKey,
    CommitKey,
    ConfirmKeys,
    Contribution,
    CountResiduals,
    Finish,
    Join,
    Message,
    Received,
    SetLeaves,
    Welcome,
    decode,
    encode,
    to_tensor,
)
from hansa.protocol.session import AGGREGATOR, AGGREGATOR_MASKED
from hansa.roles.run import Progress
from hansa.transport.channel import Traffic
from hansa.trees.metrics import sums_length
from made_tables import NAMES, plan, spread, table

IT = "borealis"
ROWS = table(200)
TABLES = spread(ROWS, np.arange(200) % 3)
WEIGHTED = spread(table(200, weighted=True), np.arange(200) % 3)


def conversation(shap="", **options):
    given = {"evaluation": 0.3, "eval_metric": ["auc", "logloss"]} | options
    tables = WEIGHTED if given.get("weighted") else TABLES
    return Conversation(replace(plan(tuple(TABLES), **given), shap=shap), tables, nodes_per_frame=1)


def edited(message: Message, **fields: object) -> Message:
    return msgspec.structs.replace(message, **fields)


def refused(talk: Conversation, member: str, message: Message, rule: str) -> None:
    answers: list[object] = []
    with pytest.raises(ProtocolError) as caught:
        answers.extend(talk.aggregator.handle(member, memoryview(encode(message))))
    assert answers == []
    assert repr(member) in str(caught.value)
    assert re.search(rule, str(caught.value)), str(caught.value)


def contribution(talk: Conversation, quantity: str, *, count: int = 1) -> Contribution:
    for _ in range(count - 1):
        message = talk.until_up(Contribution, IT, lambda _, m: m.quantity == quantity)
        talk.submit(IT, encode(message))
    return talk.until_up(Contribution, IT, lambda _, m: m.quantity == quantity)


QUANTITIES = (
    "magnitudes",
    "labels",
    "cells",
    "weights",
    "totals",
    "histograms",
    "root",
    "metric/auc",
    "metric/logloss",
)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"version": PROTOCOL_VERSION + 1}, f"version {PROTOCOL_VERSION + 1}.*same release"),
        ({"version": 0}, "version 0"),
        ({"plan": b"\0" * 32}, "another plan.*same plan file"),
        ({"plan": b""}, "another plan"),
        ({"parts": {}}, "different: .* and [0-9]+ more; its digest is not told"),
        ({"parts": {"plan": b"\0" * 33}}, "does not say in what it differs"),
        ({"parts": {str(place): b"" for place in range(1000)}}, "does not say in what it differs"),
        ({"nonce": b"short"}, "nonce"),
        ({"nonce": b"\0" * 33}, "nonce"),
        ({"rows": 0, "evaluation_rows": 0}, "without rows"),
        ({"rows": -5}, "without rows"),
        ({"evaluation_rows": -1}, "without rows"),
    ],
    ids=str,
)
def test_who_joins_must_hold_the_plan_and_rows(fields, rule):
    talk = conversation()
    refused(talk, IT, edited(talk.until_up(Join, IT), **fields), rule)


def test_nobody_joins_twice():
    talk = conversation()
    message = talk.until_up(Join, IT)
    talk.say(IT, message)
    refused(talk, IT, message, "joined twice")


@pytest.mark.parametrize("rejected_peer", ["zoe", "hub", "", "Borealis"])
def test_only_the_plans_parties_are_received(rejected_peer):
    talk = conversation()
    refused(talk, rejected_peer, talk.until_up(Join, IT), "not a party of the plan")


def test_nobody_contributes_before_all_have_joined():
    talk = conversation()
    early = contribution(conversation(), "magnitudes")
    refused(talk, IT, early, "'registering'")


def test_all_are_welcomed_alike():
    talk = conversation()
    welcomes = {name: conversation().until(Welcome, name) for name in TABLES}
    assert len({encode(message) for message in welcomes.values()}) == 1
    roster = talk.until(Welcome, IT).roster
    assert [name for name, *_ in roster] == sorted(TABLES)
    assert all(rows + held == TABLES[name].n_rows for name, _, rows, held, _ in roster)


@pytest.mark.parametrize("quantity", QUANTITIES)
@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda m: edited(m, tree=m.tree + 1), "expected step"),
        (lambda m: edited(m, tree=-2), "expected step"),
        (lambda m: edited(m, step=m.step + 1), "expected step"),
        (lambda m: edited(m, step=m.step - 1), "expected step"),
        (lambda m: edited(m, quantity="else"), "expected"),
        (lambda m: edited(m, quantity=""), "expected"),
        (lambda m: edited(m, first=1), "expected"),
        (lambda m: edited(m, first=-1), "expected"),
        (lambda m: edited(m, first=2**62), "expected"),
        (lambda m: edited(m, values=to_tensor(np.zeros(3, np.int64))), "of shape|3 words from node 0 on"),
        (lambda m: edited(m, values=to_tensor(np.zeros((0, 1, 1), np.int64))), "expected"),
        (lambda m: edited(m, values=edited(m.values, dtype="<u8")), "expected '<i8'|cells.*expected '<u4'"),
        (lambda m: edited(m, values=edited(m.values, data=bytes(m.values.data)[:-8])), "bytes"),
    ],
    ids=range(13),
)
def test_a_part_that_does_not_fit_is_refused(quantity, change, rule):
    talk = conversation(weighted=quantity == "weights")
    refused(talk, IT, change(contribution(talk, quantity)), rule)


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_a_part_given_twice_is_refused(quantity):
    talk = conversation(weighted=quantity == "weights")
    message = contribution(talk, quantity)
    talk.submit(IT, encode(message))
    refused(talk, IT, message, "before|expected")


@pytest.mark.parametrize("quantity", QUANTITIES[:6])
def test_a_part_given_again_later_is_refused(quantity):
    talk = conversation(weighted=quantity == "weights")
    message = contribution(talk, quantity)
    talk.submit(IT, encode(message))
    talk.until_up(Received, IT)
    refused(talk, IT, message, "'finishing'")


def test_a_part_of_another_moment_is_refused():
    """Everything that a party says in a run, said at every other moment of it."""
    said = [encode(contribution(conversation(weighted=quantity == "weights"), quantity)) for quantity in QUANTITIES]
    for quantity in QUANTITIES[1:6]:
        talk = conversation(weighted=quantity == "weights")
        now = contribution(talk, quantity)
        for frame in said:
            other = decode(IT, frame)
            if other.quantity != now.quantity:
                refused(talk, IT, other, "expected|given before")


def test_a_root_before_the_metrics_is_refused():
    talk = conversation()
    root = talk.until_up(Contribution, IT, lambda _, m: m.quantity == "root")
    assert (root.tree, root.step) == (1, 1)
    talk = conversation()
    talk.until_up(Contribution, IT, lambda _, m: (m.tree, m.quantity) == (1, "metric/auc"))
    refused(talk, IT, root, "expected metric/auc, metric/logloss, root")


def test_a_root_without_its_totals_is_refused():
    talk = conversation()
    root = talk.until_up(Contribution, IT, lambda _, m: m.quantity == "root")
    words = np.frombuffer(root.values.data, np.int64)
    histogram = to_tensor(words[:-2].reshape(1, 1, -1))
    refused(talk, IT, edited(root, quantity="histograms", values=histogram), "expected root")
    talk = conversation()
    root = talk.until_up(Contribution, IT, lambda _, m: m.quantity == "root")
    refused(talk, IT, edited(root, values=to_tensor(words[:-2].copy())), "of shape")


def test_totals_beyond_what_the_leaves_allow_stop_the_run():
    talk = conversation()
    root = talk.until_up(Contribution, IT, lambda _, m: m.quantity == "root")
    words = np.frombuffer(root.values.data, np.int64).copy()
    words[-2:] = 2**61, 1
    talk.submit(IT, encode(edited(root, values=to_tensor(words))))
    with pytest.raises(HansaError, match="tree 1 sum to more than the leaves of the tree before it allow"):
        talk.finish()


def test_histograms_come_in_order_and_no_more_than_asked():
    talk = conversation()
    message = contribution(talk, "histograms", count=3)
    assert message.step == 3
    words = message.values.shape[0]
    many = np.zeros(9 * words, np.int64)
    refused(talk, IT, edited(message, values=to_tensor(many)), r"expected whole nodes from 0 of \d")
    refused(talk, IT, edited(message, first=1), "expected whole nodes from 0")
    refused(talk, IT, edited(message, values=to_tensor(many[: words + 1])), "expected whole nodes from 0")
    refused(talk, IT, edited(message, values=to_tensor(many[:words].reshape(1, -1))), "of shape")


REFITTED = {"objective": "reg:absoluteerror", "eval_metric": ["mae"]}
MODES = {"federated": AGGREGATOR, "secure-aggregation": AGGREGATOR_MASKED}
ORDERS = [
    (mode, state, kind)
    for mode, states in MODES.items()
    for state in states
    if states[state]
    for kind in MESSAGES
    if kind not in states[state]
]
REACHED = {
    "registering": (Join, None),
    "committing": (CommitKey, None),
    "keying": (AnnounceKey, None),
    "confirming": (ConfirmKeys, None),
    "measuring": (Contribution, "magnitudes"),
    "labelling": (Contribution, "labels"),
    "cutting": (Contribution, "cells"),
    "locating": (Contribution, "residuals"),
    "refitting": (Contribution, "residuals"),
    "totalling": (Contribution, "totals"),
    "growing": (Contribution, "histograms"),
    "explaining": (Contribution, "shap"),
    "finishing": (Received, None),
}


@pytest.fixture(scope="module")
def spoken():
    found: dict[type[Message], Message] = {Abort: Abort("", "over")}
    for kind in (Join, AnnounceKey, ConfirmKeys, Contribution, Received):
        found[kind] = conversation(mode="secure-aggregation").until_up(kind, IT)
    found |= OF_COOPETITIVE_RUNS
    for kind in (CountResiduals, SetLeaves):
        found[kind] = conversation(mode="secure-aggregation", **REFITTED).until(kind, IT)
    for kind in set(MESSAGES) - set(found):
        found[kind] = conversation(mode="secure-aggregation").until(kind, IT)
    return found


def reached_in(state: str, mode: str) -> Conversation:
    """A run whose aggregator is in this state."""
    more = REFITTED if state in ("locating", "refitting") else {"shap": "all"} if state == "explaining" else {}
    of_few = functools.partial(conversation, mode=mode, **more)
    talk = drawn_graph(*TABLES) if state == "committing" else of_few()
    reached, quantity = REACHED[state]
    tree = {"locating": SETUP, "refitting": 0}.get(state)
    talk.until_up(
        reached,
        IT,
        None if quantity is None else lambda _, m: m.quantity == quantity and (tree is None or m.tree == tree),
    )
    return talk


@pytest.mark.parametrize(("mode", "state", "kind"), ORDERS, ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_message_out_of_order_is_refused(mode, state, kind, spoken):
    talk = reached_in(state, mode)
    refused(talk, IT, spoken[kind], repr(state))


def test_who_acknowledges_another_model_is_refused():
    talk = conversation()
    message = talk.until_up(Received, IT)
    refused(talk, IT, edited(message, model_sha256=b"\0" * 32), "another model")
    talk.say(IT, message)
    refused(talk, IT, message, "twice")
    assert not talk.aggregator.done
    talk.finish()
    assert talk.aggregator.done


@pytest.mark.parametrize("state", REACHED)
def test_an_abort_ends_the_run_and_names_the_party(state):
    mode = "federated" if state in AGGREGATOR else "secure-aggregation"
    talk = reached_in(state, mode)
    with pytest.raises(HansaError, match=f"'{IT}' stopped the run: no more power"):
        talk.say(IT, Abort("", "no more power"))
    refused(talk, "aurora", Abort("", ""), "'aborted'")


def test_a_frame_that_is_no_message_is_refused_by_name():
    with pytest.raises(ProtocolError, match=f"'{IT}'"):
        list(conversation().aggregator.handle(IT, memoryview(b"\xc1")))


WILD = st.sampled_from([0, -1, 1, 2**31, -(2**31), 2**32 - 1, 2**62, -(2**62), 2**63 - 1, -(2**63)])


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(QUANTITIES),
    st.integers(1, 3),
    st.lists(WILD, min_size=1, max_size=4),
    st.booleans(),
    st.sampled_from(["binary:logistic", "reg:squarederror"]),
)
def test_wild_numbers_end_in_a_refusal_or_a_finished_run(quantity, count, wild, everywhere, objective):
    """A party may say any numbers. The run then stops with a reason, or goes on; nothing breaks."""
    metrics = ["rmse"] if objective != "binary:logistic" else ["auc", "logloss"]
    talk = conversation(objective=objective, eval_metric=metrics, weighted=quantity == "weights")
    if quantity in ("metric/auc", "metric/logloss") and objective != "binary:logistic":
        quantity = "metric/rmse"
    most = {"magnitudes": 1, "labels": 1, "totals": 2, "root": 2}  # totals go alone at both ends of a run
    message = contribution(talk, quantity, count=min(count, most.get(quantity, count)))
    values = np.frombuffer(message.values.data, message.values.dtype).copy()
    for i, value in enumerate(wild):
        values[:: len(wild) - i if everywhere else len(values)] = np.int64(value).astype(values.dtype)
    changed = edited(message, values=edited(message.values, data=values.tobytes()))
    try:
        talk.submit(IT, encode(changed))
        talk.finish()
    except HansaError:
        return
    assert talk.aggregator.done


def test_progress_is_reported_and_the_outcome_complete():
    seen: list[Progress] = []
    given = plan(tuple(TABLES), rounds=4, evaluation=0.3, eval_metric=["logloss", "auc"])
    outcome = train_in_process(given, TABLES, report=seen.append).outcome
    assert [p.stage for p in seen] == ["registered", "binned", *["tree"] * 4, "trained"]
    assert [p.trees for p in seen[2:-1]] == [1, 2, 3, 4]
    assert [p.metrics for p in seen[2:-1]] == [
        {"logloss": a, "auc": b} for a, b in zip(outcome.history["logloss"], outcome.history["auc"], strict=True)
    ]
    assert outcome.trees_grown == 4
    assert outcome.history["logloss"][-1] < outcome.history["logloss"][0]
    assert sum(rows + held for _, _, rows, held, _ in outcome.roster) == ROWS.n_rows


def test_only_receivers_get_the_model():
    given = replace(plan(tuple(TABLES)), receivers=("hub", "cirrus"))
    run = train_in_process(given, TABLES)
    assert {name: party.model is not None for name, party in run.parties.items()} == {
        "aurora": False,
        "borealis": False,
        "cirrus": True,
    }
    assert run.parties["cirrus"].model == run.outcome.model


class Listening:
    """A hub that remembers what it was asked to send."""

    def __init__(self, hub):
        self.hub, self.told = hub, []

    @property
    def traffic(self) -> dict[str, Traffic]:
        return self.hub.traffic

    def send(self, member, frame):
        self.told.append((member, decode("hub", bytes(frame))))
        self.hub.send(member, frame)

    def receive(self, timeout=None):
        return self.hub.receive(timeout)

    def drop(self, member, reason):
        self.hub.drop(member, reason)

    def close(self):
        self.hub.close()


FAULTS = {
    "a frame twice": faults.duplicating(4),
    "a frame cut short": faults.truncating(4, 30),
    "another frame": faults.replacing(4, encode(Received(b"\0" * 32))),
    "rubbish": faults.replacing(2, b"rubbish"),
    "a first frame twice": faults.duplicating(0),
    "a request of its own": faults.replacing(3, encode(Finish(0, b"", b""))),
}


@pytest.mark.parametrize("name", FAULTS)
def test_everybody_hears_who_broke_a_rule(name):
    hubs = []

    def wrap(hub):
        hubs.append(Listening(faults.FaultyHub(hub, receiving={IT: FAULTS[name]})))
        return hubs[0]

    with pytest.raises(ProtocolError, match=f"'{IT}'"):
        train_in_process(plan(tuple(TABLES)), TABLES, wrap=wrap)
    aborts = {member: message for member, message in hubs[0].told if isinstance(message, Abort)}
    assert set(aborts) == set(TABLES)
    assert {message.member for message in aborts.values()} == {IT}
    assert all(IT in message.reason for message in aborts.values())


@pytest.mark.parametrize("fault", [faults.dropping(3), faults.dropping(0)])
def test_a_frame_that_never_comes_ends_the_run(fault):
    with pytest.raises(HansaError, match="deadlock"):
        train_in_process(plan(tuple(TABLES)), TABLES, wrap=lambda hub: faults.FaultyHub(hub, receiving={IT: fault}))


@pytest.mark.parametrize("fault", [faults.duplicating(3), faults.truncating(5, 20), faults.swapping(0)])
def test_a_party_that_is_told_nonsense_stops_the_run(fault):
    with pytest.raises(ProtocolError, match="'hub'"):
        train_in_process(plan(tuple(TABLES)), TABLES, wrap=lambda hub: faults.FaultyHub(hub, sending={IT: fault}))


def test_one_class_only_is_refused_with_the_reason():
    rows = table(60)
    rows.label[:] = 1
    with pytest.raises(HansaError, match="same label 1; binary:logistic needs rows of both classes"):
        train_in_process(plan(NAMES[:3]), spread(rows, np.arange(60) % 3))


def test_tables_must_be_the_plans():
    with pytest.raises(HansaError, match="tables are given for"):
        train_in_process(plan(NAMES[:2]), TABLES)


def test_metrics_travel_as_sums_of_the_stated_length():
    for name in ("auc", "logloss"):
        assert contribution(conversation(), f"metric/{name}").values.shape == (sums_length(name),)
