"""Kernels that move bytes: elementwise operators, copies, normalizations, softmax, reductions, quantizers.

One kernel takes

    launch + latency + (dram^p + read^p + write^p + issue^p + chain^p)^(1/p)

`dram`: bytes that miss the L2 over the bandwidths of reads and writes; which do is a matter of how many other bytes
passed since they were touched last. `read`, `write`: all bytes, between L2 and multiprocessors. `issue`: slots of its
elements and rows. `chain`: what one thread does in turn. An operator is as many kernels as its framework launches
(`moving_kernels.py`): what is not fused is told, not hidden in an efficiency. Left out: the last, partly filled wave of
blocks; bank conflicts of DRAM; clocks that the power lowers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.fault import nearest
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.moving_kernels import OPERATORS, Step
from gpu_kernels.activations.config import PIECE, TREE

THREADS, MOST_TURNS = 512, 256  # of PyTorch's reductions
BLOCKS = 16  # of a multiprocessor, each with a row of a norm: 128 threads of 2048
SCHEDULERS = 4  # of a multiprocessor
LANES = 128  # threads whose instruction a multiprocessor issues in a cycle: 4 schedulers of 32, since Maxwell


@dataclass(frozen=True)
class Work:
    """What one kernel does at many points, arrays [points].

    reuse_bytes   that pass between two uses of the same byte; infinite: everything is cold
    fresh_bytes   of read_bytes, that the kernel before has just written: it and this one are all that passed
    rows          that its blocks work on; 0 where a kernel knows none
    turns         elements in turn: of a row, or of a thread of a reduction
    split         1 where a reduction's row is split over blocks
    reread        elements of rows that are read again from the L2
    full          0 to 1: so many warps that the next launch, which may start early, finds no room beside them
    """

    elements: Floats
    read_bytes: Floats
    write_bytes: Floats
    reuse_bytes: Floats
    fresh_bytes: Floats
    rows: Floats
    turns: Floats
    split: Floats
    reread: Floats
    full: Floats


def moved(
    machine: GpuMachine,
    fit: MemoryBoundFit,
    kernel: str,
    elements: ArrayLike,
    read_bytes: ArrayLike,
    write_bytes: ArrayLike,
    reuse_bytes: ArrayLike | None = None,
) -> Estimate:
    """One kernel without rows by its name in the fit. `reuse_bytes`: its own bytes unless given, as in repetition.

    Raises ValueError for a kernel that the fit does not know, with the nearest.
    """
    size, read, written = columns(elements, read_bytes, write_bytes)
    between = read + written if reuse_bytes is None else columns(size, reuse_bytes)[1]
    return one_kernel(machine, fit, known(fit, kernel), plain_work(size, read, written, between))


def plain_work(elements: Floats, read_bytes: Floats, write_bytes: Floats, reuse_bytes: Floats) -> Work:
    """Of a kernel that knows no rows."""
    none = np.zeros_like(elements)
    return Work(elements, read_bytes, write_bytes, reuse_bytes, *[none] * 6)


def columns(*values: ArrayLike) -> list[Floats]:
    """Numbers and arrays as arrays of one length."""
    return list(np.broadcast_arrays(*(np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in values)))


def known(fit: MemoryBoundFit, kernel: str) -> MovingKernel:
    """A kernel of the fit. Raises ValueError with the nearest name."""
    if kernel not in fit.kernels:
        raise ValueError(f"kernel: the fit knows none of this name, got {kernel!r} ({nearest(kernel, fit.kernels)})")
    return fit.kernels[kernel]


def elementwise(
    machine: GpuMachine, fit: MemoryBoundFit, operator: str, elements: ArrayLike, reuse_bytes: ArrayLike | None = None
) -> Estimate:
    """An operator of `OPERATORS` on so many elements, all of its kernels. See `by_rows` for those that know rows."""
    return by_rows(machine, fit, operator, 1, elements, reuse_bytes)


def by_rows(
    machine: GpuMachine,
    fit: MemoryBoundFit,
    operator: str,
    rows: ArrayLike,
    width: ArrayLike,
    reuse_bytes: ArrayLike | None = None,
) -> Estimate:
    """An operator of `OPERATORS` on [rows, width] elements, all of its kernels.

    reuse_bytes   that pass between two uses of the same byte; all that the operator touches unless given: it is
                  repeated on the same operands, which stay in the L2 as far as they fit
    Raises ValueError for an unknown operator, with the nearest.
    """
    if operator not in OPERATORS:
        raise ValueError(f"operator: no such one, got {operator!r} ({nearest(operator, OPERATORS)})")
    height, wide = columns(rows, width)
    made = OPERATORS[operator]
    between = made.footprint * height * wide if reuse_bytes is None else columns(height, reuse_bytes)[1]
    parts = [_step(machine, fit, step, height, wide, between) for step in made.steps]
    return together(made.kind, parts, compulsory(machine, made.compulsory * height * wide))


def _step(
    machine: GpuMachine, fit: MemoryBoundFit, step: Step, rows: Floats, width: Floats, between: Floats
) -> Estimate:
    work = _work(machine, step, rows, width, between)
    counts = {unit: each * rows * (width if step.each == "element" else 1.0) for unit, each in step.operations}
    made = one_kernel(machine, fit, known(fit, step.kernel), work, counts)
    if not step.short_kernel:
        return made
    return _chosen(
        width <= step.short_width, one_kernel(machine, fit, known(fit, step.short_kernel), work, counts), made
    )


def _chosen(first: NDArray[np.bool_], one: Estimate, other: Estimate) -> Estimate:
    """Points of `one` where `first`, of `other` elsewhere; both move the same bytes."""
    terms = {name: np.where(first, one.terms[name], other.terms[name]) for name in one.terms}
    return replace(one, seconds=np.where(first, one.seconds, other.seconds), terms=terms)


def _work(machine: GpuMachine, step: Step, rows: Floats, width: Floats, between: Floats) -> Work:
    elements = rows * width if step.each == "element" else rows
    read, written = step.read_bytes * elements + step.row_bytes * rows, step.write_bytes * elements
    flat = replace(plain_work(elements, read, written, between), fresh_bytes=step.fresh_bytes * elements)
    if step.blocks == "flat":
        return flat
    if step.blocks == "rows":
        return _by_blocks(machine, step, replace(flat, rows=rows, turns=width), width)
    tall, wide = (rows, width) if step.blocks == "reduce rows" else (np.ones_like(rows), elements)
    turns, split = reduction(tall, wide)
    return replace(flat, rows=tall, turns=turns, split=split)


def _by_blocks(machine: GpuMachine, step: Step, work: Work, width: Floats) -> Work:
    """Of kernels with a block a row: quantizers that may start early, norms that read a row twice."""
    if step.quantizes:
        groups, steps = shared_out(machine, step.quantizes, work.rows, width)
        room = TREE * PIECE * groups * steps  # threads without a piece go through the same instructions
        return replace(work, elements=work.rows * room, turns=room, full=filled(machine, work.rows, groups))
    room = np.ceil(width / step.threads) * step.threads
    held = np.minimum(BLOCKS, np.ceil(work.rows / machine.multiprocessors)) * step.read_bytes * width
    again = step.rereads & (held > machine.shared_bytes)
    return replace(work, elements=work.rows * room, turns=room, reread=np.where(again, work.elements, 0.0))


def filled(machine: GpuMachine, rows: Floats, groups: Floats) -> Floats:
    """0 up to half a warp of a quantizer for each scheduler, 1 from 1.7 on (measured)."""
    warps = rows * groups * (TREE // 32) / (SCHEDULERS * machine.multiprocessors)
    return np.asarray(np.clip((warps - 0.5) / 1.2, 0.0, 1.0))


def shared_out(machine: GpuMachine, mode: str, rows: Floats, width: Floats) -> tuple[Floats, Floats]:
    """(groups of TREE threads of a row, pieces of each thread), as `gpu_kernels/activations/config.py` chooses."""
    few = rows <= machine.multiprocessors
    clusters = np.where(few, np.where(8 * rows <= machine.multiprocessors, 8.0, 2.0), 1.0)
    clusters = clusters if mode == "gate" and machine.architecture.startswith("sm_90") else np.ones_like(rows)
    one = few if mode == "norm" else clusters > 1
    rounds = np.ceil(width / (TREE * PIECE))
    groups = np.minimum(4 * clusters, np.ceil(rounds / np.minimum(np.where(one, 1, 2), rounds)))
    return groups, np.ceil(rounds / groups)


def reduction(rows: Floats, width: Floats) -> tuple[Floats, Floats]:
    """(elements that a thread adds in turn, 1 where a row is split over blocks): PyTorch's rule, Reduce.cuh.

    A block of 512 threads takes up to 16 rows at once, one where a thread would have 256 elements or more; where it
    still has, several blocks take a row.
    """
    shared = np.minimum(16, 2 ** np.floor(np.log2(np.maximum(rows, 1))))
    alone = width * shared / THREADS >= MOST_TURNS
    turns = np.where(alone, width / THREADS, width * shared / THREADS)
    split = alone & (turns >= MOST_TURNS)
    return np.where(split, 0.0, turns), split.astype(np.float64)


def _missed(machine: GpuMachine, fit: MemoryBoundFit, work: Work, missed: Floats) -> tuple[Floats, Floats]:
    """Bytes from and to DRAM."""
    near = np.minimum(work.reuse_bytes, 2 * work.fresh_bytes + work.write_bytes)
    fresh = work.fresh_bytes * (1.0 - resident(machine, fit, near)) if work.fresh_bytes.any() else 0.0
    return missed * (work.read_bytes - work.fresh_bytes) + fresh, missed * work.write_bytes


def joined(fit: MemoryBoundFit, *terms: Floats) -> Floats:
    """Seconds of what goes on at once: a little more than the longest."""
    longest = np.maximum(np.max(terms, axis=0), 1e-300)
    return np.asarray(longest * sum((term / longest) ** fit.overlap for term in terms) ** (1 / fit.overlap))


def compulsory(machine: GpuMachine, size: Floats) -> Floats:
    """Seconds that so many distinct bytes need at least: what the L2 cannot hold crosses the memory bus."""
    return np.maximum(0.0, size - machine.cache.bytes) / machine.memory.peak_bytes_per_s


def resident(machine: GpuMachine, fit: MemoryBoundFit, reuse_bytes: Floats) -> Floats:
    """Share of bytes still in the L2 after so many others."""
    return 1.0 / (1.0 + (reuse_bytes / (fit.resident * machine.cache.bytes)) ** fit.sharpness)


def one_kernel(
    machine: GpuMachine,
    fit: MemoryBoundFit,
    kernel: MovingKernel,
    work: Work,
    operations: Mapping[str, Floats] | None = None,
    kind: str = "memory_bound",
) -> Estimate:
    """A kernel whose numbers are given, at many points."""
    missed = 1.0 - resident(machine, fit, work.reuse_bytes)
    from_dram, to_dram = _missed(machine, fit, work, missed)
    peak = machine.memory.peak_bytes_per_s * kernel.memory_share
    dram = (from_dram / fit.read_share + to_dram / fit.write_share) / peak
    both = work.read_bytes + work.write_bytes
    cache = machine.cache.bytes_per_s * kernel.memory_share
    read, written = work.read_bytes / (cache * fit.cache_read_share), work.write_bytes / (cache * fit.cache_write_share)
    slots = work.elements * (kernel.slots + missed * kernel.missed_slots) + work.rows * kernel.row_slots
    issue = (slots + work.reread * kernel.reread_slots) / (LANES * machine.multiprocessors * machine.clock_hz)
    latency = kernel.latency_cycles + kernel.split_cycles * work.split + kernel.full_cycles * work.full
    latency = latency / machine.clock_hz
    chain = kernel.chain_cycles * work.turns / machine.clock_hz
    busy = joined(fit, dram, read, written, issue, chain)
    launch = np.full_like(dram, machine.launch.graph_s)
    floor = compulsory(machine, np.minimum(both, work.reuse_bytes))
    return Estimate(
        kind=kind,
        seconds=np.maximum(launch + latency + busy, floor),
        floor_s=floor,
        dram_read_bytes=from_dram,
        dram_write_bytes=to_dram,
        l2_bytes=both,
        operations=operations or {},
        terms={
            "dram": dram,
            "l2": np.maximum(read, written),
            "issue": issue,
            "latency": latency + chain,
            "launch": launch,
        },
    )


def together(kind: str, parts: Sequence[Estimate], floor: Floats) -> Estimate:
    """Kernels one after another; no floor is above the sum of theirs."""
    total = {
        name: np.asarray(sum((getattr(part, name) for part in parts), np.zeros_like(floor)))
        for name in ("seconds", "dram_read_bytes", "dram_write_bytes", "l2_bytes")
    }
    terms = dict.fromkeys(name for part in parts for name in part.terms)
    units = dict.fromkeys(unit for part in parts for unit in part.operations)
    zero = np.zeros_like(floor)
    return Estimate(
        kind=kind,
        seconds=np.maximum(total["seconds"], floor),
        floor_s=floor,
        dram_read_bytes=total["dram_read_bytes"],
        dram_write_bytes=total["dram_write_bytes"],
        l2_bytes=total["l2_bytes"],
        operations={unit: np.asarray(sum((part.operations.get(unit, zero) for part in parts), zero)) for unit in units},
        terms={name: np.asarray(sum((part.terms.get(name, zero) for part in parts), zero)) for name in terms},
    )
