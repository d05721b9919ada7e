"""What is watched, and how often is asked, while something is not read, not written, or takes its time."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_api import copied
from composed import AWAY, MODEL, look, serving, unlist, world_of
from journeys import NAMESPACE, RESOURCE_KEY, change
from steps import QUOTA, condition, fleet_with, reconcile, records, settle, status

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError
from detinf.controller.quarantine import EVIDENCE_KEPT


@pytest.mark.parametrize("what", ["nodes", "pods of all namespaces"])
async def test_divergence_is_isolated_while_the_lists_of_a_roll_out_fail(what: str) -> None:
    world = await world_of(3)
    unlist(world.fleet, AWAY, "Node" if what == "nodes" else "Pod", everywhere=True)
    change(world.fleet, model=MODEL)
    await world.looks(2)
    world.fleet.answers["a-1-0"] = 1
    world.fleet.tick()
    await world.looks(20)
    assert condition(world.fleet, "OutputsInvariant")["status"] == "False", condition(world.fleet, "OutputsInvariant")
    assert records(world.fleet, "evidence")
    assert "a-1-0" not in serving(world.fleet)


@pytest.mark.parametrize("kind", ["Event", "PodDisruptionBudget", "Service"])
@pytest.mark.parametrize("fails", [False, True])
async def test_divergence_is_isolated_while_one_kind_cannot_be_listed(kind: str, *, fails: bool) -> None:
    """Events are in an etcd of their own in many clusters; they are asked for where one pod is refused."""
    world = await world_of(3)
    world.fleet._make_pod = lambda _item: None  # type: ignore[method-assign]  # admission refuses pods now
    world.fleet.api.remove("Pod", NAMESPACE, "a-0-0")
    if fails:
        unlist(world.fleet, AWAY, kind)
    world.fleet.answers["a-1-0"] = 1
    world.fleet.tick()
    await world.looks(20)
    assert records(world.fleet, "evidence"), condition(world.fleet, "OutputsInvariant")
    assert "a-1-0" not in serving(world.fleet)


async def test_divergence_that_was_recorded_is_not_untold_when_the_controller_cannot_reach_the_probe() -> None:
    """The kubelet reaches it, so the pod serves on; a NetworkPolicy keeps the controller from it."""
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await look(world)
    assert condition(fleet, "OutputsInvariant")["status"] == "False"
    report = fleet.report
    fleet.report = lambda pod: None if pod["metadata"]["name"] == "a-1-0" else report(pod)  # type: ignore[method-assign]
    await world.looks(10)
    said = condition(fleet, "OutputsInvariant")
    assert said["status"] == "False", said
    assert condition(fleet, "Degraded")["status"] == "True", condition(fleet, "Degraded")


async def test_more_divergences_than_records_are_kept_write_nothing_for_ever() -> None:
    replicas = EVIDENCE_KEPT + 2
    world = await world_of(replicas)
    world.fleet.answers |= {f"a-{index}-0": 1 for index in range(replicas)}
    world.fleet.tick()
    await world.looks(10)
    before = list(world.fleet.api.writes)
    await world.looks(10)
    new = world.fleet.api.writes[len(before) :]
    assert new == [], (len(new), new[:6])


async def test_edit_without_a_place_does_not_list_the_cluster_at_each_look() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}})
    await world.looks(10)
    listed: list[str] = []
    old = type(fleet.api).list

    async def list_(kind: Any, **options: Any) -> Any:
        if options.get("namespace") is None:
            listed.append(kind.kind)
        return await old(fleet.api, kind, **options)

    fleet.api.list = list_  # type: ignore[method-assign]
    await world.looks(50)
    assert len(listed) <= 20, f"{len(listed)} lists of the whole cluster in 50 looks (100 s)"


@pytest.mark.parametrize("fails", [False, True])
async def test_delivery_does_not_wait_for_a_deletion(*, fails: bool) -> None:
    fleet = fleet_with()
    await settle(fleet)
    delete = type(fleet.api).delete

    async def delete_(kind: Any, *args: Any, **options: Any) -> Any:
        if fails and kind.kind == "ConfigMap":
            raise ForbiddenError("403", status=403, words="admission webhook: ConfigMaps are not deleted here")
        return await delete(fleet.api, kind, *args, **options)

    fleet.api.delete = delete_  # type: ignore[method-assign]
    for number in range(2):
        fleet.api.nodes[0]["metadata"]["labels"]["huawei.com/driver.version"] = f"25.{number}"
        change(fleet, topology={"driverVersion": f"25.{number}"})
        fleet.hardware |= {f"a-{index}-0": {"driver": f"25.{number}"} for index in range(2)}
        for pod in fleet.pods():
            fleet.restart(pod["metadata"]["name"])
        for _ in range(80):
            await reconcile(fleet)
            fleet.tick()
    assert len(serving(fleet)) == 2, status(fleet)["replicaStates"]


async def test_resource_that_another_ones_finalizer_holds_is_still_watched() -> None:
    world = await world_of(2)
    fleet = world.fleet
    held = copied(fleet.api.objects[RESOURCE_KEY])
    held["metadata"] |= {"finalizers": ["example.org/backup"], "deletionTimestamp": "2027-01-15T08:00:00Z"}
    fleet.api.objects[RESOURCE_KEY] = held
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(5)
    assert "a-1-0" not in serving(fleet)


async def test_replica_whose_report_comes_every_second_time_is_isolated() -> None:
    """Its probe needs more than two seconds for every other answer."""
    world = await world_of(2)
    fleet = world.fleet
    report, turns = fleet.report, [0]

    async def fetch(pod: dict[str, Any]) -> Any:
        if pod["metadata"]["name"] == "a-1-0":
            turns[0] += 1
            if turns[0] % 2 == 0:
                return None
        return report(pod)

    fleet.fetch = fetch  # type: ignore[method-assign]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(30)
    assert "a-1-0" not in serving(fleet)


@pytest.mark.parametrize("kind", ["Event", "ConfigMap"])
async def test_isolation_does_not_wait_for_a_request_that_times_out(kind: str) -> None:
    world = await world_of(2)
    fleet = world.fleet
    create = type(fleet.api).create

    async def create_(manifest: dict[str, Any]) -> Any:
        if manifest["kind"] == kind:
            fleet.now += 30.0
            raise ClusterError("timed out")
        return await create(fleet.api, manifest)

    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await look(world)  # its peers are asked
    fleet.api.create = create_  # type: ignore[method-assign]
    if kind == "ConfigMap":
        for name in records(fleet, "evidence"):
            fleet.api.remove("ConfigMap", NAMESPACE, name)
    since = fleet.now
    left: list[float] = []
    apply = type(fleet.api).apply

    async def apply_(manifest: dict[str, Any]) -> Any:
        if manifest["kind"] == "Pod" and manifest["metadata"]["labels"][names.LABEL_SERVING] == "false":
            left.append(fleet.now - since)
        return await apply(fleet.api, manifest)

    fleet.api.apply = apply_  # type: ignore[method-assign]
    await world.looks(4)
    assert left
    assert left[0] <= 10, f"it left the Service {left[0]} s after its peers had passed"


async def test_policy_of_a_spec_that_cannot_be_read_is_not_made_up() -> None:
    """An older controller does not know a value in spec and lastValid; the owner had said Report."""
    world = await world_of(2, quarantine={"policy": "Report"})
    fleet = world.fleet
    newer = copied(fleet.api.objects[RESOURCE_KEY])
    newer["spec"]["probe"] = {"mode": "Tomorrow"}
    newer["status"]["lastValid"]["spec"]["probe"] = {"mode": "Tomorrow"}
    fleet.api.put(newer)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(5)
    assert condition(fleet, "SpecValid")["status"] == "False"
    assert "a-1-0" in serving(fleet), "policy Report, and it was isolated"


async def test_refused_record_is_tried_less_and_less_often() -> None:
    world = await world_of(2)
    fleet = world.fleet
    tried: list[str] = []
    create = type(fleet.api).create

    async def create_(manifest: dict[str, Any]) -> Any:
        tried.append(manifest["kind"])
        if manifest["kind"] == "ConfigMap":
            raise QUOTA
        return await create(fleet.api, manifest)

    fleet.api.create = create_  # type: ignore[method-assign]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(50)
    assert len(tried) <= 20, f"{len(tried)} creates in 100 s"


async def test_kind_that_cannot_be_listed_for_long_is_told_and_one_look_is_nobodys_alarm() -> None:
    world = await world_of(2)
    unlist(world.fleet, AWAY, "Service")
    await world.looks(2)
    assert condition(world.fleet, "Ready")["status"] == "True"
    await world.looks(2)
    assert condition(world.fleet, "Ready")["reason"] == "ChildrenUnread"
    assert "etcdserver" in condition(world.fleet, "Ready")["message"]
    world.fleet.api.list = type(world.fleet.api).list.__get__(world.fleet.api)  # type: ignore[method-assign]
    await world.looks(2)
    assert condition(world.fleet, "Ready")["status"] == "True"
