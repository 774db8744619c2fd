"""A server's threads change nothing: what it sends, and what it ends with, are the same to the bit for any number of them."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

import numpy as np
import pytest

from hansa.mpc import panels
from hansa.mpc.comparison import sign_part
from hansa.mpc.fourier import exponential_part, logistic, softplus_part
from hansa.mpc.replicated import Address, together, zero_share
from hansa.mpc.ring import RING32, RING64
from hansa.mpc.threads import ALONE
from hansa.oblivious.candidates import Candidates, Feature
from hansa.oblivious.shared_rows import label_words, receive_rows, share_rows
from hansa.oblivious.training import BoostingSettings, Sampling, boost, start_margins
from hansa.roles.shared.server_threads import PoolThreads, threads_of
from hansa.trees.worker_pool import WorkerPool
from lockstep import LockstepRecord, run_three
from three_servers import ALGORITHM, make_servers, share

COUNTS = [2, 3, 5]


@pytest.fixture(autouse=True)
def _share_out_all(monkeypatch):
    """Small arrays are split too."""
    for module in (
        "mpc.threads",
        "mpc.panels",
        "mpc.replicated",
        "mpc.comparison",
        "oblivious.shared_rows",
        "oblivious.routing",
    ):
        for name in ("LEAST_ROWS", "LEAST_PRODUCTS", "LEAST_BYTES"):
            monkeypatch.setattr(f"hansa.{module}.{name}", 0, raising=False)
    monkeypatch.setattr("hansa.oblivious.routing.THREADS_ROWS", 96)


SECRETS = {pair: os.urandom(32) for pair in ((0, 1), (1, 2), (0, 2))}


def servers_of(count):
    """Three servers under the same keys, with so many threads each."""
    pool = threads_of(WorkerPool(count))
    return [replace(server, threads=pool) for server in make_servers(SECRETS)]


def ran(count, make):
    """What three programs give, and everything that each server received."""
    record = LockstepRecord()
    results = run_three([make(server) for server in servers_of(count)], record, keep_views=True)
    return results, record.views


def same(one, other):
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_one_thread_is_none_but_the_servers_own():
    assert threads_of(WorkerPool(1)) is ALONE
    assert isinstance(threads_of(WorkerPool(2)), PoolThreads)


def test_work_is_done_once_by_several_threads_at_a_time():
    pool, done, both = threads_of(WorkerPool(2)), np.zeros(100, int), threading.Barrier(2, timeout=60)

    def work(first, last):
        both.wait()  # each waits for the other
        done[first:last] += 1

    pool.share(work, 100)
    assert (done == 1).all()
    with pytest.raises(ValueError, match="of a thread"):
        pool.share(lambda first, _: (_ for _ in ()).throw(ValueError("of a thread")) if first else None, 10)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("shape", [(50, 1, 1), (37, 70, 5), (2100, 130, 13)])
def test_products_are_those_of_one_thread(count, shape):
    rng = np.random.default_rng(0)
    rows, columns, vectors = shape
    c, v = (rng.integers(0, 2**32, size, np.uint32) for size in ((rows, columns), (vectors, rows)))
    out = rng.integers(0, 2**32, (vectors, panels.panel_columns(columns)), np.uint32)
    alone = out.copy()
    panels.add_gemm(panels.to_panels(c), v, alone)
    panels.add_gemm(panels.to_panels(c), v, out, threads_of(WorkerPool(count)))
    assert np.array_equal(out, alone)


def test_zero_shares_are_drawn_by_two_threads_under_one_name():
    shape, place = (3, 50), Address(0, 0, 0, "zero")
    found = [[zero_share(server, RING64, shape, place, "test") for server in servers_of(count)] for count in (1, 2)]
    assert same(*found)
    assert not np.add.reduce(found[0]).any()


@pytest.mark.parametrize("count", COUNTS)
def test_functions_of_shares_are_those_of_one_thread(count):
    rng = np.random.default_rng(3)
    x = share(RING32, rng.integers(-(2**29), 2**29, 300).astype(np.uint32))
    wide = share(RING64, rng.integers(-(2**40), 2**40, 300).astype(np.uint64))

    def make(server):
        place = Address(0, 0, 0, "all")
        return together(
            logistic(server, x[server.index], 20, place.named("logistic"), check_range=True),
            exponential_part(server, x[server.index][0], place.named("exponential")),
            softplus_part(server, x[server.index][0], place.named("softplus"), check_range=True),
            sign_part(server, RING64, wide[server.index][0], place.named("sign")),
        )

    def plain(results):
        return [[p, list(of), q[0], r[0], s] for (of, p), q, r, s in results]

    (alone, seen), (found, seen_too) = ran(1, make), ran(count, make)
    assert same(plain(alone), plain(found))
    assert same(seen, seen_too)


@pytest.mark.parametrize("assisted", [False, True])
@pytest.mark.parametrize("count", COUNTS)
def test_a_tree_is_that_of_one_thread(count, assisted):
    """To the bit: all that passes between the servers, and the margins of all rows; with columns that are drawn anew too."""
    rng = np.random.default_rng(5)
    candidates = Candidates((Feature(7), Feature(3), Feature(12)))
    codes = np.stack([rng.integers(0, n + 1, 400) for n in (7, 3, 12)], axis=1).astype(np.uint16)
    labels = (codes[:, 0] + rng.integers(0, 4, 400) > 5).astype(np.uint32)
    settings = BoostingSettings("binary:logistic", rounds=2, max_depth=3)
    owner = 1 if assisted else None
    messages = share_rows(candidates, codes, labels, ALGORITHM, owner)

    def make(server):
        own = codes if server.index == owner else None
        block = receive_rows(candidates, server.index, messages[server.index], ALGORITHM, own, regenerate=True)
        words = label_words([block])
        margins = start_margins(server, 400, settings)
        for tree in range(2):
            found = yield from boost(server, candidates, [block], words, margins, settings, Sampling(), tree, 0)
            margins = found[1]
        return margins

    (alone, seen), (found, seen_too) = ran(1, make), ran(count, make)
    assert same(alone, found)
    assert same(seen, seen_too)
    assert len(seen[0]) > 100
