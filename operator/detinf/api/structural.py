"""Which schemas the API server accepts: the rules of structural schemas, checked without a cluster.

Each rule was measured against Kubernetes 1.36; a schema that passes here is accepted there with strict validation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

Schema = dict[str, Any]

KEYS = frozenset(
    {
        "additionalProperties",
        "default",
        "description",
        "enum",
        "exclusiveMaximum",
        "exclusiveMinimum",
        "format",
        "items",
        "maxItems",
        "maxLength",
        "maxProperties",
        "maximum",
        "minItems",
        "minLength",
        "minProperties",
        "minimum",
        "nullable",
        "pattern",
        "properties",
        "required",
        "type",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    }
)
"""What may stand in a schema; everything else is refused, dropped in silence, or warned about by the API server."""

FORMATS = frozenset({"date-time", "int32", "int64", "uri", "uuid"})
RULE_KEYS = frozenset({"rule", "message", "messageExpression", "reason", "fieldPath", "optionalOldSelf"})
LOOK_AROUND = re.compile(r"\(\?(?!:|P<)")


def violations(schema: Schema, path: str = "", *, bounded: bool = True) -> Iterator[str]:
    """Yield what the API server would refuse or drop, with its path.

    Args:
        schema: the schema of one value, with everything in it.
        path: where it is, for the messages.
        bounded: whether every string, list and map must have an upper bound, without which the cost of a CEL rule
            over it is estimated as too high. A status has no rules.
    """
    for key in sorted(schema.keys() - KEYS):
        yield f"{path}: {key} is not for a structural schema"
    kind = schema.get("type")
    free = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    if not isinstance(kind, str) and not free:
        yield f"{path}: type is {kind!r}, expected one type"
    if kind == "object":
        yield from _object_violations(schema, path, bounded=bounded)
    elif kind == "array":
        yield from _array_violations(schema, path, bounded=bounded)
    elif bounded and (kind == "string" or free) and "maxLength" not in schema and "enum" not in schema:
        yield f"{path}: a string needs maxLength"
    yield from _value_violations(schema, path)
    yield from (
        f"{path}: the rule {item.get('rule')!r} has no message, or something that a rule cannot have"
        for item in schema.get("x-kubernetes-validations", ())
        if not item.get("message") or item.keys() - RULE_KEYS
    )


def _value_violations(schema: Schema, path: str) -> Iterator[str]:
    if LOOK_AROUND.search(schema.get("pattern", "")):
        yield f"{path}: RE2 knows no look-around: {schema['pattern']}"
    if "format" in schema and schema["format"] not in FORMATS:
        yield f"{path}: format {schema['format']!r} is unknown to the API server"
    for name in ("exclusiveMinimum", "exclusiveMaximum"):
        if name in schema and not isinstance(schema[name], bool):
            yield f"{path}: {name} is a boolean beside its limit in OpenAPI 3.0"
    if "default" in schema:
        yield from _default_violations(schema["default"], schema, path)


def _object_violations(schema: Schema, path: str, *, bounded: bool) -> Iterator[str]:
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    if others is not None and properties:
        yield f"{path}: properties and additionalProperties exclude each other"
    if isinstance(others, bool):
        yield f"{path}: additionalProperties must be a schema; what it stands for would be pruned"
    elif others is not None:
        if bounded and "maxProperties" not in schema:
            yield f"{path}: a map needs maxProperties"
        yield from violations(others, f"{path}[*]", bounded=bounded)
    for name in schema.get("required", ()):
        if name not in properties:
            yield f"{path}: required {name} is no property"
    for name, item in properties.items():
        yield from violations(item, f"{path}.{name}", bounded=bounded)


def _array_violations(schema: Schema, path: str, *, bounded: bool) -> Iterator[str]:
    items = schema.get("items")
    if not isinstance(items, dict):
        yield f"{path}: a list needs one schema for its items"
        return
    if bounded and "maxItems" not in schema:
        yield f"{path}: a list needs maxItems"
    for key in schema.get("x-kubernetes-list-map-keys", ()):
        if key not in items.get("required", ()) and "default" not in items.get("properties", {}).get(key, {}):
            yield f"{path}: the key {key} must be required or have a default"
    yield from violations(items, f"{path}[*]", bounded=bounded)


def _default_violations(value: Any, schema: Schema, path: str) -> Iterator[str]:
    kinds = {"string": str, "integer": int, "boolean": bool, "object": Mapping, "array": list}
    expected = kinds.get(schema.get("type", ""), object)
    if value is None or not isinstance(value, expected):
        yield f"{path}: the default {value!r} is no {schema.get('type')}"
        return
    if "enum" in schema and value not in schema["enum"]:
        yield f"{path}: the default {value!r} is none of {schema['enum']}"
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        yield f"{path}: the default {value!r} does not match {schema['pattern']}"
    if isinstance(value, int) and not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        yield f"{path}: the default {value!r} is outside its limits"
    if schema.get("type") == "object" and (missing := set(schema.get("required", ())) - value.keys()):
        yield f"{path}: the default leaves out the required {', '.join(sorted(missing))}"
