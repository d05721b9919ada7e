"""What keeps a replica from running: one reason and words with a remedy, the same at each look."""

from __future__ import annotations

from typing import Any

import pytest

from detinf.api.conditions import Reason
from detinf.controller.trouble import pod_trouble, refused_pod, waits_for_containers

NOT_SCHEDULED = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
SCHEDULED = {"type": "PodScheduled", "status": "True"}


def pod(*statuses: dict[str, Any], **status: Any) -> dict[str, Any]:
    """Return a pod that has a node, with these container statuses; or another status."""
    listed = {"conditions": [SCHEDULED], "containerStatuses": list(statuses)} if statuses else {}
    return {"metadata": {"name": "a-0-0"}, "status": {"phase": "Pending"} | listed | status}


def waiting(reason: str, message: str = "", name: str = "engine") -> dict[str, Any]:
    return {"name": name, "started": False, "state": {"waiting": {"reason": reason, "message": message}}}


def ended(code: int, *, restarts: int = 0, name: str = "engine", now: str = "waiting", **more: Any) -> dict[str, Any]:
    """Return a container that ended, and what it is doing since."""
    last = {"terminated": {"exitCode": code, "reason": "Error"} | more}
    states: dict[str, dict[str, Any]] = {
        "terminated": {"state": last},
        "waiting": {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "lastState": last},
        "running": {"state": {"running": {"startedAt": "2026-11-24T10:00:00Z"}}, "lastState": last},
    }
    return {"name": name, "started": False, "restartCount": restarts} | states[now]


def unscheduled(message: str) -> dict[str, Any]:
    return pod(conditions=[NOT_SCHEDULED | {"message": message}])


REFUSED = "detinf guard: refused: firmware version is '7.8.0.6.201', the plan says '7.9.9'; install it"
DOWNLOAD = "detinf guard: refused: download: Qwen/Qwen3-8B: no route to the hub; let the pod reach it"
NOTHING = "no such image"
PULL = f'rpc error: code = NotFound desc = failed to pull and unpack image "i:1": {NOTHING}'

