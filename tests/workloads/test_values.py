"""Value traces: what a run showed, against the same statistics computed naively."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the test extra has torch")

from workloads.decoder import DecoderShape, build_decoder  # noqa: E402
from workloads.trace import Trace  # noqa: E402
from workloads.values import Operands, channel_table, record_values  # noqa: E402
from workloads.values.channels import Channels  # noqa: E402
from workloads.values.reading import (  # noqa: E402
    head_ranges,
    importances,
    kv4_noise,
    kv_table,
    layer_channels,
    operands,
)
from workloads.values.significant import SignificantRounding, from_bits  # noqa: E402

ROUNDED = 2**-11  # half a unit of 11 significant bits
SHAPE = DecoderShape(layers=2, hidden=32, heads=4, kv_heads=2, head_size=16, intermediate=48, context=64)


def trace_of(values):
    return Trace("toy_values", {"name": "toy"}, {"kind": "values", **values.notes}, {}, values.facts)


def two_layers():
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(12, 20), torch.nn.GELU(), torch.nn.Linear(20, 6))


def toy_decoder():
    torch.manual_seed(2)
    decoder = build_decoder(SHAPE)
    for weight in decoder.parameters():  # far from the small weights of a start, so that attention is no mean
        weight.data = weight.data * 8 if weight.dim() == 2 else weight.data
    return decoder


def texts(*lengths):
    torch.manual_seed(3)
    return [torch.randint(256, (1, length)) for length in lengths]


@pytest.fixture(scope="module")
def decoder_trace():
    """A decoder of two layers on 24 and 40 tokens, one layer's operands kept."""
    chosen = Operands(
        ["*.0.self_attn.?_proj"], tokens=32, outputs=24, attention=(1,), attention_tokens=36, form="bfloat16"
    )
    return trace_of(record_values(toy_decoder(), texts(24, 40), keys_before="*.k_proj", operands=chosen))


