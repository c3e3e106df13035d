"""Clipping, and the whole recipe: weights bit for bit those of the number formats, each step on or off."""

import copy
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from accel.formats import groups, progressive  # noqa: E402
from tests.workloads.quantization.llamas import logits, run, small_decoder, small_llama, tokens  # noqa: E402
from workloads.quantization.gptq import hessian_of  # noqa: E402
from workloads.quantization.methods import Group, method_named  # noqa: E402
from workloads.quantization.qoq.cache import quantize_cache  # noqa: E402
from workloads.quantization.qoq.clipping import clipped, clipped_grid, ratios, search, search_attention  # noqa: E402
from workloads.quantization.qoq.llama import llama_of  # noqa: E402
from workloads.quantization.quantize import quantize  # noqa: E402
from workloads.quantization.saving import load_quantized, save_quantized  # noqa: E402

OFF = dict.fromkeys(("rotation", "smooth_attention", "output_smoothing", "reorder", "clipping", "gptq"), False)
OFF = {**OFF, "kv_bits": 16}
LAYERS = ["model.layers.*"]


def weights(seed: int, rows: int = 24, columns: int = 256) -> Any:
    draw = np.random.default_rng(seed)
    found = draw.standard_t(3, (rows, columns)).astype(np.float32)
    found[3], found[4], found[5, :128] = np.abs(found[3]), 0, -np.abs(found[5, :128])
    return found


@pytest.mark.parametrize("ratio", [1.0, 0.8])
def test_progressive_codes_are_those_of_the_format(ratio: float) -> None:
    """Also with clipping: that is quantization of the cut weights, zero points and all."""
    weight = weights(0)
    parts = weight.astype(np.float32).reshape(24, 2, 128)
    low, high = np.minimum(parts.min(-1), 0) * np.float32(ratio), np.maximum(parts.max(-1), 0) * np.float32(ratio)
    cut = np.clip(parts, low[..., None], high[..., None]).reshape(24, 256)
    tensor = torch.from_numpy(weight)
    state = clipped_grid("w4a8_group", tensor, torch.full((24, 2), ratio), torch.float16).state(torch.from_numpy(cut))
    codes, group_scale, group_zero, scale = progressive.quantize(cut)
    for name, expected in {"group_scale": group_scale, "group_zero": group_zero, "codes": codes}.items():
        assert np.array_equal(state[name].numpy(), expected), name
    assert np.array_equal(state["scale"].float().numpy(), scale)
    assert np.abs(progressive.unwrapped(codes, group_scale, group_zero)).max() <= 127


def test_no_value_leaves_8_bits() -> None:
    """Weights that lie outside of the range that a group was measured on (clipped, or moved by GPTQ): still within
    +-119, and for all ranges the 8-bit operand stays within 8 bits. It would not if 119 were 120.
    """
    for limit, fine in ((119, True), (120, False)):
        low, high = np.meshgrid(np.arange(-limit, 1), np.arange(limit + 1))
        scale, zero = progressive.group_parameters(low.ravel(), high.ravel())
        values = np.arange(-limit, limit + 1)
        codes = np.clip(np.rint(values / scale[:, None]) + zero[:, None], 0, 15)
        operand = (codes - zero[:, None]) * scale[:, None]
        assert (operand.min() >= -128 and operand.max() <= 127) == fine


@pytest.mark.parametrize("ratio", [1.0, 0.7])
def test_rows_are_those_of_the_format(ratio: float) -> None:
    weight = weights(1)
    tensor = torch.from_numpy(weight)
    cut = clipped(tensor, torch.full((24, 1), ratio))
    assert float(cut.max()) == pytest.approx(ratio * weight.max())
    state = clipped_grid("w4a8_channel", tensor, torch.full((24, 1), ratio), torch.float16).state(cut)
    codes, scale, zero = groups.asymmetric(cut.numpy(), None)
    assert np.array_equal(state["codes"].numpy(), codes)
    assert np.array_equal(state["scale"].float().numpy(), scale[:, 0])
    assert np.array_equal(state["zero"].numpy(), zero[:, 0])


@pytest.mark.parametrize("kind", ["w4a8_channel", "w4a8_group"])
def test_search_finds_the_least_error(kind: str) -> None:
    """Against trying all ratios of one row (or group) with the inputs themselves."""
    weight = torch.from_numpy(weights(2))
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(300, 256)).astype(np.float32))
    found = search(kind, weight, hessian_of(x), torch.float16, 10)
    size = 256 // found.shape[1]

    def error(row: int, group: int, ratio: float) -> float:
        grid = clipped_grid(kind, weight, torch.full_like(found, ratio), torch.float16)
        apart = (grid.snap(weight) - weight)[row, group * size :][:size]
        return float((x[:, group * size :][:, :size] @ apart).double().square().mean())

    for row, group in ((0, 0), (1, found.shape[1] - 1), (3, 0)):
        errors = [error(row, group, ratio) for ratio in ratios(10)]
        assert error(row, group, float(found[row, group])) <= min(errors) * (1 + 1e-4)
    assert (found < 1).any()
    assert found[4].eq(1).all()  # zeros: nothing to gain


