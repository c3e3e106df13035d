"""One calibration run: idle, ceilings, then stream after stream; the record is on disk every few seconds.

What takes longer than its budget is cut short, and the record says by how much: points come in an order that has
nothing to do with their sizes, so what is there still covers all of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Any

from gpu_kernels import record, runtime
from gpu_kernels.bench.calibration import decode, energy, limits, named, nvml, ours, points, streams
from gpu_kernels.bench.calibration.job import Job, Row, measured
from gpu_kernels.bench.calibration.sources import BUDGET_S, job_sources, kind_of, of_library, row_sources
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.suite import kernel_sources
from gpu_kernels.bench.variants import Variant, compile_all

FORMAT = "calibration 1"
SOURCES = (limits.SOURCE, "bench/calibration/points.py")
PARTS = ("idle", "ceilings", *BUDGET_S)
QUICK = 2  # points of a stream
WRITE_S = 4.0
LIMIT_S = 540.0  # of a whole run: whatever has not begun then is left out
Told = Callable[[str], None]


def chosen_parts(given: str | None) -> tuple[str, ...]:
    """Parts by name, with commas between; all without. Raises ValueError for an unknown one."""
    wanted = [name.strip() for name in given.split(",")] if given else list(PARTS)
    for name in wanted:
        if name not in PARTS:
            near = get_close_matches(name, PARTS, 1)
            hint = f"; nearest: {near[0]}" if near else ""
            raise ValueError(f"--part: must be some of {', '.join(PARTS)}, got {name!r}{hint}")
    return tuple(name for name in PARTS if name in wanted)


class Run:
    """A record in the making, and the file that it goes to."""

    def __init__(self, out: Path | None, told: Told) -> None:
        self.out, self.told, self.begin, self.written = out, told, time.time(), 0.0
        self.found: dict[str, Any] = {"format": FORMAT}

    def seconds(self) -> float:
        """Since the run began."""
        return time.time() - self.begin

    def say(self, text: str) -> None:
        """A line of progress."""
        self.told(f"[{self.seconds():6.1f} s] {text}")

    def save(self, now: bool = False) -> None:
        """Write the record, if the last time is long ago."""
        self.found["seconds"] = round(self.seconds(), 1)
        if self.out and (now or time.time() > self.written + WRITE_S):
            record.write(self.found, self.out)
            self.written = time.time()


def run_calibration(
    parts: Sequence[str] = PARTS,
    out: Path | None = None,
    commit: str | None = None,
    quick: bool = False,
    told: Told = lambda text: None,
) -> dict[str, Any]:
    """Measure on torch's current GPU; the record. Raises ValueError without a GPU.

    quick: a few points of each stream and short loops, to see that everything runs.
    """
    run = Run(out, told)
    before = [_resting("no context", 1.0, nvml.Card)] if "idle" in parts else []
    try:
        architecture = runtime.architecture()
    except RuntimeError as fault:
        raise ValueError(str(fault)) from None
    with record.Watch() as watch, ThreadPoolExecutor(1) as aside:
        compiled = aside.submit(compile_all, variants(parts, architecture, QUICK if quick else 0), architecture)
        run.found |= record.surroundings(commit) | {"sources": record.source_hashes(sources())}
        run.found |= {"parts": list(parts), "quick": quick, "ceilings": {}, "state": {}, "seconds_by_part": {}}
        run.found |= {"cut": {}, "refused": {}, "rows": before}
        _begin(run, parts, quick, watch, compiled)
        _all(run, parts, QUICK if quick else 0, watch)
        if "idle" in parts:
            run.found["rows"].append(_resting("after work", energy.REST_QUICK_S if quick else energy.REST_AFTER_S))
        run.found["state"]["all"] = watch.since(run.begin)
    run.save(now=True)
    run.say(f"{len(run.found['rows'])} rows, {sum('refused' in row for row in run.found['rows'])} refused")
    return run.found


def _resting(name: str, seconds: float, card: Callable[[], nvml.Card] = nvml.card) -> Row:
    """A row of part `idle`; `no context`: before this process has one on the GPU."""
    row = {"part": "idle", "name": name, "held_out": False}
    return row | guarded(lambda: energy.rest(seconds, card()))


def sources() -> tuple[str, ...]:
    """Every CUDA source that may be timed, tiles, and the points."""
    return (*kernel_sources(), *SOURCES)


def variants(parts: Sequence[str], architecture: str, quick: int) -> list[Variant]:
    """What some parts compile, each once."""
    shapes, steps = list(points.spread(points.our_products(), quick)), list(points.spread(points.decodes(), quick))
    here = architecture, runtime.multiprocessors()
    found: dict[str, Iterator[Variant]] = {
        "ours": ours.variants_of(shapes, *here),
        "decode": decode.variants_of(steps, *here),
        "activations": streams.variants_of(*here),
    }
    if quick:
        found.pop("activations")
    return list(dict.fromkeys(one for part, some in found.items() if part in parts for one in some))


def _begin(run: Run, parts: Sequence[str], quick: bool, watch: record.Watch, compiled: "Future[int]") -> None:
    """Rest while kernels compile; then the ceilings."""
    import torch

    torch.zeros(1, device="cuda").add_(1)
    torch.cuda.synchronize()
    if "idle" in parts:
        seconds = energy.REST_QUICK_S if quick else energy.REST_S
        run.found["rows"].append(_resting("after rest", seconds))
        run.say("idle")
    run.found["compiled"] = guarded(lambda: {"variants": compiled.result()})
    run.say(f"compiled {run.found['compiled']}")
    if "ceilings" in parts:
        run.found["ceilings"] = limits.all_ceilings(quick, watch)
        run.say(f"ceilings, refused: {run.found['ceilings'].get('refused', {})}")
    run.save(now=True)


def _all(run: Run, parts: Sequence[str], quick: int, watch: record.Watch) -> None:
    """Streams that graphs hold, the names of libraries' kernels among them, all others."""
    graphs = {name: stream for name, stream in job_sources().items() if kind_of(name) in parts}
    for name, stream in graphs.items():
        _measure(run, name, stream, quick, watch)
    if library := [name for name in graphs if of_library(name)]:
        _name(run, library, quick)
    for name, other in row_sources().items():
        if name in parts:
            _measure(run, name, other, quick, watch)


