"""How far a metric from summed fixed-point numbers and buckets may lie from the exact rows' metric."""

from __future__ import annotations

import math

from hansa.trees.losses import HIGHER_IS_BETTER
from hansa.trees.metrics import (
    NLOGLIK_OFFSET,
    ROOTS,
    Int64s,
    MetricScale,
    _auc,
    _aucpr,
    _check_summed,
    _fraction_bits,
    _value_bits,
    metric_value,
)


def metric_resolution(name: str, objective: str, summed: Int64s, scale: MetricScale) -> float:
    """An upper bound on |metric_value - the exact rows' metric|, from the same sums; NaN as metric_value.

    It covers buckets and, to first order, fixed point. Float64 arithmetic (about 1e-15, relative to the rows'
    values) is left out.

    Raises:
        As `metric_value`.
    """
    value = metric_value(name, objective, summed, scale)
    if math.isnan(value):
        return math.nan
    # Each row's sums are off by half a unit at most.
    off = scale.n_rows_total / 2
    if name in HIGHER_IS_BETTER:
        positives, negatives = (float(part.sum()) for part in summed.reshape(2, -1))
        rounding = 2 * off * (1 / positives + 1 / negatives)
        return (auc_resolution(summed) if name == "auc" else aucpr_resolution(summed)) + rounding
    value_bits = _value_bits(name, objective, scale)
    shift = _fraction_bits(scale, 0) - _fraction_bits(scale, value_bits)
    weight = float(summed[1])
    mean = value**2 if name in ROOTS else value
    mean += NLOGLIK_OFFSET if name == "gamma-nloglik" else 0
    mean_off = (math.ldexp(off, shift) + mean * off) / max(weight - off, 1.0)
    return math.sqrt(mean) - math.sqrt(max(0.0, mean - mean_off)) if name in ROOTS else mean_off


def auc_resolution(summed: Int64s) -> float:
    """An upper bound on what orders inside buckets can change in `auc`: half of the pairs in one bucket."""
    _check_summed("auc", "binary:logistic", summed)
    return float(_auc(summed)[1])


def aucpr_resolution(summed: Int64s) -> float:
    """An upper bound on what orders inside buckets can change in `aucpr`: positives first, or negatives."""
    _check_summed("aucpr", "binary:logistic", summed)
    middle = _aucpr(summed, False, False)
    return float(max(_aucpr(summed, True, True) - middle, middle - _aucpr(summed, True, False)))
