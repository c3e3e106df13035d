"""The exporter: every operator of a module, none twice, with the counts of PyTorch's own counter."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from workloads.export import export, export_stages  # noqa: E402
from workloads.export.catalogue import GEMM_KINDS, causal_pairs  # noqa: E402
from workloads.trace_file import trace_bytes  # noqa: E402
from workloads.zoo.registry import Stage  # noqa: E402


class Call(nn.Module):
    """A module that calls one function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args, **kwargs)


def meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


def products(trace):
    return int(trace.operators["flops"][np.isin(trace.operators["kind"], GEMM_KINDS)].sum())


def rows(trace, *columns, views=False):
    keep = (trace.operators["kind"] != "view") | views
    return [tuple(x.item() for x in row) for row in zip(*(trace.operators[c][keep] for c in columns), strict=True)]


def counted(module, *args, **kwargs):
    """(FLOPs of PyTorch's counter, trace), both of the same run."""
    with FlopCounterMode(display=False) as counter:
        trace = export(module, args, **kwargs)
    return counter.get_total_flops(), trace


def test_a_linear_layer_by_hand():
    with torch.device("meta"):
        layer = nn.Linear(32, 48, dtype=torch.bfloat16)
    trace = export(layer, meta(2, 5, 32, dtype=torch.bfloat16))
    sizes = rows(trace, "kind", "part", "flops", "batch", "m", "n", "k", "read_bytes", "write_bytes", "format")
    assert sizes == [("linear", "fc", 2 * 10 * 32 * 48, 1, 10, 48, 32, 2 * (320 + 1536 + 48), 2 * 480, "bfloat16")]
    assert trace.weights["name"].tolist() == ["weight", "bias"]
    assert trace.weights["elements"].tolist() == [1536, 48]
    assert trace.operands["weight"].tolist() == [-1, 0, 1, -1]
    assert trace.operands["output"].tolist() == [0, 0, 0, 1]
    assert trace.operands["shape"].tolist() == ["2x5x32", "48x32", "48", "2x5x48"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_convolutions_count_as_in_pytorch(data):
    groups = data.draw(st.integers(1, 4))
    inputs, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    kernel, stride = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 2))
    dimensions = data.draw(st.integers(1, 3))
    kind = getattr(nn, f"Conv{'Transpose' if data.draw(st.booleans()) else ''}{dimensions}d")
    with torch.device("meta"):
        layer = kind(inputs, outputs, kernel, stride=stride, groups=groups)
    expected, trace = counted(layer, meta(2, inputs, *[6] * dimensions))
    assert products(trace) == expected > 0
    [(batch, m, n, k, flops)] = [r for r in rows(trace, "batch", "m", "n", "k", "flops") if r[-1]]
    assert flops == 2 * batch * m * n * k


def test_kinds_of_convolutions():
    with torch.device("meta"):
        layers = nn.ModuleList([nn.Conv2d(8, 6, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 3, stride=2)])
    x = meta(1, 8, 9, 9)
    trace = export(Call(lambda: [layer(x) for layer in layers]))
    assert rows(trace, "kind", "batch", "m", "n", "k") == [
        ("conv_1x1", 1, 81, 6, 8),
        ("conv_depthwise", 8, 49, 1, 9),
        ("conv", 1, 16, 6, 72),
    ]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9))
def test_pairs_that_a_causal_mask_leaves(queries, keys):
    assert causal_pairs(queries, keys) == int(torch.ones(queries, keys).tril().sum())


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("heads", "kv_heads", "keys"), [(4, 4, 7), (8, 2, 5), (6, 6, 12)])
def test_attention_is_one_operator_and_causal_is_counted_both_ways(causal, heads, kv_heads, keys):
    query, key = meta(2, heads, 7, 16), meta(2, kv_heads, keys, 16)
    attend = Call(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=heads != kv_heads)
    )
    expected, trace = counted(attend, query, key, key)
    full = 4 * 2 * heads * 7 * keys * 16
    left = 4 * 2 * heads * causal_pairs(7, keys) * 16 if causal else full
    assert rows(trace, "kind", "part", "flops", "flops_unmasked") == [("sdpa", "attention", full, left)]
    assert expected == full
    assert trace.operands["shape"].tolist()[1] == f"2x{kv_heads}x{keys}x16"  # grouped keys are read once


