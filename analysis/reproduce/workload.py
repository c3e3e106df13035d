"""What a point runs: the benchmark with its changes, its policy, and the rows of attention."""

from functools import lru_cache
from typing import Any

from analysis.reproduce.points import Point, Values
from workloads.attention import AttentionWork
from workloads.benchmarks.file import read_benchmark, stated_trace
from workloads.benchmarks.work import attention_work, sampled_work
from workloads.policy import Policy
from workloads.trace import BENCHMARKS, Trace

HEAD, BITS = 64, 8  # plain shapes: head size of all benchmarks; bits of the authors' C++ model and of the fork's run
SAMPLE = 8  # one generated token in so many
FULL_BITS = 32  # Fig. 20 begins with data of that width
_UNPRUNED = {"token_keep": 1.0, "head_keep": 1.0, "value_keep": 1.0}
Resolved = tuple[Trace, Policy | None, list[AttentionWork] | None]


def resolve(point: Point, planner: str) -> Resolved:
    """Trace, policy and rows of attention of a point; no rows for closed forms, which run operators."""
    if point.workload[0].isdigit():
        return Trace(point.workload, {}, {"kind": "dense"}, {}), None, [_shape(point.workload)]
    trace = _trace(point.workload, point.changes)
    policy = changed_policy(Policy.model_validate(trace.made["policy"]), point.policy)
    if planner in ("eager", "relative"):
        return trace, policy, None
    every = point.every or _every(point, policy)
    return trace, policy, sampled_work(trace, policy, every) if every else attention_work(trace, policy)


def _every(point: Point, policy: Policy) -> int:
    """Long dense or 32-bit generation is sampled: its steps are long, and hardly depend on random pivots."""
    return SAMPLE if ("dense", True) in point.policy or policy.key_msb_bits >= FULL_BITS else 0


@lru_cache(maxsize=64)
def _trace(name: str, changes: Values) -> Trace:
    benchmark = read_benchmark(BENCHMARKS / f"{name}.yaml")
    update: dict[str, Any] = {}
    for key, factor in changes:
        if key == "token_scale" and benchmark.tokens:
            update["tokens"] = max(1, round(benchmark.tokens * factor))
        if key == "lsb_scale":
            update["lsb_rate"] = _scaled(benchmark.lsb_rate, factor)
    return stated_trace(benchmark.model_copy(update=update))


def _scaled(share: float | tuple[float, ...], factor: float) -> float | tuple[float, ...]:
    """A share, or one a layer, times a factor, at most 1."""
    if isinstance(share, tuple):
        return tuple(min(1.0, one * factor) for one in share)
    return min(1.0, share * factor)


def changed_policy(own: Policy, changes: Values) -> Policy:
    """The policy with changes in order: fields by name, or "dense", "static", "token_scale" (see `Point`)."""
    values = own.model_dump()
    for name, value in changes:
        if name == "dense":
            values |= _UNPRUNED
        elif name == "static":
            values |= {"key_msb_bits": values["key_msb_bits"] + values["key_lsb_bits"], "key_lsb_bits": 0}
        elif name == "token_scale":
            values["token_keep"] = _scaled(values["token_keep"], value)
        else:
            values[name] = value
    return Policy.model_validate(values)


def _shape(text: str) -> AttentionWork:
    """ "12x12x384": layers, heads, tokens of a dense prompt; "1/128": one query over so many keys, one head."""
    from dataclasses import replace

    import numpy as np

    from workloads.dense import dense_attention

    if "/" in text:
        queries, keys = (int(part) for part in text.split("/"))
        whole = dense_attention(1, 1, keys, HEAD, BITS)
        flags = np.zeros(queries, np.uint8)
        work = 4 * queries * keys * HEAD
        return replace(whole, queries=np.array([queries]), needs_lsb=flags, dense_operations=work)
    layers, heads, tokens = (int(part) for part in text.split("x"))
    return dense_attention(layers, heads, tokens, HEAD, BITS)


def dense_bytes(work: list[AttentionWork] | None) -> int:
    """Bytes of Q, K and V of the unpruned sequence at 32 bits: what DRAM cuts are counted against.

    0 for closed forms. Pruned heads and tokens count: `length` holds the tokens before pruning.
    """
    return sum(_one_dense(one) for one in work or ())


def _one_dense(work: AttentionWork) -> int:
    """From the dense operations: 4 x queries x keys x D a head, where queries = keys (a text) or 1 (a token)."""
    length = int(work.length[0])
    queries = length if int(work.queries.max()) > 1 else 1
    heads = work.dense_operations // (4 * queries * length * work.head_size)
    return work.repeat * heads * (queries + 2 * length) * work.head_size * 4


def released_memory() -> Values:
    """The DRAM configuration of `spatten_as_released` as settings for any planned machine; channels and lanes stay."""
    from accel.machine import load_machine

    memory = load_machine("spatten_as_released").memory.model_dump(exclude_unset=True)  # type: ignore[union-attr]
    controller = memory.pop("controller")
    kept = {name: value for name, value in memory.items() if name not in ("channels", "request_lanes", "compare_with")}
    flat = {f"memory.{name}": value for name, value in kept.items()}
    flat |= {f"memory.controller.{name}": value for name, value in controller.items()}
    return tuple((name, _plain(value)) for name, value in flat.items() if value is not None)


def _plain(value: Any) -> Any:
    return tuple(_plain(one) for one in value) if isinstance(value, list | tuple) else value
