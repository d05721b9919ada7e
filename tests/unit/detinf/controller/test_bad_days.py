"""Where detection is needed most: refused children, invalid specs, faults of all, and objects of others."""

from __future__ import annotations

from typing import Any

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
    reconcile,
    records,
    refuse,
    settle,
    status,
)

from detinf.api import names
from detinf.cluster.port import ClusterError, ForbiddenError
from detinf.controller.quarantine import DRAIN_SECONDS

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


def label(fleet: Fleet, pod: str) -> str:
    return str(fleet.api.objects["Pod", NAMESPACE, pod]["metadata"]["labels"][names.LABEL_SERVING])


# What is not ours ----------------------------------------------------------------------------------------------------


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


# Faults of several ---------------------------------------------------------------------------------------------------


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


# Refused children ----------------------------------------------------------------------------------------------------


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


# Specs that cannot be carried out ------------------------------------------------------------------------------------


def break_by_argument(fleet: Fleet) -> None:
    change(fleet, engine={"extraArgs": ["--seed", "1"]})


def break_by_profile(fleet: Fleet) -> None:
    change(fleet, engine={"profile": "no-such-engine"})


def break_beyond_reading(fleet: Fleet) -> None:
    change(fleet, replicas="many", quarantine={"policy": "Perhaps"})


@pytest.mark.parametrize("broken", [break_by_argument, break_by_profile, break_beyond_reading])
async def test_divergence_under_an_invalid_spec_is_told_isolated_and_replaced_as_the_last_valid_one_has_it(
    broken: Any,
) -> None:
    fleet = fleet_with()
    await settle(fleet)
    broken(fleet)
    await reconcile(fleet)
    assert condition(fleet, "SpecValid")["status"] == "False"
    uid = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["uid"]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    assert condition(fleet, "Degraded")["status"] == "True"
    fleet.answers.clear()
    await settle(fleet)
    pod = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]
    assert pod["metadata"]["uid"] != uid
    assert pod["status"]["conditions"][0]["status"] == "True"
    assert condition(fleet, "OutputsInvariant")["status"] == "True"
    assert condition(fleet, "Ready")["reason"] == "InvalidSpec"


async def test_child_that_is_deleted_under_an_invalid_spec_comes_back_as_the_last_valid_one_has_it() -> None:
    fleet = fleet_with()
    await settle(fleet)
    break_by_argument(fleet)
    await reconcile(fleet)
    fleet.api.remove("StatefulSet", NAMESPACE, "a-1")
    fleet.api.remove("Service", NAMESPACE, NAME)
    await settle(fleet)
    assert status(fleet)["readyReplicas"] == 2
    assert ("Service", NAMESPACE, NAME) in fleet.api.objects


async def test_spec_whose_profile_the_chart_took_away_is_watched_as_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    import steps

    fleet = fleet_with()
    await settle(fleet)
    from dataclasses import replace

    left = {name: profile for name, profile in steps.SETTINGS.profiles.items() if name != "simulated"}
    monkeypatch.setattr(steps, "SETTINGS", replace(steps.SETTINGS, profiles=left))
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    assert label(fleet, "a-1-0") == "false"
    assert condition(fleet, "SpecValid")["status"] == "False"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    fleet.answers.clear()
    await settle(fleet)
    assert status(fleet)["readyReplicas"] == 2
    assert status(fleet)["revision"]


async def test_what_an_invalid_spec_asks_for_waits_for_its_correction() -> None:
    fleet = fleet_with()
    await settle(fleet)
    change(fleet, replicas=3, engine={"profile": "no-such-engine"})
    await settle(fleet)
    assert len(fleet.pods()) == 2
    change(fleet, engine={})
    await settle(fleet)
    assert len(fleet.pods()) == 3
    assert condition(fleet, "Ready")["status"] == "True"


# One way out ---------------------------------------------------------------------------------------------------------


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


# What is said --------------------------------------------------------------------------------------------------------


