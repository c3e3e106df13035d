"""Formats of GEMM kernels: bytes, and what runs where a unit is missing."""

import pytest

from accel.gpu.formats import FORMATS, find_format, resolve
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine, machine_names

GPUS = tuple(name for name in machine_names() if load_machine(name).planner == "gpu")


def gpu(name: str) -> GpuMachine:
    machine = load_machine(name)
    assert isinstance(machine, GpuMachine)
    return machine


def test_bytes_of_weights_by_hand() -> None:
    assert find_format("w4a8_group").weight_bytes(1, 128) == 64 + 2 + 2
    assert find_format("w4a8").weight_bytes(3, 128) == 3 * (64 + 4)
    assert find_format("w4a4_nvfp4").weight_bytes(1, 64) == 32 + 4
    assert find_format("bf16").weight_bytes(2, 8) == 32
    assert find_format("w4a4_int4").activation_bytes(2, 64) == 2 * (32 + 2)
    assert find_format("fp8").activation_bytes(2, 64) == 2 * (64 + 4)


@pytest.mark.parametrize("machine", GPUS)
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_ends_on_a_unit_that_exists(machine: str, name: str) -> None:
    loaded = gpu(machine)
    found, warning = resolve(loaded, name)
    assert getattr(loaded.rates, found.unit) > 0
    assert (warning is None) == (found.name == name)
    assert warning is None or all(word in warning for word in (machine, name, found.name))


@pytest.mark.parametrize(
    ("machine", "name", "found"),
    [
        ("h200", "w4a4_int4", "w4a8_group"),
        ("h100_sxm", "w4a4_nvfp4", "w4a8_group"),
        ("rtx_5090", "w4a4_int4", "w4a8_group"),
        ("rtx_5090", "w4a4_nvfp4", "w4a4_nvfp4"),
        ("a100_80g_sxm", "fp8", "w8a8"),
        ("a100_80g_sxm", "w4a4_int4", "w4a4_int4"),
        ("rtx_4090", "w4a4_nvfp4", "w4a4_int4"),
        ("titan_xp_gpu", "bf16", "fp32"),
        ("titan_xp_gpu", "w4a4_nvfp4", "w8a8"),
        ("titan_xp_gpu", "w4a8", "w8a8"),
    ],
)
def test_what_runs_instead(machine: str, name: str, found: str) -> None:
    assert resolve(gpu(machine), name)[0].name == found


def test_the_warning_says_why_and_what() -> None:
    warning = resolve(gpu("h200"), "w4a4_int4")[1]
    assert warning == (
        "h200 has no int4 tensor cores (mma with s4 operands is emulated there: right for checks, useless for speed): "
        "w4a4_int4 falls back to w4a8_group"
    )
    assert resolve(gpu("titan_xp_gpu"), "w4a8")[1] == (
        "titan_xp_gpu is sm_61, kernels of w4a8 need sm_80: w4a8 falls back to w8a8"
    )
    assert "before Volta" in str(resolve(gpu("titan_xp_gpu"), "w4a4_int4")[1])


def test_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"format: no such format of a GEMM, got 'W4A8-grup' \(did you mean 'w4a8_g"):
        find_format("W4A8-grup")
    assert find_format("W4A8-Channel").name == "w4a8"


def test_a_machine_without_a_fallback_says_so() -> None:
    bare = gpu("h200").model_copy(update={"fallback": {}})
    with pytest.raises(ValueError, match="h200: no int4 units for w4a4_int4, and its file names no fallback"):
        resolve(bare, "w4a4_int4")
    odd = gpu("h200").model_copy(update={"fallback": {"int4": "fp32"}})
    with pytest.raises(ValueError, match="fp32 cannot take over w4a4_int4"):
        resolve(odd, "w4a4_int4")
