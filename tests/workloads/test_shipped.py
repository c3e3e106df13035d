"""The shipped traces: published parameters and FLOPs, without torch; and the same again when exported anew."""

import importlib.metadata

import numpy as np
import pytest

from analysis.traces.measured import WAYS
from analysis.traces.totals import total
from workloads.trace import load_workload, workload_names
from workloads.zoo.registry import label
from workloads.zoo.shipped import shipped

# parameters, TFLOP (2 x multiplications), counted by PyTorch's FlopCounterMode on the same classes with torch 2.13,
# diffusers 0.42.1 and transformers 5.23, before this exporter was written
COUNTED = {
    "flux_dev": (11_901_408_320, 74.385),
    "flux_schnell": (11_891_178_560, 69.467),
    "pixart_sigma_size512": (610_856_096, 1.289),
    "pixart_sigma": (610_856_096, 6.634),
    "pixart_sigma_size2048": (610_856_096, 52.366),
    "sdxl": (2_567_463_684, 6.761),
    "sdxl_turbo": (2_567_463_684, 1.589),
    "llama3_8b": (8_030_261_248, 15.919),
    "llama3_8b_logitslast": (8_030_261_248, 14.844),
    "llama3_8b_tokens1_past1024": (8_030_261_248, 0.01555),
    "llama3_8b_tokens1_past1024_batch64": (8_030_261_248, 0.99499),
    "qwen15_72b": (72_287_920_128, 148.237),
    "qwen15_72b_tokens1_past1024_batch64": (72_287_920_128, 9.2649),
    "t5_xxl": (4_762_310_656, 4.845),
    "gemma2_2b_instructionFalse": (2_614_341_888, 1.234),
    "sana_1600m_size512": (None, 0.8366),
    "sana_1600m": (None, 2.9667),
    "sana_1600m_size2048": (None, 11.487),
    "sana_1600m_size4096": (None, 45.568),
    "sana_1600m_batch2": (None, 5.933),
    "sana_600m_size512": (None, 0.3156),
    "sana_600m": (None, 1.1215),
    "sana_600m_size2048": (None, 4.345),
    "sana_600m_size4096": (None, 17.239),
    "dc_ae_f32c32_encode_size512": (None, 1.295),
    "dc_ae_f32c32_encode": (None, 5.180),
    "dc_ae_f32c32_encode_size2048": (None, 20.718),
    "dc_ae_f32c32_encode_size4096": (None, 82.874),
    "dc_ae_f32c32_decode_size512": (None, 2.092),
    "dc_ae_f32c32_decode": (None, 8.369),
    "dc_ae_f32c32_decode_size2048": (None, 33.474),
    "dc_ae_f32c32_decode_size4096": (None, 133.898),
}
# layers, width, hidden of the Mix-FFN, heads of the linear attention (Sana, arXiv 2410.10629, table 6)
SANA = {"sana_600m": (28, 1152, 2880, 36), "sana_1600m": (20, 2240, 5600, 70)}


def parameters(trace):
    return int(trace.weights["elements"][trace.weights["kind"] == "parameter"].sum())


@pytest.mark.parametrize("name", COUNTED)
def test_parameters_and_flops_of_published_models(name):
    trace = load_workload(name)
    expected, tflop = COUNTED[name]
    if expected:
        assert parameters(trace) == expected
    assert total(trace).product_flops / 1e12 == pytest.approx(tflop, rel=1e-3)


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("name", SANA)
def test_flops_of_sana_are_the_closed_form(name, size):
    layers, c, h, heads = SANA[name]
    n, t = (size // 32) ** 2, 300
    block = n * (6 * c * c + 3 * h * c + 18 * h) + 2 * t * c * c + 2 * n * t * c + 2 * heads * n * 33 * 32
    expected = 2 * (layers * block + 64 * n * c + t * (2304 * c + c * c) + 256 * c + 7 * c * c)
    assert total(load_workload(name if size == 1024 else f"{name}_size{size}")).product_flops == expected


def test_the_shelf_holds_what_the_list_says():
    assert set(workload_names("exported")) == {label(name, options) for name, options in shipped()}


@pytest.mark.parametrize("name", workload_names("exported"))
def test_shipped_traces_leave_nothing_unknown_and_hang_together(name):
    trace = load_workload(name)
    operators, operands, weights = trace.operators, trace.operands, trace.weights
    assert trace.made["unknown"] == {}
    assert (operators["flops_unmasked"] <= operators["flops"]).all()
    assert (operands["producer"] < operands["operator"]).all()  # nobody is fed by a later operator
    assert operands["weight"].max() < len(weights["name"])
    used = np.unique(operands["weight"][operands["weight"] >= 0])
    assert weights["elements"][used].sum() >= 0.9 * parameters(trace)
    rows = np.isin(operators["kind"], ("linear", "conv_1x1"))
    sizes = operators["batch"] * operators["m"] * operators["n"] * operators["k"]
    assert (operators["flops"][rows] == 2 * sizes[rows]).all()


@pytest.mark.parametrize("name", ["sana_600m_size512", "llama3_8b_tokens1_past1024", "bert_base"])
def test_an_export_made_anew_has_the_shipped_bytes(name):
    pytest.importorskip("torch")
    from workloads.export import export_model
    from workloads.trace_file import trace_bytes

    old = load_workload(name)
    new = export_model(old.model["name"], old.model["options"])
    if all(importlib.metadata.version(one).partition("+")[0] == of for one, of in old.made["versions"].items()):
        assert trace_bytes(new) == trace_bytes(old)
    assert parameters(new) == parameters(old)
    assert total(new).product_flops == total(old).product_flops


def recordings():
    """Model -> its timed traces."""
    found = {}
    for name in workload_names("timed"):
        found.setdefault(name.rpartition("_h200_")[0], []).append(name)
    return found


@pytest.mark.parametrize("model", recordings())
def test_kernels_on_several_machines_agree(model):
    """A recording of another shape, format or clock would not."""
    traces = [load_workload(name) for name in recordings()[model]]
    assert len(traces) >= 2
    for way in ("graph", "compiled_graph"):
        times = [trace.made["timed"][way]["pass_us"] for trace in traces if way in trace.made["timed"]]
        assert max(times, default=1) <= 1.03 * min(times, default=1)
    sums = [float(trace.facts["timed.eager_us"].sum()) for trace in traces]
    assert max(sums) <= 1.03 * min(sums)


@pytest.mark.parametrize("name", workload_names("timed"))
def test_times_and_shapes_of_a_recording_fit(name):
    trace = load_workload(name)
    timed = trace.made["timed"]
    time, kernels = trace.facts["timed.eager_us"], trace.facts["timed.eager_kernels"]
    assert len(time) == len(kernels) == len(trace.operators["kind"])
    assert not time[trace.operators["kind"] == "view"].any()
    assert float(time.sum()) == pytest.approx(timed["rows"]["attributed_us"], rel=0.01)
    assert abs(timed["rows"]["unattributed_us"]) <= 0.01 * timed["rows"]["total_us"]
    assert set(timed) & set(WAYS)
    rate = total(trace).product_flops / time.sum() / 1e6  # TFLOP/s
    assert rate < 990  # the data sheet's dense bf16 rate of an H200
