"""`tilewright bench`: how fast the simulators are on this machine. Medians of warm runs; nothing is asserted."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray

from accel.arithmetic import round_to
from accel.machine import load_standard
from accel.spatten import SpattenMachine
from analysis.reproduce.spatten import spatten_machine
from dataflow.dram_energy import dram_energy
from dataflow.gpu.predict import gpu, predict_gemm
from dataflow.gpu.trace import run_trace
from dataflow.memory import default_spec, dram_spec, peak_bytes_per_s
from dataflow.simulate import simulate
from dataflow.spatten.plan import plan_attention
from gpu_kernels.w4a4_gemm import model as w4a4_gemm
from gpu_kernels.w4a8_gemm import model as w4a8_gemm
from sim.compiled import run_compiled
from sim.dram import IdealSpec
from sim.dram.stream import RequestStream
from sim.engine import Simulation
from workloads.attention import AttentionWork
from workloads.dense import dense_attention
from workloads.policy import Policy
from workloads.trace import load_workload

BERT_BASE = {"layers": 12, "heads": 12, "tokens": 384, "head_size": 64, "bits": 12}
_ALIGN_BYTES = 32768
_REQUESTS, _CHUNK = 1_000_000, 1 << 16
_LAYER = (512, 4096, 4096)  # tokens, outputs, inputs of a linear layer
_RANK = 32
_GEMMS = 2000


def _seconds(run: Callable[[], object], repeats: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Median time of that many runs after one that warms up (and compiles)."""
    run()
    times = []
    for _ in range(repeats):
        start = clock()
        run()
        times.append(clock() - start)
    return median(times)


def _plan_and_run(machine: SpattenMachine, work: AttentionWork, dram: bool) -> Callable[[], object]:
    standard = load_standard(machine.memory.standard)
    peak, o = int(peak_bytes_per_s(machine.memory, standard)), standard.organisation
    ideal = IdealSpec(peak, standard.timing.read_latency_cycles, o.burst_bytes, machine.clock_hz)
    memory = dram_spec(machine.memory, standard, machine.clock_hz) if dram else ideal
    return lambda: run_compiled(plan_attention(machine, work, _ALIGN_BYTES).plan, memory)


def _engine_rates(machine: SpattenMachine) -> dict[str, float]:
    """Tasks per second of both engines on the same plan with the same ideal memory."""
    plan = plan_attention(machine, dense_attention(1, 4, 128, 64, 12), _ALIGN_BYTES).plan
    large = plan_attention(machine, dense_attention(**BERT_BASE), _ALIGN_BYTES).plan
    memory = IdealSpec(512, 28, 32)
    return {
        "compiled_tasks_per_s": len(large) / _seconds(lambda: run_compiled(large, memory), 9),
        "simpy_tasks_per_s": len(plan) / _seconds(lambda: Simulation(plan, memory).run(), 3),
    }


def _points_per_s(machine: SpattenMachine) -> float:
    """One process on the shipped trace: token pruning, static 8-bit K and V."""
    trace = load_workload("minilm")
    policy = Policy(token_keep=0.5, key_msb_bits=8, value_bits=8)
    return 1 / _seconds(lambda: simulate(machine, trace, policy), 5)


def _dram_requests_per_s(addresses: NDArray[np.int64]) -> float:
    """64-byte reads a second of CPU time through the HBM2 controller; refresh, energy and latencies are counted."""
    spec, count = default_spec("hbm2"), len(addresses)
    zero, reads = np.zeros(count, np.int64), np.zeros(count, bool)

    def run() -> None:
        stream = RequestStream(spec)
        for at in range(0, count, _CHUNK):
            part = slice(at, at + _CHUNK)
            stream.feed(zero[part], addresses[part], reads[part])
        result = stream.finish()
        dram_energy(load_standard("hbm2"), result.commands, result.cycles, result.active_cycles, spec.channels)

    return count / _seconds(run, 3, time.process_time)


