"""Seeds of the random pivots: the same as the planner's, so that both see the same passes."""

import zlib

import numpy as np

from dataflow.spatten.topk import next_random

TOKENS, HEADS = -1, -2  # in the place of a query


class Seeds:
    """One for each top-k of a sequence, from the machine's seed and the name of the sequence."""

    def __init__(self, seed: int, name: str) -> None:
        self.base = (seed << 32) + zlib.crc32(name.encode())

    def of(self, row: int, query: int) -> int:
        """Of the local top-k of a query, or of the TOKENS or HEADS of a row."""
        mixed = next_random(np.uint64(self.base))[1]
        mixed = next_random(np.uint64(mixed) ^ np.uint64(row))[1]
        return int(next_random(np.uint64(mixed) ^ np.uint64(query + 2))[1])
