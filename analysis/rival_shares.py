"""How many K vectors A3's search and MNNFast's threshold leave on trained attention: MiniLM's own Q and K.

    python -m analysis.rival_shares

The specs of both machines state such shares, since no workload records the values of Q and K. Needs torch.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dataflow.a3_search import candidates, post_scored

Floats = NDArray[np.float64]
SEARCHES = {"n/2": (2, 5), "n/8": (8, 10)}  # unverified: conservative and aggressive, with T in per cent
THRESHOLDS = (0.1, 0.01)
TEXTS, QUERIES = 4, 8  # every 4th text, about 8 queries a head


def heads() -> Iterator[tuple[Floats, Floats]]:
    """Q (scaled as for the softmax) and K, [n, D], of every layer and head."""
    import torch

    from workloads.minilm import load_encoder
    from workloads.texts import load_texts

    bert, tokenizer, _ = load_encoder()
    seen: list[tuple[Any, Any]] = []

    def note(module: Any, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        seen.append((module, given[0] if given else named["hidden_states"]))

    for layer in bert.encoder.layer:
        layer.attention.self.register_forward_pre_hook(note, with_kwargs=True)
    with torch.no_grad():
        for text in load_texts()[::TEXTS]:
            bert(**tokenizer(text["text"], return_tensors="pt", truncation=True, max_length=256))
        for module, hidden in seen:
            query, key = (project(hidden)[0].numpy() for project in (module.query, module.key))
            count = module.num_attention_heads
            for q, k in zip(np.split(query, count, axis=1), np.split(key, count, axis=1), strict=True):
                yield q / np.sqrt(q.shape[1]), k


def shares(query: Floats, key: Floats) -> dict[str, float]:
    """Shares of one query [D] over keys [n, D], by name; `mass`: probability that the candidates hold."""
    scores = key @ query
    weights = np.exp(scores - scores.max())
    probability, found = weights / weights.sum(), {}
    for name, (part, percent) in SEARCHES.items():
        rows = candidates(query, key, max(1, len(key) // part))
        found[f"A3 M = {name}: candidates / keys"] = len(rows) / len(key)
        found[f"A3 M = {name}: probability of candidates"] = float(probability[rows].sum())
        if len(rows):
            found[f"A3 T = {percent} %: kept / candidates"] = len(post_scored(scores[rows], percent)) / len(rows)
    return found | {f"MNNFast {limit:g}: V above it": float((probability >= limit).mean()) for limit in THRESHOLDS}


def measured() -> dict[str, list[float]]:
    """All shares of all sampled queries, by name."""
    all_shares: dict[str, list[float]] = {}
    for query, key in heads():
        for row in query[:: max(1, len(query) // QUERIES)]:
            for name, value in shares(row, key).items():
                all_shares.setdefault(name, []).append(value)
    return all_shares


if __name__ == "__main__":
    for name, values in measured().items():
        low, high = np.quantile(values, (0.05, 0.95))
        print(f"{name:42} mean {np.mean(values):.3f}, 5 % {low:.3f}, 95 % {high:.3f}, {len(values)} queries")
