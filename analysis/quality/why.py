"""Why SVDQuant works, on one layer: where the error is, raw, smoothed and behind the branch, and what the SVD takes.

Smoothing moves outliers from activations into weights; the branch takes them out of the weights in 16 bit; the small
residual is what 4 bits hold. Shown: the errors that activations and weights cause alone, their greatest channels, and
the singular values of the raw weights, of the smoothed ones and of the residual. Scored on rows of other texts than
the calibration's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.plots import STYLE
from analysis.quality.measures import LayerErrors, layer_errors, quantize_group
from analysis.quality.recipes import Recipe
from analysis.writing import check_picture, replacing

Floats = NDArray[np.float64]
Tensor = Any
LAYER = "encoder.layer.0.intermediate.dense"
STAGES = ("raw", "smoothed", "with branch")
_COLOURS = ("#9aa5b1", "#3b6c8f", "#b5482a")


@dataclass(frozen=True)
class Stage:
    """One step of the way: errors; x_absmax [K] of the inputs that are rounded, w_absmax [K] of the weights that are;
    values: singular values of those weights, falling; size: their Frobenius norm over that of the smoothed (or raw)
    weights before the branch was taken out.
    """

    name: str
    errors: LayerErrors
    x_absmax: Floats
    w_absmax: Floats
    values: Floats
    size: float


def stages(weight: Tensor, bias: Tensor | None, inputs: Tensor, scored: Tensor, **options: Any) -> list[Stage]:
    """The three stages of a layer: weight [N, K], inputs and scored [rows, K]. options: of SVDQuant, such as rank."""
    kind = {"kind": options.pop("kind", "w4a4")}
    raw = Recipe("", "rtn", kind)
    full = _layer(Recipe("", "svdquant", kind | options), weight, bias, inputs)
    layers = (_layer(raw, weight, bias, inputs), _with_scale(_layer(raw, weight, bias, inputs), full, weight), full)
    return [_stage(name, layer, weight, bias, scored) for name, layer in zip(STAGES, layers, strict=True)]


def _layer(recipe: Recipe, weight: Tensor, bias: Tensor | None, inputs: Tensor) -> Any:
    return quantize_group(recipe, [weight], [bias], inputs, "float16")[0]


def _with_scale(layer: Any, other: Any, weight: Tensor) -> Any:
    """`layer` with the smoothing of `other`, its weights rounded to nearest."""
    from workloads.quantization.methods import rounded_weight

    scale = other.state["smooth"]
    state = rounded_weight(layer.kind, weight.double() * scale.double(), scale.dtype)
    layer.change({"smooth": scale, **state})
    return layer


def _stage(name: str, layer: Any, weight: Tensor, bias: Tensor | None, scored: Tensor) -> Stage:
    import torch

    state = layer.state
    smooth = state["smooth"].double()
    smoothed = weight.double() * smooth
    rounded = smoothed - (state["up"].double() @ state["down"].double()) * smooth
    return Stage(
        name,
        layer_errors(layer, weight, bias, scored),
        (scored.double() / smooth).abs().amax(0).numpy(),
        rounded.abs().amax(0).numpy(),
        torch.linalg.svdvals(rounded).numpy(),
        float(rounded.norm() / smoothed.norm()),
    )


def table(found: Sequence[Stage]) -> list[dict[str, Any]]:
    """A row for each stage: errors, greatest over median channel of inputs and weights, size of what is rounded."""
    return [
        {
            "stage": one.name,
            "error": one.errors.output,
            "activation_error": one.errors.activations,
            "weight_error": one.errors.weights,
            "x_outlier": float(one.x_absmax.max() / np.median(one.x_absmax)),
            "w_outlier": float(one.w_absmax.max() / np.median(one.w_absmax)),
            "rounded_weights": one.size,
            "first_singular": float(one.values[0]),
            "median_singular": float(np.median(one.values)),
        }
        for one in found
    ]


def encoder_layer(layer: str = LAYER) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """(weight, bias, inputs, scored) of a linear layer of MiniLM: inputs on calibration texts, scored on the shipped.

    Raises ValueError for a layer that is not there.
    """
    import torch

    from analysis.quality.encoder import TOKENS, calibration_texts
    from workloads.minilm import load_encoder
    from workloads.quantization.calibration import record_inputs
    from workloads.quantization.linears import linear_layers
    from workloads.texts import load_texts

    bert, tokenizer, _ = load_encoder()
    bert = bert.float()
    module = linear_layers(bert, [layer])[layer]

    def seen(texts: Sequence[str]) -> Tensor:
        ids = [torch.tensor(tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"])[None] for text in texts]
        return record_inputs(bert, lambda model: [model(one) for one in ids], [layer])[layer]

    weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
    return weight, bias, seen(calibration_texts()), seen([text["text"] for text in load_texts()])


def plot(found: Sequence[Stage], title: str, path: Path) -> Path:
    """Draw the stages: errors, greatest magnitude of each channel, singular values. ValueError for another suffix."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    check_picture(path)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        axes = figure.subplots(2, 2)
        _errors(axes[0][0], found)
        _singular(axes[0][1], found)
        _channels(axes[1][0], "|x| by channel (inputs that are rounded)", [one.x_absmax for one in found], found)
        _channels(axes[1][1], "|w| by channel (weights that are rounded)", [one.w_absmax for one in found], found)
        figure.suptitle(title, fontsize=12)
        metadata: Mapping[str, Any] = {".png": {"Software": None}}.get(path.suffix, {})
        with replacing(path) as scratch:
            figure.savefig(scratch, format=path.suffix[1:], dpi=110, metadata=metadata)
    return path


