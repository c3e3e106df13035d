"""`Plan`: one workload on one machine as integer arrays. Knows no accelerator."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

IN_ORDER = 0
OLDEST_READY = 1


@dataclass(frozen=True)
class Unit:
    """One kind of server.

    lanes     identical servers, >= 1
    order     IN_ORDER: tasks start in index order; one that waits for its inputs holds up those behind it.
              OLDEST_READY: when a lane is free, the task that has been ready longest takes it, ties by
              index, decided after all arrivals of that cycle.
    latency   cycles between leaving the unit and the result being usable, >= 0
    """

    name: str
    lanes: int = 1
    order: int = IN_ORDER
    latency: int = 0


@dataclass(frozen=True)
class Slices:
    """What the memory tasks ask for, in the order of their index: slice s is segments ptr[s]..ptr[s+1].

    ptr, address, size_bytes   int64 [S+1], [.], [.]; a segment is contiguous and not empty
    write                      uint8 [S]
    operand                    int64 [S], index into operand_names
    """

    ptr: Ints
    address: Ints
    size_bytes: Ints
    write: NDArray[np.uint8]
    operand: Ints
    operand_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.operand)


NO_SLICES = Slices(
    np.zeros(1, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.int64),
    np.zeros(0, np.uint8),
    np.zeros(0, np.int64),
    (),
)


@dataclass(frozen=True)
class Plan:
    """Tasks, the unit each needs, how long it holds it, and what it waits for.

    unit      int32 [T]
    amount    int32 [T]     cycles that the task holds its lane (>= 1 on an OLDEST_READY unit, >= 0 else);
                            for a task of the memory unit: the number of its slice
    dep_ptr   int32 [T+1]   row pointers into dep
    dep       int32 [E]     d >= 0: wait until task d has finished (its result is usable);
                            ~d (negative): wait until task d has left its unit (its buffer is free).
                            Always tasks with a smaller index.
    memory_unit             index of the unit whose tasks are memory slices (one lane, OLDEST_READY), or -1
    """

    units: tuple[Unit, ...]
    unit: NDArray[np.int32]
    amount: NDArray[np.int32]
    dep_ptr: NDArray[np.int32]
    dep: NDArray[np.int32]
    memory_unit: int = -1
    slices: Slices = NO_SLICES

    def __len__(self) -> int:
        return len(self.unit)

    def check(self) -> None:
        """Raise ValueError where the arrays break the rules above. Costs one pass; planners are tested with it."""
        tasks = np.arange(len(self))
        sources = np.where(self.dep >= 0, self.dep, ~self.dep)
        if (sources >= np.repeat(tasks, np.diff(self.dep_ptr))).any():
            raise ValueError("plan.dep: a task depends on itself or on a later task")
        arbitrated = np.array([unit.order == OLDEST_READY for unit in self.units])[self.unit]
        on_memory = self.unit == self.memory_unit
        if (self.amount[arbitrated & ~on_memory] < 1).any():
            raise ValueError("plan.amount: must be >= 1 on an oldest-ready unit")
        if (self.amount < 0).any():
            raise ValueError("plan.amount: must be >= 0")
        if not np.array_equal(self.amount[on_memory], np.arange(len(self.slices))):
            raise ValueError("plan.amount: memory tasks must name their slices in order")
        if (np.diff(self.slices.ptr) < 1).any() or (self.slices.size_bytes < 1).any():
            raise ValueError("plan.slices: a slice must ask for at least one byte")
        if self.memory_unit >= 0:
            memory = self.units[self.memory_unit]
            if memory.lanes != 1 or memory.order != OLDEST_READY:
                raise ValueError("plan.units: the memory unit has one lane and takes the oldest ready slice")


@dataclass(frozen=True)
class Times:
    """When each task took its lane, left it, and had its result usable; int64 [T] each, in cycles.

    For a memory task these are: taken by the fetcher, last request issued, last data returned.
    """

    start: Ints
    free: Ints
    finish: Ints

    @property
    def makespan(self) -> int:
        """Cycles until the last result is usable."""
        return int(self.finish.max(initial=0))
