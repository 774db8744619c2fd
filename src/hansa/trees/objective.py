"""Gradients of a loss, and their exact conversion to integers.

A row's g and h depend on its own margin, label and weight alone, to the bit (`elementary`), and all sums over rows are sums of
integers: so nothing that leaves this module depends on the order of rows or on how they are spread over parties.

Each tree takes two steps. First the sums of |g| and h, in units that a public bound fixes (`unit_exponent`); from their pooled
values `scales` chooses how finely g and h may be counted so that no histogram can overflow. Then `pack` counts each row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.errors import HansaError
from hansa.trees.elementary import exp, log, sigmoid
from hansa.trees.losses import (
    LEAST_SHIFTED,
    LOSSES,
    exponents,
    is_exponential,
    is_logistic,
    is_quantile,
    is_softmax,
    step_of,
)

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

LEAST_HESSIAN = 1e-16
"""XGBoost's floor on p (1 - p)."""

SUM_BITS = 62
"""Bits that a pooled fixed-point sum may use of an int64."""


MOST_ROWS_OF_32_BITS = 2**29
"""So many rows, or more, do not fit histograms of 32 bits."""

LEAST_BOUND = 2.0**-800
"""Bounds of fixed-point sums are at least this and at most its inverse, so that units are normal numbers."""


@dataclass(frozen=True)
class Scales:
    """How g and h become integers for one tree: q_g = round(g * gradient), q_h = round(h * hessian), at least 1 where h > 0.

    Attributes:
        gradient: any positive float, or 0 where all gradients are 0; of hinge loss and absolute error a power of two.
        hessian: a power of two, so that hessians that are short binary fractions (1 for squared error) stay exact.
        planes: 1 (g in 31 bits and sign, h in 32 bits of one int64) or 2 (62 bits each).
    """

    gradient: float
    hessian: float
    planes: int


def bits_of_count(count: int) -> int:
    """Least b with 2^b >= count."""
    return max(count - 1, 0).bit_length()


def unit_exponent(bound: float, n_rows: int) -> int:
    """Exponent u of the unit 2^u in which n_rows magnitudes of at most `bound` sum to less than 2^62.

    n_rows (bound / 2^u + 1) <= 2^62 holds with u = ceil(log2 bound) + ceil(log2 n_rows) - 61.
    """
    if not LEAST_BOUND <= bound <= 1 / LEAST_BOUND:
        raise HansaError(
            f"the bound of a fixed-point sum is {bound!r}; expected a number from {LEAST_BOUND:g} to {1 / LEAST_BOUND:g}"
        )
    mantissa, exponent = math.frexp(bound)
    ceiling = exponent - 1 if mantissa == 0.5 else exponent
    return ceiling + bits_of_count(n_rows) - (SUM_BITS - 1)


SUM_SLACK = 1 + 2.0**-20
"""Widens bounds by more than their own rounding."""

HIGHEST_LOG = 60.0
"""Predictions of e^m are kept finite by refusing margins above this: sums of 2^30 rows of e^60 = 2^87 fit a float32."""


NEAREST_SHIFTED = 1e-6
"""XGBoost's floor on 1 + m."""

LEAST_LOG_HESSIAN = 1e-6
"""XGBoost's floor on the hessian of squared log error."""

FARTHEST_LOG = 32.0
"""More than ln(1 + y) is in size, for any float32 y above -1 (ln 2^-24 = -16.7) up to 2^45 (`statistics.check_label_size`)."""


