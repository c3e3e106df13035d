"""How `tilewright predict` prints: one prediction in full, a table of many, or JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from analysis.gpu.anchors import disagreement
from analysis.quantities import shown
from dataflow.gpu.prediction import Prediction, with_warning

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def to_json(predictions: Sequence[Prediction]) -> dict[str, Any]:
    """One point as it is, several under `points`."""
    rows = [row for prediction in predictions for row in prediction.rows()]
    return rows[0] if len(rows) == 1 else {"points": rows}


def tables(predictions: Sequence[Prediction]) -> list[Table]:
    """One point told in full; several, a line each."""
    if sum(map(len, predictions)) == 1:
        return [_totals(predictions[0]), _terms(predictions[0])]
    return [_lines(predictions)]


def notes(predictions: Sequence[Prediction]) -> list[str]:
    """Sentences under a table: what was left out, each once."""
    left = dict.fromkeys(gap for prediction in predictions for gap in prediction.left_out)
    return [f"left out: {gap}" for gap in left]


def doubted(predictions: Sequence[Prediction]) -> list[Prediction]:
    """With a warning where published sources disagree by more than the band."""
    return [with_warning(one, disagreement(one)) for one in predictions]


def warnings(predictions: Sequence[Prediction]) -> list[str]:
    """What a user should know before using the numbers, each once."""
    return list(dict.fromkeys(text for prediction in predictions for text in prediction.warnings))


def _totals(one: Prediction) -> Table:
    row = one.row(0)
    asked = ", ".join(f"{name} {shown(name, int(values[0]))}" for name, values in one.problem.items())
    band = f"{shown('low_s', row['low_s'])} to {shown('high_s', row['high_s'])}"
    lines = [
        ("time", shown("latency_s", row["latency_s"])),
        ("90 % band", band),
        *_throttled(row),
        ("floor", f"{shown('floor_s', row['floor_s'])}  ({100 * row['floor_s'] / row['latency_s']:.0f} % of the time)"),
        ("limited by", row["limited_by"]),
        ("DRAM read, written", _both(row["dram_read_bytes"], row["dram_write_bytes"])),
        ("L2", shown("l2_bytes", row["l2_bytes"])),
        ("operations", "  ".join(f"{unit} {_si(count)}" for unit, count in row["operations"].items() if count)),
        ("energy, without idle", _energy(row)),
        ("class, trust", f"{row['kind']}, {standing(one)}"),
    ]
    name = f"{row['machine']}: {one.format or row['kind']}  {asked}"
    return name, ["", ""], lines


def _throttled(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """A line where the power limit would lower the clock."""
    if not row["sustained_s"] > 1.01 * row["latency_s"]:
        return []
    return [("at the power limit", f"{shown('latency_s', row['sustained_s'])}, if it goes on for some 10 ms")]


def _both(read: float, written: float) -> str:
    return f"{shown('dram_bytes', read)}, {shown('dram_bytes', written)}"


def _si(count: float) -> str:
    return shown("count", float(count))


def _energy(row: Mapping[str, Any]) -> str:
    if np.isnan(row["energy_j"]):
        return "no model of it here"
    joules = f"{shown('energy_j', row['energy_j'])}, {shown('energy_j', row['dynamic_j'])}"
    known = row["power_error"]
    off = f"; power was {100 * known['mean']:.0f} % off in the mean on the device of its fit" if known else ""
    return f"{joules}  ({row['power_w']:.0f} W{off})"


def standing(one: Prediction) -> str:
    """`calibrated (fit h200): held out 4.1 % mean, 9.0 % p90, bias -0.4 %, 131 points`."""
    if one.error is None:
        return f"{one.trust} (fit {one.fit}); band ±{100 * one.share:.0f} % assumed, nothing was held out"
    error = {name: 100 * value for name, value in asdict_plain(one.error).items() if name != "points"}
    told = f"{error['mean']:.1f} % mean, {error['p90']:.1f} % p90, bias {error['bias']:+.1f} %"
    where = "held out" if one.trust == "calibrated" else f"on the device of fit {one.fit}"
    return f"{one.trust} (fit {one.fit}); {where}: {told}, {one.error.points} points; band ±{100 * one.share:.0f} %"


def asdict_plain(error: Any) -> dict[str, float]:
    """A pydantic model or dataclass as a mapping."""
    return dict(error.model_dump()) if hasattr(error, "model_dump") else asdict(error)


def _terms(one: Prediction) -> Table:
    """What each resource alone would take."""
    row = one.row(0)
    ordered = sorted(row["terms"].items(), key=lambda item: -item[1])
    lines = [
        (name, shown("latency_s", seconds), f"{100 * seconds / row['latency_s']:.0f} %") for name, seconds in ordered
    ]
    return "What each part alone would take", ["", "time", "of the whole"], lines


def _lines(predictions: Sequence[Prediction]) -> Table:
    """A line a point; what is the same for all stands in the title."""
    names = list(dict.fromkeys(name for one in predictions for name in one.problem))
    head = ["machine", "format", *names, "time", "low", "high", "floor", "DRAM", "energy", "limited by", "trust"]
    rows = [_line(row, names) for one in predictions for row in one.rows()]
    same = [column for column in range(len(names) + 2) if len({row[column] for row in rows}) == 1]
    title = ", ".join(f"{head[column]} {rows[0][column]}".removeprefix("machine ") for column in same)
    kept = [column for column in range(len(head)) if column not in same]
    return title or "Predictions", [head[column] for column in kept], [[row[c] for c in kept] for row in rows]


def _line(row: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    asked = [shown(name, row[name]) if name in row else "" for name in names]
    times = [shown("latency_s", row[key]) for key in ("latency_s", "low_s", "high_s", "floor_s")]
    energy = "" if np.isnan(row["energy_j"]) else shown("energy_j", row["energy_j"])
    first, last = [row["machine"], str(row.get("format") or row["kind"])], [row["limited_by"], row["trust"]]
    return [*first, *asked, *times, shown("dram_bytes", row["dram_bytes"]), energy, *last]
