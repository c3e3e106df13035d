"""What pruning does to a model's answers: MiniLM's embeddings, the decoder's bits per byte. torch inside functions.

Pruned and dense runs see the same texts; intervals come from a paired bootstrap: the texts (or windows of text)
are drawn again with replacement, each with both its results.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.policy import Policy

Floats = NDArray[np.float64]
Progress = Callable[[str], None]
DRAWS = 2000
_FORMATS = {"query_bits", "key_msb_bits", "key_lsb_bits", "value_bits", "lsb_threshold"}
POLICIES: dict[str, Policy] = {
    "tokens 0.8": Policy(token_keep=0.8),
    "tokens 0.5": Policy(token_keep=0.5),
    "tokens 0.3": Policy(token_keep=0.3),
    "tokens 0.5, 32 recent": Policy(token_keep=0.5, token_recent=32),
    "tokens 0.3, 32 recent": Policy(token_keep=0.3, token_recent=32),
    "threshold 0.002": Policy(token_threshold=0.002),
    "threshold 0.01": Policy(token_threshold=0.01),
    "threshold 0.1": Policy(token_threshold=0.1),
    "heads 0.75": Policy(head_keep=0.75),
    "values 0.5": Policy(value_keep=0.5),
    "values 0.2": Policy(value_keep=0.2),
    "12 bits": Policy(key_msb_bits=12),
    "8+4 bits": Policy(key_msb_bits=8, key_lsb_bits=4),
    "6+4 bits": Policy(key_msb_bits=6, key_lsb_bits=4),
    "4+4 bits": Policy(key_msb_bits=4, key_lsb_bits=4),
    "tokens 0.5, values 0.5, 6+4 bits": Policy(token_keep=0.5, value_keep=0.5, key_msb_bits=6, key_lsb_bits=4),
}


def has_formats(name: str, policy: Policy) -> bool:
    """Whether the number formats are applied: where a policy (or its name) is about bits."""
    return "bits" in name or bool(policy.model_fields_set & _FORMATS)


def can_train(policy: Policy) -> bool:
    """Whether fine-tuning has the policy's pruning in its forward pass, and there is any."""
    return not policy.token_threshold and (policy.token_keep, policy.head_keep, policy.value_keep) != (1, 1, 1)


def ranks(values: Floats) -> Floats:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    return (last - (count - 1) / 2)[place]


def spearman(one: Floats, other: Floats) -> float:
    """Rank correlation, -1..1; NaN where one of them is constant."""
    a, b = (ranks(values) - (len(values) - 1) / 2 for values in (one, other))
    size = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / size) if size else float("nan")


