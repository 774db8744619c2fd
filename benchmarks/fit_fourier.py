"""Fits the coefficients of `hansa.mpc.fourier` anew, and measures how far the series are from what they stand for.

    python -m benchmarks.fit_fourier

With k = 1, 3, ..., 47 the series are

    p(x) - 1/2 ~ sum_k b_k sin(2 pi k x / 64),      h(x) = p (1 - p) ~ sum_k a_k cos(2 pi k x / 64),      0 <= x <= 16

and the coefficients are to make the greatest weighted error, max_x |error(x)| / (sqrt(h(x)) + 1/50), as small as can be. On a grid
of x, Lawson's method comes near to it by least squares alone: fit, multiply the importance of each point by its error, fit again.

How small can it be? 24 functions that are a Chebyshev system have no combination whose greatest error is below the least of 25 errors
that alternate in sign (de la Vallee-Poussin): if there were one, its difference to the first would have 24 zeros, and none but 0 has
more than 23. With t = 2 pi x / 64, sin(k t) is sin(t) times a polynomial in cos(2 t), and cos(k t) is cos(t) times one. So the sines
are a Chebyshev system where sin(t) is not 0, on (0, 16], and the cosines where cos(t) is not 0, on [0, 16). At x = 16 all cosines
are 0, and every fit errs by h(16) there.

Sines: after `SINE_STEPS` steps the rounded coefficients are those of the source, and no others are better by a thousandth.
Cosines: from the second step on, the greatest error is the one at x = 16 that no fit avoids. So the best fit is not unique, and
more steps serve nothing: after some thirty, the points next to 16 have all the importance, and the fit gets worse. After
`COSINE_STEPS` steps the coefficients come nearest to those of the source, within `COSINE_TOLERANCE` units of 2^-40. How the source's
points next to 16 were weighted at the start is not on record. Both reach the least greatest error, and the two series differ by less
than 1e-9, where each errs by 2e-6.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rich.table import Table

from benchmarks.machine import console
from hansa.mpc.fourier import (
    COEFFICIENT_BITS,
    COSINES,
    EXPONENTIAL,
    EXPONENTIAL_BITS,
    HARMONICS,
    LOSS_AT_16,
    LOSS_COSINES,
    SINES,
    TERMS,
)

Floats = npt.NDArray[np.float64]

RANGE = 16
"""The series hold for |x| <= 16."""

POINTS = 8001
"""Of the grid on [0, 16], both ends among them."""

SINE_STEPS, COSINE_STEPS = 600, 22

SINE_TOLERANCE, COSINE_TOLERANCE = 1, 128
"""Units of 2^-40 between coefficients of this fit and those in the source."""

FLOOR = 1 / 50
"""Added to sqrt(h) in the weight of an error."""


def functions(x: Floats) -> tuple[Floats, Floats, Floats]:
    """p - 1/2, h, and the weight of an error, at x >= 0."""
    small = np.exp(-x)
    h = small / (1 + small) ** 2
    return np.tanh(x / 2) / 2, h, 1 / (np.sqrt(h) + FLOOR)


def waves(x: Floats) -> tuple[Floats, Floats]:
    """The sines and cosines of the series, (points, terms) each."""
    angles = np.outer(x, 2 * np.arange(TERMS) + 1) * (2 * np.pi / 64)
    return np.sin(angles), np.cos(angles)


def lawson(columns: Floats, wanted: Floats, weights: Floats, steps: int) -> Floats:
    """Coefficients c with a small max |weights (columns c - wanted)|, after so many steps (Lawson 1961)."""
    columns, wanted = columns * weights[:, None], wanted * weights
    importance, found = np.ones(len(wanted)), np.zeros(columns.shape[1])
    for _ in range(steps):
        root = np.sqrt(importance)
        found = np.linalg.lstsq(columns * root[:, None], wanted * root, rcond=None)[0]
        importance *= np.abs(columns @ found - wanted)
        importance /= importance.max()
    return found


def fitted() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The coefficients of sines and cosines, times 2^40."""
    x = np.linspace(0, RANGE, POINTS)
    p, h, weights = functions(x)
    sines, cosines = waves(x)
    found = lawson(sines, p, weights, SINE_STEPS), lawson(cosines, h, weights, COSINE_STEPS)
    first, second = (np.round(c * 2.0**COEFFICIENT_BITS).astype(np.int64) for c in found)
    return first, second


@dataclass(frozen=True)
class Errors:
    """How far a series is from its function on [0, 16].

    Attributes:
        greatest: of |error|. beyond_6: the same where x > 6.
        weighted: of |error| / (sqrt(h) + 1/50).
        unavoidable: no 24 coefficients have a smaller `weighted`.
    """

    greatest: float
    beyond_6: float
    weighted: float
    unavoidable: float


