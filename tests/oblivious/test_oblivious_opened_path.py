"""`benchmarks.bench_opened_path`: the search in the clear opens what the one on shares does, and what it tells of a single row."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.bench_opened_path import learnt, opened
from test_oblivious_quantile_search import columns_of_all_kinds, search


@pytest.mark.parametrize(("max_bin", "min_cell_rows"), [(6, 3), (32, 10)])
def test_the_search_in_the_clear_is_that_on_shares(max_bin, min_cell_rows):
    columns = columns_of_all_kinds(700, seed=4)
    for column in columns[[0, 1, 6, 7, 8, 12]]:
        state, cuts = search(column[None], max_bin, min_cell_rows, has_missing=np.array([False]))
        assert opened(column, max_bin, min_cell_rows) == (state.found, tuple(cuts.of(0).tolist()))


def test_nothing_is_learnt_where_no_cell_has_enough_rows():
    assert learnt(50, 32, 50, draws=12, trials=2).most == 0


def test_few_bins_or_large_cells_tell_less():
    most = learnt(60, 64, 3, draws=40, trials=3)
    few = learnt(60, 4, 3, draws=40, trials=3)
    large = learnt(60, 64, 25, draws=40, trials=3)
    assert most.bits > 3 > 2 > max(few.bits, large.bits)
    assert all(own.by_cuts <= own.bits <= np.log2(40) for own in (most, few, large))
