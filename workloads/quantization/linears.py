"""The linear layers of a model: found by name, replaced by name."""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatch
from typing import Any

Choice = Iterable[str] | Callable[[str, Any], bool] | None


def linear_layers(model: Any, layers: Choice = None) -> dict[str, Any]:
    """Name -> `nn.Linear` in the order of the model. layers: names or patterns with `*`, a predicate (name, module),
    or None for all. Raises ValueError for a name or pattern that matches none.
    """
    from torch import nn

    every = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    if layers is None:
        return every
    if callable(layers):
        return {name: module for name, module in every.items() if layers(name, module)}
    patterns = [layers] if isinstance(layers, str) else list(layers)
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in every):
            raise ValueError(f"layers: no linear layer is called {pattern!r}{nearest(pattern, every)}")
    return {name: module for name, module in every.items() if any(fnmatch(name, pattern) for pattern in patterns)}


def nearest(name: str, names: Iterable[str]) -> str:
    """'; nearest: ...' for messages, or nothing."""
    close = get_close_matches(name, list(names), 1, 0.3)
    return f"; nearest: {close[0]}" if close else ""


def replace_linear(model: Any, name: str, module: Any) -> None:
    """Put `module` where `name` is. Raises ValueError if there is none of that name."""
    names = dict(model.named_modules())
    if name not in names or not name:
        raise ValueError(f"replace_linear: the model has no module {name!r}{nearest(name, names)}")
    parent, _, last = name.rpartition(".")
    setattr(names[parent], last, module)
