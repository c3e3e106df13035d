"""What the kernels are to reach: figures of a record by class, and each goal as reached or not."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from typing import Any

from gpu_kernels.bench.recorded import scaled
from gpu_kernels.bench.shapes import CLASSES, Gemm

Row = Mapping[str, Any]
OURS = {"w4a8_channel": "qserve_channel", "w4a8_group": "qserve_group"}  # and whose scheme it is
SDPA = ("sdpa_cudnn", "sdpa_flash")
TORCH = ("torch_bf16", "torch_int8", "torch_fp8", "torch_fp8_fast")
PEERS = (*TORCH, "qserve_channel", "qserve_group", "qserve_w8a8", "marlin_w4a16")
QSERVE_FACTOR = 1.7
LAYERS = {64: (2.3, 3.0), 128: (2.3, 2.8), 256: (2.0, 2.5)}  # batch at context 1024: times faster than torch


@dataclass(frozen=True)
class Goal:
    """One line of the list; `found` is None where the record has no figure for it."""

    text: str
    found: float | None
    reach: float | None
    aim: float | None = None
    at_most: bool = True
    where: str = ""  # the shape of the worst one

    def _met(self, limit: float | None) -> str:
        if self.found is None or limit is None:
            return ""
        return "yes" if (self.found <= limit if self.at_most else self.found >= limit) else "no"

    @property
    def reached(self) -> str:
        """ "yes", "no", or "" where nothing was measured."""
        return self._met(self.reach)

    @property
    def aimed(self) -> str:
        """The same for the aim."""
        return self._met(self.aim)


def mean(values: Iterable[float]) -> float | None:
    """Geometric mean; None of nothing."""
    kept = list(values)
    return exp(sum(map(log, kept)) / len(kept)) if kept else None


def times(row: Row) -> dict[str, float]:
    """Microseconds by contender; recorded peers scaled to this run."""
    found = {name: float(one["us"]) for name, one in row["columns"].items() if "us" in one}
    if row["part"] == "gemm":
        return found | scaled("gemm", row["name"], found.get("torch_bf16"))
    if row["part"] == "attention":
        best = min((found[name] for name in SDPA if name in found), default=None)
        return found | ({} if best is None else {"sdpa_bf16": best}) | scaled("attention", row["name"], best)
    return found


def floor_us(row: Row, column: str) -> float:
    """The W4A8 floor of a GEMM's row, with the scales of groups for those who read them."""
    floors = row["floor_us"]
    return float(floors["group" if column.endswith("_group") else "channel"])


def kind(row: Row) -> str:
    """The class of a GEMM."""
    return Gemm(row["layer"], row["m"], row["n"], row["k"]).kind


def over_floor(rows: Sequence[Row], column: str) -> float | None:
    """Geometric mean of time over floor, of the rows that have the column."""
    return mean(us[column] / floor_us(row, column) for row in rows if column in (us := times(row)))


def best_peer(row: Row, among: Sequence[str] = PEERS) -> float | None:
    """Microseconds of the fastest of the peers."""
    us = times(row)
    return min((us[name] for name in among if name in us), default=None)


def worst(rows: Sequence[Row], column: str, peer: Callable[[Row], float | None]) -> tuple[float | None, str]:
    """(largest of ours over the peer's time, where)."""
    ratios = {}
    for row in rows:
        us, other = times(row), peer(row)
        if column in us and other is not None:
            ratios[row["name"]] = us[column] / other
    return max(((ratio, name) for name, ratio in ratios.items()), default=(None, ""))


def peer_named(name: str) -> Callable[[Row], float | None]:
    """That peer's time in a row."""
    return lambda row: times(row).get(name)


def part(record: Row, name: str) -> list[Row]:
    """Rows of a part that have columns."""
    return [row for row in record.get("rows", []) if row.get("part") == name and row["columns"]]


def goals(record: Row) -> list[Goal]:
    """Every goal of the list, in its order."""
    attention, gemm = part(record, "attention"), part(record, "gemm")
    found = _attention(attention)
    for column in OURS:
        found += _gemm(gemm, column)
    return found + _layer(part(record, "layer"))


def _attention(rows: Sequence[Row]) -> list[Goal]:
    large = [row for row in rows if row["batch"] >= 64 and "kv4" in times(row)]
    ratios = {row["name"]: times(row)["kv4"] / row["floor_us"]["4"] for row in large}
    most, where = max(((ratio, name) for name, ratio in ratios.items()), default=(None, ""))
    single = next((times(row) for row in rows if (row["batch"], row["context"]) == (1, 8192)), {})
    both = {"kv4", "sdpa_bf16"} <= set(single)
    text = "KV4 attention, batch 1, context 8192"
    return [
        Goal("KV4 attention, batch >= 64: mean time over floor", mean(ratios.values()), 1.5, 1.2),
        Goal("the same, worst shape", most, 1.5, 1.2, where=where),
        Goal(f"{text}: time over torch's", single["kv4"] / single["sdpa_bf16"] if both else None, 1.0),
        Goal(f"{text}: microseconds", single.get("kv4"), None, 8.0),
    ]


def _gemm(rows: Sequence[Row], column: str) -> list[Goal]:
    by_class = {name: [row for row in rows if kind(row) == name] for name in CLASSES}
    limits = {CLASSES[0]: (2.0, 1.6), CLASSES[1]: (2.0, 1.6), CLASSES[2]: (1.8, 1.5), CLASSES[3]: (1.8, 1.5)}
    found = [Goal(f"{column}, {name}: mean time over floor", over_floor(by_class[name], column), *limits[name])
             for name in CLASSES]  # fmt: skip
    for peer in ("torch_bf16", "torch_int8"):
        large = [row for row in by_class[CLASSES[2]] if {column, peer} <= set(times(row))]
        speed = mean(times(row)[peer] / times(row)[column] for row in large)
        found.append(Goal(f"{column}, M >= 1024: times faster than {peer}, mean", speed, 1.5, at_most=False))
    ratio, where = worst(rows, column, peer_named("torch_bf16"))
    found.append(Goal(f"{column}, any shape: worst time over torch_bf16's", ratio, 1.0, where=where))
    ratio, where = worst(rows, column, peer_named(OURS[column]))
    text = f"{column}, any shape: worst time over {OURS[column]}'s (recorded, scaled)"
    found.append(Goal(text, ratio, 1 / QSERVE_FACTOR, where=where))
    ratio, where = worst(rows, column, best_peer)
    return [
        *found,
        Goal(f"{column}, any shape: worst time over the best peer's", ratio, None, 1.0, where=where),
    ]


def _layer(rows: Sequence[Row]) -> list[Goal]:
    found = []
    for batch, (reach, aim) in LAYERS.items():
        us = next((times(row) for row in rows if (row.get("batch"), row.get("context")) == (batch, 1024)), {})
        peers = [time for name, time in us.items() if name.startswith("torch")]
        speed = min(peers) / us["tilewright"] if peers and "tilewright" in us else None
        found.append(Goal(f"decode layer, batch {batch}: times faster than torch", speed, reach, aim, at_most=False))
    return found
