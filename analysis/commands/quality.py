"""`tilewright quality`: studies of what quantization does to answers and to layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.console import Json, ProgressBar, guarded, put_json, put_table, put_text, say

app = typer.Typer(no_args_is_help=True, help="What quantization does to answers and to layers; needs torch.")
Schemes = Annotated[str | None, typer.Option(help="Recipes, with commas between; `tilewright quantize --list`.")]
Out = Annotated[Path | None, typer.Option(help="Also write the rows to this CSV file.")]
Device = Annotated[str, typer.Option(help="Where torch runs it, e.g. cuda.")]


@app.command()
@guarded
def encoder(
    schemes: Schemes = None,
    kernels: Annotated[bool, typer.Option("--kernels", help="Each also in its kernel's exact arithmetic.")] = False,
    device: Device = "cpu",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Sentence similarities of a trained encoder, quantized whole, against those of the dense one.

    tilewright quality encoder --schemes rtn_int4,svdquant_int4 --kernels

    Scored on the 32 shipped texts, calibrated on others. rank_correlation: Spearman's over the cosines of all pairs.
    """
    from analysis.quality.encoder import RECIPES, encoder_quality
    from analysis.quality.recipes import chosen

    _ready(out, device)
    recipes = chosen(schemes, RECIPES)
    with _Bar("encoder") as bar:
        rows = _said(bar, encoder_quality(recipes, kernels, device=device, progress=bar.update), Record(out, device))
    _put("MiniLM, quantized whole, against the dense one", rows, out, as_json)


