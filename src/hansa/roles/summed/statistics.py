"""What is asked about labels and weights before the first tree, as sums that add up over parties.

magnitudes   how many |labels|, of each label, and weights have each binary exponent: gives public powers of two that bound them
labels       of each label sum w y, sum w, rows with label 1, rows: give the base scores and scale_pos_weight; where a base score is a
             Newton step from margin 0, sums of g and h there too
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hansa.errors import DataError, HansaError, PlanError
from hansa.plan import Plan
from hansa.trees import objective
from hansa.trees.elementary import log, sigmoid
from hansa.trees.leaf_choices import enough_rows, leaf_bits_for
from hansa.trees.losses import (
    LEAST_PROBABILITY,
    LEAST_SHIFTED,
    LOSSES,
    is_binary,
    is_exponential,
    is_logistic,
    is_quantile,
    is_softmax,
)
from hansa.trees.metrics import MetricScale
from hansa.trees.parameters import Parameters

Int64 = npt.NDArray[np.int64]

EXPONENTS = 256
"""Values of float32's exponent field."""

LABEL_SUMS = 4

STEP_SUMS = 2
"""Sums of g and h at margin 0."""

LEAST_SUM_OF_HESSIANS = 1e-6
"""By no less does XGBoost divide for its Newton step."""

STEP_BITS = {"pseudo-Huber": (0, 0), "squared log error": (5, 7)}
"""By how many bits the units of sums of g and h at margin 0 are above those of w y and w: there |g| <= w min(s, |y|) and h <= w; of
squared log error |g| = w |ln(1 + y)| < 2^5 w L for |y| < L, a power of two (-ln(1 + y) is below 16.7 for any float32 y above -1, and
below 1.4 |y| above -1/2), and h <= w (1 + ln(1 + y)) < 2^7 w."""


def label_sums(parameters: Parameters) -> int:
    """Numbers that a party sums over labels and weights, of each label: `LABEL_SUMS`; where a Newton step gives the base score
    `STEP_SUMS`; of several classes one for each."""
    start = LOSSES[parameters.objective].start
    return parameters.num_target * (
        LABEL_SUMS + {"Newton step": STEP_SUMS, "shares": parameters.num_class}.get(start, 0)
    )


def balanced(
    weights: npt.NDArray[np.float32] | None, held: int, n_rows: int, n_parties: int, own: int
) -> npt.NDArray[np.float32]:
    """Weights with which every party's rows count as much as another's, float32 (rows,).

    Args:
        weights: of this party's rows, or None. held: how many rows it has. n_rows: that all parties train on, own: that this one does.
            All counts are public. Of a party that trains on none, held-out rows keep their weights.
    """
    scale = np.float32(n_rows / (n_parties * own) if own else 1)
    given = np.ones(held, np.float32) if weights is None else weights
    return np.asarray(given * scale, np.float32)


def count_magnitudes(labels: npt.NDArray[np.float32], weights: npt.NDArray[np.float32] | None) -> Int64:
    """int64 (labels + 1, 256): rows by the exponent field of each |label|, and of the weight (all at 1's where there is none).

    Args:
        labels: float32 (rows,), or (labels, rows) of several. weights: float32 (rows,), or None.
    """
    given = np.ones(labels.shape[-1], np.float32) if weights is None else weights
    counts = [
        np.bincount((np.abs(values).view(np.uint32) >> 23).astype(np.int64), minlength=EXPONENTS)
        for values in (*np.atleast_2d(labels), given)
    ]
    return np.stack(counts).astype(np.int64)


@dataclass(frozen=True)
class MagnitudeBounds:
    """No label exceeds 2^label_exponent in size, no weight exceeds 2^weight_exponent. Public, from pooled counts."""

    label_exponent: int
    weight_exponent: int

    @property
    def label(self) -> float:
        return math.ldexp(1.0, self.label_exponent)

    @property
    def weight(self) -> float:
        return math.ldexp(1.0, self.weight_exponent)


def bounds_of(magnitudes: Int64, has_weights: bool) -> MagnitudeBounds:
    """The bounds that pooled magnitudes give: a number with exponent field e is below 2^(e - 126)."""
    both = magnitudes[:-1].sum(axis=0), magnitudes[-1]
    label, weight = (int(np.flatnonzero(counts)[-1]) - 126 if counts.any() else 0 for counts in both)
    return MagnitudeBounds(label_exponent=label, weight_exponent=weight if has_weights else 0)


