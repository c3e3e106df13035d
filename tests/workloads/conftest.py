"""Small synthetic dense traces."""

from collections.abc import Callable

import numpy as np
import pytest

from workloads.trace import Trace


def synthetic_trace(lengths: list[int], layers: int, heads: int, seed: int) -> Trace:
    """Dense facts drawn from few values, so that ties occur."""
    draw = np.random.default_rng(seed)
    total = layers * heads * sum(lengths)
    facts = {
        "text_tokens": np.array(lengths),
        "dense.importance": draw.integers(0, 5, total).astype(np.float16) / np.float16(4),
        "dense.row_max": draw.integers(0, 256, total).astype(np.uint8),
        "dense.head_score": draw.integers(0, 4, (len(lengths), layers, heads)).astype(np.float32),
    }
    model = {"name": "toy", "layers": layers, "heads": heads, "head_size": 8, "hidden": 8 * heads}
    return Trace("toy", model, {"kind": "dense"}, {}, facts)


@pytest.fixture(scope="session")
def make_trace() -> Callable[[list[int], int, int, int], Trace]:
    return synthetic_trace
