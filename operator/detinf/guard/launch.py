"""One start of one engine: verify, start, verify what runs, attest, and stand by it until it ends."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detinf.guard import (
    addresses,
    attestation,
    boards,
    counters,
    devices,
    download,
    environment,
    files,
    identity,
    manifest,
    model_files,
    packages,
    supervise,
    templates,
    variables,
)
from detinf.guard.attestation import GUARD, Start
from detinf.guard.environment import Prepared
from detinf.guard.errors import RefusedError
from detinf.guard.layout import (
    ATTESTATION_PREFIX,
    BOOT_VARIABLE,
    PLAN_VARIABLE,
    SHARED_VARIABLE,
    TRACE_NAME,
    TRACE_VARIABLE,
)
from detinf.guard.model_shape import model_shape
from detinf.guard.npu_smi import NpuSmi
from detinf.guard.plan import Plan, check_command, read_plan
from detinf.guard.vocabulary import check_heads, read_vocabulary


@dataclass(frozen=True)
class Places:
    """Where the guard reads and writes; tests choose their own."""

    plan: Path
    shared: Path
    guard: Path
    root: Path = Path("/")


@dataclass(frozen=True)
class Facts:
    """What was verified."""

    vocabulary: dict[str, Any]
    tier_n: dict[str, Any]
    placement: dict[str, Any]
    model: dict[str, str | int | bool]
    """What kind of model it is."""
    model_files: dict[str, str]
    """What is known of each of its files (``model_files.listed``)."""


def check_writable(shared: Path) -> None:
    """Find out before the engine starts whether it could be attested.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    draft = shared / f"{ATTESTATION_PREFIX}{GUARD}.draft"
    try:
        draft.touch()
        draft.unlink()
    except OSError as error:
        raise RefusedError(f"attestation: {shared}: {error.strerror}; mount a writable emptyDir there") from error


def read_facts(plan: Plan, places: Places, engine: dict[str, str]) -> Facts:
    """Verify the device tree, the listed files and the model, and return the identity that they and the plan make.

    Args:
        plan: the plan.
        places: where things are.
        engine: the engine's environment.

    Raises:
        RefusedError: where something differs from the plan.
    """
    seen = devices.observe(places.root)
    devices.check(plan.topology, seen)
    digests = files.digests(plan.files, engine, places.root)
    folder = places.root / plan.model_path.lstrip("/")
    if plan.download is not None:
        download.check(plan.download, folder)
    vocabulary, model_config = read_vocabulary(folder)
    check_heads(folder, plan.topology["devices"])
    installed = packages.read_packages()
    cann = devices.cann_version(engine, places.root)
    toolkit = {"cann": cann} if cann else {}
    packages.check_packages(plan.packages, installed, toolkit)
    listed = model_files.listed(folder)
    tier_n = identity.identity(
        plan,
        seen,
        model_config=model_config,
        packages=installed,
        variables=variables.recorded(engine, plan.variables, plan.unrecorded),
        files=digests,
        toolkit=toolkit,
        model_files=model_files.digest(listed),
        argument_files=model_files.named(plan.arguments, places.root, Path.cwd()),
    )
    placement = identity.placement(seen, os.environ.get("NODE_NAME", ""))
    return Facts(vocabulary, tier_n, placement, model_shape(folder), listed)


def attest(plan: Plan, start: Start, after: Facts, shared: Path, overridden: dict[str, dict[str, str]]) -> None:
    """Write the guard's attestation.

    Raises:
        RefusedError: where the folder cannot be written.
    """
    npu_smi, identifiers = NpuSmi(), after.placement["physicalIds"]
    attestation.write(
        start,
        GUARD,
        shared,
        identity=after.tier_n,
        vocabulary=after.vocabulary,
        placement=after.placement,
        counters=counters.read(identifiers, npu_smi),
        boards=boards.read(identifiers, npu_smi),
        overridden=overridden,
        model=after.model,
        model_files=after.model_files,
        checks=[
            *("plan", "command", "environment", "devices", "files", "packages"),
            *(["download"] if plan.download else []),
            *("model", "process-environment"),
        ],
    )


