"""FC layers on a SpAtten machine: shapes, every task of a toy, bounds, and pieces against the whole."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from accel.machine import load_machine, load_standard
from accel.spatten import SpattenMachine
from dataflow.memory import dram_spec, peak_bytes_per_s
from dataflow.simulate import simulate
from dataflow.spatten.fc import (
    Shape,
    dense_operations,
    fc_shape,
    layer_tokens,
    plan_fc,
    run_fc,
    slice_weights,
    stretches,
)
from sim.compiled import run_compiled
from sim.dram import IdealSpec
from tests.dataflow.spatten_worlds import work
from tests.sim.worlds import log_of
from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import load_workload

MEDIUM = {"layers": 24, "heads": 16, "head_size": 64, "hidden": 1024}


def e2e(**overrides: object) -> SpattenMachine:
    machine = load_machine("spatten_e2e", {name.replace("__", "."): value for name, value in overrides.items()})
    assert isinstance(machine, SpattenMachine)
    return machine


def generation(steps: int, layers: int) -> AttentionWork:
    return work([(step, layer, 0, 9 + step, 1, 9, 9) for step in range(steps) for layer in range(layers)])


def test_shapes_are_those_of_the_models() -> None:
    assert fc_shape(MEDIUM) == Shape(3 << 20, 1 << 20, (4 << 20, 4 << 20))
    llama = {"heads": 32, "kv_heads": 8, "head_size": 128, "hidden": 4096, "intermediate": 14336, "gated": True}
    assert fc_shape(llama) == Shape(4096 * 48 * 128, 4096 * 4096, (4096 * 14336,) * 3)


def test_a_prompt_takes_its_kept_tokens_through_fc_and_generation_one() -> None:
    prompt = work([(0, 0, 0, 9, 9, 9, 9), (0, 0, 1, 9, 9, 9, 9), (0, 1, 0, 9, 5, 5, 5), (1, 0, 0, 10, 1, 10, 4)])
    assert layer_tokens(prompt) == [9, 5, 1]
    shape = Shape(3, 1, (4, 4))
    first, last = ((3, 9),), ((1, 1), (4, 1), (4, 1))
    between = [((1, 9), (4, 9), (4, 9), (3, 5)), ((1, 5), (4, 5), (4, 5), (3, 1))]
    assert stretches(shape, [9, 5, 1]) == Counter([first, *between, last])
    assert dense_operations(shape, prompt) == 2 * 12 * 2 * (9 + 1)
    done = sum(n * w * t for stretch, n in stretches(shape, [9, 5, 1]).items() for w, t in stretch)
    assert done == 12 * (9 + 5 + 1)


def test_every_task_of_two_matrices() -> None:
    """Slices of 4 + 4 weights (two buffers), 8 bytes each in a cycle, 5 + 1 on the way; 2 multipliers work 4 cycles.

    The third slice waits until the first has left; the second matrix waits 2 cycles for the outputs of the first.
    """
    tiny = e2e(
        units__query_key__multipliers=1, units__prob_value__multipliers=1, units__query_key__latency_cycles=2,
        units__prob_value__latency_cycles=1, units__fetcher__latency_cycles=1, units__key_sram__bytes=12,
        units__value_sram__bytes=12,
    )  # fmt: skip
    assert slice_weights(tiny) == 8
    plan = plan_fc(tiny, [((16, 1), (8, 1))])
    plan.check()
    times, _ = run_compiled(plan, IdealSpec(transfer_bytes=8, latency_cycles=5, burst_bytes=8))
    assert log_of(times) == [
        (0, 1, 7),
        (7, 11, 13),
        (1, 2, 8),
        (11, 15, 17),
        (11, 12, 18),
        (18, 22, 24),
    ]


@pytest.mark.parametrize("bits", [8, 12])
def test_generation_is_bound_by_weights_and_a_prompt_by_multipliers(bits: int) -> None:
    machine, shape = e2e(fc__weight_bits=bits), fc_shape({"heads": 4, "head_size": 64, "layers": 2})
    standard = load_standard(machine.memory.standard)
    memory = dram_spec(machine.memory, standard, machine.clock_hz)
    prompt = work([(0, layer, 0, 100, 100, 100, 100) for layer in range(2)])
    for sequence, fetched, products in ((generation(4, 2), 4, 4), (prompt, 1, 100)):
        cycles = sum(run.times * run.cycles for run in run_fc(machine, shape, sequence, memory, "compiled"))
        weights = 2 * shape.layer
        moving = fetched * weights * bits / 8 * machine.clock_hz / peak_bytes_per_s(machine.memory, standard)
        computing = products * weights / 1024
        assert max(moving, computing) <= cycles <= 1.5 * max(moving, computing) + 1000 * fetched


def test_pieces_stand_for_the_whole_within_half_a_percent() -> None:
    machine, shape = e2e(), fc_shape({"heads": 8, "head_size": 64, "layers": 4})
    memory = dram_spec(machine.memory, load_standard(machine.memory.standard), machine.clock_hz)
    sequence = generation(12, 4)
    whole = run_fc(machine, shape, sequence, memory, "compiled", refreshes=10**7)
    pieces = run_fc(machine, shape, sequence, memory, "compiled", refreshes=16)
    assert len(whole) == 3
    assert max(run.times for run in pieces) > 1
    took = [sum(run.times * run.cycles for run in runs) for runs in (whole, pieces)]
    assert took[1] == pytest.approx(took[0], rel=0.005)
    for runs in (whole, pieces):
        assert sum(run.times * run.weights for run in runs) == sum(run.times * run.products for run in runs)
        assert sum(run.times * run.weights for run in runs) == 48 * shape.layer


def test_a_result_counts_fc_beside_attention() -> None:
    trace = load_workload("minilm")
    policy = Policy(token_keep=0.5)
    some = [replace(attention_work(trace, policy)[0], repeat=2)]
    alone = simulate(load_machine("spatten"), trace, policy, work=some)
    both = simulate(e2e(), trace, policy, work=some)
    assert both.cycles == alone.cycles + both.counts["fc_cycles"]
    assert sum(both.critical_path.values()) == both.cycles
    assert sum(n for name, n in both.critical_path.items() if name.startswith("fc_")) == both.counts["fc_cycles"]
    assert both.dram_read_bytes["key"] == alone.dram_read_bytes["key"]
    shape = fc_shape(trace.model)
    assert both.dram_requested_bytes["weight"] == 2 * 6 * shape.layer
    assert both.counts["fc_multiply_adds"] == 2 * shape.layer * sum(layer_tokens(some[0]))
    assert both.operations["int12"] - alone.operations["int12"] == 2 * both.counts["fc_multiply_adds"]
    assert both.effective_operations - alone.effective_operations == 2 * dense_operations(shape, some[0])
    assert both.energy_j["query_key"] > alone.energy_j["query_key"]
    assert both.sequence_latency_s == (both.latency_s / 2,) * 2
    assert np.isclose(sum(both.dram_energy_j.values()), sum(n for k, n in both.energy_j.items() if "dram" in k))
