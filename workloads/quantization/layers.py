"""`QuantizedLinear`: a linear layer by its logical state, computed fake-quantized or by a kernel model.

Without a kernel, y = Q(Xs) W'^T + (X down^T) up^T + bias with Xs = (X + shift) / smooth, W' the decoded weights and Q
the dynamic quantization of the kind, in float32 (float64 for float64 input). 16-bit rounding inside kernels is left
out there: a kernel model has it. A state with `hadamard` (any value) rotates X by the Hadamard matrix of size K over
sqrt(K) first: QuaRot's rotation at run time.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from workloads.quantization.calibration import fingerprint
from workloads.quantization.grids import KINDS, check_kind, of_state
from workloads.quantization.hadamard import rotation
from workloads.quantization.linears import replace_linear

Kernel = Callable[[NDArray[np.float32], Mapping[str, NDArray[Any]], str], NDArray[np.float32]]
FORMS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
OWN_SMOOTH = ("w4a4", "w4a4_nvfp4")  # their kernels divide by `smooth` themselves


class QuantizedLinear(nn.Module):
    """Linear layer of one kind; the tensors of `state` are its buffers (see the table of the package).

    form: the 16-bit float of scales, branch and bias. kernel(x float32 [M, K], state, form) -> float32 [M, N], numbers
    of `form` as float32: takes the place of the fake-quantized computation. quantize_activations=False leaves the
    activations as they are: the error of the weights alone. keep_weight: decode once, not at each call.
    """

    def __init__(self, kind: str, state: Mapping[str, torch.Tensor], form: str = "float16") -> None:
        super().__init__()
        self.kind, self.form = kind, form
        self.kernel: Kernel | None = None
        self.quantize_activations = self.keep_weight = True
        check_kind(kind)
        for name, tensor in state.items():
            self.register_buffer(name, tensor)
        self.names = tuple(state)
        self.adapters: dict[str, int] = {}  # rank of each LoRA behind the branch, in the order of their coming
        self.out_features, self.in_features = state["weight" if kind == "unquantized" else "codes"].shape
        self._decoded: tuple[object, torch.Tensor] | None = None
        self._turn: torch.Tensor | None = None

    @property
    def state(self) -> dict[str, torch.Tensor]:
        """The logical state: name -> tensor."""
        return {name: getattr(self, name) for name in self.names}

    def change(self, state: Mapping[str, torch.Tensor | None]) -> None:
        """Set tensors of the state; None takes one away."""
        for name, tensor in state.items():
            if name in self.names and tensor is None:
                delattr(self, name)
                self.names = tuple(other for other in self.names if other != name)
            elif name in self.names:
                setattr(self, name, tensor)
            elif tensor is not None:
                self.register_buffer(name, tensor)
                self.names = (*self.names, name)

    def extra_repr(self) -> str:
        rank = f", rank={len(self.down)}" if "down" in self.names else ""
        return f"{self.kind}, in_features={self.in_features}, out_features={self.out_features}, {self.form}{rank}"

    def dequantized(self) -> torch.Tensor:
        """The weights that the codes stand for [N, K] float32, smoothing and branch not taken back."""
        prints = [fingerprint(tensor) for tensor in self.state.values()]
        if self._decoded is not None and self._decoded[0] == prints:
            return self._decoded[1]
        found = self.weight if self.kind == "unquantized" else of_state(self.kind, self.state).decode(self.codes)
        self._decoded = (prints, found) if self.keep_weight else None
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y = self._fake(rows) if self.kernel is None else self._by_kernel(rows)
        return y.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _fake(self, rows: torch.Tensor) -> torch.Tensor:
        wide = torch.float64 if rows.dtype == torch.float64 else torch.float32
        x = rows.to(wide)
        exact = self._prepared(x)
        seen = self._activations(exact)
        y = seen @ self.dequantized().to(wide).T
        if self.kind == "w4a8_channel":  # QServe multiplies the zero points by the sum of the unquantized inputs
            y = y + (seen - exact).sum(1, keepdim=True) * (self.zero.to(wide) * self.scale.to(wide))
        if "down" in self.names:
            y = y + (x @ self.down.to(wide).T) @ self.up.to(wide).T
        return y + self.bias.to(wide) if "bias" in self.names else y

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        """The input, rotated, shifted and smoothed: what is quantized."""
        x = self._rotated(x) if "hadamard" in self.names else x
        x = x + float(self.shift) if "shift" in self.names and float(self.shift) else x
        return x / self.smooth.to(x.dtype) if "smooth" in self.names else x

    def _rotated(self, x: torch.Tensor) -> torch.Tensor:
        if self._turn is None or self._turn.device != x.device:
            self._turn = rotation(self.in_features, None, torch.float64, x.device)
        return x @ self._turn.to(x.dtype)

    def _activations(self, x: torch.Tensor) -> torch.Tensor:
        if not self.quantize_activations:
            return x
        shifted = "shift" in self.names and float(self.shift) != 0
        return KINDS[self.kind].activations(x, FORMS[self.form], shifted)

    def _by_kernel(self, rows: torch.Tensor) -> torch.Tensor:
        assert self.kernel is not None
        x, state = rows.to(FORMS[self.form]), self.state
        if state.pop("hadamard", None) is not None:
            x = self._rotated(x.float()).to(x.dtype)
        if "smooth" in state and self.kind not in OWN_SMOOTH:
            x = x / state.pop("smooth").to(x.dtype)
        arrays = {name: as_array(tensor) for name, tensor in state.items()}
        found = self.kernel(as_array(x), arrays, self.form)
        return torch.from_numpy(np.ascontiguousarray(found, np.float32)).to(rows.device)

    def __deepcopy__(self, memo: dict[int, Any]) -> "QuantizedLinear":
        copy = QuantizedLinear(self.kind, {name: tensor.clone() for name, tensor in self.state.items()}, self.form)
        copy.kernel, copy.keep_weight = self.kernel, self.keep_weight
        copy.quantize_activations, copy.adapters = self.quantize_activations, dict(self.adapters)
        memo[id(self)] = copy
        return copy


def as_array(tensor: torch.Tensor) -> NDArray[Any]:
    """NumPy array of a tensor, contiguous, of the same shape; floats become float32."""
    tensor = tensor.detach().cpu().contiguous()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def quantized_layers(model: nn.Module) -> dict[str, QuantizedLinear]:
    """Name -> quantized layer, in the order of the model."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantizedLinear)}


def use_kernel(model: nn.Module, kernel_model: Callable[[str], Kernel] | None) -> nn.Module:
    """Give every quantized layer the kernel `kernel_model(kind)`; None: fake-quantized again. Returns the model."""
    for layer in quantized_layers(model).values():
        layer.kernel = None if kernel_model is None else kernel_model(layer.kind)
    return model


def put(model: nn.Module, states: Mapping[str, tuple[str, Mapping[str, torch.Tensor]]], form: str) -> None:
    """Replace layers by quantized ones: name -> (kind, state)."""
    for name, (kind, state) in states.items():
        replace_linear(model, name, QuantizedLinear(kind, state, form))


def each_state(model: nn.Module) -> Iterator[tuple[str, str, torch.Tensor]]:
    """(layer, name, tensor) of all states."""
    for name, layer in quantized_layers(model).items():
        for part, tensor in layer.state.items():
            yield name, part, tensor
