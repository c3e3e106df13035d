"""Whole generations: which stages, how often and at which batch; and the step between two calls, in values."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from workloads.samplers import flow_dpm_solver, flow_euler, guide, shifted_sigmas  # noqa: E402
from workloads.zoo.registry import Place, find_model, options_of  # noqa: E402
from workloads.zoo.sampling import (  # noqa: E402
    _levels,
    dpm_noise_step,
    euler_noise_step,
    flow_step,
    latent_module,
    step_module,
)

SMALL = {"layers": 1}


def stages(name: str, **options: Any) -> dict[str, Any]:
    model = find_model(f"{name}_generation")
    found = model.build(Place(), options_of(model, options))
    assert len({stage.name for stage in found}) == len(found)
    return {stage.name: stage for stage in found}


def batch(stage: Any) -> int:
    return stage.kwargs["sample" if "sample" in stage.kwargs else "hidden_states"].shape[0]


@pytest.mark.parametrize(
    ("name", "options", "encoders", "steps", "doubled"),
    [
        ("flux_dev", {"layers": 1, "single_layers": 1, "size": 512}, 2, 50, False),
        ("flux_schnell", {"layers": 1, "single_layers": 1, "size": 512}, 2, 4, False),
        ("sdxl", {"size": 512}, 2, 50, True),
        ("sdxl_turbo", {}, 2, 1, False),
        ("pixart_sigma", {"layers": 1, "size": 512}, 1, 20, True),
        ("sana_600m", SMALL, 1, 20, True),
        ("sana_1600m", SMALL, 1, 20, True),
    ],
)
def test_stages_in_order_with_their_repetitions(
    name: str, options: Any, encoders: int, steps: int, doubled: bool
) -> None:
    found = stages(name, batch=3, **options)
    denoiser = "unet" if name.startswith("sdxl") else "transformer"
    texts = ["text_encoder", "text_encoder_2"][:encoders]
    assert list(found) == [*texts, denoiser, "sampler", "latent", "decoder"]
    assert {key: stage.repeat for key, stage in found.items() if stage.repeat > 1 or key in (denoiser, "sampler")} == (
        {denoiser: steps, "sampler": steps}
    )
    assert batch(found[denoiser]) == (6 if doubled else 3)
    assert (type(found["text_encoder"].module).__name__ == "PromptAndEmptyPrompt") == doubled


@pytest.mark.parametrize(
    ("name", "guidance"),
    [("sana_600m", 0), ("sana_600m", 4.5), ("pixart_sigma", 0), ("pixart_sigma", 4.5), ("flux_dev", 3), ("sdxl", 5)],
)
def test_what_one_stage_makes_the_next_can_take(name: str, guidance: float) -> None:
    small = {} if name == "sdxl" else {"layers": 1} | ({"single_layers": 1} if name == "flux_dev" else {})
    found = stages(name, size=512, batch=2, guidance=guidance, **small)
    denoiser = found.get("unet") or found["transformer"]
    given = denoiser.kwargs["sample" if "sample" in denoiser.kwargs else "hidden_states"]
    with torch.inference_mode():
        (prediction,) = denoiser.module(**denoiser.kwargs)
        sampler, latent = found["sampler"], found["latent"]
        x, *history, following = sampler.module(*sampler.args)
        decoded = latent.module(*latent.args)
    assert (prediction.shape, prediction.dtype) == (sampler.args[1].shape, sampler.args[1].dtype)
    assert (following.shape, following.dtype) == (given.shape, given.dtype)
    assert (x.shape, x.dtype) == (sampler.args[0].shape, sampler.args[0].dtype) == (latent.args[0].shape, x.dtype)
    assert x.dtype == (torch.float32 if name.startswith("sana") else torch.bfloat16)  # as the pipelines keep it
    assert all(tensor.dtype == torch.float32 for tensor in history)
    assert (decoded.shape, decoded.dtype) == (found["decoder"].args[0].shape, found["decoder"].args[0].dtype)


def test_guidance_off_halves_the_batch_and_asks_for_one_prompt() -> None:
    for scale in (0, 1, 1.0, 0.5):
        found = stages("sana_600m", guidance=scale, **SMALL)
        assert batch(found["transformer"]) == 1
        assert len(found["text_encoder"].args) == 1


def test_the_empty_prompt_of_sana_has_no_instruction() -> None:
    (prompt, _), (empty, mask) = stages("sana_600m", batch=2, **SMALL)["text_encoder"].args
    assert prompt[0].shape[1] > 400
    assert empty[0].shape == mask["attention_mask"].shape == (2, 300)


def test_dev_is_told_its_scale() -> None:
    model = find_model("flux_dev_generation")
    given = {"guidance": 7.0, "layers": 1, "single_layers": 1, "size": 512, "steps": 2}
    found = {stage.name: stage for stage in model.build(Place(), options_of(model, given))}
    assert found["transformer"].kwargs["guidance"].shape == (1,)
    assert found["transformer"].repeat == 2
    assert "guidance" not in find_model("flux_schnell_generation").options


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"guidance": -1}, "guidance: must be a number >= 0"),
        ({"guidance": "high"}, "guidance: must be a number >= 0"),
        ({"guidance": float("nan")}, "guidance: must be a number >= 0"),
        ({"guidance": float("inf")}, "guidance: must be a number >= 0"),
        ({"steps": 0}, "steps: must be an integer >= 1"),
        ({"sampler": "ddim"}, "sampler: must be one of"),
    ],
)
def test_wrong_options_are_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        options_of(find_model("sana_600m_generation"), given)


def test_the_flow_steps_are_those_of_the_samplers() -> None:
    """A velocity that does not depend on x or sigma, so that the middle step can be cut out of a run."""
    torch.manual_seed(0)
    x, velocity = torch.randn(1, 4, 6, 6), torch.randn(2, 4, 6, 6)
    guided = guide(velocity[:1], velocity[1:], 4.5)
    sigmas = shifted_sigmas(8, 3.0)

    moved, following = step_module(flow_step("flow_euler", 8, 3.0, wide=True), 4.5)(x, velocity)
    assert torch.allclose(moved, flow_euler(lambda *_: guided, x, sigmas[4:6]), atol=1e-6)
    assert torch.equal(following, torch.cat([moved, moved]))

    before, keep = x + 0.3, sigmas[4] / sigmas[3]
    start = (x - (1 - keep) * before) / keep  # from here, a first call that predicts `before` leads to x
    slopes = iter([(start - before) / sigmas[3], guided])
    moved, data, _ = step_module(flow_step("flow_dpm", 8, 3.0, wide=True), 4.5)(x, velocity, before)
    assert torch.allclose(moved, flow_dpm_solver(lambda *_: next(slopes), start, sigmas[3:6]), atol=1e-5)
    assert torch.allclose(data, x - sigmas[4] * guided, atol=1e-6)


def test_noise_steps_stay_on_the_line_of_a_known_image() -> None:
    image, noise = torch.full((1, 2, 4, 4), 0.7), torch.randn(1, 2, 4, 4)
    (alpha, sigma), (next_alpha, next_sigma), _ = _levels(20, "linear")
    prediction = torch.cat([noise, noise + 1], dim=1)  # the second half is the variance, and is dropped
    moved, data, _ = step_module(dpm_noise_step(20), None)(alpha * image + sigma * noise, prediction, image)
    assert torch.allclose(moved, next_alpha * image + next_sigma * noise, atol=1e-5)
    assert torch.allclose(data, image, atol=1e-5)

    (alpha, level), (next_alpha, next_level), _ = _levels(20, "scaled_linear")
    sigma, next_sigma = level / alpha, next_level / next_alpha
    moved, following = step_module(euler_noise_step(20, ancestral=False), None)(image + sigma * noise, noise)
    assert torch.allclose(moved, image + next_sigma * noise, atol=1e-5)
    assert torch.allclose(following, moved / (sigma**2 + 1) ** 0.5, atol=1e-6)


def test_ancestral_step_ends_at_the_same_noise_level() -> None:
    (alpha, level), (next_alpha, next_level), _ = _levels(4, "scaled_linear")
    step = step_module(euler_noise_step(4, ancestral=True), None)
    zero, one = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    from_noise = step(one * level / alpha, one, zero)[0]
    from_fresh = step(zero, zero, one)[0]
    assert torch.allclose((from_noise**2 + from_fresh**2).sqrt(), one * next_level / next_alpha, atol=1e-6)
    assert from_fresh.min() > 0


@pytest.mark.parametrize("steps", [1, 2, 3, 1500])
def test_any_number_of_steps_has_a_middle(steps: int) -> None:
    for step in (flow_step("flow_dpm", steps, 3.0), dpm_noise_step(steps)):
        channels = 2 if step.variance else 1
        x, prediction = torch.ones(1, 1, 2, 2), torch.ones(1, channels, 2, 2)
        assert all(torch.isfinite(out).all() for out in step_module(step, None)(x, prediction, x))
    euler_noise_step(steps, ancestral=True)


def test_packed_latents_of_flux_are_unpacked() -> None:
    latent = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(2, 3, 4, 4)
    rows = [latent[:, :, r : r + 2, c : c + 2].reshape(2, 1, 12) for r in (0, 2) for c in (0, 2)]
    unpacked = latent_module(2.0, 0.5, 3, 4, torch.float32)(torch.cat(rows, dim=1))
    assert torch.equal(unpacked, latent / 2 + 0.5)