def gradient_bound(
    objective: str,
    weight_bound: float,
    label_bound: float,
    margin_bound: float,
    highest_margin: float,
    hessian_sum: float = math.inf,
    shape: float = 0.0,
    lowest_margin: float = -math.inf,
) -> float:
    """Public bound on |g| of any row; `weight_bound` includes scale_pos_weight.

    logistic, softmax: |p - y| w <= w; hinge, quantile: w; squared error: |m - y| w; pseudo-Huber: |z| w / sqrt(1 + (z / s)^2) <=
    w min(s, |z|), with z = m - y; squared log error: |ln(1 + m) - ln(1 + y)| w / (1 + m), of 1 + m >= 2^-10 (`check_margins`).

    Poisson, gamma, Tweedie: |e^(b m) - y e^(-a m)| w <= max(A, B) with A = y e^(-a m) w, B = e^(b m) w, as neither is negative
    (`losses.exponents`). Moreover h = e^d (a A + b B), so that A <= H / a and B <= H / (b e^d), with H the sum of h over all rows.

    Args:
        label_bound, margin_bound: no row's label, or margin, exceeds this in size. highest_margin, lowest_margin: no row's margin is
            above, or below, this.
        hessian_sum: the sum of h over all rows is at most this; not used but where e^m is predicted.
        shape: as for `gradients`.

    Raises HansaError where e^m might grow so large, or so small, that sums would not fit a model's float32.
    """
    match LOSSES[objective].gradients:
        case "logistic" | "hinge" | "softmax" | "quantile":
            return weight_bound
        case "squared error":
            return weight_bound * (label_bound + margin_bound)
        case "pseudo-Huber":
            return weight_bound * min(shape, label_bound + margin_bound) * SUM_SLACK
        case "squared log error":
            farthest = max(float(-log(LEAST_SHIFTED)), float(log(1.0 + margin_bound)))
            return weight_bound * math.ceil(farthest + FARTHEST_LOG) / LEAST_SHIFTED
    a, b = exponents(objective, shape)
    lowest = max(lowest_margin, -margin_bound)
    rising = weight_bound * float(exp(b * highest_margin))
    falling = weight_bound * label_bound * float(exp(-a * lowest))
    if b > 0:
        rising = min(rising, hessian_sum / float(exp(step_of(objective, shape))) / b * SUM_SLACK)
    if a > 0:
        falling = min(falling, hessian_sum / a * SUM_SLACK)
    most = weight_bound * float(exp(HIGHEST_LOG))
    if not rising <= most:
        raise HansaError(
            f"the trees so far may predict e^{highest_margin:.0f} for a row; {objective} can be trained up to "
            f"e^{HIGHEST_LOG:.0f}: divide the labels by a constant at every party, or set a smaller number as eta, max_delta_step or "
            "rounds in the plan"
        )
    if not falling <= most * max(label_bound, 1.0):
        raise HansaError(
            f"the trees so far may predict e^{lowest:.0f} for a row, so little that its gradient of {objective} would not fit: set a "
            "smaller number as eta or rounds, or a max_delta_step, in the plan"
        )
    return max(rising, falling) * SUM_SLACK


def check_margins(objective: str, margins: Float32, rows: npt.NDArray[np.unsignedinteger[Any]]) -> None:
    """Raise HansaError where margins of these rows are such that no bound of `gradient_bound` holds; says nothing of the row."""
    if LOSSES[objective].gradients == "squared log error" and bool((margins[rows] < LEAST_SHIFTED - 1.0).any()):
        raise HansaError(
            f"the trees so far predict less than {LEAST_SHIFTED - 1.0:.3f} for a row; near -1 the hessians of {objective} have no "
            "bound: add a constant to the labels at every party, or set base_score or a smaller eta in the plan"
        )


def most_hessian(objective: str, weight_bound: float, gradient_bound: float, shape: float) -> float:
    """Bound on h of any row but for its rounding, from public bounds on its weight and on its |g|.

    logistic: p (1 - p) w <= w / 4; softmax: 2 p (1 - p) w <= w / 2; squared error, hinge, quantile: w; pseudo-Huber:
    w / (1 + (z / s)^2)^(3/2) <= w; squared log error:
    (1 - ln(1 + m) + ln(1 + y)) w / (1 + m)^2 <= (1 + 10 ln 2 + ln(1 + y)) w 2^20, of 1 + m >= 2^-10.

    Poisson, gamma, Tweedie: e^d (a A + b B) <= e^d max(A, B), as a + b = 1, and max(A, B) is the bound on |g|.

    Args:
        shape: as for `gradients`.
    """
    match LOSSES[objective].gradients:
        case "logistic":
            return weight_bound / 4
        case "softmax":
            return weight_bound / 2
        case "squared error" | "hinge" | "pseudo-Huber" | "quantile":
            return weight_bound
        case "squared log error":
            return weight_bound * (math.ceil(1.0 - float(log(LEAST_SHIFTED))) + FARTHEST_LOG) / LEAST_SHIFTED**2
    return gradient_bound * float(exp(step_of(objective, shape))) * SUM_SLACK


