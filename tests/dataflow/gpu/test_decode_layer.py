"""Our decode layer as its nine launches, against its recordings; nothing is fitted to the layer."""

import json
from pathlib import Path

import numpy as np
import pytest

from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.decode_layer import LLAMA3_8B, decode_layer, layer_seconds

RESULTS = Path(__file__).parents[3] / "gpu_kernels/results"
RECORDS = ("kernels_bench_h200.json", "kernels_bench_h200_second_machine.json")


def gpu(name: str = "h200") -> GpuMachine:
    machine = load_machine(name)
    assert isinstance(machine, GpuMachine)
    return machine


@pytest.mark.parametrize("record", RECORDS)
def test_recorded_layers_are_within_a_tenth(record: str) -> None:
    rows = [row for row in json.loads((RESULTS / record).read_text())["rows"] if row.get("part") == "layer"]
    batch, context = ([row[name] for row in rows] for name in ("batch", "context"))
    measured = np.array([row["columns"]["tilewright"]["us"] for row in rows]) * 1e-6
    off = layer_seconds(gpu(), batch, context) / measured - 1
    assert np.abs(off).max() < 0.10
    assert np.abs(off).mean() < 0.05


def test_launches_read_the_weights_and_the_cache_once() -> None:
    launches = decode_layer(gpu(), [1, 64], [1024, 1024])
    assert len(launches) == 9
    read = sum(one.dram_read_bytes for one in launches.values())
    shape = LLAMA3_8B
    outputs = (shape.heads + 2 * shape.kv_heads) * shape.head_size
    weights = shape.hidden * (outputs + shape.heads * shape.head_size + 3 * shape.inner) / 2
    cache = np.array([1, 64]) * 1024 * 2 * shape.kv_heads * shape.head_size / 2
    assert (read >= weights + cache).all()
    assert (read <= 1.1 * (weights * 1.04 + cache * 1.07)).all()  # scales and zeros: 4 and 6 %


def test_more_of_anything_takes_longer() -> None:
    times = layer_seconds(gpu(), [1, 16, 64, 64, 256], [1024, 1024, 1024, 4096, 4096])
    assert (np.diff(times) > 0).all()


@pytest.mark.parametrize("machine", ["a100_80g_sxm", "l40s"])
def test_other_gpus_take_longer(machine: str) -> None:
    assert layer_seconds(gpu(machine), 64, 1024)[0] > layer_seconds(gpu(), 64, 1024)[0]
