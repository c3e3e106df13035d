"""Inputs of linear layers, recorded while a model runs over calibration data; which layers share one input."""

import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from workloads.quantization.linears import Choice, linear_layers

Tensor = Any
ROWS = 1024


@dataclass(frozen=True)
class Recording:
    """inputs: name -> [rows, K], the same tensor for layers with one input. calls: name -> numbers of the inputs that
    the layer was given, call by call; equal numbers are the very same tensor. gelu: those that a GELU module gave out.
    """

    inputs: dict[str, Tensor]
    calls: dict[str, tuple[int, ...]]
    gelu: frozenset[int]

    def after_gelu(self) -> list[str]:
        """Layers whose every input was the output of a GELU module, unchanged."""
        return [name for name, calls in self.calls.items() if calls and self.gelu.issuperset(calls)]


def shared_inputs(recording: Recording) -> list[tuple[str, ...]]:
    """Groups of layers that were given the very same tensors in every call, such as q, k and v; else of one."""
    groups: dict[tuple[int, ...], list[str]] = {}
    for name, calls in recording.calls.items():
        groups.setdefault(calls, []).append(name)
    return [tuple(names) for names in groups.values()]


def record_inputs(
    model: Any,
    run: Callable[[Any], object],
    layers: Choice = None,
    rows: int | None = ROWS,
    dtype: Any = None,
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs [rows, K] of each layer that `run(model)` reaches; see `record`."""
    return record(model, run, layers, rows, dtype, seed).inputs


def record(
    model: Any,
    run: Callable[[Any], object],
    layers: Choice = None,
    rows: int | None = ROWS,
    dtype: Any = None,
    seed: int = 0,
) -> Recording:
    """Run the model without gradients and in evaluation mode, watching its linear layers.

    rows: a sample of that many rows, drawn evenly from all by `seed` (None: all rows, in order). dtype: of the sample;
    None: float32. Layers with one input get the same sample. Left out: rows of padding are rows like others.
    """
    import torch

    watch = _Watch(rows, dtype or torch.float32, seed)
    found = linear_layers(model, layers)
    hooks = [module.register_forward_pre_hook(watch.linear(name), with_kwargs=True) for name, module in found.items()]
    hooks += [module.register_forward_hook(watch.gelu) for module in model.modules() if _is_gelu(module)]
    training = model.training
    try:
        model.eval()
        with torch.no_grad():
            run(model)
    finally:
        model.train(training)
        for hook in hooks:
            hook.remove()
    return watch.recording()


def _is_gelu(module: Any) -> bool:
    """GELU modules of torch, transformers and diffusers; a gated one (GEGLU) gives products out, not GELUs."""
    name = type(module).__name__
    return "GELU" in name and "GEGLU" not in name


@dataclass
class _Watch:
    rows: int | None
    dtype: Any
    seed: int
    samples: dict[str, "Sample"] = field(default_factory=dict)
    calls: dict[str, list[int]] = field(default_factory=dict)
    outputs: set[int] = field(default_factory=set)
    known: list[tuple[Any, tuple[Any, ...], int]] = field(default_factory=list)
    count: int = 0
    last: Any = None

    def linear(self, name: str) -> Callable[..., None]:
        def see(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            x = args[0] if args else kwargs["input"]
            self.calls.setdefault(name, []).append(self.number(x))
            sample = self.samples.setdefault(name, Sample(self.rows, self.seed))
            sample.add(x.detach().reshape(-1, x.shape[-1]).to(self.dtype))

        return see

    def gelu(self, module: Any, args: Any, output: Any) -> None:
        if hasattr(output, "data_ptr"):
            self.outputs.add(self.number(output))

    def number(self, x: Tensor) -> int:
        """The number of a tensor: that of a living one over the same memory, unchanged since, or a new one."""
        seen = fingerprint(x)
        self.known = [entry for entry in self.known if entry[0]() is not None]
        for reference, other, number in self.known:
            if other == seen and fingerprint(reference()) == other:
                return number
        self.count += 1
        self.known.append((weakref.ref(x), seen, self.count))
        self.last = x  # lives until the next, so that views of one tensor are seen as one
        return self.count

    def recording(self) -> Recording:
        calls = {name: tuple(numbers) for name, numbers in self.calls.items()}
        inputs: dict[str, Tensor] = {}
        first: dict[tuple[int, ...], Tensor] = {}
        for name, sample in self.samples.items():
            inputs[name] = first.setdefault(calls[name], sample.rows_seen)
        return Recording(inputs, calls, frozenset(self.outputs))


def fingerprint(x: Tensor) -> tuple[Any, ...]:
    """Memory, shape and version of a tensor: equal for living ones over the same numbers, unchanged since."""
    version = 0 if x.is_inference() else x._version
    return x.data_ptr(), tuple(x.shape), x.stride(), x.dtype, version


class Sample:
    """An even sample of rows: each row draws a number, the `rows` least stay, in the order of their coming."""

    def __init__(self, rows: int | None, seed: int) -> None:
        from numpy.random import default_rng

        self.limit, self.draw = rows, default_rng(seed)
        self.keys: Any = None
        self.rows_seen: Any = None

    def add(self, x: Tensor) -> None:
        """Show rows x [m, K]."""
        import torch

        keys = torch.from_numpy(self.draw.random(x.shape[0]))
        if self.rows_seen is not None:
            x, keys = torch.cat([self.rows_seen, x]), torch.cat([self.keys, keys])
        if self.limit is not None and len(keys) > self.limit:
            kept = keys.topk(self.limit, largest=False).indices.sort().values
            x, keys = x[kept.to(x.device)], keys[kept]
        self.rows_seen, self.keys = x.clone() if x is not None else x, keys


def check_names(names: Iterable[str], recording: Recording) -> None:
    """ValueError for layers that the calibration never reached."""
    missing = [name for name in names if name not in recording.inputs]
    if missing:
        raise ValueError(
            f"calibration: run(model) never reached {', '.join(missing[:3])}; leave out by layers=, or run more"
        )
