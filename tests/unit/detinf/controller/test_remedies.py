"""Every remedy of docs/operations/failures.md, carried out in memory: the state that it promises is reached."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cluster_api import copied
from fleet import IMAGE, Fleet
from journeys import NAME, NAMESPACE, RESOURCE_KEY, change
from steps import HAND, QUOTA, condition, fleet_with, reconcile, records, refuse, settle, status

from detinf.api import names
from detinf.api.conditions import Reason
from detinf.controller.pods import format_time

DOCUMENT = Path(__file__).parents[4] / "docs" / "operations" / "failures.md"
OTHER_DRIVER = {"driver": "25.3.1"}
OTHER_VARIABLE = {"environment.LCCL_PARALLEL": "1"}


async def looks(fleet: Fleet, number: int) -> None:
    for _ in range(number):
        await reconcile(fleet)
        fleet.tick()


async def shows(fleet: Fleet, reason: Reason, kind: str = "Ready") -> None:
    """Look until a condition has a reason."""
    for _ in range(60):
        await reconcile(fleet)
        if condition(fleet, kind)["reason"] == reason:
            return
        fleet.tick()
    raise AssertionError(f"{reason} is not reached: {status(fleet)['conditions']}")


async def becomes_ready(fleet: Fleet) -> None:
    await settle(fleet)
    assert condition(fleet, "Ready")["status"] == "True", status(fleet)["conditions"]


def apply_again(fleet: Fleet) -> None:
    """Delete the resource and apply it again."""
    again = copied(fleet.api.objects[RESOURCE_KEY])
    fleet.api.remove(*RESOURCE_KEY)
    again["metadata"] = {"name": NAME, "namespace": NAMESPACE, "generation": 1}
    del again["status"]
    fleet.api.put(again)


def restart_one_by_one(fleet: Fleet) -> None:
    """What ``kubectl annotate detinf NAME detinf.io/restarted-at=...`` does."""
    annotated = copied(fleet.api.objects[RESOURCE_KEY])
    annotated["metadata"].setdefault("annotations", {})[names.ANNOTATION_RESTART] = format_time(fleet.now)
    fleet.api.put(annotated)


async def invalid_spec_is_corrected(fleet: Fleet) -> None:
    change(fleet, engine={"profile": "none"})
    await shows(fleet, Reason.INVALID_SPEC)
    change(fleet, engine={})


async def quota_is_raised(fleet: Fleet) -> None:
    refuse(fleet, QUOTA, ("StatefulSet", ""))
    change(fleet, replicas=3)
    await shows(fleet, Reason.CHILD_REFUSED)
    refuse(fleet, QUOTA)


async def what_a_hand_made_unappliable_is_deleted(fleet: Fleet) -> None:
    service = copied(fleet.api.objects["Service", NAMESPACE, NAME])
    service["spec"]["selector"] = {"somebody": "else"}
    fleet.api.put(service)
    refuse(fleet, HAND, ("Service", NAME))
    await shows(fleet, Reason.CHILD_REFUSED)
    fleet.api.remove("Service", NAMESPACE, NAME)
    refuse(fleet, HAND)


async def field_of_a_refused_child_is_corrected(fleet: Fleet) -> None:
    refuse(fleet, HAND, ("StatefulSet", ""))
    change(fleet, replicas=3)
    await shows(fleet, Reason.CHILD_REFUSED, "SpecValid")
    change(fleet, replicas=2)
    refuse(fleet, HAND)


async def conflicting_object_is_deleted(fleet: Fleet) -> None:
    fleet.api.remove("Service", NAMESPACE, NAME)
    fleet.api.put({"kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE}, "spec": {}})
    await shows(fleet, Reason.CHILD_CONFLICT)
    fleet.api.remove("Service", NAMESPACE, NAME)


def put_unreadable_record(fleet: Fleet) -> None:
    (record,) = records(fleet, "baseline")
    broken = copied(fleet.api.objects["ConfigMap", NAMESPACE, record])
    broken["metadata"] = {key: broken["metadata"][key] for key in ("namespace", "labels", "ownerReferences")}
    fleet.api.put(broken | {"metadata": broken["metadata"] | {"name": "a-hand"}, "data": {"baseline.json": "{}"}})


async def unreadable_record_is_deleted(fleet: Fleet) -> None:
    put_unreadable_record(fleet)
    await shows(fleet, Reason.RECORD_UNREADABLE)
    fleet.api.remove("ConfigMap", NAMESPACE, "a-hand")


async def garbage_collector_is_waited_for(fleet: Fleet) -> None:
    again = copied(fleet.api.objects[RESOURCE_KEY])
    del fleet.api.objects[RESOURCE_KEY], again["metadata"]["uid"], again["status"]
    fleet.api.put(again)
    await shows(fleet, Reason.LEFT_BY_NAMESAKE)


async def drifted_nodes_are_made_alike(fleet: Fleet) -> None:
    await drifts(fleet)
    fleet.hardware.clear()
    fleet.restart("a-1-0")


async def drifts(fleet: Fleet) -> None:
    fleet.hardware["a-1-0"] = OTHER_DRIVER
    fleet.restart("a-1-0")
    await shows(fleet, Reason.TOPOLOGY_DRIFT)


async def new_hardware_is_declared(fleet: Fleet) -> None:
    await drifts(fleet)
    fleet.hardware["a-0-0"] = OTHER_DRIVER
    fleet.api.nodes[0]["metadata"]["labels"]["huawei.com/driver.version"] = "25.3.1"
    change(fleet, topology={"driverVersion": "25.3.1", "firmwareVersion": "7.8.0.6.201"})
    for pod in ("a-0-0", "a-1-0"):
        fleet.restart(pod)


async def drift_is_allowed_for_drivers(fleet: Fleet) -> None:
    await drifts(fleet)
    change(fleet, topology={"drift": "Warn"})
    fleet.identical = {"chip", "devices"}
    fleet.restart("a-1-0")


async def drifted_resource_is_applied_again(fleet: Fleet) -> None:
    await drifts(fleet)
    fleet.hardware["a-0-0"] = OTHER_DRIVER
    apply_again(fleet)


async def identity_drifts(fleet: Fleet) -> None:
    fleet.told["a-1-0"] = OTHER_VARIABLE
    fleet.restart("a-1-0")
    await shows(fleet, Reason.IDENTITY_DRIFT)


async def replicas_of_one_plan_are_made_alike(fleet: Fleet) -> None:
    await identity_drifts(fleet)
    fleet.told.clear()
    fleet.restart("a-1-0")


async def resource_whose_replicas_differ_is_applied_again(fleet: Fleet) -> None:
    await identity_drifts(fleet)
    fleet.told["a-0-0"] = OTHER_VARIABLE
    apply_again(fleet)


async def image_is_named_by_digest(fleet: Fleet) -> None:
    await identity_drifts(fleet)
    fleet.told["a-0-0"] = OTHER_VARIABLE
    change(fleet, engine={"image": f"engine@sha256:{'1' * 64}"})


async def image_moves(fleet: Fleet) -> str:
    """Let the tag stand for another image from now on; return the one that was pinned."""
    fleet.images |= dict.fromkeys(("a-0-0", "a-1-0"), f"registry.example/engine@sha256:{'2' * 64}")
    fleet.restart("a-1-0")
    await shows(fleet, Reason.IMAGE_DRIFT)
    return IMAGE


async def image_is_named_by_the_digest_that_was_pinned(fleet: Fleet) -> None:
    change(fleet, engine={"image": await image_moves(fleet)})
    fleet.images.clear()


async def image_is_named_by_its_new_digest(fleet: Fleet) -> None:
    await image_moves(fleet)
    change(fleet, engine={"image": fleet.images["a-1-0"]})


async def different_images_are_let_pass(fleet: Fleet) -> None:
    await image_moves(fleet)
    change(fleet, topology={"drift": "Warn"})


async def resource_whose_image_moved_is_applied_again(fleet: Fleet) -> None:
    await image_moves(fleet)
    apply_again(fleet)


async def engine_that_does_not_attest_gets_another_image(fleet: Fleet) -> None:
    fleet.unattested.add("a-1-0")
    fleet.restart("a-1-0")
    await shows(fleet, Reason.NOT_ATTESTED)
    fleet.unattested.clear()
    fleet.restart("a-1-0")


async def differing_candidates_are_deleted_after_a_restart(fleet: Fleet) -> None:
    apply_again(fleet)
    fleet.answers["a-1-0"] = 1
    await shows(fleet, Reason.CANDIDATES_DIFFER)
    fleet.answers.clear()
    restart_one_by_one(fleet)
    await looks(fleet, 10)
    for name in records(fleet, "candidate"):
        fleet.api.remove("ConfigMap", NAMESPACE, name)


async def plan_of_differing_candidates_is_changed(fleet: Fleet) -> None:
    apply_again(fleet)
    fleet.answers["a-1-0"] = 1
    await shows(fleet, Reason.CANDIDATES_DIFFER)
    fleet.answers.clear()
    change(fleet, model=fleet.api.objects[RESOURCE_KEY]["spec"]["model"] | {"maxModelLen": 4096})


async def lose_the_baseline(fleet: Fleet) -> dict[str, Any]:
    (record,) = records(fleet, "baseline")
    backup = copied(fleet.api.objects["ConfigMap", NAMESPACE, record])
    fleet.api.remove("ConfigMap", NAMESPACE, record)
    fleet.api.remove("ConfigMap", NAMESPACE, names.delivery_name(NAME))
    for pod in ("a-0-0", "a-1-0"):
        fleet.restart(pod)
    await shows(fleet, Reason.BASELINE_LOST)
    return dict(backup)


async def lost_baseline_is_restored(fleet: Fleet) -> None:
    fleet.api.put(await lose_the_baseline(fleet))


async def resource_whose_baseline_is_lost_is_applied_again(fleet: Fleet) -> None:
    await lose_the_baseline(fleet)
    apply_again(fleet)


async def busy_probe_is_left_time(fleet: Fleet) -> None:
    fleet.busy |= {"a-0-0", "a-1-0"}
    fleet.now += 1000
    await shows(fleet, Reason.EVIDENCE_STALE)
    fleet.busy.clear()


async def replicas_are_raised_from_zero(fleet: Fleet) -> None:
    change(fleet, replicas=0)
    await shows(fleet, Reason.SCALED_TO_ZERO)
    change(fleet, replicas=2)


async def diverged_replica_is_left_to_its_isolation(fleet: Fleet) -> None:
    fleet.answers["a-1-0"] = 1
    await shows(fleet, Reason.DIVERGENCE_DETECTED)
    fleet.answers.clear()


async def single(fleet: Fleet) -> None:
    change(fleet, replicas=1)
    await settle(fleet)
    fleet.answers["a-0-0"] = 1
    await shows(fleet, Reason.DIVERGING_REPLICA_SERVES)


async def diverging_replica_gets_a_peer(fleet: Fleet) -> None:
    await single(fleet)
    change(fleet, replicas=2)
    isolated: list[str] = []
    for _ in range(30):
        await looks(fleet, 1)
        isolated += [row["pod"] for row in status(fleet)["replicaStates"] if row["state"] == "Isolated"]
    assert "a-0-0" in isolated
    fleet.answers.clear()


async def diverging_replica_is_restarted(fleet: Fleet) -> None:
    await single(fleet)
    fleet.answers.clear()
    fleet.api.remove("Pod", NAMESPACE, "a-0-0")


async def replicas_that_diverge_alike_are_restarted(fleet: Fleet) -> None:
    fleet.answers |= {"a-0-0": 1, "a-1-0": 1}
    await shows(fleet, Reason.COMMON_MODE_DIVERGENCE)
    fleet.answers.clear()
    restart_one_by_one(fleet)


async def failed_gate_is_left_to_its_back_off(fleet: Fleet) -> None:
    fleet.answers["a-1-0"] = 1
    fleet.restart("a-1-0")
    await shows(fleet, Reason.GATE_FAILED, "Degraded")
    fleet.answers.clear()


async def place_is_made(fleet: Fleet) -> None:
    change(fleet, scheduling={"nodeSelector": {"example.org/room": "none"}})
    await shows(fleet, Reason.NO_PLACE, "Progressing")
    fleet.api.nodes[0]["metadata"]["labels"]["example.org/room"] = "none"


async def what_holds_a_replica_up_is_mended(fleet: Fleet) -> None:
    fleet.gating.add("a-2-0")
    change(fleet, replicas=3)
    await looks(fleet, 5)
    assert condition(fleet, "Progressing")["status"] == "True"
    fleet.tick(3600 + 900 - 60)
    await looks(fleet, 2)
    assert condition(fleet, "Progressing")["status"] == "True"
    fleet.tick(60)
    await shows(fleet, Reason.PROGRESS_DEADLINE_EXCEEDED, "Stalled")
    before = list(fleet.api.writes)
    await looks(fleet, 5)
    assert fleet.api.writes == before
    fleet.gating.clear()


Remedy = Callable[[Fleet], Awaitable[None]]
REMEDIES: dict[Reason, tuple[Remedy, ...]] = {
    Reason.INVALID_SPEC: (invalid_spec_is_corrected,),
    Reason.CHILD_REFUSED: (
        quota_is_raised,
        what_a_hand_made_unappliable_is_deleted,
        field_of_a_refused_child_is_corrected,
    ),
    Reason.CHILD_CONFLICT: (conflicting_object_is_deleted,),
    Reason.RECORD_UNREADABLE: (unreadable_record_is_deleted,),
    Reason.LEFT_BY_NAMESAKE: (garbage_collector_is_waited_for,),
    Reason.TOPOLOGY_DRIFT: (
        drifted_nodes_are_made_alike,
        new_hardware_is_declared,
        drift_is_allowed_for_drivers,
        drifted_resource_is_applied_again,
    ),
    Reason.IDENTITY_DRIFT: (
        replicas_of_one_plan_are_made_alike,
        resource_whose_replicas_differ_is_applied_again,
        image_is_named_by_digest,
    ),
    Reason.IMAGE_DRIFT: (
        image_is_named_by_the_digest_that_was_pinned,
        image_is_named_by_its_new_digest,
        different_images_are_let_pass,
        resource_whose_image_moved_is_applied_again,
    ),
    Reason.NOT_ATTESTED: (engine_that_does_not_attest_gets_another_image,),
    Reason.CANDIDATES_DIFFER: (
        differing_candidates_are_deleted_after_a_restart,
        plan_of_differing_candidates_is_changed,
    ),
    Reason.BASELINE_LOST: (lost_baseline_is_restored, resource_whose_baseline_is_lost_is_applied_again),
    Reason.EVIDENCE_STALE: (busy_probe_is_left_time,),
    Reason.SCALED_TO_ZERO: (replicas_are_raised_from_zero,),
    Reason.DIVERGENCE_DETECTED: (diverged_replica_is_left_to_its_isolation,),
    Reason.DIVERGING_REPLICA_SERVES: (diverging_replica_gets_a_peer, diverging_replica_is_restarted),
    Reason.COMMON_MODE_DIVERGENCE: (replicas_that_diverge_alike_are_restarted,),
    Reason.NO_PLACE: (place_is_made,),
    Reason.PROGRESS_DEADLINE_EXCEEDED: (what_holds_a_replica_up_is_mended,),
    Reason.GATE_FAILED: (failed_gate_is_left_to_its_back_off,),
}
TROUBLES_OF_PODS = {
    Reason.POD_REFUSED,
    Reason.UNSCHEDULABLE,
    Reason.NO_NODE_MATCHES,
    Reason.CLAIM_MISSING,
    Reason.IMAGE_PULL_FAILED,
    Reason.CONFIG_MISSING,
    Reason.MOUNT_FAILED,
    Reason.CONTAINER_FAILED,
    Reason.GUARD_REFUSED,
    Reason.DOWNLOAD_FAILED,
    Reason.ENGINE_CRASHES,
    Reason.OUT_OF_MEMORY,
    Reason.EVICTED,
    Reason.POD_FAILED,
}
"""Their remedies are about the cluster, the image or the node: tests/cluster/test_trouble.py and tests/e2e."""
WAITED_FOR = {
    Reason.CHILDREN_UNREAD,
    Reason.NOT_PINNED_YET,
    Reason.NOT_ATTESTED_YET,
    Reason.WAITING_FOR_REFERENCES,
    Reason.QUALIFYING,
    Reason.NO_REPLICA_SERVES,
    Reason.REPLICA_PENDING,
    Reason.REPLICA_STARTING,
    Reason.REPLICA_QUALIFYING,
    Reason.REPLICA_GATING,
    Reason.REPLICA_DRAINING,
    Reason.REPLICA_ISOLATED,
    Reason.ROLLING_OUT,
    Reason.REPLICAS_STARTING,
}
"""The remedy is to wait, or that of the cause beside them."""
ALL_IS_WELL = {
    Reason.READY,
    Reason.VALID,
    Reason.PINNED,
    Reason.ATTESTED,
    Reason.BASELINE_AGREED,
    Reason.FRESH_PROOF,
    Reason.ALL_SERVING,
    Reason.SETTLED,
    Reason.AS_EXPECTED,
}


def test_every_reason_has_a_remedy_that_is_tried_or_needs_none() -> None:
    groups = [set(REMEDIES), TROUBLES_OF_PODS, WAITED_FOR, ALL_IS_WELL]
    assert set().union(*groups) == set(Reason)
    assert sum(map(len, groups)) == len(Reason)
    text = DOCUMENT.read_text(encoding="utf-8")
    for reason in REMEDIES:
        row = next(line for line in text.splitlines() if re.match(rf"\| `{reason}`", line))
        assert row.rstrip("| ").rpartition("| ")[2], f"{reason} has no remedy in {DOCUMENT.name}"


@pytest.mark.parametrize(
    "remedy", [remedy for remedies in REMEDIES.values() for remedy in remedies], ids=lambda remedy: remedy.__name__
)
async def test_documented_remedy_reaches_what_it_promises(remedy: Remedy) -> None:
    fleet = fleet_with()
    await settle(fleet)
    await remedy(fleet)
    await becomes_ready(fleet)
