"""The download, as a process of its own: ``python3 -m detinf.guard.fetch HUB REPOSITORY REVISION FOLDER``.

It calls the library that the engine's image brings, which the guard itself must not import, and writes one line of
JSON to its standard output: ``{"files": {path: bytes}}``, or ``{"problem": ..., "remedy": ...}``. Whatever the library
prints goes to standard error. The token is where the library looks for it, in the environment, and is never written.
"""

from __future__ import annotations

import errno
import fnmatch
import importlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from detinf.guard.hubs import HUBS, Hub

OTHER_FORMATS = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.gguf", "*.tflite"),
    "original/*",
)
"""The same weights again: vLLM reads none of these where there are safetensors (its loader's order of patterns)."""

FULL = (errno.ENOSPC, errno.EDQUOT)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


def _ignored(paths: Iterable[str]) -> list[str]:
    safetensors = any(path.endswith(".safetensors") and "/" not in path for path in paths)
    return list(OTHER_FORMATS) if safetensors else []


def _wanted(files: dict[str, int], ignored: list[str]) -> dict[str, int]:
    return {
        path: size for path, size in files.items() if not any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
    }


def from_hugging_face(library: Any, repository: str, revision: str, folder: Path) -> dict[str, int]:
    """Download with huggingface_hub; return the sizes of what must be there, in bytes.

    The listing comes first and is what is held against the folder: ``snapshot_download`` alone returns a half filled
    folder where the hub does not answer (its fallback to the local cache).
    """
    listed = library.HfApi().list_repo_tree(repository, revision=revision, recursive=True)
    files = {item.path: int(item.size) for item in listed if hasattr(item, "size")}
    ignored = _ignored(files)
    library.snapshot_download(
        repository, revision=revision, cache_dir=folder.parents[2], ignore_patterns=ignored or None
    )
    return _wanted(files, ignored)


def from_model_scope(library: Any, repository: str, revision: str, folder: Path) -> dict[str, int]:
    """Download with modelscope_hub; return the sizes of what must be there, in bytes.

    The folder is named: left alone, the library would go on with a folder of an older release of itself, whatever
    revision that holds.
    """
    api = library.HubApi()
    listed = api.list_repo_files(repository, "model", revision=revision)
    files = {item.path: int(item.size) for item in listed if item.type != "tree"}
    ignored = _ignored(files)
    cache = folder.parents[3]
    api.download_repo(
        repository, "model", revision=revision, cache_dir=cache, local_dir=folder, ignore_patterns=ignored or None
    )
    return _wanted(files, ignored)


DOWNLOADS = {"huggingFace": from_hugging_face, "modelScope": from_model_scope}


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, what it was raised from, and the errors of the single files that it stands for."""
    seen: set[int] = set()
    open_ends = [error]
    while open_ends:
        item = open_ends.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        files = getattr(item, "failed_files", None)
        more = [item.__cause__, item.__context__, *(files.values() if isinstance(files, dict) else ())]
        open_ends += [other for other in more if isinstance(other, BaseException)]


def http_status(errors: Iterable[BaseException]) -> tuple[int, str] | None:
    """Return the status of the hub's answer and its own name for it, where there was one."""
    for error in errors:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None) or getattr(error, "status_code", None)
        if isinstance(status, int):
            return status, str(getattr(response, "headers", {}).get("X-Error-Code", ""))
    return None


def explain(error: BaseException, hub: Hub, folder: Path) -> tuple[str, str]:
    """Return what happened and what to do, without the text of answers: a redirect's URL may hold a signature."""
    errors = list(causes(error))
    if isinstance(error, ImportError):
        return (
            f"python3 of the engine's image cannot import {hub.library} ({error})",
            f"use an image with it ({hub.source}), or download the files yourself into a persistentVolumeClaim",
        )
    codes = {item.errno for item in errors if isinstance(item, OSError)}
    if codes.intersection(FULL):
        home = next(path for path in folder.parents if path.exists())
        free = shutil.disk_usage(home).free / 2**30
        return (
            f"the cache claim is full ({free:.1f} GiB free)",
            "enlarge the claim of cacheClaimName, or remove what else it holds",
        )
    denied = [item.filename for item in errors if isinstance(item, OSError) and item.errno in FORBIDDEN]
    if any(denied):
        return (
            f"{next(filter(None, denied))} cannot be written",
            f"let group {os.getgid()} write to the claim of cacheClaimName (fsGroup does it where its driver can)",
        )
    answer = http_status(errors)
    given = "the token of tokenSecretRef" if os.environ.get(hub.token_variable) else "no token"
    if answer is None:
        kind = type(errors[-1]).__name__
        if not any(isinstance(item, OSError) or "connect" in type(item).__name__.lower() for item in errors):
            return f"{hub.library} failed ({kind})", "see the container's log for what it said"
        return (
            f"{hub.title} does not answer ({kind})",
            "let the pod reach it, or download the files elsewhere and use persistentVolumeClaim",
        )
    status, code = answer
    if status == 404 and code != "RepoNotFound":
        what = "there is no such commit" if code == "RevisionNotFound" else "there is no such repository or commit"
        return f"HTTP {status}: {what}", "correct spec.model.source; the repository's page lists its commits"
    if status in {401, 403, 404}:
        return (
            f"HTTP {status} with {given}: there is no such repository, or it may not be read with that",
            "correct the repository, or name a token in tokenSecretRef that may read it (gated: accept its terms)",
        )
    return f"{hub.title} answers with HTTP {status}", "wait: the container is started again, and the download goes on"


def main(arguments: list[str]) -> int:
    """Download, and report."""
    name, repository, revision, folder = arguments
    hub, target = HUBS[name], Path(folder)
    report = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    if token := os.environ.get(hub.token_variable):
        os.environ[hub.token_variable] = token.strip()  # a Secret made from a file ends with a line break
    try:
        library = importlib.import_module(hub.library)
        result: dict[str, Any] = {"files": DOWNLOADS[name](library, repository, revision, target)}
    except Exception as error:  # noqa: BLE001 - whatever the library raises is why the engine does not start
        problem, remedy = explain(error, hub, target)
        result = {"problem": problem, "remedy": remedy}
    with report:
        json.dump(result, report)
    return 0 if "files" in result else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
