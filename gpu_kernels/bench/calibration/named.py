"""A process of its own that tells which kernels libraries launch: a profiler leaves traces in the one that it is in.

    python -m gpu_kernels.bench.calibration.named TOLD POINTS SOURCE...

TOLD gets a line of JSON a source: {"source", "names": of the points, "kernels": of each; or "refused"}.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu_kernels.bench.calibration.job import Row
from gpu_kernels.bench.calibration.names import kernels_of, named
from gpu_kernels.bench.calibration.sources import job_sources
from gpu_kernels.bench.contest import guarded

SECONDS = 60.0
Told = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """The program."""
    import torch

    told, quick, *chosen = sys.argv[1:] if arguments is None else arguments
    l2_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).L2_cache_size
    with Path(told).open("w", encoding="utf-8") as file:
        for source in chosen:
            line = {"source": source} | guarded(partial(_profiled, source, l2_bytes, int(quick)))
            print(json.dumps(line), file=file, flush=True)
            torch.cuda.empty_cache()
    return 0


def _profiled(source: str, l2_bytes: int, quick: int) -> Told:
    jobs = list(job_sources()[source](l2_bytes, quick))
    names = [job.row["name"] for job in jobs]
    try:
        return {"names": names, "kernels": kernels_of(jobs)}
    except (RuntimeError, AssertionError):  # a profiler that has just started may lose its first events
        return {"names": names, "kernels": kernels_of(jobs, host_too=True)}


def told_by_child(chosen: Sequence[str], quick: int) -> list[Told]:
    """Lines of the program; of those that it got to before it failed or its time was over."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "told.jsonl"
        command = [sys.executable, "-m", "gpu_kernels.bench.calibration.named", str(file), str(quick), *chosen]
        step = guarded(lambda: _run(command))
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    found: list[Told] = [json.loads(line) for line in lines]
    missing = [source for source in chosen if source not in [one["source"] for one in found]]
    return found + [{"source": source, "refused": step.get("refused", "not reached")} for source in missing]


def _run(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"status {done.returncode}: {done.stderr[-180:]}".replace("\n", " "))
    return {}


def with_kernels(rows: Sequence[Row], told: Sequence[Told]) -> list[Row]:
    """Rows with the kernels that were told of their part and name."""
    known = {
        (one["source"], name): kernels
        for one in told
        if "kernels" in one
        for name, kernels in zip(one["names"], one["kernels"], strict=True)
    }
    return [named(row, known.get((row["part"], row["name"]), ())) if "us" in row else row for row in rows]


if __name__ == "__main__":
    raise SystemExit(main())
