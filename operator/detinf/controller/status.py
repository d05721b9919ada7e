"""The status: a pure function of what was gathered and decided. Nothing in it changes because time passed alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from detinf.api import names
from detinf.api.conditions import CONSEQUENCES, ONLY_A_PERSON_HELPS, Finding, Reason, Type, carry_forward
from detinf.api.types import Spec
from detinf.controller import pods
from detinf.controller.actions import Outcome
from detinf.controller.builders import url
from detinf.controller.builders.probe_settings import served_name
from detinf.controller.children_told import ChildrenTold, children_told
from detinf.controller.deadline import is_overdue
from detinf.controller.identity import attested_finding, topology_finding, topology_status
from detinf.controller.images import Images, image_id
from detinf.controller.observed import Observed, Replica
from detinf.controller.qualification import Qualification
from detinf.controller.quarantine import Quarantine, describe
from detinf.controller.replica_state import ReplicaState, replica_state
from detinf.controller.rollout import is_old
from detinf.controller.settings import OperatorSettings
from detinf.controller.wanted import Wanted
from detinf.documents import Cell, Phase, Verdict

MESSAGE_LENGTH = 1024
NOT_KNOWN_YET = "Unknown"
"""``status.mode`` before an engine has attested what decides it."""
STATE_LENGTH = 512
SKEW_SECONDS = 60
"""So far a node's clock may be ahead of ours."""


def invariant(
    observed: Observed,
    quarantine: Quarantine,
    isolated: Collection[int],
    ready: Sequence[Replica],
    *,
    now: float,
    stale_after: int,
) -> Finding:
    """Return OutputsInvariant: False on a divergence, True on fresh proof alone, else Unknown."""
    diverging = [item for item in observed.replicas if item.evidence]
    if diverging:
        reason = Reason.DIVERGENCE_DETECTED
        if quarantine.serves:
            reason = Reason.COMMON_MODE_DIVERGENCE if quarantine.common_mode else Reason.DIVERGING_REPLICA_SERVES
        words = "; ".join(
            _divergence(item, _serves_on(item.index, quarantine, isolated)) for item in diverging if item.evidence
        )
        return Finding(Type.OUTPUTS_INVARIANT, "False", reason, words)
    if isolated:
        listed = ", ".join(str(index) for index in sorted(isolated))
        return Finding(Type.OUTPUTS_INVARIANT, "False", Reason.DIVERGENCE_DETECTED, f"replica {listed} is isolated")
    if observed.uncounted:
        return _uncounted(observed)
    if not ready:
        return Finding(
            Type.OUTPUTS_INVARIANT, "Unknown", Reason.NO_REPLICA_SERVES, "there is no serving replica to measure"
        )
    unproven = [replica.index for replica in ready if not _is_proven(replica, now=now, stale_after=stale_after)]
    if unproven:
        listed = ", ".join(str(index) for index in unproven)
        words = f"replica {listed} has no fresh proof; nothing different was seen, and that is no proof"
        ahead = [str(item.index) for item in ready if item.index in unproven and _is_ahead(item, now)]
        if ahead:
            words += (
                f"; the clock of replica {', '.join(ahead)}'s node is ahead of the controller's: set them alike (NTP)"
            )
        return Finding(Type.OUTPUTS_INVARIANT, "Unknown", Reason.EVIDENCE_STALE, words)
    return Finding(Type.OUTPUTS_INVARIANT, "True", Reason.FRESH_PROOF, "every serving replica passed its checks lately")


def _uncounted(observed: Observed) -> Finding:
    """Return what is known of pods that serve and are not ours: nobody proves them, and some are known to be wrong."""
    words = []
    wrong = False
    for pod, report in observed.uncounted:
        name = pod["metadata"]["name"]
        said = f"pod {name} is in the Service and unproven: its StatefulSet is not this resource's"
        if report is not None and report.evidence is not None:
            wrong = True
            said += f", and it diverged and goes on serving: {report.evidence.hint}"
        words.append(said)
    reason = Reason.DIVERGING_REPLICA_SERVES if wrong else Reason.EVIDENCE_STALE
    return Finding(Type.OUTPUTS_INVARIANT, "False" if wrong else "Unknown", reason, "; ".join(words))


