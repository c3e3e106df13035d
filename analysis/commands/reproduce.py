"""`tilewright reproduce`: a paper's tables and figures beside ours, row by row."""

import csv
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from analysis.console import Json, ProgressBar, guarded, put_json, put_table, put_text

Paper = Annotated[Literal["spatten"], typer.Argument(help="Whose tables.")]


@guarded
def reproduce(
    paper: Paper,
    only: Annotated[str, typer.Option(help="Print the rows whose name begins so, e.g. table3.")] = "",
    intervals: Annotated[bool, typer.Option(help="Vary each assumption over its range; longer.")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write all rows to this CSV file.")] = None,
    page: Annotated[Path | None, typer.Option(help="A page whose tables are made anew.", hidden=True)] = None,
    first_contact: Annotated[bool, typer.Option("--first-contact", hidden=True)] = False,
    as_json: Json = False,
) -> None:
    """Simulate all of a paper's figures and print them beside what it printed.

    tilewright reproduce spatten

    tilewright reproduce spatten --only table3 --no-intervals

    Every row has a role, fixed before the model was written: input (fed in), identity (follows from inputs by
    arithmetic), anchor (fits a parameter), prediction. Only predictions are scored. "first" is the first run ever,
    unedited; "range" is what the assumed numbers leave open; "as released" is the other DRAM configuration.
    Simulated points stay in your cache folder: an interrupted run goes on, a second one is quick.
    """
    from analysis.cache import use_kernel_cache

    use_kernel_cache()
    from analysis.reproduce.published import write_first_contact
    from analysis.reproduce.table import reproduce_spatten
    from analysis.reproduce.views import markdown, sensitivity_markdown
    from analysis.running import cores
    from analysis.writing import put_on_page

    check_beginning(paper, only)
    with ProgressBar(paper) as bar:
        done = reproduce_spatten(workers or cores(), lambda n, total: bar.update(n, total, 0), intervals)
    rows = [row for row in done.rows() if row["id"].startswith(only)]
    if out:
        _write(out, rows)
    if page:
        put_on_page(page, markdown(done.rows()), "spatten")
        put_on_page(page, sensitivity_markdown(done.sensitivity), "sensitivity")
    if first_contact:
        ids = list(dict.fromkeys(name for values in done.ours.values() for name in values))
        values = {name: {c: ours[name] for c, ours in done.ours.items() if name in ours} for name in ids}
        put_text(f"wrote {write_first_contact(paper, values)}")
    if as_json:
        put_json({"rows": rows, "sensitivity": done.sensitivity})
    else:
        _put(rows, done.sensitivity)


def check_beginning(paper: str, only: str) -> None:
    """Raises ValueError where no row's name begins so: before anything is simulated."""
    from analysis.reproduce.published import read_published

    ids = [one.id for one in read_published(paper)]
    if not any(name.startswith(only) for name in ids):
        known = sorted({name.split(".")[0] for name in ids})
        near = get_close_matches(only, [*ids, *known], 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"--only: must begin a row's name ({', '.join(known)}), got {only!r}{hint}")


def _write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    from analysis.writing import replacing

    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _put(rows: Sequence[dict[str, Any]], sensitivity: Sequence[dict[str, Any]]) -> None:
    from analysis.reproduce.views import HEAD, cells, sensitivity_cells

    put_table("Published and ours", HEAD, map(cells, rows))
    for key, name in (("within", "spatten"), ("within_as_released", "spatten_as_released")):
        scored = [row[key] for row in rows if row[key] is not None]
        put_text(f"{name}: {sum(scored)} of {len(scored)} predictions lie within their tolerance")
    if sensitivity:
        put_table("What each assumption moves", *sensitivity_cells(sensitivity))
