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
from hansa.trees.losses import CLASS_METRICS, LOSSES, is_exponential, is_logistic, is_softmax

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

CLASSIFICATION_METRICS = ("logloss", "error", "auc", "aucpr")
REGRESSION_METRICS = ("rmse", "mae")
COUNT_METRICS = ("poisson-nloglik",)
METRICS = CLASSIFICATION_METRICS + REGRESSION_METRICS + COUNT_METRICS + CLASS_METRICS
"""All names that a plan may give; `losses.Loss.metrics` has those of each objective."""

HIGHER_IS_BETTER = ("auc", "aucpr")

TOTAL_BITS = 62
"""No total exceeds 2**62 in size."""

SCORE_BUCKETS = 4096
SCORE_BUCKETS_PER_UNIT = 256
SCORE_LOWEST = -8.0
"""Bucket i holds margins in [-8 + i/256, -8 + (i+1)/256); the first and last also hold all beyond."""

NO_ROWS = "no rows are held out"
ONE_LABEL = "the held-out rows have one label only (rows of weight 0 do not count)"
NO_WEIGHT = "the held-out rows all have weight 0"
"""Why a metric of held-out rows has no value."""

LEAST_MEAN = 1e-16
"""XGBoost's floor on a mean whose logarithm is taken."""

NLOGLIK_BITS = 6
"""-ln of a Poisson probability is at most b/4 ln(1 + b) + b + 37 b/4 < 2^6 b for labels up to b/4 and means up to b <= 2^130."""

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
            above that counts as that. Not used where labels are 0 and 1.

    Raises:
        PlanError: a bound is out of range.
    """

    n_rows_total: int
    weight_exponent: int = 0
    label_exponent: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.n_rows_total <= 2**40:
            raise PlanError(f"n_rows_total is {self.n_rows_total}; expected 1 to 2**40")
        for name in ("weight_exponent", "label_exponent"):
            if not -149 <= getattr(self, name) <= 128:
                raise PlanError(f"{name} is {getattr(self, name)}; expected -149 to 128, the range of float32")


def _check_known(name: str) -> None:
    if name not in METRICS:
        raise PlanError(f"eval_metric {name!r} is unknown; expected one of {', '.join(METRICS)}")


def check_metric(name: str, objective: str) -> None:
    """Refuse an unknown metric, or one that makes no sense for the objective.

    Raises:
        PlanError: naming the metric and those that there are.
    """
    _check_known(name)
    if name not in LOSSES[objective].metrics:
        raise PlanError(
            f"eval_metric {name!r} does not go with the objective {objective}; expected one of "
            f"{', '.join(LOSSES[objective].metrics)}"
        )


def is_improvement(name: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Whether `value` is better than `best` by more than `min_delta`; NaN never is, any number beats None.

    Raises:
        PlanError: the metric is unknown.
    """
    _check_known(name)
    if best is None or math.isnan(value):
        return not math.isnan(value)
    return value - best > min_delta if name in HIGHER_IS_BETTER else best - value > min_delta


def best_round(name: str, values: Sequence[float | None]) -> int | None:
    """The number of the first round, from 1, whose value none of the others beats; None where no round has a value.

    Args:
        name: a metric. values: of the rounds 1, 2, ...; None where the metric has none.

    Raises:
        PlanError: the metric is unknown.
    """
    best: float | None = None
    at: int | None = None
    for number, value in enumerate(values, 1):
        if value is not None and is_improvement(name, value, best):
            best, at = value, number
    return at


def stops_early(name: str, values: Sequence[float | None], stopping_rounds: int) -> bool:
    """Whether so many rounds with a value came after the best one; rounds without a value stop nothing. Arguments as `best_round`."""
    best = best_round(name, values)
    return best is not None and sum(value is not None for value in values[best:]) >= stopping_rounds


