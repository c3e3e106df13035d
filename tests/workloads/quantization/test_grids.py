"""Grids and activations: equal to the NumPy recipes of `accel.formats`, bit for bit."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from accel.formats import blocks, groups, number, progressive

torch = pytest.importorskip("torch")

from workloads.quantization import numbers  # noqa: E402
from workloads.quantization.grids import KINDS, measured, of_state  # noqa: E402

FORMS = {"float16": torch.float16, "bfloat16": torch.bfloat16}


def weights(seed: int = 0) -> Any:
    """[8, 256] float32 with an outlier column, a row of zeros, values on middles and very small ones."""
    x = np.random.default_rng(seed).standard_normal((8, 256)).astype(np.float32)
    x[:, 5] *= 40
    x[1] = 0
    x[2] = np.round(x[2] * 7) / 2
    x[3] *= 1e-6
    x[4, :128] = np.abs(x[4, :128]).clip(max=1) + 1  # a group without 0 in its range
    return x


RECIPES: dict[str, Callable[[Any, str], tuple[Any, ...]]] = {
    "w4a8_channel": lambda x, form: groups.asymmetric(x, None, form),
    "w4a8_group": lambda x, form: progressive.quantize(x, form=form),
    "w8a8": lambda x, form: groups.symmetric(x, "int8", None, form),
    "w4a16": lambda x, form: groups.asymmetric(x, 64, form),
    "nf4": lambda x, form: blocks.nf4_quantize(x),
    "w4a4": lambda x, form: groups.symmetric(x, "int4", 64, form),
    "w4a4_nvfp4": lambda x, form: blocks.nvfp4_weights(x),
}
TENSORS = {
    "w4a8_channel": ("codes", "scale", "zero"),
    "w4a8_group": ("codes", "group_scale", "group_zero", "scale"),
    "w4a16": ("codes", "scale", "zero"),
    "nf4": ("codes", "absmax"),
    "w4a4_nvfp4": ("codes", "scale", "tensor_scale"),
}
DECODERS: dict[str, Callable[..., Any]] = {
    "w4a8_group": progressive.dequantize,
    "nf4": blocks.nf4_dequantize,
    "w4a4_nvfp4": blocks.nvfp4_dequantize,
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", RECIPES)
def test_weights_equal_the_recipes_of_accel(kind: str, form: str) -> None:
    x = weights()
    grid = measured(kind, torch.from_numpy(x), FORMS[form])
    state = grid.state(torch.from_numpy(x))
    expected = RECIPES[kind](x, form)
    for name, array in zip(TENSORS.get(kind, ("codes", "scale")), expected, strict=True):
        found = state[name].float().numpy()
        np.testing.assert_array_equal(found.ravel(), np.asarray(array, np.float32).ravel(), err_msg=name)
    decoded = DECODERS.get(kind, _dequantize)(*expected)
    np.testing.assert_array_equal(of_state(kind, state).decode(state["codes"]).numpy(), decoded)


def _dequantize(codes: Any, scale: Any, zero: Any = 0) -> Any:
    two = np.reshape(scale, (len(codes), -1))
    return groups.dequantize(codes, two, np.reshape(zero, two.shape) if np.ndim(zero) else zero)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "unquantized"])
def test_one_column_is_encoded_as_the_whole(kind: str) -> None:
    x = torch.from_numpy(weights(1))
    grid = measured(kind, x, torch.float16)
    columns = torch.tensor([200, 3, 64, 5])
    codes = grid.encode(x[:, columns], columns)
    assert torch.equal(codes, grid.encode(x)[:, columns])
    assert torch.equal(grid.decode(codes, columns), grid.snap(x)[:, columns])
    assert torch.equal(grid.encode(grid.snap(x)), grid.encode(x))  # the grid's own weights stay


def test_nvfp4_activations_take_codes_from_the_unrounded_scale() -> None:
    """The largest of each group is code 6; the scales are those of accel's recipe."""
    x = weights(2)
    _, scale = blocks.nvfp4_activations(x)
    codes = number("e2m1").encode(
        x.reshape(-1, 16) / np.maximum(np.abs(x.reshape(-1, 16)).max(1, keepdims=True), 1e-30) * 6
    )
    found = numbers.nvfp4_groups(torch.from_numpy(x).double(), torch.float16, False)
    np.testing.assert_array_equal(found.float().numpy(), blocks.nvfp4_dequantize(codes.reshape(x.shape), scale))


def test_e4m3_is_rounded_as_in_accel() -> None:
    x = np.abs(np.random.default_rng(0).standard_normal(4000)).astype(np.float32) * np.logspace(-4, 4, 4000, dtype="f4")
    wide, narrow = numbers.encode_e4m3(torch.from_numpy(x).double()), numbers.encode_e4m3(torch.from_numpy(x))
    assert torch.equal(wide, narrow)


def test_a_scale_is_rounded_once() -> None:
    """1 + 2^-11 + 2^-40 lies above the middle; through float32 it would fall on it and go to even."""
    found = numbers.rounded_scale(torch.tensor([1 + 2**-11 + 2**-40], dtype=torch.float64), torch.float16)
    assert float(found[0]) == 1 + 2**-10


def test_gelu_outputs_are_unsigned() -> None:
    x = torch.nn.functional.gelu(torch.randn(4, 64, generator=torch.Generator().manual_seed(0))) + numbers.GELU_SHIFT
    found = numbers.int4_groups(x.double(), torch.float16, True)
    assert float(found.min()) >= 0
    assert all(len(row.unique()) > 8 for row in found)
    scale = (x.double().amax(1, keepdim=True) / 15).half().double()
    assert bool(((found - x.double()).abs() <= scale * 0.51).all())


def test_errors_name_kind_and_rule() -> None:
    with pytest.raises(ValueError, match="w4a4: K must be a multiple of 64, got 100"):
        measured("w4a4", torch.zeros(2, 100), torch.float16)
    with pytest.raises(ValueError, match=r"kind: must be one of .*, got 'w3'"):
        measured("w3", torch.zeros(2, 64), torch.float16)
    with pytest.raises(ValueError, match=r"not finite in torch.float16"):
        measured("w4a4", torch.full((2, 64), 1e6), torch.float16)
