"""Pooled metrics from integer sums: each party sums over its rows, the coordinator adds and evaluates.

What a party computes is an int64 array; arrays are added entry by entry, in the clear or masked. Integer sums
do not depend on how rows are spread over parties, on threads or on order, so neither do metrics and early
stopping. Names, weights and formulas are XGBoost's. A coordinator sees the sums that it is given, never a
row's score.

Fixed point. A row contributes round(weight * value * 2**f). With value <= 2**v, weight <= 2**w and at most n
rows in all, which are public, f = 62 - ceil(log2 n) - w - v keeps every total within 2**62: overflow is
impossible. What a party holds is checked against the bounds.

Ranking metrics come from a histogram of scores: weights of positives and of negatives in 4096 buckets of
log-odds. Rows in one bucket count as ties (half a win in `auc`), so the exact value may differ by what orders
inside buckets can change. The tests compute that from the histogram itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from hansa.errors import DataError, PlanError
from hansa.trees.elementary import exp, log, sigmoid
from hansa.trees.losses import (
    CLASS_METRICS,
    HIGHER_IS_BETTER,
    LOSSES,
    is_binary,
    is_exponential,
    is_quantile,
    is_softmax,
    measures,
    metric_parts,
    metrics_in_words,
)

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

CLASSIFICATION_METRICS = ("logloss", "error", "auc", "aucpr")
REGRESSION_METRICS = ("rmse", "mae", "mape", "rmsle", "mphe", "quantile")
MEAN_METRICS = ("poisson-nloglik", "gamma-nloglik", "gamma-deviance", "tweedie-nloglik")
METRICS = CLASSIFICATION_METRICS + REGRESSION_METRICS + MEAN_METRICS + CLASS_METRICS
"""All names that a plan may give, some with a number behind them (`losses.NUMBERED`); `losses.Loss` has those of each objective."""

ROOTS = ("rmse", "rmsle")
"""Roots of a mean."""

TOTAL_BITS = 62
"""No total exceeds 2**62 in size."""

SCORE_BUCKETS = 4096
SCORE_BUCKETS_PER_UNIT = 256
SCORE_LOWEST = -8.0
"""Bucket i holds margins in [-8 + i/256, -8 + (i+1)/256); the first and last also hold all beyond."""

NO_ROWS = "no rows are held out"
ONE_LABEL = "the held-out rows have one label only (rows of weight 0 do not count)"
NO_WEIGHT = "the held-out rows all have weight 0"
NO_LOGARITHM = "a held-out row's prediction is -1 or less, so that the logarithm of 1 + it does not exist"
NO_SHARE = "a held-out row has label 0, of which no error is a share"
"""Why a metric of held-out rows has no value."""

MAY_FAIL = {"rmsle": NO_LOGARITHM, "mape": NO_SHARE}
"""Metrics that a single row may leave without a value, and why."""

LEAST_MEAN = 1e-16
"""XGBoost's floor on a mean whose logarithm is taken."""

NLOGLIK_BITS = 6
"""-ln of a Poisson probability is at most b/4 ln(1 + b) + b + 37 b/4 < 2^6 b for labels up to b/4 and means up to b <= 2^130."""

RMSLE_BITS = 14
"""(ln(1 + y) - ln(1 + p))^2 < 2^14, as ln(1 + x) of a float32 above -1 is from -16.7 to 88.8."""

MAPE_BITS = 20
"""A row's |y - p| / |y| above 2^20 counts as that."""

GAMMA_BITS = 16
"""A row's gamma metric above 2^16 counts as that; it is about y / p where the prediction p is far too small."""

TWEEDIE_BITS = 16
"""How many bits a row's tweedie-nloglik may have above the term of a prediction of 4 label bounds; one above counts as that."""

LEAST_GAMMA_MEAN = 1e-6
"""XGBoost's floor on the mean in gamma-nloglik, and what it adds to label and mean in gamma-deviance."""

NLOGLIK_OFFSET = 14.0
"""gamma-nloglik is y / p + ln p >= ln 1e-6 > -14: rows add it with this on top, so that sums are not negative."""

