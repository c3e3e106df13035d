"""A sentence encoder whole, quantized: its embeddings and the order of its similarities against the 16-bit model's.

all-MiniLM-L6-v2 with every linear layer quantized (36 of them; K = 384 is 6 groups of 64). Scored: all 32 shipped
texts, 496 pairs. Calibrated on other text: pieces of the decoder's held-out text (documentation of Python packages).
Left out: quantized embeddings, norms and attention products, which stay in float32.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.quality.measures import kernel_of
from analysis.quality.recipes import Recipe
from workloads.fidelity import embedding_fidelity, spearman

Floats = NDArray[np.float64]
Progress = Callable[[int, int, str], None]
RECIPES = (
    *("rtn_int4", "gptq_int4", "svd_int4", "smooth_int4", "quarot_int4"),
    *("svdquant_int4_r16", "svdquant_int4", "svdquant_int4_gptq"),
    *("rtn_nvfp4", "smooth_nvfp4", "svdquant_nvfp4", "svdquant_nvfp4_gptq"),
    *("rtn_w8a8", "smoothquant_w8a8", "rtn_w4a16", "awq_w4a16", "nf4"),
)
NAIVE = "rtn_int4"
PIECES, CHARACTERS, TOKENS, DRAWS = 48, 600, 128, 1000


def encoder_quality(
    recipes: Mapping[str, Recipe],
    kernels: bool = False,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = lambda *_: None,
) -> Iterator[dict[str, Any]]:
    """A row for the model in float16 and one for each recipe; with `kernels` a second one in the kernels' arithmetic.

    cosine: mean over texts of the one with the dense embedding; rank_correlation: Spearman's, of the cosines of all
    pairs of texts; their 95 % intervals by bootstrap over texts; worst_layer, mean_layer_error: relative output error
    on calibration rows. Float32 is the dense model. Needs torch, transformers and the encoder's weights.
    """
    import torch

    from gpu_kernels.models import kernel_model
    from workloads.minilm import load_encoder
    from workloads.quantization.layers import use_kernel
    from workloads.quantization.quantize import quantize
    from workloads.texts import load_texts

    bert, tokenizer, _ = load_encoder()
    bert = bert.float().to(device)
    scored = [_ids(tokenizer, text["text"], None) for text in load_texts()]
    pieces = [_ids(tokenizer, text, TOKENS) for text in calibration_texts()]

    def run(model: Any) -> None:
        for ids in pieces:
            model(ids.to(device))

    dense = embeddings(bert, scored)
    yield {"recipe": "float16", "arithmetic": "fake", **_scores(dense, embeddings(_rounded(bert), scored), seed)}
    for name, recipe in recipes.items():
        with torch.no_grad():
            found = quantize(bert, recipe.build(), run, form="float16", seed=seed, progress=_told(progress, name))
        errors = [one.error for one in found.report if one.error is not None]
        layers = {"layer_error": float(np.mean(np.sqrt(errors))), "worst_layer_error": float(np.sqrt(max(errors)))}
        yield {"recipe": name, "arithmetic": "fake", **_scores(dense, embeddings(found.model, scored), seed), **layers}
        if kernels and all(kernel_of(one.kind) for one in found.report):
            model = use_kernel(found.model, kernel_model)
            yield {"recipe": name, "arithmetic": "kernel", **_scores(dense, embeddings(model, scored), seed), **layers}


def _told(progress: Progress, name: str) -> Progress:
    return lambda done, total, layer: progress(done, total, f"{name}: {layer}")


def calibration_texts(pieces: int = PIECES, characters: int = CHARACTERS) -> list[str]:
    """Pieces of the decoder's held-out text, evenly spread; none of it is scored."""
    from workloads.decoder import heldout_text

    text = heldout_text().decode("utf-8", errors="ignore")
    return [text[place * len(text) // pieces :][:characters] for place in range(pieces)]


def _ids(tokenizer: Any, text: str, longest: int | None) -> Any:
    import torch

    return torch.tensor(tokenizer(text, truncation=longest is not None, max_length=longest)["input_ids"])[None]


def embeddings(model: Any, texts: Sequence[Any]) -> Floats:
    """Mean over the tokens of the last hidden states, of length 1: [texts, width]."""
    import torch

    device = next(model.parameters()).device
    with torch.no_grad():
        means = [model(ids.to(device)).last_hidden_state[0].double().mean(0).cpu().numpy() for ids in texts]
    found = np.stack(means)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _rounded(model: Any) -> Any:
    """A copy with float16 weights; activations stay float32."""
    import copy

    found = copy.deepcopy(model)
    return found.half().float()


def _scores(dense: Floats, found: Floats, seed: int) -> dict[str, float]:
    low, high = rank_interval(dense, found, seed)
    return {**embedding_fidelity(dense, found), "rank_low": low, "rank_high": high}


def rank_interval(dense: Floats, found: Floats, seed: int = 0, draws: int = DRAWS) -> tuple[float, float]:
    """95 % interval of the rank correlation: texts drawn with replacement; pairs of a text with itself do not count."""
    random, count = np.random.default_rng(seed), len(dense)
    one, other = _square(dense), _square(found)
    place = np.triu_indices(count, 1)
    values = []
    for _ in range(draws):
        pick = random.integers(0, count, count)
        pairs = pick[place[0]], pick[place[1]]
        distinct = pairs[0] != pairs[1]
        first, second = (matrix[pairs][distinct] for matrix in (one, other))
        values.append(spearman(first, second))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _square(unit: Floats) -> Floats:
    return np.asarray(unit @ unit.T)
