"""What differs between two traces: how they were made, their totals, and operators module by module."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from workloads.trace import COLUMNS, Trace

Row = tuple[str, ...]


def differences(one: Trace, other: Trace) -> list[Row]:
    """Rows (what, in the first, in the second); none for traces that say the same. Facts are compared by value."""
    rows = [*_heads(one, other), *_operators(one, other), *_weights(one, other)]
    names = sorted({*one.facts, *other.facts})
    return rows + [row for name in names for row in _fact(name, one, other)]


def _heads(one: Trace, other: Trace) -> Iterator[Row]:
    for part in ("model", "made"):
        mine, yours = getattr(one, part), getattr(other, part)
        for key in dict.fromkeys((*mine, *yours)):
            if mine.get(key) != yours.get(key):
                yield f"{part}.{key}", _short(mine.get(key)), _short(yours.get(key))


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _operators(one: Trace, other: Trace) -> Iterator[Row]:
    """Totals, then kinds whose calls differ, then the first modules whose operators differ."""
    from analysis.traces.totals import by_kind, total

    if not one.operators or not other.operators:
        if bool(one.operators) != bool(other.operators):
            yield "operators", *("none" if not trace.operators else "recorded" for trace in (one, other))
        return
    sums = total(one), total(other)
    for key in ("calls", "launches", "flops", "flops_unmasked", "read_bytes", "write_bytes"):
        if getattr(sums[0], key) != getattr(sums[1], key):
            yield f"total {key}", *(f"{getattr(each, key):,}" for each in sums)
    kinds = [{each.name: each.calls for each in by_kind(trace)} for trace in (one, other)]
    for kind in dict.fromkeys((*kinds[0], *kinds[1])):
        if kinds[0].get(kind, 0) != kinds[1].get(kind, 0):
            yield f"calls of {kind}", str(kinds[0].get(kind, 0)), str(kinds[1].get(kind, 0))
    yield from _modules(one, other)


def _modules(one: Trace, other: Trace, most: int = 20) -> Iterator[Row]:
    counts = [_signatures(trace, _stage(one) != _stage(other)) for trace in (one, other)]
    changed = [path for path in dict.fromkeys((*counts[0], *counts[1])) if counts[0].get(path) != counts[1].get(path)]
    for path in changed[:most]:
        only = [_only(counts[a].get(path), counts[1 - a].get(path)) for a in (0, 1)]
        yield path or "(the module)", _short(only[0]), _short(only[1])
    if len(changed) > most:
        yield "modules that differ besides", str(len(changed) - most), ""


def _stage(trace: Trace) -> str | None:
    """The name of the only stage, which differs between a prefill and a decoding step of one model."""
    stages = trace.made.get("stages", ())
    return stages[0]["name"] if len(stages) == 1 else None


def _signatures(trace: Trace, without_stage: bool) -> dict[str, Counter[tuple[Any, ...]]]:
    """Module path -> its operators with their numbers."""
    columns = trace.operators
    layers = [f"layer {layer}" for layer in columns["layer"].tolist()]
    paths = columns["module"].tolist() if "module" in columns else layers
    if without_stage and _stage(trace):
        paths = [path.partition(".")[2] for path in paths]
    names = [name for name in COLUMNS if name not in ("sequence", "step", "layer", "part")]
    found: dict[str, Counter[tuple[Any, ...]]] = {}
    for path, *row in zip(paths, *(columns[name].tolist() for name in names), strict=True):
        found.setdefault(path, Counter())[tuple(row)] += 1
    return found


def _only(mine: Counter[tuple[Any, ...]] | None, yours: Counter[tuple[Any, ...]] | None) -> str:
    left = (mine or Counter()) - (yours or Counter())
    return ", ".join(f"{count} x {row[0]} of {row[1]:,} flops in {row[5]}" for row, count in left.items()) or "-"


def _weights(one: Trace, other: Trace) -> Iterator[Row]:
    if not one.weights and not other.weights:
        return
    tables = [_shapes(trace) for trace in (one, other)]
    changed = [name for name in dict.fromkeys((*tables[0], *tables[1])) if tables[0].get(name) != tables[1].get(name)]
    for name in changed[:20]:
        yield f"weight {name}", tables[0].get(name, "-"), tables[1].get(name, "-")
    if len(changed) > 20:
        yield "weights that differ besides", str(len(changed) - 20), ""


def _shapes(trace: Trace) -> dict[str, str]:
    columns = [trace.weights.get(name, ()) for name in ("name", "shape", "format")]
    return {str(name): f"{shape} {number}" for name, shape, number in zip(*columns, strict=True)}


def _fact(name: str, one: Trace, other: Trace) -> Iterator[Row]:
    mine, yours = one.facts.get(name), other.facts.get(name)
    shown = tuple("-" if each is None else f"{each.dtype} {list(each.shape)}" for each in (mine, yours))
    if mine is None or yours is None or shown[0] != shown[1]:
        yield f"facts.{name}", shown[0], shown[1]
    elif mine.tobytes() != yours.tobytes():
        yield f"facts.{name}", "differs", f"in {int((mine != yours).sum())} of {mine.size} values"
