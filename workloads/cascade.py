"""Cascade token and head pruning of one text on recorded facts (SpAtten, Alg. 2), compiled by Numba."""

from dataclasses import dataclass

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


def score_lengths(tokens: Ints) -> Ints:
    """Candidates of the token top-k after each layer, 0 where none runs."""
    return np.where(np.append(tokens[1:] < tokens[:-1], False), tokens, 0)


def prune(
    tokens: Ints,
    heads: Ints,
    importance: NDArray[np.float32],
    row_max: Bytes,
    head_score: NDArray[np.float32],
) -> Kept:
    """Cascade pruning of one text by recorded facts (SpAtten, Alg. 2).

    tokens, heads   int64 [L]   how many take part in each layer, from `workloads.schedule`
    importance, row_max   [L, H, n];  head_score   [L, H]   of the dense run
    """
    kept = Kept(
        tokens,
        heads,
        positions=np.empty(tokens.sum(), np.int64),
        head=np.empty(heads.sum(), np.int64),
        row_max=np.empty((tokens * heads).sum(), np.uint8),
        score=np.empty(score_lengths(tokens).sum()),
    )
    results = (kept.positions, kept.head, kept.row_max, kept.score)
    _prune(importance, row_max, head_score, tokens, heads, *results)
    return kept


# Results are passed in and filled by loops: Numba compiles that in half the time of slices and reductions.
@njit(cache=True)
def _prune(
    importance: NDArray[np.float32],
    row_max: Bytes,
    head_score: NDArray[np.float32],
    tokens: Ints,
    heads: Ints,
    positions: Ints,
    head: Ints,
    maxima: Bytes,
    score: Floats,
) -> None:
    """The last four arguments are filled: fields of `Kept`."""
    token_score, head_total = np.zeros(tokens[0]), np.zeros(heads[0])
    alive, alive_heads = np.arange(tokens[0]), np.arange(heads[0])
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
        if tokens[layer + 1] < tokens[layer]:
            for j in alive:
                score[s] = token_score[j]
                s += 1
        alive = _keep(token_score, alive, tokens[layer + 1])
        alive_heads = _keep(head_total, alive_heads, heads[layer + 1])


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
