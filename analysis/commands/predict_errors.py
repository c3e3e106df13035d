"""`tilewright predict errors`: how far the GPU models are off, by class and device."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from analysis.console import Json, guarded, put_json, put_table, say

if TYPE_CHECKING:
    from analysis.gpu.report import Line, Record


@guarded
def errors(
    machine: Annotated[
        str | None, typer.Option(help="A GPU, shipped or a YAML file that calibrate wrote. Default: all that ship.")
    ] = None,
    record: Annotated[
        list[Path] | None,
        typer.Option(help="Calibration records, that of the fit first, then one of another machine. Default: ours."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for parity plots and the table as JSON.")] = None,
    page: Annotated[
        Path | None, typer.Option(help="Page whose tables between comments (errors, devices) are replaced.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Errors of the GPU models by class, on points that were not fitted; calibrated, anchored (leave one out), blind.

    tilewright predict errors

    tilewright predict errors --machine my_gpu.yaml --record my_gpu.record.json --out parity

    mean / p90: of |predicted - measured| / measured, in per cent; bias: signed mean; scaled: with the median ratio of
    that run's other points taken out; second machine: another H200, with the same fit.
    """
    from analysis.gpu import report

    _check(out, page)
    known = report.load_records(record or ())
    lines = _lines(machine, known, bool(record))
    if out:
        _write(out, machine or "h200", lines, known)
    if page:
        _put_on_page(page, lines, known)
    if as_json:
        put_json({"classes": [line.to_dict() for line in lines]})
        return
    put_table("Calibrated, errors in per cent", report.HEAD, report.calibrated_rows(lines))
    published = report.published_rows(lines)
    if published:
        put_table("Beside published numbers, errors in per cent", report.PUBLISHED_HEAD, published)


def _check(out: Path | None, page: Path | None) -> None:
    if out and out.exists() and not out.is_dir():
        raise ValueError(f"--out: must be a folder, got {out}")
    if page and not page.is_file():
        raise ValueError(f"--page: must be a page that exists, got {page}")


def _lines(machine: str | None, records: Sequence["Record"], given: bool) -> list["Line"]:
    from analysis.gpu import report
    from analysis.gpu.ask import gpu

    if machine is None:
        return report.shipped_report(records)
    one = gpu(machine)
    ours = given or one.name == "h200"
    if given:
        _same(one.architecture, one.multiprocessors, records)
    lines = report.report(one, records if ours else ())
    return lines + [line for line in report.anchored_lines() if line.machine == one.name]


def _same(architecture: str, multiprocessors: int, records: Sequence["Record"]) -> None:
    """Raises ValueError where a record is of another kind of GPU."""
    for one in records:
        if (str(one["architecture"]).rstrip("a"), one["multiprocessors"]) != (architecture, multiprocessors):
            here = f"{one['device']} ({one['architecture']}, {one['multiprocessors']} multiprocessors)"
            raise ValueError(f"--record: must be of {architecture} with {multiprocessors} multiprocessors, got {here}")


def _write(folder: Path, machine: str, lines: Sequence["Line"], records: Sequence["Record"]) -> None:
    """`errors.json`, and a picture of each record."""
    import json

    from analysis.gpu.ask import gpu
    from analysis.gpu.parity_plot import plot_parity
    from analysis.gpu.report import drawn

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "errors.json").write_text(json.dumps([line.to_dict() for line in lines], indent=1) + "\n", "utf-8")
    for number, record in enumerate(records, 1):
        path = folder / ("parity.png" if number == 1 else f"parity_{number}.png")
        plot_parity(drawn(gpu(machine), record), path, f"{record['device']}, {record['date'][:10]}")
        say(f"wrote {path}")


def _put_on_page(page: Path, lines: Sequence["Line"], records: Sequence["Record"]) -> None:
    from analysis.gpu.error_page import device_text, error_text
    from analysis.writing import put_on_page

    put_on_page(page, device_text(), "devices")
    put_on_page(page, error_text(lines, records), "errors")
    say(f"wrote {page}")


def add_to(app: Any) -> None:
    """As a subcommand of `tilewright predict`."""
    app.command()(errors)
