"""Cycles of flash attention: blocks of 128 queries that walk over tiles of keys and keep scores to themselves.

    start + |blocks in turn, DRAM|, slower where lasting products lower the clock

A block is its tiles and what is beside them; a tile the norm of its products and its softmax (an exponential a score
on the special function units, and issue slots), and what is beside both. Blocks of causal attention are of different
lengths: their sum, and a tail. FlashAttention 2 splits the keys where blocks are few, a second kernel adds the parts.
"""

from dataclasses import dataclass

import numpy as np

from accel.gpu.attention import FlashFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention_work import (
    ISSUE,
    SPLIT_QUERIES,
    Walk,
    block_queries,
    flash_splits,
    joined,
    padded,
    split_keys,
    tile_keys,
    walk,
)
from dataflow.gpu.estimate import Floats

# softmax of a tile to whose scores a mask is added takes so many times more: measured, cross attention of Sana-1.6B and
# PixArt-Sigma to 300 tokens by cuDNN (eager traces on an H200: 1.8 to 2.3 thousand cycles a tile)
BIASED = 1.35


@dataclass(frozen=True)
class Problem:
    """Arrays [points]; `rows`: queries of a K/V head; `cold`: keys and values are in no cache; `biased`: a mask that is
    the same for all queries is added to the scores."""

    kernel: str
    batch: Floats
    kv_heads: Floats
    rows: Floats
    keys: Floats
    size: Floats
    causal: bool
    cold: bool
    biased: bool = False

    @property
    def heads(self) -> Floats:
        """Of all sequences."""
        return self.batch * self.kv_heads

    @property
    def read_bytes(self) -> Floats:
        """Queries, keys and values once."""
        return 2 * self.heads * self.size * (self.rows + 2 * self.keys)

    @property
    def write_bytes(self) -> Floats:
        return 2 * self.heads * self.size * self.rows

    @property
    def distinct_bytes(self) -> Floats:
        """All that is touched."""
        return self.read_bytes + self.write_bytes


def splits_of(machine: GpuMachine, problem: Problem) -> Floats:
    """1 where blocks walk over all keys."""
    if problem.kernel != "flash":
        return np.ones_like(problem.keys)
    size = padded(problem.kernel, problem.size)
    return flash_splits(problem.heads, problem.rows, problem.keys, size, machine.multiprocessors)


def dram_bytes(machine: GpuMachine, problem: Problem) -> tuple[Floats, Floats]:
    """(read, written) over the memory bus. Warm operands that the L2 holds stay there; a round over more finds none."""
    stays = problem.distinct_bytes <= machine.cache.bytes
    cache = 4 * problem.heads * problem.size * problem.keys
    if problem.cold:
        return cache, np.where(stays, 0.0, problem.write_bytes)
    return np.where(stays, 0.0, problem.read_bytes), np.where(stays, 0.0, problem.write_bytes)


def scores(problem: Problem, walked: Walk, block: Floats | float, tile: Floats) -> Floats:
    """That are computed, those of padding too."""
    return problem.heads * walked.tiles * block * tile


def flash_cycles(machine: GpuMachine, fit: FlashFit, problem: Problem) -> dict[str, Floats]:
    """By part; "whole" is what they take together. "executed": operations of the products, padding too."""
    splits = splits_of(machine, problem)
    size = padded(problem.kernel, problem.size)
    rows = block_queries(problem.kernel, size, machine.architecture)
    whole = _blocks(machine, fit, problem, rows, tile_keys(problem.kernel, size))
    if (splits == 1).all():
        return _finished(machine, fit, problem, whole, splits)
    parts = _blocks(machine, fit, problem, SPLIT_QUERIES, split_keys(size), splits)
    chosen = {name: np.where(splits > 1, parts[name], whole[name]) for name in whole}
    return _finished(machine, fit, problem, chosen, splits)


def _finished(
    machine: GpuMachine, fit: FlashFit, problem: Problem, parts: dict[str, Floats], splits: Floats
) -> dict[str, Floats]:
    read, written = dram_bytes(machine, problem)
    share = fit.memory_share * machine.memory.read_bytes_per_s
    dram = (read + written) / share * machine.clock_hz
    combine = _combining(machine, fit, problem, splits)
    body = joined([parts["blocks"], dram], fit.across)
    slower = 1 + parts["lit"] * fit.slowing * -np.expm1(-body / (machine.clock_hz * fit.slowing_s))
    start = fit.start_cycles + (fit.cold_cycles if problem.cold else 0.0)
    return parts | {"dram": dram, "exchange": combine, "whole": start + body * slower + combine}


def _combining(machine: GpuMachine, fit: FlashFit, problem: Problem, splits: Floats) -> Floats:
    """Of the second kernel: float32 parts are written, then read."""
    parts = 4.0 * problem.heads * problem.rows * problem.size * splits
    seconds = parts / (machine.cache.bytes_per_s * fit.combine_share)
    cycles = fit.combine_cycles + fit.split_cycles * splits + seconds * machine.clock_hz
    return np.where(splits > 1, cycles, 0.0)


def _blocks(
    machine: GpuMachine,
    fit: FlashFit,
    problem: Problem,
    block: Floats | float,
    tile: Floats,
    splits: Floats | None = None,
) -> dict[str, Floats]:
    size = padded(problem.kernel, problem.size)
    hopper = fit.hopper if machine.architecture.startswith("sm_90") else 1.0
    products = 4.0 * block * tile * size / (machine.rates.fp16 * hopper * fit.tensor)
    special = block * tile / machine.rates.special
    softmax = special + block * tile * fit.score_slots / ISSUE
    each = joined([products, softmax], fit.within) + fit.tile_cycles + (BIASED * softmax if problem.biased else 0.0)
    beside = fit.block_cycles + fit.head_cycles * size / 128 + fit.uneven_cycles * (size != problem.size)
    beside = beside + fit.padded_cycles * (problem.keys % tile > 0)
    walked = walk(problem.rows, problem.keys, block, tile, problem.causal)
    parts = np.ones_like(size) if splits is None else splits
    longest = beside + np.ceil(walked.longest / parts) * each
    count = problem.heads * walked.blocks * parts
    work = problem.heads * (walked.tiles * each + walked.diagonal * fit.masked * softmax) + count * beside
    blocks, many = _in_turn(machine, fit, problem.causal, count, longest, work), machine.multiprocessors
    return {
        "blocks": blocks,
        "tensor": problem.heads * walked.tiles * products / many,
        "special": problem.heads * walked.tiles * special / many,
        "latency": (problem.heads * walked.tiles * fit.tile_cycles + count * beside) / many,
        "waves": np.maximum(blocks - work / many, 0.0),
        "executed": 4.0 * scores(problem, walked, block, tile) * size,
        "scores": scores(problem, walked, block, tile),
        "walked_bytes": 4.0 * problem.heads * walked.tiles * tile * size,
        "lit": problem.size / size,
    }


def _in_turn(machine: GpuMachine, fit: FlashFit, causal: bool, count: Floats, longest: Floats, work: Floats) -> Floats:
    """Of the busiest multiprocessor: pairs of blocks, then perhaps one alone."""
    turns = np.ceil(count / machine.multiprocessors)
    even = (turns // 2 * 2 + turns % 2 * fit.alone) * longest
    if not causal:
        return np.asarray(even)
    return np.minimum(work / machine.multiprocessors + fit.tail * longest, even)
