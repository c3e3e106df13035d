"""Shipped machines and standards of every kind, damaged in every way: refused with places and words."""

from pathlib import Path

import pytest

from accel import machine
from accel.loading import check, read_document
from accel.machine import load_machine
from accel.memory import Standard
from tests.mutations import Mutation, assert_refused, entries, mutations

ACCEL = Path(machine.__file__).parent
LIKE_ANOTHER = (  # the same keys, other numbers
    *("a3_base", "raspberry_pi4", "spatten_as_released", "spatten_eighth", "spatten_datapath", "spatten_e2e"),
    *("a100_80g_sxm", "h100_sxm", "l40s", "rtx_4090", "rtx_4090_laptop_16gb", "rtx_5090"),
)
DAMAGED = [path for path in sorted(ACCEL.glob("specs/*.yaml")) if path.stem not in LIKE_ANOTHER]
DAMAGED += [ACCEL / "standards/hbm2.yaml", ACCEL / "standards/lpddr4.yaml"]  # one for each kind of energy


def optional(path: Path) -> tuple[str, ...]:
    """A part may have any speed grades, and these change any delays; machines need not name another one, have
    FC, several pipelines or a score buffer, or a ratio for every workload; GPUs need neither fallbacks nor errors.
    """
    found = [entry.name for entry in entries(path.read_text())]
    speeds = [name for name in found if name.split(".")[0] == "speeds" and name.count(".") != 2]
    ratios = [name for name in found if name.startswith("ratios.") and name.count(".") == 1]
    gpu = ("fallback", "error", *(name for name in found if name.startswith(("fallback.", "error."))))
    return ("memory.compare_with", "fc", "pipelines", "units.score_buffer", *gpu, *speeds, *ratios)


CASES = [
    pytest.param(path, mutation, id=f"{path.stem}-{mutation.name}")
    for path in DAMAGED
    for mutation in mutations(path.read_bytes(), optional(path), free=("speeds", "ratios", "fallback", "error"))
    if " ratios." not in mutation.name or "bert_base_cola" in mutation.name  # one of many alike
]


def load(path: Path) -> object:
    """Machines have a planner; a file that lost it is told apart by its name."""
    return check(read_document(path), Standard) if path.name.startswith("standard") else load_machine(path)


@pytest.mark.parametrize(("path", "mutation"), CASES)
def test_faulty_file_is_refused_with_place_and_rule(path: Path, mutation: Mutation, tmp_path: Path) -> None:
    assert_refused(mutation, tmp_path / f"{path.parent.name}_{path.name}", load)


@pytest.mark.parametrize("path", sorted(ACCEL.glob("specs/*.yaml")), ids=lambda path: path.stem)
def test_shipped_machine_loads_under_its_file_name(path: Path) -> None:
    assert load_machine(path.stem).name == path.stem
