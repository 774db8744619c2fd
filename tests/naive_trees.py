"""Slow, plain twins of the learner: loops over rows and candidates. Tests compare; nothing else uses them."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


def gradients(objective, margins, labels, weights, positive_weight, shape=0.0):
    """(g, h) float64 (n,) with numpy's own exp; agrees with the kernels to rounding."""
    margins, labels = margins.astype(np.float64), labels.astype(np.float64)
    weights = np.ones_like(labels) if weights is None else weights.astype(np.float64)
    if objective == "reg:squarederror":
        return (margins - labels) * weights, weights
    if objective == "count:poisson":
        return (np.exp(margins) - labels) * weights, np.exp(margins + shape) * weights
    if objective == "reg:gamma":
        return (1 - labels / np.exp(margins)) * weights, labels / np.exp(margins) * weights
    if objective == "reg:tweedie":
        first, second = labels * np.exp((1 - shape) * margins), np.exp((2 - shape) * margins)
        return (second - first) * weights, ((2 - shape) * second - (1 - shape) * first) * weights
    if objective == "reg:pseudohubererror":
        z = margins - labels
        root = np.sqrt(1 + z**2 / shape**2)
        return z / root * weights, shape**2 / ((shape**2 + z**2) * root) * weights
    if objective == "reg:squaredlogerror":
        margins = np.maximum(margins, -1 + 1e-6)
        g = (np.log1p(margins) - np.log1p(labels)) / (margins + 1)
        h = np.maximum((1 - np.log1p(margins) + np.log1p(labels)) / (margins + 1) ** 2, 1e-6)
        return g * weights, h * weights
    if objective == "reg:absoluteerror":
        return np.sign(margins - labels) * weights, weights
    if objective == "reg:quantileerror":
        alpha = np.float32(shape)
        return np.where(margins >= labels, float(1 - alpha), -float(alpha)) * weights, weights
    if objective == "binary:hinge":
        y = 2 * labels - 1
        wrong = margins * y < 1
        return np.where(wrong, -y * weights, 0), np.where(wrong, weights, 0)
    weights = np.where(labels == 1, weights * positive_weight, weights)
    p = 1 / (1 + np.exp(-margins))
    return (p - labels) * weights, np.maximum(p * (1 - p), 1e-16) * weights


def pack(gradient, hessian, scales):
    """int64 (planes, n) by exact arithmetic: round half up, h at least 1 where it is positive."""
    packed = np.zeros((scales.planes, len(gradient)), np.int64)
    for i, (g, h) in enumerate(zip(gradient.tolist(), hessian.tolist(), strict=True)):
        q_g = math.floor(g * scales.gradient + 0.5)
        q_h = max(math.floor(h * scales.hessian + 0.5), int(h > 0))
        if scales.planes == 1:
            packed[0, i] = q_g * 2**32 + q_h
        else:
            packed[:, i] = q_g, q_h
    return packed


def unpack(cells):
    """(g, h) whole numbers of a histogram or of packed rows, (planes, n)."""
    if len(cells) == 2:
        return [int(g) for g in cells[0]], [int(h) for h in cells[1]]
    return [int(c) >> 32 for c in cells[0]], [int(c) & 0xFFFFFFFF for c in cells[0]]


def build_histogram(codes, columns, sizes, rows, packed):
    """int64 (planes, cells): sums per (column, code), row by row; `sizes` counts each feature's codes."""
    sums = defaultdict(int)
    for row in rows:
        for position, feature in enumerate(columns):
            for plane in range(len(packed)):
                sums[position, int(codes[row, feature]), plane] += int(packed[plane, row])
    return np.array(
        [
            [sums[position, code, plane] for position, feature in enumerate(columns) for code in range(sizes[feature])]
            for plane in range(len(packed))
        ],
        np.int64,
    ).reshape(len(packed), -1)


def goes_left(code, cut, missing_code, missing_left):
    """Whether a row with this code goes left."""
    return bool(missing_left) if code == missing_code else code <= cut


def partition(codes_by_feature, rows, feature, cut, missing_code, missing_left):
    """(rows that go left, rows that go right), in order."""
    sides = [goes_left(int(codes_by_feature[feature, row]), cut, missing_code, missing_left) for row in rows]
    return (
        [row for row, left in zip(rows, sides, strict=True) if left],
        [row for row, left in zip(rows, sides, strict=True) if not left],
    )


def weight(g, h, parameters):
    """XGBoost's CalcWeight without min_child_weight."""
    if h <= 0:
        return 0.0
    w = -math.copysign(max(abs(g) - parameters.alpha, 0.0), g) / (h + parameters.lambda_)
    bound = parameters.max_delta_step
    return math.copysign(bound, w) if bound and abs(w) > bound else w