FARTHEST_MARGIN = 700.0
"""e^FARTHEST_MARGIN is a float; tweedie-nloglik of a margin below -700 is far above what counts."""

SURE = np.float32(1e30)
"""Margins of so much stand for the probabilities 0 and 1, of which predictions of binary:hinge are."""

(S1, S2, S3, S4, S5, S6, S7) = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
"""Coefficients of Stirling's series."""

HALF_LOG_2PI = 0.9189385332046727

IDENTITY, PROBABILITY, MEAN = 0, 1, 2
"""What metrics compare with labels: the margin m, 1 / (1 + e^-m), or e^m."""

LOGLOSS_BITS = 6
LOGLOSS_LIMIT = 36.841361487904734
"""A row's log loss is at most -ln(1e-16), as in XGBoost, which keeps probabilities so far from 0."""


@dataclass(frozen=True)
class MetricScale:
    """Public bounds that fix the scale of the sums; the same for all parties.

    Attributes:
        n_rows_total: at least the number of rows evaluated, over all parties; 1 to 2**40.
        weight_exponent: no weight exceeds 2**weight_exponent; 0 where there are no weights.
        label_exponent: for regressions, no label exceeds 2**label_exponent in size, and no prediction
            departs from its label by more than 2**(label_exponent + 2); a prediction e^margin
            above that counts as that, and so does one beyond 3 times 2**label_exponent in size of other
            losses than squared error. Not used where labels are 0 and 1.
        slope: huber_slope of mphe, above 0.
        quantiles: of the metric quantile, one for each output.

    Raises:
        PlanError: a bound is out of range.
    """

    n_rows_total: int
    weight_exponent: int = 0
    label_exponent: int = 0
    slope: float = 1.0
    quantiles: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.n_rows_total <= 2**40:
            raise PlanError(f"n_rows_total is {self.n_rows_total}; expected 1 to 2**40")
        for name in ("weight_exponent", "label_exponent"):
            if not -149 <= getattr(self, name) <= 128:
                raise PlanError(f"{name} is {getattr(self, name)}; expected -149 to 128, the range of float32")


def _parts(name: str) -> tuple[str, float]:
    """A metric's name without its number, and the number. Raises PlanError where there is no such metric."""
    parts = metric_parts(name)
    if parts is None or parts[0] not in METRICS:
        raise PlanError(f"eval_metric {name!r:.80} is unknown; expected one of {', '.join(METRICS)}")
    return parts


def check_metric(name: str, objective: str) -> None:
    """Refuse an unknown metric, or one that makes no sense for the objective.

    Raises:
        PlanError: naming the metric and those that there are.
    """
    _parts(name)
    if not measures(name, objective):
        raise PlanError(
            f"eval_metric {name!r} does not go with the objective {objective}; expected one of "
            f"{metrics_in_words(objective)}"
        )


def is_improvement(maximizes: bool, value: float, best: float | None) -> bool:
    """Whether `value` is better than `best`, where `maximizes` says that greater ones are; NaN never is, any number beats None."""
    if best is None or math.isnan(value):
        return not math.isnan(value)
    return value > best if maximizes else value < best


def best_round(maximizes: bool, values: Sequence[float | None]) -> int | None:
    """The number of the first round, from 1, whose value none of the others beats; None where no round has a value.

    Args:
        maximizes: whether greater values are better. values: of the rounds 1, 2, ...; None where the metric has none.
    """
    best: float | None = None
    at: int | None = None
    for number, value in enumerate(values, 1):
        if value is not None and is_improvement(maximizes, value, best):
            best, at = value, number
    return at


def stops_early(maximizes: bool, values: Sequence[float | None], stopping_rounds: int) -> bool:
    """Whether so many rounds with a value came after the best one; rounds without a value stop nothing. Arguments as `best_round`."""
    best = best_round(maximizes, values)
    return best is not None and sum(value is not None for value in values[best:]) >= stopping_rounds


