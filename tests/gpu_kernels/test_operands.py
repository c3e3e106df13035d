"""What a caller can get wrong in the operands of any kernel: told with its place, never a silent result."""

from typing import Any

import numpy as np
import pytest

from accel.arithmetic import round_to
from gpu_kernels.activations.model import Tokens
from gpu_kernels.models import MODULES, kernel_model
from gpu_kernels.w4a4_gemm.low_rank import up_projection, written
from gpu_kernels.w8a8_gemm import model as w8a8
from tests.gpu_kernels.test_models import state

X = np.full((3, 128), 1.5, np.float32)
SCALE = {"nf4": "absmax", "w4a4_nvfp4": "tensor_scale"}  # else "scale"


@pytest.mark.parametrize("kind", MODULES)
def test_operands_that_do_not_fit_are_refused(kind: str) -> None:
    scale, weights = SCALE.get(kind, "scale"), state(kind)
    beyond = np.full_like(X, 1e30)
    beyond[0] = beyond[2] = 1
    infinite = np.asarray(weights[scale]) * np.float32(np.inf)
    for x, change, said in (
        (X[0], {}, r"x must be \[M, 128\], got \(128,\)"),
        (X[:, :64], {}, r"x must be \[M, 128\], got \(3, 64\)"),
        (X * np.float32(np.nan), {}, "x must be finite in float16, got nan at token 0, input 0"),
        (beyond, {}, r"x must be finite in float16, got 1.*e\+30 at token 1, input 0"),
        (X.astype(str), {}, "must get real numbers, got <U"),
        (X, {"codes": None}, r"codes: must be a matrix, got shape \(\)"),
        (X, {"codes": weights["codes"].astype(float)}, "codes: must be integers"),
        (X, {scale: infinite}, "must be finite.*, got"),
        (X, {scale: None}, "must"),
        (X, {scale: infinite[..., None, None]}, "must"),
        (X, {"bias": np.float32(1)}, r"bias: must have shape \(64,\), got \(\)"),
        (X, {"bias": np.full(64, np.inf)}, "bias: must be finite, got inf"),
        (X, {"bias": ["1"] * 64}, "bias: must be numbers, got <U1"),
        (X, {"bias": np.full(64, 1 + 2.0**-40)}, "bias: must be float16 values, got 1.0"),
    ):
        with pytest.raises(ValueError, match=said):
            kernel_model(kind)(x, weights | change, "float16")


@pytest.mark.parametrize("kind", MODULES)
def test_nothing_in_is_nothing_out_and_memory_order_does_not_matter(kind: str) -> None:
    run, weights = kernel_model(kind), state(kind)
    y = run(X, weights, "float16")
    assert run(X[:0], weights, "float16").shape == (0, 64)
    turned = {name: np.asfortranarray(value) if np.ndim(value) else value for name, value in weights.items()}
    assert np.array_equal(run(np.repeat(X, 2, axis=1)[:, ::2].astype(np.float64), turned, "float16"), y)
    assert np.array_equal(run(X + np.float32(2.0**-13), weights, "float16"), y)  # rounded to float16: a tie, to even


@pytest.mark.parametrize("kind", ["w4a16", "w4a4", "w4a4_nvfp4"])
def test_a_branch_has_both_halves_of_one_rank(kind: str) -> None:
    down, up = np.ones((4, 128)), np.ones((64, 4))
    for branch in ({"down": down}, {"up": up}, {"down": down, "up": up[:, :3]}):
        with pytest.raises(ValueError, match=r"come together|up: must have shape \(64, 4\), got \(64, 3\)"):
            kernel_model(kind)(X, state(kind) | branch, "float16")


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (np.float32(-0.25), "shift must not be negative, got -0.25"),
        (np.float32(0.1), "shift: must be float16 values, got 0.1"),
        (np.float32([0.25]), r"shift: must have shape \(\), got \(1,\)"),
        (np.float32(np.nan), "shift: must be finite, got nan"),
    ],
)
def test_a_shift_is_one_number_from_0_on(shift: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        kernel_model("w4a4")(X, state("w4a4") | {"shift": shift}, "float16")


def test_quantized_activations_are_checked() -> None:
    """Numba would read beyond an array that is too short."""
    codes, scale, one = np.ones((2, 64), np.int8), np.ones(3, np.float32), np.ones(2, np.float32)
    for tokens, said in (
        (Tokens(codes, one[:1], one), r"scale of x must be float32 \[2\], got float32 \(1,\)"),
        (Tokens(codes, one, np.ones(2)), r"sums of x must be float32 \[2\], got float64 \(2,\)"),
        (Tokens(codes[:, :32], one, one), r"codes of x must be int8 \[M, 64\], got int8 \(2, 32\)"),
    ):
        with pytest.raises(ValueError, match=said):
            w8a8.gemm(tokens, np.ones((3, 64), np.int8), scale)
    with pytest.raises(ValueError, match=r"lora_act: must have shape \(2, 4\), got \(2, 1\)"):
        up_projection(np.ones((2, 8), np.float32), np.ones((2, 1)), np.ones((8, 4)), "float16", "sm_90")


def test_what_is_no_number_is_written_as_the_largest() -> None:
    """Nunchaku's limits in float16 are `hmin` and `hmax`, which take the number beside a NaN."""
    y = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    assert written(y, "float16").tolist() == [[65504.0, 65504.0, -65504.0, 1.0]]
    assert np.array_equal(written(y, "bfloat16"), y, equal_nan=True)


def test_round_to_takes_real_numbers() -> None:
    for wrong in (None, "1", 1j):
        with pytest.raises(ValueError, match="round_to: must get real numbers"):
            round_to(wrong, "float16")
