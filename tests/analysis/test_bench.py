"""`tilewright bench`: what its numbers are made of; no time is asserted."""

from itertools import accumulate

import numpy as np
import pytest

from analysis import bench


def test_seconds_are_the_median_of_warm_runs() -> None:
    """Runs of 1, 9 and 2 s after one that is not timed."""
    clock, runs = iter(accumulate([0, 1, 5, 9, 5, 2])), []
    assert bench._seconds(lambda: runs.append(1), 3, lambda: float(next(clock))) == 2
    assert len(runs) == 4


def test_layer_rows_are_named_by_size_and_divided_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([2.0, 3.0, 5.0, 7.0])
    monkeypatch.setattr(bench, "_seconds", lambda run, repeats: next(times))
    assert bench.layer_seconds(4, 64, 128) == {
        "w4a8_group_4x64x128_s": 3.0,
        "w4a8_channel_4x64x128_s": 5.0,
        "w4a4_4x64x128_s": 7.0,
        "numpy_float64_matmul_4x64x128_s": 2.0,
        "w4a8_group_over_numpy_float64": 1.5,
        "w4a8_channel_over_numpy_float64": 2.5,
        "w4a4_over_numpy_float64": 3.5,
    }


def test_every_layer_is_computed_whole() -> None:
    """A model that did nothing, or overflowed, would be fast."""
    for name, layer in bench._layers(4, 64, 128).items():
        y = np.asarray(layer())
        assert y.shape == (4, 64), name
        assert np.isfinite(y).all(), name
        assert np.count_nonzero(y) > 200, name