def sums_length(name: str) -> int:
    """Entries of the array that `metric_sums` returns: 2 x 4096 for auc and aucpr, which share it; 3 for rmsle and mape; else 2."""
    if name in HIGHER_IS_BETTER:
        return 2 * SCORE_BUCKETS
    return 3 if name in MAY_FAIL else 2


def metric_sums(
    name: str,
    objective: str,
    margins: Float32s,
    labels: Float32s,
    weights: Float32s | None,
    scale: MetricScale,
) -> Int64s:
    """A party's sums over its own rows; secret to the party unless the mode says otherwise.

    Args:
        name: a metric.
        objective: where margins are log-odds, predictions are their sigmoid (for binary:logitraw too: log-odds are
            no probabilities, which logloss and error need). Predictions of binary:hinge are probabilities 0 and 1.
        margins, labels: float32 (n_rows,). Labels of such an objective lie in [0, 1]. Of multi:softprob margins are (classes, n_rows),
            and of several quantiles (quantiles, n_rows). Of several labels both are (labels, n_rows), and values are means over rows
            and labels; `scale` counts a row once for each label.
        weights: float32 (n_rows,), not negative; None means 1 for each row.
        scale: the public bounds.

    Returns:
        int64 (sums_length(name),), entries 0 to 2**62. For auc and aucpr: weights of positives by bucket,
        then of negatives. Else: sum of weight x value, sum of weights; each at its own scale. For rmsle and mape a
        third entry: rows of weight above 0 that have no value.

    Raises:
        PlanError: the metric does not fit the objective.
        DataError: an array of another shape or dtype, a value that is not finite, or one beyond a public
        bound.
    """
    check_metric(name, objective)
    if weights is None:
        weights = np.ones(labels.shape[-1:], dtype=np.float32)
    if labels.ndim == 2:
        if margins.shape != labels.shape:
            raise DataError(f"margins are {margins.shape}; expected {labels.shape}, one for each label")
        margins, labels, weights = margins.ravel(), labels.ravel(), np.tile(weights, len(labels))
    _check_rows(objective, margins, labels, weights, scale)
    if LOSSES[objective].link == "sign":
        margins = np.where(margins > 0, SURE, -SURE)
    weight_unit = math.ldexp(1.0, _fraction_bits(scale, 0))
    if name in HIGHER_IS_BETTER:
        histogram = np.zeros(2 * SCORE_BUCKETS, dtype=np.int64)
        _score_histogram(margins, labels, weights, weight_unit, histogram)
        return histogram
    kind, number = _parts(name)
    unit = math.ldexp(1.0, _fraction_bits(scale, _value_bits(name, objective, scale)))
    link, most = _link(objective), _most(objective, scale)
    rows = (margins, labels, weights, unit)
    failed = 0
    match kind:
        case "mlogloss" | "merror":
            total = _class_sum(*rows, kind == "mlogloss")
        case "logloss":
            total = _logloss_sum(*rows)
        case "error":
            total = _error_sum(*rows, np.float32(number))
        case "rmse":
            total = _squared_error_sum(*rows, link, most)
        case "mae":
            total = _absolute_error_sum(*rows, link, most)
        case "mape":
            total, failed = _relative_error_sum(*rows, link, most)
        case "rmsle":
            total, failed = _squared_log_error_sum(*rows, link, most)
        case "quantile":
            total = _pinball_sum(np.atleast_2d(margins), *rows[1:], most, np.array(scale.quantiles))
        case "mphe":
            total = _pseudo_huber_sum(*rows, link, most, scale.slope)
        case "poisson-nloglik":
            total = _poisson_sum(*rows, most)
        case "gamma-nloglik":
            total = _gamma_sum(*rows, most)
        case "gamma-deviance":
            total = _gamma_deviance_sum(*rows, most)
        case _:
            highest = math.ldexp(1.0, _value_bits(name, objective, scale))
            total = _tweedie_sum(*rows, most, number, highest)
    sums = [total, _weight_sum(weights, weight_unit)]
    return np.array([*sums, failed] if name in MAY_FAIL else sums, dtype=np.int64)