def test_search_of_queries_and_keys_looks_at_the_block() -> None:
    """One ratio a head; least error of the attention's output, so no worse than without."""
    decoder = small_decoder().float()
    view = llama_of(decoder)
    attention = decoder.model.layers[0].self_attn
    attention.q_proj.weight[0, 0] = attention.k_proj.weight[9, 2] = 4.0
    found = search_attention(view, run, "w4a8_channel", torch.float16, 8, 48)
    assert set(found) == set(view.names("q_proj", "k_proj"))
    query, key = (found[f"model.layers.0.self_attn.{part}_proj"] for part in "qk")
    assert query.shape == (32, 1)
    assert key.shape == (16, 1)
    assert all(len(head.unique()) == 1 for head in (*query.split(8), *key.split(8)))
    exact, errors = logits(decoder), []
    for cut in (False, True):
        model = copy.deepcopy(decoder)
        for part, ratio in (("q_proj", query), ("k_proj", key)):
            layer = model.model.layers[0].self_attn[part]
            layer.weight.data = clipped_grid("w4a8_channel", layer.weight, ratio if cut else None, torch.float16).snap(
                layer.weight
            )
        errors.append(float((logits(model) - exact).norm()))
    assert errors[1] < errors[0]


def test_the_recipe_cuts_queries_and_keys_by_the_block() -> None:
    decoder = small_decoder().float()
    options = {**OFF, "clipping": True, "kind": "w4a8_channel", "clipping_points": 8}
    report = {one.name: one.details["clip"] for one in quantize(decoder, "qoq", run, LAYERS, **options).report}
    expected = search_attention(llama_of(decoder), run, "w4a8_channel", torch.float16, 8, 1024)
    for name, ratio in expected.items():
        assert report[name] == pytest.approx(float(ratio.mean()))


def test_all_steps_off_is_rounding_to_nearest() -> None:
    decoder = small_decoder().float()
    plain = quantize(decoder, "rtn", run, LAYERS, kind="w4a8_channel").model
    off = quantize(decoder, "qoq", run, LAYERS, **{**OFF, "kind": "w4a8_channel"}).model
    assert torch.equal(logits(plain), logits(off))


@pytest.mark.parametrize("step", [*OFF, "alpha"])
def test_each_switch_does_something(step: str) -> None:
    sizes = {"hidden": 256, "intermediate": 256, "head_size": 32}
    decoder = small_decoder(**sizes).float()
    on = {**OFF, step: 4 if step == "kv_bits" else True} if step != "alpha" else {**OFF, "output_smoothing": True}
    more: dict[str, Any] = {"alpha": 1.0, "beta": 0.0} if step == "alpha" else {}
    base = on if step == "alpha" else OFF
    off = quantize(decoder, "qoq", run, LAYERS, clipping_points=4, **base)
    found = quantize(decoder, "qoq", run, LAYERS, clipping_points=4, **on, **more)
    assert not torch.equal(logits(off.model), logits(found.model))
    assert {report.kind for report in found.report} == {"w4a8_group"}
    assert all(("clip" in report.details) == (step == "clipping") for report in found.report)


@pytest.mark.parametrize("kind", ["w4a8_channel", "w4a8_group"])
def test_the_whole_recipe_beats_rounding(kind: str) -> None:
    """On a model with biases, a shared embedding, and outliers in its keys and stream."""
    llama = small_llama(tied=True, hidden=128, intermediate=128, head_dim=32).float()
    llama.model.embed_tokens.weight[:, 7] *= 8
    exact, errors = logits(llama), []
    plain = {**OFF, "kv_bits": 4}
    for options in (plain, {"clipping_points": 4}):
        found = quantize(llama, "qoq", run, ["model.layers.*"], kind=kind, **options).model
        errors.append(float((logits(found) - exact).norm() / exact.norm()))
    assert errors[1] < 0.8 * errors[0]
    assert torch.equal(logits(llama), exact)  # the model given stays as it is


@pytest.mark.parametrize("tied", [False, True])
def test_a_saved_model_gives_the_same(tied: bool, tmp_path: Any) -> None:
    """Norms and embedding changed too; a head that shared the embedding's weights has its own now."""
    sizes: dict[str, Any] = {"tied": tied, "hidden": 128, "intermediate": 128, "head_dim": 32}
    found = quantize(small_llama(**sizes).float(), "qoq", run, LAYERS, gptq=False, clipping_points=2)
    save_quantized(found.model, tmp_path / "model", found.method)
    loaded = load_quantized(tmp_path / "model", small_llama(**sizes).float())
    quantize_cache(loaded, 4)
    assert torch.equal(logits(loaded), logits(found.model))


@pytest.mark.parametrize("kind", ["w4a8_channel", "w4a8_group"])
def test_models_in_bfloat16(kind: str) -> None:
    """Searches of clipping run in float32 whatever the model's type is."""
    model = small_llama(hidden=128, intermediate=128, head_dim=32).bfloat16()
    found = quantize(model, "qoq", run, ["model.layers.*"], kind=kind, clipping_points=3)
    exact = logits(model).double()
    assert float((logits(found.model).double() - exact).norm() / exact.norm()) < 0.5
    assert found.form == "bfloat16"


def test_a_model_of_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match="names of LlamaForCausalLM"):
        quantize(torch.nn.Sequential(torch.nn.Linear(128, 8)), "qoq", lambda model: model(torch.ones(4, 128)))


def test_a_group_without_a_model() -> None:
    """Layers alone: clipping by output error and GPTQ."""
    weight, x = torch.from_numpy(weights(5)), torch.randn(400, 256, generator=torch.Generator().manual_seed(0))
    group = Group(("layer",), (weight,), (None,), x, False, torch.float16)
    (state,) = method_named("qoq", clipping_points=4).quantize(group)
    assert set(state.state) == {"codes", "scale", "group_scale", "group_zero"}
    assert 0.2 < state.details["clip"] < 1
    assert tokens().shape == (3, 24)
