"""Files of the engine's image whose bytes can change a number: their digests are part of the identity."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from detinf.guard.errors import RefusedError
from detinf.guard.packages import located

SETTLED_NS = 2_000_000_000
"""A file whose last change is as old as that is read once: a younger one could change again in the same tick."""
_known: dict[tuple[int, ...], str] = {}
"""Digests by the state of the file: the guard reads everything again once its engine runs."""


def _expanded(path: str, environment: Mapping[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        name = found[2]
        if found[1]:
            place = located(name)
            if place is None:
                raise RefusedError(f"files: {path}: there is no module {name}; use an image of the profile's release")
            return str(place / name)
        if not environment.get(name):
            raise RefusedError(f"files: {path}: {name} is not set; use an image that has the toolkit of this profile")
        return environment[name]

    return re.sub(r"\$\{(package:)?([A-Za-z_][A-Za-z0-9_]*)\}", value, path)


def digest(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file.

    Raises:
        OSError: where it cannot be read.
    """
    state = hashlib.sha256()
    with path.open("rb") as file:
        before = _state(file.fileno())
        if (known := _known.get(before)) is not None:
            return known
        while block := file.read(1 << 20):
            state.update(block)
        found = "sha256:" + state.hexdigest()
        if _state(file.fileno()) == before and time.time_ns() - max(before[3:]) > SETTLED_NS:
            _known[before] = found
    return found


def _closed(root: Path, relative: str) -> Path | None:
    """Return the folder on the way to a path that this user may not look into, which ``glob`` keeps to itself."""
    folder = root
    for part in Path(relative).parts[:-1]:
        folder = folder / part
        if "*" in part or not os.path.isdir(folder):  # noqa: PTH112 - Path's own raises where it may not look
            return None
        if not os.access(folder, os.R_OK | os.X_OK):
            return folder
    return None


def _state(file: int) -> tuple[int, ...]:
    """Return what of an open file changes with its bytes; nobody can set the time of its last change."""
    seen = os.fstat(file)
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def digests(files: Mapping[str, str], environment: Mapping[str, str], root: Path = Path("/")) -> dict[str, str]:
    """Return the digests of files by name.

    Args:
        files: path by name; it may hold ``${VARIABLE}``, ``${package:MODULE}`` (the folder of a module, where an import
            finds it) and ``*``, and exactly one file must answer to it.
        environment: of the engine.
        root: where absolute paths begin.

    Raises:
        RefusedError: where one is missing or cannot be read: engines log that at most, and serve.
    """
    found = {}
    for name, pattern in sorted(files.items()):
        relative = _expanded(pattern, environment).lstrip("/")
        try:
            matching = sorted(root.glob(relative))
        except (OSError, ValueError, NotImplementedError) as error:
            raise RefusedError(f"files: {name}: /{relative}: {error}; correct files of the profile") from error
        if not matching and (closed := _closed(root, relative)) is not None:
            remedy = f"let user {os.getuid()} read it (chmod -R a+rX in the image)"
            raise RefusedError(f"files: {name}: /{relative}: {closed} cannot be looked into; {remedy}")
        if len(matching) != 1:
            count = "no file" if not matching else f"{len(matching)} files"
            raise RefusedError(f"files: {name}: {count} at /{relative}; use an image in which {name} is installed once")
        try:
            found[name] = digest(matching[0])
        except OSError as error:
            raise RefusedError(f"files: {name}: {matching[0]}: {error.strerror}; make it readable") from error
    return found