TROUBLES = [
    # The pod; the state, the reason; what the words must say.
    (
        unscheduled(
            "0/1 nodes are available: 1 Insufficient huawei.com/Ascend910. preemption: 0/1 nodes are available"
        ),
        ("Pending", Reason.UNSCHEDULABLE),
        ("1 Insufficient huawei.com/Ascend910; free some", "spec.parallelism.tensor"),
    ),
    (
        unscheduled(
            "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had "
            "untolerated taint(s)."
        ),
        ("Pending", Reason.NO_NODE_MATCHES),
        ("spec.topology", "spec.scheduling.tolerations"),
    ),
    (
        unscheduled("0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")
        | {"spec": {"nodeSelector": {"node.kubernetes.io/npu.chip.name": "910B9", "a": "b"}}},
        ("Pending", Reason.NO_NODE_MATCHES),
        ("it asks for a=b, node.kubernetes.io/npu.chip.name=910B9; kubectl get nodes --show-labels",),
    ),
    (unscheduled("no nodes available to schedule pods"), ("Pending", Reason.UNSCHEDULABLE), ("; add a node",)),
    (
        unscheduled('0/1 nodes are available: persistentvolumeclaim "models" not found. not found'),
        ("Pending", Reason.CLAIM_MISSING),
        ('"models" not found', "create the claim", "spec.model.source"),
    ),
    (
        unscheduled("0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found"),
        ("Pending", Reason.CLAIM_MISSING),
        ("kubectl describe pvc",),
    ),
    (pod(waiting("ErrImagePull", PULL)), ("Failed", Reason.IMAGE_PULL_FAILED), (NOTHING, "image.pullSecrets")),
    (
        pod(waiting("ImagePullBackOff", f'Back-off pulling image "i:1": ErrImagePull: {PULL}')),
        ("Failed", Reason.IMAGE_PULL_FAILED),
        (NOTHING, "spec.engine.image"),
    ),
    (
        pod(waiting("CreateContainerConfigError", 'secret "token" not found')),
        ("Failed", Reason.CONFIG_MISSING),
        ('engine: secret "token" not found; create it in this namespace',),
    ),
    (
        pod(waiting("RunContainerError", "no python3", name="guard-install")),
        ("Failed", Reason.CONTAINER_FAILED),
        ("guard-install: RunContainerError: no python3; see kubectl describe pod",),
    ),
    (pod(ended(78, message=REFUSED + "\n")), ("Failed", Reason.GUARD_REFUSED), ("engine: " + REFUSED,)),
    (pod(ended(78, message=DOWNLOAD)), ("Failed", Reason.DOWNLOAD_FAILED), ("engine: " + DOWNLOAD,)),
    (
        pod(ended(137, now="running") | {"lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}),
        ("Failed", Reason.OUT_OF_MEMORY),
        ("raise spec.engine.resources.limits.memory",),
    ),
    (
        pod(ended(1, restarts=2, now="running")),
        ("Failed", Reason.ENGINE_CRASHES),
        ("exit code 1 again and again", "kubectl logs a-0-0 -c engine --previous"),
    ),
    (
        pod(ended(0, restarts=2, reason="Completed")),
        ("Failed", Reason.ENGINE_CRASHES),
        ("exit code 0 again and again", "spec.engine.startupTimeoutSeconds", "kubectl logs a-0-0 -c engine --previous"),
    ),
    (
        pod(ended(0, restarts=3, reason="Completed", name="probe")),
        ("Failed", Reason.ENGINE_CRASHES),
        ("probe: it ends with exit code 0 again and again", "kubectl logs a-0-0 -c probe --previous"),
    ),
    (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory. "),
        ("Failed", Reason.EVICTED),
        ("low on resource: memory; raise spec.engine.resources.requests",),
    ),
    (
        pod(phase="Failed", reason="UnexpectedAdmissionError", message="Allocate failed"),
        ("Failed", Reason.POD_FAILED),
        ("UnexpectedAdmissionError: Allocate failed",),
    ),
]


@pytest.mark.parametrize(("manifest", "said", "words"), TROUBLES, ids=[str(row[1][1]) for row in TROUBLES])
def test_trouble_of_a_pod_has_a_reason_and_the_words_that_help(
    manifest: dict[str, Any], said: tuple[str, Reason], words: tuple[str, ...]
) -> None:
    found = pod_trouble(manifest)
    assert found is not None
    assert (found.state, found.reason) == said
    assert [part for part in words if part not in found.words] == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (waiting("ErrImagePull", PULL), waiting("ImagePullBackOff", f"Back-off pulling image: ErrImagePull: {PULL}")),
        (ended(78, message=REFUSED, now="running"), ended(78, message=REFUSED, restarts=9)),
        (ended(1, restarts=2, now="running"), ended(1, restarts=7)),
        (ended(1, restarts=2, now="terminated"), ended(1, restarts=3)),
        (ended(0, restarts=2, now="terminated"), ended(0, restarts=7)),
        (ended(0, restarts=2, now="running"), ended(0, restarts=7)),
    ],
)
def test_words_stay_while_the_kubelet_tries_again(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert pod_trouble(pod(one)) == pod_trouble(pod(other)) is not None


@pytest.mark.parametrize(
    "manifest",
    [
        pod(),
        pod(waiting("PodInitializing")),
        pod(ended(137, restarts=1, now="running")),
        pod(ended(1, restarts=5, now="running") | {"started": True}),
        pod(ended(0, restarts=1)),
        pod(ended(0, restarts=5, now="running") | {"started": True}),
        pod(ended(0, restarts=5, name="guard-install", now="terminated")),
        pod(ended(0, name="users", now="terminated")),
    ],
)
def test_pod_that_starts_or_serves_has_no_trouble(manifest: dict[str, Any]) -> None:
    assert pod_trouble(manifest) is None


def event(reason: str, note: str, at: str) -> dict[str, Any]:
    return {"reason": reason, "note": note, "deprecatedLastTimestamp": at, "eventTime": None, "metadata": {}}


def create_failed(words: str, at: str = "2026-11-24T10:00:00Z") -> dict[str, Any]:
    return event("FailedCreate", f"create Pod a-0-0 in StatefulSet a-0 failed error: {words}", at)


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        (
            'pods "a-0-0" is forbidden: violates PodSecurity "baseline:latest": hostPath volumes (volume "model")',
            "use a persistentVolumeClaim source",
        ),
        ('pods "a-0-0" is forbidden: violates PodSecurity "restricted:latest": x', "the namespace's label"),
        ('pods "a-0-0" is forbidden: exceeded quota: q, requested: pods=1, used: pods=0, limited: pods=0', "raise the"),
        ('pods "a-0-0" is forbidden: no PriorityClass with name high was found', "spec.scheduling.priorityClassName"),
        (
            'pods "a-0-0" is forbidden: pod rejected: RuntimeClass "ascend" not found',
            "spec.scheduling.runtimeClassName",
        ),
        ('pods "a-0-0" is forbidden: maximum memory usage per Container is 1Gi, but limit is 2Gi', "LimitRange"),
        ('admission webhook "policy.example.org" denied the request: no', "change the resource or what refuses"),
    ],
)
def test_refusal_of_a_pod_is_told_by_its_stateful_set(words: str, remedy: str) -> None:
    found = refused_pod([event("SuccessfulCreate", "made", "2026-11-24T09:00:00Z"), create_failed(words)])
    assert found is not None
    assert (found.state, found.reason) == ("Failed", Reason.POD_REFUSED)
    assert found.words.startswith(f"{words}; ")
    assert remedy in found.words


