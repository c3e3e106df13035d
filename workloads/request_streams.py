"""Generators of request traces for studies of memory: `make("gather", 100_000, seed=1, keep=0.25)`.

The same parameters and seed give the same stream (with the same NumPy). Made in blocks: memory stays flat.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from accel.fault import nearest
from workloads.request_trace import LAST_CYCLE, REQUEST_BYTES, Requests

Ints = NDArray[np.int64]
Block = tuple[Ints, NDArray[np.bool_]]  # addresses, whether they are written
BLOCK = 1 << 16


@dataclass(frozen=True)
class Shape:
    """What a stream looks like; each kind reads some of it.

    footprint_bytes   random addresses lie below it; planes, and the streams of `mixed`, are so far apart
    stride_bytes      of `strided`
    row_bytes         one K or V vector, or one of its planes
    tokens, heads     of a layer; the tokens that pruning keeps are the same for all heads of a layer
    keep              share of the tokens that are kept (`gather`, `planes`), in ascending order
    again             share of the kept tokens whose low bits are read too (`planes`)
    write_share       of the requests (`mixed`, `mixed_random`)
    """

    footprint_bytes: int = 1 << 30
    stride_bytes: int = 2048
    row_bytes: int = 64
    tokens: int = 1024
    heads: int = 12
    keep: float = 0.25
    again: float = 0.1
    write_share: float = 1 / 3

    def __post_init__(self) -> None:
        for name in ("footprint_bytes", "stride_bytes", "row_bytes"):
            value = getattr(self, name)
            if value < REQUEST_BYTES or value % REQUEST_BYTES:
                raise ValueError(f"{name}: must be a multiple of {REQUEST_BYTES}, got {value}")
        for name in ("tokens", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")
        for name in ("keep", "again", "write_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}: must be a share 0..1, got {getattr(self, name)}")
        if self.kept < 1:
            raise ValueError(f"keep: must leave at least one of {self.tokens} tokens, got {self.keep}")

    @property
    def kept(self) -> int:
        """Tokens that a layer keeps."""
        return round(self.keep * self.tokens)

    @property
    def array_bytes(self) -> int:
        """The rows of all tokens of one head."""
        return self.tokens * self.row_bytes


def sequential(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """One address after the other, from 0 to the end of the footprint and round again."""
    return strided(replace(shape, stride_bytes=REQUEST_BYTES), random)


def strided(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """Steps of stride_bytes; each round through the footprint begins one request further on."""
    steps = -(-shape.footprint_bytes // shape.stride_bytes)
    lanes = shape.stride_bytes // REQUEST_BYTES
    for number in _numbers():
        address = number % steps * shape.stride_bytes + number // steps % lanes * REQUEST_BYTES
        yield _reads(address % shape.footprint_bytes)


def random_reads(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """Uniform in the footprint."""
    while True:
        yield _reads(_anywhere(shape, random))


def gather(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """K, then V, of the kept tokens, head after head, layer after layer: what attention reads after token pruning.

    The arrays [token][row_bytes] of the heads follow each other, V lies footprint_bytes above K.
    """
    for array, kept in _heads(shape, random):
        for region in (0, shape.footprint_bytes):
            yield _reads(_rows(shape, region + array + kept * shape.row_bytes))


def planes(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """The high bits of the kept tokens' K, then the low bits of a few: SpAtten's progressive quantization.

    Each plane is an array [token][row_bytes] a head; the low one lies footprint_bytes above the high one.
    """
    for array, kept in _heads(shape, random):
        few = np.sort(random.choice(kept, round(shape.again * len(kept)), replace=False))
        for region, tokens in ((0, kept), (shape.footprint_bytes, few)):
            yield _reads(_rows(shape, region + array + tokens * shape.row_bytes))


def mixed(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """Two streams that are read in turn, and one that is written, evenly in between; footprint_bytes apart."""
    for number in _numbers():
        written = np.floor((number + 1) * shape.write_share) > np.floor(number * shape.write_share)
        before = np.floor(number * shape.write_share).astype(np.int64)  # writes until here
        nth_read = number - before
        stream = np.where(written, 2, nth_read % 2)
        place = np.where(written, before, nth_read // 2) * REQUEST_BYTES % shape.footprint_bytes
        yield stream * shape.footprint_bytes + place, written


def mixed_random(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """Uniform in the footprint, each request written with probability write_share."""
    while True:
        yield _anywhere(shape, random), random.random(BLOCK) < shape.write_share


def chase(shape: Shape, random: np.random.Generator) -> Iterator[Block]:
    """All requests of the footprint in a scattered order, none twice: run it with `--mode chain`.

    The order is a one-to-one mix of the numbers modulo a power of two: odd factors and an xor with the upper half.
    """
    size = 1 << ((shape.footprint_bytes // REQUEST_BYTES).bit_length() - 1)
    mask = np.uint64(size - 1)
    factor, start = np.uint64(random.integers(1 << 40) * 8 + 5), np.uint64(random.integers(size))
    for number in _numbers():
        n = number.astype(np.uint64) * np.uint64(2654435769) & mask  # neighbours far apart, one to one
        n ^= n >> np.uint64(max(1, size.bit_length() // 2))
        yield _reads(((n * factor + start & mask) * np.uint64(REQUEST_BYTES)).astype(np.int64))


KINDS: dict[str, Callable[[Shape, np.random.Generator], Iterator[Block]]] = {
    "sequential": sequential,
    "strided": strided,
    "random": random_reads,
    "gather": gather,
    "planes": planes,
    "mixed": mixed,
    "mixed_random": mixed_random,
    "chase": chase,
}


def make(kind: str, requests: int, seed: int = 0, rate: float = 0.0, **shape: float) -> Iterator[Requests]:
    """The first `requests` of a stream of that kind, in blocks.

    rate    requests a memory cycle on average, independent of each other (a Poisson process), for `--mode timed`;
            0: all cycles are 0
    shape   see Shape
    Raises ValueError for a kind, a parameter or a value that is not allowed.
    """
    if kind not in KINDS:
        raise ValueError(f"no kind {kind!r} ({nearest(kind, KINDS)})")
    known = {field.name for field in fields(Shape)}
    for name in shape.keys() - known:
        raise ValueError(f"{name}: no such parameter ({nearest(name, known)})")
    if requests < 1 or not 0 <= rate < float("inf") or 0 < rate < requests / LAST_CYCLE:
        name, value = ("requests", requests) if requests < 1 else ("rate", rate)
        rule = ">= 1" if requests < 1 else ">= 0, and keep cycles below 2**50"
        raise ValueError(f"{name}: must be {rule}, got {value}")
    return _timed(KINDS[kind](Shape(**shape), np.random.default_rng([seed, 0])), requests, rate, seed)  # type: ignore[arg-type]


def _timed(blocks: Iterator[Block], requests: int, rate: float, seed: int) -> Iterator[Requests]:
    clock, random = 0.0, np.random.default_rng([seed, 1])
    for address, write in blocks:
        address, write = address[:requests], write[:requests]
        cycle = np.zeros(len(address), np.int64)
        if rate and len(address):
            times = clock + np.cumsum(random.exponential(1 / rate, len(address)))
            clock, cycle = float(times[-1]), times.astype(np.int64)
        yield Requests(cycle, address, write)
        requests -= len(address)
        if not requests:
            return


def _numbers() -> Iterator[Ints]:
    start = 0
    while True:
        yield np.arange(start, start + BLOCK)
        start += BLOCK


def _reads(address: Ints) -> Block:
    return address, np.zeros(len(address), np.bool_)


def _anywhere(shape: Shape, random: np.random.Generator) -> Ints:
    return random.integers(0, shape.footprint_bytes // REQUEST_BYTES, BLOCK) * REQUEST_BYTES


def _heads(shape: Shape, random: np.random.Generator) -> Iterator[tuple[int, Ints]]:
    """Where the array of each head begins, and the tokens that its layer keeps; round again at the footprint's end."""
    places, number = max(1, shape.footprint_bytes // shape.array_bytes), 0
    while True:
        kept = np.sort(random.choice(shape.tokens, shape.kept, replace=False))
        for _ in range(shape.heads):
            yield number % places * shape.array_bytes, kept
            number += 1


def _rows(shape: Shape, start: Ints) -> Ints:
    """The requests that cover each row."""
    within = np.arange(0, shape.row_bytes, REQUEST_BYTES)
    return (start[:, None] + within).reshape(-1)
