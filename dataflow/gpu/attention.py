"""Softmax attention on GPUs: one decode step over a cache, whole sequences, cross attention.

    decode_attention(machine, fit, batch, context, heads, kv_heads, size, kv_bits, kernel="ours") -> Estimate
    prefill_attention(machine, fit, batch, heads, kv_heads, queries, keys, size, causal, kernel="flash") -> Estimate

Kernels: ours (caches of 4, 8 and 16 bits), flash (FlashAttention 2 as PyTorch calls it), cudnn, fa3, qserve (its KV4
decode kernel). In a decode step the cache is cold and the queries are warm; in a prefill all operands are warm as far
as the L2 holds them. Left out: dropout, biases, sliding windows, sequences of different lengths in one batch.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from accel.fault import nearest
from accel.gpu.attention import AttentionFit, FlashFit
from accel.gpu.machine import GpuMachine
from dataflow.gpu import attention_flash, attention_ours
from dataflow.gpu.attention_flash import dram_bytes, flash_cycles
from dataflow.gpu.attention_library import cudnn_cycles, qserve_cycles
from dataflow.gpu.attention_ours import our_cycles
from dataflow.gpu.attention_work import positive
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.executed import cudnn_decode_operations, flash_operations, our_decode_operations

DECODE_KERNELS = ("ours", "flash", "cudnn", "qserve")
PREFILL_KERNELS = ("flash", "cudnn", "fa3")
_EXPONENTIALS = "special"


def decode_attention(
    machine: GpuMachine,
    fit: AttentionFit,
    batch: ArrayLike,
    context: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_size: ArrayLike,
    kv_bits: ArrayLike = 16,
    kernel: str = "ours",
    kept: ArrayLike | None = None,
) -> Estimate:
    """One new token of each of `batch` sequences with `context` cached tokens.

    kept   tokens that a list names in each sequence and K/V head (pruning by ours): only they are read, gathered;
           pruned heads are left out by giving the heads that stay
    Raises ValueError for an unknown kernel, with the nearest, for counts below 1, for query heads that are no multiple
    of the K/V heads, for more tokens kept than there are, for bits that the kernel has not.
    """
    _tensor_cores(machine)
    _known(kernel, DECODE_KERNELS)
    named = {"batch": batch, "context": context, "heads": heads, "kv_heads": kv_heads, "head_size": head_size}
    b, length, h, kv, size, bits, listed = positive(**named, kv_bits=kv_bits, kept=context if kept is None else kept)
    _grouped(h, kv)
    if kernel == "ours":
        _some_of(listed, length)
        return _ours(machine, fit, attention_ours.Problem(b, listed, h, kv, size, bits, kept is not None))
    if kept is not None:
        raise ValueError(f"kept: only our kernel reads a list of tokens, got kernel {kernel!r}")
    width = 4 if kernel == "qserve" else 16
    if (bits != width).any():
        raise ValueError(f"kv_bits: {kernel} reads caches of {width} bits, got {bits[bits != width][0]:g}")
    if kernel == "flash":
        problem = attention_flash.Problem("flash", b, kv, h / kv, length, size, False, True)
        return _flash(machine, _prefill_fit(fit, "flash"), problem, "decode_attention_flash")
    if kernel == "cudnn":
        return _cudnn(machine, fit, b, length, h, kv, size)
    return _qserve(machine, b, length, h, kv, size)


def prefill_attention(
    machine: GpuMachine,
    fit: AttentionFit,
    batch: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    queries: ArrayLike,
    keys: ArrayLike,
    head_size: ArrayLike,
    causal: bool = False,
    kernel: str = "flash",
    biased: bool = False,
) -> Estimate:
    """Attention of `queries` tokens to `keys` tokens of each of `batch` sequences; causal: the last sees all keys;
    biased: a mask of the keys is added to the scores, as text encoders' padding needs (cuDNN).

    Raises ValueError as `decode_attention` does, and for causal attention with more queries than keys.
    """
    _tensor_cores(machine)
    _known(kernel, PREFILL_KERNELS)
    named = {"batch": batch, "heads": heads, "kv_heads": kv_heads, "queries": queries, "keys": keys}
    b, h, kv, rows, length, size = positive(**named, head_size=head_size)
    _grouped(h, kv)
    if causal and (rows > length).any():
        raise ValueError("queries: causal attention needs as many keys as queries or more")
    problem = attention_flash.Problem(kernel, b, h, rows, length, size, causal, False, biased)
    return _flash(machine, _prefill_fit(fit, kernel), problem, f"prefill_{kernel}", kv / h)


def _tensor_cores(machine: GpuMachine) -> None:
    if not machine.rates.fp16:
        raise ValueError(f"{machine.name}: rates.fp16: attention kernels need tensor cores, and this GPU has none")


def _known(kernel: str, kernels: tuple[str, ...]) -> None:
    if kernel not in kernels:
        raise ValueError(f"kernel: no attention kernel of this name, got {kernel!r} ({nearest(kernel, kernels)})")


def _grouped(heads: Floats, kv_heads: Floats) -> None:
    wrong = heads % kv_heads > 0
    if wrong.any():
        raise ValueError(
            f"heads: must be a multiple of kv_heads, got {heads[wrong][0]:g} heads for {kv_heads[wrong][0]:g}"
        )


def _some_of(kept: Floats, context: Floats) -> None:
    if (kept > context).any():
        raise ValueError(f"kept: must be at most the context, got {kept[kept > context][0]:g} tokens")


def _prefill_fit(fit: AttentionFit, kernel: str) -> FlashFit:
    if kernel not in fit.prefill:
        raise ValueError(f"kernel: this fit has no {kernel} attention ({nearest(kernel, fit.prefill)})")
    return fit.prefill[kernel]


def _estimate(
    machine: GpuMachine,
    kind: str,
    cycles: Mapping[str, Floats],
    terms: tuple[str, ...],
    read: Floats,
    written: Floats,
    l2: Floats,
    operations: Mapping[str, Floats],
    floor: Floats,
) -> Estimate:
    launch = np.full_like(read, machine.launch.graph_s)
    alone = {name: np.broadcast_to(cycles[name] / machine.clock_hz, read.shape) for name in terms}
    seconds = launch + cycles["whole"] / machine.clock_hz
    return Estimate(
        kind=kind,
        seconds=np.maximum(seconds, floor),
        floor_s=floor,
        dram_read_bytes=read,
        dram_write_bytes=written,
        l2_bytes=l2,
        operations=operations,
        terms=alone | {"launch": launch},
    )


def _ours(machine: GpuMachine, fit: AttentionFit, problem: attention_ours.Problem) -> Estimate:
    if fit.ours is None:
        raise ValueError("kernel: this fit has no 'ours'; calibrate one that does")
    cycles = our_cycles(machine, fit.ours, problem)
    bits = np.unique(problem.bits)
    kind = f"decode_attention_kv{bits[0]:g}" if len(bits) == 1 else "decode_attention"
    useful = 4.0 * problem.batch * problem.heads * problem.read * problem.size
    read, none = problem.cache_bytes, np.zeros_like(useful)
    words = our_decode_operations(machine, problem)
    floor = np.maximum(read / machine.memory.peak_bytes_per_s, useful / machine.per_s("fp16"))
    terms = ("dram", "alu", "latency", "exchange")
    return _estimate(machine, kind, cycles, terms, read, none, read, words, floor)


def _flash(
    machine: GpuMachine, fit: FlashFit, problem: attention_flash.Problem, kind: str, shared: ArrayLike = 1.0
) -> Estimate:
    """`shared`: K/V heads over the heads of the problem."""
    cycles = flash_cycles(machine, fit, problem)
    read, written = dram_bytes(machine, problem)
    own = np.asarray(shared) * 4 * problem.heads * problem.size * problem.keys
    read = np.where(read > 0, read - (1 - np.asarray(shared)) * 4 * problem.heads * problem.size * problem.keys, 0.0)
    useful = 4.0 * problem.heads * _seen(problem) * problem.size
    compulsory = own if problem.cold else np.maximum(0.0, own + 2 * problem.write_bytes - machine.cache.bytes)
    floor = np.maximum(useful / machine.per_s("fp16"), compulsory / machine.memory.peak_bytes_per_s)
    l2 = cycles["walked_bytes"] + 2 * problem.write_bytes
    words = flash_operations(machine, fit, problem.kernel, cycles)
    terms = ("tensor", "special", "latency", "waves", "dram", "exchange")
    return _estimate(machine, kind, cycles, terms, read, written, l2, words, floor)


def _seen(problem: attention_flash.Problem) -> Floats:
    """Pairs of a query and a key that it sees."""
    rows, keys = problem.rows, problem.keys
    return rows * keys - rows * (rows - 1) / 2 if problem.causal else rows * keys


def _cudnn(
    machine: GpuMachine, fit: AttentionFit, b: Floats, length: Floats, h: Floats, kv: Floats, size: Floats
) -> Estimate:
    if fit.cudnn_decode is None:
        raise ValueError("kernel: this fit has no 'cudnn' for decoding; calibrate one that does")
    cycles = cudnn_cycles(machine, fit.cudnn_decode, b * kv, length, size)
    read, useful = 4.0 * b * kv * length * size, 4.0 * b * h * length * size
    floor = np.maximum(read / machine.memory.peak_bytes_per_s, useful / machine.per_s("fp16"))
    words = cudnn_decode_operations(b * kv, length, size)
    terms = ("dram", "latency", "exchange")
    return _estimate(machine, "decode_attention_cudnn", cycles, terms, read, np.zeros_like(read), read, words, floor)


def _qserve(machine: GpuMachine, b: Floats, length: Floats, h: Floats, kv: Floats, size: Floats) -> Estimate:
    cycles = qserve_cycles(machine, b, length, h, kv, size)
    read, products = b * kv * length * (size + 8), 4.0 * b * h * length * size
    floor = read / machine.memory.peak_bytes_per_s
    words = {"half2": products, _EXPONENTIALS: b * h * length}
    terms = ("dram", "alu", "latency", "special")
    none = np.zeros_like(read)
    return _estimate(machine, "decode_attention_qserve", cycles, terms, read, none, read * h / kv, words, floor)
