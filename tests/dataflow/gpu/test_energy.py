import numpy as np
import pytest

from accel.gpu.energy import EnergyFit, byte_j, node_scale, operation_j, square_volts
from accel.machine import load_machine
from dataflow.gpu.energy import at_clock, dynamic_j, energy, throttled, throttled_seconds, total_j
from dataflow.gpu.estimate import Estimate

H200, A100 = load_machine("h200"), load_machine("a100_80g_sxm")
FIT = EnergyFit(active_share=0.1, path_pj_per_bit=10.0, l2_pj_per_bit=2.0, operation_pj={"fp16": 7.0, "fp32": 60.0})


def kernel(seconds: float = 1e-3, dram: float = 0.0, l2: float = 0.0, fp16: float = 0.0) -> Estimate:
    def one(value: float) -> np.ndarray:
        return np.array([value])

    return Estimate(
        "toy",
        one(seconds),
        one(0.0),
        one(dram),
        one(0.0),
        one(l2),
        {"fp16": one(fp16)},
        {"tensor": one(seconds if fp16 else 0.0), "dram": one(seconds if dram else 0.0)},
    )


def test_parts_add_up_and_dynamic_is_without_idle() -> None:
    parts = energy(H200, FIT, kernel(dram=1e9, l2=2e9, fp16=1e11))
    assert total_j(parts) == pytest.approx(sum(parts.values()))
    assert total_j(parts) - dynamic_j(parts) == pytest.approx(H200.power.idle_w * 1e-3)
    assert parts["dram"] == pytest.approx(8e-12 * (4.0 + 10.0) * 1e9)
    assert parts["l2"] == pytest.approx(8e-12 * 2.0 * 2e9)
    assert parts["static"] == pytest.approx(0.1 * 700 * 1e-3)


def test_twice_the_work_in_twice_the_time_takes_twice_the_energy() -> None:
    once = total_j(energy(H200, FIT, kernel(1e-3, 1e9, 2e9, 1e11)))
    assert total_j(energy(H200, FIT, kernel(2e-3, 2e9, 4e9, 2e11))) == pytest.approx(2 * once)


@pytest.mark.parametrize("work", [1e10, 1e11, 5e11, 1e12, 2e12, 5e12])
def test_power_stays_within_the_limit_and_time_pays_for_it(work: float) -> None:
    made = kernel(fp16=work)
    found = throttled(H200, FIT, made)
    assert found.power_w <= H200.power.limit_w * (1 + 1e-6)
    if found.clock < 1:
        assert found.power_w == pytest.approx(H200.power.limit_w, rel=1e-3)
        assert throttled_seconds(H200, FIT, made) > made.seconds
    else:
        assert found.seconds == made.seconds


def test_both_sides_of_the_limit_are_reached() -> None:
    clocks = [float(throttled(H200, FIT, kernel(fp16=work)).clock[0]) for work in (1e10, 2e12, 5e12)]
    assert clocks[0] == 1 > clocks[1] > clocks[2]


def test_a_load_on_memory_alone_waits_where_the_limit_is_low() -> None:
    low = H200.model_copy(update={"power": H200.power.model_copy(update={"limit_w": 200.0})})
    made = kernel(dram=4.6e9)
    found = throttled(low, FIT, made)
    assert found.seconds > made.seconds
    assert found.power_w == pytest.approx(200.0)


def test_a_lower_clock_takes_less_for_all_but_the_chips_of_the_memory() -> None:
    made, one = kernel(dram=1e9, l2=1e9, fp16=1e11), np.ones(1)
    high, low = (at_clock(H200, FIT, made, share * one, 1e-3 * one) for share in (1.0, 0.7))
    volts = float(square_volts(0.7 * H200.clock_hz) / square_volts(float(H200.clock_hz)))
    assert low["l2"] / high["l2"] == pytest.approx(volts)
    assert low["fp16"] / high["fp16"] == pytest.approx(volts)
    assert high["dram"] - low["dram"] == pytest.approx(8e-12 * 10.0 * (1 - volts) * 1e9)
    assert low["idle"] == high["idle"]


def test_logic_carries_by_node_and_voltage_memory_by_its_type() -> None:
    assert [node_scale(nm) for nm in (45, 16, 7, 4)] == pytest.approx([1.0, 0.28, 0.14, 0.10])
    ratio = operation_j(A100, FIT, "fp16") / operation_j(H200, FIT, "fp16")
    assert ratio == pytest.approx(1.4 * float(square_volts(1.41e9) / square_volts(1.98e9)))
    assert byte_j(A100, FIT) - byte_j(H200, FIT) == pytest.approx(8e-12 * (6.0 - 4.0))
    assert operation_j(H200, FIT, "int8") == pytest.approx(operation_j(H200, FIT, "fp16") / 2)
    assert operation_j(H200, FIT, "special") == pytest.approx(4 * operation_j(H200, FIT, "fp32"))
