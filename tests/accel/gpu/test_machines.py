"""Shipped GPUs and fits: data sheets add up, fits are found by name and beside the machine file."""

from pathlib import Path

import pytest

from accel.gpu.loading import find_fit, load_fit, section
from accel.gpu.machine import GpuMachine
from accel.machine import find_machine, load_machine, machine_names

GPUS = tuple(name for name in machine_names() if load_machine(name).planner == "gpu")
FIT = "name: mine\nsource: nowhere\n"
FLAGS = (
    "verified",
    "measured",
    "derived",
    "recalled",
    "conflicting",
    "assumed",
    "as near",
    "see accel/fits",
    "highest",
)


def gpu(name: str | Path) -> GpuMachine:
    machine = load_machine(name)
    assert isinstance(machine, GpuMachine)
    return machine


def test_the_eight_devices_are_there() -> None:
    eight = {"h200", "h100_sxm", "a100_80g_sxm", "l40s", "rtx_4090", "rtx_4090_laptop_16gb", "rtx_5090", "titan_xp_gpu"}
    assert eight <= set(GPUS)


@pytest.mark.parametrize(
    ("name", "unit", "clock_hz", "tera"),
    [
        ("h200", "fp16", 1.83e9, 989.4),
        ("h100_sxm", "int8", 1.83e9, 1979),
        ("a100_80g_sxm", "fp16", 1.41e9, 312),
        ("a100_80g_sxm", "int4", 1.41e9, 1248),
        ("l40s", "fp8", 2.52e9, 733),
        ("rtx_4090", "int4", 2.52e9, 1321),
        ("rtx_4090_laptop_16gb", "int8", 1.95e9, 303.5),
        ("rtx_5090", "nvfp4", 2.407e9, 1676),
        ("titan_xp_gpu", "fp32", 1.582e9, 12.15),
    ],
)
def test_rates_give_the_peaks_of_the_data_sheets(name: str, unit: str, clock_hz: float, tera: float) -> None:
    machine = gpu(name)
    assert machine.per_s(unit) / machine.clock_hz * clock_hz / 1e12 == pytest.approx(tera, rel=0.003)


@pytest.mark.parametrize("name", GPUS)
def test_a_device_is_possible(name: str) -> None:
    machine = gpu(name)
    assert machine.memory.read_bytes_per_s < machine.memory.peak_bytes_per_s < machine.cache.bytes_per_s * 1.01
    assert machine.power.idle_w < machine.power.limit_w
    assert machine.launch.graph_s < machine.launch.stream_s
    assert machine.rates.fp16 <= machine.rates.int8
    assert set(machine.fallback).isdisjoint(unit for unit, rate in machine.rates if rate)


@pytest.mark.parametrize("name", GPUS)
def test_every_number_carries_a_flag(name: str) -> None:
    lines = find_machine(name).read_text().splitlines()
    numbers = [line for line in lines if any(c.isdigit() for c in line.partition("#")[0].partition(":")[2])]
    without = [line for line in numbers if not line.startswith(("name", "source")) and not _flagged(line)]
    assert not without


def _flagged(line: str) -> bool:
    return any(flag in line.partition("#")[2] for flag in FLAGS)


def test_a_fit_lies_beside_the_machine_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FIT)
    text = find_machine("h200").read_text().replace("fit: [h200]", "fit: [./mine.yaml, h200]")
    (tmp_path / "gpu.yaml").write_text(text)
    first, second = gpu(tmp_path / "gpu.yaml").fit
    assert load_fit(first).name == "mine"
    assert second == "h200"


def test_unknown_fits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no fit 'h20'"):
        find_fit("h20")
    with pytest.raises(ValueError, match=r"fit 'none/h200.yaml': no such file"):
        load_fit("none/h200.yaml")


def test_a_section_that_nobody_fitted_is_told(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(FIT)
    machine = gpu("h200").model_copy(update={"fit": (str(tmp_path / "mine.yaml"),)})
    with pytest.raises(ValueError, match=r"h200: fit: none of .*mine.yaml has gemm.bf16"):
        section(machine, "gemm", "bf16")
