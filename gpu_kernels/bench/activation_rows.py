"""Our activation kernels: microseconds of each way to quantize tokens, activations warm as behind another kernel."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from gpu_kernels.bench.contest import Contender, columns
from gpu_kernels.bench.timing import Call

TOKENS = (1, 16, 64, 256, 1024, 4096)
CHANNELS = {"plain": 4096, "norm": 4096, "gate": 14336}  # Llama-3-8B
FAR = 1  # codes may lie so far from the quotient in float32: ties and the reciprocal are the kernel's own
SEED = 2031


def rows(limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One a way and number of tokens; `floor_us` is that of the bytes, were they to come from DRAM."""
    for mode, channels in CHANNELS.items():
        for tokens in TOKENS:
            moved = tokens * (channels * ({"plain": 2, "norm": 6, "gate": 4}[mode] + 1) + 4)  # norm: residual too
            contenders = {"tilewright": Contender(partial(_prepare, mode), lambda shape: limits["l2_bytes"] * 4)}
            found = columns((tokens, channels), contenders, 2.0, limits["l2_bytes"])
            floor = 1e6 * moved / limits["read_bytes_per_s"]
            yield {"name": f"{mode} {tokens}x{channels}", "floor_us": floor, "columns": found}


def _prepare(mode: str, shape: tuple[int, int], sets: int) -> tuple[list[Call], str]:
    import torch

    from gpu_kernels.activations import op

    tokens, channels = shape
    draw = torch.Generator("cuda").manual_seed(SEED)
    half = {"generator": draw, "dtype": torch.float16, "device": "cuda"}
    x = torch.randn(tokens, channels * (2 if mode == "gate" else 1), **half)
    weight, residual = torch.rand(channels, **half) + 0.5, torch.randn(tokens, channels, **half)
    codes = torch.full((tokens, channels), 77, dtype=torch.int8, device="cuda")
    scale, sums = (torch.full((tokens,), float("nan"), dtype=torch.float16, device="cuda") for _ in range(2))
    out = op.Quantized(codes, scale, sums)
    exact = _exact(mode, x, weight, residual)
    run: Call = {
        "plain": partial(op.quantize, x, out=out),
        "norm": partial(op.quantize_norm, x, weight, 1e-5, residual, out=out),
        "gate": partial(op.quantize_gate, x, out=out),
    }[mode]
    run()
    residual.zero_()  # it grows by x at every call
    far = (codes.float() - exact / scale[:, None].float()).abs().max()
    fault = "" if float(far) <= FAR else f"a code is {float(far):.1f} from its number"
    return [run], fault


def _exact(mode: str, x: Any, weight: Any, residual: Any) -> Any:
    """What is quantized, in float32."""
    import torch

    if mode == "plain":
        return x.float()
    if mode == "gate":
        gate, up = x.float().chunk(2, dim=1)
        return torch.nn.functional.silu(gate) * up
    h = (x + residual).float()
    return h * (h.square().mean(dim=1, keepdim=True) + 1e-5).rsqrt() * weight.float()
