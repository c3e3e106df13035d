"""What `tilewright kernels check` runs: every way to quantize, on random and adversarial rows, bit for bit."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from gpu_kernels.activations import model
from gpu_kernels.activations.config import Shape, choose

SOURCES = ("activations/kernel.cu", "activations/config.py")
EPSILON = 1e-5
Outputs = Mapping[str, NDArray[Any]]
_EVERY = 1 << 23  # significands of a float32


@dataclass(frozen=True)
class Case:
    """Rows to quantize; `kind` names how they are drawn, `cluster`, `groups` and `steps` a shape (0: the operator's).

    Reciprocals: `channels` numbers from 2^seed on.
    """

    name: str
    seed: int
    mode: str
    form: str
    tokens: int
    channels: int
    kind: str = "normal"
    residual: bool = False
    sums: bool = True
    cluster: int = 0
    groups: int = 0
    steps: int = 0


def _cases() -> list[Case]:
    found = [Case(f"every reciprocal at 2^{k}", k, "reciprocal", "float32", 1, _EVERY) for k in (0, 1, 100, 125)]
    sizes = (1, 4096), (3, 14336), (2, 8), (5, 2056), (1, 11008), (2, 20480), (300, 256)
    for form in ("float16", "bfloat16"):
        for mode in ("plain", "norm", "gate"):
            for tokens, channels in sizes:
                found.append(Case(f"{mode} {form} {tokens}x{channels}", len(found), mode, form, tokens, channels))
            for kind in ("edges", "outlier", "large", "subnormal", "wide"):
                found.append(Case(f"{mode} {form} {kind}", len(found), mode, form, 8, 4096, kind))
            found.append(Case(f"{mode} {form} no sums", len(found), mode, form, 2, 4096, sums=False))
        found.append(Case(f"residual {form}", len(found), "norm", form, 3, 4096, residual=True))
        found.append(Case(f"residual {form} large", len(found), "norm", form, 8, 4104, "large", residual=True))
        found += [_shaped(len(found) + i, form, *own) for i, own in enumerate(_SHAPES)]
    return found


_SHAPES = (
    ("norm", 1, 2, 4),
    ("norm", 2, 2, 4),
    ("norm", 4, 1, 8),
    ("gate", 8, 7, 1),
    ("gate", 4, 4, 2),
    ("gate", 1, 4, 2),
)


def _shaped(seed: int, form: str, mode: str, cluster: int, groups: int, steps: int) -> Case:
    """Not what the operator would take: the result may not depend on it."""
    name = f"{mode} {form} cluster {cluster} groups {groups} steps {steps}"
    return Case(name, seed, mode, form, 3, 14336, cluster=cluster, groups=groups, steps=steps)


def operands(case: Case) -> dict[str, NDArray[np.float32]]:
    """x, weight, residual on the grid of the form."""
    draw = np.random.default_rng(case.seed)
    width = case.channels * (2 if case.mode == "gate" else 1)
    x = _drawn(draw, case, width)
    weight = round_to(draw.normal(1, 0.2, case.channels), case.form)
    return {"x": x, "weight": weight, "residual": _drawn(draw, case, case.channels)}


def _drawn(draw: np.random.Generator, case: Case, width: int) -> NDArray[np.float32]:
    x: NDArray[Any] = draw.normal(0, 1, (case.tokens, width)) * np.exp(draw.uniform(-4, 2, (case.tokens, 1)))
    largest = 65504.0 if case.form == "float16" else 3.3895313892515355e38
    least = 2.0**-24 if case.form == "float16" else 2.0**-133
    if case.kind == "edges":
        values = (0.0, -0.0, least, -least, largest, -largest, 1.0, -127.0)
        x = np.repeat(np.resize(values, case.tokens)[:, None], width, axis=1)
    if case.kind == "outlier":
        x[np.arange(case.tokens), draw.integers(0, width, case.tokens)] = largest * draw.choice([-1, 1], case.tokens)
    if case.kind == "large":
        x = draw.choice([-1, 1], x.shape) * draw.choice([largest, largest / 2, largest / 64, 1.0], x.shape)
    if case.kind == "wide":
        x = draw.uniform(-100, 100, x.shape)  # gates to where the exponential ends
    if case.kind == "subnormal":
        x = draw.integers(-900, 900, x.shape) * least
    return round_to(x, case.form)


CASES = tuple(_cases())


def expected(case: Case) -> dict[str, NDArray[Any]]:
    """By the model."""
    if case.mode == "reciprocal":
        d = np.float32(1) + np.arange(case.channels, dtype=np.float32) * np.float32(2.0**-23)
        return {"reciprocals": np.float32(1) / (d * np.float32(2.0**case.seed))}
    given, h = operands(case), None
    if case.mode == "norm":
        residual = given["residual"] if case.residual else None
        tokens, h = model.quantize_norm(given["x"], given["weight"], EPSILON, case.form, residual)
    else:
        tokens = {"plain": model.quantize, "gate": model.quantize_gate}[case.mode](given["x"], case.form)
    found: dict[str, NDArray[Any]] = {"codes": tokens.codes, "scale": bits16(tokens.scale, case.form)}
    if case.sums:
        found["sums"] = bits16(tokens.sums, case.form)
    return found | ({"h": bits16(h, case.form)} if case.residual else {})


def bits16(values: Any, form: str) -> NDArray[np.uint16]:
    """The 16-bit patterns of float32 numbers on a grid; every NaN as the GPU writes it."""
    given = np.ascontiguousarray(values, np.float32)
    bits = given.astype(np.float16).view(np.uint16) if form == "float16" else (given.view(np.uint32) >> 16)
    return np.where(np.isnan(given), 0x7FFF, bits).astype(np.uint16)


def found(case: Case) -> dict[str, NDArray[Any]]:
    """On the GPU."""
    if case.mode == "reciprocal":
        return {"reciprocals": _reciprocals(case.channels, 2.0**case.seed)}
    import torch

    from gpu_kernels.activations.op import Quantized

    form = torch.float16 if case.form == "float16" else torch.bfloat16
    given = {name: torch.from_numpy(part).to("cuda", form) for name, part in operands(case).items()}
    codes = torch.full((case.tokens, case.channels), 85, dtype=torch.int8, device="cuda")
    scale, sums = (torch.full((case.tokens,), float("nan"), dtype=form, device="cuda") for _ in range(2))
    out = Quantized(codes, scale, sums if case.sums else None)
    _launch(case, given, out)
    result = {"codes": codes, "scale": scale.view(torch.uint16)}
    if case.sums:
        result["sums"] = sums.view(torch.uint16)
    if case.residual:
        result["h"] = given["residual"].view(torch.uint16)
    return {name: part.cpu().numpy() for name, part in result.items()}


def _launch(case: Case, given: Mapping[str, Any], out: Any) -> None:
    from gpu_kernels.activations import op
    from gpu_kernels.runtime import architecture, multiprocessors

    residual, weight = given["residual"] if case.residual else None, given["weight"] if case.mode == "norm" else None
    clusters = architecture() >= "sm_90"
    if case.cluster and (clusters or case.cluster == 1):
        shape = Shape(case.cluster, case.groups, case.steps)
    else:
        shape = choose(case.mode, case.tokens, case.channels, multiprocessors(), clusters)
    op.run(case.mode, shape, given["x"], residual, weight, EPSILON, out)


def _reciprocals(count: int, power: float) -> NDArray[np.float32]:
    import ctypes

    import torch

    from gpu_kernels.activations.config import macros
    from gpu_kernels.activations.op import SOURCE
    from gpu_kernels.runtime import launch, load

    out = torch.full((count,), float("nan"), device="cuda")
    shape = choose("plain", 1, 4096, 1, False)
    kernel = load(SOURCE, "reciprocals", macros("plain", shape, True, False, False))
    launch(kernel, -(-count // 256), 256, (out, ctypes.c_int(count), ctypes.c_float(power)))
    return out.cpu().numpy()


def fault(case: Case, expected: Outputs, found: Outputs) -> str:
    """Every byte has to be right."""
    for name, wanted in expected.items():
        got = found[name]
        if got.dtype != wanted.dtype or got.shape != wanted.shape:
            return f"{name}: must be {wanted.dtype} {wanted.shape}, got {got.dtype} {got.shape}"
        wrong = np.argwhere(got != wanted)
        if len(wrong):
            at = tuple(wrong[0].tolist())
            return f"{name}: {len(wrong)} of {wanted.size} differ, first at {at}: {got[at]}, wanted {wanted[at]}"
    return ""
