"""Replay against a slow twin, and what must hold of any replay."""

from itertools import pairwise
from math import ceil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.policy import Policy
from workloads.replay import (
    attention_work,
    recorded_policies,
    recorded_policy,
    recorded_work,
    replay_distance,
)
from workloads.schedule import keep_counts
from workloads.trace import load_workload

SHARE = st.floats(0.05, 1)
LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=3)


@st.composite
def policies(draw, layers):
    shares = st.one_of(SHARE, st.lists(SHARE, min_size=layers, max_size=layers).map(tuple))
    return Policy(
        token_keep=draw(shares),
        head_keep=draw(shares),
        token_front=draw(st.sampled_from([0.0, 0.15, 0.5])),
        value_keep=draw(SHARE),
        key_msb_bits=8,
        key_lsb_bits=draw(st.sampled_from([0, 4])),
        lsb_threshold=draw(st.sampled_from([0.0, 0.1, 0.4, 1.0])),
    )


def slow_rows(trace, text, policy):
    """One dict per row, by the definition."""
    layers, heads = trace.model["layers"], trace.model["heads"]
    lengths = trace.facts["text_tokens"].tolist()
    n, start = lengths[text], layers * heads * sum(lengths[:text])
    importance = trace.facts["dense.importance"][start : start + layers * heads * n].reshape(layers, heads, n)
    row_max = trace.facts["dense.row_max"][start : start + layers * heads * n].reshape(layers, heads, n)
    token_counts, head_counts = (counts.tolist() for counts in keep_counts(policy, layers, n, heads))
    tokens, kept_heads = list(range(n)), list(range(heads))
    token_score, head_score = [0.0] * n, [0.0] * heads
    rows = []
    for layer in range(layers):
        for head in kept_heads:
            head_score[head] += float(trace.facts["dense.head_score"][text, layer, head])
            for token in tokens:
                token_score[token] += float(importance[layer, head, token])
            rows.append(
                {
                    "layer": layer,
                    "head": head,
                    "kept": list(tokens),
                    "values": max(1, ceil(policy.value_keep * len(tokens) - 1e-9)),
                    "lsb": [
                        int(policy.key_lsb_bits > 0 and row_max[layer, head, token] / 255 < policy.lsb_threshold)
                        for token in tokens
                    ],
                    **dict.fromkeys(("token_topk", "token_candidates", "head_topk", "head_candidates"), 0),
                    "score": [],
                }
            )
        if layer + 1 == layers:
            break
        if token_counts[layer + 1] < len(tokens):
            rows[-1]["token_topk"], rows[-1]["token_candidates"] = token_counts[layer + 1], len(tokens)
            rows[-1]["score"] = [token_score[token] for token in tokens]
            tokens = sorted(sorted(tokens, key=lambda t: (-token_score[t], t))[: token_counts[layer + 1]])
        if head_counts[layer + 1] < len(kept_heads):
            rows[-1]["head_topk"], rows[-1]["head_candidates"] = head_counts[layer + 1], len(kept_heads)
            kept_heads = sorted(sorted(kept_heads, key=lambda h: (-head_score[h], h))[: head_counts[layer + 1]])
    return rows


def kept_of(work, row):
    entry = work.key_set[row]
    return work.set_index[work.set_ptr[entry] : work.set_ptr[entry + 1]].tolist()


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    lengths=LENGTHS,
    layers=st.integers(1, 5),
    heads=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_replay_equals_the_slow_twin(make_trace, data, lengths, layers, heads, seed):
    trace = make_trace(lengths, layers, heads, seed)
    policy = data.draw(policies(layers))
    works = attention_work(trace, policy)
    assert len(works) == len(lengths)
    for text, work in enumerate(works):
        expected = slow_rows(trace, text, policy)
        assert work.rows == len(expected)
        ends = np.cumsum(work.queries)
        for row, want in enumerate(expected):
            got = {
                "layer": work.layer[row],
                "head": work.head[row],
                "kept": kept_of(work, row),
                "values": work.values[row],
                "lsb": work.needs_lsb[ends[row] - work.queries[row] : ends[row]].tolist(),
                "token_topk": work.token_topk[row],
                "token_candidates": work.token_candidates[row],
                "head_topk": work.head_topk[row],
                "head_candidates": work.head_candidates[row],
                "score": work.score[work.score_ptr[row] : work.score_ptr[row + 1]].tolist(),
            }
            assert got == want
            assert work.queries[row] == work.keys[row] == len(want["kept"])
            assert work.length[row] == lengths[text]
        assert len(work.needs_lsb) == ends[-1]
        assert len(work.score) == work.score_ptr[-1]
        assert work.dense_operations == sum(4 * lengths[text] ** 2 * 8 for _ in range(layers * heads))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 20), layers=st.integers(1, 6), seed=st.integers(0, 99))
