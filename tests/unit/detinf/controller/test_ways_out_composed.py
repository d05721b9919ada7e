"""Several ways out of the Service at once: somebody serves, and who diverged stays out."""

from __future__ import annotations

import pytest
from cluster_api import copied
from composed import MODEL, look, restart, serving, world_of
from journeys import NAMESPACE, change, resource
from steps import QUOTA, condition, events, records, refuse, status

from detinf.api import names


async def test_boot_that_diverged_stays_out_when_its_probe_lost_its_books() -> None:
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    assert serving(fleet) == ["a-0-0"]
    boot = world.boot("a-1-0")
    fleet.answers.clear()  # it was intermittent
    fleet.lives[world.pod("a-1-0")["metadata"]["uid"]]["evidence"] = None  # books unreadable: the pass stands
    for _ in range(6):
        await look(world)
        assert not ("a-1-0" in serving(fleet) and world.boot("a-1-0") == boot), "the boot that diverged serves again"
        assert condition(fleet, "OutputsInvariant")["status"] != "True"


async def test_isolated_pod_whose_probe_is_gone_is_replaced() -> None:
    world = await world_of(2)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    uid = world.pod("a-1-0")["metadata"]["uid"]
    fleet.probeless.add("a-1-0")
    await world.looks(100)
    assert world.pod("a-1-0")["metadata"]["uid"] != uid, status(fleet)


@pytest.mark.parametrize("edit", ["plan", "restart", "fewer"])
@pytest.mark.parametrize("after", range(4))
@pytest.mark.parametrize("wrong", ["a-0-0", "a-1-0"])
async def test_isolation_and_another_way_out_leave_somebody_to_serve(edit: str, after: int, wrong: str) -> None:
    world = await world_of(2)
    fleet = world.fleet

    def begin() -> None:
        if edit == "plan":
            change(fleet, model=MODEL)
        elif edit == "restart":
            restart(fleet)
        else:
            change(fleet, replicas=1)

    fleet.answers[wrong] = 1
    fleet.tick()
    for number in range(60):
        if number == after:
            begin()
        await look(world)
        assert serving(fleet), f"nobody serves after look {number}: {status(fleet)['replicaStates']}"


@pytest.mark.parametrize("wrong", ["a-0-0", "a-1-0"])
async def test_fewer_replicas_take_the_one_that_diverged(wrong: str) -> None:
    world = await world_of(2)
    world.fleet.answers[wrong] = 1
    world.fleet.tick()
    change(world.fleet, replicas=1)
    await world.looks(40)
    assert wrong not in serving(world.fleet), condition(world.fleet, "OutputsInvariant")


async def test_fewer_replicas_with_another_plan_leave_somebody_to_serve() -> None:
    world = await world_of(2)
    world.fleet.loading_seconds = 20.0
    change(world.fleet, replicas=1, model=MODEL)
    for number in range(60):
        await look(world)
        assert serving(world.fleet), f"nobody serves after look {number}"


@pytest.mark.parametrize("edit", ["no place", "roll-out"])
async def test_moment_of_unreadiness_during_an_edit_takes_nobody(edit: str) -> None:
    """Six seconds of a network that is away: all pods are unready, and all come back by themselves."""
    world = await world_of(3)
    fleet = world.fleet
    if edit == "no place":
        change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}}, model=MODEL)
    else:
        fleet.loading_seconds = 40.0
        change(fleet, model=MODEL)
    await world.looks(3)
    before = {pod["metadata"]["uid"] for pod in fleet.pods()}
    fleet.probeless |= {f"a-{index}-0" for index in range(3)}
    fleet.tick()
    await world.looks(3)
    fleet.probeless.clear()
    fleet.tick()
    for number in range(30):
        await look(world)
        assert serving(fleet), f"an outage after look {number}: {status(fleet)['replicaStates']}"
    if edit == "no place":
        assert {pod["metadata"]["uid"] for pod in fleet.pods()} == before


async def test_isolated_replica_is_replaced_by_one_that_has_a_place() -> None:
    world = await world_of(3)
    fleet = world.fleet
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}}, model=MODEL)
    await world.looks(5)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(4)
    fleet.answers.clear()
    assert "example.org/room" not in str(fleet.api.objects["StatefulSet", NAMESPACE, "a-1"]["spec"]["template"])


@pytest.mark.parametrize("edit", ["plan", "fewer"])
async def test_pod_whose_evidence_could_not_be_stored_is_not_deleted_by_another_way_out(edit: str) -> None:
    world = await world_of(3)
    fleet = world.fleet
    refuse(fleet, QUOTA, ("ConfigMap", "-evidence-"))
    uid = world.pod("a-2-0")["metadata"]["uid"]
    fleet.answers["a-2-0"] = 1
    fleet.tick()
    await world.looks(3)
    change(fleet, **({"model": MODEL} if edit == "plan" else {"replicas": 2}))
    await world.looks(30)
    left = world.pod("a-2-0")
    assert records(fleet, "evidence") or (left is not None and left["metadata"]["uid"] == uid)


async def test_replica_that_diverges_while_it_drains_is_not_said_to_serve_on() -> None:
    world = await world_of(1)
    fleet = world.fleet
    change(fleet, model=MODEL)
    await world.looks(2)
    assert serving(fleet) == []
    fleet.answers["a-0-0"] = 1
    fleet.tick()
    await look(world)
    said = condition(fleet, "OutputsInvariant")["message"]
    assert "goes on serving" not in said, said
    assert "Stalled" not in {item["type"] for item in status(fleet)["conditions"]}


async def test_fewer_replicas_keep_who_drains_where_the_kept_one_dies() -> None:
    world = await world_of(2)
    fleet = world.fleet
    change(fleet, replicas=1)
    await world.looks(2)
    fleet.gating.add("a-0-0")
    fleet.restart("a-0-0")
    fleet.tick()
    await world.looks(3)
    assert serving(fleet), status(fleet)["replicaStates"]


@pytest.mark.parametrize("replicas", [3])
async def test_isolated_replica_whose_label_a_hand_removes_while_its_peers_load_stays_out(replicas: int) -> None:
    world = await world_of(replicas)
    fleet = world.fleet
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await world.looks(3)
    assert "a-1-0" not in serving(fleet)
    for index in (0, 2):
        fleet.gating.add(f"a-{index}-0")
        fleet.restart(f"a-{index}-0")
    fleet.tick()
    pod = copied(world.pod("a-1-0"))
    del pod["metadata"]["labels"][names.LABEL_DIVERGED_BOOT]
    fleet.api.put(pod)
    await world.looks(2)
    assert "a-1-0" not in serving(fleet)


async def test_replica_that_diverged_while_it_made_way_is_replaced_where_the_way_out_is_taken_back() -> None:
    """A roll-out begins to drain the only replica, which diverges, and the roll-out is taken back."""
    world = await world_of(1)
    fleet = world.fleet
    uid = world.pod("a-0-0")["metadata"]["uid"]
    change(fleet, model=MODEL)
    await world.looks(2)
    fleet.answers["a-0-0"] = 1
    fleet.tick()
    await world.looks(1)
    change(fleet, model=resource()["spec"]["model"])
    await world.looks(2)
    fleet.answers.clear()
    await world.looks(30)
    assert world.pod("a-0-0")["metadata"]["uid"] != uid
    assert serving(fleet) == ["a-0-0"]
    assert "ReplicaIsolated" not in events(fleet)
