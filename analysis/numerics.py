"""Per-layer error of number schemes on the exact operands that a value trace holds: `tilewright trace numerics`.

Even rows of a layer's input calibrate a scheme, odd rows are scored. Outputs come from the functional model of the
kernel that runs the kind of layer ("kernel") or, where there is none, from fake-quantized arithmetic ("fake"). Needs
torch. Left out: rows that the trace does not hold (32 of each layer, its first outputs), attention.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.quality.measures import kernel_of, layer_errors, quantize_group
from analysis.quality.recipes import Recipe, adapted
from workloads.trace import Trace
from workloads.values.reading import layer_names, operands

Floats = NDArray[np.float64]
Progress = Callable[[str], None]
SCHEMES = (
    *("rtn_w4a8", "rtn_w4a8_g128", "smoothquant_w8a8", "awq_w4a16", "nf4"),
    *("rtn_int4", "smooth_int4", "svd_int4", "svdquant_int4", "svdquant_int4_gptq"),
    *("rtn_nvfp4", "svdquant_nvfp4"),
)
_HOW = (
    "record them: `tilewright trace export minilm_values`, or for your own model "
    'workloads.values.record_values(module, inputs, operands=Operands(["*.mlp.*"])); docs/values.md'
)


def layer_numerics(
    trace: Trace,
    schemes: Mapping[str, Recipe],
    layers: Sequence[str] = (),
    *,
    after_gelu: Sequence[str] = (),
    rank: int | None = None,
    kernels: bool = True,
    progress: Progress = lambda _: None,
) -> list[dict[str, Any]]:
    """One row a layer and scheme: output error, its SNR in dB, the largest; of activations and weights alone.

    layers, after_gelu: names or patterns with `*`; none: all layers with operands, none after a GELU. Layers that share
    their input are quantized together. rank: of branches. Raises ValueError for a trace without operands and for
    names that fit no layer.
    """
    known = operand_layers(trace)
    wanted, shifted = _matching(layers or ["*"], known, "--layer"), _matching(after_gelu, known, "--after-gelu")
    rows: list[dict[str, Any]] = []
    for names in _groups(trace, wanted):
        held = [operands(trace, name) for name in names]
        for key, recipe in schemes.items():
            progress(f"{names[0]}, {key}")
            rows += _rows(trace, names, held, key, recipe, names[0] in shifted, rank, kernels)
    order = {name: place for place, name in enumerate(known)}
    return sorted(rows, key=lambda row: order[row["layer"]])


def operand_layers(trace: Trace) -> list[str]:
    """Linear layers whose operands the trace holds. Raises ValueError, with how to record them, if there are none."""
    held = trace.made.get("operands", {})
    found = [name for name in layer_names(trace) if name in held] if held else []
    if not found:
        raise ValueError(f"{trace.name}: holds no operands of linear layers; {_HOW}")
    return found


def _matching(patterns: Iterable[str], known: Sequence[str], option: str) -> list[str]:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            near = get_close_matches(pattern, known, 1, 0.3)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"{option}: must fit one of {', '.join(known)}, got {pattern!r}{hint}")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _groups(trace: Trace, names: Sequence[str]) -> list[list[str]]:
    """Layers by the input that they read."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(trace.made["operands"][name]["input"], []).append(name)
    return list(groups.values())


def _rows(
    trace: Trace,
    names: Sequence[str],
    held: Sequence[Mapping[str, Floats]],
    key: str,
    recipe: Recipe,
    shifted: bool,
    rank: int | None,
    kernels: bool,
) -> list[dict[str, Any]]:
    import torch

    x = torch.from_numpy(held[0]["input"])
    weights = [torch.from_numpy(one["weight"]) for one in held]
    biases = [torch.from_numpy(one["bias"]) if "bias" in one else None for one in held]
    changes = adapted(recipe, rank=rank)
    form = str(trace.made["operand_form"])
    try:
        layers = quantize_group(recipe, weights, biases, x[::2], form, shifted, **changes)
    except ValueError as error:
        return [{"layer": name, "scheme": key, "why_not": str(error)} for name in names]
    return [
        {"layer": name, "scheme": key, "kind": layer.kind, **_errors(layer, weight, bias, x[1::2], kernels)}
        for name, layer, weight, bias in zip(names, layers, weights, biases, strict=True)
    ]


def _errors(layer: Any, weight: Any, bias: Any, x: Any, kernels: bool) -> dict[str, Any]:
    kernel = kernel_of(layer.kind) if kernels else None
    found = layer_errors(layer, weight, bias, x, kernel)
    return {
        "arithmetic": "kernel" if kernel else "fake",
        "error": found.output,
        "snr_db": found.snr_db,
        "largest": found.largest,
        "activation_error": found.activations,
        "weight_error": found.weights,
    }
