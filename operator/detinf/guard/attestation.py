"""Attestations: what a process saw to be true for one boot. Written whole and once, or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from detinf.guard.canonical import encode
from detinf.guard.errors import RefusedError
from detinf.guard.identity import fingerprint
from detinf.guard.layout import ATTESTATION_PREFIX, REFUSAL_PREFIX, START_NAME, TRACE_NAME, attestation_path

GUARD = "guard"


@dataclass(frozen=True)
class Start:
    """What the guard knew before the engine started: its processes hold themselves against it."""

    boot: str
    started_ms: int
    plan_digest: str
    identity: dict[str, Any]
    """Tier N, as expected."""
    placement: dict[str, Any]
    vocabulary: dict[str, Any]
    root: str
    """Where absolute paths begin."""
    model_files: dict[str, str]
    """What was known of each of the model's files."""


def _put(target: Path, data: bytes) -> None:
    """Make a file, whole before anybody can see it, and once: a link, unlike a rename, takes no other's place."""
    draft = target.with_suffix(f".{os.getpid()}.draft")
    try:
        draft.write_bytes(data)
        draft.chmod(0o644)
        os.link(draft, target)
    except FileExistsError:
        raise RefusedError(f"process: there is {target.name} already; the plan has one of each process") from None
    except OSError as error:
        raise RefusedError(f"attestation: {target}: {error.strerror}; mount a writable emptyDir there") from error
    finally:
        with contextlib.suppress(OSError):  # what went wrong has been told
            draft.unlink()


def forget(shared: Path) -> None:
    """Remove what an earlier boot attested and traced: the first act, since the probe believes these files.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    patterns = (f"{ATTESTATION_PREFIX}*", f"{TRACE_NAME}*", f"{REFUSAL_PREFIX}*", START_NAME)
    try:
        for path in (path for pattern in patterns for path in shared.glob(pattern)):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(f"attestation: {shared}: {error.strerror}; mount a writable emptyDir there") from error


def hold(shared: Path) -> None:
    """Hold the shared folder for as long as this process lives: what is attested there is of a guard that runs.

    The probe sees it, and no clock is needed to know that a boot is the present one. The kernel lets go when the guard
    ends, however it ends; the engine does not inherit it. Where the folder's file system knows no locks, times decide.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(os.open(shared, os.O_RDONLY | os.O_DIRECTORY), fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_held(shared: Path) -> bool:
    """Return whether a guard that runs holds the shared folder."""
    try:
        folder = os.open(shared, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(folder)
    return False


def write_start(start: Start, shared: Path) -> None:
    """Leave for the engine's processes what they are to hold themselves against.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    _put(shared / START_NAME, encode(asdict(start)))


def read_start(shared: Path) -> Start:
    """Return what the guard left.

    Raises:
        OSError, ValueError, TypeError: where there is nothing that can be read.
    """
    return Start(**json.loads((shared / START_NAME).read_bytes()))


def write(
    start: Start,
    process: str,
    shared: Path,
    *,
    identity: dict[str, Any],
    vocabulary: dict[str, Any],
    placement: dict[str, Any],
    checks: list[str],
    observed: dict[str, str] | None = None,
    counters: dict[str, dict[str, str]] | None = None,
    boards: dict[str, dict[str, str]] | None = None,
    overridden: dict[str, dict[str, str]] | None = None,
    model: dict[str, str | int | bool] | None = None,
    model_files: dict[str, str] | None = None,
) -> None:
    """Write the attestation of a process.

    Args:
        start: the boot, and what was expected.
        process: its name in the plan.
        shared: the folder that the probe reads.
        identity: Tier N as the process saw it.
        vocabulary: size and special ids as the process saw them.
        placement: Tier P.
        checks: names of the checks that held.
        observed: JSON text by configuration path or symbol.
        counters: error counters by NPU.
        boards: by NPU what tells it from others.
        overridden: by who had set it, what the plan's variables were put over.
        model: what kind of model it is (``model_shape``).
        model_files: what is known of each of its files (``model_files``); the identity has their digest.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    document = {
        "schema": 1,
        "process": process,
        "boot": start.boot,
        "bootStartedUnixMs": start.started_ms,
        "planDigest": start.plan_digest,
        "expectedFingerprint": fingerprint(start.identity),
        "fingerprint": fingerprint(identity),
        "identity": identity,
        "placement": placement,
        "vocabulary": vocabulary,
        "checks": checks,
    }
    if observed is not None:
        document["observed"] = observed
    if counters:
        document["counters"] = counters
    if boards:
        document["boards"] = boards
    if overridden:
        document["overridden"] = overridden
    if model:
        document["model"] = model
    if model_files:
        document["modelFiles"] = model_files
    _put(Path(attestation_path(process, str(shared))), encode(document))


def refuse(process: str, problems: list[str], shared: Path) -> None:
    """Leave for the guard why a process of the engine does not go on; never raises."""
    try:
        (shared / f"{REFUSAL_PREFIX}{process}").write_text("; ".join(problems), encoding="utf-8")
    except OSError as error:
        print(f"detinf: {process}: {problems}: {error}", flush=True)


def refusals(shared: Path) -> list[str]:
    """Return why processes of the engine did not go on."""
    found = sorted(shared.glob(f"{REFUSAL_PREFIX}*"))
    return [
        f"{path.name.removeprefix(REFUSAL_PREFIX)}: {path.read_text(encoding='utf-8', errors='replace')}"
        for path in found
    ]
