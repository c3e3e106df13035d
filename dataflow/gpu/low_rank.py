"""A linear layer of SVDQuant: quantizer, 4-bit GEMM and a 16-bit branch of low rank, fused or not.

    low_rank_gemm(machine, fit, "w4a4_int4", m, n, k, rank=32, fused=True) -> Estimate

    fused      quantize x and multiply it with `down` [r, K] while it is there; the GEMM adds lora `up` in its epilogue
    unfused    four kernels: down-projection (reads x), quantizer (reads x again), GEMM (writes y), up-projection (reads
               and writes y)

Kernels are Nunchaku's in structure and unfitted (`w4a4.py`). Where the machine has neither 4-bit unit, the GEMM is our
W4A8 with groups, the activations are quantized to 8 bits, and the branch is added likewise. Left out: bias, the next
layer's quantizer in the epilogue, collisions of the atomics that add the down-projection up.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.formats import FORMATS, resolve
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import W4Fit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.w4 import w4_gemm
from dataflow.gpu.w4_work import whole_numbers
from dataflow.gpu.w4a4 import Kernel, check, floor_s, gemm_kernel, moving_kernel, together

# thread instructions that an element takes in the quantizer: load, division by `smooth`, absolute maximum, product,
# rounding, packing, most of them on pairs; assumed, not counted
_QUANTIZE = 4.0
_INSTEAD = "w4a8_group"


def low_rank_gemm(
    machine: GpuMachine,
    fit: W4Fit,
    format: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    rank: int = 32,
    fused: bool = True,
) -> Estimate:
    """Everything from x [M, K] in 16 bits to y [M, N]; rank 0: no branch.

    Raises ValueError for a rank below 0 or no multiple of 16, and where neither 4-bit units nor W4A8 run.
    """
    if rank < 0 or rank % 16:
        raise ValueError(f"rank: must be a multiple of 16, or 0, got {rank}")
    chosen = resolve(machine, format)[0].name
    rows, channels, inputs = (one.astype(np.float64) for one in whole_numbers(m, n, k))
    shape = rows, channels, inputs
    if not chosen.startswith("w4a4"):
        return _instead(machine, fit, format, shape, rank, fused)
    check(machine, chosen, None, 16)
    made = gemm_kernel(machine, fit.sync, chosen, *shape, rank=rank if fused else 0)
    bits = FORMATS[chosen].activation_bytes(1.0, 1.0) * 8
    first, last = _around(machine, fit, shape, rank, fused, bits)
    return together(machine, f"gemm_{chosen}", [*first, made, *last], floor_s(machine, chosen, *shape))


def _around(
    machine: GpuMachine, fit: W4Fit, shape: tuple[Floats, Floats, Floats], rank: int, fused: bool, bits: float
) -> tuple[list[Kernel], list[Kernel]]:
    """Kernels before and after the GEMM."""
    m, n, k = shape
    x, y, lora = 2.0 * m * k, 2.0 * m * n, 4.0 * m * rank
    down, up = 2.0 * rank * k, 2.0 * rank * n
    lost_x = np.maximum(0.0, 1.0 - machine.cache.bytes / (x + m * k * bits / 8))
    lost_y = np.maximum(0.0, 1.0 - machine.cache.bytes / (2 * y))
    products_down, products_up, none = 2.0 * m * rank * k, 2.0 * m * rank * n, 0.0 * m
    quantizer = x, m * k * bits / 8
    if fused or not rank:
        read, written = quantizer[0] + down, quantizer[1] + lora
        return [moving_kernel(machine, fit.sync, read, written, lost_x, products_down, _QUANTIZE * m * k)], []
    first = [
        moving_kernel(machine, fit.sync, x + down, lora, lost_x, products_down, none),
        moving_kernel(machine, fit.sync, *quantizer, lost_x, none, _QUANTIZE * m * k),
    ]
    return first, [moving_kernel(machine, fit.sync, y + lora + up, y, lost_y, products_up, none)]


def _instead(
    machine: GpuMachine,
    fit: W4Fit,
    format: str,
    shape: tuple[Floats, Floats, Floats],
    rank: int,
    fused: bool,
) -> Estimate:
    """W4A8 in place of the 4-bit GEMM; a fused up-projection takes the time of its products on top."""
    gemm = w4_gemm(machine, fit, _INSTEAD, *shape)
    first, last = _around(machine, fit, shape, rank, fused, 8.0)
    others = together(machine, gemm.kind, [*first, *last], 0.0 * gemm.floor_s)
    up = 2.0 * shape[0] * shape[1] * rank / machine.per_s("fp16") if fused else 0.0 * gemm.seconds
    return Estimate(
        kind=gemm.kind,
        seconds=gemm.seconds + others.seconds + up,
        floor_s=gemm.floor_s,
        dram_read_bytes=gemm.dram_read_bytes + others.dram_read_bytes,
        dram_write_bytes=gemm.dram_write_bytes + others.dram_write_bytes,
        l2_bytes=gemm.l2_bytes + others.l2_bytes,
        operations=_added(gemm.operations, _added(others.operations, {"fp16": up * machine.per_s("fp16")})),
        terms=_added(gemm.terms, _added(others.terms, {"tensor": up})),
    )


def _added(one: Mapping[str, Floats], other: Mapping[str, Floats]) -> dict[str, Floats]:
    """By name."""
    zero = 0.0 * next(iter(one.values()))
    return {name: one.get(name, zero) + other.get(name, zero) for name in dict.fromkeys((*one, *other))}
