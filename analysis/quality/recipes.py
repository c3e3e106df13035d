"""Ways to quantize, by name: a method of `workloads.quantization` with its options."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import Any


@dataclass(frozen=True)
class Recipe:
    """A method with options. title: for tables."""

    title: str
    method: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def build(self, **changes: Any) -> Any:
        """The `Method`; `changes` go over the options. Raises ValueError for options that the method lacks."""
        from workloads.quantization.methods import method_named

        return method_named(self.method, **{**self.options, **changes})


_NVFP4 = {"kind": "w4a4_nvfp4"}
RECIPES: dict[str, Recipe] = {
    "rtn_int4": Recipe("W4A4 INT4, to nearest (naive)", "rtn", {"kind": "w4a4"}),
    "gptq_int4": Recipe("W4A4 INT4, GPTQ", "gptq", {"kind": "w4a4", "quantized_inputs": True}),
    "svd_int4": Recipe("W4A4 INT4, branch of rank 32 only", "svdquant", {"smooth": False, "iterations": 1}),
    "smooth_int4": Recipe("W4A4 INT4, smoothing only", "svdquant", {"rank": 0}),
    "quarot_int4": Recipe("W4A4 INT4, rotated (QuaRot type)", "quarot", {}),
    "svdquant_int4_r16": Recipe("SVDQuant INT4, rank 16", "svdquant", {"rank": 16}),
    "svdquant_int4": Recipe("SVDQuant INT4, rank 32", "svdquant", {"rank": 32}),
    "svdquant_int4_gptq": Recipe("SVDQuant INT4, rank 32, GPTQ", "svdquant", {"rank": 32, "gptq": True}),
    "rtn_nvfp4": Recipe("W4A4 NVFP4, to nearest (naive)", "rtn", _NVFP4),
    "gptq_nvfp4": Recipe("W4A4 NVFP4, GPTQ", "gptq", _NVFP4 | {"quantized_inputs": True}),
    "smooth_nvfp4": Recipe("W4A4 NVFP4, smoothing only", "svdquant", _NVFP4 | {"rank": 0}),
    "svdquant_nvfp4": Recipe("SVDQuant NVFP4, rank 32", "svdquant", _NVFP4 | {"rank": 32}),
    "svdquant_nvfp4_gptq": Recipe("SVDQuant NVFP4, rank 32, GPTQ", "svdquant", _NVFP4 | {"rank": 32, "gptq": True}),
    "rtn_w4a8": Recipe("W4A8 by channel, to nearest (naive)", "rtn", {"kind": "w4a8_channel"}),
    "rtn_w4a8_g128": Recipe("W4A8 progressive groups of 128, to nearest", "rtn", {"kind": "w4a8_group"}),
    "rtn_w8a8": Recipe("W8A8, to nearest", "rtn", {"kind": "w8a8"}),
    "smoothquant_w8a8": Recipe("W8A8, SmoothQuant", "smoothquant", {"kind": "w8a8"}),
    "rtn_w4a16": Recipe("W4A16 groups of 64, to nearest", "rtn", {"kind": "w4a16"}),
    "awq_w4a16": Recipe("W4A16 groups of 64, AWQ's scales", "awq", {"kind": "w4a16"}),
    "gptq_w4a16": Recipe("W4A16 groups of 64, GPTQ", "gptq", {"kind": "w4a16"}),
    "nf4": Recipe("NF4 weights, 16-bit activations", "nf4", {}),
}


def available() -> dict[str, Recipe]:
    """The recipes whose methods there are, and every registered method under its own name; needs torch."""
    from workloads.quantization.methods import methods

    known = methods()
    found = {name: recipe for name, recipe in RECIPES.items() if recipe.method in known}
    return found | {name: Recipe(_first_line(known[name]), name) for name in known if name not in found}


def find_recipe(name: str, option: str = "--method") -> Recipe:
    """The recipe of that name. Raises ValueError with the nearest one."""
    known = available()
    if name not in known:
        near = get_close_matches(name, known, 1, 0.3)
        hint = f"; nearest: {near[0]}" if near else ""
        raise ValueError(f"{option}: must be one of {', '.join(known)}, got {name!r}{hint}")
    return known[name]


def chosen(names: str | None, default: tuple[str, ...]) -> dict[str, Recipe]:
    """Recipes of a list with commas; None: those of `default` that there are."""
    if names is None:
        known = available()
        return {name: known[name] for name in default if name in known}
    return {name: find_recipe(name, "--schemes") for name in (part.strip() for part in names.split(",")) if name}


def adapted(recipe: Recipe, **changes: Any) -> dict[str, Any]:
    """Those of the changes that its method takes and that the recipe is not about: a rank of 0 stays one."""
    from workloads.quantization.methods import methods

    known = {one.name for one in fields(methods()[recipe.method])}
    fixed = {key for key in recipe.options if key != "rank" or not recipe.options[key]}
    return {key: value for key, value in changes.items() if value is not None and key in known - fixed}


def _first_line(method: Any) -> str:
    return str(method.__doc__ or "").strip().partition("\n")[0]
