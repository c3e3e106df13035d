"""The machine file of a measured GPU: a data sheet that exists, with what a calibration record measured in its place.

Rates of units stay those of the data sheet: what a kernel reaches of them is the fit's business.
"""

from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from statistics import median
from typing import Any

from ruamel.yaml import YAML

from accel.gpu.machine import GpuMachine

Record = Mapping[str, Any]
_FITS_WELL = 0.7  # of the L2: a buffer that surely stays there
_LEAST_MEGABYTES = 8  # smaller ones do not keep every multiprocessor busy for long
Facts = Iterator[tuple[tuple[str, ...], float | int, str]]  # (path, value, how)


def device_text(sheet: Path, record: Record, name: str, fit: str, source: str) -> str:
    """YAML of the machine; comments of the lines that were not measured stay as they are.

    sheet   the machine file to start from; fit   name or path of the fit that belongs to it; source   of the record
    Raises ValueError where the record is of another architecture, or the sheet is no GPU's.
    """
    yaml = YAML()
    yaml.width = 200
    found = yaml.load(sheet.read_text("utf-8"))
    if not isinstance(found, dict) or found.get("planner") != "gpu":
        raise ValueError(f"--machine: must be a GPU (planner: gpu), got {sheet.stem!r}")
    here = str(record["architecture"]).rstrip("a")
    if here != found["architecture"]:
        raise ValueError(f"--machine: {sheet.stem} is {found['architecture']}, but the record is of a GPU of {here}")
    found["name"], found["source"] = name, f"{found['source']}; measured: {source}"
    for path, value, how in measured(record):
        _put(found, path, value, f"measured: {how}")
    found["fit"], found["calibrated"] = [fit], True
    for carried in ("scale", "error"):
        found.pop(carried, None)
    text = StringIO()
    yaml.dump(found, text)
    return text.getvalue()


def measured(record: Record) -> Facts:
    """What a record says of the device itself; what it lacks is left out."""
    ceilings, rows = record.get("ceilings", {}), record.get("rows", [])
    yield ("multiprocessors",), record["multiprocessors"], "device query"
    yield ("cache", "bytes"), record["l2_bytes"], "device query"
    yield ("memory", "bytes"), record["memory_bytes"], "device query"
    if rate := cache_rate(ceilings, record["l2_bytes"]):
        yield ("cache", "bytes_per_s"), rate, "median of buffers that fit the L2"
    if "read_bytes_per_s" in ceilings:
        yield ("memory", "read_bytes_per_s"), ceilings["read_bytes_per_s"], "a kernel that only reads"
    if "launch_us" in ceilings:
        yield ("launch", "graph_s"), _micro(ceilings["launch_us"]), "empty kernels in a CUDA graph"
    yield from _of_rows(rows)
    limits = record.get("state", {}).get("all", {})
    if "power.limit" in limits:
        yield ("power", "limit_w"), limits["power.limit"]["median"], "power.limit"


def _of_rows(rows: list[Record]) -> Facts:
    by_name = {(row["part"], row["name"]): row for row in rows}
    gap = by_name.get(("host", "gap in a stream"), {})
    if "us" in gap:
        yield ("launch", "stream_s"), _micro(gap["us"]), "tiny kernels in a stream that the host keeps full"
    links = [row["bytes"] / row["us"] * 1e6 for row in rows if row["part"] == "transfers" and _pinned(row)]
    if links:
        yield ("pcie_bytes_per_s",), round(max(links)), "largest rate of pinned copies from the host"
    rest = by_name.get(("idle", "after rest"), {})
    if "power_w" in rest:
        yield ("power", "idle_w"), rest["power_w"], "energy counter, after 30 s of rest with a context open"


def cache_rate(ceilings: Record, l2_bytes: int) -> float:
    """Bytes a second from the L2, 0 where it was not measured."""
    rates = ceilings.get("l2_read_bytes_per_s_by_megabytes", {})
    most = _FITS_WELL * l2_bytes / 2**20
    inside = [rate for size, rate in rates.items() if _LEAST_MEGABYTES <= int(size) <= most]
    return float(round(median(inside))) if inside else 0.0


def _pinned(row: Record) -> bool:
    return "us" in row and row["way"] == "h2d_pinned"


def _micro(us: float) -> float:
    return float(f"{us * 1e-6:.4g}")


def _put(found: Any, path: tuple[str, ...], value: float | int, how: str) -> None:
    """Set a value and say beside it where it comes from."""
    for key in path[:-1]:
        found = found[key]
    found[path[-1]] = value
    found.yaml_add_eol_comment(how, path[-1])


def resembling(machines: Mapping[str, GpuMachine], record: Record) -> str | None:
    """The shipped data sheet of the measured device, by its name: `h200` for "NVIDIA H200"; None if there is none."""
    words = "".join(c if c.isalnum() else " " for c in str(record["device"]).lower()).split()
    fitting = [name for name in machines if set(name.split("_")) & set(words) - {"nvidia", "rtx"}]
    best = sorted(fitting, key=lambda name: (-len(set(name.split("_")) & set(words)), len(name)))
    return best[0] if best else None
