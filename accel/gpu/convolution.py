"""Section of a fit: convolutions (`dataflow/gpu/convolution.py`)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.gpu.memory_bound import MovingKernel
from accel.quantities import Positive

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class ConvolutionFit(BaseModel):
    """Dense ones as implicit products on tensor cores; depthwise ones and changes of layout on CUDA cores."""

    model_config = _STRICT
    tensor_share: Positive
    """of the tensor cores' rate at `clock_hz` that the inner loop of a tile of 256 x 128 reaches"""
    small_exponent: NotNegative
    """of its area over that: how much less smaller tiles reach"""
    taps_share: Positive
    """of the share where there is more than one tap"""
    prologue_cycles: NotNegative
    """of a wave of tiles before and after its inner loop"""
    split_cycles: NotNegative
    """of adding the parts of a split sum, beside their bytes"""
    latency_cycles: NotNegative
    """of a kernel, beyond what an empty one takes"""
    kernels: dict[str, MovingKernel]
    """`depthwise_first`, `depthwise_last` (channels first, last; a row here is one tap of one output), `to_last`,
    `weights_to_last`, `to_first` (changes of layout around a kernel that wants channels last), `bias`"""
