"""The errors of pydantic in plain words, and what a schema allows at a path."""

import re
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from accel.fault import Path, nearest

_WORDS = {
    "missing": "missing key",
    "extra_forbidden": "unknown key",
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "tuple_type": "must be a list",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "none_required": "must be empty",
    "greater_than": "must be > {gt}",
    "greater_than_equal": "must be >= {ge}",
    "less_than": "must be < {lt}",
    "less_than_equal": "must be <= {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match {pattern}",
    "union_tag_not_found": "must name its kind in {discriminator}",
    "union_tag_invalid": "must be of kind {expected_tags}",
    "value_error": "{error}",
}
_UNITS = {  # longest suffix first: `_bytes_per_s` ends in `_s` too
    "_bytes_per_s": "bytes per second",
    "_flops_per_s": "operations per second",
    "_pj_per_bit": "picojoules per bit",
    "_cycles": "cycles of its clock",
    "_bytes": "bytes",
    "bytes": "bytes",
    "_bits": "bits",
    "_mm2": "square millimetres",
    "_hz": "hertz",
    "_ps": "picoseconds",
    "_ma": "milliamperes",
    "_pj": "picojoules",
    "_w": "watts",
    "_s": "seconds",
    "_j": "joules",
}
_NUMBER = re.compile(r"^\s*[-+]?[0-9][0-9_.,]*([eE][-+]?[0-9]+)?\s*(?P<unit>[^\d\s].*)?$")


def words(error: Mapping[str, Any]) -> str:
    """The rule that an error of `ValidationError.errors()` reports."""
    pattern = _WORDS.get(error["type"])
    if pattern is None:
        return str(error["msg"])
    context = {name: _plain(value) for name, value in error.get("ctx", {}).items()}
    return pattern.format_map(context)


def _plain(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def hint(error: Mapping[str, Any], model: type[BaseModel]) -> str:
    """What would have been right: allowed keys, nearest literal, or how to write the number."""
    kind, loc, value = error["type"], error["loc"], error["input"]
    if kind == "extra_forbidden":
        return nearest(loc[-1], keys_at(model, loc[:-1]))
    names = re.findall(r"'([^']*)'", words(error)) if kind == "literal_error" else []
    if names:
        return nearest(value, names, show=False)
    numeric = kind == "literal_error" or words(error) in ("must be a number", "must be a whole number")
    if numeric and isinstance(value, str):
        return _number_hint(value, str(next((part for part in reversed(loc) if _is_key(part)), "")))
    return ""


def _is_key(part: str | int) -> bool:
    return isinstance(part, str) and part.isidentifier()


def _number_hint(text: str, key: str) -> str:
    match = _NUMBER.match(text)
    if not match:
        return ""
    if not match["unit"]:
        return "write the number without quotes"
    unit = next((name for suffix, name in _UNITS.items() if key.endswith(suffix)), "")
    where = f" in {unit}; the unit is in the key's name" if unit else ", without a unit"
    return f"write the plain number{where}"


def keys_at(model: type[BaseModel], loc: Path) -> set[str]:
    """The keys that the schema allows in the mapping at `loc` (of any member of a union)."""
    found: set[type[BaseModel]] = {model}
    for part in loc:
        found = {inner for outer in found for inner in _step(outer, part)} or found
    return {name for outer in found for name in _keys(outer)}


def _step(model: type[BaseModel], part: str | int) -> set[type[BaseModel]]:
    return {m for name, info in _keys(model).items() if name == part for m in _models(info.annotation)}


def _keys(model: type[BaseModel]) -> dict[str, FieldInfo]:
    return {info.alias or name: info for name, info in model.model_fields.items()}


def _models(annotation: Any) -> Iterable[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Annotated, Union, types.UnionType, tuple, list, dict):
        return [model for inner in get_args(annotation) for model in _models(inner)]
    return []
