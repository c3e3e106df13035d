"""The zero eliminator (arXiv 2012.09852, section IV-C, Fig. 10): closes the gaps between kept lanes, in order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Lanes = NDArray[Any]


@dataclass(frozen=True)
class ZeroEliminator:
    """`lanes` inputs a cycle; ceil(log2(lanes)) shifts by 1, 2, 4..., the smallest first.

    The paper marks a dropped lane by the value 0; here a mask does, so that a value of 0 may win.
    """

    lanes: int

    def __post_init__(self) -> None:
        if self.lanes < 1:
            raise ValueError(f"ZeroEliminator: lanes must be >= 1, got {self.lanes}")

    @property
    def shifts(self) -> int:
        """Stages of the shifter."""
        return (self.lanes - 1).bit_length()

    def stages(self, values: Lanes, keep: NDArray[np.bool_]) -> list[tuple[Lanes, NDArray[np.bool_]]]:
        """(values, which lanes hold one) before the shifter and after each of its stages.

        values, keep   [lanes]
        """
        if len(values) != self.lanes or len(keep) != self.lanes:
            raise ValueError(f"ZeroEliminator: {self.lanes} lanes, got {len(values)} values and {len(keep)} marks")
        gaps: NDArray[np.int_] = np.cumsum(~keep) - ~keep
        used = keep
        steps = [(values, used)]
        for bit in range(self.shifts):
            values, used, gaps = _shift(values, used, gaps, bit)
            steps.append((values, used))
        return steps

    def pack(self, values: Lanes, keep: NDArray[np.bool_]) -> Lanes:
        """The kept values, in order."""
        packed, used = self.stages(values, keep)[-1]
        return packed[: np.count_nonzero(used)]


def _shift(
    values: Lanes, used: NDArray[np.bool_], gaps: NDArray[np.int_], bit: int
) -> tuple[Lanes, NDArray[np.bool_], NDArray[np.int_]]:
    """Lanes whose gap count has `bit` move down by 2**bit; a lane that would get two is an error of ours."""
    step, moves = 1 << bit, used & (gaps >> bit & 1 == 1)
    arrives = np.append(moves[step:], np.zeros(min(step, len(used)), bool))
    stays = used & ~moves
    assert not (arrives & stays).any()
    above = np.minimum(np.arange(len(used)) + step, len(used) - 1)
    source = np.where(arrives, above, np.arange(len(used)))
    return values[source], arrives | stays, gaps[source]
