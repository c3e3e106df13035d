"""Schema of A3 (`planner: a3`): attention with candidates from sorted keys, HPCA 2020, arXiv 2002.10941.

Not every number of that paper could be read; `unverified` names those that were taken from memory or assumed, and
every result repeats them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.memory import Memory
from accel.quantities import Share
from accel.spatten import Cost, Count, Cycles

Names = Annotated[tuple[str, ...], Field(min_length=1)]


class Modules(BaseModel):
    """Scores, exponents and outputs, in a pipeline of queries."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    lanes: Count
    """elements of a K row (and of a V row) a cycle: multipliers of scores, and as many of outputs"""
    overhead_cycles: Cycles
    """cycles of a query in each module on top of its rows"""
    cost: Cost
    """of the whole core but the DRAM; energy of a multiply-add"""


class KeyValueSram(BaseModel):
    """Memory for K (and as much again for V); `bytes` counts all halves of the multiple buffer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: Count
    buffers: Count


class Approximation(BaseModel):
    """Candidate search on sorted columns of K, then post-scoring."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    iterations_share: Share
    """iterations of the search (M) over keys (n), one a cycle"""
    candidate_share: Share
    """candidates over keys, where the workload does not hold the values of Q and K"""
    kept_share: Share
    """candidates that post-scoring keeps for the output"""
    sort_lanes: Count
    """columns of K that are sorted side by side"""
    include_sort: bool
    """true: sorting holds up the first query of a head; false: its cycles are reported only"""


class A3Machine(BaseModel):
    """A3; `approximation: null` is its base mode."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: str
    planner: Literal["a3"]
    source: str
    unverified: Names
    """parts and parameters of this file that no source at hand confirms"""
    clock_hz: Annotated[int, Field(ge=10_000_000, le=100_000_000_000)]
    element_bits: Count
    """of Q, K and V in DRAM and on the chip"""
    modules: Modules
    sram: KeyValueSram
    approximation: Approximation | None
    memory: Memory
