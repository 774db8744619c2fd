"""A hint to the processor: this will be read soon. It changes no result."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

READ, KEEP, DATA = 0, 3, 1
"""LLVM's numbers for its `llvm.prefetch`: for reading, kept in every cache, as data."""


@intrinsic
def prefetch(_typing: Any, array: Any, index: Any) -> Any:  # noqa: ARG001
    """prefetch(array, index): fetch what stands at `index` (an unsigned integer) of the array's first axis. Compiled code only."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        view = context.make_array(kind)(context, builder, arguments[0])
        stride = cgutils.unpack_tuple(builder, view.strides, kind.ndim)[0]
        word, byte = ir.IntType(64), ir.IntType(8).as_pointer()
        address = builder.add(builder.ptrtoint(view.data, word), builder.mul(arguments[1], stride))
        place = builder.inttoptr(address, byte)
        flag = ir.IntType(32)
        declared = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        )
        builder.call(declared, [place, *(ir.Constant(flag, value) for value in (READ, KEEP, DATA))])
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate
