"""Errors of the GPU models by class and device: what `tilewright predict errors` and docs/gpu_models.md show.

    lines = report(load_machine("h200"), load_records(paths))      # paths: the first is the one that was fitted to
    print(markdown(HEAD, calibrated_rows(lines)))

A class that a record has points of is predicted anew, point by point. Others (published points, whole models, power)
are told as the fit keeps them. Errors are of points that were not fitted; anchors are predicted with the others of
their class.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accel.gpu.fit import Error
from accel.gpu.loading import load_fit
from accel.gpu.machine import GpuMachine, Trust
from accel.machine import load_machine, machine_names
from analysis.gpu.held_out import error
from analysis.gpu.parity import Parity, parities, repeated

if TYPE_CHECKING:
    from analysis.gpu.anchors import Anchor, Scored

Record = Mapping[str, Any]
RECORDS = ("calibration_h200.json", "calibration_h200_second_machine.json")
RESULTS = Path(__file__).parents[2] / "gpu_kernels" / "results"
PUBLISHED = {"prefill_fa3": "h100_sxm"}  # classes of the H200's fit whose points were published for another device
# a class's part of a record, where it is not the class's own name
_PARTS = {
    "quantize": "activations",
    "transfer": "transfers",
    "convolution_depthwise": "convolution",
    **{f"decode_attention_{one}": f"decode_sdpa_{one}" for one in ("flash", "cudnn")},
    **{f"decode_attention_{one}": f"decode_{one}" for one in ("kv4", "kv8", "kv16")},
    **{f"prefill_{one}": f"prefill_sdpa_{one}" for one in ("flash", "cudnn")},
    **{f"gemm_{one}": f"ours_{one}" for one in ("w4a8_channel", "w4a8_group", "w4a16", "w8a8")},
    **{f"gemm_{one}": f"ours_{one}" for one in ("portable_channel", "portable_group")},
}


@dataclass(frozen=True)
class Target:
    """Mean and 90th percentile that were asked for before anything was measured."""

    mean: float
    p90: float | None = None

    def reached(self, error: Error) -> bool:
        """By both."""
        return error.mean <= self.mean and (self.p90 is None or error.p90 <= self.p90)


_ANCHORED = Target(0.12)
_DEVICE_TARGETS = {
    ("a100_80g_sxm", "gemm_bf16"): Target(0.057, 0.12),
    ("h100_sxm", "gemm_bf16"): Target(0.065, 0.15),
}
_TARGETS = {  # by the beginning of the class; the first that fits
    "gemm_bf16": Target(0.05, 0.11),
    "gemm_int8": Target(0.06, 0.12),
    "gemm_fp8": Target(0.06, 0.12),
    "gemm_w": Target(0.08, 0.16),  # our products: W4A8, W4A16, W8A8
    "gemm_portable": Target(0.08, 0.16),
    "decode_attention": Target(0.05, 0.10),
    "prefill": Target(0.03, 0.06),
    "elementwise": Target(0.05, 0.10),
    "rows": Target(0.05, 0.10),
    "linear_attention": Target(0.05, 0.10),
    "model_energy": Target(0.06, 0.12),
    "model_": Target(0.05, 0.10),
    "decode_layer": Target(0.05, 0.10),
    "power": Target(0.06, 0.12),
    "energy": Target(0.06, 0.12),
}


@dataclass(frozen=True)
class Line:
    """One class on one device.

    error      of the points that were held out (anchors: each left out in turn)
    scaled     with the run's own scale taken out; None where there is no record
    scale      that scale: measured over predicted
    second     of the other machine's record, predicted with the same fit
    again      how far the two machines' own measurements are apart
    first      when these points were evaluated for the first time
    """

    kind: str
    machine: str
    trust: Trust
    error: Error
    scaled: Error | None = None
    scale: float = 1.0
    second: Error | None = None
    again: Error | None = None
    first: Error | None = None
    target: Target | None = None

    @property
    def reached(self) -> bool | None:
        """None where nothing was asked for."""
        return None if self.target is None else self.target.reached(self.error)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, ready for JSON."""
        errors = {name: getattr(self, name) for name in ("error", "scaled", "second", "again", "first")}
        target = None if self.target is None else {"mean": self.target.mean, "p90": self.target.p90}
        told = {name: None if one is None else _plain(one) for name, one in errors.items()}
        head = {"class": self.kind, "machine": self.machine, "trust": self.trust, "scale": self.scale}
        return head | told | {"target": target, "reached": self.reached}


def _plain(told: Error) -> dict[str, float | int | None]:
    """A bias that nobody kept is none."""
    return {name: None if value != value else value for name, value in told.model_dump().items()}


def target_of(machine: str, kind: str, trust: Trust = "calibrated") -> Target | None:
    """What was asked of a class on a device."""
    if trust != "calibrated":
        return _ANCHORED if trust == "anchored" else None
    fitting = (one for prefix, one in _TARGETS.items() if kind.startswith(prefix))
    return _DEVICE_TARGETS.get((machine, kind)) or next(fitting, None)


@cache
def first_evaluations() -> Mapping[str, Error]:
    """By class, of the H200: the errors of the first time that held-out points were looked at."""
    text = (files("analysis") / "published" / "first_contact" / "gpu_models.csv").read_text("utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {
        row["class"]: Error(
            mean=float(row["mean"]), p90=float(row["p90"]), bias=float(row["bias"] or "nan"), points=int(row["points"])
        )
        for row in rows
    }


def gpus() -> dict[str, GpuMachine]:
    """The shipped ones."""
    loaded = {name: load_machine(name) for name in machine_names()}
    return {name: one for name, one in loaded.items() if isinstance(one, GpuMachine)}


