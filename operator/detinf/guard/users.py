"""``users``: the image's users, and the one that the pod runs as.

CANN asks the C library who it runs as: HCCL cannot find its root (``HcclGetRootInfo`` ends with 19) where two or more
ranks have a user without an entry in ``/etc/passwd`` (vllm-ascend issue 9490), the driver's helpers end with ``getpwuid
fail`` (hicann/driver at ef377e9, ``network_comm.c``), and CANN's logs go to the folder that the entry names
(hicann/runtime at 681ef76, ``log_file_util.c``). Images know nobody but root and the system's users.

An init container with the engine's own image writes both files, and they are mounted over the image's: its root file
system is read-only, and nobody in the pod is root.
"""

from __future__ import annotations

import os
from pathlib import Path

from detinf.guard.errors import RefusedError

NAME = "detinf"
HOME = "/tmp"  # noqa: S108 - an emptyDir of the pod
FILES = ("passwd", "group")
ROOT = {"passwd": "root:x:0:0:root:/root:/bin/sh\n", "group": "root:x:0:\n"}
"""What an image without such a file is given."""


def with_entry(text: str, number: int, rest: str) -> str:
    """Return a passwd or group file with an entry for a number; as it was where it has one.

    Args:
        text: the file.
        number: of the user or group.
        rest: what the entry has behind its number.
    """
    rows = [line.split(":") for line in text.splitlines()]
    if any(len(row) > 2 and row[2] == str(number) for row in rows):
        return text
    name = NAME if all(row[0] != NAME for row in rows) else f"{NAME}-{number}"
    end = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{end}{name}:x:{number}:{rest}\n"


def write_users(target: Path, root: Path = Path("/")) -> None:
    """Write ``passwd`` and ``group``: the image's entries, and this process' user and group.

    Args:
        target: a writable folder.
        root: where ``etc`` is.

    Raises:
        RefusedError: where a file of the image cannot be read, or the folder not be written.
    """
    user, group = os.getuid(), os.getgid()
    entries = {"passwd": (user, f"{group}:{NAME}:{HOME}:/sbin/nologin"), "group": (group, "")}
    for name in FILES:
        source = root / "etc" / name
        try:
            text = source.read_text(encoding="utf-8", errors="surrogateescape") if source.exists() else ROOT[name]
        except OSError as error:
            raise RefusedError(f"users: {source}: {error.strerror}; make it readable in the image") from error
        path = target / name
        try:
            path.write_text(with_entry(text, *entries[name]), encoding="utf-8", errors="surrogateescape")
            path.chmod(0o644)
        except OSError as error:
            raise RefusedError(f"users: {path}: {error.strerror}; mount a writable emptyDir there") from error
