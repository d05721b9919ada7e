"""What keeps a replica from running, in one reason and the words that help.

The words are the scheduler's, the kubelet's, an admission plug-in's or the guard's own, with a remedy in the resource's
terms. They are the same at each look while the trouble is the same: what alternates or counts (back-off times, restart
counts, ``ErrImagePull`` and ``ImagePullBackOff``) is left out, since every other word is a write of the status.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from detinf.api import names
from detinf.api.conditions import Reason
from detinf.cluster.port import Manifest
from detinf.controller import pods
from detinf.controller.pods import Pod
from detinf.guard.layout import REFUSED_EXIT_CODE

INITIAL = (names.GUARD_INSTALL_CONTAINER, names.USERS_CONTAINER)
"""Init containers that end."""
CONTAINERS = (names.ENGINE_CONTAINER, names.PROBE_CONTAINER, *INITIAL)
PULL_REASONS = frozenset({"ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
QUIET_REASONS = frozenset({None, "PodInitializing", "ContainerCreating", "CrashLoopBackOff"})
"""Reasons of waiting that say nothing, or nothing that the last termination does not say better."""
CRASHES = 2
"""Restarts in a row of an engine that never became healthy; one alone is a restart, and no trouble yet."""
ENDED_WELL = "its command returned, or the kubelet ended it after spec.engine.startupTimeoutSeconds"
"""Why an engine that never became healthy ends with 0: vLLM does so at SIGTERM, too."""
MOUNT_EVENTS = frozenset({"FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox"})
PASSING_EVENTS = frozenset({"FailedMount", "FailedCreatePodSandBox"})
"""Also said of a ConfigMap that the kubelet has not seen yet; it tries again after 0.5 s, 1 s, 2 s and so on."""
LASTING_SECONDS = 5
"""So long the kubelet's tries must have failed to be a trouble; by the Events' own times: no clock is needed."""


PENDING = frozenset({Reason.UNSCHEDULABLE, Reason.NO_NODE_MATCHES, Reason.CLAIM_MISSING})
"""Troubles of pods that have no node yet."""


@dataclass(frozen=True)
class Trouble:
    """Why a replica does not run."""

    reason: Reason
    words: str

    @property
    def state(self) -> str:
        """The replica's state: Pending while the cluster may still find a place for it."""
        return "Pending" if self.reason in PENDING else "Failed"


def pod_trouble(pod: Pod, events: Sequence[Manifest] = ()) -> Trouble | None:
    """Return what keeps a pod from running.

    Args:
        pod: its manifest.
        events: the Events about it, which alone know why containers are not created (``waits_for_containers``).
    """
    status = pod.get("status", {})
    if status.get("phase") == "Failed":
        return _failed(status)
    for name in CONTAINERS:
        if found := _container(name, pod):
            return found
    scheduled = pods.condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        labels = pod.get("spec", {}).get("nodeSelector") or {}
        return _unscheduled(str(scheduled.get("reason", "")), str(scheduled.get("message", "")), labels)
    return _mount(events) if waits_for_containers(pod) else None


def waits_for_containers(pod: Pod) -> bool:
    """Return whether a pod has a node and no container of it was started yet."""
    engine = pods.container_status(pod, names.ENGINE_CONTAINER).get("state", {})
    init = pods.container_status(pod, names.GUARD_INSTALL_CONTAINER).get("state", {})
    begun = any(state.keys() & {"running", "terminated"} for state in (engine, init))
    return pods.condition(pod, "PodScheduled").get("status") == "True" and not begun


def refused_pod(events: Sequence[Manifest]) -> Trouble | None:
    """Return why a StatefulSet has no pod, from the Events about it: only its own controller was told."""
    newest = max(
        (item for item in events if item.get("reason") in {"FailedCreate", "SuccessfulCreate"}), key=_when, default=None
    )
    if newest is None or newest.get("reason") != "FailedCreate":
        return None
    words = _note(newest).rpartition(" failed error: ")[2]
    return Trouble(Reason.POD_REFUSED, _with(words, _first(words, REFUSALS)))


