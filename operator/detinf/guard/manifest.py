"""The manifest of a model: every file with its digest, and one digest over them all.

``detinf manifest FOLDER`` prints it, ``spec.model.manifestDigest`` asks for it, and the guard holds the mounted folder
against it before the engine starts. Reading the weights once costs as much as loading them; asking for it is a choice.
"""

from __future__ import annotations

from pathlib import Path

from detinf.guard.canonical import digest as canonical_digest
from detinf.guard.errors import RefusedError
from detinf.guard.model_files import hashed, walk

__all__ = ["canonical_digest", "check", "digest", "manifest"]


def manifest(model: Path) -> dict[str, str]:
    """Return ``sha256:<hex>`` by relative path of every file of a model (``model_files.walk``).

    Raises:
        RefusedError: where something cannot be read.
    """
    return {relative: hashed(path) for relative, path in walk(model)}


def digest(model: Path) -> str:
    """Return ``sha256:<hex>`` of the manifest's canonical bytes.

    Raises:
        RefusedError: where something cannot be read.
    """
    return canonical_digest(manifest(model))


def check(model: Path, expected: str | None) -> None:
    """Hold a model against the plan's digest; without one nothing is read.

    Raises:
        RefusedError: where the model is another, or cannot be read.
    """
    if expected is None:
        return
    seen = digest(model)
    if seen != expected:
        raise RefusedError(
            f"model: the manifest of {model} is {seen}, the plan says {expected}; restore the model's files, or set "
            "spec.model.manifestDigest to what `detinf manifest` prints for the ones that are meant"
        )
