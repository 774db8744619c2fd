"""Cuts under shares: rank errors, small cells, heavy values, what is opened, and what owners refuse."""

from __future__ import annotations

import dataclasses
import doctest
from itertools import product

import numpy as np
import pytest

import naive_mpc as naive
from hansa.data.quantiles import SortedKeys, keys_from_values
from hansa.errors import PlanError, ProtocolError
from hansa.mpc.replicated import Address
from hansa.mpc.ring import RING64
from hansa.oblivious import quantile_search as qs
from hansa.oblivious.shared_vectors import receive_vector, share_vector
from lockstep import LockstepRecord, run_three
from three_servers import ALGORITHM, make_servers

PLACE = Address(0, 0, 0, "cuts")


def search(
    columns, max_bin=16, min_cell_rows=5, owners=3, has_missing=None, seed=0, log=None, categorical=None, weights=None
):
    """Run the whole search over shares; S_0's final state, checked to be the others' too.

    Args:
        columns: float32 (features, rows), NaN for missing.
        log: gets every array of bits that S_0 saw opened, by step.
        weights: of the rows, whole numbers, or None.
    """
    rows = columns.shape[1]
    owner = np.random.default_rng(seed).integers(0, owners, rows)
    keys = [
        SortedKeys.from_features(
            np.ascontiguousarray(columns[:, owner == o]), None if weights is None else weights[owner == o]
        )
        for o in range(owners)
    ]
    guards = [qs.RequestGuard(len(columns), rows, max_bin, min_cell_rows) for _ in keys]
    servers = make_servers()
    states = [
        qs.CutSearchOnShares(len(columns), rows, max_bin, min_cell_rows, has_missing, categorical, weights is not None)
        for _ in range(3)
    ]
    trips = 0
    while not states[0].done:
        request = states[0].request()
        guards = [guard.check(request) for guard in guards]
        messages = [share_vector(qs.count_probes(k, request), ALGORITHM) for k in keys]
        shares = [
            {f"owner {o}": receive_vector(i, m[i], states[i].n_answers, ALGORITHM) for o, m in enumerate(messages)}
            for i in range(3)
        ]
        programs = [states[i].answer(servers[i], shares[i], PLACE) for i in range(3)]
        states = run_three(programs if log is None else [logged(programs[0], log), *programs[1:]])
        trips += 1
    cuts = states[0].cuts()
    for state in states[1:]:
        assert np.array_equal(cuts.values, state.cuts().values)
        assert state.found == states[0].found
    for guard in guards:
        guard.check_cuts(cuts)
    assert trips <= 40
    return states[0], cuts


def logged(program, log):
    """The program, with what it opens put on record: its own part is in the shares that it holds."""
    original = qs.open_to_all

    def opening(server, ring, x, address):
        value = yield from original(server, ring, x, address)
        log.append((address.tensor, value.copy()))
        return value

    try:
        step = next(program)
        while True:
            received = yield step
            qs.open_to_all = opening
            try:
                step = program.send(received)
            finally:
                qs.open_to_all = original
    except StopIteration as stop:
        return stop.value


def bins_of(column, cuts):
    """Rows of each bin, and of its most frequent value."""
    own = column[~np.isnan(column)]
    codes = np.searchsorted(cuts, own, side="right")
    return [
        (int((codes == b).sum()), int(np.unique(own[codes == b], return_counts=True)[1].max(initial=0)))
        for b in range(len(cuts) + 1)
    ]


def check_bound(columns, state, cuts):
    for feature, column in enumerate(columns):
        bins = state.max_bin
        rows = int((~np.isnan(column)).sum())
        own = cuts.of(feature)
        assert len(own) <= bins - 1
        limit = rows / bins + 2 * state.min_cell_rows
        for size, heaviest in bins_of(column, own):
            assert size - heaviest <= limit, (feature, size, heaviest, limit)


