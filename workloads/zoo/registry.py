"""Registry of the model zoo: a name, what may be chosen about it, and the function that builds it.

A family file (`workloads/zoo/<family>.py`) holds configurations as data and registers one builder a name.
torch, transformers and diffusers are imported inside builders, so that names and options can be listed without.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib import import_module
from math import inf
from typing import Any

FAMILIES = ("flux", "unet", "pixart", "sana", "autoencoders", "text_encoders", "language", "encoders", "generation")


@dataclass(frozen=True)
class Stage:
    """One module with its inputs, run `repeat` times in a row by the whole model.

    name     "transformer", "text_encoder", "decoder", ...; the first part of every module path in the trace
    module   torch.nn.Module, weights on the device of the inputs ("meta": shapes only)
    args, kwargs   inputs of `module(*args, **kwargs)`
    """

    name: str
    module: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    repeat: int = 1


@dataclass(frozen=True)
class Place:
    """Where a model is built: `device` ("meta", "cpu", "cuda"), `dtype` ("bfloat16", "float16", "float32") and
    `weights`, a local folder with a checkpoint of the published layout, or None (random, or nothing on meta).
    """

    device: str = "meta"
    dtype: str = "bfloat16"
    weights: str | None = None


Builder = Callable[[Place, Mapping[str, Any]], list[Stage]]


@dataclass(frozen=True)
class Model:
    """One name of the zoo.

    options   what may be chosen and its default: size (pixels, square image), batch, tokens (new tokens, or the
              text length), past (tokens in the cache), steps, guidance, layers (fewer than published), ...
    allowed   the values that an option may take, where they are few: {"size": (512, 1024)}
    origin    where the configuration is published
    """

    name: str
    title: str
    origin: str
    options: Mapping[str, Any]
    build: Builder
    allowed: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    dtype: str = "bfloat16"


_MODELS: dict[str, Model] = {}


def register(model: Model) -> Model:
    """Enter a model. Raises ValueError for a name that is taken."""
    if model.name in _MODELS:
        raise ValueError(f"model {model.name!r} is already registered")
    _MODELS[model.name] = model
    return model


def models() -> dict[str, Model]:
    """All models by name."""
    for family in FAMILIES:
        import_module(f"workloads.zoo.{family}")
    return dict(sorted(_MODELS.items()))


def find_model(name: str) -> Model:
    """The model of that name. Raises ValueError with the nearest name."""
    known = models()
    if name not in known:
        near = get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"model: must be one of {', '.join(known)}, got {name!r}{hint}")
    return known[name]


def options_of(model: Model, given: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults and what is given, checked. Raises ValueError (option, rule, value), all faults in one message."""
    faults = []
    for key, value in given.items():
        if key not in model.options:
            near = get_close_matches(key, model.options, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            faults.append(f"{model.name}.{key}: must be one of {', '.join(model.options)}{hint}")
        elif key in model.allowed and value not in model.allowed[key]:
            faults.append(f"{model.name}.{key}: must be one of {model.allowed[key]}, got {value!r}")
        elif type(model.options[key]) is int and (type(value) is not int or value < (key != "past")):
            faults.append(f"{model.name}.{key}: must be an integer >= {int(key != 'past')}, got {value!r}")
        elif type(model.options[key]) is float and not (type(value) in (int, float) and 0 <= value < inf):
            faults.append(f"{model.name}.{key}: must be a number >= 0, got {value!r}")
    if faults:
        raise ValueError("; ".join(faults))
    return {**model.options, **given}


def label(name: str, options: Mapping[str, Any]) -> str:
    """The model's name and what is chosen other than the default: "sana_1600m_size2048_batch2"."""
    model = find_model(name)
    chosen = options_of(model, options)
    changed = [f"{key}{value}".replace(".", "p") for key, value in chosen.items() if value != model.options[key]]
    return "_".join([name, *changed])
