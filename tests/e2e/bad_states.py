"""The states and strikes of tests/fakes/matrix.py, built for real: by the names that they have there.

What a cluster of one node cannot do faithfully:

- *a node dies*: its pod's object is deleted by force, which is what an operator of a lost node does in the end; the
  kubelet that still runs ends the containers.
- *a probe dies*: its process is killed, and the kubelet starts it again at once; in memory it stays away.
- *starting*: replica 2 is made anew by the deletion of its pod, not of its StatefulSet.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from bad_scene import TOLD_SECONDS, BadScene, condition_of, is_serving, processes, read
from kubectl import KubectlError
from scenario import KILL_ENGINE, NAME, restarts

REPLICAS = 3
WRONG = 1
STOPPED_SECONDS, RUNNING_SECONDS = 0.5, 0.3
"""The API server's turns where it is slow."""
SERVER_FIELDS = ("uid", "resourceVersion", "creationTimestamp", "managedFields", "generation")


# States --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def settled(_scene: BadScene) -> Iterator[None]:
    """All serve."""
    yield


def delete_pods(scene: BadScene, *indices: int) -> None:
    names = [f"{NAME}-{index}-0" for index in indices]
    scene.kubectl("delete", "pods", *names, "--grace-period=1", "--wait=true", "--ignore-not-found")


@contextlib.contextmanager
def starting(scene: BadScene) -> Iterator[None]:
    """Replica 2 was just made."""
    delete_pods(scene, 2)
    scene.story.wait("its pod", lambda: "yes" if f"{NAME}-2-0" in scene.pods() else None, seconds=60, every=0.2)
    yield


@contextlib.contextmanager
def gating(scene: BadScene) -> Iterator[None]:
    """Replica 2 restarted, and is on its way to its gate."""
    kill_engine(scene, 2)
    yield


@contextlib.contextmanager
def rolling_out(scene: BadScene) -> Iterator[None]:
    """A change of the plan has begun: the first replica makes way, which is the one of the highest number."""
    now = scene.resource()["spec"]["model"].get("maxModelLen")
    scene.patch({"model": {"maxModelLen": 4096 if now != 4096 else 8192}})

    def leaving() -> str | None:
        return "yes" if "Draining" in {item["state"] for item in scene.status()["replicaStates"]} else None

    scene.story.wait("a replica to make way", leaving, seconds=TOLD_SECONDS, every=0.2)
    yield
    delete_pods(scene, *range(REPLICAS))  # the rest of the roll-out without its drains


@contextlib.contextmanager
def scaling(scene: BadScene) -> Iterator[None]:
    """A fourth replica is on its way."""
    scene.patch({"replicas": REPLICAS + 1})
    scene.story.wait("its pod", lambda: "yes" if scene.pod(3) else None, seconds=60, every=0.2)
    yield


def scaled_back(scene: BadScene) -> None:
    """Have the fourth replica away again: the worst goes, and that is to be none of the first three."""
    if scene.resource()["spec"]["replicas"] > REPLICAS:
        scene.until_ready()
        scene.patch({"replicas": REPLICAS})
        delete_pods(scene, REPLICAS)


@contextlib.contextmanager
def invalid_spec(scene: BadScene) -> Iterator[None]:
    """A typing error stands in the spec."""
    scene.patch({"engine": {"extraArgs": ["--seed", "1"]}})
    scene.says("SpecValid", "False", "InvalidSpec")
    yield
    scene.patch({"engine": {"extraArgs": None}})


@contextlib.contextmanager
def child_refused(scene: BadScene) -> Iterator[None]:
    """A hand made the Service unappliable; its selector is what it was, so that its endpoints can be looked at."""
    scene.edit_service()
    scene.says("Degraded", "True", "ChildRefused")
    yield
    scene.kubectl("delete", "service", NAME)


@contextlib.contextmanager
def quota_full(scene: BadScene) -> Iterator[None]:
    """No ConfigMap can be made."""
    with scene.full_quota():
        yield


@contextlib.contextmanager
def controller_restarting(scene: BadScene) -> Iterator[None]:
    """The controller's pod was just deleted."""
    labels = "app.kubernetes.io/component=controller"
    scene.operator("delete", "pods", "-l", labels, "--grace-period=1", "--wait=false")
    yield
    scene.operator("rollout", "status", "deployment", "--timeout=120s", timeout=150)


@contextlib.contextmanager
def upgrade_failing(scene: BadScene) -> Iterator[None]:
    """A controller whose settings are not there crashes again and again, beside the one that it is to replace."""
    (deployment,) = scene.operator.objects("deployments", "app.kubernetes.io/part-of=detinf")
    name, running = deployment["metadata"]["name"], controllers(scene)
    bad = {
        "op": "replace",
        "path": "/spec/template/spec/containers/0/args/0",
        "value": "--config=/etc/detinf/none.yaml",
    }
    scene.operator("patch", "deployment", name, "--type=json", "--patch", json.dumps([bad]))

    def crashed() -> str | None:
        statuses = [
            item
            for uid, pod in controllers(scene).items()
            if uid not in running
            for item in pod.get("status", {}).get("containerStatuses", [])
        ]
        return "yes" if any(item["restartCount"] or item["state"].get("terminated") for item in statuses) else None

    try:
        scene.story.wait("the next controller to crash", crashed, seconds=TOLD_SECONDS)
        assert set(running) <= set(controllers(scene)), "the one that works was ended"
        yield
        assert set(running) <= set(controllers(scene)), "the one that works was ended"
    finally:
        scene.operator("rollout", "undo", f"deployment/{name}")


