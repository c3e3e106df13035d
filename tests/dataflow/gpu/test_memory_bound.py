import numpy as np
import pytest

from accel.gpu.memory_bound import MemoryBoundFit, MovingKernel
from accel.machine import load_machine
from dataflow.gpu.memory_bound import by_rows, elementwise, filled, moved, reduction, resident, shared_out
from dataflow.gpu.moving_kernels import OPERATORS
from gpu_kernels.activations.config import choose

H200 = load_machine("h200")
STEPS = [step for one in OPERATORS.values() for step in one.steps]
KERNELS = sorted({name for step in STEPS for name in (step.kernel, step.short_kernel) if name})
SIZES = 2.0 ** np.arange(8, 33)


def toy(**changes: float) -> MemoryBoundFit:
    shared = {"resident": 0.9, "sharpness": 4.0, "overlap": 8.0, "read_share": 0.9, "write_share": 0.8}
    each = MovingKernel(latency_cycles=1000.0, slots=2.0, row_slots=100.0, chain_cycles=0.1)
    return MemoryBoundFit(
        **(shared | {"cache_read_share": 0.8, "cache_write_share": 0.5} | changes), kernels=dict.fromkeys(KERNELS, each)
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_is_never_below_its_floor_and_never_faster_with_more_to_do(operator: str) -> None:
    made = by_rows(H200, toy(), operator, SIZES / 256, 256)
    assert (made.seconds >= made.floor_s).all()
    assert (np.diff(made.seconds) >= 0).all()
    assert made.seconds[-1] > 100 * made.seconds[0]
    assert len(set(made.limited_by())) > 1


@pytest.mark.parametrize("operator", OPERATORS)
def test_what_is_large_takes_its_bytes_over_the_bandwidth(operator: str) -> None:
    free = MovingKernel(latency_cycles=0.0)
    fit = toy(overlap=50.0).model_copy(update={"kernels": dict.fromkeys(KERNELS, free)})
    made = by_rows(H200, fit, operator, 2.0**24, 1024)
    expected = (made.dram_read_bytes / 0.9 + made.dram_write_bytes / 0.8) / H200.memory.peak_bytes_per_s
    assert made.seconds == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("operator", OPERATORS)
def test_everything_that_crosses_the_memory_bus_crosses_the_l2_and_all_of_it_where_nothing_stays(operator: str) -> None:
    made = by_rows(H200, toy(), operator, SIZES / 256, 256)
    dram = made.dram_read_bytes + made.dram_write_bytes
    assert (dram <= made.l2_bytes).all()
    cold = by_rows(H200, toy(), operator, SIZES / 256, 256, reuse_bytes=np.inf)
    fresh = sum(step.fresh_bytes for step in OPERATORS[operator].steps) * SIZES
    assert (cold.dram_read_bytes + cold.dram_write_bytes >= cold.l2_bytes - fresh - 1e-6).all()
    assert (cold.dram_read_bytes + cold.dram_write_bytes)[-1] == pytest.approx(cold.l2_bytes[-1], rel=1e-3)
    assert cold.l2_bytes == pytest.approx(made.l2_bytes)


def test_an_operator_takes_what_its_kernels_take_one_after_another() -> None:
    # silu stores what the product reads again: 10 bytes an element where a fused kernel has 6
    whole = elementwise(H200, toy(), "silu_mul", 2.0**28)
    first = moved(H200, toy(), "silu", 2.0**28, 2.0**29, 2.0**29, reuse_bytes=6 * 2.0**28)
    second = moved(H200, toy(), "binary", 2.0**28, 2.0**30, 2.0**29, reuse_bytes=6 * 2.0**28)
    assert whole.seconds == pytest.approx(first.seconds + second.seconds)
    assert whole.l2_bytes == pytest.approx(10 * 2.0**28)


def test_half_of_the_bytes_are_still_there_after_as_many_others_as_the_fit_says() -> None:
    sizes = 0.9 * H200.cache.bytes * np.array([0.0, 0.5, 1.0, 2.0, np.inf])
    shares = resident(H200, toy(), sizes)
    assert shares[[0, 2, 4]] == pytest.approx([1.0, 0.5, 0.0])
    assert (np.diff(shares) < 0).all()


def test_rows_cost_and_a_long_row_is_a_long_chain() -> None:
    few, many = by_rows(H200, toy(), "layer_norm", [1, 1], [64, 8192]).seconds
    assert many - few >= 0.1 * (8192 - 64) / H200.clock_hz
    wide, tall = by_rows(H200, toy(), "softmax", [2**10, 2**20], [2**14, 2**4]).terms["issue"]
    assert tall > wide


def test_more_bandwidth_cache_and_clock_are_never_slower() -> None:
    base = elementwise(H200, toy(), "add", SIZES).seconds
    faster = H200.memory.model_copy(update={"peak_bytes_per_s": 2 * H200.memory.peak_bytes_per_s})
    larger = H200.cache.model_copy(update={"bytes": 2 * H200.cache.bytes})
    for change in ({"memory": faster}, {"cache": larger}, {"clock_hz": 2 * H200.clock_hz}):
        assert (elementwise(H200.model_copy(update=change), toy(), "add", SIZES).seconds <= base).all()


@pytest.mark.parametrize("mode", ["plain", "norm", "gate"])
@pytest.mark.parametrize("machine", ["h200", "a100_80g_sxm"])
def test_rows_of_quantizers_are_shared_out_as_the_operator_does(mode: str, machine: str) -> None:
    gpu = load_machine(machine)
    rows, width = (grid.ravel() for grid in np.meshgrid([1, 4, 16, 17, 66, 132, 133, 4096], [2048, 4096, 5120, 14336]))
    groups, steps = shared_out(gpu, mode, rows.astype(float), width.astype(float))
    hopper = gpu.architecture >= "sm_90"
    shapes = [choose(mode, m, n, gpu.multiprocessors, hopper) for m, n in zip(rows, width, strict=True)]
    assert groups.tolist() == [shape.groups for shape in shapes]
    assert steps.tolist() == [shape.steps for shape in shapes]
    assert set(filled(gpu, rows.astype(float), groups)) > {0.0, 1.0}


def test_reductions_are_split_as_pytorch_does() -> None:
    # (threads of a row, blocks of a row): 32 of 512 threads where there are 16 rows, 512 where a thread would have 256
    turns, split = reduction(np.array([16.0, 16, 1, 1]), np.array([4096.0, 8192, 8192, 2**20]))
    assert turns.tolist() == [128, 16, 16, 0]
    assert split.tolist() == [0, 0, 0, 1]


def test_unknown_names_are_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"soft_max.*softmax"):
        by_rows(H200, toy(), "soft_max", 1, 1)
    with pytest.raises(ValueError, match=r"binari.*binary"):
        moved(H200, toy(), "binari", 1, 1, 1)
