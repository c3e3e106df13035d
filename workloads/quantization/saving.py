"""Quantized models as folders: `model.safetensors` with the logical state of each layer, `config.json` with the rest.

Codes of 4 bits lie packed two a byte (`accel.formats.packing`), 16-bit numbers in their own type; layouts of kernels
are made at load. Tensors outside the quantized layers are stored as they are; adapters that were added count as
branch. The folder is written under another name and renamed; `config.json` holds the SHA-256 of the tensors, so that
damage is told, not loaded.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import file_digest
from pathlib import Path
from typing import Any

from accel.formats.packing import pack_nibbles, unpack_nibbles
from workloads.quantization.grids import KINDS
from workloads.quantization.linears import linear_layers, nearest

Tensor = Any
FORMAT, VERSION = "tilewright quantized model", 1
TENSORS, CONFIG = "model.safetensors", "config.json"
SIGNED = ("w4a4",)


def save_quantized(model: Any, folder: str | Path, method: Any = None, overwrite: bool = False) -> Path:
    """Write a model with quantized layers; method: its `Method`, for the record. Returns the folder.

    Raises ValueError for a model without quantized layers, and for a folder that exists (overwrite=True takes the
    place of one that holds a quantized model, never of another).
    """
    from workloads.quantization.layers import quantized_layers

    folder, layers = Path(folder), quantized_layers(model)
    if not layers:
        raise ValueError("save_quantized: the model has no quantized layer")
    _check_free(folder, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(new, _tensors(model, layers), _config(layers, method))
        if folder.exists():
            old = folder.rename(new.with_name(f"{new.name}.old"))
            new.rename(folder)
            shutil.rmtree(old)
        else:
            new.rename(folder)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder


def _check_free(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise ValueError(f"save_quantized: {folder} exists; overwrite=True (--force) takes its place")
    read_config(folder)


def _config(layers: Mapping[str, Any], method: Any) -> dict[str, Any]:
    import torch

    known = {} if method is None else {"name": method.name, "options": asdict(method)}
    rows = {name: _layer_config(layer) for name, layer in layers.items()}
    return {"format": FORMAT, "version": VERSION, "method": known, "torch": torch.__version__, "layers": rows}


def _layer_config(layer: Any) -> dict[str, Any]:
    return {
        "kind": layer.kind,
        "form": layer.form,
        "shape": [layer.out_features, layer.in_features],
        "tensors": layer.names,
    }


def _tensors(model: Any, layers: Mapping[str, Any]) -> dict[str, Tensor]:
    found = {
        f"{name}.{part}": _packed(layer.kind, part, tensor)
        for name, layer in layers.items()
        for part, tensor in layer.state.items()
    }
    rest = {key: value for key, value in model.state_dict().items() if key not in found}
    return {key: tensor.detach().cpu().contiguous().clone() for key, tensor in (rest | found).items()}


def _write(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    save_file(tensors, folder / TENSORS)
    config["sha256"] = _hash(folder / TENSORS)
    (folder / CONFIG).write_text(json.dumps(config, indent=1, default=str) + "\n", encoding="utf-8")
    for name in (TENSORS, CONFIG):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        (folder / name).chmod(0o644)  # safetensors writes for its owner alone
    folder.chmod(0o755)


def _hash(file: Path) -> str:
    with file.open("rb") as data:
        return file_digest(data, "sha256").hexdigest()


def _is_packed(kind: str, part: str) -> bool:
    return part == "codes" and kind != "w8a8"


def _packed(kind: str, part: str, tensor: Tensor) -> Tensor:
    import torch

    return torch.from_numpy(pack_nibbles(tensor.cpu().numpy())) if _is_packed(kind, part) else tensor


def _unpacked(kind: str, part: str, tensor: Tensor, columns: int) -> Tensor:
    import torch

    if not _is_packed(kind, part):
        return tensor
    return torch.from_numpy(unpack_nibbles(tensor.numpy(), columns, signed=kind in SIGNED))


def read_config(folder: str | Path) -> dict[str, Any]:
    """`config.json` of a quantized model. Raises ValueError for a foreign, damaged or newer one."""
    file = Path(folder) / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: not readable: {error}") from None
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise ValueError(f"{file}: not a quantized model of ours: format must be {FORMAT!r}")
    if config.get("version") != VERSION:
        raise ValueError(f"{file}: version must be {VERSION}, got {config.get('version')!r}: made by another release")
    missing = {"layers", "sha256"} - set(config)
    if missing:
        raise ValueError(f"{file}: lacks {', '.join(sorted(missing))}")
    return config


def load_quantized(folder: str | Path, model: Any) -> Any:
    """Put what a folder holds into `model`, of the architecture that was quantized (any weights, or on meta).

    Changes and returns the model. Raises ValueError for damaged or foreign files and for a model that does not fit.
    """
    config, tensors = read_config(folder), _read(Path(folder))
    linears = linear_layers(model)
    for name, row in config["layers"].items():
        _check_layer(f"{Path(folder) / CONFIG}: {name}", name, row, linears)
    for name, row in config["layers"].items():
        _put_layer(model, name, row, tensors, Path(folder))
    _put_rest(model, tensors, Path(folder))
    return model


def _read(folder: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = folder / TENSORS
    try:
        if _hash(file) != read_config(folder)["sha256"]:
            raise ValueError(f"{file}: damaged: its SHA-256 is not that of {CONFIG}")
        tensors: dict[str, Tensor] = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{file}: not readable: {error}") from None
    return tensors


def _check_layer(where: str, name: str, row: Any, linears: Mapping[str, Any]) -> None:
    if row.get("kind") not in KINDS:
        raise ValueError(f"{where}: kind must be one of {', '.join(KINDS)}, got {row.get('kind')!r}")
    if name not in linears:
        raise ValueError(f"{where}: the model has no such linear layer{nearest(name, linears)}")
    shape = [linears[name].out_features, linears[name].in_features]
    if shape != row["shape"]:
        raise ValueError(f"{where}: shape must be {row['shape']}, the model has {shape}")


def _put_layer(model: Any, name: str, row: Mapping[str, Any], tensors: dict[str, Tensor], folder: Path) -> None:
    from workloads.quantization.layers import put

    device = model.get_submodule(name).weight.device
    state = {}
    for part in row["tensors"]:
        if f"{name}.{part}" not in tensors:
            raise ValueError(f"{folder / TENSORS}: lacks {name}.{part}")
        tensor = _unpacked(row["kind"], part, tensors.pop(f"{name}.{part}"), row["shape"][1])
        state[part] = tensor if device.type == "meta" else tensor.to(device)
    put(model, {name: (row["kind"], state)}, row["form"])


def _put_rest(model: Any, tensors: Mapping[str, Tensor], folder: Path) -> None:
    from workloads.quantization.layers import quantized_layers

    _untie(model, tensors)
    own = tuple(f"{name}." for name in quantized_layers(model))
    meta = any(tensor.is_meta for tensor in model.state_dict().values())
    missing, foreign = model.load_state_dict(tensors, strict=False, assign=meta)
    missing = [name for name in missing if not name.startswith(own)]
    for name in missing[:1]:
        raise ValueError(f"{folder / TENSORS}: lacks {name}{nearest(name, tensors)}")
    for name in foreign[:1]:
        raise ValueError(f"{folder / TENSORS}: the model has no {name}{nearest(name, model.state_dict())}")


def _untie(model: Any, tensors: Mapping[str, Tensor]) -> None:
    """Parameters of their own for names that share one in the model, but not in the file (a head that was rotated)."""
    import torch

    first: dict[int, str] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(parameter), name)
        if {name, other} <= set(tensors) and not torch.equal(tensors[name], tensors[other]):
            parent, _, last = name.rpartition(".")
            own = torch.nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(parent), last, own)
            if hasattr(model, "config"):
                model.config.tie_word_embeddings = False
