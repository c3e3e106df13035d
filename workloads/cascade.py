"""Cascade token and head pruning of one text on recorded facts (SpAtten, Alg. 2), compiled by Numba."""

from dataclasses import dataclass, replace

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class Kept:
    """What pruning left of one text: the data-dependent part of its work.

    tokens, heads   int64 [L]   how many take part in each layer
    positions       int64 [sum(tokens)]   kept positions, ascending, layer by layer
    head            int64 [sum(heads)]    kept heads, ascending, layer by layer
    row_max         uint8 [sum(heads * tokens)]
    score           float64 [.]   candidates of each token top-k
    """

    tokens: Ints
    heads: Ints
    positions: Ints
    head: Ints
    row_max: Bytes
    score: Floats


def score_lengths(tokens: Ints, readmit: bool = False) -> Ints:
    """Candidates of the token top-k after each layer, 0 where none runs; all tokens where they may return."""
    candidates = np.full(len(tokens), tokens[0]) if readmit else tokens
    return np.where(np.append(tokens[1:] < candidates[:-1], False), candidates, 0)


def prune(
    tokens: Ints,
    heads: Ints,
    importance: NDArray[np.float32],
    row_max: Bytes,
    head_score: NDArray[np.float32],
    thresholds: Floats | None = None,
    readmit: bool = False,
) -> Kept:
    """Cascade pruning of one text by recorded facts (SpAtten, Alg. 2).

    tokens, heads   int64 [L]   how many take part in each layer, from `workloads.schedule`
    importance, row_max   [L, H, n];  head_score   [L, H]   of the dense run
    thresholds   float64 [L]   least mean importance of the tokens of a layer, 0 = no threshold; the recorded
                 sums are scaled so that those of the tokens still there add up to 1, as they do in the loop
    readmit      each layer chooses anew among all tokens; absent tokens gather no score
    """
    kept = Kept(
        tokens.copy(),
        heads,
        positions=np.empty(tokens.sum(), np.int64),
        head=np.empty(heads.sum(), np.int64),
        row_max=np.empty((tokens * heads).sum(), np.uint8),
        score=np.empty(score_lengths(tokens, readmit).sum()),
    )
    limits = np.zeros(len(tokens)) if thresholds is None else thresholds
    results = (kept.positions, kept.head, kept.row_max, kept.score)
    _prune(importance, row_max, head_score, kept.tokens, heads, limits, readmit, *results)
    return _trimmed(kept) if thresholds is not None else kept


def _trimmed(kept: Kept) -> Kept:
    """Thresholds leave fewer tokens than there was room for."""
    rows = int((kept.tokens * kept.heads).sum())
    return replace(kept, positions=kept.positions[: kept.tokens.sum()], row_max=kept.row_max[:rows])


# Results are passed in and filled by loops: Numba compiles that in half the time of slices and reductions.
@njit(cache=True)
def _prune(
    importance: NDArray[np.float32],
    row_max: Bytes,
    head_score: NDArray[np.float32],
    tokens: Ints,
    heads: Ints,
    thresholds: Floats,
    readmit: bool,
    positions: Ints,
    head: Ints,
    maxima: Bytes,
    score: Floats,
) -> None:
    """The last four arguments are filled: fields of `Kept`; thresholds lower `tokens`."""
    token_score, head_total = np.zeros(tokens[0]), np.zeros(heads[0])
    everyone = np.arange(tokens[0])
    alive, alive_heads = everyone, np.arange(heads[0])
    p = h = m = s = 0
    for layer in range(len(tokens)):
        for j in alive:
            positions[p] = j
            p += 1
        for one in alive_heads:
            head[h] = one
            h += 1
            head_total[one] += head_score[layer, one]
            for j in alive:
                token_score[j] += importance[layer, one, j]
                maxima[m] = row_max[layer, one, j]
                m += 1
        if layer + 1 == len(tokens):
            break
        if thresholds[layer + 1] > 0:
            alive = _above(importance[layer], alive_heads, alive, thresholds[layer + 1])
            tokens[layer + 1] = len(alive)
        else:
            alive = everyone if readmit else alive
            if tokens[layer + 1] < len(alive):
                for j in alive:
                    score[s] = token_score[j]
                    s += 1
            alive = _keep(token_score, alive, tokens[layer + 1])
        alive_heads = _keep(head_total, alive_heads, heads[layer + 1])


@njit(cache=True)
def _above(importance: NDArray[np.float32], heads: Ints, alive: Ints, threshold: float) -> Ints:
    """The members of `alive` whose part of this layer's probability is at least `threshold`, or the best one."""
    part = np.zeros(len(alive))
    for one in heads:
        for place, j in enumerate(alive):
            part[place] += importance[one, j]
    limit = threshold * part.sum()
    if part.max() < limit:
        return alive[part.argmax() : part.argmax() + 1]
    return alive[part >= limit]


@njit(cache=True)
def _keep(score: Floats, alive: Ints, count: int) -> Ints:
    """The `count` members of `alive` with the largest score, ascending; the lowest index wins a tie."""
    if count == len(alive):
        return alive
    limit = np.sort(score[alive])[len(alive) - count]
    room = count - np.sum(score[alive] > limit)  # for those equal to the limit
    kept, found = np.empty(count, np.int64), 0
    for one in alive:
        if score[one] > limit or (score[one] == limit and room > 0):
            room -= score[one] == limit
            kept[found] = one
            found += 1
    return kept
