import numpy as np
import pytest

from accel.gpu.convolution import ConvolutionFit
from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from accel.machine import load_machine
from dataflow.gpu.convolution import convolution

H200 = load_machine("h200")
EACH = MovingKernel(latency_cycles=1000.0, slots=20.0, row_slots=3.0)
FIT = ConvolutionFit(
    tensor_share=0.8,
    small_exponent=0.2,
    taps_share=1.0,
    split_cycles=3000.0,
    prologue_cycles=1500.0,
    latency_cycles=2000.0,
    kernels=dict.fromkeys(
        ("depthwise_first", "depthwise_last", "to_last", "weights_to_last", "to_first", "bias"), EACH
    ),
)
MEMORY = MemoryBoundFit(
    resident=0.9,
    sharpness=4.0,
    overlap=8.0,
    read_share=0.9,
    write_share=0.8,
    cache_read_share=0.8,
    cache_write_share=0.5,
    kernels={},
)
SIDES = 2.0 ** np.arange(3, 12)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_is_never_below_its_floor_and_grows_with_the_image(depthwise: bool, last: bool) -> None:
    made = convolution(H200, FIT, MEMORY, 1, 512, 512, SIDES, 3, depthwise=depthwise, channels_last=last)
    assert (made.seconds > made.floor_s).all()
    assert (np.diff(made.seconds) >= 0).all()
    assert (made.dram_read_bytes + made.dram_write_bytes <= made.l2_bytes * (1 + 1e-9)).all()


def test_a_large_dense_one_takes_its_products_over_the_share_of_the_rate() -> None:
    made = convolution(H200, FIT, MEMORY, 1, 1024, 1024, 2048, 3, channels_last=True)
    work = 2 * 2048**2 * 1024**2 * 9
    assert made.operations["fp16"] == pytest.approx(work)
    assert made.seconds == pytest.approx(work / (0.8 * H200.per_s("fp16")), rel=0.03)
    assert made.limited_by() == ["tensor"]


def test_layouts_and_bias_are_kernels_of_their_own() -> None:
    last = convolution(H200, FIT, MEMORY, 2, 320, 320, 64, 3, channels_last=True)
    first = convolution(H200, FIT, MEMORY, 2, 320, 320, 64, 3)
    biased = convolution(H200, FIT, MEMORY, 2, 320, 320, 64, 3, channels_last=True, bias=True)
    assert first.terms["launch"] == pytest.approx(4 * last.terms["launch"])
    assert biased.terms["launch"] == pytest.approx(2 * last.terms["launch"])
    tensor = 2 * 64**2 * 320 * 2.0
    weights = 2 * 9 * 320 * 320.0
    assert first.l2_bytes - last.l2_bytes == pytest.approx(4 * tensor + 2 * weights)
    assert biased.l2_bytes - last.l2_bytes == pytest.approx(2 * tensor)


def test_a_depthwise_one_costs_by_tap_and_reads_each_input_once() -> None:
    three = convolution(H200, FIT, MEMORY, 1, 4096, 4096, 128, 3, depthwise=True, channels_last=True)
    five = convolution(H200, FIT, MEMORY, 1, 4096, 4096, 128, 5, depthwise=True, channels_last=True)
    assert five.terms["issue"] / three.terms["issue"] == pytest.approx((20 + 3 * 25) / (20 + 3 * 9))
    assert three.l2_bytes == pytest.approx(2 * 2 * 4096 * 128**2 + 2 * 4096 * 9)


def test_no_product_is_faster_than_the_share_of_the_rate_and_tiles_that_are_not_full_cost_as_full_ones() -> None:
    pixels = np.array([4, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181.0])
    made = convolution(H200, FIT, MEMORY, 1, 512, 328, pixels, 1, channels_last=True)
    ideal = made.operations["fp16"] / (0.8 * H200.per_s("fp16"))
    assert (made.terms["tensor"] > ideal).all()
    full = convolution(H200, FIT, MEMORY, 1, 512, 384, pixels, 1, channels_last=True)
    assert full.terms["tensor"] == pytest.approx(made.terms["tensor"], rel=0.15)
