"""The program that runs under the profiler: `python -m gpu_kernels.bench.calibration.counted PLAN TOLD`.

PLAN: JSON {"parts": {part: points}, "seconds": s}. TOLD gets a line of JSON a point, in the order in which they ran.
"""

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_kernels.bench.calibration.job import Job, Row
from gpu_kernels.bench.calibration.names import mark
from gpu_kernels.bench.calibration.sources import job_sources

OUTGROWN, MOST_SETS = 2, 256  # times the L2 that other weights take before the counted call; most of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Parts take turns, so that the time limit leaves some of each."""
    import torch

    plan, told = (Path(name) for name in (sys.argv[1:] if arguments is None else arguments))
    wanted = json.loads(plan.read_text(encoding="utf-8"))
    begin, l2_bytes = time.perf_counter(), torch.cuda.get_device_properties(0).L2_cache_size
    with told.open("w", encoding="utf-8") as file:
        for job in in_turns(wanted["parts"], l2_bytes):
            if time.perf_counter() - begin > wanted["seconds"]:
                break
            row = count(job, l2_bytes)
            if row:
                print(json.dumps(row), file=file, flush=True)
    return 0


def in_turns(parts: dict[str, int], l2_bytes: int) -> Iterator[Job]:
    """The first points of each part's own order, one of each part after the other."""
    sources = job_sources()
    streams = [sources[part](l2_bytes, points) for part, points in parts.items() if part in sources]
    while streams:
        for stream in list(streams):
            job = _next(stream)
            if job is None:
                streams.remove(stream)
            else:
                yield job


def _next(stream: Iterator[Job]) -> Job | None:
    try:
        return next(stream, None)
    except Exception as fault:
        print(f"left out: {fault}")
        return None


def count(job: Job, l2_bytes: int) -> Row | None:
    """Call the job once between the profiler's start and stop; its row, or None where it does not run."""
    import torch

    sets = (
        max(2, min(MOST_SETS, 1 + -(-OUTGROWN * l2_bytes // max(1, job.changing_bytes)))) if job.changing_bytes else 2
    )
    try:
        calls = job.prepare(sets)
        for call in (*calls[1:], *calls[1:2]):
            call()
        torch.cuda.synchronize()
    except Exception as fault:
        print(f"left out: {job.row['name']}: {fault}")
        return None
    _profiled(calls[0])
    facts: dict[str, Any] = {"part": "counters", "of": job.row["part"], "changing_bytes": job.changing_bytes}
    return job.row | facts


def _profiled(call: Any) -> None:
    import torch

    runtime = torch.cuda.cudart()
    runtime.cudaProfilerStart()
    mark()
    call()
    torch.cuda.synchronize()
    runtime.cudaProfilerStop()


if __name__ == "__main__":
    raise SystemExit(main())
