"""The part of JSON Schema (draft 7) that the schema of a recipe uses, checked by hand."""

import re
from collections.abc import Iterator
from typing import Any

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "null": type(None), "boolean": bool, "number": (int, float), "integer": int,
}  # fmt: skip
NOTES = {"description", "default", "title", "$schema", "definitions"}
CHECKED = {
    "$ref", "type", "enum", "const", "anyOf", "allOf", "not", "if", "then", "properties", "required", "additionalProperties",
    "items", "minItems", "maxItems", "minLength", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "multipleOf", "minProperties",
}  # fmt: skip


def errors(value: Any, schema: Any, root: dict[str, Any], path: str = "") -> Iterator[str]:
    """Yield `path: problem` for everything in a value that a schema rejects."""
    if isinstance(schema, bool):
        if not schema:
            yield f"{path}: not allowed"
        return
    assert not set(schema) - NOTES - CHECKED, f"unchecked: {set(schema) - NOTES - CHECKED}"
    if "$ref" in schema:
        yield from errors(value, root["definitions"][schema["$ref"].removeprefix("#/definitions/")], root, path)
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        is_bool = isinstance(value, bool)
        if not any(isinstance(value, TYPES[kind]) and is_bool == (kind == "boolean") for kind in kinds):
            yield f"{path}: {value!r} is not of the type {kinds}"
            return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: {value!r} is not one of {schema['enum']}"
    if "const" in schema and value != schema["const"]:
        yield f"{path}: {value!r} is not {schema['const']!r}"
    if "anyOf" in schema:
        branches = [list(errors(value, branch, root, path)) for branch in schema["anyOf"]]
        if all(branches):
            # The branch that was meant is the one that fails deepest inside.
            yield max((line for found in branches for line in found), key=lambda line: line.split(": ")[0].count("."))
    for branch in schema.get("allOf", []):
        yield from errors(value, branch, root, path)
    if "not" in schema and not any(errors(value, schema["not"], root, path)):
        yield f"{path}: excluded"
    if "if" in schema and not any(errors(value, schema["if"], root, path)):
        yield from errors(value, schema["then"], root, path)
    if isinstance(value, dict):
        if len(value) < schema.get("minProperties", 0):
            yield f"{path}: too few keys"
        yield from (f"{path}.{key}: missing" for key in schema.get("required", []) if key not in value)
        for key, below in value.items():
            rule = schema.get("properties", {}).get(key, schema.get("additionalProperties", True))
            yield from errors(below, rule, root, f"{path}.{key}")
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from errors(item, schema.get("items", True), root, f"{path}.{index}")
        if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
            yield f"{path}: {len(value)} items"
    if isinstance(value, str):
        if "pattern" in schema and not re.search(schema["pattern"], value):
            yield f"{path}: {value!r} does not match {schema['pattern']}"
        if len(value) < schema.get("minLength", 0):
            yield f"{path}: too short"
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
            yield f"{path}: {value} is out of bounds"
        if value <= schema.get("exclusiveMinimum", value - 1) or value >= schema.get("exclusiveMaximum", value + 1):
            yield f"{path}: {value} is out of bounds"
        if "multipleOf" in schema and value % schema["multipleOf"]:
            yield f"{path}: {value} is not a multiple"
