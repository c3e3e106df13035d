"""`tilewright quantize`: a local model in, a folder with quantized layers out."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.console import INTERRUPTED, Json, ProgressBar, guarded, put_json, put_table, say

HEAD = ("layer", "kind", "N x K", "error", "16-bit bytes", "bytes")


@guarded
def quantize(
    model: Annotated[str | None, typer.Argument(help="minilm, decoder, or a local folder of a model.")] = None,
    method: Annotated[str, typer.Option(help="How; --list names all.")] = "svdquant_int4",
    out: Annotated[Path | None, typer.Option(help="The folder to write; it must not exist.")] = None,
    calibration: Annotated[Path | None, typer.Option(help="Data to calibrate on: .txt, or .safetensors.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Rank of the branch; default: the method's.")] = None,
    options: Annotated[list[str] | None, typer.Option("--set", help="Another option, name=value; repeat.")] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Only linear layers of this name or pattern; repeat.")
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Layers that stay; repeat. Default: language heads.")] = None,
    lora: Annotated[
        list[Path] | None, typer.Option(help="Adapter (safetensors) to put onto the branch; repeat.")
    ] = None,
    strength: Annotated[float, typer.Option(help="Of the adapters.")] = 1.0,
    form: Annotated[str | None, typer.Option(help="float16 or bfloat16 for scales; default: the model's.")] = None,
    device: Annotated[str, typer.Option(help="Where torch runs it, e.g. cuda.")] = "cpu",
    seed: Annotated[int, typer.Option(help="Of the sample of calibration rows.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Take the place of a quantized model in --out.")] = False,
    list_methods: Annotated[
        bool, typer.Option("--list", help="List the methods and their options, do nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Quantize the linear layers of a model, and write codes and scales to a folder. Needs torch.

    tilewright quantize decoder --method svdquant_int4 --rank 16 --out decoder_int4

    tilewright quantize ./sana/transformer --method svdquant_nvfp4_gptq --calibration calls.safetensors --device cuda
    --out sana_nvfp4

    tilewright quantize --list

    MODEL is minilm or decoder, which come with calibration text, or a folder of transformers or diffusers (config.json
    beside the weights; of a pipeline, one of its folders). Methods that look at activations need --calibration for a
    folder: a text, for which the folder holds a tokenizer, or a safetensors file with the inputs of some calls, named
    0.hidden_states, 0.timestep, 1.hidden_states and so on. In the table, error is that of a layer's output on the
    calibration rows, over its norm. workloads.quantization.saving.load_quantized reads the folder again.
    """
    if list_methods:
        _list(as_json)
        return
    job = Job(
        *_checked(model, out, force), method, rank, _options(options), layers, skip, calibration, lora or [], strength
    )
    try:
        rows, left = _quantized(job, form, device, seed, force)
    except KeyboardInterrupt:
        say(f"interrupted: nothing was written to {out}")
        raise typer.Exit(INTERRUPTED) from None
    _put(rows, left, job.out, as_json)


@dataclass(frozen=True)
class Job:
    """What is to be done: the arguments of the command that say it."""

    model: str
    out: Path
    method: str
    rank: int | None
    options: Mapping[str, Any]
    layers: list[str] | None
    skip: list[str] | None
    calibration: Path | None
    lora: list[Path]
    strength: float


def _checked(model: str | None, out: Path | None, force: bool) -> tuple[str, Path]:
    """Both, before anything is loaded. Raises ValueError."""
    if model is None:
        raise ValueError("MODEL: must be minilm, decoder or a folder; see tilewright quantize --help")
    if out is None:
        raise ValueError("--out: must name the folder to write")
    if out.exists() and (not force or not out.is_dir()):
        raise ValueError(f"--out: {out} exists; name another folder, or --force for one that quantize wrote")
    return model, out


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """name=value pairs; values as YAML would read numbers and truths. Raises ValueError."""
    found: dict[str, Any] = {}
    for pair in pairs or []:
        name, sign, text = pair.partition("=")
        if not sign or not name:
            raise ValueError(f"--set: must be name=value, got {pair!r}")
        found[name] = _value(text)
    return found


