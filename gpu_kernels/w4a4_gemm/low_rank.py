"""The 16-bit low-rank branch of SVDQuant: both of its products run on 16-bit tensor cores with float32 sums.

Source: Nunchaku v1.1, lora.cuh. Ranks go in steps of 16 there; here the tensor core's rule fills the last block with
zeros, which adds nothing.
"""

from typing import Any

import numpy as np

from accel.arithmetic import Floats, round_to
from accel.tensor_core import matmul, rule
from gpu_kernels.operands import State, bias_of, floats_of

COLUMNS = 128  # inputs that one thread block of the down-projection adds up
RANKS = 16  # neighbouring ranks that share one adapter strength


def down_projection(x: Any, down: Any, form: str, architecture: str) -> Floats:
    """x down^T, float32 [M, r]; x [M, K] and down [r, K] on the grid of `form`.

    The tensor core adds each 128 inputs from zero, K upwards. Nunchaku then adds these partial sums with float32
    atomics in no fixed order; here the order is upwards too, each addition rounded to nearest.
    """
    how = rule(architecture, form)
    total = np.zeros((len(x), len(down)), np.float32)
    for first in range(0, x.shape[1] if len(down) else 0, COLUMNS):
        part = slice(first, first + COLUMNS)
        total = total + matmul(x[:, part], down[:, part], None, how)
    return total


def up_projection(y: Floats, lora_act: Any, up: Any, form: str, architecture: str, strengths: Any = None) -> Floats:
    """y + lora_act up^T, rounded to `form`; y [M, N] in `form` is where the float32 accumulator starts.

    lora_act float32 [M, r], rounded to `form` after the product with its strength; up [N, r]
    strengths: float32 [r/16], one for each 16 ranks (adapters that share the branch), or None for 1
    Raises ValueError for lora_act of another shape and a wrong number of strengths.
    """
    rank = np.shape(up)[1]
    if rank == 0:
        return y
    if np.shape(lora_act) != (len(y), rank):
        raise ValueError(f"lora_act: must have shape {(len(y), rank)}, got {np.shape(lora_act)}")
    left = np.asarray(lora_act, np.float32) * _by_rank(strengths, rank)
    return round_to(matmul(round_to(left, form), up, y, rule(architecture, form)), form)


def _by_rank(strengths: Any, rank: int) -> Floats:
    """The strength of each rank, float32 [r]."""
    if strengths is None:
        return np.ones(rank, np.float32)
    given = np.asarray(strengths, np.float32)
    if given.shape != (-(-rank // RANKS),):
        raise ValueError(f"strengths: must be one for each {RANKS} of {rank} ranks, got shape {given.shape}")
    found: Floats = np.repeat(given, RANKS)[:rank]
    return found


def check_pair(kind: str, state: State) -> None:
    """ValueError unless `down` and `up` are both there, or neither, and have one rank."""
    shapes = [None if state.get(name) is None else np.shape(state[name]) for name in ("down", "up")]
    ranks = None if shapes[0] is None else shapes[0][:1], None if shapes[1] is None else shapes[1][1:]
    if ranks[0] != ranks[1]:
        raise ValueError(
            f"{kind}: down [r, K] and up [N, r] come together, with one r, got {shapes[0]} and {shapes[1]}"
        )


def branch(where: str, weights: Any, shape: tuple[int | None, int | None], form: str) -> Floats:
    """`down` or `up` as float32, with no ranks where there is none (the None of `shape`); ValueError if it misfits."""
    given = np.empty([size or 0 for size in shape]) if weights is None else np.asarray(weights)
    if given.ndim != 2 or any(size not in (None, is_) for size, is_ in zip(shape, given.shape, strict=True)):
        raise ValueError(f"{where}: must have shape {shape} (None: the rank), got {given.shape}")
    return floats_of(where, given, given.shape, form)


def biased(where: str, y: Floats, bias: Any, form: str) -> Floats:
    """y [M, N] plus the bias [N], if there is one: a 16-bit addition. ValueError if it misfits."""
    given = bias_of(where, bias, y.shape[1], form)
    return round_to(y.astype(np.float64) + given, form) if len(given) else y


def written(y: Floats, form: str) -> Floats:
    """What the kernel writes: float16 stays within +-65504 (an infinity and a NaN become that), bfloat16 as it is."""
    if form != "float16":
        return y
    return np.fmax(np.fmin(y, np.float32(65504)), np.float32(-65504))
