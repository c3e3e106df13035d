"""Hadamard matrices: orthogonal, of every size that the constructions reach, others refused."""

import numpy as np
import pytest

from workloads.quantization.hadamard import hadamard, rotation

REFUSED = {92, 116, 156, 172, 184, 188, 232, 236}  # multiples of 4 up to 256 that need other constructions


@pytest.mark.parametrize("size", [1, 2, *range(4, 257, 4)])
def test_rows_are_orthogonal(size: int) -> None:
    if size in REFUSED:
        with pytest.raises(ValueError, match=f"no matrix of size {size}"):
            hadamard(size)
        return
    found = hadamard(size).astype(np.int64)
    assert set(np.unique(found)) <= {-1, 1}
    assert np.array_equal(found @ found.T, size * np.eye(size, dtype=np.int64))


@pytest.mark.parametrize("size", [-4, 0, 3, 6, 18, 1241])
def test_other_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="hadamard: no matrix of size"):
        hadamard(size)


@pytest.mark.parametrize("seed", [None, 3])
def test_rotation_is_orthogonal(seed: int | None) -> None:
    torch = pytest.importorskip("torch")
    found = rotation(768, seed, torch.float64)
    torch.testing.assert_close(found @ found.T, torch.eye(768, dtype=torch.float64), rtol=0, atol=1e-12)
    assert (found.abs() * 768**0.5).sub(1).abs().max() < 1e-12
    assert torch.equal(found, rotation(768, dtype=torch.float64)) == (seed is None)
