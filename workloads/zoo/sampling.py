"""What runs between two calls of a denoiser, as modules: guidance, the solver's step and the next input.

Casts, chunks and the doubled batch stand where diffusers' pipelines have them; the arithmetic is that of
`workloads/samplers.py` (a few element-wise operators fewer than diffusers' schedulers spend on the same formulas). The
coefficients are those of the middle step of the schedule; no cost depends on them, and each step counts as one of full
order. torch is imported inside functions. Left out: drawing noise (an input here), and thresholding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

import numpy as np

from workloads.samplers import dpm_coefficients, dpm_step, euler_step, guide, resolution_shift, shifted_sigmas

Solver = Callable[..., tuple[Any, ...]]  # (x, prediction, *history) -> (next x, *what the next step needs)
BETAS = {"linear": (1e-4, 0.02, 1), "scaled_linear": (0.00085, 0.012, 2)}  # first, last, exponent
TRAINED_STEPS = 1000


@dataclass(frozen=True)
class Step:
    """One step of a pipeline.

    solver     how x moves
    tensors    latents that the solver takes beside x and the prediction: data of the call before, fresh noise
    input_scale   by which x is divided before the denoiser sees it (1: not at all)
    wide       the prediction is cast to float32 before guidance (Sana)
    variance   the second half of the predicted channels is dropped (PixArt-Sigma)
    """

    solver: Solver
    tensors: int = 0
    input_scale: float = 1.0
    wide: bool = False
    variance: bool = False


def step_module(step: Step, guidance: float | None) -> Any:
    """A torch.nn.Module of (x, prediction, *tensors) -> (x, *history, next input of the denoiser).

    guidance   scale of classifier-free guidance: the prediction holds a doubled batch, the unconditional half first;
               None without it
    """
    from torch import Tensor, cat, nn

    class DenoisingStep(nn.Module):
        def forward(self, x: Tensor, prediction: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
            slope = prediction.float() if step.wide else prediction
            slope = slope if guidance is None else self.guided(slope, guidance)
            slope = slope.chunk(2, dim=1)[0] if step.variance else slope
            moved, *history = step.solver(x.float(), slope, *tensors)
            moved = moved.to(x.dtype)
            return (moved, *history, self.following_input(moved, prediction))

        def guided(self, doubled: Tensor, scale: float) -> Tensor:
            unconditional, conditional = doubled.chunk(2)
            return guide(unconditional, conditional, scale)

        def following_input(self, x: Tensor, prediction: Tensor) -> Tensor:
            scaled = x if step.input_scale == 1 else x / step.input_scale
            scaled = scaled if guidance is None else cat([scaled, scaled])
            return scaled.to(prediction.dtype)

    return DenoisingStep()


def latent_module(scale: float, shift: float, channels: int, side: int, dtype: Any) -> Any:
    """A torch.nn.Module that makes of the last x what the decoder takes: [batch, channels, side, side] in `dtype`.

    A packed x [batch, side^2 / 4, 4 channels] (FLUX.1) is unpacked first.
    """
    from torch import Tensor, nn

    class ToLatent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x = (x if x.dim() == 4 else self.unpacked(x)).to(dtype) / scale
            return x + shift if shift else x

        def unpacked(self, x: Tensor) -> Tensor:
            half = side // 2
            return x.view(-1, half, half, channels, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, side, side)

    return ToLatent()


def flow_step(sampler: str, steps: int, shift: float, wide: bool = False) -> Step:
    """The middle step of a rectified flow by "flow_euler" or "flow_dpm"."""
    sigmas, middle = shifted_sigmas(steps, shift), steps // 2
    now, following = float(sigmas[middle]), float(sigmas[middle + 1])
    if sampler == "flow_euler":
        return Step(lambda x, velocity: (euler_step(x, velocity, now, following),), wide=wide)
    keep, mix = dpm_coefficients(sigmas, middle)

    def solver(x: Any, velocity: Any, before: Any) -> tuple[Any, ...]:
        data = x - now * velocity
        return dpm_step(x, data, before, keep, 1 - keep, mix), data

    return Step(solver, tensors=1, wide=wide)


def flux_step(steps: int, tokens: int, dynamic: bool) -> Step:
    """FLUX.1's Euler step; dev shifts its schedule by the number of image tokens, schnell does not."""
    return flow_step("flow_euler", steps, resolution_shift(tokens) if dynamic else 1.0)


def euler_noise_step(steps: int, ancestral: bool) -> Step:
    """SDXL: x' = x + (sigma' - sigma) eps with sigma^2 = (1 - a)/a; `ancestral` (Turbo): down further, noise up."""
    now, following = (level / alpha for alpha, level in _levels(steps, "scaled_linear")[:2])
    scale = sqrt(now**2 + 1)
    if not ancestral:
        return Step(lambda x, noise: (euler_step(x, noise, now, following),), input_scale=scale)
    up = sqrt(following**2 * (now**2 - following**2)) / now
    down = sqrt(following**2 - up**2)
    return Step(lambda x, noise, fresh: (euler_step(x, noise, now, down) + up * fresh,), tensors=1, input_scale=scale)


def dpm_noise_step(steps: int) -> Step:
    """PixArt-Sigma: DPM-Solver++ 2M on predicted noise; x = alpha data + sigma eps."""
    (alpha, sigma), (next_alpha, next_sigma), (past_alpha, past_sigma) = _levels(steps, "linear")
    keep = next_sigma / sigma
    gain = next_alpha - alpha * keep
    length = log(next_alpha / next_sigma) - log(alpha / sigma)
    mix = length / (2 * (log(alpha / sigma) - log(past_alpha / past_sigma)))

    def solver(x: Any, noise: Any, before: Any) -> tuple[Any, ...]:
        data = (x - sigma * noise) / alpha
        return dpm_step(x, data, before, keep, gain, mix), data

    return Step(solver, tensors=1, variance=True)


def _levels(steps: int, kind: str) -> list[tuple[float, float]]:
    """(alpha, sigma) now, after the step and before it, halfway through evenly spaced times of a DDPM schedule."""
    first, last, power = BETAS[kind]
    betas = np.linspace(first ** (1 / power), last ** (1 / power), TRAINED_STEPS) ** power
    kept = np.cumprod(1 - betas)
    here, stride = TRAINED_STEPS // 2, min(max(1, TRAINED_STEPS // steps), TRAINED_STEPS // 2 - 1)
    return [(sqrt(kept[t]), sqrt(1 - kept[t])) for t in (here, here - stride, here + stride)]
