"""Divergence: what is recorded, which replica is isolated, and which pod is replaced.

The cases, each a test:

- A replica diverges, a peer of the same fingerprint passes the same cell: recorded, isolated, drained, replaced.
- It diverges and no peer passes that cell (a single replica, stale peers, other fingerprints): recorded and reported;
  it goes on serving, since taking the last replica away would be an outage of our own making.
- All replicas diverge on the same cell: nobody is isolated; one finding says that it is common to all.
- It fails its gate: it never served. Recorded, and replaced with back-off.
- An isolated pod restarts in place: another boot, which passes its gate or does not; the labels are cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detinf.api import names
from detinf.api.types import QuarantinePolicy, Spec
from detinf.cluster.port import CONFIG_MAP, POD
from detinf.controller import pods
from detinf.controller.actions import Action, Create, Delete, Notice
from detinf.controller.builders import evidence_record
from detinf.controller.observed import Observed, Replica
from detinf.documents import Evidence, Phase, Verdict

DRAIN_SECONDS = 20
"""How long an isolated replica may finish what it has before its pod is replaced."""
FIRST_BACK_OFF_SECONDS = 10
LONGEST_BACK_OFF_SECONDS = 300
EVIDENCE_KEPT = 20
"""Records of divergences that are kept for a resource, the newest; enough for the longest back-off."""


@dataclass
class Quarantine:
    """What to do about divergences."""

    records: list[Action] = field(default_factory=list)
    """What is kept of them. It comes before all that is done about them: a restart in place forgets its evidence."""
    actions: list[Action] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    isolated: set[int] = field(default_factory=set)
    """Replicas whose present boot is, or is to be, isolated."""
    common_mode: bool = False


def same_cell_passes(peer: Replica, evidence: Evidence, *, now: float, stale_after: int) -> bool:
    """Return whether a peer serves with a fresh PASS where the other one diverged."""
    report = peer.report
    if report is None or not peer.ready or peer.evidence is not None or report.fingerprint != evidence.fingerprint:
        return False
    return any(
        (cell.relation, cell.condition) == (evidence.relation, evidence.condition)
        and cell.verdict is Verdict.PASS
        and cell.last_pass_unix is not None
        and now - cell.last_pass_unix <= stale_after
        for cell in report.cells
    )


def is_common_mode(replicas: list[Replica]) -> bool:
    """Return whether every replica that reports diverges on the same cell, and there are several."""
    reporting = [replica for replica in replicas if replica.report is not None and replica.report.boot is not None]
    cells = {(item.relation, item.condition) if (item := replica.evidence) else None for replica in reporting}
    return len(reporting) > 1 and None not in cells and len(cells) == 1


def back_off_seconds(failures: int) -> int:
    """Return how long to wait before the next replacement, after so many recorded divergences of a replica."""
    doubled = FIRST_BACK_OFF_SECONDS * 2 ** max(0, min(failures - 1, 10))
    return int(min(doubled, LONGEST_BACK_OFF_SECONDS))


def decide_quarantine(
    observed: Observed, spec: Spec, *, now: float, stale_after: int, enforced: bool = True
) -> Quarantine:
    """Return what to do about the divergences that are reported now."""
    result = Quarantine(common_mode=is_common_mode(observed.replicas))
    on_record = {child["metadata"]["name"] for child, _ in observed.evidence}
    result.actions += [
        Delete(CONFIG_MAP, observed.namespace, child["metadata"]["name"], pods.uid_of(child), "newer evidence is kept")
        for child, _ in observed.evidence[:-EVIDENCE_KEPT]
    ]
    for replica in observed.replicas:
        evidence, pod, report = replica.evidence, replica.pod, replica.report
        if pod is None or report is None:
            # Nothing is known of the boot that runs now; an isolated one stays isolated until something is.
            if replica.isolated_boot is not None:
                result.isolated.add(replica.index)
            continue
        if evidence is None:
            continue
        record = evidence_record(observed.resource, evidence)
        if record["metadata"]["name"] not in on_record:
            result.records.append(Create(record))
            result.notices.append(_notice(replica, evidence))
        if report.phase is Phase.GATE_FAILED:
            _replace_failed_gate(observed, replica, evidence, now, result)
        elif replica.isolated_boot == evidence.boot:
            result.isolated.add(replica.index)
            _replace_drained(observed, replica, pod, now, result)
        elif enforced and spec.quarantine.policy is QuarantinePolicy.ISOLATE and not result.common_mode:
            peers = (peer for peer in observed.replicas if peer.index != replica.index)
            if any(same_cell_passes(peer, evidence, now=now, stale_after=stale_after) for peer in peers):
                result.isolated.add(replica.index)
                cell = f"{evidence.relation} {evidence.condition}"
                words = f"replica {replica.index} leaves the Service: a peer passes {cell}"
                result.notices.append(Notice("ReplicaIsolated", words, evidence.boot, warning=True))
    return result


def _notice(replica: Replica, evidence: Evidence) -> Notice:
    reason = "DivergenceDetected"
    if replica.report is not None and replica.report.phase is Phase.GATE_FAILED:
        reason = "GateFailed"
    return Notice(reason, describe(replica.index, evidence), evidence.boot, warning=True)


def describe(index: int, evidence: Evidence) -> str:
    """Return a divergence in one sentence."""
    return (
        f"replica {index}: {evidence.relation} {evidence.condition}: {evidence.observable} differs for reference "
        f"{evidence.reference} from position {evidence.position} on ({evidence.phase}, up to {evidence.max_ulps} "
        f"ulps): {evidence.hint}"
    )


def _delete(observed: Observed, replica: Replica, why: str) -> Delete:
    assert replica.pod is not None  # noqa: S101 - callers have looked
    name = replica.pod["metadata"]["name"]
    return Delete(POD, observed.namespace, name, pods.uid_of(replica.pod), why)


def _replace_drained(
    observed: Observed, replica: Replica, pod: dict[str, object], now: float, result: Quarantine
) -> None:
    since = pods.unready_since(pod)
    if since is not None and now - since >= DRAIN_SECONDS:
        result.actions.append(_delete(observed, replica, "it diverged, its evidence is stored, and it has drained"))
        words = f"replica {replica.index} is restarted: only another boot that passes the gate clears a divergence"
        result.notices.append(Notice("ReplicaReplaced", words, pods.uid_of(pod)))


def _replace_failed_gate(
    observed: Observed, replica: Replica, evidence: Evidence, now: float, result: Quarantine
) -> None:
    pod_name = evidence.pod.name
    times = [
        pods.parse_time(child["metadata"]["creationTimestamp"])
        for child, item in observed.evidence
        if item.pod.name == pod_name
    ]
    recorded = any(item.boot == evidence.boot for _, item in observed.evidence)
    if recorded and times and now - max(times) >= back_off_seconds(len(times)):
        result.actions.append(_delete(observed, replica, "it failed its gate, and its evidence is stored"))
        words = f"replica {replica.index} failed its gate and is restarted"
        result.notices.append(Notice("ReplicaReplaced", words, evidence.boot))


def pod_labels(pod: dict[str, object], *, isolated: bool, boot: str | None) -> dict[str, str]:
    """Return the labels that we own on a pod; all of them each time, since what is left out is removed."""
    if not isolated:
        return {names.LABEL_SERVING: "true"}
    kept = boot or pods.label(pod, names.LABEL_DIVERGED_BOOT) or ""
    return {names.LABEL_SERVING: "false", names.LABEL_DIVERGED_BOOT: kept}
