"""exp, log and sigmoid whose bits depend on the argument alone: not on the host or the place in an array.

A compiled loop rounds the library's `exp` differently in its vector body and in its scalar tail, and
libraries differ between hosts; then a row's gradient, and with it the model file, would depend on how rows
are spread over parties. These functions use only IEEE 754 additions, multiplications, divisions, comparisons
and integer shifts, in a fixed order and without contraction into fused operations: every host and every
vector width agrees.

They are float64 in, float64 out, have no branches, and are meant to be called inside other `@njit` loops,
which LLVM then vectorises. Callers must be compiled without `fastmath`. Called from Python, they take and
give one float.

Method: reduce the range with integer shifts of the exponent field, then Taylor's polynomial, its terms in
Horner's order (Muller, "Elementary Functions", 3rd ed., sections 11.1-11.3, Cody and Waite's reduction).
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

EXP_UNDERFLOW = -708.0
"""`exp` is 0 below this argument, so that no result is ever subnormal (hosts may flush those)."""

EXP_OVERFLOW = 709.782712893384
"""`exp` is infinite above this argument, the logarithm of the largest float64."""

INVERSE_LN2 = float.fromhex("0x1.71547652b82fep+0")
# ln 2 as a sum: the first part has 21 trailing zero bits, so that k * LN2_HIGH is exact for |k| < 2**21.
LN2_HIGH = float.fromhex("0x1.62e42fee00000p-1")
LN2_LOW = float.fromhex("0x1.a39ef35793c76p-33")

# Adding 1.5 * 2**52 rounds to an integer, which then stands in the low bits of the sum.
ROUNDER = 1.5 * 2.0**52
TWO_52 = 2.0**52
TWO_52_BITS = np.uint64(0x4330000000000000)
SHIFT = np.uint64(52)
# One less than the exponent's bias of 1023: exp scales by 2**(k-1), then by 2, so k = 1024 needs no branch.
EXP_BIAS = np.uint64(1022)
SQRT_HALF_BITS = np.uint64(0x3FE6A09E667F3BCD)
MANTISSA_MASK = np.uint64(0x000FFFFFFFFFFFFF)
LOG_BIAS = 1023.0
# Added to a number's bits, it carries into the exponent where the fraction is at least sqrt(2).
LOG_OFFSET = np.uint64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
SMALLEST_NORMAL = float(np.finfo(np.float64).tiny)

(E2, E3, E4, E5, E6, E7, E8, E9, E10, E11, E12, E13) = (1.0 / factorial(n) for n in range(2, 14))
(L1, L2, L3, L4, L5, L6, L7, L8, L9, L10) = (2.0 / (2 * n + 1) for n in range(1, 11))


@intrinsic
def bits_of(_typing_context: Any, x: Any) -> Any:
    """The 64 bits of a float64, as uint64. Only inside compiled code."""
    if x != types.float64:
        return None

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.uint64))

    return types.uint64(types.float64), generate


@intrinsic
def float_from_bits(_typing_context: Any, x: Any) -> Any:
    """The float64 with these 64 bits. Only inside compiled code."""
    if x != types.uint64:
        return None

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(types.float64))

    return types.float64(types.uint64), generate


@njit(cache=True, nogil=True, error_model="numpy")
def exp(x: float) -> float:
    """e**x within 1 ulp, for float64 x; 0 below -708, infinite above 709.78, NaN for NaN."""
    # Comparisons are written so that a NaN passes through.
    bounded = EXP_UNDERFLOW if x < EXP_UNDERFLOW else x
    bounded = EXP_OVERFLOW if bounded > EXP_OVERFLOW else bounded
    # x = k ln 2 + r, |r| <= ln(2)/2
    shifted = bounded * INVERSE_LN2 + ROUNDER
    k = shifted - ROUNDER
    r = (bounded - k * LN2_HIGH) - k * LN2_LOW
    # e**r = 1 + r + r**2 (1/2! + r/3! + ... + r**11/13!); the first term left out is below 2**-57.
    p = E12 + r * E13
    p = E11 + r * p
    p = E10 + r * p
    p = E9 + r * p
    p = E8 + r * p
    p = E7 + r * p
    p = E6 + r * p
    p = E5 + r * p
    p = E4 + r * p
    p = E3 + r * p
    p = E2 + r * p
    p = 1.0 + (r + (r * r) * p)
    scale = float_from_bits((bits_of(shifted) + EXP_BIAS) << SHIFT)
    result = (p * scale) * 2.0
    result = 0.0 if x < EXP_UNDERFLOW else result
    return np.inf if x > EXP_OVERFLOW else result


@njit(cache=True, nogil=True, error_model="numpy")
def log(x: float) -> float:
    """ln x within 2 ulp, for float64 x; -inf for 0 and subnormal x, NaN for negative x and NaN."""
    # x = 2**k m, sqrt(1/2) <= m < sqrt(2)
    bits = bits_of(x) + LOG_OFFSET
    k = float_from_bits((bits >> SHIFT) | TWO_52_BITS) - TWO_52 - LOG_BIAS
    m = float_from_bits((bits & MANTISSA_MASK) + SQRT_HALF_BITS)
    # log m = 2 atanh s = 2 s + s (2/3 s**2 + 2/5 s**4 + ...), s = f / (2 + f), f = m - 1.
    # 2 s = f - s f, and s f = f**2/2 - s f**2/2: so the first term, f, has no rounding error.
    f = m - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = L9 + z * L10
    p = L8 + z * p
    p = L7 + z * p
    p = L6 + z * p
    p = L5 + z * p
    p = L4 + z * p
    p = L3 + z * p
    p = L2 + z * p
    p = L1 + z * p
    half = 0.5 * f * f
    tail = s * (half + z * p) + k * LN2_LOW
    result = k * LN2_HIGH - ((half - tail) - f)
    result = -np.inf if x < SMALLEST_NORMAL else result
    result = np.nan if x < 0.0 else result
    result = np.inf if x == np.inf else result
    return x if x != x else result


@njit(cache=True, nogil=True, error_model="numpy")
def sigmoid(x: float) -> float:
    """1 / (1 + e**-x) within 3 ulp, for float64 x; exactly 0 below -709.78."""
    denominator: float = 1.0 + exp(-x)
    return 1.0 / denominator
