"""Section of a fit: our GEMMs with 4-bit weights (`dataflow/gpu/w4.py`), in numbers that carry to other GPUs."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.quantities import Positive, Share

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class _SkeletonFit(BaseModel):
    """What both skeletons have; cycles are of a multiprocessor at the machine's clock."""

    model_config = _STRICT
    tensor: Share
    """of the tensor cores' rate"""
    throttle: NotNegative
    """by which products get slower where the power limit lowers the clock, at most"""
    throttle_s: Positive
    """seconds of products in which most of that comes about"""
    cache: Positive
    """of the machine's L2 bandwidth; above 1 where small activations are read by all from the nearer half"""
    memory: Positive
    """of the bandwidth that a kernel that only reads reaches"""
    issue: Positive
    """of the issue slots that instructions other than products can take"""
    start_cycles: NotNegative
    """from the launch to the first product, and the end of the grid"""
    output_cycles: NotNegative
    """of the epilogue, for an output of a block"""
    within: Positive
    """exponent of the norm that joins what a multiprocessor does: large, and it hides behind the longest"""
    across: Positive
    """exponent of the norm that joins that with DRAM"""


class WgmmaFit(_SkeletonFit):
    """`gpu_kernels/w4a8_gemm`: products run beside the instructions that feed them."""

    clustered: Positive
    """of `memory`, for clusters of narrow tiles, whose blocks crowd on few multiprocessors"""
    chain: NotNegative
    """cycles for an instruction of the loop when one warp waits for its own: what no other warp hides"""
    outside: NotNegative
    """what the copy engine takes for a row behind the last token, over one that is there"""
    cluster_cycles: NotNegative
    """of a cluster's two barriers"""
    exchange_cycles: NotNegative
    """for a sum that a block sends to another"""


class SyncFit(_SkeletonFit):
    """`gpu_kernels/w4a8_portable`: one warp's products and its other instructions add up."""

    hopper: Share
    """of the rate of wgmma that mma.sync reaches on Hopper; elsewhere there is no other way to the tensor cores"""
    chain: NotNegative
    """cycles for each instruction but products when one warp waits for its own"""
    step_cycles: NotNegative
    """of a stage: barrier and wait"""
    meet_cycles: NotNegative
    """for a sum of each slice, where slices meet in shared memory"""
    cut_cycles: NotNegative
    """of a tile that is cut along K: fences, counter"""
    exchange_cycles: NotNegative
    """for a sum that goes through the workspace"""


class W4Fit(BaseModel):
    """Both skeletons."""

    model_config = _STRICT
    sync: SyncFit
    wgmma: WgmmaFit | None = None
    """only where the device had wgmma"""
