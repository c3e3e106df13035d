"""The importance accumulators (section III-A, III-B): sums that the token and head top-k compare.

A token's importance is the sum of its probability words over all queries, heads and layers; it is an integer. A head's
is the sum of |output| over queries and elements: an integer within a layer, whose outputs have a scale of their own in
each head, so that the sum is multiplied with it and added in float32 once a head and layer. (The paper does not say how
outputs of different scale are compared.)
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dataflow.spatten.modules.fixed_point import Fixed, Ints


def token_bits(prob_bits: int, queries: int, heads: int, layers: int) -> int:
    """Bits of a token's sum that can never overflow: every query of every head gives it all of its probability."""
    return (queries * heads * layers * ((1 << prob_bits) - 1)).bit_length()


def head_bits(word_bits: int, queries: int, size: int) -> int:
    """Bits of a head's sum within a layer that can never overflow."""
    return (queries * size * ((1 << (word_bits - 1)) - 1)).bit_length()


def cycles(probabilities: int, lanes: int) -> int:
    """Cycles for a row of probabilities: each softmax lane has its own accumulator."""
    return -(-probabilities // lanes)


@dataclass
class Importance:
    """Sums of one sequence, for tokens by their position and for heads by their number.

    bits   width of the token accumulators
    """

    tokens: Ints
    heads: NDArray[np.float32]
    bits: int = field(default=32)  # assumed: the next word size above token_bits(12, 1024, 16, 24) = 31

    @classmethod
    def of(cls, tokens: int, heads: int) -> "Importance":
        """Nothing has been seen yet."""
        return cls(np.zeros(tokens, np.int64), np.zeros(heads, np.float32))

    def add_probabilities(self, positions: Ints, probabilities: Ints) -> None:
        """A row of final probability words of the tokens at those positions. Raises OverflowError beyond `bits`."""
        self.tokens[positions] += probabilities
        if self.tokens.max() >> self.bits:
            raise OverflowError(f"token importance needs more than {self.bits} bits, got {self.tokens.max()}")

    def add_output(self, head: int, output: Fixed) -> None:
        """The outputs of all queries of a head in a layer, [queries, D]."""
        total = np.float32(np.abs(output.code).sum())
        self.heads[head] = np.float32(self.heads[head] + total * np.float32(output.scale))