@app.command()
@guarded
def decoder(
    rows: Annotated[list[str] | None, typer.Option(help="Rows or parts of the study, patterns; repeat.")] = None,
    windows: Annotated[int, typer.Option(min=2, help="Pieces of the held-out text that are scored.")] = 24,
    device: Device = "cpu",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Bits per byte of the shipped decoder under QoQ, step by step, and under what it is compared with.

    tilewright quality decoder --rows baseline --rows "QoQ*"

    Calibrated on the first half of the held-out text, scored on the second; intervals by paired bootstrap over pieces.
    """
    from analysis.quality.decoder import Setup, chosen_rows, decoder_quality
    from workloads.decoder import heldout_text, load_decoder

    _ready(out, device)
    chosen, record = chosen_rows(rows), Record(out, device)
    with _Bar("decoder") as bar:
        model, done = load_decoder().to(device), len(chosen)
        found = decoder_quality(model, heldout_text(), Setup(windows), chosen, lambda name: bar.update(0, done, name))
        _said(bar, found, record)
    _put("The decoder's bits per byte", record.rows, out, as_json)


@app.command()
@guarded
def outliers(
    schemes: Schemes = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many tensors are drawn.")] = 5,
    size: Annotated[int, typer.Option(min=128, help="Input and output channels; a multiple of 64.")] = 256,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Error of each recipe on layers with planted outliers.

    tilewright quality outliers --seeds 3
    """
    from analysis.quality.outliers import RECIPES, outlier_quality
    from analysis.quality.recipes import chosen

    _ready(out, "cpu")
    with _Bar("outliers") as bar:
        rows = _said(bar, outlier_quality(chosen(schemes, RECIPES), seeds, size), Record(out))
    _put("Relative error of the output, layers with planted outliers", rows, out, as_json)


@app.command()
@guarded
def why(
    layer: Annotated[str | None, typer.Option(help="A linear layer of MiniLM; default: a first one of an FFN.")] = None,
    rank: Annotated[int, typer.Option(min=1, help="Rank of the branch.")] = 32,
    nvfp4: Annotated[bool, typer.Option("--nvfp4", help="NVFP4 instead of INT4.")] = False,
    plot: Annotated[Path | None, typer.Option(help="Also draw it: .png, .svg or .pdf.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Why SVDQuant works, on one layer: errors raw, smoothed and with the branch; decay of singular values.

    tilewright quality why --plot why.png
    """
    from analysis.quality import why as study
    from analysis.writing import check_picture

    _ready(out, "cpu")
    if plot:
        check_picture(plot)
    name = layer or study.LAYER
    options = {"rank": rank, "kind": "w4a4_nvfp4" if nvfp4 else "w4a4"}
    found = study.stages(*study.encoder_layer(name), **options)
    record = Record(out)
    for row in study.table(found):
        record.add(row)
    _put(f"MiniLM, {name}, rank {rank}", record.rows, out, as_json)
    if plot:
        kind = "NVFP4" if nvfp4 else "INT4"
        say(f"wrote {study.plot(found, f'MiniLM, {name}: W4A4 {kind}, rank {rank}', plot)}")


@app.command()
@guarded
def blocks(
    block: Annotated[list[str] | None, typer.Option(help="flux, sana or llama3; repeat; default: all.")] = None,
    schemes: Schemes = None,
    tokens: Annotated[int, typer.Option(min=16, help="Tokens of one call (image tokens, bytes of a prompt).")] = 256,
    calls: Annotated[int, typer.Option(min=1, help="Calls to calibrate on; as many others are scored.")] = 4,
    grids: Annotated[int, typer.Option(min=2, help="Steps of the smoothing search; 20 as published.")] = 20,
    iterations: Annotated[int, typer.Option(min=1, help="Most branches that SVDQuant tries.")] = 100,
    rank: Annotated[int | None, typer.Option(min=1, help="Rank of branches; default: the recipes'.")] = None,
    device: Device = "cpu",
    out: Out = None,
    as_json: Json = False,
) -> None:
    """One transformer block of full width with planted outliers: errors by layer and of the block.

    tilewright quality blocks --block sana --schemes rtn_int4,svdquant_int4 --tokens 64 --grids 5 --iterations 3

    tilewright quality blocks --device cuda --out blocks.csv
    """
    from analysis.quality.blocks import BUILDERS, RECIPES, block_quality, build
    from analysis.quality.recipes import chosen

    _ready(out, device)
    recipes, record = chosen(schemes, RECIPES), Record(out, device)
    for name in block or BUILDERS:
        with _Bar(name) as bar:
            built = build(name, tokens, device)
            found = block_quality(
                built, recipes, calls, progress=bar.update, grids=grids, iterations=iterations, rank=rank
            )
            _said(bar, found, record, _LAYER)
    _put(f"Relative errors of full-width blocks, {tokens} tokens", record.rows, out, as_json)


_LAYER = "activation_error"  # rows that have it are of layers, and not announced


class _Bar(ProgressBar):
    """A bar over the layers of one recipe after the other."""

    def __init__(self, title: str) -> None:
        super().__init__(title, "layers")

    def __enter__(self) -> "_Bar":
        super().__enter__()
        return self

    def update(self, done: int, total: int, text: Any = "") -> None:
        """Layers done of all; text: which one."""
        super().update(done, total)
        self._bar.update(self._task, description=str(text)[:60])


@dataclass
class Record:
    """The rows so far, in `out` too (if any) as soon as they come: an interrupted study keeps what it has."""

    out: Path | None
    device: str = "cpu"
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """One more row."""
        from analysis.quality.records import made, write_rows

        self.rows.append(dict(row))
        if self.out:
            write_rows(self.out, self.rows, made(_command(), self.device))


def _said(bar: _Bar, rows: Iterable[Mapping[str, Any]], record: Record, quiet: str = "") -> list[dict[str, Any]]:
    """The rows, each recorded and announced when it comes; not announced if they have a column `quiet`."""
    for row in rows:
        if quiet not in row:
            bar.say("  ".join(f"{name} {_shown(value)}" for name, value in row.items()))
        record.add(row)
    return record.rows


def _ready(out: Path | None, device: str) -> None:
    from analysis.cache import use_kernel_cache
    from analysis.writing import check_writable

    use_kernel_cache()
    check_writable("--out", out)
    check_device(device)


def check_device(device: str) -> None:
    """Raises ValueError for a device that torch does not have."""
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: torch must have it, got {device!r}: {str(error).splitlines()[0]}") from None


def _put(title: str, rows: list[dict[str, Any]], out: Path | None, as_json: bool) -> None:
    if out:
        say(f"wrote {out}")
    if as_json:
        put_json({"rows": rows})
    elif rows:
        shown = [_intervals(row) for row in rows]
        columns = list({key: None for row in shown for key in row})
        put_table(title, columns, [[row.get(key, "") for key in columns] for row in shown])
    else:
        put_text("no rows")


def _intervals(row: Mapping[str, Any]) -> dict[str, str]:
    """The cells of a row; `x_low` and `x_high` become one."""
    found = {}
    for key, value in row.items():
        base = key.removesuffix("_low")
        if base != key and f"{base}_high" in row:
            both = _shown(value), _shown(row[f"{base}_high"])
            found[f"{base.partition('_')[0]} 95 %"] = " to ".join(both) if all(both) else ""
        elif not (key.endswith("_high") and f"{key.removesuffix('_high')}_low" in row):
            found[key] = _shown(value)
    return found


def _command() -> str:
    """The command line that is running, for the record; file names without their folders."""
    import sys

    return " ".join(["tilewright", *(Path(word).name if "/" in word else word for word in sys.argv[1:])])


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return "" if isnan(value) else f"{value:.4g}"
    return "" if value is None else str(value)
