"""Trees of a round that grow side by side: the bytes of trees one by one, one request a level, what parties and aggregator refuse."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_summed_party import ME, array_of, edited, put, with_array

from conversation import Conversation
from hansa.errors import ProtocolError
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import (
    ENVELOPE_BYTES,
    Contribution,
    QuantiseGradients,
    ShowRows,
    SplitNodes,
    TreeScales,
    TreeSplits,
    decode,
    encode,
    to_tensor,
)
from hansa.roles.summed import side_by_side
from hansa.roles.summed.party import Party
from hansa.roles.summed.side_by_side import (
    HISTOGRAM_BYTES,
    MOST_TREES,
    ROW_BYTES,
    row_bytes,
    trees_at_once,
    whole_nodes,
    words_before,
)
from hansa.roles.summed.sum_masking import SumMasking
from made_tables import NAMES, coded, plan, spread, table

PARTIES = NAMES[:3]
OWNERS = np.arange(240) % 3
CLASSES = {"objective": "multi:softprob", "rounds": 2, "max_depth": 4, "max_bin": 16}
FORMS = {
    "classes": {"evaluation": 0.2, "weighted": True},
    "forests of classes": {"num_parallel_tree": 2, "subsample": 0.7, "eta": 1.0},
    "forests of rows held out": {"objective": "binary:logistic", "num_parallel_tree": 5, "eta": 1.0, "evaluation": 0.3},
    "columns": {"colsample_bytree": 0.6, "colsample_bylevel": 0.7, "colsample_bynode": 0.7, "num_parallel_tree": 2},
    "few leaves": {"max_leaves": 5, "gamma": 0.3},
    "trees that end apart": {"num_parallel_tree": 3, "subsample": 0.5, "gamma": 1.5, "max_depth": 6, "evaluation": 0.2},
    "constraints": {"monotone_constraints": {"a": 1}, "interaction_constraints": [["a", "b"], ["b", "d", "e"]]},
    "categories": {"categories": True, "histogram_bits": 64},
    "best first": {"grow_policy": "lossguide", "max_leaves": 6},
    "medians": {"objective": "reg:absoluteerror", "num_parallel_tree": 2},
    "stops early": {"rounds": 8, "eta": 1.0, "evaluation": 0.3, "early_stopping_rounds": 1},
}
"""Forms of rounds with several trees."""


def made(name: str, mode: str = "federated", counts: str = "off"):
    given = CLASSES | FORMS[name]
    rows = table(240, given["objective"], weighted=bool(given.get("weighted")))
    rows = coded(rows) if given.get("categories") else rows
    return replace(plan(PARTIES, mode=mode, **given), verify_counts=counts), spread(rows, OWNERS)


def train(monkeypatch, most, name, mode="federated", counts="off", **options):
    monkeypatch.setattr(side_by_side, "MOST_TREES", most)
    return train_in_process(*made(name, mode, counts), **options)


def told(talk: Conversation, kind):
    """All messages of a kind to a party, whatever they travelled in."""
    found = []
    deliver = talk.deliver

    def watch(name, frame):
        message = decode("hub", frame)
        inner = decode("hub", bytes(message.frame)) if isinstance(message, ShowRows) and len(message.frame) else message
        if name == ME and isinstance(inner, kind):
            found.append(decode("hub", bytes(encode(inner))))
        deliver(name, frame)

    talk.deliver = watch
    talk.finish()
    return found


# --- the same bytes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_trees_side_by_side_are_those_that_grow_one_by_one(monkeypatch, name):
    one_by_one = train(monkeypatch, 1, name)
    assert any(tree.num_nodes > 1 for tree in one_by_one.outcome.ensemble.trees)
    for most, nodes in ((2, 1), (MOST_TREES, 0), (MOST_TREES, 3)):
        beside = train(monkeypatch, most, name, nodes_per_frame=nodes)
        assert beside.outcome.model == one_by_one.outcome.model
        assert beside.outcome.history == one_by_one.outcome.history
        assert {party.model for party in beside.parties.values()} == {one_by_one.outcome.model}
        alone = name in ("best first", "medians")
        assert (beside.outcome.exchanges == one_by_one.outcome.exchanges) is alone


@pytest.mark.parametrize("counts", ["off", "tree", "after", "before"])
@pytest.mark.parametrize("name", ["forests of classes", "trees that end apart"])
def test_masks_and_row_counts_change_nothing(monkeypatch, name, counts):
    one_by_one = train(monkeypatch, 1, name)
    for most in (2, MOST_TREES):
        beside = train(monkeypatch, most, name, "secure-aggregation", counts)
        assert beside.outcome.model == one_by_one.outcome.model
        assert {party.model for party in beside.parties.values()} == {one_by_one.outcome.model}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("nodes", [0, 1, 3])
def test_collectors_change_nothing(monkeypatch, name, nodes):
    one_by_one = train(monkeypatch, 1, name)
    agreed, rows = made(name)
    collected = replace(agreed, collectors=(("west", PARTIES[:2]),))
    for most in (2, MOST_TREES):
        monkeypatch.setattr(side_by_side, "MOST_TREES", most)
        beside = train_in_process(collected, rows, nodes_per_frame=nodes)
        assert beside.outcome.model == one_by_one.outcome.model
        assert beside.outcome.history == one_by_one.outcome.history
        assert {party.model for party in beside.parties.values()} == {one_by_one.outcome.model}


# --- one request a level ---------------------------------------------------------------------------------------------------


def test_one_request_a_level_asks_for_all_trees():
    agreed, rows = made("classes")
    splits = told(Conversation(agreed, rows), SplitNodes)
    assert len(splits) <= agreed.parameters.rounds * agreed.parameters.max_depth
    assert [own.tree for own in splits[0].trees] == [0, 1, 2]
    assert {own.tree for message in splits for own in message.trees} == set(range(6))


def test_a_message_of_the_most_trees_is_one_of_the_protocol():
    array = to_tensor(np.zeros(2**10, np.int32))
    beside = tuple(TreeSplits(number, *[array] * 8) for number in range(1, MOST_TREES))
    scales = tuple(TreeScales(number, 0.5, 0.5, array) for number in range(1, MOST_TREES))
    then = QuantiseGradients(0, 0.5, 0.5, array, scales)
    frame = encode(SplitNodes(0, 0, *[array] * 8, 0.5, then, beside))
    assert len(frame) > ENVELOPE_BYTES
    assert decode("hub", frame).trees[-1].tree == MOST_TREES - 1


def test_what_trees_side_by_side_take_is_bounded():
    parameters = {"objective": "multi:softprob", "rounds": 1, "max_depth": 6, "max_bin": 256}
    agreed = plan(PARTIES, **parameters, num_parallel_tree=20)
    few, many, huge = 1000, 2_000_000, 2**33
    trees = 20 * agreed.parameters.outputs
    assert trees_at_once(agreed, 1600, 1, few) == min(trees, MOST_TREES)
    assert trees_at_once(agreed, 3000 * 257, 1, few) == 1
    for cells, planes, rows in ((20_000, 1, few), (20_000, 2, few), (1600, 1, many), (1600, 2, many)):
        at_once = trees_at_once(agreed, cells, planes, rows)
        assert 1 < at_once < MOST_TREES
        taken = [(at_once + more) * np.array([8 * 63 * planes * cells, row_bytes(planes) * rows]) for more in (0, 1)]
        assert (taken[0] <= [HISTOGRAM_BYTES, ROW_BYTES]).all()
        assert (taken[1] > [HISTOGRAM_BYTES, ROW_BYTES]).any()
    assert trees_at_once(agreed, 1600, 1, huge) == 1
    leaves = replace(agreed, parameters=replace(agreed.parameters, max_depth=0, max_leaves=5))
    assert trees_at_once(leaves, 20_000, 1, few) > trees_at_once(agreed, 20_000, 1, few)
    assert trees_at_once(replace(agreed, dominance=True), 20_000, 1, few) < trees_at_once(agreed, 20_000, 1, few)


def test_a_level_at_a_party_takes_a_quarter_of_the_bound_whatever_the_number_of_trees(monkeypatch):
    """Of all trees together, as a party gives them out."""
    bound = 2**18
    given_ = CLASSES | {
        "num_parallel_tree": 20,
        "rounds": 1,
        "max_depth": 5,
        "min_child_weight": 0,
        "histogram_bits": 64,
    }
    agreed, rows = plan(PARTIES, **given_), spread(table(240, given_["objective"]), OWNERS)

    def largest() -> int:
        """Bytes of all trees' nodes of a level, at most."""
        levels: dict[tuple[int, int], int] = {}
        contribute = Party._contribute

        def watched(self, quantity, values, *others):
            if self._name == ME and quantity == "histograms":
                place = self._asker.tree, self._asker.step
                levels[place] = levels.get(place, 0) + values.nbytes
            return contribute(self, quantity, values, *others)

        with monkeypatch.context() as patched:
            patched.setattr(Party, "_contribute", watched)
            train_in_process(agreed, rows)
        return max(levels.values())

    without = largest()
    monkeypatch.setattr(side_by_side, "HISTOGRAM_BYTES", bound)
    assert bound / 16 < largest() <= bound / 4 + bound / 31 < without


