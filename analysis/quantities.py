"""The numbers that a result holds: their keys, and how to print them."""

import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from sim.result import Result

_PREFIXES = {-18: "a", -15: "f", -12: "p", -9: "n", -6: "µ", -3: "m", 0: "", 3: "k", 6: "M", 9: "G", 12: "T"}
_UNITS = {  # longest suffix first
    "_bytes_per_s": ("B/s", 1.0),
    "_gops_per_s": ("OP/s", 1e9),
    "_bytes": ("B", 1.0),
    "_hz": ("Hz", 1.0),
    "_mm2": ("mm²", 1.0),
    "_j": ("J", 1.0),
    "_s": ("s", 1.0),
}
COUNTS = ("rows", "k_vectors", "v_vectors", "lsb_rows", "recomputed_queries", "topk_passes", "exponentials")
_ZERO: dict[str, int] = {}


@cache
def result_keys() -> tuple[str, ...]:
    """The numeric totals of `Result.to_dict()`, and the counts of attention work."""
    blank = Result("", "", 0, 1.0, "", _ZERO, _ZERO, {}, {}, _ZERO, 0).to_dict()
    totals = [key for key, value in blank.items() if is_number(value)]
    return (*totals, *COUNTS)


def is_number(value: Any) -> bool:
    """int or float; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def flat(row: Mapping[str, Any]) -> dict[str, int | float | str]:
    """A row of the store as columns: totals by name, breakdowns as `energy_j.dram`; lists are left out."""
    columns: dict[str, int | float | str] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            stem = key.partition("_by_")[0]
            columns |= {f"{stem}.{name}": inner for name, inner in value.items() if is_number(inner)}
        elif is_number(value) or isinstance(value, str):
            columns[key] = value
    return columns


def unit_of(key: str) -> tuple[str, float]:
    """(unit, factor to it) by the suffix of the name; ("", 1.0) for a plain number."""
    stem = key.partition(".")[0]
    return next((unit for suffix, unit in _UNITS.items() if stem.endswith(suffix)), ("", 1.0))


def shown(key: str, value: Any) -> str:
    """A value with SI prefix and unit: `latency_s` 0.0123 is `12.3 ms`."""
    if not is_number(value):
        return str(value)
    unit, factor = unit_of(key)
    if unit == "mm²":
        return f"{value:.4g} mm²"
    if not unit and isinstance(value, int):
        return f"{value:,}".replace(",", " ")
    return _si(value * factor, unit)


def times(ratio: float) -> str:
    """A ratio as `1.33x` or `34 800x`, three digits."""
    if not math.isfinite(ratio) or abs(ratio) < 1000:
        return f"{ratio:.3g}x"
    return f"{float(f'{ratio:.3g}'):,.0f}x".replace(",", " ")


def label(key: str) -> str:
    """`latency_s` as `latency`, with the unit kept apart for axes and headings."""
    unit, _ = unit_of(key)
    suffix = next((s for s in _UNITS if key.endswith(s)), "") if unit else ""
    return key.removesuffix(suffix).replace("_", " ")


def _si(value: float, unit: str) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}".strip()
    power = min(12, max(-18, 3 * math.floor(math.log10(abs(value)) / 3)))
    scaled = f"{value / 10**power:.4g}"
    if scaled.lstrip("-") == "1000" and power < 12:
        power, scaled = power + 3, scaled.replace("1000", "1")
    return f"{scaled} {_PREFIXES[power]}{unit}".strip()
