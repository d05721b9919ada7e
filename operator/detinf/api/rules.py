"""How a part of the resource says what it must be: CEL rules beside the fields, each with a message for people."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
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


NAME_RULE = "self.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && !self.endsWith('-pods')"
"""A resource ``a-pods`` would have the Service that is the headless one of resource ``a``."""
ShortText = Annotated[str, Field(min_length=1, max_length=253)]
QUANTITY = "[0-9]+([.][0-9]+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?"


def _quantity(value: int | str) -> int | str:
    if not re.fullmatch(QUANTITY, str(value)):
        raise ValueError("a quantity, such as 16Gi, 500m or 2")
    return value


Quantity = Annotated[
    int | Annotated[str, Field(max_length=32)],
    Field(json_schema_extra={"x-kubernetes-int-or-string": True}),
    AfterValidator(_quantity),
]
"""A Kubernetes quantity, such as ``2``, ``500m`` or ``16Gi``."""

_TERM = re.compile(
    r"(?P<not>!?)self[.](?P<call>matches|startsWith|endsWith|contains)\('(?P<text>[^']*)'\)|self != '(?P<other>[^']*)'"
)


def holds(expression: str, value: str) -> bool | None:
    """Return whether a rule over one text holds; None for a rule that this small part of CEL cannot tell.

    It knows ``self.matches('...')``, ``startsWith``, ``endsWith``, ``contains``, ``!``, ``self != '...'``, and ``&&``
    or ``||`` between them: what the fields of ``Spec`` use. It is for resources that an older schema let in.
    """
    for joint, decide in ((" && ", all), (" || ", any)):
        if joint in expression:
            parts = [holds(part, value) for part in expression.split(joint)]
            return None if None in parts else decide(map(bool, parts))
    term = _TERM.fullmatch(expression.strip())
    if term is None:
        return None
    if term["call"] is None:
        return value != term["other"]
    text = term["text"]
    found = {
        "matches": lambda: re.search(_in_python(text), value) is not None,
        "startsWith": lambda: value.startswith(text),
        "endsWith": lambda: value.endswith(text),
        "contains": lambda: text in value,
    }[term["call"]]()
    return found is not bool(term["not"])


def _in_python(pattern: str) -> str:
    # RE2's classes, and its end of the text, which is not before a last line feed as Python's is.
    return pattern.replace("[:space:]", r"\s").replace("$", r"\Z")


LABEL_VALUE = "([0-9A-Za-z]([-0-9A-Za-z_.]*[0-9A-Za-z])?)?"
LABEL_KEY = "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[0-9A-Za-z]([-0-9A-Za-z_.]*[0-9A-Za-z])?"
NO_CLIMBING = "!self.contains('//') && !self.matches('(^|/)[.][.]?(/|$)')"
