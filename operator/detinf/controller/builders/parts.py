"""What all children share: metadata, the owner reference, and the form of a ConfigMap."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detinf.api import names
from detinf.cluster.port import Manifest

Resource = Mapping[str, Any]
"""A ``DeterministicInference`` as the API server returns it."""


def name_of(resource: Resource) -> str:
    """Return the resource's name."""
    return str(resource["metadata"]["name"])


def owner_reference(resource: Resource) -> dict[str, Any]:
    """Return the reference that lets the garbage collector remove a child with its resource.

    It blocks the owner's deletion where that is asked for in the foreground: who waits for it waits for the pods.
    """
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": name_of(resource),
        "uid": str(resource["metadata"]["uid"]),
        "controller": True,
        "blockOwnerDeletion": True,
    }


def metadata(resource: Resource, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return a child's metadata: the common labels, its own, and its owner."""
    return {
        "name": name,
        "namespace": str(resource["metadata"]["namespace"]),
        "labels": names.common_labels(name_of(resource)) | dict(labels or {}),
        "ownerReferences": [owner_reference(resource)],
    }


def config_map(
    resource: Resource, name: str, data: Mapping[str, str], *, labels: Mapping[str, str], immutable: bool
) -> Manifest:
    """Return a ConfigMap.

    Args:
        resource: the owner.
        name: its name; that of an immutable one is derived from its content.
        data: text by key.
        labels: beside the common ones.
        immutable: whether its content can never change.
    """
    manifest: Manifest = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": metadata(resource, name, labels),
    }
    if data:  # the API server does not store an empty map, and the manifest would never equal what it reads
        manifest["data"] = dict(data)
    if immutable:
        manifest["immutable"] = True
    return manifest
