"""The tables of a record, as Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from gpu_kernels.dram_probe.patterns import ROW_BYTES
from gpu_kernels.dram_probe.suite import KEEP_PERCENT, LSB_PERCENT, STRIDES

Rows = dict[str, dict[str, Any]]


def tables(record: dict[str, Any]) -> str:
    """All tables: useful bandwidth over the sequential stream's, and DRAM bytes over useful bytes."""
    rows = {row["name"]: row for row in record["patterns"]}
    parts = [_ceiling(rows["sequential"]), _kept(rows), _planes(rows), _strided(rows), _random(rows)]
    return "\n\n".join(part for part in [*parts, _fetch(record["fetch_limit"])] if part)


def cell(row: dict[str, Any] | None) -> str:
    """`0.512 (x1.98)`: ratio to the sequential stream, then bytes from DRAM over useful bytes."""
    if row is None:
        return ""
    return f"{row['ratio']:.3f}{_traffic(row)}"


def _traffic(row: dict[str, Any]) -> str:
    if "counters" not in row:
        return ""
    return f" (×{row['counters']['dram_bytes'] / row['useful_bytes']:.2f})"


def _table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _ceiling(row: dict[str, Any]) -> str:
    return f"Sequential stream: {row['useful_bytes_per_s'] / 1e12:.3f} TB/s{_traffic(row)}, variant {row['best']}."


def _grid(head: str, columns: Sequence[str], lines: dict[str, list[dict[str, Any] | None]]) -> str:
    full = {name: cells for name, cells in lines.items() if any(cells)}
    return _table([head, *columns], ([name, *map(cell, cells)] for name, cells in full.items())) if full else ""


def _kept(rows: Rows) -> str:
    lines = {f"{row} B": [rows.get(f"kv_{row}_keep{keep}") for keep in KEEP_PERCENT] for row in ROW_BYTES}
    return _grid("K and V rows", [f"kept {keep} %" for keep in KEEP_PERCENT], lines)


def _planes(rows: Rows) -> str:
    lines = {
        f"{row} B, kept {keep} %": [rows.get(f"planes_{row}_keep{keep}_lsb{lsb}") for lsb in LSB_PERCENT]
        for keep in (100, 50)
        for row in ROW_BYTES
    }
    return _grid("MSB plane, then LSB plane", [f"{lsb} % of LSB rows" for lsb in LSB_PERCENT], lines)


def _strided(rows: Rows) -> str:
    lines = {f"{stride} B": [rows.get(f"strided_{stride}_read_{row}") for row in (32, 64)] for stride in STRIDES}
    return _grid("stride", ["32 B read", "64 B read"], lines)


def _random(rows: Rows) -> str:
    places = ("cached_{}_in_16MiB", *(f"random_{{}}_in_{place}GiB" for place in (2, 8, 16, 32, 64)))
    lines = {f"{row} B": [rows.get(place.format(row)) for place in places] for row in ROW_BYTES}
    return _grid("random rows", [place.partition("_in_")[2] for place in places], lines)


def _fetch(rows: Sequence[dict[str, Any]]) -> str:
    limits = sorted({row["fetch_limit_bytes"] for row in rows})
    found = {(row["name"], row["fetch_limit_bytes"]): row for row in rows}
    names = dict.fromkeys(row["name"] for row in rows)
    body = ([name, *(_fetch_cell(found[name, limit]) for limit in limits)] for name in names)
    return _table(["limit on the L2's fetch", *(f"{limit} B" for limit in limits)], body) if rows else ""


def _fetch_cell(row: dict[str, Any]) -> str:
    useful = row["useful_bytes_per_s"] * row["median_us"][row["best"]] / 1e6
    traffic = f" (×{row['counters']['dram_bytes'] / useful:.2f})" if "counters" in row else ""
    return f"{row['useful_bytes_per_s'] / 1e12:.3f} TB/s{traffic}"
