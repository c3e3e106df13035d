"""Products of libraries: closed forms of one tile, bounds, monotony, the choice, and recorded silicon."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.gpu.gemm import Choice, GemmFit, Tile
from accel.gpu.loading import load_fit
from accel.machine import load_machine
from dataflow.gpu.gemm import candidate_times, gemm
from dataflow.gpu.problem import Problem
from dataflow.gpu.selector import chances, middle
from dataflow.gpu.tiles import Blocks, Candidates

INDIFFERENT = Choice(time=1e3, idle=0, padding=0, split=0, splits=0, outputs=0, depth=0)
COUNT = st.integers(1, 9000)


def toy(tiles=((128, 128, 0.5),), **changed) -> GemmFit:
    """Tensor cores alone, unless other numbers are given: memory and cache too fast to matter, no overhead."""
    numbers = {
        **dict.fromkeys(("start_cycles", "wave_cycles", "end_cycles", "split_cycles", "slowing", "slowing_s"), 0.0),
        **dict.fromkeys(("store_bytes", "cache_bytes", "port_bytes", "line_bytes"), 1e12),
        "memory_share": 1.0,
        "overlap": 50.0,
        "resident": 0.5,
        "sharpness": 8.0,
        "choice": INDIFFERENT,
    }
    made = tuple(Tile(rows=rows, columns=columns, speed=speed) for rows, columns, speed in tiles)
    return GemmFit.model_validate(numbers | {"tiles": made} | changed)


def real_sections():
    """(machine, format, section) of every shipped fit of its own device."""
    for machine in ("a100_80g_sxm", "h100_sxm", "h200"):
        device = load_machine(machine)
        for form, section in (load_fit(device.fit[0]).gemm or {}).items():
            yield pytest.param(device, form, section, id=f"{machine}-{form}")


@pytest.mark.parametrize(("blocks", "turns"), [(1, 1), (132, 1), (133, 2), (264, 2), (265, 3)])
def test_a_tile_takes_as_many_turns_as_the_busiest_multiprocessor(blocks, turns):
    machine = load_machine("h200")
    found = gemm(machine, toy(), "bf16", 128, 128 * blocks, 8192)
    cycles = turns * 2 * 128 * 128 * 8192 / (4096 * 0.5)
    assert found.seconds[0] == pytest.approx(max(cycles / machine.clock_hz, found.floor_s[0]), rel=1e-3)
    assert found.limited_by() == ["tensor"] or found.seconds[0] == found.floor_s[0]


def test_overheads_add_up_in_closed_form():
    machine = load_machine("h200")
    fit = toy(start_cycles=4000.0, wave_cycles=500.0, end_cycles=100.0, store_bytes=64.0)
    blocks = gemm(machine, toy(), "bf16", 256, 128 * 132, 8192).seconds[0]
    found = gemm(machine, fit, "bf16", 256, 128 * 132, 8192).seconds[0]
    cycles = 4000 + 100 + 2 * (500 + 128 * 128 * 2 / 64)
    assert found - blocks == pytest.approx(cycles / machine.clock_hz, rel=1e-6)


def test_a_cut_sum_takes_a_part_of_the_inputs_where_multiprocessors_are_idle():
    machine = load_machine("h200")
    whole, cut = (
        toy().model_copy(update={"tiles": (Tile(rows=128, columns=128, speed=0.1, parts=parts),)})
        for parts in ((1,), (1, 4))
    )
    idle, full = (1, 128 * 8, 8192), (128, 128 * 400, 8192)
    few, many = gemm(machine, cut, "bf16", *idle), gemm(machine, cut, "bf16", *full)
    assert few.seconds[0] == pytest.approx(gemm(machine, whole, "bf16", *idle).seconds[0] / 4, rel=1e-3)
    assert many.seconds[0] == gemm(machine, whole, "bf16", *full).seconds[0]


def test_a_batch_counts_tiles_weights_and_operations_of_each_product():
    machine, slow = load_machine("h200"), toy(((128, 128, 0.01),))
    one, batch = (gemm(machine, slow, "bf16", 128, 1024, 4096, batch=count) for count in (1, 33))
    assert batch.operations["fp16"][0] == 33 * one.operations["fp16"][0]
    assert batch.dram_read_bytes[0] >= 33 * 2 * 1024 * 4096
    assert batch.seconds[0] == pytest.approx(2 * one.seconds[0], rel=1e-3)  # 264 blocks on 132 multiprocessors


def test_int8_pads_rows_to_what_the_operator_takes():
    machine, fit = load_machine("h200"), toy(least_rows=32)
    few, padded = (gemm(machine, fit, "int8", m, 4096, 4096) for m in (1, 32))
    assert few.seconds[0] == padded.seconds[0]
    assert few.operations["int8"][0] == padded.operations["int8"][0] >= 2 * 32 * 4096 * 4096


def test_a_unit_that_is_missing_is_refused_by_name():
    with pytest.raises(ValueError, match=r"a100_80g_sxm: rates.fp8: no such unit"):
        gemm(load_machine("a100_80g_sxm"), toy(), "fp8", 1, 128, 128)


def test_many_points_are_each_what_they_are_alone():
    machine, fit = load_machine("h200"), toy(((64, 64, 0.4), (128, 256, 0.7)), start_cycles=1000.0)
    m = np.arange(1, 5001)
    together = gemm(machine, fit, "bf16", m, 4096, 4096)
    assert together.seconds.shape == (5000,)
    for place in (0, 191, 192, 4999):
        alone = gemm(machine, fit, "bf16", m[place], 4096, 4096)
        assert together.seconds[place] == alone.seconds[0]
        assert together.terms["tensor"][place] == alone.terms["tensor"][0]


@settings(max_examples=60, deadline=None)
@given(COUNT, COUNT, COUNT, st.integers(1, 64))
def test_nothing_is_faster_than_its_floor(m, n, k, batch):
    machine = load_machine("h200")
    for form in ("bf16", "int8", "fp8"):
        found = gemm(machine, toy(((64, 64, 30.0),)), form, m, n, k, batch)
        weights = batch * n * k * (2 if form == "bf16" else 1)
        operations = 2 * batch * m * n * k / machine.per_s({"bf16": "fp16"}.get(form, form))
        assert found.seconds[0] >= weights / machine.memory.peak_bytes_per_s * (1 - 1e-12)
        assert found.seconds[0] >= operations * (1 - 1e-12)
        assert found.dram_read_bytes[0] >= weights


def _larger(machine, what):
    if what == "memory":
        return machine.model_copy(
            update={
                "memory": machine.memory.model_copy(update={"peak_bytes_per_s": 1.3 * machine.memory.peak_bytes_per_s})
            }
        )
    return machine.model_copy(update={what: int(1.3 * getattr(machine, what))})


@pytest.mark.parametrize("what", ["memory", "clock_hz", "multiprocessors"])
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20000), COUNT, COUNT)
def test_no_tile_is_slower_on_a_larger_machine(what, m, n, k):
    for param in real_sections():
        machine, form, fit = param.values
        one, problem = Candidates.of(fit), Problem.of(form, m, n, k, 1, fit.least_rows)
        small, large = (
            candidate_times(
                device,
                fit,
                problem,
                one,
                Blocks.of(one, problem.m, problem.n, problem.k, problem.batch, device.multiprocessors),
            ).seconds
            for device in (machine, _larger(machine, what))
        )
        assert (large <= small * (1 + 1e-9)).all()


def test_the_likeliest_tile_is_the_fastest_where_only_time_counts():
    machine, fit = load_machine("h200"), toy(((64, 64, 0.4), (128, 256, 0.7)))
    problem = Problem.of("bf16", [64, 8192], 4096, 4096, 1, 1)
    one = Candidates.of(fit)
    blocks = Blocks.of(one, problem.m, problem.n, problem.k, problem.batch, machine.multiprocessors)
    logs = np.log(candidate_times(machine, fit, problem, one, blocks).seconds)
    weight = chances(fit.choice, one, blocks, logs, problem, machine.multiprocessors)
    assert weight.sum(axis=1) == pytest.approx(1)
    assert weight.argmax(axis=1).tolist() == [0, 1]


def test_a_tile_that_the_library_dislikes_is_not_taken_though_it_is_faster():
    machine, fit = load_machine("h200"), toy(((64, 64, 0.4), (128, 256, 0.7)))
    slow = fit.tiles[0].model_copy(update={"liking": 2000.0})
    stubborn = fit.model_copy(update={"tiles": (slow, fit.tiles[1])})
    found, fast = (gemm(machine, one, "bf16", 8192, 4096, 4096) for one in (stubborn, fit))
    assert found.seconds[0] > 1.5 * fast.seconds[0]


def test_the_middle_lies_where_half_of_the_chance_is_below():
    values = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0]])
    assert middle(values, np.array([[0.2, 0.2, 0.6], [0.6, 0.2, 0.2]])).tolist() == [2, 0]


# microseconds of float16 products, held out of every fit: microsoft/vidur, data/profiling/compute, 7d47513
PUBLISHED = [
    ("a100_80g_sxm", 8, 8192, 6144, 72),
    ("a100_80g_sxm", 256, 8192, 6144, 133),
    ("a100_80g_sxm", 4096, 8192, 6144, 1751),
    ("h100_sxm", 8, 8192, 6144, 39),
    ("h100_sxm", 256, 8192, 6144, 49),
    ("h100_sxm", 4096, 8192, 6144, 517),
]


@pytest.mark.parametrize(("machine", "m", "n", "k", "us"), PUBLISHED)
def test_published_products_lie_within_the_band_of_their_fit(machine, m, n, k, us):
    device = load_machine(machine)
    fit = load_fit(device.fit[0])
    found = gemm(device, (fit.gemm or {})["bf16"], "fp16", m, n, k).seconds[0] * 1e6
    assert found == pytest.approx(us, rel=fit.error["gemm_fp16"].p90)
