"""`Trace`: what a model computed, in one sealed file (`workloads/trace_file.py`). No torch here."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

DATA = Path(__file__).parent / "data"
BENCHMARKS = Path(__file__).parent / "benchmarks" / "specs"
SUFFIX = ".trace.zip"
SHELVES = ("", "exported", "timed", "values")  # folders under data
Columns = Mapping[str, NDArray[Any]]
COLUMNS = (
    *("kind", "part", "sequence", "step", "layer", "flops"),
    *("read_bytes", "write_bytes", "repeat", "format", "launches"),
)
EXPORTED = ("op", "module", "flops_unmasked", "batch", "m", "n", "k")  # with these an operator says where it is from
OPERANDS = ("operator", "output", "producer", "weight", "format", "shape", "strides", "bytes")
WEIGHTS = ("name", "kind", "format", "shape", "elements", "bytes")
TEXT_COLUMNS = ("kind", "part", "format", "op", "module", "shape", "strides", "name")
TABLES = {"operators": (*COLUMNS, *EXPORTED), "operands": OPERANDS, "weights": WEIGHTS}


@dataclass(frozen=True, eq=False)
class Trace:
    """Operators with shapes and formats, plus the data-dependent facts that hardware reacts to.

    model      name, layers, heads, head_size, hidden, ... of the model
    made       how the trace came about: `kind` ("dense": replay under any policy; "recorded": the pruning is
               part of the trace; "benchmark": stated numbers, no run; "exported": operators that PyTorch
               dispatched, `workloads/export`; "values": statistics of a real run, `workloads/values`), source,
               versions, in-loop policies, rounding rules
    operators  one entry per eager operator, all of one length: kind (linear, bmm, softmax, copy, add, mul,
               gelu, layernorm, view, ...), part ("attention", "linear_attention", "fc", "other"), sequence, step,
               layer, flops, read_bytes, write_bytes, repeat (int64), format ("float32"), launches (1: a device
               kernel is launched; 0: a view, host work only). layer is -1 outside the layers. Exported ones
               have the columns `EXPORTED` too, see `workloads/export/table.py`. Empty: not recorded
    facts      arrays by name; `workloads/replay.py` and `workloads/released.py` say which
    operands   columns `OPERANDS`, one entry per tensor of an operator, inputs first: operator (row), output
               (0, 1), producer (row of the operator that last wrote it; -1: input, constant, weight), weight
               (row of `weights`; -1), format, shape and strides ("1x4096x3072"), bytes touched
    weights    columns `WEIGHTS`, every parameter and buffer once, whether used or not
    """

    name: str
    model: Mapping[str, Any]
    made: Mapping[str, Any]
    operators: Columns
    facts: Columns = field(default_factory=dict)
    operands: Columns = field(default_factory=dict)
    weights: Columns = field(default_factory=dict)

    def __post_init__(self) -> None:
        allowed = {"operators": (COLUMNS, TABLES["operators"]), "operands": (OPERANDS,), "weights": (WEIGHTS,)}
        for table, layouts in allowed.items():
            if getattr(self, table):
                _check_table(f"{self.name}: {table}", getattr(self, table), layouts)


def _check_table(where: str, columns: Columns, layouts: tuple[tuple[str, ...], ...]) -> None:
    if not any(set(columns) == set(layout) for layout in layouts):
        expected = " or ".join(str(sorted(layout)) for layout in layouts)
        raise ValueError(f"{where}: columns must be {expected}, got {sorted(columns)}")
    lengths = {column: len(values) for column, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{where}: columns must have one length, got {lengths}")


def workload_names(shelf: str = "") -> list[str]:
    """Names of the shipped workloads: those that carry the facts that accelerators react to, or those of a shelf.

    shelf   "exported": operators of full-size models (`workloads/export`); "timed": the same with times measured on
            a GPU (`workloads/timing`); "values": statistics of real runs (`workloads/values`)
    """
    return sorted(path.name.removesuffix(SUFFIX) for path in (DATA / shelf).glob(f"*{SUFFIX}"))


def benchmark_names() -> list[str]:
    """Names of the shipped benchmarks (`workloads/benchmarks`)."""
    return sorted(path.stem for path in BENCHMARKS.glob("*.yaml"))


def load_workload(name_or_path: str | Path) -> Trace:
    """The trace of a shipped workload or benchmark, of a trace file, of a benchmark file (.yaml), of a CSV
    file that SpAtten's authors released, or of a decoding step by name (`workloads.llm_decode`).

    The file is read once as long as it does not change. Raises ValueError for an unknown name or a faulty
    file.
    """
    from workloads.llm_decode import NAMES, decode_trace, is_decode_name

    if is_decode_name(str(name_or_path)):
        return decode_trace(str(name_or_path))
    path = _find(str(name_or_path), NAMES)
    stat = path.stat()
    return _load(path.resolve(), stat.st_mtime_ns, stat.st_size)


def _find(name: str, others: str) -> Path:
    for shelf in SHELVES:
        if name in workload_names(shelf):
            return DATA / shelf / f"{name}{SUFFIX}"
    if name in benchmark_names():
        return BENCHMARKS / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    shipped = [name for shelf in SHELVES for name in workload_names(shelf)]
    near = get_close_matches(name, [*shipped, *benchmark_names()], 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    more = f"one of the {len(workload_names('exported'))} exported models (tilewright trace list)"
    known = f"{', '.join(workload_names())}, {more}, one of the {len(benchmark_names())} benchmarks, {others}"
    kinds = "a trace (.zip), .yaml or .csv file"
    raise ValueError(f"workload: must be one of {known}, or {kinds}, got {name!r}{hint}")


@lru_cache(maxsize=16)
def _load(path: Path, modified: int, size: int) -> Trace:
    if path.suffix == ".csv":
        from workloads.released import read_released

        return read_released(path)
    if path.suffix in (".yaml", ".yml"):
        from workloads.benchmarks import benchmark_trace

        return benchmark_trace(path)
    from workloads.trace_file import read_trace

    return read_trace(path)


def describe(trace: Trace) -> list[tuple[str, str]]:
    """Rows (what, value) of `tilewright trace show`."""
    rows = [("name", trace.name)]
    rows += [(f"model.{key}", _short(value)) for key, value in trace.model.items()]
    rows += [(f"made.{key}", _short(value)) for key, value in trace.made.items() if key != "timed"]
    rows += [(f"timed.{key}", _short(value)) for key, value in trace.made.get("timed", {}).get("made", {}).items()]
    rows += list(_operator_rows(trace.operators))
    for name, values in trace.facts.items():
        rows.append((f"facts.{name}", f"{values.dtype} {list(values.shape)}"))
    return rows


def _short(value: Any, most: int = 300) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}... ({len(text)} characters; --json shows them)"


def _operator_rows(operators: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, str]]:
    for part in sorted(set(operators.get("part", ()))):
        mine = operators["part"] == part
        repeat = operators["repeat"][mine]
        total = {name: int((operators[name][mine] * repeat).sum()) for name in ("launches", "flops")}
        moved = int(((operators["read_bytes"] + operators["write_bytes"])[mine] * repeat).sum())
        counts = f"{repeat.sum()} operators, {total['launches']} launches"
        yield f"operators.{part}", f"{counts}, {total['flops']} flops, {moved} bytes"