REFUSALS = (
    (
        "hostPath volumes",
        "use a persistentVolumeClaim source, or label the namespace pod-security.kubernetes.io/enforce=privileged",
    ),
    ("violates PodSecurity", "relax the namespace's label pod-security.kubernetes.io/enforce"),
    (
        "exceeded quota",
        "raise the ResourceQuota, or lower spec.replicas, spec.parallelism.tensor or spec.engine.resources",
    ),
    ("failed quota", "set what the ResourceQuota wants in spec.engine.resources"),
    ("no PriorityClass", "create it, or correct spec.scheduling.priorityClassName"),
    ("RuntimeClass", "create it, or correct spec.scheduling.runtimeClassName"),
    ("per Container", "choose spec.engine.resources within the namespace's LimitRange"),
    ("per Pod", "choose spec.engine.resources within the namespace's LimitRange"),
    ("", "change the resource or what refuses its pods"),
)
"""What stands in a refusal, and what to do about it."""

NO_NODE = (
    ("Insufficient ", "free some, add nodes, or lower spec.replicas, spec.parallelism.tensor or spec.engine.resources"),
    ("node affinity/selector", "no node has the labels that spec.topology and spec.scheduling.nodeSelector ask for"),
    ("untolerated taint", "add to spec.scheduling.tolerations, or free the nodes of their taints"),
    ("unschedulable", "uncordon a node"),
    ("no nodes available", "add a node"),
)
CLAIMS = (
    ("unbound", "the claim has no volume yet: see kubectl describe pvc"),
    ("not found", "create the claim in this namespace, or correct spec.model.source"),
    ("", "see kubectl describe pvc"),
)
MOUNTS = (
    ("hostPath type check failed", "make the folder on that node, or correct spec.model.source.hostPath.path"),
    ("", "see kubectl describe pod"),
)


def _with(words: str, *remedies: str | None) -> str:
    return "; ".join([words.strip().rstrip(".;"), *(remedy for remedy in remedies if remedy)])


def _first(words: str, table: Iterable[tuple[str, str]]) -> str | None:
    return next((remedy for part, remedy in table if part in words), None)


def _failed(status: Mapping[str, Any]) -> Trouble:
    reason, message = str(status.get("reason", "")), str(status.get("message", ""))
    if reason == "Evicted":
        return Trouble(
            Reason.EVICTED, _with(message, "raise spec.engine.resources.requests to what it uses, or free the node")
        )
    return Trouble(Reason.POD_FAILED, _with(f"{reason}: {message}" if reason else message or "its pod failed"))


def _container(name: str, pod: Pod) -> Trouble | None:
    """Return the trouble of one container, from what it waits for or from how it ended last."""
    status = pods.container_status(pod, name)
    waiting = status.get("state", {}).get("waiting", {})
    reason, message = waiting.get("reason"), str(waiting.get("message", ""))
    if reason in PULL_REASONS:
        # The two alternate; what is behind the colon is the same in both.
        words = message.rpartition("ErrImagePull: ")[2] or reason
        remedy = (
            "correct spec.engine.image or the chart's image, or name a pull secret in the chart's image.pullSecrets"
        )
        return Trouble(Reason.IMAGE_PULL_FAILED, _with(f"{name}: {words}", remedy))
    if reason == "CreateContainerConfigError":
        return Trouble(
            Reason.CONFIG_MISSING, _with(f"{name}: {message}", "create it in this namespace, or correct its name")
        )
    if reason not in QUIET_REASONS:
        return Trouble(Reason.CONTAINER_FAILED, _with(f"{name}: {reason}: {message}", "see kubectl describe pod"))
    if status.get("started"):
        return None
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated") or {}
    return _ended(name, ended, int(status.get("restartCount", 0)), str(pod["metadata"].get("name", "POD")))


