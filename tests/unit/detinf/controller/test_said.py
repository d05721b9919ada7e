"""What the status says, and what it does not forget."""

from __future__ import annotations

from cluster_api import copied
from journeys import NAME, NAMESPACE, change
from steps import (
    condition,
    fleet_with,
    label,
    reconcile,
    records,
    settle,
    status,
)

from detinf.api import names


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
