"""`tilewright dram make` and `export`: files of requests."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from analysis.commands.points import Policies, Settings, assignments
from analysis.console import Json, guarded, put_json, put_text
from analysis.writing import check_writable

Kind = Literal["sequential", "strided", "random", "gather", "planes", "mixed", "mixed_random", "chase"]


@guarded
def make(
    kind: Annotated[Kind, typer.Argument(help="What the requests look like.")],
    out: Annotated[Path | None, typer.Option(help="The file; default ./<kind>.csv.")] = None,
    requests: Annotated[int, typer.Option(help="How many.")] = 100_000,
    seed: Annotated[int, typer.Option(help="Of all that is random.", min=0)] = 0,
    rate: Annotated[float, typer.Option(help="Requests a memory cycle, for --mode timed; 0: all at 0.")] = 0.0,
    footprint_bytes: Annotated[int | None, typer.Option(help="Random addresses lie below it.")] = None,
    stride_bytes: Annotated[int | None, typer.Option(help="strided: from request to request.")] = None,
    row_bytes: Annotated[int | None, typer.Option(help="gather, planes: one K or V vector, or a plane of it.")] = None,
    tokens: Annotated[int | None, typer.Option(help="gather, planes: length of the sequence.")] = None,
    heads: Annotated[int | None, typer.Option(help="gather, planes: heads of a layer.")] = None,
    keep: Annotated[float | None, typer.Option(help="gather, planes: share of the tokens kept.")] = None,
    again: Annotated[float | None, typer.Option(help="planes: share of kept tokens whose low bits are read.")] = None,
    write_share: Annotated[float | None, typer.Option(help="mixed, mixed_random: share of writes.")] = None,
    as_json: Json = False,
) -> None:
    """Write a request trace.

    tilewright dram make gather --keep 0.25 --requests 100000 --out gather.csv
    """
    from analysis.writing import replacing
    from workloads.request_streams import make as make_stream
    from workloads.request_trace import write_requests

    shape = {
        "footprint_bytes": footprint_bytes, "stride_bytes": stride_bytes, "row_bytes": row_bytes, "tokens": tokens,
        "heads": heads, "keep": keep, "again": again, "write_share": write_share,
    }  # fmt: skip
    path = out or Path(f"{kind}.csv")
    check_writable("--out", path)
    given = {name: value for name, value in shape.items() if value is not None}
    with replacing(path) as scratch:
        count = write_requests(scratch, make_stream(kind, requests, seed, rate, **given))
    _put_written(path, count, "requests", as_json)


def _put_written(path: Path, count: int, what: str, as_json: bool) -> None:
    if as_json:
        put_json({"path": str(path), what: count})
    else:
        put_text(f"wrote {count} {what} to {path}")


@guarded
def export(
    machine: Annotated[str, typer.Option(help="A shipped machine or a YAML file.")],
    workload: Annotated[str, typer.Option(help="A shipped workload, a trace file or a released CSV.")],
    out: Annotated[Path, typer.Option(help="The file: .csv for `tilewright dram run`, else Ramulator 2's load/store.")],
    settings: Settings = None,
    policies: Policies = None,
    as_json: Json = False,
) -> None:
    """Write what a machine asks of its DRAM, in the order of its plan.

    tilewright dram export --machine spatten --workload minilm --out spatten.trace

    tilewright dram export --machine spatten --workload minilm --policy token_keep=0.5 --out spatten.csv
    """
    check_writable("--out", out)
    from analysis.cache import use_kernel_cache

    use_kernel_cache()
    from analysis.dram.export import export_requests
    from analysis.writing import replacing

    names = ("--set", "--policy")
    with replacing(out) as scratch:
        count = export_requests(
            machine, workload, assignments(settings), assignments(policies), scratch, out.suffix == ".csv", names
        )
    _put_written(out, count, "requests" if out.suffix == ".csv" else "bursts", as_json)
