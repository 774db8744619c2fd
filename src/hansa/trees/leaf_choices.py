"""How coarse leaf values must be so that a first tree does not tell the exact numbers of rows in its leaves.

In the first tree all rows have one margin, and p = sigmoid(margin) is public. A leaf of n rows, k of them with label 1, has the value

    v = -eta (n p - k) / (n p (1 - p) + lambda)            (Chen & Guestrin 2016, eq. 5)

and n and k are whole numbers that add up, over all leaves, to the rows N and to their positives. Whoever has the values can list the
choices of all (n, k) that fit. A value that is rounded to multiples of d = 2^-bits leaves, of n rows, d (n h + lambda) / eta values of
k, with h = p (1 - p): over all n up to N about d N^2 h / (2 eta) pairs. Of a tree with L leaves, all values together leave

    (d / eta)^L * sum over n_1 + ... + n_L = N of (n_1 h + lambda) ... (n_L h + lambda) / (N s sqrt(2 pi / (L + 1)))

choices on average: the sum is a Dirichlet integral, and the divisor is the chance that the k add up. s is how far the leaves' shares of
label 1 lie apart. `tests/trees/test_trees_leaf_choices.py` counts the choices one by one.
"""

from __future__ import annotations

import math

from hansa.trees.parameters import Parameters

FEWEST_LEAVES = 4
"""Of a first tree for which the number of choices is meant, where its depth allows so many. Two leaves alone tell almost all."""

SPARE_BITS = 1
"""Kept back from the mean, which each bit changes by a factor of 2^leaves: of a tree with one large leaf and small ones fewer choices
fit than of most."""

USUAL_LEAF = 4
"""The most leaves are those whose mean number of rows is this many times the least that `min_child_weight` allows."""

SPREAD = 0.25
"""Standard deviation of the leaves' shares of label 1."""

COARSEST_STEPS, FEWEST_BITS = 8, 4
"""A leaf's value is not rounded to more than eta / COARSEST_STEPS, nor to fewer bits, however few the rows: trees would say little."""

MOST_LEAF_BITS = 24
"""A number of so many fraction bits, below 1, is exact in float32."""


def log_choices(rows: int, leaves: int, bits: int, parameters: Parameters, base_score: float, scale: float) -> float:
    """Natural logarithm of the mean number of choices that fit a first tree's leaf values; see the module. Below 0 one fits.

    Args:
        rows: of all parties, in training. leaves: of the tree.
        bits: fraction bits of the leaf values.
        base_score: p of every row. scale: scale_pos_weight.
    """
    hessian = base_score * (1 - base_score) * min(1.0, scale)
    least = parameters.min_child_weight / hessian
    # Every leaf has the least rows at least: what is left is dealt freely.
    free = rows - leaves * least
    if free <= 0:
        return 0.0
    fixed = parameters.lambda_ + parameters.min_child_weight
    terms = []
    for heavy in range(leaves + 1):
        light = leaves - heavy
        if light and fixed <= 0:
            continue
        terms.append(
            _log_binomial(leaves, heavy)
            + heavy * math.log(hessian)
            + (light * math.log(fixed) if light else 0.0)
            + (leaves - 1 + heavy) * math.log(free)
            - math.lgamma(leaves + heavy)
        )
    most = max(terms)
    integral = most + math.log(sum(math.exp(term - most) for term in terms))
    # One row more with label 1 moves G by this much.
    step = scale * (1 - base_score) + base_score
    chance = rows * SPREAD * math.sqrt(2 * math.pi / (leaves + 1))
    return integral - leaves * (bits * math.log(2) + math.log(parameters.eta * step)) - math.log(max(chance, 1.0))


def leaf_bits_for(choices: int, rows: int, parameters: Parameters, base_score: float, scale: float) -> int:
    """The most fraction bits of leaf values under which at least `choices` fit a first tree of `FEWEST_LEAVES` leaves or more.

    All arguments are public, so every member finds the same; see `log_choices`. Where rows are too few it is the least number of bits
    whose step is at most eta / `COARSEST_STEPS`, and fewer choices fit: `enough_rows`.
    """
    return max(_fewest_bits(parameters), _bits(choices, rows, parameters, base_score, scale))


def enough_rows(choices: int, rows: int, parameters: Parameters, base_score: float, scale: float) -> bool:
    """Whether the bits that `leaf_bits_for` finds leave so many choices."""
    return _bits(choices, rows, parameters, base_score, scale) >= _fewest_bits(parameters)


def _bits(choices: int, rows: int, parameters: Parameters, base_score: float, scale: float) -> int:
    bits = min(
        (log_choices(rows, leaves, 0, parameters, base_score, scale) - math.log(choices)) / (leaves * math.log(2))
        for leaves in _leaves(rows, parameters, base_score, scale)
    )
    return min(math.floor(bits) - SPARE_BITS, MOST_LEAF_BITS)


def _leaves(rows: int, parameters: Parameters, base_score: float, scale: float) -> list[int]:
    """Numbers of leaves to look at: powers of two."""
    fewest = min(FEWEST_LEAVES, parameters.most_leaves)
    hessian = base_score * (1 - base_score) * min(1.0, scale)
    least = max(parameters.min_child_weight / hessian, 1.0)
    most = min(parameters.most_leaves, int(rows / (USUAL_LEAF * least)))
    return [fewest, *(2**depth for depth in range(fewest.bit_length(), most.bit_length()) if 2**depth <= most)]


def _fewest_bits(parameters: Parameters) -> int:
    return min(MOST_LEAF_BITS, max(FEWEST_BITS, math.ceil(math.log2(COARSEST_STEPS / parameters.eta))))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
