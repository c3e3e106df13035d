"""The record of a run: everything needed to tell what was measured, on what, and to replay the addresses."""

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gpu_kernels.dram_probe.compiler import OPTIONS
from gpu_kernels.dram_probe.patterns import Gather, Pattern, Walk

FOLDER = Path(__file__).parent
SOURCES = ("kernel.cu", "patterns.py", "suite.py", "compiler.py", "probe.py")  # a change of these asks for a new run


def source_hashes() -> dict[str, str]:
    """SHA-256 of each file that decides what is measured."""
    return {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in SOURCES}


def described(pattern: Pattern) -> dict[str, Any]:
    """A pattern as JSON; `rebuilt` reads it back."""
    facts = {"name": pattern.name, "rows": pattern.rows, "useful_bytes": pattern.useful_bytes}
    return facts | {"footprint_bytes": pattern.footprint_bytes, "digest": pattern.digest(), "fields": asdict(pattern)}


def rebuilt(row: dict[str, Any]) -> Pattern:
    """The pattern of a row of a record."""
    return (Gather if "keep_percent" in row["fields"] else Walk)(**row["fields"])


def timed(times_us: dict[str, list[float]], useful_bytes: int) -> dict[str, Any]:
    """Times of a pattern by variant, as the record holds them: all repeats of the fastest, medians of all."""
    medians = {name: round(median(values), 3) for name, values in times_us.items()}
    best = min(medians, key=lambda name: medians[name])
    kept = {"best": best, "median_us": medians, "times_us": [round(value, 2) for value in times_us[best]]}
    return kept | {"useful_bytes_per_s": round(useful_bytes / medians[best] * 1e6)}


def with_ratios(rows: Sequence[dict[str, Any]]) -> None:
    """Add to each row its useful bandwidth over that of the sequential stream."""
    sequential = next(row["useful_bytes_per_s"] for row in rows if row["name"] == "sequential")
    for row in rows:
        row["ratio"] = round(row["useful_bytes_per_s"] / sequential, 4)


def surroundings(commit: str | None) -> dict[str, Any]:
    """Device, driver, versions, date, commit, hashes."""
    import torch
    from cuda.bindings import nvrtc

    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    packages = ("torch", "numpy", "cuda-core", "cuda-bindings")
    return {
        "device": properties.name,
        "multiprocessors": properties.multi_processor_count,
        "l2_bytes": properties.L2_cache_size,
        "memory_bytes": properties.total_memory,
        "driver": subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip(),
        "cuda": torch.version.cuda,
        "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or _commit(),
        "sources": source_hashes(),
        "options": OPTIONS,
        "bit_generator": f"numpy {np.__version__} PCG64",
    }


def _commit() -> str | None:
    command = ["git", "-C", str(FOLDER), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


def write(record: dict[str, Any], file: Path) -> None:
    """Write the record, complete or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(file.name + ".part")
    unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, file)


def read(file: Path) -> dict[str, Any]:
    """A record; `ValueError` if it is of another form."""
    record = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(record, dict) or record.get("format") != "dram_probe 1":
        raise ValueError(f"{file}: not a record of the DRAM probe")
    return record
