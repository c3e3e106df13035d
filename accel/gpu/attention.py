"""Section of a fit: attention kernels (`dataflow/gpu/attention.py`), in numbers that carry to other GPUs.

Lengths of time are in cycles of the multiprocessor's clock.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from accel.gpu.memory_bound import MovingKernel
from accel.quantities import Positive, Share

_STRICT = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
NotNegative = Annotated[float, Field(ge=0)]


class StreamFit(BaseModel):
    """A kernel whose blocks stream keys and values once, each some tokens of a K/V head."""

    model_config = _STRICT
    block_cycles: NotNegative
    """of a block before its first and after its last tile"""
    memory_share: Positive
    """of the bandwidth that a kernel that only reads reaches"""
    exposed_tiles: NotNegative
    """tiles of a block whose latency nothing hides, while all blocks start at once"""
    overlap: Positive
    """sharpness of that limit: exponent"""


class OurDecodeFit(StreamFit):
    """`gpu_kernels/kv4_attention`."""

    block_slots: NotNegative
    """issue slots of a warp beside its tiles: vectors, the new token, sums"""
    head_slots: NotNegative
    """more of them for each query head of 128 elements that a block has"""
    quantize_cycles: NotNegative
    """of a block that packs the new token"""
    chain: NotNegative
    """cycles for an instruction of a tile when one warp waits for its own"""
    short_bytes: NotNegative
    """by which reads of a tile's bytes, which lie together, cost more than long ones"""
    wait_cycles: NotNegative
    """until tiles arrive that were not fetched before the kernel in front ended"""
    cluster_cycles: NotNegative
    """of splits that meet in a cluster"""
    meet_cycles: NotNegative
    """of splits that meet in memory"""
    across: Positive
    """exponent of the norm that joins DRAM and issue slots"""


class LibraryDecodeFit(StreamFit):
    """cuDNN's kernels for one query a sequence."""

    start_cycles: NotNegative
    """from the start of a call to its end when there is next to nothing to do, launch excepted"""
    tile_cycles: NotNegative
    """of a tile of 128 keys of 128 elements in a block"""
    combine_cycles: NotNegative
    """of the second kernel that adds splits"""
    split_cycles: NotNegative
    """of it, for each split"""


class FlashFit(BaseModel):
    """Blocks of 128 queries walk over tiles of keys: a matrix product, softmax, a second product."""

    model_config = _STRICT
    hopper: Share
    """of the tensor cores' rate that the kernel's instruction reaches on Hopper: 1 for wgmma, below it for mma.sync"""
    tensor: Share
    """of that rate, in the inner loop"""
    score_slots: NotNegative
    """issue slots that a score takes beside its exponential"""
    within: Positive
    """exponent of the norm that joins products and softmax: 1, and they add up"""
    tile_cycles: NotNegative
    """of a tile beside both: barriers, rescaling"""
    masked: NotNegative
    """softmax of a tile on the diagonal takes so many times more than another"""
    start_cycles: NotNegative
    """from the start of a call to its end when there is next to nothing to do, launch excepted"""
    block_cycles: NotNegative
    """of a block beside its tiles"""
    head_cycles: NotNegative
    """more, for heads of 128 elements: queries in, outputs out"""
    uneven_cycles: NotNegative
    """more, for heads that the kernel pads"""
    padded_cycles: NotNegative
    """more, where the last tile of keys is not full"""
    alone: Annotated[float, Field(ge=1, le=2)]
    """one block of a multiprocessor takes so many times what each of two takes that share it; 1: there is only one"""
    tail: NotNegative
    """of the longest block, by which causal blocks end at different times"""
    slowing: NotNegative
    """of long products: what the power limit takes from the clock, as a share of the time at full clock"""
    slowing_s: Positive
    """after which it is there to 63 %"""
    memory_share: Positive
    """of the bandwidth that a kernel that only reads reaches"""
    across: Positive
    """exponent of the norm that joins all that with DRAM"""
    cold_cycles: NotNegative = 0.0
    """of a call whose keys are in no cache, more"""
    combine_cycles: NotNegative = 0.0
    """of the second kernel that adds splits of the keys"""
    split_cycles: NotNegative = 0.0
    """of it, for each split"""
    combine_share: Positive = 1.0
    """of the L2's bandwidth with which partial outputs go through it"""


class AttentionFit(BaseModel):
    """Softmax attention."""

    model_config = _STRICT
    ours: OurDecodeFit | None = None
    cudnn_decode: LibraryDecodeFit | None = None
    prefill: dict[str, FlashFit]
    """flash (FlashAttention 2, as in PyTorch; decoding too), cudnn, fa3"""


class LinearAttentionFit(BaseModel):
    """Linear attention in separate kernels of PyTorch; those that other operators have too are in `memory_bound`."""

    model_config = _STRICT
    turned: MovingKernel
    """a float32 copy that transposes"""
    strided: MovingKernel
    """a float32 kernel over rows of another length"""
    sum_cycles: Positive
    """products over tokens: of 8 tokens of a head"""
    mix_share: Share
    """products over channels: of the CUDA cores' float32 rate"""
    product_cycles: NotNegative
    """of a product's kernel beside that"""
