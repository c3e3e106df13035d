"""Published times of devices that nobody here owns: one scale a device and class, judged by leaving one anchor out.

`published/gpu_anchors.csv`, at most 12 rows of role `anchor` a device. The scale of a class is the geometric mean of
published over predicted times. `errors` predicts each anchor with the scale of the others of its class; an anchor that
is alone is predicted blind. Rows of role `prediction` are scored with the machine file as it is and scale nothing.
"""

import csv
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import ceil, exp, log

from accel.gpu.fit import Error
from analysis.gpu.held_out import error
from dataflow.gpu.prediction import Prediction

MOST = 12  # anchors of a device
_TEXTS = ("id", "device", "model", "execution", "format", "source", "other_source", "role", "note")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass(frozen=True)
class Anchor:
    """One published time.

    kind       class of the error table
    model      a workload for whole models, "" for kernels; `execution` of `dataflow.gpu.host` with it
    problem    arguments of the kernel
    limit_w    of the card where it ran on under a power limit, so that its clock fell; None where nothing is told
    other_s    what another source prints for the same; None where there is none
    role       anchor: scales its class; prediction: only scored; input: a fit was made with it
    """

    id: str
    device: str
    kind: str
    model: str
    execution: str
    problem: Mapping[str, int]
    limit_w: float | None
    format: str
    seconds: float
    source: str
    other_s: float | None
    other_source: str
    role: str
    note: str

    @property
    def spread(self) -> float:
        """By which the longer of two published times exceeds the shorter; 0 for one source."""
        return 0.0 if self.other_s is None else max(self.seconds, self.other_s) / min(self.seconds, self.other_s) - 1


@cache
def anchors() -> tuple[Anchor, ...]:
    """All rows of the table."""
    text = (files("analysis") / "published" / "gpu_anchors.csv").read_text("utf-8")
    return tuple(_anchor(row) for row in csv.DictReader(text.splitlines()))


def _anchor(row: Mapping[str, str]) -> Anchor:
    unit = _UNITS[row["unit"]]
    return Anchor(
        kind=row["class"],
        problem={name: int(value) for name, _, value in (part.partition("=") for part in row["problem"].split())},
        limit_w=float(row["limit_w"]) if row["limit_w"] else None,
        seconds=float(row["published"]) * unit,
        other_s=float(row["other"]) * unit if row["other"] else None,
        **{name: row[name] for name in _TEXTS},
    )


@dataclass(frozen=True)
class Scored:
    """An anchor, and what is predicted for it: as the data sheet alone has it, and with the scale of the others."""

    anchor: Anchor
    blind_s: float
    left_out_s: float

    @property
    def off(self) -> float:
        """Signed relative error with the anchor left out."""
        return self.left_out_s / self.anchor.seconds - 1


def scaled(some: Iterable[Anchor], blind: Callable[[Anchor], float]) -> list[Scored]:
    """Each anchor with the geometric mean of the others of its device and class. `blind`: seconds without a scale."""
    groups: dict[tuple[str, str], list[tuple[Anchor, float]]] = defaultdict(list)
    for one in some:
        groups[one.device, one.kind].append((one, blind(one)))
    return [row for group in groups.values() for row in _left_out(group)]


def _left_out(group: Sequence[tuple[Anchor, float]]) -> list[Scored]:
    found = []
    for index, (one, seconds) in enumerate(group):
        others = [pair for place, pair in enumerate(group) if place != index and pair[0].role == "anchor"]
        found.append(Scored(one, seconds, seconds * (1.0 if one.role != "anchor" else scale(others))))
    return found


def scale(pairs: Sequence[tuple[Anchor, float]]) -> float:
    """Geometric mean of published over predicted; 1 for none."""
    return exp(sum(log(one.seconds / seconds) for one, seconds in pairs) / len(pairs)) if pairs else 1.0


def shipped(rows: Sequence[Scored]) -> dict[tuple[str, str], tuple[float, float]]:
    """By (device, class): the scale of a machine file, and the share of its band.

    Of classes with two anchors or more whose left-out times are nearer with the scale of the others than blind. The
    band is the largest error of a left-out time, in steps of one per cent, at least 5 %.
    """
    blind, left_out = errors(rows, left_out=False), errors(rows)
    found = {}
    for key, group in _groups(rows).items():
        used = [(row.anchor, row.blind_s) for row in group if row.anchor.role == "anchor"]
        if len(used) > 1 and left_out[key].mean < blind[key].mean:
            worst = max(abs(row.off) for row in group)
            found[key] = scale(used), max(0.05, ceil(100 * worst - 1e-9) / 100)
    return found


def errors(rows: Iterable[Scored], left_out: bool = True) -> dict[tuple[str, str], Error]:
    """By (device, class), each anchor left out in turn; or all of them blind."""
    return {
        key: error(
            [row.left_out_s if left_out else row.blind_s for row in group], [row.anchor.seconds for row in group]
        )
        for key, group in _groups(rows).items()
    }


def _groups(rows: Iterable[Scored]) -> dict[tuple[str, str], list[Scored]]:
    groups: dict[tuple[str, str], list[Scored]] = defaultdict(list)
    for row in rows:
        groups[row.anchor.device, row.anchor.kind].append(row)
    return groups


def disagreement(prediction: Prediction) -> str | None:
    """What to say where published sources of the class disagree on this device by more than the prediction's band."""
    rows = [one for one in anchors() if (one.device, one.kind) == (prediction.machine, prediction.kind)]
    worst = max(rows, key=lambda one: one.spread, default=None)
    if worst is None or worst.other_s is None or worst.spread <= prediction.share:
        return None
    times = f"{1e6 * worst.seconds:.4g} us ({worst.source}) and {1e6 * worst.other_s:.4g} us ({worst.other_source})"
    return (
        f"published sources disagree on {worst.id} by {100 * worst.spread:.0f} %: {times}; "
        f"the band of ±{100 * prediction.share:.0f} % does not cover that"
    )
