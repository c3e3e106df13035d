"""Linear attention as Sana has it: ReLU(K)^T V over all tokens, then ReLU(Q) times that, over a sum of weights.

    linear_attention(machine, fit, memory, batch, heads, tokens, size, fused=False) -> Estimate

Separate kernels in PyTorch, as diffusers 0.3x runs it, 14 of them, most in float32, and two fused ones that move each
operand once, which nobody has written here: a bound that can be approached. Sana, arXiv 2410.10629, section 2.2.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.attention import LinearAttentionFit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from dataflow.gpu.attention_work import positive
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.memory_bound import compulsory, known, one_kernel, plain_work, together

KINDS = {False: "linear_attention", True: "linear_attention_fused"}
BETWEEN = 20.0  # bytes an element that pass, about, between two uses of an intermediate: of the list below
_SUM_STEP, _SUM_TILE, _MIX_TILE = 8, 32, 64  # tokens of a step; rows of a tile of the recorded kernels' names


def linear_attention(
    machine: GpuMachine,
    fit: LinearAttentionFit,
    memory: MemoryBoundFit,
    batch: ArrayLike,
    heads: ArrayLike,
    tokens: ArrayLike,
    head_size: ArrayLike = 32,
    fused: bool = False,
) -> Estimate:
    """Of q, k, v [batch, tokens, heads x head_size] in 16 bits. Raises ValueError for counts below 1."""
    b, h, length, size = positive(batch=batch, heads=heads, tokens=tokens, head_size=head_size)
    if fused:
        parts = _fused(machine, memory, b * h, length, size)
    else:
        parts = separate_kernels(machine, fit, memory, b * h, length, size)
    return together(KINDS[fused], parts, compulsory(machine, 8.0 * b * h * length * size))


def separate_kernels(
    machine: GpuMachine, fit: LinearAttentionFit, memory: MemoryBoundFit, heads: Floats, tokens: Floats, size: Floats
) -> list[Estimate]:
    """Those of PyTorch, in the order in which they run; `heads`: of all sequences."""
    elements = heads * tokens * size

    def kernel(made: MovingKernel, count: Floats, read: float, write: float) -> Estimate:
        work = plain_work(count, read * count, write * count, BETWEEN * elements)
        return one_kernel(machine, memory, made, work, {"fp32": count})

    sums, mix = _products(machine, fit, memory, heads, tokens, size)
    return [
        *[kernel(known(memory, "unary"), elements, 2, 2) for _ in "qk"],  # ReLU
        *[kernel(known(memory, "widen"), elements, 2, 4) for _ in "qkv"],
        kernel(known(memory, "fill"), elements * (size + 1) / size, 0, 4),  # v with a row of ones
        kernel(fit.turned, elements, 4, 4),  # v into it
        kernel(fit.strided, elements, 4, 4),  # k, dense for the product
        sums,
        kernel(fit.turned, elements, 4, 4),  # q, dense for the product
        mix,
        kernel(fit.strided, elements / size, 4, 4),  # divisors plus epsilon
        kernel(fit.strided, elements, 4, 4),  # division
        kernel(known(memory, "narrow"), elements, 4, 2),
    ]


def _products(
    machine: GpuMachine, fit: LinearAttentionFit, memory: MemoryBoundFit, heads: Floats, tokens: Floats, size: Floats
) -> list[Estimate]:
    """V^T K over tokens, a chain of steps in few blocks; that times Q, on CUDA cores in float32."""
    tiles = np.ceil((size + 1) / _SUM_TILE) * np.ceil(size / _SUM_TILE)
    work = 2 * heads * tokens * size * (size + 1)
    padded = 2 * heads * tokens * size * np.ceil((size + 1) / _MIX_TILE) * _MIX_TILE
    mixing = padded / (machine.per_s("fp32") * fit.mix_share)
    chain = np.ceil(tokens / _SUM_STEP) * fit.sum_cycles / machine.clock_hz
    crowd = 2 * heads * tokens * _SUM_TILE**2 * tiles / machine.per_s("fp32")
    read, written = 4 * heads * tokens * size, 4 * heads * tokens * (size + 1)
    return [
        _product(machine, fit, memory, np.maximum(chain, crowd), read + written, 0 * read, work),
        _product(machine, fit, memory, mixing, read, written, work),
    ]


def _product(
    machine: GpuMachine,
    fit: LinearAttentionFit,
    memory: MemoryBoundFit,
    alu: Floats,
    read: Floats,
    written: Floats,
    work: Floats,
) -> Estimate:
    """A kernel whose products and bytes go on at once."""
    elements = read / 4
    moving = MovingKernel(latency_cycles=fit.product_cycles)
    bytes_only = one_kernel(
        machine, memory, moving, plain_work(elements, read, written, read + written), {"fp32": work}
    )
    fixed = machine.launch.graph_s + fit.product_cycles / machine.clock_hz
    busy = np.maximum(bytes_only.seconds - fixed, alu)
    return Estimate(
        kind="product",
        seconds=fixed + busy,
        floor_s=bytes_only.floor_s,
        dram_read_bytes=bytes_only.dram_read_bytes,
        dram_write_bytes=bytes_only.dram_write_bytes,
        l2_bytes=bytes_only.l2_bytes,
        operations={"fp32": work},
        terms=dict(bytes_only.terms) | {"alu": alu},
    )


def _fused(
    machine: GpuMachine, memory: MemoryBoundFit, heads: Floats, tokens: Floats, size: Floats
) -> Sequence[Estimate]:
    """Two kernels that move like a copy: k and v in; q in, the output out. Products are hidden."""
    elements, made = heads * tokens * size, known(memory, "copy")
    work = {"fp16": 2 * elements * (size + 1)}
    first = plain_work(2 * elements, 4 * elements, 4 * heads * size * (size + 1), 8 * elements)
    second = plain_work(elements, 2 * elements, 2 * elements, 8 * elements)
    return [one_kernel(machine, memory, made, one, work) for one in (first, second)]
