"""A trace under a scheme: what is added, what stays, who reads what."""

from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workloads.scheme_traces import Layer, attention_trace, toy_trace
from workloads.schemes import annotate, read_scheme, scheme_names, weight_bytes
from workloads.trace import Trace, load_workload

FLUX = "single_transformer_blocks.0.proj_mlp"
OUT = "single_transformer_blocks.0.proj_out"


def rows(trace: Trace, table: str = "operators") -> list[dict[str, Any]]:
    columns = getattr(trace, table)
    return [dict(zip(columns, row, strict=True)) for row in zip(*(columns[c].tolist() for c in columns), strict=True)]


def operands(trace: Trace, operator: int, *, output: int = 0) -> list[dict[str, Any]]:
    return [o for o in rows(trace, "operands") if o["operator"] == operator and o["output"] == output]


def ops(trace: Trace) -> list[str]:
    return [op.removeprefix("scheme.").removeprefix("aten.") for op in trace.operators["op"].tolist()]


def test_one_layer_of_svdquant_by_hand() -> None:
    trace = annotate(toy_trace([Layer(FLUX, 5, 64, 128)]), "svdquant_int4")
    assert ops(trace) == ["quantize", "low_rank_down", "linear.default", "low_rank_up"]
    quantize, down, layer, up = rows(trace)
    packed = 5 * 128 // 2 + 5 * 2 * 2  # numbers; two groups a row, 16 bit each
    assert (quantize["read_bytes"], quantize["write_bytes"]) == (5 * 128 * 2 + 128 * 2, packed)
    assert (down["read_bytes"], down["write_bytes"]) == (5 * 128 * 2 + 32 * 128 * 2, 5 * 32 * 4)
    assert (down["m"], down["n"], down["k"], down["flops"]) == (5, 32, 128, 2 * 5 * 32 * 128)
    assert (layer["read_bytes"], layer["write_bytes"]) == (packed + 4096 + 256 + 128, 5 * 64 * 2)
    assert (layer["flops"], layer["format"]) == (2 * 5 * 64 * 128, "w4a4")
    assert (up["read_bytes"], up["write_bytes"]) == (5 * 32 * 4 + 64 * 32 * 2 + 5 * 64 * 2, 5 * 64 * 2)
    assert [one["producer"] for one in operands(trace, 3)] == [1, -1, 2]
    assert [one["format"] for one in operands(trace, 2)] == ["int4", "int4", "bfloat16"]


def test_layers_that_read_one_tensor_share_its_quantisation_and_the_next_reads_the_sum() -> None:
    qkv = [Layer(f"transformer_blocks.0.attn.to_{one}", 5, 64, 64, reads=0) for one in "qkv"]
    out = Layer("transformer_blocks.0.attn.to_out.0", 5, 64, 64, reads=3)
    trace = annotate(toy_trace([Layer(FLUX, 5, 64, 64), *qkv, out]), "svdquant_int4", rank=16)
    first, shared = ["quantize", "low_rank_down", "linear.default", "low_rank_up"], ["linear.default", "low_rank_up"]
    assert ops(trace) == first + first[:2] + shared * 3 + first
    assert [operands(trace, row)[0]["producer"] for row in (4, 5)] == [3, 3]  # q, k, v read the result with branch
    assert [operands(trace, row)[0]["producer"] for row in (6, 8, 10)] == [4, 4, 4]
    assert [operands(trace, row)[0]["producer"] for row in (7, 9, 11)] == [5, 5, 5]
    assert operands(trace, 12)[0]["producer"] == 11


def test_a_layer_that_runs_twice_quantises_twice_and_stores_once() -> None:
    again = Layer(FLUX, 5, 64, 64, weight=FLUX, bias=False)
    trace = annotate(toy_trace([Layer(FLUX, 5, 64, 64, bias=False), again]), "svdquant_int4")
    assert ops(trace).count("quantize") == ops(trace).count("low_rank_down") == 2
    assert [name for name in trace.weights["name"].tolist() if "low_rank_down" in name] == [f"{FLUX}.low_rank_down"]


