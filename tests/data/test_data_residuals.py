"""Quantiles from counts of residuals: against the slow twin, XGBoost's definition, and what a party must not be asked."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import naive_residuals as naive
from hansa.data.quantiles import CutRequest, values_from_keys
from hansa.data.residuals import (
    FIRST_CELLS,
    SIDE_CELLS,
    Grid,
    QuantileSearch,
    ResidualGuard,
    count_residuals,
    first_request,
    n_counts,
    weigh_residuals,
)
from hansa.errors import ProtocolError

ALPHAS = (0.1, 0.5, 0.93)


def answers(residuals, groups, weights, owners, grid, request):
    """Summed over parties, and the largest of the parties' counts."""
    counts, sums = [], []
    for owner in np.unique(owners):
        rows = np.flatnonzero(owners == owner).astype(np.uint32)
        counts.append(np.zeros(n_counts(request), np.uint32))
        count_residuals(residuals, groups, rows, grid, request, counts[-1])
        if weights is not None:
            sums.append(np.zeros(n_counts(request), np.int64))
            weigh_residuals(residuals, groups, rows, weights, grid, request, sums[-1])
    return sum(counts), sum(sums) if weights is not None else None, np.max(counts, axis=0)


def searched(residuals, groups, n_groups, weights=None, owners=None, quantiles=ALPHAS, least=2, dominance=False):
    """(values, search, requests), every request let pass by a guard."""
    grid = Grid(int(np.frexp(np.abs(residuals).max())[1]))
    owners = np.zeros(len(residuals), int) if owners is None else owners
    search = QuantileSearch(grid, n_groups, quantiles, least)
    guard, requests = ResidualGuard(grid, n_groups, len(quantiles), len(residuals), least), []
    told = answers(residuals, groups, weights, owners, grid, first_request(n_groups))
    search = search.begin(told[0], told[1], told[2] if dominance else None)
    while not search.done:
        requests.append(search.request())
        guard = guard.check(requests[-1])
        told = answers(residuals, groups, weights, owners, grid, requests[-1])
        search = search.answer(told[0], told[1], told[2] if dominance else None)
    return search.values(), search, requests


def made(n, seed, groups=3, ties=True):
    rng = np.random.default_rng(seed)
    residuals = rng.standard_t(2, n) * rng.choice([1e-4, 1, 50], n)
    if ties:
        residuals[rng.random(n) < 0.3] = np.round(residuals[rng.random(n) < 0.3].sum(), 1)
        residuals[rng.random(n) < 0.1] = 0
    return residuals.astype(np.float32), rng.integers(0, groups, n).astype(np.float32), rng


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.sampled_from([1, 2, 10]), st.booleans(), st.integers(1, 4))
@example(1, 0, 1, False, 1)
@example(2, 1, 2, True, 2)
def test_values_are_the_slow_twins_whoever_holds_the_rows(n, seed, least, weighted, parties):
    residuals, groups, rng = made(n, seed)
    weights = rng.integers(0, 5, n).astype(np.int64) if weighted else None
    owners = rng.integers(0, parties, n)
    values, search, requests = searched(residuals, groups, 3, weights, owners, least=least)
    assert values.dtype == np.float32
    assert len(requests) <= 4
    assert np.array_equal(values, searched(residuals, groups, 3, weights, least=least)[0])
    for group in range(3):
        own = groups == group
        for alpha, value in zip(ALPHAS, values[group], strict=True):
            given_ = residuals[own], None if weights is None else weights[own], alpha
            expected, _ = naive.quantile(*given_, search.grid.label_exponent, least)
            assert value == pytest.approx(expected, rel=1e-5, abs=1e-30)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 2**32), st.sampled_from([1, 2, 10]), st.booleans())