def _errors(axes: Any, found: Sequence[Stage]) -> None:
    bars = [(one.errors.activations, one.errors.weights, one.errors.output) for one in found]
    for place, (one, heights) in enumerate(zip(found, bars, strict=True)):
        at = np.arange(3) + (place - 1) * 0.27
        axes.bar(at, heights, 0.25, color=_COLOURS[place], label=one.name)
        for x, height in zip(at, heights, strict=True):
            axes.annotate(f"{height:.3f}", (x, height), (0, 2), textcoords="offset points", ha="center", fontsize=7)
    axes.set_xticks(range(3), ["activations alone", "weights alone", "both"])
    axes.set_title("Error of the output, over its norm", loc="left", fontsize=10)
    axes.grid(axis="x", visible=False)
    axes.set_ylim(top=1.25 * max(map(max, bars)))
    axes.legend(ncols=3, loc="upper left")


def _singular(axes: Any, found: Sequence[Stage]) -> None:
    for place, one in enumerate(found):
        axes.plot(np.arange(1, len(one.values) + 1), one.values, color=_COLOURS[place], label=one.name)
    axes.set(xscale="log", yscale="log", xlabel="number")
    floor = max(one.values[int(0.98 * len(one.values))] for one in found) / 4
    axes.set_ylim(bottom=floor)
    _plain(axes)
    axes.set_title("Singular values of the weights that are rounded", loc="left", fontsize=10)
    axes.legend()


def _channels(axes: Any, title: str, magnitudes: Sequence[Floats], found: Sequence[Stage]) -> None:
    for place, (one, values) in enumerate(zip(found, magnitudes, strict=True)):
        relative = np.sort(values / np.median(values))[::-1]
        dashes = "--" if place == len(found) - 1 else "-"  # it covers the line before where only weights differ
        axes.plot(np.arange(1, len(relative) + 1), relative, dashes, color=_COLOURS[place], label=one.name)
    axes.set(xscale="log", yscale="log", xlabel="channels, the greatest first", ylabel="over the median channel")
    axes.set_ylim(bottom=0.4)
    _plain(axes)
    axes.set_title(title, loc="left", fontsize=10)


def _plain(axes: Any) -> None:
    """1, 10, 100 instead of powers."""
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
