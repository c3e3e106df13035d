"""Cases of the Hopper GEMMs: every kind, both forms, tails of every size, operands at the ends of their ranges."""

from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.activations.model import Tokens
from gpu_kernels.w4a8_gemm import model
from gpu_kernels.w4a8_gemm.config import CHUNK, WIDE, Tile, choose
from gpu_kernels.w4a16_gemm import model as w4a16
from gpu_kernels.w8a8_gemm.model import integer_sums, scaled

ARCHITECTURES = ("sm_90a",)
SOURCES = ("w4a8_gemm/kernel.cu", "w4a8_gemm/config.py", "w4a8_gemm/packing.py")
Arrays = dict[str, NDArray[Any]]
A16_ERROR = 2e-3  # of the root mean square: float32 sums in another order, then one rounding to 16 bits (bfloat16 x 8)


@dataclass(frozen=True)
class Case:
    """kind as in config.KINDS; `extreme` sets operands to the ends of their ranges."""

    name: str
    seed: int
    kind: str
    tokens: int
    channels: int
    inputs: int
    form: str = "float16"
    bias: bool = False
    extreme: str = ""
    tile: tuple[int, ...] = ()  # fields of a `Tile`; none: the one that the operator chooses


NARROW = (*(Tile(size, 1, 1, 4, 4, 2) for size in (8, 16, 32, 64)), Tile(64, 2, 1, 4, 8))
TILES = tuple(astuple(tile) for tile in (*WIDE, *NARROW))


def _cases() -> tuple[Case, ...]:
    found = []
    for kind in ("w4a8_channel", "w4a8_group", "w8a8", "w4a16"):
        step = 64 if kind in ("w4a8_channel", "w8a8") else CHUNK
        shapes = [(1, 64, step), (1, 4096, 512), (3, 192, 5 * step), (8, 64, 1024), (9, 320, 2 * step), (17, 128, 640)]
        shapes += [(33, 256, 896), (64, 192, 1152), (65, 128, 384), (130, 448, 3 * step), (257, 576, 256)]
        shapes += [(700, 640, 256), (300, 2048, 128)]
        for i, (m, n, k) in enumerate(shapes):
            form = "bfloat16" if i % 3 == 2 else "float16"
            found.append(Case(f"{kind}_{m}x{n}x{k}", 100 + i, kind, m, n, k, form, i % 2 == 1))
        for extreme in ("lowest", "highest", "opposite", "zero", "denormal"):
            found.append(Case(f"{kind}_{extreme}", 7, kind, 5, 128, 1024, "float16", extreme == "opposite", extreme))
        if kind != "w4a16":
            found.append(Case(f"{kind}_long", 13, kind, 2, 256, 24576))
    for kind in ("w4a8_channel", "w4a8_group"):
        for tile in TILES:
            name = f"{kind}_tile_{'_'.join(map(str, tile))}"
            found.append(Case(name, 11, kind, 2 * tile[0] + 13, 320, 1152, bias=True, tile=tile))
    return tuple(found)


CASES = _cases()


