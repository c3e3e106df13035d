"""`tilewright sweep`: many points, the Pareto front, and a report."""

from pathlib import Path
from typing import Annotated, Any

import typer

from analysis.console import FAILED_POINTS, Json, ProgressBar, guarded, put_json, put_table, put_text, say


@guarded
def sweep(
    file: Annotated[str, typer.Argument(help="A sweep file, or the name of a shipped example.")],
    out: Annotated[Path | None, typer.Option(help="Folder for results; default ./<sweep name>.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; default: one per core.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Simulate again what the store knows.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first N points.")] = None,
    as_json: Json = False,
) -> None:
    """Simulate every point of a sweep; print and write what it found.

    tilewright sweep spatten_minilm

    tilewright sweep my.yaml --out results/my --workers 8

    Known points come from the store in your cache folder, so the same command after an interruption goes on
    where it stopped.  Exit status 3: some points failed; their reasons are in results.parquet.
    """
    from analysis.findings import find
    from analysis.replays import fidelity
    from analysis.running import crew_for, run_sweep
    from analysis.sweep import read_sweep

    written = read_sweep(file)
    folder = out or Path(written.name)
    folder.mkdir(parents=True, exist_ok=True)
    with crew_for(written, workers=workers) as crew:
        with ProgressBar(written.name) as bar:
            done = run_sweep(written, crew=crew, fresh=fresh, limit=limit, progress=bar.update, say=bar.say)
        findings = find(done)
        findings.begin(crew)
        write_all(findings, folder)
    if as_json:
        put_json({"out": str(folder), "computed": done.computed, **findings.to_dict(), "fidelity": fidelity(findings)})
    else:
        put_findings(findings, folder)
    for reason in dict.fromkeys(done.failures.values()):
        count = sum(reason == other for other in done.failures.values())
        say(f"{count} of {len(done.keys)} points failed: {reason}")
    if done.failures:
        raise typer.Exit(FAILED_POINTS)


def write_all(findings: Any, folder: Path) -> None:
    """`results.parquet`, the figures and `report.html`."""
    from analysis.plots import write_figures
    from analysis.report import write_report
    from analysis.results import write_results

    write_results(findings.run, folder / "results.parquet")
    figures = write_figures(findings, folder)
    write_report(findings, figures, folder / "report.html")


def put_findings(findings: Any, folder: Path) -> None:
    """Pareto table, quality, effect of each axis, comparison."""
    from analysis import replays, tables

    put_table("Pareto front", *tables.front_table(findings))
    if quality := replays.fidelity_rows(findings):
        title = "What pruning costs in quality: cosine with the dense sentence embedding"
        put_table(title, replays.FIDELITY_HEAD, quality)
    put_table("What each axis changes", *tables.compact_effect_table(findings))
    for axis in findings.weak_axes:
        say(f"warning: {axis} moves no objective by 2 % anywhere")
    put_table("Beside the baselines", *tables.compared_table(findings))
    for note in findings.notes:
        say(f"not compared: {note}")
    put_text(f"wrote {folder}/results.parquet, {folder}/report.html and the figures beside them")
