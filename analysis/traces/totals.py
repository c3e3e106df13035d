"""What the operators of a trace add up to, by module, kind or part."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workloads.export.catalogue import GEMM_KINDS
from workloads.trace import Trace


@dataclass(frozen=True)
class Total:
    """A group of operators, each counted as often as it repeats.

    calls, launches    operators; those of them that launch a kernel
    flops              2 x multiplications of products (and operations of elementwise operators), causal attention
                       in full; product_flops: of the products alone, as PyTorch's counter has it
    flops_unmasked     `flops` without what a causal mask removes
    read_bytes, write_bytes   each operand of an operator once, as if nothing stayed on the chip
    """

    name: str
    calls: int
    launches: int
    flops: int
    product_flops: int
    flops_unmasked: int
    read_bytes: int
    write_bytes: int

    @property
    def intensity(self) -> float:
        """FLOPs a byte."""
        moved = self.read_bytes + self.write_bytes
        return self.flops / moved if moved else 0.0


def total(trace: Trace, name: str = "all", rows: NDArray[np.bool_] | None = None) -> Total:
    """Sum over the operators, or over those that `rows` marks. Raises ValueError for a trace without operators."""
    columns = trace.operators
    if not columns:
        raise ValueError(f"{trace.name}: the trace records no operators")
    mine = np.ones(len(columns["flops"]), bool) if rows is None else rows
    repeat = columns["repeat"][mine]
    sums = {key: int((columns[key][mine] * repeat).sum()) for key in ("launches", "flops", "read_bytes", "write_bytes")}
    product = np.isin(columns["kind"][mine], GEMM_KINDS)
    unmasked = columns.get("flops_unmasked", columns["flops"])[mine]
    return Total(
        name=name,
        calls=int(repeat.sum()),
        product_flops=int((columns["flops"][mine] * repeat)[product].sum()),
        flops_unmasked=int((unmasked * repeat).sum()),
        **sums,
    )


def grouped(trace: Trace, keys: Sequence[str]) -> list[Total]:
    """One total for each distinct key (one key an operator), in the order of first appearance."""
    names = np.asarray(keys)
    return [total(trace, str(name), names == name) for name in dict.fromkeys(names.tolist())]


def by_module(trace: Trace, depth: int) -> list[Total]:
    """Totals of modules, paths cut after `depth` names; numbered modules keep their number."""
    if "module" not in trace.operators:
        raise ValueError(f"{trace.name}: the operators do not say which module they come from; export the model")
    return grouped(trace, [cut(path, depth) for path in trace.operators["module"].tolist()])


def cut(path: str, depth: int) -> str:
    """The first `depth` names of a module path, or what stands for the module itself."""
    return ".".join(path.split(".")[:depth]) or "(the module)"


def by_kind(trace: Trace) -> list[Total]:
    """Totals by kind of operator, most bytes first."""
    kinds = trace.operators["kind"].tolist() if trace.operators else []
    return sorted(grouped(trace, kinds), key=lambda one: -(one.read_bytes + one.write_bytes))


HEAD = ("", "calls", "launches", "GFLOP", "products", "unmasked", "read MB", "written MB", "FLOP/B")


def table(totals: Iterable[Total]) -> list[tuple[str, ...]]:
    """Rows under `HEAD`."""
    return [
        (
            *(one.name, str(one.calls), str(one.launches), _number(one.flops / 1e9), _number(one.product_flops / 1e9)),
            *(_number(one.flops_unmasked / 1e9), _number(one.read_bytes / 1e6), _number(one.write_bytes / 1e6)),
            _number(one.intensity),
        )
        for one in totals
    ]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
