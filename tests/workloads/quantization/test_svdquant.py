"""SVDQuant: identity without rounding, order of quality, refinement, search, GELU shift."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.workloads.quantization.layers_for_tests import outlier_layer, small_block  # noqa: E402
from workloads.quantization.calibration import record  # noqa: E402
from workloads.quantization.lowrank import full, subspace  # noqa: E402
from workloads.quantization.methods import Group  # noqa: E402
from workloads.quantization.quantize import LayerReport, quantize  # noqa: E402
from workloads.quantization.smoothing import smooth_scale, span, strengths  # noqa: E402
from workloads.quantization.svdquant import Branch, SvdQuant, Work  # noqa: E402


def report(method: str, seed: int = 0, **options: Any) -> LayerReport:
    layer, x = outlier_layer(seed=seed)
    return quantize(torch.nn.Sequential(layer), method, lambda model: model(x), rows=None, **options).report[0]


def error(method: str, seed: int = 0, **options: Any) -> float:
    found = report(method, seed, **options).error
    assert found is not None
    return found


@pytest.mark.parametrize("rank", [0, 1, 16, 64])
@pytest.mark.parametrize("strength", [(0.0, 0.0), (0.5, 0.5), (0.95, 0.0)])
def test_without_rounding_nothing_changes(rank: int, strength: tuple[float, float]) -> None:
    """Smoothing, branch, residual and the shift after GELU: X W^T + b to float64 precision."""
    block, x = small_block()
    block, x = block.double(), x.double()
    options = {"kind": "unquantized", "rank": rank, "alpha": strength[0], "beta": strength[1]}
    found = quantize(block, "svdquant", lambda model: model(x), **options).model
    assert float(found.fc2.shift) == 11 / 64
    assert not hasattr(found.fc1, "shift")
    assert len(found.fc2.down) == rank if rank else not hasattr(found.fc2, "down")
    inputs = record(block, lambda model: model(x), rows=None, dtype=torch.float64).inputs
    for name in ("q", "k", "out", "fc1", "fc2"):
        exact = block.get_submodule(name)(inputs[name])
        difference = (found.get_submodule(name)(inputs[name]) - exact).detach().abs().max() / exact.detach().abs().max()
        assert float(difference) < 1e-13, name


def test_order_of_quality() -> None:
    """Naive and SVD alone, smoothing alone, SVDQuant, SVDQuant with GPTQ; NVFP4 is no worse than INT4."""
    layer, x = outlier_layer(256, 192, 256)
    ways: dict[str, dict[str, Any]] = {
        "naive": {"smooth": False, "rank": 0},
        "svd": {"smooth": False, "iterations": 1},
        "smooth": {"rank": 0},
        "svdquant": {},
        "gptq": {"gptq": True},
    }
    found = {}
    for kind in ("w4a4", "w4a4_nvfp4"):
        for way, options in ways.items():
            given = {"rank": 16, "kind": kind, **options}
            quantized = quantize(torch.nn.Sequential(layer), "svdquant", lambda model: model(x), rows=None, **given)
            found[kind, way] = quantized.report[0].error or 0.0
        naive, svd, smooth, svdquant, with_gptq = (found[kind, way] for way in ways)
        assert 0 < with_gptq <= svdquant < smooth / 4, found
        assert smooth < min(naive, svd), found
    assert found["w4a4_nvfp4", "svdquant"] <= found["w4a4", "svdquant"]


@pytest.mark.parametrize("seed", range(3))
def test_refinement_is_never_worse(seed: int) -> None:
    first = error("svdquant", seed, rank=16, iterations=1)
    found = report("svdquant", seed, rank=16)
    assert found.error is not None
    assert found.error < 0.97 * first
    errors = found.details["refinement"]
    assert 2 <= len(errors) <= 100
    assert errors[:-1] == sorted(errors[:-1], reverse=True)  # it ends at the first that is no better
    assert errors[-1] >= errors[-2]


def test_search_by_subspace_chooses_as_the_full_svd() -> None:
    layer, x = outlier_layer()
    weight = layer.weight.detach()
    work = Work(SvdQuant(rank=16), Group(("0",), (weight,), (None,), x, False, torch.float16))
    details, scale = work.smoothing()
    exact = []
    for alpha, beta in strengths():
        tried = smooth_scale(span([x]), span([weight]), alpha, beta, torch.float16)
        up, down = full(weight * tried, 16)
        exact.append(work._error(tried, weight * tried, Branch(up.float(), down.float()))[0])
    chosen = strengths().index((details["alpha"], details["beta"]))
    assert details["search"][chosen] == min(details["search"])
    assert exact[chosen] < 1.02 * min(exact)
    assert details["search"] == pytest.approx(exact, rel=0.15)  # each near; rounding makes it uneven
    assert torch.equal(scale, smooth_scale(span([x]), span([weight]), *strengths()[chosen], torch.float16))


def test_subspace_is_near_the_best_of_its_rank() -> None:
    weight = outlier_layer(256, 192)[0].weight.detach().double()
    up, down = full(weight, 8)
    best = float((weight - up @ down).square().sum())
    near_up, near_down = subspace(weight, 8)
    near = float((weight - near_up @ near_down).square().sum())
    assert best * (1 - 1e-12) <= near < 1.01 * best
    torch.testing.assert_close(near_down @ near_down.T, torch.eye(8).double())
    again = subspace(weight, 8, down)
    assert float((weight - again[0] @ again[1]).square().sum()) == pytest.approx(best, rel=1e-6)
    torch.testing.assert_close(down @ down.T, torch.eye(8).double())  # all of Sigma is on the up side


def test_layers_with_one_input_share_smoothing_and_down() -> None:
    block, x = small_block()
    found = quantize(block, "svdquant", lambda model: model(x), rank=16).model
    for name in ("smooth", "down"):
        assert torch.equal(getattr(found.q, name), getattr(found.v, name))
    assert not torch.equal(found.q.down, found.out.down)
    stacked = torch.cat([block.q.weight, block.k.weight, block.v.weight]).detach()
    smooth = found.q.smooth.double()
    up = torch.cat([found.q.up, found.k.up, found.v.up]).double()
    kept = (up @ (found.q.down.double() * smooth)).square().sum()
    assert kept == pytest.approx(float(torch.linalg.svdvals(stacked.double() * smooth)[:16].square().sum()), rel=0.05)


def test_gelu_outputs_are_quantized_unsigned_and_better() -> None:
    block, x = small_block()
    run = lambda model: model(x * 3)  # noqa: E731
    found = quantize(block, "svdquant", run, layers=["fc2"], rank=16)
    signed = quantize(block, "svdquant", run, layers=["fc2"], rank=16, shift=False)
    assert float(found.model.fc2.shift) == 11 / 64
    assert float(signed.model.fc2.shift) == 0
    assert found.report[0].error < signed.report[0].error
    other = quantize(block, "svdquant", run, layers=["fc2"], rank=16, kind="w4a4_nvfp4").model
    assert not hasattr(other.fc2, "shift")


def test_a_layer_that_is_not_after_gelu_is_refused() -> None:
    block, x = small_block()
    with pytest.raises(ValueError, match=r"fc1: inputs after a GELU must be at least -0.171875, got -"):
        quantize(block, "svdquant", lambda model: model(x), layers=["fc1"], after_gelu=["fc1"])
