"""A receiver takes the model that the splits and leaves of its run make, and no other: a lying aggregator tries."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from conversation import Conversation
from hansa.errors import ProtocolError
from hansa.node.in_process import train_in_process
from hansa.protocol.messages import Finish, encode
from hansa.trees.xgboost_json import from_json
from made_tables import plan, spread, table

ROWS = table(300)
TABLES = spread(ROWS, np.arange(300) % 3)
Document = dict[str, Any]


def trees_of(document: Document) -> list[Document]:
    return document["learner"]["gradient_booster"]["model"]["trees"]


def finish_of(mode: str, **given: object) -> tuple[Conversation, Finish]:
    talk = Conversation(plan(tuple(TABLES), mode=mode, **given), TABLES)
    return talk, talk.until(Finish, "borealis")


def swap_names(document: Document) -> None:
    names = document["learner"]["feature_names"]
    names[0], names[1] = names[1], names[0]


def escape_names(document: Document) -> None:
    document["learner"]["feature_names"][0] = "\x1b]0;pwned\x07load"


def another_objective(document: Document) -> None:
    document["learner"]["objective"]["name"] = "reg:squarederror"


def another_base_score(document: Document) -> None:
    document["learner"]["learner_model_param"]["base_score"] = "2.5E-1"


def another_leaf(document: Document) -> None:
    tree = trees_of(document)[-1]
    leaf = tree["left_children"].index(-1)
    tree["split_conditions"][leaf] += 0.5
    tree["base_weights"][leaf] += 0.5


def a_threshold_where_no_row_is(document: Document) -> None:
    """As many trees, and no row of anybody goes another way: checks on rows never see it."""
    tree = trees_of(document)[0]
    tree["split_conditions"][0] = float(np.nextafter(np.float32(tree["split_conditions"][0]), np.float32(-np.inf)))


def a_back_door(document: Document) -> None:
    """The leaf on the way of large values is split once more, at a value that no row has."""
    tree = trees_of(document)[0]
    node = 0
    while tree["left_children"][node] >= 0:
        node = tree["right_children"][node]
    new, leaf = len(tree["left_children"]), tree["split_conditions"][node]
    added = {
        "left_children": [-1, -1], "right_children": [-1, -1], "parents": [node, node], "split_indices": [0, 0],
        "split_conditions": [leaf, 100.0], "default_left": [0, 0], "base_weights": [leaf, 100.0],
        "loss_changes": [0.0, 0.0], "sum_hessian": [1.0, 1.0], "split_type": [0, 0],
    }  # fmt: skip
    for name, values in added.items():
        tree[name] += values
    tree["left_children"][node], tree["right_children"][node] = new, new + 1
    tree["split_indices"][node], tree["split_conditions"][node] = 0, 1e6
    tree["tree_param"]["num_nodes"] = str(new + 2)


def an_attribute(document: Document) -> None:
    document["learner"]["attributes"]["best_iteration"] = "0"


def a_default_direction(document: Document) -> None:
    tree = trees_of(document)[0]
    tree["default_left"][0] = 1 - tree["default_left"][0]


CHANGES = [
    swap_names, escape_names, another_objective, another_base_score, another_leaf, a_threshold_where_no_row_is, a_back_door,
    an_attribute, a_default_direction,
]  # fmt: skip


def lie(message: Finish, change: Callable[[Document], None], trees: int | None = None) -> Finish:
    document = json.loads(zlib.decompress(message.model))
    change(document)
    raw = json.dumps(document, separators=(",", ":")).encode()
    return Finish(message.trees if trees is None else trees, hashlib.sha256(raw).digest(), zlib.compress(raw))


@pytest.mark.parametrize("mode", ["federated", "secure-aggregation"])
@pytest.mark.parametrize("change", CHANGES)
def test_another_model_than_the_runs_is_refused_and_the_aggregator_named(mode, change):
    talk, message = finish_of(mode)
    with pytest.raises(ProtocolError, match="'hub'"):
        talk.deliver("borealis", encode(lie(message, change)))
    assert talk.parties["borealis"].model is None


def test_the_runs_own_model_is_taken():
    talk, message = finish_of("secure-aggregation")
    talk.deliver("borealis", encode(message))
    assert talk.parties["borealis"].model == zlib.decompress(message.model)


def cut_last(document: Document) -> None:
    model = document["learner"]["gradient_booster"]["model"]
    model["trees"].pop()
    model["tree_info"].pop()
    model["iteration_indptr"].pop()
    model["gbtree_model_param"]["num_trees"] = str(len(model["trees"]))


def test_one_tree_fewer_than_the_plans_rounds_is_refused_without_early_stopping():
    talk, message = finish_of("federated")
    with pytest.raises(ProtocolError, match=r"said to have 2 rounds of 3 that were grown"):
        talk.deliver("borealis", encode(lie(message, cut_last, 2)))


def test_with_early_stopping_fewer_trees_are_taken_as_far_as_the_reconnect_timeout_explains_them():
    given = plan(tuple(TABLES), evaluation=0.3, rounds=30, eta=1.0, early_stopping_rounds=2)
    run = train_in_process(given, TABLES)
    kept = len(run.outcome.ensemble.trees)
    assert kept < run.outcome.trees_grown < 30
    assert all(party.model == run.outcome.model for party in run.parties.values())
    talk = Conversation(given, TABLES)
    message = talk.until(Finish, "borealis")
    with pytest.raises(ProtocolError, match="rounds of"):
        talk.deliver("borealis", encode(replace_trees(message, kept + 1)))


def replace_trees(message: Finish, trees: int) -> Finish:
    return Finish(trees, message.model_sha256, message.model)


def test_a_file_larger_than_its_trees_is_not_unpacked():
    talk, message = finish_of("federated")
    party = talk.parties["borealis"]
    raw = zlib.decompress(message.model)[:-1] + b" " * 2**26 + b"}"
    bomb = Finish(message.trees, hashlib.sha256(raw).digest(), zlib.compress(raw))
    assert party._result.model_bytes() < 2**20
    with pytest.raises(ProtocolError, match="bytes that the trees of this run can take"):
        talk.deliver("borealis", encode(bomb))


def test_bytes_behind_the_file_are_refused():
    talk, message = finish_of("federated")
    with pytest.raises(ProtocolError, match="cut short"):
        talk.deliver("borealis", encode(Finish(message.trees, message.model_sha256, bytes(message.model) + b"more")))


@pytest.mark.parametrize(
    "given", [{}, {"max_depth": 1}, {"gamma": 1e9}, {"colsample_bytree": 0.4}, {"subsample": 0.5, "rounds": 5}]
)
def test_every_honest_models_size_is_within_what_its_trees_allow(given):
    run = train_in_process(plan(tuple(TABLES), **given), TABLES)
    for party in run.parties.values():
        assert party.model == run.outcome.model
        assert len(party.model) <= party._result.model_bytes()
    assert len(from_json(run.outcome.model).trees) == run.outcome.trees_grown
