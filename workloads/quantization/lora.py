"""LoRA adapters on quantized layers: y += strength B A x, concatenated onto the branch, nothing quantized anew.

The branch reads the raw input, so A goes onto `down` and strength * alpha / rank * B onto `up` as they are, in the
16-bit type of the layer, padded with zeros to ranks of 16 (as Nunchaku v1.1 takes them). Layouts read: PEFT
(`lora_A.weight`, `lora_B.weight`, alpha in adapter_config.json), diffusers (the same behind `transformer.` or `unet.`),
kohya (`lora_unet_a_b.lora_down.weight`, `lora_up`, `alpha`). Left out: DoRA, LoHa, LoKr, convolutions beyond 1 x 1.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.quantization.linears import nearest

Tensor = Any
RANKS = 16
KINDS = ("w4a4", "w4a4_nvfp4", "w4a16", "unquantized")
PREFIXES = ("base_model.model.", "transformer.", "unet.", "diffusion_model.", "model.")
FLAT_PREFIXES = ("lora_unet_", "lora_transformer_", "lora_te_", "lora_te1_")
_KEY = re.compile(r"(.+?)[._](?:lora[._])?(A|B|down|up|alpha)(?:\.default)?(?:\.weight)?")


@dataclass(frozen=True)
class LowRank:
    """y += scale * up (down x): down [r, K], up [N, r]."""

    down: Tensor
    up: Tensor
    scale: float = 1.0


@dataclass(frozen=True)
class Adapter:
    """layers: name -> update. unknown: keys of the file that fit no layer, with the reason or the nearest layer."""

    layers: dict[str, LowRank]
    unknown: dict[str, str]


def read_adapter(file: str | Path, model: Any, fused: Mapping[str, Sequence[str]] | None = None) -> Adapter:
    """The adapter of a safetensors file, or of a PEFT folder, for the quantized layers of `model`.

    fused: layer of the model -> names in the file of its parts, one above the other (q, k, v of a fused layer).
    Raises ValueError for unreadable files, shapes that do not fit and files that fit no layer at all.
    """
    from workloads.quantization.layers import quantized_layers

    path, ratio = _place(Path(file))
    layers = quantized_layers(model)
    parts = {part: (name, i) for name, names in (fused or {}).items() for i, part in enumerate(names)}
    updates, unknown = _matched(_read(path), [*layers, *parts], ratio)
    whole = {name: update for name, update in updates.items() if name in layers}
    for name, names in (fused or {}).items():
        if any(part in updates for part in names):
            whole[name] = fuse([updates.get(part) for part in names], layers[name].out_features)
    if not whole:
        raise ValueError(f"{path}: no key fits a quantized layer; first: {next(iter(unknown.items()), 'none')}")
    for name, update in whole.items():
        _check(f"{path}: {name}", update, layers[name])
    return Adapter(whole, unknown)


def _place(path: Path) -> tuple[Path, float | None]:
    """(safetensors file, scale by adapter_config.json if there is one)."""
    folder, file = (path, path / "adapter_model.safetensors") if path.is_dir() else (path.parent, path)
    config = folder / "adapter_config.json"
    if not config.exists():
        return file, None
    found = json.loads(config.read_text(encoding="utf-8"))
    rank, alpha = found.get("r", 1), found.get("lora_alpha")
    if alpha is None:
        return file, None
    return file, alpha / (rank**0.5 if found.get("use_rslora") else rank)


def _read(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: not a readable safetensors file: {error}") from None
    return tensors


def _matched(
    tensors: Mapping[str, Tensor], names: Iterable[str], ratio: float | None
) -> tuple[dict[str, LowRank], dict[str, str]]:
    """Updates by layer or part, and the keys that are left."""
    known = list(names)
    flat = {name.replace(".", "_"): name for name in known}
    found: dict[str, dict[str, Tensor]] = {}
    unknown: dict[str, str] = {}
    for key, tensor in tensors.items():
        stem, role = _split(key)
        name = _layer_name(stem, known, flat) if role else None
        if name is None:
            unknown[key] = f"no such quantized layer{nearest(stem, known)}" if role else "not a matrix of LoRA"
        else:
            found.setdefault(name, {})[role] = tensor
    for name, roles in list(found.items()):
        if not {"down", "up"} <= set(roles):
            unknown[name] = f"has only {', '.join(roles)}"
            del found[name]
    return {name: _update(roles, ratio) for name, roles in found.items()}, unknown


def _split(key: str) -> tuple[str, str]:
    """(stem, "down", "up", "alpha" or "") of a key."""
    match = _KEY.fullmatch(key)
    if match is None or not (key.endswith(".alpha") or "lora" in key):
        return key, ""
    role = {"A": "down", "B": "up"}.get(match[2], match[2])
    return match[1].removesuffix(".lora").removesuffix("_lora"), role


def _layer_name(stem: str, known: Sequence[str], flat: Mapping[str, str]) -> str | None:
    for candidate in _stripped(stem, PREFIXES):
        if candidate in known:
            return candidate
    return next((flat[candidate] for candidate in _stripped(stem, FLAT_PREFIXES) if candidate in flat), None)


def _stripped(stem: str, prefixes: Sequence[str]) -> Iterator[str]:
    yield stem
    for prefix in prefixes:
        if stem.startswith(prefix):
            yield from _stripped(stem.removeprefix(prefix), prefixes)


def _update(roles: Mapping[str, Tensor], ratio: float | None) -> LowRank:
    down, up = (roles[role].flatten(1) if roles[role].dim() > 2 else roles[role] for role in ("down", "up"))
    if "alpha" in roles:
        return LowRank(down, up, float(roles["alpha"]) / len(down))
    return LowRank(down, up, 1.0 if ratio is None else ratio)


def fuse(parts: Sequence[LowRank | None], rows: int) -> LowRank:
    """One update of a fused layer [N, K]: downs one above the other, ups along the diagonal; None: a part without.

    Parts without an update have the size that is left, evenly. Raises ValueError if sizes do not add up to `rows`.
    """
    import torch

    given = [part for part in parts if part is not None]
    left, absent = rows - sum(len(part.up) for part in given), len(parts) - len(given)
    if left < 0 or left % max(absent, 1) or (left and not absent):
        raise ValueError(f"fused layer: {len(parts)} parts do not add up to {rows} outputs, {left} left")
    up = torch.zeros(rows, sum(len(part.down) for part in given), dtype=torch.float64)
    row = column = 0
    for part in parts:
        if part is not None:
            up[row : row + len(part.up), column : column + len(part.down)] = part.scale * part.up.double()
            column += len(part.down)
        row += left // absent if part is None else len(part.up)
    return LowRank(torch.cat([part.down.double() for part in given]), up)


def _check(where: str, update: LowRank, layer: Any) -> None:
    wanted, found = (layer.out_features, layer.in_features), (len(update.up), update.down.shape[1])
    if wanted != found or len(update.down) != update.up.shape[1]:
        shapes = f"up {tuple(update.up.shape)}, down {tuple(update.down.shape)}"
        raise ValueError(f"{where}: LoRA must have [N, r] and [r, K] with N, K = {wanted}, got {shapes}")
    if layer.kind not in KINDS:
        raise ValueError(f"{where}: layers of kind {layer.kind} have no branch, only {', '.join(KINDS)}")


def add_adapter(model: Any, adapter: Adapter, strength: float = 1.0, name: str = "default") -> None:
    """Concatenate an adapter onto its layers. Raises ValueError for a name that a layer has already."""
    from workloads.quantization.layers import quantized_layers

    layers = quantized_layers(model)
    for layer in adapter.layers:
        if name in layers[layer].adapters:
            raise ValueError(f"{layer}: has an adapter {name!r} already; remove_adapter(model, {name!r}) first")
    for layer, update in adapter.layers.items():
        _add(layers[layer], update, strength, name)


def _add(layer: Any, update: LowRank, strength: float, name: str) -> None:
    import torch
    from torch.nn.functional import pad

    state = layer.state
    like = state["up"] if "up" in state else state["weight" if layer.kind == "unquantized" else "scale"]
    more = -len(update.down) % RANKS
    down = pad(update.down, (0, 0, 0, more)).to(like)
    up = pad(update.up.double() * (strength * update.scale), (0, more)).to(like)
    if "down" in state:
        down, up = torch.cat([state["down"], down]), torch.cat([state["up"], up], 1)
    layer.change({"down": down, "up": up})
    layer.adapters[name] = len(update.down) + more


def remove_adapter(model: Any, name: str = "default") -> None:
    """Take an adapter away; what was there before is bit for bit as before. Raises ValueError if no layer has it."""
    from workloads.quantization.layers import quantized_layers

    found = [layer for layer in quantized_layers(model).values() if name in layer.adapters]
    if not found:
        names = {each for layer in quantized_layers(model).values() for each in layer.adapters}
        raise ValueError(f"remove_adapter: no layer has an adapter {name!r}{nearest(name, names)}")
    for layer in found:
        _remove(layer, name)


def _remove(layer: Any, name: str) -> None:
    """Adapters lie behind the branch in the order of their coming."""
    import torch

    start = len(layer.down) - sum(layer.adapters.values())
    for other, rank in layer.adapters.items():
        if other == name:
            break
        start += rank
    stop = start + layer.adapters.pop(name)
    down, up = (
        torch.cat([layer.down[:start], layer.down[stop:]]),
        torch.cat([layer.up[:, :start], layer.up[:, stop:]], 1),
    )
    empty = not len(down) and layer.kind not in ("w4a4", "w4a4_nvfp4")
    layer.change({"down": None if empty else down, "up": None if empty else up})
