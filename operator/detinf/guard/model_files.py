"""Every file of a model: what is small is hashed always, since a tokenizer or a template changes every prompt.

Weights are told by name and size alone; ``spec.model.manifestDigest`` is for their bytes. Links are followed, as hubs'
caches are made of them. Files and folders whose name begins with a dot are no part of a model (download tools leave
their notes there), and neither is ``lost+found`` (a file system's own, which root alone may read).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from detinf.guard.canonical import digest as canonical_digest
from detinf.guard.errors import RefusedError
from detinf.guard.files import digest as digest_of_file

WEIGHTS = frozenset(
    {
        *(".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".ggml", ".onnx", ".onnx_data", ".h5", ".msgpack"),
        *(".ot", ".npz", ".tflite", ".mlmodel", ".pdparams", ".distcp", ".nemo", ".engine", ".params"),
    }
)
"""How files of weights end; ``tokenizer.model`` is none."""
SMALL_BYTES = 64 * 2**20
"""What no known ending tells is hashed up to here: the largest tokenizers have half of it."""
MOST_FILES = 4096
MOST_FOLDERS = 1024
"""A model has hundreds at most; whole caches and home directories have more."""
HASHED = "sha256:"
SIZED = "bytes:"
SHOWN = 3


def walk(model: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative path, path) of every file of a model, in the order of their paths.

    Raises:
        RefusedError: naming what cannot be read, is no file, leads back into itself, or is one file too many.
    """
    found: list[tuple[str, Path]] = []
    open_ends: list[tuple[Path, str, frozenset[tuple[int, int]]]] = [(model, "", frozenset())]
    folders = 0
    while open_ends:
        folder, prefix, above = open_ends.pop()
        folders += 1
        state, names = _listed(folder)
        place = (state.st_dev, state.st_ino)
        if place in above:
            raise RefusedError(f"model: {folder} is a link to a folder that it lies in; remove the link")
        if folders > MOST_FOLDERS:
            raise _too_many(model, f"{MOST_FOLDERS} folders")
        for name in names:
            if name.startswith(".") or (not prefix and name == "lost+found"):
                continue
            path, relative = folder / name, f"{prefix}{name}"
            try:
                relative.encode()
            except UnicodeEncodeError:
                raise RefusedError(f"model: {os.fsencode(path)!r} is no name in UTF-8; rename the file") from None
            if _kind(path) == "folder":
                open_ends.append((path, f"{relative}/", above | {place}))
            else:
                found.append((relative, path))
                if len(found) > MOST_FILES:
                    raise _too_many(model, f"{MOST_FILES} files")
    yield from sorted(found)


def _too_many(model: Path, limit: str) -> RefusedError:
    return RefusedError(f"model: {model} holds more than {limit}; let spec.model.source name the folder of one model")


def _listed(folder: Path) -> tuple[os.stat_result, list[str]]:
    try:
        return folder.stat(), os.listdir(folder)  # noqa: PTH208 - names are all that is wanted
    except OSError as error:
        raise unreadable(folder, error) from error


def _kind(path: Path) -> str:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        raise no_file(path)
    return "file"


def no_file(path: Path) -> RefusedError:
    """Return why a pipe, a socket or a device is no part of a model: to read one may wait for ever."""
    return RefusedError(f"model: {path} is neither a file nor a folder; remove it from the model's folder")


def unreadable(path: Path, error: OSError) -> RefusedError:
    """Return why a file or folder of a model cannot be read, with what is to be done about it."""
    if path.is_symlink() and isinstance(error, FileNotFoundError):
        target = path.readlink()
        remedy = "download the model again, or copy it with `cp -L`: the link leads out of what is mounted"
        return RefusedError(f"model: {path} is a link to {target}, which is not there; {remedy}")
    if isinstance(error, PermissionError):
        remedy = f"let user {os.getuid()} read it (chmod -R a+rX on the model's folder)"
    else:
        remedy = "restore the model's files"
    return RefusedError(f"model: {path}: {error.strerror}; {remedy}")


def listed(model: Path) -> dict[str, str]:
    """Return what is known of every file by relative path: ``sha256:<hex>``, or ``bytes:<size>`` of weights.

    A file with the ending of weights, or larger than ``SMALL_BYTES``, is told by its size.

    Raises:
        RefusedError: see ``walk``, and for a file that cannot be read.
    """
    return {relative: _told(path) for relative, path in walk(model)}


def _told(path: Path) -> str:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
    return f"{SIZED}{size}" if path.suffix in WEIGHTS or size > SMALL_BYTES else hashed(path)


def hashed(path: Path) -> str:
    """Return ``sha256:<hex>`` of a file of a model.

    Raises:
        RefusedError: where it cannot be read.
    """
    try:
        return digest_of_file(path)
    except OSError as error:
        raise unreadable(path, error) from error


def digest(files: Mapping[str, str]) -> str:
    """Return one digest over what ``listed`` tells."""
    return canonical_digest(dict(files))


def named(arguments: list[str], root: Path, working: Path) -> dict[str, str]:
    """Return the digests of the files that arguments of the plan name, such as ``--chat-template FILE``.

    Args:
        arguments: what follows ``vllm serve MODEL``.
        root: where absolute paths begin.
        working: the engine's working folder, where other paths begin.

    Raises:
        RefusedError: where one is there and cannot be read.
    """
    found = {}
    for word in arguments:
        text = word.partition("=")[2] if word.startswith("--") else word
        path = file_of(text, root, working)
        if path is not None:
            try:
                found[text] = digest_of_file(path)
            except OSError as error:
                raise argument_unreadable(text, error) from error
    return found


def file_of(text: str, root: Path, working: Path) -> Path | None:
    """Return the file that a word names, where there is one; a folder, a number or a text in JSON is none."""
    if not text or "\0" in text:
        return None
    path = root / text.lstrip("/") if text.startswith("/") else working / text
    return path if os.path.isfile(path) else None  # noqa: PTH113 - Path's own raises where a text is too long for a name


def argument_unreadable(text: str, error: OSError) -> RefusedError:
    """Return why the file that an argument names cannot be read."""
    words = f"command: the file {text}: {error.strerror}"
    return RefusedError(f"{words}; let user {os.getuid()} read it, or correct spec.engine.extraArgs")


def check_same(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """Hold a model's files as they are once the engine runs against those that it was started on.

    Raises:
        RefusedError: naming the files that differ.
    """
    if words := changed(before, after):
        raise RefusedError(f"model: files changed while the engine started: {words}; start it on files that stay")


def changed(before: Mapping[str, str], after: Mapping[str, str]) -> str | None:
    """Return in words which files differ, or None."""
    names = sorted(name for name in {**before, **after} if before.get(name) != after.get(name))
    if not names:
        return None
    shown = [f"{name} was {_short(before.get(name))} and is {_short(after.get(name))}" for name in names[:SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _short(told: str | None) -> str:
    return "not there" if told is None else told[: len(HASHED) + 12]
