"""Slices straight into the memory, without a plan."""

from collections.abc import Iterable
from types import ModuleType

import numpy as np

import sim.dram
from sim.dram import FOREVER, NO_TRACE, DramSpec, IdealSpec, MemoryState
from tests.sim.slow_front import Slice


def hand_over(memory: MemoryState, number: int, item: Slice, dram: ModuleType = sim.dram) -> int:
    """The core cycle in which its last request has left."""
    start, write, segments = item
    address, size = np.array(segments, np.int64).T
    return int(dram.submit(memory.config, memory.state, NO_TRACE, number, write, address.copy(), size.copy(), start))


def serve(
    spec: DramSpec | IdealSpec, slices: list[Slice], limit: int = FOREVER, dram: ModuleType = sim.dram
) -> tuple[list[int], list[int]]:
    """Core cycles in which each slice is issued and returned; asked for returns in steps of `limit`.

    dram   the package `sim.dram` or a copy of it
    """
    memory = dram.start_memory(spec, len(slices))
    issued: list[int] = []
    returned = [-1] * len(slices)
    for number, (start, write, segments) in enumerate(slices):
        start = max([start, *issued[-1:]])
        collect(memory, returned, range(0, start, limit), dram)
        issued.append(hand_over(memory, number, (start, write, segments), dram))
    steps = 1 if limit == FOREVER else 10**9
    collect(memory, returned, (limit * (i + 1) for i in range(steps)), dram)
    return issued, returned


def collect(memory: MemoryState, returned: list[int], limits: Iterable[int], dram: ModuleType = sim.dram) -> None:
    """Ask for returns up to each limit until none is out."""
    for limit in limits:
        number = 0
        while number >= 0:
            time, number = dram.next_return(memory.config, memory.state, NO_TRACE, limit)
            if number >= 0:
                assert returned[number] < 0
                assert time >= max(returned)  # in time order
                returned[number] = int(time)
        if -1 not in returned:
            return


def random_slices(rng: np.random.Generator, count: int, space: int) -> list[Slice]:
    """Slices at growing times, a third of them writes; segments unaligned and of any length to 200 bytes."""
    starts = np.cumsum(rng.choice([0, 0, 5, 60], count))
    return [
        (
            int(start),
            bool(rng.random() < 0.3),
            list(zip(rng.integers(0, space, n), rng.integers(1, 200, n), strict=True)),
        )
        for start, n in zip(starts, rng.integers(1, 4, count), strict=True)
    ]
