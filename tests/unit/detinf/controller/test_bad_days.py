"""Where detection is needed most: faults of several, refused children, and what is said of them."""

from __future__ import annotations

import pytest
from cluster_api import copied
from fleet import Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY, change, resource
from matrix import World, settled
from steps import (
    HAND,
    NO_ANSWER,
    QUOTA,
    condition,
    events,
    fleet_with,
    isolate,
    label,
    reconcile,
    records,
    refuse,
    settle,
    status,
)

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError


@pytest.mark.parametrize("replicas", [2, 3, 5])
@pytest.mark.parametrize("cells", ["one", "different"])
async def test_fault_that_strikes_all_replicas_at_once_isolates_nobody(replicas: int, cells: str) -> None:
    fleet = fleet_with(replicas=replicas)
    await settle(fleet)
    for index in range(replicas):
        where = fleet.in_batch if cells == "different" and index % 2 else fleet.answers
        where[f"a-{index}-0"] = 1
    for _ in range(60):
        await reconcile(fleet)
        fleet.tick()
        assert [label(fleet, f"a-{index}-0") for index in range(replicas)] == ["true"] * replicas
    assert condition(fleet, "OutputsInvariant")["reason"] == "CommonModeDivergence"
    assert condition(fleet, "Stalled")["reason"] == "CommonModeDivergence"
    assert "goes on serving" in condition(fleet, "Stalled")["message"]


@pytest.mark.parametrize("last", ["slow", "deaf"])
async def test_pass_from_before_a_divergence_convicts_nobody(last: str) -> None:
    """All are struck, and the probe of one has not come round to it yet."""
    fleet = fleet_with(replicas=3)
    await settle(fleet)
    (fleet.busy if last == "slow" else fleet.deaf).add("a-2-0")
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1, "a-2-0": 1}
    for _ in range(5):
        fleet.tick()
        await reconcile(fleet)
        assert [label(fleet, f"a-{index}-0") for index in range(3)] == ["true"] * 3


