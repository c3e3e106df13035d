"""The address streams that the probe reads, in numpy: the same rows in the same order as kernel.cu.

A pattern is a stream of rows of `row_bytes`; row i starts at byte `starts(i, i + 1)[0]` of the buffer. Everything
is a function of the fields of the pattern, so a record that holds them can be replayed on a CPU, also in part:
`prefix` is the beginning of the same stream.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

TOKENS = 1024  # rows of one array of a head
HEADS = 16
PASS_BYTES = 256  # a strided stream that comes back to the start goes on so much later
ODD = (0x85EBCA6B, 0xC2B2AE35, 0x9E3779B1)  # odd, so that multiplication modulo a power of two is a bijection
ROW_BYTES = (32, 64, 128, 256)
MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class Walk:
    """Rows at addresses in closed form.

    kind            "sequential", "strided", "random" (each row at most once) or "cached": as random, but over and over
                    again in a footprint that the L2 holds, which shows what the way to the DRAM could deliver
    row_bytes       bytes read at each address, aligned to themselves; a power of two
    rows            length of the stream
    footprint_bytes strided, random, cached: the range of addresses, a power of two
    stride_bytes    strided: distance of two rows; after footprint/stride rows the next pass begins PASS_BYTES later
    seed            random, cached
    """

    kind: str
    row_bytes: int
    rows: int
    footprint_bytes: int
    stride_bytes: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in ("sequential", "strided", "random", "cached"):
            raise ValueError(f"kind must be sequential, strided, random or cached, got {self.kind!r}")
        if not 0 < self.rows <= self.room:
            raise ValueError(f"{self.name}: rows must be 1 to {self.room}, got {self.rows}")

    @property
    def name(self) -> str:
        if self.kind == "sequential":
            return "sequential"
        if self.kind == "strided":
            return f"strided_{self.stride_bytes}_read_{self.row_bytes}"
        unit, size = ("GiB", GIB) if self.kind == "random" else ("MiB", MIB)
        return f"{self.kind}_{self.row_bytes}_in_{self.footprint_bytes // size}{unit}"

    @property
    def room(self) -> int:
        """The longest stream that reads nothing twice (cached: that 32-bit row numbers allow)."""
        if self.kind == "strided":
            return self.rows_per_pass * max(1, self.stride_bytes // PASS_BYTES)
        return 2**32 - 1 if self.kind == "cached" else self.footprint_bytes // self.row_bytes

    @property
    def rows_per_pass(self) -> int:
        """Strided: rows before the stream comes back to the start of the footprint."""
        return self.footprint_bytes // self.stride_bytes

    @property
    def bits(self) -> int:
        """Random, cached: binary logarithm of the number of places for a row."""
        return (self.footprint_bytes // self.row_bytes).bit_length() - 1

    @property
    def useful_bytes(self) -> int:
        return self.rows * self.row_bytes

    def starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Byte addresses of rows first .. last-1, in order."""
        row = np.arange(first, last, dtype=np.int64)
        if self.kind == "sequential":
            return row * self.row_bytes
        if self.kind == "strided":
            lap, place = np.divmod(row, self.rows_per_pass)
            return place * self.stride_bytes + lap * PASS_BYTES
        return self._mixed(row) * self.row_bytes

    def _mixed(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        mask = (1 << self.bits) - 1
        mixed = (row + self.seed) & mask
        for odd in ODD:
            mixed = (mixed * (odd & mask)) & mask
            mixed ^= mixed >> ((self.bits + 1) // 2)
        return mixed

    def digest(self) -> str:
        """SHA-256 of the first and the last addresses."""
        ends = [self.starts(0, min(self.rows, 4096)), self.starts(max(0, self.rows - 4096), self.rows)]
        return hashlib.sha256(np.concatenate(ends).astype("<i8").tobytes()).hexdigest()

    def prefix(self, useful_bytes: int) -> "Walk":
        """The beginning of the same stream."""
        return replace(self, rows=min(self.rows, max(1, useful_bytes // self.row_bytes)))


@dataclass(frozen=True)
class Gather:
    """Rows of the tokens that were kept, in ascending order, head after head, as after cascade pruning.

    Each head of each layer has two arrays of [TOKENS][row_bytes]; the arrays of all heads and layers lie one after
    the other, the second kind `region_bytes` above the first. One list of kept tokens a layer serves all its heads.

    kind            "kv": the kept rows of K, then the same rows of V.
                    "planes": the kept rows of the MSB plane, then a share of these of the LSB plane
    keep_percent    kept tokens
    second_percent  planes: share of the kept rows that is read from the LSB plane
    layers          length of the stream (of layers of any number of sequences)
    region_bytes    at least layers * HEADS * TOKENS * row_bytes
    """

    kind: str
    row_bytes: int
    keep_percent: int
    layers: int
    region_bytes: int
    seed: int
    second_percent: int = 100

    def __post_init__(self) -> None:
        if self.kind not in ("kv", "planes"):
            raise ValueError(f"kind must be kv or planes, got {self.kind!r}")
        if not (0 < self.keep_percent <= 100 and 0 < self.second_percent <= 100):
            raise ValueError(f"{self.name}: percentages must be 1 to 100")
        if self.layers * HEADS * TOKENS * self.row_bytes > self.region_bytes:
            raise ValueError(f"{self.name}: region_bytes {self.region_bytes} holds fewer than {self.layers} layers")

    @property
    def name(self) -> str:
        second = f"_lsb{self.second_percent}" if self.kind == "planes" else ""
        return f"{self.kind}_{self.row_bytes}_keep{self.keep_percent}{second}"

    @property
    def kept(self) -> int:
        """Rows of the first array of a head."""
        return round(TOKENS * self.keep_percent / 100)

    @property
    def head_rows(self) -> int:
        """Rows of both arrays of a head."""
        return self.kept + max(1, round(self.kept * self.second_percent / 100))

    @property
    def rows(self) -> int:
        return self.layers * HEADS * self.head_rows

    @property
    def footprint_bytes(self) -> int:
        return self.region_bytes + self.layers * HEADS * TOKENS * self.row_bytes

    @property
    def useful_bytes(self) -> int:
        return self.rows * self.row_bytes

    def tokens(self) -> NDArray[np.uint16]:
        """[layers][head_rows]: tokens of the first array, then those of the second, each ascending."""
        return _tokens(self.seed, self.layers, self.kept, self.head_rows - self.kept, self.kind == "planes")

    def starts(self, first: int, last: int) -> NDArray[np.int64]:
        """Byte addresses of rows first .. last-1, in order."""
        head, rank = np.divmod(np.arange(first, last, dtype=np.int64), self.head_rows)
        token = self.tokens()[head // HEADS, rank]
        return (rank >= self.kept) * self.region_bytes + (head * TOKENS + token) * self.row_bytes

    def digest(self) -> str:
        """SHA-256 of the lists of tokens."""
        return hashlib.sha256(self.tokens().astype("<u2").tobytes()).hexdigest()

    def prefix(self, useful_bytes: int) -> "Gather":
        """The beginning of the same stream, in whole layers; arrays stay where they are."""
        layers = useful_bytes // (HEADS * self.head_rows * self.row_bytes)
        return replace(self, layers=min(self.layers, max(1, layers)))


Pattern = Walk | Gather


@lru_cache(maxsize=48)
def _tokens(seed: int, layers: int, kept: int, second: int, subset: bool) -> NDArray[np.uint16]:
    """Lists of a Gather: per layer one permutation of all tokens, its first `kept` sorted, and again for the second."""
    draw = np.random.Generator(np.random.PCG64(seed))
    lists = np.empty((layers, kept + second), dtype=np.uint16)
    for layer in lists:
        layer[:kept] = np.sort(draw.permutation(TOKENS)[:kept])
        layer[kept:] = layer[:kept][np.sort(draw.permutation(kept)[:second])] if subset else layer[:kept]
    return lists


def requests(starts: NDArray[np.int64], row_bytes: int, request_bytes: int = 64) -> NDArray[np.int64]:
    """Addresses of the aligned requests that cover rows, in order; two that follow each other are never the same.

    That is what a cache in front of the memory asks for, whose lines are filled `request_bytes` at a time and which
    remembers the last one.
    """
    first = starts // request_bytes * request_bytes
    covered = first[:, None] + np.arange(0, max(row_bytes, request_bytes), request_bytes)
    address = covered.ravel()
    return address[np.concatenate(([True], address[1:] != address[:-1]))]
