"""`qserve_attention`: seconds of QServe's fused KV4 decode attention, from counted instructions. Nothing is fitted.

    launch + start of reads + three loads one after another + longest of |rounds of blocks, DRAM, L2|

A block of 256 threads takes one query head of one sequence: nothing is split, and query heads that share a K/V head
dequantize it each for itself. (The launcher would give few blocks more threads, but the number of multiprocessors that
it asks for stays at its default of 1.) In a trip a warp loads some keys, or values, and works on them: a round takes as
long as the resident warps need to issue, or as one warp waits and works. Instructions were counted in the machine code
for sm_90 of mit-han-lab/omniserve (CUDA 13.0). Left out: softmax (1 % of the instructions), which instructions run at
half rate, loads that the compiler moved ahead.
"""

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import SCHEDULERS, START_S, microarchitecture
from dataflow.gpu.attention_work import positive
from dataflow.gpu.estimate import Estimate, Floats

PRELOADED = 2048  # contexts below keep scales and zeros in shared memory
KEYS = {True: (8, 451), False: (4, 253)}  # preloaded or not: rows of a thread's trip, 8 elements each; instructions
VALUES = {True: (4, 235), False: (4, 266)}
_TRIP_ROWS = 2  # rows that a warp has side by side: 16 lanes each
_WARPS = 8  # of a block
_RESIDENT = 4  # blocks: "32 warps per SM", limited by registers, its launcher says
ROW_EXTRA = 4  # bytes of scale and zero, a token of a head
_LOADS = 3  # one after another: query and new key, first keys, first values


def qserve_attention(
    machine: GpuMachine,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike = 32,
    kv_heads: ArrayLike = 8,
    head_size: ArrayLike = 128,
) -> Estimate:
    """Of one decode step, arrays [points]. Raises ValueError for a GPU older than sm_80 or sizes below 1."""
    micro = microarchitecture(machine.architecture)
    named = {"batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads, "head_size": head_size}
    batch, context, heads, kv_heads, size = positive(**named)
    cache = 2 * batch * kv_heads * context * (size / 2 + ROW_EXTRA)
    through = cache * heads / kv_heads
    slots, waits = _rounds(machine, batch * heads, context, size / 128)
    seconds = {
        "alu": slots / machine.clock_hz,
        "dram": cache / machine.memory.read_bytes_per_s,
        "l2": through / machine.cache.bytes_per_s,
        "latency": waits / machine.clock_hz,
        "launch": np.full_like(batch, machine.launch.graph_s + START_S),
    }
    first = _LOADS * micro.last_load_cycles(machine.clock_hz) / machine.clock_hz
    longest = np.max([seconds[name] for name in ("alu", "latency", "dram", "l2")], axis=0)
    floor = cache / machine.memory.peak_bytes_per_s + machine.launch.graph_s
    total = np.maximum(seconds["launch"] + first + longest, floor)
    operations = {"fp32": 4.0 * batch * heads * context * size}
    return Estimate("qserve_attention", total, floor, cache, np.zeros_like(cache), through, operations, seconds)


def _rounds(machine: GpuMachine, blocks: Floats, context: Floats, wide: Floats) -> tuple[Floats, Floats]:
    """Cycles in which the busiest multiprocessor issues; cycles of its warps one by one, rounds of blocks in turn.

    `wide`: elements of a head over those of the heads that the instructions were counted for.
    """
    latency = microarchitecture(machine.architecture).last_load_cycles(machine.clock_hz)
    issue, chain = np.zeros_like(context), np.zeros_like(context)
    for table in (KEYS, VALUES):
        for preloaded, (rows, instructions) in table.items():
            trips = np.ceil(context / (_WARPS * _TRIP_ROWS * rows))
            here = (context < PRELOADED) == preloaded
            issue += np.where(here, context * instructions * wide / (_TRIP_ROWS * rows), 0.0)
            chain += np.where(here, trips * (latency + instructions * wide), 0.0)
    busiest = np.ceil(blocks / machine.multiprocessors)
    return busiest * issue / SCHEDULERS, np.ceil(busiest / _RESIDENT) * chain
