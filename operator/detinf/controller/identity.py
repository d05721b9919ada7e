"""What the replicas are: hardware as it was pinned, and batch invariance as it was attested.

- What ``spec.topology`` declares, the guard holds every engine against. What it leaves open is pinned by the first
  baseline: replicas of other hardware are other engines, and one Service must not have two.
- A replica whose hardware has drifted is not qualified: it stays unready, and nothing is agreed anew in silence.
- Batch invariance is in effect where the complete set of attestations says so, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detinf.api.conditions import Finding, Reason, Type
from detinf.api.types import Spec
from detinf.controller.observed import Observed, Replica
from detinf.controller.replica_state import ReplicaState
from detinf.topology.drift import differing

SHOWN = {
    "chip": "chip",
    "hbmGiB": "hbmGiB",
    "driver": "driverVersion",
    "firmware": "firmwareVersion",
    "link": "link",
    "instructionSets": "instructionSets",
}
"""Keys of the hardware by their names in ``status.topology``."""
REMEDY = (
    "make the nodes alike, declare what is meant in spec.topology, set spec.topology.drift to Warn (driver and "
    "firmware), or delete the resource and apply it again to pin anew"
)
OVERRIDDEN_SHOWN = 8
"""So many overridden variables are told; the probe's report has them all."""


@dataclass(frozen=True)
class Pinned:
    """The hardware that all replicas are to have."""

    spec: Spec
    hardware: Mapping[str, Any] | None
    """Of the first baseline that knows its own; None before."""
    by_fingerprint: bool = False
    """Whether there are baselines, none of which knows its hardware (releases before this one wrote no such field)."""

    def drifted(self, hardware: Mapping[str, Any] | None) -> list[str]:
        """Return what of an engine's hardware has drifted."""
        if self.hardware is None or hardware is None:
            return []
        return differing(self.spec, self.hardware, hardware)[0]

    def reported(self, hardware: Mapping[str, Any] | None) -> list[str]:
        """Return what differs and is only reported."""
        if self.hardware is None or hardware is None:
            return []
        return differing(self.spec, self.hardware, hardware)[1]


def pinned(observed: Observed, spec: Spec) -> Pinned:
    """Return the hardware that the resource's first baseline pinned."""
    hardware = next((item.hardware for item in observed.baselines if item.hardware is not None), None)
    return Pinned(spec, hardware, by_fingerprint=bool(observed.baselines))


def topology_status(found: Pinned) -> dict[str, Any] | None:
    """Return ``status.topology``; None before anything was pinned."""
    if found.hardware is None:
        return None
    values = {shown: found.hardware.get(key) for key, shown in SHOWN.items()}
    return {
        shown: ", ".join(value) if isinstance(value, list) else value
        for shown, value in values.items()
        if value is not None
    }


def topology_finding(found: Pinned, replicas: Sequence[Replica]) -> Finding:
    """Return TopologyPinned."""
    seen = [(row.index, row.report.hardware) for row in replicas if row.report is not None]
    drifted = [f"replica {index}: {', '.join(keys)}" for index, item in seen if (keys := found.drifted(item))]
    if drifted:
        return Finding(Type.TOPOLOGY_PINNED, "False", Reason.TOPOLOGY_DRIFT, f"{'; '.join(drifted)}; {REMEDY}")
    if found.hardware is None and found.by_fingerprint:
        words = "the baseline is of an earlier release and names no hardware; equal fingerprints are equal hardware"
        return Finding(Type.TOPOLOGY_PINNED, "True", Reason.PINNED, words)
    if found.hardware is None:
        words = "the first baseline pins the hardware that spec.topology leaves open"
        return Finding(Type.TOPOLOGY_PINNED, "Unknown", Reason.NOT_PINNED_YET, words)
    words = "all replicas have the hardware of the first baseline, or what spec.topology declares"
    reported = [f"replica {index}: {', '.join(keys)}" for index, item in seen if (keys := found.reported(item))]
    if reported:
        words = f"driver or firmware differ, which spec.topology.drift lets pass: {'; '.join(reported)}"
    return Finding(Type.TOPOLOGY_PINNED, "True", Reason.PINNED, words)


def attested_finding(replicas: Sequence[Replica], states: Sequence[tuple[int, ReplicaState]]) -> Finding:
    """Return BatchInvarianceEffective."""
    refused = [f"replica {index}: {state.words}" for index, state in states if state.reason is Reason.GUARD_REFUSED]
    if refused:
        return Finding(Type.BATCH_INVARIANCE_EFFECTIVE, "False", Reason.GUARD_REFUSED, "; ".join(refused))
    missing = [
        f"replica {row.index}: {'; '.join(row.report.reasons[:2])}"
        for row in replicas
        if row.report is not None and row.report.fingerprint is None and row.started
    ]
    if missing:
        return Finding(Type.BATCH_INVARIANCE_EFFECTIVE, "False", Reason.NOT_ATTESTED, "; ".join(missing))
    attested = [row.index for row in replicas if row.report is not None and row.report.fingerprint is not None]
    if not attested:
        words = "no engine has attested yet"
        return Finding(Type.BATCH_INVARIANCE_EFFECTIVE, "Unknown", Reason.NOT_ATTESTED_YET, words)
    words = "every engine that runs has attested all that the plan asks of its processes"
    return Finding(Type.BATCH_INVARIANCE_EFFECTIVE, "True", Reason.ATTESTED, f"{words}{overridden_words(replicas)}")


def overridden_words(replicas: Sequence[Replica]) -> str:
    """Return what the plan's variables were put over, with who had it set; replicas of one image are told once."""
    told: dict[str, list[int]] = {}
    for row in replicas:
        for who, found in sorted(((row.report and row.report.overridden) or {}).items()):
            for name, value in sorted(found.items()):
                told.setdefault(f"{name}={value} of the {who}", []).append(row.index)
    if not told:
        return ""
    rows = sorted(told.items(), key=lambda item: item[0])
    shown = [f"{words} (replica {', '.join(map(str, indices))})" for words, indices in rows[:OVERRIDDEN_SHOWN]]
    more = f" and {len(rows) - OVERRIDDEN_SHOWN} more" if len(rows) > OVERRIDDEN_SHOWN else ""
    return f"; the plan is in effect over {', '.join(shown)}{more}"
