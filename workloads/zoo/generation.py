"""Whole generations: text encoders, the denoiser times its steps, guidance and solver in between, the decoder.

Stages in the order in which they run, as diffusers' pipelines run them: text encoders once (a second call of batch
`batch` for the empty prompt under classifier-free guidance, Sana's without the instruction), the denoiser `steps`
times (batch doubled under guidance), `workloads/zoo/sampling.py` as often, the latent's scale, the decoder once.
Steps and guidance scales: the papers' and model cards' (FLUX.1-dev 50 and 3.5, -schnell 4; Sana 20 and 4.5, SDXL 50 and
5, Turbo 1 without; PixArt-Sigma 20 and 4.5). A scale of 1 or less turns guidance off. FLUX.1-dev takes its scale as an
input and doubles nothing. With `weights`, a pipeline's folder (transformer or unet, vae, text_encoder, ...).
Left out: tokenizers, drawing noise, image conversion, safety checkers, and who feeds whom from one stage to another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workloads.zoo.autoencoders import AUTOENCODERS
from workloads.zoo.flux import FLUX_DEV, FLUX_SCHNELL, PIXELS_PER_TOKEN
from workloads.zoo.pixart import PIXART_SIGMA
from workloads.zoo.placing import dtype_of, tensor
from workloads.zoo.registry import Builder, Model, Place, Stage, find_model, options_of, register
from workloads.zoo.sampling import (
    Step,
    dpm_noise_step,
    euler_noise_step,
    flow_step,
    flux_step,
    latent_module,
    step_module,
)
from workloads.zoo.sana import SANA_600M, SANA_1600M
from workloads.zoo.unet import SDXL, SDXL_TURBO

Options = Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A pipeline.

    encoders   text encoders in the zoo, and whether `tokens` is their length (else their own default)
    step       of the options, what happens between two calls of the denoiser
    guidance   default scale; None: the model knows none
    free       classifier-free guidance doubles the batch; if not, a scale is an input of the denoiser
    samplers   to choose from, the default first
    """

    denoiser: Model
    encoders: tuple[tuple[str, bool], ...]
    autoencoder: str
    steps: int
    step: Callable[[Options], Step]
    guidance: float | None = None
    free: bool = True
    samplers: tuple[str, ...] = ()


def generation(recipe: Recipe) -> Builder:
    """Builder of the stages of a recipe."""

    def build(place: Place, options: Options) -> list[Stage]:
        scale = options.get("guidance", 0.0)
        doubled = scale if recipe.free and scale > 1 else None
        texts = _texts(recipe, place, options, doubled is not None)
        denoiser = _denoiser(recipe, place, options, doubled is not None)
        step = recipe.step(options)
        inputs = _step_inputs(denoiser, step, options["batch"], place)
        sampler = Stage("sampler", step_module(step, doubled), inputs, repeat=options["steps"])
        return [*texts, denoiser, sampler, *_decoding(recipe, place, options, inputs[0])]

    return build


def _texts(recipe: Recipe, place: Place, options: Options, doubled: bool) -> list[Stage]:
    stages = []
    for index, (name, follows) in enumerate(recipe.encoders, 1):
        part = "text_encoder" if index == 1 else f"text_encoder_{index}"
        given = {"batch": options["batch"]} | ({"tokens": options["tokens"]} if follows else {})
        stage = _one(find_model(name), _within(place, part), given)
        stages.append(replace(_twice(stage, options["tokens"]) if doubled else stage, name=part))
    return stages


def _twice(stage: Stage, tokens: int) -> Stage:
    """The encoder called a second time, on an empty prompt of `tokens` positions."""
    from torch import nn

    class PromptAndEmptyPrompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = stage.module

        def forward(self, *calls: tuple[Any, Any]) -> tuple[Any, ...]:
            return tuple(self.encoder(*args, **kwargs) for args, kwargs in calls)

    args = tuple(given[:, :tokens].contiguous() for given in stage.args)
    kwargs = {key: given[:, :tokens].contiguous() for key, given in stage.kwargs.items()}
    return replace(stage, module=PromptAndEmptyPrompt(), args=((stage.args, stage.kwargs), (args, kwargs)), kwargs={})


