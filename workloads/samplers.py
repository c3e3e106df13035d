"""Samplers of rectified flows, written out: Flow-Euler, Flow-DPM-Solver and classifier-free guidance.

A rectified flow mixes data and noise, x(sigma) = (1 - sigma) x0 + sigma eps, with velocity v = eps - x0 = dx/dsigma
(Sana, arXiv 2410.10629, section 2 and appendix; DPM-Solver++, arXiv 2211.01095, algorithm 2). Coefficients are Python
floats, so x may be a NumPy array or a torch tensor of any shape, format and device, "meta" included. No torch here.
Left out: stochastic samplers, solvers above second order, and noise schedules other than the flow's own.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Velocity = Callable[[Any, float], Any]


def shifted_sigmas(steps: int, shift: float = 3.0, start: float = 1.0) -> NDArray[np.float64]:
    """Noise levels of `steps` model calls and the final 0: [steps + 1], falling.

    u falls evenly from `start` to 0 and sigma = shift u / (1 + (shift - 1) u); Sana: shift 3, 6 at 4096 pixels.
    diffusers' DPM solver starts at 0.999, its flow pipelines' Euler at 1. Raises ValueError for steps below 1, a shift
    that is not positive and finite, or a start outside (0, 1].
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: must be an integer >= 1, got {steps!r}")
    if not 0 < shift < math.inf:
        raise ValueError(f"shift: must be a positive number, got {shift!r}")
    if not 0 < start <= 1:
        raise ValueError(f"start: must be in (0, 1], got {start!r}")
    even = np.linspace(start, 0.0, steps + 1)
    return shift * even / (1 + (shift - 1) * even)


def resolution_shift(tokens: int) -> float:
    """The shift that FLUX.1-dev takes for so many image tokens: exp of a line through 0.5 at 256 and 1.15 at 4096.

    From the scheduler_config.json of black-forest-labs/FLUX.1-dev (base_shift, max_shift and their token counts).
    """
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))


def guide(unconditional: Any, conditional: Any, scale: float) -> Any:
    """Classifier-free guidance: scale 1 is the conditional prediction alone, 0 the unconditional one."""
    return unconditional + scale * (conditional - unconditional)


def flow_euler(velocity: Velocity, x: Any, sigmas: Sequence[float] | NDArray[np.float64]) -> Any:
    """Follow the flow from x at sigmas[0] to sigmas[-1] by first-order steps: x + (next - now) v(x, now).

    Raises ValueError unless sigmas fall strictly within [0, 1].
    """
    levels = _levels(sigmas)
    for now, following in pairwise(levels):
        x = euler_step(x, velocity(x, now), now, following)
    return x


def euler_step(x: Any, slope: Any, now: float, following: float) -> Any:
    """x at noise `following`, from x at `now` and dx/dsigma there (a flow's velocity, or predicted noise)."""
    return x + (following - now) * slope


def flow_dpm_solver(velocity: Velocity, x: Any, sigmas: Sequence[float] | NDArray[np.float64]) -> Any:
    """Follow the flow by DPM-Solver++ 2M: one model call a step, second order in lambda = log((1 - sigma) / sigma).

    Two steps are first order, which is where lambda is infinite: the one to sigma = 0 (as in diffusers with
    `final_sigmas_type` "zero"; it returns the predicted data itself), and the second if the first began at sigma = 1.
    The very first step has no history and is first order too. Raises ValueError unless sigmas fall strictly in [0, 1].
    """
    levels, before = _levels(sigmas), None
    for index, now in enumerate(levels[:-1]):
        data = x - now * velocity(x, now)
        keep, mix = dpm_coefficients(levels, index)
        x, before = dpm_step(x, data, before if mix else None, keep, 1 - keep, mix), data
    return x


def dpm_step(x: Any, data: Any, before: Any | None, keep: float, gain: float, mix: float) -> Any:
    """One DPM-Solver++ 2M step from the data that this call and the one before predicted (None: first order)."""
    return keep * x + gain * (data if before is None else data + mix * (data - before))


def dpm_coefficients(sigmas: Sequence[float] | NDArray[np.float64], index: int) -> tuple[float, float]:
    """(keep, mix) of step `index` (from sigmas[index] to the next): x' = keep x + (1 - keep) (d + mix (d - d_before)).

    keep = sigma'/sigma; on this flow alpha' (1 - exp(-h)) = 1 - keep, so that no infinite lambda enters.
    mix = h / (2 h_before), the h being steps of lambda; 0 where the step is first order.
    """
    now, following = float(sigmas[index]), float(sigmas[index + 1])
    keep = following / now
    if index == 0 or following == 0 or sigmas[index - 1] == 1:
        return keep, 0.0
    step, before = _lambda(following) - _lambda(now), _lambda(now) - _lambda(float(sigmas[index - 1]))
    return keep, step / (2 * before)


def _lambda(sigma: float) -> float:
    return math.log1p(-sigma) - math.log(sigma)


def _levels(sigmas: Sequence[float] | NDArray[np.float64]) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    falling = all(one > other for one, other in pairwise(levels))
    if len(levels) < 2 or not falling or levels[0] > 1 or levels[-1] < 0:
        raise ValueError(f"sigmas: must be two or more numbers that fall strictly within [0, 1], got {levels}")
    return levels
