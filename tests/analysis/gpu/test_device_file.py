"""A measured GPU's machine file: what was measured replaces the data sheet's, the rest stays as it was."""

import json
from pathlib import Path

import pytest

from accel.gpu.machine import GpuMachine
from accel.loading import check, read_text
from accel.machine import find_machine, load_machine, machine_names
from analysis.gpu.device_file import cache_rate, device_text, resembling

RECORD = Path(__file__).parents[3] / "gpu_kernels/results/calibration_h200.json"


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads(RECORD.read_text("utf-8"))


def test_measured_numbers_replace_those_of_the_sheet(record: dict) -> None:
    text = device_text(find_machine("h200"), record, "mine", "./mine.fit.yaml", "a record")
    mine = check(read_text(text.encode(), "mine.yaml"), GpuMachine)
    assert mine.name == "mine"
    assert mine.memory.read_bytes_per_s == record["ceilings"]["read_bytes_per_s"]
    rest = next(row for row in record["rows"] if row["part"] == "idle" and row["name"] == "after rest")
    assert mine.power.idle_w == rest["power_w"]
    assert mine.rates == load_machine("h200").rates  # type: ignore[union-attr]
    assert "# measured: a kernel that only reads" in text


def test_a_sheet_of_another_architecture_is_refused(record: dict) -> None:
    with pytest.raises(ValueError, match="sm_89"):
        device_text(find_machine("l40s"), record, "mine", "fit", "a record")
    with pytest.raises(ValueError, match="planner: gpu"):
        device_text(find_machine("spatten"), record, "mine", "fit", "a record")


def test_the_sheet_is_found_by_the_name_of_the_device(record: dict) -> None:
    gpus = {n: m for n in machine_names() if isinstance(m := load_machine(n), GpuMachine)}
    assert resembling(gpus, record) == "h200"
    assert resembling(gpus, record | {"device": "NVIDIA GeForce RTX 4090"}) == "rtx_4090"
    assert resembling(gpus, record | {"device": "NVIDIA L40S"}) == "l40s"
    assert resembling(gpus, record | {"device": "Some other card"}) is None


def test_the_rate_of_the_cache_is_that_of_buffers_that_fit() -> None:
    rates = {"1": 9e12, "8": 5e12, "16": 4e12, "24": 3e12, "128": 1e12}
    assert cache_rate({"l2_read_bytes_per_s_by_megabytes": rates}, 60 << 20) == 4e12
    assert cache_rate({}, 60 << 20) == 0.0
