"""Schema of MNNFast (`planner: mnnfast`): column streaming and zero skipping, ISCA 2019.

The machine that the SpAtten paper compared with (section V-B) is a projection of an FPGA design: as many multipliers
and as much bandwidth as SpAtten-1/8, and a power that was assumed.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.a3 import Names
from accel.memory import Memory
from accel.quantities import Positive, Share
from accel.spatten import Count, Cycles


class Streaming(BaseModel):
    """K and V pass in chunks, each chunk by all queries; sums of the softmax are partial until the last chunk."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    lanes: Count
    """elements of a K row (and of a V row) a cycle: multipliers of scores, and as many of outputs"""
    chunk_keys: Count
    """K (V) vectors of a chunk"""
    query_block: Count
    """queries that are handed from scores to outputs together"""
    buffers: Count
    """chunks on the chip"""
    exponent_latency_cycles: Cycles
    """from a score to its exponential"""
    surviving_share: Share
    """V vectors that a query still needs: their probability is above the threshold"""


class Power(BaseModel):
    """One figure for the whole machine, DRAM included."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    total_w: Positive


class MnnFastMachine(BaseModel):
    """MNNFast as the SpAtten paper projects it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    name: str
    planner: Literal["mnnfast"]
    source: str
    unverified: Names
    """parts and parameters of this file that no source at hand confirms"""
    clock_hz: Annotated[int, Field(ge=10_000_000, le=100_000_000_000)]
    element_bits: Count
    """of Q, K and V in DRAM and on the chip"""
    streaming: Streaming
    power: Power
    memory: Memory
