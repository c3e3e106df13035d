"""Section of a fit: kernels that move bytes (`dataflow/gpu/memory_bound.py`), in numbers that carry to other GPUs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class MovingKernel(BaseModel):
    """One kernel."""

    model_config = _STRICT
    latency_cycles: NotNegative
    """from its start to its end when it has next to nothing to do, beyond what an empty kernel takes"""
    slots: NotNegative = 0.0
    """issue slots of a multiprocessor (128 threads' worth a cycle) that an element takes, waits included"""
    missed_slots: NotNegative = 0.0
    """more of them where its bytes are not in the L2: what few loads in flight cost"""
    reread_slots: NotNegative = 0.0
    """more of them where a row that is read twice has left the L1"""
    row_slots: NotNegative = 0.0
    """and that a row takes, for kernels that work by rows"""
    chain_cycles: NotNegative = 0.0
    """of latency for each element of a row; of reductions, for each that one thread adds in turn"""
    split_cycles: NotNegative = 0.0
    """of latency more where a reduction's row is split over blocks"""
    full_cycles: NotNegative = 0.0
    """of latency more where warps fill the schedulers: an early start of the next launch hides it no longer"""
    memory_share: Positive = 1.0
    """of the bandwidth of DRAM and L2 that a plain kernel reaches: what its order of addresses costs"""


class MemoryBoundFit(BaseModel):
    """What all such kernels share, and each kernel by name."""

    model_config = _STRICT
    resident: Positive
    """bytes between two uses of the same byte, in sizes of the L2, at which half of them are still there"""
    sharpness: Positive
    """of that change: exponent"""
    overlap: Positive
    """exponent of the norm that joins DRAM, L2, issue slots and chains: large, and they hide behind the longest"""
    read_share: Positive
    """of the memory's peak bandwidth (data sheet) that reads reach"""
    write_share: Positive
    """and that writes reach"""
    cache_read_share: Positive
    """of the L2's bandwidth"""
    cache_write_share: Positive
    """and of writes into it"""
    kernels: dict[str, MovingKernel]
