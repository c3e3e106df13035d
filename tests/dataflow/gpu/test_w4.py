"""Our W4 GEMMs: floors, what must not make them slower, waves, what hides and what adds up, recorded times."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.gpu.w4 import W4Fit
from accel.machine import load_machine
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.w4 import shared_like, w4_gemm

RESULTS = Path(__file__).parents[3] / "gpu_kernels" / "results"
FORMATS = ("w4a8", "w4a8_group", "w8a8", "w4a16", "portable_channel", "portable_group")
M = np.repeat([1, 16, 64, 200, 4096], 3)
N = np.tile([4096, 28672, 8192], 5)
K = np.tile([4096, 4096, 24576], 5)


def gpu(name: str, **changes: Any) -> GpuMachine:
    loaded = load_machine(name)
    assert isinstance(loaded, GpuMachine)
    return loaded.model_copy(update=changes)


def fit() -> W4Fit:
    found = load_fit("h200").w4
    assert found
    return found


def run(machine: GpuMachine, format: str, m: Any = M, n: Any = N, k: Any = K) -> Estimate:
    return w4_gemm(machine, fit(), format, m, n, k)


@pytest.mark.parametrize("format", FORMATS)
def test_never_below_the_floor(format: str) -> None:
    found = run(gpu("h200"), format)
    assert (found.seconds >= found.floor_s).all()
    assert (found.seconds < 12 * found.floor_s + 2e-5).all()


def test_floor_by_hand() -> None:
    """4096 x 4096 codes of 4 bits at 4.8 TB/s; 2 x 4096^3 operations at 132 x 8192 x 1.98 GHz."""
    one = run(gpu("h200"), "w4a8", [1, 4096], 4096, 4096)
    assert one.floor_s[0] == pytest.approx(4096 * 4096 / 2 / 4.8e12)
    assert one.floor_s[1] == pytest.approx(2 * 4096**3 / (132 * 8192 * 1.98e9))
    assert one.dram_read_bytes[0] == 4096 * 4096 / 2


@pytest.mark.parametrize("format", FORMATS)
def test_better_memory_or_units_never_hurt(format: str) -> None:
    machine = gpu("h200")
    plain = run(machine, format).seconds
    memory = machine.memory.model_copy(update={"read_bytes_per_s": 2 * machine.memory.read_bytes_per_s})
    cache = machine.cache.model_copy(update={"bytes_per_s": 2 * machine.cache.bytes_per_s})
    rates = machine.rates.model_copy(update={"int8": 16384, "fp16": 8192})
    for changes in ({"memory": memory}, {"cache": cache}, {"rates": rates}):
        faster = run(gpu("h200", **changes), format).seconds
        assert (faster <= plain * (1 + 1e-9)).all()
        assert (faster < plain).any()


@pytest.mark.parametrize("format", ["w4a8_group", "portable_group"])
def test_twice_the_multiprocessors_halve_large_products(format: str) -> None:
    """The L2 doubles with them: otherwise it limits wgmma."""
    plain = gpu("h200")
    cache = plain.cache.model_copy(update={"bytes_per_s": 2 * plain.cache.bytes_per_s})
    one, two = (
        run(machine, format, 4096, 28672, 4096).seconds[0]
        for machine in (plain, gpu("h200", multiprocessors=264, cache=cache))
    )
    assert 0.45 < two / one < 0.62


def test_a_tile_more_than_a_wave_takes_a_wave_more() -> None:
    """Tiles of 128 tokens x 256 channels: 132 of them fill the multiprocessors once; 5 waves, then 6."""
    machine = gpu("h200")
    five, more, six = run(machine, "portable_group", 128 * np.array([660, 661, 792]), 256, 4096).seconds
    assert more > 1.1 * five
    assert more == pytest.approx(six, rel=0.01)


def test_widening_hides_behind_wgmma_and_adds_to_mma_sync() -> None:
    """At 4096 x 28672 x 4096 groups cost 1.8 % more than channels by wgmma, 6.5 % by mma.sync (measured)."""
    machine, shape = gpu("h200"), (4096, 28672, 4096)
    asynchronous = run(machine, "w4a8_group", *shape).seconds[0] / run(machine, "w4a8", *shape).seconds[0]
    synchronous = (
        run(machine, "portable_group", *shape).seconds[0] / run(machine, "portable_channel", *shape).seconds[0]
    )
    assert asynchronous == pytest.approx(1.018, abs=0.015)
    assert synchronous == pytest.approx(1.065, abs=0.03)


def test_products_and_the_rest_add_up_in_mma_sync() -> None:
    """The twins of version 2 at 4096 x 6144 x 4096: products alone 162 us, all else 169, the whole 293: no maximum."""
    one = run(gpu("h200"), "portable_group", 4096, 6144, 4096)
    assert one.terms["tensor"][0] == pytest.approx(162e-6, rel=0.1)
    assert one.seconds[0] > 1.5 * one.terms["tensor"][0]
    assert one.seconds[0] == pytest.approx(291e-6, rel=0.12)


@pytest.mark.parametrize("kind", ["w4a8_channel", "w4a8_group", "w8a8", "w4a16", "portable_channel", "portable_group"])
def test_held_out_points_are_off_as_the_fit_says(kind: str) -> None:
    record = json.loads((RESULTS / "calibration_h200.json").read_text())
    rows = [row for row in record["rows"] if row["part"] == f"ours_{kind}" and row["held_out"]]
    found = run(gpu("h200"), kind, *(np.array([row[axis] for row in rows]) for axis in "mnk"))
    off = np.abs(found.seconds / (np.array([row["us"] for row in rows]) * 1e-6) - 1)
    said = load_fit("h200").error[found.kind]
    assert off.mean() == pytest.approx(said.mean, rel=0.02)
    assert off.mean() < 0.08
    assert np.percentile(off, 90) == pytest.approx(said.p90, rel=0.02)
    assert said.p90 < 0.16
    assert len(rows) == said.points


def test_another_run_of_other_shapes() -> None:
    """The 66 shapes of the bench in a run half a day earlier; a third of the shapes were fitted, none of the times."""
    rows = [r for r in json.loads((RESULTS / "kernels_bench_h200.json").read_text())["rows"] if r["part"] == "gemm"]
    shapes = [np.array([row[axis] for row in rows]) for axis in "mnk"]
    for kind in ("w4a8_channel", "w4a8_group", "w8a8", "w4a16", "portable_channel", "portable_group"):
        measured = np.array([row["columns"][kind]["us"] for row in rows]) * 1e-6
        off = np.abs(run(gpu("h200"), kind, *shapes).seconds / measured - 1)
        assert off.mean() < 0.09, kind


@pytest.mark.parametrize("name", ["calibration_h200.json", "calibration_h200_second_machine.json"])
def test_bytes_of_the_memory_are_those_that_the_profiler_counts(name: str) -> None:
    rows = [row for row in json.loads((RESULTS / name).read_text())["rows"] if row["part"] == "counters"]
    ours = [row for row in rows if row["of"].startswith("ours_")]
    assert len(ours) >= 10
    for row in ours:
        found = run(gpu("h200"), row["of"].removeprefix("ours_"), row["m"], row["n"], row["k"])
        assert found.dram_read_bytes[0] == pytest.approx(row["dram_read_bytes"], rel=0.01)


def test_a_small_cache_reads_weights_for_each_band_of_tokens() -> None:
    """4096 tokens are 32 tiles of 128, four bands of 8; without any L2 activations and outputs cross as well."""
    none = gpu("h200").cache.model_copy(update={"bytes": 1})
    plenty = gpu("h200").cache.model_copy(update={"bytes": 1 << 40})
    weights, m, n, k = 28672 * 4096 / 2, 4096, 28672, 4096
    small, large = (run(gpu("h200", cache=cache), "portable_channel", m, n, k) for cache in (none, plenty))
    assert (large.dram_read_bytes[0], large.dram_write_bytes[0]) == (weights, 0)
    assert small.dram_read_bytes[0] == pytest.approx(4 * weights + m * k)
    assert small.dram_write_bytes[0] == pytest.approx(2 * m * n)


@pytest.mark.parametrize(
    ("name", "format", "kind"),
    [
        ("h200", "w4a8", "gemm_w4a8_channel"),
        ("h100_sxm", "w4a16", "gemm_w4a16"),
        ("h200", "portable_group", "gemm_portable_group"),
        ("l40s", "w4a8_group", "gemm_portable_group"),
        ("a100_80g_sxm", "w8a8", "gemm_portable_w8a8"),
        ("rtx_5090", "w4a8", "gemm_portable_channel"),
    ],
)
def test_the_kernel_that_runs(name: str, format: str, kind: str) -> None:
    found = run(gpu(name), format)
    assert found.kind == kind
    assert (found.seconds >= found.floor_s).all()


def test_tiles_of_the_nearest_architecture() -> None:
    assert [shared_like(one) for one in ("sm_80", "sm_86", "sm_89", "sm_90a", "sm_120")] == [
        "sm_80",
        "sm_86",
        "sm_89",
        "sm_90a",
        "sm_89",
    ]


@pytest.mark.parametrize(
    ("name", "format", "n", "group", "fault"),
    [
        ("h200", "w4a7", 64, 128, "w4a8"),
        ("h200", "w4a8", 96, 128, "multiple of 64, got 96"),
        ("h200", "w4a8_group", 64, 64, "groups are of 128 inputs, got 64"),
        ("titan_xp_gpu", "w4a8", 64, 128, "sm_80 or later"),
        ("l40s", "w4a16", 64, 128, "needs wgmma"),
        ("h200", "w4a8", 0, 128, ">= 1, got 0"),
    ],
)
def test_wrong_input(name: str, format: str, n: int, group: int, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        w4_gemm(gpu(name), fit(), format, 1, n, 128, group)


def test_a_fit_without_wgmma() -> None:
    with pytest.raises(ValueError, match="no numbers of wgmma"):
        w4_gemm(gpu("h200"), W4Fit(sync=fit().sync), "w4a8", 1, 64, 128)


def test_it_is_fast() -> None:
    """At most 20 us a point in a sweep; four times that is allowed here, machines differ."""
    machine, m = gpu("h200"), np.arange(1, 2001)
    for format in ("w4a8_group", "portable_group"):
        run(machine, format, m, 4096, 4096)
        begin = time.perf_counter()
        run(machine, format, m, 4096, 4096)
        assert time.perf_counter() - begin < 2000 * 80e-6
