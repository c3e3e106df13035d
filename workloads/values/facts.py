"""From the recorder's float64 statistics to the facts of a trace, rounded once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.values.channels import Channels
from workloads.values.significant import SignificantRounding

Facts = dict[str, NDArray[Any]]


@dataclass
class Linear:
    """A linear layer: weight [N, K], and the statistics of its input once it ran."""

    weight: NDArray[np.float64]
    channels: Channels | None = None


def rounded(facts: Facts, rounding: SignificantRounding, half: Sequence[str] = ()) -> Facts:
    """Float64 facts in the stored formats; the names in `half` as float16, which is half the size."""
    wide = {name: x for name, x in facts.items() if x.dtype == np.float64}
    stored = {
        name: rounding.to_float(x, np.float16) if name in half else rounding.to_significant(x)
        for name, x in wide.items()
    }
    return {**facts, **stored}


def linear_facts(linears: Mapping[str, Linear], rounding: SignificantRounding) -> Facts:
    """Columns by layer, by distinct input, and the channels of all of them flat."""
    if not linears:
        return {}
    places, inputs = _distinct([layer.channels for layer in linears.values() if layer.channels is not None])
    facts: Facts = {
        "layers.name": np.array(list(linears)),
        "layers.n": np.array([layer.weight.shape[0] for layer in linears.values()], np.int64),
        "layers.k": np.array([layer.weight.shape[1] for layer in linears.values()], np.int64),
        "layers.input": np.array(places, np.int64),
        "inputs.channels": np.array([len(one.total) for one in inputs], np.int64),
        "inputs.rows": np.array([one.rows for one in inputs], np.int64),
    }
    statistics = ("absmax", "rms", "mean", "quantile", "kurtosis")
    wide: Facts = {f"inputs.{name}": np.concatenate([getattr(one, name) for one in inputs]) for name in statistics}
    wide["inputs.layer_kurtosis"] = np.array([one.layer_kurtosis for one in inputs])
    return facts | rounded({**wide, **_weight_facts([layer.weight for layer in linears.values()])}, rounding)


def _weight_facts(weights: Sequence[NDArray[np.float64]]) -> Facts:
    """absmax and rms by input (k) and output (n) channel of weights [N, K]."""
    reduced = {
        "absmax": lambda weight, axis: np.abs(weight).max(axis=axis),
        "rms": lambda weight, axis: np.sqrt((weight * weight).mean(axis=axis)),
    }
    return {
        f"weights.{side}_{name}": np.concatenate([reduce(weight, axis) for weight in weights])
        for side, axis in (("k", 0), ("n", 1))
        for name, reduce in reduced.items()
    }


def _distinct(all_channels: Sequence[Channels]) -> tuple[list[int], list[Channels]]:
    """(index into the second by layer, the distinct ones): layers that read the same tensor share its facts."""
    kept: dict[bytes, int] = {}
    inputs: list[Channels] = []
    places = []
    for one in all_channels:
        key = one.total.tobytes() + one.fourth.tobytes() + one.largest.tobytes()
        if key not in kept:
            kept[key] = len(inputs)
            inputs.append(one)
        places.append(kept[key])
    return places, inputs
