"""The manifest of a model: every file with its digest, and one digest over them all.

``detinf manifest FOLDER`` prints it, ``spec.model.manifestDigest`` asks for it, and the guard holds the mounted folder
against it before the engine starts. Reading the weights once costs as much as loading them; asking for it is a choice.
"""

from __future__ import annotations

import os
from pathlib import Path

from detinf.guard.canonical import digest as canonical_digest
from detinf.guard.errors import RefusedError
from detinf.guard.files import digest as digest_of_file

__all__ = ["canonical_digest", "check", "digest", "manifest"]


def manifest(model: Path) -> dict[str, str]:
    """Return ``sha256:<hex>`` by relative path of every file of a model.

    Links are followed, as hubs' caches are made of them; files and folders whose name begins with a dot are no part
    of a model (download tools leave their notes there).

    Raises:
        OSError: where something cannot be read.
    """
    found = {}
    for folder, folders, names in os.walk(model, followlinks=True, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if not name.startswith("."):
                path = Path(folder, name)
                found[path.relative_to(model).as_posix()] = digest_of_file(path)
    return found


def _raise(error: OSError) -> None:
    raise error


def digest(model: Path) -> str:
    """Return ``sha256:<hex>`` of the manifest's canonical bytes.

    Raises:
        OSError: where something cannot be read.
    """
    return canonical_digest(manifest(model))


def check(model: Path, expected: str | None) -> None:
    """Hold a model against the plan's digest; without one nothing is read.

    Raises:
        RefusedError: where the model is another, or cannot be read.
    """
    if expected is None:
        return
    try:
        seen = digest(model)
    except OSError as error:
        raise RefusedError(f"model: {error.filename}: {error.strerror}; restore the model's files") from error
    if seen != expected:
        raise RefusedError(
            f"model: the manifest of {model} is {seen}, the plan says {expected}; restore the model's files, or set "
            "spec.model.manifestDigest to what `detinf manifest` prints for the ones that are meant"
        )
