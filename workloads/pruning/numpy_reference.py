"""SpAtten's Alg. 2 for one sentence in NumPy float64: slow and obvious, for tests and for reading.

A sentence is a list of steps, a step a list of layers, a layer (query [H, n, D], key [KV, m, D],
value [KV, m, D]): n new tokens that ask, m tokens so far, the new ones last.  Grouped queries: query head h
reads K and V of head h * KV // H.  Step 0 is the prompt (or a whole text); each later step is a generated
token.  All tokens come along in the arrays; which of them take part is decided here.
"""

from dataclasses import dataclass
from math import ceil, exp
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy
from workloads.pruning.quantization import joined, planes, quantize, rounded, scale_of
from workloads.schedule import keep_counts, keep_thresholds

Floats = NDArray[Any]  # float64
Layer = tuple[Floats, Floats, Floats]


@dataclass(frozen=True)
class Pass:
    """One layer in one step.

    tokens, heads   who took part, ascending
    context         float64 [H, n, D], zeros for heads and queries that were pruned
    needs_lsb       (head, query) pairs whose low bits were fetched
    """

    tokens: list[int]
    heads: list[int]
    context: Floats
    needs_lsb: set[tuple[int, int]]


def run_sentence(
    steps: list[list[Layer]],
    policy: Policy,
    *,
    causal: bool = True,
    dense_prompt: bool = True,
    quantized: bool = False,
) -> list[list[Pass]]:
    """Prune a sentence; scores add up over heads, layers and steps and are never reset.

    causal         token j sees tokens 0..j;  else all see all (an encoder)
    dense_prompt   step 0 keeps everything and only gathers scores, as in the released traces
    quantized      number formats and progressive quantization too
    """
    scores = _Scores(policy, layers=len(steps[0]), heads=len(steps[0][0][0]))
    passes = []
    for number, step in enumerate(steps):
        length, new = step[0][1].shape[1], step[0][0].shape[1]
        scores.token += [0.0] * new
        tokens, heads, received = list(range(length)), list(range(len(scores.head))), [0.0] * length
        done = []
        for layer, arrays in enumerate(step):
            if number > 0 or not dense_prompt:
                asking = set(range(length - new, length)) if number > 0 else set()
                tokens = scores.choose_tokens(layer, tokens, asking, received)
                heads = scores.choose_heads(layer, heads, number > 0)
            one, given, sizes = _attend(arrays, tokens, heads, policy, causal, quantized)
            scores.token = [before + more for before, more in zip(scores.token, given, strict=True)]
            scores.head = [before + more for before, more in zip(scores.head, sizes, strict=True)]
            asked = len([j for j in tokens if j >= length - new])
            received = [x / (asked * len(heads)) for x in given]
            done.append(one)
        passes.append(done)
    return passes


class _Scores:
    """Cumulative scores of a sentence, and who has left which layer for good."""

    def __init__(self, policy: Policy, layers: int, heads: int) -> None:
        self.policy, self.layers = policy, layers
        self.token: list[float] = []
        self.head = [0.0] * heads
        self.gone_tokens: list[set[int]] = [set() for _ in range(layers)]
        self.gone_heads: list[set[int]] = [set() for _ in range(layers)]

    def choose_tokens(self, layer: int, before: list[int], asking: set[int], received: list[float]) -> list[int]:
        """Of the tokens of the layer before; `asking` stay in any case, then the last ones."""
        everyone = list(range(len(self.token)))
        candidates = everyone if self.policy.readmit else [j for j in before if j not in self.gone_tokens[layer]]
        threshold = keep_thresholds(self.policy, self.layers)[layer]
        count = int(keep_counts(self.policy, self.layers, len(everyone), 1, scored=bool(asking))[0][layer])
        if asking and self.policy.token_recent:
            asking = asking | set(everyone[-min(count, self.policy.token_recent) :])
        if layer > 0 and threshold > 0:
            tokens = _above(received, candidates, asking, threshold)
        else:
            tokens = _top(self.token, candidates, asking, count)
        self.gone_tokens[layer] = set(everyone) - set(tokens)
        return tokens

    def choose_heads(self, layer: int, before: list[int], scored: bool) -> list[int]:
        """Of the heads of the layer before."""
        counts = keep_counts(self.policy, self.layers, 1, len(self.head), scored=scored)[1]
        heads = _top(self.head, [h for h in before if h not in self.gone_heads[layer]], set(), int(counts[layer]))
        self.gone_heads[layer] = set(range(len(self.head))) - set(heads)
        return heads


def _top(score: list[float], candidates: list[int], always: set[int], count: int) -> list[int]:
    """The `count` best, those of `always` first; the lowest index wins a tie."""
    ranked = sorted(candidates, key=lambda one: (one not in always, -score[one], one))
    return sorted(ranked[:count])


def _above(received: list[float], candidates: list[int], always: set[int], threshold: float) -> list[int]:
    """Those that received at least the threshold, and those of `always`, or else the best one."""
    best = max(candidates, key=lambda one: (one in always, received[one], -one))
    return [j for j in candidates if received[j] >= threshold or j == best or j in always]


def _attend(
    arrays: Layer, tokens: list[int], heads: list[int], policy: Policy, causal: bool, quantized: bool
) -> tuple[Pass, list[float], list[float]]:
    """The pass, the probability that each token received, and the sum of |context| of each head."""
    query, key, value = arrays
    (_, new, size), length = query.shape, key.shape[1]
    context = np.zeros(query.shape)
    received, needs_lsb = [0.0] * length, set()
    for head in heads:
        mine = head * len(key) // len(query)
        q, rough, fine, v = _formats(query[head], key[mine], value[mine], policy, quantized)
        for row in range(new):
            position = length - new + row
            if position not in tokens:
                continue
            seen = [j for j in tokens if j <= position or not causal]
            probability = _softmax([float(q[row] @ rough[j]) / size**0.5 for j in seen])
            if quantized and policy.key_lsb_bits and max(probability) < policy.lsb_threshold:
                needs_lsb.add((head, row))
                probability = _softmax([float(q[row] @ fine[j]) / size**0.5 for j in seen])
            for p, j in zip(probability, seen, strict=True):
                received[j] += p
            count = max(1, ceil(policy.value_keep * len(seen) - 1e-9))
            for i in sorted(range(len(seen)), key=lambda i: (-probability[i], i))[:count]:  # local value pruning
                context[head, row] += probability[i] * v[seen[i]]
    sums = [float(np.abs(context[head]).sum()) for head in range(len(query))]
    return Pass(tokens, heads, context, needs_lsb), received, sums


def _formats(
    query: Floats, key: Floats, value: Floats, policy: Policy, quantized: bool
) -> tuple[Floats, Floats, Floats, Floats]:
    """Q, K by its MSBs, K by all bits, V, as the numbers that the hardware computes with."""
    if not quantized:
        return query, key, key, value
    bits = policy.key_msb_bits + policy.key_lsb_bits
    scale = scale_of(key, bits)
    codes = quantize(key, bits, scale)
    msb, _ = planes(codes, policy.key_lsb_bits)
    rough = joined(msb, 0, policy.key_lsb_bits) * scale
    return rounded(query, policy.query_bits), rough, codes * scale, rounded(value, policy.value_bits)


def _softmax(scores: list[float]) -> list[float]:
    powers = [exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]