@contextlib.contextmanager
def of_another_release(plan: Plan) -> Iterator[None]:
    """Tell first that the image is of another release than the profile: that is why its files and scripts are others.

    Raises:
        RefusedError: what was raised inside, behind that.
    """
    try:
        yield
    except RefusedError as error:
        own = {name: versions for name, versions in plan.packages.items() if name in packages.MODULES}
        try:
            packages.check_packages(own, packages.read_packages(), {})
        except RefusedError as first:
            raise RefusedError(*dict.fromkeys((*first.problems, *error.problems))) from error
        raise


def launch(command: list[str], places: Places) -> int:
    """Run the engine under its plan and return its exit code.

    Raises:
        RefusedError: where something does not verify; the engine does not run then, or no longer.
    """
    supervise.end_on_signals()
    attestation.forget(places.shared)
    attestation.hold(places.shared)
    check_writable(places.shared)
    boot, started_ms = secrets.token_hex(16), time.time_ns() // 1_000_000
    plan = read_plan(places.plan)
    check_command(plan, command)
    command = addresses.served_possibly(command)
    own = {
        BOOT_VARIABLE: boot,
        PLAN_VARIABLE: str(places.plan),
        SHARED_VARIABLE: str(places.shared),
        TRACE_VARIABLE: str(places.shared / TRACE_NAME),
    }
    with of_another_release(plan):
        prepared = environment.engine_environment(plan, os.environ, own, str(places.guard), places.root)
        if words := environment.overridden_words(prepared.overridden):
            print(f"detinf guard: the plan's variables are in effect: {'; '.join(words)}", file=sys.stderr, flush=True)
        wanted = prepared.variables
        model = places.root / plan.model_path.lstrip("/")
        if plan.download is not None:
            devices.check(plan.topology, devices.observe(places.root))  # before it takes an hour
            download.ensure(plan.download, model, os.environ, places.guard)
            wanted = download.without_tokens(wanted)
        before = read_facts(plan, places, wanted)
        templates.check(model, plan.arguments, wanted, before.model.get("model_type"), root=places.root)
        manifest.check(model, plan.manifest_digest)
    known = (before.tier_n, before.placement, before.vocabulary, str(places.root), before.model_files)
    start = Start(boot, started_ms, plan.digest, *known)
    attestation.write_start(start, places.shared)
    if plan.fingerprint_in_answers:
        command = [*command, "--fingerprint-mode", "custom", "--fingerprint-value", identity.fingerprint(before.tier_n)]
    return stand_by(command, Prepared(wanted, prepared.overridden), plan, start, places)


def stand_by(command: list[str], prepared: Prepared, plan: Plan, start: Start, places: Places) -> int:
    """Start the engine, attest it, and wait for its end.

    Raises:
        RefusedError: where it is not as it was started, or one of its processes refused.
    """
    try:
        with supervise.held_signals():
            child = supervise.start(command, prepared.variables)
            supervise.forward_signals(child)
    except OSError as error:
        raise RefusedError(f"command: {command[0]}: {error.strerror}; use an image that has it on PATH") from error

    problems: list[str] = []

    def ended() -> None:
        problems.extend(attestation.refusals(places.shared))
        with contextlib.suppress(RefusedError):
            attestation.forget(places.shared)

    try:
        seen = environment.check_process(plan, child, lambda: supervise.has_ended(child))
        facts = read_facts(plan, places, seen)
        model_files.check_same(start.model_files, facts.model_files)
        attest(plan, start, facts, places.shared, prepared.overridden)
    except RefusedError:
        # An engine that has ended has no environment to read, and what it said itself is the reason that matters.
        if not supervise.has_ended(child):
            supervise.stop(child)
            raise
    except BaseException:
        supervise.stop(child)
        raise
    code = supervise.wait(child, ended)
    if problems:
        raise RefusedError(*problems)
    return code
