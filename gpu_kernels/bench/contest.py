"""Contenders on one shape, each prepared, checked, timed; a failure is told in its place and costs no other row."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpu_kernels.bench.timing import Call, measure, sets_for

Prepare = Callable[[Any, int], tuple[list[Call], str]]


@dataclass(frozen=True)
class Contender:
    """One way to compute a shape.

    prepare          (shape, sets) -> (a call for each operand set, what the first got wrong or "")
    changing_bytes   shape -> bytes of an operand set: the weights, the cache
    """

    prepare: Prepare
    changing_bytes: Callable[[Any], int]


def columns(shape: Any, contenders: Mapping[str, Contender], expected_us: float, l2_bytes: int) -> dict[str, Any]:
    """By contender: times as `Timing.row`, or `refused` with the reason."""
    return {name: guarded(partial(_timed, one, shape, expected_us, l2_bytes)) for name, one in contenders.items()}


def _timed(one: Contender, shape: Any, expected_us: float, l2_bytes: int) -> dict[str, Any]:
    size = one.changing_bytes(shape)
    sets = sets_for(size, l2_bytes)
    _check_room(sets * size)
    calls, fault = one.prepare(shape, sets)
    return {"refused": f"wrong: {fault}"} if fault else dict(measure(calls, expected_us).row())


def _check_room(wanted: int) -> None:
    """Raises MemoryError where the card has no room for the operands (activations and outputs are small)."""
    import torch

    free, _ = torch.cuda.mem_get_info()
    kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
    if wanted > 0.8 * (free + kept):
        raise MemoryError(f"operands of {wanted / 1e9:.1f} GB, {(free + kept) / 1e9:.1f} GB are free")


def guarded(run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `run` gives, or `refused` with the first line of what it raised."""
    try:
        return run()
    except Exception as fault:
        text = str(fault).strip().splitlines() or [""]
        return {"refused": f"{type(fault).__name__}: {text[0][:200]}"}
