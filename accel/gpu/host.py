"""Section of a fit: what a framework costs on top of its kernels (`dataflow/gpu/host.py`, `dataflow/gpu/framework.py`).

Host times are seconds of one thread of Python on the host of the record: they do not carry by the GPU, and hosts differ
by a factor of two.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.gpu.memory_bound import MovingKernel
from accel.quantities import Positive, Share

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class HostFit(BaseModel):
    """Host time, modules and checks around an operator included."""

    model_config = _STRICT
    operator_s: NotNegative
    """of one eager operator, views too"""
    compiled_s: NotNegative
    """of a kernel of a compiled pass, its share of guards and calls included"""


class SimtFit(BaseModel):
    """Products in float32 on CUDA cores, as the library computes them."""

    model_config = _STRICT
    share: Share
    """of the rate at the highest clock, in the inner loop of a tile of 128 x 128"""
    small_exponent: NotNegative
    """of a tile's outputs over those of that one: smaller tiles reach less"""
    step_cycles: Positive
    """that a step of the sum takes at least: small tiles wait for their operands"""
    start_cycles: NotNegative
    """of a call beside its tiles"""
    turn_cycles: NotNegative
    """of a tile beside the steps of its sum"""
    vector_cycles: NotNegative
    """more, of a product with a vector"""
    attention_share: Share
    """of the rate that attention in float32 reaches"""
    attention_tile_cycles: NotNegative
    """of a block of it, for each tile of keys"""


class FrameworkFit(BaseModel):
    """Kernels that the calibration of single operators does not have: fitted to operators of whole models."""

    model_config = _STRICT
    host: HostFit
    simt: SimtFit
    grouped_cycles: NotNegative
    """of a kernel of a grouped convolution, which runs as three a group, beyond what an empty one takes"""
    grouped_bytes: Positive
    """a cycle that such a kernel moves"""
    active_share: NotNegative = 0.0
    """of the power limit that a whole model takes while its kernels do more than wait for memory, beyond what their
    bytes and operations explain: a warm chip, work that no term counts"""
    operation_share: Positive = 1.0
    """energy of an operation in a model over that in loops over random operands: a model's values toggle fewer bits"""
    kernels: dict[str, MovingKernel]
    """by family (`dataflow/gpu/framework.py`): operators whose tensors do not lie in one piece, and "fused": what the
    compiler makes of a chain of operators"""
