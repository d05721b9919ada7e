"""Divergence: what is recorded, which replica is isolated, and which pod is replaced.

The cases, each a test:

- A replica diverges, and a peer of the same fingerprint passes the same since: isolated, drained, replaced. All peers
  are waited for first, within limits.
- It diverges and no peer has passed the same since (a single replica, busy peers, other fingerprints): recorded and
  told; it goes on serving, since taking the last replica away would be an outage of our own making.
- All replicas that serve diverge, on whatever: nobody is isolated; one finding says that it is common to all.
- It fails its gate: it never served. Recorded, and replaced with back-off.
- An isolated pod restarts in place: another boot, which passes its gate or does not; the labels are cleared.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from detinf.api import names
from detinf.api.types import QuarantinePolicy, Spec
from detinf.cluster.port import CONFIG_MAP, POD
from detinf.controller import pods
from detinf.controller.actions import Action, Create, Delete, Notice, names_of
from detinf.controller.builders import evidence_record
from detinf.controller.images import image_id
from detinf.controller.observed import Observed, Replica
from detinf.controller.peers import Heard, Rounds, heard
from detinf.documents import Evidence, Phase

DRAIN_SECONDS = 20
"""How long a replica that left the Service may finish what it has before its pod is deleted."""
FIRST_BACK_OFF_SECONDS = 10
LONGEST_BACK_OFF_SECONDS = 300
EVIDENCE_KEPT = 20
"""Records of divergences that are kept for a resource, the newest; enough for the longest back-off."""


@dataclass
class Quarantine:
    """What to do about divergences."""

    recorded: dict[int, list[Action]] = field(default_factory=dict)
    """By replica what is kept of them. No pod goes before its evidence is stored."""
    actions: list[Action] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    isolated: set[int] = field(default_factory=set)
    """Replicas whose present boot is isolated, by the label of their pod."""
    isolating: set[int] = field(default_factory=set)
    """Replicas that are to be isolated now."""
    waits: dict[int, str] = field(default_factory=dict)
    """Why a replica that diverged goes on serving for now; its peers are being asked."""
    serves: dict[int, str] = field(default_factory=dict)
    """Why a replica that diverged goes on serving until a person acts."""
    chosen: dict[int, str] = field(default_factory=dict)
    """Why a replica that diverged goes on serving as the resource's owner has it."""
    left: set[int] = field(default_factory=set)
    """Replicas that diverged and are out of the Service for another reason: they do not come back."""
    common_mode: bool = False

    @property
    def records(self) -> list[Action]:
        """What is kept of them."""
        return [action for listed in self.recorded.values() for action in listed]

    @property
    def out(self) -> set[int]:
        """Replicas that are, or are to be, out of the Service."""
        return self.isolated | self.isolating


def is_common_mode(replicas: list[Replica]) -> bool:
    """Return whether every replica that serves diverges, on whatever cell, and there are several."""
    serving = [item for item in replicas if item.ready and not item.leaves]
    return len(serving) > 1 and all(item.evidence is not None for item in serving)


def back_off_seconds(failures: int) -> int:
    """Return how long to wait before the next replacement, after so many recorded divergences of a replica."""
    doubled = FIRST_BACK_OFF_SECONDS * 2 ** max(0, min(failures - 1, 10))
    return int(min(doubled, LONGEST_BACK_OFF_SECONDS))


def decide_quarantine(
    observed: Observed, spec: Spec, *, now: float, rounds: Rounds, observing: str | None = None
) -> Quarantine:
    """Return what to do about the divergences that are reported now.

    Args:
        observed: what was gathered.
        spec: the resource's spec.
        now: Unix seconds.
        rounds: how long peers are waited for.
        observing: why divergences are only reported; None where they are acted on.
    """
    result = Quarantine(common_mode=is_common_mode(observed.replicas))
    on_record = {child["metadata"]["name"]: child for child, _ in observed.evidence}
    running = {item.boot for replica in observed.replicas for item in replica.pieces}
    result.actions += [
        Delete(CONFIG_MAP, observed.namespace, child["metadata"]["name"], pods.uid_of(child), "newer evidence is kept")
        for child, item in observed.evidence[:-EVIDENCE_KEPT]
        if item.boot not in running
    ]
    for replica in observed.replicas:
        evidence, pod, report = replica.evidence, replica.pod, replica.report
        if pod is None or evidence is None:
            # Nothing is known of the boot that runs now; an isolated one stays isolated until something is.
            if replica.isolated_boot is not None and (report is None or replica.isolated_boot == report.boot):
                result.isolated.add(replica.index)
            continue
        records: list[Action] = []
        for item in replica.pieces:
            record = evidence_record(observed.resource, item, image_id(pod))
            if record["metadata"]["name"] not in on_record:
                records.append(Create(record))
                result.notices.append(_notice(replica, item))
        result.recorded[replica.index] = records
        if report is not None and report.phase is Phase.GATE_FAILED and observing is None:
            _replace_failed_gate(observed, replica, evidence, now, result)
        elif replica.isolated_boot == evidence.boot:
            result.isolated.add(replica.index)
            _replace_drained(observed, replica, records, now, result)
        else:
            first = on_record.get(evidence_record(observed.resource, evidence)["metadata"]["name"])
            told = evidence.detected_unix if first is None else pods.parse_time(first["metadata"]["creationTimestamp"])
            waited = now - told
            found = heard(replica, observed.replicas, waited=waited, rounds=rounds)
            _judge(spec, replica, found, waited=waited, rounds=rounds, observing=observing, result=result)
            if replica.index in result.left:
                _replace_drained(observed, replica, records, now, result)
    return result


