"""The card's own limits, measured in the run that uses them: read bandwidth, INT8 by wgmma, launches, torch at 8192."""

import ctypes
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

from gpu_kernels import record, runtime
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, captured, measure, replayed_us

SOURCE = "bench/ceilings.cu"
READ_BYTES = 4 << 30
BLOCK, LOADS = 256, 8
MACROS = {"LOADS": LOADS}
GROUPS, ROWS, COLUMNS, DEPTH, STAGES = 2, 64, 256, 128, 4  # as in ceilings.cu
SHARED_BYTES = (STAGES * COLUMNS + GROUPS * ROWS) * DEPTH + 1024
PASSES = 2000  # some 4 ms: filling shared memory, before, takes a few microseconds
MMA_PASSES = 20_000  # some 4 ms
SUSTAINED_S = 2.0
WGMMA = {"registers": "wgmma_registers", "shared": "wgmma_shared"}
SIZE = 8192  # of the square products by torch
SEED = 2026


def ceilings(sustained: bool = True, watch: record.Watch | None = None) -> dict[str, Any]:
    """Every ceiling by name: bytes and operations a second, microseconds; `refused` where one could not be measured."""
    found: dict[str, Any] = {}
    parts: dict[str, Callable[[], dict[str, Any]]] = {"read": read_bandwidth, "launch": launches, "mma": mma_rate}
    parts |= {f"int8_{name}": partial(int8_rate, symbol) for name, symbol in WGMMA.items()}
    if sustained:
        parts |= {"int8_sustained": partial(sustained_int8, watch), "torch": torch_products}
    for name, part in parts.items():
        step = guarded(part)
        if "refused" in step:
            found.setdefault("refused", {})[name] = step["refused"]
        else:
            found |= step
    return found


