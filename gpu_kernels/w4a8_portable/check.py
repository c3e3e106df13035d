"""What `tilewright kernels check` runs: every kind, form, tile and way to cut, random and adversarial, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.activations.check import bits16
from gpu_kernels.activations.model import Tokens
from gpu_kernels.w4a8_gemm import model
from gpu_kernels.w4a8_portable.config import COUNTERS, Schedule, Tile, choose, even, split, whole
from gpu_kernels.w8a8_gemm import model as w8a8

SOURCES = ("w4a8_portable/kernel.cu", "w4a8_portable/config.py", "w4a8_gemm/packing.py")
Outputs = Mapping[str, NDArray[Any]]
_FILL = 85  # of outputs before the launch, each byte


@dataclass(frozen=True)
class Case:
    """y [M, N] of x [M, K].

    draw    how operands are drawn, see `operands`
    tile    arguments of an own Tile; () what the operator takes
    cut     with an own tile: 0 no tile is cut, 1 stream-K as if 8 blocks ran, more: so many parts
    times   launches one behind the other, the last is compared: a workspace left dirty shows
    """

    name: str
    seed: int
    kind: str
    form: str = "float16"
    tokens: int = 5
    channels: int = 128
    inputs: int = 512
    draw: str = "random"
    bias: bool = False
    tile: tuple[int, ...] = ()
    cut: int = 0
    times: int = 2


KINDS = ("w4a8_channel", "w4a8_group", "w8a8")
_TAILS = ((1, 64, 128), (3, 192, 384), (9, 64, 1152), (17, 320, 256), (65, 128, 640), (129, 192, 256), (257, 64, 256))
_DRAWS = ("lowest", "highest", "zero", "wide", "subnormal", "overflow")
_TILES: tuple[tuple[str, tuple[int, ...]], ...] = (  # kinds take turns: each is a compilation
    ("w4a8_group", (1, 1, 2, 1, 8, 4, 2)),
    ("w4a8_channel", (1, 1, 4, 2, 8, 3, 1)),
    ("w8a8", (4, 1, 1, 2, 1, 8, 4)),
    ("w4a8_group", (2, 1, 2, 8, 4, 3, 1)),
    ("w4a8_channel", (4, 1, 2, 8, 1, 4, 3)),
    ("w8a8", (2, 2, 4, 8, 1, 3, 2)),
    ("w4a8_group", (8, 1, 2, 16, 1, 5, 1)),
    ("w4a8_channel", (4, 1, 2, 16, 1, 4, 2)),
    ("w8a8", (4, 1, 2, 16, 2, 2, 1)),
    ("w4a8_group", (4, 1, 2, 16, 2, 3, 1)),
    ("w4a8_channel", (8, 1, 2, 16, 1, 5, 1)),
    ("w8a8", (4, 2, 4, 4, 1, 4, 1)),
)


def _cases() -> tuple[Case, ...]:
    found: list[Case] = []

    def add(name: str, kind: str, **fields: Any) -> None:
        found.append(Case(f"{kind} {name}", len(found), kind, **fields))

    for kind in KINDS:
        for m, n, k in _TAILS:
            add(f"{m}x{n}x{k}", kind, tokens=m, channels=n, inputs=k, bias=m % 2 == 0)
        if kind != "w4a8_group":
            for k in (64, 192, 1088):
                add(f"half chunk {k}", kind, tokens=7, inputs=k, form="bfloat16")
        for form in ("float16", "bfloat16"):
            for draw in _DRAWS:
                add(f"{form} {draw}", kind, form=form, draw=draw, tokens=20, bias=draw in ("wide", "subnormal"))
            add(f"{form} bias", kind, form=form, bias=True, tokens=33)
    for kind, tile in _TILES:
        for cut, inputs in ((0, 384), (1, 1152), (3, 1152)):
            name = f"tile {'.'.join(map(str, tile))} cut {cut}"
            add(name, kind, tokens=140, channels=448, inputs=inputs, bias=cut > 0, tile=tile, cut=cut)
    return tuple(found)


def operands(case: Case) -> dict[str, NDArray[Any]]:
    """x int8 [M, K]; codes [N, K]; group_scale, group_zero [N, K / 128]; vectors float32 on the grid of the form.

    lowest, highest, zero    all codes and activations at one end (-128 or 127, 0 or 15), or zero groups and activations
    wide, subnormal          scales over the whole range of the form; its least numbers
    overflow                 outputs beyond the form, infinite
    """
    draw, (m, n, k) = np.random.default_rng(case.seed), (case.tokens, case.channels, case.inputs)
    low, high = (-128, 127) if case.kind == "w8a8" else (0, 15)
    x, codes = draw.integers(-128, 128, (m, k)), draw.integers(low, high + 1, (n, k))
    scale, zero = draw.integers(0, 18, (n, -(-k // 128))), draw.integers(0, 16, (n, -(-k // 128)))
    if case.draw in ("lowest", "highest"):
        x[:], codes[:] = (-128, low) if case.draw == "lowest" else (127, high)
        scale[:], zero[:] = 8, 15 - 15 * (codes[0, 0] > 0)
    if case.draw == "zero":
        x[::2], scale[:] = 0, 0
    if case.kind == "w4a8_group":
        scale = _protected(codes, scale, zero)
    found: dict[str, NDArray[Any]] = {"x": x.astype(np.int8), "codes": codes.astype(np.int8)}
    found |= {"group_scale": scale.astype(np.uint8), "group_zero": zero.astype(np.uint8)}
    for name, size in (("scale", n), ("bias", n), ("token_scale", m), ("token_sum", m)):
        found[name] = _vector(draw, case, size)
    return found | {"zero": draw.integers(0, 16, n).astype(np.uint8)}


def _protected(codes: Any, scale: Any, zero: Any) -> Any:
    """The scales, smaller where a weight would leave int8."""
    far = np.abs(codes.reshape(len(codes), -1, 128) - zero[:, :, None]).max(axis=2)
    return np.minimum(scale, 127 // np.maximum(far, 1))


def _vector(draw: np.random.Generator, case: Case, size: int) -> NDArray[np.float32]:
    half = case.form == "float16"
    lowest, highest = (-24, 15) if half else (-133, 120)
    most = 2.0**highest
    powers = {"wide": (lowest, highest // 2), "subnormal": (lowest, lowest + 10), "overflow": (highest - 3, highest)}
    low, high = powers.get(case.draw, (-12, -4))
    values = draw.normal(0, 1, size) * 2.0 ** draw.integers(low, high, size)
    return round_to(np.clip(values, -most, most), case.form)


CASES = _cases()


def expected(case: Case) -> dict[str, NDArray[Any]]:
    """By the model."""
    given = operands(case)
    tokens = Tokens(given["x"], given["token_scale"], given["token_sum"])
    bias = given["bias"] if case.bias else None
    names = {"w4a8_channel": ("codes", "scale", "zero"), "w8a8": ("codes", "scale")}
    parts = [given[name] for name in names.get(case.kind, ("codes", "group_scale", "group_zero", "scale"))]
    gemm = {"w4a8_channel": model.channel_gemm, "w4a8_group": model.group_gemm, "w8a8": w8a8.gemm}[case.kind]
    return {"y": bits16(gemm(tokens, *parts, bias, case.form), case.form)}  # type: ignore[operator]


def found(case: Case) -> dict[str, NDArray[Any]]:
    """On the GPU. Raises RuntimeError where counters of the workspace are not zero again."""
    import torch

    from gpu_kernels.w4a8_portable import op

    given = operands(case)
    form = torch.float16 if case.form == "float16" else torch.bfloat16
    vectors = {
        name: torch.from_numpy(part).to("cuda", form) for name, part in given.items() if part.dtype == np.float32
    }
    scaled_zero = round_to(given["zero"] * given["scale"].astype(np.float64), case.form)
    packs: dict[str, Any] = {"w4a8_channel": op.pack_channel, "w4a8_group": op.pack_group, "w8a8": op.pack_int8}
    parts = ("codes", "group_scale", "group_zero") if case.kind == "w4a8_group" else ("codes",)
    packed = packs[case.kind](*(torch.from_numpy(given[name]).cuda() for name in parts))
    x, bias = torch.from_numpy(given["x"]).cuda(), vectors["bias"] if case.bias else None
    out = torch.empty(case.tokens, case.channels, dtype=form, device="cuda")
    zeros = torch.from_numpy(scaled_zero).to("cuda", form) if case.kind == "w4a8_channel" else None
    sums = vectors["token_sum"] if case.kind == "w4a8_channel" else None
    space = op.workspace(0)
    for _ in range(case.times):
        out.view(torch.uint8).fill_(_FILL)
        operands_of = (x, packed, vectors["scale"], zeros, bias, vectors["token_scale"], sums, out, space)
        op.run(case.kind, plan(case), *operands_of)
    bits = out.view(torch.uint16).cpu().numpy()
    nan = torch.isnan(out).cpu().numpy()
    if int(space[:COUNTERS].count_nonzero()):
        space.zero_()
        raise RuntimeError(f"{case.name}: counters are not zero after the launch")
    return {"y": np.where(nan, np.uint16(0x7FFF), bits)}


def plan(case: Case) -> Schedule:
    """The schedule of a case on this GPU."""
    from gpu_kernels.runtime import architecture, multiprocessors

    size = (case.tokens, case.channels)
    if not case.tile:
        return choose(case.kind, *size, case.inputs, multiprocessors(), architecture())
    tile = Tile(*case.tile).fitted(case.kind, architecture())
    if case.cut == 0:
        return whole(tile, *size, multiprocessors())
    return even(tile, *size, case.inputs, 8) if case.cut == 1 else split(tile, *size, case.inputs, case.cut)


def fault(case: Case, expected: Outputs, found: Outputs) -> str:
    """Every bit has to be right."""
    wanted, got = expected["y"], found["y"]
    if got.shape != wanted.shape:
        return f"y: must be {wanted.shape}, got {got.shape}"
    wrong = np.argwhere(got != wanted)
    if not len(wrong):
        return ""
    at = tuple(wrong[0].tolist())
    return f"y: {len(wrong)} of {wanted.size} differ, first at {at}: {got[at]:#06x}, wanted {wanted[at]:#06x}"