def test_refusal_that_is_over_is_told_no_longer() -> None:
    over = event("SuccessfulCreate", "create Pod a-0-0 in StatefulSet a-0 successful", "2026-11-24T11:00:00Z")
    assert refused_pod([over, create_failed("pods is forbidden")]) is None
    assert refused_pod([]) is None


def test_volume_that_cannot_be_mounted_is_told_by_the_events_of_the_pod() -> None:
    manifest = pod(waiting("PodInitializing"))
    assert waits_for_containers(manifest)
    telling = event(
        "FailedMount",
        'MountVolume.SetUp failed for volume "model" : hostPath type check failed: /m is not a directory',
        "2026-11-24T10:00:00Z",
    )
    general = event(
        "FailedMount", "Unable to attach or mount volumes: unmounted volumes=[model]", "2026-11-24T10:02:00Z"
    )
    found = pod_trouble(manifest, [telling, general, event("Pulled", "x", "2026-11-24T10:03:00Z")])
    assert found is not None
    assert found.reason is Reason.MOUNT_FAILED
    assert "/m is not a directory; make the folder on that node" in found.words


CONFIG_MAP = 'MountVolume.SetUp failed for volume "plan" : configmap "a-plan-1" not found'


@pytest.mark.parametrize(
    ("events", "told"),
    [
        # As the kubelet's recorder writes them: one Event, whose last time moves.
        ([("FailedMount", "2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z")], False),
        ([("FailedMount", "2026-11-24T10:00:00Z", "2026-11-24T10:00:02Z")], False),
        ([("FailedMount", "2026-11-24T10:00:00Z", "2026-11-24T10:00:08Z")], True),
        # Two volumes that come late, and two that do not come.
        ([("FailedMount", f"2026-11-24T10:00:0{at}Z", f"2026-11-24T10:00:0{at + 1}Z") for at in (0, 1)], False),
        ([("FailedMount", f"2026-11-24T10:00:0{at}Z", f"2026-11-24T10:00:0{at + 1}Z") for at in (0, 6)], True),
        # Said once, by a controller that does not say it again.
        ([("FailedAttachVolume", "2026-11-24T10:00:00Z", "2026-11-24T10:00:00Z")], True),
    ],
)
def test_volume_that_is_late_is_no_trouble_until_it_has_failed_for_some_seconds(
    events: list[tuple[str, str, str]], told: bool
) -> None:
    listed = [event(reason, CONFIG_MAP, last) | {"deprecatedFirstTimestamp": first} for reason, first, last in events]
    found = pod_trouble(pod(waiting("PodInitializing")), listed)
    assert (found is not None) == told
    assert found is None or found.reason is Reason.MOUNT_FAILED


def test_old_trouble_with_volumes_is_forgotten_when_a_container_has_begun() -> None:
    begun = pod({"name": "guard-install", "state": {"terminated": {"exitCode": 0}}})
    assert not waits_for_containers(begun)
    assert pod_trouble(begun, [event("FailedMount", "m", "2026-11-24T10:00:00Z")]) is None