def _value(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def _quantized(
    job: Job, form: str | None, device: str, seed: int, force: bool
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    from analysis.commands.quality import check_device
    from analysis.quality.models import layers_for, load
    from workloads.quantization.quantize import quantize as quantize_model
    from workloads.quantization.saving import save_quantized

    chosen = _method(job.method, job.rank, job.options)
    check_device(device)
    if form not in (None, "float16", "bfloat16"):
        raise ValueError(f"--form: must be float16 or bfloat16, got {form!r}")
    source = load(job.model, job.calibration, device)
    if source.run is None and chosen.needs_inputs:
        raise ValueError(f"--calibration: {job.method} needs data: a .txt or .safetensors file; rtn and nf4 need none")
    names, left = layers_for(source.model, chosen, job.layers, job.skip)
    with _Bar(source.title) as bar:
        found = quantize_model(
            source.model, chosen, source.run, names, form=form, seed=seed, in_place=True, progress=bar.show
        )
    _add_adapters(found.model, job.lora, job.strength)
    save_quantized(found.model, job.out, found.method, overwrite=force)
    return [_row(one, found.model.get_submodule(one.name)) for one in found.report], left


def _method(name: str, rank: int | None, options: Mapping[str, Any]) -> Any:
    from analysis.quality.recipes import find_recipe

    recipe = find_recipe(name)
    return recipe.build(**(({} if rank is None else {"rank": rank}) | dict(options)))


def _add_adapters(model: Any, files: list[Path], strength: float) -> None:
    from workloads.quantization.lora import add_adapter, read_adapter

    for file in files:
        adapter = read_adapter(file, model)
        for key, reason in adapter.unknown.items():
            say(f"{file}: {key}: left out: {reason}")
        add_adapter(model, adapter, strength, file.stem)
        say(f"{file}: put onto {len(adapter.layers)} layers")


class _Bar(ProgressBar):
    """A bar over the layers."""

    def __init__(self, title: str) -> None:
        super().__init__(f"quantizing {title}", "layers")

    def __enter__(self) -> "_Bar":
        super().__enter__()
        return self

    def show(self, done: int, total: int, layer: str) -> None:
        """Layers done of all, and the next."""
        self.update(done, total)


def _row(report: Any, layer: Any) -> dict[str, Any]:
    error = None if report.error is None else report.error**0.5
    return {
        "layer": report.name,
        "kind": report.kind,
        "rows": report.rows,
        "columns": report.columns,
        "error": error,
        "bytes_16bit": 2 * (report.rows * report.columns + ("bias" in layer.names) * report.rows),
        "bytes": sum(_bytes(report.kind, part, tensor) for part, tensor in layer.state.items()),
    }


def _bytes(kind: str, part: str, tensor: Any) -> int:
    """In the file: codes of 4 bits lie two a byte."""
    count = int(tensor.numel()) * int(tensor.element_size())
    return -(-count // 2) if part == "codes" and kind != "w8a8" else count


def _put(rows: list[dict[str, Any]], left: Mapping[str, str], out: Path, as_json: bool) -> None:
    if as_json:
        put_json({"folder": str(out), "layers": rows, "left": left})
        return
    shown = [
        (row["layer"], row["kind"], f"{row['rows']} x {row['columns']}", _error(row["error"]),
         f"{row['bytes_16bit']:,}", f"{row['bytes']:,}")
        for row in rows
    ]  # fmt: skip
    before, after = (sum(row[key] for row in rows) for key in ("bytes_16bit", "bytes"))
    put_table(f"Quantized: {out}", HEAD, [*shown, ("all", "", "", "", f"{before:,}", f"{after:,}")])
    for name, reason in left.items():
        say(f"{name} stays in 16 bit: {reason}")
    say(f"wrote {out}: {before / after:.2f} times smaller than in 16 bit")


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _list(as_json: bool) -> None:
    from dataclasses import fields

    from analysis.quality.recipes import available
    from workloads.quantization.methods import methods

    known = methods()
    rows = {
        name: (one.title, {**{f.name: f.default for f in fields(known[one.method])}, **one.options})
        for name, one in available().items()
    }
    if as_json:
        put_json({name: {"title": title, "options": options} for name, (title, options) in rows.items()})
        return
    table = [(name, title, " ".join(f"{k}={v}" for k, v in options.items())) for name, (title, options) in rows.items()]
    put_table("Methods, and their options for --set", ["name", "", ""], table)