def hessian_bound(objective: str, weight_bound: float, gradient_bound: float, shape: float) -> float:
    """Public bound on h of any row: `most_hessian`, doubled for rounding where it is p (1 - p)."""
    most = most_hessian(objective, weight_bound, gradient_bound, shape)
    return 2 * most if is_logistic(objective) or is_softmax(objective) else most


@njit(cache=True, nogil=True, error_model="numpy")
def _logistic(margins, labels, weights, positive_weight, gradient, hessian):  # type: ignore[no-untyped-def]
    if weights.shape[0] == 0:
        for i in range(margins.shape[0]):
            label = np.float64(labels[i])
            p = sigmoid(np.float64(margins[i]))
            w = 1.0 + label * (positive_weight - 1.0)
            gradient[i] = (p - label) * w
            hessian[i] = max(p * (1.0 - p), LEAST_HESSIAN) * w
    else:
        for i in range(margins.shape[0]):
            label = np.float64(labels[i])
            p = sigmoid(np.float64(margins[i]))
            w = np.float64(weights[i]) * (1.0 + label * (positive_weight - 1.0))
            gradient[i] = (p - label) * w
            hessian[i] = max(p * (1.0 - p), LEAST_HESSIAN) * w


@njit(cache=True, nogil=True, error_model="numpy")
def _squared_error(margins, labels, weights, gradient, hessian):  # type: ignore[no-untyped-def]
    if weights.shape[0] == 0:
        for i in range(margins.shape[0]):
            gradient[i] = np.float64(margins[i]) - np.float64(labels[i])
            hessian[i] = 1.0
    else:
        for i in range(margins.shape[0]):
            w = np.float64(weights[i])
            gradient[i] = (np.float64(margins[i]) - np.float64(labels[i])) * w
            hessian[i] = w


@njit(cache=True, nogil=True, error_model="numpy")
def _poisson(margins, labels, weights, step, gradient, hessian):  # type: ignore[no-untyped-def]
    growth = exp(step)
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        mean = exp(np.float64(margins[i]))
        gradient[i] = (mean - np.float64(labels[i])) * w
        hessian[i] = mean * growth * w


