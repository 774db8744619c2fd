"""Dense products in Z_2^32 on the matrix unit of recent x86 servers (Intel AMX), over columns stored as panels.

The unit multiplies tiles of bytes: from A (16 x 16 words) and B (16 x 16 words) it adds, to each word of C, the sum over k of the
products of the four bytes of A[m, k] and B[k, n]. With x = sum x_a 2^8a and y = sum y_b 2^8b,

    x y = sum_s 2^8s (x_0 y_s + ... + x_s y_0)    in Z_2^32, 0 <= s < 4,

and the bracket for s is the product of the bytes of x with those of y's low s + 1 bytes in reverse order. So B is a panel as it lies in
memory, sixteen rows at a time, and A holds four vectors with their four reversals each. Sums wrap at 2^32, as they should.
(Intel, "Architecture Instruction Set Extensions Programming Reference", chapter on AMX: tdpbuud.)
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import config, njit
from numba.core import types
from numba.extending import intrinsic

from hansa.mpc.ring import ShareArray

SIDE = 16
"""Rows and columns, in words, of a tile."""

VECTORS = 4
"""Vectors of a tile: each takes a row for every byte of a word."""

_BLOCK_ROWS = 1024
"""Rows of the panels that all vectors are multiplied with before the next: 64 kB a panel, which stay in the second cache."""

_TILE_BYTES = 4 * SIDE * SIDE
_LINE_BYTES = 4 * SIDE
_AHEAD_BYTES = 32 * _LINE_BYTES
_READ, _DATA = 0, 1
"""LLVM's numbers for its `llvm.prefetch`."""

_TILES = 8
_SUMS = 4
"""Tiles 0 to 3 are C's; of the others the first are A's, the rest take B in turn."""

_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA = 158, 0x1023, 18
"""Linux's numbers (arch_prctl(2), ARCH_REQ_XCOMP_PERM): a process asks before it uses tiles."""

_LAYOUT = np.zeros(64, np.uint8)
"""What `ldtilecfg` reads: palette 1; bytes a row (16 bits, from place 16) and rows (from place 48) of each tile."""
_LAYOUT[0] = 1
_LAYOUT[16 : 16 + 2 * _TILES : 2] = _LINE_BYTES
_LAYOUT[48 : 48 + _TILES] = SIDE


def _permitted() -> bool:
    """Whether processor and system let this process use tiles."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return False
    if config.CPU_NAME or config.CPU_FEATURES:  # numba was told to compile for another processor
        return False
    features = llvmlite.binding.get_host_cpu_features()
    if not (features.get("amx-tile") and features.get("amx-int8")):
        return False
    return bool(ctypes.CDLL(None).syscall(_ARCH_PRCTL, _REQUEST_PERMISSION, _TILE_DATA) == 0)


AVAILABLE = _permitted()


def _number(value: int, bits: int = 64) -> Any:
    return ir.Constant(ir.IntType(bits), value)


def _instruction(builder: Any, name: str, *operands: Any) -> None:
    """Emit one of LLVM's x86 intrinsics. Tile numbers are constants of 8 bits."""
    kind = ir.FunctionType(ir.VoidType(), [operand.type for operand in operands])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    builder.call(function, operands)


def opened(context: Any, builder: Any, kind: Any, value: Any) -> tuple[Any, list[Any]]:
    """Address and strides in bytes of an array argument, 64-bit words, in code that is being emitted."""
    array = context.make_array(kind)(context, builder, value)
    strides = [builder.extract_value(array.strides, axis) for axis in range(kind.ndim)]
    return builder.ptrtoint(array.data, ir.IntType(64)), strides


