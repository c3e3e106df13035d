"""The registry of functional models: every kind of layer leads to its kernel."""

from pathlib import Path

import numpy as np
import pytest

from gpu_kernels.models import MODULES, kernel_model


def state(kind: str) -> dict[str, np.ndarray]:
    """128 inputs, 64 outputs; weights that stand for the identity times 2, as far as the kind can say it."""
    one = np.eye(64, 128)
    codes = {"w4a4": one * 4, "w4a4_nvfp4": one * 4, "nf4": np.where(one > 0, 15, 7), "w8a8": one * 4}.get(
        kind, 4 + 4 * one
    )
    grouped = {"group_scale": np.ones((64, 1), np.uint8), "group_zero": np.full((64, 1), 4, np.uint8)}
    rows = {"scale": np.full(64, 0.5, np.float32)}
    return {
        "w4a8_channel": {"codes": codes.astype(np.uint8), **rows, "zero": np.full(64, 4, np.uint8)},
        "w4a8_group": {"codes": codes.astype(np.uint8), **rows, **grouped},
        "w8a8": {"codes": codes.astype(np.int8), **rows},
        "w4a16": {
            "codes": codes.astype(np.uint8),
            "scale": np.full((64, 1), 0.5, np.float32),
            "zero": np.full((64, 1), 4, np.uint8),
        },
        "nf4": {"codes": codes.astype(np.uint8), "absmax": np.full(128, 2, np.float32)},
        "w4a4": {
            "codes": codes.astype(np.int8),
            "scale": np.full((64, 2), 0.5, np.float32),
            "smooth": np.ones(128, np.float32),
        },
        "w4a4_nvfp4": {  # code 4 is 2, E4M3 code 0x38 is 1
            "codes": codes.astype(np.uint8),
            "scale": np.full((64, 8), 0x38, np.uint8),
            "tensor_scale": np.float32(1),
            "smooth": np.ones(128, np.float32),
        },
    }[kind]


@pytest.mark.parametrize("kind", MODULES)
def test_twice_the_identity_doubles(kind: str) -> None:
    """A kind that led to another kernel would refuse the tensors or scale wrongly. Per-channel W4A8 takes a large zero
    point times the sum of unquantized inputs from a large sum of quantized ones: 0.8 % off here."""
    x = np.full((3, 128), 1.5, np.float32)
    assert kernel_model(kind)(x, state(kind), "float16") == pytest.approx(np.full((3, 64), 3.0), rel=1e-2)


def test_every_model_of_a_linear_layer_is_listed() -> None:
    folder = Path(__file__).parents[2] / "gpu_kernels"
    found = {
        file.parent.name for file in folder.glob("*/model.py") if "\ndef linear(" in file.read_text(encoding="utf-8")
    }
    assert found == set(MODULES.values())


def test_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="got 'w4a8_chanel'; did you mean 'w4a8_channel'"):
        kernel_model("w4a8_chanel")
