"""Bottom-up energy and area: the published points, the scaling rules, parts by hand, and the table."""

import re
from pathlib import Path
from typing import Any

import pytest

import accel.energy
from accel.energy import Technology, load_technology, power_law, technology_assumptions
from accel.loading import Faults
from accel.machine import load_machine
from accel.spatten import SpattenMachine
from dataflow.bottom_up import GROUPS, actions, bottom_up_area_mm2, bottom_up_energy_j, bottom_up_table, parts
from dataflow.simulate import simulate
from sim.result import Result
from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.trace import load_workload

FOLDER = Path(accel.energy.__file__).parent / "technology"


def machine(name: str = "spatten", **overrides: Any) -> SpattenMachine:
    loaded = load_machine(name, {key.replace("__", "."): value for key, value in overrides.items()})
    assert isinstance(loaded, SpattenMachine)
    return loaded


def plain() -> Technology:
    """Round numbers: every unit 1 pJ and 100 um2 at 8 bit, 2 pJ and 200 um2 at 16; 1 pJ a byte of SRAM."""
    unit = {"bits": [8, 16], "energy_pj": [1, 2], "area_um2": [100, 200]}
    sram = {"access_bytes": 1, "capacity_bytes": [1, 2], "energy_pj": [1, 1], "cell_um2": 1, "array_efficiency": 0.5}
    kinds = ("add", "multiply", "float_add", "float_multiply")
    rest = {"register_pj": 0.5, "register_um2": 10, "mux_um2": 1, "placement_density": 0.5, "wire_pj_per_bit_mm": 1}
    names = {"name": "plain", "source": "none", "node_nm": 40, "unverified": ["name"]}
    return Technology.model_validate({**names, **dict.fromkeys(kinds, unit), "sram": sram, **rest})


@pytest.fixture(scope="module")
def run() -> tuple[SpattenMachine, Result]:
    trace = load_workload("minilm")
    work = attention_work(trace, policy := Policy(token_keep=0.5, value_keep=0.5))[:3]
    return machine(), simulate(machine(), trace, policy, work=work)


def test_power_law_goes_through_its_points_and_on() -> None:
    assert [power_law((8, 32), (0.2, 3.2), bits) for bits in (8, 16, 32, 64)] == pytest.approx([0.2, 0.8, 3.2, 12.8])
    assert power_law((1, 2, 4), (1, 2, 2), 3) == pytest.approx(2)
    assert power_law((1, 2, 4), (1, 2, 2), 0.5) == pytest.approx(0.5)


def test_published_points_come_back() -> None:
    """Horowitz, ISSCC 2014."""
    t = load_technology()
    assert [t.energy_pj("multiply", bits) for bits in (8, 32)] == pytest.approx([0.2, 3.1])
    assert [t.energy_pj("add", bits) for bits in (8, 32)] == pytest.approx([0.03, 0.1])
    assert t.energy_pj("float_multiply", 32) + t.energy_pj("float_add", 32) == pytest.approx(4.6)
    assert [8 * t.sram_pj_per_byte(kib << 10) for kib in (8, 32, 1024)] == pytest.approx([10, 20, 100])
    assert t.energy_pj("multiply", 12) == pytest.approx(0.2 * 1.5**2, rel=0.02)
    assert (t.energy_scale(40), t.area_scale(40)) == pytest.approx((40 / 45, (40 / 45) ** 2))


def test_parts_by_hand() -> None:
    """12 bit: multiplier 1.5 pJ, 28-bit adder 3.5 pJ, 64 register bits; logic is placed at half density."""
    built = parts(machine(), plain())
    assert built["query_key"].action_pj == pytest.approx(1.5 + 3.5 + 64 * 0.5)
    assert built["query_key"].area_mm2 == pytest.approx(512 * 2 * (150 + 350 + 640) * 1e-6)
    assert built["key_sram"].action_pj == 1
    assert built["key_sram"].area_mm2 == pytest.approx(196608 * 8 * 2 * 1e-6)
    assert built["softmax"].action_pj == pytest.approx((9 + 10) * 4)
    assert built["topk"].action_pj == pytest.approx(2 * 1.5 + 2 * 1.5 + 4 * 12 * 0.5)
    assert built["accumulator"].action_pj == pytest.approx(3 + 2 * 3)


