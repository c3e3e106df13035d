"""`published_gemm`: seconds of GEMM kernels that others wrote, from their tiles and instructions. Nothing is fitted.

    launch + start of reads + longest of |loop, output and what is around them; DRAM; L2|

Inputs and where they come from: `loops` (tiles, stages, instructions), `accel/gpu/microarchitecture.py` (latencies,
rates of a generation), the machine's file (tensor rate, bandwidths, launch). First compared with measurements when all
of it was fixed: `analysis/published/first_contact/unfitted_kernels.csv`, which logs each later change.
"""

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.machine import GpuMachine
from accel.gpu.microarchitecture import START_S, microarchitecture
from dataflow.gpu.attention_work import positive
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.published_kernels import marlin_gemm, qserve_gemm

ACTIVATION_BITS = {"qserve_w4a8_channel": 8, "qserve_w4a8_group": 8, "qserve_w8a8": 8, "marlin_w4a16": 16}
KERNELS = tuple(ACTIVATION_BITS)


def published_gemm(machine: GpuMachine, kernel: str, m: ArrayLike, n: ArrayLike, k: ArrayLike) -> Estimate:
    """Of y [m, n] = x [m, k] W^T, arrays [points]; weights cold, activations as far as the L2 holds them.

    Raises ValueError for an unknown kernel, a GPU older than sm_80, or a size that is no whole number >= 1.
    """
    if kernel not in ACTIVATION_BITS:
        raise ValueError(f"kernel: must be one of {', '.join(KERNELS)}, got {kernel}")
    microarchitecture(machine.architecture)
    m, n, k = positive(m=m, n=n, k=k)
    bits = ACTIVATION_BITS[kernel]
    weight = weight_bytes(kernel, n, k)
    parts, bands = _parts(machine, kernel, bits, m, n, k)
    read, written = _memory_bytes(machine, weight, bands, m * k * bits / 8, 2.0 * m * n)
    seconds = {name: parts[name] / machine.clock_hz for name in ("tensor", "alu", "shared", "latency", "waves", "body")}
    body = seconds.pop("body")
    seconds["chain"] = seconds["tensor"] + seconds["alu"]  # a warp's products and its other instructions add up
    dram = (read + written) / machine.memory.read_bytes_per_s
    l2 = parts["l2_bytes"] / machine.cache.bytes_per_s
    launch = parts["launches"] * (machine.launch.graph_s + START_S)
    floor = floor_s(machine, kernel, m, n, k)
    total = np.maximum(launch + np.maximum(body, np.maximum(dram, l2)), floor)
    unit = "int8" if bits == 8 else "fp16"
    terms = {**seconds, "dram": dram, "l2": l2, "launch": launch}
    return Estimate(kernel, total, floor, read, written, parts["l2_bytes"], {unit: 2.0 * m * n * k}, terms)


def _parts(
    machine: GpuMachine, kernel: str, bits: int, m: Floats, n: Floats, k: Floats
) -> tuple[dict[str, Floats], Floats]:
    """Cycles by part, and how often the weights pass."""
    if kernel == "marlin_w4a16":
        found = marlin_gemm.call(machine, m, n, k)
        return found, found["launches"]
    found, bands = {"launches": np.ones_like(m)}, np.ones_like(m)
    for loop, where in qserve_gemm.pick(kernel, m, k):
        if where.any():
            here = m[where], n[where], k[where]
            bands[where] = qserve_gemm.bands(loop, here[0])
            for name, value in qserve_gemm.call(machine, loop, bits, weight_bits(kernel), *here).items():
                found.setdefault(name, np.zeros_like(m))[where] = value
    return found, bands


def weight_bits(kernel: str) -> int:
    """Of a weight, scales apart."""
    return 8 if kernel == "qserve_w8a8" else 4


def weight_bytes(kernel: str, n: Floats, k: Floats) -> Floats:
    """With scales and zeros: of a channel in float16, of a group of 128 in int8 (QServe) or float16 (Marlin)."""
    codes = n * k * weight_bits(kernel) / 8
    if kernel == "qserve_w4a8_group":
        return codes + 2 * n * np.ceil(k / 128) + 2 * n
    if kernel == "marlin_w4a16":
        return codes + 2 * n * np.ceil(k / marlin_gemm.GROUP)
    return codes + (4 if kernel == "qserve_w4a8_channel" else 2) * n


def _memory_bytes(machine: GpuMachine, weight: Floats, bands: Floats, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Bytes (read, written): weights cold, of all that is used again only the share that the L2 cannot hold."""
    lost = np.maximum(0.0, 1.0 - machine.cache.bytes / (weight + x + y))
    return weight + lost * ((bands - 1) * weight + x), lost * y


def floor_s(machine: GpuMachine, kernel: str, m: Floats, n: Floats, k: Floats) -> Floats:
    """Cold weights over the data sheet's bandwidth, products over the tensor cores' rate, a launch."""
    rate = machine.per_s("int8" if ACTIVATION_BITS[kernel] == 8 else "fp16")
    moved = weight_bytes(kernel, n, k) / machine.memory.peak_bytes_per_s
    return np.asarray(np.maximum(moved, 2.0 * m * n * k / rate) + machine.launch.graph_s)
