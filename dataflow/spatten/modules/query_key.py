"""The Q x K array: 512 multipliers and an adder tree that is tapped where a vector ends (section IV-D).

A query of D elements is broadcast 512/D times; the tree's level log2(D) then gives 512/D scores a cycle. A D that is no
power of two takes the leaves of the next one, the rest multiply zeros. A longer vector than the array takes several
cycles, whose sums are added. All sums are exact: products of two 12-bit words have 24 bits, each level adds one.
"""

import numpy as np

from dataflow.spatten.modules.fixed_point import Ints, fits
from dataflow.spatten.stages import array_cycles


def leaves(size: int) -> int:
    """Leaves of the tree that a vector of that size takes: the next power of two."""
    return 1 << (size - 1).bit_length()


def scores_a_cycle(size: int, multipliers: int) -> int:
    """Trees that run at once; 0 where a vector needs the array for more than a cycle."""
    return multipliers // leaves(size)


def cycles(vectors: int, size: int, multipliers: int) -> int:
    """Cycles for that many scores: the rule of `dataflow.spatten.stages`, for the leaves that a vector takes."""
    return int(array_cycles(vectors, leaves(size), multipliers))


def depth_cycles(size: int, multipliers: int) -> int:
    """Multiplier, then a register a level of the tree: cycles from the last vector to its score."""
    return 1 + min(leaves(size), multipliers).bit_length() - 1


def sum_bits(word_bits: int, size: int) -> int:
    """Bits of a score: a product has 2 x word_bits, each level of the tree adds one."""
    return 2 * word_bits + leaves(size).bit_length() - 1


def levels(products: Ints) -> list[Ints]:
    """All levels of the tree over products [..., leaves]: level i holds sums of 2^i neighbours."""
    found = [products]
    while found[-1].shape[-1] > 1:
        found.append(found[-1][..., 0::2] + found[-1][..., 1::2])
    return found


def scores(query: Ints, keys: Ints, word_bits: int) -> Ints:
    """Scores of one query: words [D] times words [m, D], int64 [m], exactly.

    Raises ValueError where a word does not have `word_bits` bits.
    """
    for name, words in (("query", query), ("keys", keys)):
        if not fits(words, word_bits):
            raise ValueError(f"scores: {name} must be words of {word_bits} bits, got {words.min()}..{words.max()}")
    products = np.zeros((len(keys), leaves(len(query))), np.int64)
    products[:, : len(query)] = keys * query
    found = levels(products)
    for level, sums in enumerate(found):
        assert fits(sums, 2 * word_bits + level)
    return found[-1][:, 0]
