"""What keeps pods from running, on a real API server and scheduler, as the resource's conditions say it.

The controller's functions run here under the chart's own account. There is no kubelet; tests/e2e has what a kubelet
says.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from detinf.api import names
from detinf.cluster.adapter import KubernetesApi, load_configuration
from detinf.cluster.port import Manifest
from detinf.controller.carry_out import carry_out
from detinf.controller.decide import decide
from detinf.controller.gather import gather
from detinf.controller.retries import Retries
from detinf.controller.settings import OperatorSettings
from detinf.documents import Report

pytestmark = pytest.mark.cluster

SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated", host_path_prefixes=("/data",))
NPU = "huawei.com/Ascend910"
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}
HOST = {"hostPath": {"path": "/data/m"}}
ALONE = {"key": "test.detinf.io/alone", "operator": "Exists"}

Kubectl = Callable[..., str]


class NoReports:
    """No kubelet, no probe."""

    async def fetch(self, pod: Manifest) -> Report | None:
        del pod
        return None


class Loop:
    """The controller's one function on the real API server, called by hand."""

    def __init__(self, api: KubernetesApi, namespace: str) -> None:
        self.api = api
        self.namespace = namespace
        self.writes: list[str] = []
        self.change: Callable[[Manifest], None] = lambda _resource: None
        """What the stored resource is to look like: as an older schema may have let in."""
        api.count = self._count

    def _count(self, _code: str, method: str) -> None:
        if method != "GET":
            self.writes.append(method)

    async def look(self) -> None:
        observed = await gather(self.api, NoReports(), self.namespace, "a")
        assert observed is not None
        self.change(observed.resource)
        decision = decide(observed, SETTINGS, 1_800_000_000.0)
        retries = Retries(time.monotonic)
        await carry_out(self.api, observed, decision, now=1_800_000_000.0, instance="test", retries=retries)

    async def until(self, kubectl: Kubectl, reason: str, *words: str) -> dict[str, dict[str, str]]:
        """Look until Ready has this reason and words; then nothing is written any more. Return the conditions."""
        conditions: dict[str, dict[str, str]] = {}
        limit = time.monotonic() + 90
        while True:
            assert time.monotonic() < limit, f"no {reason} {words}: {conditions.get('Ready')}"
            await self.look()
            status = json.loads(kubectl("get", "detinf", "a", "-o", "json")).get("status", {})
            conditions = {item["type"]: item for item in status.get("conditions", [])}
            ready = conditions.get("Ready", {})
            if ready.get("reason") == reason and all(part in ready["message"] for part in words):
                break
            await asyncio.sleep(0.2)
        return conditions

    async def is_quiet(self) -> bool:
        """Return whether three more looks write nothing; events of the cluster's own may still come in between."""
        async with asyncio.timeout(60):
            while True:
                self.writes.clear()
                for _ in range(3):
                    await self.look()
                if not self.writes:
                    return True


@pytest.fixture
async def loop(account_kubeconfig: Path, namespace: str) -> AsyncIterator[Loop]:
    async with KubernetesApi(await load_configuration(str(account_kubeconfig))) as api:
        yield Loop(api, namespace)


@pytest.fixture
def node(kubectl: Kubectl) -> Iterator[str]:
    """A node without a kubelet, with four NPUs; its taint keeps the pods of other tests away."""
    name = "no-kubelet"
    taint = {"key": ALONE["key"], "value": "yes", "effect": "NoSchedule"}
    amounts = {"cpu": "8", "memory": "64Gi", "pods": "20", NPU: "4"}
    kubectl(
        "create",
        "-f",
        "-",
        given=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": {"taints": [taint]}}),
    )
    try:
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": ""}
        status = {"status": {"capacity": amounts, "allocatable": amounts, "conditions": [ready]}}
        kubectl("patch", "node", name, "--subresource=status", "--type=merge", "-p", json.dumps(status))
        # Kubernetes adds a taint to a new node, and takes it away when it is ready; `kubectl wait` ends at two of them.
        limit = time.monotonic() + 60
        while kubectl("get", "node", name, "-o", "jsonpath={.spec.taints[*].key}") != ALONE["key"]:
            assert time.monotonic() < limit, "the new node's own taint stays"
            time.sleep(0.1)
        yield name
    finally:
        kubectl("delete", "node", name)


def make(kubectl: Kubectl, *, source: dict[str, Any] | None = None, **spec: Any) -> None:
    manifest = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "a"},
        "spec": {"model": {"source": source or CLAIM}} | spec,
    }
    kubectl("apply", "--server-side", "--validate=strict", "-f", "-", given=json.dumps(manifest))


def create(kubectl: Kubectl, kind: str, spec: dict[str, Any]) -> None:
    manifest = {"apiVersion": "v1", "kind": kind, "metadata": {"name": "limits"}, "spec": spec}
    kubectl("create", "-f", "-", given=json.dumps(manifest))


async def test_folder_of_the_node_in_a_namespace_with_pod_security(
    kubectl: Kubectl, loop: Loop, namespace: str
) -> None:
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=baseline")
    make(kubectl, source=HOST)
    conditions = await loop.until(
        kubectl,
        "PodRefused",
        'violates PodSecurity "baseline',
        "hostPath volumes",
        "use a persistentVolumeClaim source",
    )
    assert conditions["Degraded"]["status"] == "True"
    assert await loop.is_quiet()
    # What was refused is allowed: the StatefulSet's controller tries again, and the words go.
    kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged", "--overwrite")
    await loop.until(kubectl, "Unschedulable", "no nodes available", "add a node")


