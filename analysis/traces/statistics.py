"""Tables of `tilewright trace stats`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.traces.measured import KIND_HEAD, PASS_HEAD, is_timed, kinds, passes
from analysis.traces.totals import HEAD, by_kind, grouped, table
from workloads.export.catalogue import GEMM_KINDS
from workloads.trace import Trace

_MOST = 15  # lines of a table of sizes


@dataclass(frozen=True)
class Table:
    """A title, a head and rows of text."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, ...]]


def statistics(trace: Trace, recorded: Trace | None = None, scheme: str | None = None) -> list[Table]:
    """All tables that the trace has something for. Raises ValueError where it has for none.

    recorded   the trace before `scheme` was applied to it, for its weights
    """
    weights = _weights(recorded or trace, scheme)
    tables = [*_measured(trace), *_operators(trace), *weights, *_values(trace)]
    if not tables:
        raise ValueError(f"{trace.name}: records neither operators, nor weights, nor values of layers")
    return tables


def _measured(trace: Trace) -> Iterator[Table]:
    if is_timed(trace):
        made = trace.made["timed"]["made"]
        yield Table(f"Measured on {made['device']['name']}, {made['date'][:10]}", PASS_HEAD, passes(trace))
        yield Table("Kernel time of eager operators by kind", KIND_HEAD, [*kinds(trace)])


def _operators(trace: Trace) -> Iterator[Table]:
    if not trace.operators:
        return
    yield Table("Operators by kind, most bytes first", HEAD, table(by_kind(trace)))
    yield Table("Operators by part", HEAD, table(grouped(trace, trace.operators["part"].tolist())))
    if "batch" in trace.operators:
        yield Table(
            f"Products by size, most operations first (at most {_MOST})",
            ("kind", "batch", "m", "n", "k", "calls", "GFLOP"),
            _products(trace),
        )


def _products(trace: Trace) -> list[tuple[str, ...]]:
    columns = trace.operators
    rows = np.flatnonzero(np.isin(columns["kind"], GEMM_KINDS))
    found: dict[tuple[str, ...], list[int]] = {}
    for row in rows:
        size = (str(columns["kind"][row]), *(str(columns[name][row]) for name in ("batch", "m", "n", "k")))
        entry = found.setdefault(size, [0, 0])
        entry[0] += int(columns["repeat"][row])
        entry[1] += int(columns["repeat"][row] * columns["flops"][row])
    ranked = sorted(found.items(), key=lambda pair: -pair[1][1])[:_MOST]
    return [(*size, str(calls), f"{flops / 1e9:,.4g}") for size, (calls, flops) in ranked]


def _weights(trace: Trace, scheme: str | None) -> Iterator[Table]:
    if not trace.weights:
        return
    kinds, formats = trace.weights["kind"], trace.weights["format"]
    rows = []
    for kind, number in dict.fromkeys(zip(kinds.tolist(), formats.tolist(), strict=True)):
        mine = (kinds == kind) & (formats == number)
        elements, size = (int(trace.weights[name][mine].sum()) for name in ("elements", "bytes"))
        rows.append((f"{kind}s, {number}", f"{elements:,}", f"{size / 2**30:.4g}"))
    yield Table("Weights as recorded", ("", "elements", "GiB"), rows)
    if scheme:
        from workloads.schemes import read_scheme, weight_bytes

        sizes = weight_bytes(trace, read_scheme(scheme))
        parts = {**sizes.bytes, "total": sizes.total}
        rows = [(name, f"{size:,}", f"{size / 2**30:.4g}") for name, size in parts.items()]
        yield Table(f"Weights under {scheme}", ("component", "bytes", "GiB"), rows)


def _values(trace: Trace) -> Iterator[Table]:
    if trace.made.get("kind") == "values":
        from workloads.values.reading import channel_table, kv_table

        for title, (head, rows) in (("Channels of the layers", channel_table(trace)), ("K and V", kv_table(trace))):
            if rows:
                yield Table(title, head, [tuple(map(_cell, row)) for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