def measured(
    sines: npt.ArrayLike = SINES, cosines: npt.ArrayLike = COSINES, points: int = 16001
) -> tuple[Errors, Errors]:
    """The errors of p and of h with these coefficients, times 2^40, on a grid finer than the fit's."""
    x = np.linspace(0, RANGE, points)
    p, h, weights = functions(x)
    s, c = waves(x)
    p_error = s @ np.asarray(sines) / 2.0**COEFFICIENT_BITS - p
    h_error = c @ np.asarray(cosines) / 2.0**COEFFICIENT_BITS - h
    # Sines are 0 at x = 0, as p - 1/2 is.
    p_least, h_least = alternating((p_error * weights)[1:]), alternating(h_error * weights)
    return (
        _errors(x, p_error, weights, p_least),
        _errors(x, h_error, weights, max(h_least, float(h[-1] * weights[-1]))),
    )


def loss_error(points: int = 16001) -> float:
    """Greatest error of `LOSS_COSINES`, the integral of the sines' series, as log(2 cosh(x / 2)) - 8."""
    x = np.linspace(0, RANGE, points)
    wanted = x / 2 + np.log1p(np.exp(-x)) - LOSS_AT_16
    return float(np.abs(waves(x)[1] @ np.array(LOSS_COSINES) / 2.0**COEFFICIENT_BITS - wanted).max())


EXPONENTIAL_STEPS, EXPONENTIAL_RIDGE = 30, 1e-8


def exponential_waves(t: Floats) -> Floats:
    """1 and the cosines of the series of e^t, then its sines, (points, 2 harmonics + 1)."""
    angles = np.outer(t, np.arange(1, HARMONICS + 1)) * (2 * np.pi / 64)
    return np.concatenate([np.ones((len(t), 1)), np.cos(angles), np.sin(angles)], axis=1)


def fitted_exponential() -> npt.NDArray[np.int64]:
    """The coefficients of `EXPONENTIAL`, in its order and times 2^28. Half of the period is free, and a ridge keeps them small."""
    t = np.concatenate([np.linspace(-32.05, 0.01, 4000), 0.01 - 2 * np.linspace(0, 1, 400) ** 2])
    columns, wanted, importance = exponential_waves(t), np.exp(t), np.ones(len(t))
    ridge = EXPONENTIAL_RIDGE * np.eye(columns.shape[1])
    found = np.zeros(columns.shape[1])
    for _ in range(EXPONENTIAL_STEPS):
        rows = np.concatenate([columns * importance[:, None], ridge])
        found = np.linalg.lstsq(rows, np.concatenate([wanted * importance, np.zeros(len(ridge))]), rcond=None)[0]
        error = np.abs(columns @ found - wanted)
        importance *= np.sqrt(1e-12 + error / error.max())
        importance = np.maximum(importance / importance.max(), 1e-3)
    whole: npt.NDArray[np.int64] = np.round(found * 2.0**EXPONENTIAL_BITS).astype(np.int64)
    return whole


def exponential_error(points: int = 16001) -> float:
    """Greatest error of `EXPONENTIAL` on [-32, 0]."""
    t = np.linspace(-32, 0, points)
    return float(np.abs(exponential_waves(t) @ np.array(EXPONENTIAL) / 2.0**EXPONENTIAL_BITS - np.exp(t)).max())


def _errors(x: Floats, error: Floats, weights: Floats, unavoidable: float) -> Errors:
    size = np.abs(error)
    return Errors(float(size.max()), float(size[x > 6].max()), float((size * weights).max()), unavoidable)


def alternating(errors: Floats) -> float:
    """The least of the greatest errors between changes of sign, where there are more than `TERMS` of these; else 0.

    >>> few = np.array([1.0, -2.0, 3.0])
    >>> alternating(few)
    0.0
    >>> alternating(np.tile(few, 20))
    1.0
    """
    changes = np.flatnonzero(np.signbit(errors[1:]) != np.signbit(errors[:-1])) + 1
    peaks = np.sort([np.abs(run).max() for run in np.split(errors, changes)])
    return float(peaks[0]) if len(peaks) > TERMS else 0.0


def main() -> None:
    """Fit, and print both kinds of coefficients beside each other."""
    sines, cosines = fitted()
    out = console()
    table = Table(title="errors on [0, 16]")
    for name in ("series", "greatest", "beyond 6", "weighted", "no fit below"):
        table.add_column(name)
    for name, found in (("source", measured()), ("fitted anew", measured(sines, cosines))):
        for series, own in zip(("p - 1/2", "h"), found, strict=True):
            numbers = (own.greatest, own.beyond_6, own.weighted, own.unavoidable)
            table.add_row(f"{series}, {name}", *(f"{number:.4g}" for number in numbers))
    out.print(table)
    for name, new, old in (("sines", sines, SINES), ("cosines", cosines, COSINES)):
        out.print(f"{name}: at most {np.abs(new - np.array(old)).max()} units of 2^-40 from the source")
        out.print(str(new.tolist()))
    out.print(f"log(2 cosh(x / 2)) - 8: greatest error {loss_error():.3g}")
    out.print(
        f"e^t on [-32, 0]: greatest error {exponential_error():.3g}; fitted anew: {fitted_exponential().tolist()}"
    )


if __name__ == "__main__":
    main()
