"""Running a sweep: which points are known, which are to do, and where the rows go."""

import hashlib
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from analysis.cache import cache_folder, use_kernel_cache
from analysis.evaluate import Bench, Settings, Task, evaluate, is_recorded, key_of, prepare, run_chunk
from analysis.executors import Crew, run_tasks
from analysis.sources import source_hash
from analysis.store import Row, Store, point_key
from analysis.sweep import Sweep, point, selected
from workloads.policy import Policy

Progress = Callable[[int, int, int], None]  # done, total, failed


@dataclass
class SweepRun:
    """What a sweep came to; the rows themselves stay in the store.

    keys       key of every point, in the order of `settings`
    settings   values by dotted path
    failures   reason by key
    computed   how many points were simulated in this run, the failed ones included
    """

    sweep: Sweep
    store: Store
    keys: list[str] = field(default_factory=list)
    settings: list[Settings] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    computed: int = 0

    def rows(self) -> Iterator[tuple[Settings, str, Row | None]]:
        """`(settings, key, row)` sorted by key; the row of a failed point is None."""
        order = sorted(range(len(self.keys)), key=lambda i: (self.keys[i], i))
        for start in range(0, len(order), 500):
            part = order[start : start + 500]
            found = dict(self.store.rows(self.keys[i] for i in part))
            yield from ((self.settings[i], self.keys[i], found.get(self.keys[i])) for i in part)


def default_store() -> Path:
    """The store in the user's cache folder."""
    return cache_folder() / "results.sqlite"


def run_sweep(
    sweep: Sweep,
    *,
    store: Path | None = None,
    workers: int | None = None,
    fresh: bool = False,
    limit: int | None = None,
    crew: Crew | None = None,
    progress: Progress = lambda done, total, failed: None,
    say: Callable[[str], None] = lambda message: None,
) -> SweepRun:
    """Simulate the points that the store does not hold yet.

    workers   None: what the sweep says, else one per core
    fresh     simulate known points again
    limit     only the first points of the sweep
    crew      of `crew_for`, which stays for further work; None: one of its own, for `workers`
    say       gets the message about compiling
    Interrupted at any moment, the same call goes on where this one stopped.  Workers are fresh processes
    that import the main script: in a script, call this under `if __name__ == "__main__":`.
    """
    _check_policy(sweep)
    if crew is None:
        with crew_for(sweep, store=store, workers=workers) as crew:
            options: dict[str, Any] = {"fresh": fresh, "limit": limit, "progress": progress, "say": say}
            return run_sweep(sweep, crew=crew, **options)
    (bench,) = crew.arguments
    run = SweepRun(sweep, Store(bench.store))
    tasks = _plan(run, bench, limit)
    known = set() if fresh else run.store.known(tasks)
    todo = [(key, settings) for key, settings in tasks.items() if key not in known]
    done, total = len(run.keys) - len(todo), len(run.keys)
    progress(done, total, len(run.failures))
    for key, error in _outcomes(todo, crew, say):
        run.computed += 1
        done += 1
        if error is not None:
            run.failures[key] = error
        progress(done, total, len(run.failures))
    return run


def crew_for(sweep: Sweep, *, store: Path | None = None, workers: int | None = None) -> Crew:
    """Workers for the points of a sweep, to be closed by the caller; they start when there is work."""
    bench = Bench(sweep.machine, sweep.workload, sweep.policy, store or default_store())
    return Crew(workers or sweep.workers or cores(), prepare, (bench,))


def _check_policy(sweep: Sweep) -> None:
    """A workload that has its pruning recorded takes no policy; raises ValueError."""
    given = [axis for axis in sweep.axes if axis.startswith("policy.")]
    if (given or sweep.policy != Policy()) and is_recorded(sweep.workload):
        wrong = given[0] if given else "policy"
        raise ValueError(f"{wrong}: must be left out, {sweep.workload} has its pruning recorded")


def _plan(run: SweepRun, bench: Bench, limit: int | None) -> dict[str, Settings]:
    """Fill in keys and settings of all points; give the points that can be simulated by key."""
    tasks: dict[str, Settings] = {}
    for index in selected(run.sweep)[:limit]:
        settings = point(run.sweep, index)
        try:
            key = key_of(bench, settings)
            tasks[key] = settings
        except ValueError as error:  # each value was checked, this combination is refused
            key = point_key(settings, {"refused": bench.machine}, bench.workload, source_hash())
            run.failures[key] = str(error)
        run.keys.append(key)
        run.settings.append(settings)
    return tasks


def _outcomes(todo: list[Task], crew: Crew, say: Callable[[str], None]) -> Iterator[tuple[str, str | None]]:
    """Key and error of each task, as they complete; the first is run here while kernels are not compiled."""
    prepare(*crew.arguments)
    rest = iter(todo)
    if todo and not kernels_compiled():
        first = next(rest)
        say(f"compiling kernels (once; cached in {use_kernel_cache()})")
        (error,) = run_chunk([first])
        if error is None:
            _kernel_mark().touch()
        yield first[0], error
    with closing(run_tasks(rest, run_chunk, crew)) as outcomes:
        yield from ((outcome.task[0], outcome.error) for outcome in outcomes)


def compile_kernels() -> None:
    """Simulate a shipped point and a stream, so that Numba compiles what a command needs, and note that it did."""
    from dataflow.memory import default_spec
    from sim.dram.stream import MODES, RequestStream

    evaluate(Bench("spatten", "minilm", Policy(token_keep=0.5, key_lsb_bits=4), default_store()), {})
    for mode in MODES:
        stream, few = RequestStream(default_spec("hbm2"), mode), np.arange(4)
        stream.feed(few, 64 * few, few > 1)
        stream.finish()
    _kernel_mark().touch()


def kernels_compiled() -> bool:
    """Whether a point was simulated with these sources, interpreter and Numba before."""
    return _kernel_mark().exists()


def _kernel_mark() -> Path:
    versions = f"{sys.version} {version('numba')} {version('numpy')} {platform.machine()} {source_hash()}"
    return use_kernel_cache() / f"compiled-{hashlib.sha256(versions.encode()).hexdigest()[:16]}"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