def columns_of_all_kinds(rows, seed=1):
    rng = np.random.default_rng(seed)
    lacking = rng.normal(size=rows)
    lacking[rng.random(rows) < 0.3] = np.nan
    return np.stack(
        [
            rng.normal(size=rows),
            np.exp(3 * rng.normal(size=rows)),
            lacking,
            np.full(rows, 2.5),
            np.full(rows, np.nan),
            (rng.random(rows) < 0.02).astype(float),
            rng.integers(0, 10, rows),
            np.where(rng.random(rows) < 0.9, 0, rng.exponential(size=rows)),
            np.where(rng.random(rows) < 0.5, -1, rng.normal(size=rows)),
            np.minimum(rng.geometric(0.5, rows), 8),
            -rng.integers(0, 16, rows),
            1.6e9 + 128 * rng.integers(0, 3000, rows),
            np.where(rng.random(rows) < 0.4, 0, np.where(rng.random(rows) < 0.5, 1, rng.random(rows))),
        ]
    ).astype(np.float32)


@pytest.mark.parametrize("max_bin", [2, 3, 16, 64])
def test_rank_errors_are_bounded(max_bin):
    columns = columns_of_all_kinds(4000)
    state, cuts = search(columns, max_bin=max_bin)
    check_bound(columns, state, cuts)
    assert cuts.has_missing.tolist() == np.isnan(columns).any(axis=1).tolist()


def test_few_values_have_bins_of_their_own():
    columns = columns_of_all_kinds(4000)
    _, cuts = search(columns)
    for feature in (3, 5, 6, 9, 10):
        values, counts = np.unique(columns[feature], return_counts=True)
        codes = np.searchsorted(cuts.of(feature), values, side="right")
        assert len(set(codes[counts > 5])) == (counts > 5).sum(), feature
    assert len(cuts.of(3)) == 0
    assert len(cuts.of(4)) == 0


def test_heavy_values_waste_no_cuts():
    columns = columns_of_all_kinds(4000)
    state, cuts = search(columns)
    for feature in (7, 8, 12):
        own = cuts.of(feature)
        assert len(own) == 15
        heavy = [size for size, heaviest in bins_of(columns[feature], own) if heaviest > 0.3 * 4000]
        alone = [h for size, h in bins_of(columns[feature], own) if h > 0.3 * 4000 and size - h <= state.min_cell_rows]
        assert len(alone) == len(heavy) >= 1
        light = [size for size, heaviest in bins_of(columns[feature], own) if heaviest <= 0.3 * 4000]
        assert max(light) <= 4000 / 16 + 2 * state.min_cell_rows
        assert np.median(light) <= 4000 / 16 / 2


def test_no_cut_is_lost_or_wasted_beside_a_value_that_nearly_all_rows_have():
    """Few rows lie on both sides of it, on one, or on none: no bin at an end has as few as `min_cell_rows`, and other cuts stay."""
    rng = np.random.default_rng(0)
    tails = rng.normal(size=600)
    few = rng.random(600) < 0.02
    ends = np.arange(600)
    columns = np.stack(
        [
            np.where(few, tails, 0),
            np.where(few, -np.abs(tails), 0),
            np.where(few, np.abs(tails), 0),
            np.where(ends < 3, -7, 1),
            np.where(ends < 3, 7, 1),
            np.where(ends < 3, -7, np.where(ends < 6, 7, 1)),
            np.where(ends < 8, -7, ends % 2),
        ]
    ).astype(np.float32)
    _, cuts = search(columns, max_bin=6)
    assert few.sum() == 16
    for feature in range(len(columns)):
        sizes = [size for size, _ in bins_of(columns[feature], cuts.of(feature))]
        assert min(sizes[0], sizes[-1]) > 5, (feature, sizes)
    assert [len(cuts.of(feature)) for feature in range(len(columns))] == [2, 2, 3, 0, 0, 0, 2]


# --- the equations of the search --------------------------------------------------------------------------------------


