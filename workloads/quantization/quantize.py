"""`quantize`: a model, a method, calibration data; out come the model with quantized layers and a report."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from workloads.quantization.calibration import ROWS, Recording, check_names, record, shared_inputs
from workloads.quantization.grids import check_kind
from workloads.quantization.linears import Choice, linear_layers, nearest
from workloads.quantization.methods import METHODS, Group, LayerState, Method, method_named

__all__ = ["METHODS", "LayerReport", "Quantized", "quantize"]
Tensor = Any
Progress = Callable[[int, int, str], None]  # layers done, layers in all, the next one


@dataclass(frozen=True)
class LayerReport:
    """error: sum of squares of the output error over that of the outputs, on the calibration rows (None without)."""

    name: str
    kind: str
    rows: int
    columns: int
    error: float | None
    details: dict[str, Any]


@dataclass(frozen=True)
class Quantized:
    """model: its layers replaced. report: by layer, in the order of quantization. form: 16-bit float of the scales."""

    model: Any
    report: list[LayerReport]
    method: Method
    form: str


def quantize(
    model: Any,
    method: str | Method,
    run: Callable[[Any], object] | None = None,
    layers: Choice = None,
    *,
    form: str | None = None,
    rows: int | None = ROWS,
    seed: int = 0,
    after_gelu: Iterable[str] | None = None,
    in_place: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Quantized:
    """Quantize linear layers of `model` (names, patterns, predicate; None: all) by a method with options.

    run(model): drives calibration; methods that only look at weights do without. rows: calibration rows kept for each
    input. form: "float16" or "bfloat16"; None: that of the model, float16 for float32 models. after_gelu: names of
    layers whose input is a GELU's output; None: those that were seen to take one from a GELU module, unchanged.
    Layers with one input form a group and share smoothing and branch. Raises ValueError for an unknown method, layer or
    option, for layers that `run` does not reach, and for K that does not divide into the groups of the kind.
    """
    import torch

    method = method_named(method, **options) if isinstance(method, str) else method
    model = model if in_place else copy.deepcopy(model)
    found = linear_layers(model, layers)
    form = form or _form(model)
    _check(method, found, run)
    with torch.no_grad():
        method.transform(model, run, found)
        found = linear_layers(model, list(found))
        recording = record(model, run, list(found), rows, seed=seed) if run else Recording({}, {}, frozenset())
        if method.needs_inputs:
            check_names(found, recording)
        shifted = _shifted(found, recording, after_gelu)
        report = _all_groups(model, method, found, recording, shifted, form, progress or (lambda *_: None))
    return Quantized(model, report, method, form)


def _form(model: Any) -> str:
    kinds = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    return "bfloat16" if "bfloat16" in kinds else "float16"


def _check(method: Method, layers: dict[str, Any], run: Any) -> None:
    if run is None and method.needs_inputs:
        raise ValueError(f"{method.name}: needs calibration data: give run=")
    kind = getattr(method, "kind", None)
    for name, layer in layers.items() if kind else ():
        try:
            check_kind(str(kind), layer.in_features, getattr(method, "group", None))
        except ValueError as error:
            raise ValueError(f"{name}: {error}; leave it out by layers=") from None


def _shifted(layers: dict[str, Any], recording: Recording, given: Iterable[str] | None) -> set[str]:
    if given is None:
        return set(recording.after_gelu())
    for name in (given := list(given)):
        if name not in layers:
            raise ValueError(f"after_gelu: no layer to quantize is called {name!r}{nearest(name, layers)}")
    return set(given)


def _all_groups(
    model: Any,
    method: Method,
    layers: dict[str, Any],
    recording: Recording,
    shifted: set[str],
    form: str,
    progress: Progress,
) -> list[LayerReport]:
    seen = shared_inputs(recording)
    groups = seen + [(name,) for name in layers if name not in recording.calls]
    report: list[LayerReport] = []
    total = len(layers)
    for names in groups:
        progress(len(report), total, names[0])
        group = _group(names, layers, recording, shifted, form)
        for name, state in zip(names, method.quantize(group), strict=True):
            report.append(_replace(model, name, layers.pop(name), state, group, form))
    progress(total, total, "")
    return report


def _group(names: tuple[str, ...], layers: dict[str, Any], recording: Recording, shifted: set[str], form: str) -> Group:
    import torch

    chosen = [layers[name] for name in names]
    return Group(
        names,
        tuple(layer.weight.detach() for layer in chosen),
        tuple(None if layer.bias is None else layer.bias.detach() for layer in chosen),
        recording.inputs.get(names[0]),
        all(name in shifted for name in names),
        getattr(torch, form),
    )


def _replace(model: Any, name: str, layer: Any, state: LayerState, group: Group, form: str) -> LayerReport:
    from workloads.quantization.layers import put

    put(model, {name: (state.kind, state.state)}, form)
    error = None if group.inputs is None else output_error(layer, model.get_submodule(name), group.inputs)
    rows, columns = layer.weight.shape
    return LayerReport(name, state.kind, rows, columns, error, state.details)


def output_error(layer: Any, other: Any, inputs: Tensor) -> float:
    """Sum of squares of the difference of two layers' outputs over that of the first's, in float64."""
    wide = layer.weight.dtype
    exact = layer(inputs.to(wide)).double()
    return float((other(inputs.to(wide)).double() - exact).square().sum() / exact.square().sum())
