"""What is opened at the end, and that opened trees give the very margins that the servers shared."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import naive_mpc as naive
from hansa.errors import ProtocolError
from hansa.mpc.ring import RING32
from hansa.oblivious.release import LEAF, PlainTree, Statistics, TreeMessage, open_tree, release
from hansa.oblivious.shared_rows import label_words, receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, LabelScale, Sampling, boost, start_margins
from lockstep import run_three
from naive_mpc import leaf_of_codes
from three_servers import ALGORITHM, make_servers, make_table, reveal


def boosted(settings, labels, rounds, sampling=None, seed=1):
    candidates, codes, default = make_table(1200, 4, 15, seed=seed)
    labels = default if labels is None else labels(codes)
    messages = share_rows(candidates, codes, labels, ALGORITHM)
    servers = make_servers()

    def program(server):
        blocks = [receive_rows(candidates, server.index, messages[server.index], ALGORITHM)]
        words, margins = label_words(blocks), start_margins(server, 1200, settings)
        trees = []
        for tree in range(rounds):
            shares, margins, _ = yield from boost(
                server, candidates, blocks, words, margins, settings, sampling or Sampling(), tree, 0
            )
            trees.append(shares)
        return trees, margins

    return candidates, codes, run_three([program(s) for s in servers])


@pytest.mark.parametrize("kind", ["logistic", "squared", "half of the rows", "gamma"])
def test_opened_trees_reproduce_the_shared_margins_exactly(kind):
    settings = BoostingSettings(
        "reg:squarederror" if kind == "squared" else "binary:logistic",
        rounds=3,
        max_depth=4,
        base_margin=0.0 if kind == "squared" else 0.7,
        gamma=8.0 if kind == "gamma" else 0.0,
    )
    scale = LabelScale.of_range(0, 15, 7)
    labels = (lambda codes: scale.words(codes[:, 0].astype(float))) if kind == "squared" else None
    half = np.arange(1200) % 2 == 0
    sampling = Sampling(rows=lambda tree: half) if kind == "half of the rows" else None
    candidates, codes, results = boosted(settings, labels, 3, sampling)
    shared = reveal(RING32, [margins for _, margins in results]).view(np.int32)
    expected = np.full(1200, round(settings.base_margin * 2**26))
    for number in range(3):
        tree = open_tree(candidates, 4, {i: release(results[i][0][number]) for i in range(3)})
        values = leaf_of_codes(candidates, tree, codes) * 2**26
        assert np.array_equal(values, np.round(values))
        assert not (values % 2**12).any()
        expected += values.astype(np.int64)
    assert np.array_equal(shared, expected)


@pytest.fixture(scope="module")
def messages():
    candidates, _, results = boosted(BoostingSettings("binary:logistic", rounds=1, max_depth=4), None, 1)
    return candidates, {i: release(results[i][0][0]) for i in range(3)}


def test_two_servers_are_not_enough(messages):
    candidates, parts = messages
    with pytest.raises(ProtocolError, match="all three"):
        open_tree(candidates, 4, {0: parts[0], 1: parts[1]})


def test_a_differing_copy_is_blamed_on_its_two_senders(messages):
    candidates, parts = messages
    leaves = parts[1].leaves.copy()
    leaves[1, 3] += np.uint32(4096)
    with pytest.raises(ProtocolError, match=r"servers 1 and 2 .* leaves"):
        open_tree(candidates, 4, {**parts, 1: dataclasses.replace(parts[1], leaves=leaves)})
    splits = [level.copy() for level in parts[2].splits]
    splits[2][0, 1, 0] ^= np.uint64(2)
    with pytest.raises(ProtocolError, match=r"servers 1 and 2 .* level 2"):
        open_tree(candidates, 4, {**parts, 2: dataclasses.replace(parts[2], splits=tuple(splits))})


def test_a_wrong_size_is_blamed(messages):
    candidates, parts = messages
    with pytest.raises(ProtocolError, match="server 0: leaves"):
        open_tree(candidates, 4, {**parts, 0: dataclasses.replace(parts[0], leaves=parts[0].leaves[:, :3])})
    with pytest.raises(ProtocolError, match="server 2: splits of level 3"):
        open_tree(candidates, 4, {**parts, 2: TreeMessage(parts[2].splits[:3], parts[2].leaves)})


def test_a_node_without_a_choice_is_refused(messages):
    candidates, parts = messages
    broken = {}
    for i, message in parts.items():
        splits = [level.copy() for level in message.splits]
        if i in (0, 2):
            splits[0][0 if i == 0 else 1, 0, 0] ^= np.uint64(1)
        broken[i] = TreeMessage(tuple(splits), message.leaves)
    with pytest.raises(ProtocolError, match="exactly one split"):
        open_tree(candidates, 4, broken)


def test_pass_through_nodes_collapse(messages):
    """Root splits; its left child does not, but that child's right child does; values by path."""
    candidates, _ = messages
    count = len(candidates.all) + 1
    choices = [[3], [0, 5], [0, 0, 7, 0]]
    splits = []
    for level in choices:
        bits = np.zeros((len(level), -(-count // 64)), np.uint64)
        for node, choice in enumerate(level):
            bits[node, choice // 64] |= np.uint64(1 << (choice % 64))
        splits.append(bits)
    leaves = (np.arange(8) * 2**26).astype(np.uint32)
    zero = [np.zeros_like(s) for s in splits]
    parts = {
        0: TreeMessage(tuple(np.stack([s, z]) for s, z in zip(splits, zero, strict=True)), np.stack([leaves,
        leaves * 0])), 1: TreeMessage(tuple(np.stack([z, z]) for z in zero), np.zeros((2, 8), np.uint32)),
        2: TreeMessage(tuple(np.stack([z, s]) for s, z in zip(splits, zero, strict=True)), np.stack([leaves *
        0, leaves])),
    }  # fmt: skip
    tree = open_tree(candidates, 3, parts)
    assert isinstance(tree, PlainTree)
    # Node 0's left child (level 1, node 0) passes through to level 2, node 2, which splits into 2 and 6.
    assert [None if c is None else candidates.all.index(c) + 1 for c in tree.candidates] == [
        3, 7, 5, None, None, None, None,
    ]  # fmt: skip
    assert tree.left.tolist() == [1, 3, 5, LEAF, LEAF, LEAF, LEAF]
    # Level 1, node 1 splits into nodes 1 and 3 of level 2, which pass on to leaves 5 and 7.
    assert tree.values.tolist() == [0, 0, 0, 2, 6, 5, 7]


@pytest.mark.parametrize("cover_bits", [None, 0, 6])
def test_covers_and_gains_only_where_the_plan_says_so(cover_bits):
    settings = BoostingSettings("binary:logistic", rounds=2, max_depth=4, cover_bits=cover_bits)
    candidates, codes, results = boosted(settings, None, 2)
    labels = make_table(1200, 4, 15, seed=1)[2]
    margins = np.zeros(1200)
    for number in range(2):
        messages = {i: release(results[i][0][number]) for i in range(3)}
        statistics = Statistics(cover_bits or 0, settings.eta, settings.reg_lambda)
        if cover_bits is None:
            assert all(message.covers is None for message in messages.values())
            tree = open_tree(candidates, 4, messages)
            assert tree.covers is None
            assert tree.gains is None
            with pytest.raises(ProtocolError, match="statistics"):
                open_tree(candidates, 4, messages, statistics)
            continue
        with pytest.raises(ProtocolError, match="statistics"):
            open_tree(candidates, 4, messages)
        short = dataclasses.replace(messages[1], covers=messages[1].covers[:, 1:])
        with pytest.raises(ProtocolError, match="server 1: covers"):
            open_tree(candidates, 4, {**messages, 1: short}, statistics)
        tree = open_tree(candidates, 4, messages, statistics)
        covers, gains = naive.statistics(candidates, codes, labels, margins, tree, settings)
        # A node's cover is rounded leaf by leaf.
        assert np.abs(tree.covers - covers).max() <= 16 * 2.0**-cover_bits
        assert np.abs(tree.gains - gains).max() <= (0.02 if cover_bits == 6 else 0.1) * gains.max()
        assert (tree.gains[[c is None for c in tree.candidates]] == 0).all()
        margins += leaf_of_codes(candidates, tree, codes)