def narrowed(keys, gap, rank, parts, least, bits=qs.KEY_BITS):
    """One rank's search as the module's head has it, on keys in the clear: (start, depth, cut), and what is opened."""

    def below(key):
        return int((keys < key).sum())

    low, high = gap
    start, opened = 0, []
    for depth in range(bits):
        end = start + 2 ** (bits - depth)
        middle = (start + end) // 2
        if low < middle < high:
            right = parts * (below(middle) - below(low)) < rank * (below(high) - below(low))
            half = (middle, min(end, high)) if right else (max(start, low), middle)
            stop = below(half[1]) - below(half[0]) <= least
            opened.append((stop, right and not stop))
            if stop:
                return (start, depth, middle), opened
        else:
            right = middle <= low
        start = middle if right else start
    return (start, bits, start + 1), opened


def test_the_examples_of_the_search_run():
    failed, tried = doctest.testmod(qs)
    assert failed == 0
    assert tried >= 14


def test_the_example_of_the_head_is_found_by_its_equations():
    keys = np.array([1, 2, 2, 3, 9, 9, 9, 12])
    found, opened = narrowed(keys, (0, 16), 1, 2, 1, bits=4)
    assert found == (2, 3, 3)
    assert opened == [(False, False), (False, False), (False, True), (True, False)]
    assert narrowed(keys, (0, 16), 1, 3, 1, bits=4)[0] == (2, 4, 3)
    assert narrowed(keys, (0, 16), 2, 3, 1, bits=4)[0] == (9, 4, 10)


@pytest.mark.parametrize(("max_bin", "min_cell_rows"), [(16, 5), (5, 40)])
def test_every_rank_falls_where_the_equations_say(max_bin, min_cell_rows):
    """And each gap holds no more rows than its bound, but for small halves: two of its own, two of the gap that it was part of."""
    columns = columns_of_all_kinds(1500, seed=6)
    state, _ = search(columns, max_bin=max_bin, min_cell_rows=min_cell_rows)
    ranks = 0
    for found in state.found:
        own = columns[found.feature][~np.isnan(columns[found.feature])]
        keys, gap = keys_from_values(own).astype(np.int64), found.gap
        inside = keys[(keys >= gap.low) & (keys < gap.high)]
        assert len(inside) <= gap.bound * len(keys) + 4 * min_cell_rows
        for s in found.searches:
            assert narrowed(inside, gap[:2], s.rank, s.parts, min_cell_rows)[0] == (s.start, s.depth, s.cut)
            ranks += 1
    assert ranks > 30


def test_allotted_cuts_make_the_largest_part_as_small_as_can_be():
    rng = np.random.default_rng(5)
    for _ in range(60):
        gaps = [qs.Gap(8 * n, 8 * n + 8, float(b), bool(b < 0.3)) for n, b in enumerate(rng.random(rng.integers(1, 5)))]
        cuts = int(rng.integers(1, 8))
        given = qs._allotted(gaps, cuts)
        assert [gap for gap, _ in given] == gaps[:cuts]
        assert sum(own for _, own in given) == cuts

        def largest(ways, gaps=gaps):
            return max(g.bound / (n + (not g.below_value)) for g, n in zip(gaps, ways, strict=False))

        ways = [own for own in product(range(1, cuts + 1), repeat=len(given)) if sum(own) == cuts]
        assert largest([own for _, own in given]) == min(map(largest, ways))


def rounds_of(columns):
    """Rounds of messages of the whole search."""
    rows = columns.shape[1]
    servers, keys, rounds = make_servers(), SortedKeys.from_features(columns), 0
    states = [qs.CutSearchOnShares(len(columns), rows, 16, 5) for _ in servers]
    while not states[0].done:
        message = share_vector(qs.count_probes(keys, states[0].request()), ALGORITHM)
        shares = [{"owner": receive_vector(i, message[i], states[0].n_answers, ALGORITHM)} for i in range(3)]
        record = LockstepRecord()
        states = run_three([states[i].answer(servers[i], shares[i], PLACE) for i in range(3)], record)
        rounds += record.rounds
    return rounds


def test_several_bits_of_few_paths_take_one_step(monkeypatch):
    columns = np.random.default_rng(4).normal(size=(2, 2000)).astype(np.float32)
    several = rounds_of(columns)
    monkeypatch.setattr(qs, "MOST_CELLS", 1)
    assert several < 0.6 * rounds_of(columns)


