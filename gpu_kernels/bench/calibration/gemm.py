"""torch's products: bfloat16 (cuBLAS), INT8 without scales, FP8 with scales of rows. As `gemm_peers`, from pools."""

from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from gpu_kernels.bench.calibration.job import Job, expected
from gpu_kernels.bench.calibration.points import Product, library_products, spread
from gpu_kernels.bench.calibration.pools import SEED, Pool, room
from gpu_kernels.bench.gemm_peers import INT8_ROWS
from gpu_kernels.bench.timing import ROTATION, Call

PEAK = {"bf16": 7e14, "int8": 9e14, "fp8": 1.3e15}  # operations a second, about: how often a graph calls
BYTES = {"bf16": 2, "int8": 1, "fp8": 1}
OUT_BYTES = {"bf16": 2, "int8": 4, "fp8": 2}


def dtype(form: str) -> Any:
    """torch's."""
    import torch

    return {"bf16": torch.bfloat16, "int8": torch.int8, "fp8": torch.float8_e4m3fn}[form]


class Operands:
    """Pools of one format, large enough for `points`; two calls of a form share them."""

    def __init__(self, form: str, points: list[Product], l2_bytes: int) -> None:
        import torch

        self.form, self.bytes = form, BYTES[form]
        weights = max(one.n * one.k for one in points) * self.bytes + ROTATION * l2_bytes + (64 << 20)
        rows = max(max(one.m, INT8_ROWS) * one.k for one in points) * self.bytes
        outs = max(max(one.m, INT8_ROWS) * one.n for one in points) * OUT_BYTES[form]
        self.w, self.x = Pool(dtype(form), room(weights), SEED), Pool(dtype(form), room(rows + 512), SEED + 1)
        self.out = torch.empty(room(outs + 512), dtype=torch.uint8, device="cuda")
        self.ones = torch.ones(max(max(one.m, one.n) for one in points), device="cuda")

    def _out(self, rows: int, columns: int) -> Any:
        import torch

        form = torch.int32 if self.form == "int8" else torch.bfloat16
        return self.out.view(form)[: rows * columns].view(rows, columns)

    def calls(self, point: Product, sets: int) -> list[Call]:
        """One for each set of weights."""
        import torch

        weights = self.w.views(sets, point.n, point.k)
        rows = rows_run(self.form, point.m)
        x, out = self.x.view(rows, point.k), self._out(rows, point.n)
        if self.form == "bf16":
            return [partial(torch.mm, x, w.t(), out=out) for w in weights]
        if self.form == "int8":
            return [partial(torch._int_mm, x, w.t(), out=out) for w in weights]
        scales = self.ones[:rows, None], self.ones[None, : point.n]
        options = {"out_dtype": torch.bfloat16, "use_fast_accum": False, "out": out}
        return [partial(torch._scaled_mm, x, w.t(), *scales, **options) for w in weights]


def rows_run(form: str, tokens: int) -> int:
    """Rows that are multiplied: `_int_mm` takes no fewer than INT8_ROWS."""
    return max(tokens, INT8_ROWS) if form == "int8" else tokens


def moved(form: str, point: Product) -> int:
    """Bytes: each operand once."""
    m, n, k = point.m, point.n, point.k
    return BYTES[form] * (n * k + m * k) + OUT_BYTES[form] * m * n


def jobs(form: str, l2_bytes: int, quick: int = 0) -> Iterator[Job]:
    """One a point, in an order that has nothing to do with sizes."""
    points = list(spread(library_products(), quick))
    operands = Operands(form, points, l2_bytes)
    for point in points:
        row = {"part": f"gemm_{form}", "name": point.name} | asdict(point) | {"rows_run": rows_run(form, point.m)}
        yield Job(
            row,
            partial(operands.calls, point),
            BYTES[form] * point.n * point.k,
            2 + expected(moved(form, point), point.operations, PEAK[form]),
        )
