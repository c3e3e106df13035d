"""`tilewright kernels`: numerics and times of our CUDA kernels on this computer's GPU; tables of a record."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.console import FAILED_POINTS, Json, ProgressBar, guarded, put_json, put_table, say

app = typer.Typer(no_args_is_help=True, help="Our CUDA kernels: numerics and times on the GPU of this computer.")
Out = Annotated[Path | None, typer.Option(help="Also write the record (JSON) to this file.")]
Commit = Annotated[str | None, typer.Option(help="Commit for the record, where git cannot tell.", metavar="HASH")]


@app.command()
@guarded
def check(
    kernel: Annotated[list[str] | None, typer.Option(help="Only this kernel's folder; repeat. Default: all.")] = None,
    out: Out = None,
    commit: Commit = None,
    as_json: Json = False,
) -> None:
    """Compare every kernel with its model, bit for bit where it is exact, on random and adversarial operands.

    tilewright kernels check

    tilewright kernels check --kernel w4a8_gemm --out check.json

    Needs the extra `gpu` and a CUDA device (exit status 2 without). Exit status 3 if a case is wrong. Outputs are
    poisoned before; the record is what the CPU tests replay.
    """
    from gpu_kernels import check as checks
    from gpu_kernels import record

    _ready(out)
    some = checks.for_this_gpu(checks.chosen(kernel or ()))
    with ProgressBar("numerics", "cases") as bar:
        rows = checks.run_checks(some, lambda row, done, of: _told(bar, row, done, of))
    if out:
        record.write(checks.full_record(some, rows, commit), out)
        say(f"wrote {out}")
    if as_json:
        put_json({"rows": [{name: x for name, x in row.items() if name != "outputs"} for row in rows]})
    else:
        put_check(rows)
    if any(row["fault"] for row in rows):
        raise typer.Exit(FAILED_POINTS)


def _told(bar: ProgressBar, row: Mapping[str, Any], done: int, total: int) -> None:
    result = row["fault"] or "ok"
    bar.say(
        f"{row['kernel']}  {row['case']['name']}  {result}  (GPU {row['gpu_s']:.2f} s, model {row['model_s']:.2f} s)"
    )
    bar.update(done, total)


def put_check(rows: Sequence[Mapping[str, Any]]) -> None:
    """How many cases of each kernel are right, then those that are not."""
    names = list(dict.fromkeys(row["kernel"] for row in rows))
    table = []
    for name in names:
        mine = [row for row in rows if row["kernel"] == name]
        exact = sum(all("kept" not in x and "too_large" not in x for x in row["outputs"].values()) for row in mine)
        wrong = sum(bool(row["fault"]) for row in mine)
        table.append([name, str(len(mine)), str(exact), str(wrong)])
    put_table("Kernels against their models", ["kernel", "cases", "equal in every byte", "wrong"], table)
    if wrong_rows := [row for row in rows if row["fault"]]:
        body = [[row["kernel"], row["case"]["name"], row["fault"]] for row in wrong_rows]
        put_table("Wrong", ["kernel", "case", ""], body)


@app.command()
@guarded
def bench(
    part: Annotated[
        str | None, typer.Option(help="ceilings, gemm, attention, layer, activations, ablations; with commas between.")
    ] = None,
    out: Out = None,
    commit: Commit = None,
    as_json: Json = False,
) -> None:
    """Time our kernels beside torch's and beside what the card can do; about five minutes for all parts on an H200.

    tilewright kernels bench --out bench.json

    tilewright kernels bench --part gemm,attention

    Every contender is checked before it is timed, in CUDA graphs over operands larger together than the L2; medians of
    five replays. Floors come from ceilings measured in the same run. Columns with * were recorded on another card and
    are scaled. The record is written after every row: an interrupted run keeps what it has.
    """
    from gpu_kernels.bench.suite import chosen_parts, run_bench

    _ready(out)
    parts = chosen_parts(part)
    with ProgressBar("bench", "rows") as bar:
        found = run_bench(parts, out, commit, lambda done, total, text: bar.update(done, total))
    if out:
        say(f"wrote {out}")
    put_record(found, as_json)


@app.command()
@guarded
def show(
    file: Annotated[Path, typer.Argument(help="A record that `check` or `bench` wrote.")], as_json: Json = False
) -> None:
    """The tables of a record; needs no GPU and no torch.

    tilewright kernels show bench.json
    """
    from gpu_kernels import check as checks
    from gpu_kernels import record
    from gpu_kernels.bench.suite import FORMAT

    found = record.read(file, checks.FORMAT, FORMAT)
    put_record(found, as_json)


def put_record(found: Mapping[str, Any], as_json: bool) -> None:
    """A record of either kind on stdout: whole as JSON, else as tables."""
    from gpu_kernels.bench.suite import FORMAT
    from gpu_kernels.bench.tables import tables

    if as_json:
        put_json(found)
    elif found["format"] == FORMAT:
        for title, head, rows in tables(found):
            put_table(title, head, rows)
    else:
        put_table("Run", ["", ""], [[name, str(found[name])] for name in ("device", "driver", "date", "commit")])
        put_check(found.get("rows", []))


def _ready(out: Path | None) -> None:
    import cuda.core  # noqa: F401  # asked for first: its absence tells the extra that has torch too

    from analysis.cache import use_kernel_cache
    from analysis.writing import check_writable

    use_kernel_cache()
    check_writable("--out", out)