def test_steps_of_any_number_of_bits_find_the_same(monkeypatch):
    columns = columns_of_all_kinds(1500, seed=3)
    several, cuts = search(columns)
    monkeypatch.setattr(qs, "MOST_CELLS", 1)
    single, same = search(columns)
    assert np.array_equal(cuts.values, same.values)
    assert several.found == single.found
    assert several.draws < single.draws / 2


# --- rows with weights ------------------------------------------------------------------------------------------------


def weights_of_all_kinds(rows, seed=1):
    rng = np.random.default_rng(seed)
    weights = rng.integers(1, 9, rows)
    weights[rng.random(rows) < 0.2] = 0
    weights[rng.random(rows) < 0.01] = 300
    return weights


def check_weight_bound(columns, weights, state, cuts):
    """No bin has more than an equal share of weight, and 2 min_cell_rows rows', beside its heaviest value's."""
    for feature, column in enumerate(columns):
        own = ~np.isnan(column)
        codes = np.searchsorted(cuts.of(feature), column[own], side="right")
        limit = weights[own].sum() / state.max_bin + 2 * state.min_cell_rows * weights.max()
        for b in range(len(cuts.of(feature)) + 1):
            values, inverse = np.unique(column[own][codes == b], return_inverse=True)
            sums = np.bincount(inverse, weights[own][codes == b], minlength=len(values))
            assert sums.sum() - sums.max(initial=0) <= limit, (feature, b)


@pytest.mark.parametrize("max_bin", [3, 16, 64])
def test_bins_share_weight(max_bin):
    columns, weights = columns_of_all_kinds(4000), weights_of_all_kinds(4000)
    state, cuts = search(columns, max_bin=max_bin, min_cell_rows=2, weights=weights)
    check_weight_bound(columns, weights, state, cuts)
    counted, by_rows = search(columns, max_bin=max_bin, min_cell_rows=2)
    assert not np.array_equal(cuts.values, by_rows.values)
    assert cuts.has_missing.tolist() == by_rows.has_missing.tolist()
    assert state.weighted
    assert not counted.weighted


def test_rows_that_weigh_alike_have_the_cuts_of_rows_without_weights():
    columns = columns_of_all_kinds(3000)
    for weight in (1, 7):
        _, cuts = search(columns, weights=np.full(3000, weight))
        _, plain = search(columns)
        assert np.array_equal(cuts.values, plain.values)
        assert np.array_equal(cuts.offsets, plain.offsets)


def test_a_whole_weight_counts_as_copies_of_its_row():
    """Where no cell is small: every value is that of more rows than min_cell_rows."""
    rng = np.random.default_rng(8)
    columns = np.stack([rng.integers(0, 60, 3000), rng.normal(size=60).round(3)[rng.integers(0, 60, 3000)]])
    columns = columns.astype(np.float32)
    weights = rng.integers(1, 6, 3000)
    _, cuts = search(columns, min_cell_rows=1, weights=weights)
    _, copies = search(np.repeat(columns, weights, axis=1), min_cell_rows=1)
    _, plain = search(columns, min_cell_rows=1)
    assert np.array_equal(cuts.values, copies.values)
    assert not np.array_equal(cuts.values, plain.values)


def test_weights_name_no_cell_of_few_rows():
    columns = columns_of_all_kinds(3000, seed=2)
    weights = weights_of_all_kinds(3000)
    log = []
    state, _ = search(columns, min_cell_rows=12, weights=weights, log=log)
    for found in state.found:
        column = columns[found.feature]
        keys = keys_from_values(column[~np.isnan(column)]).astype(np.int64)
        in_gap = keys[(keys >= found.gap.low) & (keys < found.gap.high)]
        assert bool(found.searches) == (len(in_gap) > 12)
        for s in found.searches:
            size = 1 << (qs.KEY_BITS - s.depth)
            assert ((in_gap >= s.start) & (in_gap < s.start + size)).sum() > 12
    assert naive.replayed_openings(state) == [(tensor, value.reshape(-1).tolist()) for tensor, value in log]


def test_rows_without_any_weight_have_cuts():
    columns = columns_of_all_kinds(500)[:2]
    _, cuts = search(columns, weights=np.zeros(500, np.int64))
    assert np.isfinite(cuts.values).all()


