"""One decoding step of a large language model as `AttentionWork`: grouped queries, batches, K and V of 4 to 16 bits.

    decode_work(8192)                                                  # Llama-3-8B's shape, dense, fp16
    decode_work(8192, batch=8, kv_bits=4, policy=PRUNED)
    load_workload("llama3_8b_decode_8k_b8_pruned_kv4")                 # the same, by name

Nothing was recorded: kept positions lie evenly spread and importance is not known (the top-k model draws ranks). The
sequences of a batch go through a layer together, and each layer is a sequence of its own: layers do not overlap.
"""

import re
from dataclasses import dataclass, replace

import numpy as np

from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.schedule import keep_counts
from workloads.trace import Trace

SCALE_BITS = 32  # fp16 scale and zero of each token and K/V head, beside its 4- or 8-bit elements
CONTEXTS = (1, 2, 4, 8, 16, 32)
PRUNED = Policy(token_keep=0.3, value_keep=0.3)
_DENSE = Policy()
NAMES = "llama3_8b_decode_<k>k[_b<batch>][_pruned][_kv4, _kv8 or _kv16]"
_NAME = re.compile(r"llama3_8b_decode_(\d+)k(?:_b(\d+))?(_pruned)?(?:_kv(4|8|16))?")


@dataclass(frozen=True)
class DecodeShape:
    """Numbers of the model that attention depends on."""

    name: str
    layers: int
    heads: int
    kv_heads: int
    head_size: int


LLAMA3_8B = DecodeShape("llama3_8b", 32, 32, 8, 128)


@dataclass(frozen=True)
class _Layer:
    """A layer that stands for `alike`; `following` is how many tokens the next one keeps."""

    number: int
    alike: int
    keys: int
    following: int