def metric_value(name: str, objective: str, summed: Int64s, scale: MetricScale) -> float:
    """The metric of all rows, from the parties' added sums; NaN where it has no meaning.

    That is where the weights sum to 0; for auc and aucpr, where there is one class only; for rmsle and mape, where a
    row has no value.

    Raises:
        PlanError: the metric does not fit the objective.
        DataError: `summed` cannot be a sum of what parties send.
    """
    _check_summed(name, objective, summed)
    if name == "auc":
        return float(_auc(summed)[0])
    if name == "aucpr":
        return float(_aucpr(summed, False, False))
    if name in MAY_FAIL and summed[2]:
        return math.nan
    mean = _mean(summed, _value_bits(name, objective, scale), scale)
    if name == "gamma-nloglik":
        return mean - NLOGLIK_OFFSET
    return math.sqrt(mean) if name in ROOTS else mean


def why_no_value(name: str, summed: Int64s) -> str:
    """Why `metric_value` or `mean_value` of these sums is NaN, as part of a sentence; "" where it is a number."""
    if name not in HIGHER_IS_BETTER:
        if summed[1] == 0:
            return NO_WEIGHT
        return MAY_FAIL[name] if name in MAY_FAIL and summed[2] else ""
    weights = summed.reshape(2, -1).sum(axis=1, dtype=np.float64)
    if not weights.any():
        return NO_WEIGHT
    return "" if weights.all() else ONE_LABEL


def value_sums(values: npt.NDArray[np.float64], weights: Float32s | None, most: float, scale: MetricScale) -> Int64s:
    """A party's sums of a metric that is a mean: as `metric_sums`, of rows whose values are there.

    Args:
        values: float64 (n_rows,), from 0 to `most`, which is public. weights: float32 (n_rows,), or None for 1 each.

    Returns:
        int64 (2,): sum of weight x value, sum of weights; each at its own scale, from 0 to 2**62.

    Raises:
        DataError: a weight beyond its public bound, or more rows than n_rows_total.
    """
    if weights is None:
        weights = np.ones(values.shape, dtype=np.float32)
    if len(values) > scale.n_rows_total:
        raise DataError(f"{len(values)} rows; expected at most n_rows_total = {scale.n_rows_total}")
    _check_range("weights", weights, 0.0, math.ldexp(1.0, scale.weight_exponent))
    unit = math.ldexp(1.0, _fraction_bits(scale, _bits_of(most)))
    total = np.rint(weights * values * unit).astype(np.int64).sum()
    return np.array([total, _weight_sum(weights, math.ldexp(1.0, _fraction_bits(scale, 0)))], dtype=np.int64)


def mean_value(summed: Int64s, most: float, scale: MetricScale) -> float:
    """The mean of all rows' values, from the parties' added `value_sums`; NaN where the weights sum to 0.

    Raises DataError: `summed` cannot be a sum of what parties send.
    """
    if summed.dtype != np.int64 or summed.shape != (2,) or (summed < 0).any():
        raise DataError(f"sums are {summed.dtype}{summed.shape}; expected int64(2,), none below 0")
    return _mean(summed, _bits_of(most), scale)


def _mean(summed: Int64s, value_bits: int, scale: MetricScale) -> float:
    """Division of Python's integers rounds once."""
    if summed[1] == 0:
        return math.nan
    shift = _fraction_bits(scale, 0) - _fraction_bits(scale, value_bits)
    return math.ldexp(int(summed[0]) / int(summed[1]), shift)


def _bits_of(most: float) -> int:
    """v such that no value up to `most` exceeds 2**v."""
    mantissa, exponent = math.frexp(most)
    return exponent - (mantissa == 0.5)