def bootstrap(values: Floats, draws: int = DRAWS, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the mean: rows are drawn with replacement. For pairs: hand in their differences."""
    pick = np.random.default_rng(seed).integers(0, len(values), (draws, len(values)))
    low, high = np.percentile(values[pick].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def similarities(embeddings: Floats) -> Floats:
    """Cosine of each pair of rows."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return (unit @ unit.T)[np.triu_indices(len(unit), 1)]


def embedding_fidelity(dense: Floats, pruned: Floats) -> dict[str, float]:
    """Embeddings [texts, width]: cosine with the dense one (mean, its interval, worst), and Spearman's rank
    correlation of the similarities of all pairs of texts."""
    cosine = (dense * pruned).sum(axis=1) / (np.linalg.norm(dense, axis=1) * np.linalg.norm(pruned, axis=1))
    low, high = bootstrap(cosine)
    return {
        "cosine": float(cosine.mean()),
        "cosine_low": low,
        "cosine_high": high,
        "cosine_worst": float(cosine.min()),
        "rank_correlation": spearman(similarities(dense), similarities(pruned)),
    }


def minilm_fidelity(policies: Mapping[str, Policy], progress: Progress = lambda _: None) -> list[dict[str, Any]]:
    """One row per policy over the shipped texts; needs torch and transformers.

    Beside `embedding_fidelity`: `kept` is the mean share of tokens in a layer, `lsb_rate` the share of query rows
    whose low bits are fetched (NaN where there are none to fetch).
    """
    from workloads.minilm import load_encoder
    from workloads.texts import load_texts

    bert, tokenizer, _ = load_encoder()
    ids = [np.array(tokenizer(text["text"])["input_ids"]) for text in load_texts()]
    dense = _embed(bert, ids, Policy(), False)["embeddings"]
    rows = []
    for name, policy in policies.items():
        progress(name)
        run = _embed(bert, ids, policy, has_formats(name, policy))
        rows.append({"policy": name, **embedding_fidelity(dense, run.pop("embeddings")), **run})
    return rows


def _embed(bert: Any, ids: list[NDArray[Any]], policy: Policy, quantized: bool) -> dict[str, Any]:
    from workloads.encoder import run_encoder

    runs = [run_encoder(bert, text, policy, quantized=quantized) for text in ids]
    low_bits = np.concatenate([layer.needs_lsb.ravel() for run in runs for layer in run.layers])
    kept = [len(layer.tokens) / len(text) for run, text in zip(runs, ids, strict=True) for layer in run.layers]
    return {
        "embeddings": np.stack([run.embedding for run in runs]),
        "kept": float(np.mean(kept)),
        "lsb_rate": float(low_bits.mean()) if quantized and policy.key_lsb_bits else float("nan"),
    }


@dataclass(frozen=True)
class Windows:
    """Where the decoder is scored: `count` windows of `prompt` bytes, then `generated` bytes one at a time."""

    count: int = 48
    prompt: int = 384
    generated: int = 64

    def cut(self, text: bytes) -> Any:
        """int64 [count, prompt + generated + 1], spread evenly; ValueError where the text is shorter than one."""
        import torch

        size = self.prompt + self.generated + 1
        if len(text) < size:
            raise ValueError(f"windows: need a text of at least {size} bytes, got {len(text)}")
        starts = np.linspace(0, len(text) - size, self.count).astype(np.int64)
        data = np.frombuffer(text, np.uint8)
        return torch.from_numpy(data[starts[:, None] + np.arange(size)].astype(np.int64))


def generated_bits(decoder: Any, windows: Any, prompt: int, policy: Policy, quantized: bool) -> dict[str, Any]:
    """Bits per byte of each window, teacher forced: the prompt dense, then one byte at a time under the policy.

    `bits` float64 [windows]; `kept`: mean share of tokens over the layers at the last byte; `lsb_rate` as above.
    """
    import torch

    from workloads.pruning.torch_attention import PrunedAttention

    hook = PrunedAttention(policy, decoder.shape.layers, quantized=quantized)
    windows = windows.to(next(decoder.parameters()).device)
    cache: list[Any] = []
    bits = np.zeros(len(windows))
    steps = windows.shape[1] - 1 - prompt
    with torch.inference_mode():
        decoder(windows[:, :prompt], cache, hook)
        hook.low_bits = hook.rows = 0  # of the generated bytes alone
        for place in range(prompt, prompt + steps):
            logits = decoder(windows[:, place : place + 1], cache, hook)[:, -1].double()
            bits += torch.nn.functional.cross_entropy(logits, windows[:, place + 1], reduction="none").cpu().numpy()
    return {
        "bits": bits / steps / np.log(2),
        "kept": float(np.mean([mask.mean() for mask in hook.state.tokens])) if hook.state else 1.0,
        "lsb_rate": hook.low_bits / hook.rows if quantized and policy.key_lsb_bits else float("nan"),
    }


def bits_fidelity(dense: Floats, pruned: Floats) -> dict[str, float]:
    """Bits per byte of each window: mean, what is more than dense with its paired interval, perplexity over dense."""
    low, high = bootstrap(pruned - dense)
    more = float((pruned - dense).mean())
    return {
        "bits_per_byte": float(pruned.mean()),
        "more_bits": more,
        "more_bits_low": low,
        "more_bits_high": high,
        "perplexity_ratio": 2**more,
    }


def decoder_fidelity(
    decoder: Any,
    text: bytes,
    policies: Mapping[str, Policy],
    windows: Windows,
    fine_tuning_steps: int = 0,
    progress: Progress = lambda _: None,
) -> list[dict[str, Any]]:
    """One row per policy, and with fine-tuning steps a second one per policy that `can_train`.

    With fine-tuning the first half of the text is trained on and the second scored, with or without it; a
    fine-tuned row is compared with the dense model after the same training without pruning.
    """
    scored = text[len(text) // 2 :] if fine_tuning_steps else text
    tokens = windows.cut(scored)
    study = _Study(decoder, text[: len(text) // 2], tokens, windows, fine_tuning_steps)
    rows = []
    for trained in (False, True) if fine_tuning_steps else (False,):
        progress("dense" + (", fine-tuned" if trained else ""))
        dense = study.run("dense", Policy(), trained)["bits"]
        rows.append({"policy": "dense", "fine_tuned": trained, **bits_fidelity(dense, dense), "kept": 1.0})
        for name, policy in policies.items():
            if not trained or can_train(policy):
                progress(name + (", fine-tuned" if trained else ""))
                run = study.run(name, policy, trained)
                rows.append({"policy": name, "fine_tuned": trained, **bits_fidelity(dense, run.pop("bits")), **run})
    return rows


@dataclass(frozen=True)
class _Study:
    decoder: Any
    training: bytes
    tokens: Any
    windows: Windows
    steps: int

    def run(self, name: str, policy: Policy, trained: bool) -> dict[str, Any]:
        from workloads.pruning.fine_tuning import fine_tune

        size = {"prompt": self.windows.prompt, "generated": self.windows.generated}
        model = fine_tune(self.decoder, self.training, policy, steps=self.steps, **size) if trained else self.decoder
        return generated_bits(model, self.tokens, self.windows.prompt, policy, has_formats(name, policy))