async def test_single_replica_that_diverges_needs_a_person_who_is_told_that_it_serves_on() -> None:
    fleet = fleet_with(replicas=1)
    await settle(fleet)
    fleet.answers["a-0-0"] = 1
    await settle(fleet)
    stalled = condition(fleet, "Stalled")
    assert stalled["reason"] == "DivergingReplicaServes"
    assert "replica 0 diverged and goes on serving" in stalled["message"]
    (row,) = status(fleet)["replicaStates"]
    assert (row["pod"], row["state"]) == ("a-0-0", "Diverged")
    assert row["evidence"] in records(fleet, "evidence")
    assert row["boot"]


async def test_failed_gate_is_not_forgotten_between_two_attempts() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.restart("a-1-0")
    fleet.tick()
    await reconcile(fleet)
    for _ in range(60):
        await reconcile(fleet)
        assert condition(fleet, "Degraded")["status"] == "True"
        fleet.tick()
    fleet.answers.clear()
    await settle(fleet)
    assert condition(fleet, "Degraded")["status"] == "False"
    assert "evidence" not in str(status(fleet)["replicaStates"])


async def test_policy_report_says_that_a_peer_passes_where_one_does() -> None:
    fleet = fleet_with(quarantine={"policy": "Report"})
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    await settle(fleet)
    message = condition(fleet, "OutputsInvariant")["message"]
    assert "spec.quarantine.policy is Report; replica 0 passes the same" in message
    assert label(fleet, "a-1-0") == "true"


async def test_pod_that_lost_a_label_of_its_replica_is_told_with_the_remedy_that_works() -> None:
    fleet = fleet_with()
    await settle(fleet)
    pod = copied(fleet.api.objects["Pod", NAMESPACE, "a-1-0"])
    del pod["metadata"]["labels"][names.LABEL_REPLICA]
    pod["metadata"]["ownerReferences"] = []  # its StatefulSet releases it
    fleet.api.put(pod)
    await reconcile(fleet)
    assert condition(fleet, "Stalled")["reason"] == "ChildConflict"
    assert "kubectl delete pod a-1-0" in condition(fleet, "ReplicasAvailable")["message"]
    fleet.api.remove("Pod", NAMESPACE, "a-1-0")
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_pod_that_ends_on_a_node_that_is_gone_is_told_so() -> None:
    fleet = fleet_with()
    await settle(fleet)
    pod = copied(fleet.api.objects["Pod", NAMESPACE, "a-1-0"])
    pod["metadata"] |= {"deletionTimestamp": "2027-01-15T08:00:00Z", "finalizers": ["example.org/kubelet"]}
    pod["spec"] = pod["spec"] | {"nodeName": "node7"}
    fleet.api.put(pod)
    await reconcile(fleet)
    (words,) = [item["message"] for item in status(fleet)["replicaStates"] if item["index"] == 1]
    assert "its pod ends, since 2027-01-15T08:00:00Z" in words
    assert "node7" in words


async def test_baselines_that_nobody_needs_are_pruned_and_what_is_delivered_stays_small() -> None:
    fleet = fleet_with()
    await settle(fleet)
    for number in range(20):
        fleet.api.nodes[0]["metadata"]["labels"]["huawei.com/driver.version"] = f"25.{number}"
        change(fleet, topology={"driverVersion": f"25.{number}"})
        hardware = {"driver": f"25.{number}"}
        fleet.hardware |= {"a-0-0": hardware, "a-1-0": hardware}
        for pod in fleet.pods():
            fleet.restart(pod["metadata"]["name"])
        await settle(fleet)
        assert condition(fleet, "Ready")["status"] == "True"
    assert len(records(fleet, "baseline")) <= 13
    assert status(fleet)["baseline"]["digest"][7:17] in str(records(fleet, "baseline"))
    assert len(fleet.delivered(NAME, NAMESPACE)) <= 14


# A place before a pod goes -------------------------------------------------------------------------------------------


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
