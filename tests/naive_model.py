"""Slow twins of the model's kernels: plain numpy and Python, one operation a line, nothing clever."""

from __future__ import annotations

import math
from math import factorial

import numpy as np

from hansa.trees.ensemble import Tree


def exp(x: np.ndarray) -> np.ndarray:
    """`hansa.trees.elementary.exp`, operation by operation on float64 arrays (NumPy never fuses them)."""
    with np.errstate(all="ignore"):
        bounded = np.where(x < -708.0, -708.0, x)
        bounded = np.where(bounded > 709.782712893384, 709.782712893384, bounded)
        rounder = np.float64(1.5 * 2.0**52)
        shifted = bounded * np.float64.fromhex("0x1.71547652b82fep+0") + rounder
        k = shifted - rounder
        r = bounded - k * np.float64.fromhex("0x1.62e42feep-1")
        r = r - k * np.float64.fromhex("0x1.a39ef35793c76p-33")
        p = np.full_like(r, 1.0 / factorial(13))
        for n in range(12, 1, -1):
            p = r * p
            p = 1.0 / factorial(n) + p
        square = r * r
        p = square * p
        p = r + p
        p = 1.0 + p
        scale = ((shifted.view(np.uint64) + np.uint64(1022)) << np.uint64(52)).view(np.float64)
        result = p * scale
        result = result * 2.0
        result = np.where(x < -708.0, 0.0, result)
        return np.where(x > 709.782712893384, np.inf, result)


def log(x: np.ndarray) -> np.ndarray:
    """`hansa.trees.elementary.log`, operation by operation on float64 arrays."""
    root_half = np.float64(math.sqrt(0.5)).view(np.uint64)
    one = np.float64(1.0).view(np.uint64)
    with np.errstate(all="ignore"):
        bits = x.view(np.uint64) + (one - root_half)
        k = (bits >> np.uint64(52)).astype(np.float64) - 1023.0
        m = ((bits & np.uint64(2**52 - 1)) + root_half).view(np.float64)
        f = m - 1.0
        s = f / (2.0 + f)
        z = s * s
        p = np.full_like(z, 2.0 / 21)
        for n in range(9, 0, -1):
            p = z * p
            p = 2.0 / (2 * n + 1) + p
        half = 0.5 * f
        half = half * f
        tail = z * p
        tail = half + tail
        tail = s * tail
        tail = tail + k * np.float64.fromhex("0x1.a39ef35793c76p-33")
        result = half - tail
        result = result - f
        result = k * np.float64.fromhex("0x1.62e42feep-1") - result
        result = np.where(x < np.finfo(np.float64).tiny, -np.inf, result)
        result = np.where(x < 0, np.nan, result)
        result = np.where(np.isinf(x) & (x > 0), np.inf, result)
        return np.where(np.isnan(x), x, result)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """`hansa.trees.elementary.sigmoid`, operation by operation on float64 arrays."""
    return 1.0 / (1.0 + exp(-x))


def leaf_value(tree: Tree, row: np.ndarray) -> np.float32:
    """Walk one row down one tree."""
    node = 0
    while tree.left_children[node] != -1:
        value = row[tree.split_indices[node]]
        condition = tree.split_conditions[node]
        if np.isnan(value):
            goes_left = tree.default_left[node]
        elif tree.split_type[node]:
            goes_left = not (0 <= value < 2**24 and int(value) == int(condition))
        else:
            goes_left = value < condition
        node = tree.left_children[node] if goes_left else tree.right_children[node]
    return tree.split_conditions[node]


def margins(trees: list[Tree], features: np.ndarray, base_margin: np.float32) -> np.ndarray:
    """float32 margins of (n_features, n_rows) features: leaf by leaf, in the order of the trees."""
    result = np.full(features.shape[1], base_margin, dtype=np.float32)
    for row in range(features.shape[1]):
        for tree in trees:
            result[row] = np.float32(result[row] + leaf_value(tree, features[:, row]))
    return result


ALPHA = 0.3
"""Quantile of the metric of that name."""


