"""Convolutions: dense ones as implicit products on tensor cores, depthwise ones on CUDA cores.

A dense convolution is a product of [batch x outputs, channels x taps] with [channels x taps, out channels], in tiles:

    launch + latency + (tensor^p + dram^p + l2^p)^(1/p),    tensor = waves (prologue + tile operations / rate)

A long sum may be split over multiprocessors, its parts are then added. The kernel wants channels last: channels first,
kernels before it change the layout of inputs and weights and one behind that of outputs, except for 1x1; a bias is one
more kernel. They are counted, not hidden. Left out: Winograd and FFT (not chosen for 16-bit types here).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from accel.gpu.convolution import ConvolutionFit
from accel.gpu.machine import GpuMachine
from accel.gpu.memory_bound import MemoryBoundFit
from dataflow.gpu.estimate import Estimate, Floats
from dataflow.gpu.memory_bound import columns, compulsory, joined, one_kernel, plain_work, resident, together

TILES = ((256, 128), (128, 256), (128, 128), (256, 64), (128, 64), (64, 64))  # outputs, out channels
SINGLE_TILES = ((192, 192), (128, 160), (320, 128), (192, 128))  # more of them where there is one tap: a plain product
SPLITS = (1, 2, 3, 4, 6, 8)  # of the sum
# [ways, 1]: every tile with every split, and whether convolutions with more than one tap have it
ROWS, COLUMNS, PARTS = np.array(
    [(*tile, split) for tile in TILES + SINGLE_TILES for split in SPLITS], dtype=np.float64
).T[..., None]
IMPLICIT = np.repeat([*(1.0 for _ in TILES), *(0.0 for _ in SINGLE_TILES)], len(SPLITS))[:, None]
CHUNK = 64  # of the sum: channels of a tap are padded to it


@dataclass(frozen=True)
class Shapes:
    """Arrays [points]: `taps` = kernel^2, `pixels` = batch x output pixels, `inputs` = batch x input pixels."""

    pixels: Floats
    inputs: Floats
    channels: Floats
    out: Floats
    taps: Floats


def convolution(
    machine: GpuMachine,
    fit: ConvolutionFit,
    memory: MemoryBoundFit,
    batch: ArrayLike,
    channels: ArrayLike,
    out: ArrayLike,
    side: ArrayLike,
    kernel: ArrayLike,
    *,
    stride: ArrayLike = 1,
    depthwise: bool = False,
    channels_last: bool = False,
    bias: bool = False,
    reuse_bytes: ArrayLike | None = None,
) -> Estimate:
    """y [batch, out, side / stride, side / stride] of x [batch, channels, side, side], 16-bit, "same" padding.

    `reuse_bytes`: between two uses of the same byte; inputs, weights and outputs unless given.
    """
    count, inner, outer, edge, taps, step = columns(batch, channels, out, side, kernel, stride)
    shapes = Shapes(count * np.ceil(edge / step) ** 2, count * edge**2, inner, outer, taps**2)
    read = 2 * (shapes.inputs * inner + outer * shapes.taps * (1.0 if depthwise else inner))
    written = 2 * shapes.pixels * outer
    between = read + written if reuse_bytes is None else columns(read, reuse_bytes)[1]
    if depthwise:
        parts = [_depthwise(machine, fit, memory, shapes, read, written, between, channels_last)]
    else:
        parts = _dense(machine, fit, memory, shapes, read, written, between, channels_last)
    if bias:
        parts.append(_layout(machine, fit, memory, "bias", shapes.pixels * outer, between))
    kind = "convolution_depthwise" if depthwise else "convolution"
    return together(kind, parts, _floor(machine, shapes, read + written, depthwise))


def _floor(machine: GpuMachine, shapes: Shapes, size: Floats, depthwise: bool) -> Floats:
    """Compulsory bytes over bandwidth, products over the peak."""
    if depthwise:
        work = 2 * shapes.pixels * shapes.out * shapes.taps / machine.per_s("half2" if machine.rates.half2 else "fp32")
    else:
        work = 2 * shapes.pixels * shapes.out * shapes.channels * shapes.taps / machine.per_s(_unit(machine))
    return np.maximum(compulsory(machine, size), work)


def _unit(machine: GpuMachine) -> str:
    return "fp16" if machine.rates.fp16 else "fp32"


def _depthwise(
    machine: GpuMachine,
    fit: ConvolutionFit,
    memory: MemoryBoundFit,
    shapes: Shapes,
    read: Floats,
    written: Floats,
    between: Floats,
    channels_last: bool,
) -> Estimate:
    outputs = shapes.pixels * shapes.out
    work = replace(plain_work(outputs, read, written, between), rows=outputs * shapes.taps)
    found = fit.kernels["depthwise_last" if channels_last else "depthwise_first"]
    return one_kernel(machine, memory, found, work, {"fp32": 2 * outputs * shapes.taps})


def _dense(
    machine: GpuMachine,
    fit: ConvolutionFit,
    memory: MemoryBoundFit,
    shapes: Shapes,
    read: Floats,
    written: Floats,
    between: Floats,
    channels_last: bool,
) -> list[Estimate]:
    product = implicit_product(machine, fit, memory, shapes, read, written, between)
    if channels_last:
        return [product]
    weights = shapes.out * shapes.channels * shapes.taps
    before = [_layout(machine, fit, memory, "to_last", shapes.inputs * shapes.channels, between)]
    before.append(_layout(machine, fit, memory, "weights_to_last", weights, between))
    behind = _layout(machine, fit, memory, "to_first", shapes.pixels * shapes.out, between)
    changed = [_where(shapes.taps > 1, part) for part in (*before, behind)]
    return [*changed[:2], product, changed[2]]


def _where(needed: NDArray[np.bool_], part: Estimate) -> Estimate:
    """Nothing at the other points: a kernel of one tap takes either layout."""

    def kept(values: Floats) -> Floats:
        return np.where(needed, values, 0.0)

    return Estimate(
        kind=part.kind,
        seconds=kept(part.seconds),
        floor_s=kept(part.floor_s),
        dram_read_bytes=kept(part.dram_read_bytes),
        dram_write_bytes=kept(part.dram_write_bytes),
        l2_bytes=kept(part.l2_bytes),
        operations=part.operations,
        terms={name: kept(values) for name, values in part.terms.items()},
    )


def _layout(
    machine: GpuMachine, fit: ConvolutionFit, memory: MemoryBoundFit, name: str, elements: Floats, between: Floats
) -> Estimate:
    work = plain_work(elements, 2 * elements, 2 * elements, np.maximum(between, 4 * elements))
    return one_kernel(machine, memory, fit.kernels[name], work)


def implicit_product(
    machine: GpuMachine,
    fit: ConvolutionFit,
    memory: MemoryBoundFit,
    shapes: Shapes,
    read: Floats,
    written: Floats,
    between: Floats,
) -> Estimate:
    """The product alone, with the tile that takes least."""
    summed = np.ceil(shapes.channels / CHUNK) * CHUNK * shapes.taps
    tensors = _tiled(machine, fit, shapes, summed)
    crossed = _crossed(machine, shapes, summed) + written
    best = np.argmin(np.maximum(tensors, crossed / machine.cache.bytes_per_s), axis=0)[None]
    tensor, l2_bytes = (np.take_along_axis(values, best, 0)[0] for values in (tensors, crossed))
    missed = 1 - resident(machine, memory, between)
    peak = machine.memory.peak_bytes_per_s
    dram = missed * (read / memory.read_share + written / memory.write_share) / peak
    l2 = l2_bytes / machine.cache.bytes_per_s
    latency = np.full_like(dram, fit.latency_cycles / machine.clock_hz)
    launch = np.full_like(dram, machine.launch.graph_s)
    floor = _floor(machine, shapes, read + written, False)
    seconds = launch + latency + joined(memory, tensor, dram, l2)
    work = 2 * shapes.pixels * shapes.out * shapes.channels * shapes.taps
    return Estimate(
        kind="convolution",
        seconds=np.maximum(seconds, floor),
        floor_s=floor,
        dram_read_bytes=missed * read,
        dram_write_bytes=missed * written,
        l2_bytes=l2_bytes,
        operations={_unit(machine): work},
        terms={"tensor": tensor, "dram": dram, "l2": l2, "latency": latency, "launch": launch},
    )


def _crossed(machine: GpuMachine, shapes: Shapes, summed: Floats) -> Floats:
    """Bytes of operands from the L2 [ways, points]: each tile its rows and columns; two of a cluster share one side."""
    pair = 2.0 if machine.architecture.startswith("sm_9") else 1.0
    sides = 1 / np.maximum(ROWS, COLUMNS) + 1 / (pair * np.minimum(ROWS, COLUMNS))
    return np.asarray(2 * shapes.pixels * shapes.out * summed * sides)


def _tiled(machine: GpuMachine, fit: ConvolutionFit, shapes: Shapes, summed: Floats) -> Floats:
    """Seconds of whole waves of tiles [ways, points].

    Smaller tiles reach less of the rate, and so do taps, whose rows lie apart.
    """
    tiles = np.ceil(shapes.pixels / ROWS) * np.ceil(shapes.out / COLUMNS) * PARTS
    waves = np.ceil(tiles / machine.multiprocessors)
    share = fit.tensor_share * (ROWS * COLUMNS / 2**15) ** fit.small_exponent
    share = np.where(shapes.taps > 1, share * fit.taps_share * IMPLICIT, share)
    rate = getattr(machine.rates, _unit(machine)) * share
    added = fit.split_cycles + 8.0 * PARTS * shapes.pixels * shapes.out / _cache(machine)
    loop = 2.0 * ROWS * COLUMNS * summed / PARTS / np.maximum(rate, 1e-9)
    return np.asarray((waves * (fit.prologue_cycles + loop) + np.where(PARTS > 1, added, 0.0)) / machine.clock_hz)


def _cache(machine: GpuMachine) -> float:
    """Bytes a cycle of the L2: partial sums are written and read as float32."""
    return machine.cache.bytes_per_s / machine.clock_hz
