"""How GitOps tools read the resource: kstatus' own code, and the health script for Argo CD in the Lua that it uses."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from detinf_cluster.build import binary
from fleet import Fleet

from detinf.api import names
from detinf.controller.carry_out import carry_out
from detinf.controller.decide import decide
from detinf.controller.gather import gather, with_places
from detinf.controller.retries import Retries
from detinf.controller.settings import OperatorSettings

pytestmark = pytest.mark.cluster

SCRIPT = Path(__file__).resolve().parents[2] / "docs" / "examples" / "argocd" / "health.lua"
SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated")
KEY = (names.KIND, "ns", "a")


def manifest(**spec: Any) -> dict[str, Any]:
    source = {"persistentVolumeClaim": {"claimName": "models"}}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "a", "namespace": "ns", "generation": 1},
        "spec": {"model": {"source": source}, "replicas": 2} | spec,
    }


def said(*resources: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what kstatus and Argo CD say of resources."""
    command = [str(binary("health")), str(SCRIPT)]
    done = subprocess.run(command, input=json.dumps(resources), capture_output=True, text=True, check=True)
    return [(item["kstatus"], item["argo"]) for item in json.loads(done.stdout)]


class Story:
    """One resource on the in-memory port, reconciled."""

    def __init__(self, **spec: Any) -> None:
        self.fleet = Fleet()
        self.fleet.api.put(manifest(**spec))

    @property
    def resource(self) -> dict[str, Any]:
        return copy.deepcopy(self.fleet.api.objects[KEY])

    async def reconcile(self, times: int = 1, *, tick: bool = True) -> Story:
        for _ in range(times):
            observed = await gather(self.fleet.api, self.fleet, "ns", "a")
            assert observed is not None
            decision = decide(observed, SETTINGS, self.fleet.now)
            if decision.wants_places:
                observed = await with_places(self.fleet.api, observed)
                decision = decide(observed, SETTINGS, self.fleet.now)
            retries = Retries(lambda: self.fleet.now)
            await carry_out(self.fleet.api, observed, decision, now=self.fleet.now, instance="test", retries=retries)
            if tick:
                self.fleet.tick()
        return self

    def change(self, **spec: Any) -> Story:
        resource = self.resource
        resource["spec"] |= spec
        self.fleet.api.put(resource)
        return self

    def pod_status(self, index: int, **status: Any) -> Story:
        self.fleet.api.objects["Pod", "ns", f"a-{index}-0"]["status"] |= status
        return self


async def test_resource_that_starts_is_in_progress_and_one_that_serves_is_current() -> None:
    story = await Story().reconcile(tick=False)
    assert said(story.resource) == [("InProgress", "Progressing")]
    await story.reconcile(20)
    assert said(story.resource) == [("Current", "Healthy")]


async def test_change_that_was_not_seen_yet_is_in_progress() -> None:
    story = (await Story().reconcile(20)).change(replicas=3)
    assert said(story.resource) == [("InProgress", "Progressing")]


async def test_roll_out_is_in_progress_to_its_end() -> None:
    story = (await Story().reconcile(20)).change(
        model={"source": manifest()["spec"]["model"]["source"], "maxModelLen": 64}
    )
    seen = []
    for _ in range(80):
        await story.reconcile()
        seen += said(story.resource)
        if seen[-1] == ("Current", "Healthy"):
            break
    assert set(seen[:-1]) == {("InProgress", "Progressing")}
    assert seen[-1] == ("Current", "Healthy")
    revisions = {pod["metadata"]["labels"][names.LABEL_REVISION] for pod in story.fleet.pods()}
    assert revisions == {story.resource["status"]["revision"]}


async def test_what_a_person_must_mend_has_failed() -> None:
    invalid = await (await Story().reconcile(20)).change(engine={"profile": "none"}).reconcile()
    never = await Story(engine={"profile": "none"}).reconcile()
    differing = Story()
    differing.fleet.answers["a-1-0"] = 1
    await differing.reconcile(20)
    refused = {"exitCode": 78, "reason": "Error", "message": "detinf guard: refused: x"}
    guard = await Story().reconcile(2)
    status = {"name": "engine", "started": False, "state": {"terminated": refused}}
    for index in (0, 1):
        guard.pod_status(index, containerStatuses=[status])
    await guard.reconcile(tick=False)
    for story in (invalid, never, differing, guard):
        assert said(story.resource) == [("Failed", "Degraded")], story.resource["status"]


async def test_corrected_spec_recovers() -> None:
    story = await (await Story().reconcile(20)).change(engine={"profile": "none"}).reconcile()
    await story.change(engine={}).reconcile(3)
    assert said(story.resource) == [("Current", "Healthy")]


async def test_failed_replica_is_degraded_and_still_in_progress() -> None:
    story = await Story().reconcile(20)
    story.fleet.answers["a-1-0"] = 1
    story.fleet.tick()
    await story.reconcile(2)
    assert said(story.resource) == [("InProgress", "Degraded")]


async def test_no_node_is_waiting_and_no_failure() -> None:
    story = await Story().reconcile(2)
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "no nodes available",
    }
    for index in (0, 1):
        story.pod_status(index, conditions=[unscheduled], containerStatuses=[])
    await story.reconcile(tick=False)
    assert said(story.resource) == [("InProgress", "Progressing")]


async def test_resource_that_is_asked_for_no_replicas_is_suspended() -> None:
    story = await Story(replicas=0).reconcile(3)
    assert said(story.resource) == [("InProgress", "Suspended")]


async def test_deleted_resource_terminates() -> None:
    resource = (await Story().reconcile(20)).resource
    resource["metadata"]["deletionTimestamp"] = "2026-11-24T10:00:00Z"
    assert said(resource) == [("Terminating", "Progressing")]


def test_resource_that_nobody_has_looked_at_is_not_well(kubectl: Callable[..., str]) -> None:
    """What the real API server gives before the controller's first write: kstatus alone would call it Current."""
    given = json.dumps(manifest() | {"metadata": {"name": "a"}})
    stored = json.loads(kubectl("create", "-f", "-", "-o", "json", given=given))
    assert said(stored) == [("InProgress", "Progressing")]
    del stored["status"]
    assert said(stored)[0][0] == "Current"  # the default of observedGeneration is what makes the difference
