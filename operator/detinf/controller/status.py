"""The status: a pure function of what was gathered and decided. Nothing in it changes because time passed alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detinf.api import names
from detinf.api.conditions import Finding, Type, carry_forward
from detinf.api.types import Spec
from detinf.controller import pods
from detinf.controller.builders import url
from detinf.controller.builders.probe_settings import served_name
from detinf.controller.observed import Observed, Replica
from detinf.controller.qualification import Qualification
from detinf.controller.quarantine import Quarantine, describe
from detinf.documents import Cell, Phase, Verdict

MESSAGE_LENGTH = 1024
STATE_LENGTH = 512

PHASE_STATES = {
    Phase.WAITING_FOR_ATTESTATION: "Starting",
    Phase.WAITING_FOR_ENGINE: "Starting",
    Phase.WAITING_FOR_REFERENCES: "Qualifying",
    Phase.ANSWERING: "Qualifying",
    Phase.WAITING_FOR_BASELINE: "Qualifying",
    Phase.GATING: "Gating",
    Phase.GATE_FAILED: "Failed",
}


def replica_state(replica: Replica, *, isolated: bool) -> tuple[str, str]:
    """Return (state, why it is not serving) of one replica."""
    pod, report = replica.pod, replica.report
    if pod is None:
        return "Pending", "its pod is being created"
    words = pods.trouble(pod)
    if isolated:
        return "Isolated", "it diverged; only another boot that passes the gate serves again"
    if replica.ready:
        return (
            ("Diverged", "it diverged, and no peer proves that it is alone in that")
            if replica.evidence
            else ("Serving", "")
        )
    if report is None or report.boot is None:
        # A probe without an attestation knows less than the kubelet, which has the guard's own words.
        if words:
            return ("Pending" if words.startswith("Unschedulable") else "Failed"), words
        running = pods.container_status(pod, names.ENGINE_CONTAINER).get("state", {}).get("running")
        return ("Starting", "the engine is loading") if running else ("Pending", "its containers are being created")
    state = PHASE_STATES.get(report.phase, "Starting")
    return state, "; ".join(report.reasons[:2]) if state in {"Failed", "Gating"} else ""


def invariant(
    observed: Observed, quarantine: Quarantine, ready: Sequence[Replica], *, now: float, stale_after: int
) -> Finding:
    """Return OutputsInvariant: False on a divergence, True on fresh proof alone, else Unknown."""
    diverging = [(replica.index, item) for replica in observed.replicas if (item := replica.evidence)]
    if diverging:
        reason = "CommonModeDivergence" if quarantine.common_mode else "DivergenceDetected"
        words = "; ".join(describe(index, item) for index, item in diverging)
        if quarantine.common_mode:
            words = f"all replicas diverge alike, so none is isolated: {words}"
        return Finding(Type.OUTPUTS_INVARIANT, "False", reason, words)
    if quarantine.isolated:
        listed = ", ".join(str(index) for index in sorted(quarantine.isolated))
        return Finding(Type.OUTPUTS_INVARIANT, "False", "DivergenceDetected", f"replica {listed} is isolated")
    if not ready:
        return Finding(Type.OUTPUTS_INVARIANT, "Unknown", "NoReplicaServes", "there is no serving replica to measure")
    unproven = [replica.index for replica in ready if not _is_proven(replica, now=now, stale_after=stale_after)]
    if unproven:
        listed = ", ".join(str(index) for index in unproven)
        words = f"replica {listed} has no fresh proof; nothing different was seen, and that is no proof"
        return Finding(Type.OUTPUTS_INVARIANT, "Unknown", "EvidenceStale", words)
    return Finding(Type.OUTPUTS_INVARIANT, "True", "FreshProof", "every serving replica passed its checks lately")


def _is_proven(replica: Replica, *, now: float, stale_after: int) -> bool:
    """Return whether a replica passed lately: the baseline alone, and at least one proven batch."""

    def fresh(cell: Cell) -> bool:
        passed = cell.last_pass_unix is not None and now - cell.last_pass_unix <= stale_after
        return passed and cell.verdict is not Verdict.FAIL

    report = replica.report
    if report is None:
        return False
    if not report.cells and report.phase is Phase.PASSED:
        # The probe was restarted: its pass is kept, its ledger is not. The next round fills it.
        return False
    return {"S02", "S03"} <= {cell.relation for cell in report.cells if fresh(cell)}


def available(spec: Spec, ready: Sequence[Replica], states: Iterable[tuple[int, tuple[str, str]]]) -> Finding:
    """Return ReplicasAvailable, with the words of the first replica that does not serve."""
    if len(ready) >= spec.replicas:
        words = f"{len(ready)} of {spec.replicas} replicas serve"
        return Finding(Type.REPLICAS_AVAILABLE, "True", "AllServing", words)
    waiting = [(index, state, words) for index, (state, words) in states if state not in {"Serving", "Diverged"}]
    listed = "; ".join(
        f"replica {index} is {state}" + (f": {words}" if words else "") for index, state, words in waiting
    )
    reason = waiting[0][1] if waiting else "Pending"
    return Finding(
        Type.REPLICAS_AVAILABLE,
        "False",
        f"Replica{reason}",
        f"{len(ready)} of {spec.replicas} replicas serve; {listed}",
    )


def build_status(
    observed: Observed,
    spec: Spec,
    qualification: Qualification,
    quarantine: Quarantine,
    *,
    revision: str,
    indices: Sequence[int],
    now: float,
    stale_after: int,
) -> dict[str, Any]:
    """Return the status of a valid resource."""
    replicas = {replica.index: replica for replica in observed.replicas}
    rows = [replicas.get(index, Replica(index, None, None, None)) for index in indices]
    states = [(row.index, replica_state(row, isolated=row.index in quarantine.isolated)) for row in rows]
    ready = [row for row in rows if row.ready and row.index not in quarantine.isolated]
    findings = [
        Finding(Type.SPEC_VALID, "True", "Valid", "the resource can be carried out"),
        qualification.finding,
        invariant(observed, quarantine, ready, now=now, stale_after=stale_after),
        available(spec, ready, states),
    ]
    bad = [(index, words) for index, (state, words) in states if state in {"Failed", "Isolated", "Diverged"}]
    old = [row.index for row in rows if row.pod is not None and row.revision != revision]
    settled = len(ready) >= spec.replicas and not old
    findings.append(_progressing(settled=settled, old=old))
    findings.append(
        Finding(Type.DEGRADED, "True", "ReplicaFailed", "; ".join(f"replica {index}: {words}" for index, words in bad))
        if bad
        else Finding(Type.DEGRADED, "False", "AsExpected", "no replica failed or diverged")
    )
    findings.insert(0, roll_up(findings[:4]))
    return {
        "observedGeneration": observed.generation,
        "replicas": sum(1 for row in rows if row.pod is not None),
        "readyReplicas": len(ready),
        "selector": ",".join(f"{key}={value}" for key, value in names.selector(observed.name).items()),
        "revision": revision,
        "model": served_name(observed.resource, spec),
        "url": url(observed.resource),
        **({"baseline": baseline} if (baseline := _baseline(observed, qualification)) else {}),
        "replicaStates": [
            {"index": index, "state": state, "message": words[:STATE_LENGTH]} for index, (state, words) in states
        ],
        "conditions": conditions(observed, findings, now=now),
    }


def _baseline(observed: Observed, qualification: Qualification) -> Mapping[str, Any] | None:
    """Return the baseline to name. A lost one stays named: forgetting it would be re-baselining in silence."""
    return qualification.baseline or observed.old_status.get("baseline")


def _progressing(*, settled: bool, old: Sequence[int]) -> Finding:
    if settled:
        return Finding(Type.PROGRESSING, "False", "Settled", "all replicas serve the wanted revision")
    if old:
        listed = ", ".join(str(index) for index in old)
        return Finding(Type.PROGRESSING, "True", "RollingOut", f"replica {listed} runs another revision")
    return Finding(Type.PROGRESSING, "True", "ReplicasStarting", "not all replicas serve yet")


def roll_up(findings: Sequence[Finding]) -> Finding:
    """Return Ready: True where all are, else the first that is not, in its own words."""
    bad = next((finding for finding in findings if finding.status != "True"), None)
    if bad is None:
        return Finding(Type.READY, "True", "Ready", "all replicas serve proven outputs")
    return Finding(Type.READY, "False", bad.reason, f"{bad.type}: {bad.message}")


def conditions(observed: Observed, findings: Iterable[Finding], *, now: float) -> list[dict[str, Any]]:
    """Return the conditions; transition times are carried over where nothing flipped."""
    short = [
        Finding(finding.type, finding.status, finding.reason, finding.message[:MESSAGE_LENGTH]) for finding in findings
    ]
    previous = observed.old_status.get("conditions") or []
    return carry_forward(short, previous, generation=observed.generation, now=pods.format_time(now))


def invalid_status(observed: Observed, problems: Sequence[str], *, now: float) -> dict[str, Any]:
    """Return the status of a resource that cannot be carried out: what ran goes on running, and it says why."""
    words = "; ".join(problems)
    findings = [
        Finding(Type.READY, "False", "InvalidSpec", f"SpecValid: {words}"),
        Finding(Type.SPEC_VALID, "False", "InvalidSpec", words),
    ]
    known = {finding.type for finding in findings}
    previous = observed.old_status.get("conditions") or []
    kept = [
        Finding(Type(item["type"]), item["status"], item["reason"], item["message"])
        for item in previous
        if item.get("type") in set(Type) - known
    ]
    old = {key: value for key, value in observed.old_status.items() if key != "conditions"}
    return {
        **old,
        "observedGeneration": observed.generation,
        "conditions": conditions(observed, [*findings, *kept], now=now),
    }