def test_a_planted_outlier_is_found():
    inputs = [torch.randn(5, 12), torch.randn(7, 12)]
    inputs[1][3, 4] = -96.0
    module = two_layers()
    module[0].weight.data[:, 9] *= 64
    trace = trace_of(record_values(module, inputs))
    first = layer_channels(trace, "0")
    assert (first["absmax"].argmax(), first["absmax"][4], first["k_absmax"].argmax()) == (4, 96.0, 9)
    header, rows = channel_table(trace)
    row = dict(zip(header, rows[0], strict=True))
    assert (row["layer"], row["K"], row["N"], row["|x| max"]) == ("0", 12, 20, 96.0)
    assert row["x outlier"] == pytest.approx(96 / np.median(first["absmax"]))


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    tail=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_streaming_is_the_same_as_all_at_once(sizes, tail, seed):
    draw = np.random.default_rng(seed)
    blocks = [draw.standard_normal((size, 3)) * [1, 100, 0] for size in sizes]
    total = Channels.of(blocks[0], tail)
    for block in blocks[1:]:
        total += Channels.of(block, tail)
    x = np.concatenate(blocks)
    ordered = -np.sort(-np.abs(x), axis=0)
    np.testing.assert_array_equal(total.largest, ordered[:tail])
    np.testing.assert_array_equal((total.absmax, total.quantile), (ordered[0], ordered[0]))
    np.testing.assert_allclose(total.mean, x.mean(axis=0), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(total.rms, np.sqrt((x**2).mean(axis=0)), rtol=1e-12)
    kurtosis = (x[:, :2] ** 4).mean(axis=0) / (x[:, :2] ** 2).mean(axis=0) ** 2
    np.testing.assert_allclose(total.kurtosis, [*kurtosis, 0], rtol=1e-12)
    assert total.layer_kurtosis == pytest.approx((x**4).mean() / (x**2).mean() ** 2)


def test_the_quantile_is_the_nearest_rank():
    """Of 1..3000, 2997 (the 2997th of 3000) is the least that 99.9 % do not exceed."""
    x = np.random.default_rng(0).permutation(np.arange(1.0, 3001))[:, None]
    assert (Channels.of(x[:700]) + Channels.of(x[700:])).quantile == 2997
    with pytest.raises(ValueError, match="tail must be > 3 for 3000 rows, got 3"):
        _ = Channels.of(x, tail=3).quantile


def test_facts_of_a_module_equal_a_naive_computation():
    module, inputs = two_layers(), [torch.randn(2, 3, 12), torch.randn(9, 12)]
    trace = trace_of(record_values(module, inputs))
    double = two_layers().double()
    hidden = torch.cat([double[1](double[0](x.double())).reshape(-1, 20) for x in inputs]).detach().numpy()
    found, weight = layer_channels(trace, "2"), double[2].weight.detach().numpy()
    expected = {
        "absmax": np.abs(hidden).max(axis=0),
        "rms": np.sqrt((hidden**2).mean(axis=0)),
        "mean": hidden.mean(axis=0),
        "k_absmax": np.abs(weight).max(axis=0),
        "n_absmax": np.abs(weight).max(axis=1),
        "n_rms": np.sqrt((weight**2).mean(axis=1)),
        "k_rms": np.sqrt((weight**2).mean(axis=0)),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=ROUNDED, err_msg=name)
    assert module[0].weight.dtype == torch.float32  # the caller's module is left as it was


def test_layers_that_read_one_tensor_share_its_facts(decoder_trace):
    names = decoder_trace.facts["layers.name"].tolist()
    rows = decoder_trace.facts["layers.input"].tolist()
    assert rows == [0, 0, 0, 1, 2, 2, 3, 4, 4, 4, 5, 6, 6, 7, 8]
    assert names[:4] == [f"model.layers.0.self_attn.{x}_proj" for x in "qkvo"]
    assert decoder_trace.facts["inputs.rows"].tolist() == [64] * 9


def test_rotation_moves_the_ranges_and_keeps_the_pairs():
    """One token at position 0 is not turned; over many positions a pair's channels reach its radius, no further."""
    still = trace_of(record_values(toy_decoder(), texts(1), keys_before="*.k_proj"))
    np.testing.assert_array_equal(still.facts["attention.key.max"], still.facts["attention.key_before.max"])
    moved = trace_of(record_values(toy_decoder(), texts(24), keys_before="*.k_proj"))
    after, before = head_ranges(moved, "key", 1), head_ranges(moved, "key_before", 1)
    assert np.abs(after["max"] - before["max"]).max() > 0.1 * before["max"].max()
    np.testing.assert_allclose(after["rms"], before["rms"], rtol=2 * ROUNDED)
    limit = np.maximum(np.abs(before["max"]), np.abs(before["min"])).reshape(2, 2, 8)
    radius = np.tile(np.hypot(limit[:, 0], limit[:, 1]), 2)
    assert (np.maximum(np.abs(after["max"]), np.abs(after["min"])) <= radius * (1 + 4 * ROUNDED)).all()


def test_importance_of_every_head_sums_to_the_queries(decoder_trace):
    seen = list(importances(decoder_trace))
    assert [(source, layer, x.shape) for source, layer, x in seen] == [
        (0, 0, (4, 24)),
        (0, 1, (4, 24)),
        (1, 0, (4, 40)),
        (1, 1, (4, 40)),
    ]
    for _, _, importance in seen:
        np.testing.assert_allclose(importance.sum(axis=1), importance.shape[1], rtol=1e-3)
        assert (importance[:, -1] < 1).all()  # causal: only the last query sees the last key


def test_watching_does_not_change_what_the_module_computes():
    """Grouped queries, causal or masked, against torch's own attention."""
    from workloads.values.attention import attend

    torch.manual_seed(4)
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    own = torch.nn.functional.scaled_dot_product_attention
    mask = torch.rand(6, 6) > 0.3
    mask.fill_diagonal_(True)
    ways = [{}, {"is_causal": True}, {"attn_mask": mask}, {"attn_mask": torch.randn(6, 6)}, {"scale": 0.3}]
    for way in ways:
        context, _ = attend(query, key, value, enable_gqa=True, **way)
        torch.testing.assert_close(context, own(query, key, value, enable_gqa=True, **way))
    with pytest.raises(ValueError, match="dropout_p must be 0"):
        attend(query, key, value, None, 0.1)


def test_operands_reproduce_the_layer(decoder_trace):
    layer = "model.layers.0.self_attn.k_proj"
    given = operands(decoder_trace, layer)
    assert (given["input"].shape, given["weight"].shape) == ((32, 32), (24, 32))
    decoder = toy_decoder().double()
    hidden = decoder.model.embed_tokens(texts(24, 40)[1])
    x = decoder.model.layers[0].input_layernorm(hidden)[0, :32]
    true = decoder.model.layers[0].self_attn.k_proj(x).detach().numpy()[:, :24]
    share = 2 * 2**-9 + 2**-18  # two factors, each rounded by at most 2^-9 of itself (bfloat16)
    bound = share * np.abs(x.detach().numpy()) @ np.abs(given["weight"].T) * (1 + 2**-8)
    error = np.abs(given["input"] @ given["weight"].T - true)
    assert (error <= bound).all()
    assert error.max() > bound.max() / 1000  # it is rounded
    # the float64 product is what a checker may call exact
    exact = math.fsum(given["input"][5] * given["weight"][7])
    assert (given["input"] @ given["weight"].T)[5, 7] == pytest.approx(exact, rel=1e-13)


def test_operands_that_are_the_same_are_stored_once(decoder_trace):
    names = decoder_trace.made["operands"]
    inputs = {names[f"model.layers.0.self_attn.{x}_proj"]["input"] for x in "qkv"}
    assert len(inputs) == 1
    assert names["model.layers.0.self_attn.o_proj"]["input"] not in inputs


def test_operands_of_attention_are_what_the_cache_holds(decoder_trace):
    """The first 36 tokens of the first text that is as long; 4 query heads beside 2 of K and V."""
    given = operands(decoder_trace, "attention.1")
    assert [x.shape for x in given.values()] == [(4, 36, 16), (2, 36, 16), (2, 36, 16)]
    cache: list = []
    toy_decoder().double()(texts(24, 40)[1], cache)
    for name, cached in zip(("key", "value"), cache[1], strict=True):
        np.testing.assert_allclose(given[name], cached[0, :, :36].detach().numpy(), rtol=2**-8)


def test_the_ranges_predict_the_noise_of_kv4():
    """Each token and head quantized to its own 16 levels; the channels at its two ends have no error, 14 of 16 do."""
    cache: list = []
    decoder, ratios = toy_decoder().double(), []
    decoder(texts(24, 40)[1], cache)
    only = trace_of(record_values(decoder, [texts(24, 40)[1]]))
    for kind, cached in zip(("key", "value"), cache[1], strict=True):
        x = cached[0].detach().numpy()
        low, step = x.min(axis=2, keepdims=True), np.ptp(x, axis=2, keepdims=True) / 15
        error = x - (low + np.rint((x - low) / step) * step)
        ratios.append(kv4_noise(head_ranges(only, kind, 1)) / np.sqrt((error**2).mean(axis=(1, 2)) * 16 / 14))
    assert np.mean(ratios) == pytest.approx(1, abs=0.03)


def test_spans_are_quantiles_of_the_range_of_a_token():
    """A projection that copies: what K is, is known."""

    class Copying(torch.nn.Module):
        def forward(self, x):
            heads = x.unflatten(-1, (2, 4)).transpose(1, 2)
            return torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)

    x = torch.randn(1, 50, 8).double()
    ranges = head_ranges(trace_of(record_values(Copying(), [x[:, :20], x[:, 20:]])), "value", 0)
    spans = np.sort(np.ptp(x[0].numpy().reshape(50, 2, 4), axis=2), axis=0)
    np.testing.assert_allclose(ranges["span"][:, [0, 4, -1]].T, spans[[0, 24, -1]], rtol=ROUNDED)
    np.testing.assert_allclose(ranges["span_rms"], np.sqrt((spans**2).mean(axis=0)), rtol=ROUNDED)


