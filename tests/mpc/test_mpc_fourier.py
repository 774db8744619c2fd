"""The logistic series: its fit, its integer trigonometry, its noise, and the range check."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
from benchmarks import fit_fourier

from hansa.mpc import fourier
from hansa.mpc.replicated import together
from hansa.mpc.ring import BITS, RING32, unpack_bits
from lockstep import LockstepRecord, run_three
from naive_mpc import sigmoid
from three_servers import reveal, share

K = 2 * np.arange(fourier.TERMS) + 1


def test_sine_table_is_the_sine():
    angles = 2 * np.pi * np.arange(4097) / 4096
    assert np.abs(fourier.sine_table() - 2**28 * np.sin(angles)).max() < 0.6


def test_every_example_of_the_series_runs():
    for module in (fourier, fit_fourier):
        failed, tried = doctest.testmod(module)
        assert failed == 0
        assert tried > 2


def test_the_series_err_as_little_as_they_say():
    x = np.linspace(-16, 16, 4001)
    waves = 2 * np.pi * np.outer(x, K) / 64
    p, h = sigmoid(x), sigmoid(x) * sigmoid(-x)
    p_error = np.abs(np.sin(waves) @ (np.array(fourier.SINES) / 2.0**40) + 0.5 - p)
    h_error = np.abs(np.cos(waves) @ (np.array(fourier.COSINES) / 2.0**40) - h)
    loss_error = np.cos(waves) @ (np.array(fourier.LOSS_COSINES) / 2.0**40) + 8 - np.logaddexp(x / 2, -x / 2)
    assert p_error.max() < 5e-7
    assert h_error.max() < 2.5e-6
    assert p_error[np.abs(x) > 6].max() < 7e-8
    assert h_error[np.abs(x) > 6].max() < 4e-7
    assert np.abs(loss_error).max() < 3e-7


def test_the_coefficients_are_those_that_the_fit_gives():
    sines, cosines = fit_fourier.fitted()
    assert np.abs(sines - np.array(fourier.SINES)).max() <= fit_fourier.SINE_TOLERANCE
    off = cosines - np.array(fourier.COSINES)
    assert np.abs(off).max() <= fit_fourier.COSINE_TOLERANCE
    _, waves = fit_fourier.waves(np.linspace(0, 16, 1001))
    assert np.abs(waves @ off / 2.0**40).max() < 1e-9


def test_no_coefficients_have_a_smaller_weighted_error():
    """What no fit avoids is a bound, so it is below what other coefficients do."""
    p, h = fit_fourier.measured()
    assert 0 < p.unavoidable <= p.weighted < 1.002 * p.unavoidable
    assert 0 < h.unavoidable <= h.weighted < (1 + 1e-9) * h.unavoidable
    x = np.linspace(0, 16, 16001)
    wanted, found = fit_fourier.functions(x), fit_fourier.waves(x)
    for columns, function, own in zip(found, wanted, (p, h), strict=False):
        for weights in (np.ones(len(x)), wanted[2]):
            other = np.linalg.lstsq(columns * weights[:, None], function * weights, rcond=None)[0]
            assert (np.abs(columns @ other - function) * wanted[2]).max() > own.unavoidable * (1 - 1e-9)


@pytest.mark.parametrize(
    ("coefficients", "dealt", "total"),
    [(fourier.SINES, fourier.DEALT_BITS, 30), (fourier.LOSS_COSINES, fourier.LOSS_DEALT_BITS, fourier.LOSS_BITS)],
)
def test_fraction_bits_are_split_so_that_both_roundings_err_alike(coefficients, dealt, total):
    def noise(b, d):
        return b * 2.0**-d + 2.0 ** (d - total)

    for coefficient, own in zip(coefficients, dealt, strict=True):
        b = abs(coefficient) / 2**40
        assert noise(b, own) <= 1.6 * min(noise(b, d) for d in range(1, total))


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


# --- e^t --------------------------------------------------------------------------------------------------------------


def test_the_exponential_series_errs_as_little_as_it_says():
    t = np.linspace(-32, 0, 16001)
    columns = fit_fourier.exponential_waves(t)
    error = np.abs(columns @ np.array(fourier.EXPONENTIAL) / 2.0**28 - np.exp(t)).max()
    assert error == pytest.approx(fit_fourier.exponential_error())
    assert error < 3e-8
    # Least squares' solutions that are nearly as good differ, by a processor's own linear algebra too: the fit is held to its error.
    again = np.abs(columns @ fit_fourier.fitted_exponential() / 2.0**28 - np.exp(t)).max()
    assert again < 1.3 * error


def naive_wave(turns):
    """Sine and cosine of parts of 2^32 of a turn, in units of 2^-28, float64."""
    angles = 2 * np.pi * turns.astype(np.float64) / 2**32
    return np.sin(angles) * 2**28, np.cos(angles) * 2**28


@pytest.mark.parametrize("step", [1, 2])
def test_fine_waves_are_sines_and_cosines(step):
    r = np.random.default_rng(2).integers(0, 2**32, 2000, dtype=np.uint32)
    r[:4] = [0, 2**32 - 1, 2**31, 2**19]
    out = np.empty((2000, 2 * fourier.HARMONICS), np.uint64)
    fourier.fine_waves(r, fourier.sine_table(), step, out)
    for m in range(fourier.HARMONICS):
        sine, cosine = naive_wave(r * np.uint32(1 + step * m))
        assert np.abs(out[:, 2 * m].view(np.int64) - cosine).max() < 2.5
        assert np.abs(out[:, 2 * m + 1].view(np.int64) - sine).max() < 2.5


def with_checks(server, part, address, check, function=fourier.exponential_part):
    """The parts of e^t, and the bits of rows outside."""
    found, programs = yield from function(server, part, address, check)
    bits = yield from together(*programs)
    return found, *bits


@pytest.mark.parametrize("check", [False, True])
def test_exponential_of_shares(check, servers, place):
    rows = 20000
    t = np.random.default_rng(1).uniform(-32, 0, rows)
    t[:2] = [-32, -(2.0**-26)]
    shares = share(RING32, np.round(t * 2**26).astype(np.int64))
    record = LockstepRecord()
    out = run_three([with_checks(s, shares[s.index][0], place, check) for s in servers], record)
    total = out[0][0] + out[1][0] + out[2][0]
    error = total.view(np.int64) / 2.0**fourier.EXPONENTIAL_FRACTION - np.exp(np.round(t * 2**26) / 2**26)
    assert error.std() < 2e-7
    assert np.abs(error).max() < 1e-6
    assert abs(error.mean()) < 1e-8
    assert record.rounds == (1 if not check else 4)


def test_exponents_out_of_range_are_flagged(servers, place):
    t = np.array([-1, -(2.0**-20), 2.0**-20, -32, -32 - 2.0**-20, 3.0, -40, -31.5] * 20)
    shares = share(RING32, np.round(t * 2**26).astype(np.int64))
    out = run_three([with_checks(s, shares[s.index][0], place, True) for s in servers])
    flags = unpack_bits(reveal(BITS, [o[1] for o in out]), len(t))
    assert np.array_equal(flags, (t >= 0) | (t < -32))


# --- log(1 + e^x) -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [False, True])
def test_softplus_of_shares(check, servers, place):
    rows = 20000
    x = np.random.default_rng(3).uniform(-16, 16, rows)
    x[:3] = [-16, 16 - 2.0**-26, 0]
    shares = share(RING32, np.round(x * 2**26).astype(np.int64))
    record = LockstepRecord()
    run = [with_checks(s, shares[s.index][0], place, check, fourier.softplus_part) for s in servers]
    out = run_three(run, record)
    total = out[0][0] + out[1][0] + out[2][0]
    error = total.view(np.int64) / 2.0**fourier.EXPONENTIAL_FRACTION - np.logaddexp(0, np.round(x * 2**26) / 2**26)
    assert np.abs(error).max() < 4e-6
    # The series' own error apart, what is left is noise.
    assert abs(error.mean()) < 1e-6
    assert record.rounds == (1 if not check else 4)


def test_softplus_flags_rows_out_of_range(servers, place):
    x = np.array([0, 15.9999, -15.9999, 16.0001, -16.0001, 20, -31, 3.0] * 20)
    shares = share(RING32, np.round(x * 2**26).astype(np.int64))
    out = run_three([with_checks(s, shares[s.index][0], place, True, fourier.softplus_part) for s in servers])
    flags = unpack_bits(reveal(BITS, [o[1] for o in out]), len(x))
    assert np.array_equal(flags, np.abs(x) > 16)
