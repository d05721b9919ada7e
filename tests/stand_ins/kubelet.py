"""What the kubelet makes of a container's command and variables, rule by rule as its source has it.

Kubernetes 1.36.3, ``third_party/forked/golang/expansion/expand.go``; ``tests/clustertool/test_expansion.py`` holds the
two against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Return a text with its references replaced."""
    made, cursor = [], 0
    while cursor < len(text):
        if text[cursor] != "$" or cursor + 1 == len(text):
            made.append(text[cursor])
            cursor += 1
            continue
        following = text[cursor + 1]
        end = text.find(")", cursor + 2)
        if following == "$":
            made.append("$")
            cursor += 2
        elif following == "(" and end >= 0:
            name = text[cursor + 2 : end]
            made.append(variables.get(name, f"$({name})"))
            cursor = end + 1
        else:
            made.append("$" + following)
            cursor += 2
    return "".join(made)


def started(container: Mapping[str, Any]) -> tuple[list[str], dict[str, str]]:
    """Return the command and the variables that a container is started with; fields of the pod have their own names."""
    variables: dict[str, str] = {}
    for item in container["env"]:
        variables[item["name"]] = expand(item["value"], variables) if "value" in item else f"<{item['name']}>"
    return [expand(word, variables) for word in container["command"]], variables