def test_what_a_collector_keeps_of_a_party_fits_the_trees_side_by_side():
    """An answer that comes before the collector is told of it is not refused where the party is honest."""
    names = tuple(f"p{i}" for i in range(300))
    agreed = plan(names, objective="multi:softprob", max_depth=6, num_parallel_tree=20)
    cells = 10_000
    for count in (2, 8, 40, 300):
        collected = replace(agreed, collectors=(("west", names[:count]),))
        at_once = trees_at_once(collected, cells, 2, 100)
        assert 1 <= at_once <= trees_at_once(agreed, cells, 2, 100)
        level = at_once * 16 * 2 * 8 * cells
        assert at_once == 1 or level <= side_by_side.COLLECTED_BYTES // count // 2
        assert (at_once < trees_at_once(agreed, cells, 2, 100)) == (count >= 8)
    assert at_once == 1


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 2), st.integers(1, 4)), min_size=1, max_size=5), st.data())
def test_words_are_of_whole_nodes_or_of_none(shapes, data):
    """Against a list with an entry for each word."""
    words = [
        (tree, node)
        for tree, (nodes, planes, cells) in enumerate(shapes)
        for node in range(nodes)
        for _ in range(planes * cells)
    ]
    order = list(dict.fromkeys(words))
    first = data.draw(st.integers(0, len(order)), "first")
    begin = words_before(shapes, first)
    assert begin == (words.index(order[first]) if first < len(order) else len(words))
    size = data.draw(st.integers(0, len(words) + 3), "words")
    given_ = words[begin : begin + size]
    nodes = list(dict.fromkeys(given_))
    whole = size and size == len(given_) and all(given_.count(node) == words.count(node) for node in nodes)
    found = [(tree, node) for tree, at, count in whole_nodes(shapes, first, size) for node in range(at, at + count)]
    assert found == (nodes if whole else [])


