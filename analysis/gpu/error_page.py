"""Tables of docs/gpu_models.md: errors by class, DRAM bytes, kernels that nobody fitted, devices."""

from collections.abc import Mapping, Sequence
from typing import Any

from accel.gpu.fit import Error
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from analysis.gpu.parity_bytes import byte_errors
from analysis.gpu.report import (
    HEAD,
    PUBLISHED_HEAD,
    Line,
    calibrated_rows,
    gpus,
    markdown,
    published_rows,
)
from analysis.gpu.unfitted import Score, first_contact, rows, scores

_DEVICES = ("device", "chip", "multiprocessors", "GHz", "FP16", "INT8", "FP8", "INT4", "FP4", "DRAM", "read", "L2", "W")
_FITS = ("fits", "trust of its own classes")


def error_text(lines: Sequence[Line], records: Sequence[Mapping[str, Any]]) -> str:
    """All error tables, one after another."""
    device = load_machine("h200")
    assert isinstance(device, GpuMachine), "shipped"
    parts = [
        ("Calibrated, held-out points (per cent)", markdown(HEAD, calibrated_rows(lines))),
        ("Anchored and blind (per cent)", markdown(PUBLISHED_HEAD, published_rows(lines))),
        ("Bytes read from DRAM beside the profiler's counters (per cent)", _bytes(device, records)),
        ("Kernels of others, without a fitted number (per cent)", _unfitted()),
    ]
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts)


def _bytes(machine: GpuMachine, records: Sequence[Mapping[str, Any]]) -> str:
    fit = load_fit(machine.fit[0])
    found = [byte_errors(machine, fit, record) for record in records[:2]]
    cells = [(kind, str(one.points), *(_percent(other.get(kind)) for other in found)) for kind, one in found[0].items()]
    return markdown(("class", "points", "mean", "mean, second machine")[: 2 + len(found)], cells)


def _unfitted() -> str:
    then, now = scores(first_contact()), scores(rows())
    head = ("kernel", "points", "first contact: mean / p90", "bias", "today: mean / p90", "bias")
    whole = [(kernel, one) for (kernel, size), one in now.items() if size == "all"]
    cells = [(kernel, str(one.points), *_score(then[kernel, "all"]), *_score(one)) for kernel, one in whole]
    return markdown(head, cells)


def _score(one: Score) -> tuple[str, str]:
    return f"{100 * one.mean:.1f} / {100 * one.p90:.1f}", f"{100 * one.bias:+.1f}"


def _percent(error: Error | None) -> str:
    return "" if error is None else f"{100 * error.mean:.2f}"


def device_text() -> str:
    """Shipped GPUs: 10^12 operations a second at `clock_hz`, TB/s, MB, watts."""
    return markdown((*_DEVICES, *_FITS), [_device(one) for one in gpus().values()])


def _device(one: GpuMachine) -> tuple[str, ...]:
    rates = [one.per_s(unit) for unit in ("fp16", "int8", "fp8", "int4", "nvfp4")]
    return (
        f"`{one.name}`",
        one.architecture,
        str(one.multiprocessors),
        f"{one.clock_hz / 1e9:.2f}",
        *(f"{rate / 1e12:,.0f}" if rate else "no" for rate in rates),
        f"{one.memory.peak_bytes_per_s / 1e12:.3g}",
        f"{one.memory.read_bytes_per_s / 1e12:.3g}",
        f"{one.cache.bytes / 2**20:.0f}",
        f"{one.power.limit_w:.0f}",
        ", ".join(one.fit),
        "calibrated" if one.calibrated else "anchored or blind",
    )
