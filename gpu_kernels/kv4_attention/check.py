"""What `tilewright kernels check` runs: outputs within their float64 bound, every byte of the cache.

What no token has written is 0xFF, so that scales and zeros, or 16-bit numbers, are NaN there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.kv4_attention import bounds, folded
from gpu_kernels.kv4_attention.config import GROUP_TOKENS, PAGE_TOKENS, Tile, group_bytes
from gpu_kernels.kv4_attention.model import rotate, rotation
from gpu_kernels.kv4_attention.packing import Part, pack, token_places

SOURCES = ("kv4_attention/kernel.cu", "kv4_attention/config.py")
Outputs = Mapping[str, NDArray[Any]]
Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One launch.

    mode       "decode", "attend" (no new token) or "append" (a prompt to the cache)
    kind       how numbers are drawn, see `_drawn`
    kept       share of tokens that are read, 1: no list
    tile       tokens, stages, warps, resident, cluster of an own tile; () what the operator takes
    splits     with an own tile
    """

    name: str
    seed: int
    mode: str = "decode"
    bits: int = 4
    size: int = 128
    batch: int = 2
    heads: int = 8
    kv_heads: int = 2
    longest: int = 333
    kind: str = "normal"
    kept: float = 1.0
    tile: tuple[int, ...] = ()
    splits: int = 1


_KINDS = ("far", "constant", "zeros", "rising", "outlier", "subnormal", "peaked", "equal")
_SHAPES = ((128, 4, 4), (128, 8, 1), (128, 14, 2), (128, 40, 2), (64, 8, 2), (256, 6, 2))  # head size, heads, kv heads
_TILES = ((64, 2, 4, 2), (32, 3, 4, 4), (16, 4, 4, 2), (16, 2, 16, 1))
_CLUSTERS = ((32, 2, 8, 1, 8), (64, 2, 8, 1, 8), (32, 3, 4, 4, 4), (32, 3, 4, 2, 2))


def _cases() -> tuple[Case, ...]:
    found = [Case(f"kv{bits} {kind}", 0, bits=bits, kind=kind) for bits in (4, 8, 16) for kind in ("normal", *_KINDS)]
    for size, heads, kv_heads in _SHAPES:
        name = f"size {size} heads {heads} of {kv_heads}"
        shape = {"size": size, "heads": heads, "kv_heads": kv_heads, "longest": 150, "batch": 3}
        found += [Case(f"kv{bits} {name}", 0, bits=bits, **shape) for bits in (4, 8, 16)]  # type: ignore[arg-type]
        found.append(Case(f"append {name}", 0, "append", 4, **shape))  # type: ignore[arg-type]
    found += [Case(f"longest {n}", 0, longest=n, batch=4) for n in (0, 1, 15, 16, 17, 63, 64, 65, 127, 128, 1000)]
    found += [Case(f"attend kv{b} {n}", 0, "attend", b, longest=n, batch=3) for b in (4, 16) for n in (0, 1, 200)]
    found += [Case(f"kept kv{b} {k}", 0, bits=b, kept=k, batch=3) for b in (4, 8, 16) for k in (0.0, 0.1, 0.6)]
    for tile in (*_TILES, *_CLUSTERS):
        splits = tile[4] if len(tile) > 4 else 3
        found += [
            Case(f"tile {tile} {kind}", 0, longest=700, kind=kind, tile=tile, splits=splits)
            for kind in ("normal", "rising")
        ]
    found += [
        Case(f"append kv{bits} {kind}", 0, "append", bits, kind=kind)
        for bits in (4, 8, 16)
        for kind in ("normal", *_KINDS)
    ]
    return tuple(replace(case, seed=seed) for seed, case in enumerate(found))


CASES = _cases()


class World(NamedTuple):
    """Operands. Vectors [B, heads, D] and [B, kv heads, T, D] on the float16 grid."""

    query: Array
    key: Array
    value: Array
    keys: Array
    values: Array
    lengths: Array
    angles: tuple[Array, Array]
    table: Array
    kept: list[list[Array]] | None


def _drawn(draw: np.random.Generator, kind: str, *shape: int) -> Array:
    x = draw.normal(0, 1, shape)
    if kind == "far":
        x = x + draw.choice([-300, 40, 200], shape[:-1])[..., None]
    if kind in ("constant", "zeros"):
        x = np.zeros(shape) + (x[..., :1] if kind == "constant" else 0)
    if kind == "outlier":
        x[..., 5] *= 400
    if kind == "subnormal":
        x *= 2.0**-22
    if kind == "peaked":
        x *= 6
    if kind == "equal":
        x = np.broadcast_to(x[..., :1, :], shape).copy()
    return round_to(x, "float16")


