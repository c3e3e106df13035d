"""Which tile a library takes: chances of each candidate by a conditional logit, and the time between them."""

import numpy as np

from accel.gpu.gemm import Choice
from dataflow.gpu.estimate import Floats
from dataflow.gpu.problem import Problem
from dataflow.gpu.tiles import Blocks, Candidates

_PLAIN = 128.0 * 128.0  # outputs of the tile that others are measured by
_SIDES = np.array([512.0, 4096.0, 4096.0])  # M, N, K in the middle of what is asked
_MANY = 64.0  # rows from which their padding counts in full


def chances(choice: Choice, one: Candidates, blocks: Blocks, log_s: Floats, problem: Problem, machine: int) -> Floats:
    """[points, candidates], summing to 1; 0 where a candidate is not allowed.

    `log_s`: log of each candidate's own time. `machine`: its multiprocessors.
    """
    m, outputs = problem.m, problem.batch * problem.m * problem.n / (_PLAIN * machine)
    large = choice.outputs * np.log(outputs) + choice.depth * np.log(problem.k / _SIDES[2])
    sides = np.log(np.concatenate([m, problem.n, problem.k], axis=1) / _SIDES)
    logit = (
        one.liking
        + sides @ one.taste
        - choice.time * log_s
        + choice.idle * np.log(blocks.turns * machine / blocks.count)
        + choice.padding * np.log(np.ceil(m / one.rows) * one.rows / m) * np.minimum(1.0, m / _MANY)
        + choice.split * np.log(one.parts)
        + choice.splits * (one.parts > 1)
        + large * np.log(one.rows * one.columns / _PLAIN)
    )
    logit = np.where(blocks.allowed, logit, -np.inf)
    weight = np.exp(logit - logit.max(axis=1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def middle(values: Floats, weights: Floats) -> np.ndarray:
    """[points]: the candidate at the weighted median of the values: as likely too long as too short."""
    order = np.argsort(values, axis=1)
    below = np.cumsum(np.take_along_axis(weights, order, axis=1), axis=1) < 0.5
    place = np.minimum(below.sum(axis=1), values.shape[1] - 1)
    return np.asarray(order[np.arange(len(order)), place])
