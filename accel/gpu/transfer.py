"""Section of a fit: copies (`dataflow/gpu/transfer.py`)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class Link(BaseModel):
    """One direction between host and GPU."""

    model_config = _STRICT
    latency_s: Positive
    """of a copy of no size"""
    call_s: NotNegative
    """that the host takes to enqueue one: in a stream none comes faster"""
    share: Positive
    """of `pcie_bytes_per_s` that a long copy reaches; from pageable memory it is the host that limits"""
    stage_bytes: NotNegative = 0.0
    """at the beginning of a copy, that pass through a buffer of the driver while nothing else moves"""
    stage_share: Positive = 1.0
    """of `pcie_bytes_per_s`: how fast these do, beside the rest"""
    far_share: Positive | None = None
    """and where the buffer is larger than the host's caches (`far_bytes`); None: the same"""
    far_bytes: Positive = 1.0


class TransferFit(BaseModel):
    """Copies within the GPU, and over PCIe."""

    model_config = _STRICT
    latency_cycles: Positive
    """of a copy within the GPU"""
    memory_share: Positive
    """of the bandwidth that other kernels reach (`MemoryBoundFit`)"""
    links: dict[str, Link]
    """h2d_pinned, d2h_pinned, h2d_pageable, d2h_pageable"""
