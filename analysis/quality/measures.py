"""What a quantized layer gets wrong: its output, and by its activations and weights apart. torch inside functions."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, log10, nan
from typing import Any

Tensor = Any


@dataclass(frozen=True)
class LayerErrors:
    """Errors over the Frobenius norm of the exact output X W^T + b: `output` of the quantized layer, `activations` with
    exact weights, `weights` with exact activations. largest: the greatest error of an element over the outputs' rms.
    """

    output: float
    activations: float
    weights: float
    largest: float

    @property
    def snr_db(self) -> float:
        """Signal over noise of the output in decibels."""
        return -20 * log10(self.output) if self.output else inf


def relative(found: Tensor, exact: Tensor) -> float:
    """Norm of the difference over the norm of the exact one, in float64; NaN where that is 0."""
    size = float(exact.double().norm())
    return float((found.double() - exact.double()).norm()) / size if size else nan


def layer_errors(layer: Any, weight: Tensor, bias: Tensor | None, x: Tensor, kernel: Any = None) -> LayerErrors:
    """Errors of a `QuantizedLinear` on inputs x [rows, K]; weight [N, K] and bias [N] are the exact ones.

    kernel: a kernel model; `output` and `largest` are then those of its arithmetic, the parts stay fake-quantized.
    """
    x, weight = x.double(), weight.double()
    exact = x @ weight.T + (0 if bias is None else bias.double())
    size = float(exact.norm()) or nan
    found = _run(layer, x, kernel=kernel).double()
    rms = size / exact.numel() ** 0.5
    return LayerErrors(
        relative(found, exact),
        float(activation_error(layer, weight, x).norm()) / size,
        relative(_run(layer, x, quantize_activations=False), exact),
        float((found - exact).abs().max()) / rms,
    )


def activation_error(layer: Any, weight: Tensor, x: Tensor) -> Tensor:
    """(Q(Xs) - Xs) R^T [rows, N]: R is the exact weight that the 4-bit product stands for, smoothed, without branch."""
    from workloads.quantization.grids import KINDS
    from workloads.quantization.layers import FORMS

    state = layer.state
    shift = float(state["shift"]) if "shift" in state else 0.0
    smooth = state["smooth"].double() if "smooth" in state else x.new_ones(x.shape[1])
    residual = weight.double()
    if "down" in state:
        residual = residual - state["up"].double() @ state["down"].double()
    seen = (x.double() + shift) / smooth
    rounded = KINDS[layer.kind].activations(seen, FORMS[layer.form], shift != 0).double()
    return (rounded - seen) @ (residual * smooth).T


def _run(layer: Any, x: Tensor, kernel: Any = None, quantize_activations: bool = True) -> Tensor:
    kept = layer.kernel, layer.quantize_activations
    layer.kernel, layer.quantize_activations = kernel, quantize_activations
    try:
        return layer(x)
    finally:
        layer.kernel, layer.quantize_activations = kept


def quantize_group(
    recipe: Any,
    weights: list[Tensor],
    biases: list[Tensor | None],
    inputs: Tensor,
    form: str,
    shifted: bool = False,
    **changes: Any,
) -> list[Any]:
    """`QuantizedLinear` for each weight [N_i, K] of layers with one calibration input [rows, K]."""
    import torch

    from workloads.quantization.layers import QuantizedLinear
    from workloads.quantization.methods import Group

    names = tuple(f"layer {place}" for place in range(len(weights)))
    group = Group(names, tuple(weights), tuple(biases), inputs, shifted, getattr(torch, form))
    with torch.no_grad():
        states = recipe.build(**changes).quantize(group)
    return [QuantizedLinear(state.kind, state.state, form) for state in states]


def kernel_of(kind: str) -> Callable[..., Any] | None:
    """The kernel model of a kind, or None where there is none."""
    try:
        from gpu_kernels.models import kernel_model
    except ModuleNotFoundError:
        return None
    try:
        return kernel_model(kind)
    except ValueError:
        return None