def test_a_split_layer_reads_two_inputs_the_second_unsigned() -> None:
    layers = [Layer(FLUX, 5, 64, 64), Layer(OUT, 5, 64, 64 + 256, bias=False, reads=0)]
    trace = annotate(toy_trace(layers), "svdquant_int4")
    row = ops(trace).index("linear.default", 4)
    first, second, weight = operands(trace, row)
    assert (first["format"], first["shape"], first["bytes"]) == ("int4", "5x64", 5 * (32 + 2))
    assert (second["format"], second["shape"], second["bytes"]) == ("uint4", "5x256", 5 * (128 + 8))
    assert weight["bytes"] == 64 * (320 // 2 + 2 * 5)
    read = [one["read_bytes"] for one in rows(trace)[4:] if one["op"] == "scheme.quantize"]
    assert read == [5 * 64 * 2 + 64 * 2, 5 * 256 * 2 + 256 * 2]  # each its own part, and its smoothing vector
    assert ops(trace)[row + 1 :] == ["low_rank_up", "low_rank_up"]
    assert [operands(trace, row + 2)[2]["producer"], operands(trace, row + 1)[2]["producer"]] == [row + 1, row]


def test_weight_only_formats_add_no_operator() -> None:
    before = toy_trace([Layer("layers.0.fc", 5, 64, 128)])
    trace = annotate(before, "w4a16")
    assert ops(trace) == ["linear.default"]
    saved = 64 * 128 * 2 - (4096 + 128 + 32)
    assert trace.operators["read_bytes"][0] == before.operators["read_bytes"][0] - saved


def test_the_traces_own_format_changes_nothing() -> None:
    before = toy_trace([Layer("layers.0.fc", 5, 64, 128), Layer("head", 5, 7, 64, reads=0)], extra=9)
    after = annotate(before, "bf16")
    for table in ("operators", "operands", "weights"):
        assert rows(after, table) == rows(before, table)


def test_a_float32_trace_takes_the_default_of_the_scheme() -> None:
    before = toy_trace([Layer("head", 5, 64, 128)], number="float32", extra=10)
    after = annotate(before, "fp16")
    assert set(after.operands["format"]) == set(after.operators["format"]) == {"float16"}
    for name in ("read_bytes", "write_bytes"):
        assert (2 * after.operators[name] == before.operators[name]).all()
    assert (2 * after.weights["bytes"] == before.weights["bytes"]).all()


def test_a_decoding_step_reads_the_cache_in_four_bits_and_writes_one_token() -> None:
    trace = annotate(attention_trace(1, 9), "qoq_w4a8kv4")
    assert ops(trace)[-3:-1] == ["cache_write", "cache_write"]
    token = 2 * (8 // 2 + 4)  # two kv heads of size 8, with scale and zero
    attention = len(trace.operators["op"]) - 1
    assert [one["bytes"] for one in operands(trace, attention)] == [4 * 8 * 2, 9 * token, 9 * token]
    assert trace.operators["read_bytes"][-1] == 4 * 8 * 2 + 2 * 9 * token
    assert trace.operators["write_bytes"][-2] == token
    assert trace.operators["read_bytes"][-2] == 2 * 8 * 2


def test_a_prefill_attends_in_sixteen_bits_and_writes_every_token() -> None:
    before = attention_trace(9, 9)
    trace = annotate(before, "qoq_w4a8kv4")
    assert trace.operators["read_bytes"][-1] == before.operators["read_bytes"][-1]
    assert trace.operators["write_bytes"][-2] == 9 * 2 * (4 + 4)
    assert "cache_write" not in ops(annotate(before, "w4a16"))  # its cache is 16 bit


def test_facts_of_the_model_as_it_ran_are_left_behind() -> None:
    timed = replace(toy_trace([Layer("layers.0.fc", 5, 64, 128)]), facts={"seconds": np.ones(1)})
    assert annotate(timed, "w8a8").facts == {}


def test_a_trace_under_a_scheme_takes_no_other() -> None:
    once = annotate(toy_trace([Layer("layers.0.fc", 5, 64, 128)]), "w8a8")
    with pytest.raises(ValueError, match="toy: must be a trace as exported, is already under w8a8"):
        annotate(once, "fp8")


def test_a_branch_of_a_convolution_of_taps_is_refused(tmp_path: Path) -> None:
    from accel.fault import Faults
    from workloads.schemes.schema import SPECS

    text = (SPECS / "svdquant_nvfp4.yaml").read_text().replace("kinds: [conv_1x1]", "kinds: [conv]")
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(
        Faults, match=r'mine.yaml:\d+:\d+: rules\[10\].kinds: a low-rank branch must be of .* got "conv"'
    ):
        read_scheme(tmp_path / "mine.yaml")


@settings(max_examples=40, deadline=None)
@given(
    scheme=st.sampled_from(scheme_names()),
    m=st.integers(1, 30),
    n=st.integers(1, 60),
    k=st.integers(1, 200),
    rank=st.integers(0, 40),
    lora=st.integers(0, 40),
)
def test_flops_and_bytes_are_conserved(scheme: str, m: int, n: int, k: int, rank: int, lora: int) -> None:
    qkv = [Layer(f"transformer_blocks.0.attn.to_{one}", m, n, k) for one in "qk"]
    before = toy_trace([Layer(FLUX, m, n, k), *qkv, Layer(OUT, m, n, n + k), Layer("proj_out", m, n, k)], extra=3)
    branched = scheme.startswith("svdquant")
    options = {"rank": rank, "lora_rank": lora} if branched else {}
    after = annotate(before, scheme, **options)
    added = np.char.startswith(after.operators["op"], "scheme.")
    assert (after.operators["flops"][~added] == before.operators["flops"]).all()
    whole = rank + 16 * ceil(lora / 16) if branched else 0
    inputs_outputs = (n + k) + (2 * n + k) + (n + n) + (n + k)  # proj_mlp, q and k, the two parts of proj_out
    linear = after.operators["kind"] == "linear"
    assert after.operators["flops"][added & linear].sum() == 2 * whole * inputs_outputs * m
    assert after.weights["bytes"].sum() == weight_bytes(before, scheme, **options).total
    for side, name in enumerate(("read_bytes", "write_bytes")):
        moved = np.zeros(len(added), np.int64)
        mine = after.operands["output"] == side
        np.add.at(moved, after.operands["operator"][mine], after.operands["bytes"][mine])
        assert (moved == after.operators[name]).all()
    assert (after.operands["producer"] < after.operands["operator"]).all()


@pytest.mark.parametrize("scheme", scheme_names())
@pytest.mark.parametrize("name", ["minilm_l6", "gpt2_small", "clip_bigg", "dc_ae_f32c32_decode", "sana_600m_size512"])
def test_no_operator_of_a_shipped_trace_moves_less_than_nothing(name, scheme):
    """A look-up reads its rows only; recasting the whole table must not take more away than was counted."""
    trace = annotate(load_workload(name), scheme)
    for column in ("read_bytes", "write_bytes", "flops"):
        assert int(np.min(trace.operators[column])) >= 0
