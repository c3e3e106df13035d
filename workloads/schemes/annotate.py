"""A trace as it runs under a scheme: formats, bytes, and the operators that the scheme adds.

Nothing is fused here: a quantisation, the two products of a low-rank branch, a KV cache write are operators of
their own, with all they read and write, and a planner decides what runs together. Added, around a layer:

    quantize  scheme.quantize       input (and smoothing vector) -> packed numbers and scales; 2 operations an element
    linear    scheme.low_rank_down  input as it was -> [m, rank], 2 m k rank operations
    linear    the layer             packed input and weight, scales and zeros counted to their tensors
    linear    scheme.low_rank_up    [m, rank] and the output so far -> output, 2 m n rank operations

Layers that share an input (`Rule.shared`) and read the same tensor share the first two. Formats of operators are
those of the scheme ("w4a4") where a rule matched; formats of tensors are number formats ("int4").
"""

from math import prod
from typing import Any

from workloads.export.catalogue import traffic
from workloads.schemes.apply import Assignment, Gemm, assign, cached
from workloads.schemes.bytes import Group, Piece, find_kv, groups, kv_row_bytes, packed_bytes, pieces
from workloads.schemes.rows import (
    Recast,
    Row,
    activation_bytes,
    as_matrix,
    as_table,
    by_operator,
    gemm_sizes,
    group_name,
    packed_strides,
    part_of,
    records,
    scheme_weights,
    sizes_of,
)
from workloads.schemes.schema import Scheme, is_plain, read_scheme
from workloads.trace import Trace

QUANTIZE_OPERATIONS = 2  # an element: compare for the largest, multiply; assumed: bound by memory


def annotate(trace: Trace, scheme: Scheme | str, *, rank: int | None = None, lora_rank: int = 0) -> Trace:
    """The trace under a scheme; raises ValueError as `assign` does.

    Tensors in the trace's main number format (that of most parameters) take the scheme's default; islands in
    another one (float32 in a bfloat16 trace) stay. With a quantised KV cache, each attention of a decoder is
    preceded by the write of its new keys and values, and reads the cache where it has more keys than queries;
    the copies by which eager code extends a cache stay as recorded. Facts (times, statistics) are those of the
    model as it ran and are left behind.
    """
    scheme = read_scheme(scheme) if isinstance(scheme, str) else scheme
    writer = _Writer(trace, assign(trace, scheme, rank=rank, lora_rank=lora_rank))
    writer.run()
    tables = {
        name: as_table(rows, getattr(trace, name))
        for name, rows in (("operators", writer.rows), ("operands", writer.operands), ("weights", writer.weights))
    }
    scheme_of = {"name": scheme.name, "rank": rank, "lora_rank": lora_rank, "dead_rules": list(writer.given.dead)}
    made = {**trace.made, "scheme": scheme_of}
    return Trace(trace.name, trace.model, made, **tables)


