"""What a method of quantization is, their registry, and the plain ones: round to nearest, NF4, GPTQ.

A method turns a group of layers with one input into states. Whole-model work before that (rotation, reordering,
smoothing folded into norms) goes into `transform`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar

from workloads.quantization.gptq import gptq, hessian_of
from workloads.quantization.grids import KINDS, State, check_kind, measured
from workloads.quantization.linears import nearest

Tensor = Any
METHODS: dict[str, type["Method"]] = {}
MODULES = ("methods", "smoothing", "svdquant", "qoq", "quarot")  # whose import registers methods


@dataclass(frozen=True)
class Group:
    """Linear layers with one input: weights [N_i, K], biases [N_i] or None, inputs [rows, K] (None if not recorded).

    shifted: the input comes from a GELU. dtype: the 16-bit type of scales, branch and bias.
    """

    names: tuple[str, ...]
    weights: tuple[Tensor, ...]
    biases: tuple[Tensor | None, ...]
    inputs: Tensor | None
    shifted: bool
    dtype: Any


@dataclass(frozen=True)
class LayerState:
    """What a layer becomes. details: numbers for the report."""

    kind: str
    state: State
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Method:
    """Base of methods; the fields of a subclass are its options."""

    name: ClassVar[str] = ""
    needs_inputs: ClassVar[bool] = True

    def transform(self, model: Any, run: Callable[[Any], object] | None, layers: dict[str, Any]) -> None:
        """Change the whole model in place before its layers are quantized."""

    def quantize(self, group: Group) -> list[LayerState]:
        """One state for each layer of the group."""
        raise NotImplementedError


def register(name: str) -> Callable[[type[Method]], type[Method]]:
    """Put a method into METHODS. Raises ValueError for a name that is taken."""

    def add(method: type[Method]) -> type[Method]:
        if name in METHODS:
            raise ValueError(f"METHODS: {name!r} is taken by {METHODS[name].__name__}")
        method.name = name
        METHODS[name] = method
        return method

    return add


def methods() -> dict[str, type[Method]]:
    """METHODS with all of them registered."""
    for module in MODULES:
        try:
            import_module(f"workloads.quantization.{module}")
        except ModuleNotFoundError as error:
            if error.name != f"workloads.quantization.{module}":
                raise
    return METHODS


def method_named(name: str, **options: Any) -> Method:
    """A method by name with options. Raises ValueError for an unknown name or option, with the nearest one."""
    known = methods()
    if name not in known:
        raise ValueError(f"method: must be one of {', '.join(known)}, got {name!r}{nearest(name, known)}")
    fields = known[name].__dataclass_fields__
    for option in options:
        if option not in fields:
            raise ValueError(f"{name}: has no option {option!r}, only {', '.join(fields)}{nearest(option, fields)}")
    return known[name](**options)


def complete(kind: str, state: State, weight: Tensor, bias: Tensor | None, dtype: Any) -> State:
    """The state with what its kind has besides: smooth 1, a branch of rank 0, shift 0; the bias."""
    import torch

    (rows, columns), device = weight.shape, weight.device
    if kind in ("w4a4", "w4a4_nvfp4"):
        empty = {"down": (0, columns), "up": (rows, 0)}
        state = {name: torch.zeros(shape, dtype=dtype, device=device) for name, shape in empty.items()} | state
        state.setdefault("smooth", torch.ones(columns, dtype=dtype, device=device))
    if kind == "w4a4":
        state.setdefault("shift", torch.zeros((), dtype=dtype, device=device))
    return state if bias is None else {**state, "bias": bias.to(dtype)}


def rounded_weight(
    kind: str, weight: Tensor, dtype: Any, seen: Tensor | None = None, group: int | None = None
) -> State:
    """Codes and scales of a weight [N, K]: to nearest, or by GPTQ for the inputs `seen` [rows, K]."""
    grid = measured(kind, weight, dtype, group)
    if seen is None:
        return grid.state(weight)
    return {"codes": gptq(weight, hessian_of(seen), grid), **grid.scales}


@register("rtn")
@dataclass(frozen=True)
class Rtn(Method):
    """Round to nearest, any kind. group: columns with one scale, if not the kind's own."""

    kind: str = "w4a4"
    group: int | None = None
    needs_inputs: ClassVar[bool] = False

    def quantize(self, group: Group) -> list[LayerState]:
        return [self._layer(weight, bias, group) for weight, bias in zip(group.weights, group.biases, strict=True)]

    def _layer(self, weight: Tensor, bias: Tensor | None, group: Group) -> LayerState:
        check_kind(self.kind)
        state = rounded_weight(self.kind, weight, group.dtype, group=self.group)
        return LayerState(self.kind, complete(self.kind, state, weight, bias, group.dtype))


@register("nf4")
@dataclass(frozen=True)
class Nf4(Rtn):
    """NF4 weights in groups of 64 with float32 absmax, 16-bit activations (QLoRA; its second level left out)."""

    kind: str = "nf4"


@register("gptq")
@dataclass(frozen=True)
class Gptq(Rtn):
    """GPTQ, any kind. quantized_inputs: the Hessian sees activations after their quantization."""

    kind: str = "w4a16"
    quantized_inputs: bool = False
    needs_inputs: ClassVar[bool] = True

    def _layer(self, weight: Tensor, bias: Tensor | None, group: Group) -> LayerState:
        check_kind(self.kind)
        seen = group.inputs
        if self.quantized_inputs:
            seen = KINDS[self.kind].activations(seen, group.dtype, False)
        state = rounded_weight(self.kind, weight, group.dtype, seen, self.group)
        return LayerState(self.kind, complete(self.kind, state, weight, bias, group.dtype))
