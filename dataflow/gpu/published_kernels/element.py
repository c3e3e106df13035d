"""Decode attention on CUDA cores, an element at a time: bytes that arrive, operations that widen and use it.

The argument that QServe's paper makes for fp16 arithmetic and the magic-number conversion (arXiv 2405.04532, section
6.3 of its notes): with KV4 the bytes halve, but a naive kernel runs out of float32 lanes on an A100.
"""

from accel.gpu.machine import GpuMachine

_FMA = 1  # of an element with the query, or with its probability
NAIVE_KV4 = 5 + _FMA  # masking, shifting, converting, multiplying, subtracting: QServe's paper
KV8 = 2 + _FMA  # assumed: converting, multiplying by a static scale
PACKED_KV4 = (2 + _FMA) / 2  # two operations with the magic number, two elements in each: QServe's paper


def element_s(machine: GpuMachine, bits: float, operations: float) -> float:
    """Seconds of one element of the cache among many: the longer of DRAM and of the float32 lanes."""
    lanes = machine.rates.fp32 / 2 * machine.multiprocessors * machine.clock_hz
    return max(bits / 8 / machine.memory.read_bytes_per_s, operations / lanes)
