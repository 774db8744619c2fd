"""Codes in memory give the same histograms whether their sparse form is kept beside them or not."""

from __future__ import annotations

import numpy as np
import pytest

from hansa.data.binning import bin_groups
from hansa.data.quantiles import Cuts
from hansa.roles.summed.row_codes import CodesInMemory, code_in_memory, missing_codes
from hansa.trees.histogram import layout_of
from hansa.trees.row_chunks import part
from hansa.trees.worker_pool import WorkerPool

ROWS, FEATURES = 500, 40
NO_CATEGORIES = np.zeros(FEATURES, np.int32)
CUTS = Cuts(np.arange(FEATURES + 1) * 3, np.tile(np.arange(1, 4, dtype=np.float32), FEATURES), np.zeros(FEATURES, bool))


def table(share):
    """Features (FEATURES, ROWS), of whose values so large a share is not 0."""
    rng = np.random.default_rng(0)
    return (rng.integers(1, 4, (FEATURES, ROWS)) * (rng.random((FEATURES, ROWS)) < share)).astype(np.float32)


def histograms(codes, columns, packed):
    rows, none = part(ROWS, None, np.empty(ROWS, np.uint16))
    tree = codes.start_tree(rows, none, np.zeros(ROWS, np.float32))
    room = codes.pack(1)
    room.write(0, ROWS, lambda out: np.copyto(out, packed))
    layout = layout_of(CUTS.code_offsets, columns)
    out = np.full((1, 1, layout.cells), 77, np.int64)
    tree.histograms(layout, np.zeros(1, np.int64), room, out)
    return out


@pytest.mark.parametrize("share", [0.02, 0.5], ids=["sparse", "dense"])
@pytest.mark.parametrize("drawn", [1, 2], ids=["all columns", "some columns"])
@pytest.mark.parametrize("large", [False, True], ids=["small", "large"])
def test_the_sparse_form_changes_no_histogram(share, drawn, large):
    pool, features = WorkerPool(1), table(share)
    packed = np.random.default_rng(1).integers(0, 2**40, (1, ROWS))
    columns = np.arange(0, FEATURES, drawn, dtype=np.uint32)
    held = np.zeros(0, np.bool_)
    found = code_in_memory([(0, features)], ROWS, CUTS, NO_CATEGORIES, held, large, pool)
    plain = CodesInMemory(bin_groups([(0, features)], ROWS, CUTS), missing_codes(CUTS), NO_CATEGORIES, pool)
    np.testing.assert_array_equal(histograms(found, columns, packed), histograms(plain, columns, packed))
