"""Who makes way, how, and only where what comes has a place."""

from __future__ import annotations

from typing import Any

from cluster_api import copied
from journeys import NAMESPACE, RESOURCE_KEY, change
from steps import (
    condition,
    fleet_with,
    reconcile,
    settle,
    status,
)

from detinf.api import names
from detinf.cluster.port import ForbiddenError
from detinf.controller.quarantine import DRAIN_SECONDS


async def test_pod_that_serves_leaves_the_service_and_drains_before_a_roll_out_or_fewer_replicas_delete_it() -> None:
    for edit in (
        {"replicas": 1},
        {"model": fleet_with().api.objects[RESOURCE_KEY]["spec"]["model"] | {"maxModelLen": 4096}},
    ):
        fleet = fleet_with()
        await settle(fleet)
        change(fleet, **edit)
        left: dict[str, float] = {}
        uids = {pod["metadata"]["uid"]: pod["metadata"]["name"] for pod in fleet.pods()}
        for _ in range(80):
            await reconcile(fleet)
            present = {pod["metadata"]["uid"] for pod in fleet.pods()}
            for pod in fleet.pods():
                if pod["metadata"]["labels"][names.LABEL_SERVING] == "false":
                    left.setdefault(pod["metadata"]["uid"], fleet.now)
            for uid in [uid for uid in uids if uid not in present]:
                assert fleet.now - left[uid] >= DRAIN_SECONDS, f"{uids.pop(uid)} went without a drain"
            fleet.tick()
        assert condition(fleet, "Ready")["status"] == "True"
        assert left


async def test_restart_that_is_asked_for_replaces_the_pods_one_by_one() -> None:
    fleet = fleet_with()
    await settle(fleet)
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    resource = copied(fleet.api.objects[RESOURCE_KEY])
    resource["metadata"]["annotations"] = {names.ANNOTATION_RESTART: "2027-01-15T08:00:00Z"}
    fleet.api.put(resource)
    for _ in range(60):
        await reconcile(fleet)
        fleet.tick()
        assert [pod for pod in fleet.pods() if pod["status"]["conditions"][0]["status"] == "True"]
    assert not before & {pod["metadata"]["uid"] for pod in fleet.pods()}
    assert condition(fleet, "Ready")["status"] == "True"


async def test_edit_that_no_node_takes_leaves_what_serves_and_says_what_it_waits_for() -> None:
    fleet = fleet_with()
    await settle(fleet)
    uids = {pod["metadata"]["uid"] for pod in fleet.pods()}
    before = {key: copied(item) for key, item in fleet.api.objects.items() if key[0] == "StatefulSet"}
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}})
    for _ in range(40):
        await reconcile(fleet)
        fleet.tick()
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids
    # A pod that dies meanwhile comes back as it was.
    assert {key: item for key, item in fleet.api.objects.items() if key[0] == "StatefulSet"} == before
    assert status(fleet)["readyReplicas"] == 2
    for kind in ("Progressing", "Stalled"):
        assert condition(fleet, kind)["reason"] == "NoPlace"
        assert "no node has example.org/room=none" in condition(fleet, kind)["message"]
    assert condition(fleet, "Ready")["status"] == "False"
    fleet.api.nodes[0]["metadata"]["labels"]["example.org/room"] = "none"
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids  # where it may run is no part of the plan


async def test_plan_that_no_node_has_room_for_takes_nobody_away() -> None:
    fleet = fleet_with()
    await settle(fleet)
    uids = {pod["metadata"]["uid"] for pod in fleet.pods()}
    change(fleet, parallelism={"tensor": 2})
    fleet.api.nodes[0]["status"]["allocatable"]["huawei.com/Ascend910"] = "1"
    for _ in range(40):
        await reconcile(fleet)
        fleet.tick()
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids
    assert "Insufficient huawei.com/Ascend910" in condition(fleet, "Stalled")["message"]
    fleet.api.nodes[0]["status"]["allocatable"]["huawei.com/Ascend910"] = "8"
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"
    assert not uids & {pod["metadata"]["uid"] for pod in fleet.pods()}


async def test_nodes_that_cannot_be_read_are_no_place_and_the_remedy_is_told() -> None:
    fleet = fleet_with()
    await settle(fleet)
    listed = fleet.api.list

    async def list_(kind: Any, **options: Any) -> Any:
        if kind.kind == "Node":
            raise ForbiddenError("403", status=403, words='cannot list resource "nodes"')
        return await listed(kind, **options)

    fleet.api.list = list_  # type: ignore[method-assign]
    change(fleet, model=fleet.api.objects[RESOURCE_KEY]["spec"]["model"] | {"maxModelLen": 4096})
    for _ in range(20):
        await reconcile(fleet)
        fleet.tick()
    assert status(fleet)["readyReplicas"] == 2
    assert "cannot list resource" in condition(fleet, "Progressing")["message"]
    assert "topology.readNodes" in condition(fleet, "Progressing")["message"]


async def test_replica_that_does_not_serve_needs_no_place_to_be_mended() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.unattested |= {"a-0-0", "a-1-0"}
    for pod in ("a-0-0", "a-1-0"):
        fleet.restart(pod)
    await reconcile(fleet)
    fleet.tick()
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}})
    for _ in range(3):
        await reconcile(fleet)
        fleet.tick()
    assert "example.org/room" in str(fleet.api.objects["StatefulSet", NAMESPACE, "a-0"]["spec"]["template"])
