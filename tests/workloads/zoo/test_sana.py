"""Sana in the zoo: published sizes, the closed form of its FLOPs, positional encoding, and the design ladder."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from workloads.zoo.registry import Place, find_model, options_of  # noqa: E402
from workloads.zoo.sana import _plain_feed_forward  # noqa: E402

WIDTHS = {"sana_600m": (1152, 36, 28), "sana_1600m": (2240, 70, 20)}  # width, heads of linear attention, layers
FULL, LINEAR, MIX, DEEP = (
    f"sana_ladder_{name}"
    for name in ("full_ffn_f8c4p2", "linear_ffn_f8c4p2", "linear_mixffn_f8c4p2", "linear_mixffn_f32c32p1")
)


def macs(width: int, heads: int, layers: int, image: int, text: int) -> int:
    """Multiply-accumulates of one image: blocks, in and out embeddings, text projection, time embedding."""
    hidden = width * 5 // 2
    per_token = 6 * width**2 + 3 * hidden * width + 18 * hidden + 2 * text * width + 2 * heads * 33 * 32
    block = image * per_token + 2 * text * width**2
    return layers * block + 64 * image * width + text * (2304 * width + width**2) + 256 * width + 7 * width**2


def by_operator(stage: Any) -> dict[str, int]:
    from torch.utils.flop_counter import FlopCounterMode

    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        stage.module(*stage.args, **stage.kwargs)
    return {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}


@pytest.mark.parametrize(
    ("name", "size", "parameters", "tera"),
    [("sana_1600m", 512, 1_604_462_752, 0.8366), ("sana_600m", 1024, 591_747_872, 1.1215)],
)
def test_published_sizes(name: str, size: int, parameters: int, tera: float, only_stage: Any, flops: Any) -> None:
    stage = only_stage(name, size=size)
    assert sum(parameter.numel() for parameter in stage.module.parameters()) == parameters
    assert flops(stage) == pytest.approx(tera * 1e12, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "layers", "batch", "tokens"),
    [
        ("sana_600m", 512, 1, 1, 300),
        ("sana_600m", 2048, 2, 1, 300),
        ("sana_1600m", 1024, 3, 2, 300),
        ("sana_1600m", 4096, 1, 1, 77),
    ],
)
def test_closed_form_exactly(
    name: str, size: int, layers: int, batch: int, tokens: int, only_stage: Any, flops: Any
) -> None:
    stage = only_stage(name, size=size, layers=layers, batch=batch, tokens=tokens)
    width, heads, _ = WIDTHS[name]
    assert flops(stage) == 2 * batch * macs(width, heads, layers, (size // 32) ** 2, tokens)


def test_default_layers_are_the_published_ones() -> None:
    for name, (_, _, layers) in WIDTHS.items():
        assert find_model(name).options["layers"] == layers


def test_attention_is_linear_in_tokens(only_stage: Any) -> None:
    counts = [by_operator(only_stage("sana_600m", size=size, layers=1)) for size in (1024, 2048)]
    assert counts[1]["aten.bmm"] == 4 * counts[0]["aten.bmm"]
    assert counts[1]["aten.convolution"] == 4 * counts[0]["aten.convolution"]


@pytest.mark.parametrize("name", list(WIDTHS))
@pytest.mark.parametrize(("size", "scale"), [(512, None), (1024, None), (2048, 1.0), (4096, 2.0)])
def test_positional_encoding_only_at_2k_and_4k(name: str, size: int, scale: float | None, only_stage: Any) -> None:
    module = only_stage(name, size=size, layers=1).module
    buffers = {buffer: tuple(tensor.shape) for buffer, tensor in module.named_buffers()}
    expected = {"patch_embed.pos_embed": (1, (size // 32) ** 2, WIDTHS[name][0])} if scale else {}
    assert buffers == expected
    assert module.config.interpolation_scale == scale


def test_runs_with_values(only_stage: Any) -> None:
    stage = only_stage("sana_600m", Place("cpu", "float32"), size=512, layers=1, tokens=8)
    with torch.inference_mode():
        (out,) = stage.module(**stage.kwargs)
    assert out.shape == (1, 32, 16, 16)
    assert torch.isfinite(out).all()
    assert out.std() > 0


def test_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"sana_600m.size: must be one of \(512, 1024, 2048, 4096\), got 768"):
        options_of(find_model("sana_600m"), {"size": 768})


def test_ladder_comes_to_the_printed_macs(only_stage: Any, flops: Any) -> None:
    """Table 8: 6.48, 4.30, 4.19, 1.08 TMAC. Batch 2, without the products of cross-attention (see the module)."""
    for name, printed in ((FULL, 6.48), (LINEAR, 4.30), (MIX, 4.19), (DEEP, 1.08)):
        one, two = (flops(only_stage(name, layers=layers, batch=2)) // 2 for layers in (1, 2))
        image = 1024 if name == DEEP else 4096
        total = one + 27 * (two - one) - 28 * 2 * (2 * image * 300 * 1152)
        assert total == pytest.approx(printed * 1e12, rel=0.01), name


def test_ladder_swaps_attention(only_stage: Any, attention_calls: Any) -> None:
    """Softmax attention over the image on the first rung alone; over the text on all."""
    for name in (FULL, LINEAR, MIX, DEEP):
        calls = attention_calls(only_stage(name, layers=1, tokens=7))
        assert calls[-1].key == (1, 16, 7, 72)
        assert [call.key for call in calls[:-1]] == ([(1, 16, 4096, 72)] if name == FULL else [])


def test_ladder_swaps_the_feed_forward(only_stage: Any) -> None:
    """Mix-FFN's convolutions, and a positional encoding where there are none."""
    for name in (FULL, LINEAR, MIX, DEEP):
        module = only_stage(name, layers=1).module
        kinds = {type(part).__name__ for part in module.transformer_blocks.modules()}
        plain = name in (FULL, LINEAR)
        assert ("Conv2d" in kinds) != plain
        assert ("PlainFeedForward" in kinds) == plain
        assert ("patch_embed.pos_embed" in dict(module.named_buffers())) == plain


def test_the_last_rung_is_sana(only_stage: Any, flops: Any) -> None:
    ours, sana = only_stage(DEEP, layers=1), only_stage("sana_600m", layers=1)
    shapes = [{key: value.shape for key, value in stage.module.state_dict().items()} for stage in (ours, sana)]
    assert shapes[0] == shapes[1]
    assert flops(ours) == flops(sana)


def test_plain_feed_forward_works_on_each_place_alone() -> None:
    torch.manual_seed(0)
    module, x = _plain_feed_forward(8), torch.randn(2, 8, 3, 5)
    assert module(x).shape == x.shape
    alone = module(x[:, :, 1:2, 3:4])
    assert torch.allclose(module(x)[:, :, 1:2, 3:4], alone, atol=1e-6)


def test_a_checkpoint_of_another_size_is_refused(tmp_path: Any, only_stage: Any) -> None:
    """The encoding has no parameters: without a check, weights of 1024 would run at 2048 without it."""
    small = {"layers": 1, "tokens": 8}
    only_stage("sana_600m", Place("cpu", "bfloat16"), size=1024, **small).module.save_pretrained(
        tmp_path / "transformer"
    )
    loaded = only_stage("sana_600m", Place("cpu", "bfloat16", str(tmp_path)), size=512, **small)
    assert not dict(loaded.module.named_buffers())
    with pytest.raises(ValueError, match=r"interpolation_scale must be 1\.0 at size 2048, got None"):
        only_stage("sana_600m", Place("cpu", "bfloat16", str(tmp_path)), size=2048, **small)
