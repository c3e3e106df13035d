"""The LSB decision (section III-D): a maximum over a row of probabilities, compared with the threshold.

The row is held until its last probability has come: only then is it known whether it will be computed again.
"""

import numpy as np

from dataflow.spatten.modules.fixed_point import Ints


def threshold_word(threshold: float, prob_bits: int) -> int:
    """The threshold as probabilities are rounded: to the nearest 2^-prob_bits."""
    return int(np.rint(threshold * (1 << prob_bits)))


def needs_lsb(probabilities: Ints, threshold: float, prob_bits: int) -> bool:
    """Whether a row of probability words [m] is so flat that the MSBs of K do not do."""
    return int(probabilities.max()) < threshold_word(threshold, prob_bits)


def cycles(probabilities: int, lanes: int) -> int:
    """Cycles that a row is held at least: it comes `lanes` a cycle, and passes the maximum tree."""
    return -(-probabilities // lanes) + (lanes - 1).bit_length()
