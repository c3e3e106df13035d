"""Passes of a forward function, timed: by events of the device, and by the host's clock."""

import math
import time
from collections.abc import Callable
from itertools import pairwise
from statistics import median
from typing import Any

Forward = Callable[[], Any]
SECONDS = 1.5  # of the loop that is timed back to back, long enough for the energy counter
PASSES = (5, 300)  # at least and at most
WARM_UP = 2


def synchronize(device: str) -> None:
    """Wait for the device."""
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()


def back_to_back(forward: Forward, passes: int, device: str) -> list[float]:
    """Microseconds from each pass to the next, with no waiting between: by events on the device's time line, or on the
    host where there is no such device."""
    if not device.startswith("cuda"):
        return [_host_us(forward) for _ in range(passes)]
    import torch

    events = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
    synchronize(device)
    events[0].record()
    for event in events[1:]:
        forward()
        event.record()
    synchronize(device)
    return [1000 * one.elapsed_time(two) for one, two in pairwise(events)]


def one_by_one(forward: Forward, passes: int, device: str) -> dict[str, float]:
    """Medians of passes that the host waits for: wall_us to the end, issue_us until the host has issued all work."""
    walls, issues = [], []
    for _ in range(passes):
        synchronize(device)
        begin = time.perf_counter()
        forward()
        issued = time.perf_counter()
        synchronize(device)
        walls.append(1e6 * (time.perf_counter() - begin))
        issues.append(1e6 * (issued - begin))
    return {"wall_us": median(walls), "issue_us": median(issues)}


def warm_up(forward: Forward, device: str, passes: int = WARM_UP) -> float:
    """Seconds of one more pass after `passes` that do not count."""
    for _ in range(passes):
        forward()
    synchronize(device)
    begin = time.perf_counter()
    forward()
    synchronize(device)
    return time.perf_counter() - begin


def enough(seconds: float, budget_s: float = SECONDS) -> int:
    """Passes of `seconds` each that fill the budget, within PASSES."""
    least, most = PASSES
    return min(most, max(least, math.ceil(budget_s / max(seconds, 1e-9))))


def _host_us(forward: Forward) -> float:
    begin = time.perf_counter()
    forward()
    return 1e6 * (time.perf_counter() - begin)
