"""Slow, plain twin of the search for quantiles of residuals: every row is sorted, and the cell of each found by its bits."""

from __future__ import annotations

import math
import struct

import numpy as np


def size_of(bits: int) -> float:
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def bits_of(value: float) -> int:
    return struct.unpack("<I", struct.pack("<f", abs(value)))[0]


def cell_of(value: float, bits: int) -> tuple[float, float]:
    """The least and the greatest float32 that share the first `bits` bits with a value that is not 0."""
    first = bits_of(value) >> (32 - bits) << (32 - bits)
    near, far = size_of(first), size_of(first + (1 << (32 - bits)) - 1)
    return (-far, -near) if value < 0 else (near, far)


def within(value: float, label_exponent: int) -> float:
    """The value as it counts: 0 where it is small, the largest where it is larger."""
    lowest = max(label_exponent - 38, -126)
    if abs(value) < 2.0**lowest:
        return 0.0
    most = size_of(bits_of(2.0 ** (lowest + 40)) - 1)
    return math.copysign(min(abs(value), most), value)


def order_statistics(masses: list[int], alpha: float, weighted: bool) -> list[tuple[int, float]]:
    """(place, share) of the units of mass that a quantile is made of."""
    total = sum(masses)
    if weighted:
        reached = math.ceil(float(np.float32(alpha * total)))
        return [(min(max(reached - 1, 0), total - 1), 1.0)]
    if alpha <= 1 / (total + 1):
        return [(0, 1.0)]
    if alpha >= total / (total + 1):
        return [(total - 1, 1.0)]
    x = alpha * (total + 1)
    first = math.floor(x) - 1
    return [(first, 1 - (x - 1 - first)), (first + 1, x - 1 - first)]


def quantile(residuals, weights, alpha, label_exponent, min_cell_rows):
    """(the value, the width of the widest cell that it was estimated in) of one group; weights: whole numbers, or None."""
    values = [within(float(value), label_exponent) for value in residuals]
    masses = [1] * len(values) if weights is None else [int(w) for w in weights]
    if not sum(masses):
        return 0.0, 0.0
    found, widest = 0.0, 0.0
    for place, share in order_statistics(masses, alpha, weights is not None):
        below = 0
        for own, mass in sorted(zip(values, masses, strict=True)):
            below += mass
            if below > place:
                value = own
                break
        low = high = 0.0
        if value:
            for bits in (12, 17, 22, 27, 32):
                low, high = cell_of(value, bits)
                if sum(low <= other <= high for other in values) <= min_cell_rows:
                    break
        inside = sum(m for other, m in zip(values, masses, strict=True) if low <= other <= high)
        before = sum(m for other, m in zip(values, masses, strict=True) if other < low)
        found += share * (low + (place - before + 0.5) / inside * (high - low))
        widest = max(widest, high - low)
    return float(np.float32(found)), widest


def xgboosts(residuals, weights, alpha):
    """XGBoost's quantile of the same rows (`common::Quantile`, `common::WeightedQuantile`), in float64."""
    order = np.argsort(residuals, kind="stable")
    values = np.asarray(residuals, np.float64)[order]
    if weights is not None:
        below = np.cumsum(np.asarray(weights)[order])
        reached = np.float32(alpha * below[-1])
        return float(values[min(np.searchsorted(below, reached), len(values) - 1)])
    return float(sum(share * values[place] for place, share in order_statistics([1] * len(values), alpha, False)))
