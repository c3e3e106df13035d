"""Replay of a dense trace with a threshold and with re-admission: a slow twin, and what the hardware sees."""

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from workloads.policy import Policy
from workloads.replay import attention_work
from workloads.schedule import keep_counts

POLICIES = st.one_of(
    st.builds(
        Policy,
        token_threshold=st.sampled_from([0.01, 0.1, 0.2, 1.0]),
        token_front=st.sampled_from([0.0, 0.4]),
        head_keep=st.sampled_from([1.0, 0.5]),
    ),
    st.builds(
        Policy,
        token_keep=st.lists(st.floats(0.05, 1), min_size=4, max_size=4).map(tuple),
        readmit=st.just(True),
        head_keep=st.sampled_from([1.0, 0.5]),
    ),
)


def slow_sets(trace, policy):
    """(kept tokens, kept heads) by layer, by the definition; the trace has one text."""
    layers, heads, n = trace.model["layers"], trace.model["heads"], int(trace.facts["text_tokens"][0])
    importance = trace.facts["dense.importance"].astype(float).reshape(layers, heads, n)
    counts = [part.tolist() for part in keep_counts(policy, layers, n, heads)]
    front = round(np.ceil(policy.token_front * layers))
    token_score, head_score = [0.0] * n, [0.0] * heads
    tokens, kept_heads, found = list(range(n)), list(range(heads)), []
    for layer in range(layers):
        found.append((tokens, kept_heads))
        here = {j: sum(importance[layer, h, j] for h in kept_heads) for j in tokens}
        for j in tokens:
            token_score[j] += here[j]
        for h in kept_heads:
            head_score[h] += float(trace.facts["dense.head_score"][0, layer, h])
        if layer + 1 == layers:
            break
        if policy.token_threshold:
            if layer + 1 >= front:
                limit = policy.token_threshold * (layer + 2 - front) / (layers - front) * sum(here.values())
                best = max(tokens, key=lambda j: (here[j], -j))
                tokens = [j for j in tokens if here[j] >= limit] or [best]
        else:
            tokens = sorted(sorted(range(n), key=lambda j: (-token_score[j], j))[: counts[0][layer + 1]])
        kept_heads = sorted(sorted(kept_heads, key=lambda h: (-head_score[h], h))[: counts[1][layer + 1]])
    return found


@settings(max_examples=80, deadline=None)
@given(policy=POLICIES, n=st.integers(1, 12), seed=st.integers(0, 99))
def test_replay_equals_the_slow_twin(make_trace, policy, n, seed):
    trace = make_trace([n], 4, 3, seed)
    (work,) = attention_work(trace, policy)
    sets = [work.set_index[a:b].tolist() for a, b in pairwise(work.set_ptr)]
    heads = [work.head[work.layer == layer].tolist() for layer in range(4)]
    assert list(zip(sets, heads, strict=True)) == slow_sets(trace, policy)
    assert work.keys.tolist() == [len(sets[layer]) for layer in work.layer]
    assert len(work.needs_lsb) == work.queries.sum()
    assert work.score_ptr[-1] == len(work.score) == work.token_candidates.sum()


def test_a_threshold_needs_no_top_k(make_trace):
    (work,) = attention_work(make_trace([12], 4, 3, 0), Policy(token_threshold=0.2))
    assert 0 < work.keys[-1] < 12
    assert not work.token_topk.any()


def test_readmission_ranks_all_tokens_and_lets_them_return(make_trace):
    policy = Policy(token_keep=(1.0, 0.25, 0.75, 0.5), readmit=True)
    (work,) = attention_work(make_trace([12], 4, 3, 0), policy)
    sets = [set(work.set_index[a:b].tolist()) for a, b in pairwise(work.set_ptr)]
    assert [len(kept) for kept in sets] == [12, 3, 9, 6]
    assert sets[2] - sets[1]
    assert work.token_topk[work.token_topk > 0].tolist() == [3, 9, 6]
    assert work.token_candidates[work.token_topk > 0].tolist() == [12, 12, 12]
