"""Copies within a GPU, over PCIe, and weights that are streamed from the host behind the work of a layer.

Over PCIe: latency + bytes / rate, pinned copies enqueued one after another (or as fast as the host does that), pageable
ones waited for by the host.
Left out: copies in both directions at once, several GPUs on one host's memory, page faults of mapped memory.
"""

import numpy as np
from numpy.typing import ArrayLike

from accel.fault import nearest
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from accel.gpu.transfer import Link, TransferFit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.memory_bound import columns, one_kernel, plain_work

OUTGROWN = 8  # exponent: how sudden


def copy_within(
    machine: GpuMachine, fit: TransferFit, memory: MemoryBoundFit, size: ArrayLike, reuse_bytes: ArrayLike | None = None
) -> Estimate:
    """A copy of so many bytes: read once, written once; both stay in the L2 as far as they fit."""
    many = np.atleast_1d(np.asarray(size, dtype=np.float64))
    between = (
        2 * many if reuse_bytes is None else np.broadcast_to(np.asarray(reuse_bytes, dtype=np.float64), many.shape)
    )
    zero = np.zeros_like(many)
    kernel = MovingKernel(latency_cycles=fit.latency_cycles, memory_share=fit.memory_share)
    return one_kernel(machine, memory, kernel, plain_work(zero, many, many, between), kind="transfer")


def copy_over(machine: GpuMachine, fit: TransferFit, way: str, size: ArrayLike) -> Estimate:
    """A copy between host and GPU; `way` is one of `fit.links`. Raises ValueError for another, with the nearest."""
    if way not in fit.links:
        raise ValueError(f"way: no such link, got {way!r} ({nearest(way, fit.links)})")
    (many,) = columns(size)
    link, into = fit.links[way], way.startswith("h2d")
    staged = np.minimum(many, link.stage_bytes) / link.stage_share
    bus = (many / _share(link, many) + staged) / machine.pcie_bytes_per_s
    latency, call = np.full_like(many, link.latency_s), np.full_like(many, link.call_s)
    zero = np.zeros_like(many)
    floor = many / (machine.pcie_bytes_per_s * max(1.0, link.share))
    return Estimate(
        kind="transfer",
        seconds=np.maximum(latency + bus, call),
        floor_s=floor,
        dram_read_bytes=zero if into else many,
        dram_write_bytes=many if into else zero,
        l2_bytes=many,
        operations={},
        terms={"pcie": bus, "latency": latency, "host": call},
    )


def _share(link: Link, size: Floats) -> Floats:
    """Of the bus; it changes where the buffer outgrows the host's caches."""
    far = 1 / (1 + (link.far_bytes / np.maximum(size, 1.0)) ** OUTGROWN)
    return np.asarray(1 / ((1 - far) / link.share + far / (link.far_share or link.share)))


def offloaded(
    machine: GpuMachine, fit: TransferFit, weight_bytes: ArrayLike, compute_s: ArrayLike, buffers: int = 2
) -> Floats:
    """[1] seconds of layers whose weights come from pinned host memory, the next copied while one computes.

    weight_bytes, compute_s [layers]; a copy waits until one of `buffers` places is free: 1, and nothing overlaps.
    Raises ValueError where `buffers` is below 1.
    """
    if buffers < 1:
        raise ValueError(f"buffers: must be >= 1, got {buffers}")
    sizes, work = columns(weight_bytes, compute_s)
    copies = copy_over(machine, fit, "h2d_pinned", sizes).seconds
    arrived, done = np.zeros(len(sizes)), np.zeros(len(sizes))
    for layer, (copy, seconds) in enumerate(zip(copies, work, strict=True)):
        free = done[layer - buffers] if layer >= buffers else 0.0
        arrived[layer] = max(arrived[layer - 1] if layer else 0.0, free) + copy
        done[layer] = max(arrived[layer], done[layer - 1] if layer else 0.0) + seconds
    return done[-1:]