def test_modules_that_nobody_prepared():
    """torch's own encoder layer hides its projections in one weight; a 1x1 convolution is a linear layer of pixels."""
    layer = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    facts = record_values(layer, [torch.randn(1, 5, 16)]).facts
    assert facts["layers.name"].tolist() == ["self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2"]
    convolution = torch.nn.Conv2d(3, 4, 1, stride=2)
    image = torch.zeros(2, 3, 4, 6)
    image[0, 1, 2, 4], image[1, 2, 1, 1] = 5, 7  # the second lies between the strides
    values = record_values(convolution, [{"input": image}])
    assert layer_channels(trace_of(values), "")["absmax"].tolist() == [0, 5, 0]
    assert values.facts["inputs.rows"].tolist() == [2 * 2 * 3]


def test_what_is_not_recorded_is_said():
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)

        def forward(self, x):
            return torch.nn.functional.linear(self.used(x), self.used.weight * 2)

    values = record_values(Odd(), [torch.ones(3, 4)])
    assert (values.notes["unnamed"], values.notes["idle"]) == (1, ["unused"])


def test_faults_of_the_caller_are_named(decoder_trace):
    module, inputs = two_layers(), [torch.randn(5, 12)]
    with pytest.raises(ValueError, match="no linear layer 'none' and no attention ran"):
        record_values(module, inputs, layers="none")
    with pytest.raises(ValueError, match=r"no linear layer '0' had 32 rows of input"):
        record_values(module, inputs, operands=Operands(["0"]))
    with pytest.raises(ValueError, match="form must be one of float16, bfloat16, got 'int8'"):
        Operands(form="int8")
    with pytest.raises(ValueError, match=r"no linear layer 'lm_heat'; did you mean 'lm_head'\?"):
        layer_channels(decoder_trace, "lm_heat")
    with pytest.raises(ValueError, match=r"operands must be of one of .*attention\.1, got 'lm_head'"):
        operands(decoder_trace, "lm_head")
    with pytest.raises(ValueError, match="no 'key_before' ranges of attention 2"):
        head_ranges(decoder_trace, "key_before", 2)
    with pytest.raises(ValueError, match="must be a value trace with linear layers, got kind 'dense'"):
        channel_table(Trace("x", {}, {"kind": "dense"}, {}))