def test_kept_sets_cascade_and_have_the_counts_of_the_schedule(make_trace, data, n, layers, seed):
    trace = make_trace([n], layers, 3, seed)
    policy = data.draw(policies(layers))
    (work,) = attention_work(trace, policy)
    tokens, heads = keep_counts(policy, layers, n, 3)
    sets = [set(work.set_index[a:b].tolist()) for a, b in pairwise(work.set_ptr)]
    assert [len(kept) for kept in sets] == tokens.tolist()
    assert np.bincount(work.layer, minlength=layers).tolist() == heads.tolist()
    assert all(later <= earlier for earlier, later in pairwise(sets))
    assert all((np.diff(work.set_index[a:b]) > 0).all() for a, b in pairwise(work.set_ptr))


@settings(max_examples=40, deadline=None)
@given(one=SHARE, other=SHARE, seed=st.integers(0, 99))
def test_keeping_less_after_the_first_layer_keeps_a_subset(make_trace, one, other, seed):
    trace = make_trace([17], 2, 2, seed)
    less, more = sorted((one, other))
    (small,), (large,) = (attention_work(trace, Policy(token_keep=(1.0, keep))) for keep in (less, more))
    assert set(small.set_index[17:].tolist()) <= set(large.set_index[17:].tolist())


def test_a_dense_trace_needs_a_policy(make_trace):
    with pytest.raises(ValueError, match="policy must be given"):
        attention_work(make_trace([4], 2, 2, 0), None)


def test_recorded_runs_of_the_shipped_trace_have_the_counts_of_their_policy():
    trace = load_workload("minilm")
    lengths = trace.facts["text_tokens"].tolist()
    assert recorded_policies(trace) == ["mild", "middle", "strong"]
    for name in recorded_policies(trace):
        works = recorded_work(trace, name)
        policy = recorded_policy(trace, name)
        used = dict.fromkeys(("kept_tokens", "kept_heads", "row_max", "score", "head_score"), 0)
        for work, n in zip(works, lengths, strict=True):
            tokens, heads = keep_counts(policy, 6, n, 12)
            assert np.diff(work.set_ptr).tolist() == tokens.tolist()
            assert np.bincount(work.layer).tolist() == heads.tolist()
            sizes = (len(work.set_index), work.rows, len(work.needs_lsb), len(work.score), work.rows)
            used = {key: used[key] + size for key, size in zip(used, sizes, strict=True)}
        assert used == {key: len(trace.facts[f"{name}.{key}"]) for key in used}


def test_in_the_loop_the_score_decides_the_next_kept_set():
    trace = load_workload("minilm")
    for work in recorded_work(trace, "strong"):
        for row in np.flatnonzero(work.token_topk):
            before, after = kept_of(work, row), kept_of(work, row + 1)
            score = dict(zip(before, work.score[work.score_ptr[row] : work.score_ptr[row + 1]], strict=True))
            assert len(after) == work.token_topk[row]
            # float16 may make a tie of two neighbours
            assert min(score[t] for t in after) >= max([0.0, *(score[t] for t in set(before) - set(after))])


def test_distance_of_replay_is_none_without_pruning_and_grows_with_it():
    trace = load_workload("minilm")
    mild, middle, strong = (replay_distance(trace, name) for name in recorded_policies(trace))
    assert mild["token_jaccard_by_layer"][:2] == [1.0, 1.0]
    last = [run["token_jaccard_by_layer"][-1] for run in (mild, middle, strong)]
    assert 1 > last[0] > last[1] > last[2] > 0
    assert 1 > mild["cosine_mean"] > middle["cosine_mean"] > strong["cosine_mean"] > 0
    for run in (mild, middle, strong):
        assert 0 < run["lsb_rate_in_loop"] < run["lsb_rate_replay"] < 1


def test_an_unknown_recorded_policy_is_named():
    with pytest.raises(ValueError, match=r"policy must be one of \['mild', 'middle', 'strong'\], got 'wild'"):
        recorded_work(load_workload("minilm"), "wild")
