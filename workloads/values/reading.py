"""Reading value traces: layers, heads, operands, and what follows from them. No torch here."""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.trace import Trace
from workloads.values.significant import from_bits

Floats = NDArray[np.float64]
INPUT = ("absmax", "rms", "mean", "quantile", "kurtosis")
RANGES = ("min", "max", "span", "span_rms", "rms")
HEADER = ("layer", "K", "N", "|x| max", "|x| median", "x outlier", "x 99.9 %", "x kurtosis", "|w| max", "w outlier")
KV_HEADER = ("attention", "head", "K outlier", "K outlier before", "V outlier", "K KV4 SNR (dB)", "V KV4 SNR (dB)")


def layer_names(trace: Trace) -> list[str]:
    """Linear layers in the order in which they first ran. ValueError if this is no value trace."""
    if trace.made.get("kind") != "values" or "layers.name" not in trace.facts:
        raise ValueError(f"{trace.name}: must be a value trace with linear layers, got kind {trace.made.get('kind')!r}")
    return [str(name) for name in trace.facts["layers.name"]]


def layer_channels(trace: Trace, layer: str) -> dict[str, Floats]:
    """Facts of a linear layer: absmax, rms, mean, quantile, kurtosis of its input [K]; k_absmax, k_rms [K] and
    n_absmax, n_rms [N] of its weight. ValueError for a layer that is not there."""
    names, facts = layer_names(trace), trace.facts
    if layer not in names:
        near = get_close_matches(layer, names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{trace.name}: no linear layer {layer!r}{hint}")
    row = names.index(layer)
    source = _slice(facts["inputs.channels"], int(facts["layers.input"][row]))
    found = {name: facts[f"inputs.{name}"][source].astype(float) for name in INPUT}
    for side in ("k", "n"):
        mine = _slice(facts[f"layers.{side}"], row)
        found |= {f"{side}_{name}": facts[f"weights.{side}_{name}"][mine].astype(float) for name in ("absmax", "rms")}
    return found


def _slice(sizes: NDArray[Any], row: int) -> slice:
    start = int(sizes[:row].sum())
    return slice(start, start + int(sizes[row]))


def outlier_strength(absmax: Floats) -> float:
    """Largest over median channel; 0 where the median channel is dead."""
    median = float(np.median(absmax))
    return float(absmax.max()) / median if median else 0.0


def channel_table(trace: Trace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(header, rows) by linear layer: sizes; largest and median channel absmax, their ratio (outlier strength), the
    largest 99.9 % quantile of a channel and the kurtosis of the input; the same maximum and ratio for the weight."""
    return HEADER, [_channel_row(trace, row, name) for row, name in enumerate(layer_names(trace))]


def _channel_row(trace: Trace, row: int, name: str) -> tuple[Any, ...]:
    facts, found = trace.facts, layer_channels(trace, name)
    kurtosis = float(facts["inputs.layer_kurtosis"][facts["layers.input"][row]])
    absmax, weight = found["absmax"], found["k_absmax"]
    return (
        *(name, int(facts["layers.k"][row]), int(facts["layers.n"][row])),
        *(float(absmax.max()), float(np.median(absmax)), outlier_strength(absmax)),
        *(float(found["quantile"].max()), kurtosis, float(weight.max()), outlier_strength(weight)),
    )


def head_ranges(trace: Trace, kind: str, layer: int) -> dict[str, Floats]:
    """Ranges of "key" (as the cache holds it), "key_before" (its rotation) or "value" of one attention layer.

    min, max [KV, D]; span [KV, levels] quantiles of max - min of a token (`attention.LEVELS`); span_rms, rms [KV].
    ValueError if they were not recorded.
    """
    facts = trace.facts
    recorded = facts.get(f"attention.{kind}.recorded", np.zeros(0, bool))
    if not (0 <= layer < len(recorded) and recorded[layer]):
        raise ValueError(f"{trace.name}: no {kind!r} ranges of attention {layer}")
    heads = np.where(recorded, facts["attention.kv_heads"], 0)
    levels = len(facts[f"attention.{kind}.span"]) // int(heads.sum())
    width = {"min": facts["attention.size"], "max": facts["attention.size"], "span": np.full(len(heads), levels)}
    mine = {name: facts[f"attention.{kind}.{name}"] for name in RANGES}
    cut = {name: x[_slice(heads * width.get(name, 1), layer)].astype(float) for name, x in mine.items()}
    count = int(heads[layer])
    return {name: x.reshape(count, -1) if name in width else x for name, x in cut.items()}


def head_outliers(ranges: dict[str, Floats]) -> Floats:
    """Outlier strength of each head [KV]: largest over median channel absmax."""
    absmax = np.maximum(np.abs(ranges["min"]), np.abs(ranges["max"]))
    return np.array([outlier_strength(head) for head in absmax])


def kv4_noise(ranges: dict[str, Floats], bits: int = 4) -> Floats:
    """Root mean square error [KV] that quantizing each token and head to its own range leaves: step / sqrt(12).

    The step is span / (2^bits - 1); uniform errors, a real zero point and an exact scale are assumed.
    """
    return ranges["span_rms"] / (2**bits - 1) / np.sqrt(12)


def kv_table(trace: Trace) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(header, rows) by attention layer and KV head: outlier strengths, and the signal over the noise of KV4."""
    count = len(trace.facts.get("attention.heads", ()))
    return KV_HEADER, [row for layer in range(count) for row in _kv_rows(trace, layer)]


def _kv_rows(trace: Trace, layer: int) -> Iterator[tuple[Any, ...]]:
    key, value = head_ranges(trace, "key", layer), head_ranges(trace, "value", layer)
    has_before = "attention.key_before.recorded" in trace.facts
    before = head_outliers(head_ranges(trace, "key_before", layer)) if has_before else [None] * len(key["rms"])
    columns = (head_outliers(key), before, head_outliers(value), _signal(key), _signal(value))
    for head, cells in enumerate(zip(*columns, strict=True)):
        yield (layer, head, *(None if cell is None else float(cell) for cell in cells))


def _signal(ranges: dict[str, Floats]) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 20 * np.log10(ranges["rms"] / kv4_noise(ranges))


def operands(trace: Trace, layer: str) -> dict[str, Floats]:
    """Exact operands of a linear layer (input [rows, K], weight [N, K], bias [N] if any) or of "attention.<number>"
    (query [H, n, D], key and value [KV, n, D]). ValueError if they are not stored."""
    names = trace.made.get("operands", {})
    if layer not in names:
        raise ValueError(f"{trace.name}: operands must be of one of {', '.join(names) or 'no layer'}, got {layer!r}")
    return {name: from_bits(trace.facts[fact], trace.made["operand_form"]) for name, fact in names[layer].items()}


def importances(trace: Trace) -> Iterator[tuple[int, int, Floats]]:
    """(input, attention layer, float64 [heads, keys]) of each recorded call: probability that each key received."""
    facts, start = trace.facts, 0
    for source, layer, heads, keys in zip(
        *(facts[f"importance.{name}"].tolist() for name in ("input", "layer", "heads", "keys")), strict=True
    ):
        end = start + heads * keys
        yield source, layer, facts["importance.values"][start:end].astype(float).reshape(heads, keys)
        start = end
