"""The prob x V array: the multipliers of Q x K the other way round (section IV-D).

At D elements a vector, 512/D probabilities a cycle are broadcast to D trees of 512/D leaves, which D accumulators add
up. Probabilities are unsigned fractions of `prob_bits` bits (value = word / 2^prob_bits), so the sum of the products
has V's scale after a shift by prob_bits: it is rounded (half up), and saturates where rounded probabilities exceed 1.
"""

import numpy as np

from dataflow.spatten.modules.fixed_point import Fixed, Ints, fits, largest, shift_round
from dataflow.spatten.modules.query_key import cycles, leaves, levels

__all__ = ["accumulator_bits", "cycles", "depth_cycles", "output", "weighted_sum"]


def depth_cycles(size: int, multipliers: int) -> int:
    """Multiplier, a register a level of the tree of 512/D leaves, accumulator."""
    return 2 + max(1, multipliers // leaves(size)).bit_length() - 1


def accumulator_bits(word_bits: int, prob_bits: int, vectors: int) -> int:
    """Bits, with the sign, that the sum of that many products can need, whatever the probabilities are."""
    return (vectors * ((1 << prob_bits) - 1) << (word_bits - 1)).bit_length() + 1


def weighted_sum(probabilities: Ints, values: Ints, multipliers: int, word_bits: int, prob_bits: int) -> Ints:
    """Sum of probability x V: words [m] and [m, D], int64 [D], exactly, in the array's order of cycles."""
    count, size = values.shape
    ways = max(1, multipliers // leaves(size))
    bits = accumulator_bits(word_bits, prob_bits, count)
    total = np.zeros(size, np.int64)
    for start in range(0, count, ways):
        products = np.zeros((size, ways), np.int64)
        part = values[start : start + ways]
        products[:, : len(part)] = (part * probabilities[start : start + ways, None]).T
        total += levels(products)[-1][:, 0]
        assert fits(total, bits)
    return total


def output(total: Ints, value_scale: float, word_bits: int, prob_bits: int) -> Fixed:
    """The sums as words: back to V's own scale, which a weighted mean of V cannot exceed by more than rounding."""
    code = np.clip(shift_round(total, prob_bits), -largest(word_bits), largest(word_bits))
    return Fixed(code, word_bits, value_scale)
