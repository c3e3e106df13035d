"""Scheme files, patterns, assignment, and bytes worked out by hand."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accel.fault import Faults
from tests.workloads.scheme_traces import Layer, attention_trace, toy_trace
from workloads.schemes import assign, kv_bytes_per_token, read_scheme, scheme_names, weight_bytes
from workloads.schemes.bytes import level_bytes, packed_bytes
from workloads.schemes.patterns import matches, roots
from workloads.schemes.schema import Level
from workloads.trace import Trace

FLUX = "single_transformer_blocks.0.proj_mlp"  # also the sign of its family
SMALL = """
name: small
source: by hand
default: bf16
kv: kv16
formats:
  bf16: {weights: {number: bfloat16, bits: 16, scales: []}, accumulate: float32}
  a: {weights: {number: int4, bits: 4, scales: [{bits: 16, group: 64}]}, accumulate: float32}
  b: {weights: {number: int8, bits: 8, scales: [{bits: 16, group: row}]}, accumulate: float32}
rules:
  - {name: first, modules: ["**.fc1"], format: a}
  - {name: second, modules: ["layers.*.*"], unless: ["**.skip"], format: b}
"""


def scheme_file(folder: Path, text: str) -> Path:
    path = folder / "small.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("scheme", "module", "expected"),
    [  # one layer of 64 outputs and 128 inputs: 8192 weights, 128 bytes of bias
        ("bf16", "layers.0.fc", {"plain": 16384}),
        ("fp16", "layers.0.fc", {"plain": 16384}),
        ("fp8", "layers.0.fc", {"quantized": 8192, "scales": 64 * 4}),
        ("w8a8", "layers.0.fc", {"quantized": 8192, "scales": 64 * 2}),
        ("w4a16", "layers.0.fc", {"quantized": 4096, "scales": 64 * 2, "zeros": 64 // 2}),
        ("nf4", "fc", {"quantized": 4096, "scales": 128 * 4}),
        ("nf4_double", "fc", {"quantized": 4096, "scales": 128 + 4 + 4}),
        ("svdquant_int4", FLUX, {"quantized": 4096, "scales": 64 * 2 * 2, "low_rank": 32 * 192 * 2, "smooth": 512}),
        ("svdquant_nvfp4", FLUX, {"quantized": 4096, "scales": 64 * 8 + 64 * 2 + 4, "low_rank": 12288, "smooth": 512}),
        ("qoq_w4a8kv4", "m.layers.0.mlp.gate_proj", {"quantized": 4096, "scales": 128, "zeros": 128}),
        ("qoq_w4a8kv4_g128", "m.layers.0.mlp.gate_proj", {"quantized": 4096, "scales": 64 + 128, "zeros": 64}),
        ("sana_w8a8", "transformer_blocks.0.ff.conv_inverted", {"quantized": 8192, "scales": 64 * 2}),
    ],
)
def test_one_layer_by_hand(scheme: str, module: str, expected: dict[str, int]) -> None:
    kind = "conv_1x1" if "conv" in module else "linear"
    size = weight_bytes(toy_trace([Layer(module, 5, 64, 128, kind=kind)]), scheme)
    assert {name: value for name, value in size.bytes.items() if value} == {**expected, "bias": 128}
    assert size.total == sum(expected.values()) + 128
    assert sum(size.parameters.values()) == 64 * 128 + 64


def test_every_shipped_scheme_is_worked_out_by_hand() -> None:
    (mark,) = [mark for mark in test_one_layer_by_hand.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]
    assert {row[0] for row in mark.args[1]} == set(scheme_names())


def test_w4a16_modulation_and_a_split_layer_of_flux() -> None:
    layers = [
        Layer(FLUX, 5, 64, 64),
        Layer("single_transformer_blocks.0.norm.linear", 1, 192, 64, bias=False),
        Layer("single_transformer_blocks.0.proj_out", 5, 64, 64 + 256, bias=False),
    ]
    size = weight_bytes(toy_trace(layers), "svdquant_int4", rank=16).bytes
    assert size["zeros"] == 192 * 1 * 2  # the modulation alone: one group of 64
    branches = (64 + 64) + (64 + 64) + (256 + 64)  # proj_mlp; the attention's part of proj_out; the MLP's part
    assert size["low_rank"] == 16 * branches * 2
    assert size["smooth"] == 2 * (64 + 64 + 256) * 2


def test_layers_that_share_an_input_share_the_down_projection() -> None:
    qkv = [Layer(f"transformer_blocks.0.attn.to_{one}", 5, 64, 64, bias=False) for one in "qkv"]
    size = weight_bytes(toy_trace([Layer(FLUX, 5, 64, 64, bias=False), *qkv]), "svdquant_int4").bytes
    assert size["low_rank"] == 32 * 2 * ((64 + 64) + (64 + 3 * 64))
    assert size["smooth"] == 2 * 2 * (64 + 64)


def test_adapters_come_in_steps_of_sixteen() -> None:
    trace = toy_trace([Layer(FLUX, 5, 64, 128)])
    size = [weight_bytes(trace, "svdquant_int4", lora_rank=rank).bytes["adapters"] for rank in (0, 1, 16, 17)]
    assert size == [0, 16 * 192 * 2, 16 * 192 * 2, 32 * 192 * 2]


def test_groups_that_do_not_divide_are_filled_up() -> None:
    assert level_bytes([Level(bits=16, group=64)], 3, 100) == 3 * 2 * 2
    assert level_bytes([Level(bits=4, group=64)], 3, 100) == 3  # 6 x 4 bits
    assert level_bytes([Level(bits=16, group=64, flat=True)], 3, 100) == 5 * 2  # 300 elements
    assert packed_bytes(3, 5, 4) == 3 * 3


def test_the_first_rule_that_matches_wins(tmp_path: Path) -> None:
    modules = ["layers.0.fc1", "layers.0.fc2", "layers.0.skip", "head"]
    given_ = assign(toy_trace([Layer(name, 2, 8, 8) for name in modules]), read_scheme(scheme_file(tmp_path, SMALL)))
    assert given_.operators.tolist() == ["a", "b", "bf16", "bf16"]
    assert given_.weights.tolist() == ["a", "bf16", "b", "bf16", "bf16", "bf16", "bf16", "bf16"]  # weight, bias, ...
    assert given_.dead == ()


def test_a_rule_that_matches_nothing_is_reported(tmp_path: Path) -> None:
    trace = toy_trace([Layer("layers.0.fc2", 2, 8, 8)])
    assert assign(trace, read_scheme(scheme_file(tmp_path, SMALL))).dead == ("first",)
    dead = assign(toy_trace([Layer(FLUX, 2, 8, 8)]), "svdquant_int4").dead
    assert "flux_qkv" in dead
    assert "flux_fc1" not in dead  # it matched
    assert not any(name.startswith(("sana", "pixart", "sdxl")) for name in dead)  # written for others


@pytest.mark.parametrize(
    ("pattern", "module", "expected"),
    [
        ("blocks.*.attn.{q,k}", "blocks.11.attn.q", True),
        ("blocks.*.attn.{q,k}", "blocks.11.attn.v", False),
        ("blocks.*.attn.{q,k}", "single_blocks.1.attn.q", False),
        ("blocks.*.q", "blocks.1.attn.q", False),
        ("**.lm_head", "lm_head", True),
        ("**.lm_head", "model.a.lm_head", True),
        ("**.lm_head", "model.not_lm_head", False),
        ("layers.**", "layers.0.mlp.fc", True),
        ("layers.**.fc", "layers.0.mlp.fc", True),
        ("layers.**", "layersx.0", False),
        ("**.*", "fc", True),
        ("a.b", "axb", False),
    ],
)
def test_patterns(pattern: str, module: str, expected: bool) -> None:
    assert matches(pattern, module) is expected


def test_patterns_of_a_family_start_at_its_root() -> None:
    text = "clip.layers.0.self_attn.q_proj"  # like a decoder's, but no decoder
    llama = "llm.model.layers.0.mlp.gate_proj"
    assert roots([text, llama]) == {"decoder": ("llm.model.",)}
    given_ = assign(toy_trace([Layer(text, 2, 8, 8), Layer(llama, 2, 8, 8)]), "qoq_w4a8kv4")
    assert given_.operators.tolist() == ["fp16", "w4a8"]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "format: a}",
            "format: c}",
            r'11:48: rules\[0\].format: must be a known name, got "c" \(allowed: a, b',
        ),
        ("default: bf16", "default: a", r'4:10: default: must be a format of 16 bits or more without scales.*got "a"'),
        ("default: bf16", "default: bf15", r'4:10: default: must be a known name, got "bf15" \(did you mean.*bf16'),
        ("kv: kv16", "kv: kv3", r'5:5: kv: must be a known name, got "kv3" \(did you mean.*kv4'),
        ("name: second", "name: first", r'12:12: rules\[1\].name: must be used once, got "first"'),
        (
            "name: first,",
            "name: first, family: fluxx,",
            r'11:27: .*family: must be a known name, got "fluxx" \(did you mean.*flux',
        ),
        ("bits: 8,", "bits: 0,", r"formats.b.weights.bits: must be >= 1, got 0"),
        ("group: row", "group: rows", r"formats.b.weights.scales\[0\].group: must be"),
        ("format: b", "fromat: b", r"rules\[1\].fromat: unknown key"),
    ],
)
def test_faults_of_a_file_name_their_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(Faults, match=expected) as caught:
        read_scheme(scheme_file(tmp_path, SMALL.replace(old, new, 1)))
    assert str(caught.value).startswith(f"{tmp_path}/small.yaml:")


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'svdquant_int4'"):
        read_scheme("svdquant_in4")
    with pytest.raises(ValueError, match=r"kv_format: must be one of kv16.*got 'kv5'"):
        kv_bytes_per_token({"layers": 1, "heads": 1, "head_size": 8}, "kv5")


def test_what_cannot_be_is_refused(tmp_path: Path) -> None:
    trace = toy_trace([Layer(FLUX, 2, 8, 8)])
    with pytest.raises(ValueError, match="lora_rank: must be an integer >= 0, got -1"):
        assign(trace, "svdquant_int4", lora_rank=-1)
    with pytest.raises(ValueError, match="scheme bf16 has no low-rank branch, got 32, 0"):
        assign(trace, "bf16", rank=32)
    with pytest.raises(ValueError, match="toy: a scheme needs the modules"):
        assign(Trace("toy", {}, {}, {}), "bf16")
    with pytest.raises(ValueError, match="split needs more inputs than outputs, got 8 and 8"):
        assign(
            toy_trace([Layer(FLUX, 2, 8, 8), Layer("single_transformer_blocks.0.proj_out", 2, 8, 8)]), "svdquant_int4"
        )
    tied = [Layer("layers.0.fc1", 2, 8, 8, bias=False), Layer("head", 2, 8, 8, weight="layers.0.fc1", bias=False)]
    with pytest.raises(ValueError, match=r"layers.0.fc1.weight: one weight must have one format, got a, bf16"):
        assign(toy_trace(tied), read_scheme(scheme_file(tmp_path, SMALL)))
    uneven = [Layer(f"transformer_blocks.0.attn.to_{one}", 2, 8, k) for one, k in (("q", 8), ("k", 16))]
    with pytest.raises(ValueError, match=r"rule flux_qkv: shared layers must have one number of inputs"):
        weight_bytes(toy_trace([Layer(FLUX, 2, 8, 8), *uneven]), "svdquant_int4")


@pytest.mark.parametrize(
    ("layers", "kv_heads", "kv16", "kv4"),
    [  # QServe's models, docs/schemes.md: Llama-3-8B, Llama-2-7B, Qwen1.5-72B
        (32, 8, 131_072, 34_816),
        (32, 32, 524_288, 139_264),
        (80, 64, 2_621_440, 696_320),
    ],
)
def test_kv_bytes_per_token_of_published_models(layers: int, kv_heads: int, kv16: int, kv4: int) -> None:
    shape = {"layers": layers, "kv_heads": kv_heads, "head_size": 128}
    assert kv_bytes_per_token(shape, "kv16") == kv16
    assert kv_bytes_per_token(shape, "kv4") == kv4
    assert kv_bytes_per_token(shape, "kv8") == layers * kv_heads * 2 * (128 + 4)
    assert kv_bytes_per_token(shape, "kv8_static") == kv16 // 2


def test_kv_bytes_of_a_trace_count_kv_heads_not_query_heads() -> None:
    assert kv_bytes_per_token(attention_trace(1, 9), "kv4") == 2 * 2 * (4 + 4)
    with pytest.raises(ValueError, match="toy: must have attention with a KV cache"):
        kv_bytes_per_token(toy_trace([Layer("fc", 2, 8, 8)]), "kv4")
    with pytest.raises(ValueError, match="shape: head_size: must be an integer >= 1, got None"):
        kv_bytes_per_token({"layers": 1, "heads": 2}, "kv4")


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(scheme_names()),
    sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 200)), min_size=1, max_size=4),
    norm=st.integers(0, 50),
)
def test_every_parameter_is_counted_once(scheme: str, sizes: list[tuple[int, int]], norm: int) -> None:
    names = [FLUX, "transformer_blocks.0.attn.to_out.0", "layers.0.mlp.gate_proj", "head"]
    layers = [Layer(name, 3, n, k, bias=k % 2 == 0) for name, (n, k) in zip(names, sizes, strict=False)]
    trace = toy_trace(layers, extra=norm)
    size = weight_bytes(trace, scheme)
    assert sum(size.parameters.values()) == trace.weights["elements"].sum()
    assert size.parameters["rest"] == norm
    assert size.total == sum(size.bytes.values())
    assert all(
        value == 0 for name, value in size.parameters.items() if name in ("scales", "zeros", "low_rank", "smooth")
    )


@pytest.mark.parametrize(
    ("scheme", "zeros"), [("w4a16", 64 * 3 // 2), ("qoq_w4a8kv4", 64 * 2), ("qoq_w4a8kv4_g128", 64 * 3)]
)
def test_zeros_are_one_a_group_or_one_a_row(scheme: str, zeros: int) -> None:
    """Three groups a row: with one, a zero a row and a zero a group are the same."""
    module = "m.layers.0.mlp.gate_proj" if "qoq" in scheme else "layers.0.fc"
    assert weight_bytes(toy_trace([Layer(module, 5, 64, 384)]), scheme).bytes["zeros"] == zeros
