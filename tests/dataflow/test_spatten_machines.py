"""SpAtten's smaller and simpler variants: what their files promise, and what the machines refuse."""

import numpy as np
import pytest

from accel.machine import load_machine
from accel.spatten import SpattenMachine
from dataflow.simulate import simulate
from dataflow.spatten.plan import plan_attention
from dataflow.spatten.price import area_mm2
from tests.dataflow.spatten_worlds import work
from workloads.policy import Policy
from workloads.trace import load_workload


def spatten(name: str) -> SpattenMachine:
    machine = load_machine(name)
    assert isinstance(machine, SpattenMachine)
    return machine


@pytest.mark.parametrize("name", ["spatten_eighth", "spatten_datapath", "spatten_e2e"])
def test_variants_are_made_of_the_parts_of_spatten(name: str) -> None:
    """Cost for cost: nothing about a variant's area or energy is fitted."""
    whole, part = spatten("spatten").units.model_dump(), spatten(name).units.model_dump()
    whole.pop("score_buffer"), part.pop("score_buffer")
    assert {unit: fields["cost"] for unit, fields in part.items()} == {u: f["cost"] for u, f in whole.items()}


def test_an_eighth_has_an_eighth_of_the_lanes_and_all_of_the_memory() -> None:
    whole, part = area_mm2(spatten("spatten")), area_mm2(spatten("spatten_eighth"))
    shares = {name: part[name] / whole[name] for name in whole}
    eighths = dict.fromkeys(("fetcher", "query_key", "prob_value", "softmax", "accumulator"), 1 / 8)
    assert shares == pytest.approx({**dict.fromkeys(whole, 1.0), **eighths})


@pytest.mark.parametrize(
    ("field", "value", "neutral"),
    [("token_keep", 0.5, 1), ("head_keep", 0.5, 1), ("value_keep", 0.5, 1), ("token_threshold", 0.01, 0)],
)
def test_the_datapath_refuses_a_policy_that_prunes(field: str, value: float, neutral: int) -> None:
    rule = rf"policy\.{field}: must be {neutral} on spatten_datapath, which has no top-k engine .*, got {value}"
    with pytest.raises(ValueError, match=rule):
        simulate(spatten("spatten_datapath"), load_workload("minilm"), Policy.model_validate({field: value}))


@pytest.mark.parametrize(
    ("row", "changes", "what"),
    [
        ((0, 0, 0, 9, 1, 9, 4), {}, "local value top-k"),
        ((0, 0, 0, 9, 9, 9, 9), {"token_topk": [4], "token_candidates": [9]}, "token top-k"),
        ((0, 0, 0, 9, 9, 9, 9), {"head_topk": [1], "head_candidates": [2]}, "head top-k"),
    ],
)
def test_the_datapath_refuses_work_with_a_selection(
    row: tuple[int, ...], changes: dict[str, list[int]], what: str
) -> None:
    """Recorded traces come without a policy."""
    pruned = work([row], **{name: np.array(values) for name, values in changes.items()})  # type: ignore[list-item]
    with pytest.raises(ValueError, match=rf"spatten_datapath: units\.topk\.engines: .* {what} of toy \(row 0\), got 0"):
        plan_attention(spatten("spatten_datapath"), pruned, 1024)
    plan_attention(spatten("spatten"), pruned, 1024)