def _value_bits(name: str, objective: str, scale: MetricScale) -> int:
    """v such that no row's value exceeds 2**v."""
    kind, number = _parts(name)
    farthest = scale.label_exponent + 2
    match kind:
        case "logloss" | "mlogloss":
            return LOGLOSS_BITS
        case "poisson-nloglik":
            return farthest + NLOGLIK_BITS
        case "gamma-nloglik" | "gamma-deviance":
            return GAMMA_BITS
        case "tweedie-nloglik":
            nearest = min(number - 1.0, 2.0 - number)
            return math.ceil((2.0 - number) * farthest) + 1 - math.frexp(nearest)[1] + TWEEDIE_BITS
        case "rmsle":
            return RMSLE_BITS
        case "mape":
            return MAPE_BITS
        case "mphe":
            # s^2 (sqrt(1 + (z / s)^2) - 1) is at most s |z| and at most z^2 / 2
            return min(math.frexp(scale.slope)[1] + farthest, 2 * farthest - 1)
    if kind in ("error", "merror") or is_binary(objective):
        return 0
    return farthest * (2 if kind == "rmse" else 1)


def _most(objective: str, scale: MetricScale) -> float:
    """What predictions farther from 0 count as, so that none is farther than 2**(label_exponent + 2) from its label."""
    if is_exponential(objective):
        return math.ldexp(1.0, scale.label_exponent + 2)
    free = is_binary(objective) or objective == "reg:squarederror"
    return math.inf if free else math.ldexp(3.0, scale.label_exponent)


def _fraction_bits(scale: MetricScale, value_bits: int) -> int:
    return TOTAL_BITS - (scale.n_rows_total - 1).bit_length() - scale.weight_exponent - value_bits


def _link(objective: str) -> int:
    if is_binary(objective):
        return PROBABILITY
    return MEAN if is_exponential(objective) else IDENTITY


def _check_rows(objective: str, margins: Float32s, labels: Float32s, weights: Float32s, scale: MetricScale) -> None:
    count, softmax = margins.shape[-1], is_softmax(objective)
    several = softmax or (is_quantile(objective) and margins.ndim == 2)
    if several and not softmax and len(margins) != len(scale.quantiles):
        raise DataError(
            f"margins are of {len(margins)} outputs; expected one for each of {len(scale.quantiles)} quantiles"
        )
    for name, array in (("margins", margins), ("labels", labels), ("weights", weights)):
        dimensions = 2 if several and name == "margins" else 1
        if array.dtype != np.float32 or array.ndim != dimensions or array.shape[-1] != count:
            raise DataError(f"{name} are {array.dtype}{array.shape}; expected float32 of {count} rows")
        if not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(-1, count).all(axis=0)
            raise DataError(f"{name}: row {int(np.argmin(finite))} is not a finite number")
    if count > scale.n_rows_total:
        raise DataError(f"{count} rows; expected at most n_rows_total = {scale.n_rows_total}")
    _check_range("weights", weights, 0.0, math.ldexp(1.0, scale.weight_exponent))
    if is_binary(objective) or softmax:
        _check_range("labels", labels, 0.0, len(margins) - 1.0 if softmax else 1.0)
        return
    bound = math.ldexp(1.0, scale.label_exponent)
    _check_range("labels", labels, 0.0 if is_exponential(objective) else -bound, bound)
    if objective == "reg:squarederror":
        _check_range("prediction minus label", margins.astype(np.float64) - labels, -4 * bound, 4 * bound)


def _check_range(name: str, values: npt.NDArray[np.floating], low: float, high: float) -> None:
    inside = (values >= low) & (values <= high)
    if not inside.all():
        row = int(np.argmin(inside))
        raise DataError(f"{name}: row {row} has {values[row]}; expected {low:g} to {high:g}, the public bound")


def _check_summed(name: str, objective: str, summed: Int64s) -> None:
    check_metric(name, objective)
    if summed.dtype != np.int64 or summed.shape != (sums_length(name),):
        raise DataError(f"sums of {name} are {summed.dtype}{summed.shape}; expected int64({sums_length(name)},)")
    # Float64 sums: what no honest parties send must not wrap round to something that looks good.
    totals = summed.reshape(2 if name in HIGHER_IS_BETTER else -1, -1 if name in HIGHER_IS_BETTER else 1)
    totals = totals.sum(axis=1, dtype=np.float64)
    if (summed < 0).any() or (totals > 1.001 * 2.0**TOTAL_BITS).any():
        raise DataError(f"sums of {name} exceed 0 to 2**{TOTAL_BITS}; a party's sums are not what they should be")


