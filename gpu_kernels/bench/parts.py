"""The parts of the bench, each a stream of rows: `part`, `name`, `floor_us` by column, `columns` by contender.

Some are brought along: a module with `rows(limits) -> Iterator[row]`, where `limits` are the ceilings of the run.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from typing import Any

from gpu_kernels.bench.contest import Contender, columns
from gpu_kernels.bench.shapes import Attention, Gemm, attentions, gemms
from gpu_kernels.runtime import architecture

Row = dict[str, Any]
Limits = Mapping[str, Any]
BROUGHT = {
    "layer": "gpu_kernels.decode_layer.bench",
    "activations": "gpu_kernels.bench.activation_rows",
    "ablations": "gpu_kernels.bench.ablation_rows",
}
PARTS = ("ceilings", "gemm", "attention", *BROUGHT)


def gemm_rows(limits: Limits) -> Iterator[Row]:
    """Ours and torch's on every shape."""
    from gpu_kernels.bench import gemm_ours, gemm_peers

    contenders = gemm_ours.contenders(architecture()) | gemm_peers.contenders()
    for shape in gemms():
        yield gemm_row(shape, contenders, limits)


def gemm_row(shape: Gemm, contenders: Mapping[str, Contender], limits: Limits) -> Row:
    """One shape; floors of W4A8 without and with groups."""
    rates = limits["read_bytes_per_s"], int8_ceiling(limits)
    floors = {"channel": shape.floor_us(*rates), "group": shape.floor_us(*rates, grouped=True)}
    found = columns(shape, contenders, floors["channel"], limits["l2_bytes"])
    return {"part": "gemm", "name": shape.name, **asdict(shape), "floor_us": floors, "columns": found}


def int8_ceiling(limits: Limits) -> float:
    """Operations a second: the faster of wgmma with A in registers and in shared memory; without it, mma.sync's."""
    names = "int8_registers_per_s", "int8_shared_per_s", "mma_per_s"
    return float(max(limits[name] for name in names if name in limits))


def attention_rows(limits: Limits) -> Iterator[Row]:
    """Ours and torch's on every shape."""
    from gpu_kernels.bench import attention_ours, attention_peers

    contenders = attention_ours.contenders() | attention_peers.contenders()
    for shape in attentions():
        yield attention_row(shape, contenders, limits)


def attention_row(shape: Attention, contenders: Mapping[str, Contender], limits: Limits) -> Row:
    """One shape; the floor of each width of the cache."""
    floors = {str(bits): shape.floor_us(limits["read_bytes_per_s"], bits) for bits in (4, 8, 16)}
    found = columns(shape, contenders, floors["4"], limits["l2_bytes"])
    return {"part": "attention", "name": shape.name, **asdict(shape), "floor_us": floors, "columns": found}


def brought_rows(part: str, limits: Limits) -> Iterator[Row]:
    """The rows of a module."""
    for row in import_module(BROUGHT[part]).rows(limits):
        yield {"part": part} | row


def rows_of(part: str) -> Callable[[Limits], Iterator[Row]]:
    """How a part is run."""
    known = {"gemm": gemm_rows, "attention": attention_rows}
    return known.get(part) or (lambda limits: brought_rows(part, limits))


def counts(part: str) -> int:
    """How many rows a part has, about, for a progress bar."""
    return {"gemm": len(list(gemms())), "attention": len(list(attentions())), "ceilings": 1}.get(part, 20)
