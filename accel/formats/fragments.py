"""Which element of a tile lies in which lane and register of a tensor-core instruction: one table.

Source: PTX ISA, "Matrix Fragments for mma.m16n8k8", "... m16n8k16 with floating point type", "... m16n8k32",
"... m16n8k64" (warp-level mma) and "Register Fragments" of wgmma.mma_async (m64nNk16, m64nNk32).
A is [M, K], B is [K, N] as in PTX ("row", "col" operands), C and D are [M, N]. In each arrangement the lane of a warp
is 4 r + q (PTX: groupID = r, threadID_in_group = q), w is the warp of a warpgroup; the last group counts the elements
of a lane, low to high: element e sits in 32-bit register e * bits // 32.
Products on an H200 confirm rows, columns and that A and B agree along K (`gpu_kernels/arithmetic_probe`; an order of K
that both share cannot be seen): m16n8k8, k16, k32, and wgmma of both depths with N = 8. m16n8k64 and larger N are from
the PTX ISA alone.
Block scales of mxf4nvf4 (scale_vec::4X): four E4M3 scales in one register; of each four lanes two have rows r and
r + 8 of A, one has column r of B, here for thread-id 0 of the instruction. Assumed: not run by us.
Left out: m8n8 shapes, sparse forms, B of wgmma (always in shared memory).
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.formats.arrangement import Arrangement

Places = NDArray[np.int64]
_QUAD = 4


@dataclass(frozen=True)
class Fragment:
    """One operand of one instruction.

    bits       of an element
    shape      of the tile; columns of a wgmma D: for N = 8, others by `places(columns=N)`
    per_quad   how many of each four lanes hold elements
    """

    instruction: str
    operand: str
    bits: int
    shape: tuple[int, int]
    arrangement: Arrangement
    per_quad: int = _QUAD

    def places(self, columns: int | None = None) -> Places:
        """int64 [lanes that hold elements, elements, 2]: row and column. Raises ValueError for an unfit N."""
        shape = self.shape[0], self.shape[1] if columns is None else columns
        flat = self.arrangement.pack(np.arange(shape[0] * shape[1]).reshape(shape))
        return np.stack(np.divmod(flat, shape[1]), axis=-1)

    def lanes(self) -> Places:
        """int64: the lanes that hold elements, in the order of `places`; 0..127 for wgmma."""
        holders = np.arange(len(self.places()))
        return holders // self.per_quad * _QUAD + holders % self.per_quad

    def place(self, lane: int, element: int) -> tuple[int, int]:
        """(row, column) of one element. Raises ValueError where the lane has no such element."""
        lanes, places = self.lanes().tolist(), self.places()
        if lane not in lanes or not 0 <= element < places.shape[1]:
            raise ValueError(f"{self.arrangement.name}: lane {lane} has no element {element}")
        row, column = places[lanes.index(lane), element].tolist()
        return row, column


def _fragment(
    instruction: str, operand: str, bits: int, shape: tuple[int, int], words: tuple[str, str], per_quad: int = _QUAD
) -> Fragment:
    return Fragment(instruction, operand, bits, shape, Arrangement(f"{instruction} {operand}", *words), per_quad)


_ACCUMULATOR = ("i2 r8 | q4 e2", "(r q) (i e)")  # of m16n8: rows r and r + 8, two columns next to each other


def _warp(name: str, bits: int, k: int) -> list[Fragment]:
    """m16n8: a lane holds pieces of 32 bits, of rows r and r + 8, then again K / 2 further."""
    run = 32 // bits
    whole = k == _QUAD * run * 2
    a = (f"i2 r8 | c2 q4 e{run}", "(r q) (c i e)") if whole else (f"i2 r8 | q4 e{run}", "(r q) (i e)")
    b = (f"c2 q4 e{run} | r8", "(r q) (c e)") if whole else (f"q4 e{run} | r8", "(r q) (e)")
    return [
        _fragment(name, "A", bits, (16, k), a),
        _fragment(name, "B", bits, (k, 8), b),
        _fragment(name, "D", 32, (16, 8), _ACCUMULATOR),
    ]


def _warpgroup(name: str, bits: int, k: int) -> list[Fragment]:
    """m64nN: warp w has rows 16 w to 16 w + 15, each as in m16n8."""
    run = 32 // bits
    return [
        _fragment(name, "A", bits, (64, k), (f"w4 i2 r8 | c2 q4 e{run}", "(w r q) (c i e)")),
        _fragment(name, "D", 32, (64, 8), ("w4 i2 r8 | j q4 e2", "(w r q) (j i e)")),
    ]


_TABLE = [
    *_warp("mma.m16n8k8.f16", 16, 8),  # .bf16 likewise
    *_warp("mma.m16n8k16.f16", 16, 16),
    *_warp("mma.m16n8k32.s8", 8, 32),  # .u8, .e4m3, .e5m2 likewise
    *_warp("mma.m16n8k64.s4", 4, 64),  # .u4 likewise
    *_warp("mma.m16n8k64.mxf4nvf4", 4, 64),
    _fragment("mma.m16n8k64.mxf4nvf4", "scale A", 8, (16, 4), ("i2 r8 | e4", "(r i) (e)"), per_quad=2),
    _fragment("mma.m16n8k64.mxf4nvf4", "scale B", 8, (4, 8), ("e4 | r8", "(r) (e)"), per_quad=1),
    *_warpgroup("wgmma.m64nNk16.f16", 16, 16),  # .bf16 likewise
    *_warpgroup("wgmma.m64nNk32.s8", 8, 32),  # .u8, .e4m3, .e5m2 likewise
]
_FRAGMENTS = {(one.instruction, one.operand): one for one in _TABLE}


def fragments() -> tuple[Fragment, ...]:
    """The table."""
    return tuple(_TABLE)


def fragment(instruction: str, operand: str) -> Fragment:
    """One row of it, as fragment("mma.m16n8k32.s8", "A"). Raises ValueError where there is none."""
    found = _FRAGMENTS.get((instruction, operand))
    if found is None:
        names = [f"{first} {second}" for first, second in _FRAGMENTS]
        near = get_close_matches(f"{instruction} {operand}", names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"fragments: no {instruction} {operand}{hint}")
    return found


def gather(matrix: Any, one: Fragment) -> Any:
    """The fragment of a tile: [lanes that hold elements, elements] of matrix [rows, columns]."""
    return one.arrangement.pack(matrix)
