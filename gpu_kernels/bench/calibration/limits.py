"""Ceilings beside the bench's own: reads from the L2 by size of the buffer, copies, float32 and special functions."""

import ctypes
from collections.abc import Callable
from functools import partial
from typing import Any

from gpu_kernels import record, runtime
from gpu_kernels.bench.ceilings import ceilings
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, measure

SOURCE = "bench/calibration/limits.cu"
LOADS, BLOCK = 8, 256
CHUNK_BYTES = 16 * BLOCK * LOADS
MACROS = {"LOADS": LOADS}
MEGABYTES = (1, 2, 4, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 128, 256, 1024)
READ_BYTES = 8 << 30  # of one launch: some milliseconds
PER, PASSES, CHAIN = 8, 4000, 64  # blocks a multiprocessor; passes; operations of one
COPY_BYTES = 1 << 30


def all_ceilings(quick: bool, watch: record.Watch | None) -> dict[str, Any]:
    """The bench's, then those of this module; `refused` by name where one could not be measured."""
    found = ceilings(not quick, watch)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "l2_read": partial(l2_read, MEGABYTES[:3] if quick else MEGABYTES)
    }
    parts |= {"copy": copy_bandwidth, "fma": partial(chain_rate, "multiply_add", 2)}
    for name, part in (parts | {"exp2": partial(chain_rate, "exponentials", 1)}).items():
        step = guarded(part)
        if "refused" in step:
            found.setdefault("refused", {})[name] = step["refused"]
        else:
            found |= step
    return found


def reader(size_bytes: int, read_bytes: int = READ_BYTES) -> tuple[Call, int]:
    """(a launch that reads a buffer again and again, bytes that it reads)."""
    import torch

    kernel, grid = runtime.load(SOURCE, "read_again", MACROS), runtime.multiprocessors() * PER
    data = torch.randint(-(2**31), 2**31 - 1, (size_bytes // 4,), dtype=torch.int32, device="cuda")
    sums = torch.empty(grid * BLOCK, dtype=torch.int32, device="cuda")
    steps = -(-read_bytes // (grid * CHUNK_BYTES))
    arguments = data, ctypes.c_uint(size_bytes // CHUNK_BYTES), ctypes.c_uint(steps), sums
    return partial(runtime.launch, kernel, grid, BLOCK, arguments), steps * grid * CHUNK_BYTES


def l2_read(megabytes: tuple[int, ...]) -> dict[str, Any]:
    """Bytes a second by megabytes of the buffer: the L2's where it fits, DRAM's where it is far larger."""
    rates = {}
    for size in megabytes:
        run, read = reader(size << 20)
        rates[str(size)] = round(1e6 * read / measure([run], 1500.0).us)
    return {"l2_read_bytes_per_s_by_megabytes": rates}


def copy_bandwidth() -> dict[str, Any]:
    """Bytes a second, read and written, of a copy within the GPU by torch."""
    import torch

    a, b = (torch.ones(COPY_BYTES, dtype=torch.uint8, device="cuda") for _ in range(2))
    return {"copy_bytes_per_s": round(2e6 * COPY_BYTES / measure([partial(a.copy_, b)], 600.0).us)}


def chain(symbol: str, passes: int = PASSES) -> tuple[Call, int]:
    """(a launch of one of the chains, its operations)."""
    import torch

    kernel, grid = runtime.load(SOURCE, symbol, MACROS), runtime.multiprocessors() * PER
    out = torch.empty(grid * BLOCK, dtype=torch.float32, device="cuda")
    arguments = out, ctypes.c_float(0.5), ctypes.c_float(0.25), ctypes.c_uint(passes)
    return partial(runtime.launch, kernel, grid, BLOCK, arguments), grid * BLOCK * CHAIN * passes


def chain_rate(symbol: str, each: int) -> dict[str, Any]:
    """Operations a second: a multiply-add counts as two."""
    run, operations = chain(symbol)
    return {f"{symbol}_per_s": round(1e6 * each * operations / measure([run], 4000.0).us)}