def test_parts_scale_with_their_sizes_and_the_node() -> None:
    small, large = parts(machine()), parts(machine(units__query_key__multipliers=1024, element_bits=24))
    assert large["query_key"].area_mm2 > 4 * small["query_key"].area_mm2
    assert large["query_key"].action_pj > 2 * small["query_key"].action_pj
    shrunk = parts(machine(), node_nm=20)
    for name, part in small.items():
        assert shrunk[name].area_mm2 == pytest.approx(part.area_mm2 / 4)
        assert shrunk[name].action_pj <= part.action_pj / 2 * (1 + 1e-9)
    wide = parts(machine(memory__channels=32))["fetcher"]
    assert wide.area_mm2 > 2 * small["fetcher"].area_mm2


def test_actions_are_the_counters_of_the_run(run: tuple[SpattenMachine, Result]) -> None:
    spatten, result = run
    counted = actions(spatten, result)
    assert 2 * (counted["query_key"] + counted["prob_value"]) == pytest.approx(result.operations["int12"])
    assert counted["softmax"] == pytest.approx(result.counts["exponentials"])
    memory = result.sram_bytes
    assert counted["key_sram"] == pytest.approx(memory["key_write"] + memory["key_read"])
    assert counted["fetcher"] == pytest.approx(sum(result.dram_read_bytes.values()))
    energy = bottom_up_energy_j(spatten, result, plain())
    assert energy["value_sram"] == pytest.approx((memory["value_write"] + memory["value_read"]) * 1e-12)


def test_a_cost_without_energy_is_refused(run: tuple[SpattenMachine, Result]) -> None:
    free = machine(units__topk__cost__energy_pj=0)
    with pytest.raises(ValueError, match=r"spatten: units\.topk\.cost\.energy_pj: must be > 0 .* got 0"):
        actions(free, run[1])


def test_the_table_has_the_rows_and_the_areas_of_table_ii(run: tuple[SpattenMachine, Result]) -> None:
    rows = {(row.quantity, row.component): row for row in bottom_up_table(*run)}
    assert len(rows) == 14
    table = {"query_key": 7.12, "prob_value": 7.22, "fetcher": 2.65, "softmax": 0.79, "topk": 0.50, "other": 0.43}
    assert {group: rows["area_mm2", group].table for group in GROUPS} == pytest.approx(table)
    assert rows["area_mm2", "total"].table == pytest.approx(18.71)
    for quantity in ("area_mm2", "power_w"):
        total = rows[quantity, "total"]
        assert sum(rows[quantity, group].bottom_up for group in GROUPS) == pytest.approx(total.bottom_up)
        assert total.ratio == pytest.approx(total.bottom_up / total.table)
    on_chip = sum(joules for name, joules in run[1].energy_j.items() if not name.startswith("dram"))
    assert rows["power_w", "total"].table == pytest.approx(on_chip / run[1].latency_s)


def test_no_part_of_the_machine_is_forgotten(run: tuple[SpattenMachine, Result]) -> None:
    """Every part that the first mode prices is in a group."""
    spatten, result = run
    grouped = {name for group in GROUPS.values() for name in group}
    assert grouped == {name for name in result.energy_j if not name.startswith("dram")}
    assert grouped == set(bottom_up_area_mm2(spatten))


def test_assumed_values_move_the_sums() -> None:
    usual = sum(bottom_up_area_mm2(machine()).values())
    low, high = technology_assumptions()["placement_density"]
    dense, loose = (load_technology(overrides={"placement_density": end}) for end in (high, low))
    assert sum(bottom_up_area_mm2(machine(), dense).values()) < usual
    assert sum(bottom_up_area_mm2(machine(), loose).values()) > usual


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_number_has_an_origin_and_what_is_unverified_is_listed(path: Path) -> None:
    bare, marked, parent = [], set(), ""
    for line in path.read_text(encoding="utf-8").splitlines():
        text, _, comment = line.partition("#")
        key = re.match(r"( *)(\w+):(.*)", text)
        if not key:
            continue
        parent = parent if key[1] else key[2]
        bare += [line] if re.search(r"\d", key[3]) and not comment and key[2] not in ("name", "source") else []
        marked |= {f"{parent}.{key[2]}" if key[1] else key[2]} if "unverified" in comment else set()
    assert not bare
    assert marked == set(load_technology(path.stem).unverified)


def test_faulty_technologies_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no technology 'cmos54' \(did you mean 'cmos45'"):
        load_technology("cmos54")
    with pytest.raises(Faults, match="lists must be of one length"):
        load_technology(overrides={"add.bits": [8, 16, 32, 64]})
    with pytest.raises(Faults, match="the first list must ascend"):
        load_technology(overrides={"multiply.bits": [32, 8]})
