"""Replay: the attention work of any policy on the facts of one dense run. No torch here.

A dense trace of an encoder holds, for T texts of n tokens, L layers and H heads (texts one after the other):

    text_tokens       int64 [T]                 n of each text
    dense.importance  float16 [sum(L * H * n)]  sum over the queries of the probability given to each token
    dense.row_max     uint8 [sum(L * H * n)]    largest probability of each query x 255, nearest even
    dense.head_score  float32 [T, L, H]         sum of |E| (E = prob x V) over queries and elements

and, for each policy that was also applied inside the forward pass (rows: text, layer, kept head, ascending):

    <policy>.kept_tokens  uint16   kept positions of each layer, ascending, text by text
    <policy>.kept_heads   uint8    head of each row
    <policy>.row_max      uint8    as above, for the kept queries of each row
    <policy>.head_score   float32  as above, one per row
    <policy>.score        float16  cumulative importance of the candidates of each token top-k
    <policy>.cosine       float32 [T]  between the pruned and the dense sentence embedding

What a replay leaves out: the recorded importance sums include queries that the policy has pruned, and row
maxima do not rise as they would after renormalisation over fewer tokens. `replay_distance` measures both.
Row maxima are those of unquantized probabilities, where the hardware decides on low bits by probabilities
that come from the MSBs of K alone (SpAtten, section III-D); so are the recorded policies of the shipped
trace. `workloads/encoder.py` follows the hardware's rule with `quantize`.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.attention import AttentionWork
from workloads.cascade import Kept, prune, score_lengths
from workloads.policy import Policy
from workloads.schedule import keep_counts, keep_thresholds
from workloads.trace import Trace

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def attention_work(trace: Trace, policy: Policy | None) -> list[AttentionWork]:
    """The attention of each sequence under `policy`, by replay of the dense facts.

    A recorded trace has its pruning in it: `policy` must then be None. Raises ValueError otherwise.
    A benchmark and a decoding step have a policy of their own, used for None; an exported trace is dense.
    """
    if trace.made["kind"] == "benchmark":
        from workloads.benchmarks import work

        return work.attention_work(trace, policy)
    if trace.made["kind"] == "decode":
        from workloads.llm_decode import named_work

        return named_work(trace, policy)
    if trace.made["kind"] == "exported":
        from workloads.export.attention import exported_work

        return exported_work(trace, policy)
    if trace.made["kind"] == "values":
        raise ValueError(f"{trace.name}: holds statistics of values and operands, no workload that could run")
    if trace.made["kind"] == "recorded":
        if policy is not None:
            raise ValueError(f"{trace.name}: policy must be None, the pruning is recorded, got {policy}")
        from workloads.released import released_work

        return [released_work(trace)]
    if policy is None:
        raise ValueError(f"{trace.name}: policy must be given, a dense trace has no pruning of its own")
    kept = _replayed(trace, policy)
    return [_work(trace, policy, index, text) for index, text in enumerate(kept)]


def recorded_work(trace: Trace, name: str) -> list[AttentionWork]:
    """The attention of each sequence as pruned inside the forward pass under the recorded policy `name`."""
    policy = recorded_policy(trace, name)
    return [_work(trace, policy, index, text) for index, text in enumerate(_recorded(trace, name, policy))]


def recorded_policies(trace: Trace) -> list[str]:
    """Names of the policies that were applied inside the forward pass."""
    return list(trace.made.get("policies", {}))


def recorded_policy(trace: Trace, name: str) -> Policy:
    """The policy of that name; raises ValueError with the known names."""
    if name not in recorded_policies(trace):
        raise ValueError(f"{trace.name}: policy must be one of {recorded_policies(trace)}, got {name!r}")
    return Policy.model_validate(trace.made["policies"][name])


def replay_distance(trace: Trace, name: str) -> dict[str, Any]:
    """How far the replay of policy `name` is from its pruning inside the forward pass.

    token_jaccard_by_layer, head_jaccard_by_layer   |A and B| / |A or B| of the kept sets, mean over the texts
    lsb_rate_in_loop, lsb_rate_replay               share of the query rows whose low bits are fetched
    cosine_mean, cosine_min                         of the pruned with the dense sentence embedding
    """
    policy = recorded_policy(trace, name)
    loop, replay = list(_recorded(trace, name, policy)), _replayed(trace, policy)
    pairs = list(zip(loop, replay, strict=True))
    cosine = trace.facts[f"{name}.cosine"]
    below = _below(policy)
    return {
        "token_jaccard_by_layer": _jaccard([(a.positions, b.positions, a.tokens) for a, b in pairs]),
        "head_jaccard_by_layer": _jaccard([(a.head, b.head, a.heads) for a, b in pairs]),
        "lsb_rate_in_loop": float(np.concatenate([below[k.row_max] for k in loop]).mean()),
        "lsb_rate_replay": float(np.concatenate([below[k.row_max] for k in replay]).mean()),
        "cosine_mean": float(cosine.mean(dtype=np.float64)),
        "cosine_min": float(cosine.min()),
    }


def _jaccard(pairs: list[tuple[Ints, Ints, Ints]]) -> list[float]:
    """Mean over texts, by layer; a pair is two lists of members with the count of each layer."""
    rows = []
    for one, other, counts in pairs:
        layers = zip(_split(one, counts), _split(other, counts), strict=True)
        rows.append([len(np.intersect1d(a, b)) / len(np.union1d(a, b)) for a, b in layers])
    return [float(mean) for mean in np.mean(rows, axis=0)]


def _below(policy: Policy) -> Bytes:
    """1 for each stored row maximum that lies below the threshold."""
    limit = policy.lsb_threshold if policy.key_lsb_bits else 0.0
    return (np.arange(256) / 255 < limit).astype(np.uint8)


def _text_counts(trace: Trace, policy: Policy) -> list[tuple[Ints, Ints]]:
    layers, heads = trace.model["layers"], trace.model["heads"]
    return [keep_counts(policy, layers, int(n), heads) for n in trace.facts["text_tokens"]]


def _split(values: NDArray[Any], lengths: Ints | list[int]) -> list[NDArray[Any]]:
    return np.split(values, np.cumsum(lengths)[:-1])


def _recorded(trace: Trace, name: str, policy: Policy) -> Iterator[Kept]:
    counts = _text_counts(trace, policy)
    facts = {key: trace.facts[f"{name}.{key}"] for key in ("kept_tokens", "kept_heads", "row_max", "score")}
    tokens = _split(facts["kept_tokens"].astype(np.int64), [int(t.sum()) for t, _ in counts])
    heads = _split(facts["kept_heads"].astype(np.int64), [int(h.sum()) for _, h in counts])
    row_max = _split(facts["row_max"], [int((t * h).sum()) for t, h in counts])
    score = _split(facts["score"].astype(np.float64), [int(score_lengths(t).sum()) for t, _ in counts])
    for index, (t, h) in enumerate(counts):
        yield Kept(t, h, tokens[index], heads[index], row_max[index], score[index])


@lru_cache(maxsize=4)
def _dense(trace: Trace) -> list[tuple[NDArray[np.float32], Bytes, NDArray[np.float32]]]:
    """Importance [L, H, n], row maxima [L, H, n] and head scores [L, H] of each text."""
    layers, heads = trace.model["layers"], trace.model["heads"]
    shapes = [(layers, heads, int(n)) for n in trace.facts["text_tokens"]]
    sizes = [layers * heads * n for *_, n in shapes]
    importance = _split(trace.facts["dense.importance"].astype(np.float32), sizes)
    row_max = _split(trace.facts["dense.row_max"], sizes)
    texts = zip(importance, row_max, trace.facts["dense.head_score"], shapes, strict=True)
    return [(a.reshape(shape), b.reshape(shape), score) for a, b, score, shape in texts]


def _replayed(trace: Trace, policy: Policy) -> list[Kept]:
    pairs = zip(_text_counts(trace, policy), _dense(trace), strict=True)
    limits = keep_thresholds(policy, trace.model["layers"]) if policy.token_threshold else None
    return [prune(tokens, heads, *facts, limits, policy.readmit) for (tokens, heads), facts in pairs]


def _work(trace: Trace, policy: Policy, index: int, kept: Kept) -> AttentionWork:
    """One text as rows: layers in order, the kept heads of each in ascending order."""
    length, rows = int(kept.tokens[0]), int(kept.heads.sum())
    layer = np.repeat(np.arange(len(kept.heads)), kept.heads)
    tokens = kept.tokens[layer]
    token_topk, token_candidates = _token_topk(kept, policy)
    head_topk, head_candidates = _topk(kept.heads, score_lengths(kept.heads), kept.heads)
    return AttentionWork(
        name=f"{trace.name}[{index}]",
        head_size=trace.model["head_size"],
        query_bits=policy.query_bits,
        key_msb_bits=policy.key_msb_bits,
        key_lsb_bits=policy.key_lsb_bits,
        value_bits=policy.value_bits,
        step=np.zeros(rows, np.int64),
        layer=layer,
        head=kept.head,
        length=np.full(rows, length),
        queries=tokens,
        keys=tokens,
        values=_shares(policy.value_keep, tokens),
        key_set=layer,
        set_ptr=np.append(0, np.cumsum(kept.tokens)),
        set_index=kept.positions,
        needs_lsb=_below(policy)[kept.row_max],
        token_topk=token_topk,
        token_candidates=token_candidates,
        head_topk=head_topk,
        head_candidates=head_candidates,
        score_ptr=np.append(0, np.cumsum(token_candidates)),
        score=kept.score,
        dense_operations=_dense_operations(trace, length),
    )


def _shares(keep: float, tokens: Ints) -> Ints:
    """Whole V vectors of a share, rounded up, as in `workloads.schedule`."""
    return np.maximum(np.ceil(keep * tokens - 1e-9).astype(np.int64), 1)


def _dense_operations(trace: Trace, length: int) -> int:
    model = trace.model
    return 4 * length * length * int(model["layers"] * model["heads"] * model["head_size"])


def _token_topk(kept: Kept, policy: Policy) -> tuple[Ints, Ints]:
    """A threshold is a comparison per token: no top-k runs."""
    none = np.zeros_like(kept.tokens)
    candidates = none if policy.token_threshold else score_lengths(kept.tokens, policy.readmit)
    return _topk(kept.tokens, candidates, kept.heads)


def _topk(counts: Ints, candidates: Ints, heads: Ints) -> tuple[Ints, Ints]:
    """(keep, candidates) per row: set on the last row of a layer after which a top-k runs."""
    last = np.cumsum(heads) - 1
    keep, competing = np.zeros((2, int(heads.sum())), np.int64)
    keep[last] = np.where(candidates > 0, np.append(counts[1:], 0), 0)
    competing[last] = candidates
    return keep, competing