@pytest.mark.parametrize("counts", ["off", "before"])
def test_each_mask_has_a_label_of_its_own(monkeypatch, counts):
    labels = []
    mask = SumMasking.mask

    def watched(self, tree, step, quantity, values, first, words):
        if first and self._member == ME:
            labels.append((tree, step, quantity))
        return mask(self, tree, step, quantity, values, first, words)

    monkeypatch.setattr(SumMasking, "mask", watched)
    for most in (2, MOST_TREES):
        labels.clear()
        train(monkeypatch, most, "forests of classes", "secure-aggregation", counts)
        assert len(set(labels)) == len(labels)
        groups = {tree for tree, _, quantity in labels if quantity == "histograms"}
        assert len(groups) == 2 * math.ceil(6 / most)


# --- what a party refuses ----------------------------------------------------------------------------------------------------


def beside(change):
    """A change of the second tree that a message tells of."""
    return lambda message: edited(message, beside=(change(message.beside[0]), *message.beside[1:]))


HOSTILE = {
    "fewer trees": (QuantiseGradients, lambda m: edited(m, beside=m.beside[:1]), "expected tree 0, 1, 2"),
    "one tree alone": (QuantiseGradients, lambda m: edited(m, beside=()), "expected tree 0, 1, 2"),
    "more trees": (
        QuantiseGradients,
        lambda m: edited(m, beside=(*m.beside, edited(m.beside[0], tree=3))),
        "scales for tree 0, 1, 2, 3",
    ),
    "trees in another order": (QuantiseGradients, lambda m: edited(m, beside=m.beside[::-1]), "tree 0, 2, 1"),
    "a tree twice": (QuantiseGradients, lambda m: edited(m, beside=(m.beside[0],) * 2), "tree 0, 1, 1"),
    "a scale that overflows": (QuantiseGradients, beside(lambda t: edited(t, hessian_scale=2.0**60)), "overflow"),
    "a scale that is no number": (QuantiseGradients, beside(lambda t: edited(t, gradient_scale=math.nan)), "scale"),
    "columns not drawn": (QuantiseGradients, beside(with_array("columns", lambda a: a[:-1])), "seed"),
    "splits of some trees": (SplitNodes, lambda m: edited(m, beside=m.beside[:1]), "expected tree 0, 1, 2"),
    "splits in another order": (SplitNodes, lambda m: edited(m, beside=m.beside[::-1]), "tree 0, 2, 1"),
    "splits of too many nodes": (SplitNodes, beside(with_array("feature", lambda a: np.repeat(a, 2))), "shape"),
    "a feature that is not there": (SplitNodes, beside(with_array("feature", put(0, 99))), "may not use"),
    "a bin that is not there": (SplitNodes, beside(with_array("bin", put(0, 9999))), "bin"),
    "a leaf that is no number": (SplitNodes, beside(with_array("leaf", put(0, np.nan))), "not finite"),
    "what comes next in the middle": (
        SplitNodes,
        lambda m: edited(m, then=QuantiseGradients(3, 0.5, 0.5, to_tensor(np.arange(5, dtype=np.uint32)))),
        "in the middle",
    ),
}


