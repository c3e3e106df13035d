"""Cycles of our decode attention (`gpu_kernels/kv4_attention`), with the tiles and splits that the operator takes.

    launch + meeting of splits + wait + |turns x latency of a block, |DRAM, issue slots||

The inner |...| is a norm, the outer one `partly_hidden`. Instructions of a tile were counted in the machine code for
sm_90a (CUDA 13.0); dequantization is once a K/V head, whatever the number of query heads. The launch in front lets this
one start early, as decoders do (`early=True`).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from accel.gpu.attention import OurDecodeFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention_work import ISSUE, joined, partly_hidden
from dataflow.gpu.estimate import Floats
from gpu_kernels.kv4_attention import config

# of 16 tokens, for each element of the head: widening of codes, matrix products, loads
ELEMENT_INSTRUCTIONS = {4: 1.23, 8: 1.87, 16: 0.94}
# of 16 tokens: softmax of 8 columns, by the number of slabs of 16 tokens that share them
SOFTMAX_INSTRUCTIONS = {1: 84.0, 2: 44.0, 4: 36.0}
TILE_INSTRUCTIONS = 40.0  # fetching and waiting, a tile
GATHER_INSTRUCTIONS = 140.0  # of 16 tokens of a list: addresses, copies of 16 bytes
SECTOR = 32  # bytes: what a scattered read moves at least
GATHERED = 0.6  # measured: 64 x 4096 tokens of a list in 125 us (README of the kernel), of the bandwidth of long reads
_SCHEDULERS = ISSUE / 32


@dataclass(frozen=True)
class Plan:
    """What the operator launches, arrays [points]; see `gpu_kernels.kv4_attention.config.Tile`."""

    tokens: Floats
    stages: Floats
    warps: Floats
    resident: Floats
    cluster: Floats
    splits: Floats
    block_heads: Floats
    chunks: Floats
    sides: Floats


@dataclass(frozen=True)
class Problem:
    """Arrays [points]; `read`: tokens of a sequence that are read; `gathered`: they come from a list."""

    batch: Floats
    read: Floats
    heads: Floats
    kv_heads: Floats
    size: Floats
    bits: Floats
    gathered: bool

    @property
    def row_bytes(self) -> Floats:
        """Of a token's key, or value, with its scale and zero, as they lie in the cache."""
        return self.size * self.bits / 8 + np.where(self.bits < 16, 4.0, 0.0)

    @property
    def token_bytes(self) -> Floats:
        """Read for a token of a K/V head: rows and, one by one, their scales in whole sectors where it is gathered."""
        if not self.gathered:
            return 2 * self.row_bytes
        rows = 2 * np.ceil(self.size * self.bits / 8 / SECTOR) * SECTOR
        return rows + np.where(self.bits < 16, float(SECTOR), 0.0)

    @property
    def cache_bytes(self) -> Floats:
        """All of it, once."""
        return self.batch * self.kv_heads * self.read * self.token_bytes


def plan(machine: GpuMachine, problem: Problem) -> Plan:
    """The operator's choice at every point. Raises ValueError for a width or head size that the kernel has not."""
    clusters = machine.architecture.startswith("sm_9")
    columns = problem.batch, problem.kv_heads, problem.heads, problem.read, problem.size, problem.bits
    rows = np.stack(columns, axis=1).astype(np.int64)
    found = [_plan(*row, machine.multiprocessors, clusters) for row in rows.tolist()]
    return Plan(*np.array(found, dtype=np.float64).T)


@lru_cache(maxsize=1 << 16)
def _plan(
    batch: int, kv_heads: int, heads: int, read: int, size: int, bits: int, multiprocessors: int, clusters: bool
) -> tuple[int, ...]:
    if bits not in config.BITS or size not in config.SIZES:
        raise ValueError(
            f"decode attention: our kernel has caches of {config.BITS} bits and heads of {config.SIZES}, "
            f"got {bits} bits and {size}"
        )
    group = -(-heads // kv_heads)
    own, chunks = config.block_heads(group, size)
    tile, splits = config.choose(batch, kv_heads, group, read, size, bits, multiprocessors, True)
    if not clusters:
        tile = config.portable(tile, size, bits, own)
    where = tile.tokens, tile.stages, tile.warps, tile.resident, tile.cluster
    return (*where, splits, own, chunks, tile.sides(own))


def tile_instructions(problem: Problem, chosen: Plan) -> Floats:
    """Of a warp, for a tile."""
    columns = np.ceil(chosen.block_heads / 8)
    slab = _of(ELEMENT_INSTRUCTIONS, problem.bits) * problem.size + _of(SOFTMAX_INSTRUCTIONS, chosen.sides) * columns
    slab = slab + (columns - 1) * problem.size / 8 + (GATHER_INSTRUCTIONS if problem.gathered else 0.0)
    return slab * chosen.tokens / config.GROUP_TOKENS + TILE_INSTRUCTIONS


def _of(table: dict[int, float], keys: Floats) -> Floats:
    found = np.zeros_like(keys)
    for key, value in table.items():
        found = np.where(keys == key, value, found)
    return found


def our_cycles(machine: GpuMachine, fit: OurDecodeFit, problem: Problem) -> dict[str, Floats]:
    """By part; "whole" is what they take together."""
    chosen = plan(machine, problem)
    blocks = problem.batch * problem.kv_heads * chosen.chunks * chosen.splits
    busiest = np.ceil(blocks / machine.multiprocessors)
    turns = np.ceil(blocks / (machine.multiprocessors * chosen.resident))
    tiles = np.ceil(np.ceil(problem.read / chosen.tokens) / chosen.splits)
    steps, instructions = np.ceil(tiles / chosen.warps), tile_instructions(problem, chosen)
    step, block = fit.chain * instructions, fit.block_cycles + fit.quantize_cycles * (problem.bits < 16)
    heads = chosen.block_heads * problem.size / 128
    beside = chosen.warps * (fit.block_slots + fit.head_slots * heads)
    late = np.maximum(steps - chosen.stages, 0.0)
    found = {
        "dram": dram_cycles(machine, fit, problem, chosen),
        "alu": busiest * (beside + tiles * instructions) / _SCHEDULERS,
        "latency": turns * (block + steps * step) + fit.wait_cycles * late / (late + chosen.stages),
        "exchange": _meeting(fit, chosen),
    }
    busy = joined([found["alu"], found["dram"]], fit.across)
    body = partly_hidden(busy, turns * (block + steps * step), block + fit.exposed_tiles * step, fit.overlap)
    return found | {"whole": body + fit.wait_cycles * late / (late + chosen.stages) + found["exchange"]}


def dram_cycles(machine: GpuMachine, fit: OurDecodeFit, problem: Problem, chosen: Plan) -> Floats:
    """Of the cache's bytes, once a K/V head; a tile is one contiguous read, or a token where they are gathered."""
    tile_bytes = chosen.tokens * problem.token_bytes
    share = fit.memory_share * (GATHERED if problem.gathered else 1.0)
    seconds = problem.cache_bytes / (machine.memory.read_bytes_per_s * share)
    return seconds * machine.clock_hz * (1 + (0.0 if problem.gathered else fit.short_bytes) / tile_bytes)


def _meeting(fit: OurDecodeFit, chosen: Plan) -> Floats:
    apart = np.where(chosen.cluster > 1, fit.cluster_cycles, fit.meet_cycles)
    return np.where(chosen.splits > 1, apart, 0.0)
