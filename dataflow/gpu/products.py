"""Products of a pass by the model of their class: GEMMs, convolutions, attention; `sizes` [sizes, points] of `Product`.

PyTorch's choices are rules here: attention with one query a sequence and whole sequences in 16 bits run in cuDNN, in
float32 on CUDA cores; a cache that a scheme quantizes is read by our kernel; a grouped convolution is three kernels a
group. Left out: masks that are given as tensors cost nothing beside their bytes.
"""

from typing import Any

import numpy as np
from pydantic import BaseModel

from accel.gpu.formats import resolve
from accel.gpu.host import FrameworkFit
from accel.gpu.loading import has_section, section
from accel.gpu.machine import GpuMachine
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.convolution import convolution
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.gemm import gemm
from dataflow.gpu.low_rank import low_rank_gemm
from dataflow.gpu.memory_bound import one_kernel, plain_work, together
from dataflow.gpu.nf4 import nf4_gemm
from dataflow.gpu.operators import Product
from dataflow.gpu.published_kernels.gemm import published_gemm
from dataflow.gpu.simt import simt_attention, simt_products
from dataflow.gpu.w4 import w4_gemm

_LIBRARY = {"fp16": "bf16", "bf16": "bf16", "int8": "int8", "w8a8": "int8", "fp8": "fp8"}
_OURS = ("w4a8", "w4a8_group", "w4a16", "w8a8")
_W4A4 = ("w4a4_int4", "w4a4_nvfp4")
_LOSSES = ("slowing", "throttle")
_CACHE_BITS = {"kv4": 4, "kv8": 8, "kv8_static": 8}
_CUDNN_SIZES = 256  # of a head, at most


def product_estimate(
    machine: GpuMachine, fit: FrameworkFit, one: Product, sizes: Floats
) -> tuple[Estimate, str | None]:
    """Estimate [points] of products that differ in sizes only, and a warning where the format falls back."""
    if one.model == "branch":
        return _branch(machine, *sizes), None
    if one.model == "gemm":
        found, warning = _gemm(machine, fit, one.format, *sizes)
        return _after_copy(machine, fit, one, found), warning
    made = {"simt": _simt, "conv": _convolution, "depthwise": _convolution, "grouped": _grouped}
    if one.model == "attention":
        return _attention(machine, fit, one, sizes), None
    return _after_copy(machine, fit, one, made[one.model](machine, fit, one, sizes)), None


def _after_copy(machine: GpuMachine, fit: FrameworkFit, one: Product, found: Estimate) -> Estimate:
    """With the kernel before it that brings operands in order."""
    if not one.copied:
        return found
    size = 4 if one.format == "fp32" else 2
    copy = framework_kernel(machine, fit, "permute", np.full_like(found.seconds, one.copied), size)
    return together(found.kind, [copy, found], found.floor_s)


def framework_kernel(machine: GpuMachine, fit: FrameworkFit, family: str, elements: Floats, size: int) -> Estimate:
    """A kernel of `fit.kernels` that reads and writes each element of so many bytes, its input just written."""
    moved = size * elements
    work = plain_work(elements, moved, moved, 2 * moved)
    return one_kernel(machine, section(machine, "memory_bound")[0], fit.kernels[family], work)


def _gemm(
    machine: GpuMachine, fit: FrameworkFit, asked: str, batch: Floats, m: Floats, n: Floats, k: Floats
) -> tuple[Estimate, str | None]:
    chosen, warning = resolve(machine, asked)
    if chosen.unit == "fp32":
        return simt_products(machine, fit.simt, batch, m, n, k), warning
    name = chosen.name
    if name in _W4A4:
        return low_rank_gemm(machine, at_full_clock(machine, "w4"), name, m, n, k, rank=0), warning
    if name in _OURS and runs_ours(machine, name):
        padded = np.ceil(n / 64) * 64
        return w4_gemm(machine, at_full_clock(machine, "w4"), name, m, padded, k), warning
    if name == "w4a16" and machine.capability >= 80:  # ours is for Hopper alone
        return published_gemm(machine, "marlin_w4a16", m, n, k), warning
    if name == "nf4" and machine.capability >= 80:
        memory = section(machine, "memory_bound")[0]
        return nf4_gemm(machine, at_full_clock(machine, "gemm", "bf16"), memory, m, n, k), warning
    library = _LIBRARY.get(name, "bf16")
    found = at_full_clock(machine, "gemm", library)
    return gemm(machine, found, name if name in _LIBRARY else "bf16", m, n, k, batch), warning


def at_full_clock(machine: GpuMachine, name: str, key: str | None = None) -> Any:
    """The section without what its kernels lose to the power limit when they are repeated for long.

    The limit holds for the pass that they are part of (`pass_power.py`), and is not counted twice. Without a fit of
    energy there is nothing else, and the section stays as it is.
    """
    found = section(machine, name, key)[0]
    return _unslowed(found) if has_section(machine, "energy") else found