def score(g, h, parameters):
    """XGBoost's CalcGainGivenWeight at the best weight."""
    if h <= 0:
        return 0.0
    if parameters.max_delta_step == 0:
        return max(abs(g) - parameters.alpha, 0.0) ** 2 / (h + parameters.lambda_)
    w = weight(g, h, parameters)
    return -(2 * g * w + (h + parameters.lambda_) * w * w)


@dataclass(frozen=True)
class Split:
    """A candidate: its gain and what it does. Sums on the left side are whole numbers or float64."""

    gain: float
    feature: int
    bin: int
    missing_left: bool
    g: float
    h: float


def candidates(sums, columns, has_missing, parameters, unit_g=1.0, unit_h=1.0, least=None):
    """Every allowed split of a node, in the order in which ties are decided.

    `sums[j]` is a list of (g, h) per code of column j; `least` is the least h of a child, in its own unit.
    """
    least = parameters.min_child_weight if least is None else least
    total_g, total_h = (math.fsum(cell[i] for cell in sums[0]) for i in (0, 1))
    parent = score(total_g * unit_g, total_h * unit_h, parameters)
    for j, feature in enumerate(columns):
        present = sums[j][:-1] if has_missing[feature] else sums[j]
        missing = sums[j][-1] if has_missing[feature] else (0, 0)
        for side in (False, True) if missing[1] > 0 else (False,):
            g, h = missing if side else (0, 0)
            for b, (bin_g, bin_h) in enumerate(present):
                g, h = g + bin_g, h + bin_h
                other_g, other_h = total_g - g, total_h - h
                if h < least or other_h < least or h <= 0 or other_h <= 0:
                    continue
                gain = score(g * unit_g, h * unit_h, parameters) + score(other_g * unit_g, other_h * unit_h, parameters)
                yield Split(gain - parent, int(feature), b, side, g, h)


def best_split(sums, columns, has_missing, parameters, unit_g=1.0, unit_h=1.0, least=None):
    """The first of the best candidates; None where there is none."""
    return max(
        candidates(sums, columns, has_missing, parameters, unit_g, unit_h, least),
        key=lambda split: split.gain,
        default=None,
    )


def guided_candidates(
    parts, columns, has_missing, n_categories, monotone, usable, limits, parameters, least, bounds, dominated
):
    """Every allowed split of a node under rules, as {(feature, bin or categories that go right, missing left, codes that go right):
    (gain, G left, H left)}.

    Args:
        parts: by party, a list of (g, h) per code of each column; whole numbers. usable: by column, whether the node may use it.
        limits: max_cat_to_onehot, max_cat_threshold. bounds: of the node's weight, None where weights have none.
        dominated: whether each side must hold the least h without its largest party.
    """

    def weigh(g, h):
        return min(max(weight(g, h, parameters), bounds[0]), bounds[1])

    def part_of_gain(g, h):
        if bounds is None:
            return score(g, h, parameters)
        return -(2 * g * weigh(g, h) + (h + parameters.lambda_) * weigh(g, h) ** 2) if h > 0 else 0.0

    def of(party, j, codes):
        return [sum(party[j][code][i] for code in codes) for i in (0, 1)]

    found = {}
    for j, feature in enumerate(columns):
        if not usable[j]:
            continue
        codes = range(len(parts[0][j]))
        gone = codes[-1:] if has_missing[feature] else codes[:0]
        present = codes[: len(codes) - len(gone)]
        total = np.sum([of(party, j, codes) for party in parts], axis=0)
        for name, right in _right_sides(
            parts, j, feature, present, gone, n_categories, monotone, limits, parameters, least
        ):
            to_right = np.array([of(party, j, right) for party in parts])
            to_left = np.array([of(party, j, set(codes) - set(right)) for party in parts])
            (g, h), (other_g, other_h) = to_left.sum(axis=0), to_right.sum(axis=0)
            largest = [side[:, 1].max() if dominated else 0 for side in (to_left, to_right)]
            if min(h - largest[0], other_h - largest[1]) < least:
                continue
            sign = monotone[feature]
            if bounds is not None and sign * weigh(g, h) > sign * weigh(other_g, other_h):
                continue
            gain = part_of_gain(g, h) + part_of_gain(other_g, other_h) - part_of_gain(*total)
            found[(int(feature), *name, frozenset(right) - set(gone))] = gain, g, h
    return found


def _right_sides(parts, j, feature, present, gone, n_categories, monotone, limits, parameters, least):
    """((bin or categories that go right, missing left), codes that go right) of all candidates of column j."""
    held = {code: [sum(party[j][code][i] for party in parts) for i in (0, 1)] for code in (*present, *gone)}
    misses = any(held[code][1] > 0 for code in gone)
    if not n_categories[feature]:
        for left in (False, True) if misses else (False,):
            for b in range(-1 if left and monotone[feature] else 0, len(present)):
                yield (b, left), [code for code in present if code > b] + ([] if left else list(gone))
        return
    if len(present) < limits[0]:
        for code in present:
            for left in (True, False) if misses else (True,):
                yield (1, left), [code] + ([] if left else list(gone))
        return
    alone = {code: weight(*held[code], parameters) if held[code][1] >= least else 0.0 for code in present}
    order = sorted(present, key=alone.get)
    for k in range(1, min(len(order), limits[1])):
        yield (k, True), order[:k]
        yield (len(order) - k, False), order[: len(order) - k] + list(gone)


