"""Power of loops, by the driver's energy counter: each kernel again and again for SECONDS, and a GPU that rests.

A loop's power is that between two steps of the counter, the first of them a while after the loop began: clocks have
settled then. Numbers 1, 3, 5 ... of LOOPS are held out; each follows one of its kind.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median
from typing import Any

from gpu_kernels.bench.calibration import nvml
from gpu_kernels.bench.calibration.job import Row
from gpu_kernels.bench.calibration.points import Decode, Prefill, Product, product
from gpu_kernels.bench.contest import guarded
from gpu_kernels.bench.timing import Call, captured, sets_for

SECONDS, SETTLE = 2.1, 0.3  # of a loop; the share of it before power is read
REPLAY_US, MOST_NODES = 20_000, 2000
LOOK_S = 0.004  # between two readings of the counter
REST_S, REST_AFTER_S, REST_QUICK_S, REST_LOOK_S = 30.0, 10.0, 1.0, 1.0


@dataclass(frozen=True)
class Load:
    """What is repeated: calls in turn; bytes (DRAM, L2) and operations of one, 0 where not counted."""

    calls: Sequence[Call]
    dram_bytes: float = 0.0
    l2_bytes: float = 0.0
    operations: float = 0.0
    format: str = ""


SQUARE, WIDE = (8192, 8192, 8192), (28672, 4096)  # M, N, K; N, K
DECODE = Decode(64, 32, 8, 128, 4096, False)
LOOPS = (
    "dram read",
    "dram copy",
    "l2 read",
    "l2 add",
    "multiply-add",
    "exponentials",
    "bf16 8192x8192x8192",
    "bf16 4096x28672x4096",
    "int8 by wgmma",
    "int8 8192x8192x8192",
    "fp8 8192x8192x8192",
    "fp8 1024x28672x4096",
    "int8 by mma.sync",
    "portable_channel 4096x28672x4096",
    "w4a8_channel 16x28672x4096",
    "w4a8_channel 256x28672x4096",
    "w4a8_channel 4096x28672x4096",
    "w4a16 4096x28672x4096",
    "decode kv4",
    "decode sdpa_flash",
    "prefill sdpa_flash 4096",
    "prefill sdpa_cudnn causal 8192",
    "bf16 16x28672x4096",
    "bf16 256x28672x4096",
    "dram softmax",
    "dram layer_norm",
    "dram add",
    "dram gelu",
)


def load(name: str, l2_bytes: int) -> Load:
    """What a loop repeats, prepared."""
    words = name.split()
    if words[-1].count("x") == 2:
        return _product(words[0], product(*map(int, words[-1].split("x"))), l2_bytes)
    if words[0] in ("decode", "prefill"):
        return _attention(words, l2_bytes)
    made: dict[str, Callable[[], Load]] = {
        "dram read": lambda: _read(4 << 30),
        "l2 read": lambda: _read(16 << 20),
        "multiply-add": partial(_chain, "multiply_add", "fma32"),
        "exponentials": partial(_chain, "exponentials", "exp2"),
        "int8 by wgmma": _wgmma,
        "int8 by mma.sync": _mma,
    }
    return made[name]() if name in made else _stream(*words)


def _product(form: str, point: Product, l2_bytes: int) -> Load:
    from gpu_kernels.bench.calibration import gemm, ours
    from gpu_kernels.w4a8_gemm.config import packed_bytes

    if form in gemm.BYTES:
        sets = sets_for(gemm.BYTES[form] * point.n * point.k, l2_bytes)
        calls = gemm.Operands(form, [point], l2_bytes).calls(point, sets)
        return Load(calls, gemm.moved(form, point), 0, point.operations, form)
    folder, kind = ours.KINDS[form]
    size = packed_bytes(kind, point.n, point.k)
    calls = ours.calls(folder, kind, point, ours.Vectors([point]), l2_bytes, sets_for(size, l2_bytes))
    x_bytes = 2 if kind == "w4a16" else 1
    return Load(calls, size + point.m * (x_bytes * point.k + 2 * point.n), 0, point.operations, kind)


def _attention(words: list[str], l2_bytes: int) -> Load:
    from gpu_kernels.bench.calibration import decode, prefill
    from gpu_kernels.bench.calibration.pools import Pool

    if words[0] == "decode" and words[1] in decode.BITS:
        bits = decode.BITS[words[1]]
        pages = decode.page_count(bits, DECODE.size, [DECODE], l2_bytes)
        calls = decode.our_calls(DECODE, bits, pages, sets_for(DECODE.cache_bytes(bits), l2_bytes))
        return Load(calls, DECODE.cache_bytes(bits), 0, 4.0 * DECODE.batch * 32 * 128 * DECODE.context, words[1])
    form = _bfloat16()
    if words[0] == "decode":
        pool, queries = Pool(form, 2 * DECODE.cache_bytes(16) + (64 << 20)), Pool(form, 8 << 20)
        calls = decode.torch_calls(words[1], pool, queries, DECODE, 1)
        return Load(calls, DECODE.cache_bytes(16), 0, 4.0 * DECODE.batch * 32 * 128 * DECODE.context, "bf16")
    length = int(words[-1])
    point = Prefill(16384 // length, 32, 128, length, length, "causal" in words, False)
    pools = [Pool(form, 2 * 16384 * 32 * 128 + 512, seed) for seed in range(3)]
    return Load(prefill.calls(words[1], pools, point, 1), 0, 0, point.operations, "bf16")


def _bfloat16() -> Any:
    import torch

    return torch.bfloat16


def _read(size: int) -> Load:
    from gpu_kernels.bench.calibration.limits import reader

    run, read = reader(size)
    return Load([run], read if size > 1 << 30 else 0, read)


def _chain(symbol: str, form: str) -> Load:
    from gpu_kernels.bench.calibration.limits import chain

    run, operations = chain(symbol)
    return Load([run], operations=operations * (2 if form == "fma32" else 1), format=form)


def _wgmma() -> Load:
    from gpu_kernels.bench.ceilings import WGMMA, wgmma_products

    made = wgmma_products(WGMMA["registers"])
    return Load([made.run], operations=made.operations, format="int8")


def _mma() -> Load:
    from gpu_kernels.bench.ceilings import mma_products

    run, operations = mma_products()
    return Load([run], operations=operations, format="int8")


def _stream(level: str, name: str) -> Load:
    """Of bfloat16 numbers: 2^27 of them, or as few as stay in the L2."""
    import torch
    from torch.nn import functional as f

    count = 1 << (27 if level == "dram" else 21)
    a, b, out = (torch.randn(count, device="cuda").bfloat16() for _ in range(3))
    rows, wide = a.view(-1, 8192) if count > 8192 else a, out.view(-1, 8192)
    calls: dict[str, tuple[Call, int]] = {
        "copy": (partial(out.copy_, a), 4),
        "add": (partial(torch.add, a, b, out=out), 6),
        "gelu": (partial(torch.ops.aten.gelu.out, a, out=out), 4),
        "softmax": (partial(torch.softmax, rows, -1, out=wide), 4),
        "layer_norm": (partial(f.layer_norm, rows, (8192,)), 4),
    }
    run, each = calls[name]
    return Load([run], each * count if level == "dram" else 0, each * count, format="bf16")


def rows(l2_bytes: int, quick: int = 0) -> Iterator[Row]:
    """A row a loop."""
    seconds = 0.3 if quick else SECONDS
    for place, name in enumerate(LOOPS):
        row = {"part": "energy", "name": name, "held_out": place % 2 == 1}
        yield row | guarded(partial(_loop, name, l2_bytes, seconds))
        _emptied()


def _loop(name: str, l2_bytes: int, seconds: float) -> Row:
    return _looped(load(name, l2_bytes), seconds)


def _emptied() -> None:
    import torch

    torch.cuda.empty_cache()


def _looped(one: Load, seconds: float) -> Row:
    """Power, and what a call takes once clocks have settled."""
    import torch

    graph, nodes, replay_us = _graph(one.calls)
    replays = max(4, int(1e6 * seconds / replay_us))
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(3)]
    watch, settled = Readings(nvml.card()), int(SETTLE * replays)
    for index in range(replays):
        if index in (0, settled):
            marks[index > 0].record()
        graph.replay()
        watch.read()
    marks[2].record()
    while not marks[2].query():
        watch.read()
    whole, kept = (marks[i].elapsed_time(marks[2]) / 1e3 for i in (0, 1))
    found = {"us": round(1e6 * kept / (replays - settled) / nodes, 4), "calls": replays * nodes, "nodes": nodes}
    found |= {name: getattr(one, name) for name in ("dram_bytes", "l2_bytes", "operations", "format")}
    return found | {"seconds": round(whole, 3)} | watch.summary(SETTLE * whole, whole)


def _graph(calls: Sequence[Call]) -> tuple[Any, int, float]:
    """(a graph busy for about REPLAY_US, calls in it, microseconds of a replay)."""
    first = captured(calls, len(calls))
    each = _replay_us(first) / len(calls)
    rounds = max(1, min(int(REPLAY_US / each / len(calls)), MOST_NODES // len(calls)))
    graph = captured(calls, rounds * len(calls)) if rounds > 1 else first
    return graph, rounds * len(calls), _replay_us(graph)


def _replay_us(graph: Any) -> float:
    import torch

    marks = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
    graph.replay()
    marks[0].record()
    graph.replay()
    marks[1].record()
    torch.cuda.synchronize()
    return max(1.0, 1e3 * marks[0].elapsed_time(marks[1]))


class Readings:
    """The counter every LOOK_S, everything else every 25th time."""

    def __init__(self, card: nvml.Card) -> None:
        self.card, self.begin = card, time.perf_counter()
        self.energy: list[tuple[float, float]] = []
        self.looks: list[nvml.Look] = []

    def read(self) -> None:
        """If it is time."""
        now = time.perf_counter() - self.begin
        if self.energy and now < self.energy[-1][0] + LOOK_S:
            return
        if len(self.energy) % 25 == 0:
            self.looks.append(nvml.look(self.card, self.begin))
        self.energy.append((now, self.card.energy_j()))

    def summary(self, after_s: float, before_s: float) -> Row:
        """power_w by the counter within a time, or why not; medians of what the driver says; joules altogether."""
        late = [one for one in self.looks if one.second >= after_s] or self.looks
        found: Row = {"joules": round(self.energy[-1][1] - self.energy[0][1], 3)}
        found |= {"driver_power_w": median(one.power_w for one in late), "sm_mhz": median(one.sm_mhz for one in late)}
        found |= {"memory_mhz": median(one.memory_mhz for one in late), "temperature_c": late[-1].temperature_c}
        steps = nvml.steps(self.energy)
        found |= {"counter_step_s": round((steps[-1][0] - steps[0][0]) / (len(steps) - 1), 4)} if len(steps) > 1 else {}
        power = guarded(lambda: {"power_w": round(nvml.mean_power(self.energy, after_s, before_s), 2)})
        return found | ({"no_power": power["refused"]} if "refused" in power else power)


def rest(seconds: float, card: nvml.Card) -> Row:
    """The GPU while nothing runs, looked at once a second; power over the second half."""
    begin, looks = time.perf_counter(), []
    energy: list[tuple[float, float]] = []
    while (now := time.perf_counter() - begin) < seconds:
        looks.append(nvml.look(card, begin))
        energy += [(looks[-1].second, looks[-1].energy_j)]
        time.sleep(max(0.0, min(REST_LOOK_S, seconds / 10) - (time.perf_counter() - begin - now)))
    found: Row = {"seconds": round(seconds, 2)}
    found |= {"looks": [[round(x, 3) if isinstance(x, float) else x for x in asdict(one).values()] for one in looks]}
    found |= {"columns": list(asdict(looks[0]))}
    half = [one for one in energy if one[0] >= seconds / 2]
    if len(half) > 1:
        found["power_w"] = round((half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0]), 2)
    return found