@pytest.mark.parametrize("rows", [1, 1000, qs.MOST_ROWS])
def test_weights_of_all_rows_fit_the_comparison(rows):
    units = qs.weight_units(np.array([0, 1e-30, 0.25, 1], np.float32) * np.float32(1e9), 1e9, rows)
    assert units[0] == 0
    assert int(units[3]) * rows * 512 < 2**62
    assert units[2] * 4 == units[3]
    assert units[3] >= 2**21


@pytest.mark.parametrize("owners", [1, 2, 7])
def test_cuts_do_not_depend_on_how_rows_are_spread(owners):
    columns = columns_of_all_kinds(1500)
    first, second = search(columns)[1], search(columns, owners=owners, seed=5)[1]
    assert np.array_equal(first.values, second.values)
    assert np.array_equal(first.offsets, second.offsets)


@pytest.mark.parametrize("min_cell_rows", [1, 12, 60])
def test_no_cell_is_named_that_holds_few_rows(min_cell_rows):
    columns = columns_of_all_kinds(3000, seed=2)
    state, _ = search(columns, min_cell_rows=min_cell_rows)
    assert state.found
    for found in state.found:
        column = columns[found.feature]
        keys = keys_from_values(column[~np.isnan(column)]).astype(np.int64)
        in_gap = keys[(keys >= found.gap.low) & (keys < found.gap.high)]
        assert bool(found.searches) == (len(in_gap) > min_cell_rows)
        for s in found.searches:
            size = 1 << (qs.KEY_BITS - s.depth)
            assert ((in_gap >= s.start) & (in_gap < s.start + size)).sum() > min_cell_rows


def test_what_is_opened_follows_from_the_found_cells():
    columns = columns_of_all_kinds(1500, seed=3)
    log = []
    state, _ = search(columns, log=log)
    assert len(log) > 15
    assert naive.replayed_openings(state) == [(tensor, value.reshape(-1).tolist()) for tensor, value in log]


def test_declared_missing_values_open_nothing_more():
    columns = columns_of_all_kinds(1000)[[0, 2]]
    opened, declared = [], []
    _, cuts = search(columns, log=opened)
    _, same = search(columns, has_missing=np.array([False, True]), log=declared)
    assert np.array_equal(cuts.values, same.values)
    assert [len(value.reshape(-1)) for _, value in opened[:1]] == [2]
    assert [len(value.reshape(-1)) for _, value in declared[:1]] == [1]


def test_small_tables():
    for rows in (1, 2, 5, 11):
        columns = np.random.default_rng(rows).normal(size=(2, rows)).astype(np.float32)
        state, cuts = search(columns, min_cell_rows=5, owners=1)
        check_bound(columns, state, cuts)
        assert len(cuts.values) == 0 or rows > 5


def asked(starts, depths, offsets=None, bits=4):
    offsets = [0, len(starts)] if offsets is None else offsets
    return qs.CutProbes(np.array(offsets, np.int64), np.array(starts, np.uint32), np.array(depths, np.uint8), bits)


def test_an_owner_refuses_what_is_no_refinement():
    guard = qs.RequestGuard(1, 1000, 16, 100)
    first = asked([0], [0])
    cases = {
        "whole range": (guard, asked([0], [4])),
        "malformed": (guard, asked([0], [0], offsets=[0, 2])),
        "no part": (guard.check(first), asked([0], [5])),
        "does not start": (guard.check(first), asked([1], [4])),
        "was split before": (guard.check(first).check(asked([0], [4])), asked([0], [4])),
        "cells of one depth": (guard.check(first), asked([k << 28 for k in range(10)], [4] * 10)),
        "named once": (guard.check(first), asked([0, 0], [4, 4])),
        "settled": (guard.check(first).close(), first),
    }
    for message, (own, request) in cases.items():
        with pytest.raises(ProtocolError, match=message):
            own.check(request)
    assert guard.check(first).check(asked([0, 1 << 28], [4, 4])).check(asked([1 << 24], [8])).asked
    busy = dataclasses.replace(guard, asked=(first,) * qs.MOST_REQUESTS)
    with pytest.raises(ProtocolError, match="needs at most"):
        busy.check(asked([0], [4]))


