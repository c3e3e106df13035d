"""DRAM as the fetcher sees it: one wide pipe, or channels with a FIFO each."""

import simpy

from dataflow.spatten.elements.clock import Process
from sim.dram import IdealSpec


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
