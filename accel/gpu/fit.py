"""Schema of fits: dimensionless numbers of kernel models, fitted to measurements of one GPU (`tilewright calibrate`).

Each class of kernels has its section, in a file of its own beside this one. A section that is missing was not fitted.
"""

from pydantic import BaseModel, ConfigDict, Field

from accel.gpu.attention import AttentionFit, LinearAttentionFit
from accel.gpu.convolution import ConvolutionFit
from accel.gpu.energy import EnergyFit
from accel.gpu.gemm import GemmFit
from accel.gpu.host import FrameworkFit
from accel.gpu.memory_bound import MemoryBoundFit
from accel.gpu.transfer import TransferFit
from accel.gpu.w4 import W4Fit

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Error(BaseModel):
    """Of held-out points: absolute relative error, mean and 90th percentile, signed mean, and how many there were."""

    model_config = _STRICT
    mean: float
    p90: float
    bias: float
    points: int = Field(ge=1)


class Fit(BaseModel):
    """What was fitted to the measurements of one device."""

    model_config = _STRICT
    name: str
    source: str
    """records, date, commit, command"""
    error: dict[str, Error] = {}
    """by class (`Estimate.kind`)"""
    gemm: dict[str, GemmFit] | None = None
    """by format: bf16 (fp16 too), int8, fp8"""
    memory_bound: MemoryBoundFit | None = None
    convolution: ConvolutionFit | None = None
    transfer: TransferFit | None = None
    energy: EnergyFit | None = None
    w4: W4Fit | None = None
    attention: AttentionFit | None = None
    linear_attention: LinearAttentionFit | None = None
    framework: FrameworkFit | None = None
