"""Conversions and products that come out alike on a GPU and under Triton's interpreter.

Three faults of the interpreter (3.9.0) are kept out here: a product of bf16 tiles is garbage, so tiles are widened;
f32 to bf16 cuts off, so values are rounded first; f32 to e4m3 loses the carry of the mantissa, so values are rounded
to e4m3 explicitly, on a GPU too, where it changes nothing and costs a few integer operations in kernels that wait for
memory.
"""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


@triton.jit
def dot(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """a [M, K] times b [K, N] in f32; a is converted to b's type, which on a GPU decides the units that multiply."""
    if INTERPRETED:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    return tl.dot(a.to(b.dtype), b, input_precision="ieee")


@triton.jit
def narrow(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """f32 to f32 or bf16, to nearest and ties to even."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000).to(tl.float32, bitcast=True)
    return x.to(dtype)


@triton.jit
def to_e4m3(x: tl.tensor) -> tl.tensor:
    """f32 to e4m3, to nearest and ties to even, at most 448."""
    x = tl.minimum(tl.maximum(x, -448.0), 448.0)
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
    # Below 2^-6 the steps are 2^-9: the last bit of this sum.
    subnormal = (x + 24576.0) - 24576.0
    return tl.where(tl.abs(x) < 0.015625, subnormal, normal).to(tl.float8e4nv)


@triton.jit
def scaled_groups(x: tl.tensor, GROUPS: tl.constexpr, GROUP: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """x f32 [GROUPS * GROUP] -> e4m3 of the same shape and f32 scales [GROUPS]; a group of zeros gets scale 1."""
    grouped = tl.reshape(x, (GROUPS, GROUP))
    largest = tl.max(tl.abs(grouped), axis=1)
    # Divisions as IEEE has them, so that values equal the reference's bit for bit.
    scale = tl.where(largest > 0, tl.div_rn(largest, largest * 0 + 448.0), 1.0)
    values = tl.div_rn(grouped, tl.broadcast_to(scale[:, None], (GROUPS, GROUP)))
    return tl.reshape(to_e4m3(values), (GROUPS * GROUP,)), scale
