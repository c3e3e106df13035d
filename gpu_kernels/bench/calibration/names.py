"""Which kernels a call of a library launches: names, grids and durations, by torch's profiler.

All calls of a part run once in one profile. Between them stands a kernel of torch that nothing else uses, so that
kernels are told apart by their order on the stream alone.
"""

import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from gpu_kernels.bench.calibration.job import Job, Row

MARKER = "spin_kernel"  # of torch.cuda._sleep
KEPT = ("kernel", "gpu_memset", "gpu_memcpy")
LONGEST = 600  # characters of a name
_NOISE = re.compile(r"cutlass::|cute::|at::native::|\(anonymous namespace\)::|\s+|^void")


def mark() -> None:
    """Launch the kernel that separates."""
    import torch

    torch.cuda._sleep(100)


def kernels_of(jobs: Sequence[Job], host_too: bool = False) -> list[list[dict[str, Any]]]:
    """Of each job, in its order: the kernels of its first call; of one that fails, what it launched until then.

    host_too: let the profiler watch the host as well. Raises RuntimeError where it saw another number of separators.
    """
    import torch

    kinds = torch.profiler.ProfilerActivity
    activities = [kinds.CPU, kinds.CUDA] if host_too else [kinds.CUDA]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "trace.json"
        with torch.profiler.profile(activities=activities) as profile:
            for job in jobs:
                mark()
                _run_once(job)
            torch.cuda.synchronize()
        profile.export_chrome_trace(str(file))
        found = separated(json.loads(file.read_text(encoding="utf-8"))["traceEvents"])
    if len(found) != len(jobs):
        raise RuntimeError(f"the profiler saw {len(found)} calls of {len(jobs)}")
    return found


def _run_once(job: Job) -> None:
    try:
        job.prepare(1)[0]()
    except Exception:  # its row says why
        return


def separated(events: Iterable[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Kernels between the separators of a trace, in the order in which they ran; what comes before the first is left.

    Each: kernel, us, grid, block, shared_bytes, registers (as far as the trace has them).
    """
    ran = sorted((one for one in events if one.get("cat") in KEPT and one.get("ph") == "X"), key=lambda one: one["ts"])
    found: list[list[dict[str, Any]]] = []
    for one in ran:
        if MARKER in one["name"]:
            found.append([])
        elif found:
            found[-1].append(_facts(one))
    return found


def _facts(event: dict[str, Any]) -> dict[str, Any]:
    known = event.get("args", {})
    names = {"grid": "grid", "block": "block", "shared memory": "shared_bytes", "registers per thread": "registers"}
    facts = {ours: known[theirs] for theirs, ours in names.items() if theirs in known}
    return {"kernel": shortened(event["name"]), "us": round(float(event["dur"]), 3)} | facts


def shortened(name: str) -> str:
    """A kernel's name without spaces and the namespaces of libraries."""
    return _NOISE.sub("", name)[:LONGEST]


def named(row: Row, kernels: Sequence[dict[str, Any]]) -> Row:
    """A row with `kernel`: names; and beside it, `launches`: everything known of each."""
    if not kernels:
        return row
    return row | {"kernel": [one["kernel"] for one in kernels], "launches": [_rest(one) for one in kernels]}


def _rest(one: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in one.items() if name != "kernel"}
