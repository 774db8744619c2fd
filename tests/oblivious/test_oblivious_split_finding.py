"""Scores and tournament against exact arithmetic."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.mpc.replicated import Address
from hansa.mpc.ring import BYTES, RING64
from hansa.oblivious.split_finding import RATIO_BITS, find_splits, group_sizes, score, scoring, tournament
from lockstep import LockstepRecord, run_three
from three_servers import make_servers, reveal, share

PLACE = Address(0, 0, 0, "test")


@given(
    st.integers(1, 3),
    st.lists(st.tuples(st.integers(0, 2**38), st.integers(1, 2**24 + 2)), min_size=1, max_size=70),
    st.randoms(use_true_random=False),
)
@settings(max_examples=25, deadline=None)
def test_tournament_is_the_first_argmax(nodes, items, random):
    rows = [random.sample(items, len(items)) for _ in range(nodes)]
    numerators = np.array([[a for a, _ in row] for row in rows], np.uint64)
    ratios = np.array([[b for _, b in row] for row in rows], np.uint64)
    servers = make_servers()
    n, q = share(RING64, numerators, 1), share(RING64, ratios, 2)
    bits = run_three([tournament(s, n[s.index], q[s.index], PLACE) for s in servers])
    one_hots = reveal(BYTES, bits)
    assert (one_hots.sum(axis=1) == 1).all()
    for row, found in zip(rows, one_hots.argmax(axis=1), strict=True):
        values = [Fraction(a, b) for a, b in row]
        assert found == values.index(max(values))


def test_group_sizes_leave_one_winner_in_as_few_rounds_as_can_be():
    for items in range(1, 1200):
        left = items
        for size in group_sizes(items):
            assert 2 <= size <= 10
            left = -(-left // size)
        assert left == 1
        rounds = len(group_sizes(items))
        assert rounds == sum(items > most for most in (1, 10, 60, 240, 960))
    assert group_sizes(931) == (4, 4, 6, 10)
    assert group_sizes(311) == (4, 4, 4, 5)


@pytest.mark.parametrize("items", [5, 9, 10, 60])
def test_every_place_of_a_group_can_win(items):
    """Node n has its greatest score at item n, in the middle of items that tie."""
    numerators = np.ones((items, items), np.uint64) + np.eye(items, dtype=np.uint64)
    servers = make_servers()
    n, q = share(RING64, numerators, 1), share(RING64, np.full((items, items), 7, np.uint64), 2)
    bits = run_three([tournament(s, n[s.index], q[s.index], PLACE) for s in servers])
    assert np.array_equal(reveal(BYTES, bits), np.eye(items, dtype=np.uint8))


def make_sums(kind, seed, nodes=5, candidates=40, bits=13):
    """Gradient and hessian sums of random nodes, in integers."""
    rng = np.random.default_rng(seed)
    left, totals, scale = np.zeros((2, nodes, candidates)), np.zeros((2, nodes)), np.zeros(nodes)
    for node, rows in enumerate([20000, 3000, 200, 20, 3][:nodes]):
        p = np.full(rows, 0.02 if kind == "rare" else 0.5)
        y = rng.random(rows) < p
        g, h = np.round((p - y) * 2**bits), np.round(p * (1 - p) * 2**bits)
        goes = rng.random((rows, candidates)) < np.clip(rng.random(candidates) + 0.1 * y[:, None], 0, 1)
        left[:, node], totals[:, node] = [g @ goes, h @ goes], [g.sum(), h.sum()]
        scale[node] = np.abs(g).sum()
    return left, totals, scale


def exact_choice(left, totals, constants, lam, gamma, least, bits):
    """The best gain of each node and that of every candidate, in fractions' stead float64; 0 is none."""
    unit = 2.0**bits
    g_left, h_left = left / unit
    g, h = (totals / unit)[:, :, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = np.nan_to_num(
            g_left**2 / (h_left + lam) + (g - g_left) ** 2 / (h - h_left + lam) - g**2 / (h + lam), nan=0.0
        )
    gain[(h_left < least) | (h - h_left < least)] = -1
    return np.concatenate([np.full((len(gain), 1), max(gamma, 1e-6)), gain], axis=1)


@pytest.mark.parametrize("kind", ["even", "rare"])
@pytest.mark.parametrize(("lam", "gamma", "least"), [(1, 0, 1), (0, 0, 0), (2, 15.0, 1), (0.1, 0.5, 5), (30, 1, 0)])
def test_find_splits(kind, lam, gamma, least):
    servers, bits = make_servers(), 13
    left, totals, scale = make_sums(kind, 7)
    floor = max(1 + 20000 / 65536, gamma / 6, np.sqrt(2 * gamma * lam / 3))
    constants = scoring(bits, lam, gamma, least, floor)
    shared = [
        share(RING64, x.astype(np.int64), n) for n, x in enumerate((left, totals, scale + np.ceil(floor * 2**bits)))
    ]
    record = LockstepRecord()
    out = run_three([find_splits(s, *(x[s.index] for x in shared), constants, PLACE) for s in servers], record)
    one_hots = reveal(BYTES, out)
    assert (one_hots.sum(axis=1) == 1).all()
    gains = exact_choice(left, totals, constants, lam, gamma, max(least, 2.0**-bits), bits)
    chosen = gains[np.arange(len(gains)), one_hots.argmax(axis=1)]
    assert (chosen >= gains.max(axis=1) * (1 - 1e-5)).all()
    assert group_sizes(41) == (5, 9)
    assert record.rounds == 22 + 6 * 2


def test_a_score_near_the_bound_beats_what_is_no_candidate():
    """Nearly all of S on the left, with hardly any hessian: e k comes close to 2^31. Its cross product with a
    ratio of 1 would wrap to a negative number."""
    servers, bits = make_servers(), 13
    g_left, h_left = np.array([-99.9, -1.0, 0.0, 0.0, 0.0]), np.array([0.1, 0.0, 0.0, 2.1, 0.0])
    left = np.round(np.stack([g_left, h_left]) * 2**bits)[:, None]
    totals = np.round(np.array([[-97.9], [2.1]]) * 2**bits)
    scale = np.array([np.round(103.2 * 2**bits)])
    constants = scoring(bits, 0.01, 0, 0.05, 1.03)
    shared = [share(RING64, x.astype(np.int64), n) for n, x in enumerate((left, totals, scale))]
    scores = run_three([score(s, *(x[s.index] for x in shared), constants, PLACE) for s in servers])
    assert reveal(RING64, [s[0] for s in scores])[0, 1] > 2**37
    out = run_three([find_splits(s, *(x[s.index] for x in shared), constants, PLACE.named("again")) for s in servers])
    assert reveal(BYTES, out).argmax(axis=1).tolist() == [1]


def test_scores_are_the_gains():
    """numerator / ratio, unscaled, is the gain's e^2 / q within 2^-26 / q and the numerator's own grain."""
    servers, bits, lam = make_servers(), 13, 1.0
    left, totals, scale = make_sums("even", 3, nodes=2)
    constants = scoring(bits, lam, 0, 1, 1.5)
    scale = scale + np.ceil(1.5 * 2**bits)
    shared = [share(RING64, x.astype(np.int64), n) for n, x in enumerate((left, totals, scale))]
    out = run_three([score(s, *(x[s.index] for x in shared), constants, PLACE) for s in servers])
    numerators, ratios = (reveal(RING64, [o[k] for o in out]).astype(np.float64) for k in range(2))
    u = left[1] + lam * 2**bits
    rho = u / (totals[1] + 2 * lam * 2**bits)[:, None]
    e = left[0] - totals[0][:, None] * rho
    k = 2 ** (30 - np.floor(np.log2(scale)))[:, None]
    q = rho * (1 - rho)
    assert np.abs(ratios[:, 1:] / 2.0**RATIO_BITS - q).max() < 4 * 2.0**-RATIO_BITS
    expected = (e * k / 2.0**31) ** 2
    grain = 2.0**-38 * 2 + np.sqrt(expected) * 2.0**-29
    assert (np.abs(numerators[:, 1:] / 2.0**38 - expected) < grain).all()
    assert np.array_equal(ratios[:, 0], np.full(2, 2.0**RATIO_BITS / 4))
