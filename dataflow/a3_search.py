"""A3's approximation as an algorithm: candidates from sorted columns of K, then post-scoring (arXiv 2002.10941).

The columns of K are sorted once a head. For a query, each column has a pointer at the element with the largest product
with the query's element, and one at the smallest. An iteration takes the largest product of all columns, adds it to the
score of its row if it is positive, and moves that pointer on; then the same with the smallest, if it is negative. Rows
with a positive score after M iterations are candidates; their exact scores are computed.
unverified: "the smallest is left alone while the sum of all that was added is negative" (`guard`) is recalled from the
paper, whose text was not at hand; so is the form of the post-scoring threshold.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def candidates(query: Floats, key: Floats, iterations: int, *, guard: bool = True) -> NDArray[np.int64]:
    """Rows of K that the search finds, ascending.

    query        float64 [d]
    key          float64 [n, d]
    iterations   M >= 1; more than n * d change nothing
    Raises ValueError for shapes that do not fit.
    """
    if key.ndim != 2 or query.shape != key.shape[1:] or iterations < 1:
        raise ValueError(
            f"candidates: query must be [d], key [n, d], iterations >= 1, got {query.shape}, {key.shape}, {iterations}"
        )
    order = np.argsort(key, axis=0, kind="stable")
    scores = _search(np.asarray(query, np.float64), np.asarray(key, np.float64), order, iterations, guard)
    return np.flatnonzero(scores > 0)


@njit(cache=True)
def _search(query, key, order, iterations, guard):  # type: ignore[no-untyped-def]
    """Partial scores [n]."""
    n, d = key.shape
    scores = np.zeros(n)
    high, low = np.zeros(d, np.int64), np.zeros(d, np.int64)  # elements taken from either end
    largest, smallest = np.empty(d), np.empty(d)
    for j in range(d):
        largest[j] = query[j] * key[_row(order, query, j, 0, True), j]
        smallest[j] = query[j] * key[_row(order, query, j, 0, False), j]
    total = 0.0
    for _ in range(min(iterations, n * d)):
        j = int(np.argmax(largest))
        if largest[j] > 0:
            scores[_row(order, query, j, high[j], True)] += largest[j]
            total += largest[j]
            high[j] += 1
            largest[j] = query[j] * key[_row(order, query, j, high[j], True), j] if high[j] < n else -np.inf
        if guard and total < 0:
            continue
        j = int(np.argmin(smallest))
        if smallest[j] < 0:
            scores[_row(order, query, j, low[j], False)] += smallest[j]
            total += smallest[j]
            low[j] += 1
            smallest[j] = query[j] * key[_row(order, query, j, low[j], False), j] if low[j] < n else np.inf
    return scores


@njit(cache=True)
def _row(order, query, j, taken, largest):  # type: ignore[no-untyped-def]
    """The row that comes after `taken` others at that end of column j: from above where the query's sign says so."""
    from_above = (query[j] > 0) == largest
    return order[len(order) - 1 - taken, j] if from_above else order[taken, j]


def post_scored(scores: Floats, percent: float) -> NDArray[np.int64]:
    """Places of the scores whose weight (exponential) is at least `percent` % of the largest one's; 0 < percent <= 100.

    scores   float64 [c], exact scores of the candidates, scaled as for the softmax
    """
    return np.flatnonzero(scores >= scores.max() + math.log(percent / 100))
