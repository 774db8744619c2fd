"""Floats as ring integers, so that masks can hide them and sums have no order; with a bound that is checked.

A value x becomes round(x * scale) in Z_2^w, two's complement. Of at most `terms` such values, none above

    largest_term = floor((2^magnitude_bits - 1) / terms)

the sum is at most 2^magnitude_bits - 1 in size and so never wraps. Encoding refuses a larger value and
decoding a larger sum: overflow is impossible, never silent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError

Ring = Literal[32, 64]
"""w of Z_2^w."""
ShareArray = npt.NDArray[np.uint32] | npt.NDArray[np.uint64]
"""A vector over the ring: uint32 for w = 32, uint64 for w = 64."""

_MOST_BITS = {(32, True): 31, (32, False): 32, (64, True): 62, (64, False): 62}
"""Largest magnitude by (ring, signed). 62 in Z_2^64 keeps every magnitude and its float64 inside an int64."""


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """How one tensor's values become ring words. All public.

    Attributes:
        scale: integer units per unit of value; a finite number above 0. A power of two rounds least.
        magnitude_bits: sums stay below 2^magnitude_bits in size: at most 31 (unsigned: 32) in Z_2^32, 62 in
            Z_2^64.
        ring: 32 or 64, bits of a word.
        terms: how many encoded values are summed into one word, at most, over all parties.
        signed: whether values may be negative.

    Raises ProtocolError where the numbers do not fit together.
    """

    scale: float
    magnitude_bits: int
    ring: Ring
    terms: int
    signed: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0):
            raise ProtocolError(f"fixed point: the scale is a finite number above 0, not {self.scale!r}")
        most = _MOST_BITS.get((self.ring, self.signed), 0)
        if not 1 <= self.magnitude_bits <= most:
            raise ProtocolError(
                f"fixed point: ring {self.ring} ({'signed' if self.signed else 'unsigned'}) holds 1 to {most}"
                f" bits, not {self.magnitude_bits}"
            )
        if not 1 <= self.terms <= self.largest_sum:
            raise ProtocolError(
                f"fixed point: 1 to {self.largest_sum} terms fit in {self.magnitude_bits} bits, not"
                f" {self.terms}; use ring 64"
            )

    @property
    def largest_sum(self) -> int:
        """The largest size of a sum, in integer units."""
        return int(2**self.magnitude_bits - 1)

    @property
    def largest_term(self) -> int:
        """The largest size of one encoded value, in integer units."""
        return self.largest_sum // self.terms

    def encode(self, values: npt.NDArray[np.float64]) -> ShareArray:
        """Ring words of values (float64, any shape), rounded half to even.

        Raises ProtocolError where a value is not finite or too large; the text says where, never the value.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows here is refused below
            scaled = np.rint(np.asarray(values, np.float64) * self.scale)
        self._refuse_terms(np.isfinite(scaled) & (np.abs(scaled) <= float(self.largest_term)))
        integers = scaled.astype(np.int64)
        # The float of the bound may have been rounded up to the next integer; integers decide.
        self._refuse_terms((np.abs(integers) <= self.largest_term) & (self.signed | (integers >= 0)))
        return integers.astype(np.uint32) if self.ring == 32 else integers.view(np.uint64)

    def decode(self, words: ShareArray) -> npt.NDArray[np.float64]:
        """Values of summed ring words: float64, same shape. Raises ProtocolError for a sum out of bounds."""
        sums = self._integers(words)
        right = (-self.largest_sum * self.signed <= sums) & (sums <= self.largest_sum)
        if not right.all():
            raise ProtocolError(
                f"fixed point: the sum at {_first(right)} is beyond {self.magnitude_bits} bits; rule: sums"
                " stay in bounds. A member sent a value that is too large, or the masks did not cancel"
            )
        return sums / self.scale

    def _integers(self, words: ShareArray) -> npt.NDArray[np.int64]:
        if words.dtype != (np.uint32 if self.ring == 32 else np.uint64):
            raise ProtocolError(f"fixed point: words of ring {self.ring} expected, not {words.dtype.name}")
        if self.ring == 32 and self.signed:
            return words.astype(np.int32).astype(np.int64)
        return words.astype(np.int64)

    def _refuse_terms(self, right: npt.NDArray[np.bool_]) -> None:
        if not right.all():
            raise ProtocolError(
                f"fixed point: the value at {_first(right)} is not a number from"
                f" {-self.signed * self.largest_term / self.scale:g} to {self.largest_term / self.scale:g};"
                " rule: overflow is refused. Clip or rescale it"
            )


def power_of_two_scale(largest: float, magnitude_bits: int, terms: int) -> float:
    """The largest power of two under which `terms` values of at most `largest` in size fit in the magnitude.

    Multiplying by it rounds nothing, so the only error of a value is half an integer unit. Raises
    ProtocolError where `largest` is not a finite number above 0, or no scale fits.
    """
    if not (math.isfinite(largest) and largest > 0):
        raise ProtocolError(f"fixed point: the largest value is a finite number above 0, not {largest!r}")
    largest_term = (2**magnitude_bits - 1) // terms
    if largest_term < 1:
        raise ProtocolError(f"fixed point: {terms} terms do not fit in {magnitude_bits} bits; use ring 64")
    if not math.isfinite(largest_term / largest):
        raise ProtocolError(f"fixed point: values up to {largest!r} are too small to scale; give a larger bound")
    scale = math.ldexp(1.0, math.frexp(largest_term / largest)[1] - 1)
    return scale if largest * scale <= largest_term else scale / 2


def _first(right: npt.NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(int(index) for index in np.argwhere(~right)[0])
