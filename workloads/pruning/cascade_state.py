"""Cumulative scores and kept sets of a batch of sentences (SpAtten, Alg. 2). No torch here."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy
from workloads.schedule import keep_counts, keep_thresholds

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]


@dataclass
class CascadeState:
    """Which tokens and heads take part; scores add up over heads, layers and steps and are never reset.

    Sentences of a batch have one length.  In each step: `begin`, then for each layer `enter`, the attention,
    `observe`.  A token that has left a layer is gone from that layer and those behind it, in this step and in
    all later ones, unless the policy readmits.  The tokens that ask in a step after the first are not dropped
    in it: Alg. 2 would have nothing to compute without them.  Neither are the last `token_recent` ones, as far as
    the share has room.

    token_score, head_score   float64 [B, m], [B, H]
    tokens, heads             bool [B, m], [B, H] of each layer: who took part last
    received                  float64 [B, m]: mean probability of each token in the last layer, over heads and queries
    """

    policy: Policy
    layers: int
    head_count: int
    batch: int = 1
    step: int = -1
    pruning: bool = True
    asking: int = 0
    token_score: Floats = field(init=False)
    head_score: Floats = field(init=False)
    received: Floats = field(init=False)
    tokens: list[Mask] = field(init=False)
    heads: list[Mask] = field(init=False)

    def __post_init__(self) -> None:
        self.token_score = np.zeros((self.batch, 0))
        self.head_score = np.zeros((self.batch, self.head_count))
        self.tokens = [np.zeros((self.batch, 0), bool) for _ in range(self.layers)]
        self.heads = [np.ones((self.batch, self.head_count), bool) for _ in range(self.layers)]
        self.thresholds = keep_thresholds(self.policy, self.layers)

    @property
    def length(self) -> int:
        """Tokens so far, pruned or not."""
        return self.token_score.shape[1]

    def begin(self, new: int, *, pruning: bool = True) -> None:
        """The next step, in which `new` tokens join; without `pruning` it only gathers scores."""
        self.step, self.asking, self.pruning = self.step + 1, new, pruning
        self.token_score = _longer(self.token_score, new, 0.0)
        self.tokens = [_longer(mask, new, True) for mask in self.tokens]
        self.counts = keep_counts(self.policy, self.layers, self.length, self.head_count, scored=self.step > 0)

    def enter(self, layer: int) -> tuple[Mask, Mask]:
        """Tokens bool [B, m] and heads bool [B, H] that take part in this layer."""
        if self.pruning:
            self.tokens[layer] = self._choose_tokens(layer)
            before = self.heads[layer - 1] if layer else np.ones_like(self.heads[0])
            self.heads[layer] = _top(self.head_score, self.heads[layer] & before, self.counts[1][layer])
        return self.tokens[layer], self.heads[layer]

    def _choose_tokens(self, layer: int) -> Mask:
        candidates = np.ones_like(self.tokens[layer])
        if not self.policy.readmit:
            candidates = self.tokens[layer] & (self.tokens[layer - 1] if layer else candidates)
        score = self.received if layer and self.thresholds[layer] else self.token_score
        if self.step:
            spared = max(self.asking, min(self.policy.token_recent, self.counts[0][layer]))
            score = np.where(np.arange(self.length) >= self.length - spared, np.inf, score)
        if layer and self.thresholds[layer]:
            return _top(score, candidates, 1) | (candidates & (score >= self.thresholds[layer]))
        return _top(score, candidates, self.counts[0][layer])

    def observe(self, layer: int, importance: Any, head_score: Any, queries: Any) -> None:
        """Add what a layer gave: probability received [B, m], sum of |E| [B, H], queries computed [B]."""
        self.token_score += importance
        self.head_score += head_score
        self.received = importance / (queries * self.heads[layer].sum(axis=1))[:, None]


def _longer(rows: NDArray[Any], new: int, value: float | bool) -> NDArray[Any]:
    return np.concatenate([rows, np.full((len(rows), new), value, rows.dtype)], axis=1)


def _top(score: Floats, candidates: Mask, count: int) -> Mask:
    """Per row the `count` candidates with the largest score; the lowest index wins a tie."""
    order = np.argsort(np.where(candidates, -score, np.inf), axis=1, kind="stable")[:, :count]
    kept = np.zeros_like(candidates)
    np.put_along_axis(kept, order, True, axis=1)
    return kept & candidates
