"""GEMM with 4-bit weights and activations as Nunchaku's kernel does it; nothing here is fitted to a run of it.

    w4a4_gemm(machine, fit, "w4a4_int4", m, n, k)                       # groups of 64, sums of groups in 16 bits
    w4a4_gemm(machine, fit, "w4a4_int4", m, n, k, 128, sum_bits=32)     # Atom: groups of 128, float32 sums

A block has 256 tokens x 128 channels, 8 warps of 32 x 128, steps of 64 inputs, operands straight from the L2 to
registers (packed in the order of fragments). INT4 products of a group are int32: each is converted, scaled and added on
CUDA cores, and mma.sync lets one warp do one thing at a time. NVFP4 scales in the tensor core. How long a warp's own
instructions take, and what a launch costs, are those of our mma.sync kernels (`SyncFit`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.formats import FORMATS
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import SyncFit, W4Fit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.w4_work import ARRIVE, cache_cycles, joined, memory_cycles, slowed, whole_numbers

TOKENS, CHANNELS, WARPS, STEP = 256, 128, 8, 64  # of a block; inputs a step
_SLOTS = 4  # schedulers of a multiprocessor
_LOADS = 24  # instructions of a warp a step: 2 loads of activations, 8 of weights, scales, addresses
# of a sum of a group: to float 2 slots (one instruction at half rate, or a trick with two), then in 16 bits half each
# for packing, the scales' product and the multiply-add; in 32 bits one each for product and multiply-add
_CONVERT = {16: 3.5, 32: 4.0}


@dataclass(frozen=True)
class Kernel:
    """One kernel of a layer; arrays [points], cycles by part, and what it moves."""

    cycles: Mapping[str, Floats]
    read_bytes: Floats
    write_bytes: Floats
    l2_bytes: Floats
    operations: Mapping[str, Floats]


def w4a4_gemm(
    machine: GpuMachine,
    fit: W4Fit,
    format: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    group: int | None = None,
    sum_bits: int = 16,
) -> Estimate:
    """The GEMM alone: packed activations, weights and their scales in, y [M, N] in 16 bits out.

    Raises ValueError for another format than w4a4_int4 and w4a4_nvfp4, where the machine lacks its unit, and for groups
    that are no multiple of 64 (INT4) or not 16 (NVFP4).
    """
    check(machine, format, group, sum_bits)
    rows, channels, inputs = (one.astype(np.float64) for one in whole_numbers(m, n, k))
    made = gemm_kernel(machine, fit.sync, format, rows, channels, inputs, group, sum_bits)
    return together(machine, f"gemm_{format}", [made], floor_s(machine, format, rows, channels, inputs))


def check(machine: GpuMachine, format: str, group: int | None, sum_bits: int) -> None:
    """Raises ValueError, see `w4a4_gemm`."""
    if format not in ("w4a4_int4", "w4a4_nvfp4"):
        raise ValueError(f"format: must be w4a4_int4 or w4a4_nvfp4, got {format!r}")
    if not getattr(machine.rates, FORMATS[format].unit):
        raise ValueError(f"{machine.name}: has no {FORMATS[format].unit} units for {format}")
    natural = FORMATS[format].group
    if group is not None and (group % STEP if format == "w4a4_int4" else group != natural):
        raise ValueError(f"{format}: groups must be {'multiples of 64' if natural == STEP else '16'}, got {group}")
    if sum_bits not in _CONVERT:
        raise ValueError(f"sum_bits: must be 16 or 32, got {sum_bits}")


def gemm_kernel(
    machine: GpuMachine,
    fit: SyncFit,
    format: str,
    m: Floats,
    n: Floats,
    k: Floats,
    group: int | None = None,
    sum_bits: int = 16,
    rank: int = 0,
) -> Kernel:
    """The 4-bit GEMM, with the up-projection of so many ranks in its epilogue."""
    one = FORMATS[format]
    each = group or one.group
    turns = np.ceil(np.ceil(m / TOKENS) * np.ceil(n / CHANNELS) / machine.multiprocessors)
    steps = np.ceil(k / STEP)
    products = 2.0 * TOKENS * CHANNELS * STEP / (getattr(machine.rates, one.unit) * fit.tensor)
    slots = _LOADS + _converting(format, each, sum_bits)
    up = up_cycles(machine, fit, rank)
    operand = steps * STEP * (TOKENS * one.x_bits + CHANNELS * one.w_bits) / 8
    cold, warm = one.weight_bytes(1.0, 1.0) * n * k, one.activation_bytes(1.0, 1.0) * m * k
    lost = np.maximum(0.0, 1.0 - machine.cache.bytes / (cold + warm + 2.0 * m * n))
    read, written = cold + lost * warm, lost * 2.0 * m * n
    arriving = operand + rank * (4.0 * TOKENS + 2.0 * CHANNELS)
    cycles = {
        "tensor": turns * (slowed(machine, steps * products, fit.throttle, fit.throttle_s) + up),
        "alu": turns * steps * WARPS * slots / (_SLOTS * fit.issue),
        "l2": np.maximum(turns * arriving / ARRIVE, cache_cycles(machine, m * n * arriving / (TOKENS * CHANNELS))),
        "latency": turns * (steps * (products * _SLOTS / WARPS + fit.chain * slots) + up),
        "waves": turns * fit.output_cycles * TOKENS * CHANNELS,
        "dram": memory_cycles(machine, read + written) / fit.memory,
    }
    tiles = np.ceil(m / TOKENS) * np.ceil(n / CHANNELS)
    operations: dict[str, Floats] = {
        one.unit: 2.0 * tiles * TOKENS * CHANNELS * k,
        "fp16": 2.0 * tiles * TOKENS * CHANNELS * rank,
    }
    return Kernel(_whole(fit, cycles), read, written, tiles * arriving + 2.0 * m * n, operations)


def _converting(format: str, group: int, sum_bits: int) -> float:
    """Issue slots of a warp a step for the sums of groups; the tensor core scales NVFP4 itself."""
    sums = TOKENS * CHANNELS / WARPS / 32 * STEP / group
    return _CONVERT[sum_bits] * sums if format == "w4a4_int4" else 0.0


def up_cycles(machine: GpuMachine, fit: SyncFit, rank: int) -> float:
    """Products [256, rank] x [rank, 128] of a block on the 16-bit tensor cores."""
    return 2.0 * TOKENS * CHANNELS * rank / (machine.rates.fp16 * fit.tensor)


def _whole(fit: SyncFit, cycles: Mapping[str, Floats]) -> dict[str, Floats]:
    inner = joined([cycles[name] for name in ("tensor", "alu", "l2", "latency")], fit.within)
    return {**cycles, "whole": fit.start_cycles + joined([inner + cycles["waves"], cycles["dram"]], fit.across)}


def moving_kernel(
    machine: GpuMachine, fit: SyncFit, read: Floats, written: Floats, missing: Floats, fp16: Floats, slots: Floats
) -> Kernel:
    """A kernel that reads and writes once: bytes, their share that misses the L2, 16-bit products, instructions."""
    everything = machine.rates.fp16 * machine.multiprocessors * fit.tensor
    cycles = {
        "tensor": fp16 / everything,
        "alu": slots / (32.0 * _SLOTS * machine.multiprocessors),
        "l2": cache_cycles(machine, read + written),
        "latency": np.zeros_like(read),
        "waves": np.zeros_like(read),
        "dram": memory_cycles(machine, missing * (read + written)) / fit.memory,
    }
    operations = {"fp16": fp16}
    return Kernel(_whole(fit, cycles), missing * read, missing * written, read + written, operations)


def together(machine: GpuMachine, kind: str, kernels: list[Kernel], floor: Floats) -> Estimate:
    """Kernels one after another."""
    launch = np.full_like(floor, machine.launch.graph_s * len(kernels))
    seconds = launch + sum(one.cycles["whole"] for one in kernels) / machine.clock_hz
    names = [name for name in kernels[0].cycles if name != "whole"]
    terms = {name: np.asarray(sum(one.cycles[name] for one in kernels) / machine.clock_hz) for name in names}
    units = dict.fromkeys(unit for one in kernels for unit in one.operations)
    return Estimate(
        kind=kind,
        seconds=np.maximum(seconds, floor),
        floor_s=floor,
        dram_read_bytes=np.asarray(sum(one.read_bytes for one in kernels)),
        dram_write_bytes=np.asarray(sum(one.write_bytes for one in kernels)),
        l2_bytes=np.asarray(sum(one.l2_bytes for one in kernels)),
        operations={u: np.asarray(sum(one.operations.get(u, 0.0 * floor) for one in kernels)) for u in units},
        terms=terms | {"launch": launch},
    )


def floor_s(machine: GpuMachine, format: str, m: Floats, n: Floats, k: Floats) -> Floats:
    """Cold weights with their scales over the memory's bandwidth, products over the rate."""
    one = FORMATS[format]
    weights = one.weight_bytes(1.0, 1.0) * n * k
    return np.maximum(weights / machine.memory.peak_bytes_per_s, 2.0 * m * n * k / machine.per_s(one.unit))