def decode_work(
    context: int,
    batch: int = 1,
    kv_bits: int = 16,
    policy: Policy = _DENSE,
    shape: DecodeShape = LLAMA3_8B,
    samples: int | None = 3,
    most_tokens: int = 1 << 18,
) -> list[AttentionWork]:
    """Attention of one generated token for each of `batch` sequences of `context` tokens, layer by layer.

    kv_bits       16, or 8 or 4 with a scale and a zero point of 16 bits each for every vector of K and V
    policy        its shares of tokens (by layer) and values; its bits are not used
    samples       the pruned layers, whose keys fall along a line, in so many spans, each as often as its middle layer;
                  None: every layer for itself. Layers with the same keys are always taken together
    most_tokens   a batch with more tokens than this is cut into equal parts, of which one stands for all: too slow, by
                  up to 20 %, where that leaves a pipeline few heads to overlap
    Raises ValueError for sizes that make no step, heads that do not divide, or head pruning.
    """
    _check(context, batch, kv_bits, policy, shape)
    counts = keep_counts(policy, shape.layers, context, shape.kv_heads)[0]
    parts = next(
        n for n in range(1, batch + 1) if batch % n == 0 and (batch // n * context <= most_tokens or n == batch)
    )
    return [
        replace(_layer(layer, context, batch // parts, kv_bits, policy, shape), repeat=layer.alike * parts)
        for layer in _layers(counts.tolist(), samples)
    ]


def _check(context: int, batch: int, kv_bits: int, policy: Policy, shape: DecodeShape) -> None:
    for name, value in (("context", context), ("batch", batch)):
        if value < 1:
            raise ValueError(f"{name}: must be at least 1, got {value}")
    if kv_bits not in (4, 8, 16):
        raise ValueError(f"kv_bits: must be 4, 8 or 16, got {kv_bits}")
    if shape.heads % shape.kv_heads:
        raise ValueError(f"{shape.name}: kv_heads must divide heads ({shape.heads}), got {shape.kv_heads}")
    if policy.head_keep != 1 or policy.token_threshold:
        raise ValueError("policy: must prune tokens by share and no heads for a decoding step")


def _layers(counts: list[int], samples: int | None) -> list[_Layer]:
    """Runs of layers with the same keys; then the others in spans of nearly the same length."""
    following = [*counts[1:], counts[-1]]
    front = next((i for i, n in enumerate(counts) if n < counts[0]), len(counts))
    runs = [_Layer(0, front - 1, counts[0], counts[0]), _Layer(front - 1, 1, counts[0], following[front - 1])]
    rest = np.arange(front, len(counts))
    for span in np.array_split(rest, min(samples or len(rest), len(rest)) or 1):
        if len(span):
            middle = int(span[len(span) // 2])
            runs.append(_Layer(middle, len(span), counts[middle], following[middle]))
    return [run for run in runs if run.alike]


def _layer(
    layer: _Layer, context: int, sequences: int, kv_bits: int, policy: Policy, shape: DecodeShape
) -> AttentionWork:
    """One row a sequence and K/V head; a sequence's token top-k runs after its last head."""
    rows, heads = sequences * shape.kv_heads, shape.kv_heads
    same, zeros = np.ones(rows, np.int64), np.zeros(rows, np.int64)
    values = max(1, int(np.ceil(policy.value_keep * layer.keys - 1e-9)))
    last = (np.arange(rows) % heads == heads - 1) & (layer.following < layer.keys)
    return AttentionWork(
        name=f"{shape.name}[{context}, layer {layer.number}]",
        head_size=shape.head_size,
        query_bits=16,
        key_msb_bits=kv_bits,
        key_lsb_bits=0,
        value_bits=kv_bits,
        step=zeros,
        layer=zeros,
        head=np.arange(rows),
        length=same * context,
        queries=same,
        keys=same * layer.keys,
        values=same * values,
        key_set=zeros - 1,
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=np.zeros(sequences * shape.heads, np.uint8),
        token_topk=last * layer.following,
        token_candidates=last * layer.keys,
        head_topk=zeros,
        head_candidates=zeros,
        score_ptr=np.zeros(rows + 1, np.int64),
        score=np.zeros(0),
        dense_operations=4 * sequences * context * shape.heads * shape.head_size,
        group=shape.heads // shape.kv_heads,
        scale_bits=0 if kv_bits == 16 else SCALE_BITS,
    )


def decode_names() -> list[str]:
    """The grid of docs/llm.md: contexts of 1 k to 32 k, batch 1 and 8, dense and pruned, K and V of 16 and 4 bits."""
    return [
        f"llama3_8b_decode_{context}k{batch}{pruned}_kv{bits}"
        for bits in (16, 4)
        for pruned in ("", "_pruned")
        for batch in ("", "_b8")
        for context in CONTEXTS
    ]


def is_decode_name(name: str) -> bool:
    """Whether `decode_trace` takes the name."""
    return _NAME.fullmatch(name) is not None


def decode_trace(name: str) -> Trace:
    """`llama3_8b_decode_<k>k[_b<batch>][_pruned][_kv<bits>]` as a trace of kind "decode", without facts.

    Without the last parts: batch 1, dense, 16 bits. Raises ValueError for another name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"must be {NAMES}, got {name!r}")
    context, batch, kv_bits = 1024 * int(match[1]), int(match[2] or 1), int(match[4] or 16)
    policy = PRUNED if match[3] else _DENSE
    made = {"kind": "decode", "context": context, "batch": batch, "kv_bits": kv_bits}
    model = {name: getattr(LLAMA3_8B, name) for name in ("name", "layers", "heads", "kv_heads", "head_size")}
    return Trace(name, model, made | {"policy": policy.model_dump(mode="json")}, {})


def named_work(trace: Trace, policy: Policy | None) -> list[AttentionWork]:
    """The work of a trace of kind "decode" under its own policy (None) or another one; ValueError as `decode_work`."""
    made = trace.made
    chosen = Policy.model_validate(made["policy"]) if policy is None else policy
    return decode_work(made["context"], made["batch"], made["kv_bits"], chosen)
