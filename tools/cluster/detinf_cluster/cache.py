"""Where things are kept: binaries, images and clusters under the user's cache directory."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent


class ClusterError(Exception):
    """Something that a person has to know or do; the message is one line."""


def cache_dir() -> Path:
    """Return the cache directory, which ``DETINF_CACHE`` or ``XDG_CACHE_HOME`` may move."""
    named = os.environ.get("DETINF_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(named) if named else base / "detinf"
    path.mkdir(parents=True, exist_ok=True)
    return path


def cluster_dir(name: str) -> Path:
    """Return the folder of a cluster.

    Raises:
        ClusterError: for a name that cannot be one.
    """
    if not name or len(name) > 20 or not all(letter.isalnum() or letter == "-" for letter in name):
        raise ClusterError(f"--name: {name!r} is no name; use up to 20 letters, digits and dashes")
    return cache_dir() / "clusters" / name


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"cluster: {message}", flush=True)
