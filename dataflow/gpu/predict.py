"""The one door to the models of GPU kernels: `predict_gemm("l40s", "w4a8", m=64, n=4096, k=4096) -> Prediction`.

A machine is a `GpuMachine`, a shipped name or a path; every count is a number or an array, arrays are paired. Each
class of kernels takes its section from the first of the machine's fits that has it. Raises ValueError for unknown
machines, formats and operators (with the nearest), for counts below 1, and where no fit has the section.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from numpy.typing import ArrayLike

from accel.gpu.fit import Fit
from accel.gpu.formats import Format, find_format, resolve
from accel.gpu.loading import has_section, section
from accel.gpu.machine import GpuMachine
from dataflow.gpu.convolution import convolution
from dataflow.gpu.door import LEFT_OUT_MOVING, AnyMachine, counts, gpu, told
from dataflow.gpu.estimate import Floats
from dataflow.gpu.gemm import gemm
from dataflow.gpu.low_rank import low_rank_gemm
from dataflow.gpu.memory_bound import by_rows
from dataflow.gpu.nf4 import nf4_gemm
from dataflow.gpu.predict_attention import predict_attention, predict_linear_attention, predict_prefill
from dataflow.gpu.prediction import Prediction, predicted, with_warning
from dataflow.gpu.published_kernels.gemm import KERNELS, published_gemm
from dataflow.gpu.simt import simt_products
from dataflow.gpu.transfer import copy_over, copy_within
from dataflow.gpu.w4 import w4_gemm

__all__ = [
    "counts",
    "gpu",
    "predict_attention",
    "predict_convolution",
    "predict_copy",
    "predict_elementwise",
    "predict_gemm",
    "predict_linear_attention",
    "predict_prefill",
    "predict_rows",
]
_LIBRARY = {"fp16": "bf16", "bf16": "bf16", "int8": "int8", "w8a8": "int8", "fp8": "fp8"}
_OURS = ("w4a8", "w4a8_group", "w4a16", "w8a8")  # kernels of `gpu_kernels`, from sm_80 on
_LEFT_OUT_GEMM = (
    "co-resident blocks, clusters, epilogues beyond a cast",
    "slow paths of N or K that are no multiple of 16 bytes",
)
_LEFT_OUT_NF4 = (
    "scales that are in 8 bits themselves; what the product finds of unpacked weights in the L2",
    "a single token's kernel is not known: Marlin's stands for it",
)
_LEFT_OUT_SIMT = ("sums split over multiprocessors; copies of operands that do not lie in order",)
BRANCHED = ("w4a4_int4", "w4a4_nvfp4")
_LEFT_OUT_BRANCH = (
    "bias; the next layer's quantizer in the epilogue; collisions of the atomics that add the down-projection up",
    "no run of this kernel was fitted: its structure is known, its cycles are those of our mma.sync kernels",
)
NOT_FITTED = Fit(name="none: instructions were counted", source="dataflow/gpu/published_kernels")
_LEFT_OUT_PUBLISHED = ("stalls of warps that wait for one another; clocks that the power limit lowers",)
_LEFT_OUT_OURS = ("bias; the quantizer of activations", "the library's kernels for small batches")


def predict_gemm(
    machine: AnyMachine,
    format: str,
    m: ArrayLike,
    n: ArrayLike,
    k: ArrayLike,
    *,
    rank: int = 32,
    fused: bool = True,
) -> Prediction:
    """y [M, N] = x [M, K] W^T in a format of `accel.gpu.formats`: weights cold, activations warm.

    A format whose units are missing is answered by the machine's fallback, with a warning. `rank` and `fused` say how
    the low-rank branch of the W4A4 formats is computed; other formats have none. Kernels of others that were counted,
    not fitted, go by their name: qserve_w4a8_channel, qserve_w4a8_group, qserve_w8a8, marlin_w4a16.
    """
    device, asked = gpu(machine), counts(m=m, n=n, k=k)
    if format in KERNELS:
        return _published(device, format, asked)
    chosen, warning = resolve(device, format)
    wanted = find_format(format).name
    found = _branched if wanted in BRANCHED and device.capability >= 80 else _plain
    return with_warning(found(device, chosen, asked, Branch(wanted, rank, fused)), warning)


@dataclass(frozen=True)
class Branch:
    """Of low rank, beside the GEMM of a W4A4 format."""

    format: str
    rank: int
    fused: bool


def _branched(device: GpuMachine, chosen: Format, asked: Mapping[str, Floats], branch: Branch) -> Prediction:
    """Quantizer, GEMM and branch of a W4A4 format, or of what runs in its place."""
    m, n, k = asked.values()
    return told(
        device,
        "w4",
        lambda one, fit: low_rank_gemm(one, fit, branch.format, m, n, k, branch.rank, branch.fused),
        asked,
        format=chosen.name,
        left_out=_LEFT_OUT_BRANCH,
    )


def _published(device: GpuMachine, kernel: str, asked: Mapping[str, Floats]) -> Prediction:
    """From instructions counted in others' machine code; the band is what the machine's file says of strangers."""
    estimate = published_gemm(device, kernel, *asked.values())
    return predicted(device, NOT_FITTED, False, estimate, asked, format=kernel, left_out=_LEFT_OUT_PUBLISHED)


def _plain(device: GpuMachine, chosen: Format, asked: Mapping[str, Floats], branch: Branch) -> Prediction:
    """Ours where there is a fit of ours, else the library's or somebody else's; no branch."""
    m, n, k = asked.values()
    name = "bf16" if chosen.name == "fp16" else chosen.name
    ask = partial(told, device, problem=asked, format=chosen.name)
    if name == "fp32":
        return ask("framework", lambda d, fit: simt_products(d, fit.simt, 0 * m + 1, m, n, k), left_out=_LEFT_OUT_SIMT)
    if name == "w4a16" and device.capability // 10 != 9:  # ours is for Hopper alone
        return _published(device, "marlin_w4a16", asked)
    if name == "nf4":
        memory = section(device, "memory_bound")[0]
        return ask("gemm", lambda d, fit: nf4_gemm(d, fit, memory, m, n, k), key="bf16", left_out=_LEFT_OUT_NF4)
    if name in _OURS and device.capability >= 80 and has_section(device, "w4"):
        return ask("w4", lambda d, fit: w4_gemm(d, fit, name, m, n, k), left_out=_LEFT_OUT_OURS)
    if name not in _LIBRARY:
        raise ValueError(f"{device.name}: no kernel of {name} is known there (ours need sm_80 and a fit of them)")
    return ask("gemm", lambda d, fit: gemm(d, fit, name, m, n, k), key=_LIBRARY[name], left_out=_LEFT_OUT_GEMM)


def predict_elementwise(machine: AnyMachine, operator: str, elements: ArrayLike) -> Prediction:
    """An operator of `dataflow.gpu.moving_kernels.OPERATORS` on so many 16-bit elements: add, gelu, silu_mul, ..."""
    asked = counts(elements=elements)
    return told(
        gpu(machine),
        "memory_bound",
        lambda device, fit: by_rows(device, fit, operator, 1, asked["elements"]),
        asked,
        format=operator,
        left_out=LEFT_OUT_MOVING,
    )


def predict_rows(machine: AnyMachine, operator: str, rows: ArrayLike, width: ArrayLike) -> Prediction:
    """An operator that works on rows: layer_norm, rms_norm, softmax, quantize, ... on [rows, width] elements."""
    asked = counts(rows=rows, width=width)
    return told(
        gpu(machine),
        "memory_bound",
        lambda device, fit: by_rows(device, fit, operator, *asked.values()),
        asked,
        format=operator,
        left_out=LEFT_OUT_MOVING,
    )


def predict_convolution(
    machine: AnyMachine,
    batch: ArrayLike,
    channels: ArrayLike,
    out: ArrayLike,
    side: ArrayLike,
    kernel: ArrayLike,
    stride: ArrayLike = 1,
    *,
    depthwise: bool = False,
    channels_last: bool = False,
    bias: bool = False,
) -> Prediction:
    """A 16-bit convolution with "same" padding of square images: dense, or depthwise (then `out` is `channels`)."""
    asked = counts(batch=batch, channels=channels, out=out, side=side, kernel=kernel, stride=stride)
    device = gpu(machine)
    memory = section(device, "memory_bound")[0]
    form = {"depthwise": depthwise, "channels_last": channels_last, "bias": bias}
    *shape, step = asked.values()
    return told(
        device,
        "convolution",
        lambda one, fit: convolution(one, fit, memory, *shape, stride=step, **form),
        asked,
        format="depthwise" if depthwise else "dense",
        left_out=("Winograd and FFT; a long sum split over multiprocessors", *LEFT_OUT_MOVING),
    )


def predict_copy(machine: AnyMachine, size_bytes: ArrayLike, way: str = "d2d") -> Prediction:
    """A copy within the GPU ("d2d"), or over PCIe: h2d_pinned, d2h_pinned, h2d_pageable, d2h_pageable."""
    asked, device = counts(size_bytes=size_bytes), gpu(machine)
    if way == "d2d":
        memory = section(device, "memory_bound")[0]
        within = partial(copy_within, memory=memory, size=asked["size_bytes"])
        return told(device, "transfer", within, asked, format=way)
    gaps = ("copies in both directions at once; several GPUs on one host",)
    model = partial(copy_over, way=way, size=asked["size_bytes"])
    return told(device, "transfer", model, asked, format=way, left_out=gaps)
