"""Attention through the door (`dataflow/gpu/predict.py`): decode steps, whole sequences, linear attention."""

from numpy.typing import ArrayLike

from accel.gpu.loading import section
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.door import LEFT_OUT_MOVING, AnyMachine, counts, gpu, told
from dataflow.gpu.linear_attention import linear_attention
from dataflow.gpu.prediction import Prediction

_LEFT_OUT_ATTENTION = ("dropout, biases, windows, sequences of different lengths in one batch",)


def predict_attention(
    machine: AnyMachine,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_size: ArrayLike = 128,
    kv_bits: int = 16,
    *,
    kernel: str = "ours",
    kept: ArrayLike | None = None,
) -> Prediction:
    """One decode step of one layer: `batch` sequences with `context` cached tokens each, the cache cold.

    kernel   ours (caches of 16, 8 and 4 bits), flash or cudnn (16), qserve (4, not fitted)
    kept     tokens that a list names in each sequence and K/V head: only they are read (ours)
    """
    shape = counts(batch=batch, context=context, heads=heads, kv_heads=kv_heads, head_size=head_size)
    asked = shape if kept is None else counts(**shape, kept=kept)
    return told(
        gpu(machine),
        "attention",
        lambda one, fit: decode_attention(one, fit, **shape, kv_bits=kv_bits, kernel=kernel, kept=asked.get("kept")),
        asked,
        format=f"kv{kv_bits} {kernel}",
        left_out=_LEFT_OUT_ATTENTION,
    )


def predict_prefill(
    machine: AnyMachine,
    batch: ArrayLike,
    length: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_size: ArrayLike = 128,
    *,
    keys: ArrayLike | None = None,
    causal: bool = True,
    kernel: str | None = None,
) -> Prediction:
    """Attention of whole sequences, 16 bits, operands warm as far as the L2 holds them.

    keys     of each sequence, where there are more or fewer of them than queries (`length`)
    kernel   flash (FlashAttention 2), cudnn, fa3; None: what PyTorch takes, cudnn from Hopper on and flash before
    """
    device, name = gpu(machine), kernel
    if name is None:
        name = "cudnn" if device.capability >= 90 else "flash"
    asked = counts(batch=batch, length=length, heads=heads, kv_heads=kv_heads, head_size=head_size)
    asked |= {} if keys is None else {"keys": counts(length=length, keys=keys)["keys"]}
    b, tokens, h, kv, size = list(asked.values())[:5]
    seen = asked.get("keys", tokens)
    return told(
        device,
        "attention",
        lambda one, fit: prefill_attention(one, fit, b, h, kv, tokens, seen, size, causal, name),
        asked,
        format=f"{name} {'causal' if causal else 'full'}",
        left_out=_LEFT_OUT_ATTENTION,
    )


def predict_linear_attention(
    machine: AnyMachine,
    batch: ArrayLike,
    tokens: ArrayLike,
    heads: ArrayLike,
    head_size: ArrayLike = 32,
    *,
    fused: bool = False,
) -> Prediction:
    """ReLU linear attention of Sana, in the separate kernels of PyTorch or in two fused ones that nobody wrote."""
    asked, device = counts(batch=batch, tokens=tokens, heads=heads, head_size=head_size), gpu(machine)
    memory = section(device, "memory_bound")[0]
    b, length, h, size = asked.values()
    return told(
        device,
        "linear_attention",
        lambda one, fit: linear_attention(one, fit, memory, b, h, length, size, fused),
        asked,
        format="fused" if fused else "eager",
        left_out=LEFT_OUT_MOVING,
    )