def _measure(run: Run, name: str, stream: Any, quick: int, watch: record.Watch) -> None:
    """All points of a stream within its budget."""
    begin, first = time.time(), len(run.found["rows"])
    for one in _within(run, name, stream(run.found["l2_bytes"], quick), begin + BUDGET_S[kind_of(name)]):
        run.found["rows"].append(measured(one, run.found["l2_bytes"]) if isinstance(one, Job) else one)
        run.save()
    rows = run.found["rows"][first:]
    run.found["state"][name] = watch.since(begin)
    run.found["seconds_by_part"][name] = round(time.time() - begin, 1)
    refused = [row["refused"] for row in rows if "refused" in row]
    run.say(f"{name}: {len(rows)} rows in {time.time() - begin:.1f} s, {len(refused)} refused {refused[:1]}")
    run.save(now=True)
    _free(name)


def _within(run: Run, name: str, stream: Iterator[Any], until: float) -> Iterator[Any]:
    """What a stream gives until its time is over; `cut` then tells how many rows it gave, `refused` why it broke."""
    for done in count():
        if time.time() > until or run.seconds() > LIMIT_S:
            run.found["cut"][name] = done
            return
        step = guarded(lambda: {"one": next(stream, None)})
        if "refused" in step:
            run.found["refused"][name] = step["refused"]
            return
        if step["one"] is None:
            return
        yield step["one"]


def _name(run: Run, chosen: Sequence[str], quick: int) -> None:
    """Add the names of libraries' kernels to the rows of some streams."""
    begin, told = time.time(), named.told_by_child(chosen, quick)
    run.found["rows"] = named.with_kernels(run.found["rows"], told)
    refused = {f"kernels of {one['source']}": one["refused"] for one in told if "refused" in one}
    run.found["refused"] |= refused
    run.found["seconds_by_part"]["names"] = round(time.time() - begin, 1)
    run.say(f"names of kernels in {time.time() - begin:.1f} s, refused: {refused}")
    run.save(now=True)


def _free(name: str) -> None:
    """Give memory back. Raises ArithmeticError where the GPU's context is lost: nothing can be measured after that."""
    import gc

    import torch

    gc.collect()
    step = guarded(lambda: {"freed": (torch.cuda.synchronize(), torch.cuda.empty_cache())})
    if "refused" in step:
        raise ArithmeticError(
            f"{name}: the GPU's context is lost ({step['refused']}); measure the parts behind it alone"
        )
