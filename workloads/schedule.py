"""How many tokens and heads a `Policy` keeps in each layer. No torch here."""

from math import ceil

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy

Ints = NDArray[np.int64]
Keep = float | tuple[float, ...]
_ROUNDING = 1e-9  # a product such as 0.3 * 10 may come out a little above the whole number that is meant


def keep_counts(policy: Policy, layers: int, n_tokens: int, n_heads: int, *, scored: bool = False) -> tuple[Ints, Ints]:
    """Tokens and heads that take part in each layer, int64 [layers] each, at least 1 and never rising.

    A share is rounded up to whole tokens or heads.  Layer l + 1 keeps fewer than layer l where a top-k runs
    after layer l; the first layer takes all whatever its share, as nothing has been scored yet, unless
    `scored`: a later step of a sentence.  With `policy.readmit` tokens may rise again.  With
    `policy.token_threshold` the counts of tokens are upper bounds: all of them.  Raises ValueError when a
    policy lists shares for another number of layers.
    """
    tokens = keep_shares("token_keep", policy.token_keep, policy.token_front, policy.token_taper, layers)
    heads = keep_shares("head_keep", policy.head_keep, policy.head_front, policy.head_taper, layers)
    return _counts(tokens, n_tokens, scored, policy.readmit), _counts(heads, n_heads, scored, False)


def keep_thresholds(policy: Policy, layers: int) -> NDArray[np.float64]:
    """Least mean importance of the tokens of each layer, float64 [layers]: 0 in front, then a rising line.

    LTP (arXiv 2107.00910, section 3): threshold of the last layer times the layer's position. Zeros: none.
    """
    front = ceil(policy.token_front * layers - _ROUNDING)
    return policy.token_threshold * np.maximum(np.arange(1, layers + 1) - front, 0) / max(layers - front, 1)


def keep_shares(name: str, keep: Keep, front: float, taper: float, layers: int) -> NDArray[np.float64]:
    """Share that stays in each layer, float64 [layers]: 1 in the front layers, then a straight line.

    The line falls from keep + s to keep - s with s = min(keep * taper, 1 - keep): its mean is `keep` and no
    share exceeds 1 (SpAtten, section V-A: r_start + r_end = 2 r_avg). A single pruned layer gets `keep`.
    """
    if isinstance(keep, tuple):
        if len(keep) != layers:
            raise ValueError(f"policy.{name}: must have one share per layer ({layers}), got {len(keep)}")
        return np.array(keep)
    pruned = layers - ceil(front * layers - _ROUNDING)
    spread = min(keep * taper, 1 - keep) if pruned > 1 else 0.0
    line = np.linspace(keep + spread, keep - spread, pruned)
    return np.concatenate([np.ones(layers - pruned), line])


def _counts(shares: NDArray[np.float64], total: int, scored: bool, rising: bool) -> Ints:
    whole = np.clip(np.ceil(shares * total - _ROUNDING).astype(np.int64), 1, total)
    if not scored:
        whole[0] = total
    return whole if rising else np.minimum.accumulate(whole)


def keep_top(score: NDArray[np.float64], alive: Ints, count: int) -> Ints:
    """The `count` members of `alive` with the largest score, ascending; the lowest index wins a tie."""
    order = np.argsort(-score[alive], kind="stable")[:count]
    return alive[np.sort(order)]