def read_bandwidth() -> dict[str, Any]:
    """Bytes a second of the fastest of several launches that read READ_BYTES of random words once; sums are checked."""
    import torch

    draw = torch.Generator("cuda").manual_seed(SEED)
    data = torch.empty(READ_BYTES // 4, dtype=torch.int32, device="cuda").random_(-(2**31), 2**31, generator=draw)
    total = int(data.sum(dtype=torch.int64)) % 2**32
    rates = {name: _read_rate(data, per, total) for name, per in (("resident", 8), ("a chunk a block", 0))}
    return {"read_bytes_per_s": max(rates.values()), "read_rates": rates}


def _read_rate(data: Any, per: int, total: int) -> float:
    """`per` blocks a multiprocessor, or as many as there are chunks where it is 0."""
    import torch

    kernel = runtime.load(SOURCE, "read_once", MACROS)
    pieces = data.numel() // 4
    grid = runtime.multiprocessors() * per or pieces // (BLOCK * LOADS)
    sums = torch.full((grid * BLOCK // 32,), -1, dtype=torch.int32, device="cuda")
    arguments = data, ctypes.c_uint64(pieces), sums
    timing = measure([lambda: runtime.launch(kernel, grid, BLOCK, arguments)], 1e6 * READ_BYTES / 4.5e12)
    if int(sums.sum(dtype=torch.int64)) % 2**32 != total:
        raise ArithmeticError(f"read_once, {grid} blocks: its sum is not that of the buffer")
    return round(READ_BYTES / timing.us * 1e6)


@dataclass(frozen=True)
class Products:
    """A launch of PASSES passes on random operands, its operations, and the cycles that the last one took."""

    run: Call
    operations: float
    cycles: Any

    def rates(self, us: float) -> tuple[int, int]:
        """(operations a second, cycles a second) of a launch that took so long."""
        return round(self.operations / us * 1e6), round(int(self.cycles) / us * 1e6)


def wgmma_products(symbol: str) -> Products:
    """One of WGMMA; one pass is checked against float64 first."""
    import torch

    kernel = runtime.load(SOURCE, symbol, MACROS, SHARED_BYTES)
    draw = torch.Generator("cuda").manual_seed(SEED)
    shapes = (GROUPS, ROWS, DEPTH), (STAGES, COLUMNS, DEPTH)
    a, b = (torch.randint(-128, 128, one, generator=draw, dtype=torch.int8, device="cuda") for one in shapes)
    sums = torch.full((GROUPS, ROWS, COLUMNS), 1 << 30, dtype=torch.int32, device="cuda")
    cycles = torch.zeros(1, dtype=torch.int64, device="cuda")

    def run(passes: int) -> None:
        grid, block = runtime.multiprocessors(), 128 * GROUPS
        runtime.launch(kernel, grid, block, (a, b, sums, cycles, ctypes.c_int(passes)), SHARED_BYTES)

    run(1)
    expected = a.double() @ b.double().sum(dim=0).T
    if not torch.equal(sums.double(), expected):
        raise ArithmeticError(f"{symbol}: {int((sums.double() != expected).sum())} of {sums.numel()} sums are wrong")
    operations = 2.0 * runtime.multiprocessors() * PASSES * GROUPS * ROWS * COLUMNS * DEPTH * STAGES
    return Products(partial(run, PASSES), operations, cycles)


def int8_rate(symbol: str) -> dict[str, Any]:
    """Operations a second of some milliseconds of products, A from registers or from shared memory; the clock."""
    products, name = wgmma_products(symbol), symbol.partition("_")[2]
    rate, clock = products.rates(measure([products.run], 1e6 * products.operations / 1.9e15).us)
    return {f"int8_{name}_per_s": rate, f"int8_{name}_clock_hz": clock}


def sustained_int8(watch: record.Watch | None) -> dict[str, Any]:
    """Operations a second over SUSTAINED_S on random operands, with clocks and power of its second half."""
    import torch

    products = wgmma_products(WGMMA["registers"])
    graph = captured([products.run], 1)
    rounds = max(1, int(SUSTAINED_S * 1e6 / median(replayed_us(graph))) // 2)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(rounds):
            graph.replay()
        mark.record()
    marks[1].synchronize()
    begin = time.time()
    marks[2].synchronize()
    state = watch.since(begin) if watch else {}
    first, second = (products.rates(1e3 * marks[i].elapsed_time(marks[i + 1]) / rounds) for i in range(2))
    row = {"seconds": round(marks[0].elapsed_time(marks[2]) / 1e3, 3), "first_half_per_s": first[0], "state": state}
    return {"int8_sustained_per_s": second[0], "int8_sustained_clock_hz": second[1], "int8_sustained": row}


def mma_products() -> tuple[Call, float]:
    """(a launch of products by `mma.sync`, operands in registers, its operations), checked first."""
    import torch

    kernel = runtime.load(SOURCE, "mma_sync", MACROS)
    draw = torch.Generator("cuda").manual_seed(SEED)
    a, b = (torch.randint(-128, 128, (n, 32), generator=draw, dtype=torch.int8, device="cuda") for n in (64, 32))
    sums = torch.full((64, 32), 1 << 30, dtype=torch.int32, device="cuda")
    grid, warps = 2 * runtime.multiprocessors(), BLOCK // 32

    def run(passes: int) -> None:
        runtime.launch(kernel, grid, BLOCK, (a, b, sums, ctypes.c_int(passes)))

    run(1)
    if not torch.equal(sums.double(), a.double() @ b.double().T):
        raise ArithmeticError("mma_sync: its sums are wrong")
    operations = 2.0 * 64 * 32 * 32 * grid * warps * MMA_PASSES
    return partial(run, MMA_PASSES), operations


def mma_rate() -> dict[str, Any]:
    """Operations a second by `mma.sync`: all that there is before Hopper."""
    run, operations = mma_products()
    return {"mma_per_s": round(operations / measure([run], 1e6 * operations / 1.2e15).us * 1e6)}


def launches() -> dict[str, Any]:
    """Microseconds that an empty kernel adds to a graph, started after the one before it or early."""
    kernel = runtime.load(SOURCE, "empty", MACROS)
    found = {}
    for name, early in (("launch_us", False), ("launch_early_us", True)):
        found[name] = round(measure([partial(runtime.launch, kernel, 1, 32, (), early=early)], 2.0).us, 4)
    return found


def torch_products() -> dict[str, Any]:
    """Operations a second of square products in bfloat16, INT8 and FP8 through torch."""
    from gpu_kernels.bench.gemm_peers import PEERS
    from gpu_kernels.bench.shapes import Gemm

    shape = Gemm("square", SIZE, SIZE, SIZE)
    found = {}
    for name, peer in PEERS.items():
        calls, fault = peer(shape, 1)
        if fault:
            raise ArithmeticError(f"{name}: {fault}")
        found[f"{name}_{SIZE}_per_s"] = round(shape.operations / measure(calls, 600.0).us * 1e6)
    return found
