"""The tables of a record, as (title, head, rows of text); needs no GPU and no torch."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpu_kernels.bench.goals import (
    OURS,
    PEERS,
    Goal,
    Row,
    best_peer,
    floor_us,
    goals,
    kind,
    over_floor,
    part,
    peer_named,
    times,
    worst,
)
from gpu_kernels.bench.goals import mean as geometric_mean
from gpu_kernels.bench.shapes import CLASSES, Gemm

Table = tuple[str, list[str], list[list[str]]]
GEMMS = ("w4a8_channel", "w4a8_group", "w8a8", "w4a16", "portable_channel", "portable_group")
SHORT = {  # * behind a peer that was recorded in another run and is scaled
    "w4a8_channel": "W4A8 ch",
    "w4a8_group": "W4A8 grp",
    "w8a8": "W8A8",
    "w4a16": "W4A16",
    "portable_channel": "mma ch",
    "portable_group": "mma grp",
    "torch_bf16": "bf16",
    "torch_int8": "int_mm",
    "torch_fp8": "fp8",
    "torch_fp8_fast": "fp8 fast",
    "qserve_channel": "QServe ch*",
    "qserve_group": "QServe grp*",
    "qserve_w8a8": "QServe W8*",
    "marlin_w4a16": "Marlin*",
}
_UNITS = {"bytes_per_s": (1e12, "TB/s"), "per_s": (1e12, "TOPS"), "clock_hz": (1e6, "MHz"), "us": (1.0, "us")}


def tables(record: Mapping[str, Any]) -> list[Table]:
    """Everything that the record holds."""
    found = [surroundings(record), ceilings(record)]
    if rows := part(record, "gemm"):
        found += [gemm_ours(rows), gemm_peers(rows), gemm_means(rows), gemm_worst(rows)]
    if rows := part(record, "attention"):
        found.append(attention_times(rows))
    found += [plain(name, rows) for name in ("layer", "activations", "ablations") if (rows := part(record, name))]
    refused = refusals(record)
    late = unfinished(record)
    return [*found, goal_table(goals(record)), *(one for one in (refused, late) if one[2])]


def unfinished(record: Mapping[str, Any]) -> Table:
    """Parts that an interrupted run did not come to, or to whose end it did not come."""
    ended = record.get("seconds_by_part", {})
    rows = []
    for name in (name for name in record.get("parts", ()) if name not in ended and name != "ceilings"):
        count = len(part(record, name))
        rows.append([name, f"interrupted after {count} rows" if count else "not run"])
    return "Interrupted", ["part", ""], rows


def surroundings(record: Mapping[str, Any]) -> Table:
    """Device, versions, date; clocks and power over the run."""
    names = ("device", "driver", "cuda", "nvrtc", "date", "commit", "seconds")
    rows = [[name, str(record.get(name))] for name in names]
    rows.append(["torch", str(record.get("packages", {}).get("torch"))])
    for name, one in record.get("state", {}).items():
        rows.append([name, f"{one['median']:g} ({one['least']:g} to {one['most']:g})"])
    return "Run; clocks (MHz), power (W), temperature: median (least to most)", ["", ""], rows


def ceilings(record: Mapping[str, Any]) -> Table:
    """Rates in TB/s and TOPS (of floats: TFLOP/s)."""
    rows = []
    for name, value in record.get("ceilings", {}).items():
        unit = next((unit for end, unit in _UNITS.items() if name.endswith(end)), None)
        if unit and isinstance(value, int | float):
            rows.append([name, f"{value / unit[0]:.4g} {unit[1]}"])
    sustained = record.get("ceilings", {}).get("int8_sustained", {}).get("state", {})
    for name in ("clocks.sm", "power.draw"):
        if name in sustained:
            rows.append([f"sustained: {name}", f"{sustained[name]['median']:g}"])
    return "Ceilings", ["", ""], rows


def _time(us: Mapping[str, float], name: str, floor: float | None = None) -> str:
    """Microseconds, with per cent of the floor's speed behind where there is one."""
    if name not in us:
        return "-"
    return f"{us[name]:.2f}" + ("" if floor is None else f" ({100 * floor / us[name]:.0f} %)")


def gemm_ours(rows: Sequence[Row]) -> Table:
    """Microseconds of ours with per cent of the floor; bytes and operations a second of the one per channel."""
    body = []
    for row in rows:
        us = times(row)
        ours = [_time(us, name, floor_us(row, name) if name.startswith("w4a8") else None) for name in GEMMS]
        body.append([row["layer"], row["name"], f"{row['floor_us']['channel']:.2f}", *ours, *_rates(row, us)])
    head = ["layer", "M x N x K", "floor", *_titles(GEMMS), "TB/s", "TOPS"]
    return "GEMM, ours, microseconds (per cent of the W4A8 floor); rates of W4A8 per channel", head, body


def _rates(row: Row, us: Mapping[str, float]) -> list[str]:
    if "w4a8_channel" not in us:
        return ["-", "-"]
    shape = Gemm(row["layer"], row["m"], row["n"], row["k"])
    moved, done = shape.bytes_moved() / us["w4a8_channel"] / 1e6, shape.operations / us["w4a8_channel"] / 1e6
    return [f"{moved:.2f}", f"{done:.0f}"]


