"""`tilewright trace numerics`: what number schemes do to the layers whose operands a trace holds."""

from math import isfinite
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.console import Json, guarded, put_json, put_table, say

COLUMNS = ("layer", "scheme", "kind", "arithmetic")
FIGURES = ("error", "snr_db", "largest", "activation_error", "weight_error")
HEAD = ("layer", "scheme", "kind", "arithmetic", "error", "SNR (dB)", "largest", "activations", "weights")


@guarded
def numerics(
    name: Annotated[str, typer.Argument(help="A value trace with operands: minilm_values, decoder_values, a file.")],
    layer: Annotated[list[str] | None, typer.Option(help="Only layers of this name or pattern (*); repeat.")] = None,
    schemes: Annotated[str | None, typer.Option(help="Schemes, with commas between; `list` names them.")] = None,
    rank: Annotated[int | None, typer.Option(min=0, help="Rank of low-rank branches; default: the schemes'.")] = None,
    after_gelu: Annotated[list[str] | None, typer.Option(help="Layers behind a GELU: unsigned activations.")] = None,
    fake: Annotated[
        bool, typer.Option("--fake", help="Fake-quantized arithmetic even where a kernel has one.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="Also write the rows to this CSV file.")] = None,
    as_json: Json = False,
) -> None:
    """Error of each number scheme on the exact operands of a trace's layers; needs torch.

    tilewright trace numerics minilm_values

    tilewright trace numerics decoder_values --layer "*.mlp.*" --schemes rtn_int4,svdquant_int4 --json

    Even rows of each input calibrate, odd rows are scored against the exact product in float64. error: norm of the
    output's error over that of the output; largest: greatest error over the output's rms; activations and weights:
    the error that they cause alone. arithmetic: "kernel" is the functional model of the 4-bit kernel.
    """
    from analysis.cache import use_kernel_cache
    from analysis.writing import check_writable

    use_kernel_cache()
    check_writable("--csv", csv)
    from analysis.numerics import SCHEMES, layer_numerics
    from analysis.quality.recipes import chosen
    from workloads.trace import load_workload

    if schemes == "list":
        _list()
        return
    rows = layer_numerics(
        load_workload(name),
        chosen(schemes, SCHEMES),
        layer or (),
        after_gelu=after_gelu or (),
        rank=rank,
        kernels=not fake,
        progress=lambda text: say(f"{text} ..."),
    )
    _put(rows, csv, as_json)


def _list() -> None:
    from analysis.quality.recipes import available

    put_table("Schemes", ["name", ""], [(name, recipe.title) for name, recipe in available().items()])


def _put(rows: list[dict[str, Any]], csv: Path | None, as_json: bool) -> None:
    if csv:
        from analysis.quality.records import write_rows

        write_rows(csv, rows)
    if as_json:
        put_json({"rows": rows})
        return
    for row in (row for row in rows if "why_not" in row):
        say(f"{row['layer']}, {row['scheme']}: left out: {row['why_not']}")
    table = [[*(str(row[key]) for key in COLUMNS), *map(_figure, (row[key] for key in FIGURES))] for row in rows
             if "why_not" not in row]  # fmt: skip
    put_table("Error of each scheme, by layer", HEAD, table)


def _figure(value: float) -> str:
    return f"{value:.4g}" if isfinite(value) else "exact"
