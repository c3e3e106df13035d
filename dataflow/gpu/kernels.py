"""Kernels of one pass: what each is, the tensors it touches, and what all of them cost on a machine.

Equal products are asked for once; everything else that moves bytes is one call of the memory-bound model over arrays.
What a kernel finds in the L2 follows from the bytes that passed since its operands were touched last (`residency.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import numpy as np

from accel.gpu.host import FrameworkFit
from accel.gpu.loading import section
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.framework import Kernel
from dataflow.gpu.memory_bound import Work, one_kernel, plain_work, reduction, resident
from dataflow.gpu.operators import Product
from dataflow.gpu.products import product_estimate
from dataflow.gpu.residency import Integers, Touches, passing_bytes

FUSED = "fused"  # family of compiled elementwise kernels
FLOAT32 = "_float32"  # ending of a family; where a fit has none of it, that of 16 bits counts
ROWS = ("layer_norm", "rms_norm", "rms_norm_narrow", "softmax", "softmax_warp", "quantize")
REDUCTIONS = ("reduce", "mean_float32")


@dataclass(frozen=True, eq=False)
class Kernels:
    """Lists and arrays [kernels] of one pass, in order.

    names      kind of operator, for tables
    products   what it multiplies; None: it moves bytes, see `moving`
    repeat     how often the pass runs it
    """

    names: Sequence[str]
    products: Sequence[Product | None]
    moving: Sequence[Kernel | None]
    repeat: Floats
    touches: Touches

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def passing(self) -> Floats:
        """[touches], see `passing_bytes`."""
        return passing_bytes(self.touches, len(self))

    @cached_property
    def launches(self) -> Floats:
        """Launches of each kernel: what stands for several counts them."""
        return np.array([_launches(p, m) for p, m in zip(self.products, self.moving, strict=True)], float)

    @cached_property
    def equal_products(self) -> dict[Product, list[int]]:
        """Kernels by product."""
        found: dict[Product, list[int]] = {}
        for index, product in enumerate(self.products):
            if product is not None:
                found.setdefault(product, []).append(index)
        return found

    @cached_property
    def moves(self) -> tuple[list[int], list[str], Floats]:
        """Kernels that move bytes, their families, and [elements, rows, width, launches, operators] of each."""
        pairs = [(index, one) for index, one in enumerate(self.moving) if one is not None]
        sizes = [(k.elements, k.rows, k.width, k.launches, k.operators) for _, k in pairs]
        return [i for i, _ in pairs], [k.family for _, k in pairs], np.array(sizes, float).reshape(-1, 5).T


def _launches(product: Product | None, moving: Kernel | None) -> int:
    if moving is not None:
        return moving.launches
    if product is None:
        return 1
    return {"grouped": 3 * product.sizes[0], "branch": 0}.get(product.model, 1)


@dataclass(frozen=True)
class Costs:
    """One estimate of all kernels of a pass, each once, and its sources.

    classes    of the error table, of each kernel
    warnings   fallbacks of formats
    """

    estimate: Estimate
    classes: Sequence[str]
    warnings: tuple[str, ...]


def kernel_costs(machine: GpuMachine, kernels: Kernels, fit: FrameworkFit) -> Costs:
    """What each kernel costs when they follow each other in a CUDA graph."""
    memory: MemoryBoundFit = section(machine, "memory_bound")[0]
    table = _Table(len(kernels))
    warnings: dict[str, None] = {}
    for products, estimate, warning in _products(machine, fit, list(kernels.equal_products)):
        for place, product in enumerate(products):
            table.put(np.array(kernels.equal_products[product]), estimate, slice(place, place + 1))
        warnings |= dict.fromkeys([warning] if warning else [])
    if places := kernels.moves[0]:
        table.put(np.array(places), _moved(machine, memory, fit, kernels), slice(None))
    return Costs(table.estimate(), table.classes, tuple(warnings))


def _products(
    machine: GpuMachine, fit: FrameworkFit, products: Sequence[Product]
) -> list[tuple[list[Product], Estimate, str | None]]:
    """Products of one model, format and form are one call."""
    groups: dict[tuple[object, ...], list[Product]] = {}
    for product in products:
        form = product.flags if product.model != "attention" else (*product.flags, product.sizes[3] == 1)
        groups.setdefault((product.model, product.format, form), []).append(product)
    found = []
    for members in groups.values():
        sizes = np.array([one.sizes for one in members], float).T
        found.append((members, *product_estimate(machine, fit, members[0], sizes)))
    return found


class _Table:
    """Arrays [kernels] that are filled class by class."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.columns = {name: np.zeros(size) for name in _COLUMNS}
        self.terms: dict[str, Floats] = {}
        self.operations: dict[str, Floats] = {}
        self.classes = [""] * size

    def put(self, where: Integers, estimate: Estimate, part: slice) -> None:
        for name in _COLUMNS:
            self.columns[name][where] = getattr(estimate, name)[part]
        for mine, theirs in ((self.terms, estimate.terms), (self.operations, estimate.operations)):
            for name, values in theirs.items():
                column = mine.setdefault(name, np.zeros(self.size))
                column[where] = np.broadcast_to(values, estimate.seconds.shape)[part]
        for index in where.tolist():
            self.classes[index] = estimate.kind

    def estimate(self) -> Estimate:
        return Estimate(kind="pass", operations=self.operations, terms=self.terms, **self.columns)


