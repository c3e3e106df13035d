"""Geometry of attention kernels: padded heads, tiles, splits of the keys, how libraries choose them. Facts, not fits.

Arrays [points] throughout. The rules of splitting are those of FlashAttention 2 (as PyTorch 2.11 calls it) and, read
from the grids of recorded calls, of cuDNN 9.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from dataflow.gpu.estimate import Floats

QUERIES = 128  # of a block that does not split the keys
SPLIT_QUERIES = 64  # of one that does
ISSUE = 128  # threads whose instruction a multiprocessor issues in a cycle: 4 schedulers of 32, since Maxwell
PADDED = {  # head sizes that a library has kernels for
    "flash": (32, 64, 96, 128, 192, 256),
    "cudnn": (64, 128, 192, 256),
    "fa3": (64, 96, 128, 192, 256),
}
_MOST_SPLITS = 128
_GOOD_ENOUGH = 0.85  # of the best filling, for fewer splits
_FULL = 0.8  # of the places taken without splitting: none is made
_CUDNN_TOKENS = 128  # least keys of a split
_CUDNN_SHORT = 1024  # contexts below are not split


def whole(*values: ArrayLike) -> list[Floats]:
    """Numbers and arrays as arrays of one length."""
    return list(np.broadcast_arrays(*(np.atleast_1d(np.asarray(one, dtype=np.float64)) for one in values)))


def positive(**named: ArrayLike) -> list[Floats]:
    """The same. Raises ValueError with the name of one that has a value below 1 or no whole number."""
    found = whole(*named.values())
    for name, values in zip(named, found, strict=True):
        wrong = (values < 1) | (values != np.floor(values))
        if wrong.any():
            raise ValueError(f"{name}: must be whole numbers >= 1, got {values[wrong][0]:g}")
    return found


def padded(kernel: str, size: Floats) -> Floats:
    """Head size of the library's next larger kernel. Raises ValueError above the largest."""
    known = np.array(PADDED[kernel], dtype=np.float64)
    if (size > known[-1]).any():
        raise ValueError(f"head_size: {kernel} has kernels up to {known[-1]:g}, got {size.max():g}")
    return known[np.searchsorted(known, size)]


def tile_keys(kernel: str, size: Floats) -> Floats:
    """Keys of a tile of blocks that do not split them, by padded head size."""
    if kernel == "flash":
        return np.where(size <= 64, 128.0, 64.0)
    return np.where(size <= 128, 128.0, 80.0)


def block_queries(kernel: str, size: Floats, architecture: str) -> Floats:
    """Of a block that does not split the keys, by padded head size. FlashAttention 2 halves them for heads of 256 where
    two blocks then share a multiprocessor: everywhere but on sm_80 (its `flash_fwd_launch_template.h`)."""
    halved = kernel == "flash" and architecture != "sm_80"
    return np.where((size > 224) & halved, QUERIES / 2, float(QUERIES))


def split_keys(size: Floats) -> Floats:
    """Keys of a tile of FlashAttention's blocks that split them."""
    return np.where(size <= 64, 256.0, np.where(size <= 128, 128.0, 64.0))


@dataclass(frozen=True)
class Walk:
    """How blocks of some queries walk over tiles of keys.

    blocks     of a head
    tiles      that they take altogether
    longest    that the longest block takes
    diagonal   of the tiles, those that hold scores on both sides of the diagonal
    """

    blocks: Floats
    tiles: Floats
    longest: Floats
    diagonal: Floats


def walk(queries: Floats, keys: Floats, block: Floats | float, tile: Floats, causal: bool) -> Walk:
    """Causal: the last query sees all keys."""
    blocks, every = np.ceil(queries / block), np.ceil(keys / tile)
    if not causal:
        return Walk(blocks, blocks * every, every, np.zeros_like(blocks))
    step, seen = block / tile, np.maximum(keys - queries, 0.0) / tile
    last = np.minimum(every, step * blocks + seen)
    tiles = np.minimum(step * blocks * (blocks - 1) / 2 + seen * (blocks - 1) + last, blocks * every)
    return Walk(blocks, tiles, last, blocks * np.minimum(np.maximum(step, 1.0), last))


def flash_splits(heads: Floats, queries: Floats, keys: Floats, size: Floats, multiprocessors: int) -> Floats:
    """Splits of the keys by FlashAttention 2; `heads`: of all sequences, K/V heads where a group's queries are rows."""
    blocks = heads * np.ceil(queries / SPLIT_QUERIES)
    tiles = np.ceil(keys / split_keys(size))
    found = [_fewest_splits(int(b), int(t), 2 * multiprocessors) for b, t in zip(blocks, tiles, strict=True)]
    return np.array(found, dtype=np.float64)


@lru_cache(maxsize=1 << 16)
def _fewest_splits(blocks: int, tiles: int, places: int) -> int:
    """The fewest splits that fill the places nearly as well as any number would."""
    if blocks >= _FULL * places:
        return 1
    counts = np.arange(1, min(_MOST_SPLITS, places, tiles) + 1)
    useful = np.concatenate(([True], -(-tiles // counts[1:]) != -(-tiles // counts[:-1])))
    rounds = blocks * counts / places
    filled = np.where(useful, rounds / np.ceil(rounds), 0.0)
    return int(counts[np.argmax(filled >= _GOOD_ENOUGH * filled.max())])


def cudnn_splits(heads: Floats, keys: Floats, multiprocessors: int) -> Floats:
    """Of a decode step by cuDNN; `heads`: K/V heads of all sequences."""
    room = 2.0 ** np.floor(np.log2(np.maximum(2 * multiprocessors / heads, 1.0)))
    splits = np.minimum(room, np.maximum(np.floor(keys / _CUDNN_TOKENS), 1.0))
    return np.where((keys < _CUDNN_SHORT) | (heads >= _FULL * multiprocessors), 1.0, splits)


def joined(terms: Sequence[Floats], power: float) -> Floats:
    """Norm of what goes on at once: a little more than the longest."""
    longest = np.maximum(np.max(terms, axis=0), 1e-300)
    return np.asarray(longest * sum((term / longest) ** power for term in terms) ** (1 / power))


def partly_hidden(throughput: Floats, latency: Floats, exposed: Floats, sharpness: float) -> Floats:
    """Time of blocks that all start at once: the longer of both, and of the shorter what nothing hides.

    A pipeline fills and drains once: of the shorter at most `exposed` adds to the longer.
    """
    short, long = np.minimum(throughput, latency), np.maximum(throughput, latency)
    ratio = np.minimum(short, exposed) / np.maximum(np.maximum(short, exposed), 1e-300)
    return np.asarray(long + np.minimum(short, exposed) / (1 + ratio**sharpness) ** (1 / sharpness))
