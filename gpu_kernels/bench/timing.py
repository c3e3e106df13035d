"""The one way in which everything here is timed.

A CUDA graph calls once for each of several operand sets, in turn, until it is busy for about BUSY_US. The sets that
change take ROTATION times the L2 together, so that nothing is read from there that an earlier call left; activations
and outputs, shared by all sets, stay warm. A time is the median of REPLAYS replays over the number of calls: gaps
between launches are those inside a graph. It is taken GRAPHS times; the lowest counts, the others tell the noise.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

ROTATION = 4  # times the L2
REPLAYS, WARM, GRAPHS = 5, 2, 2
BUSY_US = 1500.0  # of one replay: the clock of events ticks in half microseconds
MOST_CALLS = 256  # in one graph
Call = Callable[[], Any]


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: median, least and most over replays of the faster graph; the slower one's median."""

    us: float
    least_us: float
    most_us: float
    slower_us: float
    sets: int
    calls: int

    def row(self) -> dict[str, float | int]:
        """As records hold it."""
        return {name: round(x, 4) if isinstance(x, float) else x for name, x in asdict(self).items()}


def sets_for(bytes_changing: int, l2_bytes: int) -> int:
    """How many operand sets outgrow the L2."""
    return max(1, -(-ROTATION * l2_bytes // max(1, bytes_changing)))


def calls_for(sets: int, expected_us: float) -> int:
    """How many calls one graph holds: whole rounds over the sets, busy for BUSY_US if a call takes what is expected."""
    wanted = min(MOST_CALLS, int(BUSY_US / max(expected_us, 1e-3)) + 1)
    return sets * max(1, -(-wanted // sets))


def measure(calls: Sequence[Call], expected_us: float) -> Timing:
    """Time a call, one of `calls` for each operand set; all are enqueued on torch's current stream.

    expected_us: about what one takes (a floor will do); it decides how often a replay calls.
    """
    count = calls_for(len(calls), expected_us)
    graphs = [[one / count for one in replayed_us(captured(calls, count))] for _ in range(GRAPHS)]
    times = min(graphs, key=median)
    return Timing(median(times), min(times), max(times), max(map(median, graphs)), len(calls), count)


def captured(calls: Sequence[Call], count: int) -> Any:
    """A graph of `count` calls in turn. The first is called twice before, so that everything is loaded and chosen."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):  # torch.cuda.graph would collect garbage and empty the allocator each time
        for _ in range(2):
            calls[0]()
        stream.synchronize()
        graph.capture_begin()
        try:
            for index in range(count):
                calls[index % len(calls)]()
        finally:
            graph.capture_end()
    torch.cuda.current_stream().wait_stream(stream)
    return graph


def replayed_us(graph: Any) -> list[float]:
    """Microseconds of each of REPLAYS replays, enqueued one behind the other after WARM unmeasured ones."""
    import torch

    for _ in range(WARM):
        graph.replay()
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(REPLAYS)]
    for begin, end in marks:
        begin.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return [1e3 * begin.elapsed_time(end) for begin, end in marks]
