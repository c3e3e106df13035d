"""Every stream of points by the name that its rows have as `part`, and the seconds that each may take."""

from collections.abc import Callable, Iterator
from functools import partial

from gpu_kernels import runtime
from gpu_kernels.bench.calibration import (
    batched,
    counters,
    decode,
    energy,
    gemm,
    host,
    ours,
    prefill,
    streams,
    transfers,
)
from gpu_kernels.bench.calibration.job import Job, Row

JobStream = Callable[[int, int], Iterator[Job]]  # (bytes of the L2, points or 0 for all)
RowStream = Callable[[int, int], Iterator[Row]]
BUDGET_S = {  # a stream begins no point after so long; what is left out is told
    "gemm": 20.0,
    "ours": 9.0,
    "decode": 9.0,
    "prefill": 10.0,
    "elementwise": 9.0,
    "rows": 9.0,
    "activations": 5.0,
    "bmm": 4.0,
    "linear": 5.0,
    "convolution": 6.0,
    "transfers": 6.0,
    "host": 25.0,
    "energy": 85.0,
    "counters": 70.0,
}


def job_sources() -> dict[str, JobStream]:
    """Points that a graph can hold."""
    found: dict[str, JobStream] = {f"gemm_{form}": partial(gemm.jobs, form) for form in gemm.BYTES}
    found |= {f"ours_{name}": partial(ours.jobs, name) for name in ours.kinds(runtime.architecture())}
    found |= {f"decode_{name}": partial(decode.our_jobs, name) for name in decode.BITS}
    found |= {f"decode_{name}": partial(decode.torch_jobs, name) for name in ("sdpa_flash", "sdpa_cudnn")}
    found |= {f"prefill_{name}": partial(prefill.jobs, name) for name in ("sdpa_flash", "sdpa_cudnn")}
    found |= {"elementwise": streams.elementwise_jobs, "rows": streams.row_jobs, "activations": streams.our_jobs}
    found |= {"bmm": batched.product_jobs, "linear_attention": batched.linear_jobs}
    return found | {"convolution": batched.convolution_jobs}


def row_sources() -> dict[str, RowStream]:
    """Points that are measured in a way of their own."""
    return {"transfers": transfers.rows, "host": host.rows, "energy": energy.rows, "counters": counters.rows}


def kind_of(source: str) -> str:
    """The part that a stream belongs to: `gemm` of `gemm_bf16`."""
    return source.partition("_")[0]


def of_library(source: str) -> bool:
    """Whether its kernels are a library's and worth a name: cuDNN builds a plan for each shape, which takes long."""
    return not source.startswith(("ours_", "decode_kv", "activations")) and "cudnn" not in source
