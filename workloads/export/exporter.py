"""From a module and its inputs, or a name of the zoo, to a trace. torch is imported inside functions."""

from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Literal, get_args

from workloads.export.table import operand_table, operator_table, weight_table
from workloads.trace import Trace
from workloads.zoo.registry import Place, Stage, find_model, label, options_of

Progress = Callable[[int, int], None]
Method = Literal["dispatch", "torch.export"]
_PACKAGES = ("torch", "transformers", "diffusers")


def export(
    module: Any,
    inputs: Any = (),
    *,
    name: str = "module",
    repeat: int = 1,
    method: Method = "dispatch",
    progress: Progress | None = None,
    **keywords: Any,
) -> Trace:
    """The operators of `module(*inputs, **keywords)`, one row a call, with operands, weights and who feeds whom.

    module    torch.nn.Module. It runs once, where its weights are: on the device "meta" nothing is computed
    inputs    a tensor, a tuple of arguments, or a mapping of keyword arguments
    repeat    how often the module runs in a row, as a sampler or a decoding loop would
    method    "dispatch": run the module under a dispatch mode; "torch.export": capture its graph first, run that
    progress  called with (modules entered, all modules)

    Raises ValueError where the module cannot run so.  Left out: kernels that a library chooses, fusion, autograd.
    """
    args, kwargs = _arguments(inputs, keywords)
    stage = Stage("", module, args, kwargs, repeat)
    return export_stages(name, [stage], {"name": name}, method=method, progress=progress)


def _arguments(inputs: Any, keywords: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, Mapping):
        return (), {**inputs, **keywords}
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), dict(keywords)


def export_model(
    name: str, options: Mapping[str, Any] | None = None, place: Place | None = None, progress: Progress | None = None
) -> Trace:
    """The trace of a model of the zoo. Raises ValueError for unknown names, options and values."""
    model = find_model(name)
    chosen = options_of(model, options or {})
    place = place or Place(dtype=model.dtype)
    stages = model.build(place, chosen)
    about = {"name": name, "title": model.title, "origin": model.origin, "options": chosen, "format": place.dtype}
    return export_stages(label(name, chosen), stages, about, progress=progress)


def export_stages(
    name: str,
    stages: Sequence[Stage],
    model: Mapping[str, Any],
    *,
    method: Method = "dispatch",
    progress: Progress | None = None,
) -> Trace:
    """The trace of several modules that run one after another. Raises ValueError as `export` does."""
    _check(stages, method)
    from workloads.export.recorder import Recorder, whole_operators

    recorder = Recorder()
    weights: dict[str, tuple[Any, bool]] = {}
    tick = _counter(stages, progress)
    for index, stage in enumerate(stages):
        recorder.stage = index
        weights |= recorder.weights(stage.module, stage.name, len(weights))
        with whole_operators():
            _run(recorder, stage, method, tick)
    rows = recorder.rows
    return Trace(
        name,
        model,
        _made(stages, method, recorder.unknown),
        operators=operator_table(rows, [stage.repeat for stage in stages]),
        operands=operand_table(rows),
        weights=weight_table(weights),
    )


def _run(recorder: Any, stage: Stage, method: Method, tick: Callable[[], None]) -> None:
    from workloads.export.recorder import module_paths

    try:
        if method == "torch.export":
            from workloads.export.captured import run_captured

            run_captured(recorder, stage)
        else:
            with module_paths(recorder, stage.module, stage.name, tick), recorder:
                stage.module(*stage.args, **stage.kwargs)
    except Exception as error:
        where = recorder.entered or type(stage.module).__name__
        reason = [*str(error).strip().splitlines(), type(error).__name__][0][:300]
        raise ValueError(f"{where}: the module must run in inference mode on its device, got: {reason}") from error


def _check(stages: Sequence[Stage], method: str) -> None:
    """Raise ValueError for what is no module, a name that is there twice, or a wrong number or method."""
    from torch.nn import Module

    names = [stage.name for stage in stages]
    for stage in stages:
        if not isinstance(stage.module, Module):
            raise ValueError(f"module: must be a torch.nn.Module, got {type(stage.module).__name__}")
        if type(stage.repeat) is not int or stage.repeat < 1:
            raise ValueError(f"repeat: must be an integer >= 1, got {stage.repeat!r}")
        if names.count(stage.name) > 1:
            raise ValueError(f"stages: names must differ, got {stage.name!r} twice")
    if method not in get_args(Method):
        raise ValueError(f"method: must be one of {', '.join(get_args(Method))}, got {method!r}")


def _counter(stages: Sequence[Stage], progress: Progress | None) -> Callable[[], None]:
    total, seen = sum(len([*stage.module.modules()]) for stage in stages), [0]

    def tick() -> None:
        seen[0] += 1
        if progress and seen[0] <= total:
            progress(seen[0], total)

    return tick


def _made(stages: Sequence[Stage], method: Method, unknown: Mapping[str, int]) -> dict[str, Any]:
    """How the trace came about; of the machine nothing, of the libraries their versions."""
    return {
        "kind": "exported",
        "method": method,
        "device": sorted({tensor.device.type for stage in stages for tensor in stage.module.parameters()}),
        "versions": {name: _version(name) for name in _PACKAGES if _version(name)},
        "stages": [
            {"name": stage.name, "class": type(stage.module).__name__, "repeat": stage.repeat} for stage in stages
        ],
        "unknown": dict(sorted(unknown.items())),
        "counting": "flops: 2 x multiplications of products, causal attention in full, and operations of elementwise "
        "operators; flops_unmasked: without what a causal mask removes; bytes: each operand of an operator once",
    }


def _version(package: str) -> str:
    try:
        return version(package).partition("+")[0]
    except PackageNotFoundError:
        return ""
