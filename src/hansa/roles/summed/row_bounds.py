"""What sums over so many rows can be at most: how an aggregator holds a collector, and a collector a party, to its rows.

A row adds a public most to each number of a sum (`Awaited.most`): 1 to a count, its bounded gradient and hessian to the others. So sums
over n rows lie between 0 and n times that; gradients in histograms have a sign. Of labels, metrics and SHAP values no such bound is
asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from hansa.trees.objective import Scales

COUNTS = ("magnitudes", "levels", "cells", "residuals")
"""Sums that count rows: each row once at most in each number."""

MOST = 2**62
"""No number of a message is larger: a bound above this says nothing of an int64."""

FIELD = 32
"""Bits of each half of a narrow histogram's word (`trees.histogram`)."""


def counted_rows(quantity: str, training: int, held: int) -> int:
    """Over how many of a member's rows it makes a sum: magnitudes are of all, the others here of those that are trained on."""
    return training + held if quantity == "magnitudes" else training


def most_of(bound: float, scale: float) -> int:
    """What one row adds at most, in whole numbers, to a sum of numbers up to `bound` at this scale; each is rounded up by at most 1."""
    scaled = bound * scale
    return MOST if scaled >= MOST else math.ceil(scaled) + 1


def most_of_histograms(gradient_bound: float, hessian_bound: float, scales: Scales) -> tuple[int, int]:
    """The same of both numbers in a cell of a histogram."""
    return most_of(gradient_bound, scales.gradient), most_of(hessian_bound, scales.hessian)


def fault_of(values: npt.NDArray[Any], planes: int, most: Sequence[int], rows: int) -> str:
    """Why these cannot be sums over so many rows; "" where they can, or where `most` is empty and nothing is known.

    Args:
        values: of a sum without histograms, (n,) or (k, n): number i is held to `most[i % len(most)]`. Of histograms int64
            (nodes, planes, cells), or (words,) of a root's with the totals behind it, where `most` has two more numbers for these.
        planes: of the histograms, else 0. rows: over how many.
    """
    if not most:
        return ""
    if not planes:
        return _fault_of_sums(values, most, rows)
    histograms = values
    if len(most) > 2:
        behind = len(most) - 2
        fault = _fault_of_sums(values[-behind:], most[2:], rows)
        if fault:
            return fault
        histograms = values[:-behind].reshape(1, planes, -1)
    if not histograms.size:
        return ""
    if planes == 1:
        gradients, hessians = histograms >> FIELD, histograms & ((1 << FIELD) - 1)
    else:
        gradients, hessians = histograms[:, 0], histograms[:, 1]
    largest = max(int(gradients.max()), -int(gradients.min()))
    if largest > rows * most[0]:
        return f"gradients sum to {largest} in a cell, and {rows} rows to {rows * most[0]} at most"
    return _fault_of_sums(hessians, most[1:2], rows)


def _fault_of_sums(values: npt.NDArray[Any], most: Sequence[int], rows: int) -> str:
    flat = values.reshape(-1)
    for place, of_row in enumerate(most):
        own = flat[place :: len(most)]
        least, largest = int(own.min(initial=0)), int(own.max(initial=0))
        if least < 0 or largest > rows * of_row:
            wrong = least if least < 0 else largest
            return f"a number is {wrong}, and sums over {rows} rows lie between 0 and {rows * of_row}"
    return ""
