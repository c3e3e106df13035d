"""Schema of devices that are known only by published ratios to another one (`planner: relative`)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive


class Ratio(BaseModel):
    """Latency and dynamic power of this device over those of the reference."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    latency: Positive
    power: Positive


class RelativeMachine(BaseModel):
    """Ratios by workload; `default` for those that are not listed.

    A name stands for all workloads that begin with it and `_`; the longest that fits counts.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: str
    planner: Literal["relative"]
    source: str
    clock_hz: Annotated[int, Field(ge=1)]
    """the clock that cycles are counted in, nothing else"""
    reference: str
    """an eager machine, by name or path"""
    default: Ratio
    ratios: dict[str, Ratio]

    def ratio(self, workload: str) -> tuple[str, Ratio]:
        """(name of the entry or "default", ratio); `-` in a name counts as `_`."""
        name = workload.replace("-", "_")
        found = [key for key in self.ratios if name == key or name.startswith(f"{key}_")]
        return (best := max(found, key=len), self.ratios[best]) if found else ("default", self.default)
