"""The way from nothing to Ready on a real API server, with the controller killed after each of its calls to it.

Here are the API server's own objects, its StatefulSets' pods and the rights that the chart gives. There is no kubelet:
the test says in the pods' statuses what one would, and what their probes report (``fleet``). tests/unit has every other
flow, in memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cluster_api import copied
from detinf_cluster.control_plane import ControlPlane
from fleet import Fleet
from interrupted import Done, Interrupted, KilledError, is_part_of

from detinf.api import names
from detinf.cluster.adapter import KubernetesApi, load_configuration
from detinf.cluster.port import (
    CONFIG_MAP,
    EVENT,
    POD,
    POD_DISRUPTION_BUDGET,
    RESOURCE,
    SERVICE,
    STATEFUL_SET,
    Kind,
    Manifest,
)
from detinf.controller.events import REPORTING_CONTROLLER
from detinf.controller.exported import Exported
from detinf.controller.reconcile import Reconciler
from detinf.controller.settings import OperatorSettings

pytestmark = pytest.mark.cluster

SETTINGS = OperatorSettings(probe_image="probe:1", default_profile="simulated")
EXPORTED = Exported()
CHILDREN = (STATEFUL_SET, SERVICE, CONFIG_MAP, POD_DISRUPTION_BUDGET, POD)
AT_ONCE = 6
MOST_PASSES = 40
VERBS = {"get", "list", "apply", "create", "delete", "apply-status"}
"""Kinds of calls after which a controller has to be killed, or the enumeration has no force."""


class Killer:
    """Kills a controller when the answer to its call of a number has come; the dead neither ask nor hear."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.count = 0
        self.when = ""

    def before(self, _what: str) -> None:
        if self.when:
            raise KilledError

    def after(self, what: str) -> None:
        self.before(what)
        self.count += 1
        if self.count == self.at:
            self.when = f"after call {self.count}, {what}"
            raise KilledError


class Run:
    """One resource from nothing to Ready."""

    def __init__(self, user: KubernetesApi, controller: KubernetesApi, namespace: str, at: int | None) -> None:
        self.user, self.controller = user, controller
        self.namespace, self.name = namespace, f"k{at or 0}"
        self.first = Killer(at)
        """The first controller's; those after it live on."""
        self.fleet = Fleet()
        self.done = Done()
        self.end: dict[str, Any] = {}

    async def live(self, killer: Killer) -> bool:
        """Be a controller that remembers nothing, for one pass; return whether it asked for a change."""
        changes: list[str] = []

        def before(what: str) -> None:
            killer.before(what)
            if not what.startswith(("get ", "list ")):
                changes.append(what)

        port = Interrupted(self.controller, self.done, before, killer.after)
        reconciler = Reconciler(port, self.fleet, SETTINGS, EXPORTED, instance="test")
        await reconciler.reconcile((self.namespace, self.name))
        return bool(changes)

    async def listed(self, kind: Kind) -> list[Manifest]:
        return await self.user.list(kind, namespace=self.namespace, labels=names.selector(self.name))

    async def rest(self) -> None:
        """Wait for the pods of the StatefulSets that are there, and be their kubelets and probes."""
        sets = {f"{item['metadata']['name']}-0" for item in await self.listed(STATEFUL_SET)}
        async with asyncio.timeout(120):
            while {pod["metadata"]["name"] for pod in await self.listed(POD)} != sets:
                await asyncio.sleep(0.1)  # the StatefulSets' own controller is at it
        self.fleet.now = time.time()
        for item in [*await self.listed(CONFIG_MAP), *await self.listed(POD)]:
            self.fleet.api.objects[item["kind"], self.namespace, item["metadata"]["name"]] = item
        for pod in self.fleet.pods():
            before = copied(pod["status"])
            if "podIP" not in before:
                pod["status"] |= self.fleet.started()
            self.fleet.live(pod)
            if pod["status"] != before:
                path = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}/status"
                body = {"status": pod["status"]}
                await self.user._request("PATCH", path, body=body, content="application/merge-patch+json")

    async def to_the_end(self) -> Run:
        """Make the resource; look until it is Ready and a look writes nothing."""
        await self.user.apply(resource(self.namespace, self.name))
        killer = self.first
        for _ in range(MOST_PASSES):
            try:
                wrote = await self.live(killer)
            except KilledError:
                killer, wrote = Killer(None), True
            await self.rest()
            found = await self.user.get(RESOURCE, self.namespace, self.name)
            assert found is not None
            said = found["status"].get("conditions", [])
            is_ready = any(item["type"] == "Ready" and item["status"] == "True" for item in said)
            if is_ready and not wrote:
                self.end = await self.seen(found)
                return self
        raise AssertionError(f"{self.first.when or self.name} does not become Ready")

    async def seen(self, found: Manifest) -> dict[str, Any]:
        """Return what the end comes to, without times and uids, and with no name of this run."""
        children = [item for kind in CHILDREN for item in await self.listed(kind)]
        uid = found["metadata"]["uid"]
        events = await self.user.list(EVENT, namespace=self.namespace, fields={"regarding.uid": uid})
        return {
            "children": sorted((item["kind"], item["metadata"]["name"].removeprefix(self.name)) for item in children),
            "conditions": {item["type"]: (item["status"], item["reason"]) for item in found["status"]["conditions"]},
            "states": [item["state"] for item in found["status"]["replicaStates"]],
            "events": sorted(item["reason"] for item in events if item["reportingController"] == REPORTING_CONTROLLER),
        }


