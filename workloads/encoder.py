"""Eager forward pass of a BERT-type encoder with cascade pruning inside it.

SpAtten's Alg. 2 on the modules of a Hugging Face `BertModel`: tokens that lose a top-k leave every later
layer (Q, K, V, attention output and FFN); heads that lose one put zeros into the output projection.  Scores
accumulate over the heads and layers that are still there, and the probabilities are renormalised by nature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy
from workloads.schedule import keep_counts, keep_top

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
DENSE = Policy()


@dataclass(frozen=True)
class LayerFacts:
    """One layer of one text; n kept tokens, h kept heads.

    tokens, heads   int64 [n], [h]   what took part, ascending
    importance      float64 [h, n]   sum of each token's probability over the n queries
    row_max         float64 [h, n]   largest probability of each query
    head_score      float64 [h]      sum of |prob x V|
    score           float64 [n]      cumulative importance of the tokens after this layer
    """

    tokens: Ints
    heads: Ints
    importance: Floats
    row_max: Floats
    head_score: Floats
    score: Floats


@dataclass(frozen=True)
class EncoderRun:
    """Facts of each layer, and the last hidden state float64 [kept tokens, hidden]."""

    layers: list[LayerFacts]
    hidden: Floats

    @property
    def embedding(self) -> Floats:
        """Mean over the surviving tokens, special tokens among them: the sentence embedding, unnormalised."""
        return self.hidden.mean(axis=0)


def run_encoder(bert: Any, token_ids: Ints, policy: Policy = DENSE) -> EncoderRun:
    """Run one text, batch 1, without padding; `bert` has the submodules of Hugging Face's BertModel."""
    import torch

    blocks = bert.encoder.layer
    token_counts, head_counts = keep_counts(
        policy, len(blocks), len(token_ids), bert.config.num_attention_heads
    )
    tokens, heads = np.arange(token_counts[0]), np.arange(head_counts[0])
    token_score, head_score = np.zeros(len(tokens)), np.zeros(len(heads))
    facts = []
    with torch.inference_mode():
        hidden = bert.embeddings(torch.tensor(np.asarray(token_ids)[None]))[0]
        for index, block in enumerate(blocks):
            probability, context = attend(block.attention.self, hidden, heads)
            one = _facts(tokens, heads, probability, context, token_score)
            head_score[heads] += one.head_score
            facts.append(one)
            hidden = _finish(block, hidden, context, heads)
            if index + 1 < len(blocks):
                kept = keep_top(token_score, tokens, token_counts[index + 1])
                hidden = hidden[np.searchsorted(tokens, kept)]
                tokens, heads = kept, keep_top(head_score, heads, head_counts[index + 1])
    return EncoderRun(facts, hidden.numpy())


def attend(attention: Any, hidden: Any, heads: Ints) -> tuple[Any, Any]:
    """Probabilities [h, n, n] and prob x V [h, n, D] of the kept heads of one layer."""
    size = attention.attention_head_size
    query, key, value = (
        projection(hidden).view(len(hidden), -1, size).transpose(0, 1)[heads]
        for projection in (attention.query, attention.key, attention.value)
    )
    probability = (query @ key.transpose(1, 2) * size**-0.5).softmax(dim=-1)
    return probability, probability @ value


def _facts(tokens: Ints, heads: Ints, probability: Any, context: Any, token_score: Floats) -> LayerFacts:
    """Facts of one layer; adds its importance to `token_score`."""
    importance = probability.sum(dim=1).numpy()
    token_score[tokens] += importance.sum(axis=0)
    row_max = probability.amax(dim=2).numpy()
    head_score = context.abs().sum(dim=(1, 2)).numpy()
    return LayerFacts(tokens, heads, importance, row_max, head_score, token_score[tokens])


def _finish(block: Any, hidden: Any, context: Any, heads: Ints) -> Any:
    """Output projection, residual, normalisation and FFN; zeros where a head is pruned."""
    attention = block.attention.self
    full = hidden.new_zeros(len(hidden), attention.num_attention_heads, attention.attention_head_size)
    full[:, heads] = context.transpose(0, 1)
    attended = block.attention.output(full.flatten(1), hidden)
    return block.output(block.intermediate(attended), attended)
