"""The decision: from what was gathered to what is to be done. Pure, and the same however often it is repeated."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from detinf.api import names
from detinf.api.conditions import Type
from detinf.api.types import Spec
from detinf.api.validation import validate
from detinf.cluster.port import Manifest
from detinf.controller import pods, rollout
from detinf.controller.actions import Action, Apply, Notice
from detinf.controller.builders import desired_children, plan_for
from detinf.controller.events import all_notices
from detinf.controller.observed import Observed, Replica
from detinf.controller.qualification import Qualification, qualify
from detinf.controller.quarantine import Quarantine, decide_quarantine, pod_labels
from detinf.controller.settings import OperatorSettings
from detinf.controller.status import build_status, invalid_status
from detinf.documents import Phase, Plan
from detinf.engines.plan import revision_of
from detinf.engines.validated import observed_because
from detinf.guard.canonical import digest, short

ANNOTATION_APPLIED = f"{names.GROUP}/applied"
"""Digest of what was applied: shows that something we no longer want is still there, which a comparison cannot."""

SOON_SECONDS = 2.0
STEADY_SECONDS = 5.0


@dataclass(frozen=True)
class Decision:
    """What is to be done for one resource."""

    actions: list[Action]
    status: dict[str, Any] | None
    """The status to write; None where it is as it is."""
    notices: list[Notice] = field(default_factory=list)
    requeue_seconds: float | None = STEADY_SECONDS


def decide(observed: Observed, settings: OperatorSettings, now: float) -> Decision:
    """Return what is to be done.

    Args:
        observed: what was gathered.
        settings: the chart's settings.
        now: Unix seconds.
    """
    spec, problems = validate(observed.resource, settings.rules())
    if spec is None or problems:
        status = invalid_status(observed, [str(problem) for problem in problems], now=now)
        notices = all_notices(observed.old_status, status)
        # Nothing to do until the resource changes, which wakes us.
        return Decision([], _changed(observed, status), notices, requeue_seconds=None)
    plan = plan_for(spec, settings)
    revision = revision_of(plan)
    indices = rollout.wanted_indices(observed, spec.replicas)
    qualification = qualify(observed, spec, plan.digest())
    observing = observed_because(spec, settings.profiles[plan.profile])
    quarantine = decide_quarantine(
        observed, spec, now=now, stale_after=settings.stale_after_seconds, enforced=observing is None
    )
    actions = [
        *quarantine.records,
        *qualification.actions,
        *_applied(observed, _children(observed, spec, plan, settings, indices, qualification)),
        *rollout.surplus(observed, indices),
        *_pod_patches(observed, qualification, quarantine),
        *quarantine.actions,
    ]
    deleted = {action.uid for action in quarantine.actions if not isinstance(action, Apply) and hasattr(action, "uid")}
    actions += [
        action
        for action in rollout.replaced_pods(observed, indices, revision)
        if getattr(action, "uid", None) not in deleted
    ]
    status = build_status(
        observed,
        spec,
        qualification,
        quarantine,
        revision=revision,
        indices=indices,
        now=now,
        stale_after=settings.stale_after_seconds,
        observing=observing,
    )
    notices = all_notices(observed.old_status, status, qualification.notices, quarantine.notices)
    ready = next(item for item in status["conditions"] if item["type"] == Type.READY)
    requeue = STEADY_SECONDS if ready["status"] == "True" and not actions else SOON_SECONDS
    return Decision(actions, _changed(observed, status), notices, requeue)


def _changed(observed: Observed, status: dict[str, Any]) -> dict[str, Any] | None:
    return None if status == dict(observed.old_status) else status


def _children(
    observed: Observed,
    spec: Spec,
    plan: Plan,
    settings: OperatorSettings,
    indices: Iterable[int],
    qualification: Qualification,
) -> list[Manifest]:
    """Return the children to apply: all but StatefulSets that only an upgrade of the operator would change."""
    listed = desired_children(observed.resource, spec, plan, settings, entries=qualification.entries, indices=indices)
    return [
        child
        for child in listed
        if not rollout.keeps_runtime(observed.children.get((child["kind"], child["metadata"]["name"])), child)
    ]


def _applied(observed: Observed, wanted: Iterable[Manifest]) -> list[Action]:
    """Return the applies of children that are not as they are wanted; in steady state there are none."""
    actions: list[Action] = []
    for child in wanted:
        manifest = _marked(child)
        live = observed.children.get((child["kind"], child["metadata"]["name"]))
        if live is None or not _contains(live, manifest):
            actions.append(Apply(manifest))
    return actions


def _marked(child: Manifest) -> Manifest:
    annotations = {ANNOTATION_APPLIED: short(digest(child))}
    return child | {"metadata": child["metadata"] | {"annotations": annotations}}


def _contains(live: Any, wanted: Any) -> bool:
    """Return whether everything wanted is there; what others added may be there too."""
    if isinstance(wanted, dict):
        return isinstance(live, dict) and all(key in live and _contains(live[key], wanted[key]) for key in wanted)
    if isinstance(wanted, list):
        same_length = isinstance(live, list) and len(live) == len(wanted)
        return same_length and all(_contains(left, right) for left, right in zip(live, wanted, strict=True))
    return bool(live == wanted)


def _pod_patches(observed: Observed, qualification: Qualification, quarantine: Quarantine) -> list[Action]:
    """Return what is to be written on pods: who is isolated, and who is told that something was delivered."""
    actions: list[Action] = []
    for replica in observed.replicas:
        pod = replica.pod
        if pod is None:
            continue
        isolated = replica.index in quarantine.isolated
        boot = replica.evidence.boot if replica.evidence is not None else None
        labels = pod_labels(pod, isolated=isolated, boot=boot)
        known = pod["metadata"].get("annotations", {}).get(names.ANNOTATION_NUDGE)
        nudge = qualification.delivery_digest if _waits_for(replica, qualification) else known
        stale_label = not isolated and replica.isolated_boot is not None
        same_labels = all(pods.label(pod, key) == value for key, value in labels.items()) and not stale_label
        if same_labels and nudge == known:
            continue
        metadata: dict[str, Any] = {
            "name": pod["metadata"]["name"],
            "namespace": observed.namespace,
            "uid": pods.uid_of(pod),
            "labels": labels,
        }
        if nudge is not None:
            metadata["annotations"] = {names.ANNOTATION_NUDGE: nudge}
        actions.append(Apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}))
    return actions


def _waits_for(replica: Replica, qualification: Qualification) -> bool:
    """Return whether a pod waits for something that the delivery has now: a kubelet brings it at once when told."""
    report = replica.report
    if report is None:
        return False
    if report.phase is Phase.WAITING_FOR_REFERENCES:
        return names.REFERENCES_KEY in qualification.entries
    if report.phase is Phase.WAITING_FOR_BASELINE and report.fingerprint and report.references_digest:
        return names.baseline_key(report.fingerprint, report.references_digest) in qualification.entries
    return False
