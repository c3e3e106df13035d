"""DRAM as the fetcher sees it: one wide pipe, or channels with a request FIFO each. No banks, rows or refresh."""

from dataclasses import dataclass

import simpy

from dataflow.spatten.elements.clock import Process
from dataflow.spatten.elements.fifo import Fifo
from dataflow.spatten.elements.head import Countdown
from sim.dram import IdealSpec


@dataclass(frozen=True)
class ChannelSpec:
    """Channels that serve a burst in `burst_cycles`, data `latency_cycles` later; bursts interleaved over them.

    The fetcher sends up to `request_lanes` requests a cycle into FIFOs of `fifo_depth` requests.
    """

    channels: int
    fifo_depth: int
    request_lanes: int
    burst_bytes: int
    burst_cycles: int
    latency_cycles: int


class PipeMemory:
    """`transfer_bytes` in `transfer_cycles`, every slice from a cycle of its own; data are back `latency` later."""

    def __init__(self, env: simpy.Environment, spec: IdealSpec) -> None:
        self.env, self.spec = env, spec

    def send(self, address: int, size_bytes: int) -> Process:
        """Until the last request has left; returns an event: all data of the slice are back."""
        beats = -(-size_bytes * self.spec.transfer_cycles // self.spec.transfer_bytes)
        for _ in range(beats):
            yield self.env.timeout(1)
        return self.env.timeout(self.spec.latency_cycles)


class ChannelMemory:
    """A full FIFO holds up the fetcher, whatever room the other channels have: head of line."""

    def __init__(self, env: simpy.Environment, spec: ChannelSpec) -> None:
        self.env, self.spec = env, spec
        self.fifos = [Fifo(env, f"channel {n}", spec.fifo_depth) for n in range(spec.channels)]
        self.slices = [simpy.Store(env) for _ in self.fifos]
        for fifo, slices in zip(self.fifos, self.slices, strict=True):
            env.process(self._serve(fifo, slices))

    def send(self, address: int, size_bytes: int) -> Process:
        """Until the last request is in its FIFO; returns an event: all data of the slice are back."""
        bursts = range(address // self.spec.burst_bytes, (address + size_bytes - 1) // self.spec.burst_bytes + 1)
        rest = Countdown(self.env, len(bursts))
        for sent, burst in enumerate(bursts, 1):
            channel = burst % self.spec.channels
            yield from self.fifos[channel].put(1)
            self.slices[channel].put(rest)
            if sent % self.spec.request_lanes == 0 or sent == len(bursts):
                yield self.env.timeout(1)
        return rest.done

    def _serve(self, fifo: Fifo, slices: simpy.Store) -> Process:
        """Burst after burst."""
        while True:
            rest = yield slices.get()
            yield self.env.timeout(self.spec.burst_cycles)
            fifo.take(1)
            self.env.process(self._return(rest))

    def _return(self, rest: Countdown) -> Process:
        yield self.env.timeout(self.spec.latency_cycles)
        rest.tick()


def make_memory(env: simpy.Environment, spec: IdealSpec | ChannelSpec) -> PipeMemory | ChannelMemory:
    """The memory of that description."""
    return ChannelMemory(env, spec) if isinstance(spec, ChannelSpec) else PipeMemory(env, spec)
