"""Record a plan of models, each in a process of its own, within a budget of time.

    python -m workloads.timing.recording --out FOLDER --plan default --budget-s 500 --commit HASH

Writes `<label>.json.gz` after each part of each model and `<label>.trace.zip` at its end (the exporter's trace, with
the times in it), `summary.json` and, if asked for, everything in one .tar file.  All models are timed eagerly before
the first is compiled.  What a record has already is skipped; a model that crashes, hangs past --limit-s or fails leaves
its reason, and the next one starts.
"""

import argparse
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from workloads.timing.isolation import CANNOT_FORK, run_isolated
from workloads.timing.model import missing
from workloads.timing.plan import PLANS, Job, jobs_of, sweeps
from workloads.timing.record import SUFFIX, read_record, timed_trace, write_record

LEAST_S = 10.0  # no model is started with less left
_LIBRARIES = {  # name: classes that it loads late
    "torch._dynamo": (),
    "workloads.export.recorder": (),
    "transformers": ("BertModel", "GPT2LMHeadModel", "LlamaForCausalLM", "Qwen2ForCausalLM"),
    "diffusers.models": (
        *("AutoencoderDC", "FluxTransformer2DModel", "PixArtTransformer2DModel", "SanaTransformer2DModel"),
    ),
}
Runner = Callable[[Job, "Setting"], None]


@dataclass(frozen=True)
class Setting:
    """Where records go and what they are made with. isolate: "fork", "spawn", or "none" (this process)."""

    out: Path
    device: str = "cuda"
    commit: str = ""
    compiling: bool = True
    traces: bool = True
    isolate: str = "fork"
    limit_s: float = 150.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 where a model left no complete record, 2 for a wrong plan."""
    given = _parser().parse_args(arguments)
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # asking for a GPU must not touch CUDA before a fork
    begin = time.monotonic()
    try:
        jobs = jobs_of(given.plan)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    _preload()
    log(f"libraries loaded in {time.monotonic() - begin:.1f} s")
    setting = Setting(
        given.out, given.device, given.commit, not given.no_compile, not given.no_traces, given.isolate, given.limit_s
    )
    chosen = [job for job in sweeps(jobs) if setting.compiling or "compiled" not in job.parts]
    summary = record_plan(chosen, setting, given.budget_s - (time.monotonic() - begin), bundle=given.bundle)
    for line in table(summary):
        print(line, flush=True)
    bad = ("failed", "stopped", "not started")
    return int(any(status in bad for row in summary for status in row["status"].split(", ")))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="workloads.timing.recording", description="time models of the zoo")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records")
    parser.add_argument("--plan", default="default", help=f"{', '.join(PLANS)}, or names with commas between")
    parser.add_argument("--smoke", dest="plan", action="store_const", const="smoke", help="the same as --plan smoke")
    parser.add_argument("--budget-s", type=float, default=3600.0, help="seconds for everything")
    parser.add_argument("--limit-s", type=float, default=150.0, help="seconds for one model")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--commit", default="", help="of this source, for the records")
    parser.add_argument("--bundle", type=Path, help="a .tar file that is renewed with all results after each model")
    parser.add_argument("--isolate", default="fork", choices=("fork", "spawn", "none"))
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--no-traces", action="store_true", help="records only")
    return parser


def log(text: str) -> None:
    """A line with the time of day, at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def _preload() -> None:
    """Libraries, once for all children. Nothing here may touch CUDA."""
    for module, names in _LIBRARIES.items():
        try:
            loaded = import_module(module)
            for name in names:
                getattr(loaded, name)
        except Exception as error:  # models that need it will say so
            log(f"{module}: {type(error).__name__}: {error}")


def record_plan(
    jobs: Sequence[Job], setting: Setting, budget_s: float, runner: Runner | None = None, bundle: Path | None = None
) -> list[dict[str, Any]]:
    """Record the jobs in order; rows of label, status, seconds and what the record says in short.

    status   by part of the plan, joined: "recorded", "there" (before), "failed", "stopped" (out of time), "not started"
    """
    end = time.monotonic() + budget_s
    setting.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, dict[str, Any]] = {}
    how = setting.isolate
    for job in jobs:
        begin = time.monotonic()
        limit = min(setting.limit_s, end - begin)
        status = "there" if is_complete(setting, job) else "not started" if limit < LEAST_S else ""
        if not status:
            log(f"{job.label} begins ({', '.join(job.parts)}), {end - begin:.0f} s left")
            status, how = _run(runner or record_job, job, setting, limit, how)
        summary[job.label] = _row(job, setting, status, time.monotonic() - begin, summary.get(job.label))
        log(f"{job.label}: {status} after {time.monotonic() - begin:.1f} s")
        (setting.out / "summary.json").write_text(json.dumps([*summary.values()], indent=1, sort_keys=True) + "\n")
        if bundle is not None:
            _pack(setting.out, bundle)
    return [*summary.values()]


