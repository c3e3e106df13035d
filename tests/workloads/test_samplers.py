"""Samplers against closed forms: a Gaussian data distribution has a linear flow that can be integrated by hand."""

import math

import numpy as np
import pytest

from workloads.samplers import (
    dpm_coefficients,
    flow_dpm_solver,
    flow_euler,
    guide,
    resolution_shift,
    shifted_sigmas,
)

MEAN, WIDTH = 0.7, 0.5
START = np.array([-1.3, 0.2, 0.9, 2.1])


def spread(sigma):
    return math.hypot((1 - sigma) * WIDTH, sigma)


def gaussian_velocity(x, sigma):
    """E[eps - x0 | x] for x0 ~ N(MEAN, WIDTH^2); linear in x."""
    alpha = 1 - sigma
    centred = (x - alpha * MEAN) / spread(sigma) ** 2
    return sigma * centred - MEAN - alpha * WIDTH**2 * centred


def gaussian_flow(x, start, end):
    return (1 - end) * MEAN + spread(end) / spread(start) * (x - (1 - start) * MEAN)


def slopes(sampler, make_sigmas, counts):
    errors = []
    for steps in counts:
        sigmas = make_sigmas(steps)
        exact = gaussian_flow(START, sigmas[0], sigmas[-1])
        errors.append(np.abs(sampler(gaussian_velocity, START, sigmas) - exact).max())
    return np.log2(np.array(errors[:-1]) / errors[1:])


COUNTS = (512, 1024, 2048)


@pytest.mark.parametrize(("sampler", "order"), [(flow_euler, 1), (flow_dpm_solver, 2)])
def test_order_of_convergence_where_lambda_is_finite(sampler, order):
    found = slopes(sampler, lambda steps: np.linspace(0.9, 0.2, steps + 1), COUNTS)
    assert np.all(np.abs(found - order) < 0.05), found


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_is_first_order_over_the_whole_flow(shift):
    found = slopes(flow_euler, lambda steps: shifted_sigmas(steps, shift), COUNTS)
    assert np.all(np.abs(found - 1) < 0.02), found


def test_dpm_is_second_order_with_a_logarithm_over_the_whole_flow():
    """Even steps of sigma are steps of lambda that do not shrink at its infinite ends: the error is ~ log(n) / n^2."""
    found = slopes(flow_dpm_solver, lambda steps: shifted_sigmas(steps, 1.0), COUNTS)
    expected = 2 - np.log2(np.log(COUNTS[1:]) / np.log(COUNTS[:-1]))
    assert np.all(np.abs(found - expected) < 0.03), (found, expected)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_both_are_exact_where_all_data_is_one_point(steps):
    """The predicted data is then constant, and a first-order step already follows it exactly."""
    for sampler in (flow_euler, flow_dpm_solver):
        out = sampler(lambda x, sigma: (x - MEAN) / sigma, START, shifted_sigmas(steps, 3.0))
        assert np.allclose(out, MEAN, rtol=0, atol=1e-12)


def test_dpm_extrapolates_data_to_the_middle_of_the_step_of_lambda():
    """x0 = a + b lambda is met exactly there, which is what makes the rule second order."""
    sigmas = [0.8, 0.6, 0.5]
    lam = [math.log((1 - s) / s) for s in sigmas]
    keep, mix = dpm_coefficients(sigmas, 1)
    line = lambda value: 0.3 - 0.4 * value  # noqa: E731
    assert keep == pytest.approx(0.5 / 0.6)
    assert line(lam[1]) + mix * (line(lam[1]) - line(lam[0])) == pytest.approx(line((lam[1] + lam[2]) / 2))


def test_a_first_step_of_both_is_the_same():
    sigmas = [0.9, 0.5]
    assert np.allclose(
        flow_euler(gaussian_velocity, START, sigmas), flow_dpm_solver(gaussian_velocity, START, sigmas), atol=1e-14
    )


def test_steps_that_touch_an_infinite_lambda_are_first_order():
    sigmas = shifted_sigmas(4, 3.0)
    mixes = [dpm_coefficients(sigmas, index)[1] for index in range(4)]
    assert mixes[0] == mixes[1] == mixes[3] == 0
    assert mixes[2] > 0
    assert dpm_coefficients(sigmas, 3)[0] == 0