def sums_length(name: str) -> int:
    """Entries of the array that `metric_sums` returns: 2 x 4096 for auc and aucpr, which share it; else 2."""
    return 2 * SCORE_BUCKETS if name in HIGHER_IS_BETTER else 2


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
            no probabilities, which logloss and error need).
        margins, labels: float32 (n_rows,). Labels of such an objective lie in [0, 1]. Of multi:softprob margins are (classes, n_rows).
        weights: float32 (n_rows,), not negative; None means 1 for each row.
        scale: the public bounds.

    Returns:
        int64 (sums_length(name),), entries 0 to 2**62. For auc and aucpr: weights of positives by bucket,
        then of negatives. Else: sum of weight x value, sum of weights; each at its own scale.

    Raises:
        PlanError: the metric does not fit the objective.
        DataError: an array of another shape or dtype, a value that is not finite, or one beyond a public
        bound.
    """
    check_metric(name, objective)
    if weights is None:
        weights = np.ones(labels.shape, dtype=np.float32)
    _check_rows(objective, margins, labels, weights, scale)
    weight_unit = math.ldexp(1.0, _fraction_bits(scale, 0))
    if name in HIGHER_IS_BETTER:
        histogram = np.zeros(2 * SCORE_BUCKETS, dtype=np.int64)
        _score_histogram(margins, labels, weights, weight_unit, histogram)
        return histogram
    unit = math.ldexp(1.0, _fraction_bits(scale, _value_bits(name, objective, scale)))
    link, most = _link(objective), math.ldexp(1.0, scale.label_exponent + 2)
    if name in CLASS_METRICS:
        total = _class_sum(margins, labels, weights, unit, name == "mlogloss")
    elif name == "logloss":
        total = _logloss_sum(margins, labels, weights, unit)
    elif name == "error":
        total = _error_sum(margins, labels, weights, unit)
    elif name == "rmse":
        total = _squared_error_sum(margins, labels, weights, unit, link, most)
    elif name == "poisson-nloglik":
        total = _poisson_sum(margins, labels, weights, unit, most)
    else:
        total = _absolute_error_sum(margins, labels, weights, unit, link, most)
    return np.array([total, _weight_sum(weights, weight_unit)], dtype=np.int64)


def metric_value(name: str, objective: str, summed: Int64s, scale: MetricScale) -> float:
    """The metric of all rows, from the parties' added sums; NaN where it has no meaning.

    That is where the weights sum to 0 and, for auc and aucpr, where there is one class only.

    Raises:
        PlanError: the metric does not fit the objective.
        DataError: `summed` cannot be a sum of what parties send.
    """
    _check_summed(name, objective, summed)
    if name == "auc":
        return float(_auc(summed)[0])
    if name == "aucpr":
        return float(_aucpr(summed, False, False))
    if summed[1] == 0:
        return math.nan
    # Division of Python's integers rounds once.
    shift = _fraction_bits(scale, 0) - _fraction_bits(scale, _value_bits(name, objective, scale))
    mean = math.ldexp(int(summed[0]) / int(summed[1]), shift)
    return math.sqrt(mean) if name == "rmse" else mean


def why_no_value(name: str, summed: Int64s) -> str:
    """Why `metric_value` of these sums is NaN, as part of a sentence; "" where it is a number."""
    weights = summed.reshape(2, -1).sum(axis=1, dtype=np.float64)[0 if name in HIGHER_IS_BETTER else 1 :]
    if not weights.any():
        return NO_WEIGHT
    return "" if weights.all() else ONE_LABEL


def _value_bits(name: str, objective: str, scale: MetricScale) -> int:
    """v such that no row's value exceeds 2**v."""
    if name in ("logloss", "mlogloss"):
        return LOGLOSS_BITS
    if name in ("error", "merror") or is_logistic(objective):
        return 0
    if name == "poisson-nloglik":
        return scale.label_exponent + 2 + NLOGLIK_BITS
    return (scale.label_exponent + 2) * (2 if name == "rmse" else 1)


def _fraction_bits(scale: MetricScale, value_bits: int) -> int:
    return TOTAL_BITS - (scale.n_rows_total - 1).bit_length() - scale.weight_exponent - value_bits


def _link(objective: str) -> int:
    if is_logistic(objective):
        return PROBABILITY
    return MEAN if is_exponential(objective) else IDENTITY


def _check_rows(objective: str, margins: Float32s, labels: Float32s, weights: Float32s, scale: MetricScale) -> None:
    count, softmax = margins.shape[-1], is_softmax(objective)
    for name, array in (("margins", margins), ("labels", labels), ("weights", weights)):
        dimensions = 2 if softmax and name == "margins" else 1
        if array.dtype != np.float32 or array.ndim != dimensions or array.shape[-1] != count:
            raise DataError(f"{name} are {array.dtype}{array.shape}; expected float32 of {count} rows")
        if not np.isfinite(array).all():
            finite = np.isfinite(array).reshape(-1, count).all(axis=0)
            raise DataError(f"{name}: row {int(np.argmin(finite))} is not a finite number")
    if count > scale.n_rows_total:
        raise DataError(f"{count} rows; expected at most n_rows_total = {scale.n_rows_total}")
    _check_range("weights", weights, 0.0, math.ldexp(1.0, scale.weight_exponent))
    if is_logistic(objective) or softmax:
        _check_range("labels", labels, 0.0, len(margins) - 1.0 if softmax else 1.0)
        return
    bound = math.ldexp(1.0, scale.label_exponent)
    _check_range("labels", labels, 0.0 if is_exponential(objective) else -bound, bound)
    if not is_exponential(objective):
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
    totals = summed.reshape(2, -1).sum(axis=1, dtype=np.float64)
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
        prediction = min(exp(margin), most)
    return prediction


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
def _error_sum(margins: Float32s, labels: Float32s, weights: Float32s, unit: float) -> np.int64:
    # A row counts as class 1 where p > 1/2, p in float32 as XGBoost predicts it.
    total = np.int64(0)
    for row in range(margins.shape[0]):
        label = np.float64(labels[row])
        is_one = np.float32(sigmoid(np.float64(margins[row]))) > np.float32(0.5)
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
