"""Specs of the rivals: what is not verified is named, and differs only where it must."""

import re

import pytest

from accel.machine import find_machine, load_machine

RIVALS = ("a3", "a3_base", "mnnfast")


def marked(name: str) -> set[str]:
    """Dotted paths of the lines whose comment says `unverified`."""
    parents: list[tuple[int, str]] = []
    found = set()
    for line in find_machine(name).read_text(encoding="utf-8").splitlines():
        text, _, comment = line.partition("#")
        match = re.match(r"( *)(\w+):", text)
        if not match:
            continue
        parents = [parent for parent in parents if parent[0] < len(match[1])]
        parents.append((len(match[1]), match[2]))
        if "unverified" in comment:
            found.add(".".join(key for _, key in parents))
    return found


@pytest.mark.parametrize("name", RIVALS)
def test_what_a_line_calls_unverified_is_listed_and_the_other_way_round(name: str) -> None:
    machine = load_machine(name)
    assert set(machine.unverified) == marked(name)  # type: ignore[union-attr]
    assert marked(name)


def test_base_mode_is_the_same_machine_without_approximation() -> None:
    full, base = (load_machine(name).model_dump() for name in ("a3", "a3_base"))
    different = {key for key in full if full[key] != base[key]}
    assert different == {"name", "unverified", "approximation"}
    assert base["approximation"] is None


@pytest.mark.parametrize("name", RIVALS)
def test_rivals_have_the_resources_that_the_comparison_gives_them(name: str) -> None:
    """128 multipliers, 1 GHz, 64 GB/s (SpAtten, section V-B and Table III)."""
    from accel.machine import load_standard
    from dataflow.memory import peak_bytes_per_s

    data = load_machine(name).model_dump()
    assert 2 * (data.get("modules") or data["streaming"])["lanes"] == 128
    assert data["clock_hz"] == 10**9
    memory = load_machine(name).memory  # type: ignore[union-attr]
    assert peak_bytes_per_s(memory, load_standard(memory.standard)) == 64e9  # type: ignore[union-attr]
