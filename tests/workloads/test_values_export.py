"""The shipped value traces, and that an export gives the same bytes again."""

import numpy as np
import pytest

from workloads.decoder import DecoderShape, build_decoder, save_decoder
from workloads.trace import DATA, load_workload
from workloads.values import NAMES, channel_table, export_values
from workloads.values.reading import importances, kv_table, operands


@pytest.mark.parametrize("name", NAMES)
def test_shipped_facts_are_possible(name):
    trace = load_workload(f"{name}_values")
    facts, tokens = trace.facts, sum(trace.made["tokens"])
    assert set(facts["inputs.rows"].tolist()) == {tokens}
    # a quantile of magnitudes is at most the largest; a mean of squares lies between the mean squared and that
    assert (facts["inputs.quantile"] <= facts["inputs.absmax"]).all()
    assert (np.abs(facts["inputs.mean"]) <= facts["inputs.rms"] * 1.001).all()
    assert (facts["inputs.rms"] <= facts["inputs.absmax"] * 1.001).all()
    # both sides of a weight have one largest and one mean square
    assert facts["weights.k_absmax"].max() == facts["weights.n_absmax"].max()
    for _, _, received in importances(trace):
        np.testing.assert_allclose(received.sum(axis=1), received.shape[1], rtol=1e-3)
    assert (trace.made["idle"], trace.made["unnamed"]) == ([], 0)


def test_the_encoders_importances_are_those_of_its_other_trace():
    """Computed by other code: once in the pruning loop, once below the modules."""
    dense = load_workload("minilm").facts["dense.importance"]
    values = load_workload("minilm_values").facts["importance.values"]
    np.testing.assert_allclose(values, dense[: len(values)], rtol=2e-3, atol=1e-6)


def test_the_decoders_operands_are_its_weights():
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    from workloads.decoder import load_decoder

    weight = load_decoder().model.layers[4].mlp.down_proj.weight
    stored = torch.tensor(operands(load_workload("decoder_values"), "model.layers.4.mlp.down_proj")["weight"])
    assert torch.equal(stored.float(), weight)


def test_keys_spread_wider_than_values_in_the_decoder():
    """The finding of docs/values.md: stronger outliers in K than in V, yet far from the tenfold of large models."""
    header, rows = kv_table(load_workload("decoder_values"))
    key, value = (np.array([row[header.index(f"{x} outlier")] for row in rows]) for x in "KV")
    assert (key > value).all()
    assert key.max() < 10
    assert max(row[5] for row in channel_table(load_workload("decoder_values"))[1]) > 20


def test_an_export_gives_the_same_bytes_again(tmp_path):
    torch = pytest.importorskip("torch", reason="the test extra has torch")
    torch.manual_seed(0)
    shape = DecoderShape(layers=1, hidden=16, heads=1, kv_heads=1, head_size=8, intermediate=8, context=1024)
    save_decoder(build_decoder(shape), tmp_path / "tiny.safetensors")
    seen = []
    first, again = (
        export_values("decoder", tmp_path / name, str(tmp_path / "tiny.safetensors"), lambda *at: seen.append(at))
        for name in ("first.trace.zip", "again.trace.zip")
    )
    assert first.path.read_bytes() == again.path.read_bytes()
    assert (first.inputs, first.tokens, first.layers) == (16, 16384, 8)
    assert seen == [(n, 16) for n in range(1, 17)] * 2
    assert str(first.near_ties) in str(first)
    assert load_workload(first.path).model["hidden"] == 16


def test_an_unknown_name_is_named(tmp_path):
    pytest.importorskip("torch", reason="the test extra has torch")
    with pytest.raises(ValueError, match=r"one of minilm, decoder, got 'decodr'; did you mean 'decoder'\?"):
        export_values("decodr", tmp_path / "x.trace.zip")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_export_gives_the_shipped_bytes(name, tmp_path):
    for package in ("torch", "transformers"):
        pytest.importorskip(package, reason=f"the test extra has {package}")
    try:
        summary = export_values(name, tmp_path / "again.trace.zip")
    except ValueError as error:
        pytest.skip(f"no weights: {error}")
    shipped = DATA / "values" / f"{name}_values.trace.zip"
    assert summary.path.read_bytes() == shipped.read_bytes(), str(summary)
