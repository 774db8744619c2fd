"""Products over panels against their naive twin, at sizes that end in the middle of every tile."""

from __future__ import annotations

import numpy as np
import pytest

import naive_mpc as naive
from hansa.mpc import panels, tiles


def words(rng, shape):
    return rng.integers(0, 2**32, shape, dtype=np.uint32)


@pytest.fixture(params=["matrix unit", "vectors"], autouse=True)
def kernel(request, monkeypatch):
    """Every product by the matrix unit, where there is one, and by vectors alone."""
    if request.param == "vectors":
        monkeypatch.setattr(tiles, "AVAILABLE", False)
    elif not tiles.AVAILABLE:
        pytest.skip("this processor has no matrix unit, or the system does not let it be used")


@pytest.mark.parametrize(
    ("rows", "columns", "vectors"),
    [(1, 1, 1), (8, 5, 2), (37, 70, 5), (64, 33, 8), (65, 16, 3), (200, 31, 7), (2100, 130, 13), (1040, 40, 32)],
)
def test_the_product_is_the_naive_sum(rows, columns, vectors):
    rng = np.random.default_rng(rows)
    c, v = words(rng, (rows, columns)), words(rng, (vectors, rows))
    out = words(rng, (vectors, panels.panel_columns(columns)))
    before = out.copy()
    panels.add_gemm(panels.to_panels(c), v, out)
    assert np.array_equal(out[:, :columns], before[:, :columns] + naive.naive_gemm(c, v))
    assert np.array_equal(out[:, columns:], before[:, columns:])


def test_some_of_the_rows_are_those_rows():
    rng = np.random.default_rng(1)
    c, v = words(rng, (150, 20)), words(rng, (4, 90))
    out = np.zeros((4, 32), np.uint32)
    panels.add_gemm(panels.to_panels(c)[:, 40:130], v, out)
    assert np.array_equal(out[:, :20], naive.naive_gemm(c[40:130], v))


def test_no_rows_add_nothing():
    out = np.ones((2, 16), np.uint32)
    panels.add_gemm(panels.empty_panels(0, 3), np.zeros((2, 0), np.uint32), out)
    assert np.array_equal(out, np.ones((2, 16), np.uint32))


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 40])
def test_a_row_of_a_panel_is_a_line_of_cache(columns):
    room = panels.empty_panels(5, columns)
    assert room.shape == (panels.panel_columns(columns) // panels.PANEL, 5, panels.PANEL)
    assert room.ctypes.data % 64 == 0
    c = words(np.random.default_rng(columns), (5, columns))
    panels.fill_panels(c, room)
    flat = room.transpose(1, 0, 2).reshape(5, -1)
    assert np.array_equal(flat[:, :columns], c)
    assert not flat[:, columns:].any()
