"""The shipped value traces: all-MiniLM-L6-v2 on 32 docstrings, and our decoder on text it was not trained on."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from workloads.minilm import HUB_NAME, load_encoder
from workloads.rounding import NEAR
from workloads.trace import Trace
from workloads.trace_file import trace_bytes, write_trace
from workloads.values.channels import QUANTILE
from workloads.values.operands import Operands
from workloads.values.recorder import Progress, record_values

WINDOWS, WINDOW = 16, 1024  # the decoder's inputs: so many stretches of the held-out text, in bytes


@dataclass(frozen=True)
class ValuesSummary:
    """What an export came to; `near_ties` counts values within 1e-12 (relative) of a rounding boundary."""

    path: Path
    name: str
    inputs: int
    tokens: int
    layers: int
    file_bytes: int
    values: int
    near_ties: int
    torch_version: str

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.inputs} inputs, {self.tokens} tokens, {self.layers} linear layers, "
            f"{self.file_bytes} bytes; {self.near_ties} of {self.values} rounded values lie within {NEAR} of a "
            f"rounding boundary; torch {self.torch_version}"
        )


@dataclass(frozen=True)
class _Source:
    """What is run: the module, its inputs [1, tokens] and how it is recorded."""

    module: Any
    inputs: Sequence[Any]
    model: Mapping[str, Any]
    text: str
    operands: Operands
    keys_before: str | None = None
    importance_inputs: int | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


def export_values(
    name: str, path: str | Path, weights: str | None = None, progress: Progress | None = None
) -> ValuesSummary:
    """Run "minilm" or "decoder" and write its value trace.

    weights: a local folder or hub name (minilm), or a safetensors file of `workloads.decoder` (decoder); None
    takes those that the loaders find. ValueError: an unknown name, weights that cannot be loaded. ImportError
    without torch (and transformers, for minilm).
    """
    import torch

    if name not in NAMES:
        near = get_close_matches(name, NAMES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"export_values: name must be one of {', '.join(NAMES)}, got {name!r}{hint}")
    source = _SOURCES[name](weights)
    trace, rounding = _trace(name, source, progress)
    write_trace(trace, path)
    return ValuesSummary(
        path=Path(path),
        name=trace.name,
        inputs=len(source.inputs),
        tokens=sum(one.shape[1] for one in source.inputs),
        layers=len(trace.facts["layers.name"]),
        file_bytes=len(trace_bytes(trace)),
        values=rounding.values,
        near_ties=rounding.near_ties,
        torch_version=torch.__version__,
    )


def _trace(name: str, source: _Source, progress: Progress | None) -> tuple[Trace, Any]:
    values = record_values(
        source.module,
        source.inputs,
        keys_before=source.keys_before,
        importance_inputs=source.importance_inputs,
        operands=source.operands,
        progress=progress,
    )
    made = {**_made(source), **values.notes}
    return Trace(f"{name}_values", source.model, made, {}, values.facts), values.rounding


def _made(source: _Source) -> dict[str, Any]:
    """How the trace came about; nothing here depends on the machine or on library versions."""
    return {
        "kind": "values",
        "weights_sha256": _weights_digest(source.module),
        "inputs": source.text,
        "tokens": [one.shape[1] for one in source.inputs],
        "computed": "float64 on one thread, batch 1, no padding, no quantization; attention as scores, softmax, sums",
        "statistics": "over all tokens of all inputs; channels are columns of the input, or columns (k) and rows (n) "
        "of the weight",
        "quantile": f"{float(QUANTILE):.1%} of |x| of each channel: nearest rank, exact",
        "kurtosis": "mean(x^4) / mean(x^2)^2 about zero",
        "rounding": "nearest even, once: statistics to 11 significant bits with the exponents of float32, importances "
        "to float16, operands to the bits of operand_form",
        "operand_choice": asdict(source.operands),
        "importance_inputs": source.importance_inputs or len(source.inputs),
        **source.more,
    }


def _weights_digest(module: Any) -> str:
    """SHA-256 of the weights as float32, by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.named_parameters()):
        digest.update(name.encode())
        digest.update(weight.detach().float().numpy().astype("<f4").tobytes())
    return digest.hexdigest()


def _minilm(weights: str | None) -> _Source:
    """The encoder on the shipped texts."""
    import torch

    from workloads.texts import load_texts

    bert, tokenizer, _ = load_encoder(weights)
    bert.set_attn_implementation("sdpa")
    ids = [torch.tensor(tokenizer(text["text"])["input_ids"])[None] for text in load_texts()]
    config = bert.config
    sizes = {
        "layers": config.num_hidden_layers,
        "heads": config.num_attention_heads,
        "kv_heads": config.num_attention_heads,
        "head_size": config.hidden_size // config.num_attention_heads,
        "hidden": config.hidden_size,
        "intermediate": config.intermediate_size,
    }
    names = ("attention.self.query", "intermediate.dense", "output.dense")
    return _Source(
        bert,
        ids,
        {"name": weights or HUB_NAME, **sizes},
        "docstrings of Python's standard library (PSF License 2), workloads/data/minilm_texts.json",
        Operands([f"encoder.layer.0.{name}" for name in names], outputs=128, attention=(0,), form="float16"),
        importance_inputs=8,
    )


def _decoder(weights: str | None) -> _Source:
    """The decoder on stretches of the held-out text, evenly spread."""
    from workloads.decoder import heldout_text, load_decoder

    decoder, text = load_decoder(weights), heldout_text()
    starts = [index * (len(text) - WINDOW) // (WINDOWS - 1) for index in range(WINDOWS)]
    names = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
    middle = f"model.layers.{decoder.shape.layers // 2}"
    return _Source(
        decoder,
        [_bytes(text[start : start + WINDOW]) for start in starts],
        {"name": "decoder", **asdict(decoder.shape)},
        f"{WINDOWS} stretches of {WINDOW} bytes, evenly spread over the held-out text, workloads/data/heldout.txt.xz",
        Operands(
            [f"{middle}.{name}" for name in (*names, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")],
            outputs=256,
            attention=(decoder.shape.layers // 2,),
            form="bfloat16",
        ),
        keys_before="*.k_proj",
        importance_inputs=4,
        more={"starts": starts},
    )


def _bytes(text: bytes) -> Any:
    import torch

    return torch.frombuffer(bytearray(text), dtype=torch.uint8).long()[None]


_SOURCES: Mapping[str, Callable[[str | None], _Source]] = {"minilm": _minilm, "decoder": _decoder}
NAMES = tuple(_SOURCES)
