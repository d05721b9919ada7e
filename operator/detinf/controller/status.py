"""The status: a pure function of what was gathered and decided. Nothing in it changes because time passed alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from detinf.api import names
from detinf.api.conditions import CONSEQUENCES, ONLY_A_PERSON_HELPS, Finding, Reason, Type, carry_forward
from detinf.api.types import Spec
from detinf.cluster.port import ClusterError, InvalidError
from detinf.controller import pods
from detinf.controller.builders import url
from detinf.controller.builders.probe_settings import served_name
from detinf.controller.identity import attested_finding, topology_finding, topology_status
from detinf.controller.observed import Observed, Replica
from detinf.controller.qualification import Qualification
from detinf.controller.quarantine import Quarantine, describe
from detinf.controller.replica_state import ReplicaState, replica_state
from detinf.documents import Cell, Phase, Verdict

MESSAGE_LENGTH = 1024
STATE_LENGTH = 512


def invariant(
    observed: Observed, quarantine: Quarantine, ready: Sequence[Replica], *, now: float, stale_after: int
) -> Finding:
    """Return OutputsInvariant: False on a divergence, True on fresh proof alone, else Unknown."""
    diverging = [(replica.index, item) for replica in observed.replicas if (item := replica.evidence)]
    if diverging:
        reason = Reason.COMMON_MODE_DIVERGENCE if quarantine.common_mode else Reason.DIVERGENCE_DETECTED
        words = "; ".join(describe(index, item) for index, item in diverging)
        if quarantine.common_mode:
            words = f"all replicas diverge alike, so none is isolated: {words}"
        return Finding(Type.OUTPUTS_INVARIANT, "False", reason, words)
    if quarantine.isolated:
        listed = ", ".join(str(index) for index in sorted(quarantine.isolated))
        return Finding(Type.OUTPUTS_INVARIANT, "False", Reason.DIVERGENCE_DETECTED, f"replica {listed} is isolated")
    if not ready:
        return Finding(
            Type.OUTPUTS_INVARIANT, "Unknown", Reason.NO_REPLICA_SERVES, "there is no serving replica to measure"
        )
    unproven = [replica.index for replica in ready if not _is_proven(replica, now=now, stale_after=stale_after)]
    if unproven:
        listed = ", ".join(str(index) for index in unproven)
        words = f"replica {listed} has no fresh proof; nothing different was seen, and that is no proof"
        return Finding(Type.OUTPUTS_INVARIANT, "Unknown", Reason.EVIDENCE_STALE, words)
    return Finding(Type.OUTPUTS_INVARIANT, "True", Reason.FRESH_PROOF, "every serving replica passed its checks lately")


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


def available(
    spec: Spec, ready: Sequence[Replica], states: Iterable[tuple[int, ReplicaState]], old: Sequence[int]
) -> Finding:
    """Return ReplicasAvailable, with the reason of the replica that is worst off and the words of all that wait.

    While a roll-out replaces one pod after the other, all replicas serve for a moment in between. That is not what was
    asked for yet: who waits for Ready waits for all of them.
    """
    words = f"{len(ready)} of {spec.replicas} replicas serve"
    if len(ready) >= spec.replicas and old:
        listed = ", ".join(str(index) for index in old)
        words = f"{words}; replica {listed} runs another revision"
        return Finding(Type.REPLICAS_AVAILABLE, "False", Reason.ROLLING_OUT, words)
    if len(ready) >= spec.replicas:
        return Finding(Type.REPLICAS_AVAILABLE, "True", Reason.ALL_SERVING, words)
    waiting = [(index, state) for index, state in states if not state.serves]
    listed = "; ".join(
        f"replica {index} is {state.state}" + (f": {state.words}" if state.words else "") for index, state in waiting
    )
    # A replica that failed says more than one that merely loads.
    worst = next((state for _, state in waiting if state.state == "Failed"), None)
    first = worst or (waiting[0][1] if waiting else None)
    reason = first.reason if first else Reason.REPLICA_PENDING
    return Finding(Type.REPLICAS_AVAILABLE, "False", reason, f"{words}; {listed}")


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
    observing: str | None = None,
) -> dict[str, Any]:
    """Return the status of a valid resource; ``observing``: why divergences are only reported."""
    replicas = {replica.index: replica for replica in observed.replicas}
    rows = [replicas.get(index, Replica(index, None, None, None)) for index in indices]
    states = [
        (
            row.index,
            replica_state(
                row,
                isolated=row.index in quarantine.isolated,
                events=observed.events.get(row.asked_about or "", ()),
            ),
        )
        for row in rows
    ]
    ready = [row for row in rows if row.ready and row.index not in quarantine.isolated]
    old = [row.index for row in rows if row.pod is not None and row.revision != revision]
    findings = [
        Finding(Type.SPEC_VALID, "True", Reason.VALID, "the resource can be carried out" + _observing(observing)),
        topology_finding(qualification.pinned, rows),
        attested_finding(rows, states),
        qualification.finding,
        invariant(observed, quarantine, ready, now=now, stale_after=stale_after)
        if spec.replicas
        else Finding(Type.OUTPUTS_INVARIANT, "Unknown", Reason.SCALED_TO_ZERO, "spec.replicas is 0: raise it to serve"),
        available(spec, ready, states, old),
    ]
    bad = [(index, state) for index, state in states if state.state in {"Failed", "Isolated", "Diverged"}]
    settled = len(ready) >= spec.replicas and not old
    findings.append(_progressing(settled=settled, old=old))
    findings.append(_degraded(bad))
    findings.insert(0, roll_up(findings[:6]))
    findings += for_kstatus(findings)
    return {
        "observedGeneration": observed.generation,
        "replicas": sum(1 for row in rows if row.pod is not None),
        "readyReplicas": len(ready),
        "selector": ",".join(f"{key}={value}" for key, value in names.selector(observed.name).items()),
        "revision": revision,
        "model": served_name(observed.resource, spec),
        "url": url(observed.resource),
        **({"topology": topology} if (topology := topology_status(qualification.pinned)) else {}),
        **({"baseline": baseline} if (baseline := _baseline(observed, qualification)) else {}),
        "replicaStates": [
            {"index": index, "state": state.state, "message": state.words[:STATE_LENGTH]} for index, state in states
        ],
        "conditions": conditions(observed, findings, now=now),
    }


def _baseline(observed: Observed, qualification: Qualification) -> Mapping[str, Any] | None:
    """Return the baseline to name. A lost one stays named: forgetting it would be re-baselining in silence."""
    return qualification.baseline or observed.old_status.get("baseline")


def _progressing(*, settled: bool, old: Sequence[int]) -> Finding:
    if settled:
        return Finding(Type.PROGRESSING, "False", Reason.SETTLED, "all replicas serve the wanted revision")
    if old:
        listed = ", ".join(str(index) for index in old)
        return Finding(Type.PROGRESSING, "True", Reason.ROLLING_OUT, f"replica {listed} runs another revision")
    return Finding(Type.PROGRESSING, "True", Reason.REPLICAS_STARTING, "not all replicas serve yet")


def _degraded(bad: Sequence[tuple[int, ReplicaState]]) -> Finding:
    if not bad:
        return Finding(Type.DEGRADED, "False", Reason.AS_EXPECTED, "no replica failed or diverged")
    words = "; ".join(f"replica {index}: {state.words}" for index, state in bad)
    return Finding(Type.DEGRADED, "True", bad[0][1].reason, words)


def _observing(why: str | None) -> str:
    return f"; divergences are reported and not acted on: {why}" if why else ""


def roll_up(findings: Sequence[Finding]) -> Finding:
    """Return Ready: True where all are, else the first cause that is not, in its own words."""
    bad = [finding for finding in findings if finding.status != "True"]
    if not bad:
        return Finding(Type.READY, "True", Reason.READY, "all replicas serve proven outputs")
    first = next((finding for finding in bad if finding.reason not in CONSEQUENCES), bad[0])
    return Finding(Type.READY, "False", first.reason, f"{first.type}: {first.message}")


def for_kstatus(findings: Sequence[Finding]) -> list[Finding]:
    """Return Stalled or Reconciling, where one of them holds: what kstatus and its users (Flux, kpt) go by.

    kstatus takes the first of the two that it finds, so there is never more than one.
    """
    stuck = next((item for item in findings if item.reason in ONLY_A_PERSON_HELPS), None)
    if stuck is not None:
        return [Finding(Type.STALLED, "True", stuck.reason, stuck.message)]
    moving = next((item for item in findings if item.type is Type.PROGRESSING and item.status == "True"), None)
    return [Finding(Type.RECONCILING, "True", moving.reason, moving.message)] if moving else []


def refused_status(
    observed: Observed, status: Mapping[str, Any] | None, error: ClusterError, *, now: float
) -> dict[str, Any]:
    """Return a status that says which child the API server refuses, in its own words.

    Args:
        observed: what was gathered.
        status: what would be written if all went well; None where that is there already.
        error: the refusal. An invalid child comes from the spec; a forbidden one may be allowed later.
        now: Unix seconds.
    """
    wanted = observed.old_status if status is None else status
    said = {
        item["type"]: Finding(Type(item["type"]), item["status"], Reason(item["reason"]), item["message"])
        for item in wanted.get("conditions") or []
        if item.get("type") in set(Type)
    }
    words = f"the API server refuses it: {error.words}"
    invalid = isinstance(error, InvalidError)
    if invalid:
        words += "; correct the field of the resource that this comes from"
    findings = [
        Finding(Type.READY, "False", Reason.CHILD_REFUSED, words),
        Finding(Type.DEGRADED, "True", Reason.CHILD_REFUSED, words),
    ]
    if invalid:
        findings += [
            Finding(Type.SPEC_VALID, "False", Reason.CHILD_REFUSED, words),
            Finding(Type.STALLED, "True", Reason.CHILD_REFUSED, words),
        ]
        said.pop(Type.RECONCILING, None)
    said |= {finding.type: finding for finding in findings}
    return {**wanted, "conditions": conditions(observed, said.values(), now=now)}


def conditions(observed: Observed, findings: Iterable[Finding], *, now: float) -> list[dict[str, Any]]:
    """Return the conditions; transition times are carried over where nothing flipped."""
    short = [
        Finding(finding.type, finding.status, finding.reason, finding.message[:MESSAGE_LENGTH]) for finding in findings
    ]
    previous = observed.old_status.get("conditions") or []
    return carry_forward(short, previous, generation=observed.generation, now=pods.format_time(now))


def invalid_status(observed: Observed, problems: Sequence[str], *, now: float) -> dict[str, Any]:
    """Return the status of a resource that cannot be carried out: what ran goes on running, and it says why.

    What was proven counts as proven no longer: nothing is compared until the spec can be carried out. Other conditions
    stay as they were, with the generation that they are about.
    """
    words = "; ".join(problems)
    findings = [
        Finding(Type.READY, "False", Reason.INVALID_SPEC, f"SpecValid: {words}"),
        Finding(Type.SPEC_VALID, "False", Reason.INVALID_SPEC, words),
        Finding(Type.STALLED, "True", Reason.INVALID_SPEC, words),
    ]
    previous = {str(item.get("type")): item for item in observed.old_status.get("conditions") or []}
    if Type.OUTPUTS_INVARIANT in previous:
        unknown = "nothing is compared until the spec can be carried out"
        findings.append(Finding(Type.OUTPUTS_INVARIANT, "Unknown", Reason.INVALID_SPEC, unknown))
    if Type.PROGRESSING in previous:
        still = "nothing is changed until the spec can be carried out"
        findings.append(Finding(Type.PROGRESSING, "False", Reason.INVALID_SPEC, still))
    said = {str(finding.type) for finding in findings} | {str(Type.RECONCILING)}
    kept = [dict(item) for kind, item in previous.items() if kind in set(Type) and kind not in said]
    return {
        **observed.old_status,
        "observedGeneration": observed.generation,
        "conditions": [*conditions(observed, findings, now=now), *kept],
    }
