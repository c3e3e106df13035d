"""`tilewright trace`: the workloads."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from analysis.console import Json, guarded, put_json, put_table, put_text, say

app = typer.Typer(no_args_is_help=True, help="Show, export and list workload traces.")


@app.command()
@guarded
def show(
    name: Annotated[str, typer.Argument(help="A shipped workload, a trace file or a released CSV.")],
    as_json: Json = False,
) -> None:
    """What a trace holds and how it was made.

    tilewright trace show minilm
    """
    from workloads.trace import describe, load_workload

    trace = load_workload(name)
    if as_json:
        facts = {key: {"dtype": str(x.dtype), "shape": list(x.shape)} for key, x in trace.facts.items()}
        operators = len(next(iter(trace.operators.values()), ()))
        head = {"name": trace.name, "model": dict(trace.model), "made": dict(trace.made)}
        put_json({**head, "operators": operators, "facts": facts})
    else:
        put_table(f"Trace {trace.name}", ["", ""], describe(trace))


@app.command()
@guarded
def export(
    name: Annotated[Literal["minilm"], typer.Argument(help="Which trace to make.")],
    out: Annotated[Path | None, typer.Option(help="The file; default ./<name>.trace.zip.")] = None,
    model: Annotated[str | None, typer.Option(help="A hub name or a local folder of a BERT-type encoder.")] = None,
    as_json: Json = False,
) -> None:
    """Make a trace by running the model; needs the torch extra.

    tilewright trace export minilm

    tilewright trace export minilm --model ./my-encoder --out my.trace.zip
    """
    from workloads.minilm import export_minilm

    summary = export_minilm(out or Path(f"{name}.trace.zip"), model, _progress)
    if as_json:
        put_json({**asdict(summary), "path": str(summary.path)})
    else:
        put_text(str(summary))


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        say(f"text {done} of {total}")


@app.command("list")
@guarded
def list_traces(as_json: Json = False) -> None:
    """The shipped workloads.

    tilewright trace list
    """
    from workloads.trace import load_workload, workload_names

    traces = {name: load_workload(name) for name in workload_names()}
    if as_json:
        put_json({"workloads": {name: {"made": dict(trace.made)} for name, trace in traces.items()}})
    else:
        from analysis.findings import how_made

        put_table("Workloads", ["name", ""], [(name, how_made(trace)) for name, trace in traces.items()])
