"""One point to measure: what its row says, how its calls are made, how it is timed. No torch outside of functions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, measure, sets_for

Row = dict[str, Any]
LAUNCH_US = 3.0  # of a small kernel: what is expected beside bytes and operations


@dataclass(frozen=True)
class Job:
    """A row in the making.

    row              part, name, the shape's fields, held_out; whatever else is known beforehand
    prepare          sets -> one call for each set of what changes (weights, cache); each gives its output, or nothing
    changing_bytes   of one such set; 0: everything is shared, and as warm as the caches keep it
    expected_us      about what a call takes
    """

    row: Row
    prepare: Callable[[int], Sequence[Call]]
    changing_bytes: int = 0
    expected_us: float = 10.0


def measured(job: Job, l2_bytes: int) -> Row:
    """The job's row with its times, or with the reason why there are none."""
    found = job.row | guarded(lambda: _timed(job, l2_bytes))
    _tidy()
    return found


def _tidy() -> None:
    """Give memory of past graphs back before it fills the card: each graph has a pool of its own."""
    import torch

    idle = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if idle > 0.25 * torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory:
        torch.cuda.empty_cache()


def _timed(job: Job, l2_bytes: int) -> Row:
    sets = sets_for(job.changing_bytes, l2_bytes) if job.changing_bytes else 1
    calls = job.prepare(sets)
    if not finite(calls[0]()):
        return {"refused": "wrong: a number of the output is not finite"}
    return dict(measure(calls, job.expected_us).row())


def finite(result: Any) -> bool:
    """Whether a tensor holds no NaN and no infinity; true for whatever is no tensor of floating numbers."""
    if not (hasattr(result, "is_floating_point") and result.is_floating_point() and result.element_size() > 1):
        return True
    return bool(result.isfinite().all())


def streamed(call: Call, expected_us: float, rounds: int = 5) -> Row:
    """Microseconds of a call, enqueued by the host again and again: events around some milliseconds of them."""
    import torch

    count = max(2, min(100, int(3000 / max(expected_us, 1e-3))))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(rounds + 2)]
    marks[0].record()
    for mark in marks[1:]:
        for _ in range(count):
            call()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(1e3 * marks[i].elapsed_time(marks[i + 1]) / count for i in range(1, rounds + 1))
    middle = times[rounds // 2]
    return {"us": round(middle, 4), "least_us": round(times[0], 4), "most_us": round(times[-1], 4), "calls": count}


def expected(bytes_moved: float, operations: float = 0.0, per_s: float = 1.0, bytes_per_s: float = 3.5e12) -> float:
    """Microseconds, about: the longer of bytes and operations, and a launch."""
    return LAUNCH_US + 1e6 * max(bytes_moved / bytes_per_s, operations / per_s)
