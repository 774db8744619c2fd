"""Three servers in one process, and shares of known values. Numpy's generator is for test data only."""

from __future__ import annotations

import os

import numpy as np
import pytest

from hansa.mpc.replicated import Address, PairStreams, Server, reshare
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.evaluation import metric_share, open_metric
from hansa.oblivious.release import open_tree, release
from hansa.oblivious.shared_rows import receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, train
from hansa.secure.keys import PairKey
from hansa.secure.prg import Algorithm
from lockstep import LockstepRecord, run_three

ALGORITHM = Algorithm.AES_256_CTR


def make_servers(secrets=None):
    """S_0, S_1, S_2 with fresh pair keys, or with given ones."""
    secrets = secrets or {pair: os.urandom(32) for pair in ((0, 1), (1, 2), (0, 2))}

    def keys(i):
        return {j: PairKey(secrets[min(i, j), max(i, j)], f"s{i}", f"s{j}") for j in {0, 1, 2} - {i}}

    return [Server(i, PairStreams(i, keys(i), ALGORITHM)) for i in range(3)]


@pytest.fixture
def servers():
    return make_servers()


@pytest.fixture
def place():
    return Address(0, 0, 0, "test")


def share(ring, values, seed=0):
    """Replicated shares of values, one pair a server."""
    rng = np.random.default_rng(seed)
    values = np.asarray(values).astype(ring.dtype)
    top = np.iinfo(ring.dtype).max
    parts = [ring.reduce(rng.integers(0, top, values.shape, dtype=ring.dtype, endpoint=True)) for _ in range(2)]
    parts.append(ring.subtract(ring.subtract(ring.reduce(values), parts[0]), parts[1]))
    return [np.stack([parts[i], parts[(i + 1) % 3]]) for i in range(3)]


def reveal(ring, shares):
    """The value behind three servers' pairs, whose copies must agree."""
    for i in range(3):
        assert np.array_equal(shares[i][1], shares[(i + 1) % 3][0])
    return ring.add(ring.add(shares[0][0], shares[1][0]), shares[2][0])


def train_openly(
    candidates, codes, labels, settings, owners=(None,), sampling=None, record=None, keep_views=False, weights=None
):
    """Share rows, train in lockstep, open the trees. `owners`: for equal slices of the rows, who assists.

    `weights`: words (2, rows) of `weight_words`, where rows have weights. For several outputs labels are (outputs, rows), weights
    (outputs, 2, rows), settings a list, and the trees of a round follow each other.
    """
    settings = [settings] if isinstance(settings, BoostingSettings) else settings
    servers = make_servers()
    edges = np.linspace(0, len(codes), len(owners) + 1).astype(int)
    blocks = [[], [], []]
    for owner, start, stop in zip(owners, edges[:-1], edges[1:], strict=True):
        own = codes[start:stop]
        words = None if weights is None else np.ascontiguousarray(weights[..., start:stop])
        messages = share_rows(candidates, own, labels[..., start:stop].astype(np.uint32), ALGORITHM, owner, words)
        for i, message in enumerate(messages):
            blocks[i].append(receive_rows(candidates, i, message, ALGORITHM, own if owner == i else None))
    record = record or LockstepRecord()
    programs = [train(servers[i], candidates, blocks[i], settings, sampling=sampling) for i in range(3)]
    models = run_three(programs, record, keep_views)
    return [
        open_tree(candidates, settings[0].max_depth, {i: release(models[i].trees[t]) for i in range(3)})
        for t in range(models[0].good * len(settings))
    ]


def make_table(rows, features, cuts, seed, share_of_ones=0.5, noise=1.0):
    """Codes and labels with a few effects; `share_of_ones` of the labels are 1."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, cuts + 1, (rows, features)).astype(np.uint16)
    c = codes / cuts
    score = 2 * c[:, 0] + (c[:, 1] > 0.6) - (codes[:, 2] % 3 == 0) * c[:, 0] + noise * rng.normal(size=rows)
    labels = (score >= np.quantile(score, 1 - share_of_ones)).astype(np.uint32)
    return Candidates(tuple(Feature(cuts) for _ in range(features))), codes, labels


def refresh(server, ring, x, address):
    """The same value under fresh shares. One round."""
    return (yield from reshare(server, ring, x[0], address))


def metric_program(server, name, settings, margins, labels, weights, address, counts=None):
    """The metric, opened to the three servers and nothing else; arguments as `evaluation.metric_share`."""
    shared = yield from metric_share(server, name, settings, margins, labels, weights, address, counts)
    return (yield from open_metric(server, name, shared, address))
