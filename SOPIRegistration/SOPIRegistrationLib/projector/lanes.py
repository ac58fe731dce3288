"""What numba lacks for loops that the compiler turns into vector instructions.

A loop over a few samples ("lanes") becomes one of vector instructions only where the compiler knows that
what it writes is not what it reads: an array on the stack of the function is known to be nobody else's. And
where a lane reads two voxels that stand side by side, one load of both takes half the time of two.
"""

from __future__ import annotations

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

_WORD = ir.IntType(64)


@intrinsic(prefer_literal=True)
def stack_float32(typing_context, size):
    """Pointer to ``size`` float32, a constant, on the stack of the calling function; not initialised.

    To be used through ``numba.carray``, and not beyond the call.
    """

    def generate(context, builder, signature, arguments):
        count = context.get_constant(types.intp, size.literal_value)
        # In the function's entry block: once, not in every turn of a loop.
        return cgutils.alloca_once(builder, context.get_data_type(types.float32), size=count)

    return types.CPointer(types.float32)(size), generate


@intrinsic
def load_pair(typing_context, array, index):
    """Two neighbouring elements, (array[index], array[index + 1]), of a contiguous float32 array by one load.

    ``index`` is unsigned; not checked against the array's size.
    """

    def generate(context, builder, signature, arguments):
        data = context.make_array(array)(context, builder, arguments[0]).data
        offset = context.cast(builder, arguments[1], index, types.uint64)
        address = builder.bitcast(builder.gep(data, [offset]), _WORD.as_pointer())
        word = builder.load(address, align=4)
        halves = word, builder.lshr(word, ir.Constant(_WORD, 32))
        floats = [builder.bitcast(builder.trunc(half, ir.IntType(32)), ir.FloatType()) for half in halves]
        return context.make_tuple(builder, signature.return_type, floats)

    return types.UniTuple(types.float32, 2)(array, index), generate
