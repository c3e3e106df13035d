"""`tilewright trace`: look at the workloads, compare them, turn them into tables and pictures."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from analysis.commands.numerics import numerics
from analysis.commands.trace_export import export
from analysis.console import Json, guarded, put_json, put_table, put_text, say

app = typer.Typer(no_args_is_help=True, help="Show, compare, export and list workload traces.")
app.command()(export)
app.command()(numerics)
Name = Annotated[str, typer.Argument(help="A shipped workload, a trace file or a released CSV.")]
Scheme = Annotated[str | None, typer.Option(help="A number scheme (svdquant_int4, ...) or a YAML file, applied first.")]
Table = Literal["operators", "operands", "weights"]
Shelf = Literal["facts", "exported", "timed", "values"]
_SHELVES = {
    "facts": "With facts that pruning reacts to",
    "exported": "Operators of full-size models",
    "timed": "Full-size models with times measured on a GPU",
    "values": "Values of real runs",
}


def _load(name: str, scheme: str | None = None) -> Any:
    from workloads.trace import load_workload

    trace = load_workload(name)
    if scheme is None:
        return trace
    from workloads.schemes import annotate, assign, read_scheme

    chosen = read_scheme(scheme)
    if chosen.rules and not assign(trace, chosen).gemms:
        say(f"{chosen.name}: no rule matches a layer of {trace.name}: everything stays {chosen.default}")
    return annotate(trace, chosen)


@app.command()
@guarded
def show(
    name: Name,
    depth: Annotated[int, typer.Option(min=1, help="Names of a module path that make a line.")] = 2,
    scheme: Scheme = None,
    as_json: Json = False,
) -> None:
    """What a trace holds, how it was made, and what its modules compute and move.

    tilewright trace show minilm

    tilewright trace show sana_1600m --depth 3

    tilewright trace show flux_dev --scheme svdquant_int4
    """
    from analysis.traces.totals import HEAD, by_module, table, total
    from workloads.trace import describe

    trace = _load(name, scheme)
    totals = [*by_module(trace, depth), total(trace)] if "module" in trace.operators else []
    if as_json:
        facts = {key: {"dtype": str(x.dtype), "shape": list(x.shape)} for key, x in trace.facts.items()}
        operators = len(next(iter(trace.operators.values()), ()))
        head = {"name": trace.name, "model": dict(trace.model), "made": dict(trace.made)}
        put_json({**head, "operators": operators, "facts": facts, "modules": [asdict(one) for one in totals]})
        return
    put_table(f"Trace {trace.name}", ["", ""], describe(trace))
    if totals:
        put_table("Modules, in the order of the run", HEAD, table(totals))


@app.command()
@guarded
def stats(name: Name, scheme: Scheme = None, as_json: Json = False) -> None:
    """Operators by kind, the largest products, the weights; for traces with values, outliers by layer.

    tilewright trace stats llama3_8b

    tilewright trace stats minilm_values
    """
    from analysis.traces.statistics import statistics

    tables = statistics(_load(name, scheme), _load(name) if scheme else None, scheme)
    if as_json:
        put_json({one.title: [dict(zip(one.head, row, strict=True)) for row in one.rows] for one in tables})
        return
    for one in tables:
        put_table(one.title, one.head, one.rows)


@app.command()
@guarded
def diff(
    one: Annotated[str, typer.Argument(help="A workload or a trace file.")],
    other: Annotated[str, typer.Argument(help="Another one.")],
    as_json: Json = False,
) -> None:
    """What differs between two traces: how they were made, totals, kinds, modules, weights, facts.

    tilewright trace diff sana_1600m sana_1600m_size2048
    """
    from analysis.traces.difference import differences

    rows = differences(_load(one), _load(other))
    if as_json:
        put_json(
            {"same": not rows, "differences": [dict(zip(("what", "one", "other"), row, strict=True)) for row in rows]}
        )
    elif rows:
        put_table("Differences", ["", *(Path(name).name.removesuffix(".trace.zip") for name in (one, other))], rows)
    else:
        put_text("no difference")


@app.command()
@guarded
def plot(
    name: Name,
    out: Annotated[Path | None, typer.Option(help="The picture (.png, .svg, .pdf); default ./<name>.png.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="Names of a module path that make a bar.")] = None,
    scheme: Scheme = None,
) -> None:
    """Draw FLOPs and bytes along the run, module by module; for traces with values, the channels.

    tilewright trace plot flux_dev --out flux.png
    """
    trace = _load(name, scheme)
    path = out or Path(f"{trace.name}.png")
    if trace.made.get("kind") == "values":
        from analysis.values_plot import plot_channels

        plot_channels(trace, path)
    else:
        from analysis.traces.plot import plot_trace

        plot_trace(trace, path, depth)
    say(f"wrote {path}")


@app.command()
@guarded
def csv(
    name: Name,
    table: Annotated[Table, typer.Option(help="Which table.")] = "operators",
    out: Annotated[Path | None, typer.Option(help="The file; default ./<name>_<table>.csv.")] = None,
    scheme: Scheme = None,
) -> None:
    """Write a table of a trace as CSV, a line an entry.

    tilewright trace csv sana_1600m --table weights
    """
    from analysis.traces.csv import write_csv

    trace = _load(name, scheme)
    path = out or Path(f"{trace.name}_{table}.csv")
    say(f"wrote {path}: {write_csv(trace, table, path)} lines")


@app.command()
@guarded
def models(as_json: Json = False) -> None:
    """The models that `trace export` can build, and what may be chosen about each (in brackets: the allowed values).

    tilewright trace models
    """
    from workloads.zoo.registry import models as known

    found = known()
    if as_json:
        put_json(
            {name: {"title": one.title, "origin": one.origin, "options": one.options} for name, one in found.items()}
        )
        return
    put_table("Models", ["name", "", ""], [(name, one.title, _options(one)) for name, one in found.items()])


def _options(model: Any) -> str:
    """Options with their defaults, and the allowed values where they are few."""
    few = {key: f" {list(values)}" for key, values in model.allowed.items()}
    return "  ".join(f"{key}={value}{few.get(key, '')}" for key, value in model.options.items())


@app.command("list")
@guarded
def list_traces(
    shelf: Annotated[Shelf | None, typer.Argument(help="Only these: facts, exported, timed or values.")] = None,
    as_json: Json = False,
) -> None:
    """The shipped workloads, by what they hold.

    tilewright trace list

    tilewright trace list timed
    """
    from analysis.findings import how_made
    from workloads.trace import load_workload, workload_names

    shelves = {
        name: workload_names("" if name == "facts" else name) for name in ([shelf] if shelf else get_args(Shelf))
    }
    if as_json:
        names = [name for some in shelves.values() for name in some]
        put_json({"workloads": {name: {"made": dict(load_workload(name).made)} for name in names}})
        return
    for name, some in shelves.items():
        put_table(_SHELVES[name], ["name", ""], [(one, how_made(load_workload(one))) for one in some])
