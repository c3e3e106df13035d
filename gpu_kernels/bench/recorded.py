"""Figures of kernels that are not run here, measured once on an H200: `peers_h200.csv`, scaled to the run at hand."""

import csv
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("peers_h200.csv")
YARDSTICK = {"gemm": "torch_bf16", "attention": "sdpa_bf16"}  # torch, measured in both runs


@cache
def figures() -> dict[tuple[str, str], dict[str, float]]:
    """(kind, shape) -> microseconds by peer."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    lines = (line for line in FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
    for row in csv.DictReader(lines):
        found.setdefault((row["kind"], row["shape"]), {})[row["peer"]] = float(row["us"])
    return found


def scaled(kind: str, shape: str, yardstick_us: float | None) -> dict[str, float]:
    """Microseconds of each recorded peer times the yardstick's ratio of this run to that one; {} without either."""
    known = dict(figures().get((kind, shape), {}))
    then = known.pop(YARDSTICK[kind], None)
    if then is None or yardstick_us is None:
        return {}
    return {name: us * yardstick_us / then for name, us in known.items()}
