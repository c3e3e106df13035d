"""How many threads and blocks take a row. No torch, no CUDA.

The sums of `model.py` take 256 threads, each every 256th piece of 8 values. A block of a cluster stands for
256 / cluster of them; `groups` threads share the pieces of one of them, `steps` each. Results depend on none of it.
"""

from dataclasses import dataclass

TREE, PIECE = 256, 8  # threads of the sums in `model.py`, values of a piece
MODES = {"plain": 0, "norm": 1, "gate": 2}  # the macro MODE of kernel.cu
MOST = 32 * TREE * PIECE  # channels: what the registers of a thread hold of a row
_MOST_THREADS = 1024


@dataclass(frozen=True)
class Shape:
    """How a row is shared out.

    cluster   blocks of a row, 1, 2, 4 or 8; above 1 from sm_90 on
    groups    threads that share what `model.py` gives one thread
    steps     pieces of a thread
    """

    cluster: int
    groups: int
    steps: int

    @property
    def threads(self) -> int:
        """Of a block."""
        return TREE // self.cluster * self.groups

    @property
    def channels(self) -> int:
        """The longest row."""
        return TREE * self.groups * self.steps * PIECE


def shape_for(channels: int, steps: int, cluster: int = 1) -> Shape:
    """Threads with at most that many pieces each, as far as a block has room for them."""
    rounds = -(-channels // (TREE * PIECE))  # pieces of one of the 256 threads
    most = _MOST_THREADS // (TREE // cluster)
    groups = min(most, -(-rounds // min(steps, rounds)))
    return Shape(cluster, groups, -(-rounds // groups))


def choose(mode: str, tokens: int, channels: int, multiprocessors: int, clusters: bool) -> Shape:
    """What the operator takes; `clusters`: whether the GPU has them (sm_90).

    A gate is arithmetic enough (27 instructions a value) to be worth several multiprocessors a row where rows are few;
    the others wait for memory and for their sums. Measured: README.
    """
    few = tokens <= multiprocessors
    if mode == "gate" and clusters and few:
        return shape_for(channels, 1, 8 if 8 * tokens <= multiprocessors else 2)
    return shape_for(channels, 1 if mode == "norm" and few else 2)


def macros(mode: str, shape: Shape, float16: bool, residual: bool, sums: bool) -> dict[str, int]:
    """All macros of kernel.cu."""
    return {
        "MODE": MODES[mode],
        "FLOAT16": int(float16),
        "RESIDUAL": int(residual),
        "SUMS": int(sums),
        "CLUSTER": shape.cluster,
        "GROUPS": shape.groups,
        "STEPS": shape.steps,
    }
