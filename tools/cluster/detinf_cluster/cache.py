"""Where things are kept: binaries, images and clusters under the user's cache directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def locked(file: Path, waiting: str) -> Iterator[None]:
    """Hold a lock file, which goes with the process; say what is waited for where somebody holds it."""
    import fcntl

    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def alone(name: str, foreground: str = "") -> Iterator[None]:
    """Let nobody else start or end the cluster of a name meanwhile; the lock goes with the process that holds it.

    Args:
        name: the cluster's.
        foreground: what is told to others who would wait in vain, since this lasts.

    Raises:
        ClusterError: where somebody's lasts.
    """
    import fcntl

    cluster_dir(name)
    with (cache_dir() / f"cluster-{name}.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            if told := lock.read():
                raise ClusterError(told) from None
            say(f"another command is at work on {name}; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write(foreground)
        lock.flush()
        yield
        lock.truncate(0)


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"cluster: {message}", flush=True)