def _serves_on(index: int, quarantine: Quarantine, isolated: Collection[int]) -> str:
    """Return why a replica that diverged serves on; empty where it does not."""
    if index in isolated:
        return ""
    for why in (quarantine.serves, quarantine.waits, quarantine.chosen):
        if index in why:
            return why[index]
    return "it could not be taken out of the Service yet" if index in quarantine.isolating else ""


def _divergence(replica: Replica, serves_on: str) -> str:
    assert replica.evidence is not None  # noqa: S101 - the caller has looked
    # What a person needs first comes first: a condition's message has an end.
    said = f"replica {replica.index} diverged and goes on serving ({serves_on}); " if serves_on else ""
    return said + describe(replica.index, replica.evidence, replica.report.hint if replica.report else None)


def _is_ahead(replica: Replica, now: float) -> bool:
    """Return whether a replica's probe dates what it saw into the future."""
    cells = replica.report.cells if replica.report is not None else []
    return any(cell.last_pass_unix is not None and cell.last_pass_unix - now > SKEW_SECONDS for cell in cells)


def _is_proven(replica: Replica, *, now: float, stale_after: int) -> bool:
    """Return whether a replica passed lately: the baseline alone, and at least one proven batch."""

    def fresh(cell: Cell) -> bool:
        # A PASS of the future is a node's clock, and says nothing of when it was.
        passed = cell.last_pass_unix is not None and -SKEW_SECONDS <= now - cell.last_pass_unix <= stale_after
        return passed and cell.verdict is not Verdict.FAIL

    report = replica.report
    if report is None:
        return False
    if not report.cells and report.phase is Phase.PASSED:
        # The probe was restarted: its pass is kept, its ledger is not. The next round fills it.
        return False
    return {"S02", "S03"} <= {cell.relation for cell in report.cells if fresh(cell)}


def available(
    spec: Spec,
    ready: Sequence[Replica],
    states: Iterable[tuple[int, ReplicaState]],
    old: Sequence[int],
    held: Mapping[int, str],
) -> Finding:
    """Return ReplicasAvailable, with the reason of the replica that is worst off and the words of all that wait.

    While a roll-out replaces one pod after the other, all replicas serve for a moment in between. That is not what was
    asked for yet: who waits for Ready waits for all of them.
    """
    words = f"{len(ready)} of {spec.replicas} replicas serve"
    if len(ready) >= spec.replicas and held:
        return Finding(Type.REPLICAS_AVAILABLE, "False", Reason.NO_PLACE, f"{words}; {_held(held)}")
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


@dataclass(frozen=True)
class Row:
    """One replica of the status."""

    replica: Replica
    state: ReplicaState
    evidence: str | None
    """The record of what it diverged on, until it serves again."""

    def told(self) -> dict[str, Any]:
        """Return its entry of ``status.replicaStates``."""
        pod, report = self.replica.pod, self.replica.report
        details = {
            "pod": None if pod is None else pod["metadata"]["name"],
            "podUID": None if pod is None else pods.uid_of(pod),
            "node": None if pod is None else pod.get("spec", {}).get("nodeName"),
            "boot": None if report is None else report.boot,
            "imageID": image_id(pod),
            "evidence": self.evidence,
        }
        row = {"index": self.replica.index, "state": self.state.state, "message": self.state.words[:STATE_LENGTH]}
        return row | {key: value for key, value in details.items() if value is not None}


