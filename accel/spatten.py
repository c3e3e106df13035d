"""Schema of SpAtten-type machines (`planner: spatten`), section IV of arXiv 2012.09852."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from accel.memory import Memory

Count = Annotated[int, Field(ge=1, le=1 << 24)]  # beyond any part on a chip, and what int32 cycles can carry
Cycles = Annotated[int, Field(ge=0, le=1_000_000)]
Amount = Annotated[float, Field(ge=0)]


class Cost(BaseModel):
    """Area and energy of one part, published for `at` lanes (or bytes, or channels) and scaled linearly.

    energy_pj is per action: one multiply-add, one score, one comparison, one byte.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    at: Count
    area_mm2: Amount
    energy_pj: Amount


class Multipliers(BaseModel):
    """Q x K or prob x V array: a vector of D elements takes D of the multipliers (section IV-D)."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    multipliers: Count
    latency_cycles: Cycles
    cost: Cost


class Softmax(BaseModel):
    """Exponential pipeline: `lanes` scores a cycle; `fifo_depth` x `lanes` scores, or one row, wait between stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    lanes: Count
    fifo_depth: Count
    latency_cycles: Cycles
    cost: Cost


class TopK(BaseModel):
    """Quick-select engines (section IV-B): one is shared by token and head top-k, one serves local value top-k.

    One engine serves all; with none the machine runs only work from which nothing is selected.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    engines: Literal[0, 1, 2]
    comparators: Count
    pass_overhead_cycles: Cycles
    seed: Annotated[int, Field(ge=0, le=(1 << 31) - 1)]
    cost: Cost


class Fetcher(BaseModel):
    """Q-K-V fetcher with its crossbars (section IV-A); `latency_cycles` is the way back through it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    query_block: Count
    query_blocks: Count
    latency_cycles: Cycles
    cost: Cost


class Sram(BaseModel):
    """K or V memory; `bytes` counts all halves of the multiple buffer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: Count
    buffers: Count
    cost: Cost


class ScoreBuffer(BaseModel):
    """Scores of the queries at hand, `element_bits` each, where K and V come in tiles.

    A machine without it refuses a head whose K or V does not fit one buffer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    bytes: Count
    cost: Cost


class FullyConnected(BaseModel):
    """FC layers on the multipliers of both arrays (section V-B); weights come from DRAM with that many bits."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    weight_bits: Annotated[int, Field(ge=1, le=32)]


class Accumulator(BaseModel):
    """Importance accumulators, one for each softmax lane: they keep up with it; `cost.at` counts softmax lanes."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    cost: Cost


class SpattenUnits(BaseModel):
    """The parts of Fig. 8."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    fetcher: Fetcher
    query_key: Multipliers
    softmax: Softmax
    topk: TopK
    prob_value: Multipliers
    accumulator: Accumulator
    key_sram: Sram
    value_sram: Sram
    score_buffer: ScoreBuffer | None = None


class SpattenMachine(BaseModel):
    """A SpAtten-type accelerator.

    write_output   attention outputs go back to DRAM, `element_bits` an element
    pipelines      copies of `units` behind one fetcher; each takes the K/V heads of a layer in turn
    fc             where FC layers run too; without it a run is attention alone
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str
    planner: Literal["spatten"]
    source: str
    clock_hz: Annotated[int, Field(ge=10_000_000, le=100_000_000_000)]
    element_bits: Count
    write_output: bool
    pipelines: Annotated[int, Field(ge=1, le=256)] = 1
    fc: FullyConnected | None = None
    units: SpattenUnits
    memory: Memory
