"""Reading a resource that an older schema may have let in: what the API server would say of it today, in our words.

A resource that cannot be read is a problem to report, never an exception.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from detinf.api.names import MAX_NAME_LENGTH
from detinf.api.rules import NAME_RULE, VALIDATIONS, holds
from detinf.api.types import Spec

PROBLEMS = 5
"""Told at once, at most."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a resource."""

    field: str
    value: str
    remedy: str

    def __str__(self) -> str:
        """Return the sentence for people."""
        return f"{self.field} is {self.value}: {self.remedy}"


def read_spec(resource: Mapping[str, Any]) -> tuple[Spec | None, list[Problem]]:
    """Return the spec, or why it cannot be read."""
    try:
        return Spec.model_validate(resource.get("spec")), []
    except ValidationError as error:
        return None, [_problem(item) for item in error.errors(include_url=False)[:PROBLEMS]]


def broken_rules(resource: Mapping[str, Any]) -> list[Problem]:
    """Return the texts of a spec that can be read, which break the rules of their own fields."""
    return list(_broken_rules(resource.get("spec"), _schema(), "spec"))[:PROBLEMS]


def read_name(resource: Mapping[str, Any]) -> list[Problem]:
    """Return what is wrong with the resource's name: a longer one makes a StatefulSet that makes no pod."""
    name = resource.get("metadata", {}).get("name")
    if name is None or (len(name) <= MAX_NAME_LENGTH and holds(NAME_RULE, name)):
        return []
    remedy = f"create it anew under a name of at most {MAX_NAME_LENGTH} lower-case letters, digits and '-'"
    remedy += ", which does not end in -pods"
    return [Problem("metadata.name", repr(name), remedy)]


@functools.cache
def _schema() -> Mapping[str, Any]:
    from detinf.api import crd

    spec: Mapping[str, Any] = crd.schema()["properties"]["spec"]
    return spec


def _broken_rules(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[Problem]:
    """Yield the texts whose own rules they break."""
    if isinstance(value, Mapping):
        for name, item in schema.get("properties", {}).items():
            if name in value:
                yield from _broken_rules(value[name], item, f"{path}.{name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _broken_rules(item, schema.get("items", {}), f"{path}[{index}]")
    elif isinstance(value, str):
        for rule in schema.get(VALIDATIONS, ()):
            if holds(rule["rule"], value) is False:
                yield Problem(path, f"{value!r:.120}", rule["message"])


def _problem(error: ErrorDetails) -> Problem:
    """Return what pydantic found in the words of this project."""
    where = "spec"
    for part in error["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}"
    if error["type"] == "missing" or error.get("input") is None:
        return Problem(where, "missing", "add it (kubectl explain tells what it is) and apply again")
    return Problem(where, f"{error.get('input')!r:.120}", f"use {_wanted(error)}; correct it and apply again")


def _wanted(error: ErrorDetails) -> str:
    """Return what is wanted in place of what pydantic refused."""
    limits = error.get("ctx", {})
    kind = error["type"]
    if kind in {"literal_error", "enum"}:
        return f"one of {limits['expected']}"
    if kind == "greater_than_equal":
        return f"{limits['ge']} or more"
    if kind == "less_than_equal":
        return f"{limits['le']} or less"
    if kind in {"string_too_long", "too_long"}:
        return f"at most {limits['max_length']} {'characters' if kind.startswith('string') else 'entries'}"
    if kind == "string_too_short":
        return f"at least {limits['min_length']} character(s)"
    if kind == "value_error":
        return str(limits["error"])
    if kind.startswith("int_"):
        return "a whole number"
    plain = {
        "string_type": "a text; quote it if it looks like a number",
        "list_type": "a list",
        "dict_type": "a map",
        "model_type": "a map",
        "model_attributes_type": "a map",
    }
    return plain.get(kind, f"something else ({error['msg']})")