def _denoiser(recipe: Recipe, place: Place, options: Options, doubled: bool) -> Stage:
    given = {key: options[key] for key in recipe.denoiser.options}
    stage = _one(recipe.denoiser, place, given | {"batch": options["batch"] * (2 if doubled else 1)})
    if "guidance" in stage.kwargs:
        stage.kwargs["guidance"].fill_(options["guidance"])
    return replace(stage, repeat=options["steps"])


def _step_inputs(denoiser: Stage, step: Step, batch: int, place: Place) -> tuple[Any, ...]:
    """x (float32 if the step is wide), the denoiser's prediction, and the solver's further latents in float32."""
    _, channels, *rest = shape = denoiser.kwargs["sample" if "sample" in denoiser.kwargs else "hidden_states"].shape
    exact = replace(place, dtype="float32")
    x = tensor((batch, channels, *rest), exact if step.wide else place, seed=11)
    prediction = tensor((shape[0], channels * (2 if step.variance else 1), *rest), place, seed=12)
    return x, prediction, *(tensor(x.shape, exact, seed=13 + index) for index in range(step.tensors))


def _decoding(recipe: Recipe, place: Place, options: Options, x: Any) -> list[Stage]:
    given = {"size": options["size"], "batch": options["batch"]}
    decoder = _one(find_model(f"{recipe.autoencoder}_decode"), place, given)
    _, channels, side, _ = decoder.args[0].shape
    config = AUTOENCODERS[recipe.autoencoder].config
    scales = config["scaling_factor"], config.get("shift_factor", 0.0)
    return [Stage("latent", latent_module(*scales, channels, side, dtype_of(place)), (x,)), decoder]


def _one(model: Model, place: Place, given: Options) -> Stage:
    (stage,) = model.build(place, options_of(model, given))
    return stage


def _within(place: Place, part: str) -> Place:
    """The place with its weights in that folder of a pipeline's checkpoint."""
    return place if place.weights is None else replace(place, weights=str(Path(place.weights) / part))


def _flux(denoiser: Model, steps: int, guidance: float | None) -> Recipe:
    def step(options: Options) -> Step:
        return flux_step(options["steps"], (options["size"] // PIXELS_PER_TOKEN) ** 2, dynamic=guidance is not None)

    encoders = (("clip_l", False), ("t5_xxl", True))
    return Recipe(denoiser, encoders, "autoencoder_kl_flux", steps, step, guidance, free=False)


def _sdxl(denoiser: Model, steps: int, guidance: float, ancestral: bool) -> Recipe:
    def step(options: Options) -> Step:
        return euler_noise_step(options["steps"], ancestral)

    return Recipe(denoiser, (("clip_l", True), ("clip_bigg", True)), "autoencoder_kl", steps, step, guidance)


def _pixart(denoiser: Model) -> Recipe:
    return Recipe(denoiser, (("t5_xxl", True),), "autoencoder_kl", 20, lambda o: dpm_noise_step(o["steps"]), 4.5)


def _sana(denoiser: Model) -> Recipe:
    def step(options: Options) -> Step:
        return flow_step(options["sampler"], options["steps"], 6.0 if options["size"] == 4096 else 3.0, wide=True)

    samplers = ("flow_dpm", "flow_euler")
    return Recipe(denoiser, (("gemma2_2b", True),), "dc_ae_f32c32", 20, step, 4.5, samplers=samplers)


RECIPES = (
    _flux(FLUX_DEV, 50, 3.5),
    _flux(FLUX_SCHNELL, 4, None),
    _sdxl(SDXL, 50, 5.0, ancestral=False),
    _sdxl(SDXL_TURBO, 1, 0.0, ancestral=True),
    _pixart(PIXART_SIGMA),
    _sana(SANA_600M),
    _sana(SANA_1600M),
)


def _model(recipe: Recipe) -> Model:
    denoiser = recipe.denoiser
    guidance = {} if recipe.guidance is None else {"guidance": recipe.guidance}
    sampler = {"sampler": recipe.samplers[0]} if recipe.samplers else {}
    return Model(
        f"{denoiser.name}_generation",
        f"{denoiser.title.split(',')[0]}, a whole generation",
        f"{denoiser.origin}; pipeline of diffusers",
        {**denoiser.options, "steps": recipe.steps, **guidance, **sampler},
        generation(recipe),
        {**denoiser.allowed, **({"sampler": recipe.samplers} if sampler else {})},
    )


for _recipe in RECIPES:
    register(_model(_recipe))