def transformer():
    with torch.device("meta"):
        return nn.Transformer(64, 4, 2, 2, 128, batch_first=True).eval(), (
            torch.empty(2, 10, 64),
            torch.empty(2, 7, 64),
        )


def test_a_module_that_nobody_prepared_is_counted_to_the_last_flop():
    module, args = transformer()
    expected, trace = counted(module, *args)
    assert products(trace) == expected > 0
    assert trace.made["unknown"] == {}
    assert rows(trace, "kind").count(("sdpa",)) == 2 + 2 * 2
    assert int(trace.weights["elements"].sum()) == sum(p.numel() for p in module.parameters())


def test_a_captured_graph_gives_the_operators_of_a_run():
    module, args = transformer()
    columns = ("op", "kind", "part", "module", "flops", "read_bytes", "write_bytes", "layer")
    run, captured = (rows(export(module, args, method=m), *columns) for m in ("dispatch", "torch.export"))
    assert captured == run


def test_another_unet_exports_without_changes():
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(
            sample_size=16, block_out_channels=(32, 64), layers_per_block=1, cross_attention_dim=24,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=8, norm_num_groups=8,
        ).eval()  # fmt: skip
    expected, trace = counted(unet, meta(1, 4, 16, 16), meta(1), meta(1, 5, 24))
    assert products(trace) == expected > 0
    assert trace.made["unknown"] == {}
    assert {"conv", "conv_1x1", "sdpa", "groupnorm", "silu", "resize"} <= {kind for (kind,) in rows(trace, "kind")}


def producers(trace, row):
    mine = (trace.operands["operator"] == row) & (trace.operands["output"] == 0)
    return trace.operands["producer"][mine].tolist()


def test_who_feeds_whom_through_views_and_in_place_operators():
    def chain(x):
        y = x.exp()  # 0
        z = y.view(4, 3).t()  # 1, 2: views of y
        z.mul_(2.0)  # 3 writes into y
        return (y + 1.0, z.contiguous())  # 4 reads what 3 wrote; 5 copies it

    trace = export(Call(chain), meta(3, 4))
    assert [kind for (kind,) in rows(trace, "kind", views=True)] == ["exp", "view", "view", "mul", "add", "copy"]
    assert [producers(trace, row) for row in range(6)] == [[-1], [0], [0], [0], [3], [3]]
    assert rows(trace, "read_bytes", "write_bytes")[1] == (48, 48)


def test_a_weight_stays_one_when_it_is_cast_or_used_twice():
    with torch.device("meta"):
        layer = nn.Linear(4, 4, bias=False)
    trace = export(Call(lambda x: F.linear(F.linear(x, layer.weight), layer.weight.half().float())), meta(2, 4))
    assert trace.weights["name"].size == 0  # the function's layer is no submodule
    layer.register_module("call", Call(lambda x: F.linear(F.linear(x, layer.weight), layer.weight.half().float())))
    layer.forward = lambda x: layer.call(x)
    trace = export(layer, meta(2, 4))
    linear = np.flatnonzero(trace.operators["kind"] == "linear")
    weights = [trace.operands["weight"][trace.operands["operator"] == row].tolist() for row in linear]
    assert weights == [[-1, 0, -1], [-1, 0, -1]]
    assert trace.operators["part"][linear].tolist() == ["fc", "fc"]


def test_a_lookup_reads_its_rows_and_an_expanded_operand_counts_once():
    with torch.device("meta"):
        table = nn.Embedding(1000, 8)
    trace = export(table, torch.empty(5, dtype=torch.int64, device="meta"))
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("embedding", 5 * 8 * 4 + 5 * 8, 5 * 8 * 4)]
    trace = export(Call(lambda x: x.expand(10, 8) + 1.0), meta(1, 8))
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("add", 32, 320)]


