"""The logistic series: its fit, its integer trigonometry, its noise, and the range check."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.mpc import fourier
from hansa.mpc.ring import BITS, RING32, unpack_bits
from lockstep import LockstepRecord, run_three
from naive_mpc import sigmoid
from three_servers import reveal, share

K = 2 * np.arange(fourier.TERMS) + 1


def test_sine_table_is_the_sine():
    angles = 2 * np.pi * np.arange(4097) / 4096
    assert np.abs(fourier.sine_table() - 2**28 * np.sin(angles)).max() < 0.6


def test_fit():
    x = np.linspace(-16, 16, 4001)
    waves = 2 * np.pi * np.outer(x, K) / 64
    p, h = sigmoid(x), sigmoid(x) * sigmoid(-x)
    p_error = np.abs(np.sin(waves) @ (np.array(fourier.SINES) / 2.0**40) + 0.5 - p)
    h_error = np.abs(np.cos(waves) @ (np.array(fourier.COSINES) / 2.0**40) - h)
    assert p_error.max() < 7e-7
    assert h_error.max() < 3e-6
    assert p_error[np.abs(x) > 6].max() < 7e-8
    assert h_error[np.abs(x) > 6].max() < 4e-7


@pytest.mark.parametrize("weight", [(1, 0), (3 * 256 + 100, 8), (64, 8)])
def test_logistic_of_shares(weight, servers, place):
    rows = 20000
    x = np.random.default_rng(1).uniform(-16, 16, rows)
    x[:3] = [-15.99, 15.99, 0]
    shares = share(RING32, np.round(x * 2**26).astype(np.int64))
    record = LockstepRecord()
    out = run_three([fourier.logistic(s, shares[s.index], 20, place, *weight) for s in servers], record)
    p, factor = sigmoid(x), weight[0] / 2 ** weight[1]
    expected = [p, p * (1 - p), factor * p, factor * p * (1 - p)]

    for number in range(2 if weight == (1, 0) else 4):
        found = reveal(RING32, [o[0][number] for o in out]).view(np.int32) / 2.0**20
        error = found - expected[number]
        grain = max(1, factor) if number > 1 else 1
        assert error.std() < 3e-5 * 2 * grain
        assert np.abs(error).max() < 1.5e-4 * 2 * grain
        # Rounding a coefficient before its sine is multiplied to it once left a bias of 1.5e-5.
        assert abs(error.mean()) < 1e-6 * 2 * grain
    assert record.rounds == 3


def test_no_bias_at_a_single_margin(servers, place):
    x = np.full(60000, 4.123)
    shares = share(RING32, np.round(x * 2**26).astype(np.int64))
    out = run_three([fourier.logistic(s, shares[s.index], 20, place) for s in servers])
    p = sigmoid(4.123)
    for number, expected in enumerate((p, p * (1 - p))):
        found = reveal(RING32, [o[0][number] for o in out]).view(np.int32) / 2.0**20
        assert abs(found.mean() - expected) < 1.2e-6


def test_rows_out_of_range_are_flagged(servers, place):
    x = np.array([0, 15.9999, -15.9999, 16.0001, -16.0001, 20, -31, 3.0] * 20)
    shares = share(RING32, np.round(x * 2**26).astype(np.int64))
    out = run_three([fourier.logistic(s, shares[s.index], 20, place, check_range=True) for s in servers])
    flags = unpack_bits(reveal(BITS, [o[1] for o in out]), len(x))
    assert np.array_equal(flags, np.abs(x) > 16)
