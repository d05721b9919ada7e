"""Who runs now: the attestations of the present boot, read from the shared folder at the moment they are asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detinf.documents import Attestation, DocumentError, Plan, identity
from detinf.guard.canonical import CanonicalError, digest_bytes
from detinf.guard.identity import fingerprint
from detinf.guard.layout import attestation_path
from detinf.guard.variables import OBSERVED


@dataclass(frozen=True)
class Attested:
    """A complete, right and consistent set of attestations."""

    boot: str
    boot_started_unix_ms: int
    plan: Plan
    plan_digest: str
    fingerprint: str
    vocabulary_size: int
    special_ids: tuple[int, ...]
    hardware: dict[str, Any] = field(default_factory=dict)
    """What the guard read of the hardware, driver and firmware also where they are no part of the identity."""
    identity: dict[str, str] = field(default_factory=dict)
    """What it is beside plan and hardware (``detinf.documents.identity``)."""
    counters: dict[str, dict[str, str]] | None = None
    """Error counters by NPU when the engine started."""
    boards: dict[str, dict[str, str]] | None = None
    """By NPU what tells it from others."""
    overridden: dict[str, dict[str, str]] | None = None
    """What the plan's variables were put over, by who had set it."""
    model: dict[str, str | int | bool] | None = None
    """What kind of model it is, by members of its config.json."""


def read_attested(plan_path: Path, shared: Path) -> Attested | list[str]:
    """Return what is attested now, or why that is not enough to serve."""
    try:
        data = plan_path.read_bytes()
        plan = Plan.parse(data)
    except OSError as error:
        return [f"plan: {plan_path}: {error.strerror}"]
    except DocumentError as error:
        return [str(error)]
    plan_digest = digest_bytes(data)
    if not plan.attestation.processes:
        return ["plan: attestation.processes is empty: nobody would vouch for this engine"]
    read = [_read(process, shared) for process in plan.attestation.processes]
    found = [item for item in read if isinstance(item, Attestation)]
    problems = [item for item in read if isinstance(item, str)]
    for attestation in found:
        problems += _problems(attestation, found[0], plan_digest)
    problems += _unlike(found)
    if problems:
        return problems
    first = found[0]
    hardware = first.identity.get("hardware")
    return Attested(
        first.boot,
        first.boot_started_unix_ms,
        plan,
        plan_digest,
        first.fingerprint,
        first.vocabulary.size,
        tuple(first.vocabulary.special_ids),
        {key: first.placement.get(key) for key in ("driver", "firmware")}
        | (hardware if isinstance(hardware, dict) else {}),
        identity.told(first.identity, first.model_files),
        first.counters,
        first.boards,
        first.overridden,
        first.model,
    )


def present(plan_path: Path, shared: Path) -> dict[str, bool]:
    """Return which of the plan's processes have attested, for the metrics; none without a plan that can be read."""
    try:
        data = plan_path.read_bytes()
        processes = Plan.parse(data).attestation.processes
    except (OSError, DocumentError):
        return {}
    found = {process: _read(process, shared) for process in processes}
    first = next((item for item in found.values() if isinstance(item, Attestation)), None)
    return {
        process: first is not None and isinstance(item, Attestation) and not _problems(item, first, digest_bytes(data))
        for process, item in found.items()
    }


def _read(process: str, shared: Path) -> Attestation | str:
    try:
        return Attestation.parse(Path(attestation_path(process, str(shared))).read_bytes())
    except FileNotFoundError:
        return f"no attestation of {process} yet: the engine is starting, or its guard refused"
    except OSError as error:
        return f"attestation of {process}: {error.strerror}"
    except DocumentError as error:
        return str(error)


def _problems(attestation: Attestation, first: Attestation, plan_digest: str) -> list[str]:
    """Return what is wrong with one attestation; ``first`` is one of its set."""
    name = attestation.process
    problems = []
    if (own := _own_fingerprint(attestation)) != attestation.fingerprint:
        problems.append(f"attestation of {name}: fingerprint {attestation.fingerprint} is not its identity's, {own}")
    if attestation.plan_digest != plan_digest:
        problems.append(f"attestation of {name}: it is for plan {attestation.plan_digest}, ours is {plan_digest}")
    expected = attestation.expected_fingerprint
    if attestation.fingerprint != expected:
        differing = ", ".join(_changed(first.identity, attestation.identity)) or "its identity"
        problems.append(
            f"attestation of {name}: fingerprint {attestation.fingerprint}, expected {expected}: {differing} differs"
        )
    elif expected != first.expected_fingerprint:
        problems.append(f"attestation of {name}: it expects {expected}, {first.process} {first.expected_fingerprint}")
    if attestation.boot != first.boot:
        problems.append(f"attestation of {name}: boot {attestation.boot} is not {first.boot}")
    return problems


def _own_fingerprint(attestation: Attestation) -> str:
    """Return the fingerprint of an attestation's identity: the probe hashes the same bytes, and believes no word."""
    try:
        return fingerprint(attestation.identity)
    except CanonicalError as error:
        return f"none ({error})"


def _changed(expected: dict[str, Any], seen: dict[str, Any]) -> list[str]:
    """Return the keys of an identity that differ, dotted as deep as they lie, with both values."""
    changed = []
    for key in sorted({*expected, *seen}):
        before, now = expected.get(key), seen.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            changed += [f"{key}.{inner}" for inner in _changed(before, now)]
        elif before != now:
            changed.append(f"{key} ({before!r} -> {now!r})")
    return changed


def _unlike(found: list[Attestation]) -> list[str]:
    """Return where workers differ in what they found: ranks of one engine compute one sum together."""
    workers = [item for item in found if item.process.startswith("worker-")]
    return [
        f"attestation of {worker.process}: {key} is {(worker.observed or {}).get(key)}, "
        f"{workers[0].process} has {(workers[0].observed or {}).get(key)}"
        for worker in workers[1:]
        for key in sorted({*(worker.observed or {}), *(workers[0].observed or {})})
        if not key.startswith(OBSERVED)
        if (worker.observed or {}).get(key) != (workers[0].observed or {}).get(key)
    ]
