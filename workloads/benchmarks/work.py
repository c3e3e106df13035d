"""The attention work that a benchmark's numbers imply. No torch here.

No run was recorded, so facts are stated instead: kept positions lie evenly spread, importance scores are not
recorded (the top-k model draws ranks with its seed), the kept heads are the first ones, and the rows that need
low bits are drawn by the seed.

Summarization is one pass over the text: queries = keys = tokens that stay.  Generation is one row per step,
layer and head (of K and V) with one query token, in the convention of the released workload files
(`workloads/released.py`): step s attends to prompt + 1 + s tokens; step 0 keeps every key, with local value
pruning on; later a top-k after the last head of a layer takes effect in the next layer, and the one after the
last layer in layer 0 of the next step.  Shares are of the final length (prompt + steps), so a top-k keeps the
same number at each step.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from workloads.attention import AttentionWork
from workloads.policy import Policy
from workloads.schedule import keep_counts
from workloads.trace import Trace

_ROUNDING = 1e-9
Ints = NDArray[np.int64]


class _Rows(NamedTuple):
    """Columns of `AttentionWork`, int64 [R] each."""

    step: Ints
    layer: Ints
    head: Ints
    length: Ints
    queries: Ints
    keys: Ints
    values: Ints
    token_topk: Ints
    token_candidates: Ints
    head_topk: Ints
    head_candidates: Ints


def attention_work(trace: Trace, policy: Policy | None) -> list[AttentionWork]:
    """The attention of a benchmark under its own policy (None) or another one: one sequence, all steps.

    Low bits are fetched at the file's rate where the policy has any.  ValueError for a threshold on tokens.
    """
    policy = Policy.model_validate(trace.made["policy"]) if policy is None else policy
    if policy.token_threshold:
        raise ValueError(f"{trace.name}: token_threshold must be 0, a benchmark has no importance to compare")
    if trace.made["phase"] == "summarization":
        rows = _summarization(trace, policy)
    else:
        rows = _joined([_generated(trace, policy, step) for step in range(trace.made["steps"])])
    return [_work(trace, policy, rows)]


def sampled_work(trace: Trace, policy: Policy | None, every: int = 8) -> list[AttentionWork]:
    """A few steps of a generation benchmark, each standing for its neighbours (`repeat`).

    Step 0 stands for itself; of the rest the middle one of each span of `every` steps.  A summarization
    comes back whole.  For a quick look: on spatten, gpt2_small_wikitext2, every 8th step, the latency is off by
    -1.5 to +0.4 % over four top-k seeds, energy by -0.9 %, DRAM bytes by 0.2 % (docs/benchmarks.md says why).
    Raises ValueError for every < 1.
    """
    if every < 1:
        raise ValueError(f"every must be >= 1, got {every}")
    (whole,) = attention_work(trace, policy)
    if trace.made["phase"] == "summarization":
        return [whole]
    spans = [range(1)] + [
        range(first, min(first + every, trace.made["steps"])) for first in range(1, trace.made["steps"], every)
    ]
    return [_one_step(trace, whole, span[len(span) // 2], len(span)) for span in spans]


def _one_step(trace: Trace, whole: AttentionWork, step: int, repeat: int) -> AttentionWork:
    chosen = whole.step == step
    columns = {name: getattr(whole, name)[chosen] for name in (*_Rows._fields, "key_set")}
    columns["needs_lsb"] = whole.needs_lsb[np.repeat(chosen, whole.group)]
    dense = _dense_operations(trace, trace.made["prompt"] + 1 + step)
    name = f"{whole.name}[step {step}]"
    empty = np.zeros(int(chosen.sum()) + 1, np.int64)
    repeat *= whole.repeat
    return replace(whole, **columns, name=name, score_ptr=empty, dense_operations=dense, repeat=repeat)


def _summarization(trace: Trace, policy: Policy) -> _Rows:
    """Layers in order, the kept heads of each; every kept token is a query."""
    total, all_heads = trace.made["tokens"], trace.model["kv_heads"]
    tokens, heads = keep_counts(policy, trace.model["layers"], total, all_heads)
    competing = np.full_like(tokens, total) if policy.readmit else tokens
    values = _share(policy.value_keep, tokens)
    nexts = np.append(tokens[1:], total)
    return _rows(0, total, heads, tokens, tokens, values, nexts, competing, np.append(heads[1:], all_heads))


def _generated(trace: Trace, policy: Policy, step: int) -> _Rows:
    """One generated token: as many rows as heads are kept over the layers."""
    made, layers, all_heads = trace.made, trace.model["layers"], trace.model["kv_heads"]
    length, final = made["prompt"] + 1 + step, made["prompt"] + made["steps"]
    tokens, heads = keep_counts(policy, layers, final, all_heads, scored=True)
    going_on = step + 1 < made["steps"]
    if step == 0:
        heads = keep_counts(policy, layers, final, all_heads)[1]
    aims = tokens if step else np.full(layers, final)
    keys = np.minimum(aims, length)
    values = np.minimum(keys, _share(policy.value_keep, aims))
    nexts = np.append(aims[1:], tokens[0] if going_on else final)
    competing = np.full(layers, length) if policy.readmit else keys.copy()
    competing[-1] = length  # for the next step all tokens so far compete
    return _rows(step, length, heads, np.ones(layers, np.int64), keys, values, nexts, competing, _next_heads(heads))


def _next_heads(heads: Ints) -> Ints:
    """Heads of the next layer; a pruned layer 0 keeps its heads over the steps."""
    return np.append(heads[1:], heads[-1])


def _rows(
    step: int,
    length: int,
    heads: Ints,
    queries: Ints,
    keys: Ints,
    values: Ints,
    next_tokens: Ints,
    candidates: Ints,
    next_heads: Ints,
) -> _Rows:
    """Per-layer counts as one row a head; a top-k runs on a layer's last row where fewer go on."""
    layer = np.repeat(np.arange(len(heads)), heads)
    last = np.cumsum(heads) - 1
    topk = np.zeros((4, len(layer)), np.int64)
    for place, (keep, competing) in enumerate(((next_tokens, candidates), (next_heads, heads))):
        topk[2 * place, last] = np.where(keep < competing, keep, 0)
        topk[2 * place + 1, last] = np.where(keep < competing, competing, 0)
    fixed = np.full_like(layer, step), layer, np.concatenate([np.arange(h) for h in heads]), np.full_like(layer, length)
    return _Rows(*fixed, queries[layer], keys[layer], values[layer], *topk)


