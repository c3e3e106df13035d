"""What `tilewright kernels check` runs: small layers against `reference.py`, within the bound of the README."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.decode_layer.config import Sizes
from gpu_kernels.decode_layer.operands import Weights, rotation, weights
from gpu_kernels.decode_layer.reference import Cache, step

ARCHITECTURES = ("sm_90a",)
SOURCES = ("w4a8_gemm/kernel.cu", "kv4_attention/kernel.cu", "activations/kernel.cu")
BOUND = {"x": 1e-2, "residual": 2e-3}  # of the norm: README
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
    given, x, residual, cache = operands(case)
    angles = rotation(np.full(case.batch, case.context), given.sizes)
    return {name: part.astype(np.float16) for name, part in step(given, x, residual, cache, angles)._asdict().items()}


def found(case: Case) -> dict[str, NDArray[Any]]:
    """On the GPU, from buffers full of NaN."""
    import torch

    from gpu_kernels.decode_layer.op import DecodeLayer

    given, x, residual, cache = operands(case)
    layer = DecodeLayer(given, case.batch, case.context)
    for one in layer.linears.values():
        one.output.fill_(float("nan"))
    layer.mixed.fill_(float("nan"))
    if case.context:
        layer.fill(*(torch.from_numpy(part).to("cuda", torch.float16) for part in cache))
    moved = [torch.from_numpy(part).to("cuda", torch.float16) for part in (x, residual)]
    out = layer.step(*moved)
    return {"x": out.cpu().numpy(), "residual": moved[1].cpu().numpy()}


def fault(case: Case, expected: Outputs, found: Outputs) -> str:
    """Relative error in the norm, row by row."""
    for name, wanted in expected.items():
        got = found[name]
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"{name}: must be {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}"
        error = relative_error(got, wanted)
        worst = int(error.argmax())
        if not error[worst] <= BOUND[name]:
            return f"{name}: relative error {error[worst]:.2e} in row {worst}, more than {BOUND[name]:.0e}"
    return ""


def relative_error(found: Any, wanted: Any) -> NDArray[np.float64]:
    """||found - wanted|| / ||wanted|| of each row; NaN where there is one."""
    wide, exact = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    error: NDArray[np.float64] = np.linalg.norm(wide - exact, axis=1) / np.linalg.norm(exact, axis=1)
    return np.where(np.isnan(error), np.inf, error)