def controllers(scene: BadScene) -> dict[str, dict[str, Any]]:
    """Return the controller's pods that are not about to end, by their uids."""
    found = scene.operator.objects("pods", "app.kubernetes.io/part-of=detinf")
    return {pod["metadata"]["uid"]: pod for pod in found if "deletionTimestamp" not in pod["metadata"]}


@contextlib.contextmanager
def api_server_slow(scene: BadScene) -> Iterator[None]:
    """The API server is stopped for half a second again and again; it runs on at the end, whatever happens."""
    program = f"{scene.kubectl.kubeconfig.parent}/control/bin/kube-apiserver"
    (server,) = [item for item in processes() if read(item, "cmdline").startswith(program)]
    over = threading.Event()

    def take_turns() -> None:
        try:
            while not over.wait(RUNNING_SECONDS):
                os.kill(server, signal.SIGSTOP)
                over.wait(STOPPED_SECONDS)
                os.kill(server, signal.SIGCONT)
        finally:
            os.kill(server, signal.SIGCONT)

    thread = threading.Thread(target=take_turns)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def replica_isolated(scene: BadScene) -> Iterator[None]:
    """Replica 0 diverged before, and drains."""
    uid = scene.uid(0)
    scene.fault(0)
    scene.until_isolated(0, uid)
    yield


@contextlib.contextmanager
def baseline_missing(scene: BadScene) -> Iterator[None]:
    """Somebody deleted the baselines' records and the delivery; a backup of the records comes back in the end."""
    records = scene.records("baseline")
    names = [item["metadata"]["name"] for item in records]
    scene.kubectl("delete", "configmaps", *names, f"{NAME}-baselines")
    scene.story.wait("the status to see it", lambda: None if is_ready_still(scene) else "yes", seconds=TOLD_SECONDS)
    yield
    for item in records:
        kept = {key: value for key, value in item["metadata"].items() if key not in SERVER_FIELDS}
        backup = {"apiVersion": "v1", "kind": "ConfigMap"} | item | {"metadata": kept}
        with contextlib.suppress(KubectlError):  # it was made again already
            scene.kubectl("create", "-f", "-", stdin=json.dumps(backup))


def is_ready_still(scene: BadScene) -> bool:
    return condition_of(scene.status(), "Qualified").get("status") == "True"


STATES: dict[str, Callable[[BadScene], AbstractContextManager[None]]] = {
    "settled": settled,
    "starting": starting,
    "gating": gating,
    "rolling out": rolling_out,
    "scaling": scaling,
    "invalid spec": invalid_spec,
    "child refused": child_refused,
    "quota full": quota_full,
    "controller restarting": controller_restarting,
    "controller's upgrade failing": upgrade_failing,
    "API server slow": api_server_slow,
    "replica isolated": replica_isolated,
    "baseline missing": baseline_missing,
}
"""All but *qualifying*, which needs a node of another driver."""
UNRECORDED = {"quota full"}


# Strikes -------------------------------------------------------------------------------------------------------------


@dataclass
class Struck:
    """Who answers wrong since."""

    wrong: dict[int, tuple[str, str | None]] = field(default_factory=dict)
    """Replicas that served then, with the uids of their pods and their boots."""
    gated: str | None = None
    """The pod, by its uid, of a replica that is wrong and must not pass its gate."""


def kill_engine(scene: BadScene, index: int) -> None:
    """Kill an engine; its container is started again."""
    scene.in_engine(index, "python3", "-c", KILL_ENGINE).communicate(timeout=60)


def strike_those_that_serve(scene: BadScene, *indices: int) -> Struck:
    serving = [index for index in indices if is_serving(scene.pod(index))]
    struck = Struck({index: (scene.uid(index), scene.boot(index)) for index in serving})
    scene.fault(*serving)
    return struck


def one(scene: BadScene) -> Struck:
    """Replica 1 answers wrong."""
    return strike_those_that_serve(scene, WRONG)


def everybody(scene: BadScene) -> Struck:
    """All that serve answer wrong since the same moment; who starts later is right."""
    return strike_those_that_serve(scene, *range(REPLICAS))


def while_starting(scene: BadScene) -> Struck:
    """Replica 1 restarts, and is wrong from its beginning."""
    pod = scene.pod(WRONG)
    uid, before = pod["metadata"]["uid"], restarts(pod)
    kill_engine(scene, WRONG)

    def wrong() -> str | None:
        now = scene.pod(WRONG)
        if now.get("metadata", {}).get("uid") != uid or "deletionTimestamp" in now["metadata"]:
            return "it is replaced already"
        if restarts(now) == before:
            return None
        process = scene.in_engine(WRONG, "python3", "-m", "detinf_sim", "faults", "set", "F20")
        process.communicate(timeout=60)
        return None if process.returncode else "yes"

    said = scene.story.wait("the new engine to take the fault", wrong, seconds=TOLD_SECONDS, every=0.1)
    return Struck(gated=uid if said == "yes" else "")


def engine_dies(scene: BadScene) -> Struck:
    """Replica 1 answers wrong, and the engine of replica 0 dies."""
    struck = one(scene)
    kill_engine(scene, 0)
    return struck


def probe_dies(scene: BadScene) -> Struck:
    """Replica 1 answers wrong, and the probe of replica 0 is killed."""
    struck = one(scene)
    scene.kill_probe(0)
    return struck


def node_dies(scene: BadScene) -> Struck:
    """Replica 1 answers wrong, and the pod of replica 0 is deleted by force."""
    struck = one(scene)
    scene.kubectl("delete", "pod", f"{NAME}-0-0", "--force", "--grace-period=0", "--ignore-not-found")
    return struck


STRIKES: dict[str, Callable[[BadScene], Struck]] = {
    "one replica": one,
    "all": everybody,
    "while starting": while_starting,
    "an engine dies": engine_dies,
    "a probe dies": probe_dies,
    "a node dies": node_dies,
}
