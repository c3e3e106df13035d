"""Pruned attention on torch tensors, for any attention model.

`attend` is one layer; `PrunedAttention` is a hook that keeps the scores of a whole model.  What is pruned
is masked, not removed: the results are those of removal, the time is not.  The probabilities are not
quantized on their way to prob x V (12 bits on the chip), and sums are those of the tensors' own format.
"""

from dataclasses import dataclass
from math import inf
from typing import Any

from workloads.policy import Policy
from workloads.pruning.cascade_state import CascadeState
from workloads.pruning.quantization import largest_code

NO_PRUNING = Policy()


@dataclass(frozen=True)
class Attended:
    """What one layer gives; B sentences, H heads in KV groups, n queries, m tokens.

    context      [B, H, n, D]
    importance   [B, KV, m]     probability that each token received, summed over queries and the heads of a group
    row_max      [B, H, n]      largest probability of each query: from the MSBs of K alone where `quantized`
    needs_lsb    bool [B, H, n] row_max lies below the threshold
    head_score   [B, H]         sum of |context| over queries and elements
    probability  [B, H, n, m]   before local value pruning
    """

    context: Any
    importance: Any
    row_max: Any
    needs_lsb: Any
    head_score: Any
    probability: Any


def attend(
    query: Any,
    key: Any,
    value: Any,
    policy: Policy = NO_PRUNING,
    *,
    seen: Any = None,
    heads: Any = None,
    quantized: bool = False,
) -> Attended:
    """Attention of query [B, H, n, D] over key and value [B, KV, m, D] with local value pruning.

    seen        bool [B, 1, n, m]: which tokens each query sees; one that sees none is not computed. None: all
    heads       bool [B, H]: the others are not computed. None: all
    quantized   numbers in the formats of the policy, LSBs of K only for queries that need them (section III-D)
    """
    import torch

    rough, key = _key_formats(key, policy) if quantized else (key, key)
    if quantized:
        query, value = _rounded(query, policy.query_bits), _rounded(value, policy.value_bits)
    probability = _softmax(query, rough, seen, heads)
    row_max = probability.amax(dim=-1)
    needs_lsb = (row_max < policy.lsb_threshold) & (row_max > 0)
    if not policy.key_lsb_bits:
        needs_lsb = torch.zeros_like(needs_lsb)
    if quantized and needs_lsb.any():
        probability = torch.where(needs_lsb[..., None], _softmax(query, key, seen, heads), probability)
    context = _by_group(_local(probability, policy.value_keep, seen), value)
    importance = probability.sum(dim=2).unflatten(1, (key.shape[1], -1)).sum(dim=2)
    return Attended(context, importance, row_max, needs_lsb, context.abs().sum(dim=(2, 3)), probability)


def _softmax(query: Any, key: Any, seen: Any, heads: Any) -> Any:
    """Probabilities [B, H, n, m], zeros for what is not computed."""
    scores = _by_group(query, key.transpose(-2, -1)) * query.shape[-1] ** -0.5
    if seen is not None:
        scores = scores.masked_fill(~seen, -inf)
    probability = scores.softmax(dim=-1)
    if seen is not None:
        probability = probability.masked_fill(~seen, 0)  # a row of -inf alone became NaN
    return probability if heads is None else probability * heads[:, :, None, None]


def _by_group(heads: Any, shared: Any) -> Any:
    """heads [B, H, n, a] times shared [B, KV, a, b]: the heads of a group as more rows, nothing is copied."""
    rows = heads.unflatten(1, (shared.shape[1], -1)).flatten(2, 3)
    return (rows @ shared).unflatten(2, (-1, heads.shape[2])).flatten(1, 2)