def test_an_owner_refuses_cuts_that_were_not_counted():
    columns = columns_of_all_kinds(500)[:2]
    _, cuts = search(columns)
    guard = qs.RequestGuard(2, 500, 16, 5).check(asked([0, 0], [0, 0], [0, 1, 2], bits=10))
    with pytest.raises(ProtocolError, match="never counted"):
        guard.check_cuts(cuts)


def test_wrong_answers_and_settings_are_refused(servers):
    state = qs.CutSearchOnShares(1, 100, 16, 5)
    with pytest.raises(ProtocolError, match="expected shares"):
        run_three([state.answer(s, {"owner": np.zeros((2, 5), np.uint64)}, PLACE) for s in servers])
    with pytest.raises(ProtocolError, match="not done"):
        state.cuts()
    with pytest.raises(PlanError, match="max_bin"):
        qs.CutSearchOnShares(1, 100, 1, 5)
    with pytest.raises(PlanError, match="has_missing"):
        qs.CutSearchOnShares(2, 100, 16, 5, np.array([True]))
    with pytest.raises(ProtocolError, match="features"):
        qs.count_probes(SortedKeys.from_features(np.zeros((2, 3), np.float32)), state.request())


def test_shared_vectors_add_up():
    values = np.random.default_rng(1).integers(0, 2**32, 100).astype(np.uint32)
    messages = share_vector(values, ALGORITHM)
    shares = [receive_vector(i, messages[i], 100, ALGORITHM) for i in range(3)]
    assert np.array_equal(naive.naive_reconstruct(shares), values.astype(np.uint64))
    for i in range(3):
        assert np.array_equal(shares[i][1], shares[(i + 1) % 3][0])
    assert messages[0].part is None
    for wrong in (
        lambda: receive_vector(1, messages[0], 100, ALGORITHM),
        lambda: receive_vector(1, messages[1], 99, ALGORITHM),
        lambda: receive_vector(1, dataclasses.replace(messages[1], part=messages[1].part[:-1]), 100, ALGORITHM),
        lambda: receive_vector(0, dataclasses.replace(messages[0], keys=(b"short", b"short")), 100, ALGORITHM),
    ):
        with pytest.raises(ProtocolError, match="owner's shares"):
            wrong()
    assert RING64.bits == 64


@pytest.mark.parametrize("categorical", [(False, True, False), (True, True, True)])
def test_of_categorical_features_the_bit_of_missing_values_is_opened_and_no_cell(categorical):
    rng = np.random.default_rng(30)
    columns = rng.normal(size=(3, 400)).astype(np.float32)
    columns[1] = 0
    columns[1, :30] = np.nan
    log = []
    state, cuts = search(columns, categorical=categorical, log=log)
    assert cuts.has_missing.tolist() == [False, True, False]
    others = [feature for feature in range(3) if not categorical[feature]]
    assert {found.feature for found in state.found} == set(others)
    assert [len(cuts.of(feature)) > 0 for feature in range(3)] == [feature in others for feature in range(3)]
    gaps = [words for name, words in log if name.endswith("gaps of cuts")]
    # At first a bit a gap, and a bit a feature.
    assert naive_bits(gaps[0], 2)[1][:3].tolist() == [0, 1, 0]
    if not others:
        assert len(log) == 1
        return
    _, alone = search(np.ascontiguousarray(columns[others]))
    for place, feature in enumerate(others):
        assert np.array_equal(cuts.of(feature), alone.of(place))


def naive_bits(words, rows):
    """Packed words as zeros and ones, (rows, 64 words a row)."""
    return np.unpackbits(words.reshape(rows, -1).view(np.uint8), axis=1, bitorder="little")


def test_which_features_are_categorical_is_said_of_each():
    with pytest.raises(PlanError, match="categorical: expected one entry for each of 2 features"):
        qs.CutSearchOnShares(2, 100, 16, 5, categorical=(True,))