_COLUMNS = ("seconds", "floor_s", "dram_read_bytes", "dram_write_bytes", "l2_bytes")


def _moved(machine: GpuMachine, memory: MemoryBoundFit, fit: FrameworkFit, kernels: Kernels) -> Estimate:
    """All kernels that move bytes at once: their numbers are columns."""
    _, families, (elements, _, _, launches, operators) = kernels.moves
    table = _columns(memory, fit, families)
    work = moving_work(machine, memory, kernels)
    found = one_kernel(machine, memory, table, work, {"fp32": 8.0 * elements * operators})
    more = (launches - 1) * machine.launch.graph_s
    return replace(found, seconds=found.seconds + more, terms={**found.terms, "launch": found.terms["launch"] + more})


def moving_work(machine: GpuMachine, memory: MemoryBoundFit, kernels: Kernels) -> Work:
    """Of all kernels that move bytes, in the order of `Kernels.moves`."""
    places, families, (elements, rows, width, _, _) = kernels.moves
    read, written, cold = _bytes(machine, memory, kernels)
    work = replace(plain_work(elements, read[places], written[places], _reuse(machine, memory, cold[places])))
    by_rows = np.isin(families, ROWS)
    summed = np.isin(families, REDUCTIONS)
    turns, split = reduction(np.maximum(rows, 1), width)
    return replace(
        work,
        rows=np.where(by_rows | summed, rows, 0.0),
        turns=np.where(by_rows, width, np.where(summed, turns, 0.0)),
        split=np.where(summed, split, 0.0),
    )


def _bytes(machine: GpuMachine, memory: MemoryBoundFit, kernels: Kernels) -> tuple[Floats, Floats, Floats]:
    """[kernels] bytes read, written, and the share of both that crosses the memory bus."""
    touches = kernels.touches
    gone = touches.bytes * (1.0 - resident(machine, memory, kernels.passing))
    read, written = (
        np.bincount(touches.kernel, np.where(touches.written == side, touches.bytes, 0.0), len(kernels)).astype(float)
        for side in (False, True)
    )
    cold = np.bincount(touches.kernel, gone, len(kernels))
    return read, written, cold / np.maximum(read + written, 1.0)


def _reuse(machine: GpuMachine, memory: MemoryBoundFit, cold: Floats) -> Floats:
    """The bytes between two uses at which so much is gone: what `resident` turns into that share."""
    share = np.clip(cold, 1e-9, 1 - 1e-9)
    return np.asarray(memory.resident * machine.cache.bytes * (share / (1 - share)) ** (1 / memory.sharpness))


def _columns(memory: MemoryBoundFit, fit: FrameworkFit, families: Sequence[str]) -> MovingKernel:
    """The numbers of each kernel's family as arrays in the place of one kernel's; the model does arithmetic only."""
    known = {**memory.kernels, **fit.kernels}
    known |= {name: known[name.removesuffix(FLOAT32)] for name in set(families) - set(known)}
    names = list(dict.fromkeys(families))
    number = {name: index for index, name in enumerate(names)}
    which = np.array([number[family] for family in families])
    made = {field: np.array([getattr(known[n], field) for n in names])[which] for field in MovingKernel.model_fields}
    return cast(MovingKernel, _Numbers(made))


class _Numbers:
    """Fields of `MovingKernel`, each an array."""

    def __init__(self, columns: dict[str, Floats]) -> None:
        self.__dict__.update(columns)
