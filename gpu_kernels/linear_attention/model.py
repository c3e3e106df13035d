"""Linear attention of Sana (arXiv 2410.10629) with a float32 state, as Nunchaku v1.1 and diffusers compute it.

    state[i, j] = sum over tokens of [v; 1][i] * relu(k)[j]          [D + 1, D] a head; the last row is the divisor's
    output[i]   = (sum over j of relu(q)[j] state[i, j]) / (the same of the last row + epsilon)

q, k and v are on a 16-bit grid, everything else is float32, the output 16-bit again. No scale, no mask. Order:

1. A chunk is 256 tokens (the rows of a thread block of Nunchaku's GEMM, whose epilogue this is there). Within it a
   state is summed by fma over ascending tokens, from 0. A chunk of fewer tokens just ends earlier.
2. The chunks' states are added in ascending order, starting with the first.
3. Numerators and divisor are sums by fma over ascending j, from 0. output = round16(rn(numerator / rn(divisor +
   epsilon))), for float16 clipped to +-65504 before the rounding.

The originals leave 1 to 3 open: Nunchaku sums a chunk on tensor cores and adds chunks with atomics, in any order, so it
is not reproducible itself; diffusers calls a matrix product. Each rounds about as often as this order does.
epsilon is 1e-6 in Nunchaku, 1e-15 in diffusers; it shows where the divisor is about as small. A head whose q is
nowhere positive gives 0. float32 subnormals are kept.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from accel.arithmetic import check_form, fma, round_to, to_bfloat16, to_float16

Floats = NDArray[np.float32]
CHUNK = 256
EPSILON = {"nunchaku": 1e-6, "diffusers": 1e-15}
LARGEST = np.float32(65504)


@njit(cache=True)
def _add_chunk(key, value, head, chunk, state):  # type: ignore[no-untyped-def]
    """A chunk of a head's tokens, key and value [heads, tokens, D], to its state [D + 1, D]."""
    size, positive = key.shape[2], np.empty(key.shape[2], np.float32)
    for t in range(chunk * CHUNK, min((chunk + 1) * CHUNK, key.shape[1])):
        for j in range(size):
            positive[j] = max(key[head, t, j], np.float32(0))
        for i in range(size):
            for j in range(size):
                state[i, j] = fma(value[head, t, i], positive[j], state[i, j])
        for j in range(size):
            state[size, j] += positive[j]


@njit(cache=True, error_model="numpy")
def _divide(query, across, epsilon, wide, sums, output):  # type: ignore[no-untyped-def]
    """The output [D] of a query [D]; across [D, D + 1] is the state with its axes exchanged."""
    size = len(query)
    sums[:] = 0
    for j in range(size):
        q = max(query[j], np.float32(0))
        for i in range(size + 1):
            sums[i] = fma(q, across[j, i], sums[i])
    divisor = np.float32(sums[size] + epsilon)
    for i in range(size):
        share = np.float32(sums[i] / divisor)
        output[i] = to_bfloat16(share) if wide else to_float16(min(max(share, -LARGEST), LARGEST))


@njit(cache=True)
def _divide_head(query, across, epsilon, wide, output):  # type: ignore[no-untyped-def]
    """Outputs [tokens, D] of a head's queries."""
    sums = np.empty(query.shape[1] + 1, np.float32)
    for t in range(len(query)):
        _divide(query[t], across, epsilon, wide, sums, output[t])


@njit(cache=True, parallel=True)
def _chunk_states(key, value, parts):  # type: ignore[no-untyped-def]
    """Fill parts [heads, chunks, D + 1, D] of key and value [heads, tokens, D]."""
    chunks = parts.shape[1]
    for one in prange(parts.shape[0] * chunks):
        _add_chunk(key, value, one // chunks, one % chunks, parts[one // chunks, one % chunks])


@njit(cache=True, parallel=True)
def _outputs(query, across, epsilon, wide, found):  # type: ignore[no-untyped-def]
    """Fill found [heads, tokens, D] of query [heads, tokens, D] and across [heads, D, D + 1]."""
    for head in prange(len(query)):
        _divide_head(query[head], across[head], epsilon, wide, found[head])


def state(key: Any, value: Any, form: str = "float16") -> Floats:
    """float32 [B, heads, D + 1, D] of key and value [B, heads, tokens, D] on the grid of `form`; row D sums relu(k).

    Raises ValueError for other shapes, and values that are not finite or off the grid.
    """
    k, v = _operand("key", key, form), _operand("value", value, form)
    if k.shape != v.shape:
        raise ValueError(f"linear_attention: value: must have key's shape {k.shape}, got {v.shape}")
    batch, heads, tokens, size = k.shape
    parts = np.zeros((batch * heads, -(-tokens // CHUNK), size + 1, size), np.float32)
    _chunk_states(k.reshape(-1, tokens, size), v.reshape(-1, tokens, size), parts)
    found: Floats = parts[:, 0].copy()
    for chunk in range(1, parts.shape[1]):
        found += parts[:, chunk]
    return found.reshape(batch, heads, size + 1, size)


def apply(query: Any, states: Any, epsilon: float = EPSILON["nunchaku"], form: str = "float16") -> Floats:
    """Outputs [B, heads, tokens, D] on the grid of `form`: query [B, heads, tokens, D], states [B, heads, D + 1, D]."""
    q, s = _operand("query", query, form), np.asarray(states, np.float32)
    batch, heads, tokens, size = q.shape
    if s.shape != (batch, heads, size + 1, size):
        want = (batch, heads, size + 1, size)
        raise ValueError(f"linear_attention: states: must have shape {want}, got {s.shape}")
    if not 0 < epsilon < 1:
        raise ValueError(
            f"linear_attention: epsilon must be within 0..1 (not 0: a head may have no divisor), got {epsilon}"
        )
    across = np.ascontiguousarray(s.reshape(-1, size + 1, size).transpose(0, 2, 1))
    found = np.empty_like(q)
    rows = (batch * heads, tokens, size)
    _outputs(q.reshape(rows), across, np.float32(epsilon), form == "bfloat16", found.reshape(rows))
    return found


def attention(query: Any, key: Any, value: Any, epsilon: float = EPSILON["nunchaku"], form: str = "float16") -> Floats:
    """`apply` of the query to the `state` of key and value; cross attention if the numbers of tokens differ."""
    return apply(query, state(key, value, form), epsilon, form)


def _operand(name: str, x: Any, form: str) -> Floats:
    check_form(form)
    values = np.ascontiguousarray(x, np.float32)
    if values.ndim != 4 or not values.size:
        raise ValueError(f"linear_attention: {name}: must be [B, heads, tokens, D], none of them 0, got {values.shape}")
    if not np.isfinite(values).all() or not np.array_equal(values, round_to(values, form)):
        raise ValueError(f"linear_attention: {name}: must be finite {form} values")
    return values