def gemm_peers(rows: Sequence[Row]) -> Table:
    """Microseconds of all."""
    names = [*OURS, *PEERS]
    body = [[row["layer"], row["name"], *(_time(us, name) for name in names)] for row in rows if (us := times(row))]
    title = "GEMM, ours and peers, microseconds; * recorded elsewhere, scaled by torch in bfloat16"
    return title, ["layer", "M x N x K", *_titles(names)], body


def _titles(names: Iterable[str]) -> list[str]:
    return [SHORT.get(name, name) for name in names]


def gemm_means(rows: Sequence[Row]) -> Table:
    """Geometric mean of time over floor, by class."""
    head = ["shapes", *_titles((*GEMMS, *PEERS)), "best peer"]
    body = []
    for name in CLASSES:
        some = [row for row in rows if kind(row) == name]
        best = geometric_mean(peer / floor_us(row, "") for row in some if (peer := best_peer(row)) is not None)
        values = [*(over_floor(some, column) for column in (*GEMMS, *PEERS)), best]
        body.append([name, *(_ratio(value) for value in values)])
    return "GEMM, geometric mean of time over the W4A8 floor", head, body


def gemm_worst(rows: Sequence[Row]) -> Table:
    """Ours over each peer: geometric mean, and the worst with its shape."""
    body = []
    for column in OURS:
        for name, peer in {title: peer_named(name) for name, title in zip(PEERS, _titles(PEERS), strict=True)}.items():
            ratio, where = worst(rows, column, peer)
            body.append([SHORT[column], name, _ratio(_mean_ratio(rows, column, peer)), _ratio(ratio), where])
        ratio, where = worst(rows, column, best_peer)
        body.append([SHORT[column], "best peer", _ratio(_mean_ratio(rows, column, best_peer)), _ratio(ratio), where])
    return "GEMM, our time over a peer's", ["ours", "peer", "mean", "worst", "at"], body


def _mean_ratio(rows: Sequence[Row], column: str, peer: Any) -> float | None:
    pairs = [(times(row).get(column), peer(row)) for row in rows]
    return geometric_mean(ours / other for ours, other in pairs if ours is not None and other is not None)


def attention_times(rows: Sequence[Row]) -> Table:
    """Microseconds a shape; ours with per cent of the floor of its own width."""
    names = list(dict.fromkeys(name for row in rows for name in row["columns"] if not name.startswith("sdpa")))
    head = ["batch", "context", "KV4 floor", "bf16 floor", *names, "sdpa_bf16", "qserve_kv4*", "kv4 / sdpa_bf16"]
    body = []
    for row in rows:
        us, floors = times(row), row["floor_us"]
        lead = [str(row["batch"]), str(row["context"]), f"{floors['4']:.2f}", f"{floors['16']:.2f}"]
        ours = [_time(us, name, floors.get(name.removeprefix("kv"))) for name in names]
        both = us["kv4"] / us["sdpa_bf16"] if {"kv4", "sdpa_bf16"} <= set(us) else None
        body.append([*lead, *ours, _time(us, "sdpa_bf16"), _time(us, "qserve_kv4"), _ratio(both)])
    return (
        "Decode attention, microseconds (per cent of its floor); * recorded elsewhere, scaled by sdpa_bf16",
        head,
        body,
    )


def plain(name: str, rows: Sequence[Row]) -> Table:
    """A part that a kernel's folder brought along: microseconds by contender."""
    columns = list(dict.fromkeys(column for row in rows for column in row["columns"]))
    body = []
    for row in rows:
        us, floor = times(row), row.get("floor_us", {})
        floors = floor.values() if isinstance(floor, Mapping) else [floor]
        lead = [row["name"], ", ".join(f"{one:.2f}" for one in floors)]
        body.append([*lead, *(_time(us, column) for column in columns)])
    return f"{name}, microseconds", ["", "floor", *columns], body


def goal_table(found: Sequence[Goal]) -> Table:
    """Each goal: the figure, what is to be reached, whether it is."""
    body = []
    for goal in found:
        sign = "<=" if goal.at_most else ">="
        reach, aim = ("" if x is None else f"{sign} {x:.3g}" for x in (goal.reach, goal.aim))
        body.append([goal.text, _ratio(goal.found), reach, goal.reached, aim, goal.aimed, goal.where])
    return "Goals", ["", "found", "reach", "reached", "aim", "reached", "at"], body


def refusals(record: Mapping[str, Any]) -> Table:
    """What could not be measured, and why; equal reasons of one column in one row."""
    found: dict[tuple[str, str], list[str]] = {("ceilings " + name, why): [] for name, why
                                               in record.get("ceilings", {}).get("refused", {}).items()}  # fmt: skip
    for row in record.get("rows", []):
        if "refused" in row:
            found.setdefault((row["part"], row["refused"]), []).append(row["name"])
        for name, one in row["columns"].items():
            if "refused" in one:
                found.setdefault((f"{row['part']} {name}", one["refused"]), []).append(row["name"])
    body = [[what, str(len(where)), where[0] if where else "", why] for (what, why), where in found.items()]
    return "Not measured", ["", "shapes", "first", "why"], body


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def markdown(record: Mapping[str, Any], *titles: str) -> str:
    """The tables whose titles begin with one of `titles` (all without), as a README shows them."""
    found = []
    for title, head, rows in tables(record):
        if not titles or title.startswith(titles):
            lines = ["| " + " | ".join(head) + " |", "| --- " * len(head) + "|"]
            found.append("\n".join([f"**{title}**", "", *lines, *("| " + " | ".join(row) + " |" for row in rows)]))
    return "\n\n".join(found)