def resource(namespace: str, name: str) -> Manifest:
    source = {"persistentVolumeClaim": {"claimName": "models", "path": "m"}}
    # No scheduler answers to that name, so that nobody but the test writes to the pods' statuses.
    spec = {"model": {"source": source}, "replicas": 1, "scheduling": {"schedulerName": "the-test"}}
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": names.API_VERSION, "kind": names.KIND, "metadata": metadata, "spec": spec}


@pytest.fixture
async def ports(control_plane: ControlPlane, account_kubeconfig: Path) -> AsyncIterator[list[KubernetesApi]]:
    """The administrator's way to the API server, and the one of the chart's account."""
    files = [str(path) for path in (control_plane.kubeconfig, account_kubeconfig)]
    user, controller = [KubernetesApi(await load_configuration(path)) for path in files]
    async with user, controller:
        yield [user, controller]


async def test_controller_killed_after_any_call_to_the_api_server_comes_to_the_same_end(
    ports: list[KubernetesApi], definition: str, namespace: str
) -> None:
    assert definition
    expected = await Run(*ports, namespace, None).to_the_end()
    assert expected.end["conditions"]["Ready"][0] == "True"
    assert {"Ready", "RevisionQualified"} <= set(expected.end["events"])
    assert len(expected.end["events"]) == len(set(expected.end["events"]))
    flips = expected.done.flips()
    runs: list[Run] = []
    while not runs or all(run.first.when for run in runs[-AT_ONCE:]):  # until a run is over before its kill
        some = [Run(*ports, namespace, len(runs) + number) for number in range(1, AT_ONCE + 1)]
        runs += await asyncio.gather(*(run.to_the_end() for run in some))
    for run in runs:
        assert run.end == expected.end, run.first.when
        uids = [uid for _, _, uid in run.done.deleted]
        assert len(uids) == len(set(uids)), f"{run.first.when}: deleted twice"
        assert len(run.done.created) == len(set(run.done.created)), f"{run.first.when}: created twice"
        for condition, said in run.done.flips().items():
            assert is_part_of(said, flips[condition]), f"{run.first.when}: {condition} went {said}"
    assert {run.first.when.split(", ")[-1].split()[0] for run in runs if run.first.when} >= VERBS
