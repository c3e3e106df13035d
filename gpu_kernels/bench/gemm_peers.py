"""torch's products on the shapes of ours: bfloat16 (cuBLAS), INT8 without scales, FP8 with scales of rows.

A peer is `(shape, sets) -> (calls, fault)`: one call for each set of weights, and what the first got wrong ("" if
nothing), compared with float64 on a sample of rows and columns, the output poisoned before.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from gpu_kernels.bench.contest import Contender
from gpu_kernels.bench.shapes import Gemm
from gpu_kernels.bench.timing import Call

INT8_ROWS = 32  # `_int_mm` takes no fewer than 17
WORST = {"bfloat16": 6e-3, "int8": 0.0, "fp8": 6e-3}  # of the norm; results are rounded to bfloat16 once
SAMPLE = 64, 256  # rows, columns
Peer = Callable[[Gemm, int], tuple[list[Call], str]]
SEED = 2027


def _draw(shape: tuple[int, ...], seed: int) -> Any:
    import torch

    draw = torch.Generator("cuda").manual_seed(seed)
    return torch.empty(shape, dtype=torch.bfloat16, device="cuda").normal_(generator=draw)


def _bytes(shape: tuple[int, ...], seed: int) -> Any:
    import torch

    draw = torch.Generator("cuda").manual_seed(seed)
    return torch.empty(shape, dtype=torch.int8, device="cuda").random_(-128, 128, generator=draw)


def bfloat16(shape: Gemm, sets: int) -> tuple[list[Call], str]:
    """`torch.mm` in bfloat16."""
    import torch

    x = _draw((shape.m, shape.k), SEED)
    weights = [_draw((shape.n, shape.k), SEED + 1 + i) for i in range(sets)]
    out = torch.empty(shape.m, shape.n, dtype=torch.bfloat16, device="cuda")
    calls: list[Call] = [partial(torch.mm, x, w.t(), out=out) for w in weights]
    return calls, _fault("bfloat16", calls[0], out, x, weights[0])


def int8(shape: Gemm, sets: int) -> tuple[list[Call], str]:
    """`torch._int_mm`, int32 out, no scales; M padded to INT8_ROWS."""
    import torch

    x = _bytes((max(shape.m, INT8_ROWS), shape.k), SEED)
    weights = [_bytes((shape.n, shape.k), SEED + 1 + i) for i in range(sets)]
    out = torch.empty(len(x), shape.n, dtype=torch.int32, device="cuda")
    calls: list[Call] = [partial(torch._int_mm, x, w.t(), out=out) for w in weights]
    return calls, _fault("int8", calls[0], out, x, weights[0])


def fp8(fast: bool, shape: Gemm, sets: int) -> tuple[list[Call], str]:
    """`torch._scaled_mm`: e4m3 operands, a scale a row of each, bfloat16 out; `fast` keeps fewer bits of the sums."""
    import torch

    kind = torch.float8_e4m3fn
    x = _draw((shape.m, shape.k), SEED).to(kind)
    weights = [_draw((shape.n, shape.k), SEED + 1 + i).to(kind) for i in range(sets)]
    scales = torch.ones(shape.m, 1, device="cuda"), torch.ones(1, shape.n, device="cuda")
    out = torch.empty(shape.m, shape.n, dtype=torch.bfloat16, device="cuda")
    options = {"out_dtype": torch.bfloat16, "use_fast_accum": fast, "out": out}
    calls: list[Call] = [partial(torch._scaled_mm, x, w.t(), *scales, **options) for w in weights]
    return calls, _fault("fp8", calls[0], out, x, weights[0])


PEERS: dict[str, Peer] = {
    "torch_bf16": bfloat16,
    "torch_int8": int8,
    "torch_fp8": partial(fp8, False),
    "torch_fp8_fast": partial(fp8, True),
}


def contenders() -> dict[str, Contender]:
    """By name."""
    return {name: Contender(peer, partial(_bytes_of, 2 if name == "torch_bf16" else 1)) for name, peer in PEERS.items()}


def _bytes_of(each: int, shape: Gemm) -> int:
    return each * shape.n * shape.k


def _fault(name: str, call: Call, out: Any, x: Any, w: Any) -> str:
    """What `call` got wrong in `out`, "" if nothing."""
    import torch

    poison = float("nan") if out.is_floating_point() else -(1 << 31)
    out.fill_(poison)
    call()
    unwritten = int(out.isnan().sum()) if out.is_floating_point() else int((out == poison).sum())
    if unwritten:
        return f"{unwritten} of {out.numel()} elements are not written or NaN"
    rows = torch.linspace(0, len(x) - 1, min(len(x), SAMPLE[0]), device="cuda").long()
    columns = torch.linspace(0, len(w) - 1, min(len(w), SAMPLE[1]), device="cuda").long()
    exact = x[rows].double() @ w[columns].double().T
    error = float((out[rows][:, columns].double() - exact).norm() / exact.norm())
    return "" if error <= WORST[name] else f"relative error {error:.2e}, more than {WORST[name]:.0e}"