def operands(case: Case) -> Arrays:
    """x int8 or 16-bit [M, K], token_scale, token_sum [M], the state by the names of model.py; floats on the grid."""
    draw = np.random.default_rng(case.seed)
    m, n, k = case.tokens, case.channels, case.inputs
    floats = {"token_scale": draw.uniform(1e-3, 2e-2, m), "token_sum": draw.normal(size=m) * 30}
    floats |= {"scale": draw.uniform(1e-3, 2e-2, n), "bias": draw.normal(size=n)}
    held: Arrays = {name: round_to(value, case.form) for name, value in floats.items()}
    held |= {"x": draw.integers(-128, 128, (m, k), np.int8), "zero": draw.integers(0, 16, n).astype(np.uint8)}
    if case.kind == "w8a8":
        return _extreme(case, held | {"codes": draw.integers(-128, 128, (n, k), np.int8)})
    held["codes"] = draw.integers(0, 16, (n, k)).astype(np.uint8)
    if case.kind == "w4a8_group":
        held["group_scale"] = draw.integers(1, 9, (n, k // CHUNK)).astype(np.uint8)
        held["group_zero"] = draw.integers(0, 16, (n, k // CHUNK)).astype(np.uint8)
    if case.kind == "w4a16":
        held["x"] = round_to(draw.normal(size=(m, k)), case.form)
        held["scale"] = round_to(draw.uniform(1e-3, 2e-2, (n, k // CHUNK)), case.form)
        held["zero"] = draw.integers(0, 16, (n, k // CHUNK)).astype(np.uint8)
    return _extreme(case, held)


def _extreme(case: Case, held: Arrays) -> Arrays:
    """Ends of ranges: all codes lowest or highest, one against the other; groups of zeros; subnormal scales."""
    low, high = (-128, 127) if case.kind == "w8a8" else (0, 15)
    if case.extreme in ("lowest", "highest", "opposite"):
        held["codes"][:] = low if case.extreme == "lowest" else high
        held["x"][:] = 127 if case.extreme == "highest" else -128 if case.kind != "w4a16" else -4
        if case.kind == "w4a8_group":  # weights of -128 (16 x 8 below the zero) or 127 and less
            held["group_scale"][:] = 16 if case.extreme == "lowest" else 8
            held["group_zero"][:] = 8 if case.extreme == "lowest" else 0
    if case.extreme == "zero":
        held["codes"][:] = held["zero"][:, None] if held["zero"].ndim == 1 and case.kind != "w8a8" else 0
        held["zero"][:] = held["zero"] if case.kind == "w4a8_channel" else 0
        if case.kind == "w4a8_group":
            held["group_zero"][:], held["group_scale"][:] = 0, 0
    if case.extreme == "denormal":
        held["scale"] = round_to(held["scale"] * 1e-5, case.form)
        held["token_scale"] = round_to(held["token_scale"] * 1e-4, case.form)
    return held


def expected(case: Case) -> Arrays:
    """y float32 [M, N] on the grid, by the functional models."""
    held = operands(case)
    bias = held["bias"] if case.bias else None
    if case.kind == "w4a16":
        weights = w4a16.group_weights(held["codes"], held["scale"], held["zero"], case.form)
        return {"y": w4a16.gemm(held["x"], weights, bias, case.form)}
    tokens, scale = Tokens(held["x"], held["token_scale"], held["token_sum"]), held["scale"]
    if case.kind == "w4a8_channel":
        return {"y": model.channel_gemm(tokens, held["codes"], scale, held["zero"], bias, case.form)}
    if case.kind == "w8a8":
        empty = np.empty(0, np.float32) if bias is None else bias
        sums = integer_sums(held["x"], held["codes"])
        return {"y": scaled(sums, scale, held["token_scale"], empty, case.form)}
    groups = held["group_scale"], held["group_zero"]
    return {"y": model.group_gemm(tokens, held["codes"], *groups, scale, bias, case.form)}


def found(case: Case) -> Arrays:
    """The same by the operator, into an output full of NaN."""
    import torch

    from gpu_kernels.w4a8_gemm import op

    form = torch.float16 if case.form == "float16" else torch.bfloat16
    held = operands(case)
    packed = _packed(op, case, held, form)
    x = torch.from_numpy(held["x"]).cuda().to(form if case.kind == "w4a16" else torch.int8)
    vectors = {name: torch.from_numpy(held[name]).cuda().to(form) for name in ("token_scale", "token_sum", "bias")}
    if case.kind != "w4a16":
        vectors["scale"] = torch.from_numpy(held["scale"]).cuda().to(form)
    if case.kind == "w4a8_channel":
        zero = round_to(held["zero"].astype(np.float64) * held["scale"], case.form)
        vectors["scaled_zero"] = torch.from_numpy(zero).cuda().to(form)
    if not case.bias:
        del vectors["bias"]
    y = torch.full((case.tokens, case.channels), float("nan"), dtype=form, device="cuda")
    tile = Tile(*case.tile) if case.tile else choose(case.kind, case.tokens, case.channels, case.inputs)
    op.run(case.kind, tile, x, packed, vectors, y)
    return {"y": y.float().cpu().numpy()}


def _packed(op: Any, case: Case, held: Arrays, form: Any) -> Any:
    import torch

    codes = torch.from_numpy(held["codes"]).cuda()
    if case.kind == "w4a8_channel":
        return op.pack_channel(codes)
    if case.kind == "w8a8":
        return op.pack_int8(codes)
    if case.kind == "w4a8_group":
        return op.pack_group(codes, held["group_scale"], held["group_zero"])
    return op.pack_a16(codes, torch.from_numpy(held["scale"]).to(form), held["zero"])


def fault(case: Case, expected: Arrays, found: Arrays) -> str:
    """Integer kinds: every byte. W4A16: the distance of float32 sums in two orders."""
    wanted, got = expected["y"], found["y"]
    if np.isnan(got).any():
        return f"{int(np.isnan(got).sum())} of {got.size} outputs were not written"
    if case.kind != "w4a16":
        wrong = int((wanted.view(np.uint32) != got.view(np.uint32)).sum())
        return f"{wrong} of {got.size} outputs differ" if wrong else ""
    bound = A16_ERROR * (8 if case.form == "bfloat16" else 1)
    size = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) + 1e-30
    error, most = float(np.sqrt(np.mean((wanted - got) ** 2))) / size, float(np.abs(wanted - got).max()) / size
    fine = error <= bound and most <= 5 * bound  # not so where one of them is no number
    return "" if fine else f"relative error {error:.1e}, at most {bound:.0e}; of one output {most:.1e}"