def eager_attention(q, k, v):
    scores = (q @ k.mT) * 0.25
    return torch.softmax(torch.tanh(scores), -1) @ v


def linear_attention(q, k, v):
    state = F.relu(k).mT @ v
    return F.relu(q) @ state / (F.relu(q).sum(-1, keepdim=True) + 1e-6)


@pytest.mark.parametrize(("attend", "part", "own"), [
    (eager_attention, "attention", {"bmm", "mul", "tanh", "softmax"}),
    (linear_attention, "linear_attention", {"bmm"}),
])  # fmt: skip
def test_attention_written_out_is_found(attend, part, own):
    trace = export(Call(lambda q, k, v: attend(q, k, v).exp()), [meta(2, 3, 6, 4)] * 3)
    assert {kind for kind, p in rows(trace, "kind", "part") if p == part} == own
    assert ("exp", "other") in rows(trace, "kind", "part")


def test_two_products_in_a_row_that_no_one_shares_are_no_attention():
    trace = export(Call(lambda a, b, c: (a @ b, b @ c)), [meta(2, 4, 4)] * 3)
    assert rows(trace, "part") == [("other",), ("other",)]


def test_an_unknown_operator_is_named_and_counted():
    @torch.library.custom_op("tilewright_tests::strange", mutates_args=())
    def strange(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    strange.register_fake(lambda x: torch.empty_like(x))
    trace = export(Call(lambda x: strange(strange(x))), meta(3))
    assert trace.made["unknown"] == {"tilewright_tests.strange.default": 2}
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("unknown", 12, 12)] * 2


def test_values_do_not_matter_and_the_bytes_are_the_same_again():
    module, args = transformer()
    assert trace_bytes(export(module, args)) == trace_bytes(export(module, args))
    real = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())
    again = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU())
    assert trace_bytes(export(real, torch.randn(3, 4))) == trace_bytes(export(again, torch.zeros(3, 4)))


def test_repetition_paths_and_layers():
    blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))
    trace = export(nn.Sequential(nn.Linear(4, 4), blocks), torch.zeros(1, 4), repeat=20)
    assert rows(trace, "module", "layer", "repeat")[:3] == [("0", 0, 20), ("1.0.0", 1, 20), ("1.0.1", 1, 20)]


def test_a_module_that_cannot_run_says_where():
    block = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(5, 4)))
    with pytest.raises(ValueError, match=r"1\.0: the module must run in inference mode on its device, got: "):
        export(block, torch.zeros(1, 4))


def test_nothing_of_the_recorder_is_left_behind():
    fast = torch.backends.mha.get_fastpath_enabled()
    with pytest.raises(ValueError, match="must run"):
        export(Call(lambda x: x @ x), torch.zeros(3, 4))
    assert torch.backends.mha.get_fastpath_enabled() == fast
    assert not nn.modules.module._global_forward_hooks
    assert not torch.is_inference_mode_enabled()


def test_what_is_only_written_is_not_read():
    out = meta(2, 3)
    trace = export(Call(lambda a, b: torch.mul(a, b, out=out)), [meta(2, 3)] * 2)
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("mul", 48, 24)]
    trace = export(Call(lambda a, b: a.copy_(b)), (meta(100), meta(100, dtype=torch.bfloat16)))
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("cast", 200, 400)]
    trace = export(Call(lambda: torch.empty(1000, device="meta")))
    assert rows(trace, "kind", "launches", "read_bytes", "write_bytes") == [("alloc", 0, 0, 0)]


def test_a_row_put_into_a_cache_moves_the_row_alone():
    cache, row, place = meta(1, 2, 1000, 4), meta(1, 2, 1, 4), torch.zeros(1, dtype=torch.int64, device="meta")
    trace = export(Call(lambda: cache.index_copy_(2, place, row)))
    assert rows(trace, "kind", "read_bytes", "write_bytes") == [("scatter", 32 + 8, 32)]
    trace = export(Call(lambda: cache.index_copy(2, place, row)))  # a new tensor is written whole
    assert rows(trace, "read_bytes", "write_bytes") == [(32_000 + 32 + 8, 32_000)]