def world(case: Case) -> World:
    """All that a case needs, from its seed."""
    draw = np.random.default_rng(case.seed)
    shape = case.batch, case.kv_heads
    query, key, value = (
        _drawn(draw, case.kind, case.batch, n, case.size) for n in (case.heads, case.kv_heads, case.kv_heads)
    )
    keys, values = (_drawn(draw, case.kind, *shape, max(case.longest, 1), case.size) for _ in range(2))
    lengths = np.array([case.longest, *draw.integers(0, case.longest + 1, case.batch - 1)])
    angles = rotation(lengths, case.size)
    if case.kind == "rising":  # each key fits the query better than the one before it
        turned = rotate(query, *angles)[:, :: case.heads // case.kv_heads]
        keys = round_to(turned[:, :, None] * np.linspace(-4, 4, keys.shape[2])[:, None] + keys / 8, "float16")
    width = case.longest // PAGE_TOKENS + 1
    table = draw.permutation(case.batch * width).reshape(case.batch, width)
    listed = None
    if case.kept < 1:
        listed = [[np.flatnonzero(draw.random(n) < case.kept) for _ in range(case.kv_heads)] for n in lengths]
    return World(query, key, value, keys, values, lengths, angles, table, listed)


def _paged(case: Case, w: World, keys: Any, values: Any, counts: Array) -> Array:
    """The cache [pages, kv heads, page bytes] that holds the first `counts` tokens of [B, kv heads, T] vectors."""
    width, (batch, heads) = w.table.shape[1], w.keys.shape[:2]
    parts = []
    for part in (keys, values):
        fields = []
        for x in part if case.bits < 16 else (part,):
            room = np.zeros((batch, heads, width * PAGE_TOKENS, *x.shape[3:]), x.dtype)
            room[:, :, : x.shape[2]] = x[:, :, : room.shape[2]]
            paged = room.reshape(batch, heads, width, PAGE_TOKENS, *x.shape[3:])
            fields.append(np.moveaxis(paged, 2, 1).reshape(batch * width, heads, PAGE_TOKENS, *x.shape[3:]))
        parts.append(Part(*fields) if case.bits < 16 else Part(fields[0], None, None))
    bytes_ = pack(parts[0], parts[1], case.bits)
    there = np.arange(width * PAGE_TOKENS) < counts[:, None]
    bytes_[~_bytes_of(case, there.reshape(batch * width, PAGE_TOKENS), heads)] = 0xFF
    found = np.empty_like(bytes_)
    found[w.table.reshape(-1)] = bytes_
    return found


def _bytes_of(case: Case, tokens: Array, heads: int) -> Array:
    """bool [pages, heads, page bytes]: which bytes belong to these tokens, bool [pages, 64]."""
    groups = len(tokens), heads, PAGE_TOKENS // GROUP_TOKENS
    found = np.empty((*groups, group_bytes(case.size, case.bits)), bool)
    found[..., token_places(case.size, case.bits)] = tokens.reshape(len(tokens), 1, -1, GROUP_TOKENS, 1)
    return found.reshape(*groups[:2], -1)


def _new_tokens(case: Case, w: World) -> tuple[Any, Any]:
    """Caches as [B, kv heads, T, ...] whose token `lengths` is the new one."""
    key = rotate(w.key, *w.angles)
    found = []
    for old, new in ((w.keys, key), (w.values, w.value)):
        grown = np.concatenate([old, np.zeros_like(old[:, :, :1])], axis=2)
        grown[np.arange(case.batch), :, w.lengths] = new
        found.append(folded.quantize(grown, case.bits))
    return found[0], found[1]


def _cached(case: Case, w: World) -> tuple[Any, Any]:
    """[B, kv heads, T, ...] as the cache holds them."""
    return folded.quantize(w.keys, case.bits), folded.quantize(w.values, case.bits)


def _heads(case: Case, w: World) -> list[folded.Head]:
    keys, values = _cached(case, w)
    heads, _, _ = folded.operands(w.query, w.key, w.value, keys, values, w.lengths, w.angles, w.kept, case.bits)
    return folded.without_new(heads) if case.mode == "attend" else heads


def expected(case: Case) -> dict[str, Array]:
    """By the model."""
    w = world(case)
    if case.mode == "append":
        turned = rotate_all(w.keys, case.size)
        keys, values = (folded.quantize(x, case.bits) for x in (turned, w.values))
        return {"cache": _paged(case, w, keys, values, w.lengths)}
    output = folded.outputs(_heads(case, w), case.bits).reshape(w.query.shape).astype(np.float16)
    keys, values = _new_tokens(case, w)
    return {"output": output, "cache": _paged(case, w, keys, values, w.lengths + (case.mode == "decode"))}


def rotate_all(keys: Array, size: int) -> Array:
    """Keys [B, kv heads, T, D], each turned by its position."""
    batch, heads, tokens, _ = keys.shape
    flat = np.moveaxis(keys, 2, 1).reshape(batch * tokens, heads, size)
    turned = rotate(flat, *rotation(np.tile(np.arange(tokens), batch), size))
    return np.moveaxis(turned.reshape(batch, tokens, heads, size), 1, 2)


def found(case: Case) -> dict[str, Array]:
    """On the GPU."""
    import torch

    w = world(case)
    if case.mode == "append":
        return {"cache": _append(case, w)}
    keys, values = _cached(case, w)
    cache = torch.from_numpy(_paged(case, w, keys, values, w.lengths)).cuda()
    out = torch.full(w.query.shape, float("nan"), dtype=torch.float16, device="cuda")
    _launch(case, w, cache, out)
    return {"output": out.cpu().numpy(), "cache": cache.cpu().numpy()}


def _tensors(w: World) -> tuple[Any, Any, Any, Any]:
    import torch

    key, value = (torch.from_numpy(x.astype(np.float16)).cuda() for x in (w.key, w.value))
    cosine, sine = (torch.from_numpy(x).cuda() for x in w.angles)
    return key, value, cosine, sine


def _listed(w: World) -> Any:
    import torch

    if w.kept is None:
        return None
    counts = np.array([[len(x) for x in row] for row in w.kept], np.int32)
    room = np.zeros((*counts.shape, max(1, counts.max())), np.int32)
    for b, h in np.ndindex(*counts.shape):
        room[b, h, : counts[b, h]] = w.kept[b][h]
    return torch.from_numpy(room).cuda(), torch.from_numpy(counts).cuda()


def _launch(case: Case, w: World, cache: Any, out: Any) -> None:
    import torch

    from gpu_kernels.kv4_attention import op
    from gpu_kernels.kv4_attention.config import workspace_bytes

    query = w.query if case.mode == "decode" else rotate(w.query, *w.angles)
    q = torch.from_numpy(query.astype(np.float16)).cuda()
    table, lengths = (torch.from_numpy(x.astype(np.int32)).cuda() for x in (w.table, w.lengths))
    new, kept = _tensors(w) if case.mode == "decode" else None, _listed(w)
    tile = Tile(*case.tile) if case.tile else None
    if tile and (tile.cluster == 1 or op.clusters()):
        need = workspace_bytes(case.batch, case.kv_heads, case.heads // case.kv_heads, case.splits, case.size)
        space = torch.zeros(need, dtype=torch.uint8, device="cuda")
        op.run(tile, case.splits, q, new, cache, table, lengths, kept, case.bits, False, out, space)
    elif new is None:
        op.attend(q, cache, table, lengths, case.longest, case.bits, kept=kept, out=out)
    else:
        op.decode(q, *new, cache, table, lengths, case.longest, case.bits, kept=kept, out=out)


def _append(case: Case, w: World) -> Array:
    import torch

    from gpu_kernels.kv4_attention import op

    sequence = np.repeat(np.arange(case.batch), w.lengths).astype(np.int32)
    position = np.concatenate([np.arange(n) for n in w.lengths]).astype(np.int32)
    key, value = (torch.from_numpy(x[sequence, :, position].astype(np.float16)).cuda() for x in (w.keys, w.values))
    cosine, sine = (torch.from_numpy(x).cuda() for x in rotation(position, case.size))
    place, slot, table = (torch.from_numpy(x).cuda() for x in (sequence, position, w.table.astype(np.int32)))
    keys, values = _cached(case, w)
    cache = torch.from_numpy(_paged(case, w, keys, values, w.lengths * 0)).cuda()
    op.append(key, value, cosine, sine, place, slot, table, cache, case.bits)
    return cache.cpu().numpy()


def fault(case: Case, expected: Outputs, found: Outputs) -> str:
    """The cache in every byte, outputs within the bound of `bounds`."""
    wrong = np.argwhere(expected["cache"] != found["cache"])
    if len(wrong):
        return f"cache: {len(wrong)} of {expected['cache'].size} bytes differ, first at {wrong[0].tolist()}"
    if case.mode == "append":
        return ""
    pairs = [bounds.folded_bound(head, case.bits) for head in _heads(case, world(case))]
    exact, bound = (np.stack(x).reshape(expected["output"].shape) for x in zip(*pairs, strict=True))
    output = found["output"]
    if output.dtype != np.float16 or output.shape != exact.shape:
        return f"output: must be float16 {exact.shape}, got {output.dtype} {output.shape}"
    off = np.abs(output.astype(np.float64) - exact)
    if not (off <= bound).all():
        at = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off - bound)), off.shape)
        place, far = [int(i) for i in at], f"{off[at]:.3g} from {exact[at]:.6g}, bound {bound[at]:.3g}"
        return f"output: at {place} {output[at]} is {far}"
    return ""
