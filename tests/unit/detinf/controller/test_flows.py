"""Whole flows on the in-memory port, and what is to be seen on the way; crashes are in ``test_crashes``."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from fleet import PROPOSAL, Fleet
from journeys import FLOWS, NAME, NAMESPACE, begun, resource
from steps import condition, events, fleet_with, isolate, reconcile, records, settle, status

from detinf.api import names
from detinf.controller.quarantine import DRAIN_SECONDS


def shape(fleet: Fleet) -> dict[str, Any]:
    """Return what the end state comes to, without uids, times and counters."""
    return {
        "objects": sorted(
            (kind, name)
            for kind, _, name in fleet.api.objects
            if kind != "Event" and "candidate" not in name and "evidence" not in name
        ),
        "events": events(fleet),
        "ready": condition(fleet, "Ready")["status"],
        "states": [(item["index"], item["state"]) for item in status(fleet)["replicaStates"]],
        "evidence": len(records(fleet, "evidence")),
        "candidates": len(records(fleet, "candidate")),
    }


async def test_resource_becomes_ready_through_references_candidate_and_baseline() -> None:
    fleet = fleet_with()
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"
    assert records(fleet, "references") == [names.references_name(NAME, PROPOSAL.digest())]
    assert len(records(fleet, "baseline")) == 1
    assert records(fleet, "candidate") == []
    assert events(fleet) == ["Ready", "RevisionQualified"]
    assert status(fleet)["baseline"]["lifetimes"] in {1, 2}
    assert status(fleet)["readyReplicas"] == 2


async def test_settled_resource_is_not_written_in_ten_minutes_or_after_a_restart() -> None:
    fleet = fleet_with()
    await settle(fleet)
    before = list(fleet.api.writes)
    for _ in range(300):
        await reconcile(fleet)  # nothing is remembered between two calls: each is a restarted controller's first
        fleet.tick(2.0)
    assert fleet.api.writes == before


async def test_diverging_replica_is_isolated_drained_and_replaced() -> None:
    fleet = fleet_with()
    await settle(fleet)
    uid = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["uid"]
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    pod = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]
    assert pod["metadata"]["labels"][names.LABEL_SERVING] == "false"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"
    assert len(records(fleet, "evidence")) == 1
    fleet.answers.clear()
    for _ in range(int(DRAIN_SECONDS / 2) + 3):
        fleet.tick()
        await reconcile(fleet)
    await settle(fleet)
    assert fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["uid"] != uid
    assert condition(fleet, "Ready")["status"] == "True"
    assert events(fleet) == [
        "DivergenceDetected",
        "NotReady",
        "Ready",
        "Ready",
        "ReplicaIsolated",
        "ReplicaReplaced",
        "RevisionQualified",
    ]


async def test_diverging_replica_that_is_only_observed_goes_on_serving_and_the_condition_says_so() -> None:
    fleet = fleet_with(probe={"mode": "Observe"})
    await settle(fleet)
    assert (
        "divergences are reported and not acted on: spec.probe.mode is Observe"
        in condition(fleet, "SpecValid")["message"]
    )
    fleet.answers["a-1-0"] = 1
    await settle(fleet)
    assert fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["labels"][names.LABEL_SERVING] == "true"
    assert condition(fleet, "OutputsInvariant")["reason"] == "DivergenceDetected"


async def test_last_replica_that_diverges_is_reported_and_goes_on_serving() -> None:
    fleet = fleet_with(replicas=1)
    await settle(fleet)
    fleet.answers["a-0-0"] = 1
    await settle(fleet)
    assert fleet.api.objects["Pod", NAMESPACE, "a-0-0"]["metadata"]["labels"][names.LABEL_SERVING] == "true"
    assert condition(fleet, "OutputsInvariant")["status"] == "False"
    assert [item["state"] for item in status(fleet)["replicaStates"]] == ["Diverged"]


async def test_fault_of_all_replicas_isolates_nobody() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    await settle(fleet)
    assert condition(fleet, "OutputsInvariant")["reason"] == "CommonModeDivergence"
    labels = [pod["metadata"]["labels"][names.LABEL_SERVING] for pod in fleet.pods()]
    assert labels == ["true", "true"]


async def test_replica_that_fails_its_gate_is_replaced_with_back_off_and_never_serves() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.restart("a-1-0")
    uids = set()
    for _ in range(120):
        fleet.tick()
        await reconcile(fleet)
        pod = fleet.api.objects.get(("Pod", NAMESPACE, "a-1-0"))
        if pod:
            uids.add(pod["metadata"]["uid"])
            assert pod["status"]["conditions"][0]["status"] == "False"
    # 240 s at 10, 20, 40, 80 ... seconds between replacements.
    assert 3 <= len(uids) <= 6
    assert "GateFailed" in events(fleet)


async def test_isolated_pod_that_restarts_in_place_serves_again_without_labels() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    await isolate(fleet)
    fleet.answers.clear()
    fleet.restart("a-1-0")
    await settle(fleet)
    labels = fleet.api.objects["Pod", NAMESPACE, "a-1-0"]["metadata"]["labels"]
    assert labels[names.LABEL_SERVING] == "true"
    assert names.LABEL_DIVERGED_BOOT not in labels
    assert condition(fleet, "Ready")["status"] == "True"


async def test_child_that_was_edited_or_deleted_by_hand_comes_back() -> None:
    fleet = fleet_with()
    await settle(fleet)
    before = shape(fleet)
    del fleet.api.objects["Service", NAMESPACE, NAME]
    delivery = fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)]
    delivery["data"][names.REFERENCES_KEY] = "somebody's hand"
    await settle(fleet)
    assert shape(fleet) == before
    assert "somebody" not in str(fleet.delivered(NAME, NAMESPACE))


async def test_lost_baseline_record_is_restored_from_the_delivery() -> None:
    fleet = fleet_with()
    await settle(fleet)
    (record,) = records(fleet, "baseline")
    del fleet.api.objects["ConfigMap", NAMESPACE, record]
    await settle(fleet)
    assert records(fleet, "baseline") == [record]
    assert condition(fleet, "Qualified")["status"] == "True"


async def test_baseline_that_nobody_has_is_lost_and_never_agreed_anew() -> None:
    fleet = fleet_with()
    await settle(fleet)
    named = status(fleet)["baseline"]
    (record,) = records(fleet, "baseline")
    del fleet.api.objects["ConfigMap", NAMESPACE, record]
    delivery = fleet.api.objects["ConfigMap", NAMESPACE, names.delivery_name(NAME)]
    delivery["data"] = {key: value for key, value in delivery["data"].items() if key == names.REFERENCES_KEY}
    for pod in fleet.pods():
        fleet.restart(pod["metadata"]["name"])
    fleet.tick()
    await settle(fleet)
    assert records(fleet, "baseline") == []
    assert condition(fleet, "Qualified")["reason"] == "BaselineLost"
    assert status(fleet)["baseline"] == named
    assert status(fleet)["readyReplicas"] == 0


async def test_candidates_that_differ_make_no_baseline() -> None:
    fleet = fleet_with()
    fleet.answers["a-1-0"] = 1
    await settle(fleet)
    assert records(fleet, "baseline") == []
    assert condition(fleet, "Qualified")["reason"] == "CandidatesDiffer"
    assert "r0" in condition(fleet, "Qualified")["message"]


async def test_fewer_replicas_leave_the_best() -> None:
    fleet = fleet_with(replicas=3)
    await settle(fleet)
    fleet.answers["a-0-0"] = 1
    fleet.tick()
    await isolate(fleet)
    smaller = copy.deepcopy(fleet.api.objects[names.KIND, NAMESPACE, NAME])
    smaller["spec"]["replicas"] = 2
    fleet.api.put(smaller)
    await settle(fleet)
    assert sorted(name for kind, _, name in fleet.api.objects if kind == "StatefulSet") == ["a-1", "a-2"]


async def test_change_of_the_plan_replaces_one_serving_pod_at_a_time() -> None:
    fleet = fleet_with()
    await settle(fleet)
    changed = copy.deepcopy(fleet.api.objects[names.KIND, NAMESPACE, NAME])
    changed["spec"]["model"]["maxModelLen"] = 4096
    fleet.api.put(changed)
    for _ in range(40):
        await reconcile(fleet)
        ready = [pod for pod in fleet.pods() if pod["status"]["conditions"][0]["status"] == "True"]
        assert ready, "no replica serves"
        if condition(fleet, "Ready")["status"] == "True":  # who waits for Ready waits for all of the roll-out
            told = status(fleet)["revision"]
            assert {pod["metadata"]["labels"][names.LABEL_REVISION] for pod in fleet.pods()} == {told}
        fleet.tick()
    revision = status(fleet)["revision"]
    assert {pod["metadata"]["labels"][names.LABEL_REVISION] for pod in fleet.pods()} == {revision}
    assert condition(fleet, "Ready")["status"] == "True"


async def test_invalid_spec_leaves_what_runs_alone_and_says_why() -> None:
    fleet = fleet_with()
    await settle(fleet)
    objects = {key for key in fleet.api.objects if key[0] != "Event"}
    broken = copy.deepcopy(fleet.api.objects[names.KIND, NAMESPACE, NAME])
    broken["spec"]["engine"] = {"profile": "vllm-ascend-0.18"}
    fleet.api.put(broken)
    await settle(fleet)
    assert {key for key in fleet.api.objects if key[0] != "Event"} == objects
    assert condition(fleet, "SpecValid")["status"] == "False"
    assert "spec.engine.profile" in condition(fleet, "SpecValid")["message"]
    assert "InvalidSpec" in events(fleet)


@pytest.mark.parametrize("status_code", [403, 404])
async def test_namespace_that_ends_is_no_error_and_nothing_is_made_in_it(status_code: int) -> None:
    """What is in a namespace goes in any order: here the resource is the last to go."""
    fleet = fleet_with()
    await settle(fleet)
    fleet.api.ends[NAMESPACE] = status_code
    resources = (names.KIND, NAMESPACE, NAME)
    fleet.api.objects = {resources: fleet.api.objects[resources]}
    assert not await reconcile(fleet)


async def test_change_whose_answers_are_the_same_leaves_the_qualification_as_it_is() -> None:
    """Replicas are held to their baseline all the time: it said Qualifying for one pass, and took that back."""
    journey = await begun(next(flow for flow in FLOWS if flow.name == "change of the plan"))
    await journey.settle()
    assert journey.done.flips()["Qualified"] == ["True"]


async def test_divergence_is_recorded_before_its_replica_is_isolated() -> None:
    """A restart in place forgets its evidence, and an isolated replica may restart at any time."""
    fleet = fleet_with()
    await settle(fleet)
    fleet.answers["a-1-0"] = 1
    fleet.tick()
    before = len(fleet.api.writes)
    await isolate(fleet)
    written = fleet.api.writes[before:]
    (recorded,) = [at for at, line in enumerate(written) if line.startswith("create ConfigMap a-evidence")]
    assert recorded < written.index("apply Pod a-1-0")


OTHER_DRIVER = {"driver": "25.3.1"}


async def test_replica_with_other_hardware_than_the_first_baselines_never_serves() -> None:
    fleet = fleet_with()
    await settle(fleet)
    assert status(fleet)["topology"]["driverVersion"] == "25.5.1"
    assert condition(fleet, "TopologyPinned")["reason"] == "Pinned"
    fleet.hardware["a-1-0"] = OTHER_DRIVER  # the node of replica 1 was upgraded, and its engine restarted
    fleet.restart("a-1-0")
    await settle(fleet)
    pinned = condition(fleet, "TopologyPinned")
    assert (pinned["status"], pinned["reason"]) == ("False", "TopologyDrift")
    assert "replica 1: driver: '25.5.1' -> '25.3.1'" in pinned["message"]
    assert condition(fleet, "Ready")["reason"] == "TopologyDrift"
    assert status(fleet)["readyReplicas"] == 1
    assert len(records(fleet, "baseline")) == 1
    fleet.hardware.clear()
    fleet.restart("a-1-0")
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_hardware_that_a_resource_declares_may_be_declared_anew() -> None:
    fleet = fleet_with(topology={"driverVersion": "25.5.1"})
    await settle(fleet)
    fleet.hardware |= {"a-0-0": OTHER_DRIVER, "a-1-0": OTHER_DRIVER}
    fleet.api.nodes[0]["metadata"]["labels"]["huawei.com/driver.version"] = "25.3.1"
    fleet.api.put(resource(topology={"driverVersion": "25.3.1"}))
    await settle(fleet)
    assert condition(fleet, "TopologyPinned")["status"] == "True"
    assert condition(fleet, "Ready")["status"] == "True"
    assert len(records(fleet, "baseline")) == 2


async def test_other_driver_is_only_reported_where_the_resource_says_warn() -> None:
    fleet = fleet_with(topology={"drift": "Warn"})
    fleet.identical -= {"driver", "firmware"}
    fleet.hardware["a-1-0"] = OTHER_DRIVER
    await settle(fleet)
    pinned = condition(fleet, "TopologyPinned")
    assert pinned["status"] == "True"
    assert "driver" in pinned["message"]
    assert condition(fleet, "Ready")["status"] == "True"


async def test_replica_with_another_variable_than_the_first_of_its_plan_never_serves_and_names_it() -> None:
    fleet = fleet_with()
    await settle(fleet)
    fleet.told["a-1-0"] = {"environment.LCCL_PARALLEL": "1"}  # a webhook sets it since, or the image's tag has moved
    fleet.restart("a-1-0")
    await settle(fleet)
    pinned = condition(fleet, "TopologyPinned")
    assert (pinned["status"], pinned["reason"]) == ("False", "IdentityDrift")
    assert "replica 1: environment.LCCL_PARALLEL: none -> '1'; have one image" in pinned["message"]
    assert condition(fleet, "Ready")["reason"] == "IdentityDrift"
    assert status(fleet)["readyReplicas"] == 1
    assert len(records(fleet, "baseline")) == 1
    fleet.told.clear()
    fleet.restart("a-1-0")
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"


async def test_two_environments_of_one_plan_at_first_pin_one_of_them() -> None:
    fleet = fleet_with()
    fleet.told["a-1-0"] = {"packages.torch": "2.10.1"}
    await settle(fleet)
    assert condition(fleet, "TopologyPinned")["reason"] == "IdentityDrift"
    assert len(records(fleet, "baseline")) == 1
    assert status(fleet)["readyReplicas"] == 1


async def test_what_a_newer_guard_tells_is_no_drift() -> None:
    fleet = fleet_with()
    await settle(fleet)
    newer = {"schema": "3", "environment.LCCL_PARALLEL": "1"}
    fleet.told |= {"a-0-0": newer, "a-1-0": newer}
    for pod in ("a-0-0", "a-1-0"):
        fleet.restart(pod)
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True"
    assert len(records(fleet, "baseline")) == 2
    fleet.told["a-1-0"] = newer | {"environment.LCCL_PARALLEL": "0"}
    fleet.restart("a-1-0")
    await settle(fleet)
    assert "environment.LCCL_PARALLEL: '1' -> '0'" in condition(fleet, "TopologyPinned")["message"]


async def test_two_kinds_of_hardware_at_first_pin_one_of_them() -> None:
    fleet = fleet_with()
    fleet.hardware["a-1-0"] = {"chip": "910B4"}
    await settle(fleet)
    assert condition(fleet, "TopologyPinned")["reason"] == "TopologyDrift"
    assert len(records(fleet, "baseline")) == 1
    assert status(fleet)["readyReplicas"] == 1


async def test_engine_that_answers_and_has_not_attested_is_said_to_be_so() -> None:
    fleet = fleet_with()
    await settle(fleet)
    assert condition(fleet, "BatchInvarianceEffective")["reason"] == "Attested"
    fleet.unattested.add("a-1-0")
    fleet.restart("a-1-0")
    await settle(fleet)
    effective = condition(fleet, "BatchInvarianceEffective")
    assert (effective["status"], effective["reason"]) == ("False", "NotAttested")
    assert "replica 1: no attestation of worker-0 yet" in effective["message"]
    assert condition(fleet, "Ready")["status"] == "False"
