"""Objects of others: left alone and told, whoever made them and whenever."""

from __future__ import annotations

from typing import Any

import pytest
from cluster_api import copied
from fleet import Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY, SETTINGS, resource
from matrix import World
from steps import (
    condition,
    fleet_with,
    reconcile,
    settle,
    status,
)

from detinf.api import names
from detinf.controller.exported import Exported
from detinf.controller.reconcile import Reconciler

THEIRS: dict[str, dict[str, Any]] = {
    "Service": {"apiVersion": "v1", "spec": {"selector": {"their": "pods"}, "ports": [{"port": 80}]}},
    "ConfigMap": {"apiVersion": "v1", "data": {"theirs": "1"}},
    "PodDisruptionBudget": {"apiVersion": "policy/v1", "spec": {"minAvailable": 1}},
    "StatefulSet": {
        "apiVersion": "apps/v1",
        "spec": {"selector": {}, "template": {"metadata": {"labels": {}}, "spec": {}}},
    },
}
WANTED = [
    ("Service", NAME),
    ("Service", f"{NAME}-pods"),
    ("ConfigMap", f"{NAME}-baselines"),
    ("ConfigMap", f"{NAME}-probe-settings"),
    ("PodDisruptionBudget", NAME),
    ("StatefulSet", f"{NAME}-0"),
]


def theirs(kind: str, name: str, **metadata: Any) -> dict[str, Any]:
    """Return an object of somebody else."""
    return {**THEIRS[kind], "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE} | metadata}


@pytest.mark.parametrize(("kind", "name"), WANTED)
async def test_object_of_somebody_else_under_a_childs_name_is_left_alone_and_told(kind: str, name: str) -> None:
    fleet = fleet_with()
    held = copied(fleet.api.put(theirs(kind, name)))
    for _ in range(20):
        await reconcile(fleet)
        fleet.tick()
    assert fleet.api.objects[kind, NAMESPACE, name] == held
    for type_ in ("Ready", "Degraded", "Stalled"):
        assert condition(fleet, type_)["reason"] == "ChildConflict"
        assert f"kubectl delete {kind.lower()} {name}" in condition(fleet, type_)["message"]
    fleet.api.remove(*RESOURCE_KEY)
    assert fleet.api.objects[kind, NAMESPACE, name] == held
    # The remedy works.
    fleet = fleet_with()
    fleet.api.put(theirs(kind, name))
    await reconcile(fleet)
    fleet.api.remove(kind, NAMESPACE, name)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


@pytest.mark.parametrize(("kind", "name"), WANTED)
async def test_name_that_somebody_takes_between_the_look_and_the_write_is_left_alone(kind: str, name: str) -> None:
    fleet = fleet_with()
    taken = type(fleet.api).apply

    async def apply(manifest: dict[str, Any]) -> Any:
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name) and not held:
            held.append(copied(fleet.api.put(theirs(kind, name))))
        return await taken(fleet.api, manifest)

    held: list[Any] = []
    fleet.api.apply = apply  # type: ignore[method-assign]
    await reconcile(fleet)
    assert fleet.api.objects[kind, NAMESPACE, name] == held[0]
    assert condition(fleet, "Ready")["reason"] == "ChildConflict"


async def test_child_that_lost_its_labels_is_ours_all_the_same_and_gets_them_back() -> None:
    fleet = fleet_with()
    await settle(fleet)
    for kind, name in WANTED:
        bare = copied(fleet.api.objects[kind, NAMESPACE, name])
        bare["metadata"]["labels"] = {}
        fleet.api.put(bare)
    await settle(fleet)
    for kind, name in WANTED:
        assert fleet.api.objects[kind, NAMESPACE, name]["metadata"]["labels"][names.LABEL_NAME] == NAME
    assert condition(fleet, "Ready")["status"] == "True"


async def test_child_of_another_resource_is_left_to_it_and_both_are_told() -> None:
    fleet = fleet_with()
    other = copied(
        fleet.api.put(
            theirs(
                "Service",
                NAME,
                ownerReferences=[
                    {
                        "apiVersion": names.API_VERSION,
                        "kind": names.KIND,
                        "name": "other",
                        "uid": "o",
                        "controller": True,
                    }
                ],
            )
        )
    )
    fleet.api.put({"kind": names.KIND, "metadata": {"name": "other", "namespace": NAMESPACE, "uid": "o"}, "spec": {}})
    await reconcile(fleet)
    assert fleet.api.objects["Service", NAMESPACE, NAME] == other
    assert f"Service {NAME} belongs to {names.KIND} other" in condition(fleet, "Ready")["message"]


