"""What a record says about its run: device, driver, versions, date, commit; the card's clocks and power over time.

Needs torch and cuda-core where it asks the device; reading and writing records needs neither.
"""

import hashlib
import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpu_kernels import runtime

STATE = ("clocks.sm", "clocks.mem", "power.draw", "power.limit", "temperature.gpu")  # MHz, MHz, W, W, degrees Celsius
PERIOD_MS = 100  # between two looks at the card


def surroundings(commit: str | None = None) -> dict[str, Any]:
    """Device, driver, versions, date, commit, options of the compiler; `commit` where git cannot tell."""
    import torch
    from cuda.bindings import nvrtc

    card = torch.cuda.get_device_properties(torch.cuda.current_device())
    return {
        "device": card.name,
        "architecture": runtime.architecture(),
        "multiprocessors": card.multi_processor_count,
        "l2_bytes": card.L2_cache_size,
        "memory_bytes": card.total_memory,
        "driver": smi("driver_version")[0],
        "cuda": torch.version.cuda,
        "nvrtc": ".".join(map(str, nvrtc.nvrtcVersion()[1:])),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("torch", "numpy", "numba", "cuda-core", "cuda-bindings")},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit or _commit(),
        "options": runtime.OPTIONS,
    }


def _commit() -> str | None:
    command = ["git", "-C", str(runtime.FOLDER), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None


def smi(*fields: str) -> list[str]:
    """What nvidia-smi says of the first GPU, without units."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip().split(", ")


def card_state() -> dict[str, float]:
    """Clocks, power and temperature at this moment."""
    return {name: float(value) for name, value in zip(STATE, smi(*STATE), strict=True)}


class Watch:
    """Clocks and power while a run goes on, one look each PERIOD_MS by a process of its own.

    with Watch() as card:
        ...
        card.since(begin)      # begin, end: time.time()
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._log: Any = None

    def __enter__(self) -> "Watch":
        import tempfile

        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")
        query = f"--query-gpu=timestamp,{','.join(STATE)}"
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits", "--id=0", f"--loop-ms={PERIOD_MS}"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self._process:
            self._process.terminate()
            self._process.wait()
        self._log.close()

    def since(self, begin_s: float) -> dict[str, dict[str, float]]:
        """Least, median and most of each quantity from `begin_s` (`time.time()`) until now; {} if none was taken."""
        self._log.seek(0)
        return spread(looks(self._log.read(), begin_s, time.time()))


def looks(text: str, begin_s: float, end_s: float) -> list[list[float]]:
    """The rows of nvidia-smi's log within a time, in the order of STATE; without unfinished and unreadable ones."""
    rows = []
    for line in text.splitlines():
        stamp, *values = line.split(", ")
        try:
            when = datetime.strptime(stamp, "%Y/%m/%d %H:%M:%S.%f").timestamp()
            row = [float(value) for value in values]
        except ValueError:
            continue
        if len(row) == len(STATE) and begin_s <= when <= end_s:
            rows.append(row)
    return rows


def spread(rows: Iterable[list[float]]) -> dict[str, dict[str, float]]:
    """Least, median and most of each column."""
    columns = dict(zip(STATE, zip(*rows, strict=True), strict=False))
    return {name: {"least": min(x), "median": median(x), "most": max(x)} for name, x in columns.items()}


def source_hashes(names: Iterable[str]) -> dict[str, str]:
    """Hash of each file under `gpu_kernels` with what it includes."""
    return {name: runtime.source_hash(name) for name in names}


def stale(record: dict[str, Any]) -> list[str]:
    """The sources of a record that are not today's, by name; one that is gone counts."""
    return [name for name, kept in record["sources"].items() if _hash_or_none(name) != kept]


def _hash_or_none(name: str) -> str | None:
    try:
        return runtime.source_hash(name)
    except FileNotFoundError:
        return None


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's type, shape and bytes (little-endian)."""
    plain = np.ascontiguousarray(array)
    head = f"{plain.dtype.str}{plain.shape}".encode()
    return hashlib.sha256(head + plain.tobytes()).hexdigest()


def write(record: dict[str, Any], file: Path) -> None:
    """Write a record, complete or not at all."""
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def read(file: Path, *formats: str) -> dict[str, Any]:
    """A record of one of these formats; ValueError for anything else."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"{file}: must be a record (JSON), but {fault}") from None
    found = record.get("format") if isinstance(record, dict) else None
    if found not in formats:
        raise ValueError(f"{file}: must be a record of format {' or '.join(formats)}, got {found!r}")
    _check_shape(file, record)
    return record


def _check_shape(file: Path, record: dict[str, Any]) -> None:
    """ValueError for what a record of any format has and this one lacks: a file that was cut and mended by hand."""
    rows = record.get("rows", [])
    if not isinstance(rows, list):
        raise ValueError(f"{file}: rows: must be a list, got {type(rows).__name__}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict) or not ({"part", "name"} <= set(row) or {"kernel", "case"} <= set(row)):
            raise ValueError(f"{file}: rows: number {place}: must have part and name, or kernel and case")