def test_values_are_xgboosts_within_the_cells_that_were_counted(n, seed, least, weighted):
    residuals, groups, rng = made(n, seed)
    weights = rng.integers(1, 5, n).astype(np.int64) if weighted else None
    values, search, _ = searched(residuals, groups, 3, weights, least=least)
    for group in range(3):
        own = groups == group
        for alpha, value in zip(ALPHAS, values[group], strict=True):
            if own.any():
                given_ = residuals[own], None if weights is None else weights[own], alpha
                width = naive.quantile(*given_, search.grid.label_exponent, least)[1]
                exact = naive.xgboosts(*given_)
                assert abs(value - exact) <= width + 1e-6 * abs(exact) + 2.0 ** (search.grid.label_exponent - 37)


def test_a_value_that_more_rows_have_than_the_minimum_is_found_exactly():
    residuals = np.array([0.3] * 20 + [-1.7] * 20 + [9.0], np.float32)
    values, _, requests = searched(residuals, np.zeros(41, np.float32), 1, quantiles=(0.2, 0.5, 0.7), least=10)
    assert values[0].tolist() == [np.float32(-1.7), np.float32(0.3), np.float32(0.3)]
    assert [request.bits for request in requests] == [12, 17, 22, 27]


def test_no_cell_of_the_minimum_or_fewer_is_parted_nor_one_of_a_party():
    residuals, groups, rng = made(500, 3, ties=False)
    for least in (2, 40, 600):
        for request in searched(residuals, groups, 3, least=least)[2]:
            own = answers(residuals, groups, None, np.zeros(500), Grid(10), request)[0]
            assert own.reshape(-1, 32).sum(axis=1).min() > least
    assert not searched(residuals, groups, 3, least=600)[2]
    one_party = np.ones(500, int)
    assert not searched(residuals, groups, 3, owners=one_party, dominance=True)[2]
    many = np.full(500, 0.5, np.float32)
    assert searched(many, groups, 3, owners=rng.integers(0, 3, 500), dominance=True)[2]


def test_a_group_without_rows_or_weight_has_the_value_0():
    residuals = np.array([1, 2, 3], np.float32)
    groups = np.array([0, 0, 2], np.float32)
    values, _, _ = searched(residuals, groups, 3, np.array([1, 1, 0], np.int64))
    assert (values[1:] == 0).all()
    assert (values[0] > 0).all()


@pytest.mark.parametrize("exponent", [-149, -120, 0, 7, 45, 64])
def test_the_first_cells_are_neighbours_that_hold_every_residual(exponent):
    grid = Grid(exponent)
    low, high = grid.bounds(np.arange(FIRST_CELLS))
    assert (low <= high).all()
    inner = np.delete(np.arange(FIRST_CELLS - 1), [SIDE_CELLS - 1, SIDE_CELLS])
    assert (low[inner + 1] == high[inner] + 1).all()
    ends = values_from_keys(np.array([low[0], high[-1]], np.uint32))
    assert ends[1] == -ends[0] == np.nextafter(np.float32(grid.largest), np.float32(0))
    assert grid.largest >= 2.0 ** max(exponent + 2, -86)
    residuals = np.array([0, -0.0, 2.0**-149, 3e38, -3e38, 1, -1, ends[0], ends[1]], np.float32)
    counts = np.zeros(FIRST_CELLS, np.uint32)
    request = first_request(1)
    count_residuals(residuals, np.zeros(9, np.float32), np.arange(9, dtype=np.uint16), grid, request, counts)
    assert counts.sum() == 9
    for value in (np.float32(3e38), np.float32(1), ends[1]):
        for sign in (-1, 1):
            one = np.zeros(FIRST_CELLS, np.uint32)
            count_residuals(
                np.array([sign * value]), np.zeros(1, np.float32), np.zeros(1, np.uint8), grid, request, one
            )
            cell = int(np.flatnonzero(one)[0])
            least, most = values_from_keys(np.array([low[cell], high[cell]], np.uint32))
            assert least <= naive.within(float(sign * value), exponent) <= most


@pytest.mark.parametrize("exponent", [-150, 65])
def test_a_bound_of_no_labels_is_refused(exponent):
    with pytest.raises(ProtocolError, match="labels are said to reach"):
        Grid(exponent)


