"""What the replicas are: hardware as it was pinned, and batch invariance as it was attested.

- What ``spec.topology`` declares, the guard holds every engine against. What it leaves open is pinned by the first
  baseline: replicas of other hardware are other engines, and one Service must not have two.
- What else the guard reads (variables, packages, files, the model) is pinned by the first baseline of the plan: the
  replicas of one plan are one engine, whatever an image behind a tag or a webhook makes of it.
- A replica that has drifted is not qualified: it stays unready, and nothing is agreed anew in silence.
- Batch invariance is in effect where the complete set of attestations says so, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from detinf.api.conditions import Finding, Reason, Type
from detinf.api.types import Spec
from detinf.controller.images import Images
from detinf.controller.observed import Observed, Replica
from detinf.controller.replica_state import ReplicaState
from detinf.documents import identity
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


SHOWN_KEYS = 5
"""So many of the differences of one replica are told."""
OTHER_REMEDY = (
    "have one image (by digest) and one environment for all replicas, name a variable that is each pod's own in "
    "unrecordedVariables of a profile in engine.profiles, or delete the resource and apply it again to pin anew"
)


class Told(Protocol):
    """A report, a candidate or a baseline: what it tells of its engine."""

    @property
    def plan_digest(self) -> str | None:
        """Digest of the plan that it runs."""

    @property
    def hardware(self) -> dict[str, Any] | None:
        """What its guard read of the hardware."""

    @property
    def identity(self) -> dict[str, str] | None:
        """What it is beside plan and hardware."""


@dataclass(frozen=True)
class Pinned:
    """The hardware that all replicas are to have, and what else those of one plan are to have alike."""

    spec: Spec
    hardware: Mapping[str, Any] | None
    """Of the first baseline that knows its own; None before."""
    identities: Mapping[tuple[str, str | None], Mapping[str, str]] = field(default_factory=dict)
    """By plan and schema, of the first baseline of these: guards of one release tell the same parts."""
    by_fingerprint: bool = False
    """Whether there are baselines, none of which knows its hardware (releases before this one wrote no such field)."""

    def drifted(self, engine: Told) -> list[str]:
        """Return what of an engine's hardware has drifted."""
        return self._differing(engine)[0]

    def reported(self, engine: Told) -> list[str]:
        """Return what of an engine's hardware differs and is only reported."""
        return self._differing(engine)[1]

    def _differing(self, engine: Told) -> tuple[list[str], list[str]]:
        if self.hardware is None or engine.hardware is None:
            return [], []
        return differing(self.spec, self.hardware, engine.hardware)

    def unlike(self, engine: Told) -> list[str]:
        """Return in what an engine is another than the first one of its plan, beside its hardware."""
        expected = self.identities.get(_key(engine))
        return [] if expected is None or engine.identity is None else identity.differing(expected, engine.identity)

    def with_baseline(self, baseline: Told) -> Pinned:
        """Return what is pinned once there is another baseline."""
        identities = dict(self.identities)
        if baseline.identity is not None:
            identities.setdefault(_key(baseline), baseline.identity)
        hardware = baseline.hardware if self.hardware is None else self.hardware
        return replace(self, hardware=hardware, identities=identities)


def _key(engine: Told) -> tuple[str, str | None]:
    return engine.plan_digest or "", (engine.identity or {}).get(identity.SCHEMA)


def pinned(observed: Observed, spec: Spec) -> Pinned:
    """Return what the resource's baselines pinned, the first one the hardware."""
    found = Pinned(spec, None, by_fingerprint=bool(observed.baselines))
    for baseline in observed.baselines:
        found = found.with_baseline(baseline)
    return found


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


def _few(keys: Sequence[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return ", ".join(keys[:SHOWN_KEYS]) + more


def topology_finding(found: Pinned, replicas: Sequence[Replica], images: Images) -> Finding:
    """Return TopologyPinned."""
    seen = [(row.index, row.report) for row in replicas if row.report is not None]
    drifted = {index: f"replica {index}: {', '.join(keys)}" for index, item in seen if (keys := found.drifted(item))}
    kept_out = [f"replica {index}: {words}" for index, words in images.kept_out.items()]
    # Another image is why whatever the guard of this replica reads may be another, too.
    others = [(index, item) for index, item in seen if index not in drifted and index not in images.kept_out]
    unlike = [f"replica {index}: {_few(keys)}" for index, item in others if (keys := found.unlike(item))]
    apart = [
        *([(Reason.TOPOLOGY_DRIFT, f"{'; '.join(drifted.values())}; {REMEDY}")] if drifted else []),
        *([(Reason.IMAGE_DRIFT, "; ".join(kept_out))] if kept_out else []),
        *([(Reason.IDENTITY_DRIFT, f"{'; '.join(unlike)}; {OTHER_REMEDY}")] if unlike else []),
    ]
    if apart:
        message = "; besides, ".join(words for _, words in apart)
        return Finding(Type.TOPOLOGY_PINNED, "False", apart[0][0], message)
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
    if images.reported:
        said = "; ".join(f"replica {index}: {told}" for index, told in images.reported.items())
        words = f"images differ, which spec.topology.drift lets pass: {said}" + (f"; {words}" if reported else "")
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