def rows(
    observed: Observed,
    quarantine: Quarantine,
    outcome: Outcome,
    isolated: Collection[int],
    indices: Sequence[int],
    draining: set[int],
    images: Images,
) -> list[Row]:
    """Return the replicas that are to exist."""
    replicas = {replica.index: replica for replica in observed.replicas}
    before = {item.get("index"): item for item in observed.old_status.get("replicaStates") or []}
    found = []
    for index in indices:
        replica = replicas.get(index, Replica(index, None, None, None))
        state = replica_state(
            replica,
            isolated=index in isolated,
            draining=index in draining and replica.leaves,
            foreign=images.kept_out.get(index, ""),
            why=_serves_on(index, quarantine, isolated),
            events=observed.events.get(replica.asked_about or "", ()),
        )
        record: str | None = None
        if replica.evidence is not None:
            name = names.evidence_name(observed.name, replica.evidence.digest())
            stored = ("ConfigMap", name) in observed.children or any(item.about[1] == name for item in outcome.done)
            record = name if stored else None
        elif state.state != "Serving":
            record = before.get(index, {}).get("evidence")
        if record is not None and not state.words:
            state = replace(state, words=f"it was restarted after it diverged ({record})")
        found.append(Row(replica, state, record))
    return found


def build_status(
    observed: Observed,
    found: Wanted,
    qualification: Qualification,
    quarantine: Quarantine,
    outcome: Outcome,
    *,
    indices: Sequence[int],
    draining: set[int],
    images: Images,
    held: Mapping[int, str],
    now: float,
    settings: OperatorSettings,
) -> dict[str, Any]:
    """Return the status of a resource that is carried out, or whose last valid spec is.

    Args:
        observed: what was gathered.
        found: what is carried out.
        qualification: what answers are agreed.
        quarantine: what is done about divergences.
        outcome: what of all that was done; what was not is not claimed.
        indices: of the replicas that are to exist.
        draining: replicas that make way.
        images: replicas that run another image than their revision is pinned to.
        held: why replicas that serve are not replaced though they are older: there is no place for what would be.
        now: Unix seconds.
        settings: the chart's: after how long a PASS is no proof any more, and how long a gate may take.
    """
    spec = found.spec
    isolated = quarantine.isolated | {
        item.index
        for item in observed.replicas
        if item.index in quarantine.isolating
        and item.pod is not None
        and not outcome.is_undone("Pod", item.pod["metadata"]["name"])
    }
    listed = rows(observed, quarantine, outcome, isolated, indices, draining, images)
    states = [(row.replica.index, row.state) for row in listed]
    replicas = [row.replica for row in listed]
    ready = [item for item in replicas if item.ready and item.index not in isolated and not item.leaves]
    # Users are sent to those that are not to exist any more, too, until they have drained.
    sent_to = [item for item in observed.replicas if item.ready and item.index not in isolated and not item.leaves]
    old = [item.index for item in replicas if item.index in held or is_old(item, found.revision, found.restart)]
    told = children_told(observed, outcome)
    findings = [
        _spec_valid(found, told),
        topology_finding(qualification.pinned, replicas, images),
        attested_finding(replicas, states),
        _qualified(qualification, outcome),
        invariant(observed, quarantine, isolated, sent_to, now=now, stale_after=settings.stale_after_seconds)
        if spec.replicas or quarantine.out or observed.uncounted or any(item.evidence for item in observed.replicas)
        else Finding(Type.OUTPUTS_INVARIANT, "Unknown", Reason.SCALED_TO_ZERO, "spec.replicas is 0: raise it to serve"),
        available(spec, ready, states, old, held),
    ]
    settled = len(ready) >= spec.replicas and not old
    overdue = is_overdue(observed, spec, now=now, gate_timeout_seconds=settings.gate_timeout_seconds)
    progressing = _progressing(found, settled=settled, old=old, held=held, stuck=findings[-1] if overdue else None)
    degraded = _degraded(listed, told.finding)
    # A divergence comes before a child that is not as it is wanted, and that before what is merely unproven.
    *earlier, outputs, serving = findings
    child = [told.finding] if told.finding else []
    causes = [*earlier, *([outputs, *child] if outputs.status == "False" else [*child, outputs]), serving]
    kstatus = for_kstatus([*causes, progressing])
    ready_finding = roll_up(causes)
    if ready_finding.status == "True" and found.observing is not None:
        ready_finding = replace(ready_finding, message=f"{ready_finding.message}{_mode_words(found)}")
    baseline = _baseline(observed, qualification, outcome)
    topology = topology_status(qualification.pinned)
    return {
        "observedGeneration": observed.generation,
        "replicas": sum(1 for item in replicas if item.pod is not None),
        "readyReplicas": len(ready),
        "selector": ",".join(f"{key}={value}" for key, value in names.selector(observed.name).items()),
        **({"controller": settings.lease} if settings.lease else {}),
        "revision": found.revision,
        "model": served_name(observed.resource, spec),
        "mode": str(found.acting.mode or NOT_KNOWN_YET),
        "url": url(observed.resource),
        **({"lastValid": dict(found.last_valid)} if found.last_valid else {}),
        **({"topology": topology} if topology else {}),
        **({"baseline": baseline} if baseline else {}),
        "replicaStates": [row.told() for row in listed],
        "conditions": conditions(observed, [ready_finding, *findings, progressing, degraded, *kstatus], now=now),
    }


