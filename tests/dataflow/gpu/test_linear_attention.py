import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.machine import load_machine
from dataflow.gpu.linear_attention import linear_attention, separate_kernels

H200, FITS = load_machine("h200"), load_fit("h200")
FIT, MEMORY = FITS.linear_attention, FITS.memory_bound
TOKENS = 2.0 ** np.arange(6, 18)


@pytest.mark.parametrize("fused", [False, True])
def test_more_tokens_take_longer_and_nothing_is_below_its_floor(fused: bool) -> None:
    made = linear_attention(H200, FIT, MEMORY, 2, 70, TOKENS, 32, fused)
    assert (made.seconds >= made.floor_s).all()
    assert (np.diff(made.seconds) > 0).all()


def test_fused_kernels_move_each_operand_once_and_are_several_times_faster() -> None:
    eager, fused = (linear_attention(H200, FIT, MEMORY, 2, 70, 65536, 32, fused) for fused in (False, True))
    elements = 2 * 70 * 65536 * 32
    assert fused.dram_read_bytes + fused.dram_write_bytes == pytest.approx(8 * elements, rel=0.01)
    assert eager.seconds > 10 * fused.seconds


def test_fourteen_kernels_in_the_order_in_which_they_run() -> None:
    heads, tokens, size = np.array([140.0]), np.array([16384.0]), np.array([32.0])
    made = separate_kernels(H200, FIT, MEMORY, heads, tokens, size)
    seconds = linear_attention(H200, FIT, MEMORY, 2, 70, 16384, 32).seconds
    assert seconds == pytest.approx(sum(one.seconds for one in made))
    elements = 140 * 16384 * 32
    moved = [2 + 2, 2 + 2, 6, 6, 6, 4 * 33 / 32, 8, 8, 4 + 4 * 33 / 32, 8, 4 + 4 * 33 / 32, 8 / 32, 8, 6]
    assert [float(one.l2_bytes[0]) / elements for one in made] == pytest.approx(moved)


def test_a_sum_over_tokens_is_a_chain_that_more_heads_do_not_lengthen_while_blocks_are_few() -> None:
    def sums(heads: float, tokens: float) -> float:
        shape = np.array([heads]), np.array([tokens]), np.array([32.0])
        return float(separate_kernels(H200, FIT, MEMORY, *shape)[8].terms["alu"][0])

    assert sums(72, 4096) == sums(140, 4096)
    assert sums(140, 8192) == pytest.approx(2 * sums(140, 4096))


def test_a_call_of_sana_takes_what_was_measured() -> None:
    # calibration_h200.json: 2 x 70 heads of 32, 4096 tokens, 904.984 us; held out: 9216 tokens, in the error of the fit
    made = linear_attention(H200, FIT, MEMORY, 2, 70, 4096, 32)
    assert made.seconds == pytest.approx(904.984e-6, rel=0.05)


def test_counts_below_one_are_named() -> None:
    with pytest.raises(ValueError, match="tokens: must be whole numbers >= 1, got 0"):
        linear_attention(H200, FIT, MEMORY, 2, 70, 0, 32)
