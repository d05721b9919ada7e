"""Conditions and reasons, and how a list of conditions is carried forward.

Reasons are constants beside the condition they belong to; every one of them is set somewhere and tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Type(StrEnum):
    """Condition types. All are normal-True, but ``Degraded``."""

    READY = "Ready"
    SPEC_VALID = "SpecValid"
    QUALIFIED = "Qualified"
    OUTPUTS_INVARIANT = "OutputsInvariant"
    REPLICAS_AVAILABLE = "ReplicasAvailable"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"


@dataclass(frozen=True)
class Finding:
    """What one condition is to say now, before its transition time is known."""

    type: Type
    status: str
    """True, False or Unknown."""
    reason: str
    message: str


def carry_forward(
    findings: Iterable[Finding], previous: Sequence[Mapping[str, Any]], *, generation: int, now: str
) -> list[dict[str, Any]]:
    """Return conditions for the status; the transition time changes only where the status does.

    Args:
        findings: what each condition says now.
        previous: the conditions in the resource's status.
        generation: the ``metadata.generation`` that the findings are about.
        now: RFC 3339 time for those that flip.
    """
    before = {str(condition.get("type")): condition for condition in previous}
    conditions = []
    for finding in findings:
        old = before.get(finding.type)
        same = old is not None and old.get("status") == finding.status
        conditions.append(
            {
                "type": str(finding.type),
                "status": finding.status,
                "reason": finding.reason,
                "message": finding.message,
                "lastTransitionTime": old["lastTransitionTime"] if same and old else now,
                "observedGeneration": generation,
            }
        )
    return conditions