@njit(cache=True, nogil=True, error_model="numpy")
def _softmax(margins, labels, weights, gradient, hessian):  # type: ignore[no-untyped-def]
    classes = margins.shape[0]
    for i in range(margins.shape[1]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        highest = margins[0, i]
        for k in range(1, classes):
            highest = max(highest, margins[k, i])
        total = 0.0
        for k in range(classes):
            part = exp(np.float64(margins[k, i]) - np.float64(highest))
            gradient[k, i] = part
            total += part
        label = np.int64(labels[i])
        for k in range(classes):
            p = gradient[k, i] / total
            gradient[k, i] = (p - 1.0 if k == label else p) * w
            hessian[k, i] = max(2.0 * p * (1.0 - p), LEAST_HESSIAN) * w


def softmax_gradients(
    margins: Float32, labels: Float32, weights: Float32 | None, gradient: Float64, hessian: Float64
) -> None:
    """Derivatives of -ln p_y by each class's margin, times the row's weight, with p the softmax of the margins.

    g_k = (p_k - [k = y]) w, h_k = max(2 p_k (1 - p_k), 1e-16) w (XGBoost's `multiclass_obj.cu`).

    Args:
        margins: float32 (classes, n). labels: float32 (n,), classes. weights: float32 (n,) or None for 1.
        gradient, hessian: float64 (classes, n), written.
    """
    _softmax(margins, labels, NO_WEIGHTS if weights is None else weights, gradient, hessian)


@njit(cache=True, nogil=True, error_model="numpy")
def _gamma(margins, labels, weights, gradient, hessian):  # type: ignore[no-untyped-def]
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        ratio = np.float64(labels[i]) * exp(-np.float64(margins[i]))
        gradient[i] = (1.0 - ratio) * w
        hessian[i] = ratio * w


@njit(cache=True, nogil=True, error_model="numpy")
def _tweedie(margins, labels, weights, power, gradient, hessian):  # type: ignore[no-untyped-def]
    a, b = power - 1.0, 2.0 - power
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        margin = np.float64(margins[i])
        falling = np.float64(labels[i]) * exp(-a * margin)
        rising = exp(b * margin)
        gradient[i] = (rising - falling) * w
        hessian[i] = (a * falling + b * rising) * w


@njit(cache=True, nogil=True, error_model="numpy")
def _pseudo_huber(margins, labels, weights, slope, gradient, hessian):  # type: ignore[no-untyped-def]
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        z = np.float64(margins[i]) - np.float64(labels[i])
        ratio = z / slope
        square = 1.0 + ratio * ratio
        root = np.sqrt(square)
        gradient[i] = z / root * w
        hessian[i] = w / (square * root)


@njit(cache=True, nogil=True, error_model="numpy")
def _squared_log_error(margins, labels, weights, gradient, hessian):  # type: ignore[no-untyped-def]
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        shifted = max(1.0 + np.float64(margins[i]), NEAREST_SHIFTED)
        difference = log(shifted) - log(1.0 + np.float64(labels[i]))
        gradient[i] = difference / shifted * w
        hessian[i] = max((1.0 - difference) / (shifted * shifted), LEAST_LOG_HESSIAN) * w


@njit(cache=True, nogil=True, error_model="numpy")
def _hinge(margins, labels, weights, gradient, hessian):  # type: ignore[no-untyped-def]
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        side = 2.0 * np.float64(labels[i]) - 1.0
        wrong = np.float64(margins[i]) * side < 1.0
        gradient[i] = -side * w if wrong else 0.0
        hessian[i] = w if wrong else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _quantile(margins, labels, weights, below, above, equal, gradient, hessian):  # type: ignore[no-untyped-def]
    for i in range(margins.shape[0]):
        w = np.float64(weights[i]) if weights.shape[0] else 1.0
        difference = np.float64(margins[i]) - np.float64(labels[i])
        slope = equal
        if difference < 0.0:
            slope = below
        elif difference > 0.0:
            slope = above
        gradient[i] = slope * w
        hessian[i] = w


def _slopes(objective: str, alpha: float) -> tuple[float, float, float]:
    """g of a row of weight 1 whose margin is below, above, or at its label; in float32, as XGBoost takes them."""
    if objective == "reg:absoluteerror":
        return -1.0, 1.0, 0.0
    above = float(np.float32(1) - np.float32(alpha))
    return -float(np.float32(alpha)), above, above


NO_WEIGHTS = np.zeros(0, np.float32)


def gradients(
    objective: str,
    margins: Float32,
    labels: Float32,
    weights: Float32 | None,
    positive_weight: float,
    gradient: Float64,
    hessian: Float64,
    shape: float = 0.0,
) -> None:
    """First and second derivative of each row's loss by its margin, times its weight.

    logistic: g = (p - y) w, h = max(p (1 - p), 1e-16) w, with w multiplied by scale_pos_weight where y = 1;
    squared error: g = (m - y) w, h = w; Poisson: g = (e^m - y) w, h = e^(m + d) w; gamma: g = (1 - y e^-m) w, h = y e^-m w;
    Tweedie, a = r - 1, b = 2 - r: g = (e^(b m) - y e^(-a m)) w, h = (a y e^(-a m) + b e^(b m)) w;
    pseudo-Huber, z = m - y: g = z w / sqrt(1 + (z / s)^2), h = w / (1 + (z / s)^2)^(3/2);
    squared log error, with m at least -1 + 1e-6: g = (ln(1 + m) - ln(1 + y)) w / (1 + m),
    h = max((1 - ln(1 + m) + ln(1 + y)) / (1 + m)^2, 1e-6) w;
    absolute error: g = sign(m - y) w, h = w; quantile a: g = (1 - a) w where m >= y, else -a w, h = w;
    hinge, t = 2 y - 1: g = -t w, h = w where t m < 1, else both 0. There XGBoost's h is 2^-126, which no sum shows; here `pack` would
    count it as a whole unit. (XGBoost's `regression_loss.h`, `regression_obj.cu`, `quantile_obj.cu` and `hinge.cu`).

    Args:
        objective: one of `losses.LOSSES`.
        margins, labels: float32 (n,). weights: float32 (n,) or None for 1.
        positive_weight: scale_pos_weight, a number.
        gradient, hessian: float64 (n,), written.
        shape: max_delta_step d of count:poisson, tweedie_variance_power r of reg:tweedie, huber_slope s of reg:pseudohubererror,
            quantile a of reg:quantileerror; not used for others.
    """
    given = NO_WEIGHTS if weights is None else weights
    match LOSSES[objective].gradients:
        case "logistic":
            _logistic(margins, labels, given, positive_weight, gradient, hessian)
        case "squared error":
            _squared_error(margins, labels, given, gradient, hessian)
        case "poisson":
            _poisson(margins, labels, given, shape, gradient, hessian)
        case "gamma":
            _gamma(margins, labels, given, gradient, hessian)
        case "tweedie":
            _tweedie(margins, labels, given, shape, gradient, hessian)
        case "pseudo-Huber":
            _pseudo_huber(margins, labels, given, shape, gradient, hessian)
        case "squared log error":
            _squared_log_error(margins, labels, given, gradient, hessian)
        case "quantile":
            _quantile(margins, labels, given, *_slopes(objective, shape), gradient, hessian)
        case "hinge":
            _hinge(margins, labels, given, gradient, hessian)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_magnitudes(values, rows, inverse_unit, limit):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    within = True
    for i in range(rows.shape[0]):
        size = abs(values[rows[i]]) * inverse_unit
        within &= size <= limit  # false for NaN, whose conversion to a whole number differs between hosts
        total += np.int64(size) + 1
    return total if within else np.int64(-1)


def sum_magnitudes(values: Float64, rows: npt.NDArray[np.unsignedinteger[Any]], bound: float, n_rows_total: int) -> int:
    """Upper bound of sum |values[rows]| in units of 2^unit_exponent(bound, n_rows_total), each row rounded up.

    Raises HansaError where a row exceeds the public bound: an overflow is refused, never silent.
    """
    exponent = unit_exponent(bound, n_rows_total)
    limit = math.ldexp(bound, -exponent)
    total = int(_sum_magnitudes(values, rows, math.ldexp(1.0, -exponent), limit))
    if total < 0:
        raise HansaError(
            f"a row's gradient or hessian exceeds the bound {bound:g} that the plan's public figures give; "
            "training stops rather than overflow"
        )
    return total


def scales(
    gradient_sum: int,
    hessian_sum: int,
    gradient_unit: int,
    hessian_unit: int,
    n_rows_total: int,
    bits: int,
    short: bool = False,
) -> Scales:
    """The finest scales under which no histogram of these rows can overflow.

    With S = sum |g| <= gradient_sum 2^unit, |sum of rounded s g| <= s S + N/2, so s = (2^31 - 1 - N) / S keeps 31 bits and sign;
    likewise for h, unsigned, rounded up by at most 1 a row, with s cut to a power of two.

    Args:
        gradient_sum, hessian_sum: pooled `sum_magnitudes`, in units of 2^gradient_unit and 2^hessian_unit.
        n_rows_total: rows of all parties.
        bits: 32 or 64.
        short: whether gradients are short binary fractions (+-1 of hinge loss and absolute error), that a power of two as their scale
            keeps exact too.
    """
    gradient_room, hessian_room = (31, 32) if bits == 32 else (SUM_BITS, SUM_BITS)
    if n_rows_total >= (MOST_ROWS_OF_32_BITS if bits == 32 else 2 ** (SUM_BITS - 2)):
        raise HansaError(
            f"{n_rows_total} rows are too many for histogram_bits = {bits}; set histogram_bits = 64 in the plan"
        )
    gradient = 0.0
    if gradient_sum > 0:
        gradient = math.ldexp((2**gradient_room - 1 - n_rows_total) / gradient_sum, -gradient_unit)
        # Of 62 bits a float64 holds 53: the quotient may be rounded up, and one party may have all of the sum (`check_scales`).
        while gradient * math.ldexp(gradient_sum, gradient_unit) > 2**gradient_room:
            gradient = math.nextafter(gradient, 0.0)
        if short:
            gradient = math.ldexp(1.0, math.frexp(gradient)[1] - 1)
    hessian = 1.0
    if hessian_sum > 0:
        _, exponent = math.frexp(math.ldexp((2**hessian_room - 1 - n_rows_total) / hessian_sum, -hessian_unit))
        hessian = math.ldexp(1.0, exponent - 1)
    return Scales(gradient=gradient, hessian=hessian, planes=1 if bits == 32 else 2)


FARTHEST = 700.0
"""A margin that moves so far may come to any p: e^FARTHEST is a float, and the bound is `weight` then."""

ROW_ERROR = 2.0**-50
"""More than the rounding error of a row's p, or in parts of it of a row's e^m, as `gradients` computes it."""


def _row_error(objective: str, shape: float) -> float:
    """More than the rounding errors of A and B (`gradient_bound`), before and after, in parts of h.

    Of Tweedie, a m is rounded before e^(-a m) is taken: for |a m| < 2^10 that is an error of 2^-43, and A is at most h / a.
    """
    least = min(value for value in exponents(objective, shape) if value > 0)
    return 2 * ROW_ERROR if least == 1 else 2.0**-42 / least


def sums_after(
    objective: str,
    gradient_sum: float,
    hessian_sum: float,
    leaves: Float64,
    hessians: Float64,
    hessian_error: float,
    weight: float,
    shape: float = 0.0,
) -> tuple[float, float]:
    """Upper bounds of sum |g| and sum h over the same rows, once every row's margin has moved by its leaf's value.

    logistic: dp/dm = h / w, and log h changes by at most |v| where the margin moves by v. So h' <= h e^|v| and
    |g' - g| <= h (e^|v| - 1); moreover |g| <= w and h <= w / 4. Squared error: |g' - g| = w |v| = h |v| and h' = h.
    Poisson, gamma, Tweedie: dg/dm = h e^-d = a A + b B, with A and B as in `gradient_bound` that change by e^(-a v) and e^(b v). As
    0 <= a, b <= 1, h' <= h e^|v| and |g' - g| <= h e^-d (e^|v| - 1). Quantile: |g'| <= w and h' = h.
    Of others whose sums may shrink far more than a bound tells nothing is said: both are infinite (`losses.Loss.foreseen`).

    Args:
        gradient_sum, hessian_sum: upper bounds of sum |g| and sum h before.
        leaves: float64 (leaves,): how far a row moves at most, rounding included. hessians: float64 (leaves,): sum of h, before, of
            each leaf's rows; they may be too small by `hessian_error` in all.
        weight: sum of all w, scale_pos_weight included.
        shape: as for `gradients`.
    """
    if not LOSSES[objective].foreseen:
        return math.inf, math.inf
    if is_quantile(objective):
        return weight * SUM_SLACK, hessian_sum * SUM_SLACK
    logistic = is_logistic(objective)
    exponential = is_exponential(objective)
    growth = np.expm1(np.minimum(leaves, FARTHEST)) if logistic or exponential else leaves
    if exponential:
        moved = float(hessians @ growth) + hessian_error * float(growth.max())
        gradient = gradient_sum + moved / float(exp(step_of(objective, shape)))
        gradient += _row_error(objective, shape) * (hessian_sum + moved)
        if exponents(objective, shape)[1] == 0:  # gamma's g has the term w beside h
            gradient += weight * ROW_ERROR
        return gradient * SUM_SLACK, (hessian_sum + moved) * SUM_SLACK
    moved = float(hessians @ growth) + hessian_error * float(growth.max()) + weight * ROW_ERROR
    gradient, hessian = gradient_sum + moved, hessian_sum
    if logistic:
        gradient, hessian = min(gradient, weight), min(hessian + moved, weight / 4)
    return gradient * SUM_SLACK, hessian * SUM_SLACK


def check_scales(scales: Scales, gradient_sum: int, hessian_sum: int, gradient_unit: int, hessian_unit: int) -> None:
    """Refuse scales under which the sums of one party alone would overflow; arguments as in `scales`.

    Raises HansaError where a scale is not a finite number of at least 0, or too large.
    """
    gradient_room, hessian_room = (31, 32) if scales.planes == 1 else (SUM_BITS, SUM_BITS)
    for name, scale, total, unit, room in (
        ("gradient", scales.gradient, gradient_sum, gradient_unit, gradient_room),
        ("hessian", scales.hessian, hessian_sum, hessian_unit, hessian_room),
    ):
        if not (scale >= 0 and math.isfinite(scale) and scale * math.ldexp(total, unit) <= 2**room):
            raise HansaError(
                f"the {name} scale {scale!r} is no number, or so large that sums would overflow {room} bits"
            )


@njit(cache=True, nogil=True, error_model="numpy")
def _pack(gradient, hessian, gradient_scale, hessian_scale, packed):  # type: ignore[no-untyped-def]
    if packed.shape[0] == 1:
        for i in range(gradient.shape[0]):
            g = np.int64(np.floor(gradient[i] * gradient_scale + 0.5))
            h = np.int64(np.floor(hessian[i] * hessian_scale + 0.5))
            h = max(h, np.int64(hessian[i] > 0.0))
            packed[0, i] = g * np.int64(4294967296) + h
    else:
        for i in range(gradient.shape[0]):
            h = np.int64(np.floor(hessian[i] * hessian_scale + 0.5))
            packed[0, i] = np.int64(np.floor(gradient[i] * gradient_scale + 0.5))
            packed[1, i] = max(h, np.int64(hessian[i] > 0.0))


def pack(gradient: Float64, hessian: Float64, scales: Scales, packed: npt.NDArray[np.int64]) -> None:
    """Write each row's integers into `packed`, int64 (planes, n): see `histogram` for the layout."""
    _pack(gradient, hessian, scales.gradient, scales.hessian, packed)


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_fixed(values, weights, inverse_unit):  # type: ignore[no-untyped-def]
    total = np.int64(0)
    if weights.shape[0] == 0:
        for i in range(values.shape[0]):
            total += np.int64(np.floor(np.float64(values[i]) * inverse_unit + 0.5))
    else:
        for i in range(values.shape[0]):
            total += np.int64(np.floor(np.float64(values[i]) * np.float64(weights[i]) * inverse_unit + 0.5))
    return total


def fixed_weights(weights: Float32, unit: int) -> npt.NDArray[np.int64]:
    """Each weight as a whole number of 2^unit, rounded to nearest as `sum_fixed` does; int64 (n,).

    Raises HansaError where their sum might not fit.
    """
    sum_fixed(np.ones_like(weights), weights, unit)
    return np.floor(weights.astype(np.float64) * math.ldexp(1.0, -unit) + 0.5).astype(np.int64)


def sum_fixed(values: npt.NDArray[np.floating[Any]], weights: Float32 | None, unit: int) -> int:
    """sum of values (times weights) as a whole number of 2^unit, each row rounded to nearest; values (n,), float32 or
    float64.

    Raises HansaError where the sum might not fit: `unit` is too small for these rows.
    """
    sizes = np.abs(values, dtype=np.float64) * (1.0 if weights is None else weights)
    if not (-1000 <= unit <= 1000 and sizes.sum() * math.ldexp(1.0, -unit) + len(values) <= 2.0**SUM_BITS):
        raise HansaError(f"a sum in units of 2^{unit} does not fit {SUM_BITS} bits, or no such unit is used")
    return int(_sum_fixed(values, NO_WEIGHTS if weights is None else weights, math.ldexp(1.0, -unit)))
