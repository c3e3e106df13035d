"""The quick-select top-k engine (arXiv 2012.09852, section IV-B, Alg. 3): how many passes, how many cycles.

A pass sends the survivors through the comparator arrays, which keep those above or below a random pivot; it
takes ceil(survivors / comparators) cycles and an overhead.  When the k-th largest is known, the zero
eliminator filters the buffered input once, in its own stage.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True)
def next_random(state):  # type: ignore[no-untyped-def]
    """splitmix64: (new state, 64 random bits). Numba's own generator would tie results to call order."""
    state = np.uint64(state + np.uint64(0x9E3779B97F4A7C15))
    z = state
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state, z ^ (z >> np.uint64(31))


@njit(cache=True)
def _draw(state, n):  # type: ignore[no-untyped-def]
    """(new state, integer in 0..n-1); the bias of at most n / 2**31 does not matter here."""
    state, bits = next_random(state)
    return state, np.int64((bits >> np.uint64(33)) * np.uint64(n) >> np.uint64(31))


@njit(cache=True)
def select_by_rank(n, k, comparators, overhead, seed):  # type: ignore[no-untyped-def]
    """(cycles, passes, comparisons) to find the k-th largest of n distinct values in random order."""
    state = np.uint64(seed)
    cycles, passes, compared = 0, 0, 0
    while n > 0:
        state, pivot = _draw(state, n)  # rank of the pivot among the survivors, 0 = largest
        cycles += -(-n // comparators) + overhead
        passes += 1
        compared += n
        if k == pivot + 1:
            break
        if k <= pivot:
            n = pivot
        else:
            n, k = n - 1 - pivot, k - 1 - pivot
    return cycles, passes, compared


@njit(cache=True)
def select_by_value(values, k, comparators, overhead, seed):  # type: ignore[no-untyped-def]
    """(cycles, passes, comparisons, k-th largest, how many equal to it stay) of recorded values.

    values   float64 [n], 1 <= k <= n
    """
    state = np.uint64(seed)
    survivors, n = values.copy(), len(values)
    cycles, passes, compared = 0, 0, 0
    while True:
        state, place = _draw(state, n)
        pivot = survivors[place]
        above, equal = 0, 0
        for i in range(n):
            above += survivors[i] > pivot
            equal += survivors[i] == pivot
        cycles += -(-n // comparators) + overhead
        passes += 1
        compared += n
        if above < k <= above + equal:
            return cycles, passes, compared, pivot, k - above
        kept = 0
        for i in range(n):
            if (survivors[i] > pivot) if k <= above else (survivors[i] < pivot):
                survivors[kept] = survivors[i]
                kept += 1
        if k > above:
            k -= above + equal
        n = kept


@njit(cache=True)
def filter_cycles(n, comparators):  # type: ignore[no-untyped-def]
    """Cycles of the zero eliminator: one pass over the input and log2(comparators) shift stages (Fig. 10)."""
    stages = 0
    while 1 << stages < comparators:
        stages += 1
    return -(-n // comparators) + stages


@njit(cache=True)
def winners(values, k, comparators, overhead, seed):  # type: ignore[no-untyped-def]
    """Positions of the k largest in original order, as the engine returns them; of equal values the first stay."""
    _, _, _, threshold, ties = select_by_value(values, k, comparators, overhead, seed)
    places = np.empty(k, np.int64)
    n = 0
    for i in range(len(values)):
        if values[i] > threshold or (values[i] == threshold and ties > 0):
            ties -= values[i] == threshold
            places[n] = i
            n += 1
    return places


def mean_cycles(n: int, k: int, comparators: int, overhead: int, draws: int) -> tuple[float, float, float]:
    """(mean, standard deviation, mean passes) over that many random inputs: section 'Tables' of docs and tests."""
    runs: NDArray[np.float64] = np.array(
        [select_by_rank(n, k, comparators, overhead, seed)[:2] for seed in range(draws)], np.float64
    )
    return float(runs[:, 0].mean()), float(runs[:, 0].std()), float(runs[:, 1].mean())