def _run(runner: Runner, job: Job, setting: Setting, limit_s: float, how: str) -> tuple[str, str]:
    """Status of the job, and how the next one should be isolated."""
    call = partial(_attempt, runner, job, setting)
    status = run_isolated(call, limit_s, how)
    if status == CANNOT_FORK and how == "fork":
        log("CUDA was touched before the fork; processes are spawned from now on")
        how, status = "spawn", run_isolated(call, limit_s, "spawn")
    if status is None:
        note(setting, job, f"stopped after {limit_s:.0f} s")
        return "stopped", how
    if status:
        note(setting, job, f"the process ended with status {status}")
    return ("recorded" if is_complete(setting, job) else "failed"), how


def _attempt(runner: Runner, job: Job, setting: Setting) -> int:
    """Run the job; a failure is logged and noted, and gives the exit status."""
    try:
        runner(job, setting)
    except Exception as error:
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
        log(f"{job.label}: {text}")
        if "forked subprocess" in text:
            return CANNOT_FORK
        note(setting, job, text)
        return 1
    return 0


def record_job(job: Job, setting: Setting) -> None:
    """Build, time and export one model on the device."""
    from workloads.timing.model import built, time_stages
    from workloads.zoo.registry import Place

    begin = time.monotonic()
    tell = partial(_tell, begin)
    stages, about = built(job.name, job.options, Place(setting.device, job.format))
    tell("built")
    record = time_stages(
        job.label,
        stages,
        about,
        setting.device,
        parts=job.parts,
        commit=setting.commit,
        log=tell,
        save=partial(_save, _file(setting, job)),
        known=_known(_file(setting, job)),
    )
    if setting.traces and "rows" in record:
        _write_trace(job, setting, stages, about, record)
        tell("trace")


def _save(file: Path, record: Any) -> None:
    write_record(record, file)


def _tell(begin: float, text: str) -> None:
    log(f"  {time.monotonic() - begin:6.1f} s  {text}")


def _write_trace(job: Job, setting: Setting, stages: Any, about: Any, record: Any) -> None:
    """The trace beside the record; one that is there gets the new times. What hinders it is noted in the record."""
    from workloads.export.exporter import export_stages
    from workloads.trace_file import read_trace, write_trace

    file = setting.out / f"{job.label}.trace.zip"
    try:
        trace = read_trace(file) if file.exists() else export_stages(job.label, stages, about)
        write_trace(timed_trace(trace, record), file)
    except Exception as error:
        log(f"{job.label}: trace: {error}")
        note(setting, job, f"{type(error).__name__}: {error}", "trace")


def _file(setting: Setting, job: Job) -> Path:
    return setting.out / f"{job.label}{SUFFIX}"


def _known(file: Path) -> dict[str, Any]:
    """The record of that file; an empty one if there is none that can be read."""
    try:
        return read_record(file)
    except (OSError, ValueError, KeyError):
        return {}


def is_complete(setting: Setting, job: Job) -> bool:
    """Whether the record has a result or a reason for each part of the job."""
    return not missing(_known(_file(setting, job)), job.parts)


def note(setting: Setting, job: Job, reason: str, what: str = "model") -> None:
    """Put a reason into the record, or make a record of it."""
    start: dict[str, Any] = {"name": job.label, "model": {"name": job.name, "options": dict(job.options)}}
    record = _known(_file(setting, job)) or start
    record.setdefault("failures", {}).setdefault(what, reason)
    write_record(record, _file(setting, job))


def _row(job: Job, setting: Setting, status: str, seconds: float, before: dict[str, Any] | None) -> dict[str, Any]:
    """A row of the summary; of a job in two parts, both."""
    if before:
        status, seconds = f"{before['status']}, {status}", before["seconds"] + seconds
    record = _known(_file(setting, job))
    row = {"label": job.label, "status": status, "seconds": round(seconds, 1), "failures": record.get("failures", {})}
    for part in ("eager", "graph", "compiled", "compiled_graph"):
        row[f"{part}_us"] = record.get(part, {}).get("pass_us")
    return row | {"kernels_us": record.get("rows", {}).get("total_us")}


def table(summary: Sequence[dict[str, Any]]) -> list[str]:
    """Lines of milliseconds a pass, and reasons."""
    names = ("eager", "kernels", "graph", "compiled", "compiled_graph")
    lines = [f"{'model, ms a pass':52}" + "".join(f"{name:>15}" for name in names) + "  status"]
    for row in summary:
        cells = [row.get(f"{name}_us") for name in names]
        shown = "".join(f"{'-' if cell is None else f'{cell / 1000:.3f}':>15}" for cell in cells)
        lines.append(f"{row['label']:52}{shown}  {row['status']} {row['seconds']} s")
        lines += [f"    {part}: {reason[:200]}" for part, reason in row["failures"].items()]
    return lines


def _pack(folder: Path, bundle: Path) -> None:
    """All files of the folder in one, complete or not at all."""
    scratch = bundle.with_name(f".{bundle.name}.part")
    with tarfile.open(scratch, "w") as archive:
        for file in sorted(folder.iterdir()):
            if file.is_file() and not file.name.startswith(".") and file.resolve() != bundle.resolve():
                archive.add(file, file.name)
    scratch.replace(bundle)


if __name__ == "__main__":
    sys.exit(main())
