"""The yardstick of coopetitive mode: a plain uint32 product, of the kind that the trial of the design timed (14 to 21 Gmac/s).

    python -m benchmarks.plain_product        (beside Hansa's own, for the levels of a tree of depth 6 over 100,000 rows x 930 columns)

Hansa's own products (`hansa.mpc.panels`, `hansa.mpc.tiles`) are others. This one stays as it is, so that ratios of different days can
be compared.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from numba import njit
from rich.table import Table

from benchmarks.machine import console, described
from hansa.mpc import tiles
from hansa.mpc.panels import add_gemm, add_rows, panel_columns, to_panels
from hansa.mpc.ring import ShareArray


@njit(cache=True, nogil=True, error_model="numpy")
def plain_product(c, v, out):  # type: ignore[no-untyped-def]
    """out[j, t] += sum_i c[i, t] * v[j, i] in Z_2^32.

    Args:
        c: uint32 (rows, columns). v: uint32 (vectors, rows), an even number of them.
        out: uint32 (vectors, columns), changed.

    Eight rows and two vectors at a time: sixteen products for eight loads of `c` and two of `out`. The
    inner loop runs over columns, which the compiler turns into full-width vector instructions. The two
    vectors come from either half: neighbours' output rows overlap as ranges over j, and the compiler, which
    checks for overlap once for all j, would fall back to scalars (3 Gmac/s instead of 20).
    """
    rows, columns = c.shape
    vectors = v.shape[0]
    whole = rows - rows % 8
    half = vectors // 2
    for i in range(0, whole, 8):
        c0, c1, c2, c3 = c[i], c[i + 1], c[i + 2], c[i + 3]
        c4, c5, c6, c7 = c[i + 4], c[i + 5], c[i + 6], c[i + 7]
        for j in range(half):
            k = half + j
            a0, a1, a2, a3 = v[j, i], v[j, i + 1], v[j, i + 2], v[j, i + 3]
            a4, a5, a6, a7 = v[j, i + 4], v[j, i + 5], v[j, i + 6], v[j, i + 7]
            b0, b1, b2, b3 = v[k, i], v[k, i + 1], v[k, i + 2], v[k, i + 3]
            b4, b5, b6, b7 = v[k, i + 4], v[k, i + 5], v[k, i + 6], v[k, i + 7]
            p = out[j]
            q = out[k]
            for t in range(columns):
                p[t] += (
                    c0[t] * a0 + c1[t] * a1 + c2[t] * a2 + c3[t] * a3
                    + c4[t] * a4 + c5[t] * a5 + c6[t] * a6 + c7[t] * a7
                )  # fmt: skip
                q[t] += (
                    c0[t] * b0 + c1[t] * b1 + c2[t] * b2 + c3[t] * b3
                    + c4[t] * b4 + c5[t] * b5 + c6[t] * b6 + c7[t] * b7
                )  # fmt: skip
    for i in range(whole, rows):
        for j in range(vectors):
            for t in range(columns):
                out[j, t] += c[i, t] * v[j, i]


def product_seconds(rows: int, columns: int, vectors: int) -> float:
    """Seconds of one product rows x columns x vectors on one core; the better of two."""
    c, v = _factors(rows, columns, vectors)
    out = np.zeros((vectors, columns), np.uint32)
    plain_product(c[:16], np.ascontiguousarray(v[:, :16]), out)
    return _best(lambda: plain_product(c, v, out))


def _factors(rows: int, columns: int, vectors: int) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    draw = np.random.Generator(np.random.PCG64(3))
    c = draw.integers(0, 2**32, (rows, columns), dtype=np.uint32)
    return c, draw.integers(0, 2**32, (vectors, rows), dtype=np.uint32)


def _best(run: Callable[[], object], turns: int = 2) -> float:
    best = math.inf
    for _ in range(turns):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    """The plain product, and Hansa's by vectors and, where there is one, by the matrix unit, level by level."""
    rows, columns = 100_000, 930
    c, all_vectors = _factors(rows, columns, 32)
    panels = to_panels(c)
    kernels: dict[str, Callable[[ShareArray, ShareArray], object]] = {
        "plain": lambda v, out: plain_product(c, v, out),
        "vectors": lambda v, out: add_rows(panels, v, out, 0),
    }
    if tiles.AVAILABLE:
        kernels["matrix unit"] = lambda v, out: add_gemm(panels, v, out)
    table = Table(
        title=f"uint32 products of {rows:,} rows x {columns} columns, ms on one core\n{described()}",
        title_justify="left",
    )
    for column in ("level", "vectors", *kernels, "last to plain"):
        table.add_column(column, justify="right")
    totals = np.zeros(len(kernels))
    for level in range(6):
        v = all_vectors[: 2 ** max(1, level)]
        seconds, expected = [], np.zeros(0)
        for name, kernel in kernels.items():
            out = np.zeros((len(v), columns if name == "plain" else panel_columns(columns)), np.uint32)
            kernel(v, out)
            expected = out.copy() if name == "plain" else expected
            assert np.array_equal(out[:, :columns], expected)
            seconds.append(_best(lambda: kernel(v, out), 4))  # noqa: B023
        totals += seconds
        _add_row(table, str(level), str(len(v)), seconds)
    _add_row(table, "all", "", totals.tolist())
    console().print(table)


def _add_row(table: Table, level: str, vectors: str, seconds: list[float]) -> None:
    table.add_row(level, vectors, *(f"{1e3 * s:.1f}" for s in seconds), f"{seconds[-1] / seconds[0]:.2f}")


if __name__ == "__main__":
    main()
