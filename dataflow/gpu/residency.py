"""How many bytes pass through the L2 between two uses of a tensor: what decides whether the second finds it there.

Kernels run in order and stream their operands; a byte that lies at some share of one kernel is used at the same share
of the next, so between two uses pass the bytes from the middle of one kernel to the middle of the other. A pass is
repeated: before a tensor's first use lies the end of the pass before. Left out: bytes that pass twice count twice, and
what the memory allocator puts where a freed tensor was.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
UNKNOWN = -1  # tensor: nobody else of the pass touches it as far as the trace says


@dataclass(frozen=True, eq=False)
class Touches:
    """Arrays [touches], by kernel in order: which kernel, which tensor, bytes, whether it is written."""

    kernel: Integers
    tensor: Integers
    bytes: Floats
    written: NDArray[np.bool_]


def passing_bytes(touches: Touches, kernels: int) -> Floats:
    """[touches] bytes between a read and the use before it, and between a write and the use behind it."""
    each = np.bincount(touches.kernel, touches.bytes, kernels)
    middle = (np.cumsum(each) - each / 2)[touches.kernel]
    whole = float(each.sum())
    order = np.lexsort((touches.written, touches.kernel, touches.tensor))
    tensor, place = touches.tensor[order], middle[order]
    first = np.r_[True, tensor[1:] != tensor[:-1]]
    last = np.r_[first[1:], True]
    group = np.cumsum(first) - 1
    ahead = np.r_[place[1:], 0.0] - place
    behind = place - np.r_[0.0, place[:-1]]
    around = whole - (place[last] - place[first])[group]  # from the last use to the first of the next pass
    found = np.where(touches.written[order], np.where(last, around, ahead), np.where(first, around, behind))
    found = np.where(tensor == UNKNOWN, whole, found)
    result = np.empty_like(found)
    result[order] = found
    return result