def _spec_valid(found: Wanted, told: ChildrenTold) -> Finding:
    if found.problems:
        words = "; ".join(found.problems)
        since = f" (generation {found.last_valid['generation']})" if found.last_valid else ""
        words = f"{words}; until then what runs is watched and held to the last valid spec{since}"
        return Finding(Type.SPEC_VALID, "False", Reason.INVALID_SPEC, words)
    if told.finding is not None and told.blames_spec:
        return Finding(Type.SPEC_VALID, "False", told.finding.reason, told.finding.message)
    return Finding(Type.SPEC_VALID, "True", Reason.VALID, f"the resource can be carried out{_mode_words(found)}")


def _mode_words(found: Wanted) -> str:
    """Return what a condition says of a mode that is not Enforce."""
    if found.observing is not None:
        return f"; divergences are reported and not acted on: {found.observing}"
    if found.acting.mode is None:
        return f"; divergences are acted on, and whether they will be is not known yet: {found.acting.because}"
    return ""


def _qualified(qualification: Qualification, outcome: Outcome) -> Finding:
    if qualification.stored_as is not None and qualification.stored_as in outcome.undone:
        words = "the agreed answers are not stored yet, and count for nothing until they are"
        return Finding(Type.QUALIFIED, "False", Reason.QUALIFYING, words)
    return qualification.finding


def _baseline(observed: Observed, qualification: Qualification, outcome: Outcome) -> Mapping[str, Any] | None:
    """Return the baseline to name. A lost one stays named: forgetting it would be re-baselining in silence."""
    earlier: Mapping[str, Any] | None = observed.old_status.get("baseline")
    if qualification.stored_as is not None and qualification.stored_as in outcome.undone:
        return earlier
    return qualification.baseline or earlier


def _progressing(
    found: Wanted, *, settled: bool, old: Sequence[int], held: Mapping[int, str], stuck: Finding | None
) -> Finding:
    if found.problems:
        still = "nothing that the edit asks for is changed until the spec can be carried out"
        return Finding(Type.PROGRESSING, "False", Reason.INVALID_SPEC, still)
    if held:
        return Finding(Type.PROGRESSING, "False", Reason.NO_PLACE, _held(held))
    if settled:
        return Finding(Type.PROGRESSING, "False", Reason.SETTLED, "all replicas serve the wanted revision")
    if stuck is not None:
        words = f"nothing got any further for longer than an engine may load and be gated: {stuck.message}"
        return Finding(Type.PROGRESSING, "False", Reason.PROGRESS_DEADLINE_EXCEEDED, words)
    if old:
        listed = ", ".join(str(index) for index in old)
        return Finding(Type.PROGRESSING, "True", Reason.ROLLING_OUT, f"replica {listed} is older and is replaced")
    return Finding(Type.PROGRESSING, "True", Reason.REPLICAS_STARTING, "not all replicas serve yet")