def report(machine: GpuMachine, records: Sequence[Record]) -> list[Line]:
    """All classes of a calibrated machine; those of the H200 carry their first evaluation."""
    fit = load_fit(machine.fit[0])
    found = [parities(machine, fit, record) for record in records]
    apart = repeated(*records[:2]) if len(records) > 1 else {}
    kinds = {kind: one for kind, one in found[0].items() if one.held_out.any()} if found else {}
    lines = [_recorded(machine, one, found[1:], apart) for one in kinds.values()]
    alias = "gemm_fp16" if fit.error.get("gemm_fp16") == fit.error.get("gemm_bf16") else None  # of the same points
    rest = {kind: told for kind, told in fit.error.items() if kind not in kinds and kind != alias}
    lines += [_kept(PUBLISHED.get(kind, machine.name), kind, "calibrated", told) for kind, told in rest.items()]
    return sorted(lines, key=lambda line: (line.kind, line.machine))


def _recorded(
    machine: GpuMachine, one: Parity, others: Sequence[Mapping[str, Parity]], apart: Mapping[str, Error]
) -> Line:
    told, kind = one.error(), one.kind
    assert told is not None, "it has held-out points"
    return Line(
        kind,
        machine.name,
        "calibrated",
        told,
        one.error(scale=True),
        one.scale(),
        next((other[kind].error() for other in others if kind in other), None),
        apart.get(_PARTS.get(kind, kind)),
        first_evaluations().get(kind) if machine.name == "h200" else None,
        target_of(machine.name, kind),
    )


def _kept(name: str, kind: str, trust: Trust, told: Error) -> Line:
    first = first_evaluations().get(kind) if name == "h200" else None
    return Line(kind, name, trust, told, first=first, target=target_of(name, kind, trust))


def shipped_report(records: Sequence[Record]) -> list[Line]:
    """Every shipped GPU that something is known about: `records` are those of the H200."""
    lines = []
    for name, machine in gpus().items():
        if machine.calibrated:
            lines += report(machine, records if name == "h200" else ())
    return lines + anchored_lines()


def anchored_lines() -> list[Line]:
    """Published times of other devices: by class with each anchor left out in turn, and without any scale."""
    from analysis.gpu.anchors import Scored, anchors, scaled

    seconds = {one.id: found for one in anchors() if (found := _blind(one)) is not None}
    groups: dict[tuple[str, str, str], list[Scored]] = {}
    for one in scaled([one for one in anchors() if one.id in seconds], lambda one: seconds[one.id]):
        groups.setdefault((one.anchor.kind, one.anchor.device, one.anchor.role), []).append(one)
    return [line for key, some in sorted(groups.items()) for line in _published(*key, some)]


def _blind(one: "Anchor") -> float | None:
    """None for what a fit was made with, and where no fit of the device has the class."""
    from analysis.gpu.anchored import blind_s

    try:
        return None if one.role == "input" else blind_s(one)
    except ValueError:
        return None


def _published(kind: str, device: str, role: str, some: Sequence["Scored"]) -> Iterator[Line]:
    published = [one.anchor.seconds for one in some]
    if role == "anchor" and len(some) > 1:
        yield _kept(device, kind, "anchored", error([one.left_out_s for one in some], published))
    yield _kept(device, kind, "blind", error([one.blind_s for one in some], published))


def load_records(paths: Sequence[Path] = ()) -> list[Record]:
    """Calibration records; by default those of the two H200s. ValueError for anything else."""
    from analysis.gpu.calibrate import read_calibration

    return [read_calibration(path) for path in paths or [RESULTS / name for name in RECORDS]]


HEAD = (
    *("class", "device", "points", "mean / p90", "bias", "scaled"),
    *("second machine", "two machines apart", "first evaluation", "asked for"),
)
PUBLISHED_HEAD = ("class", "device", "trust", "points", "mean / p90", "bias", "asked for")


def calibrated_rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Cells under HEAD, errors in per cent: mean / 90th percentile, signed mean."""
    return [_cells(line) for line in lines if line.trust == "calibrated"]


def _cells(line: Line) -> tuple[str, ...]:
    again = "" if line.again is None else f"{100 * line.again.mean:.1f}"
    others = (_pair(line.scaled), _pair(line.second), again, _pair(line.first))
    return (line.kind, line.machine, *_told(line.error), *others, _asked(line))


def published_rows(lines: Sequence[Line]) -> list[tuple[str, ...]]:
    """Cells under PUBLISHED_HEAD, of what is anchored or blind."""
    some = [line for line in lines if line.trust != "calibrated"]
    return [(line.kind, line.machine, line.trust, *_told(line.error), _asked(line)) for line in some]


def _told(error: Error) -> tuple[str, ...]:
    return f"{error.points:,}", _pair(error), f"{100 * error.bias:+.1f}"


def _pair(error: Error | None) -> str:
    return "" if error is None else f"{100 * error.mean:.1f} / {100 * error.p90:.1f}"


def _asked(line: Line) -> str:
    if line.target is None:
        return ""
    p90 = "" if line.target.p90 is None else f" / {100 * line.target.p90:g}"
    return f"{100 * line.target.mean:g}{p90}: {'yes' if line.reached else 'no'}"


def markdown(head: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table of a page."""
    told = [head, ("---",) * len(head), *cells]
    return "\n".join("| " + " | ".join(row) + " |" for row in told)


def drawn(machine: GpuMachine, record: Record) -> dict[str, Parity]:
    """The classes of a record that have held-out points."""
    found = parities(machine, load_fit(machine.fit[0]), record)
    return {kind: one for kind, one in found.items() if one.held_out.any()}
