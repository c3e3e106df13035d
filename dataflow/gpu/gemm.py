"""Products of a library, y [M, N] = x [M, K] W^T: time, bytes by level, limit, from tiles, turns and a learned choice.

For each tile and split that the library may take: a start, then tensor cores, DRAM and L2 that overlap (a norm), a
fixed time for each block that the busiest multiprocessor takes in turn, and the end. The time of a point lies in the
middle of what the candidates take, weighted by the chance of each (`selector`). No time is learned: the fit holds
rates, latencies and the library's taste. Left out: co-resident blocks, clusters, epilogues beyond a cast, alignment.

A larger machine is never slower with the same tile; what the library chooses on it may be worse, as it is in silicon.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.gemm import GemmFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.executed import of_library
from dataflow.gpu.problem import Problem
from dataflow.gpu.selector import chances, middle
from dataflow.gpu.tiles import Blocks, Candidates

_FEW = 72.0  # rows of x, spread over so many slices of the L2 that they are no longer waited for
_AT_ONCE = 192  # points: arrays of candidates stay in the CPU's cache


@dataclass(frozen=True)
class Times:
    """[points, candidates]: seconds of each resource alone and of the whole call, bytes that the L2 loads."""

    tensor: Floats
    dram: Floats
    cache: Floats
    waves: Floats
    split: Floats
    seconds: Floats
    loaded_bytes: Floats


def gemm(
    machine: GpuMachine, fit: GemmFit, format: str, m: ArrayLike, n: ArrayLike, k: ArrayLike, batch: ArrayLike = 1
) -> Estimate:
    """Paired arrays [points] (or numbers) of counts; `batch` independent products, each with weights of its own.

    Weights come from DRAM; activations stay in the L2 as far as they fit. Raises ValueError for an unknown format and
    where the machine has no unit for it.
    """
    problem = Problem.of(format, m, n, k, batch, fit.least_rows)
    if not getattr(machine.rates, problem.format.unit):
        raise ValueError(f"{machine.name}: rates.{problem.format.unit}: no such unit to run {format} on")
    points = len(problem.m)
    pieces = [
        _estimate(machine, fit, problem.part(start, min(start + _AT_ONCE, points)))
        for start in range(0, max(points, 1), _AT_ONCE)
    ]
    return pieces[0] if len(pieces) == 1 else _joined(pieces)


def _estimate(machine: GpuMachine, fit: GemmFit, problem: Problem) -> Estimate:
    one = Candidates.of(fit)
    blocks = Blocks.of(one, problem.m, problem.n, problem.k, problem.batch, machine.multiprocessors)
    times = candidate_times(machine, fit, problem, one, blocks)
    log_s = np.log(times.seconds)
    weight = chances(fit.choice, one, blocks, log_s, problem, machine.multiprocessors)
    taken = middle(log_s, weight)[:, None]

    def of(values: Floats) -> Floats:
        return np.asarray(np.take_along_axis(np.broadcast_to(values, log_s.shape), taken, axis=1)[:, 0])

    floor = floor_s(machine, problem)
    read, written = dram_bytes(machine, fit, problem, of(one.rows * one.columns)[:, None])
    launch = np.full(len(floor), fit.start_cycles / machine.clock_hz)
    terms = {name: of(getattr(times, name)) for name in ("tensor", "dram", "cache", "waves", "split")}
    found = Estimate(
        kind=f"gemm_{problem.format.name}",
        seconds=np.maximum(of(times.seconds), floor),
        floor_s=floor,
        dram_read_bytes=read[:, 0],
        dram_write_bytes=written[:, 0],
        l2_bytes=of(times.loaded_bytes) + problem.y_bytes[:, 0],
        operations={problem.format.unit: problem.operations[:, 0]},
        terms={("l2" if name == "cache" else name): seconds for name, seconds in terms.items()} | {"launch": launch},
    )
    shape = (axis[:, 0] for axis in (problem.m, problem.n, problem.k, problem.batch))
    return of_library(machine, found, problem.format.name, *shape)


def candidate_times(machine: GpuMachine, fit: GemmFit, problem: Problem, one: Candidates, blocks: Blocks) -> Times:
    """The time of every candidate."""
    hz, sms = machine.clock_hz, machine.multiprocessors
    rate = getattr(machine.rates, problem.format.unit) * hz
    tensor = blocks.turns * (2 * one.rows * one.columns * blocks.inputs) / (rate * one.speed)
    moved = problem.w_bytes + missing(machine, fit, problem) * (problem.x_bytes + problem.y_bytes)
    dram = moved / (fit.memory_share * machine.memory.peak_bytes_per_s)
    loaded = cache_bytes(problem, one, blocks)
    cache = np.maximum(loaded / (fit.cache_bytes * sms), blocks.turns * loaded / blocks.count / fit.port_bytes) / hz
    main = _norm(fit.overlap, tensor, dram, cache + _queue(problem, one) / fit.line_bytes / hz)
    sums = 4 * problem.batch * problem.m * problem.n * (one.parts + 0.5) / (fit.cache_bytes * sms)
    split = np.where(one.parts > 1, (fit.split_cycles + sums) / hz, 0.0)
    stored = np.minimum(one.rows, problem.m) * np.minimum(one.columns, problem.n) * problem.format.y_bits / 8
    waves = (fit.wave_cycles + stored / fit.store_bytes) * blocks.turns / hz
    fixed = waves + split + (fit.start_cycles + fit.end_cycles) / hz
    return Times(tensor, dram, cache, waves, split, main * _slowed(fit, main, fixed, tensor) + fixed, loaded)


def _queue(problem: Problem, one: Candidates) -> Floats:
    """Bytes of a row of x that blocks read after each other: all at once ask for the same lines where rows are few."""
    last = problem.m - (np.ceil(problem.m / one.rows) - 1) * one.rows
    few = 1 / (1 + np.square(np.square(last / _FEW)))
    return np.asarray(few * np.ceil(problem.n / one.columns) * (problem.k * problem.format.x_bits / 8))


def _norm(power: float, *seconds: Floats) -> Floats:
    """Of the longest, and a little more where others are nearly as long; scaled, so that no power overflows."""
    first, *others = seconds
    longest, less = first, []
    for one in others:  # the longest counts 1 and needs no power
        longest, shorter = np.maximum(longest, one), np.minimum(longest, one)
        less.append(shorter)
    return np.asarray(longest * (1 + sum((one / longest) ** power for one in less)) ** (1 / power))


def _slowed(fit: GemmFit, main: Floats, fixed: Floats, tensor: Floats) -> Floats:
    """Factor on the main part: the clock that the power limit leaves, by how busy tensor cores are and for how long."""
    lasted = 1.0 if fit.slowing_s == 0 else -np.expm1(-(main + fixed) / fit.slowing_s)
    return 1 + fit.slowing * lasted * np.minimum(tensor / main, 1.0)


def cache_bytes(problem: Problem, one: Candidates, blocks: Blocks) -> Floats:
    """Read from the L2 [points, candidates]: each block its rows of x and columns of W."""
    rows, columns = np.minimum(one.rows, problem.m), np.minimum(one.columns, problem.n)
    bits = rows * problem.format.x_bits + columns * problem.format.w_bits
    return np.asarray(blocks.count * blocks.inputs * bits / 8)


def missing(machine: GpuMachine, fit: GemmFit, problem: Problem) -> Floats:
    """Share [points, 1] of activations that left the L2 since the call before."""
    used = (problem.x_bytes + problem.w_bytes + problem.y_bytes) / (fit.resident * machine.cache.bytes)
    return np.asarray(1 / (1 + used**-fit.sharpness))


def dram_bytes(machine: GpuMachine, fit: GemmFit, problem: Problem, outputs: Floats) -> tuple[Floats, Floats]:
    """(read, written), each [points, 1]; `outputs` of the tile that ran.

    Weights once, and again for each band of rows that is in flight at a time where they do not stay in the L2; blocks
    in flight form a square.
    """
    gone = missing(machine, fit, problem)
    square = np.sqrt(machine.multiprocessors * outputs)
    bands = np.maximum(1.0, problem.m / square)
    again = (
        (bands - 1) * problem.w_bytes / (1 + (fit.resident * machine.cache.bytes / problem.w_bytes) ** fit.sharpness)
    )
    return problem.w_bytes + again + gone * problem.x_bytes, gone * problem.y_bytes


def floor_s(machine: GpuMachine, problem: Problem) -> Floats:
    """[points]: weights over the peak of the DRAM, operations over the unit's rate at the highest clock."""
    memory = problem.w_bytes / machine.memory.peak_bytes_per_s
    return np.maximum(memory, problem.operations / machine.per_s(problem.format.unit))[:, 0]


def _joined(pieces: list[Estimate]) -> Estimate:
    """One estimate of all points."""

    def joined(name: str) -> Floats:
        return np.concatenate([getattr(piece, name) for piece in pieces])

    def each(name: str) -> dict[str, Floats]:
        return {
            key: np.concatenate([getattr(piece, name)[key] for piece in pieces]) for key in getattr(pieces[0], name)
        }

    return Estimate(
        kind=pieces[0].kind,
        seconds=joined("seconds"),
        floor_s=joined("floor_s"),
        dram_read_bytes=joined("dram_read_bytes"),
        dram_write_bytes=joined("dram_write_bytes"),
        l2_bytes=joined("l2_bytes"),
        operations=each("operations"),
        terms=each("terms"),
    )
