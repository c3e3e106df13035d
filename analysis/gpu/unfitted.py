"""Kernels that others wrote, predicted without a fitted number, beside what an H200 took: first contact and today.

`gpu_kernels/bench/peers_h200.csv` has the times, of 66 products and 16 decode steps;
`first_contact/unfitted_kernels.csv` what the model said when all of it was fixed and it was compared with them for the
first time. Its header tells what had been read before, and logs each change since with the rows that it moved.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from accel.gpu.machine import GpuMachine
from accel.machine import load_machine
from dataflow.gpu.estimate import Estimate
from dataflow.gpu.published_kernels.attention import qserve_attention
from dataflow.gpu.published_kernels.gemm import published_gemm
from gpu_kernels.bench.recorded import figures

FIRST = Path(__file__).parents[1] / "published" / "first_contact" / "unfitted_kernels.csv"
PEERS = {  # of the record, to the names of the model
    "qserve_channel": "qserve_w4a8_channel",
    "qserve_group": "qserve_w4a8_group",
    "qserve_w8a8": "qserve_w8a8",
    "marlin_w4a16": "marlin_w4a16",
}
ATTENTION = "qserve_kv4"
CLASSES = ((1, 16), (17, 128), (129, 1024), (1025, 1 << 30))  # values of M
_LLAMA_3_8B = {"heads": 32, "kv_heads": 8, "head_size": 128}
_COLUMNS = ("kernel", "shape", "predicted_us", "measured_us", "error", "limited_by")


@dataclass(frozen=True)
class Row:
    """One point; `error`: of the prediction, as a share of what was measured, positive when too slow."""

    kernel: str
    shape: str
    predicted_us: float
    measured_us: float
    limited_by: str

    @property
    def error(self) -> float:
        return self.predicted_us / self.measured_us - 1

    @property
    def size(self) -> int:
        """M, or the batch."""
        return int(self.shape.split()[1] if self.shape.startswith("batch") else self.shape.split("x")[0])


@dataclass(frozen=True)
class Score:
    """Absolute error of some points, mean and 90th percentile, and the signed mean."""

    points: int
    mean: float
    p90: float
    bias: float

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Score":
        errors = np.array([row.error for row in rows])
        return cls(
            len(errors), float(np.mean(np.abs(errors))), float(np.percentile(np.abs(errors), 90)), float(errors.mean())
        )


def rows(machine: GpuMachine | None = None) -> list[Row]:
    """Today's predictions for all recorded points, kernel by kernel in the order of the record."""
    machine = machine or _h200()
    found = [row for peer, kernel in PEERS.items() for row in _gemm_rows(machine, peer, kernel)]
    return found + _attention_rows(machine)


def first_contact() -> list[Row]:
    """The rows of the first comparison, as kept."""
    lines = [line for line in FIRST.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return [
        Row(one["kernel"], one["shape"], float(one["predicted_us"]), float(one["measured_us"]), one["limited_by"])
        for one in csv.DictReader(lines)
    ]


def as_csv(found: Sequence[Row]) -> str:
    """Text of a file of rows, without the header of comments."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for row in found:
        numbers = f"{row.predicted_us:.3f}", f"{row.measured_us:g}", f"{row.error:+.4f}"
        writer.writerow((row.kernel, row.shape, *numbers, row.limited_by))
    return text.getvalue()


def scores(found: Sequence[Row]) -> dict[tuple[str, str], Score]:
    """By kernel and class of M: "all", then those of `CLASSES` that have points."""
    result = {}
    for kernel in dict.fromkeys(row.kernel for row in found):
        own = [row for row in found if row.kernel == kernel]
        result[kernel, "all"] = Score.of(own)
        for low, high in CLASSES:
            inside = [row for row in own if low <= row.size <= high]
            if inside:
                result[kernel, _named(low, high)] = Score.of(inside)
    return result


def table() -> str:
    """Markdown: error by kernel and class of M, at first contact and today."""
    then, now = scores(first_contact()), scores(rows())
    lines = [
        "| kernel | M or batch | points | first contact: mean | p90 | bias | today: mean | p90 | bias |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (kernel, size), one in now.items():
        lines.append(f"| {kernel} | {size} | {one.points} | {_cells(then[kernel, size])} | {_cells(one)} |")
    return "\n".join(lines) + "\n"


def _h200() -> GpuMachine:
    machine = load_machine("h200")
    assert isinstance(machine, GpuMachine)
    return machine


def _named(low: int, high: int) -> str:
    return f"{low} to {high}" if high < 1 << 30 else f"above {low - 1}"


def _cells(score: Score) -> str:
    return f"{score.mean:.1%} | {score.p90:.1%} | {score.bias:+.1%}"


def _gemm_rows(machine: GpuMachine, peer: str, kernel: str) -> list[Row]:
    shapes = [(shape, one[peer]) for (kind, shape), one in figures().items() if kind == "gemm" and peer in one]
    m, n, k = np.array([[int(size) for size in shape.split("x")] for shape, _ in shapes]).T
    return _paired(kernel, shapes, published_gemm(machine, kernel, m, n, k))


def _attention_rows(machine: GpuMachine) -> list[Row]:
    shapes = [(shape, one[ATTENTION]) for (kind, shape), one in figures().items() if kind == "attention"]
    sizes = [shape.split() for shape, _ in shapes]  # batch 64 context 1024
    batch, context = np.array([int(size[1]) for size in sizes]), np.array([int(size[3]) for size in sizes])
    return _paired("qserve_attention", shapes, qserve_attention(machine, batch, context, **_LLAMA_3_8B))


def _paired(kernel: str, shapes: list[tuple[str, float]], found: Estimate) -> list[Row]:
    together = zip(shapes, found.seconds, found.limited_by(), strict=True)
    return [Row(kernel, shape, float(1e6 * s), us, limit) for (shape, us), s, limit in together]


if __name__ == "__main__":
    print(table(), end="")
