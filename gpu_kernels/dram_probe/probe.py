"""Measures on the GPU: compiles, checks every kernel against torch, times it, reads the state of the card."""

import ctypes
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from gpu_kernels.dram_probe.compiler import compile_kernels, instantiation
from gpu_kernels.dram_probe.patterns import Gather, Pattern
from gpu_kernels.dram_probe.suite import Variant

if TYPE_CHECKING:
    import torch
    from cuda.core import Kernel

PIECE_BYTES = 16
LEAD = 8  # launches ahead of the timed ones
CHECKED_ROWS = 1 << 23  # rows that the reference gathers at once
STATE = ("clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")
Launch = tuple[Pattern, Variant]


class _TorchStream:
    """torch's current stream, in the form that cuda.core takes."""

    def __cuda_stream__(self) -> tuple[int, int]:
        import torch

        return 0, torch.cuda.current_stream().cuda_stream


@dataclass(frozen=True)
class Operand:
    """What a kernel takes beside the buffer: lists of tokens (or nothing) and the sums it writes, one a block."""

    tokens: "torch.Tensor"
    sums: "torch.Tensor"


class Probe:
    """A buffer of random words on the current GPU and the compiled kernels that read it."""

    def __init__(self, launches: Sequence[Launch], seed: int) -> None:
        import torch
        from cuda.core import Device

        self.device = Device()
        self.device.set_current()
        self.stream = self.device.create_stream(_TorchStream())
        properties = torch.cuda.get_device_properties(0)
        self.multiprocessors = properties.multi_processor_count
        self.threads_resident = properties.max_threads_per_multi_processor
        self.architecture = f"sm_{properties.major}{properties.minor}"
        self.kernels = self._compiled(launches)
        blocks: dict[Pattern, int] = {}
        for pattern, variant in launches:
            blocks[pattern] = max(blocks.get(pattern, 0), self.grid(pattern, variant))
        self.operands = {pattern.name: self._operand(pattern, number) for pattern, number in blocks.items()}
        footprint = max(pattern.footprint_bytes for pattern, _ in launches)
        torch.manual_seed(seed)
        self.data = torch.empty(footprint // 4, dtype=torch.int32, device="cuda")
        self.data.random_(-(2**31), 2**31)
        torch.cuda.synchronize()

    def _compiled(self, launches: Sequence[Launch]) -> dict[str, "Kernel"]:
        names = {instantiation(pattern, variant) for pattern, variant in launches}
        code = compile_kernels(self.architecture, sorted(names))
        return {name: code.get_kernel(name) for name in names}

    def _operand(self, pattern: Pattern, blocks: int) -> Operand:
        import torch

        lists = pattern.tokens() if isinstance(pattern, Gather) else np.zeros(1, dtype=np.uint16)
        tokens = torch.from_numpy(lists.view(np.int16)).cuda()
        return Operand(tokens, torch.empty(blocks, dtype=torch.int64, device="cuda"))

    def grid(self, pattern: Pattern, variant: Variant) -> int:
        """Number of blocks."""
        if variant.resident:
            return self.multiprocessors * (self.threads_resident // variant.threads)
        return -(-pattern.useful_bytes // (PIECE_BYTES * variant.threads * variant.loads))

    def launch(self, pattern: Pattern, variant: Variant) -> None:
        """Read the stream once, without waiting."""
        from cuda.core import LaunchConfig, launch

        operand = self.operands[pattern.name]
        region = pattern.region_bytes if isinstance(pattern, Gather) else 0
        launch(
            self.stream,
            LaunchConfig(grid=self.grid(pattern, variant), block=variant.threads),
            self.kernels[instantiation(pattern, variant)],
            self.data.data_ptr(),
            operand.tokens.data_ptr(),
            ctypes.c_uint64(region),
            ctypes.c_uint32(0 if isinstance(pattern, Gather) else pattern.seed),
            ctypes.c_uint32(pattern.useful_bytes // PIECE_BYTES),
            operand.sums.data_ptr(),
        )

    def resources(self, pattern: Pattern, variant: Variant) -> tuple[int, int]:
        """Registers a thread, and bytes of local memory (spills)."""
        attributes = self.kernels[instantiation(pattern, variant)].attributes
        return attributes.num_regs, attributes.local_size_bytes

    def expected(self, pattern: Pattern) -> int:
        """Sum of the stream's words modulo 2**64, by torch at the addresses of patterns.py."""
        import torch

        words = self.data[: pattern.footprint_bytes // 4].view(-1, pattern.row_bytes // 4)
        total = 0
        for first in range(0, pattern.rows, CHECKED_ROWS):
            row = pattern.starts(first, min(pattern.rows, first + CHECKED_ROWS)) // pattern.row_bytes
            total += int(words[torch.from_numpy(row).cuda()].sum(dtype=torch.int64))
        return total

    def found(self, pattern: Pattern, variant: Variant) -> int:
        """Sum of the stream's words by the kernel; blocks that write nothing leave poison in it."""
        import torch

        blocks = self.grid(pattern, variant)
        sums = self.operands[pattern.name].sums
        sums.random_()
        self.launch(pattern, variant)
        torch.cuda.synchronize()
        return int(sums[:blocks].sum(dtype=torch.int64))

    def check(self, launches: Sequence[Launch]) -> dict[str, int]:
        """Compare every kernel with the reference; return the sums by pattern."""
        wanted = {pattern.name: self.expected(pattern) for pattern in dict(launches)}
        for pattern, variant in launches:
            found = self.found(pattern, variant)
            if found != wanted[pattern.name]:
                raise RuntimeError(f"{pattern.name} by {variant.name}: sum {found}, expected {wanted[pattern.name]}")
        return wanted

    def round(self, launches: Sequence[Launch]) -> tuple[list[float], dict[str, float]]:
        """Microseconds of each launch, one after the other, and the card's state meanwhile.

        A launch reads far more than the L2 holds, and another stream than the launch before it: nothing is reused.
        The first launches of a round are not timed: they keep the GPU busy while the host gets ahead of it.
        """
        import torch

        for pattern, variant in launches[:LEAD]:
            self.launch(pattern, variant)
        marks = []
        for pattern, variant in launches:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            self.launch(pattern, variant)
            end.record()
            marks.append((start, end))
        state = card_state()
        torch.cuda.synchronize()
        return [1e3 * start.elapsed_time(end) for start, end in marks], state


def card_state() -> dict[str, float]:
    """Clocks (MHz), power (W) and temperature, as nvidia-smi reports them at this moment."""
    query = ["nvidia-smi", f"--query-gpu={','.join(STATE)}", "--format=csv,noheader,nounits", "--id=0"]
    values = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split(",")
    return {name: float(value) for name, value in zip(STATE, values, strict=True)}


def fetch_limit(wanted: int | None = None) -> int:
    """The limit on the L2's fetch granularity in bytes; set before it is read, if wanted. It is a hint."""
    from cuda.bindings import driver

    limit = driver.CUlimit.CU_LIMIT_MAX_L2_FETCH_GRANULARITY
    if wanted is not None:
        (status,) = driver.cuCtxSetLimit(limit, wanted)
        _raise_on(status)
    status, value = driver.cuCtxGetLimit(limit)
    _raise_on(status)
    return int(value)


def fetch_limits(wanted: Sequence[int]) -> Iterator[int]:
    """Set each limit in turn, then the one that was there before."""
    before = fetch_limit()
    try:
        for value in wanted:
            yield fetch_limit(value)
    finally:
        fetch_limit(before)


def _raise_on(status: Any) -> None:
    if int(status) != 0:
        raise RuntimeError(f"CUDA driver: {status!r}")
