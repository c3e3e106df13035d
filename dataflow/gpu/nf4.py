"""Products with NF4 weights as bitsandbytes computes them: unpacked to 16 bits in memory, then the library's product.

A single token goes to a kernel that keeps its weights packed; nobody counted that one, Marlin's stands for it. Left
out: scales that are themselves in 8 bits (one kernel more), what the product finds of the unpacked weights in the L2.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.formats import FORMATS
from accel.gpu.gemm import GemmFit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.gemm import gemm
from dataflow.gpu.memory_bound import columns, known, one_kernel, plain_work, together
from dataflow.gpu.published_kernels.gemm import published_gemm


def nf4_gemm(
    machine: GpuMachine, fit: GemmFit, memory: MemoryBoundFit, m: ArrayLike, n: ArrayLike, k: ArrayLike
) -> Estimate:
    """Paired arrays [points] of counts; `fit` of the library's bf16. Raises ValueError before sm_80."""
    rows, outputs, inputs = columns(m, n, k)
    weights, elements = FORMATS["nf4"].weight_bytes(1.0, 1.0) * outputs * inputs, outputs * inputs
    cold = np.full_like(elements, np.inf)
    work = plain_work(elements, weights, 2 * elements, cold)
    unpack = one_kernel(machine, memory, known(memory, "unary"), work, {"fp32": elements})
    products = 2 * rows * elements / machine.per_s("fp16")
    floor = np.maximum(weights / machine.memory.peak_bytes_per_s, products)
    both = together("gemm_nf4", [unpack, gemm(machine, fit, "bf16", rows, outputs, inputs)], floor)
    if not (rows == 1).any():
        return both
    return _where(rows == 1, published_gemm(machine, "marlin_w4a16", rows, outputs, inputs), both)


def _where(packed: np.ndarray, one: Estimate, other: Estimate) -> Estimate:
    """Points of `one` where `packed`, else of `other`, whose floors they keep."""

    def mixed(name: str) -> dict[str, Floats]:
        parts, others = getattr(one, name), getattr(other, name)
        none = np.zeros_like(other.floor_s)
        return {
            key: np.where(packed, parts.get(key, none), others.get(key, none))
            for key in dict.fromkeys((*parts, *others))
        }

    plain = ("seconds", "dram_read_bytes", "dram_write_bytes", "l2_bytes")
    numbers = {name: np.where(packed, getattr(one, name), getattr(other, name)) for name in plain}
    made = replace(other, **numbers, operations=mixed("operations"), terms=mixed("terms"))
    return replace(made, seconds=np.maximum(made.seconds, made.floor_s))