def _local(probability: Any, keep: float, seen: Any) -> Any:
    """Probabilities with zeros where the V vector of a query is dropped; they are not scaled up again."""
    if keep == 1:
        return probability
    import torch

    width = probability.shape[-1]
    visible = torch.full((1, 1, 1, 1), width) if seen is None else seen.sum(dim=-1, keepdim=True)
    count = torch.ceil(keep * visible.to(probability.device).double() - 1e-9).clamp(min=1)
    order = probability.argsort(dim=-1, descending=True, stable=True)
    dropped = (torch.arange(width, device=probability.device) >= count).expand_as(probability)
    return probability.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), 0)


def _codes(numbers: Any, bits: int) -> tuple[Any, Any]:
    """Codes and scale [B, heads, 1, 1], as `workloads.pruning.quantization`."""
    scale = numbers.abs().amax(dim=(-2, -1), keepdim=True) / largest_code(bits)
    scale = scale.masked_fill(scale == 0, 1)
    return (numbers / scale).round(), scale


def _rounded(numbers: Any, bits: int) -> Any:
    codes, scale = _codes(numbers, bits)
    return codes * scale


def _key_formats(key: Any, policy: Policy) -> tuple[Any, Any]:
    """K by its MSBs, and by all its bits."""
    codes, scale = _codes(key, policy.key_msb_bits + policy.key_lsb_bits)
    step = 2**policy.key_lsb_bits
    return (codes / step).floor() * step * scale, codes * scale


class PrunedAttention:
    """A hook `(layer, query, key, value) -> context` for a model that attends through it, layer after layer.

    query [B, H, n, D], key and value [B, KV, m, D] with all tokens so far, the n new ones last.  The call for
    layer 0 begins a step.  `state` holds scores and kept sets; `low_bits` and `rows` count the computed query
    rows that needed LSBs, and all.

    causal         query i sees the tokens up to m - n + i;  else all see all (an encoder)
    dense_prompt   step 0 keeps everything and only gathers scores, as in the released traces
    quantized      number formats and progressive quantization too
    """

    def __init__(
        self,
        policy: Policy,
        layers: int,
        *,
        causal: bool = True,
        dense_prompt: bool = True,
        quantized: bool = False,
    ) -> None:
        self.policy, self.layers = policy, layers
        self.causal, self.dense_prompt, self.quantized = causal, dense_prompt, quantized
        self.state: CascadeState | None = None
        self.low_bits = self.rows = 0

    def __call__(self, layer: int, query: Any, key: Any, value: Any) -> Any:
        """The context [B, H, n, D]; raises ValueError where the model does not begin with layer 0."""
        import torch

        if layer == 0:
            self._begin(query)
        state = self.state
        if state is None:
            raise ValueError(f"PrunedAttention: layer 0 must be the first, got {layer}")
        tokens, heads = state.enter(layer)
        tokens, heads = (torch.tensor(mask, device=query.device) for mask in (tokens, heads))
        new = query.shape[2]
        seen, asking = self._seen(tokens, new), tokens[:, -new:]
        result = attend(query, key, value, self.policy, seen=seen, heads=heads, quantized=self.quantized)
        scores = (result.importance.sum(dim=1), result.head_score, asking.sum(dim=1))
        state.observe(layer, *(one.detach().double().cpu().numpy() for one in scores))
        self.low_bits += int(result.needs_lsb.sum())
        self.rows += int((result.row_max > 0).sum())
        return result.context

    def _begin(self, query: Any) -> None:
        batch, heads, new, _ = query.shape
        if self.state is None:
            self.state = CascadeState(self.policy, self.layers, heads, batch)
        self.state.begin(new, pruning=self.state.step >= 0 or not self.dense_prompt)

    def _seen(self, tokens: Any, new: int) -> Any:
        """Bool [B, 1, n, m]: kept tokens, for kept queries."""
        import torch

        both = tokens[:, -new:, None] & tokens[:, None, :]
        if self.causal and new > 1:
            both = both & torch.ones_like(both[0]).tril(diagonal=both.shape[2] - new)
        return both[:, None]
