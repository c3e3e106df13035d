"""Cycles of our Hopper GEMMs (`gpu_kernels/w4a8_gemm`): products by wgmma, beside the instructions that feed them.

    start + clusters + |latency + waves + |products, instructions, L2||, DRAM|

|...| are norms. The latency is what one warp waits for itself in each chunk; it stands beside the multiprocessor's
throughput, since a block has few warps.
"""

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import WgmmaFit
from dataflow.gpu.estimate import Floats
from dataflow.gpu.w4_tiles import CHUNK
from dataflow.gpu.w4_work import ARRIVE, Problem, cache_cycles, joined, memory_bytes, memory_cycles, slowed

UNITS = {"w8a8": "int8", "w4a8_channel": "int8", "w4a8_group": "int8", "w4a16": "fp16"}
WARPS = 4  # of a warpgroup
_SLOTS = 4  # instructions a cycle
_NARROW = 32  # tokens up to which a block of the next kernel finds room as well


def chunk_bytes(problem: Problem, outside: float) -> Floats:
    """That arrive for a chunk of a tile; rows behind the last token count `outside` each."""
    rows = problem.rows + outside * (problem.plan.tokens - problem.rows)
    return rows * CHUNK * problem.x_bytes + problem.plan.channels * CHUNK * problem.weight_bytes / (
        problem.n * problem.k
    )


def turns(problem: Problem, multiprocessors: int) -> Floats:
    """Units of the busiest multiprocessor; clusters of narrow tiles fill one before the next."""
    plan = problem.plan
    crowded = (plan.split > 1) & (plan.tokens <= _NARROW)
    spread = plan.turns(multiprocessors)
    return np.where(crowded, np.maximum(spread, np.minimum(plan.room, plan.units)), spread)


def wgmma_cycles(machine: GpuMachine, fit: WgmmaFit, problem: Problem) -> dict[str, Floats]:
    """By part; "whole" is what they take together."""
    plan, count = problem.plan, machine.multiprocessors
    steps = turns(problem, count) * plan.chunks
    rate = getattr(machine.rates, UNITS[problem.kind])
    products = steps * 2.0 * plan.channels * plan.tokens * CHUNK / (rate * fit.tensor)
    arriving = chunk_bytes(problem, fit.outside)
    everywhere = plan.units * plan.chunks * arriving
    read, written = memory_bytes(machine, problem)
    memory = np.where((plan.split > 1) & (plan.tokens <= _NARROW), fit.memory * fit.clustered, fit.memory)
    found = {
        "tensor": slowed(machine, products, fit.throttle, fit.throttle_s),
        "l2": np.maximum(steps * arriving / ARRIVE, cache_cycles(machine, everywhere) / fit.cache),
        "alu": steps * plan.channel_warps * plan.instructions * WARPS / (_SLOTS * fit.issue),
        "latency": plan.waves(count) * plan.chunks * plan.instructions * fit.chain,
        "waves": plan.waves(count) * fit.output_cycles * plan.channels * problem.rows / _owners(problem),
        "dram": memory_cycles(machine, read + written) / memory,
        "exchange": _exchange(fit, problem),
    }
    inner = joined([found["tensor"], found["l2"], found["alu"]], fit.within)
    body = joined([found["latency"] + found["waves"] + inner, found["dram"]], fit.across)
    return found | {"whole": fit.start_cycles + found["exchange"] + body}


def _owners(problem: Problem) -> Floats:
    """Blocks of a cluster that write outputs."""
    return np.minimum(problem.plan.split, np.maximum(problem.plan.tokens / 8, 1.0))


def _exchange(fit: WgmmaFit, problem: Problem) -> Floats:
    """Barriers of a cluster, and the sums that each block sends away."""
    plan = problem.plan
    sent = plan.channels * problem.rows * (plan.split - 1) / plan.split
    return np.where(plan.split > 1, fit.cluster_cycles + fit.exchange_cycles * sent, 0.0)
