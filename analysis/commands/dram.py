"""`tilewright dram`: request traces through the DRAM controller."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from analysis.commands.dram_files import export, make
from analysis.console import UNEXPECTED, Json, guarded, put_json, put_table, put_text, say
from analysis.writing import check_writable

if TYPE_CHECKING:
    from analysis.dram.report import DramRun
    from sim.dram.spec import DramSpec
    from workloads.request_trace import Requests

app = typer.Typer(no_args_is_help=True, help="Request traces through the DRAM controller.")
app.command()(make)
app.command()(export)
Mode = Literal["asap", "timed", "chain"]
Scheduler = Literal["fr_fcfs", "fr_fcfs_unprotected", "fcfs"]
Page = Literal["open", "closed"]
Refresh = Literal["all_bank", "per_bank", "none"]
_PROGRESS_BYTES = 32 << 20  # a bar is shown from this size of file on


@app.command()
@guarded
def run(
    trace: Annotated[Path, typer.Argument(help="CSV `cycle,address,rw`, 64-byte requests; 0x.. or decimal addresses.")],
    standard: Annotated[str, typer.Option(help="See `tilewright dram list`; NAME:SPEED picks a speed grade.")],
    mode: Annotated[
        Mode, typer.Option(help="asap: as fast as accepted; timed: not before its cycle; chain: one after another.")
    ] = "asap",
    mapping: Annotated[
        str | None,
        typer.Option(help="bgi, rbc, robaracoch, mop4clxor, or fields from the lowest: channel,column:2,.."),
    ] = None,
    scheduler: Annotated[Scheduler | None, typer.Option(help="fr_fcfs protects older row hits.")] = None,
    page: Annotated[Page | None, typer.Option(help="Whether rows stay open.")] = None,
    refresh: Annotated[Refresh | None, typer.Option(help="What is refreshed at once.")] = None,
    channels: Annotated[int | None, typer.Option(help="Number of channels.")] = None,
    row_hit_cap: Annotated[int | None, typer.Option(help="Hits while another row waits; 0: no limit.")] = None,
    read_queue: Annotated[int | None, typer.Option(help="Bursts a pseudo-channel.")] = None,
    write_queue: Annotated[int | None, typer.Option(help="Bursts a pseudo-channel.")] = None,
    outstanding: Annotated[int | None, typer.Option(help="Reads on their way, a pseudo-channel.")] = None,
    fifo_depth: Annotated[
        int | None, typer.Option(help="Bursts in front of a pseudo-channel; a full FIFO holds up all. 0: unbounded.")
    ] = None,
    commands: Annotated[Path | None, typer.Option(help="Write the DRAM commands as CSV.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Prove that the commands keep the standard's rules.")] = False,
    export_ramulator: Annotated[Path | None, typer.Option(help="Write the requests as a load/store trace.")] = None,
    as_json: Json = False,
) -> None:
    """Serve a request trace, and say what limited it.

    tilewright dram run --standard hbm2 trace.csv

    tilewright dram run --standard ddr4:3200AA --mode timed --mapping rbc --commands out.csv --check trace.csv
    """
    check_writable("--commands", commands, [trace])
    check_writable("--export-ramulator", export_ramulator, [trace, *([commands] if commands else [])])
    overrides = {
        "map": _address_map(mapping), "scheduler": scheduler, "page": page, "refresh": refresh, "channels": channels,
        "row_hit_cap": row_hit_cap, "read_queue": read_queue, "write_queue": write_queue,
        "outstanding_reads": outstanding, "fifo_depth": fifo_depth,
    }  # fmt: skip
    given = {name: value for name, value in overrides.items() if value is not None}
    finished = _serve(trace, standard, mode, commands is not None or check, given)
    if commands:
        _write_commands(commands, finished)
    if export_ramulator:
        _write_load_store(export_ramulator, _requests(trace, finished.spec), finished.spec.burst_bytes)
    violations = _violations(finished) if check else None
    told = finished.to_dict() | ({} if violations is None else {"violations": violations})
    if as_json:
        put_json(told)
    else:
        put_run(trace, told)
    for path in filter(None, (commands, export_ramulator)):
        say(f"wrote {path}")
    if violations:
        raise typer.Exit(UNEXPECTED)


def _serve(trace: Path, standard: str, mode: Mode, keep_commands: bool, overrides: dict[str, Any]) -> "DramRun":
    from analysis.cache import use_kernel_cache

    folder = use_kernel_cache()
    from analysis.dram.report import run_requests
    from analysis.running import compile_kernels, kernels_compiled
    from dataflow.memory import default_spec

    spec = default_spec(standard, **overrides)
    if not kernels_compiled():
        say(f"compiling kernels (once; cached in {folder})")
        compile_kernels()
    return run_requests(standard, _requests(trace, spec), mode, keep_commands, **overrides)


def _requests(trace: Path, spec: "DramSpec") -> "Iterator[Requests]":
    from analysis.dram.report import capacity_bytes
    from workloads.request_trace import read_requests

    return read_requests(trace, capacity_bytes(spec), _open_with_progress)


def _open_with_progress(path: Path) -> AbstractContextManager[BinaryIO]:
    """The file; how much of it is served is shown on a terminal."""
    if not sys.stderr.isatty() or path.stat().st_size < _PROGRESS_BYTES:
        return path.open("rb")
    from rich.console import Console
    from rich.progress import open as open_with_bar

    return open_with_bar(path, "rb", description=path.name, console=Console(stderr=True), transient=True)


def _address_map(text: str | None) -> str | tuple[str, ...] | None:
    """A name, or the fields from the lowest."""
    if text is None or ("," not in text and ":" not in text):
        return text.lower() if text else text
    return tuple(field.strip() for field in text.split(","))


def _write_commands(path: Path, finished: "DramRun") -> None:
    from analysis.dram.report import write_commands
    from analysis.writing import replacing

    with replacing(path) as scratch:
        write_commands(scratch, finished.result.trace, finished.spec)


def _write_load_store(path: Path, requests: "Iterator[Requests]", burst_bytes: int) -> int:
    from analysis.writing import replacing
    from workloads.request_trace import write_load_store

    with replacing(path) as scratch:
        return write_load_store(scratch, requests, burst_bytes)


def _violations(finished: "DramRun") -> list[str]:
    from sim.dram.checker import check_commands

    end = int(finished.result.cycles * finished.spec.edges)
    return [str(violation) for violation in check_commands(finished.spec, finished.result.trace, end)]


def put_run(trace: Path, told: dict[str, Any]) -> None:
    """The run as tables and sentences on stdout."""
    latency, where = told["read_latency_cycles"], told["configuration"]
    percentiles = ", ".join(f"{name} {value}" for name, value in latency.items())
    rows = [
        ("time", f"{told['latency_s'] * 1e6:,.3f} us  ({told['cycles']:,.10g} memory cycles)"),
        ("bandwidth", f"{told['bandwidth_bytes_per_s'] / 1e9:.2f} GB/s of {told['peak_bytes_per_s'] / 1e9:.2f}"),
        ("share of peak", f"{told['share_of_peak']:.1%}"),
        ("row hits", f"{told['row_hit_rate']:.1%}"),
        ("read latency, cycles", f"mean {told['mean_read_latency_cycles']:.1f}, {percentiles}"),
        ("energy", f"{told['energy_j'] * 1e6:,.3f} uJ"),
    ]
    parts = told["energy_j_by_component"].items()
    rows += [(f"  {name}", f"{joules * 1e6:,.3f} uJ" if joules else "-") for name, joules in parts]
    put_table(f"{trace.name}: {told['requests']:,} requests to {where['standard']} {where['speed']}", ["", ""], rows)
    busy = [("moving data", f"{max(0.0, 1 - sum(told['limited_by'].values())):.1%}")]
    lost = [(name.replace("_", " "), f"{share:.1%}") for name, share in told["limited_by"].items() if share >= 0.0005]
    if lost:
        put_table("Time of the data buses, and what kept them idle", ["", "of the time"], busy + lost)
    put_text(f"Limited by: {told['limit']}.")
    put_text(f"Source: {told['source']}; {_stand_in(told['nearest_preset'])}address map {where['address_map']}.")
    put_text(f"Energy: {told['energy_source']}. Left out: {told['left_out'][-1].removeprefix('energy: ')}.")
    for note in told["notes"]:
        put_text(f"Note: {note}.")
    for violation in told.get("violations", ()):
        put_text(f"Violation: {violation}")
    if "violations" in told and not told["violations"]:
        put_text("Checked: the commands keep every rule of the standard.")


def _stand_in(preset: str | None) -> str:
    return f"no public source holds this part, nearest preset {preset}; " if preset else ""


@app.command("list")
@guarded
def list_standards(as_json: Json = False) -> None:
    """The DRAM standards, as `tilewright dram run` configures them.

    tilewright dram list
    """
    from accel.machine import standard_names

    standards = {name: _about(name) for name in standard_names()}
    if as_json:
        put_json({"standards": standards})
        return
    head = ["name", "peak GB/s", "clock MHz", "channels", "banks", "row, burst bytes", "speeds, default first"]
    put_table("DRAM standards", head, [_row(name, about) for name, about in standards.items()])
    put_table("Sources", ["", ""], [(name, _source(about)) for name, about in standards.items()])


def _about(name: str) -> dict[str, Any]:
    from accel.machine import load_standard
    from dataflow.memory import default_memory, peak_bytes_per_s

    standard = load_standard(name)
    memory = default_memory(standard)
    return {
        "peak_bytes_per_s": peak_bytes_per_s(memory, standard),
        "clock_hz": standard.clock_hz,
        "channels": memory.channels,
        "speeds": list(standard.speed_names),
        "organisation": standard.organisation.model_dump(),
        "address_map": memory.address_map,
        "source": standard.source,
        "nearest_preset": standard.nearest_preset,
    }


def _row(name: str, about: dict[str, Any]) -> tuple[str, ...]:
    o = about["organisation"]
    return (
        name,
        f"{about['peak_bytes_per_s'] / 1e9:.1f}",
        f"{about['clock_hz'] / 1e6:.0f}",
        f"{about['channels']} x {o['pseudo_channels']}",
        f"{o['bank_groups']} x {o['banks_per_group']}",
        f"{o['row_bytes']}, {o['burst_bytes']}",
        " ".join(about["speeds"]),
    )


def _source(about: dict[str, Any]) -> str:
    return about["source"] + (f"; nearest preset: {about['nearest_preset']}" if about["nearest_preset"] else "")
