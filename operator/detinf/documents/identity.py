"""Tier N in words: what an engine is beside its plan and its hardware, and where two engines differ. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from detinf.guard.canonical import digest

TOLD_ELSEWHERE = ("plan", "hardware")
"""Parts of Tier N that are compared by themselves: by the plan's digest, and by ``detinf.topology.drift``."""
SCHEMA = "schema"
LONGEST = 200
"""Characters of a value that is told as it is; a longer one by its digest."""


MODEL_FILES = "modelFiles"
MOST_FILES = 64
"""So many files of a model are told each, so that the one that differs has a name; more are told by their digest."""
SHORT = len("sha256:") + 16


def told(tier_n: Mapping[str, Any], model_files: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the identity as a report carries it: text by ``part``, or by ``part.key`` where the part has keys.

    Args:
        tier_n: an attestation's ``identity``.
        model_files: its ``modelFiles``; believed where the identity has their digest.
    """
    found: dict[str, str] = {}
    if model_files and len(model_files) <= MOST_FILES and digest(dict(model_files)) == tier_n.get(MODEL_FILES):
        found = {f"{MODEL_FILES}.{name}": value[:SHORT] for name, value in sorted(model_files.items())}
        tier_n = {part: value for part, value in tier_n.items() if part != MODEL_FILES}
    for part, value in sorted(tier_n.items()):
        if part in TOLD_ELSEWHERE:
            continue
        if isinstance(value, dict):
            found |= {f"{part}.{key}": _text(inner) for key, inner in sorted(value.items())}
        else:
            found[part] = _text(value)
    return found


def _text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST else digest(value)


def differing(pinned: Mapping[str, str], seen: Mapping[str, str]) -> list[str]:
    """Return what differs, each as ``part.key: old -> new``; nothing where a newer guard tells more than an older."""
    if pinned.get(SCHEMA) != seen.get(SCHEMA):
        return []
    return [
        f"{key}: {_shown(pinned.get(key))} -> {_shown(seen.get(key))}"
        for key in sorted({*pinned, *seen})
        if pinned.get(key) != seen.get(key)
    ]


def _shown(text: str | None) -> str:
    return "none" if text is None else repr(text)
