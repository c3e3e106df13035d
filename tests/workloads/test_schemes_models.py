"""Schemes on the real classes at full size: bytes, and rules that match what they were written for."""

from functools import lru_cache

import numpy as np
import pytest

from workloads.schemes import annotate, assign, kv_bytes_per_token, read_scheme, weight_bytes
from workloads.schemes.schema import families
from workloads.trace import Trace
from workloads.trace_file import trace_bytes

pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")
GIB = 2**30
MODELS = {
    "flux": "flux_dev",
    "sana": "sana_1600m",
    "pixart": "pixart_sigma",
    "sdxl": "sdxl",
    "decoder": "llama3_8b",
}


@lru_cache
def model(name: str) -> Trace:
    """A model of the zoo, whole, with few tokens where it matters little."""
    from workloads.export import export_model

    few = {"past": 7, "tokens": 1} if name.startswith("llama") else {"size": 512, "tokens": 77}
    return export_model(name, few)


@pytest.mark.parametrize(
    ("scheme", "rank", "gib"),
    [  # derived from the shapes, docs/schemes.md
        ("bf16", None, 22.17),
        ("svdquant_int4", 0, 6.08),
        ("svdquant_int4", 16, 6.19),
        ("svdquant_int4", None, 6.30),
        ("svdquant_int4", 64, 6.53),
        ("svdquant_int4", 128, 6.97),
        ("svdquant_nvfp4", None, 6.55),
    ],
)
def test_weights_of_flux(scheme: str, rank: int | None, gib: float) -> None:
    size = weight_bytes(model("flux_dev"), scheme, rank=rank)
    assert size.total / GIB == pytest.approx(gib, rel=0.01)
    assert sum(size.parameters.values()) == 11_901_408_320


def test_the_published_file_of_flux_schnell_matches_rank_16() -> None:
    """6.64 GB of the first model card; schnell has no guidance embedder."""
    weights = model("flux_dev").weights
    guidance = np.array(["guidance_embedder" in name for name in weights["name"]])
    saved = int(weights["bytes"][guidance].sum())
    size = weight_bytes(model("flux_dev"), "svdquant_int4", rank=16).total
    assert (size - saved) / 1e9 == pytest.approx(6.64, rel=0.01)


def test_weights_of_sana_and_pixart() -> None:
    assert weight_bytes(model("sana_1600m"), "svdquant_int4").total / GIB == pytest.approx(1.19, abs=0.005)
    assert weight_bytes(model("pixart_sigma"), "svdquant_int4").total / GIB == pytest.approx(0.47, abs=0.005)


def test_what_flux_keeps() -> None:
    given = assign(model("flux_dev"), "svdquant_int4")
    chosen: dict[str, int] = {}
    for name, elements in zip(given.weights.tolist(), model("flux_dev").weights["elements"].tolist(), strict=True):
        chosen[name.partition("+")[0]] = chosen.get(name.partition("+")[0], 0) + elements
    assert chosen["w4a16"] == pytest.approx(3.23e9, rel=0.002)
    assert chosen["w4a4"] + chosen["w4a4_unsigned"] == pytest.approx(8.61e9, rel=0.002)
    by_module = dict(zip(model("flux_dev").operators["module"].tolist(), given.operators.tolist(), strict=True))
    for module in ("x_embedder", "context_embedder", "norm_out.linear", "proj_out"):
        assert by_module[f"transformer.{module}"] == "bf16"
    attention = given.operators[model("flux_dev").operators["kind"] == "sdpa"]
    assert set(attention) == {"bf16"}


@pytest.mark.parametrize(
    ("scheme", "format_", "kept"), [("svdquant_int4", "w4a4", "bf16"), ("sana_w8a8", "int8", "fp16")]
)
def test_what_sana_keeps(scheme: str, format_: str, kept: str) -> None:
    trace = model("sana_1600m")
    given = assign(trace, scheme)
    place = "transformer.transformer_blocks.0."
    pairs = zip(trace.operators["module"].tolist(), trace.operators["kind"].tolist(), given.operators, strict=True)
    formats = {(path.removeprefix(place), kind): found for path, kind, found in pairs if path.startswith(place)}
    paths = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0", "attn2.to_q", "attn2.to_out.0"]
    expected = sorted([*paths, "ff.conv_inverted", "ff.conv_point"])
    assert sorted(path for (path, _), found in formats.items() if found == format_) == expected
    assert formats["attn2.to_k", "linear"] == formats["ff.conv_depth", "conv_depthwise"] == kept


@pytest.mark.parametrize("scheme", ["svdquant_int4", "svdquant_nvfp4", "sana_w8a8", "qoq_w4a8kv4", "qoq_w4a8kv4_g128"])
def test_no_rule_is_dead_on_the_models_it_was_written_for(scheme: str) -> None:
    meant = {rule.family for rule in read_scheme(scheme).rules}
    assert meant <= set(families())
    for family in sorted(filter(None, meant)):
        assert assign(model(MODELS[family]), scheme).dead == ()


def test_the_branch_of_flux_costs_what_its_shapes_say() -> None:
    before, after = model("flux_dev"), annotate(model("flux_dev"), "svdquant_int4")
    branch = np.char.startswith(after.operators["op"], "scheme.low_rank")
    image, text, outputs_inputs = 1024, 77, 12288 + 6144 + 15360 + 15360  # qkv, out, fc1, fc2: the same in every block
    tokens = 38 * (image + text) + 19 * (image + text)
    assert after.operators["flops"][branch].sum() == 2 * 32 * outputs_inputs * tokens
    old = ~np.char.startswith(after.operators["op"], "scheme.")
    assert (after.operators["flops"][old] == before.operators["flops"]).all()
    assert after.weights["bytes"].sum() == weight_bytes(before, "svdquant_int4").total
    assert trace_bytes(after) == trace_bytes(annotate(model("flux_dev"), "svdquant_int4"))


def test_kv_bytes_of_a_decoder() -> None:
    trace = model("llama3_8b")
    assert kv_bytes_per_token(trace, "kv16") == 131_072
    assert kv_bytes_per_token(trace, "kv4") == 34_816
    under = annotate(trace, "qoq_w4a8kv4")
    written = under.operators["write_bytes"][under.operators["op"] == "scheme.cache_write"].sum()
    assert written == kv_bytes_per_token(trace, "kv4")
    assert weight_bytes(trace, "qoq_w4a8kv4").total / 1e9 == pytest.approx(5.6, abs=0.05)
