"""Our GEMMs: the Hopper ones where there is wgmma, the portable ones everywhere. Operands as `gemm_ours`'."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from typing import Any

from gpu_kernels import runtime
from gpu_kernels.bench.calibration.job import Job, Row, expected
from gpu_kernels.bench.calibration.points import Product, our_products, spread
from gpu_kernels.bench.gemm_ours import BANK, BLOCK, HOPPER, PORTABLE, SEED, packed_bank
from gpu_kernels.bench.timing import ROTATION, Call
from gpu_kernels.bench.variants import Variant, variant
from gpu_kernels.w4a8_gemm.config import packed_bytes

KINDS = {  # by the name of a part; kinds that share packed weights follow one another
    "w4a8_channel": (HOPPER, "w4a8_channel"),
    "portable_channel": (PORTABLE, "w4a8_channel"),
    "w4a8_group": (HOPPER, "w4a8_group"),
    "portable_group": (PORTABLE, "w4a8_group"),
    "w4a16": (HOPPER, "w4a16"),
    "w8a8": (HOPPER, "w8a8"),
}
PEAK = 5e14  # operations a second, about


def kinds(architecture: str) -> dict[str, tuple[str, str]]:
    """(folder, kind) by name: what this architecture can run."""
    return {name: one for name, one in KINDS.items() if one[0] == PORTABLE or architecture == "sm_90a"}


def plan_of(folder: str, kind: str, point: Product, multiprocessors: int, architecture: str) -> Any:
    """The tile (Hopper) or schedule (portable) that the operator takes."""
    shape = point.m, point.n, point.k, multiprocessors
    if folder == HOPPER:
        from gpu_kernels.w4a8_gemm import config

        return config.choose(kind, *shape)
    from gpu_kernels.w4a8_portable import config as portable

    return portable.choose(kind, *shape, architecture)


def variants_of(points: Sequence[Product], architecture: str, multiprocessors: int) -> Iterator[Variant]:
    """What they compile."""
    from gpu_kernels.w4a8_gemm import config as hopper
    from gpu_kernels.w4a8_portable import config as portable

    for folder, kind in kinds(architecture).values():
        for point in points:
            plan = plan_of(folder, kind, point, multiprocessors, architecture)
            macros = hopper.macros(kind, plan, True) if folder == HOPPER else portable.macros(kind, plan.tile, True)
            yield variant(folder, macros)


@lru_cache(maxsize=8)
def _blocks(kind: str, inputs: int, size_bytes: int) -> Any:
    """uint8 [blocks of 64 channels, packed bytes]: blocks of `gemm_ours.bank`, drawn at random."""
    import torch

    packed, _ = packed_bank(kind, inputs)
    draw = torch.Generator("cuda").manual_seed(SEED)
    return packed[torch.randint(0, BANK, (size_bytes // packed.shape[1] + 1,), generator=draw, device="cuda")]


class Vectors:
    """Activations and scales for any point: views of one draw."""

    def __init__(self, points: Sequence[Product]) -> None:
        import torch

        draw = torch.Generator("cuda").manual_seed(SEED)
        half = {"generator": draw, "device": "cuda", "dtype": torch.float16}
        most = max(one.m * one.k for one in points)
        self.half = torch.randn(most, **half)
        self.bytes = torch.randint(-128, 128, (most,), generator=draw, dtype=torch.int8, device="cuda")
        rows, columns = max(one.m for one in points), max(one.n for one in points)
        self.token_scale, self.token_sum = torch.rand(rows, **half) / 256 + 1 / 256, torch.randn(rows, **half)
        self.scale, self.scaled_zero = torch.rand(columns, **half) / 256 + 1 / 256, torch.rand(columns, **half)
        self.out = torch.empty(max(one.m * one.n for one in points), dtype=torch.float16, device="cuda")
        self.space: Any = None

    def of(self, kind: str, point: Product) -> dict[str, Any]:
        """By the names that the operators use."""
        x = (self.half if kind == "w4a16" else self.bytes)[: point.m * point.k].view(point.m, point.k)
        found = {"x": x, "out": self.out[: point.m * point.n].view(point.m, point.n)}
        if kind == "w4a16":
            return found
        found |= {"scale": self.scale[: point.n], "token_scale": self.token_scale[: point.m]}
        if kind == "w4a8_channel":
            found |= {"scaled_zero": self.scaled_zero[: point.n], "token_sum": self.token_sum[: point.m]}
        return found


def calls(folder: str, kind: str, point: Product, vectors: Vectors, l2_bytes: int, sets: int) -> list[Call]:
    """One for each set of packed weights; tile and launch are those of the operator."""
    blocks, each = _blocks(kind, point.k, _pool_bytes(kind, point.k, l2_bytes)), point.n // BLOCK
    packed = [blocks[i * each : (i + 1) * each] for i in range(sets)]
    plan = plan_of(folder, kind, point, runtime.multiprocessors(), runtime.architecture())
    run = _hopper if folder == HOPPER else _portable
    return [run(kind, plan, vectors, vectors.of(kind, point), one) for one in packed]


def _pool_bytes(kind: str, inputs: int, l2_bytes: int) -> int:
    widest = max(one.n for one in our_products() if one.k == inputs)
    return ROTATION * l2_bytes + 2 * packed_bytes(kind, widest, inputs)


def _hopper(kind: str, tile: Any, vectors: Vectors, named: dict[str, Any], packed: Any) -> Call:
    from gpu_kernels.w4a8_gemm import op

    return _giving(named["out"], partial(op.run, kind, tile, named["x"], packed, named, named["out"]))


def _portable(kind: str, plan: Any, vectors: Vectors, named: dict[str, Any], packed: Any) -> Call:
    from gpu_kernels.w4a8_portable import op

    if vectors.space is None:
        vectors.space = op.new_workspace(named["x"].device)
    order = named["scale"], named.get("scaled_zero"), None, named["token_scale"], named.get("token_sum")
    return _giving(named["out"], partial(op.run, kind, plan, named["x"], packed, *order, named["out"], vectors.space))


def _giving(out: Any, run: Callable[[], Any]) -> Call:
    def call() -> Any:
        run()
        return out

    return call


def jobs(name: str, l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """One a point of one kernel, in an order that has nothing to do with sizes."""
    folder, kind = kinds(runtime.architecture())[name]
    points = list(spread(our_products(), quick))
    vectors = Vectors(points)
    for point in points:
        plan = plan_of(folder, kind, point, runtime.multiprocessors(), runtime.architecture())
        row: Row = {"part": f"ours_{name}", "name": point.name} | asdict(point) | {"kind": kind, "folder": folder}
        row |= {"tile": asdict(plan)}
        size = packed_bytes(kind, point.n, point.k)
        us = expected(size + 2 * point.m * (point.k + point.n), point.operations, PEAK)
        prepare = partial(calls, folder, kind, point, vectors, l2_bytes)
        yield Job(row, prepare, size, 1.3 * us)
