"""Q-K-V fetcher (section IV-A): one slice at a time, the one that has been ready longest; then K, V, Q, LSBs."""

from dataclasses import dataclass

import simpy

from dataflow.spatten.elements.clock import Process, Turn
from dataflow.spatten.elements.head import Log
from dataflow.spatten.elements.memory import ChannelMemory, PipeMemory

KEY, VALUE, QUERY, KEY_LSB, OUTPUT = range(5)  # the order in which slices of one head and one cycle go


@dataclass(eq=False)
class Slice:
    """A request: so many bytes of an operand of a head; `here` when they are in the SRAM or the registers."""

    head: int
    operand: int
    block: int
    size_bytes: int
    here: simpy.Event


class Fetcher:
    """Sends the requests of one slice after another; earlier slices may still be on their way back."""

    def __init__(self, env: simpy.Environment, memory: PipeMemory | ChannelMemory, latency: int, log: Log) -> None:
        self.env, self.memory, self.latency, self.log, self.address = env, memory, latency, log, 0
        self.turn: Turn[Slice] = Turn(env)
        env.process(self.run())

    def ask(self, slice_: Slice) -> None:
        """The slice is wanted from now on. Slices lie one behind the other in DRAM (a pipe does not care)."""
        self.turn.ask((slice_.head, slice_.operand, slice_.block), slice_)

    def run(self) -> Process:
        """Request after request."""
        while True:
            slice_ = yield from self.turn.next()
            start = self.env.now
            back = yield from self.memory.send(self.address, slice_.size_bytes)
            self.address += slice_.size_bytes
            self.env.process(self._return(slice_, back, start, self.env.now))

    def _return(self, slice_: Slice, back: simpy.Event, start: int, left: int) -> Process:
        """Data crossbar, FIFO and bitwidth converter."""
        yield back
        yield self.env.timeout(self.latency)
        self.log.add("fetcher", (slice_.head, slice_.operand, slice_.block), start, left, self.env.now)
        slice_.here.succeed()
