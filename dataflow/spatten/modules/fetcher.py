"""The Q-K-V fetcher: 32 address lanes, an address crossbar to the channels, a data crossbar back (section IV-B).

A gather of vectors becomes bursts of the DRAM; request i waits in the FIFO of lane i mod lanes. Each cycle every
channel takes the oldest request that stands at the head of a lane and is for it: at most one a channel and cycle.
Data come back tagged with their request, in the order that the channels like, and leave in the order of requests.
Left out here: DRAM timing and full FIFOs, which `sim.dram` has.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from accel.address_map import Xor
from accel.machine import load_standard
from accel.memory import Memory, address_fields, address_xor

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Channels:
    """Which channel a burst belongs to: the machine's address map."""

    count: int
    burst_bytes: int
    fields: tuple[tuple[str, int], ...]
    xor: tuple[Xor, ...]

    @classmethod
    def of(cls, memory: Memory) -> "Channels":
        """The map of a machine's memory section."""
        standard = load_standard(memory.standard)
        fields, xor = address_fields(memory, standard), address_xor(memory, standard)
        return cls(memory.channels, standard.organisation.burst_bytes, fields, xor)

    def of_bursts(self, bursts: Ints) -> Ints:
        """Channel of each burst number (address / burst_bytes)."""
        values = self._cut(bursts)
        for name, bit, other, other_bit in self.xor:
            values[name] ^= (values[other] >> other_bit & 1) << bit
        return values["channel"]

    def _cut(self, bursts: Ints) -> dict[str, Ints]:
        """The value of each address field; a number of channels that is no power of two is divided out."""
        values = {name: np.zeros_like(bursts) for name in ("channel", *(name for name, _ in self.fields))}
        taken = dict.fromkeys(values, 0)
        rest = bursts
        for name, width in self.fields:
            if name == "channel" and self.count & (self.count - 1):
                rest, values[name] = np.divmod(rest, self.count)
                continue
            values[name] = values[name] | (rest & ((1 << width) - 1)) << taken[name]
            rest, taken[name] = rest >> width, taken[name] + width
        return values


def segments(base: int, vector_bytes: int, positions: Ints) -> tuple[Ints, Ints]:
    """(address, size) of the vectors at those positions of an operand's plane that begins at `base`."""
    address = base + np.asarray(positions, np.int64) * vector_bytes
    return address, np.full(len(address), vector_bytes, np.int64)


def bursts_of(address: Ints, size: Ints, burst_bytes: int) -> Ints:
    """Burst numbers that the segments touch, in order; two neighbours that share one fetch it once."""
    first, last = address // burst_bytes, (address + size - 1) // burst_bytes
    touched = [np.arange(a, b + 1) for a, b in zip(first, last, strict=True)]
    bursts = np.concatenate([np.zeros(0, np.int64), *touched])
    return bursts[np.concatenate([[True], bursts[1:] != bursts[:-1]])[: len(bursts)]]


@njit(cache=True)
def _send(channel, lanes, channels):  # type: ignore[no-untyped-def]
    """Cycle in which each request passes the crossbar; FIFOs of any depth."""
    n = len(channel)
    sent, head = np.full(n, -1, np.int64), np.arange(lanes)
    left, cycle = n, 0
    while left > 0:
        granted = np.full(channels, n, np.int64)  # oldest head for each channel
        for lane in range(lanes):
            request = head[lane]
            if request < n and request < granted[channel[request]]:
                granted[channel[request]] = request
        for request in granted:
            if request < n:
                sent[request] = cycle
                head[request % lanes] += lanes
                left -= 1
        cycle += 1
    return sent


def send_cycles(channel: Ints, lanes: int, channels: int) -> Ints:
    """Cycle (from 0) in which each request leaves for its channel: the crossbar, step by step, int64 [requests]."""
    found: Ints = _send(np.asarray(channel, np.int64), lanes, channels)
    return found


def least_cycles(channel: Ints, lanes: int) -> int:
    """No gather is sent in fewer cycles: the busiest channel takes one a cycle, the lanes `lanes` a cycle.

    Reached where every `lanes` consecutive requests spread evenly over the channels.
    """
    if len(channel) == 0:
        return 0
    return max(int(np.bincount(channel).max()), -(-len(channel) // lanes))


def return_cycles(back: Ints, bursts_a_cycle: int) -> Ints:
    """Cycle in which each burst leaves the data crossbar in the order of requests.

    back             cycle in which the channel delivers each request's data, in any order
    bursts_a_cycle   how many the data lanes take: 32 lanes of 16 B (Table I) are 16 bursts of 32 B
    """
    left = np.zeros(len(back), np.int64)
    for i, cycle in enumerate(back):
        before = left[i - 1] if i else 0
        room = left[i - bursts_a_cycle] + 1 if i >= bursts_a_cycle else 0
        left[i] = max(cycle, before, room)
    return left


def gather(dram: Bytes, address: Ints, size: Ints, burst_bytes: int, order: Sequence[int] | None = None) -> Bytes:
    """The bytes of the segments one after another, as the data crossbar hands them on, uint8 [sum(size)].

    dram    all bytes, uint8
    order   the order in which bursts come back from the channels; default: as requested
    Raises ValueError for a segment outside of the memory.
    """
    if len(address) and (address.min() < 0 or int((address + size).max()) > len(dram)):
        raise ValueError(f"gather: segments must lie within the {len(dram)} bytes of the memory, got {address.max()}")
    bursts = bursts_of(address, size, burst_bytes)
    padded = np.concatenate([dram, np.zeros(-len(dram) % burst_bytes, np.uint8)]).reshape(-1, burst_bytes)
    window = np.zeros((len(bursts), burst_bytes), np.uint8)
    for tag in range(len(bursts)) if order is None else order:
        window[tag] = padded[bursts[tag]]  # the tag says which place of the window is meant
    return _cut_out(window.reshape(-1), bursts, address, size, burst_bytes)


def _cut_out(window: Bytes, bursts: Ints, address: Ints, size: Ints, burst_bytes: int) -> Bytes:
    """Drop what the bursts hold besides the segments. A burst that comes again later stands in the window again."""
    parts, at = [], 0
    for start, length in zip(address, size, strict=True):
        first, last = start // burst_bytes, (start + length - 1) // burst_bytes
        at -= int(at > 0 and bursts[at - 1] == first)  # shared with the segment before
        offset = at * burst_bytes + start % burst_bytes
        parts.append(window[offset : offset + length])
        at += int(last - first) + 1
    return np.concatenate([np.zeros(0, np.uint8), *parts])
