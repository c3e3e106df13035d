"""Bytes from DRAM and the L2, by the profiler's counters (Nsight Compute), of single launches spread over the parts.

A child process runs under `ncu`. Each point is called with other weights until the L2 has none of its own; then one
call is counted, behind a kernel that separates. Caches and clocks are left as they are: `passes` tells whether a kernel
had to run more than once, which would have found its operands in the L2 the second time.
"""

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gpu_kernels.bench.calibration.job import Row
from gpu_kernels.bench.calibration.names import MARKER, shortened

METRICS = {
    "dram_read_bytes": "dram__bytes_read.sum",
    "dram_write_bytes": "dram__bytes_write.sum",
    "l2_read_sectors": "lts__t_sectors_op_read.sum",
    "l2_write_sectors": "lts__t_sectors_op_write.sum",
    "duration_ns": "gpu__time_duration.sum",
}
SECTOR_BYTES = 32
SECONDS, KILLED_AFTER_S = 30.0, 60.0  # the child begins no point after the one, and is stopped after the other
PLAN = {  # points of each part
    "gemm_bf16": 12,
    "gemm_int8": 6,
    "gemm_fp8": 6,
    "ours_w4a8_channel": 5,
    "ours_w4a16": 4,
    "ours_portable_group": 3,
    "decode_kv4": 4,
    "decode_kv16": 2,
    "decode_sdpa_flash": 3,
    "prefill_sdpa_flash": 3,
}
PROGRAM = "gpu_kernels.bench.calibration.counted"
_PASSES = re.compile(r"Profiling .* - (\d+) pass")


def command(plan: Path, told: Path, ncu: str = "ncu") -> list[str]:
    """The child under the profiler: it counts between the program's own start and stop."""
    how = ["--profile-from-start", "off", "--clock-control", "none", "--cache-control", "none"]
    what = ["--metrics", ",".join(METRICS.values()), "--csv", "--page", "raw", "--print-units", "base"]
    return [ncu, *how, *what, sys.executable, "-m", PROGRAM, str(plan), str(told)]


def rows(l2_bytes: int, quick: int = 0) -> Iterator[Row]:
    """A row a point; one that says why where there is no profiler or it failed."""
    plan = {part: min(count, quick) if quick else count for part, count in PLAN.items()}
    plan = dict(list(plan.items())[::3]) if quick else plan
    if not shutil.which("ncu"):
        yield {"part": "counters", "name": "", "refused": "ncu is not installed"}
        return
    try:
        yield from counted(plan, 15.0 if quick else SECONDS)
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as fault:
        yield {"part": "counters", "name": "", "refused": f"{type(fault).__name__}: {str(fault)[:600]}"}


def counted(plan: dict[str, int], seconds: float, ncu: str = "ncu") -> list[Row]:
    """Run the child; the rows of what it told, with what the profiler counted."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder) / "plan.json", Path(folder) / "told.jsonl"
        files[0].write_text(json.dumps({"parts": plan, "seconds": seconds}), encoding="utf-8")
        options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": KILLED_AFTER_S}
        done = subprocess.run(command(*files, ncu), **options, check=False)
        said = done.stdout + "\n" + done.stderr
        if done.returncode or not files[1].exists():
            raise RuntimeError(f"ncu ended with status {done.returncode}: {said[-500:]}")
        told = [json.loads(line) for line in files[1].read_text(encoding="utf-8").splitlines()]
    passes = [int(found) for found in _PASSES.findall(said)]
    return joined(told, parse(done.stdout), max(passes, default=0))


def parse(text: str) -> list[dict[str, Any]]:
    """Launches of ncu's raw CSV page, by our names; the lines before its header are the program's own output."""
    lines = text.splitlines()
    header = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    return [_launch(row) for row in csv.DictReader(lines[header:]) if row["ID"]]  # the first one holds the units


def _launch(row: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"kernel": shortened(row["Kernel Name"]), "grid": row.get("Grid Size", "")}
    return found | {name: _number(row.get(metric) or "") for name, metric in METRICS.items()}


def _number(text: str) -> float | None:
    """None where the profiler has no value (n/a)."""
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def joined(told: Sequence[Row], launches: Sequence[dict[str, Any]], passes: int) -> list[Row]:
    """Rows of the child with their launches: those behind each separator. ValueError where the numbers differ."""
    found: list[list[dict[str, Any]]] = []
    for one in launches:
        if MARKER in one["kernel"]:
            found.append([])
        elif found:
            found[-1].append(one)
    if len(found) != len(told):
        raise ValueError(f"ncu saw {len(found)} points, the program counted {len(told)}")
    return [row | {"passes": passes} | totals(some) for row, some in zip(told, found, strict=True)]


def totals(launches: Sequence[dict[str, Any]]) -> Row:
    """Sums over the kernels of a call, None where one is unknown; sectors as bytes."""
    found: Row = {"kernel": [one["kernel"] for one in launches], "grid": [one["grid"] for one in launches]}
    for name in METRICS:
        values = [one[name] for one in launches]
        total = None if None in values or not values else sum(values)
        if name.endswith("sectors"):
            name, total = f"{name.removesuffix('sectors')}bytes", None if total is None else SECTOR_BYTES * total
        found[name] = total
    return found
