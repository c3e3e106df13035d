"""Finding and loading machines by name."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from accel.eager import EagerMachine
from accel.loading import Faults
from accel.machine import (
    assumptions,
    find_machine,
    json_schema,
    load_machine,
    load_standard,
    machine_names,
    standard_names,
)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("titanxp", "no machine 'titanxp' (did you mean 'titan_xp'? allowed: "),
        ("my.yaml", "machine 'my.yaml': no such file"),
        ("folder/none", "machine 'folder/none': no such file"),
    ],
)
def test_unknown_machine_is_refused_with_the_nearest_name(name: str, expected: str) -> None:
    with pytest.raises(ValueError) as error:
        find_machine(name)
    assert str(error.value).startswith(expected)


def test_path_and_name_give_the_same_machine(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_bytes(find_machine("titan_xp").read_bytes())
    assert load_machine(copy) == load_machine("titan_xp")


def test_file_that_changes_is_read_again(tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    text = find_machine("titan_xp").read_text()
    copy.write_text(text)
    load_machine(copy)
    copy.write_text(text.replace("name: titan_xp", "name: other"))
    assert load_machine(copy).name == "other"


def test_override_reaches_the_machine_and_derived_numbers() -> None:
    plain, half = load_machine("titan_xp"), load_machine("titan_xp", {"memory.bandwidth_bytes_per_s": 2e11})
    assert isinstance(plain, EagerMachine)
    assert isinstance(half, EagerMachine)
    assert plain.bytes_per_s == pytest.approx(547.7e9 * 0.84)
    assert half.bytes_per_s == pytest.approx(2e11 * 0.84)


def test_unknown_planner_does_not_hide_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    text = find_machine("titan_xp").read_text()
    path.write_text(text.replace("planner: eager", "planner: eger").replace("7680", "0"))
    with pytest.raises(Faults) as error:
        load_machine(path)
    found = [str(fault).removeprefix(f"{path}:") for fault in error.value.faults]
    allowed = "a3, eager, gpu, mnnfast, relative, spatten"
    assert found[0] == f"3:10: planner: no such planner, got \"eger\" (did you mean 'eager'? allowed: {allowed})"
    assert [fault.path for fault in error.value.faults] == ["planner", "compute.float32_flops_per_cycle"]


@pytest.mark.parametrize("name", machine_names())
def test_assumed_ranges_are_of_numbers_that_can_be_overridden(name: str) -> None:
    for path, (low, high) in assumptions(name).items():
        assert low < high
        assert load_machine(name, {path: low}) != load_machine(name, {path: high})


@pytest.mark.parametrize("name", standard_names())
def test_standards_load_under_their_file_name(name: str) -> None:
    assert load_standard(name).name == name


def test_unknown_standard_is_refused() -> None:
    with pytest.raises(ValueError, match="no standard 'hbm99'"):
        load_standard("hbm99")


@pytest.mark.parametrize("name", machine_names())
def test_every_number_of_a_shipped_machine_carries_its_source(name: str) -> None:
    for number, line in enumerate(find_machine(name).read_text().splitlines(), 1):
        value = line.partition("#")[0].partition(":")[2]
        if any(character.isdigit() for character in value) and not line.startswith(("name:", "source:")):
            assert "#" in line, f"{name}.yaml:{number}: a number without its source"


def test_json_schema_names_kinds_keys_and_assumed_numbers() -> None:
    schema = json_schema("machine")
    assert json.loads(json.dumps(schema)) == schema
    kinds = {root["$ref"].rpartition("/")[2] for root in schema["oneOf"]}
    assert kinds == {f"{kind}Machine" for kind in ("A3", "Eager", "Gpu", "MnnFast", "Relative", "Spatten")}
    host = schema["$defs"]["Host"]
    assert set(host["required"]) == {"asynchronous", "operator_s", "launch_gap_s"}
    assert host["additionalProperties"] is False
    operator = host["properties"]["operator_s"]
    assert operator["description"].startswith("host time")
    assert operator["anyOf"] == [{"minimum": 0, "type": "number"}, {"$ref": "#/$defs/Assumed"}]
    with pytest.raises(ValueError, match="no schema of 'sweeep'"):
        json_schema("sweeep")


def test_loading_a_machine_imports_nothing_heavy() -> None:
    code = (
        "import sys; from accel.machine import load_machine; load_machine('titan_xp');"
        "print([m for m in ('numpy', 'numba', 'pandas', 'torch') if m in sys.modules])"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert run.stdout.strip() == "[]"
