"""Eager forward pass of a BERT-type encoder with cascade pruning inside it.

SpAtten's Alg. 2 on the modules of a Hugging Face `BertModel`: tokens that lose a top-k (or fall below a
threshold) leave every later layer (Q, K, V, attention output and FFN); heads that lose one put zeros into the
output projection.  Scores accumulate over the heads and layers that are still there, and the probabilities
are renormalised by nature.  With `readmit` a token that is not chosen skips the attention of the layer, not
its FFN, and may come back (as in Token Sparse Attention, arXiv 2602.03216).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy
from workloads.pruning.cascade_state import CascadeState

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DENSE = Policy()


@dataclass(frozen=True)
class LayerFacts:
    """One layer of one text; n kept tokens, h kept heads.

    tokens, heads   int64 [n], [h]   what took part, ascending
    importance      float64 [h, n]   sum of each token's probability over the n queries
    row_max         float64 [h, n]   largest probability of each query; from the MSBs of K alone if quantized
    needs_lsb       bool [h, n]      row_max is below the threshold, and the policy has low bits to fetch
    head_score      float64 [h]      sum of |prob x V|
    score           float64 [n]      cumulative importance of the tokens after this layer
    """

    tokens: Ints
    heads: Ints
    importance: Floats
    row_max: Floats
    needs_lsb: NDArray[np.bool_]
    head_score: Floats
    score: Floats


@dataclass(frozen=True)
class EncoderRun:
    """Facts of each layer, and the last hidden state float64 [kept tokens, hidden]."""

    layers: list[LayerFacts]
    hidden: Floats

    @property
    def embedding(self) -> Floats:
        """Mean over the surviving tokens, special tokens among them: the sentence embedding, unnormalised.

        With `readmit` all tokens survive.
        """
        return self.hidden.mean(axis=0)


def run_encoder(bert: Any, token_ids: Ints, policy: Policy = DENSE, *, quantized: bool = False) -> EncoderRun:
    """Run one text, batch 1, without padding; `bert` has the submodules of Hugging Face's BertModel.

    quantized   Q, K and V in the formats of the policy, low bits of K only for queries that need them
    """
    import torch

    blocks = bert.encoder.layer
    state = CascadeState(policy, len(blocks), bert.config.num_attention_heads)
    state.begin(len(token_ids))
    here = np.arange(len(token_ids))
    facts = []
    with torch.inference_mode():
        hidden = bert.embeddings(torch.tensor(np.asarray(token_ids)[None]))[0]
        for index, block in enumerate(blocks):
            tokens, heads = (np.flatnonzero(mask[0]) for mask in state.enter(index))
            if not policy.readmit:
                hidden, here = hidden[np.searchsorted(here, tokens)], tokens
            result = _attend(block.attention.self, hidden[np.searchsorted(here, tokens)], heads, policy, quantized)
            facts.append(_observe(state, index, tokens, heads, result))
            hidden = _finish(block, hidden, result.context[0], np.searchsorted(here, tokens), heads)
    return EncoderRun(facts, hidden.numpy())


def _attend(attention: Any, hidden: Any, heads: Ints, policy: Policy, quantized: bool) -> Any:
    """Attention of the kept heads of one layer over hidden [n, width]."""
    from workloads.pruning.torch_attention import attend

    size = attention.attention_head_size
    query, key, value = (
        projection(hidden).view(len(hidden), -1, size).transpose(0, 1)[heads][None]
        for projection in (attention.query, attention.key, attention.value)
    )
    return attend(query, key, value, policy, quantized=quantized)


def _observe(state: CascadeState, layer: int, tokens: Ints, heads: Ints, result: Any) -> LayerFacts:
    """Facts of one layer, and its scores added to the state."""
    importance, row_max, needs_lsb, head_score = (
        one[0].numpy() for one in (result.importance, result.row_max, result.needs_lsb, result.head_score)
    )
    received, sizes = np.zeros(state.length), np.zeros(state.head_count)
    received[tokens], sizes[heads] = importance.sum(axis=0), head_score
    state.observe(layer, received[None], sizes[None], np.array([len(tokens)]))
    return LayerFacts(tokens, heads, importance, row_max, needs_lsb, head_score, state.token_score[0, tokens])


def _finish(block: Any, hidden: Any, context: Any, rows: Ints, heads: Ints) -> Any:
    """Output projection, residual, normalisation and FFN; zeros for heads and rows without attention."""
    attention = block.attention.self
    full = hidden.new_zeros(len(hidden), attention.num_attention_heads, attention.attention_head_size)
    full[rows[:, None], heads] = context.transpose(0, 1)
    attended = block.attention.output(full.flatten(1), hidden)
    return block.output(block.intermediate(attended), attended)
