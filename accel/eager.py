"""Schema of GPUs and CPUs that run eager operators one after another (`planner: eager`).

Closed form, three limits an operator: host time, DRAM bandwidth, arithmetic throughput.  Left out: tiles and
waves, cache bandwidth, clocks that move, and area.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive, Share


class Compute(BaseModel):
    """Arithmetic of the whole device; a multiply-add counts two operations."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    float32_flops_per_cycle: Annotated[int, Field(ge=1)]
    """float32 operations a cycle of `clock_hz`, all cores"""
    efficiency: Share
    """share of the peak that a large operator reaches"""


class DeviceMemory(BaseModel):
    """DRAM bandwidth as delivered, and the last-level cache."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    bandwidth_bytes_per_s: Positive
    """peak of the data sheet"""
    efficiency: Share
    """share of the peak that streaming reaches"""
    cache_bytes: Annotated[int, Field(ge=0)]
    """last-level cache: an operator finds the result of the one before it there if both fit"""


class Host(BaseModel):
    """Who issues the operators."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    asynchronous: bool
    """true: host and device work side by side (GPU); false: the host is the device (CPU)"""
    operator_s: Annotated[float, Field(ge=0)]
    """host time of one eager operator, views included"""
    launch_gap_s: Annotated[float, Field(ge=0)]
    """device time between two kernels on top of their work"""


class Power(BaseModel):
    """Power while running, idle power subtracted (the convention of SpAtten, section V-A)."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    dynamic_w: Annotated[float, Field(ge=0)]
    """mean over the run"""


class EagerMachine(BaseModel):
    """A GPU or CPU under an eager framework."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: str
    planner: Literal["eager"]
    source: str
    clock_hz: Annotated[int, Field(ge=1)]
    """the clock that cycles are counted in and throughput refers to"""
    compute: Compute
    memory: DeviceMemory
    host: Host
    power: Power

    @property
    def flops_per_s(self) -> float:
        """float32 operations a second that an operator reaches."""
        return self.compute.float32_flops_per_cycle * self.clock_hz * self.compute.efficiency

    @property
    def bytes_per_s(self) -> float:
        """DRAM bytes a second that streaming reaches."""
        return self.memory.bandwidth_bytes_per_s * self.memory.efficiency