def metric_rows(name: str, objective: str, margins: np.ndarray, labels: np.ndarray, slope: float = 1.0) -> np.ndarray:
    """A metric's value for each row, in float64, from its definition."""
    margins, labels = margins.astype(np.float64), labels.astype(np.float64)
    links = dict.fromkeys(("count:poisson", "reg:gamma", "reg:tweedie"), np.exp)
    links |= {"binary:logistic": lambda m: 1 / (1 + np.exp(-m)), "binary:hinge": lambda m: np.where(m > 0, 1.0, 0.0)}
    predictions = links.get(objective, lambda m: m)(margins)
    name, _, number = name.partition("@")
    if name == "merror":
        return (np.argmax(margins, axis=0) != labels).astype(np.float64)
    if name == "mlogloss":
        return np.log(np.exp(margins).sum(axis=0)) - margins[labels.astype(int), np.arange(len(labels))]
    if name == "poisson-nloglik":
        return np.vectorize(math.lgamma)(labels + 1) + predictions - labels * margins
    if name == "gamma-nloglik":
        return labels / predictions + margins
    if name == "gamma-deviance":
        predictions, labels = predictions + 1e-6, labels + 1e-6
        return 2 * (np.log(predictions / labels) + labels / predictions - 1)
    if name == "tweedie-nloglik":
        r = float(number)
        return -labels * predictions ** (1 - r) / (1 - r) + predictions ** (2 - r) / (2 - r)
    if name == "mape":
        return np.abs((labels - predictions) / labels)
    if name == "rmsle":
        return (np.log1p(labels) - np.log1p(predictions)) ** 2
    if name == "quantile":
        difference = labels - predictions
        return np.where(difference >= 0, ALPHA * difference, (ALPHA - 1) * difference)
    if name == "mphe":
        return slope**2 * (np.sqrt(1 + ((labels - predictions) / slope) ** 2) - 1)
    if name == "logloss" and objective == "binary:hinge":
        return np.where(predictions == labels, 0, -math.log(1e-16))
    if name == "error":
        return np.where(predictions > float(number or 0.5), 1 - labels, labels)
    if name == "logloss":
        # ln(1 - p) = -ln(1 + e**m) keeps its digits where p is close to 1.
        return labels * np.logaddexp(0, -margins) + (1 - labels) * np.logaddexp(0, margins)
    return (predictions - labels) ** 2 if name == "rmse" else np.abs(predictions - labels)


def score_histogram(margins: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(2, 4096) float64: weights of positives and of negatives in buckets of width 1/256 over [-8, 8)."""
    histogram = np.zeros((2, 4096))
    for margin, label, weight in zip(margins.tolist(), labels.tolist(), weights.tolist(), strict=True):
        bucket = min(4095, max(0, math.floor((margin + 8) * 256)))
        histogram[0, bucket] += label * weight
        histogram[1, bucket] += (1 - label) * weight
    return histogram


def auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
    """Weighted share of pairs (positive, negative) that the scores order rightly; ties count half."""
    won = pairs = 0.0
    for i in np.flatnonzero(labels == 1):
        for j in np.flatnonzero(labels == 0):
            pairs += weights[i] * weights[j]
            won += weights[i] * weights[j] * (1.0 if scores[i] > scores[j] else 0.5 * (scores[i] == scores[j]))
    return won / pairs


def naive_calibration(predictions, labels, edges):
    """(rows, mean prediction, share of label 1) of every bin low < prediction <= high; the first has its low edge too."""
    found = []
    for place in range(len(edges) - 1):
        inside = []
        for p, y in zip(predictions.tolist(), labels.tolist(), strict=True):
            above = p > edges[place] or place == 0
            below = p <= edges[place + 1] or place == len(edges) - 2
            if above and below:
                inside.append((p, y))
        n = len(inside)
        found.append((n, sum(p for p, _ in inside) / n, sum(y for _, y in inside) / n) if n else (0, None, None))
    return found


def naive_confusion(labels, predicted, n_classes):
    """Rows by label and predicted class."""
    counts = [[0] * n_classes for _ in range(n_classes)]
    for label, guess in zip(labels.tolist(), predicted.tolist(), strict=True):
        counts[int(label)][int(guess)] += 1
    return tuple(map(tuple, counts))
