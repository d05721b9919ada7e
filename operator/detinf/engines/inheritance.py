"""How a profile is written over another one: lists of facts are merged by what each fact is known by."""

from __future__ import annotations

from typing import Any

KNOWN_BY = ("flag", "flags", "names", "name", "path", "text", "stimulus", "field")


def merge(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return a profile's content over the one that it inherits from.

    An entry that is known replaces the inherited one in its place, others follow; everything else replaces what was
    inherited. ``remove`` lists what to leave out.
    """
    removed = set(child.get("remove", []))
    result = {key: value for key, value in parent.items() if key != "abstract"}
    for key, value in child.items():
        if key not in {"inherits", "remove"}:
            result[key] = _merged(result.get(key, []), value) if _is_facts(value) else value
    return {
        key: [item for item in value if known_as(item) not in removed] if _is_facts(value) else value
        for key, value in result.items()
    }


def _is_facts(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def known_as(item: dict[str, Any]) -> str:
    """Return what a fact is known by: its flag, its name and so on; the keys of a flag are one fact each list."""
    parts = [item[key] for key in ("keys", *KNOWN_BY) if key in item]
    texts = [part if isinstance(part, str) else ",".join(map(str, part)) for part in parts]
    return ":".join(reversed(texts)) if "keys" in item else next(iter(texts), "")


def _merged(parent: list[dict[str, Any]], child: list[dict[str, Any]]) -> list[dict[str, Any]]:
    replacing = {known_as(item): item for item in child}
    kept = [replacing.pop(known_as(item), item) for item in parent]
    return [*kept, *replacing.values()]
