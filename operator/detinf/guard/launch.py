"""One start of one engine: verify, start, verify what runs, attest, and stand by it until it ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard import devices, environment, identity, supervise
from detinf.guard.canonical import encode
from detinf.guard.errors import RefusedError
from detinf.guard.layout import ATTESTATION_PREFIX, TRACE_NAME, attestation_path
from detinf.guard.plan import Plan, check_command, read_plan
from detinf.guard.vocabulary import read_vocabulary

PROCESS = "guard"


@dataclass(frozen=True)
class Places:
    """Where the guard reads and writes; tests choose their own."""

    plan: Path
    shared: Path
    guard: Path
    root: Path = Path("/")


@dataclass(frozen=True)
class Facts:
    """What was verified before the start."""

    vocabulary: dict[str, Any]
    tier_n: dict[str, Any]
    placement: dict[str, Any]


def forget_attestations(shared: Path) -> None:
    """Remove what an earlier boot attested and traced: the first act, since the probe believes these files.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    try:
        for path in (*shared.glob(f"{ATTESTATION_PREFIX}*"), *shared.glob(f"{TRACE_NAME}*")):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise RefusedError(f"attestation: {shared}: {error.strerror}; mount a writable emptyDir there") from error


def check_writable(shared: Path) -> None:
    """Find out before the engine starts whether it could be attested.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    draft = shared / f"{ATTESTATION_PREFIX}{PROCESS}.draft"
    try:
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise RefusedError(f"attestation: {shared}: {error.strerror}; mount a writable emptyDir there") from error


def read_facts(plan: Plan, places: Places) -> Facts:
    """Verify the device tree and the model, and return the identity that they and the plan make.

    Raises:
        RefusedError: where something differs from the plan.
    """
    seen = devices.observe(places.root)
    devices.check(plan.topology, seen)
    vocabulary, model_config = read_vocabulary(places.root / plan.model_path.lstrip("/"))
    tier_n = identity.identity(plan, seen, model_config=model_config, packages=identity.package_versions())
    return Facts(vocabulary, tier_n, identity.placement(seen, os.environ.get("NODE_NAME", "")))


def attest(plan: Plan, before: Facts, after: Facts, *, boot: str, started_ms: int, shared: Path) -> None:
    """Write the guard's attestation, whole or not at all.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    document = {
        "schema": 1,
        "process": PROCESS,
        "boot": boot,
        "bootStartedUnixMs": started_ms,
        "planDigest": plan.digest,
        "expectedFingerprint": identity.fingerprint(before.tier_n),
        "fingerprint": identity.fingerprint(after.tier_n),
        "identity": after.tier_n,
        "placement": after.placement,
        "vocabulary": after.vocabulary,
        "checks": ["plan", "command", "environment", "devices", "model", "process-environment"],
    }
    target = Path(attestation_path(PROCESS, str(shared)))
    draft = target.with_suffix(".draft")
    try:
        draft.write_bytes(encode(document))
        draft.chmod(0o644)
        draft.replace(target)
    except OSError as error:
        raise RefusedError(f"attestation: {target}: {error.strerror}; mount a writable emptyDir there") from error


def launch(command: list[str], places: Places) -> int:
    """Run the engine under its plan and return its exit code.

    Raises:
        RefusedError: where something does not verify; the engine does not run then.
    """
    supervise.end_on_signals()
    forget_attestations(places.shared)
    check_writable(places.shared)
    boot, started_ms = secrets.token_hex(16), time.time_ns() // 1_000_000
    plan = read_plan(places.plan)
    check_command(plan, command)
    trace = str(places.shared / TRACE_NAME)
    wanted = environment.engine_environment(plan, os.environ, boot=boot, guard_dir=str(places.guard), trace=trace)
    before = read_facts(plan, places)
    try:
        with supervise.held_signals():
            child = supervise.start(command, wanted)
            supervise.forward_signals(child)
    except OSError as error:
        raise RefusedError(f"command: {command[0]}: {error.strerror}; use an image that has it on PATH") from error

    def ended() -> None:
        with contextlib.suppress(RefusedError):
            forget_attestations(places.shared)

    try:
        environment.check_process(plan, child, lambda: supervise.has_ended(child))
        attest(plan, before, read_facts(plan, places), boot=boot, started_ms=started_ms, shared=places.shared)
    except RefusedError:
        # An engine that has ended has no environment to read, and what it said itself is the reason that matters.
        if not supervise.has_ended(child):
            supervise.stop(child)
            raise
    except BaseException:
        supervise.stop(child)
        raise
    return supervise.wait(child, ended)
