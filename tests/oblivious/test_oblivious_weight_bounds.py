"""Bounded weights on shares against exact arithmetic: what is kept of a gradient, and the range of every term."""

from __future__ import annotations

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_oblivious_split_finding import extreme_nodes

from hansa.mpc.comparison import signs
from hansa.mpc.replicated import Address
from hansa.mpc.ring import RING64
from hansa.oblivious import weight_bounds
from hansa.oblivious.split_finding import score
from hansa.oblivious.training import BoostingSettings, growth_of
from hansa.oblivious.weight_bounds import MOST_STEP, STEP_BITS, BoundedSums
from lockstep import run_three
from three_servers import make_servers, reveal, share

PLACE = Address(0, 0, 0, "test")

BOUNDS = [(0.0, 1.0), (0.0, 0.05), (0.0, float(MOST_STEP)), (2.0, 0.0), (300.0, 0.0), (2.0, 0.5)]


def test_every_example_runs():
    failed, tried = doctest.testmod(weight_bounds)
    assert failed == 0
    assert tried >= 10


def exact_sides(g, u, alpha, step):
    """(Y, Z) of whole numbers, as fractions. step: a fraction, 0 for none."""
    y = max(abs(g) - alpha, 0) * (1 if g > 0 else -1)
    if step:
        y = max(-step * u, min(step * u, Fraction(y)))
    return Fraction(y), Fraction(2 * g - y if step else y)


@given(
    *[st.integers(-60, 60)] * 2, *[st.integers(0, 60)] * 3, st.integers(0, 20), st.fractions(0, 3, max_denominator=8)
)
@settings(max_examples=300, deadline=None)
def test_the_numerator_is_the_gain_and_within_its_bounds(g_left, g_right, h_left, h_right, lam, alpha, step):
    u, v, own = h_left + lam, h_right + lam, h_left + h_right + lam
    if not u or not v:
        return
    g, rho, upper = g_left + g_right, Fraction(u, u + v), u + v
    most = abs(g_left) + abs(g_right)
    (y_l, z_l), (y_r, z_r), (y_n, z_n) = (
        exact_sides(*pair, alpha, step) for pair in ((g_left, u), (g_right, v), (g, own))
    )
    y, z, q = y_l + y_r, z_l + z_r, rho * (1 - rho)
    s = 2 * g - y - y_n if step else y + y_n
    e_y, e_z = y_l - rho * y, z_l - rho * z
    n = e_y * e_z + q * (y - y_n) * s
    gain = y_l * z_l / u + y_r * z_r / v - y_n * z_n / own
    none = y_n * z_n * Fraction(lam, own)
    assert n / (q * upper) - none / upper == gain
    assert y * z - y_n * z_n == (y - y_n) * s
    assert max(abs(e_y), abs(y - y_n), abs(e_z) / 2, abs(s) / 2, abs(z_n) / 2) <= most
    assert -q * y_n * z_n <= n <= most**2
    assert 0 <= y_n * z_n <= g * g


@pytest.mark.parametrize(("alpha", "step"), BOUNDS)
def test_what_is_kept_is_exact(alpha, step):
    rng = np.random.default_rng(3)
    size = np.int64(2**30)
    g = np.concatenate([rng.integers(-size, size, 60), [0, 1, -1, size, -size]]).reshape(1, -1)
    u = np.concatenate([rng.integers(0, 2**31, 40), rng.integers(0, 2**12, 23), [0, 2**31 - 1]]).reshape(1, -1)
    own_alpha, own_step = int(alpha * 2**13), round(step * 2**STEP_BITS)
    shared_g, shared_u = share(RING64, g, 1), share(RING64, u, 2)

    def program(server):
        left = shared_g[server.index], shared_u[server.index]
        node = left[0][:, :, 0], left[1][:, :, 0]
        sums = BoundedSums.of(server, left, node, node[1] + left[1][:, :, 1], own_alpha, own_step)
        parts = np.stack(sums.parts())
        flat = yield from signs(server, RING64, parts.reshape(-1), PLACE.named("signs"))
        beyond = list(flat.reshape(2, *parts.shape).swapaxes(0, 1))
        return (yield from sums.kept(server, beyond, PLACE.named("kept")))

    found = reveal(RING64, run_three([program(s) for s in make_servers()])).view(np.int64)[0, : g.size]
    bound = Fraction(own_step, 2**STEP_BITS)
    wanted = [exact_sides(int(a), int(b), own_alpha, bound)[0] for a, b in zip(g[0], u[0], strict=True)]
    assert [Fraction(int(n), 2**STEP_BITS) for n in found] == wanted


@pytest.mark.parametrize(("alpha", "step"), BOUNDS)
@pytest.mark.parametrize(("rows", "lam", "gamma", "least"), [(4000, 1, 0, 1), (300, 1000, 30, 0.1), (10**6, 3, 500, 5)])
def test_scores_stay_within_their_bits_at_the_extremes(rows, lam, gamma, least, alpha, step):
    own = BoostingSettings(
        "binary:logistic", 1, reg_lambda=lam, gamma=gamma, min_child_weight=least, reg_alpha=alpha, max_delta_step=step
    )
    growth = growth_of(own, None, rows)
    constants = growth.scoring
    left, totals, scale = extreme_nodes(np.random.default_rng(rows), 60, 6, growth.scale_floor, constants.least_hessian)
    shared = [share(RING64, x, n) for n, x in enumerate((left, totals, scale))]
    out = run_three([score(s, *(x[s.index] for x in shared), constants, PLACE) for s in make_servers()])
    numerators, ratios = (reveal(RING64, [o[place] for o in out]).view(np.int64) for place in range(2))
    assert numerators.max() <= 2**37
    assert numerators.min() >= -(2**35) - 2
    assert ratios.min() >= 1
    lam_units, step_units = constants.reg_lambda, Fraction(constants.step, 2**STEP_BITS)
    for node in range(len(scale)):
        k = 2 ** (30 - (int(scale[node]).bit_length() - 1))
        g, h = int(totals[0, node]), int(totals[1, node])
        y_n, z_n = exact_sides(g, h + lam_units, constants.alpha, step_units)
        for place in range(left.shape[2]):
            g_left, h_left = int(left[0, node, place]), int(left[1, node, place])
            u, v = h_left + lam_units, h - h_left + lam_units
            rho = Fraction(u, u + v)
            (y_l, z_l), (y_r, z_r) = (
                exact_sides(*pair, constants.alpha, step_units) for pair in ((g_left, u), (g - g_left, v))
            )
            n = (1 - rho) * y_l * z_l + rho * y_r * z_r - rho * (1 - rho) * y_n * z_n
            # rho is 2^-26.5 off, in relation to itself.
            assert abs(int(numerators[node, 1 + place]) - float(n * k * k) * 2.0**-25) <= 2.0**13
