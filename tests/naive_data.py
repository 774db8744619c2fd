"""Slow, plain twins of hansa.data's kernels. Tests compare; nothing else uses them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hansa.data.quantiles import CutRequest, Cuts

Array = NDArray[Any]


def key_of(value: float) -> int:
    """Order-preserving key of one float32."""
    bits = int(np.float32(value).view(np.uint32))
    if bits == 0x8000_0000:  # -0 counts as +0
        bits = 0
    return 0xFFFF_FFFF - bits if bits & 0x8000_0000 else bits + 0x8000_0000


def count_cells(features: Array, request: CutRequest) -> Array:
    """Rows in each part of each cell named, straight from the values."""
    child_bits = 12 if request.bits == 0 else request.bits + 5
    counts = np.zeros(request.n_counts, dtype=np.uint32)
    for feature, row in enumerate(features):
        parts = np.array([key_of(value) >> (32 - child_bits) for value in row if not math.isnan(value)])
        for cell in range(request.offsets[feature], request.offsets[feature + 1]):
            first = int(request.prefixes[cell]) * request.split
            edges = np.arange(first, first + request.split + 1) - 0.5
            counts[cell * request.split : (cell + 1) * request.split] = np.histogram(parts, edges)[0]
    return counts


def weigh_cells(features: Array, weights: list[int], request: CutRequest) -> list[int]:
    """Sum of the rows' weights in each part of each cell named, straight from the values."""
    child_bits = 12 if request.bits == 0 else request.bits + 5
    sums = [0] * request.n_counts
    for feature, row in enumerate(features):
        for cell in range(request.offsets[feature], request.offsets[feature + 1]):
            first = int(request.prefixes[cell]) * request.split
            for value, weight in zip(row, weights, strict=True):
                part = -1 if math.isnan(value) else (key_of(value) >> (32 - child_bits)) - first
                if 0 <= part < request.split:
                    sums[cell * request.split + part] += weight
    return sums


def smallest_mixed_bin(counts: list[int], n_bins: int) -> int:
    """Rows of the largest bin of more than one cell, at its smallest over all groupings into at most n_bins.

    Dynamic programme: best[i] for the first i cells and the bins used so far.
    """
    rows = np.concatenate([[0], np.cumsum(counts)])
    best = np.array([0.0] + [math.inf] * len(counts))
    for _ in range(n_bins):
        after = np.zeros(len(best))
        for end in range(1, len(best)):
            mixed = rows[end] - rows[:end]
            mixed[-1] = 0  # a bin of one cell is not mixed
            after[end] = np.maximum(best[:end], mixed).min()
        best = after
    return int(best[-1])


def code_rows(features: Array, cuts: Cuts) -> Array:
    """Codes (n_rows, n_features) by counting cuts."""
    codes = np.zeros((features.shape[1], len(features)), dtype=np.int64)
    for feature, row in enumerate(features):
        for index, value in enumerate(row):
            if math.isnan(value):
                codes[index, feature] = cuts.n_codes[feature] - 1
            else:
                codes[index, feature] = sum(cut <= value for cut in cuts.of(feature))
    return codes