def _gather(count: int) -> NDArray[np.int64]:
    """K and V rows of 64 bytes, a quarter of 1024 tokens kept, head by head."""
    rng, heads, row = np.random.default_rng(1), 16, 64
    layers = -(-count // (2 * heads * 256))
    tokens = np.sort([rng.permutation(1024)[:256] for _ in range(layers)])
    head = np.arange(layers * heads).reshape(layers, heads, 1, 1) * 1024
    regions = np.array([0, 1 << 30]).reshape(1, 1, 2, 1)
    return ((head + tokens[:, None, None, :]) * row + regions).reshape(-1)[:count]


def _layers(tokens: int, outputs: int, inputs: int) -> dict[str, Callable[[], object]]:
    """One linear layer by each functional model, float16 activations to float16 outputs, on random operands."""
    draw, form = np.random.default_rng(1), "float16"
    x = round_to(draw.standard_normal((tokens, inputs)), form)
    codes = draw.integers(0, 16, (outputs, inputs), np.uint8)
    scale, zero = round_to(draw.uniform(0.001, 0.02, outputs), form), draw.integers(0, 16, outputs, np.uint8)
    groups = (outputs, inputs // w4a8_gemm.GROUP)
    group_scale, group_zero = draw.integers(1, 17, groups, np.uint8), draw.integers(0, 16, groups, np.uint8)
    group = {"codes": codes, "group_scale": group_scale, "group_zero": group_zero, "scale": scale}
    int4 = {
        "codes": draw.integers(-7, 8, (outputs, inputs), np.int8),
        "scale": round_to(draw.uniform(0.001, 0.02, (outputs, inputs // w4a4_gemm.GROUP)), form),
        "smooth": round_to(draw.uniform(0.5, 2, inputs), form),
        "down": round_to(draw.normal(0, 0.02, (_RANK, inputs)), form),
        "up": round_to(draw.normal(0, 0.1, (outputs, _RANK)), form),
    }
    return {
        "w4a8_group": lambda: w4a8_gemm.linear(x, group),
        "w4a8_channel": lambda: w4a8_gemm.linear(x, {"codes": codes, "scale": scale, "zero": zero}),
        "w4a4": lambda: w4a4_gemm.linear(x, int4),
    }


def layer_seconds(tokens: int, outputs: int, inputs: int, repeats: int = 5) -> dict[str, float]:
    """Seconds of each functional model of a layer, on all cores, and of NumPy's float64 product beside; ratios."""
    draw, size = np.random.default_rng(2), f"{tokens}x{outputs}x{inputs}"
    a, b = draw.standard_normal((tokens, inputs)), draw.standard_normal((outputs, inputs))
    plain = _seconds(lambda: a @ b.T, repeats)
    found = {name: _seconds(layer, repeats) for name, layer in _layers(tokens, outputs, inputs).items()}
    return {
        **{f"{name}_{size}_s": seconds for name, seconds in found.items()},
        f"numpy_float64_matmul_{size}_s": plain,
        **{f"{name}_over_numpy_float64": seconds / plain for name, seconds in found.items()},
    }


def gpu_rates() -> dict[str, float]:
    """Closed forms of GPUs on the H200: predicted GEMMs a second in arrays of 2000, milliseconds of whole passes.

    A first pass reads the trace into arrays; those after it do not.
    """
    machine, passes = gpu("h200"), {"flux_dev": "flux_dev", "llama3_8b_decode": "llama3_8b_tokens1_past1024_batch64"}
    m, n, k = (np.random.default_rng(3).integers(1, 128, (3, _GEMMS)) * 64).tolist()
    found = {"gemm_predictions_per_s": _GEMMS / _seconds(lambda: predict_gemm(machine, "bf16", m, n, k), 5)}
    for name, workload in passes.items():
        trace = load_workload(workload)
        start = time.perf_counter()
        run_trace(machine, trace, "graph")
        found[f"{name}_first_pass_ms"] = 1e3 * (time.perf_counter() - start)
        found[f"{name}_pass_ms"] = 1e3 * _seconds(partial(run_trace, machine, trace, "graph"), 7)
    return found


def run_bench() -> dict[str, float]:
    """Milliseconds and rates, on one core but for the last:

    bert_base_384_plan_ms   plan and compiled engine without DRAM, 12 layers x 12 heads x 384 tokens
    bert_base_384_ms        the same with the DRAM controller in the loop, dense, 12 bit
    compiled_tasks_per_s, simpy_tasks_per_s, sweep_points_per_s (one process)
    dram_stream_requests_per_s, dram_gather_requests_per_s   a million reads of 64 bytes through HBM2, CPU time
    gemm_predictions_per_s, flux_dev_pass_ms, llama3_8b_decode_pass_ms (and *_first_pass_ms)   models of GPUs
    w4a8_group_512x4096x4096_s, w4a8_channel_..., w4a4_...   seconds on all cores: functional models of a linear layer,
                            with the quantization of its activations, w4a4 with a low-rank branch of rank 32
    numpy_float64_matmul_512x4096x4096_s   beside them; and `*_over_numpy_float64`, the ratios to it
    """
    machine = spatten_machine()
    bert = dense_attention(**BERT_BASE)
    return {
        "bert_base_384_plan_ms": 1e3 * _seconds(_plan_and_run(machine, bert, dram=False), 15),
        "bert_base_384_ms": 1e3 * _seconds(_plan_and_run(machine, bert, dram=True), 7),
        **_engine_rates(machine),
        "sweep_points_per_s": _points_per_s(machine),
        "dram_stream_requests_per_s": _dram_requests_per_s(np.arange(_REQUESTS) * 64),
        "dram_gather_requests_per_s": _dram_requests_per_s(_gather(_REQUESTS)),
        **gpu_rates(),
        **layer_seconds(*_LAYER),
    }
