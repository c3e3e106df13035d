"""Models to quantize: the shipped names, and local folders of transformers and diffusers with their calibration data.

Nothing is downloaded but by the encoder's own loader. Calibration of a folder is a file: `.txt` (UTF-8, cut into
pieces, read by the folder's tokenizer), or `.safetensors` with the keyword inputs of calls, named
`<number of the call>.<argument>`.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

Tensor = Any
Run = Callable[[Any], object]
SHIPPED = ("minilm", "decoder")
SKIPPED = ("lm_head", "*.lm_head")  # in 16 bit in all systems that are modelled here
PIECES, TOKENS = 32, 512


@dataclass(frozen=True)
class Source:
    """A model in memory; run: drives it over calibration data, None where there is none."""

    title: str
    model: Any
    run: Run | None


def load(name: str, calibration: Path | None = None, device: str = "cpu") -> Source:
    """A shipped model by name, or that of a local folder. Raises ValueError with what is wrong."""
    if name in SHIPPED and not Path(name).is_dir():
        return {"minilm": _minilm, "decoder": _decoder}[name](calibration, device)
    folder = Path(name)
    if not folder.is_dir():
        near = get_close_matches(name, SHIPPED, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"model: must be {' or '.join(SHIPPED)} or a local folder, got {name!r}{hint}")
    model = _from_folder(folder).to(device)
    return Source(str(folder), model, calibrated(folder, calibration, device) if calibration else None)


def _minilm(calibration: Path | None, device: str) -> Source:
    import torch

    from analysis.quality.encoder import TOKENS, calibration_texts
    from workloads.minilm import load_encoder

    bert, tokenizer, _ = load_encoder()
    texts = _pieces(calibration) if calibration else calibration_texts()

    def run(model: Any) -> None:
        for text in texts:
            ids = tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]
            model(torch.tensor(ids, device=device)[None])

    return Source("all-MiniLM-L6-v2", bert.float().to(device), run)


def _decoder(calibration: Path | None, device: str) -> Source:
    """Calibrated on windows of the first half of the held-out text; the second half is what studies score."""
    from workloads.decoder import heldout_text, load_decoder
    from workloads.fidelity import Windows

    text = calibration.read_bytes() if calibration else heldout_text()
    tokens = Windows(8, 0, TOKENS).cut(text if calibration else text[: len(text) // 2]).to(device)
    return Source("decoder", load_decoder().to(device), lambda model: model(tokens[:, :-1]))


def _from_folder(folder: Path) -> Any:
    """The model of a folder, in the format of its weights."""
    config = _config(folder)
    if config.get("format") == "tilewright quantized model":
        raise ValueError(f"{folder}: is quantized already; name the model that it was made from")
    package, name = ("diffusers", config["_class_name"]) if "_class_name" in config else ("transformers", _name(config))
    made = getattr(__import__(package), str(name), None)
    if made is None:
        raise ValueError(f"{folder / 'config.json'}: {package} has no class {name!r}")
    try:
        if package == "diffusers":
            return made.from_pretrained(folder, local_files_only=True).eval()
        return made.from_pretrained(folder, local_files_only=True, dtype="auto").eval()
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder}: {package} cannot load it: {str(error).splitlines()[0]}") from None


def _config(folder: Path) -> Mapping[str, Any]:
    if (folder / "model_index.json").is_file():
        parts = ", ".join(sorted(one.parent.name for one in folder.glob("*/config.json")))
        raise ValueError(f"{folder}: is a pipeline; name the folder of one of its models: {parts}")
    try:
        found = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: must hold a readable config.json: {error}") from None
    return found if isinstance(found, dict) else {}


def _name(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or ["AutoModel"]
    return str(names[0])


def calibrated(folder: Path, file: Path, device: str) -> Run:
    """A function that drives a model over the file. Raises ValueError for a file that cannot be read so."""
    if file.suffix == ".txt":
        return _by_text(folder, file, device)
    if file.suffix == ".safetensors":
        calls = list(_calls(file))

        def run(model: Any) -> None:
            for call in calls:
                model(**{name: tensor.to(device) for name, tensor in call.items()})

        return run
    raise ValueError(f"--calibration: must end in .txt or .safetensors, got {file}")


def _by_text(folder: Path, file: Path, device: str) -> Run:
    import torch
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--calibration: {folder} has no tokenizer for text: {reason}; give .safetensors") from None
    ids = [tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"] for text in _pieces(file)]

    def run(model: Any) -> None:
        for one in ids:
            model(input_ids=torch.tensor(one, device=device)[None])

    return run


def _pieces(file: Path) -> list[str]:
    """Pieces of a text, evenly spread. ValueError for an empty or binary file."""
    try:
        text = file.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--calibration: {file}: must be UTF-8: {error}") from None
    if not text.strip():
        raise ValueError(f"--calibration: {file}: is empty")
    size = 4 * TOKENS  # characters: some four make a token
    return [text[place * len(text) // PIECES :][:size] for place in range(PIECES)]


def _calls(file: Path) -> Iterator[dict[str, Tensor]]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"--calibration: {file}: not readable: {error}") from None
    calls: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        number, dot, name = key.partition(".")
        if not (number.isdigit() and dot and name):
            raise ValueError(f"--calibration: {file}: tensors must be named <call>.<argument>, got {key!r}")
        calls.setdefault(number, {})[name] = tensor
    return (calls[number] for number in sorted(calls, key=int))


def layers_for(
    model: Any, method: Any, layers: list[str] | None, skip: list[str] | None
) -> tuple[list[str], dict[str, str]]:
    """(names to quantize, names left in 16 bit with the reason). Raises ValueError for patterns that fit none."""
    from fnmatch import fnmatch

    from workloads.quantization.grids import check_kind
    from workloads.quantization.linears import linear_layers

    left: dict[str, str] = {}
    patterns = [*SKIPPED] if skip is None else [pattern for pattern in skip if pattern]
    if skip and patterns:
        linear_layers(model, patterns)
    found = linear_layers(model, layers or None)
    for name, layer in found.items():
        if any(fnmatch(name, pattern) for pattern in patterns):
            left[name] = "--skip" if skip else "a head; --skip '' takes it too"
            continue
        try:
            check_kind(str(getattr(method, "kind", "unquantized")), layer.in_features, getattr(method, "group", None))
        except ValueError as error:
            left[name] = str(error)
    names = [name for name in found if name not in left]
    if not names:
        raise ValueError(
            f"--layers: no linear layer is left to quantize; {next(iter(left.items()), 'the model has none')}"
        )
    return names, left
