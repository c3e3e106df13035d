"""Cycles of our GEMMs by mma.sync (`gpu_kernels/w4a8_portable`): a warp's products and its other instructions add up.

    start + cut tiles + |waves + |chain, products, instructions, L2, shared memory|, DRAM|

|...| are norms. The chain is what one warp takes for a stage: its products at the rate of its own tensor core, then all
other instructions at the pace of one warp alone. It rules: two warps a scheduler are no faster than one, and the
ablation twins of the kernel agree (products 162 us, the rest 169, the whole 293 to 307 at 4096 x 6144 x 4096).
"""

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import SyncFit
from dataflow.gpu.estimate import Floats
from dataflow.gpu.w4_tiles import CHUNK
from dataflow.gpu.w4_work import ARRIVE, Problem, cache_cycles, joined, memory_bytes, memory_cycles, slowed

_SLOTS, _SHARED = 4, 128  # schedulers, an instruction a cycle each; bytes of shared memory a cycle


def chunk_bytes(problem: Problem) -> Floats:
    """That arrive for a chunk of a tile."""
    return problem.rows * CHUNK * problem.x_bytes + problem.weight_chunk


def shared_bytes(problem: Problem) -> Floats:
    """Through shared memory, a chunk of a tile: each warp reads its tokens and channels; all is written once."""
    plan = problem.plan
    return plan.tokens * CHUNK * (plan.channel_warps + 1) + problem.weight_chunk * (plan.token_warps + 1)


def sync_cycles(machine: GpuMachine, fit: SyncFit, problem: Problem) -> dict[str, Floats]:
    """By part; "whole" is what they take together."""
    plan, count = problem.plan, machine.multiprocessors
    steps = plan.turns(count) * plan.chunks
    rate = machine.rates.int8 * fit.tensor * (fit.hopper if machine.architecture.startswith("sm_90") else 1.0)
    products = 2.0 * plan.channels * plan.tokens * CHUNK / rate  # of a chunk, by all tensor cores
    warps = plan.channel_warps * plan.token_warps
    chain = products * _SLOTS / warps + fit.chain * plan.instructions + fit.step_cycles
    read, written = memory_bytes(machine, problem)
    found = {
        "tensor": slowed(machine, steps * products, fit.throttle, fit.throttle_s),
        "l2": _l2(machine, fit, problem, steps),
        "alu": steps * warps * plan.instructions / (_SLOTS * fit.issue),
        "shared": steps * shared_bytes(problem) / _SHARED,
        "latency": plan.waves(count) * plan.chunks / plan.slices * chain,
        "waves": _epilogues(fit, problem, count),
        "dram": memory_cycles(machine, read + written) / fit.memory,
        "exchange": _exchange(fit, problem),
    }
    inner = joined([found[name] for name in ("tensor", "l2", "alu", "shared", "latency")], fit.within)
    body = joined([found["waves"] + inner, found["dram"]], fit.across)
    return found | {"whole": fit.start_cycles + found["exchange"] + body}


def _l2(machine: GpuMachine, fit: SyncFit, problem: Problem, steps: Floats) -> Floats:
    """What arrives at the busiest multiprocessor, and at all of them."""
    arriving = chunk_bytes(problem)
    everywhere = problem.plan.units * problem.plan.chunks * arriving
    return np.maximum(steps * arriving / ARRIVE, cache_cycles(machine, everywhere) / fit.cache)


def _epilogues(fit: SyncFit, problem: Problem, multiprocessors: int) -> Floats:
    """Of the busiest multiprocessor; slices meet first, rows outside with them."""
    plan = problem.plan
    times = np.ceil(plan.tiles / multiprocessors)
    meet = np.where(plan.slices > 1, fit.meet_cycles * plan.slices * plan.tokens, 0.0)
    return times * plan.channels * (fit.output_cycles * problem.rows + meet)


def _exchange(fit: SyncFit, problem: Problem) -> Floats:
    """Of a tile that is cut along K: a part is written, another read, one after the other."""
    plan = problem.plan
    return np.where(plan.cut > 0, fit.cut_cycles + fit.exchange_cycles * plan.channels * problem.rows, 0.0)