@given(st.floats(-3e38, 3e38))
def test_bfloat16_is_torchs_of_the_nearest(value):
    """Where float32 holds the value exactly, torch's own conversion is the reference."""
    value = float(np.float32(value))
    bits = SignificantRounding().to_bits(np.array([value]), "bfloat16") if abs(value) < 3e38 else None
    if bits is not None and (value == 0 or abs(value) >= 2**-126):
        assert from_bits(bits, "bfloat16")[0] == float(torch.tensor(value).bfloat16())


def test_rounding_is_done_once_and_counts_near_ties():
    rounding = SignificantRounding()
    # just above the middle of bfloat16's 1 and 1 + 2^-7: by way of float32 it would be a tie, and go down
    assert from_bits(rounding.to_bits(np.array([1 + 2**-8 + 2**-40]), "bfloat16"), "bfloat16") == 1 + 2**-7
    assert (rounding.values, rounding.near_ties) == (1, 1)
    assert rounding.to_significant(np.array([1 + 2**-11, 1e-30, 3.0])).tolist()[::2] == [1.0, 3.0]
    assert (rounding.values, rounding.near_ties) == (4, 2)
    with pytest.raises(ValueError, match="must be finite in float32, got 1e\\+39"):
        rounding.to_significant(np.array([1e39]))


def test_tables_have_a_row_for_each_layer_and_head(decoder_trace):
    header, rows = kv_table(decoder_trace)
    assert [row[:2] for row in rows] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert all(len(row) == len(header) and min(row[2:5]) >= 1 for row in rows)
    assert len(channel_table(decoder_trace)[1]) == 15
