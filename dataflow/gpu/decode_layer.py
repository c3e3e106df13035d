"""A decode layer of ours (`gpu_kernels/decode_layer`), W4A8 with groups and a KV4 cache, as its nine launches in turn.

    decode_layer(machine, batch=[1, 16, 64], context=1024) -> {"norm": Estimate, "qkv": Estimate, ...}

Each launch is the model of its kernel; nothing here is fitted to the layer. Left out: launches may start before the one
in front has ended, and what a kernel finds of the one before in the L2 beyond its own activations.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.loading import section
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention import decode_attention
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.w4 import w4_gemm


@dataclass(frozen=True)
class LayerShape:
    """Sizes of a layer of a decoder."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int


LLAMA3_8B = LayerShape(hidden=4096, heads=32, kv_heads=8, head_size=128, inner=14336)


def decode_layer(
    machine: GpuMachine,
    batch: ArrayLike,
    context: ArrayLike,
    shape: LayerShape = LLAMA3_8B,
    format: str = "w4a8_group",
    kv_bits: int = 4,
) -> dict[str, Estimate]:
    """One estimate [points] a launch, in order; `batch` and `context` are paired. Raises ValueError as models do."""
    rows, length = np.broadcast_arrays(np.atleast_1d(batch), np.atleast_1d(context))
    weights, attention = section(machine, "w4")[0], section(machine, "attention")[0]
    outputs = (shape.heads + 2 * shape.kv_heads) * shape.head_size

    def tokens(operator: str, width: int) -> Estimate:
        return by_rows(machine, section(machine, "memory_bound")[0], operator, rows, width)

    def product(n: int, k: int) -> Estimate:
        return w4_gemm(machine, weights, format, rows, n, k)

    attended = decode_attention(
        machine, attention, rows, length, shape.heads, shape.kv_heads, shape.head_size, kv_bits, "ours"
    )
    values = shape.heads * shape.head_size
    return {
        "norm": tokens("quantize_norm", shape.hidden),
        "qkv": product(outputs, shape.hidden),
        "attention": attended,
        "tokens": tokens("quantize", values),
        "o": product(shape.hidden, values),
        "norm 2": tokens("quantize_norm", shape.hidden),
        "gate, up": product(2 * shape.inner, shape.hidden),
        "SiLU": tokens("quantize_gate", shape.inner),
        "down": product(shape.hidden, shape.inner),
    }


def layer_seconds(machine: GpuMachine, batch: ArrayLike, context: ArrayLike, shape: LayerShape = LLAMA3_8B) -> Floats:
    """[points] of the whole layer."""
    return np.asarray(sum(one.seconds for one in decode_layer(machine, batch, context, shape).values()))
