"""Scores and tournament against exact arithmetic."""

from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hansa.mpc.replicated import Address
from hansa.mpc.ring import BYTES, RING64
from hansa.oblivious import split_finding
from hansa.oblivious.split_finding import (
    RATIO_BITS,
    SCORE_BITS,
    find_splits,
    group_sizes,
    score,
    scoring,
    tournament,
)
from hansa.oblivious.training import BoostingSettings, growth_of
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


def test_every_example_of_the_score_runs():
    failed, tried = doctest.testmod(split_finding)
    assert failed == 0
    assert tried >= 20


@given(*[st.fractions(-50, 50, max_denominator=20)] * 2, *[st.fractions(0, 50, max_denominator=20)] * 3)
@settings(max_examples=100, deadline=None)
def test_the_gain_is_that_of_the_head(g_left, g_right, h_left, h_right, lam):
    u, v, g, h = h_left + lam, h_right + lam, g_left + g_right, h_left + h_right
    if u == 0 or v == 0:
        return
    rho = u / (u + v)
    e, q = g_left - g * rho, rho * (1 - rho)
    gain = g_left**2 / u + g_right**2 / v - g**2 / (h + lam)
    assert gain == e**2 / ((u + v) * q) - g**2 * lam / ((h + lam) * (u + v))
    assert abs(e) <= max(abs(g_left), abs(g_right)) * 2 * max(rho, 1 - rho)
    assert abs(e) <= abs(g_left) + abs(g_right)


@given(st.integers(1, 22), st.floats(0, 2**20), st.floats(0, 2**26), st.floats(1, 2**20))
@settings(max_examples=300, deadline=None)
def test_scaled_gamma_and_the_scaled_sum_of_hessians_are_within_2_30(f, lam, gamma, floor):
    floor = min(floor, 2.0 ** (30 - f))
    lam = min(lam, 2.0 ** (29 - f))
    found = scoring(f, lam, gamma, 1, floor)
    largest_k = 2 ** (30 - found.least_scale_bit)
    assert largest_k * floor * 2**f < 2**31
    assert found.gamma * largest_k <= 2**30
    wanted = max(gamma, 2.0 ** max(-34, 4 - 2 * f))
    rounded = found.gamma / 2.0 ** (f + found.gamma_bits)
    assert abs(rounded - wanted) <= wanted * 2.0**-found.least_scale_bit
    for scale in (floor, 2 * floor, 2.0 ** (31 - f) - 1):
        k = 2.0 ** (30 - np.floor(np.log2(scale * 2**f)))
        assert (scale - floor + 2 * lam) * 2**f * k < 2.0 ** (30 + found.ratio_shift)


def extreme_nodes(rng, nodes, candidates, floor, least):
    """Sums of nodes and of children left of candidates, whole numbers, such as rows with h <= |g| can have.

    All gradients of a side may have one sign, a side may be just valid or hold nearly everything, and S may be just its floor, or just
    below or at a power of two.
    """
    absolute = np.exp(rng.uniform(np.log(2 * least + 1), np.log(2.0**30 - floor - 2), nodes)).astype(np.int64)
    edges = 2 ** np.floor(np.log2(absolute + floor)).astype(np.int64) - floor
    absolute = np.where(rng.random(nodes) < 0.4, np.maximum(edges - rng.integers(0, 2, nodes), 2 * least + 1), absolute)
    absolute[:2] = 2 * least + 1
    share = np.clip(rng.choice([0, 0.001, 0.3, 0.5, 0.999, 1], (nodes, candidates)), 0, 1)
    left = np.clip((share * absolute[:, None]).astype(np.int64), least, absolute[:, None] - least)
    right = absolute[:, None] - left
    dense = rng.choice([0.0, 0.01, 0.5, 1], (nodes, candidates))
    h_left = least + (dense * (left - least)).astype(np.int64)
    # Of a node's candidates all have the same totals: the first one's.
    g_left = (left * rng.choice([-1.0, 1.0, 0.3], (nodes, candidates))).astype(np.int64)
    g = g_left[:, 0] + rng.choice([-1, 1], nodes) * right[:, 0]
    h = h_left[:, 0] + least + (rng.choice([0.0, 0.01, 1], nodes) * (right[:, 0] - least)).astype(np.int64)
    # |g_left| + |g - g_left| is at most the sum of |g|, and both children are valid.
    high, low = np.floor((g + absolute) / 2), np.ceil((g - absolute) / 2)
    g_left = np.clip(g_left, low[:, None], high[:, None]).astype(np.int64)
    h_left = np.clip(h_left, least, (h - least)[:, None])
    assert (np.abs(g_left) + np.abs(g[:, None] - g_left) <= absolute[:, None]).all()
    assert (h <= absolute).all()
    return np.stack([g_left, h_left]), np.stack([g, h]), absolute + floor


@pytest.mark.parametrize(
    ("rows", "lam", "gamma", "least", "none"),
    [(4000, 1, 0, 1, 0), (4000, 0, 0, 0, 0), (300, 1000, 30, 0.1, 0.25), (10**6, 3, 500, 5, 0.25)],
)
def test_scores_stay_within_their_bits_and_lose_no_more_than_is_said(rows, lam, gamma, least, none):
    """The bounds of the module's head, at the extremes of what rows can have, with A and f as training has them.

    `none`: which part of 2^38 the greatest numerator of "no split" exceeds.
    """
    own = BoostingSettings("binary:logistic", 1, reg_lambda=lam, gamma=gamma, min_child_weight=least)
    growth = growth_of(own, None, rows)
    constants, floor = growth.scoring, growth.scale_floor
    rng = np.random.default_rng(rows)
    left, totals, scale = extreme_nodes(rng, 120, 8, floor, constants.least_hessian)
    servers = make_servers()
    shared = [share(RING64, x, n) for n, x in enumerate((left, totals, scale))]
    out = run_three([score(s, *(x[s.index] for x in shared), constants, PLACE) for s in servers])
    numerators, ratios = (reveal(RING64, [o[place] for o in out]).view(np.int64) for place in range(2))
    assert numerators.min() >= 0
    assert numerators.max() <= 2**SCORE_BITS
    assert numerators[:, 0].max() > none * 2**SCORE_BITS
    assert numerators[:, 1:].max() > 0.4 * 2**SCORE_BITS
    assert ratios.min() >= 1
    assert ratios.max() <= 2 ** (RATIO_BITS - 2) + 2
    for node in range(len(scale)):
        k = 2 ** (30 - (int(scale[node]).bit_length() - 1))
        g, upper = int(totals[0, node]), int(totals[1, node]) + 2 * constants.reg_lambda
        for place in range(left.shape[2]):
            rho = Fraction(int(left[1, node, place]) + constants.reg_lambda, upper)
            e_k = abs(float((int(left[0, node, place]) - g * rho) * k))
            q = float(rho * (1 - rho))
            n = int(numerators[node, 1 + place])
            assert abs(int(ratios[node, 1 + place]) / 2**26 - q) <= 4 / 2**26
            off = 2.0**-26.5 * float(rho) * abs(g) * k + 3
            assert e_k < 2**31
            assert np.sqrt(max(0, n - 1) * 2.0**24) - off <= e_k <= np.sqrt((n + 1) * 2.0**24) + off