def float_sums(codes, columns, sizes, rows, gradient, hessian):
    """[[(g, h) per code] per column] in float64."""
    result = []
    for feature in columns:
        g = np.bincount(codes[rows, feature], gradient[rows], minlength=sizes[feature])
        h = np.bincount(codes[rows, feature], hessian[rows], minlength=sizes[feature])
        result.append(list(zip(g.tolist(), h.tolist(), strict=True)))
    return result


def grow_tree(codes, sizes, has_missing, gradient, hessian, parameters):
    """A whole tree in float64: {path: (Split or None, leaf value)}, where a path is a string of L and R."""
    nodes = {}
    level = [("", np.arange(len(gradient)))]
    columns = np.arange(codes.shape[1])
    while level:
        below = []
        for path, rows in level:
            best = None
            if len(path) < parameters.max_depth:
                sums = float_sums(codes, columns, sizes, rows, gradient, hessian)
                best = best_split(sums, columns, has_missing, parameters)
            if best is None or best.gain <= 1e-6 or best.gain < parameters.gamma:
                g, h = gradient[rows].sum(), hessian[rows].sum()
                value = weight(g, h, parameters) if h >= parameters.min_child_weight else 0.0
                nodes[path] = (None, parameters.eta * value)
                continue
            nodes[path] = (best, 0.0)
            missing = sizes[best.feature] - 1 if has_missing[best.feature] else -1
            sides = partition(codes.T, rows.tolist(), best.feature, best.bin, missing, best.missing_left)
            below += [(path + side, np.array(part)) for side, part in zip("LR", sides, strict=True)]
        level = below
    return nodes


def splitmix_uniforms(key, count):
    """splitmix64's outputs in [0, 1), by Python's whole numbers."""
    mask = 2**64 - 1
    values = []
    for i in range(1, count + 1):
        x = (key + i * 0x9E3779B97F4A7C15) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        values.append(((x ^ (x >> 31)) >> 11) / 2**53)
    return values


def draw(count, *key):
    """Numbers in [0, 1) under a hash of the key."""
    digest = hashlib.sha256("\x1f".join(map(str, key)).encode()).digest()
    return splitmix_uniforms(int.from_bytes(digest[:8], "little"), count)


def hash_row(values, label, seed):
    """Number in [0, 1) of one row's contents; equal rows, and -0 and +0, and all NaNs, agree."""
    mask = 2**64 - 1
    x = seed
    for value in (*values, label):
        bits = 0x7FC00000 if math.isnan(value) else int(np.float32(value + np.float32(0)).view(np.uint32))
        x = (x + 0x9E3779B97F4A7C15 + bits) & mask
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        x ^= x >> 31
    return (x >> 11) / 2**53


def exact_sum(values, weights):
    """Sum of float32 values times weights, exactly."""
    weights = np.ones_like(values) if weights is None else weights
    return sum(
        (Fraction(v) * Fraction(w) for v, w in zip(values.tolist(), weights.tolist(), strict=True)),
        Fraction(0),
    )


def choices_of_rows(rows, positives, bits, eta, lambda_, p=None):
    """How many whole numbers (rows, positives) of all leaves fit a first tree's rounded leaf values; pairs that fit each leaf alone.

    Args:
        rows, positives: int (leaves,), the truth. bits: fraction bits of the values. p: every row's probability; None for the share of
            positives, and then the positives of all leaves are known to add up to theirs.
    """
    total, ones = int(rows.sum()), int(positives.sum())
    known = p is None
    p = ones / total if known else p
    unit = 2.0**-bits
    seen = np.round(-eta * (rows * p - positives) / (rows * p * (1 - p) + lambda_) / unit) * unit
    n = np.arange(1, total + 1)
    ways, pairs = np.zeros((total + 1, ones + 1 if known else total + 1)), []
    ways[0, 0] = 1
    for value in seen:
        slope = (n * p * (1 - p) + lambda_) / eta
        low = np.ceil(n * p + (value - unit / 2) * slope - 1e-9).astype(int)
        high = np.floor(n * p + (value + unit / 2) * slope + 1e-9).astype(int)
        low, high = np.maximum(low, 0), np.minimum(high, n)
        if known:
            low, high = np.maximum(low, n - (total - ones)), np.minimum(high, ones)
        more, count = np.zeros_like(ways), 0
        for size, first, last in zip(n, low, high, strict=True):
            for k in range(first, last + 1):
                count += 1
                more[size:, k:] += ways[: len(ways) - size, : ways.shape[1] - k]
        pairs.append(count)
        ways = more
    return float(ways[total, ones] if known else ways[total].sum()), pairs