@pytest.mark.parametrize(
    ("kind", "limits", "words"),
    [
        ("ResourceQuota", {"hard": {"pods": "0"}}, ("exceeded quota: limits", "raise the ResourceQuota")),
        ("ResourceQuota", {"hard": {f"requests.{NPU}": "0"}}, ("exceeded quota", NPU, "spec.parallelism.tensor")),
        (
            "ResourceQuota",
            {"hard": {"limits.cpu": "1"}},
            ("must specify limits.cpu", "set what the ResourceQuota wants"),
        ),
        (
            "LimitRange",
            {"limits": [{"type": "Container", "min": {"memory": "1Ti"}}]},
            ("minimum memory usage per Container", "within the namespace's LimitRange"),
        ),
    ],
    ids=["pods", "npus", "limits", "range"],
)
async def test_pod_beyond_the_namespaces_limits(
    kubectl: Kubectl, loop: Loop, kind: str, limits: dict[str, Any], words: tuple[str, ...]
) -> None:
    create(kubectl, kind, limits)
    make(kubectl)
    await loop.until(kubectl, "PodRefused", *words)
    assert await loop.is_quiet()


@pytest.mark.parametrize(
    ("scheduling", "words"),
    [
        ({"priorityClassName": "high"}, ("no PriorityClass with name high", "spec.scheduling.priorityClassName")),
        ({"runtimeClassName": "ascend"}, ('RuntimeClass "ascend" not found', "spec.scheduling.runtimeClassName")),
    ],
    ids=["priority", "runtime"],
)
async def test_class_that_does_not_exist(
    kubectl: Kubectl, loop: Loop, scheduling: dict[str, Any], words: tuple[str, ...]
) -> None:
    make(kubectl, scheduling=scheduling)
    await loop.until(kubectl, "PodRefused", *words)


async def test_more_npus_than_a_node_has(kubectl: Kubectl, loop: Loop, node: str) -> None:
    assert node
    make(kubectl, source=HOST, parallelism={"tensor": 8}, scheduling={"tolerations": [ALONE]})
    conditions = await loop.until(kubectl, "Unschedulable", f"Insufficient {NPU}", "spec.parallelism.tensor")
    assert conditions["Degraded"]["status"] == "False"
    assert conditions["Reconciling"]["status"] == "True"
    assert await loop.is_quiet()


async def test_labels_and_taints_that_no_node_has(kubectl: Kubectl, loop: Loop, node: str) -> None:
    assert node
    make(kubectl, source=HOST)
    await loop.until(kubectl, "Unschedulable", "untolerated taint", "spec.scheduling.tolerations")
    make(kubectl, source=HOST, topology={"chip": "910B3"}, scheduling={"tolerations": [ALONE]})
    await loop.until(kubectl, "NoNodeMatches", "node affinity/selector", "spec.topology")


async def test_claim_that_does_not_exist_and_one_without_a_volume(kubectl: Kubectl, loop: Loop, node: str) -> None:
    assert node
    make(kubectl, scheduling={"tolerations": [ALONE]})
    await loop.until(kubectl, "ClaimMissing", 'persistentvolumeclaim "models" not found', "create the claim")
    kubectl("create", "-f", "-", given=json.dumps(claim()))
    await loop.until(kubectl, "ClaimMissing", "unbound", "kubectl describe pvc")
    assert await loop.is_quiet()


def claim() -> Manifest:
    spec = {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": ""}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "models"}, "spec": spec}


async def test_scheduler_that_does_not_run(kubectl: Kubectl, loop: Loop) -> None:
    make(kubectl, scheduling={"schedulerName": "volcano"})
    await loop.until(kubectl, "ReplicaPending", "scheduler volcano has not looked at its pod yet")


async def test_child_that_a_quota_forbids_is_told_and_made_when_it_may_be(kubectl: Kubectl, loop: Loop) -> None:
    create(kubectl, "ResourceQuota", {"hard": {"count/statefulsets.apps": "0"}})
    make(kubectl)
    conditions = await loop.until(kubectl, "ChildRefused", "exceeded quota: limits")
    assert conditions["SpecValid"]["status"] == "True"
    assert conditions["Stalled"]["reason"] == "ChildRefused"
    before = kubectl("get", "detinf", "a", "-o", "jsonpath={.metadata.resourceVersion}")
    for _ in range(3):
        await loop.look()
    assert kubectl("get", "detinf", "a", "-o", "jsonpath={.metadata.resourceVersion}") == before
    kubectl("delete", "resourcequota", "limits")
    await loop.until(kubectl, "Unschedulable")


async def test_spec_that_an_older_schema_let_in_is_told_in_the_api_servers_words(kubectl: Kubectl, loop: Loop) -> None:
    make(kubectl)
    loop.change = lambda resource: resource["spec"]["scheduling"].update(nodeSelector={"a b": "c"})
    conditions = await loop.until(kubectl, "ChildRefused", "StatefulSet", "a b", "correct the field")
    assert conditions["SpecValid"]["status"] == "False"
    assert conditions["Stalled"]["status"] == "True"
    before = kubectl("get", "detinf", "a", "-o", "jsonpath={.metadata.resourceVersion}")
    for _ in range(3):
        await loop.look()
    assert kubectl("get", "detinf", "a", "-o", "jsonpath={.metadata.resourceVersion}") == before
    loop.change = lambda _resource: None
    conditions = await loop.until(kubectl, "Unschedulable")
    assert "Stalled" not in conditions
