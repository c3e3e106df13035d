"""Exact operands of chosen layers, as bit patterns of a 16-bit format: what a kernel is checked against.

Outputs are not stored: products of two such numbers are exact in float64, and their sum is as exact as the
checker wants it (`math.fsum` gives the correctly rounded one), so that a stored output would add nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.values.significant import SignificantRounding

FORMATS = ("float16", "bfloat16")


@dataclass(frozen=True)
class Operands:
    """Which operands are kept; each comes from the first input with enough rows.

    layers     glob patterns of linear layers: `tokens` rows of their input, weight and bias
    outputs    most output channels (rows of the weight) that are kept of a layer, the first ones; None: all
    attention  numbers of attention layers: Q, K and V of the first `attention_tokens` tokens, all heads
    form       "float16" or "bfloat16"; everything is rounded to it once, to nearest even
    """

    layers: Sequence[str] = ()
    tokens: int = 32
    outputs: int | None = None
    attention: Sequence[int] = ()
    attention_tokens: int = 128
    form: str = "float16"

    def __post_init__(self) -> None:
        if self.form not in FORMATS:
            raise ValueError(f"Operands: form must be one of {', '.join(FORMATS)}, got {self.form!r}")
        if min(self.tokens, self.attention_tokens, self.outputs or 1) < 1:
            raise ValueError("Operands: tokens, outputs and attention_tokens must be >= 1")

    def wants(self, layer: str) -> bool:
        """Whether a pattern names this linear layer."""
        return any(fnmatchcase(layer, pattern) for pattern in self.layers)


@dataclass
class OperandKeeper:
    """Holds the operands in float64 until the run is over."""

    choice: Operands
    linears: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    attentions: dict[int, dict[str, NDArray[np.float64]]] = field(default_factory=dict)

    def linear(self, layer: str, x: NDArray[np.float64], weight: Any, bias: Any) -> None:
        """Offer a layer: x [rows, K], weight [N, K], bias [N] or None."""
        if layer in self.linears or len(x) < self.choice.tokens or not self.choice.wants(layer):
            return
        given = {"input": x[: self.choice.tokens], "weight": _numpy(weight)[: self.choice.outputs]}
        if bias is not None:
            given["bias"] = _numpy(bias)[: self.choice.outputs]
        self.linears[layer] = {name: values.copy() for name, values in given.items()}

    def attention(self, layer: int, query: Any, key: Any, value: Any) -> None:
        """Offer an attention: query [B, H, n, D], key and value [B, KV, n, D]; the first of the batch is kept."""
        count = self.choice.attention_tokens
        if layer in self.attentions or layer not in self.choice.attention or query.shape[-2] < count:
            return
        names = {"query": query, "key": key, "value": value}
        self.attentions[layer] = {name: _numpy(x[0, :, :count]).copy() for name, x in names.items()}

    def facts(self, rounding: SignificantRounding) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """(bit patterns by name, what each layer's facts are called). ValueError: a choice that no input met."""
        self._check()
        facts: dict[str, NDArray[Any]] = {}
        names: dict[str, Any] = {}
        for layer, operands in {**self.linears, **{str(n): x for n, x in self.attentions.items()}}.items():
            prefix = f"operand.{layer}" if layer in self.linears else f"operand.attention.{layer}"
            names[prefix.removeprefix("operand.")] = {
                name: _shared(facts, f"{prefix}.{name}", rounding.to_bits(values, self.choice.form))
                for name, values in operands.items()
            }
        return facts, names

    def _check(self) -> None:
        for pattern in self.choice.layers:
            if not any(fnmatchcase(layer, pattern) for layer in self.linears):
                raise ValueError(f"Operands: no linear layer {pattern!r} had {self.choice.tokens} rows of input")
        for number in self.choice.attention:
            if number not in self.attentions:
                raise ValueError(f"Operands: no attention {number} had {self.choice.attention_tokens} queries")


def _shared(facts: dict[str, NDArray[Any]], name: str, bits: NDArray[np.uint16]) -> str:
    """Name of the fact with these bits: layers with the same input share it."""
    for known, values in facts.items():
        if values.shape == bits.shape and np.array_equal(values, bits):
            return known
    facts[name] = bits
    return name


def _numpy(tensor: Any) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().double().cpu().numpy())
