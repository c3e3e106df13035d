"""Counts of what runs, by hand for small cases."""

import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.machine import load_machine
from dataflow.gpu import attention_flash, attention_ours
from dataflow.gpu.attention import decode_attention, prefill_attention
from dataflow.gpu.energy import energy, total_j
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.executed import flash_operations, of_library, our_decode_operations, sync_instructions
from dataflow.gpu.w4 import w4_gemm

H200, A100 = load_machine("h200"), load_machine("a100_80g_sxm")
FIT = load_fit("h200")
assert FIT.attention is not None
assert FIT.w4 is not None


def ones(*values: float) -> list[np.ndarray]:
    return [np.array([float(value)]) for value in values]


def blank() -> Estimate:
    one = np.ones(1)
    return Estimate("toy", one, 0 * one, one, 0 * one, one, {}, {})


def test_an_instruction_of_mma_sync_is_of_32_threads() -> None:
    products = np.array([2.0 * 16 * 8 * 16])  # m16n8k16
    assert sync_instructions(products, 16) == pytest.approx(32 * 1.25)
    assert sync_instructions(2 * products, 8) == pytest.approx(32 * 1.25)


@pytest.mark.parametrize(("format", "rows"), [("bf16", 8), ("int8", 64), ("fp8", 128)])
def test_a_library_multiplies_whole_tiles(format: str, rows: int) -> None:
    found = of_library(H200, blank(), format, *ones(3, 256, 512, 1))
    unit = {"bf16": "fp16"}.get(format, format)
    assert found.operations[unit] == pytest.approx(2.0 * rows * 256 * 512)
    assert ("int32" in found.operations) == (format == "int8")


def test_before_hopper_products_are_of_mma_sync() -> None:
    found = of_library(A100, blank(), "fp16", *ones(64, 256, 512, 2))
    assert found.operations["int32"] == pytest.approx(1.25 * 2 * 2 * 64 * 256 * 512 / 128)
    assert found.l2_bytes == 1.0


@pytest.mark.parametrize(("batch", "rows"), [(1, 64), (64, 128)])
def test_flash_decoding_pads_a_group_of_queries_to_a_tile(batch: int, rows: int) -> None:
    """Of 64 rows where the keys are split, 128 where there are blocks enough."""
    found = decode_attention(H200, FIT.attention, batch, 4096, 32, 8, 128, 16, "flash")
    useful = 4.0 * batch * 32 * 4096 * 128
    assert found.operations["fp16"] == pytest.approx(rows / 4 * useful)
    assert found.operations["int32"] > found.operations["special"] > 0


def test_flash_on_hopper_has_no_instructions_of_products() -> None:
    problem = attention_flash.Problem("fa3", *ones(1, 8, 1024, 1024, 128), False, False)
    fit = FIT.attention.prefill["fa3"]
    cycles = attention_flash.flash_cycles(H200, fit, problem)
    hopper, ampere = (flash_operations(one, fit, "fa3", cycles)["int32"] for one in (H200, A100))
    assert ampere - hopper == pytest.approx(sync_instructions(cycles["executed"], 16))


def test_our_decode_kernel_has_columns_of_eight_heads() -> None:
    problem = attention_ours.Problem(*ones(2, 4096, 32, 8, 128, 4), False)
    found = our_decode_operations(H200, problem)
    assert found["fp16"] == pytest.approx(4.0 * 2 * 8 * 8 * 4096 * 128)
    chosen = attention_ours.plan(H200, problem)
    tiles = 2 * 8 * 4096 / float(chosen.tokens[0])
    assert found["int32"] == pytest.approx(32 * tiles * attention_ours.tile_instructions(problem, chosen))


def test_unpacking_costs_instructions_and_mma_sync_more() -> None:
    w4, w8 = (w4_gemm(H200, FIT.w4, name, 4096, 4096, 4096) for name in ("w4a8", "w8a8"))
    portable = w4_gemm(H200, FIT.w4, "portable_channel", 4096, 4096, 4096)
    assert w4.operations["int32"] > 1.5 * w8.operations["int32"]
    assert portable.operations["int32"] > 2.0 * 4096**3 / 256


def test_power_of_padding_is_in_the_prediction() -> None:
    """Twice the contexts, twice the energy; padded products more than useful ones in a prefill."""
    assert FIT.energy is not None
    short, long = (decode_attention(H200, FIT.attention, 64, n, 32, 8, 128, 16, "flash") for n in (4096, 8192))
    ratio = total_j(energy(H200, FIT.energy, long)) / total_j(energy(H200, FIT.energy, short))
    assert ratio == pytest.approx(2.0, rel=0.1)
    causal = prefill_attention(H200, FIT.attention, 1, 32, 32, 1000, 1000, 72, True, "flash")
    assert causal.operations["fp16"] > 4.0 * 32 * 1000 * 1000 / 2 * 72
