"""Random operands of a layer, from a seed: NumPy. Large matrices repeat a few blocks of 64 output channels, so that
they are packed and checked in no time; every repetition has bytes of its own on the GPU.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.decode_layer.config import GROUP, ROTARY_BASE, Sizes

CHANNELS = 64  # of a block
MOST_BLOCKS = 16  # that are drawn of one matrix


@dataclass(frozen=True, eq=False)
class Matrix:
    """W [N, K] = (code - zero) group_scale scale, in blocks of 64 channels; `order` says which block comes where."""

    codes: NDArray[np.uint8]  # [64 blocks, K], 0..15
    group_scale: NDArray[np.uint8]  # [64 blocks, K / 128]
    group_zero: NDArray[np.uint8]
    scale: NDArray[np.float32]  # [64 blocks], on the float16 grid
    order: NDArray[np.int64]  # [N / 64]

    @property
    def rows(self) -> NDArray[np.int64]:
        """[N]: which of the drawn channels each one is."""
        return (self.order[:, None] * CHANNELS + np.arange(CHANNELS)).ravel()

    @cached_property
    def int8(self) -> NDArray[np.float64]:
        """Integer weights [64 blocks, K]."""
        scale, zero = (
            np.repeat(part.astype(np.float64), GROUP, axis=1) for part in (self.group_scale, self.group_zero)
        )
        return (self.codes - zero) * scale

    def times(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """x W^T [M, N] without the scale of channels."""
        return (x @ self.int8.T)[:, self.rows]

    def scales(self) -> NDArray[np.float32]:
        """[N]"""
        return self.scale[self.rows]


@dataclass(frozen=True, eq=False)
class Weights:
    """All that a layer has."""

    sizes: Sizes
    matrices: dict[str, Matrix]  # by name, as in Sizes.matrices
    norms: tuple[NDArray[np.float32], NDArray[np.float32]]  # before attention, before the gate; on the float16 grid


def weights(sizes: Sizes, seed: int) -> Weights:
    """Matrices that keep the size of what goes through them."""
    draw = np.random.default_rng(seed)
    matrices = {name: _matrix(draw, n, k) for name, (n, k) in sizes.matrices.items()}
    first, second = (round_to(draw.normal(1, 0.1, sizes.hidden), "float16") for _ in range(2))
    return Weights(sizes, matrices, (first, second))


def _matrix(draw: np.random.Generator, outputs: int, inputs: int) -> Matrix:
    """Group scales and zeros within the protective range: code x scale at most 255, weights at most 127."""
    blocks = min(MOST_BLOCKS, outputs // CHANNELS)
    shape = blocks * CHANNELS, inputs // GROUP
    codes = draw.integers(0, 16, (shape[0], inputs), np.uint8)
    group_scale, group_zero = draw.integers(4, 13, shape, np.uint8), draw.integers(6, 10, shape, np.uint8)
    deviation = 37.0 * np.sqrt(inputs)  # of a sum of weights, nearly
    scale = round_to(draw.uniform(0.7, 1.3, shape[0]) / deviation, "float16")
    order = np.concatenate([np.arange(blocks), draw.integers(0, blocks, outputs // CHANNELS - blocks)])
    return Matrix(codes, group_scale, group_zero, scale, order)


def rotation(positions: Any, sizes: Sizes) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(cosine, sine) float32 [B, D / 2] of positions [B]."""
    angle = np.asarray(positions, np.float64)[:, None] / ROTARY_BASE ** (
        np.arange(0, sizes.head_size, 2) / sizes.head_size
    )
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)
