"""Fixed point: overflow attempts first, then exactness of sums."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import ProtocolError
from hansa.secure.fixed_point import FixedPoint, power_of_two_scale

KINDS = [(31, 32, True), (32, 32, False), (62, 64, True), (62, 64, False), (20, 32, True)]


@pytest.mark.parametrize(("bits", "ring", "signed"), KINDS)
def test_attack_values_beyond_the_bound_are_refused(bits, ring, signed):
    form = FixedPoint(1.0, bits, ring, 3, signed)
    largest = float(np.nextafter(float(form.largest_term), 0)) if bits == 62 else float(form.largest_term)
    assert form.decode(form.encode(np.array([largest, 0.0])))[0] == largest
    for value in (form.largest_term * 1.0001, 2.0**63, 2.0**64, np.inf, -np.inf, np.nan, 1e308):
        with pytest.raises(ProtocolError, match=r"value at \(1,\).*overflow is refused"):
            form.encode(np.array([0.0, value]))
    if not signed:
        with pytest.raises(ProtocolError, match="from 0 to"):
            form.encode(np.array([-1.0]))


def test_attack_a_bound_that_rounds_up_as_a_float_is_still_kept():
    form = FixedPoint(1.0, 62, 64, 1)
    with pytest.raises(ProtocolError, match="overflow"):
        form.encode(np.array([2.0**62]))


@pytest.mark.parametrize(("bits", "ring", "signed"), KINDS)
@pytest.mark.parametrize("terms", [1, 3, 1000])
def test_the_bound_is_in_and_the_next_integer_is_out(bits, ring, signed, terms):
    """Of values and of sums, to the last unit: terms * largest_term < 2^bits <= terms * (largest_term + 1)."""
    form = FixedPoint(1.0, bits, ring, terms, signed)
    assert form.largest_sum == 2**bits - 1
    assert terms * form.largest_term <= 2**bits - 1 < terms * (form.largest_term + 1)
    dtype = np.uint32 if ring == 32 else np.uint64
    signs = (1, -1) if signed else (1,)
    for sign in signs:
        word = np.array([sign * (2**bits - 1) % 2**ring], dtype)
        assert form.decode(word)[0] == float(sign * (2**bits - 1))
        if sign * 2**bits % 2**ring > (2**bits - 1) * (not signed) and bits < ring:
            with pytest.raises(ProtocolError, match="beyond"):
                form.decode(np.array([sign * 2**bits % 2**ring], dtype))
        if form.largest_term < 2**53:
            assert form.encode(np.array([float(sign * form.largest_term)])).tolist() == [
                sign * form.largest_term % 2**ring
            ]
            with pytest.raises(ProtocolError, match="overflow is refused"):
                form.encode(np.array([float(sign * (form.largest_term + 1))]))


def test_attack_a_scale_that_overflows_the_product_is_refused_without_a_warning():
    with pytest.raises(ProtocolError, match="overflow"):
        FixedPoint(1e300, 31, 32, 1).encode(np.array([1e300]))


@pytest.mark.parametrize(
    ("form", "word"),
    [
        (FixedPoint(1.0, 20, 32, 1), 2**20),
        (FixedPoint(1.0, 20, 32, 1), 2**32 - 2**20),
        (FixedPoint(1.0, 31, 32, 1), 2**31),
        (FixedPoint(1.0, 62, 64, 1), 2**62),
        (FixedPoint(1.0, 62, 64, 1), 2**63),
        (FixedPoint(1.0, 62, 64, 1, signed=False), 2**64 - 1),
    ],
)
def test_attack_sums_beyond_the_bound_are_refused(form, word):
    words = np.array([0, word], np.uint32 if form.ring == 32 else np.uint64)
    with pytest.raises(ProtocolError, match=r"sum at \(1,\)"):
        form.decode(words)


@given(st.data(), st.sampled_from(KINDS), st.integers(1, 9))
def test_sums_in_the_ring_are_sums_of_rounded_values(data, kind, terms):
    bits, ring, signed = kind
    form = FixedPoint(8.0, bits, ring, terms, signed)
    most = min(form.largest_term, 2**50)
    units = st.integers(-most if signed else 0, most)
    integers = data.draw(st.lists(units, min_size=terms, max_size=terms))
    total = np.zeros(1, np.uint32 if ring == 32 else np.uint64)
    for integer in integers:
        total += form.encode(np.array([integer / 8.0]))
    assert form.decode(total)[0] == sum(integers) / 8.0


def test_shapes_stay_and_halves_round_to_even():
    form = FixedPoint(2.0, 31, 32, 1)
    values = np.array([[0.25, 0.75], [-0.25, -0.75]])
    assert form.decode(form.encode(values)).tolist() == [[0.0, 1.0], [0.0, -1.0]]


@given(st.floats(1e-200, 1e200), st.sampled_from([20, 31, 62]), st.integers(1, 10**6 // 2))
def test_the_power_of_two_scale_fits_and_twice_it_does_not(largest, bits, terms):
    scale = power_of_two_scale(largest, bits, terms)
    largest_term = (2**bits - 1) // terms
    assert np.frexp(scale)[0] == 0.5
    assert largest * scale <= largest_term < largest * scale * 2 * (1 + 1e-15)
    form = FixedPoint(scale, bits, 64, terms)
    value = form.encode(np.array([largest, -largest]))
    assert np.abs(form.decode(value) - [largest, -largest]).max() <= 0.5 / scale


@pytest.mark.parametrize(
    "bad",
    [
        {"scale": 0.0},
        {"scale": -1.0},
        {"scale": np.inf},
        {"scale": np.nan},
        {"magnitude_bits": 32},
        {"magnitude_bits": 0},
        {"ring": 16},
        {"terms": 0},
        {"terms": 2**31},
        {"ring": 64, "magnitude_bits": 63},
    ],
)
def test_numbers_that_do_not_fit_together_are_refused(bad):
    with pytest.raises(ProtocolError, match="fixed point"):
        FixedPoint(**({"scale": 1.0, "magnitude_bits": 31, "ring": 32, "terms": 1} | bad))


@pytest.mark.parametrize(
    ("largest", "terms"), [(0.0, 1), (-1.0, 1), (np.inf, 1), (np.nan, 1), (1e-320, 1), (1.0, 2**31)]
)
def test_scales_that_cannot_be_are_refused(largest, terms):
    with pytest.raises(ProtocolError, match="fixed point"):
        power_of_two_scale(largest, 31, terms)


def test_words_of_another_ring_are_refused():
    with pytest.raises(ProtocolError, match="ring 32"):
        FixedPoint(1.0, 31, 32, 1).decode(np.zeros(1, np.uint64))
