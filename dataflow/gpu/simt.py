"""Products in float32 on CUDA cores, as cuBLAS computes them: tiles over multiprocessors, the fastest tile is taken.

    start + turns x (turn + steps x max(step, tile operations / (rate x share))),   no less than operands from DRAM

A batch is so many products more; the second operand of a single product is a weight, and cold. In compiled passes,
whose products add no bias, the library may cut the sum into parts. A product with a vector streams its matrix.
"""

import numpy as np

from accel.gpu.host import SimtFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Estimate, Floats

TILES = ((128, 128), (128, 64), (64, 128), (64, 64), (32, 128), (128, 32), (32, 32))
PARTS = (1, 2, 3, 4, 6, 8)  # of the sum
RESIDENT = 2  # blocks of a small tile that a multiprocessor holds: one computes while the other waits
ATTENTION_TILE = 64  # queries of a block of attention, keys of a tile
_LARGE, _SMALL = 128 * 128, 64 * 64


def simt_products(
    machine: GpuMachine, fit: SimtFit, batch: Floats, m: Floats, n: Floats, k: Floats, parts: bool = False
) -> Estimate:
    """Paired counts [points] of y [batch, M, N] = x [batch, M, K] w [batch, K, N]; `parts`: sums may be cut."""
    ways = [(*tile, split) for tile in TILES for split in (PARTS if parts else (1,))]
    fastest = np.min([_cycles(machine, fit, batch, m, n, k, *way) for way in ways], axis=0)
    vector = np.minimum(m, n) == 1
    tensor = np.where(vector, fit.vector_cycles, fastest) / machine.clock_hz
    work = 2 * batch * m * n * k
    x, w, y = 4 * batch * m * k, 4 * batch * k * n, 4 * batch * m * n
    lost = np.clip((x + w + y) / machine.cache.bytes - 0.5, 0.0, 1.0)
    read = np.where(batch == 1, w, lost * w) + lost * x
    dram = (read + lost * y) / machine.memory.read_bytes_per_s
    fixed = machine.launch.graph_s + fit.start_cycles / machine.clock_hz
    floor = np.maximum(work / machine.per_s("fp32"), np.where(batch == 1, w, 0.0) / machine.memory.peak_bytes_per_s)
    both = np.where(vector, tensor + dram, np.maximum(tensor, dram))
    return Estimate(
        kind="gemm_fp32",
        seconds=np.maximum(fixed + both, floor),
        floor_s=floor,
        dram_read_bytes=read,
        dram_write_bytes=lost * y,
        l2_bytes=x + w + y,
        operations={"fp32": work},
        terms={"tensor": tensor, "dram": dram, "launch": np.full_like(dram, fixed)},
    )


def _cycles(
    machine: GpuMachine,
    fit: SimtFit,
    batch: Floats,
    m: Floats,
    n: Floats,
    k: Floats,
    rows: int,
    columns: int,
    parts: int,
) -> Floats:
    blocks = batch * np.ceil(m / rows) * np.ceil(n / columns) * parts
    at_once = machine.multiprocessors * (RESIDENT if rows * columns <= _SMALL else 1)
    share = fit.share * (rows * columns / _LARGE) ** fit.small_exponent
    step, steps = 2.0 * rows * columns / (machine.rates.fp32 * share), np.ceil(k / parts)
    busy = np.ceil(blocks / machine.multiprocessors) * steps * step
    waiting = np.ceil(blocks / at_once) * (fit.turn_cycles + steps * max(fit.step_cycles, step))
    return np.maximum(busy, waiting) + _adding(machine, fit, batch * m * n, parts)


def _adding(machine: GpuMachine, fit: SimtFit, outputs: Floats, parts: int) -> Floats:
    """A second kernel that adds the parts, which lie in the L2."""
    if parts == 1:
        return np.zeros_like(outputs)
    seconds = machine.launch.graph_s + 4 * outputs * (2 * parts + 1) / machine.cache.bytes_per_s
    return np.asarray(fit.start_cycles + seconds * machine.clock_hz)


def simt_attention(
    machine: GpuMachine,
    fit: SimtFit,
    sequences: Floats,
    heads: Floats,
    kv_heads: Floats,
    queries: Floats,
    keys: Floats,
    size: Floats,
    causal: bool,
) -> Estimate:
    """Blocks of 64 queries walk over tiles of 64 keys, each waiting for its own: the longest decides, or all do."""
    blocks = sequences * heads * np.ceil(queries / ATTENTION_TILE)
    tiles = np.ceil(keys / ATTENTION_TILE)
    turns = np.ceil(blocks / (RESIDENT * machine.multiprocessors))
    seen = np.maximum(keys - (queries - 1) / 2, 1.0) if causal else keys
    work = 4 * sequences * heads * np.ceil(queries / ATTENTION_TILE) * ATTENTION_TILE * seen * size
    useful = 4 * sequences * heads * queries * seen * size
    tensor = work / machine.per_s("fp32") / fit.attention_share
    walked = turns * tiles * fit.attention_tile_cycles * size / ATTENTION_TILE / machine.clock_hz
    read = 4 * sequences * size * (2 * kv_heads * keys + heads * queries)
    written = 4 * sequences * heads * queries * size
    dram = read / machine.memory.read_bytes_per_s
    fixed = machine.launch.graph_s + fit.start_cycles / machine.clock_hz
    alone = np.where(queries == 1, walked, np.maximum(tensor, walked))  # rows of a tile that do not exist cost nothing
    floor = useful / machine.per_s("fp32")
    return Estimate(
        kind="attention_fp32",
        seconds=np.maximum(fixed + np.maximum(alone, dram), floor),
        floor_s=floor,
        dram_read_bytes=read,
        dram_write_bytes=np.zeros_like(read),
        l2_bytes=read + written,
        operations={"fp32": useful, "special": sequences * heads * queries * seen},
        terms={
            "tensor": np.where(queries == 1, 0.0, tensor),
            "latency": walked,
            "dram": dram,
            "launch": dram * 0 + fixed,
        },
    )
