"""How a part of the resource says what it must be: CEL rules beside the fields, each with a message for people."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

VALIDATIONS = "x-kubernetes-validations"
Rule = dict[str, str]


def rule(expression: str, message: str, *, at: str | None = None) -> Rule:
    """Return a CEL rule; the message names field and remedy, since the API server adds only the path.

    Args:
        expression: what must hold.
        message: the sentence for people.
        at: path of the field to blame, such as ``.engine.resources``; the ruled part itself when None.
    """
    return {"rule": expression, "message": message} | ({"fieldPath": at} if at else {})


def ruled(*rules: Rule) -> dict[str, Any]:
    """Return the ``json_schema_extra`` of a field with CEL rules."""
    return {VALIDATIONS: list(rules)}


def spelled(pattern: str, message: str) -> dict[str, Any]:
    """Return the ``json_schema_extra`` of a text that matches a pattern; a schema's own ``pattern`` has no message."""
    return ruled(rule(f"self.matches('{pattern}')", message))


class ApiModel(BaseModel):
    """A part of the resource. Unknown fields are ignored: a newer resource must not crash an older operator."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True, use_attribute_docstrings=True
    )
    RULES: ClassVar[tuple[Rule, ...]] = ()
    """CEL rules over the whole part."""


ShortText = Annotated[str, Field(min_length=1, max_length=253)]
Quantity = Annotated[
    int | Annotated[str, Field(max_length=32)], Field(json_schema_extra={"x-kubernetes-int-or-string": True})
]
"""A Kubernetes quantity, such as ``2``, ``500m`` or ``16Gi``."""

LABEL_VALUE = "([0-9A-Za-z]([-0-9A-Za-z_.]*[0-9A-Za-z])?)?"
LABEL_KEY = "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[0-9A-Za-z]([-0-9A-Za-z_.]*[0-9A-Za-z])?"
NO_CLIMBING = "!self.contains('//') && !self.split('/').exists(part, part == '..' || part == '.')"