def fetch(builder: Any, address: Any, cache: int) -> None:
    """Emit the hint that what stands at an address will be read. cache: 3 for every cache, 2 for the second and beyond."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    hint = builder.module.declare_intrinsic(
        "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    )
    place = builder.inttoptr(address, byte)
    builder.call(hint, [place, *(ir.Constant(flag, value) for value in (_READ, cache, _DATA))])


@intrinsic
def _configure(_typing: Any, layout: Any) -> Any:
    """_configure(layout): begin to use tiles, shaped as `_LAYOUT` says."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        at, _ = opened(context, builder, signature.args[0], arguments[0])
        _instruction(builder, "llvm.x86.ldtilecfg", builder.inttoptr(at, ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(layout), generate


@intrinsic
def _release(_typing: Any) -> Any:
    """_release(): tiles are not used any more."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:  # noqa: ARG001
        _instruction(builder, "llvm.x86.tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


def _product(panels_at_once: int, tiles_at_once: int) -> Callable[..., None]:
    """A function for compiled code that adds the products of some panels' rows with some tiles of vectors to their sums.

    product(panels, p, first, packed, t, sums, blocks): for m < panels_at_once, u < tiles_at_once, over b < blocks,

        sums[p + m, t + u] += sum over b of packed[t + u, b] (panels[p + m] from row first + SIDE b)    as tdpbuud does

    Indexes are int64, blocks at least 1, sums and packed as `add_gemm` makes them.
    """

    @intrinsic
    def product(
        _typing: Any, panels: Any, p: Any, first: Any, packed: Any, t: Any, sums: Any, blocks: Any  # noqa: ARG001
    ) -> Any:  # fmt: skip
        signature = types.void(panels, types.int64, types.int64, packed, types.int64, sums, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            byte = ir.IntType(8).as_pointer()

            def moved(address: Any, *steps: tuple[Any, Any]) -> Any:
                for count, stride in steps:
                    address = builder.add(address, builder.mul(count, stride))
                return address

            def transfer(name: str, tile: int, address: Any) -> None:
                place = builder.inttoptr(address, byte)
                _instruction(builder, f"llvm.x86.{name}64", _number(tile, 8), place, _number(_LINE_BYTES))

            (c_at, c_strides), (v_at, v_strides), (s_at, s_strides) = (
                opened(context, builder, signature.args[place], arguments[place]) for place in (0, 3, 5)
            )
            _, p, first, _, t, _, blocks = arguments
            panel = [builder.add(p, _number(m)) for m in range(panels_at_once)]
            tile = [builder.add(t, _number(u)) for u in range(tiles_at_once)]
            lines = [moved(c_at, (m, c_strides[0]), (first, c_strides[1])) for m in panel]
            factors = [moved(v_at, (u, v_strides[0])) for u in tile]
            totals = [moved(s_at, (m, s_strides[0]), (u, s_strides[1])) for m in panel for u in tile]
            for number, total in enumerate(totals):
                transfer("tileloadd", number, total)

            before = builder.block
            body, after = builder.append_basic_block("blocks"), builder.append_basic_block("sums")
            builder.branch(body)
            builder.position_at_end(body)
            carried = [_number(0), *lines, *factors]
            phis = [builder.phi(value.type) for value in carried]
            for phi, value in zip(phis, carried, strict=True):
                phi.add_incoming(value, before)
            block, *places = phis
            for line in places[:panels_at_once]:
                for row in range(SIDE):
                    fetch(builder, builder.add(line, _number(_AHEAD_BYTES + _LINE_BYTES * row)), 2)
            for u in range(tiles_at_once):
                transfer("tileloadd", _SUMS + u, places[panels_at_once + u])
            others = _TILES - _SUMS - tiles_at_once
            for m in range(panels_at_once):
                own = _SUMS + tiles_at_once + m % others
                transfer("tileloadd", own, places[m])
                for u in range(tiles_at_once):
                    numbers = (m * tiles_at_once + u, _SUMS + u, own)
                    _instruction(builder, "llvm.x86.tdpbuud", *(_number(number, 8) for number in numbers))
            following = builder.add(block, _number(1))
            phis[0].add_incoming(following, body)
            for phi in places:
                phi.add_incoming(builder.add(phi, _number(_TILE_BYTES)), body)
            builder.cbranch(builder.icmp_signed("<", following, blocks), body, after)
            builder.position_at_end(after)
            for number, total in enumerate(totals):
                transfer("tilestored", number, total)
            return context.get_dummy_value()

        return signature, generate

    return product  # type: ignore[no-any-return]


_four_by_one, _two_by_two, _two_by_one, _one_by_one = _product(4, 1), _product(2, 2), _product(2, 1), _product(1, 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _pack(v, first, blocks, packed):  # type: ignore[no-untyped-def]
    """packed[t, b, 4 h + s, k] = the reverse of the low 4 - s bytes of vector 4 t + h at row first + 16 b + k; 0 past the last."""
    for t in range(packed.shape[0]):
        for h in range(VECTORS):
            j = VECTORS * t + h
            if j >= v.shape[0]:
                packed[t, :blocks, 4 * h : 4 * h + 4] = 0
                continue
            for b in range(blocks):
                words = v[j, first + SIDE * b : first + SIDE * (b + 1)]
                for k in range(SIDE):
                    x = words[k]
                    ends = np.uint32(x << np.uint32(24)) | (x >> np.uint32(24))
                    reverse = ends | (x & np.uint32(0xFF00)) << np.uint32(8) | (x >> np.uint32(8)) & np.uint32(0xFF00)
                    for s in range(4):
                        packed[t, b, 4 * h + s, k] = reverse >> np.uint32(8 * s)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_gemm(panels, v, out, rows, layout):  # type: ignore[no-untyped-def]
    count = panels.shape[0]
    tiles = (v.shape[0] + VECTORS - 1) // VECTORS
    packed = np.empty((tiles, min(_BLOCK_ROWS, rows) // SIDE, SIDE, SIDE), np.uint32)
    sums = np.zeros((count, tiles, SIDE, SIDE), np.uint32)
    _configure(layout)
    for first in range(0, rows, _BLOCK_ROWS):
        blocks = min(_BLOCK_ROWS, rows - first) // SIDE
        _pack(v, first, blocks, packed)
        p = 0
        while tiles == 1 and p + 4 <= count:
            _four_by_one(panels, p, first, packed, 0, sums, blocks)
            p += 4
        while p + 2 <= count:
            for t in range(0, tiles - 1, 2):
                _two_by_two(panels, p, first, packed, t, sums, blocks)
            if tiles % 2:
                _two_by_one(panels, p, first, packed, tiles - 1, sums, blocks)
            p += 2
        if p < count:
            for t in range(tiles):
                _one_by_one(panels, p, first, packed, t, sums, blocks)
    _release()
    for p in range(count):
        for j in range(v.shape[0]):
            own = sums[p, j // VECTORS, 4 * (j % VECTORS) : 4 * (j % VECTORS) + 4]
            for n in range(SIDE):
                total = (
                    (own[0, n] << np.uint32(24))
                    + (own[1, n] << np.uint32(16))
                    + (own[2, n] << np.uint32(8))
                    + own[3, n]
                )
                out[j, SIDE * p + n] += total


def add_gemm(panels: ShareArray, v: ShareArray, out: ShareArray) -> int:
    """`mpc.panels.add_gemm` for as many rows, from the first, as whole tiles hold; none where the unit is not `AVAILABLE`.

    Returns:
        How many rows that is.
    """
    rows = panels.shape[1] // SIDE * SIDE if AVAILABLE else 0
    if rows:
        _add_gemm(panels, v, out, rows, _LAYOUT)
    return rows
