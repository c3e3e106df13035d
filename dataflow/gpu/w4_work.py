"""What a GEMM with 4-bit weights moves and computes, whichever kernel does it: operands, what the L2 keeps, norms."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from accel.gpu.machine import GpuMachine
from dataflow.gpu.estimate import Floats
from dataflow.gpu.w4_tiles import BAND, CHUNK, Plan, Whole

ARRIVE = 64.0  # bytes a cycle that a multiprocessor takes from the L2: CUDA's profiler calls it the peak since Volta


@dataclass(frozen=True)
class Problem:
    """y [M, N] = x [M, K] W^T, arrays [points], with the tiles that the operator takes."""

    kind: str
    m: Floats
    n: Floats
    k: Floats
    plan: Plan
    weight_bytes: Floats
    x_bytes: int
    """of an element"""

    @property
    def activation_bytes(self) -> Floats:
        return self.m * self.k * self.x_bytes

    @property
    def output_bytes(self) -> Floats:
        return 2.0 * self.m * self.n

    @property
    def rows(self) -> Floats:
        """Tokens of a tile that are there, on average."""
        return self.m / np.ceil(self.m / self.plan.tokens)

    @property
    def weight_chunk(self) -> Floats:
        """Bytes of weights that a block fetches for 128 inputs."""
        return self.plan.channels * CHUNK * self.weight_bytes / (self.n * self.k)

    @property
    def products(self) -> Floats:
        """Operations that run, those of rows and channels outside included."""
        return 2.0 * self.plan.tiles * self.plan.tokens * self.plan.channels * self.k


def whole_numbers(*values: ArrayLike) -> list[Whole]:
    """Numbers or arrays as whole numbers >= 1 of one length. Raises ValueError otherwise."""
    found = [np.atleast_1d(np.asarray(value)) for value in values]
    for one in found:
        if not (one >= 1).all() or not (one == np.floor(one)).all():
            raise ValueError(f"M, N, K: must be whole numbers >= 1, got {one.min()}")
    return [one.astype(np.int64) for one in np.broadcast_arrays(*found)]


def memory_bytes(machine: GpuMachine, problem: Problem) -> tuple[Floats, Floats]:
    """Bytes (read, written) that cross the memory bus: weights cold, the rest as far as the L2 cannot keep it.

    Weights are read once for each band of token tiles. Of what is used again only the share is found that the L2 holds
    of everything that passes in between.
    """
    footprint = problem.weight_bytes + problem.activation_bytes + problem.output_bytes
    lost = np.maximum(0.0, 1.0 - machine.cache.bytes / footprint)
    bands = np.ceil(np.ceil(problem.m / problem.plan.tokens) / BAND)
    again = (bands - 1.0) * problem.weight_bytes + problem.activation_bytes
    return problem.weight_bytes + lost * again, lost * problem.output_bytes


def memory_cycles(machine: GpuMachine, traffic: Floats) -> Floats:
    """Of so many bytes at the rate of a kernel that only reads."""
    return traffic / machine.memory.read_bytes_per_s * machine.clock_hz


def cache_cycles(machine: GpuMachine, traffic: Floats) -> Floats:
    """Of so many bytes at the L2's bandwidth."""
    return traffic / machine.cache.bytes_per_s * machine.clock_hz


def slowed(machine: GpuMachine, cycles: Floats, most: float, within_s: float) -> Floats:
    """Cycles of products, longer where they go on for so long that the power limit lowers the clock."""
    return cycles * (1.0 + most * (1.0 - np.exp(-cycles / machine.clock_hz / within_s)))


def joined(terms: list[Floats], exponent: float) -> Floats:
    """The p-norm: the largest for a large exponent, the sum for 1."""
    stacked = np.stack(np.broadcast_arrays(*terms))
    largest = stacked.max(axis=0)
    ratios = stacked / np.where(largest > 0, largest, 1.0)
    return np.asarray(largest * (ratios**exponent).sum(axis=0) ** (1.0 / exponent))
