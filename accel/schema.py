"""JSON Schema of file kinds, for editors."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_ASSUMED = {
    "type": "object",
    "description": "a number that is assumed, with its range: low <= assumed <= high",
    "properties": {name: {"type": "number"} for name in ("assumed", "low", "high")},
    "required": ["assumed", "low", "high"],
    "additionalProperties": False,
}


def with_assumed_numbers(models: Sequence[type[BaseModel]]) -> dict[str, Any]:
    """The schema of a file that is one of `models`; every number may be given as {assumed, low, high}."""
    keys, defined = models_json_schema([(model, "validation") for model in models])
    definitions = {name: _numbers(schema) for name, schema in defined["$defs"].items()}
    roots = [keys[(model, "validation")] for model in models]
    definitions["Assumed"] = _ASSUMED
    root = roots[0] if len(roots) == 1 else {"oneOf": roots}
    return {"$schema": _DIALECT, **root, "$defs": definitions}


def _numbers(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_numbers(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: _numbers(value) for key, value in schema.items()}
    if schema.get("type") not in ("integer", "number"):
        return inner
    about = {key: inner.pop(key) for key in ("title", "description") if key in inner}
    return {**about, "anyOf": [inner, {"$ref": "#/$defs/Assumed"}]}