def test_one_model_call_a_step():
    for sampler in (flow_euler, flow_dpm_solver):
        calls = []

        def velocity(x, sigma, calls=calls):
            calls.append(sigma)
            return x

        sampler(velocity, START, shifted_sigmas(7, 3.0))
        assert calls == list(shifted_sigmas(7, 3.0)[:-1])


def test_the_dpm_solver_needs_fewer_steps():
    def error(sampler, steps):
        return np.abs(sampler(gaussian_velocity, START, shifted_sigmas(steps, 3.0)) - gaussian_flow(START, 1, 0)).max()

    assert error(flow_dpm_solver, 20) < error(flow_euler, 50)


def test_guidance():
    assert guide(2.0, 5.0, 1.0) == 5.0
    assert guide(2.0, 5.0, 0.0) == 2.0
    assert guide(2.0, 5.0, 4.5) == 15.5


def test_schedule():
    assert np.allclose(shifted_sigmas(4, 1.0), [1, 0.75, 0.5, 0.25, 0])
    assert np.allclose(shifted_sigmas(2, 3.0), [1, 0.75, 0])
    assert math.log(resolution_shift(4096)) == pytest.approx(1.15)
    assert math.log(resolution_shift(256)) == pytest.approx(0.5)


@pytest.mark.parametrize("steps", [0, -1, 2.5, True])
def test_steps_are_checked(steps):
    with pytest.raises(ValueError, match="steps: must be an integer >= 1"):
        shifted_sigmas(steps)


@pytest.mark.parametrize("shift", [0, -3, math.inf, math.nan])
def test_shift_is_checked(shift):
    with pytest.raises(ValueError, match="shift: must be a positive number"):
        shifted_sigmas(4, shift)


@pytest.mark.parametrize("sigmas", [[1.0], [0.5, 0.5], [0.2, 0.4], [1.5, 0.5], [0.5, -0.1], [math.nan, 0.1]])
def test_sigmas_are_checked(sigmas):
    for sampler in (flow_euler, flow_dpm_solver):
        with pytest.raises(ValueError, match="sigmas: must be"):
            sampler(gaussian_velocity, START, sigmas)


def test_start_is_checked():
    with pytest.raises(ValueError, match="start: must be in"):
        shifted_sigmas(4, 3.0, 1.5)


def diffusers_run(scheduler, x):
    seen = []
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas[:-1], strict=True):
        x = scheduler.step(gaussian_velocity(x, float(sigma)), timestep, x).prev_sample
        seen.append(x.numpy())
    return seen


def our_run(sampler, sigmas):
    return [sampler(gaussian_velocity, START, sigmas[: end + 2]) for end in range(len(sigmas) - 1)]


@pytest.mark.parametrize("steps", [4, 20])
def test_flow_euler_follows_diffusers_step_for_step(steps):
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps))  # as its pipelines call it
    assert np.allclose(theirs.sigmas.numpy(), shifted_sigmas(steps, 3.0), rtol=1e-6)
    seen = diffusers_run(theirs, torch.tensor(START, dtype=torch.float32))
    assert np.allclose(seen, our_run(flow_euler, shifted_sigmas(steps, 3.0)), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("steps", [4, 20])
def test_flow_dpm_solver_follows_diffusers_step_for_step(steps):
    torch = pytest.importorskip("torch")
    schedulers = pytest.importorskip("diffusers.schedulers")
    theirs = schedulers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    theirs.set_timesteps(steps)
    sigmas = shifted_sigmas(steps, 3.0, start=0.999)
    assert np.allclose(theirs.sigmas.numpy(), sigmas, rtol=1e-6)
    seen = diffusers_run(theirs, torch.tensor(START, dtype=torch.float32))
    assert np.allclose(seen, our_run(flow_dpm_solver, sigmas), rtol=5e-5, atol=5e-6)


def test_runs_on_meta_tensors_and_in_their_format():
    torch = pytest.importorskip("torch")
    x = torch.zeros(2, 32, 8, 8, dtype=torch.bfloat16, device="meta")
    for sampler in (flow_euler, flow_dpm_solver):
        out = sampler(lambda x, sigma: x * sigma, x, shifted_sigmas(3))
        assert out.shape == x.shape
        assert out.dtype == torch.bfloat16