def _ended(name: str, ended: Mapping[str, Any], restarts: int, pod_name: str) -> Trouble | None:
    """Return the trouble of a container that ended and has not been healthy since."""
    code = ended.get("exitCode")
    if code is None or (code == 0 and name in INITIAL):
        return None
    lines = str(ended.get("message") or "").strip().splitlines()
    if ended.get("reason") == "OOMKilled":
        remedy = "raise spec.engine.resources.limits.memory" if name == names.ENGINE_CONTAINER else None
        return Trouble(
            Reason.OUT_OF_MEMORY, _with(f"{name}: killed, because it used more memory than its limit", remedy)
        )
    if code == REFUSED_EXIT_CODE and lines:
        # A hub that is away comes back; what did not verify does not verify the next time either.
        reason = Reason.DOWNLOAD_FAILED if " refused: download: " in lines[0] else Reason.GUARD_REFUSED
        return Trouble(reason, f"{name}: {lines[0]}")
    logs = f"see kubectl logs {pod_name} -c {name} --previous"
    if code == 0 and restarts < CRASHES:
        return None
    if lines:
        return Trouble(Reason.CONTAINER_FAILED, _with(f"{name}: {lines[0]}", logs))
    if restarts >= CRASHES or name != names.ENGINE_CONTAINER:
        why = f" before it is healthy: {ENDED_WELL}" if code == 0 and name == names.ENGINE_CONTAINER else ""
        words = f"{name}: it ends with exit code {code} again and again{why}"
        return Trouble(Reason.ENGINE_CRASHES, _with(words, logs))
    return None


def _unscheduled(reason: str, message: str, labels: Mapping[str, str]) -> Trouble:
    words = message.partition(" preemption: ")[0].replace(" no new claims to deallocate,", "").strip().rstrip(",.")
    if "persistentvolumeclaim" in words.lower():
        return Trouble(Reason.CLAIM_MISSING, _with(words, _first(words, CLAIMS)))
    remedies = [remedy for part, remedy in NO_NODE if part in words]
    if "node affinity/selector" in words and labels:
        asked = ", ".join(f"{key}={value}" for key, value in sorted(labels.items()))
        remedies.append(f"it asks for {asked}; kubectl get nodes --show-labels tells what there is")
    # Room comes when something ends; a label comes when somebody sets it.
    fits_nowhere = "node affinity/selector" in words and "Insufficient " not in words
    found = Reason.NO_NODE_MATCHES if fits_nowhere else Reason.UNSCHEDULABLE
    return Trouble(found, _with(words or reason, *remedies))


def _mount(events: Sequence[Manifest]) -> Trouble | None:
    found = sorted((item for item in events if item.get("reason") in MOUNT_EVENTS), key=_when)
    # Every two minutes the kubelet says that it waits for volumes; why it does stands in the others.
    telling = [item for item in found if not _note(item).startswith("Unable to attach or mount")] or found
    if not telling or not _lasts(found):
        return None
    words = _note(telling[-1])
    return Trouble(Reason.MOUNT_FAILED, _with(words, _first(words, MOUNTS)))


def _lasts(events: Sequence[Manifest]) -> bool:
    """Return whether trouble with volumes is more than what passes while a pod starts."""
    if any(item.get("reason") not in PASSING_EVENTS for item in events):
        return True
    return max(map(_when, events)) - min(map(_since, events)) >= LASTING_SECONDS


def _note(event: Manifest) -> str:
    return str(event.get("note", "")).removeprefix("(combined from similar events): ")


def _when(event: Manifest) -> float:
    """Return when an Event was last seen; the old recorders and the new one write it into different fields."""
    seen = (
        (event.get("series") or {}).get("lastObservedTime"),
        event.get("deprecatedLastTimestamp"),
        event.get("eventTime"),
        event["metadata"].get("creationTimestamp"),
    )
    return _first_of(seen) or 0.0


def _since(event: Manifest) -> float:
    """Return when an Event was first seen."""
    seen = (event.get("deprecatedFirstTimestamp"), event.get("eventTime"), event["metadata"].get("creationTimestamp"))
    return _first_of(seen) or _when(event)


def _first_of(times: Iterable[str | None]) -> float | None:
    """Return the first time that is there, in seconds since 1970."""
    return next((pods.parse_time(str(item)) for item in times if item), None)
