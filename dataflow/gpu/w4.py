"""Our GEMMs with 4-bit weights: W4A8 per channel and per group, W4A16, W8A8, on whatever GPU.

    w4_gemm(machine, fit, "w4a8_group", m, n, k) -> Estimate

On Hopper the wgmma kernels (`w4_wgmma.py`), elsewhere from sm_80 on the mma.sync ones (`w4_sync.py`), with the tiles
that the operators take (`w4_tiles.py`). Weights are cold, activations warm. Left out: bias; activations' quantizer.
"""

import numpy as np
from numpy.typing import ArrayLike

from accel.fault import nearest
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import W4Fit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.executed import PAIR_BITS, WARP
from dataflow.gpu.w4_sync import sync_cycles
from dataflow.gpu.w4_tiles import CHUNK, Whole, ceiling, hopper_plan, portable_plan
from dataflow.gpu.w4_wgmma import UNITS, WARPS, wgmma_cycles
from dataflow.gpu.w4_work import Problem, memory_bytes, whole_numbers
from gpu_kernels.w4a8_gemm.config import block_bytes
from gpu_kernels.w4a8_portable.config import SHARED_BYTES

PORTABLE = {"portable_channel": "w4a8_channel", "portable_group": "w4a8_group", "portable_w8a8": "w8a8"}
_KINDS = {"w4a8": "w4a8_channel", **{kind: kind for kind in UNITS}, **PORTABLE}
_FIRST = 80  # compute capability that has cp.async and the m16n8k32 of mma.sync


def w4_gemm(
    machine: GpuMachine, fit: W4Fit, format: str, m: ArrayLike, n: ArrayLike, k: ArrayLike, group: int = CHUNK
) -> Estimate:
    """y [M, N] = x [M, K] W^T by our kernel of the format; `portable_*` asks for mma.sync where wgmma would run.

    Raises ValueError for an unknown format, other groups than 128, N that is no multiple of 64, a GPU before sm_80, and
    for W4A16 outside of Hopper (there is no such kernel of ours).
    """
    kind = _kind(format, group)
    rows, channels, inputs = whole_numbers(m, n, k)
    if (channels % 64).any():
        raise ValueError(f"{format}: N must be a multiple of 64, got {channels[channels % 64 > 0][0]}")
    on_hopper = machine.architecture.startswith("sm_90") and format not in PORTABLE
    problem = _problem(machine, kind, rows, channels, inputs, on_hopper)
    cycles = _wgmma(machine, fit, problem) if on_hopper else sync_cycles(machine, fit.sync, problem)
    name = f"gemm_{kind}" if on_hopper else f"gemm_{_portable_name(kind)}"
    return _estimate(machine, name, problem, cycles)


def _wgmma(machine: GpuMachine, fit: W4Fit, problem: Problem) -> dict[str, Floats]:
    if fit.wgmma is None:
        raise ValueError(f"{machine.name}: the fit has no numbers of wgmma kernels; calibrate on Hopper")
    return wgmma_cycles(machine, fit.wgmma, problem)


def _kind(format: str, group: int) -> str:
    if format not in _KINDS:
        raise ValueError(f"format: no GEMM of ours, got {format!r} ({nearest(format, _KINDS)})")
    kind = _KINDS[format]
    if kind in ("w4a8_group", "w4a16") and group != CHUNK:
        raise ValueError(f"{format}: groups are of {CHUNK} inputs, got {group}")
    return kind


def _portable_name(kind: str) -> str:
    return next(name for name, one in PORTABLE.items() if one == kind)


def shared_like(architecture: str) -> str:
    """The architecture whose tiles the portable operator takes here: that with as much shared memory.

    Raises ValueError before sm_80.
    """
    number = int("".join(filter(str.isdigit, architecture)))
    if number < _FIRST:
        raise ValueError(f"{architecture}: our GEMMs need the products of sm_80 or later")
    return {80: "sm_80", 86: "sm_86", 90: "sm_90a"}.get(number, "sm_90a" if 100 <= number < 120 else "sm_89")


def _problem(machine: GpuMachine, kind: str, m: Whole, n: Whole, k: Whole, on_hopper: bool) -> Problem:
    if on_hopper:
        plan = hopper_plan(kind, m, n, k, machine.multiprocessors)
    elif kind in PORTABLE.values():
        like = shared_like(machine.architecture)
        assert like in SHARED_BYTES
        plan = portable_plan(kind, m, n, k, machine.multiprocessors, like)
    else:
        raise ValueError(f"{machine.name}: our {kind} needs wgmma of Hopper (sm_90), this is {machine.architecture}")
    weights = n // 64 * ceiling(k, 64) * block_bytes(kind) / 2.0
    x_bytes = 2 if kind == "w4a16" else 1
    return Problem(kind, m.astype(np.float64), n.astype(np.float64), k.astype(np.float64), plan, weights, x_bytes)


def _estimate(machine: GpuMachine, name: str, problem: Problem, cycles: dict[str, Floats]) -> Estimate:
    whole = machine.launch.graph_s + cycles.pop("whole") / machine.clock_hz
    read, written = memory_bytes(machine, problem)
    terms = {part: taken / machine.clock_hz for part, taken in cycles.items()}
    least = floor_s(machine, problem)
    return Estimate(
        kind=name,
        seconds=np.maximum(whole, least),
        floor_s=least,
        dram_read_bytes=read,
        dram_write_bytes=written,
        l2_bytes=_l2_bytes(problem),
        operations=_operations(problem, name.startswith("gemm_portable")),
        terms=terms | {"launch": np.full_like(whole, machine.launch.graph_s)},
    )


def _operations(problem: Problem, sync: bool) -> dict[str, Floats]:
    """Products with their padding; of threads, all other instructions of the main loops, and those of mma.sync."""
    plan = problem.plan
    loops = WARP * plan.units * plan.chunks * plan.channel_warps * plan.token_warps * plan.instructions
    others = loops + problem.products * 8 / PAIR_BITS if sync else WARPS * loops
    return {UNITS[problem.kind]: problem.products, "int32": others}


def floor_s(machine: GpuMachine, problem: Problem) -> Floats:
    """Cold weights over the memory's bandwidth, products of what was asked for over the rate."""
    products = 2.0 * problem.m * problem.n * problem.k / machine.per_s(UNITS[problem.kind])
    return np.maximum(problem.weight_bytes / machine.memory.peak_bytes_per_s, products)


def _l2_bytes(problem: Problem) -> Floats:
    """Operands of every tile, and the outputs."""
    plan = problem.plan
    weights = plan.channels * problem.k * problem.weight_bytes / (problem.n * problem.k)
    return plan.tiles * (weights + problem.rows * problem.k * problem.x_bytes) + problem.output_bytes
