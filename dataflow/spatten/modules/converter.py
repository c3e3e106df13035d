"""The bitwidth converter: packed codes from DRAM to on-chip words, by a multiplexer and a shifter (section IV-B).

A plane of DRAM holds the codes of a vector back to back, least significant bit first, each vector from a byte of its
own. A word on chip is left-aligned: a code of fewer bits is padded at the low end, so that words with and without
their LSBs have the same scale. The MSB plane holds code >> lsb_bits (floor), the LSB plane the rest (section III-D).

Codes wider than the word (10+4 and 12+4 bits on a 12-bit datapath) lose their low bits in the shifter: the paper
gives both the splits and the width, not how they meet.
"""

import numpy as np

from dataflow.spatten.modules.fetcher import Bytes
from dataflow.spatten.modules.fixed_point import Ints


def vector_bytes(size: int, bits: int) -> int:
    """Bytes of a packed vector of `size` codes."""
    return -(-size * bits // 8)


def split(codes: Ints, lsb_bits: int) -> tuple[Ints, Ints]:
    """(MSB codes, signed; LSB codes, unsigned): code = msb x 2^lsb_bits + lsb."""
    return codes >> lsb_bits, codes & ((1 << lsb_bits) - 1)


def pack(codes: Ints, bits: int) -> Bytes:
    """What DRAM holds: rows of codes [vectors, size], signed or not, as uint8 [vectors, ceil(size x bits / 8)]."""
    vectors, size = codes.shape
    one_by_one = (codes[:, :, None] >> np.arange(bits) & 1).astype(np.uint8)
    return np.packbits(one_by_one.reshape(vectors, size * bits), axis=1, bitorder="little")


def unpack(stream: Bytes, start_bit: int, count: int, bits: int, signed: bool) -> Ints:
    """`count` codes of a stream from any bit on: a window of bytes, shifted right and masked, int64 [count].

    Raises ValueError where the stream ends before them.
    """
    if start_bit + count * bits > 8 * len(stream):
        raise ValueError(f"unpack: {count} codes of {bits} bits from bit {start_bit} exceed {8 * len(stream)} bits")
    at = start_bit + bits * np.arange(count, dtype=np.int64)
    reach = -(-(bits + 7) // 8)  # bytes that a code may touch
    padded = np.concatenate([stream, np.zeros(reach, np.uint8)]).astype(np.int64)
    window = sum(padded[(at >> 3) + i] << 8 * i for i in range(reach))
    codes: Ints = window >> (at & 7) & ((1 << bits) - 1)
    return (codes ^ 1 << (bits - 1)) - (1 << (bits - 1)) if signed else codes


def unpack_vectors(stream: Bytes, size: int, bits: int, signed: bool) -> Ints:
    """Vectors that follow each other, each from a byte of its own, int64 [vectors, size]."""
    length = vector_bytes(size, bits)
    if (size * bits) % 8 == 0:  # no gaps: one run of codes
        return unpack(stream, 0, len(stream) // length * size, bits, signed).reshape(-1, size)
    vectors = [unpack(part, 0, size, bits, signed) for part in stream.reshape(-1, length)]
    return np.array(vectors, np.int64).reshape(-1, size)


def to_words(codes: Ints, code_bits: int, word_bits: int) -> Ints:
    """Signed codes left-aligned in words; what does not fit is cut off below."""
    places = word_bits - code_bits
    return codes << places if places >= 0 else codes >> -places


def merge(words: Ints, lsb: Ints, msb_bits: int, lsb_bits: int, word_bits: int) -> Ints:
    """Put refetched LSBs below the MSBs that the words hold (all MSBs must be there: msb_bits <= word_bits)."""
    places = word_bits - msb_bits - lsb_bits
    return words | (lsb << places if places >= 0 else lsb >> -places)


def word_scale(code_scale: float, code_bits: int, word_bits: int) -> float:
    """The value of one unit of a word that holds codes of that scale."""
    return code_scale * 2.0 ** (code_bits - word_bits)


def cycles(vectors: int, size: int, bits: int, bytes_a_cycle: int, words_a_cycle: int) -> int:
    """Cycles to convert so many vectors: what DRAM delivers, or what the SRAM writes, whichever takes longer.

    At 512 B and 512 words a cycle (Table I), codes of fewer than 8 bits arrive faster than a line is written.
    """
    return max(-(-vectors * vector_bytes(size, bits) // bytes_a_cycle), -(-vectors * size // words_a_cycle))
