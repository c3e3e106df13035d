"""Products in float32 on CUDA cores, as cuBLAS computes them: tiles over multiprocessors, the fastest tile is taken.

    start + turns x (turn + steps x max(step, tile operations / (rate x share))),   no less than operands from DRAM

A batch is so many products more. Left out: sums split over multiprocessors.
"""

import numpy as np

from accel.gpu.host import SimtFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Estimate, Floats

TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (32, 128), (128, 32), (32, 32))
RESIDENT = 2  # blocks of a small tile that a multiprocessor holds: one computes while the other waits
_LARGE, _SMALL = 128 * 128, 64 * 64


def simt_products(machine: GpuMachine, fit: SimtFit, batch: Floats, m: Floats, n: Floats, k: Floats) -> Estimate:
    """Paired counts [points] of y [batch, M, N] = x [batch, M, K] w [batch, K, N]."""
    ways = np.stack([_cycles(machine, fit, batch, m, n, k, *tile) for tile in TILES])
    tensor = np.where(np.minimum(m, n) > 1, ways.min(axis=0) / machine.clock_hz, 0.0)  # a vector reads, that is all
    work = 2 * batch * m * n * k
    read, written = 4 * batch * (m * k + k * n), 4 * batch * m * n
    dram = (read + written) / machine.memory.read_bytes_per_s
    lost = np.clip((read + written) / machine.cache.bytes - 0.5, 0.0, 1.0)
    fixed = machine.launch.graph_s + fit.start_cycles / machine.clock_hz
    floor = work / machine.per_s("fp32")
    return Estimate(
        kind="gemm_fp32",
        seconds=np.maximum(fixed + np.maximum(tensor, dram), floor),
        floor_s=floor,
        dram_read_bytes=lost * read,
        dram_write_bytes=lost * written,
        l2_bytes=read + written,
        operations={"fp32": work},
        terms={"tensor": tensor, "dram": dram, "launch": np.full_like(dram, fixed)},
    )


def _cycles(
    machine: GpuMachine, fit: SimtFit, batch: Floats, m: Floats, n: Floats, k: Floats, rows: int, columns: int
) -> Floats:
    blocks = batch * np.ceil(m / rows) * np.ceil(n / columns)
    at_once = machine.multiprocessors * (RESIDENT if rows * columns <= _SMALL else 1)
    share = fit.share * (rows * columns / _LARGE) ** fit.small_exponent
    step = 2.0 * rows * columns / (machine.rates.fp32 * share)
    busy = np.ceil(blocks / machine.multiprocessors) * k * step
    waiting = np.ceil(blocks / at_once) * (fit.turn_cycles + k * max(fit.step_cycles, step))
    return np.maximum(busy, waiting)
