"""Requests and the bursts they are cut into, with their places in the memory, for the slow controller."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from sim.dram.spec import DramSpec

NEVER = 1 << 60


@dataclass(eq=False)
class Request:
    available: int
    bursts_left: int
    next: "Request | None" = None
    done: int = 0  # since when the next one may go


@dataclass(eq=False)
class Burst:
    request: Request
    write: bool
    channel: int
    pseudo: int
    bank: int
    row: int
    accepted: int = -1

    @property
    def place(self) -> tuple[int, int]:
        return self.pseudo, self.bank


def decode(spec: DramSpec, burst: int) -> dict[str, int]:
    """Fields of a burst's number, low bits first; a field of several parts is filled from its low end."""
    value = dict.fromkeys(("channel", "pseudo_channel", "bank_group", "bank", "column", "row"), 0)
    taken = dict.fromkeys(value, 0)
    for name, bits in spec.fields:
        if bits == 0:
            burst, value[name] = divmod(burst, spec.channels)
        else:
            burst, part = divmod(burst, 2**bits)
            value[name] += part * 2 ** taken[name]
            taken[name] += bits
    plain = dict(value)
    for name, bit, other, other_bit in spec.xor:
        value[name] ^= (plain[other] >> other_bit & 1) << bit
    return value


def finish_burst(burst: Burst, next_available: int) -> None:
    """The last burst of a request lets the next one of its chain go."""
    request = burst.request
    request.bursts_left -= 1
    request.done = max(request.done, next_available)
    if request.bursts_left == 0 and request.next is not None:
        request.next.available = request.done


def cut(spec: DramSpec, requests: Iterable[tuple[Request, int, bool]], count: int) -> list[Burst]:
    bursts = []
    for request, address, write in requests:
        for number in range(address // spec.burst_bytes, address // spec.burst_bytes + count):
            at = decode(spec, number)
            bank = at["bank_group"] * spec.banks_per_group + at["bank"]
            place = at["channel"], at["pseudo_channel"], bank, at["row"]
            bursts.append(Burst(request, write, *place))
    return bursts


def make_requests(spec: DramSpec, mode: str, cycle: Sequence[int], bursts: int) -> list[Request]:
    requests = [Request(int(c) * spec.edges if mode == "timed" else 0, bursts) for c in cycle]
    if mode == "chain":
        for earlier, later in pairwise(requests):
            earlier.next, later.available = later, NEVER
    return requests