def request(bits, *cells):
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in cells])]).astype(np.int64)
    return CutRequest(bits, offsets, np.array([cell for own in cells for cell in own], np.uint32))


ONE = 0xBF8
"""The cell of 12 bits from 1 to 9/8."""

GUARD = ResidualGuard(Grid(3), 2, 1, 100, 10)
FIRST = request(12, [ONE], [ONE, ONE + 1])
SECOND = request(17, [ONE << 5 | 3], [])


def test_nested_requests_pass():
    guard = GUARD.check(FIRST).check(SECOND).check(request(22, [ONE << 10 | 3 << 5, ONE << 10 | 3 << 5 | 1], []))
    guard.check(request(27, [ONE << 15 | 3 << 10], []))
    assert GUARD.check(request(12, [], [0xFFF - ONE])).last.bits == 12


WRONG = {
    "a round that was skipped": ((), request(17, [ONE << 5], []), "expected one of 12"),
    "the same round again": ((FIRST,), FIRST, "expected one of 17"),
    "no cell": ((), request(12, [], []), "which is not 0"),
    "another number of groups": ((), request(12, [ONE]), "over 2 groups"),
    "three cells of a group": ((), request(12, [ONE, ONE + 1, ONE + 2], []), "names 3 cells of a group"),
    "offsets that fall": ((), CutRequest(12, np.array([0, 2, 1]), np.array([ONE], np.uint32)), "names"),
    "a cell twice": ((), request(12, [ONE, ONE], []), "sorted and unique"),
    "cells out of order": ((), request(12, [ONE + 1, ONE], []), "sorted and unique"),
    "the cell of 0": ((), request(12, [0x800], []), "no part of a cell counted"),
    "a cell of numbers beyond the bound": ((), request(12, [0xFF7], []), "no part of a cell counted"),
    "a cell of no numbers": ((), request(12, [0xFFFF], []), "no part of a cell counted"),
    "a part of another cell": ((FIRST,), request(17, [(ONE + 1) << 5], []), "no part of a cell counted"),
    "a part of another group's cell": ((FIRST, SECOND), request(22, [], [ONE << 10 | 3 << 5]), "no part of a cell"),
}


@pytest.mark.parametrize("name", WRONG)
def test_requests_that_isolate_rows_are_refused(name):
    before, wrong, rule = WRONG[name]
    guard = GUARD
    for each in before:
        guard = guard.check(each)
    with pytest.raises(ProtocolError, match=rule):
        guard.check(wrong)


def test_no_more_cells_are_parted_than_rows_could_fill_nor_rounds_asked_for():
    few = ResidualGuard(Grid(3), 2, 1, 30, 10)
    few.check(request(12, [ONE], [ONE]))
    with pytest.raises(ProtocolError, match="30 rows fill no more than 2"):
        few.check(FIRST)
    guard, cell = GUARD, ONE
    for bits in (12, 17, 22, 27):
        guard, cell = guard.check(request(bits, [cell], [])), cell << 5
    with pytest.raises(ProtocolError, match="expected none after the last round"):
        guard.check(request(32, [cell >> 5], []))


def test_counts_that_do_not_add_up_are_refused():
    residuals, groups = np.full(200, 0.3, np.float32), np.arange(200).astype(np.float32) % 3
    grid = Grid(12)
    counts = answers(residuals, groups, None, np.zeros(200), grid, first_request(3))[0]
    search = QuantileSearch(grid, 3, (0.5,), 2).begin(counts)
    asked = search.request()
    told = answers(residuals, groups, None, np.zeros(200), grid, asked)[0]
    search.answer(told)
    told[int(np.argmax(told))] += 1
    with pytest.raises(ProtocolError, match="do not add up"):
        search.answer(told)
    with pytest.raises(ProtocolError, match="weight is counted where no rows are"):
        QuantileSearch(grid, 3, (0.5,), 2).begin(counts, np.ones(len(counts), np.int64))