def _joined(parts: list[_Rows]) -> _Rows:
    return _Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _share(keep: float, tokens: Ints) -> Ints:
    """Whole vectors of a share, rounded up, as in `workloads.schedule`."""
    return np.maximum(np.ceil(keep * tokens - _ROUNDING).astype(np.int64), 1)


def _work(trace: Trace, policy: Policy, rows: _Rows) -> AttentionWork:
    lengths = rows.length[np.unique(rows.step, return_index=True)[1]]
    count = len(rows.layer)
    group = trace.model["heads"] // trace.model["kv_heads"]
    return AttentionWork(
        name=trace.name,
        head_size=trace.model["head_size"],
        query_bits=policy.query_bits,
        key_msb_bits=policy.key_msb_bits,
        key_lsb_bits=policy.key_lsb_bits,
        value_bits=policy.value_bits,
        **rows._asdict(),
        key_set=np.full(count, -1),
        set_ptr=np.zeros(1, np.int64),
        set_index=np.zeros(0, np.int64),
        needs_lsb=_drawn(trace, policy, np.repeat(rows.layer, rows.queries * group)),
        score_ptr=np.zeros(count + 1, np.int64),
        score=np.zeros(0),
        dense_operations=sum(_dense_operations(trace, int(n)) for n in lengths),
        repeat=trace.made["batch"],
        group=group,
    )


def _dense_operations(trace: Trace, length: int) -> int:
    """Multiply-accumulates x 2 of Q x K and prob x V of one step, or of the whole text, nothing pruned."""
    model = trace.model
    queries = length if trace.made["phase"] == "summarization" else 1
    return 4 * queries * length * int(model["layers"] * model["heads"] * model["head_size"])


def _drawn(trace: Trace, policy: Policy, layer: Ints) -> NDArray[np.uint8]:
    """Which queries need low bits: of each layer's queries, in order, every 1 / rate-th from a drawn place.

    layer   int64 [sum(queries) * group]   of each query vector

    Each step has its share within one row; the total of a layer is its rate within one.
    """
    layers = trace.model["layers"]
    rates = np.broadcast_to(np.array(trace.made["lsb_rate"], float), layers) * bool(policy.key_lsb_bits)
    starts = np.random.default_rng(trace.made["seed"]).random(layers)
    needs = np.zeros(len(layer), np.uint8)
    for one in range(layers):
        mine = np.flatnonzero(layer == one)
        passed = np.floor(starts[one] + rates[one] * np.arange(len(mine) + 1))
        needs[mine] = np.diff(passed) > 0
    return needs
