"""What `tilewright kernels check` runs: small layers, each kernel against `reference.py` within the bounds of BOUNDS.

Every kernel is judged by what it made of the results in front of it (`reference.step` with `seen`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.decode_layer.config import Sizes
from gpu_kernels.decode_layer.operands import Weights, rotation, weights
from gpu_kernels.decode_layer.reference import STAGES, Cache, step

ARCHITECTURES = ("sm_90a",)
SOURCES = ("w4a8_gemm/kernel.cu", "kv4_attention/kernel.cu", "activations/kernel.cu")
UNIT = 2.0**-10  # of float16: a product may be rounded to the other neighbour
MIXED = 2e-3  # of attention: of the norm of a row
SIZES = {
    "least": Sizes(256, 8, 2, 64, 512),
    "grouped": Sizes(512, 16, 2, 128, 1024),
    "alone": Sizes(256, 4, 4, 64, 640),
}
Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Case:
    """A layer by name of SIZES."""

    name: str
    seed: int
    sizes: str
    batch: int
    context: int


CASES = (
    Case("one sequence", 1, "least", 1, 100),
    Case("three sequences", 2, "least", 3, 64),
    Case("empty cache", 3, "least", 2, 0),
    Case("end of a page", 4, "grouped", 17, 127),
    Case("no groups", 5, "alone", 9, 33),
    Case("many sequences", 6, "grouped", 130, 40),
)


def operands(case: Case) -> tuple[Weights, NDArray[np.float32], NDArray[np.float32], Cache]:
    """Weights, x, residual [B, hidden] and the cache."""
    sizes, draw = SIZES[case.sizes], np.random.default_rng(case.seed)
    x, residual = (round_to(draw.normal(0, 1, (case.batch, sizes.hidden)), "float16") for _ in range(2))
    shape = case.batch, sizes.kv_heads, case.context, sizes.head_size
    keys, values = (round_to(draw.normal(0, 1, shape), "float16") for _ in range(2))
    return weights(sizes, case.seed), x, residual, Cache(keys, values)


def expected(case: Case) -> dict[str, NDArray[Any]]:
    """By the reference, as float16."""
    return {name: part.astype(np.float16) for name, part in _by_reference(case, None).items()}


def _by_reference(case: Case, seen: Outputs | None) -> dict[str, Any]:
    given, x, residual, cache = operands(case)
    angles = rotation(np.full(case.batch, case.context), given.sizes)
    return step(given, x, residual, cache, angles, seen=seen)


def found(case: Case) -> dict[str, NDArray[Any]]:
    """On the GPU, from buffers full of NaN."""
    import torch

    from gpu_kernels.decode_layer.op import DecodeLayer

    given, x, residual, cache = operands(case)
    layer = DecodeLayer(given, case.batch, case.context)
    for buffer in layer.results().values():
        buffer.fill_(float("nan"))
    if case.context:
        layer.fill(*(torch.from_numpy(part).to("cuda", torch.float16) for part in cache))
    moved = [torch.from_numpy(part).to("cuda", torch.float16) for part in (x, residual)]
    layer.step(moved[0], moved[1])
    results = layer.results() | {"residual": moved[1]}
    return {name: results[name].cpu().numpy() for name in STAGES}


def fault(case: Case, expected: Outputs, found: Outputs) -> str:
    """The first kernel that is off."""
    for name, wanted in expected.items():
        got = found[name]
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"{name}: must be {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}"
        if not np.isfinite(got).all():
            return f"{name}: {int((~np.isfinite(got)).sum())} of {got.size} are not finite"
    return stage_fault(found, _by_reference(case, found))


def stage_fault(found: Outputs, wanted: Mapping[str, Any]) -> str:
    """What the kernels made of what they got (`found`), against what they should have made of it."""
    for name in STAGES:
        got = np.asarray(found[name], np.float64)
        if name == "mixed":
            error = relative_error(got, wanted[name])
            if not error.max() <= MIXED:
                return f"mixed: relative error {error.max():.2e} in row {error.argmax()}, more than {MIXED:.0e}"
            continue
        allowed = 0 if name == "residual" else np.maximum(np.abs(wanted[name]) * UNIT, 2.0**-24)
        off = np.argwhere(~(np.abs(got - wanted[name]) <= allowed))
        if len(off):
            at = tuple(off[0].tolist())
            return f"{name}: {len(off)} of {got.size} are off, first at {at}: {got[at]}, wanted {wanted[name][at]}"
    return ""


def relative_error(found: Any, wanted: Any) -> NDArray[np.float64]:
    """||found - wanted|| / ||wanted|| of each row; NaN where there is one."""
    wide, exact = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    error: NDArray[np.float64] = np.linalg.norm(wide - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return np.where(np.isnan(error), np.inf, error)