def label_units(bounds: MagnitudeBounds, n_rows: int) -> tuple[int, int]:
    """Exponents of the units in which w y and w are summed."""
    return (
        objective.unit_exponent(bounds.label * bounds.weight, n_rows),
        objective.unit_exponent(bounds.weight, n_rows),
    )


def sum_labels(
    labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    label_unit: int,
    weight_unit: int,
) -> Int64:
    """int64 (4,): sum w y in units of 2^label_unit, sum w in units of 2^weight_unit, rows with label 1, rows."""
    ones = np.ones_like(labels)
    return np.array(
        [
            objective.sum_fixed(labels, weights, label_unit),
            objective.sum_fixed(ones, weights, weight_unit),
            np.count_nonzero(labels == 1),
            len(labels),
        ],
        np.int64,
    )


def sum_steps(
    parameters: Parameters,
    labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    label_unit: int,
    weight_unit: int,
) -> Int64:
    """int64 (2,), sums of g and h at margin 0, in the units of w y and w raised by `STEP_BITS`; (0,) where no Newton step is taken."""
    loss = LOSSES[parameters.objective]
    if loss.start != "Newton step":
        return np.zeros(0, np.int64)
    g, h = np.empty((2, len(labels)))
    objective.gradients(parameters.objective, np.zeros_like(labels), labels, weights, 1.0, g, h, parameters.shape)
    more_g, more_h = STEP_BITS[loss.gradients]
    return np.array(
        [objective.sum_fixed(g, None, label_unit + more_g), objective.sum_fixed(h, None, weight_unit + more_h)],
        np.int64,
    )


def sum_classes(
    parameters: Parameters,
    labels: npt.NDArray[np.float32],
    weights: npt.NDArray[np.float32] | None,
    _label_unit: int,
    weight_unit: int,
) -> Int64:
    """int64 (classes,), sum w of each class in the unit of sum w; (0,) where there is one output."""
    if LOSSES[parameters.objective].start != "shares":
        return np.zeros(0, np.int64)
    ones = np.ones_like(labels)
    own = [labels == number for number in range(parameters.num_class)]
    return np.array(
        [objective.sum_fixed(ones[rows], None if weights is None else weights[rows], weight_unit) for rows in own],
        np.int64,
    )


@dataclass(frozen=True)
class BaseScore:
    """Where training starts: base_scores in label space (float32), one for each output; scale_pos_weight as a number; at most
    `weight` is the sum of all rows' weights, scale_pos_weight included."""

    base_scores: tuple[float, ...]
    scale_pos_weight: float
    weight: float


def estimated_base(objective: str, mean: float, scale_pos_weight: float) -> float:
    """The base score that XGBoost 3 estimates: the weighted mean; where positives count more or less, one Newton step.

    From margin 0, where p = 1/2, h = w/4 and g = w (1/2 - y):  margin = -G/H = 2 (s P - N) / (s P + N),
    with P and N the weights of both classes and s = scale_pos_weight (XGBoost's `fit_stump`). Of binary:logitraw the base score is a
    margin, and XGBoost takes the mean itself as one.
    """
    if scale_pos_weight == 1.0:
        return mean
    positive, negative = scale_pos_weight * mean, 1.0 - mean
    margin = 2.0 * (positive - negative) / (positive + negative)
    return float(sigmoid(margin)) if LOSSES[objective].base == "logit" else margin


