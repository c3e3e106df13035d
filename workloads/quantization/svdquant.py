"""SVDQuant (arXiv 2411.05007): smoothing, a 16-bit low-rank branch, a 4-bit residual; settings of deepcompressor.

For layers with one input X, weights W [N, K] one above the other: s is searched, Ws = W s, up down ~ Ws of rank r,
R = Ws - up down is quantized, Y = Q(Xs) Q(R)^T + Xs down^T up^T. Refinement takes the branch of Ws - Q(R) next, for as
long as the output error falls. Searches take subspace iteration in float32, the branch that stays is the full SVD in
float64; R is taken from the branch as it is stored in 16 bit. After a GELU the 4-bit activations are unsigned: X + t,
t = 11/64, and the bias takes t back.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workloads.quantization.grids import KINDS, State, check_kind, measured
from workloads.quantization.lowrank import full, subspace
from workloads.quantization.methods import Group, LayerState, Method, complete, register, rounded_weight
from workloads.quantization.numbers import GELU_SHIFT
from workloads.quantization.smoothing import smooth_scale, span, strengths

Tensor = Any


@dataclass(frozen=True)
class Branch:
    """up [N, r] for all layers of the group, down [r, K] that reads smoothed inputs."""

    up: Tensor
    down: Tensor

    @property
    def product(self) -> Tensor:
        """up down [N, K]."""
        return self.up @ self.down


@register("svdquant")
@dataclass(frozen=True)
class SvdQuant(Method):
    """kind: w4a4 (INT4), w4a4_nvfp4, or unquantized (a check: everything but the rounding, float64 for such weights).

    rank: of the branch, 0 for none. smooth: search for the strengths (2 * grids - 1 of them), unless alpha and
    beta fix them. iterations: at most that many branches are tried; 1: no refinement. gptq: the residual by GPTQ, its
    Hessian from smoothed inputs, quantized ones if quantized_inputs. shift: unsigned activations after GELU (INT4).
    """

    kind: str = "w4a4"
    rank: int = 32
    smooth: bool = True
    alpha: float | None = None
    beta: float | None = None
    grids: int = 20
    iterations: int = 100
    gptq: bool = False
    quantized_inputs: bool = True
    shift: bool = True

    def __post_init__(self) -> None:
        check_kind(self.kind)
        if (self.alpha is None) != (self.beta is None):
            raise ValueError(f"svdquant: alpha and beta are given together, got {self.alpha} and {self.beta}")
        for name, least in (("rank", 0), ("grids", 2), ("iterations", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"svdquant: {name} must be at least {least}, got {getattr(self, name)}")

    def quantize(self, group: Group) -> list[LayerState]:
        work = Work(self, group)
        details, scale = work.smoothing()
        branch, more = work.refined(scale)
        return work.states(scale, branch, details | more)


class Work:
    """One group at work: its weights W [N, K] and shifted inputs X + t in float32, exact outputs, and the errors."""

    def __init__(self, method: SvdQuant, group: Group) -> None:
        import torch

        self.method, self.group = method, group
        self.exact = method.kind == "unquantized"
        self.shift = GELU_SHIFT if group.shifted and method.shift and method.kind in ("w4a4", "unquantized") else 0.0
        self.rows = [len(weight) for weight in group.weights]
        self.weight = torch.cat([weight.double() for weight in group.weights])
        assert group.inputs is not None
        self.inputs = group.inputs.float() + self.shift
        if self.shift and float(self.inputs.min()) < 0:
            low = float(self.inputs.min()) - self.shift
            raise ValueError(f"{group.names[0]}: inputs after a GELU must be at least {-self.shift}, got {low:.4g}")
        self.outputs = self.inputs @ self.weight.float().T
        self.power = float(self.outputs.double().square().sum())

    def smoothing(self) -> tuple[dict[str, Any], Tensor]:
        """(report, s [K] float32 on the 16-bit grid): the strength whose output error with the branch on is least."""
        method, inputs, weights = self.method, span([self.inputs]), span([self.weight])
        dtype = None if self.exact else self.group.dtype
        fixed = (method.alpha or 0.0, method.beta or 0.0)
        tried = strengths(method.grids) if method.smooth and method.alpha is None and not self.exact else [fixed]
        best, errors = None, []
        for alpha, beta in tried:
            scale = smooth_scale(inputs, weights, alpha, beta, dtype)
            errors.append(self._error_of(scale) if len(tried) > 1 else 0.0)
            if best is None or errors[-1] < best[0]:
                best = errors[-1], alpha, beta, scale
        assert best is not None
        found = {"alpha": best[1], "beta": best[2]}
        return found | ({"search": errors} if len(tried) > 1 else {}), best[3]

    def _error_of(self, scale: Tensor) -> float:
        smoothed = self.weight.float() * scale
        branch = Branch(*subspace(smoothed, self.method.rank)) if self.method.rank else None
        return self._error(scale, smoothed, branch)[0]

    def _error(self, scale: Tensor, smoothed: Tensor, branch: Branch | None) -> tuple[float, Tensor]:
        """(share of the outputs' power, Q(R) float32) with weights to nearest."""
        residual = smoothed if branch is None else smoothed - branch.product
        snapped = self._snapped(residual.float())
        inputs = self.inputs / scale
        missing = (
            self.outputs - KINDS[self.method.kind].activations(inputs, self.group.dtype, self.shift != 0) @ snapped.T
        )
        if branch is not None:
            missing -= (inputs @ branch.down.float().T) @ branch.up.float().T
        return float(missing.double().square().sum()) / max(self.power, 1e-300), snapped

    def _snapped(self, residual: Tensor) -> Tensor:
        import torch

        if self.exact:
            return residual
        kind, dtype = self.method.kind, self.group.dtype
        return torch.cat([measured(kind, part, dtype, wide=False).snap(part) for part in residual.split(self.rows)])

    def refined(self, scale: Tensor) -> tuple[Branch | None, dict[str, Any]]:
        """(branch, report): the branch of least error, stored as 16-bit floats; never worse than the first."""
        if not self.method.rank:
            return None, {}
        smoothed = self.weight * scale.double()
        first = self._stored(smoothed, scale)
        if self.exact:
            return first, {}
        errors, target = [self._error(scale, smoothed, first)[0]], smoothed
        for error, tried in self._refinements(scale, smoothed.float()):
            errors.append(error)
            if error >= min(errors[:-1]):
                break
            target = tried
        if target is smoothed:
            return first, {"refinement": errors}
        last = self._stored(target, scale)
        found = self._error(scale, smoothed, last)[0]
        return (last if found < errors[0] else first), {"refinement": errors, "refined": found}

    def _refinements(self, scale: Tensor, smoothed: Tensor) -> Iterator[tuple[float, Tensor]]:
        """(error, what the branch approximates) of the second branch and on."""
        branch = Branch(*subspace(smoothed, self.method.rank))
        _, snapped = self._error(scale, smoothed, branch)
        for _ in range(1, self.method.iterations):
            target = smoothed - snapped
            branch = Branch(*subspace(target, self.method.rank, branch.down))
            error, snapped = self._error(scale, smoothed, branch)
            yield error, target

    def _stored(self, target: Tensor, scale: Tensor) -> Branch:
        """The full SVD, float64; up and down / s as the 16-bit numbers of the state."""
        up, down = full(target, self.method.rank)
        if self.exact:
            return Branch(up, down)
        dtype, wide = self.group.dtype, scale.double()
        return Branch(up.to(dtype).double(), (down / wide).to(dtype).double() * wide)

    def states(self, scale: Tensor, branch: Branch | None, details: dict[str, Any]) -> list[LayerState]:
        """One state for each layer."""
        import torch

        smoothed = self.weight * scale.double()
        parts = (smoothed if branch is None else smoothed - branch.product).split(self.rows)
        ups: Any = [None] * len(parts) if branch is None else branch.up.split(self.rows)
        dtype = torch.float64 if self.exact else self.group.dtype
        seen, found = self._seen(scale), []
        for index, (residual, up) in enumerate(zip(parts, ups, strict=True)):
            state = self._codes(residual, seen) | {"smooth": scale.to(dtype)}
            if branch is not None:
                state |= {
                    "down": (branch.down / scale.double()).to(dtype).contiguous(),
                    "up": up.to(dtype).contiguous(),
                }
            found.append(self._layer(index, state, dtype, details))
        return found

    def _seen(self, scale: Tensor) -> Tensor | None:
        """Inputs for the Hessian of GPTQ."""
        if not self.method.gptq or self.exact:
            return None
        inputs = self.inputs / scale
        if not self.method.quantized_inputs:
            return inputs
        return KINDS[self.method.kind].activations(inputs, self.group.dtype, self.shift != 0)

    def _codes(self, residual: Tensor, seen: Tensor | None) -> State:
        if self.exact:
            return {"weight": residual.clone()}
        return rounded_weight(self.method.kind, residual, self.group.dtype, seen)

    def _layer(self, index: int, state: State, dtype: Any, details: dict[str, Any]) -> LayerState:
        import torch

        weight, bias = self.group.weights[index], self.group.biases[index]
        if self.shift:
            state["shift"] = torch.tensor(self.shift, dtype=dtype, device=weight.device)
            bias = self._shifted_bias(weight.double(), bias, state)
        return LayerState(self.method.kind, complete(self.method.kind, state, weight, bias, dtype), details)

    def _shifted_bias(self, weight: Tensor, bias: Tensor | None, state: State) -> Tensor:
        """b - t W 1 + t up down 1: the main path sees x + t, the branch sees x."""
        found = -self.shift * weight.sum(1) if bias is None else bias.double() - self.shift * weight.sum(1)
        if "down" in state:
            found = found + self.shift * (state["up"].double() @ state["down"].double().sum(1))
        return found
