"""A model from a hub: there as a whole before the engine starts, and named by its commit.

The engine is given the folder of the snapshot and may not go to the hub (``HF_HUB_OFFLINE`` in the plan), so that what
was attested is what is loaded. A list of what a whole snapshot holds lies beside it: where it is fulfilled nothing is
asked of the hub, and a replica starts again whether the hub answers or not.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detinf.guard.errors import RefusedError
from detinf.guard.hubs import HUBS
from detinf.guard.plan import Download

OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What an image may set, and what would keep its library from downloading."""


def list_path(folder: Path) -> Path:
    """Return where the list of a snapshot's files lies: in the repository's folder, where no hub's library looks."""
    return folder.parent.parent / f"detinf-{folder.name}.json"


def missing(folder: Path) -> list[str]:
    """Return which files of a snapshot are not there in their size; all of them where nobody knows which there are."""
    try:
        files = json.loads(list_path(folder).read_bytes())["files"]
        return [name for name, size in sorted(files.items()) if not _is_there(folder / name, size)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ["all files"]


def _is_there(path: Path, size: int) -> bool:
    try:
        return path.is_file() and path.stat().st_size == size
    except OSError:
        return False


def check(download: Download, folder: Path) -> None:
    """Hold the snapshot against its list.

    Raises:
        RefusedError: where a file is missing or has another size.
    """
    if lacks := missing(folder):
        raise RefusedError(
            f"download: {download}: {folder} lacks {', '.join(lacks[:3])}"
            f"{f' and {len(lacks) - 3} more' if len(lacks) > 3 else ''}; remove "
            f"{folder.parent.parent} from the cache claim to have it downloaded again"
        )


def ensure(download: Download, folder: Path, environment: Mapping[str, str], guard_dir: Path) -> None:
    """Download what is missing, and write down what there is.

    Args:
        download: what to download.
        folder: where the hub's library keeps that commit.
        environment: the container's; the library finds its token and a mirror there.
        guard_dir: where the guard is installed.

    Raises:
        RefusedError: where it could not be downloaded, naming repository, revision and remedy.
    """
    if not missing(folder):
        return
    print(f"detinf guard: downloading {download} into {folder}", file=sys.stderr, flush=True)
    report = _run(
        [sys.executable, "-m", "detinf.guard.fetch", download.hub, download.repository, download.revision, str(folder)],
        {name: value for name, value in environment.items() if name not in OFFLINE},
        guard_dir,
    )
    if "files" not in report:
        raise RefusedError(f"download: {download}: {report['problem']}; {report['remedy']}")
    target = list_path(folder)
    draft = target.with_name(f"{target.name}.{secrets.token_hex(8)}")  # two replicas may share the claim
    try:
        draft.write_text(json.dumps({"files": report["files"]}, sort_keys=True), encoding="utf-8")
        draft.replace(target)
    except OSError as error:
        raise RefusedError(
            f"download: {download}: {target}: {error.strerror}; make the cache claim writable"
        ) from error
    check(download, folder)
    size = sum(report["files"].values()) / 2**30
    print(f"detinf guard: downloaded {len(report['files'])} files, {size:.2f} GiB", file=sys.stderr, flush=True)


def _run(command: list[str], environment: dict[str, str], guard_dir: Path) -> dict[str, Any]:
    """Run the download to its end, and never beyond ours: a signal that ends the guard ends it."""
    process = subprocess.Popen(command, env=environment, cwd=guard_dir, stdout=subprocess.PIPE, start_new_session=True)
    try:
        output = process.communicate()[0]
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    try:
        report = json.loads(output)
        return report if "files" in report else {"problem": str(report["problem"]), "remedy": str(report["remedy"])}
    except (ValueError, KeyError, TypeError, RecursionError):
        # Killed by the kernel, as a rule: its memory counts as the engine's.
        return {
            "problem": f"the download ended with exit code {process.returncode}",
            "remedy": "see the container's log; raise the memory limit where it was killed",
        }


def without_tokens(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the hubs' tokens: an engine that may not download needs none."""
    tokens = {hub.token_variable for hub in HUBS.values()}
    return {name: value for name, value in environment.items() if name not in tokens}
