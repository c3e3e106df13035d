"""`record_values`: watches every linear layer, 1x1 convolution and attention of a module while it runs.

The operators are seen below the modules, under a `TorchDispatchMode`, where a linear layer is one operator
whatever class called it and its weight tells its name. torch is imported inside functions.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workloads.minilm import one_thread
from workloads.values.attention import AttentionLayer, Importance, attend, importance_facts, layer_facts
from workloads.values.channels import TAIL, Channels
from workloads.values.facts import Facts, Linear, linear_facts, rounded
from workloads.values.operands import OperandKeeper, Operands
from workloads.values.significant import SignificantRounding

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Values:
    """Facts of a run, rounded (`docs/values.md`), and notes on them for the trace's `made`.

    notes   operands (names of facts by layer), operand_form, unnamed (calls of linear operators whose weight is no
            parameter of the module: not recorded), idle (linear layers that never ran)
    """

    facts: Facts
    notes: Mapping[str, Any]
    rounding: SignificantRounding


@dataclass
class _Recorder:
    names: Mapping[int, str]
    pattern: str
    keys_before: str | None
    importance_inputs: int | None
    tail: int
    operands: OperandKeeper
    linears: dict[str, Linear] = field(default_factory=dict)
    attentions: list[AttentionLayer] = field(default_factory=list)
    importance: list[Importance] = field(default_factory=list)
    unnamed: int = 0
    source: int = -1
    turn: int = 0
    key_before: Any = None
    last: tuple[Any, NDArray[np.float64], Channels] | None = None

    def begin(self) -> None:
        """The next input starts."""
        self.source, self.turn, self.last, self.key_before = self.source + 1, 0, None, None

    def run(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Run one operator, and look at it if it is a linear layer, a 1x1 convolution or an attention."""
        name = str(func)
        if func._schema.is_mutable:
            self.last = None  # the tensor may be the one that is written
        if name == "aten.scaled_dot_product_attention.default":
            return self._attention(args, kwargs)
        result = func(*args, **kwargs)
        if name == "aten.linear.default":
            self._linear(args[0], args[1], args[2] if len(args) > 2 else kwargs.get("bias"), result)
        elif name == "aten.conv2d.default" and _is_pointwise(args, kwargs):
            stride = (args[3] if len(args) > 3 else kwargs.get("stride", 1)) or 1
            rows = _strided(args[0], stride).movedim(-3, -1)
            self._linear(rows, args[1].flatten(1), args[2] if len(args) > 2 else kwargs.get("bias"), None, args[1])
        return result

    def _linear(self, x: Any, weight: Any, bias: Any, result: Any, parameter: Any = None) -> None:
        layer = self.names.get(id(weight if parameter is None else parameter))
        if layer is None:
            self.unnamed += 1
            return
        if self.keys_before is not None and fnmatchcase(layer, self.keys_before):
            self.key_before = result.clone()  # a rotation may be done in place
        if fnmatchcase(layer, self.pattern):
            rows, channels = self._channels(x)
            known = self.linears.setdefault(layer, Linear(weight.detach().double().cpu().numpy()))
            known.channels = channels if known.channels is None else known.channels + channels
            self.operands.linear(layer, rows, weight, bias)

    def _channels(self, x: Any) -> tuple[NDArray[np.float64], Channels]:
        """Rows and statistics of an input; layers that read the same tensor in turn share the work."""
        if self.last is None or self.last[0] is not x:
            rows = x.detach().reshape(-1, x.shape[-1]).double().cpu().numpy()
            self.last = x, rows, Channels.of(rows, self.tail)
        return self.last[1], self.last[2]

    def _attention(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        query, key, value = args[:3]
        context, importance = attend(*args, **kwargs)
        if self.turn == len(self.attentions):
            self.attentions.append(AttentionLayer(query.shape[-3], key.shape[-3], key.shape[-1]))
        layer = self.attentions[self.turn]
        layer.add("key", key)
        layer.add("value", value)
        if self.key_before is not None:
            layer.add("key_before", _split(self.key_before, layer.kv_heads))
        self.operands.attention(self.turn, query, key, value)
        if self.importance_inputs is None or self.source < self.importance_inputs:
            for one in importance.double().cpu().numpy():
                self.importance.append(Importance(self.source, self.turn, query.shape[-2], one))
        self.turn, self.key_before = self.turn + 1, None
        return context


def _split(projected: Any, heads: int) -> Any:
    """[B, n, heads x D] -> [B, heads, n, D]."""
    return projected.unflatten(-1, (heads, -1)).transpose(-3, -2)


def _is_pointwise(args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
    padding = args[4] if len(args) > 4 else kwargs.get("padding", 0)
    return tuple(args[1].shape[2:]) == (1, 1) and groups == 1 and not np.any(padding)


def _strided(image: Any, stride: Any) -> Any:
    down, across = (stride[0], stride[-1]) if isinstance(stride, (list, tuple)) else (stride, stride)
    return image[..., ::down, ::across]


def record_values(
    module: Any,
    inputs: Iterable[Any],
    *,
    layers: str = "*",
    keys_before: str | None = None,
    importance_inputs: int | None = None,
    operands: Operands | None = None,
    tail: int = TAIL,
    progress: Progress | None = None,
) -> Values:
    """Run the module on every input, in float64 on one thread, and give the statistics of all of them together.

    module   any `nn.Module`; a copy in float64 runs in eval mode. Its attention must go through
             `scaled_dot_product_attention` to be seen (Hugging Face: `attn_implementation="sdpa"`)
    inputs   each a tensor, a tuple (arguments) or a mapping (keyword arguments); a sequence if `progress` is given.
             No padding: every row counts
    layers   glob pattern of the linear layers that are recorded, by module path
    keys_before        glob pattern of the key projections, whose outputs are K before its rotation
    importance_inputs  importances of the first so many inputs only
    operands           layers whose exact operands are kept
    tail               largest magnitudes kept a channel, for the 99.9 % quantile; > rows / 1000

    ValueError: nothing to record, values that are not finite in the stored format, a tail that is too short,
    operands that no input has. Left out: grouped and larger convolutions, weights that are no parameters.
    """
    import torch

    copy = _doubled(module)
    names = _layer_names(copy)
    keeper = OperandKeeper(operands or Operands())
    recorder = _Recorder(names, layers, keys_before, importance_inputs, tail, keeper)
    with one_thread(), torch.inference_mode(), _watching(recorder):
        for number, given in enumerate(inputs):
            recorder.begin()
            _call(copy, given)
            if progress is not None:
                progress(number + 1, len(inputs))  # type: ignore[arg-type]
    return _values(recorder, _idle(copy, recorder))


def _doubled(module: Any) -> Any:
    """A copy in float64 and eval mode; the fused encoder layers of torch would hide their operators."""
    from copy import deepcopy

    return deepcopy(module).double().eval()


def _layer_names(module: Any) -> dict[int, str]:
    """Layer of each weight, by the tensor's identity: its path without the last `.weight` or `_weight`."""
    named = ((name, weight) for name, weight in module.named_parameters() if weight.dim() > 1)
    return {id(weight): name.removesuffix("weight").rstrip("._") for name, weight in named}


def _watching(recorder: _Recorder) -> Any:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return recorder.run(func, args, kwargs or {})

    return Watching()


def _call(module: Any, given: Any) -> None:
    """Run one input without the fused encoder layers of torch, which would hide their operators."""
    import torch

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        if isinstance(given, Mapping):
            module(**{name: _wide(value) for name, value in given.items()})
        else:
            module(*(_wide(value) for value in (given if isinstance(given, tuple) else (given,))))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _wide(value: Any) -> Any:
    """Floating-point tensors in float64, anything else as it is."""
    return value.double() if hasattr(value, "is_floating_point") and value.is_floating_point() else value


def _values(recorder: _Recorder, idle: list[str]) -> Values:
    if not recorder.linears and not recorder.attentions:
        raise ValueError(f"record_values: no linear layer {recorder.pattern!r} and no attention ran")
    rounding = SignificantRounding()
    facts, names = recorder.operands.facts(rounding)
    facts |= linear_facts(recorder.linears, rounding)
    facts |= rounded(layer_facts(recorder.attentions), rounding) if recorder.attentions else {}
    facts |= rounded(importance_facts(recorder.importance), rounding, half=("importance.values",))
    notes = {"operands": names, "operand_form": recorder.operands.choice.form, "unnamed": recorder.unnamed}
    return Values(facts, {**notes, "idle": idle}, rounding)


def _idle(module: Any, recorder: _Recorder) -> list[str]:
    """Linear layers that the pattern names and that never ran, under their own name or that of a shared weight."""
    from torch.nn import Linear as TorchLinear

    ran = [recorder.names.get(id(m.weight)) in recorder.linears for m in module.modules() if isinstance(m, TorchLinear)]
    names = [name for name, m in module.named_modules() if isinstance(m, TorchLinear)]
    return [n for n, done in zip(names, ran, strict=True) if not done and fnmatchcase(n, recorder.pattern)]
