"""What the eager machines give for the rows of `published/spatten_baselines.csv`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from accel.eager import EagerMachine
from accel.machine import load_machine
from dataflow.eager import Columns, Timing, time_operators
from workloads.gpt2 import operators

PROMPT, STEPS = 992, 32  # SpAtten section V-A
MEDIUM, SMALL = (24, 16, 1024), (12, 12, 768)  # layers, heads, hidden
SHARES = {  # operators behind the pie of Fig. 2, assigned before the first run
    "transpose_softmax_percent": (
        *("permute", "transpose", "scale", "mask", "mask_slice", "mask_bool", "mask_to"),
        *("softmax", "dropout"),
    ),
    "split_concat_percent": ("split", "view", "select", "cat", "stack", "contiguous"),
}


def generation(model: tuple[int, int, int], *parts: str) -> Columns:
    """Operators of the 32 one-token steps, prompt left out as in Table IV."""
    columns = operators(*model, PROMPT, STEPS, parts=parts)
    return {name: values[columns["step"] > 0] for name, values in columns.items()}


def simulated_baselines() -> dict[str, float]:
    """Value by id, in the units of the published table."""
    titan, xeon = _machine("titan_xp"), _machine("xeon_e5_2640v4")
    attention, both = generation(SMALL, "attention"), generation(SMALL, "attention", "fc")
    return {
        **_operations(),
        **{f"titan_xp.gpt2_medium.{name}": value for name, value in _medium(titan).items()},
        **{f"titan_xp.gpt2_medium.{name}": value for name, value in _shares(titan).items()},
        "titan_xp.gpt2_medium.generation_percent": _generation_percent(titan),
        **{f"xeon_e5_2640v4.gpt2_medium.{name}": value for name, value in _medium(xeon).items()},
        "xeon_over_titan.gpt2_small.attention_ratio": _ratio(xeon, titan, attention),
        "xeon_over_titan.gpt2_small.end_to_end_ratio": _ratio(xeon, titan, both),
        "titan_xp.dynamic_w": titan.power.dynamic_w,
        "xeon_e5_2640v4.dynamic_w": xeon.power.dynamic_w,
        "xeon_over_titan.dynamic_power_ratio": xeon.power.dynamic_w / titan.power.dynamic_w,
    }


def _machine(name: str) -> EagerMachine:
    machine = load_machine(name)
    assert isinstance(machine, EagerMachine)
    return machine


def _operations() -> dict[str, float]:
    fc, attention = generation(MEDIUM, "fc"), generation(MEDIUM, "attention")
    linear = fc["flops"][fc["kind"] == "linear"].sum()
    return {
        "titan_xp.gpt2_medium.fc_gflop": float(linear) / 1e9,
        "titan_xp.gpt2_medium.attention_gflop": float(attention["flops"].sum()) / 1e9,
    }


def _medium(machine: EagerMachine) -> dict[str, float]:
    return {
        f"{part}_ms": time_operators(machine, generation(MEDIUM, part)).latency_s * 1e3 for part in ("fc", "attention")
    }


def _shares(machine: EagerMachine) -> dict[str, float]:
    columns = generation(MEDIUM, "attention")
    timing = time_operators(machine, columns)
    products = np.flatnonzero(columns["kind"] == "bmm")  # Q x K and prob x V take turns
    masks: Mapping[str, Any] = {
        "query_key_percent": products[::2],
        "prob_value_percent": products[1::2],
        **{name: np.isin(columns["kind"], kinds) for name, kinds in SHARES.items()},
    }
    return {name: _percent(timing, rows) for name, rows in masks.items()}


def _percent(timing: Timing, rows: Any) -> float:
    return 100 * float(timing.operator[rows].sum()) / timing.latency_s


def _generation_percent(machine: EagerMachine) -> float:
    timing = time_operators(machine, operators(*MEDIUM, PROMPT, STEPS))
    return 100 * float(timing.steps[1:].sum()) / timing.latency_s


def _ratio(machine: EagerMachine, other: EagerMachine, columns: Columns) -> float:
    return time_operators(machine, columns).latency_s / time_operators(other, columns).latency_s
