"""Rows of a reproduction as Markdown, for the page that tells of them."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

HEAD = ("row", "published", "first", "ours", "range", "deviation", "as released", "role", "within")
_MOST = 16  # lines of the sensitivity that a page shows
Row = Mapping[str, Any]


def number(value: float | None) -> str:
    """Four digits, nothing where there is none."""
    return "" if value is None else f"{value:.4g}"


def cells(row: Row) -> tuple[str, ...]:
    """The columns of a row as text, for the screen and the page alike."""
    span = "" if row["low"] is None else f"{row['low']:.4g} to {row['high']:.4g}"
    deviation = "" if row["deviation"] is None else f"{100 * row['deviation']:+.1f} %"
    numbers = (number(row[key]) for key in ("published", "first_contact", "ours"))
    within = {True: "yes", False: "no", None: ""}[row["within"]]
    return (row["id"], *numbers, span, deviation, number(row["ours_as_released"]), row["role"], within)


def is_headline(row: Row) -> bool:
    """What a page shows: not the single tasks of Figs. 14 and 15, nor the entries of the top-k table."""
    grouped = any(part in row["id"] for part in (".geomean.", ".bert.", ".gpt2.", "rank_correlation"))
    return grouped or not row["id"].startswith(("fig14.", "fig15.", "topk.n"))


def markdown(rows: Iterable[Row]) -> str:
    """The headline rows as a table."""
    lines = [cells(row) for row in rows if is_headline(row) and row["ours"] is not None]
    return _table(HEAD, lines)


def sensitivity_cells(lines: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and lines of the sensitivity table as text."""
    names = [name for name in lines[0] if name not in ("assumption", "end")]
    head = ("assumption", "end", *(name.removeprefix("fig14.") for name in names))
    return head, [(s["assumption"], s["end"], *(f"{100 * s[n]:+.1f} %" for n in names)) for s in lines]


def sensitivity_markdown(lines: Sequence[Row]) -> str:
    """The assumptions that move most."""
    return _table(*sensitivity_cells(lines[:_MOST])) if lines else ""


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rule = "|".join(["---"] * len(head))
    first, *rest = ("| " + " | ".join(line) + " |" for line in (head, *lines))
    return "\n".join([first, f"|{rule}|", *rest])
