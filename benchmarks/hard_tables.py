"""Made tables that are hard to learn in fixed point, each from a seed: for `bench_accuracy` and tests.

Every seed gives fresh rows. The test table is large, so that what two learners' test metrics differ by is not its own noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.simulation.tables import Table

ROWS, TEST_ROWS = 5_000, 20_000
N_FEATURES = 10
PARTIES = ("ash", "birch", "cedar", "dogwood")
SHARES = (0.5, 0.3, 0.15, 0.05)
"""Of the rows that each party holds."""

LABEL = "label"
SQUARED_ERROR = "reg:squarederror"

Floats = npt.NDArray[np.float64]
Made = tuple[Floats, Floats]
"""Features (N_FEATURES, rows) and labels (rows,)."""


@dataclass(frozen=True)
class HardCase:
    """A table and what to learn from it.

    Attributes:
        make: draws so many rows.
        parameters: beside those of all hard cases.
    """

    make: Callable[[np.random.Generator, int], Made]
    parameters: Mapping[str, Any] = field(default_factory=dict)


def hard_table(name: str, seed: int, rows: int = ROWS, test_rows: int = TEST_ROWS) -> tuple[Table, Table]:
    """(train, test) of the case `name`; rows are dealt at random to four parties of uneven size, one with 5 %."""
    draw = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, *name.encode()])))
    features, label = HARD[name].make(draw, rows + test_rows)
    party = np.array(PARTIES, object)[draw.choice(len(PARTIES), rows + test_rows, p=SHARES)]
    names = tuple(f"f{i}" for i in range(len(features)))
    table = Table(names, features.astype(np.float32), label.astype(np.float32), None, party, {})
    return table.take(np.arange(rows)), table.take(np.arange(rows, rows + test_rows))


def _normal(draw: np.random.Generator, rows: int) -> Floats:
    return draw.standard_normal((N_FEATURES, rows))


def _signal(x: Floats) -> Floats:
    """Linear and joint effects of the first six features; variance about 3."""
    result: Floats = 1.2 * x[0] + 0.8 * x[1] - 0.6 * x[2] + x[3] * x[4] + 0.5 * np.sin(3 * x[5])
    return result


def _drawn(draw: np.random.Generator, margins: Floats) -> Floats:
    return (draw.random(len(margins)) < 1 / (1 + np.exp(-margins))).astype(np.float64)


def balanced(draw: np.random.Generator, rows: int) -> Made:
    """About half of the rows are positive."""
    x = _normal(draw, rows)
    return x, _drawn(draw, _signal(x))


def rare(draw: np.random.Generator, rows: int) -> Made:
    """1 % of the rows are positive."""
    x = _normal(draw, rows)
    return x, _drawn(draw, 1.5 * _signal(x) - 8)


def separable(draw: np.random.Generator, rows: int) -> Made:
    """A plane of three features parts the classes, with nothing between them and no noise."""
    x = _normal(draw, rows)
    side = x[0] + x[1] + 0.5 * x[2]
    x[0] += 0.1 * np.sign(side)
    return x, (side > 0).astype(np.float64)


def partly_separable(draw: np.random.Generator, rows: int) -> Made:
    """Where |f0| > .7 it tells the class without exception, so that margins run away; elsewhere noise decides too."""
    x = _normal(draw, rows)
    label = _drawn(draw, _signal(x))
    sure = np.abs(x[0]) > 0.7
    return x, np.where(sure, x[0] > 0, label).astype(np.float64)


def _skewed(draw: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Columns of every awkward kind, and the normal numbers below them."""
    z = _normal(draw, rows)
    x = np.empty_like(z)
    x[0] = np.exp(z[0]) ** 4  # a lognormal's fourth power: from 1e-6 to 1e6
    x[1] = -(np.exp(z[1]) ** 10)  # down to -1e16
    x[2] = np.where(np.abs(z[2]) < 1.5, 0, np.exp(2 * z[2]))  # 87 % zeros
    x[3] = np.where(z[3] < 1.2, 0, np.round(np.exp(z[3])))  # 88 % zeros, and counts
    x[4] = 1e-30 * np.exp(3 * z[4])
    x[5] = np.sign(z[5]) * 1e30 * np.abs(z[5]) ** 5
    x[6] = 7.5  # constant
    x[7] = np.where(z[7] > 0, -1e20, np.nan)  # constant, or missing
    x[8] = z[8] > 2.5  # .6 % ones
    x[9] = np.where(z[9] > 2, np.nan, 1e6 + np.round(z[9], 2))  # far from 0
    return x, z


def skewed(draw: np.random.Generator, rows: int) -> Made:
    """Constant and heavily skewed columns; classes follow their logarithms."""
    x, z = _skewed(draw, rows)
    effects = z[0] - 0.8 * z[1] + 1.5 * (x[2] > 0) + 0.8 * (x[3] > 3) + z[4] * z[5] + 0.7 * (z[7] > 0) + 2 * x[8]
    return x, _drawn(draw, effects - 1)


def regression(draw: np.random.Generator, rows: int) -> Made:
    """A signal and half as much noise."""
    x = _normal(draw, rows)
    return x, 100 + 5 * (_signal(x) + draw.standard_normal(rows))


def skewed_regression(draw: np.random.Generator, rows: int) -> Made:
    """Constant and heavily skewed columns, and labels of which the largest is some twenty standard deviations out."""
    x, z = _skewed(draw, rows)
    effects = 0.5 * z[0] - 0.4 * z[1] + 0.7 * (x[2] > 0) + 0.4 * (x[3] > 3) + 0.5 * z[4] * np.sign(z[5]) + x[8]
    return x, np.exp(effects + 0.5 * draw.standard_normal(rows))


LAMBDA_0 = {"lambda": 0.0, "min_child_weight": 0.0}

HARD: dict[str, HardCase] = {
    "1 % positives": HardCase(rare),
    "1 % positives, lambda 0": HardCase(rare, {"lambda": 0.0}),
    "1 % positives, gamma 1": HardCase(rare, {"gamma": 1.0}),
    "1 % positives, weighted": HardCase(rare, {"scale_pos_weight": "auto"}),
    "separable": HardCase(separable),
    "separable, lambda 0": HardCase(separable, {"lambda": 0.0}),
    "constant and skewed columns": HardCase(skewed),
    "margins near the bound": HardCase(partly_separable, {**LAMBDA_0, "eta": 0.6}),
    "lambda 0": HardCase(balanced, {"lambda": 0.0}),
    "lambda 0, min_child_weight 0": HardCase(balanced, LAMBDA_0),
    "gamma 2": HardCase(balanced, {"gamma": 2.0}),
    "squared error": HardCase(regression, {"objective": SQUARED_ERROR}),
    "squared error, lambda 0": HardCase(regression, {"objective": SQUARED_ERROR, **LAMBDA_0}),
    "squared error, gamma 1000": HardCase(regression, {"objective": SQUARED_ERROR, "gamma": 1000.0}),
    "squared error, skewed": HardCase(skewed_regression, {"objective": SQUARED_ERROR}),
}
"""By name. A case may give min_child_weight 0 beside lambda 0: then leaves of single rows are as large as their limit."""
