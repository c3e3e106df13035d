"""What launches cost: the gap between kernels in a graph and in a stream, the host's time for an operation of torch.

Nothing is waited for inside a loop: the GPU is faster than the host with kernels as small as these.
"""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from gpu_kernels.bench.calibration.job import Row
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, captured, measure

LOOPS, CALLS = 7, 200
BEHIND = 400  # kernels that wait behind a long one: fewer than a stream's queue holds
SPIN_CYCLES = 40_000_000  # some 20 ms
NODES = (1, 10, 100, 1000)
HELD = ("mul", "linear with bias", "gelu", "sdpa causal", "cat", "mean", "graph of 100 nodes")


def rows(l2_bytes: int, quick: int = 0) -> Iterator[Row]:
    """Gaps first, then graphs, operations, and a compiled function last: its compiler takes seconds."""
    parts: dict[str, Callable[[], Row]] = {"gap in a graph": _graph_gap, "gap in a stream": _stream_gap}
    parts |= {f"graph of {nodes} nodes": partial(_graph_launch, nodes) for nodes in NODES}
    parts |= {f"eager {name}": partial(host_us, call) for name, call in operations().items()}
    for name, run in (parts | {"compiled silu(x) * x + 1": _compiled}).items():
        held = name.removeprefix("eager ") in HELD
        yield {"part": "host", "name": name, "held_out": held} | guarded(run)


def host_us(call: Call, count: int = CALLS) -> Row:
    """Microseconds that the host takes to enqueue a call: median over loops, the least, the most."""
    import torch

    times = []
    with torch.no_grad():
        for _ in range(LOOPS + 1):
            torch.cuda.synchronize()
            times.append(_loop_us(call, count))
    torch.cuda.synchronize()
    kept = times[1:]
    return {"host_us": round(median(kept), 4), "least_us": round(min(kept), 4), "most_us": round(max(kept), 4)}


def _loop_us(call: Call, count: int) -> float:
    begin = perf_counter()
    for _ in range(count):
        call()
    return 1e6 * (perf_counter() - begin) / count


def operations() -> dict[str, Call]:
    """Small operations of torch as models call them."""
    import torch
    from torch.nn import functional as f

    half: dict[str, Any] = {"dtype": torch.bfloat16, "device": "cuda"}
    x, q, image = torch.randn(1, 16, 256, **half), torch.randn(1, 4, 16, 64, **half), torch.randn(1, 8, 8, 8, **half)
    w, b, filters = torch.randn(256, 256, **half), torch.randn(256, **half), torch.randn(8, 8, 3, 3, **half)
    one, words = torch.randn(1, **half), torch.randint(0, 256, (1, 16), device="cuda")
    module = torch.nn.Linear(256, 256, **half)
    return {
        "add of 1": partial(torch.add, one, one),
        "add": partial(torch.add, x, x),
        "mul": partial(torch.mul, x, x),
        "linear": partial(f.linear, x, w),
        "linear with bias": partial(f.linear, x, w, b),
        "linear as a module": partial(module, x),
        "bmm": partial(torch.bmm, x, x.transpose(1, 2)),
        "layer_norm": partial(f.layer_norm, x, (256,), b, b),
        "rms_norm": partial(f.rms_norm, x, (256,), b),
        "softmax": partial(torch.softmax, x, -1),
        "silu": partial(f.silu, x),
        "gelu": partial(f.gelu, x),
        "sdpa": partial(f.scaled_dot_product_attention, q, q, q),
        "sdpa causal": partial(f.scaled_dot_product_attention, q, q, q, is_causal=True),
        "conv2d": partial(f.conv2d, image, filters, padding=1),
        "embedding": partial(f.embedding, words, w),
        "cat": partial(torch.cat, [x, x], -1),
        "mean": partial(torch.mean, x, -1, keepdim=True),
        "to float32": x.float,
        "transpose": lambda: x.view(1, 16, 4, 64).transpose(1, 2),
        "transpose and copy": lambda: x.transpose(1, 2).contiguous(),
        "chunk": partial(torch.chunk, x, 2, -1),
        "empty": partial(torch.empty, 16, 256, **half),
    }


def _tiny() -> Call:
    """A kernel of one element that allocates nothing."""
    import torch

    return torch.zeros(1, device="cuda").zero_


def _graph_gap() -> Row:
    return dict(measure([_tiny()], 2.0).row())


def _stream_gap() -> Row:
    """Microseconds a kernel when the host is far ahead: they are enqueued while a long one runs."""
    import torch

    call, times = _tiny(), []
    for _ in range(LOOPS):
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
        torch.cuda._sleep(SPIN_CYCLES)
        marks[0].record()
        for _ in range(BEHIND):
            call()
        marks[1].record()
        ahead = not marks[0].query()  # the long kernel has not ended when all are enqueued
        torch.cuda.synchronize()
        if ahead:
            times.append(1e3 * marks[0].elapsed_time(marks[1]) / BEHIND)
    if not times:
        raise RuntimeError("the host was never ahead of the GPU")
    return {"us": round(median(times), 4), "least_us": round(min(times), 4), "most_us": round(max(times), 4)}


def _graph_launch(nodes: int) -> Row:
    """Microseconds of the host to launch a graph, and of the GPU from one launch to the next."""
    import torch

    graph = captured([_tiny()], nodes)
    graph.replay()
    found = host_us(graph.replay, 50)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    torch.cuda._sleep(SPIN_CYCLES // 4)
    marks[0].record()
    for _ in range(50):
        graph.replay()
    marks[1].record()
    torch.cuda.synchronize()
    return found | {"nodes": nodes, "us": round(1e3 * marks[0].elapsed_time(marks[1]) / 50, 4)}


def _compiled() -> Row:
    """torch.compile's default mode: guards, and a launch of what its compiler made; how long it compiled."""
    import torch

    x = torch.randn(16, 256, dtype=torch.bfloat16, device="cuda")
    begin = perf_counter()
    run = torch.compile(lambda y: torch.nn.functional.silu(y) * y + 1, dynamic=False)
    with torch.no_grad():
        run(x)
    torch.cuda.synchronize()
    seconds = perf_counter() - begin
    return host_us(partial(run, x)) | {"compile_s": round(seconds, 2)}