def test_attention_whose_values_are_narrower_and_whose_batch_is_the_keys():
    expected, trace = counted(
        Call(F.scaled_dot_product_attention), meta(1, 2, 3, 4), meta(5, 2, 3, 4), meta(5, 2, 3, 8)
    )
    assert products(trace) == expected == 5 * 2 * 3 * 3 * 2 * (4 + 8)


def test_a_product_with_broadcast_batches():
    expected, trace = counted(Call(torch.matmul), meta(7, 1, 2, 4), meta(3, 4, 5))
    assert products(trace) == expected == 2 * 7 * 3 * 2 * 4 * 5


@pytest.mark.parametrize("recurrent", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_count_the_same_on_a_cpu(recurrent):
    layer = recurrent(6, 8, batch_first=True)
    on_cpu = export(layer, torch.zeros(2, 5, 6))
    expected, on_meta = counted(layer.to("meta"), meta(2, 5, 6))
    assert products(on_cpu) == products(on_meta) == expected > 0
    assert on_cpu.made["unknown"] == {}


def test_weights_that_are_made_of_weights_and_a_bias_that_is_one():
    class Dequantized(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("codes", torch.zeros(8, 8, dtype=torch.int8, device="meta"))
            self.scale, self.bias = (nn.Parameter(meta(8)) for _ in range(2))

        def forward(self, x):
            y = F.silu(F.linear(x, self.codes.float() * self.scale[:, None]))
            y = F.linear(y, torch.cat([self.codes[:4].float(), self.codes[4:].float()]))
            return torch.addmm(self.bias, y, x)  # two activations, and a bias

    trace = export(Dequantized(), meta(8, 8))
    assert [part for kind, part in rows(trace, "kind", "part") if kind == "linear"] == ["fc", "fc", "other"]


def test_dropout_in_training_is_none_of_the_copies():
    assert rows(export(nn.Dropout(0.5), meta(4)), "kind", "flops") == [("dropout", 4)]
    assert rows(export(nn.Dropout(0.5).eval(), meta(4)), "kind") == []


def test_stages_have_their_own_weights_and_repetitions():
    with torch.device("meta"):
        one, two = nn.Linear(4, 4, bias=False), nn.Linear(4, 8, bias=False)
    stages = [Stage("a", one, (meta(1, 4),)), Stage("b", two, (meta(1, 4),), repeat=5), Stage("c", one, (meta(1, 4),))]
    trace = export_stages("three", stages, {})
    assert trace.weights["name"].tolist() == ["a.weight", "b.weight"]
    assert trace.operands["weight"][trace.operands["weight"] >= 0].tolist() == [0, 1, 0]
    assert rows(trace, "module", "repeat", "step") == [("a", 1, 0), ("b", 5, 1), ("c", 1, 2)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"repeat": 0}, "repeat: must be an integer >= 1, got 0"),
        ({"repeat": 1.5}, "repeat: must be an integer >= 1"),
        ({"method": "torch_export"}, "method: must be one of dispatch, torch.export, got 'torch_export'"),
    ],
)
def test_wrong_arguments_are_told(change, words):
    with pytest.raises(ValueError, match=words):
        export(nn.Linear(4, 4), torch.zeros(1, 4), **change)


def test_no_module_and_two_stages_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"module: must be a torch\.nn\.Module, got function"):
        export(lambda x: x, torch.zeros(1))
    stage = Stage("a", nn.Linear(4, 4), (torch.zeros(1, 4),))
    with pytest.raises(ValueError, match="stages: names must differ, got 'a' twice"):
        export_stages("x", [stage, stage], {})


def test_a_failure_without_a_word_names_its_kind():
    def fail():
        raise NotImplementedError

    with pytest.raises(ValueError, match=r"Call: the module must run .*, got: NotImplementedError"):
        export(Call(fail))
