"""`tilewright calibrate`: GPU models for the GPU of this computer."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.console import Json, guarded, put_json, put_table, say

if TYPE_CHECKING:
    from analysis.gpu.calibrate import Fitted


@guarded
def calibrate(
    out: Annotated[Path, typer.Option(help="The machine file to write; its fit goes beside it, as NAME.fit.yaml.")],
    record: Annotated[Path | None, typer.Option(help="Fit this record; nothing is measured.")] = None,
    machine: Annotated[
        str | None, typer.Option(help="The data sheet to start from. Default: the shipped GPU of that name.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A few points of each part: a trial, no calibration.")] = False,
    commit: Annotated[str | None, typer.Option(help="Commit for the record, where git cannot tell.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that exist.")] = False,
    as_json: Json = False,
) -> None:
    """Measure the GPU of this computer, fit the kernel models to it, and judge them by points that were held out.

    tilewright calibrate --out my_gpu.yaml

    tilewright calibrate --record gpu_kernels/results/calibration_h200.json --out again.yaml   (no GPU needed)

    tilewright predict gemm --m 64 --n 4096 --k 4096 --machine my_gpu.yaml

    Takes about five minutes, with a load on the card all the while. Ceilings, library products, our kernels, attention,
    memory-bound kernels, copies, host, power and the profiler's counters of bytes go into NAME.record.json, which is on
    disk every few seconds. What is held out was settled beforehand: whole sizes of layers and numbers of tokens, whole
    head configurations and contexts. Measuring needs the extra `gpu`, fitting the extra `fit`.
    """
    from analysis.gpu.calibrate import calibrate as fitted
    from analysis.gpu.calibrate import read_calibration

    kept = record or out.with_suffix(".record.json")
    _check(out, kept if record is None else None, force)
    found = _measured(kept, quick, commit) if record is None else read_calibration(record)
    sheet = _sheet(machine, found)
    result = fitted(found, kept.name, sheet, out, lambda text: say(f"fitting {text}"))
    _put(out, result, as_json)


def _check(out: Path, kept: Path | None, force: bool) -> None:
    from analysis.writing import check_writable

    if out.suffix not in (".yaml", ".yml"):
        raise ValueError(f"--out: must end in .yaml, got {out}")
    check_writable("--out", out)
    taken = [path for path in (out, out.with_suffix(".fit.yaml"), kept) if path and path.exists()]
    if taken and not force:
        raise ValueError(f"--out: {', '.join(map(str, taken))}: exists; --force replaces it")


def _measured(kept: Path, quick: bool, commit: str | None) -> dict[str, Any]:
    import cuda.core  # noqa: F401  # asked for first: its absence tells the extra that has torch too

    from analysis.cache import use_kernel_cache
    from gpu_kernels.bench.calibration.suite import PARTS, run_calibration

    use_kernel_cache()
    found = run_calibration(PARTS, kept, commit, quick, say)
    say(f"wrote {kept}")
    return found


def _sheet(machine: str | None, record: Mapping[str, Any]) -> Path:
    from accel.gpu.machine import GpuMachine
    from accel.machine import find_machine, load_machine, machine_names
    from analysis.gpu.device_file import resembling

    if machine is None:
        loaded = {name: load_machine(name) for name in machine_names()}
        gpus = {name: one for name, one in loaded.items() if isinstance(one, GpuMachine)}
        machine = resembling(gpus, record)
        if machine is None:
            raise ValueError(
                f"--machine: no data sheet of {record['device']!r} is shipped; copy the nearest of {', '.join(gpus)} "
                "(tilewright machine copy), put its numbers in and name the file here"
            )
    return find_machine(machine)


def _put(out: Path, result: "Fitted", as_json: bool) -> None:
    say(f"wrote {out} and {out.with_suffix('.fit.yaml')}")
    if as_json:
        errors = {kind: one.model_dump() for kind, one in result.errors.items()}
        put_json({"machine": str(out), "error": errors, "missing": result.missing})
        return
    rows = [
        (kind, f"{one.mean:.1%}", f"{one.p90:.1%}", f"{one.bias:+.1%}", str(one.points))
        for kind, one in sorted(result.errors.items())
    ]
    put_table("Held-out points", ["class", "mean error", "90th percentile", "bias", "points"], rows)
    if result.missing:
        put_table("Not fitted", ["", "why"], sorted(result.missing.items()))