def class_margins(shares: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The base scores of K classes that XGBoost estimates, float64 (K,): ln(share_k + 1e-6), less their mean; shares of the weight."""
    margins = np.array([log(share + 1e-6) for share in shares.tolist()])
    return np.asarray(margins - margins.mean())


def newton_step(objective: str, sums: Int64, label_unit: int, weight_unit: int) -> float:
    """-G / H from margin 0 (XGBoost's `fit_stump`), of pooled `sum_steps`.

    Raises HansaError where a model could not start there.
    """
    more_g, more_h = STEP_BITS[LOSSES[objective].gradients]
    g, h = math.ldexp(float(sums[0]), label_unit + more_g), math.ldexp(float(sums[1]), weight_unit + more_h)
    step = -g / max(h, LEAST_SUM_OF_HESSIANS)
    least = LEAST_SHIFTED - 1.0 if LOSSES[objective].gradients == "squared log error" else -FARTHEST_START
    if not least <= step <= FARTHEST_START:
        raise HansaError(
            f"the base score of {objective}, one Newton step from 0, would be {step:.4g}, from where trees could not be trained: give "
            "base_score in the plan, or bring the labels nearer to 0 by a constant at every party"
        )
    return step


FARTHEST_START = 1e30
"""A base score so far from 0 is no start: margins and leaves must fit float32."""


def start_of(plan: Plan, sums: Int64, label_unit: int, weight_unit: int) -> BaseScore:
    """The base scores that pooled label sums give, with `sum_steps` behind them where there are any; 0 where they are quantiles.

    sums: of each label in turn (`label_sums`).

    Raises HansaError where every row has the same class: there is nothing to learn.
    """
    labels = plan.schema.labels
    starts = [
        _start_of_label(plan, own, label_unit, weight_unit, f" of {name!r}" if len(labels) > 1 else "")
        for name, own in zip(labels, sums.reshape(len(labels), -1), strict=True)
    ]
    scores = tuple(score for own in starts for score in own.base_scores)
    return BaseScore(scores, starts[0].scale_pos_weight, max(own.weight for own in starts))


def _start_of_label(plan: Plan, sums: Int64, label_unit: int, weight_unit: int, of: str) -> BaseScore:
    """`start_of` of one label, which `of` names in errors where there are several."""
    parameters = plan.parameters
    weighted_label = math.ldexp(float(sums[0]), label_unit)
    weight = math.ldexp(float(sums[1]), weight_unit)
    positives, rows = int(sums[2]), int(sums[3])
    if weight <= 0:
        raise HansaError("all rows of all parties have weight 0; there is nothing to learn")
    mean = weighted_label / weight
    if is_softmax(parameters.objective):
        return _start_of_classes(plan, sums, weight, weight_unit)
    one_class = positives in (0, rows) or not 0 < float(np.float32(mean)) < 1
    if is_binary(parameters.objective) and one_class:
        raise HansaError(
            f"of the {rows} rows of all parties (weights of 0 not counted) all have the same label{of} "
            f"{int(positives > 0)}; {parameters.objective} needs rows of both classes"
        )
    if is_exponential(parameters.objective) and not float(np.float32(mean)) > 0:
        raise HansaError(
            f"the {rows} rows of all parties (weights of 0 not counted) all have label{of} 0, or nearly; {parameters.objective} needs "
            "rows with a label above 0: bring such rows at some party, or there is nothing to learn"
        )
    if parameters.scale_pos_weight == "auto":
        scale = (rows - positives) / positives
    else:
        scale = float(parameters.scale_pos_weight)
    base_score = parameters.base_score
    start = LOSSES[parameters.objective].start
    if base_score is None and start == "quantile":
        base_score = 0.0
    elif base_score is None and start == "majority":
        base_score = 1.0 if mean > 0.5 else 0.0
    elif base_score is None and start == "Newton step":
        base_score = newton_step(parameters.objective, sums[LABEL_SUMS:], label_unit, weight_unit)
    elif base_score is None:
        base_score = estimated_base(parameters.objective, mean, scale)
        if LOSSES[parameters.objective].base == "logit":
            base_score = min(max(base_score, LEAST_PROBABILITY), 1 - LEAST_PROBABILITY)
    # Each row's part is rounded to the nearest unit.
    most = math.ldexp(float(sums[1]) + rows, weight_unit)
    if scale > 1.0:
        most += (scale - 1.0) * math.ldexp(float(sums[0]) + rows, label_unit)
    return BaseScore((float(np.float32(base_score)),) * (parameters.outputs // parameters.num_target), scale, most)


def base_is_quantile(plan: Plan) -> bool:
    """Whether training starts from quantiles of the labels, which are looked for once the cuts are there."""
    parameters = plan.parameters
    given = (
        parameters.base_score is not None or plan.start_model or (plan.schema.base_margin and parameters.outputs > 1)
    )
    return LOSSES[parameters.objective].start == "quantile" and not given


def _start_of_classes(plan: Plan, sums: Int64, weight: float, weight_unit: int) -> BaseScore:
    """`start_of` of several classes."""
    of_classes = sums[LABEL_SUMS:]
    empty = np.flatnonzero(of_classes == 0)
    if len(of_classes) - len(empty) < 2:
        raise HansaError(
            f"all {int(sums[3])} rows of all parties are of one class (rows of weight 0 not counted); there is nothing to learn"
        )
    given = plan.parameters.base_score
    scores = (
        class_margins(np.array([math.ldexp(float(own), weight_unit) / weight for own in of_classes]))
        if given is None
        else np.full(len(of_classes), given)
    )
    most = math.ldexp(float(sums[1]) + int(sums[3]), weight_unit)
    return BaseScore(tuple(float(np.float32(score)) for score in scores), 1.0, most)


def rounded_leaf_bits(plan: Plan, rows: int, base_score: float, scale_pos_weight: float) -> int | None:
    """Fraction bits that the plan leaves to leaf values; None where they stay as they are.

    Args:
        rows: of all parties, in training. base_score, scale_pos_weight: of the run. All public: every member finds the same.

    Raises PlanError where the plan gives `release.least_choices`, and the rows are too few for it.
    """
    if plan.release.leaf_bits is not None or not plan.least_choices:
        return plan.release.leaf_bits
    drawn = max(1, int(rows * plan.parameters.subsample))
    public = (plan.least_choices, drawn, plan.parameters, base_score, scale_pos_weight)
    if plan.release.least_choices and not enough_rows(*public):
        raise PlanError(
            f"{drawn} rows in training are too few for release.least_choices = {plan.least_choices}: leaf values would have to be "
            "rounded to more than an eighth of eta; ask for fewer choices, or give release.leaf_bits"
        )
    return leaf_bits_for(*public)


LIGHT_ROWS = 0.05
"""Share of the rows, the lightest ones, that 32 bits may count coarsely."""

MOST_SKEW = 64
MOST_SKEWED_ROWS = 2**21
"""A sum of 31 bits gives the lightest row that counts at least 2^31 / (rows x skew) units: 1,000 or more."""


def histogram_bits_of(plan: Plan, magnitudes: Int64, sums: Int64, start: BaseScore) -> int:
    """Bits of each sum in a histogram: the plan's, or with "auto" 64 where 32 would count many rows too coarsely.

    One unit serves all rows of a tree, and their sum fixes it: where few rows make up most of the sum, few units are left for the
    others. The skew is the mean weight of a row (scale_pos_weight included) over a weight that all rows but `LIGHT_ROWS` reach; for
    most regressions times the mean |label| over the median of those that are not 0. It is taken from the pooled counts by binary
    exponent, so it is known to a factor of two, and is the same for any split of the rows.

    Args:
        magnitudes: as `count_magnitudes`, pooled. sums: as `sum_labels`, pooled.
    """
    given = plan.parameters.histogram_bits
    if given != "auto":
        return int(given)
    each = zip(magnitudes[:-1], sums.reshape(len(magnitudes) - 1, -1), strict=True)
    return max(_bits_of_label(plan, labels, magnitudes[-1], own, start.scale_pos_weight) for labels, own in each)


def _bits_of_label(plan: Plan, of_labels: Int64, of_weights: Int64, sums: Int64, scale_pos_weight: float) -> int:
    """`histogram_bits_of` of one label, 32 or 64."""
    positives, rows = int(sums[2]), max(int(sums[3]), 1)
    weights = _typical(of_weights)
    if is_softmax(plan.parameters.objective):
        skew = _mean(weights) / _quantile(weights, LIGHT_ROWS)
    elif is_logistic(plan.parameters.objective):
        share = min(max(positives / rows, 0.0), 1.0)
        weights = [
            *((size, count * (1 - share)) for size, count in weights),
            *((size * scale_pos_weight, count * share) for size, count in weights),
        ]
        skew = _mean(weights) / _quantile(weights, LIGHT_ROWS)
    else:
        labels = _typical(of_labels)
        skew = _mean(weights) / _quantile(weights, LIGHT_ROWS)
        if not is_quantile(plan.parameters.objective):  # whose gradients are as large as weights, whatever the labels
            skew *= max(_mean(labels) / _quantile(labels, 0.5), 1.0)
    coarse = skew > MOST_SKEW and skew * rows > MOST_SKEWED_ROWS
    return 64 if coarse or rows >= objective.MOST_ROWS_OF_32_BITS else 32


def _typical(counts: Int64) -> list[tuple[float, float]]:
    """(a number in the middle of those with this exponent field, how many there are), but for zeros; one 1 where all are."""
    found = [(math.ldexp(1.5, int(field) - 127), float(counts[field])) for field in np.flatnonzero(counts > 0) if field]
    return found or [(1.0, 1.0)]


def _mean(sizes: list[tuple[float, float]]) -> float:
    return sum(size * count for size, count in sizes) / sum(count for _, count in sizes)


def _quantile(sizes: list[tuple[float, float]], share: float) -> float:
    """The least size that more than `share` of them do not exceed."""
    below, enough = 0.0, share * sum(count for _, count in sizes)
    for size, count in sorted(sizes):
        below += count
        if below > enough:
            return size
    return max(sizes)[0]


def metric_scale(parameters: Parameters, n_rows: int, bounds: MagnitudeBounds, gradient_bound: float) -> MetricScale:
    """The units of metric sums over n_rows held-out rows, where no row's |g| exceeds gradient_bound.

    For squared error |g| = w |m - y|, so that |m - y| <= gradient_bound / weight bound (`MetricScale` allows 4 label bounds). Of
    other predictions, which no gradient of held-out rows bounds, those above 4 label bounds (3 where they may be negative) count as
    that.
    """
    exponent = bounds.label_exponent
    if not is_exponential(parameters.objective) and LOSSES[parameters.objective].start == "mean":
        exponent = max(exponent, math.frexp(gradient_bound / bounds.weight)[1] - 2)
    # A metric is a mean over rows and labels.
    n_values = n_rows * parameters.num_target
    return MetricScale(n_values, bounds.weight_exponent, exponent, parameters.huber_slope, parameters.quantiles)


def shap_rows(plan: Plan, n_rows: int, n_evaluation: int) -> int:
    """Rows that a plan's SHAP summary is of, of so many trained on and held out; public."""
    return n_evaluation if plan.shap == "held-out" else n_rows + n_evaluation


def shap_unit(plan: Plan, most: float, n_rows: int, n_evaluation: int) -> int:
    """Exponent of the unit in which sizes of SHAP values are summed, none of which exceeds `most`."""
    return objective.unit_exponent(max(most, LEAST_SIZE), max(shap_rows(plan, n_rows, n_evaluation), 1))


LEAST_SIZE = 2.0**-100
"""Of SHAP values that are told apart from 0."""

LARGEST_LABEL_EXPONENT = 45
"""Gains, of the order of rows times label squared, must fit float32."""


LARGEST_WEIGHT_EXPONENT = 64
"""Sums of hessians must fit float32, of rows whose labels are as small as can be too."""


def check_label_size(bounds: MagnitudeBounds) -> None:
    """Raise HansaError where labels, or weights, are so large that gains would overflow."""
    heaviest = max(bounds.weight_exponent, 0)
    if heaviest > LARGEST_WEIGHT_EXPONENT:
        raise HansaError(
            f"weights reach 2^{heaviest}; weights of at most 2^{LARGEST_WEIGHT_EXPONENT} can be trained on: divide the weights by a "
            "constant at every party"
        )
    if bounds.label_exponent + heaviest > LARGEST_LABEL_EXPONENT:
        large = "weights" if heaviest > bounds.label_exponent else "labels"
        raise HansaError(
            f"labels reach 2^{bounds.label_exponent} and weights 2^{heaviest}; labels times weights of at most "
            f"2^{LARGEST_LABEL_EXPONENT} can be trained on: divide the {large} by a constant at every party"
        )


def check_own_size(magnitudes: Int64, has_weights: bool, owner: str) -> None:
    """Refuse what `check_label_size` would refuse of a party's own magnitudes, where it can be named. Raises DataError.

    Whoever adds up the counts of all parties does not know whose labels or weights are so large.
    """
    try:
        check_label_size(bounds_of(magnitudes, has_weights))
    except HansaError as error:
        raise DataError(f"party {owner!r}: {error}", member=owner) from error
