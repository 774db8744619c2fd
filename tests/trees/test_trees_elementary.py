"""exp, log and sigmoid: accurate, the same bits as the naive twins, and at every place in an array."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

import naive_model as naive
from hansa.trees import elementary


@njit(nogil=True, error_model="numpy")
def exps(x, out):
    for i in range(x.shape[0]):
        out[i] = elementary.exp(x[i])


@njit(nogil=True, error_model="numpy")
def logs(x, out):
    for i in range(x.shape[0]):
        out[i] = elementary.log(x[i])


@njit(nogil=True, error_model="numpy")
def sigmoids(x, out):
    for i in range(x.shape[0]):
        out[i] = elementary.sigmoid(x[i])


# fmt: off
EXTREMES = np.array([
    0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 5e-324, -5e-324, 1e-310, 2.2250738585072014e-308,
    1.7976931348623157e308, 709.782712893384, 709.7827128933841, 709.5, -708.0, -708.0000000000001, -745.2,
    0.34657359027997264, -0.34657359027997264, 1.4142135623730951, 0.7071067811865476, 0.9999999999999999,
])
# fmt: on


def arguments(name: str) -> np.ndarray:
    rng = np.random.default_rng(7)
    if name == "log":
        draws = [
            rng.uniform(0.4, 3, 20_000),
            np.exp(rng.uniform(-700, 700, 20_000)),
            1 + rng.uniform(0, 1e-9, 999),
        ]
    else:
        draws = [rng.uniform(-700, 700, 20_000), rng.uniform(-2, 2, 20_000), rng.normal(size=999) * 1e-9]
    return np.concatenate(draws)


KERNELS = {"exp": exps, "log": logs, "sigmoid": sigmoids}


def compiled(name: str, x: np.ndarray) -> np.ndarray:
    out = np.empty_like(x)
    KERNELS[name](x, out)
    return out


@pytest.mark.parametrize("name", KERNELS)
def test_bits_are_those_of_the_naive_twin(name):
    x = np.concatenate([arguments(name), EXTREMES])
    fast, slow = compiled(name, x), getattr(naive, name)(x)
    np.testing.assert_array_equal(np.isnan(fast), np.isnan(slow))
    number = ~np.isnan(slow)
    np.testing.assert_array_equal(fast[number].view(np.uint64), slow[number].view(np.uint64))


@pytest.mark.parametrize("name", KERNELS)
def test_bits_do_not_depend_on_the_place_in_an_array(name):
    x = arguments(name)[:257]
    whole = compiled(name, x)
    for start in range(20):
        for length in (1, 2, 3, 5, 8, 13, 31):
            part = compiled(name, x[start : start + length])
            assert part.tobytes() == whole[start : start + length].tobytes()
    # One call from Python runs the scalar code.
    scalar = np.array([getattr(elementary, name)(value) for value in x])
    assert scalar.tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", KERNELS)
def test_within_1e_15_of_the_library(name):
    x = arguments(name)
    library = {"exp": np.exp, "log": np.log, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}[name](x)
    np.testing.assert_allclose(compiled(name, x), library, rtol=1e-15, atol=0)


def test_within_ulps_of_the_truth():
    # Oracle: numpy's extended precision, where the platform has it.
    if np.finfo(np.longdouble).nmant < 63:
        pytest.skip("no extended precision on this platform")
    for name, ulps, truth in (
        ("exp", 1.0, np.exp),
        ("log", 2.0, np.log),
        ("sigmoid", 3.0, lambda x: 1 / (1 + np.exp(-x))),
    ):
        x = arguments(name)
        exact = truth(x.astype(np.longdouble))
        error = np.abs(compiled(name, x) - exact) / np.spacing(np.abs(exact).astype(np.float64))
        assert error.max() <= ulps, (name, float(error.max()))


def test_special_arguments():
    np.testing.assert_array_equal(
        compiled("exp", np.array([np.inf, -np.inf, 0.0, -800.0, 800.0])), [np.inf, 0.0, 1.0, 0.0, np.inf]
    )
    np.testing.assert_array_equal(
        compiled("log", np.array([0.0, 1.0, np.inf, 5e-324, -1.0])), [-np.inf, 0.0, np.inf, -np.inf, np.nan]
    )
    np.testing.assert_array_equal(
        compiled("sigmoid", np.array([np.inf, -np.inf, 0.0, -800.0, 800.0])), [1.0, 0.0, 0.5, 0.0, 1.0]
    )
    assert all(np.isnan(compiled(name, np.array([np.nan]))[0]) for name in KERNELS)


@given(st.floats(-700, 700))
def test_log_undoes_exp(x):
    assert elementary.log(elementary.exp(x)) == pytest.approx(x, rel=1e-15, abs=5e-16)


def test_loops_are_vectorised():
    compiled("sigmoid", np.zeros(1))
    code = sigmoids.inspect_llvm(sigmoids.signatures[0])
    products = [line for line in code.splitlines() if " fmul " in line]
    assert any("x double>" in line for line in products)
    # Neither may LLVM reorder or fuse.
    assert not any(" fast " in line or " contract " in line for line in products)
    assert "llvm.fma" not in code
