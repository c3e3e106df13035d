"""Predictions of published times: kernels by the door, whole models by their traces, without any scale."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from accel.gpu.machine import GpuMachine
from analysis.gpu.anchors import Anchor, Scored, anchors, errors, scaled, shipped
from analysis.gpu.predict import Table
from analysis.quantities import shown
from dataflow.gpu.door import gpu
from dataflow.gpu.predict import predict_gemm, predict_prefill
from dataflow.gpu.prediction import Prediction
from dataflow.gpu.trace import time_pass
from workloads.schemes import annotate
from workloads.trace import Trace, load_workload

MODEL = "model"  # class of whole models, whatever the execution
RAW = "bf16"  # format of the shipped traces


def blind_s(anchor: Anchor) -> float:
    """Seconds by data sheet and carried fit alone. Raises ValueError for a class that has no model."""
    return unscaled_s(gpu(anchor.device).model_copy(update={"scale": {}}), anchor)


def unscaled_s(machine: GpuMachine, anchor: Anchor) -> float:
    """As the machine is, at the clock of the card's power limit where the source tells one.

    Of whole models the device's time: the host of a published one is not known, and hosts differ by a factor of two.
    """
    if anchor.kind == MODEL:
        trace = _trace(anchor.model, anchor.format)
        return time_pass(machine, trace, anchor.execution).device_s  # type: ignore[arg-type]
    if anchor.limit_w is None:
        return float(_kernel(machine, anchor).latency_s[0])
    board = machine.power.model_copy(update={"limit_w": anchor.limit_w})
    return float(_kernel(machine.model_copy(update={"power": board}), anchor).sustained_s[0])


def _kernel(machine: GpuMachine, anchor: Anchor) -> Prediction:
    given = dict(anchor.problem)
    if anchor.kind.startswith("gemm_"):
        return predict_gemm(machine, anchor.format, given["m"], given["n"], given["k"])
    if anchor.kind.startswith("prefill_"):
        shape = [given[name] for name in ("batch", "length", "heads", "kv_heads", "head_size")]
        causal = bool(given["causal"])
        return predict_prefill(machine, *shape, keys=given.get("keys"), causal=causal, kernel=anchor.format)
    raise ValueError(f"{anchor.id}: class {anchor.kind!r} has no model")


def scored(devices: Sequence[str] | None = None) -> list[Scored]:
    """Every published time of these devices (None: of all) that a model exists for; inputs of fits are left out."""
    some = [one for one in anchors() if one.role != "input" and (devices is None or one.device in devices)]
    return scaled(some, blind_s)


def tables(rows: Sequence[Scored]) -> list[Table]:
    """Each time, then errors by device and class, and the scale that a machine file should have (`shipped`)."""
    times = [
        (row.anchor.id, *(shown("latency_s", s) for s in (row.anchor.seconds, row.blind_s, row.left_out_s)), _off(row))
        for row in rows
    ]
    scale = shipped(rows)
    found = [
        (
            *key,
            str(one.points),
            _percent(blind[key].mean),
            _percent(one.mean),
            _percent(one.bias),
            _told(scale.get(key)),
        )
        for blind in [errors(rows, left_out=False)]
        for key, one in errors(rows).items()
    ]
    head = ["device", "class", "times", "blind mean", "left out mean", "bias", "scale, band"]
    return [("Published times", ["", "published", "blind", "left out", "off"], times), ("By class", head, found)]


def to_json(rows: Sequence[Scored]) -> dict[str, Any]:
    """Times and errors."""
    return {
        "times": [
            {
                "id": row.anchor.id,
                "published_s": row.anchor.seconds,
                "blind_s": row.blind_s,
                "left_out_s": row.left_out_s,
            }
            for row in rows
        ],
        "errors": {".".join(key): one.model_dump() for key, one in errors(rows).items()},
    }


def _means(*shares: float) -> tuple[str, ...]:
    return tuple(f"{100 * share:.1f} %" for share in shares)


def _told(found: tuple[float, float] | None) -> str:
    return "none: blind is no worse" if found is None else f"{found[0]:.3f}, ±{100 * found[1]:.0f} %"


def _off(row: Scored) -> str:
    return _percent(row.off)


def _percent(share: float) -> str:
    return f"{100 * share:+.1f} %"


@cache
def _trace(model: str, scheme: str) -> Trace:
    trace = load_workload(model)
    return trace if scheme == RAW else annotate(trace, scheme)
