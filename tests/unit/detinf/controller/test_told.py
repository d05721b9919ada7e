"""What the status says of children that are refused and pods that do not come, on the in-memory port."""

from __future__ import annotations

from typing import Any

import pytest
from fleet import Fleet

from detinf.api import names
from detinf.cluster.port import ForbiddenError, InvalidError
from detinf.controller.carry_out import carry_out
from detinf.controller.decide import decide
from detinf.controller.gather import gather
from detinf.controller.retries import Retries
from detinf.controller.settings import OperatorSettings

SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated")


def fleet_with(replicas: int = 2) -> Fleet:
    fleet = Fleet()
    fleet.api.put(
        {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
            "metadata": {"name": "a", "namespace": "ns", "generation": 1},
            "spec": {"model": {"source": {"persistentVolumeClaim": {"claimName": "m"}}}, "replicas": replicas},
        }
    )
    return fleet


async def reconcile(fleet: Fleet, times: int = 1) -> None:
    for _ in range(times):
        observed = await gather(fleet.api, fleet, "ns", "a")
        assert observed is not None
        decision = decide(observed, SETTINGS, fleet.now)
        retries = Retries(lambda: fleet.now)
        await carry_out(fleet.api, observed, decision, now=fleet.now, instance="test", retries=retries)


def conditions(fleet: Fleet) -> dict[str, dict[str, Any]]:
    status = fleet.api.objects[names.KIND, "ns", "a"]["status"]
    return {item["type"]: item for item in status["conditions"]}


async def test_pod_that_is_refused_is_told_from_the_events_of_its_stateful_set() -> None:
    fleet = fleet_with()
    await reconcile(fleet)
    for index in (0, 1):
        uid = fleet.api.objects["StatefulSet", "ns", f"a-{index}"]["metadata"]["uid"]
        event = {
            "kind": "Event",
            "metadata": {"name": f"e{index}", "namespace": "ns"},
            "regarding": {"uid": uid},
            "reason": "FailedCreate",
            "note": f"create Pod a-{index}-0 in StatefulSet a-{index} failed error: exceeded quota: q",
        }
        fleet.api.put(event)
    await reconcile(fleet)
    for kind in ("Ready", "ReplicasAvailable", "Degraded"):
        assert conditions(fleet)[kind]["reason"] == "PodRefused"
        assert "exceeded quota: q; raise the ResourceQuota" in conditions(fleet)[kind]["message"]
    before = list(fleet.api.writes)
    await reconcile(fleet, 3)
    assert fleet.api.writes == before
    fleet.tick()
    await reconcile(fleet)
    assert conditions(fleet)["ReplicasAvailable"]["reason"] != "PodRefused"


@pytest.mark.parametrize(
    ("error", "is_the_specs_fault"),
    [
        (InvalidError("PATCH /x: 422: no", status=422, words='StatefulSet "a-0" is invalid'), True),
        (ForbiddenError("PATCH /x: 403: no", status=403, words='statefulsets "a-0" is forbidden'), False),
    ],
)
async def test_child_that_is_refused_is_told_once_until_it_is_taken(
    error: InvalidError | ForbiddenError, *, is_the_specs_fault: bool
) -> None:
    fleet = fleet_with()

    taken = fleet.api.apply

    async def refuse(manifest: dict[str, Any]) -> dict[str, Any]:
        if manifest["kind"] == "StatefulSet":
            raise error
        return await taken(manifest)

    fleet.api.apply = refuse
    await reconcile(fleet)
    found = conditions(fleet)
    assert found["Ready"]["reason"] == found["Degraded"]["reason"] == "ChildRefused"
    assert error.words in found["Ready"]["message"]
    assert (found["SpecValid"]["status"] == "False") is is_the_specs_fault
    assert found["Stalled"]["reason"] == "ChildRefused"
    assert "Reconciling" not in found
    before = list(fleet.api.writes)

    async def written(_manifest: dict[str, Any]) -> None:
        pytest.fail("the same status was sent again")

    told, fleet.api.apply_status = fleet.api.apply_status, written
    for _ in range(3):
        fleet.now += 60
        await reconcile(fleet)
    assert fleet.api.writes == before
    fleet.api.apply, fleet.api.apply_status = taken, told
    await reconcile(fleet)
    assert "ChildRefused" not in str(conditions(fleet))


async def test_reason_is_that_of_the_replica_that_is_worst_off() -> None:
    fleet = fleet_with()
    await reconcile(fleet)
    fleet.tick()
    pod = fleet.api.objects["Pod", "ns", "a-1-0"]
    ended = {"terminated": {"exitCode": 78, "message": "detinf guard: refused: firmware"}}
    pod["status"]["containerStatuses"] = [{"name": "engine", "started": False, "state": ended}]
    await reconcile(fleet)
    found = conditions(fleet)
    assert found["Ready"]["reason"] == found["ReplicasAvailable"]["reason"] == found["Stalled"]["reason"]
    assert found["Ready"]["reason"] == "GuardRefused"
    assert "replica 1 is Failed: engine: detinf guard: refused: firmware" in found["ReplicasAvailable"]["message"]


async def test_invalid_spec_claims_what_is_measured_under_the_last_valid_one() -> None:
    fleet = fleet_with()
    for _ in range(20):
        await reconcile(fleet)
        fleet.tick()
    assert conditions(fleet)["OutputsInvariant"]["status"] == "True"
    stored = fleet.api.objects[names.KIND, "ns", "a"]
    fleet.api.put(stored | {"spec": stored["spec"] | {"engine": {"profile": "none"}}})
    await reconcile(fleet)
    found = conditions(fleet)
    assert found["OutputsInvariant"]["status"] == "True"
    assert found["Ready"]["reason"] == found["Stalled"]["reason"] == "InvalidSpec"
    assert "last valid spec (generation 1)" in found["SpecValid"]["message"]
    fleet.now += 1000  # nobody is asked any more
    await reconcile(fleet)
    assert conditions(fleet)["OutputsInvariant"]["reason"] == "EvidenceStale"
