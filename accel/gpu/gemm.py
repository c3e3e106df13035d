"""Section of a fit: products of a library (cuBLAS) in one format (`dataflow/gpu/gemm.py`), in numbers that carry over.

Lengths of time are in cycles of the multiprocessor's clock; rates are shares of the data sheet's, or bytes a cycle.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive, Share

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class Tile(BaseModel):
    """Outputs of one block."""

    model_config = _STRICT
    rows: Annotated[int, Field(ge=1)]
    """of M"""
    columns: Annotated[int, Field(ge=1)]
    """of N"""
    speed: Positive
    """of its inner loop, over the unit's rate at the highest clock; above 1 where it never was what limits"""
    parts: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (1,)
    """of K that may be computed apart"""
    liking: float = 0.0
    """of the library for it, beyond what its time would explain: a term of the logit of its choice"""
    taste: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """more of it, per log of M over 512, of N over 4096, of K over 4096"""


class Choice(BaseModel):
    """How a library chooses among tiles and splits: a conditional logit over physical features."""

    model_config = _STRICT
    time: NotNegative
    """per unit of log of the candidate's own time: large, and the fastest is always taken"""
    idle: float
    """per log of the multiprocessors' turns over those that blocks fill"""
    padding: float
    """per log of padded rows over rows"""
    split: float
    """per log of parts of K"""
    splits: float
    """for cutting K at all"""
    outputs: float
    """per log of outputs over those of one 128 x 128 tile a multiprocessor, times log of the tile over 128 x 128"""
    depth: float
    """per log of K over 4096, times log of the tile over 128 x 128: long sums, large tiles"""


class GemmFit(BaseModel):
    """Products in one format on one device's library."""

    model_config = _STRICT
    start_cycles: NotNegative
    """from the start of a call to its end when there is next to nothing to do, launch included"""
    wave_cycles: NotNegative
    """before the inner loop of a block is under way, for each block that a multiprocessor takes in turn"""
    store_bytes: Positive
    """of outputs a cycle that a block writes at its end, while its tensor cores wait"""
    end_cycles: NotNegative
    """the last block's outputs on their way to memory"""
    split_cycles: NotNegative
    """sums of parts of K: a second kernel or a barrier"""
    memory_share: Share
    """of the DRAM's peak bandwidth (data sheet)"""
    cache_bytes: Positive
    """from the L2 a cycle and multiprocessor, all of them at once"""
    port_bytes: Positive
    """from the L2 a cycle, into one multiprocessor"""
    line_bytes: Positive
    """of x a cycle that the L2 hands to all blocks of a band, one after another, where all want the same few rows"""
    slowing: NotNegative
    """of the tensor cores under lasting load: what the power limit takes, as a share of the time at full clock"""
    slowing_s: NotNegative
    """after which it is there to 63 %; 0: at once, as in a benchmark that repeats the call"""
    overlap: Annotated[float, Field(ge=1)]
    """exponent of the norm that joins tensor cores, DRAM and L2: large, and they hide behind the longest"""
    resident: Positive
    """bytes of all operands, in sizes of the L2, at which half of the activations are left from the call before"""
    sharpness: Positive
    """of that change: exponent"""
    least_rows: Annotated[int, Field(ge=1)] = 1
    """that the operator takes; fewer are padded"""
    tiles: Annotated[tuple[Tile, ...], Field(min_length=1)]
    choice: Choice