class _Writer:
    """Writes the rows of the new trace, one old operator after another."""

    def __init__(self, trace: Trace, given: Assignment) -> None:
        self.trace, self.given, self.scheme = trace, given, given.scheme
        self.recast = Recast(trace, given.scheme)
        self.old, self.old_operands = records(trace.operators), by_operator(trace)
        self.rows: list[Row] = []
        self.operands: list[Row] = []
        self.weights = scheme_weights(trace, given, self.recast)
        self.moved: dict[int, int] = {}  # old row -> new row that writes its result
        self.fed: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = {}
        self.readers: dict[tuple[Any, ...], list[Piece]] = {}  # who has read what is in `fed`
        self.gemms = {operator: gemm for gemm in given.gemms for operator in gemm.operators}
        shared = groups(given)
        self.group_of = {(piece.gemm.weight, piece.start): group for group in shared for piece in group.pieces}
        self.branch_of = {id(group): self._branch(group) for group in shared}

    def run(self) -> None:
        kv = set(cached(self.trace)) if find_kv(self.scheme.kv).bits < 16 else set()
        for row in range(len(self.old)):
            gemm = self.gemms.get(row)
            if row in kv:
                self._attention(row)
            elif gemm is None or (gemm.rule.split is None and is_plain(self.scheme.formats[gemm.rule.format])):
                self._plain(row)
            else:
                self._gemm(row, gemm)

    def _inputs(self, row: int) -> list[Row]:
        """The operands of an old operator, recast and pointing to new rows."""
        found = [self.recast(operand) for operand in self.old_operands.get(row, [])]
        return [{**operand, "producer": self.moved.get(operand["producer"], -1)} for operand in found]

    def _plain(self, row: int) -> None:
        self.moved[row] = self._write(self._base(row), self._inputs(row))

    def _base(self, row: int, format_: str | None = None) -> Row:
        """The old operator; `_write` counts its bytes anew."""
        base = dict(self.old[row])
        base["format"] = format_ or self.recast({**base, "bytes": 0})["format"]
        return base

    def _write(self, base: Row, operands: list[Row]) -> int:
        row = len(self.rows)
        inputs, outputs = ([one["bytes"] for one in operands if one["output"] == side] for side in (0, 1))
        base["read_bytes"], base["write_bytes"] = traffic(base["op"], base["kind"], inputs, outputs)
        self.rows.append(base)
        self.operands += [{**operand, "operator": row} for operand in operands]
        return row

    def _added(self, row: int, kind: str, op: str, **values: Any) -> Row:
        """A new operator at the place of an old one."""
        zero = dict.fromkeys(("flops", "flops_unmasked", "read_bytes", "write_bytes", "batch", "m", "n", "k"), 0)
        part = "fc" if kind == "linear" else "other"
        return {**self.old[row], **zero, "kind": kind, "op": op, "part": part, "launches": 1, **values}

    def _gemm(self, row: int, gemm: Gemm) -> None:
        operands = self._inputs(row)
        x = next((o for o in operands if not o["output"] and o["weight"] < 0), None)
        fed = [self._feed(row, piece, x) for piece in pieces(gemm)] if x else []
        packed = [one for quantized, _ in fed for one in quantized]
        inputs = [o for o in operands if not o["output"] and (o is not x or not packed)]
        outputs = [o for o in operands if o["output"]]
        text = str(self.given.operators[row])
        written = self._write(self._base(row, text), [*packed, *(self._stored(o, gemm) for o in inputs), *outputs])
        for piece, (_, hidden) in zip(pieces(gemm), fed, strict=False):
            for one in hidden:
                written = self._up(row, piece, one, outputs[0], written)
        self.moved[row] = written

    def _stored(self, operand: Row, gemm: Gemm) -> Row:
        if operand["weight"] != gemm.weight:
            return operand
        return {**operand, **{name: self.weights[gemm.weight][name] for name in ("format", "bytes")}}

    def _feed(self, row: int, piece: Piece, x: Row) -> tuple[list[Row], list[Row]]:
        """The quantised input and the hidden rows of the branch, written once for all that share them."""
        group = self.group_of[piece.gemm.weight, piece.start]
        key = id(group), x["producer"], x["shape"], x["strides"]
        if key not in self.fed or piece in self.readers[key]:  # a layer that runs again quantises again
            part = part_of(x, piece)
            self.fed[key] = self._quantize(row, piece, part), self._down(row, group, part)
            self.readers[key] = []
        self.readers[key].append(piece)
        return self.fed[key]

    def _quantize(self, row: int, piece: Piece, x: Row) -> list[Row]:
        format_ = self.scheme.formats[piece.format]
        if format_.activations is None:
            return []
        group = self.group_of[piece.gemm.weight, piece.start]
        smooth = [self._weight(one, first=True) for one in self.branch_of[id(group)][2]]
        elements = prod(sizes_of(x["shape"]))
        size = activation_bytes(format_.activations, *as_matrix(self.old[row]["kind"], x, piece))
        result = {**x, "format": format_.activations.number, "bytes": size, "strides": packed_strides(x["shape"])}
        work = dict.fromkeys(("flops", "flops_unmasked"), QUANTIZE_OPERATIONS * elements)
        base = self._added(row, "quantize", "scheme.quantize", format=piece.format, **work)
        written = self._write(base, [x, *smooth, {**result, "output": 1, "producer": -1}])
        return [{**result, "producer": written}]

    def _down(self, row: int, group: Group, x: Row) -> list[Row]:
        rank, m = group.rank + group.adapter_rank, self.old[row]["m"]
        branch = self.scheme.formats[group.pieces[0].format].low_rank
        if not rank or branch is None:
            return []
        shape, size = f"{m}x{rank}", packed_bytes(m, rank, branch.hidden_bits)
        hidden = {**x, "format": branch.hidden, "shape": shape, "strides": packed_strides(shape), "bytes": size}
        sizes = gemm_sizes(m, rank, group.k)
        base = self._added(row, "linear", "scheme.low_rank_down", format=branch.number, **sizes)
        down = self._weight(self.branch_of[id(group)][0][0])
        written = self._write(base, [x, down, {**hidden, "output": 1, "producer": -1}])
        return [{**hidden, "producer": written}]

    def _up(self, row: int, piece: Piece, hidden: Row, output: Row, before: int) -> int:
        group = self.group_of[piece.gemm.weight, piece.start]
        branch = self.scheme.formats[piece.format].low_rank
        assert branch is not None
        sizes = gemm_sizes(self.old[row]["m"], piece.gemm.n, group.rank + group.adapter_rank)
        base = self._added(row, "linear", "scheme.low_rank_up", format=branch.number, **sizes)
        up = self._weight(self.branch_of[id(group)][1][group.pieces.index(piece)])
        return self._write(base, [hidden, up, {**output, "output": 0, "producer": before}, output])

    def _weight(self, row: int, *, first: bool = False) -> Row:
        """A weight as an operand, or its first row."""
        weight = self.weights[row]
        shape, size = weight["shape"], weight["bytes"]
        if first:
            count, _, shape = shape.partition("x")
            size //= int(count)
        place = {"output": 0, "producer": -1, "weight": row, "format": weight["format"]}
        return {**place, "shape": shape, "strides": packed_strides(shape), "bytes": size}

    def _branch(self, group: Group) -> tuple[list[int], list[int], list[int]]:
        """Rows of new weights: down projection, up projections, smoothing vectors."""
        format_ = self.scheme.formats[group.pieces[0].format]
        rank, name = group.rank + group.adapter_rank, group_name(group)
        downs, ups, smooth = [], [], []
        if format_.low_rank and rank:
            number, bits = format_.low_rank.number, format_.low_rank.bits
            downs = [self._new(f"{name}.low_rank_down", "low_rank", number, (rank, group.k), bits)]
            named = [(group_name(Group((piece,), 0, 0)), piece.gemm.n) for piece in group.pieces]
            ups = [self._new(f"{one}.low_rank_up", "low_rank", number, (n, rank), bits) for one, n in named]
        if format_.smooth:
            shape, bits = (format_.smooth.vectors, group.k), format_.smooth.bits
            smooth = [self._new(f"{name}.smooth", "smooth", self.recast.number, shape, bits)]
        return downs, ups, smooth

    def _new(self, name: str, kind: str, number: str, shape: tuple[int, int], bits: int) -> int:
        text, size = "x".join(map(str, shape)), packed_bytes(*shape, bits)
        row = {"name": name, "kind": kind, "format": number, "shape": text, "elements": prod(shape), "bytes": size}
        self.weights.append(row)
        return len(self.weights) - 1

    def _attention(self, row: int) -> None:
        """New keys and values are written to the cache; with more keys than queries the cache is read."""
        operands = self._inputs(row)
        m, n = self.old[row]["m"], self.old[row]["n"]
        for index in (1, 2):
            cache = self._cache_write(row, operands[index], m, n)
            operands[index] = cache if m < n else operands[index]
        self.moved[row] = self._write(self._base(row, self.scheme.kv if m < n else None), operands)

    def _cache_write(self, row: int, x: Row, new: int, tokens: int) -> Row:
        """The whole cache as an operand, after a row that quantises its `new` last tokens."""
        format_, sizes = find_kv(self.scheme.kv), sizes_of(x["shape"])
        heads, d = prod(sizes[:-1]) // tokens, sizes[-1]
        whole = {**x, "format": format_.number, "bytes": heads * tokens * kv_row_bytes(format_, d)}
        shape, size = "x".join(map(str, [*sizes[:-2], new, d])), heads * new * kv_row_bytes(format_, d)
        read = {**x, "shape": shape, "bytes": x["bytes"] * new // tokens}
        written = {**whole, "shape": shape, "bytes": size, "output": 1, "producer": -1}
        work = dict.fromkeys(("flops", "flops_unmasked"), QUANTIZE_OPERATIONS * heads * new * d)
        base = self._added(row, "quantize", "scheme.cache_write", format=self.scheme.kv, **work)
        return {**whole, "producer": self._write(base, [read, written])}
