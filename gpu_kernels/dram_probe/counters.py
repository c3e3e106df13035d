"""The profiler's counters of one launch of each pattern: Nsight Compute runs this package once more."""

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

METRICS = {
    "dram_bytes": "dram__bytes_read.sum",
    "dram_sectors": "dram__sectors_read.sum",
    "l2_sectors": "lts__t_sectors_op_read.sum",
    "l2_sectors_of_kernel": "lts__t_sectors_srcunit_tex_op_read.sum",
    "l2_misses_of_kernel": "lts__t_sectors_srcunit_tex_op_read_lookup_miss.sum",
    "l2_requests_of_kernel": "lts__t_requests_srcunit_tex_op_read.sum",
    "duration_ns": "gpu__time_duration.sum",
    "dram_cycles_per_s": "dram__cycles_elapsed.avg.per_second",
    "dram_peak_percent": "dram__bytes_read.sum.pct_of_peak_sustained_elapsed",
}


def count(plan: Sequence[dict[str, Any]], seed: int, ncu: str = "ncu") -> list[dict[str, float]]:
    """Counters of each launch of `plan` (dicts with `pattern`, `variant` and `fetch_limit_bytes`), in its order.

    Clocks are left alone. The profiler empties the caches before each launch.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps({"seed": seed, "launches": list(plan)}), encoding="utf-8")
        command = [ncu, "--clock-control", "none", "--metrics", ",".join(METRICS.values()), "--csv", "--page", "raw"]
        command += ["--print-units", "base", "--kernel-name", "dram_probe", sys.executable]
        done = subprocess.run(
            [*command, "-m", "gpu_kernels.dram_probe", "--launch", str(file)], capture_output=True, text=True
        )
    if done.returncode != 0:
        raise RuntimeError(f"ncu failed with status {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    found = parse(done.stdout)
    if len(found) != len(plan):
        raise RuntimeError(f"ncu counted {len(found)} launches, expected {len(plan)}:\n{done.stdout[-2000:]}")
    return found


def parse(text: str) -> list[dict[str, float]]:
    """Rows of ncu's raw CSV page, by our names; the lines before its header are the program's own output."""
    lines = text.splitlines()
    header = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), len(lines))
    rows = list(csv.DictReader(lines[header:]))[1:]  # the first one holds the units
    return [{name: float(row[metric].replace(",", "")) for name, metric in METRICS.items()} for row in rows]
