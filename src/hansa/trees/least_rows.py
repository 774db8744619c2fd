"""How many rows a node has at least, where its sum of hessians has a bound; and the bound that makes a node have so many.

A histogram holds sums of g and h, not rows. But one row's h is at most m = w / 4 (logistic loss: p (1 - p) <= 1 / 4), w (squared
error) or what follows from the largest margin (`objective.most_hessian`), with w the largest weight, so that

    rows >= H / m        and        H > (k - 1) m   =>   rows >= k

Both are used on whole numbers, as hessians are summed: a row counts round(m s) at most, and 1 at least, at scale s (`objective.pack`).
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from hansa.errors import HansaError
from hansa.trees.objective import SUM_BITS, Scales

ROUNDING = 1 + 2.0**-40
"""Widens a row's largest hessian by more than the rounding of p (1 - p) w in float64."""


def heaviest_row(most: float, scales: Scales) -> int:
    """The largest whole number that one row's hessian counts at this scale, where it is at most `most` (`objective.most_hessian`)."""
    return max(math.floor(most * scales.hessian * ROUNDING + 0.5), 1)


def hessian_of(rows: int, heaviest: int) -> int:
    """The least whole sum of hessians that no fewer rows than `rows` have."""
    return (rows - 1) * heaviest + 1


def rows_of(min_child_weight: float, min_child_rows: int, heaviest: int, scales: Scales) -> int:
    """Rows that every child has, where the splits were searched under both minima at this scale."""
    least = max(math.ceil(min_child_weight * scales.hessian), 1)
    return max(-(-least // heaviest), min_child_rows)


@njit(cache=True, nogil=True, error_model="numpy")
def add_up(words, own, least, most, whole, within, counts):  # type: ignore[no-untyped-def]
    """Add up masked vectors of row counts, and say whether anything is wrong with the sums.

    Args:
        words: int64 (parties, count + 1), a count for each name and then the zero word, in Z_2^64. own: int64 (count,) of one party.
        least: int64 (count,), rows that each must have. most: rows that each may have. whole: int64 (pairs,): exact sums of counts 2 i
            and 2 i + 1, or empty. within: int64 (pairs,): which count that sum is; -1 where it is `whole`, and that -1 where nothing is
            known.
        counts: int64 (count,), written.

    Returns:
        0 where all is well, 1 where the masks do not cancel, 2 where a count is below `own`, 3 where another rule is broken.
    """
    last = counts.shape[0]
    zero = np.int64(0)
    for party in range(words.shape[0]):
        zero += words[party, last]
    if zero != 0:
        return 1
    found = 0
    for name in range(last):
        total = np.int64(0)
        for party in range(words.shape[0]):
            total += words[party, name]
        counts[name] = total
        if total < least[name] or total > most:
            found = 3
        elif total < own[name] and found == 0:
            found = 2
    for pair in range(whole.shape[0]):
        expected = counts[within[pair]] if within[pair] >= 0 else whole[pair]
        if expected >= 0 and counts[2 * pair] + counts[2 * pair + 1] != expected:
            found = 3
    return found


def check_scale(hessian_bound: float, n_rows: int, scales: Scales) -> None:
    """Refuse a scale so coarse that `rows_of` would say nothing: `objective.scales` gives none.

    There s > (2^room - 1 - N) / (2 sum h), sum h <= N b (1 + 2^-7) and N < 2^(room - 3): so s > 2^room / (4 N b).

    Args:
        hessian_bound: b, of any row (`objective.hessian_bound`). n_rows: N, of all parties.

    Raises HansaError.
    """
    room = 32 if scales.planes == 1 else SUM_BITS
    if scales.hessian < math.ldexp(1.0, room - 2) / (n_rows * hessian_bound):
        raise HansaError(
            f"the hessian scale {scales.hessian!r} is coarser than {n_rows} rows need: the rows of a node could not be told from it"
        )
