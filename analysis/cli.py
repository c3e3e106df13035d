"""`tilewright`: the command line.

Exit status: 0 done; 1 a fault of tilewright; 2 a mistake in a file, a name or an option; 3 some points of a
sweep failed; 130 interrupted.
"""

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.commands import (
    calibrate,
    dram,
    fidelity,
    kernels,
    machines,
    points,
    predict,
    quality,
    quantize,
    reproduce,
    sweeps,
    traces,
)
from analysis.console import MISTAKE, Json, guarded, json_was_put, put_json, put_table, put_text, say

_EPILOG = (
    "Exit status: 0 done; 1 a fault of tilewright; 2 a mistake in a file, a name or an option; "
    "3 some points of a sweep failed; 130 interrupted."
)
app = typer.Typer(
    name="tilewright",
    help="What a quantized or sparse model costs on a piece of hardware, and what that hardware should be.",
    epilog=_EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(sweeps.sweep)
app.command()(points.run)
app.command()(reproduce.reproduce)
app.command()(quantize.quantize)
app.command()(calibrate.calibrate)
app.add_typer(traces.app, name="trace")
app.add_typer(machines.app, name="machine")
app.add_typer(dram.app, name="dram")
app.add_typer(fidelity.app, name="fidelity")
app.add_typer(quality.app, name="quality")
app.add_typer(kernels.app, name="kernels")
app.add_typer(predict.app, name="predict")
Kind = Literal["sweep", "machine", "standard", "benchmark", "scheme", "policy"]


@app.command()
@guarded
def validate(
    files: Annotated[list[Path], typer.Argument(help="Sweeps, machines, DRAM standards, benchmarks, schemes, traces.")],
    as_json: Json = False,
) -> None:
    """Check files and report every fault as file:line:column.

    tilewright validate my.yaml sweeps/*.yaml
    """
    from analysis.validation import validate_file

    reports = [validate_file(path) for path in files]
    if as_json:
        put_json({"files": [report.to_dict() for report in reports]})
    else:
        for report in reports:
            put_text(str(report))
    if any(report.faults for report in reports):
        raise typer.Exit(MISTAKE)


@app.command("list")
@guarded
def list_all(as_json: Json = False) -> None:
    """Everything that resolves by name: machines, workloads, benchmarks, examples.

    tilewright list
    """
    from accel.machine import machine_names
    from analysis.sweep import example_names
    from workloads.llm_decode import NAMES
    from workloads.schemes import scheme_names
    from workloads.trace import benchmark_names, workload_names

    names = {
        "machines": list(machine_names()),
        "workloads": workload_names(),
        "exported models": workload_names("exported"),
        "timed models": workload_names("timed"),
        "values of real runs": workload_names("values"),
        "benchmarks": benchmark_names(),
        "number schemes": list(scheme_names()),
        "decoding steps": [NAMES],
        "examples": example_names(),
    }
    if as_json:
        put_json(names)
    else:
        put_table("Names", ["kind", ""], [(kind, "  ".join(some)) for kind, some in names.items()])


@app.command()
@guarded
def schema(
    kind: Annotated[Kind, typer.Argument(help="The kind of file.")],
    as_json: Json = False,
) -> None:
    """Print the JSON Schema of a kind of file, for editors to complete and check.

    tilewright schema sweep > sweep.schema.json
    """
    put_json(_schema(kind))


def _schema(kind: Kind) -> dict[str, Any]:
    if kind == "sweep":
        from analysis.sweep import SweepFile

        return SweepFile.model_json_schema()
    if kind == "benchmark":
        from accel.schema import with_assumed_numbers
        from workloads.benchmarks.file import Benchmark

        return with_assumed_numbers([Benchmark])
    if kind == "scheme":
        from workloads.schemes import Scheme

        return Scheme.model_json_schema()
    if kind == "policy":
        from workloads.policy import Policy

        return Policy.model_json_schema()
    from accel.machine import json_schema

    return json_schema(kind)


@app.command()
@guarded
def bench(as_json: Json = False) -> None:
    """Measure the speed of the engines, the planner, a sweep and the models of kernels on this computer.

    tilewright bench --json
    """
    from analysis.cache import use_kernel_cache

    use_kernel_cache()
    from analysis.bench import run_bench

    numbers = run_bench()
    if as_json:
        put_json(numbers)
    else:
        put_table("Speed on this computer", ["", ""], [(key, _figure(x)) for key, x in numbers.items()])


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@app.command()
@guarded
def warmup(as_json: Json = False) -> None:
    """Compile the kernels now, so that no later command has to.

    tilewright warmup
    """
    from analysis.cache import use_kernel_cache
    from analysis.running import compile_kernels, kernels_compiled

    folder = use_kernel_cache()
    if not kernels_compiled():
        say(f"compiling kernels (once; cached in {folder})")
        compile_kernels()
    if as_json:
        put_json({"compiled": True, "folder": str(folder)})
    else:
        put_text(f"kernels are ready in {folder}")


@app.command()
@guarded
def version(as_json: Json = False) -> None:
    """The version, and the hash of the sources that decide results.

    tilewright version
    """
    from analysis.findings import package_version
    from analysis.sources import source_hash

    if as_json:
        put_json({"tilewright": package_version(), "sources": source_hash()})
    else:
        put_text(f"tilewright {package_version()}, sources {source_hash()[:12]}")


def main() -> None:
    """Entry of the console script. A mistake in the options is told as JSON too when `--json` is there."""
    try:
        app()
    except SystemExit as end:
        if end.code == MISTAKE and "--json" in sys.argv and not json_was_put():
            put_json({"error": "the command line is wrong; stderr says where", "exit_status": MISTAKE})
        raise