def _judge(
    spec: Spec,
    replica: Replica,
    found: Heard,
    *,
    waited: float,
    rounds: Rounds,
    observing: str | None,
    result: Quarantine,
) -> None:
    """Decide about a replica that diverged while it serves, or leaves for another reason."""
    index = replica.index
    listed = ", ".join(str(peer) for peer in found.passing)
    proof = f"; replica {listed} passes the same" if found.passing else ""
    enforced = observing is None and spec.quarantine.policy is QuarantinePolicy.ISOLATE
    if replica.leaves and not (enforced and found.alone(waited=waited, rounds=rounds)):
        # It left to make way, or a hand has half taken its label: nobody is sent to it.
        result.left.add(index)
    elif observing is not None:
        result.chosen[index] = f"divergences are only reported: {observing}{proof}"
    elif spec.quarantine.policy is not QuarantinePolicy.ISOLATE:
        result.chosen[index] = f"spec.quarantine.policy is {spec.quarantine.policy}{proof}"
    elif result.common_mode:
        result.serves[index] = "all replicas that serve diverge, so none is isolated: that would be an outage"
    elif found.alone(waited=waited, rounds=rounds):
        result.isolating.add(index)
    elif found.passing or (found.silent and waited < rounds.old):
        silent = ", ".join(str(peer) for peer in found.silent)
        result.waits[index] = f"replica {silent} is asked the same again"
    elif found.silent:
        silent = ", ".join(str(peer) for peer in found.silent)
        result.serves[index] = f"replica {silent} was asked the same again and could not tell: it is still being asked"
    elif found.failing:
        failing = ", ".join(str(peer) for peer in found.failing)
        result.serves[index] = f"replica {failing}, of the same fingerprint, diverged, too, and nobody can tell for it"
    else:
        result.serves[index] = "no other replica of its fingerprint serves, and the last one is never taken away"


def _notice(replica: Replica, evidence: Evidence) -> Notice:
    reason = "DivergenceDetected"
    if replica.report is not None and replica.report.phase is Phase.GATE_FAILED:
        reason = "GateFailed"
    return Notice(reason, describe(replica.index, evidence), evidence.digest(), warning=True)


def describe(index: int, evidence: Evidence, hint: str | None = None) -> str:
    """Return a divergence in one sentence, with the newest hint there is."""
    words = (
        f"replica {index}: {evidence.relation} {evidence.condition}: {evidence.observable} differs for reference "
        f"{evidence.reference} from position {evidence.position} on ({evidence.phase}, up to {evidence.max_ulps} ulps)"
    )
    if evidence.answered is not None:
        since = f"since it passed last, at {pods.format_time(evidence.clean_unix)}" if evidence.clean_unix else "before"
        words += f"; it answered {evidence.answered} requests {since}"
    return f"{words}: {hint or evidence.hint}"


def _delete(observed: Observed, replica: Replica, why: str, after: list[Action]) -> Delete:
    assert replica.pod is not None  # noqa: S101 - callers have looked
    name = replica.pod["metadata"]["name"]
    return Delete(POD, observed.namespace, name, pods.uid_of(replica.pod), why, names_of(after))


def _replace_drained(
    observed: Observed, replica: Replica, records: list[Action], now: float, result: Quarantine
) -> None:
    assert replica.pod is not None  # noqa: S101 - the caller has looked
    since = pods.unready_since(replica.pod)
    if since is not None and now - since >= DRAIN_SECONDS:
        # What it diverged on is in its memory alone until it is on record.
        why = "it diverged, its evidence is stored, and it has drained"
        result.actions.append(_delete(observed, replica, why, records))


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
        result.actions.append(_delete(observed, replica, "it failed its gate, and its evidence is stored", []))


def pod_labels(pod: dict[str, object], *, isolated: bool, leaving: bool, boot: str | None) -> dict[str, str]:
    """Return the labels that we own on a pod; all of them each time, since what is left out is removed."""
    if not isolated:
        return {names.LABEL_SERVING: "false" if leaving else "true"}
    kept = boot or pods.label(pod, names.LABEL_DIVERGED_BOOT) or ""
    return {names.LABEL_SERVING: "false", names.LABEL_DIVERGED_BOOT: kept}
