"""Devices known by ratios: the data of Fig. 14, multiplied onto the reference and nothing else."""

import math

import pytest

from accel.machine import load_machine
from accel.relative import Ratio, RelativeMachine
from dataflow.simulate import simulate
from workloads.policy import Policy
from workloads.trace import load_workload

# Fig. 14: geometric means of speedup and energy saving over (TITAN Xp, this device)
GEOMEANS = {"jetson_nano": ((162, 1095), (1193, 406)), "raspberry_pi4": ((162, 5071), (1193, 1910))}
devices = pytest.mark.parametrize("name", sorted(GEOMEANS))


def device(name: str) -> RelativeMachine:
    loaded = load_machine(name)
    assert isinstance(loaded, RelativeMachine)
    return loaded


@devices
def test_geometric_means_are_those_of_the_paper(name: str) -> None:
    """Also of the entries: GPT-2-Small and Medium stand for four tasks each. Fails for a mistyped ratio."""
    machine = device(name)
    (slow, fast), (high, low) = GEOMEANS[name]
    assert machine.default.latency == pytest.approx(fast / slow, rel=0.005)
    assert machine.default.latency * machine.default.power == pytest.approx(low / high, rel=0.02)
    weights = {key: 4 if key.startswith("gpt2") else 1 for key in machine.ratios}
    assert sum(weights.values()) == 30
    for field in ("latency", "power"):
        logs = sum(weights[key] * math.log(getattr(ratio, field)) for key, ratio in machine.ratios.items()) / 30
        assert math.exp(logs) == pytest.approx(getattr(machine.default, field), rel=1e-3)


@devices
def test_latency_and_energy_are_the_reference_times_the_ratio(name: str) -> None:
    trace = load_workload("minilm")
    machine, reference = device(name), simulate(load_machine("titan_xp"), trace, Policy())
    result = simulate(machine, trace, Policy())
    assert result.latency_s == pytest.approx(reference.latency_s * machine.default.latency)
    watts = sum(result.energy_j.values()) / result.latency_s
    assert watts == pytest.approx(61.1 * machine.default.power)
    assert result.operations == reference.operations
    assert "no model of its own: titan_xp" in result.left_out[0]
    assert "entry 'default'" in result.left_out[0]


def test_the_longest_name_that_fits_counts() -> None:
    latencies = {"gpt2": 1, "gpt2_small": 2, "bert_base_mnli_m": 3, "bert_base_mnli_mm": 4}
    ratios = {name: Ratio(latency=latency, power=1) for name, latency in latencies.items()}
    machine = device("jetson_nano").model_copy(update={"ratios": ratios})
    names = ("gpt2_small_ptb", "gpt2-small-wikitext2-per8", "gpt2_medium_1bw", "bert_base_mnli_mm", "gpt2x")
    assert [machine.ratio(name)[1].latency for name in names] == [2, 2, 1, 4, machine.default.latency]


def test_the_reference_must_be_an_eager_machine() -> None:
    machine = load_machine("jetson_nano", {"reference": "spatten"})
    with pytest.raises(ValueError, match="jetson_nano: reference: must be an eager machine, got spatten"):
        simulate(machine, load_workload("minilm"), Policy())
