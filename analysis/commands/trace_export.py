"""`tilewright trace export`: make a trace by running a model."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.commands.points import assignments
from analysis.console import Json, ProgressBar, guarded, put_json, put_text, say
from analysis.writing import check_writable

Device = Literal["meta", "cpu", "cuda"]
Dtype = Literal["bfloat16", "float16", "float32"]


@guarded
def export(
    name: Annotated[str, typer.Argument(help="A model (`tilewright trace models`), minilm, or <model>_values.")],
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="OPTION=VALUE", help="Of the model, e.g. size=2048, batch=2.")
    ] = None,
    device: Annotated[Device, typer.Option(help="meta: shapes only, no memory; others really run.")] = "meta",
    dtype: Annotated[
        Dtype | None, typer.Option(help="Format of weights and activations; default: the model's.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--weights", "--model", help="A local folder with a checkpoint (minilm: or a hub name)."),
    ] = None,
    timed: Annotated[bool, typer.Option("--timed", help="Measure it, too; needs --device cuda.")] = False,
    out: Annotated[Path | None, typer.Option(help="The file; default ./<name>.trace.zip.")] = None,
    as_json: Json = False,
) -> None:
    """Run a model operator by operator and write its trace; needs the torch extra, works offline.

    tilewright trace export sana_1600m --set size=2048 --set batch=2

    tilewright trace export llama3_8b --set tokens=1 --set past=1024 --set batch=64

    tilewright trace export flux_dev_generation --set steps=28

    tilewright trace export minilm --weights ./my-encoder --out my.trace.zip

    tilewright trace export bert_base --device cuda --timed
    """
    options = assignments(settings)
    check_writable("--out", out)
    if name == "minilm" or name.endswith("_values"):
        _refuse(name, {"--set": options, "--timed": timed, "--dtype": dtype, "--device": device != "meta"})
        summary = _export_facts(name, out, weights)
    else:
        summary = _export_model(name, options, device, dtype, weights, timed, out)
    if as_json:
        put_json(summary)
    else:
        put_text(str(summary.pop("told", summary)))


def _refuse(name: str, given: Mapping[str, Any]) -> None:
    wrong = [option for option, value in given.items() if value]
    if wrong:
        raise ValueError(f"{', '.join(wrong)}: not for {name}, whose texts and formats are fixed")


def _export_facts(name: str, out: Path | None, weights: str | None) -> dict[str, Any]:
    """Traces with values, from real weights."""
    path = out or Path(f"{name}.trace.zip")
    with ProgressBar(name, "texts") as bar:
        if name == "minilm":
            from workloads.minilm import export_minilm

            summary: Any = export_minilm(path, weights, bar.update)
        else:
            from workloads.values import export_values

            summary = export_values(name.removesuffix("_values"), path, weights, bar.update)
    return {**asdict(summary), "path": str(path), "told": str(summary)}


def _export_model(
    name: str,
    options: Mapping[str, Any],
    device: Device,
    dtype: str | None,
    weights: str | None,
    timed: bool,
    out: Path | None,
) -> dict[str, Any]:
    """A model of the zoo, its shapes or its run."""
    if timed and device != "cuda":
        raise ValueError(f"--timed: needs --device cuda, got {device!r}")
    _check_device(device)
    from workloads.trace_file import trace_bytes, write_trace
    from workloads.zoo.registry import Place, find_model

    place = Place(device, dtype or find_model(name).dtype, weights)
    with ProgressBar(name, "modules") as bar:
        trace = _timed(name, options, place) if timed else _recorded(name, options, place, bar)
    path = out or Path(f"{trace.name}.trace.zip")
    write_trace(trace, path)
    return _summary(trace, path, len(trace_bytes(trace)))


def _check_device(device: Device) -> None:
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ValueError("--device cuda: PyTorch finds no GPU here")


def _recorded(name: str, options: Mapping[str, Any], place: Any, bar: ProgressBar) -> Any:
    from workloads.export import export_model

    return export_model(name, options, place, bar.update)


def _timed(name: str, options: Mapping[str, Any], place: Any) -> Any:
    from workloads.timing import time_model, timed_trace

    say("measuring: eager, operator by operator, compiled; this takes a minute or two")
    return timed_trace(_recorded(name, options, place, ProgressBar(name, "modules")), time_model(name, options, place))


def _summary(trace: Any, path: Path, size: int) -> dict[str, Any]:
    from analysis.traces.totals import total

    sums, weights = total(trace), trace.weights
    parameters = int(weights["elements"][weights["kind"] == "parameter"].sum())
    told = f"{path}: {parameters:,} parameters, {sums.product_flops / 1e12:.5g} TFLOP in products, "
    told += f"{sums.calls} operators, {size} bytes"
    for operator, calls in trace.made["unknown"].items():
        told += f"\nunknown operator {operator}, called {calls} times: its bytes are counted, its operations are not"
    counted = {
        "parameters": parameters,
        "product_flops": sums.product_flops,
        "flops": sums.flops,
        "operators": sums.calls,
    }
    return {"path": str(path), **counted, "unknown": dict(trace.made["unknown"]), "file_bytes": size, "told": told}
