"""Whether the engine may be sent users: decided at request time, from files, never from memory.

A pass is kept under the boot that earned it, so that a restarted probe repeats nothing and a restarted engine inherits
nothing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from detinf.api.names import LABEL_SERVING
from detinf.api.types import ProbeMode
from detinf.probe.attested import Attested, read_attested

GATE_FILE = "gate.json"


@dataclass(frozen=True)
class GatePass:
    """The gate was passed by this boot, under this identity, against this baseline."""

    boot: str
    plan_digest: str
    fingerprint: str
    baseline_digest: str
    mode: str = ProbeMode.ENFORCE
    """Observe: the gate was run, and its outcome stood in nobody's way; never enough where it is enforced."""


@dataclass(frozen=True)
class Files:
    """Where readiness is read from."""

    plan: Path
    shared: Path
    state: Path
    podinfo: Path


def write_pass(state: Path, passed: GatePass) -> None:
    """Keep a pass, whole or not at all."""
    draft = state / f"{GATE_FILE}.draft"
    draft.write_text(json.dumps(asdict(passed), sort_keys=True), encoding="utf-8")
    os.replace(draft, state / GATE_FILE)  # noqa: PTH105 - the one call that is known to be atomic


def forget_pass(state: Path) -> None:
    """Take a pass back: the engine is not ready from now on."""
    (state / GATE_FILE).unlink(missing_ok=True)


def read_pass(state: Path) -> GatePass | None:
    """Return the pass that is kept, or None; a broken file is none."""
    try:
        return GatePass(**json.loads((state / GATE_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def serving_label(podinfo: Path) -> str | None:
    """Return the pod's serving label as the downward API shows it now, or None."""
    try:
        lines = (podinfo / "labels").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    prefix = f'{LABEL_SERVING}="'
    return next((line.removeprefix(prefix).rstrip('"') for line in lines if line.startswith(prefix)), None)


def not_ready(files: Files) -> list[str]:
    """Return why the engine may not be sent users now; empty when it may."""
    attested = read_attested(files.plan, files.shared)
    if not isinstance(attested, Attested):
        return attested
    passed = read_pass(files.state)
    if passed is None or passed.boot != attested.boot:
        return [f"boot {attested.boot} has not passed the gate"]
    if (passed.fingerprint, passed.plan_digest) != (attested.fingerprint, attested.plan_digest):
        return ["the gate was passed under another fingerprint or plan"]
    if serving_label(files.podinfo) == "false":
        return [f"isolated: the pod's label {LABEL_SERVING} is false"]
    return []
