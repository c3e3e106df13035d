"""Facts of GPU generations: consistent, and refused where unknown."""

import pytest

from accel.gpu.microarchitecture import KNOWN, microarchitecture


@pytest.mark.parametrize("name", KNOWN)
def test_latencies_grow_with_distance(name: str) -> None:
    one = KNOWN[name]
    assert one.shared_cycles <= one.l1_cycles < one.l2_cycles <= one.l2_far_cycles < one.last_load_cycles(1e9)
    assert 0 < one.mma_sync <= 1


def test_the_last_load_of_an_h200() -> None:
    assert microarchitecture("sm_90").last_load_cycles(1.98e9) == pytest.approx(478 + 0.158e-6 * 1.98e9)
    assert microarchitecture("sm_90a") is microarchitecture("sm_90")


def test_unknown_generations_are_refused() -> None:
    with pytest.raises(ValueError, match="sm_80, sm_89, sm_90, sm_120, got sm_75"):
        microarchitecture("sm_75")
