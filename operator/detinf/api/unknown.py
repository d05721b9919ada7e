"""Fields that the API does not have: an API server drops them, or refuses them where it is asked to be strict."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from detinf.api import names
from detinf.api.reading import Problem

METADATA = (
    *("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences"),
    *("uid", "resourceVersion", "generation", "creationTimestamp", "managedFields", "selfLink"),
    *("deletionTimestamp", "deletionGracePeriodSeconds"),
)
"""Fields of ObjectMeta (Kubernetes 1.36)."""
TOP = ("apiVersion", "kind", "metadata", "spec", "status")


def unknown_fields(resource: Mapping[str, Any]) -> list[Problem]:
    """Return the fields of a resource that there are not, as ``kubectl apply --validate=strict`` refuses them.

    A field of another kind or version is none of ours: that is told alone.
    """
    for field, wanted in (("apiVersion", names.API_VERSION), ("kind", names.KIND)):
        if resource.get(field) != wanted:
            return [Problem(field, repr(resource.get(field))[:120], f"it must be {wanted}")]
    from detinf.api import crd

    found = list(_strangers(resource, TOP, ""))
    metadata = resource.get("metadata")
    if isinstance(metadata, Mapping):
        found += _strangers(metadata, METADATA, "metadata.")
    for part in ("spec", "status"):
        found += _walk(resource.get(part), crd.schema()["properties"][part], part)
    return found


def _walk(value: Any, schema: Mapping[str, Any], path: str) -> Iterator[Problem]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, schema.get("items", {}), f"{path}[{index}]")
    if not isinstance(value, Mapping) or "properties" not in schema:
        return
    yield from _strangers(value, schema["properties"], f"{path}.")
    for name, item in schema["properties"].items():
        if name in value:
            yield from _walk(value[name], item, f"{path}.{name}")


def _strangers(value: Mapping[str, Any], known: Iterable[str], path: str) -> Iterator[Problem]:
    listed = list(known)
    for name in value:
        if name in listed:
            continue
        folded = {item.lower(): item for item in listed}
        near = difflib.get_close_matches(str(name).lower(), folded, 1, 0.6)
        remedy = f"did you mean {folded[near[0]]}?" if near else f"there is {', '.join(sorted(listed))}"
        yield Problem(f"{path}{name}", "no field", f"{remedy} kubectl explain {names.PLURAL} tells them all")