def _unslowed(found: Any) -> Any:
    """Copies of models and mappings in which nothing slows or throttles."""
    if isinstance(found, dict):
        return {name: _unslowed(inner) for name, inner in found.items()}
    if not isinstance(found, BaseModel):
        return found
    fields = {name: getattr(found, name) for name in type(found).model_fields}
    return found.model_copy(update={name: 0.0 if name in _LOSSES else _unslowed(one) for name, one in fields.items()})


def _branch(machine: GpuMachine, batch: Floats, m: Floats, n: Floats, k: Floats) -> Estimate:
    """The products alone: operands are there, outputs stay where they are."""
    work, none = 2 * batch * m * n * k, np.zeros_like(m)
    unit = "fp16" if machine.rates.fp16 else "fp32"
    seconds = work / machine.per_s(unit)
    terms = {"tensor": seconds}
    return Estimate("gemm_branch", seconds, seconds, 2 * batch * n * k, none, 2 * batch * n * k, {unit: work}, terms)


def runs_ours(machine: GpuMachine, name: str) -> bool:
    """Whether a kernel of ours runs there: from sm_80 on, W4A16 on Hopper."""
    number = int("".join(filter(str.isdigit, machine.architecture)))
    return has_section(machine, "w4") and (number == 90 or (number >= 80 and name != "w4a16"))


def _simt(machine: GpuMachine, fit: FrameworkFit, one: Product, sizes: Floats) -> Estimate:
    batch, m, n, k = sizes
    return simt_products(machine, fit.simt, batch, m, n, k, bool(one.flags))


def _convolution(machine: GpuMachine, fit: FrameworkFit, one: Product, sizes: Floats) -> Estimate:
    images, channels, out, side, kernel, stride = sizes
    memory, model = section(machine, "memory_bound")[0], section(machine, "convolution")[0]
    last, bias = one.flags
    form = {"depthwise": one.model == "depthwise", "channels_last": last, "bias": bias and not last}
    found = convolution(machine, model, memory, images, channels, out, side, kernel, stride=stride, **form)
    if not (bias and last):
        return found
    added = framework_kernel(machine, fit, "broadcast", images * np.ceil(side / stride) ** 2 * out, 2)
    return together(found.kind, [found, added], found.floor_s)


def _grouped(machine: GpuMachine, fit: FrameworkFit, one: Product, sizes: Floats) -> Estimate:
    """Three small kernels a group: nothing of it overlaps."""
    groups, m, n, k = sizes
    kernels = 3 * groups
    bytes_each = 2 * m * (k + n)
    seconds = (fit.grouped_cycles + bytes_each / fit.grouped_bytes) / machine.clock_hz + machine.launch.graph_s
    moved, lost = groups * bytes_each, np.clip(groups * bytes_each / machine.cache.bytes - 0.5, 0.0, 1.0)
    work = 2 * groups * m * n * k
    floor = np.maximum(work / machine.per_s("fp16" if machine.rates.fp16 else "fp32"), 0.0)
    launch = kernels * machine.launch.graph_s
    return Estimate(
        kind="convolution",
        seconds=np.maximum(kernels * seconds, floor),
        floor_s=floor,
        dram_read_bytes=lost * moved * k / (k + n),
        dram_write_bytes=lost * moved * n / (k + n),
        l2_bytes=3 * moved,
        operations={"fp16" if machine.rates.fp16 else "fp32": work},
        terms={"latency": kernels * seconds - launch, "launch": launch},
    )


def _attention(machine: GpuMachine, fit: FrameworkFit, one: Product, sizes: Floats) -> Estimate:
    sequences, heads, kv_heads, queries, keys, size = sizes
    if one.format == "float32" or not machine.rates.fp16:
        return simt_attention(machine, fit.simt, sequences, heads, kv_heads, queries, keys, size, one.flags[0])
    model = at_full_clock(machine, "attention")
    bits = _CACHE_BITS.get(one.format, 16)
    if queries[0] == 1 and (bits < 16 or model.cudnn_decode is None):
        return decode_attention(machine, model, sequences, keys, heads, kv_heads, size, bits, "ours")
    if queries[0] == 1:
        return decode_attention(machine, model, sequences, keys, heads, kv_heads, size, 16, "cudnn")
    kernel = "cudnn" if "cudnn" in model.prefill and size.max() <= _CUDNN_SIZES else "flash"
    causal = one.flags[0] and bool((queries <= keys).all())
    return prefill_attention(machine, model, sequences, heads, kv_heads, queries, keys, size, causal, kernel)