async def test_records_that_an_orphaning_deletion_left_are_told_and_not_met_for_ever() -> None:
    fleet = fleet_with()
    await settle(fleet)
    resource = copied(fleet.api.objects[RESOURCE_KEY])
    for item in fleet.api.objects.values():
        if item["metadata"].get("ownerReferences", [{}])[0].get("kind") == names.KIND:
            item["metadata"]["ownerReferences"] = []
    fleet.api.remove(*RESOURCE_KEY)
    left = {key for key in fleet.api.objects if key[0] not in {"Event", "Pod"}}
    assert len(left) > 6
    del resource["metadata"]["uid"], resource["status"]
    fleet.api.put(resource)
    for _ in range(10):
        await reconcile(fleet)
        fleet.tick()
    before = list(fleet.api.writes)
    for _ in range(10):
        await reconcile(fleet)
        fleet.tick()
    assert fleet.api.writes == before
    assert condition(fleet, "Stalled")["reason"] == "ChildConflict"
    # What is told helps, one object after the other.
    while condition(fleet, "Ready")["reason"] == "ChildConflict":
        words = condition(fleet, "Ready")["message"]
        kind, name = words[words.index("kubectl delete ") :].split()[2:4]
        (key,) = [key for key in fleet.api.objects if (key[0].lower(), key[2]) == (kind, name.rstrip(")"))]
        fleet.api.remove(*key)
        await reconcile(fleet)
        fleet.tick()
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


@pytest.mark.parametrize(("kind", "name"), [item for item in WANTED if item[0] != "StatefulSet"])
async def test_remedy_that_was_followed_is_seen_with_the_next_look(kind: str, name: str) -> None:
    """By one controller, whose pauses between two attempts have grown."""
    fleet = fleet_with()
    fleet.api.put(theirs(kind, name, labels=names.selector(NAME)))
    clock = lambda: fleet.now  # noqa: E731 - two parameters' worth of it
    controller = Reconciler(fleet.api, fleet, SETTINGS, Exported(), instance="t", now=clock, monotonic=clock)
    for _ in range(10):
        await controller.reconcile((NAMESPACE, NAME))
        fleet.tick()
    assert f"kubectl delete {kind.lower()} {name}" in condition(fleet, "Ready")["message"]
    fleet.api.remove(kind, NAMESPACE, name)
    await controller.reconcile((NAMESPACE, NAME))
    assert condition(fleet, "Ready")["reason"] != "ChildConflict"
    assert (kind, NAMESPACE, name) in fleet.api.objects


async def test_children_of_an_earlier_namesake_are_waited_for_and_nobody_has_to_act() -> None:
    fleet = fleet_with()
    await settle(fleet)
    resource = copied(fleet.api.objects[RESOURCE_KEY])
    gone = fleet.api.objects.pop(RESOURCE_KEY)  # the garbage collector has not come yet
    del resource["metadata"]["uid"], resource["status"]
    fleet.api.put(resource)
    await reconcile(fleet)
    assert condition(fleet, "Ready")["reason"] == "LeftByNamesake"
    assert gone["metadata"]["uid"] in condition(fleet, "Ready")["message"]
    assert "Stalled" not in {item["type"] for item in status(fleet)["conditions"]}
    await settle(fleet)  # it came
    assert condition(fleet, "Ready")["status"] == "True"


@pytest.mark.parametrize("wrong", [False, True])
async def test_pod_in_the_service_that_is_nobodys_replica_is_unproven_and_told_where_it_diverges(
    *, wrong: bool
) -> None:
    fleet = fleet_with()
    await settle(fleet)
    taken = copied(fleet.api.objects["StatefulSet", NAMESPACE, "a-1"])
    taken["metadata"]["ownerReferences"] = []
    fleet.api.put(taken)
    if wrong:
        fleet.answers["a-1-0"] = 1
    fleet.tick()
    await reconcile(fleet)
    invariant = condition(fleet, "OutputsInvariant")
    assert invariant["status"] == ("False" if wrong else "Unknown")
    assert "pod a-1-0 is in the Service and unproven" in invariant["message"]
    assert condition(fleet, "Stalled")["reason"] == ("DivergingReplicaServes" if wrong else "ChildConflict")
    assert "StatefulSet a-1" in condition(fleet, "Degraded")["message"]


@pytest.mark.parametrize(("kind", "name"), WANTED)
async def test_what_was_in_the_way_and_is_gone_is_told_no_longer(kind: str, name: str) -> None:
    """One controller all the time: what it was refused it tries less and less often."""
    world = World(Fleet())
    world.fleet.api.put(resource())
    world.fleet.api.put(theirs(kind, name))
    await world.looks(30)
    assert world.condition("Ready")["reason"] == "ChildConflict"
    world.fleet.api.remove(kind, NAMESPACE, name)
    await world.looks(2)
    assert world.condition("Ready")["reason"] != "ChildConflict"
