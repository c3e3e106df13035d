"""Which tile a library takes: chances of each candidate by a conditional logit, and the time between them."""

import numpy as np

from accel.gpu.gemm import Choice
from dataflow.gpu.estimate import Floats
from dataflow.gpu.tiles import Blocks, Candidates

_PLAIN = 128.0 * 128.0  # outputs of the tile that `Choice.blocks` measures others by
_MANY = 64.0  # rows from which their padding counts in full


def chances(choice: Choice, one: Candidates, blocks: Blocks, log_s: Floats, m: Floats, multiprocessors: int) -> Floats:
    """[points, candidates], summing to 1; 0 where a candidate is not allowed. `log_s`: log of each one's own time."""
    per = np.log(blocks.tiles / multiprocessors)
    logit = (
        one.liking
        - choice.time * log_s
        + choice.idle * np.log(blocks.turns * multiprocessors / blocks.count)
        + choice.padding * np.log(np.ceil(m / one.rows) * one.rows / m) * np.minimum(1.0, m / _MANY)
        + choice.split * np.log(one.parts)
        + choice.splits * (one.parts > 1)
        + choice.blocks * per * np.log(one.rows * one.columns / _PLAIN)
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
