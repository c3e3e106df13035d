"""What a calibration measures, and which points are held out: settled here, before anything was measured.

The rule. A point is held out when a value on one of its held-out axes is: models are fitted to the others and judged by
these alone.

    GEMM       whole (N, K) pairs: of PAIRS, sorted by N K then N, numbers 1 and 3 of every 5; whole M: HELD_TOKENS
    attention  whole head configurations: HELD_HEADS, whole contexts: HELD_CONTEXTS, whole lengths: HELD_LENGTHS
    streams    element counts that are no power of two; rows: whole widths HELD_WIDTHS, whole row counts HELD_ROWS
    products   lengths and channel counts of HELD_LENGTHS, HELD_CHANNELS
    transfers  sizes that are no power of two
    energy     numbers 1, 3, 5 ... of energy.LOOPS

Calibration points of one format are at most MOST. No torch here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeVar

MOST = 240
Point = TypeVar("Point")

PAIRS = {  # (N, K): whose layer
    (1024, 1024): "GPT-2-medium out",
    (4096, 1024): "BERT-large up",
    (2240, 2240): "Sana-1.6B out",
    (1152, 4608): "PixArt down",
    (3072, 3072): "FLUX out",
    (9216, 3072): "FLUX qkv",
    (12288, 3072): "FLUX up",
    (3072, 12288): "FLUX down",
    (3072, 15360): "FLUX single out",
    (4096, 4096): "Llama-2-7B out",
    (6144, 4096): "Llama-3-8B qkv",
    (28672, 4096): "Llama-3-8B gate up",
    (4096, 14336): "Llama-3-8B down",
    (22016, 4096): "Llama-2-7B gate up",
    (5120, 13824): "Llama-2-13B down",
    (40960, 7168): "Yi-34B gate up",
    (8192, 8192): "Qwen-72B out",
    (24576, 8192): "Qwen-72B qkv",
    (8192, 24576): "Qwen-72B down",
    (49152, 8192): "Qwen-72B gate up",
}
TOKENS = (1, 4, 16, 24, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
HELD_TOKENS = (8, 32, 160, 640, 2560, 4608)
TOKENS_OF_HELD_PAIRS = (1, 16, 32, 64, 128, 256, 640, 1024, 4096, 4608)
MOST_OPERATIONS = 4.2e12  # of a product: some 6 ms at most, and the outputs stay small

OUR_PAIRS = ((1024, 1024), (4096, 4096), (12288, 3072), (3072, 15360), (8192, 8192), (28672, 4096))
OUR_HELD_PAIRS = ((6144, 4096), (3072, 12288), (4096, 14336), (8192, 24576))
OUR_TOKENS = (1, 4, 16, 24, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096)
OUR_HELD_TOKENS = (32, 640)
OUR_TOKENS_OF_HELD_PAIRS = (1, 16, 64, 256, 1024, 4096)


@dataclass(frozen=True)
class Product:
    """y [M, N] = x [M, K] W^T."""

    m: int
    n: int
    k: int
    held_out: bool

    @property
    def name(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"

    @property
    def operations(self) -> int:
        return 2 * self.m * self.n * self.k


def held_pairs() -> frozenset[tuple[int, int]]:
    """(N, K) that no model is fitted to."""
    order = sorted(PAIRS, key=lambda pair: (pair[0] * pair[1], pair[0]))
    return frozenset(pair for place, pair in enumerate(order) if place % 5 in (1, 3))


def product(m: int, n: int, k: int) -> Product:
    """With the rule applied."""
    return Product(m, n, k, (n, k) in held_pairs() or m in HELD_TOKENS)


def library_products() -> list[Product]:
    """Of each library format."""
    held = held_pairs()
    found = [
        product(m, n, k) for n, k in PAIRS for m in (TOKENS_OF_HELD_PAIRS if (n, k) in held else TOKENS + HELD_TOKENS)
    ]
    return [one for one in found if one.operations <= MOST_OPERATIONS]


def our_products() -> list[Product]:
    """Of each of our kernels: N a multiple of 64, K of 128."""
    found = [product(m, n, k) for n, k in OUR_PAIRS for m in OUR_TOKENS + OUR_HELD_TOKENS]
    return found + [product(m, n, k) for n, k in OUR_HELD_PAIRS for m in OUR_TOKENS_OF_HELD_PAIRS]


HEADS = {  # (query heads, K/V heads, head size): whose
    (32, 8, 128): "Llama-3-8B",
    (64, 64, 128): "Qwen-72B",
    (16, 16, 64): "GPT-2-medium",
    (32, 32, 128): "Llama-2-7B",
    (56, 8, 128): "Yi-34B",
}
HELD_HEADS = ((32, 32, 128), (56, 8, 128))
BATCHES, CONTEXTS = (1, 4, 16, 64, 256), (256, 512, 1024, 4096, 16384)
HELD_CONTEXTS, BATCHES_OF_HELD = (2048, 8192), (1, 16, 64, 128)
CONTEXTS_OF_HELD_HEADS = (1024, 2048, 8192)
MOST_CACHE_BYTES = 8 << 30  # in 16 bits


@dataclass(frozen=True)
class Decode:
    """One decode step of one layer: `batch` sequences with `context` cached tokens each."""

    batch: int
    heads: int
    kv_heads: int
    size: int
    context: int
    held_out: bool

    @property
    def name(self) -> str:
        return f"{self.heads}/{self.kv_heads}/{self.size} batch {self.batch} context {self.context}"

    def cache_bytes(self, bits: int) -> int:
        """Keys and values once; 4 and 8 bits with a float16 scale and zero a token and head."""
        row = self.size * bits // 8 + (4 if bits < 16 else 0)
        return 2 * self.kv_heads * self.batch * self.context * row


def decodes() -> list[Decode]:
    """Of each kind of cache and each library kernel."""
    found = []
    for heads in HEADS:
        apart = heads in HELD_HEADS
        for context in CONTEXTS_OF_HELD_HEADS if apart else CONTEXTS + HELD_CONTEXTS:
            held = apart or context in HELD_CONTEXTS
            found += [Decode(batch, *heads, context, held) for batch in (BATCHES_OF_HELD if held else BATCHES)]
    return [one for one in found if one.cache_bytes(16) <= MOST_CACHE_BYTES]


LENGTHS, HELD_LENGTHS = (256, 512, 1024, 4096, 16384), (768, 2048, 2304, 8192, 9216)
PREFILL_TOKENS = 16384  # of all sequences together, about: enough blocks for every multiprocessor
MOST_PREFILL_OPERATIONS = 9e12  # some 20 ms


@dataclass(frozen=True)
class Prefill:
    """Attention of `queries` tokens to `keys` tokens, of each of `batch` sequences."""

    batch: int
    heads: int
    size: int
    queries: int
    keys: int
    causal: bool
    held_out: bool

    @property
    def name(self) -> str:
        how = "causal" if self.causal else "full"
        return f"{self.heads}/{self.size} batch {self.batch} {self.queries}x{self.keys} {how}"

    @property
    def operations(self) -> float:
        """Of both products; half of them where causal."""
        return 4.0 * self.batch * self.heads * self.queries * self.keys * self.size * (0.5 if self.causal else 1.0)


def prefills() -> list[Prefill]:
    """Self-attention in batches that fill the card, alone, and cross-attention to a prompt of 300 or 512 tokens."""
    found = []
    for length in LENGTHS + HELD_LENGTHS:
        full = max(1, PREFILL_TOKENS // length)
        for heads, size in ((32, 128), (16, 64), (16, 72)):
            modes = (False, True) if size < 72 or size == 128 else (False,)
            held = length in HELD_LENGTHS
            found += [Prefill(full, heads, size, length, length, causal, held) for causal in modes]
            if full > 1:
                found.append(Prefill(1, heads, size, length, length, size == 128, held))
    for queries, keys in ((1024, 300), (4096, 300), (1024, 512), (4096, 512), (9216, 300), (2304, 512)):
        held = queries in HELD_LENGTHS
        found += [Prefill(2, heads, size, queries, keys, False, held) for heads, size in ((16, 72), (24, 128))]
    return [one for one in found if one.operations <= MOST_PREFILL_OPERATIONS]


COUNTS = (*(1 << power for power in (10, 13, 16, 18, 20, 22, 23, 24, 25, 26, 27, 29)),)
HELD_COUNTS = (6_000, 98_304, 1_500_000, 6_291_456, 12_582_912, 40_000_000, 201_326_592)
WIDTHS, HELD_WIDTHS = (1024, 4096, 8192), (2240, 3072, 5120)
ROWS, HELD_ROWS = (1, 16, 256, 4096, 16384), (64, 1000, 4608)


@dataclass(frozen=True)
class Matrix:
    """Rows of a normalization or softmax."""

    rows: int
    width: int
    held_out: bool

    @property
    def name(self) -> str:
        return f"{self.rows}x{self.width}"


def counts() -> list[tuple[int, bool]]:
    """(elements, held out) of elementwise kernels."""
    return [(one, bool(one & (one - 1))) for one in sorted(COUNTS + HELD_COUNTS)]


def matrices() -> list[Matrix]:
    """Of row-wise kernels: held-out widths with every second row count, held-out row counts with every width."""
    found = [Matrix(rows, width, False) for width in WIDTHS for rows in ROWS]
    found += [Matrix(rows, width, True) for width in WIDTHS for rows in HELD_ROWS]
    return found + [Matrix(rows, width, True) for width in HELD_WIDTHS for rows in ROWS[1::2] + HELD_ROWS[1:2]]


LINEAR_LENGTHS = (256, 1024, 2304, 4096, 9216, 16384, 65536)  # tokens of Sana, both halves of guidance
CHANNELS = (128, 320, 512, 1280, 2240, 11200)
HELD_CHANNELS = (256, 640, 1024, 5600)
TRANSFERS = tuple(1 << power for power in (16, 18, 20, 22, 24, 26, 28))
HELD_TRANSFERS = (100_000, 1_500_000, 10_000_000, 100_000_000)


@dataclass(frozen=True)
class Convolution:
    """y of x [batch, channels, side, side] with `out` channels; depthwise where groups is not 1."""

    batch: int
    channels: int
    out: int
    side: int
    kernel: int
    groups: int

    @property
    def held_out(self) -> bool:
        return self.channels in HELD_CHANNELS

    @property
    def name(self) -> str:
        how = "depthwise" if self.groups > 1 else "dense"
        return f"{how} {self.kernel}x{self.kernel} {self.batch}x{self.channels}x{self.side} to {self.out}"


def convolutions() -> list[Convolution]:
    """Depthwise of Sana's feed-forward and DC-AE, dense of DC-AE's and SDXL's stages, 1x1 of Sana and SDXL."""
    depth = [(2, 11200, 32), (2, 11200, 16), (1, 11200, 64), (2, 5600, 32), (2, 5600, 16), (1, 1024, 32), (1, 512, 64)]
    depth += [(1, 2240, 32), (1, 256, 128), (1, 1280, 64)]
    found = [Convolution(b, c, c, side, 3, c) for b, c, side in depth]
    dense = [(1, 128, 512), (1, 256, 256), (1, 256, 512), (1, 512, 64), (1, 512, 128), (1, 1024, 32), (1, 1024, 64)]
    dense += [(2, 320, 128), (2, 320, 64), (2, 640, 64), (2, 640, 32), (2, 1280, 32), (2, 1280, 16)]
    found += [Convolution(b, c, c, side, 3, 1) for b, c, side in dense]
    single = [(2, 2240, 11200, 32), (2, 5600, 2240, 32), (2, 2240, 2240, 32), (2, 640, 640, 64), (2, 1280, 1280, 32)]
    return found + [Convolution(b, c, o, side, 1, 1) for b, c, o, side in single]


def spread(points: Sequence[Point], quick: int = 0) -> Iterator[Point]:
    """In an order that has nothing to do with sizes, so that a part cut short still covers them; only `quick` if not 0.

    The order is the hash of each point's text: the same in every run.
    """
    order = sorted(points, key=lambda point: sha256(repr(point).encode()).digest())
    yield from order[:quick] if quick else order