@njit(cache=True, nogil=True, error_model="numpy")
def _fixed(value: float, unit: float) -> np.int64:
    return np.int64(np.rint(value * unit))


@njit(cache=True, nogil=True, error_model="numpy")
def _prediction(margin: float, link: int, most: float) -> float:
    prediction = margin
    if link == PROBABILITY:
        prediction = sigmoid(margin)
    elif link == MEAN:
        prediction = exp(margin)
    return min(max(prediction, -most), most)


@njit(cache=True, nogil=True, error_model="numpy")
def log_gamma(x: float) -> float:
    """ln of the gamma function of x >= 1, within 1e-14 (relative, or absolute where it is below 1); bits as `elementary`.

    Stirling's series from 10 on, below which x is raised: ln gamma(x) = ln gamma(x + n) - ln(x (x + 1) ... (x + n - 1)).
    """
    product = 1.0
    while x < 10.0:
        product *= x
        x += 1.0
    z = 1.0 / (x * x)
    tail = S1 + z * (S2 + z * (S3 + z * (S4 + z * (S5 + z * (S6 + z * S7)))))
    result: float = (x - 0.5) * log(x) - x + HALF_LOG_2PI + tail / x - log(product)
    return result


@njit(cache=True, nogil=True, error_model="numpy")
def _poisson_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, most: float) -> np.int64:
    # -ln of the probability of y at the mean p = e^m: ln gamma(y + 1) + p - y ln p, never below 0.
    total = np.int64(0)
    for row in range(margins.shape[0]):
        label = np.float64(labels[row])
        mean = min(exp(np.float64(margins[row])), most)
        loss = log_gamma(label + 1.0) + mean - label * log(max(mean, LEAST_MEAN))
        total += _fixed(max(loss, 0.0) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _weight_sum(weights: Float32s, unit: float) -> np.int64:
    total = np.int64(0)
    for row in range(weights.shape[0]):
        total += _fixed(np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _logloss_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float) -> np.int64:
    # -y ln p - (1-y) ln(1-p), with p = 1 / (1 + e**-m), is max(m, 0) + ln(1 + e**-|m|) - y m.
    total = np.int64(0)
    for row in range(margins.shape[0]):
        margin = np.float64(margins[row])
        loss = max(margin, 0.0) + log(1.0 + exp(-abs(margin))) - np.float64(labels[row]) * margin
        total += _fixed(min(max(loss, 0.0), LOGLOSS_LIMIT) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _class_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, is_loss: bool) -> np.int64:
    # -ln p_y = ln(sum over k of e^(m_k - M)) + M - m_y, with M the largest margin; or whether the first class with M is another than y.
    total = np.int64(0)
    for row in range(margins.shape[1]):
        label = np.int64(labels[row])
        best = 0
        for k in range(1, margins.shape[0]):
            if margins[k, row] > margins[best, row]:
                best = k
        value = 0.0 if best == label else 1.0
        if is_loss:
            highest = np.float64(margins[best, row])
            spread = 0.0
            for k in range(margins.shape[0]):
                spread += exp(np.float64(margins[k, row]) - highest)
            value = min(log(spread) + highest - np.float64(margins[label, row]), LOGLOSS_LIMIT)
        total += _fixed(value * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _error_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, threshold: np.float32) -> np.int64:
    # A row counts as class 1 where p > 1/2, or the threshold given, p in float32 as XGBoost predicts it.
    total = np.int64(0)
    for row in range(margins.shape[0]):
        label = np.float64(labels[row])
        is_one = np.float32(sigmoid(np.float64(margins[row]))) > threshold
        total += _fixed((1.0 - label if is_one else label) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _squared_error_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, link: int, most: float
) -> np.int64:
    total = np.int64(0)
    for row in range(margins.shape[0]):
        difference = _prediction(np.float64(margins[row]), link, most) - np.float64(labels[row])
        total += _fixed(difference * difference * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _absolute_error_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, link: int, most: float
) -> np.int64:
    total = np.int64(0)
    for row in range(margins.shape[0]):
        difference = _prediction(np.float64(margins[row]), link, most) - np.float64(labels[row])
        total += _fixed(abs(difference) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _relative_error_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, link: int, most: float
) -> tuple[np.int64, np.int64]:
    total, failed = np.int64(0), np.int64(0)
    for row in range(margins.shape[0]):
        label, weight = np.float64(labels[row]), np.float64(weights[row])
        if label == 0.0:
            failed += np.int64(weight > 0.0)
            continue
        share = abs((label - _prediction(np.float64(margins[row]), link, most)) / label)
        total += _fixed(min(share, 2.0**MAPE_BITS) * weight, unit)
    return total, failed


@njit(cache=True, nogil=True, error_model="numpy")
def _squared_log_error_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, link: int, most: float
) -> tuple[np.int64, np.int64]:
    total, failed = np.int64(0), np.int64(0)
    for row in range(margins.shape[0]):
        weight = np.float64(weights[row])
        label, prediction = np.float64(labels[row]), _prediction(np.float64(margins[row]), link, most)
        if not (prediction > -1.0 and label > -1.0):
            failed += np.int64(weight > 0.0)
            continue
        difference = log(1.0 + label) - log(1.0 + prediction)
        total += _fixed(difference * difference * weight, unit)
    return total, failed


