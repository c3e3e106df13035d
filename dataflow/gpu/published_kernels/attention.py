"""`qserve_attention`: seconds of QServe's fused KV4 decode attention, from counted instructions. Nothing is fitted.

    launch + start of reads + three loads one after another + longest of |issue slots, DRAM, L2|

A block of 256 threads takes one query head of one sequence: nothing is split, and query heads that share a K/V head
dequantize it each for itself. With few blocks the launcher gives each up to 1024 threads, since registers leave room
for 32 warps of a multiprocessor. Instructions a thread spends on an element of K and V were counted in the machine code
for sm_90 of mit-han-lab/omniserve (CUDA 13.0). Left out: softmax (1 % of the instructions), which instructions run at
half rate, stalls of warps that wait for one another.
"""

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import SCHEDULERS, START_S, microarchitecture
from dataflow.gpu.attention_work import positive
from dataflow.gpu.estimate import Estimate, Floats

PRELOADED = 2048  # contexts below keep scales and zeros in shared memory
INSTRUCTIONS = {True: 451 / 64 + 235 / 32, False: 253 / 32 + 266 / 32}  # a thread, for an element of K and one of V
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
    slots = _slots(machine, batch, context, heads, size)
    seconds = {
        "alu": slots / machine.clock_hz,
        "dram": cache / machine.memory.read_bytes_per_s,
        "l2": through / machine.cache.bytes_per_s,
        "latency": np.full_like(batch, _LOADS * micro.last_load_cycles(machine.clock_hz) / machine.clock_hz),
        "launch": np.full_like(batch, machine.launch.graph_s + START_S),
    }
    longest = np.maximum(seconds["alu"], np.maximum(seconds["dram"], seconds["l2"]))
    floor = cache / machine.memory.peak_bytes_per_s + machine.launch.graph_s
    total = np.maximum(seconds["launch"] + seconds["latency"] + longest, floor)
    operations = {"fp32": 4.0 * batch * heads * context * size}
    return Estimate("qserve_attention", total, floor, cache, np.zeros_like(cache), through, operations, seconds)


def _slots(machine: GpuMachine, batch: Floats, context: Floats, heads: Floats, size: Floats) -> Floats:
    """Cycles in which the busiest multiprocessor issues, by rounds of resident blocks."""
    counted = np.where(context < PRELOADED, INSTRUCTIONS[True], INSTRUCTIONS[False])
    block = context * size * counted / 32 / SCHEDULERS
    blocks = batch * heads
    return np.asarray(np.ceil(blocks / machine.multiprocessors) * block)
