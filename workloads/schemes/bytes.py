"""Bytes that follow from a scheme: weights, scales, zeros, branches, smoothing vectors, the KV cache."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from workloads.schemes.apply import Assignment, Gemm, assign, cached
from workloads.schemes.schema import KvFormat, Level, Scheme, is_plain, kv_formats
from workloads.trace import Trace

COMPONENTS = ("quantized", "scales", "zeros", "low_rank", "adapters", "smooth", "plain", "bias", "embeddings", "rest")


@dataclass(frozen=True)
class Piece:
    """A GEMM as it runs, [n, k] from input `start` on: the whole layer, or one part of a split one."""

    gemm: Gemm
    format: str
    start: int
    k: int


@dataclass(frozen=True)
class Group:
    """Pieces that read one input: one quantised copy of it, one down projection, one set of smoothing vectors.

    rank, adapter_rank   of the branch and of users' adapters beside it; 0: none
    """

    pieces: tuple[Piece, ...]
    rank: int
    adapter_rank: int

    @property
    def k(self) -> int:
        return self.pieces[0].k

    @property
    def n(self) -> int:
        return sum(piece.gemm.n for piece in self.pieces)


@dataclass(frozen=True)
class WeightBytes:
    """Bytes of the weights by component, in the order of `COMPONENTS`, and the parameters that each holds.

    parameters of the model are in quantized, plain (GEMM weights left alone), bias, embeddings and rest (norms,
    tables), each exactly once; the other components are what the scheme adds. buffer_bytes: buffers, as they
    are in the trace, outside the total.
    """

    bytes: Mapping[str, int]
    parameters: Mapping[str, int]
    buffer_bytes: int

    @property
    def total(self) -> int:
        return sum(self.bytes.values())


def pieces(gemm: Gemm) -> tuple[Piece, ...]:
    """The GEMMs that a layer runs as."""
    if gemm.rule.split is None:
        return (Piece(gemm, gemm.rule.format, 0, gemm.k),)
    return Piece(gemm, gemm.rule.format, 0, gemm.n), Piece(gemm, gemm.rule.split, gemm.n, gemm.k - gemm.n)


def groups(assignment: Assignment) -> list[Group]:
    """The pieces of all GEMMs under a rule, by the input that they share.

    Raises ValueError where layers that share an input do not have one number of inputs.
    """
    found: dict[tuple[str, ...], list[Piece]] = {}
    for gemm in assignment.gemms:
        for index, piece in enumerate(pieces(gemm)):
            found.setdefault((*_reader(gemm), str(index)), []).append(piece)
    for members in found.values():
        if len({piece.k for piece in members}) > 1:
            named = ", ".join(f"{piece.gemm.module} ({piece.k})" for piece in members)
            raise ValueError(
                f"rule {members[0].gemm.rule.name}: shared layers must have one number of inputs, got {named}"
            )
    return [_group(assignment, tuple(members)) for members in found.values()]


def _reader(gemm: Gemm) -> tuple[str, ...]:
    """What identifies the input of a layer: itself, or the place and rule that it shares with its brothers."""
    parent, _, leaf = gemm.module.rpartition(".")
    return (gemm.rule.name, parent) if leaf in gemm.rule.shared else (gemm.rule.name, gemm.module, str(gemm.weight))


def _group(assignment: Assignment, members: tuple[Piece, ...]) -> Group:
    branch = assignment.scheme.formats[members[0].format].low_rank
    if branch is None:
        return Group(members, 0, 0)
    rank = branch.rank if assignment.rank is None else assignment.rank
    return Group(members, rank, -(-assignment.lora_rank // branch.adapter_step) * branch.adapter_step)


def packed_bytes(rows: int, columns: int, bits: int) -> int:
    """Bytes of a matrix whose rows are packed one by one."""
    return rows * -(-columns * bits // 8)


def level_bytes(levels: Iterable[Level], rows: int, columns: int) -> int:
    """Bytes of scales, zeros or sums beside a matrix [rows, columns]; each level filled up to a byte."""
    return sum(-(-_count(level, rows, columns) * level.bits // 8) for level in levels)


def _count(level: Level, rows: int, columns: int) -> int:
    if level.group == "tensor":
        return 1
    if level.group == "row":
        return rows
    return -(-rows * columns // level.group) if level.flat else rows * -(-columns // level.group)


def piece_bytes(scheme: Scheme, piece: Piece) -> tuple[int, int, int]:
    """Bytes of the packed weight, its scales and its zeros."""
    weights, n = scheme.formats[piece.format].weights, piece.gemm.n
    packed = packed_bytes(n, piece.k, weights.bits)
    return packed, level_bytes(weights.scales, n, piece.k), level_bytes(weights.zeros, n, piece.k)


def branch_bytes(scheme: Scheme, group: Group) -> tuple[int, int, int]:
    """Bytes of the branch, of the adapters beside it, and of the smoothing vectors."""
    format_ = scheme.formats[group.pieces[0].format]
    bits = format_.low_rank.bits if format_.low_rank else 0
    both = [-(-rank * (group.k + group.n) * bits // 8) for rank in (group.rank, group.adapter_rank)]
    smooth = format_.smooth.vectors * packed_bytes(1, group.k, format_.smooth.bits) if format_.smooth else 0
    return both[0], both[1], smooth


def weight_bytes(
    trace: Trace,
    scheme: Scheme | str,
    *,
    rank: int | None = None,
    lora_rank: int = 0,
    assignment: Assignment | None = None,
) -> WeightBytes:
    """Bytes of all parameters of a trace under a scheme. Raises ValueError as `assign` does.

    Left out: padding to tiles of a kernel, and the merged bias and +1 that a loader folds in (same bytes).
    """
    given = assignment or assign(trace, scheme, rank=rank, lora_rank=lora_rank)
    size, held = dict.fromkeys(COMPONENTS, 0), dict.fromkeys(COMPONENTS, 0)
    for gemm in _quantized(given):
        held["quantized"] += gemm.n * gemm.k
        for piece in pieces(gemm):
            _add(size, ("quantized", "scales", "zeros"), piece_bytes(given.scheme, piece))
    for group in groups(given):
        _add(size, ("low_rank", "adapters", "smooth"), branch_bytes(given.scheme, group))
    for row, component in _others(trace, given):
        held[component] += int(trace.weights["elements"][row])
        size[component] += plain_bytes(trace, given.scheme, row)
    buffers = np.asarray(trace.weights["kind"]) == "buffer"
    return WeightBytes(size, held, int(np.asarray(trace.weights["bytes"])[buffers].sum()))


def _add(table: dict[str, int], names: Iterable[str], values: Iterable[int]) -> None:
    for name, value in zip(names, values, strict=True):
        table[name] += value


def _quantized(given: Assignment) -> Iterator[Gemm]:
    for gemm in given.gemms:
        if gemm.rule.split or not is_plain(given.scheme.formats[gemm.rule.format]):
            yield gemm


def _others(trace: Trace, given: Assignment) -> Iterator[tuple[int, str]]:
    """Rows of the parameters that no rule quantises, each with its component."""
    taken = {gemm.weight for gemm in _quantized(given)}
    uses = _uses(trace)
    for row, kind in enumerate(trace.weights["kind"]):
        if kind == "parameter" and row not in taken:
            yield (
                row,
                _component(str(trace.weights["name"][row]), str(trace.weights["shape"][row]), uses.get(row, set())),
            )


def _component(name: str, shape: str, kinds: set[str]) -> str:
    if "embedding" in kinds:  # also where an output layer shares it
        return "embeddings"
    if name.rpartition(".")[2] == "bias":
        return "bias"
    gemm = any(kind.startswith(("linear", "conv", "bmm")) for kind in kinds)
    return "plain" if gemm and "x" in shape else "rest"


def _uses(trace: Trace) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    kinds = trace.operators["kind"]
    for operator, weight in zip(trace.operands["operator"], trace.operands["weight"], strict=True):
        if weight >= 0:
            found.setdefault(int(weight), set()).add(str(kinds[operator]))
    return found


def plain_bytes(trace: Trace, scheme: Scheme, row: int) -> int:
    """Bytes of a parameter in the default format."""
    return -(-int(trace.weights["elements"][row]) * scheme.formats[scheme.default].weights.bits // 8)


def kv_row_bytes(format_: KvFormat, head_size: int) -> int:
    """Bytes of one token's K (or V) of one head."""
    return packed_bytes(1, head_size, format_.bits) + -(-(format_.scale_bits + format_.zero_bits) // 8)


def find_kv(name: str) -> KvFormat:
    """A format of the KV cache. Raises ValueError with the known ones."""
    if name not in kv_formats():
        raise ValueError(f"kv_format: must be one of {', '.join(kv_formats())}, got {name!r}")
    return kv_formats()[name]


def kv_bytes_per_token(trace_or_shape: Trace | Mapping[str, Any], kv_format: str) -> int:
    """Bytes of one token in the KV cache of all layers.

    trace_or_shape   a mapping with layers, kv_heads (left out: heads) and head_size, or a trace of a decoder,
                     whose fused attention operators say the same

    Raises ValueError for an unknown format, or a trace or shape that does not say.
    """
    format_ = find_kv(kv_format)
    if isinstance(trace_or_shape, Trace):
        return sum(heads * 2 * kv_row_bytes(format_, size) for heads, size in _kv_heads(trace_or_shape))
    return _stated(trace_or_shape, format_)


def _stated(shape: Mapping[str, Any], format_: KvFormat) -> int:
    heads = shape.get("kv_heads") or shape.get("heads")
    layers, kv_heads, size = (
        _positive(name, value)
        for name, value in (("layers", shape.get("layers")), ("kv_heads", heads), ("head_size", shape.get("head_size")))
    )
    return layers * kv_heads * 2 * kv_row_bytes(format_, size)


def _positive(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"shape: {name}: must be an integer >= 1, got {value!r}")
    return value


def _kv_heads(trace: Trace) -> list[tuple[int, int]]:
    """(kv heads, head size) of each module with a cache, from the shapes of the key projections."""
    size = {str(trace.operators["module"][i]): int(trace.operators["k"][i]) for i in cached(trace)}
    linears = zip(trace.operators["module"], trace.operators["n"], strict=True)
    outputs = {str(module): int(n) for module, n in linears if str(module).endswith(".k_proj")}
    found = [(outputs[f"{module}.k_proj"] // d, d) for module, d in size.items() if f"{module}.k_proj" in outputs]
    if not found:
        raise ValueError(f"{trace.name}: must have attention with a KV cache (sdpa and k_proj of a decoder)")
    return found