@pytest.mark.parametrize("cell", ["alone", "in a batch"])
async def test_replica_whose_peers_pass_the_same_since_is_isolated_within_two_looks(cell: str) -> None:
    fleet = fleet_with(replicas=3)
    await settle(fleet)
    (fleet.answers if cell == "alone" else fleet.in_batch)["a-1-0"] = 1
    fleet.tick()
    await reconcile(fleet)
    assert "is asked the same again" in condition(fleet, "OutputsInvariant")["message"]
    assert label(fleet, "a-1-0") == "true"
    fleet.tick()
    await reconcile(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert [label(fleet, f"a-{index}-0") for index in (0, 2)] == ["true"] * 2


async def test_peer_that_is_too_busy_to_tell_is_waited_for_and_then_not() -> None:
    fleet = fleet_with(replicas=3)
    await settle(fleet)
    fleet.busy.add("a-2-0")
    fleet.answers["a-1-0"] = 1
    looks = 0
    while label(fleet, "a-1-0") == "true":
        fleet.tick()
        await reconcile(fleet)
        looks += 1
    assert 15 / 2 <= looks <= 15 / 2 + 3


async def test_probe_that_knows_no_questions_convicts_by_its_own_later_pass() -> None:
    fleet = fleet_with(replicas=2)
    await settle(fleet)
    fleet.deaf.add("a-0-0")
    fleet.answers["a-1-0"] = 1
    looks = 0
    while label(fleet, "a-1-0") == "true":
        fleet.tick()
        await reconcile(fleet)
        looks += 1
    assert 60 / 2 <= looks <= 60 / 2 + 3


REFUSALS = [
    ("quota of ConfigMaps", QUOTA, [("ConfigMap", "")]),
    ("hand on the Service", HAND, [("Service", "")]),
    (
        "webhook on everything but pods",
        ClusterError("500", status=500),
        [(kind, "") for kind in ("ConfigMap", "Service", "StatefulSet", "PodDisruptionBudget", "Event")],
    ),
    ("quota of Events", QUOTA, [("Event", "")]),
]


@pytest.mark.parametrize(("error", "about"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
async def test_divergence_is_told_and_isolated_whatever_else_is_refused(
    error: ClusterError, about: list[tuple[str, str]]
) -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.api.remove("Service", NAMESPACE, NAME)  # so that there is something to refuse
    refuse(fleet, error, *about)
    await reconcile(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    assert [item["state"] for item in status(fleet)["replicaStates"]] == ["Serving", "Isolated"]
    if about[0][0] == "ConfigMap":
        for _ in range(20):
            fleet.tick()
            await reconcile(fleet)
        # Its evidence is in its memory alone: it is kept, out of the Service, until that is stored.
        assert label(fleet, "a-1-0") == "false"
        assert records(fleet, "evidence") == []
        refuse(fleet, error)
        fleet.answers.clear()
        await settle(fleet)
        assert condition(fleet, "Ready")["status"] == "True"
        assert len(records(fleet, "evidence")) == 1


async def test_isolation_that_was_not_done_is_not_claimed() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await reconcile(fleet)
    refuse(
        fleet, ForbiddenError("403", status=403, words='admission webhook "pods" denied the request'), ("Pod", "a-1")
    )
    for _ in range(3):
        fleet.tick()
        await reconcile(fleet)
    assert label(fleet, "a-1-0") == "true"
    assert [item["state"] for item in status(fleet)["replicaStates"]] == ["Serving", "Diverged"]
    assert "could not be taken out of the Service yet" in condition(fleet, "OutputsInvariant")["message"]
    assert "denied the request" in condition(fleet, "Stalled")["message"]
    assert "ReplicaIsolated" not in events(fleet)
    refuse(fleet, NO_ANSWER)
    await reconcile(fleet)
    assert [item["state"] for item in status(fleet)["replicaStates"]] == ["Serving", "Isolated"]
    assert "ReplicaIsolated" in events(fleet)


async def test_baseline_that_could_not_be_stored_is_not_claimed_and_not_delivered() -> None:
    fleet = fleet_with()
    refuse(fleet, QUOTA, ("ConfigMap", "-baseline-"))
    for _ in range(10):
        await reconcile(fleet)
        fleet.tick()
    assert "baseline" not in status(fleet)
    assert condition(fleet, "Qualified")["status"] == "False"
    assert condition(fleet, "Ready")["reason"] == "ChildRefused"
    assert "exceeded quota" in condition(fleet, "Ready")["message"]
    assert [key for key in fleet.delivered(NAME, NAMESPACE) if key.startswith("baseline.")] == []
    refuse(fleet, QUOTA)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_pod_waits_for_what_it_mounts_and_what_serves_is_not_replaced_meanwhile() -> None:
    fleet = fleet_with()
    await settle(fleet)
    uids = {pod["metadata"]["uid"] for pod in fleet.pods()}
    refuse(fleet, QUOTA, ("ConfigMap", "-plan-"))
    change(fleet, model=copied(fleet.api.objects[RESOURCE_KEY]["spec"]["model"]) | {"maxModelLen": 4096})
    for _ in range(20):
        await reconcile(fleet)
        fleet.tick()
    assert {pod["metadata"]["uid"] for pod in fleet.pods()} == uids
    assert status(fleet)["readyReplicas"] == 2
    assert condition(fleet, "Ready")["reason"] == "ChildRefused"
    refuse(fleet, QUOTA)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_child_that_a_hand_made_unappliable_is_told_with_who_and_a_remedy_that_works() -> None:
    fleet = fleet_with()
    await settle(fleet)
    service = copied(fleet.api.objects["Service", NAMESPACE, NAME])
    service["spec"]["selector"] = {"somebody": "else"}
    service["metadata"]["managedFields"] = [
        {"manager": names.FIELD_MANAGER, "operation": "Apply"},
        {"manager": "kubectl-edit", "operation": "Update"},
    ]
    fleet.api.put(service)
    refuse(fleet, HAND, ("Service", NAME))
    await reconcile(fleet)
    message = condition(fleet, "Ready")["message"]
    assert "Duplicate value" in message
    assert f"kubectl-edit changed it by hand: kubectl delete service {NAME}" in message
    assert condition(fleet, "SpecValid")["status"] == "True"  # no field of the resource is to blame
    fleet.api.remove("Service", NAMESPACE, NAME)
    refuse(fleet, HAND)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_divergence_is_counted_when_its_pod_is_gone_and_from_0_on() -> None:
    world = World(Fleet())
    world.fleet.api.put(resource())
    await settled(world, replicas=2)
    exported = world.exported

    def count(name: str) -> float | None:
        return exported.registry.get_sample_value(name, {"namespace": NAMESPACE, "name": NAME})

    series = ("detinf_divergences_total", "detinf_isolations_total", "detinf_replica_replacements_total")
    assert [count(name) for name in series] == [0, 0, 0]
    world.fleet.answers["a-1-0"] = 1
    world.fleet.tick()
    await world.looks(4)
    world.fleet.answers.clear()
    await world.looks(20)
    assert [count(name) for name in series] == [1, 1, 1]
    ready = {"namespace": NAMESPACE, "name": NAME, "type": "Ready", "status": "true"}
    assert exported.registry.get_sample_value("detinf_resource_condition", ready) == 1
    world.fleet.api.remove(*RESOURCE_KEY)
    await world.look()
    assert [count(name) for name in series] == [None, None, None]
