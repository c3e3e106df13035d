"""Parts of whole-model predictions: residency, kernels of the framework, float32 products, one clock for a pass."""

import numpy as np
import pytest

from accel.gpu.host import FrameworkFit
from accel.gpu.loading import section
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.framework import Tensor, eager_kernel
from dataflow.gpu.operators import packed
from dataflow.gpu.pass_power import Work, pass_energy, power_w, sustained
from dataflow.gpu.residency import UNKNOWN, Touches, passing_bytes
from dataflow.gpu.simt import simt_attention, simt_products


@pytest.fixture(scope="module")
def gpu() -> GpuMachine:
    machine = load_machine("h200")
    assert isinstance(machine, GpuMachine)
    return machine


def framework(machine: GpuMachine) -> FrameworkFit:
    found: FrameworkFit = section(machine, "framework")[0]
    return found


def test_bytes_pass_from_the_middle_of_one_kernel_to_the_middle_of_the_next() -> None:
    """Three kernels of 30, 50 and 20 bytes: the first writes tensor 0, which the last reads; both read weight -2."""
    touches = Touches(
        kernel=np.array([0, 0, 1, 1, 2, 2]),
        tensor=np.array([-2, 0, UNKNOWN, 1, 0, -2]),
        bytes=np.array([10.0, 20.0, 40.0, 10.0, 15.0, 5.0]),
        written=np.array([False, True, False, True, False, False]),
    )
    found = passing_bytes(touches, 3)
    apart = 15 + 50 + 10
    #      weight of the pass before, written: to its reader, unknown, nobody reads it, just written, read before
    assert found.tolist() == [100 - apart, apart, 100, 100, apart, apart]


def tensor(shape: tuple[int, ...], strides: tuple[int, ...] | None = None, form: str = "bfloat16") -> Tensor:
    return Tensor(shape, packed(shape) if strides is None else strides, form)


@pytest.mark.parametrize(
    ("kind", "inputs", "family"),
    [
        ("add", [tensor((4, 8)), tensor((4, 8))], "binary"),
        ("add", [tensor((4, 8))], "unary"),
        ("mul", [tensor((4, 8)), tensor((8,))], "broadcast"),
        ("mul", [tensor((4, 8), (32, 1))], "strided"),
        ("add", [tensor((4, 8)), tensor((4, 8), (1, 4))], "transposed"),
        ("cast", [tensor((4, 8), form="float32")], "narrow"),
        ("tanh", [tensor((4, 8))], "function"),
        ("silu", [tensor((4, 8))], "silu"),
    ],
)
def test_tensors_decide_on_the_elementwise_kernel(kind: str, inputs: list[Tensor], family: str) -> None:
    assert eager_kernel(kind, f"aten.{kind}.Tensor", inputs, [tensor((4, 8))]).family == family


def test_rows_reductions_and_concatenations() -> None:
    norm = eager_kernel("rmsnorm", "aten.rms_norm", [tensor((6, 128))], [tensor((6, 128))])
    assert (norm.family, norm.rows, norm.width) == ("rms_norm_narrow", 6, 128)
    mean = eager_kernel("reduce", "aten.mean.dim", [tensor((6, 128), form="float32")], [tensor((6, 1))])
    assert (mean.family, mean.rows, mean.width, mean.elements) == ("mean_float32", 6, 128, 768)
    stack = eager_kernel("cat", "aten.stack.default", [tensor((6, 4), (8, 2))] * 2, [tensor((6, 4, 2))])
    assert (stack.family, stack.launches) == ("cat_strided", 2)
    assert tensor((2, 3, 4), (12, 1, 3)).in_one_piece
    assert not tensor((2, 3, 4), (24, 4, 1)).in_one_piece


def test_float32_products_keep_to_rate_and_memory(gpu: GpuMachine) -> None:
    fit = framework(gpu).simt
    m = np.array([1.0, 128.0, 1024.0, 4096.0])
    one, n, k = np.ones(4), np.full(4, 4096.0), np.full(4, 4096.0)
    whole, cut = (simt_products(gpu, fit, one, m, n, k, parts) for parts in (False, True))
    assert (whole.seconds >= 2 * m * n * k / gpu.per_s("fp32")).all()
    assert (whole.seconds >= 4 * n * k / gpu.memory.peak_bytes_per_s).all()
    assert (np.diff(whole.seconds) > 0).all()
    assert (cut.seconds <= whole.seconds).all()
    assert cut.seconds[1] < 0.8 * whole.seconds[1]  # 32 tiles alone leave most multiprocessors idle
    assert whole.seconds[3] == pytest.approx(2 * 4096**3 / gpu.per_s("fp32") / fit.share, rel=0.1)


def test_float32_attention_walks_over_its_keys(gpu: GpuMachine) -> None:
    """One query: as many turns as tiles of 64 keys, whatever the heads, until multiprocessors have no more room."""
    fit = framework(gpu).simt
    one, size = np.ones(3), np.full(3, 64.0)
    keys, heads = np.array([1024.0, 2048.0, 1024.0]), np.array([12.0, 12.0, 264.0])
    found = simt_attention(gpu, fit, one, heads, heads, one, keys, size, causal=False)
    fixed = gpu.launch.graph_s + fit.start_cycles / gpu.clock_hz
    walked = found.seconds - fixed
    assert walked[0] == pytest.approx(16 * fit.attention_tile_cycles / gpu.clock_hz)
    assert walked[1] == pytest.approx(2 * walked[0])
    assert walked[2] == pytest.approx(walked[0])
    batch, some, length, width = (np.array([value]) for value in (1.0, 16.0, 992.0, 64.0))
    masked, dense = (
        simt_attention(gpu, fit, batch, some, some, length, length, width, causal) for causal in (True, False)
    )
    assert masked.seconds[0] < dense.seconds[0]


def one_kernel(seconds: float, tensor_s: float, operations: float) -> Work:
    value, none = np.array([seconds]), np.zeros(1)
    terms = {"tensor": np.array([tensor_s]), "dram": none}
    made = Estimate("toy", value, none, none, none, none, {"fp16": np.array([operations])}, terms)
    return Work(made, np.ones(1), 0.0)


def test_a_pass_has_the_highest_clock_within_the_limit(gpu: GpuMachine) -> None:
    numbers = pass_energy(gpu, framework(gpu))
    rest = one_kernel(1e-3, 1e-3, 0.0)
    assert sustained(gpu, *numbers, rest).clock == 1.0
    hot = one_kernel(1e-3, 0.8e-3, 3 * 700e-3 / 2e-13)
    found = sustained(gpu, *numbers, hot)
    assert 0.1 < found.clock < 1.0
    assert found.seconds[0] == pytest.approx(0.2e-3 + 0.8e-3 / found.clock)
    assert power_w(found, hot) == pytest.approx(gpu.power.limit_w, rel=1e-3)


def test_waiting_takes_idle_power(gpu: GpuMachine) -> None:
    busy = one_kernel(1e-3, 1e-3, 0.0)
    late = Work(busy.estimate, busy.repeat, 1e-3)
    numbers = pass_energy(gpu, framework(gpu))
    more = sum(sustained(gpu, *numbers, late).joules.values()) - sum(sustained(gpu, *numbers, busy).joules.values())
    assert more == pytest.approx(gpu.power.idle_w * 1e-3)
