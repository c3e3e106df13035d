"""FLUX.1, SDXL, PixArt-Sigma and the autoencoders: published sizes, and the shapes of what goes in and comes out."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from workloads.zoo.flux import _grid  # noqa: E402
from workloads.zoo.registry import Place, find_model, options_of  # noqa: E402


def parameters(stage: Any) -> int:
    return sum(parameter.numel() for parameter in stage.module.parameters())


def output(stage: Any) -> Any:
    with torch.inference_mode():
        out = stage.module(*stage.args, **stage.kwargs)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize(
    ("name", "size", "count", "tera"),
    [
        ("pixart_sigma", 512, 610_856_096, 1.289),
        ("flux_dev", 1024, 11_901_408_320, 74.385),
    ],
)
def test_published_sizes(name: str, size: int, count: int, tera: float, only_stage: Any, flops: Any) -> None:
    stage = only_stage(name, size=size)
    assert parameters(stage) == count
    assert flops(stage) == pytest.approx(tera * 1e12, rel=1e-3)


def test_sizes_that_need_no_run(only_stage: Any) -> None:
    assert parameters(only_stage("flux_schnell")) == 11_891_178_560
    assert parameters(only_stage("sdxl")) == 2_567_463_684
    assert parameters(only_stage("pixart_sigma", size=2048)) == 610_856_096


@pytest.mark.parametrize(("half", "tera"), [("encode", 1.295), ("decode", 2.092)])
def test_dc_ae(half: str, tera: float, only_stage: Any, flops: Any) -> None:
    at_512, at_1024 = (only_stage(f"dc_ae_f32c32_{half}", size=size) for size in (512, 1024))
    assert flops(at_512) == pytest.approx(tera * 1e12, rel=1e-3)
    assert flops(at_1024) == pytest.approx(4 * tera * 1e12, rel=1e-3)
    assert output(at_512).shape == ((1, 32, 16, 16) if half == "encode" else (1, 3, 512, 512))


@pytest.mark.parametrize(
    ("name", "count", "latent"),
    [
        ("dc_ae_f32c32", 312_250_275, 32),
        ("autoencoder_kl", 83_653_863, 4),
        ("autoencoder_kl_flux", 83_819_683, 16),
    ],
)
def test_halves_of_an_autoencoder_share_no_weights_and_miss_none(
    name: str, count: int, latent: int, only_stage: Any
) -> None:
    halves = [only_stage(f"{name}_{half}", size=256, batch=2) for half in ("encode", "decode")]
    assert sum(parameters(stage) for stage in halves) == count
    assert halves[1].args[0].shape[:2] == (2, latent)
    moments = 1 if name.startswith("dc_ae") else 2
    assert output(halves[0]).shape[1] == latent * moments
    assert output(halves[1]).shape == (2, 3, 256, 256)


@pytest.mark.parametrize(("name", "tokens"), [("flux_dev", 512), ("flux_schnell", 256)])
def test_flux_attends_over_text_and_image(name: str, tokens: int, only_stage: Any, attention_calls: Any) -> None:
    calls = attention_calls(only_stage(name, size=512, layers=1, single_layers=2, batch=2))
    assert [call.query for call in calls] == [(2, 24, tokens + 32 * 32, 128)] * 3


def test_guidance_is_an_input_of_dev_alone(only_stage: Any) -> None:
    small = {"size": 512, "layers": 1, "single_layers": 1}
    dev, schnell = only_stage("flux_dev", **small), only_stage("flux_schnell", **small)
    assert "guidance" in dev.kwargs
    assert "guidance" not in schnell.kwargs
    assert parameters(dev) - parameters(schnell) == 257 * 3072 + 3073 * 3072


def test_flux_positions() -> None:
    assert _grid(2, Place("cpu", "float32")).tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [0, 1, 1]]


def test_pixart_sees_text_through_a_mask_and_twice_the_channels(only_stage: Any, attention_calls: Any) -> None:
    stage = only_stage("pixart_sigma", size=512, layers=1, tokens=9)
    image, text = attention_calls(stage)
    assert (image.query, image.masked) == ((1, 16, 1024, 72), False)
    assert (text.key, text.masked) == ((1, 16, 9, 72), True)
    assert output(stage).shape == (1, 8, 64, 64)


def test_positional_encoding_of_pixart_follows_its_size(only_stage: Any) -> None:
    for size, scale in ((512, 1), (1024, 2), (2048, 4)):
        assert only_stage("pixart_sigma", size=size, layers=1).module.pos_embed.interpolation_scale == scale


def test_unet_published_size_and_shapes(only_stage: Any, flops: Any, attention_calls: Any) -> None:
    stage = only_stage("sdxl_turbo")
    assert parameters(stage) == 2_567_463_684
    assert flops(stage) == pytest.approx(1.589e12, rel=1e-3)
    calls = attention_calls(stage)
    assert {call.query[-1] for call in calls} == {64}
    assert len(calls) == 2 * (2 * 2 + 2 * 10 + 10 + 3 * 10 + 3 * 2)  # self and cross in each transformer block
    assert output(stage).shape == (1, 4, 64, 64)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match=r"flux_dev\.size: must be one of"):
        options_of(find_model("flux_dev"), {"size": 1000})
    with pytest.raises(ValueError, match=r"sdxl\.bach: must be one of size, batch, tokens; did you mean 'batch'"):
        options_of(find_model("sdxl"), {"bach": 2})
