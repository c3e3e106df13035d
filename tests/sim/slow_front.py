"""The plan's way into the memory in the plainest form, tick by tick, on top of the slow controller.

Written from the description of the front end: a slice is cut into bursts, `request_lanes` of them leave a memory cycle
in their order, each needs a place in the FIFO of its pseudo-channel, and one that finds none holds up all behind it.
Into each channel goes one burst a memory cycle.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sim.dram.spec import DramSpec
from tests.sim.slow_dram import Channel
from tests.sim.slow_requests import Burst, Request, cut

Segments = Sequence[tuple[int, int]]
Slice = tuple[int, bool, Segments]  # earliest core cycle, write, [(address, bytes)]


def burst_numbers(spec: DramSpec, segments: Segments) -> Iterator[int]:
    """Bursts that a slice touches; one that two neighbouring segments share is fetched once."""
    last = -1
    for address, size in segments:
        for number in range(address // spec.burst_bytes, (address + size - 1) // spec.burst_bytes + 1):
            if number != last:
                yield number
            last = number


def cut_slice(spec: DramSpec, write: bool, segments: Segments) -> list[Burst]:
    """A request of its own for each burst: they become available one by one."""
    return cut(spec, ((Request(0, 1), n * spec.burst_bytes, write) for n in burst_numbers(spec, segments)), 1)


@dataclass(eq=False)
class Port(Channel):
    """A channel that notes when the last data of each burst are back or sent."""

    done: dict[Burst, int] = field(default_factory=dict)
    next_arrival: int = 0

    def transfer(self, burst: Burst, now: int) -> None:
        super().transfer(burst, now)
        latency = self.spec.write_latency if burst.write else self.spec.read_latency
        self.done[burst] = now + (latency + self.spec.burst) * self.spec.edges


class SlowFront:
    """Slices one after the other, each from its own core cycle on or when the one before has left."""

    def __init__(self, spec: DramSpec, slices: Sequence[Slice]) -> None:
        self.spec, self.slices = spec, slices
        self.ports = [Port(spec, number) for number in range(spec.channels)]
        self.bursts = [cut_slice(spec, write, segments) for _, write, segments in slices]
        self.issued: list[int] = []  # core cycles
        self.sent = 0  # bursts of the present slice
        self.cycle_start = self.lane = 0
        self.start = self.memory_time(slices[0][0])

    def memory_time(self, core: int) -> int:
        return -(-core * self.spec.core_ps * self.spec.edges // self.spec.memory_ps)

    def core_time(self, tick: int) -> int:
        return -(-tick * self.spec.memory_ps // (self.spec.core_ps * self.spec.edges))

    def run(self) -> tuple[list[int], list[int]]:
        """Core cycles in which each slice has been issued and has returned."""
        now = 0
        while not self.is_over():
            self.at_time(now)
            now += 1
            for port in self.ports:
                port.tick(now)
        done = {burst: time for port in self.ports for burst, time in port.done.items()}
        return self.issued, [self.core_time(max(done[b] for b in bursts)) for bursts in self.bursts]

    def is_over(self) -> bool:
        done = sum(len(port.done) for port in self.ports)
        return len(self.issued) == len(self.slices) and done == sum(map(len, self.bursts))

    def at_time(self, now: int) -> None:
        """The front sends what it can; a channel offers its heads once, at the latest when the front is done."""
        offered: set[int] = set()
        while len(self.issued) < len(self.slices) and now >= self.start:
            bursts = self.bursts[len(self.issued)]
            if self.sent == len(bursts):
                if now == self.cycle_start + self.spec.edges:
                    self.end_slice(now)
                    continue
                break
            if not self.send(bursts[self.sent], now, offered):
                break
        for port in self.ports:
            if port.number not in offered:
                port.offer(now)

    def send(self, burst: Burst, now: int, offered: set[int]) -> bool:
        """Whether the burst has left: a lane must be free, and a place in its FIFO, perhaps just now."""
        new_cycle = self.sent == 0 or now >= self.cycle_start + self.spec.edges
        if not new_cycle and self.lane == self.spec.request_lanes:
            return False
        port = self.ports[burst.channel]
        fifo = port.fifos[burst.pseudo]
        if len(fifo) == self.spec.fifo_depth and port.number not in offered:
            port.offer(now)
            offered.add(port.number)
        if len(fifo) == self.spec.fifo_depth:
            return False
        if self.sent == 0 or now > self.cycle_start:  # behind a stall, a new memory cycle begins
            self.cycle_start, self.lane = now, 0
        self.lane += 1
        self.sent += 1
        burst.request.available = max(now, port.next_arrival)
        port.next_arrival = burst.request.available + self.spec.edges
        fifo.append(burst)
        return True

    def end_slice(self, now: int) -> None:
        """The last requests of a slice took this memory cycle; the next slice has the one after."""
        self.issued.append(self.core_time(now))
        self.sent = 0
        if len(self.issued) < len(self.slices):
            begin = max(self.slices[len(self.issued)][0], self.issued[-1])
            self.start = max(now, self.memory_time(begin))
