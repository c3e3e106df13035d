"""`import tilewright as tw`: every name is there, and none is imported before its use."""

import subprocess
import sys

import pytest

import tilewright as tw
from accel.loading import Faults


@pytest.mark.parametrize("name", tw.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(tw, name) is not None
    assert name in dir(tw)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'tilewright' has no attribute 'simulat'"):
        _ = tw.simulat


def test_import_is_lazy() -> None:
    code = "import sys, tilewright; print(sorted({'numpy', 'pydantic', 'numba', 'typer'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_one_point_by_names_equals_the_long_way() -> None:
    long = tw.simulate(tw.load_machine("titan_xp"), tw.load_workload("minilm"), tw.Policy(token_keep=0.5))
    assert tw.run("titan_xp", "minilm", token_keep=0.5) == long
    faster = tw.run("titan_xp", "minilm", {"host.operator_s": 1e-9})
    assert faster.latency_s < long.latency_s


def test_run_refuses_what_the_policy_lacks() -> None:
    with pytest.raises(Faults, match=r"policy: token_kep: unknown key \(did you mean 'token_keep'"):
        tw.run("titan_xp", "minilm", token_kep=0.5)


def test_pareto_of_plain_rows() -> None:
    rows = [{"a": 1, "b": 2}, {"a": 2, "b": 1}, {"a": 2, "b": 2}]
    assert tw.pareto(rows, {"a": "min", "b": "min"}) == rows[:2]
    with pytest.raises(ValueError, match="objectives: must name at least one key"):
        tw.pareto(rows)