def refused(talk, message, rule):
    answers = []
    with pytest.raises(ProtocolError, match=rule) as caught:
        answers.extend(talk.parties[ME].handle(memoryview(encode(message))))
    assert answers == []
    assert caught.value.member == "hub"


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("name", HOSTILE)
def test_what_breaks_a_rule_of_a_tree_beside_is_refused(mode, name):
    kind, change, rule = HOSTILE[name]
    talk = Conversation(*made("classes", mode))
    refused(talk, change(talk.until(kind, ME)), rule)


def test_a_tree_that_has_ended_is_told_of_no_more():
    talk = Conversation(*made("trees that end apart"))
    numbers: list[int] = []
    while True:
        message = talk.until(SplitNodes, ME)
        left = [own.tree for own in message.trees]
        if numbers and left[-1] < 9 and left != numbers:
            break
        numbers = left
        talk.deliver(ME, encode(message))
    ended = min(set(numbers) - set(left))
    trees = sorted((*message.beside, edited(message.beside[0], tree=ended)), key=lambda own: own.tree)
    refused(talk, edited(message, beside=tuple(trees)), "splits for tree")


# --- what the aggregator refuses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda a: a[:-1], 0),
        (lambda a: a[: len(a) // 3 - 1], 0),
        (lambda a: np.append(a, 0), 0),
        (lambda a: np.concatenate([a, a]), 0),
        (lambda a: a[:0], 0),
        (lambda a: a, 1),
        (lambda a: a, -1),
    ],
)
def test_a_fragment_of_other_than_whole_nodes_is_refused(change, first):
    talk = Conversation(*made("columns"))
    message = talk.until_up(Contribution, ME, lambda _, own: own.quantity == "histograms")
    values = change(array_of(message.values))
    with pytest.raises(ProtocolError, match="expected whole nodes from 0 of 6") as caught:
        talk.say(ME, edited(message, values=to_tensor(np.ascontiguousarray(values)), first=first))
    assert caught.value.member == ME


def test_fragments_may_end_between_nodes_of_any_trees():
    talk = Conversation(*made("columns"))
    message = talk.until_up(Contribution, ME, lambda _, own: own.quantity == "histograms")
    values = array_of(message.values)
    cells = [grower.node_shape[1] for grower in talk.aggregator._growth.asked_for[0]]
    assert len(values) == sum(cells)
    ends = np.cumsum([0, *cells])
    for first, last in ((0, 1), (1, 4), (4, 6)):
        part = to_tensor(values[ends[first] : ends[last]].copy())
        talk.say(ME, edited(message, values=part, first=first))
    with pytest.raises(ProtocolError, match="expected whole nodes from 6 of 6"):
        talk.say(ME, message)