@njit(cache=True, nogil=True, error_model="numpy")
def _pseudo_huber_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, link: int, most: float, slope: float
) -> np.int64:
    # s^2 (sqrt(1 + (z / s)^2) - 1) is z^2 / (1 + sqrt(1 + (z / s)^2)).
    total = np.int64(0)
    for row in range(margins.shape[0]):
        z = _prediction(np.float64(margins[row]), link, most) - np.float64(labels[row])
        ratio = z / slope
        total += _fixed(z * z / (1.0 + np.sqrt(1.0 + ratio * ratio)) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _pinball_sum(
    margins: Float32s, labels: Float32s, weights: Float32s, unit: float, most: float, quantiles: npt.NDArray[np.float64]
) -> np.int64:
    # The mean over quantiles a of a (y - p) where y >= p, and of (1 - a) (p - y) elsewhere.
    total = np.int64(0)
    for row in range(margins.shape[1]):
        label, loss = np.float64(labels[row]), 0.0
        for output in range(margins.shape[0]):
            difference = label - _prediction(np.float64(margins[output, row]), IDENTITY, most)
            share = quantiles[output] if difference >= 0.0 else quantiles[output] - 1.0
            loss += share * difference
        total += _fixed(loss / margins.shape[0] * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _gamma_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, most: float) -> np.int64:
    # -ln of the exponential density at y with the mean p = e^m, as XGBoost: y / p + ln p.
    total = np.int64(0)
    for row in range(margins.shape[0]):
        mean = max(min(exp(np.float64(margins[row])), most), LEAST_GAMMA_MEAN)
        loss = np.float64(labels[row]) / mean + log(mean) + NLOGLIK_OFFSET
        total += _fixed(min(max(loss, 0.0), 2.0**GAMMA_BITS) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _gamma_deviance_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, most: float) -> np.int64:
    # 2 (ln(p / y) + y / p - 1).
    total = np.int64(0)
    for row in range(margins.shape[0]):
        mean = min(exp(np.float64(margins[row])), most) + LEAST_GAMMA_MEAN
        label = np.float64(labels[row]) + LEAST_GAMMA_MEAN
        loss = 2.0 * (log(mean / label) + label / mean - 1.0)
        total += _fixed(min(max(loss, 0.0), 2.0**GAMMA_BITS) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _tweedie_sum(
    margins: Float32s,
    labels: Float32s,
    weights: Float32s,
    unit: float,
    most: float,
    power: float,
    highest: float,
) -> np.int64:
    # y p^(1 - r) / (r - 1) + p^(2 - r) / (2 - r), with p = e^m and the variance's power r.
    total = np.int64(0)
    farthest = log(most)
    for row in range(margins.shape[0]):
        margin = max(min(np.float64(margins[row]), farthest), -FARTHEST_MARGIN)
        loss = np.float64(labels[row]) * exp((1.0 - power) * margin) / (power - 1.0)
        loss += exp((2.0 - power) * margin) / (2.0 - power)
        total += _fixed(min(loss, highest) * np.float64(weights[row]), unit)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _score_histogram(margins: Float32s, labels: Float32s, weights: Float32s, unit: float, histogram: Int64s) -> None:
    for row in range(margins.shape[0]):
        place = np.floor((np.float64(margins[row]) - SCORE_LOWEST) * SCORE_BUCKETS_PER_UNIT)
        bucket = np.uint64(min(max(place, 0.0), SCORE_BUCKETS - 1.0))
        label, weight = np.float64(labels[row]), np.float64(weights[row])
        histogram[bucket] += _fixed(label * weight, unit)
        histogram[bucket + np.uint64(SCORE_BUCKETS)] += _fixed((1.0 - label) * weight, unit)


@njit(cache=True, nogil=True, error_model="numpy")
def _auc(summed: Int64s) -> tuple[float, float]:
    """(auc, its resolution): pairs won plus half of those tied, and half of those tied, over all pairs."""
    above = won = tied = positives = negatives = 0.0
    for bucket in range(SCORE_BUCKETS - 1, -1, -1):
        positive, negative = np.float64(summed[bucket]), np.float64(summed[bucket + SCORE_BUCKETS])
        won += above * negative
        tied += positive * negative
        above += positive
        positives += positive
        negatives += negative
    pairs = positives * negatives
    if pairs == 0.0:
        return np.nan, np.nan
    return (won + 0.5 * tied) / pairs, 0.5 * tied / pairs


@njit(cache=True, nogil=True, error_model="numpy")
def _aucpr(summed: Int64s, is_ordered: bool, positives_first: bool) -> float:
    """Area under precision over recall, from the highest bucket down.

    A bucket is one step (ties), or two where its rows are taken as ordered: positives before negatives, or
    after.
    """
    positives = negatives = 0.0
    for bucket in range(SCORE_BUCKETS):
        positives += np.float64(summed[bucket])
        negatives += np.float64(summed[bucket + SCORE_BUCKETS])
    if positives == 0.0 or negatives == 0.0:
        return np.nan
    area = true = false = 0.0
    for bucket in range(SCORE_BUCKETS - 1, -1, -1):
        positive, negative = np.float64(summed[bucket]), np.float64(summed[bucket + SCORE_BUCKETS])
        false_at_end = false + negative
        if is_ordered:
            false = false if positives_first else false_at_end
            area += _area_of_step(true, true + positive, false, false, positives)
        else:
            area += _area_of_step(true, true + positive, false, false_at_end, positives)
        true += positive
        false = false_at_end
    return area


@njit(cache=True, nogil=True, error_model="numpy")
def _area_of_step(true: float, true_end: float, false: float, false_end: float, positives: float) -> float:
    """Area over one step, along which false positives grow linearly with true positives.

    Precision at recall r is r / (a r + b), with a = 1 + h, b = (FP - h TP) / P, h = dFP / dTP (Davis &
    Goadrich 2006, section 3; XGBoost integrates the same curve): the integral is (dr - b/a (ln(a r' + b) -
    ln(a r + b))) / a.
    """
    if true_end == true:
        return 0.0
    h = (false_end - false) / (true_end - true)
    a, b = 1.0 + h, (false - h * true) / positives
    recall, recall_end = true / positives, true_end / positives
    if b == 0.0:
        return (recall_end - recall) / a
    area: float = (recall_end - recall - b / a * (log(a * recall_end + b) - log(a * recall + b))) / a
    return area
