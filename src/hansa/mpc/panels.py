"""Dense products in Z_2^32 over columns stored as panels: sixteen columns of all rows side by side.

Where the processor has a unit for products of matrices, that does the work (`mpc.tiles`). Elsewhere a tile of four vectors by one
panel keeps its sums in registers while it goes down the rows, so that a product costs a multiplication and an addition and no load or
store of its own (after Goto and van de Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008). A row of a panel is one line
of cache; a panel is read in the order in which it lies in memory, some rows ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import types
from numba.extending import intrinsic

from hansa.mpc import tiles
from hansa.mpc.ring import ShareArray
from hansa.mpc.threads import ALONE, LEAST_PRODUCTS, Threads

PANEL = 16
"""Columns of a panel: 64 bytes a row."""

_LANES = 8
_LINE_BYTES = 4 * PANEL
_AHEAD_BYTES = 32 * _LINE_BYTES
_TILE_ROWS = 64
"""Rows of a panel that all vectors are multiplied with before the next: 4 kB, which stay in the first cache."""


def panel_columns(columns: int) -> int:
    """Columns of the panels that hold so many."""
    return -(-columns // PANEL) * PANEL


def empty_panels(rows: int, columns: int) -> ShareArray:
    """Room for `columns` columns of `rows` rows: uint32 (panels, rows, PANEL), on a line of cache.

    Unspecified but for the columns past the last, which are zero.
    """
    panels = panel_columns(columns) // PANEL
    raw = np.empty(panels * rows * PANEL + PANEL, np.uint32)
    start = -raw.ctypes.data % _LINE_BYTES // 4
    room = raw[start : start + panels * rows * PANEL].reshape(panels, rows, PANEL)
    room[panels - 1 :, :, columns - (panels - 1) * PANEL :] = 0
    return room


@njit(cache=True, nogil=True, error_model="numpy")
def fill_panels(c, panels):  # type: ignore[no-untyped-def]
    """Copy c into panels. c: uint32 (rows, columns). panels: as `empty_panels` makes them for these columns, (panels, rows, PANEL)."""
    rows, columns = c.shape
    whole = columns // PANEL
    for i in range(rows):
        for p in range(whole):
            for t in range(PANEL):
                panels[p, i, t] = c[i, p * PANEL + t]
        for t in range(whole * PANEL, columns):
            panels[whole, i, t - whole * PANEL] = c[i, t]


def to_panels(c: ShareArray) -> ShareArray:
    """uint32 (rows, columns) as panels, a copy."""
    panels = empty_panels(*c.shape)
    fill_panels(c, panels)
    return panels


def _tile(height: int) -> Callable[..., None]:
    """The sums of `height` vectors with one panel, as a function for compiled code.

    tile(panels, p, v, j, out, first, last): for h < height and t < PANEL,

        out[j + h, PANEL p + t] += sum of panels[p, i, t] v[j + h, i] over first <= i < last

    Indexes are int64, and first < last.
    """

    @intrinsic
    def tile(_typing: Any, panels: Any, p: Any, v: Any, j: Any, out: Any, first: Any, last: Any) -> Any:  # noqa: ARG001
        signature = types.void(panels, types.int64, v, types.int64, out, types.int64, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            word, lane = ir.IntType(64), ir.IntType(32)
            vector = ir.VectorType(lane, _LANES)
            undefined = ir.Constant(vector, ir.Undefined)
            everywhere = ir.Constant(vector, [0] * _LANES)

            def number(value: int) -> Any:
                return ir.Constant(word, value)

            def at(address: Any, offset: int, kind: Any) -> Any:
                return builder.inttoptr(builder.add(address, number(offset)), kind.as_pointer())

            def load(address: Any, offset: int, kind: Any) -> Any:
                loaded = builder.load(at(address, offset, kind))
                loaded.align = 4
                return loaded

            (c_at, c_strides), (v_at, v_strides), (out_at, out_strides) = (
                tiles.opened(context, builder, signature.args[place], arguments[place]) for place in (0, 2, 4)
            )
            _, p, _, j, _, first, last = arguments
            c_at = builder.add(c_at, builder.mul(p, c_strides[0]))
            c_at = builder.add(c_at, builder.mul(first, c_strides[1]))
            factors, sums_at = [], []
            for h in range(height):
                row = builder.add(j, number(h))
                start = builder.add(v_at, builder.mul(row, v_strides[0]))
                factors.append(builder.add(start, builder.mul(first, v_strides[1])))
                start = builder.add(out_at, builder.mul(row, out_strides[0]))
                sums_at.append(builder.add(start, builder.mul(p, number(_LINE_BYTES))))
            halves = range(PANEL // _LANES)
            sums = [load(start, 4 * _LANES * half, vector) for start in sums_at for half in halves]

            before = builder.block
            body, after = builder.append_basic_block("rows"), builder.append_basic_block("sums")
            builder.branch(body)
            builder.position_at_end(body)
            carried = [first, c_at, *factors, *sums]
            phis = [builder.phi(value.type) for value in carried]
            for phi, value in zip(phis, carried, strict=True):
                phi.add_incoming(value, before)
            i, line, *rest = phis
            tiles.fetch(builder, builder.add(line, number(_AHEAD_BYTES)), 3)
            c = [load(line, 4 * _LANES * half, vector) for half in halves]
            added = []
            for h in range(height):
                one = builder.insert_element(undefined, load(rest[h], 0, lane), ir.Constant(lane, 0))
                factor = builder.shuffle_vector(one, undefined, everywhere)
                for half in halves:
                    total = rest[height + h * len(halves) + half]
                    added.append(builder.add(total, builder.mul(c[half], factor)))
            following = builder.add(i, number(1))
            moved = [following, builder.add(line, c_strides[1])]
            moved += [builder.add(rest[h], v_strides[1]) for h in range(height)]
            for phi, value in zip(phis, [*moved, *added], strict=True):
                phi.add_incoming(value, body)
            builder.cbranch(builder.icmp_signed("<", following, last), body, after)
            builder.position_at_end(after)
            for h in range(height):
                for half in halves:
                    stored = builder.store(added[h * len(halves) + half], at(sums_at[h], 4 * _LANES * half, vector))
                    stored.align = 4
            return context.get_dummy_value()

        return signature, generate

    return tile  # type: ignore[no-any-return]


_four, _two, _one = _tile(4), _tile(2), _tile(1)


@njit(cache=True, nogil=True, error_model="numpy")
def add_rows(panels, v, out, start):  # type: ignore[no-untyped-def]
    """`add_gemm` of the rows from `start` on, in vectors."""
    count, rows, _ = panels.shape
    vectors = v.shape[0]
    for p in range(count):
        for first in range(start, rows, _TILE_ROWS):
            last = min(first + _TILE_ROWS, rows)
            j = 0
            while j + 4 <= vectors:
                _four(panels, p, v, j, out, first, last)
                j += 4
            if j + 2 <= vectors:
                _two(panels, p, v, j, out, first, last)
                j += 2
            if j < vectors:
                _one(panels, p, v, j, out, first, last)


def add_gemm(panels: ShareArray, v: ShareArray, out: ShareArray, threads: Threads = ALONE) -> None:
    """out[j, t] += sum_i c[i, t] * v[j, i] in Z_2^32, c given as panels. Each thread takes panels of its own.

    Args:
        panels: uint32 (panels, rows, PANEL), or some of the rows of such an array. v: uint32 (vectors, rows).
        out: uint32 (vectors, panels * PANEL), changed; rows contiguous.
    """
    products = panels.size * len(v)
    if threads is ALONE or products < LEAST_PRODUCTS:
        _add_gemm(panels, v, out)
        return

    def add(first: int, last: int) -> None:
        own = np.zeros((len(v), (last - first) * PANEL), np.uint32)
        _add_gemm(panels[first:last], v, own)
        out[:, first * PANEL : last * PANEL] += own

    threads.share(add, len(panels))


def _add_gemm(panels: ShareArray, v: ShareArray, out: ShareArray) -> None:
    """`add_gemm` by one thread."""
    done = tiles.add_gemm(panels, v, out)
    if done < panels.shape[1]:
        add_rows(panels, v, out, done)