def _held(held: Mapping[int, str]) -> str:
    # All of one resource ask for the same place, but for what the replaced ones give back: one of them says it.
    index, words = next(iter(held.items()))
    return f"replica {index} goes on serving as it is, since there is no place for what would replace it: {words}"


BAD_STATES = frozenset({"Failed", "Isolated", "Diverged"})


def _degraded(listed: Sequence[Row], children: Finding | None) -> Finding:
    """Return Degraded: a replica that failed or diverged, until it serves again, or a child that is not as wanted."""
    bad = [row for row in listed if row.state.state in BAD_STATES or row.evidence is not None]
    if not bad and children is None:
        return Finding(Type.DEGRADED, "False", Reason.AS_EXPECTED, "no replica failed or diverged")
    words = [f"replica {row.replica.index}: {row.state.words}" for row in bad]
    if children is not None:
        words.append(children.message)
    worst = next((row for row in bad if row.state.state in BAD_STATES), bad[0] if bad else None)
    reason = worst.state.reason if worst else children.reason if children else Reason.AS_EXPECTED
    return Finding(Type.DEGRADED, "True", reason, "; ".join(words))


def roll_up(findings: Sequence[Finding]) -> Finding:
    """Return Ready: True where nothing is wrong, else the first cause, in its own words."""
    bad = [finding for finding in findings if finding.status != "True" or finding.type is Type.DEGRADED]
    if not bad:
        return Finding(Type.READY, "True", Reason.READY, "all replicas serve proven outputs")
    first = next((finding for finding in bad if finding.reason not in CONSEQUENCES), bad[0])
    said = first.message if first.type is Type.DEGRADED else f"{first.type}: {first.message}"
    return Finding(Type.READY, "False", first.reason, said)


def for_kstatus(findings: Sequence[Finding]) -> list[Finding]:
    """Return Stalled or Reconciling, where one of them holds: what kstatus and its users (Flux, kpt) go by.

    kstatus takes the first of the two that it finds, so there is never more than one.
    """
    stuck = next((item for item in findings if item.reason in ONLY_A_PERSON_HELPS), None)
    if stuck is not None:
        return [Finding(Type.STALLED, "True", stuck.reason, stuck.message)]
    moving = next((item for item in findings if item.type is Type.PROGRESSING and item.status == "True"), None)
    return [Finding(Type.RECONCILING, "True", moving.reason, moving.message)] if moving else []


def conditions(observed: Observed, findings: Iterable[Finding], *, now: float) -> list[dict[str, Any]]:
    """Return the conditions; transition times are carried over where nothing flipped."""
    short = [
        Finding(finding.type, finding.status, finding.reason, finding.message[:MESSAGE_LENGTH]) for finding in findings
    ]
    previous = observed.old_status.get("conditions") or []
    return carry_forward(short, previous, generation=observed.generation, now=pods.format_time(now))


def invalid_status(observed: Observed, problems: Sequence[str], *, now: float) -> dict[str, Any]:
    """Return the status of a resource that was never carried out and cannot be: there is nothing to watch."""
    words = "; ".join(problems)
    findings = [
        Finding(Type.READY, "False", Reason.INVALID_SPEC, f"SpecValid: {words}"),
        Finding(Type.SPEC_VALID, "False", Reason.INVALID_SPEC, words),
        Finding(Type.STALLED, "True", Reason.INVALID_SPEC, words),
    ]
    said = {str(finding.type) for finding in findings} | {str(Type.RECONCILING)}
    previous = {str(item.get("type")): item for item in observed.old_status.get("conditions") or []}
    kept = [dict(item) for kind, item in previous.items() if kind in set(Type) and kind not in said]
    return {
        **observed.old_status,
        "observedGeneration": observed.generation,
        "conditions": [*conditions(observed, findings, now=now), *kept],
    }
