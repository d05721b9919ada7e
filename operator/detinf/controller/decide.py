"""The decision: from what was gathered to what is to be done. Pure, and the same however often it is repeated."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from detinf.api import names
from detinf.api.conditions import Type
from detinf.cluster.port import Manifest
from detinf.controller import pods, rollout
from detinf.controller.actions import Action, Apply, Delete, Name, Notice, Outcome, name_of, names_of
from detinf.controller.applied import is_as_wanted, marked
from detinf.controller.builders import children_without_plan, desired_children
from detinf.controller.events import transitions
from detinf.controller.images import images
from detinf.controller.observed import Observed, Replica
from detinf.controller.peers import Rounds, asked_of
from detinf.controller.qualification import Qualification, qualify
from detinf.controller.quarantine import Quarantine, decide_quarantine, pod_labels
from detinf.controller.settings import OperatorSettings
from detinf.controller.status import build_status, invalid_status
from detinf.controller.wanted import Wanted, wanted
from detinf.documents import Phase

SOON_SECONDS = 2.0
STEADY_SECONDS = 5.0


Tell = Callable[[Outcome], tuple[dict[str, Any] | None, list[Notice]]]
"""What is to be said once it is known what was done: the status, None where it is as it is, and Events."""


@dataclass(frozen=True)
class Decision:
    """What is to be done for one resource."""

    first: list[Action]
    """Who leaves the Service, and what peers are asked: always tried, whatever became of the rest."""
    records: list[Action]
    """Evidence."""
    then: list[Action]
    tell: Tell
    seen: list[Notice] = field(default_factory=list)
    """What was found, whatever becomes of it."""
    requeue_seconds: float | None = STEADY_SECONDS
    held: bool = False
    """Whether a pod that serves stays because what would replace it has no place."""
    wants_places: bool = False
    """Whether a pod that serves would go if there were a place for what replaces it: decide again with the nodes."""


def decide(observed: Observed, settings: OperatorSettings, now: float) -> Decision:
    """Return what is to be done.

    Args:
        observed: what was gathered.
        settings: the chart's settings.
        now: Unix seconds.
    """
    found = wanted(observed, settings)
    if not isinstance(found, Wanted):
        status = invalid_status(observed, found[1], now=now)
        notices = transitions(observed.old_status, status)
        # Nothing to do until the resource changes, which wakes us.
        return Decision([], [], [], lambda _outcome: (_changed(observed, status), notices), requeue_seconds=None)
    spec = found.spec
    indices = (
        rollout.wanted_indices(observed, spec.replicas, found.revision)
        if found.plan is not None
        else _existing(observed)
    )
    qualification = qualify(observed, spec, found.plan_digest)
    foreign = images(qualification.images, spec, observed.replicas)
    rounds = Rounds(replies=settings.solo_interval_seconds, old=settings.width_interval_seconds)
    quarantine = decide_quarantine(observed, spec, now=now, rounds=rounds, observing=found.observing)
    listed = _children(observed, found, settings, indices, qualification)
    places = rollout.without_place(observed, listed, found.revision, found.restart) if settings.read_nodes else {}
    held = {index: words for index, words in places.items() if words != ""}
    surplus = rollout.surplus(observed, indices, found.revision, found.restart, now, foreign.kept_out)
    going = rollout.replaced_pods(observed, indices, found.revision, found.restart, now, held, foreign.kept_out)
    draining = _composed(observed, surplus.draining | going.draining, quarantine) | quarantine.left
    leaving = draining | (set(foreign.kept_out) - quarantine.out)
    replaced = names_of(quarantine.actions)
    # A pod takes along what its probe alone remembers.
    deletes = [
        replace(action, after=names_of(quarantine.records))
        for action in (*surplus.deletes, *going.deletes)
        if action.about not in replaced
    ]
    kept = [child for child in listed if child["kind"] != "StatefulSet" or pods.index_of(child) not in held]
    patches = functools.partial(_pod_patches, observed, quarantine, leaving)
    first = patches(None)
    created = names_of(action for action in qualification.actions if not isinstance(action, Delete))
    then = [
        *quarantine.actions,
        *qualification.actions,
        *_applied(observed, kept, created),
        *patches(qualification),
        *deletes,
    ]
    if observed.resource["metadata"].get("deletionTimestamp"):
        # It ends, and another one's finalizer holds it: its pods may serve for long, and are watched.
        then = list(quarantine.actions)

    def tell(outcome: Outcome) -> tuple[dict[str, Any] | None, list[Notice]]:
        status = build_status(
            observed,
            found,
            qualification,
            quarantine,
            outcome,
            indices=indices,
            draining=draining,
            images=foreign,
            held={index: words for index, words in held.items() if words},
            now=now,
            settings=settings,
        )
        isolated = _isolated_boots(observed, quarantine, outcome)
        agreed = [notice for about, notice in qualification.agreed.items() if about not in outcome.undone]
        said = [*agreed, *transitions(observed.old_status, status, isolated)]
        return _changed(observed, status), list({(item.reason, item.key): item for item in said}.values())

    ready = observed.condition(Type.READY) == "True" and not first and not then
    return Decision(
        first,
        quarantine.records,
        then,
        tell,
        quarantine.notices,
        STEADY_SECONDS if ready else SOON_SECONDS,
        wants_places=None in held.values(),
        held=any(held.values()),
    )


def _composed(observed: Observed, draining: set[int], quarantine: Quarantine) -> set[int]:
    """Return who may drain, beside those who are isolated.

    While it is not known who is right, and while somebody is being isolated, nobody else begins to leave.
    """
    begun = {item.index for item in observed.replicas if item.leaves}
    if quarantine.waits or quarantine.isolating:
        draining = draining & begun
    return draining - quarantine.out


def _isolated_boots(observed: Observed, quarantine: Quarantine, outcome: Outcome) -> dict[int, str]:
    """Return the boots whose pods have the label of isolated ones, those that have it since now included."""
    found = {item.index: item.isolated_boot for item in observed.replicas if item.isolated_boot}
    for replica in observed.replicas:
        if replica.index not in quarantine.isolating or replica.evidence is None or replica.pod is None:
            continue
        if not outcome.is_undone("Pod", replica.pod["metadata"]["name"]):
            found[replica.index] = replica.evidence.boot
    return found


def _existing(observed: Observed) -> list[int]:
    return [replica.index for replica in observed.replicas if replica.stateful_set is not None]


def _changed(observed: Observed, status: dict[str, Any]) -> dict[str, Any] | None:
    return None if status == dict(observed.old_status) else status


def _children(
    observed: Observed,
    found: Wanted,
    settings: OperatorSettings,
    indices: Iterable[int],
    qualification: Qualification,
) -> list[Manifest]:
    """Return the children to apply: all but StatefulSets that only an upgrade of the operator would change."""
    if found.plan is None:
        return [marked(child) for child in children_without_plan(observed.resource, entries=qualification.entries)]
    listed = desired_children(
        observed.resource,
        found.spec,
        found.plan,
        settings,
        entries=qualification.entries,
        indices=indices,
        restart=found.restart,
        observing=found.observing is not None,
    )
    return [
        marked(child)
        for child in listed
        if not rollout.keeps_runtime(observed.children.get((child["kind"], child["metadata"]["name"])), child)
    ]


def _applied(observed: Observed, listed: Iterable[Manifest], records: frozenset[Name]) -> list[Action]:
    """Return the applies of children that are not as they are wanted; in steady state there are none.

    What is delivered waits for its records, and a pod's template for what the pod mounts.
    """
    actions: list[Action] = []
    mounted: set[Name] = set()
    for child in listed:
        if child["kind"] in observed.unread:
            continue
        about = name_of(child)
        live = observed.children.get(about)
        if is_as_wanted(observed, child):
            continue
        after: frozenset[Name] = frozenset()
        if about == ("ConfigMap", names.delivery_name(observed.name)):
            after = records
        elif child["kind"] == "StatefulSet":
            after = frozenset(mounted)
        if live is None and child["kind"] == "ConfigMap":
            mounted.add(about)
        manifest = child if live is None else child | {"metadata": child["metadata"] | {"uid": pods.uid_of(live)}}
        actions.append(Apply(manifest, after))
    return actions


def _pod_patches(
    observed: Observed, quarantine: Quarantine, draining: set[int], qualification: Qualification | None
) -> list[Action]:
    """Return what is to be written on pods.

    Who leaves the Service and what is asked of a probe comes first (``qualification`` is None). That something was
    delivered is told once it was: a kubelet brings what is there when it is told.
    """
    actions: list[Action] = []
    for replica in observed.replicas:
        pod = replica.pod
        if pod is None:
            continue
        isolated = replica.index in quarantine.out
        boot = replica.evidence.boot if replica.evidence is not None else None
        labels = pod_labels(pod, isolated=isolated, leaving=replica.index in draining, boot=boot)
        known = {key: pods.annotation(pod, key) for key in (names.ANNOTATION_NUDGE, names.ANNOTATION_AGAIN)}
        wanted_ = known | {names.ANNOTATION_AGAIN: None if isolated else asked_of(replica, observed.replicas)}
        after: frozenset[Name] = frozenset()
        if qualification is None:
            stale_label = not isolated and replica.isolated_boot is not None
            same = all(pods.label(pod, key) == value for key, value in labels.items()) and not stale_label
            if same and wanted_ == known:
                continue
        elif _waits_for(replica, qualification) and known[names.ANNOTATION_NUDGE] != qualification.delivery_digest:
            wanted_[names.ANNOTATION_NUDGE] = qualification.delivery_digest
            after = frozenset({("ConfigMap", names.delivery_name(observed.name))})
        else:
            continue
        metadata: dict[str, Any] = {
            "name": pod["metadata"]["name"],
            "namespace": observed.namespace,
            "uid": pods.uid_of(pod),
            "labels": labels,
        }
        if said := {key: value for key, value in wanted_.items() if value is not None}:
            metadata["annotations"] = said
        actions.append(Apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata}, after))
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
