"""Public constants of one tree: formats, limits, and how its gradients come about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from hansa.oblivious.split_finding import Scoring

COUNT_BITS = 26
"""Fraction bits of the public factors of counts."""

ETA_BITS = 20
"""Fraction bits of eta and of the bound on leaves."""

Kind = Literal["gradients", "counts", "residuals"]
"""What a tree's vectors hold: gradients and hessians; labels and ones; or gradients and ones."""


@dataclass(frozen=True)
class CountFactors:
    """Public factors that turn counts into sums where all rows of a class have one gradient.

    G = gradient[0] (W - Y) + gradient[1] Y, and so on; Y counts positive rows, W all. Integers times 2^26.
    """

    gradient: tuple[int, int]
    hessian: tuple[int, int]
    absolute: tuple[int, int]


@dataclass(frozen=True)
class TreeConstants:
    """Public constants of one tree.

    Attributes:
        depth: levels of splits.
        scoring: of the splits.
        row_bits: fraction bits of the vectors; at least scoring.fraction_bits.
        rows_per_sum: rows whose sum is known to fit Z_2^32.
        scale_floor: A, in units of 2^-fraction_bits.
        eta: learning rate.
        leaf_limit: leaf values, eta included, are clamped to +-leaf_limit; at most 16.
        leaf_bits: fraction bits that a leaf value keeps.
        chosen: the candidates of this tree, ascending; None for all.
        counts: for the kind "counts".
        cover_bits: fraction bits of the leaves' hessians where they are part of the model; None where not.
        directions: of each candidate, for monotone constraints: 1, -1 or 0; None for no constraint.
        weight_bits: fraction bits of the rows' weights, which counts then are sums of; 0 without weights.
    """

    depth: int
    scoring: Scoring
    row_bits: int
    rows_per_sum: int
    scale_floor: int
    eta: float
    leaf_limit: float
    leaf_bits: int
    chosen: Any = None
    counts: CountFactors | None = None
    weight_bits: int = 0
    cover_bits: int | None = None
    directions: Any = None
